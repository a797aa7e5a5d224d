"""Rate limiter of an account and model, and its permits. Used on the I/O thread alone, so it needs no lock."""

from __future__ import annotations

import asyncio
import logging
import time
import weakref
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from multiembed.ratelimit.circuit_breaker import CircuitBreaker, RetryBudget
from multiembed.ratelimit.pacer import AccountLimits, Pacer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from multiembed.ratelimit.sliding_window import InFlightRecord
    from multiembed.types import ErrorKind, LimitKind

logger = logging.getLogger("multiembed")
_MIN_TIMER = 0.001  # seconds; a shorter time is 0 on some clocks
_MAX_TIMER = 1.0  # seconds; the queue is checked each second, because test mode may be switched on
_NOT_CONFIGURED = AccountLimits()


class Upstream(Protocol):
    """Decides about the permits of a limiter, where processes share a quota."""

    @property
    def decides(self) -> bool:
        """Whether the limiter itself must not admit requests."""

    def ask(self, permit: Permit) -> None:
        """Ask for a permit that was queued. `AccountLimiter.admit` is called for it later, or its wait fails."""

    def end(self, permit: Permit, *, final: bool) -> None:
        """Note that the request of a permit has ended, or its wait. A result may follow unless it is final."""

    def report(self, permit: Permit, *result: object) -> None:
        """Pass on the result of a request."""

    def spend_retry(self) -> None:
        """Note that a retry was spent."""

    def leave(self) -> None:
        """End the sharing, from any thread."""


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
        self.upstream: Upstream | None = None
        self.may_admit: Callable[[], bool] = lambda: True
        """Whether this limiter still decides, where processes share a quota."""
        self.share = 1
        """Number of limiters among which the quota is divided: 1, unless they cannot reach each other."""
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
        timer = None
        try:
            decision = self.submit(permit)
            if not permit.is_decided and permit.deadline != float("inf"):
                timer = loop.call_later(permit.deadline - self.clock(), permit.cancel)
            return await decision
        except BaseException:
            self.release(permit)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def submit(self, permit: Permit) -> asyncio.Future[bool]:
        """Queue a permit. Returns: whether it is admitted, once that is decided."""
        decision = permit.decision = asyncio.get_running_loop().create_future()
        self._queue.append(permit)
        if self.upstream is not None:
            self.upstream.ask(permit)
        self.admit_waiting()
        return decision

    def admit(self, permit: Permit) -> None:
        """Start the request of a permit that waits."""
        self._queue.remove(permit)
        permit.record = self.pacer.start(self.clock(), permit.limits.divided(self.share), permit.tokens)
        permit.decide(admitted=True)

    def release(self, permit: Permit, *, final: bool = True) -> None:
        """Give back a permit, or its position in the queue. A second time does nothing."""
        if permit.record is not None:
            self.pacer.finish(permit.record, self.clock())
        elif permit in self._queue:
            self._queue.remove(permit)
        if self.upstream is not None:
            self.upstream.end(permit, final=final)
        self.admit_waiting()

    @property
    def waiting(self) -> Sequence[Permit]:
        """The permits that wait, in order."""
        return [permit for permit in self._queue if not permit.is_decided]

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
            self.end_late_waits()
        if self.pacer.learned() != learned:
            logger.info("%s: slowed down to %s", self.name, self.pacer.learned())

    def end_late_waits(self) -> None:
        """End the waits that a pause makes too long."""
        for permit in filter(self._is_late, self._queue):
            permit.decide(admitted=False)

    def admit_waiting(self) -> None:
        """Admit the requests that may start now. Where only time is missing, a timer calls this again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (self.upstream is not None and self.upstream.decides) or not self.may_admit():
            return
        while self._queue:
            permit = self._queue[0]
            if permit.is_decided or self._is_late(permit):
                self._queue.popleft()
                permit.decide(admitted=False)
                continue
            delay = self._delay(permit)
            if delay > 0.0:
                seconds = max(_MIN_TIMER, min(delay, _MAX_TIMER))
                self._timer = asyncio.get_running_loop().call_later(seconds, self.admit_waiting)
                return
            self.admit(permit)

    def _is_late(self, permit: Permit) -> bool:
        """Whether no request may start before the permit's deadline."""
        return max(self.clock(), self.breaker.open_until) >= permit.deadline

    def _delay(self, permit: Permit) -> float:
        """Seconds until the permit may be admitted; infinite if another request must end first."""
        now = self.clock()
        if now < self.breaker.open_until:
            return self.breaker.open_until - now
        limits = permit.limits.divided(self.share)
        if self.pacer.in_flight >= self.breaker.max_in_flight(now, self.pacer.max_in_flight(limits)):
            return float("inf")
        return self.pacer.delay(now, limits, permit.tokens)

    def spend_retry(self) -> bool:
        """Spend one retry. Returns: False if none is left."""
        spent = self.retry_budget.try_spend()
        if spent and self.upstream is not None:
            self.upstream.spend_retry()
        return spent


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
    is_counted: bool = False
    """Whether its end is counted among the requests of this process, where processes share a quota."""

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
        if limiter.upstream is not None:
            limiter.upstream.report(self, "success", billed)

    def report_failure(self, delay: float, kind: ErrorKind = "server") -> None:
        """Report that the request failed and is retried after so many seconds."""
        with self._limiter.failing() as now:
            self._limiter.failures += 1
            self._limiter.breaker.on_failure(now, delay, kind)
        if self._limiter.upstream is not None:
            self._limiter.upstream.report(self, "failure", delay, kind)

    def report_rate_limited(
        self, delay: float, *, asked: bool, reported: LimitKind | None = None, documented: LimitKind | None = None
    ) -> None:
        """Report that the request was rate-limited, and is retried after so many seconds.

        `asked` is whether the provider asked for this delay, `reported` the limit that the response names, and
        `documented` the one that the provider documents.
        """
        record, upstream = self.record, self._limiter.upstream
        with self._limiter.failing() as now:
            self._limiter.breaker.on_rate_limited(now, delay, asked=asked, sent=None if record is None else record.sent)
            if record is not None and (upstream is None or not upstream.decides):
                self._limiter.pacer.on_rate_limited(record, now, reported, documented, delay if asked else 0.0)
        if upstream is not None:
            upstream.report(self, "rate_limited", delay, asked, reported, documented)

    def end_request(self) -> None:
        """Let another request start before this one's result is reported, because parsing takes long.

        While the breaker is not closed, the next request waits for the result.
        """
        if self._limiter.breaker.is_closed:
            self._limiter.release(self, final=False)

    def cancel(self) -> None:
        """End the wait, as at the deadline."""
        self.deadline = float("-inf")
        self.decide(admitted=False)

    def decide(self, *, admitted: bool) -> None:
        """End the wait. The first decision counts."""
        if self.decision is not None and not self.decision.done():
            self.decision.set_result(admitted)

    def fail(self, error: Exception) -> None:
        """End the wait by an error, which the one who waits raises."""
        if self.decision is not None and not self.decision.done():
            self.decision.set_exception(error)

    @property
    def is_decided(self) -> bool:
        """Whether it does not wait."""
        return self.decision is None or self.decision.done()

    async def __aenter__(self) -> bool:
        return await self._limiter.enqueue(self)

    async def __aexit__(self, *_: object) -> None:
        self._limiter.release(self)
