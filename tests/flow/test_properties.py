"""Property tests: result[i] is the vector of text i, or a typed error is at exactly the right positions.

Texts, limits, orders and failure schedules are drawn by hypothesis. An outage takes place in virtual time.
"""

from __future__ import annotations

import asyncio
import json

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.flow_driver import vector_of
from support.virtual_clock import VirtualLoop
from support.workers import Batches

import multiembed
from multiembed import EmbeddingClient, EmbeddingOptions, PartialFailureError, errors
from multiembed.config.request_config import resolve_config
from multiembed.execution.runtime import account_id
from multiembed.execution.workers import WorkerPool
from multiembed.flow.context import MAX_RETRIES, PATIENCE, Batch, CallContext, Environment, LearnedLimits
from multiembed.ratelimit.limiter import AccountLimiter
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.ratelimit.registry import limiter_for
from multiembed.transport.types import HttpResponse, TransportFailure

SIZE = 8
POISON = "poison"


# ── drawn failures_drawn, through the whole client ───────────────────────────────────────────────────────


class Server:
    """Responds as SiliconFlow does, with failures from a schedule, a maximum of texts and rejections of bad texts."""

    def __init__(self, schedule, cap):
        self.schedule = list(schedule)
        self.cap = cap
        self.paid = []

    def __call__(self, request):
        texts = json.loads(request.content)["input"]
        if len(texts) > self.cap:
            words = f"input batch size {len(texts)} > maximum allowed batch size {self.cap}"
            return httpx.Response(413, json={"code": 20042, "message": words, "data": None})
        if any(POISON in text for text in texts):
            return httpx.Response(413, json={"code": 20042, "message": "input must have less than 512 tokens"})
        failure = self.schedule.pop() if self.schedule else "none"
        if failure == "reset":
            raise httpx.ReadError("reset by peer")
        if failure in ("500", "503"):
            return httpx.Response(int(failure), text="down")
        if failure == "429":
            return httpx.Response(429, json={"message": "TPM limit reached", "data": ""}, headers={"retry-after": "9"})
        items = [
            {"object": "embedding", "index": index, "embedding": row.tolist()}
            for index, row in enumerate(vector_of(text, SIZE) for text in texts)
        ]
        spoil = {
            "missing": lambda: items.pop(),
            "twice": lambda: items[-1].update(index=0) if len(items) > 1 else items.pop(),
            "short": lambda: items[0].update(embedding=items[0]["embedding"][1:]),
            "zeros": lambda: items[-1].update(embedding=[0.0] * SIZE),
            "null": lambda: items[0].update(embedding=None),
            "reorder": items.reverse,
            "none": lambda: None,
        }
        spoil[failure]()
        if failure in ("none", "reorder"):
            self.paid += texts
        return httpx.Response(200, json={"object": "list", "data": items, "usage": {"total_tokens": len(texts)}})


BAD_ROWS = ("short", "zeros", "null")
"""Each at most once: a server that responds so twice is taken to do it always."""
SCHEDULES = st.tuples(
    st.lists(st.sampled_from(["none", "reorder", "missing", "twice", "reset", "500", "503", "429"]), max_size=25),
    st.lists(st.sampled_from(BAD_ROWS), unique=True),
).flatmap(lambda kinds: st.permutations([*kinds[0], *kinds[1]]))
TEXTS = st.lists(st.sampled_from([f"text {n}" for n in range(12)] + [f"{POISON} {n}" for n in range(3)]), max_size=40)


