"""What the package logs, under the standard logger "multiembed": never a key, never a text or what may repeat one.

INFO: pauses, the circuit breaker, learned limits and caps, and a summary of each call. DEBUG: each request with status,
milliseconds, texts, tokens, attempt and request id. WARNING: what costs money or time beyond what was asked for.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from multiembed.records import Fault, TransportFailure
from multiembed.redaction import safe_words

if TYPE_CHECKING:
    from multiembed.believe import Believed
    from multiembed.job import Answer
    from multiembed.records import Usage
    from multiembed.target import Target

logger = logging.getLogger("multiembed")
logger.addHandler(logging.NullHandler())  # a program that has not set logging up is shown nothing
_WORDS = 60
"""Characters of a code or an id in a log line."""


def log_request(target: Target, texts: int, attempt: int, answer: Answer, judged: Believed | Fault) -> None:
    """Log one request and what came of it. A server's message is left out: it may repeat a text."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    parts = [f"{texts} texts", f"attempt {attempt}"]
    request_id = judged.request_id
    if isinstance(answer, TransportFailure):
        parts.append(f"no answer ({safe_words(answer.detail, target.secrets, longest=_WORDS)})")
    else:
        parts.append(f"status {answer.status} in {answer.seconds * 1000:.0f} ms")
        request_id = request_id or next(filter(None, map(answer.headers.get, target.provider.request_id_headers)), None)
    if isinstance(judged, Fault):
        parts.append(judged.kind)
        if judged.code:
            parts.append(f"code {safe_words(judged.code, target.secrets, longest=_WORDS)}")
    else:
        parts.append(f"{judged.total_tokens} tokens")
    if request_id:
        parts.append(f"request id {safe_words(request_id, target.secrets, longest=_WORDS)}")
    logger.debug("%s: %s", target.name, ", ".join(parts))


def log_call(target: Target, texts: int, usage: Usage, failed: int, seconds: float) -> None:
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
