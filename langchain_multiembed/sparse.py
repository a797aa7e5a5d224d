"""Sparse embeddings for LangChain's Qdrant store and its hybrid retriever of Pinecone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiembed import SparseCompanion

if TYPE_CHECKING:
    from langchain_qdrant.sparse_embeddings import SparseEmbeddings, SparseVector

    from multiembed import FrameworkEmbedder, Role
else:
    try:
        from langchain_qdrant.sparse_embeddings import SparseEmbeddings, SparseVector
    except ImportError:  # any object with these methods and attributes serves
        from multiembed import SparseVector

        SparseEmbeddings = object


class MultiSparseEmbeddings(SparseEmbeddings):
    """Sparse half of a MultiEmbeddings, over the same client; made by `MultiEmbeddings.sparse`.

    It has the methods of langchain-qdrant's SparseEmbeddings, and those that PineconeHybridSearchRetriever calls. Where
    langchain-qdrant is not installed, vectors are multiembed's SparseVector.

    Args:
        embeddings: with `output="dense&sparse"`.

    Raises:
        ConfigurationError: the embeddings have no sparse vectors.
    """

    def __init__(self, embeddings: FrameworkEmbedder) -> None:
        self._companion = SparseCompanion(embeddings)

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Embed documents, in their order."""
        return _vectors(self._companion.embed(texts, "document"))

    def embed_query(self, text: str) -> SparseVector:
        """Embed a query."""
        return _vectors(self._companion.embed([text], "query"))[0]

    async def aembed_documents(self, texts: list[str]) -> list[SparseVector]:
        """As `embed_documents`, without blocking the event loop."""
        return _vectors(await self._companion.aembed(texts, "document"))

    async def aembed_query(self, text: str) -> SparseVector:
        """As `embed_query`, without blocking the event loop."""
        return _vectors(await self._companion.aembed([text], "query"))[0]

    def encode_documents(self, texts: str | list[str]) -> Any:
        """Embed documents for Pinecone: a dictionary of `indices` and `values` for each, or one for one text."""
        return self._encode(texts, "document")

    def encode_queries(self, texts: str | list[str]) -> Any:
        """Embed one query, or a list of them, for Pinecone."""
        return self._encode(texts, "query")

    def _encode(self, texts: str | list[str], role: Role) -> Any:
        vectors = self._companion.embed([texts] if isinstance(texts, str) else texts, role)
        encoded = [{"indices": list(vector.indices), "values": list(vector.values)} for vector in vectors]
        return encoded[0] if isinstance(texts, str) else encoded


def _vectors(vectors: list[Any]) -> list[SparseVector]:
    if vectors and type(vectors[0]) is SparseVector:  # langchain-qdrant is not installed
        return vectors
    return [SparseVector(indices=list(vector.indices), values=list(vector.values)) for vector in vectors]
