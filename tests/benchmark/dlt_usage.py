"""A year of sessions with dlt, four windows at a time: `python dlt_usage.py URL FOLDER HOW`.

It needs an environment of its own, which `rivals` makes. HOW is `extract` or `load`, and `objects`
or `arrow`: how the answers are handed to dlt. If it only extracts, it prints how many rows.
"""

from __future__ import annotations

import os
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

# What was faster than the defaults; and it is to call nobody.
os.environ |= {
    "DATA_WRITER__DISABLE_COMPRESSION": "true",
    "EXTRACT__MAX_PARALLEL_ITEMS": "4",
    "EXTRACT__WORKERS": "4",
    "RUNTIME__DLTHUB_TELEMETRY": "false",
}

import dlt
import pyarrow as pa
import pyarrow.json
from dlt.common import json
from dlt.sources.helpers import requests

if TYPE_CHECKING:
    from collections.abc import Iterator

START = datetime(2025, 9, 1, tzinfo=timezone.utc)
WEEK = timedelta(days=7)

TIMESTAMP = pa.timestamp("us", "UTC")
VIEWERS = pa.struct(
    {
        "viewer_count": pa.int64(),
        "max_viewer_count": pa.int64(),
        "locations": pa.list_(pa.string()),
    }
)
SESSION = pa.struct(
    [
        pa.field("session_id", pa.int64(), nullable=False),
        pa.field("email", pa.string()),
        pa.field("agent_name", pa.string()),
        pa.field("start_date", TIMESTAMP, nullable=False),
        pa.field("end_date", TIMESTAMP),
        pa.field("duration", pa.int64()),
        pa.field("webcam_s", pa.int64()),
        pa.field("session_ended", pa.bool_()),
        pa.field("viewer_info", VIEWERS),
        pa.field("log", pa.list_(pa.struct({"at": pa.string(), "type": pa.string()}))),
    ]
)


def objects(answer: bytes) -> Any:
    """Return the sessions as Python objects."""
    return json.loadb(answer)["sessions"]


def arrow(answer: bytes) -> Any:
    """Return the sessions as an Arrow table, which dlt does not look into."""
    table = pyarrow.json.read_json(
        pa.BufferReader(answer),
        pyarrow.json.ReadOptions(use_threads=False, block_size=len(answer)),
        pyarrow.json.ParseOptions(
            explicit_schema=pa.schema({"sessions": pa.list_(SESSION)}),
            unexpected_field_behavior="ignore",
        ),
    )
    sessions = table["sessions"].combine_chunks().flatten()
    return pa.Table.from_struct_array(sessions).cast(pa.schema(SESSION))


@dlt.resource(
    primary_key="session_id",
    write_disposition={"disposition": "merge", "strategy": "upsert"},
    max_table_nesting=0,
)
def usage_sessions(url: str, parse: Any) -> Iterator[Any]:
    """Yield a deferred request for each week."""

    @dlt.defer
    def fetch(start: datetime, end: datetime) -> Any:
        params = {"from": f"{start:%Y-%m-%dT%H:%M:%SZ}", "to": f"{end:%Y-%m-%dT%H:%M:%SZ}"}
        return parse(requests.get(f"{url}/usage", params=params).content)

    start, end = START, START + timedelta(days=365)
    while start < end:
        yield fetch(start, min(start + WEEK, end) - timedelta(seconds=1))
        start += WEEK


def main() -> None:
    """Extract or load."""
    url, folder, *how = sys.argv[1:]
    database = Path(folder) / "usage.duckdb"
    pipeline = dlt.pipeline(
        "usage",
        pipelines_dir=folder,
        destination=dlt.destinations.duckdb(str(database)),
        dataset_name="crankwheel",
    )
    sessions = usage_sessions(url, arrow if "arrow" in how else objects)
    if "load" in how:
        pipeline.run(sessions, loader_file_format="parquet")
        return
    info = pipeline.extract(sessions)
    tables = [step["table_metrics"] for step in info.metrics[info.loads_ids[0]]]
    print(sum(t["usage_sessions"].items_count for t in tables if "usage_sessions" in t))  # noqa: T201


if __name__ == "__main__":
    main()
