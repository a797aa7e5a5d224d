"""A source of batches for a pool of workers: without a call, its texts or its result."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from multiembed.execution.io_thread import started_io_thread
from multiembed.ratelimit.pacer import MAX_IN_FLIGHT


async def until(condition):
    """Let other tasks run until something is true."""
    while not condition():  # noqa: ASYNC110 - there is no event for it
        await asyncio.sleep(0)


def is_sending():
    """Whether the I/O thread works on a call."""
    io = started_io_thread()
    return io is not None and any(task.get_name() != "idle" for task in asyncio.all_tasks(io.loop))


class Batches:
    """As `multiembed.execution.call.EmbedCall`, for its worker pool.

    Args:
        context: what all batches share.
        take: returns the next batch, or None.
        max_workers: the most batches worked on at once.
        done: called with each batch and its outcome.
        counts_in_thread: whether `take` is called in a thread.
    """

    def __init__(self, context, take, *, max_workers=MAX_IN_FLIGHT, done=lambda *_: None, counts_in_thread=False):
        self.context = replace(context, counts_in_thread=counts_in_thread)
        self.next_batch = take
        self.max_workers = max_workers
        self.failed_rest = []
        """The error of the call, each time that the rest was failed for it."""
        self.cancelled = []
        self.woken = self.workers = 0
        self._done = done

    def must_claim(self, batch):
        return False

    async def complete_batch(self, batch, outcome):
        self._done(batch, outcome)

    def count_cancelled(self, batch, outcome):
        self.cancelled.append((batch, outcome))

    def fail_rest(self):
        self.failed_rest.append(self.context.state.fatal_error)

    def count_workers(self, change):
        self.workers += change

    def wake(self):
        self.woken += 1
