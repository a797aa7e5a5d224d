"""What cannot work is refused before anything is sent, in words that say what to do and never hold the key."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from support.refusals import SECRET, assert_tells, refused

from multiembed import ConfigurationError, EmbeddingClient, InputTooLongError, InvalidRequestError, MultiEmbedError
from multiembed.config.options import EmbeddingOptions
from multiembed.config.request_config import resolve_config
from multiembed.providers import PROVIDERS, local
from multiembed.simulator import Answer, Simulator

REMOTE = {
    "zhipu": "zhipu:embedding-3",
    "siliconflow": "siliconflow:BAAI/bge-m3",
    "dashscope": "dashscope:text-embedding-v4",
    "dashscope-compatible": "dashscope-compatible:text-embedding-v4",
    "openai-compatible": "openai-compatible:m",
    "gateway": "gateway:m",
}
URL = {name: {"base_url": "https://host.example"} for name in ("openai-compatible", "gateway")}
KEYS = {
    "zhipu": "ZHIPUAI_API_KEY",
    "siliconflow": "SILICONFLOW_API_KEY",
    "dashscope": "DASHSCOPE_API_KEY",
    "dashscope-compatible": "DASHSCOPE_API_KEY",
    "openai-compatible": "OPENAI_COMPATIBLE_API_KEY",
    "gateway": "MULTIEMBED_GATEWAY_API_KEY",
}


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("provider", [name for name in REMOTE if name != "openai-compatible"])
@pytest.mark.parametrize("empty", [None, "", "  \n"])
def test_a_key_that_is_missing_is_asked_for_by_the_name_of_its_variable(provider, empty, monkeypatch):
    if empty is not None:
        monkeypatch.setenv(KEYS[provider], empty)
    assert_tells(
        refused(REMOTE[provider], **URL.get(provider, {})), f"No key for {provider}", KEYS[provider], "api_key"
    )


def test_an_empty_variable_counts_as_missing_and_the_next_one_is_asked(monkeypatch):
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
def test_a_malformed_key_is_refused_without_being_repeated(name, source, door, connect, simulator, monkeypatch):
    key, word = MALFORMED[name]
    options = {"base_url": simulator.base_url("dashscope")}
    if source == "option":
        error = refused("dashscope:text-embedding-v4", api_key=key, **options)
    elif source == "environment":
        monkeypatch.setenv("DASHSCOPE_API_KEY", key)
        error = refused("dashscope:text-embedding-v4", **options)
    else:
        with pytest.raises(ConfigurationError) as caught:
            door(connect("dashscope:text-embedding-v4", api_key=lambda: key), ["text"])
        error = caught.value
    assert_tells(error, word, {"option": "api_key", "environment": "DASHSCOPE_API_KEY", "function": "api_key"}[source])
    assert simulator.requests == []


@pytest.mark.parametrize("wrong", [None, 7, b"sk-bytes", ""])
def test_a_function_that_returns_no_key_is_told_so(wrong, door, connect, simulator):
    with pytest.raises(ConfigurationError, match="api_key function"):
        door(connect("zhipu:embedding-3", api_key=lambda: wrong), ["text"])
    assert simulator.requests == []


@pytest.mark.parametrize("wrap", ["{}\n", "  {}", "\t{}\r\n"], ids=ascii)
@pytest.mark.parametrize("source", ["option", "environment"])
def test_a_key_is_freed_of_the_white_space_around_it_and_works(wrap, source, door, connect, simulator, monkeypatch):
    key = wrap.format(simulator.api_key)
    if source == "environment":
        monkeypatch.setenv("DASHSCOPE_API_KEY", key)
        key = None
    door(connect("dashscope:text-embedding-v4", api_key=key), ["text"])
    [request] = simulator.requests
    assert request.headers["authorization"] == f"Bearer {simulator.api_key}"


@pytest.mark.parametrize("model", REMOTE.values())
def test_a_key_that_the_server_refuses_is_shown_nowhere(model, door, connect, simulator):
    with pytest.raises(MultiEmbedError) as caught:
        door(connect(model, api_key=SECRET), [f"text {number}" for number in range(200)])
    assert_tells(caught.value, "key was refused", KEYS[model.partition(":")[0]])
    assert {request.status for request in simulator.requests} == {401}


def test_a_client_and_its_options_do_not_show_the_key():
    client = EmbeddingClient("zhipu:embedding-3", api_key=SECRET, headers={"X-Route": SECRET})
    options = EmbeddingOptions(api_key=SECRET, headers={"X-Route": SECRET})
    for each in (client, options, client.target.key, options.model_dump(), options.model_dump_json()):
        assert SECRET not in f"{each} {each!r}"


# ── texts ────────────────────────────────────────────────────────────────────────────────────────


def call(door, client, texts, role="document"):
    with pytest.raises(MultiEmbedError) as caught:
        door(client, texts, role)
    return caught.value


@pytest.mark.parametrize("model", REMOTE.values())
@pytest.mark.parametrize("role", ["document", "query"])
def test_empty_texts_are_named_by_their_positions_and_nothing_is_sent(model, role, door, connect, simulator):
    error = call(door, connect(model), ["a", "", "b", "", "c"], role)
    assert type(error) is InvalidRequestError
    assert error.indices == (1, 3)
    assert_tells(error, "2 of 5 texts are empty", "leave them out", "1, 3", secret=simulator.api_key)
    assert simulator.requests == []


BLANK = [" ", "\n\t ", "\u3000", "\xa0"]


@pytest.mark.parametrize("model", [model for name, model in REMOTE.items() if name not in URL])
@pytest.mark.parametrize("blank", BLANK, ids=ascii)
def test_a_text_of_white_space_alone_is_refused_for_the_vendors_apis(model, blank, door, connect, simulator):
    error = call(door, connect(model), ["a", blank])
    assert (type(error), error.indices) == (InvalidRequestError, (1,))
    assert simulator.requests == []


@pytest.mark.parametrize("blank", BLANK, ids=ascii)
@pytest.mark.parametrize("model", [REMOTE[name] for name in URL])
def test_an_unknown_server_is_sent_white_space(model, blank, door, connect, simulator):
    assert door(connect(model), ["a", blank]).vectors.shape == (2, 1536)
    assert [request.body["input"] for request in simulator.requests] == [["a", blank]]


@pytest.mark.parametrize(
    "wrong", [None, 7, 1.5, b"bytes", ["a"], {"text": "a"}, object()], ids=lambda wrong: type(wrong).__name__
)
@pytest.mark.parametrize("model", ["dashscope:text-embedding-v4", "gateway:m"])
def test_something_that_is_no_text_is_named_by_its_position_and_type(wrong, model, door, connect, simulator):
    error = call(door, connect(model), ["a", "b", wrong])
    assert (type(error), error.indices) == (ConfigurationError, (2,))
    assert_tells(error, "position 2", type(wrong).__name__, "convert it", secret=simulator.api_key)
    assert simulator.requests == []


class Frame:
    """As pandas and polars have it: what it is made of are its columns' names."""

    columns = ("text",)

    def __iter__(self):
        return iter(self.columns)


