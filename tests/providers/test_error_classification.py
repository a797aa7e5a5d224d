"""Classification of error responses by the tables of the vendors' pages, and the tree of errors."""

from __future__ import annotations

import pickle
import re
from itertools import chain

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.providers import MODELS, REMOTE, address_options, response_of

import multiembed
from multiembed import errors
from multiembed.config.options import EmbeddingOptions
from multiembed.config.request_config import resolve_config
from multiembed.providers import PROVIDERS
from multiembed.providers.types import ApiFailure
from multiembed.responses.error_policy import ERRORS_BY_KIND, FATAL, RETRYABLE, build_error
from multiembed.responses.interpret import interpret_response
from multiembed.transport.types import HttpResponse, TransportFailure

pytestmark = pytest.mark.unit

KEY = "sk-abcdefghijklmnopqrstuvwxyz-0123456789"


def config_of(provider):
    return resolve_config(MODELS[provider], EmbeddingOptions(api_key=KEY, **address_options(provider)), {})


def kind(provider, status, body):
    failure = PROVIDERS[provider].classify(status, body)
    return None if failure is None else failure.kind


# ── Zhipu: https://docs.bigmodel.cn/cn/api/api-code ──────────────────────────────────────────────


def zhipu(code, message="请求失败"):
    return {"error": {"code": code, "message": message}}


ZHIPU = [
    *((401, code, "authentication") for code in (1000, 1001, 1002, 1003, 1004, 1005)),
    *((401, code, "permission") for code in (1110, 1111)),
    *((429, code, "quota") for code in (1112, 1121)),  # the account is locked
    (429, 1113, "quota"),  # arrears, as a 429
    (500, 1120, "server"),
    (500, 1200, "server"),
    (400, 1210, "invalid_or_too_long"),
    (400, 1211, "model"),
    *((400, code, "invalid") for code in (1212, 1213, 1214, 1215)),
    *((403, code, "permission") for code in (1220, 1221, 1222)),
    (500, 1230, "server"),
    (500, 1234, "server"),
    (400, 1261, "too_long"),
    (400, 1300, "content"),
    (400, 1301, "content"),
    *((429, code, "rate_limit") for code in (1302, 1303, 1305, 1312)),
    *((429, code, "quota") for code in (1304, 1308, 1309, 1310, 1311, 1313)),
]


def test_zhipu_code_as_text_number_or_in_a_200_counts():
    for status, code, expected in ZHIPU:
        bodies = (status, zhipu(str(code))), (status, zhipu(code)), (200, zhipu(str(code)))
        assert [kind("zhipu", *each) for each in bodies] == [expected] * 3, code


def test_zhipu_429_is_a_rate_limit_by_code_only():
    broke = zhipu("1113", "Insufficient balance or no resource package. Please recharge.")
    assert kind("zhipu", 429, broke) == "quota"
    assert kind("zhipu", 429, zhipu("1302", "您当前使用该API的并发数过高")) == "rate_limit"
    assert kind("zhipu", 429, "Too Many Requests") == "rate_limit"


# ── SiliconFlow: https://docs.siliconflow.cn/cn/faqs/error-code ──────────────────────────────────


def silicon(code, message=""):
    return {"code": code, "message": message, "data": None}


SILICONFLOW = [
    (400, silicon(20012, "Model does not exist. Please check it carefully."), "model"),
    (400, silicon(20015, "The parameter is invalid. Please check again."), "invalid"),
    (413, silicon(20042, "input batch size 132 > maximum allowed batch size 64"), "too_many_items"),
    (413, silicon(20042, "input must have less than 512 tokens"), "too_long"),
    (413, silicon(20042, "input must have less than 8192 tokens"), "too_long"),
    (413, silicon(20042, "request entity too large"), "request_too_large"),
    (413, "Payload Too Large", "request_too_large"),
    (403, silicon(30001, "Sorry, your account balance is insufficient"), "quota"),
    (402, silicon(30001, "Sorry, your account balance is insufficient"), "quota"),
    (402, "Payment Required", "quota"),
    (403, silicon(None, "please complete the real-name verification"), "permission"),
    (401, "Invalid token", "authentication"),
    (401, "Api key is invalid", "authentication"),
    (404, "404 page not found", "model"),
    (429, {"message": "Rejected due to rate limiting. Details:TPM limit reached.", "data": ""}, "rate_limit"),
    (500, silicon(None, "Unknown error"), "server"),
    (503, silicon(50505, "Model service overloaded. Please try again later."), "server"),
    (504, "Gateway Timeout", "server"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "expected"), SILICONFLOW, ids=str)
