"""Keys: found, checked before use, and never shown."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pydantic import SecretStr

from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from multiembed.providers.base import Provider


@dataclass(frozen=True)
class ApiKey:
    """A key that is shown only on request."""

    get: Callable[[], str] = field(repr=False)
    """Returns the key as it goes into its header."""
    fixed: bool = True
    """Whether it is the same each time."""
    source: str = "api_key"
    """The environment variable that held it, or "api_key" for the option."""


def resolve_key(
    given: SecretStr | Callable[[], str] | None, provider: Provider, environ: Mapping[str, str], url: str = ""
) -> ApiKey | None:
    """The key that was given, else the environment's; None where there is none and none is needed.

    Args:
        given: the option.
        provider: whose key.
        environ: the environment.
        url: where it goes: of the keys of several accounts, the one of the account at that host comes first.

    Raises:
        ConfigurationError: there is none, or it cannot be a key.
    """
    if not provider.key_env:
        return None
    if given is not None and not isinstance(given, SecretStr):
        return ApiKey(partial(_ask, given), fixed=False)
    candidates = {"api_key": given.get_secret_value() if given else ""}
    candidates |= {name: environ.get(name, "") for name in _variables(provider, environ, url)}
    for source, value in candidates.items():
        if value.strip():
            return ApiKey(partial(str, check_key(value, source)), source=source)
    if not provider.key_required:
        return None
    raise ConfigurationError(
        f"No key for {provider.id}: set {' or '.join(provider.key_env)}, or pass api_key. "
        f"Keys come from {provider.key_page}. In a worker process, set the variable there too, or pass "
        "key_in_pickle=True where the embedder is made.",
        provider=provider.id,
    )


def _variables(provider: Provider, environ: Mapping[str, str], url: str) -> tuple[str, ...]:
    """The variables that may hold the key, the one of the account at the URL's host first."""
    for place, name in provider.key_of.items():
        address = provider.regions.get(place) or environ.get(place, "").strip()
        if address and _host(address) == _host(url):
            return (name, *(other for other in provider.key_env if other != name))
    return provider.key_env


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _ask(function: Callable[[], str]) -> str:
    """What the user's function returns; its own errors may hold anything, so only their names are told.

    Raises:
        ConfigurationError: it failed, or returned no key.
    """
    failed = None
    try:
        key = function()
    except Exception as error:  # noqa: BLE001 - whatever it is, the call ends with an error of ours
        failed = type(error).__name__
    if failed is not None:
        raise ConfigurationError(f"The api_key function raised {failed}.")
    return check_key(key, "the api_key function")


def check_key(value: object, source: str) -> str:
    """The key without the white space around it.

    Raises:
        ConfigurationError: an HTTP header could not carry it; the message does not repeat it.
    """
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"The key from {source} is empty or no text.")
    key = value.strip()
    if key.lower().startswith("bearer "):
        raise ConfigurationError(f"The key from {source} starts with 'Bearer': give the key alone.")
    if key[0] in "\"'“”‘’" or key[-1] in "\"'“”‘’":
        raise ConfigurationError(f"The key from {source} is wrapped in quotation marks: give the key alone.")
    for position, character in enumerate(key):
        if not "!" <= character <= "~":
            raise ConfigurationError(
                f"The key from {source} holds a character that no key has (U+{ord(character):04X} at position "
                f"{position} of {len(key)}): copy it again."
            )
    return key


# Names of query parameters and headers that hold a credential, without hyphens, underscores and case. The list is
# exact: a name that only resembles one, such as `tokenizer`, may choose a model, and must count for the fingerprint.
_SECRET_NAMES = frozenset(
    {
        *("key", "apikey", "xapikey", "accesskey", "subscriptionkey", "ocpapimsubscriptionkey", "xgoogapikey"),
        *("token", "accesstoken", "apitoken", "authtoken", "xauthtoken", "xamzsecuritytoken", "jwt"),
        *("secret", "clientsecret", "password", "passwd", "pwd", "auth", "authorization", "sig", "signature", "code"),
    }
)


def is_secret_name(name: str) -> bool:
    """Whether a query parameter or a header of that name holds a credential."""
    return re.sub(r"[-_.]", "", name.lower()) in _SECRET_NAMES
