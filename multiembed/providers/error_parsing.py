"""From a refusal to a kind of fault, the same for all providers: the code, then the HTTP status, then the words."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from multiembed.providers.error_body import ErrorBody, read_error, text_of
from multiembed.providers.error_words import is_dashscope_rate, quota_in, size_in, speaks_of_money
from multiembed.providers.types import ApiFailure

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping

    from multiembed.types import ErrorKind

_BY_STATUS: dict[int, ErrorKind] = {
    400: "invalid",
    401: "authentication",
    402: "quota",
    403: "permission",
    404: "model",
    405: "invalid",
    407: "proxy",
    408: "timeout",
    409: "server",
    413: "request_too_large",
    415: "invalid",
    422: "invalid",
    424: "server",  # TEI: the inference failed (router/src/http/server.rs, read 2026-11-28)
    425: "server",
    429: "rate_limit",
}

# Codes that mean the same wherever they come from, because a gateway passes on those of what stands behind it. A
# provider's own table comes first: `insufficient_quota` is money with OpenAI, and tokens a minute with DashScope.
_CODES: Mapping[str, ErrorKind] = {
    # OpenAI, Azure
    "invalid_api_key": "authentication",
    "billing_hard_limit_reached": "quota",
    "rate_limit_exceeded": "rate_limit",
    "model_not_found": "model",
    "context_length_exceeded": "too_long",
    "string_above_max_length": "too_long",
    "array_above_max_length": "too_many_items",
    "max_tokens_per_request": "request_too_large",
    "content_filter": "content",
    # llama.cpp, pydantic, LiteLLM
    "exceed_context_size_error": "too_long",
    "string_too_long": "too_long",
    "budget_exceeded": "quota",
    # one-api, new-api
    "insufficient_user_quota": "quota",
    "pre_consume_token_quota_failed": "quota",
    # Volcengine
    "AccountOverdueError": "quota",
    "SetLimitExceeded": "quota",
    # DashScope
    "InvalidApiKey": "authentication",
    "Arrearage": "quota",
    "DataInspectionFailed": "content",
    "data_inspection_failed": "content",
}

_SUCCESS = frozenset({"0", "200", "ok", "success"})
_MIRRORED: Mapping[int, Container[int]] = {
    200: range(400, 600),
    400: (401, 402, 403, 404, 413, 429),
    500: (401, 402, 403, 429),
}
"""By HTTP status, the body's codes that say better than it what happened: they are statuses themselves."""

_MAY_BE_SIZE = frozenset({"invalid", "invalid_or_too_long", "request_too_large", "too_many_items", "too_long"})
_NOT_413 = frozenset({"invalid", "invalid_or_too_long", "rate_limit"})
"""What a code says too generally of a 413: to Groq, a request above the tokens of a minute is a rate_limit_exceeded."""
_MAY_BE_MONEY = frozenset({"authentication", "permission", "rate_limit"})


def kind_by_status(status: int) -> ErrorKind:
    """The kind of fault that an HTTP status means when the body says nothing better."""
    if status >= 500:
        return "server"
    if status < 400:
        return "malformed"
    return _BY_STATUS.get(status, "invalid")


def classify_error(
    status: int, body: object, own: Callable[[int, str], ErrorKind | None], *, openai_words: bool = False
) -> ApiFailure | None:
    """What a reply says that is no success; None for a success.

    The provider's own codes come first, then codes that all servers share, then the status. Words may narrow this down:
    a request that is refused as wrong or, with status 500, as failed may hold a text that is too long (Ollama and
    llama.cpp answer 500 to one); a refused key or account may be out of money. A rate limit is never a long text.

    Args:
        status: the HTTP status.
        body: parsed JSON, or the text of a body that is not JSON.
        own: HTTP status and code to the kind that the provider's own table names, or None.
        openai_words: "You exceeded your current quota" means money, as it does with OpenAI.
    """
    if status == 200 and not _is_refusal(body):
        return None if isinstance(body, (dict, list)) else ApiFailure("malformed", message=read_error(body).message)
    said = read_error(body)
    kind = _by_code(status, said, own)
    size = None
    if kind in _MAY_BE_SIZE or (kind == "server" and status in (200, 500)):
        size = size_in(said.words, failed=status == 500)
        if size is not None:
            kind = size.kind
        elif kind == "invalid" and speaks_of_money(said.words, at_once=True):
            kind = "quota"
    elif kind in _MAY_BE_MONEY and speaks_of_money(said.words, openai=openai_words):
        kind = "quota"
    quota = quota_in(said.code) or quota_in(said.message) if kind == "rate_limit" else None
    fault = size or ApiFailure(kind, limit_kind=quota)
    return replace(fault, code=said.code, message=said.message, request_id=said.request_id)


def classify_compatible(status: int, body: object) -> ApiFailure | None:
    """What a reply of an OpenAI-compatible server or gateway says that is no success."""
    return classify_error(status, body, _openai_kind, openai_words=True)


def _openai_kind(_status: int, code: str) -> ErrorKind | None:
    if code.startswith("Throttling"):  # DashScope's, passed on
        return "rate_limit"
    return "quota" if code == "insufficient_quota" else None


def _is_refusal(body: object) -> bool:
    """Whether a reply with status 200 is none, by what it says of itself."""
    if isinstance(body, list):
        return any(isinstance(each, dict) and bool(each.get("error")) for each in body[:1])
    if not isinstance(body, dict):
        return False
    if body.get("error") or body.get("success") is False or body.get("object") == "error":
        return True
    if "object" in body:
        return False
    code = text_of(body.get("code"))
    if code is not None:
        return code.lower() not in _SUCCESS
    return bool(body.get("detail") or body.get("errors")) and not (body.get("data") or body.get("output"))


def _by_code(status: int, said: ErrorBody, own: Callable[[int, str], ErrorKind | None]) -> ErrorKind:
    for code in filter(None, (said.code, said.type)):
        kind = own(status, code) or _CODES.get(code)
        if kind == "quota" and code == "insufficient_quota" and is_dashscope_rate(said.words):
            return "rate_limit"
        # OpenAI's `type` says "invalid_request_error" of a wrong key, too.
        if kind is not None and not (kind == "invalid" and code is not said.code):
            return "request_too_large" if status == 413 and kind in _NOT_413 else kind
    code = said.code or ""
    if code.isascii() and code.isdigit() and len(code) == 3 and int(code) in _MIRRORED.get(status, ()):
        return kind_by_status(int(code))
    return kind_by_status(status) if status != 200 else "server"


def tokens_in(payload: Mapping[str, Any]) -> int | None:
    """`usage.total_tokens`, or None when the reply does not tell."""
    usage = payload.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) and total >= 0 else None
