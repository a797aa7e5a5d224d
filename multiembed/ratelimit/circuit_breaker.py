"""Circuit breaker and retry budget of one account and model. No I/O; the caller passes the time in seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.types import ErrorKind

FAILURE_THRESHOLD = 3
"""Consecutive failures, over all requests of the account, that open the breaker."""
MAX_UNPROBED_PAUSE = 20.0
"""Seconds for which one response can stop an account. Then one request is sent as a probe. Only if that is rejected
too, the whole pause that it asks for is made."""
MAX_RETRY_BUDGET = 20.0
"""Retries that an account may spend at first, and the most that it can save."""
_RETRIES_PER_SUCCESS = 0.2


class CircuitBreaker:
    """Circuit breaker of one account and model.

    Before the first success, and after three consecutive failures, it lets one request through at a time. So a wrong
    key costs one request, and retries do not multiply during an outage.
    """

    def __init__(self) -> None:
        self.is_closed = False
        """Whether requests may run concurrently."""
        self.ever_succeeded = False
        self.open_until = float("-inf")
        """End of the last pause, in which no request starts."""
        self.reason: ErrorKind = "server"
        """Error kind that caused the last pause."""
        self.rejected_probes = 0
        """Rate-limited requests since the breaker opened, of those that were sent one at a time."""
        self._failures = 0
        self._opened_at = float("-inf")
        self._asked_for_pause = False
        """Whether the provider has asked for a pause since the last success."""

    def max_in_flight(self, now: float, limit: int) -> int:
        """Maximum of requests in flight, at most `limit`."""
        if now < self.open_until:
            return 0
        return limit if self.is_closed else 1

    def on_success(self) -> bool:
        """Record vectors or the rejection of one request. Returns: True if it closes the breaker after an outage."""
        recovered = self.ever_succeeded and not self.is_closed
        self.is_closed = self.ever_succeeded = True
        self._failures = self.rejected_probes = 0
        self._asked_for_pause = False
        return recovered

    def on_failure(self, now: float, delay: float, kind: ErrorKind = "server") -> None:
        """Record a failure. While the breaker is not closed, all requests wait `delay` seconds."""
        self._count_failure(now)
        if not self.is_closed:
            self._pause(now + min(delay, MAX_UNPROBED_PAUSE), kind)

    def on_rate_limited(self, now: float, delay: float, *, asked: bool, sent: float | None = None) -> None:
        """Record a rate-limited request. A delay that the provider did not ask for holds once the breaker is open."""
        self.rejected_probes += not self.is_closed and (sent is None or sent >= self._opened_at)
        self._count_failure(now)
        if asked and delay > MAX_UNPROBED_PAUSE and not self._asked_for_pause:
            delay = MAX_UNPROBED_PAUSE
            self._open(now)
        self._asked_for_pause = self._asked_for_pause or asked
        if asked or not self.is_closed:
            self._pause(now + delay, "rate_limit")

    def export_state(self, now: float) -> list[Any]:
        """The state, for another process. Its times are seconds from now."""
        times = [None if at == float("-inf") else at - now for at in (self.open_until, self._opened_at)]
        flags = self.is_closed, self.ever_succeeded, self._asked_for_pause
        return [*flags, *times, self.reason, self.rejected_probes, self._failures]

    def import_state(self, now: float, state: Sequence[Any]) -> None:
        """Continue from what another process exported."""
        closed, succeeded, asked, open_for, opened, reason, probes, failures = state
        self.is_closed, self.ever_succeeded, self._asked_for_pause = bool(closed), bool(succeeded), bool(asked)
        self.open_until, self._opened_at = (
            float("-inf") if seconds is None else now + float(seconds) for seconds in (open_for, opened)
        )
        self.reason, self.rejected_probes, self._failures = reason, int(probes), int(failures)

    def _pause(self, until: float, reason: ErrorKind) -> None:
        if until > self.open_until:
            self.open_until, self.reason = until, reason

    def _count_failure(self, now: float) -> None:
        self._failures += 1
        if self._failures >= FAILURE_THRESHOLD:
            self._open(now)

    def _open(self, now: float) -> None:
        if self.is_closed:
            self.is_closed = False
            self._opened_at = now


class RetryBudget:
    """Retry budget of one account and model: one retry for five successes, so that retries do not prolong an outage."""

    def __init__(self) -> None:
        self._retries = MAX_RETRY_BUDGET

    @property
    def retries(self) -> float:
        """Retries that are left."""
        return self._retries

    @retries.setter
    def retries(self, retries: float) -> None:
        self._retries = min(MAX_RETRY_BUDGET, float(retries))

    def on_success(self) -> None:
        """Add a fifth of a retry."""
        self._retries = min(MAX_RETRY_BUDGET, self._retries + _RETRIES_PER_SUCCESS)

    def try_spend(self) -> bool:
        """Spend one retry. Returns: False if none is left."""
        if self._retries < 1.0:
            return False
        self._retries -= 1.0
        return True
