"""Streams: any number of texts in constant memory, in order, by `stream` and `astream`."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
from contextlib import aclosing, closing

import httpx
import numpy as np
import pytest
from support.workers import is_sending

from multiembed import (
    AuthenticationError,
    ConfigurationError,
    ContentRejectedError,
    DeadlineExceededError,
    EmbeddingClient,
    InvalidRequestError,
    PartialFailureError,
)
from multiembed.execution import io_thread
from multiembed.execution import stream as stream_of
from multiembed.providers.local import embed

DIMENSIONS = 64
LOCAL = "local:char-ngrams"
DASHSCOPE = "dashscope:text-embedding-v4"
PROMISED = stream_of.CHUNK_TEXTS
CHUNK_TEXTS = 120
"""Texts of a chunk in these tests: shorter ones are faster."""
AHEAD = 8 * CHUNK_TEXTS
"""Texts that may have been read and not handed out."""
PATIENCE = 20.0
"""Seconds after which a test that hangs fails."""


def _stream(client, texts, role="document", *, until=10**9, **how):
    """Results of a stream, closed after `until` of them."""
    results = []
    with closing(client.stream(texts, role, **how)) as stream:
        for result in stream:
            results.append(result)
            if len(results) == until:
                break
    return results


def _astream(client, texts, role="document", *, until=10**9, **how):
    async def collect():
        results = []
        async with aclosing(client.astream(texts, role, **how)) as stream:
            async for result in stream:
                results.append(result)
                if len(results) == until:
                    break
        return results

    return asyncio.run(collect())


@pytest.fixture(params=[_stream, _astream], ids=["sync", "async"])
def read(request):
    """`read(client, texts, role="document", until=None, on_error="raise")`: the results of a stream or an astream."""
    return request.param


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(stream_of, "CHUNK_TEXTS", CHUNK_TEXTS)


@pytest.fixture
def local():
    with EmbeddingClient(LOCAL, dimensions=DIMENSIONS, limits={"max_items": 8}) as client:
        yield client


@pytest.fixture
def dashscope(connect):
    return connect(DASHSCOPE, dimensions=DIMENSIONS)


class Server(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answers as a gateway does, each request after so many seconds as a function of its texts says."""

    def __init__(self, delay):
        self._delay = delay
        self.sent = []

    def handle_request(self, request):
        texts = self._texts(request)
        time.sleep(self._delay(texts))
        return self._answer(texts)

    async def handle_async_request(self, request):
        texts = self._texts(request)
        await asyncio.sleep(self._delay(texts))
        return self._answer(texts)

    def _texts(self, request):
        texts = json.loads(request.content)["input"]
        self.sent += texts
        return texts

    def _answer(self, texts):
        data = [{"index": index, "embedding": row} for index, row in enumerate(embed(texts, DIMENSIONS).tolist())]
        return httpx.Response(200, json={"data": data, "usage": {"total_tokens": len(texts)}})


@pytest.fixture
def served():
    """`served(delay, **options)`: a client of such a server, which is its `server`."""
    accounts = iter(range(10**9))

    def make(delay, **options):
        server = Server(delay)
        options = {"limits": {"max_items": CHUNK_TEXTS}, **options}
        client = EmbeddingClient(
            "gateway:any-model",
            api_key="sk-any",
            base_url=f"https://{next(accounts)}.{id(accounts)}.example",
            dimensions=DIMENSIONS,
            http_client=httpx.Client(transport=server),
            http_async_client=httpx.AsyncClient(transport=server),
            **options,
        )
        client.server = server
        return client

    return make


def texts_of(count, label="text"):
    return [f"{label} {number}" for number in range(count)]


async def slowly(texts):
    """An asynchronous source that lets others run."""
    for text in texts:
        await asyncio.sleep(0)
        yield text


def rows(results):
    return np.concatenate([result.vectors for result in results])


def right(results, texts):
    return np.array_equal(rows(results), embed(texts, DIMENSIONS))


