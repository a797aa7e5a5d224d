"""The provider openai-compatible reaches each server by its documented address, and refuses what cannot work."""

from __future__ import annotations

import base64
import json
import pickle
import struct
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import numpy as np
import pytest
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.schema import TextNode
from support.adapters import ENTRY_POINTS, call, client_of
from support.in_turn import in_turn
from support.providers import MODEL_NAMES, REMOTE, REMOTE_MODELS, SELF_HOSTED, VENDORS
from support.refusals import SECRET, assert_tells, refused
from support.scripted_server import DIMENSIONS, Reply, openai_reply, scripted, vector_of

from llamaindex_multiembed import MultiEmbedding
from multiembed import (
    APIError,
    AuthenticationError,
    ConfigurationError,
    EmbeddingClient,
    MalformedResponseError,
    ModelNotFoundError,
    MultiEmbedError,
)
from multiembed.config.options import EmbeddingOptions
from multiembed.config.request_config import resolve_config

TEXTS = ["first text", "第二", "third"]
KEY = "sk-" + "0123456789abcdef" * 2


@dataclass(frozen=True)
class Server:
    """A server as its documentation says it is reached."""

    name: str
    base: str
    """What is given as base_url, behind scheme, host and port."""
    target: str
    """What must be asked for."""
    model: str = "m"
    options: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str | None] = field(default_factory=lambda: {"authorization": f"Bearer {KEY}"})
    fields: dict[str, Any] = field(default_factory=dict)
    """The body's fields other than `model` and `input`."""

    def __str__(self):
        return self.name


KEYLESS = {"options": {"api_key": None}, "headers": {"authorization": None}}
AZURE = {"authorization": None, "api-key": KEY}
VERSION = "api-version=2024-10-21"
DEPLOYMENT = "/openai/deployments/my-deployment"
# The sources are those of the README's table (read 2026-11-28).
SERVERS = [
    Server("vllm", "/v1", "/v1/embeddings", "BAAI/bge-m3", **KEYLESS),
    Server("vllm-matryoshka", "/v1", "/v1/embeddings", options={"dimensions": DIMENSIONS}, fields={"dimensions": 8}),
    Server("tei", "/v1", "/v1/embeddings", "BAAI/bge-m3", **KEYLESS),
    Server("ollama", "/v1/", "/v1/embeddings", "nomic-embed-text:latest", **KEYLESS),
    Server("lm-studio", "/v1", "/v1/embeddings", "text-embedding-nomic-embed-text-v1.5", **KEYLESS),
    Server("litellm", "", "/embeddings", "azure/my-embedding"),
    Server("litellm-v1", "/v1", "/v1/embeddings", "azure/my-embedding"),
    Server("one-api", "/v1", "/v1/embeddings", "text-embedding-v4"),
    Server("new-api", "/v1/embeddings", "/v1/embeddings", "text-embedding-3-small"),
    Server(
        "xinference", "/v1", "/v1/embeddings", "bge-m3",
        options={"api_key": None, "parameters": {"truncate_prompt_tokens": 512}}, headers={"authorization": None},
        fields={"truncate_prompt_tokens": 512},
    ),
    Server("infinity", "", "/embeddings", "BAAI/bge-small-en-v1.5", **KEYLESS),
    Server(
        "openrouter", "/api/v1", "/api/v1/embeddings", "openai/text-embedding-3-small",
        options={"headers": {"HTTP-Referer": "https://app.example", "X-Title": "App"}},
        headers={"authorization": f"Bearer {KEY}", "http-referer": "https://app.example", "x-title": "App"},
    ),
    Server("azure-v1", "/openai/v1/", "/openai/v1/embeddings", options={"auth_header": "api-key"}, headers=AZURE),
    Server(
        "azure-deployment-by-query", DEPLOYMENT, f"{DEPLOYMENT}/embeddings?{VERSION}",
        options={"auth_header": "api-key", "query": {"api-version": "2024-10-21"}}, headers=AZURE,
    ),
    Server(
        "azure-deployment-pasted", f"{DEPLOYMENT}/embeddings?{VERSION}", f"{DEPLOYMENT}/embeddings?{VERSION}",
        options={"auth_header": "api-key"}, headers=AZURE,
    ),
    Server(
        "azure-base-with-query", f"{DEPLOYMENT}/?{VERSION}", f"{DEPLOYMENT}/embeddings?{VERSION}",
        options={"auth_header": "api-key"}, headers=AZURE,
    ),
    Server(
        "volcengine-ark", "/api/v3", "/api/v3/embeddings", "doubao-embedding-text-240515",
        options={"parameters": {"encoding_format": "float"}}, fields={"encoding_format": "float"},
    ),
    Server(
        "raw-authorization", "/v1", "/v1/embeddings", options={"auth_header": "Authorization"},
        headers={"authorization": KEY},
    ),
    Server("x-api-key", "/v1", "/v1/embeddings", options={"auth_header": "X-API-Key"},
           headers={"authorization": None, "x-api-key": KEY}),
]  # fmt: skip


