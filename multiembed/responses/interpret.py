"""The judgement of an answer: vectors that can be believed, or a fault, and the error that a fault becomes."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import orjson

from multiembed import errors
from multiembed.providers.error_parsing import kind_by_status
from multiembed.providers.types import ApiFailure
from multiembed.redaction import LONGEST, safe_words
from multiembed.responses.duplicate_keys import has_duplicate_keys
from multiembed.responses.validation import IncompleteError, ValidatedVectors, validate_vectors
from multiembed.responses.vector_extraction import attach_vectors, extract_vectors
from multiembed.transport.types import TransportFailure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiembed.config.request_config import RequestConfig
    from multiembed.errors import FailureReason
    from multiembed.transport.types import HttpResponse
    from multiembed.types import ErrorKind

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FIRST_CHARACTERS = 200
"""Of a malformed body. The reason stands before it."""
_TEXT_BYTES = 64 * 1024
"""Bytes of a body that is not JSON that are looked at: an HTML page says what it is in its first lines."""

_NO_KEY = (
    "The server wants a key, and none was sent. Set {env} or pass api_key; in a worker process, set the variable "
    "there, or pass key_in_pickle=True where the embedder is made."
)
_NOTHING_THERE = "Nothing was found at {address}: check {place}, and whether there is a model {model}."
_OF_THIS_MACHINE = (
    "This machine has no files, ports or memory left for a connection to {address}. Close some, raise the limit of "
    "open files (ulimit -n), or lower max_concurrency."
)
_NO_REASON = "The request was refused, and the server gave no reason. Check model, parameters, texts and {place}."
_NOT_THE_METHOD = "{address} does not take POST requests: check {place}."
_OTHER_HEADER = (
    " If the server reads the key from another header than `Authorization: Bearer`, name it with auth_header."
)
_KEY_ALONE = " auth_header sends the key as it is, without the word Bearer. For `Authorization: Bearer`, leave it out."
# Words of a 404 that speak of the address, and of the model: Ollama "model \"x\" not found, try pulling it first",
# vLLM "The model `x` does not exist", Azure "The API deployment for this resource does not exist"; one-api "Invalid URL
# (POST /v1/v1/embeddings)", LM Studio "Unexpected endpoint or method", Express "Cannot POST /embeddings" (2026-11-28).
_OF_ADDRESS = re.compile(r"url\b|\b(path|route|endpoint or method)\b|page not found|cannot post", re.IGNORECASE)
_OF_MODEL = re.compile(r"\bmodel|modelnotfound|deployment|模型", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ErrorPolicy:
    """What follows from a kind of fault."""

    error: type[errors.MultiEmbedError]
    advice: str
    """What went wrong and what to do; may name {env}, {page}, {regions}, {place}, {model}, {known}, {address}."""
    retry: bool = False
    fatal: bool = False
    """No other text of the call can fare better: no new request goes out."""
    one_text: bool = False
    """The fault of one text: the batch is split until the culprit stands alone."""
    split: bool = False
    """The batch as a whole is too big."""


ERROR_POLICIES: Mapping[ErrorKind, ErrorPolicy] = {
    "authentication": ErrorPolicy(
        errors.AuthenticationError,
        "The key was refused. Check {env} (keys: {page}){regions}.",
        fatal=True,
    ),
    "permission": ErrorPolicy(
        errors.PermissionDeniedError,
        "The account may not do this. Check that {model} is enabled for it at {page}.",
        fatal=True,
    ),
    "quota": ErrorPolicy(
        errors.QuotaExhaustedError,
        "Money, package or plan is used up. Top up the account at {page}; waiting does not help.",
        fatal=True,
    ),
    "model": ErrorPolicy(
        errors.ModelNotFoundError,
        "There is no model {model} at {address}. Check the name{known} and {place}.",
        fatal=True,
    ),
    "tls": ErrorPolicy(
        errors.ConnectionFailedError,
        "The server's certificate is not trusted, so nothing was sent. Check base_url, and the certificates of your "
        "network (ca_bundle or SSL_CERT_FILE; client_cert where the server wants one).",
        fatal=True,
    ),
    "proxy": ErrorPolicy(
        errors.ConnectionFailedError,
        "The proxy wants a user and a password. Put them into proxy or HTTPS_PROXY (http://user:password@host:port), "
        "or except the provider's host in NO_PROXY.",
        fatal=True,
    ),
    "redirect": ErrorPolicy(
        errors.APIError,
        "{address} redirects, which is not followed, because key and texts would go along. If you trust the target, "
        "set it as base_url.",
        fatal=True,
    ),
    "rate_limit": ErrorPolicy(
        errors.RateLimitError,
        "Too many requests or tokens at a time. Lower max_concurrency, or ask the provider for a higher quota.",
        retry=True,
    ),
    "server": ErrorPolicy(errors.ServerError, "The provider failed. Try later.", retry=True),
    "timeout": ErrorPolicy(
        errors.RequestTimeoutError,
        "No whole answer came within the time of an attempt. Raise timeout, or check the network.",
        retry=True,
    ),
    "connection": ErrorPolicy(
        errors.ConnectionFailedError,
        "The connection to {address} failed. Check base_url, proxy and network.",
        retry=True,
    ),
    "malformed": ErrorPolicy(
        errors.MalformedResponseError,
        "The answer cannot be believed, so no vector of it is used. Check that base_url is an embeddings API.",
        retry=True,
    ),
    "invalid": ErrorPolicy(errors.InvalidRequestError, "The request was refused. Read the provider's words."),
    "too_many_items": ErrorPolicy(
        errors.InvalidRequestError, "Even one text is too many for one request, it says.", split=True
    ),
    "request_too_large": ErrorPolicy(
        errors.InputTooLongError, "A text is too large for one request. Shorten it or cut it up.", split=True
    ),
    "too_long": ErrorPolicy(
        errors.InputTooLongError, "A text is longer than {model} takes. Shorten it or cut it up.", one_text=True
    ),
    # Which of its two meanings it has is decided where the texts are known.
    "invalid_or_too_long": ErrorPolicy(
        errors.InvalidRequestError, "The request was refused. Read the provider's words."
    ),
    "content": ErrorPolicy(
        errors.ContentRejectedError, "A text was refused by content moderation. Leave it out.", one_text=True
    ),
}


def interpret_response(
    answer: HttpResponse | TransportFailure, target: RequestConfig, *, texts: int, dimensions: int | None
) -> ValidatedVectors | ApiFailure:
    """What an answer is worth.

    Args:
        answer: the reply, or what broke.
        target: whose codec and tables apply.
        texts: how many were sent.
        dimensions: the length every dense vector must have, where it is known.
    """
    if isinstance(answer, TransportFailure):
        return ApiFailure(answer.kind, message=answer.detail, local=answer.local)
    if 300 <= answer.status < 400:
        return ApiFailure("redirect", message=f"Location: {_host(answer.headers.get('location', ''))}")
    body = answer.body.removeprefix(_BYTE_ORDER_MARK)
    try:
        pieces = None if target.output == "sparse" else extract_vectors(body)
        if pieces:
            judged = _judge(pieces.rest, pieces.vectors, answer.status, target, texts=texts, dimensions=dimensions)
            if isinstance(judged, ValidatedVectors):
                return judged
        # Not plain and good, so that it is read whole to say what is the matter.
        return _judge(body, None, answer.status, target, texts=texts, dimensions=dimensions)
    except Exception as error:  # noqa: BLE001 - whatever a body does to its readers, it is the body's fault alone
        return _malformed(f"it cannot be read ({type(error).__name__})", answer.body, target, always=True)


def _judge(
    text: bytes,
    vectors: Mapping[str, memoryview] | None,
    status: int,
    target: RequestConfig,
    *,
    texts: int,
    dimensions: int | None,
) -> ValidatedVectors | ApiFailure:
    """What a reply is worth, from its text and the vectors that were cut out of it, if they were."""
    body, refusal = _parse(text)
    fault = _classify(status, refusal, text, target)
    if fault is not None and fault.kind != "malformed":
        return fault
    try:
        if has_duplicate_keys(text, body):
            raise ValueError("the reply says one thing twice")
        payload = {"data": body} if isinstance(body, list) else body
        if not isinstance(payload, dict):
            raise ValueError("the body is no JSON object")
        raw = target.provider.decode(payload)
        if vectors is not None:
            attach_vectors(raw.items, vectors)
        return validate_vectors(raw, texts=texts, dimensions=dimensions, output=target.output)
    except ValueError as error:
        always = not isinstance(error, IncompleteError) and not _is_damaged(text, body)
        return _malformed(str(error), text, target, bad_rows=getattr(error, "rows", ()), always=always)


def _classify(status: int, body: object, text: bytes, target: RequestConfig) -> ApiFailure | None:
    """The fault that a reply tells of. Where no known field holds words, its message is how the body begins."""
    try:
        fault = target.provider.classify(status, body)
    except Exception:  # a refusal stays one, whatever its body does to its reader
        if status < 400:
            raise
        fault = ApiFailure(kind_by_status(status))
    if fault is None or fault.message or not body:
        return fault
    return replace(fault, message=_begin(text, target, LONGEST))


def _is_damaged(text: bytes, body: object) -> bool:
    """Whether a body is empty, or begins as JSON and is not JSON: the answer was damaged on its way."""
    return isinstance(body, str) and text.lstrip()[:1] in (b"", b"{", b"[")


def _malformed(
    reason: str, body: bytes, target: RequestConfig, *, bad_rows: tuple[int, ...] = (), always: bool = False
) -> ApiFailure:
    """A malformed answer; `always` if a server that answers so twice will always do."""
    return ApiFailure(
        "malformed",
        message=f"{reason}; the body begins {_begin(body, target, _FIRST_CHARACTERS)!r}",
        bad_rows=bad_rows,
        format_error=reason if always else None,
    )


def build_error(
    fault: ApiFailure,
    target: RequestConfig,
    *,
    answer: HttpResponse | TransportFailure,
    indices: Sequence[int],
    retry_after: float | None,
) -> errors.MultiEmbedError:
    """The error that a fault becomes when nothing more can be done about it."""
    provider = target.provider
    regions = f" (regions: {', '.join(provider.regions)})" if len(provider.regions) > 1 else ""
    is_page = answer.body.lstrip()[:1] == b"<"
    advice = _advice(fault, answer.status, target, is_page=is_page).format(
        env=" or ".join(provider.key_env),
        page=provider.key_page,
        regions=f"; a key is good for one region only{regions}" if regions else "",
        place=f"base_url and region{regions}" if provider.regions else "base_url",
        model=target.model.name,
        known=" (`multiembed models` lists the known ones)" if provider.models else "",
        address=safe_words(target.shown_url, target.secrets),
    )
    secrets = target.secrets
    words = safe_words(fault.message or "", secrets)
    ours = isinstance(answer, TransportFailure) or fault.kind in ("malformed", "redirect")
    request_id = fault.request_id or next(filter(None, map(answer.headers.get, provider.request_id_headers)), "")
    reason: FailureReason | None = "proxy_login" if fault.kind == "proxy" else None
    if isinstance(answer, TransportFailure):
        reason = answer.reason or answer.kind
    return ERROR_POLICIES[fault.kind].error(
        f"{advice} ({words})" if ours and words else advice,
        provider=provider.id,
        model=target.model.name,
        status=answer.status,
        code=safe_words(fault.code or "", secrets) or None,
        provider_message=None if ours else words or None,
        request_id=safe_words(request_id, secrets) or None,
        retry_after=retry_after,
        indices=indices,
        reason=reason,
    )


def _advice(fault: ApiFailure, status: int | None, target: RequestConfig, *, is_page: bool) -> str:
    """The advice for a fault, with its fields in braces. A 404 is about the model or the address, as its words say."""
    if fault.kind == "authentication":
        return _of_key(target)
    if fault.local and fault.kind == "connection":
        return _OF_THIS_MACHINE
    if status == 405 and fault.kind == "invalid":
        return _NOT_THE_METHOD + target.provider.not_found_hint
    if fault.kind in ("invalid", "invalid_or_too_long") and not (fault.message or "").strip():
        return _NO_REASON
    if fault.kind != "model":
        return ERROR_POLICIES[fault.kind].advice
    name = re.compile(rf"(?<!\w){re.escape(target.model.name)}(?!\w)")  # a model may be called `url/path`
    words = name.sub("", f"{fault.code or ''} {fault.message or ''}")
    known = status != 404 or (_OF_MODEL.search(words) and not (is_page or _OF_ADDRESS.search(words)))
    return ERROR_POLICIES["model"].advice if known else _NOTHING_THERE + target.provider.not_found_hint


def _of_key(target: RequestConfig) -> str:
    """The advice for a key that was refused, or that was not sent."""
    if target.key is None:
        return _NO_KEY
    header = _OTHER_HEADER if target.auth_header is None else _KEY_ALONE
    return ERROR_POLICIES["authentication"].advice + (header if target.provider.needs_address else "")


def _parse(body: bytes) -> tuple[object, object]:
    """The body's JSON or else its text, and the same for reading a refusal.

    A refusal may repeat a text that holds a lone surrogate or a byte that is not UTF-8. No vector is read from that.
    """
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError:
        if b"NaN" in body or b"Infinity" in body:  # JSON has no such numbers, but Python's json module writes them
            with suppress(ValueError):
                parsed = json.loads(body)
                return parsed, parsed
        text = _text(body)
        try:
            return text, json.loads(text, strict=False)
        except (ValueError, RecursionError):
            return text, text
    return parsed, parsed


def _text(body: bytes) -> str:
    return body[:_TEXT_BYTES].decode("utf-8", "replace").removeprefix("\ufeff")


def _begin(body: bytes, target: RequestConfig, characters: int) -> str:
    """The first characters of a body, without any part of the key."""
    return safe_words(_text(body), target.secrets, longest=characters)


def _host(location: str) -> str:
    """Scheme and host alone: a redirect's query may hold what was sent."""
    try:
        parts = urlsplit(location)
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{parts.hostname}" if parts.hostname else "another path of the same host"
