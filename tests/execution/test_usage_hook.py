"""`on_usage`: each Usage once, by every way in, never on an event loop, and without losing a vector."""

from __future__ import annotations

import asyncio
import copy
import logging
import pickle
import signal
import threading
import warnings
from contextlib import closing
from dataclasses import replace
from functools import reduce
from operator import add

import numpy as np
import pytest
import support.faults  # noqa: F401 - registers the faults that only tests inject
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import Document, VectorStoreIndex
from support.adapters import (
    ALL_ENTRY_POINTS,
    ASYNC_ENTRY_POINTS,
    DASHSCOPE,
    ENTRY_POINTS,
    SYNC_ENTRY_POINTS,
    call,
    client_of,
    options_for,
    texts_of,
)
from support.scripted_server import Reply, dashscope_reply, openai_reply, scripted

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import (
    AuthenticationError,
    ConfigurationError,
    EmbeddingClient,
    MultiEmbedError,
    PartialFailureError,
    Usage,
    no_waits,
)

PER_REQUEST = 10
"""Texts in one of DashScope's requests."""
TOO_LONG = "长" * 20_000
STREAMS = {"stream": "stream", "astream": "astream"}


@pytest.fixture
def options(simulator):
    return options_for(simulator)


class Spent:
    """Keeps what it is called with; `wait_for(count)` waits until there are as many."""

    def __init__(self):
        self.usages, self.threads = [], []
        self._more = threading.Condition()

    def __call__(self, usage):
        with self._more:
            self.usages.append(usage)
            self.threads.append(threading.get_ident())
            self._more.notify_all()

    def wait_until(self, done):
        with self._more:
            assert self._more.wait_for(lambda: done(self.total), 30)

    @property
    def total(self):
        return reduce(add, self.usages, Usage())


def is_same(left, right):
    """Whether two usages are the same, but for the order in which their costs were added."""
    return replace(left, cost=0) == replace(right, cost=0) and left.cost == pytest.approx(right.cost)


def results_of(client, way, texts, **options):
    """The results of a stream read to its end, or to its error."""
    results, error = [], None

    def read():
        with closing(client.stream(texts, **options)) as stream:
            results.extend(stream)

    async def aread():
        async for block in client.astream(texts, **options):
            results.append(block)  # noqa: PERF401 - what came before an error is kept

    try:
        read() if way == "stream" else asyncio.run(aread())
    except MultiEmbedError as caught:
        error = caught
    return results, error


# ── each Usage once ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("model", [DASHSCOPE, "local:char-ngrams"])
@pytest.mark.parametrize("entry_point", ENTRY_POINTS.values(), ids=ENTRY_POINTS)
def test_each_call_reports_its_usage_once(simulator, entry_point, model):
    spent = Spent()
    embedder = entry_point.make(model, on_usage=spent, **options_for(simulator, model))
    call(entry_point.embed, embedder, [*texts_of(35), *texts_of(5)])
    call(entry_point.embed_query, embedder, "a question")
    assert len(spent.usages) == 2
    assert [usage.requests for usage in spent.usages] == ([4, 1] if model == DASHSCOPE else [0, 0])
    assert spent.total == client_of(embedder).usage


@pytest.mark.parametrize("entry_point", ALL_ENTRY_POINTS.values(), ids=ALL_ENTRY_POINTS)
def test_retries_are_in_the_usage(simulator, options, entry_point):
    spent = Spent()
    embedder = entry_point.make(DASHSCOPE, on_usage=spent, **options)
    simulator.fail("server-error-empty", times=2)
    with no_waits():
        call(entry_point.embed, embedder, texts_of(5))
    assert [(usage.requests, usage.retries) for usage in spent.usages] == [(3, 2)]
    assert spent.total == client_of(embedder).usage


@pytest.mark.parametrize("entry_point", ALL_ENTRY_POINTS.values(), ids=ALL_ENTRY_POINTS)
def test_cached_texts_are_in_the_usage(options, entry_point):
    spent = Spent()
    embedder = entry_point.make(DASHSCOPE, on_usage=spent, cache=InMemoryByteStore(), **options)
    for _ in range(2):
        call(entry_point.embed, embedder, texts_of(5))
    assert [(usage.requests, usage.cached_texts) for usage in spent.usages] == [(1, 0), (0, 5)]
    assert spent.total == client_of(embedder).usage


