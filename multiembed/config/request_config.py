"""Where an embedder aims: its options checked against the facts of its provider and model, once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import orjson

from multiembed.batching.inputs import replace_surrogates
from multiembed.config.credentials import ApiKey, is_secret_name, resolve_key
from multiembed.config.endpoint import check_auth_header, check_headers, check_query, resolve_endpoint
from multiembed.errors import ConfigurationError
from multiembed.providers import split_model
from multiembed.providers.types import EncodeInput
from multiembed.types import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from multiembed.config.options import EmbeddingOptions
    from multiembed.providers.base import Provider
    from multiembed.types import Encoding, ModelInfo, Output, Role, TooLong

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
class RequestConfig:
    """Everything about the requests of one embedder but the texts."""

    provider: Provider
    model: ModelInfo
    limits: Limits
    url: str
    """Without the query."""
    query: Mapping[str, str] = field(repr=False)
    url_variable: str | None
    """The environment variable that named the address."""
    headers: Mapping[str, str] = field(repr=False)
    """Without the key."""
    key: ApiKey | None
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
        return f"{self.provider.id}:{self.model.name}"

    @property
    def base_url(self) -> str:
        """The address as `base_url` takes it."""
        return self.url.removesuffix(self.provider.path)

    @property
    def expected_dimensions(self) -> int | None:
        """The length that every dense vector must have, where it is known before the first reply."""
        return self.dimensions or self.model.default_dimensions

    @property
    def request_url(self) -> str:
        """The URL that requests go to, with its query. It may hold a credential: for the wire only."""
        return f"{self.url}?{urlencode(self.query, quote_via=quote, safe='')}" if self.query else self.url

    @property
    def shown_url(self) -> str:
        """The URL for messages: without the query's names and values, which may be credentials."""
        return f"{self.url}?…" if self.query else self.url

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may hold: the key, and what the names of query parameters and headers say is one."""
        given = (*self.query.items(), *self.headers.items())
        named = [value for name, value in given if any(word in name.lower() for word in _SECRET_WORDS)]
        return (*([self.key.get()] if self.key else ()), *named)

    def authorization(self) -> dict[str, str]:
        """The header that holds the key."""
        if self.key is None:
            return {}
        key = self.key.get()
        return {self.auth_header: key} if self.auth_header else {"Authorization": f"Bearer {key}"}

    @property
    def has_key_function(self) -> bool:
        """Whether a function of the user gives the key."""
        return self.key is not None and not self.key.fixed

    def with_current_key(self) -> RequestConfig:
        """The same with the key of this moment, for one request and for the judgement of its answer.

        A function that gives the key may give another one next time, or fail: then a provider's words that repeat the
        one that was sent could not be cleaned of it.

        Raises:
            ConfigurationError: the function failed, or gave none.
        """
        if self.key is None or self.key.fixed:
            return self
        key = self.key.get()
        return replace(self, key=ApiKey(lambda: key))

    def format_texts(self, texts: Sequence[str], role: Role) -> Sequence[str]:
        """Texts as they go on the wire: with their role's prefix, and queries in their model's prompt form."""
        prefix = self.query_prefix if role == "query" else self.document_prefix
        form = self.model.instruct if self.instruct and role == "query" else None
        if form in (None, "parameter"):
            return [prefix + text for text in texts] if prefix else texts
        return [str(form).format(instruct=self.instruct, text=prefix + text) for text in texts]

    def prompt_tokens(self, role: Role, count: Callable[[str], int]) -> int:
        """The tokens that prefix and prompt form add to each text."""
        around = self.format_texts([""], role)[0]
        return count(around) if around else 0

    def request(self, texts: Sequence[str], role: Role) -> EncodeInput:
        """The request for texts, as the provider's encoder takes it."""
        by_parameter = self.model.instruct == "parameter" and role == "query"
        return EncodeInput(
            model=self.model,
            texts=self.format_texts(texts, role),
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
            "model": self.model.name,
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


def resolve_config(model: str, options: EmbeddingOptions, environ: Mapping[str, str]) -> RequestConfig:
    """Check the options against the facts.

    Raises:
        ConfigurationError: something cannot work; the message says what to do.
    """
    provider, name = split_model(model)
    facts = provider.model(name)
    if provider.compute is not None:
        facts = replace(facts, known=True)
    _check_supported(provider, facts)
    _check_dimensions(options.dimensions, provider, facts)
    _check_output(options, provider, facts)
    _check_instruct(options, provider, facts)
    parameters, encoding = _parameters(options.parameters or {}, provider, facts)
    _check_own_server(options, provider)
    address = resolve_endpoint(options, provider, environ)
    auth_header = check_auth_header(options.auth_header)
    key = resolve_key(options.api_key, provider, environ, address.url)
    if auth_header and key is None:
        raise ConfigurationError(
            f"auth_header names the header of the key, and there is no key: set {' or '.join(provider.key_env)} or "
            "pass api_key, or leave auth_header out.",
            provider=provider.id,
        )
    return RequestConfig(
        provider=provider,
        model=facts if options.send_dimensions else replace(facts, dimensions_on_wire=False),
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
        instruct=replace_surrogates(options.instruct) if options.instruct else None,
        query_prefix=replace_surrogates(_query_prefix(options.query_prefix, provider, facts)),
        document_prefix=replace_surrogates(options.document_prefix or ""),
        parameters=parameters,
        on_too_long=options.on_too_long,
    )


def _check_own_server(options: EmbeddingOptions, provider: Provider) -> None:
    """See that only a server that the user names gets a query and a header for the key of the user's choice."""
    for name, given in (("auth_header", options.auth_header), ("query", options.query)):
        if given is not None and not provider.needs_address:
            raise ConfigurationError(
                f"{provider.id} takes no {name}: leave it out. The providers openai-compatible and gateway take it.",
                provider=provider.id,
            )


def _impossible(message: str, provider: Provider, facts: ModelInfo) -> ConfigurationError:
    """The error for what a model cannot do."""
    return ConfigurationError(message, provider=provider.id, model=facts.name)


def _check_supported(provider: Provider, facts: ModelInfo) -> None:
    for pattern, reason in provider.unsupported:
        if pattern.search(facts.name):
            known = ", ".join(each.name for each in provider.models)
            message = f"{provider.id}:{facts.name} {reason} Text models of {provider.id}: {known}."
            raise _impossible(message, provider, facts)


def _check_dimensions(asked: int | None, provider: Provider, facts: ModelInfo) -> None:
    if asked is None or facts.dimensions is None or asked in facts.dimensions:
        return
    sizes = ", ".join(map(str, facts.dimensions))
    raise _impossible(f"{facts.name} has no vectors of {asked} dimensions: choose from {sizes}.", provider, facts)


def _check_output(options: EmbeddingOptions, provider: Provider, facts: ModelInfo) -> None:
    if options.output == "dense":
        return
    if options.on_too_long == "split":
        raise ConfigurationError(
            "on_too_long='split' takes the mean of the pieces' vectors, which sparse ones do not have: take 'truncate'."
        )
    if not facts.sparse:
        raise _impossible(
            f"{provider.id}:{facts.name} gives dense vectors only: leave output at 'dense', or take "
            "'dashscope:text-embedding-v4' (native API), which gives sparse ones too.",
            provider,
            facts,
        )


def _check_instruct(options: EmbeddingOptions, provider: Provider, facts: ModelInfo) -> None:
    if not options.instruct:
        return
    if facts.instruct is None:
        other = "; query_prefix='recommended' is what its authors advise" if facts.query_prefix else ""
        native = " The native API ('dashscope:…') has one." if provider.id == "dashscope-compatible" else ""
        message = f"{provider.id}:{facts.name} has no place for instruct: leave it out{other}.{native}"
        raise _impossible(message, provider, facts)
    if facts.instruct != "parameter" and options.query_prefix == "recommended":
        raise _impossible(
            f"The recommended query prefix of {facts.name} is itself an instruction: give instruct or "
            "query_prefix='recommended', not both.",
            provider,
            facts,
        )


def _query_prefix(asked: str | None, provider: Provider, facts: ModelInfo) -> str:
    if asked != "recommended":
        return asked or ""
    if facts.query_prefix is None:
        message = (
            f"No query prefix is recommended for {provider.id}:{facts.name}: leave query_prefix out or write your own."
        )
        raise _impossible(message, provider, facts)
    return facts.query_prefix


def _parameters(
    given: Mapping[str, Any], provider: Provider, facts: ModelInfo
) -> tuple[Mapping[str, Any], Encoding | None]:
    if given and provider.compute is not None:
        raise ConfigurationError(f"{provider.id} takes no extra parameters.", provider=provider.id)
    rest = dict(given)
    taken = provider.own_fields.intersection(rest)
    if rest.get("encoding_format") == "float":  # providers that give floats only accept it, too
        taken -= {"encoding_format"}
    for name in sorted(taken):
        instead = _OWN_OPTION.get(name)
        raise ConfigurationError(
            f"parameters may not hold {name!r}: {f'use {instead}' if instead else f'{provider.id} gives floats only'}.",
            provider=provider.id,
        )
    encoding = rest.pop("encoding_format", "base64" if facts.base64 else None)
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
