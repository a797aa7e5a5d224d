"""The answers of a server with OpenAI's embeddings API: any model, errors as {"error": {"message": …, "code": …}}.

Limits and sizes are those of OpenAI's text-embedding-3-small
(https://platform.openai.com/docs/api-reference/embeddings/create, read 2026-11-28).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.simulator.api_format import (
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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.simulator.api_format import Limit
    from multiembed.simulator.messages import Request
    from multiembed.simulator.vectors import VectorStore

DIMENSIONS = 1536
_MOST_TEXTS = 2048
_LONGEST = 8192


def embed(body: dict[str, Any], vectors: VectorStore) -> dict[str, Any]:
    """OpenAI's list for a request's body.

    Raises:
        RefusedError: the request is refused.
    """
    model, encoding = body.get("model"), body.get("encoding_format")
    if not isinstance(model, str) or not model:
        raise invalid("model is required and must be a string")
    if encoding not in (None, "float", "base64"):
        raise invalid("encoding_format must be float or base64")
    asked = body.get("dimensions")
    dimensions = DIMENSIONS if asked is None else asked
    if not is_whole(dimensions, 1, MOST_DIMENSIONS):
        raise invalid(f"dimensions must be an integer from 1 to {MOST_DIMENSIONS}")
    texts, tokens = _texts(body.get("input"))
    return openai_list(model, vectors.embed(texts, dimensions), tokens, encoding=encoding)


def _texts(value: object) -> tuple[list[str], int]:
    """The texts, and their tokens together."""
    texts = texts_in(value)
    if not texts:
        raise invalid("input is required and must be a string or an array of strings")
    if "" in texts:
        raise invalid("input must not be an empty string")
    if len(texts) > _MOST_TEXTS:
        raise invalid(f"the input array must not be larger than {_MOST_TEXTS}")
    tokens = [count_tokens(text) for text in texts]
    if max(tokens) > _LONGEST:
        words = f"This model's maximum context length is {_LONGEST} tokens. Please reduce your input."
        raise RefusedError(Refusal(400, "context_length_exceeded", words))
    return texts, sum(tokens)


def invalid(words: str) -> RefusedError:
    """The refusal of a wrong request."""
    return RefusedError(Refusal(400, "400", words))


def _too_many(what: str) -> Refusal:
    """The refusal of what is more than a quota allows."""
    return Refusal(429, "rate_limit_exceeded", f"Rate limit reached on {what}. Please try again later.")


OVER_QUOTA: Mapping[Limit, Refusal] = MappingProxyType(
    {
        "requests": _too_many("requests per min (RPM)"),
        "tokens": _too_many("tokens per min (TPM)"),
        "in_flight": _too_many("concurrent requests"),
    }
)


def _envelope(refusal: Refusal, _request: Request, _request_id: str) -> object:
    error = {"message": refusal.message, "type": "invalid_request_error", "param": None, "code": refusal.code}
    return {"error": error}


OPENAI = Form(
    provider="openai-compatible",
    # A path of its own: /v1/embeddings is SiliconFlow's here.
    path="/openai/v1/embeddings",
    prefix="/openai/",
    reply=lambda body, vectors, _: embed(body, vectors),
    envelope=_envelope,
    refusals=MappingProxyType(
        {
            "no_key": Refusal(401, None, "You didn't provide an API key."),
            "wrong_key": Refusal(401, "invalid_api_key", "Incorrect API key provided."),
            "no_such_path": Refusal(404, None, "Invalid URL"),
            "method": Refusal(405, "method_not_supported", "Only POST requests are accepted."),
            "too_large": Refusal(413, "413", "the request body is too large"),
            "no_json": Refusal(400, "400", "the request body is no JSON object"),
        }
    ),
    over_quota=OVER_QUOTA,
    key_headers=("api-key", "x-api-key"),
    request_id=dashed,
    id_header="x-request-id",
)
