"""I/O thread: one asyncio event loop in a daemon thread, for every request of the process.

Sync calls, async calls and streams run there as tasks. So the limiter, the connections and the workers have one owner
and need no locks, and connections outlast the caller's event loop. User code never runs there: iterables are read in
the caller's thread; key functions, token counters and caches run in threads of their own.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from multiembed.errors import ConfigurationError, MultiEmbedError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from typing_extensions import ParamSpec

    _P = ParamSpec("_P")

_T = TypeVar("_T")

_SIGNAL_INTERVAL = 0.1
"""Seconds between two checks for Ctrl-C, where a signal does not end a wait: on Windows."""
_CANCEL_TIMEOUT = 1.0
"""Seconds to wait for the end of a cancelled task in another loop."""
_RUN_SECONDS = 0.005
"""Seconds that the caller's thread runs the loop at a time, where no thread can be started."""


class Wakeup:
    """Event for one waiting thread. `set` never blocks.

    It replaces threading.Event, which takes its lock in Python code: a signal handler that raises there leaves the lock
    held, and the I/O thread then waits without end (Python 3.11). queue.SimpleQueue ignores its timeout when a signal
    handler runs longer.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """End the wait, or the next one."""
        with suppress(RuntimeError):  # it is set already
            self._lock.release()

    def wait(self, seconds: float) -> bool:
        """Wait until it is set or the time is over, and clear it. Returns: whether it was set."""
        return self._lock.acquire(timeout=seconds)


class IoThread:
    """Event loop, and the daemon thread that runs it: the end of a program does not wait for it.

    Where no thread can be started (the system has none left, or the interpreter exits), sync callers run the loop in
    their own thread while they wait.
    """

    def __init__(self) -> None:
        self.loop = _new_loop()
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._ident: int | None = None
        """Of the thread that runs the loop."""
        self._starting = threading.RLock()  # a signal handler may make a call during the first one
        self._running = threading.Lock()
        """Held by the thread that runs the loop."""
        self._is_broken = False
        """Whether the loop's descriptors were closed, so that it cannot run any more."""
        self._tasks: set[asyncio.Task[Any]] = set()
        """Strong references: a loop refers to its tasks weakly."""
        self.shared: dict[Any, Any] = {}
        """Objects that calls share here, such as connections; a forked child leaves them alone."""

    def start(self) -> None:
        """Start the thread, unless it runs or cannot be started."""
        if self.has_thread or self._is_broken:
            return
        with self._starting:
            if not self.has_thread:
                self._thread = threading.Thread(target=self._run, name="multiembed-io", daemon=True)
                with suppress(RuntimeError):
                    self._thread.start()

    def _run(self) -> None:
        with self._running:
            self._ident = threading.get_ident()
            while not self._is_broken:
                try:
                    self.loop.run_forever()
                except (OSError, ValueError):  # of the selector: the loop handles exceptions of callbacks itself
                    self._is_broken = True
                except BaseException:  # noqa: BLE001, S110 - a callback may raise SystemExit; other calls go on
                    pass

    @property
    def has_thread(self) -> bool:
        """Whether a thread runs the loop."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_inherited(self) -> bool:
        """Whether it belongs to the parent of this forked process; its thread does not run here."""
        return self._pid != os.getpid()

    @property
    def is_current(self) -> bool:
        """Whether this is the thread that runs the loop."""
        # By the thread and not by the running loop: gevent's greenlets share one thread of the system.
        return self._ident == threading.get_ident()

    def check_caller(self) -> None:
        """Reject a sync call that is made on the I/O thread, which would wait for itself."""
        if self.is_current:
            raise ConfigurationError(
                "A sync call was made on the I/O thread of multiembed, for instance by a logging handler. It would "
                "wait for itself without end. Make the call in another thread."
            )

    def check(self) -> None:
        """Check that the I/O thread can still deliver responses to a call.

        Raises:
            ConfigurationError: the process was forked in the middle of the call.
            MultiEmbedError: the loop's descriptors were closed, or the interpreter exits.
        """
        if self.is_inherited:
            raise ConfigurationError(
                "The call or stream was begun before this process was forked, and its responses go to the parent. "
                "Begin it again here."
            )
        if self._is_broken:
            raise MultiEmbedError(
                "The I/O thread of multiembed cannot go on: something in this process closed descriptors that it had "
                "not opened. Restart the process; a daemon closes its descriptors before the first call."
            )
        if sys.is_finalizing():  # daemon threads have stopped
            raise _no_thread()

    def spawn(self, make: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Run a coroutine on the I/O thread, without waiting for it."""
        self.post(self._create_task, make, bool)

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function on the I/O thread, soon, in the caller's context. Does nothing where `check` raises."""
        if not self.is_inherited and not self._is_broken:  # their descriptors may belong to others by now
            self.loop.call_soon_threadsafe(function, *args)

    def run(self, make: Callable[[], Coroutine[Any, Any, _T]], on_interrupt: Callable[[], object] = bool) -> _T:
        """Run a coroutine on the I/O thread and wait for it.

        If a signal handler raises during the wait, `on_interrupt` is called in this thread, before the error goes on.
        """
        self.check_caller()
        woken = Wakeup()
        ended: list[asyncio.Task[_T]] = []

        def on_end(task: asyncio.Task[_T]) -> None:
            ended.append(task)
            woken.set()

        try:
            self.post(self._create_task, make, on_end)
            while not ended:
                self.wait(woken)
        except BaseException:
            on_interrupt()
            raise
        task = ended.pop()
        try:
            return task.result()
        finally:
            del task  # an error's traceback holds this frame: no cycle of references

    def _create_task(
        self, make: Callable[[], Coroutine[Any, Any, _T]], on_end: Callable[[asyncio.Task[_T]], object]
    ) -> None:
        task = self.loop.create_task(make())
        self._tasks.add(task)
        for callback in (self._tasks.discard, retrieve_error, on_end):
            task.add_done_callback(callback)

    def wait(self, woken: Wakeup) -> None:
        """Wait until the I/O thread sets `woken`, a tenth of a second at most. Raises what `check` raises."""
        self.check()
        if self.has_thread or not self._running.acquire(blocking=False):
            woken.wait(_SIGNAL_INTERVAL)
            return
        try:  # without a thread, run the loop in this one for a moment
            if asyncio._get_running_loop() is not None:
                raise _no_thread()
            self._ident = threading.get_ident()
            self.loop.run_until_complete(asyncio.sleep(_RUN_SECONDS))
        finally:
            self._ident = None
            self._running.release()


