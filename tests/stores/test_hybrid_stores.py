"""Hybrid search in the four stores: as many requests as dense vectors alone, and no question is lost."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.hybrid_corpus import DOCUMENTS, QUESTIONS
from support.hybrid_stores import MODEL, STORES, Async, Sync, needs
from support.scripted_server import Reply, scripted, vector_of

from multiembed import ConfigurationError, InvalidRequestError, PartialFailureError

pytestmark = [
    pytest.mark.stores,
    # The stores warn of much; of ours, none may come.
    pytest.mark.filterwarnings("ignore", "error:Vectors that wait", "error:.*documents in a row"),
]
BATCHES = {"langchain-qdrant": 1 + 7 + 1}  # "dummy_text", and windows of 64 documents


@pytest.fixture
def options(simulator):
    return {"base_url": simulator.base_url("dashscope"), "api_key": simulator.api_key}


@pytest.fixture
def make(options, tmp_path):
    """`make(name)`: one of the stores, over the simulator."""
    return lambda name, **more: STORES[name](tmp_path, {**options, **more})


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def entry_point(request):
    """`entry_point(store)`: the store by its sync methods, or by its async ones."""
    made = []

    def make(store):
        made.append(request.param(store))
        return made[-1]

    yield make
    for each in made:
        each.close()


def found(store, mode):
    """Which questions have the right document among the first three."""
    results = store.search([question for question, _ in QUESTIONS], mode)
    return [answer in texts for (_, answer), texts in zip(QUESTIONS, results, strict=True)]


@pytest.mark.parametrize("name", STORES)
def test_hybrid_costs_the_requests_of_dense_alone(simulator, make, entry_point, name):
    store = entry_point(make(name))
    store.add(DOCUMENTS)
    assert len(simulator.requests) == BATCHES.get(name, -(-len(DOCUMENTS) // 10))
    sent = [text for request in simulator.requests for text in request.body["input"]["texts"]]
    assert sorted(sent) == sorted([*DOCUMENTS, *["dummy_text"] * store.store.extra])
    simulator.clear()
    store.search([question for question, _ in QUESTIONS])
    assert len(simulator.requests) == len(QUESTIONS) == 24
    assert {request.body["parameters"]["text_type"] for request in simulator.requests} == {"query"}


@pytest.mark.parametrize("name", STORES)
def test_hybrid_finds_what_dense_or_sparse_alone_misses(make, name):
    store = Sync(make(name))
    store.add(DOCUMENTS)
    dense, sparse, hybrid = (found(store, mode) for mode in ("dense", "sparse", "hybrid"))
    assert sum(dense) < len(QUESTIONS)
    assert sum(sparse) < len(QUESTIONS)
    assert sum(hybrid) >= max(sum(dense), sum(sparse))
    assert sum(hybrid) == len(QUESTIONS)


@pytest.mark.parametrize("name", STORES)
def test_eight_questions_at_once_cost_eight_requests(simulator, make, name):
    store = Async(make(name))
    store.add(DOCUMENTS)
    simulator.clear()

    async def search_at_once():
        return await asyncio.gather(*(store.store.asearch(question, "hybrid") for question, _ in QUESTIONS[:8]))

    results = store.loop.run_until_complete(search_at_once())
    store.close()
    assert len(simulator.requests) == 8
    assert all(answer in texts for (_, answer), texts in zip(QUESTIONS, results, strict=False))


# ── traps of the single stores ───────────────────────────────────────────────────────────────────


def is_installed(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # its parent is not there
        return False


def sparse_reply(request, weights):
    """A response with these sparse weights for the texts."""
    data = [
        {
            "text_index": index,
            "embedding": vector_of(text, 256),
            "sparse_embedding": [{"index": i, "value": value, "token": "t"} for i, value in weights[text]],
        }
        for index, text in enumerate(request.texts)
    ]
    return Reply({"output": {"embeddings": data}, "usage": {"total_tokens": 1}, "request_id": "id-1"})


@pytest.mark.parametrize("name", STORES)
def test_store_may_get_equal_texts(simulator, make, entry_point, name):
    store = entry_point(make(name))
    store.add([DOCUMENTS[0], DOCUMENTS[1], DOCUMENTS[0]])
    assert len(simulator.requests) == (2 if name == "langchain-qdrant" else 1)
    assert store.search([QUESTIONS[0][0]])[0][0] == DOCUMENTS[0]


@pytest.mark.parametrize("name", STORES)
def test_cache_file_serves_hybrid_as_well(simulator, make, tmp_path, name):
    store = Sync(make(name, cache=str(tmp_path / "vectors.sqlite")))
    store.add(DOCUMENTS)
    store.search([question for question, _ in QUESTIONS])
    assert len(simulator.requests) == BATCHES.get(name, 8) + 24
    store.search([question for question, _ in QUESTIONS])
    assert len(simulator.requests) == BATCHES.get(name, 8) + 24
    store.store.embedder.client.close()


@pytest.mark.parametrize("name", STORES)
def test_ingestion_with_a_rejected_text_names_it(make, entry_point, name):
    store = entry_point(make(name))
    with pytest.raises(PartialFailureError) as raised:
        store.add([DOCUMENTS[0], "长" * 20_000, DOCUMENTS[1]])
    assert raised.value.indices == (1,)


def test_langchain_qdrant_searches_by_sparse_vectors_alone(simulator, make):
    store = make("langchain-qdrant")
    store.add(DOCUMENTS, "sparse")
    assert len(simulator.requests) == 7 + 1
    assert store.search("qx4100", "sparse") == [DOCUMENTS[12]]


def test_langchain_companions_are_what_the_stores_check(options):
    sparse_embeddings, milvus = needs("langchain_qdrant.sparse_embeddings", "langchain_milvus.utils.sparse")
    from langchain_multiembed import MultiEmbeddings
    from langchain_multiembed.milvus import MilvusSparse

    embeddings = MultiEmbeddings(model=MODEL, output="dense&sparse", **options)
    assert isinstance(embeddings.sparse(), sparse_embeddings.SparseEmbeddings)
    assert isinstance(embeddings.sparse().embed_query("a"), sparse_embeddings.SparseVector)
    assert isinstance(MilvusSparse(embeddings), milvus.BaseSparseEmbedding)


def test_llamaindex_companion_is_what_milvus_checks(options):
    (utils,) = needs("llama_index.vector_stores.milvus.utils")
    from llamaindex_multiembed import MultiEmbedding
    from llamaindex_multiembed.milvus import MilvusSparse

    embedding = MultiEmbedding(model_name=MODEL, output="dense&sparse", **options)
    assert isinstance(MilvusSparse(embedding), utils.BaseSparseEmbeddingFunction)


def test_milvus_companions_refuse_dense_output(options):
    found = 0
    for name in ("langchain_milvus", "llama_index.vector_stores.milvus"):
        if not is_installed(name):
            continue
        found += 1
        if name == "langchain_milvus":
            from langchain_multiembed import MultiEmbeddings
            from langchain_multiembed.milvus import MilvusSparse

            embedder = MultiEmbeddings(model=MODEL, **options)
        else:
            from llamaindex_multiembed import MultiEmbedding
            from llamaindex_multiembed.milvus import MilvusSparse

            embedder = MultiEmbedding(model_name=MODEL, **options)
        with pytest.raises(ConfigurationError, match="dashscope:text-embedding-v4"):
            MilvusSparse(embedder)
    assert found


def test_milvus_takes_large_indices_and_no_empty_vector(make, options):
    store = make("langchain-milvus")
    weights = {"good": [(2**31 + 5, 0.5)], "bad": [(7, -0.5)], "zero": [(7, 0.0)]}
    with scripted(lambda request: sparse_reply(request, weights)) as server:
        store.embedder.base_url = server.url
        store.add(["good"])
        assert store.search("good", "sparse") == ["good"]
        for text in ("bad", "zero"):
            with pytest.raises(InvalidRequestError, match="Milvus refuses"):
                store.store.add_texts([text])


def test_qdrant_takes_large_indices_and_an_empty_query(make, options):
    store = make("langchain-qdrant")
    weights = {"good": [(2**31 + 5, 0.5)], "zero": [(7, 0.0)], "dummy_text": [(1, 1.0)]}
    with scripted(lambda request: sparse_reply(request, weights)) as server:
        store.embedder.base_url = server.url
        store.add(["good", "zero"])
        assert store.search("good", "sparse") == ["good"]


@pytest.mark.parametrize("name", ["llamaindex-qdrant", "llamaindex-milvus"])
async def test_sync_functions_do_no_io_where_a_vector_is_kept(simulator, make, name):
    """LlamaIndex's stores call them on the event loop."""
    store = make(name)
    await store.aadd(DOCUMENTS[:10])
    simulator.clear()
    vector = await store.embedder.aget_query_embedding("qx4100")
    assert vector
    assert len(simulator.requests) == 1
    await store.asearch("qx4137", "hybrid")
    assert len(simulator.requests) == 2