def test_siliconflow_errors_are_classified(status, body, expected):
    assert kind("siliconflow", status, body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [(body, expected) for _, body, expected in SILICONFLOW if isinstance(body, dict) and body.get("code")],
    ids=str,
)
def test_siliconflow_code_in_a_200_means_the_same(body, expected):
    assert kind("siliconflow", 200, body) == expected
    assert kind("siliconflow", 200, {**body, "code": str(body["code"])}) == expected


# ── DashScope: https://help.aliyun.com/zh/model-studio/error-code ────────────────────────────────

ALGO = "<400> InternalError.Algo.InvalidParameter: "
BATCH = "batch size is invalid, it should not be larger than 10.: "
LENGTH = "Range of input length should be [1, 8192]"

DASHSCOPE = [
    (400, "InvalidParameter", BATCH + "parameters.texts", "too_many_items"),
    (400, "InvalidParameter", ALGO + "Value error, " + BATCH + "input.contents", "too_many_items"),
    (400, "InternalError.Algo.InvalidParameter", "Value error, " + BATCH + "input.contents", "too_many_items"),
    (400, "InvalidParameter", LENGTH, "too_long"),
    (400, "InternalError.Algo.InvalidParameter", LENGTH, "too_long"),
    (400, "InternalError", ALGO + LENGTH, "too_long"),
    (400, "InvalidParameter", "Range of input length should be [1, 2048]", "too_long"),
    (400, "InvalidParameter", "Value error, contents is neither str nor list of str.: input.contents", "invalid"),
    (400, "InternalError.Algo.InvalidParameter", "Value error, dimension is invalid", "invalid"),
    (400, "InternalError", ALGO + "Value error, contents is neither str nor list of str.", "invalid"),
    *(
        (400, code, "Input data may contain inappropriate content.", "content")
        for code in (
            "DataInspectionFailed",
            "data_inspection_failed",
            "FaqRuleBlocked",
            "CustomRoleBlocked",
            "IPInfringementSuspect",
        )
    ),
    (400, "Arrearage", "Access denied, please make sure your account is in good standing.", "quota"),
    *(
        (400, code, "Required parameter missing.", "invalid")
        for code in ("BadRequest.EmptyInput", "BadRequest.EmptyModel", "BadRequest.EmptyParameters", "InvalidURL",
                     "UnsupportedOperation", "InvalidParameter")
    ),
    (401, "InvalidApiKey", "Invalid API-key provided.", "authentication"),
    (401, "invalid_api_key", "Incorrect API key provided. ", "authentication"),
    (401, "NOT AUTHORIZED", "Access denied: Either you are not authorized to access this workspace", "authentication"),
    *(
        (403, code, "Access denied.", "permission")
        for code in ("AccessDenied", "AccessDenied.Unpurchased", "Model.AccessDenied", "Workspace.AccessDenied",
                     "Endpoint.AccessDenied")
    ),
    (403, "AllocationQuota.FreeTierOnly", "The free tier of the model has been exhausted.", "quota"),
    (404, "ModelNotFound", "Model can not be found.", "model"),
    (404, "model_not_found", "The model `x` does not exist or you do not have access to it.", "model"),
    (404, "model_not_supported", "Unsupported model `x` for OpenAI compatibility mode.", "model"),
    (408, "RequestTimeOut", "Request timed out, please try again later.", "timeout"),
    (413, "BadRequest.TooLarge", "Payload Too Large", "request_too_large"),
    *(
        (429, code, "Requests rate limit exceeded, please try again later.", "rate_limit")
        for code in ("Throttling", "Throttling.RateQuota", "LimitRequests", "limit_requests", "Throttling.BurstRate",
                     "limit_burst_rate", "Throttling.Concurrency", "Throttling.AllocationQuota")
    ),
    # the tokens of this minute are used up, not the money
    (429, "insufficient_quota", "You exceeded your current quota, please check your plan and billing", "rate_limit"),
    (429, "Throttling.AllocationQuota", "Allocated quota exceeded, please increase your quota limit.", "rate_limit"),
    (429, "Throttling.AllocationQuota", "Free allocated quota exceeded.", "quota"),
    (429, "insufficient_quota", "Free allocated quota exceeded.", "quota"),
    *(
        (429, code, "Commodity has not purchased yet.", "quota")
        for code in ("CommodityNotPurchased", "PrepaidBillOverdue", "PostpaidBillOverdue")
    ),
    (500, "InternalError", "An internal error has occured, please try again later", "server"),
    (500, "InternalError.Algo", "Inference internal error: No backend server available", "server"),
    (503, "ServiceUnavailable", "The service is unavailable", "server"),
    (503, "ModelServingError", "Too many requests in route.", "server"),
    (504, "GatewayTimeout", "timeout", "server"),
]  # fmt: skip


