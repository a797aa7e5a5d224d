"""Code of a user of LlamaIndex's stores who checks it strictly: mypy finds nothing here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_index.vector_stores.milvus import MilvusVectorStore
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import QdrantClient

from llamaindex_multiembed import MultiEmbedding
from llamaindex_multiembed.milvus import MilvusSparse

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
    from llama_index.vector_stores.milvus.utils import BaseSparseEmbeddingFunction

embedding = MultiEmbedding(model_name="dashscope:text-embedding-v4", output="dense&sparse")
for_pinecone: BaseSparseEmbedding = embedding.sparse()
for_milvus: BaseSparseEmbeddingFunction = MilvusSparse(embedding)
QdrantVectorStore(
    "texts",
    client=QdrantClient(":memory:"),
    enable_hybrid=True,
    sparse_doc_fn=embedding.sparse_doc_fn,
    sparse_query_fn=embedding.sparse_query_fn,
)
MilvusVectorStore(dim=1024, enable_sparse=True, sparse_embedding_function=MilvusSparse(embedding))
weights: dict[int, float] = for_pinecone.get_query_embedding("a")
