"""The gate lets in as many as its ceiling, first come, first served, whoever waits: a thread, a task, or nobody."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from contextlib import AsyncExitStack, ExitStack, contextmanager

import pytest
from hands import Held

import multiembed
from multiembed.gate import Gate, gate_of
from multiembed.options import EmbeddingOptions
from multiembed.pace import Ceilings
from multiembed.runtime import account_of
from multiembed.target import aim

PATIENCE = 20.0
"""Seconds after which a test that hangs fails; nothing waits that long when the gate is right."""


def trusted_gate():
    """A gate whose account has answered once: until then it lets in one at a time."""
    gate = Gate()
    gate.place(width(1)).answered()
    return gate


def width(requests):
    """The ceilings of a caller who was told how many requests may be in flight."""
    return Ceilings(in_flight=requests)


class Crowd:
    """Counts who is inside, and the most at once."""

    def __init__(self):
        self._lock = threading.Lock()
        self.inside = self.most = self.served = 0

    @contextmanager
    def counted(self):
        with self._lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        yield
        with self._lock:
            self.inside -= 1
            self.served += 1


def in_threads(*jobs):
    """Run jobs in a thread each; the first error is raised here."""
    errors = []

    def guarded(job):
        try:
            job()
        except BaseException as error:  # noqa: BLE001 - raised again below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(job,), daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a place was never given"
    if errors:
        raise errors[0]


async def settle():
    """Let every task that can run do so."""
    for _ in range(10):
        await asyncio.sleep(0)


# ── as many as the ceiling ───────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ceiling", [1, 3])
def test_threads_and_loops_together_never_exceed_the_ceiling_and_all_are_served(ceiling):
    gate, crowd = trusted_gate(), Crowd()

    def thread():
        for _ in range(40):
            with Held(gate.place(width(ceiling))), crowd.counted():
                pass

    async def task():
        for _ in range(10):
            async with Held(gate.place(width(ceiling))):
                with crowd.counted():
                    await asyncio.sleep(0)

    async def tasks():
        await asyncio.gather(*(task() for _ in range(10)))

    in_threads(*[thread] * 4, *[lambda: asyncio.run(tasks())] * 3)
    assert crowd.most <= ceiling
    assert crowd.served == 4 * 40 + 3 * 10 * 10
    assert gate.in_flight == 0


def test_as_many_threads_as_the_ceiling_are_inside_at_once():
    gate, meeting = trusted_gate(), threading.Barrier(4)

    def thread():
        with Held(gate.place(width(4))):
            meeting.wait(PATIENCE)  # breaks unless all four are inside

    in_threads(*[thread] * 8)
    assert gate.in_flight == 0


async def test_as_many_tasks_as_the_ceiling_are_inside_at_once_and_one_more_waits():
    gate, entered, leave = trusted_gate(), [], asyncio.Event()

    async def task(name):
        async with Held(gate.place(width(3))):
            entered.append(name)
            await leave.wait()

    tasks = [asyncio.create_task(task(name)) for name in range(5)]
    await settle()
    assert (entered, gate.in_flight) == ([0, 1, 2], 3)
    leave.set()
    await asyncio.gather(*tasks)
    assert (entered, gate.in_flight) == ([0, 1, 2, 3, 4], 0)


async def test_a_thread_that_leaves_lets_a_task_in_and_a_task_that_leaves_a_thread():
    gate, entered = trusted_gate(), []

    def thread():
        with Held(gate.place(width(1))):
            entered.append("thread")

    async def task():
        async with Held(gate.place(width(1))):
            entered.append("task")
            worker.start()
            await settle()

    worker = threading.Thread(target=thread, daemon=True)
    with Held(gate.place(width(1))):
        waiting = asyncio.create_task(task())
        await settle()
        assert entered == []
    await waiting
    await asyncio.to_thread(worker.join, PATIENCE)
    assert entered == ["task", "thread"]
    assert gate.in_flight == 0


# ── first come, first served ─────────────────────────────────────────────────────────────────────


async def test_those_who_wait_are_let_in_in_the_order_they_came():
    gate, entered = trusted_gate(), []

    async def task(name):
        async with Held(gate.place(width(1))):
            entered.append(name)
            await asyncio.sleep(0)

    with Held(gate.place(width(1))):
        tasks = [asyncio.create_task(task(name)) for name in range(20)]
        await settle()
    await asyncio.gather(*tasks)
    assert entered == list(range(20))


async def test_a_caller_with_a_low_ceiling_is_not_overtaken_by_those_with_a_high_one():
    gate, entered, first, second = trusted_gate(), [], ExitStack(), ExitStack()
    first.enter_context(Held(gate.place(width(3))))
    second.enter_context(Held(gate.place(width(3))))

    async def task(name, ceiling):
        async with Held(gate.place(width(ceiling))):
            entered.append(name)

    careful = asyncio.create_task(task("careful", 1))
    await settle()
    bold = asyncio.create_task(task("bold", 3))
    await settle()
    assert entered == []
    first.close()
    await settle()
    assert entered == []
    second.close()
    await asyncio.gather(careful, bold)
    assert entered == ["careful", "bold"]
    assert gate.in_flight == 0


# ── those who go before their turn, or in trouble ────────────────────────────────────────────────


@pytest.mark.parametrize("place", [0, 1, 2])
async def test_a_task_that_is_cancelled_in_the_queue_leaves_it_and_nobody_waits_for_its_sake(place):
    gate, entered = trusted_gate(), []

    async def task(name):
        async with Held(gate.place(width(1))):
            entered.append(name)

    with Held(gate.place(width(1))):
        tasks = [asyncio.create_task(task(name)) for name in range(3)]
        await settle()
        tasks[place].cancel()
        await settle()
        assert tasks[place].cancelled()
    await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), PATIENCE)
    assert entered == [name for name in range(3) if name != place]
    assert gate.in_flight == 0


async def test_a_task_that_is_cancelled_at_the_moment_it_is_let_in_gives_its_place_back():
    gate, entered, complaints = trusted_gate(), [], []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))

    async def task(name):
        async with Held(gate.place(width(1))):
            entered.append(name)

    with Held(gate.place(width(1))):
        cancelled, patient = (asyncio.create_task(task(name)) for name in ("cancelled", "patient"))
        await settle()
    assert gate.in_flight == 1  # it is let in, and does not know it yet
    cancelled.cancel()
    await asyncio.wait_for(patient, PATIENCE)
    assert cancelled.cancelled()
    assert (entered, complaints) == (["patient"], [])
    assert gate.in_flight == 0


async def test_a_task_that_is_cancelled_inside_gives_its_place_back():
    gate = trusted_gate()

    async def task():
        async with Held(gate.place(width(1))):
            await asyncio.Event().wait()

    inside = asyncio.create_task(task())
    await settle()
    assert gate.in_flight == 1
    inside.cancel()
    await asyncio.gather(inside, return_exceptions=True)
    async with Held(gate.place(width(1))):
        assert gate.in_flight == 1


async def test_an_error_inside_gives_the_place_back():
    gate = trusted_gate()
    with pytest.raises(ZeroDivisionError), Held(gate.place(width(1))):
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        async with Held(gate.place(width(1))):
            raise ZeroDivisionError
    assert gate.in_flight == 0


def test_a_loop_that_was_closed_while_its_task_waited_keeps_nobody_out():
    gate, entered = trusted_gate(), []
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # it complains of the task, which is left pending on purpose

    async def task():
        async with Held(gate.place(width(1))):
            entered.append("the dead")

    def thread():
        with Held(gate.place(width(1))):
            entered.append("the living")

    with Held(gate.place(width(1))):
        lost = loop.create_task(task())
        loop.run_until_complete(settle())
        loop.close()
    assert not lost.done()
    in_threads(thread)
    assert entered == ["the living"]
    assert gate.in_flight == 0
    del lost


def test_loops_one_after_another_pass_the_same_gate():
    gate, served = trusted_gate(), []

    async def task(name):
        async with Held(gate.place(width(2))):
            await asyncio.sleep(0)
            served.append(name)

    async def crowd(start):
        await asyncio.gather(*(task(start + name) for name in range(20)))

    for start in (0, 20, 40):
        asyncio.run(crowd(start))
    assert sorted(served) == list(range(60))
    assert gate.in_flight == 0


async def test_a_ceiling_that_rises_lets_more_in():
    gate = trusted_gate()
    async with AsyncExitStack() as stack:
        for ceiling in (1, 2, 3):
            await asyncio.wait_for(stack.enter_async_context(Held(gate.place(width(ceiling)))), PATIENCE)
            assert gate.in_flight == ceiling


# ── whose gate it is ─────────────────────────────────────────────────────────────────────────────


def account(model="dashscope:text-embedding-v4", **options):
    return account_of(aim(model, EmbeddingOptions(**{"api_key": "sk-one-and-only", **options}), {}))


@pytest.mark.parametrize(
    ("model", "options", "same"),
    [
        ("dashscope:text-embedding-v3", {}, False),
        ("dashscope:text-embedding-v4", {"dimensions": 64, "max_concurrency": 2, "timeout": 1}, True),
        ("dashscope:text-embedding-v4", {"api_key": " sk-one-and-only\n"}, True),
        ("dashscope:text-embedding-v4", {"api_key": lambda: "sk-one-and-only"}, True),
        ("dashscope:text-embedding-v4", {"api_key": "sk-another"}, False),
        ("dashscope:text-embedding-v4", {"region": "intl"}, False),
        ("zhipu:embedding-3", {}, False),
    ],
)
def test_embedders_share_a_gate_when_provider_host_key_and_model_are_the_same(model, options, same):
    mine, other = account(), account(model, **options)
    assert (gate_of(mine) is gate_of(other)) is same
    assert "sk-" not in other


def test_what_an_embedder_is_told_holds_for_the_calls_of_others_that_began_before():
    gate, untold = trusted_gate(), Ceilings()
    began = gate.ceilings(untold)

    class Embedder:
        pass

    told = Embedder()
    gate.tell(told, Ceilings(requests_per_minute=1))
    with Held(gate.place(began, ends=time.monotonic() + 0.01)) as admitted:
        assert admitted
    with Held(gate.place(began, ends=time.monotonic() + 0.01)) as admitted:
        assert not admitted
    del told
    gc.collect()
    with Held(gate.place(began)) as admitted:
        assert admitted


def test_a_place_whose_loop_was_closed_is_not_waited_for():
    gate = trusted_gate()
    loop = asyncio.new_event_loop()
    place = Held(gate.place(width(1)))
    assert loop.run_until_complete(place.__aenter__())
    loop.close()
    with Held(gate.place(width(1))) as admitted:
        assert admitted
    place.__exit__(None, None, None)
    assert gate.in_flight == 0


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "in the queue"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_collector_may_end_a_forgotten_task_in_the_very_thread_that_has_the_gate(inside):
    collect = threading.Event()

    def clock():  # which is read while the gate is locked
        if collect.is_set():
            collect.clear()
            gc.collect()
        return time.monotonic()

    gate = Gate(clock)
    gate.place(width(1)).answered()
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)

    async def stay():
        async with Held(gate.place(width(1))):
            await asyncio.sleep(PATIENCE)

    tasks = [loop.create_task(stay()) for _ in range(1 if inside else 2)]
    loop.run_until_complete(settle())
    loop.close()
    gc.disable()
    try:
        del loop, tasks
        collect.set()
        in_threads(lambda: pass_through(gate))
    finally:
        gc.enable()
    gc.collect()
    in_threads(lambda: pass_through(gate))
    assert gate.in_flight == gate.pace.in_flight == 0


def pass_through(gate):
    with Held(gate.place(width(1))) as admitted:
        assert admitted


def test_a_count_that_ctrl_c_cut_short_is_put_right_by_the_next_request():
    gate = trusted_gate()
    gate.pace.in_flight += 1  # as it stands when the place itself could no longer be noted
    pass_through(gate)
    assert gate.pace.in_flight == 0


async def test_who_blocks_a_loop_overtakes_those_who_wait_for_it():
    gate = trusted_gate()

    async def stay():
        async with Held(gate.place(width(1))):
            await asyncio.sleep(0)

    inside = [asyncio.create_task(stay()) for _ in range(3)]
    await asyncio.sleep(0)
    assert gate.in_flight == 1
    with Held(gate.place(width(1))) as admitted:
        assert admitted
    await asyncio.gather(*inside)
    assert gate.in_flight == 0


def test_no_place_comes_where_the_gate_is_shut_beyond_the_end():
    gate = trusted_gate()
    gate.place(width(1)).slowed(1000.0, asked=True)
    gate.place(width(1)).slowed(1000.0, asked=True)  # one refusal alone is not believed for so long
    with Held(gate.place(width(1), ends=time.monotonic() + 500.0)) as admitted:
        assert not admitted
    assert gate.in_flight == 0


def test_requests_that_were_let_go_without_waits_make_nobody_wait_afterwards():
    gate = trusted_gate()
    with multiembed.no_waits():
        for _ in range(50):
            with Held(gate.place(width(1))) as admitted:
                assert admitted
    place = gate.place(width(1))
    with Held(place):
        place.slowed(0.0, asked=False, quota="requests")
    with multiembed.no_waits():
        for _ in range(50):
            with Held(gate.place(width(1))):
                pass
    assert gate.pace.wait(time.monotonic(), width(1), 1.0) <= 5.0