def comes_true(condition):
    """Whether something becomes true in time."""
    end = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


# ── order and chunks ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", [1, CHUNK_TEXTS, 2 * CHUNK_TEXTS + 7])
def test_stream_yields_chunks_of_consecutive_texts_in_order(read, local, count):
    texts = texts_of(count)
    results = read(local, texts)
    assert [len(result.vectors) for result in results[:-1]] == [CHUNK_TEXTS] * (len(results) - 1)
    assert 1 <= len(results[-1].vectors) <= CHUNK_TEXTS
    assert right(results, texts)
    assert all(result.failures == {} and result.vectors.dtype == np.float32 for result in results)


def test_chunk_has_1024_texts_unless_they_are_long(monkeypatch, local):
    monkeypatch.setattr(stream_of, "CHUNK_TEXTS", PROMISED)
    assert [len(result.vectors) for result in local.stream(texts_of(1030))] == [1024, 6]


def test_stream_keeps_order_if_responses_overtake_each_other(read, served):
    chances = np.random.default_rng(0)
    client = served(lambda _: 0.01 * chances.random(), limits={"max_items": 15})
    texts = texts_of(2 * CHUNK_TEXTS + 30)
    assert right(read(client, texts), texts)


def test_empty_source_yields_nothing_and_sends_nothing(read, simulator, dashscope):
    assert read(dashscope, []) == []
    assert read(dashscope, iter(())) == []
    assert simulator.requests == []


@pytest.mark.parametrize(
    "make", [list, tuple, iter, lambda texts: dict.fromkeys(texts).keys(), lambda texts: (text for text in texts)]
)
def test_stream_takes_any_iterable(read, local, make):
    texts = texts_of(20)
    assert right(read(local, make(texts)), texts)


def test_astream_takes_an_asynchronous_source(local):
    texts = texts_of(CHUNK_TEXTS + 5)
    assert right(_astream(local, slowly(texts)), texts)


@pytest.mark.parametrize("texts", ["one text alone", b"bytes", 7, None])
def test_wrong_source_is_rejected_before_anything_is_read(local, texts):
    with pytest.raises(ConfigurationError, match="list of texts"):
        local.stream(texts)
    with pytest.raises(ConfigurationError, match="list of texts"):
        local.astream(texts)


@pytest.mark.parametrize(("role", "how"), [("passage", {}), ("query", {"on_error": "ignore"})])
def test_wrong_role_or_on_error_is_rejected_at_once(local, role, how):
    for read in (local.stream, local.astream):
        with pytest.raises(ConfigurationError):
            read(["text"], role, **how)


def test_equal_texts_of_a_chunk_are_sent_once(read, simulator, dashscope):
    texts = ["same", "other"] * 40
    assert right(read(dashscope, texts), texts)
    assert [request.body["input"]["texts"] for request in simulator.requests] == [["same", "other"]]


def test_stream_sends_the_role(read, simulator, dashscope):
    read(dashscope, ["text"], "query")
    assert simulator.requests[0].body["parameters"]["text_type"] == "query"


def test_stream_yields_sparse_vectors(read, connect):
    client = connect(DASHSCOPE, dimensions=DIMENSIONS, output="dense&sparse")
    texts = texts_of(CHUNK_TEXTS + 12)
    results = read(client, texts)
    assert [len(result.sparse) for result in results] == [CHUNK_TEXTS, 12]
    assert right(results, texts)
    (alone,) = client.embed([texts[-1]]).sparse
    assert results[-1].sparse[-1] == alone


def test_characters_end_a_chunk(read, local, monkeypatch):
    monkeypatch.setattr(stream_of, "_CHUNK_CHARACTERS", 20_000)
    results = read(local, ["long " * 1500] * 5)
    assert [len(result.vectors) for result in results] == [3, 2]


# ── read ahead, but never far ────────────────────────────────────────────────────────────────────


