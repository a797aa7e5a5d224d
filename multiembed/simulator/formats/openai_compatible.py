"""API format of a server with OpenAI's embeddings API: any model, errors as {"error": {"message": …, "code": …}}.

Limits and sizes are those of OpenAI's text-embedding-3-small
(https://platform.openai.com/docs/api-reference/embeddings/create, read 2026-11-28).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.simulator.api_format import MAX_DIMENSIONS, ApiFormat, Refusal, dashed, is_integer, openai_list

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.simulator.api_format import Reason
    from multiembed.simulator.messages import Request
    from multiembed.simulator.vectors import VectorStore

_DIMENSIONS = 1536
_MAX_TEXTS = 2048
_MAX_TOKENS = 8192


def embed(api_format: ApiFormat, body: dict[str, Any], vectors: VectorStore) -> dict[str, Any]:
    """OpenAI's list for a request's body.

    Raises:
        RefusedError: the request is refused.
    """
    model, encoding = api_format.find_model(body.get("model")), body.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise api_format.invalid_parameter("encoding_format must be float or base64")
    dimensions = body.get("dimensions")
    if dimensions is None:
        dimensions = _DIMENSIONS
    if not is_integer(dimensions, 1, MAX_DIMENSIONS):
        raise api_format.invalid_parameter(f"dimensions must be an integer from 1 to {MAX_DIMENSIONS}")
    texts, tokens = api_format.check_texts(body.get("input"), max_texts=_MAX_TEXTS, max_tokens=_MAX_TOKENS)
    return openai_list(model.name, vectors.embed(texts, dimensions), tokens, encoding=encoding)


def _reply(body: dict[str, Any], vectors: VectorStore, _request_id: str) -> object:
    return embed(FORMAT, body, vectors)


def _invalid(message: str) -> Refusal:
    return Refusal(400, "400", message)


def _over(quota: str) -> Refusal:
    return Refusal(429, "rate_limit_exceeded", f"Rate limit reached on {quota}. Please try again later.")


def _envelope(refusal: Refusal, _request: Request, _request_id: str) -> object:
    error = {"message": refusal.message, "type": "invalid_request_error", "param": None, "code": refusal.code}
    return {"error": error}


REFUSALS: Mapping[Reason, Refusal] = MappingProxyType(
    {
        "no_key": Refusal(401, None, "You didn't provide an API key."),
        "wrong_key": Refusal(401, "invalid_api_key", "Incorrect API key provided."),
        "no_such_path": Refusal(404, None, "Invalid URL"),
        "method": Refusal(405, "method_not_supported", "Only POST requests are accepted."),
        "too_large": Refusal(413, "413", "the request body is too large"),
        "no_json": _invalid("the request body is no JSON object"),
        "no_model": _invalid("model is required and must be a string"),
        "bad_model": _invalid("model is required and must be a string"),
        "unknown_model": Refusal(404, "model_not_found", "no such model"),
        "no_texts": _invalid("input is required and must be a string or an array of strings"),
        "bad_texts": _invalid("input is required and must be a string or an array of strings"),
        "empty_text": _invalid("input must not be an empty string"),
        "too_many_texts": _invalid("the input array must not be larger than {limit}"),
        "text_too_long": Refusal(
            400,
            "context_length_exceeded",
            "This model's maximum context length is {limit} tokens. Please reduce your input.",
        ),
        "invalid_parameter": _invalid("encoding_format must be float or base64"),
        "over_requests": _over("requests per min (RPM)"),
        "over_tokens": _over("tokens per min (TPM)"),
        "over_in_flight": _over("concurrent requests"),
        "server_error": Refusal(500, "500", "internal server error"),
        "overloaded": Refusal(503, "503", "no upstream is available"),
        "money": Refusal(429, "insufficient_quota", "You exceeded your current quota, please check your plan."),
        "forbidden": Refusal(403, "403", "this key may not use the model"),
        "moderated": Refusal(400, "content_filter", "The input was rejected by the content filter."),
    }
)

FORMAT = ApiFormat(
    provider="openai-compatible",
    # A path of its own: /v1/embeddings is SiliconFlow's here.
    path="/openai/v1/embeddings",
    prefix="/openai/",
    reply=_reply,
    envelope=_envelope,
    refusals=REFUSALS,
    key_headers=("api-key", "x-api-key"),
    request_id=dashed,
    id_header="x-request-id",
)
