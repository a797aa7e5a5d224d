"""API key: lookup, validation, and the names of headers and parameters that hold a credential."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic import SecretStr

    from multiembed.providers.base import Provider


@dataclass(frozen=True)
class ApiKey:
    """API key, or the user's function that returns it. Its repr does not show the key."""

    get: Callable[[], str] = field(repr=False)
    """Returns the key as it is sent."""
    fixed: bool = True
    """Whether `get` returns the same key each time."""
    source: str = "api_key"
    """The environment variable that held the key, or "api_key" for the option."""


def resolve_key(
    option: SecretStr | Callable[[], str] | None, provider: Provider, environ: Mapping[str, str], url: str
) -> ApiKey | None:
    """Find the API key: the option, else the environment variable of the account at the URL's host, else any other.

    Returns:
        The key; None where the provider needs none and none is configured.

    Raises:
        ConfigurationError: the key is missing or malformed.
    """
    if not provider.key_env:
        return None
    if callable(option):
        return ApiKey(partial(_call_key_function, option), fixed=False)
    variables = list(provider.key_env)
    for region_or_variable, variable in provider.key_of.items():
        address = provider.regions.get(region_or_variable) or environ.get(region_or_variable, "").strip()
        if address and _host(address) == _host(url):
            variables.sort(key=variable.__ne__)
            break
    candidates = {"api_key": option.get_secret_value() if option else ""}
    candidates |= {variable: environ.get(variable, "") for variable in variables}
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


def _host(url: str) -> str:
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _call_key_function(function: Callable[[], str]) -> str:
    """Get the key from the user's function. The text of its errors may hold a key, so only their type is named."""
    failure = None
    try:
        key = function()
    except Exception as error:  # noqa: BLE001 - the user's function may raise anything
        failure = type(error).__name__
    if failure is not None:  # raised here, so that the function's error is not its context
        raise ConfigurationError(f"The api_key function raised {failure}.")
    return check_key(key, "the api_key function")


def check_key(value: object, source: str) -> str:
    """Validate an API key, and strip white space around it. `source` is where it comes from, for the message.

    Raises:
        ConfigurationError: the key cannot be sent in an HTTP header. The message does not repeat it.
    """
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(f"The key from {source} is empty or not text.")
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


# In lower case, without hyphens, underscores and dots. The list is exact: a name that only resembles one of these, such
# as `tokenizer`, may choose a model, and must count for the fingerprint.
_SECRET_NAMES = {
    *("key", "apikey", "xapikey", "accesskey", "subscriptionkey", "ocpapimsubscriptionkey", "xgoogapikey"),
    *("token", "accesstoken", "apitoken", "authtoken", "xauthtoken", "xamzsecuritytoken", "jwt"),
    *("secret", "clientsecret", "password", "passwd", "pwd", "auth", "authorization", "sig", "signature", "code"),
}


def is_secret_name(name: str) -> bool:
    """Whether a query parameter or a header of that name holds a credential."""
    return re.sub(r"[-_.]", "", name.lower()) in _SECRET_NAMES
