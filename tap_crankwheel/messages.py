"""Messages: how they are written to standard output."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.singerlib import ActivateVersionMessage, RecordMessage
from typing_extensions import override

from tap_crankwheel.errors import CrankWheelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from singer_sdk.singerlib import Message


def buffer_stdout() -> None:
    """Give standard output the buffer that PYTHONUNBUFFERED takes from it, as images often do.

    Without one, each record is a system call, and a signal may leave half of it written.
    """
    raw = sys.stdout and sys.stdout.buffer
    if isinstance(raw, io.RawIOBase):
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(raw), encoding="utf-8")


class MessageWriter(MsgSpecWriter):
    """Writes messages with msgspec, whole, and flushes after every message but records.

    The SDK's own writer flushes each record: a system call a record. Versions are held back until
    `activate_versions`, since the SDK writes ACTIVATE_VERSION before the first request: a list that
    then fails to arrive would mark all its rows as deleted, and some targets add no row later.
    """

    def __init__(self) -> None:
        super().__init__()
        self._versions: list[ActivateVersionMessage] = []
        self._writing = False
        self._deferred: Callable[[], object] | None = None

    @override
    def write_message(self, message: Message) -> None:
        if isinstance(message, ActivateVersionMessage):
            self._versions.append(message)
        else:
            self._write(message)

    def activate_versions(self) -> None:
        """Write the versions that were held back."""
        versions, self._versions = self._versions, []
        for message in versions:
            self._write(message)

    def between_messages(self, act: Callable[[], object]) -> None:
        """Do something now, or if a message is being written, right after it."""
        if self._writing:
            self._deferred = act
        else:
            act()

    def _write(self, message: Message) -> None:
        self._writing = True
        if sys.stdout is None:
            raise CrankWheelError("There is no standard output to write to.")
        try:
            sys.stdout.buffer.write(self.format_message(message))
            if not isinstance(message, RecordMessage):
                sys.stdout.flush()
        except OSError as error:
            # What is left in the buffer would fail again when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise CrankWheelError(
                f"The output cannot be written to ({error.strerror}): see what the target says.",
            ) from None
        self._writing = False
        if self._deferred:
            act, self._deferred = self._deferred, None
            act()
