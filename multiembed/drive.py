"""The two drivers that play the flows of a call: threads for sync callers, tasks for async callers.

Only these are twins: sending, waiting, the place at the gate, and the fan-out. Every rule stands in `flow`. A crew
grows by one hand when none of its hands stands in the queue at the gate: so no more are there than the account has room
for.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import contextmanager, nullcontext
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from multiembed.flow import exchange
from multiembed.job import WITHHELD, Send

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator
    from contextlib import AbstractContextManager

    from multiembed.job import Answer, Batch, Job, Outcome, Step
    from multiembed.place import Place
    from multiembed.records import WireRequest

_T = TypeVar("_T")

_MOST_GONE = 16
"""Threads that have ended and are still noted."""
_CROWD = 64
"""Threads of which only one at a time takes an answer apart. Whoever waits for the GIL wakes every 5 ms to ask for it,
whoever waits for a lock sleeps: 200 threads change places 14 times a request instead of 36, and take a tenth less time
in all. 50 gain nothing."""


def _nobody() -> None:
    """Nobody waits."""


@dataclass(frozen=True, slots=True)
class Work:
    """The batches of one call and what playing them takes."""

    take: Callable[[], Batch | None]
    """The next batch; None when there is none now. Asked by one hand at a time."""
    job: Job
    workers: int
    """The most batches played at once."""
    done: Callable[[Batch, Outcome], None]
    """Is told each batch's outcome."""
    blocks: bool = False
    """Whether `done` may take long, so that it must not hold up an event loop."""
    wake: Callable[[], object] = _nobody
    """Called when a hand broke down, for whoever waits for the outcomes."""


async def aside(act: Callable[..., _T], *args: Any, blocks: bool) -> _T:
    """Do something, in a thread if it would hold up the event loop."""
    return await asyncio.to_thread(act, *args) if blocks else act(*args)


class _Roster:
    """How many hands there are, and how many of them are on their way to the gate or stand there in the queue."""

    __slots__ = ("_most", "_turned_away", "hands", "queueing")

    def __init__(self, most: int) -> None:
        self._most = most
        self._turned_away = False
        self.hands = 0
        self.queueing = 0

    def hire(self) -> bool:
        """Whether one more hand is wanted, which is then counted as on its way."""
        self._turned_away = bool(self.queueing) or self.hands >= self._most
        if self._turned_away:
            return False
        self.hands += 1
        self.queueing += 1
        return True

    def leave(self) -> bool:
        """A hand found no further batch. Whether another was turned away for its sake, and should look again."""
        self.hands -= 1
        self.queueing -= 1
        again, self._turned_away = self._turned_away, False
        return again


class Crew:
    """One call's threads. They are daemons, so a program that ends does not wait for them."""

    def __init__(self, work: Work, send: Callable[[WireRequest], Answer]) -> None:
        self._work = work
        self._send = send
        self._context = copy_context()
        self._lock = threading.Lock()
        self._taking = threading.Lock()
        self._thinking: AbstractContextManager[Any] = threading.Lock() if work.workers > _CROWD else nullcontext()
        self._stop = threading.Event()
        self._roster = _Roster(work.workers)
        self._helpers: list[threading.Thread] = []
        self._queue: set[Place] = set()
        self._left: Batch | None = None
        self._error: BaseException | None = None
        try:
            self._blocks: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._blocks = None

    def run(self) -> None:
        """Play every batch, the caller's thread being one of the hands."""
        self._roster.hire()
        try:
            self._toil(self._take())
            while self._helpers:
                self._helpers.pop().join()
        finally:  # on Ctrl-C too: those that are sending finish their request, and take no other
            self.close()
        self.check()

    def hire(self) -> None:
        """One more hand, if there is a batch for it and none stands in the queue."""
        with self._lock:
            if not self._roster.hire():
                return
        batch = self._take()
        if batch is None or not self._start(batch):
            self._leave()

    def alone(self) -> bool:
        """Play in the caller's thread what no helper could be started for; whether there was such a thing."""
        with self._lock:
            if self._left is None or self._roster.hands or not self._roster.hire():
                return False
        self._toil(self._take())
        return True

    def close(self) -> None:
        """No further request goes out; those that are sent are heard to their end, and nobody stays in the queue."""
        self._stop.set()
        for place in list(self._queue):
            place.withdraw()

    def check(self) -> None:
        """Raise what broke a hand."""
        if self._error is not None:
            raise self._error

    def _start(self, batch: Batch) -> bool:
        """A helper that begins with this batch; False at interpreter shutdown, where no thread starts any more."""
        run = self._context.copy().run
        helper = threading.Thread(target=run, args=(self._help, batch), name="multiembed", daemon=True)
        try:
            helper.start()
        except RuntimeError:
            self._left = batch
            self._work.wake()
            return False
        with self._lock:
            self._helpers.append(helper)
            if len(self._helpers) > 2 * self._roster.hands + _MOST_GONE:  # a stream hires for as long as it runs
                self._helpers[:] = [each for each in self._helpers if each.is_alive()]
        return True

    def _take(self) -> Batch | None:
        with self._taking:
            left, self._left = self._left, None
            return None if self._stop.is_set() else left or self._work.take()

    def _help(self, batch: Batch) -> None:
        try:
            self._toil(batch)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
            self._error = self._error or error
            self._stop.set()
            self._work.wake()

    def _toil(self, batch: Batch | None) -> None:
        while batch is not None:
            outcome = self._play(exchange(batch, self._work.job))
            if outcome is not None:
                self._work.done(batch, outcome)
            batch = self._take()
        self._leave()

    def _leave(self) -> None:
        with self._lock:
            again = self._roster.leave()
        if again:  # work may have come since this hand looked for some
            self.hire()

    def _play(self, flow: Generator[Step, Answer, Outcome]) -> Outcome | None:
        place: Place | None = None
        try:
            step = next(flow)
            while not self._stop.is_set():
                if isinstance(step, Send):
                    place = step.place
                    place.blocks = self._blocks
                    self._queue.add(place)
                    if self._stop.is_set():
                        place.withdraw()
                    with place as admitted, self._out():
                        self._queue.discard(place)
                        answer = self._answer(step) if admitted else WITHHELD
                        with self._thinking:
                            step = flow.send(answer)
                else:
                    if step.seconds > 0.0:
                        with self._out():
                            self._stop.wait(step.seconds)
                    step = next(flow)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        finally:
            if place is not None:
                self._queue.discard(place)
                place.leave()
            flow.close()
        return None

    @contextmanager
    def _out(self) -> Iterator[None]:
        """This hand is out of the queue meanwhile, and another may go there."""
        with self._lock:
            self._roster.queueing -= 1
        self.hire()
        try:
            yield
        finally:
            with self._lock:
                self._roster.queueing += 1

    def _answer(self, step: Send) -> Answer:
        if self._stop.is_set() or self._work.job.fatal is not None:  # what happened while it stood in the queue
            return WITHHELD
        return self._send(step.request)


