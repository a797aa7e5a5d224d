"""Backoff delay with jitter, and the Retry-After header."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiembed.flow.backoff import backoff_delay, retry_after

pytestmark = pytest.mark.unit

NOON = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
NOW = NOON.timestamp()


@pytest.mark.parametrize(
    ("attempt", "rng", "seconds"),
    [(1, 1.0, 0.5), (2, 1.0, 1.0), (3, 1.0, 2.0), (6, 1.0, 16.0), (7, 1.0, 20.0), (1, 0.0, 0.0), (3, 0.25, 0.5)],
)
def test_backoff_interval_doubles_up_to_20_seconds(attempt, rng, seconds):
    assert backoff_delay(attempt, rng) == seconds


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_backoff_delay_is_between_0_and_20_seconds(attempt, rng):
    assert 0 <= backoff_delay(attempt, rng) < 20.0


@given(st.integers(1, 100), st.floats(0, 1), st.floats(0, 1))
def test_backoff_jitter_covers_the_whole_interval(attempt, low, high):
    shorter, longer = sorted((low, high))
    assert backoff_delay(attempt, shorter) <= backoff_delay(attempt, longer)
    assert backoff_delay(attempt, 0.0) == 0.0
    assert backoff_delay(attempt + 1, high) >= backoff_delay(attempt, high)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": " 7 "}, 7.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "3600"}, 3600.0),
        ({"retry-after": "3601"}, None),
        ({"retry-after-ms": "3600001"}, None),
        ({"retry-after": "Sun, 01 Nov 2026 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sunday, 01-Nov-26 12:00:30 GMT"}, 30.0),
        ({"retry-after": "Sun Nov  1 12:00:30 2026"}, 30.0),
        ({"retry-after": "Sun, 01 Nov 2026 14:00:30 +0200"}, 30.0),
        ({"retry-after": "Sun, 01 Nov 2026 11:00:00 GMT"}, 0.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "0"}, 0.0),
        ({"retry-after-ms": "1500", "retry-after": "60"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "60"}, 60.0),
        ({"retry-after-ms": "-5", "retry-after": "60"}, 60.0),
        ({"retry-after-ms": "nan"}, None),
        ({"retry-after": "-5"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "Sun, 99 Nov 2026 12:00:30 GMT"}, None),
        ({"retry-after": "Sun, 01 Nov 0001 00:00:00 +1400"}, 0.0),
        ({"retry-after": "二十"}, None),
        ({"x-ratelimit-reset": "7"}, None),
    ],
    ids=str,
)
@pytest.mark.parametrize("zone", ["UTC", "Asia/Shanghai"])
def test_retry_after_is_parsed_or_ignored(headers, seconds, zone, monkeypatch):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert retry_after(429, headers, NOW) == seconds
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("status", [200, 301, 400, 401, 404, 413, 500, 502, 504])
def test_retry_after_on_another_status_is_ignored(status):
    assert retry_after(status, {"retry-after": "7"}, NOW) is None


@pytest.mark.parametrize("minutes", [-10, 10, 600])
def test_retry_after_date_is_relative_to_the_server_clock(minutes):
    """A server's clock that was ten minutes ahead made a pause of one second one of two minutes."""
    sent = NOW + 60 * minutes
    headers = {
        "date": format_datetime(datetime.fromtimestamp(sent, UTC), usegmt=True),
        "retry-after": format_datetime(datetime.fromtimestamp(sent + 1, UTC), usegmt=True),
    }
    assert retry_after(429, headers, NOW) == 1.0
    assert retry_after(429, {**headers, "date": "soon"}, NOW) == (max(0, 60 * minutes + 1) if minutes < 60 else None)


@given(st.integers(-(10**6), 10**6))
def test_retry_after_date_gives_the_seconds_until_it(ahead):
    date = format_datetime(datetime.fromtimestamp(NOW + ahead, UTC), usegmt=True)
    assert retry_after(503, {"retry-after": date}, NOW) == (max(0, ahead) if ahead <= 3600 else None)


@given(st.text(), st.text())
def test_retry_after_with_any_text_raises_nothing(one, other):
    seconds = retry_after(429, {"retry-after": one, "retry-after-ms": other}, NOW)
    assert seconds is None or 0 <= seconds < float("inf")
