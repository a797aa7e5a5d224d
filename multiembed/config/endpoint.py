"""Where requests go: the URL, its query and the extra headers, checked before a key is sent there."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from multiembed.config.credentials import is_secret_name
from multiembed.errors import ConfigurationError
from multiembed.transport.hosts import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.config.options import EmbeddingOptions
    from multiembed.providers.base import Provider

_OUR_HEADERS = frozenset(
    {"authorization", "content-type", "content-length", "content-encoding", "host", "accept-encoding"}
)
# RFC 9110, 7.6.1, and RFC 2616, 13.5.1: they describe one connection, which the HTTP client alone knows. `Expect` makes
# the server answer twice.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "expect",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# Headers that the HTTP client sets and that cannot carry a key.
_NOT_FOR_KEYS = (_OUR_HEADERS - {"authorization"}) | _HOP_BY_HOP | {"accept", "user-agent"}
# RFC 3986 allows none of these in a URL; braces are what is left of a placeholder such as {WorkspaceId}.
_NOT_IN_URLS = re.compile(r'[\s"<>\\^`{|}]')
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoint:
    """Where requests go."""

    url: str
    """The whole URL but the query."""
    query: Mapping[str, str] = field(repr=False)
    """The part of the query that stood in the URL."""
    variable: str | None = None
    """The environment variable that named it; None for base_url, for a region and for the provider's default."""


def resolve_endpoint(options: EmbeddingOptions, provider: Provider, environ: Mapping[str, str]) -> Endpoint:
    """The address that requests go to: of base_url, else of the region, else of the environment, else the default.

    Raises:
        ConfigurationError: there is no address, or none that may be used.
    """
    region, given = options.region, (options.base_url or "").strip()
    if provider.compute is not None:
        if region or given:
            raise ConfigurationError(f"{provider.id} sends nothing: leave base_url and region out.")
        return Endpoint(url=f"{provider.id}:", query={})
    _check_region(region, given, provider)
    variable = None if region or given else _variable(provider, environ, own_key=options.api_key is not None)
    if variable is not None:
        given = _for_this_api(environ[variable].strip(), provider)
    if not given and not provider.regions:
        raise ConfigurationError(
            f"{provider.id} needs an address: set {' or '.join(provider.base_url_env)} or pass base_url."
            f"{provider.address_hint}",
            provider=provider.id,
        )
    base = given or provider.regions[region or next(iter(provider.regions))]
    url, query = _checked(base, variable or "base_url", provider, allow_insecure=options.allow_insecure)
    return Endpoint(url=url, query=query, variable=variable)


def _check_region(region: str | None, given: str, provider: Provider) -> None:
    if region and given:
        raise ConfigurationError("Give base_url or region, not both: a region is one of the provider's addresses.")
    if region and region not in provider.regions:
        known = ", ".join(map(repr, provider.regions)) or "none"
        raise ConfigurationError(
            f"{provider.id} has no region {region!r}: known are {known}.{provider.address_hint}", provider=provider.id
        )


def _variable(provider: Provider, environ: Mapping[str, str], *, own_key: bool) -> str | None:
    """The variable that names the address; of several, the first whose account has a key there, too.

    A key of the user's own (`own_key`) says nothing of its account.
    """
    found = [name for name in provider.base_url_env if environ.get(name, "").strip()]
    with_key = [name for name in found if environ.get(provider.key_of.get(name, ""), "").strip()]
    return next(iter(found if own_key else with_key + found), None)


def _for_this_api(base: str, provider: Provider) -> str:
    """The same host's base for this API, where a variable that the vendor's APIs share holds another one's."""
    for path in provider.other_paths:
        head, found, rest = base.partition(path)
        if found and rest[:1] in ("", "/"):
            return head + urlsplit(next(iter(provider.regions.values()))).path
    return base