def metadata_nodes(store, **fields):
    return store.nodes(DOCUMENTS[:30], metadata={"file": "manual.txt", "page": 7}, **fields)


def test_llamaindex_qdrant_pays_once_with_metadata(simulator, make):
    store = make("llamaindex-qdrant")
    store._index(metadata_nodes(store))
    assert len(simulator.requests) == 3


def test_llamaindex_milvus_with_metadata_warns_once(simulator, make):
    store = make("llamaindex-milvus")
    with pytest.warns(UserWarning, match="excluded_embed_metadata_keys"):
        store._index(metadata_nodes(store))
    assert len(simulator.requests) == 3 + 30
    store._index(metadata_nodes(store))  # a second warning would be an error


def test_llamaindex_milvus_without_embedded_metadata_pays_once(simulator, make):
    store = make("llamaindex-milvus")
    store._index(metadata_nodes(store, excluded_embed_metadata_keys=["file", "page"]))
    assert len(simulator.requests) == 3


def test_llamaindex_milvus_refuses_a_weight_below_0(make):
    store = make("llamaindex-milvus")
    with scripted(lambda request: sparse_reply(request, {"bad": [(7, -0.5)]})) as server:
        store.embedder.base_url = server.url
        with pytest.raises(InvalidRequestError, match="a weight below 0"):
            store.add(["bad"])


