"""Classifies an error response, the same way for all providers: by its code, then its HTTP status, then its message."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from multiembed.providers.error_body import ErrorBody, read_error, text_of
from multiembed.providers.error_message import is_dashscope_rate, limit_kind_of, reports_no_money, size_failure
from multiembed.providers.types import ApiFailure

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from multiembed.types import ErrorKind

_BY_STATUS: dict[int, ErrorKind] = {
    401: "authentication",
    402: "quota",
    403: "permission",
    404: "model",
    407: "proxy",
    408: "timeout",
    409: "server",
    413: "request_too_large",
    424: "server",  # TEI: the inference failed (router/src/http/server.rs, read 2026-11-28)
    425: "server",
    429: "rate_limit",
}

# Codes that mean the same at every server, because a gateway passes on the codes of the server behind it. A provider's
# own table comes first: `insufficient_quota` is money with OpenAI, and tokens a minute with DashScope.
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
_COMPATIBLE_CODES: Mapping[str, ErrorKind] = {"insufficient_quota": "quota", "Throttling*": "rate_limit"}
"""OpenAI's and DashScope's, which other servers pass on."""

_SUCCESS_CODES = frozenset({"0", "200", "ok", "success"})
_CODES_THAT_ARE_STATUSES: Mapping[int, Container[int]] = {
    200: range(400, 600),
    400: (401, 402, 403, 404, 413, 429),
    500: (401, 402, 403, 429),
}
"""By HTTP status, the codes in the body that are more precise statuses."""

_MAY_BE_SIZE = frozenset({"invalid", "invalid_or_too_long", "request_too_large", "too_many_items", "too_long"})
_TOO_GENERAL_FOR_413 = frozenset({"invalid", "invalid_or_too_long", "rate_limit"})
"""To Groq, a request above the tokens of a minute is a rate_limit_exceeded with status 413."""
_MAY_BE_MONEY = frozenset({"authentication", "permission", "rate_limit"})


def kind_by_status(status: int) -> ErrorKind:
    """The kind of error that an HTTP status means when the body says nothing better."""
    if status >= 500:
        return "server"
    if status < 400:
        return "malformed"
    return _BY_STATUS.get(status, "invalid")


def classify_error(status: int, body: object, codes: Mapping[str, ErrorKind]) -> ApiFailure | None:
    """Classify a response; None for a success.

    The provider's own codes come first, then codes that all servers share, then the status. The message may narrow this
    down: a request that is refused as wrong or, with status 500, as failed may hold a text that is too long (Ollama and
    llama.cpp answer 500 to one); a refused key or account may be out of money. A rate limit is never a long text.

    Args:
        status: the HTTP status.
        body: parsed JSON, or the text of a body that is not JSON.
        codes: the provider's own codes; `*` stands for any characters.
    """
    if status == 200 and not _is_error(body):
        return None if isinstance(body, (dict, list)) else ApiFailure("malformed", message=read_error(body).message)
    error = read_error(body)
    kind = _kind_by_code(status, error, codes)
    failure = None
    if kind in _MAY_BE_SIZE or (kind == "server" and status in (200, 500)):
        failure = size_failure(error.all_text, server_failed=status == 500)
        if failure is None and kind == "invalid" and reports_no_money(error.all_text, at_start=True):
            kind = "quota"
    elif kind in _MAY_BE_MONEY:
        # "You exceeded your current quota" means money where the code of the same name does.
        openai = _look_up("insufficient_quota", codes) == "quota"
        kind = "quota" if reports_no_money(error.all_text, openai=openai) else kind
    if failure is None:
        limit_kind = limit_kind_of(error.code) or limit_kind_of(error.message)
        failure = ApiFailure(kind, limit_kind=limit_kind if kind == "rate_limit" else None)
    return replace(failure, code=error.code, message=error.message, request_id=error.request_id)


def classify_compatible(status: int, body: object) -> ApiFailure | None:
    """Classify a response of an OpenAI-compatible server or gateway; None for a success."""
    return classify_error(status, body, _COMPATIBLE_CODES)


def _is_error(body: object) -> bool:
    """Whether the body of a response with status 200 reports an error."""
    if isinstance(body, list):
        return any(isinstance(entry, dict) and bool(entry.get("error")) for entry in body[:1])
    if not isinstance(body, dict):
        return False
    if body.get("error") or body.get("success") is False or body.get("object") == "error":
        return True
    if "object" in body:
        return False
    code = text_of(body.get("code"))
    if code is not None:
        return code.lower() not in _SUCCESS_CODES
    return bool(body.get("detail") or body.get("errors")) and not (body.get("data") or body.get("output"))


def _kind_by_code(status: int, error: ErrorBody, codes: Mapping[str, ErrorKind]) -> ErrorKind:
    for code in filter(None, (error.code, error.type)):
        kind = _look_up(code, codes) or _CODES.get(code)
        if kind == "quota" and code == "insufficient_quota" and is_dashscope_rate(error.all_text):
            return "rate_limit"
        # OpenAI's `type` says "invalid_request_error" of a wrong key, too.
        if kind is not None and not (kind == "invalid" and code is not error.code):
            if status == 413 and kind in _TOO_GENERAL_FOR_413:
                return "request_too_large"
            return "model" if status == 404 and kind == "invalid" else kind  # nothing at this address
    code = error.code or ""
    if code.isascii() and code.isdigit() and len(code) == 3 and int(code) in _CODES_THAT_ARE_STATUSES.get(status, ()):
        return kind_by_status(int(code))
    return kind_by_status(status) if status != 200 else "server"


def _look_up(code: str, codes: Mapping[str, ErrorKind]) -> ErrorKind | None:
    matches = (kind for pattern, kind in codes.items() if "*" in pattern and fnmatchcase(code, pattern))
    return codes.get(code) or next(matches, None)


def tokens_in(payload: Mapping[str, Any]) -> int | None:
    """`usage.total_tokens`, or None when the response does not report it."""
    usage = payload.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) and total >= 0 else None
