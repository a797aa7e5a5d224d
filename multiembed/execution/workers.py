"""The workers of one call: tasks of the I/O loop, each of which runs the flow of one batch after another.

A call gets one more worker when none of its workers waits for a permit. So there are no more than the account has room
for.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, Protocol

from multiembed.errors import MultiEmbedError, unexpected
from multiembed.execution.io_thread import in_thread
from multiembed.flow.batch import batch_flow
from multiembed.flow.context import NOT_SENT, BatchOutcome, RunInThread, SendRequest

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator

    from multiembed.flow.context import Batch, CallContext, Effect, TransportResult
    from multiembed.ratelimit.limiter import Permit
    from multiembed.transport.types import HttpRequest


_LARGE = 20_000
"""Bytes of an answer that takes longer to read than the next request takes to send. With 10 x 1,024 numbers (220 KB),
50 in flight and 50 ms, sending first takes 1.20 instead of 1.34 s for 10,000 texts (2026-11-28)."""


class BatchSource(Protocol):
    """The batches of one call, and what becomes of them. All on the I/O loop."""

    @property
    def job(self) -> CallContext:
        """What all batches share."""

    @property
    def max_workers(self) -> int:
        """The most batches that are worked on at once."""

    @property
    def counts_in_thread(self) -> bool:
        """Whether `next_batch` calls the user's token counter, and is called in a thread for that."""

    def next_batch(self) -> Batch | None:
        """The next texts to send; None if there are none now."""

    async def complete_batch(self, batch: Batch, outcome: BatchOutcome) -> None:
        """Take the outcome of a batch."""

    def count_cancelled(self, batch: Batch, outcome: BatchOutcome) -> None:
        """Count what a batch has cost that is cancelled."""

    def fail_rest(self) -> None:
        """Fail the texts that have no outcome. The call cannot go on, and no batch is being worked on."""

    def count_workers(self, change: int) -> None:
        """Note that a worker started (1) or ended (-1)."""

    def wake(self) -> None:
        """Tell the caller that something happened."""


