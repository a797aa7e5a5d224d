"""How long to wait before the next attempt: full-jitter back-off, and what the server asks for. Pure."""

from __future__ import annotations

import math
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

FIRST_WAIT = 0.5
LONGEST_WAIT = 20.0
LONGEST_ASKED = 120.0
"""Seconds: a server that asks for more after a rate limit is not waited for longer."""
LONGEST_SENSIBLE = 3600.0
"""Seconds: a server that asks for more than an hour is not taken at its word at all."""
_ASKING = (429, 503)
"""The only statuses with which Retry-After means "not now" (RFC 9110, 10.2.3, names redirects too)."""


def backoff_delay(attempt: int, chance: float) -> float:
    """Seconds before attempt `attempt` + 1, spread over the whole interval so that clients do not march in step.

    Args:
        attempt: failures so far, from 1.
        chance: a random number in [0, 1).
    """
    return chance * min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt - 1, 30))


def retry_after(status: int | None, headers: Mapping[str, str], now: float) -> float | None:
    """Seconds the server asks to wait; None where it asks nothing, or nothing sensible.

    Args:
        status: of the reply; None if there is none.
        headers: of the reply, names in lower case. Read are `retry-after-ms` and `retry-after`, as a number or a date.
            A date is relative to the reply's own `date`, because the server's clock may be minutes off.
        now: seconds since the epoch.
    """
    if status not in _ASKING:
        return None
    asked = headers.get("retry-after")
    milliseconds = _number(headers.get("retry-after-ms"))
    seconds = _number(asked) if milliseconds is None else milliseconds / 1000.0
    if seconds is None and (until := _time(asked)) is not None:
        sent = _time(headers.get("date"))
        seconds = max(0.0, until - (now if sent is None else sent))
    return None if seconds is None or seconds > LONGEST_SENSIBLE else seconds


def _time(text: str | None) -> float | None:
    """A date of HTTP as seconds since the epoch."""
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
