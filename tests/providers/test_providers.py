"""What every registered provider must keep, seen at its own pages' examples: one folder of fixtures for each.

A fixture names its `source`, the `status` and `body` of an answer as it is documented, with short vectors, and what is
to come of it: the `items`, `total_tokens` and `request_id` of a reply; the `kind` of a refusal; or the words with which
a body is found to be `undecodable`.
"""

from __future__ import annotations

import copy
import json
import re
from dataclasses import replace
from datetime import date
from types import MappingProxyType

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.providers import FIXTURES, REMOTE, texts_in

from multiembed.providers import PROVIDERS, list_models
from multiembed.providers.types import DecodedItem, EncodeInput
from multiembed.responses.validation import validate_vectors

pytestmark = pytest.mark.unit

ROWS = {f"{provider.id}:{facts.name}": (provider, facts) for provider, facts in list_models()}
UNKNOWN = {f"{name}:of-tomorrow": (PROVIDERS[name], PROVIDERS[name].model("of-tomorrow")) for name in REMOTE}
TEXTS = ("first", "第二", '🦊 \x00 " \\ \u2028', "first")


def fixtures(key):
    return [name for name, fixture in FIXTURES.items() if key in fixture]


def provider_of(name):
    return PROVIDERS[name.partition("/")[0]]


# ── replies and refusals as documented ───────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", REMOTE)
def test_provider_has_response_and_error_fixtures(name):
    assert [each for each in fixtures("items") if each.startswith(f"{name}/")]
    assert [each for each in fixtures("kind") if each.startswith(f"{name}/")]


def test_fixture_has_a_provider_and_a_source():
    assert all(name.partition("/")[0] in PROVIDERS for name in FIXTURES)
    assert all(fixture["source"] for fixture in FIXTURES.values())


@pytest.mark.parametrize("name", fixtures("items"))
def test_documented_response_is_decoded_and_valid(name):
    fixture, provider = FIXTURES[name], provider_of(name)
    body = copy.deepcopy(fixture["body"])
    assert provider.classify(fixture["status"], body) is None
    raw = provider.decode(body)
    assert body == fixture["body"]
    items = fixture["items"]
    assert [item.index for item in raw.items] == [item["index"] for item in items]
    assert (raw.total_tokens, raw.request_id) == (fixture["total_tokens"], fixture["request_id"])
    dense, sparse = ("dense" in items[0], "sparse" in items[0])
    output = "dense&sparse" if dense and sparse else "dense" if dense else "sparse"
    validated = validate_vectors(raw, texts=len(items), dimensions=None, output=output)
    if dense:
        np.testing.assert_array_equal(validated.dense, np.float32([item["dense"] for item in items]))
    if sparse:
        told = [[(each["index"], each["value"], each["token"]) for each in item["sparse"]] for item in items]
        assert [list(zip(v.indices, v.values, v.tokens, strict=True)) for v in validated.sparse] == told


@pytest.mark.parametrize("name", fixtures("kind"))
def test_documented_error_keeps_kind_code_and_message(name):
    fixture = FIXTURES[name]
    body = copy.deepcopy(fixture["body"])
    failure = provider_of(name).classify(fixture["status"], body)
    assert failure.kind == fixture["kind"]
    assert body == fixture["body"]
    envelope = body.get("error", body) if isinstance(body, dict) else {"message": body}
    assert failure.message == envelope["message"]
    assert failure.code == (str(envelope["code"]) if "code" in envelope else None)


@pytest.mark.parametrize("name", fixtures("undecodable"))
def test_documented_response_without_vectors_says_so(name):
    fixture, provider = FIXTURES[name], provider_of(name)
    assert provider.classify(fixture["status"], fixture["body"]) is None
    with pytest.raises(ValueError, match=".*".join(fixture["undecodable"])):
        provider.decode(fixture["body"])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["data", "output", "embeddings", "embedding", "index", "usage", "total_tokens", "id"]),
            inner,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=200)
@given(
    name=st.sampled_from(REMOTE),
    payload=st.dictionaries(st.sampled_from(["data", "output", "usage", "id", "request_id", "code", "success"]), JSON),
)
def test_decoding_any_payload_gives_items_or_value_error(name, payload):
    before = copy.deepcopy(payload)
    try:
        raw = PROVIDERS[name].decode(payload)
    except ValueError:
        raw = None
    assert payload == before
    if raw is not None:
        assert all(isinstance(item, DecodedItem) for item in raw.items)
        assert raw.total_tokens is None or (type(raw.total_tokens) is int and raw.total_tokens >= 0)
        assert raw.request_id is None or type(raw.request_id) is str


@pytest.mark.parametrize("name", fixtures("items"))
def test_response_without_usage_has_unknown_tokens(name):
    body = copy.deepcopy(FIXTURES[name]["body"])
    for place in (body, body.get("data")):
        if isinstance(place, dict):
            place.pop("usage", None)
    assert provider_of(name).decode(body).total_tokens is None


