"""Where an embedder aims: its options checked against the facts of its provider and model, once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import orjson

from multiembed.address import (
    check_auth_header,
    check_headers,
    check_query,
    find_address,
    is_secret_name,
    with_query,
)
from multiembed.errors import ConfigurationError
from multiembed.keys import Key, find_key
from multiembed.providers import split_model
from multiembed.records import EmbedRequest, Limits
from multiembed.texts import sendable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from multiembed.options import EmbeddingOptions
    from multiembed.providers.contract import Provider
    from multiembed.records import Encoding, ModelFacts, Output, Role, TooLong

_OWN_OPTION = {
    "dimension": "the option dimensions",
    "dimensions": "the option dimensions",
    "text_type": "embed_query and embed_documents (the role)",
    "output_type": "the option output",
    "instruct": "the option instruct",
    "model": "the option model",
    "input": "the texts themselves",
}


_SECRET_WORDS = ("auth", "key", "token", "secret", "sig", "cookie", "password", "credential")
"""Words in the names of headers and query parameters whose values no error may show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Everything about the requests of one embedder but the texts."""

    provider: Provider
    facts: ModelFacts
    limits: Limits
    url: str
    """Without the query."""
    query: Mapping[str, str] = field(repr=False)
    url_variable: str | None
    """The environment variable that named the address."""
    headers: Mapping[str, str] = field(repr=False)
    """Without the key."""
    key: Key | None
    auth_header: str | None
    """The header that carries the key as it is; None for `Authorization: Bearer`."""
    dimensions: int | None
    output: Output
    encoding: Encoding | None
    """None where none was asked for and the model has no preferred one."""
    instruct: str | None
    query_prefix: str
    document_prefix: str
    parameters: Mapping[str, Any]
    on_too_long: TooLong

    @property
    def name(self) -> str:
        """As provider:model."""
        return f"{self.provider.id}:{self.facts.name}"

    @property
    def base_url(self) -> str:
        """The address as `base_url` takes it."""
        return self.url.removesuffix(self.provider.path)

    @property
    def expected_dimensions(self) -> int | None:
        """The length that every dense vector must have, where it is known before the first reply."""
        return self.dimensions or self.facts.default_dimensions

    @property
    def request_url(self) -> str:
        """The URL that requests go to, with its query. It may hold a credential: for the wire only."""
        return with_query(self.url, self.query)

    @property
    def shown_url(self) -> str:
        """The URL for messages: without the query's names and values, which may be credentials."""
        return f"{self.url}?…" if self.query else self.url

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may hold: the key, and what the names of query parameters and headers say is one."""
        named = [value for given in (self.query, self.headers) for name, value in given.items() if _may_be_secret(name)]
        return (*([self.key.reveal()] if self.key else ()), *named)

    def authorization(self) -> dict[str, str]:
        """The header that holds the key."""
        if self.key is None:
            return {}
        key = self.key.reveal()
        return {self.auth_header: key} if self.auth_header else {"Authorization": f"Bearer {key}"}

    def as_of_now(self) -> Target:
        """The same with the key of this moment, for one request and for the judgement of its answer.

        A function that gives the key may give another one next time, or fail: then a provider's words that repeat the
        one that was sent could not be cleaned of it.

        Raises:
            ConfigurationError: the function failed, or gave none.
        """
        if self.key is None or self.key.fixed:
            return self
        key = self.key.reveal()
        return replace(self, key=Key(lambda: key))

    def prepare(self, texts: Sequence[str], role: Role) -> Sequence[str]:
        """Texts as they go on the wire: with their role's prefix, and queries in their model's prompt form."""
        prefix = self.query_prefix if role == "query" else self.document_prefix
        form = self.facts.instruct if self.instruct and role == "query" else None
        if form in (None, "parameter"):
            return [prefix + text for text in texts] if prefix else texts
        return [str(form).format(instruct=self.instruct, text=prefix + text) for text in texts]

    def overhead(self, role: Role, count: Callable[[str], int]) -> int:
        """The tokens that prefix and prompt form add to each text."""
        around = self.prepare([""], role)[0]
        return count(around) if around else 0

    def request(self, texts: Sequence[str], role: Role) -> EmbedRequest:
        """The request for texts, as the provider's encoder takes it."""
        by_parameter = self.facts.instruct == "parameter" and role == "query"
        return EmbedRequest(
            model=self.facts,
            texts=self.prepare(texts, role),
            role=role,
            dimensions=self.dimensions,
            output=self.output,
            instruct=self.instruct if by_parameter else None,
            encoding=self.encoding,
            parameters=self.parameters,
        )

    def fingerprint(self, role: Role) -> str:
        """A name for the space its vectors lie in: the same when, and only when, all that changes a vector is.

        Two vectors may stand in for each other only when provider, address with its query, model, dimensions, role,
        instruction, prefix, output, parameters, what is done about long texts, and the text are the same.
        """
        query = role == "query"
        parts = {
            "provider": self.provider.id,
            "url": self.url,
            "model": self.facts.name,
            "dimensions": self.expected_dimensions,
            "role": role,
            "instruct": self.instruct if query else None,
            "prefix": self.query_prefix if query else self.document_prefix,
            "output": self.output,
            "too long": [self.on_too_long, self.limits.max_tokens_per_item if self.on_too_long != "error" else None],
            "parameters": self.parameters,
        }
        query_parts = {name: value for name, value in self.query.items() if not is_secret_name(name)}
        if query_parts:  # only then, so that vectors that were cached before there was a query are still found
            parts["query"] = query_parts
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()


