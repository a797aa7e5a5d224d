"""Usage of each call as an event of LlamaIndex's instrumentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events import BaseEvent

if TYPE_CHECKING:
    from multiembed import EmbeddingResult

_dispatcher = get_dispatcher(__name__)


class EmbeddingUsageEvent(BaseEvent):
    """Usage of one call. None: the provider did not report it."""

    model: str
    texts: int
    cached_texts: int
    """Texts whose vectors came from the cache, at no cost."""
    total_tokens: int | None
    requests: int
    retries: int
    cost_cny: float | None

    @classmethod
    def class_name(cls) -> str:
        """Name of the event for handlers."""
        return "EmbeddingUsageEvent"


def send_usage_event(result: EmbeddingResult[Any]) -> EmbeddingResult[Any]:
    """Send the event of a result, and return the result."""
    usage = result.usage
    _dispatcher.event(
        EmbeddingUsageEvent(
            model=result.model,
            texts=result.texts,
            cached_texts=usage.cached_texts,
            total_tokens=usage.total_tokens,
            requests=usage.requests,
            retries=usage.retries,
            cost_cny=usage.cost,
        )
    )
    return result
