"""Embeddings for LangChain through Zhipu, SiliconFlow, DashScope or any gateway."""

from langchain_multiembed.embeddings import MultiEmbeddings

__all__ = ["MultiEmbeddings"]
