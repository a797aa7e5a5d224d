"""The OpenAI form of request and reply, which Zhipu, SiliconFlow, DashScope's compatible mode and gateways share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiembed.providers.error_body import text_of
from multiembed.providers.error_parsing import tokens_in
from multiembed.providers.types import DecodedItem, DecodedResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.providers.types import EncodeInput


def encode(request: EncodeInput, *, encoding: str | None = None) -> dict[str, Any]:
    """`model`, `input`, `dimensions` where asked for and where the model takes it, extra parameters and encoding."""
    body: dict[str, Any] = {"model": request.model.name, "input": list(request.texts)}
    if request.dimensions is not None and request.model.dimensions_on_wire:
        body["dimensions"] = request.dimensions
    return {**body, **request.parameters, **({"encoding_format": encoding} if encoding else {})}


def decode(payload: Mapping[str, Any]) -> DecodedResponse:
    """`data` with `index` and `embedding`; `usage.total_tokens`; `id` where there is one."""
    return DecodedResponse(
        items=items_in(payload.get("data")),
        total_tokens=tokens_in(payload),
        request_id=text_of(payload.get("id")),
        model=text_of(payload.get("model")),
    )


def items_in(data: object) -> list[DecodedItem]:
    """The elements of an OpenAI list.

    Raises:
        ValueError: it is no list of objects.
    """
    if not isinstance(data, list):
        raise ValueError("the reply has no list of embeddings")
    items = []
    for element in data:
        if not isinstance(element, dict):
            raise ValueError("an element of the list of embeddings is no object")
        items.append(DecodedItem(index=element.get("index"), dense=element.get("embedding")))
    return items
