"""Code of a user who checks it strictly: mypy and pyright find nothing here."""
# pyright: strict

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, assert_type

import httpx
import numpy as np
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import Settings
from llama_index.core.storage.kvstore import SimpleKVStore
from numpy.typing import NDArray
from pydantic import SecretStr

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding, MultiEmbeddingOptionsDict
from multiembed import (
    EmbeddingClient,
    EmbeddingOptions,
    EmbeddingOptionsDict,
    EmbeddingResult,
    PartialFailureError,
    SparseCompanion,
    SparseVector,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_core.embeddings import Embeddings
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding

    Vectors = NDArray[np.float32]

MODEL = "zhipu:embedding-3"
spent: list[Usage] = []


def key() -> str:
    return "sk-…"


# ── options ──

MultiEmbeddings(model=MODEL, api_key="sk-…")
MultiEmbedding(model_name=MODEL, api_key="sk-…")
EmbeddingClient(MODEL, api_key="sk-…")
MultiEmbeddings(model=MODEL, api_key=SecretStr("sk-…"), dimensions=512, timeout=None, deadline=30)
MultiEmbedding(model_name=MODEL, api_key=key, embed_batch_size=512, embeddings_cache=SimpleKVStore(), num_workers=4)
EmbeddingClient(
    "openai-compatible:any",
    api_key=key,
    base_url="https://host.example/v1",
    headers={"X-Team": "search"},
    auth_header="api-key",
    query={"api-version": "2024-10-21"},
    parameters={"user": "someone"},
    limits={"max_items": 64, "max_tokens_per_item": None},
    output="dense",
    on_too_long="split",
    cache="vectors.sqlite",
    token_counter=len,
    on_usage=spent.append,
    http_client=httpx.Client(),
    http_async_client=httpx.AsyncClient(),
)
EmbeddingOptions(dimensions=512, region="intl")

shared: EmbeddingOptionsDict = {"dimensions": 512, "max_concurrency": 8, "show_progress": True}
EmbeddingClient(MODEL, **shared)
MultiEmbeddings(model=MODEL, **shared)
MultiEmbedding(model_name=MODEL, **shared)
of_llamaindex: MultiEmbeddingOptionsDict = {"dimensions": 512, "embed_batch_size": 100}
MultiEmbedding(model_name=MODEL, **of_llamaindex)


def from_configuration(model: str, options: dict[str, Any]) -> Embeddings:
    EmbeddingClient(model, **options)
    return MultiEmbeddings(model=model, **options)


# ── results ──


def dense(client: EmbeddingClient, texts: list[str]) -> Vectors:
    result = client.embed(texts, role="document")
    assert_type(result, EmbeddingResult)
    assert_type(result.usage.cost, float | None)
    print(result.vectors.shape, result.vectors @ result.vectors.T)
    return result.vectors


async def dense_async(client: EmbeddingClient, texts: list[str]) -> int:
    rows = (await client.aembed(texts, "query")).vectors.shape[0]
    async with client:
        async for block in client.astream(texts, on_error="keep"):
            rows += len(block.vectors)
    return int(rows)


def blocks(client: EmbeddingClient, texts: Iterator[str]) -> Iterator[Vectors]:
    with client:
        for block in client.stream(texts):
            yield block.vectors


def lists(client: EmbeddingClient) -> list[list[float]]:
    return client.embed(["a"], lists=True).to_list()


def sparse(client: EmbeddingClient) -> list[SparseVector]:
    return client.embed(["a"]).to_sparse()


def of_any_output(result: EmbeddingResult[Vectors | None]) -> int:
    return 0 if result.vectors is None else int(result.vectors.shape[1])


def what_is_left(client: EmbeddingClient, texts: list[str]) -> Vectors:
    try:
        return client.embed(texts).vectors
    except PartialFailureError as error:
        return error.result.vectors


of_any_output(EmbeddingClient(MODEL).embed(["a"]))
of_any_output(EmbeddingClient(MODEL).embed(["a"], lists=True))
asyncio.run(dense_async(EmbeddingClient(MODEL), ["a"]))

# ── frameworks ──

embeddings = MultiEmbeddings(model=MODEL)
assert_type(embeddings.embed_query("a"), list[float])
assert_type(embeddings.client.usage, Usage)
embeddings.dimensions = 256
store = InMemoryVectorStore(embeddings)

embedding = MultiEmbedding(model_name=MODEL)
as_base: BaseEmbedding = embedding
Settings.embed_model = embedding
hybrid = MultiEmbedding(model_name="dashscope:text-embedding-v4", output="dense&sparse")
for_pinecone: BaseSparseEmbedding = hybrid.sparse()
assert_type(hybrid.sparse_doc_fn(["a"]), tuple[list[list[int]], list[list[float]]])
assert_type(SparseCompanion(hybrid).embed(["a"], "query"), list[SparseVector])
assert_type(embedding.client.embed(["a"]).vectors, NDArray[np.float32])
