"""Cache namespaces: no cache gives a query a document's vector, or one model another's."""

from __future__ import annotations

from itertools import cycle

import pytest
from langchain_core.stores import InMemoryByteStore
from llama_index.core.storage.kvstore import SimpleKVStore
from support.adapters import DASHSCOPE, ENTRY_POINTS, are_right, call, client_of, options_for

SIZE = 64
TEXTS = ["the same text", "and another"]
DIFFERENT = {
    "model": {"model": "dashscope:text-embedding-v3"},
    "provider": {"model": "siliconflow:Qwen/Qwen3-Embedding-0.6B"},
    "dimensions": {"dimensions": 128},
    "prefix of documents": {"document_prefix": "passage: "},
    "prefix of queries": {"query_prefix": "question: "},
    "instruct": {"instruct": "Find recipes"},
    "output": {"output": "dense&sparse"},
    "parameters": {"parameters": {"made_up": 1}},
}
"""Each makes another namespace, for documents, for queries or for both."""


class Ours:
    """Our cache, over what it is given."""

    def __init__(self, make):
        self._make = make

    def store(self, folder):
        return self._make(folder)

    def embedder(self, way, store, model, options):
        return way.make(model, cache=store, **options)


class LlamaIndexsOwn:
    """LlamaIndex's `embeddings_cache`, which knows the text alone."""

    def store(self, _):
        return SimpleKVStore()

    def embedder(self, way, store, model, options):
        return way.make(model, embeddings_cache=store, **options)


class LangChainsOwn:
    """LangChain's `CacheBackedEmbeddings`, which knows a namespace and the text: here the names of our namespaces."""

    def __init__(self, *, queries):
        self._queries = queries

    def store(self, _):
        return InMemoryByteStore(), InMemoryByteStore()

    def embedder(self, way, store, model, options):
        classic = pytest.importorskip("langchain_classic.embeddings")
        mine = way.make(model, **options)
        documents, queries = store
        return classic.CacheBackedEmbeddings.from_bytes_store(
            mine,
            documents,
            namespace=mine.client.fingerprint("document") + mine.client.fingerprint("query"),
            query_embedding_cache=queries if self._queries else False,
            key_encoder="sha256",
        )


CACHES = {
    "file": (Ours(lambda folder: folder / "cache.sqlite"), ""),
    "ByteStore": (Ours(lambda _: InMemoryByteStore()), "langchain"),
    "KVStore": (Ours(lambda _: SimpleKVStore()), "llamaindex"),
    "llamaindex's own": (LlamaIndexsOwn(), "llamaindex"),
    "langchain's own": (LangChainsOwn(queries=False), "langchain"),
    "langchain's own with queries": (LangChainsOwn(queries=True), "langchain"),
}
"""Each with the framework that it belongs to."""


PAIRS = [(cache, way) for cache, (_, by) in CACHES.items() for way in ENTRY_POINTS if way.startswith(by)]
"""Each cache with each entry point to which it belongs."""


@pytest.fixture(params=PAIRS, ids=" by ".join)
def cached(request, simulator, tmp_path):
    """`cached(model, **options)`: an embedder of one kind, over one cache that all of them share."""
    (cache, _), way = CACHES[request.param[0]], ENTRY_POINTS[request.param[1]]
    store, made = cache.store(tmp_path), []

    def make(model=DASHSCOPE, **options):
        options = {**options_for(simulator, model), "dimensions": SIZE, **options}
        made.append(Cached(way, cache.embedder(way, store, model, options)))
        return made[-1]

    yield make
    for each in made:
        client_of(getattr(each.embedder, "underlying_embeddings", each.embedder)).close()


class Cached:
    """An embedder that is called sync or async."""

    def __init__(self, way, embedder):
        self._way, self.embedder = way, embedder

    def documents(self, texts):
        return call(self._way.embed, self.embedder, texts)

    def query(self, text):
        return call(self._way.embed_query, self.embedder, text)


def prefixed(prefix, texts):
    return [prefix + text for text in texts]


def test_query_after_document_gets_its_own_vector(simulator, cached):
    embedder = cached(query_prefix="question: ", document_prefix="passage: ")
    for _ in range(2):
        assert are_right(embedder.documents(TEXTS), prefixed("passage: ", TEXTS), SIZE)
        assert are_right([embedder.query(TEXTS[0])], prefixed("question: ", TEXTS[:1]), SIZE)
    assert [request.body["parameters"]["text_type"] for request in simulator.requests][:2] == ["document", "query"]


def test_document_after_query_gets_its_own_vector(cached):
    embedder = cached(query_prefix="question: ", document_prefix="passage: ")
    for _ in range(2):
        assert are_right([embedder.query(TEXTS[0])], prefixed("question: ", TEXTS[:1]), SIZE)
        assert are_right(embedder.documents(TEXTS), prefixed("passage: ", TEXTS), SIZE)


def test_documents_are_paid_for_once(simulator, cached):
    for _ in range(3):
        assert are_right(cached().documents(TEXTS), TEXTS, SIZE)
    assert len(simulator.requests) == 1


# Each cache with each difference; the entry points of a cache, sync and async, take turns.
@pytest.mark.parametrize(
    ("cached", "difference"),
    [
        pair
        for cache in CACHES
        for pair in zip(cycle([pair for pair in PAIRS if pair[0] == cache]), DIFFERENT)
    ],
    ids=lambda value: value if isinstance(value, str) else " by ".join(value),
    indirect=["cached"],
)  # fmt: skip
def test_vector_of_another_namespace_is_not_used(simulator, cached, difference):
    different = DIFFERENT[difference]
    first, other = cached(), cached(**different)
    size = different.get("dimensions", SIZE)
    first.documents(TEXTS)
    first.query(TEXTS[0])
    simulator.clear()

    documents, query = other.documents(TEXTS), other.query(TEXTS[0])
    assert are_right(documents, prefixed(different.get("document_prefix", ""), TEXTS), size)
    assert simulator.requests, "it came out of the other namespace"
    if "instruct" not in different:
        assert are_right([query], prefixed(different.get("query_prefix", ""), TEXTS[:1]), size)
    of_the_query = [request for request in simulator.requests if len(_texts_in(request)) == 1]
    assert len(of_the_query) == (0 if "document_prefix" in different and not _asks_anew(other) else 1)


def _texts_in(request):
    given = request.body["input"]
    return given["texts"] if isinstance(given, dict) else given


def _asks_anew(cached):
    """LangChain's own asks for queries each time, or has one name for both namespaces."""
    return type(cached.embedder).__name__ == "CacheBackedEmbeddings"
