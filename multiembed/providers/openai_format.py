"""OpenAI's request and response format, which Zhipu, SiliconFlow, DashScope's compatible API and gateways share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from multiembed.providers.error_body import text_of
from multiembed.providers.error_parsing import tokens_in
from multiembed.providers.types import DecodedItem, DecodedResponse

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.providers.types import EncodeInput


def encode(request: EncodeInput, *, encoding: str | None = None) -> dict[str, Any]:
    """Write `model`, `input`, extra parameters, and `dimensions` and `encoding_format` where they were asked for."""
    body: dict[str, Any] = {"model": request.model.name, "input": list(request.texts)}
    if request.dimensions is not None and request.model.dimensions_on_wire:
        body["dimensions"] = request.dimensions
    return {**body, **request.parameters, **({"encoding_format": encoding} if encoding else {})}


def encode_with_encoding(request: EncodeInput) -> dict[str, Any]:
    """Write a request that always names its `encoding_format`: `float` where none was asked for."""
    return encode(request, encoding=request.encoding or "float")


def decode(payload: Mapping[str, Any]) -> DecodedResponse:
    """Read `data` with `index` and `embedding`, `usage.total_tokens`, `id` and `model`.

    Raises:
        ValueError: there is no list of embeddings; the text says what is wrong.
    """
    return DecodedResponse(
        items=items_in(payload.get("data")),
        total_tokens=tokens_in(payload),
        request_id=text_of(payload.get("id")),
        model=text_of(payload.get("model")),
    )


def items_in(elements: object, *, index: str = "index", where: str = "embeddings") -> list[DecodedItem]:
    """Read the elements of a list of embeddings.

    Args:
        elements: the list.
        index: the field that holds the position of an element's text.
        where: the list's name, for the error.

    Raises:
        ValueError: it is not a list of objects.
    """
    if not isinstance(elements, list):
        raise ValueError(f"the response has no list of {where}")
    if not all(isinstance(element, dict) for element in elements):
        raise ValueError(f"an element of the list of {where} is not an object")
    return [
        DecodedItem(index=element.get(index), dense=element.get("embedding"), sparse=element.get("sparse_embedding"))
        for element in elements
    ]
