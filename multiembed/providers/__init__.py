"""The registry of providers: a name to its facts."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from multiembed.errors import ConfigurationError
from multiembed.providers.dashscope import DASHSCOPE, DASHSCOPE_COMPATIBLE
from multiembed.providers.gateway import GATEWAY
from multiembed.providers.local import LOCAL
from multiembed.providers.siliconflow import SILICONFLOW
from multiembed.providers.zhipu import ZHIPU

if TYPE_CHECKING:
    from multiembed.providers.contract import Provider
    from multiembed.records import ModelFacts

PROVIDERS: dict[str, Provider] = {
    provider.id: provider for provider in (ZHIPU, SILICONFLOW, DASHSCOPE, DASHSCOPE_COMPATIBLE, GATEWAY, LOCAL)
}


def find_provider(name: str) -> Provider:
    """The provider of that id.

    Raises:
        ConfigurationError: there is none; the message lists the known ones and the nearest name.
    """
    if name in PROVIDERS:
        return PROVIDERS[name]
    near = difflib.get_close_matches(name.lower(), PROVIDERS, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigurationError(
        f"There is no provider {name!r}.{hint} Known providers: {', '.join(sorted(PROVIDERS))}. "
        "Any other service that speaks the OpenAI form of embeddings can be tried as 'gateway'."
    )


def catalog() -> list[tuple[Provider, ModelFacts]]:
    """Every model that is known, with its provider."""
    return [(provider, facts) for provider in PROVIDERS.values() for facts in provider.models]


def split_model(model: str) -> tuple[Provider, str]:
    """`provider:model` to the provider and the model's name, which may itself hold colons.

    Raises:
        ConfigurationError: no provider is named, or an unknown one, or no model.
    """
    if not isinstance(model, str):
        raise ConfigurationError(
            f"model must be text such as 'dashscope:text-embedding-v4', not {type(model).__name__}."
        )
    head, colon, name = model.strip().partition(":")
    if not colon:
        return _without_provider(head)
    provider = find_provider(head.strip())
    name = name.strip()
    if not name:
        known = ", ".join(facts.name for facts in provider.models) or "any that it serves"
        raise ConfigurationError(f"{model!r} names no model. Models of {provider.id}: {known}.")
    if not name.isprintable():  # a lone surrogate cannot be sent, a control character is a mistake
        raise ConfigurationError(f"The model's name {name!a:.80} holds characters that cannot be part of one.")
    return provider, name


def _without_provider(name: str) -> tuple[Provider, str]:
    if name == LOCAL.id:
        return LOCAL, LOCAL.models[0].name
    owners = [p.id for p in PROVIDERS.values() if any(facts.name == name for facts in p.models)]
    if owners:
        choices = " or ".join(f"'{owner}:{name}'" for owner in owners)
        raise ConfigurationError(f"{name!r} names no provider. Write {choices}.")
    if name in PROVIDERS:
        known = ", ".join(f"'{name}:{facts.name}'" for facts in PROVIDERS[name].models)
        raise ConfigurationError(f"{name!r} names no model. Write {known or f'{name}:model'}.")
    raise ConfigurationError(
        f"{name!r} names no provider: write 'provider:model', for instance 'dashscope:text-embedding-v4'. "
        f"Known providers: {', '.join(sorted(PROVIDERS))}."
    )
