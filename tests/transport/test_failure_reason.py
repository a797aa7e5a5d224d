"""The reason of a failed connection, on the error that a call raises."""

from __future__ import annotations

import errno
import pickle
import socket
import ssl
from contextlib import contextmanager
from itertools import pairwise

import pytest
import support.faults  # noqa: F401 - registers the faults that only tests inject
from support.scripted_proxy import scripted_proxy

from multiembed import ConnectionFailedError, EmbeddingClient, MultiEmbedError, RequestTimeoutError
from multiembed.simulator import Simulator
from multiembed.transport.failures import failure_of


@contextmanager
def closed_port():
    with socket.socket() as taken:  # bound and not listening, so that no other program gets the port meanwhile
        taken.bind(("127.0.0.1", 0))
        yield f"https://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def plain_server():
    with Simulator() as server:
        yield server.url.replace("http:", "https:")


@contextmanager
def unknown_name():
    yield "https://nowhere.invalid"


@contextmanager
def untrusted():
    with Simulator(tls="good") as server:
        yield server.url


def error_of(entry_point, url, **options):
    client = EmbeddingClient("openai-compatible:m", base_url=url, max_retries=0, timeout=10, **options)
    with client, pytest.raises(MultiEmbedError) as caught:
        entry_point(client, ["text"])
    return caught.value


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (unknown_name, "dns"),
        (closed_port, "refused"),
        (plain_server, "not_tls"),
        (untrusted, "certificate_untrusted"),
    ],
)
def test_reason_without_connection_is_named(entry_point, server, reason):
    with server() as url:
        error = error_of(entry_point, url)
    assert (type(error), error.reason) == (ConnectionFailedError, reason)


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b"HTTP/1.1 407 Login\r\n\r\n", "proxy_login"),
        (b"HTTP/1.1 403 No\r\n\r\n", "proxy_refused"),
    ],
)
def test_reason_of_proxy_is_named(entry_point, monkeypatch, response, reason):
    with scripted_proxy(response) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        error = error_of(entry_point, f"https://elsewhere-{port}.invalid")  # the way to a URL is found once
    assert (type(error), error.reason) == (ConnectionFailedError, reason)


def test_reason_of_407_response_is_proxy_login(entry_point, simulator):
    simulator.fail("proxy-407")
    error = error_of(entry_point, simulator.base_url("openai-compatible"), api_key=simulator.api_key)
    assert (error.status, error.reason) == (407, "proxy_login")


def test_reason_of_broken_connection_is_connection(entry_point, simulator):
    simulator.fail("connection-reset")
    error = error_of(entry_point, simulator.base_url("openai-compatible"), api_key=simulator.api_key)
    assert (type(error), error.reason) == (ConnectionFailedError, "connection")


def test_reason_without_response_is_timeout(entry_point, simulator, connect):
    simulator.fail("silence")
    with pytest.raises(RequestTimeoutError) as caught:
        entry_point(connect("zhipu:embedding-3", timeout=0.3, max_retries=0), ["text"])
    assert caught.value.reason == "timeout"


@pytest.mark.parametrize("fault", ["server-error", "bad-key", "truncated-json"])
def test_reason_of_complete_response_is_none(entry_point, simulator, connect, fault):
    simulator.fail(fault)
    with pytest.raises(MultiEmbedError) as caught:
        entry_point(connect("zhipu:embedding-3", max_retries=0), ["text"])
    assert caught.value.reason is None


def test_reason_survives_pickle():
    error = ConnectionFailedError("no", reason="dns")
    assert pickle.loads(pickle.dumps(error)).reason == "dns"


def certificate_error(code):
    error = ssl.SSLCertVerificationError("no")
    if code is not None:
        error.verify_code = code
    return error


class LibraryError(ssl.SSLError):
    """An HTTP library's own exception, which may repeat the URL and names no reason."""


class LibraryCertificateError(ssl.SSLCertVerificationError):
    """The same for a certificate."""


def tls_error(reason):
    error = ssl.SSLError("no")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ([certificate_error(9)], "certificate_date"),
        ([certificate_error(10)], "certificate_date"),
        ([certificate_error(62)], "certificate_host"),
        ([certificate_error(64)], "certificate_host"),
        ([certificate_error(19)], "certificate_untrusted"),
        ([certificate_error(None)], "certificate_untrusted"),
        ([LibraryCertificateError("no"), certificate_error(10)], "certificate_date"),
        ([ssl.SSLError("handshake failure")], "tls"),
        ([LibraryError("no"), tls_error("WRONG_VERSION_NUMBER")], "not_tls"),
        ([tls_error("TLSV13_ALERT_CERTIFICATE_REQUIRED")], "client_certificate"),
        ([tls_error("TLSV1_ALERT_UNKNOWN_CA")], "client_certificate"),
        ([tls_error("SSLV3_ALERT_HANDSHAKE_FAILURE")], "tls"),
        ([LibraryError("no"), certificate_error(19)], "certificate_untrusted"),
        ([OSError(errno.ENETUNREACH, "no")], "unreachable"),
        ([OSError(errno.EHOSTUNREACH, "no")], "unreachable"),
        ([OSError(errno.ETIMEDOUT, "no")], "unreachable"),
        ([ConnectionResetError(errno.ECONNRESET, "no")], None),
        ([RuntimeError("no"), ConnectionRefusedError(errno.ECONNREFUSED, "no")], "refused"),
        ([RuntimeError("no"), socket.gaierror(socket.EAI_AGAIN, "no")], "dns"),
        ([OSError("all attempts failed"), ConnectionRefusedError(errno.ECONNREFUSED, "no")], "refused"),
        ([RuntimeError("no")], None),
    ],
)
def test_failure_reason_by_exception(errors, reason):
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    assert failure_of(errors[0]).reason == reason
