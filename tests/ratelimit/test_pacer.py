"""Pacer: configured limits hold in every window that a server may count, others are learned from rejections."""

from __future__ import annotations

import heapq
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import multiembed
from multiembed.ratelimit.pacer import INITIAL_IN_FLIGHT, MAX_IN_FLIGHT, AccountLimits, Pacer

pytestmark = pytest.mark.unit

NOT_CONFIGURED = AccountLimits()

# Whole 64ths are exact, so that sums of them are, too.
ticks = st.integers(0, 640).map(lambda number: number / 64)
gaps = st.one_of(st.just(0.0), st.just(0.0), ticks)


@st.composite
def drawn_requests(draw, max_tokens):
    """Gap before it, latency, the share of that on the way, estimate, bill, and what the provider says."""
    latency = draw(st.integers(0, 640)) / 64
    way = draw(st.integers(0, int(latency * 64))) / 64
    estimate = draw(st.integers(1, max_tokens))
    bill = draw(st.integers(0, estimate))
    return (
        draw(gaps),
        latency,
        way,
        estimate,
        bill,
        draw(st.sampled_from(["success", "success", "success", "rate-limited", "lost"])),
    )


@st.composite
def accounts(draw, *, per_second):
    """Limits, and requests that each fit them."""
    a_minute = draw(st.one_of(st.none(), st.integers(1, 40) if not per_second else st.integers(1, 400)))
    tokens = draw(st.one_of(st.none(), st.integers(60, 6000)))
    limits = AccountLimits(requests_per_minute=a_minute, tokens_per_minute=tokens, per_second=per_second)
    maximum = 100 if tokens is None else int(limits.max_tokens_per_request)
    return limits, draw(st.lists(drawn_requests(maximum), max_size=80))


def arrivals(limits, requests, *, soon=False):
    """Send requests as soon as the pacer allows. Returns: when each arrived at the server, and its billed tokens.

    Args:
        limits: the configured ones.
        requests: as drawn.
        soon: the times to the server differ by at most 1/64 s, and bills are as estimated.
    """
    pacer, now, in_flight, arrived, number = Pacer(), 0.0, [], [], count()

    def answer():
        when, _, record, bill, status = heapq.heappop(in_flight)
        if status == "success":
            pacer.on_success(record, when, bill)
        elif status == "rate-limited":
            pacer.on_rate_limited(record, when, None, None, 0.0)
        pacer.finish(record, when)
        return when

    for gap, latency, way, estimate, bill, status in requests:
        now += gap
        while in_flight and in_flight[0][0] <= now:
            answer()
        with multiembed.no_waits():  # configured limits alone
            while (wait := pacer.delay(now, limits, estimate)) > 0.0:
                if in_flight and in_flight[0][0] <= now + wait:
                    now = answer()
                else:
                    assert wait < float("inf"), "no response is left to wait for"
                    now += wait
            record = pacer.start(now, limits, estimate)
        if soon:
            latency, way, bill = latency + 0.25, 0.25 + min(way, 1 / 64), estimate
        arrived.append((now + way, bill if status == "success" else estimate))
        heapq.heappush(in_flight, (now + latency, next(number), record, bill, status))
    return sorted(arrived)


def max_in(arrived, seconds):
    """The most requests, and the most tokens, in any stretch of so many seconds."""
    windows = [[tokens for when, tokens in arrived if start <= when < start + seconds] for start, _ in arrived]
    return max(map(len, windows), default=0), max(map(sum, windows), default=0)


# ── configured limits ────────────────────────────────────────────────────────────────────────────────


