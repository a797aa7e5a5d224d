"""Connections to Redis for the shared quota and the shared cache: URLs, timeouts, and errors that show no password."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from multiembed.errors import ConfigurationError
from multiembed.redaction import safe_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis
    import redis.asyncio

SCHEMES = ("redis", "rediss", "unix")
"""Schemes of a URL that names a Redis server: plain, over TLS, over a Unix socket."""
TIMEOUT = 1.0
"""Seconds for connecting and for each reply. redis-py 8 waits 5 s and then tries three times again: with its own retry,
a refused connection took 3.7 s and a server that hangs 9.7 s before the error (2026-11-28)."""
_TIMEOUTS: dict[str, Any] = {"socket_connect_timeout": TIMEOUT, "socket_timeout": TIMEOUT}


def is_redis_url(value: object) -> bool:
    """Whether a value is text that begins as the URL of a Redis server."""
    return isinstance(value, str) and value.partition("://")[0] in SCHEMES and "://" in value


def shown_url(url: str) -> str:
    """Return a URL of Redis without user, password and query, for texts that users read."""
    return re.sub(r"(?s)^(\w+://)?.*@", r"\1", url.partition("?")[0])


def check_url(url: str, option: str) -> None:
    """Check the URL of a Redis server, without connecting.

    Args:
        url: as redis-py takes it, for instance "rediss://user:password@host:6379/0" or "unix:///run/redis.sock?db=1".
        option: that holds it, for the error.

    Raises:
        ConfigurationError: it cannot name a server, or the package redis is missing. The text shows no password.
    """
    example = "unix:///run/redis/redis.sock" if url.startswith("unix") else "redis://localhost:6379/0"
    if not is_redis_url(url) or not _names_a_server(url):
        raise ConfigurationError(f"{option} is not the URL of a Redis server. Write it as {example}.")
    try:
        connect(url)
    except ImportError:
        raise ConfigurationError(
            f'{option} names a Redis server, which needs the package redis: pip install "multiembed[redis]".'
        ) from None
    except (TypeError, ValueError):  # their text may repeat the value of a parameter, which may be a password
        raise ConfigurationError(
            f"{option} has a query parameter that is not a setting of redis-py. Write it as {example}."
        ) from None


def _names_a_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            return parts.path.strip("/") != ""
        return bool(parts.hostname) and parts.port != 0 and re.fullmatch(r"/?\d*", parts.path, re.ASCII) is not None
    except ValueError:  # the port
        return False


def connect(url: str) -> redis.Redis:
    """Make a sync client with short timeouts and without retries. It connects at its first command."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    client: redis.Redis = redis.Redis.from_url(url, **_TIMEOUTS, retry=Retry(NoBackoff(), 0))
    client.connection_pool.make_connection()  # not connected: only its settings are checked
    return client


def aconnect(url: str) -> redis.asyncio.Redis:
    """As `connect`, for an event loop. Messages of channels need a connection of their own (RESP2)."""
    import redis.asyncio
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    client: redis.asyncio.Redis = redis.asyncio.Redis.from_url(
        url, **_TIMEOUTS, retry=Retry(NoBackoff(), 0), protocol=2
    )
    return client


class RedisCommandError(Exception):
    """Failure of a command, with a sentence for users. It shows no password."""

    def __init__(self, message: str, *, is_away: bool) -> None:
        super().__init__(message)
        self.is_away = is_away
        """Whether the server cannot be reached or written to at the moment: later commands may work."""


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Raise errors of redis-py as RedisCommandError."""
    import redis

    try:
        yield
    except redis.RedisError as error:
        cause = _cause(error)
        is_away = isinstance(cause, (redis.ConnectionError, redis.TimeoutError, redis.ReadOnlyError))
        is_away = is_away and not isinstance(cause, redis.AuthenticationError)
        raise RedisCommandError(explain(cause, url), is_away=is_away) from None


def _cause(error: Exception) -> Exception:
    """The error that redis-py wraps, if it failed while it connected."""
    import redis

    while isinstance(error.__cause__, redis.RedisError):
        error = error.__cause__
    return error


def explain(error: Exception, url: str) -> str:
    """Return one sentence that says why Redis cannot be used, for an error or a warning. It shows no password."""
    import redis

    error = _cause(error)
    secrets = _secrets(url)
    name, text = shown_url(url), safe_text(str(error), secrets)
    message = text.lower()
    if isinstance(error, redis.AuthenticationError) or message.startswith(("noauth", "wrongpass")):
        return f"Redis at {name} refuses the user or the password."
    if isinstance(error, redis.exceptions.NoPermissionError) or message.startswith("noperm"):
        return f"Redis at {name} does not allow this user a command that is needed ({text})."
    if isinstance(error, redis.exceptions.OutOfMemoryError) or "oom command" in message:
        return f"Redis at {name} is full: raise its maxmemory, or let it evict keys."
    if isinstance(error, redis.ReadOnlyError):
        return f"Redis at {name} is a read-only replica: name its primary."
    if isinstance(error, (redis.TimeoutError, TimeoutError)) or message.startswith("timeout"):
        return f"Redis at {name} does not answer within {TIMEOUT:g} s."
    if isinstance(error, redis.ConnectionError):
        return f"Redis at {name} cannot be reached ({text})."
    return f"Redis at {name} answers with an error ({text})."


def _secrets(url: str) -> list[str]:
    """The passwords in a URL, as they stand there and decoded."""
    parts = urlsplit(url)
    query = parse_qs(parts.query)
    found = [parts.password or "", *query.get("password", []), *query.get("ssl_password", [])]
    return [form for secret in found if secret for form in {secret, unquote(secret)}]
