"""The rate limiter of an account and model, and its permits. Used on the I/O thread alone, so it needs no lock."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import weakref
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from multiembed.ratelimit.circuit_breaker import CircuitBreaker
from multiembed.ratelimit.pacer import AccountLimits, Pacer
from multiembed.testing import apply_test_mode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from multiembed.ratelimit.sliding_window import InFlightRecord
    from multiembed.types import ErrorKind, LimitKind

logger = logging.getLogger("multiembed")
_POLL_INTERVAL = 1.0
"""Seconds after which the queue is looked at again, whatever happens: an embedder that is gone no longer limits it."""
_SHORTEST_WAIT = 0.001
"""Seconds to wait at least: a shorter time may be none at all on some clocks."""
_KEPT = 3600.0
"""Seconds for which a limiter is kept that no embedder holds any more. Keys that rotate would leave one each, of 8 kB
to 7 MB."""


class AccountLimiter:
    """Rate limiter of one account and model, shared by all its clients in this process.

    Admits requests in FIFO order while configured limits, adaptive limits and the circuit breaker allow it.

    Args:
        clock: seconds; the one of the event loop that the permits are waited for in.
        name: of provider and model, for log lines.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, name: str = "") -> None:
        self.name = name
        """For log lines; without the key."""
        self.breaker = CircuitBreaker()
        self.pacer = Pacer()
        self.last_answer = float("-inf")
        """When the provider last did what was asked."""
        self.successes = 0
        """How often it did."""
        self.failures = 0
        """How often requests failed in another way than by a rate limit."""
        self.used_at = clock()
        """When a request last asked for a permit, or an embedder for the limiter."""
        self._clock = clock
        self._queue: deque[Permit] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._configured: weakref.WeakKeyDictionary[object, AccountLimits] = weakref.WeakKeyDictionary()

    def register_limits(self, owner: object, limits: AccountLimits) -> None:
        """Note what an embedder was configured with, for as long as the embedder lives."""
        if (limits.in_flight, limits.requests_per_minute, limits.tokens_per_minute) != (None, None, None):
            self._configured[owner] = limits

    def effective_limits(self, own: AccountLimits) -> AccountLimits:
        """The limits of an embedder: the lowest rates that any on the account was given, and its own concurrency.

        Without a limit on concurrency of its own, it keeps to the lowest of the others.
        """
        configured = [own, *self._configured.values()]
        if all(each is own for each in configured):
            return own
        return replace(
            own,
            in_flight=own.in_flight or _lowest(each.in_flight for each in configured),
            requests_per_minute=_lowest(each.requests_per_minute for each in configured),
            tokens_per_minute=_lowest(each.tokens_per_minute for each in configured),
        )

    @property
    def in_flight(self) -> int:
        """Requests in flight now."""
        return self.pacer.in_flight

    def permit(self, limits: AccountLimits, tokens: float = 0.0, deadline: float | None = None) -> Permit:
        """Permission for one request, to be held `async with`. No one holds it during a back-off.

        The context gives True once the request may start, and False when it cannot start before the deadline. The
        result of the request is reported to the permit while it is held.

        Args:
            limits: what the caller knows of the account's quota; what others registered since counts, too.
            tokens: of the request, as estimated.
            deadline: on the limiter's clock.
        """
        self.used_at = self._clock()
        return Permit(self, self.effective_limits(limits), tokens, float("inf") if deadline is None else deadline)

    def may_retry(self) -> bool:
        """Spend one retry of the account's budget. Returns: False if there is none left."""
        return self.breaker.may_retry()

    # ── results of requests ──────────────────────────────────────────────────────────────────────

    def report_success(self, record: InFlightRecord | None, billed: int | None) -> None:
        """A request was answered as it should be, and billed so many tokens."""
        now = self.last_answer = self._clock()
        self.successes += 1
        if record is not None:
            self.pacer.on_success(record, now, billed)
        if self.breaker.on_success():
            self.pacer.recovered()
            logger.info("%s: works again", self.name)

    def report_failure(self, delay: float, kind: ErrorKind = "server") -> None:
        """A request failed, and waits so many seconds before it is sent again."""
        before = self._state()
        self.failures += 1
        self.breaker.on_failure(self._clock(), delay, kind)
        self._after_report(before)

    def report_rate_limited(
        self,
        record: InFlightRecord | None,
        quota: LimitKind | None,
        usual: LimitKind | None,
        delay: float,
        *,
        asked: bool,
    ) -> None:
        """A request was refused because the account is too fast; see `Permit.report_rate_limited`."""
        before, now = self._state(), self._clock()
        self.breaker.on_rate_limited(now, delay, asked=asked, sent=None if record is None else record.sent)
        if record is not None:
            self.pacer.on_rate_limited(record, now, quota, usual, delay if asked else 0.0)
        self._after_report(before)

    def _after_report(self, before: tuple[bool, float, str]) -> None:
        self._log_changes(before)
        if self.breaker.open_until > before[1]:
            for permit in [permit for permit in self._queue if self._is_late(permit)]:
                permit.decide(admitted=False)

    def _state(self) -> tuple[bool, float, str]:
        """What a log line may tell of."""
        return self.breaker.is_closed, self.breaker.open_until, self.pacer.learned()

    def _log_changes(self, before: tuple[bool, float, str]) -> None:
        if not logger.isEnabledFor(logging.INFO):
            return
        trusted, closed_until, learned = self._state()
        if before[0] and not trusted:
            logger.info("%s: circuit breaker open after repeated failures: one request at a time", self.name)
        if closed_until > before[1]:
            seconds = closed_until - self._clock()
            logger.info("%s: paused for %.1f s (%s)", self.name, max(0.0, seconds), self.breaker.reason)
        if learned != before[2]:
            logger.info("%s: slowed down to %s", self.name, learned)

    # ── the queue ────────────────────────────────────────────────────────────────────────────────

    async def enter(self, permit: Permit) -> bool:
        """Wait until a permit may start; False when it cannot before its deadline, or was cancelled."""
        if not self._queue and not self._is_late(permit) and self._delay(permit) <= 0.0:
            self._start(permit)
            return True
        if self._is_late(permit):
            return False
        loop = asyncio.get_running_loop()
        permit.admitted = loop.create_future()
        timer = None
        if permit.deadline != float("inf"):
            timer = loop.call_later(permit.deadline - self._clock(), permit.cancel)
        self._queue.append(permit)
        try:
            self._admit()
            return await permit.admitted
        except BaseException:
            self.release(permit)
            raise
        finally:
            permit.admitted = None
            if timer is not None:
                timer.cancel()

    def release(self, permit: Permit) -> None:
        """Give a permit back, or its position in the queue. A second time does nothing."""
        if permit.record is not None:
            self.end_request(permit)
            permit.record = None
        elif permit in self._queue:
            self._queue.remove(permit)
        self._admit()

    def end_request(self, permit: Permit) -> None:
        """A request was answered, and another one may start. Its result is still to be reported."""
        if permit.record is not None and not permit.is_over:
            permit.is_over = True
            self.pacer.finish(permit.record, self._clock())
            self._admit()

    def _admit(self) -> None:
        """Start the requests that may start now, and come back when time alone lets the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            permit = self._queue[0]
            if permit.is_decided or self._is_late(permit):
                self._queue.popleft()
                permit.decide(admitted=False)
                continue
            delay = self._delay(permit)
            if delay > 0.0:
                seconds = max(_SHORTEST_WAIT, min(delay, _POLL_INTERVAL))
                self._timer = asyncio.get_running_loop().call_later(seconds, self._admit)
                return
            self._queue.popleft()
            self._start(permit)
            permit.decide(admitted=True)

    def _start(self, permit: Permit) -> None:
        permit.record = self.pacer.start(
            self._clock(), permit.limits, permit.tokens, learned=apply_test_mode(1.0) > 0.0
        )

    def _is_late(self, permit: Permit) -> bool:
        """Whether no request may start before the permit's deadline."""
        return max(self._clock(), self.breaker.open_until) >= permit.deadline

    def _delay(self, permit: Permit) -> float:
        """Seconds until the permit may start; infinite when another request must end first."""
        now = self._clock()
        if now < self.breaker.open_until:
            return self.breaker.open_until - now
        if self.in_flight >= self.breaker.max_in_flight(now, self.pacer.max_in_flight(permit.limits)):
            return float("inf")
        return self.pacer.delay(now, permit.limits, permit.tokens, learned=apply_test_mode(1.0) > 0.0)


