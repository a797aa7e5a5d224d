"""What hands may wait for, whichever reactor they run on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")


class Signal(Protocol):
    """What one hand waits for until anybody sets it."""

    def set(self) -> None:
        """Wake whoever waits, from any thread; who comes later does not wait.

        Raises:
            RuntimeError: the event loop is closed, and nobody waits any more.
        """

    async def wait(self, seconds: float) -> bool:
        """Wait so long at most; whether it was set, which it is no longer afterwards."""


class Reactor(Protocol):
    """Runs the hands of one call."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that the hands are tasks of; None where they have a thread."""

    @property
    def blocked(self) -> asyncio.AbstractEventLoop | None:
        """The event loop that stands still until the hands are done, because a sync call was made in it."""

    @property
    def here(self) -> bool:
        """Whether it runs in this thread, now."""

    def start(self, make: Callable[[], Coroutine[Any, Any, None]], failed: Callable[[BaseException], None]) -> None:
        """Let one more hand run, which raises nothing.

        Args:
            make: makes it, at its first turn at the latest.
            failed: is told what has ended it before it could tell itself.
        """

    def signal(self) -> Signal:
        """A new signal."""

    async def aside(self, act: Callable[..., _T], *args: Any) -> _T:
        """Do something that blocks, in a thread, while others go on."""
