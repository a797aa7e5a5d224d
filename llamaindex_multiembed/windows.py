"""Windows over one call: what LlamaIndex tells of each window of a batch, where all of them are embedded together.

The base class embeds one window after another, so that the last requests of each leave the others idle, and its event
checks and copies every number of every vector. What is told here is told in the base class's order and in its words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from llama_index.core.base.embeddings.base import BaseEmbedding

_dispatcher = get_dispatcher("llama_index.core.base.embeddings.base")  # whoever listens to the base class hears this


def embed(
    owner: BaseEmbedding, texts: list[str], all_at_once: Callable[[list[str]], list[list[float]]]
) -> list[list[float]]:
    """Embed texts by one call, and tell of them window by window."""
    shown = _shown(owner)
    vectors: list[list[float]] | None = None
    for window in _windows(texts, owner.embed_batch_size):
        _begins(shown)
        with owner.callback_manager.event(CBEventType.EMBEDDING, payload=_begun(shown)) as event:
            if vectors is None:
                vectors = all_at_once(texts)
            chunks, its = texts[window], vectors[window]
            event.on_end(payload=_ended(chunks, its))
        _ends(chunks, its)
    return vectors or []


async def aembed(
    owner: BaseEmbedding, texts: list[str], all_at_once: Callable[[list[str]], Awaitable[list[list[float]]]]
) -> list[list[float]]:
    """As `embed`, in a task, where the base class begins all windows before it ends the first."""
    shown = _shown(owner)
    begun = []
    for window in _windows(texts, owner.embed_batch_size):
        _begins(shown)
        begun.append((window, owner.callback_manager.on_event_start(CBEventType.EMBEDDING, payload=_begun(shown))))
    vectors = await all_at_once(texts) if begun else []
    for window, event_id in begun:
        chunks, its = texts[window], vectors[window]
        _ends(chunks, its)
        owner.callback_manager.on_event_end(CBEventType.EMBEDDING, payload=_ended(chunks, its), event_id=event_id)
    return vectors


def _windows(texts: list[str], size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, len(texts))) for start in range(0, len(texts), size))


def _shown(owner: BaseEmbedding) -> dict[str, Any]:
    """What is told of the embedder; never a key, which its dump excludes."""
    return owner.to_payload() if hasattr(owner, "to_payload") else owner.to_dict()  # since 0.14.2x, and before


def _begins(shown: dict[str, Any]) -> None:
    _dispatcher.event(EmbeddingStartEvent(model_dict=shown))


def _begun(shown: dict[str, Any]) -> dict[str, Any]:
    return {EventPayload.SERIALIZED: shown}


def _ends(chunks: list[str], vectors: list[list[float]]) -> None:
    # Not checked again: that would copy ten million numbers of ten thousand texts.
    _dispatcher.event(EmbeddingEndEvent.model_construct(chunks=chunks, embeddings=vectors))


def _ended(chunks: list[str], vectors: list[list[float]]) -> dict[str, Any]:
    return {EventPayload.CHUNKS: chunks, EventPayload.EMBEDDINGS: vectors}
