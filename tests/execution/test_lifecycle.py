"""Life of a client: threads, event loops, copies, closing and usage, through the client and both frameworks."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import multiprocessing
import os
import pickle
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import cycle, product

import httpx
import pytest
from calls import (
    LATENCY,
    NAMES,
    GatheringApi,
    all_right,
    aserve_right,
    dashscope_response,
    in_threads,
    serve_right,
    serving,
)
from support.adapters import (
    ASYNC_ENTRY_POINTS,
    DASHSCOPE,
    DIMENSIONS,
    ENTRY_POINTS,
    MODELS,
    REMOTE_MODELS,
    SYNC_ENTRY_POINTS,
    are_right,
    call,
    client_of,
    embed_here,
    options_for,
    texts_of,
)
from support.workers import until

from multiembed import ConfigurationError, EmbeddingClient, PartialFailureError
from multiembed.execution.chunk import Chunk
from multiembed.execution.runtime import account_id
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.ratelimit.registry import limiter_for


@pytest.fixture(params=ENTRY_POINTS.values(), ids=ENTRY_POINTS.keys())
def entry_point(request):
    return request.param


@pytest.fixture
def gathering():
    with serving(GatheringApi) as server:
        server.four = threading.Barrier(4)
        yield server


# -- threads and loops


def test_client_serves_eight_threads_at_once(options, entry_point):
    embedder = entry_point.make(DASHSCOPE, **options)
    jobs = [
        lambda label=label: [serve_right(entry_point, embedder, f"{label} {n}") for n in range(2)] for label in range(8)
    ]
    assert in_threads(*jobs) == [[True] * 2] * 8


def test_client_serves_three_event_loops_in_a_row(options, async_entry_point):
    embedder = async_entry_point.make(DASHSCOPE, max_concurrency=20, **options)
    assert [asyncio.run(all_right(async_entry_point, embedder, run, 20)) for run in range(3)] == [True] * 3


@pytest.mark.parametrize("name", NAMES)
async def test_sync_and_async_calls_mix_in_a_running_loop(options, name):
    embedder = SYNC_ENTRY_POINTS[name].make(DASHSCOPE, **options)
    for turn in range(3):
        assert serve_right(SYNC_ENTRY_POINTS[name], embedder, f"sync {turn}")
        assert await all_right(ASYNC_ENTRY_POINTS[name], embedder, f"async {turn}", 4)
        assert await asyncio.to_thread(serve_right, SYNC_ENTRY_POINTS[name], embedder, f"thread {turn}")


@pytest.mark.parametrize("name", NAMES)
def test_client_serves_two_loops_and_two_threads_at_once(options, name):
    embedder = SYNC_ENTRY_POINTS[name].make(DASHSCOPE, **options)

    def loop(label):
        return lambda: [asyncio.run(all_right(ASYNC_ENTRY_POINTS[name], embedder, f"{label} {n}", 5)) for n in range(2)]

    def thread(label):
        return lambda: [serve_right(SYNC_ENTRY_POINTS[name], embedder, f"{label} {n}") for n in range(4)]

    assert in_threads(loop("a"), loop("b"), thread("c"), thread("d")) == [[True] * 2] * 2 + [[True] * 4] * 2


# -- copies and processes


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda embedder: pickle.loads(pickle.dumps(embedder)),
    "pickle of a deepcopy": lambda embedder: pickle.loads(pickle.dumps(copy.deepcopy(embedder))),
}


# Each copy of an embedder that is used and of one that is not; the entry points take turns.
@pytest.mark.parametrize(
    ("used", "kind", "name"),
    [(*case, name) for case, name in zip(product([False, True], COPIES), cycle(ENTRY_POINTS))],
)
def test_copy_and_original_serve_threads_at_once(options, used, kind, name):
    entry_point, make_copy = ENTRY_POINTS[name], COPIES[kind]
    embedder = entry_point.make(DASHSCOPE, key_in_pickle=True, **options)
    if used:
        assert serve_right(entry_point, embedder, "before")
    copied = make_copy(embedder)
    jobs = [lambda label=label: serve_right(entry_point, copied, label) for label in range(4)]
    assert in_threads(*jobs, lambda: serve_right(entry_point, embedder, "original")) == [True] * 5


def test_spawned_worker_uses_the_key_of_its_environment(monkeypatch, simulator, options):
    monkeypatch.setenv("DASHSCOPE_API_KEY", simulator.api_key)
    embedders = [(entry_point, entry_point.make(DASHSCOPE, **options)) for entry_point in ENTRY_POINTS.values()]
    tasks = [
        (entry_point, embedder, texts_of(25, name))
        for (entry_point, embedder), name in zip(embedders, ENTRY_POINTS, strict=True)
    ]
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        results = pool.starmap(embed_here, tasks, chunksize=1)
        pool.close()
        pool.join()
    assert all(are_right(vectors, texts) for (_, vectors), (_, _, texts) in zip(results, tasks, strict=True))
    assert os.getpid() not in {pid for pid, _ in results}


# -- one limit for one account


@pytest.mark.parametrize("name", NAMES)
def test_max_concurrency_holds_over_threads_loops_and_clients(slow, name):
    one, two = (SYNC_ENTRY_POINTS[name].make(DASHSCOPE, max_concurrency=3, **options_for(slow)) for _ in range(2))
    jobs = [
        lambda: serve_right(SYNC_ENTRY_POINTS[name], one, "a", 60),
        lambda: serve_right(SYNC_ENTRY_POINTS[name], two, "b", 60),
        lambda: asyncio.run(all_right(ASYNC_ENTRY_POINTS[name], one, "c", 3)),
        lambda: asyncio.run(all_right(ASYNC_ENTRY_POINTS[name], two, "d", 3)),
    ]
    assert in_threads(*jobs) == [True] * 4
    assert slow.peak_in_flight == 3


def test_max_concurrency_holds_over_a_client_and_its_copies(slow):
    client = EmbeddingClient(DASHSCOPE, max_concurrency=2, key_in_pickle=True, **options_for(slow))
    clients = [client, copy.copy(client), copy.deepcopy(client), pickle.loads(pickle.dumps(client))]
    jobs = [lambda one=one, n=n: serve_right(SYNC_ENTRY_POINTS["client"], one, n, 40) for n, one in enumerate(clients)]
    assert in_threads(*jobs) == [True] * 4
    assert slow.peak_in_flight == 2


def test_call_of_a_known_account_uses_all_its_concurrency(gathering, entry_point):
    """The server answers once four requests are there together."""
    url = f"http://127.0.0.1:{gathering.server_port}/api/v1"
    embedder = entry_point.make(DASHSCOPE, base_url=url, api_key="sk-any", max_concurrency=4)
    limiter_for(account_id(client_of(embedder).target)).permit(AccountLimits()).report_success()
    assert serve_right(entry_point, embedder, "a", 40)
    assert not gathering.four.broken


class Held:
    """A transport that answers rightly, but only once it is let go."""

    def __init__(self):
        self.arrived = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, request):
        self.arrived.set()
        assert self.let_go.wait(30)
        return dashscope_response(json.loads(request.content))

    def client(self):
        return httpx.Client(transport=httpx.MockTransport(self))


@pytest.mark.parametrize(("same_key", "passes"), [(False, True), (True, False)])
def test_only_clients_of_one_key_wait_for_each_other(options, same_key, passes):
    held = Held()
    key = options["api_key"] if same_key else "sk-another"
    first = EmbeddingClient(DASHSCOPE, max_concurrency=1, http_client=held.client(), **{**options, "api_key": key})
    second = EmbeddingClient(DASHSCOPE, max_concurrency=1, **options)
    with ThreadPoolExecutor(2) as pool:
        try:
            in_flight = pool.submit(first.embed, ["a"])
            assert held.arrived.wait(30)
            behind = pool.submit(second.embed, ["b"])
            if passes:
                assert are_right(behind.result(timeout=30).to_list(), ["b"])
            assert in_flight.running()
            assert behind.done() == passes
        finally:
            held.let_go.set()
        assert are_right(in_flight.result().to_list(), ["a"])
        assert are_right(behind.result().to_list(), ["b"])


# -- what it keeps


@pytest.mark.parametrize("count", [1, 45], ids=["one batch", "many batches"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_finished_call_keeps_no_texts_and_vectors(options, monkeypatch, kind, count):
    chunks, make = [], Chunk.__init__

    def noted(chunk, *args, **how):
        make(chunk, *args, **how)
        chunks.append(weakref.ref(chunk))

    monkeypatch.setattr(Chunk, "__init__", noted)
    client = EmbeddingClient(DASHSCOPE, **options)
    gc.collect()
    gc.disable()  # and this without the collector
    try:
        client.embed(texts_of(count)) if kind == "sync" else asyncio.run(client.aembed(texts_of(count)))
        assert [chunk() for chunk in chunks] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("name", NAMES)
async def test_closed_client_serves_again(options, name):
    embedder = SYNC_ENTRY_POINTS[name].make(DASHSCOPE, **options)
    client = client_of(embedder)
    for turn in range(2):
        assert serve_right(SYNC_ENTRY_POINTS[name], embedder, f"sync {turn}")
        assert await aserve_right(ASYNC_ENTRY_POINTS[name], embedder, f"async {turn}")
        client.close()
        assert serve_right(SYNC_ENTRY_POINTS[name], embedder, f"sync again {turn}")
        await client.aclose()
    assert await aserve_right(ASYNC_ENTRY_POINTS[name], embedder, "async at last")


# -- what it counts


def test_usage_adds_up_over_calls_and_threads(simulator, options, entry_point):
    embedder = entry_point.make("dashscope:text-embedding-v4", **options)
    jobs = [lambda n=n: [serve_right(entry_point, embedder, f"{n} {turn}", 30) for turn in range(2)] for n in range(4)]
    assert in_threads(*jobs) == [[True] * 2] * 4
    usage = client_of(embedder).usage
    assert usage.requests == len(simulator.requests) == 4 * 2 * 3
    assert usage.retries == 0
    reference = EmbeddingClient(DASHSCOPE, **options)
    for number in range(4):
        for turn in range(2):
            reference.embed(texts_of(30, f"{number} {turn}"))
    assert usage.total_tokens == reference.usage.total_tokens > 0
    assert usage.cost == pytest.approx(usage.total_tokens * 0.5 / 1e6)


def test_usage_of_a_result_is_of_its_call_alone(options):
    client = EmbeddingClient(DASHSCOPE, **options)
    usages = in_threads(*(lambda n=n: client.embed(texts_of(10 * n, f"{n}")).usage for n in range(1, 5)))
    assert [usage.requests for usage in usages] == [1, 2, 3, 4]
    assert client.usage.requests == 10
    assert client.usage.total_tokens == sum(usage.total_tokens for usage in usages)


@pytest.fixture
def restless():
    """The interpreter switches threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("restless")
