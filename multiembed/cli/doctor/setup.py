"""Configuration of one provider and its checks: options, key, address, model, proxy."""

from __future__ import annotations

import difflib
import os
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from multiembed import ConfigurationError, EmbeddingClient, ModelNameWarning, list_models
from multiembed.cli.completion import WITHOUT_MODELS
from multiembed.cli.console import printable
from multiembed.cli.models import find_provider
from multiembed.redaction import redact
from multiembed.transport.proxies import find_proxy

if TYPE_CHECKING:
    from collections.abc import Mapping

SHORT_KEY = 20
"""Characters below which a part of the key may be lost; the vendors' keys have 32 and more."""
_MIN_KEY_PART = 5
"""Characters of the key in a row that are redacted."""
_MASKED = re.compile(r"[^\s'\"]*(?:\*{2,}|•{2,})[^\s'\"]*")
_PLACEHOLDER = re.compile(
    r"your[-_ ]|x{4,}|\*{3,}|\.{3,}|…|^<.*>$|^\$|^%\w+%$|change[-_ ]?me|placeholder|^(insert|paste|replace)[-_ ]"
    r"|^(my|your|the|sk)?[-_ ]?(api)?[-_ ]?(key|token|secret)([-_ ]here)?$|^(none|null|undefined|todo|test)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check."""

    name: str
    state: Literal["ok", "warn", "fail", "skip"]
    says: str
    advice: str = ""
    """What the user can do about it."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """The result for programs: seconds, dimensions, codes."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Setup:
    """One provider with the model and the options to check."""

    provider: Any
    model: str | None
    """None where none was named and the provider has no first one."""
    options: Mapping[str, Any]
    """Options of EmbeddingClient from the command line."""

    @property
    def is_configured(self) -> bool:
        """Whether a call is possible: with a key, or to an address of a server that may need none."""
        facts = self.provider
        if "api_key" in self.options:
            return True
        needed = facts.key_env if facts.key_required else (*facts.key_env, *facts.base_url_env)
        return not facts.key_env or any(os.environ.get(name, "").strip() for name in needed)

    def client(self, **more: Any) -> EmbeddingClient:
        """A client with these options and more."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ModelNameWarning)  # there is a finding for it
            return EmbeddingClient(f"{self.provider.id}:{self.model or 'any'}", **{**self.options, **more})

    def region(self, client: EmbeddingClient) -> str:
        """The region that is called; empty for an own address and for a provider with one region."""
        if self.options.get("base_url") or client.target.url_variable or len(self.provider.regions) < 2:
            return ""
        return str(self.options.get("region") or next(iter(self.provider.regions)))


def setup_of(provider: str, model: str | None = None, options: Mapping[str, Any] | None = None) -> Setup:
    """The setup of a provider; without a model, of its first one."""
    facts = find_provider(provider)
    first = next((known.name for known in facts.models), None)
    return Setup(provider=facts, model=model or first, options=options or {})


def all_setups() -> list[Setup]:
    """All providers: those of the catalog, with those without models before the one without a network."""
    ids = list(dict.fromkeys(owner.id for owner, _ in list_models()))
    return [setup_of(name) for name in (*ids[:-1], *WITHOUT_MODELS, ids[-1])]


def missing_key(setup: Setup) -> Finding:
    """The finding for a provider without a key."""
    facts = setup.provider
    if not facts.key_required:
        return Finding("address", "fail", f"none and no address: {' or '.join(facts.base_url_env)} is not set")
    says, first = f"none: {' or '.join(facts.key_env)} is not set", facts.key_env[0]
    advice = f"Get one at {facts.key_page} and put it into {first}. A .env file is not read by itself."
    similar = _similar_variable(facts)
    if similar:
        says, advice = f"{says}, but {similar} is", f"{similar} is not read: call it {first}."
    elif any(name in os.environ for name in facts.key_env):
        advice = f"The variable is there and empty. {advice}"
    elif Path(".env").is_file():
        advice += " There is one in this folder: load it first."
    return Finding("key", "fail", says, advice)


def _similar_variable(facts: Any) -> str | None:
    """A variable that is set and has nearly the right name, and is not another provider's."""
    others = {name for each in all_setups() for name in each.provider.key_env}
    names = [name for name, value in os.environ.items() if value.strip() and name not in others]
    by_upper = {name.upper(): name for name in names if name.upper().endswith(("KEY", "TOKEN"))}
    near = (difflib.get_close_matches(variable, by_upper, n=1, cutoff=0.85) for variable in facts.key_env)
    return next((by_upper[found[0]] for found in near if found), None)


def check_setup(setup: Setup, client: EmbeddingClient) -> list[Finding]:
    """The findings for key, address, model and proxy. Nothing is sent."""
    key, address = _check_key(client), check_address(setup, client)
    return [each for each in (key, address, _check_model(setup), _check_proxy(client.target.url)) if each]


def _check_key(client: EmbeddingClient) -> Finding:
    target = client.target
    if target.key is None:
        return Finding("key", "ok", "none, so requests are sent without one")
    key, variable = target.key.get(), target.key.source
    variable = "the variable of --api-key-env" if variable == "api_key" else variable
    facts = {"variable": variable}
    placeholder = _PLACEHOLDER.search(key) or key.upper() == variable
    if placeholder or key.startswith((f"{variable}=", "export ")):
        says = f"in {variable}, but it {'is placeholder text' if placeholder else 'begins with the name of a variable'}"
        return Finding("key", "fail", says, f"Put your own key into {variable}, the key alone.", facts)
    says = f"in {variable}{', and short' if len(key) < SHORT_KEY else ''}"
    others = [name for name in target.provider.key_env if os.environ.get(name, "").strip() not in ("", key)]
    if not others:
        return Finding("key", "ok", says, facts=facts)
    advice = f"{others[0]} holds another key, which is not used. If that is the right one, unset {variable}."
    return Finding("key", "warn", says, advice, facts)


def check_address(setup: Setup, client: EmbeddingClient) -> Finding:
    """The finding that tells the address and where it comes from."""
    target = client.target
    region = setup.region(client)
    source = "--base-url" if setup.options.get("base_url") else target.url_variable or (region and f"region {region}")
    url = without_key(target.key.get() if target.key else "", target.shown_url)
    says = f"{url}{f' ({source})' if source else ''}"
    return Finding("address", "ok", says, facts={"region": region or None, "source": source or None})


def without_key(key: str, text: str) -> str:
    """The text without the key, parts of it, and the rest of a key that a server masked."""
    return redact(_MASKED.sub("…", text), (key,), shortest=min(_MIN_KEY_PART, len(key))) if key else text


def _check_model(setup: Setup) -> Finding | None:
    """A warning for a model that is not in the catalog and has nearly the name of one that is."""
    similar = setup.provider.similar_model(setup.model or "")
    if similar is None:
        return None
    return Finding("model", "warn", f"{setup.model} is not in the catalog", f"Did you mean {similar}?")


def proxy_variable(url: str) -> str | None:
    """The environment variable that names the proxy for a URL; None if no proxy is used for it."""
    try:
        if find_proxy(url, None) is None:
            return None
    except ConfigurationError:  # a proxy that cannot be used
        pass
    scheme = urlsplit(url).scheme
    names = (f"{scheme}_proxy", f"{scheme.upper()}_PROXY", "all_proxy", "ALL_PROXY")
    return next((name for name in names if os.environ.get(name)), None)


def _check_proxy(url: str) -> Finding | None:
    """The finding for the environment's proxy settings. A user and a password in them are not shown."""
    variable = proxy_variable(url)
    if variable is None:
        unused = [name for name in os.environ if name.upper() in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")]
        says = f"{' and '.join(unused)} not used for this address"
        return Finding("proxy", "ok", says) if unused else None
    value, exceptions = os.environ[variable], os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        port = f":{parts.port}" if parts.port else ""
        shown = f"{parts.scheme}://{parts.hostname}{port}" if parts.hostname else ""
    except ValueError:
        shown = ""
    says = f"{shown or 'not an address of the form http://host:port'} ({variable})"
    says += f", except for NO_PROXY={exceptions[:80]}" if exceptions else ""
    return Finding("proxy", "ok" if shown else "warn", printable(says), facts={"variable": variable})