# ── requests ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("role", ["document", "query"])
@pytest.mark.parametrize("row", [name for name in {**ROWS, **UNKNOWN} if not name.startswith("local:")])
def test_request_is_json_with_texts_in_order(row, role):
    provider, facts = {**ROWS, **UNKNOWN}[row]
    parameters = {"extra": {"nested": [1, {"deep": None}]}}
    for dimensions in (None, (facts.dimensions or (333,))[0]):
        for output in ("dense", "sparse", "dense&sparse") if facts.sparse else ("dense",):
            texts = list(TEXTS)
            request = EncodeInput(
                model=facts,
                texts=texts,
                role=role,
                dimensions=dimensions,
                output=output,
                instruct="Find it" if facts.instruct == "parameter" else None,
                encoding="base64" if facts.base64 else "float",
                parameters=MappingProxyType(copy.deepcopy(parameters)),
            )
            body = provider.encode(request)
            assert (texts, dict(request.parameters)) == (list(TEXTS), parameters)
            assert orjson.loads(orjson.dumps(body)) == json.loads(json.dumps(body)) == body
            assert texts_in(body) == list(TEXTS)
            assert body["model"] == facts.name
            assert provider.encode(request) == body
            body["input"].clear()
            assert texts == list(TEXTS)


@pytest.mark.parametrize("row", ROWS)
def test_changed_request_body_changes_no_later_one(row):
    provider, facts = ROWS[row]
    if provider.compute is not None:
        compute = provider.compute(facts.name)
        assert compute(["a"], facts.default_dimensions).tolist() == compute(["a"], None).tolist()
        return
    request = EncodeInput(
        model=facts, texts=["a"], role="query", dimensions=None, output="dense", instruct=None, encoding="float",
        parameters={},
    )  # fmt: skip
    first = provider.encode(request)
    expected = copy.deepcopy(first)
    for value in [*first.values(), first]:
        if isinstance(value, (dict, list)):
            value.clear()
    assert provider.encode(request) == expected


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("row", ROWS)
def test_model_names_its_source_and_check_date(row):
    _, facts = ROWS[row]
    assert facts.source
    assert date(2026, 1, 1) <= date.fromisoformat(facts.checked)
    assert facts.known


@pytest.mark.parametrize("row", {**ROWS, **UNKNOWN})
def test_model_limits_and_dimensions_are_sensible(row):
    _, facts = {**ROWS, **UNKNOWN}[row]
    limits = facts.limits
    assert 1 <= limits.max_items <= 2048
    for least, limit in (
        (1, limits.max_tokens_per_item),
        (limits.max_tokens_per_item or 1, limits.max_tokens_per_request),
        (10_000, limits.max_bytes_per_request),
    ):
        # A model may hang above fewer tokens than its page allows one text; that text then goes alone.
        assert limit is None or limit >= least or "hang" in facts.notes
    if facts.dimensions is not None:
        assert list(facts.dimensions) == sorted(set(facts.dimensions))
        assert facts.dimensions[0] >= 1
        assert facts.default_dimensions in facts.dimensions
    assert facts.price_cny_per_mtok is None or facts.price_cny_per_mtok >= 0


@pytest.mark.parametrize("row", ROWS)
def test_model_instruct_is_parameter_or_template(row):
    _, facts = ROWS[row]
    if facts.instruct not in (None, "parameter"):
        filled = facts.instruct.format(instruct="<what>", text="<text>")
        assert re.search("<what>.*<text>", filled, re.DOTALL)
    assert facts.query_prefix is None or facts.query_prefix


def test_catalog_lists_each_model_once():
    assert len(list_models()) == len(ROWS)


@pytest.mark.parametrize("name", PROVIDERS)
def test_provider_has_address_and_key_variables(name):
    provider = PROVIDERS[name]
    assert (provider.id, bool(provider.title)) == (name, True)
    if provider.compute is not None:
        assert (provider.key_env, dict(provider.regions), provider.path) == ((), {}, "")
        return
    assert provider.path.startswith("/")
    assert provider.key_env
    assert provider.key_page
    assert provider.regions or provider.base_url_env
    assert all(re.fullmatch(r"https://[^/]+(/[^/]+)*", url) for url in provider.regions.values())


@pytest.mark.parametrize("name", PROVIDERS)
def test_unknown_model_gets_cautious_limits(name):
    facts = PROVIDERS[name].model("of-tomorrow")
    assert (facts.name, facts.known) == ("of-tomorrow", False)
    assert replace(facts, name="x") == replace(PROVIDERS[name].model("of-the-day-after"), name="x")


# ── the provider that computes ───────────────────────────────────────────────────────────────────

LOCAL = PROVIDERS["local"].compute("char-ngrams")


@given(st.lists(st.text(min_size=1).filter(str.strip), min_size=1, max_size=5), st.sampled_from([1, 2, 64, 1024, 4096]))
def test_local_vectors_are_unit_length_per_text(texts, dimensions):
    vectors = LOCAL(texts, dimensions)
    assert (vectors.shape, vectors.dtype) == ((len(texts), dimensions), np.float32)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)
    np.testing.assert_array_equal(vectors[-1], LOCAL([texts[-1]], dimensions)[0])


@pytest.mark.parametrize(
    ("query", "near", "far"),
    [
        ("how to boil an egg", "boil the egg for six minutes", "the stock market fell sharply"),
        ("猿啸哀", "风急天高猿啸哀", "不尽长江滚滚来"),
        ("Straße", "STRASSE", "river"),
    ],
)
def test_local_vectors_are_near_for_shared_words(query, near, far):
    asked, close, distant = LOCAL([query, near, far])
    assert asked @ close > asked @ distant
