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

from multiembed.reactor.hand import NEVER, Hand, ThreadSignal

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Generator

_T = TypeVar("_T")
_PIECE = 4096
_LOOK_UP = 0.1
"""Seconds after which whoever waits for the thread looks for Ctrl-C, where that does not wake him."""
_ForFew = getattr(selectors, "PollSelector", selectors.DefaultSelector)
"""The cheapest to make and to close: in the caller's thread there is one socket, as a rule."""


class ThreadReactor:
    """The hands of one sync call, in a thread of their own or in the caller's.

    The thread is a daemon, so a program that ends does not wait for it, and it ends when no hand is left.
    """

    loop = None

    def __init__(self) -> None:
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
        self._hands: set[Hand] = set()
        self._ready: deque[Hand] = deque()
        self._soonest = NEVER
        """When the first wait ends, or earlier."""
        self._selector: selectors.BaseSelector | None = None
        self._alarm: tuple[socket.socket, socket.socket] | None = None
        self.hand: Hand
        """The one whose turn it is, and no longer: it leads to the call, and so to all its texts and vectors."""
        self.blocked: asyncio.AbstractEventLoop | None = None
        self.look_around()

    # ── from any thread ──────────────────────────────────────────────────────────────────────────

    @property
    def here(self) -> bool:
        """See Reactor."""
        return self._ident == threading.get_ident()

    def post(self, act: Callable[[], object]) -> None:
        """Have something done in its thread, soon; nothing when it does not run."""
        if os.getpid() != self._pid:  # a forked child: the lock may be held for ever, the alarm is its parent's
            return
        with self._lock:
            if self._running:
                self._posted.append(act)
                self._ring()

    def begin(self, act: Callable[[], object] = bool) -> bool:
        """Have something done in its thread, which is begun if it does not run.

        Returns:
            Whether there is one: at interpreter shutdown, and where the system is out of threads or files, none can be
            begun. Then `run` does it.
        """
        if os.getpid() != self._pid:  # as in `post`
            return True
        with self._lock:
            self._posted.append(act)
            if self._running:
                self._ring()
                return True
            self._running = True
        over = self._over = threading.Event()
        try:
            self.listen()
            _beside(partial(self._live, over), self._context.copy())
        except (RuntimeError, OSError):
            with self._lock:
                self._end()
            return False
        return True

    def look_around(self) -> None:
        """Note which event loop stands still while this thread waits."""
        try:
            self.blocked = asyncio.get_running_loop()
        except RuntimeError:
            self.blocked = None

    def wait(self) -> None:
        """Wait until the thread that was begun is through."""
        # Not `Thread.join`: where Ctrl-C breaks that off, a thread counts as ended (3.11). And not without end: where
        # the system is Windows, Ctrl-C would not break it off.
        while not self._over.wait(_LOOK_UP):
            pass

    def run(self) -> bool:
        """Run in the caller's thread; False when it runs elsewhere, or there is nothing to do."""
        with self._lock:
            if self._running or not (self._hands or self._posted):
                return False
            self._running = self._borrowed = True
        self._take_turns()
        return True

    # ── for the hands ────────────────────────────────────────────────────────────────────────────

    def start(self, make: Callable[[], Coroutine[Any, Any, None]], failed: Callable[[BaseException], None]) -> None:
        """See Reactor."""
        new = Hand(make, failed)
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

    async def aside(self, act: Callable[..., _T], *args: Any, ends: float = NEVER) -> _T:
        """See Reactor.

        Args:
            act: what blocks.
            *args: its arguments.
            ends: when it is waited for no longer.

        Raises:
            TimeoutError: it was not done by then.
        """
        if self._borrowed and len(self._hands) == 1 and ends == NEVER:  # nobody else goes on: as good in this thread
            return act(*args)
        try:
            self.listen()
        except OSError:  # nobody could tell that it is done
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
        if not await done.wait(ends - time.monotonic()):
            raise TimeoutError("the time is over")
        return outcome.result()

    def listen(self) -> None:
        """Be ready to be woken by other threads from here on."""
        if self._alarm is None:
            selector = self._selector or self._open()
            ours, theirs = socket.socketpair()
            ours.setblocking(False)  # noqa: FBT003
            theirs.setblocking(False)  # noqa: FBT003
            self._alarm = ours, theirs
            selector.register(ours, selectors.EVENT_READ)

    @coroutine
    def pause(self, until: float) -> Generator[None, None, bool]:
        """Let others go on until it is resumed, or the time has come; whether it was resumed."""
        hand = self.hand
        hand.waits, hand.until = True, until
        self._soonest = min(self._soonest, until)
        yield
        return hand.in_time

    def resume(self, hand: Hand, *, in_time: bool = True) -> None:
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
            with suppress(BaseException):  # the hands have heard of it
                self._take_turns()
        finally:
            over.set()

    def _take_turns(self) -> None:
        try:
            self._ident = threading.get_ident()
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

    def _let(self, hand: Hand) -> None:
        self.hand = hand
        try:
            if hand.coroutine is None:
                hand.coroutine = hand.make()
            hand.coroutine.send(None)
        except StopIteration:
            self._hands.discard(hand)
        finally:
            del self.hand

    def _look(self) -> None:
        """Wait for a socket, the alarm or the next end of a wait."""
        seconds = None if self._soonest == NEVER else max(0.0, self._soonest - time.monotonic())
        if self._selector is not None and self._selector.get_map():
            came = self._selector.select(seconds)
        else:  # only a time is waited for; Windows' `select` takes no empty lists
            time.sleep(seconds or 0.0)
            came = []
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
            self._soonest = min((hand.until for hand in self._hands if hand.waits), default=NEVER)

    def _open(self) -> selectors.BaseSelector:
        selector = self._selector = _ForFew() if self._borrowed else selectors.DefaultSelector()
        return selector

    def _break_off(self, error: BaseException) -> None:
        for hand in list(self._hands):
            if hand.coroutine is not None:
                with suppress(BaseException):
                    hand.coroutine.throw(error)
                hand.coroutine.close()
            hand.failed(error)
        self._hands.clear()
        self._ready.clear()
        with self._lock:
            self._posted.clear()
            self._end()

    def _ring(self) -> None:
        """Wake it, under the lock."""
        if self._asleep and self._alarm is not None:
            self._asleep = False
            self._alarm[1].send(b"\0")

    def _end(self) -> None:
        """Nobody is left. Under the lock, so that whoever posts finds either a reactor that runs or one that may."""
        self._running = self._asleep = self._borrowed = False
        self._ident = None
        self._soonest = NEVER
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
