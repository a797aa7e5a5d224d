"""TLS contexts: which authorities are trusted, and which certificate is shown."""

from __future__ import annotations

import functools
import importlib
import os
import ssl
from pathlib import Path

import certifi

from multiembed.errors import ConfigurationError
from multiembed.transport.settings import SYSTEM


@functools.cache
def ssl_context(ca_bundle: str | None, client_cert: str | tuple[str, str] | None) -> ssl.SSLContext:
    """The context for two of the settings, shared by all connections: building one takes about 40 ms.

    `ssl_context.cache_clear()` forgets all (for tests).

    Raises:
        ConfigurationError: a file is missing or holds no usable certificate or key, or truststore is not installed.
    """
    context = _trusting(ca_bundle)
    if client_cert is not None:
        certificate, key = (client_cert, None) if isinstance(client_cert, str) else client_cert
        try:
            # The password keeps OpenSSL from asking for one on the terminal.
            context.load_cert_chain(certificate, key, password="")
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"client_cert cannot be loaded ({_problem(error)}): give one PEM file with the certificate and its "
                "key, unencrypted, or (certificate file, key file)."
            ) from None
    return context


def _trusting(ca_bundle: str | None) -> ssl.SSLContext:
    if ca_bundle == SYSTEM:
        try:
            truststore = importlib.import_module("truststore")
        except ImportError:
            raise ConfigurationError(
                f'ca_bundle="{SYSTEM}" needs the package truststore: pip install "multiembed[system-certs]".'
            ) from None
        context: ssl.SSLContext = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return context
    if ca_bundle is None:
        has_own = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
        return ssl.create_default_context(cafile=None if has_own else certifi.where())
    try:
        is_folder = Path(ca_bundle).is_dir()
        return ssl.create_default_context(
            cafile=None if is_folder else ca_bundle, capath=ca_bundle if is_folder else None
        )
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"ca_bundle cannot be loaded ({_problem(error)}): give a PEM file or a directory of certificate "
            f'authorities, or "{SYSTEM}" for the operating system\'s.'
        ) from None


def _problem(error: Exception) -> str:
    """What is wrong with a file, without its name: OpenSSL names none anyway."""
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no certificate found").lower().replace("_", " ")
    return error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
