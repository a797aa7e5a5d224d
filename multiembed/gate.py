"""How many requests of one account are in flight: one gate for threads and event loops together."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


class Gate:
    """First come, first served; nobody holds a place while waiting out a back-off."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._waiting: deque[_Ticket] = deque()

    @property
    def in_flight(self) -> int:
        """Requests inside now."""
        return self._inside

    @contextmanager
    def hold(self, ceiling: int) -> Iterator[None]:
        """A place inside, once fewer than `ceiling` are taken; for threads."""
        opened = threading.Event()
        ticket = self._queue(ceiling, opened.set)
        try:
            if not ticket.admitted:
                opened.wait()
            yield
        finally:
            self._leave(ticket)

    @asynccontextmanager
    async def ahold(self, ceiling: int) -> AsyncIterator[None]:
        """A place inside, once fewer than `ceiling` are taken; for tasks."""
        loop = asyncio.get_running_loop()
        opened = loop.create_future()
        ticket = self._queue(ceiling, lambda: loop.call_soon_threadsafe(_open, opened))
        try:
            if not ticket.admitted:
                await opened
            yield
        finally:
            self._leave(ticket)

    def _queue(self, ceiling: int, open_: Callable[[], object]) -> _Ticket:
        ticket = _Ticket(ceiling, open_)
        with self._lock:
            if not self._waiting and self._inside < ceiling:
                ticket.admitted = True
                self._inside += 1
            else:
                self._waiting.append(ticket)
        return ticket

    def _leave(self, ticket: _Ticket) -> None:
        """Give the place back, or the place in the queue when the wait was cut short."""
        with self._lock:
            if ticket.admitted:
                self._inside -= 1
            elif ticket in self._waiting:
                self._waiting.remove(ticket)
            self._admit()

    def _admit(self) -> None:
        while self._waiting and self._inside < self._waiting[0].ceiling:
            ticket = self._waiting.popleft()
            try:
                ticket.open()
            except RuntimeError:  # its event loop is closed: nobody waits there any more
                continue
            ticket.admitted = True
            self._inside += 1


class _Ticket:
    __slots__ = ("admitted", "ceiling", "open")

    def __init__(self, ceiling: int, open_: Callable[[], object]) -> None:
        self.ceiling = ceiling
        self.open = open_
        self.admitted = False


def _open(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_gates: dict[str, Gate] = {}


def gate_of(account: str) -> Gate:
    """The gate of an account in this process, the same for every embedder on it.

    Args:
        account: a name made of provider, host and a hash of the key.
    """
    return _gates.setdefault(account, Gate())


# A forked child has none of its parent's requests in flight, and a lock may have been held at the fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_gates.clear)