def test_first_calls_of_an_unpickled_client_share_one_runtime(options, name):
    original = SYNC_ENTRY_POINTS[name].make(DASHSCOPE, key_in_pickle=True, **options)
    for _ in range(10):
        embedder = pickle.loads(pickle.dumps(original))
        assert in_threads(*[partial(serve_right, SYNC_ENTRY_POINTS[name], embedder, "a", 1)] * 8) == [True] * 8
        assert client_of(embedder).usage.requests == 8


@pytest.mark.parametrize("name", ["langchain", "llamaindex"])
def test_assigned_option_keeps_the_usage_so_far(options, name):
    embedder = SYNC_ENTRY_POINTS[name].make(DASHSCOPE, **options)
    assert serve_right(SYNC_ENTRY_POINTS[name], embedder, "a", 30)
    embedder.timeout = 30.0
    assert embedder.client.usage.requests == 3


@pytest.mark.parametrize("model", MODELS)
def test_estimate_sends_nothing_and_counts_the_requests(simulator, model):
    client = EmbeddingClient(model, **options_for(simulator, model))
    texts = [*texts_of(150), *texts_of(30), *(f"{n} " + "long passage " * 20 for n in range(60))]
    estimate = client.estimate(texts)
    assert simulator.requests == []
    assert client.usage.requests == 0
    assert are_right(client.embed(texts).to_list(), texts, DIMENSIONS[model], model)
    assert estimate.texts == 240
    assert estimate.requests == len(simulator.requests) == client.usage.requests
    assert (estimate.requests > 0) == (model in REMOTE_MODELS)


