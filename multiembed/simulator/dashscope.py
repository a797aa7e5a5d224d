"""DashScope's answers, by its native API and by the OpenAI-compatible one: the same limits, two envelopes."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.providers import PROVIDERS
from multiembed.simulator.api_format import (
    LONGEST_TEXT,
    MOST_DIMENSIONS,
    Form,
    Refusal,
    RefusedError,
    dashed,
    is_whole,
    openai_list,
    texts_in,
)
from multiembed.simulator.tokenizer import count_tokens
from multiembed.simulator.vectors import sparse_embedding

if TYPE_CHECKING:
    from multiembed.simulator.api_format import Limit
    from multiembed.simulator.messages import Request
    from multiembed.simulator.vectors import VectorStore
    from multiembed.types import ModelInfo


@dataclass(frozen=True)
class _Dialect:
    """The words in which the two APIs say the same refusal."""

    provider: str
    lead: str
    """Before every complaint about a value."""
    texts: str
    """Where it says the texts are."""


_NATIVE = _Dialect("dashscope", "", "parameters.texts")
_OPENAI = _Dialect("dashscope-compatible", "<400> InternalError.Algo.InvalidParameter: ", "input.contents")


def _reply_native(body: dict[str, Any], vectors: VectorStore, request_id: str) -> object:
    parameters = body.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise _invalid(_NATIVE, "parameters must be an object")
    facts = _model(_NATIVE, body.get("model"))
    if parameters.get("text_type") not in (None, "document", "query"):
        raise _invalid(_NATIVE, "text_type must be document or query: parameters.text_type")
    output = _output(facts, parameters.get("output_type"))
    dimensions = _dimensions(_NATIVE, facts, parameters.get("dimension"))
    given = body.get("input")
    texts, tokens = _texts(_NATIVE, facts, given.get("texts") if isinstance(given, dict) else None)
    elements: list[dict[str, Any]] = [{} for _ in texts]
    if output != "dense":
        for element, text in zip(elements, texts, strict=True):
            element["sparse_embedding"] = sparse_embedding(text)
    if output != "sparse":
        for element, vector in zip(elements, vectors.embed(texts, dimensions), strict=True):
            element["embedding"] = vector
    for index, element in enumerate(elements):
        element["text_index"] = index
    return {
        "status_code": 200,
        "request_id": request_id,
        "code": "",
        "message": "",
        "output": {"embeddings": elements},
        "usage": {"total_tokens": tokens},
    }


def _reply_compatible(body: dict[str, Any], vectors: VectorStore, request_id: str) -> object:
    """The newest page accepts base64, and live clients use it; older ones allowed float only (2026-11-28)."""
    facts = _model(_OPENAI, body.get("model"))
    encoding = body.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise _invalid(_OPENAI, "Value error, encoding_format must be float or base64.: parameters.encoding_format")
    dimensions = _dimensions(_OPENAI, facts, body.get("dimensions"))
    texts, tokens = _texts(_OPENAI, facts, body.get("input"))
    reply = openai_list(facts.name, vectors.embed(texts, dimensions), tokens, encoding=encoding)
    return {**reply, "id": request_id}


def _model(dialect: _Dialect, name: object) -> ModelInfo:
    if not isinstance(name, str) or not name:
        raise RefusedError(Refusal(400, "BadRequest.EmptyModel", "Required parameter(model) missing."))
    facts = PROVIDERS[dialect.provider].model(name)
    if facts.known:
        return facts
    if dialect is _NATIVE:
        raise RefusedError(Refusal(404, "ModelNotFound", f"Model can not be found: {name}."))
    words = f"The model `{name}` does not exist or you do not have access to it."
    raise RefusedError(Refusal(404, "model_not_found", words))


def _output(facts: ModelInfo, asked: object) -> object:
    if asked is None or asked == "dense":
        return "dense"
    if asked not in ("sparse", "dense&sparse") or not facts.sparse:
        raise _invalid(_NATIVE, f"output_type is not supported by {facts.name}: parameters.output_type")
    return asked


def _dimensions(dialect: _Dialect, facts: ModelInfo, asked: object) -> int:
    if asked is None:
        return facts.default_dimensions or 1024
    listed = facts.dimensions
    if is_whole(asked, 1, MOST_DIMENSIONS) and (listed is None or asked in listed):
        return asked
    sizes = f"one of {list(listed)}" if listed else f"an integer from 1 to {MOST_DIMENSIONS}"
    raise _invalid(dialect, f"Value error, dimension is invalid, it should be {sizes}.: parameters.dimension")


def _texts(dialect: _Dialect, facts: ModelInfo, value: object) -> tuple[list[str], int]:
    """The texts, and their tokens together."""
    if value is None or value == []:
        raise RefusedError(Refusal(400, "BadRequest.EmptyInput", "Required input parameter missing from request."))
    texts = texts_in(value)
    if texts is None:
        raise _invalid(dialect, f"Value error, contents is neither str nor list of str.: {dialect.texts}")
    cap, longest = facts.limits.max_items, facts.limits.max_tokens_per_item or LONGEST_TEXT
    if len(texts) > cap:
        words = f"batch size is invalid, it should not be larger than {cap}.: {dialect.texts}"
        raise _invalid(dialect, words if dialect is _NATIVE else f"Value error, {words}")
    tokens = [count_tokens(text) for text in texts]
    if not 1 <= min(tokens) <= max(tokens) <= longest:
        raise _invalid(dialect, f"Range of input length should be [1, {longest}]")
    return texts, sum(tokens)


def _invalid(dialect: _Dialect, words: str) -> RefusedError:
    return RefusedError(Refusal(400, "InvalidParameter", dialect.lead + words))


def _envelope_native(refusal: Refusal, _request: Request, request_id: str) -> object:
    return {"code": refusal.code, "message": refusal.message, "request_id": request_id}


def _envelope_compatible(refusal: Refusal, _request: Request, request_id: str) -> object:
    """Complaints of the model server carry its CamelCase code twice; the others are in OpenAI's words."""
    camel = str(refusal.code)[0].isupper()
    error = {
        "message": refusal.message,
        "type": refusal.code if camel else "invalid_request_error",
        "param": None,
        "code": refusal.code,
    }
    return {"error": error, "id": request_id, "request_id": request_id}


