"""An embedder's life: threads, event loops, processes, copies, interruptions and its end, through every door."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from support.adapters import (
    ASYNC_DOORS,
    DASHSCOPE,
    DIMENSIONS,
    DOORS,
    MODELS,
    REMOTE_MODELS,
    SYNC_DOORS,
    are_right,
    call,
    clean_environment,
    client_of,
    embed_here,
    options_for,
    run_python,
    texts_of,
)

from multiembed import ConfigurationError, EmbeddingClient, MultiEmbedError, PartialFailureError
from multiembed.execution.chunk import Chunk
from multiembed.execution.runtime import account_id
from multiembed.providers.local import embed
from multiembed.ratelimit.limiter import limiter_for
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.simulator import Simulator

NAMES = sorted(SYNC_DOORS)
LATENCY = 0.03

pytestmark = [
    # Newer Pythons warn of a fork while there are threads, which is what is tried here.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
interrupts = pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one process there")


@pytest.fixture(params=DOORS.values(), ids=DOORS.keys())
def door(request):
    return request.param


@pytest.fixture(params=ASYNC_DOORS.values(), ids=ASYNC_DOORS.keys())
def async_door(request):
    return request.param


@pytest.fixture
def options(simulator):
    return options_for(simulator)


@pytest.fixture(scope="module")
def running_slow_simulator():
    with Simulator(latency=LATENCY) as running:
        yield running


@pytest.fixture
def slow(running_slow_simulator, come_to_rest):
    """A simulator whose requests overlap."""
    come_to_rest(running_slow_simulator)
    running_slow_simulator.clear()
    return running_slow_simulator


def in_threads(*jobs):
    """What the jobs answer, each in a thread of its own, started together."""
    together = threading.Barrier(len(jobs))

    def start(job):
        together.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(start, jobs))


def serve_right(door, embedder, label, count=25):
    """Whether a call gives each of the label's texts its own vector."""
    texts = texts_of(count, label)
    return are_right(call(door.embed, embedder, texts), texts)


async def aserve_right(door, embedder, label, count=25):
    texts = texts_of(count, label)
    return are_right(await door.embed(embedder, texts), texts)


async def all_right(door, embedder, label, calls):
    return all(await asyncio.gather(*(aserve_right(door, embedder, f"{label} {number}") for number in range(calls))))


# -- threads and loops


def test_one_instance_serves_eight_threads_at_once(options, door):
    embedder = door.make(DASHSCOPE, **options)
    jobs = [lambda label=label: [serve_right(door, embedder, f"{label} {n}") for n in range(3)] for label in range(8)]
    assert in_threads(*jobs) == [[True] * 3] * 8


def test_one_instance_serves_three_event_loops_in_a_row_with_twenty_calls_each(options, async_door):
    embedder = async_door.make(DASHSCOPE, max_concurrency=20, **options)
    assert [asyncio.run(all_right(async_door, embedder, run, 20)) for run in range(3)] == [True] * 3


@pytest.mark.parametrize("name", NAMES)
async def test_sync_and_async_calls_mix_in_a_running_loop(options, name):
    embedder = SYNC_DOORS[name].make(DASHSCOPE, **options)
    for turn in range(3):
        assert serve_right(SYNC_DOORS[name], embedder, f"sync {turn}")
        assert await all_right(ASYNC_DOORS[name], embedder, f"async {turn}", 4)
        assert await asyncio.to_thread(serve_right, SYNC_DOORS[name], embedder, f"thread {turn}")


@pytest.mark.parametrize("name", NAMES)
def test_one_instance_serves_two_loops_in_two_threads_and_two_more_threads_at_once(options, name):
    embedder = SYNC_DOORS[name].make(DASHSCOPE, **options)

    def loop(label):
        return lambda: [asyncio.run(all_right(ASYNC_DOORS[name], embedder, f"{label} {n}", 5)) for n in range(2)]

    def thread(label):
        return lambda: [serve_right(SYNC_DOORS[name], embedder, f"{label} {n}") for n in range(4)]

    assert in_threads(loop("a"), loop("b"), thread("c"), thread("d")) == [[True] * 2] * 2 + [[True] * 4] * 2


# -- copies and processes


COPIES = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda embedder: pickle.loads(pickle.dumps(embedder)),
    "pickle of a deepcopy": lambda embedder: pickle.loads(pickle.dumps(copy.deepcopy(embedder))),
}


