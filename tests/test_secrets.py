"""The key and prospects' personal data: nowhere but where they belong."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from tap_crankwheel.sandbox.server import Behaviour, Sandbox
from tests.support import ScriptedSandbox, all_requests, config_for, run, slow

if TYPE_CHECKING:
    from pathlib import Path

KEY = "s3cret-k3y-0f-the-account"
PROSPECT = "Prudence Prospect +15550199"


@pytest.fixture(autouse=True)
def _debug(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGLEVEL", "DEBUG")


FORMS = {
    "as it is": KEY,
    "with spaces": f"  {KEY} ",
    "with a line break": f"{KEY}\r\n",
    "with a line break inside": f"{KEY}\nx",
    "with characters no key has": f"{KEY}é\x07",
    "in quotes": f'"{KEY}"',
}
REDIRECT = "redirect:https://elsewhere.example/"
FAULTS = [
    "400", "401", "500", "html", "truncate", REDIRECT, *slow("403", "404", "418", "429", "reset"),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_key_never_appears(sandbox: Sandbox, tmp_path: Path, form: str) -> None:
    result = run(tmp_path, config_for(sandbox, api_key=FORMS[form]))
    assert KEY not in result.output
    assert "| DEBUG    |" in result.stderr
    assert "| ERROR    |" in result.stderr  # the sandbox's key is another


@pytest.mark.parametrize("arguments", [("--about",), ("--discover",), ("--test",), ("--version",)])
def test_the_key_is_in_nothing_the_command_line_tells(
    sandbox: Sandbox, tmp_path: Path, arguments: tuple[str]
) -> None:
    result = run(tmp_path, config_for(sandbox, api_key=KEY), *arguments)
    assert KEY not in result.output
    assert result.exit_code == (arguments == ("--test",))  # the sandbox's key is another


@pytest.mark.parametrize(
    "api_url", [f"https://{KEY}@crankwheel.invalid/ss/api", f"http://127.0.0.1:9/{KEY}"]
)
def test_a_key_in_the_url_is_not_logged_either(tmp_path: Path, api_url: str) -> None:
    config = {"api_key": "k", "api_url": api_url, "start_date": "2026-08-01"}
    assert KEY not in run(tmp_path, config).output


@pytest.mark.parametrize("fault", FAULTS)
def test_neither_the_key_nor_a_body_is_quoted(sandbox: Sandbox, tmp_path: Path, fault: str) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat(fault), error_body=PROSPECT.encode())
    result = run(tmp_path, config_for(sandbox, api_key=KEY))
    assert KEY not in result.output
    assert "Prudence" not in result.output
    assert "| ERROR    |" in result.stderr


@pytest.mark.parametrize("path", ["usage", "demo_usage", "users"])
@pytest.mark.parametrize(
    "document",
    [
        {"error": PROSPECT},
        {"sessions": PROSPECT},
        {"sessions": [PROSPECT]},
        {"sessions": [{"start_ts": PROSPECT, "start_date": PROSPECT, "email": [PROSPECT]}]},
        [PROSPECT],
        [{"email": 5, "name": PROSPECT}],
        PROSPECT,
    ],
    ids=repr,
)
def test_personal_data_is_in_no_error(tmp_path: Path, path: str, document: object) -> None:
    with ScriptedSandbox(**{path: document}).running() as sandbox:
        stderr = run(tmp_path, config_for(sandbox, start_date="2026-08-31")).stderr
    assert "Prudence" not in stderr
    assert "15550199" not in stderr
    assert "| ERROR    |" in stderr


def test_personal_data_is_in_no_log_and_no_state(sandbox: Sandbox, tmp_path: Path) -> None:
    config = config_for(sandbox, flattening_enabled=True, flattening_max_depth=1)
    result = run(tmp_path, config)
    states = [line for line in result.stdout.splitlines() if '"type":"STATE"' in line]
    logged = result.stderr + "".join(states)
    assert "| DEBUG    |" in logged
    assert states
    for request in all_requests(sandbox.account):
        info = request["prospect_info"]
        for key in ("prospect-phone", "prospect-name", "prospect-email"):
            assert info[key] not in logged
            assert info[key] in result.stdout