def test_dropped_client_is_collected(options, entry_point):
    embedder = entry_point.make(DASHSCOPE, **options)
    assert serve_right(entry_point, embedder, "a")
    seen = []
    client = client_of(embedder)
    finalizer = weakref.finalize(client, seen.append, "gone")
    del embedder, client
    gc.collect()
    assert seen == ["gone"]
    assert not finalizer.alive


# -- a loop that cannot go on


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("name", NAMES)
async def test_sync_call_does_not_wait_for_the_loop_that_it_blocks(slow, name, trusted):
    embedder = SYNC_ENTRY_POINTS[name].make(DASHSCOPE, max_concurrency=4, **options_for(slow))
    if trusted:
        assert serve_right(SYNC_ENTRY_POINTS[name], embedder, "before")
    inside = asyncio.create_task(aserve_right(ASYNC_ENTRY_POINTS[name], embedder, "inside", 100))
    await asyncio.sleep(LATENCY / 2)
    assert serve_right(SYNC_ENTRY_POINTS[name], embedder, "sync", 30)
    assert await inside


def test_permits_of_an_idle_loop_do_not_block_a_sync_call(slow):
    client = EmbeddingClient(DASHSCOPE, max_concurrency=2, **options_for(slow))
    assert serve_right(SYNC_ENTRY_POINTS["client"], client, "before")
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(client.aembed(texts_of(20, f"task {n}"))) for n in range(4)]
    pacer = limiter_for(account_id(client.target)).pacer
    loop.run_until_complete(until(lambda: pacer.in_flight == 2))
    assert serve_right(SYNC_ENTRY_POINTS["client"], client, "sync", 30)
    loop.run_until_complete(asyncio.gather(*tasks))
    loop.run_until_complete(client.aclose())
    loop.close()
    assert serve_right(SYNC_ENTRY_POINTS["client"], client, "after", 30)


def test_error_of_the_key_function_keeps_the_paid_vectors(simulator, options, entry_point):
    asked = []

    def key():
        asked.append(1)
        if len(asked) > 8:
            raise OSError("the vault said sk-secret")
        return simulator.api_key

    embedder = entry_point.make(DASHSCOPE, max_concurrency=1, **{**options, "api_key": key})
    with pytest.raises(PartialFailureError) as raised:
        call(entry_point.embed, embedder, texts_of(200))
    assert {type(error) for error in raised.value.failures.values()} == {ConfigurationError}
    assert "OSError" in str(raised.value)
    assert "sk-secret" not in str(raised.value)
    kept = [index for index in range(200) if index not in raised.value.failures]
    assert kept
    assert are_right(raised.value.result.vectors[kept], [texts_of(200)[index] for index in kept])
