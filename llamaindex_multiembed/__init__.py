"""Embeddings for LlamaIndex through Zhipu, SiliconFlow, DashScope or any OpenAI-compatible server."""

try:
    from llamaindex_multiembed.embedding import MultiEmbedding, MultiEmbeddingOptionsDict
except ModuleNotFoundError as missing:
    if missing.name != "llama_index":
        raise
    raise ModuleNotFoundError(
        "llamaindex_multiembed needs llama-index-core, which is missing: install multiembed's extra [llamaindex].",
        name=missing.name,
    ) from missing

__all__ = ["MultiEmbedding", "MultiEmbeddingOptionsDict"]
