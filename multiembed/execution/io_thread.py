"""The I/O thread: one asyncio event loop for every request of the process.

Sync calls, async calls and streams run there as tasks. So the limiter, the connections and the workers have one owner
and need no locks, and connections outlast the caller's event loop. What belongs to the user never runs there: iterables
are read in the caller's thread; key functions, token counters and caches get threads of their own.
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

SIGNAL_INTERVAL = 0.1
"""Seconds between two looks for Ctrl-C, where a signal does not end a wait: on Windows."""
_CANCEL_TIMEOUT = 1.0
"""Seconds to wait for the end of a cancelled task in another loop."""
_SELF_DRIVEN = 0.005
"""Seconds that the caller's thread runs the loop at a time, where no thread can be started."""


class Wakeup:
    """Ends the wait of one thread. Setting it never blocks.

    It stands in for threading.Event, whose lock a function of Python takes: a signal handler that raises there leaves
    it held, and the I/O thread would wait for it for ever. (Tried in 3.11. queue.SimpleQueue forgets its time limit
    when a signal handler runs longer.)
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """End the wait, or the next one."""
        with suppress(RuntimeError):  # it is set already
            self._lock.release()

    def wait(self, seconds: float) -> None:
        """Wait until it is set, or the time is over. Then it is no longer set."""
        self._lock.acquire(timeout=seconds)


class IoThread:
    """An event loop, and the daemon thread that runs it: the end of a program does not wait for it.

    Where no thread can be started (the system has none left, or the interpreter exits), sync callers run the loop in
    their own thread while they wait.

    Raises:
        MultiEmbedError: the process has no descriptors left for a loop.
    """

    def __init__(self) -> None:
        self.loop = _new_loop()
        self._pid = os.getpid()
        self._thread: threading.Thread | None = None
        self._ident: int | None = None
        """Of the thread that runs the loop."""
        self._running = threading.Lock()
        """Held by the thread that runs the loop."""
        self._is_broken = False
        """The loop cannot run any more: its descriptors were closed."""
        self._tasks: set[asyncio.Task[Any]] = set()
        """Those begun here: a loop itself refers to its tasks weakly."""
        self.shared: dict[Any, Any] = {}
        """What calls share here, such as connections; a forked child leaves it alone."""

    def start(self) -> None:
        """Start the thread, unless it runs or cannot be started. Not to be called from two threads at once."""
        if not self.has_thread and not self._is_broken:
            self._thread = threading.Thread(target=self._run, name="multiembed-io", daemon=True)
            with suppress(RuntimeError):
                self._thread.start()

    def _run(self) -> None:
        with self._running:
            self._ident = threading.get_ident()
            while not self._is_broken:
                try:
                    self.loop.run_forever()
                except (OSError, ValueError):  # of the selector: what callbacks raise, the loop handles
                    self._is_broken = True
                except BaseException:  # noqa: BLE001, S110 - a callback may raise SystemExit; other calls go on
                    pass

    @property
    def has_thread(self) -> bool:
        """Whether a thread runs the loop."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def is_inherited(self) -> bool:
        """Whether it is of the parent of this process; its thread does not run here."""
        return self._pid != os.getpid()

    @property
    def is_current(self) -> bool:
        """Whether this is the thread that runs the loop."""
        # By the thread and not by the running loop: gevent's greenlets share one thread of the system.
        return self._ident == threading.get_ident()

    def check_caller(self) -> None:
        """Refuse a sync call that is made on the I/O thread, which would wait for itself.

        Raises:
            ConfigurationError: this is the I/O thread.
        """
        if self.is_current:
            raise ConfigurationError(
                "A sync call was made on the I/O thread of multiembed, for instance by a logging handler, and would "
                "wait for itself for ever. Make the call in another thread."
            )

    def check(self) -> None:
        """Refuse to go on with a call that gets no answers any more.

        Raises:
            ConfigurationError: the process was forked in the middle of the call.
            MultiEmbedError: the loop's descriptors were closed, or the interpreter exits.
        """
        if self.is_inherited:
            raise ConfigurationError(
                "The call or stream was begun before this process was forked, and its answers come to the parent. "
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
        self.post(self._begin, make, bool)

    def post(self, act: Callable[..., object], *args: Any) -> None:
        """Call a function on the I/O thread, soon, in the caller's context. Nothing happens where `check` raises."""
        if not self.is_inherited and not self._is_broken:  # their descriptors may be others' by now
            self.loop.call_soon_threadsafe(act, *args)

    def run(self, make: Callable[[], Coroutine[Any, Any, _T]], on_interrupt: Callable[[], object] = bool) -> _T:
        """Run a coroutine on the I/O thread and wait for it.

        Args:
            make: makes the coroutine.
            on_interrupt: called in this thread when a signal handler raises while it waits, before that goes on.
        """
        self.check_caller()
        woken = Wakeup()
        ended: list[asyncio.Task[_T]] = []

        def end(task: asyncio.Task[_T]) -> None:
            ended.append(task)
            woken.set()

        try:
            self.post(self._begin, make, end)
            while not ended:
                self.wait(woken)
        except BaseException:
            on_interrupt()
            raise
        task = ended.pop()
        try:
            return task.result()
        finally:
            del task  # an error holds this frame: no cycle of references

    def _begin(self, make: Callable[[], Coroutine[Any, Any, _T]], on_end: Callable[[asyncio.Task[_T]], object]) -> None:
        task = self.loop.create_task(make())
        self._tasks.add(task)
        task.add_done_callback(self._end)
        task.add_done_callback(on_end)

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # it counts as seen: an interrupted caller does not look

    def wait(self, woken: Wakeup) -> None:
        """Wait for what the I/O thread sets, a tenth of a second at most.

        Raises:
            MultiEmbedError: see `check`.
        """
        self.check()
        if not self.has_thread and self._running.acquire(blocking=False):
            try:
                self._run_here()
            finally:
                self._running.release()
        else:
            woken.wait(SIGNAL_INTERVAL)

    def _run_here(self) -> None:
        """Run the loop in this thread for a moment."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise _no_thread()
        self._ident = threading.get_ident()
        try:
            self.loop.run_until_complete(asyncio.sleep(_SELF_DRIVEN))
        finally:
            self._ident = None


def _new_loop() -> asyncio.AbstractEventLoop:
    """A loop of asyncio's own, whatever policy the program has set.

    Raises:
        MultiEmbedError: the process has no descriptors left.
    """
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


async def run_in(loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine as a task of another thread's loop, and wait for it.

    A cancellation is passed on, and the end of the task waited for; not for long, because that loop may be blocked.

    Args:
        loop: which runs in another thread, or is the running one.
        make: makes the coroutine.

    Raises:
        RuntimeError: the loop is closed.
    """
    here = asyncio.get_running_loop()
    if loop is here:
        return await make()
    finished: asyncio.Future[_T] = here.create_future()
    tasks: list[asyncio.Task[_T]] = []

    def begin() -> None:
        tasks.append(loop.create_task(make()))
        tasks[0].add_done_callback(end)

    def end(task: asyncio.Task[_T]) -> None:
        tasks.clear()
        with suppress(RuntimeError):  # this loop is closed, and no caller waits
            here.call_soon_threadsafe(_hand_over, task, finished)

    def cancel() -> None:
        for task in tasks:
            task.cancel()

    loop.call_soon_threadsafe(begin)
    try:
        await asyncio.wait((finished,))
    except BaseException as error:
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(cancel)
            if isinstance(error, asyncio.CancelledError):
                await asyncio.wait((finished,), timeout=_CANCEL_TIMEOUT)
        raise
    return finished.result()


def _hand_over(task: asyncio.Task[_T], finished: asyncio.Future[_T]) -> None:
    error = None if task.cancelled() else task.exception()
    if finished.done():
        return
    if task.cancelled():
        finished.cancel()
    elif error is not None:
        finished.set_exception(error)
        finished.exception()  # it counts as seen: a cancelled caller does not look
    else:
        finished.set_result(task.result())


async def in_thread(function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call a function in a daemon thread of its own, in the caller's context; here, where none can be started.

    `asyncio.to_thread` would use threads that are joined when the interpreter exits, and hold that up; and it refuses
    calls from then on.

    Raises:
        RuntimeError: the function raised StopIteration, which no coroutine can raise.
    """
    return await _start_call(partial(copy_context().run, function, *args, **kwargs))


def _start_call(call: Callable[[], _T]) -> asyncio.Future[_T]:
    loop = asyncio.get_running_loop()
    finished: asyncio.Future[_T] = loop.create_future()
    waiting = [finished]  # emptied by `run`, whose frame is in the traceback of an error: no cycle of references

    def run() -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(_set_outcome, waiting.pop(), *_outcome_of(call))

    try:
        threading.Thread(target=run, name="multiembed-worker", daemon=True).start()
    except RuntimeError:
        run()
    return finished


def _outcome_of(call: Callable[[], _T]) -> tuple[Any, BaseException | None]:
    try:
        return call(), None
    except BaseException as error:  # noqa: BLE001 - raised again by the caller
        return None, error


def _set_outcome(finished: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if finished.done():  # the caller was cancelled
        return
    if isinstance(error, StopIteration):
        finished.set_exception(RuntimeError(f"a function raised {error!r}"))
    elif error is not None:
        finished.set_exception(error)
    else:
        finished.set_result(result)


# ── one for each process ─────────────────────────────────────────────────────────────────────────

_current: IoThread | None = None
_starting = threading.RLock()  # a signal handler may make a call in the middle of the first one
_of_parents: list[IoThread] = []
"""Kept untouched: what they hold is the parent's, too, and would be closed with them."""
_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, int] = WeakKeyDictionary()
"""The process in which an event loop made its first call."""


def io_thread() -> IoThread:
    """The I/O thread of this process, started at the first call.

    Raises:
        MultiEmbedError: the process has no descriptors left for it.
    """
    found = _current
    if found is None or found.is_inherited or not found.has_thread:
        with _starting:
            found = _own()
            found.start()
    return found


def _own() -> IoThread:
    """The one of this process, which may have to be started yet."""
    global _current
    if _current is None or _current.is_inherited:
        _leave_parents()
        # Not in the caller's context, which the loop would keep for good.
        made = Context().run(IoThread)
        _current = _current or made  # a signal handler may have come first
    return _current


def started_io_thread() -> IoThread | None:
    """The I/O thread of this process, if there is one that can still do something."""
    found = _current
    return None if found is None or found.is_inherited or sys.is_finalizing() else found


def caller_loop() -> asyncio.AbstractEventLoop:
    """The event loop that an async call is made in.

    Raises:
        ConfigurationError: there is none of asyncio, or it was in use before this process was forked.
        MultiEmbedError: the I/O thread cannot be started.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        loop = None
    if loop is None:
        raise ConfigurationError(
            "Async calls need an event loop of asyncio (or uvloop), and none runs here. Under trio, call the sync "
            "method in a thread: await trio.to_thread.run_sync(client.embed, texts)."
        )
    if _loops.setdefault(loop, os.getpid()) != os.getpid():
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


def _leave_parents() -> None:
    global _current
    if _current is not None:
        _of_parents.append(_current)
        _current = None


def _after_fork() -> None:
    global _starting
    _starting = threading.RLock()  # it may have been held at the fork
    _leave_parents()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
