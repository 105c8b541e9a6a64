"""The targets that are tried, and what each is known to do."""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import duckdb
import psycopg
import requests
from psycopg.rows import dict_row

from tests.support import STREAMS, Row
from tests.targets.harness import Place, Tables, Target, Types

OLD = ("3.9", "3.8")


def parts(url: str) -> dict[str, str]:
    """Return the parts of a URL of PostgreSQL that names the folder of its socket."""
    parsed = urlsplit(url)
    return {
        "user": parsed.username or "postgres",
        "host": parse_qs(parsed.query)["host"][0],
        "database": parsed.path.strip("/"),
    }


def from_postgres(place: Place) -> Tables:
    with psycopg.connect(place.postgres, row_factory=dict_row) as connection:
        connection.execute("set timezone to 'UTC'")
        return {
            stream: connection.execute(f'select * from crankwheel."{stream}"').fetchall()  # noqa: S608
            for stream in STREAMS
        }


def with_schema(place: Place) -> None:
    with psycopg.connect(place.postgres, autocommit=True) as connection:
        connection.execute("create schema if not exists crankwheel")


def from_duckdb(place: Place) -> Tables:
    with duckdb.connect(place.folder / "warehouse.duckdb", read_only=True) as connection:
        return {
            stream: rows_of(connection.sql(f"select * from main.{stream}"))  # noqa: S608
            for stream in STREAMS
        }


def rows_of(relation: duckdb.DuckDBPyRelation) -> list[Row]:
    return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def from_sqlite(place: Place) -> Tables:
    with sqlite3.connect(place.folder / "warehouse.db") as connection:
        connection.row_factory = sqlite3.Row
        return {
            stream: [dict(row) for row in connection.execute(f"select * from {stream}")]  # noqa: S608
            for stream in STREAMS
        }


def csv_rows(text: str) -> list[Row]:
    """Return the rows of CSV; a row of another width than the header's has columns too many."""
    return [
        {str(k): v for k, v in row.items()}
        for row in csv.DictReader(text.splitlines(keepends=True))
    ]


def from_csv(place: Place) -> Tables:
    return {
        stream: [
            row
            for path in sorted(place.folder.glob(f"{stream}*.csv"))
            for row in csv_rows(path.read_bytes().decode())
        ]
        for stream in STREAMS
    }


def from_jsonl(place: Place) -> Tables:
    return {
        stream: [
            json.loads(line) for line in (place.folder / f"{stream}.jsonl").read_text().splitlines()
        ]
        for stream in STREAMS
    }


def objects(place: Place) -> dict[str, bytes]:
    """Return what is in the bucket, by key."""

    def get(path: str) -> bytes:
        # The server only looks whether a request is signed at all.
        headers = {"Authorization": "AWS testing:signature"}
        return requests.get(f"{place.s3}/{place.bucket}{path}", headers=headers, timeout=60).content

    keys = re.findall("<Key>(.*?)</Key>", get("?list-type=2").decode())
    return {key: get(f"/{key}") for key in sorted(keys)}


def from_s3_jsonl(place: Place) -> Tables:
    return {
        key.removesuffix(".jsonl"): [json.loads(line) for line in body.decode().splitlines()]
        for key, body in objects(place).items()
    }


def from_s3_csv(place: Place) -> Tables:
    tables: Tables = {stream: [] for stream in STREAMS}
    for key, body in objects(place).items():
        tables[key.rsplit("-", 1)[0]] += csv_rows(body.decode())
    return tables


def from_s3_parquet(place: Place) -> Tables:
    tables: Tables = {}
    for key, body in objects(place).items():
        path = place.folder / Path(key).name
        path.write_bytes(body)
        with duckdb.connect() as connection:
            tables[key.split("/")[1]] = rows_of(
                connection.sql(f"select * from read_parquet('{path}')")  # noqa: S608
            )
    return tables


