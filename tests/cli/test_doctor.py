"""The doctor: its findings over real sockets, its advice, and that no key leaves it."""

from __future__ import annotations

import ast
import dataclasses
import json
import socket
from pathlib import Path

import pytest
import support.faults  # noqa: F401 - registers the faults that only tests inject
from hypothesis import given
from hypothesis import strategies as st
from support.scripted_proxy import scripted_proxy
from support.scripted_server import openai_reply, scripted
from typer.testing import CliRunner

import multiembed.cli
from multiembed import no_waits
from multiembed.cli.app import app
from multiembed.cli.doctor.setup import without_key
from multiembed.providers import PROVIDERS
from multiembed.simulator import Simulator

KEY = "sk-Zq7Lw2Nv9Rt4Xb6Mc1Pd8Hs5Jf3Kg0Ty"
MODELS = {"zhipu": "embedding-3", **dict.fromkeys(("openai-compatible", "gateway"), "text-embedding-3-small")}
REMOTE = [name for name in PROVIDERS if name != "local"]
TRUST = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@pytest.fixture(autouse=True)
def default_trust(monkeypatch, tmp_path):
    """No certificates of this machine's own, and no .env file."""
    for name in TRUST:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


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


@dataclasses.dataclass
class Output:
    words: str
    """In one line."""
    lines: str
    status: int

    def state(self, name):
        """The state of a finding; None where there is none of that name."""
        found = (line.split() for line in self.lines.splitlines() if line.startswith("  "))
        return next((words[0] for words in found if words[1:2] == [f"{name}:"]), None)


