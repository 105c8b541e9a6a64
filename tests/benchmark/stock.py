"""A stock SDK tap: what the SDK's template gives, with the same schema and the SDK's defaults."""

from __future__ import annotations

import copy
import decimal
from typing import TYPE_CHECKING, Any

from singer_sdk import RESTStream, Tap
from singer_sdk import typing as th
from singer_sdk.helpers.jsonpath import extract_jsonpath

from tap_crankwheel.schemas import SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import requests


def schema() -> dict[str, Any]:
    """Return the same schema; but the SDK's type conformance wants items of lists described."""
    described = copy.deepcopy(SCHEMAS.get_schema("usage_sessions"))
    text = {"type": ["string", "null"]}
    described["properties"]["log"]["items"]["properties"] = {"at": text, "type": text}
    return described


class Sessions(RESTStream[None]):
    """Sessions, as they come, in one answer."""

    name = "usage_sessions"
    path = "/usage"
    primary_keys = ("session_id",)
    replication_key = "start_date"
    records_jsonpath = "$.sessions[*]"
    schema = schema()

    @property
    def url_base(self) -> str:
        """Where the server is."""
        url: str = self.config["api_url"]
        return url

    def get_url_params(self, *_: Any) -> dict[str, Any]:
        """Return the range."""
        return {"from": self.config["start_date"], "to": self.config["end_date"]}

    def parse_response(self, response: requests.Response) -> Iterable[dict[str, Any]]:
        """Yield the sessions, as the template does."""
        yield from extract_jsonpath(
            self.records_jsonpath, input=response.json(parse_float=decimal.Decimal)
        )


class TapStock(Tap):
    """The tap of the template."""

    name = "tap-stock"
    package_name = "tap-crankwheel"
    config_jsonschema = th.PropertiesList(
        th.Property("api_url", th.StringType, required=True),
        th.Property("start_date", th.StringType),
        th.Property("end_date", th.StringType),
    ).to_dict()

    def discover_streams(self) -> list[Sessions]:
        """Return the one stream."""
        return [Sessions(self)]


if __name__ == "__main__":
    TapStock.cli()
