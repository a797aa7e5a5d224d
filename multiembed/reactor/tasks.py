"""The reactor of async calls: hands are tasks of the caller's event loop."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_T = TypeVar("_T")


def running_loop() -> asyncio.AbstractEventLoop:
    """The event loop of the caller.

    Raises:
        ConfigurationError: it does not run in one of asyncio.
    """
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        pass
    raise ConfigurationError(
        "Async calls need an event loop of asyncio (or uvloop), and none runs here. Under trio, call the sync method "
        "in a thread: await trio.to_thread.run_sync(client.embed, texts)."
    )


class TaskSignal:
    """Set from any thread, waited for in the loop."""

    __slots__ = ("_event", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._event = asyncio.Event()

    def set(self) -> None:
        """See Signal."""
        self._loop.call_soon_threadsafe(self._event.set)

    async def wait(self, seconds: float) -> bool:
        """See Signal."""
        if seconds <= 0.0:
            await asyncio.sleep(0)
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._event.wait()
        was_set = self._event.is_set()
        self._event.clear()
        return was_set


class TaskReactor:
    """The hands of one async call; a cancelled call leaves none behind."""

    blocked = None

    def __init__(self) -> None:
        self.loop = running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False

    @property
    def here(self) -> bool:
        """See Reactor."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False

    def start(self, make: Callable[[], Coroutine[Any, Any, None]], failed: Callable[[BaseException], None]) -> None:
        """See Reactor."""
        task = asyncio.ensure_future(make())
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, failed))

    def signal(self) -> TaskSignal:
        """See Reactor."""
        return TaskSignal(self.loop)

    async def aside(self, act: Callable[..., _T], *args: Any) -> _T:
        """See Reactor."""
        return await asyncio.to_thread(act, *args)

    async def run(self) -> None:
        """Until no hand is left."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def aclose(self) -> None:
        """End all hands, what they sent included."""
        self._closing = True
        if self.loop.is_closed():  # the collector ends the call, and nobody can be waited for any more
            return
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, failed: Callable[[BaseException], None], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() and not self._closing:  # by somebody else: its texts have no answer, and the call ends
            failed(asyncio.CancelledError("one of the call's tasks was cancelled"))