def doctor(*arguments, secret=KEY, columns=80, **environ):
    """Run it in this process. No part of the key may be in its output."""
    runner = CliRunner(env={"COLUMNS": str(columns), "TERM": "dumb", **environ})
    done = runner.invoke(app, ["doctor", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return checked(done.output, done.exit_code, secret)


@pytest.fixture
def new_process(programs):
    """`new_process(*arguments, **environ)`: in a process of its own, which reads certificates and proxies anew."""

    def run(*arguments, **environ):
        done = programs.run(
            "from multiembed.cli import main; main()", "doctor", *arguments, environment={"COLUMNS": "80", **environ}
        )
        return checked(done.stdout + done.stderr, done.returncode, KEY)

    return run


def checked(output, status, secret):
    parts = [secret[start : start + 6] for start in range(len(secret) - 5)]
    assert not [part for part in parts if part in output]
    assert "\x1b" not in output
    assert "Traceback" not in output
    return Output(" ".join(output.split()), output, status)


def at(server, provider, *arguments, key=KEY, columns=80, **environ):
    model = ("--model", MODELS[provider]) if PROVIDERS[provider].needs_address and "--model" not in arguments else ()
    where = ("--base-url", server.base_url(provider))
    environ = {PROVIDERS[provider].key_env[0]: key, **environ}
    return doctor(provider, *where, *model, *arguments, secret=key, columns=columns, **environ)


@pytest.fixture
def regions(server, monkeypatch):
    """SiliconFlow with two regions; the key is good in the second one."""
    with Simulator(api_key="another-key-for-here") as first:
        addresses = {"cn": first.base_url("siliconflow"), "intl": server.base_url("siliconflow")}
        changed = dataclasses.replace(PROVIDERS["siliconflow"], regions=addresses)
        monkeypatch.setitem(PROVIDERS, "siliconflow", changed)
        yield first


# ── no second network stack ──────────────────────────────────────────────────────────────────────

NETWORK = {"socket", "ssl", "http", "httpx", "httpx2", "aiohttp", "asyncio", "requests", "urllib3", "certifi", "select"}


def test_command_line_knows_no_socket_tls_or_http():
    for file in Path(multiembed.cli.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                assert name.partition(".")[0] not in NETWORK, (file.name, name)
                assert not name.startswith(("urllib.request", "urllib.error", "multiembed.wire")), (file.name, name)


# ── all is well ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("provider", REMOTE)
def test_working_provider_passes_with_one_short_call(server, provider):
    output = at(server, provider)
    assert output.status == 0
    assert [output.state(name) for name in ("key", "address", "call", "cost")] == ["ok"] * 4
    assert "next to nothing" in output.words
    assert f"Works: {provider}." in output.words
    roles = ["document", "query"] if provider == "dashscope" else [None]
    sent = [request.body.get("parameters", {}).get("text_type") for request in server.requests]
    assert sent == roles
    assert output.state("query") == ("ok" if provider == "dashscope" else None)


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("key", [KEY, "sk-wrong"])
def test_output_fits_the_terminal(server, key, columns):
    output = at(server, "dashscope", key=key, columns=columns)
    assert all(len(line) <= columns for line in output.lines.splitlines())
    assert "text-embedding-v4" in output.lines
    assert "in DASHSCOPE_API_KEY" in output.lines


def test_providers_without_key_are_no_failure(server):
    environ = {"MULTIEMBED_GATEWAY_API_KEY": KEY, "MULTIEMBED_GATEWAY_BASE_URL": server.base_url("gateway")}
    output = doctor(**environ)
    assert output.status == 0
    assert output.words.count("no key") == len(REMOTE) - 1
    assert "Works: gateway, local." in output.words
    assert "--model NAME" in output.words
    assert not server.requests


def test_server_without_key_is_well():
    with scripted(openai_reply) as running:
        named = doctor("openai-compatible", "--model", "m", "--base-url", f"{running.url}/v1")
        by_environment = doctor("openai-compatible:m", OPENAI_COMPATIBLE_BASE_URL=f"{running.url}/v1")
        among_all = doctor(OPENAI_COMPATIBLE_BASE_URL=f"{running.url}/v1")
    for output in (named, by_environment):
        assert output.status == 0
        assert [output.state(name) for name in ("key", "address", "call")] == ["ok"] * 3
        assert "sent without one" in output.words
        assert f"{running.url}/v1/embeddings" in output.words
    assert "Works: openai-compatible, local." in among_all.words
    assert [request.headers.get("authorization") for request in running.requests] == [None] * 2


def test_server_without_address_is_listed_without_key():
    assert "no key and no address: OPENAI_COMPATIBLE_BASE_URL is not set" in doctor().words


def test_server_without_address_is_a_failure_by_name():
    output = doctor("openai-compatible:m")
    assert (output.status, output.state("setup"), output.state("call")) == (1, "FAIL", "skip")
    assert "set OPENAI_COMPATIBLE_BASE_URL" in output.words


def test_auth_header_carries_the_key(server):
    arguments = ("--model", "m", "--base-url", server.base_url("openai-compatible"), "--auth-header", "api-key")
    output = doctor("openai-compatible", *arguments, OPENAI_COMPATIBLE_API_KEY=KEY)
    assert (output.status, output.state("call")) == (0, "ok")
    assert {request.headers["api-key"] for request in server.requests} == {KEY}


def test_auth_header_without_key_is_a_failure(server):
    arguments = ("--model", "m", "--base-url", server.base_url("openai-compatible"), "--auth-header", "api-key")
    output = doctor("openai-compatible", *arguments)
    assert (output.status, output.state("key"), output.state("call")) == (1, "FAIL", "skip")
    assert "OPENAI_COMPATIBLE_API_KEY" in output.words


def test_address_is_shown_with_its_source(server):
    by_option = at(server, "zhipu")
    by_environment = doctor("zhipu", ZHIPUAI_API_KEY=KEY, ZHIPUAI_BASE_URL=server.base_url("zhipu"))
    assert "(--base-url)" in by_option.words
    assert "(ZHIPUAI_BASE_URL)" in by_environment.words
    for output in (by_option, by_environment):
        assert (output.status, output.state("call")) == (0, "ok")
        assert server.url in output.words


def test_region_is_the_source_of_the_address(server, regions):
    output = doctor("siliconflow", "--region", "intl", SILICONFLOW_API_KEY=KEY)
    assert "(region intl)" in output.words


def test_bad_address_of_environment_is_a_failure():
    output = doctor("zhipu", ZHIPUAI_API_KEY=KEY, ZHIPUAI_BASE_URL="open.bigmodel.cn")
    assert (output.status, output.state("setup"), output.state("call")) == (1, "FAIL", "skip")
    assert "ZHIPUAI_BASE_URL must look like https://host/path" in output.words


def test_key_page_is_named_when_no_provider_has_a_key(server):
    assert "multiembed doctor PROVIDER" in doctor().words
    environ = {"MULTIEMBED_GATEWAY_API_KEY": KEY, "MULTIEMBED_GATEWAY_BASE_URL": server.base_url("gateway")}
    assert "multiembed doctor PROVIDER" not in doctor(**environ).words


def test_failing_provider_among_others_is_named(regions):
    output = doctor(SILICONFLOW_API_KEY=KEY)
    assert output.status == 1
    assert "Does not work: siliconflow (call)." in output.words


def test_versions_are_shown():
    output = doctor("local")
    for name in ("multiembed", "Python", "httpx", "numpy", "orjson", "certifi"):
        assert name in output.words


def test_json_holds_the_facts_of_a_bug_report(server):
    shown = json.loads(at(server, "zhipu", "--json").lines)
    assert shown["well"] is True
    assert {"multiembed", "Python", "httpx"} <= set(shown["versions"])
    (row,) = shown["providers"]
    facts = {finding["name"]: finding["facts"] for finding in row["findings"]}
    assert (row["provider"], row["model"], row["state"]) == ("zhipu", "embedding-3", "well")
    assert facts["key"] == {"variable": "ZHIPUAI_API_KEY"}
    assert facts["address"] == {"region": None, "source": "--base-url"}
    assert facts["call"]["dimensions"] == 2048
    assert facts["call"]["seconds"] > 0
    assert facts["cost"]["tokens"] > 0


def test_json_of_a_failure_holds_the_providers_code(server):
    output = at(server, "zhipu", "--json", key="wrong-key-but-long-enough-to-be-one")
    (row,) = json.loads(output.lines)["providers"]
    assert (output.status, row["state"]) == (1, "ill")
    facts = row["findings"][-1]["facts"]
    assert (facts["error"], facts["status"], facts["code"]) == ("AuthenticationError", 401, "1000")


def test_json_of_a_failed_connection_holds_the_reason():
    output = to("https://nowhere.invalid/v1", "--json")
    facts = json.loads(output.lines)["providers"][0]["findings"][-1]["facts"]
    assert (facts["error"], facts["reason"]) == ("ConnectionFailedError", "dns")


# ── the key ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("your-key", "placeholder"),
        ("YOUR_API_KEY_12345678901234567890", "placeholder"),
        ("sk-xxxxxxxxxxxxxxxxxxxxxxxx", "placeholder"),
        ("<api-key>", "placeholder"),
        ("${DASHSCOPE_KEY_OF_OURS}", "placeholder"),
        ("sk-Zq7L****", "placeholder"),
        ("DASHSCOPE_API_KEY", "placeholder"),
        ("<api key>", "a character that no key has"),
        (f'"{KEY}"', "quotation marks"),
        (f"“{KEY}”", "quotation marks"),
        (f"Bearer {KEY}", "'Bearer'"),
        (f"DASHSCOPE_API_KEY={KEY}", "the name of a variable"),
        (f"{KEY[:9]} {KEY[9:]}", "a character that no key has"),
        (f"{KEY[:9]}\n{KEY[9:]}", "a character that no key has"),
        (f"{KEY}\u200b", "a character that no key has"),
        (f"ｓ{KEY}", "a character that no key has"),
    ],
)
def test_unusable_key_is_never_sent(server, value, words):
    where = ("--base-url", server.base_url("dashscope"))
    output = doctor("dashscope", *where, DASHSCOPE_API_KEY=value)
    assert (output.status, output.state("key"), output.state("call")) == (1, "FAIL", "skip")
    assert words in output.words
    assert "DASHSCOPE_API_KEY" in output.words
    assert not server.requests


def test_blanks_around_a_key_do_no_harm(server):
    output = at(server, "zhipu", ZHIPUAI_API_KEY=f" {KEY}\r\n")
    assert (output.status, output.state("key")) == (0, "ok")


def test_missing_key_is_a_failure_of_a_named_provider():
    output = doctor("gateway", "--model", "m", "--base-url", "https://127.0.0.1:1")
    assert (output.status, output.state("key"), output.state("call")) == (1, "FAIL", "skip")
    assert "MULTIEMBED_GATEWAY_API_KEY is not set" in output.words
    assert "key_in_pickle" not in output.words


def test_env_file_is_mentioned_when_there_is_one(tmp_path):
    assert "There is one in this folder" not in doctor("zhipu").words
    (tmp_path / ".env").write_text(f"ZHIPUAI_API_KEY={KEY}")
    assert "There is one in this folder" in doctor("zhipu").words


def test_empty_variable_is_named():
    assert "The variable is there and empty" in doctor("zhipu", ZHIPUAI_API_KEY=" ").words


@pytest.mark.parametrize("wrong", ["ZHIPU_API_KEY", "zhipuai_api_token", "ZHIPUAI_APIKEY"])
def test_misspelled_key_variable_is_found(wrong):
    for output in (doctor("zhipu", **{wrong: KEY}), doctor(**{wrong: KEY})):
        assert f"is not set, but {wrong} is" in output.words


def test_variable_of_another_provider_is_no_misspelling(regions):
    output = doctor("zhipu", SILICONFLOW_API_KEY=KEY, DASHSCOPE_API_KEY=KEY)
    assert "none: ZHIPUAI_API_KEY or ZAI_API_KEY is not set" in output.words
    assert ", but" not in output.words


def test_second_variable_with_another_key_is_a_warning(server):
    output = at(server, "zhipu", ZAI_API_KEY="another-key")
    assert (output.status, output.state("key")) == (0, "warn")
    assert "ZAI_API_KEY holds another key" in output.words


def test_key_of_the_addresss_account_is_the_one_shown(server):
    address = {"ZAI_BASE_URL": server.base_url("zhipu")}
    output = doctor("zhipu", ZAI_API_KEY=KEY, ZHIPUAI_API_KEY="another-key", **address)
    assert "key: in ZAI_API_KEY" in output.words
    assert (output.status, output.state("call")) == (0, "ok")


def test_short_key_that_is_refused_may_have_lost_a_part(server):
    assert "was a part of it lost?" in at(server, "zhipu", key="sk-wrong").words


@given(st.text("abcdefgh0123-", min_size=16, max_size=40), st.integers(0, 30), st.integers(5, 40))
def test_no_part_of_a_key_is_in_a_servers_words(key, start, length):
    shown = without_key(key, f"The key {key[start : start + length]!r} ({key[:4]}****{key[-4:]}) of {key} is wrong.")
    assert not [part for place in range(len(key) - 4) if (part := key[place : place + 5]) in shown]
    assert "*" not in shown
    assert key[:4] not in shown.partition("(")[2].partition(")")[0]


def test_words_without_the_key_stay_as_they_are():
    words = "身份验证失败。 Invalid API-key provided."
    assert without_key(KEY, words) == words
    assert without_key("", words) == words


def test_key_in_an_address_is_not_shown():
    output = doctor("zhipu", "--base-url", f"https://127.0.0.1:1/{KEY}", ZHIPUAI_API_KEY=KEY)
    assert "https://127.0.0.1:1/…" in output.words


@pytest.mark.parametrize("repeated", [KEY, f"{KEY[:8]}****{KEY[-4:]}", f"{KEY[:10]}...{KEY[-10:]}"])
@pytest.mark.parametrize("json", [True, False])
def test_key_that_a_server_repeats_is_not_shown(repeated, json):
    body = f'{{"error": {{"code": "{repeated}", "message": "Incorrect API key: {repeated}."}}}}'
    with scripted_proxy(f"HTTP/1.1 401 No\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()) as port:
        output = to(f"http://127.0.0.1:{port}", *(["--json"] if json else []))
    assert "Incorrect API key: …" in output.words
    assert output.status == 1


# ── the model ────────────────────────────────────────────────────────────────────────────────────


def test_model_behind_the_providers_name_is_called(server):
    output = doctor("zhipu:embedding-2", "--base-url", server.base_url("zhipu"), ZHIPUAI_API_KEY=KEY)
    assert output.status == 0
    assert {request.body["model"] for request in server.requests} == {"embedding-2"}


def test_misspelled_model_is_a_warning_with_the_right_name(server):
    output = at(server, "zhipu", "--model", "embeding-3")
    assert output.state("model") == "warn"
    assert "Did you mean embedding-3?" in output.words


@pytest.mark.parametrize("model", ["embedding-3", "my-own-deployment"])
def test_other_model_names_are_no_warning(server, model):
    assert at(server, "zhipu", "--model", model).state("model") is None


# ── the way to the server ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def closed_port():
    with socket.socket() as taken:  # bound and not listening, so that no other program gets the port meanwhile
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def to(address, *arguments, run=doctor, **environ):
    return run("zhipu", "--base-url", address, "--timeout", "10", *arguments, ZHIPUAI_API_KEY=KEY, **environ)


def test_unknown_host_is_reported_as_dns():
    output = to("https://nowhere.invalid/v1")
    assert (output.status, output.state("call")) == (1, "FAIL")
    assert "is not known: check --base-url, network and DNS" in output.words
    assert "HTTPS_PROXY=http://host:port or --proxy." in output.words


def test_closed_port_is_reported(closed_port):
    output = to(f"https://127.0.0.1:{closed_port}")
    assert (output.status, output.state("call")) == (1, "FAIL")
    assert "Nothing listens at that port: check --base-url" in output.words


def test_port_without_tls_is_reported(server):
    output = to(server.url.replace("http:", "https:"))
    assert (output.status, output.state("call")) == (1, "FAIL")
    assert "does not speak TLS: check the port in --base-url" in output.words


@pytest.mark.parametrize(
    ("kind", "trusted", "words"),
    [
        ("good", False, "set --ca-bundle system"),
        ("self-signed", False, "set --ca-bundle system"),
        ("expired", True, "The clock says 20"),
        ("wrong-host", True, "for another host than 127.0.0.1"),
    ],
)
def test_refused_certificate_is_reported_with_its_fault(new_process, tmp_path, kind, trusted, words):
    with Simulator(tls=kind) as server:
        environ = {}
        if trusted:
            (tmp_path / "authority.pem").write_text(server.authority)
            environ = {"SSL_CERT_FILE": str(tmp_path / "authority.pem")}
        output = to(server.base_url("zhipu"), run=new_process, **environ)
        assert (output.status, output.state("call")) == (1, "FAIL")
        assert words in output.words
        assert not server.requests


@pytest.mark.parametrize(
    ("variable", "there", "words"),
    [
        (None, True, "a PEM file with the company's CA (in the environment, SSL_CERT_FILE)"),
        ("REQUESTS_CA_BUNDLE", True, "REQUESTS_CA_BUNDLE is set, which is not read here"),
        ("SSL_CERT_FILE", True, "does not hold this CA"),
        ("SSL_CERT_FILE", False, "names a file that is not there"),
    ],
)
def test_untrusted_authority_is_reported_with_the_setting(new_process, tmp_path, variable, there, words):
    file = tmp_path / "other.pem"
    with Simulator(tls="good") as server, Simulator(tls="good") as other:
        if there:
            file.write_text(other.authority)
        output = to(server.base_url("zhipu"), run=new_process, **({variable: str(file)} if variable else {}))
    assert output.status == 1
    assert words in output.words


def test_trusted_authority_is_well(new_process, tmp_path):
    with Simulator(tls="good", api_key=KEY) as server:
        (tmp_path / "authority.pem").write_text(server.authority)
        output = to(server.base_url("zhipu"), run=new_process, SSL_CERT_FILE=str(tmp_path / "authority.pem"))
    assert (output.status, output.state("call")) == (0, "ok")


# ── proxies ──────────────────────────────────────────────────────────────────────────────────────

# In processes of their own, because the transport may read the environment's proxies once.
LOGIN = "me:hidden-word"


@pytest.mark.parametrize(
    ("login", "answer", "words"),
    [
        ("", b"HTTP/1.1 407 Login\r\n\r\n", "The proxy wants a user and a password"),
        (f"{LOGIN}@", b"HTTP/1.1 407 Login\r\n\r\n", "or refuses those given: set HTTPS_PROXY or --proxy"),
        ("", b"HTTP/1.1 403 No\r\n\r\n", "does not connect to elsewhere.invalid: check HTTPS_PROXY"),
        ("", b"HTTP/1.1 403 No\r\n\r\n", "403"),
        ("", b"SSH-2.0-hello\r\n\r\n", "HTTPS_PROXY"),
    ],
)
def test_refusing_proxy_is_reported_without_its_login(new_process, login, answer, words):
    with scripted_proxy(answer) as port:
        output = to("https://elsewhere.invalid/v1", run=new_process, HTTPS_PROXY=f"http://{login}127.0.0.1:{port}")
    assert (output.status, output.state("call")) == (1, "FAIL")
    assert words in output.words
    assert f"http://127.0.0.1:{port} (HTTPS_PROXY)" in output.words
    assert "hidden" not in output.words


def test_closed_proxy_is_reported(new_process, closed_port):
    output = to("https://elsewhere.invalid/v1", run=new_process, HTTPS_PROXY=f"http://127.0.0.1:{closed_port}")
    assert output.status == 1
    assert "Check the proxy in HTTPS_PROXY, too, or add the server to NO_PROXY" in output.words


def test_call_through_a_proxy_checks_the_servers_certificate(new_process, tmp_path):
    with Simulator(tls="wrong-host", api_key=KEY) as server:
        (tmp_path / "authority.pem").write_text(server.authority)
        address = server.base_url("zhipu").replace(server.url, "https://elsewhere.invalid")
        onto = int(server.url.rpartition(":")[2])
        with scripted_proxy(b"HTTP/1.1 200 Connected\r\n\r\n", onto=onto) as port:
            proxy = f"http://{LOGIN}@127.0.0.1:{port}"
            trust = {"SSL_CERT_FILE": str(tmp_path / "authority.pem")}
            output = to(address, run=new_process, HTTPS_PROXY=proxy, **trust)
    assert output.status == 0, output.lines
    assert (output.state("proxy"), output.state("call")) == ("ok", "ok")
    assert "hidden" not in output.words


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("socks5://127.0.0.1:7890", "socks5://127.0.0.1:7890 (ALL_PROXY)"),
        ("http://me:hidden-word@:3128", "not an address of the form http://host:port (ALL_PROXY)"),
        ("http://127.0.0.1:hidden-word", "not an address of the form http://host:port (ALL_PROXY)"),
        ("http://me:hidden-word@nowhere.invalid", "http://nowhere.invalid (ALL_PROXY)"),
    ],
)
def test_unusable_proxy_is_reported_without_its_login(new_process, address, words):
    output = to("https://elsewhere.invalid/v1", run=new_process, ALL_PROXY=address)
    assert output.status == 1
    assert words in output.words
    assert "hidden" not in output.words


