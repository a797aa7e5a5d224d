"""Transport failures as values, with texts that hold no URL, header, key, input text or password."""

from __future__ import annotations

import errno
import re
import socket
import ssl
from typing import TYPE_CHECKING

from multiembed.errors import ConfigurationError
from multiembed.transport.types import TransportFailure

if TYPE_CHECKING:
    from collections.abc import Mapping

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
# OpenSSL's reasons for a first response that is not TLS, by its version and the bytes.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE")
# The alerts by which a server refuses, or misses, a certificate of the client.
_CERTIFICATE_ALERT = re.compile(r"ALERT_(.*CERTIFICATE|UNKNOWN_CA)")
_STANDARD = ("builtins", "socket", "ssl")
"""Modules of exceptions whose texts hold the cause only. A client library's own may hold the URL, and with its query a
key, and may be a certificate error without the number that says which."""
_LOGIN = re.compile(r"//[^/@\s]*@")
_PARSER_MESSAGE = re.compile(r"[A-Z][\w' -]{3,80}(?=:|$)")

_CLOSED_EARLY = TransportFailure("connection", "the connection was closed before the response was whole")


def timed_out(seconds: float) -> TransportFailure:
    """Return the failure of an attempt that took too long."""
    return TransportFailure("timeout", f"no whole response within {seconds:.3g} s")


def invalid_http(message: str) -> TransportFailure:
    """Return the failure of a response that breaks the rules of HTTP, as the parser says."""
    found = _PARSER_MESSAGE.match(message)  # llhttp's are fixed, up to a colon; what follows repeats the response
    return TransportFailure("connection", f"the response is not valid HTTP{f': {found[0]}' if found else ''}")


def proxy_refused(status: int) -> TransportFailure:
    """Return the failure of a request that the proxy did not pass on. Users can mend only a wrong login (407)."""
    if status == 407:
        return TransportFailure("proxy", "the proxy responds with status 407", reason="proxy_login")
    return TransportFailure("connection", f"the proxy responds with status {status}", reason="proxy_refused")


def failure_of(error: BaseException | None, otherwise: TransportFailure = _CLOSED_EARLY) -> TransportFailure:
    """Return the failure behind a client library's exception, by the system's or OpenSSL's error that caused it."""
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or error.__context__
    causes = [each for each in chain if isinstance(each, OSError) and type(each).__module__ in _STANDARD]
    if not causes:
        return otherwise
    cause = next(filter(_reason_of, causes), causes[0])  # asyncio's and anyio's own OSErrors name no reason
    reason = _reason_of(cause)
    return TransportFailure(
        "tls" if reason is not None and "certificate" in reason else "connection",
        describe(cause),
        local=any(each.errno in _LOCAL for each in causes),
        reason=reason,
    )


def describe(error: BaseException) -> str:
    """Return an exception's class and message, cut, and without the login of a proxy."""
    return _LOGIN.sub("//…@", f"{type(error).__name__}: {error}")[:200]


def _reason_of(error: OSError) -> FailureReason | None:
    """Return the reason that an exception names, for instance None where an open connection broke."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(getattr(error, "verify_code", 0), "certificate_untrusted")
    if isinstance(error, ssl.SSLError):
        code = getattr(error, "reason", None) or ""
        return "not_tls" if code in _NOT_TLS else "client_certificate" if _CERTIFICATE_ALERT.search(code) else "tls"
    if isinstance(error, socket.gaierror):
        return "dns"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return "unreachable" if error.errno in _UNREACHABLE else None


def unsendable() -> ConfigurationError:
    """Return the error for a request that HTTP cannot carry; a library's own message would repeat the key's header."""
    return ConfigurationError("HTTP cannot carry this request: check base_url, headers and the key.")