@pytest.mark.parametrize("provider", ["dashscope", "dashscope-compatible"])
def test_dashscope_code_in_any_envelope_means_the_same(provider):
    for status, code, message, expected in DASHSCOPE:
        native = {"code": code, "message": message, "request_id": "r-1"}
        openai = {"error": {"code": code, "message": message, "type": code, "param": None}, "request_id": "r-1"}
        for envelope in (native, openai):
            failure = PROVIDERS[provider].classify(status, envelope)
            assert (failure.kind, failure.code, failure.request_id) == (expected, code, "r-1"), (status, message)
        # "InternalError" alone is also what a 500 says, so only its status tells whether the request is at failure.
        if (code, expected) != ("InternalError", "invalid"):
            assert kind(provider, 200, native) == kind(provider, 200, openai) == expected, (code, message)


@pytest.mark.parametrize("status", [400, 404])
def test_missing_workspace_is_fatal(status):
    assert kind("dashscope", status, {"code": "WorkSpaceNotFound", "message": "", "request_id": ""}) in FATAL


@pytest.mark.parametrize("code", [{"code": ""}, {"code": None}, {}])
def test_dashscope_success_with_empty_code_is_a_success(code):
    body = {"status_code": 200, "request_id": "r-1", **code, "message": "", "output": {"embeddings": []}, "usage": {}}
    assert kind("dashscope", 200, body) is None


# ── a gateway ────────────────────────────────────────────────────────────────────────────────────


def gateway(code, message="no", *, success=False):
    return {"success": success, "code": code, "message": message, "data": None}


GATEWAY_CODES = {
    "400": "invalid",
    "401": "authentication",
    "402": "quota",
    "403": "permission",
    "404": "model",
    "408": "timeout",
    "413": "request_too_large",
    "429": "rate_limit",
    "500": "server",
    "503": "server",
}


@pytest.mark.parametrize("code", GATEWAY_CODES)
def test_gateway_code_in_a_200_means_that_status(code):
    assert kind("gateway", int(code), gateway(code)) == GATEWAY_CODES[code]
    assert kind("gateway", 200, gateway(code)) == GATEWAY_CODES[code]
    assert kind("gateway", 200, gateway(int(code))) == GATEWAY_CODES[code]
    assert kind("gateway", 200, gateway(code, success=True)) == GATEWAY_CODES[code]


@pytest.mark.parametrize("code", GATEWAY_CODES)
def test_gateway_code_without_success_field_counts(code):
    body = gateway(code)
    del body["success"]
    assert kind("gateway", 200, body) == GATEWAY_CODES[code]


@pytest.mark.parametrize("code", ["200", 200, "0", 0, "", None, "success", "ok", "SUCCESS"])
def test_gateway_success_code_is_a_success(code):
    body = {"success": True, "code": code, "message": "successful", "data": {"data": []}}
    assert kind("gateway", 200, body) is None


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (401, {"code": "invalid_api_key", "message": "Incorrect API key provided"}, "authentication"),
        (429, {"code": "rate_limit_exceeded", "message": "Rate limit reached"}, "rate_limit"),
        (429, {"code": "insufficient_quota", "message": "You exceeded your current quota"}, "quota"),
        (404, {"code": "model_not_found", "message": "The model does not exist"}, "model"),
        (400, {"code": "context_length_exceeded", "message": "maximum context length is 8192 tokens"}, "too_long"),
        (400, {"code": "content_filter", "message": "filtered"}, "content"),
        (400, {"code": None, "message": "the input array must not be larger than 16"}, "too_many_items"),
        (400, {"code": None, "type": "invalid_request_error", "message": "no"}, "invalid"),
        (500, {"message": "oops"}, "server"),
        (429, "slow down", "rate_limit"),
    ],
    ids=str,
)
def test_openai_error_from_a_gateway_is_classified(status, error, expected):
    assert kind("gateway", status, {"error": error}) == expected


