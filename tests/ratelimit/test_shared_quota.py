"""Quota that processes share, in virtual time: how much of it is used, and what happens when processes end."""

from __future__ import annotations

import asyncio
import itertools
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.shared_quota import Hub, MemoryLink, SharedAccount
from support.virtual_clock import VirtualLoop

from multiembed import ConfigurationError, QuotaWarning
from multiembed.ratelimit.limiter import AccountLimiter
from multiembed.ratelimit.pacer import AccountLimits, Pacer
from multiembed.ratelimit.shared.host import MEMBER_SILENCE
from multiembed.ratelimit.shared.member import QuotaMember
from multiembed.ratelimit.shared.snapshot import EndedRequests, Snapshot

pytestmark = pytest.mark.unit
SETTLED = 10.0


def told(per_minute):
    return AccountLimits(requests_per_minute=per_minute, per_second=True)


def used(account, per_minute, end):
    return account.served(SETTLED, end) / ((end - SETTLED) * per_minute / 60.0)


# ── use of the quota ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("per_minute", "seconds"), [(600, 30.0), (1800, 30.0)])
@pytest.mark.parametrize("configured", [True, False])
def test_shared_quota_is_used_to_95_percent(per_minute, seconds, configured):
    account = SharedAccount("dashscope", latency=0.1, jitter=0.005)
    account.limit(requests_per_minute=per_minute)
    account.run_workers(seconds, limits=told(per_minute if configured else None))
    assert used(account, per_minute, seconds) >= 0.95
    assert account.rejected_share(SETTLED, seconds) <= (0.0 if configured else 0.02)
    if configured:
        assert account.arrivals.rejected == 0
        assert account.arrivals.most_requests(1) <= per_minute / 60
    assert account.failures == []


def test_shared_concurrency_is_kept():
    account = SharedAccount("zhipu", latency=0.3)
    account.limit(in_flight=10)
    account.run_workers(20.0, limits=AccountLimits(in_flight=10))
    assert account.arrivals.rejected == 0
    assert account.served(SETTLED, 20.0) >= 0.95 * 10.0 * 10 / 0.3


def test_lowest_configured_limit_holds_for_all():
    account = SharedAccount("dashscope", latency=0.1, workers=2)
    low = account.limiters[0]
    low.owners[account] = told(120)
    account.run_workers(20.0, limits=told(600))
    assert account.arrivals.most_requests(1) <= 2
    assert account.served(SETTLED, 20.0) >= 19


# ── processes that end ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("configured", [True, False])
def test_hosts_killed_three_times_cost_only_what_was_in_flight(configured):
    account = SharedAccount("dashscope", latency=0.3, workers=7)
    account.limit(requests_per_minute=600, kind="sliding")

    def kill_host():
        account.kill([limiter.upstream._link for limiter in account.limiters].index(account.hub.host))

    changes = [(when, kill_host) for when in (15.0, 20.0, 25.0)]
    account.run_workers(35.0, limits=told(600 if configured else None), changes=changes)
    assert account.failures == []
    assert used(account, 600, 35.0) >= 0.9
    assert account.rejected_share(SETTLED, 35.0) <= (0.02 if configured else 0.05)
    served = [each.time for each in account.arrivals.arrivals() if each.accepted]
    assert max(later - earlier for earlier, later in itertools.pairwise(served)) < 1.0  # the others go on


def test_twelve_kills_cost_only_what_was_in_flight():
    account = SharedAccount("zhipu", latency=0.3, workers=16)
    account.limit(in_flight=10)
    changes = [(10.0 + 2.0 * number, lambda number=number: account.kill(number)) for number in range(12)]
    account.run_workers(35.0, limits=AccountLimits(in_flight=10), changes=changes)
    assert account.failures == []
    assert account.served(SETTLED, 35.0) >= 0.9 * 25.0 * 10 / 0.3
    assert account.rejected_share(SETTLED, 35.0) <= 0.02


@settings(max_examples=8)
@given(
    kills=st.lists(st.tuples(st.floats(1.0, 14.0), st.integers(0, 7)), max_size=6),
    delay=st.sampled_from([0.0005, 0.02]),
    seed=st.integers(0, 100),
)
def test_any_kills_exceed_a_configured_second_by_what_was_in_flight(kills, delay, seed):
    account = SharedAccount("dashscope", latency=0.2, workers=8, seed=seed, hub={"delay": delay})

    def kill(index):
        link = account.link(index)
        if link is not None and not link.is_dead and link in account.hub.links and len(account.hub.links) > 1:
            account.kill(index)

    changes = [(when, lambda index=index: kill(index)) for when, index in kills]
    account.run_workers(16.0, limits=told(600), changes=changes)
    in_flight = 3
    assert account.arrivals.rejected == 0  # the server has no limit, and counts
    assert account.arrivals.most_requests(1) <= 10 + in_flight * len(kills)
    assert account.failures == []


def test_silent_process_gives_its_permits_back():
    async def run(loop):
        hub = Hub(loop)
        stopped, other = limiter_of(hub), limiter_of(hub)
        async with other.permit(AccountLimits(in_flight=1)) as admitted:
            assert admitted
            other.permit().report_success()
            await asyncio.sleep(1.0)
        held = stopped.permit(AccountLimits(in_flight=1))
        assert await held.__aenter__()
        hub.links.remove(stopped.upstream._link)  # it sends and hears nothing, and its permit is held
        started = loop.now
        async with other.permit(AccountLimits(in_flight=1)) as admitted:
            assert admitted
        assert MEMBER_SILENCE <= loop.now - started <= MEMBER_SILENCE + 1.5

    in_virtual_time(run)


