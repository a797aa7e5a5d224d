"""Sparse companions: one request for both kinds of vectors, in both frameworks, sync and async."""

from __future__ import annotations

import asyncio
import copy
import gc
import logging
import pickle
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from support.adapters import DASHSCOPE, are_right, call, options_for, run_python, texts_of
from support.scripted_server import Reply, scripted, vector_of

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import (
    AuthenticationError,
    ConfigurationError,
    EmbeddingClient,
    InputTooLongError,
    InvalidRequestError,
    MalformedResponseError,
    PartialFailureError,
    SparseCompanion,
    SparseVector,
)
from multiembed.integration import hybrid
from multiembed.providers import list_models

TOO_LONG = "长" * 20_000
SPARSE_MODELS = [f"{provider.id}:{model.name}" for provider, model in list_models() if model.sparse]


@dataclass
class Pair:
    """An embedder and its sparse half, by one way to call them. Sparse vectors come as (indices, values)."""

    embedder: Any
    half: Any
    prefix: str

    def dense(self, texts, role="document"):
        return call(self.dense_call, texts, role)

    def sparse(self, texts, role="document"):
        return [as_pair(vector) for vector in call(self.sparse_call, texts, role)]

    def dense_call(self, texts, role="document"):
        return self._call(self.embedder, texts, role, "embed_documents", "get_text_embedding_batch")

    def sparse_call(self, texts, role="document"):
        return self._call(self.half, texts, role, "embed_documents", "get_text_embedding_batch")

    def _call(self, target, texts, role, of_langchain, of_llamaindex):
        is_langchain = isinstance(self.embedder, MultiEmbeddings)
        if role == "document":
            return getattr(target, self.prefix + (of_langchain if is_langchain else of_llamaindex))(texts)
        method = getattr(target, self.prefix + ("embed_query" if is_langchain else "get_query_embedding"))
        return _each(method, texts) if self.prefix else [method(text) for text in texts]


async def _each(method, texts):
    return [await method(text) for text in texts]


def as_pair(vector):
    if isinstance(vector, dict):
        return tuple(vector), tuple(vector.values())
    return tuple(vector.indices), tuple(vector.values)


def make_embedder(framework, model=DASHSCOPE, **options):
    if framework == "langchain":
        return MultiEmbeddings(model=model, **options)
    return MultiEmbedding(model_name=model, **options)


@pytest.fixture(params=["langchain", "llamaindex"])
def framework(request):
    return request.param


@pytest.fixture
def options(simulator):
    return {**options_for(simulator), "output": "dense&sparse", "dimensions": 256}


@pytest.fixture(params=["", "a"], ids=["sync", "async"])
def pair(request, framework, options):
    embedder = make_embedder(framework, **options)
    return Pair(embedder, embedder.sparse(), request.param)


@pytest.fixture
def expected(options):
    """`expected(texts)`: the sparse vectors as the client has them, in float32."""

    def embed(texts):
        with EmbeddingClient(DASHSCOPE, **options) as client:
            vectors = client.embed(texts).to_sparse()
        return [(vector.indices, tuple(np.array(vector.values, dtype=np.float32).tolist())) for vector in vectors]

    return embed


def kept(embedder):
    """Vectors of each kind that wait for their call."""
    unclaimed = embedder._find_unclaimed()
    return {kind: len(each.entries) for kind, each in unclaimed._state()._kept.items()}


# ── one request for both kinds ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("order", ["dense first", "sparse first"])
@pytest.mark.parametrize("role", ["document", "query"])
def test_both_kinds_cost_the_requests_of_one(simulator, pair, expected, role, order):
    texts = texts_of(25 if role == "document" else 5)
    calls = [pair.dense, pair.sparse] if order == "dense first" else [pair.sparse, pair.dense]
    results = {each.__name__: each(texts, role) for each in calls}
    assert len(simulator.requests) == (3 if role == "document" else 5)
    assert {request.body["parameters"]["text_type"] for request in simulator.requests} == {role}
    assert are_right(results["dense"], texts, 256)
    assert {type(number) for number in results["dense"][0]} == {float}
    assert results["sparse"] == expected(texts)
    assert kept(pair.embedder) == {"dense": 0, "sparse": 0}


