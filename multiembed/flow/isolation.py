"""Tells a text that makes requests fail from a provider that fails. Pure.

One bad text can make a server answer 5xx, close the connection, hang, or leave a row empty, each time and for all texts
of its batch. An outage looks the same from one request. What tells them apart is how other requests of the account fare
meanwhile: a batch that fails while they succeed is halved until the bad text stands alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from multiembed.providers.types import ApiFailure
    from multiembed.ratelimit.limiter import AccountLimiter

_FAILURES_BEFORE = 2
"""Failures of a request before it is suspected of anything."""
_FAILURES_BEFORE_COLD = 3
"""The same, where nothing was embedded before, so that nothing is known of the provider."""
_FAILURES_ISOLATED = 5
"""Failures, alone and with others, of a text whose neighbours were embedded meanwhile, after which it is the cause. A
good text meets so many once in 400 times where the provider fails three requests in ten."""
_FAILURES_OF_ROW = 3
"""The same, where the first answer had good vectors for its neighbours and none for it."""
_BY_CHANCE = 0.0001
"""A text that was always alone is given up when a good one would fail as often with less than this probability."""
_RATE_LIMITED_BEFORE = 20
"""Refusals by a rate limit after which one counts as a failure of the request, though others succeed."""
HALVES = 2
"""Requests that show, where no other request does, whether the provider works: the two halves of the batch. They count
as retries of the batch, so that an outage is not met with more requests."""
MAX_SEPARATIONS = 8
"""How often texts are taken out of a batch because of their rows: a server may leave a row empty in every answer."""
_FORM_RETRIES = 1
"""Retries of a request whose answer has the same fault of form again, while no other request succeeds."""
_FORM_RETRIES_WHILE_OTHERS_SUCCEED = 3


@dataclass(slots=True)
class FailureCount:
    """How often a request has failed in a row, and how the account's other requests have fared since."""

    failures: int = 0
    """Those that count against its retries."""
    rate_limited: int = 0
    """Those by a rate limit."""
    inherited: int = 0
    """Failures of the larger batches that its texts were part of."""
    isolated: bool = False
    """Whether other texts of these batches were embedded since."""
    since: float | None = None
    """When it failed first."""
    last: float = 0.0
    others_succeeded: bool = False
    """Whether another request of the account succeeded between the last two failures."""
    form: str | None = None
    """The fault of form that the last answer had."""
    same_form: int = 0
    """Answers in a row that had it."""
    successes_before: int = 0
    """Requests of the account that had succeeded when it failed first."""
    failures_before: int = 0
    """Requests of the account that had failed then, its own first failure included."""
    separations: int = 0
    """How often texts without a usable vector were taken out of it."""
    probing: bool = False
    """It is a part of a failing batch: it is sent once, without a back-off."""

    def add(self, fault: ApiFailure, now: float, limiter: AccountLimiter) -> None:
        """Count a failure. To be called before the account is told of it."""
        if self.since is None:
            self.since = now
            self.successes_before, self.failures_before = limiter.successes, limiter.failures + 1
        else:
            self.others_succeeded = limiter.last_answer > self.last
        self.last = now
        if fault.kind == "rate_limit":  # no fault of this request, unless nothing else comes through
            self.rate_limited += 1
            self.failures += not self.others_succeeded or self.rate_limited > _RATE_LIMITED_BEFORE
            return
        self.failures += 1
        self.same_form = self.same_form + 1 if fault.format_error == self.form else 1
        self.form = fault.format_error

    def others_succeed(self, limiter: AccountLimiter) -> bool:
        """Whether any request of the account has succeeded since it failed first."""
        return limiter.successes > self.successes_before

    def divided(self, *, probing: bool, isolated: bool = False) -> FailureCount:
        """The count for a part of the failing batch."""
        inherited = self.inherited + self.failures
        return replace(self, failures=0, inherited=inherited, probing=probing, isolated=isolated)

    def probability(self, limiter: AccountLimiter) -> float:
        """How probable so many failures are by chance, judged by how other requests have fared since the first."""
        succeeded = limiter.successes - self.successes_before
        failed = max(0, limiter.failures - self.failures_before - (self.failures - 1))
        share = (failed + 0.5) / (succeeded + failed + 1)
        return float(share**self.failures)


def may_be_one_text(fault: ApiFailure) -> bool:
    """Whether a failure that may be temporary can also be caused by one text, each time.

    Not a fault of form: that is how the server answers all texts.
    """
    if fault.kind == "malformed":
        return bool(fault.bad_rows) or fault.format_error is None
    return fault.kind in ("server", "timeout", "connection")


def is_to_halve(fault: ApiFailure, failing: FailureCount, limiter: AccountLimiter) -> bool:
    """Whether a failing batch is to be halved at once, because other requests of the account succeed meanwhile."""
    return may_be_one_text(fault) and failing.failures >= _FAILURES_BEFORE and failing.others_succeed(limiter)


def is_to_halve_blindly(fault: ApiFailure, failing: FailureCount, *, retries_left: int, cold: bool) -> bool:
    """Whether a failing batch is to be halved although no other request shows that the provider works.

    `cold` means that nothing was embedded before.
    """
    often = failing.failures >= (_FAILURES_BEFORE_COLD if cold else _FAILURES_BEFORE)
    return often and may_be_one_text(fault) and retries_left > HALVES


def is_this_text(fault: ApiFailure, failing: FailureCount, limiter: AccountLimiter, *, retries: int = 0) -> bool:
    """Whether a text that fails alone is certainly the cause.

    It has the retries that the user asked for before; those of the batches that it was part of count.
    """
    failures = failing.failures + failing.inherited
    if not may_be_one_text(fault) or failures <= retries:
        return False
    if failing.isolated and (failures >= _FAILURES_ISOLATED or (fault.bad_rows and failures >= _FAILURES_OF_ROW)):
        return True
    return failing.failures > _FAILURES_BEFORE and failing.probability(limiter) < _BY_CHANCE


def is_form_for_good(fault: ApiFailure, failing: FailureCount, limiter: AccountLimiter) -> bool:
    """Whether the server always answers in a form that is not usable, so that asking again is in vain."""
    retries = _FORM_RETRIES_WHILE_OTHERS_SUCCEED if failing.others_succeed(limiter) else _FORM_RETRIES
    return fault.format_error is not None and failing.same_form > retries
