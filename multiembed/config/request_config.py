"""Request configuration: the options validated against the facts of the provider and model, and the fingerprint."""

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
from multiembed.providers import sparse_models, split_model
from multiembed.providers.types import EncodeInput
from multiembed.ratelimit.shared.quota import check_quota
from multiembed.types import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from multiembed.config.options import EmbeddingOptions
    from multiembed.providers.base import Provider
    from multiembed.types import Encoding, ModelInfo, Output, Role, TooLong

_OPTION_OF_FIELD = {
    "dimension": "the option dimensions",
    "dimensions": "the option dimensions",
    "text_type": "embed_query and embed_documents (the role)",
    "output_type": "the option output",
    "instruct": "the option instruct",
    "model": "the option model",
    "input": "the texts themselves",
}
_QUOTA_VARIABLE = "MULTIEMBED_QUOTA"
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
    """None where the user configured none and the model has no preferred one."""
    instruct: str | None
    query_prefix: str
    document_prefix: str
    parameters: Mapping[str, Any]
    on_too_long: TooLong
    quota: str | None = field(default=None, repr=False)
    """Which processes share the account's quota; a URL, which may hold a password. None: only this one."""

    @property
    def name(self) -> str:
        """Name of the model, as provider:model."""
        return f"{self.provider.id}:{self.model.name}"

    @property
    def base_url(self) -> str:
        """Address in the form of the option `base_url`."""
        return self.url.removesuffix(self.provider.path)

    @property
    def expected_dimensions(self) -> int | None:
        """Length of every dense vector; None where it is unknown before the first response."""
        return self.dimensions or self.model.default_dimensions

    @property
    def request_url(self) -> str:
        """URL with its query, which may hold a credential: only for the transport."""
        return f"{self.url}?{urlencode(self.query, quote_via=quote, safe='')}" if self.query else self.url

    @property
    def shown_url(self) -> str:
        """URL for messages, without the query."""
        return f"{self.url}?…" if self.query else self.url

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that no message may hold: the key, and the query parameters and headers with the name of a secret."""
        pairs = (*self.query.items(), *self.headers.items())
        named = [value for name, value in pairs if any(word in name.lower() for word in _SECRET_WORDS)]
        return (*([self.key.get()] if self.key else ()), *named)

    def cost_of(self, tokens: int) -> float | None:
        """CNY for so many tokens, by the listed price; None if it is unknown."""
        price = self.model.price_cny_per_mtok
        return None if price is None else tokens * price / 1e6

    def authorization(self) -> dict[str, str]:
        """Header that holds the key."""
        if self.key is None:
            return {}
        key = self.key.get()
        return {self.auth_header: key} if self.auth_header else {"Authorization": f"Bearer {key}"}

    @property
    def has_key_function(self) -> bool:
        """Whether a function of the user returns the key."""
        return self.key is not None and not self.key.fixed

    def with_current_key(self) -> RequestConfig:
        """Get the key once, for one request and its response, so that redaction removes the key that was sent."""
        if self.key is None or self.key.fixed:
            return self
        key = self.key.get()
        return replace(self, key=ApiKey(lambda: key))

    def format_texts(self, texts: Sequence[str], role: Role) -> Sequence[str]:
        """Add the prefix of the role to texts, and the instruction to queries where the model takes it in the text."""
        prefix = self.query_prefix if role == "query" else self.document_prefix
        template = self.model.instruct if self.instruct and role == "query" else None
        if template in (None, "parameter"):
            return [prefix + text for text in texts] if prefix else texts
        return [str(template).format(instruct=self.instruct, text=prefix + text) for text in texts]

    def prompt_tokens(self, role: Role, count: Callable[[str], int]) -> int:
        """Tokens that prefix and instruction add to each text."""
        prompt = self.format_texts([""], role)[0]
        return count(prompt) if prompt else 0

    def request(self, texts: Sequence[str], role: Role) -> EncodeInput:
        """Input of the provider's encoder for texts."""
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
        """Hash of everything that changes a vector but the text: vectors may be mixed where it is equal."""
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
        if self.model.revision:
            parts["revision"] = self.model.revision
        query_parts = {name: value for name, value in self.query.items() if not is_secret_name(name)}
        if query_parts:  # only then, so that vectors that were cached before there was a query are still found
            parts["query"] = query_parts
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()


