"""URLs of Redis: which are accepted, and that no error shows a password."""

from __future__ import annotations

import pytest
import redis

from multiembed import ConfigurationError
from multiembed.transport.redis_connection import check_url, explain, shown_url

pytestmark = pytest.mark.unit
PASSWORD = "hidden-password"


@pytest.mark.parametrize(
    "url",
    [
        "redis://localhost",
        "redis://localhost:6379/0",
        f"rediss://user:{PASSWORD}@host.example:6380/2?ssl_cert_reqs=required",
        "redis://[::1]:6379",
        "unix:///run/redis.sock",
        f"unix://user:{PASSWORD}@/run/redis.sock?db=1",
    ],
)
def test_redis_url_of_a_server_is_accepted(url):
    check_url(url, "quota")


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost",
        "redis:localhost",
        "redis://",
        "redis:///0",
        f"redis://:{PASSWORD}@",
        f"redis://:{PASSWORD}@host:port",
        f"redis://:{PASSWORD}@host:99999",
        f"redis://:{PASSWORD}@host/database",
        f"redis://:{PASSWORD}@host?no_such_setting={PASSWORD}",
        f"redis://:{PASSWORD}@host?socket_timeout={PASSWORD}",
        "unix://",
        "unix:///",
    ],
)
def test_redis_url_that_names_no_server_is_rejected(url):
    with pytest.raises(ConfigurationError, match="quota") as caught:
        check_url(url, "quota")
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (redis.AuthenticationError("WRONGPASS invalid"), "refuses the user or the password"),
        (redis.exceptions.NoPermissionError("no permission to run EVAL"), "does not allow"),
        (redis.exceptions.OutOfMemoryError("command not allowed"), "is full"),
        (redis.ReadOnlyError("You can't write"), "read-only replica"),
        (redis.TimeoutError("Timeout"), "does not answer within 1 s"),
        (redis.ConnectionError(f"Error 111 connecting to {PASSWORD}"), "cannot be reached"),
        (redis.ResponseError(f"unknown {PASSWORD}"), "answers with an error"),
    ],
)
def test_redis_error_is_explained_without_the_password(error, expected):
    explained = explain(error, f"redis://user:{PASSWORD}@host:6379/0?x={PASSWORD}")
    assert expected in explained
    assert "redis://host:6379/0" in explained
    assert PASSWORD not in explained


def test_shown_url_has_neither_login_nor_query():
    assert shown_url(f"redis://u:{PASSWORD}@host/0?password={PASSWORD}") == "redis://host/0"
    assert shown_url(f"unix://:p@ss@/a.sock?password={PASSWORD}") == "unix:///a.sock"
