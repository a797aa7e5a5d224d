"""The I/O thread: how it starts, what runs on it, what never does, and what it survives."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import importlib.util
import logging
import os
import signal
import sys
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from support.adapters import DASHSCOPE, EVERY_DOOR, SYNC_DOORS, are_right, call, options_for, run_python, texts_of

from multiembed import ConfigurationError, EmbeddingClient
from multiembed.execution.io_thread import Wakeup, caller_loop, in_thread, io_thread, run_in
from multiembed.simulator import Simulator

posix = pytest.mark.skipif(sys.platform == "win32", reason="it needs fork or signals of POSIX")


@pytest.fixture
def io():
    return io_thread()


@pytest.fixture
def no_threads(monkeypatch):
    """No thread of the library can be started."""
    start = threading.Thread.start

    def refuse(thread):
        if thread.name.startswith("multiembed"):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)


def until(condition):
    """Wait for what the I/O thread does."""
    end = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def on_io_thread(io, function):
    """What a function returns that is called on the I/O thread."""

    async def run():
        return function()

    return io.run(run)


# ── Wakeup ───────────────────────────────────────────────────────────────────────────────────────


def test_wakeup_set_twice_ends_one_wait():
    woken = Wakeup()
    woken.set()
    woken.set()
    woken.wait(60.0)
    woken.wait(0.001)  # it is not set: the time passes
    woken.set()
    woken.wait(60.0)


# ── IoThread ─────────────────────────────────────────────────────────────────────────────────────


def test_run_returns_result_and_raises_error(io):
    async def give():
        return 7

    async def fail():
        raise ZeroDivisionError

    assert io.run(give) == 7
    with pytest.raises(ZeroDivisionError):
        io.run(fail)


def test_run_on_the_io_thread_is_refused(io):
    async def give():
        return 7

    with pytest.raises(ConfigurationError, match="would wait for itself"):
        on_io_thread(io, lambda: io.run(give))
    assert io.run(give) == 7


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_callback_that_raises_to_exit_leaves_the_loop_running(io, error):
    def leave():
        raise error

    async def give():
        await asyncio.sleep(0.001)
        return 7

    io.post(leave)
    assert io.run(give) == 7


@posix
def test_run_calls_on_interrupt_when_a_signal_handler_raises(io):
    class AlarmError(Exception):
        pass

    def raise_alarm(*_):
        raise AlarmError

    before, stopped, ended = signal.signal(signal.SIGALRM, raise_alarm), threading.Event(), asyncio.Event()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(AlarmError):
            io.run(ended.wait, on_interrupt=stopped.set)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert stopped.is_set()
    io.post(ended.set)


def test_run_keeps_no_reference_to_an_error(io):
    class FailureError(Exception):
        pass

    async def fail():
        raise FailureError

    gc.collect()
    gc.disable()
    try:
        with suppress(FailureError):
            io.run(fail)
        io.run(nothing)  # the loop has let go of the task
        assert not [each for each in gc.get_objects() if isinstance(each, FailureError)]
    finally:
        gc.enable()


async def nothing():
    pass


# ── run_in and in_thread ─────────────────────────────────────────────────────────────────────────


async def test_run_in_returns_result_and_raises_error(io):
    async def identify():
        return threading.get_ident()

    async def fail():
        raise ZeroDivisionError

    assert await run_in(io.loop, identify) != threading.get_ident()
    assert await run_in(asyncio.get_running_loop(), identify) == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await run_in(io.loop, fail)


@pytest.mark.parametrize("steps", range(4))
async def test_run_in_passes_a_cancellation_on_and_waits(io, steps):
    log = []

    async def hold():
        log.append("started")
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            log.append("ended")

    task = asyncio.create_task(run_in(io.loop, hold))
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log in ([], ["started", "ended"])


async def test_run_in_a_closed_loop_is_an_error():
    loop = asyncio.new_event_loop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        await run_in(loop, nothing)


async def test_in_thread_gives_result_error_and_context():
    variable = contextvars.ContextVar("variable")
    variable.set("caller's")
    assert await in_thread(variable.get) == "caller's"
    assert await in_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 / 0)
    with pytest.raises(RuntimeError, match="StopIteration"):
        await in_thread(next, iter(()))


@pytest.mark.usefixtures("no_threads")
async def test_in_thread_without_threads_calls_here():
    assert await in_thread(threading.get_ident) == threading.get_ident()


def test_in_thread_keeps_no_reference_to_an_error(io):
    class Text(str):
        __slots__ = ("__weakref__",)

    def fail(text):
        raise ZeroDivisionError(len(text))

    async def run():
        text = Text("a")
        with suppress(ZeroDivisionError):
            await in_thread(fail, text)
        return weakref.ref(text)

    gc.collect()
    gc.disable()
    try:
        found = io.run(run)
        until(lambda: found() is None)
    finally:
        gc.enable()


def test_caller_loop_outside_of_asyncio_is_a_clear_error():
    with pytest.raises(ConfigurationError, match="Under trio, call the sync"):
        caller_loop()


# ── what runs on the I/O thread ──────────────────────────────────────────────────────────────────


class Threads:
    """The threads in which users' code was called."""

    def __init__(self):
        self.of = {}

    def noting(self, name, function):
        def noted(*arguments):
            self.of.setdefault(name, set()).add(threading.get_ident())
            return function(*arguments)

        return noted


