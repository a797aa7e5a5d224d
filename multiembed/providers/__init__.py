"""Registry of providers and lookup of `provider:model` names."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

from multiembed.errors import ConfigurationError
from multiembed.providers.dashscope import DASHSCOPE, DASHSCOPE_COMPATIBLE
from multiembed.providers.gateway import GATEWAY
from multiembed.providers.local import LOCAL
from multiembed.providers.openai_compatible import OPENAI_COMPATIBLE
from multiembed.providers.siliconflow import SILICONFLOW
from multiembed.providers.zhipu import ZHIPU

if TYPE_CHECKING:
    from multiembed.providers.base import Provider
    from multiembed.types import ModelInfo

PROVIDERS: dict[str, Provider] = {
    provider.id: provider
    for provider in (ZHIPU, SILICONFLOW, DASHSCOPE, DASHSCOPE_COMPATIBLE, OPENAI_COMPATIBLE, GATEWAY, LOCAL)
}

# Servers that openai-compatible reaches, by name without case, blanks, hyphens and underscores, with their documented
# base URL (sources in README.md).
_SERVERS: dict[str, str] = {
    "openai": "https://api.openai.com/v1",
    **dict.fromkeys(("azure", "azureopenai"), "https://RESOURCE.openai.azure.com/openai/v1', auth_header='api-key"),
    "openrouter": "https://openrouter.ai/api/v1",
    **dict.fromkeys(("volcengine", "ark", "doubao", "volcano"), "https://ark.cn-beijing.volces.com/api/v3"),
    **dict.fromkeys(("vllm", "hostedvllm", "sglang"), "http://localhost:8000/v1"),
    **dict.fromkeys(("tei", "textembeddingsinference", "huggingface"), "http://localhost:8080/v1"),
    "ollama": "http://localhost:11434/v1",
    "lmstudio": "http://localhost:1234/v1",
    **dict.fromkeys(("litellm", "litellmproxy"), "http://localhost:4000/v1"),
    **dict.fromkeys(("oneapi", "newapi"), "http://localhost:3000/v1"),
    "xinference": "http://localhost:9997/v1",
    **dict.fromkeys(("infinity", "infinityemb"), "http://localhost:7997"),
    **dict.fromkeys(("llamacpp", "llamaserver"), "http://localhost:8080/v1"),
}
_ALIASES: dict[str, str] = {
    **dict.fromkeys(("bigmodel", "glm", "zai", "z.ai"), "zhipu"),
    **dict.fromkeys(("qwen", "tongyi", "aliyun", "alibaba", "bailian", "modelstudio"), "dashscope"),
}


def find_provider(name: str, model: str = "MODEL") -> Provider:
    """Look up a provider.

    Args:
        name: the provider's id.
        model: the model's name, for the error.

    Raises:
        ConfigurationError: the id is unknown; the text says what to write for a known server or vendor, or names the
            nearest id.
    """
    if name in PROVIDERS:
        return PROVIDERS[name]
    key = name.lower().replace("-", "").replace("_", "").replace(" ", "")
    near = difflib.get_close_matches(name.lower(), PROVIDERS, n=1, cutoff=0.5)
    if key in _SERVERS:
        hint = f" Write {f'{OPENAI_COMPATIBLE.id}:{model}'!r} with base_url='{_SERVERS[key]}'."
    elif key in _ALIASES:
        hint = f" Write {f'{_ALIASES[key]}:{model}'!r}."
    else:
        hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ConfigurationError(
        f"There is no provider {name!r}.{hint} Known providers: {', '.join(sorted(PROVIDERS))}. Any other server with "
        f"OpenAI's embeddings API is {f'{OPENAI_COMPATIBLE.id}:{model}'!r}, with its address in base_url."
    )


def list_models() -> list[tuple[Provider, ModelInfo]]:
    """List every known model with its provider."""
    return [(provider, model) for provider in PROVIDERS.values() for model in provider.models]


def sparse_models() -> str:
    """Names of the models that have sparse vectors, as provider:model, for errors."""
    return ", ".join(f"'{provider.id}:{model.name}'" for provider, model in list_models() if model.sparse)


def split_model(model: str) -> tuple[Provider, str]:
    """Split `provider:model` into the provider and the model's name, which may itself hold colons.

    Raises:
        ConfigurationError: the provider is missing or unknown, or the model is missing.
    """
    if not isinstance(model, str):
        raise ConfigurationError(
            f"model must be text such as 'dashscope:text-embedding-v4', not {type(model).__name__}."
        )
    head, colon, name = (part.strip() for part in model.partition(":"))
    if head == LOCAL.id and not colon:
        return LOCAL, LOCAL.models[0].name
    if not colon:
        raise ConfigurationError(_without_provider(head))
    provider = find_provider(head, name or "MODEL")
    if not name:
        known = ", ".join(each.name for each in provider.models) or "any that it serves"
        raise ConfigurationError(f"{model!r} names no model. Models of {provider.id}: {known}.")
    if not name.isprintable():  # a lone surrogate cannot be sent, and a control character is a mistake
        raise ConfigurationError(f"The model's name {name!a:.80} holds characters that cannot be part of one.")
    return provider, name


def _without_provider(name: str) -> str:
    owners = [f"'{provider.id}:{name}'" for provider, model in list_models() if model.name == name]
    if owners:
        return f"{name!r} names no provider. Write {' or '.join(owners)}."
    if name in PROVIDERS:
        known = ", ".join(f"'{name}:{model.name}'" for model in PROVIDERS[name].models)
        return f"{name!r} names no model. Write {known or f'{name}:model'}."
    return (
        f"{name!r} names no provider: write 'provider:model', for instance 'dashscope:text-embedding-v4'. "
        f"Known providers: {', '.join(sorted(PROVIDERS))}. The models of any other server with OpenAI's embeddings API "
        f"are {f'{OPENAI_COMPATIBLE.id}:model'!r}, with its address in base_url."
    )
