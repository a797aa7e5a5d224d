"""The openai SDK and the frameworks' classes around it work against the simulator's OpenAI forms at their defaults."""

from __future__ import annotations

import asyncio
import base64
import warnings

import numpy as np
import pytest
import support.faults  # noqa: F401 - registers the faults that only tests inject

from multiembed.providers.local import embed
from multiembed.simulator import FAULTS

for package in ("openai", "langchain_openai", "llama_index.embeddings.openai_like"):
    pytest.importorskip(package, reason="it needs a newer langchain-core or llama-index-core")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # their dependencies' own, at import
    from langchain_openai import OpenAIEmbeddings
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
    from openai import AsyncOpenAI, OpenAI

TEXTS = ["The quick brown fox", "敏捷的棕色狐狸", "🦊 jumps over 12 dogs"]
# A model of each provider that has an OpenAI form, with the length of its vectors.
MODELS = {
    "zhipu": ("embedding-3", 2048),
    "siliconflow": ("Qwen/Qwen3-Embedding-0.6B", 1024),
    "dashscope-compatible": ("text-embedding-v4", 1024),
    "openai-compatible": ("nomic-embed-text:latest", 1536),
    "gateway": ("bare-list", 1536),  # gateways that these clients can talk to answer without an envelope
}


def base_of(simulator, provider):
    """The base to which these clients add /embeddings."""
    return simulator.base_url(provider) + ("/api/v1" if provider == "gateway" else "")


def by_sdk(base, key, model):
    with OpenAI(base_url=base, api_key=key, max_retries=0) as client:
        reply = client.embeddings.create(model=model, input=TEXTS)
    return [item.embedding for item in reply.data]


def by_async_sdk(base, key, model):
    async def run():
        async with AsyncOpenAI(base_url=base, api_key=key, max_retries=0) as client:
            return await client.embeddings.create(model=model, input=TEXTS)

    return [item.embedding for item in asyncio.run(run()).data]


def by_langchain(base, key, model):
    # Otherwise it would count tokens with a vocabulary that is downloaded, and send token ids.
    with OpenAI(base_url=base, api_key=key) as sdk:
        embeddings = OpenAIEmbeddings(
            model=model, base_url=base, api_key=key, check_embedding_ctx_length=False, client=sdk.embeddings
        )
        return embeddings.embed_documents(TEXTS)


def by_async_langchain(base, key, model):
    async def run():
        async with AsyncOpenAI(base_url=base, api_key=key) as sdk:
            embeddings = OpenAIEmbeddings(
                model=model, base_url=base, api_key=key, check_embedding_ctx_length=False, async_client=sdk.embeddings
            )
            return await embeddings.aembed_documents(TEXTS)

    return asyncio.run(run())


def by_llamaindex(base, key, model):
    embedding = OpenAILikeEmbedding(model_name=model, api_base=base, api_key=key)
    with embedding._get_client():
        return embedding.get_text_embedding_batch(TEXTS)


def by_async_llamaindex(base, key, model):
    async def run():
        embedding = OpenAILikeEmbedding(model_name=model, api_base=base, api_key=key)
        async with embedding._get_aclient():
            return await embedding.aget_text_embedding_batch(TEXTS)

    return asyncio.run(run())


CLIENTS = [by_sdk, by_async_sdk, by_langchain, by_async_langchain, by_llamaindex, by_async_llamaindex]


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("provider", MODELS)
def test_other_client_gets_the_right_vectors(provider, client, simulator):
    model, dimensions = MODELS[provider]
    rows = client(base_of(simulator, provider), simulator.api_key, model)
    np.testing.assert_array_equal(np.float32(rows), embed(TEXTS, dimensions))
    assert {request.status for request in simulator.requests} == {200}


@pytest.mark.parametrize("client", [by_sdk, by_async_sdk])
@pytest.mark.parametrize("provider", MODELS)
def test_sdk_asks_for_base64_and_gets_it_where_it_is_honored(provider, client, simulator):
    model, _ = MODELS[provider]
    answers = []

    def keep(_request, answer):
        answers.append(answer)
        return answer

    simulator.fail(keep)
    client(base_of(simulator, provider), simulator.api_key, model)
    assert simulator.requests[0].body["encoding_format"] == "base64"
    packed = base64.b64encode(embed(TEXTS, MODELS[provider][1])[0].tobytes())
    assert (packed in answers[0].body) == (provider != "zhipu")


@pytest.mark.parametrize("client", [by_sdk, by_async_sdk])
@pytest.mark.parametrize(
    ("fault", "provider"),
    [(name, provider) for name in ("base64-ignored", "base64-honored") for provider in FAULTS[name].applies_to],
)
def test_sdk_reads_either_answer_to_base64(fault, provider, client, simulator):
    model, dimensions = MODELS[provider]
    simulator.fail(fault)
    rows = client(base_of(simulator, provider), simulator.api_key, model)
    np.testing.assert_array_equal(np.float32(rows), embed(TEXTS, dimensions))
