"""The package as it is published: built, installed on its own, and run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest
from uv import find_uv_bin

from tap_crankwheel.sandbox.account import Account
from tap_crankwheel.sandbox.tap import NOW
from tests.e2e.conftest import ROOT, Project
from tests.e2e.test_meltano import check_account
from tests.test_docs import blocks

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("package")]

MINORS = ("3.10", "3.11", "3.12", "3.13", "3.14")


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a command and return what it printed; fail if it did."""
    result = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def uv(*arguments: str | Path, cwd: Path) -> str:
    return run(find_uv_bin(), *arguments, cwd=cwd)


def copied(folder: Path) -> Path:
    """Copy what a commit would hold."""
    for name in run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines():
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def pythons() -> dict[str, str]:
    """Return the interpreters on this machine that the tap supports, by minor version."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    path = os.pathsep.join([os.environ["PATH"], *map(str, pyenv.glob("*/bin"))])
    arguments = ("python", "list", "--only-installed", "--output-format=json")
    listed = run(find_uv_bin(), *arguments, cwd=ROOT, PATH=path)
    found: dict[str, str] = {}
    for python in json.loads(listed):
        minor = "{major}.{minor}".format(**python["version_parts"])
        if minor in MINORS and python["implementation"] == "cpython":
            found.setdefault(minor, python["path"])
    return dict(sorted(found.items()))


PYTHONS = pythons()
ENDS = dict.fromkeys((min(PYTHONS), max(PYTHONS)))  # the oldest and the newest
CURRENT = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and an sdist of a commit with a tag."""
    source = copied(tmp_path_factory.mktemp("source"))
    git = "git -c user.name=t -c user.email=t@example.com"
    for arguments in ("init -q", "add .", "commit -qm all", "tag v1.2.3"):
        run(*f"{git} {arguments}".split(), cwd=source)
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--out-dir", folder, cwd=source)
    return folder


def test_the_package_is_complete(dist: Path) -> None:
    wheel = dist / "tap_crankwheel-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        headers = archive.read("tap_crankwheel-1.2.3.dist-info/METADATA").decode()
    metadata = HeaderParser().parsestr(headers)
    assert {name.split("/")[0] for name in names} == {
        "tap_crankwheel",
        "tap_crankwheel-1.2.3.dist-info",
    }
    assert "tap_crankwheel/py.typed" in names
    assert sum(name.startswith("tap_crankwheel/schemas/") for name in names) == 7
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.10"
    assert "Singer" in metadata["Keywords"].split(",")
    classifiers = metadata.get_all("Classifier") or []
    prefix = "Programming Language :: Python :: "
    assert (
        tuple(
            name.removeprefix(prefix)
            for name in classifiers
            if re.fullmatch(rf"{prefix}3\.\d+", name)
        )
        == MINORS
    )
    assert "Typing :: Typed" in classifiers
    assert len(metadata.get_all("Project-URL") or []) >= 2
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_a_copy_without_history_has_a_version(tmp_path: Path) -> None:
    uv("build", "--wheel", "--out-dir", "dist", cwd=copied(tmp_path))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.name == "tap_crankwheel-0.1.0.dev0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("minor", "pattern"), [*((minor, "*.whl") for minor in ENDS), (CURRENT, "*.tar.gz")]
)
def test_the_package_alone_brings_the_sandbox_into_target_jsonl(
    dist: Path, project: Project, tmp_path: Path, minor: str, pattern: str
) -> None:
    uv("venv", "--python", PYTHONS[minor], "venv", cwd=tmp_path)
    (package,) = dist.glob(pattern)
    uv("pip", "install", "--python", "venv", package, cwd=tmp_path)
    commands = tmp_path / "venv" / "bin"
    assert run(commands / "tap-crankwheel", "--version", cwd=tmp_path).startswith(
        "tap-crankwheel v1.2.3"
    )
    assert "Serve a CrankWheel account" in run(
        commands / "crankwheel-sandbox", "--help", cwd=tmp_path
    )
    (tmp_path / "target.json").write_text('{"do_timestamp_file": false}', encoding="utf-8")
    target = project.folder / ".meltano/loaders/target-jsonl/venv/bin/target-jsonl"
    pipe = f"{commands}/tap-crankwheel-sandbox | {target} --config target.json > state.jsonl"
    run("/bin/bash", "-o", "pipefail", "-c", pipe, cwd=tmp_path)
    tables = {
        path.stem: [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for path in tmp_path.glob("*.jsonl")
        if path.stem != "state"
    }
    check_account(tables, Account(fixed_now=NOW))


def test_the_definition_adds_the_tap_to_an_empty_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = copied(tmp_path / "a clone")
    meltano = Path(sys.executable).parent / "meltano"
    monkeypatch.setenv("MELTANO_SEND_ANONYMOUS_USAGE_STATS", "false")
    monkeypatch.setenv("MELTANO_HUB_API_ROOT", "http://127.0.0.1:9")  # where nothing listens
    run(meltano, "init", "project", cwd=tmp_path)
    folder = tmp_path / "project"
    (add,) = (block for block in blocks("README.md", "shell") if block.startswith("meltano add"))
    for line in add.replace("<clone>", str(clone)).splitlines():
        run(meltano, *shlex.split(line)[1:], cwd=folder)
    printed = run(meltano, "invoke", "tap-crankwheel", "--version", cwd=folder)
    assert "tap-crankwheel v0.1.0.dev0" in printed
    assert "TAP_CRANKWHEEL_API_KEY" in run(meltano, "config", "list", "tap-crankwheel", cwd=folder)
