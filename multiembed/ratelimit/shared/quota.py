"""The option `quota`: its values, and how a limiter joins the processes that it names."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

from multiembed.errors import ConfigurationError
from multiembed.ratelimit.shared.member import QuotaMember
from multiembed.transport.redis_connection import check_url, is_redis_url

if TYPE_CHECKING:
    from multiembed.ratelimit.limiter import AccountLimiter

MACHINE = "machine"
"""All processes of this user on this machine."""


def check_quota(quota: str, option: str = "quota") -> None:
    """Check a value of the option, without connecting.

    Raises:
        ConfigurationError: it is neither "machine" nor the URL of a Redis server, or cannot work here. The message
            does not repeat it, since it may hold a password.
    """
    if quota == MACHINE:
        from multiembed.transport.machine_link import check_machine

        check_machine()
    elif is_redis_url(quota):
        check_url(quota, option)
    else:
        raise ConfigurationError(
            f"{option} says which processes share the account's quota. Give 'machine' for all processes of this user "
            "on this machine, or the URL of a Redis server for several machines: redis://host:6379/0, rediss://… or "
            "unix:///path. Leave it out where one process uses the account."
        )


def share_quota(limiter: AccountLimiter, quota: str, account: str) -> QuotaMember:
    """Make the member that shares the quota of a limiter's account. It joins when the first permit is asked for."""
    # By a digest: the name of the account holds a hash of the key, and none of it needs to be in a file name.
    name = hashlib.blake2b(account.encode(), digest_size=16, person=b"multiembed-quota").hexdigest()
    if quota == MACHINE:
        from multiembed.transport.machine_link import MachineLink

        return QuotaMember(limiter, partial(MachineLink, name))
    from multiembed.transport.redis_link import RedisLink

    return QuotaMember(limiter, partial(RedisLink, quota, name))
