"""Errors that multiembed raises, as one tree.

    MultiEmbedError
      ConfigurationError            wrong before anything was sent (also a ValueError)
      APIError                      the provider rejected the request
        AuthenticationError         the key is missing, wrong or of another region
        PermissionDeniedError       the key is valid, the account may not use this
        QuotaExhaustedError         money or plan is used up: never retried
        RateLimitError              too fast, and still too fast after the retries
        InvalidRequestError         the request itself is rejected
        ModelNotFoundError          the provider does not have this model
        InputTooLongError           one text is longer than the model takes
        ContentRejectedError        one text was rejected by content moderation
        ServerError                 the provider failed, and still failed after the retries
      MalformedResponseError        a response that must not become vectors
      ConnectionFailedError         no connection, or it broke
      RequestTimeoutError           one attempt took longer than `timeout`
      DeadlineExceededError         the whole call took longer than `deadline`
      PartialFailureError           some texts failed; the others are in `.result` (multiembed.types)

None of them is a RuntimeError, because LlamaIndex's `asyncio_run` rewrites every RuntimeError into "Detected nested
async". All of them can be built from the message alone, so they can be pickled: an error that cannot be unpickled
blocks a process pool for good.
"""

from __future__ import annotations

import traceback
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Sequence


FailureReason: TypeAlias = Literal[
    "dns", "refused", "unreachable",  # no connection: unknown host name, closed port, no route
    "certificate_untrusted", "certificate_date", "certificate_host", "client_certificate", "not_tls",
    "proxy_login", "proxy_refused",  # the proxy answers 407, or refuses the tunnel
    "connection", "tls", "proxy", "timeout", "malformed",  # the kinds of failure, where nothing closer is known
]  # fmt: skip
"""Why no whole response arrived. `certificate_date`: expired, or not valid yet. `client_certificate`: missing or
refused."""


@dataclass(eq=False, repr=False)
class MultiEmbedError(Exception):
    """Root of the error tree. An attribute that is unknown, or does not apply, is None."""

    message: str = ""
    """What happened, why, and what to do."""
    _: KW_ONLY
    provider: str | None = None
    """Provider id, for instance "dashscope"."""
    model: str | None = None
    """Name of the model at the provider."""
    status: int | None = None
    """HTTP status."""
    code: str | None = None
    """The provider's error code, as text."""
    provider_message: str | None = None
    """The provider's message, shortened."""
    request_id: str | None = None
    """The provider's id of the request, for its support."""
    retry_after: float | None = None
    """Seconds that the provider asks to wait."""
    indices: Sequence[int] = ()
    """Positions of the texts concerned in the caller's list, as a tuple."""
    reason: FailureReason | None = None
    """Why no whole response arrived."""

    def __post_init__(self) -> None:
        self.indices = tuple(self.indices)

    def __str__(self) -> str:
        names = ("provider", "model", "status", "code", "request_id", "retry_after")
        texts = ", ".join(map(str, self.indices[:5]))
        texts += f", … ({len(self.indices)} in all)" if len(self.indices) > 5 else ""
        facts = {name: getattr(self, name) for name in names} | {"texts": texts}
        shown = ", ".join(f"{name}={value}" for name, value in facts.items() if value not in (None, ""))
        quoted = f" The provider said: {self.provider_message!r}." if self.provider_message else ""
        return f"{self.message}{quoted} [{shown}]" if shown else f"{self.message}{quoted}"


class ModelNameWarning(UserWarning):
    """A model is not in the catalog, and has nearly the name of one that is."""


class ConfigurationError(MultiEmbedError, ValueError):
    """An option, a key, an address or an item of the texts is wrong; nothing was sent."""


class APIError(MultiEmbedError):
    """The provider rejected the request."""


class AuthenticationError(APIError):
    """The key is missing, wrong, or belongs to another region."""


class PermissionDeniedError(APIError):
    """The key is good, but the account may not use this model or workspace."""


class QuotaExhaustedError(APIError):
    """Money or plan is used up. Waiting does not help, so it is never retried."""


class RateLimitError(APIError):
    """Too many requests or tokens at a time, and still too many after the retries."""


class InvalidRequestError(APIError):
    """The request itself is refused; a retry gives the same response."""


class ModelNotFoundError(APIError):
    """The provider has no such model, or none under this key."""


class InputTooLongError(APIError):
    """One text is longer than the model takes."""


class ContentRejectedError(APIError):
    """One text was refused by the provider's content moderation."""


class ServerError(APIError):
    """The provider failed, and still failed after the retries."""


class MalformedResponseError(MultiEmbedError):
    """The response failed validation: incomplete, mixed up, or not numbers."""


class ConnectionFailedError(MultiEmbedError):
    """The connection failed, or broke before the response was whole."""


class RequestTimeoutError(MultiEmbedError):
    """One attempt took longer than `timeout` seconds."""


class DeadlineExceededError(MultiEmbedError):
    """The whole call took longer than `deadline` seconds."""


class QuotaWarning(UserWarning):
    """The processes that share a quota cannot reach each other; each goes on with its share of the quota."""


def unexpected(error: Exception, *, provider: str, model: str) -> MultiEmbedError:
    """Make the error for an unexpected exception. Its message may repeat anything, so only its place is named."""
    where = ""
    for frame, line in traceback.walk_tb(error.__traceback__):  # the last one counts
        where = f" in {frame.f_globals.get('__name__', '?')}, line {line}"
    message = f"An unexpected {type(error).__name__}{where} stopped these texts; other texts are not affected."
    advice = "Please report it, with what was embedded and the version of multiembed."
    return MultiEmbedError(f"{message} {advice}", provider=provider, model=model)
