"""Messages: how they are written to standard output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.singerlib import RecordMessage
from typing_extensions import override

if TYPE_CHECKING:
    from singer_sdk.singerlib import Message


class MessageWriter(MsgSpecWriter):
    """Writes messages with msgspec, and passes them on at every message that is no record.

    The SDK's own writer flushes each record, a system call a record.
    """

    @override
    def write_message(self, message: Message) -> None:
        sys.stdout.buffer.write(self.format_message(message))
        if not isinstance(message, RecordMessage):
            sys.stdout.flush()