@pytest.mark.parametrize(
    "wrong", ["one text", b"bytes", 7, None, object(), {"id": "text"}, Frame()], ids=lambda wrong: type(wrong).__name__
)
def test_what_is_no_list_of_texts_is_refused(wrong, door, connect, simulator):
    error = call(door, connect("dashscope:text-embedding-v4"), wrong)
    assert type(error) is ConfigurationError
    assert_tells(error, "list of texts", secret=simulator.api_key)
    assert simulator.requests == []


@pytest.mark.parametrize("role", ["documents", "Query", "", None, 7, ["query"]], ids=str)
def test_a_role_that_is_none_is_refused_by_name(role, door, connect, simulator):
    error = call(door, connect("dashscope:text-embedding-v4"), ["a"], role)
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
def test_no_texts_are_no_rows_of_the_right_length_and_no_request(model, options, size, door, connect, simulator):
    client = connect(model, **options)
    for texts in ([], (), iter(())):
        result = door(client, texts)
        assert result.vectors.shape == (0, size)
        assert result.to_list() == []
        assert result.sparse == ([] if "output" in options else None)
        assert (result.usage.requests, result.usage.total_tokens, result.usage.cost) == (0, 0, 0)
    assert simulator.requests == []


def test_no_texts_have_the_length_that_was_learned(door, connect):
    client = connect("gateway:m")
    door(client, ["a"])
    assert door(client, []).vectors.shape == (0, 1536)