def test_vectors_are_the_same_whether_kept_or_sent(pair):
    texts = texts_of(3)
    dense, kept_sparse = pair.dense(texts), pair.sparse(texts)
    assert pair.sparse(texts) == kept_sparse
    assert pair.dense(texts) == dense


def test_kept_vector_is_taken_once(simulator, pair):
    pair.dense(["a"])
    pair.sparse(["a"])
    assert len(simulator.requests) == 1
    pair.sparse(["a"])
    assert len(simulator.requests) == 2


def test_query_does_not_get_the_vector_of_a_document(simulator, pair):
    pair.dense(["a"], "document")
    pair.sparse(["a"], "query")
    assert [request.body["parameters"]["text_type"] for request in simulator.requests] == ["document", "query"]


@pytest.mark.parametrize("one_by_one", [True, False])
def test_equal_texts_each_get_their_vector(simulator, pair, expected, one_by_one):
    texts = ["a", "b", "a", "a"]
    dense = pair.dense(texts)
    sparse = [pair.sparse([text])[0] for text in texts] if one_by_one else pair.sparse(texts)
    assert len(simulator.requests) == 1
    assert sparse == expected(texts)
    assert dense[0] == dense[2]
    assert dense[0] is not dense[2]
    assert kept(pair.embedder)["sparse"] == 0


def test_only_texts_that_are_missing_are_sent(simulator, pair, expected):
    pair.dense(["a", "b"])
    simulator.clear()
    assert pair.sparse(["new", "a", "newer", "b"]) == expected(["new", "a", "newer", "b"])
    assert simulator.requests[0].body["input"]["texts"] == ["new", "newer"]


def test_lone_surrogate_is_found_again(simulator, pair):
    pair.dense(["a\ud800"])
    pair.sparse(["a\ud800"])
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_no_texts_cost_nothing(simulator, pair, kind):
    assert getattr(pair, kind)([]) == []
    assert simulator.requests == []


