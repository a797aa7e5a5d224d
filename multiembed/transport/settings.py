"""How connections are made: proxy, certificate authorities, client certificate. And the headers of all requests."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADERS = {"User-Agent": "multiembed", "Accept": "application/json", "Accept-Encoding": "gzip, deflate"}
"""The headers that every request has, unless it has its own."""
SYSTEM = "system"
"""As `ca_bundle`: the certificate store of the operating system."""


@dataclass(frozen=True, slots=True)
class TransportSettings:
    """What distinguishes the connections of one embedder from those of another. Its repr shows no password."""

    proxy: str | None = None
    """URL of the proxy for all hosts but loopback. None: what the environment names."""
    ca_bundle: str | None = None
    """PEM file or directory with the certificate authorities to trust; "system": those of the operating system. None:
    those of certifi, or of SSL_CERT_FILE and SSL_CERT_DIR."""
    client_cert: str | tuple[str, str] | None = None
    """PEM file with certificate and key, or (certificate file, key file)."""

    def __repr__(self) -> str:
        return (
            f"TransportSettings(proxy={without_login(self.proxy)!r}, ca_bundle={self.ca_bundle!r}, "
            f"client_cert={self.client_cert!r})"
        )


def without_login(url: str | None) -> str | None:
    """A proxy's URL without user and password."""
    return url and re.sub(r"(?s)^(.*?://)?.*@", r"\1", url)
