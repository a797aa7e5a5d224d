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
"""A server that asks for more than this is not waited for longer than this."""


def back_off(attempt: int, chance: float) -> float:
    """Seconds before attempt `attempt` + 1, spread over the whole interval so that clients do not march in step.

    Args:
        attempt: failures so far, from 1.
        chance: a random number in [0, 1).
    """
    return chance * min(LONGEST_WAIT, FIRST_WAIT * 2.0 ** min(attempt - 1, 30))


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds the server asks to wait; None where it asks nothing, or nothing sensible.

    Args:
        headers: of the reply, names in lower case. Read are `retry-after-ms` and `retry-after`, as a number or a date.
        now: seconds since the epoch.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000.0
    asked = headers.get("retry-after")
    seconds = _number(asked)
    if seconds is not None or not asked:
        return seconds
    try:
        date = parsedate_to_datetime(asked)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)  # the old form without a zone means UTC in HTTP
        return max(0.0, date.timestamp() - now)
    except (TypeError, ValueError, OverflowError):
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
