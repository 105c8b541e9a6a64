"""The throttle: how many requests are under way, and when the next may begin."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


WARNING_INTERVAL = 60.0  # seconds


class Clock(Protocol):
    """What the tap needs of the module `time`, which is the clock of a real run."""

    def time(self) -> float:
        """Return the seconds since 1970, UTC."""

    def monotonic(self) -> float:
        """Return the seconds since some moment; they never go back."""

    def sleep(self, seconds: float, /) -> None:
        """Wait."""


class Throttle:
    """Counts the requests of a run, and holds them back while the API limits their rate.

    It is shared by the threads that make requests. How many may be under way halves when the API
    refuses one for its rate, and grows by one each time as many have been answered, as the window
    of a TCP connection does. Without that, requests that waited together would be refused together.

    Args:
        clock: What tells the time and waits.
        limit: How many requests may be under way at most.

    Attributes:
        requests: How many requests were sent.
        retries: How many of them were retries.
        waited: For how many seconds no request could begin.
    """

    def __init__(self, clock: Clock, limit: int) -> None:
        self.requests = 0
        self.retries = 0
        self.waited = 0.0
        self._clock = clock
        self._limit = limit
        self._capacity = float(limit)
        self._under_way = 0
        self._answered = 0
        self._began = clock.monotonic()
        self._until = 0.0
        self._warned = 0.0
        self._changed = threading.Condition()

    def __str__(self) -> str:
        totals = (
            f"{self.requests} requests, {self.retries} retries; "
            f"waited {self.waited:.0f} s for rate limits"
        )
        if not self.waited or self._limit == 1:
            return totals
        minutes = (self._clock.monotonic() - self._began) / 60
        return (
            f"{totals}: max_parallel_requests is too high for this API, which answered "
            f"{self._answered / minutes:.0f} requests a minute"
        )

    @contextmanager
    def request(self, *, retry: bool) -> Iterator[None]:
        """Let a request be under way for as long as the context lasts, once one may be."""
        self._begin(retry=retry)
        try:
            yield
            with self._changed:
                self._answered += 1
                self._capacity = min(self._limit, self._capacity + 1 / self._capacity)
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify_all()

    def pause(self, seconds: float) -> bool:
        """Let no request begin for some seconds, and fewer be under way after that.

        Pauses that overlap count once, and so do refusals before the end of a pause.

        Returns:
            Whether to warn: once a minute, since each answer may be such a refusal.
        """
        with self._changed:
            now = self._clock.monotonic()
            warn = not self.waited or now - self._warned >= WARNING_INTERVAL
            if now >= self._until:
                self._capacity = max(1.0, self._capacity / 2)
            longer = now + seconds - max(self._until, now)
            if longer > 0:
                self.waited += longer
                self._until = now + seconds
            if warn:
                self._warned = now
            return warn

    def _begin(self, *, retry: bool) -> None:
        while True:
            with self._changed:
                left = self._until - self._clock.monotonic()
                if left <= 0:
                    if self._under_way < int(self._capacity):
                        self._under_way += 1
                        self.requests += 1
                        self.retries += retry
                        return
                    self._changed.wait()
                    continue
            self._clock.sleep(left)
