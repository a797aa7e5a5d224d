"""Programs end without a warning, and calls work while the interpreter exits."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest
from calls import HoldingApi, serving

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@pytest.fixture
def holding():
    """A server that holds every request until it is let go."""
    with serving(HoldingApi) as server:
        server.arrived, server.let_go, server.asks_to_wait = threading.Event(), threading.Event(), False
        yield server
        server.let_go.set()


START = """
import asyncio, atexit, gc, os, sys, threading

base_url, name = sys.argv[1:]
MODEL = "dashscope:text-embedding-v4"
if name == "client":
    from multiembed import EmbeddingClient as make
    sync, later = "embed", "aembed"
elif name == "langchain":
    from langchain_multiembed import MultiEmbeddings
    make = lambda model, **options: MultiEmbeddings(model=model, **options)
    sync, later = "embed_documents", "aembed_documents"
else:
    from llamaindex_multiembed import MultiEmbedding
    make = lambda model, **options: MultiEmbedding(model_name=model, **options)
    sync, later = "get_text_embedding_batch", "aget_text_embedding_batch"

TEXTS = [f"text {n}" for n in range(45)]

def new(**options):
    return make(MODEL, **{"base_url": base_url, "api_key": "sk-simulator", **options})

def embed(embedder):
    answer = getattr(embedder, sync)(TEXTS)
    assert len(getattr(answer, "vectors", answer)) == 45
    print("served")

async def aembed(embedder):
    answer = await getattr(embedder, later)(TEXTS)
    assert len(getattr(answer, "vectors", answer)) == 45
    print("served")
"""
ENDS = {
    "sync calls, kept to the end": "e = new(); embed(e); embed(e)",
    "sync calls, dropped": "e = new(); embed(e); del e; gc.collect(); embed(new())",
    "one loop, kept to the end": "e = new(); asyncio.run(aembed(e)); gc.collect(); embed(e)",
    "two loops": "e = new(); asyncio.run(aembed(e)); asyncio.run(aembed(e)); del e; gc.collect()",
    "dropped as the loop ends": """
async def main():
    await aembed(new())
    await aembed(new())
asyncio.run(main())
""",
    "dropped while the loop runs on": """
async def main():
    e = new()
    await aembed(e)
    del e
    gc.collect()
    await asyncio.sleep(0.05)
    await aembed(new())
asyncio.run(main())
""",
    "sync and async in one loop": """
async def main():
    e = new()
    embed(e)
    await asyncio.gather(aembed(e), aembed(e))
    embed(e)
asyncio.run(main())
""",
    "loops in threads": """
e = new()
threads = [threading.Thread(target=lambda: asyncio.run(aembed(e))) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
del e
gc.collect()
""",
    "a helper's loop within a running one, closed without winding up": """
async def main():
    e = new()
    def nested():
        loop = asyncio.new_event_loop()
        loop.run_until_complete(aembed(e))
        loop.close()
    thread = threading.Thread(target=nested)
    thread.start()
    thread.join()
    embed(e)
asyncio.run(main())
gc.collect()
""",
    "close": "e = new(); embed(e); e.close(); e.close(); embed(e); e.close()",
    "with": """
with new() as e:
    embed(e)
embed(e)
""",
    "async with": """
async def main():
    async with new() as e:
        await aembed(e)
        embed(e)
    await aembed(e)
    await e.aclose()
    await e.aclose()
asyncio.run(main())
""",
    "never used": "e = new(); e.close(); asyncio.run(e.aclose())",
}


def check_program(programs, simulator, name, code):
    done = programs.run(START + code, simulator.base_url("dashscope"), name, within=40.0)
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.count("served") == -(-len(simulator.requests) // 5)


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS.keys())
def test_program_ends_without_a_warning(programs, simulator, code):
    check_program(programs, simulator, "client", code)


@pytest.mark.parametrize(
    ("name", "way"), [("langchain", "sync and async in one loop"), ("llamaindex", "dropped as the loop ends")]
)
def test_program_with_a_framework_ends_without_a_warning(framework_programs, simulator, name, way):
    check_program(framework_programs, simulator, name, ENDS[way])


AT_EXIT = {
    "sync, never used before": "e = new(); atexit.register(lambda: embed(e))",
    "sync, made at exit": "atexit.register(lambda: embed(new()))",
    "sync, used before": "e = new(); embed(e); atexit.register(lambda: embed(e))",
    "sync, registered before the first use": "e = new(); atexit.register(lambda: embed(e)); embed(e)",
    "sync, twice": "e = new(); atexit.register(lambda: (embed(e), embed(e))); embed(e)",
    "async, used before": "e = new(); asyncio.run(aembed(e)); atexit.register(lambda: asyncio.run(aembed(e)))",
    "async, registered before the first use": "e = new(); atexit.register(lambda: asyncio.run(aembed(e))); embed(e)",
    "async, with on_usage and a key function": """
e = new(on_usage=lambda usage: None, api_key=lambda: "sk-simulator")
atexit.register(lambda: asyncio.run(aembed(e)))
""",
    "async, with a cache": """
class Store(dict):
    mget = lambda self, keys: [self.get(key) for key in keys]
    mset = dict.update
e = new(cache=Store())
atexit.register(lambda: asyncio.run(aembed(e)))
""",
}


@pytest.mark.parametrize("code", AT_EXIT.values(), ids=AT_EXIT.keys())
def test_call_works_while_the_interpreter_exits(programs, simulator, code):
    check_program(programs, simulator, "client", code)
    assert simulator.requests


@forks
@pytest.mark.parametrize("used", ["", "embed(e)"])
def test_forked_child_ends_without_a_warning(programs, simulator, used):
    code = f"""
e = new()
{used or "pass"}
sys.stdout.flush()
pid = os.fork()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
embed(e)
"""
    done = programs.run(START + code, simulator.base_url("dashscope"), "client", within=40.0)
    assert done.stderr == ""
    assert done.stdout.count("served") == (3 if used else 2)


def test_program_ends_while_calls_are_in_flight(programs, holding):
    code = """
e = new()
for _ in range(2):
    threading.Thread(target=embed, args=[e], daemon=True).start()
sys.stdin.readline()
"""
    url = f"http://127.0.0.1:{holding.server_port}/api/v1"
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with programs.start(START + code, url, "client", **pipes) as program:
        assert holding.arrived.wait(30)
        program.stdin.write("end\n")
        program.stdin.flush()
        assert program.wait(30) == 0  # the server would hold it for a minute
        assert program.stderr.read() == ""
