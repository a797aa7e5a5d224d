"""The doctor: what it finds on real sockets, what it advises, and that no key leaves it."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted_server import openai_reply, scripted
from typer.testing import CliRunner

from multiembed import no_waits
from multiembed.cli.app import app
from multiembed.cli.checkup.findings import without
from multiembed.providers import PROVIDERS
from multiembed.simulator import Simulator
from multiembed.wire.common import ssl_context

KEY = "sk-Zq7Lw2Nv9Rt4Xb6Mc1Pd8Hs5Jf3Kg0Ty"
MODELS = {"zhipu": "embedding-3", **dict.fromkeys(("openai-compatible", "gateway"), "text-embedding-3-small")}
REMOTE = [name for name in PROVIDERS if name != "local"]


@pytest.fixture(autouse=True)
def plain_trust(monkeypatch):
    """No certificates of the machine's own."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    ssl_context.cache_clear()
    yield
    ssl_context.cache_clear()


@pytest.fixture(scope="module")
def own_simulator():
    with Simulator(api_key=KEY) as running:
        yield running


@pytest.fixture
def server(own_simulator):
    with no_waits():  # the account is the same in all tests, and a refusal in one would hold up the next
        yield own_simulator
    own_simulator.heal()
    own_simulator.unlimit()
    own_simulator.clear()