@pytest.mark.parametrize("make_copy", COPIES.values(), ids=COPIES.keys())
@pytest.mark.parametrize("used", [False, True])
def test_a_copy_serves_threads_and_leaves_the_original_alive(options, door, make_copy, used):
    embedder = door.make(DASHSCOPE, key_in_pickle=True, **options)
    if used:
        assert serve_right(door, embedder, "before")
    copied = make_copy(embedder)
    jobs = [lambda label=label: serve_right(door, copied, label) for label in range(4)]
    assert in_threads(*jobs, lambda: serve_right(door, embedder, "original")) == [True] * 5


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
    signal.alarm(30)  # a child that hangs is ended, and its pipe with it
    try:
        said = str(job())
    except BaseException as error:  # noqa: BLE001 - the parent is told
        said = f"{type(error).__name__}: {error}"
    os.write(writing, said.encode())
    os._exit(0)


@forks
@pytest.mark.parametrize("used", [False, True])
def test_forked_children_and_their_parent_use_one_instance_at_the_same_time(options, door, used):
    embedder = door.make(DASHSCOPE, **options)
    if used:
        assert serve_right(door, embedder, "before", 80)

    def job(label):
        return lambda: all(serve_right(door, embedder, f"child {label} {turn}") for turn in range(6))

    with forked(*map(job, range(4))) as answers:
        in_parent = [serve_right(door, embedder, f"parent {turn}") for turn in range(6)]
        assert answers() == ["True"] * 4
    assert in_parent == [True] * 6


@forks
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_forked_child_may_not_go_on_with_its_parents_loop(slow):
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


@forks
def test_a_stream_that_was_begun_before_a_fork_is_a_clear_error_in_the_child(options):
    stream = EmbeddingClient(DASHSCOPE, **options).stream(texts_of(20_000))
    next(stream)
    with forked(lambda: len(next(stream).vectors)) as said:
        assert "ConfigurationError: The call or stream was begun before this process was forked" in said()[0]
    stream.close()


@forks
def test_a_fork_while_other_threads_are_sending_leaves_no_lock_behind(slow, door):
    embedder = door.make(DASHSCOPE, max_concurrency=4, **options_for(slow))
    assert serve_right(door, embedder, "before")
    enough = threading.Event()

    def keep_sending(label):
        turns = []
        while not enough.is_set() or not turns:
            turns.append(serve_right(door, embedder, f"{label} {len(turns)}"))
        return all(turns)

    def fork():
        try:
            with forked(*(lambda n=n: serve_right(door, embedder, f"child {n}") for n in range(3))) as answers:
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


@forks
def test_a_fork_while_another_thread_makes_the_very_first_call_leaves_no_import_half_done(simulator):
    done = run_python(FORK_AT_FIRST_CALL, simulator.base_url("dashscope"), warnings="ignore")
    assert done.stderr == ""
    assert done.returncode == 0
    assert sorted(request.body["input"]["texts"] for request in simulator.requests) == [["child"], ["parent"]]


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


@forks
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("changed", [False, True])
def test_a_forked_child_keeps_off_the_connections_of_the_callers_own_client(options, name, changed):
    """It has connections of its own, or an error; never another text's vector."""
    door = SYNC_DOORS[name]
    with httpx.Client(transport=AtHome()) as mine:
        embedder = door.make(DASHSCOPE, http_client=mine, **options)
        assert serve_right(door, embedder, "before")

        def work():
            try:
                after = copy.copy(embedder) if changed else embedder
                if changed and name != "client":
                    after.timeout = 30.0
                return serve_right(door, after, "child", 1)
            except MultiEmbedError:
                return "refused"

        with forked(work) as answers:
            assert answers()[0] in ("True", "refused")
        assert serve_right(door, embedder, "parent")


@forks
def test_a_forked_child_counts_its_own_usage(options):
    client = EmbeddingClient(DASHSCOPE, **options)
    client.embed(texts_of(20))

    def work():
        before = client.usage.requests
        client.embed(texts_of(30))
        return before, client.usage.requests

    with forked(work) as answers:
        assert answers() == ["(0, 3)"]
    assert client.usage.requests == 2


