"""Cancelled calls, Ctrl-C, and event loops that are closed in the middle of a call."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
from calls import (
    LATENCY,
    HoldingApi,
    all_right,
    aserve_right,
    serving,
)
from support.adapters import (
    DASHSCOPE,
    are_right,
    options_for,
    texts_of,
)

from multiembed import EmbeddingClient
from multiembed.execution.runtime import account_id
from multiembed.ratelimit.registry import limiter_for

interrupts = pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")


@pytest.fixture
def holding():
    """A server that holds every request until it is let go."""
    with serving(HoldingApi) as server:
        server.arrived, server.let_go, server.asks_to_wait = threading.Event(), threading.Event(), False
        yield server
        server.let_go.set()


class HeldAsync:
    """As Held, for tasks."""

    def __init__(self):
        self.arrived = asyncio.Event()
        self.came = self.cancelled = 0

    async def __call__(self, request):
        self.came += 1
        self.arrived.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def test_cancelled_call_leaves_no_task_and_frees_its_permits(options, async_entry_point):
    held = HeldAsync()
    async with httpx.AsyncClient(transport=httpx.MockTransport(held)) as mine:
        stuck = async_entry_point.make(DASHSCOPE, max_concurrency=4, http_async_client=mine, **options)
        call_in_flight = asyncio.create_task(async_entry_point.embed(stuck, texts_of(100)))
        await held.arrived.wait()
        call_in_flight.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call_in_flight
    assert 1 <= held.came <= 4
    assert held.cancelled == held.came
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with asyncio.timeout(30):
        assert await aserve_right(
            async_entry_point, async_entry_point.make(DASHSCOPE, max_concurrency=1, **options), "after"
        )


async def test_client_works_after_a_call_cancelled_over_real_sockets(slow, async_entry_point):
    embedder = async_entry_point.make(DASHSCOPE, max_concurrency=4, **options_for(slow))
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(LATENCY / 2):
                await async_entry_point.embed(embedder, texts_of(200))
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert await all_right(async_entry_point, embedder, "after", 4)


async def test_call_cancelled_while_waiting_lets_the_next_one_pass(options):
    held = HeldAsync()
    async with httpx.AsyncClient(transport=httpx.MockTransport(held)) as mine:
        stuck = EmbeddingClient(DASHSCOPE, max_concurrency=1, http_async_client=mine, **options)
        free = EmbeddingClient(DASHSCOPE, max_concurrency=1, **options)
        inside = asyncio.create_task(stuck.aembed(["a"]))
        await held.arrived.wait()
        waiting = [asyncio.create_task(free.aembed([text])) for text in "bcd"]
        await asyncio.sleep(0)
        waiting[0].cancel()
        inside.cancel()
        done = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 30)
    assert isinstance(done[0], asyncio.CancelledError)
    assert are_right([done[1].to_list()[0], done[2].to_list()[0]], ["c", "d"])


INTERRUPTED = """
import asyncio, sys
from multiembed import EmbeddingClient

base_url, kind, count = sys.argv[1:]

def make(key):
    return EmbeddingClient("dashscope:text-embedding-v4", base_url=base_url, api_key=key, max_concurrency=4)

client = make(key="sk-any")

def embed(texts):
    return client.embed(texts) if kind == "sync" else asyncio.run(client.aembed(texts))

try:
    embed([f"text {n}" for n in range(int(count))])
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.stdin.readline()
client = make(key="another-account")  # the first one was asked to wait, and so do all who share it
print(embed(["after"]).vectors.shape, flush=True)
"""


@interrupts
@pytest.mark.parametrize("asks_to_wait", [False, True], ids=["while sending", "while waiting to try again"])
@pytest.mark.parametrize("count", [1, 80], ids=["one batch", "many batches"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_ctrl_c_ends_a_call_at_once_and_frees_its_permits(programs, holding, kind, count, asks_to_wait):
    """The server holds back its answer for a minute, so a program that speaks earlier was not waiting for it."""
    holding.asks_to_wait = asks_to_wait
    url = f"http://127.0.0.1:{holding.server_port}/api/v1"
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with programs.start(INTERRUPTED, url, kind, count, **pipes) as program:
        ending = threading.Timer(20, program.kill)
        ending.start()
        try:
            assert holding.arrived.wait(20)
            program.send_signal(signal.SIGINT)
            assert program.stdout.readline() == "interrupted\n"
            holding.let_go.set()
            program.stdin.write("go on\n")
            program.stdin.flush()
            assert (program.stdout.read(), program.stderr.read()) == ("(1, 1024)\n", "")
            assert program.wait() == 0
        finally:
            ending.cancel()


@pytest.mark.parametrize("entry_point", ["aembed", "astream"])
def test_loop_closed_in_a_call_frees_its_permits_without_warning(slow, entry_point):
    """The collector ends the tasks; what goes wrong then is a warning, and so an error here."""
    client = EmbeddingClient(DASHSCOPE, max_concurrency=4, **options_for(slow))

    async def embed_all():
        if entry_point == "aembed":
            await client.aembed(texts_of(200))
        else:
            async for _ in client.astream(texts_of(200)):
                pass

    def begin_and_close():
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # it complains of its tasks, which are left pending on purpose
        call_in_flight = loop.create_task(embed_all())
        loop.run_until_complete(asyncio.sleep(LATENCY * 1.5))
        loop.close()
        assert not call_in_flight.done()

    begin_and_close()
    gc.collect()
    end = time.monotonic() + 20.0
    while client.pending and time.monotonic() < end:  # what was sent is heard to its end
        time.sleep(LATENCY / 10)
    assert client.usage.requests < 20
    assert are_right(client.embed(texts_of(60, "after")).to_list(), texts_of(60, "after"))
    assert limiter_for(account_id(client.target)).pacer.in_flight == 0
