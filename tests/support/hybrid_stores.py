"""The four stores behind one interface: documents in, and a dense, sparse or hybrid search."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

MODEL = "dashscope:text-embedding-v4"
DIMENSIONS = 256


def needs(*modules: str) -> list[Any]:
    """The modules, or the test is skipped: the stores' packages exclude each other."""
    return [pytest.importorskip(module) for module in modules]


class LangChainQdrant:
    """langchain-qdrant, in memory."""

    extra = 1  # "dummy_text", by which the store finds out the size of dense vectors

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        needs("langchain_qdrant")
        from langchain_multiembed import MultiEmbeddings

        self.embedder = MultiEmbeddings(model=MODEL, dimensions=DIMENSIONS, output="dense&sparse", **options)
        self.sparse = self.embedder.sparse()

    def _store(self, mode: str) -> Any:
        from langchain_qdrant import RetrievalMode

        self.store.retrieval_mode = RetrievalMode(mode)
        return self.store

    def add(self, texts: Sequence[str], mode: str = "hybrid") -> None:
        from langchain_qdrant import QdrantVectorStore, RetrievalMode

        self.store = QdrantVectorStore.from_texts(
            list(texts),
            self.embedder,
            sparse_embedding=self.sparse,
            retrieval_mode=RetrievalMode(mode),
            location=":memory:",
        )

    async def aadd(self, texts: Sequence[str]) -> None:
        from langchain_qdrant import QdrantVectorStore, RetrievalMode

        self.store = await QdrantVectorStore.afrom_texts(
            list(texts),
            self.embedder,
            sparse_embedding=self.sparse,
            retrieval_mode=RetrievalMode.HYBRID,
            location=":memory:",
        )

    def search(self, question: str, mode: str) -> list[str]:
        return [found.page_content for found in self._store(mode).similarity_search(question, k=3)]

    async def asearch(self, question: str, mode: str) -> list[str]:
        return [found.page_content for found in await self._store(mode).asimilarity_search(question, k=3)]


class LangChainMilvus:
    """langchain-milvus, on Milvus Lite."""

    extra = 0
    # Milvus Lite refuses the store's own default of dropping a fifth of the weights.
    index_params = (
        {"metric_type": "COSINE", "index_type": "AUTOINDEX", "params": {}},
        {"metric_type": "IP", "index_type": "SPARSE_INVERTED_INDEX", "params": {}},
    )
    search_params = ({"metric_type": "COSINE", "params": {}}, {"metric_type": "IP", "params": {}})

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        needs("langchain_milvus", "milvus_lite")
        from langchain_multiembed import MultiEmbeddings
        from langchain_multiembed.milvus import MilvusSparse

        self.embedder = MultiEmbeddings(model=MODEL, dimensions=DIMENSIONS, output="dense&sparse", **options)
        self.sparse = MilvusSparse(self.embedder)
        self.uri = str(folder / "milvus.db")

    def _options(self) -> dict[str, Any]:
        return {
            "vector_field": ["dense", "sparse"],
            "index_params": list(self.index_params),
            "search_params": list(self.search_params),
            "connection_args": {"uri": self.uri},
            "consistency_level": "Strong",
        }

    def add(self, texts: Sequence[str]) -> None:
        from langchain_milvus import Milvus

        self.store = Milvus.from_texts(list(texts), [self.embedder, self.sparse], **self._options())

    async def aadd(self, texts: Sequence[str]) -> None:
        from langchain_milvus import Milvus

        self.store = await Milvus.afrom_texts(list(texts), [self.embedder, self.sparse], **self._options())

    def _single(self, mode: str) -> Any:
        """The collection, searched by one kind of vectors."""
        from langchain_milvus import Milvus

        position = ("dense", "sparse").index(mode)
        return Milvus(
            (self.embedder, self.sparse)[position],
            vector_field=mode,
            search_params=self.search_params[position],
            connection_args={"uri": self.uri},
            consistency_level="Strong",
        )

    def search(self, question: str, mode: str) -> list[str]:
        if mode == "hybrid":
            found = self.store.similarity_search(question, k=3, ranker_type="rrf", ranker_params={"k": 60})
        else:
            found = self._single(mode).similarity_search(question, k=3)
        return [each.page_content for each in found]

    async def asearch(self, question: str, mode: str) -> list[str]:
        found = await self.store.asimilarity_search(question, k=3, ranker_type="rrf", ranker_params={"k": 60})
        return [each.page_content for each in found]