def test_spawned_workers_use_the_key_of_their_environment(monkeypatch, simulator, options):
    monkeypatch.setenv("DASHSCOPE_API_KEY", simulator.api_key)
    embedders = [(door, door.make(DASHSCOPE, **options)) for door in DOORS.values()]
    tasks = [(door, embedder, texts_of(25, name)) for (door, embedder), name in zip(embedders, DOORS, strict=True)]
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        answers = pool.starmap(embed_here, tasks, chunksize=1)
        pool.close()
        pool.join()
    assert all(are_right(vectors, texts) for (_, vectors), (_, _, texts) in zip(answers, tasks, strict=True))
    assert os.getpid() not in {pid for pid, _ in answers}


# -- one limit for one account


@pytest.mark.parametrize("name", NAMES)
def test_max_concurrency_is_held_over_threads_loops_and_two_embedders_of_one_account(slow, name):
    one, two = (SYNC_DOORS[name].make(DASHSCOPE, max_concurrency=3, **options_for(slow)) for _ in range(2))
    jobs = [
        lambda: serve_right(SYNC_DOORS[name], one, "a", 60),
        lambda: serve_right(SYNC_DOORS[name], two, "b", 60),
        lambda: asyncio.run(all_right(ASYNC_DOORS[name], one, "c", 3)),
        lambda: asyncio.run(all_right(ASYNC_DOORS[name], two, "d", 3)),
    ]
    assert in_threads(*jobs) == [True] * 4
    assert slow.peak_in_flight == 3


def test_max_concurrency_is_held_over_an_embedder_and_its_copies(slow):
    client = EmbeddingClient(DASHSCOPE, max_concurrency=2, key_in_pickle=True, **options_for(slow))
    clients = [client, copy.copy(client), copy.deepcopy(client), pickle.loads(pickle.dumps(client))]
    jobs = [lambda one=one, n=n: serve_right(SYNC_DOORS["client"], one, n, 40) for n, one in enumerate(clients)]
    assert in_threads(*jobs) == [True] * 4
    assert slow.peak_in_flight == 2


def test_a_call_with_enough_batches_uses_all_the_concurrency_it_may_once_the_account_has_answered(gathering, door):
    """The server answers once four requests are there together."""
    url = f"http://127.0.0.1:{gathering.server_port}/api/v1"
    embedder = door.make(DASHSCOPE, base_url=url, api_key="sk-any", max_concurrency=4)
    limiter_for(account_id(client_of(embedder).target)).permit(AccountLimits()).report_success()
    assert serve_right(door, embedder, "a", 40)
    assert not gathering.four.broken


class Held:
    """A transport that answers rightly, but only once it is let go."""

    def __init__(self):
        self.arrived = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, request):
        self.arrived.set()
        assert self.let_go.wait(30)
        return _dashscope_answer(json.loads(request.content))

    def client(self):
        return httpx.Client(transport=httpx.MockTransport(self))


@pytest.mark.parametrize(("same_key", "passes"), [(False, True), (True, False)])
def test_only_embedders_of_one_key_wait_for_each_other(options, same_key, passes):
    held = Held()
    key = options["api_key"] if same_key else "sk-another"
    first = EmbeddingClient(DASHSCOPE, max_concurrency=1, http_client=held.client(), **{**options, "api_key": key})
    second = EmbeddingClient(DASHSCOPE, max_concurrency=1, **options)
    with ThreadPoolExecutor(2) as pool:
        try:
            in_flight = pool.submit(first.embed, ["a"])
            assert held.arrived.wait(30)
            behind = pool.submit(second.embed, ["b"])
            if passes:
                assert are_right(behind.result(timeout=30).to_list(), ["b"])
            assert in_flight.running()
            assert behind.done() == passes
        finally:
            held.let_go.set()
        assert are_right(in_flight.result().to_list(), ["a"])
        assert are_right(behind.result().to_list(), ["b"])


# -- cancelling and interrupting


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


async def test_a_cancelled_call_leaves_no_task_behind_and_its_places_free(options, async_door):
    held = HeldAsync()
    async with httpx.AsyncClient(transport=httpx.MockTransport(held)) as mine:
        stuck = async_door.make(DASHSCOPE, max_concurrency=4, http_async_client=mine, **options)
        call_in_flight = asyncio.create_task(async_door.embed(stuck, texts_of(100)))
        await held.arrived.wait()
        call_in_flight.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call_in_flight
    assert 1 <= held.came <= 4
    assert held.cancelled == held.came
    assert asyncio.all_tasks() == {asyncio.current_task()}
    async with asyncio.timeout(30):
        assert await aserve_right(async_door, async_door.make(DASHSCOPE, max_concurrency=1, **options), "after")


