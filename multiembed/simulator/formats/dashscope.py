"""DashScope's native API format: errors as {"code": …, "message": …, "request_id": …}.

Messages are those of https://help.aliyun.com/zh/model-studio/error-code where they are there, and plausible where not.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.simulator.api_format import (
    MAX_DIMENSIONS,
    MAX_TOKENS,
    ApiFormat,
    Refusal,
    RefusedError,
    dashed,
    is_integer,
)
from multiembed.simulator.vectors import sparse_embedding

if TYPE_CHECKING:
    from multiembed.simulator.api_format import Reason
    from multiembed.simulator.messages import Request
    from multiembed.simulator.vectors import VectorStore
    from multiembed.types import ModelInfo


def _reply(body: dict[str, Any], vectors: VectorStore, request_id: str) -> object:
    parameters = body.get("parameters")
    if parameters is None:
        parameters = {}
    if not isinstance(parameters, dict):
        raise RefusedError(invalid_parameter("parameters must be an object"))
    model = FORMAT.find_model(body.get("model"))
    if parameters.get("text_type") not in (None, "document", "query"):
        raise RefusedError(invalid_parameter("text_type must be document or query: parameters.text_type"))
    output = _output_type(model, parameters.get("output_type"))
    dimensions = check_dimensions("", model, parameters.get("dimension"))
    given = body.get("input")
    texts, tokens = check_texts(FORMAT, model, given.get("texts") if isinstance(given, dict) else None)
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


def _output_type(model: ModelInfo, value: object) -> object:
    if value is None or value == "dense":
        return "dense"
    if value not in ("sparse", "dense&sparse") or not model.sparse:
        raise RefusedError(invalid_parameter(f"output_type is not supported by {model.name}: parameters.output_type"))
    return value


def invalid_parameter(message: str) -> Refusal:
    """The refusal of a wrong value."""
    return Refusal(400, "InvalidParameter", message)


def check_dimensions(lead: str, model: ModelInfo, value: object) -> int:
    """The requested dimensions, or the model's default.

    Raises:
        RefusedError: the model has no such size.
    """
    if value is None:
        return model.default_dimensions or 1024
    sizes = model.dimensions
    if is_integer(value, 1, MAX_DIMENSIONS) and (sizes is None or value in sizes):
        return value
    expected = f"one of {list(sizes)}" if sizes else f"an integer from 1 to {MAX_DIMENSIONS}"
    message = f"Value error, dimension is invalid, it should be {expected}.: parameters.dimension"
    raise RefusedError(invalid_parameter(lead + message))


def check_texts(api_format: ApiFormat, model: ModelInfo, value: object) -> tuple[list[str], int]:
    """The texts within the model's limits, and the sum of their tokens.

    Raises:
        RefusedError: they are not.
    """
    limits = model.limits
    return api_format.check_texts(
        value, max_texts=limits.max_items, max_tokens=limits.max_tokens_per_item or MAX_TOKENS
    )


def shared_refusals(lead: str, texts_field: str, **codes: str) -> dict[Reason, Refusal]:
    """The refusals that both APIs of DashScope have.

    Args:
        lead: text before each message about a value.
        texts_field: the name of the texts' field.
        codes: codes that differ between the two, by reason.
    """
    too_long = invalid_parameter(lead + "Range of input length should be [1, {limit}]")
    no_model = Refusal(400, "BadRequest.EmptyModel", "Required parameter(model) missing.")
    return {
        "no_such_path": Refusal(404, "InvalidURL", "url error, please check url！"),
        "method": Refusal(405, "UnsupportedOperation", "Request method is not supported."),
        "too_large": Refusal(413, "BadRequest.TooLarge", "Payload Too Large"),
        "no_json": Refusal(400, "InvalidParameter", "Request body format invalid"),
        "no_model": no_model,
        "bad_model": no_model,
        "no_texts": Refusal(400, "BadRequest.EmptyInput", "Required input parameter missing from request."),
        "bad_texts": invalid_parameter(f"{lead}Value error, contents is neither str nor list of str.: {texts_field}"),
        "empty_text": too_long,
        "too_many_texts": invalid_parameter(
            f"{lead}{'Value error, ' if lead else ''}batch size is invalid, it should not be larger than {{limit}}.: "
            f"{texts_field}"
        ),
        "text_too_long": too_long,
        "invalid_parameter": invalid_parameter(
            "Value error, text_type must be document or query: parameters.text_type"
        ),
        "over_requests": Refusal(429, codes["over_requests"], "Requests rate limit exceeded, please try again later."),
        # `insufficient_quota` passes by itself, unlike OpenAI's.
        "over_tokens": Refusal(
            429, codes["over_tokens"], "Allocated quota exceeded, please increase your quota limit."
        ),
        "over_in_flight": Refusal(
            429, "Throttling.Concurrency", "Too many concurrent requests, please try again later."
        ),
        "server_error": Refusal(
            500,
            codes["server_error"],
            "An internal error has occured, please try again later or contact service support.",
        ),
        "overloaded": Refusal(503, "ServiceUnavailable", "The service is overloaded, please try again later."),
        "money": Refusal(400, "Arrearage", "Access denied, please make sure your account is in good standing."),
        "forbidden": Refusal(403, codes["forbidden"], "Access denied."),
        "moderated": Refusal(400, codes["moderated"], "Input data may contain inappropriate content."),
    }


def _envelope(refusal: Refusal, _request: Request, request_id: str) -> object:
    return {"code": refusal.code, "message": refusal.message, "request_id": request_id}


FORMAT = ApiFormat(
    provider="dashscope",
    path="/api/v1/services/embeddings/text-embedding/text-embedding",
    prefix="/api/v1/services/",
    reply=_reply,
    envelope=_envelope,
    refusals=MappingProxyType(
        {
            **shared_refusals(
                "",
                "parameters.texts",
                over_requests="Throttling.RateQuota",
                over_tokens="Throttling.AllocationQuota",
                server_error="InternalError",
                forbidden="AccessDenied",
                moderated="DataInspectionFailed",
            ),
            "no_key": Refusal(401, "InvalidApiKey", "No API-key provided."),
            "wrong_key": Refusal(401, "InvalidApiKey", "Invalid API-key provided."),
            "unknown_model": Refusal(404, "ModelNotFound", "Model can not be found: {model}."),
        }
    ),
    request_id=dashed,
    id_header="x-request-id",
)
