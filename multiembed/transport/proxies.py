"""HTTP proxies: the one of the settings, of the environment (NO_PROXY included) or of the operating system."""

from __future__ import annotations

import functools
import ipaddress
import re
import urllib.request
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from yarl import URL

from multiembed.errors import ConfigurationError
from multiembed.transport.settings import is_loopback

SCHEMES = ("http", "https")
_HOST = re.compile(r"[A-Za-z0-9._:%-]+")
_WITH_PORT = re.compile(r"(\[.+\]|[^:]+):(\d+)")


@functools.cache
def environment_proxies() -> tuple[dict[str, str], bool]:
    """Read HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY, in either case, once for the process.

    Returns:
        The values by "http", "https", "all" and "no", and whether they are the operating system's settings, which have
        exceptions of their own.
    """
    return urllib.request.getproxies(), not urllib.request.getproxies_environment()


def find_proxy(url: str, configured: str | None) -> URL | None:
    """Return the proxy's URL for a request's URL: the configured one, else the environment's. Loopback has none.

    Raises:
        ConfigurationError: the proxy is neither http nor https.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    if is_loopback(host):
        return None
    if configured:
        return read_proxy(configured, "proxy")
    proxies, are_of_system = environment_proxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    excluded = proxies.get("no", "").lower().replace(",", " ").split()
    if not proxy or any(_matches(entry, host, port) for entry in excluded):
        return None
    if are_of_system and urllib.request.proxy_bypass(host):
        return None
    return read_proxy(proxy, "The environment")


def read_proxy(text: str, source: str) -> URL:
    """Parse the URL of a proxy; without a scheme, http is meant.

    Raises:
        ConfigurationError: it is not the URL of an HTTP proxy. The message names its source, and not the URL, which may
            hold a password.
    """
    text = text.strip()
    try:
        url = URL(text if "://" in text else f"http://{text}")
        is_valid = bool(url.port and _HOST.fullmatch(url.host or ""))
    except ValueError:
        url, is_valid = URL(), False
    if url.scheme and url.scheme not in SCHEMES:
        raise ConfigurationError(
            f"{source} names a proxy that is neither http nor https: pass your own http_client and http_async_client "
            "for it."
        )
    if not is_valid:
        raise ConfigurationError(f"{source} names a proxy without a valid host and port: write http://host:port.")
    return url


def _matches(entry: str, host: str, port: int) -> bool:
    """Return whether an entry of NO_PROXY, in lower case, names a host.

    An entry is `*`, an address, a network (10.0.0.0/8), or a name, which also stands for all names below it: `host`,
    `.host` and `*.host` are the same, as curl and urllib have it for the first two. Name and address may have a port.
    """
    if found := _WITH_PORT.fullmatch(entry):
        entry = found[1]
        if int(found[2]) != port:
            return False
    is_address = bool(_network(host))
    if network := _network(entry):
        return is_address and ipaddress.ip_address(host) in network
    pattern = entry.strip(".")
    name = pattern.removeprefix("*").lstrip(".")
    return fnmatchcase(host, pattern) or (bool(name) and not is_address and f".{host}".endswith(f".{name}"))


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.removeprefix("[").removesuffix("]"), strict=False)
    except ValueError:
        return None
