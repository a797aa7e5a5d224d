"""Sparse embeddings for LlamaIndex: the framework's own class, and the functions that its Qdrant store calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from pydantic import Field, PrivateAttr

from multiembed import SparseCompanion

if TYPE_CHECKING:
    from multiembed import FrameworkEmbedder, SparseVector


class MultiSparseEmbedding(BaseSparseEmbedding):
    """Sparse half of a MultiEmbedding, over the same client; made by `MultiEmbedding.sparse`.

    Args:
        embedding: with `output="dense&sparse"`.
        **fields: those of the base class.

    Raises:
        ConfigurationError: the embedding has no sparse vectors.
    """

    embed_batch_size: int = Field(default=2048, gt=0, le=2048, description="Texts per call; multiembed packs requests.")

    _companion: SparseCompanion = PrivateAttr()

    def __init__(self, embedding: FrameworkEmbedder, **fields: Any) -> None:
        companion = SparseCompanion(embedding)
        super().__init__(model_name=getattr(embedding, embedding.model_field), **fields)
        self._companion = companion

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises it."""
        return "MultiSparseEmbedding"

    def encode_documents(self, texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Embed documents for a QdrantVectorStore: indices and weights of each."""
        return _columns(self._companion.embed(texts, "document"))

    def encode_queries(self, texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Embed queries for a QdrantVectorStore."""
        return _columns(self._companion.embed(texts, "query"))

    def _get_query_embedding(self, query: str) -> dict[int, float]:
        return self._companion.embed([query], "query")[0].to_dict()

    async def _aget_query_embedding(self, query: str) -> dict[int, float]:
        return (await self._companion.aembed([query], "query"))[0].to_dict()

    def _get_text_embedding(self, text: str) -> dict[int, float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> dict[int, float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        return [vector.to_dict() for vector in self._companion.embed(texts, "document")]

    async def _aget_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        return [vector.to_dict() for vector in await self._companion.aembed(texts, "document")]


def _columns(vectors: list[SparseVector]) -> tuple[list[list[int]], list[list[float]]]:
    return [list(vector.indices) for vector in vectors], [list(vector.values) for vector in vectors]
