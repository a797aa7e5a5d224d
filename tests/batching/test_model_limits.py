"""Model limits: no request exceeds them, options override them, and limits that a rejection names are learned."""

from __future__ import annotations

import asyncio
import math

import numpy as np
import pytest
from support.providers import VENDORS

from multiembed import EmbeddingClient, InputTooLongError, PartialFailureError
from multiembed.config.options import EmbeddingOptions
from multiembed.config.request_config import resolve_config
from multiembed.providers import PROVIDERS, local
from multiembed.simulator import Simulator
from multiembed.simulator.tokenizer import count_tokens

# Texts in one request, by the vendors' pages; for embedding-2, whose page names no maximum, as many as always fit 8K.
CAPS = {
    "zhipu:embedding-3": 64,
    "zhipu:embedding-2": 16,
    "siliconflow:BAAI/bge-large-zh-v1.5": 32,
    "siliconflow:BAAI/bge-m3": 32,
    "siliconflow:Qwen/Qwen3-Embedding-0.6B": 32,
    "dashscope:text-embedding-v1": 25,
    "dashscope:text-embedding-v2": 25,
    "dashscope:text-embedding-v3": 10,
    "dashscope:text-embedding-v4": 10,
    "dashscope-compatible:text-embedding-v2": 25,
    "dashscope-compatible:text-embedding-v4": 10,
    "openai-compatible:any-model": 32,
    "gateway:any-model": 10,
}
SIZES = {
    "zhipu:embedding-3": 2048,
    "dashscope:text-embedding-v1": 1536,
    "dashscope:text-embedding-v2": 1536,
    "dashscope-compatible:text-embedding-v2": 1536,
    "openai-compatible:any-model": 1536,
    "gateway:any-model": 1536,
}


def sent(simulator) -> list[list[str]]:
    """The texts of each request, in the order of arrival."""
    bodies = [request.body for request in simulator.requests]
    return [body["input"] if isinstance(body["input"], list) else body["input"]["texts"] for body in bodies]


def statuses(simulator) -> list[int]:
    return [request.status for request in simulator.requests]


def numbered(count: int) -> list[str]:
    return [f"第 {number} 段 paragraph {number}" for number in range(count)]


def assert_right(result, texts, dimensions):
    np.testing.assert_array_equal(result.vectors, local.embed(texts, dimensions))


# ── documented limits ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("model", CAPS)
def test_requests_hold_the_documented_maximum_of_texts(model, entry_point, connect, simulator):
    cap, texts = CAPS[model], numbered(3 * CAPS[model] + 1)
    result = entry_point(connect(model), texts)
    assert sorted(map(len, sent(simulator))) == [1, cap, cap, cap]
    assert sorted(text for batch in sent(simulator) for text in batch) == sorted(texts)
    assert set(statuses(simulator)) == {200}
    assert result.usage.requests == 4
    assert_right(result, texts, SIZES.get(model, 1024))


def test_duplicate_texts_are_sent_once(entry_point, connect, simulator):
    texts = ["a", "b", "a", "c", "b", "a"] * 50
    result = entry_point(connect("dashscope:text-embedding-v4"), texts)
    assert sent(simulator) == [["a", "b", "c"]]
    assert_right(result, texts, 1024)


def test_generator_of_texts_is_embedded(entry_point, connect, simulator):
    result = entry_point(connect("zhipu:embedding-3", dimensions=256), (text for text in numbered(70)))
    assert_right(result, numbered(70), 256)


SCRIPTS = {
    "english": "The quick brown fox jumps over the lazy dog and runs away. ",
    "chinese": "风急天高猿啸哀，渚清沙白鸟飞回。无边落木萧萧下，不尽长江滚滚来。",
    "digits": "31415926535897932384626433832795",
    "emoji": "🦊🐶🌊",
    "code": "for (i = 0; i < n; ++i) { a[i] += b[i]; }\n",
}