@pytest.mark.parametrize("entry_point", ALL_ENTRY_POINTS.values(), ids=ALL_ENTRY_POINTS)
def test_call_that_fails_in_part_reports_its_usage(options, entry_point):
    spent = Spent()
    embedder = entry_point.make(DASHSCOPE, on_usage=spent, **options)
    with pytest.raises(PartialFailureError):
        call(entry_point.embed, embedder, [*texts_of(25), TOO_LONG])
    assert len(spent.usages) == 1
    assert spent.total == client_of(embedder).usage
    assert spent.total.total_tokens > 0


@pytest.mark.parametrize("entry_point", ALL_ENTRY_POINTS.values(), ids=ALL_ENTRY_POINTS)
def test_call_that_fails_as_a_whole_reports_its_requests(options, entry_point):
    spent = Spent()
    embedder = entry_point.make(DASHSCOPE, on_usage=spent, **{**options, "api_key": "sk-wrong"})
    with pytest.raises(AuthenticationError):
        call(entry_point.embed, embedder, texts_of(25))
    assert [usage.requests for usage in spent.usages] == [1]
    assert spent.total == client_of(embedder).usage


@pytest.mark.parametrize("entry_point", ENTRY_POINTS.values(), ids=ENTRY_POINTS)
def test_call_that_is_rejected_unsent_reports_nothing(options, entry_point):
    spent = Spent()
    with pytest.raises(ConfigurationError):
        call(entry_point.embed, entry_point.make(DASHSCOPE, on_usage=spent, **options), ["a", 7])
    assert spent.usages == []


@pytest.mark.parametrize("way", STREAMS)
def test_stream_reports_the_usage_of_each_result(options, way):
    spent = Spent()
    client = EmbeddingClient(DASHSCOPE, on_usage=spent, dimensions=64, **options)
    results, error = results_of(client, way, texts_of(2500))
    assert error is None
    assert len(results) == 3
    assert spent.usages == [result.usage for result in results]
    assert is_same(spent.total, client.usage)


@pytest.mark.parametrize("way", STREAMS)
def test_stream_that_fails_reports_all_its_usage(options, way):
    spent = Spent()
    client = EmbeddingClient(DASHSCOPE, on_usage=spent, dimensions=64, **options)
    results, error = results_of(client, way, [*texts_of(1500), TOO_LONG, *texts_of(1500, "later")])
    assert isinstance(error, PartialFailureError)
    assert spent.usages[: len(results)] == [result.usage for result in results]
    spent.wait_until(lambda total: is_same(total, client.usage))
    assert client.usage.requests > 100


@pytest.mark.parametrize("way", STREAMS)
def test_stream_that_is_left_early_reports_all_its_usage(options, way):
    spent = Spent()
    client = EmbeddingClient(DASHSCOPE, on_usage=spent, dimensions=64, **options)

    async def leave():
        stream = client.astream(texts_of(4000))
        await anext(stream)
        await stream.aclose()

    if way == "stream":
        with closing(client.stream(texts_of(4000))) as stream:
            next(stream)
    else:
        asyncio.run(leave())
    spent.wait_until(lambda total: total.requests == client.usage.requests and total.total_tokens > 0)


