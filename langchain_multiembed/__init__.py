"""Embeddings for LangChain through Zhipu, SiliconFlow, DashScope or any OpenAI-compatible server."""

from langchain_multiembed.embeddings import MultiEmbeddings

__all__ = ["MultiEmbeddings"]
