"""This package's clients: the client, the LangChain class and the LlamaIndex class, sync and async."""

from __future__ import annotations

import asyncio
from typing import Any

from clients.table import MODEL, OURS, QUERY, Setting, in_turn, register


def options_of(ask: Setting) -> dict[str, Any]:
    return {
        "base_url": ask.base_url,
        "api_key": "none",
        "limits": {"max_items": ask.batch},
        "max_concurrency": ask.concurrency,
    }


@register("EmbeddingClient.embed", OURS, "multiembed", "float32")
def _(module, ask):
    client = module.EmbeddingClient(f"gateway:{MODEL}", **options_of(ask))
    return lambda texts: client.embed(texts).vectors


@register("EmbeddingClient.aembed", OURS, "multiembed", "float32")
def _(module, ask):
    client = module.EmbeddingClient(f"gateway:{MODEL}", **options_of(ask))
    return lambda texts: asyncio.run(client.aembed(texts)).vectors


@register("EmbeddingClient.stream", OURS, "multiembed", "blocks")
def _(module, ask):
    client = module.EmbeddingClient(f"gateway:{MODEL}", **options_of(ask))
    return lambda texts: (result.vectors for result in client.stream(texts, role="document"))


@register("MultiEmbeddings.embed_documents", OURS, "langchain_multiembed", "list")
def _(module, ask):
    return module.MultiEmbeddings(model=f"gateway:{MODEL}", **options_of(ask)).embed_documents


@register("MultiEmbeddings.aembed_documents", OURS, "langchain_multiembed", "list")
def _(module, ask):
    embeddings = module.MultiEmbeddings(model=f"gateway:{MODEL}", **options_of(ask))
    return lambda texts: asyncio.run(embeddings.aembed_documents(texts))


@register("MultiEmbedding.get_text_embedding_batch", OURS, "llamaindex_multiembed", "list")
def _(module, ask):
    return module.MultiEmbedding(model_name=f"gateway:{MODEL}", **options_of(ask)).get_text_embedding_batch


@register("MultiEmbedding.aget_text_embedding_batch", OURS, "llamaindex_multiembed", "list")
def _(module, ask):
    embedding = module.MultiEmbedding(model_name=f"gateway:{MODEL}", **options_of(ask))
    return lambda texts: asyncio.run(embedding.aget_text_embedding_batch(texts))


# ── queries, one after the other ─────────────────────────────────────────────────────────────────


@register(QUERY + "EmbeddingClient.embed", OURS, "multiembed", "float32")
def _(module, ask):
    client = module.EmbeddingClient(f"gateway:{MODEL}", **options_of(ask))
    return lambda texts: [client.embed([text], "query").vectors[0] for text in texts]


@register(QUERY + "MultiEmbeddings", OURS, "langchain_multiembed", "list")
def _(module, ask):
    embeddings = module.MultiEmbeddings(model=f"gateway:{MODEL}", **options_of(ask))
    return lambda texts: [embeddings.embed_query(text) for text in texts]


@register(QUERY + "MultiEmbeddings, async", OURS, "langchain_multiembed", "list")
def _(module, ask):
    embeddings = module.MultiEmbeddings(model=f"gateway:{MODEL}", **options_of(ask))
    return lambda texts: asyncio.run(in_turn(embeddings.aembed_query, texts))


@register(QUERY + "MultiEmbedding", OURS, "llamaindex_multiembed", "list")
def _(module, ask):
    embedding = module.MultiEmbedding(model_name=f"gateway:{MODEL}", **options_of(ask))
    return lambda texts: [embedding.get_query_embedding(text) for text in texts]


@register(QUERY + "MultiEmbedding, async", OURS, "llamaindex_multiembed", "list")
def _(module, ask):
    embedding = module.MultiEmbedding(model_name=f"gateway:{MODEL}", **options_of(ask))
    return lambda texts: asyncio.run(in_turn(embedding.aget_query_embedding, texts))