class _LlamaIndex:
    extra = 0

    def __init__(self, folder: Path, options: dict[str, Any]) -> None:
        needs(*self.modules)
        from llamaindex_multiembed import MultiEmbedding

        self.embedder = MultiEmbedding(model_name=MODEL, dimensions=DIMENSIONS, output="dense&sparse", **options)
        self.store = self.make(folder)

    def _index(self, nodes: Sequence[Any], **options: Any) -> Any:
        from llama_index.core import StorageContext, VectorStoreIndex

        context = StorageContext.from_defaults(vector_store=self.store)
        return VectorStoreIndex(list(nodes), embed_model=self.embedder, storage_context=context, **options)

    @staticmethod
    def nodes(texts: Sequence[str], **fields: Any) -> list[Any]:
        from llama_index.core.schema import TextNode

        return [TextNode(text=text, **fields) for text in texts]

    def add(self, texts: Sequence[str]) -> None:
        self.index = self._index(self.nodes(texts))

    async def aadd(self, texts: Sequence[str]) -> None:
        nodes = self.nodes(texts)
        vectors = await self.embedder.aget_text_embedding_batch([node.get_content("embed") for node in nodes])
        for node, vector in zip(nodes, vectors, strict=True):
            node.embedding = vector
        await self.store.async_add(nodes)
        self.index = self._index([])

    def _retriever(self, mode: str) -> Any:
        mode = {"dense": "default"}.get(mode, mode)
        return self.index.as_retriever(similarity_top_k=3, sparse_top_k=10, vector_store_query_mode=mode)

    def search(self, question: str, mode: str) -> list[str]:
        return [found.text for found in self._retriever(mode).retrieve(question)]

    async def asearch(self, question: str, mode: str) -> list[str]:
        return [found.text for found in await self._retriever(mode).aretrieve(question)]


class LlamaIndexQdrant(_LlamaIndex):
    """QdrantVectorStore, in memory: its sync and its async client are two databases, so a test uses one of them."""

    modules = ("llama_index.vector_stores.qdrant",)

    def make(self, folder: Path) -> Any:
        from llama_index.vector_stores.qdrant import QdrantVectorStore
        from qdrant_client import AsyncQdrantClient, QdrantClient

        return QdrantVectorStore(
            "texts",
            client=QdrantClient(":memory:"),
            aclient=AsyncQdrantClient(":memory:"),
            enable_hybrid=True,
            sparse_doc_fn=self.embedder.sparse_doc_fn,
            sparse_query_fn=self.embedder.sparse_query_fn,
        )


class LlamaIndexMilvus(_LlamaIndex):
    """MilvusVectorStore, on Milvus Lite."""

    modules = ("llama_index.vector_stores.milvus", "milvus_lite")

    def make(self, folder: Path) -> Any:
        from llama_index.vector_stores.milvus import MilvusVectorStore

        from llamaindex_multiembed.milvus import MilvusSparse

        return MilvusVectorStore(
            uri=str(folder / "milvus.db"),
            dim=DIMENSIONS,
            enable_sparse=True,
            sparse_embedding_function=MilvusSparse(self.embedder),
            hybrid_ranker="RRFRanker",
            hybrid_ranker_params={"k": 60},
            consistency_level="Strong",
            use_async_client=True,
        )

    def search(self, question: str, mode: str) -> list[str]:
        if mode != "sparse":
            return super().search(question, mode)
        # The store's own sparse search drops a fifth of the weights, which Milvus Lite refuses.
        found = self.store.client.search(
            self.store.collection_name,
            data=self.store.sparse_embedding_function.encode_queries([question]),
            anns_field="sparse_embedding",
            limit=3,
            output_fields=["text"],
        )
        return [each["entity"]["text"] for each in found[0]]


STORES = {
    "langchain-qdrant": LangChainQdrant,
    "langchain-milvus": LangChainMilvus,
    "llamaindex-qdrant": LlamaIndexQdrant,
    "llamaindex-milvus": LlamaIndexMilvus,
}


class Sync:
    """A store by its sync methods."""

    def __init__(self, store: Any) -> None:
        self.store = store

    def add(self, texts: Sequence[str]) -> None:
        self.store.add(texts)

    def search(self, questions: Sequence[str], mode: str = "hybrid") -> list[list[str]]:
        return [self.store.search(question, mode) for question in questions]

    def close(self) -> None:
        """Nothing to close."""


class Async(Sync):
    """A store by its async methods, in one event loop."""

    def __init__(self, store: Any) -> None:
        super().__init__(store)
        self.loop = asyncio.new_event_loop()

    def add(self, texts: Sequence[str]) -> None:
        self.loop.run_until_complete(self.store.aadd(texts))

    def search(self, questions: Sequence[str], mode: str = "hybrid") -> list[list[str]]:
        async def search_all() -> list[list[str]]:
            return [await self.store.asearch(question, mode) for question in questions]

        return self.loop.run_until_complete(search_all())

    def close(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
