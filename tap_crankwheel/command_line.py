"""The command line: what a user does wrong ends a run in one line that says what to do."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, cast

import click
from singer_sdk import Tap, mapper
from singer_sdk.exceptions import ConfigurationError, MappingError
from singer_sdk.singerlib import Catalog
from singer_sdk.tap_base import CliTestOptionValue
from singer_sdk.typing import DEFAULT_JSONSCHEMA_VALIDATOR
from typing_extensions import override

from tap_crankwheel.client import CrankWheelError, Traffic
from tap_crankwheel.messages import MessageWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

    from jsonschema import ValidationError


class CommandLineTap(Tap):
    """A tap that ends in one line on bad settings, files and stream maps, and whole on a signal."""

    message_writer_class = MessageWriter

    def __init__(self, *, config: Any = None, **kwargs: Any) -> None:  # noqa: ANN401 - the SDK's
        """Take the SDK's arguments; raise CrankWheelError for settings that cannot be right."""
        self.traffic = Traffic()
        if isinstance(config, dict):  # a setting that is null is one that is not set
            config = {name: value for name, value in config.items() if value is not None}
        try:
            super().__init__(config=config, **kwargs)
        except (ConfigurationError, MappingError) as error:
            raise CrankWheelError(" ".join(getattr(error, "errors", [str(error)]))) from None
        except ValueError:
            msg = (
                "A setting in the environment cannot be read: numbers are written as 7, lists and "
                'objects as JSON, such as ["shoesize"].'
            )
            raise CrankWheelError(msg) from None

    @abstractmethod
    def setting_errors(self) -> Iterable[str]:
        """Return what is wrong with settings that have the right types, a line for each."""

    @override
    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        # Private, since the SDK has no public hook for checks beyond the JSON schema; and its own
        # messages hold the values, one of which may be the key, put in the wrong place.
        super()._validate_config(raise_errors=False)
        validator = DEFAULT_JSONSCHEMA_VALIDATOR(self.config_jsonschema)
        errors = [_misfit(error) for error in validator.iter_errors(self._config) if error.path]
        errors += () if errors else self.setting_errors()
        if errors and raise_errors:
            raise CrankWheelError("\n".join(errors))
        return errors

    @override
    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        # Private, for want of a hook. The SDK's own writes the state and raises SystemExit wherever
        # the run is: in the middle of a message, of which a half would remain, or in a finalizer,
        # where an exception is lost.
        cast("MessageWriter", self.message_writer).between_messages(self._end)

    def _end(self) -> None:
        self.state_writer.write_state(self.state)
        sys.stdout.flush()  # of a record, a part may be written already
        self.logger.info("Ended by a signal; the next run goes on from the last state.")
        self.logger.info("%s", self.traffic)
        os._exit(0)  # with nothing left to do, and the status that the SDK gives

    @classmethod
    @override
    def cb_config(cls, ctx: click.Context, param: click.Option, value: tuple[str, ...]) -> Any:
        with _readable("--config"):
            return super().cb_config(ctx, param, value)

    @classmethod
    @override
    def invoke(cls, **kwargs: Any) -> None:
        for option in ("state", "catalog"):
            if file := kwargs.get(option):
                with _readable(f"--{option}"):
                    text = file.read()
                    document = json.loads(text)
                    if not isinstance(document, dict):
                        raise TypeError
                    if option == "catalog":
                        Catalog.from_dict(document)
                    kwargs[option] = io.StringIO(text)  # a pipe cannot be read again
        with _mapped():
            super().invoke(**kwargs)

    @classmethod
    @override
    def cb_test(cls, ctx: click.Context, param: click.Option, value: str) -> None:
        if value == CliTestOptionValue.Disabled.value:
            return
        with _mapped():
            try:
                super().cb_test(ctx, param, value)
            except click.exceptions.Exit:
                cls.logger.info("The test is passed: %s.", value)
                raise


def _misfit(error: ValidationError) -> str:
    """Say what a setting has to be, without what it is."""
    value = error.validator_value
    listed = ", ".join(v for v in value if v != "null") if isinstance(value, list) else value
    rule = {
        "enum": f"one of {listed}",
        "maximum": f"at most {value}",
        "minimum": f"at least {value}",
        "type": f"of type {listed}",
    }.get(str(error.validator), f"as --about says ({error.validator})")
    return f"{error.path[0]} has to be {rule}."


@contextlib.contextmanager
def _mapped() -> Iterator[None]:
    """Turn what goes wrong in a stream map into one line."""
    try:
        yield
    except MappingError as error:
        msg = f"stream_maps: {error}"
        raise CrankWheelError(msg) from None
    except RecursionError:
        msg = "The API's answer holds something that is nested too deeply to be written."
        raise CrankWheelError(msg) from None
    except Exception as error:
        # Whatever an expression does to a record; the text of it may hold the record's values. Only
        # the SDK's own frame knows which expression it was.
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_code.co_filename == mapper.__file__ and "expr" in frame.f_locals:
                msg = (
                    f"stream_maps: {frame.f_locals['expr']!r} fails for a record "
                    f"({type(error).__name__}): perhaps a field in it is null."
                )
                raise CrankWheelError(msg) from None
        raise


@contextlib.contextmanager
def _readable(option: str) -> Iterator[None]:
    """Turn what goes wrong in reading a file of JSON into one line that names its option."""
    try:
        yield
    except (AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, OSError) else "it is not the JSON it should be"
        msg = f"{option} cannot be read: {reason}."
        raise CrankWheelError(msg) from None