def test_exceptions_from_the_proxy_are_shown(new_process):
    environ = {"https_proxy": "http://127.0.0.1:9", "NO_PROXY": "10.0.0.0/8"}
    assert (
        "(https_proxy), except for NO_PROXY=10.0.0.0/8"
        in to("https://nowhere.invalid", run=new_process, **environ).words
    )


def test_proxy_is_not_used_for_this_machine(new_process, server):
    output = to(server.base_url("zhipu"), run=new_process, HTTP_PROXY="http://proxy.invalid:1")
    assert (output.status, output.state("proxy")) == (0, "ok")
    assert "HTTP_PROXY not used for this address" in output.words


# ── the call ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("provider", "fault", "words"),
    [
        ("zhipu", "bad-key", "An own --base-url may want a key of its own"),
        ("dashscope", "money", "Top it up on the provider's billing page"),
        ("zhipu", "plan-expired", "Top it up"),
        ("dashscope", "forbidden", "Check that text-embedding-v4 is enabled"),
        ("siliconflow", "unknown-model", "There is no model"),
        ("siliconflow", "unknown-model", "Known: "),
        ("siliconflow", "not-found", "check --base-url"),
        ("dashscope-compatible", "rate-limit", "Try again in a minute"),
        ("siliconflow", "retry-after-seconds", "Try again in 1 s"),
        ("siliconflow", "invalid-parameter", "an embedding model"),
        ("zhipu", "server-error", "Try later"),
        ("siliconflow", "bad-gateway-html", "Try later"),
        ("zhipu", "silence", "Raise --timeout"),
        ("zhipu", "trickle-body", "Raise --timeout"),
        ("zhipu", "connection-reset", "The connection broke: check --base-url"),
        ("zhipu", "not-http", "The connection broke: check --base-url"),
        ("zhipu", "proxy-407", "The proxy wants a user and a password"),
        ("zhipu", "redirect-same-host", "redirects, which is not followed"),
        ("gateway", "html-200", "sign-in page"),
        ("gateway", "gateway-record", "Something else may have answered"),
        ("zhipu", "truncated-json", "Something else may have answered"),
        ("siliconflow", "vector-short", "Something else may have answered"),
        ("dashscope", "vector-nan", "Something else may have answered"),
        ("zhipu", "auth-in-200", "The key was refused"),
    ],
)
def test_failed_call_is_reported_with_advice(server, provider, fault, words):
    server.fail(fault)
    output = at(server, provider, "--timeout", "0.4")
    assert (output.status, output.state("call")) == (1, "FAIL")
    assert words in output.words
    assert "do:" in output.words
    # The doctor does not try again. On a connection that another test has left open, the transport does so once.
    assert len(server.requests) <= (2 if fault == "connection-reset" else 1)
    assert all(len(line) <= 80 for line in output.lines.splitlines())


