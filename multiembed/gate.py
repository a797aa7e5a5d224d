"""Which requests of one account are in flight: one gate for threads and event loops together."""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from multiembed.log import logger
from multiembed.pace import Ceilings, Pace
from multiembed.place import Place, TooLateError
from multiembed.waits import waiting
from multiembed.weather import Weather

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from multiembed.records import FaultKind, Quota
    from multiembed.window import Ticket


_LOOK_UP = 1.0
"""Seconds after which whoever waits looks again: an event loop that stops wakes nobody."""
_BLINK = 0.001
"""Seconds to wait at least: a shorter time may be none at all on some clocks."""


class Gate:
    """First come, first served, as many and as fast as ceilings, learned limits and the account's weather allow.

    Args:
        clock: seconds; the one that the flows use.
        name: of provider and model, for log lines.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, name: str = "") -> None:
        self.name = name
        """For log lines; without the key."""
        self.weather = Weather()
        self.pace = Pace()
        self.last_answer = float("-inf")
        """When the provider last did what was asked."""
        self.successes = 0
        """How often it did."""
        self.failures = 0
        """How often requests failed in another way than by a rate limit."""
        self.used_at = clock()
        """When a request last asked for a place, or an embedder for the gate."""
        self._clock = clock
        self._lock = threading.Lock()
        self._inside: set[Place] = set()
        self._waiting: deque[Place] = deque()
        self._forsaken: deque[Place] = deque()
        """Given back by whoever could not wait for the lock."""
        self._told: weakref.WeakKeyDictionary[object, Ceilings] = weakref.WeakKeyDictionary()

    def tell(self, teller: object, ceilings: Ceilings) -> None:
        """Note what an embedder was told of the account's quota, for as long as the embedder lives."""
        if (ceilings.in_flight, ceilings.requests_per_minute, ceilings.tokens_per_minute) != (None, None, None):
            with self._lock:
                self._told[teller] = ceilings

    def ceilings(self, own: Ceilings) -> Ceilings:
        """What holds for an embedder: the lowest rates that any on the account was told, and its own in flight.

        Who was told nothing of requests in flight keeps to what the others were told.
        """
        if not self._told:
            return own
        with self._lock:
            told = [own, *self._told.values()]
        if all(each is own for each in told):
            return own
        return replace(
            own,
            in_flight=own.in_flight or _lowest(each.in_flight for each in told),
            requests_per_minute=_lowest(each.requests_per_minute for each in told),
            tokens_per_minute=_lowest(each.tokens_per_minute for each in told),
        )

    @property
    def in_flight(self) -> int:
        """Requests inside now."""
        return len(self._inside)

    def place(self, ceilings: Ceilings, tokens: float = 0.0, ends: float | None = None) -> Place:
        """A place inside for one request, to be held `async with`, once there is room.

        What the context gives is whether there was one: False when none came, or none can come, before `ends`. The
        verdict on the answer is told to the place while it is held. Nobody holds one while waiting out a back-off.

        Args:
            ceilings: what the caller knows of the account's quota; what others were told since counts, too.
            tokens: of the request, as estimated.
            ends: on the gate's clock.
        """
        self.used_at = self._clock()
        return Place(self, self.ceilings(ceilings), tokens, float("inf") if ends is None else ends)

    def may_retry(self) -> bool:
        """Whether the account's retry budget has one left, which is then spent."""
        with self._lock:
            return self.weather.may_retry()

    # ── the verdicts ─────────────────────────────────────────────────────────────────────────────

    def answered(self, ticket: Ticket | None, billed: int | None) -> None:
        """A request was answered as it should be, and billed so many tokens."""
        with self._lock:
            now = self.last_answer = self._clock()
            self.successes += 1
            if ticket is not None:
                self.pace.passed(ticket, now, billed)
            recovered = self.weather.answered()
            if recovered:
                self.pace.recovered()
        if recovered:
            logger.info("%s: works again", self.name)

    def failed(self, delay: float, kind: FaultKind = "server") -> None:
        """A request failed, and will wait so many seconds."""
        with self._lock:
            before = self._state()
            self.failures += 1
            self.weather.failed(self._clock(), delay, kind)
            self._wake()
        self._log_changes(before)

    def slowed(
        self, ticket: Ticket | None, quota: Quota | None, usual: Quota | None, delay: float, *, asked: bool
    ) -> None:
        """A request was refused because the account is too fast; see `Place.slowed`."""
        with self._lock:
            before, now = self._state(), self._clock()
            self.weather.slowed(now, delay, asked=asked, sent=None if ticket is None else ticket.sent)
            if ticket is not None:
                self.pace.refused(ticket, now, quota, usual, delay if asked else 0.0)
            self._wake()
        self._log_changes(before)

    def _state(self) -> tuple[bool, float, str]:
        """What a log line may tell of."""
        return self.weather.trusted, self.weather.closed_until, self.pace.learned()

    def _log_changes(self, before: tuple[bool, float, str]) -> None:
        """Log what changed. Not under the lock: a handler may take long, or make a call of its own."""
        if not logger.isEnabledFor(logging.INFO):
            return
        trusted, closed_until, learned = self._state()
        if before[0] and not trusted:
            logger.info("%s: circuit breaker open after repeated failures: one request at a time", self.name)
        if closed_until > before[1]:
            seconds = closed_until - self._clock()
            logger.info("%s: paused for %.1f s (%s)", self.name, max(0.0, seconds), self.weather.reason)
        if learned != before[2]:
            logger.info("%s: slowed down to %s", self.name, learned)

    # ── the queue ────────────────────────────────────────────────────────────────────────────────

    def enter(self, place: Place) -> None:
        """Let it in, or put it at the end of the queue."""
        with self._lock:
            self._clear()
            if (not self._waiting or place.blocks is not None) and self._wait(place) <= 0.0:
                self._let_in(place)
            else:
                self._waiting.append(place)

    def look_again(self, place: Place) -> float:
        """Admit whoever may come in; the seconds until it is worth looking again.

        Raises:
            TooLateError: that is after the place's end.
        """
        with self._lock:
            soonest = self._admit()
            now = self._clock()
            if place.ticket is None and max(now, self.weather.closed_until) >= place.ends:
                raise TooLateError
            return max(_BLINK, min(place.ends - now, soonest, _LOOK_UP))

    def leave(self, place: Place) -> None:
        """Give the place back, or the place in the queue when the wait was cut short. Twice is as good as once."""
        with self._lock:
            self._let_out(place)
            self._admit()

    def forsake(self, place: Place) -> None:
        """Have the place given back by the next one who comes by, at most as late as those who wait look again.

        For the garbage collector, which ends the tasks of a loop that is gone in any thread that it likes, also in one
        that has the lock.
        """
        self._forsaken.append(place)

    def _clear(self) -> None:
        while self._forsaken:
            self._let_out(self._forsaken.popleft())

    def _let_out(self, place: Place) -> None:
        if place in self._inside and place.ticket is not None:
            self._inside.remove(place)
            self.pace.gone(place.ticket, self._clock())
            self.pace.in_flight = len(self._inside)  # Ctrl-C may have come between the two once
        elif place in self._waiting:
            self._waiting.remove(place)

    def _admit(self) -> float:
        """Let in who may come in; the seconds until the next one may, as far as time alone decides it."""
        self._clear()
        if not self._waiting:
            return float("inf")
        soonest = 0.0
        for place in list(self._waiting):
            if place.ends <= self._clock():  # it waits no longer, and will leave
                continue
            if soonest > 0.0 and place.blocks is None:  # nobody overtakes, but who would otherwise wait for ever
                continue
            wait = self._wait(place)
            if wait > 0.0:
                soonest = soonest or wait
                continue
            self._waiting.remove(place)
            if place.wake():
                self._let_in(place)
        return soonest or float("inf")

    def _let_in(self, place: Place) -> None:
        place.ticket = self.pace.go(self._clock(), place.ceilings, place.tokens, learned=waiting(1.0) > 0.0)
        self._inside.add(place)

    def _wait(self, place: Place) -> float:
        """Seconds until the place may be taken; infinite when somebody must leave first."""
        now = self._clock()
        if now < self.weather.closed_until:
            return self.weather.closed_until - now
        room = self.weather.room(now, self.pace.room(place.ceilings))
        # A place whose loop does not run, or that this very place keeps from running, may never be given back.
        if len(self._inside) >= room and sum(other.moves(place.blocks) for other in self._inside) >= room:
            return float("inf")
        return self.pace.wait(now, place.ceilings, place.tokens, learned=waiting(1.0) > 0.0)

    def _wake(self) -> None:
        """Let all who wait look at the clock again: the gate was shut for a time."""
        for place in self._waiting:
            place.wake()


