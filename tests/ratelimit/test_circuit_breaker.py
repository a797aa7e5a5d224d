"""Circuit breaker, retry budget, and the test mode without waits."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import multiembed
from multiembed.ratelimit.circuit_breaker import FAILURE_THRESHOLD, MAX_RETRY_BUDGET, CircuitBreaker, RetryBudget
from multiembed.testing import apply_test_mode

pytestmark = pytest.mark.unit


def closed_breaker():
    breaker = CircuitBreaker()
    breaker.on_success()
    return breaker


def test_breaker_of_a_new_account_admits_one_request():
    breaker = CircuitBreaker()
    assert (breaker.max_in_flight(0.0, 50), breaker.ever_succeeded) == (1, False)
    breaker.on_success()
    assert (breaker.max_in_flight(0.0, 50), breaker.ever_succeeded) == (50, True)


@pytest.mark.parametrize(
    "fail",
    [
        lambda breaker: breaker.on_failure(10.0, 5.0),
        lambda breaker: breaker.on_rate_limited(10.0, 5.0, asked=False),
    ],
    ids=["failure", "rate limit"],
)
def test_breaker_opens_after_consecutive_failures(fail):
    breaker = closed_breaker()
    for _ in range(FAILURE_THRESHOLD - 1):
        fail(breaker)
        assert breaker.max_in_flight(10.0, 8) == 8
    fail(breaker)
    assert (breaker.max_in_flight(14.9, 8), breaker.max_in_flight(15.0, 8)) == (0, 1)


def test_breaker_counts_failures_from_the_last_success():
    breaker = CircuitBreaker()
    for _ in range(10):
        breaker.on_success()
        breaker.on_failure(0.0, 5.0)
        breaker.on_failure(0.0, 5.0)
    assert breaker.max_in_flight(0.0, 8) == 8


def test_breaker_keeps_the_longest_requested_pause():
    breaker = closed_breaker()
    breaker.on_rate_limited(0.0, 20.0, asked=True)
    breaker.on_rate_limited(1.0, 2.0, asked=True)
    assert (breaker.max_in_flight(19.9, 8), breaker.max_in_flight(20.0, 8)) == (0, 8)


def test_breaker_closes_at_the_first_success_after_an_outage():
    breaker = CircuitBreaker()
    assert not breaker.on_success()  # the first success ends no outage
    for _ in range(FAILURE_THRESHOLD):
        breaker.on_rate_limited(0.0, 1.0, asked=False)
    assert breaker.max_in_flight(5.0, 8) == 1
    assert breaker.on_success()
    assert breaker.max_in_flight(5.0, 8) == 8
    assert not breaker.on_success()


@given(st.lists(st.booleans(), max_size=300))
def test_retry_budget_allows_a_fifth_of_the_successes(steps):
    budget, successes, retries = RetryBudget(), 0, 0
    for success in steps:
        if success:
            budget.on_success()
            successes += 1
        else:
            retries += budget.try_spend()
    assert retries <= MAX_RETRY_BUDGET + 0.2 * successes + 1e-6


def test_no_waits_makes_waits_zero_and_nests():
    assert apply_test_mode(3.0) == 3.0
    with multiembed.no_waits():
        with multiembed.no_waits():
            assert apply_test_mode(3.0) == 0.0
        assert apply_test_mode(3.0) == 0.0
    with pytest.raises(KeyError), multiembed.no_waits():
        raise KeyError
    assert apply_test_mode(3.0) == 3.0
