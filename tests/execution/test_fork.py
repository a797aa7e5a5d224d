"""Forks before, between and during calls, in the client and both frameworks."""

from __future__ import annotations

import asyncio
import copy
import faulthandler
import os
import threading
from contextlib import contextmanager
from itertools import cycle

import httpx
import pytest
from calls import (
    NAMES,
    in_threads,
    serve_right,
)
from support.adapters import (
    DASHSCOPE,
    ENTRY_POINTS,
    SYNC_ENTRY_POINTS,
    are_right,
    options_for,
    provider_of,
    run_python,
    texts_of,
)

from multiembed import EmbeddingClient, MultiEmbedError

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
    # Newer Pythons warn of a fork while there are threads, which is what is tried here.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture(params=ENTRY_POINTS.values(), ids=ENTRY_POINTS.keys())
def entry_point(request):
    return request.param


@contextmanager
def forked(*jobs):
    """Children of this process, one for each job; yields the function that waits for their answers."""
    pipes = []
    for job in jobs:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            _be_a_child(job, writing)
        os.close(writing)
        pipes.append((pid, reading))

    def answers():
        said = []
        for _, reading in pipes:
            with os.fdopen(reading, "rb") as stream:
                said.append(stream.read().decode())
        return said

    try:
        yield answers
    finally:
        for pid, _ in pipes:
            os.waitpid(pid, 0)


def _be_a_child(job, writing):
    """Do the job, tell its answer, and end without touching what belongs to the parent."""
    faulthandler.dump_traceback_later(30, exit=True, file=writing)  # a child that hangs answers where, and ends
    try:
        said = str(job())
    except BaseException as error:  # noqa: BLE001 - the parent gets any error
        said = f"{type(error).__name__}: {error}"
    os.write(writing, said.encode())
    os._exit(0)


@pytest.mark.parametrize(("name", "used"), [*zip(ENTRY_POINTS, cycle([False, True, True, False]))])
def test_forked_children_and_parent_use_one_client_at_once(options, name, used):
    entry_point = ENTRY_POINTS[name]
    embedder = entry_point.make(DASHSCOPE, **options)
    if used:
        assert serve_right(entry_point, embedder, "before", 80)

    def job(label):
        return lambda: all(serve_right(entry_point, embedder, f"child {label} {turn}") for turn in range(3))

    with forked(*map(job, range(4))) as answers:
        in_parent = [serve_right(entry_point, embedder, f"parent {turn}") for turn in range(3)]
        assert answers() == ["True"] * 4
    assert in_parent == [True] * 3


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_event_loop_of_the_parent_is_an_error_in_the_child(slow):
    """The two would share the loop's wake-up calls."""
    client = EmbeddingClient(DASHSCOPE, **options_for(slow))
    loop = asyncio.new_event_loop()

    def right(label):
        result = loop.run_until_complete(asyncio.wait_for(client.aembed([f"text {label}"]), 20))
        return are_right(result.to_list(), [f"text {label}"])

    def in_a_loop_of_its_own(label):
        result = asyncio.run(client.aembed([f"text {label}"]))
        return are_right(result.to_list(), [f"text {label}"])

    try:
        assert right("before")
        with forked(lambda: right("child"), lambda: in_a_loop_of_its_own("child")) as said:
            refused, served = said()
        assert refused.startswith("ConfigurationError: This event loop was in use before this process was forked")
        assert served == "True"
        assert right("after")
        loop.run_until_complete(client.aclose())
    finally:
        loop.close()


def test_stream_begun_before_a_fork_is_an_error_in_the_child(options):
    stream = EmbeddingClient(DASHSCOPE, **options).stream(texts_of(20_000))
    next(stream)
    with forked(lambda: len(next(stream).vectors)) as said:
        assert "ConfigurationError: The call or stream was begun before this process was forked" in said()[0]
    stream.close()


