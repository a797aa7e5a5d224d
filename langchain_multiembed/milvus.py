"""Sparse embeddings for LangChain's Milvus store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_milvus.utils.sparse import BaseSparseEmbedding

from multiembed import SparseCompanion

if TYPE_CHECKING:
    from langchain_multiembed.embeddings import MultiEmbeddings


class MilvusSparse(BaseSparseEmbedding):
    """Sparse half of a MultiEmbeddings, over the same client, for hybrid search in Milvus.

    `Milvus(embedding_function=[embeddings, MilvusSparse(embeddings)], vector_field=["dense", "sparse"], ...)` pays one
    request for both kinds of a text.

    Args:
        embeddings: with `output="dense&sparse"`.

    Raises:
        ConfigurationError: the embeddings have no sparse vectors.
    """

    def __init__(self, embeddings: MultiEmbeddings) -> None:
        self._companion = SparseCompanion(embeddings)

    def embed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """Embed documents: the weight of each token, by its index.

        Raises:
            InvalidRequestError: Milvus cannot store the vector of a text: it has no weight above 0, or one below 0.
            MultiEmbedError: as `MultiEmbeddings.embed_documents`.
        """
        return self._companion.to_milvus(self._companion.embed(texts, "document"))

    def embed_query(self, query: str) -> dict[int, float]:
        """Embed a query."""
        return self._companion.to_milvus(self._companion.embed([query], "query"))[0]

    async def aembed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """As `embed_documents`, without blocking the event loop."""
        return self._companion.to_milvus(await self._companion.aembed(texts, "document"))

    async def aembed_query(self, query: str) -> dict[int, float]:
        """As `embed_query`, without blocking the event loop."""
        return self._companion.to_milvus(await self._companion.aembed([query], "query"))[0]