def doctor(*arguments, secret=KEY, **environ):
    """What it says, in one line and as it is, and its status. Nothing of the key may be in it."""
    done = CliRunner(env={"COLUMNS": "80", "TERM": "dumb", **environ}).invoke(app, ["doctor", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    parts = [secret[start : start + 6] for start in range(len(secret) - 5)]
    assert not [part for part in parts if part in done.output]
    assert "\x1b" not in done.output
    return Said(" ".join(done.output.split()), done.output, done.exit_code)


@dataclasses.dataclass
class Said:
    words: str
    lines: str
    status: int

    def state(self, name):
        """What a finding's second column says."""
        return next((line.split()[1] for line in self.lines.splitlines() if line.startswith(f"  {name} ")), None)


def at(server, provider, *arguments, key=KEY, **environ):
    model = ("--model", MODELS[provider]) if PROVIDERS[provider].needs_address and "--model" not in arguments else ()
    where = ("--base-url", server.base_url(provider))
    environ = {PROVIDERS[provider].key_env[0]: key, **environ}
    return doctor(provider, *where, *model, *arguments, secret=key, **environ)


@pytest.fixture
def regions(server, monkeypatch):
    """SiliconFlow with two regions; the key is good in the second one."""
    with Simulator(api_key="another-key-for-here") as first:
        addresses = {"cn": first.base_url("siliconflow"), "intl": server.base_url("siliconflow")}
        changed = dataclasses.replace(PROVIDERS["siliconflow"], regions=addresses)
        monkeypatch.setitem(PROVIDERS, "siliconflow", changed)
        yield first


# ── all is well ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("provider", REMOTE)
def test_a_provider_that_works_is_well_after_two_short_calls(server, provider):
    said = at(server, provider)
    assert said.status == 0
    assert [said.state(name) for name in ("key", "address", "TCP", "call", "again", "cost")] == ["ok"] * 6
    assert "next to nothing" in said.words
    assert f"Works: {provider}." in said.words
    assert len(server.requests) == 2
    assert all(len(line) <= 80 for line in said.lines.splitlines())


def test_without_a_provider_all_that_have_a_key_are_examined_and_the_others_are_no_failure(server):
    environ = {
        "MULTIEMBED_GATEWAY_API_KEY": KEY,
        "MULTIEMBED_GATEWAY_BASE_URL": server.base_url("gateway"),
    }
    said = doctor(**environ)
    assert said.status == 0
    assert said.words.count("no key") == len(REMOTE) - 1
    assert "Works: gateway, local." in said.words
    assert "--model NAME" in said.words
    assert not server.requests


def test_server_without_a_key_is_well():
    with scripted(openai_reply) as running:
        said = doctor("openai-compatible", "--model", "m", "--base-url", f"{running.url}/v1")
        by_environment = doctor("openai-compatible:m", OPENAI_COMPATIBLE_BASE_URL=f"{running.url}/v1")
        among_all = doctor(OPENAI_COMPATIBLE_BASE_URL=f"{running.url}/v1")
    for each in (said, by_environment):
        assert each.status == 0
        assert [each.state(name) for name in ("key", "address", "call", "again")] == ["ok"] * 4
        assert "sent without one" in each.words
        assert f"{running.url}/v1/embeddings" in each.words
    assert "Works: openai-compatible, local." in among_all.words
    assert [request.headers.get("authorization") for request in running.requests] == [None] * 4


def test_server_without_an_address_is_among_those_without_a_key():
    assert "no key and no address: OPENAI_COMPATIBLE_BASE_URL is not set" in doctor().words


def test_key_in_a_header_of_its_own_is_sent_so(server):
    arguments = ("--model", "m", "--base-url", server.base_url("openai-compatible"), "--auth-header", "api-key")
    said = doctor("openai-compatible", *arguments, OPENAI_COMPATIBLE_API_KEY=KEY)
    assert (said.status, said.state("call")) == (0, "ok")
    assert {request.headers["api-key"] for request in server.requests} == {KEY}


def test_address_of_the_environment_is_the_users_own(server):
    said = doctor("zhipu", secret=KEY, ZHIPUAI_API_KEY=KEY, ZHIPUAI_BASE_URL=server.base_url("zhipu"))
    assert (said.status, said.state("call")) == (0, "ok")
    assert server.url in said.words


def test_where_to_get_a_key_is_told_when_nobody_has_one(server):
    assert "multiembed doctor PROVIDER" in doctor().words
    environ = {"MULTIEMBED_GATEWAY_API_KEY": KEY, "MULTIEMBED_GATEWAY_BASE_URL": server.base_url("gateway")}
    assert "multiembed doctor PROVIDER" not in doctor(**environ).words


def test_one_ill_provider_among_others_is_named_and_makes_the_status_one(regions):
    said = doctor(SILICONFLOW_API_KEY=KEY)
    assert said.status == 1
    assert "Does not work: siliconflow (call)." in said.words


def test_the_versions_of_everything_that_matters_are_told():
    said = doctor("local")
    for name in ("multiembed", "Python", "httptools", "httpx", "orjson", "OpenSSL"):
        assert name in said.words


def test_the_json_holds_what_a_bug_report_needs(server):
    told = json.loads(at(server, "zhipu", "--json").lines)
    assert told["well"] is True
    assert {"multiembed", "Python", "httptools"} <= set(told["versions"])
    (row,) = told["providers"]
    facts = {finding["name"]: finding["facts"] for finding in row["findings"]}
    assert (row["provider"], row["model"], row["state"]) == ("zhipu", "embedding-3", "well")
    assert facts["call"]["dimensions"] == 2048
    assert facts["again"]["seconds"] > 0
    assert facts["cost"]["tokens"] > 0


def test_the_json_of_a_failure_holds_the_providers_code_and_ends_with_status_one(server):
    said = at(server, "zhipu", "--json", key="wrong-key-but-long-enough-to-be-one")
    (row,) = json.loads(said.lines)["providers"]
    assert (said.status, row["state"]) == (1, "ill")
    facts = row["findings"][-1]["facts"]
    assert (facts["error"], facts["status"], facts["code"]) == ("AuthenticationError", 401, "1000")


# ── the key ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("your-key", "placeholder"),
        ("YOUR_API_KEY_12345678901234567890", "placeholder"),
        ("sk-xxxxxxxxxxxxxxxxxxxxxxxx", "placeholder"),
        ("<api key>", "placeholder"),
        ("${DASHSCOPE_KEY_OF_OURS}", "placeholder"),
        ("sk-Zq7L****", "placeholder"),
        ("DASHSCOPE_API_KEY", "placeholder"),
        (f'"{KEY}"', "quotation marks"),
        (f"“{KEY}”", "quotation marks"),
        (f"Bearer {KEY}", "'Bearer'"),
        (f"DASHSCOPE_API_KEY={KEY}", "a variable's name"),
        (f"{KEY[:9]} {KEY[9:]}", "blanks"),
        (f"{KEY[:9]}\n{KEY[9:]}", "blanks"),
        (f"{KEY}\u200b", "characters that no key has"),
        (f"ｓ{KEY}", "characters that no key has"),
    ],
)
def test_a_key_that_cannot_be_one_is_told_by_its_fault_and_never_sent(server, value, words):
    where = ("--base-url", server.base_url("dashscope"))
    said = doctor("dashscope", *where, DASHSCOPE_API_KEY=value)
    assert (said.status, said.state("key"), said.state("call")) == (1, "FAIL", "skip")
    assert words in said.words
    assert not server.requests


