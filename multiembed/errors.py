"""Every error that multiembed raises, as one tree.

    MultiEmbedError
      ConfigurationError            wrong before anything was sent (also a ValueError)
      APIError                      the provider said no
        AuthenticationError         the key is missing, wrong or of another region
        PermissionDeniedError       the key is good, the account may not use this
        QuotaExhaustedError         money or plan used up: never retried
        RateLimitError              too fast, and still too fast after the retries
        InvalidRequestError         the provider (or we, for it) refuses the request
        ModelNotFoundError          no such model there
        InputTooLongError           one text is longer than the model takes
        ContentRejectedError        one text was refused by content moderation
        ServerError                 the provider failed, and still failed after the retries
      MalformedResponseError        an answer that must not become vectors
      ConnectionFailedError         no connection, or it broke
      RequestTimeoutError           one attempt took longer than `timeout`
      DeadlineExceededError         the whole call took longer than `deadline`
      PartialFailureError           some texts failed; the others are in `.result`

None of them is a RuntimeError, because LlamaIndex's `asyncio_run` rewrites every RuntimeError into
"Detected nested async". All of them can be built from the message alone, so they survive pickle: an
error that cannot be unpickled hangs a process pool for ever.
"""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence


FailureReason: TypeAlias = Literal[
    "dns", "refused", "unreachable",  # no connection: no such name, no such port, no way there
    "certificate_untrusted", "certificate_date", "certificate_host", "client_certificate", "not_tls",
    "proxy_login", "proxy_refused",  # the proxy answers 407, or refuses the tunnel
    "connection", "tls", "proxy", "timeout", "malformed",  # the kinds of failure, where nothing closer is known
]  # fmt: skip
"""Why no whole answer came."""


class MultiEmbedError(Exception):
    """The root of the tree.

    Attributes:
        message: what went wrong and what to do about it.
        provider: provider id, for instance "dashscope".
        model: model name as the provider knows it.
        status: HTTP status, where there was one.
        code: the provider's own error code, as text.
        provider_message: the provider's own words, shortened.
        request_id: the provider's id of the request, for its support.
        retry_after: seconds the provider asks to wait, where it said so.
        indices: positions, in the caller's list, of the texts concerned.
        reason: why no whole answer came, where none came: "dns", "refused", "unreachable", "certificate_untrusted",
            "certificate_date" (expired, or not valid yet), "certificate_host", "client_certificate" (missing or
            refused), "not_tls", "tls", "proxy_login", "proxy_refused", "proxy", "timeout", "malformed", or
            "connection" for any other.
    """

    def __init__(
        self,
        message: str = "",
        *,
        provider: str | None = None,
        model: str | None = None,
        status: int | None = None,
        code: str | None = None,
        provider_message: str | None = None,
        request_id: str | None = None,
        retry_after: float | None = None,
        indices: Sequence[int] = (),
        reason: FailureReason | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.provider = provider
        self.model = model
        self.status = status
        self.code = code
        self.provider_message = provider_message
        self.request_id = request_id
        self.retry_after = retry_after
        self.indices: tuple[int, ...] = tuple(indices)
        self.reason = reason

    def __str__(self) -> str:
        facts = {name: getattr(self, name) for name in _SHOWN} | {"texts": _shorten(self.indices)}
        shown = ", ".join(f"{name}={value}" for name, value in facts.items() if value not in (None, ""))
        message = self.message
        if self.provider_message:
            message = f"{message} The provider said: {self.provider_message!r}."
        return f"{message} [{shown}]" if shown else message


_SHOWN = ("provider", "model", "status", "code", "request_id", "retry_after")


def _shorten(indices: tuple[int, ...]) -> str:
    shown = ", ".join(str(index) for index in indices[:5])
    return f"{shown}, … ({len(indices)} in all)" if len(indices) > 5 else shown


class ConfigurationError(MultiEmbedError, ValueError):
    """Wrong before anything was sent: an option, a key, an address, or a text that is no text."""


class APIError(MultiEmbedError):
    """The provider said no."""


class AuthenticationError(APIError):
    """The key is missing, wrong, or belongs to another region."""


class PermissionDeniedError(APIError):
    """The key is good, but the account may not use this model or workspace."""


class QuotaExhaustedError(APIError):
    """Money or plan is used up. Waiting does not help, so it is never retried."""


class RateLimitError(APIError):
    """Too many requests or tokens at a time, and still too many after the retries."""


class InvalidRequestError(APIError):
    """The request itself is refused; sending it again gives the same answer."""


class ModelNotFoundError(APIError):
    """The provider has no such model, or none under this key."""


class InputTooLongError(APIError):
    """One text is longer than the model takes."""


class ContentRejectedError(APIError):
    """One text was refused by the provider's content moderation."""


class ServerError(APIError):
    """The provider failed, and still failed after the retries."""


class MalformedResponseError(MultiEmbedError):
    """An answer that must not become vectors: incomplete, mixed up, or not numbers."""


class ConnectionFailedError(MultiEmbedError):
    """The connection could not be made, or broke before the answer was whole."""


class RequestTimeoutError(MultiEmbedError):
    """One attempt took longer than `timeout` seconds."""


class DeadlineExceededError(MultiEmbedError):
    """The whole call took longer than `deadline` seconds."""


def unexpected(error: Exception, *, provider: str, model: str) -> MultiEmbedError:
    """The error for an exception that no code expects. Its words may repeat anything, so only its place is named."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):  # the last one counts
        place = f" in {frame.f_globals.get('__name__', '?')}, line {line}"
    return MultiEmbedError(
        f"An unexpected {type(error).__name__}{place} stopped these texts; other texts are not affected. Please report "
        "it, with what was embedded and the version of multiembed.",
        provider=provider,
        model=model,
    )
