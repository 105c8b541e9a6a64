"""The tap: its settings, errors of one line, and its list of streams."""

from __future__ import annotations

import contextlib
import difflib
import errno
import fnmatch
import os
import re
import time
import traceback
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import click
from singer_sdk import Tap
from singer_sdk.exceptions import ConfigurationError, MappingError
from singer_sdk.helpers.capabilities import PluginCapabilities
from typing_extensions import override

from tap_crankwheel.client import RunContext
from tap_crankwheel.errors import CrankWheelError
from tap_crankwheel.history import WindowedStream
from tap_crankwheel.messages import MessageWriter
from tap_crankwheel.settings import CONFIG_SCHEMA, Settings, parse_date, read_settings
from tap_crankwheel.streams import STREAM_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from singer_sdk import Stream

#: What went wrong where a module, a function, or a kind of exception gets through the SDK, the
#: innermost first. The text of an exception may hold personal data, or the key; that of a schema
#: holds names of columns alone. A test provokes each of them with the SDK.
_CAUSES = {
    "singer_sdk.configuration._dict_config": "An environment variable cannot be read: the last one "
    "that the log names. Write a number as 7, a list or an object as JSON.",
    "singer_sdk.contrib.msgspec.write_message": "Standard output cannot be written: it is closed.",
    "jsonschema.validators": "stream_maps: a map does not have the form that --about describes.",
    "singer_sdk.helpers._flattening._flatten_schema": "{error}. Raise flattening_max_key_length, "
    "rename the field of the stream map, or remove the question from custom_questions.",
    "singer_sdk.mapper": "stream_maps: an expression fails for a record ({kind}): perhaps a field "
    "in it is null, or a value of stream_map_config is missing or empty, or a question is not in "
    "custom_questions.",
    "UnicodeDecodeError": "--config, --catalog or --state is not in UTF-8: write it again.",
    "singer_sdk.helpers._util": "--config, --catalog or --state does not name a file that holds a "
    "JSON object.",
    "singer_sdk.singerlib.catalog": "--catalog is not what --discover writes: write it again.",
    "singer_sdk.plugin_base.from_cli_args": "--config cannot be read: it is not a JSON object.",
}

#: How a variable of the environment says true or false; the SDK takes anything else for false.
_BOOLEANS = {"true", "1", "yes", "on", "false", "0", "no", "off"}


