"""Reads back what targets loaded: the rows of a stream, in whatever form they are held.

Where they are is the URL of a server, or a folder.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import sqlite3
import tempfile
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import psycopg
import requests
from psycopg.rows import dict_row

if TYPE_CHECKING:
    from tests.support import Row


def from_postgres(url: str, stream: str) -> list[Row]:
    with psycopg.connect(url, row_factory=dict_row) as connection:
        connection.execute("set timezone to 'UTC'")
        return connection.execute(f"select * from crankwheel.{stream}".encode()).fetchall()  # noqa: S608


def rows_of(relation: duckdb.DuckDBPyRelation) -> list[Row]:
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def from_duckdb(folder: Path, stream: str) -> list[Row]:
    with duckdb.connect(folder / "warehouse.duckdb", read_only=True) as connection:
        return rows_of(connection.table(stream))


def from_snowflake(folder: Path, stream: str) -> list[Row]:
    """Load the target's files into its tables: DuckDB's, which the stand-in made of its DDL."""
    with duckdb.connect(folder / "CRANKWHEEL.db") as connection:
        # Without the key, which rows of both loads share: merging them is Snowflake's part.
        connection.execute(f"create temp table loaded as from PUBLIC.{stream}")
        columns = [str(column) for column in connection.table("loaded").columns]
        marks = ", ".join("?" for _ in columns)
        for path in folder.glob(f"target-snowflake--{stream}-*.gz"):
            for row in json_lines(gzip.decompress(path.read_bytes()).decode()):
                cells = (row.get(column.lower()) for column in columns)
                values = [json.dumps(v) if isinstance(v, (dict, list)) else v for v in cells]
                connection.execute(f"insert into loaded values ({marks})", values)  # noqa: S608
        return rows_of(connection.table("loaded"))


def from_sqlite(folder: Path, stream: str) -> list[Row]:
    with closing(sqlite3.connect(folder / "warehouse.db")) as connection:
        connection.row_factory = sqlite3.Row
        return list(map(dict, connection.execute(f"select * from {stream}")))  # noqa: S608


def from_clickhouse(url: str, stream: str) -> list[Row]:
    rows = f"select * from {stream} final format JSONEachRow"  # noqa: S608
    query = f"{rows} settings session_timezone = 'UTC'"
    return json_lines(requests.post(url, data=query, timeout=60).text)


def csv_rows(text: str) -> list[Row]:
    """Return the rows of CSV; a row of another width than the header's has columns too many."""
    reader = csv.DictReader(text.splitlines(keepends=True))
    return [{str(name): value for name, value in row.items()} for row in reader]


def json_lines(text: str) -> list[Row]:
    return [json.loads(line) for line in text.split("\n") if line]


def from_csv(folder: Path, stream: str) -> list[Row]:
    texts = (path.read_bytes().decode() for path in sorted(folder.glob(f"{stream}*.csv")))
    return [row for text in texts for row in csv_rows(text)]


def from_jsonl(folder: Path, stream: str) -> list[Row]:
    return json_lines((folder / f"{stream}.jsonl").read_text(encoding="utf-8"))


def from_singer_jsonl(folder: Path, stream: str) -> list[Row]:
    files = (path.read_bytes() for path in sorted(folder.glob(f"*/{stream}/*.singer.gz")))
    messages = [message for file in files for message in json_lines(gzip.decompress(file).decode())]
    return [message["record"] for message in messages if message["type"] == "RECORD"]


def objects(url: str, stream: str) -> list[bytes]:
    """Return the objects in the bucket that have the stream in their key."""

    def get(path: str) -> bytes:
        # The server only looks whether a request is signed at all.
        headers = {"Authorization": "AWS testing:signature"}
        return requests.get(f"{url}/bucket{path}", headers=headers, timeout=60).content

    keys = re.findall("<Key>(.*?)</Key>", get("?list-type=2").decode())
    return [get(f"/{key}") for key in sorted(keys) if re.search(rf"\b{stream}\b", key)]


def from_s3_jsonl(url: str, stream: str) -> list[Row]:
    return [row for body in objects(url, stream) for row in json_lines(body.decode())]


def from_s3_csv(url: str, stream: str) -> list[Row]:
    return [row for body in objects(url, stream) for row in csv_rows(body.decode())]


def from_s3_parquet(url: str, stream: str) -> list[Row]:
    rows = []
    for body in objects(url, stream):
        with tempfile.NamedTemporaryFile() as file:
            Path(file.name).write_bytes(body)
            rows += rows_of(duckdb.read_parquet(file.name))
    return rows


def from_messages(folder: Path, stream: str) -> list[Row]:
    """Return the records that were passed on, in the types that SCHEMA messages may name."""
    rows, types = [], {}
    for message in json_lines((folder / "output").read_text(encoding="utf-8")):
        if message.get("stream") == stream and message["type"] == "SCHEMA":
            types = message.get("types", {})
        elif message.get("stream") == stream and message["type"] == "RECORD":
            rows.append({name: typed(types.get(name), v) for name, v in message["record"].items()})
    return rows


def typed(sql_type: str | None, value: Any) -> Any:
    """Return a value as the type that a target gives its column takes it."""
    name = re.split(r"\W|_", (sql_type or "json").lower())[0]
    if value is None or name not in {
        "timestamp",
        "float",
        "double",
        "number",
        "numeric",
        "integer",
    }:
        return value
    if name == "timestamp":
        return datetime.fromisoformat(value.replace("Z", "+00:00"))
    return float(value) if name in {"float", "double"} else int(value)
