"""The pace of an account: told ceilings hold in every window that a server may count, others are learned."""

from __future__ import annotations

import heapq
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiembed.ratelimit.pacer import FIRST_IN_FLIGHT, MOST_IN_FLIGHT, AccountLimits, Pacer
from multiembed.ratelimit.sliding_window import BilledShare, Transit

UNTOLD = AccountLimits()

# Whole 64ths are exact, so that no sum of them is a hair off.
ticks = st.integers(0, 640).map(lambda number: number / 64)
gaps = st.one_of(st.just(0.0), st.just(0.0), ticks)


@st.composite
def requests(draw, most_tokens):
    """Gap before it, latency, the share of that on the way, estimate, bill, and what the provider says."""
    latency = draw(st.integers(0, 640)) / 64
    way = draw(st.integers(0, int(latency * 64))) / 64
    estimate = draw(st.integers(1, most_tokens))
    bill = draw(st.integers(0, estimate))
    return draw(gaps), latency, way, estimate, bill, draw(st.sampled_from(["well", "well", "well", "too fast", "lost"]))


@st.composite
def accounts(draw, *, per_second):
    """Ceilings, and requests that each fit them."""
    a_minute = draw(st.one_of(st.none(), st.integers(1, 40) if not per_second else st.integers(1, 400)))
    tokens = draw(st.one_of(st.none(), st.integers(60, 6000)))
    ceilings = AccountLimits(requests_per_minute=a_minute, tokens_per_minute=tokens, per_second=per_second)
    most = 100 if tokens is None else int(ceilings.max_tokens_per_request)
    return ceilings, draw(st.lists(requests(most), max_size=80))


def arrivals(ceilings, asked, *, soon=False):
    """What a server sees: when each request came, and its tokens as billed. Requests go as soon as they may.

    Args:
        ceilings: the told ones.
        asked: requests as drawn.
        soon: the ways to the server differ by at most 1/64 s, and bills are as estimated.
    """
    pace, now, flying, seen, number = Pacer(), 0.0, [], [], count()

    def answer():
        when, _, ticket, bill, verdict = heapq.heappop(flying)
        if verdict == "well":
            pace.on_success(ticket, when, bill)
        elif verdict == "too fast":
            pace.on_rate_limited(ticket, when, None, None, 0.0)
        pace.finish(ticket, when)
        return when

    for gap, latency, way, estimate, bill, verdict in asked:
        now += gap
        while flying and flying[0][0] <= now:
            answer()
        while (wait := pace.delay(now, ceilings, estimate, learned=False)) > 0.0:
            if flying and flying[0][0] <= now + wait:
                now = answer()
            else:
                assert wait < float("inf"), "it waits for an answer, and none is to come"
                now += wait
        ticket = pace.start(now, ceilings, estimate)
        if soon:
            latency, way, bill = latency + 0.25, 0.25 + min(way, 1 / 64), estimate
        seen.append((now + way, bill if verdict == "well" else estimate))
        heapq.heappush(flying, (now + latency, next(number), ticket, bill, verdict))
    return sorted(seen)


def most_in(seen, seconds):
    """The most requests, and the most tokens, in any stretch of so many seconds."""
    windows = [[tokens for when, tokens in seen if start <= when < start + seconds] for start, _ in seen]
    return max(map(len, windows), default=0), max(map(sum, windows), default=0)


# ── told ceilings ────────────────────────────────────────────────────────────────────────────────


