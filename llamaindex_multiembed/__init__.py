"""Embeddings for LlamaIndex through Zhipu, SiliconFlow, DashScope or any OpenAI-compatible server."""

from llamaindex_multiembed.embedding import MultiEmbedding, MultiEmbeddingOptionsDict

__all__ = ["MultiEmbedding", "MultiEmbeddingOptionsDict"]