async def test_cancelled_call_reports_its_requests(options):
    """A request that is interrupted is counted, as in `client.usage`; its cost stays unknown."""
    spent, arrived, let_go = Spent(), threading.Event(), threading.Event()

    def answer(request):
        arrived.set()
        let_go.wait(30)
        return dashscope_reply(request)

    with scripted(answer) as server:
        client = EmbeddingClient(DASHSCOPE, on_usage=spent, api_key="sk-1", base_url=server.url, dimensions=64)
        task = asyncio.create_task(client.aembed(["a"]))
        await asyncio.to_thread(arrived.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        let_go.set()
        spent.wait_until(lambda total: total.requests == 1)
    assert spent.total == client.usage == Usage(requests=1)


def test_ctrl_c_reports_late_responses(simulator, options):
    """Two requests are under way when Ctrl-C comes, and are answered after the call has raised."""
    spent, let_go, came = Spent(), threading.Event(), []

    def answer(request):
        if len(request.texts) == PER_REQUEST:
            came.append(request)
            if len(came) == 2:
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            let_go.wait(30)
        return dashscope_reply(request, 64)

    with scripted(answer) as server:
        client = EmbeddingClient(
            DASHSCOPE, max_concurrency=2, on_usage=spent, api_key="sk-1", base_url=server.url, dimensions=64
        )
        client.embed(["the account is known"])
        with pytest.raises(KeyboardInterrupt):
            client.embed(texts_of(60))
        assert spent.total.requests == 1
        let_go.set()
        spent.wait_until(lambda total: total.requests == 3)
    assert spent.total == client.usage
    assert spent.total.total_tokens == 1 + 2 * PER_REQUEST


# ── where the events of the frameworks do not reach ──────────────────────────────────────────────


@pytest.mark.parametrize("config", [None, {"callbacks": [BaseCallbackHandler()]}], ids=["plain", "callbacks"])
@pytest.mark.parametrize("method", ["invoke", "ainvoke"])
def test_retriever_outside_a_chain_reports_its_query(options, method, config):
    spent = Spent()
    embeddings = MultiEmbeddings(model=DASHSCOPE, **options)
    retriever = InMemoryVectorStore.from_texts(["one", "two"], embeddings).as_retriever(search_kwargs={"k": 1})
    embeddings.on_usage = spent
    call(getattr(retriever, method), "one", config)
    assert [usage.requests for usage in spent.usages] == [1]


@pytest.mark.parametrize("method", ["retrieve", "aretrieve"])
def test_index_reports_its_documents_and_its_query(options, method):
    spent = Spent()
    embedding = MultiEmbedding(model_name=DASHSCOPE, on_usage=spent, **options)
    index = VectorStoreIndex.from_documents([Document(text="one"), Document(text="two")], embed_model=embedding)
    call(getattr(index.as_retriever(similarity_top_k=1), method), "one")
    assert [usage.requests for usage in spent.usages] == [1, 1]


# ── threads and loops ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("entry_point", SYNC_ENTRY_POINTS.values(), ids=SYNC_ENTRY_POINTS)
def test_sync_call_reports_in_the_callers_thread(options, entry_point):
    spent = Spent()
    entry_point.embed(entry_point.make(DASHSCOPE, on_usage=spent, **options), texts_of(25))
    assert spent.threads == [threading.get_ident()]


@pytest.mark.parametrize("failing", [False, True], ids=["success", "failure"])
@pytest.mark.parametrize(
    "entry_point", [*ASYNC_ENTRY_POINTS.values(), ALL_ENTRY_POINTS["astream"]], ids=[*ASYNC_ENTRY_POINTS, "astream"]
)
async def test_function_that_blocks_does_not_block_the_loop(options, entry_point, failing):
    """The function returns only after the loop has run, and the call returns only after the function."""
    loop, entered, may_return, done = asyncio.get_running_loop(), asyncio.Event(), threading.Event(), []

    def block(_):
        loop.call_soon_threadsafe(entered.set)
        done.append(may_return.wait(30))

    key = "sk-wrong" if failing else options["api_key"]
    embedder = entry_point.make(DASHSCOPE, on_usage=block, **{**options, "api_key": key})
    task = asyncio.create_task(entry_point.embed(embedder, texts_of(5)))
    await entered.wait()
    assert not task.done()
    may_return.set()
    if failing:
        with pytest.raises(AuthenticationError):
            await task
    else:
        assert len(await task) == 5
    assert done == [True]


# ── errors of the function ───────────────────────────────────────────────────────────────────────


def raising(_):
    raise ZeroDivisionError("of the user")


@pytest.mark.parametrize("entry_point", ALL_ENTRY_POINTS.values(), ids=ALL_ENTRY_POINTS)
def test_error_of_on_usage_is_one_warning_and_loses_no_vector(options, entry_point):
    embedder = entry_point.make(DASHSCOPE, on_usage=raising, **options)
    with pytest.warns(UserWarning, match="on_usage raised ZeroDivisionError") as caught:
        rows = [len(call(entry_point.embed, embedder, texts_of(15, f"{turn}"))) for turn in range(3)]
    assert rows == [15, 15, 15]
    assert len(caught) == 1
    assert client_of(embedder).usage.requests == 6


@pytest.mark.parametrize("entry_point", ALL_ENTRY_POINTS.values(), ids=ALL_ENTRY_POINTS)
def test_error_of_on_usage_is_logged_if_warnings_are_errors(options, entry_point, caplog):
    embedder = entry_point.make(DASHSCOPE, on_usage=raising, **options)
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING, "multiembed"):
        warnings.simplefilter("error")
        assert len(call(entry_point.embed, embedder, texts_of(15))) == 15
    [record] = caplog.records
    assert "on_usage raised ZeroDivisionError" in record.message