@pytest.fixture
def make():
    """`make(model, **options)`: an EmbeddingClient, closed when the test ends."""
    clients = []

    def build(model="openai-compatible:m", **options):
        clients.append(EmbeddingClient(model, **options))
        return clients[-1]

    yield build
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    ("server", "entry_point"),
    [
        pytest.param(server, ENTRY_POINTS[name], id=f"{server}-{name}")
        for number, server in enumerate(SERVERS)
        for name in [*ENTRY_POINTS, *ENTRY_POINTS][number % 6 :: 3][:2]
    ],
)
def test_each_server_gets_its_documented_request(server, entry_point):
    with scripted(openai_reply) as running:
        options = {"api_key": KEY, **server.options, "base_url": running.url + server.base}
        embedder = entry_point.make(f"openai-compatible:{server.model}", **options)
        rows = call(entry_point.embed, embedder, TEXTS)
        client_of(embedder).close()
    [request] = running.requests
    assert request.path == server.target
    assert {name: request.headers.get(name) for name in server.headers} == server.headers
    assert request.headers["content-type"] == "application/json"
    assert request.body == {"model": server.model, "input": TEXTS, **server.fields}
    np.testing.assert_array_equal(np.float32(rows), np.float32([vector_of(text) for text in TEXTS]))


QUERY = {"api-version": "2024 10/21", "名": "a&b=c#d?e+f%20", "empty": "", "crlf": "\\r\\nX: y"}


def assert_query_arrived(request):
    assert request.path.isascii()
    assert " " not in request.path
    assert dict(parse_qsl(urlsplit(request.path).query, keep_blank_values=True)) == {"a": "1", **QUERY}


def test_query_reaches_the_wire_percent_encoded(entry_point, make):
    with scripted(openai_reply) as server:
        entry_point(make(base_url=f"{server.url}/v1?a=1", query=QUERY), TEXTS)
    assert_query_arrived(server.requests[0])


def test_query_reaches_the_wire_of_the_users_own_client(make):
    with scripted(openai_reply) as server, httpx.Client(trust_env=False) as own:
        make(base_url=f"{server.url}/v1?a=1", query=QUERY, http_client=own).embed(TEXTS)
    assert_query_arrived(server.requests[0])


def test_query_option_wins_over_the_query_of_base_url():
    options = EmbeddingOptions(base_url="https://h.example/v1?a=1&b=2", query={"a": "3"})
    target = resolve_config("openai-compatible:m", options, {})
    assert target.request_url == "https://h.example/v1/embeddings?a=3&b=2"
    assert target.url == target.base_url + "/embeddings" == "https://h.example/v1/embeddings"


def test_address_and_key_come_from_the_environment():
    environ = {"OPENAI_COMPATIBLE_BASE_URL": "https://env.example/v1", "OPENAI_COMPATIBLE_API_KEY": KEY}
    target = resolve_config("openai-compatible:m", EmbeddingOptions(), environ)
    assert (target.url, target.key.get()) == ("https://env.example/v1/embeddings", KEY)
    given = resolve_config(
        "openai-compatible:m", EmbeddingOptions(base_url="https://own.example", api_key="sk-own"), environ
    )
    assert (given.url, given.key.get()) == ("https://own.example/embeddings", "sk-own")


