"""TLS certificates for https: good ones, and those that a client must refuse."""

from __future__ import annotations

import ipaddress
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    import os

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    Tls: TypeAlias = "Kind | tuple[str | os.PathLike[str], str | os.PathLike[str]]"
    """A kind of certificate to make, or a file with a certificate and one with its key."""

Kind: TypeAlias = Literal["good", "self-signed", "expired", "wrong-host"]

_NAMES = ("localhost", "127.0.0.1", "::1")
_OTHER_NAMES = ("elsewhere.invalid",)


def certified(tls: Tls) -> tuple[ssl.SSLContext, str | None]:
    """The server's TLS context, and the certificate of its authority in PEM, where one was made.

    Raises:
        ConfigurationError: there is no such kind, or the package that makes certificates is missing.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if not isinstance(tls, str):
        certificate, key = tls
        context.load_cert_chain(certificate, key)
        return context, None
    if tls not in get_args(Kind):
        raise ConfigurationError(f"tls must be one of {', '.join(get_args(Kind))}, or two files, not {tls!r}.")
    try:
        chain, authority = _made(tls)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"tls={tls!r} needs the package cryptography: pip install cryptography.") from error
    with tempfile.TemporaryDirectory() as folder:  # the context reads files only
        file = Path(folder, "chain.pem")
        file.touch(mode=0o600)
        file.write_bytes(chain)
        context.load_cert_chain(file)
    return context, authority


def _made(kind: Kind) -> tuple[bytes, str | None]:
    """Key and certificate, and the authority's certificate."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = serialization.Encoding.PEM
    key = ec.generate_private_key(ec.SECP256R1())
    hidden = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    if kind == "self-signed":
        return hidden + _certificate(key, key, None, names=_NAMES).public_bytes(pem), None
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = _certificate(root_key, root_key, None)
    names = _OTHER_NAMES if kind == "wrong-host" else _NAMES
    days = -1 if kind == "expired" else 30
    certificate = _certificate(key, root_key, root, names=names, days=days)
    return hidden + certificate.public_bytes(pem), root.public_bytes(pem).decode()


def _certificate(
    key: ec.EllipticCurvePrivateKey,
    signer: ec.EllipticCurvePrivateKey,
    issuer: x509.Certificate | None,
    *,
    names: tuple[str, ...] = (),
    days: int = 30,
) -> x509.Certificate:
    """A certificate that was good from 30 days ago until `days` from now; without names, an authority's."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0] if names else "multiembed simulator")])
    authority = not names
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.subject if issuer else name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=30))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True,
                key_cert_sign=authority,
                crl_sign=authority,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general(one) for one in names]), critical=False)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        builder = builder.add_extension(usage, critical=False)
    return builder.sign(signer, hashes.SHA256())


def _general(name: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