def test_many_texts_are_converted_in_a_thread(simulator, pair, expected):
    texts = texts_of(hybrid._FEW + 40)
    pair.dense(texts)
    requests = len(simulator.requests)
    assert pair.sparse(texts) == expected(texts)
    assert requests == -(-len(texts) // 10)


# ── several at once ──────────────────────────────────────────────────────────────────────────────


def sparse_reply(request, weights=((7, 0.5),)):
    items = [{"index": index, "value": value, "token": "t"} for index, value in weights]
    data = [
        {"text_index": i, "embedding": vector_of(text, 256), "sparse_embedding": items}
        for i, text in enumerate(request.texts)
    ]
    return Reply({"output": {"embeddings": data}, "usage": {"total_tokens": len(data)}, "request_id": "id-1"})


@pytest.fixture
def held(framework):
    """`held(prefix)`: a pair, and its server, which answers once `go` is set, and sets `arrived` at a request."""
    go, arrived = threading.Event(), threading.Event()

    def answer(request):
        arrived.set()
        assert go.wait(60)
        return sparse_reply(request)

    with scripted(answer) as server:
        server.go, server.arrived = go, arrived
        embedder = make_embedder(framework, base_url=server.url, api_key="k", output="dense&sparse", dimensions=256)
        yield lambda prefix: (Pair(embedder, embedder.sparse(), prefix), server)
        go.set()


async def until(event):
    await asyncio.get_running_loop().run_in_executor(None, event.wait)


async def test_eight_queries_at_once_cost_eight_requests(simulator, framework, options):
    embedder = make_embedder(framework, **options)
    pair = Pair(embedder, embedder.sparse(), "a")
    queries = [[f"question {number}"] for number in range(8)]
    calls = [each(query, "query") for query in queries for each in (pair.dense_call, pair.sparse_call)]
    await asyncio.gather(*calls)
    assert len(simulator.requests) == 8


async def test_one_query_from_eight_tasks_costs_eight_requests(simulator, framework, options):
    """As many as dense vectors alone: each of the tasks finds its sparse vector."""
    embedder = make_embedder(framework, **options)
    pair = Pair(embedder, embedder.sparse(), "a")

    async def search():
        await pair.dense_call(["question"], "query")
        await pair.sparse_call(["question"], "query")

    await asyncio.gather(*(search() for _ in range(8)))
    assert len(simulator.requests) == 8
    await asyncio.gather(*(pair.dense_call(["other"], "query") for _ in range(8)))
    await asyncio.gather(*(pair.sparse_call(["other"], "query") for _ in range(8)))
    assert len(simulator.requests) == 16
    assert kept(embedder) == {"dense": 0, "sparse": 0}


@pytest.mark.parametrize("order", [("dense", "sparse"), ("sparse", "dense")])
def test_thread_waits_for_the_request_of_another(held, order):
    pair, server = held("")
    threads = [threading.Thread(target=getattr(pair, kind), args=(["a", "b"],)) for kind in order]
    threads[0].start()
    assert server.arrived.wait(60)
    threads[1].start()
    server.go.set()
    for thread in threads:
        thread.join(60)
    assert len(server.requests) == 1


async def test_sync_call_does_not_wait_for_a_task_of_its_loop(held):
    """LlamaIndex's stores call sync functions on the event loop, where the task that embeds cannot go on."""
    pair, server = held("a")
    task = asyncio.create_task(pair.dense_call(["a"]))
    await until(server.arrived)
    server.go.set()
    assert as_pair(Pair(pair.embedder, pair.half, "").sparse_call(["a"])[0]) == ((7,), (0.5,))
    await task
    assert len(server.requests) == 2


async def test_cancelled_request_is_sent_by_the_call_that_waited(held):
    pair, server = held("a")
    first = asyncio.create_task(pair.dense_call(["a"]))
    await until(server.arrived)
    second = asyncio.create_task(pair.sparse_call(["a"]))
    await asyncio.sleep(0)
    first.cancel()
    server.go.set()
    assert as_pair((await second)[0]) == ((7,), (0.5,))
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_cancelled_call_that_waited_disturbs_no_other(held):
    pair, server = held("a")
    first = asyncio.create_task(pair.dense_call(["a"]))
    await until(server.arrived)
    second = asyncio.create_task(pair.sparse_call(["a"]))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    server.go.set()
    assert await first == [vector_of("a", 256)]
    assert kept(pair.embedder)["sparse"] == 1


# ── failures ─────────────────────────────────────────────────────────────────────────────────────


def test_failed_text_leaves_nothing_and_fails_alike(simulator, pair):
    texts = ["before", TOO_LONG, "after"]
    with pytest.raises(PartialFailureError):
        pair.dense(texts)
    assert kept(pair.embedder) == {"dense": 0, "sparse": 2}
    simulator.clear()
    with pytest.raises(InputTooLongError) as raised:
        pair.sparse(texts)
    assert raised.value.indices == (1,)
    assert {text for request in simulator.requests for text in request.body["input"]["texts"]} <= {TOO_LONG}
    assert kept(pair.embedder)["sparse"] == 2  # what was found is given back
    simulator.clear()
    pair.sparse(["after", "before"])
    assert simulator.requests == []


def test_partial_failure_has_the_positions_of_the_call(pair, expected):
    pair.dense(["a", "b"])
    with pytest.raises(PartialFailureError) as raised:
        pair.sparse(["a", "new", TOO_LONG, "b"])
    error = raised.value
    assert error.indices == (2,)
    assert list(error.failures) == [2]
    assert error.failures[2].indices == (2,)
    assert error.result.texts == 4
    vectors = [None if vector is None else (vector.indices, vector.values) for vector in error.result.sparse]
    right = expected(["a", "new", "b"])
    assert [vectors[0], vectors[3]] == [right[0], right[2]]
    assert vectors[1][0] == right[1][0]
    assert vectors[2] is None


def test_partial_failure_of_dense_has_nan_in_its_row(pair):
    pair.sparse(["a", "b"])
    with pytest.raises(PartialFailureError) as raised:
        pair.dense(["a", TOO_LONG, "new", "b"])
    assert raised.value.indices == (1,)
    vectors = raised.value.result.vectors
    assert are_right(vectors[[0, 2, 3]], ["a", "new", "b"], 256)
    assert np.isnan(vectors[1]).all()


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_empty_text_has_the_position_of_the_call(simulator, pair, kind):
    (pair.dense if kind == "sparse" else pair.sparse)(["a", "b"])
    simulator.clear()
    with pytest.raises(InvalidRequestError) as raised:
        getattr(pair, kind)(["a", "b", "", "c"])
    assert raised.value.indices == (2,)
    assert "Positions, counted from 0: 2" in str(raised.value)
    assert simulator.requests == []
    getattr(pair, kind)(["a", "b"])
    assert simulator.requests == []


@pytest.mark.parametrize("texts", ["one text", ["a", 5], 5, ["a", None]])
def test_what_is_not_a_list_of_texts_is_refused(simulator, options, texts):
    embeddings = MultiEmbeddings(model=DASHSCOPE, **options)
    for half in (embeddings, embeddings.sparse()):
        with pytest.raises(ConfigurationError):
            half.embed_documents(texts)
    assert simulator.requests == []


def test_wrong_key_is_one_request_for_each_call(simulator, framework, options):
    embedder = make_embedder(framework, **{**options, "api_key": "sk-wrong"})
    pair = Pair(embedder, embedder.sparse(), "")
    for each in (pair.dense, pair.sparse):
        with pytest.raises(AuthenticationError):
            each(["a"])
    assert len(simulator.requests) == 2
    assert kept(embedder) == {"dense": 0, "sparse": 0}


# ── memory ───────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_kept_without_a_companion(framework, options):
    embedder = make_embedder(framework, **options)
    Pair(embedder, None, "").dense(texts_of(3))
    assert embedder._unclaimed is None


def test_nothing_is_kept_once_the_companions_are_gone(framework, options):
    embedder = make_embedder(framework, **options)
    halves = [embedder.sparse(), embedder.sparse()]
    Pair(embedder, None, "").dense(texts_of(3))
    assert kept(embedder)["sparse"] == 3
    del halves[0]
    gc.collect()
    assert kept(embedder)["sparse"] == 3
    halves.clear()
    gc.collect()
    assert embedder._unclaimed() is None


def test_cache_answers_so_nothing_is_kept(simulator, framework, options, tmp_path):
    embedder = make_embedder(framework, **options, cache=str(tmp_path / "vectors.sqlite"))
    pair = Pair(embedder, embedder.sparse(), "")
    dense = pair.dense(texts_of(5))
    pair.sparse(texts_of(5))
    pair.sparse(texts_of(5))
    assert pair.dense(texts_of(5)) == dense
    assert len(simulator.requests) == 1
    assert embedder._find_unclaimed() is None
    embedder.client.close()


@pytest.fixture
def small(monkeypatch):
    """A cap under which four sparse vectors of a short text fit, or one dense one."""
    monkeypatch.setattr(hybrid, "MAX_BYTES", 1250)


def test_cap_drops_the_oldest_and_warns_once(simulator, pair, small):
    texts = texts_of(5)
    with pytest.warns(UserWarning, match="second request.* the option cache"):
        pair.dense(texts)
    pair.dense(texts_of(5, "other"))  # a second warning would be an error
    left = kept(pair.embedder)["sparse"]
    assert 0 < left < 5
    simulator.clear()
    pair.sparse(texts_of(5, "other")[-left:])
    assert simulator.requests == []
    pair.sparse(texts[:1])
    assert len(simulator.requests) == 1


def test_cap_counts_what_is_kept(framework, options, small):
    embedder = make_embedder(framework, **options)
    pair = Pair(embedder, embedder.sparse(), "")
    unclaimed = embedder._find_unclaimed()
    with pytest.warns(UserWarning, match="second request"):
        pair.dense(texts_of(5))
    for number in range(20):  # as "dummy_text", which no store asks for again
        pair.dense([f"dummy {number}"])
    each = unclaimed._state()._kept["sparse"]
    assert each.size == sum(len(data) + hybrid._ENTRY_BYTES for data, _ in each.entries.values()) <= hybrid.MAX_BYTES
    for key in list(each.entries):
        each.take(key, 1)
    assert (each.size, len(each.entries)) == (0, 0)


def test_sparse_search_alone_gives_no_warning(pair, small):
    for number in range(5):
        pair.sparse([f"text {number}"])
    with pytest.warns(UserWarning, match="second request"):
        pair.dense(["text 9"])


def test_vectors_are_returned_where_warnings_are_errors(pair, small, caplog):
    with caplog.at_level(logging.WARNING, logger="multiembed"):
        assert are_right(pair.dense(texts_of(8)), texts_of(8), 256)
    assert [record.name for record in caplog.records] == ["multiembed"]


# ── copies, pickles, forks and changed options ───────────────────────────────────────────────────


@pytest.mark.parametrize("duplicate", [lambda both: pickle.loads(pickle.dumps(both)), copy.deepcopy])
def test_copied_embedder_and_companion_share_a_client(simulator, pair, duplicate, monkeypatch):
    monkeypatch.setenv("DASHSCOPE_API_KEY", simulator.api_key)  # a pickle has none
    pair.dense(["kept here"])
    embedder, half = duplicate((pair.embedder, pair.half))
    other = Pair(embedder, half, pair.prefix)
    assert kept(embedder) == {"dense": 0, "sparse": 0}
    simulator.clear()
    other.dense(["a"])
    other.sparse(["a"])
    assert len(simulator.requests) == 1
    pair.sparse(["kept here"])
    assert len(simulator.requests) == 1


@pytest.mark.parametrize("duplicate", [lambda half: pickle.loads(pickle.dumps(half)), copy.copy, copy.deepcopy])
def test_copied_companion_embeds_alone(simulator, pair, expected, duplicate, monkeypatch):
    monkeypatch.setenv("DASHSCOPE_API_KEY", simulator.api_key)
    assert Pair(pair.embedder, duplicate(pair.half), pair.prefix).sparse(["a"]) == expected(["a"])


def test_copied_embedder_has_no_companion(pair):
    for other in (copy.copy(pair.embedder), copy.deepcopy(pair.embedder), pair.embedder.model_copy()):
        Pair(other, None, pair.prefix).dense(["a"])
        assert other._unclaimed is None
    assert kept(pair.embedder)["sparse"] == 0


def test_unpickled_companion_without_a_key_raises_at_its_first_use(pair):
    half = pickle.loads(pickle.dumps(pair.half))
    with pytest.raises(ConfigurationError, match="DASHSCOPE_API_KEY"):
        Pair(pair.embedder, half, pair.prefix).sparse(["a"])


def test_forked_child_begins_with_nothing(pair, monkeypatch):
    pair.dense(["a"])
    assert kept(pair.embedder)["sparse"] == 1
    monkeypatch.setattr(hybrid.os, "getpid", lambda: -1)
    assert kept(pair.embedder)["sparse"] == 0
    assert list(pair.embedder._find_unclaimed()._states) == [-1]


def test_changed_options_take_no_older_vector(simulator, pair):
    pair.dense(["a"])
    pair.embedder.dimensions = 512
    pair.sparse(["a"])
    assert [request.body["parameters"]["dimension"] for request in simulator.requests] == [256, 512]


def test_output_changed_to_dense_is_a_configuration_error(simulator, pair):
    pair.embedder.output = "dense"
    with pytest.raises(ConfigurationError, match="output='dense&sparse'"):
        pair.sparse(["a"])
    assert simulator.requests == []


# ── bad input ────────────────────────────────────────────────────────────────────────────────────


def assert_names_models(raised):
    assert all(model in str(raised.value) for model in SPARSE_MODELS)
    assert "dashscope:text-embedding-v4" in str(raised.value)


@pytest.mark.parametrize(
    "model",
    [
        "zhipu:embedding-3",
        "siliconflow:BAAI/bge-m3",
        "dashscope:text-embedding-v2",
        "dashscope-compatible:text-embedding-v4",
        "local",
    ],
)
@pytest.mark.parametrize("more", [{}, {"on_too_long": "split"}])
def test_model_without_sparse_vectors_names_those_with(framework, model, more):
    with pytest.raises(ConfigurationError, match="dense vectors only") as raised:
        make_embedder(framework, model, api_key="k", output="dense&sparse", **more)
    assert_names_models(raised)


def test_split_of_long_texts_is_refused(framework):
    with pytest.raises(ConfigurationError, match="'truncate'"):
        make_embedder(framework, api_key="k", output="dense&sparse", on_too_long="split")


@pytest.mark.parametrize("model", [DASHSCOPE, "zhipu:embedding-3", "dashscope-compatible:text-embedding-v4"])
def test_companion_of_dense_output_is_refused(framework, model):
    embedder = make_embedder(framework, model, api_key="k")
    ways = [embedder.sparse, lambda: SparseCompanion(embedder)]
    if framework == "llamaindex":
        ways += [lambda: embedder.sparse_doc_fn, lambda: embedder.sparse_query_fn]
    for way in ways:
        with pytest.raises(ConfigurationError, match="output='dense&sparse'") as raised:
            way()
        assert_names_models(raised)


def test_companion_of_another_object_is_refused():
    with pytest.raises(ConfigurationError, match="not str"):
        SparseCompanion("dashscope:text-embedding-v4")


# ── what the stores take ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("weights", "are_kept"),
    [
        ([(246_351, 1.5), (3, 0.25)], True),  # the index of the vendor's example: beyond Qwen's vocabulary
        ([(2**31, 1.0), (2**32 - 1, -0.5)], True),
        ([(7, 0.0)], True),
        ([(2**32, 1.0)], False),
        ([(7, 1e300)], False),
    ],
)
def test_indices_and_weights_come_as_they_were_sent(framework, weights, are_kept):
    with scripted(lambda request: sparse_reply(request, weights)) as server:
        embedder = make_embedder(framework, base_url=server.url, api_key="k", output="dense&sparse", dimensions=256)
        pair = Pair(embedder, embedder.sparse(), "")
        pair.dense(["a"])
        first, second = pair.sparse(["a"])[0], pair.sparse(["a"])[0]
        assert first == second == (tuple(index for index, _ in weights), tuple(weight for _, weight in weights))
        assert len(server.requests) == 3 - are_kept