def _new_loop() -> asyncio.AbstractEventLoop:
    """Make a loop of asyncio's own, for any event loop policy of the program."""
    try:
        if sys.platform == "win32":
            return asyncio.ProactorEventLoop()
        # As many descriptors first: a loop whose constructor fails is left half-made, and warns when it is collected.
        with open(os.devnull), open(os.devnull), open(os.devnull):  # noqa: PTH123 - the descriptors are what counts
            pass
        return asyncio.SelectorEventLoop()
    except OSError as error:
        raise MultiEmbedError(
            f"The I/O thread of multiembed cannot be started ({error.strerror}). Close files and connections, or raise "
            "the limit of open files (ulimit -n), and call again."
        ) from error


def retrieve_error(task: asyncio.Future[Any]) -> None:
    """Mark the error of a task as seen: asyncio logs it otherwise, where the caller was cancelled or interrupted."""
    if not task.cancelled():
        task.exception()


async def run_in(loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine as a task of another thread's loop, and wait for it.

    A cancellation is passed on to the task. The wait for the task's end is short, because that loop may be blocked.
    """
    here = asyncio.get_running_loop()
    future: asyncio.Future[_T] = here.create_future()
    tasks: list[asyncio.Task[_T]] = []

    def create_task() -> None:
        tasks.append(loop.create_task(make()))
        tasks[0].add_done_callback(on_end)

    def on_end(task: asyncio.Task[_T]) -> None:
        tasks.clear()
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        with suppress(RuntimeError):  # this loop is closed, and no caller waits
            here.call_soon_threadsafe(resolve, future, task.result() if error is None else None, error)

    def cancel() -> None:
        for task in tasks:
            task.cancel()

    loop.call_soon_threadsafe(create_task)
    try:
        await asyncio.wait((future,))
    except BaseException as error:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(cancel)
            if isinstance(error, asyncio.CancelledError):
                await asyncio.wait((future,), timeout=_CANCEL_TIMEOUT)
        raise
    return future.result()


async def in_thread(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function in a daemon thread of its own, in the caller's context; here, where none can be started.

    `asyncio.to_thread` would use threads that are joined when the interpreter exits, and so delay its exit; and it
    rejects calls from then on.
    """
    future: asyncio.Future[_T] = asyncio.get_running_loop().create_future()
    call = partial(copy_context().run, function, *args, **kwargs)
    try:
        threading.Thread(target=_call, args=(future, call), name="multiembed-worker", daemon=True).start()
    except RuntimeError:
        _call(future, call)
    try:
        return await future
    finally:
        del future  # an error's traceback holds this frame: no cycle of references


def _call(future: asyncio.Future[_T], function: Callable[[], _T]) -> None:
    outcome: tuple[Any, BaseException | None]
    try:
        outcome = function(), None
    except StopIteration as error:  # which no coroutine can raise
        outcome = None, RuntimeError(f"a function raised {error!r}")
    except BaseException as error:  # noqa: BLE001 - raised again by the caller
        outcome = None, error
    with suppress(RuntimeError):  # the loop is closed
        future.get_loop().call_soon_threadsafe(resolve, future, *outcome)
    del future, outcome  # an error's traceback holds this frame: no cycle of references


def resolve(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    """Give a future its result or error, unless its caller was cancelled."""
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)
        retrieve_error(future)


# ── one for each process ─────────────────────────────────────────────────────────────────────────

_io_threads: dict[int, IoThread] = {}
"""By process. A forked child keeps its parent's untouched: to collect it would close descriptors of the parent."""
_loop_processes: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()
"""The process in which an event loop made its first call."""


def io_thread() -> IoThread:
    """The I/O thread of this process, started at the first call."""
    pid = os.getpid()
    io = _io_threads.get(pid)
    if io is None:
        # Not in the caller's context, which the loop would keep for good.
        created = Context().run(IoThread)
        io = _io_threads.setdefault(pid, created)
        if io is not created:  # another thread, or a signal handler, was first
            created.loop.close()
    io.start()
    return io


def started_io_thread() -> IoThread | None:
    """The I/O thread of this process, if there is one that can still run functions."""
    return None if sys.is_finalizing() else _io_threads.get(os.getpid())


def caller_loop() -> asyncio.AbstractEventLoop:
    """The event loop that an async call is made in. Checks that it can be used, and that the I/O thread runs."""
    loop = asyncio._get_running_loop()
    if loop is None:
        raise ConfigurationError(
            "Async calls need an event loop of asyncio (or uvloop), and none runs here. Under trio, call the sync "
            "method in a thread: await trio.to_thread.run_sync(client.embed, texts)."
        )
    if _loop_processes.setdefault(loop, os.getpid()) != os.getpid():
        raise ConfigurationError(
            "This event loop was in use before this process was forked, and would share its wake-up calls with the "
            "parent's. Make a new one in the child, for instance by asyncio.run, or call the sync method."
        )
    io = io_thread()
    io.check()
    if not io.has_thread:
        raise _no_thread()
    return loop


def _no_thread() -> MultiEmbedError:
    return MultiEmbedError(
        "The I/O thread of multiembed cannot be started: the system has no threads left, or the interpreter exits. A "
        "sync call outside of any event loop works without it."
    )