def from_messages(place: Place) -> Tables:
    """Return the records that were passed on."""
    tables: Tables = {stream: [] for stream in STREAMS}
    for line in (place.folder / "output").read_text().splitlines():
        message = json.loads(line)
        if message["type"] == "RECORD":
            tables[message["stream"]].append(message["record"])
    return tables


KEYS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
DATABASE_TYPES: Types = {
    "timestamp": datetime,
    "boolean": bool,
    "integer": int,
    "number": (float, Decimal),
    "string": str,
}

POSTGRES = Target(
    name="meltanolabs-target-postgres",
    requirements=("meltanolabs-target-postgres~=0.8.0",),
    executable="target-postgres",
    config=lambda place: {
        "sqlalchemy_url": place.postgres.replace("postgresql:", "postgresql+psycopg2:"),
        "default_target_schema": "crankwheel",
    },
    read=from_postgres,
    removed="marked",
    types=DATABASE_TYPES,
    remarks="A null object is the JSON `null`. With `hard_delete` a removed user is deleted.",
)


def singer_postgres(place: Place) -> Row:
    with_schema(place)
    connection = parts(place.postgres)
    return {
        "postgres_host": connection["host"],
        "postgres_username": connection["user"],
        "postgres_password": "",
        "postgres_database": connection["database"],
        "postgres_schema": "crankwheel",
    }