def holds(seen, ceilings, seconds, share):
    most_requests, most_tokens = most_in(seen, seconds)
    if ceilings.requests_per_minute is not None:
        assert most_requests <= max(1, ceilings.requests_per_minute // share)
    if ceilings.tokens_per_minute is not None:
        assert most_tokens <= max(1, ceilings.tokens_per_minute // share)


@given(account=accounts(per_second=False))
def test_no_minute_holds_more_than_was_told_however_long_requests_are_on_their_way(account):
    ceilings, asked = account
    holds(arrivals(ceilings, asked), ceilings, 60.0, 1)


@given(account=accounts(per_second=True))
def test_no_minute_and_no_second_holds_more_than_was_told_where_both_are_counted(account):
    ceilings, asked = account
    seen = arrivals(ceilings, asked, soon=True)
    holds(seen, ceilings, 60.0, 1)
    holds(seen, ceilings, 1.0, 60)


@pytest.mark.parametrize("per_second", [False, True])
@pytest.mark.parametrize(
    ("told", "estimate", "bill"),
    [
        ({"requests_per_minute": 1200}, 10, 10),
        ({"tokens_per_minute": 120_000}, 100, 100),
        ({"tokens_per_minute": 120_000}, 200, 100),  # half of what was reserved is given back
        ({"requests_per_minute": 1200, "tokens_per_minute": 10**9}, 10, 10),
    ],
)
def test_nearly_all_of_it_is_used_where_answers_come_soon(per_second, told, estimate, bill):
    ceilings = AccountLimits(per_second=per_second, **told)
    seen = arrivals(ceilings, [(0.0, 1 / 64, 0.0, estimate, bill, "well")] * 4700)
    assert seen[-1][0] <= 1.08 * (235.0 if per_second else 180.0)  # a minute's worth goes at once, or a second's


@pytest.mark.parametrize(
    ("ceilings", "requests", "waits"),
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
def test_who_comes_next_waits_until_the_first_of_a_full_window_has_left_it(ceilings, requests, waits):
    pace = Pacer()
    for _ in range(requests):
        assert pace.delay(5.0, ceilings, 10) == 0.0
        ticket = pace.start(5.0, ceilings, 10)
        pace.on_success(ticket, 5.0, 10)
        pace.finish(ticket, 5.0)
    assert pace.delay(5.0, ceilings, 10) == waits
    assert pace.delay(5.0 + waits, ceilings, 10) == 0.0


def test_a_minute_is_counted_from_the_answer_and_nobody_knows_its_end_before_that():
    pace, ceilings = Pacer(), AccountLimits(requests_per_minute=1)
    ticket = pace.start(0.0, ceilings, 1)
    assert pace.delay(30.0, ceilings, 1) == float("inf")
    pace.finish(ticket, 30.0)
    assert pace.delay(30.0, ceilings, 1) == 60.0


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
def test_a_second_is_counted_from_the_answer_or_from_half_a_second_after_the_sending(answered, at, least, most):
    pace, ceilings = Pacer(), AccountLimits(requests_per_minute=61, per_second=True)
    ticket = pace.start(0.0, ceilings, 1)
    if answered is not None:
        pace.finish(ticket, answered)
    assert least <= pace.delay(at, ceilings, 1) <= most


def test_one_slow_answer_holds_nobody_up_but_itself():
    pace, told = Pacer(), AccountLimits(requests_per_minute=60)
    slow, *quick = crowd(pace, 60, ceilings=told)
    for ticket in quick:
        pace.finish(ticket, 1.0)
    assert pace.delay(30.0, told, 1) == 31.0
    pace.finish(slow, 55.0)
    assert pace.delay(61.0, told, 1) == 0.0


def test_a_bill_below_the_estimate_makes_room_and_one_above_takes_it():
    ceilings = AccountLimits(tokens_per_minute=100)
    for bill, next_one, waits in ((40, 60, 0.0), (40, 61, 60.0), (None, 10, 0.0), (None, 11, 60.0), (95, 6, 60.0)):
        pace = Pacer()
        ticket = pace.start(0.0, ceilings, 90)
        pace.on_success(ticket, 0.0, bill)
        pace.finish(ticket, 0.0)
        assert pace.delay(0.0, ceilings, next_one) == waits


def test_what_went_before_a_ceiling_was_told_counts_for_it():
    pace = Pacer()
    for _ in range(10):
        pace.finish(pace.start(0.0, UNTOLD, 1), 0.0)
    assert pace.delay(1.0, UNTOLD, 1) == 0.0
    assert pace.delay(1.0, AccountLimits(requests_per_minute=10), 1) == 59.0


def test_a_ceiling_that_was_lowered_waits_until_enough_has_left():
    pace, told = Pacer(), AccountLimits(requests_per_minute=10)
    for second in range(10):
        pace.finish(pace.start(float(second), told, 1), float(second))
    assert pace.delay(10.0, AccountLimits(requests_per_minute=4), 1) == 56.0  # until the seventh has left


def test_a_bill_out_of_all_reason_is_forgotten_when_its_minute_is_over():
    pace, told = Pacer(), AccountLimits(tokens_per_minute=100)
    absurd, plain = pace.start(0.0, told, 5), pace.start(0.0, told, 90)
    pace.on_success(absurd, 0.1, 10**17)
    for ticket in (absurd, plain):
        pace.finish(ticket, 0.1)
    assert pace.delay(61.0, told, 100) == 0.0


def test_thousands_of_requests_a_minute_are_counted_as_well():
    ceilings = AccountLimits(requests_per_minute=24_000)
    seen = arrivals(ceilings, [(0.0, 1 / 64, 0.0, 1, 1, "well")] * 30_000)
    assert sum(1 for when, _ in seen if when < 60.0) <= 24_000


# ── how many in flight ───────────────────────────────────────────────────────────────────────────


def crowd(pace, requests, now=0.0, ceilings=UNTOLD):
    """So many requests in flight."""
    return [pace.start(now, ceilings, 1) for _ in range(requests)]


def keep_busy(pace, level, seconds, *, start=0.0, each=1):
    """Keep so many requests in flight (a function: as many as there is room for), ten of which pass each second.

    Returns:
        When that ends, none being in flight any more.
    """
    steps, flying = round(seconds * 10), []
    for step in range(steps):
        now = start + step / 10
        for ticket in flying[:each]:
            pace.on_success(ticket, now, 1)
            pace.finish(ticket, now)
        del flying[:each]
        most = level(pace) if callable(level) else level
        while len(flying) < most:
            flying.append(pace.start(now, UNTOLD, 1))
    for ticket in flying:
        pace.on_success(ticket, now, 1)
        pace.finish(ticket, now)
    return now


def room_of(pace):
    return pace.max_in_flight(UNTOLD)


def test_a_told_ceiling_is_the_room_from_the_start_and_a_refusal_lowers_it():
    pace, told = Pacer(), AccountLimits(in_flight=100)
    assert pace.max_in_flight(told) == 100
    tickets = crowd(pace, 100, ceilings=told)
    pace.on_rate_limited(tickets[49], 0.1, "in_flight", None, 0.0)
    assert pace.max_in_flight(told) == 47
    assert pace.max_in_flight(AccountLimits(in_flight=3)) == 3


def test_without_one_the_room_grows_with_use_only_and_to_an_end():
    pace = Pacer()
    assert room_of(pace) == FIRST_IN_FLIGHT
    now = keep_busy(pace, 2, 10.0)
    assert room_of(pace) == FIRST_IN_FLIGHT
    now = keep_busy(pace, room_of, 1.0, start=now)
    assert FIRST_IN_FLIGHT < room_of(pace) <= 2 * FIRST_IN_FLIGHT
    keep_busy(pace, room_of, 10.0, start=now)
    assert room_of(pace) == MOST_IN_FLIGHT


def test_an_idle_hour_counts_as_no_more_than_a_second_of_use():
    pace = Pacer()
    crowd(pace, FIRST_IN_FLIGHT - 1, 0.0)
    crowd(pace, 1, 3600.0)
    assert room_of(pace) <= 2 * FIRST_IN_FLIGHT


def test_many_refusals_of_one_crowd_count_once():
    pace = Pacer()
    tickets = crowd(pace, 8)
    for ticket in tickets[4:]:
        pace.on_rate_limited(ticket, 0.2, "in_flight", None, 0.0)
        pace.finish(ticket, 0.2)
    assert pace.max_in_flight(UNTOLD) == 4


# ── a rate, or requests in flight ────────────────────────────────────────────────────────────────


def rate_of(pace, now, tokens=1, requests=50):
    """Requests a second that learned rates let go, or infinite where there are none."""
    for _ in range(requests):
        pace.finish(pace.start(now, UNTOLD, tokens), now)
    wait = pace.delay(now, UNTOLD, tokens)
    return requests / (wait + 0.04) if wait > 0.0 else float("inf")


def refused(pace, now, *, level, told=None, usual=None):
    """The last of a crowd is refused; the others go on."""
    *_, ticket = crowd(pace, level, now)
    pace.on_rate_limited(ticket, now, told, usual, 0.0)
    pace.finish(ticket, now)


@pytest.mark.parametrize(
    ("told", "usual", "in_flight"),
    [
        ("in_flight", "requests", True),
        ("requests", "in_flight", False),
        (None, "in_flight", True),
        (None, "requests", False),
        (None, "tokens", False),
    ],
)
def test_words_tell_what_is_limited_and_documents_where_words_do_not(told, usual, in_flight):
    pace = Pacer()
    now = keep_busy(pace, 2, 10.0)
    refused(pace, now, level=3, told=told, usual=usual)
    assert (room_of(pace) < FIRST_IN_FLIGHT) is in_flight
    assert (rate_of(pace, now) < 100.0) is not in_flight


def test_where_nobody_tells_a_crowd_that_passed_lately_was_not_too_large():
    pace = Pacer()
    now = keep_busy(pace, 6, 10.0)
    refused(pace, now, level=4)
    assert room_of(pace) >= FIRST_IN_FLIGHT
    assert rate_of(pace, now) == pytest.approx(15.0, rel=0.4)  # ten a second, and five more at the end


def test_where_nobody_tells_a_crowd_larger_than_any_lately_was_too_large():
    pace = Pacer()
    now = keep_busy(pace, 4, 10.0)
    refused(pace, now, level=6)
    assert room_of(pace) == 5
    assert rate_of(pace, now) == float("inf")


def test_one_request_alone_was_not_too_many_in_flight_whatever_the_documents_say():
    pace = Pacer()
    now = keep_busy(pace, 1, 10.0)
    refused(pace, now, level=1, usual="in_flight")
    assert room_of(pace) == FIRST_IN_FLIGHT
    assert rate_of(pace, now) < 100.0


def test_what_was_sent_before_a_limit_fell_says_nothing_new():
    pace = Pacer()
    now = keep_busy(pace, 2, 10.0)
    early, late = crowd(pace, 2, now)
    pace.on_rate_limited(late, now + 0.5, "requests", None, 0.0)
    before = pace._rates["requests"].value
    pace.on_rate_limited(early, now + 0.6, "in_flight", None, 0.0)
    assert (room_of(pace), pace._rates["requests"].value) == (FIRST_IN_FLIGHT, before)


def test_a_learned_rate_of_tokens_holds_requests_up_by_their_tokens():
    pace = Pacer()
    now = keep_busy(pace, 1, 10.0)  # ten requests of one token each second
    refused(pace, now, level=1, told="tokens")
    few = rate_of(pace, now)
    assert rate_of(pace, now + 1000.0, tokens=10) == pytest.approx(few / 10, rel=0.5)


def test_a_request_that_was_late_lets_the_next_one_come_no_more_than_a_little_sooner():
    pace = Pacer()
    now = keep_busy(pace, 1, 10.0)
    refused(pace, now, level=1, told="requests")
    at_once = rate_of(pace, now)
    assert rate_of(pace, now + 1000.0) == pytest.approx(at_once, rel=1.0)


def test_an_account_that_refuses_everything_is_still_asked_every_five_seconds():
    pace, now, asked = Pacer(), 0.0, []
    for _ in range(100):
        now += max(0.0, pace.delay(now, UNTOLD, 1))
        asked.append(now)
        ticket = pace.start(now, UNTOLD, 1)
        pace.on_rate_limited(ticket, now + 0.1, "requests", None, 0.0)
        pace.finish(ticket, now + 0.1)
        now += 0.1
    waits = [after - before for before, after in pairwise(asked)]
    assert 1.0 < max(waits) <= 5.2


def test_learned_rates_can_be_left_out_and_told_ones_cannot():
    pace = Pacer()
    now = keep_busy(pace, 1, 10.0)
    refused(pace, now, level=1, told="requests")
    assert rate_of(pace, now) < 100.0
    assert pace.delay(now, UNTOLD, 1) > 0.0
    assert pace.delay(now, UNTOLD, 1, learned=False) == 0.0
    assert pace.delay(now, AccountLimits(requests_per_minute=10), 1, learned=False) > 0.0


# ── early refusals ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("told", ["requests", "tokens", "in_flight", None])
def test_refusals_before_any_success_set_no_limit(told):
    pace = Pacer()
    for attempt in range(5):
        refused(pace, float(attempt), level=1, told=told, usual="requests")
    assert room_of(pace) == FIRST_IN_FLIGHT
    assert rate_of(pace, 5.0) == float("inf")


@pytest.mark.parametrize(("told", "tokens"), [("requests", 1), ("tokens", 1)])
def test_early_refusals_after_one_success_leave_a_usable_rate(told, tokens):
    pace = Pacer()
    first = pace.start(0.0, UNTOLD, tokens)
    pace.on_success(first, 0.1, tokens)
    pace.finish(first, 0.1)
    for attempt in range(3):
        refused(pace, 0.2 + attempt / 10, level=2, told=told)
    assert rate_of(pace, 1.0) > 20.0


def test_early_refusal_of_few_in_flight_leaves_several():
    pace = Pacer()
    first = pace.start(0.0, UNTOLD, 1)
    pace.on_success(first, 0.1, 1)
    pace.finish(first, 0.1)
    refused(pace, 0.2, level=1, told="in_flight")
    assert room_of(pace) >= FIRST_IN_FLIGHT // 2 - 1


def test_lasting_refusals_set_a_limit_without_any_success():
    pace = Pacer()
    for attempt in range(20):
        refused(pace, float(attempt), level=1, told="requests")
    assert rate_of(pace, 20.0) < 5.0


# ── the way to the server, and bills ─────────────────────────────────────────────────────────────


def refused_by(kind, seen, most):
    """How many of these times of arrival a server refuses that allows so many a second."""
    refusals, accepted, level, since = 0, [], float(most), 0.0
    for when in seen:
        level, since = min(float(most), level + (when - since) * most), when
        start = float(int(when)) if kind == "calendar second" else when - 1.0 + 1e-9
        if level < 1.0 - 1e-9 if kind == "token bucket" else sum(each >= start for each in accepted[-most:]) >= most:
            refusals += 1
        else:
            accepted.append(when)
            level -= 1.0
    return refusals


@pytest.mark.parametrize("kind", ["calendar second", "sliding second", "token bucket"])
@pytest.mark.parametrize(("latency", "way"), [(7, 1), (20, 5), (39, 10), (39, 30)])
def test_told_second_is_nearly_used_however_it_is_counted(kind, latency, way):
    told = AccountLimits(requests_per_minute=600, per_second=True)
    asked = [(0.0, latency / 64, way / 64, 1, 1, "well")] * 600
    seen = [when for when, _ in arrivals(told, asked)]
    assert seen[-1] <= 60.0 / 0.95
    assert refused_by(kind, seen, 10) <= 3


def test_second_of_differing_ways_is_counted_longer_after_a_refusal():
    transit = Transit()
    for _ in range(50):
        transit.answered()
    least = transit.spread
    assert least <= 0.02
    assert transit.refused(0.001) == least  # a refusal that came back at once: the way is short
    assert transit.refused(0.2) == 2.0 * least
    for _ in range(10):
        transit.refused(0.2)
    assert transit.spread == 0.2
    for _ in range(250):
        transit.answered()
    assert transit.spread == pytest.approx(0.1)


def test_billed_share_covers_most_bills_and_never_exceeds_the_estimate():
    share = BilledShare()
    assert share.value == 1.0
    for _ in range(20):
        share.add(9.0, 10.0)
    assert share.value == pytest.approx(0.9)
    for number in range(100):
        share.add(6.0 + 4.0 * (number % 2), 10.0)
    assert 0.9 < share.value <= 1.0
    share.add(50.0, 10.0)
    share.add(1.0, 0.0)
    assert share.value == 1.0
