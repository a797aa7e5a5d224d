"""Tables of providers and models, derived from the registry and the fixtures: a new provider is in them by itself."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multiembed.providers import PROVIDERS
from multiembed.providers.types import EncodeInput

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from multiembed.types import ModelInfo

ANY_MODEL = "any-model"
"""The model of a provider that has no list of models."""
ANY_DIMENSIONS = 1536
"""Length of the simulator's vectors where the model has no documented one."""
HOST = "https://host.example"

REMOTE = tuple(sorted(name for name, provider in PROVIDERS.items() if provider.compute is None))
"""Every provider that sends requests."""
SELF_HOSTED = tuple(name for name in REMOTE if PROVIDERS[name].needs_address)
"""Providers whose address the user must give."""
VENDORS = tuple(name for name in REMOTE if not PROVIDERS[name].needs_address)
"""Providers with an address of their own."""
KEYLESS = tuple(name for name in REMOTE if not PROVIDERS[name].key_required)
"""Providers that may be called without a key."""

KEY_NAMES = sorted({name for provider in PROVIDERS.values() for name in provider.key_env})
ENVIRONMENT_NAMES = sorted({*KEY_NAMES, *(name for each in PROVIDERS.values() for name in each.base_url_env)})
"""Every environment variable that holds a key or an address."""


def _flexible(models: Sequence[ModelInfo]) -> list[ModelInfo]:
    """The model with a `dimensions` parameter that has the shortest default vectors."""
    return sorted((m for m in models if m.dimensions_on_wire), key=lambda m: m.default_dimensions or ANY_DIMENSIONS)[:1]


def _fixed(models: Sequence[ModelInfo]) -> list[ModelInfo]:
    """The model without a `dimensions` parameter that takes the longest texts."""
    fixed = [m for m in models if not m.dimensions_on_wire]
    return sorted(fixed, key=lambda m: m.limits.max_tokens_per_item or 0, reverse=True)[:1]


def _name(provider: str) -> str:
    models = PROVIDERS[provider].models
    return next((model.name for model in (*_flexible(models), *models)), ANY_MODEL)


MODEL_NAMES = {provider: _name(provider) for provider in PROVIDERS}
"""By provider, the model that the tests use."""
MODELS = {provider: f"{provider}:{name}" for provider, name in MODEL_NAMES.items()}
REMOTE_MODELS = {provider: MODELS[provider] for provider in REMOTE}
DIMENSIONS = {
    f"{provider}:{model.name}": model.default_dimensions or ANY_DIMENSIONS
    for provider, each in PROVIDERS.items()
    for model in (
        *(_flexible(each.models) or [each.model(MODEL_NAMES[provider])]),
        *_fixed(each.models),
    )
}
"""Length of the vectors of each model that the tests use: at most one with a `dimensions` parameter, one without."""


def provider_of(model: str) -> str:
    return model.partition(":")[0]


def address_options(provider: str) -> dict[str, str]:
    """The address option, where the provider needs one."""
    return {"base_url": HOST} if PROVIDERS[provider].needs_address else {}


def request_of(provider: str, texts: Sequence[str], model: str | None = None, **fields: Any) -> dict[str, Any]:
    """The body of a request as the provider's encoder writes it; `fields` are those of EncodeInput."""
    defaults = {"role": "document", "dimensions": None, "output": "dense", "instruct": None, "encoding": None}
    info = PROVIDERS[provider].model(model or MODEL_NAMES[provider])
    return PROVIDERS[provider].encode(
        EncodeInput(model=info, texts=texts, **{**defaults, "parameters": {}, **fields})  # type: ignore[arg-type]
    )


def texts_in(body: object) -> list[str]:
    """The texts of a request in any format: its first list of strings, or its `input`."""
    if isinstance(body, dict) and isinstance(body.get("input"), str):
        return [body["input"]]
    return next(_string_lists(body), [])


def _string_lists(value: object) -> Iterator[list[str]]:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _string_lists(each)


FIXTURES = {
    f"{path.parent.name}/{path.stem}": json.loads(path.read_text(encoding="utf-8"))
    for path in sorted((Path(__file__).parents[1] / "fixtures").glob("*/*.json"))
}
"""Documented responses, by `provider/name`; test_providers.py explains their fields."""


def response_of(provider: str, vectors: Sequence[object], model: str | None = None) -> dict[str, Any]:
    """A successful response: the provider's first fixture, with this model and these vectors, each of one token."""
    body: dict[str, Any] = copy.deepcopy(
        next(
            fixture["body"]
            for name, fixture in FIXTURES.items()
            if name.startswith(f"{provider}/") and "dense" in fixture.get("items", [{}])[0]
        )
    )
    elements = elements_of(body)
    first = elements[0]
    index = next(name for name in first if name.endswith("index"))
    elements[:] = [{**first, index: number, "embedding": vector} for number, vector in enumerate(vectors)]
    for holder in (body, body.get("data")):
        if isinstance(holder, dict) and "usage" in holder:
            holder["usage"] = dict.fromkeys(holder["usage"], len(vectors))
        if isinstance(holder, dict) and "model" in holder:
            holder["model"] = model or MODEL_NAMES[provider]
    return body


def elements_of(body: object) -> list[dict[str, Any]]:
    """The elements of a response in any format: its first list of objects with an `embedding`."""
    return next(_element_lists(body))


def _element_lists(value: object) -> Iterator[list[dict[str, Any]]]:
    if isinstance(value, list) and value and isinstance(value[0], dict) and "embedding" in value[0]:
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _element_lists(each)
