"""Reprs of public objects: one short line with units, no vectors, no key."""

from __future__ import annotations

import asyncio
import pickle
import re

import numpy as np
import pytest
from support.adapters import DASHSCOPE, ENTRY_POINTS, call, client_of, options_for, texts_of

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import (
    CacheEntry,
    CacheFile,
    ClientStats,
    EmbeddingClient,
    EmbeddingOptions,
    EmbeddingResult,
    Estimate,
    InvalidRequestError,
    Limits,
    SparseVector,
    Usage,
    list_models,
)

SECRET = "sk-0123456789abcdef"
USAGE = Usage(total_tokens=1234, requests=2, retries=1, cached_texts=3, cost=0.00012339999999999998)


def result(rows=2, dimensions=256, **more):
    vectors = np.zeros((rows, dimensions), np.float32)
    fields = {"vectors": vectors, "sparse": None, "usage": USAGE, "model": "zhipu:embedding-3"}
    return EmbeddingResult(**fields | more)


SPARSE = SparseVector((1, 2), (0.1, 0.2), ("a", "b"))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (USAGE, "Usage(1,234 tokens, 0.000123 CNY, 2 requests, 1 retry, 3 texts from the cache)"),
        (Usage(), "Usage(0 tokens, 0 CNY, 0 requests)"),
        (Usage(total_tokens=None, cost=None), "Usage(tokens unknown, cost unknown, 0 requests)"),
        (Usage(total_tokens=1, cost=12345.678), "Usage(1 token, 12,345.68 CNY, 0 requests)"),
        (
            ClientStats(
                texts=1300, cached_texts=12, failed_texts=1, total_tokens=10_000, cost=0.1 + 0.2, requests=21,
                retries=2, rate_errors=1, p50=0.05123456789, p99=1.25,
            ),
            ("ClientStats(1,300 texts (12 cached, 1 failed), 10,000 tokens, 0.3 CNY, 21 requests, 2 retried, "
            "1 over a rate limit, latency p50 0.0512 s, p99 1.25 s)"),
        ),
        (
            Estimate(texts=1, requests=1, tokens=3, cost=None, seconds=None),
            "Estimate(1 text, 1 request, 3 tokens, cost unknown, time unknown)",
        ),
        (
            Limits(max_items=64, max_tokens_per_item=3072, max_bytes_per_request=10),
            "Limits(64 texts a request, 3,072 tokens a text, 10 bytes a request)",
        ),
        (
            next(model for _, model in list_models() if model.name == "embedding-3"),
            ("ModelInfo('embedding-3', dimensions 256 512 1024 2048 (default 2048), 64 texts a request, "
            "3,072 tokens a text, 0.5 CNY per million tokens)"),
        ),
        (SPARSE, "SparseVector(2 weights)"),
        (result(), "EmbeddingResult(2 vectors of 256 float32, zhipu:embedding-3, 1,234 tokens, 0.000123 CNY)"),
        (
            result(failures={0: InvalidRequestError("x")}),
            "EmbeddingResult(2 vectors of 256 float32, zhipu:embedding-3, 1,234 tokens, 0.000123 CNY, 1 failed)",
        ),
        (
            result(vectors=None, sparse=[SPARSE]),
            "EmbeddingResult(1 sparse vector, zhipu:embedding-3, 1,234 tokens, 0.000123 CNY)",
        ),
        (
            result(vectors=None, lists=[[0.1] * 8]),
            "EmbeddingResult(1 vector of 8 float, zhipu:embedding-3, 1,234 tokens, 0.000123 CNY)",
        ),
        (CacheEntry("ab", ["a text"], result().vectors, None), "CacheEntry(namespace='ab')"),
    ],
)  # fmt: skip
def test_repr_is_one_line_with_units(value, expected):
    assert repr(value) == expected


def test_every_catalog_model_has_a_one_line_repr():
    for _, model in list_models():
        assert model.name in repr(model)
        assert "\n" not in repr(model)
        assert len(repr(model)) < 220


def test_repr_of_a_cached_vector_has_no_numbers(tmp_path):
    with EmbeddingClient("local:char-ngrams", dimensions=64, cache=tmp_path / "c") as client:
        client.embed(["a"])
    file = CacheFile(tmp_path / "c")
    [vector] = file.vectors({space.fingerprint for space in file.namespaces()})
    assert "array" not in repr(vector)


@pytest.mark.parametrize("make", ENTRY_POINTS.values(), ids=ENTRY_POINTS.keys())
def test_reprs_after_a_call_are_short_and_hold_no_key(simulator, make):
    embedder = make.make(DASHSCOPE, **options_for(simulator), headers={"X-Mine": SECRET})
    call(make.embed, embedder, texts_of(25))
    client = client_of(embedder)
    for shown in map(repr, (embedder, client, client.usage, client.stats)):
        assert len(shown) < 250
        assert "\n" not in shown
        assert simulator.api_key not in shown
        assert SECRET not in shown
        assert not re.search(r"\d\.\d{8}", shown)
    assert DASHSCOPE in repr(embedder)


@pytest.mark.parametrize(
    "embedder",
    [
        EmbeddingOptions(api_key=SECRET, dimensions=512),
        EmbeddingClient("zhipu:embedding-3", api_key=SECRET, dimensions=512),
        MultiEmbeddings(model="zhipu:embedding-3", api_key=SECRET, dimensions=512),
        MultiEmbedding(model_name="zhipu:embedding-3", api_key=SECRET, dimensions=512),
    ],
    ids=lambda embedder: type(embedder).__name__,
)
def test_repr_shows_the_given_options_without_the_key(embedder):
    for shown in (repr(embedder), repr(pickle.loads(pickle.dumps(embedder)))):
        assert "dimensions=512" in shown
        assert SECRET not in shown
        assert len(shown) < 100


def test_repr_of_an_async_result_is_the_same():
    client = EmbeddingClient("local:char-ngrams", dimensions=16)
    assert repr(asyncio.run(client.aembed(["a", "b"]))) == repr(client.embed(["a", "b"]))
