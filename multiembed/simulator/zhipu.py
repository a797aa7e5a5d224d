"""Zhipu's answers: embedding-2 and embedding-3, errors as {"error": {"code": "1214", "message": …}}."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from datetime import UTC, datetime
from http import HTTPStatus
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.providers import PROVIDERS
from multiembed.simulator.api_format import Form, Refusal, RefusedError, is_whole, openai_list, texts_in
from multiembed.simulator.tokenizer import count_tokens

if TYPE_CHECKING:
    from multiembed.simulator.messages import Request
    from multiembed.simulator.vectors import VectorStore
    from multiembed.types import ModelInfo

# The page names no number of texts for embedding-2; clients met the same refusal above 64 with both models.
# The catalog's 16 is what always fits into 8K tokens, which is a client's care and not the server's limit.
_MOST_TEXTS = 64
# The page recommends four sizes; live requests with 2 and with 16 went through.
_MOST_DIMENSIONS = 2048
# Both for a wrong call and for a text that is too long; the words do not tell which.
_WRONG_CALL = Refusal(400, "1210", "API 调用参数有误，请检查文档。")


def _reply(body: dict[str, Any], vectors: VectorStore, _request_id: str) -> object:
    """`encoding_format` and all fields that are not in the page are accepted and ignored."""
    facts = _model(body.get("model"))
    dimensions = _dimensions(facts, body.get("dimensions"))
    texts, tokens = _texts(facts, body.get("input"))
    reply = openai_list(facts.name, vectors.embed(texts, dimensions), tokens)
    reply["usage"]["completion_tokens"] = 0
    return reply


def _model(name: object) -> ModelInfo:
    if name is None or name == "":
        raise _missing("model")
    if not isinstance(name, str):
        raise _wrong("model")
    facts = PROVIDERS["zhipu"].model(name)
    if not facts.known:
        raise RefusedError(Refusal(400, "1211", "模型不存在，请检查模型代码。"))
    return facts


def _dimensions(facts: ModelInfo, asked: object) -> int:
    if asked is None:
        return facts.default_dimensions or _MOST_DIMENSIONS
    if not facts.dimensions_on_wire:
        raise RefusedError(_WRONG_CALL)
    if not is_whole(asked, 1, _MOST_DIMENSIONS):
        raise _wrong("dimensions")
    return asked


def _texts(facts: ModelInfo, value: object) -> tuple[list[str], int]:
    """The texts, and their tokens together."""
    if value is None or value == []:
        raise _missing("input")
    texts = texts_in(value)
    if texts is None or "" in texts:
        raise _wrong("input")
    if len(texts) > _MOST_TEXTS:
        raise RefusedError(Refusal(400, "1214", f"input数组最大不得超过{_MOST_TEXTS}条"))
    tokens = [count_tokens(text) for text in texts]
    longest, all_together = facts.limits.max_tokens_per_item, facts.limits.max_tokens_per_request
    if (longest and max(tokens) > longest) or (all_together and sum(tokens) > all_together):
        raise RefusedError(_WRONG_CALL)
    return texts, sum(tokens)


def _missing(field: str) -> RefusedError:
    return RefusedError(Refusal(400, "1213", f"未正常接收到{field}参数。"))


def _wrong(field: str) -> RefusedError:
    return RefusedError(Refusal(400, "1214", f"{field}参数非法。请检查文档。"))


def _envelope(refusal: Refusal, request: Request, _request_id: str) -> object:
    if refusal.code is None:  # refused by the web framework, before the API sees it
        return {
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "status": refusal.status,
            "error": HTTPStatus(refusal.status).phrase,
            "path": request.path.removeprefix("/api/paas"),
        }
    return {"error": {"code": refusal.code, "message": refusal.message}}


def _is_key(credential: str, key: str) -> bool:
    """Whether it is the key, or the vendor SDK's token of a key of the form id.secret: a JWT, signed by HS256.

    zai-sdk 0.2.3 (core/_jwt_token.py): the payload names the id as `api_key`, and `exp` in milliseconds.
    """
    if credential == key:
        return True
    name, dot, secret = key.partition(".")
    signed, second, signature = credential.rpartition(".")
    if not dot or not second:
        return False
    right = hmac.digest(secret.encode(), signed.encode(), hashlib.sha256)
    try:
        header, payload = (json.loads(_decoded(part)) for part in signed.split("."))
        return (
            hmac.compare_digest(_decoded(signature), right)
            and header["alg"] == "HS256"
            and payload["api_key"] == name
            and payload["exp"] > 1000 * time.time()
        )
    except (KeyError, TypeError, ValueError):
        return False


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


ZHIPU = Form(
    provider="zhipu",
    path="/api/paas/v4/embeddings",
    prefix="/api/paas/",
    reply=_reply,
    envelope=_envelope,
    refusals=MappingProxyType(
        {
            "no_key": Refusal(401, "1001", "Header中未收到Authentication参数，无法进行身份验证"),
            "wrong_key": Refusal(401, "1000", "身份验证失败。"),
            "no_such_path": Refusal(404, None, ""),
            "method": Refusal(405, None, ""),
            "too_large": Refusal(413, "1210", _WRONG_CALL.message),
            "no_json": _WRONG_CALL,
        }
    ),
    over_quota=MappingProxyType(
        {
            "requests": Refusal(429, "1302", "您的账户已达到速率限制，请您控制请求频率"),
            "tokens": Refusal(429, "1302", "您的账户已达到速率限制，请您控制请求频率"),
            "in_flight": Refusal(429, "1302", "您当前使用该API的并发数过高，请降低并发，或联系客服增加限额。"),
        }
    ),
    is_key=_is_key,
    request_id=lambda digits: f"{datetime.now(UTC):%Y%m%d%H%M%S}{digits[:16]}",
    id_header="x-log-id",
)
