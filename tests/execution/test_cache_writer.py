"""Writer of the cache: groups of writes, their end, and how much is unwritten."""

from __future__ import annotations

import asyncio
import json
import threading
from itertools import chain

import httpx

from multiembed import CacheLookup, EmbeddingClient
from multiembed.execution import io_thread as io_module
from multiembed.execution.runtime import _MAX_ENTRIES, CacheWriter
from multiembed.providers.local import embed

PATIENCE = 20.0
"""Seconds after which a test that hangs fails."""


class Cache:
    """Keeps what is written; each write waits until it may go on."""

    def __init__(self):
        self.groups = []
        self.started = threading.Semaphore(0)
        self.may_end = threading.Semaphore(0)

    def put_many(self, entries):
        self.started.release()
        assert self.may_end.acquire(timeout=PATIENCE)
        self.groups.append(list(entries))


async def write(writer, *entries):
    """Start a write for each entry."""
    tasks = [asyncio.ensure_future(writer.write([entry])) for entry in entries]
    await asyncio.sleep(0)
    return tasks


async def has_started(cache):
    assert await asyncio.to_thread(cache.started.acquire, timeout=PATIENCE)


async def test_write_ends_with_its_commit_not_with_later_ones():
    cache = Cache()
    writer = CacheWriter(cache)
    async with asyncio.timeout(PATIENCE):
        first = await write(writer, "a")
        await has_started(cache)
        second = await write(writer, "b", "c", "d")
        cache.may_end.release()
        await asyncio.gather(*first)
        await has_started(cache)
        third = await write(writer, "e")
        cache.may_end.release()
        await asyncio.gather(*second)
        assert not third[0].done()
        cache.may_end.release()
        await asyncio.gather(*third)
    assert cache.groups == [["a"], ["b", "c", "d"], ["e"]]


async def test_commit_holds_a_bounded_number_of_writes():
    cache = Cache()
    cache.may_end.release(10)
    entries = [str(number) for number in range(2 * _MAX_ENTRIES + 3)]
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*await write(CacheWriter(cache), *entries))
    assert list(chain.from_iterable(cache.groups)) == entries
    assert max(map(len, cache.groups)) <= _MAX_ENTRIES


async def test_write_of_a_cancelled_caller_is_committed():
    cache = Cache()
    writer = CacheWriter(cache)
    async with asyncio.timeout(PATIENCE):
        (first,) = await write(writer, "a")
        await has_started(cache)
        (second,) = await write(writer, "b")
        first.cancel()
        second.cancel()
        cache.may_end.release(3)
        await asyncio.gather(*await write(writer, "c"))
    assert list(chain.from_iterable(cache.groups)) == ["a", "b", "c"]


async def test_error_of_a_commit_reaches_all_its_callers(monkeypatch):
    cache = Cache()
    cache.may_end.release(10)
    writer = CacheWriter(cache)
    async with asyncio.timeout(PATIENCE):
        with monkeypatch.context() as patched:
            patched.setattr(cache, "put_many", lambda _: 1 / 0)
            outcomes = await asyncio.gather(*await write(writer, "a", "b"), return_exceptions=True)
        await asyncio.gather(*await write(writer, "c"))
    assert [type(outcome) for outcome in outcomes] == [ZeroDivisionError] * 2
    assert cache.groups == [["c"]]


async def test_write_after_the_end_of_the_thread_starts_another(monkeypatch):
    monkeypatch.setattr("multiembed.execution.runtime._IDLE_SECONDS", 0.0)
    cache = Cache()
    cache.may_end.release(10)
    writer = CacheWriter(cache)
    async with asyncio.timeout(PATIENCE):
        for entry in "ab":
            await asyncio.gather(*await write(writer, entry))
            while writer._task is not None:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0)
    assert cache.groups == [["a"], ["b"]]


async def test_write_where_no_thread_can_be_started_is_committed(monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    cache = Cache()
    cache.may_end.release(10)
    io = io_module.io_thread()
    async with asyncio.timeout(PATIENCE):
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            patched.setattr(io, "_ident", threading.get_ident())
            patched.setattr("multiembed.execution.runtime._IDLE_SECONDS", 10 * PATIENCE)
            await asyncio.gather(*await write(CacheWriter(cache), "a", "b"))
    assert cache.groups == [["a", "b"]]


DIMENSIONS = 64
IN_FLIGHT = 8


class Server(httpx.BaseTransport):
    """Answers as a gateway does, and counts the requests."""

    def __init__(self):
        self.requests = 0
        self.changed = threading.Condition()

    def handle_request(self, request):
        texts = json.loads(request.content)["input"]
        with self.changed:
            self.requests += 1
            self.changed.notify_all()
        data = [{"index": index, "embedding": row} for index, row in enumerate(embed(texts, DIMENSIONS).tolist())]
        return httpx.Response(200, json={"data": data})


class SlowCache:
    """Its first write waits until as many requests have arrived as may be in flight."""

    def __init__(self, server):
        self.most_unwritten = self.written = 0
        self._server = server

    def get(self, namespace, texts):
        return CacheLookup()

    def put(self, namespace, texts, dense, sparse=None):
        with self._server.changed:
            assert self._server.changed.wait_for(lambda: self._server.requests >= IN_FLIGHT, PATIENCE)
            self.most_unwritten = max(self.most_unwritten, self._server.requests - self.written)
            self.written += 1


def test_unwritten_requests_stay_within_max_concurrency():
    server = Server()
    cache = SlowCache(server)
    with EmbeddingClient(
        "gateway:any-model",
        api_key="sk-any",
        base_url="https://cache-writer.example",
        dimensions=DIMENSIONS,
        limits={"max_items": 1},
        max_concurrency=IN_FLIGHT,
        cache=cache,
        http_client=httpx.Client(transport=server),
    ) as client:
        client.embed([f"text {number}" for number in range(60)])
    assert cache.written == 60
    assert cache.most_unwritten == IN_FLIGHT  # kill -9 loses these
