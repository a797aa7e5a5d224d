"""How an account fares: may requests go out, how many, and may a failed one be tried again so soon. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiembed.types import ErrorKind

FAILURE_THRESHOLD = 3
"""Failures in a row, over all requests of the account, that mean an outage."""
BUDGET_SHARE = 0.2
"""Retries for each first attempt that an account may spend."""
LONGEST_PAUSE = 20.0
"""Seconds that one answer can stop an account for. Then one request is sent to see: only if that is refused too, the
whole pause that it asks for is made."""
BUDGET_FLOOR = 20.0
"""Retries that it may spend besides, and the most it can save up."""


class CircuitBreaker:
    """What the last answers of an account say of the next one.

    Before the first answer, and after a storm of failures, it is not trusted: one request goes out at a time, and the
    others wait to hear how it fared. So a wrong key costs one request, and an outage is not met with a crowd.
    All times are seconds on the caller's clock.
    """

    def __init__(self) -> None:
        self.is_closed = False
        self.ever_succeeded = False
        self.open_until = float("-inf")
        self.reason: ErrorKind = "server"
        """What the last pause was made for."""
        self._asked = False
        """Whether the provider asked for a pause, and nothing has succeeded since."""
        self.rejected_probes = 0
        """Requests that a rate limit refused since trust was lost, of those that went one at a time."""
        self._failures = 0
        self._lost_at = float("-inf")
        self._budget = BUDGET_FLOOR

    def max_in_flight(self, now: float, ceiling: int) -> int:
        """The most requests that may be in flight now."""
        if now < self.open_until:
            return 0
        return ceiling if self.is_closed else 1

    def on_success(self) -> bool:
        """The provider answered as it should, be it with vectors or with a refusal of one request.

        Returns:
            Whether this ends an outage or a storm of refusals.
        """
        recovered = self.ever_succeeded and not self.is_closed
        self.is_closed = self.ever_succeeded = True
        self._failures = self.rejected_probes = 0
        self._asked = False
        self._budget = min(BUDGET_FLOOR, self._budget + BUDGET_SHARE)
        return recovered

    def on_failure(self, now: float, delay: float, kind: ErrorKind = "server") -> None:
        """No answer, or none that can be used; this request waits `delay` seconds, and after a storm all do."""
        self._count_failure(now)
        if not self.is_closed:
            self._pause(now + min(delay, LONGEST_PAUSE), kind)

    def on_rate_limited(self, now: float, delay: float, *, asked: bool, sent: float | None = None) -> None:
        """The provider said that all this is too fast, to a request that was sent then.

        When it asked to be left alone for `delay` seconds, it is. Else how fast to go on is the pace's matter, until it
        is clear that nothing at all passes.
        """
        self.rejected_probes += not self.is_closed and (sent is None or sent >= self._lost_at)
        self._count_failure(now)
        if asked and delay > LONGEST_PAUSE and not self._asked:
            delay = LONGEST_PAUSE
            self._lose_trust(now)
        self._asked = self._asked or asked
        if asked or not self.is_closed:
            self._pause(now + delay, "rate_limit")

    def _pause(self, until: float, reason: ErrorKind) -> None:
        if until > self.open_until:
            self.open_until, self.reason = until, reason

    def _count_failure(self, now: float) -> None:
        self._failures += 1
        if self._failures >= FAILURE_THRESHOLD:
            self._lose_trust(now)

    def _lose_trust(self, now: float) -> None:
        if self.is_closed:
            self.is_closed = False
            self._lost_at = now

    def may_retry(self) -> bool:
        """Whether the budget has a retry left, which is then spent."""
        if self._budget < 1.0:
            return False
        self._budget -= 1.0
        return True
