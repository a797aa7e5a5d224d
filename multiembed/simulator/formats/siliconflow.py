"""SiliconFlow's API format: errors as {"code": 20015, "message": …, "data": null}, or as a bare string.

Messages are those of https://docs.siliconflow.cn/cn/faqs/error-code where they are there, and plausible where not.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.simulator.api_format import NO_CODE, ApiFormat, Refusal, RefusedError, openai_list

if TYPE_CHECKING:
    from multiembed.simulator.messages import Request
    from multiembed.simulator.vectors import VectorStore

_INVALID = Refusal(400, 20015, "The parameter is invalid. Please check again.")
_NO_MODEL = Refusal(400, 20012, "Model does not exist. Please check it carefully.")


def _reply(body: dict[str, Any], vectors: VectorStore, _request_id: str) -> object:
    """Only the Qwen3 models take `dimensions`; bge refuses even its own size."""
    model, encoding = FORMAT.find_model(body.get("model")), body.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise RefusedError(_INVALID)
    sizes, dimensions = model.dimensions or (), body.get("dimensions")
    if dimensions is None:
        dimensions = model.default_dimensions or sizes[-1]
    elif not model.dimensions_on_wire or type(dimensions) is not int or dimensions not in sizes:
        raise RefusedError(_INVALID)
    limits = model.limits
    texts, tokens = FORMAT.check_texts(
        body.get("input"), max_texts=limits.max_items, max_tokens=limits.max_tokens_per_item
    )
    reply = openai_list(model.name, vectors.embed(texts, dimensions), tokens, encoding=encoding)
    reply["usage"]["completion_tokens"] = 0
    return reply


def _over(quota: str) -> Refusal:
    """The page shows "TPM limit reached", clients met "RPM limit reached"; the third is of that kind."""
    return Refusal(429, NO_CODE, f"Request was rejected due to rate limiting. Details: {quota} limit reached.")


def _envelope(refusal: Refusal, _request: Request, _request_id: str) -> object:
    if refusal.code is None:
        return refusal.message
    if refusal.code == NO_CODE:
        return {"message": refusal.message, "data": None}
    return {"code": refusal.code, "message": refusal.message, "data": None}


FORMAT = ApiFormat(
    provider="siliconflow",
    path="/v1/embeddings",
    prefix="/v1/",
    reply=_reply,
    envelope=_envelope,
    refusals=MappingProxyType(
        {
            "no_key": Refusal(401, None, "Invalid token"),
            "wrong_key": Refusal(401, None, "Api key is invalid"),
            "no_such_path": Refusal(404, None, "404 page not found"),
            "method": Refusal(405, None, "405 method not allowed"),
            "too_large": Refusal(413, 20042, "request entity too large"),
            "no_json": _INVALID,
            "no_model": _INVALID,
            "bad_model": _INVALID,
            "unknown_model": _NO_MODEL,
            "no_texts": _INVALID,
            "bad_texts": _INVALID,
            "empty_text": _INVALID,
            "too_many_texts": Refusal(413, 20042, "input batch size {sent} > maximum allowed batch size {limit}"),
            "text_too_long": Refusal(413, 20042, "input must have less than {limit} tokens"),
            "invalid_parameter": _INVALID,
            "over_requests": _over("RPM"),
            "over_tokens": _over("TPM"),
            "over_in_flight": _over("concurrency"),
            "server_error": Refusal(500, 50507, "Unknown error, please try again later."),
            "overloaded": Refusal(503, 50505, "Model service overloaded. Please try again later."),
            "money": Refusal(403, 30001, "Sorry, your account balance is insufficient"),
            "forbidden": Refusal(403, NO_CODE, "This model requires real-name verification of the account."),
        }
    ),
    request_id=lambda digits: f"ti_{digits[:20]}",
    id_header="x-siliconcloud-trace-id",
)
