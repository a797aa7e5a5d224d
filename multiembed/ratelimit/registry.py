"""The rate limiters of this process, one for each account, model and way of sharing the quota."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from multiembed.ratelimit.limiter import AccountLimiter
from multiembed.ratelimit.shared.quota import share_quota

if TYPE_CHECKING:
    from collections.abc import Callable

_UNUSED = 3600.0
"""Seconds until an unused limiter is dropped. Rotating keys would leave one each, of 8 kB to 7 MB."""
_limiters: dict[tuple[int, str, str | None], AccountLimiter] = {}
"""By process, because a forked child has none of its parent's requests in flight, by account, and by `quota`."""


def limiter_for(
    account: str, clock: Callable[[], float] = time.monotonic, name: str = "", quota: str | None = None
) -> AccountLimiter:
    """Rate limiter of an account and model in this process, the same for every client.

    Args:
        account: its name, made of provider, host, a hash of the key, and model.
        clock: seconds, as the event loop counts them.
        name: for log lines.
        quota: the option, which says what other processes share the quota; None if none does.
    """
    now, key = clock(), (os.getpid(), account, quota)
    limiter = _limiters.get(key)
    if limiter is None:
        for unused in [key for key, each in _limiters.items() if now - each.used_at > _UNUSED and not each.owners]:
            _leave(_limiters.pop(unused))
        limiter = _limiters[key] = AccountLimiter(clock, name or account)
        if quota is not None:
            limiter.upstream = share_quota(limiter, quota, account)
    limiter.used_at = now
    return limiter


def forget_limiters() -> None:
    """Drop all limiters, so that each test has its own."""
    for (pid, *_), limiter in _limiters.items():
        if pid == os.getpid():  # a forked child leaves its parent's alone
            _leave(limiter)
    _limiters.clear()


def _leave(limiter: AccountLimiter) -> None:
    if limiter.upstream is not None:
        limiter.upstream.leave()
