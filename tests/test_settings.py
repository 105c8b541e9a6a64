"""Settings: read once, in real types."""

from __future__ import annotations

import copy
from dataclasses import FrozenInstanceError
from datetime import datetime, timedelta, timezone

import pendulum
import pytest

from tap_crankwheel.settings import CONFIG_SCHEMA, Settings, read_settings


def test_settings_have_real_types() -> None:
    config = {
        "api_key": " key ",
        "start_date": "2026-08-30",
        "end_date": "2026-08-30T22:00:00+02:00",
        "lookback_days": 3,
        "timezone": "Europe/Berlin",
        "custom_questions": ["shoesize"],
        "api_url": "https://example.com/api/",
    }
    before = copy.deepcopy(config)
    assert read_settings(config, CONFIG_SCHEMA) == (
        Settings(
            api_url="https://example.com/api/",
            api_key="key",
            start_date=datetime(2026, 8, 30, tzinfo=timezone.utc),
            end_date=datetime(2026, 8, 30, 20, tzinfo=timezone.utc),
            lookback=timedelta(days=3),
            window=timedelta(days=7),
            stats_period="day",
            timezone=pendulum.timezone("Europe/Berlin"),
            custom_questions=("shoesize",),
            usage_endpoint="usage",
            max_parallel_requests=4,
            request_timeout=90,
        ),
        [],
    )
    assert config == before


def test_settings_cannot_be_changed() -> None:
    settings, _ = read_settings({"api_key": "k"}, CONFIG_SCHEMA)
    with pytest.raises(FrozenInstanceError):
        settings.api_key = "another"  # type: ignore[misc]


def test_defaults_stand_in_for_invalid_settings() -> None:
    config = {"window_days": 0, "timezone": "Mars", "start_date": "soon", "custom_questions": ["a"]}
    settings, errors = read_settings(config, CONFIG_SCHEMA)
    assert (settings.window, settings.timezone, settings.start_date, settings.api_key) == (
        timedelta(days=7),
        pendulum.UTC,
        None,
        "",
    )
    assert settings.custom_questions == ("a",)  # discovery works on half a configuration
    assert sorted(error.split()[0] for error in errors) == [
        "api_key",
        "start_date",
        "timezone",
        "window_days",
    ]
