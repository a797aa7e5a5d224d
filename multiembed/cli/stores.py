"""The vector stores of the demo: one of each framework, filled and asked through that framework's own methods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from multiembed import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from multiembed import Usage
    from multiembed.cli.corpus import Passage

SHOWN = 3
"""Passages that a question finds."""


class Store(Protocol):
    """A vector store of one framework, filled and asked through that framework's own methods."""

    framework: str

    def add(self, texts: Sequence[Passage]) -> None:
        """Embed passages and keep them."""

    def ask(self, question: str) -> list[str]:
        """The ids of the nearest passages, nearest first."""

    @property
    def usage(self) -> Usage:
        """What its embedder has spent."""


class LangChainStore:
    """LangChain: MultiEmbeddings and an InMemoryVectorStore."""

    framework = "LangChain"

    def __init__(self, model: str, options: Mapping[str, Any]) -> None:
        from langchain_core.vectorstores import InMemoryVectorStore

        from langchain_multiembed import MultiEmbeddings

        self._embeddings = MultiEmbeddings(model=model, **options)
        self._store = InMemoryVectorStore(self._embeddings)

    def add(self, texts: Sequence[Passage]) -> None:
        """Embed passages and keep them."""
        self._store.add_texts([passage.text for passage in texts], ids=[passage.id for passage in texts])

    def ask(self, question: str) -> list[str]:
        """The ids of the nearest passages, nearest first."""
        return [str(document.id) for document in self._store.similarity_search(question, k=SHOWN)]

    @property
    def usage(self) -> Usage:
        """What its embedder has spent."""
        return self._embeddings.client.usage


class LlamaIndexStore:
    """LlamaIndex: MultiEmbedding and a VectorStoreIndex."""

    framework = "LlamaIndex"

    def __init__(self, model: str, options: Mapping[str, Any]) -> None:
        from llama_index.core import VectorStoreIndex

        from llamaindex_multiembed import MultiEmbedding

        self._embedding = MultiEmbedding(model_name=model, **options)
        self._index = VectorStoreIndex([], embed_model=self._embedding)

    def add(self, texts: Sequence[Passage]) -> None:
        """Embed passages and keep them."""
        from llama_index.core.schema import TextNode

        self._index.insert_nodes([TextNode(id_=passage.id, text=passage.text) for passage in texts])

    def ask(self, question: str) -> list[str]:
        """The ids of the nearest passages, nearest first."""
        retriever = self._index.as_retriever(similarity_top_k=SHOWN)
        return [found.node.node_id for found in retriever.retrieve(question)]

    @property
    def usage(self) -> Usage:
        """What its embedder has spent."""
        return self._embedding.client.usage


def installed_stores() -> list[Callable[[str, Mapping[str, Any]], Store]]:
    """The store of each framework that is installed, to be made with a model and options.

    Raises:
        ConfigurationError: none is.
    """
    stores: list[Callable[[str, Mapping[str, Any]], Store]] = []
    for package, store in (("langchain_core", LangChainStore), ("llama_index.core", LlamaIndexStore)):
        try:
            __import__(package)
        except ModuleNotFoundError:
            continue
        stores.append(store)
    if not stores:
        raise ConfigurationError("The demo needs a framework: pip install 'multiembed[all]'")
    return stores
