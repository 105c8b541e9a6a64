"""The tap: its settings, errors of one line, and its list of streams."""

from __future__ import annotations

import contextlib
import difflib
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

#: What went wrong where a module raises what the SDK lets through, the innermost first. The text of
#: the exception may hold personal data, or the key. A test provokes each of them with the SDK.
_CAUSES = {
    "singer_sdk.configuration._dict_config": "An environment variable cannot be read: the last one "
    "that the log names. Write a number as 7, a list or an object as JSON.",
    "jsonschema.validators": "stream_maps: a map does not have the form that --about describes.",
    "singer_sdk.helpers._util": "--config, --catalog or --state does not name a JSON file.",
    "singer_sdk.singerlib.catalog": "--catalog is not what --discover writes: write it again.",
    "singer_sdk.helpers._flattening": "flattening_max_key_length is too small: two columns would "
    "have the same name. Set it to 63.",
    "singer_sdk.mapper": "stream_maps: an expression fails for a record ({kind}): perhaps a field "
    "in it is null, or a value of stream_map_config is missing.",
    "singer_sdk.plugin_base": "--config cannot be read: it is not a JSON object.",
}


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
        """The settings as the user gave them; one that is null has its default."""
        known, given = self.config_jsonschema["properties"], super().config
        null = {name: known.get(name, {}).get("default") for name in given if given[name] is None}
        return {name: value for name, value in {**given, **null}.items() if value is not None}

    @cached_property
    def settings(self) -> Settings:
        """The settings, read once.

        Raises:
            CrankWheelError: With a line for each that is invalid; not where the SDK asks for no
                validation, as it does for discovery.
        """
        self._warn_of_unknown_settings()
        settings, errors = read_settings(self.config)
        if errors and self._validate:
            raise CrankWheelError("\n".join(errors))
        return settings

    def _warn_of_unknown_settings(self) -> None:
        names = set(self.config)
        if self._parse_env_config:
            # Not the SDK's own, Meltano's, which begin with two underscores, and the sandbox's.
            variable = rf"{self.name}_(?!loglevel|sandbox_|_)(\w+)".replace("-", "_")
            found = (re.fullmatch(variable, name, re.IGNORECASE) for name in os.environ)
            names |= {match[1].lower() for match in found if match}
        self.append_builtin_config(self.config_jsonschema)  # what the SDK offers for every tap
        known = self.config_jsonschema["properties"]
        for name in sorted(names - known.keys()):
            near = difflib.get_close_matches(name, known, n=1)
            meant = f": did you mean {near[0]}?" if near else "."
            self.logger.warning("%s is not a setting of the tap, and is ignored%s", name, meant)

    @cached_property
    def run(self) -> RunContext:
        """What the streams of this run share."""
        return RunContext(self.settings, self._clock)

    @override
    def discover_streams(self) -> Sequence[Stream]:
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
        try:
            for name, bookmark in state["bookmarks"].items() if state else ():
                if name not in self.streams:
                    raise CrankWheelError(f"The state is another tap's: it has a stream {name}.")
                if isinstance(self.streams[name], WindowedStream):
                    parse_date(bookmark.get("replication_key_value"))
                endpoint = bookmark.pop("usage_endpoint", "usage")  # of an earlier snapshot
                if endpoint not in {"usage", self.settings.usage_endpoint}:
                    raise CrankWheelError(
                        f"The state is of a run that read /{endpoint}: set usage_endpoint to "
                        f"{endpoint}."
                    )
            super().load_state(state)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise CrankWheelError(
                'The state is broken: its form is {"bookmarks": {"users": {}}}. Restore it, or '
                "remove it to read everything again (--full-refresh in Meltano)."
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
    except BrokenPipeError:
        raise CrankWheelError("The target has ended: look for its error in the log.") from None
    except (ConfigurationError, MappingError) as error:
        lines = getattr(error, "errors", [f"stream_maps: {error}"])
        raise CrankWheelError(" ".join(lines)) from None
    except Exception as error:
        frames = traceback.walk_tb(error.__traceback__)
        modules = {frame.f_globals["__name__"] for frame, _ in frames}
        for module, message in _CAUSES.items():
            if module in modules:
                raise CrankWheelError(message.format(kind=type(error).__name__)) from None
        raise