def test_pinecone_hybrid_retriever_ingests_at_the_cost_of_dense(simulator, options):
    (retrievers,) = needs("langchain_community.retrievers.pinecone_hybrid_search")
    from langchain_multiembed import MultiEmbeddings

    embeddings = MultiEmbeddings(model=MODEL, output="dense&sparse", **options)
    index = RecordingIndex()
    retrievers.create_index(DOCUMENTS, index, embeddings, embeddings.sparse())
    assert len(simulator.requests) == 4 + 4 + 1  # windows of 32
    assert [vector["metadata"]["context"] for vector in index.vectors] == DOCUMENTS
    assert set(index.vectors[0]["sparse_values"]) == {"indices", "values"}


def test_llamaindex_pinecone_costs_the_requests_of_dense_alone(simulator, options):
    """Pinecone is a service, so its index is a stand-in."""
    (pinecone,) = needs("llama_index.vector_stores.pinecone")
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.schema import TextNode

    from llamaindex_multiembed import MultiEmbedding

    embedding = MultiEmbedding(model_name=MODEL, output="dense&sparse", **options)
    index = RecordingIndex()
    store = pinecone.PineconeVectorStore(
        pinecone_index=index, add_sparse_vector=True, sparse_embedding_model=embedding.sparse()
    )
    nodes = [TextNode(text=text, metadata={"file": "manual.txt"}) for text in DOCUMENTS[:25]]
    context = StorageContext.from_defaults(vector_store=store)
    searched = VectorStoreIndex(nodes, embed_model=embedding, storage_context=context)
    assert len(simulator.requests) == 3
    assert len(index.vectors) == 25
    assert set(index.vectors[0]["sparse_values"]) == {"indices", "values"}
    assert searched.as_retriever(vector_store_query_mode="hybrid", alpha=0.5).retrieve("qx4100") == []
    assert len(simulator.requests) == 4
    assert index.query_options["sparse_vector"]["indices"]


class RecordingIndex:
    """Stand-in for Pinecone's index: it keeps what it gets, and finds nothing."""

    def __init__(self):
        self.vectors = []

    def upsert(self, vectors, **options):
        self.vectors += vectors

    def query(self, **options):
        self.query_options = options
        return SimpleNamespace(matches=[])


# ── the documentation ────────────────────────────────────────────────────────────────────────────

PAGE = (Path(__file__).parents[2] / "docs" / "hybrid-search.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```\n\n```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
STORE_OF_BLOCK = re.compile(
    r"^from ((?:langchain_(?:qdrant|milvus))|(?:llama_index\.vector_stores\.\w+)) ", re.MULTILINE
)


@pytest.mark.parametrize(("code", "expected"), BLOCKS, ids=[STORE_OF_BLOCK.search(code)[1] for code, _ in BLOCKS])
def test_code_of_the_page_prints_what_it_says(simulator, monkeypatch, tmp_path, capsys, code, expected):
    needs(*STORE_OF_BLOCK.findall(code))
    for name, value in simulator.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "hybrid-search.md", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out == expected
