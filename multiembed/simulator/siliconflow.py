"""SiliconFlow's answers: errors as {"code": 20015, "message": …, "data": null}, or as a bare string."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.providers import PROVIDERS
from multiembed.simulator.api_format import Form, Refusal, RefusedError, openai_list, texts_in
from multiembed.simulator.tokenizer import count_tokens

if TYPE_CHECKING:
    from multiembed.simulator.messages import Request
    from multiembed.simulator.vectors import VectorStore
    from multiembed.types import ModelInfo

NO_CODE = ""
"""As the code of a refusal: an envelope without one, where None means no envelope at all."""

_INVALID = Refusal(400, 20015, "The parameter is invalid. Please check again.")
_NO_MODEL = Refusal(400, 20012, "Model does not exist. Please check it carefully.")


def _reply(body: dict[str, Any], vectors: VectorStore, _request_id: str) -> object:
    name, encoding = body.get("model"), body.get("encoding_format")
    if not isinstance(name, str):
        raise RefusedError(_INVALID)
    facts = PROVIDERS["siliconflow"].model(name)
    if not facts.known:
        raise RefusedError(_NO_MODEL)
    if encoding not in (None, "float", "base64"):
        raise RefusedError(_INVALID)
    dimensions = _dimensions(facts, body.get("dimensions"))
    texts, tokens = _texts(facts, body.get("input"))
    reply = openai_list(name, vectors.embed(texts, dimensions), tokens, encoding=encoding)
    reply["usage"]["completion_tokens"] = 0
    return reply


def _dimensions(facts: ModelInfo, asked: object) -> int:
    """Only the Qwen3 models take the parameter; bge refuses even its own size."""
    known = facts.dimensions or ()
    if asked is None:
        return facts.default_dimensions or known[-1]
    if not facts.dimensions_on_wire or type(asked) is not int or asked not in known:
        raise RefusedError(_INVALID)
    return asked


def _texts(facts: ModelInfo, value: object) -> tuple[list[str], int]:
    """The texts, and their tokens together."""
    texts = texts_in(value)
    if not texts or "" in texts:
        raise RefusedError(_INVALID)
    cap, longest = facts.limits.max_items, facts.limits.max_tokens_per_item
    if len(texts) > cap:
        raise _too_big(f"input batch size {len(texts)} > maximum allowed batch size {cap}")
    tokens = [count_tokens(text) for text in texts]
    if longest and max(tokens) > longest:
        raise _too_big(f"input must have less than {longest} tokens")
    return texts, sum(tokens)


def _too_big(words: str) -> RefusedError:
    return RefusedError(Refusal(413, 20042, words))


def _too_many(what: str) -> Refusal:
    """The page shows "TPM limit reached", clients met "RPM limit reached"; the third is of that kind."""
    return Refusal(429, NO_CODE, f"Request was rejected due to rate limiting. Details: {what} limit reached.")


def _envelope(refusal: Refusal, _request: Request, _request_id: str) -> object:
    if refusal.code is None:
        return refusal.message
    if refusal.code == NO_CODE:
        return {"message": refusal.message, "data": None}
    return {"code": refusal.code, "message": refusal.message, "data": None}


SILICONFLOW = Form(
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
        }
    ),
    over_quota=MappingProxyType(
        {"requests": _too_many("RPM"), "tokens": _too_many("TPM"), "in_flight": _too_many("concurrency")}
    ),
    request_id=lambda digits: f"ti_{digits[:20]}",
    id_header="x-siliconcloud-trace-id",
)