class TaskCrew:
    """One call's tasks of the running loop; a cancelled call leaves none behind."""

    def __init__(self, work: Work, send: Callable[[WireRequest], Awaitable[Answer]]) -> None:
        self._work = work
        self._send = send
        self._stopped = False
        self._roster = _Roster(work.workers)
        self._helpers: set[asyncio.Task[None]] = set()
        self._error: BaseException | None = None

    async def run(self) -> None:
        """Play every batch, the caller's task being one of the hands."""
        self._roster.hire()
        try:
            await self._toil(self._take())
            while self._helpers:
                await asyncio.wait(self._helpers)
        finally:
            await self.aclose()
        self.check()

    def hire(self) -> None:
        """One more hand, if there is a batch for it and none stands in the queue."""
        if not self._roster.hire():
            return
        batch = self._take()
        if batch is None:
            self._roster.leave()
            return
        helper = asyncio.ensure_future(self._help(batch))
        self._helpers.add(helper)
        helper.add_done_callback(self._ended)

    async def aclose(self) -> None:
        """End all hands, what they sent included."""
        self._stopped = True
        helpers = list(self._helpers)
        for helper in helpers:
            helper.cancel()
        await asyncio.gather(*helpers, return_exceptions=True)

    def check(self) -> None:
        """Raise what broke a hand."""
        if self._error is not None:
            raise self._error

    def _take(self) -> Batch | None:
        return None if self._stopped else self._work.take()

    async def _help(self, batch: Batch) -> None:
        try:
            await self._toil(batch)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's task
            self._break(error)

    def _ended(self, helper: asyncio.Task[None]) -> None:
        self._helpers.discard(helper)
        if helper.cancelled() and not self._stopped:  # by somebody else: its texts have no answer, and the call ends
            self._break(asyncio.CancelledError("one of the call's tasks was cancelled"))

    def _break(self, error: BaseException) -> None:
        self._error = self._error or error
        self._stopped = True
        self._work.wake()

    async def _toil(self, batch: Batch | None) -> None:
        while batch is not None:
            outcome = await self._play(exchange(batch, self._work.job))
            await aside(self._work.done, batch, outcome, blocks=self._work.blocks)
            batch = self._take()
        self._roster.leave()

    async def _play(self, flow: Generator[Step, Answer, Outcome]) -> Outcome:
        try:
            step = next(flow)
            while True:
                if isinstance(step, Send):
                    async with step.place as admitted:
                        with self._out():
                            held_back = not admitted or self._work.job.fatal is not None
                            step = flow.send(WITHHELD if held_back else await self._send(step.request))
                else:
                    with self._out() if step.seconds > 0.0 else nullcontext():
                        await asyncio.sleep(step.seconds)
                    step = next(flow)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        finally:
            flow.close()

    @contextmanager
    def _out(self) -> Iterator[None]:
        self._roster.queueing -= 1
        self.hire()
        try:
            yield
        finally:
            self._roster.queueing += 1