def test_blanks_around_a_key_do_no_harm_and_are_told(server):
    said = at(server, "zhipu", ZHIPUAI_API_KEY=f" {KEY}\r\n")
    assert (said.status, said.state("key")) == (0, "ok")
    assert "blanks around it" in said.words


def test_a_missing_key_is_a_failure_only_of_a_provider_that_was_asked_for():
    said = doctor("gateway", "--model", "m", "--base-url", "https://127.0.0.1:1", "--timeout", "1")
    assert said.status == 1
    assert "MULTIEMBED_GATEWAY_API_KEY is not set" in said.words


@pytest.mark.parametrize("wrong", ["ZHIPU_API_KEY", "zhipuai_api_token", "ZHIPUAI_APIKEY"])
def test_a_key_in_a_variable_with_nearly_the_right_name_is_found(wrong):
    where = ("--base-url", "https://127.0.0.1:1", "--timeout", "1")
    for said in (doctor("zhipu", *where, **{wrong: KEY}), doctor(**{wrong: KEY})):
        assert f"is not set, but {wrong} is" in said.words


def test_another_providers_variable_is_no_misspelling_of_ones_own(regions):
    said = doctor("zhipu", "--base-url", "https://127.0.0.1:1", SILICONFLOW_API_KEY=KEY, DASHSCOPE_API_KEY=KEY)
    assert "none: ZHIPUAI_API_KEY or ZAI_API_KEY is not set" in said.words
    assert ", but" not in said.words


def test_a_second_variable_with_another_key_is_a_warning(server):
    said = at(server, "zhipu", ZAI_API_KEY="another-key")
    assert (said.status, said.state("key")) == (0, "warn")
    assert "ZAI_API_KEY holds another key" in said.words


def test_a_short_key_that_is_refused_may_have_lost_a_part(server):
    said = at(server, "zhipu", key="sk-wrong")
    assert "was a part of it lost?" in said.words


@given(st.text("abcdefgh0123-", min_size=16, max_size=40), st.integers(0, 30), st.integers(5, 40))
def test_no_part_of_a_key_stands_in_the_words_of_others(key, start, length):
    shown = without(key, f"The key {key[start : start + length]!r} ({key[:4]}****{key[-4:]}) of {key} is wrong.")
    assert not [part for place in range(len(key) - 4) if (part := key[place : place + 5]) in shown]
    assert "*" not in shown
    assert key[:4] not in shown.partition("(")[2].partition(")")[0]


def test_words_that_hold_nothing_of_the_key_stay_as_they_are():
    words = "身份验证失败。 Invalid API-key provided."
    assert without(KEY, words) == words
    assert without("", words) == words


# ── the way to the host ──────────────────────────────────────────────────────────────────────────


@pytest.fixture
def closed_port():
    with socket.socket() as taken:  # bound and not listening: nobody else gets it meanwhile
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def to(address, *arguments, **environ):
    return doctor("zhipu", "--base-url", address, "--timeout", "2", *arguments, ZHIPUAI_API_KEY=KEY, **environ)


def test_a_host_that_nobody_knows_is_a_matter_of_names():
    said = to("https://nowhere.invalid/v1")
    assert (said.status, said.state("DNS"), said.state("TCP"), said.state("call")) == (1, "FAIL", None, "skip")
    assert "Check the spelling in base_url" in said.words


