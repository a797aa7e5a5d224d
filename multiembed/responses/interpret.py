"""Interpretation of a response: validated vectors, or a failure with its error kind. No I/O."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

from multiembed.providers.error_parsing import kind_by_status
from multiembed.providers.types import ApiFailure
from multiembed.redaction import MAX_LENGTH, safe_text
from multiembed.responses.duplicate_keys import has_duplicate_keys
from multiembed.responses.validation import BadRowsError, IncompleteError, ValidatedVectors, validate_vectors
from multiembed.responses.vector_extraction import attach_vectors, extract_vectors
from multiembed.transport.types import TransportFailure

if TYPE_CHECKING:
    from multiembed.config.request_config import RequestConfig
    from multiembed.transport.types import HttpResponse

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MAX_EXCERPT = 200
"""Characters of a malformed body in an error. The reason stands before it."""
_MAX_TEXT_BYTES = 64 * 1024
"""Bytes of a body that is not JSON that are read: an HTML page says what it is in its first lines."""


def interpret_response(
    response: HttpResponse | TransportFailure, config: RequestConfig, *, texts: int, dimensions: int | None
) -> ValidatedVectors | ApiFailure:
    """Interpret a response to so many texts; its vectors must have the given dimensions, where these are known."""
    if isinstance(response, TransportFailure):
        return ApiFailure(response.kind, message=response.detail, local=response.local)
    if 300 <= response.status < 400:
        return ApiFailure("redirect", message=f"Location: {_origin(response.headers.get('location', ''))}")
    body = response.body.removeprefix(_BYTE_ORDER_MARK)
    try:
        extracted = None if config.output == "sparse" else extract_vectors(body)
        result = extracted and _interpret_body(*extracted, response.status, config, texts, dimensions)
        if isinstance(result, ValidatedVectors):
            return result
        # Parse the whole body to report what is wrong.
        return _interpret_body(body, {}, response.status, config, texts, dimensions)
    except Exception as error:  # noqa: BLE001 - any exception means that the body is not valid
        return _malformed(f"it cannot be read ({type(error).__name__})", response.body, config, permanent=True)


def _interpret_body(
    text: bytes, vectors: dict[str, memoryview], status: int, config: RequestConfig, texts: int, dimensions: int | None
) -> ValidatedVectors | ApiFailure:
    """Interpret a body, or the rest of one from which the vectors were extracted."""
    body, error_body = _parse(text)
    failure = _classify(status, error_body, text, config)
    if failure is not None and failure.kind != "malformed":
        return failure
    try:
        if has_duplicate_keys(text, body):
            raise ValueError("an object of the response holds a key twice")
        payload = {"data": body} if isinstance(body, list) else body
        if not isinstance(payload, dict):
            raise ValueError("the body is not a JSON object")
        decoded = config.provider.decode(payload)
        if vectors:
            attach_vectors(decoded.items, vectors)
        return validate_vectors(decoded, texts=texts, dimensions=dimensions, output=config.output)
    except ValueError as error:
        # A body that is empty, or begins as JSON and is not JSON, was damaged on its way.
        damaged = isinstance(body, str) and text.lstrip()[:1] in (b"", b"{", b"[")
        rows = error.rows if isinstance(error, BadRowsError) else ()
        permanent = not isinstance(error, IncompleteError) and not damaged
        return _malformed(str(error), text, config, bad_rows=rows, permanent=permanent)


def _classify(status: int, body: object, text: bytes, config: RequestConfig) -> ApiFailure | None:
    """Classify an error response. Where no known field holds a message, it is the beginning of the body."""
    try:
        failure = config.provider.classify(status, body)
    except Exception:  # a rejection stays one, whatever its body does to the parser
        if status < 400:
            raise
        failure = ApiFailure(kind_by_status(status))
    if failure is None or failure.message or not body:
        return failure
    return replace(failure, message=_excerpt(text, config, MAX_LENGTH))


def _malformed(
    reason: str, body: bytes, config: RequestConfig, *, bad_rows: tuple[int, ...] = (), permanent: bool
) -> ApiFailure:
    """Build the failure of a response that is not valid; `permanent` if a server that sends it twice always will."""
    message = f"{reason}; the body begins {_excerpt(body, config, _MAX_EXCERPT)!r}"
    return ApiFailure("malformed", message=message, bad_rows=bad_rows, format_error=reason if permanent else None)


def _parse(body: bytes) -> tuple[object, object]:
    """Parse a body: its JSON or else its text, and the same for an error response.

    An error response may repeat a text with a lone surrogate or a byte that is not UTF-8. No vector is read from that.
    """
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        if b"NaN" in body or b"Infinity" in body:  # JSON has no such numbers, but Python's json module writes them
            with suppress(ValueError):
                parsed = json.loads(body)
                return parsed, parsed
        text = _decode(body)
        try:
            return text, json.loads(text, strict=False)
        except (ValueError, RecursionError):
            return text, text
    return parsed, parsed


def _decode(body: bytes) -> str:
    return body[:_MAX_TEXT_BYTES].decode("utf-8", "replace").removeprefix("\ufeff")


def _excerpt(body: bytes, config: RequestConfig, characters: int) -> str:
    return safe_text(_decode(body), config.secrets, max_length=characters)


def _origin(location: str) -> str:
    """Return scheme and host of a redirect: its query may hold what was sent."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{parts.hostname}" if parts.hostname else "another path of the same host"