@pytest.mark.parametrize("error", [{"code": "x", "message": "no"}, "no", {"message": "no"}])
def test_error_object_in_a_200_is_an_error(error):
    assert kind("gateway", 200, {"error": error, "data": []}) is not None
    assert kind("gateway", 200, {"error": None, "data": []}) is None


# ── all of them ──────────────────────────────────────────────────────────────────────────────────

STATUSES = {
    400: "invalid",
    401: "authentication",
    402: "quota",
    403: "permission",
    404: "model",
    405: "invalid",
    407: "proxy",
    408: "timeout",
    413: "request_too_large",
    415: "invalid",
    422: "invalid",
    429: "rate_limit",
    500: "server",
    502: "server",
    503: "server",
    504: "server",
    529: "server",
}


@pytest.mark.parametrize("provider", REMOTE)
def test_body_without_content_is_classified_by_status(provider):
    for body in ("", "Service says no", "<html><body>no</body></html>", None, {}, [], 7):
        assert {status: kind(provider, status, body) for status in STATUSES} == STATUSES, body


@pytest.mark.parametrize("provider", REMOTE)
def test_unknown_code_is_classified_by_status(provider):
    for status in (500, 502, 503, 504, 408, 429):
        for body in (zhipu("987654"), silicon(987654, "new"), {"code": "New.Code", "message": "new"}):
            assert kind(provider, status, body) in RETRYABLE, (status, body)


@pytest.mark.parametrize(
    ("provider", "status", "message", "limit"),
    [
        ("zhipu", 400, "input数组最大不得超过64条", 64),
        ("zhipu", 400, "input 数组最大不得超过 16 条", 16),
        ("zhipu", 400, "input array max 64", 64),
        ("zhipu", 400, "Input array max 64.", 64),
        ("siliconflow", 413, "input batch size 132 > maximum allowed batch size 64", 64),
        ("siliconflow", 413, "input batch size 33 > maximum allowed batch size 32", 32),
        ("dashscope", 400, "batch size is invalid, it should not be larger than 10.: parameters.texts", 10),
        ("dashscope", 400, "Value error, batch size is invalid, it should not be larger than 25.: input.contents", 25),
        ("dashscope-compatible", 400, ALGO + "Value error, " + BATCH + "input.contents", 10),
        ("gateway", 400, "the input array must not be larger than 2048", 2048),
        ("gateway", 400, "batch size 12 > maximum allowed batch size 8", 8),
    ],
)
def test_item_limit_is_read_in_english_and_chinese(provider, status, message, limit):
    codes = {"zhipu": "1214", "siliconflow": 20042, "gateway": "400"}
    code = codes.get(provider, "InvalidParameter")
    flat = {"code": code, "message": message, "request_id": "r-1"}
    failure = PROVIDERS[provider].classify(status, {"error": flat} if provider in ("zhipu", "gateway") else flat)
    assert (failure.kind, failure.max_items) == ("too_many_items", limit)


@pytest.mark.parametrize("provider", REMOTE)
@pytest.mark.parametrize(
    "message", ["maximum allowed batch size 0", "not be larger than", "input array max many", "64"]
)
def test_message_without_a_sensible_limit_gives_none(provider, message):
    codes = {"zhipu": "1214", "siliconflow": 20042}
    flat = {"code": codes.get(provider, "InvalidParameter"), "message": message, "request_id": "r-1"}
    failure = PROVIDERS[provider].classify(400, {"error": flat} if provider == "zhipu" else flat)
    assert failure.max_items is None


def test_text_length_is_not_an_item_limit():
    for message in (LENGTH, "input must have less than 512 tokens"):
        for provider in REMOTE:
            flat = {"code": "InvalidParameter", "message": message, "request_id": "r-1"}
            assert PROVIDERS[provider].classify(400, {"error": flat}).max_items is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 40_000) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "code", "message", "success", "data", "object", "id"]), inner)
    ),
    max_leaves=10,
)


