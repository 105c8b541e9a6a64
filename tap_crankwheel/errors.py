"""All errors of the tap."""

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
    """The API refuses a range of time, but may accept a shorter one."""


class InvalidPayloadError(ValueError):
    """A response, or an item in it, does not have the form that the tap knows.

    Args:
        message: What is wrong, without any value of the response.
        advice: What to do.
    """

    def __init__(self, message: str, advice: str = "check api_url, and run again") -> None:
        super().__init__(message)
        self.advice = advice
