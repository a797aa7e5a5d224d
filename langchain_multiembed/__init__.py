"""Embeddings for LangChain through Zhipu, SiliconFlow, DashScope or any OpenAI-compatible server."""

try:
    from langchain_multiembed.embeddings import MultiEmbeddings
except ModuleNotFoundError as missing:
    if missing.name != "langchain_core":
        raise
    raise ModuleNotFoundError(
        "langchain_multiembed needs langchain-core, which is missing: install multiembed's extra [langchain].",
        name=missing.name,
    ) from missing

__all__ = ["MultiEmbeddings"]