class Store(dict):
    """A cache of the user's."""

    def mget(self, keys):
        return [self.get(key) for key in keys]

    def mset(self, pairs):
        self.update(pairs)


@pytest.mark.parametrize("door", EVERY_DOOR.values(), ids=EVERY_DOOR.keys())
def test_users_code_never_runs_on_the_io_thread(simulator, door, io):
    threads, store = Threads(), Store()
    store.mget, store.mset = threads.noting("mget", store.mget), threads.noting("mset", store.mset)
    embedder = door.make(
        DASHSCOPE,
        **{
            **options_for(simulator),
            "api_key": threads.noting("api_key", lambda: simulator.api_key),
            "token_counter": threads.noting("token_counter", len),
            "on_usage": threads.noting("on_usage", lambda _: None),
            "cache": store,
        },
    )
    texts = texts_of(45, "users' code")
    assert are_right(call(door.embed, embedder, texts), texts)
    assert set(threads.of) == {"mget", "mset", "api_key", "token_counter", "on_usage"}
    assert on_io_thread(io, threading.get_ident) not in set.union(*threads.of.values())


@pytest.mark.parametrize("name", sorted(SYNC_DOORS))
def test_users_http_client_never_runs_on_the_io_thread(simulator, name, io):
    threads, door = Threads(), SYNC_DOORS[name]
    with httpx.HTTPTransport() as transport:
        transport.handle_request = threads.noting("http", transport.handle_request)
        embedder = door.make(DASHSCOPE, http_client=httpx.Client(transport=transport), **options_for(simulator))
        assert are_right(door.embed(embedder, ["a"]), ["a"])
    assert on_io_thread(io, threading.get_ident) not in threads.of["http"]


CALLS = {
    "embed": lambda client: client.embed(["a"]),
    "stream": lambda client: next(client.stream(["a"])),
    "estimate": lambda client: client.estimate(["a"]),
}


@pytest.mark.parametrize("make_call", CALLS.values(), ids=CALLS.keys())
def test_call_by_a_logging_handler_is_refused_not_stuck(connect, caplog, make_call):
    client, errors = connect(DASHSCOPE), []

    class Embedding(logging.Handler):
        def emit(self, record):
            if "attempt" in record.getMessage():
                with pytest.raises(ConfigurationError) as raised:
                    make_call(client)
                errors.append(str(raised.value))

    handler = Embedding()
    logging.getLogger("multiembed").addHandler(handler)
    try:
        with caplog.at_level(logging.DEBUG, "multiembed"):
            assert are_right(client.embed(["b"]).to_list(), ["b"])
    finally:
        logging.getLogger("multiembed").removeHandler(handler)
    assert len(errors) == 1
    assert "on the I/O thread" in errors[0]


def test_client_can_be_closed_on_the_io_thread(connect, io):
    client = connect(DASHSCOPE)
    client.embed(["a"])
    on_io_thread(io, client.close)
    assert are_right(client.embed(["b"]).to_list(), ["b"])


def test_half_read_stream_collected_on_the_io_thread_reports(connect, io):
    used = []
    client = connect(DASHSCOPE, on_usage=lambda usage: used.append((threading.get_ident(), usage.requests)))

    def leave_half_read():
        stream = client.stream(texts_of(5_000))
        next(stream)
        cycle = [stream]
        cycle.append(cycle)

    leave_half_read()
    on_io_thread(io, gc.collect)
    until(lambda: client.pending == 0 and sum(requests for _, requests in used) == client.usage.requests)
    assert on_io_thread(io, threading.get_ident) not in {ident for ident, _ in used}


