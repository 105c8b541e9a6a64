"""Messages: when they are written to standard output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.singerlib import ActivateVersionMessage, RecordMessage
from typing_extensions import override

if TYPE_CHECKING:
    from singer_sdk.singerlib import Message


class MessageWriter(MsgSpecWriter):
    """Writes messages with msgspec, and flushes after every message but records.

    The SDK's own writer flushes each record: a system call a record. Versions are held back until
    `activate_versions`, since the SDK writes ACTIVATE_VERSION before the first request: a list that
    then fails to arrive would mark all its rows as deleted, and some targets add no row later.
    """

    def __init__(self) -> None:
        super().__init__()
        self._versions: list[ActivateVersionMessage] = []

    @override
    def write_message(self, message: Message) -> None:
        if isinstance(message, ActivateVersionMessage):
            self._versions.append(message)
        elif isinstance(message, RecordMessage):
            sys.stdout.buffer.write(self.format_message(message))
        else:
            super().write_message(message)

    def activate_versions(self) -> None:
        """Write the versions that were held back."""
        while self._versions:
            super().write_message(self._versions.pop(0))
