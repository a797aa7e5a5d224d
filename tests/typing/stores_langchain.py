"""Code of a user of LangChain's stores who checks it strictly: a type checker finds nothing here."""
# pyright: strict, reportUnknownMemberType=false
# The signature of Qdrant's from_texts is not typed in full.

from __future__ import annotations

from typing import TYPE_CHECKING

from langchain_milvus import Milvus
from langchain_qdrant import QdrantVectorStore, RetrievalMode

from langchain_multiembed import MultiEmbeddings
from langchain_multiembed.milvus import MilvusSparse

if TYPE_CHECKING:
    from langchain_milvus.utils.sparse import BaseSparseEmbedding
    from langchain_qdrant.sparse_embeddings import SparseEmbeddings

embeddings = MultiEmbeddings(model="dashscope:text-embedding-v4", output="dense&sparse")
for_qdrant: SparseEmbeddings = embeddings.sparse()
for_milvus: BaseSparseEmbedding = MilvusSparse(embeddings)
QdrantVectorStore.from_texts(
    ["a"], embeddings, sparse_embedding=embeddings.sparse(), retrieval_mode=RetrievalMode.HYBRID, location=":memory:"
)
Milvus([embeddings, MilvusSparse(embeddings)], vector_field=["dense", "sparse"])
weights: dict[int, float] = for_milvus.embed_query("a")
indices: list[int] = for_qdrant.embed_query("a").indices