def resolve_config(model: str, options: EmbeddingOptions, environ: Mapping[str, str]) -> RequestConfig:
    """Validate the options against the facts of the provider and model.

    Raises:
        ConfigurationError: the options cannot work; the message says what to do.
    """
    provider, name = split_model(model)
    if provider.compute is not None:
        provider.compute(name)  # raises where the model cannot be computed here
    info = provider.model(name)
    for problem in (*_model_problems(options, provider, info), *_option_problems(options, provider, info)):
        raise ConfigurationError(problem, provider=provider.id, model=info.name)
    parameters, encoding = _parameters(options.parameters or {}, provider, info)
    url, query, url_variable = resolve_endpoint(options, provider, environ)
    auth_header = check_auth_header(options.auth_header)
    key = resolve_key(options.api_key, provider, environ, url)
    if auth_header and key is None:
        raise ConfigurationError(
            f"auth_header names the header of the key, but the key is missing: set {' or '.join(provider.key_env)} or "
            "pass api_key, or leave auth_header out.",
            provider=provider.id,
        )
    query_prefix = info.query_prefix if options.query_prefix == "recommended" else options.query_prefix
    return RequestConfig(
        provider=provider,
        model=replace(info, dimensions_on_wire=info.dimensions_on_wire and options.send_dimensions),
        limits=_limits(info.limits, options.limits or {}),
        url=url,
        query={**query, **check_query(options.query or {})},
        url_variable=url_variable,
        headers=check_headers(options.headers or {}, auth_header),
        key=key,
        auth_header=auth_header,
        dimensions=options.dimensions,
        output=options.output,
        encoding=encoding,
        instruct=replace_surrogates(options.instruct) if options.instruct else None,
        query_prefix=replace_surrogates(query_prefix or ""),
        document_prefix=replace_surrogates(options.document_prefix or ""),
        parameters=parameters,
        on_too_long=options.on_too_long,
        quota=None if provider.compute else _resolve_quota(options.quota, environ),
    )


def _resolve_quota(given: str | None, environ: Mapping[str, str]) -> str | None:
    """The option `quota`, or the environment's."""
    quota = (given or environ.get(_QUOTA_VARIABLE, "")).strip()
    if not quota:
        return None
    check_quota(quota, "quota" if given else _QUOTA_VARIABLE)
    return quota


def _model_problems(options: EmbeddingOptions, provider: Provider, info: ModelInfo) -> Iterator[str]:
    """What the model cannot do."""
    name = f"{provider.id}:{info.name}"
    for pattern, reason in provider.unsupported:
        if pattern.search(info.name):
            known = ", ".join(each.name for each in provider.models)
            yield f"{name} {reason} Text models of {provider.id}: {known}."
    if options.dimensions and info.dimensions is not None and options.dimensions not in info.dimensions:
        sizes = ", ".join(map(str, info.dimensions))
        yield f"{info.name} has no vectors of {options.dimensions} dimensions: choose from {sizes}."
    if options.output != "dense" and not info.sparse:
        yield (
            f"{name} gives dense vectors only: leave output at 'dense', or take a model that gives sparse ones too, by "
            f"DashScope's native API: {sparse_models()}."
        )
    if options.output != "dense" and options.on_too_long == "split":
        yield "on_too_long='split' takes the mean of the pieces' vectors, but sparse ones have none: take 'truncate'."
    if options.query_prefix == "recommended" and info.query_prefix is None:
        yield f"No query prefix is recommended for {name}: leave query_prefix out or write your own."


def _option_problems(options: EmbeddingOptions, provider: Provider, info: ModelInfo) -> Iterator[str]:
    """What the API of the provider and model has no parameter for."""
    name = f"{provider.id}:{info.name}"
    if options.instruct and info.instruct is None:
        prefix = "; query_prefix='recommended' is what its authors advise" if info.query_prefix else ""
        native = " The native API ('dashscope:…') has one." if provider.id == "dashscope-compatible" else ""
        yield f"{name} has no place for instruct: leave it out{prefix}.{native}"
    elif options.instruct and info.instruct != "parameter" and options.query_prefix == "recommended":
        yield (
            f"The recommended query prefix of {info.name} is itself an instruction: give instruct or "
            "query_prefix='recommended', not both."
        )
    if options.parameters and provider.compute is not None:
        yield f"{provider.id} takes no extra parameters."
    for option, value in (("auth_header", options.auth_header), ("query", options.query)):
        if value is not None and not provider.needs_address:
            yield f"{provider.id} takes no {option}: leave it out. The providers openai-compatible and gateway take it."


def _parameters(
    given: Mapping[str, Any], provider: Provider, info: ModelInfo
) -> tuple[Mapping[str, Any], Encoding | None]:
    """Extra parameters of the request body, and the encoding of the vectors that they ask for."""
    parameters = dict(given)
    reserved = provider.own_fields.intersection(parameters)
    if parameters.get("encoding_format") == "float":  # providers that send only floats accept it, too
        reserved -= {"encoding_format"}
    for name in sorted(reserved):
        option = _OPTION_OF_FIELD.get(name)
        raise ConfigurationError(
            f"parameters may not hold {name!r}: {f'use {option}' if option else f'{provider.id} gives floats only'}.",
            provider=provider.id,
        )
    encoding = parameters.pop("encoding_format", "base64" if info.base64 else None)
    if "encoding_format" in given and encoding not in ("float", "base64"):
        raise ConfigurationError("encoding_format is 'float' or 'base64'.", provider=provider.id)
    try:
        orjson.dumps(parameters)
        json.dumps(parameters, allow_nan=False)  # orjson writes NaN as null
    except (TypeError, ValueError):
        raise ConfigurationError("parameters must be plain JSON.", provider=provider.id) from None
    return parameters, encoding


def _limits(limits: Limits, overrides: Mapping[str, int | None]) -> Limits:
    names = [each.name for each in fields(Limits)]
    for name, value in overrides.items():
        if name not in names:
            raise ConfigurationError(f"limits has no field {name!r}: choose from {', '.join(names)}.")
        if (value is None and name == "max_items") or (value is not None and value < 1):
            raise ConfigurationError(f"limits[{name!r}] must be an integer above 0.")
    return replace(limits, **overrides)  # type: ignore[arg-type]
