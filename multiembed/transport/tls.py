"""TLS contexts: trusted certificate authorities and client certificates."""

from __future__ import annotations

import functools
import importlib
import os
import ssl
from pathlib import Path

import certifi

from multiembed.errors import ConfigurationError


@functools.cache
def ssl_context(ca_bundle: str | None, client_cert: str | tuple[str, str] | None) -> ssl.SSLContext:
    """Return the context for two of the settings, shared by all connections: building one takes about 40 ms.

    Raises:
        ConfigurationError: a file is missing or holds no usable certificate or key, or truststore is not installed.
    """
    option = "ca_bundle"
    advice = 'a PEM file or a directory of certificate authorities, or "system" for the operating system\'s'
    try:
        if ca_bundle == "system":
            context: ssl.SSLContext = importlib.import_module("truststore").SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        else:
            if ca_bundle is None and not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
                ca_bundle = certifi.where()
            folder = ca_bundle if ca_bundle is not None and Path(ca_bundle).is_dir() else None
            context = ssl.create_default_context(cafile=None if folder else ca_bundle, capath=folder)
        if client_cert is not None:
            option = "client_cert"
            advice = "one PEM file with the certificate and its key, unencrypted, or (certificate file, key file)"
            certificate, key = (client_cert, None) if isinstance(client_cert, str) else client_cert
            # The password keeps OpenSSL from asking for one on the terminal.
            context.load_cert_chain(certificate, key, password="")
    except ImportError:
        raise ConfigurationError(
            'ca_bundle="system" needs the package truststore: pip install "multiembed[system-certs]".'
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{option} cannot be loaded ({_problem(error)}): give {advice}.") from None
    return context


def _problem(error: Exception) -> str:
    """Return what is wrong with a file, without its name, which OpenSSL does not report."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no certificate found").lower().replace("_", " ")
    return error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
