"""No request holds more than its model takes; and where the catalog errs, the server's refusal is learned from."""

from __future__ import annotations

import math

import numpy as np
import pytest

from multiembed import EmbeddingClient, InputTooLongError, PartialFailureError
from multiembed.config.options import EmbeddingOptions
from multiembed.config.request_config import resolve_config
from multiembed.providers import PROVIDERS, local
from multiembed.simulator import Simulator
from multiembed.simulator.tokenizer import count_tokens

# Texts in one request, by the vendors' pages; for embedding-2, whose page names none, what always fits into its 8K.
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


# ── as many as the page says ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("model", CAPS)
def test_requests_are_full_and_none_is_too_full(model, door, connect, simulator):
    cap, texts = CAPS[model], numbered(3 * CAPS[model] + 1)
    result = door(connect(model), texts)
    assert sorted(map(len, sent(simulator))) == [1, cap, cap, cap]
    assert sorted(text for batch in sent(simulator) for text in batch) == sorted(texts)
    assert set(statuses(simulator)) == {200}
    assert result.usage.requests == 4
    assert_right(result, texts, SIZES.get(model, 1024))


def test_a_text_that_stands_often_is_sent_once_and_answered_everywhere(door, connect, simulator):
    texts = ["a", "b", "a", "c", "b", "a"] * 50
    result = door(connect("dashscope:text-embedding-v4"), texts)
    assert sent(simulator) == [["a", "b", "c"]]
    assert_right(result, texts, 1024)


