"""Sliding window: what counts until when; the learned bounds on travel times and on bills."""

from __future__ import annotations

import pytest

from multiembed.ratelimit.sliding_window import BilledRatio, InFlightRecord, SlidingWindow, TransitSpread

pytestmark = pytest.mark.unit


def record(sent=0.0, tokens=1.0):
    return InFlightRecord(sent, tokens, 1)


@pytest.mark.parametrize(("ended", "expires"), [(0.25, 1.25), (0.5, 1.5), (30.0, 1.5)])
def test_window_counts_a_request_from_its_end_or_latest_arrival(ended, expires):
    window, one = SlidingWindow(1.0, TransitSpread(0.5)), record()
    window.start(one)
    window.finish(one, ended)
    assert window.delay(expires - 0.25, 0, 1.0) == 0.25
    assert window.delay(expires, 0, 0.0) == 0.0


def test_window_without_end_of_a_request_has_infinite_delay():
    window, one = SlidingWindow(60.0, TransitSpread(600.0)), record()
    window.start(one)
    assert window.delay(30.0, 0, 1.0) == float("inf")
    window.finish(one, 30.0)
    assert window.delay(30.0, 0, 1.0) == 60.0


def test_window_delay_ends_when_enough_tokens_expire():
    window = SlidingWindow(60.0, TransitSpread(600.0))
    for second in range(5):
        one = record(float(second), tokens=10.0)
        window.start(one)
        window.finish(one, float(second))
    assert window.delay(5.0, 9, 25.0) == 57.0
    window.bill(one, 30.0)
    one.tokens = 30.0
    assert window.delay(5.0, 9, 30.0) == 58.0


def test_transit_spread_shrinks_and_doubles_after_a_rejection():
    transit = TransitSpread()
    for _ in range(50):
        transit.on_success()
    least = transit.seconds
    assert least <= 0.02
    transit.on_rate_limited(0.001)  # the rejection came back at once, so the way is short
    assert transit.seconds == least
    transit.on_rate_limited(0.2)
    assert transit.seconds == 2.0 * least
    for _ in range(10):
        transit.on_rate_limited(0.2)
    assert transit.seconds == 0.2
    for _ in range(250):
        transit.on_success()
    assert transit.seconds == pytest.approx(0.1)


def test_billed_ratio_covers_most_bills_and_is_at_most_one():
    ratio = BilledRatio()
    assert ratio.value == 1.0
    for _ in range(20):
        ratio.add(9.0, 10.0)
    assert ratio.value == pytest.approx(0.9)
    for number in range(100):
        ratio.add(6.0 + 4.0 * (number % 2), 10.0)
    assert 0.9 < ratio.value <= 1.0
    ratio.add(50.0, 10.0)
    ratio.add(1.0, 0.0)
    assert ratio.value == 1.0