class Tag(str):
    """A str whose own words are not to be asked."""

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
def test_strange_texts_arrive_as_they_are_but_for_what_utf8_cannot_hold(text, sent, model, door, connect, simulator):
    result = door(connect(model), ["before", text, "after"])
    [request] = simulator.requests
    body = request.body["input"]
    assert (body if isinstance(body, list) else body["texts"]) == ["before", sent, "after"]
    np.testing.assert_array_equal(result.vectors, local.embed(["before", sent, "after"], result.vectors.shape[1]))


def test_a_text_of_ten_megabytes_is_the_servers_to_refuse(door, connect, simulator):
    error = call(door, connect("siliconflow:BAAI/bge-m3"), ["x " * 5_000_000])
    assert type(error).__name__ == "InputTooLongError"
    assert error.indices == (0,)
    assert len(str(error)) < 1000
    assert [request.status for request in simulator.requests] == [413]


def test_a_thousand_equal_texts_are_paid_once(door, connect, simulator):
    result = door(connect("dashscope:text-embedding-v4"), ["the same"] * 1000)
    assert [request.body["input"]["texts"] for request in simulator.requests] == [["the same"]]
    assert result.vectors.shape == (1000, 1024)
    assert (result.vectors == result.vectors[0]).all()
    assert result.usage.requests == 1


def test_an_error_in_the_callers_own_iterator_comes_out_as_it_is(door, connect, simulator):
    def texts():
        yield "a"
        raise KeyError("the caller's")

    with pytest.raises(KeyError, match="the caller's"):
        door(connect("dashscope:text-embedding-v4"), texts())
    assert simulator.requests == []


@pytest.mark.parametrize("told", [None, float("nan"), 1.5, "3", -1], ids=repr)
def test_a_counter_that_gives_no_number_of_tokens_is_told_so_and_harms_no_other_embedder(
    told, door, connect, simulator
):
    model = "dashscope:text-embedding-v4"
    wrong = connect(model, token_counter=lambda _: told, tokens_per_minute=60_000)
    error = call(door, wrong, ["a", "b"])
    assert type(error) is ConfigurationError
    assert_tells(error, "token_counter", secret=simulator.api_key)
    assert simulator.requests == []
    assert len(door(connect(model, deadline=20), ["a"]).vectors) == 1


def test_a_character_that_is_counted_as_too_long_is_sent_as_it_is(door, connect, simulator):
    client = connect("zhipu:embedding-3", on_too_long="split", limits={"max_tokens_per_item": 1})
    assert len(door(client, ["\U0001f600\U0001f600"]).vectors) == 1
    assert {text for request in simulator.requests for text in request.body["input"]} == {"\U0001f600"}


def test_pieces_of_a_text_that_is_lost_are_not_paid_for(door, connect, simulator):
    """The prefix alone is longer than the model takes, so that no piece can be short enough."""
    client = connect("siliconflow:BAAI/bge-large-zh-v1.5", on_too_long="split", document_prefix="天地玄黄 " * 300)
    error = call(door, client, ["宇宙洪荒" * 200])
    assert type(error) is InputTooLongError
    assert len(simulator.requests) < 100


