"""A hand of a thread's reactor, and the signal that it waits for."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from multiembed.reactor.threads import ThreadReactor

NEVER = float("inf")


class Hand:
    """A coroutine, and what it waits for."""

    __slots__ = ("coroutine", "failed", "in_time", "make", "until", "waits")

    def __init__(self, make: Callable[[], Coroutine[Any, Any, None]], failed: Callable[[BaseException], None]) -> None:
        self.make = make
        """Called at its first turn, because one that is made and never run would be complained of."""
        self.failed = failed
        self.coroutine: Coroutine[Any, Any, None] | None = None
        self.waits = False
        self.until = NEVER
        self.in_time = False


class ThreadSignal:
    """Set from any thread, waited for by one hand."""

    __slots__ = ("_hand", "_reactor", "_set")

    def __init__(self, reactor: ThreadReactor) -> None:
        self._reactor = reactor
        self._hand: Hand | None = None
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
                with suppress(OSError):  # no file is left for that: whoever waits at the gate looks again soon
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
