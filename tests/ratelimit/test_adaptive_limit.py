"""Adaptive limit: how it decreases, grows back and converges to a quota that is not configured; throughput meter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiembed.ratelimit.adaptive_limit import AdaptiveLimit, ThroughputMeter
from multiembed.ratelimit.sliding_window import InFlightRecord

pytestmark = pytest.mark.unit

STEP = 0.05
"""Seconds between two requests, each of which the limit delays."""

spans = st.floats(0.0, 30.0)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("used"), spans, st.just(0.0), st.just(0.0)),
        st.tuples(st.just("rejected"), st.floats(0.0, 500.0), st.floats(0.0, 500.0), st.floats(0.0, 10.0)),
    ),
    max_size=60,
)


def decreased(at=100.0, **options):
    """A limit after one rejection at this value."""
    limit = AdaptiveLimit(at, minimum=1.0, maximum=1000.0)
    limit.decrease(at, **options)
    return limit


def use(limit, seconds):
    """Let so many seconds of use pass, request by request."""
    for _ in range(round(seconds / STEP)):
        limit.grow(STEP)


def play(quota, *, start=8.0, seconds=60.0):
    """Use a quota that rejects values above it. Returns: the value at each step, and whether it was rejected there."""
    limit, values, rejections = AdaptiveLimit(start, minimum=1.0, maximum=256.0), [], []
    for _ in range(round(seconds / STEP)):
        limit.grow(STEP)
        values.append(limit.value)
        rejections.append(limit.value > quota(len(values) * STEP))
        if rejections[-1]:
            limit.decrease(limit.value)
    return values, rejections


# ── search ────────────────────────────────────────────────────────────────────────────────────


def test_adaptive_limit_doubles_each_second_up_to_the_maximum():
    limit = AdaptiveLimit(8.0, minimum=1.0, maximum=50.0)
    for expected in (16.0, 32.0, 50.0, 50.0):
        use(limit, 1.0)
        assert limit.value == pytest.approx(expected)
    assert limit.searching


def test_adaptive_limit_without_use_does_not_grow():
    searching, known = AdaptiveLimit(8.0, minimum=1.0, maximum=50.0), decreased()
    before = known.value
    for limit in (searching, known):
        for _ in range(1000):
            limit.grow(0.0)
    assert (searching.value, known.value) == (8.0, before)


def test_adaptive_limit_above_the_maximum_is_not_lowered_by_use():
    limit = AdaptiveLimit(80.0, minimum=1.0, maximum=50.0)
    use(limit, 1.0)
    assert limit.value == 80.0


def test_restarted_search_doubles_from_a_share_of_the_value():
    limit = decreased()
    limit.restart_search(0.4)
    assert (limit.value, limit.searching) == (pytest.approx(38.0), True)
    use(limit, 1.0)
    assert limit.value == pytest.approx(76.0)
    limit.restart_search(0.001)
    assert limit.value == 1.0


# ── decrease ──────────────────────────────────────────────────────────────────────────────────────


def test_first_rejection_lowers_the_limit_by_five_percent():
    limit = decreased(100.0)
    assert limit.value == pytest.approx(95.0)
    assert not limit.searching


def test_consecutive_rejections_lower_the_limit_more_each_time():
    limit, left = decreased(100.0), []
    for _ in range(5):
        before = limit.value
        use(limit, 0.1)
        peak = limit.value
        limit.decrease(peak)
        left.append(limit.value / peak)
        assert before <= peak
    assert left == pytest.approx([0.88, 0.75, 0.5, 0.5, 0.5])


def test_later_rejection_lowers_the_limit_a_little_again():
    limit = decreased(100.0)
    use(limit, 0.1)
    limit.decrease(limit.value)
    use(limit, 1.5)
    peak = limit.value
    limit.decrease(peak)
    assert limit.value == pytest.approx(0.95 * peak)


def test_decrease_stays_near_the_throughput():
    limit = decreased(100.0)
    limit.decrease(limit.value, throughput=90.0)
    assert limit.value == pytest.approx(0.95 * 90.0)
    limit.decrease(limit.value, throughput=1e9)  # throughput does not keep it at the rejected value
    assert limit.value < 0.95 * 90.0


def test_consecutive_decreases_go_below_the_throughput():
    limit = decreased(100.0)
    for _ in range(3):
        limit.decrease(limit.value, throughput=90.0)
    assert 0.5 * 90.0 < limit.value < 0.75 * 90.0


def test_consecutive_rejections_lower_the_value_to_recover():
    once, often = decreased(100.0), decreased(200.0)
    for _ in range(2):
        often.decrease(often.value)
    last = often.value / 0.75
    for limit in (once, often):
        use(limit, 2.0)
    assert once.value == pytest.approx(100.0)
    assert often.value == pytest.approx((0.75 + 1.0) / 2.0 * last)


def test_rejection_above_a_known_limit_counts_at_its_value():
    limit = decreased(100.0)
    use(limit, 1.5)
    before = limit.value
    limit.decrease(400.0)
    assert limit.value == pytest.approx(0.95 * before)


def test_rejection_far_below_the_limit_lowers_it_there():
    limit = decreased(100.0)
    use(limit, 1.5)
    limit.decrease(10.0)
    assert limit.value == pytest.approx(9.5)


@given(start=st.floats(1.0, 300.0), steps=steps)
def test_adaptive_limit_stays_within_its_bounds(start, steps):
    limit = AdaptiveLimit(start, minimum=1.0, maximum=256.0)
    for kind, amount, passed, pause in steps:
        before, searching = limit.value, limit.searching
        if kind == "used":
            limit.grow(amount)
            assert limit.value >= before
            assert limit.value <= max(before, 256.0) or not searching
        else:
            limit.decrease(amount, passed, pause)
            assert 1.0 <= limit.value <= max(amount if searching else before, 1.0)
            assert limit.value < amount or amount <= 1.0
            assert not limit.searching


# ── recovery ─────────────────────────────────────────────────────────────────────────────────


def test_limit_recovers_in_two_seconds_and_grows_beyond():
    limit = decreased(100.0)
    use(limit, 1.9)
    assert 95.0 < limit.value <= 100.0
    use(limit, 0.2)
    assert limit.value == pytest.approx(100.0, rel=0.001)
    use(limit, 2.9)
    assert limit.value > 110.0


def test_limit_with_long_recovery_grows_quickly_afterwards():
    limit = decreased(100.0)
    for _ in range(4):
        use(limit, 2.0)
        limit.decrease(100.0)
    use(limit, 8.0)
    known = limit.value
    use(limit, 4.0)
    assert limit.value == pytest.approx(1.05 * known, rel=0.01)
    use(limit, 8.0)
    assert limit.value > 2.0 * known


def test_recovery_is_steep_at_first_and_flat_near_the_end():
    limit, gains = decreased(100.0), []
    for _ in range(4):
        before = limit.value
        use(limit, 0.5)
        gains.append(limit.value - before)
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 10 * gains[-1]


def test_rejections_at_the_same_value_lengthen_the_recovery():
    limit, waits = decreased(100.0), []
    for _ in range(5):
        seconds = 0.0
        while limit.value < 99.99:
            use(limit, STEP)
            seconds += STEP
        waits.append(seconds)
        limit.decrease(100.0)
    assert waits == sorted(waits)
    assert waits[0] <= 2.0
    assert 4.0 < waits[-1] <= 8.0


def test_rejection_at_another_value_keeps_the_recovery_short():
    limit = decreased(100.0)
    for _ in range(4):
        use(limit, 8.0)
        limit.decrease(100.0)
    use(limit, 2.0)
    limit.decrease(50.0)
    use(limit, 2.1)
    assert limit.value >= 50.0


def test_requested_pauses_take_a_twentieth_of_the_time():
    limit = decreased(100.0, pause=3.0)
    use(limit, 59.0)
    assert limit.value <= 100.0
    use(limit, 62.0)
    assert limit.value > 100.0


def test_value_far_below_the_quota_grows_within_seconds():
    limit = decreased(1.0)
    use(limit, 12.0)
    assert limit.value > 100.0


def test_recovery_can_be_shorter_for_an_early_rejection():
    limit = decreased(100.0, recovery=0.5)
    use(limit, 0.5)
    assert limit.value == pytest.approx(100.0)


# ── convergence ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("start", [8.0, 100.0])
@pytest.mark.parametrize("quota", [2.5, 8.0, 10.0, 30.0, 50.0, 200.0])
def test_adaptive_limit_converges_with_few_rejections(quota, start):
    values, rejections = play(lambda _: quota, start=start)
    after = round(10.0 / STEP)
    assert sum(values[after:]) / len(values[after:]) >= 0.93 * quota
    assert sum(rejections[after:]) <= 0.02 * len(rejections[after:])


@pytest.mark.parametrize(("before", "then"), [(50.0, 25.0), (30.0, 15.0), (8.0, 4.0)])
def test_adaptive_limit_follows_a_quota_that_halves(before, then):
    values, rejections = play(lambda now: before if now < 30.0 else then)
    change, after = round(30.0 / STEP), round(35.0 / STEP)
    assert sum(values[after:]) / len(values[after:]) >= 0.9 * then
    assert sum(rejections[change:]) <= 0.03 * len(rejections[change:])


@pytest.mark.parametrize(("before", "then"), [(10.0, 30.0), (8.0, 50.0)])
def test_adaptive_limit_finds_a_raised_quota_in_half_a_minute(before, then):
    values, _ = play(lambda now: before if now < 30.0 else then, seconds=60.0)
    assert values[-1] >= 0.9 * then


def test_adaptive_limit_without_quota_reaches_the_maximum():
    values, _ = play(lambda _: float("inf"), seconds=10.0)
    assert values[-1] == 256.0


# ── throughput ───────────────────────────────────────────────────────────────────────────────────


def success(tokens=1.0, concurrency=1):
    return InFlightRecord(0.0, tokens, concurrency)


def test_meter_reports_whether_it_holds_few():
    meter = ThroughputMeter()
    for number in range(10):
        assert meter.holds_few(number / 10)
        meter.add(number / 10, success())
    assert not meter.holds_few(1.0)
    assert meter.holds_few(11.0)


def test_meter_rate_is_that_of_the_last_second():
    meter = ThroughputMeter()
    for tick in range(300):
        meter.add(tick / 30, success(tokens=2.0))
    assert meter.rate(300 / 30, "requests") == pytest.approx(30.0, rel=0.05)
    assert meter.rate(300 / 30, "tokens") == pytest.approx(60.0, rel=0.05)


def test_meter_rate_of_few_successes_covers_ten_seconds():
    meter = ThroughputMeter()
    for tick in range(40):
        meter.add(float(tick), success())
    assert meter.rate(39.0, "requests") == pytest.approx(1.1, rel=0.1)


def test_meter_without_recent_success_is_zero():
    meter = ThroughputMeter()
    assert (meter.rate(0.0, "tokens"), meter.max_concurrency(0.0)) == (0.0, 0)
    meter.add(0.0, success(tokens=5.0, concurrency=3))
    assert (meter.rate(0.0, "tokens"), meter.max_concurrency(0.0)) == (5.0, 3)
    assert (meter.rate(60.0, "tokens"), meter.max_concurrency(58.0)) == (0.0, 0)


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 100.0)), min_size=1, max_size=100))
def test_meter_rate_is_bounded_by_ten_seconds(added):
    meter, now, log = ThroughputMeter(), 0.0, []
    for gap, amount in added:
        now += gap
        meter.add(now, success(tokens=amount))
        log.append((now, amount))
    assert 0.0 <= meter.rate(now, "tokens") <= sum(amount for when, amount in log if now - when <= 10.0) + 1e-6
