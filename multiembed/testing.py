"""A switch for tests: no waits between attempts."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_switches = 0


@contextmanager
def no_waits() -> Iterator[None]:
    """Make every back-off and every asked-for wait zero, in all threads, so that tests which meet errors are fast.

        with multiembed.no_waits():
            ...

    Attempts, their number, and what becomes of them stay the same, but nothing is waited out: an outage is given up as
    soon as the retries are used up.
    """
    global _switches
    _switches += 1
    try:
        yield
    finally:
        _switches -= 1


def apply_test_mode(seconds: float) -> float:
    """The seconds to wait: as told, or none while the switch is on."""
    return 0.0 if _switches else seconds
