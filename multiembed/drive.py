"""The hands of one call, which play its batches, and the two doors to them: for sync callers and for async ones.

Every rule stands in `flow`; here is who plays which batch, and how many hands there are. A call grows by one hand when
none of its hands stands in the queue at the gate: so no more are there than the account has room for. The hands are the
same ones for both doors; what differs is the reactor that they run on.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from multiembed.errors import MultiEmbedError, unexpected
from multiembed.flow import exchange
from multiembed.job import WITHHELD, Outcome, Send
from multiembed.reactor.tasks import TaskReactor
from multiembed.reactor.threads import ThreadReactor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator

    from multiembed.job import Answer, Batch, Job, Step
    from multiembed.place import Place
    from multiembed.reactor.contract import Reactor, Signal
    from multiembed.records import WireRequest

_T = TypeVar("_T")


def _nobody(*_: object) -> None:
    """Nobody waits."""


@dataclass(frozen=True, slots=True)
class Work:
    """The batches of one call and what playing them takes."""

    take: Callable[[], Batch | None]
    """The next batch; None when there is none now."""
    job: Job
    workers: int
    """The most batches played at once."""
    done: Callable[[Batch, Outcome], None]
    """Is told each batch's outcome."""
    blocks: bool = False
    """Whether `done` may take long, so that nobody is held up by it."""
    briefly: bool = False
    """Whether that is no longer than a local disk takes: other hands may wait for it, an event loop may not."""
    wake: Callable[[], object] = _nobody
    """Called when a hand broke down, for whoever waits for the outcomes."""
    end: Callable[[], object] = _nobody
    """Called when the call cannot go on and nothing is under way any more."""
    cancelled: Callable[[Batch, Outcome], object] = _nobody
    """Is told what a batch has cost that a cancelled task leaves unfinished."""


async def aside(act: Callable[..., _T], *args: Any, blocks: bool) -> _T:
    """Do something, in a thread if it would hold up the event loop."""
    return await asyncio.to_thread(act, *args) if blocks else act(*args)


class _Hands:
    """All hands of one call. What is here is called where the reactor runs, or while it does not."""

    def __init__(self, work: Work, send: Callable[[WireRequest, Reactor], Awaitable[Answer]], reactor: Reactor) -> None:
        self.error: BaseException | None = None
        """What ends the call at once, such as Ctrl-C."""
        self._work = work
        self._send = send
        self._reactor = reactor
        self.stopped = False
        """No further request goes out."""
        self._count = 0
        self._queueing = 0
        """Those on their way to the gate, or in the queue there."""
        self._queue: set[Place] = set()
        self._resting: set[Signal] = set()
        self._left: Batch | None = None

    def hire(self) -> None:
        """One more hand, if there is a batch for it and none stands in the queue."""
        if self._queueing or self._count >= self._work.workers:
            return
        try:
            batch = self._take()
        except BaseException as error:  # noqa: BLE001 - it is raised again by the door
            self.fail(error)
            return
        if batch is not None:
            self._count += 1
            self._queueing += 1
            self._reactor.start(partial(self._help, batch), self.break_off)

    def more(self) -> bool:
        """Whether there is another batch, which is then taken up next."""
        try:
            self._left = self._take()
        except BaseException as error:  # noqa: BLE001 - it is raised again by the door
            self.fail(error)
        return self._left is not None

    def stop(self) -> None:
        """No further request goes out; those that are sent are heard to their end, and nobody stays in the queue."""
        self.stopped = True
        for place in list(self._queue):
            place.withdraw()
        for signal in self._resting:
            with suppress(RuntimeError):  # its event loop is closed
                signal.set()

    def fail(self, error: BaseException) -> None:
        """The call cannot go on. After an exception, it keeps the results that it has."""
        if not isinstance(error, Exception):
            self.break_off(error)
            return
        job = self._work.job
        job.fatal = job.fatal or self._as_error(error)
        self.stop()
        self._end()
        self._work.wake()

    def break_off(self, error: BaseException) -> None:
        """End the call at once."""
        self.error = self.error or error
        self.stop()
        self._work.wake()

    def check(self) -> None:
        """Raise what ends the call at once."""
        if self.error is not None:
            raise self.error

    def _as_error(self, error: Exception) -> MultiEmbedError:
        if isinstance(error, MultiEmbedError):
            return error
        target = self._work.job.target
        return unexpected(error, provider=target.provider.id, model=target.facts.name)

    def _end(self) -> None:
        """See that no text is waited for in vain, once nothing is under way in a call that cannot go on."""
        if self.stopped and not self._count and self.error is None and self._work.job.fatal is not None:
            self._work.end()

    def _take(self) -> Batch | None:
        left, self._left = self._left, None
        return None if self.stopped else left or self._work.take()

    async def _help(self, batch: Batch | None) -> None:
        try:
            while batch is not None:
                outcome = Outcome()
                reason = await self._embed(batch, outcome)
                untouched = self.stopped and self._work.job.fatal is None and not outcome.requests
                if not untouched:
                    outcome.fail_rest(batch, reason or _broken_off())
                    await self._put_away(batch, outcome)
                batch = self._take()
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised again by the door
            self.fail(error)
        finally:
            self._count -= 1
            self._queueing -= 1
            self._end()

    async def _embed(self, batch: Batch, outcome: Outcome) -> MultiEmbedError | None:
        """Run a batch's flow; the error of the texts that have no result, if there are any.

        What goes wrong in one batch leaves the others alone: they are paid for.
        """
        try:
            if await self._play(exchange(batch, self._work.job, outcome)):
                return None
        except asyncio.CancelledError:
            self._work.cancelled(batch, outcome)
            raise
        except MultiEmbedError as error:  # raised instead of returned: nothing can be sent
            self.fail(error)
            return error
        except Exception as error:  # noqa: BLE001 - whatever it is, other batches are paid for
            return self._as_error(error)
        return self._work.job.fatal or _broken_off()

    async def _put_away(self, batch: Batch, outcome: Outcome) -> None:
        if self._work.blocks and not (self._work.briefly and self._reactor.loop is None):
            await self._reactor.aside(self._work.done, batch, outcome)
        else:
            self._work.done(batch, outcome)

    async def _play(self, flow: Generator[Step, Answer, Outcome]) -> bool:
        """Run a flow; whether it came to its end."""
        place: Place | None = None
        try:
            step = next(flow)
            while not self.stopped:
                if isinstance(step, Send):
                    step.place.reactor = self._reactor
                    place = step.place  # from here on Ctrl-C gives it back
                    self._queue.add(place)
                    async with place as admitted:
                        self._queue.discard(place)
                        with self._out():
                            step = flow.send(await self._answer(step) if admitted else WITHHELD)
                else:
                    with self._out() if step.seconds > 0.0 else nullcontext():
                        await self._rest(step.seconds)
                    step = next(flow)
        except StopIteration:
            return True
        except BaseException as error:
            if place is not None:  # Ctrl-C may have come while it was given back
                place.let_go(type(error))
            raise
        finally:
            if place is not None:
                self._queue.discard(place)
            flow.close()
        return False

    async def _answer(self, step: Send) -> Answer:
        if self.stopped or self._work.job.fatal is not None:  # what happened while it stood in the queue
            return WITHHELD
        return await self._send(step.request, self._reactor)

    async def _rest(self, seconds: float) -> None:
        signal = self._reactor.signal()
        self._resting.add(signal)
        try:
            await signal.wait(seconds)
        finally:
            self._resting.discard(signal)

    @contextmanager
    def _out(self) -> Iterator[None]:
        """This hand is out of the queue meanwhile, and another may go there."""
        self._queueing -= 1
        self.hire()
        try:
            yield
        finally:
            self._queueing += 1