@pytest.mark.parametrize("empty", ["", "  "])
def test_empty_key_is_no_key(empty, entry_point, make):
    with scripted(openai_reply) as server:
        entry_point(make(base_url=server.url, api_key=empty), TEXTS)
    assert "authorization" not in server.requests[0].headers


def packed(vector):
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def as_base64(request):
    reply = openai_reply(request)
    for item in reply.body["data"]:
        item["embedding"] = packed(item["embedding"])
    return reply


@pytest.mark.parametrize("asked", [None, "float", "base64"])
@pytest.mark.parametrize("answer", [openai_reply, as_base64])
def test_floats_and_base64_are_read_whichever_comes(asked, answer, entry_point, make):
    parameters = None if asked is None else {"encoding_format": asked}
    with scripted(answer) as server:
        client = make(base_url=server.url, parameters=parameters)
        vectors = entry_point(client, TEXTS).vectors
    assert server.requests[0].body.get("encoding_format") == asked
    np.testing.assert_array_equal(vectors, np.float32([vector_of(text) for text in TEXTS]))


@pytest.mark.parametrize("send", [True, False])
def test_dimensions_are_checked_when_the_server_ignores_them(send, entry_point, make):
    with scripted(openai_reply) as server:
        client = make(base_url=server.url, dimensions=4, send_dimensions=send, max_retries=0)
        with pytest.raises(MalformedResponseError, match="8 dimensions where 4 were expected"):
            entry_point(client, TEXTS)
    assert server.requests[0].body.get("dimensions") == (4 if send else None)


@pytest.mark.parametrize("model", ["openai-compatible:m", "gateway:m", "zhipu:embedding-3"])
def test_dimensions_need_not_be_sent_to_be_checked(model, entry_point, make):
    with scripted(openai_reply) as server:
        options = {"base_url": server.url, "api_key": KEY, "send_dimensions": False}
        if not model.startswith("zhipu"):
            options["dimensions"] = DIMENSIONS
            assert entry_point(make(model, **options), TEXTS).vectors.shape == (3, DIMENSIONS)
        else:
            client = make(model, **options, dimensions=256, max_retries=0)
            with pytest.raises(MalformedResponseError, match="256 were expected"):
                entry_point(client, TEXTS)
    assert "dimensions" not in server.requests[0].body


def test_server_that_names_its_cap_is_obeyed(entry_point, make):
    def answer(request):
        count = len(request.texts)
        if count > 8:
            words = f"batch size {count} > maximum allowed batch size 8"
            return Reply({"message": words, "code": 422, "type": "Validation"}, 422)
        return openai_reply(request)

    texts = [f"text {number}" for number in range(40)]
    with scripted(answer) as server:
        client = make(base_url=server.url, max_concurrency=1)
        vectors = entry_point(client, texts).vectors
    sizes = sorted((len(request.texts) for request in server.requests), reverse=True)
    assert sizes[0] == 32
    assert max(sizes[1:]) <= 8
    np.testing.assert_array_equal(vectors, np.float32([vector_of(text) for text in texts]))


# ── fingerprints, dumps, pickles ─────────────────────────────────────────────────────────────────


def fingerprint(model="openai-compatible:m", **options):
    options = {"base_url": "https://h.example/v1", "api_key": KEY, **options}
    return EmbeddingClient(model, **options).fingerprint("document")


def hash_of(**options):
    options = {"base_url": "https://h.example/v1", "api_key": KEY, **options}
    embedding = MultiEmbedding(model_name="openai-compatible:m", **options)
    return get_transformation_hash([TextNode(text="a")], embedding)


@pytest.mark.parametrize("of", [fingerprint, hash_of])
def test_fingerprint_changes_with_what_changes_vectors(of):
    plain = of()
    assert of(query={"api-version": "1"}) != plain
    assert of(query={"api-version": "1"}) != of(query={"api-version": "2"})
    assert of(base_url="https://h.example/v1?api-version=1") != plain
    assert of(auth_header="api-key") == plain
    assert of(query={}) == plain or of is hash_of
    assert of(query={"key": "one", "v": "1"}) == of(query={"key": "two", "v": "1"})
    assert of(dimensions=8) == of(dimensions=8, send_dimensions=False)