async def test_a_call_cancelled_over_real_sockets_leaves_an_instance_that_works(slow, async_door):
    embedder = async_door.make(DASHSCOPE, max_concurrency=4, **options_for(slow))
    for _ in range(3):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(LATENCY / 2):
                await async_door.embed(embedder, texts_of(200))
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert await all_right(async_door, embedder, "after", 4)


async def test_a_call_cancelled_while_it_waits_for_its_turn_lets_the_next_one_pass(options):
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


class _Api(BaseHTTPRequestHandler):
    """DashScope's API with a thread for each connection; what `before` returns is said instead of the right answer."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        status, payload, headers = self.before(self.server) or (200, _dashscope_answer(body).json(), {})
        content = json.dumps(payload).encode()
        with suppress(ConnectionError):
            self.send_response(status)
            for name, value in {"content-length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        self.after(self.server)

    def log_message(self, *_):
        pass

    def after(self, server):
        pass


class _Holding(_Api):
    """Silent, or asking to wait, until it is let go."""

    def before(self, server):
        if server.asks_to_wait and not server.let_go.is_set():
            return 429, {"code": "Throttling.RateQuota", "message": "slow down"}, {"retry-after": "60"}
        server.arrived.set()
        server.let_go.wait(60)
        return None

    def after(self, server):
        server.arrived.set()


class _Gathering(_Api):
    """Answers four requests together; gives up after a while when fewer are there."""

    def before(self, server):
        with suppress(threading.BrokenBarrierError):
            server.four.wait(20)


@contextmanager
def serving(handler):
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def holding():
    """A server that holds every request until it is let go."""
    with serving(_Holding) as server:
        server.arrived, server.let_go, server.asks_to_wait = threading.Event(), threading.Event(), False
        yield server
        server.let_go.set()


@pytest.fixture
def gathering():
    with serving(_Gathering) as server:
        server.four = threading.Barrier(4)
        yield server


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
def test_ctrl_c_ends_a_call_at_once_and_frees_its_places(holding, kind, count, asks_to_wait):
    """The server holds back its answer for a minute, so a program that speaks earlier was not waiting for it."""
    holding.asks_to_wait = asks_to_wait
    url = f"http://127.0.0.1:{holding.server_port}/api/v1"
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", INTERRUPTED, url, kind, str(count)],
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        ending = threading.Timer(20, program.kill)
        ending.start()
        try:
            assert holding.arrived.wait(20)
            program.send_signal(signal.SIGINT)
            assert program.stdout.readline() == "interrupted\n"
            holding.let_go.set()
            said, complaints = program.communicate("go on\n")
        finally:
            ending.cancel()
            program.kill()
    assert said == "(1, 1024)\n"
    assert complaints == ""
    assert program.returncode == 0


@pytest.mark.parametrize("door", ["aembed", "astream"])
def test_a_loop_that_is_closed_in_the_middle_of_a_call_leaves_places_free_and_nothing_to_complain_of(slow, door):
    """The collector ends the tasks; what goes wrong then is a warning, and so an error here."""
    client = EmbeddingClient(DASHSCOPE, max_concurrency=4, **options_for(slow))

    async def embed_all():
        if door == "aembed":
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
    assert limiter_for(account_id(client.target)).in_flight == 0


# -- what it keeps


@pytest.mark.parametrize("count", [1, 45], ids=["one batch", "many batches"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_call_that_is_over_keeps_nothing_of_its_texts_and_vectors(options, monkeypatch, kind, count):
    blocks, make = [], Chunk.__init__

    def noted(block, *args, **how):
        make(block, *args, **how)
        blocks.append(weakref.ref(block))

    monkeypatch.setattr(Chunk, "__init__", noted)
    client = EmbeddingClient(DASHSCOPE, **options)
    gc.collect()
    gc.disable()  # and this without the collector
    try:
        client.embed(texts_of(count)) if kind == "sync" else asyncio.run(client.aembed(texts_of(count)))
        assert [block() for block in blocks] == [None]
    finally:
        gc.enable()


# -- the end


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
}
CLOSES = {
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


def ends_clean(simulator, name, code):
    done = run_python(START + code, simulator.base_url("dashscope"), name, within=40.0)
    assert done.stderr == ""
    assert done.returncode == 0
    assert done.stdout.count("served") == -(-len(simulator.requests) // 5)


@pytest.mark.parametrize("code", ENDS.values(), ids=ENDS.keys())
def test_a_program_ends_without_a_warning_of_what_was_left_open(simulator, code):
    ends_clean(simulator, "client", code)


@pytest.mark.parametrize("name", ["langchain", "llamaindex"])
@pytest.mark.parametrize("way", ["sync and async in one loop", "dropped as the loop ends"])
def test_a_program_with_an_adapter_ends_without_a_warning_of_what_was_left_open(simulator, name, way):
    ends_clean(simulator, name, ENDS[way])


@pytest.mark.parametrize("code", CLOSES.values(), ids=CLOSES.keys())
def test_a_program_that_closes_its_client_ends_without_a_warning(simulator, code):
    ends_clean(simulator, "client", code)


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
def test_a_call_works_while_the_interpreter_exits(simulator, code):
    ends_clean(simulator, "client", code)
    assert simulator.requests


@forks
@pytest.mark.parametrize("used", ["", "embed(e)"])
def test_a_forked_child_may_end_as_any_program_does(simulator, used):
    code = f"""
