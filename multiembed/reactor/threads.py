"""The reactor of sync calls: all hands take turns in one thread, which waits for all their sockets at once.

A thread for each request would do, and did: but each of them wants the GIL a dozen times a request, and at 50 in flight
the threads spend a third of their time on handing it over. No event loop of asyncio is involved, so a sync call works
where one runs, and after a fork.
"""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
import threading
import time
from collections import deque
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context, copy_context
from functools import partial
from types import coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

_T = TypeVar("_T")
_NEVER = float("inf")
_PIECE = 4096
_ForFew = getattr(selectors, "PollSelector", selectors.DefaultSelector)
"""The cheapest to make and to close: in the caller's thread there is one socket, as a rule."""


class _Hand:
    """A coroutine, and what it waits for."""

    __slots__ = ("coroutine", "in_time", "until", "waits")

    def __init__(self, runs: Coroutine[Any, Any, None]) -> None:
        self.coroutine = runs
        self.waits = False
        self.until = _NEVER
        self.in_time = False


class ThreadSignal:
    """Set from any thread, waited for by one hand."""

    __slots__ = ("_hand", "_reactor", "_set")

    def __init__(self, reactor: ThreadReactor) -> None:
        self._reactor = reactor
        self._hand: _Hand | None = None
        self._set = False

    def set(self) -> None:
        """See Signal."""
        self._set = True
        if self._reactor.here:
            self._wake()
        else:
            self._reactor.post(self._wake)

    async def wait(self, seconds: float) -> bool:
        """See Signal."""
        if not self._set:
            self._hand = self._reactor.hand
            if seconds > 0.0:
                self._reactor.listen()
            try:
                await self._reactor.pause(time.monotonic() + seconds)
            finally:
                self._hand = None
        was_set, self._set = self._set, False
        return was_set

    def _wake(self) -> None:
        if self._hand is not None:
            self._reactor.resume(self._hand)


