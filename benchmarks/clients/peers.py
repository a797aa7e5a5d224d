"""What users would take instead, and what they would write themselves.

What cuts no batches of its own has them cut here, by C workers over one iterator, which is the fastest way.
"""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from clients.table import MODEL, QUERY, Setting, register

if TYPE_CHECKING:
    from collections.abc import Iterable

FLOATS = {"encoding_format": "float"}
SLOW = 1000


@register("baseten, list", "baseten-performance-client", "baseten_performance_client", "list")
def _(module, ask):
    embed = baseten(module, ask)  # embed(texts).numpy().tolist() was measured too and is not faster
    return lambda texts: [item.embedding for item in embed(texts).data]


@register("baseten, numpy", "baseten-performance-client", "baseten_performance_client", "float32")
def _(module, ask):
    embed = baseten(module, ask)
    return lambda texts: embed(texts).numpy()


def baseten(module, ask):
    client = module.PerformanceClient(ask.base_url, "none")
    preference = module.RequestProcessingPreference(max_concurrent_requests=ask.concurrency, batch_size=ask.batch)
    return lambda texts: client.embed(texts, MODEL, encoding_format="float", preference=preference)


@register("LangChain OpenAIEmbeddings", "langchain-openai", "langchain_openai", "list", most=SLOW, sequential=True)
def _(module, ask):
    return langchain_openai(module, ask).embed_documents


@register(
    "LangChain OpenAIEmbeddings, async", "langchain-openai", "langchain_openai", "list", most=SLOW, sequential=True
)
def _(module, ask):
    embeddings = langchain_openai(module, ask)
    return lambda texts: asyncio.run(embeddings.aembed_documents(texts))


def langchain_openai(module, ask):
    return module.OpenAIEmbeddings(
        model=MODEL,
        base_url=openai_url(ask),
        api_key="none",
        check_embedding_ctx_length=False,  # else it sends numbers of tokens, which only OpenAI understands
        chunk_size=ask.batch,
        model_kwargs=FLOATS,
    )


LLAMAINDEX = ("llama-index-embeddings-openai-like", "llama_index.embeddings.openai_like", "list")


@register("LlamaIndex OpenAILikeEmbedding", *LLAMAINDEX, most=SLOW, sequential=True)
def _(module, ask):
    return llamaindex_openai(module, ask).get_text_embedding_batch


@register("LlamaIndex OpenAILikeEmbedding, async", *LLAMAINDEX, most=SLOW)
def _(module, ask):
    embedding = llamaindex_openai(module, ask)
    return lambda texts: asyncio.run(embedding.aget_text_embedding_batch(texts))


def llamaindex_openai(module, ask):
    return module.OpenAILikeEmbedding(
        model_name=MODEL,
        api_base=openai_url(ask),
        api_key="none",
        embed_batch_size=ask.batch,
        num_workers=ask.concurrency,
        additional_kwargs=FLOATS,
    )


@register(
    "LangChain DashScopeEmbeddings",
    "langchain-community",
    "langchain_community.embeddings",
    "list",
    most=SLOW,
    sequential=True,
)
def _(module, ask):
    import dashscope

    dashscope.base_http_api_url = f"{ask.base_url}/api/v1"
    # It knows by the model's name that 10 texts go into a request.
    return module.DashScopeEmbeddings(model="text-embedding-v4", dashscope_api_key="none").embed_documents


@register("litellm.aembedding", "litellm", "litellm", "list", most=SLOW)
def _(module, ask):
    module.suppress_debug_info = True

    async def send(texts):
        reply = await module.aembedding(
            f"openai/{MODEL}", input=texts, api_base=openai_url(ask), api_key="none", encoding_format="float"
        )
        return [item["embedding"] for item in reply.data]

    return lambda texts: asyncio.run(spread(send, texts, ask))


@register("httpx.AsyncClient + orjson", "httpx", "httpx", "list", most=10_000)
def _(module, ask):
    async def embed(texts):
        limits = module.Limits(max_connections=ask.concurrency, max_keepalive_connections=ask.concurrency)
        async with module.AsyncClient(limits=limits, timeout=60) as client:

            async def send(texts):
                reply = await client.post(f"{openai_url(ask)}/embeddings", content=body(texts), headers=HEADERS)
                return vectors(reply.raise_for_status().content)

            return await spread(send, texts, ask)

    return lambda texts: asyncio.run(embed(texts))


