"""The options proxy, ca_bundle and client_cert: checked at construction, kept out of sight, and in effect."""

from __future__ import annotations

import copy
import pickle
import socket
import ssl
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from support.transport import OK, Server, read_request, responding, send, send_often

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import ConfigurationError, EmbeddingClient, EmbeddingOptions
from multiembed.config.options import settings_of
from multiembed.simulator.tls import certified
from multiembed.transport import tls

MODEL = "zhipu:embedding-3"
MAKERS = {
    "options": EmbeddingOptions,
    "client": lambda **options: EmbeddingClient(MODEL, api_key="sk-1", **options),
    "langchain": lambda **options: MultiEmbeddings(model=MODEL, api_key="sk-1", **options),
    "llamaindex": lambda **options: MultiEmbedding(model_name=MODEL, api_key="sk-1", **options),
}
FRAMEWORKS = {name: MAKERS[name] for name in ("langchain", "llamaindex")}
PROXY = "http://us:secret@proxy.example:3128"


@pytest.fixture(params=MAKERS.values(), ids=MAKERS.keys())
def make(request):
    return request.param


@pytest.fixture(autouse=True)
def forget_contexts():
    yield
    tls.ssl_context.cache_clear()


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A folder of PEM files for localhost: ca, cert, key, both, locked (key encrypted with a password), no.pem."""
    trustme = pytest.importorskip("trustme")
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "both.pem")
    issued.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "cert.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.BestAvailableEncryption(b"word"),
    )
    (folder / "locked.pem").write_bytes(locked)
    authority.issue_cert("other").private_key_pem.write_to_path(folder / "other-key.pem")
    (folder / "no.pem").write_text("nothing")
    return folder


# ── values ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "proxy",
    [PROXY, "https://proxy.example", "proxy.example:3128", "HTTP://10.0.0.1:1", "http://[fd00::1]:3128", "", None],
)
def test_valid_proxy_is_accepted(make, proxy):
    make(proxy=proxy)


WRONG = {
    "socks": ({"proxy": "socks5://us:secret@p:1"}, "'proxy': .*neither http nor https"),
    "ftp": ({"proxy": "ftp://p:1"}, "'proxy': .*neither http nor https"),
    "no host": ({"proxy": "http://us:secret@"}, "'proxy': .*without a valid host"),
    "no port": ({"proxy": "http://p:port"}, "'proxy': .*without a valid host and port"),
    "port 0": ({"proxy": "http://p:0"}, "'proxy': .*without a valid host and port"),
    "a blank": ({"proxy": "http://p secret:1"}, "'proxy': .*without a valid host and port"),
    "a mapping": ({"proxy": {"https": "http://p:1"}}, "'proxy'"),
    "no such bundle": ({"ca_bundle": "{}/none.pem"}, "'ca_bundle': cannot be loaded .there is no such file"),
    "no bundle": ({"ca_bundle": "{}/no.pem"}, "'ca_bundle': cannot be loaded"),
    "a number": ({"ca_bundle": 1}, "'ca_bundle'"),
    "switched off": ({"ca_bundle": False}, "'ca_bundle'"),
    "no such certificate": ({"client_cert": "{}/none.pem"}, "'client_cert': cannot be loaded .there is no such file"),
    "no such key": ({"client_cert": ("{}/cert.pem", "{}/none.pem")}, "'client_cert': cannot be loaded"),
    "no certificate": ({"client_cert": "{}/no.pem"}, "'client_cert': cannot be loaded"),
    "no key": ({"client_cert": "{}/cert.pem"}, "'client_cert': cannot be loaded"),
    "the wrong key": ({"client_cert": ("{}/cert.pem", "{}/other-key.pem")}, "'client_cert': cannot be loaded .key val"),
    "an encrypted key": ({"client_cert": ("{}/cert.pem", "{}/locked.pem")}, "'client_cert': cannot be loaded"),
    "a folder": ({"client_cert": "{}"}, "'client_cert': cannot be loaded"),
    "three files": ({"client_cert": ("a", "b", "c")}, "'client_cert'"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG.keys())
def test_unusable_value_is_refused_at_construction(make, pem, options, message):
    with pytest.raises(ConfigurationError, match=message) as caught:
        make(**{name: in_folder(value, pem) for name, value in options.items()})
    assert "secret" not in str(caught.value)
    assert caught.value.__context__ is None


def in_folder(value, folder):
    if isinstance(value, tuple):
        return tuple(in_folder(part, folder) for part in value)
    return value.replace("{}", str(folder)) if isinstance(value, str) else value


@pytest.mark.parametrize("maker", FRAMEWORKS.values(), ids=FRAMEWORKS)
@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG.keys())
def test_unusable_value_is_refused_when_assigned(maker, pem, options, message):
    embedder = maker()
    [(name, value)] = options.items()
    with pytest.raises(ConfigurationError, match=message):
        setattr(embedder, name, in_folder(value, pem))
    assert getattr(embedder, name) is None


@pytest.mark.parametrize("value", ["ca.pem", "", "."])
def test_bundle_is_a_file_or_a_folder(make, pem, value):
    make(ca_bundle=value and str(pem / value))


@pytest.mark.parametrize("value", ["both.pem", ("cert.pem", "key.pem"), ["cert.pem", "key.pem"]], ids=str)
def test_client_certificate_is_one_file_or_two(make, pem, value):
    files = str(pem / value) if isinstance(value, str) else [str(pem / each) for each in value]
    made = make(client_cert=files)
    assert isinstance(getattr(made, "client_cert", ""), (str, tuple))


OWN = {"http_client": "Client", "http_async_client": "AsyncClient"}


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("option", ["proxy", "ca_bundle", "client_cert"])
def test_own_client_excludes_the_options(make, pem, own, option):
    httpx = pytest.importorskip("httpx")
    value = {"proxy": PROXY, "ca_bundle": str(pem / "ca.pem"), "client_cert": str(pem / "both.pem")}[option]
    with pytest.raises(
        ConfigurationError, match=f"{own} and {option} exclude each other: drop {own}, or drop {option}"
    ):
        make(**{option: value, own: getattr(httpx, OWN[own])()})


@pytest.mark.parametrize("maker", FRAMEWORKS.values(), ids=FRAMEWORKS)
def test_own_client_excludes_the_options_when_assigned(maker):
    httpx = pytest.importorskip("httpx")
    embedder = maker(proxy=PROXY)
    with pytest.raises(ConfigurationError, match="exclude each other"):
        embedder.http_client = httpx.Client()
    assert embedder.http_client is None
    embedder.proxy = None
    embedder.http_client = own = httpx.Client()
    with pytest.raises(ConfigurationError, match="exclude each other"):
        embedder.proxy = PROXY
    assert (embedder.proxy, embedder.http_client) == (None, own)


def test_system_store_without_its_package_names_the_extra(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "truststore", None)
    with pytest.raises(ConfigurationError, match=r"'ca_bundle'.*truststore.*multiembed\[system-certs\]"):
        make(ca_bundle="system")


def test_system_store_is_that_of_truststore(make):
    truststore = pytest.importorskip("truststore")
    make(ca_bundle="system")
    assert isinstance(tls.ssl_context("system", None), truststore.SSLContext)


# ── secrets and copies ───────────────────────────────────────────────────────────────────────────


def test_password_of_the_proxy_is_shown_nowhere(make):
    made = make(proxy=PROXY)
    shown = [repr(made), str(made)]
    if hasattr(made, "model_dump"):
        shown += [str(made.model_dump()), made.model_dump_json(), repr(settings_of(made))]
    if hasattr(made, "to_json"):
        shown.append(str(made.to_json()))
    assert not any("secret" in each for each in shown)


@pytest.mark.parametrize("maker", [MAKERS[name] for name in ("options", *FRAMEWORKS)], ids=["options", *FRAMEWORKS])
def test_login_of_the_proxy_is_pickled_with_the_key_only(maker):
    with pytest.warns(UserWarning, match="user and password of proxy are not pickled"):
        travelled = pickle.dumps(maker(proxy=PROXY))
    assert b"secret" not in travelled
    assert pickle.loads(travelled).proxy == "http://proxy.example:3128"
    assert pickle.loads(pickle.dumps(maker(proxy=PROXY, key_in_pickle=True))).proxy == PROXY


@pytest.mark.parametrize("maker", [MAKERS[name] for name in ("options", *FRAMEWORKS)], ids=["options", *FRAMEWORKS])
def test_options_are_pickled_and_copied(maker, pem):
    options = {
        "proxy": "http://proxy.example:3128",
        "ca_bundle": str(pem / "ca.pem"),
        "client_cert": (str(pem / "cert.pem"), str(pem / "key.pem")),
    }
    made = maker(**options)
    for each in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made), copy.copy(made)):
        assert {name: getattr(each, name) for name in options} == options
        assert settings_of(each) == settings_of(made)
    assert copy.deepcopy(maker(proxy=PROXY)).proxy == PROXY


def test_options_change_no_vector(pem):
    plain = MAKERS["llamaindex"]()
    made = MAKERS["llamaindex"](proxy=PROXY, ca_bundle=str(pem / "ca.pem"), client_cert=str(pem / "both.pem"))
    assert made.client.fingerprint("document") == plain.client.fingerprint("document")
    assert made.model_dump() == plain.model_dump()


# ── in effect ────────────────────────────────────────────────────────────────────────────────────


def test_bundle_decides_which_servers_are_trusted(pem):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem / "both.pem")
    with responding(OK, context=context) as server:
        assert send(server.url).kind == "tls"
        assert send(server.url, settings={"ca_bundle": str(pem / "ca.pem")}).body == b"ok"
    other, _ = certified("good")
    with responding(OK, context=other) as server:
        assert send(server.url, settings={"ca_bundle": str(pem / "ca.pem")}).kind == "tls"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=lambda each: each.name)
def test_client_certificate_is_sent_and_its_lack_reported(pem, version):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(pem / "ca.pem"))
    context.load_cert_chain(pem / "both.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = version
    trust = {"ca_bundle": str(pem / "ca.pem")}
    with responding(OK, context=context) as server:
        shown = {**trust, "client_cert": (str(pem / "cert.pem"), str(pem / "key.pem"))}
        assert [response.body for response in send_often(server.url, 2, settings=shown)] == [b"ok"] * 2
        assert server.connections == 1
        missing = send(server.url, settings=trust)
    # By TLS 1.2, OpenSSL reports "handshake failure" only.
    expected = ("tls", "client_certificate") if version is ssl.TLSVersion.TLSv1_3 else ("connection", "tls")
    assert (missing.kind, missing.reason) == expected


def test_bundle_that_vanished_is_a_configuration_error(pem, tmp_path):
    with pytest.raises(ConfigurationError, match=r"ca_bundle cannot be loaded \(there is no such file"):
        send("https://127.0.0.1:1/", settings={"ca_bundle": str(tmp_path / "gone.pem")})


def test_proxy_option_sends_through_the_proxy():
    heads = []

    def serve(peer, _):
        heads.append(read_request(peer)[0])
        peer.sendall(OK)

    with Server(serve) as proxy:
        settings = {"proxy": f"127.0.0.1:{proxy.port}"}
        assert send("http://api.example/v1", settings=settings).body == b"ok"
    assert heads[0].startswith("POST http://api.example/v1 HTTP/1.1\r\n")


def test_refused_proxy_failure_names_no_password():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    response = send("http://api.example/", settings={"proxy": f"http://us:secret@127.0.0.1:{port}"})
    assert response.kind == "connection"
    assert "secret" not in response.detail
