"""Events of LlamaIndex for each window of a batch that is embedded by one call.

The base class embeds one window after another, so that the last requests of each window leave the others idle, and its
event validates and copies every number of every vector. The events here have the base class's order and content.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.embedding import EmbeddingEndEvent, EmbeddingStartEvent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from llama_index.core.base.embeddings.base import BaseEmbedding

_dispatcher = get_dispatcher("llama_index.core.base.embeddings.base")  # its handlers expect the base class's name


def embed(
    embedder: BaseEmbedding, texts: list[str], embed_all: Callable[[list[str]], list[list[float]]]
) -> list[list[float]]:
    """Embed texts by one call, with the events of each window."""
    description = _describe(embedder)
    vectors: list[list[float]] | None = None
    for window in _windows(texts, embedder.embed_batch_size):
        _dispatcher.event(EmbeddingStartEvent(model_dict=description))
        payload: dict[str, Any] = {EventPayload.SERIALIZED: description}
        with embedder.callback_manager.event(CBEventType.EMBEDDING, payload=payload) as event:
            if vectors is None:
                vectors = embed_all(texts)
            event.on_end(payload=_end_payload(texts[window], vectors[window]))
        _send_end(texts[window], vectors[window])
    return vectors or []


async def aembed(
    embedder: BaseEmbedding, texts: list[str], embed_all: Callable[[list[str]], Awaitable[list[list[float]]]]
) -> list[list[float]]:
    """As `embed`, in a task, where the base class starts all windows before it ends the first."""
    description, manager = _describe(embedder), embedder.callback_manager
    started = []
    for window in _windows(texts, embedder.embed_batch_size):
        _dispatcher.event(EmbeddingStartEvent(model_dict=description))
        payload: dict[str, Any] = {EventPayload.SERIALIZED: description}
        started.append((window, manager.on_event_start(CBEventType.EMBEDDING, payload=payload)))
    vectors = await embed_all(texts) if started else []
    for window, event_id in started:
        _send_end(texts[window], vectors[window])
        payload = _end_payload(texts[window], vectors[window])
        manager.on_event_end(CBEventType.EMBEDDING, payload=payload, event_id=event_id)
    return vectors


def _windows(texts: list[str], size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, len(texts), size)]


def _describe(embedder: BaseEmbedding) -> dict[str, Any]:
    """The dump of the embedder, without its key."""
    return embedder.to_payload() if hasattr(embedder, "to_payload") else embedder.to_dict()  # since 0.14.2x, and before


def _end_payload(chunks: list[str], vectors: list[list[float]]) -> dict[str, Any]:
    return {EventPayload.CHUNKS: chunks, EventPayload.EMBEDDINGS: vectors}


def _send_end(chunks: list[str], vectors: list[list[float]]) -> None:
    # Without validation, which would copy ten million numbers of ten thousand texts.
    _dispatcher.event(EmbeddingEndEvent.model_construct(chunks=chunks, embeddings=vectors))