def test_a_closed_port_is_told(closed_port):
    said = to(f"https://127.0.0.1:{closed_port}")
    assert (said.status, said.state("TCP"), said.state("call")) == (1, "FAIL", "skip")
    assert f"port {closed_port} of 127.0.0.1 is closed" in said.words


def test_a_port_without_tls_is_told(server):
    said = to(server.url.replace("http:", "https:"))
    assert (said.status, said.state("TLS")) == (1, "FAIL")
    assert "does not speak TLS" in said.words


@pytest.mark.parametrize(
    ("kind", "trusted", "words"),
    [
        ("good", False, "signed by 'multiembed simulator'"),
        ("self-signed", False, "signed by 'localhost'"),
        ("expired", True, "The clock says 20"),
        ("wrong-host", True, "for another host than 127.0.0.1"),
    ],
)
def test_a_certificate_that_is_refused_is_told_by_its_fault(tmp_path, kind, trusted, words):
    with Simulator(tls=kind) as server:
        environ = {}
        if trusted:
            (tmp_path / "authority.pem").write_text(server.authority)
            environ = {"SSL_CERT_FILE": str(tmp_path / "authority.pem")}
        said = to(server.base_url("zhipu"), **environ)
        assert (said.status, said.state("TLS"), said.state("call")) == (1, "FAIL", "skip")
        assert words in said.words
        assert not server.requests


@pytest.mark.parametrize(
    ("variable", "there", "words"),
    [
        (None, True, "set SSL_CERT_FILE to a PEM file"),
        ("REQUESTS_CA_BUNDLE", True, "REQUESTS_CA_BUNDLE is set, which is not read here"),
        ("SSL_CERT_FILE", True, "does not hold this authority"),
        ("SSL_CERT_FILE", False, "names a file that is not there"),
    ],
)
def test_an_authority_that_is_not_trusted_is_told_with_the_setting_to_mend(tmp_path, variable, there, words):
    file = tmp_path / "other.pem"
    with Simulator(tls="good") as server, Simulator(tls="good") as other:
        if there:
            file.write_text(other.authority)
        said = to(server.base_url("zhipu"), **({variable: str(file)} if variable else {}))
    assert said.status == 1
    assert words in said.words


def test_with_the_authority_in_ssl_cert_file_all_is_well(tmp_path):
    with Simulator(tls="good", api_key=KEY) as server:
        (tmp_path / "authority.pem").write_text(server.authority)
        said = to(server.base_url("zhipu"), SSL_CERT_FILE=str(tmp_path / "authority.pem"))
    assert (said.status, said.state("TLS"), said.state("call")) == (0, "ok", "ok")


@pytest.fixture
def proxy():
    """`proxy(answer, onto=None)`: the port of a proxy that answers so, and then hands through to a port."""
    listeners = []

    def start(answer, onto=None):
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=_accept, args=(listener, answer, onto), daemon=True).start()
        return listener.getsockname()[1]

    yield start
    for listener in listeners:
        listener.close()


def _accept(listener, answer, onto):
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client, answer, onto), daemon=True).start()


def _serve(client, answer, onto):
    with client:
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.recv(1 << 16)
            if not data:
                return
            head += data
        client.sendall(answer)
        if onto is None:
            client.shutdown(socket.SHUT_WR)
            while client.recv(1 << 16):  # a socket that is closed with bytes unread resets the connection
                pass
            return
        with socket.create_connection(("127.0.0.1", onto)) as server:
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join(5)


def _copy(source, target):
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


SECRET = "me:hidden-word"


