"""A gateway's answers: {"success": …, "code": …, "message": …, "data": …} around OpenAI's list, any model.

Two model names stand for other replies that gateways give: `resource-record` answers the record without
vectors which the gateway's page shows, `bare-list` answers OpenAI's list without the envelope.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.simulator.forms import (
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
    from multiembed.simulator.exchange import Request
    from multiembed.simulator.vectors import VectorStore

RESOURCE_RECORD = "resource-record"
BARE_LIST = "bare-list"

# The page documents no limit. These are of the model in its example, OpenAI's text-embedding-3-small.
_DIMENSIONS = 1536
_MOST_TEXTS = 2048
_LONGEST = 8192


def _reply(body: dict[str, Any], vectors: VectorStore, request_id: str) -> object:
    model, encoding = body.get("model"), body.get("encoding_format")
    if not isinstance(model, str) or not model:
        raise _invalid("model is required and must be a string")
    if encoding not in (None, "float", "base64"):
        raise _invalid("encoding_format must be float or base64")
    asked = body.get("dimensions")
    dimensions = _DIMENSIONS if asked is None else asked
    if not is_whole(dimensions, 1, MOST_DIMENSIONS):
        raise _invalid(f"dimensions must be an integer from 1 to {MOST_DIMENSIONS}")
    if not isinstance(body.get("parameters"), dict | None):
        raise _invalid("parameters must be an object")
    texts, tokens = _texts(body.get("input"))
    if model == RESOURCE_RECORD:
        return _enveloped(
            {
                "id": f"emb_{request_id[:8]}",
                "name": "embedding-result",
                "status": "COMPLETED",
                "createTime": "2026-04-10T10:00:00Z",
            }
        )
    reply = openai_list(model, vectors.embed(texts, dimensions), tokens, encoding=encoding)
    return reply if model == BARE_LIST else _enveloped(reply)


def _texts(value: object) -> tuple[list[str], int]:
    """The texts, and their tokens together."""
    texts = texts_in(value)
    if not texts:
        raise _invalid("input is required and must be a string or an array of strings")
    if "" in texts:
        raise _invalid("input must not be an empty string")
    if len(texts) > _MOST_TEXTS:
        raise _invalid(f"the input array must not be larger than {_MOST_TEXTS}")
    tokens = [count_tokens(text) for text in texts]
    if max(tokens) > _LONGEST:
        words = f"This model's maximum context length is {_LONGEST} tokens. Please reduce your input."
        raise RefusedError(Refusal(400, "context_length_exceeded", words))
    return texts, sum(tokens)


def _enveloped(data: object) -> object:
    return {"success": True, "code": "200", "message": "successful", "data": data}


def _invalid(words: str) -> RefusedError:
    return RefusedError(Refusal(400, "400", words))


def _too_many(what: str) -> Refusal:
    """In OpenAI's words, which gateways hand through."""
    return Refusal(429, "rate_limit_exceeded", f"Rate limit reached on {what}. Please try again later.")


def _envelope(refusal: Refusal, _request: Request, _request_id: str) -> object:
    return {"success": False, "code": refusal.code, "message": refusal.message, "data": None}


GATEWAY = Form(
    provider="gateway",
    path="/api/v1/embeddings",
    prefix="/api/v1/",
    reply=_reply,
    envelope=_envelope,
    refusals=MappingProxyType(
        {
            "no_key": Refusal(401, "401", "the Authorization header is missing"),
            "wrong_key": Refusal(401, "401", "the API key is invalid"),
            "no_such_path": Refusal(404, "404", "not found"),
            "method": Refusal(405, "405", "method not allowed"),
            "too_large": Refusal(413, "413", "the request body is too large"),
            "no_json": Refusal(400, "400", "the request body is no JSON object"),
        }
    ),
    over_quota=MappingProxyType(
        {
            "requests": _too_many("requests per min (RPM)"),
            "tokens": _too_many("tokens per min (TPM)"),
            "in_flight": _too_many("concurrent requests"),
        }
    ),
    request_id=dashed,
    id_header="x-request-id",
)
