"""MultiEmbeddings in LangChain's vector stores and retrievers."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import InMemoryVectorStore
from support.adapters import DASHSCOPE, options_for

from langchain_multiembed import MultiEmbeddings
from multiembed.providers.local import embed


@pytest.fixture
def embeddings(simulator):
    return MultiEmbeddings(model=DASHSCOPE, **options_for(simulator))


def test_class_is_a_langchain_embeddings_class(embeddings):
    assert isinstance(embeddings, Embeddings)


PASSAGES = [
    "The kettle must boil before the tea is made",
    "A bicycle chain wants oil twice a year",
    "Cranes fold well from square paper",
    "春眠不觉晓，处处闻啼鸟",
]


def test_vector_store_finds_the_nearest_document(simulator, embeddings):
    store = InMemoryVectorStore(embeddings)
    store.add_documents([Document(page_content=passage, id=str(i)) for i, passage in enumerate(PASSAGES)])
    found = store.similarity_search_with_score("oil for a bicycle chain", k=4)
    assert found[0][0].page_content == PASSAGES[1]
    expected = embed(["oil for a bicycle chain", PASSAGES[1]], 1024)
    assert found[0][1] == pytest.approx(float(expected[0] @ expected[1]), abs=1e-6)
    assert [request.body["parameters"]["text_type"] for request in simulator.requests] == ["document", "query"]


async def test_vector_store_finds_the_nearest_document_async(simulator, embeddings):
    store = await InMemoryVectorStore.afrom_texts(PASSAGES, embeddings)
    found = await store.asimilarity_search("春天的鸟", k=1)
    assert [document.page_content for document in found] == [PASSAGES[3]]
    assert [request.body["parameters"]["text_type"] for request in simulator.requests] == ["document", "query"]


def test_retriever_serves_many_threads_at_once(simulator, embeddings):
    retriever = InMemoryVectorStore.from_texts(PASSAGES, embeddings).as_retriever(search_kwargs={"k": 1})
    simulator.clear()
    answers = retriever.batch(PASSAGES * 5, config={"max_concurrency": 8})
    assert [[document.page_content for document in found] for found in answers] == [[p] for p in PASSAGES * 5]
    assert len(simulator.requests) == 20


async def test_retriever_serves_many_tasks_at_once(embeddings):
    store = await InMemoryVectorStore.afrom_texts(PASSAGES, embeddings)
    answers = await store.as_retriever(search_kwargs={"k": 1}).abatch(PASSAGES * 5)
    assert [[document.page_content for document in found] for found in answers] == [[p] for p in PASSAGES * 5]
