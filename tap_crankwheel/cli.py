"""The command line: one-line errors, whole messages, and a clean end on a signal."""

from __future__ import annotations

import contextlib
import fnmatch
import io
import json
import os
import re
import sys
import traceback
from typing import TYPE_CHECKING, Any

import click
from singer_sdk import Tap, mapper
from singer_sdk.exceptions import ConfigurationError, MappingError
from singer_sdk.singerlib import Catalog
from singer_sdk.tap_base import CliTestOptionValue
from typing_extensions import override

from tap_crankwheel.errors import CrankWheelError
from tap_crankwheel.messages import MessageWriter, buffer_stdout
from tap_crankwheel.settings import Settings, read_settings, unknown_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


class CommandLineTap(Tap):
    """A tap that ends with one line on invalid settings, files and stream maps.

    On a signal it finishes the message that it writes, and ends.

    Attributes:
        settings: The settings, read once.
    """

    message_writer_class = MessageWriter
    message_writer: MessageWriter

    settings: Settings

    def __init__(self, *, config: Any = None, **kwargs: Any) -> None:  # noqa: ANN401 - the SDK's
        """Take the SDK's arguments; raise CrankWheelError for invalid settings."""
        self._parse_env_config = bool(kwargs.get("parse_env_config"))
        if isinstance(config, dict):  # a setting that is null is not set
            config = {name: value for name, value in config.items() if value is not None}
        try:
            super().__init__(config=config, **kwargs)
        except (ConfigurationError, MappingError) as error:
            raise CrankWheelError(" ".join(getattr(error, "errors", [str(error)]))) from None
        except ValueError:
            raise CrankWheelError(
                "A setting in the environment cannot be read: numbers are written as 7, lists and "
                'objects as JSON, such as ["shoesize"].',
            ) from None

    @override
    def setup_mapper(self) -> None:
        self._check_stream_maps()
        try:
            super().setup_mapper()
        except ValueError as error:  # two flattened columns of one name
            raise CrankWheelError(f"flattening: {error}.") from None

    def _check_stream_maps(self) -> None:
        """Refuse maps of what does not exist: what they should hide would be emitted."""
        for alias, fields in self.config.get("stream_maps", {}).items():
            if alias.startswith("__"):
                continue
            source = fields.get("__source__", alias) if isinstance(fields, dict) else alias
            found = fnmatch.filter(self.streams, str(source))
            if not found:
                raise CrankWheelError(
                    f"stream_maps: there is no stream {source}. There are "
                    f"{', '.join(self.streams)}."
                )
            for name, value in fields.items() if isinstance(fields, dict) else ():
                known = any(name in self.streams[stream].schema["properties"] for stream in found)
                if value in (None, "__NULL__") and not (known or name.startswith("__")):
                    raise CrankWheelError(
                        f"stream_maps: {source} has no field {name} to leave out."
                    )

    @override
    def _validate_config(self, *, raise_errors: bool = True) -> list[str]:
        _check_else(self.config.get("stream_maps"))
        # Private: the SDK has no public hook for checks beyond the JSON schema, and its own
        # messages hold the values, one of which may be the key in the wrong place.
        super()._validate_config(raise_errors=False)
        self.settings, errors = read_settings(dict(self.config), self.config_jsonschema)
        written = {name: name for name in self.config}
        if self._parse_env_config:
            prefix = f"{self.name.upper().replace('-', '_')}_"
            written |= {
                variable.removeprefix(prefix).lower(): variable
                for variable in os.environ
                # The SDK's own, Meltano's, which begin with two underscores, and the sandbox's.
                if re.fullmatch(rf"{prefix}(?!LOGLEVEL|SANDBOX_|_)\w+", variable)
            }
        for line in unknown_settings(written, self.config_jsonschema):
            self.logger.warning(line)
        if errors and raise_errors:
            raise CrankWheelError("\n".join(errors))
        return errors

    @override
    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        # Private: the SDK has no public hook. Its own handler raises SystemExit wherever the run
        # is: in the middle of a message, of which half would remain, or in a finalizer, where the
        # exception is lost.
        self.message_writer.between_messages(self._end)

    def _end(self) -> None:
        self.state_writer.write_state(self.state)
        sys.stdout.flush()  # a record may be half written
        self.logger.info("Ended by a signal; the next run continues from the last state.")
        for stream in self.streams.values():
            stream.log_sync_costs()
        os._exit(0)  # at once, with the status of the SDK's own handler

    @classmethod
    @override
    def cb_config(cls, ctx: click.Context, param: click.Option, value: tuple[str, ...]) -> Any:
        with _file_errors("--config"):
            return super().cb_config(ctx, param, value)

    @classmethod
    @override
    def invoke(cls, **kwargs: Any) -> None:
        for option in ("state", "catalog"):
            if file := kwargs.get(option):
                with _file_errors(f"--{option}"):
                    text = file.read()
                    document = json.loads(text)
                    if not isinstance(document, dict):
                        raise TypeError
                    if option == "catalog":
                        Catalog.from_dict(document)
                    kwargs[option] = io.StringIO(text)  # a pipe cannot be read again
        buffer_stdout()
        with _mapping_errors():
            super().invoke(**kwargs)

    @classmethod
    @override
    def cb_test(cls, ctx: click.Context, param: click.Option, value: str) -> None:
        if value == CliTestOptionValue.Disabled.value:
            return
        with _mapping_errors():
            try:
                super().cb_test(ctx, param, value)
            except click.exceptions.Exit:
                streams = "schemas" if value == CliTestOptionValue.Schema.value else "all streams"
                cls.logger.info("Test passed (%s).", streams)
                raise


def _check_else(maps: object) -> None:
    """Refuse an `__else__` that the SDK does not know: its validator fails on one."""
    places = [maps, *maps.values()] if isinstance(maps, dict) else []
    if any(isinstance(p, dict) and p.get("__else__") not in (None, "__NULL__") for p in places):
        raise CrankWheelError(
            "stream_maps: __else__ can only be null, which leaves out what is not mapped (in "
            "Meltano __NULL__). Set it to that, or remove it."
        )


@contextlib.contextmanager
def _mapping_errors() -> Iterator[None]:
    """Turn a failing stream map into one line; the text of its exception may hold personal data."""
    try:
        yield
    except MappingError as error:
        raise CrankWheelError(f"stream_maps: {error}") from None
    except RecursionError:
        raise CrankWheelError(
            "The API's answer holds something that is too deeply nested to be written.",
        ) from None
    except Exception as error:
        files = {frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__)}
        if mapper.__file__ not in files:
            raise
        raise CrankWheelError(
            f"stream_maps: an expression fails for a record ({type(error).__name__}): perhaps a "
            "field in it is null.",
        ) from None


@contextlib.contextmanager
def _file_errors(option: str) -> Iterator[None]:
    """Turn an unreadable file of JSON into one line that names its option."""
    try:
        yield
    except (AttributeError, KeyError, OSError, RecursionError, TypeError, ValueError) as error:
        reason = (
            str(error).rstrip(".")
            if isinstance(error, OSError)
            else "it is not the JSON it should be"
        )
        raise CrankWheelError(f"{option} cannot be read: {reason}.") from None
