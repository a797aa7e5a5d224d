"""The two drivers that play the flows of a call: threads for sync callers, tasks for async callers.

Only these are twins: sending, waiting, the place at the gate, and the fan-out. Every rule stands in `flow`.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import copy_context
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from multiembed.flow import exchange
from multiembed.job import WITHHELD, Send

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator

    from multiembed.gate import Gate
    from multiembed.job import Answer, Batch, Job, Outcome, Step
    from multiembed.records import WireRequest


@dataclass(frozen=True, slots=True)
class Work:
    """The batches of one call and what playing them takes."""

    batches: Iterable[Batch]
    """Taken one by one, as workers come free."""
    job: Job
    gate: Gate
    """The account's, which is shared with other calls."""
    workers: int
    """Batches played at once; also the most requests in flight that this call accepts at the gate."""
    done: Callable[[Outcome], None]
    """Is told each outcome, one at a time."""


def drive(work: Work, send: Callable[[WireRequest], Answer]) -> None:
    """Play every batch in threads, the caller's being one of them."""
    _Crew(work, send).run()


class _Crew:
    """One call's threads. They are daemons, so a program that ends does not wait for them."""

    def __init__(self, work: Work, send: Callable[[WireRequest], Answer]) -> None:
        self._batches = iter(work.batches)
        self._job = work.job
        self._send = send
        self._gate = work.gate
        self._workers = work.workers
        self._done = work.done
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._helpers: list[threading.Thread] = []
        self._error: BaseException | None = None
        try:
            self._blocks: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._blocks = None

    def run(self) -> None:
        try:
            first = self._take()
            while len(self._helpers) < self._workers - 1 and (batch := self._take()) is not None:
                if not self._start(batch):
                    self._batches = chain((batch,), self._batches)
                    break
            self._work(first)
            for helper in self._helpers:
                helper.join()
        finally:  # on Ctrl-C too: those that are sending finish their request, and take no other
            self._stop.set()
        if self._error is not None:
            raise self._error

    def _start(self, batch: Batch) -> bool:
        """A helper that begins with this batch; False at interpreter shutdown, where no thread starts any more."""
        helper = threading.Thread(target=copy_context().run, args=(self._help, batch), name="multiembed", daemon=True)
        try:
            helper.start()
        except RuntimeError:
            return False
        self._helpers.append(helper)
        return True

    def _take(self) -> Batch | None:
        with self._lock:
            return None if self._stop.is_set() else next(self._batches, None)

    def _help(self, batch: Batch) -> None:
        try:
            self._work(batch)
        except BaseException as error:  # noqa: BLE001 - it is raised again in the caller's thread
            self._error = self._error or error
            self._stop.set()

    def _work(self, batch: Batch | None) -> None:
        while batch is not None:
            outcome = self._play(exchange(batch, self._job))
            if outcome is not None:
                with self._lock:
                    self._done(outcome)
            batch = self._take()

    def _play(self, flow: Generator[Step, Answer, Outcome]) -> Outcome | None:
        try:
            step = next(flow)
            while not self._stop.is_set():
                if isinstance(step, Send):
                    with self._gate.place(self._workers, self._job.deadline_at, self._blocks) as admitted:
                        step = flow.send(self._answer(step) if admitted else WITHHELD)
                else:
                    self._stop.wait(step.seconds)
                    step = next(flow)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        finally:
            flow.close()
        return None

    def _answer(self, step: Send) -> Answer:
        if self._stop.is_set() or self._job.fatal is not None:  # what happened while this one stood in the queue
            return WITHHELD
        return self._send(step.request)


async def adrive(work: Work, send: Callable[[WireRequest], Awaitable[Answer]]) -> None:
    """Play every batch in tasks of the running loop; a cancelled call leaves none behind."""
    source = iter(work.batches)

    async def hand(batch: Batch | None) -> None:
        while batch is not None:
            work.done(await play(exchange(batch, work.job)))
            batch = next(source, None)

    async def play(flow: Generator[Step, Answer, Outcome]) -> Outcome:
        try:
            step = next(flow)
            while True:
                if isinstance(step, Send):
                    async with work.gate.place(work.workers, work.job.deadline_at) as admitted:
                        held_back = not admitted or work.job.fatal is not None
                        step = flow.send(WITHHELD if held_back else await send(step.request))
                else:
                    await asyncio.sleep(step.seconds)
                    step = next(flow)
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        finally:
            flow.close()

    first = next(source, None)
    hands = [asyncio.ensure_future(hand(batch)) for batch in _up_to(work.workers - 1, source)]
    try:
        await hand(first)
        await asyncio.gather(*hands)
    finally:
        for other in hands:
            other.cancel()
        await asyncio.gather(*hands, return_exceptions=True)


def _up_to(count: int, source: Iterator[Batch]) -> Iterator[Batch]:
    for _ in range(count):
        batch = next(source, None)
        if batch is None:
            return
        yield batch