@pytest.mark.parametrize("weights", [[], [(7, 0.5), (7, 0.25)], [(-1, 0.5)]])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_bad_sparse_vector_rejects_the_response_and_keeps_nothing(framework, weights, kind):
    def answer(request):
        return sparse_reply(request, weights if "bad" in request.texts else [(7, 0.5)])

    with scripted(answer) as server:
        embedder = make_embedder(
            framework, base_url=server.url, api_key="k", output="dense&sparse", dimensions=256, max_retries=0
        )
        pair = Pair(embedder, embedder.sparse(), "")
        with pytest.raises(MalformedResponseError, match="sparse vector "):
            getattr(pair, kind)(["good", "bad"])
        assert kept(embedder) == {"dense": 0, "sparse": 0}


@pytest.mark.unit
def test_milvus_gets_weights_above_0_only():
    vectors = [SparseVector((7, 3), (0.5, 0.0)), SparseVector((2**32 - 2,), (1.0,))]
    assert SparseCompanion.to_milvus(vectors) == [{7: 0.5}, {2**32 - 2: 1.0}]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("vector", "problem"),
    [
        (SparseVector((), ()), "no weight above 0"),
        (SparseVector((7,), (0.0,)), "no weight above 0"),
        (SparseVector((7, 8), (1.0, -0.5)), "a weight below 0"),
    ],
)
def test_vector_that_milvus_refuses_is_named(vector, problem):
    with pytest.raises(InvalidRequestError, match=f"position 1 of 2 has {problem}") as raised:
        SparseCompanion.to_milvus([SparseVector((7,), (1.0,)), vector])
    assert raised.value.indices == (1,)