def _over_quota(requests: str, tokens: str) -> MappingProxyType[Limit, Refusal]:
    """The words are the same in both APIs; `insufficient_quota` passes by itself, unlike OpenAI's."""
    return MappingProxyType(
        {
            "requests": Refusal(429, requests, "Requests rate limit exceeded, please try again later."),
            "tokens": Refusal(429, tokens, "Allocated quota exceeded, please increase your quota limit."),
            "in_flight": Refusal(
                429, "Throttling.Concurrency", "Too many concurrent requests, please try again later."
            ),
        }
    )


NATIVE = Form(
    provider="dashscope",
    path="/api/v1/services/embeddings/text-embedding/text-embedding",
    prefix="/api/v1/services/",
    reply=_reply_native,
    envelope=_envelope_native,
    refusals=MappingProxyType(
        {
            "no_key": Refusal(401, "InvalidApiKey", "No API-key provided."),
            "wrong_key": Refusal(401, "InvalidApiKey", "Invalid API-key provided."),
            "no_such_path": Refusal(404, "InvalidURL", "url error, please check url！"),
            "method": Refusal(405, "UnsupportedOperation", "Request method is not supported."),
            "too_large": Refusal(413, "BadRequest.TooLarge", "Payload Too Large"),
            "no_json": Refusal(400, "InvalidParameter", "Request body format invalid"),
        }
    ),
    over_quota=_over_quota("Throttling.RateQuota", "Throttling.AllocationQuota"),
    request_id=dashed,
    id_header="x-request-id",
    per_second=True,
)

COMPATIBLE = Form(
    provider="dashscope-compatible",
    path="/compatible-mode/v1/embeddings",
    prefix="/compatible-mode/",
    reply=_reply_compatible,
    envelope=_envelope_compatible,
    refusals=MappingProxyType(
        {
            "no_key": Refusal(401, "invalid_api_key", "You didn't provide an API key. "),
            "wrong_key": Refusal(401, "invalid_api_key", "Incorrect API key provided. "),
            "no_such_path": Refusal(404, "InvalidURL", "url error, please check url！"),
            "method": Refusal(405, "UnsupportedOperation", "Request method is not supported."),
            "too_large": Refusal(413, "BadRequest.TooLarge", "Payload Too Large"),
            "no_json": Refusal(400, "InvalidParameter", "Request body format invalid"),
        }
    ),
    over_quota=_over_quota("limit_requests", "insufficient_quota"),
    request_id=dashed,
    id_header="x-request-id",
    per_second=True,
)
