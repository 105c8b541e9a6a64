"""The documentation: its links, and what is pasted from it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from tap_crankwheel.settings import CONFIG_SCHEMA
from tests.support import Row, all_requests, all_sessions, config_for, sync

if TYPE_CHECKING:
    from tap_crankwheel.sandbox.server import Sandbox

ROOT = Path(__file__).parents[1]
PAGES = {path.stem for path in (ROOT / "docs").glob("*.md")}


def blocks(page: str, language: str) -> list[str]:
    """Return the blocks of code of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def extractor(block: str) -> Row:
    """Return the tap's entry in a block of `meltano.yml`."""
    (entry,) = yaml.safe_load(block)["plugins"]["extractors"]
    assert entry["name"] == "tap-crankwheel"
    found: Row = entry
    return found


@pytest.mark.slow
def test_every_link_leads_somewhere_and_every_page_is_in_the_menu(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "dirhtml"]
    built = subprocess.run(
        [*command, "-d", tmp_path / "cache", "-c", ROOT / "docs", ROOT, tmp_path / "site"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.stderr == ""
    assert built.returncode == 0
    assert (tmp_path / "site" / "index.html").exists()
    first = (tmp_path / "site" / "README" / "index.html").read_text(encoding="utf-8")
    menu = first.split("sidebar-tree")[1].split("</div>")[0]
    assert {f"../docs/{page}/" for page in PAGES} <= set(re.findall(r'href="([^"]+)"', menu))


def test_the_readme_is_short_and_lists_every_page() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.splitlines()) < 170
    assert all(f"](docs/{page}.md)" in readme for page in PAGES)
    table = readme.split("| Setting |")[1].split("\n\n")[0]
    assert (
        set(re.findall(r"^\| `(\w+)`", table, re.MULTILINE)) <= CONFIG_SCHEMA["properties"].keys()
    )


def test_the_log_is_what_a_run_says() -> None:
    def own(text: str) -> list[str]:
        lines = (line.rpartition(" | ")[2] for line in text.splitlines())
        kept = (line for line in lines if re.match(r"[a-z_]+: |\d+ requests", line))
        return [re.sub(r":\d{4,}", ":port", line) for line in kept]

    command = Path(sys.executable).parent / "tap-crankwheel-sandbox"
    run = subprocess.run([command], capture_output=True, check=True)
    (shown,) = (block for block in blocks("docs/running.md", "text") if "windows: " in block)
    assert own(shown) == own(run.stderr.decode())
    assert len(own(shown)) == len(shown.splitlines())


@pytest.mark.parametrize("page", sorted(PAGES))
def test_python_and_yaml_can_be_parsed(page: str) -> None:
    for block in blocks(f"docs/{page}.md", "python"):
        ast.parse(block)
    for block in blocks(f"docs/{page}.md", "yaml"):
        extractor(block)


def test_errors_that_are_explained_exist() -> None:
    """Each message of the page is found in the code, up to what is inserted into it."""
    files = (ROOT / "tap_crankwheel").glob("*.py")
    package = "".join(path.read_text(encoding="utf-8") for path in files)
    code = re.sub(r'"\s*\n\s*f?"', "", package)
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").split("## Meltano")[0]
    causes = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    messages = [message for cause in causes for message in re.findall("`(.*?)`", cause)]
    assert len(messages) > 12
    for message in messages:
        parts = re.split(r"…|\(.*|^api_key |^\d+ |^a session|demo_requests", message)
        longest = max(parts, key=len).strip(": ")
        assert longest in code, message


def test_the_way_to_rename_what_has_a_hyphen_works(sandbox: Sandbox) -> None:
    (block,) = blocks("docs/how-it-reads.md", "yaml")
    config = config_for(sandbox, **extractor(block)["config"])
    rows = sync(config, select=("demo_requests",)).records["demo_requests"]
    phones = [r["prospect_info"]["prospect-phone"] for r in all_requests(sandbox.account)]
    assert sorted(row["prospect_phone"] for row in rows) == sorted(phones)
    assert all("prospect_info" not in row for row in rows)


def test_streams_with_hashed_emails_still_join(sandbox: Sandbox) -> None:
    hashed = extractor(blocks("docs/personal-data.md", "yaml")[1])
    output = sync(config_for(sandbox, **hashed["config"]))
    addresses = [session["email"] for session in all_sessions(sandbox.account)]
    assert not any(address in "".join(output.lines) for address in addresses)
    users = {row["email"] for row in output.records["users"]}
    fields = {"usage_sessions": "email", "agent_stats": "email", "demo_requests": "handled_by"}
    for stream, field in fields.items():
        assert {row[field] for row in output.records[stream]} - {None} <= users
