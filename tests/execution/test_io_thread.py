"""I/O thread: its functions, and the user code that never runs on it."""

from __future__ import annotations

import asyncio
import contextvars
import gc
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
from support.adapters import ALL_ENTRY_POINTS, DASHSCOPE, SYNC_ENTRY_POINTS, are_right, call, options_for, texts_of

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
    """Wait until a condition holds."""
    end = time.monotonic() + 20.0
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def on_io_thread(io, function):
    """Call a function on the I/O thread."""

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


def test_run_on_the_io_thread_is_rejected(io):
    async def give():
        return 7

    with pytest.raises(ConfigurationError, match="would wait for itself"):
        on_io_thread(io, lambda: io.run(give))
    assert io.run(give) == 7


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_exit_raised_by_a_callback_leaves_the_loop_running(io, error):
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


async def test_in_thread_returns_result_error_and_context():
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


@pytest.mark.parametrize("entry_point", ALL_ENTRY_POINTS.values(), ids=ALL_ENTRY_POINTS.keys())
def test_user_code_never_runs_on_the_io_thread(simulator, entry_point, io):
    threads, store = Threads(), Store()
    store.mget, store.mset = threads.noting("mget", store.mget), threads.noting("mset", store.mset)
    embedder = entry_point.make(
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
    assert are_right(call(entry_point.embed, embedder, texts), texts)
    assert set(threads.of) == {"mget", "mset", "api_key", "token_counter", "on_usage"}
    assert on_io_thread(io, threading.get_ident) not in set.union(*threads.of.values())


@pytest.mark.parametrize("name", sorted(SYNC_ENTRY_POINTS))
def test_user_http_client_never_runs_on_the_io_thread(simulator, name, io):
    threads, entry_point = Threads(), SYNC_ENTRY_POINTS[name]
    with httpx.HTTPTransport() as transport:
        transport.handle_request = threads.noting("http", transport.handle_request)
        embedder = entry_point.make(DASHSCOPE, http_client=httpx.Client(transport=transport), **options_for(simulator))
        assert are_right(entry_point.embed(embedder, ["a"]), ["a"])
    assert on_io_thread(io, threading.get_ident) not in threads.of["http"]


CALLS = {
    "embed": lambda client: client.embed(["a"]),
    "stream": lambda client: next(client.stream(["a"])),
    "estimate": lambda client: client.estimate(["a"]),
}


@pytest.mark.parametrize("make_call", CALLS.values(), ids=CALLS.keys())
def test_call_by_a_logging_handler_on_the_io_thread_is_rejected(connect, caplog, make_call):
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


@pytest.mark.parametrize("entry_point", ["embed", "stream"])
def test_failed_call_is_in_no_cycle_of_references(simulator, monkeypatch, entry_point):
    from multiembed.execution.chunk import Chunk

    chunks, make = [], Chunk.__init__

    def noted(chunk, *args, **how):
        make(chunk, *args, **how)
        chunks.append(weakref.ref(chunk))

    monkeypatch.setattr(Chunk, "__init__", noted)
    client = EmbeddingClient(DASHSCOPE, **{**options_for(simulator), "api_key": "sk-wrong"})
    gc.collect()
    gc.disable()
    try:
        with suppress(Exception):
            client.embed(texts_of(45)) if entry_point == "embed" else list(client.stream(texts_of(45)))
        assert len(chunks) == 1
        until(lambda: chunks[0]() is None)
    finally:
        gc.enable()


# ── the caller's loop ends ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("entry_point", ["aembed", "astream"])
def test_loop_closed_in_a_call_sends_nothing_more(entry_point):
    async def read(client):
        async for _ in client.astream(texts_of(5_000)):
            pass

    with Simulator(latency=0.03) as slow:
        client = EmbeddingClient(DASHSCOPE, max_concurrency=4, **options_for(slow))
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)  # it complains of its tasks, which are left pending on purpose
        task = loop.create_task(read(client) if entry_point == "astream" else client.aembed(texts_of(5_000)))
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
        stream = client.astream(texts_of(3_000))
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
        async for result in stream:
            count += len(result.vectors)
        return count

    assert asyncio.run(run()) == 3_000
    client.close()


def test_repeated_close_and_call_keep_one_finalizer(simulator):
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
