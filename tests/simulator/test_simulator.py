"""The simulator answers, limits and refuses as the vendors' pages say, over real sockets."""

from __future__ import annotations

import asyncio
import base64
import errno
import gc
import hmac
import http.client
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from support.providers import MODEL_NAMES, REMOTE

from multiembed.config.endpoint import resolve_endpoint
from multiembed.config.options import EmbeddingOptions
from multiembed.errors import ConfigurationError
from multiembed.providers import PROVIDERS
from multiembed.providers.local import embed
from multiembed.providers.types import EncodeInput
from multiembed.simulator import RecordedRequest, Simulator, request_handler, serve
from multiembed.simulator import recorder as recorder_module
from multiembed.simulator import vectors as vectors_module
from multiembed.simulator.tokenizer import count_tokens

OPENAI = "dashscope-compatible"
MODELS = {name: MODEL_NAMES[name] for name in REMOTE}
TEXTS = ["The quick brown fox", "敏捷的棕色狐狸", "🦊 jumps over 12 dogs"]
WRONG = "InvalidParameter"
MAYBE_LONG = "invalid_or_too_long"
SORRY = "API 调用参数有误，请检查文档。"
ALGO = "<400> InternalError.Algo.InvalidParameter: "
# About one token a character, by any reckoning.
DIGITS = "0123456789"


@pytest.fixture(scope="module")
def simulator():
    with Simulator() as running:
        yield running


@pytest.fixture(scope="module")
def client():
    with httpx.Client(trust_env=False) as one:
        yield one


@pytest.fixture(autouse=True)
def forget(simulator):
    simulator.clear()


def endpoint(simulator, provider):
    return simulator.base_url(provider) + PROVIDERS[provider].path


def post(simulator, client, provider, body, key="sk-simulator"):
    headers = {"authorization": f"Bearer {key}"} if key else {}
    if isinstance(body, bytes):
        return client.post(endpoint(simulator, provider), content=body, headers=headers)
    return client.post(endpoint(simulator, provider), json=body, headers=headers)


def body_of(provider, texts, model=None, **fields):
    """A request in the provider's form; `fields` go where the form has its parameters."""
    model = model or MODELS[provider]
    if provider == "dashscope":
        return {"model": model, "input": {"texts": texts}, "parameters": fields}
    return {"model": model, "input": texts, **fields}


def size_of(provider):
    """A length of vectors that the provider's model takes."""
    return 64 if provider == "zhipu" else (PROVIDERS[provider].model(MODELS[provider]).dimensions or (64,))[0]


def request_of(provider, texts, **options):
    given = {"role": "document", "output": "dense", "instruct": None, "encoding": "float"}
    given["dimensions"] = size_of(provider)
    facts = PROVIDERS[provider].model(options.pop("model", MODELS[provider]))
    return EncodeInput(model=facts, texts=texts, parameters={}, **{**given, **options})


def vectors_in(answer, provider):
    parsed = answer.json()
    assert PROVIDERS[provider].classify(answer.status_code, parsed) is None
    items = PROVIDERS[provider].decode(parsed).items
    assert [item.index for item in items] == list(range(len(items)))
    return np.array([item.dense for item in items], dtype=np.float32)


# replies


@pytest.mark.parametrize("provider", MODELS)
def test_request_of_each_provider_gets_response_it_decodes(simulator, client, provider):
    body = PROVIDERS[provider].encode(request_of(provider, TEXTS))
    answer = post(simulator, client, provider, body)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    np.testing.assert_array_equal(vectors_in(answer, provider), embed(TEXTS, size_of(provider)))
    reply = PROVIDERS[provider].decode(answer.json())
    assert reply.total_tokens == sum(map(count_tokens, TEXTS))


@pytest.mark.parametrize("provider", MODELS)
def test_every_catalog_model_returns_its_default_dimensions(simulator, client, provider):
    for facts in PROVIDERS[provider].models or [PROVIDERS[provider].model("unheard-of")]:
        answer = post(simulator, client, provider, body_of(provider, ["a text"], facts.name))
        assert vectors_in(answer, provider).shape == (1, facts.default_dimensions or 1536)


@pytest.mark.parametrize("provider", MODELS)
def test_a_single_text_may_stand_without_a_list(simulator, client, provider):
    answer = post(simulator, client, provider, body_of(provider, "alone"))
    assert len(vectors_in(answer, provider)) == 1


@pytest.mark.parametrize("provider", MODELS)
def test_blanks_are_embedded_like_any_text(simulator, client, provider):
    vectors = vectors_in(post(simulator, client, provider, body_of(provider, [" ", "\n\t"])), provider)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0)


@pytest.mark.parametrize("provider", MODELS)
def test_fields_that_nobody_documents_are_accepted(simulator, client, provider):
    body = {**body_of(provider, TEXTS), "user": "me", "request_id": "mine"}
    assert post(simulator, client, provider, body).status_code == 200


@pytest.mark.parametrize(
    ("provider", "header"),
    [
        ("zhipu", "x-log-id"),
        ("siliconflow", "x-siliconcloud-trace-id"),
        ("dashscope", "x-request-id"),
        ("dashscope-compatible", "x-request-id"),
    ],
)
def test_each_answer_has_a_request_id_of_its_own(simulator, client, provider, header):
    assert header in PROVIDERS[provider].request_id_headers
    bodies = (body_of(provider, TEXTS), body_of(provider, TEXTS), {})
    ids = [post(simulator, client, provider, body).headers[header] for body in bodies]
    assert len(set(ids)) == 3
    assert all(ids)


