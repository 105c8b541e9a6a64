"""(a) A stock SDK tap: a plain RESTStream with the same schema and the SDK's defaults."""

from __future__ import annotations

import copy
from typing import Any

from singer_sdk import RESTStream, SchemaDirectory, Tap
from singer_sdk import typing as th

from tap_crankwheel import schemas


class Sessions(RESTStream[None]):
    """Sessions, as they come."""

    name = "usage_sessions"
    path = "/usage"
    primary_keys = ("session_id",)
    replication_key = "start_date"
    records_jsonpath = "$.sessions[*]"

    @property
    def schema(self) -> dict[str, Any]:
        """The same schema; but the SDK's type conformance wants items of lists described."""
        schema = copy.deepcopy(SchemaDirectory(schemas).get_schema(self.name))
        text = {"type": ["string", "null"]}
        schema["properties"]["log"]["items"]["properties"] = {"at": text, "type": text}
        return schema

    @property
    def url_base(self) -> str:
        """Where the server is."""
        url: str = self.config["api_url"]
        return url


class TapStock(Tap):
    """The tap of the template."""

    name = "tap-stock"
    package_name = "tap-crankwheel"
    config_jsonschema = th.PropertiesList(
        th.Property("api_url", th.StringType, required=True)
    ).to_dict()

    def discover_streams(self) -> list[Sessions]:
        """Return the one stream."""
        return [Sessions(self)]


if __name__ == "__main__":
    TapStock.cli()