def test_fingerprint_without_a_query_is_that_of_earlier_versions():
    """A cache that was filled before `query` existed is still found."""
    earlier = "ca0ab7895dc76d4f7f883bcfb954e8327fb609499ad10d072b09995d027fcda5"
    assert fingerprint("gateway:m", base_url="https://h.example") == earlier


@pytest.mark.parametrize("place", ["query", "api_key"])
def test_credential_is_in_no_repr_dump_or_error(place, entry_point, make):
    def answer(request):
        return Reply({"error": {"message": f"not for {request.path} {request.headers}", "code": "no"}}, 403)

    with scripted(answer) as server:
        given = {"api_key": SECRET, "auth_header": "api-key"} if place == "api_key" else {"query": {"key": SECRET}}
        options = {"base_url": f"{server.url}/v1", **given}
        client = make(**options)
        embedding = MultiEmbedding(model_name="openai-compatible:m", **options)
        with pytest.raises(MultiEmbedError) as caught:
            entry_point(client, TEXTS)
    assert SECRET in f"{server.requests[0].path} {server.requests[0].headers}"
    assert_tells(caught.value, "not for")
    for shown in (repr(client), repr(client.target), str(embedding), embedding.to_json(), embedding.model_dump_json()):
        assert SECRET not in shown
    assert SECRET not in repr(EmbeddingOptions(**options))


def test_key_of_a_pickle_left_behind_is_asked_for_in_plain_words(entry_point, make):
    with scripted(lambda _: Reply({"error": {"message": "no key"}}, 401)) as server:
        client = pickle.loads(pickle.dumps(make(base_url=server.url, api_key=KEY)))
        with pytest.raises(AuthenticationError) as caught:
            entry_point(client, TEXTS)
        client.close()
    assert_tells(caught.value, "none was sent", "OPENAI_COMPATIBLE_API_KEY", "key_in_pickle=True", secret=KEY)


# ── what cannot work is refused before anything is sent ──────────────────────────────────────────


def test_missing_address_is_asked_for():
    assert_tells(
        refused("openai-compatible:m", api_key=SECRET), "OPENAI_COMPATIBLE_BASE_URL", "base_url='http://localhost"
    )


BAD_ADDRESSES = {
    "ws://h.example/v1": "https://host/path",
    "https://h.example:0/v1": "1 to 65535",
    "http://127.0.0.1:0": "1 to 65535",
    "https://h.example:99999/v1": "1 to 65535",
    "https://h.example:-1/v1": "1 to 65535",
    "https://{WorkspaceId}.cn-beijing.maas.aliyuncs.com/api/v1": "placeholder",
    "https://<resource>.openai.azure.com/openai/v1": "placeholder",
    "https://-bad.example/v1": "https://host/path",
    "https://a..b/v1": "https://host/path",
    f"https://{'a' * 64}.example": "https://host/path",
    "https://h.example\\@evil.example/v1": "https://host/path",
    "https://h.example/v 1": "https://host/path",
    "https://h.example/v1\r\nX: y": "https://host/path",
    "https://h.example/v1?a=\ud800": "https://host/path",
    f"https://user:{SECRET}@h.example/v1": "api_key",
    f"https://{SECRET}@h.example/v1": "api_key",
    f"https://h.example/v1#{SECRET}": "api_key",
    f"https://h.example/v1?key={SECRET}": "api_key",
    f"https://h.example/v1?api-version=1&api_key={SECRET}": "auth_header",
    f"https://h.example/v1?Access-Token={SECRET}": "query",
    "https://h.example/v1?a=1&a=2": "twice",
    "https://h.example/v1?=1": "empty name",
    "https://h.example/v1?a=%0d%0aX:%20y": "printable",
    "http://h.example/v1": "in the open",
}


@pytest.mark.parametrize("base", BAD_ADDRESSES, ids=ascii)
def test_bad_address_is_refused_by_its_name(base):
    for variable in (None, "OPENAI_COMPATIBLE_BASE_URL"):
        options = EmbeddingOptions(base_url=None if variable else base, api_key=KEY)
        with pytest.raises(ConfigurationError) as caught:
            resolve_config("openai-compatible:m", options, {variable or "other": base})
        assert_tells(caught.value, BAD_ADDRESSES[base], variable or "base_url")