def _broken_off() -> MultiEmbedError:
    return MultiEmbedError("The call was broken off before this text had an answer. Call again.")


class Crew:
    """The hands of one sync call, in one thread."""

    def __init__(self, work: Work, send: Callable[[WireRequest, Reactor], Awaitable[Answer]]) -> None:
        self._reactor = ThreadReactor()
        self._hands = _Hands(work, send, self._reactor)

    def run(self) -> None:
        """Play every batch: a single one in the caller's thread, more in one beside it.

        Ctrl-C reaches the caller, while what was sent is heard to its end.
        """
        try:
            self._hands.hire()
            if self._hands.more() and self._reactor.begin():
                self._reactor.wait()
            self._reactor.run()
        finally:
            self.close()
        self._hands.check()

    def hire(self) -> None:
        """One more hand, soon, if there is a batch for it and none stands in the queue."""
        self._reactor.begin(self._hands.hire)

    def alone(self) -> bool:
        """Play in the caller's thread what no thread could be started for; whether there was such a thing."""
        self._reactor.look_around()  # a stream may be begun in one place and read on in another
        return self._reactor.run()

    def close(self) -> None:
        """No further request goes out; those that are sent are heard to their end, and nobody stays in the queue."""
        self._hands.stopped = True  # first: Ctrl-C may come a second time, and while this one is told
        self._reactor.post(self._hands.stop)

    def check(self) -> None:
        """Raise what broke a hand."""
        self._hands.check()


class TaskCrew:
    """The hands of one async call, in tasks of the running loop; a cancelled call leaves none behind."""

    def __init__(self, work: Work, send: Callable[[WireRequest, Reactor], Awaitable[Answer]]) -> None:
        self._reactor = TaskReactor()
        self._hands = _Hands(work, send, self._reactor)

    async def run(self) -> None:
        """Play every batch."""
        try:
            self._hands.hire()
            await self._reactor.run()
        finally:
            await self.aclose()
        self._hands.check()

    def hire(self) -> None:
        """One more hand, if there is a batch for it and none stands in the queue."""
        self._hands.hire()

    async def aclose(self) -> None:
        """End all hands, what they sent included."""
        self._hands.stop()
        await self._reactor.aclose()

    def check(self) -> None:
        """Raise what broke a hand."""
        self._hands.check()
