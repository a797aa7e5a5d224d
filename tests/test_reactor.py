"""What hands wait for, on both reactors: signals, sockets, what is done aside; and what becomes of them in the end."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
import gc
import os
import selectors
import socket
import threading
import time

import pytest
from hands import play

from multiembed.reactor import threads
from multiembed.reactor.threads import ThreadReactor

PATIENCE = 20.0
"""Seconds after which a test that hangs fails."""
forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


@pytest.fixture(params=["tasks", "a thread", "the caller's thread"])
def kind(request):
    return request.param


def ours():
    return [thread for thread in threading.enumerate() if thread.name == "multiembed"]


def nobody_is_left():
    end = time.monotonic() + PATIENCE
    while ours() and time.monotonic() < end:
        time.sleep(0.002)
    return not ours()


# ── signals ──────────────────────────────────────────────────────────────────────────────────────


def test_a_signal_from_another_thread_ends_the_wait(kind):
    async def hand(reactor):
        signal = reactor.signal()
        threading.Timer(0.01, signal.set).start()
        return await signal.wait(PATIENCE)

    assert play(kind, hand) == [True]


def test_a_signal_from_another_hand_ends_the_wait(kind):
    signals = []

    async def waits(reactor):
        signals.append(reactor.signal())
        return await signals[0].wait(PATIENCE)

    async def sets(reactor):
        await reactor.signal().wait(0.0)
        signals[0].set()

    assert play(kind, waits, sets) == [True, None]


def test_a_wait_ends_with_its_time_and_says_that_nobody_has_set_the_signal(kind):
    async def hand(reactor):
        signal = reactor.signal()
        return [await signal.wait(seconds) for seconds in (0.0, 0.001, 0.01)]

    assert play(kind, hand) == [[False] * 3]


def test_a_signal_that_was_set_before_is_not_waited_for_and_is_used_up(kind):
    async def hand(reactor):
        signal = reactor.signal()
        signal.set()
        first = await signal.wait(PATIENCE)
        return first, await signal.wait(0.001)

    assert play(kind, hand) == [(True, False)]


def test_who_waits_lets_others_go_on_even_for_no_time_at_all(kind):
    order = []

    def hand(name):
        async def run(reactor):
            for turn in range(3):
                order.append((turn, name))
                await reactor.signal().wait(0.0)

        return run

    play(kind, hand("a"), hand("b"))
    assert sorted(order) == [(turn, name) for turn in range(3) for name in "ab"]
    assert order[-1][0] == 2
    assert {name for _, name in order[:2]} == {"a", "b"}


def test_shorter_waits_end_sooner(kind):
    ended = []

    def hand(seconds):
        async def run(reactor):
            await reactor.signal().wait(seconds)
            ended.append(seconds)

        return run

    play(kind, hand(0.15), hand(0.1), hand(0.05))
    assert ended == [0.05, 0.1, 0.15]


@pytest.mark.parametrize("where", ["a thread", "the caller's thread"])
def test_a_wait_for_nothing_but_a_time_asks_the_system_for_no_socket(where, monkeypatch):
    """Windows' select refuses to wait for none."""

    class Picky(selectors.SelectSelector):
        def select(self, timeout=None):
            assert self.get_map()
            return super().select(timeout)

    monkeypatch.setattr(selectors, "DefaultSelector", Picky)
    monkeypatch.setattr(threads, "_ForFew", Picky)

    async def hand(reactor):
        return [await reactor.signal().wait(seconds) for seconds in (0.0, 0.001)]

    assert play(where, hand, hand) == [[False] * 2] * 2


# ── aside ────────────────────────────────────────────────────────────────────────────────────────


def test_what_is_done_aside_holds_nobody_up_and_its_value_and_its_error_come_back(kind):
    meeting = threading.Barrier(3)
    told = contextvars.ContextVar("told", default="nothing")
    token = told.set("the caller's")

    async def value(reactor):
        return await reactor.aside(lambda: (meeting.wait(PATIENCE), told.get())[1])

    async def error(reactor):
        def fails():
            meeting.wait(PATIENCE)
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await reactor.aside(fails)

    async def also_aside(reactor):
        await reactor.aside(meeting.wait, PATIENCE)

    try:
        assert play(kind, value, error, also_aside) == ["the caller's", None, None]
    finally:
        told.reset(token)
    assert nobody_is_left()


def test_a_single_hand_in_the_callers_thread_needs_no_other_for_what_blocks():
    async def hand(reactor):
        return await reactor.aside(threading.get_ident)

    assert play("the caller's thread", hand) == [threading.get_ident()]
    assert play("a thread", hand) != [threading.get_ident()]


def test_where_no_thread_can_be_started_what_blocks_is_done_all_the_same(monkeypatch):
    def start(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)

    async def hand(reactor):
        return await reactor.aside(threading.get_ident)

    reactor = ThreadReactor()
    assert not reactor.begin()
    assert play("the caller's thread", hand, hand) == [threading.get_ident()] * 2


