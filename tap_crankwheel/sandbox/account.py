"""The data of the sandbox account.

Each day is made from the seed and its date alone, so the account is the same whatever range is
requested, and whenever. What the API's description leaves open (the keys inside `stats`, the
name and shape of `log`, the form of timestamps) is made up here; the tap depends on none of it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

Row = dict[str, Any]

NAMES = (
    "Ann Lee", "Björk Jónsdóttir", "Chidi Okafor", "Dana Cohen", "Élodie Martin", "Farid Haddad",
    "Grace Kim", "Hiroshi 田中", "Inés Núñez", "Jan Kowalski", "Kateřina Nová", "Liam O'Brien",
)  # fmt: skip
LOCATIONS = (
    "Stafford, United States*", "Reykjavík, Iceland", "München, Germany", "São Paulo, Brazil*",
    "東京, Japan", "Leeds, United Kingdom", "Austin, United States", "Lyon, France*",
)  # fmt: skip
CAMPAIGNS = ("spring-launch", "webinar", "brand", "retargeting")
SOURCES = ("google", "newsletter", "linkedin")
TITLES = ("CEO", "Head of Sales", "Office Manager", "Directrice générale")
#: How likely a demo request is to be taken, and after how many seconds on average.
AVAILABILITY = {
    "full_capacity": (0.9, 120),
    "half_capacity": (0.75, 240),
    "no_capacity": (0.4, 900),
}
COMPANIES = ("Nordlicht GmbH", "Blue Harbor Insurance", "Café Ñandú", "Solar & Sons")


@dataclass
class Account:
    """An account with users, sessions and demo requests.

    Args:
        seed: Makes another account of the same kind.
        agents: How many agents present; two more users never do.
        sessions_per_day: Sessions on a working day, on average; a weekend day has a tenth.
        days: How many days of history there are when the account is made.
        fixed_now: The moment the account is looked at; None for the clock's now.

    Attributes:
        users: The users, by email.
        start: The midnight at which the history begins, UTC.
    """

    seed: int = 6  # with all that makes an account hard, also when it is small
    agents: int = 8
    sessions_per_day: int = 30
    days: int = 60
    fixed_now: datetime | None = None
    users: dict[str, Row] = field(init=False)
    start: datetime = field(init=False)

    def __post_init__(self) -> None:
        midnight = self.now.replace(hour=0, minute=0, second=0, microsecond=0)
        self.start = midnight - timedelta(days=self.days)
        self._remembered = lru_cache(maxsize=64)(self._sessions)
        emails = [f"agent{n + 1}@example.com" for n in range(self.agents)]
        self.users = {
            email: {"email": email, "privilege": "user", "in_demo_pool": n % 3 != 2 or None}
            for n, email in enumerate(emails)
        }
        for email, privilege in (("owner", "owner"), ("reports", "reporting")):
            address = f"{email}@example.com"
            self.users[address] = {
                "email": address,
                "privilege": privilege,
                "in_demo_pool": False,
            }

    @property
    def now(self) -> datetime:
        """The moment the account is looked at, UTC."""
        return self.fixed_now or datetime.now(timezone.utc)

    def sessions(self, day: date) -> list[Row]:
        """Return the sessions that started on a day, UTC, in the form of `/usage_new`."""
        if self.fixed_now is None:
            return self._sessions(day)
        # Neighbouring ranges ask for the same days, and a busy account is slow to make.
        shape = (self.seed, self.agents, self.sessions_per_day, self.start, self.fixed_now)
        return self._remembered(day, shape)

    def _sessions(self, day: date, _shape: object = None) -> list[Row]:
        rng = random.Random(f"{self.seed} sessions {day}")
        count = self._count(rng, day, self.sessions_per_day)
        return [
            session for n in range(count) if (session := self._session(rng, day, n)) is not None
        ]

    def _session(self, rng: random.Random, day: date, n: int) -> Row | None:
        agent = rng.randrange(self.agents)
        start = _moment(rng, day)
        length = timedelta(seconds=int(rng.expovariate(1 / 1500)) + 5)
        webcam, viewers = rng.random(), rng.choice((0, 1, 1, 1, 2, 3))
        places = sorted(rng.sample(LOCATIONS, viewers))
        shared = [
            {"at": _text(start + length * part), "type": kind}
            for part, kind in ((0, "tab"), (rng.random(), "window"))
        ]
        if start > self.now:
            return None
        running = start + length > self.now
        end = min(start + length, self.now)
        seconds = int((end - start).total_seconds())
        session: Row = {
            "session_id": day.toordinal() * 100_000 + n,
            "email": f"agent{agent + 1}@example.com",
            "agent_name": NAMES[agent % len(NAMES)],
            "start_date": _text(start),
            "end_date": _text(end),
            "duration": seconds,
            "webcam_s": int(seconds * webcam),
            "session_ended": not running,
            "viewer_info": {
                "viewer_count": viewers if running else 0,
                "max_viewer_count": viewers,
                "locations": places,
            },
            "log": [entry for entry in shared if entry["at"] <= _text(self.now)],
        }
        if n % 11 == 5:  # most keys can be missing
            for key in ("agent_name", "webcam_s", "viewer_info", "log"):
                del session[key]
        return session

    def demo_requests(self, day: date) -> list[Row]:
        """Return the demo requests made on a day, UTC."""
        rng = random.Random(f"{self.seed} demo requests {day}")
        requests = [
            self._demo_request(rng, day)
            for _ in range(self._count(rng, day, max(1, self.sessions_per_day // 5)))
        ]
        # Now and then somebody presses the button twice.
        twice = [{**r, "prospect_info": {**r["prospect_info"]}} for r in requests if r["twice"]]
        requests += twice
        for request in requests:
            del request["twice"]
        return [r for r in requests if r["start_ts"] <= seconds_text(self.now)]

    def _demo_request(self, rng: random.Random, day: date) -> Row:
        start = _moment(rng, day)
        agent, bucket = rng.randrange(self.agents), rng.choice(list(AVAILABILITY))
        chance, average = AVAILABILITY[bucket]
        wait = int(rng.expovariate(1 / average))
        # Drawn whether or not it has happened yet, so that later requests of the day stay the same.
        taken = rng.random() < chance
        handled = taken and start + timedelta(seconds=wait) <= self.now
        activity = int(rng.expovariate(1 / 900)) if taken else 0
        last = start + timedelta(seconds=wait + activity if handled else 60)
        confirmed = rng.random() < 0.8
        shared = rng.random() < 0.7
        person, place = rng.randrange(10**6), rng.choice(LOCATIONS)
        prospect: Row = {
            "prospect-phone": f"+1555{rng.randrange(10**7):07d}",
            "prospect-request-origin": rng.choice(
                ("https://www.example.com/pricing", "https://www.example.com/démo")
            ),
            "prospect-location": place.rstrip("*"),
            "prospect-name": f"Prospect {person}",
            "prospect-email": f"prospect{person}@example.net",
            "prospect-company": rng.choice(COMPANIES),
            "prospect-job-title": rng.choice(TITLES),
            "prospect-team-size": rng.randrange(1, 200),
            "prospect-has-crm": rng.choice((True, False, "not sure", "")),
        }
        if rng.random() < 0.6:
            prospect["prospect-utm-source"] = rng.choice(SOURCES)
            prospect["prospect-utm-campaign"] = rng.choice(CAMPAIGNS)
        employees = rng.choice((12, "10-20", "200+")) if taken else None
        accepted_from = rng.choice(("extension", "email")) if taken else None
        if handled:
            prospect["prospect-enrich-company-employees"] = employees
        request: Row = {
            "start_ts": seconds_text(start),
            "last_event_ts": seconds_text(min(last, self.now)),
            "availability_bucket": bucket,
            "seconds_to_respond": wait if handled else "never",
            "call_confirmed": confirmed if handled else "n/a",
            "screenshared": shared if handled and confirmed else "n/a",
            "accepted_from": accepted_from if handled else "n/a",
            "prospect_info": prospect,
            "twice": rng.random() < 0.05,
        }
        if handled:
            request["handled_by"] = f"agent{agent + 1}@example.com"
        return request

    def canceled(self, day: date) -> list[datetime]:
        """Return when demo requests were canceled on a day, UTC."""
        rng = random.Random(f"{self.seed} canceled {day}")
        moments = [_moment(rng, day) for _ in range(rng.randrange(4))]
        return [moment for moment in moments if moment <= self.now]

    def _count(self, rng: random.Random, day: date, average: int) -> int:
        if not self.start.date() <= day <= self.now.date():
            return 0
        weekend = day.isoweekday() > 5
        return round(average * (0.1 if weekend else 0.7 + 0.6 * rng.random()))


def _moment(rng: random.Random, day: date) -> datetime:
    """Return a moment of the day, UTC: mostly around noon, sometimes close to midnight."""
    if rng.random() < 0.04:
        second = 86_399.9 - rng.random() * 300
    else:
        second = 43_200 + (rng.random() + rng.random() - 1) * 36_000
    midnight = datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
    return midnight + timedelta(microseconds=int(second * 1_000_000))


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def seconds_text(moment: datetime) -> str:
    """Write a moment, UTC, in whole seconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