class Source:
    """Counts how far it was read, and by which threads."""

    def __init__(self, count):
        self.count = count
        self.read = 0
        self.readers = set()

    def __iter__(self):
        for number in range(self.count):
            self.read += 1
            self.readers.add(threading.get_ident())
            yield f"{number}"


def test_source_is_read_a_little_ahead_in_the_callers_thread(local):
    source, handed = Source(14 * CHUNK_TEXTS), 0
    for result in local.stream(source):
        assert source.read - handed <= AHEAD
        handed += len(result.vectors)
    assert handed == source.count
    assert source.readers == {threading.get_ident()}


async def test_astream_reads_a_little_ahead_in_the_callers_thread(local):
    source, handed = Source(14 * CHUNK_TEXTS), 0
    async for result in local.astream(source):
        assert source.read - handed <= AHEAD
        handed += len(result.vectors)
    assert handed == source.count
    assert source.readers == {threading.get_ident()}


def test_slow_response_stops_reading_ahead(served):
    released, source = threading.Event(), Source(40 * CHUNK_TEXTS)
    client = served(lambda texts: released.wait(PATIENCE) and 0.0 if "0" in texts else 0.0)
    client.embed(["the account is known"])
    first = threading.Thread(target=lambda: _stream(client, source, until=1), daemon=True)
    first.start()
    assert comes_true(lambda: source.read == AHEAD)
    time.sleep(0.05)
    assert source.read == AHEAD
    released.set()
    first.join(PATIENCE)
    assert not first.is_alive()


def test_source_is_not_read_before_the_first_result(local):
    source = Source(10)
    stream, later = local.stream(source), local.astream(source)
    assert source.read == 0
    stream.close()
    asyncio.run(later.aclose())
    assert source.read == 0


# ── what fails ───────────────────────────────────────────────────────────────────────────────────


class BrokenError(Exception):
    """Of a source."""


def breaking(count):
    yield from texts_of(count)
    raise BrokenError


@pytest.mark.parametrize("count", [0, 5, CHUNK_TEXTS, CHUNK_TEXTS + 5])
def test_error_of_the_source_comes_after_all_results_before_it(read, local, count):
    results = []
    with pytest.raises(BrokenError):
        read(Noting(local, results), breaking(count))
    assert sum(len(result.vectors) for result in results) == count
    assert not results or right(results, texts_of(count))


async def test_error_of_an_async_source_comes_after_the_results(local):
    async def source():
        for text in texts_of(5):
            yield text
        raise BrokenError

    stream = local.astream(source())
    assert right([await anext(stream)], texts_of(5))
    with pytest.raises(BrokenError):
        await anext(stream)


class Noting:
    """A client whose results are kept where an error ends the stream."""

    def __init__(self, client, results):
        self._client, self._results = client, results

    def stream(self, *args, **how):
        for result in self._client.stream(*args, **how):
            self._results.append(result)
            yield result

    async def astream(self, *args, **how):
        async with aclosing(self._client.astream(*args, **how)) as stream:
            async for result in stream:
                self._results.append(result)
                yield result


@pytest.mark.parametrize("on_error", ["raise", "keep"])
def test_error_of_a_non_text_comes_after_all_results_before_it(read, local, on_error):
    results, texts = [], texts_of(CHUNK_TEXTS + 3)
    with pytest.raises(ConfigurationError, match=f"position {CHUNK_TEXTS + 3} is int") as caught:
        read(Noting(local, results), [*texts, 7, "never read"], on_error=on_error)
    assert caught.value.indices == (CHUNK_TEXTS + 3,)
    assert right(results, texts)


def test_blank_text_fails_alone(read, dashscope):
    texts = ["one", "", "three"]
    (result,) = read(dashscope, texts, on_error="keep")
    assert {index: type(error) for index, error in result.failures.items()} == {1: InvalidRequestError}
    assert result.failures[1].indices == (1,)
    assert np.isnan(result.vectors[1]).all()
    np.testing.assert_array_equal(result.vectors[[0, 2]], embed(["one", "three"], DIMENSIONS))
    with pytest.raises(PartialFailureError) as caught:
        read(dashscope, texts)
    assert set(caught.value.failures) == {1}
    np.testing.assert_array_equal(caught.value.result.vectors[[0, 2]], embed(["one", "three"], DIMENSIONS))


