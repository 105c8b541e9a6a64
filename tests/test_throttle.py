"""The throttle: rate limits of every usual kind are waited for, and cost nothing else."""

from __future__ import annotations

import itertools
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from tap_crankwheel.auth import CrankWheelAuthenticator
from tap_crankwheel.client import Client
from tap_crankwheel.errors import CrankWheelError
from tap_crankwheel.sandbox.server import API_KEY, Behaviour, Sandbox
from tap_crankwheel.throttle import Throttle
from tests.support import (
    FakeClock,
    canonical,
    config_for,
    expected_requests,
    expected_sessions,
    expected_users,
    sync,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def failing(*faults: str | None) -> Behaviour:
    return Behaviour(faults=iter(faults))


def client_for(sandbox: Sandbox, clock: FakeClock) -> Client:
    return Client(sandbox.url, CrankWheelAuthenticator(API_KEY), clock=clock)


def test_no_request_begins_during_a_pause(sandbox: Sandbox, clock: FakeClock) -> None:
    client = client_for(sandbox, clock)
    client.throttle.pause(30)
    client.get("/user_access")
    assert clock.pauses == [pytest.approx(30)]


@pytest.mark.parametrize(("fault", "waited"), [("429:7", 7), ("500", 0)])
def test_only_a_rate_limit_pauses_the_other_requests(
    sandbox: Sandbox, clock: FakeClock, fault: str, waited: float
) -> None:
    sandbox.behaviour = failing(fault)
    client = client_for(sandbox, clock)
    client.get("/user_access")
    assert waited <= client.throttle.waited <= waited + (waited > 0)
    assert (client.throttle.requests, client.throttle.retries) == (2, 1)


def test_a_pause_may_grow_while_a_request_waits_for_its_end() -> None:
    class Growing(FakeClock):
        def sleep(self, seconds: float, /) -> None:
            super().sleep(seconds)
            if len(self.pauses) == 1:
                throttle.pause(5)

    clock = Growing()
    throttle = Throttle(clock, 1)
    throttle.pause(10)
    with throttle.request(retry=False):
        assert clock.pauses == pytest.approx([10, 5])
    assert throttle.waited == pytest.approx(15)


def test_pauses_that_overlap_count_once(clock: FakeClock) -> None:
    throttle = Throttle(clock, 1)
    for seconds in (7, 7, 3, 10):
        throttle.pause(seconds)
    assert throttle.waited == pytest.approx(10)


def test_a_refusal_halves_the_number_under_way_and_answers_raise_it_slowly(
    clock: FakeClock,
) -> None:
    throttle = Throttle(clock, 8)
    throttle.pause(1)
    throttle.pause(1)  # of a request that was under way with the first
    clock.advance(2)
    allowed = []
    for _ in range(16):
        with throttle.request(retry=False):
            pass
        allowed.append(int(throttle._capacity))
    assert allowed == [4, 4, 4, 4, 5, 5, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6]


class Limit:
    """Faults that refuse requests as a rate limit does.

    Args:
        clock: The clock of the tap.
        refuse: Returns how long the API asks to wait; 0 for an answer.
        retry_after: Whether it says so.
    """

    def __init__(
        self, clock: FakeClock, refuse: Callable[[float], float], *, retry_after: bool = True
    ) -> None:
        self.clock, self.refuse, self.retry_after = clock, refuse, retry_after
        self.refused = 0
        self.lock = threading.Lock()

    def __iter__(self) -> Limit:
        return self

    def __next__(self) -> str | None:
        with self.lock:
            seconds = self.refuse(self.clock.time())
            self.refused += seconds > 0
        if not seconds:
            return None
        return f"429:{int(seconds) + 1}" if self.retry_after else "429"


def token_bucket(rate: float, burst: int) -> Callable[[float], float]:
    """Refuse what comes faster than a rate a second, with a burst."""
    tokens, last = float(burst), 0.0

    def refuse(now: float) -> float:
        nonlocal tokens, last
        tokens = min(burst, tokens + (now - last) * rate)
        last = now
        if tokens >= 1:
            tokens -= 1
            return 0
        return (1 - tokens) / rate

    return refuse


def fixed_window(count: int) -> Callable[[float], float]:
    """Refuse more than a count in each minute of the clock."""
    minute, used = 0.0, 0

    def refuse(now: float) -> float:
        nonlocal minute, used
        if now // 60 != minute:
            minute, used = now // 60, 0
        used += 1
        return 60 - now % 60 if used > count else 0

    return refuse


LIMITS: dict[str, Any] = {
    "30 a minute, burst 30": lambda: token_bucket(0.5, 30),
    "1 a second, no burst": lambda: token_bucket(1, 1),
    "10 a minute": lambda: token_bucket(1 / 6, 10),
    "20 in each minute": lambda: fixed_window(20),
}


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("parallel", [1, 4, 10])
def test_a_backfill_passes_a_rate_limit(
    sandbox: Sandbox,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    limit: str,
    parallel: int,
) -> None:
    caplog.set_level("INFO")
    faults = Limit(clock, LIMITS[limit]())
    sandbox.behaviour = Behaviour(faults=faults)
    check(sandbox, clock, parallel)
    assert faults.refused
    lines = [record.getMessage() for record in caplog.records]
    says = "max_parallel_requests is too high for this API, which answered"
    assert sum("s for rate limits" in line for line in lines) == 1
    assert (says in lines[-1]) == (parallel > 1)  # below one it cannot be lowered
    minutes = clock.monotonic() / 60
    assert 1 <= sum("429 Too Many Requests" in line for line in lines) <= 1 + minutes


@pytest.mark.parametrize("retry_after", [True, False])
def test_a_backfill_passes_an_api_that_answers_one_request_at_a_time(
    sandbox: Sandbox,
    clock: FakeClock,
    retry_after: bool,  # noqa: FBT001
) -> None:
    class OneAtATime(Limit):
        busy = 0

        def __next__(self) -> str | None:
            with self.lock:
                self.busy += 1
                refused = self.busy > 1
                self.refused += refused
            time.sleep(0.002)  # under way; however long it is, the outcome is the same
            with self.lock:
                self.busy -= 1
            if not refused:
                return None
            return "429:1" if self.retry_after else "429"

    faults = OneAtATime(clock, lambda _: 0, retry_after=retry_after)
    sandbox.behaviour = Behaviour(faults=faults)
    check(sandbox, clock, 4)
    assert faults.refused


def check(sandbox: Sandbox, clock: FakeClock, parallel: int) -> None:
    config = config_for(sandbox, window_days=1, max_parallel_requests=parallel)
    output = sync(config, clock=clock)
    account, records = sandbox.account, output.records
    assert canonical(records["usage_sessions"]) == canonical(expected_sessions(account))
    assert canonical(records["demo_requests"], "id") == canonical(expected_requests(account), "id")
    assert canonical(records["users"]) == canonical(expected_users(account))


@pytest.mark.parametrize("parallel", [1, 4, 10])
def test_a_rate_limit_that_never_ends_is_waited_for_an_hour(
    sandbox: Sandbox, clock: FakeClock, parallel: int
) -> None:
    sandbox.behaviour = Behaviour(faults=itertools.repeat("429:60"))
    config = config_for(sandbox, window_days=1, max_parallel_requests=parallel)
    with pytest.raises(CrankWheelError, match="429 Too Many Requests"):
        sync(config, clock=clock)
    assert 3_500 <= clock.monotonic() <= 4_000
