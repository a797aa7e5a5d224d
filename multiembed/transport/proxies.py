"""Which proxy a request goes through: of the settings, of the environment, or none."""

from __future__ import annotations

import base64
import functools
import ipaddress
import os
import re
import urllib.request
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import unquote, urlsplit

from multiembed.errors import ConfigurationError
from multiembed.transport.hosts import is_loopback

PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[A-Za-z0-9._:%-]+")


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy's address and login."""

    url: str
    """http://host:port or https://host:port, without user and password."""
    login: str | None = field(repr=False)
    """The value of Proxy-Authorization."""


@dataclass(frozen=True, slots=True)
class EnvironmentProxies:
    """What the environment says of proxies, or the operating system's settings where it says nothing."""

    by_scheme: dict[str, str] = field(repr=False)
    no_proxy: tuple[str, ...]
    of_system: bool
    """The operating system's settings, which have exceptions of their own."""


@functools.cache
def environment_proxies() -> EnvironmentProxies:
    """Read HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in either case, once for the process.

    `environment_proxies.cache_clear()` forgets them (for tests).
    """
    no_proxy = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return EnvironmentProxies(
        by_scheme=urllib.request.getproxies(),
        no_proxy=tuple(no_proxy.lower().replace(",", " ").split()),
        of_system=not urllib.request.getproxies_environment(),
    )


def find_proxy(url: str, given: str | None) -> Proxy | None:
    """The proxy for a URL; None for loopback, which no proxy can reach.

    Args:
        url: where a request goes.
        given: the URL of the proxy to take for all; None: what the environment names.

    Raises:
        ConfigurationError: the proxy is neither http nor https.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if is_loopback(host):
        return None
    if given:
        return read_proxy(given, "proxy")
    environment = environment_proxies()
    found = environment.by_scheme.get(parts.scheme) or environment.by_scheme.get("all")
    port = parts.port or PORTS.get(parts.scheme, 0)
    if not found or any(matches(entry, host, port) for entry in environment.no_proxy):
        return None
    if environment.of_system and urllib.request.proxy_bypass(host):
        return None
    return read_proxy(found, "The environment")


def read_proxy(url: str, source: str) -> Proxy:
    """The proxy that a URL names; without a scheme, http is meant.

    Args:
        url: the URL, which may hold user and password, percent-encoded.
        source: who names it, for the message.

    Raises:
        ConfigurationError: it is not the URL of an HTTP proxy. The message does not repeat it.
    """
    scheme, separator, rest = url.strip().rpartition("://")
    scheme = scheme.lower() if separator else "http"
    if scheme not in PORTS:
        raise ConfigurationError(
            f"{source} names a proxy that is neither http nor https: pass your own http_client and http_async_client "
            "for it."
        )
    try:
        parts = urlsplit(f"{scheme}://{rest}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    if not _HOST.fullmatch(host) or port == 0:
        raise ConfigurationError(f"{source} names a proxy without a valid host and port: write http://host:port.")
    host = f"[{host}]" if ":" in host else host
    login = None
    if parts.username:
        words = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        login = f"Basic {base64.b64encode(words.encode()).decode()}"
    return Proxy(f"{scheme}://{host}:{port or PORTS[scheme]}", login)


def matches(entry: str, host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY, in lower case, names a host.

    An entry is `*`, an address, a network (10.0.0.0/8), or a name, which also stands for all names below it: `host`,
    `.host` and `*.host` are the same, as curl and urllib have it for the first two. Name and address may have a port.
    """
    name, _, entry_port = entry.rpartition(":")
    if name and entry_port.isdecimal() and _network(entry) is None:  # the end of an IPv6 address is not a port
        if int(entry_port) != port:
            return False
        entry = name
    network, address = _network(entry), _network(host)
    if network is not None or address is not None:
        if network is None:
            return "*" in entry and fnmatchcase(host, entry)
        return address is not None and address.version == network.version and address.subnet_of(network)  # type: ignore[arg-type]
    if entry == "*":
        return True
    name = entry.removeprefix("*").strip(".")
    return bool(name) and (host == name or host.endswith(f".{name}") or ("*" in name and fnmatchcase(host, name)))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.removeprefix("[").removesuffix("]"), strict=False)
    except ValueError:
        return None
