"""The rate limiter of an account: FIFO order, deadlines, cancelling, and who shares it."""

from __future__ import annotations

import asyncio
import gc

import pytest
from support.virtual_clock import VirtualLoop
from support.workers import until

from multiembed import EmbeddingOptions
from multiembed.config.request_config import resolve_config
from multiembed.execution.runtime import account_id
from multiembed.ratelimit.limiter import AccountLimiter, limiter_for
from multiembed.ratelimit.pacer import AccountLimits

PATIENCE = 20.0


def trusted_limiter(loop=None):
    """Of an account that has answered once."""
    limiter = AccountLimiter() if loop is None else AccountLimiter(loop.time)
    limiter.permit(AccountLimits()).report_success()
    return limiter


def at_most(requests):
    return AccountLimits(in_flight=requests)


async def settle():
    """Let every task go on as far as it can."""
    for _ in range(20):
        await asyncio.sleep(0)


class Crowd:
    """Tasks that want a permit each; `inside` are those that hold one, in the order in which they were admitted."""

    def __init__(self, limiter):
        self.limiter = limiter
        self.inside = []
        self.refused = []
        self.tasks = {}
        self._ends = {}

    async def come(self, name, limits, deadline=None):
        self._ends[name] = asyncio.Event()

        async def hold():
            async with self.limiter.permit(limits, deadline=deadline) as admitted:
                (self.inside if admitted else self.refused).append(name)
                if admitted:
                    await self._ends[name].wait()

        self.tasks[name] = asyncio.ensure_future(hold())
        await settle()

    async def leave(self, name):
        self._ends[name].set()
        await settle()

    async def cancel(self, name):
        self.tasks[name].cancel()
        await settle()


# ── order and number ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limit", [1, 3, 8])
async def test_limiter_admits_up_to_the_limit_in_fifo_order(limit):
    crowd = Crowd(trusted_limiter())
    for name in range(3 * limit):
        await crowd.come(name, at_most(limit))
    assert crowd.inside == list(range(limit))
    for name in range(2 * limit):
        await crowd.leave(name)
        assert crowd.inside == list(range(limit + name + 1))
        assert crowd.limiter.in_flight == limit
    for name in range(2 * limit, 3 * limit):
        await crowd.leave(name)
    assert crowd.limiter.in_flight == 0


async def test_low_limit_is_not_overtaken_by_a_high_one():
    crowd = Crowd(trusted_limiter())
    for name in "ab":
        await crowd.come(name, at_most(2))
    await crowd.come("low", at_most(1))
    await crowd.come("high", at_most(8))
    assert crowd.inside == ["a", "b"]
    await crowd.leave("a")
    assert crowd.inside == ["a", "b"]
    await crowd.leave("b")
    assert crowd.inside == ["a", "b", "low", "high"]
    for name in ("low", "high"):
        await crowd.leave(name)


async def test_cold_account_admits_one_and_the_rest_after_its_answer():
    crowd = Crowd(AccountLimiter())
    for name in range(4):
        await crowd.come(name, at_most(4))
    assert crowd.inside == [0]
    crowd.limiter.report_success(None, None)
    await crowd.leave(0)
    assert crowd.inside == [0, 1, 2, 3]


# ── cancelling ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("position", [0, 1, 2])
async def test_cancelled_task_leaves_the_queue(position):
    crowd = Crowd(trusted_limiter())
    await crowd.come("inside", at_most(1))
    for name in range(3):
        await crowd.come(name, at_most(1))
    await crowd.cancel(position)
    await crowd.leave("inside")
    for name in [name for name in range(3) if name != position]:
        assert crowd.inside[-1] == name
        await crowd.leave(name)
    assert crowd.limiter.in_flight == 0


async def test_task_cancelled_as_it_is_admitted_gives_its_permit_back():
    crowd = Crowd(trusted_limiter())
    for name in ("inside", "cancelled", "next"):
        await crowd.come(name, at_most(1))
    crowd._ends["inside"].set()
    await until(lambda: len(crowd.limiter._queue) == 1)
    crowd.tasks["cancelled"].cancel()  # it is admitted, and does not know it yet
    await settle()
    assert crowd.inside == ["inside", "next"]
    await crowd.leave("next")
    assert crowd.limiter.in_flight == 0


