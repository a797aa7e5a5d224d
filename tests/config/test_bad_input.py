"""Keys, texts, models, addresses and parameters that cannot work: refused before sending, without showing the key."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from support.providers import KEYLESS, MODELS, REMOTE, REMOTE_MODELS, address_options, provider_of
from support.refusals import SECRET, assert_tells, refused

from multiembed import ConfigurationError, EmbeddingClient, InputTooLongError, InvalidRequestError, MultiEmbedError
from multiembed.config.options import EmbeddingOptions
from multiembed.config.request_config import resolve_config
from multiembed.providers import PROVIDERS, local
from multiembed.simulator import Answer, Simulator

# ── keys ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("provider", [name for name in REMOTE if name not in KEYLESS])
@pytest.mark.parametrize("empty", [None, "", "  \n"])
def test_missing_key_names_its_variable(provider, empty, monkeypatch):
    variable = PROVIDERS[provider].key_env[0]
    if empty is not None:
        monkeypatch.setenv(variable, empty)
    error = refused(MODELS[provider], **address_options(provider))
    assert_tells(error, f"No key for {provider}", variable, "api_key")


def test_empty_key_variable_falls_back_to_the_next_one(monkeypatch):
    monkeypatch.setenv("ZHIPUAI_API_KEY", "")
    monkeypatch.setenv("ZAI_API_KEY", SECRET)
    assert EmbeddingClient("zhipu:embedding-3").target.key.get() == SECRET


MALFORMED = {
    "newline inside": (SECRET[:12] + "\n" + SECRET[12:], "U+000A"),
    "carriage return inside": (SECRET[:12] + "\r\n" + SECRET[12:], "U+000D"),
    "blank inside": (SECRET[:12] + " " + SECRET[12:], "U+0020"),
    "NUL inside": (SECRET[:12] + "\x00" + SECRET[12:], "U+0000"),
    "smart quotes": (f"“{SECRET}”", "quotation marks"),
    "smart quote at the end": (f"{SECRET}’", "quotation marks"),
    "straight quotes": (f'"{SECRET}"', "quotation marks"),
    "smart quote inside": (SECRET[:12] + "”" + SECRET[12:], "U+201D"),
    "Bearer": (f"Bearer {SECRET}", "Bearer"),
    "bearer": (f"bearer  {SECRET}", "Bearer"),
    "an accent": (SECRET + "é", "U+00E9"),
    "Chinese": (SECRET[:12] + "密钥" + SECRET[12:], "U+5BC6"),
    "emoji": (SECRET + "🔑", "U+1F511"),
    "zero-width": (SECRET + "\u200b" + "x", "U+200B"),
    "lone surrogate": (SECRET + "\ud800", "U+D800"),
    "byte order mark": ("\ufeff" + SECRET, "U+FEFF"),
}
# A variable of the environment can hold neither of these.
SOURCES = {name: ["option", "function"] for name in ("NUL inside", "lone surrogate")}


@pytest.mark.parametrize(
    ("name", "source"),
    [(name, source) for name in MALFORMED for source in SOURCES.get(name, ["option", "function", "environment"])],
)
def test_malformed_key_is_refused_without_being_repeated(name, source, entry_point, connect, simulator, monkeypatch):
    key, word = MALFORMED[name]
    options = {"base_url": simulator.base_url("dashscope")}
    if source == "option":
        error = refused("dashscope:text-embedding-v4", api_key=key, **options)
    elif source == "environment":
        monkeypatch.setenv("DASHSCOPE_API_KEY", key)
        error = refused("dashscope:text-embedding-v4", **options)
    else:
        with pytest.raises(ConfigurationError) as caught:
            entry_point(connect("dashscope:text-embedding-v4", api_key=lambda: key), ["text"])
        error = caught.value
    assert_tells(error, word, {"option": "api_key", "environment": "DASHSCOPE_API_KEY", "function": "api_key"}[source])
    assert simulator.requests == []


@pytest.mark.parametrize("wrong", [None, 7, b"sk-bytes", ""])
def test_key_function_without_a_key_is_refused(wrong, entry_point, connect, simulator):
    with pytest.raises(ConfigurationError, match="api_key function"):
        entry_point(connect("zhipu:embedding-3", api_key=lambda: wrong), ["text"])
    assert simulator.requests == []


@pytest.mark.parametrize("wrap", ["{}\n", "  {}", "\t{}\r\n"], ids=ascii)
@pytest.mark.parametrize("source", ["option", "environment"])
def test_white_space_around_a_key_is_removed(wrap, source, entry_point, connect, simulator, monkeypatch):
    key = wrap.format(simulator.api_key)
    if source == "environment":
        monkeypatch.setenv("DASHSCOPE_API_KEY", key)
        key = None
    entry_point(connect("dashscope:text-embedding-v4", api_key=key), ["text"])
    [request] = simulator.requests
    assert request.headers["authorization"] == f"Bearer {simulator.api_key}"


@pytest.mark.parametrize("model", REMOTE_MODELS.values())
def test_key_that_the_server_refuses_is_shown_nowhere(model, entry_point, connect, simulator):
    with pytest.raises(MultiEmbedError) as caught:
        entry_point(connect(model, api_key=SECRET), [f"text {number}" for number in range(200)])
    assert_tells(caught.value, "key was refused", PROVIDERS[provider_of(model)].key_env[0])
    assert {request.status for request in simulator.requests} == {401}


def test_client_and_its_options_do_not_show_the_key():
    client = EmbeddingClient("zhipu:embedding-3", api_key=SECRET, headers={"X-Route": SECRET})
    options = EmbeddingOptions(api_key=SECRET, headers={"X-Route": SECRET})
    for each in (client, options, client.target.key, options.model_dump(), options.model_dump_json()):
        assert SECRET not in f"{each} {each!r}"


# ── texts ────────────────────────────────────────────────────────────────────────────────────────


def call(entry_point, client, texts, role="document"):
    with pytest.raises(MultiEmbedError) as caught:
        entry_point(client, texts, role)
    return caught.value


@pytest.mark.parametrize("model", REMOTE_MODELS.values())
@pytest.mark.parametrize("role", ["document", "query"])
def test_empty_texts_are_refused_by_their_positions(model, role, entry_point, connect, simulator):
    error = call(entry_point, connect(model), ["a", "", "b", "", "c"], role)
    assert type(error) is InvalidRequestError
    assert error.indices == (1, 3)
    assert_tells(error, "2 of 5 texts are empty", "leave them out", "1, 3", secret=simulator.api_key)
    assert simulator.requests == []


BLANK = [" ", "\n\t ", "\u3000", "\xa0"]


@pytest.mark.parametrize("model", [MODELS[name] for name in REMOTE if PROVIDERS[name].refuses == "blank"])
@pytest.mark.parametrize("blank", BLANK, ids=ascii)
def test_blank_text_is_refused_for_the_vendors_apis(model, blank, entry_point, connect, simulator):
    error = call(entry_point, connect(model), ["a", blank])
    assert (type(error), error.indices) == (InvalidRequestError, (1,))
    assert simulator.requests == []


@pytest.mark.parametrize("blank", BLANK, ids=ascii)
@pytest.mark.parametrize("model", [MODELS[name] for name in REMOTE if PROVIDERS[name].refuses == "empty"])
def test_unknown_server_is_sent_white_space(model, blank, entry_point, connect, simulator):
    assert entry_point(connect(model), ["a", blank]).vectors.shape == (2, 1536)
    assert [request.body["input"] for request in simulator.requests] == [["a", blank]]


@pytest.mark.parametrize(
    "wrong", [None, 7, 1.5, b"bytes", ["a"], {"text": "a"}, object()], ids=lambda wrong: type(wrong).__name__
)
@pytest.mark.parametrize("model", ["dashscope:text-embedding-v4", "gateway:m"])
def test_item_that_is_not_text_is_named_by_position_and_type(wrong, model, entry_point, connect, simulator):
    error = call(entry_point, connect(model), ["a", "b", wrong])
    assert (type(error), error.indices) == (ConfigurationError, (2,))
    assert_tells(error, "position 2", type(wrong).__name__, "convert it", secret=simulator.api_key)
    assert simulator.requests == []


class Frame:
    """A data frame as of pandas and polars: iterating over it gives the names of its columns."""

    columns = ("text",)

    def __iter__(self):
        return iter(self.columns)


@pytest.mark.parametrize(
    "wrong", ["one text", b"bytes", 7, None, object(), {"id": "text"}, Frame()], ids=lambda wrong: type(wrong).__name__
)
def test_value_that_is_not_a_list_of_texts_is_refused(wrong, entry_point, connect, simulator):
    error = call(entry_point, connect("dashscope:text-embedding-v4"), wrong)
    assert type(error) is ConfigurationError
    assert_tells(error, "list of texts", secret=simulator.api_key)
    assert simulator.requests == []


@pytest.mark.parametrize("role", ["documents", "Query", "", None, 7, ["query"]], ids=str)
def test_unknown_role_is_refused_by_name(role, entry_point, connect, simulator):
    error = call(entry_point, connect("dashscope:text-embedding-v4"), ["a"], role)
    assert type(error) is ConfigurationError
    assert_tells(error, "'document' or 'query'", repr(role), secret=simulator.api_key)
    assert simulator.requests == []


@pytest.mark.parametrize(
    ("model", "options", "size"),
    [
        ("zhipu:embedding-3", {}, 2048),
        ("zhipu:embedding-3", {"dimensions": 256}, 256),
        ("siliconflow:BAAI/bge-m3", {}, 1024),
        ("dashscope:text-embedding-v4", {"output": "dense&sparse"}, 1024),
        ("dashscope-compatible:text-embedding-v2", {}, 1536),
        ("gateway:m", {"dimensions": 77}, 77),
        ("gateway:m", {}, 0),
    ],
)
def test_no_texts_give_an_empty_array_and_no_request(model, options, size, entry_point, connect, simulator):
    client = connect(model, **options)
    for texts in ([], (), iter(())):
        result = entry_point(client, texts)
        assert result.vectors.shape == (0, size)
        assert result.to_list() == []
        assert result.sparse == ([] if "output" in options else None)
        assert (result.usage.requests, result.usage.total_tokens, result.usage.cost) == (0, 0, 0)
    assert simulator.requests == []


def test_no_texts_give_an_array_of_the_learned_dimensions(entry_point, connect):
    client = connect("gateway:m")
    entry_point(client, ["a"])
    assert entry_point(client, []).vectors.shape == (0, 1536)


class Tag(str):
    """A str whose overridden methods must not be called."""

    def __str__(self):
        return "not this"

    def encode(self, *_args, **_kwargs):
        raise AssertionError

    def strip(self, *_args):
        return ""


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\udfff", "\ufffd"),
        ("end\ud83d", "end\ufffd"),
        ("\udc00\ud800", "\ufffd\ufffd"),
        ("pair \ud83d\ude00", "pair 😀"),
        ("nul \x00 inside", "nul \x00 inside"),
        ("\x00", "\x00"),
        ("שלום عالم", "שלום عالم"),
        ("e\u0301 stays apart", "e\u0301 stays apart"),
        ("👩‍👩‍👧‍👦 🏳️‍🌈", "👩‍👩‍👧‍👦 🏳️‍🌈"),
        ("<|endoftext|> \\ \" \u2028", "<|endoftext|> \\ \" \u2028"),
        ("  kept  ", "  kept  "),
        (Tag("a tag"), "a tag"),
        (np.str_("numpy's"), "numpy's"),
    ],
    ids=ascii,
)  # fmt: skip
@pytest.mark.parametrize("model", ["siliconflow:BAAI/bge-m3", "dashscope:text-embedding-v4", "gateway:m"])
def test_unusual_texts_are_sent_unchanged_except_surrogates(text, sent, model, entry_point, connect, simulator):
    result = entry_point(connect(model), ["before", text, "after"])
    [request] = simulator.requests
    body = request.body["input"]
    assert (body if isinstance(body, list) else body["texts"]) == ["before", sent, "after"]
    np.testing.assert_array_equal(result.vectors, local.embed(["before", sent, "after"], result.vectors.shape[1]))


def test_text_of_two_megabytes_is_sent_and_refused_by_the_server(entry_point, connect, simulator):
    error = call(entry_point, connect("siliconflow:BAAI/bge-m3"), ["x " * 1_000_000])
    assert type(error).__name__ == "InputTooLongError"
    assert error.indices == (0,)
    assert len(str(error)) < 1000
    assert [request.status for request in simulator.requests] == [413]


def test_thousand_equal_texts_are_paid_once(entry_point, connect, simulator):
    result = entry_point(connect("dashscope:text-embedding-v4"), ["the same"] * 1000)
    assert [request.body["input"]["texts"] for request in simulator.requests] == [["the same"]]
    assert result.vectors.shape == (1000, 1024)
    assert (result.vectors == result.vectors[0]).all()
    assert result.usage.requests == 1


def test_error_of_the_callers_iterator_is_raised_unchanged(entry_point, connect, simulator):
    def texts():
        yield "a"
        raise KeyError("the caller's")

    with pytest.raises(KeyError, match="the caller's"):
        entry_point(connect("dashscope:text-embedding-v4"), texts())
    assert simulator.requests == []


@pytest.mark.parametrize("count", [None, float("nan"), 1.5, "3", -1], ids=repr)
def test_invalid_token_count_is_refused_for_its_client_only(count, entry_point, connect, simulator):
    model = "dashscope:text-embedding-v4"
    wrong = connect(model, token_counter=lambda _: count, tokens_per_minute=60_000)
    error = call(entry_point, wrong, ["a", "b"])
    assert type(error) is ConfigurationError
    assert_tells(error, "token_counter", secret=simulator.api_key)
    assert simulator.requests == []
    assert len(entry_point(connect(model, deadline=20), ["a"]).vectors) == 1


def test_single_character_over_the_token_limit_is_sent(entry_point, connect, simulator):
    client = connect("zhipu:embedding-3", on_too_long="split", limits={"max_tokens_per_item": 1})
    assert len(entry_point(client, ["\U0001f600\U0001f600"]).vectors) == 1
    assert {text for request in simulator.requests for text in request.body["input"]} == {"\U0001f600"}


def test_pieces_of_a_failed_text_are_not_sent(entry_point, connect, simulator):
    """The prefix alone is longer than the model takes, so that no piece can be short enough."""
    client = connect("siliconflow:BAAI/bge-large-zh-v1.5", on_too_long="split", document_prefix="天地玄黄 " * 300)
    error = call(entry_point, client, ["宇宙洪荒" * 200])
    assert type(error) is InputTooLongError
    assert len(simulator.requests) < 100


@pytest.mark.parametrize("path", ["s3://bucket/vectors", "file:///vectors.sqlite", "a\0b"])
def test_cache_that_is_not_a_path_is_refused(path, connect, simulator):
    error = call(EmbeddingClient.embed, connect("dashscope:text-embedding-v4", cache=path), ["a"])
    assert type(error) is ConfigurationError
    assert_tells(error, "not the path of a file", secret=simulator.api_key)
    assert simulator.requests == []


@pytest.mark.parametrize("length", [len(SECRET), 20, 8])
def test_part_of_a_key_that_the_server_repeats_is_not_shown(length, entry_point):
    with Simulator(api_key=SECRET) as simulator:
        words = json.dumps({"code": "InvalidApiKey", "message": f"Wrong key: {SECRET[:length]}…"}).encode()
        simulator.fail(lambda _request, answer: Answer(401, answer.headers, words))
        client = EmbeddingClient(
            "dashscope:text-embedding-v4", api_key=SECRET, base_url=simulator.base_url("dashscope")
        )
        assert_tells(call(entry_point, client, ["a"]), "Wrong key")


# ── models, dimensions, instructions, outputs ────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("dashscop:text-embedding-v4", ["no provider 'dashscop'", "Did you mean 'dashscope'?", "zhipu"]),
        ("zhipuai:embedding-3", ["Did you mean 'zhipu'?"]),
        ("SiliconFlow:BAAI/bge-m3", ["Did you mean 'siliconflow'?"]),
        ("openai:text-embedding-3-small", ["no provider 'openai'", "gateway"]),
        ("embedding-3", ["names no provider", "'zhipu:embedding-3'"]),
        ("text-embedding-v4", ["'dashscope:text-embedding-v4' or 'dashscope-compatible:text-embedding-v4'"]),
        ("zhipu", ["names no model", "'zhipu:embedding-3'"]),
        ("zhipu:", ["names no model", "embedding-3"]),
        ("gateway", ["names no model", "gateway:model"]),
        (":embedding-3", ["provider"]),
        ("", ["provider:model"]),
        ("no-such-thing", ["names no provider", "provider:model"]),
        (None, ["'dashscope:text-embedding-v4'", "NoneType"]),
        (7, ["int"]),
    ],
)
def test_unknown_model_name_suggests_the_nearest(model, words):
    assert_tells(refused(model, api_key=SECRET), *words)


@pytest.mark.parametrize(
    ("option", "message"), [("api_kye", "'api_kye': did you mean 'api_key'?"), ("xyzzy", "no option 'xyzzy'.")]
)
def test_unknown_option_is_named_without_its_value(option, message):
    assert_tells(refused("zhipu:embedding-3", **{option: SECRET}), message)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("dimensions", 0),
        ("dimensions", -5),
        ("dimensions", "512.5"),
        ("dimensions", 512.5),
        ("dimensions", True),
        ("max_concurrency", 0),
        ("max_retries", -1),
        ("timeout", 0),
        ("timeout", float("inf")),
        ("timeout", float("nan")),
        ("deadline", -1),
        ("output", "both"),
        ("api_key", 7),
        ("limits", 7),
        ("parameters", [1]),
        ("headers", "X: y"),
        ("token_counter", 7),
    ],
)
def test_option_of_a_wrong_type_is_named(option, value):
    assert_tells(refused("zhipu:embedding-3", **{"api_key": SECRET, option: value}), f"'{option}'")


@pytest.mark.parametrize(
    ("model", "asked", "sizes"),
    [
        ("zhipu:embedding-3", 300, "256, 512, 1024, 2048"),
        ("zhipu:embedding-2", 512, "1024"),
        ("siliconflow:BAAI/bge-m3", 512, "1024"),
        ("siliconflow:Qwen/Qwen3-Embedding-0.6B", 2048, "64, 128, 256, 512, 768, 1024"),
        ("dashscope:text-embedding-v3", 2048, "64, 128, 256, 512, 768, 1024"),
        ("dashscope-compatible:text-embedding-v2", 1024, "1536"),
    ],
)
def test_unsupported_dimensions_are_refused_with_the_supported(model, asked, sizes):
    assert_tells(refused(model, dimensions=asked, api_key=SECRET), f"of {asked} dimensions", f"choose from {sizes}")


@pytest.mark.parametrize("model", [f"{provider}:embedding-of-tomorrow" for provider in REMOTE])
def test_unknown_model_takes_any_dimensions(model):
    options = EmbeddingOptions(dimensions=333, api_key=SECRET, **address_options(provider_of(model)))
    assert resolve_config(model, options, {}).dimensions == 333


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("zhipu:embedding-3", ["no place for instruct"]),
        ("siliconflow:BAAI/bge-m3", ["no place for instruct"]),
        ("siliconflow:BAAI/bge-large-zh-v1.5", ["no place for instruct", "query_prefix='recommended'"]),
        ("dashscope:text-embedding-v3", ["no place for instruct"]),
        ("dashscope-compatible:text-embedding-v4", ["no place for instruct", "dashscope:"]),
        ("gateway:m", ["no place for instruct"]),
    ],
)
def test_instruction_that_the_model_does_not_take_is_refused(model, words):
    options = address_options(provider_of(model))
    assert_tells(refused(model, instruct="Find it", api_key=SECRET, **options), *words)


def test_instruction_and_recommended_prefix_exclude_each_other():
    error = refused(
        "siliconflow:Qwen/Qwen3-Embedding-8B", instruct="Find it", query_prefix="recommended", api_key=SECRET
    )
    assert_tells(error, "not both")


@pytest.mark.parametrize("model", ["zhipu:embedding-3", "siliconflow:BAAI/bge-m3", "dashscope:text-embedding-v4"])
def test_missing_recommended_prefix_is_refused(model):
    assert_tells(refused(model, query_prefix="recommended", api_key=SECRET), "No query prefix is recommended")


@pytest.mark.parametrize("output", ["sparse", "dense&sparse"])
@pytest.mark.parametrize(
    "model", ["zhipu:embedding-3", "dashscope:text-embedding-v2", "dashscope-compatible:text-embedding-v4", "local"]
)
def test_sparse_output_that_the_model_lacks_is_refused(model, output):
    options = {} if model == "local" else {"api_key": SECRET}
    assert_tells(refused(model, output=output, **options), "dense vectors only", "dashscope:text-embedding-v4")


# ── addresses and headers ────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "region", "known"),
    [
        ("dashscope:text-embedding-v4", "eu", "'cn', 'intl', 'hk'"),
        ("dashscope-compatible:text-embedding-v4", "CN", "'cn', 'intl', 'hk'"),
        ("siliconflow:BAAI/bge-m3", "hk", "'cn', 'intl'"),
        ("zhipu:embedding-3", "hk", "'cn', 'intl'"),
        ("gateway:m", "cn", "none"),
    ],
)
def test_unknown_region_is_refused_with_the_known_ones(model, region, known):
    assert_tells(refused(model, region=region, api_key=SECRET), f"no region '{region}'", known)


def test_region_and_an_address_exclude_each_other():
    error = refused("dashscope:m", region="cn", base_url="https://host.example", api_key=SECRET)
    assert_tells(error, "not both")


def test_gateway_without_an_address_names_its_variable():
    assert_tells(refused("gateway:m", api_key=SECRET), "MULTIEMBED_GATEWAY_BASE_URL", "base_url")


@pytest.mark.parametrize(
    "base",
    [
        f"https://user:{SECRET}@host.example/v1",
        f"https://{SECRET}@host.example/v1",
        f"https://host.example/v1?key={SECRET}",
        f"https://host.example/v1#{SECRET}",
        "https://@host.example/v1",
    ],
)
def test_address_holds_no_credentials(base):
    assert_tells(refused("gateway:m", base_url=base, api_key=SECRET), "api_key", "headers")


@pytest.mark.parametrize(
    "base",
    [
        "host.example/v1",
        "ftp://host.example",
        "file:///etc/passwd",
        "https://",
        "https:///v1",
        "https://host.example:99999",
        "https://host.example:port",
        "https://[::1",
        "https://host.example/\nx",
        "https://höst.example",
        "https://host example/v1",
        "javascript:alert(1)",
    ],
    ids=ascii,
)
def test_malformed_address_is_refused(base):
    assert_tells(refused("gateway:m", base_url=base, api_key=SECRET), "https://host/path")


@pytest.mark.parametrize(
    "base",
    ["http://host.example", "http://10.0.0.7:8000/v1", "http://localhost.evil.example", "http://127.0.0.1.evil.example",
     "http://0.0.0.0:8000", "http://[fe80::1]:8000", "HTTP://HOST.EXAMPLE"],
)  # fmt: skip
def test_plain_http_to_another_host_needs_allow_insecure(base):
    assert_tells(refused("gateway:m", base_url=base, api_key=SECRET), "in the open", "https://", "allow_insecure=True")
    allowed = EmbeddingOptions(base_url=base, api_key=SECRET, allow_insecure=True)
    assert resolve_config("gateway:m", allowed, {}).url == f"{base}/api/v1/embeddings"


@pytest.mark.parametrize(
    "base",
    ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000", "http://127.8.9.10", "https://h.example"],
)
def test_plain_http_to_loopback_and_https_are_allowed(base):
    assert (
        resolve_config("gateway:m", EmbeddingOptions(base_url=base, api_key=SECRET), {}).url
        == f"{base}/api/v1/embeddings"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", f"Bearer {SECRET}"),
        ("authorization", SECRET),
        ("Content-Type", "text/plain"),
        ("Host", "evil.example"),
        ("X-Key", f"{SECRET}\r\nEvil: yes"),
        ("X-Key", f"{SECRET}é"),
        ("X-Key:", SECRET),
        ("", SECRET),
        ("X Key", SECRET),
        ("X-Kéy", SECRET),
    ],
    ids=ascii,
)
def test_invalid_headers_are_refused_without_their_value(name, value):
    assert_tells(refused("zhipu:embedding-3", headers={name: value}, api_key="sk-other"), "header")


# ── extra parameters, limits, clients ────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("model", "parameters", "words"),
    [
        ("zhipu:embedding-3", {"dimensions": 512}, ["'dimensions'", "the option dimensions"]),
        ("zhipu:embedding-3", {"model": "other"}, ["'model'", "the option model"]),
        ("zhipu:embedding-3", {"input": ["x"]}, ["'input'"]),
        ("zhipu:embedding-3", {"encoding_format": "base64"}, ["'encoding_format'", "floats only"]),
        ("siliconflow:BAAI/bge-m3", {"encoding_format": "int8"}, ["'float' or 'base64'"]),
        ("siliconflow:BAAI/bge-m3", {"encoding_format": 7}, ["'float' or 'base64'"]),
        ("siliconflow:BAAI/bge-m3", {"encoding_format": ["float"]}, ["'float' or 'base64'"]),
        ("dashscope:text-embedding-v4", {"text_type": "query"}, ["'text_type'", "role"]),
        ("dashscope:text-embedding-v4", {"dimension": 512}, ["'dimension'", "the option dimensions"]),
        ("dashscope:text-embedding-v4", {"output_type": "sparse"}, ["'output_type'", "the option output"]),
        ("dashscope:text-embedding-v4", {"instruct": "x"}, ["'instruct'", "the option instruct"]),
        ("dashscope:text-embedding-v4", {"encoding_format": "base64"}, ["'encoding_format'", "floats only"]),
        ("dashscope-compatible:text-embedding-v4", {"encoding_format": "base64"}, ["floats only"]),
        ("gateway:m", {"dimensions": 512}, ["the option dimensions"]),
        ("local", {"x": 1}, ["no extra parameters"]),
    ],
    ids=str,
)
def test_parameters_with_a_field_of_an_option_are_refused(model, parameters, words):
    options = {} if model == "local" else {"api_key": SECRET, **address_options(provider_of(model))}
    assert_tells(refused(model, parameters=parameters, **options), *words)


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, b"bytes", {"deep": [object()]}, 2**70, {1: "a"}, "\ud800", float("nan"), float("inf"), 1j],
    ids=lambda wrong: type(wrong).__name__,
)
@pytest.mark.parametrize("model", ["zhipu:embedding-3", "dashscope:text-embedding-v4", "gateway:m"])
def test_parameters_that_are_not_json_are_refused(value, model):
    options = {"api_key": SECRET, **address_options(provider_of(model))}
    for others in ({}, {"encoding_format": "float"}):
        assert_tells(refused(model, parameters={"extra": value, **others}, **options), "plain JSON")


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("zhipu:embedding-3", {"query_prefix": "\ud800"}),
        ("zhipu:embedding-3", {"document_prefix": "\udfff: "}),
        ("dashscope:text-embedding-v4", {"instruct": "Find \ud800"}),
        ("siliconflow:Qwen/Qwen3-Embedding-0.6B", {"instruct": "Find \ud800"}),
    ],
    ids=ascii,
)
@pytest.mark.parametrize("role", ["document", "query"])
def test_surrogates_in_prefix_and_instruction_are_replaced(model, options, role, entry_point, connect):
    try:
        entry_point(connect(model, **options), ["text"], role)
    except ConfigurationError as error:
        assert_tells(error, next(iter(options)))


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"max_item": 5}, ["'max_item'", "max_items"]),
        ({"max_items": 0}, ["'max_items'", "above 0"]),
        ({"max_items": None}, ["'max_items'"]),
        ({"max_items": -3}, ["'max_items'"]),
        ({"max_tokens_per_request": 0}, ["'max_tokens_per_request'"]),
        ({"max_items": "many"}, ["limits"]),
        ({"max_items": 1.5}, ["limits"]),
    ],
    ids=str,
)
def test_invalid_limits_are_refused(limits, words):
    assert_tells(refused("zhipu:embedding-3", limits=limits, api_key=SECRET), *words)


@pytest.mark.parametrize("option", ["http_client", "http_async_client"])
def test_client_that_is_not_of_httpx_is_refused(option, connect, simulator):
    with pytest.raises(ConfigurationError, match=f"{option} must be an httpx"):
        connect("zhipu:embedding-3", **{option: object()}).embed(["a"])
    assert simulator.requests == []


@pytest.mark.parametrize("options", [{"region": "cn"}, {"base_url": "https://host.example"}])
def test_local_provider_has_no_address(options):
    assert_tells(refused("local", **options), "sends nothing")


def test_local_provider_needs_no_key_and_no_network(entry_point):
    result = entry_point(EmbeddingClient("local"), ["a", "b", "a"])
    np.testing.assert_array_equal(result.vectors, local.embed(["a", "b", "a"], 1024))
    assert (result.usage.requests, result.usage.cost) == (0, 0)


def test_sync_and_async_refuse_with_the_same_message(connect):
    client = connect("dashscope:text-embedding-v4")
    for texts in (["a", ""], ["a", None], "a", ["a"] * 3 + [7]):
        messages = []
        for run in (lambda: client.embed(texts), lambda: asyncio.run(client.aembed(texts))):  # noqa: B023 - run at once
            with pytest.raises(MultiEmbedError) as caught:
                run()
            messages.append((type(caught.value), str(caught.value)))
        assert messages[0] == messages[1]