@pytest.mark.parametrize(
    ("login", "answer", "words"),
    [
        ("", b"HTTP/1.1 407 Login\r\n\r\n", "it wants a login (407)"),
        (f"{SECRET}@", b"HTTP/1.1 407 Login\r\n\r\n", "it refuses the login (407)"),
        ("", b"HTTP/1.1 403 No\r\n\r\n", "does not connect us to elsewhere.invalid (status 403)"),
        ("", b"SSH-2.0-hello\r\n\r\n", "no http proxy"),
    ],
)
def test_a_proxy_that_stands_in_the_way_is_told_without_its_login(proxy, login, answer, words):
    port = proxy(answer)
    said = to("https://elsewhere.invalid/v1", HTTPS_PROXY=f"http://{login}127.0.0.1:{port}")
    assert said.status == 1
    assert words in said.words
    assert f"http://127.0.0.1:{port} (HTTPS_PROXY" in said.words
    assert "hidden" not in said.words
    assert said.state("DNS") is None  # the name is the proxy's business


def test_through_a_proxy_the_hosts_own_certificate_is_checked_and_the_call_is_made(proxy, tmp_path):
    with Simulator(tls="wrong-host", api_key=KEY) as server:
        (tmp_path / "authority.pem").write_text(server.authority)
        port = proxy(b"HTTP/1.1 200 Connected\r\n\r\n", onto=int(server.url.rpartition(":")[2]))
        address = server.base_url("zhipu").replace(server.url, "https://elsewhere.invalid")
        environ = {"SSL_CERT_FILE": str(tmp_path / "authority.pem")}
        said = to(address, HTTPS_PROXY=f"http://{SECRET}@127.0.0.1:{port}", **environ)
    assert said.status == 0, said.lines
    assert (said.state("proxy"), said.state("TLS"), said.state("call")) == ("ok", "ok", "ok")
    assert "with a login" in said.words
    assert "hidden" not in said.words


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("socks5://127.0.0.1:7890", "neither http nor https, but socks5"),
        ("http://me:hidden-word@:3128", "names no host"),
        ("http://127.0.0.1:hidden-word", "is no address"),
        ("http://nowhere.invalid:3128", "Check the spelling in ALL_PROXY"),
    ],
)
def test_a_proxy_that_cannot_be_one_is_told_without_its_login(address, words):
    said = to("https://elsewhere.invalid/v1", ALL_PROXY=address)
    assert said.status == 1
    assert words in said.words
    assert "hidden" not in said.words


def test_a_proxy_that_is_not_used_for_this_host_is_told(server):
    said = at(server, "zhipu", HTTP_PROXY="http://proxy.invalid:1")
    assert said.status == 0
    assert "not used for this host" in said.words


# ── the call ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("provider", "fault", "words"),
    [
        ("zhipu", "bad-key", "An own base_url may want a key of its own"),
        ("dashscope", "money", "top up at https://bailian"),
        ("zhipu", "plan-expired", "top up at"),
        ("dashscope", "forbidden", "The account may not use text-embedding-v4"),
        ("siliconflow", "unknown-model", "There is no model"),
        ("siliconflow", "not-found", "base_url is wrong"),
        ("dashscope-compatible", "rate-limit", "Try again in a minute"),
        ("siliconflow", "retry-after-seconds", "Try again in 1 s"),
        ("siliconflow", "invalid-parameter", "an embedding model"),
        ("zhipu", "server-error", "Try again later"),
        ("siliconflow", "bad-gateway-html", "Try again later"),
        ("zhipu", "silence", "longer --timeout"),
        ("zhipu", "trickle-body", "longer --timeout"),
        ("zhipu", "connection-reset", "the connection broke"),
        ("zhipu", "not-http", "the connection broke"),
        ("zhipu", "proxy-407", "A proxy wants a login"),
        ("zhipu", "redirect-same-host", "It redirects"),
        ("gateway", "html-200", "sign-in page"),
        ("gateway", "gateway-record", "Something else may have answered"),
        ("zhipu", "truncated-json", "Something else may have answered"),
        ("siliconflow", "vector-short", "the fault is SiliconFlow's"),
        ("dashscope", "vector-nan", "Something else may have answered"),
        ("zhipu", "auth-in-200", "The key was refused"),
    ],
)
def test_what_goes_wrong_in_the_call_is_told_with_what_to_do(server, provider, fault, words):
    server.fail(fault)
    said = at(server, provider, "--timeout", "0.4")
    assert (said.status, said.state("call")) == (1, "FAIL")
    assert words in said.words
    assert "do:" in said.words
    assert len(server.requests) == 1  # the doctor does not try again
    assert all(len(line) <= 80 for line in said.lines.splitlines())