def _checked(base: str, name: str, provider: Provider, *, allow_insecure: bool) -> tuple[str, Mapping[str, str]]:
    """The whole URL, and the query that stood in it. `name` is what the user set."""
    try:
        parts = urlsplit(base)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if (
        not host
        or port == 0
        or parts.scheme not in ("http", "https")
        or not base.isascii()
        or not base.isprintable()
        or _NOT_IN_URLS.search(base)
        or not _is_host(host)
    ):
        raise ConfigurationError(
            f"{name} must look like https://host/path: it begins with https:// or http://, holds ASCII characters only "
            "(a host of other letters in its form xn--…), no blank and no placeholder in braces, and a port, if any, "
            "is from 1 to 65535."
        )
    if parts.fragment or parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            f"{name} must hold no user, password or fragment: the key goes into api_key, the rest into headers."
        )
    query = _query_of(parts.query, name, provider)
    if parts.scheme == "http" and not allow_insecure and not is_loopback(host):
        raise ConfigurationError(
            f"{name} sends key and texts to {host} in the open: use https://, or allow_insecure=True (on the "
            "command line --allow-insecure) if you must."
        )
    base, path = base.partition("?")[0].rstrip("/"), provider.path
    if path.endswith("/embeddings") and parts.path.rstrip("/").endswith("/embeddings"):
        return base, query  # the whole address
    # People paste the first half of the endpoint's path, too: what stands at the end already is not said twice.
    for end in (path, path.rsplit("/", 1)[0]):
        if end and base.endswith(end):
            return base[: -len(end)] + path, query
    return base + path, query


def _query_of(text: str, name: str, provider: Provider) -> Mapping[str, str]:
    """The query of a URL that was given as an address."""
    if not text:
        return {}
    if not provider.needs_address:
        raise ConfigurationError(f"{name} must hold no query: what {provider.id} needs goes into api_key and headers.")
    pairs = parse_qsl(text, keep_blank_values=True)
    query = dict(pairs)
    if any(map(is_secret_name, query)):
        raise ConfigurationError(
            f"{name} holds a credential in its query, where it would be shown: the key goes into api_key, with "
            "auth_header where it has a header of its own, the rest into headers or query."
        )
    if len(query) < len(pairs):
        raise ConfigurationError(f"The query in {name} holds a name twice: each may stand once.")
    return check_query(query, f"The query in {name}")


def _is_host(host: str) -> bool:
    """Whether it can be a host: an address, or labels of letters, digits, hyphens and underscores (as Docker has)."""
    return ":" in host or all(map(_LABEL.fullmatch, host.removesuffix(".").split(".")))


def check_query(given: Mapping[str, str], what: str = "query") -> Mapping[str, str]:
    """The query parameters to send.

    Args:
        given: name to value, both text.
        what: how messages call it.

    Raises:
        ConfigurationError: a name is empty, or a name or value holds a control character or a lone surrogate. The
            message repeats neither, because a value may be a credential.
    """
    for name, value in given.items():
        if not name:
            raise ConfigurationError(f"{what} holds an empty name: write {{'api-version': '2024-10-21'}}.")
        if not name.isprintable() or not value.isprintable():
            raise ConfigurationError(f"{what} must hold printable text on one line, in names and in values.")
    return dict(given)


def check_headers(given: Mapping[str, str], auth_header: str | None = None) -> Mapping[str, str]:
    """The user's extra headers.

    Raises:
        ConfigurationError: HTTP could not carry them, or they would replace one that is set for the user.
    """
    seen = {auth_header.lower()} if auth_header else set()
    for name, value in given.items():
        lower = name.lower()
        if lower in _OUR_HEADERS or lower == (auth_header or "").lower():
            raise ConfigurationError(f"headers may not hold {name!r}: it is set for you (the key goes into api_key).")
        if lower in _HOP_BY_HOP:
            raise ConfigurationError(
                f"headers may not hold {name!r}: it describes one connection, which the HTTP client manages. Leave it "
                "out."
            )
        if not _is_header_name(name):
            raise ConfigurationError("headers holds a name that is no HTTP header.")
        if lower in seen:
            raise ConfigurationError(f"headers holds {name!r} twice: case makes no difference in a header's name.")
        seen.add(lower)
        if not value.isascii() or not value.isprintable():
            raise ConfigurationError(f"The value of header {name!r} must be plain ASCII on one line.")
    return dict(given)


def check_auth_header(name: str | None) -> str | None:
    """The name of the header that carries the key, where it is not `Authorization: Bearer`.

    Raises:
        ConfigurationError: HTTP cannot carry it, or it is not one for a key. The message does not repeat it, because
            it may be the key itself, in the wrong option.
    """
    if name is None:
        return None
    if not _is_header_name(name):
        raise ConfigurationError(
            "auth_header must be the name of an HTTP header alone, for instance 'api-key': letters, digits and hyphens."
        )
    if name.lower() in _NOT_FOR_KEYS:
        raise ConfigurationError(
            "auth_header names a header that the HTTP client sets: take the one that your server reads the key from, "
            "for instance 'api-key' or 'X-API-Key'."
        )
    return name


def _is_header_name(name: str) -> bool:
    return name.isascii() and name.replace("-", "").replace("_", "").isalnum()