@pytest.mark.parametrize("call", ["sync", "async"])
@given(texts=TEXTS, schedule=SCHEDULES, cap=st.integers(1, 12), batch=st.integers(1, 12), width=st.integers(1, 6))
def test_client_fails_only_bad_texts_under_any_failures(call, texts, schedule, cap, batch, width):
    server = Server(schedule, cap)
    mock = httpx.MockTransport(server)
    client = EmbeddingClient(
        "siliconflow:a-model-of-mine",
        api_key="sk-any",
        dimensions=SIZE,
        parameters={"encoding_format": "float"},
        limits={"max_items": batch},
        max_concurrency=width,
        max_retries=100,
        http_client=httpx.Client(transport=mock),
        http_async_client=httpx.AsyncClient(transport=mock),
    )
    try:
        with multiembed.no_waits():
            result = client.embed(texts) if call == "sync" else asyncio.run(client.aembed(texts))
        failures = {}
    except PartialFailureError as partial:
        result, failures = partial.result, partial.failures
    except errors.InputTooLongError:
        assert texts
        assert all(POISON in text for text in texts)
        return
    assert set(failures) == {index for index, text in enumerate(texts) if POISON in text}
    assert all(type(error) is errors.InputTooLongError for error in failures.values())
    assert result.vectors.shape == (len(texts), SIZE)
    for index, row in enumerate(result.vectors):
        if index in failures:
            assert np.isnan(row).all()
        else:
            np.testing.assert_array_equal(row, vector_of(texts[index], SIZE))
    assert sorted(server.paid) == sorted({text for text in texts if POISON not in text})  # each paid for once


# ── an outage, in virtual time ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("batches", "size"), [(500, 10), (157, 32)])
@pytest.mark.parametrize("kind", ["connection", 503, 429])
@pytest.mark.parametrize("seed", range(3))
def test_outage_of_30_seconds_fails_no_text(batches, size, kind, seed):
    rng = np.random.default_rng(seed)
    loop = VirtualLoop()
    limiter = AccountLimiter(loop.time)
    config = resolve_config(
        "gateway:m", EmbeddingOptions(api_key="sk-any", base_url="https://host.example", dimensions=SIZE), {}
    )
    context = CallContext(
        config=config,
        role="document",
        learned=LearnedLimits(),
        limiter=limiter,
        account_limits=AccountLimits(in_flight=8),
        count_tokens=len,
        max_retries=MAX_RETRIES,
        outage_patience=PATIENCE,
        timeout=60.0,
        deadline_at=None,
        environment=Environment(clock=loop.time, wall_time=loop.time, random=rng.random),
    )
    sent, outcomes = [], []

    async def send(request):
        sent.append(loop.now)
        await asyncio.sleep(0.1)
        if 2.0 <= loop.now < 32.0:
            if kind == "connection":
                return TransportFailure("connection", "reset by peer")
            return HttpResponse(kind, {}, b"")
        count = len(json.loads(request.body)["input"])
        data = [{"index": index, "embedding": [1.0] * SIZE} for index in range(count)]
        return HttpResponse(200, {}, json.dumps({"data": data}).encode())

    plan = iter([Batch(range(n * size, (n + 1) * size), [f"{n} {m}" for m in range(size)]) for n in range(batches)])
    source = Batches(context, lambda: next(plan, None), max_workers=8, done=lambda _, outcome: outcomes.append(outcome))
    try:
        loop.run_until_complete(WorkerPool(source, send).run(bool))
    finally:
        loop.close()
    assert all(not outcome.failures for outcome in outcomes)
    positions = [position for outcome in outcomes for some, _ in outcome.accepted for position in some]
    assert sorted(positions) == list(range(batches * size))
    assert len(sent) <= 1.2 * batches
    assert loop.now > 32.0


def test_limiter_is_shared_by_provider_host_key_and_model():
    def limiter(model="gateway:m", **options):
        settings = {"api_key": "sk-any", "base_url": "https://host.example", **options}
        return limiter_for(account_id(resolve_config(model, EmbeddingOptions(**settings), {})))

    assert limiter() is limiter(dimensions=64) is limiter(max_concurrency=3)
    assert limiter() is not limiter("gateway:other")
    assert limiter() is not limiter(api_key="sk-another")
    assert limiter() is not limiter(base_url="https://another.example")
    assert limiter() is not limiter("zhipu:embedding-3")
