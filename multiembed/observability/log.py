"""What the package logs, under the standard logger "multiembed": never a key, never a text or what may repeat one.

INFO: pauses, the circuit breaker, learned limits and caps, and a summary of each call. DEBUG: each request with status,
milliseconds, texts, tokens, attempt and request id. WARNING: what costs money or time beyond what was asked for.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from multiembed.redaction import safe_words
from multiembed.transport.types import TransportFailure

if TYPE_CHECKING:
    from multiembed.config.request_config import RequestConfig
    from multiembed.providers.types import ApiFailure
    from multiembed.transport.types import HttpResponse
    from multiembed.types import Usage

logger = logging.getLogger("multiembed")
_WORDS = 60
"""Characters of a code or an id in a log line."""


def log_request(
    target: RequestConfig,
    answer: HttpResponse | TransportFailure,
    *,
    texts: int,
    attempt: int,
    fault: ApiFailure | None,
    tokens: int | None,
    request_id: str | None,
) -> None:
    """Log one request and what came of it. A server's message is left out: it may repeat a text."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    parts = [f"{texts} texts", f"attempt {attempt}"]
    if isinstance(answer, TransportFailure):
        parts.append(f"no answer ({safe_words(answer.detail, target.secrets, longest=_WORDS)})")
    else:
        parts.append(f"status {answer.status} in {answer.seconds * 1000:.0f} ms")
        request_id = request_id or next(filter(None, map(answer.headers.get, target.provider.request_id_headers)), None)
    if fault is not None:
        parts.append(fault.kind)
        if fault.code:
            parts.append(f"code {safe_words(fault.code, target.secrets, longest=_WORDS)}")
    else:
        parts.append(f"{tokens} tokens")
    if request_id:
        parts.append(f"request id {safe_words(request_id, target.secrets, longest=_WORDS)}")
    logger.debug("%s: %s", target.name, ", ".join(parts))


def log_call(target: RequestConfig, texts: int, usage: Usage, failed: int, seconds: float) -> None:
    """Log what one call took."""
    if not logger.isEnabledFor(logging.INFO):
        return
    logger.info(
        "%s: %d texts in %.2f s, %d failed, %d from cache; %d requests, %d retries, %s tokens, %s CNY",
        target.name,
        texts,
        seconds,
        failed,
        usage.cached_texts,
        usage.requests,
        usage.retries,
        "unknown" if usage.total_tokens is None else usage.total_tokens,
        "unknown" if usage.cost is None else f"{usage.cost:.6f}",
    )
