"""Error messages of servers: what they mean and how they are shown, over real sockets."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.error_responses import config_of, connected, error_from, error_of_response
from support.in_turn import in_turn
from support.providers import REMOTE, response_of
from support.scripted_server import Reply, openai_reply, scripted, vector_of

from multiembed import PartialFailureError, errors
from multiembed.batching.token_count import estimate_tokens
from multiembed.providers import PROVIDERS
from multiembed.providers.error_message import reports_no_money, size_failure
from multiembed.providers.types import ApiFailure
from multiembed.responses.error_policy import ERRORS_BY_KIND
from multiembed.responses.interpret import interpret_response
from multiembed.transport.types import HttpResponse


def served(provider, request):
    return Reply(response_of(provider, [vector_of(text) for text in request.texts], request.body["model"]))


# ── one text is too long ─────────────────────────────────────────────────────────────────────

LIMIT = 60
LONG = "The quality of the clothes is excellent, and it was well worth the long wait, too."
TEXTS = ["short one", LONG, "short two"]

CONTEXT = "This model's maximum context length is 512 tokens"
TOO_LONG_RESPONSES = {
    "openai": (400, {"error": {"message": CONTEXT, "type": "invalid_request_error", "param": None, "code": None}}),
    "ollama": (500, {"error": "the input length exceeds the context length"}),
    "one-api": (
        400,
        {
            "error": {
                "message": "<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 8192] "
                "(request id: 2026112800000000)",
                "type": "one_api_error",
                "param": "",
                "code": "InvalidParameter",
            }
        },
    ),
    "code": (400, {"error": {"message": "no", "type": "invalid_request_error", "code": "context_length_exceeded"}}),
}


def refusing_long_texts(provider, status, body):
    def answer(request):
        too_long = any(len(text) > LIMIT for text in request.texts)
        return Reply(body, status) if too_long else served(provider, request)

    return scripted(answer)


def accepted(server):
    """The texts of all requests that were not refused."""
    return [text for request in server.requests if max(map(len, request.texts)) <= LIMIT for text in request.texts]


@pytest.mark.parametrize(("wording", "provider", "entry_point"), in_turn(TOO_LONG_RESPONSES, REMOTE))
def test_long_text_without_option_fails_alone(provider, wording, entry_point):
    with (
        refusing_long_texts(provider, *TOO_LONG_RESPONSES[wording]) as server,
        connected(provider, server) as client,
        pytest.raises(PartialFailureError) as raised,
    ):
        entry_point(client, TEXTS)
    assert {index: type(error) for index, error in raised.value.failures.items()} == {1: errors.InputTooLongError}
    assert raised.value.failures[1].status == TOO_LONG_RESPONSES[wording][0]
    rows = raised.value.result.vectors
    np.testing.assert_array_equal(rows[[0, 2]], np.array([vector_of(TEXTS[0]), vector_of(TEXTS[2])], np.float32))
    assert sorted(accepted(server)) == ["short one", "short two"]


@pytest.mark.parametrize(("wording", "provider", "entry_point"), in_turn(TOO_LONG_RESPONSES, REMOTE))
def test_long_text_with_truncate_is_cut_to_fit(provider, wording, entry_point):
    with (
        refusing_long_texts(provider, *TOO_LONG_RESPONSES[wording]) as server,
        connected(provider, server, on_too_long="truncate") as client,
    ):
        result = entry_point(client, TEXTS)
    (cut,) = set(accepted(server)) - {"short one", "short two"}
    assert LONG.startswith(cut)
    assert LIMIT / 2 < len(cut) <= LIMIT
    expected = [vector_of(text) for text in ("short one", cut, "short two")]
    np.testing.assert_array_equal(result.vectors, np.array(expected, np.float32))


@pytest.mark.parametrize(("wording", "provider", "entry_point"), in_turn(TOO_LONG_RESPONSES, REMOTE))
def test_long_text_with_split_gets_mean_of_pieces(provider, wording, entry_point):
    with (
        refusing_long_texts(provider, *TOO_LONG_RESPONSES[wording]) as server,
        connected(provider, server, on_too_long="split") as client,
    ):
        result = entry_point(client, TEXTS)
    pieces = [text for text in accepted(server) if text not in ("short one", "short two")]
    assert sorted("".join(pieces)) == sorted(LONG)
    mean = np.average([vector_of(piece) for piece in pieces], axis=0, weights=[estimate_tokens(p) for p in pieces])
    np.testing.assert_allclose(result.vectors[1], mean / np.linalg.norm(mean), atol=1e-6)
    np.testing.assert_array_equal(result.vectors[0], np.array(vector_of("short one"), np.float32))


# Messages and their sources (read 2026-11-28):
#
# OpenAI, Azure: "This model's maximum context length is 8192 tokens, however you requested 51435 tokens",
#   "Invalid 'input[0]': maximum input length is 8192 tokens." (sbintuitions/JMTEB#15, neo4j-labs/agent-memory#104)
# vLLM: "… Please reduce the length of the input." (vllm-project/vllm#19798), "longer than the maximum model length of
#   4096" (hiyouga/LlamaFactory#7723)
# DashScope, also behind one-api: "Range of input length should be [1, 8192]" (QwenLM/qwen-code#98)
# TEI, also behind SiliconFlow (20042): "`inputs` must have less than 512 tokens. Given: 534", "… characters"
#   (huggingface/text-embeddings-inference, core/src/tokenization.rs, #356, #394)
# llama.cpp, LM Studio: "input (8129 tokens) is too large to process. increase the physical batch size (current batch
#   size: 1024)" (volcengine/OpenViking#731), "input (1682 tokens) is larger than the max context size (1024 tokens)",
#   "request (66000 tokens) exceeds the available context size (65536 tokens)" (tools/server/server-context.cpp)
# Ollama, status 400 or 500: "the input length exceeds the context length" (lfnovo/open-notebook#350), "input length
#   exceeds maximum context length" (n8n-io/n8n#11144)
# gpustack: "prefill 744 tokens exceed n_ctx_per_seq" (gpustack/gpustack#1845)
# SGLang: "The input (516368 tokens) is longer than the model's context length (262144 tokens)."
# Volcengine: "Input length of input_ids is `4498` and exceed max_sequence_length: `4096`!"
#   (AsyncFuncAI/deepwiki-open#59)
# Mistral: "Prompt contains 66385 tokens, too large for model with 32768 maximum context length"
# NVIDIA NIM: "Input length 678 exceeds maximum allowed token size 512"; Jina: "Single text cannot exceed 8194 tokens";
# Bedrock: "Too many input tokens. Max input tokens: 8192, request input token count: 9000"; Vertex: "the input token
#   count (3000) exceeds the maximum number of tokens allowed (2048)"
# Infinity (pydantic, 422): "String should have at most 122880 characters"
# Zhipu 1261 and others in Chinese: "输入长度超过模型最大长度", "Prompt 超长", "tokens 数量超限"
TOO_LONG = [
    (CONTEXT, 512),
    (CONTEXT + ". However, you requested 1451 tokens in the input for embedding generation. Please reduce it.", 512),
    ("This model's maximum context length is 8192 tokens, however you requested 51435 tokens.", 8192),
    ("Invalid 'input[0]': maximum input length is 8192 tokens.", 8192),
    ("Range of input length should be [1, 8192]", 8192),
    ("Input validation error: `inputs` must have less than 512 tokens. Given: 1024", 512),
    ("Input validation error: `inputs` must have less than 32000 characters. Given: 67337", None),
    ("input must have less than 8192 tokens", 8192),
    ("the input length exceeds the context length", None),
    ("input exceeds maximum context length", None),
    ("input is too large to process. increase the physical batch size", None),
    ("input (8129 tokens) is too large to process. increase the physical batch size (current batch size: 1024)", 1024),
    ("input (1682 tokens) is larger than the max context size (1024 tokens). skipping", 1024),
    ("request (66000 tokens) exceeds the available context size (65536 tokens), try increasing it", 65536),
    ("Illegal param: prefill 744 tokens exceed n_ctx_per_seq, try increasing total context size", None),
    ("The input (516368 tokens) is longer than the model's context length (262144 tokens).", 262144),
    ("Prompt length of 5016 is longer than the maximum model length of 4096.", 4096),
    ("Input length of input_ids is `4498` and exceed max_sequence_length: `4096`! Request id: 0217", 4096),
    ("Prompt contains 66385 tokens, too large for model with 32768 maximum context length", 32768),
    ("Input length 678 exceeds maximum allowed token size 512", 512),
    ("Single text cannot exceed 8194 tokens. 9000 tokens given.", 8194),
    ("The input token count (3000) exceeds the maximum number of tokens allowed (2048).", 2048),
    ("body.input.0: String should have at most 122880 characters", None),
    ("input length should not be larger than 8192", None),
    ("litellm.BadRequestError: OpenAIException - {\"error\":{\"message\":\"" + CONTEXT + "\"}}", 512),
    ("输入长度超过模型最大长度", None),
    ("输入文本超过最大长度限制", None),
    ("tokens 数量超限", None),
    ("Prompt 超长", None),
    ("单条输入最多支持 3072 个 Tokens", 3072),
    ("数组中单条输入最多支持 3072 个 Tokens", 3072),
]  # fmt: skip


@pytest.mark.parametrize(("words", "tokens"), TOO_LONG)
def test_words_for_long_text_mean_it_at_every_provider(words, tokens):
    bodies = ({"error": {"message": words}}, {"code": "x", "message": words}, {"detail": words}, words)
    for provider, status, body in product(REMOTE, (400, 413, 422, 500), bodies):
        failure = PROVIDERS[provider].classify(status, body)
        assert (failure.kind, failure.token_limit, failure.max_items) == ("too_long", tokens, None), (
            provider,
            status,
            body,
        )


# Messages and their sources (read 2026-11-28):
#
# DashScope: "batch size is invalid, it should not be larger than 10." (memodb-io/memobase#142)
# TEI, also behind SiliconFlow: "batch size 132 > maximum allowed batch size 64"
# Zhipu 1214: "input数组最大不得超过64条", "input array max 64"
# Azure: "Too many inputs. The max number of inputs is 16." (langchain-ai/langchain#4575)
# OpenAI: "Invalid 'input': array too long. Expected an array with maximum length 2048, but got an array with length
#   3000 instead.", "'$.input' is invalid … array length must be 2048 or less" (topoteretes/cognee#4954)
# Infinity and other FastAPI servers: "List should have at most 2048 items after validation, not 3000"
# Cohere: "total number of texts must be at most 96"; Gemini: "at most 100 requests can be in one batch"
TOO_MANY = [
    ("batch size is invalid, it should not be larger than 10.: input.contents", 10),
    ("input batch size 132 > maximum allowed batch size 64", 64),
    ("input数组最大不得超过64条", 64),
    ("Too many inputs. The max number of inputs is 16.  We hope to increase it soon.", 16),
    ("Invalid 'input': array too long. Expected an array with maximum length 2048, but got an array with length 3000.",
     2048),
    ("'$.input' is invalid. array length must be 2048 or less", 2048),
    ("List should have at most 2,048 items after validation, not 3000", 2048),
    ("invalid request: total number of texts must be at most 96. number of texts: 100", 96),
    ("at most 100 requests can be in one batch", 100),
    ("批次大小不能超过10", 10),
    ("batch size should not be larger than 0", None),
    ("batch size should not be larger than 4294967295", None),
    ("batch size should not be larger than " + "9" * 5000, None),
    ("too many texts", None),
]  # fmt: skip


@pytest.mark.parametrize(("words", "limit"), TOO_MANY, ids=lambda value: str(value)[:40])
def test_words_for_many_texts_name_a_sensible_cap(words, limit):
    bodies = ({"error": {"message": words}}, {"code": "x", "message": words}, {"detail": [{"msg": words}]})
    for provider, body in product(REMOTE, bodies):
        failure = PROVIDERS[provider].classify(400, body)
        assert (failure.kind, failure.max_items, failure.token_limit) == ("too_many_items", limit, None)


# Messages and their sources (read 2026-11-28):
#
# OpenAI: "Requested 673477 tokens, max 300000 tokens per request" (langchain-ai/langchain#33668), "Invalid 'input':
#   maximum request size is 300000 tokens per request."
# Mistral: "Too many tokens in batch. Max is 16384 got 17555" (aurelio-labs/semantic-router#297), "Too many tokens
#   overall, split into more batches"; Voyage: "The max allowed tokens per submitted batch is 120000."
# Zhipu: "数组总长度不得超过8K"; DashScope: "Exceeded limit on max bytes per request body"
@pytest.mark.parametrize(
    "words",
    [
        "Requested 673477 tokens, max 300000 tokens per request",
        "Invalid 'input': maximum request size is 300000 tokens per request.",
        "Too many tokens in batch. Max is 16384 got 17555",
        "The max allowed tokens per submitted batch is 120000. Your batch has 121138 tokens after truncation.",
        "数组总长度不得超过8K",
        "Exceeded limit on max bytes per request body : 6291456",
        "413 Request Entity Too Large",
    ],
)
@pytest.mark.parametrize("status", [400, 413])
def test_words_for_large_request_mean_all_texts_together(status, words):
    for provider in REMOTE:
        failure = PROVIDERS[provider].classify(status, {"error": {"message": words}})
        assert failure.kind in ("request_too_large", "too_long" if provider == "siliconflow" else "")
        assert (failure.max_items, failure.token_limit) == (None, None)


@pytest.mark.parametrize(
    "words",
    [
        "dimension should not be larger than 2048",
        "should not be larger than 5",
        "temperature must not be larger than 2",
        "timeout exceeded",
        "context deadline exceeded",
        "input cannot be empty",
        "input length must be greater than 0",
        "Rate limit reached on tokens per min (TPM): Limit 1000000, Used 999999. Please try again in 5ms.",
        f'Invalid value: "{CONTEXT}, and batch size should not be larger than 1"',
        f"cannot parse “{CONTEXT}, and the input length exceeds the context length”",
        f"Unsupported input 'my notes say: {CONTEXT}' at position 3",
        f'Invalid value: "batch size should not be larger than 1, {CONTEXT} ' + "and so on " * 200,
    ],
)
def test_words_about_something_else_leave_invalid_alone(words):
    assert size_failure(words) is None
    for provider in REMOTE:
        failure = PROVIDERS[provider].classify(400, {"error": {"message": words}})
        assert (failure.kind, failure.max_items, failure.token_limit) == ("invalid", None, None)


def test_texts_repeated_by_a_server_are_not_its_words():
    entry = {"type": "missing", "loc": ["body", "model"], "msg": "Field required", "input": {"input": [CONTEXT]}}
    for provider in REMOTE:
        for body in ({"detail": [entry]}, {"ok": 0, "input": CONTEXT}, {"ok": 0, "request": {"texts": [CONTEXT]}}):
            failure = PROVIDERS[provider].classify(422, body)
            assert failure.kind == "invalid"
            assert CONTEXT not in (failure.message or "")


def test_full_queue_of_a_failed_server_is_not_a_long_text():
    for provider in REMOTE:
        words = {"error": {"message": "the input queue exceeds its maximum, try again later"}}
        assert PROVIDERS[provider].classify(500, words).kind == "server"


def test_413_is_not_a_rate_limit_whatever_its_code():
    words = "Request too large for model `m` on tokens per minute (TPM): Limit 12000, Requested 15318"
    body = {"error": {"message": words, "type": "tokens", "code": "rate_limit_exceeded"}}
    assert PROVIDERS["gateway"].classify(413, body).kind == "request_too_large"
    assert PROVIDERS["gateway"].classify(429, body).kind == "rate_limit"


@pytest.mark.parametrize("status", [401, 403, 404, 429, 502, 503])
def test_words_for_long_text_do_not_change_other_statuses(status):
    plain = {provider: PROVIDERS[provider].classify(status, "no").kind for provider in REMOTE}
    for provider in REMOTE:
        failure = PROVIDERS[provider].classify(status, {"error": {"message": CONTEXT}})
        assert (failure.kind, failure.max_items, failure.token_limit) == (plain[provider], None, None)


def test_dimension_refusal_does_not_shrink_the_next_request(entry_point):
    texts = [f"text {number}" for number in range(8)]
    answers = [Reply({"error": {"message": "dimension should not be larger than 2"}}, 400)]

    def answer(request):
        return answers.pop() if answers else openai_reply(request)

    with scripted(answer) as server, connected("gateway", server) as client:
        entry_point(client, texts)
        server.requests.clear()
        entry_point(client, [f"other {text}" for text in texts])
        assert [len(request.texts) for request in server.requests] == [8]


def test_cap_of_thousands_of_digits_costs_no_paid_text(entry_point):
    texts = [f"text {number}" for number in range(8)]
    words = "batch size is invalid, it should not be larger than " + "9" * 5000

    def answer(request):
        return Reply({"message": words}, 400) if len(request.texts) > 3 else openai_reply(request)

    with scripted(answer) as server, connected("gateway", server) as client:
        result = entry_point(client, texts)
    np.testing.assert_array_equal(result.vectors, np.array([vector_of(text) for text in texts], np.float32))


# ── messages in any envelope ───────────────────────────────────────────────────────────────

WORDS = "that is not allowed on a Sunday"
ENVELOPES = {
    "openai": {"error": {"message": WORDS, "type": "x", "code": None}},
    "error-text": {"error": WORDS},
    "flat": {"code": "E7", "message": WORDS},
    "msg": {"code": 401, "msg": WORDS},
    "detail": {"detail": WORDS},
    "detail-list": {"detail": [{"loc": ["body", "input"], "msg": WORDS, "type": "value_error", "input": "my text"}]},
    "detail-object": {"detail": {"error": WORDS}},
    "message-object": {"message": {"text": "", "message": WORDS}},
    "errors": {"errors": [{"code": "E7", "message": WORDS}]},
    "errors-texts": {"errors": [WORDS]},
    "error-msg": {"error_code": 17, "error_msg": WORDS},
    "camel": {"errorCode": "E7", "errorMessage": WORDS},
    "problem": {"type": "about:blank", "title": "Forbidden", "status": 400, "detail": WORDS},
    "nested-json": {"error": {"message": json.dumps({"error": {"message": WORDS}})}},
    "capitals": {"Code": "E7", "Message": WORDS},
    "volcengine": {"ResponseMetadata": {"Error": {"Code": "E7", "Message": WORDS}}},
    "list": [{"error": {"code": 400, "message": WORDS}}],
    "bare-text": WORDS,
    "bare-list": [WORDS],
    "unknown": {"complaint": {"in": ["plain", WORDS]}},
}
BODIES = {
    **{name: json.dumps(body).encode() for name, body in ENVELOPES.items()},
    "plain": f"{WORDS}\n".encode(),
    "html": f"<!DOCTYPE html><html><head><style>p {{}}</style><title>{WORDS}</title></head></html>".encode(),
    "xml": f"<?xml version='1.0'?><Error><Code>E7</Code><Message>{WORDS}</Message></Error>".encode(),
    "surrogate": b'{"error": {"message": "\\ud800 ' + WORDS.encode() + b'"}}',
    "byte": b'{"error": {"message": "\xff ' + WORDS.encode() + b'"}}',
    "broken": b'{"error": {"message": "' + WORDS.encode(),
}
CLASSES = {
    400: errors.InvalidRequestError,
    401: errors.AuthenticationError,
    402: errors.QuotaExhaustedError,
    403: errors.PermissionDeniedError,
    404: errors.ModelNotFoundError,
    429: errors.RateLimitError,
    500: errors.ServerError,
}


@pytest.mark.parametrize("envelope", BODIES)
def test_refusal_in_any_envelope_keeps_its_words(envelope, entry_point):
    turn = list(BODIES).index(envelope)
    caught, _ = error_from(REMOTE[turn % len(REMOTE)], entry_point, Reply(BODIES[envelope], 403))
    for error in (caught, *(error_of_response(provider, 403, BODIES[envelope]) for provider in REMOTE)):
        assert type(error) is errors.PermissionDeniedError, error.provider
        assert WORDS in error.provider_message, error.provider
        assert WORDS in str(error), error.provider
        assert "my text" not in str(error), error.provider


@pytest.mark.parametrize("envelope", sorted(BODIES.keys() - {"msg"}))  # whose own code says 401
def test_status_decides_the_error_in_any_envelope(envelope):
    for provider, status in product(REMOTE, CLASSES):
        assert type(error_of_response(provider, status, BODIES[envelope])) is CLASSES[status], (provider, status)


@pytest.mark.parametrize(("status", "provider", "entry_point"), in_turn([200, 400, 401, 500], REMOTE))
def test_code_401_in_body_is_authentication_at_once(status, provider, entry_point):
    code = 401 if status in (200, 401) else "401"
    for other in (401, "401"):
        body = json.dumps({"code": other, "msg": "token expired"}).encode()
        assert type(error_of_response(provider, status, body)) is errors.AuthenticationError
    caught, server = error_from(provider, entry_point, Reply({"code": code, "msg": "token expired"}, status))
    assert type(caught) is errors.AuthenticationError
    assert (caught.code, caught.provider_message) == ("401", "token expired")
    assert len(server.requests) == 1


def test_words_of_unknown_form_are_the_first_300_characters():
    body = json.dumps({"complaint": ["x" * 100] * 9}).encode()
    assert error_of_response("gateway", 400, body).provider_message == body[:300].decode()


def test_body_without_words_gives_no_provider_message():
    for body in (b"", b"{}", b"[]", b"null", b'""'):
        assert error_of_response("gateway", 400, body).provider_message is None


# ── money ───────────────────────────────────────────────────────────────────────────────────


def openai_error(message, code=None, kind="x"):
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


# Messages and their sources (read 2026-11-28):
#
# one-api, new-api: "user quota is not enough" (songquanpeng/one-api#1270), "user [3446] quota [-20847155]
#   preConsumedQuota [743]is not enough" (#1846), "token quota is not enough, token remain quota: $0.1", "chat
#   pre-consumed quota failed, user quota: 13810, need quota: 15000", "用户额度不足, 剩余额度: …"
#   (QuantumNous/new-api#6929), "该令牌额度已用尽" (401), "令牌额度不足"
# OpenRouter 402: "Insufficient credits", "This request requires more credits"; DeepSeek 402: "Insufficient Balance"
# LiteLLM 400 or 429: "Budget has been exceeded! Current cost: …" (BerriAI/litellm#22726), "ExceededBudget: …"
# Anthropic: "Your credit balance is too low"; OpenAI: "You exceeded your current quota", "Billing hard limit has been
#   reached"; Volcengine: "… has an overdue balance", "has exhausted its free trial quota", "has reached the set
#   inference limit"; DashScope: "Free allocated quota exceeded."; Zhipu 1113: "余额不足或无可用资源包,请充值。"
MONEY = {
    "one-api": (403, openai_error("user quota is not enough", "insufficient_user_quota", "one_api_error")),
    "one-api-429": (429, openai_error("用户额度不足", "insufficient_user_quota", "one_api_error")),
    "one-api-token": (403, openai_error("token quota is not enough", "pre_consume_token_quota_failed")),
    "one-api-words": (403, openai_error("user [3446] quota [-208]preConsumedQuota [743]is not enough")),
    "one-api-401": (401, openai_error("该令牌额度已用尽 (request id: 1)", None, "one_api_error")),
    "new-api-words": (403, openai_error("用户额度不足, 剩余额度: ＄-0.000002", None, "new_api_error")),
    "openrouter": (402, openai_error("Insufficient credits. Add more using https://openrouter.ai/credits", 402)),
    "openrouter-key": (403, openai_error("Key limit exceeded (total limit).", 403)),
    "litellm": (400, openai_error("Budget has been exceeded! Max budget: 0.2", "400", "budget_exceeded")),
    "litellm-429": (429, openai_error("ExceededBudget: End User=me over budget. Spend=0.2, Budget=0.1", "429")),
    "litellm-words": (400, openai_error("Budget has been exceeded! Current cost: 26.0", "400", "None")),
    "openai": (429, openai_error("You exceeded your current quota, please check your plan", "insufficient_quota")),
    "openai-words": (429, openai_error("You exceeded your current quota, please check your plan")),
    "openai-limit": (400, openai_error("Billing hard limit has been reached", "billing_hard_limit_reached")),
    "deepseek": (402, openai_error("Insufficient Balance", "invalid_request_error")),
    "volcengine": (403, openai_error("The request failed because of an overdue balance.", "AccountOverdueError")),
    "dashscope-behind": (400, openai_error("Access denied, not in good standing.", "Arrearage")),
    "dashscope-free": (403, openai_error("Free allocated quota exceeded.", "Throttling.AllocationQuota")),
    "zhipu-behind": (429, openai_error("余额不足或无可用资源包,请充值。", "1113")),
}  # fmt: skip
NOT_MONEY = {
    "dashscope-tpm": (429, openai_error("Allocated quota exceeded.", "Throttling.AllocationQuota"), "rate_limit"),
    "dashscope-quota": (
        429,
        openai_error(
            "You exceeded your current quota. See https://help.aliyun.com/zh/model-studio/error-code#token-limit",
            "insufficient_quota",
        ),
        "rate_limit",
    ),
    "openai-rpm": (429, openai_error("Rate limit reached on requests per min. Add a payment method."), "rate_limit"),
    "openrouter-free": (
        429,
        openai_error("Rate limit exceeded: free-models-per-day. Insufficient credits for more", 429),
        "rate_limit",
    ),
    "permission": (403, openai_error("You may not use this model"), "permission"),
    "echo": (400, openai_error('cannot parse "余额不足, insufficient balance, budget has been exceeded"'), "invalid"),
}


@pytest.mark.parametrize("wording", MONEY)
def test_money_is_quota_exhausted_after_one_request(wording, entry_point):
    status, body = MONEY[wording]
    caught, server = error_from("gateway", entry_point, Reply(body, status))
    assert type(caught) is errors.QuotaExhaustedError
    assert caught.provider_message == body["error"]["message"]
    assert len(server.requests) == 1


@pytest.mark.parametrize("wording", NOT_MONEY)
def test_other_quotas_are_not_money(wording):
    status, body, expected = NOT_MONEY[wording]
    assert PROVIDERS["gateway"].classify(status, body).kind == expected


def test_dashscope_quota_code_stays_a_rate_limit():
    words = "You exceeded your current quota, please check your plan and billing details."
    for provider in ("dashscope", "dashscope-compatible"):
        body = {"code": "insufficient_quota", "message": words, "request_id": "r"}
        assert PROVIDERS[provider].classify(429, body).kind == "rate_limit"
        assert PROVIDERS[provider].classify(429, {"error": body}).kind == "rate_limit"


@pytest.mark.parametrize("provider", REMOTE)
def test_plain_money_words_are_money_at_every_provider(provider):
    for status, words in ((402, "no"), (403, "Insufficient Balance"), (429, "账户余额不足"), (401, "您的账户已欠费")):
        assert PROVIDERS[provider].classify(status, {"message": words}).kind == "quota"
    assert not reports_no_money("Requests rate limit exceeded, please try again later.")


# ── any body is classified ─────────────────────────────────────────────────────

NUMBERS = st.integers() | st.floats()
NAMES = st.sampled_from(
    ["error", "errors", "code", "message", "msg", "detail", "success", "data", "object", "id", "loc", "embedding",
     "index", "output", "embeddings", "usage", "total_tokens", "request_id", "type", "title", "status"]
)  # fmt: skip
TEXT = st.text(max_size=20) | st.sampled_from(
    ["²", "１２", "401", "9" * 5000, "[" * 2000, '{"a":', CONTEXT, "<html", "\ud800"]
)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | TEXT, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200)
@given(provider=st.sampled_from(REMOTE), status=st.integers(100, 999), body=ANY_JSON)
@example(provider="gateway", status=200, body={"code": "²"})
@example(provider="gateway", status=200, body={"code": "１２"})
def test_classification_of_any_body_never_raises(provider, status, body):
    failure = PROVIDERS[provider].classify(status, body)
    assert failure is None or failure.kind in ERRORS_BY_KIND
    assert status == 200 or failure is not None


@pytest.mark.parametrize("provider", REMOTE)
@pytest.mark.parametrize(
    "number", [10**5000, float("inf"), float("nan"), -1, True], ids=["huge", "inf", "nan", "minus", "true"]
)
def test_classification_of_any_number_never_raises(provider, number):
    for body in ({"code": number}, {"error": {"code": number, "message": number}}, [number], number):
        for status in (200, 400, 500):
            failure = PROVIDERS[provider].classify(status, body)
            assert failure is None or failure.kind in ERRORS_BY_KIND


RAW_BODIES = [
    b'{"a\\":b":' + b"[" * 1000 + b"1" + b"]" * 1000 + b"}",
    b"[" * 100_000,
    b'{"error":' * 1000 + b"1" + b"}" * 1000,
    b'{"error":{"code":' + b"9" * 5000 + b"}}",
    b'{"code":"\xc2\xb2"}',
    b'{"data":[{"index":' + b"9" * 5000 + b',"embedding":[1]}]}',
    b'{"message":"should not be larger than ' + b"9" * 5000 + b'"}',
    b"\xef\xbb\xbf{}",
    b"\xff\xfe",
]


@settings(max_examples=200)
@given(
    provider=st.sampled_from(REMOTE),
    status=st.integers(200, 599),
    body=st.sampled_from(RAW_BODIES) | st.binary(max_size=60),
)
def test_interpretation_of_any_bytes_never_raises(provider, status, body):
    result = interpret_response(HttpResponse(status, {}, body), config_of(provider), texts=1, dimensions=2)
    assert isinstance(result, ApiFailure)
    assert result.kind in ERRORS_BY_KIND


@pytest.mark.parametrize("body", RAW_BODIES, ids=range(len(RAW_BODIES)))
@pytest.mark.parametrize("status", [200, 400])
def test_strange_body_fails_its_own_batch_only(body, status, entry_point):
    texts = [f"text {number}" for number in range(4)]

    def answer(request):
        return Reply(body, status) if "text 3" in request.texts else openai_reply(request)

    with scripted(answer) as server:
        options = {"limits": {"max_items": 1}, "max_retries": 0, "max_concurrency": 1}
        with connected("gateway", server, **options) as client, pytest.raises(PartialFailureError) as raised:
            entry_point(client, texts)
    assert list(raised.value.failures) == [3]
    expected = np.array([vector_of(text) for text in texts[:3]], np.float32)
    np.testing.assert_array_equal(raised.value.result.vectors[:3], expected)


def test_classifier_that_raises_leaves_the_status(monkeypatch):
    def broken(*_):
        raise RecursionError

    config = config_of("gateway")
    object.__setattr__(
        config, "provider", PROVIDERS["gateway"].__class__(**{**vars(config.provider), "classify": broken})
    )
    result = interpret_response(HttpResponse(401, {}, b'{"why":"no"}'), config, texts=1, dimensions=2)
    assert (result.kind, result.message) == ("authentication", '{"why":"no"}')
    assert interpret_response(HttpResponse(200, {}, b'{"why":"no"}'), config, texts=1, dimensions=2).kind == "malformed"