def test_log_records_see_the_context_of_their_caller(simulator, caplog):
    variable, seen = contextvars.ContextVar("variable", default=None), []
    client = EmbeddingClient(DASHSCOPE, **options_for(simulator))

    class Noting(logging.Handler):
        def emit(self, record):
            if "attempt" in record.getMessage():
                seen.append(variable.get())

    def embed(name):
        variable.set(name)
        client.embed(texts_of(25, name))
        list(client.stream(texts_of(25, f"{name} stream")))

    async def embed_all():
        async def aembed(name):
            variable.set(name)
            await client.aembed(texts_of(25, name))

        await asyncio.gather(*(asyncio.create_task(aembed(f"task {n}")) for n in range(4)))

    handler = Noting()
    logging.getLogger("multiembed").addHandler(handler)
    try:
        with caplog.at_level(logging.DEBUG, "multiembed"):
            threads = [threading.Thread(target=embed, args=[f"thread {n}"]) for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            asyncio.run(embed_all())
    finally:
        logging.getLogger("multiembed").removeHandler(handler)
    client.close()
    each = {name: seen.count(name) for name in set(seen)}
    assert each == {**{f"thread {n}": 6 for n in range(4)}, **{f"task {n}": 3 for n in range(4)}}


@pytest.mark.parametrize("door", ["embed", "stream"])
def test_failed_call_is_in_no_cycle_of_references(simulator, monkeypatch, door):
    from multiembed.execution.chunk import Chunk

    blocks, make = [], Chunk.__init__

    def noted(block, *args, **how):
        make(block, *args, **how)
        blocks.append(weakref.ref(block))

    monkeypatch.setattr(Chunk, "__init__", noted)
    client = EmbeddingClient(DASHSCOPE, **{**options_for(simulator), "api_key": "sk-wrong"})
    gc.collect()
    gc.disable()
    try:
        with suppress(Exception):
            client.embed(texts_of(45)) if door == "embed" else list(client.stream(texts_of(45)))
        assert len(blocks) == 1
        until(lambda: blocks[0]() is None)
    finally:
        gc.enable()


# ── the caller's loop ends ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("door", ["aembed", "astream"])
def test_loop_closed_in_a_call_sends_nothing_more(door):
    async def read(client):
        async for _ in client.astream(texts_of(5_000)):
            pass

    with Simulator(latency=0.03) as slow:
        client = EmbeddingClient(DASHSCOPE, max_concurrency=4, **options_for(slow))
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # it complains of its tasks, which are left pending on purpose
        task = loop.create_task(read(client) if door == "astream" else client.aembed(texts_of(5_000)))
        loop.run_until_complete(asyncio.sleep(0.1))
        loop.close()
        sent = client.usage.requests
        until(lambda: client.pending == 0)
        assert client.usage.requests <= sent + 8
        assert are_right(client.embed(["after"]).to_list(), ["after"])
        assert not task.done()
        del task
        gc.collect()
        client.close()


@posix
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_async_stream_begun_before_a_fork_fails_in_the_child(simulator):
    client = EmbeddingClient(DASHSCOPE, **options_for(simulator))

    async def run():
        stream = client.astream(texts_of(10_000))
        count = len((await anext(stream)).vectors)
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            try:
                await anext(stream)
            except ConfigurationError:
                os._exit(7)
            finally:
                os._exit(1)
        _, status = await asyncio.to_thread(os.waitpid, pid, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        async for block in stream:
            count += len(block.vectors)
        return count

    assert asyncio.run(run()) == 10_000
    client.close()


# ── programs of their own ────────────────────────────────────────────────────────────────────────

START = """
import asyncio, gc, os, signal, sys, threading, time, warnings
from multiembed import EmbeddingClient, MultiEmbedError
from multiembed.providers.local import embed as vectors_of

def new(**options):
    return EmbeddingClient("dashscope:text-embedding-v4", base_url=sys.argv[1], api_key="sk-simulator", **options)

def is_right(result, texts):
    return (result.vectors == vectors_of(texts, 1024)).all()

def texts_of(label, count=25):
    return [f"{label} {number}" for number in range(count)]

def embed(client, label="a", count=25):
    texts = texts_of(label, count)
    assert is_right(client.embed(texts), texts)
    return True

async def aembed(client, label="a", count=25):
    texts = texts_of(label, count)
    assert is_right(await client.aembed(texts), texts)
    return True

def stream(client, label="a", count=3000):
    assert sum(len(block.vectors) for block in client.stream(texts_of(label, count))) == count

async def astream(client, label="a", count=3000):
    assert sum([len(block.vectors) async for block in client.astream(texts_of(label, count))]) == count

def raises(text, function, kind=MultiEmbedError):
    try:
        function()
    except kind as error:
        assert text in str(error), error
    else:
        raise AssertionError("nothing was raised")

def in_threads(function, count):
    answers, together = [], threading.Barrier(count)
    def run(number):
        together.wait()
        answers.append(function(number))
    threads = [threading.Thread(target=run, args=[number]) for number in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert answers == [True] * count, answers

def in_child(function, fork=os.fork):
    pid = fork()
    if pid == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(20)
        os._exit(0 if function() else 1)
    return pid

def ended_well(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

NO_THREADS = '''
start = threading.Thread.start
def refuse(thread):
    if thread.name.startswith("multiembed"):
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = refuse
'''
"""
PROGRAMS = {
    "first call from 16 threads": """
client = new()
in_threads(lambda number: embed(client, number), 16)
assert [thread.name for thread in threading.enumerate()].count("multiembed-io") == 1
""",
    "asyncio.run in a thread of asyncio.run": """
client = new()
async def main():
    await aembed(client)
    await asyncio.to_thread(lambda: asyncio.run(aembed(client, "inner")))
    embed(client, "sync")
    await astream(client)
asyncio.run(main())
""",
    "cancel scopes of anyio": """
import anyio
client = new()
async def main():
    for seconds in (0, 0.001, 0.02, 0.04):
        with anyio.move_on_after(seconds) as scope:
            await client.aembed(texts_of("cancelled", 400))
        assert scope.cancelled_caught
    with anyio.move_on_after(0.05) as scope:
        await astream(client)
    assert scope.cancelled_caught
    async with anyio.create_task_group() as group:
        group.start_soon(client.aembed, texts_of("in a group", 400))
        await anyio.sleep(0.02)
        group.cancel_scope.cancel()
    assert await anyio.to_thread.run_sync(embed, client)
    while client.pending:
        await anyio.sleep(0.005)
    assert len(asyncio.all_tasks()) == 1
    assert await aembed(client, "after")
anyio.run(main)
""",
    "cancelled at each step": """
client = new(max_concurrency=3)
async def main():
    await aembed(client)
    for make in (lambda: client.aembed(texts_of("cancelled", 100)), lambda: astream(client, "cancelled", 200)):
        for steps in range(0, 200, 3):
            task = asyncio.create_task(make())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
    assert len(asyncio.all_tasks()) == 1
    assert await aembed(client, "after")
    while client.pending:
        await asyncio.sleep(0.005)
asyncio.run(main())
""",
    "no threads": """
exec(NO_THREADS)
client = new()
embed(client)
stream(client)
in_threads(lambda number: embed(client, number), 6)
raises("cannot be started", lambda: asyncio.run(client.aembed(["a"])))
async def inside():
    client.embed(["a"])
raises("cannot be started", lambda: asyncio.run(inside()))
other = new(token_counter=len, on_usage=lambda usage: None)
embed(other)
threading.Thread.start = start
assert asyncio.run(aembed(client, "threads again"))
embed(client, "threads again, sync")
client.close()
""",
    "closed by garbage at the end": """
class Holder:
    def __init__(self):
        self.client = new()
        embed(self.client)
    def __del__(self):
        self.client.close()
holder = Holder()
holder.itself = holder
""",
    "loop leaves a half-read stream": """
client = new()
loop = asyncio.new_event_loop()
stream = client.astream(texts_of("half"))
loop.run_until_complete(anext(stream))
loop.close()
""",
    "context of the first caller": """
import contextvars, weakref
from multiembed.execution.io_thread import io_thread
class Thing: pass
def begin():
    thing = Thing()
    contextvars.ContextVar("thing").set(thing)
    io_thread()
    return weakref.ref(thing)
found = contextvars.copy_context().run(begin)
gc.collect()
assert found() is None
""",
}
POSIX_PROGRAMS = {
    "fork by a C library": """
import ctypes
client = new(max_concurrency=1)
embed(client)
thread = threading.Thread(target=embed, args=[client, "in flight", 200])
thread.start()
while not client.pending: time.sleep(0.001)
assert ended_well(in_child(lambda: embed(client, "child") and embed(new(), "child"), ctypes.CDLL(None).fork))
embed(client, "parent")
thread.join()
""",
    "fork by a signal handler in a call": """
client, children = new(max_concurrency=2), []
def fork(*_):
    pid = os.fork()
    if pid: children.append(pid)
    else: signal.signal(signal.SIGALRM, signal.SIG_DFL), signal.alarm(20)
signal.signal(signal.SIGALRM, fork)
signal.setitimer(signal.ITIMER_REAL, 0.1)
parent = os.getpid()
try:
    embed(client, "long", 400)
except MultiEmbedError as error:
    assert os.getpid() != parent and "before this process was forked" in str(error)
    os._exit(0 if embed(client, "child") else 1)
assert ended_well(children[0])
embed(client, "parent")
""",
    "fork in the source of a stream": """
client, children = new(), []
def source():
    for number in range(3000):
        if number == 1500:
            children.append(in_child(lambda: embed(client, "child") and ended_well(in_child(lambda: embed(client)))))
        yield f"text {number}"
assert sum(len(block.vectors) for block in client.stream(source())) == 3000
assert ended_well(children[0])
""",
    "fork inside asyncio.run": """
client = new()
async def main():
    inside = asyncio.create_task(aembed(client, "inside", 200))
    await asyncio.sleep(0.05)
    pid = in_child(lambda: embed(client, "child"))
    assert await asyncio.to_thread(ended_well, pid)
    assert await inside
asyncio.run(main())
""",
    "no descriptors at the first call": """
import resource
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
client = new()
vectors_of(["a"], 1024)
used = len(os.listdir("/dev/fd")) - 1
for free in range(3):
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + free, hard))
    try:
        raises("ulimit -n", lambda: client.embed(["a"]))
        raises("ulimit -n", lambda: next(client.stream(["a"])))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
gc.collect()
embed(client)
assert asyncio.run(aembed(client))
""",
    "descriptors closed by another": """
client = new()
embed(client)
os.closerange(3, 200)
raises("closed descriptors", lambda: embed(client))
raises("closed descriptors", lambda: next(client.stream(["a"])))
raises("closed descriptors", lambda: asyncio.run(client.aembed(["a"])))
""",
    "a handler raises while a lock is taken": """
# As a signal does that comes there: the lock of an Event was left held, and the I/O thread waited for it.
client = new()
embed(client)
enter, main, armed = threading.Condition.__enter__, threading.get_ident(), True
def entered(condition):
    global armed
    held = enter(condition)
    if armed and threading.get_ident() == main and sys._getframe(1).f_code.co_name == "wait":
        armed = False
        raise ZeroDivisionError
    return held
threading.Condition.__enter__ = entered
for call in (lambda: embed(client, "b", 100), lambda: stream(client)):
    armed = True
    try: call()
    except ZeroDivisionError: pass
    armed = False
    thread = threading.Thread(target=embed, args=[client, "after"], daemon=True)
    thread.start()
    thread.join(20)
    if thread.is_alive():
        print("the I/O thread hangs", flush=True)
        os._exit(1)
""",
    "signal handlers that raise or call": """
import _thread
client = new(max_concurrency=4)
class Alarm(Exception): pass
def fail(*_): raise Alarm
signal.signal(signal.SIGALRM, fail)
for seconds in (0.02, 0.05, 0.1):
    signal.setitimer(signal.ITIMER_REAL, seconds)
    raises("", lambda: client.embed(texts_of(seconds, 4000)), Alarm)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    raises("", lambda: stream(client, seconds, 8000), Alarm)
threading.Timer(0.05, _thread.interrupt_main).start()
raises("", lambda: client.embed(texts_of("interrupted", 4000)), KeyboardInterrupt)
calls = []
signal.signal(signal.SIGALRM, lambda *_: calls.append(embed(client, "handler")))
signal.setitimer(signal.ITIMER_REAL, 0.05)
embed(client, "outside", 200)
assert calls == [True]
while client.pending: time.sleep(0.005)
assert client.usage.requests < 400
""",
}
GEVENT = """
import gevent.monkey
gevent.monkey.patch_all()
"""
# By the module that each needs.
FOREIGN_PROGRAMS = {
    "uvloop": """
import uvloop
client = new()
assert uvloop.run(aembed(client)) and embed(client) and uvloop.run(aembed(client, "again"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
asyncio.run(astream(client))
""",
    "uvloop policy first": """
import uvloop
with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
client = new()
async def main():
    assert await aembed(client) and embed(client, "sync")
asyncio.run(main())
""",
    "trio": """
import trio
client = new()
def message(error): return type(error).__name__ + str(error)
async def main():
    try: await client.aembed(["a"])
    except MultiEmbedError as error: assert "Under trio" in str(error)
    else: raise AssertionError
    assert await trio.to_thread.run_sync(embed, client)
    try: await client.aclose()
    except MultiEmbedError as error: assert "Under trio" in str(error)
    else: raise AssertionError
trio.run(main)
""",
    "gevent": """
import gevent
client = new()
greenlets = [gevent.spawn(embed, client, f"greenlet {number}") for number in range(20)]
gevent.joinall(greenlets, timeout=30)
assert [greenlet.value for greenlet in greenlets] == [True] * 20
stream(client)
with gevent.Timeout(0.05, False):
    client.embed(texts_of("timeout", 4000))
    raise AssertionError
stuck = [gevent.spawn(client.embed, texts_of(number, 400)) for number in range(5)]
gevent.sleep(0.05)
gevent.killall(stuck)
embed(client, "after")
while client.pending: gevent.sleep(0.005)
""",
    "gevent without patch": """
import gevent
client = new()
greenlets = [gevent.spawn(embed, client, f"greenlet {number}") for number in range(5)]
gevent.joinall(greenlets, timeout=30)
assert [greenlet.value for greenlet in greenlets] == [True] * 5
""",
    "nest_asyncio before": "import nest_asyncio\nnest_asyncio.apply()\nclient = new()\n",
    "nest_asyncio after": "import nest_asyncio\nclient = new()\nembed(client)\nnest_asyncio.apply()\n",
    "nest_asyncio inside": "import nest_asyncio\nclient = new()\nembed(client)\n",
}
NESTED = """
async def main():
    assert await aembed(client)
    nest_asyncio.apply()
    assert asyncio.get_event_loop().run_until_complete(aembed(client, "nested"))
    embed(client, "sync")
    await astream(client)
asyncio.run(main())
embed(client, "after")
"""


@pytest.fixture(scope="module")
def slow():
    """A simulator whose requests overlap."""
    with Simulator(latency=0.03) as running:
        yield running


def check_program(slow, program, first=""):
    done = run_python(first + START + program, slow.base_url("dashscope"), within=60.0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_program_runs_without_a_complaint(slow, program):
    check_program(slow, program)


@posix
@pytest.mark.parametrize("program", POSIX_PROGRAMS.values(), ids=POSIX_PROGRAMS.keys())
def test_program_of_posix_runs_without_a_complaint(slow, program):
    check_program(slow, "warnings.simplefilter('ignore', DeprecationWarning)\n" + program)


@pytest.mark.parametrize("name", FOREIGN_PROGRAMS)
def test_program_with_another_library_runs(slow, name):
    needed = name.partition(" ")[0]
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    program = FOREIGN_PROGRAMS[name] + (NESTED if needed == "nest_asyncio" else "")
    check_program(slow, program, GEVENT if name == "gevent" else "")


def test_close_and_call_in_turns_leaves_one_finalizer(simulator):
    client = EmbeddingClient(DASHSCOPE, **options_for(simulator))
    client.embed(["a"])
    before = len(weakref.finalize._registry)
    for _ in range(20):
        client.embed(["a"])
        client.close()
    assert len(weakref.finalize._registry) == before


def test_threads_and_descriptors_do_not_grow(simulator):
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("there is no list of descriptors here")

    def counts():
        return len(list(descriptors.iterdir())), threading.active_count()

    client = EmbeddingClient(DASHSCOPE, **options_for(simulator))
    client.embed(["a"])
    before = counts()
    for number in range(300):
        client.embed([f"text {number}"])
    for number in range(50):
        EmbeddingClient(DASHSCOPE, timeout=20.0 + number, **options_for(simulator)).embed(["a"])
    gc.collect()
    until(lambda: counts() <= before)
    client.close()
