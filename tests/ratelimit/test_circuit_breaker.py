"""What an account's last answers say of its next request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import multiembed
from multiembed.ratelimit.circuit_breaker import BUDGET_FLOOR, STORM, Weather
from multiembed.testing import waiting


def test_before_the_first_answer_one_request_goes_out_at_a_time():
    weather = Weather()
    assert (weather.room(0.0, 50), weather.ever_trusted) == (1, False)
    weather.answered()
    assert (weather.room(0.0, 50), weather.ever_trusted) == (50, True)


def test_a_few_failures_slow_nobody_and_a_storm_shuts_the_gate_for_a_while():
    weather = Weather()
    weather.answered()
    for _ in range(STORM - 1):
        weather.failed(10.0, 5.0)
        assert weather.room(10.0, 8) == 8
    weather.failed(10.0, 5.0)
    assert weather.room(14.9, 8) == 0
    assert weather.room(15.0, 8) == 1


def test_an_answer_in_between_is_no_storm():
    weather = Weather()
    for _ in range(10):
        weather.answered()
        weather.failed(0.0, 5.0)
        weather.failed(0.0, 5.0)
    assert weather.room(0.0, 8) == 8


def test_a_pause_that_the_provider_asks_for_is_made_at_once_and_never_less_than_was_asked_before():
    weather = Weather()
    weather.answered()
    weather.slowed(0.0, 20.0, asked=True)
    weather.slowed(1.0, 2.0, asked=True)
    assert (weather.room(19.9, 8), weather.room(20.0, 8)) == (0, 8)


def test_a_few_refusals_by_a_rate_limit_stop_nobody_and_where_nothing_passes_one_goes_at_a_time():
    weather = Weather()
    weather.answered()
    for _ in range(STORM - 1):
        weather.slowed(10.0, 5.0, asked=False)
        assert weather.room(10.0, 8) == 8
    weather.slowed(10.0, 5.0, asked=False)
    assert (weather.room(14.9, 8), weather.room(15.0, 8)) == (0, 1)


def test_an_answer_tells_whether_it_ends_a_storm():
    weather = Weather()
    assert not weather.answered()  # the first contact is none
    for _ in range(STORM):
        weather.slowed(0.0, 1.0, asked=False)
    assert weather.answered()
    assert not weather.answered()


def test_after_an_outage_the_first_answer_opens_the_gate_for_all():
    weather = Weather()
    for _ in range(STORM):
        weather.failed(0.0, 1.0)
    assert weather.room(5.0, 8) == 1
    weather.answered()
    assert weather.room(5.0, 8) == 8


@given(st.lists(st.booleans(), max_size=300))
def test_retries_are_at_most_a_fifth_of_the_answers_and_a_floor(steps):
    weather, answers, retries = Weather(), 0, 0
    for answered in steps:
        if answered:
            weather.answered()
            answers += 1
        else:
            retries += weather.may_retry()
    assert retries <= BUDGET_FLOOR + 0.2 * answers + 1e-6


def test_the_switch_for_tests_makes_waits_zero_and_nests():
    assert waiting(3.0) == 3.0
    with multiembed.no_waits():
        with multiembed.no_waits():
            assert waiting(3.0) == 0.0
        assert waiting(3.0) == 0.0
    with pytest.raises(KeyError), multiembed.no_waits():
        raise KeyError
    assert waiting(3.0) == 3.0