# ── copies, pickles and assignment ───────────────────────────────────────────────────────────────

REPORTED = []


def report(usage):
    REPORTED.append(usage)


@pytest.mark.parametrize("entry_point", SYNC_ENTRY_POINTS.values(), ids=SYNC_ENTRY_POINTS)
def test_function_of_a_module_is_pickled(monkeypatch, options, entry_point):
    monkeypatch.setenv("DASHSCOPE_API_KEY", options["api_key"])
    copied = pickle.loads(pickle.dumps(entry_point.make(DASHSCOPE, on_usage=report, **options)))
    REPORTED.clear()
    entry_point.embed(copied, ["a"])
    assert [usage.requests for usage in REPORTED] == [1]


@pytest.mark.parametrize("function", [lambda usage: None, [].append, Spent()], ids=["lambda", "method", "object"])
@pytest.mark.parametrize("entry_point", SYNC_ENTRY_POINTS.values(), ids=SYNC_ENTRY_POINTS)
def test_other_function_is_not_pickled_but_warned_of(monkeypatch, options, entry_point, function):
    monkeypatch.setenv("DASHSCOPE_API_KEY", options["api_key"])
    embedder = entry_point.make(DASHSCOPE, on_usage=function, **options)
    with pytest.warns(UserWarning, match="on_usage cannot be pickled"):
        pickled = pickle.dumps(embedder)
    assert len(entry_point.embed(pickle.loads(pickled), ["a"])) == 1


@pytest.mark.parametrize("copying", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("entry_point", SYNC_ENTRY_POINTS.values(), ids=SYNC_ENTRY_POINTS)
def test_copy_reports_to_the_same_function(options, entry_point, copying):
    spent = Spent()
    copied = copying(entry_point.make(DASHSCOPE, on_usage=spent, **options))
    entry_point.embed(copied, ["a"])
    assert len(spent.usages) == 1


def test_function_changes_neither_fingerprint_nor_dump(options):
    spent = Spent()
    plain, hooked = EmbeddingClient(DASHSCOPE, **options), EmbeddingClient(DASHSCOPE, on_usage=spent, **options)
    assert plain.fingerprint("query") == hooked.fingerprint("query")
    embedding = MultiEmbedding(model_name=DASHSCOPE, on_usage=spent, **options)
    assert "on_usage" not in f"{embedding.to_dict()}{embedding!r}{embedding.model_dump()}"


@pytest.mark.parametrize("made", [MultiEmbeddings, MultiEmbedding])
def test_assigned_function_is_called_from_then_on(options, made):
    spent = Spent()
    embedder = made(**{made.model_field: DASHSCOPE}, **options)
    embedder.client.embed(["a"])
    embedder.on_usage = spent
    vectors = embedder.client.embed(["b", "c"]).vectors
    assert np.isfinite(vectors).all()
    assert [usage.requests for usage in spent.usages] == [1]


@pytest.mark.parametrize("way", ["aembed", "astream"])
def test_cancelled_batch_counts_its_cost(way):
    """Of three requests of one batch, one was refused, one answered, and one is broken off."""
    third, over, spent = threading.Event(), threading.Event(), Spent()

    def answer(request):
        if len(request.texts) == 10:
            return Reply({"error": {"message": "batch size is invalid, it should not be larger than 5"}}, 400)
        if len(server.requests) == 3:
            third.set()
            over.wait(30)
        return openai_reply(request)

    async def cancel(client):
        texts = [f"text {number}" for number in range(10)]
        made = client.aembed(texts) if way == "aembed" else anext(client.astream(texts))
        task = asyncio.ensure_future(made)
        await asyncio.to_thread(third.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        over.set()

    with scripted(answer) as server:
        client = EmbeddingClient("gateway:m", api_key="sk-of-a-test", base_url=server.url, on_usage=spent)
        asyncio.run(cancel(client))
        assert (client.usage.requests, client.usage.total_tokens) == (3, 5)
        spent.wait_until(lambda total: total.requests == 3)
        assert spent.total.total_tokens == 5
