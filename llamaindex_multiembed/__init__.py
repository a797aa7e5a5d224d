"""Embeddings for LlamaIndex through Zhipu, SiliconFlow, DashScope or any gateway."""

from llamaindex_multiembed.embedding import MultiEmbedding
from llamaindex_multiembed.events import EmbeddingUsageEvent

__all__ = ["EmbeddingUsageEvent", "MultiEmbedding"]
