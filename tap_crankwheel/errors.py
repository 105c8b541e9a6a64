"""Every error of the tap's own."""

from __future__ import annotations

import logging
from typing import IO, Any

import click
from typing_extensions import override


class CrankWheelError(click.ClickException):
    """Ends a run with one line that says what is wrong and what to do, and without a traceback."""

    @override
    def show(self, file: IO[Any] | None = None) -> None:
        """Log the message, so that Meltano and log files see an error."""
        logging.getLogger("tap-crankwheel").error(self.message)


class RangeRefusedError(CrankWheelError):
    """The API does not answer for a range of time, but may answer for a shorter one."""


class NoAccessError(CrankWheelError):
    """The key may not read a path, or the account does not have it."""


class FailedAttemptError(Exception):
    """One attempt at a request failed in a way that another attempt may mend.

    Args:
        reason: What happened, without any text of the answer.
        wait: How long the API asks to wait, in seconds; None if it does not say.
        rate_limited: Whether the other requests have to wait as well.
        slow: Whether a shorter range may help.
        unreachable: Whether nothing answers at all.
    """

    def __init__(
        self,
        reason: str,
        *,
        wait: float | None = None,
        rate_limited: bool = False,
        slow: bool = False,
        unreachable: bool = False,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.wait = wait
        self.rate_limited = rate_limited
        self.slow = slow
        self.unreachable = unreachable


class NotJSONError(ValueError):
    """An answer is not JSON."""


class ShapeError(ValueError):
    """An answer, or an item in it, does not have the shape that the tap knows.

    Args:
        message: What is wrong, without any value of the answer.
        path: The path that was requested, where it is not the stream's own.
        missing: Whether something is not there at all, which another endpoint may have.
    """

    def __init__(self, message: str, *, path: str | None = None, missing: bool = False) -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path
        self.missing = missing
