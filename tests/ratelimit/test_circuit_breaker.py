"""What an account's last answers say of its next request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import multiembed
from multiembed.ratelimit.circuit_breaker import BUDGET_FLOOR, FAILURE_THRESHOLD, CircuitBreaker
from multiembed.testing import apply_test_mode


def test_before_the_first_answer_one_request_goes_out_at_a_time():
    weather = CircuitBreaker()
    assert (weather.max_in_flight(0.0, 50), weather.ever_succeeded) == (1, False)
    weather.on_success()
    assert (weather.max_in_flight(0.0, 50), weather.ever_succeeded) == (50, True)


def test_a_few_failures_slow_nobody_and_a_storm_shuts_the_gate_for_a_while():
    weather = CircuitBreaker()
    weather.on_success()
    for _ in range(FAILURE_THRESHOLD - 1):
        weather.on_failure(10.0, 5.0)
        assert weather.max_in_flight(10.0, 8) == 8
    weather.on_failure(10.0, 5.0)
    assert weather.max_in_flight(14.9, 8) == 0
    assert weather.max_in_flight(15.0, 8) == 1


def test_an_answer_in_between_is_no_storm():
    weather = CircuitBreaker()
    for _ in range(10):
        weather.on_success()
        weather.on_failure(0.0, 5.0)
        weather.on_failure(0.0, 5.0)
    assert weather.max_in_flight(0.0, 8) == 8


def test_a_pause_that_the_provider_asks_for_is_made_at_once_and_never_less_than_was_asked_before():
    weather = CircuitBreaker()
    weather.on_success()
    weather.on_rate_limited(0.0, 20.0, asked=True)
    weather.on_rate_limited(1.0, 2.0, asked=True)
    assert (weather.max_in_flight(19.9, 8), weather.max_in_flight(20.0, 8)) == (0, 8)


def test_a_few_refusals_by_a_rate_limit_stop_nobody_and_where_nothing_passes_one_goes_at_a_time():
    weather = CircuitBreaker()
    weather.on_success()
    for _ in range(FAILURE_THRESHOLD - 1):
        weather.on_rate_limited(10.0, 5.0, asked=False)
        assert weather.max_in_flight(10.0, 8) == 8
    weather.on_rate_limited(10.0, 5.0, asked=False)
    assert (weather.max_in_flight(14.9, 8), weather.max_in_flight(15.0, 8)) == (0, 1)


def test_an_answer_tells_whether_it_ends_a_storm():
    weather = CircuitBreaker()
    assert not weather.on_success()  # the first contact is none
    for _ in range(FAILURE_THRESHOLD):
        weather.on_rate_limited(0.0, 1.0, asked=False)
    assert weather.on_success()
    assert not weather.on_success()


def test_after_an_outage_the_first_answer_opens_the_gate_for_all():
    weather = CircuitBreaker()
    for _ in range(FAILURE_THRESHOLD):
        weather.on_failure(0.0, 1.0)
    assert weather.max_in_flight(5.0, 8) == 1
    weather.on_success()
    assert weather.max_in_flight(5.0, 8) == 8


@given(st.lists(st.booleans(), max_size=300))
def test_retries_are_at_most_a_fifth_of_the_answers_and_a_floor(steps):
    weather, answers, retries = CircuitBreaker(), 0, 0
    for answered in steps:
        if answered:
            weather.on_success()
            answers += 1
        else:
            retries += weather.may_retry()
    assert retries <= BUDGET_FLOOR + 0.2 * answers + 1e-6


def test_the_switch_for_tests_makes_waits_zero_and_nests():
    assert apply_test_mode(3.0) == 3.0
    with multiembed.no_waits():
        with multiembed.no_waits():
            assert apply_test_mode(3.0) == 0.0
        assert apply_test_mode(3.0) == 0.0
    with pytest.raises(KeyError), multiembed.no_waits():
        raise KeyError
    assert apply_test_mode(3.0) == 3.0
