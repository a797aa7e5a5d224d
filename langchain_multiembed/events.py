"""Each call's usage as a custom event of the LangChain run that it was made in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.runnables.config import var_child_runnable_config

if TYPE_CHECKING:
    from multiembed import EmbeddingResult

EVENT = "multiembed_usage"


def tell(result: EmbeddingResult) -> EmbeddingResult:
    """Send the event, if there is a run to send it to; the result is handed on."""
    if var_child_runnable_config.get() is not None:
        try:
            dispatch_custom_event(EVENT, _data(result))
        except RuntimeError:  # LangChain's word for a run without a parent
            return result
    return result


async def atell(result: EmbeddingResult) -> EmbeddingResult:
    """As `tell`, in a task."""
    if var_child_runnable_config.get() is not None:
        try:
            await adispatch_custom_event(EVENT, _data(result))
        except RuntimeError:
            return result
    return result


def _data(result: EmbeddingResult) -> dict[str, Any]:
    """Plain JSON; None where the provider did not tell."""
    usage = result.usage
    return {
        "model": result.model,
        "texts": 0 if result.vectors is None else len(result.vectors),
        "cached_texts": usage.cached_texts,
        "total_tokens": usage.total_tokens,
        "requests": usage.requests,
        "retries": usage.retries,
        "cost_cny": usage.cost,
    }