@pytest.mark.parametrize(
    "name",
    ["", " ", "api key", " api-key", "api-key:", "api-key\r\nX", "Authorization: Bearer", "clé", "api-key\x00",
     "\ud800", "Content-Type", "content-length", "Host", "Accept", "User-Agent", "Accept-Encoding", "Connection", "TE",
     "Transfer-Encoding", "Upgrade", "Expect", "Proxy-Authorization", 7],
    ids=ascii,
)  # fmt: skip
def test_auth_header_that_cannot_carry_a_key_is_refused(name):
    for provider in SELF_HOSTED:
        error = refused(f"{provider}:m", base_url="https://h.example", auth_header=name, api_key=SECRET)
        assert_tells(error, "auth_header")


def test_auth_header_without_a_key_is_refused():
    error = refused("openai-compatible:m", base_url="https://h.example", auth_header="api-key")
    assert_tells(error, "auth_header", "OPENAI_COMPATIBLE_API_KEY", "api_key")


def test_header_that_carries_the_key_may_not_be_given_twice():
    options = {"base_url": "https://h.example", "api_key": "sk-other", "auth_header": "api-key"}
    assert_tells(refused("openai-compatible:m", headers={"API-Key": SECRET}, **options), "'API-Key'", "api_key")


@pytest.mark.parametrize("provider", SELF_HOSTED)
@pytest.mark.parametrize(
    ("query", "words"),
    [
        (f"key={SECRET}", "must map names to text"),
        ([("key", SECRET)], "must map names to text"),
        (7, "must map names to text"),
        ({"api-version": 2024}, "must be text"),
        ({7: SECRET}, "must be text"),
        ({"api-version": None}, "must be text"),
        ({"api-version": [SECRET]}, "must be text"),
        ({b"key": SECRET}, "must be text"),
        ({"": SECRET}, "empty name"),
        ({"a": f"{SECRET}\r\nX: y"}, "printable"),
        ({f"{SECRET}\n": "a"}, "printable"),
        ({"a": "\x00"}, "printable"),
        ({"a": "\x1b[31m"}, "printable"),
        ({"a": "\ud800"}, "printable"),
        ({"\udfff": "a"}, "printable"),
        ({"a": "\u2028"}, "printable"),
    ],
    ids=ascii,
)
def test_query_that_is_no_mapping_of_text_is_refused(query, words, provider):
    error = refused(f"{provider}:m", base_url="https://h.example", query=query, api_key="sk-other")
    assert_tells(error, "query", words)


@pytest.mark.parametrize("key", ["sk with blanks", "sk-\r\nX: y", "Bearer sk-1", "sk-é"])
def test_key_that_a_header_cannot_carry_is_refused(key):
    refused("openai-compatible:m", base_url="https://h.example", api_key=key)


@pytest.mark.parametrize("option", [{"auth_header": "api-key"}, {"query": {"a": "b"}}], ids=str)
@pytest.mark.parametrize("provider", [*VENDORS, "local"])
def test_vendor_takes_no_header_and_no_query_of_ours(provider, option):
    key, model = ({}, "local") if provider == "local" else ({"api_key": KEY}, f"{provider}:m")
    assert_tells(refused(model, **key, **option), f"takes no {next(iter(option))}", "openai-compatible")


@pytest.mark.parametrize("model", ["zhipu:embedding-3", "openai-compatible:m"])
@pytest.mark.parametrize(
    "name",
    ["Transfer-Encoding", "Connection", "expect", "Upgrade", "TE", "Trailer", "Keep-Alive", "Proxy-Connection",
     "Proxy-Authorization", "proxy-authenticate", "Content-Encoding"],
)  # fmt: skip
def test_headers_of_one_connection_are_refused(name, model):
    options = {"base_url": "https://h.example"} if model.startswith("openai") else {}
    assert_tells(refused(model, headers={name: SECRET}, api_key="sk-other", **options), f"{name!r}")