WITHOUT_QDRANT = """
import sys

sys.modules["langchain_qdrant"] = None  # as where it is not installed
from langchain_multiembed import MultiEmbeddings
from multiembed import SparseVector

embeddings = MultiEmbeddings(model="dashscope:text-embedding-v4", output="dense&sparse")
sparse = embeddings.sparse()
embeddings.embed_query("a")
vector = sparse.embed_query("a")
assert type(vector) is SparseVector, vector
assert embeddings.client.usage.requests == 1
print(len(vector.indices), len(vector.values))
"""


def test_langchain_companion_needs_no_store_package(simulator):
    done = run_python(WITHOUT_QDRANT, environment=simulator.environment())
    assert (done.stdout, done.stderr) == ("1 1\n", "")


def test_llamaindex_companion_is_a_sparse_embedding(simulator, options, expected):
    embedding = MultiEmbedding(model_name=DASHSCOPE, **options)
    half = embedding.sparse()
    assert isinstance(half, BaseSparseEmbedding)
    assert half.model_name == DASHSCOPE
    assert half.class_name() == "MultiSparseEmbedding"
    texts = texts_of(25)
    embedding.get_text_embedding_batch(texts)
    assert [as_pair(vector) for vector in half.get_text_embedding_batch(texts)] == expected(texts)
    assert [as_pair(half.get_text_embedding("new"))] == expected(["new"])