def test_chunk_of_blank_texts_fails_and_sends_nothing(read, simulator, dashscope):
    (result,) = read(dashscope, ["", ""], on_error="keep")
    assert set(result.failures) == {0, 1}
    assert result.vectors.shape == (2, DIMENSIONS)
    with pytest.raises(InvalidRequestError):
        read(dashscope, ["", ""])
    assert simulator.requests == []


def test_moderated_text_fails_alone_and_the_stream_goes_on(read, simulator, dashscope):
    texts = texts_of(CHUNK_TEXTS + 50)
    bad = CHUNK_TEXTS + 20
    texts[bad] = "this is MODERATED"
    simulator.fail("moderated")
    try:
        first, second = read(dashscope, texts, on_error="keep")
        assert first.failures == {}
        assert {index: type(error) for index, error in second.failures.items()} == {20: ContentRejectedError}
        others = [index for index in range(50) if index != 20]
        np.testing.assert_array_equal(
            second.vectors[others], embed([texts[CHUNK_TEXTS + index] for index in others], DIMENSIONS)
        )
        results = []
        with pytest.raises(PartialFailureError) as caught:
            read(Noting(dashscope, results), [*texts, *texts_of(CHUNK_TEXTS, "later")])
    finally:
        simulator.heal()
    assert right(results, texts[:CHUNK_TEXTS])
    assert set(caught.value.failures) == {20}


@pytest.mark.parametrize("on_error", ["raise", "keep"])
def test_fatal_error_ends_the_stream_after_one_request(read, simulator, connect, on_error):
    client = connect(DASHSCOPE, api_key="sk-wrong")
    with pytest.raises(AuthenticationError):
        read(client, Source(10**6), on_error=on_error)
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("on_error", ["raise", "keep"])
def test_deadline_ends_an_endless_stream(read, served, on_error):
    client = served(lambda _: 0.02, deadline=0.2)

    def endless():
        number = 0
        while True:
            number += 1
            yield f"text {number}"

    with pytest.raises(DeadlineExceededError):
        read(client, endless(), on_error=on_error, until=500)


def test_exception_in_one_batch_fails_that_batch_only(read, served):
    def delay(texts):
        if "text 3" in texts:
            raise ZeroDivisionError
        return 0.0

    first, second = read(served(delay), texts_of(2 * CHUNK_TEXTS), on_error="keep")  # a chunk is one request
    assert set(first.failures) == set(range(CHUNK_TEXTS))
    assert all("ZeroDivisionError" in str(error) for error in first.failures.values())
    assert not second.failures
    assert comes_true(lambda: not is_sending())


def test_stream_works_if_no_thread_can_be_started(served, monkeypatch):
    real = threading.Thread.start

    def start(thread):
        if thread.name.startswith("multiembed"):
            raise RuntimeError("can't start new thread at interpreter shutdown")
        real(thread)

    client, texts, results = served(lambda _: 0.0), texts_of(2 * CHUNK_TEXTS + 3), []
    caller = threading.Thread(target=lambda: results.extend(client.stream(texts)), daemon=True)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        patched.setattr(io_thread, "_io_threads", {})
        caller.start()
        caller.join(PATIENCE)
        io = io_thread.started_io_thread()
    io.loop.close()
    assert not caller.is_alive(), "it waits for a thread that never comes"
    assert right(results, texts)


def test_stream_begun_outside_a_loop_read_on_within_it(dashscope):
    """The stream blocks the loop, whose own calls hold the account meanwhile."""
    results, texts = [], texts_of(12 * CHUNK_TEXTS)
    stream = dashscope.stream(texts)
    results.append(next(stream))

    async def within():
        calls = [asyncio.ensure_future(dashscope.aembed(texts_of(5 * CHUNK_TEXTS, "another"))) for _ in range(3)]
        await asyncio.sleep(0.003)
        results.extend(stream)
        await asyncio.gather(*calls)

    reader = threading.Thread(target=lambda: asyncio.run(within()), daemon=True)
    reader.start()
    reader.join(PATIENCE)
    assert not reader.is_alive(), "the loop and the stream wait for each other"
    assert right(results, texts)


