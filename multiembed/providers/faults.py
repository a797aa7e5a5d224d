"""What providers' refusals have in common: HTTP status to kind of fault, and the caps that their words name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from multiembed.records import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed.records import FaultKind, Quota

_BY_STATUS: dict[int, FaultKind] = {
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
    425: "server",
    429: "rate_limit",
}

# Words seen in live errors, English and Chinese: DashScope ("batch size is invalid, it should not be larger than
# 10"), TEI behind SiliconFlow ("maximum allowed batch size 64"), Zhipu in both of its languages.
_CAPS = re.compile(
    r"not be larger than\s*(\d+)|maximum allowed batch size\s*(\d+)|input array max\s*(\d+)"
    r"|数组最大不得超过\s*(\d+)\s*条",
    re.IGNORECASE,
)

# DashScope: "Throttling.Concurrency", "Allocated quota exceeded" (its tokens a minute); SiliconFlow: "TPM limit
# reached", "RPM limit reached"; Zhipu: "并发数过高", "并发" for requests in flight.
_QUOTAS = re.compile(
    r"(?P<in_flight>concurren|in flight|simultaneous|并发)"
    r"|(?P<tokens>\btpm\b|tokens? per|per-token|allocat|insufficient_quota)"
    r"|(?P<requests>\b[rq]p[ms]\b|requests? per|ratequota|limit_requests|burst|频率)",
    re.IGNORECASE,
)
_QUOTA_OF: Mapping[str, Quota] = {"in_flight": "in_flight", "tokens": "tokens", "requests": "requests"}


def kind_by_status(status: int) -> FaultKind:
    """The kind of fault that an HTTP status means when the body says nothing better."""
    if status >= 500:
        return "server"
    if status < 400:
        return "malformed"
    return _BY_STATUS.get(status, "invalid")


def cap_in(message: str | None) -> int | None:
    """The number of texts per request that a refusal names, if it names one."""
    found = _CAPS.search(message or "")
    if not found:
        return None
    cap = int(next(group for group in found.groups() if group))
    return cap if cap > 0 else None


def quota_in(message: str | None) -> Quota | None:
    """What a rate limit's words say is used up, in English or Chinese; None where they do not tell."""
    found = _QUOTAS.search(message or "")
    return None if found is None else _QUOTA_OF[str(found.lastgroup)]


def plain_fault(status: int, body: object) -> Fault:
    """The judgement by status alone, for bodies that hold no envelope (bare strings, HTML, nothing)."""
    message = str(body) if body else None
    return Fault(kind_by_status(status), message=message, quota=quota_in(message))


def text_of(value: object) -> str | None:
    """A code or message as text; None when it is absent or empty."""
    return None if value is None or value == "" or isinstance(value, (dict, list)) else str(value)


def tokens_in(payload: Mapping[str, Any]) -> int | None:
    """`usage.total_tokens`, or None when the reply does not tell."""
    usage = payload.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) and total >= 0 else None
