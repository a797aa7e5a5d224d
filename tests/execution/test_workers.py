"""Worker pool of a call: its size, failures of one batch, large responses, and its end."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from dataclasses import replace

import pytest
from calls import Api, serving
from support.virtual_clock import VirtualLoop
from support.workers import Batches, is_sending, until

from multiembed import EmbeddingClient, EmbeddingOptions
from multiembed.batching.token_count import estimate_tokens
from multiembed.config.request_config import resolve_config
from multiembed.execution.workers import WorkerPool
from multiembed.flow.context import Batch, CallContext, Environment, LearnedLimits
from multiembed.ratelimit.limiter import AccountLimiter, Permit
from multiembed.ratelimit.pacer import INITIAL_IN_FLIGHT, MAX_IN_FLIGHT, AccountLimits
from multiembed.transport.types import HttpResponse

SIZE = 4
PATIENCE = 20.0
"""Seconds after which a test that hangs fails."""


def context_of(*, in_flight=None, trusted=True, max_retries=2, requests_per_minute=None):
    """A context with a limiter of its own; its account has answered once, unless it is not trusted."""
    limiter = AccountLimiter()
    if trusted:
        limiter.permit(AccountLimits()).report_success()
    options = EmbeddingOptions(api_key="sk-any", base_url="https://host.example", dimensions=SIZE)
    return CallContext(
        config=resolve_config("gateway:any-model", options, {}),
        role="document",
        learned=LearnedLimits(),
        limiter=limiter,
        account_limits=AccountLimits(in_flight=in_flight, requests_per_minute=requests_per_minute),
        count_tokens=estimate_tokens,
        max_retries=max_retries,
        outage_patience=0.0,
        timeout=60.0,
        deadline_at=None,
        environment=Environment(clock=time.monotonic, wall_time=time.time, random=random.random),
    )


def answer(request):
    texts = json.loads(request.body)["input"]
    data = [{"index": index, "embedding": [0.5] * SIZE} for index in range(len(texts))]
    return HttpResponse(200, {}, json.dumps({"data": data}).encode(), 0.001)


def batches(count):
    return [Batch([number], [f"text {number}"], 3) for number in range(count)]


async def answer_at_once(request):
    return answer(request)


class Run:
    """Runs batches in a pool, counts its workers, and keeps the outcomes."""

    def __init__(self, context, count, *, max_workers=MAX_IN_FLIGHT, breaks_at=None):
        self.max_workers_seen = self.max_sending_seen = 0
        self.sent = []
        self.done = []
        self._taken = self._sending = 0
        self._plan = iter(batches(count))
        self._breaks_at = breaks_at
        source = Batches(context, self._take, max_workers=max_workers, done=lambda *pair: self.done.append(pair))
        asyncio.run(WorkerPool(source, self._send).run(bool))

    def _take(self):
        batch = next(self._plan, None)
        self._taken += batch is not None
        return batch

    async def _send(self, request):
        self._sending += 1
        self.sent.append(request)
        self.max_sending_seen = max(self.max_sending_seen, self._sending)
        self.max_workers_seen = max(self.max_workers_seen, self._taken - len(self.done))  # each has a batch
        if len(self.sent) == self._breaks_at:
            raise ZeroDivisionError
        await asyncio.sleep(0.005)
        self._sending -= 1
        return answer(request)


# ── how many ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("limit", [1, 3, 8])
def test_pool_sends_up_to_the_limit_with_one_worker_waiting(limit):
    run = Run(context_of(in_flight=limit), 12 * limit)
    assert run.max_sending_seen == limit
    assert run.max_workers_seen <= limit + 1
    assert sorted(position for batch, _ in run.done for position in batch.positions) == list(range(12 * limit))


def test_pool_without_a_limit_starts_with_the_adaptive_one():
    run = Run(context_of(), 12 * INITIAL_IN_FLIGHT)
    assert INITIAL_IN_FLIGHT <= run.max_sending_seen <= INITIAL_IN_FLIGHT + 12
    assert run.max_workers_seen <= run.max_sending_seen + 1


def test_cold_account_gets_one_request_before_the_first_answer():
    context, sending, waits = context_of(trusted=False, in_flight=4), [], []

    async def send(request):
        sending.append(request)
        await asyncio.sleep(0.002)
        waits.append(len(sending))
        return answer(request)

    plan = iter(batches(12))
    asyncio.run(WorkerPool(Batches(context, lambda: next(plan, None)), send).run(bool))
    assert waits[0] == 1
    assert len(sending) == 12


@pytest.mark.parametrize(("count", "max_workers"), [(3, 100), (50, 5)])
def test_pool_has_no_more_workers_than_batches_or_allowed(count, max_workers):
    run = Run(context_of(in_flight=100), count, max_workers=max_workers)
    assert run.max_workers_seen == min(count, max_workers)
    assert len(run.done) == count


def test_pool_without_batches_ends_at_once():
    assert Run(context_of(), 0).done == []


class FullApi(Api):
    """Answers the first request at once, and the others a little after as many as the limit were there together."""

    def before(self, server):
        with server.changed:
            server.arrived += 1
            server.in_flight += 1
            server.peak = max(server.peak, server.in_flight)
            server.changed.notify_all()
            if server.arrived > 1 and not server.changed.wait_for(lambda: server.peak >= server.limit, PATIENCE):
                server.limit = 0  # too few: the test fails, without more patience
        time.sleep(0.05)  # in which one too many would arrive
        with server.changed:
            server.in_flight -= 1


@pytest.mark.parametrize("limit", [1, 4, 32])
def test_configured_concurrency_is_reached_over_the_wire(entry_point, limit):
    with serving(FullApi) as server:
        server.changed, server.limit = threading.Condition(), limit
        server.arrived = server.in_flight = server.peak = 0
        client = EmbeddingClient(
            "dashscope:text-embedding-v4",
            api_key="sk-any",
            base_url=f"http://127.0.0.1:{server.server_port}/api/v1",
            max_concurrency=limit,
        )
        entry_point(client, [f"text {number}" for number in range(10 * (2 * limit + 1))])
        assert server.peak == limit
        client.close()


# ── failures ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("breaks_at", [1, 2, 20])
def test_exception_in_one_batch_fails_that_batch_only(breaks_at):
    context = context_of(in_flight=4)
    run = Run(context, 200, breaks_at=breaks_at)
    assert len(run.sent) == len(run.done) == 200
    ((batch, outcome),) = [(batch, outcome) for batch, outcome in run.done if outcome.failures]
    assert list(outcome.failures) == batch.positions
    assert "ZeroDivisionError" in str(outcome.failures[batch.positions[0]])
    assert context.limiter.pacer.in_flight == 0
    assert context.state.fatal_error is None


def test_exception_in_complete_batch_ends_the_call():
    context, plan = context_of(in_flight=3), iter(batches(30))

    def done(*_):
        raise ZeroDivisionError

    source = Batches(context, lambda: next(plan, None), max_workers=8, done=done)
    asyncio.run(WorkerPool(source, answer_at_once).run(bool))
    assert "ZeroDivisionError" in str(context.state.fatal_error)
    assert source.failed_rest
    assert set(source.failed_rest) == {context.state.fatal_error}
    assert context.limiter.pacer.in_flight == 0


def test_exception_in_next_batch_ends_the_call():
    context = context_of()

    def take():
        raise ZeroDivisionError

    source = Batches(context, take)
    asyncio.run(WorkerPool(source, answer_at_once).run(bool))
    assert "ZeroDivisionError" in str(context.state.fatal_error)
    assert source.failed_rest == [context.state.fatal_error]
    assert source.woken


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_exit_raised_in_a_batch_is_raised_by_the_call(error):
    """It must not end the loop, in which other calls run."""
    plan = iter(batches(30))

    async def send(request):
        await asyncio.sleep(0)
        raise error

    source = Batches(context_of(in_flight=3), lambda: next(plan, None))
    pool = WorkerPool(source, send)

    async def run():
        await pool.run(bool)
        with pytest.raises(error):
            pool.check()
        return "the loop goes on"

    assert asyncio.run(run()) == "the loop goes on"


async def test_task_cancelled_by_others_ends_the_call():
    plan = iter(batches(100))

    async def send(request):
        await asyncio.sleep(0.005)
        return answer(request)

    source = Batches(context_of(in_flight=8), lambda: next(plan, None), max_workers=8)
    pool = WorkerPool(source, send)
    call = asyncio.ensure_future(pool.run(bool))
    await asyncio.sleep(0.001)
    for worker in asyncio.all_tasks() - {call, asyncio.current_task()}:  # one of them has not begun yet
        worker.cancel()
    await call
    with pytest.raises(asyncio.CancelledError):
        pool.check()


# ── batches that take long to take or to complete ────────────────────────────────────────────────


async def test_batches_complete_concurrently():
    plan, meeting, context = iter(batches(2)), asyncio.Barrier(2), context_of(in_flight=2)

    class Meeting(Batches):
        async def complete_batch(self, batch, outcome):
            async with asyncio.timeout(PATIENCE):  # ends only if both are there together
                await meeting.wait()

    await WorkerPool(Meeting(context, lambda: next(plan, None), max_workers=8), answer_at_once).run(bool)
    assert context.state.fatal_error is None


def test_workers_that_complete_a_batch_let_others_send():
    """A slow cache must not cost concurrency."""
    plan, context = iter(batches(6)), context_of(in_flight=3)
    sending, most, let_go = 0, 0, asyncio.Event()

    class Slow(Batches):
        async def complete_batch(self, batch, outcome):
            await let_go.wait()

    async def send(request):
        nonlocal sending, most
        sending += 1
        most = max(most, sending)
        if sending == 6:
            let_go.set()
        return answer(request)

    async def run():
        async with asyncio.timeout(PATIENCE):
            await WorkerPool(Slow(context, lambda: next(plan, None), max_workers=6), send).run(bool)

    asyncio.run(run())
    assert most == 6


def test_requests_go_out_before_large_responses_are_read():
    """Four answers come at once: the next four requests do not wait until they are read."""
    plan, context, sent, together = iter(batches(8)), context_of(in_flight=4, max_retries=0), [], asyncio.Barrier(4)
    sent_when_done = []

    async def send(request):
        sent.append(request)
        await together.wait()
        reply = answer(request)
        return replace(reply, body=reply.body + b" " * 100_000)

    def done(*_):
        sent_when_done.append(len(sent))

    source = Batches(context, lambda: next(plan, None), max_workers=8, done=done)
    asyncio.run(WorkerPool(source, send).run(bool))
    assert sent_when_done[0] == 8
    assert len(sent_when_done) == 8
    assert context.limiter.pacer.in_flight == 0


def test_no_request_goes_out_before_a_large_failure_is_reported(monkeypatch):
    plan, context, sent, together = iter(batches(8)), context_of(in_flight=4, max_retries=0), [], asyncio.Barrier(4)
    report, sent_when_failed = Permit.report_failure, []

    async def send(request):
        sent.append(request)
        if len(sent) <= 4:
            await together.wait()
        return HttpResponse(503, {}, b" " * 100_000)

    def noting(*args):
        sent_when_failed.append(len(sent))
        report(*args)

    monkeypatch.setattr(Permit, "report_failure", noting)
    asyncio.run(WorkerPool(Batches(context, lambda: next(plan, None), max_workers=8), send).run(bool))
    assert sent_when_failed[0] == 4


async def test_worker_cancelled_before_it_reads_releases_the_lock():
    plan, context, sent = iter(batches(40)), context_of(in_flight=4), []

    async def send(request):
        sent.append(request)
        await asyncio.sleep(0.001)
        reply = answer(request)
        return replace(reply, body=reply.body + b" " * 100_000)

    pool = WorkerPool(Batches(context, lambda: next(plan, None), max_workers=8), send)
    run = asyncio.ensure_future(pool.run(bool))
    await until(lambda: len(sent) > 8)
    run.cancel()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(run, return_exceptions=True)
    assert not pool._read_lock.locked()
    assert context.limiter.pacer.in_flight == 0


def test_users_token_counter_runs_in_a_thread_one_call_at_a_time():
    plan, here, inside, seen = iter(batches(40)), threading.get_ident(), threading.Lock(), set()

    def take():
        assert inside.acquire(blocking=False)
        seen.add(threading.get_ident())
        time.sleep(0.0002)  # others would come in
        inside.release()
        return next(plan, None)

    context, done = context_of(in_flight=8), []
    source = Batches(context, take, done=lambda batch, _: done.extend(batch.positions), counts_in_thread=True)
    asyncio.run(WorkerPool(source, answer_at_once).run(bool))
    assert sorted(done) == list(range(40))
    assert here not in seen
    assert context.state.fatal_error is None


# ── work that comes later, and the end ───────────────────────────────────────────────────────────


async def test_pool_works_on_batches_that_come_later():
    plan, done = [], []
    source = Batches(
        context_of(in_flight=2),
        lambda: plan.pop() if plan else None,
        max_workers=8,
        done=lambda batch, _: done.append(batch.positions[0]),
    )
    pool = WorkerPool(source, answer_at_once)
    for number in range(3):
        pool.add(lambda number=number: plan.extend(batches(number + 1)[number:]))
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(done) == number + 1
    await pool.aclose()
    assert done == [0, 1, 2]


async def test_stopped_pool_leaves_the_queue_and_uses_no_quota():
    context, plan, sent = context_of(requests_per_minute=3), iter(batches(1000)), []

    async def send(request):
        sent.append(request)
        return answer(request)

    pool = WorkerPool(Batches(context, lambda: next(plan, None), max_workers=8), send)
    run = asyncio.ensure_future(pool.run(bool))
    await until(lambda: len(sent) == 3)
    pool.stop()
    async with asyncio.timeout(PATIENCE):
        await run
    assert len(sent) == 3
    assert context.limiter.pacer.in_flight == 0
    assert not context.limiter._queue


async def test_stopped_pool_handles_outstanding_responses():
    context, plan, let_go, done = context_of(in_flight=3), iter(batches(20)), asyncio.Event(), []
    sent = []

    async def send(request):
        sent.append(request)
        await let_go.wait()
        return answer(request)

    pool = WorkerPool(Batches(context, lambda: next(plan, None), done=lambda *pair: done.append(pair)), send)
    run = asyncio.ensure_future(pool.run(bool))
    await until(lambda: len(sent) == 3)
    pool.stop()
    let_go.set()
    await run
    assert len(sent) == 3
    assert [len(outcome.accepted) for _, outcome in done] == [1, 1, 1]


async def test_cancelled_pool_counts_what_was_sent():
    context, plan, sent = context_of(in_flight=3), iter(batches(20)), []

    async def send(request):
        sent.append(request)
        await asyncio.Event().wait()

    source = Batches(context, lambda: next(plan, None))
    run = asyncio.ensure_future(WorkerPool(source, send).run(bool))
    await until(lambda: len(sent) == 3)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    assert len(source.cancelled) >= 3
    assert context.limiter.pacer.in_flight == 0


async def test_stopped_pool_ends_a_backoff_at_once():
    context, plan, sent = context_of(in_flight=1), iter(batches(1)), []

    async def send(request):
        sent.append(request)
        return HttpResponse(503, {"retry-after": "19"}, b"")

    pool = WorkerPool(Batches(context, lambda: next(plan, None)), send)
    run = asyncio.ensure_future(pool.run(bool))
    await until(lambda: sent and not context.limiter.pacer.in_flight)
    pool.stop()
    async with asyncio.timeout(5):
        await run
    assert len(sent) == 1


@pytest.mark.parametrize(
    "responses",
    [[(429, "100")], [(503, "19"), (401, "0")]],
    ids=["others wait for a permit", "another waits to retry"],
)
def test_fatal_error_ends_the_waits_of_other_batches(responses):
    loop, plan, sent, done = VirtualLoop(), iter(batches(8)), [], []
    context = context_of(in_flight=len(responses))
    context.limiter.clock = loop.time
    environment = Environment(clock=loop.time, wall_time=loop.time, random=random.random)
    context = replace(context, deadline_at=30.0, environment=environment)

    async def send(request):
        sent.append(request)
        status, pause = responses[min(len(sent), len(responses)) - 1]
        await asyncio.sleep(0.1 * len(sent))
        return HttpResponse(status, {"retry-after": pause}, b"")

    source = Batches(context, lambda: next(plan, None), done=lambda *pair: done.append(pair))
    loop.run_until_complete(WorkerPool(source, send).run(bool))
    loop.close()
    errors = [error for _, outcome in done for error in outcome.failures.values()]
    assert [type(error) for error in errors] == [type(context.state.fatal_error)] * 8
    assert loop.now < 1.0


def test_finished_calls_leave_no_task_on_the_io_thread(connect):
    client = connect("dashscope:text-embedding-v4")
    for number in range(20):
        client.embed([f"text {number}"])
    end = time.monotonic() + PATIENCE
    while is_sending() and time.monotonic() < end:
        time.sleep(0.001)
    assert not is_sending()
