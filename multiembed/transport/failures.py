"""Failures of the transport as values, and the words for them: without URL, header, key, text or password."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from typing import TYPE_CHECKING

from multiembed.errors import ConfigurationError
from multiembed.transport.types import TransportFailure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from multiembed.errors import FailureReason

_LOCAL = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
"""This machine is out of files, buffers, memory or ports."""
_UNREACHABLE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN, errno.ETIMEDOUT)
# OpenSSL's X509_V_ERR_... numbers, the same in all its versions (openssl/x509_vfy.h, read 2026-11-28).
_BY_VERIFY_CODE: Mapping[int, FailureReason] = {
    9: "certificate_date",  # CERT_NOT_YET_VALID
    10: "certificate_date",  # CERT_HAS_EXPIRED
    62: "certificate_host",  # HOSTNAME_MISMATCH
    64: "certificate_host",  # IP_ADDRESS_MISMATCH
}
# What OpenSSL makes of a first answer that is not TLS, by its version and the bytes.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
# The alerts by which a server refuses, or misses, a certificate of the client.
_CERTIFICATE_ALERT = re.compile(r"ALERT_(.*CERTIFICATE|UNKNOWN_CA)")
# A client library's own exception may be a certificate error or an SSLError without the number or the reason, as
# aiohttp's are. The standard library's exception behind it knows more.
_GENERAL: Sequence[FailureReason] = ("certificate_untrusted", "tls")
_TRUSTED = ("builtins", "socket", "ssl")
"""Modules of the exceptions that say what went wrong, and no more."""
_LOGIN = re.compile(r"//[^/@\s]*@")
_PARSER_WORDS = re.compile(r"[A-Z][A-Za-z' -]{3,80}(?=:|$)|it [a-z ]+$")
_MAX_WORDS = 200

_CLOSED_EARLY = TransportFailure("connection", "the connection was closed before the answer was whole")
BROKEN_COMPRESSION = TransportFailure("malformed", "the answer's compression is broken")


def timed_out(seconds: float) -> TransportFailure:
    """The failure of an attempt that took too long."""
    return TransportFailure("timeout", f"no whole answer within {seconds:.3g} s")


def too_large(max_bytes: int) -> TransportFailure:
    """The failure of an answer above the cap."""
    return TransportFailure("malformed", f"the answer is larger than {max_bytes:,} bytes")


def not_http(reason: str) -> TransportFailure:
    """The failure of an answer that breaks the rules of HTTP.

    Args:
        reason: the parser's words. Those of llhttp are fixed, up to a colon; what follows repeats the answer.
    """
    found = _PARSER_WORDS.match(reason)
    return TransportFailure("connection", f"the answer is not valid HTTP{f': {found[0]}' if found else ''}")


def proxy_refused(status: int) -> TransportFailure:
    """The failure of a request that the proxy did not pass on. Only a login (407) is the user's to mend."""
    if status == 407:
        return TransportFailure("proxy", "the proxy answers 407", reason="proxy_login")
    return TransportFailure("connection", f"the proxy answers {status}", reason="proxy_refused")


def failure_of(error: BaseException, otherwise: TransportFailure = _CLOSED_EARLY) -> TransportFailure:
    """The failure behind an exception of a library: a certificate or a connection.

    The words are those of the system's or OpenSSL's error in the chain of causes: an HTTP library's own words may
    hold the URL, and with its query a key.

    Args:
        error: the exception.
        otherwise: the failure if there is no such error in the chain.
    """
    chain = causes_of(error)
    cause = next((each for each in chain if isinstance(each, OSError) and type(each).__module__ in _TRUSTED), None)
    if cause is None:
        return otherwise
    reason = failure_reason(chain)
    return TransportFailure(
        "tls" if reason is not None and "certificate" in reason else "connection",
        words_of(cause),
        local=any(getattr(each, "errno", None) in _LOCAL for each in chain),
        reason=reason,
    )


def words_of(error: BaseException) -> str:
    """An exception's class and words, cut, and without the login of a proxy."""
    return _LOGIN.sub("//…@", f"{type(error).__name__}: {error}")[:_MAX_WORDS]


def failure_reason(errors: Sequence[BaseException]) -> FailureReason | None:
    """Return the reason why a connection could not be made.

    Args:
        errors: an exception and its causes, outermost first.

    Returns:
        The reason; None where the exceptions name none, for instance because an open connection broke.
    """
    found = [reason for reason in map(_reason_of, errors) if reason]
    return min(found, key=lambda reason: _GENERAL.index(reason) if reason in _GENERAL else -1, default=None)


def _reason_of(error: BaseException) -> FailureReason | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(getattr(error, "verify_code", 0), "certificate_untrusted")
    if isinstance(error, ssl.SSLError):
        words = getattr(error, "reason", None) or ""
        return "not_tls" if words in _NOT_TLS else "client_certificate" if _CERTIFICATE_ALERT.search(words) else "tls"
    if isinstance(error, socket.gaierror):
        return "dns"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return "unreachable" if isinstance(error, OSError) and error.errno in _UNREACHABLE else None


def causes_of(error: BaseException | None) -> list[BaseException]:
    """An exception and what caused it, down to the system's own."""
    causes: list[BaseException] = []
    while error is not None and error not in causes:
        causes.append(error)
        nested = next((part for part in error.args if isinstance(part, BaseException)), None)
        error = error.__cause__ or error.__context__ or nested
    return causes


def unsendable() -> ConfigurationError:
    """The error for a request that HTTP cannot carry; a library's own words would repeat the header, and so the key."""
    return ConfigurationError("HTTP cannot carry this request: check base_url, headers and the key.")
