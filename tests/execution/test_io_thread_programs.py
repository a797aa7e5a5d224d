"""I/O thread in programs of their own: forks, signals, other libraries, no threads and no descriptors."""

from __future__ import annotations

import importlib.util
import sys

import pytest
from support.fork_server import Programs

from multiembed.simulator import Simulator

posix = pytest.mark.skipif(sys.platform == "win32", reason="it needs fork or signals of POSIX")


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

def stream(client, label="a", count=1100):
    assert sum(len(result.vectors) for result in client.stream(texts_of(label, count))) == count

async def astream(client, label="a", count=1100):
    assert sum([len(result.vectors) async for result in client.astream(texts_of(label, count))]) == count

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
        for steps in range(0, 200, 5):
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
fork = ctypes.PyDLL(None).fork  # CDLL would release the GIL; a child that is forked while another thread has it hangs
client = new(max_concurrency=1)
embed(client)
time.sleep(0.05)  # Python does not know of the fork: a thread that waits for the GIL at that moment stops the child
assert ended_well(in_child(lambda: embed(client, "child") and embed(new(), "child"), fork))
embed(client, "parent")
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
    for number in range(1500):
        if number == 1100:
            children.append(in_child(lambda: embed(client, "child") and ended_well(in_child(lambda: embed(client)))))
        yield f"text {number}"
assert sum(len(result.vectors) for result in client.stream(source())) == 1500
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
embed(client)  # a handler that raises in Thread.start breaks the thread that it starts, in CPython 3.13
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


def check_program(programs, slow, program, before=""):
    done = programs.run(before + START + program, slow.base_url("dashscope"), within=60.0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_program_runs_without_a_warning(programs, slow, program):
    check_program(programs, slow, program)


@posix
@pytest.mark.parametrize("program", POSIX_PROGRAMS.values(), ids=POSIX_PROGRAMS.keys())
def test_posix_program_runs_without_a_warning(programs, slow, program):
    check_program(programs, slow, "warnings.simplefilter('ignore', DeprecationWarning)\n" + program)


@pytest.mark.parametrize("name", FOREIGN_PROGRAMS)
def test_program_with_another_library_runs(programs, slow, name):
    needed = name.partition(" ")[0]
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    program = FOREIGN_PROGRAMS[name] + (NESTED if needed == "nest_asyncio" else "")
    if name == "gevent":  # it must patch before any other import
        check_program(Programs(), slow, program, before=GEVENT)
    else:
        check_program(programs, slow, program)
