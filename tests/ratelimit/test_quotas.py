"""Quotas: learned ones are nearly used with few rejections, configured ones are never exceeded."""

from __future__ import annotations

import asyncio
import threading
from functools import cache
from statistics import fmean

import numpy as np
import pytest
from support.virtual_clock import Account

from multiembed import EmbeddingClient, InputTooLongError, PartialFailureError
from multiembed.providers.local import embed
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.simulator import Simulator
from multiembed.simulator.tokenizer import count_tokens

DIMENSIONS = 64
DASHSCOPE = "dashscope:text-embedding-v4"
GATEWAY = "gateway:any-model"


# ── learned, in virtual time ────────────────────────────────────────────────────────────────────


def use(provider, rate, *, seconds=30.0, latency=0.2, seeds=(0,), calls=1, changes=(), **quota):
    """Use an account as fast as possible. Returns: shares used and rejected after ten seconds; no text may fail."""
    used, rejected = [], []
    for seed in seeds:
        account = Account(provider, latency=latency, seed=seed)
        account.limit(**quota)
        account.run(seconds, calls=calls)
        assert account.failures == []
        used.append(account.served(10.0, seconds) / (rate * (seconds - 10.0)))
        rejected.append(account.rejected_share(10.0, seconds))
    return fmean(used), fmean(rejected)


@pytest.mark.parametrize("provider", ["gateway", "siliconflow", "dashscope"])
@pytest.mark.parametrize("per_minute", [600, 1800])
def test_learned_rate_is_used_to_90_percent_after_ten_seconds(provider, per_minute):
    seeds = (0, 1, 2) if per_minute == 600 else (0,)
    used, rejected = use(provider, per_minute / 60, seeds=seeds, requests_per_minute=per_minute)
    assert used >= 0.9
    assert rejected < 0.05


@pytest.mark.parametrize(("in_flight", "latency"), [(8, 0.25), (50, 1.0)])
def test_learned_concurrency_is_used_after_ten_seconds(in_flight, latency):
    used, rejected = use("zhipu", in_flight / (latency + 0.01), latency=latency, in_flight=in_flight)
    assert used >= 0.9
    assert rejected < 0.05


@pytest.mark.parametrize("provider", ["zhipu", "gateway"])
def test_two_calls_share_a_learned_quota(provider):
    quota = {"in_flight": 8} if provider == "zhipu" else {"requests_per_minute": 1200}
    rate = 8 / 0.41 if provider == "zhipu" else 20.0
    used, rejected = use(provider, rate, latency=0.4, calls=2, **quota)
    assert used >= 0.9
    assert rejected < 0.05


def test_learned_token_rate_is_used():
    used, rejected = use("siliconflow", 20.0, tokens_per_minute=20 * 60 * count_tokens("text 123"))
    assert used >= 0.85
    assert rejected < 0.05


@pytest.mark.parametrize(
    ("provider", "before", "then", "rate"),
    [
        ("gateway", {"requests_per_minute": 1800}, {"requests_per_minute": 900}, 15.0),
        ("dashscope", {"requests_per_minute": 1800}, {"requests_per_minute": 900}, 15.0),
        ("zhipu", {"in_flight": 16}, {"in_flight": 8}, 8 / 0.51),
    ],
)
def test_learned_limit_follows_a_quota_that_halves(provider, before, then, rate):
    account = Account(provider, latency=0.2 if provider != "zhipu" else 0.5)
    account.limit(**before)
    account.run(40.0, changes=[(20.0, lambda: account.limit(**then))])
    assert account.failures == []
    assert account.served(30.0, 40.0) >= 0.8 * rate * 10
    assert account.rejected_share(20.0, 40.0) < 0.1
    assert account.rejected_share(30.0, 40.0) < 0.05


def test_requested_pause_is_made_and_fails_no_text():
    account = Account("siliconflow")
    account.limit(requests_per_minute=600, retry_after=1)
    account.run(30.0)
    assert account.failures == []
    assert account.rejected_share(10.0, 30.0) < 0.05
    log = account.arrivals.arrivals()
    rejections = [each.time for each in log if not each.accepted]
    # Requests on their way still arrive. Then no other does for nearly a second.
    assert all(not any(when + 0.1 < each.time < when + 1.0 for each in log) for when in rejections)
    assert account.served(10.0, 30.0) >= 0.7 * 10 * 20