@pytest.mark.parametrize("path", ["redis://host/0", "file:///vectors.sqlite", "a\0b"])
def test_a_cache_that_is_no_path_is_told_so(path, connect, simulator):
    error = call(EmbeddingClient.embed, connect("dashscope:text-embedding-v4", cache=path), ["a"])
    assert type(error) is ConfigurationError
    assert_tells(error, "no path", secret=simulator.api_key)
    assert simulator.requests == []


@pytest.mark.parametrize("length", [len(SECRET), 20, 8])
def test_the_beginning_of_a_key_that_the_server_repeats_is_not_shown(length, door):
    with Simulator(api_key=SECRET) as simulator:
        words = json.dumps({"code": "InvalidApiKey", "message": f"Wrong key: {SECRET[:length]}…"}).encode()
        simulator.fail(lambda _request, answer: Answer(401, answer.headers, words))
        client = EmbeddingClient(
            "dashscope:text-embedding-v4", api_key=SECRET, base_url=simulator.base_url("dashscope")
        )
        assert_tells(call(door, client, ["a"]), "Wrong key")


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
def test_a_model_that_is_not_understood_is_answered_with_the_nearest_that_would_be(model, words):
    assert_tells(refused(model, api_key=SECRET), *words)


@pytest.mark.parametrize(
    ("option", "near"),
    [
        ("dimension", "dimensions"),
        ("api_kye", "api_key"),
        ("max_retry", "max_retries"),
        ("baseurl", "base_url"),
        ("concurrency", "max_concurrency"),
    ],
)
def test_an_option_that_does_not_exist_is_answered_with_the_nearest_that_does(option, near):
    assert_tells(refused("zhipu:embedding-3", **{option: SECRET}), repr(option), f"did you mean {near!r}?")


def test_an_option_that_is_like_no_other_is_only_named():
    assert_tells(refused("zhipu:embedding-3", xyzzy=SECRET), "no option 'xyzzy'")


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
def test_an_option_of_a_wrong_kind_is_named(option, value):
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
def test_a_size_that_the_model_has_not_is_answered_with_those_it_has(model, asked, sizes):
    assert_tells(refused(model, dimensions=asked, api_key=SECRET), f"of {asked} dimensions", f"choose from {sizes}")


@pytest.mark.parametrize("model", [f"{provider}:embedding-of-tomorrow" for provider in REMOTE])
def test_an_unknown_model_takes_any_size_that_is_a_size(model):
    options = EmbeddingOptions(dimensions=333, api_key=SECRET, **URL.get(model.partition(":")[0], {}))
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
def test_an_instruction_without_a_place_for_it_is_refused(model, words):
    options = URL.get(model.partition(":")[0], {})
    assert_tells(refused(model, instruct="Find it", api_key=SECRET, **options), *words)


def test_an_instruction_and_the_recommended_prefix_are_one_and_the_same_place():
    error = refused(
        "siliconflow:Qwen/Qwen3-Embedding-8B", instruct="Find it", query_prefix="recommended", api_key=SECRET
    )
    assert_tells(error, "not both")


@pytest.mark.parametrize("model", ["zhipu:embedding-3", "siliconflow:BAAI/bge-m3", "dashscope:text-embedding-v4"])
def test_a_prefix_that_nobody_recommends_cannot_be_had(model):
    assert_tells(refused(model, query_prefix="recommended", api_key=SECRET), "No query prefix is recommended")


@pytest.mark.parametrize("output", ["sparse", "dense&sparse"])
@pytest.mark.parametrize(
    "model", ["zhipu:embedding-3", "dashscope:text-embedding-v2", "dashscope-compatible:text-embedding-v4", "local"]
)
def test_sparse_vectors_are_refused_where_there_are_none(model, output):
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
def test_a_region_that_does_not_exist_is_answered_with_those_that_do(model, region, known):
    assert_tells(refused(model, region=region, api_key=SECRET), f"no region '{region}'", known)


def test_a_region_and_an_address_exclude_each_other():
    error = refused("dashscope:m", region="cn", base_url="https://host.example", api_key=SECRET)
    assert_tells(error, "not both")