@pytest.mark.parametrize(
    ("script", "counter"),
    [*((script, count_tokens) for script in SCRIPTS), *((script, None) for script in SCRIPTS if script != "code")],
    ids=lambda value: value if isinstance(value, str) else "estimated" if value is None else "counted",
)
@pytest.mark.parametrize(
    ("model", "each", "together"),
    [("zhipu:embedding-2", 512, 8192), ("dashscope:qwen3.7-text-embedding-flash", 131072, 4096)],
)
def test_tokens_of_a_request_stay_below_the_limit(
    model, each, together, script, counter, entry_point, connect, simulator
):
    line = SCRIPTS[script]
    words = line * (400 // count_tokens(line))
    texts = [f"{words}{number}" for number in range(40)]
    assert all(300 < count_tokens(text) <= each for text in texts)
    result = entry_point(connect(model, token_counter=counter), texts)
    assert max(sum(map(count_tokens, batch)) for batch in sent(simulator)) <= together
    assert set(statuses(simulator)) == {200}
    assert_right(result, texts, 1024)


@pytest.mark.parametrize(
    ("model", "overlong", "size"),
    [
        ("zhipu:embedding-2", 513, 1024),
        ("siliconflow:BAAI/bge-large-zh-v1.5", 513, 1024),
        ("dashscope:text-embedding-v2", 2049, 1536),
        ("dashscope-compatible:text-embedding-v2", 2049, 1536),
    ],
)
def test_text_that_is_too_long_fails_alone(model, overlong, size, entry_point, connect, simulator):
    texts = numbered(14)
    texts[5] = "7" * overlong
    with pytest.raises(PartialFailureError) as caught:
        entry_point(connect(model), texts)
    assert list(caught.value.failures) == [5]
    assert isinstance(caught.value.failures[5], InputTooLongError)
    assert caught.value.failures[5].indices == (5,)
    answered = zip(sent(simulator), statuses(simulator), strict=True)
    paid = [text for batch, status in answered if status == 200 for text in batch]
    assert sorted(paid) == sorted(texts[:5] + texts[6:])
    kept = np.delete(caught.value.result.vectors, 5, axis=0)
    np.testing.assert_array_equal(kept, local.embed(texts[:5] + texts[6:], size))
    assert np.isnan(caught.value.result.vectors[5]).all()


def test_text_over_the_limit_by_estimate_is_sent(entry_point, connect, simulator):
    text = " ".join(["word"] * 500)
    result = entry_point(connect("siliconflow:BAAI/bge-large-zh-v1.5", token_counter=len), [text, "short"])
    assert set(statuses(simulator)) == {200}
    assert_right(result, [text, "short"], 1024)


# ── configured limits ─────────────────────────────────────────────────────────────────────────────


def test_limits_option_overrides_single_fields(entry_point, connect, simulator):
    client = connect("zhipu:embedding-2", limits={"max_items": 3})
    result = entry_point(client, numbered(8))
    assert sorted(map(len, sent(simulator))) == [2, 3, 3]
    assert client.target.limits.max_tokens_per_request == 8192
    assert_right(result, numbered(8), 1024)


def test_token_counter_option_packs_the_requests(entry_point, connect, simulator):
    client = connect("siliconflow:BAAI/bge-m3", token_counter=lambda _text: 100, limits={"max_tokens_per_request": 250})
    entry_point(client, numbered(7))
    assert sorted(map(len, sent(simulator))) == [1, 2, 2, 2]


@pytest.mark.parametrize("character", ["x", "文", '"', "\\", "\n", "\x00", "\x1f"], ids=ascii)
def test_escaped_body_stays_below_the_limit_of_bytes(character, entry_point, connect, simulator):
    texts = [f"{number}{character * 500}" for number in range(30)]
    entry_point(connect("siliconflow:BAAI/bge-m3", limits={"max_bytes_per_request": 8000}), texts)
    assert len(simulator.requests) > 1
    assert max(len(request.raw) for request in simulator.requests) <= 8000


def test_max_concurrency_limits_requests_in_flight(entry_point):
    with Simulator(latency=0.1) as slow:
        options = {"api_key": slow.api_key, "base_url": slow.base_url("dashscope"), "max_concurrency": 3}
        with EmbeddingClient("dashscope:text-embedding-v4", **options) as client:
            entry_point(client, numbered(120))
        assert slow.peak_in_flight == 3


# ── unknown models ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("provider", VENDORS)
def test_unknown_model_has_the_lowest_limits_of_its_provider(provider):
    options = EmbeddingOptions(api_key="sk-1", dimensions=333)
    target = resolve_config(f"{provider}:embedding-of-tomorrow", options, {})
    known = [facts.limits for facts in PROVIDERS[provider].models]
    assert target.model.known is False
    assert target.limits.max_items <= min(limits.max_items for limits in known)
    lengths = [limits.max_tokens_per_item for limits in known if limits.max_tokens_per_item]
    assert target.limits.max_tokens_per_item <= min(lengths)


def test_unknown_model_gets_its_dimensions_from_the_server(entry_point, connect, simulator):
    result = entry_point(connect("gateway:embedding-of-tomorrow"), numbered(25))
    assert sorted(map(len, sent(simulator))) == [5, 10, 10]
    assert_right(result, numbered(25), 1536)


# ── limits named by the server ────────────────────────────────────────────────────────────────────────

NAMED = {
    "zhipu:embedding-3": 64,
    "siliconflow:BAAI/bge-m3": 32,
    "dashscope:text-embedding-v4": 10,
    "dashscope:text-embedding-v2": 25,
    "dashscope-compatible:text-embedding-v4": 10,
    "openai-compatible:any-model": 2048,
    "gateway:any-model": 2048,
}


@pytest.mark.parametrize("model", NAMED)
def test_maximum_that_the_server_names_is_learned_by_the_client(model, connect, simulator):
    cap, texts = NAMED[model], numbered(2 * NAMED[model] + 3)
    if model.startswith(("gateway", "openai-compatible")):
        texts = texts[: cap + 52]
    client = connect(model, limits={"max_items": 5000}, **({"dimensions": 64} if cap > 1000 else {}))
    size = 64 if cap > 1000 else SIZES.get(model, 1024)
    first = client.embed(texts)
    assert statuses(simulator)[0] >= 400
    assert statuses(simulator)[1:] == [200] * math.ceil(len(texts) / cap)
    assert max(map(len, sent(simulator)[1:])) <= cap
    assert_right(first, texts, size)

    simulator.clear()
    second = asyncio.run(client.aembed(texts[::-1]))
    assert statuses(simulator) == [200] * math.ceil(len(texts) / cap)
    assert_right(second, texts[::-1], size)


def test_named_maximum_is_learned_once_for_a_call(entry_point, connect, simulator):
    client = connect("zhipu:embedding-3", limits={"max_items": 100}, max_concurrency=1, dimensions=256)
    result = entry_point(client, numbered(250))
    assert statuses(simulator).count(400) == 1
    assert max(map(len, sent(simulator)[1:])) <= 64
    assert_right(result, numbered(250), 256)

    simulator.clear()
    entry_point(client, numbered(250))
    assert [len(batch) for batch in sent(simulator)] == [64, 64, 64, 58]


def test_learned_maximum_is_not_shared_with_another_client(entry_point, connect, simulator):
    entry_point(connect("zhipu:embedding-3", limits={"max_items": 70}, dimensions=256), numbered(70))
    simulator.clear()
    entry_point(connect("zhipu:embedding-3", limits={"max_items": 64}, dimensions=256), numbered(64))
    assert statuses(simulator) == [200]


def test_batch_over_the_token_limit_is_split_without_named_limit(entry_point, connect, simulator):
    # Words of one letter: one token for two characters, where the estimate expects one for four. Zhipu responds with
    # 1210, which names no limit.
    texts = [f"{number} {'a b ' * 120}" for number in range(40)]
    client = connect("zhipu:embedding-2", limits={"max_items": 64}, token_counter=lambda text: len(text) // 4)
    assert sum(map(count_tokens, texts)) > 8192 > sum(len(text) // 4 for text in texts)
    result = entry_point(client, texts)
    assert_right(result, texts, 1024)


@pytest.mark.parametrize(
    "script", ["the quick brown fox jumps ", "无边落木萧萧下不尽长江滚滚来", "internationalization "]
)
def test_estimate_matches_the_bills_after_a_few_responses(connect, entry_point, script):
    client = connect("dashscope:text-embedding-v4", dimensions=64)
    texts = [f"{script * 20}{number}" for number in range(40)]
    billed = sum(map(count_tokens, texts))
    before = abs(client.estimate(texts).tokens - billed)
    for _ in range(3):
        entry_point(client, texts)
    assert client.usage.total_tokens == 3 * billed
    assert client.estimate(texts).tokens == pytest.approx(billed, rel=0.02)
    assert before > 0.02 * billed