def test_header_in_two_spellings_is_refused():
    assert_tells(refused("zhipu:embedding-3", headers={"X-A": "1", "x-a": "2"}, api_key=KEY), "'x-a' twice")


# ── names that are no provider ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("openai:text-embedding-3-small", ["'openai-compatible:text-embedding-3-small'", "https://api.openai.com/v1"]),
        (
            "ollama:nomic-embed-text:latest",
            ["'openai-compatible:nomic-embed-text:latest'", "http://localhost:11434/v1"],
        ),
        ("vLLM:BAAI/bge-m3", ["'openai-compatible:BAAI/bge-m3'", "http://localhost:8000/v1"]),
        ("lm-studio:m", ["http://localhost:1234/v1"]),
        ("lm_studio:m", ["http://localhost:1234/v1"]),
        ("azure:my-deployment", [".openai.azure.com/openai/v1'", "auth_header='api-key'"]),
        ("azure_openai:my-deployment", ["auth_header='api-key'"]),
        ("litellm:m", ["http://localhost:4000/v1"]),
        ("openrouter:m", ["https://openrouter.ai/api/v1"]),
        ("tei:m", ["http://localhost:8080/v1"]),
        ("xinference:m", ["http://localhost:9997/v1"]),
        ("infinity:m", ["http://localhost:7997'"]),
        ("one-api:m", ["http://localhost:3000/v1"]),
        ("new-api:m", ["http://localhost:3000/v1"]),
        ("volcengine:m", ["https://ark.cn-beijing.volces.com/api/v3"]),
        ("ark:m", ["https://ark.cn-beijing.volces.com/api/v3"]),
        ("zai:embedding-3", ["'zhipu:embedding-3'"]),
        ("qwen:text-embedding-v4", ["'dashscope:text-embedding-v4'"]),
        ("openai", ["openai-compatible"]),
        ("openai:", ["openai-compatible"]),
        ("xyzzy:m", ["'openai-compatible:m'", "base_url", "Known providers", "gateway"]),
        ("xyzzy:\x1b[31m", ["'openai-compatible:\\x1b[31m'"]),
        ("nomic-embed-text", ["openai-compatible:model"]),
    ],
)
def test_unknown_provider_is_answered_with_the_line_to_write(model, words):
    error = refused(model, api_key=SECRET)
    assert_tells(error, *words)
    assert "\x1b" not in str(error)


# ── 404 and redirects name the address ───────────────────────────────────────────────────────────

NOT_FOUND = [
    b"",
    b"<html><body>404 no such model here</body></html>",
    b"404 page not found",
    json.dumps({"detail": "Not Found"}).encode(),
    json.dumps({"error": {"message": "Invalid URL (POST /v1/v1/embeddings)", "code": ""}}).encode(),
    json.dumps({"error": "Unexpected endpoint or method. (POST /embeddings)"}).encode(),
    json.dumps({"error": {"code": "404", "message": "Resource not found"}}).encode(),
]


def error_of(entry_point, make, model, reply, **options):
    with scripted(lambda _: reply) as server:
        client = make(model, **{"api_key": KEY, "base_url": f"{server.url}/base", **options})
        with pytest.raises(MultiEmbedError) as caught:
            entry_point(client, TEXTS)
        assert len(server.requests) == 1
        return caught.value, server.url + server.requests[0].path.partition("?")[0]


@pytest.mark.parametrize(("body", "provider", "entry_point"), in_turn(NOT_FOUND, REMOTE))
def test_404_names_the_address_that_was_asked(provider, body, entry_point, make):
    error, url = error_of(entry_point, make, REMOTE_MODELS[provider], Reply(body, 404))
    assert type(error) is ModelNotFoundError
    assert_tells(error, f"Nothing was found at {url}", secret=KEY)


@pytest.mark.parametrize(
    "message",
    ['model "m" not found, try pulling it first', "The model `m` does not exist.", "模型不存在，请检查模型代码。",
     "The API deployment for this resource does not exist."],
)  # fmt: skip
@pytest.mark.parametrize("provider", SELF_HOSTED)
def test_404_of_a_model_says_so_and_names_the_address(provider, message, entry_point, make):
    error, url = error_of(entry_point, make, REMOTE_MODELS[provider], Reply({"error": {"message": message}}, 404))
    assert type(error) is ModelNotFoundError
    assert_tells(error, f"There is no model {MODEL_NAMES[provider]} at {url}", secret=KEY)