@pytest.mark.parametrize("repeated", [KEY, f"{KEY[:8]}****{KEY[-4:]}", f"{KEY[:10]}...{KEY[-10:]}"])
@pytest.mark.parametrize("json", [True, False])
def test_a_key_that_the_server_repeats_is_not_shown(proxy, repeated, json):
    body = f'{{"error": {{"code": "{repeated}", "message": "Incorrect API key: {repeated}."}}}}'
    port = proxy(f"HTTP/1.1 401 No\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    said = to(f"http://127.0.0.1:{port}", *(["--json"] if json else []))
    assert "Incorrect API key: …" in said.words
    assert said.status == 1


def test_a_connection_that_is_not_kept_is_a_warning(server):
    server.fail("keepalive-reset")
    said = at(server, "zhipu")
    assert (said.status, said.state("call"), said.state("again")) == (0, "ok", "warn")


def test_a_second_call_that_fails_is_a_failure(server):
    server.limit(requests_per_minute=1)
    said = at(server, "siliconflow")
    assert (said.status, said.state("call"), said.state("again")) == (1, "ok", "FAIL")


def test_a_models_name_may_stand_behind_the_providers(server):
    said = doctor("zhipu:embedding-2", "--base-url", server.base_url("zhipu"), ZHIPUAI_API_KEY=KEY)
    assert said.status == 0
    assert {request.body["model"] for request in server.requests} == {"embedding-2"}


# ── regions ──────────────────────────────────────────────────────────────────────────────────────


def test_a_refused_key_goes_to_no_other_region_unasked(server, regions):
    said = doctor("siliconflow", SILICONFLOW_API_KEY=KEY)
    assert said.status == 1
    assert "--region intl" in said.words
    assert "--try-regions" in said.words
    assert len(regions.requests) == 1
    assert not server.requests


def test_a_refused_key_is_tried_at_the_other_regions_when_the_user_says_so(server, regions):
    said = doctor("siliconflow", "--try-regions", SILICONFLOW_API_KEY=KEY)
    assert said.status == 1
    assert "intl: good" in said.words
    assert 'region="intl"' in said.words
    assert len(server.requests) == 1
    assert doctor("siliconflow", "--region", "intl", SILICONFLOW_API_KEY=KEY).status == 0


def test_a_key_that_is_good_nowhere_is_told(regions):
    said = doctor("siliconflow", "--try-regions", SILICONFLOW_API_KEY="good-for-nothing-at-all", secret="good-for-no")
    assert "intl: refused" in said.words
    assert said.state("regions") == "FAIL"


def test_a_key_that_is_good_is_sent_to_no_other_region(server, regions):
    said = doctor("siliconflow", "--region", "intl", "--try-regions", SILICONFLOW_API_KEY=KEY)
    assert said.status == 0
    assert not regions.requests


# ── used wrongly ─────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("zhpu",), "Did you mean 'zhipu'?"),
        (("--model", "x"), "need a provider"),
        (("gateway",), "--model"),
        (("openai-compatible",), "--model"),
        (("zhipu", "--auth-header", "api-key"), "takes no auth_header"),
        (("--auth-header", "api-key"), "--auth-header need a provider"),
        (("dashscope", "--region", "us"), "known are 'cn'"),
        (("zhipu", "--base-url", "open.bigmodel.cn"), "https://host/path"),
        (("zhipu", "--base-url", "http://open.bigmodel.cn"), "in the open"),
        (("zhipu:embedding-2", "--model", "embedding-3"), "once"),
        (("zhipu", "--timeout", "0"), "above 0"),
        (("zhipu", "--try-regions", "--base-url", "https://127.0.0.1"), "do not go together"),
        (("local", "--base-url", "https://127.0.0.1"), "sends nothing"),
    ],
)
def test_a_mistake_ends_with_what_to_do_and_status_two(arguments, words):
    said = doctor(*arguments)
    assert said.status == 2
    assert words in said.words
