"""How a URL is reached: directly, through a proxy, or through a proxy's tunnel."""

from __future__ import annotations

import base64
import encodings.idna  # noqa: F401 - looking up a host imports it, and a fork during that would leave the child waiting
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from multiembed.wire.common import proxy_for, unsendable

_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Route:
    """The way to one server; connections of equal routes may stand in for each other."""

    host: str
    """Who is connected to: the server, or the proxy before it."""
    port: int
    tls: bool
    """Whether that connection begins with TLS."""
    server: str
    """The server's name, for its certificate."""
    server_port: int
    tunnel: bool
    """Whether the proxy is asked for a tunnel, in which TLS with the server begins."""
    base: str
    """What stands before the path in a request's first line."""
    authority: str
    """The server's name as the Host header says it."""
    login: str | None = field(repr=False)
    """The value of Proxy-Authorization."""


def route_to(url: str) -> Route:
    """The way that the environment's proxies lay out.

    Raises:
        ConfigurationError: the URL is none that HTTP knows, or the proxy is neither http nor https.
    """
    parts = urlsplit(url)
    server, server_port = _address(parts)
    tls = parts.scheme == "https"
    authority = parts.netloc.rpartition("@")[2]
    proxy = proxy_for(url)
    first = parts if proxy is None else urlsplit(proxy)
    host, port = _address(first)
    return Route(
        host=host,
        port=port,
        tls=first.scheme == "https",
        server=server,
        server_port=server_port,
        tunnel=tls and proxy is not None,
        base="" if tls or proxy is None else f"http://{authority}",
        authority=authority,
        login=None if proxy is None else _login(first),
    )


def path_of(url: str) -> str:
    """What a URL asks its server for."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _address(parts: SplitResult) -> tuple[str, int]:
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in _PORTS:
        raise unsendable()
    return host, port or _PORTS[parts.scheme]


def _login(parts: SplitResult) -> str | None:
    if not parts.username:
        return None
    words = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return f"Basic {base64.b64encode(words.encode()).decode()}"