@pytest.mark.parametrize("provider", ["zhipu", "siliconflow"])
def test_usage_counts_prompt_completion_and_total(simulator, client, provider):
    usage = post(simulator, client, provider, body_of(provider, ["one two"])).json()["usage"]
    assert usage == {"prompt_tokens": 2, "completion_tokens": 0, "total_tokens": 2}


def test_the_native_reply_has_the_fields_of_the_vendor_page(simulator, client):
    body = body_of("dashscope", TEXTS, output_type="dense&sparse", dimension=64)
    answer = post(simulator, client, "dashscope", body)
    reply = answer.json()
    assert list(reply) == ["status_code", "request_id", "code", "message", "output", "usage"]
    assert (reply["status_code"], reply["code"], reply["message"]) == (200, "", "")
    assert reply["request_id"] == answer.headers["x-request-id"]
    assert list(reply["usage"]) == ["total_tokens"]
    first = reply["output"]["embeddings"][0]
    assert list(first) == ["sparse_embedding", "embedding", "text_index"]
    assert list(first["sparse_embedding"][0]) == ["index", "value", "token"]


def test_the_compatible_reply_has_the_fields_of_the_vendor_page(simulator, client):
    answer = post(simulator, client, OPENAI, body_of(OPENAI, TEXTS))
    reply = answer.json()
    assert sorted(reply) == ["data", "id", "model", "object", "usage"]
    assert sorted(reply["data"][0]) == ["embedding", "index", "object"]
    assert sorted(reply["usage"]) == ["prompt_tokens", "total_tokens"]
    assert reply["id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(("output", "dense", "sparse"), [("dense", 1, 0), ("sparse", 0, 1), ("dense&sparse", 1, 1)])
def test_the_native_output_type_chooses_what_is_there(simulator, client, output, dense, sparse):
    answer = post(simulator, client, "dashscope", body_of("dashscope", TEXTS, output_type=output))
    for element in answer.json()["output"]["embeddings"]:
        assert ("embedding" in element, "sparse_embedding" in element) == (dense, sparse)


def test_sparse_vectors_share_an_index_for_a_shared_word(simulator, client):
    texts = ["Fox and fox", "a FOX", "狐狸", "棕狐", "?!", " "]
    answer = post(simulator, client, "dashscope", body_of("dashscope", texts, output_type="sparse"))
    bags = [
        {entry["index"]: entry for entry in element["sparse_embedding"]}
        for element in answer.json()["output"]["embeddings"]
    ]
    assert len(bags[0].keys() & bags[1].keys()) == 1
    assert len(bags[2].keys() & bags[3].keys()) == 1
    assert bags[0].keys() & bags[2].keys() == set()
    entries = [entry for bag in bags for entry in bag.values()]
    assert all(bags)
    assert all(0 <= entry["index"] < 250_002 and entry["value"] > 0 for entry in entries)
    assert next(iter(bags[0].values())) == {"index": entries[0]["index"], "value": 1.0493, "token": "Fox"}


@pytest.mark.parametrize("provider", ["siliconflow", "dashscope-compatible", "openai-compatible", "gateway"])
def test_base64_holds_little_endian_floats(simulator, client, provider):
    answer = post(simulator, client, provider, body_of(provider, TEXTS, encoding_format="base64", dimensions=64))
    data = answer.json()["data"]
    data = data["data"] if provider == "gateway" else data
    vectors = [np.frombuffer(base64.b64decode(element["embedding"]), "<f4") for element in data]
    np.testing.assert_array_equal(vectors, embed(TEXTS, 64))


def test_the_gateway_envelope_is_that_of_its_page(simulator, client):
    reply = post(simulator, client, "gateway", body_of("gateway", TEXTS, parameters={"x": 1})).json()
    assert list(reply) == ["success", "code", "message", "data"]
    assert (reply["success"], reply["code"], reply["message"]) == (True, "200", "successful")


def test_gateway_bare_list_model_returns_a_bare_list(simulator, client):
    answer = post(simulator, client, "gateway", body_of("gateway", TEXTS, "bare-list", dimensions=64))
    assert "success" not in answer.json()
    np.testing.assert_array_equal(vectors_in(answer, "gateway"), embed(TEXTS, 64))


def test_gateway_record_model_returns_the_documented_record(simulator, client):
    reply = post(simulator, client, "gateway", body_of("gateway", TEXTS, "resource-record")).json()
    assert list(reply["data"]) == ["id", "name", "status", "createTime"]
    assert PROVIDERS["gateway"].classify(200, reply) is None
    with pytest.raises(ValueError, match=r"no vectors.*id: emb_.*COMPLETED"):
        PROVIDERS["gateway"].decode(reply)


@pytest.mark.parametrize("dimensions", [1, 2, 16, 2047, 2048])
def test_zhipu_takes_any_size_up_to_2048(simulator, client, dimensions):
    answer = post(simulator, client, "zhipu", body_of("zhipu", ["a"], dimensions=dimensions, encoding_format="base64"))
    assert vectors_in(answer, "zhipu").shape == (1, dimensions)


def test_role_and_instruct_are_recorded_and_change_no_vector(simulator, client):
    query = PROVIDERS["dashscope"].encode(request_of("dashscope", TEXTS, role="query", instruct="Find foxes"))
    np.testing.assert_array_equal(
        vectors_in(post(simulator, client, "dashscope", query), "dashscope"), embed(TEXTS, 64)
    )
    parameters = simulator.requests[0].body["parameters"]
    assert (parameters["text_type"], parameters["instruct"]) == ("query", "Find foxes")


# limits: the last request that fits and the first that does not


def long_text(tokens):
    """A text of exactly so many tokens."""
    return (DIGITS * (tokens // 10 + 1))[:tokens]


FITTING = [
    ("zhipu", body_of("zhipu", ["a"] * 64)),
    ("zhipu", body_of("zhipu", [long_text(3072)])),
    ("zhipu", body_of("zhipu", [long_text(512)] * 16, "embedding-2")),
    ("zhipu", body_of("zhipu", ["a"] * 64, "embedding-2")),
    ("siliconflow", body_of("siliconflow", ["a"] * 32)),
    ("siliconflow", body_of("siliconflow", [long_text(512)], "BAAI/bge-large-zh-v1.5")),
    ("dashscope", body_of("dashscope", [long_text(8192)] + ["a"] * 9)),
    ("dashscope", body_of("dashscope", [long_text(2048)] * 25, "text-embedding-v2")),
    (OPENAI, body_of(OPENAI, ["a"] * 10, dimensions=2048)),
    ("gateway", body_of("gateway", ["a"] * 300, dimensions=16)),
]


@pytest.mark.parametrize(("provider", "body"), FITTING)
def test_what_just_fits_is_taken(simulator, client, provider, body):
    assert post(simulator, client, provider, body).status_code == 200


REFUSED = [
    # provider, body, status, code, words, kind of fault, cap
    ("zhipu", body_of("zhipu", ["a"] * 65), 400, "1214", "input数组最大不得超过64条", "too_many_items", 64),
    ("zhipu", body_of("zhipu", ["a", long_text(3073)]), 400, "1210", SORRY, MAYBE_LONG, None),
    ("zhipu", body_of("zhipu", [long_text(513)], "embedding-2"), 400, "1210", SORRY, MAYBE_LONG, None),
    ("zhipu", body_of("zhipu", [long_text(512)] * 17, "embedding-2"), 400, "1210", SORRY, MAYBE_LONG, None),
    ("zhipu", body_of("zhipu", ["a"], "embedding-2", dimensions=1024), 400, "1210", SORRY, MAYBE_LONG, None),
    ("zhipu", body_of("zhipu", ["a"], dimensions=0), 400, "1214", "dimensions参数非法。请检查文档。", "invalid", None),
    ("zhipu", body_of("zhipu", ["a"], dimensions=2049), 400, "1214", "dimensions", "invalid", None),
    ("zhipu", body_of("zhipu", ["a"], dimensions="512"), 400, "1214", "dimensions", "invalid", None),
    ("zhipu", body_of("zhipu", ["a"], dimensions=True), 400, "1214", "dimensions", "invalid", None),
    ("zhipu", body_of("zhipu", ["a", ""]), 400, "1214", "input参数非法。请检查文档。", "invalid", None),
    ("zhipu", body_of("zhipu", []), 400, "1213", "未正常接收到input参数。", "invalid", None),
    ("zhipu", body_of("zhipu", [1, 2]), 400, "1214", "input", "invalid", None),
    ("zhipu", body_of("zhipu", {"texts": ["a"]}), 400, "1214", "input", "invalid", None),
    ("zhipu", {"input": ["a"]}, 400, "1213", "未正常接收到model参数。", "invalid", None),
    ("zhipu", body_of("zhipu", ["a"], "embedding-4"), 400, "1211", "模型不存在，请检查模型代码。", "model", None),
    ("zhipu", b"{", 400, "1210", SORRY, MAYBE_LONG, None),
    (
        "siliconflow", body_of("siliconflow", ["a"] * 33), 413, "20042",
        "input batch size 33 > maximum allowed batch size 32", "too_many_items", 32,
    ),
    (
        "siliconflow", body_of("siliconflow", ["a", long_text(513)], "BAAI/bge-large-en-v1.5"), 413, "20042",
        "input must have less than 512 tokens", "too_long", None,
    ),
    (
        "siliconflow", body_of("siliconflow", [long_text(8193)], "BAAI/bge-m3"), 413, "20042",
        "input must have less than 8192 tokens", "too_long", None,
    ),
    ("siliconflow", body_of("siliconflow", ["a"], "BAAI/bge-m3", dimensions=1024), 400, "20015", "", "invalid", None),
    ("siliconflow", body_of("siliconflow", ["a"], dimensions=100), 400, "20015", "", "invalid", None),
    ("siliconflow", body_of("siliconflow", ["a"], dimensions=1024.0), 400, "20015", "", "invalid", None),
    ("siliconflow", body_of("siliconflow", ["a"], encoding_format="int8"), 400, "20015", "", "invalid", None),
    ("siliconflow", body_of("siliconflow", ["a", ""]), 400, "20015", "", "invalid", None),
    ("siliconflow", body_of("siliconflow", []), 400, "20015", "", "invalid", None),
    ("siliconflow", body_of("siliconflow", [[1, 2]]), 400, "20015", "", "invalid", None),
    ("siliconflow", {"input": "a"}, 400, "20015", "", "invalid", None),
    (
        "siliconflow", body_of("siliconflow", ["a"], "gone"), 400, "20012",
        "Model does not exist. Please check it carefully.", "model", None,
    ),
    (
        "siliconflow", b'{"input": "\xff"}', 400, "20015",
        "The parameter is invalid. Please check again.", "invalid", None,
    ),
    (
        "dashscope", body_of("dashscope", ["a"] * 11), 400, WRONG,
        "batch size is invalid, it should not be larger than 10.: parameters.texts", "too_many_items", 10,
    ),
    (
        "dashscope", body_of("dashscope", ["a"] * 26, "text-embedding-v1"), 400, WRONG,
        "batch size is invalid, it should not be larger than 25.: parameters.texts", "too_many_items", 25,
    ),
    (
        "dashscope", body_of("dashscope", ["a", long_text(8193)]), 400, WRONG,
        "Range of input length should be [1, 8192]", "too_long", None,
    ),
    (
        "dashscope", body_of("dashscope", [long_text(2049)], "text-embedding-v2"), 400, WRONG,
        "Range of input length should be [1, 2048]", "too_long", None,
    ),
    ("dashscope", body_of("dashscope", ["a", ""]), 400, WRONG, "Range of input length", "too_long", None),
    ("dashscope", body_of("dashscope", []), 400, "BadRequest.EmptyInput", "", "invalid", None),
    ("dashscope", {"model": "text-embedding-v4", "input": "a"}, 400, "BadRequest.EmptyInput", "", "invalid", None),
    ("dashscope", {"input": {"texts": ["a"]}}, 400, "BadRequest.EmptyModel", "", "invalid", None),
    ("dashscope", body_of("dashscope", [7]), 400, WRONG, "neither str nor list of str", "invalid", None),
    ("dashscope", body_of("dashscope", ["a"], dimension=100), 400, WRONG, "dimension", "invalid", None),
    (
        "dashscope", body_of("dashscope", ["a"], "text-embedding-v3", dimension=2048), 400, WRONG,
        "dimension", "invalid", None,
    ),
    (
        "dashscope", body_of("dashscope", ["a"], "text-embedding-v2", dimension=1024), 400, WRONG,
        "dimension", "invalid", None,
    ),
    ("dashscope", body_of("dashscope", ["a"], text_type="passage"), 400, WRONG, "text_type", "invalid", None),
    ("dashscope", body_of("dashscope", ["a"], output_type="both"), 400, WRONG, "output_type", "invalid", None),
    (
        "dashscope", body_of("dashscope", ["a"], "text-embedding-v2", output_type="sparse"), 400, WRONG,
        "output_type", "invalid", None,
    ),
    ("dashscope", {**body_of("dashscope", ["a"]), "parameters": []}, 400, WRONG, "parameters", "invalid", None),
    ("dashscope", body_of("dashscope", ["a"], "v5"), 404, "ModelNotFound", "", "model", None),
    ("dashscope", b"[]", 400, WRONG, "", "invalid", None),
    (
        OPENAI, body_of(OPENAI, ["a"] * 11), 400, WRONG,
        f"{ALGO}Value error, batch size is invalid, it should not be larger than 10.: input.contents",
        "too_many_items", 10,
    ),
    (
        OPENAI, body_of(OPENAI, ["a", long_text(8193)]), 400, WRONG,
        f"{ALGO}Range of input length should be [1, 8192]", "too_long", None,
    ),
    (
        OPENAI, body_of(OPENAI, [[9906, 1917]]), 400, WRONG,
        f"{ALGO}Value error, contents is neither str nor list of str.: input.contents", "invalid", None,
    ),
    (OPENAI, body_of(OPENAI, ["a"], encoding_format="int8"), 400, WRONG, "encoding_format", "invalid", None),
    (OPENAI, body_of(OPENAI, ["a"], dimensions=-1), 400, WRONG, "dimension", "invalid", None),
    (OPENAI, body_of(OPENAI, ["a"], "v5"), 404, "model_not_found", "`v5`", "model", None),
    (OPENAI, b"", 400, WRONG, "", "invalid", None),
    (
        "openai-compatible", body_of("openai-compatible", ["a"] * 2049), 400, "400", "not be larger than 2048",
        "too_many_items", 2048,
    ),
    (
        "openai-compatible", body_of("openai-compatible", [long_text(8193)]), 400, "context_length_exceeded",
        "8192 tokens", "too_long", None,
    ),
    ("openai-compatible", {"input": ["a"]}, 400, "400", "model", "invalid", None),
    ("openai-compatible", b"[]", 400, "400", "JSON", "invalid", None),
    ("gateway", body_of("gateway", ["a"] * 2049), 400, "400", "not be larger than 2048", "too_many_items", 2048),
    ("gateway", body_of("gateway", [long_text(8193)]), 400, "context_length_exceeded", "8192 tokens", "too_long", None),
    ("gateway", body_of("gateway", ["a", ""]), 400, "400", "empty", "invalid", None),
    ("gateway", body_of("gateway", []), 400, "400", "input", "invalid", None),
    ("gateway", body_of("gateway", None), 400, "400", "input", "invalid", None),
    ("gateway", body_of("gateway", ["a"], dimensions=0), 400, "400", "dimensions", "invalid", None),
    ("gateway", body_of("gateway", ["a"], dimensions=10**9), 400, "400", "dimensions", "invalid", None),
    ("gateway", body_of("gateway", ["a"], encoding_format="int8"), 400, "400", "encoding_format", "invalid", None),
    ("gateway", body_of("gateway", ["a"], parameters=[]), 400, "400", "parameters", "invalid", None),
    ("gateway", {"input": ["a"]}, 400, "400", "model", "invalid", None),
    ("gateway", b"null", 400, "400", "JSON", "invalid", None),
]  # fmt: skip


@pytest.mark.parametrize(("provider", "body", "status", "code", "words", "kind", "cap"), REFUSED)
def test_a_refusal_is_judged_by_the_client_as_it_is_meant(
    simulator, client, provider, body, status, code, words, kind, cap
):
    answer = post(simulator, client, provider, body)
    fault = PROVIDERS[provider].classify(answer.status_code, answer.json())
    assert (answer.status_code, fault.code, fault.kind, fault.max_items) == (status, code, kind, cap)
    assert words in (fault.message or "")
    assert simulator.requests[-1].status == status


UNAUTHORIZED = {
    ("zhipu", None): {"error": {"code": "1001", "message": "Header中未收到Authentication参数，无法进行身份验证"}},
    ("zhipu", "wrong"): {"error": {"code": "1000", "message": "身份验证失败。"}},
    ("siliconflow", None): "Invalid token",
    ("siliconflow", "wrong"): "Api key is invalid",
    ("dashscope", None): {"code": "InvalidApiKey", "message": "No API-key provided."},
    ("dashscope", "wrong"): {"code": "InvalidApiKey", "message": "Invalid API-key provided."},
    ("dashscope-compatible", "wrong"): {
        "error": {
            "message": "Incorrect API key provided. ",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_api_key",
        },
    },
    ("openai-compatible", None): {
        "error": {
            "message": "You didn't provide an API key.",
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        },
    },
    ("openai-compatible", "wrong"): {
        "error": {
            "message": "Incorrect API key provided.",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_api_key",
        },
    },
    ("gateway", None): {
        "success": False,
        "code": "401",
        "message": "the Authorization header is missing",
        "data": None,
    },
    ("gateway", "wrong"): {
        "success": False,
        "code": "401",
        "message": "the API key is invalid",
        "data": None,
    },
}


@pytest.mark.parametrize(("provider", "key"), UNAUTHORIZED)
def test_a_missing_or_wrong_key_is_refused_in_the_vendors_words(simulator, client, provider, key):
    answer = post(simulator, client, provider, body_of(provider, TEXTS), key=key)
    assert answer.status_code == 401
    said = answer.json()
    assert PROVIDERS[provider].classify(401, said).kind == "authentication"
    if provider.startswith("dashscope"):
        assert said.pop("request_id")
        said.pop("id", None)
    assert said == UNAUTHORIZED[provider, key]


@pytest.mark.parametrize(
    "header", ["sk-simulator", "Basic sk-simulator", "Bearer sk-simulator2", "Bearer  sk-simulator", "Bearer", ""]
)
def test_the_authorization_must_match_exactly(simulator, client, header):
    answer = client.post(endpoint(simulator, "zhipu"), json=body_of("zhipu", ["a"]), headers={"authorization": header})
    assert answer.status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize("provider", MODELS)
def test_bearer_scheme_in_any_case_is_accepted(simulator, client, provider, scheme):
    headers = {"authorization": f"{scheme} sk-simulator"}
    answer = client.post(endpoint(simulator, provider), json=body_of(provider, ["a"]), headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("provider", ["openai-compatible", "gateway"])
@pytest.mark.parametrize("header", ["api-key", "X-API-Key"])
def test_key_in_a_header_of_its_own_is_accepted(simulator, client, provider, header):
    def status(key):
        answer = client.post(endpoint(simulator, provider), json=body_of(provider, ["a"]), headers={header: key})
        return answer.status_code

    assert (status("sk-simulator"), status("other")) == (200, 401)


ZAI_KEY = "id-1.secret-1"


def jwt_of(key=ZAI_KEY, *, algorithm="HS256", life=210.0, name=None):
    """The token that zai-sdk 0.2.3 makes of a key (core/_jwt_token.py)."""

    def part(content):
        return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=")

    identity, _, secret = key.partition(".")
    now = round(1000 * time.time())
    payload = {"api_key": name or identity, "exp": now + round(1000 * life), "timestamp": now}
    signed = part({"alg": algorithm, "sign_type": "SIGN"}) + b"." + part(payload)
    signature = base64.urlsafe_b64encode(hmac.digest(secret.encode(), signed, "sha256")).rstrip(b"=")
    return (signed + b"." + signature).decode()


CREDENTIALS = {
    "key": (lambda: ZAI_KEY, 200),
    "token": (jwt_of, 200),
    "token of another secret": (lambda: jwt_of("id-1.other"), 401),
    "token of another id": (lambda: jwt_of(name="id-2"), 401),
    "expired token": (lambda: jwt_of(life=-1.0), 401),
    "unsigned token": (lambda: jwt_of(algorithm="none"), 401),
    "cut token": (lambda: jwt_of()[:-2], 401),
    "words": (lambda: "a.b.c", 401),
    "dots": (lambda: "..", 401),
    "not ascii": (lambda: "é.b.c", 401),
}
"""Made in the test: a token expires, and must not be in the name of a test."""


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_zhipu_accepts_the_token_of_its_sdk_for_the_key(client, credential):
    make, status = CREDENTIALS[credential]
    with Simulator(api_key=ZAI_KEY) as simulator:
        headers = {"authorization": f"Bearer {make()}".encode()}
        answer = client.post(endpoint(simulator, "zhipu"), json=body_of("zhipu", ["a"]), headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize("provider", MODELS)
def test_simulator_accepts_its_own_configured_key(client, provider):
    with Simulator(api_key="another") as simulator:
        assert simulator.api_key == "another"
        assert post(simulator, client, provider, body_of(provider, ["a"]), key="another").status_code == 200
        assert post(simulator, client, provider, body_of(provider, ["a"])).status_code == 401


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/api/paas/v4/embedding", {"status": 404, "error": "Not Found", "path": "/v4/embedding"}),
        ("/v1/embedding", "404 page not found"),
        ("/api/v1/services/embeddings", {"code": "InvalidURL", "message": "url error, please check url！"}),
        (
            "/compatible-mode/embeddings",
            {
                "error": {
                    "message": "url error, please check url！",
                    "type": "InvalidURL",
                    "param": None,
                    "code": "InvalidURL",
                }
            },
        ),
        ("/api/v1/", {"success": False, "code": "404", "message": "not found", "data": None}),
    ],
)
def test_wrong_path_is_refused_in_the_format_of_its_vendor(simulator, client, path, said):
    answer = client.post(simulator.url + path, json={})
    assert answer.status_code == 404
    found = answer.json()
    if isinstance(found, dict):
        found = {key: found[key] for key in found.keys() - {"timestamp", "request_id", "id"}}
    assert found == said
    assert [(record.provider, record.path, record.status) for record in simulator.requests] == [(None, path, 404)]


def test_a_path_that_looks_like_nobodys_is_refused_plainly(simulator, client):
    answer = client.get(simulator.url)
    assert (answer.status_code, answer.text) == (404, "404 page not found")


@pytest.mark.parametrize("provider", MODELS)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_only_post_is_taken(simulator, client, provider, method):
    for _ in range(2):  # and the connection lives on
        answer = client.request(method, endpoint(simulator, provider))
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        assert bool(answer.content) == (method != "HEAD")


def test_a_query_behind_the_path_is_overlooked(simulator, client):
    answer = client.post(
        endpoint(simulator, "zhipu") + "?a=b",
        json=body_of("zhipu", ["a"]),
        headers={"authorization": "Bearer sk-simulator"},
    )
    assert answer.status_code == 200


@pytest.mark.parametrize("provider", MODELS)
def test_a_body_above_16_mib_is_refused_and_not_kept(simulator, client, provider):
    answer = post(simulator, client, provider, b" " * (16 * 1024 * 1024 + 1))
    assert answer.status_code == 413
    assert PROVIDERS[provider].classify(413, answer.json()).kind == "request_too_large"
    assert simulator.requests[0].raw == b""
    assert post(simulator, client, provider, body_of(provider, ["a"])).status_code == 200


# what is recorded about requests


def test_requests_are_recorded_in_order_with_what_became_of_them(simulator, client):
    for provider in MODELS:
        post(simulator, client, provider, body_of(provider, [provider]))
    post(simulator, client, "zhipu", b"\xff no json", key=None)
    records = simulator.requests
    assert [record.provider for record in records] == [*MODELS, "zhipu"]
    assert [record.status for record in records] == [200] * len(MODELS) + [401]
    first, last = next(record for record in records if record.provider == "zhipu"), records[-1]
    assert isinstance(first, RecordedRequest)
    assert (first.method, first.path) == ("POST", "/api/paas/v4/embeddings")
    assert first.headers["authorization"] == "Bearer sk-simulator"
    assert first.body == json.loads(first.raw) == body_of("zhipu", ["zhipu"])
    assert (last.body, last.raw) == (None, b"\xff no json")


def test_what_is_recorded_is_a_copy_and_clear_forgets_it(simulator, client):
    post(simulator, client, "zhipu", body_of("zhipu", ["a"]))
    simulator.requests.clear()
    assert len(simulator.requests) == 1
    simulator.clear()
    assert simulator.requests == []
    assert simulator.peak_in_flight == 0


def test_nothing_is_recorded_when_that_is_not_wanted(client):
    with Simulator(record=False) as simulator:
        assert post(simulator, client, "zhipu", body_of("zhipu", ["a"])).status_code == 200
        assert simulator.requests == []
        assert simulator.peak_in_flight == 1


@pytest.mark.parametrize(("bound", "most", "kept"), [("_MAX_REQUESTS", 3, 3), ("_MAX_BYTES", 200, 1)])
def test_the_oldest_requests_are_forgotten_beyond_a_bound(simulator, client, monkeypatch, bound, most, kept):
    monkeypatch.setattr(recorder_module, bound, most)
    for number in range(5):
        post(simulator, client, "zhipu", body_of("zhipu", [f"{number}" * 100]))
    texts = [record.body["input"][0][0] for record in simulator.requests]
    assert texts == ["0", "1", "2", "3", "4"][-kept:]
    assert simulator.requests[-1].status == 200


def test_vectors_are_remembered_within_a_bound(monkeypatch):
    monkeypatch.setattr(vectors_module, "_MAX_BYTES", 20_000)
    calls = []
    monkeypatch.setattr(vectors_module.local, "embed", lambda texts, size: calls.append(texts) or embed(texts, size))
    store = vectors_module.VectorStore()
    store.embed(["one", "two", "one"], 256)
    store.embed(["two", "one"], 256)
    assert calls == [["one", "two"]]
    store.embed(["one"], 128)
    assert len(calls) == 2
    store.embed([f"text {number}" for number in range(50)], 256)
    assert store._bytes <= 20_000
    assert store._bytes == sum(vectors_module._size(text, row) for (text, _), row in store._cached.items()) > 0
    np.testing.assert_array_equal(store.embed(["one"], 256), embed(["one"], 256))


def test_environment_names_every_key_and_address(simulator):
    documented = {
        "ZHIPUAI_API_KEY": "sk-simulator",
        "SILICONFLOW_API_KEY": "sk-simulator",
        "DASHSCOPE_API_KEY": "sk-simulator",
        "OPENAI_COMPATIBLE_API_KEY": "sk-simulator",
        "MULTIEMBED_GATEWAY_API_KEY": "sk-simulator",
        "ZHIPUAI_BASE_URL": f"{simulator.url}/api/paas/v4",
        "ZAI_BASE_URL": f"{simulator.url}/api/paas/v4",
        "SILICONFLOW_BASE_URL": f"{simulator.url}/v1",
        "DASHSCOPE_BASE_URL": f"{simulator.url}/api/v1",
        "DASHSCOPE_HTTP_BASE_URL": f"{simulator.url}/api/v1",
        "DASHSCOPE_COMPATIBLE_BASE_URL": f"{simulator.url}/compatible-mode/v1",
        "OPENAI_COMPATIBLE_BASE_URL": f"{simulator.url}/openai/v1",
        "MULTIEMBED_GATEWAY_BASE_URL": simulator.url,
    }
    environment = simulator.environment()
    assert environment | documented == environment
    assert environment.keys() == (
        {PROVIDERS[name].key_env[0] for name in REMOTE}
        | {each for name in REMOTE for each in PROVIDERS[name].base_url_env}
    )


@pytest.mark.parametrize("provider", MODELS)
def test_environment_leads_every_provider_to_the_simulator(simulator, provider):
    url, _, _ = resolve_endpoint(EmbeddingOptions(), PROVIDERS[provider], simulator.environment())
    assert url == endpoint(simulator, provider)


def test_there_is_no_base_url_for_what_needs_no_server(simulator):
    with pytest.raises(ValueError, match="no provider 'local'; it has zhipu"):
        simulator.base_url("local")


# HTTP


def raw_request(provider="zhipu", texts=("a",), head="", body=None):
    body = json.dumps(body_of(provider, list(texts), dimensions=8)).encode() if body is None else body
    return (
        f"POST /api/paas/v4/embeddings HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-simulator\r\n"
        f"{head or f'Content-Length: {len(body)}'}\r\n\r\n"
    ).encode() + body


def connect(simulator):
    return socket.create_connection(("127.0.0.1", int(simulator.url.rpartition(":")[2])), timeout=60)


def read_answer(stream):
    """Status and body of one answer from a socket's file."""
    status = int(stream.readline().split()[1])
    length = 0
    while (line := stream.readline().strip().lower()) != b"":
        if line.startswith(b"content-length:"):
            length = int(line.partition(b":")[2])
    return status, stream.read(length)


def test_hundreds_of_requests_go_over_one_connection(simulator):
    connection = http.client.HTTPConnection(simulator.url.removeprefix("http://"), timeout=5)
    headers = {"Authorization": "Bearer sk-simulator"}
    body = json.dumps(body_of("zhipu", ["a"], dimensions=8))
    connection.connect()
    opened = connection.sock
    for _ in range(400):
        connection.request("POST", "/api/paas/v4/embeddings", body, headers)
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
        assert connection.sock is opened
    connection.close()
    assert len(simulator.requests) == 400
    assert simulator.peak_in_flight == 1


def test_two_hundred_requests_are_in_flight_together(monkeypatch):
    all_arrived = asyncio.Event()

    async def until_all_arrived(_):
        if len(simulator.requests) == 200:
            all_arrived.set()
        await all_arrived.wait()

    loop = SimpleNamespace(sleep=until_all_arrived, get_running_loop=asyncio.get_running_loop)
    monkeypatch.setattr(request_handler, "asyncio", loop)
    with Simulator(latency=1.0) as simulator, ExitStack() as wires:
        opened = [wires.enter_context(connect(simulator)) for _ in range(200)]
        streams = [wires.enter_context(wire.makefile("rb")) for wire in opened]
        for number, wire in enumerate(opened):
            wire.sendall(raw_request(texts=[f"text {number}"]))
        for number, stream in enumerate(streams):
            status, body = read_answer(stream)
            assert status == 200
            vector = np.array(json.loads(body)["data"][0]["embedding"], dtype=np.float32)
            np.testing.assert_array_equal(vector, embed([f"text {number}"], 8)[0])
        assert simulator.peak_in_flight == 200
        simulator.clear()
        assert simulator.peak_in_flight == 0


def test_latency_is_waited_before_each_answer(client):
    with Simulator(latency=0.1) as simulator:
        before = time.perf_counter()
        post(simulator, client, "zhipu", body_of("zhipu", ["a"]))
        assert time.perf_counter() - before >= 0.1


def test_a_heavy_request_does_not_hold_up_a_light_one(simulator, client):
    heavy = body_of("dashscope", [long_text(8192 - number) for number in range(10)])
    running = threading.Thread(target=post, args=(simulator, client, "dashscope", heavy))
    running.start()
    assert post(simulator, client, "zhipu", body_of("zhipu", ["a"])).status_code == 200
    running.join()
    assert [record.status for record in simulator.requests] == [200, 200]


def test_requests_sent_ahead_are_answered_one_after_another(simulator):
    with connect(simulator) as wire, wire.makefile("rb") as stream:
        wire.sendall(raw_request(texts=["a"]) + raw_request(texts=["b"]) + raw_request(texts=[""]))
        answers = [read_answer(stream) for _ in range(3)]
    assert [status for status, _ in answers] == [200, 200, 400]
    assert [record.body["input"] for record in simulator.requests] == [["a"], ["b"], [""]]


def test_a_body_in_chunks_is_put_together(simulator):
    body = raw_request().partition(b"\r\n\r\n")[2]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    with connect(simulator) as wire, wire.makefile("rb") as stream:
        wire.sendall(raw_request(head="Transfer-Encoding: chunked", body=chunks))
        assert read_answer(stream)[0] == 200
    assert simulator.requests[0].raw == body


def test_a_client_that_asks_first_is_told_to_go_on(simulator):
    request = raw_request()
    head, _, body = request.partition(b"\r\n\r\n")
    with connect(simulator) as wire, wire.makefile("rb") as stream:
        wire.sendall(head + b"\r\nExpect: 100-continue\r\n\r\n")
        assert read_answer(stream)[0] == 100
        wire.sendall(body)
        assert read_answer(stream)[0] == 200


def test_the_connection_is_closed_when_the_client_asks_for_it(simulator):
    with connect(simulator) as wire, wire.makefile("rb") as stream:
        wire.sendall(raw_request().replace(b"Host: x", b"Host: x\r\nConnection: close"))
        assert read_answer(stream)[0] == 200
        assert stream.read() == b""


def test_what_is_no_http_is_told_so(simulator):
    with connect(simulator) as wire, wire.makefile("rb") as stream:
        wire.sendall(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n\x16\x03\x01 this is no HTTP\r\n\r\n")
        head = b"".join(iter(stream.readline, b"\r\n"))
        assert head.startswith(b"HTTP/1.1 404")
        assert read_answer(stream)[0] == 400
        assert stream.read() == b""


@pytest.mark.parametrize("sent", [b"", b"POST /api/pa", raw_request()[:-5], raw_request()])
@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_early_harms_nobody(simulator, client, sent, reset, caplog):
    for _ in range(20):
        with connect(simulator) as wire:
            wire.sendall(sent)
            if reset:
                wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert post(simulator, client, "zhipu", body_of("zhipu", ["a"])).status_code == 200
    assert caplog.records == []


# life


def test_stopping_does_not_wait_for_open_connections(capfd):
    simulator = Simulator(latency=30).start()
    idle, halfway, waiting = (connect(simulator) for _ in range(3))
    halfway.sendall(raw_request()[:-5])
    waiting.sendall(raw_request())
    while not simulator.requests:
        time.sleep(0.01)
    before = time.perf_counter()
    simulator.stop()
    assert time.perf_counter() - before < 15
    for wire in (idle, halfway, waiting):
        with wire:
            assert closed(wire)
    assert simulator.requests[0].status is None
    assert capfd.readouterr() == ("", "")


def closed(wire):
    try:
        return wire.recv(1) == b""
    except ConnectionResetError:
        return True


def test_fifty_simulators_one_after_another_leave_nothing_behind(client):
    def held():
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir())) if Path("/proc").exists() else 0

    before = held()
    for _ in range(50):
        with Simulator() as simulator, connect(simulator) as wire, wire.makefile("rb") as stream:
            wire.sendall(raw_request())
            assert read_answer(stream)[0] == 200
    assert held() == before


def test_clients_that_arrive_while_it_stops_leave_nothing_behind():
    for delay in range(30):
        simulator = Simulator(latency=30).start()
        crowd = threading.Thread(target=arrive, args=(simulator,))
        crowd.start()
        time.sleep(delay / 10_000)
        simulator.stop()
        crowd.join()
    gc.collect()  # a socket that was left open would warn now, and a warning is an error


def arrive(simulator):
    for _ in range(20):
        with suppress(ConnectionError), connect(simulator) as wire:
            wire.sendall(raw_request())


def test_a_simulator_may_be_started_again(client):
    simulator = Simulator()
    for _ in range(2):
        with simulator:
            assert post(simulator, client, "zhipu", body_of("zhipu", ["a"])).status_code == 200
        simulator.stop()
        with pytest.raises(httpx.ConnectError):
            post(simulator, client, "zhipu", body_of("zhipu", ["a"]))


def test_a_simulator_is_not_started_twice(simulator):
    with pytest.raises(RuntimeError, match="runs already"):
        simulator.start()


def test_there_is_no_address_before_the_start():
    with pytest.raises(RuntimeError, match="before it is started"):
        _ = Simulator().url


def test_a_port_that_is_taken_is_an_error_at_once(simulator):
    with pytest.raises(OSError) as raised:  # noqa: PT011
        Simulator(int(simulator.url.rpartition(":")[2])).start()
    assert raised.value.errno == errno.EADDRINUSE


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1", "example.org", ""])
def test_only_loopback_is_served(host):
    with pytest.raises(ConfigurationError, match="loopback only"):
        serve(host=host)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
def test_every_name_of_loopback_will_do(client, host):
    try:
        simulator = Simulator(host=host).start()
    except OSError:
        pytest.skip("this machine has no such address")
    assert post(simulator, client, "gateway", body_of("gateway", ["a"])).status_code == 200
    simulator.stop()


@pytest.mark.parametrize("options", [{"api_key": ""}, {"api_key": " a"}, {"api_key": "钥匙"}, {"latency": -1.0}])
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigurationError, match="must be"):
        Simulator(**options)


FOREGROUND = """
import sys
from multiembed.simulator import serve
serve(on_ready=lambda simulator: print(simulator.url, flush=True), latency=30)
print("returned", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_foreground_ends_cleanly_on_a_signal(number):
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-c", FOREGROUND],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": root},
    ) as process:
        port = int(process.stdout.readline().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as wire:
            wire.sendall(raw_request())
            process.send_signal(number)
            assert process.wait(timeout=20) == 0
            assert closed(wire)
        assert process.stdout.read() == "returned\n"
        assert process.stderr.read() == ""


def test_the_foreground_ends_when_another_thread_stops_it():
    started = threading.Event()
    simulator = Simulator()
    running = threading.Thread(target=simulator.serve_forever, args=(lambda _: started.set(),))
    running.start()
    assert started.wait(20)
    simulator.stop()
    running.join(20)
    assert not running.is_alive()


# tokens


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        (" ", 1),
        ("word", 1),
        ("one two three", 3),
        ("internationalisation", 4),
        ("12345", 5),
        ("a  b", 3),
        ("a\nb", 3),
        ("wait...", 3),
        ("敏捷的棕色狐狸", 5),
        ("你", 1),
        ("你好，世界。", 6),
        ("😀😀", 4),
        ("Привет", 6),
        ("naïve", 1),
        ("𠀀", 2),
        ("\x00", 1),
    ],
)
def test_tokens_are_counted_by_kind_of_script(text, tokens):
    assert count_tokens(text) == tokens


def test_counting_a_million_characters_is_quick():
    before = time.process_time()
    assert count_tokens("The quick brown fox, 狐狸. " * 40_000) > 100_000
    assert time.process_time() - before < 10
