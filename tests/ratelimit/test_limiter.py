"""Rate limiter of an account: FIFO order, deadlines, cancellation, and the clients that share it."""

from __future__ import annotations

import asyncio
import gc

import pytest
from support.virtual_clock import VirtualLoop
from support.workers import until

from multiembed import EmbeddingOptions
from multiembed.config.request_config import resolve_config
from multiembed.execution.runtime import account_id
from multiembed.ratelimit.limiter import AccountLimiter
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.ratelimit.registry import limiter_for

pytestmark = pytest.mark.unit


def warm_limiter(loop=None):
    """A limiter whose circuit breaker is closed."""
    limiter = AccountLimiter() if loop is None else AccountLimiter(loop.time)
    limiter.permit(AccountLimits()).report_success()
    return limiter


def at_most(in_flight):
    return AccountLimits(in_flight=in_flight)


async def settle():
    """Let every task go on as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Requests:
    """Tasks that each wait for a permit. `admitted` and `rejected` hold their names, in order."""

    def __init__(self, limiter):
        self.limiter = limiter
        self.admitted = []
        self.rejected = []
        self.tasks = {}
        self._finished = {}

    async def start(self, name, limits, deadline=None):
        self._finished[name] = asyncio.Event()

        async def hold():
            async with self.limiter.permit(limits, deadline=deadline) as admitted:
                (self.admitted if admitted else self.rejected).append(name)
                if admitted:
                    await self._finished[name].wait()

        self.tasks[name] = asyncio.ensure_future(hold())
        await settle()

    async def finish(self, name):
        self._finished[name].set()
        await settle()

    async def cancel(self, name):
        self.tasks[name].cancel()
        await settle()


# ── order and number ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limit", [1, 3, 8])
async def test_limiter_admits_up_to_the_limit_in_fifo_order(limit):
    requests = Requests(warm_limiter())
    for name in range(3 * limit):
        await requests.start(name, at_most(limit))
    assert requests.admitted == list(range(limit))
    for name in range(2 * limit):
        await requests.finish(name)
        assert requests.admitted == list(range(limit + name + 1))
        assert requests.limiter.pacer.in_flight == limit
    for name in range(2 * limit, 3 * limit):
        await requests.finish(name)
    assert requests.limiter.pacer.in_flight == 0


async def test_low_limit_is_not_overtaken_by_a_high_one():
    requests = Requests(warm_limiter())
    for name in "ab":
        await requests.start(name, at_most(2))
    await requests.start("low", at_most(1))
    await requests.start("high", at_most(8))
    assert requests.admitted == ["a", "b"]
    await requests.finish("a")
    assert requests.admitted == ["a", "b"]
    await requests.finish("b")
    assert requests.admitted == ["a", "b", "low", "high"]
    for name in ("low", "high"):
        await requests.finish(name)


async def test_cold_account_admits_one_and_the_rest_after_its_answer():
    requests = Requests(AccountLimiter())
    for name in range(4):
        await requests.start(name, at_most(4))
    assert requests.admitted == [0]
    requests.limiter.permit().report_success()
    await requests.finish(0)
    assert requests.admitted == [0, 1, 2, 3]


# ── cancellation ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_cancelled_task_leaves_the_queue(position):
    requests = Requests(warm_limiter())
    await requests.start("running", at_most(1))
    for name in range(3):
        await requests.start(name, at_most(1))
    await requests.cancel(position)
    await requests.finish("running")
    for name in [name for name in range(3) if name != position]:
        assert requests.admitted[-1] == name
        await requests.finish(name)
    assert requests.limiter.pacer.in_flight == 0


async def test_task_cancelled_as_it_is_admitted_gives_its_permit_back():
    requests = Requests(warm_limiter())
    for name in ("running", "cancelled", "next"):
        await requests.start(name, at_most(1))
    requests._finished["running"].set()
    await until(lambda: len(requests.limiter._queue) == 1)
    requests.tasks["cancelled"].cancel()  # it is admitted, and does not know it yet
    await settle()
    assert requests.admitted == ["running", "next"]
    await requests.finish("next")
    assert requests.limiter.pacer.in_flight == 0


async def test_task_cancelled_in_flight_gives_its_permit_back():
    requests = Requests(warm_limiter())
    for name in "ab":
        await requests.start(name, at_most(1))
    await requests.cancel("a")
    assert requests.admitted == ["a", "b"]


async def test_error_in_flight_gives_the_permit_back():
    limiter = warm_limiter()
    with pytest.raises(ZeroDivisionError):
        async with limiter.permit(at_most(1)):
            raise ZeroDivisionError
    assert limiter.pacer.in_flight == 0


async def test_permit_cancelled_from_outside_ends_the_wait():
    limiter = warm_limiter()
    async with limiter.permit(at_most(1)):
        waiting = limiter.permit(at_most(1))
        entered = asyncio.ensure_future(waiting.__aenter__())
        await settle()
        waiting.cancel()
        assert await entered is False
        await waiting.__aexit__(None, None, None)
    async with limiter.permit(at_most(1)) as admitted:
        assert admitted


async def test_permit_released_twice_counts_once():
    limiter = warm_limiter()
    async with limiter.permit(at_most(2)), limiter.permit(at_most(2)) as _:
        permit = limiter.permit(at_most(3))
        await permit.__aenter__()
        limiter.release(permit)
        limiter.release(permit)
        assert limiter.pacer.in_flight == 2


# ── deadlines and pauses, in virtual time ────────────────────────────────────────────────────────


def in_virtual_time(run):
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(run(loop), 10_000))
    finally:
        loop.close()


def test_permit_is_refused_at_its_deadline():
    async def run(loop):
        requests = Requests(warm_limiter(loop))
        await requests.start("running", at_most(1))
        await requests.start("late", at_most(1), deadline=loop.now + 5.0)
        await requests.start("patient", at_most(1))
        await requests.tasks["late"]
        assert loop.now == pytest.approx(5.0)
        assert requests.rejected == ["late"]
        await requests.finish("running")
        assert requests.admitted == ["running", "patient"]
        await requests.finish("patient")

    in_virtual_time(run)


def test_permit_is_refused_when_a_pause_outlasts_its_deadline():
    async def run(loop):
        requests = Requests(warm_limiter(loop))
        await requests.start("running", at_most(1))
        await requests.start("waits", at_most(1), deadline=loop.now + 5.0)
        requests.limiter.permit().report_rate_limited(10.0, asked=True)
        await settle()
        assert requests.rejected == ["waits"]
        await requests.start("later", at_most(1), deadline=loop.now + 5.0)
        assert requests.rejected == ["waits", "later"]
        assert loop.now == 0.0
        await requests.finish("running")

    in_virtual_time(run)


def test_requests_go_on_when_a_pause_ends():
    async def run(loop):
        limiter = warm_limiter(loop)
        limiter.permit().report_rate_limited(10.0, asked=True)
        async with limiter.permit(at_most(1)) as admitted:
            assert admitted
            assert loop.now == pytest.approx(10.0, abs=0.1)

    in_virtual_time(run)


def test_configured_minute_is_kept():
    async def run(loop):
        limiter, starts = warm_limiter(loop), []

        async def one():
            async with limiter.permit(AccountLimits(requests_per_minute=3)) as admitted:
                assert admitted
                starts.append(loop.now)

        await asyncio.gather(*(one() for _ in range(9)))
        assert all(later - earlier >= 60.0 for earlier, later in zip(starts, starts[3:], strict=False))
        assert loop.now < 125.0

    in_virtual_time(run)


# ── sharing ────────────────────────────────────────────────────────────────────────────────


def account(model="dashscope:text-embedding-v4", **options):
    options = {"api_key": "sk-a", "base_url": "https://host.example", **options}
    return limiter_for(account_id(resolve_config(model, EmbeddingOptions(**options), {})))


@pytest.mark.parametrize(
    ("model", "options", "same"),
    [
        ("dashscope:text-embedding-v4", {"dimensions": 256, "timeout": 5}, True),
        ("dashscope:text-embedding-v3", {}, False),
        ("dashscope:text-embedding-v4", {"api_key": "sk-b"}, False),
        ("dashscope:text-embedding-v4", {"base_url": "https://other.example"}, False),
        ("dashscope-compatible:text-embedding-v4", {}, False),
    ],
)
def test_limiter_is_shared_by_provider_host_key_and_model(model, options, same):
    assert (account() is account(model, **options)) == same


def test_registered_limits_hold_for_others_until_the_client_ends():
    limiter = warm_limiter()

    class Owner:
        pass

    owner, own = Owner(), AccountLimits()
    assert limiter.effective_limits(own) == own
    limiter.owners[owner] = AccountLimits(in_flight=2, requests_per_minute=60)
    assert limiter.effective_limits(own) == AccountLimits(in_flight=2, requests_per_minute=60)
    assert limiter.effective_limits(AccountLimits(in_flight=9)).in_flight == 9
    assert limiter.effective_limits(AccountLimits(requests_per_minute=30)).requests_per_minute == 30
    assert limiter.effective_limits(AccountLimits(requests_per_minute=90, per_second=True)) == AccountLimits(
        2, 60, None, True
    )
    del owner
    gc.collect()
    assert limiter.effective_limits(own) == own