@pytest.mark.parametrize(("provider", "kind"), [("gateway", "sliding"), ("zhipu", "fixed")])
def test_exhausted_minute_is_waited_for_and_fails_no_text(provider, kind):
    account = Account(provider)
    account.limit(requests_per_minute=300, kind=kind)
    account.run(1000.0, texts=450)
    assert account.failures == []
    assert account.arrivals.accepted == 450
    assert account.ended < 130.0
    assert account.arrivals.rejected < 100


def costly_texts(count):
    """Texts of single letters, which are billed nearly twice the estimate for English."""
    return [f"{number} " + "a b c d e f g h " * 6 for number in range(count)]


EARLY = [
    (1,), (1, 2), (2, 3), (1, 5), (3, 20), (9, 10), (19, 20), (1, 2, 3), (2, 10, 20), (8, 9, 10),
    (2, 3, 4, 5, 6), (9, 10, 11, 12, 13), (16, 17, 18, 19, 20), (2, 5, 9, 14, 20),
]  # fmt: skip
ACCOUNTS = [
    ("zhipu", "in_flight", 1), ("siliconflow", "requests", 1), ("dashscope", "tokens", 3),
    ("dashscope-compatible", "requests", 3), ("gateway", "requests", 1), ("gateway", "in_flight", 3),
]  # fmt: skip


@cache
def seconds_of(provider, numbers=(), limit="requests", *, calls=1, limits=None, requests=300):
    """Seconds that so many requests take when those with these numbers are rejected."""
    account = Account(provider, latency=0.1, seed=len(numbers))
    account.reject(numbers, limit)
    account.run(1000.0, texts=requests, calls=calls, limits=limits)
    assert account.failures == []
    return account.ended


@pytest.mark.parametrize(
    ("account", "numbers"),
    [(account, numbers) for n, account in enumerate(ACCOUNTS) for numbers in EARLY[n % 3 :: 3]],
    ids=str,
)
def test_early_rejections_cost_at_most_three_seconds(account, numbers):
    """Each account meets every third pattern, and each pattern two accounts."""
    provider, limit, calls = account
    assert seconds_of(provider, numbers, limit, calls=calls) <= seconds_of(provider, calls=calls) + 3.0


@pytest.mark.parametrize("numbers", [(1, 2), (3, 20), (9, 10, 11), (2, 5, 9, 14, 20)], ids=str)
@pytest.mark.parametrize("provider", ["dashscope", "siliconflow"])
def test_early_rejections_cost_little_with_configured_limits(provider, numbers):
    limits = AccountLimits(requests_per_minute=6000, per_second=provider == "dashscope")
    assert seconds_of(provider, numbers, limits=limits) <= seconds_of(provider, limits=limits) + 3.0


# ── configured, in virtual time ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("provider", "kind"), [("gateway", "sliding"), ("dashscope", "sliding"), ("dashscope", "bucket")]
)
def test_configured_rate_is_used_and_never_exceeded(provider, kind):
    account = Account(provider, latency=0.05)
    account.limit(requests_per_minute=600, kind=kind)
    per_second = provider == "dashscope"
    account.run(120.0, limits=AccountLimits(requests_per_minute=600, per_second=per_second), calls=2)
    assert account.arrivals.rejected == 0
    assert account.arrivals.most_requests(60.0) <= 600
    assert account.arrivals.most_requests(1.0) <= (10 if per_second else 600)
    assert account.served(0.0, 120.0) >= 0.9 * 1200


