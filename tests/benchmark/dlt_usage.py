"""A year of sessions with dlt, four windows at a time: `python dlt_usage.py URL STEP`.

It needs an environment of its own, which `competitors` makes. STEP is `extract` or `load`.
Responses are handed to dlt as Arrow tables, which is quicker than as Python objects.
"""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import dlt
import pyarrow as pa
import pyarrow.json
from dlt.sources.helpers import requests

if TYPE_CHECKING:
    from collections.abc import Iterator

START, END = datetime(2025, 9, 1, tzinfo=timezone.utc), datetime(2026, 9, 1, tzinfo=timezone.utc)
WEEK = timedelta(days=7)


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
    def fetch(start: datetime, end: datetime) -> Any:
        params = {"from": f"{start:%Y-%m-%dT%H:%M:%SZ}", "to": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
        return arrow(requests.get(f"{url}/usage", params=params).content)

    for number in range(53):
        start = START + number * WEEK
        yield fetch(start, min(start + WEEK, END) - timedelta(seconds=1))


if __name__ == "__main__":
    url, step = sys.argv[1:]
    database = dlt.destinations.duckdb("usage.duckdb")
    pipeline = dlt.pipeline("usage", ".", destination=database, dataset_name="crankwheel")
    if step == "extract":
        pipeline.extract(usage_sessions(url))
    else:
        pipeline.run(usage_sessions(url), loader_file_format="parquet")
