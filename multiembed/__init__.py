"""Embeddings through Zhipu, SiliconFlow, DashScope or any OpenAI-compatible server: never a wrong vector.

    from multiembed import EmbeddingClient

    result = EmbeddingClient("zhipu:embedding-3", dimensions=512).embed(texts, role="document")
    result.vectors  # numpy float32, shape (len(texts), 512)

For LangChain see the package `langchain_multiembed`, for LlamaIndex `llamaindex_multiembed`.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())

if TYPE_CHECKING:
    from multiembed.cache import open_cache
    from multiembed.cache.admin import CachedVector, CacheFile, NamespaceInfo, PruneResult
    from multiembed.cache.base import CacheEntry, CacheLookup, CacheWarning, VectorCache
    from multiembed.cache.redis_cache import RedisCache
    from multiembed.client import EmbeddingClient
    from multiembed.config.options import EmbeddingOptions, EmbeddingOptionsDict
    from multiembed.errors import (
        APIError,
        AuthenticationError,
        ConfigurationError,
        ConnectionFailedError,
        ContentRejectedError,
        DeadlineExceededError,
        InputTooLongError,
        InvalidRequestError,
        MalformedResponseError,
        ModelNameWarning,
        ModelNotFoundError,
        MultiEmbedError,
        PermissionDeniedError,
        QuotaExhaustedError,
        QuotaWarning,
        RateLimitError,
        RequestTimeoutError,
        ServerError,
    )
    from multiembed.integration.embedder import FrameworkEmbedder, SparseCompanion
    from multiembed.providers import list_models
    from multiembed.testing import no_waits
    from multiembed.types import (
        ClientStats,
        EmbeddingResult,
        Estimate,
        Limits,
        ModelInfo,
        PartialFailureError,
        Role,
        SparseVector,
        Usage,
    )

_MODULES = {
    "cache": "open_cache",
    "cache.redis_cache": "RedisCache",
    "cache.base": "CacheEntry CacheWarning CacheLookup VectorCache",
    "cache.admin": "CacheFile CachedVector PruneResult NamespaceInfo",
    "client": "EmbeddingClient",
    "config.options": "EmbeddingOptions EmbeddingOptionsDict",
    "integration.embedder": "FrameworkEmbedder SparseCompanion",
    "providers": "list_models",
    "testing": "no_waits",
    "types": "ClientStats EmbeddingResult Estimate Limits ModelInfo PartialFailureError Role SparseVector Usage",
}
"""Public names by the module that defines them; those that are not listed are in `errors`."""
__all__ = [
    "APIError", "AuthenticationError", "CacheEntry", "CacheFile", "CacheLookup", "CacheWarning", "CachedVector",
    "ClientStats", "ConfigurationError", "ConnectionFailedError", "ContentRejectedError", "DeadlineExceededError",
    "EmbeddingClient", "EmbeddingOptions", "EmbeddingOptionsDict", "EmbeddingResult", "Estimate", "FrameworkEmbedder",
    "InputTooLongError", "InvalidRequestError", "Limits", "MalformedResponseError", "ModelInfo", "ModelNameWarning",
    "ModelNotFoundError", "MultiEmbedError", "NamespaceInfo", "PartialFailureError", "PermissionDeniedError",
    "PruneResult", "QuotaExhaustedError", "QuotaWarning", "RateLimitError", "RedisCache", "RequestTimeoutError",
    "Role", "ServerError", "SparseCompanion", "SparseVector", "Usage", "VectorCache", "__version__", "list_models",
    "no_waits", "open_cache",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that importing the package costs next to nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'multiembed' has no attribute {name!r}")
    module = next((module for module, names in _MODULES.items() if name in names.split()), "errors")
    return getattr(import_module(f"multiembed.{module}"), name)


def __dir__() -> list[str]:
    return __all__