class Permit:
    """Permission for one request in flight, and where its result is reported."""

    __slots__ = ("_limiter", "admitted", "deadline", "is_over", "limits", "record", "tokens")

    def __init__(self, limiter: AccountLimiter, limits: AccountLimits, tokens: float, deadline: float) -> None:
        self._limiter = limiter
        self.limits = limits
        self.tokens = tokens
        self.deadline = deadline
        self.record: InFlightRecord | None = None
        """Of the request, until its result is reported."""
        self.is_over = False
        """Whether the request is no longer in flight."""
        self.admitted: asyncio.Future[bool] | None = None
        """The decision, while it is waited for."""

    def report_success(self, billed: int | None = None) -> None:
        """The provider answered as it should, and billed so many tokens."""
        self._limiter.report_success(self.record, billed)

    def report_failure(self, delay: float, kind: ErrorKind = "server") -> None:
        """The request failed, and will wait so many seconds."""
        self._limiter.report_failure(delay, kind)

    def report_rate_limited(
        self, delay: float, *, asked: bool, quota: LimitKind | None = None, usual: LimitKind | None = None
    ) -> None:
        """The provider finds the account too fast.

        Args:
            delay: seconds that the request will wait.
            asked: whether the provider wants to be left alone for as long.
            quota: what is used up, where the refusal tells.
            usual: what the provider's documents say it limits.
        """
        self._limiter.report_rate_limited(self.record, quota, usual, delay, asked=asked)

    def end_request(self) -> None:
        """Let another request start before the result of this one is reported: reading an answer takes long.

        Not before the account has been seen to work, when each request waits for the result of the one before.
        """
        if self._limiter.breaker.is_closed:
            self._limiter.end_request(self)

    def cancel(self) -> None:
        """Wait no longer, as if the deadline had come."""
        self.deadline = float("-inf")
        self.decide(admitted=False)

    def decide(self, *, admitted: bool) -> None:
        """End the wait. The first decision counts."""
        if self.admitted is not None and not self.admitted.done():
            self.admitted.set_result(admitted)

    @property
    def is_decided(self) -> bool:
        """Whether its wait is over."""
        return self.admitted is None or self.admitted.done()

    async def __aenter__(self) -> bool:
        return await self._limiter.enter(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limiter.release(self)


def _lowest(numbers: Iterable[int | None]) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


_limiters: dict[str, AccountLimiter] = {}
_living: weakref.WeakValueDictionary[str, AccountLimiter] = weakref.WeakValueDictionary()
"""The same, and those that were dropped from there and that an embedder still holds."""
_process = os.getpid()
"""The process that these are of. Asked at each look-up: a C library may fork without Python's hooks."""


def limiter_for(account: str, clock: Callable[[], float] = time.monotonic, name: str = "") -> AccountLimiter:
    """The limiter of an account and model in this process, the same for every embedder on it.

    Args:
        account: a name made of provider, host, a hash of the key, and model.
        clock: seconds.
        name: of provider and model, for log lines.
    """
    if _process != os.getpid():
        forget_limiters()
    now = clock()
    limiter = _limiters.get(account)
    if limiter is None:
        for old in [old for old, each in _limiters.items() if now - each.used_at > _KEPT]:
            del _limiters[old]
        limiter = _living.get(account) or AccountLimiter(clock, name or account)
        _limiters[account] = _living[account] = limiter
    limiter.used_at = now
    return limiter


def forget_limiters() -> None:
    """Begin anew: a forked child has none of its parent's requests in flight."""
    global _process
    _process = os.getpid()
    _limiters.clear()
    _living.clear()
