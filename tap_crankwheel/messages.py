"""Messages: how they are written to standard output."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.singerlib import RecordMessage
from typing_extensions import override

from tap_crankwheel.client import CrankWheelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from singer_sdk.singerlib import Message


class MessageWriter(MsgSpecWriter):
    """Writes messages with msgspec, whole, and passes them on at every one that is no record.

    The SDK's own writer flushes each record, a system call a record.
    """

    def __init__(self) -> None:
        super().__init__()
        self._writing = False
        self._next: Callable[[], object] | None = None

    @override
    def write_message(self, message: Message) -> None:
        self._writing = True
        try:
            sys.stdout.buffer.write(self.format_message(message))
            if not isinstance(message, RecordMessage):
                sys.stdout.flush()
        except OSError as error:
            # What is left in the buffer would fail again when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            msg = f"The output cannot be written to ({error.strerror}): see what the target says."
            raise CrankWheelError(msg) from None
        self._writing = False
        if self._next:
            act, self._next = self._next, None
            act()

    def between_messages(self, act: Callable[[], object]) -> None:
        """Do something now, or if a message is being written, right after it."""
        if self._writing:
            self._next = act
        else:
            act()
