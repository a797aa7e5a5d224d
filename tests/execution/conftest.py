"""Fixtures of the tests of execution: entry points, options, and a simulator whose requests overlap."""

from __future__ import annotations

import pytest
from calls import LATENCY
from support.adapters import ASYNC_ENTRY_POINTS, options_for

from multiembed.simulator import Simulator


@pytest.fixture(params=ASYNC_ENTRY_POINTS.values(), ids=ASYNC_ENTRY_POINTS.keys())
def async_entry_point(request):
    return request.param


@pytest.fixture
def options(simulator):
    return options_for(simulator)


@pytest.fixture(scope="module")
def running_slow_simulator():
    with Simulator(latency=LATENCY) as running:
        yield running


@pytest.fixture
def slow(running_slow_simulator, come_to_rest):
    """A simulator whose requests overlap."""
    come_to_rest(running_slow_simulator)
    running_slow_simulator.clear()
    return running_slow_simulator