def _may_be_secret(name: str) -> bool:
    return any(word in name.lower() for word in _SECRET_WORDS)


def aim(model: str, options: EmbeddingOptions, environ: Mapping[str, str]) -> Target:
    """Check the options against the facts.

    Raises:
        ConfigurationError: something cannot work; the message says what to do.
    """
    provider, name = split_model(model)
    facts = provider.model(name)
    if provider.compute is not None:
        facts = replace(facts, known=True)
    _check_supported(provider, name)
    _check_dimensions(options.dimensions, provider, facts)
    _check_output(options, provider, facts)
    _check_instruct(options, provider, facts)
    parameters, encoding = _parameters(options.parameters or {}, provider, facts)
    _check_own_server(options, provider)
    address = find_address(options, provider, environ)
    auth_header = check_auth_header(options.auth_header)
    key = find_key(options.api_key, provider, environ, address.url)
    if auth_header and key is None:
        raise ConfigurationError(
            f"auth_header names the header of the key, and there is no key: set {' or '.join(provider.key_env)} or "
            "pass api_key, or leave auth_header out.",
            provider=provider.id,
        )
    return Target(
        provider=provider,
        facts=facts if options.send_dimensions else replace(facts, dimensions_on_wire=False),
        limits=_limits(facts.limits, options.limits or {}),
        url=address.url,
        query={**address.query, **check_query(options.query or {})},
        url_variable=address.variable,
        headers=check_headers(options.headers or {}, auth_header),
        key=key,
        auth_header=auth_header,
        dimensions=options.dimensions,
        output=options.output,
        encoding=encoding,
        instruct=sendable(options.instruct) if options.instruct else None,
        query_prefix=sendable(_query_prefix(options.query_prefix, provider, facts)),
        document_prefix=sendable(options.document_prefix or ""),
        parameters=parameters,
        on_too_long=options.on_too_long,
    )


# ── the server ───────────────────────────────────────────────────────────────────────────────────


def _check_own_server(options: EmbeddingOptions, provider: Provider) -> None:
    """See that only a server that the user names gets a query and a header for the key of the user's choice."""
    for name, given in (("auth_header", options.auth_header), ("query", options.query)):
        if given is not None and not provider.needs_address:
            raise ConfigurationError(
                f"{provider.id} takes no {name}: leave it out. The providers openai-compatible and gateway take it.",
                provider=provider.id,
            )


# ── the model ────────────────────────────────────────────────────────────────────────────────────


def _check_supported(provider: Provider, name: str) -> None:
    for pattern, reason in provider.unsupported:
        if pattern.search(name):
            known = ", ".join(facts.name for facts in provider.models)
            raise ConfigurationError(
                f"{provider.id}:{name} {reason} Text models of {provider.id}: {known}.",
                provider=provider.id,
                model=name,
            )