class WorkerPool:
    """Runs the batch flows of one call as tasks of the running loop."""

    def __init__(self, source: BatchSource, send: Callable[[HttpRequest], Awaitable[TransportResult]]) -> None:
        self.error: BaseException | None = None
        """What ends the call at once."""
        self.stopped = False
        """No further request goes out. May be set from any thread."""
        self._source = source
        self._send = send
        self._tasks: set[asyncio.Task[None]] = set()
        self._busy = 0
        """Workers that prepare a request, wait for a permit or handle an answer."""
        self._permits: set[Permit] = set()
        """Those that are waited for."""
        self._stopping: asyncio.Event | None = None
        self._counting: asyncio.Lock | None = None
        self._reading = asyncio.Lock()
        """Held by the worker whose turn it is to read a large answer."""
        self._closing = False

    # ── on the I/O loop ──────────────────────────────────────────────────────────────────────────

    async def run(self, start: Callable[[], object]) -> None:
        """Run all batches; see `add`. Afterwards, `check` tells what went wrong."""
        try:
            self.add(start)
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            await self.aclose()

    def add(self, start: Callable[[], object]) -> None:
        """Work on more batches.

        Args:
            start: makes them available.
        """
        try:
            start()
        except Exception as error:  # noqa: BLE001 - the caller raises it
            self._fail(error)
        self.grow()

    def grow(self) -> None:
        """Start one more worker, if there is a batch for it and no other worker waits for a permit."""
        if self.stopped or self._busy or len(self._tasks) >= self._source.max_workers:
            return
        batch = None
        if not self._source.counts_in_thread:
            try:
                batch = self._source.next_batch()
            except Exception as error:  # noqa: BLE001 - the caller raises it
                self._fail(error)
            if batch is None:
                return
        self._busy += 1
        self._source.count_workers(1)
        task = asyncio.get_running_loop().create_task(self._work(batch))
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def stop(self) -> None:
        """Send no further request. The answers to those that were sent are still handled."""
        self.stopped = True
        for permit in list(self._permits):
            permit.cancel()
        if self._stopping is not None:
            self._stopping.set()

    async def aclose(self) -> None:
        """Cancel all workers, and what they sent."""
        self._closing = True
        self.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ── anywhere ─────────────────────────────────────────────────────────────────────────────────

    def check(self) -> None:
        """Raise what ends the call at once."""
        if self.error is not None:
            raise self.error

    # ── a worker ─────────────────────────────────────────────────────────────────────────────────

    async def _work(self, batch: Batch | None) -> None:
        try:
            batch = batch or await self._next_batch()
            while batch is not None:
                await self._run_batch(batch)
                batch = await self._next_batch()
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - the caller raises it
            self._fail(error)
        finally:
            self._busy -= 1

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._source.count_workers(-1)
        if task.cancelled() and not self._closing:
            self._fail(asyncio.CancelledError("one of the call's tasks was cancelled"))
        self._end()

    def _end(self) -> None:
        """Leave no text without an outcome, when the call cannot go on and its workers have ended."""
        if self.stopped and not self._tasks and self.error is None and self._source.job.fatal_error is not None:
            self._source.fail_rest()

    async def _next_batch(self) -> Batch | None:
        if self.stopped:
            return None
        if not self._source.counts_in_thread:
            return self._source.next_batch()
        self._counting = self._counting or asyncio.Lock()
        async with self._counting:
            return await in_thread(self._source.next_batch)

    async def _run_batch(self, batch: Batch) -> None:
        outcome = BatchOutcome()
        try:
            error = await self._embed(batch, outcome)
            if self.stopped and self._source.job.fatal_error is None and not outcome.requests:
                return  # nothing was sent
            outcome.fail_rest(batch, error or _interrupted())
        except asyncio.CancelledError:
            self._source.count_cancelled(batch, outcome)
            raise
        with self._free():
            await self._source.complete_batch(batch, outcome)

    async def _embed(self, batch: Batch, outcome: BatchOutcome) -> MultiEmbedError | None:
        """Run the flow of a batch. Returns: the error of the texts without a result, if there are any.

        An error in one batch leaves the others alone: they are paid for.
        """
        job = self._source.job
        try:
            if await self._run_flow(batch_flow(batch, job, outcome)):
                return None
        except MultiEmbedError as error:  # raised instead of returned: nothing can be sent
            self._fail(error)
            return error
        except Exception as error:  # noqa: BLE001 - whatever it is, other batches are paid for
            return self._as_error(error)
        return job.fatal_error or _interrupted()

    async def _run_flow(self, flow: Generator[Effect, Any, BatchOutcome]) -> bool:
        """Run a flow. Returns: True if it came to its end."""
        try:
            step = next(flow)
            while not self.stopped:
                if isinstance(step, SendRequest):
                    self._permits.add(step.permit)
                    async with step.permit as admitted:
                        self._permits.discard(step.permit)
                        answer = await self._answer(step) if admitted else NOT_SENT
                        try:
                            step = flow.send(answer)
                        finally:
                            if _takes_long(answer):
                                self._reading.release()
                elif isinstance(step, RunInThread):
                    result, error = await _run_in_thread(step)
                    step = flow.throw(error) if error is not None else flow.send(result)
                else:
                    with self._free() if step.seconds > 0.0 else nullcontext():
                        await self._sleep(step.seconds)
                    step = next(flow)
        except StopIteration:
            return True
        finally:
            flow.close()
        return False

    @property
    def _is_sending(self) -> bool:
        """Whether a worker is about to send, and not waiting for a permit."""
        return self._busy > sum(not permit.is_decided for permit in self._permits)

    async def _let_others_send(self) -> None:
        """Let the requests go out first that may start now. The turn to read an answer is the caller's afterwards."""
        await self._reading.acquire()
        try:
            while self._is_sending:  # noqa: ASYNC110 - no single event ends it
                await asyncio.sleep(0)
        except BaseException:
            self._reading.release()
            raise

    async def _answer(self, step: SendRequest) -> TransportResult:
        if self.stopped or self._source.job.fatal_error is not None:  # while it waited for the permit
            return NOT_SENT
        with self._free():
            answer = await self._send(step.request)
            if _takes_long(answer):
                step.permit.end_request()
                await self._let_others_send()
        return answer

    async def _sleep(self, seconds: float) -> None:
        if seconds <= 0.0:
            await asyncio.sleep(0)
            return
        self._stopping = self._stopping or asyncio.Event()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    @contextmanager
    def _free(self) -> Iterator[None]:
        """Let another worker start while this one waits for something else than a permit."""
        self._busy -= 1
        self.grow()
        try:
            yield
        finally:
            self._busy += 1

    # ── errors ───────────────────────────────────────────────────────────────────────────────────

    def _fail(self, error: BaseException) -> None:
        """End the call. After an exception, it keeps the results that it has."""
        if isinstance(error, Exception):
            job = self._source.job
            job.fatal_error = job.fatal_error or self._as_error(error)
        else:
            self.error = self.error or error
        self.stop()
        self._end()
        self._source.wake()

    def _as_error(self, error: Exception) -> MultiEmbedError:
        if isinstance(error, MultiEmbedError):
            return error
        target = self._source.job.config
        return unexpected(error, provider=target.provider.id, model=target.model.name)


async def _run_in_thread(step: RunInThread) -> tuple[Any, Exception | None]:
    try:
        return await in_thread(step.function), None
    except Exception as error:  # noqa: BLE001 - the flow decides
        return None, error


def _takes_long(answer: TransportResult) -> bool:
    """Whether others send before it is read. Not before a failure: its report may have to stop them."""
    return answer.status == 200 and len(answer.body) >= _LARGE


def _interrupted() -> MultiEmbedError:
    return MultiEmbedError("The call was broken off before this text had an answer. Call again.")
