"""A learned limit's curve: how it falls, how it grows back, and what it settles at against limits that nobody tells."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multiembed.ratelimit.adaptive_limit import AdaptiveLimit, ThroughputMeter

STEP = 0.05
"""Seconds between two requests, where every one of them is held up."""

spans = st.floats(0.0, 30.0)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("used"), spans, st.just(0.0), st.just(0.0)),
        st.tuples(st.just("refused"), st.floats(0.0, 500.0), st.floats(0.0, 500.0), st.floats(0.0, 10.0)),
    ),
    max_size=60,
)


def fallen(at=100.0, **told):
    """One that was refused once, at this value."""
    one = AdaptiveLimit(at, least=1.0, most=1000.0)
    one.decrease(at, **told)
    return one


def use(one, seconds):
    """Let so many seconds of use pass, request by request."""
    for _ in range(round(seconds / STEP)):
        one.grow(STEP)


def play(limit, *, start=8.0, seconds=60.0):
    """Against a limit that refuses what is above it: the value at each step, and whether it was refused there."""
    one, values, refusals = AdaptiveLimit(start, least=1.0, most=256.0), [], []
    for _ in range(round(seconds / STEP)):
        one.grow(STEP)
        values.append(one.value)
        refusals.append(one.value > limit(len(values) * STEP))
        if refusals[-1]:
            one.decrease(one.value)
    return values, refusals


# ── searching ────────────────────────────────────────────────────────────────────────────────────


def test_it_doubles_with_each_second_of_use_while_nothing_was_refused_and_ends_at_the_most():
    one = AdaptiveLimit(8.0, least=1.0, most=50.0)
    for expected in (16.0, 32.0, 50.0, 50.0):
        use(one, 1.0)
        assert one.value == pytest.approx(expected)
    assert one.searching


def test_what_is_not_used_does_not_grow():
    searching, known = AdaptiveLimit(8.0, least=1.0, most=50.0), fallen()
    before = known.value
    for one in (searching, known):
        for _ in range(1000):
            one.grow(0.0)
    assert (searching.value, known.value) == (8.0, before)


def test_a_limit_that_began_above_the_most_is_not_lowered_by_use():
    one = AdaptiveLimit(80.0, least=1.0, most=50.0)
    use(one, 1.0)
    assert one.value == 80.0


def test_a_new_search_begins_where_it_is_told_and_never_below_the_least():
    one = fallen()
    one.restart_search(40.0)
    assert (one.value, one.searching) == (40.0, True)
    use(one, 1.0)
    assert one.value == pytest.approx(80.0)
    one.restart_search(0.1)
    assert one.value == 1.0


# ── falling ──────────────────────────────────────────────────────────────────────────────────────


def test_a_refusal_takes_a_little():
    one = fallen(100.0)
    assert one.value == pytest.approx(95.0)
    assert not one.searching


def test_refusals_that_follow_at_once_take_more_each_time_down_to_half():
    one, left = fallen(100.0), []
    for _ in range(5):
        before = one.value
        use(one, 0.1)
        peak = one.value
        one.decrease(peak)
        left.append(one.value / peak)
        assert before <= peak
    assert left == pytest.approx([0.88, 0.75, 0.5, 0.5, 0.5])


def test_a_refusal_after_a_while_takes_a_little_again():
    one = fallen(100.0)
    use(one, 0.1)
    one.decrease(one.value)
    use(one, 1.5)
    peak = one.value
    one.decrease(peak)
    assert one.value == pytest.approx(0.95 * peak)


def test_it_does_not_fall_much_below_what_was_seen_to_pass():
    one = fallen(100.0)
    one.decrease(one.value, passed=90.0)
    assert one.value == pytest.approx(0.95 * 90.0)
    one.decrease(one.value, passed=1e9)  # nothing that passed lets it stay where it was refused
    assert one.value < 0.95 * 90.0


def test_where_refusals_do_not_end_what_passed_is_believed_less():
    one = fallen(100.0)
    for _ in range(3):
        one.decrease(one.value, passed=90.0)
    assert 0.5 * 90.0 < one.value < 0.75 * 90.0


def test_where_refusals_do_not_end_it_does_not_come_straight_back_to_where_the_last_one_was():
    once, often = fallen(100.0), fallen(200.0)
    for _ in range(2):
        often.decrease(often.value)
    last = often.value / 0.75
    for one in (once, often):
        use(one, 2.0)
    assert once.value == pytest.approx(100.0)
    assert often.value == pytest.approx((0.75 + 1.0) / 2.0 * last)


def test_once_it_is_known_a_refusal_far_above_counts_as_one_at_its_present_value():
    one = fallen(100.0)
    use(one, 1.5)
    before = one.value
    one.decrease(400.0)
    assert one.value == pytest.approx(0.95 * before)


def test_a_refusal_far_below_is_believed():
    one = fallen(100.0)
    use(one, 1.5)
    one.decrease(10.0)
    assert one.value == pytest.approx(9.5)


@given(start=st.floats(1.0, 300.0), steps=steps)
def test_only_a_refusal_lowers_it_only_use_raises_it_and_it_never_leaves_its_bounds(start, steps):
    one = AdaptiveLimit(start, least=1.0, most=256.0)
    for kind, amount, passed, pause in steps:
        before, searching = one.value, one.searching
        if kind == "used":
            one.grow(amount)
            assert one.value >= before
            assert one.value <= max(before, 256.0) or not searching
        else:
            one.decrease(amount, passed, pause)
            assert 1.0 <= one.value <= max(amount if searching else before, 1.0)
            assert one.value < amount or amount <= 1.0
            assert not one.searching


# ── growing back ─────────────────────────────────────────────────────────────────────────────────


def test_it_is_back_at_the_refused_value_after_two_seconds_of_use_and_beyond_it_after_three():
    one = fallen(100.0)
    use(one, 1.9)
    assert 95.0 < one.value <= 100.0
    use(one, 0.2)
    assert one.value == pytest.approx(100.0, rel=0.001)
    use(one, 2.9)
    assert one.value > 110.0


def test_however_long_it_stayed_under_the_refused_value_it_is_far_beyond_it_soon_after():
    one = fallen(100.0)
    for _ in range(4):
        use(one, 2.0)
        one.decrease(100.0)
    use(one, 8.0)
    known = one.value
    use(one, 4.0)
    assert one.value == pytest.approx(1.05 * known, rel=0.01)
    use(one, 8.0)
    assert one.value > 2.0 * known


def test_it_grows_steeply_at_first_and_hardly_at_all_near_the_refused_value():
    one, gains = fallen(100.0), []
    for _ in range(4):
        before = one.value
        use(one, 0.5)
        gains.append(one.value - before)
    assert gains == sorted(gains, reverse=True)
    assert gains[0] > 10 * gains[-1]


def test_each_refusal_at_the_same_place_lets_more_time_pass_before_the_next_trial_up_to_eight_seconds():
    one, waits = fallen(100.0), []
    for _ in range(5):
        seconds = 0.0
        while one.value < 99.99:
            use(one, STEP)
            seconds += STEP
        waits.append(seconds)
        one.decrease(100.0)
    assert waits == sorted(waits)
    assert waits[0] <= 2.0
    assert 4.0 < waits[-1] <= 8.0


def test_a_refusal_elsewhere_is_tried_again_soon():
    one = fallen(100.0)
    for _ in range(4):
        use(one, 8.0)
        one.decrease(100.0)
    use(one, 2.0)
    one.decrease(50.0)
    use(one, 2.1)
    assert one.value >= 50.0


def test_a_pause_that_was_asked_for_costs_a_twentieth_of_the_time():
    one = fallen(100.0, pause=3.0)
    use(one, 59.0)
    assert one.value <= 100.0
    use(one, 62.0)
    assert one.value > 100.0


def test_value_far_below_the_limit_is_left_within_seconds():
    one = fallen(1.0)
    use(one, 12.0)
    assert one.value > 100.0


def test_first_refusal_may_be_grown_back_from_sooner():
    one = fallen(100.0, back=0.5)
    use(one, 0.5)
    assert one.value == pytest.approx(100.0)


def test_meter_tells_whether_it_holds_few():
    meter = ThroughputMeter()
    for number in range(10):
        assert meter.holds_few(number / 10)
        meter.add(number / 10, 1.0)
    assert not meter.holds_few(1.0)
    assert meter.holds_few(11.0)


# ── settling ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("start", [8.0, 100.0])
@pytest.mark.parametrize("limit", [2.5, 8.0, 10.0, 30.0, 50.0, 200.0])
def test_it_settles_close_under_a_limit_with_few_refusals(limit, start):
    values, refusals = play(lambda _: limit, start=start)
    after = round(10.0 / STEP)
    assert sum(values[after:]) / len(values[after:]) >= 0.93 * limit
    assert sum(refusals[after:]) <= 0.02 * len(refusals[after:])


@pytest.mark.parametrize(("before", "then"), [(50.0, 25.0), (30.0, 15.0), (8.0, 4.0)])
def test_it_follows_a_limit_that_halves(before, then):
    values, refusals = play(lambda now: before if now < 30.0 else then)
    change, after = round(30.0 / STEP), round(35.0 / STEP)
    assert sum(values[after:]) / len(values[after:]) >= 0.9 * then
    assert sum(refusals[change:]) <= 0.03 * len(refusals[change:])


@pytest.mark.parametrize(("before", "then"), [(10.0, 30.0), (8.0, 50.0)])
def test_a_limit_that_rises_is_found_within_half_a_minute(before, then):
    values, _ = play(lambda now: before if now < 30.0 else then, seconds=60.0)
    assert values[-1] >= 0.9 * then


def test_where_there_is_no_limit_it_ends_at_the_most():
    values, _ = play(lambda _: float("inf"), seconds=10.0)
    assert values[-1] == 256.0


# ── what came through ────────────────────────────────────────────────────────────────────────────


def test_a_meter_tells_the_amount_of_the_last_second():
    meter = ThroughputMeter()
    for tick in range(300):
        meter.add(tick / 30, 2.0)
    assert meter.rate(300 / 30) == pytest.approx(60.0, rel=0.05)


def test_a_slow_rate_is_told_from_up_to_ten_seconds():
    meter = ThroughputMeter()
    for tick in range(40):
        meter.add(float(tick), 1.0)
    assert meter.rate(39.0) == pytest.approx(1.1, rel=0.1)


def test_nothing_came_through_lately():
    meter = ThroughputMeter()
    assert meter.rate(0.0) == 0.0
    meter.add(0.0, 5.0)
    assert meter.rate(0.0) == 5.0
    assert meter.rate(60.0) == 0.0


@given(st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(0.0, 100.0)), min_size=1, max_size=100))
def test_a_rate_is_never_more_than_all_that_came_through_in_ten_seconds(added):
    meter, now, log = ThroughputMeter(), 0.0, []
    for gap, amount in added:
        now += gap
        meter.add(now, amount)
        log.append((now, amount))
    assert 0.0 <= meter.rate(now) <= sum(amount for when, amount in log if now - when <= 10.0) + 1e-6