@register("aiohttp + orjson", "aiohttp", "aiohttp", "list")
def _(module, ask):
    async def embed(texts):
        connector = module.TCPConnector(limit=ask.concurrency)
        async with module.ClientSession(connector=connector) as client:

            async def send(texts):
                async with client.post(f"{openai_url(ask)}/embeddings", data=body(texts), headers=HEADERS) as reply:
                    reply.raise_for_status()
                    return vectors(await reply.read())

            return await spread(send, texts, ask)

    return lambda texts: asyncio.run(embed(texts))


HEADERS = {"Authorization": "Bearer none", "Content-Type": "application/json"}


def openai_url(ask: Setting) -> str:
    return f"{ask.base_url}/v1"


def body(texts: list[str]) -> bytes:
    import orjson

    return orjson.dumps({"model": MODEL, "input": texts, **FLOATS})


def vectors(reply: bytes) -> list[list[float]]:
    import orjson

    return [item["embedding"] for item in orjson.loads(reply)["data"]]


def batches(texts: Iterable[str], size: int) -> list[list[str]]:
    texts = list(texts)
    return [texts[start : start + size] for start in range(0, len(texts), size)]


async def spread(send, texts: Iterable[str], ask: Setting) -> list[list[float]]:
    """C workers over one iterator of batches."""
    cut = batches(texts, ask.batch)
    done: list[list[list[float]]] = [[]] * len(cut)
    left = iter(enumerate(cut))

    async def work():
        for place, batch in left:
            done[place] = await send(batch)

    await asyncio.gather(*(work() for _ in range(min(ask.concurrency, len(cut)))))
    return [vector for part in done for vector in part]


@register("raw sockets, nothing decoded", "python", "selectors", "bytes")
def _(module, ask):
    def embed(texts):
        left = iter([request(batch) for batch in batches(texts, ask.batch)])
        with module.DefaultSelector() as selector:
            reader = bytearray(1 << 20)
            for _, first in zip(range(ask.concurrency), left, strict=False):
                connection = socket.create_connection(("127.0.0.1", int(ask.base_url.rpartition(":")[2])))
                selector.register(connection, module.EVENT_READ, [0])
                connection.sendall(first)
            while selector.get_map():
                for key, _ in selector.select():
                    read_on(key, reader, left, selector)

    return embed


def request(texts: list[str]) -> bytes:
    content = body(texts)
    return b"POST /v1/embeddings HTTP/1.1\r\nHost: bench\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content)


def read_on(key, reader: bytearray, left, selector) -> None:
    """Count the bytes of an answer; after its last one send the next request. An answer's head comes in one piece."""
    missing, connection = key.data, key.fileobj
    got = connection.recv_into(reader)
    if not missing[0]:
        head = bytes(reader[:400]).partition(b"\r\n\r\n")[0]
        missing[0] = len(head) + 4 + int(head.partition(b"Content-Length: ")[2])
    missing[0] -= got
    if not missing[0]:
        try:
            connection.sendall(next(left))
        except StopIteration:
            selector.unregister(connection)
            connection.close()


# ── queries, one after the other ─────────────────────────────────────────────────────────────────


@register(QUERY + "baseten", "baseten-performance-client", "baseten_performance_client", "list")
def _(module, ask):
    embed = baseten(module, ask)
    return lambda texts: [embed([text]).data[0].embedding for text in texts]


@register(QUERY + "LangChain OpenAIEmbeddings", "langchain-openai", "langchain_openai", "list")
def _(module, ask):
    embeddings = langchain_openai(module, ask)
    return lambda texts: [embeddings.embed_query(text) for text in texts]


@register(QUERY + "LlamaIndex OpenAILikeEmbedding", *LLAMAINDEX)
def _(module, ask):
    embedding = llamaindex_openai(module, ask)
    return lambda texts: [embedding.get_query_embedding(text) for text in texts]


@register(QUERY + "httpx.Client + orjson", "httpx", "httpx", "list")
def _(module, ask):
    client = module.Client(timeout=60)
    url = f"{openai_url(ask)}/embeddings"
    return lambda texts: [vectors(client.post(url, content=body([text]), headers=HEADERS).content)[0] for text in texts]