def test_404_of_the_gateway_recommends_openai_compatible(entry_point, make):
    error, _ = error_of(entry_point, make, "gateway:m", Reply(b"", 404))
    assert_tells(error, "openai-compatible", "/api/v1/embeddings", secret=KEY)


@pytest.mark.parametrize("provider", REMOTE)
@pytest.mark.parametrize("location", ["/elsewhere", "https://elsewhere.example/v1?key=" + SECRET])
def test_redirect_names_the_address_that_was_asked(provider, location, entry_point, make):
    error, url = error_of(entry_point, make, REMOTE_MODELS[provider], Reply(b"", 308, {"Location": location}))
    assert type(error) is APIError
    assert_tells(error, f"{url} redirects")
    assert_tells(error, secret=KEY)


@pytest.mark.parametrize("status", [404, 307])
def test_address_in_an_error_shows_no_query(status, entry_point, make):
    error, url = error_of(
        entry_point,
        make,
        "openai-compatible:m",
        Reply(b"", status, {"Location": "/x"}),
        query={"api-version": "1", "x": SECRET},
    )
    assert_tells(error, f"{url}?…")


def assert_tells_not(error, *words):
    assert not [each for each in words if each in str(error)]


def test_404_of_a_model_gives_no_advice_on_the_path(entry_point, make):
    error, _ = error_of(entry_point, make, "openai-compatible:m", Reply({"error": 'model "m" not found'}, 404))
    assert_tells_not(error, "multiembed models", "/embeddings is added")


@pytest.mark.parametrize("provider", SELF_HOSTED)
def test_405_names_the_address_that_was_asked(provider, entry_point, make):
    with scripted(lambda _: Reply({"detail": "Method Not Allowed"}, 405)) as server:
        with pytest.raises(MultiEmbedError) as caught:
            entry_point(make(f"{provider}:m", api_key=KEY, base_url=server.url), TEXTS[:1])
        url = server.url + server.requests[0].path
    assert_tells(caught.value, f"{url} does not take POST requests", "Method Not Allowed", secret=KEY)


@pytest.mark.parametrize(
    ("options", "advice"), [({}, "name it with auth_header"), ({"auth_header": "X-Key"}, "sends the key as it is")]
)
def test_refused_key_advises_on_its_header(options, advice, entry_point, make):
    error, _ = error_of(entry_point, make, "openai-compatible:m", Reply({"error": "no"}, 401), **options)
    assert type(error) is AuthenticationError
    assert_tells(error, advice, secret=KEY)
    assert_tells_not(error, "region")


@pytest.mark.parametrize("body", [b"", b"null", b"{}", b"   "], ids=str)
def test_refusal_without_words_points_to_none(body, entry_point, make):
    with scripted(lambda _: Reply(body, 400)) as server, pytest.raises(MultiEmbedError) as caught:
        entry_point(make("openai-compatible:m", api_key=KEY, base_url=server.url), TEXTS[:1])
    assert_tells_not(caught.value, "Read the provider's message")


@pytest.mark.parametrize("status", [503, 429])
def test_failure_without_retries_claims_none(status, entry_point, make):
    with scripted(lambda _: Reply(b"", status)) as server, pytest.raises(MultiEmbedError) as caught:
        entry_point(make("openai-compatible:m", api_key=KEY, base_url=server.url, max_retries=0), TEXTS[:1])
    assert len(server.requests) == 1
    assert_tells_not(caught.value, "again", "after waiting")


def test_connection_failure_names_the_address(entry_point, make):
    with scripted(openai_reply) as server:
        url = server.url
    with pytest.raises(MultiEmbedError) as caught:
        entry_point(make("openai-compatible:m", api_key=KEY, base_url=f"{url}/v1", max_retries=0), TEXTS[:1])
    assert_tells(caught.value, f"The connection to {url}/v1/embeddings failed", secret=KEY)
    assert_tells_not(caught.value, "again")
