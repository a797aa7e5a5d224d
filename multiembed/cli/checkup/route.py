"""The way to a host: the proxy that the environment names, sockets, and tunnels through the proxy."""

from __future__ import annotations

import base64
import ipaddress
import os
import socket
import threading
import urllib.request
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

_LONGEST_HEAD = 1 << 16
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, kw_only=True, slots=True)
class Proxy:
    """A proxy; its login is never shown."""

    scheme: str
    host: str
    port: int
    variable: str
    """Which names it, or words for the system's settings."""
    login: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        login = ", with a login" if self.login else ""
        return f"{self.scheme}://{bracketed(self.host)}:{self.port} ({self.variable}{login})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Route:
    """Where requests go, and through what."""

    secure: bool
    host: str
    port: int
    proxy: Proxy | None
    spared: bool
    """A proxy is named, but not for this host."""
    own: bool
    """The user named the host, and may have misspelt it."""

    @property
    def next_stop(self) -> tuple[str, int]:
        """What is connected to from here."""
        return (self.proxy.host, self.proxy.port) if self.proxy else (self.host, self.port)

    @property
    def setting(self) -> str:
        """What names the next stop; empty for the provider's own address."""
        return self.proxy.variable if self.proxy else "base_url" if self.own else ""


class TunnelError(OSError):
    """The proxy does not let us through; holds the HTTP status, or None for an answer that is no HTTP."""

    def __init__(self, status: int | None = None) -> None:
        super().__init__(f"the proxy answers {status or 'no HTTP'}")
        self.status = status


def route_to(url: str, *, own: bool) -> Route:
    """The way to a URL, by the same rules as the client's.

    Args:
        url: where requests go.
        own: whether the user named it.

    Raises:
        ValueError: the environment's proxy cannot be used; the words say why, without its login.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    proxies = urllib.request.getproxies()
    scheme = parts.scheme if proxies.get(parts.scheme) else "all"
    named = proxies.get(scheme)
    spared = bool(named) and (is_this_machine(host) or bool(urllib.request.proxy_bypass(host)))
    return Route(
        secure=parts.scheme == "https",
        host=host,
        port=parts.port or _PORTS[parts.scheme],
        proxy=_proxy(named, _variable(scheme)) if named and not spared else None,
        spared=spared,
        own=own,
    )


def _proxy(address: str, variable: str) -> Proxy:
    try:
        parts = urlsplit(address if "://" in address else f"http://{address}")
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        raise ValueError(f"the proxy in {variable} is no address") from None
    if scheme not in _PORTS:
        raise ValueError(f"the proxy in {variable} is neither http nor https, but {scheme}")
    if not host:
        raise ValueError(f"the proxy in {variable} names no host")
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
    return Proxy(scheme=scheme, host=host, port=port or _PORTS[scheme], variable=variable, login=login)


def _variable(scheme: str) -> str:
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY")
    return next((name for name in names if os.environ.get(name)), "the system's settings")


def is_this_machine(host: str) -> bool:
    """Whether no proxy could reach the host, because it is where we are."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def is_number(host: str) -> bool:
    """Whether the host is an IP address, which needs no name service."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def bracketed(host: str) -> str:
    """A host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def resolve(host: str, timeout: float) -> list[str]:
    """The numbers of a name.

    Raises:
        socket.gaierror: there are none.
        TimeoutError: no answer within `timeout` seconds, where the system itself would wait longer.
    """
    found: list[list[str]] = []
    failed: list[OSError | UnicodeError] = []

    def ask() -> None:
        try:
            infos = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
            found.append(list(dict.fromkeys(str(info[4][0]) for info in infos)))
        except (OSError, UnicodeError) as error:
            failed.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(timeout)
    if found:
        return found[0]
    if failed:
        raise failed[0] if isinstance(failed[0], OSError) else socket.gaierror(socket.EAI_NONAME, "no name")
    raise TimeoutError


def dial(route: Route, timeout: float) -> socket.socket:
    """A connection to the next stop."""
    return socket.create_connection(route.next_stop, timeout)


def tunnel(sock: socket.socket, route: Route) -> None:
    """Ask the proxy to connect us to the host.

    Raises:
        TunnelError: it does not.
    """
    proxy, target = route.proxy, f"{bracketed(route.host)}:{route.port}"
    if proxy is None or not route.secure:
        return
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}", "User-Agent: multiembed"]
    if proxy.login:
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(proxy.login.encode()).decode()}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _LONGEST_HEAD:
        data = sock.recv(1)  # not a byte of what comes behind the head
        if not data:
            break
        head += data
    words = head.split(b"\r\n", 1)[0].split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise TunnelError
    if not 200 <= int(words[1]) < 300:
        raise TunnelError(int(words[1]))
