"""What hands do by themselves: hold a place at a gate, from a thread or from a task."""

from __future__ import annotations

from functools import partial

from multiembed.reactor.tasks import TaskReactor
from multiembed.reactor.threads import ThreadReactor


def in_this_thread(hand):
    """Run a coroutine as a sync call does; what it returns."""
    return all_in_this_thread(hand)[0]


def all_in_this_thread(*hands):
    """Run coroutines, each of a function of the reactor, side by side; what they return."""
    reactor, came, broken = ThreadReactor(), {}, []

    async def run(place, hand):
        try:
            came[place] = await hand(reactor)
        except BaseException as error:  # noqa: BLE001 - raised again below
            broken.append(error)

    for place, hand in enumerate(hands):
        reactor.start(partial(run, place, hand), broken.append)
    reactor.run()
    if broken:
        raise broken[0]
    return [came[place] for place in range(len(hands))]


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