def holds(arrived, limits, seconds, share):
    max_requests, max_tokens = max_in(arrived, seconds)
    if limits.requests_per_minute is not None:
        assert max_requests <= max(1, limits.requests_per_minute // share)
    if limits.tokens_per_minute is not None:
        assert max_tokens <= max(1, limits.tokens_per_minute // share)


@given(account=accounts(per_second=False))
def test_configured_minute_holds_at_any_latency(account):
    limits, requests = account
    holds(arrivals(limits, requests), limits, 60.0, 1)


@given(account=accounts(per_second=True))
def test_configured_minute_and_second_both_hold(account):
    limits, requests = account
    arrived = arrivals(limits, requests, soon=True)
    holds(arrived, limits, 60.0, 1)
    holds(arrived, limits, 1.0, 60)


@pytest.mark.parametrize("per_second", [False, True])
@pytest.mark.parametrize(
    ("configured", "estimate", "bill"),
    [
        ({"requests_per_minute": 1200}, 10, 10),
        ({"tokens_per_minute": 120_000}, 100, 100),
        ({"tokens_per_minute": 120_000}, 200, 100),  # half of what was reserved is given back
        ({"requests_per_minute": 1200, "tokens_per_minute": 10**9}, 10, 10),
    ],
)
def test_configured_limits_are_nearly_used_at_low_latency(per_second, configured, estimate, bill):
    limits = AccountLimits(per_second=per_second, **configured)
    arrived = arrivals(limits, [(0.0, 1 / 64, 0.0, estimate, bill, "success")] * 4700)
    assert arrived[-1][0] <= 1.08 * (235.0 if per_second else 180.0)  # a minute's worth goes at once, or a second's


@pytest.mark.parametrize(
    ("limits", "requests", "waits"),
    [
        (AccountLimits(), 5000, 0.0),
        (AccountLimits(in_flight=1), 5000, 0.0),
        (AccountLimits(requests_per_minute=3), 2, 0.0),
        (AccountLimits(requests_per_minute=3), 3, 60.0),
        (AccountLimits(tokens_per_minute=39), 2, 0.0),
        (AccountLimits(tokens_per_minute=39), 3, 60.0),
        (AccountLimits(requests_per_minute=180, per_second=True), 2, 0.0),
        (AccountLimits(requests_per_minute=180, per_second=True), 3, 1.0),
        (AccountLimits(requests_per_minute=59, per_second=True), 1, 1.0),
        (AccountLimits(tokens_per_minute=2340, per_second=True), 3, 1.0),
    ],
)
def test_full_window_delays_the_next_request_until_one_expires(limits, requests, waits):
    pacer = Pacer()
    for _ in range(requests):
        assert pacer.delay(5.0, limits, 10) == 0.0
        record = pacer.start(5.0, limits, 10)
        pacer.on_success(record, 5.0, 10)
        pacer.finish(record, 5.0)
    assert pacer.delay(5.0, limits, 10) == waits
    assert pacer.delay(5.0 + waits, limits, 10) == 0.0


def test_minute_counts_from_the_response():
    pacer, limits = Pacer(), AccountLimits(requests_per_minute=1)
    record = pacer.start(0.0, limits, 1)
    assert pacer.delay(30.0, limits, 1) == float("inf")
    pacer.finish(record, 30.0)
    assert pacer.delay(30.0, limits, 1) == 60.0


@pytest.mark.parametrize(
    ("answered", "at", "least", "most"),
    [
        (0.125, 0.25, 0.875, 0.875),
        (0.125, 1.0, 0.125, 0.125),
        (0.75, 1.0, 0.5, 0.5),
        (None, 0.25, 1.0, 1.25),
        (None, 1.0, 0.5, 0.5),
        (None, 1.5, 0.0, 0.0),
    ],
)
def test_second_counts_from_the_response_or_half_a_second_later(answered, at, least, most):
    pacer, limits = Pacer(), AccountLimits(requests_per_minute=61, per_second=True)
    record = pacer.start(0.0, limits, 1)
    if answered is not None:
        pacer.finish(record, answered)
    assert least <= pacer.delay(at, limits, 1) <= most


def test_slow_response_delays_no_other_request():
    pacer, configured = Pacer(), AccountLimits(requests_per_minute=60)
    slow, *quick = start_requests(pacer, 60, limits=configured)
    for record in quick:
        pacer.finish(record, 1.0)
    assert pacer.delay(30.0, configured, 1) == 31.0
    pacer.finish(slow, 55.0)
    assert pacer.delay(61.0, configured, 1) == 0.0


def test_bill_replaces_the_estimate_in_the_window():
    limits = AccountLimits(tokens_per_minute=100)
    for bill, next_one, waits in ((40, 60, 0.0), (40, 61, 60.0), (None, 10, 0.0), (None, 11, 60.0), (95, 6, 60.0)):
        pacer = Pacer()
        record = pacer.start(0.0, limits, 90)
        pacer.on_success(record, 0.0, bill)
        pacer.finish(record, 0.0)
        assert pacer.delay(0.0, limits, next_one) == waits


def test_requests_before_a_limit_was_configured_count_for_it():
    pacer = Pacer()
    for _ in range(10):
        pacer.finish(pacer.start(0.0, NOT_CONFIGURED, 1), 0.0)
    assert pacer.delay(1.0, NOT_CONFIGURED, 1) == 0.0
    assert pacer.delay(1.0, AccountLimits(requests_per_minute=10), 1) == 59.0


def test_lowered_limit_waits_until_enough_has_expired():
    pacer, configured = Pacer(), AccountLimits(requests_per_minute=10)
    for second in range(10):
        pacer.finish(pacer.start(float(second), configured, 1), float(second))
    assert pacer.delay(10.0, AccountLimits(requests_per_minute=4), 1) == 56.0  # until the seventh has left


def test_absurd_bill_expires_with_its_minute():
    pacer, configured = Pacer(), AccountLimits(tokens_per_minute=100)
    absurd, plain = pacer.start(0.0, configured, 5), pacer.start(0.0, configured, 90)
    pacer.on_success(absurd, 0.1, 10**17)
    for record in (absurd, plain):
        pacer.finish(record, 0.1)
    assert pacer.delay(61.0, configured, 100) == 0.0


def test_configured_minute_of_thousands_of_requests_holds():
    limits = AccountLimits(requests_per_minute=6_000)
    arrived = arrivals(limits, [(0.0, 1 / 64, 0.0, 1, 1, "success")] * 7_500)
    assert sum(1 for when, _ in arrived if when < 60.0) <= 6_000


# ── requests in flight ───────────────────────────────────────────────────────────────────────────


def start_requests(pacer, requests, now=0.0, limits=NOT_CONFIGURED):
    """Start so many requests."""
    return [pacer.start(now, limits, 1) for _ in range(requests)]


def keep_busy(pacer, level, seconds, *, start=0.0, each=1):
    """Keep `level` requests in flight (a number, or a function of the pacer), ten of which succeed each second.

    Returns:
        When that ends, none being in flight any more.
    """
    steps, in_flight = round(seconds * 10), []
    for step in range(steps):
        now = start + step / 10
        for record in in_flight[:each]:
            pacer.on_success(record, now, 1)
            pacer.finish(record, now)
        del in_flight[:each]
        maximum = level(pacer) if callable(level) else level
        while len(in_flight) < maximum:
            in_flight.append(pacer.start(now, NOT_CONFIGURED, 1))
    for record in in_flight:
        pacer.on_success(record, now, 1)
        pacer.finish(record, now)
    return now


def in_flight_of(pacer):
    return pacer.max_in_flight(NOT_CONFIGURED)


def test_configured_concurrency_holds_at_once_and_is_lowered():
    pacer, configured = Pacer(), AccountLimits(in_flight=100)
    assert pacer.max_in_flight(configured) == 100
    records = start_requests(pacer, 100, limits=configured)
    pacer.on_rate_limited(records[49], 0.1, "in_flight", None, 0.0)
    assert pacer.max_in_flight(configured) == 47
    assert pacer.max_in_flight(AccountLimits(in_flight=3)) == 3


def test_learned_concurrency_grows_with_use_to_the_maximum():
    pacer = Pacer()
    assert in_flight_of(pacer) == INITIAL_IN_FLIGHT
    now = keep_busy(pacer, 2, 10.0)
    assert in_flight_of(pacer) == INITIAL_IN_FLIGHT
    now = keep_busy(pacer, in_flight_of, 1.0, start=now)
    assert INITIAL_IN_FLIGHT < in_flight_of(pacer) <= 2 * INITIAL_IN_FLIGHT
    keep_busy(pacer, in_flight_of, 10.0, start=now)
    assert in_flight_of(pacer) == MAX_IN_FLIGHT


def test_idle_hour_counts_as_one_second_of_use():
    pacer = Pacer()
    start_requests(pacer, INITIAL_IN_FLIGHT - 1, 0.0)
    start_requests(pacer, 1, 3600.0)
    assert in_flight_of(pacer) <= 2 * INITIAL_IN_FLIGHT


def test_simultaneous_rejections_lower_the_limit_once():
    pacer = Pacer()
    records = start_requests(pacer, 8)
    for record in records[4:]:
        pacer.on_rate_limited(record, 0.2, "in_flight", None, 0.0)
        pacer.finish(record, 0.2)
    assert pacer.max_in_flight(NOT_CONFIGURED) == 4


# ── which limit a rejection lowers ────────────────────────────────────────────────────────────────


def rate_of(pacer, now, tokens=1, requests=50):
    """Requests a second that learned rates allow; infinite if there are none."""
    for _ in range(requests):
        pacer.finish(pacer.start(now, NOT_CONFIGURED, tokens), now)
    wait = pacer.delay(now, NOT_CONFIGURED, tokens)
    return requests / (wait + 0.04) if wait > 0.0 else float("inf")


def reject(pacer, now, *, level, reported=None, documented=None):
    """Start requests, of which the last is rejected."""
    *_, record = start_requests(pacer, level, now)
    pacer.on_rate_limited(record, now, reported, documented, 0.0)
    pacer.finish(record, now)


@pytest.mark.parametrize(
    ("reported", "documented", "in_flight"),
    [
        ("in_flight", "requests", True),
        ("requests", "in_flight", False),
        (None, "in_flight", True),
        (None, "requests", False),
        (None, "tokens", False),
    ],
)
def test_limit_kind_is_the_reported_else_the_documented(reported, documented, in_flight):
    pacer = Pacer()
    now = keep_busy(pacer, 2, 10.0)
    reject(pacer, now, level=3, reported=reported, documented=documented)
    assert (in_flight_of(pacer) < INITIAL_IN_FLIGHT) is in_flight
    assert (rate_of(pacer, now) < 100.0) is not in_flight


def test_rejection_at_a_recent_concurrency_lowers_a_rate():
    pacer = Pacer()
    now = keep_busy(pacer, 6, 10.0)
    reject(pacer, now, level=4)
    assert in_flight_of(pacer) >= INITIAL_IN_FLIGHT
    assert rate_of(pacer, now) == pytest.approx(15.0, rel=0.4)  # ten a second, and five more at the end


def test_rejection_above_recent_concurrency_lowers_concurrency():
    pacer = Pacer()
    now = keep_busy(pacer, 4, 10.0)
    reject(pacer, now, level=6)
    assert in_flight_of(pacer) == 5
    assert rate_of(pacer, now) == float("inf")


def test_rejection_of_a_request_alone_lowers_a_rate():
    pacer = Pacer()
    now = keep_busy(pacer, 1, 10.0)
    reject(pacer, now, level=1, documented="in_flight")
    assert in_flight_of(pacer) == INITIAL_IN_FLIGHT
    assert rate_of(pacer, now) < 100.0


def test_request_sent_before_a_decrease_changes_nothing():
    pacer = Pacer()
    now = keep_busy(pacer, 2, 10.0)
    early, late = start_requests(pacer, 2, now)
    pacer.on_rate_limited(late, now + 0.5, "requests", None, 0.0)
    before = pacer._rates["requests"].value
    pacer.on_rate_limited(early, now + 0.6, "in_flight", None, 0.0)
    assert (in_flight_of(pacer), pacer._rates["requests"].value) == (INITIAL_IN_FLIGHT, before)


def test_learned_token_rate_delays_by_tokens():
    pacer = Pacer()
    now = keep_busy(pacer, 1, 10.0)  # ten requests of one token each second
    reject(pacer, now, level=1, reported="tokens")
    few = rate_of(pacer, now)
    assert rate_of(pacer, now + 1000.0, tokens=10) == pytest.approx(few / 10, rel=0.5)


def test_idle_time_is_not_saved_for_a_burst():
    pacer = Pacer()
    now = keep_busy(pacer, 1, 10.0)
    reject(pacer, now, level=1, reported="requests")
    at_once = rate_of(pacer, now)
    assert rate_of(pacer, now + 1000.0) == pytest.approx(at_once, rel=1.0)


def test_minimum_rate_is_one_request_in_five_seconds():
    pacer, now, requests = Pacer(), 0.0, []
    for _ in range(100):
        now += max(0.0, pacer.delay(now, NOT_CONFIGURED, 1))
        requests.append(now)
        record = pacer.start(now, NOT_CONFIGURED, 1)
        pacer.on_rate_limited(record, now + 0.1, "requests", None, 0.0)
        pacer.finish(record, now + 0.1)
        now += 0.1
    waits = [after - before for before, after in pairwise(requests)]
    assert 1.0 < max(waits) <= 5.2


def test_no_waits_skips_learned_rates_and_not_configured_ones():
    pacer = Pacer()
    now = keep_busy(pacer, 1, 10.0)
    reject(pacer, now, level=1, reported="requests")
    assert rate_of(pacer, now) < 100.0
    assert pacer.delay(now, NOT_CONFIGURED, 1) > 0.0
    with multiembed.no_waits():
        assert pacer.delay(now, NOT_CONFIGURED, 1) == 0.0
        assert pacer.delay(now, AccountLimits(requests_per_minute=10), 1) > 0.0


# ── early rejections ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("reported", ["requests", "tokens", "in_flight", None])
def test_rejections_before_any_success_set_no_limit(reported):
    pacer = Pacer()
    for attempt in range(5):
        reject(pacer, float(attempt), level=1, reported=reported, documented="requests")
    assert in_flight_of(pacer) == INITIAL_IN_FLIGHT
    assert rate_of(pacer, 5.0) == float("inf")


@pytest.mark.parametrize(("reported", "tokens"), [("requests", 1), ("tokens", 1)])
def test_early_rejections_after_one_success_leave_a_usable_rate(reported, tokens):
    pacer = Pacer()
    first = pacer.start(0.0, NOT_CONFIGURED, tokens)
    pacer.on_success(first, 0.1, tokens)
    pacer.finish(first, 0.1)
    for attempt in range(3):
        reject(pacer, 0.2 + attempt / 10, level=2, reported=reported)
    assert rate_of(pacer, 1.0) > 20.0


def test_early_rejection_of_few_in_flight_leaves_several():
    pacer = Pacer()
    first = pacer.start(0.0, NOT_CONFIGURED, 1)
    pacer.on_success(first, 0.1, 1)
    pacer.finish(first, 0.1)
    reject(pacer, 0.2, level=1, reported="in_flight")
    assert in_flight_of(pacer) >= INITIAL_IN_FLIGHT // 2 - 1


def test_lasting_rejections_set_a_limit_without_any_success():
    pacer = Pacer()
    for attempt in range(20):
        reject(pacer, float(attempt), level=1, reported="requests")
    assert rate_of(pacer, 20.0) < 5.0


# ── the server's second ─────────────────────────────────────────────────────────────


def rejections_of(kind, arrived, most):
    """How many of these times of arrival a server refuses that allows so many a second."""
    rejections, accepted, level, since = 0, [], float(most), 0.0
    for when in arrived:
        level, since = min(float(most), level + (when - since) * most), when
        start = float(int(when)) if kind == "calendar second" else when - 1.0 + 1e-9
        if level < 1.0 - 1e-9 if kind == "token bucket" else sum(each >= start for each in accepted[-most:]) >= most:
            rejections += 1
        else:
            accepted.append(when)
            level -= 1.0
    return rejections


@pytest.mark.parametrize("kind", ["calendar second", "sliding second", "token bucket"])
@pytest.mark.parametrize(("latency", "way"), [(7, 1), (20, 5), (39, 10), (39, 30)])
def test_configured_second_is_used_however_the_server_counts(kind, latency, way):
    configured = AccountLimits(requests_per_minute=600, per_second=True)
    requests = [(0.0, latency / 64, way / 64, 1, 1, "success")] * 600
    arrived = [when for when, _ in arrivals(configured, requests)]
    assert arrived[-1] <= 60.0 / 0.95
    assert rejections_of(kind, arrived, 10) <= 3
