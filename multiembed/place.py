"""One request's place in flight, as a thread or a task waits for it, holds it and gives it back."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from multiembed.gate import Gate
    from multiembed.pace import Ceilings
    from multiembed.records import Quota
    from multiembed.window import Ticket


class TooLateError(Exception):
    """There is no room before the place's end."""


class Place:
    """One request's place, waited for by a thread or by a task, and told how the request fared."""

    __slots__ = ("_gate", "_loop", "_wake", "blocks", "ceilings", "ends", "ticket", "tokens")

    def __init__(self, gate: Gate, ceilings: Ceilings, tokens: float, ends: float) -> None:
        self._gate = gate
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: Callable[[], object] = bool
        self.ceilings = ceilings
        self.tokens = tokens
        self.ends = ends
        self.ticket: Ticket | None = None
        """Of the request, once it was let in."""
        self.blocks: asyncio.AbstractEventLoop | None = None
        """The event loop that cannot run while this place is waited for, because a sync call was made in it. What that
        loop holds, or queues for, is not waited for."""

    # ── the verdict ──────────────────────────────────────────────────────────────────────────────

    def answered(self, billed: int | None = None) -> None:
        """The provider answered as it should, and billed so many tokens."""
        self._gate.answered(self.ticket, billed)

    def failed(self, delay: float) -> None:
        """The request failed, and will wait so many seconds."""
        self._gate.failed(delay)

    def slowed(self, delay: float, *, asked: bool, quota: Quota | None = None, usual: Quota | None = None) -> None:
        """The provider finds the account too fast.

        Args:
            delay: seconds that the request will wait.
            asked: whether the provider wants to be left alone for as long.
            quota: what is used up, where the refusal tells.
            usual: what the provider's documents say it limits.
        """
        self._gate.slowed(self.ticket, quota, usual, delay, asked=asked)

    # ── the end of the wait, or of the request ───────────────────────────────────────────────────

    def withdraw(self) -> None:
        """Wait no longer, as if its end had come. May be called from any thread."""
        self.ends = float("-inf")
        self.wake()

    def leave(self) -> None:
        """Give it back, if that was not done: Ctrl-C may have come while it was."""
        self._gate.leave(self)

    # ── the wait ─────────────────────────────────────────────────────────────────────────────────

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
            self._gate.enter(self)
            while self.ticket is None:
                shut = self._gate.look_again(self)
                if self.ticket is None:
                    event.wait(shut)
                    event.clear()
        except TooLateError:
            return self.ticket is not None
        except BaseException:
            self._gate.leave(self)
            raise
        return True

    async def __aenter__(self) -> bool:
        self._loop = loop = asyncio.get_running_loop()
        event = asyncio.Event()
        self._wake = lambda: loop.call_soon_threadsafe(event.set)
        try:
            self._gate.enter(self)
            while self.ticket is None:
                shut = self._gate.look_again(self)
                if self.ticket is None:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(shut):
                            await event.wait()
                    event.clear()
        except TooLateError:
            return self.ticket is not None
        except BaseException as error:
            self._leave_task(type(error))
            raise
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._gate.leave(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave_task(kind)

    def _leave_task(self, kind: type[BaseException] | None) -> None:
        """Give it back: at once, or where it is not the task's loop that ends the task, later."""
        try:
            collected = kind is GeneratorExit or asyncio.get_running_loop() is not self._loop
        except RuntimeError:
            collected = True
        (self._gate.forsake if collected else self._gate.leave)(self)
