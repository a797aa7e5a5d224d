"""Which requests of one account are in flight: one gate for threads and event loops together."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from multiembed.weather import Weather

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType


_LOOK_UP = 1.0
"""Seconds after which whoever waits looks again: an event loop that stops wakes nobody."""


class Gate:
    """First come, first served, as many as the callers' ceilings and the account's weather allow.

    Args:
        clock: seconds; the one that the flows use.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.weather = Weather()
        self._clock = clock
        self._lock = threading.Lock()
        self._inside: set[_Place] = set()
        self._waiting: deque[_Place] = deque()

    @property
    def in_flight(self) -> int:
        """Requests inside now."""
        return len(self._inside)

    def place(self, ceiling: int, ends: float | None = None, blocks: asyncio.AbstractEventLoop | None = None) -> _Place:
        """A place inside, to be held `with` or `async with`, once fewer than `ceiling` are taken.

        What the context gives is whether there was one: False when none came, or none can come, before `ends`. The
        verdict on the answer is told while the place is held. Nobody holds one while waiting out a back-off.

        Args:
            ceiling: the most that the caller wants in flight.
            ends: on the gate's clock.
            blocks: the event loop that cannot run while this place is waited for, because a sync call was made in it.
                What that loop holds, or queues for, is not waited for.
        """
        return _Place(self, ceiling, float("inf") if ends is None else ends, blocks)

    def answered(self) -> None:
        """Tell that the provider answered as it should."""
        with self._lock:
            self.weather.answered()

    def failed(self, delay: float) -> None:
        """Tell that a request failed, and how long it will wait."""
        with self._lock:
            self.weather.failed(self._clock(), delay)
            self._wake()

    def slowed(self, delay: float) -> None:
        """Tell that the provider finds the account too fast, and how long it wants to be left alone."""
        with self._lock:
            self.weather.slowed(self._clock(), delay)
            self._wake()

    def may_retry(self) -> bool:
        """Whether the account's retry budget has one left, which is then spent."""
        with self._lock:
            return self.weather.may_retry()

    # ── the queue ────────────────────────────────────────────────────────────────────────────────

    def _enter(self, place: _Place) -> None:
        with self._lock:
            if (not self._waiting or place.blocks is not None) and self._has_room(place):
                place.admitted = True
                self._inside.add(place)
            else:
                self._waiting.append(place)

    def _look_again(self, ends: float) -> float:
        """Admit whoever may come in; the seconds until it is worth looking again.

        Raises:
            _TooLateError: that is after `ends`.
        """
        with self._lock:
            self._admit()
            now = self._clock()
            if max(now, self.weather.closed_until) >= ends:
                raise _TooLateError
            shut = self.weather.closed_until if self.weather.closed_until > now else float("inf")
            return min(ends - now, shut - now, _LOOK_UP)

    def _leave(self, place: _Place) -> None:
        """Give the place back, or the place in the queue when the wait was cut short."""
        with self._lock:
            self._inside.discard(place)
            if place in self._waiting:
                self._waiting.remove(place)
            self._admit()

    def _admit(self) -> None:
        held_up = False
        for place in list(self._waiting):
            if held_up and place.blocks is None:  # nobody overtakes, but who would otherwise wait for ever
                continue
            if not self._has_room(place):
                held_up = True
                continue
            self._waiting.remove(place)
            if place.wake():
                place.admitted = True
                self._inside.add(place)

    def _has_room(self, place: _Place) -> bool:
        room = self.weather.room(self._clock(), place.ceiling)
        if len(self._inside) < room:
            return True
        # A place whose loop does not run, or that this very place keeps from running, may never be given back.
        return room > 0 and sum(other.moves(place.blocks) for other in self._inside) < room

    def _wake(self) -> None:
        """Let all who wait look at the clock again: the gate was shut for a time."""
        for place in self._waiting:
            place.wake()


class _TooLateError(Exception):
    pass


class _Place:
    """One request's place, waited for by a thread or by a task."""

    __slots__ = ("_ends", "_gate", "_loop", "_wake", "admitted", "blocks", "ceiling")

    def __init__(self, gate: Gate, ceiling: int, ends: float, blocks: asyncio.AbstractEventLoop | None) -> None:
        self._gate = gate
        self._ends = ends
        self._loop: asyncio.AbstractEventLoop | None = None
        self.blocks = blocks
        self._wake: Callable[[], object] = bool
        self.ceiling = ceiling
        self.admitted = False

    def moves(self, blocked: asyncio.AbstractEventLoop | None) -> bool:
        """Whether whoever holds this place can go on while a loop is blocked."""
        return self._loop is None or (self._loop is not blocked and self._loop.is_running())

    def wake(self) -> bool:
        """Wake whoever waits for it; False when its event loop is closed and nobody does."""
        try:
            self._wake()
        except RuntimeError:
            return False
        return True

    def __enter__(self) -> bool:
        event = threading.Event()
        self._wake = event.set
        try:
            self._gate._enter(self)
            while not self.admitted:
                shut = self._gate._look_again(self._ends)
                if not self.admitted:
                    event.wait(shut)
                    event.clear()
        except _TooLateError:
            return self.admitted
        except BaseException:
            self._gate._leave(self)
            raise
        return True

    async def __aenter__(self) -> bool:
        self._loop = loop = asyncio.get_running_loop()
        event = asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(event.set)
        try:
            self._gate._enter(self)
            while not self.admitted:
                shut = self._gate._look_again(self._ends)
                if not self.admitted:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(shut):
                            await event.wait()
                    event.clear()
        except _TooLateError:
            return self.admitted
        except BaseException:
            self._gate._leave(self)
            raise
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate._leave(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate._leave(self)


_gates: dict[str, Gate] = {}


def gate_of(account: str) -> Gate:
    """The gate of an account in this process, the same for every embedder on it.

    Args:
        account: a name made of provider, host and a hash of the key.
    """
    return _gates.get(account) or _gates.setdefault(account, Gate())


# A forked child has none of its parent's requests in flight, and a lock may have been held at the fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_gates.clear)
