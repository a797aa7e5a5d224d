"""Code of a user who checks it strictly: mypy and pyright refuse each line that is marked, and no other line."""
# pyright: strict

from __future__ import annotations

import httpx

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import EmbeddingClient, EmbeddingOptions, EmbeddingOptionsDict, SparseVector

MODEL = "zhipu:embedding-3"

# ── names ──
MultiEmbeddings(model=MODEL, dimension=512)  # refused
MultiEmbedding(model_name=MODEL, dimension=512)  # refused
EmbeddingClient(MODEL, dimension=512)  # refused
EmbeddingClient(MODEL, dimensionz=3)  # refused
EmbeddingOptions(dimension=512)  # refused
MultiEmbeddings(model=MODEL, api_base="https://host.example")  # refused
MultiEmbeddings(model=MODEL, embed_batch_size=10)  # refused
misspelt: EmbeddingOptionsDict = {"dimension": 512}  # refused

# ── the model ──
MultiEmbeddings()  # refused
MultiEmbedding()  # refused
EmbeddingClient()  # refused
MultiEmbeddings(MODEL)  # refused
MultiEmbedding(MODEL)  # refused
MultiEmbeddings(model_name=MODEL)  # refused
MultiEmbedding(model=MODEL)  # refused

# ── types ──
EmbeddingClient(MODEL, dimensions="512")  # refused
MultiEmbeddings(model=MODEL, dimensions=512.5)  # refused
MultiEmbedding(model_name=MODEL, max_retries=[3])  # refused
EmbeddingClient(MODEL, api_key=5)  # refused
EmbeddingClient(MODEL, api_key=b"sk-...")  # refused
MultiEmbeddings(model=MODEL, output="both")  # refused
MultiEmbeddings(model=MODEL, on_too_long="cut")  # refused
EmbeddingClient(MODEL, limits=64)  # refused
EmbeddingClient(MODEL, headers={"X-Team": 7})  # refused
EmbeddingClient(MODEL, on_usage=lambda: None)  # refused
EmbeddingClient(MODEL, http_client=httpx.AsyncClient())  # refused

# ── calls and results ──
client = EmbeddingClient(MODEL)
client.embed(["a"], "documents")  # refused
client.embed([1, 2])  # refused
client.embed(["a"], lists=True).vectors.shape  # refused
wrong: list[SparseVector] = client.embed(["a"]).sparse  # refused
client.stream(["a"], on_error="skip")  # refused
MultiEmbeddings(model=MODEL).embed_query(["a"])  # refused