async def test_task_cancelled_in_flight_gives_its_permit_back():
    crowd = Crowd(trusted_limiter())
    for name in "ab":
        await crowd.come(name, at_most(1))
    await crowd.cancel("a")
    assert crowd.inside == ["a", "b"]


async def test_error_in_flight_gives_the_permit_back():
    limiter = trusted_limiter()
    with pytest.raises(ZeroDivisionError):
        async with limiter.permit(at_most(1)):
            raise ZeroDivisionError
    assert limiter.in_flight == 0


async def test_permit_cancelled_from_outside_ends_the_wait():
    limiter = trusted_limiter()
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
    limiter = trusted_limiter()
    async with limiter.permit(at_most(2)), limiter.permit(at_most(2)) as _:
        permit = limiter.permit(at_most(3))
        await permit.__aenter__()
        limiter.release(permit)
        limiter.release(permit)
        assert limiter.in_flight == 2


# ── deadlines and pauses, in virtual time ────────────────────────────────────────────────────────


def in_virtual_time(act):
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(act(loop), 10_000))
    finally:
        loop.close()


def test_permit_is_refused_at_its_deadline():
    async def act(loop):
        crowd = Crowd(trusted_limiter(loop))
        await crowd.come("inside", at_most(1))
        await crowd.come("late", at_most(1), deadline=loop.now + 5.0)
        await crowd.come("patient", at_most(1))
        await crowd.tasks["late"]
        assert loop.now == pytest.approx(5.0)
        assert crowd.refused == ["late"]
        await crowd.leave("inside")
        assert crowd.inside == ["inside", "patient"]
        await crowd.leave("patient")

    in_virtual_time(act)


def test_permit_is_refused_at_once_when_a_pause_outlasts_its_deadline():
    async def act(loop):
        crowd = Crowd(trusted_limiter(loop))
        await crowd.come("inside", at_most(1))
        await crowd.come("waits", at_most(1), deadline=loop.now + 5.0)
        crowd.limiter.report_rate_limited(None, None, None, 10.0, asked=True)
        await settle()
        assert crowd.refused == ["waits"]
        await crowd.come("comes", at_most(1), deadline=loop.now + 5.0)
        assert crowd.refused == ["waits", "comes"]
        assert loop.now == 0.0
        await crowd.leave("inside")

    in_virtual_time(act)


def test_requests_go_on_when_a_pause_ends():
    async def act(loop):
        limiter = trusted_limiter(loop)
        limiter.report_rate_limited(None, None, None, 10.0, asked=True)
        async with limiter.permit(at_most(1)) as admitted:
            assert admitted
            assert loop.now == pytest.approx(10.0, abs=0.1)

    in_virtual_time(act)


def test_configured_minute_is_kept():
    async def act(loop):
        limiter, starts = trusted_limiter(loop), []

        async def one():
            async with limiter.permit(AccountLimits(requests_per_minute=3)) as admitted:
                assert admitted
                starts.append(loop.now)

        await asyncio.gather(*(one() for _ in range(9)))
        assert all(later - earlier >= 60.0 for earlier, later in zip(starts, starts[3:], strict=False))
        assert loop.now < 125.0

    in_virtual_time(act)


# ── who shares it ────────────────────────────────────────────────────────────────────────────────


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


def test_limits_of_one_embedder_hold_for_others_while_it_lives():
    limiter = trusted_limiter()

    class Owner:
        pass

    owner, own = Owner(), AccountLimits()
    assert limiter.effective_limits(own) is own
    limiter.register_limits(owner, AccountLimits(in_flight=2, requests_per_minute=60))
    assert limiter.effective_limits(own) == AccountLimits(in_flight=2, requests_per_minute=60)
    assert limiter.effective_limits(AccountLimits(in_flight=9)).in_flight == 9
    assert limiter.effective_limits(AccountLimits(requests_per_minute=30)).requests_per_minute == 30
    del owner
    gc.collect()
    assert limiter.effective_limits(own) is own
