"""Advice for each error of a call, beyond the error's own."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from multiembed.cli.doctor.setup import SHORT_KEY, proxy_variable

if TYPE_CHECKING:
    from multiembed import EmbeddingClient, MultiEmbedError
    from multiembed.cli.doctor.setup import Setup

_MODEL = "{message} Name another model with --model.{models}"
_PROXY_REFUSED = (
    "The proxy does not connect to {host}: check {proxy} or --proxy, ask who runs the proxy to allow {host}, or add "
    "it to NO_PROXY."
)
_ADVICE = {
    # by the reason of a failed connection
    "dns": "The name of the server, or of its proxy, is not known: check {address}, network and DNS. {through}",
    "refused": "Nothing listens at that port: check {address}, and firewalls. {through}",
    "unreachable": "The server is unreachable: check {address}, network and firewalls. {through}",
    "not_tls": "The server does not speak TLS: check the port in {address}. {through}",
    "tls": "No TLS connection could be made: a proxy or a firewall may interfere. {through}",
    "certificate_untrusted": "{certificate}",
    "certificate_date": (
        "The certificate has expired or is not valid yet, by this machine's clock. The clock says {now}. If that is "
        "wrong, set it; else the server's owner must renew the certificate."
    ),
    "certificate_host": (
        "The certificate is for another host than {host}: check {address}. A sign-in page of the network may have "
        "answered, too."
    ),
    "client_certificate": "The server wants a certificate of the client, or refuses the one given: set --client-cert.",
    "proxy_login": (
        "The proxy wants a user and a password, or refuses those given: set {proxy} or --proxy to "
        "http://user:password@host:port, with %40 for @, or add the server to NO_PROXY."
    ),
    "proxy_refused": _PROXY_REFUSED,
    "proxy": _PROXY_REFUSED,
    "connection": "The connection broke: check {address}; a proxy or a firewall may interfere. {through}",
    "timeout": "{message} A proxy or a firewall may drop the response. {through}",
    # by the error, where there was an answer
    "AuthenticationError": "{message}{key}",
    "PermissionDeniedError": _MODEL,
    "ModelNotFoundError": _MODEL,
    "RateLimitError": "{message} Try again {wait}. Other programs on the account count, too.",
    "MalformedResponseError": "{message} Something else may have answered, such as a sign-in page or another API.",
    "InvalidRequestError": "{message} Is {model} an embedding model, and {address} right?",
}


def advise(error: MultiEmbedError, message: str, setup: Setup, client: EmbeddingClient) -> str:
    """The advice for an error of a call; `message` is the error's own advice."""
    variable = proxy_variable(client.target.url)
    models = [facts.name for facts in setup.provider.models if facts.name != setup.model][:4]
    template = _ADVICE.get(error.reason or "") or _ADVICE.get(type(error).__name__, "{message}")
    return template.format(
        message=message,
        address=client.target.url_variable or ("--base-url" if setup.options.get("base_url") else "the address"),
        host=urlsplit(client.target.url).hostname,
        model=setup.model,
        models=f" Known: {', '.join(models)}." if models else "",
        key=_key(setup, client),
        wait=f"in {error.retry_after:,.3g} s" if error.retry_after else "in a minute",
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        certificate=_certificate(),
        proxy=variable or "HTTPS_PROXY",
        through=f"Check the proxy in {variable}, too, or add the server to NO_PROXY."
        if variable
        else "In a company's network, a proxy may be needed: HTTPS_PROXY=http://host:port or --proxy.",
    ).strip()


def _key(setup: Setup, client: EmbeddingClient) -> str:
    """Possible reasons for a refused key."""
    short = client.target.key is not None and len(client.target.key.get()) < SHORT_KEY
    lost = " The key is shorter than keys usually are: was a part of it lost?" if short else ""
    region = setup.region(client)
    if not region:
        return f"{lost} An own --base-url may want a key of its own." if setup.provider.regions else lost
    others = " or ".join(f"--region {name}" for name in setup.provider.regions if name != region)
    return (
        f"{lost} This was region {region}; for another, give {others}. --try-regions sends the key there to find out."
    )


def _certificate() -> str:
    """Advice for a certificate with an untrusted authority, by the environment's settings."""
    trust = "set --ca-bundle system (the system's certificates) or --ca-bundle to a PEM file with the company's CA"
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if file and not Path(file).is_file():
        return "SSL_CERT_FILE names a file that is not there: correct or unset it."
    if file or folder:
        name = "SSL_CERT_FILE" if file else "SSL_CERT_DIR"
        return f"{name} is used, and does not hold this CA: add the CA's certificate there, or {trust}."
    others = [name for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE") if os.environ.get(name)]
    if others:
        return f"{others[0]} is set, which is not read here: set SSL_CERT_FILE or --ca-bundle to the same file."
    return (
        f"If a company's proxy opens TLS connections, {trust} (in the environment, SSL_CERT_FILE). Otherwise the "
        "address is wrong or someone intercepts the connection: do not send a key there."
    )
