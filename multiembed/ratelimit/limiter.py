"""Rate limiter of an account and model, and its permits. Used on the I/O thread alone, so it needs no lock."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import weakref
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multiembed.ratelimit.circuit_breaker import CircuitBreaker, RetryBudget
from multiembed.ratelimit.pacer import AccountLimits, Pacer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from multiembed.ratelimit.sliding_window import InFlightRecord
    from multiembed.types import ErrorKind, LimitKind

logger = logging.getLogger("multiembed")
_MIN_TIMER = 0.001  # seconds; a shorter time is 0 on some clocks
_MAX_TIMER = 1.0  # seconds; the queue is checked each second, because test mode may be switched on
_UNUSED = 3600.0
"""Seconds until an unused limiter is dropped. Rotating keys would leave one each, of 8 kB to 7 MB."""
_NOT_CONFIGURED = AccountLimits()


class AccountLimiter:
    """Rate limiter of one account and model, shared by all its clients in this process.

    Admits requests in FIFO order while configured limits, adaptive limits and the circuit breaker allow it. `clock`
    gives seconds, as the event loop counts them; `name` is for log lines.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, name: str = "") -> None:
        self.name = name
        self.clock = clock
        self.breaker = CircuitBreaker()
        self.retry_budget = RetryBudget()
        self.pacer = Pacer()
        self.last_answer = float("-inf")
        """When a request last succeeded."""
        self.successes = 0
        self.failures = 0
        """Failures of requests, without rate limits."""
        self.used_at = clock()
        """When a client last asked for the limiter or a permit."""
        self.owners: weakref.WeakKeyDictionary[object, AccountLimits] = weakref.WeakKeyDictionary()
        """The clients that use the limiter and live, each with its configured limits."""
        self._queue: deque[Permit] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def effective_limits(self, own: AccountLimits) -> AccountLimits:
        """Limits of a client: the lowest configured rates of all clients, and its own concurrency.

        A client that configures no concurrency has the lowest of the others.
        """
        configured = [own, *self.owners.values()]

        def lowest(name: str) -> int | None:
            return min((value for limits in configured if (value := getattr(limits, name)) is not None), default=None)

        rates = lowest("requests_per_minute"), lowest("tokens_per_minute")
        return AccountLimits(own.in_flight or lowest("in_flight"), *rates, own.per_second)

    def permit(
        self, limits: AccountLimits = _NOT_CONFIGURED, tokens: float = 0.0, deadline: float | None = None
    ) -> Permit:
        """Permit for one request of so many estimated tokens, to be held `async with` while it is in flight.

        Entering gives True once the request may start, and False if it cannot start before the deadline, which is on
        the limiter's clock. Besides the client's own limits, those of the account's other clients hold.
        """
        self.used_at = self.clock()
        return Permit(self, self.effective_limits(limits), tokens, float("inf") if deadline is None else deadline)

    async def enqueue(self, permit: Permit) -> bool:
        """Wait until a permit is admitted. Returns: False if its deadline ends first or it is cancelled."""
        if self._is_late(permit):
            return False
        loop = asyncio.get_running_loop()
        permit.decision = loop.create_future()
        self._queue.append(permit)
        timer = None
        try:
            self._admit()
            if not permit.is_decided and permit.deadline != float("inf"):
                timer = loop.call_later(permit.deadline - self.clock(), permit.cancel)
            return await permit.decision
        except BaseException:
            self.release(permit)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def release(self, permit: Permit) -> None:
        """Give back a permit, or its position in the queue. A second time does nothing."""
        if permit.record is not None:
            self.pacer.finish(permit.record, self.clock())
        elif permit in self._queue:
            self._queue.remove(permit)
        self._admit()

    @contextmanager
    def failing(self) -> Iterator[float]:
        """Record a failure at the given time. Logs what changes, and ends waits that a new pause makes too long."""
        was_closed, open_until, learned = self.breaker.is_closed, self.breaker.open_until, self.pacer.learned()
        now = self.clock()
        yield now
        if was_closed and not self.breaker.is_closed:
            logger.info("%s: circuit breaker open after repeated failures: one request at a time", self.name)
        if self.breaker.open_until > open_until:
            seconds = max(0.0, self.breaker.open_until - now)
            logger.info("%s: paused for %.1f s (%s)", self.name, seconds, self.breaker.reason)
            for permit in filter(self._is_late, self._queue):
                permit.decide(admitted=False)
        if self.pacer.learned() != learned:
            logger.info("%s: slowed down to %s", self.name, self.pacer.learned())

    def _admit(self) -> None:
        """Admit the requests that may start now. Where only time is missing, a timer calls this again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            permit = self._queue[0]
            admitted = not permit.is_decided and not self._is_late(permit)
            if admitted:
                delay = self._delay(permit)
                if delay > 0.0:
                    seconds = max(_MIN_TIMER, min(delay, _MAX_TIMER))
                    self._timer = asyncio.get_running_loop().call_later(seconds, self._admit)
                    return
                permit.record = self.pacer.start(self.clock(), permit.limits, permit.tokens)
            self._queue.popleft()
            permit.decide(admitted=admitted)

    def _is_late(self, permit: Permit) -> bool:
        """Whether no request may start before the permit's deadline."""
        return max(self.clock(), self.breaker.open_until) >= permit.deadline

    def _delay(self, permit: Permit) -> float:
        """Seconds until the permit may be admitted; infinite if another request must end first."""
        now = self.clock()
        if now < self.breaker.open_until:
            return self.breaker.open_until - now
        if self.pacer.in_flight >= self.breaker.max_in_flight(now, self.pacer.max_in_flight(permit.limits)):
            return float("inf")
        return self.pacer.delay(now, permit.limits, permit.tokens)