@pytest.mark.parametrize(("limit", "kind", "calls", "jitter", "latency"), [
    ("requests", "sliding", 1, 0.0, 0.1), ("requests", "bucket", 2, 0.01, 0.3), ("requests", "fixed", 1, 0.02, 0.6),
    ("tokens", "sliding", 1, 0.0, 0.3), ("tokens", "bucket", 2, 0.01, 0.6), ("tokens", "fixed", 1, 0.02, 0.1),
    ("requests", "sliding", 1, 0.0, 0.6), ("tokens", "fixed", 1, 0.02, 0.3), ("tokens", "bucket", 2, 0.01, 0.1),
])  # fmt: skip
def test_configured_second_is_used_to_95_percent(limit, latency, kind, calls, jitter):
    each = count_tokens(same_length(0)[0]) if limit == "tokens" else 1
    account = Account("dashscope", latency=latency, jitter=jitter)
    quota = {f"{limit}_per_minute": 600 * each}
    account.limit(kind=kind, **quota)
    account.run(60.0, calls=calls, limits=AccountLimits(per_second=True, **quota), write=same_length)
    assert account.failures == []
    assert account.served(0.0, 60.0) >= 0.95 * 600
    assert account.rejected_share(0.0, 60.0) <= 0.005


def test_configured_second_is_used_where_transit_times_differ():
    account = Account("dashscope", latency=0.3, transit=0.05, jitter=0.05)
    account.limit(requests_per_minute=600)
    account.run(60.0, limits=AccountLimits(requests_per_minute=600, per_second=True))
    assert account.failures == []
    assert account.served(0.0, 60.0) >= 0.88 * 600
    assert account.rejected_share(0.0, 60.0) <= 0.015


def same_length(number):
    """Texts that all have the same tokens, fewer than estimated."""
    return [f"note {number:06} and what the river said to the mill on a long evening"]


def test_batches_above_the_billed_limit_are_split_before_sending():
    account = Account("dashscope", latency=0.05)
    a_second = 8 * max(map(count_tokens, costly_texts(100)))
    limits = AccountLimits(tokens_per_minute=60 * a_second, per_second=True)
    account.run(1000.0, texts=6, limits=limits, write=lambda number: costly_texts(16)[: 8 + number])
    assert account.failures == []
    log = account.arrivals.arrivals()
    # The first is sent by its estimate, and another may be in the queue by then.
    assert log[0].tokens > a_second
    assert max(each.tokens for each in log[2:]) <= a_second
    assert sum(each.tokens for each in log) >= sum(range(9, 15)) * a_second / 10


# ── configured, over real sockets ──────────────────────────────────────────────────────────────────────


@pytest.fixture
def account():
    """A simulator of this test, whose quotas count no other requests."""
    with Simulator(latency=0.02) as simulator:
        yield simulator


@pytest.fixture
def make(account):
    """Function that makes a client on that account; the test's end closes it."""
    clients = []

    def one(model, **options):
        options = {"base_url": account.base_url(model.partition(":")[0]), "dimensions": DIMENSIONS, **options}
        clients.append(EmbeddingClient(model, api_key=account.api_key, **options))
        return clients[-1]

    yield one
    for client in clients:
        client.close()


