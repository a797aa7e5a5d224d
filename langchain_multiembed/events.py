"""Each call's usage as a custom event of the LangChain run that it was made in."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import adispatch_custom_event, dispatch_custom_event
from langchain_core.runnables.config import var_child_runnable_config

if TYPE_CHECKING:
    from multiembed import EmbeddingResult

EVENT = "multiembed_usage"
_log = logging.getLogger(__name__)


def tell(result: EmbeddingResult[Any]) -> EmbeddingResult[Any]:
    """Send the event, if there is a run to send it to; the result is handed on.

    What a callback raises is logged: vectors that are paid for are not lost for it.
    """
    if _in_a_run():
        try:
            dispatch_custom_event(EVENT, _data(result))
        except Exception:  # noqa: BLE001 - the callback is the user's, and may raise anything
            _log.warning(_RAISED, exc_info=True)
    return result


async def atell(result: EmbeddingResult[Any]) -> EmbeddingResult[Any]:
    """As `tell`, in a task."""
    if _in_a_run():
        try:
            await adispatch_custom_event(EVENT, _data(result))
        except Exception:  # noqa: BLE001 - as above
            _log.warning(_RAISED, exc_info=True)
    return result


_RAISED = f"A callback raised an error when it was sent the event {EVENT!r}. The vectors are not concerned."


def _in_a_run() -> bool:
    """Whether there is a run that the event would belong to; asked at each call, so it must cost next to nothing."""
    config = var_child_runnable_config.get()
    return config is not None and getattr(config.get("callbacks"), "parent_run_id", None) is not None


def _data(result: EmbeddingResult[Any]) -> dict[str, Any]:
    """Plain JSON; None where the provider did not tell."""
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
