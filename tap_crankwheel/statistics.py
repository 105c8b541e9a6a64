"""Statistics: totals of sessions. Everything here is pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tap_crankwheel.schemas import Row

#: `meetings` and `total_seconds` of each agent's email; None stands for sessions without one.
Totals = dict[str | None, "Row"]


def counted_seconds(session: Row) -> Any:
    """Return how long a session was; one that runs counts with its duration so far, if any."""
    running = session["duration"] is None and session["session_ended"] is False
    return 0 if running else session["duration"]


def totals(sessions: Iterable[tuple[str | None, Any]]) -> Totals:
    """Add up sessions by agent.

    Args:
        sessions: Of each session the agent's email and the seconds, which are None if the API
            does not say how long an ended session was.

    Returns:
        The totals. `total_seconds` is None if a part is unknown.
    """
    durations: dict[str | None, list[Any]] = {}
    for email, duration in sessions:
        durations.setdefault(email, []).append(duration)
    return {
        email: {"meetings": len(parts), "total_seconds": add_up(parts)}
        for email, parts in durations.items()
    }


def grand_total(agents: Totals) -> Row:
    """Return the totals of all agents together, which those of the agents add up to."""
    return {
        "meetings": sum(row["meetings"] for row in agents.values()),
        "total_seconds": add_up([row["total_seconds"] for row in agents.values()]),
    }


def add_up(parts: list[Any]) -> Any:
    """Return the sum of numbers; None if one of them is unknown."""
    return None if None in parts else sum(parts)