@settings(max_examples=200)
@given(provider=st.sampled_from(REMOTE), status=st.integers(200, 599), body=JSON)
def test_every_status_other_than_200_is_an_error(provider, status, body):
    failure = PROVIDERS[provider].classify(status, body)
    if failure is None:
        assert status == 200
    else:
        assert failure.kind in ERRORS_BY_KIND
        assert failure.code is None or type(failure.code) is str
        assert failure.message is None or type(failure.message) is str


# ── from a whole answer to a result, and from a result to an error ─────────────────────────────


def interpreted(provider, status, body, **headers):
    answer = HttpResponse(status, headers, body if isinstance(body, bytes) else orjson.dumps(body))
    return interpret_response(answer, config_of(provider), texts=1, dimensions=2), answer


def error(provider, status, body, **headers):
    failure, answer = interpreted(provider, status, body, **headers)
    assert isinstance(failure, ApiFailure)
    return build_error(failure, config_of(provider), answer, indices=(3,), retry_after=None)


LISTS = {provider: orjson.dumps(response_of(provider, [[1.0, 2.0]])) for provider in REMOTE}


@pytest.mark.parametrize("provider", REMOTE)
def test_complete_response_gives_its_vectors(provider):
    validated, _ = interpreted(provider, 200, LISTS[provider])
    assert validated.dense.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("provider", REMOTE)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda _: b"",
        lambda _: b"<!DOCTYPE html><title>maintenance</title>",
        lambda body: body[:-2],
        lambda body: b"\xff\xfe" + body,
        lambda body: body.replace(b"1.0", b"NaN"),
        lambda body: body.replace(b"1.0", b"Infinity"),
        lambda body: body.replace(b"1.0", b"1e999"),
        lambda body: body + body,
        lambda _: b"null",
        lambda _: b"7",
        lambda _: b'"vectors"',
        lambda _: b"[]",
        lambda _: b"{}",
    ],
    ids=["empty", "html", "cut", "bytes", "NaN", "Infinity", "1e999", "twice", "null", "number", "text", "list",
         "object"],
)  # fmt: skip
def test_200_without_vectors_is_malformed_and_quoted(provider, spoil):
    body = spoil(LISTS[provider])
    caught = error(provider, 200, body)
    assert type(caught) is errors.MalformedResponseError
    assert "malformed" in RETRYABLE
    begin = re.findall(r"[a-zA-Z]{4,}|^\d$", body[:60].decode("utf-8", "replace"))
    assert all(word in str(caught).split("API.")[1].split("[provider=")[0] for word in begin)


@pytest.mark.parametrize("provider", REMOTE)
@pytest.mark.parametrize(
    ("once", "twice"),
    [
        (rb'("embedding":)(\[1\.0,2\.0\])', rb"\1[3.0,4.0],\1\2"),
        (rb'("(?:text_)?index":)0', rb"\g<1>1,\g<1>0"),
        (rb"\{", rb'{"data":[],"output":{},'),
        (rb'("embedding")(:\[1\.0,2\.0\])', rb"\1 :[3.0,4.0],\1\2"),
    ],
    ids=["embedding", "index", "data", "a blank before a colon"],
)
def test_response_with_duplicate_keys_is_malformed(provider, once, twice):
    body, count = re.subn(once, twice, LISTS[provider], count=1)
    assert count == 1
    assert getattr(interpreted(provider, 200, body)[0], "kind", None) == "malformed"


def test_gateway_record_without_vectors_is_named():
    record = {
        "id": "emb_abc123",
        "name": "embedding-result",
        "status": "COMPLETED",
        "createTime": "2026-04-10T10:00:00Z",
    }
    words = str(error("gateway", 200, {"success": True, "code": "200", "message": "successful", "data": record}))
    assert "holds no vectors" in words
    assert "emb_abc123" in words
    assert "COMPLETED" in words