class TapCrankWheel(Tap):
    """Singer tap for CrankWheel: screen-sharing sessions, demo requests, statistics and users."""

    name = "tap-crankwheel"
    package_name = "tap-crankwheel"
    config_jsonschema = CONFIG_SCHEMA
    message_writer_class = MessageWriter

    # The SDK writes batch files without selection, stream maps or flattening, so that deselected
    # personal data would be in them.
    capabilities: ClassVar = [c for c in Tap.capabilities if c != PluginCapabilities.BATCH]

    def __init__(self, *, clock: Any = time, **kwargs: Any) -> None:
        """Take a clock for tests, and the SDK's arguments; raise CrankWheelError as `settings`."""
        self._clock = clock
        self._validate = kwargs.pop("validate_config", True)
        self._parse_env_config = bool(kwargs.get("parse_env_config"))
        # The SDK's own messages hold the values, one of which may be the key in the wrong place.
        super().__init__(validate_config=False, **kwargs)

    @property
    @override
    def config(self) -> Mapping[str, Any]:
        """The settings as the user gave them; one that is null, or empty text, has its default."""
        found: dict[str, Any] = {}
        for name, value in super().config.items():
            schema = self.config_jsonschema["properties"].get(name, {})
            if isinstance(value, str) and "string" in schema.get("type", ()):
                value = value.strip() or None  # noqa: PLW2901
            found[name] = schema.get("default") if value is None else value
        return {name: value for name, value in found.items() if value is not None}

    @cached_property
    def settings(self) -> Settings:
        """The settings, read once.

        Raises:
            CrankWheelError: A variable is neither true nor false; or with a line for each setting
                that is invalid, unless the SDK asks for no validation, as it does for discovery.
        """
        self._check_given_names()
        settings, errors = read_settings(self.config)
        if errors and self._validate:
            raise CrankWheelError("\n".join(errors))
        return settings

    def _check_given_names(self) -> None:
        variables: dict[str, str] = {}
        if self._parse_env_config:
            # Not the SDK's own, Meltano's, which begin with two underscores, and the sandbox's.
            variable = rf"{self.name}_(?!loglevel|sandbox_|_)(\w+)".replace("-", "_")
            found = (re.fullmatch(variable, name, re.IGNORECASE) for name in os.environ)
            variables = {match[1].lower(): os.environ[match[0]] for match in found if match}
        self.append_builtin_config(self.config_jsonschema)  # what the SDK offers for every tap
        known = self.config_jsonschema["properties"]
        for name in variables.keys() & known.keys():
            if "boolean" in known[name]["type"] and variables[name].lower() not in _BOOLEANS:
                raise CrankWheelError(f"{name} has to be true or false.")
        for name in sorted((variables.keys() | self.config.keys()) - known.keys()):
            near = difflib.get_close_matches(name, known, n=1)
            meant = f": did you mean {near[0]}?" if near else "."
            self.logger.warning("%s is not a setting of the tap, and is ignored%s", name, meant)

    @override
    def discover_streams(self) -> Sequence[Stream]:
        self.run = RunContext(self.settings, self._clock)
        return [stream_type(self, self.run) for stream_type in STREAM_TYPES]

    @override
    def setup_mapper(self) -> None:
        """Reject stream maps for unknown streams, and removals of unknown fields.

        A typo in a mask would leak data. Reject a catalog that selects nothing, too.
        """
        self._check_selection()
        known = {name: stream.schema["properties"] for name, stream in self.streams.items()}
        for alias, fields in self.config.get("stream_maps", {}).items():
            fields = fields if isinstance(fields, dict) else {}  # noqa: PLW2901
            source = str(fields.get("__source__", alias))
            found = [known[name] for name in fnmatch.filter(known, source)]
            if not found and not alias.startswith("__"):
                raise CrankWheelError(
                    f"stream_maps: there is no stream {source}. The streams are {', '.join(known)}."
                )
            for name, value in fields.items():
                if name.startswith("__") or any(name in properties for properties in found):
                    continue
                if value in (None, "__NULL__"):
                    raise CrankWheelError(f"stream_maps: {source} has no field {name} to remove.")
                self.logger.info("stream_maps: %s gets a new field %s", source, name)
        super().setup_mapper()

    def _check_selection(self) -> None:
        selected = [stream for stream in self.streams.values() if stream.selected]
        if not selected:
            raise CrankWheelError(
                'Nothing is selected: select "*.*" first. Exclusions alone select nothing.'
            )
        fields = ((stream, key) for stream in selected for key in stream.primary_keys)
        keys = [f"{s.name}.{k}" for s, k in fields if s.metadata["properties", k].selected is False]
        if keys:
            advice = "A stream map can hash them; to drop them, deselect the stream."
            self.logger.warning("Keys are sent even if deselected: %s. %s", ", ".join(keys), advice)

    @override
    def load_state(self, state: dict[str, Any]) -> None:
        broken = "bookmarks"
        try:
            for name, bookmark in state["bookmarks"].items() if state else ():
                if name not in self.streams:
                    raise CrankWheelError(f"The state is another tap's: it has a stream {name}.")
                broken = name
                if isinstance(self.streams[name], WindowedStream):
                    broken = f"{name}: {bookmark.get('replication_key_value')!r}"
                    parse_date(bookmark.get("replication_key_value"))
                old = bookmark.pop("usage_endpoint", "usage")  # of an earlier snapshot
                if old not in {"usage", self.settings.usage_endpoint}:
                    said = f"A run read /{old}: set usage_endpoint to {old}, or remove the state."
                    raise CrankWheelError(said)
            super().load_state(state)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise CrankWheelError(
                f'The state is broken ({broken}): its form is {{"bookmarks": {{"users": {{}}}}}}. '
                "Restore it, or remove it to read everything again (--full-refresh in Meltano)."
            ) from None

    @classmethod
    @override
    def get_singer_command(cls) -> click.Command:
        """Return the SDK's command, of which no callback ends in a traceback that a user causes."""
        command = super().get_singer_command()
        owners: list[Any] = [command, *command.params]
        for owner in owners:
            if owner.callback:
                owner.callback = _one_line_errors()(owner.callback)
        return command

    @classmethod
    @override
    def cb_test(cls, ctx: click.Context, param: click.Option, value: str) -> None:
        try:
            super().cb_test(ctx, param, value)
        except click.exceptions.Exit:
            cls.logger.info("Test passed.")
            raise


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn what the SDK raises for a setting, a file or the target's end into one line."""
    try:
        yield
    except (click.ClickException, click.exceptions.Exit):  # one line already, or no error at all
        raise
    except (ConfigurationError, MappingError) as error:
        lines = getattr(error, "errors", [f"stream_maps: {error}"])
        raise CrankWheelError(" ".join(lines)) from None
    except Exception as error:
        if isinstance(error, OSError) and error.errno and not error.filename:  # that of no file
            said = f"Standard output cannot be written: {error.strerror}."
            if error.errno in {errno.EPIPE, errno.EINVAL}:  # the second on Windows
                said = "The target has ended: look for its error in the log."
            raise CrankWheelError(said) from None
        frames = traceback.walk_tb(error.__traceback__)
        places = {f"{f.f_globals['__name__']}.{f.f_code.co_name}" for f, _ in frames}
        kind = type(error).__name__
        for place, message in _CAUSES.items():
            if place == kind or any(name.startswith(place) for name in places):
                raise CrankWheelError(message.format(kind=kind, error=error)) from None
        raise
