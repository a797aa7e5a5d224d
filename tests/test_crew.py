"""The crews: no more hands than the account has room for, and what becomes of them when one breaks down."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
import threading
import time

import pytest

from multiembed import EmbeddingClient, EmbeddingOptions
from multiembed.drive import Crew, TaskCrew, Work
from multiembed.gate import Gate
from multiembed.job import Batch, Job, Lessons
from multiembed.pace import FIRST_IN_FLIGHT, MOST_IN_FLIGHT, Ceilings
from multiembed.reactor.threads import ThreadReactor
from multiembed.records import WireReply
from multiembed.simulator import Simulator
from multiembed.target import aim
from multiembed.tokens import estimate_tokens

SIZE = 4
PATIENCE = 20.0
"""Seconds after which a test that hangs fails."""


def job_of(*, told=None, trusted=True):
    """A job on a gate of its own; its account has answered once, unless it is not to be trusted."""
    gate = Gate()
    if trusted:
        gate.place(Ceilings()).answered()
    options = EmbeddingOptions(api_key="sk-any", base_url="https://host.example", dimensions=SIZE)
    return Job(
        target=aim("gateway:any-model", options, {}),
        role="document",
        lessons=Lessons(),
        gate=gate,
        ceilings=Ceilings(in_flight=told),
        count=estimate_tokens,
        max_retries=2,
        patience=0.0,
        timeout=60.0,
        deadline_at=None,
        clock=time.monotonic,
        wall=time.time,
        chance=random.random,
    )


def answer(request):
    texts = json.loads(request.body)["input"]
    data = [{"index": index, "embedding": [0.5] * SIZE} for index in range(len(texts))]
    return WireReply(200, {}, json.dumps({"data": data}).encode(), 0.001)


def batches(count):
    return [Batch([number], [f"text {number}"], 3) for number in range(count)]


class Play:
    """Plays batches by a crew of threads or of tasks, counting its hands, and keeps what came of them."""

    def __init__(self, kind):
        self.kind = kind
        self.most_hands = self.most_sending = 0
        self.sent = []
        self.done = []
        self._taken = self._sending = 0

    def __call__(self, job, count, *, workers=MOST_IN_FLIGHT, seconds=0.005, breaks_at=None):
        plan = iter(batches(count))

        def take():
            batch = next(plan, None)
            self._taken += batch is not None
            return batch

        async def send(request, reactor):
            self._sending += 1
            self.sent.append(request)
            self.most_sending = max(self.most_sending, self._sending)
            self.most_hands = max(self.most_hands, self._taken - len(self.done))  # each has a batch
            if len(self.sent) == breaks_at:
                raise ZeroDivisionError
            await reactor.signal().wait(seconds)
            self._sending -= 1
            return answer(request)

        def done(batch, outcome):
            self.done.append((batch, outcome))

        run(self.kind, Work(take=take, job=job, workers=workers, done=done), send)


def run(kind, work, send):
    """All of it, by a crew of either kind."""

    async def in_tasks():
        await TaskCrew(work, send).run()

    Crew(work, send).run() if kind == "threads" else asyncio.run(in_tasks())


async def answer_at_once(request, _):
    return answer(request)


def helpers():
    return [thread for thread in threading.enumerate() if thread.name == "multiembed"]


def nobody_is_left():
    """Whether all helpers end in time; those that were sending hear their answer first."""
    deadline = time.monotonic() + PATIENCE
    while helpers() and time.monotonic() < deadline:
        time.sleep(0.002)
    return not helpers()


@pytest.fixture(params=["threads", "tasks"])
def play(request):
    assert helpers() == []
    return Play(request.param)


# ── how many ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("told", [1, 3, 8])
def test_as_many_send_at_once_as_was_told_and_at_most_one_more_hand_waits(play, told):
    play(job_of(told=told), 12 * told)
    assert play.most_sending == told
    assert play.most_hands <= told + 1
    assert sorted(place for batch, _ in play.done for place in batch.places) == list(range(12 * told))


def test_without_a_ceiling_there_are_as_many_hands_as_learned_room_and_one(play):
    job = job_of()
    play(job, 60)
    room = job.gate.pace.room(Ceilings())
    assert FIRST_IN_FLIGHT <= play.most_sending <= room
    assert play.most_hands <= room + 1


def test_before_the_first_answer_one_sends_and_one_more_waits_at_most(play):
    play(job_of(told=8, trusted=False), 1, seconds=0.02)
    assert (play.most_sending, play.most_hands) == (1, 1)
    watched = Play(play.kind)
    job = job_of(told=8, trusted=False)
    watched(job, 2, seconds=0.02)
    assert watched.most_sending == 1
    assert watched.most_hands <= 2


def test_no_more_hands_than_work(play):
    play(job_of(told=50), 3, seconds=0.05)
    assert play.most_hands <= 3
    assert len(play.done) == 3


def test_no_more_hands_than_workers(play):
    play(job_of(told=50), 30, workers=4)
    assert play.most_hands <= 4
    assert len(play.done) == 30


def test_nothing_to_do_is_done_at_once(play):
    play(job_of(), 0)
    assert (play.sent, play.done) == ([], [])


@pytest.mark.parametrize("told", [2, 5])
@pytest.mark.parametrize("door", ["sync", "async"])
def test_a_ceiling_on_concurrency_is_reached_over_the_wire(door, told):
    texts = [f"text {number}" for number in range(8 * told)]
    with (
        Simulator(latency=0.02) as simulator,
        EmbeddingClient(
            "dashscope:text-embedding-v4",
            api_key=simulator.api_key,
            base_url=simulator.base_url("dashscope"),
            max_concurrency=told,
            limits={"max_items": 1},
        ) as client,
    ):
        if door == "sync":
            client.embed(texts)
        else:
            asyncio.run(client.aembed(texts))
        assert simulator.peak_in_flight == told


# ── a hand that breaks ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("breaks_at", [1, 2, 20])
def test_an_exception_in_one_batch_fails_that_batch_only(play, breaks_at):
    """FINDINGS A2: what is paid for in the other batches is kept."""
    job = job_of(told=4)
    play(job, 200, breaks_at=breaks_at)
    assert nobody_is_left()
    assert len(play.sent) == len(play.done) == 200
    failed = [(batch, outcome) for batch, outcome in play.done if outcome.failures]
    ((batch, outcome),) = failed
    assert list(outcome.failures) == batch.places
    assert "ZeroDivisionError" in str(outcome.failures[batch.places[0]])
    assert job.gate.in_flight == 0
    assert job.fatal is None


def test_an_exception_while_an_outcome_is_stored_ends_the_call(play):
    job, plan, ended = job_of(told=3), iter(batches(30)), []

    def done(*_):
        raise ZeroDivisionError

    work = Work(take=lambda: next(plan, None), job=job, workers=8, done=done, end=lambda: ended.append(job.fatal))
    run(play.kind, work, answer_at_once)
    assert "ZeroDivisionError" in str(job.fatal)
    assert ended
    assert set(ended) == {job.fatal}
    assert nobody_is_left()
    assert job.gate.in_flight == 0


# ── outcomes that take long to put away ──────────────────────────────────────────────────────────


def test_what_may_take_long_is_done_aside_and_holds_up_no_other_hand(play):
    plan, meeting = iter(batches(2)), threading.Barrier(2)

    def done(*_):
        meeting.wait(PATIENCE)  # breaks unless both are there together

    run(play.kind, Work(lambda: next(plan, None), job_of(told=2), 8, done, blocks=True), answer_at_once)
    assert nobody_is_left()


def test_what_a_local_disk_does_is_done_in_the_hands_own_thread_but_never_in_a_loops(play):
    plan, senders, keepers = iter(batches(20)), set(), set()

    async def send(request, _):
        senders.add(threading.get_ident())
        return answer(request)

    def done(*_):
        keepers.add(threading.get_ident())

    run(play.kind, Work(lambda: next(plan, None), job_of(told=4), 8, done, blocks=True, briefly=True), send)
    if play.kind == "threads":
        assert keepers == senders
    else:
        assert not keepers & senders


# ── work that comes later ────────────────────────────────────────────────────────────────────────


def test_work_that_comes_while_the_last_hand_is_leaving_is_done():
    """A stream reads on while the hands find nothing to do."""
    plan, done, came_late = batches(1), [], threading.Event()

    def take():
        if plan:
            return plan.pop()
        if done and not came_late.is_set():
            came_late.set()
            plan.extend(batches(2)[1:])
            caller = threading.Thread(target=crew.hire)
            caller.start()
            caller.join(0.2)  # turned away, because there is still a hand, or waiting for this one
            return None
        return None

    work = Work(take=take, job=job_of(told=2), workers=8, done=lambda batch, _: done.append(batch.places[0]))
    crew = Crew(work, answer_at_once)
    crew.hire()
    deadline = time.monotonic() + PATIENCE / 10
    while len(done) < 2 and time.monotonic() < deadline:
        time.sleep(0.002)
    crew.close()
    assert done == [0, 1]


async def test_tasks_do_work_that_comes_later():
    plan, done = batches(1), []

    work = Work(
        take=lambda: plan.pop() if plan else None,
        job=job_of(told=2),
        workers=8,
        done=lambda batch, _: done.append(batch.places[0]),
    )
    crew = TaskCrew(work, answer_at_once)
    for number in range(3):
        plan[:] = batches(number + 1)[number:]
        crew.hire()
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(done) == number + 1
    await crew.aclose()
    assert done == [0, 1, 2]


async def test_a_hand_that_somebody_else_cancels_ends_the_call_and_never_leaves_rows_unsaid():
    plan, done = iter(batches(100)), []

    async def send(request, _):
        await asyncio.sleep(0.005)
        return answer(request)

    work = Work(take=lambda: next(plan, None), job=job_of(told=8), workers=8, done=lambda *told: done.append(told))
    call = asyncio.ensure_future(TaskCrew(work, send).run())
    await asyncio.sleep(0.001)
    for hand in asyncio.all_tasks() - {call, asyncio.current_task()}:  # one of them has not begun yet
        hand.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


def test_a_crew_that_is_hired_again_and_again_serves_each_time_and_leaves_no_thread():
    plan, arrived = [], threading.Semaphore(0)
    work = Work(take=lambda: plan.pop() if plan else None, job=job_of(), workers=8, done=lambda *_: arrived.release())
    crew = Crew(work, answer_at_once)
    for _ in range(200):
        plan[:] = batches(1)
        crew.hire()
        assert arrived.acquire(timeout=PATIENCE)
        assert nobody_is_left()


def test_a_crew_that_is_closed_leaves_the_queue_and_uses_nothing_of_what_was_told():
    job, plan, sent = job_of(), iter(batches(1000)), threading.Semaphore(0)
    job.ceilings = Ceilings(requests_per_minute=3)

    async def send(request, _):
        sent.release()
        return answer(request)

    crew = Crew(Work(take=lambda: next(plan, None), job=job, workers=8, done=lambda *_: None), send)
    crew.hire()
    for _ in range(3):
        assert sent.acquire(timeout=PATIENCE)
    crew.close()
    assert nobody_is_left()
    assert job.gate.in_flight == 0


def test_ctrl_c_while_a_place_is_given_back_keeps_no_place(monkeypatch):
    job, pressed = job_of(told=1), []
    leave = Gate.leave

    def interrupted(gate, place):
        if not pressed:
            pressed.append(place)
            raise KeyboardInterrupt
        leave(gate, place)

    monkeypatch.setattr(Gate, "leave", interrupted)
    plan = iter(batches(1))
    with pytest.raises(KeyboardInterrupt):
        Crew(Work(take=lambda: next(plan, None), job=job, workers=8, done=lambda *_: None), answer_at_once).run()
    assert job.gate.in_flight == 0


def test_a_crew_that_is_closed_sends_no_more():
    plan, job, sent = iter(batches(1000)), job_of(told=3), []

    async def send(request, reactor):
        sent.append(request)
        await reactor.signal().wait(0.005)
        return answer(request)

    crew = Crew(Work(take=lambda: next(plan, None), job=job, workers=8, done=lambda *_: None), send)
    crew.hire()
    while len(sent) < 5:
        time.sleep(0.001)
    crew.close()
    assert nobody_is_left()
    assert len(sent) < 20
    assert job.gate.in_flight == 0


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C cannot be sent to one thread there")
def test_a_second_ctrl_c_while_the_first_ends_the_call_does_not_let_it_run_on(monkeypatch):
    post, sent, job = ThreadReactor.post, [], job_of(told=4)

    def interrupted(reactor, act):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        post(reactor, act)

    async def send(request, reactor):
        sent.append(request)
        if len(sent) == 10:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        await reactor.signal().wait(0.005)
        return answer(request)

    monkeypatch.setattr(ThreadReactor, "post", interrupted)
    plan = iter(batches(100_000))
    with pytest.raises(KeyboardInterrupt):
        Crew(Work(take=lambda: next(plan, None), job=job, workers=8, done=lambda *_: None), send).run()
    assert nobody_is_left()
    assert len(sent) < 1000
    assert job.gate.in_flight == 0
