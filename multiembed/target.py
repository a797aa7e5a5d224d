"""Where an embedder aims: its options checked against the facts of its provider and model, once."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from multiembed.address import check_headers, find_url
from multiembed.errors import ConfigurationError
from multiembed.keys import Key, find_key
from multiembed.providers import split_model
from multiembed.records import EmbedRequest, Limits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiembed.options import EmbeddingOptions
    from multiembed.providers.contract import Provider
    from multiembed.records import Encoding, ModelFacts, Output, Role

_OWN_OPTION = {
    "dimension": "the option dimensions",
    "dimensions": "the option dimensions",
    "text_type": "embed_query and embed_documents (the role)",
    "output_type": "the option output",
    "instruct": "the option instruct",
    "model": "the option model",
    "input": "the texts themselves",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Everything about the requests of one embedder but the texts."""

    provider: Provider
    facts: ModelFacts
    limits: Limits
    url: str
    headers: Mapping[str, str]
    """Without the key."""
    key: Key | None
    dimensions: int | None
    output: Output
    encoding: Encoding
    instruct: str | None
    query_prefix: str
    document_prefix: str
    parameters: Mapping[str, Any]

    @property
    def name(self) -> str:
        """As provider:model."""
        return f"{self.provider.id}:{self.facts.name}"

    @property
    def expected_dimensions(self) -> int | None:
        """The length that every dense vector must have, where it is known before the first reply."""
        return self.dimensions or self.facts.default_dimensions

    def authorization(self) -> dict[str, str]:
        """The header that holds the key."""
        return {"Authorization": f"Bearer {self.key.reveal()}"} if self.key else {}

    def prepare(self, text: str, role: Role) -> str:
        """A text as it goes on the wire: with its role's prefix, and a query in its model's prompt form."""
        if role == "document":
            return self.document_prefix + text
        text = self.query_prefix + text
        if self.instruct and self.facts.instruct != "parameter":
            return str(self.facts.instruct).format(instruct=self.instruct, text=text)
        return text

    def request(self, texts: Sequence[str], role: Role) -> EmbedRequest:
        """The request for prepared texts, as the provider's encoder takes it."""
        by_parameter = self.facts.instruct == "parameter" and role == "query"
        return EmbedRequest(
            model=self.facts,
            texts=texts,
            role=role,
            dimensions=self.dimensions,
            output=self.output,
            instruct=self.instruct if by_parameter else None,
            encoding=self.encoding,
            parameters=self.parameters,
        )

    def fingerprint(self, role: Role) -> str:
        """A name for the space its vectors lie in: the same when, and only when, all that changes a vector is.

        Two vectors may stand in for each other only when provider, address, model, dimensions, role, instruction,
        prefix, output, parameters and text are the same.
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
            "parameters": self.parameters,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True, default=repr).encode()).hexdigest()


def aim(model: str, options: EmbeddingOptions, environ: Mapping[str, str]) -> Target:
    """Check the options against the facts.

    Raises:
        ConfigurationError: something cannot work; the message says what to do.
    """
    provider, name = split_model(model)
    facts = provider.model(name)
    if provider.compute is not None:
        facts = replace(facts, known=True)
    _check_dimensions(options.dimensions, provider, facts)
    _check_output(options.output, provider, facts)
    _check_instruct(options, provider, facts)
    parameters, encoding = _parameters(options.parameters or {}, provider, facts)
    return Target(
        provider=provider,
        facts=facts,
        limits=_limits(facts.limits, options.limits or {}),
        url=find_url(options, provider, environ),
        headers=check_headers(options.headers or {}),
        key=find_key(options.api_key, provider, environ),
        dimensions=options.dimensions,
        output=options.output,
        encoding=encoding,
        instruct=options.instruct,
        query_prefix=_query_prefix(options.query_prefix, provider, facts),
        document_prefix=options.document_prefix or "",
        parameters=parameters,
    )


# ── the model ────────────────────────────────────────────────────────────────────────────────────


def _check_dimensions(asked: int | None, provider: Provider, facts: ModelFacts) -> None:
    if asked is None or facts.dimensions is None or asked in facts.dimensions:
        return
    sizes = ", ".join(map(str, facts.dimensions))
    raise ConfigurationError(
        f"{facts.name} has no vectors of {asked} dimensions: choose from {sizes}.",
        provider=provider.id,
        model=facts.name,
    )


def _check_output(output: Output, provider: Provider, facts: ModelFacts) -> None:
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


def _parameters(given: Mapping[str, Any], provider: Provider, facts: ModelFacts) -> tuple[Mapping[str, Any], Encoding]:
    default: Encoding = "base64" if facts.base64 else "float"
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
    if encoding not in ("float", "base64"):
        raise ConfigurationError("encoding_format is 'float' or 'base64'.", provider=provider.id)
    try:
        json.dumps(rest)
    except (TypeError, ValueError):
        raise ConfigurationError("parameters must be plain JSON.", provider=provider.id) from None
    return rest, encoding


def _limits(of_model: Limits, overrides: Mapping[str, int | None]) -> Limits:
    names = [field.name for field in fields(Limits)]
    for name, value in overrides.items():
        if name not in names:
            raise ConfigurationError(f"limits has no field {name!r}: choose from {', '.join(names)}.")
        if (value is None and name == "max_items") or (value is not None and value < 1):
            raise ConfigurationError(f"limits[{name!r}] must be a whole number above 0.")
    return replace(of_model, **overrides)  # type: ignore[arg-type]
