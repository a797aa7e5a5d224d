"""Hands without a call: run on either reactor, and holding a place at a gate."""

from __future__ import annotations

import asyncio
from functools import partial

from multiembed.reactor.tasks import TaskReactor
from multiembed.reactor.threads import ThreadReactor

PATIENCE = 20.0
"""Seconds after which hands that hang fail."""


def play(kind, *hands):
    """What the hands return, each a function of the reactor, run together to their end."""
    came, broken = {}, []

    async def run(place, hand, reactor):
        try:
            came[place] = await hand(reactor)
        except BaseException as error:  # noqa: BLE001 - raised again below
            broken.append(error)

    def start(reactor):
        for place, hand in enumerate(hands):
            reactor.start(partial(run, place, hand, reactor), broken.append)

    async def in_tasks():
        reactor = TaskReactor()
        start(reactor)
        await reactor.run()

    if kind == "tasks":
        asyncio.run(asyncio.wait_for(in_tasks(), PATIENCE))
    else:
        reactor = ThreadReactor()
        start(reactor)
        if kind == "a thread":
            assert reactor.begin()
            reactor.wait()
        else:
            assert reactor.run()
    if broken:
        raise broken[0]
    return [came[place] for place in range(len(hands))]


def all_in_this_thread(*hands):
    """What hands return that run side by side as those of a sync call do."""
    return play("the caller's thread", *hands)


def in_this_thread(hand):
    """What one hand returns that runs as a sync call's does."""
    return all_in_this_thread(hand)[0]


def beside_others():
    """A reactor for tasks of the running loop."""
    return TaskReactor()


class Held:
    """A place that is held `with` or `async with`."""

    def __init__(self, place):
        self._place = place

    def __enter__(self):
        return in_this_thread(self._enter)

    def __exit__(self, *error):
        return in_this_thread(lambda reactor: self._leave(reactor, *error))

    async def __aenter__(self):
        self._place.reactor = beside_others()
        return await self._place.__aenter__()

    async def __aexit__(self, *error):
        return await self._place.__aexit__(*error)

    async def _enter(self, reactor):
        self._place.reactor = reactor
        return await self._place.__aenter__()

    async def _leave(self, reactor, *error):
        self._place.reactor = reactor
        return await self._place.__aexit__(*error)
