"""Sparse embedding function for LlamaIndex's Milvus store."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

from llama_index.vector_stores.milvus.utils import BaseSparseEmbeddingFunction

from multiembed import SparseCompanion

if TYPE_CHECKING:
    from llamaindex_multiembed.embedding import MultiEmbedding

_MAX_MISSES = 20
"""Documents in a row that cost a request of their own, after which a warning says how to avoid it."""
_log = logging.getLogger(__name__)


class MilvusSparse(BaseSparseEmbeddingFunction):
    """Sparse half of a MultiEmbedding, over the same client, for hybrid search in Milvus.

    `MilvusVectorStore(enable_sparse=True, sparse_embedding_function=MilvusSparse(embedding), ...)`: each text costs one
    request for both kinds, as long as the dense vector is that of the node's text alone. A node with metadata is
    embedded with it, unless `excluded_embed_metadata_keys` lists the keys: then the store asks for another text, one at
    a time, and each costs a request.

    Args:
        embedding: with `output="dense&sparse"`.

    Raises:
        ConfigurationError: the embedding has no sparse vectors.
    """

    def __init__(self, embedding: MultiEmbedding) -> None:
        self._companion = SparseCompanion(embedding)
        self._misses = 0

    def encode_queries(self, queries: list[str]) -> list[dict[int, float]]:
        """Embed queries: the weight of each token, by its index.

        Raises:
            InvalidRequestError: Milvus cannot take the vector of a text: it has no weight above 0, or one below 0.
            MultiEmbedError: as `EmbeddingClient.embed`.
        """
        return self._companion.to_milvus(self._companion.embed(queries, "query"))

    async def async_encode_queries(self, queries: list[str]) -> list[dict[int, float]]:
        """As `encode_queries`, without blocking the event loop."""
        return self._companion.to_milvus(await self._companion.aembed(queries, "query"))

    def encode_documents(self, documents: list[str]) -> list[dict[int, float]]:
        """Embed documents; as `encode_queries`. The store calls it with one text at a time."""
        before = self._companion.requests
        vectors = self._companion.embed(documents, "document")
        self._count(documents, missed=self._companion.requests > before)
        return self._companion.to_milvus(vectors)

    async def async_encode_documents(self, documents: list[str]) -> list[dict[int, float]]:
        """As `encode_documents`, without blocking the event loop."""
        return self._companion.to_milvus(await self._companion.aembed(documents, "document"))

    def _count(self, documents: list[str], *, missed: bool) -> None:
        """Warn once when texts come one at a time, and none of them was embedded as it is."""
        if len(documents) != 1 or self._misses > _MAX_MISSES:
            return
        self._misses = self._misses + 1 if missed else 0
        if self._misses > _MAX_MISSES:
            message = (
                f"{self._misses} documents in a row cost a request each for their sparse vectors, because this "
                "embedding has not embedded the same texts: LlamaIndex embeds a node with its metadata, and this store "
                "asks for its text alone. If the nodes have metadata, set node.excluded_embed_metadata_keys = "
                "list(node.metadata) before they are embedded, and both kinds come from one request."
            )
            try:
                warnings.warn(message, UserWarning, stacklevel=3)
            except Warning:  # warnings are errors here, and the vectors are paid for
                _log.warning(message)