def test_functions_for_qdrant_share_the_client(simulator, options, expected):
    embedding = MultiEmbedding(model_name=DASHSCOPE, **options)
    doc_fn, query_fn = embedding.sparse_doc_fn, embedding.sparse_query_fn
    texts = texts_of(5)
    embedding.get_text_embedding_batch(texts)
    embedding.get_query_embedding("question")
    indices, values = doc_fn(texts)
    asked, weights = query_fn(["question"])
    assert len(simulator.requests) == 2
    right = expected([*texts, "question"])
    assert [tuple(map(tuple, pair)) for pair in zip([*indices, *asked], [*values, *weights], strict=True)] == right
    assert type(indices[0]) is type(values[0]) is list


def test_pinecone_retriever_gets_indices_and_values(simulator, options, expected):
    embeddings = MultiEmbeddings(model=DASHSCOPE, **options)
    encoder = embeddings.sparse()
    embeddings.embed_documents(["a", "b"])
    documents = encoder.encode_documents(["a", "b"])
    query = encoder.encode_queries("a")  # this retriever asks for the sparse vector first
    embeddings.embed_query("a")
    assert len(simulator.requests) == 2
    right = [{"indices": list(indices), "values": list(values)} for indices, values in expected(["a", "b"])]
    assert documents == right
    assert query == right[0]
    assert encoder.encode_queries(["a"]) == [right[0]]
    assert encoder.encode_documents("b") == right[1]