def test_failed_query_is_a_failure(server):
    server.limit(requests_per_minute=1)
    output = at(server, "dashscope")
    assert (output.status, output.state("call"), output.state("query")) == (1, "ok", "FAIL")


# ── regions ──────────────────────────────────────────────────────────────────────────────────────


def test_refused_key_goes_to_no_other_region_unasked(server, regions):
    output = doctor("siliconflow", SILICONFLOW_API_KEY=KEY)
    assert output.status == 1
    assert "--region intl" in output.words
    assert "--try-regions" in output.words
    assert len(regions.requests) == 1
    assert not server.requests


def test_refused_key_is_tried_at_other_regions_on_request(server, regions):
    output = doctor("siliconflow", "--try-regions", SILICONFLOW_API_KEY=KEY)
    assert output.status == 1
    assert "intl: good" in output.words
    assert "use --region intl here" in output.words
    assert len(server.requests) == 1
    assert doctor("siliconflow", "--region", "intl", SILICONFLOW_API_KEY=KEY).status == 0


def test_key_that_is_good_in_no_region_is_reported(regions):
    output = doctor("siliconflow", "--try-regions", SILICONFLOW_API_KEY="good-for-nothing-at-all", secret="good-for-no")
    assert "intl: refused" in output.words
    assert output.state("regions") == "FAIL"


