"""Settings of connections: proxy, certificates, the headers of all requests, and the test for loopback hosts."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field

HEADERS = {"User-Agent": "multiembed", "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
"""The headers that every request has, unless it has its own."""


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """Settings by which the connections of one embedder differ from those of another."""

    proxy: str | None = field(default=None, repr=False)
    """URL of the proxy for all hosts but loopback; it may hold a password. None takes the environment's."""
    ca_bundle: str | None = None
    """PEM file or directory with the certificate authorities to trust; "system": those of the operating system. None:
    those of certifi, or of SSL_CERT_FILE and SSL_CERT_DIR."""
    client_cert: str | tuple[str, str] | None = None
    """PEM file with certificate and key, or (certificate file, key file)."""


def without_login(url: str | None) -> str | None:
    """Return a proxy's URL without user and password."""
    return url and re.sub(r"(?s)^(.*?://)?.*@", r"\1", url)


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine itself, as its name or address says."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