def test_texts_may_come_from_a_generator(door, connect, simulator):
    result = door(connect("zhipu:embedding-3", dimensions=256), (text for text in numbered(70)))
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
def test_the_tokens_of_a_request_stay_below_the_models_sum(
    model, each, together, script, counter, door, connect, simulator
):
    line = SCRIPTS[script]
    words = line * (400 // count_tokens(line))
    texts = [f"{words}{number}" for number in range(40)]
    assert all(300 < count_tokens(text) <= each for text in texts)
    result = door(connect(model, token_counter=counter), texts)
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
def test_a_text_that_is_too_long_fails_alone_and_its_neighbours_are_paid_once(
    model, overlong, size, door, connect, simulator
):
    texts = numbered(14)
    texts[5] = "7" * overlong
    with pytest.raises(PartialFailureError) as caught:
        door(connect(model), texts)
    assert list(caught.value.failures) == [5]
    assert isinstance(caught.value.failures[5], InputTooLongError)
    assert caught.value.failures[5].indices == (5,)
    answered = zip(sent(simulator), statuses(simulator), strict=True)
    paid = [text for batch, status in answered if status == 200 for text in batch]
    assert sorted(paid) == sorted(texts[:5] + texts[6:])
    kept = np.delete(caught.value.result.vectors, 5, axis=0)
    np.testing.assert_array_equal(kept, local.embed(texts[:5] + texts[6:], size))
    assert np.isnan(caught.value.result.vectors[5]).all()


def test_a_text_that_only_seems_too_long_is_sent_and_the_server_decides(door, connect, simulator):
    text = " ".join(["word"] * 500)
    result = door(connect("siliconflow:BAAI/bge-large-zh-v1.5", token_counter=len), [text, "short"])
    assert set(statuses(simulator)) == {200}
    assert_right(result, [text, "short"], 1024)


# ── as the user says ─────────────────────────────────────────────────────────────────────────────


def test_limits_override_single_fields_and_leave_the_others(door, connect, simulator):
    client = connect("zhipu:embedding-2", limits={"max_items": 3})
    result = door(client, numbered(8))
    assert sorted(map(len, sent(simulator))) == [2, 3, 3]
    assert client.target.limits.max_tokens_per_request == 8192
    assert_right(result, numbered(8), 1024)


def test_the_users_own_counter_packs_the_requests(door, connect, simulator):
    client = connect("siliconflow:BAAI/bge-m3", token_counter=lambda _text: 100, limits={"max_tokens_per_request": 250})
    door(client, numbered(7))
    assert sorted(map(len, sent(simulator))) == [1, 2, 2, 2]


@pytest.mark.parametrize("character", ["x", "文", '"', "\\", "\n", "\x00", "\x1f"], ids=ascii)
def test_a_body_stays_below_the_limit_of_bytes_however_its_text_is_escaped(character, door, connect, simulator):
    texts = [f"{number}{character * 500}" for number in range(30)]
    door(connect("siliconflow:BAAI/bge-m3", limits={"max_bytes_per_request": 8000}), texts)
    assert len(simulator.requests) > 1
    assert max(len(request.raw) for request in simulator.requests) <= 8000


def test_no_more_requests_are_in_flight_than_the_ceiling_of_the_account(door):
    with Simulator(latency=0.1) as slow:
        options = {"api_key": slow.api_key, "base_url": slow.base_url("dashscope"), "max_concurrency": 3}
        with EmbeddingClient("dashscope:text-embedding-v4", **options) as client:
            door(client, numbered(120))
        assert slow.peak_in_flight == 3


# ── models that are not in the catalog ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("provider", sorted(PROVIDERS.keys() - {"local", "openai-compatible", "gateway"}))
def test_an_unknown_model_is_asked_no_more_than_any_known_model_of_its_provider_takes(provider):
    options = EmbeddingOptions(api_key="sk-1", dimensions=333)
    target = resolve_config(f"{provider}:embedding-of-tomorrow", options, {})
    known = [facts.limits for facts in PROVIDERS[provider].models]
    assert target.model.known is False
    assert target.limits.max_items <= min(limits.max_items for limits in known)
    lengths = [limits.max_tokens_per_item for limits in known if limits.max_tokens_per_item]
    assert target.limits.max_tokens_per_item <= min(lengths)


def test_an_unknown_model_runs_and_its_size_comes_from_the_server(door, connect, simulator):
    result = door(connect("gateway:embedding-of-tomorrow"), numbered(25))
    assert sorted(map(len, sent(simulator))) == [5, 10, 10]
    assert_right(result, numbered(25), 1536)


# ── what the server names ────────────────────────────────────────────────────────────────────────

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
def test_a_smaller_cap_that_the_server_names_is_learned_for_the_clients_life(model, door, connect, simulator):
    cap, texts = NAMED[model], numbered(2 * NAMED[model] + 3)
    if model.startswith(("gateway", "openai-compatible")):
        texts = texts[: cap + 52]
    client = connect(model, limits={"max_items": 5000}, **({"dimensions": 64} if cap > 1000 else {}))
    size = 64 if cap > 1000 else SIZES.get(model, 1024)
    first = door(client, texts)
    assert statuses(simulator)[0] >= 400
    assert statuses(simulator)[1:] == [200] * math.ceil(len(texts) / cap)
    assert max(map(len, sent(simulator)[1:])) <= cap
    assert_right(first, texts, size)

    simulator.clear()
    second = door(client, texts[::-1])
    assert statuses(simulator) == [200] * math.ceil(len(texts) / cap)
    assert_right(second, texts[::-1], size)


def test_a_cap_is_learned_once_for_all_the_batches_of_a_call(door, connect, simulator):
    client = connect("zhipu:embedding-3", limits={"max_items": 100}, max_concurrency=1, dimensions=256)
    result = door(client, numbered(250))
    assert statuses(simulator).count(400) == 1
    assert max(map(len, sent(simulator)[1:])) <= 64
    assert_right(result, numbered(250), 256)

    simulator.clear()
    door(client, numbered(250))
    assert [len(batch) for batch in sent(simulator)] == [64, 64, 64, 58]


def test_one_clients_lesson_is_not_another_ones(door, connect, simulator):
    door(connect("zhipu:embedding-3", limits={"max_items": 70}, dimensions=256), numbered(70))
    simulator.clear()
    door(connect("zhipu:embedding-3", limits={"max_items": 64}, dimensions=256), numbered(64))
    assert statuses(simulator) == [200]


def test_a_sum_of_tokens_that_the_estimate_missed_is_split_though_the_words_do_not_tell(door, connect, simulator):
    # Words of one letter: a token for each two characters, where the estimate expects one for four. Zhipu answers
    # 1210, which may mean anything.
    texts = [f"{number} {'a b ' * 120}" for number in range(40)]
    client = connect("zhipu:embedding-2", limits={"max_items": 64}, token_counter=lambda text: len(text) // 4)
    assert sum(map(count_tokens, texts)) > 8192 > sum(len(text) // 4 for text in texts)
    result = door(client, texts)
    assert_right(result, texts, 1024)
