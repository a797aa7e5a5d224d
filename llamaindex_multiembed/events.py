"""Each call's usage as an event of LlamaIndex's instrumentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events import BaseEvent

if TYPE_CHECKING:
    from multiembed import EmbeddingResult

_dispatcher = get_dispatcher(__name__)


class EmbeddingUsageEvent(BaseEvent):
    """What one call to the provider cost. None where the provider did not tell."""

    model: str
    texts: int
    cached_texts: int
    """Those that cost nothing because they were known already."""
    total_tokens: int | None
    requests: int
    retries: int
    cost_cny: float | None

    @classmethod
    def class_name(cls) -> str:
        """The name under which handlers see it."""
        return "EmbeddingUsageEvent"


def tell(result: EmbeddingResult[Any]) -> EmbeddingResult[Any]:
    """Send the event; the result is handed on."""
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