def test_where_the_system_is_out_of_files_the_callers_thread_does_it_all(monkeypatch):
    def socketpair():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(socket, "socketpair", socketpair)

    async def hand(reactor):
        await reactor.signal().wait(0.001)
        return await reactor.aside(threading.get_ident)

    assert not ThreadReactor().begin()
    assert play("the caller's thread", hand, hand) == [threading.get_ident()] * 2


def test_what_is_done_aside_is_waited_for_no_longer_than_it_may():
    let_go = threading.Event()

    async def hand(reactor):
        with pytest.raises(TimeoutError):
            await reactor.aside(let_go.wait, PATIENCE, ends=time.monotonic() + 0.01)

    play("the caller's thread", hand)
    play("a thread", hand)
    let_go.set()
    assert nobody_is_left()


# ── sockets ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("where", ["a thread", "the caller's thread"])
def test_sockets_are_waited_for_together_and_no_longer_than_they_may(where):
    pairs = [socket.socketpair() for _ in range(3)]

    def reads(place, seconds):
        async def run(reactor):
            return await reactor.readable(pairs[place][0], time.monotonic() + seconds)

        return run

    async def writes(reactor):
        assert await reactor.writable(pairs[1][1], time.monotonic() + PATIENCE)
        pairs[1][1].send(b"x")
        pairs[2][1].close()

    with contextlib.ExitStack() as stack:
        for pair in pairs:
            for end in pair:
                stack.enter_context(end)
        assert play(where, reads(0, 0.05), reads(1, PATIENCE), reads(2, PATIENCE), writes) == [False, True, True, None]
        assert play(where, reads(1, PATIENCE), reads(0, 0.0)) == [True, False]  # nothing is left registered


# ── its life ─────────────────────────────────────────────────────────────────────────────────────


def test_a_thread_begins_when_there_is_something_to_do_and_ends_with_the_last_hand():
    reactor, done = ThreadReactor(), threading.Semaphore(0)

    async def hand():
        done.release()

    for _ in range(50):
        assert reactor.begin(lambda: reactor.start(hand, print))
        assert done.acquire(timeout=PATIENCE)
    assert nobody_is_left()
    assert not reactor.run()


def test_what_is_posted_while_all_hands_wait_is_done_at_once():
    reactor, posted = ThreadReactor(), threading.Event()
    signal = reactor.signal()

    async def hand():
        await signal.wait(PATIENCE)

    reactor.begin(lambda: reactor.start(hand, print))
    time.sleep(0.02)
    reactor.post(posted.set)
    assert posted.wait(PATIENCE)
    assert ours()
    signal.set()
    assert nobody_is_left()


@pytest.mark.parametrize("where", ["a thread", "the caller's thread"])
def test_when_it_breaks_all_hands_hear_of_it_and_clean_up(where):
    broken, heard = [], []
    reactor = ThreadReactor()
    one, other = socket.socketpair()

    def breaks():
        reactor.start(has_not_begun, broken.append)
        raise KeyboardInterrupt

    async def waits():
        try:
            await reactor.readable(one, time.monotonic() + PATIENCE)
        except KeyboardInterrupt:
            heard.append("sending")
            raise

    async def rests():
        try:
            await reactor.signal().wait(PATIENCE)
        finally:
            heard.append("resting")

    async def has_not_begun():
        raise AssertionError

    async def breaks_it():
        await reactor.signal().wait(0.0)
        reactor.post(breaks)

    for hand in (waits, rests, breaks_it):
        reactor.start(hand, broken.append)
    with one, other:
        if where == "a thread":
            reactor.begin()
            reactor.wait()
        else:
            with pytest.raises(KeyboardInterrupt):
                reactor.run()
    assert sorted(heard) == ["resting", "sending"]
    assert [type(error) for error in broken] == [KeyboardInterrupt] * 3
    assert nobody_is_left()
    gc.collect()
    assert not reactor.run()


def test_a_running_loop_is_known_to_stand_still_meanwhile():
    async def look():
        return ThreadReactor().blocked is asyncio.get_running_loop()

    assert asyncio.run(look())
    assert ThreadReactor().blocked is None


@forks
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_its_parents_hands_alone():
    reactor, ended = ThreadReactor(), threading.Event()
    signal = reactor.signal()

    async def hand():
        await signal.wait(PATIENCE)
        ended.set()

    reactor.start(hand, print)
    reactor.begin()
    with reactor._lock:  # as another thread may hold it at a fork
        pid = os.fork()
        if not pid:
            signal.set()
            reactor.begin(signal.set)
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert not ended.wait(0.05)
    signal.set()
    assert ended.wait(PATIENCE)
    assert nobody_is_left()