TARGETS = [
    POSTGRES,
    Target(
        name="pipelinewise-target-postgres",
        requirements=("pipelinewise-target-postgres",),
        executable="target-postgres",
        config=lambda place: {
            "host": parts(place.postgres)["host"],
            "port": 5432,
            "user": parts(place.postgres)["user"],
            "password": "none",
            "dbname": parts(place.postgres)["database"],
            "default_target_schema": "crankwheel",
        },
        read=from_postgres,
        pythons=("3.11", "3.12", "3.10"),
        types=DATABASE_TYPES,
        loses=("empty", "control"),
        remarks="Empty text becomes null; line breaks and tabs become `\\n` and `\\t`.",
    ),
    Target(
        name="singer-target-postgres",
        requirements=("singer-target-postgres", "setuptools<81"),
        executable="target-postgres",
        config=singer_postgres,
        read=from_postgres,
        pythons=OLD,
        modes=("flat",),
        removed="deleted",
        column=lambda name: name.replace("-", "_"),
        types=DATABASE_TYPES,
        loses=("microseconds",),
        remarks="Without flattening it drops objects whose fields are not declared: `extra`, "
        "`stats`, `log`. Timestamps are cut to four decimals. Needs Python 3.9 or older.",
    ),
    Target(
        name="target-duckdb",
        requirements=("target-duckdb~=0.8.0", "duckdb~=1.2.2"),
        executable="target-duckdb",
        config=lambda place: {
            "filepath": str(place.folder / "warehouse.duckdb"),
            "default_target_schema": "main",
        },
        read=from_duckdb,
        types=DATABASE_TYPES,
        loses=("empty",),
        remarks="From DuckDB 1.3 on it loses the first row of each load "
        "([fixed](https://github.com/jwills/target-duckdb/pull/58), not released): pin "
        "`duckdb~=1.2.2`. Empty text becomes null.",
    ),
    Target(
        name="target-sqlite",
        requirements=("target-sqlite",),
        executable="target-sqlite",
        config=lambda place: {"database": str(place.folder / "warehouse")},
        read=from_sqlite,
        pythons=OLD,
        column=lambda name: name.replace("-", "_"),
        added=("_sdc", "__loaded_at"),
        modes=("flat",),
        remarks="Flatten in the tap: by itself it flattens too, and writes objects as Python "
        "prints them. Needs Python 3.9 or older.",
    ),
    Target(
        name="target-jsonl",
        requirements=("target-jsonl~=0.1.4",),
        executable="target-jsonl",
        config=lambda place: {"destination_path": str(place.folder), "do_timestamp_file": False},
        read=from_jsonl,
        second="appends",
        types={
            "boolean": bool,
            "integer": int,
            "number": (int, float),
            "string": str,
            "timestamp": str,
        },
        remarks="With `do_timestamp_file: false` it appends: the last line of a key is "
        "the current one.",
    ),
    Target(
        name="meltanolabs-target-csv",
        requirements=("meltanolabs-target-csv",),
        executable="target-csv",
        config=lambda place: {"output_path": str(place.folder)},
        read=from_csv,
        modes=("flat",),
        second="replaces",
        loses=("empty",),
        remarks="Each run replaces the files, so load with `--full-refresh`. Null is empty text. "
        "Without flattening, objects are written as Python prints them.",
    ),
    Target(
        name="target-csv",
        requirements=("target-csv", "setuptools<81"),
        executable="target-csv",
        config=lambda place: {"destination_path": str(place.folder), "disable_collection": True},
        read=from_csv,
        pythons=OLD,
        modes=("flat",),
        second="appends",
        loses=("empty",),
        remarks="Flatten in the tap: its own flattening puts values into the wrong columns. Each "
        "run writes new files. Needs Python 3.9 or older.",
    ),
    Target(
        name="pipelinewise-target-s3-csv",
        requirements=("pipelinewise-target-s3-csv",),
        executable="target-s3-csv",
        config=lambda place: {
            **KEYS,
            "s3_bucket": place.bucket,
            "aws_endpoint_url": place.s3,
            # By default the second, in which both loads may be.
            "naming_convention": f"{{stream}}-{(place.folder / 'config.json').exists():d}.csv",
        },
        read=from_s3_csv,
        pythons=("3.10", "3.11", "3.9"),
        modes=("flat",),
        second="appends",
        loses=("empty",),
        remarks="Flatten in the tap: its own flattening puts values into the wrong columns. Each "
        "run writes new files. Null is empty text.",
    ),
    Target(
        name="target-s3-jsonl",
        requirements=("target-s3-jsonl",),
        executable="target-s3-jsonl",
        config=lambda place: {
            **KEYS,
            "s3_bucket": place.bucket,
            "aws_endpoint_url": place.s3,
            "path_template": "{stream}.jsonl",
            "compression": "none",
        },
        read=from_s3_jsonl,
        second="replaces",
        pythons=("3.11", "3.12", "3.10"),
        remarks="With a fixed `path_template` each run replaces the objects; by default it adds "
        "new ones.",
    ),
    Target(
        name="plinxore-target-s3",
        requirements=("plinxore-target-s3",),
        executable="target-s3",
        config=lambda place: {
            "format": {
                "format_type": "parquet",
                "format_parquet": {"get_schema_from_tap": False},
            },
            "cloud_provider": {
                "cloud_provider_type": "aws",
                "aws": {
                    **KEYS,
                    "aws_region": "us-east-1",
                    "aws_bucket": place.bucket,
                    "aws_endpoint_override": place.s3,
                },
            },
            "prefix": "prefix",
            "append_date_to_prefix": False,
            "append_date_to_filename": False,
            "append_uuid": False,
            "compression": "none",
        },
        read=from_s3_parquet,
        second="replaces",
        pythons=("3.11", "3.12", "3.10"),
        modes=("flat",),
        remarks="Parquet, with `get_schema_from_tap: false`: otherwise timestamps are cut to "
        "seconds. Without flattening, objects get each other's fields, as nulls. Each run replaces "
        "the files.",
    ),
    Target(
        name="meltano-map-transform",
        requirements=("meltano-map-transform",),
        executable="meltano-map-transform",
        config=lambda _: {"stream_maps": {}},
        read=from_messages,
        second="appends",
        remarks="Not a target but a mapper between tap and target, here without a map: what it "
        "passes on.",
    ),
]

#: Those that CI tries.
QUICK = (
    "meltanolabs-target-postgres",
    "target-duckdb",
    "target-sqlite",
    "target-jsonl",
    "meltanolabs-target-csv",
)