class ThreadReactor:
    """The hands of one sync call, in a thread of their own or in the caller's.

    The thread is a daemon, so a program that ends does not wait for it, and it ends when no hand is left.

    Args:
        failed: is told what broke it.
    """

    loop = None

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._context = copy_context()
        self._pid = os.getpid()
        # The collector may end a stream in the very thread that holds it, which then closes its crew.
        self._lock = threading.RLock()
        self._posted: deque[Callable[[], object]] = deque()
        self._running = False
        self._asleep = False
        self._borrowed = False
        """Whether the thread it runs in is the caller's."""
        self._over = threading.Event()
        self._ident: int | None = None
        self._hands: set[_Hand] = set()
        self._ready: deque[_Hand] = deque()
        self._soonest = _NEVER
        """When the first wait ends, or earlier."""
        self._selector: selectors.BaseSelector | None = None
        self._alarm: tuple[socket.socket, socket.socket] | None = None
        self.hand: _Hand
        """The one whose turn it is."""
        try:
            self.blocked: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self.blocked = None

    # ── from any thread ──────────────────────────────────────────────────────────────────────────

    @property
    def here(self) -> bool:
        """See Reactor."""
        return self._ident == threading.get_ident()

    def post(self, act: Callable[[], object]) -> None:
        """Have something done in its thread, soon, or when it runs next."""
        if os.getpid() != self._pid:  # a forked child: the lock may be held for ever, the alarm is its parent's
            return
        with self._lock:
            self._posted.append(act)
            if self._asleep and self._alarm is not None:
                self._asleep = False
                self._alarm[1].send(b"\0")

    def begin(self) -> bool:
        """Run in a thread, if it does not yet; False at interpreter shutdown, where no thread starts any more."""
        with self._lock:
            if self._running:
                return True
            self._running = True
        over = self._over = threading.Event()
        try:
            _beside(partial(self._live, over), self._context.copy())
        except RuntimeError:
            self._running = False
            return False
        return True

    def wait(self) -> None:
        """Wait until the thread that was begun is through."""
        self._over.wait()  # not `Thread.join`: where Ctrl-C breaks that off, a thread counts as ended (3.11)

    def run(self) -> bool:
        """Run in the caller's thread; False when it runs elsewhere, or there is nothing to do."""
        with self._lock:
            if self._running or not (self._hands or self._posted):
                return False
            self._running = self._borrowed = True
        self._take_turns()
        return True

    # ── for the hands ────────────────────────────────────────────────────────────────────────────

    def start(self, hand: Coroutine[Any, Any, None]) -> None:
        """See Reactor."""
        new = _Hand(hand)
        self._hands.add(new)
        self._ready.append(new)

    def signal(self) -> ThreadSignal:
        """See Reactor."""
        return ThreadSignal(self)

    async def readable(self, sock: socket.socket, ends: float) -> bool:
        """Wait until a socket can be read, or is closed; False when the time is over first."""
        return await self._socket(sock, selectors.EVENT_READ, ends)

    async def writable(self, sock: socket.socket, ends: float) -> bool:
        """Wait until a socket can be written; False when the time is over first."""
        return await self._socket(sock, selectors.EVENT_WRITE, ends)

    async def aside(self, act: Callable[..., _T], *args: Any) -> _T:
        """See Reactor."""
        if self._borrowed and len(self._hands) == 1:  # nobody else goes on meanwhile: as good in this thread
            return act(*args)
        done, outcome = self.signal(), Future[_T]()

        def do() -> None:
            try:
                outcome.set_result(act(*args))
            except BaseException as error:  # noqa: BLE001 - raised again in the hand
                outcome.set_exception(error)
            done.set()

        try:
            _beside(do, copy_context())
        except RuntimeError:
            return act(*args)
        await done.wait(_NEVER)
        return outcome.result()

    def listen(self) -> None:
        """Be ready to be woken by other threads from here on."""
        if self._alarm is None:
            selector = self._selector or self._open()
            ours, theirs = socket.socketpair()
            ours.setblocking(False)  # noqa: FBT003
            theirs.setblocking(False)  # noqa: FBT003
            selector.register(ours, selectors.EVENT_READ)
            self._alarm = ours, theirs

    @coroutine
    def pause(self, until: float) -> Generator[None, None, bool]:
        """Let others go on until it is resumed, or the time has come; whether it was resumed."""
        hand = self.hand
        hand.waits, hand.until = True, until
        self._soonest = min(self._soonest, until)
        yield
        return hand.in_time

    def resume(self, hand: _Hand, *, in_time: bool = True) -> None:
        """End a hand's pause."""
        if hand.waits:
            hand.waits, hand.in_time = False, in_time
            self._ready.append(hand)

    async def _socket(self, sock: socket.socket, event: int, ends: float) -> bool:
        selector = self._selector or self._open()
        selector.register(sock, event, self.hand)
        try:
            return await self.pause(ends)
        finally:
            if os.getpid() == self._pid:  # a forked child shares what its parent registered
                selector.unregister(sock)

    # ── its turns ────────────────────────────────────────────────────────────────────────────────

    def _live(self, over: threading.Event) -> None:
        try:
            self._take_turns()
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
            self._failed(error)
        finally:
            over.set()

    def _take_turns(self) -> None:
        self._ident = threading.get_ident()
        try:
            if not self._borrowed:
                self.listen()
            while self._turn():
                pass
        except BaseException as error:
            self._break_off(error)
            raise

    def _turn(self) -> bool:
        """Let everybody go on who can, and wait for the next one; False when nobody is left."""
        while self._ready:
            self._let(self._ready.popleft())
        with self._lock:
            posted, self._posted = self._posted, deque()
            if not posted and not self._hands:
                self._end()
                return False
            self._asleep = not posted
        for act in posted:
            act()
        if not posted:
            self._look()
        return True

    def _let(self, hand: _Hand) -> None:
        self.hand = hand
        try:
            hand.coroutine.send(None)
        except StopIteration:
            self._hands.discard(hand)

    def _look(self) -> None:
        """Wait for a socket, the alarm or the next end of a wait."""
        selector = self._selector or self._open()
        seconds = None if self._soonest == _NEVER else max(0.0, self._soonest - time.monotonic())
        came = selector.select(seconds)
        self._asleep = False
        for key, _ in came:
            if key.data is not None:
                self.resume(key.data)
            else:
                key.fileobj.recv(_PIECE)  # type: ignore[union-attr]
        now = time.monotonic()
        if now >= self._soonest:
            for hand in self._hands:
                if hand.until <= now:
                    self.resume(hand, in_time=False)
            self._soonest = min((hand.until for hand in self._hands if hand.waits), default=_NEVER)

    def _open(self) -> selectors.BaseSelector:
        selector = self._selector = _ForFew() if self._borrowed else selectors.DefaultSelector()
        return selector

    def _break_off(self, error: BaseException) -> None:
        for hand in list(self._hands):
            self.hand = hand
            with suppress(BaseException):
                hand.coroutine.throw(error)
            hand.coroutine.close()
        self._hands.clear()
        self._ready.clear()
        with self._lock:
            self._end()

    def _end(self) -> None:
        """Nobody is left. Under the lock, so that whoever posts finds either a reactor that runs or one that may."""
        self._running = self._asleep = self._borrowed = False
        self._ident = None
        self._soonest = _NEVER
        if self._alarm is not None:
            for end in self._alarm:
                end.close()
        if self._selector is not None:
            self._selector.close()
        self._alarm = self._selector = None


def _beside(act: Callable[[], object], context: Context) -> None:
    """Do something in a thread that no program's end waits for.

    Raises:
        RuntimeError: no thread can be started, for instance while the interpreter shuts down.
    """
    threading.Thread(target=context.run, args=(act,), name="multiembed", daemon=True).start()
