"""DashScope's OpenAI-compatible API format: the limits of the native one, errors as {"error": {…}, "id": …}."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.simulator.api_format import ApiFormat, Refusal, RefusedError, dashed, openai_list
from multiembed.simulator.formats.dashscope import check_dimensions, check_texts, invalid_parameter, shared_refusals

if TYPE_CHECKING:
    from multiembed.simulator.messages import Request
    from multiembed.simulator.vectors import VectorStore

_LEAD = "<400> InternalError.Algo.InvalidParameter: "


def _reply(body: dict[str, Any], vectors: VectorStore, request_id: str) -> object:
    """The newest page accepts base64, and live clients use it; older ones allowed float only (2026-11-28)."""
    model = FORMAT.find_model(body.get("model"))
    encoding = body.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        message = "Value error, encoding_format must be float or base64.: parameters.encoding_format"
        raise RefusedError(invalid_parameter(_LEAD + message))
    dimensions = check_dimensions(_LEAD, model, body.get("dimensions"))
    texts, tokens = check_texts(FORMAT, model, body.get("input"))
    reply = openai_list(model.name, vectors.embed(texts, dimensions), tokens, encoding=encoding)
    return {**reply, "id": request_id}


def _envelope(refusal: Refusal, _request: Request, request_id: str) -> object:
    """Errors of the model server carry its CamelCase code twice; the others are worded as OpenAI's."""
    camel = str(refusal.code)[0].isupper()
    error = {
        "message": refusal.message,
        "type": refusal.code if camel else "invalid_request_error",
        "param": None,
        "code": refusal.code,
    }
    return {"error": error, "id": request_id, "request_id": request_id}


FORMAT = ApiFormat(
    provider="dashscope-compatible",
    path="/compatible-mode/v1/embeddings",
    prefix="/compatible-mode/",
    reply=_reply,
    envelope=_envelope,
    refusals=MappingProxyType(
        {
            **shared_refusals(
                _LEAD,
                "input.contents",
                over_requests="limit_requests",
                over_tokens="insufficient_quota",
                server_error="internal_error",
                forbidden="access_denied",
                moderated="data_inspection_failed",
            ),
            "no_key": Refusal(401, "invalid_api_key", "You didn't provide an API key. "),
            "wrong_key": Refusal(401, "invalid_api_key", "Incorrect API key provided. "),
            "unknown_model": Refusal(
                404, "model_not_found", "The model `{model}` does not exist or you do not have access to it."
            ),
        }
    ),
    request_id=dashed,
    id_header="x-request-id",
)
