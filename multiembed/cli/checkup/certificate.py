"""The handshake with a host, and what is wrong with a certificate that is not trusted."""

from __future__ import annotations

import os
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import certifi

from multiembed.cli.checkup.findings import Finding, milliseconds
from multiembed.cli.checkup.route import dial, tunnel

if TYPE_CHECKING:
    import socket

    from multiembed.cli.checkup.route import Route

# OpenSSL's X509_V_ERR_… numbers, which are the same in all its versions.
_TOO_EARLY, _EXPIRED, _OTHER_NAME, _OTHER_NUMBER = 9, 10, 62, 64


def look(sock: socket.socket, route: Route, timeout: float) -> Finding:
    """Shake hands as the client would: certifi's authorities, unless SSL_CERT_FILE or SSL_CERT_DIR name others."""
    begun = time.perf_counter()
    sock.settimeout(timeout)
    try:
        with _context().wrap_socket(sock, server_hostname=route.host) as secured:
            seconds = time.perf_counter() - begun
            says = f"{secured.version()}, certificate trusted ({milliseconds(seconds)})"
            return Finding(name="TLS", state="ok", says=says, facts={"seconds": seconds, **_trust()})
    except ssl.SSLCertVerificationError as error:
        says, advice = _distrust(error, route, timeout)
    except TimeoutError:
        says, advice = f"no handshake within {timeout:g} s", _interrupted(route)
    except ssl.SSLError as error:
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"):
            says = f"port {route.port} does not speak TLS"
            advice = "Check its port in the address. Plain http:// is taken on this machine only."
        else:
            says, advice = f"the handshake fails ({error.reason or type(error).__name__})", _interrupted(route)
    except OSError as error:
        says, advice = f"the handshake breaks off ({type(error).__name__})", _interrupted(route)
    return Finding(name="TLS", state="fail", says=says, advice=advice, facts=_trust())


def _context() -> ssl.SSLContext:
    if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context()
    return ssl.create_default_context(cafile=certifi.where())


def _trust() -> dict[str, str]:
    """Which certificates are trusted; paths are the machine's and stay out."""
    named = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
    return {"authorities": named[0] if named else "certifi"}


def _interrupted(route: Route) -> str:
    return (
        f"A firewall may refuse {route.host} by its name, or what answers there is no API. In a company's "
        "network, ask for its proxy (HTTPS_PROXY)."
    )


def _distrust(error: ssl.SSLCertVerificationError, route: Route, timeout: float) -> tuple[str, str]:
    code = error.verify_code
    if code in (_EXPIRED, _TOO_EARLY):
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
        return (
            f"the certificate {'has expired' if code == _EXPIRED else 'is not yet valid'}, by this machine's clock",
            f"The clock says {now}. If that is wrong, set it; else the server's owner must renew the certificate.",
        )
    if code in (_OTHER_NAME, _OTHER_NUMBER):
        return (
            f"the certificate is for another host than {route.host}",
            "Check the host in the address. A sign-in page of the network may stand in between, too.",
        )
    signer = _signer(route, timeout)
    says = f"the certificate is not trusted{f', signed by {signer!r}' if signer else ''} ({error.verify_message})"
    return says, _mend_trust()


def _mend_trust() -> str:
    file = os.environ.get("SSL_CERT_FILE")
    if file and not Path(file).is_file():
        return "SSL_CERT_FILE names a file that is not there: correct or unset it."
    if file or os.environ.get("SSL_CERT_DIR"):
        name = "SSL_CERT_FILE" if file else "SSL_CERT_DIR"
        return f"{name} is used, and does not hold this authority: add its certificate there, or unset {name}."
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if os.environ.get(name):
            return f"{name} is set, which is not read here: set SSL_CERT_FILE to the same file."
    return (
        "If a company's proxy looks inside connections, set SSL_CERT_FILE to a PEM file with its root certificate. "
        "Otherwise somebody is in between, or the address is wrong: do not send a key there."
    )


def _signer(route: Route, timeout: float) -> str | None:
    """Who signed a certificate that is not trusted: of a company's proxy, this is the name to ask for.

    Only a certificate that is trusted can be read, so it is trusted alone, for a second handshake that sends nothing.
    """
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.check_hostname, blind.verify_mode = False, ssl.CERT_NONE
    seeing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    seeing.check_hostname = False
    seeing.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    try:
        with _shake(blind, route, timeout) as secured:
            seeing.load_verify_locations(cadata=secured.getpeercert(binary_form=True) or b"")
        with _shake(seeing, route, timeout) as secured:
            issuer: Any = (secured.getpeercert() or {}).get("issuer", ())
    except (OSError, ValueError):
        return None
    names = {name: value for part in issuer for name, value in part}
    return names.get("organizationName") or names.get("commonName")


def _shake(context: ssl.SSLContext, route: Route, timeout: float) -> ssl.SSLSocket:
    with dial(route, timeout) as sock:  # what is wrapped is detached, and so not closed here
        tunnel(sock, route)
        return context.wrap_socket(sock, server_hostname=route.host)
