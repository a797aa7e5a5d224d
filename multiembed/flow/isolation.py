"""Failure count of a request, which tells a text that makes requests fail from a provider that fails. No I/O.

One bad text can make a server respond with 5xx, close the connection, time out, or leave a row empty, for all texts of
its batch. An outage looks the same from one request. The other requests of the account tell them apart: a batch that
fails while they succeed is halved until the bad text is alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiembed.providers.types import ApiFailure
    from multiembed.ratelimit.limiter import AccountLimiter

_FAILURES_BEFORE = 2
"""Failures of a request before one of its texts is suspected, where other requests succeed."""
_FAILURES_BEFORE_BLIND = 3
"""The same, where none shows that the provider works."""
_FAILURES_ISOLATED = 5
"""Failures, alone and with others, after which a text is bad whose other texts were embedded meanwhile. A good text
reaches them once in 400 times where the provider fails three requests in ten."""
_FAILURES_OF_ROW = 3
"""The same, where the response had good vectors for the other texts."""
_MAX_PROBABILITY = 0.0001
"""A text that was always alone is bad when a good one would fail as often with less than this probability."""
_RATE_LIMITED_BEFORE = 20
"""Rate-limit responses after which one counts as a failure of the request, though others succeed."""
HALVES = 2
"""Requests that show, where no other request does, whether the provider works: the two halves of the batch. They count
as retries of the batch, so that an outage does not get more requests."""
MAX_SEPARATIONS = 8
"""Times that texts are taken out of a batch because of their rows: a server may leave a row empty in every response."""
_FORMAT_RETRIES = 1
"""Retries of a request whose response has the same format error again, while no other request succeeds."""
_FORMAT_RETRIES_WHILE_OTHERS_SUCCEED = 3


@dataclass(slots=True)
class FailureCount:
    """Failures in a row of a request, and how the other requests of the account did since the first one."""

    failures: int = 0
    """Those that count against the retries."""
    rate_limited: int = 0
    inherited: int = 0
    """Failures of the larger batches that its texts were part of."""
    isolated: bool = False
    """Whether other texts of these batches were embedded since."""
    probing: bool = False
    """Whether it is a part of a failing batch that is sent once, without backoff."""
    separations: int = 0
    """Times that texts without a usable vector were taken out of it."""
    started: float | None = None
    """Time of the first failure."""
    last: float = 0.0
    format_error: str | None = None
    """Format error of the last response."""
    same_format_error: int = 0
    """Responses in a row that had it."""
    successes_before: int = 0
    """Successful requests of the account before the first failure."""
    failures_before: int = 0
    """Failed requests of the account then, the first failure included."""

    def add(self, failure: ApiFailure, now: float, limiter: AccountLimiter) -> None:
        """Count a failure, before it is reported to the limiter."""
        others_succeeded = self.started is not None and limiter.last_answer > self.last
        if self.started is None:
            self.started = now
            self.successes_before, self.failures_before = limiter.successes, limiter.failures + 1
        self.last = now
        if failure.kind == "rate_limit":  # not a failure of this request, unless no other succeeds
            self.rate_limited += 1
            self.failures += not others_succeeded or self.rate_limited > _RATE_LIMITED_BEFORE
            return
        self.failures += 1
        self.same_format_error = self.same_format_error + 1 if failure.format_error == self.format_error else 1
        self.format_error = failure.format_error

    def divided(self, *, probing: bool) -> FailureCount:
        """Return the count for a part of the failing batch: a probe, or the bad text that probes have isolated."""
        inherited = self.inherited + self.failures
        return replace(self, failures=0, inherited=inherited, probing=probing, isolated=not probing)

    def restarted(self, failures: int, limiter: AccountLimiter) -> FailureCount:
        """Return the count with so many failures, which compares with the other requests from now on."""
        return replace(self, failures=failures, successes_before=limiter.successes, failures_before=limiter.failures)

    def others_succeed(self, limiter: AccountLimiter) -> bool:
        """Whether any request of the account has succeeded since the first failure."""
        return limiter.successes > self.successes_before

    def must_halve(self, failure: ApiFailure, limiter: AccountLimiter) -> bool:
        """Whether to halve a failing batch at once, because other requests of the account succeed."""
        return may_be_one_text(failure) and self.failures >= _FAILURES_BEFORE and self.others_succeed(limiter)

    def may_halve_blindly(self, failure: ApiFailure, max_retries: int) -> bool:
        """Whether a failing batch may be halved although no other request shows that the provider works."""
        retries_left = max_retries + 1 - self.failures
        return may_be_one_text(failure) and self.failures >= _FAILURES_BEFORE_BLIND and retries_left > HALVES

    def is_bad_text(self, failure: ApiFailure, limiter: AccountLimiter, *, retries: int = 0) -> bool:
        """Whether a text that fails alone is certainly the cause, after the retries that the user configured."""
        failures = self.failures + self.inherited
        if not may_be_one_text(failure) or failures <= retries:
            return False
        if self.isolated and failures >= (_FAILURES_OF_ROW if failure.bad_rows else _FAILURES_ISOLATED):
            return True
        succeeded = limiter.successes - self.successes_before
        failed = max(0, limiter.failures - self.failures_before - (self.failures - 1))
        probability: float = ((failed + 0.5) / (succeeded + failed + 1)) ** self.failures
        return self.failures > _FAILURES_BEFORE and probability < _MAX_PROBABILITY

    def is_permanent_format(self, failure: ApiFailure, limiter: AccountLimiter) -> bool:
        """Whether the server always responds in a format that is not usable, so that a retry cannot help."""
        retries = _FORMAT_RETRIES_WHILE_OTHERS_SUCCEED if self.others_succeed(limiter) else _FORMAT_RETRIES
        return failure.format_error is not None and self.same_format_error > retries


def may_be_one_text(failure: ApiFailure) -> bool:
    """Whether one text can cause a failure that may also be temporary. A format error concerns all texts."""
    if failure.kind == "malformed":
        return bool(failure.bad_rows) or failure.format_error is None
    return failure.kind in ("server", "timeout", "connection")
