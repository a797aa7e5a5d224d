"""Backoff delay with full jitter, and the Retry-After header. No I/O; the caller passes time and randomness."""

from __future__ import annotations

import math
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_DELAY = 0.5
MAX_DELAY = 20.0
MAX_RETRY_AFTER = 120.0
"""Seconds: a longer Retry-After is cut to this."""
_MAX_PLAUSIBLE_RETRY_AFTER = 3600.0
"""Seconds: a longer Retry-After is ignored."""
_RETRY_AFTER_STATUSES = (429, 503)
"""The only statuses with which Retry-After means "not now" (RFC 9110, 10.2.3, names redirects too)."""


def backoff_delay(attempt: int, random: float) -> float:
    """Return the seconds before the next attempt after so many failures. `random` in [0, 1) is the full jitter."""
    return random * min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(attempt - 1, 30))


def retry_after(status: int | None, headers: Mapping[str, str], now: float) -> float | None:
    """Read Retry-After of a response: the seconds to wait, None without a plausible value.

    `retry-after-ms` comes before `retry-after`, a number or a date. A date is relative to the response's own `date`,
    because the server's clock may be minutes off; without one, to `now`, in seconds since the epoch.
    """
    if status not in _RETRY_AFTER_STATUSES:
        return None
    header = headers.get("retry-after")
    milliseconds = _number(headers.get("retry-after-ms"))
    seconds = _number(header) if milliseconds is None else milliseconds / 1000.0
    if seconds is None and (until := _timestamp(header)) is not None:
        sent = _timestamp(headers.get("date"))
        seconds = max(0.0, until - (now if sent is None else sent))
    return None if seconds is None or seconds > _MAX_PLAUSIBLE_RETRY_AFTER else seconds


def _timestamp(text: str | None) -> float | None:
    try:
        date = parsedate_to_datetime(text or "")
        # The old form without a zone means UTC in HTTP.
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