def _lowest(numbers: Iterable[int | None]) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


_KEPT = 3600.0
"""Seconds for which a gate is kept that no embedder holds any more. Keys that rotate would leave one each, of 8 kB to
7 MB."""

_gates: dict[str, Gate] = {}
_living: weakref.WeakValueDictionary[str, Gate] = weakref.WeakValueDictionary()
"""The same, and those that were dropped from there and that an embedder still holds."""
_making = threading.Lock()


def gate_of(account: str, clock: Callable[[], float] = time.monotonic, name: str = "") -> Gate:
    """The gate of an account and model in this process, the same for every embedder on it.

    Args:
        account: a name made of provider, host, a hash of the key, and model.
        clock: seconds.
        name: of provider and model, for log lines.
    """
    gate = _gates.get(account)
    if gate is None:
        with _making:
            for name in [name for name, each in list(_gates.items()) if clock() - each.used_at > _KEPT]:
                del _gates[name]
            gate = _living.get(account) or _living.setdefault(account, Gate(clock, name or account))
            gate = _gates.setdefault(account, gate)
    gate.used_at = clock()
    return gate


def _forget() -> None:
    """A forked child has none of its parent's requests in flight, and a lock may have been held at the fork."""
    global _making
    _making = threading.Lock()
    _gates.clear()
    _living.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
