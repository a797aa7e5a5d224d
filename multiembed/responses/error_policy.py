"""Error policy: the exception, the advice and the consequence (retry, stop the call, split) of each error kind."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from multiembed import errors
from multiembed.redaction import safe_text
from multiembed.transport.types import TransportFailure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiembed.config.request_config import RequestConfig
    from multiembed.providers.types import ApiFailure
    from multiembed.transport.types import HttpResponse
    from multiembed.types import ErrorKind

_NO_KEY = (
    "The server requires a key, and none was sent. Set {env} or pass api_key; in a worker process, set the variable "
    "there, or pass key_in_pickle=True where the embedder is made."
)
_NOT_FOUND = "Nothing was found at {address}: check {place}, and whether there is a model {model}."
_LOCAL_RESOURCES = (
    "This machine has no files, ports or memory left for a connection to {address}. Close some, raise the limit of "
    "open files (ulimit -n), or lower max_concurrency."
)
_NOT_TRUSTED = (
    "The server's certificate is not trusted, so nothing was sent. Check base_url, and the certificates of your "
    "network (ca_bundle or SSL_CERT_FILE; client_cert if the server requires one)."
)
_PROXY_LOGIN = (
    "The proxy requires a user and a password. Put them into proxy or HTTPS_PROXY (http://user:password@host:port), "
    "or add the provider's host to NO_PROXY."
)
_REDIRECT = (
    "{address} redirects, which is not followed, because key and texts would go along. If you trust the target, "
    "set it as base_url."
)
_NO_REASON = "The request was refused, and the server gave no reason. Check model, parameters, texts and {place}."
_WRONG_METHOD = "{address} does not take POST requests: check {place}."
_OTHER_HEADER = (
    " If the server reads the key from another header than `Authorization: Bearer`, name it with auth_header."
)
_BARE_KEY = " auth_header sends the key as it is, without the word Bearer. For `Authorization: Bearer`, leave it out."
_READ_MESSAGE = "The request was refused. Read the provider's message."
# Messages of a 404 about the model: Ollama "model \"x\" not found, try pulling it first", vLLM "The model `x` does not
# exist", Azure "The API deployment for this resource does not exist"; about the address: one-api "Invalid URL (POST
# /v1/v1/embeddings)", LM Studio "Unexpected endpoint or method", Express "Cannot POST /embeddings" (2026-11-28).
_OF_ADDRESS = re.compile(r"url\b|\b(path|route|endpoint or method)\b|page not found|cannot post", re.IGNORECASE)
_OF_MODEL = re.compile(r"\bmodel|modelnotfound|deployment|模型", re.IGNORECASE)


ERRORS_BY_KIND: Mapping[ErrorKind, tuple[type[errors.MultiEmbedError], str]] = {
    "authentication": (errors.AuthenticationError, "The key was refused. Check {env} (keys: {page}){regions}."),
    "permission": (
        errors.PermissionDeniedError,
        "The account may not do this. Check that {model} is enabled for it at {page}.",
    ),
    "quota": (
        errors.QuotaExhaustedError,
        "The account's credit, package or plan is used up. Top it up on the provider's billing page. Do not wait.",
    ),
    "model": (errors.ModelNotFoundError, "There is no model {model} at {address}. Check the name{known} and {place}."),
    "tls": (errors.ConnectionFailedError, _NOT_TRUSTED),
    "proxy": (errors.ConnectionFailedError, _PROXY_LOGIN),
    "redirect": (errors.APIError, _REDIRECT),
    "rate_limit": (
        errors.RateLimitError,
        "Too many requests or tokens at a time. Lower max_concurrency, or ask the provider for a higher quota.",
    ),
    "server": (errors.ServerError, "The provider failed. Try later."),
    "timeout": (
        errors.RequestTimeoutError,
        "No complete response came within the timeout. Raise timeout, or check the network.",
    ),
    "connection": (
        errors.ConnectionFailedError,
        "The connection to {address} failed. Check base_url, proxy and network.",
    ),
    "malformed": (
        errors.MalformedResponseError,
        "The response is not valid, so no vector of it is used. Check that base_url is an embeddings API.",
    ),
    "invalid": (errors.InvalidRequestError, _READ_MESSAGE),
    "too_many_items": (errors.InvalidRequestError, "Even one text is too many for one request, the provider says."),
    "request_too_large": (errors.InputTooLongError, "A text is too large for one request. Shorten it or cut it up."),
    "too_long": (errors.InputTooLongError, "A text is longer than {model} takes. Shorten it or cut it up."),
    "invalid_or_too_long": (errors.InvalidRequestError, _READ_MESSAGE),
    "content": (errors.ContentRejectedError, "A text was refused by content moderation. Leave it out."),
}
"""Exception of each error kind, and its advice: what happened and what to do. An advice may name {env}, {page},
{regions}, {place}, {model}, {known} and {address}."""
RETRYABLE: frozenset[ErrorKind] = frozenset(("rate_limit", "server", "timeout", "connection", "malformed"))
FATAL: frozenset[ErrorKind] = frozenset(("authentication", "permission", "quota", "model", "tls", "proxy", "redirect"))
"""Kinds after which no other text of the call can succeed, so that no request is sent any more."""
OF_ONE_TEXT: frozenset[ErrorKind] = frozenset(("too_long", "content"))
"""Kinds with one text as their cause: the batch is split until that text is alone."""
OF_WHOLE_BATCH: frozenset[ErrorKind] = frozenset(("too_many_items", "request_too_large"))
"""Kinds of a batch that is too large, and is split."""


def build_error(
    failure: ApiFailure,
    config: RequestConfig,
    response: HttpResponse | TransportFailure,
    indices: Sequence[int],
    retry_after: float | None,
) -> errors.MultiEmbedError:
    """Build the exception for a failure that is final, without any part of a key."""
    provider, secrets = config.provider, config.secrets
    not_sent = response if isinstance(response, TransportFailure) else None
    message = safe_text(failure.message or "", secrets)
    is_own_message = not_sent is not None or failure.kind in ("malformed", "redirect")
    request_id = failure.request_id or next(filter(None, map(response.headers.get, provider.request_id_headers)), "")
    regions = f" (regions: {', '.join(provider.regions)})" if len(provider.regions) > 1 else ""
    advice = _advice(failure, config, response).format(
        env=" or ".join(provider.key_env),
        page=provider.key_page,
        regions=f"; a key is good for one region only{regions}" if regions else "",
        place=f"base_url and region{regions}" if provider.regions else "base_url",
        model=config.model.name,
        known=" (`multiembed models` lists the known ones)" if provider.models else "",
        address=safe_text(config.shown_url, secrets),
    )
    return ERRORS_BY_KIND[failure.kind][0](
        f"{advice} ({message})" if is_own_message and message else advice,
        provider=provider.id,
        model=config.model.name,
        status=response.status,
        code=safe_text(failure.code or "", secrets) or None,
        provider_message=None if is_own_message else message or None,
        request_id=safe_text(request_id, secrets) or None,
        retry_after=retry_after,
        indices=indices,
        reason=(not_sent.reason or not_sent.kind) if not_sent else "proxy_login" if failure.kind == "proxy" else None,
    )


def _advice(failure: ApiFailure, config: RequestConfig, response: HttpResponse | TransportFailure) -> str:
    """Return the advice for a failure, with its fields in braces."""
    kind, provider, message = failure.kind, config.provider, failure.message or ""
    _, advice = ERRORS_BY_KIND[kind]
    if kind == "authentication":
        if config.key is None:
            return _NO_KEY
        header = _OTHER_HEADER if config.auth_header is None else _BARE_KEY
        return advice + (header if provider.needs_address else "")
    if failure.local and kind == "connection":
        return _LOCAL_RESOURCES
    if response.status == 405 and kind == "invalid":
        return _WRONG_METHOD + provider.not_found_hint
    if kind == "model" and response.status == 404:  # the message tells whether it is about model or address
        name = re.compile(rf"(?<!\w){re.escape(config.model.name)}(?!\w)")  # a model may be called `url/path`
        said = name.sub("", f"{failure.code or ''} {message}")
        is_page = response.body.lstrip()[:1] == b"<"
        if is_page or _OF_ADDRESS.search(said) or not _OF_MODEL.search(said):
            return _NOT_FOUND + provider.not_found_hint
    is_reason_missing = kind in ("invalid", "invalid_or_too_long") and not message.strip()
    return _NO_REASON if is_reason_missing else advice