def in_threads(calls):
    answers = [None] * len(calls)

    def do(position, client, texts):
        answers[position] = client.embed(texts)

    threads = [threading.Thread(target=do, args=(position, *call)) for position, call in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def in_tasks(calls):
    async def all_of_them():
        return await asyncio.gather(*(client.aembed(texts) for client, texts in calls))

    return asyncio.run(all_of_them())


@pytest.fixture(params=[in_threads, in_tasks], ids=["sync", "async"])
def together(request):
    """Function that embeds [(client, texts), …] at the same time and returns the results."""
    return request.param


def texts_of(count, label="text"):
    return [f"{label} {number}" for number in range(count)]


def right(result, texts):
    return np.array_equal(result.vectors, embed(texts, DIMENSIONS))


@pytest.mark.parametrize(
    ("together", "second"),
    [(in_threads, {"requests_per_minute": 1200}), (in_tasks, {"requests_per_minute": 1500}), (in_tasks, {})],
    ids=["threads, both configured", "tasks, one configured higher", "tasks, one not configured"],
)
def test_configured_second_holds_for_several_clients(account, make, together, second):
    account.limit(requests_per_minute=1200, provider="dashscope")
    one = make(DASHSCOPE, requests_per_minute=1200, limits={"max_items": 1})
    other = make(DASHSCOPE, limits={"max_items": 1}, timeout=30, **second)
    mine, others = texts_of(15, "mine"), texts_of(15, "other")
    results = together([(one, mine), (other, others)])
    assert right(results[0], mine)
    assert right(results[1], others)
    assert (account.accepted, account.rejected) == (30, 0)
    assert account.most_requests(1.0) <= 20


def test_configured_tokens_per_second_hold(account, make, together):
    texts = texts_of(40, "a plain English sentence of some length, number")
    a_second = 30 * max(map(count_tokens, texts))
    account.limit(tokens_per_minute=60 * a_second, provider="dashscope")
    client = make(DASHSCOPE, tokens_per_minute=60 * a_second)
    (result,) = together([(client, texts)])
    assert right(result, texts)
    assert account.rejected == 0
    assert account.most_tokens(1.0) <= a_second
    assert result.usage.total_tokens == sum(map(count_tokens, texts))


def test_configured_concurrency_holds_for_several_clients(account, make, together):
    account.limit(in_flight=3)
    clients = [make(GATEWAY, max_concurrency=3, limits={"max_items": 1}) for _ in range(2)]
    results = together([(client, texts_of(20, position)) for position, client in enumerate(clients)])
    assert all(right(result, texts_of(20, position)) for position, result in enumerate(results))
    assert (account.accepted, account.rejected) == (40, 0)
    assert account.peak_in_flight == 3


def test_configured_tokens_hold_where_bills_exceed_estimates(account, make):
    texts = costly_texts(14)
    a_second = 8 * max(map(count_tokens, texts))
    client = make(DASHSCOPE, tokens_per_minute=60 * a_second)
    client.embed(texts[:1])
    account.clear()
    assert right(client.embed(texts[1:]), texts[1:])
    assert account.most_tokens(1.0) <= a_second


@pytest.mark.parametrize("model", [DASHSCOPE, GATEWAY])
def test_text_above_the_token_limit_fails_alone(account, make, entry_point, model):
    client = make(model, tokens_per_minute=6000)
    texts = ["short", "far too long " * 3000, "short as well"]
    with pytest.raises(PartialFailureError) as caught:
        entry_point(client, texts)
    (index, error), *more = caught.value.failures.items()
    assert (index, more) == (1, [])
    assert isinstance(error, InputTooLongError)
    assert error.indices == (1,)
    assert "tokens_per_minute=6000" in str(error)
    assert "far too long" not in str(error)
    np.testing.assert_array_equal(caught.value.result.vectors[[0, 2]], embed([texts[0], texts[2]], DIMENSIONS))
    assert account.most_tokens(60.0) < 100


def test_text_alone_above_the_token_limit_sends_nothing(account, make, entry_point):
    client = make(DASHSCOPE, tokens_per_minute=6000)
    with pytest.raises(InputTooLongError, match="100 a second"):
        entry_point(client, ["far too long " * 100])
    assert account.requests == []


# ── learned, over real sockets ──────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("together", "model", "quota"),
    [
        (in_threads, "zhipu:embedding-3", {"in_flight": 4}),
        (in_tasks, "zhipu:embedding-3", {"in_flight": 4}),
        (in_threads, GATEWAY, {"requests_per_minute": 3000}),
    ],
    ids=["threads, in flight", "tasks, in flight", "threads, a rate"],
)
def test_learned_quota_fails_no_text(account, make, together, model, quota):
    account.limit(**quota)
    dimensions = 256 if model.startswith("zhipu") else DIMENSIONS
    clients = [make(model, dimensions=dimensions, limits={"max_items": 1}) for _ in range(2)]
    calls = [(client, texts_of(50, position)) for position, client in enumerate(clients)]
    for result, (_, texts) in zip(together(calls), calls, strict=True):
        np.testing.assert_array_equal(result.vectors, embed(texts, dimensions))
    assert account.accepted == 100
    assert account.rejected > 0
