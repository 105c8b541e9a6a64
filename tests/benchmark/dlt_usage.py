"""A year of sessions with dlt, four windows at a time: `python dlt_usage.py URL STEP`.

It needs an environment of its own, which `competitors` makes. With `extract` and `load`, responses
are handed to dlt as Arrow tables, which is quicker than as Python objects. With `rest`, dlt's REST
source yields rows, as its documentation has it. They are extracted and normalized, which makes
tables of the lists in them as well, but not with `rest-one-table`.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import dlt
import pyarrow as pa
import pyarrow.json
from dlt.sources.helpers import requests
from dlt.sources.rest_api import rest_api_source

if TYPE_CHECKING:
    from collections.abc import Iterator

START, END = datetime(2025, 9, 1, tzinfo=timezone.utc), datetime(2026, 9, 1, tzinfo=timezone.utc)
WEEK = timedelta(days=7)


def weeks() -> Iterator[dict[str, str]]:
    """Yield the parameters of each request; the API includes both ends of a range."""
    for number in range(53):
        start = START + number * WEEK
        end = min(start + WEEK, END) - timedelta(seconds=1)
        yield {"from": f"{start:%Y-%m-%dT%H:%M:%SZ}", "to": f"{end:%Y-%m-%dT%H:%M:%SZ}"}


def arrow(response: bytes) -> Any:
    """Return the sessions as an Arrow table, which dlt does not look into."""
    moment = pa.timestamp("us", "UTC")
    session = pa.struct({"start_date": moment, "end_date": moment})  # what would be text otherwise
    table = pyarrow.json.read_json(
        pa.BufferReader(response),
        pyarrow.json.ReadOptions(use_threads=False, block_size=len(response)),
        pyarrow.json.ParseOptions(pa.schema({"sessions": pa.list_(session)})),
    )
    return pa.Table.from_struct_array(table["sessions"].combine_chunks().flatten())


@dlt.resource(
    primary_key="session_id",
    write_disposition={"disposition": "merge", "strategy": "upsert"},
    max_table_nesting=0,
)
def usage_sessions(url: str) -> Iterator[Any]:
    """Yield a deferred request for each week."""

    @dlt.defer
    def fetch(params: dict[str, str]) -> Any:
        return arrow(requests.get(f"{url}/usage", params=params).content)

    for week in weeks():
        yield fetch(week)


def rest(url: str, max_table_nesting: int | None) -> Any:
    """Return the same sessions as a declared REST resource, which yields rows."""
    ranges = dlt.resource([list(weeks())], name="weeks", selected=False)
    params = {"from": "{resources.weeks.from}", "to": "{resources.weeks.to}"}
    endpoint = {"path": "usage", "data_selector": "sessions", "paginator": "single_page"}
    sessions = {"name": "usage_sessions", "primary_key": "session_id", "parallelized": True}
    resources = [ranges, {**sessions, "endpoint": {**endpoint, "params": params}}]
    config: Any = {"client": {"base_url": url}, "resources": resources}
    return rest_api_source(config, max_table_nesting=max_table_nesting)


if __name__ == "__main__":
    url, step = sys.argv[1:]
    database = dlt.destinations.duckdb("usage.duckdb")
    pipeline = dlt.pipeline("usage", ".", destination=database, dataset_name="crankwheel")
    if step == "extract":
        pipeline.extract(usage_sessions(url))
    elif step.startswith("rest"):
        pipeline.extract(rest(url, None if step == "rest" else 0))
        done = pipeline.normalize()
        if done.row_counts["usage_sessions"] != 100_000:
            sys.exit(f"normalized {done.row_counts}")
    else:
        pipeline.run(usage_sessions(url), loader_file_format="parquet")