def test_good_key_is_sent_to_no_other_region(server, regions):
    output = doctor("siliconflow", "--region", "intl", "--try-regions", SILICONFLOW_API_KEY=KEY)
    assert output.status == 0
    assert not regions.requests


# ── wrong use ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("zhpu",), "Did you mean 'zhipu'?"),
        (("--model", "x"), "name it: multiembed doctor PROVIDER"),
        (("gateway",), "--model"),
        (("openai-compatible",), "--model"),
        (("zhipu", "--auth-header", "api-key"), "takes no --auth-header"),
        (("--auth-header", "api-key"), "--auth-header: this is for one provider"),
        (("dashscope", "--region", "us"), "known are 'cn'"),
        (("zhipu", "--base-url", "open.bigmodel.cn"), "https://host/path"),
        (("zhipu", "--base-url", "http://open.bigmodel.cn"), "in the open"),
        (("zhipu:embedding-2", "--model", "embedding-3"), "once"),
        (("zhipu", "--timeout", "0"), "above 0"),
        (("zhipu", "--try-regions", "--base-url", "https://127.0.0.1"), "do not go together"),
        (("local", "--base-url", "https://127.0.0.1"), "sends nothing"),
    ],
)
def test_wrong_use_ends_with_status_two(arguments, words):
    output = doctor(*arguments)
    assert output.status == 2
    assert words in output.words