def test_a_gateway_without_an_address_asks_for_one():
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
def test_an_address_holds_no_credentials(base):
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
def test_what_is_no_address_is_refused(base):
    assert_tells(refused("gateway:m", base_url=base, api_key=SECRET), "https://host/path")


@pytest.mark.parametrize(
    "base",
    ["http://host.example", "http://10.0.0.7:8000/v1", "http://localhost.evil.example", "http://127.0.0.1.evil.example",
     "http://0.0.0.0:8000", "http://[fe80::1]:8000", "HTTP://HOST.EXAMPLE"],
)  # fmt: skip
def test_plain_http_beyond_this_machine_must_be_asked_for(base):
    assert_tells(refused("gateway:m", base_url=base, api_key=SECRET), "in the open", "https://", "allow_insecure=True")
    allowed = EmbeddingOptions(base_url=base, api_key=SECRET, allow_insecure=True)
    assert resolve_config("gateway:m", allowed, {}).url == f"{base}/api/v1/embeddings"


@pytest.mark.parametrize(
    "base",
    ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000", "http://127.8.9.10", "https://h.example"],
)
def test_plain_http_on_this_machine_and_https_anywhere_need_no_permission(base):
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
def test_headers_that_cannot_go_along_are_refused_without_their_value(name, value):
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
def test_parameters_may_not_say_what_an_option_says(model, parameters, words):
    options = {} if model == "local" else {"api_key": SECRET, **URL.get(model.partition(":")[0], {})}
    assert_tells(refused(model, parameters=parameters, **options), *words)


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, b"bytes", {"deep": [object()]}, 2**70, {1: "a"}, "\ud800", float("nan"), float("inf"), 1j],
    ids=lambda wrong: type(wrong).__name__,
)
@pytest.mark.parametrize("model", ["zhipu:embedding-3", "dashscope:text-embedding-v4", "gateway:m"])
def test_parameters_that_json_cannot_hold_are_refused_before_the_first_text(value, model):
    options = {"api_key": SECRET, **URL.get(model.partition(":")[0], {})}
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
def test_words_around_the_texts_that_utf8_cannot_hold_are_replaced_or_refused(model, options, role, door, connect):
    try:
        door(connect(model, **options), ["text"], role)
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
def test_limits_that_are_none_are_refused(limits, words):
    assert_tells(refused("zhipu:embedding-3", limits=limits, api_key=SECRET), *words)


@pytest.mark.parametrize("option", ["http_client", "http_async_client"])
def test_a_client_that_is_none_of_httpx_is_refused(option, connect, simulator):
    with pytest.raises(ConfigurationError, match=f"{option} must be an httpx"):
        connect("zhipu:embedding-3", **{option: object()}).embed(["a"])
    assert simulator.requests == []


@pytest.mark.parametrize("options", [{"region": "cn"}, {"base_url": "https://host.example"}])
def test_the_local_provider_has_no_address(options):
    assert_tells(refused("local", **options), "sends nothing")


def test_the_local_provider_needs_no_key_and_no_network(door):
    result = door(EmbeddingClient("local"), ["a", "b", "a"])
    np.testing.assert_array_equal(result.vectors, local.embed(["a", "b", "a"], 1024))
    assert (result.usage.requests, result.usage.cost) == (0, 0)


def test_both_doors_refuse_in_the_same_words(connect):
    client = connect("dashscope:text-embedding-v4")
    for texts in (["a", ""], ["a", None], "a", ["a"] * 3 + [7]):
        said = []
        for run in (lambda: client.embed(texts), lambda: asyncio.run(client.aembed(texts))):  # noqa: B023 - run at once
            with pytest.raises(MultiEmbedError) as caught:
                run()
            said.append((type(caught.value), str(caught.value)))
        assert said[0] == said[1]


def test_every_remote_provider_of_the_registry_is_in_these_tables():
    assert PROVIDERS.keys() - {"local"} == REMOTE.keys() == KEYS.keys()