@dataclass(slots=True, eq=False)
class Permit:
    """Permit for one request in flight. The result of the request is reported to it."""

    _limiter: AccountLimiter
    limits: AccountLimits
    tokens: float
    deadline: float
    record: InFlightRecord | None = None
    """Record of the request, once admitted."""
    decision: asyncio.Future[bool] | None = None
    """Whether it is admitted, once queued."""

    def report_success(self, billed: int | None = None) -> None:
        """Report that the provider works. It billed so many tokens."""
        limiter = self._limiter
        now = limiter.last_answer = limiter.clock()
        limiter.successes += 1
        limiter.retry_budget.on_success()
        if self.record is not None:
            limiter.pacer.on_success(self.record, now, billed)
        if limiter.breaker.on_success():
            limiter.pacer.restart_search()
            logger.info("%s: works again", limiter.name)

    def report_failure(self, delay: float, kind: ErrorKind = "server") -> None:
        """Report that the request failed and is retried after so many seconds."""
        with self._limiter.failing() as now:
            self._limiter.failures += 1
            self._limiter.breaker.on_failure(now, delay, kind)

    def report_rate_limited(
        self, delay: float, *, asked: bool, reported: LimitKind | None = None, documented: LimitKind | None = None
    ) -> None:
        """Report that the request was rate-limited, and is retried after so many seconds.

        `asked` is whether the provider asked for this delay, `reported` the limit that the response names, and
        `documented` the one that the provider documents.
        """
        record = self.record
        with self._limiter.failing() as now:
            self._limiter.breaker.on_rate_limited(now, delay, asked=asked, sent=None if record is None else record.sent)
            if record is not None:
                self._limiter.pacer.on_rate_limited(record, now, reported, documented, delay if asked else 0.0)

    def end_request(self) -> None:
        """Let another request start before this one's result is reported, because parsing takes long.

        While the breaker is not closed, the next request waits for the result.
        """
        if self._limiter.breaker.is_closed:
            self._limiter.release(self)

    def cancel(self) -> None:
        """End the wait, as at the deadline."""
        self.deadline = float("-inf")
        self.decide(admitted=False)

    def decide(self, *, admitted: bool) -> None:
        """End the wait. The first decision counts."""
        if self.decision is not None and not self.decision.done():
            self.decision.set_result(admitted)

    @property
    def is_decided(self) -> bool:
        """Whether it does not wait."""
        return self.decision is None or self.decision.done()

    async def __aenter__(self) -> bool:
        return await self._limiter.enqueue(self)

    async def __aexit__(self, *_: object) -> None:
        self._limiter.release(self)


_limiters: dict[tuple[int, str], AccountLimiter] = {}
"""By process, because a forked child has none of its parent's requests in flight, and by account."""


def limiter_for(account: str, clock: Callable[[], float] = time.monotonic, name: str = "") -> AccountLimiter:
    """Rate limiter of an account and model in this process, the same for every client.

    The account's name is made of provider, host, a hash of the key, and model.
    """
    now, key = clock(), (os.getpid(), account)
    limiter = _limiters.get(key)
    if limiter is None:
        for unused in [key for key, each in _limiters.items() if now - each.used_at > _UNUSED and not each.owners]:
            del _limiters[unused]
        limiter = _limiters[key] = AccountLimiter(clock, name or account)
    limiter.used_at = now
    return limiter


def forget_limiters() -> None:
    """Drop all limiters, so that each test has its own."""
    _limiters.clear()