# ── its end ──────────────────────────────────────────────────────────────────────────────────────


def test_stream_closed_early_sends_nothing_more(served):
    client = served(lambda _: 0.01, limits={"max_items": 15})
    for result in client.stream(Source(100 * CHUNK_TEXTS)):
        assert len(result.vectors) == CHUNK_TEXTS
        break
    gc.collect()
    assert comes_true(lambda: not is_sending())
    sent = len(client.server.sent)
    assert sent < AHEAD
    time.sleep(0.05)
    assert len(client.server.sent) == sent


@pytest.mark.parametrize("closes", [True, False])
async def test_astream_closed_or_dropped_leaves_no_task(served, closes):
    client = served(lambda _: 0.01, limits={"max_items": 15})
    stream = client.astream(Source(100 * CHUNK_TEXTS))
    async for result in stream:
        assert len(result.vectors) == CHUNK_TEXTS
        break
    if closes:
        await stream.aclose()
    else:
        del stream
        gc.collect()
        await asyncio.sleep(0)  # now the loop begins to close it
        await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()}, timeout=PATIENCE)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    sent = len(client.server.sent)
    await asyncio.sleep(0.05)
    assert len(client.server.sent) == sent


async def test_cancelled_astream_leaves_no_task(served):
    client, started = served(lambda _: 0.01, limits={"max_items": 15}), asyncio.Event()

    async def consume():
        async with aclosing(client.astream(Source(100 * CHUNK_TEXTS))) as stream:
            async for _ in stream:
                started.set()

    task = asyncio.create_task(consume())
    await asyncio.wait_for(started.wait(), PATIENCE)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert asyncio.all_tasks() == {asyncio.current_task()}
    texts = texts_of(5)
    assert np.array_equal((await client.aembed(texts)).vectors, embed(texts, DIMENSIONS))


# ── where it runs ────────────────────────────────────────────────────────────────────────────────


async def test_stream_runs_under_a_running_loop(dashscope):
    texts = texts_of(CHUNK_TEXTS + 5)
    assert right(list(dashscope.stream(texts)), texts)


async def test_astream_lets_other_tasks_run(dashscope):
    turns = 0

    async def others():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    texts = texts_of(200)
    assert right([result async for result in dashscope.astream(slowly(texts))], texts)
    task.cancel()
    assert turns > 20


def test_streams_of_threads_and_loops_use_one_client_at_once(dashscope):
    answers = {}

    def use(read, label):
        texts = texts_of(300, label)
        answers[label] = right(read(dashscope, texts), texts)

    threads = [threading.Thread(target=use, args=(read, f"{n}")) for n, read in enumerate([_stream, _astream] * 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(answers.values()) == [True] * 6


def test_two_streams_can_be_read_in_turns(local):
    one, other = texts_of(CHUNK_TEXTS + 9, "one"), texts_of(CHUNK_TEXTS + 9, "other")
    pairs = list(zip(local.stream(one), local.stream(other), strict=True))
    assert right([mine for mine, _ in pairs], one)
    assert right([others for _, others in pairs], other)


def test_usage_grows_while_a_stream_runs(simulator, dashscope):
    seen = [dashscope.usage.requests]
    total = 0
    for result in dashscope.stream(texts_of(3 * CHUNK_TEXTS)):
        seen.append(dashscope.usage.requests)
        total += result.usage.total_tokens
        assert dashscope.usage.total_tokens >= total
    assert seen == sorted(seen)
    assert seen[0] < seen[1] <= seen[-1] == len(simulator.requests)
    assert dashscope.usage.total_tokens == total