@pytest.mark.parametrize("provider", REMOTE)
def test_error_has_status_code_message_and_request_id(provider):
    header = PROVIDERS[provider].request_id_headers[0]
    caught = error(provider, 500, {"message": "oops", "code": "E-1", "error": {"message": "oops", "code": "E-1"}},
                   **{header: "req-7"})  # fmt: skip
    assert type(caught) is errors.ServerError
    assert (caught.provider, caught.model) == (provider, MODELS[provider].partition(":")[2])
    assert (caught.status, caught.code, caught.provider_message, caught.request_id) == (500, "E-1", "oops", "req-7")
    assert caught.indices == (3,)
    for fact in (provider, "500", "E-1", "oops", "req-7"):
        assert fact in str(caught)


@pytest.mark.parametrize("found", sorted(ERRORS_BY_KIND))
@pytest.mark.parametrize("provider", REMOTE)
def test_every_error_kind_has_advice(provider, found):
    answer = TransportFailure("connection", "reset") if found in ("connection", "tls") else HttpResponse(400, {}, b"")
    caught = build_error(ApiFailure(found), config_of(provider), answer, indices=(0,), retry_after=2.5)
    assert isinstance(caught, errors.MultiEmbedError)
    assert len(caught.message) > 30
    assert "{" not in caught.message
    assert caught.retry_after == 2.5


@pytest.mark.parametrize("provider", REMOTE)
@pytest.mark.parametrize("place", ["message", "code", "request_id", "error", "html", "header", "location"])
def test_key_repeated_by_a_server_is_not_shown(provider, place):
    for before in (0, 150, 175, 190, 280, 295):
        echo = "x" * before + KEY
        flat = {"code": "E-1", "message": "no", "request_id": "r-1"}
        body = {
            "message": {**flat, "message": echo, "error": {**flat, "message": echo}},
            "code": {**flat, "code": echo, "error": {**flat, "code": echo}},
            "request_id": {**flat, "request_id": echo, "id": echo, "error": flat},
            "error": {"error": echo},
            "html": f"<p>{echo}</p>".encode(),
        }.get(place, b"")
        headers = {name: echo for name in ("x-request-id", "x-log-id", "x-siliconcloud-trace-id") if place == "header"}
        if place == "location":
            headers = {"location": f"https://host.example/{echo}?key={KEY}"}
        for status in (307,) if place == "location" else (200, 500) if place in ("error", "html") else (500,):
            caught = error(provider, status, body, **headers)
            assert not leaked(f"{caught} {caught!r} {vars(caught)}"), (before, status)


def leaked(words, least=8):
    """The pieces of the key that stand in the words."""
    return [KEY[start : start + least] for start in range(len(KEY) - least + 1) if KEY[start : start + least] in words]


# ── the tree of errors ───────────────────────────────────────────────────────────────────────────

TREE = {
    "ConfigurationError": "MultiEmbedError",
    "APIError": "MultiEmbedError",
    "AuthenticationError": "APIError",
    "PermissionDeniedError": "APIError",
    "QuotaExhaustedError": "APIError",
    "RateLimitError": "APIError",
    "InvalidRequestError": "APIError",
    "ModelNotFoundError": "APIError",
    "InputTooLongError": "APIError",
    "ContentRejectedError": "APIError",
    "ServerError": "APIError",
    "MalformedResponseError": "MultiEmbedError",
    "ConnectionFailedError": "MultiEmbedError",
    "RequestTimeoutError": "MultiEmbedError",
    "DeadlineExceededError": "MultiEmbedError",
    "PartialFailureError": "MultiEmbedError",
}


@pytest.mark.parametrize("name", TREE)
def test_error_class_has_its_base_and_pickles(name):
    kind_of = getattr(multiembed, name)
    assert getattr(multiembed, TREE[name]) in kind_of.__bases__
    assert not issubclass(kind_of, RuntimeError)
    assert issubclass(kind_of, ValueError) == (name == "ConfigurationError")
    told = {"provider": "p", "model": "m", "status": 400, "code": "c", "provider_message": "no", "request_id": "r",
            "retry_after": 1.5, "indices": (1, 2)}  # fmt: skip
    before = kind_of("what and why", **told)
    after = pickle.loads(pickle.dumps(before))
    assert type(after) is kind_of
    assert str(after) == str(before)
    assert {fact: getattr(after, fact) for fact in told} == told
    assert all(
        str(fact) in str(after) for fact in chain(["what and why"], told.values()) if not isinstance(fact, tuple)
    )
