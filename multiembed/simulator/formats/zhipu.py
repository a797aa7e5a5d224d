"""Zhipu's API format: embedding-2 and embedding-3, errors as {"error": {"code": "1214", "message": …}}.

Messages are those of https://docs.bigmodel.cn/cn/api/api-code where they are there, and plausible where they are not.
"""

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

from multiembed.simulator.api_format import ApiFormat, Refusal, RefusedError, is_integer, openai_list

if TYPE_CHECKING:
    from multiembed.simulator.messages import Request
    from multiembed.simulator.vectors import VectorStore

# The page names no number of texts for embedding-2; clients met the same refusal above 64 with both models.
# The catalog's 16 is what always fits into 8K tokens, which is a client's care and not the server's limit.
_MAX_TEXTS = 64
# The page recommends four sizes; live requests with 2 and with 16 went through.
_MAX_DIMENSIONS = 2048
# Both for a wrong call and for a text that is too long; the message does not say which.
_WRONG_CALL = Refusal(400, "1210", "API 调用参数有误，请检查文档。")


def _missing(field: str) -> Refusal:
    return Refusal(400, "1213", f"未正常接收到{field}参数。")


def _wrong(field: str) -> Refusal:
    return Refusal(400, "1214", f"{field}参数非法。请检查文档。")


def _reply(body: dict[str, Any], vectors: VectorStore, _request_id: str) -> object:
    """`encoding_format` and all fields that are not in the page are accepted and ignored."""
    model = FORMAT.find_model(body.get("model"))
    dimensions = body.get("dimensions")
    if dimensions is None:
        dimensions = model.default_dimensions or _MAX_DIMENSIONS
    elif not model.dimensions_on_wire:
        raise RefusedError(_WRONG_CALL)
    elif not is_integer(dimensions, 1, _MAX_DIMENSIONS):
        raise RefusedError(_wrong("dimensions"))
    texts, tokens = FORMAT.check_texts(
        body.get("input"),
        max_texts=_MAX_TEXTS,
        max_tokens=model.limits.max_tokens_per_item,
        max_total_tokens=model.limits.max_tokens_per_request,
    )
    reply = openai_list(model.name, vectors.embed(texts, dimensions), tokens)
    reply["usage"]["completion_tokens"] = 0
    return reply


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
    expected = hmac.digest(secret.encode(), signed.encode(), hashlib.sha256)
    try:
        header, payload = (json.loads(_decoded(part)) for part in signed.split("."))
        return (
            hmac.compare_digest(_decoded(signature), expected)
            and header["alg"] == "HS256"
            and payload["api_key"] == name
            and payload["exp"] > 1000 * time.time()
        )
    except (KeyError, TypeError, ValueError):
        return False


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


FORMAT = ApiFormat(
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
            "no_model": _missing("model"),
            "bad_model": _wrong("model"),
            "unknown_model": Refusal(400, "1211", "模型不存在，请检查模型代码。"),
            "no_texts": _missing("input"),
            "bad_texts": _wrong("input"),
            "empty_text": _wrong("input"),
            "too_many_texts": Refusal(400, "1214", "input数组最大不得超过{limit}条"),
            "text_too_long": _WRONG_CALL,
            "invalid_parameter": _wrong("encoding_format"),
            "over_requests": Refusal(429, "1302", "您的账户已达到速率限制，请您控制请求频率"),
            "over_tokens": Refusal(429, "1302", "您的账户已达到速率限制，请您控制请求频率"),
            "over_in_flight": Refusal(429, "1302", "您当前使用该API的并发数过高，请降低并发，或联系客服增加限额。"),
            "server_error": Refusal(500, "1234", "网络错误，错误id：20261121093000，请联系客服。"),
            "overloaded": Refusal(429, "1305", "该模型当前访问量过大，请您稍后再试"),
            "money": Refusal(429, "1113", "您的账户已欠费，请充值后重试。"),
            "forbidden": Refusal(403, "1220", "您无权访问 embeddings"),
            "moderated": Refusal(
                400,
                "1301",
                "系统检测到输入或生成内容可能包含不安全或敏感内容，请您避免输入易产生敏感内容的提示语，感谢您的配合。",
            ),
        }
    ),
    is_key=_is_key,
    request_id=lambda digits: f"{datetime.now(UTC):%Y%m%d%H%M%S}{digits[:16]}",
    id_header="x-log-id",
)
