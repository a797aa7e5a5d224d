"""Test mode: no waits between attempts."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_active = 0
"""Number of `no_waits` contexts that are open."""


@contextmanager
def no_waits() -> Iterator[None]:
    """Make every backoff and Retry-After delay zero, in all threads, so that tests of errors are fast.

        with multiembed.no_waits():
            ...

    The attempts and their results stay the same, but an outage is given up as soon as the retries are used up.
    """
    global _active
    _active += 1
    try:
        yield
    finally:
        _active -= 1


def apply_test_mode(seconds: float) -> float:
    """The seconds to wait: 0 in test mode."""
    return 0.0 if _active else seconds
