"""A stock SDK tap: what the SDK's template gives, with the same schema and the SDK's defaults."""

from __future__ import annotations

from typing import Any

from singer_sdk import RESTStream, Tap
from singer_sdk import typing as th

from tap_crankwheel.schemas import SCHEMAS

#: The same schema; but the SDK's type conformance wants the items of lists described.
SCHEMA: dict[str, Any] = SCHEMAS.get_schema("usage_sessions")
ENTRY = th.ObjectType(th.Property("at", th.StringType), th.Property("type", th.StringType))
SCHEMA["properties"]["log"]["items"] = ENTRY.to_dict()


class Sessions(RESTStream[None]):
    """Sessions, as they come, in one response."""

    name = "usage_sessions"
    path = "/usage"
    primary_keys = ("session_id",)
    replication_key = "start_date"
    records_jsonpath = "$.sessions[*]"
    schema = SCHEMA

    @property
    def url_base(self) -> str:
        """Where the server is."""
        return str(self.config["api_url"])

    def get_url_params(self, *_: Any) -> dict[str, Any]:
        """Return the range."""
        return {"from": self.config["start_date"], "to": self.config["end_date"]}


class TapStock(Tap):
    """The tap of the template."""

    name = "tap-stock"
    package_name = "tap-crankwheel"
    config_jsonschema = th.PropertiesList(th.Property("api_url", th.StringType)).to_dict()

    def discover_streams(self) -> list[Sessions]:
        """Return the one stream."""
        return [Sessions(self)]


if __name__ == "__main__":
    TapStock.cli()