def test_fork_during_calls_of_other_threads_leaves_no_lock(slow, entry_point):
    embedder = entry_point.make(DASHSCOPE, max_concurrency=4, **options_for(slow))
    assert serve_right(entry_point, embedder, "before")
    enough = threading.Event()

    def keep_sending(label):
        turns = []
        while not enough.is_set() or not turns:
            turns.append(serve_right(entry_point, embedder, f"{label} {len(turns)}"))
        return all(turns)

    def fork():
        try:
            with forked(*(lambda n=n: serve_right(entry_point, embedder, f"child {n}") for n in range(3))) as answers:
                return answers()
        finally:
            enough.set()

    assert in_threads(lambda: keep_sending("a"), lambda: keep_sending("b"), fork) == [True, True, ["True"] * 3]


FORK_AT_FIRST_CALL = """
import faulthandler, os, sys, threading
from multiembed import EmbeddingClient

client = EmbeddingClient("dashscope:text-embedding-v4", base_url=sys.argv[1], api_key="sk-simulator")
thread = threading.Thread(target=client.embed, args=[["parent"]])
thread.start()
pid = os.fork()
if not pid:
    faulthandler.dump_traceback_later(10, exit=True)  # a child that hangs says where, and ends
    client.embed(["child"])
    os._exit(0)
thread.join()
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_fork_during_the_first_call_leaves_no_import_half_done(simulator):
    done = run_python(FORK_AT_FIRST_CALL, simulator.base_url("dashscope"), warnings="ignore")
    assert done.stderr == ""
    assert done.returncode == 0
    assert sorted(request.body["input"]["texts"] for request in simulator.requests) == [["child"], ["parent"]]


IMPORTS_OF_A_CALL = """
import asyncio, sys
from multiembed import EmbeddingClient

client = EmbeddingClient(sys.argv[1], base_url=sys.argv[2] or None, api_key="sk-simulator")
texts, before = ["one", "two \\ud83d", "三 🦊"], set(sys.modules)
client.embed(texts)
asyncio.run(client.aembed(texts, "query"))
print(sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("model", [DASHSCOPE, "siliconflow:Qwen/Qwen3-Embedding-0.6B", "local:char-ngrams"])
def test_call_imports_no_module(simulator, model):
    """A fork while another thread imports a module, or a codec, leaves the child waiting for that module for good."""
    provider = provider_of(model)
    done = run_python(IMPORTS_OF_A_CALL, model, "" if provider == "local" else simulator.base_url(provider))
    assert (done.stdout, done.stderr) == ("[]\n", "")


class AtHome(httpx.BaseTransport):
    """Connections that only the process which opened them may use: another one would read that one's answers."""

    def __init__(self):
        self._inner = httpx.HTTPTransport()
        self._home = os.getpid()

    def handle_request(self, request):
        assert os.getpid() == self._home, "the parent's connections are used"
        return self._inner.handle_request(request)

    def close(self):
        self._inner.close()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("changed", [False, True])
def test_forked_child_does_not_use_connections_of_http_client(options, name, changed):
    """It has connections of its own, or an error; never another text's vector."""
    entry_point = SYNC_ENTRY_POINTS[name]
    with httpx.Client(transport=AtHome()) as mine:
        embedder = entry_point.make(DASHSCOPE, http_client=mine, **options)
        assert serve_right(entry_point, embedder, "before")

        def work():
            try:
                after = copy.copy(embedder) if changed else embedder
                if changed and name != "client":
                    after.timeout = 30.0
                return serve_right(entry_point, after, "child", 1)
            except MultiEmbedError:
                return "refused"

        with forked(work) as answers:
            assert answers()[0] in ("True", "refused")
        assert serve_right(entry_point, embedder, "parent")


def test_forked_child_counts_its_own_usage(options):
    client = EmbeddingClient(DASHSCOPE, **options)
    client.embed(texts_of(20))

    def work():
        before = client.usage.requests
        client.embed(texts_of(30))
        return before, client.usage.requests

    with forked(work) as answers:
        assert answers() == ["(0, 3)"]
    assert client.usage.requests == 2