e = new()
{used or "pass"}
sys.stdout.flush()
pid = os.fork()
if pid:
    assert os.waitpid(pid, 0)[1] == 0
embed(e)
"""
    done = run_python(START + code, simulator.base_url("dashscope"), "client", within=40.0)
    assert done.stderr == ""
    assert done.stdout.count("served") == (3 if used else 2)


def test_a_program_may_end_while_calls_are_in_flight(holding):
    code = """
e = new()
for _ in range(2):
    threading.Thread(target=embed, args=[e], daemon=True).start()
sys.stdin.readline()
"""
    url = f"http://127.0.0.1:{holding.server_port}/api/v1"
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", START + code, url, "client"],
        env=clean_environment(),
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            assert holding.arrived.wait(30)
            _, complaints = program.communicate("end\n", timeout=30)  # the server would hold it for a minute
        finally:
            program.kill()
    assert complaints == ""
    assert program.returncode == 0


@pytest.mark.parametrize("name", NAMES)
async def test_an_instance_serves_after_it_was_closed(options, name):
    embedder = SYNC_DOORS[name].make(DASHSCOPE, **options)
    client = client_of(embedder)
    for turn in range(2):
        assert serve_right(SYNC_DOORS[name], embedder, f"sync {turn}")
        assert await aserve_right(ASYNC_DOORS[name], embedder, f"async {turn}")
        client.close()
        assert serve_right(SYNC_DOORS[name], embedder, f"sync again {turn}")
        await client.aclose()
    assert await aserve_right(ASYNC_DOORS[name], embedder, "async at last")


# -- what it counts


def test_usage_adds_up_over_calls_and_threads(simulator, options, door):
    embedder = door.make("dashscope:text-embedding-v4", **options)
    jobs = [lambda n=n: [serve_right(door, embedder, f"{n} {turn}", 30) for turn in range(2)] for n in range(8)]
    assert in_threads(*jobs) == [[True] * 2] * 8
    usage = client_of(embedder).usage
    assert usage.requests == len(simulator.requests) == 8 * 2 * 3
    assert usage.retries == 0
    reference = EmbeddingClient(DASHSCOPE, **options)
    for number in range(8):
        for turn in range(2):
            reference.embed(texts_of(30, f"{number} {turn}"))
    assert usage.total_tokens == reference.usage.total_tokens > 0
    assert usage.cost == pytest.approx(usage.total_tokens * 0.5 / 1e6)


def test_a_calls_own_usage_is_that_calls_alone(options):
    client = EmbeddingClient(DASHSCOPE, **options)
    usages = in_threads(*(lambda n=n: client.embed(texts_of(10 * n, f"{n}")).usage for n in range(1, 5)))
    assert [usage.requests for usage in usages] == [1, 2, 3, 4]
    assert client.usage.requests == 10
    assert client.usage.total_tokens == sum(usage.total_tokens for usage in usages)


@pytest.fixture
def restless():
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("restless")
def test_threads_that_wake_an_unpickled_embedder_together_share_one_client(options, name):
    original = SYNC_DOORS[name].make(DASHSCOPE, key_in_pickle=True, **options)
    for _ in range(10):
        embedder = pickle.loads(pickle.dumps(original))
        assert in_threads(*[partial(serve_right, SYNC_DOORS[name], embedder, "a", 1)] * 8) == [True] * 8
        assert client_of(embedder).usage.requests == 8


@pytest.mark.parametrize("name", ["langchain", "llamaindex"])
def test_an_assigned_option_does_not_forget_the_usage_so_far(options, name):
    embedder = SYNC_DOORS[name].make(DASHSCOPE, **options)
    assert serve_right(SYNC_DOORS[name], embedder, "a", 30)
    embedder.timeout = 30.0
    assert embedder.client.usage.requests == 3


@pytest.mark.parametrize("model", MODELS)
def test_an_estimate_sends_nothing_and_foretells_the_requests(simulator, model):
    client = EmbeddingClient(model, **options_for(simulator, model))
    texts = [*texts_of(150), *texts_of(30), *(f"{n} " + "long passage " * 20 for n in range(60))]
    estimate = client.estimate(texts)
    assert simulator.requests == []
    assert client.usage.requests == 0
    assert are_right(client.embed(texts).to_list(), texts, DIMENSIONS[model])
    assert estimate.texts == 240
    assert estimate.requests == len(simulator.requests) == client.usage.requests
    assert (estimate.requests > 0) == (model in REMOTE_MODELS)


def test_an_embedder_that_is_dropped_is_collected(options, door):
    embedder = door.make(DASHSCOPE, **options)
    assert serve_right(door, embedder, "a")
    seen = []
    client = client_of(embedder)
    finalizer = weakref.finalize(client, seen.append, "gone")
    del embedder, client
    gc.collect()
    assert seen == ["gone"]
    assert not finalizer.alive


def _dashscope_answer(body):
    texts = body["input"]["texts"]
    vectors = [{"text_index": index, "embedding": vector} for index, vector in enumerate(embed(texts, 1024).tolist())]
    return httpx.Response(200, json={"output": {"embeddings": vectors}, "usage": {"total_tokens": len(texts)}})


# -- a loop that cannot go on


@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("name", NAMES)
async def test_a_sync_call_does_not_wait_for_the_loop_that_it_blocks(slow, name, trusted):
    embedder = SYNC_DOORS[name].make(DASHSCOPE, max_concurrency=4, **options_for(slow))
    if trusted:
        assert serve_right(SYNC_DOORS[name], embedder, "before")
    inside = asyncio.create_task(aserve_right(ASYNC_DOORS[name], embedder, "inside", 100))
    await asyncio.sleep(LATENCY / 2)
    assert serve_right(SYNC_DOORS[name], embedder, "sync", 30)
    assert await inside


def test_places_of_a_loop_that_is_left_idle_are_not_waited_for(slow):
    client = EmbeddingClient(DASHSCOPE, max_concurrency=2, **options_for(slow))
    assert serve_right(SYNC_DOORS["client"], client, "before")
    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(client.aembed(texts_of(20, f"task {n}"))) for n in range(4)]
    loop.run_until_complete(asyncio.sleep(LATENCY / 2))
    assert limiter_for(account_id(client.target)).in_flight == 2
    assert serve_right(SYNC_DOORS["client"], client, "sync", 30)
    loop.run_until_complete(asyncio.gather(*tasks))
    loop.run_until_complete(client.aclose())
    loop.close()
    assert serve_right(SYNC_DOORS["client"], client, "after", 30)


def test_an_error_of_the_key_function_keeps_what_was_paid_and_tells_its_name_only(simulator, options, door):
    asked = []

    def key():
        asked.append(1)
        if len(asked) > 8:
            raise OSError("the vault said sk-secret")
        return simulator.api_key

    embedder = door.make(DASHSCOPE, max_concurrency=1, **{**options, "api_key": key})
    with pytest.raises(PartialFailureError) as raised:
        call(door.embed, embedder, texts_of(200))
    assert {type(error) for error in raised.value.failures.values()} == {ConfigurationError}
    assert "OSError" in str(raised.value)
    assert "sk-secret" not in str(raised.value)
    kept = [index for index in range(200) if index not in raised.value.failures]
    assert kept
    assert are_right(raised.value.result.vectors[kept], [texts_of(200)[index] for index in kept])
