"""Logging under the standard logger "multiembed": never a key, never a text or what may repeat one.

INFO: pauses, the circuit breaker, learned limits and caps, and a summary of each call. DEBUG: each request with status,
milliseconds, texts, tokens, attempt and request id. WARNING: what costs extra money or time.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from multiembed.providers.types import ApiFailure
from multiembed.redaction import safe_text
from multiembed.transport.types import TransportFailure

if TYPE_CHECKING:
    from multiembed.config.request_config import RequestConfig
    from multiembed.transport.types import HttpResponse
    from multiembed.types import Usage

logger = logging.getLogger("multiembed")
_MAX_CHARACTERS = 60  # of a code or an id


def log_request(
    config: RequestConfig,
    response: HttpResponse | TransportFailure,
    result: int | ApiFailure | None,
    request_id: str | None,
    *,
    texts: int,
    attempt: int,
) -> None:
    """Log one request and its result: billed tokens or a failure, whose message is left out: it may repeat a text."""
    if not logger.isEnabledFor(logging.DEBUG):
        return
    redact = partial(safe_text, secrets=config.secrets, max_length=_MAX_CHARACTERS)
    parts = [f"{texts} texts", f"attempt {attempt}"]
    if isinstance(response, TransportFailure):
        parts.append(f"no answer ({redact(response.detail)})")
    else:
        parts.append(f"status {response.status} in {response.seconds * 1000:.0f} ms")
    if isinstance(result, ApiFailure):
        parts += [result.kind, f"code {redact(result.code)}"] if result.code else [result.kind]
    else:
        parts.append(f"{result} tokens")
    ids = (request_id, *map(response.headers.get, config.provider.request_id_headers))
    if shown_id := next(filter(None, ids), None):
        parts.append(f"request id {redact(shown_id)}")
    logger.debug("%s: %s", config.name, ", ".join(parts))


def log_call(config: RequestConfig, texts: int, usage: Usage, failed: int, seconds: float) -> None:
    """Log the summary of one call."""
    logger.info(
        "%s: %d texts in %.2f s, %d failed, %d from cache; %d requests, %d retries, %s tokens, %s CNY",
        *(config.name, texts, seconds, failed, usage.cached_texts, usage.requests, usage.retries),
        "unknown" if usage.total_tokens is None else usage.total_tokens,
        "unknown" if usage.cost is None else f"{usage.cost:.6f}",
    )