def _check_dimensions(asked: int | None, provider: Provider, facts: ModelFacts) -> None:
    if asked is None or facts.dimensions is None or asked in facts.dimensions:
        return
    sizes = ", ".join(map(str, facts.dimensions))
    raise ConfigurationError(
        f"{facts.name} has no vectors of {asked} dimensions: choose from {sizes}.",
        provider=provider.id,
        model=facts.name,
    )


def _check_output(options: EmbeddingOptions, provider: Provider, facts: ModelFacts) -> None:
    output = options.output
    if output != "dense" and options.on_too_long == "split":
        raise ConfigurationError(
            "on_too_long='split' takes the mean of the pieces' vectors, which sparse ones do not have: take 'truncate'."
        )
    if output == "dense" or facts.sparse:
        return
    raise ConfigurationError(
        f"{provider.id}:{facts.name} gives dense vectors only: leave output at 'dense', or take "
        "'dashscope:text-embedding-v4' (native API), which gives sparse ones too.",
        provider=provider.id,
        model=facts.name,
    )


def _check_instruct(options: EmbeddingOptions, provider: Provider, facts: ModelFacts) -> None:
    if not options.instruct:
        return
    if facts.instruct is None:
        other = "; query_prefix='recommended' is what its authors advise" if facts.query_prefix else ""
        native = " The native API ('dashscope:…') has one." if provider.id == "dashscope-compatible" else ""
        raise ConfigurationError(
            f"{provider.id}:{facts.name} has no place for instruct: leave it out{other}.{native}",
            provider=provider.id,
            model=facts.name,
        )
    if facts.instruct != "parameter" and options.query_prefix == "recommended":
        raise ConfigurationError(
            f"The recommended query prefix of {facts.name} is itself an instruction: give instruct or "
            "query_prefix='recommended', not both.",
            provider=provider.id,
            model=facts.name,
        )


def _query_prefix(asked: str | None, provider: Provider, facts: ModelFacts) -> str:
    if asked != "recommended":
        return asked or ""
    if facts.query_prefix is None:
        raise ConfigurationError(
            f"No query prefix is recommended for {provider.id}:{facts.name}: leave query_prefix out or write your own.",
            provider=provider.id,
            model=facts.name,
        )
    return facts.query_prefix


def _parameters(
    given: Mapping[str, Any], provider: Provider, facts: ModelFacts
) -> tuple[Mapping[str, Any], Encoding | None]:
    default: Encoding | None = "base64" if facts.base64 else None
    if not given:
        return {}, default
    if provider.parameters_in is None:
        raise ConfigurationError(f"{provider.id} takes no extra parameters.", provider=provider.id)
    rest = dict(given)
    taken = provider.own_fields.intersection(rest)
    if taken == {"encoding_format"} and rest["encoding_format"] == "float":
        return {key: value for key, value in rest.items() if key != "encoding_format"}, "float"
    for name in sorted(taken):
        instead = _OWN_OPTION.get(name)
        raise ConfigurationError(
            f"parameters may not hold {name!r}: {f'use {instead}' if instead else f'{provider.id} gives floats only'}.",
            provider=provider.id,
        )
    encoding = rest.pop("encoding_format", default)
    if "encoding_format" in given and encoding not in ("float", "base64"):
        raise ConfigurationError("encoding_format is 'float' or 'base64'.", provider=provider.id)
    try:
        orjson.dumps(rest)
        json.dumps(rest, allow_nan=False)  # orjson writes NaN as null
    except (TypeError, ValueError):
        raise ConfigurationError("parameters must be plain JSON.", provider=provider.id) from None
    return rest, encoding


def _limits(of_model: Limits, overrides: Mapping[str, int | None]) -> Limits:
    names = [each.name for each in fields(Limits)]
    for name, value in overrides.items():
        if name not in names:
            raise ConfigurationError(f"limits has no field {name!r}: choose from {', '.join(names)}.")
        if (value is None and name == "max_items") or (value is not None and value < 1):
            raise ConfigurationError(f"limits[{name!r}] must be a whole number above 0.")
    return replace(of_model, **overrides)  # type: ignore[arg-type]
