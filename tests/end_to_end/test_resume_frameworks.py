"""LangChain's `index` and LlamaIndex's pipeline, broken off and run again: only what is missing is paid."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections import Counter

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.stores import InMemoryByteStore
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import Document as LlamaDocument
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.storage.docstore import SimpleDocumentStore
from llama_index.core.storage.kvstore import SimpleKVStore
from support.adapters import DASHSCOPE, are_right, options_for, texts_of
from support.killed_runs import killed

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import MultiEmbedError

TEXTS = texts_of(350)
IN_FLIGHT = 4
PER_REQUEST = 10
SIZE = 64


@pytest.fixture
def options(request, simulator, tmp_path):
    """The options of an embedder with a cache, which is the one that was asked for or a file."""
    make = getattr(request, "param", None)
    cache = make() if make else tmp_path / "cache.sqlite"
    return {**options_for(simulator), "dimensions": SIZE, "max_concurrency": IN_FLIGHT, "cache": cache}


def paid(simulator):
    """How often each text was embedded, and so billed."""
    return Counter(
        text for request in simulator.requests if request.status == 200 for text in request.body["input"]["texts"]
    )


def break_off(simulator, run, *, after):
    """Run until the account has no money left, which it has again afterwards."""
    simulator.fail("money", after=after)
    with pytest.raises(MultiEmbedError):
        run()
    simulator.heal()


# ── LangChain ────────────────────────────────────────────────────────────────────────────────────


# Releases that have it warn where it is not set.
ENCODER = {"key_encoder": "sha256"} if "key_encoder" in inspect.signature(index).parameters else {}


def _index(*args, **how):
    return index(*args, **ENCODER, **how)


def _aindex(*args, **how):
    return asyncio.run(aindex(*args, **ENCODER, **how))


@pytest.mark.parametrize("options", [None, InMemoryByteStore], ids=["file", "ByteStore"], indirect=True)
@pytest.mark.parametrize("cleanup", [None, "incremental"])
@pytest.mark.parametrize("entry_point", [_index, _aindex], ids=["index", "aindex"])
def test_interrupted_index_pays_only_for_missing_texts(simulator, options, entry_point, cleanup):
    """With `cleanup`, what an earlier run had indexed of a source is taken out and indexed again, from our cache."""
    embeddings = MultiEmbeddings(model=DASHSCOPE, **options)
    records, store = InMemoryRecordManager("test"), InMemoryVectorStore(embeddings)
    records.create_schema()
    documents = [Document(page_content=text, metadata={"source": "a book"}) for text in TEXTS]

    def run():
        return entry_point(documents, records, store, cleanup=cleanup, source_id_key="source")

    for after in (12, 11):
        break_off(simulator, run, after=after)
    half_way = paid(simulator)
    kept = len(store.store)
    assert kept % 100 == 0, "a hundred at a time, or none of it"
    assert kept < len(half_way) < len(TEXTS)

    for _ in range(2):
        run()
        assert paid(simulator) == Counter(TEXTS)
        found = list(store.store.values())
        assert {each["text"] for each in found} == set(TEXTS)
        assert are_right([each["vector"] for each in found], [each["text"] for each in found], SIZE)
    embeddings.client.close()


# ── LlamaIndex ───────────────────────────────────────────────────────────────────────────────────


RUNS = {
    "run": lambda pipeline, **given: pipeline.run(**given),
    "arun": lambda pipeline, **given: asyncio.run(pipeline.arun(**given)),
}


@pytest.mark.parametrize("options", [None, SimpleKVStore], ids=["file", "KVStore"], indirect=True)
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_interrupted_pipeline_pays_only_for_missing_texts(simulator, options, run, tmp_path):
    """A document store remembers texts before they are embedded: the one to go on with is that of the last success."""
    embedding = MultiEmbedding(model_name=DASHSCOPE, embed_batch_size=64, **options)
    kept = tmp_path / "docstore.json"

    def ingest(texts):
        docstore = SimpleDocumentStore.from_persist_path(str(kept)) if kept.exists() else SimpleDocumentStore()
        pipeline = IngestionPipeline(
            transformations=[embedding], docstore=docstore, docstore_strategy=DocstoreStrategy.DUPLICATES_ONLY
        )
        nodes = run(pipeline, documents=[LlamaDocument(text=text) for text in texts])
        docstore.persist(str(kept))
        return nodes

    assert len(ingest(TEXTS[:100])) == 100
    for after in (9, 7):
        break_off(simulator, lambda: ingest(TEXTS), after=after)
    assert 100 < len(paid(simulator)) < len(TEXTS)

    nodes = ingest(TEXTS)
    assert [node.text for node in nodes] == TEXTS[100:]
    assert are_right([node.embedding for node in nodes], TEXTS[100:], SIZE)
    assert paid(simulator) == Counter(TEXTS)

    assert ingest(TEXTS) == []
    assert paid(simulator) == Counter(TEXTS)
    embedding.client.close()


# ── killed ───────────────────────────────────────────────────────────────────────────────────────


LANGCHAIN = """
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_multiembed import MultiEmbeddings

embeddings = MultiEmbeddings(model=model, **options)
records, store = InMemoryRecordManager("test"), InMemoryVectorStore(embeddings)
records.create_schema()
index([Document(page_content=text) for text in TEXTS], records, store, **ENCODER)
found = [(each["text"], each["vector"]) for each in store.store.values()]
"""
LLAMAINDEX = """
from llama_index.core import Document
from llama_index.core.ingestion import DocstoreStrategy, IngestionPipeline
from llama_index.core.storage.docstore import SimpleDocumentStore
from llamaindex_multiembed import MultiEmbedding

embedding = MultiEmbedding(model_name=model, **options)
pipeline = IngestionPipeline(
    transformations=[embedding],
    docstore=SimpleDocumentStore(),
    docstore_strategy=DocstoreStrategy.DUPLICATES_ONLY,
)
found = [(node.text, node.embedding) for node in pipeline.run(documents=[Document(text=text) for text in TEXTS])]
"""
PROGRAM = """
import json, sys
import numpy as np
from multiembed.providers.local import embed

base_url, cache, texts, in_flight = sys.argv[1:]
model, TEXTS = "dashscope:text-embedding-v4", json.loads(texts)
options = {"api_key": "sk-simulator", "base_url": base_url, "cache": cache, "dimensions": 64}
options["max_concurrency"] = int(in_flight)
PROGRAM
assert {text for text, _ in found} == set(TEXTS)
assert np.array_equal(np.float32([vector for _, vector in found]), embed([text for text, _ in found], 64))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL there")
@pytest.mark.parametrize("program", [LANGCHAIN, LLAMAINDEX], ids=["langchain", "llamaindex"])
def test_killed_framework_pays_again_only_for_requests_in_flight(framework_programs, simulator, tmp_path, program):
    arguments = (
        PROGRAM.replace("PROGRAM", program.replace("**ENCODER", f"**{ENCODER}")),
        simulator.base_url("dashscope"), tmp_path / "cache.sqlite", json.dumps(TEXTS), IN_FLIGHT,
    )  # fmt: skip
    killed(lambda: framework_programs.start(*arguments), simulator, at=20)
    done = framework_programs.run(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    times = paid(simulator)
    assert set(times) == set(TEXTS)
    assert times.total() <= len(TEXTS) + IN_FLIGHT * PER_REQUEST
