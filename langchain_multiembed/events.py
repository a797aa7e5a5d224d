"""Usage of each call as a custom event of the LangChain run in which it was made."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.runnables.config import var_child_runnable_config

if TYPE_CHECKING:
    from multiembed import EmbeddingResult

EVENT = "multiembed_usage"
_RAISED = f"A callback raised an error when it got the event {EVENT!r}. No vector was lost."
_log = logging.getLogger(__name__)


def send_usage_event(result: EmbeddingResult[Any]) -> EmbeddingResult[Any]:
    """Send the event of a result inside a run, and return the result. An error of a callback is logged."""
    if _is_in_run():
        try:
            dispatch_custom_event(EVENT, _event_data(result))
        except Exception:  # noqa: BLE001 - the user's callback may raise anything
            _log.warning(_RAISED, exc_info=True)
    return result


async def asend_usage_event(result: EmbeddingResult[Any]) -> EmbeddingResult[Any]:
    """As `send_usage_event`, in a task."""
    if _is_in_run():
        try:
            await adispatch_custom_event(EVENT, _event_data(result))
        except Exception:  # noqa: BLE001 - as above
            _log.warning(_RAISED, exc_info=True)
    return result


def _is_in_run() -> bool:
    config = var_child_runnable_config.get()
    return config is not None and getattr(config.get("callbacks"), "parent_run_id", None) is not None


def _event_data(result: EmbeddingResult[Any]) -> dict[str, Any]:
    usage = result.usage
    return {
        "model": result.model,
        "texts": result.texts,
        "cached_texts": usage.cached_texts,
        "total_tokens": usage.total_tokens,
        "requests": usage.requests,
        "retries": usage.retries,
        "cost_cny": usage.cost,
    }
