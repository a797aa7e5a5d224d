"""One request's place in flight, as a hand waits for it, holds it and gives it back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from types import TracebackType

    from multiembed.gate import Gate
    from multiembed.pace import Ceilings
    from multiembed.reactor.contract import Reactor
    from multiembed.records import FaultKind, Quota
    from multiembed.window import Ticket


class TooLateError(Exception):
    """There is no room before the place's end."""


class Place:
    """One request's place, waited for by a hand, and told how the request fared."""

    __slots__ = ("_gate", "_wake", "ceilings", "ends", "reactor", "ticket", "tokens")

    def __init__(self, gate: Gate, ceilings: Ceilings, tokens: float, ends: float) -> None:
        self._gate = gate
        self._wake: Callable[[], object] = bool
        self.ceilings = ceilings
        self.tokens = tokens
        self.ends = ends
        self.ticket: Ticket | None = None
        """Of the request, once it was let in."""
        self.reactor: Reactor
        """Where the hand runs that wants it, told before it is waited for."""

    # ── the verdict ──────────────────────────────────────────────────────────────────────────────

    def answered(self, billed: int | None = None) -> None:
        """The provider answered as it should, and billed so many tokens."""
        self._gate.answered(self.ticket, billed)

    def failed(self, delay: float, kind: FaultKind = "server") -> None:
        """The request failed, and will wait so many seconds."""
        self._gate.failed(delay, kind)

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

    def let_go(self, kind: type[BaseException] | None) -> None:
        """Give it back: at once, or where the garbage collector ends the hand, later. Twice is as good as once.

        Args:
            kind: of the error that ends the hand.
        """
        collected = kind is GeneratorExit or not self.reactor.here
        (self._gate.forsake if collected else self._gate.leave)(self)

    # ── the wait ─────────────────────────────────────────────────────────────────────────────────

    @property
    def blocks(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that cannot run while this place is waited for, because a sync call was made in it.

        What that loop holds, or queues for, is not waited for.
        """
        return self.reactor.blocked

    def moves(self, blocked: asyncio.AbstractEventLoop | None) -> bool:
        """Whether whoever holds this place can go on while a loop is blocked."""
        loop = self.reactor.loop
        return loop is None or (loop is not blocked and loop.is_running())

    def wake(self) -> bool:
        """Wake whoever waits for it; False when its event loop is closed and nobody does."""
        try:
            self._wake()
        except RuntimeError:
            return False
        return True

    async def __aenter__(self) -> bool:
        signal = self.reactor.signal()
        self._wake = signal.set
        try:
            self._gate.enter(self)
            while self.ticket is None:
                shut = self._gate.look_again(self)
                if self.ticket is None:
                    await signal.wait(shut)
        except TooLateError:
            return self.ticket is not None
        except BaseException as error:
            self.let_go(type(error))
            raise
        return True

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_go(kind)
