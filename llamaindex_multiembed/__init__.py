"""Embeddings for LlamaIndex through Zhipu, SiliconFlow, DashScope or any gateway."""

from llamaindex_multiembed.embedding import MultiEmbedding, MultiEmbeddingOptionsDict

__all__ = ["MultiEmbedding", "MultiEmbeddingOptionsDict"]
