"""Where requests go: the URL and the extra headers, checked before a key is sent there."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.options import EmbeddingOptions
    from multiembed.providers.contract import Provider

_OUR_HEADERS = frozenset({"authorization", "content-type", "content-length", "host", "accept-encoding"})


def find_url(options: EmbeddingOptions, provider: Provider, environ: Mapping[str, str]) -> str:
    """The whole URL that requests go to.

    Raises:
        ConfigurationError: there is no address, or none that may be used.
    """
    region, given = options.region, (options.base_url or "").strip()
    if provider.compute is not None:
        if region or given:
            raise ConfigurationError(f"{provider.id} sends nothing: leave base_url and region out.")
        return f"{provider.id}:"
    if region and given:
        raise ConfigurationError("Give base_url or region, not both: a region is one of the provider's addresses.")
    if region and region not in provider.regions:
        known = ", ".join(map(repr, provider.regions)) or "none"
        raise ConfigurationError(f"{provider.id} has no region {region!r}: known are {known}.", provider=provider.id)
    if not given and not provider.regions:
        given = environ.get(provider.base_url_env or "", "").strip()
        if not given:
            raise ConfigurationError(
                f"{provider.id} needs an address: set {provider.base_url_env} or pass base_url.",
                provider=provider.id,
            )
    base = given or provider.regions[region or next(iter(provider.regions))]
    return _checked_base(base, allow_insecure=options.allow_insecure, path=provider.path) + provider.path


def _checked_base(base: str, *, allow_insecure: bool, path: str) -> str:
    try:
        parts = urlsplit(base)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or not base.isascii() or not base.isprintable() or " " in base:
        raise ConfigurationError("base_url must look like https://host/path.")
    if parts.query or parts.fragment or parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            "base_url must hold no user, password, query or fragment: the key goes into api_key, the rest into headers."
        )
    if parts.scheme == "http" and not allow_insecure and not is_loopback(host):
        raise ConfigurationError(
            f"base_url sends key and texts to {host} in the open: use https://, or allow_insecure=True if you must."
        )
    # People paste the whole endpoint, or its first half: what stands at the end already is not said twice.
    base = base.rstrip("/")
    for end in (path, path.rsplit("/", 1)[0]):
        if end and base.endswith(end):
            return base[: -len(end)]
    return base


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, as its name or number says."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_number(host: str) -> bool:
    """Whether a host is one address itself, and no name of any."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def check_headers(given: Mapping[str, str]) -> Mapping[str, str]:
    """The user's extra headers.

    Raises:
        ConfigurationError: HTTP could not carry them, or they would replace one that is set for the user.
    """
    for name, value in given.items():
        if name.lower() in _OUR_HEADERS:
            raise ConfigurationError(f"headers may not hold {name!r}: it is set for you (the key goes into api_key).")
        if not name or not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
            raise ConfigurationError("headers holds a name that is no HTTP header.")
        if not value.isascii() or not value.isprintable():
            raise ConfigurationError(f"The value of header {name!r} must be plain ASCII on one line.")
    return dict(given)