def test_process_that_counts_as_dead_joins_again():
    async def run(loop):
        hub = Hub(loop)
        host, stopped = limiter_of(hub), limiter_of(hub)
        for limiter in (host, stopped):
            async with limiter.permit() as admitted:
                assert admitted
                limiter.permit().report_success()
        hub.links.remove(stopped.upstream._link)
        await asyncio.sleep(MEMBER_SILENCE + 2.0)
        hub.links.append(stopped.upstream._link)
        await asyncio.sleep(1.5)
        async with stopped.permit(deadline=loop.now + 1.0) as admitted:
            assert admitted

    in_virtual_time(run)


# ── unreachable processes ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("configured", [True, False])
def test_each_goes_on_with_its_share_while_the_others_are_away(configured):
    account = SharedAccount("dashscope", latency=0.1)
    account.limit(requests_per_minute=600, kind="sliding")
    changes = [(15.0, account.hub.go_away), (25.0, account.hub.come_back)]
    with pytest.warns(QuotaWarning, match="one of 4 parts") as caught:
        account.run_workers(40.0, limits=told(600 if configured else None), changes=changes)
    assert len(caught) == 4  # one in each process
    assert account.failures == []
    away = account.served(16.0, 25.0) / 9.0
    assert away >= 6.0
    assert account.served(30.0, 40.0) >= 90
    if configured:
        assert account.arrivals.most_requests(1) <= 10
        assert account.arrivals.rejected == 0


def test_quota_that_was_never_shared_is_a_configuration_error():
    async def run(loop):
        hub = Hub(loop)
        limiter = limiter_of(hub)

        async def fail(link):
            link._handler.on_failed("Redis cannot be reached.")

        MemoryLink._run, before = fail, MemoryLink._run
        try:
            for _ in range(2):  # the second call tries again
                with pytest.raises(ConfigurationError, match=r"cannot be reached\. Nothing was sent"):
                    async with limiter.permit():
                        pass
        finally:
            MemoryLink._run = before
        async with limiter.permit() as admitted:
            assert admitted

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        in_virtual_time(run)


def test_hosts_of_another_version_divide_the_quota():
    account = SharedAccount("dashscope", latency=0.1, workers=2)
    account.loop.call_at(1.0, lambda: setattr(account.hub.host, "other_versions", 1))
    with pytest.warns(QuotaWarning, match="another version"):
        account.run_workers(20.0, limits=told(600))
    served = account.served(SETTLED, 20.0)
    assert 45 <= served <= 50


def test_process_without_requests_leaves_until_the_next_one():
    async def run(loop):
        hub = Hub(loop)
        limiter = limiter_of(hub)
        async with limiter.permit():
            pass
        await asyncio.sleep(300.0)
        assert hub.links == []
        async with limiter.permit() as admitted:
            assert admitted
        assert len(hub.links) == 1

    in_virtual_time(run)


# ── messages and state ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "message",
    [[["hello"]], [["ask", 1]], [["state", {}]], [["state", None]], [[]], [17], [["admit", "x", 1]], [["unknown"]]],
)
def test_messages_that_make_no_sense_are_refused_or_ignored(message):
    async def run(loop):
        hub = Hub(loop)
        limiter = limiter_of(hub)
        async with limiter.permit():
            link = limiter.upstream._link
            for sender in ("", link.member, "stranger"):
                link.receive(sender, message)
        async with limiter.permit() as admitted:
            assert admitted

    in_virtual_time(run)


def test_pacer_continues_from_exported_state():
    now, pacer, limits = 0.0, Pacer(), AccountLimits()
    for number in range(200):
        now += 0.05
        record = pacer.start(now, limits, 30.0)
        pacer.finish(record, now + 0.04)
        if number % 40 == 39:
            pacer.on_rate_limited(record, now + 0.04, "requests", "requests", 0.0)
        else:
            pacer.on_success(record, now + 0.04, 25)
    state = pacer.export_state(now)
    other = Pacer()
    other.import_state(now, state)
    exported = other.export_state(now)
    exported["throughput"] = state["throughput"]  # rounded to requests
    assert exported == pytest.approx(state) if not isinstance(state, dict) else exported == state
    third = Pacer()
    third.import_state(now, state, share=4)
    assert third.export_state(now)["rates"]["requests"][0] == pytest.approx(state["rates"]["requests"][0] / 4)


@given(st.lists(st.tuples(st.floats(0.0, 100.0), st.floats(0.0, 1000.0), st.floats(0.0, 5.0)), max_size=50))
def test_snapshot_keeps_number_and_tokens_of_ended_requests(requests):
    ended = EndedRequests()
    for when, tokens, seconds in sorted(requests):
        ended.add(when, tokens, seconds)
    snapshot = Snapshot()
    state = {
        "full": True,
        "now": 100.0,
        "host": "h",
        "members": {},
        "latency": 0.1,
        "full_at": 0,
        "learned": {},
        "breaker": [],
    }
    snapshot.update({**state, "ended": ended.export()}, 5000.0)
    kept = [request for request in requests if request[0] >= 40.0]
    found = list(Snapshot.read(snapshot.export(5000.0), 7000.0).requests())
    assert len(found) == len(kept) or abs(len(found) - len(kept)) <= sum(38.9 <= when <= 40.0 for when, *_ in requests)
    assert all(ended <= 7000.0 for ended, *_ in found)


def limiter_of(hub):
    """A limiter that shares its quota through a hub."""
    limiter = AccountLimiter(hub.loop.time)
    limiter.upstream = QuotaMember(limiter, lambda handler: MemoryLink(hub, handler))
    return limiter


def in_virtual_time(run):
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(asyncio.wait_for(run(loop), 10_000))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.close()
