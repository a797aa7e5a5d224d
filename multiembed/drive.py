"""The two drivers that play the flows of a call: threads for sync callers, tasks for async callers.

Only these are twins: sending, waiting, the place at the gate, and the fan-out. Every rule stands in `flow`.
"""

from __future__ import annotations

import asyncio
import threading
from contextvars import copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multiembed.flow import Send, exchange

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator

    from multiembed.flow import Answer, Batch, Job, Outcome, Step
    from multiembed.gate import Gate
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

    def run(self) -> None:
        try:
            self._work(self._take())
            for helper in self._helpers:  # grows no more: the batches are all taken
                helper.join()
        finally:  # on Ctrl-C too: those that are sending finish their request, and take no other
            self._stop.set()
        if self._error is not None:
            raise self._error

    def _take(self) -> Batch | None:
        """The next batch; and a hand more when there may be another one behind it."""
        with self._lock:
            if self._stop.is_set():
                return None
            batch = next(self._batches, None)
            if batch is None or len(self._helpers) + 1 >= self._workers:
                return batch
            following = next(self._batches, None)
            if following is None:
                return batch
            helper = threading.Thread(
                target=copy_context().run, args=(self._help, following), name="multiembed", daemon=True
            )
            try:
                helper.start()
            except RuntimeError:  # no threads at interpreter shutdown: go on alone
                self._workers = 1
                self._batches = _chain(following, self._batches)
            else:
                self._helpers.append(helper)
            return batch

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
        answer: Answer | None = None
        try:
            while not self._stop.is_set():
                step = next(flow) if answer is None else flow.send(answer)
                if isinstance(step, Send):
                    with self._gate.hold(self._workers):
                        if self._stop.is_set():  # the call ended while this one stood in the queue
                            return None
                        answer = self._send(step.request)
                else:
                    self._stop.wait(step.seconds)
                    answer = None
        except StopIteration as end:
            outcome: Outcome = end.value
            return outcome
        finally:
            flow.close()
        return None


def _chain(first: Batch, rest: Iterator[Batch]) -> Iterator[Batch]:
    yield first
    yield from rest


async def adrive(work: Work, send: Callable[[WireRequest], Awaitable[Answer]]) -> None:
    """Play every batch in tasks of the running loop; a cancelled call leaves none behind."""
    source = iter(work.batches)

    async def hand(batch: Batch | None) -> None:
        while batch is not None:
            work.done(await play(exchange(batch, work.job)))
            batch = next(source, None)

    async def play(flow: Generator[Step, Answer, Outcome]) -> Outcome:
        answer: Answer | None = None
        try:
            while True:
                step = next(flow) if answer is None else flow.send(answer)
                if isinstance(step, Send):
                    async with work.gate.ahold(work.workers):
                        answer = await send(step.request)
                else:
                    await asyncio.sleep(step.seconds)
                    answer = None
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
