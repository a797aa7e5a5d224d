"""Endpoint: URL, query and headers of the requests, validated before a key is sent there."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from multiembed.config.credentials import is_secret_name
from multiembed.errors import ConfigurationError
from multiembed.transport.settings import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.config.options import EmbeddingOptions
    from multiembed.providers.base import Provider

_OUR_HEADERS = {"authorization", "content-type", "content-length", "content-encoding", "host", "accept-encoding"}
_HOP_BY_HOP = {
    *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
    *("proxy-authenticate", "proxy-authorization", "expect"),
}
"""RFC 9110, 7.6.1, and RFC 2616, 13.5.1: they describe one connection, which only the HTTP client knows. `Expect` makes
the server answer twice."""
_NOT_FOR_KEYS = (_OUR_HEADERS - {"authorization"}) | _HOP_BY_HOP | {"accept", "user-agent"}
# RFC 3986 allows none of these in a URL; braces are what is left of a placeholder such as {WorkspaceId}.
_NOT_IN_URLS = re.compile(r'[\s"<>\\^`{|}]')
_HOST_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


def resolve_endpoint(
    options: EmbeddingOptions, provider: Provider, environ: Mapping[str, str]
) -> tuple[str, Mapping[str, str], str | None]:
    """Find the address: base_url, else the region's, else the environment's, else the provider's default.

    Returns:
        The URL without its query, the query, and the environment variable that named the address, if one did.

    Raises:
        ConfigurationError: the address is missing or malformed.
    """
    region, address, variable = options.region, (options.base_url or "").strip(), None
    if provider.compute is not None and (region or address):
        raise ConfigurationError(f"{provider.id} sends nothing: leave base_url and region out.")
    if provider.compute is not None:
        return f"{provider.id}:", {}, None
    if region and address:
        raise ConfigurationError("Give base_url or region, not both: a region is one of the provider's addresses.")
    if region and region not in provider.regions:
        known = ", ".join(map(repr, provider.regions)) or "none"
        raise ConfigurationError(
            f"{provider.id} has no region {region!r}: known are {known}.{provider.address_hint}", provider=provider.id
        )
    if not region and not address:
        variable = _address_variable(provider, environ, own_key=options.api_key is not None)
        address = "" if variable is None else _for_this_api(environ[variable].strip(), provider)
    if not address and not provider.regions:
        raise ConfigurationError(
            f"{provider.id} needs an address: set {' or '.join(provider.base_url_env)} or pass base_url."
            f"{provider.address_hint}",
            provider=provider.id,
        )
    address = address or provider.regions[region or next(iter(provider.regions))]
    return *_parse_address(address, variable or "base_url", provider, allow_insecure=options.allow_insecure), variable


def _address_variable(provider: Provider, environ: Mapping[str, str], *, own_key: bool) -> str | None:
    """The environment variable to take the address from. Without `own_key`, one whose account has a key goes first."""
    found = [name for name in provider.base_url_env if environ.get(name, "").strip()]
    with_key = [name for name in found if environ.get(provider.key_of.get(name, ""), "").strip()]
    return next(iter(found if own_key else with_key + found), None)


def _for_this_api(base: str, provider: Provider) -> str:
    """Replace the path of another API of the vendor, where one variable serves several APIs."""
    for path in provider.other_paths:
        head, found, rest = base.partition(path)
        if found and rest[:1] in ("", "/"):
            return head + urlsplit(next(iter(provider.regions.values()))).path
    return base


def _parse_address(
    base: str, source: str, provider: Provider, *, allow_insecure: bool
) -> tuple[str, Mapping[str, str]]:
    """The URL of the endpoint, and the query of the address. `source` names what the user configured."""
    try:
        parts = urlsplit(base)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        host, port = "", None
    is_host = ":" in host or all(map(_HOST_LABEL.fullmatch, host.removesuffix(".").split(".")))  # ":" is of IPv6
    is_ascii = base.isascii() and base.isprintable() and not _NOT_IN_URLS.search(base)
    if not host or not is_host or not is_ascii or port == 0 or parts.scheme not in ("http", "https"):
        raise ConfigurationError(
            f"{source} must look like https://host/path: it begins with https:// or http://, holds ASCII characters "
            "only (a host of other letters in its form xn--…), no blank and no placeholder in braces, and a port, if "
            "any, is from 1 to 65535."
        )
    if parts.fragment or parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            f"{source} must hold no user, password or fragment: the key goes into api_key, the rest into headers."
        )
    query = _parse_query(parts.query, source, provider)
    if parts.scheme == "http" and not allow_insecure and not is_loopback(host):
        raise ConfigurationError(
            f"{source} sends key and texts to {host} in the open: use https://, or allow_insecure=True if you must."
        )
    base, path = base.partition("?")[0].rstrip("/"), provider.path
    if path.endswith("/embeddings") and parts.path.rstrip("/").endswith("/embeddings"):
        return base, query  # the whole address
    # Users also paste a part of the endpoint's path: what the address ends with is not added again.
    for end in (path, path.rsplit("/", 1)[0]):
        if end and base.endswith(end):
            return base[: -len(end)] + path, query
    return base + path, query


def _parse_query(text: str, source: str, provider: Provider) -> Mapping[str, str]:
    if not text:
        return {}
    if not provider.needs_address:
        raise ConfigurationError(
            f"{source} must hold no query: what {provider.id} needs goes into api_key and headers."
        )
    pairs = parse_qsl(text, keep_blank_values=True)
    query = dict(pairs)
    if any(map(is_secret_name, query)):
        raise ConfigurationError(
            f"{source} holds a credential in its query, where it would be shown: the key goes into api_key, with "
            "auth_header where it has a header of its own, the rest into headers or query."
        )
    if len(query) < len(pairs):
        raise ConfigurationError(f"The query in {source} holds a name twice: each may stand once.")
    return check_query(query, f"The query in {source}")


def check_query(query: Mapping[str, str], source: str = "query") -> Mapping[str, str]:
    """Validate query parameters, which the message calls by `source`.

    Raises:
        ConfigurationError: a name is empty, or a name or value is not printable. The message repeats neither, because
            a value may be a credential.
    """
    for name, value in query.items():
        if not name:
            raise ConfigurationError(f"{source} holds an empty name: write {{'api-version': '2024-10-21'}}.")
        if not name.isprintable() or not value.isprintable():
            raise ConfigurationError(f"{source} must hold printable text on one line, in names and in values.")
    return dict(query)


def check_headers(headers: Mapping[str, str], auth_header: str | None = None) -> Mapping[str, str]:
    """Validate the user's extra headers.

    Raises:
        ConfigurationError: a header is malformed, or the client sets it.
    """
    ours = _OUR_HEADERS | ({auth_header.lower()} if auth_header else set())
    seen = set()
    for name, value in headers.items():
        lower = name.lower()
        if lower in ours:
            raise ConfigurationError(f"headers may not hold {name!r}: it is set for you (the key goes into api_key).")
        if lower in _HOP_BY_HOP:
            raise ConfigurationError(
                f"headers may not hold {name!r}: it describes one connection, which the HTTP client manages. Leave it "
                "out."
            )
        if not _is_header_name(name):
            raise ConfigurationError("headers holds a name that HTTP does not allow: use letters, digits and hyphens.")
        if lower in seen:
            raise ConfigurationError(f"headers holds {name!r} twice: case makes no difference in a header's name.")
        seen.add(lower)
        if not value.isascii() or not value.isprintable():
            raise ConfigurationError(f"The value of header {name!r} must be plain ASCII on one line.")
    return dict(headers)


def check_auth_header(name: str | None) -> str | None:
    """Validate the name of the header that carries the key instead of `Authorization: Bearer`.

    Raises:
        ConfigurationError: it is malformed, or the HTTP client sets it. The message does not repeat the name, because
            it may be the key in the wrong option.
    """
    if name is not None and not _is_header_name(name):
        raise ConfigurationError(
            "auth_header must be the name of an HTTP header alone, for instance 'api-key': letters, digits and hyphens."
        )
    if name is not None and name.lower() in _NOT_FOR_KEYS:
        raise ConfigurationError(
            "auth_header names a header that the HTTP client sets: take the one that your server reads the key from, "
            "for instance 'api-key' or 'X-API-Key'."
        )
    return name


def _is_header_name(name: str) -> bool:
    return name.isascii() and name.replace("-", "").replace("_", "").isalnum()
