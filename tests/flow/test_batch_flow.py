"""Flow of one batch, driven by hand: no network, no threads, and a fake clock."""

from __future__ import annotations

import math

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.flow_driver import (
    BROKEN,
    BUSY,
    DOWN,
    KEY,
    LATE,
    SIZE,
    FlowDriver,
    always,
    assert_whole,
    good,
    refuse,
    reply,
    rows_of,
)

from multiembed import errors
from multiembed.flow.batch import batch_flow
from multiembed.flow.context import Batch, SendRequest, Sleep
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.transport.types import HttpResponse, TransportFailure

pytestmark = pytest.mark.unit


def short(texts):
    """One vector too few."""
    return reply(200, {"data": [{"index": index, "embedding": [1.0] * SIZE} for index in range(len(texts) - 1)]})


BAD_KEY = refuse(401, "invalid_api_key", "wrong key")


def the_error(outcome, count):
    """The one error that all texts share."""
    assert sorted(outcome.failures) == list(range(count))
    assert outcome.accepted == []
    [error] = set(outcome.failures.values())
    return error


# ── success ───────────────────────────────────────────────────────────────────────────────────────


def test_good_response_takes_one_request_and_no_delay():
    driver = FlowDriver()
    outcome = driver.run(["a", "b", "c"], good)
    assert_whole(outcome, ["a", "b", "c"])
    assert (driver.sent, driver.waits) == ([["a", "b", "c"]], [])
    assert (outcome.requests, outcome.retries, outcome.total_tokens) == (1, 0, 3)


def test_request_key_is_in_the_header_and_in_no_repr():
    driver = FlowDriver()
    driver.run(["a text that is private"], good)
    [request] = driver.requests
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    step = SendRequest(request, driver.limiter.permit(driver.account_limits))
    for shown in (repr(request), str(request), repr(step), repr(driver.context), repr(driver.context.config)):
        assert KEY not in shown
    assert "private" not in repr(request)


def test_local_provider_sends_nothing():
    driver = FlowDriver(model="local:char-ngrams", options={"base_url": None, "dimensions": 16})
    outcome = driver.run(["a", "b"], [])
    assert sorted(rows_of(outcome, ["a", "b"], 16)) == [0, 1]
    assert (driver.sent, outcome.requests, outcome.total_tokens) == ([], 0, 0)


@pytest.mark.parametrize(
    ("model", "dimensions", "texts"), [("siliconflow:Qwen/Qwen3-Embedding-8B", 4096, 32), ("gateway:m", None, 10)]
)
def test_response_cap_allows_the_largest_valid_response(model, dimensions, texts):
    driver = FlowDriver(model=model, options={"dimensions": dimensions})
    driver.run(["x"] * texts, BAD_KEY)
    longest_number = len("-0.00012345678901234567")
    size = dimensions or 4096
    assert driver.requests[0].max_reply_bytes > 2 * texts * size * longest_number
    assert driver.requests[0].max_reply_bytes < 200e6


# ── transient failures ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("failure", [BUSY, DOWN, BROKEN, LATE, short, always(reply(200, b""))])
def test_transient_failure_is_retried(failure):
    driver, texts = FlowDriver(), ["a", "b"]
    outcome = driver.run(texts, [failure, failure, good])
    assert_whole(outcome, texts)
    assert driver.waits == [0.25, 0.5]  # half of 0.5 and of 1: rng is 0.5
    assert (outcome.requests, outcome.retries, outcome.total_tokens) == (3, 2, 2)


@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (BUSY, errors.RateLimitError),
        (DOWN, errors.ServerError),
        (BROKEN, errors.ConnectionFailedError),
        (LATE, errors.RequestTimeoutError),
        (short, errors.MalformedResponseError),
        (always(reply(200, b"")), errors.MalformedResponseError),
        (always(reply(500, b"")), errors.ServerError),
        (always(reply(408, b"")), errors.RequestTimeoutError),
    ],
)
@pytest.mark.parametrize("max_retries", [0, 1, 4])
def test_transient_failure_raises_after_max_retries(failure, error, max_retries):
    driver = FlowDriver(max_retries=max_retries)
    outcome = driver.run(["a", "b"], failure)
    caught = the_error(outcome, 2)
    assert type(caught) is error
    assert (caught.provider, caught.model, caught.indices) == ("gateway", "m", (0, 1))
    assert len(driver.sent) == outcome.requests == 1 + max_retries
    assert outcome.retries == len(driver.waits) == max_retries
    # an account that never answered will not answer the other batches
    assert driver.context.state.fatal_error is caught


@pytest.mark.parametrize(
    ("asked", "waited"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after-ms": "7500"}, 7.5),
        ({"retry-after": "3600"}, 120.0),
        ({"retry-after": "1e9"}, 0.25),
        ({"retry-after": "0"}, 0.25),
        ({"retry-after": "-3"}, 0.25),
        ({"retry-after": "tomorrow"}, 0.25),
        ({}, 0.25),
    ],
)
def test_retry_after_extends_the_backoff_up_to_a_cap(asked, waited):
    driver = FlowDriver()
    assert_whole(driver.run(["a"], [refuse(429, "x", "slow down", **asked), good]), ["a"])
    assert driver.waits == [waited]


def test_retry_after_date_uses_the_wall_clock():
    driver = FlowDriver(now=0.0)
    assert_whole(
        driver.run(["a"], [always(reply(503, b"", **{"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"})), good]), ["a"]
    )
    assert driver.waits == [30.0]


# ── permanent failures ───────────────────────────────────────────────────────────────────────────

FATAL = {
    "key": (BAD_KEY, errors.AuthenticationError),
    "permission": (always(reply(403, b"no")), errors.PermissionDeniedError),
    "money": (refuse(429, "insufficient_quota", "pay"), errors.QuotaExhaustedError),
    "model": (refuse(404, "model_not_found", "no"), errors.ModelNotFoundError),
    "certificate": (always(TransportFailure("tls", "self-signed certificate")), errors.ConnectionFailedError),
    "redirect": (always(reply(307, b"", location="https://elsewhere.example/x?key=1")), errors.APIError),
    "proxy": (always(reply(407, b"")), errors.ConnectionFailedError),
}


@pytest.mark.parametrize("name", FATAL)
def test_fatal_error_stops_the_call_after_one_request(name):
    failure, error = FATAL[name]
    driver = FlowDriver()
    caught = the_error(driver.run(["a", "b"], failure), 2)
    assert type(caught) is error
    later = the_error(driver.run(["c"], good), 1)
    assert later is caught
    assert (len(driver.sent), driver.waits) == (1, [])


def test_redirect_error_names_the_host_without_the_query():
    failure, _ = FATAL["redirect"]
    words = str(the_error(FlowDriver().run(["a"], failure), 1))
    assert "https://elsewhere.example" in words
    assert "key=1" not in words


def test_fatal_error_of_another_batch_ends_a_backoff():
    driver = FlowDriver()
    flow = batch_flow(Batch(range(1), ["a"]), driver.context)
    next(flow)
    assert isinstance(flow.send(BUSY(["a"])), Sleep)
    the_error(driver.run(["b"], BAD_KEY), 1)
    with pytest.raises(StopIteration) as end:
        next(flow)
    assert isinstance(end.value.value.failures[0], errors.AuthenticationError)


def test_invalid_request_stops_the_call_after_three_requests():
    driver = FlowDriver()
    failures = driver.run(["long", "b", "long"], refuse(400, "bad", "a parameter is wrong")).failures
    assert {type(error) for error in failures.values()} == {errors.InvalidRequestError}
    assert sorted(failures) == [0, 1, 2]
    assert "a parameter is wrong" in str(failures[0])
    assert driver.sent == [["long", "b", "long"], ["b"], ["long"]]
    assert driver.context.state.fatal_error is failures[2]


def test_rejected_shortest_text_fails_alone():
    driver = FlowDriver()
    texts = ["alpha", "!", "gamma", "delta"]
    outcome = driver.run(texts, lambda batch: refuse(400, "bad", "")(batch) if "!" in batch else good(batch))
    assert list(outcome.failures) == [1]
    assert sorted(rows_of(outcome, texts)) == [0, 2, 3]
    assert driver.context.state.fatal_error is None


def test_one_failing_batch_does_not_fail_the_call():
    driver = FlowDriver(max_retries=4)
    assert_whole(driver.run(["a"], good), ["a"])
    assert type(the_error(driver.run(["poison"], DOWN), 1)) is errors.ServerError
    assert not driver.limiter.breaker.is_closed
    assert driver.context.state.fatal_error is None
    assert_whole(driver.run(["b"], good), ["b"])
    for _ in range(2):
        driver.run(["poison"], DOWN)
    assert type(driver.context.state.fatal_error) is errors.ServerError  # two in a row


def test_truncated_text_adds_no_requests_for_others():
    driver = FlowDriver(options={"on_too_long": "truncate"}, max_retries=0)
    texts = ["long " * 20, *(f"t{n}" for n in range(31))]
    refusal = reply(413, {"error": {"code": "context_length_exceeded", "message": "too long"}})
    outcome = driver.run(texts, lambda batch: refusal if any(len(text) > 90 for text in batch) else good(batch))
    assert not outcome.failures
    assert len(driver.sent) <= 1 + 2 * 5 + 1


def test_rejection_without_a_reason_is_split_to_its_text():
    driver = FlowDriver()
    texts = ["alpha", "beta", "bad", "gamma"]
    refusal = refuse(400, "bad", "something is wrong")
    outcome = driver.run(texts, lambda batch: refusal(batch) if "bad" in batch and len(batch) > 1 else good(batch))
    assert sorted(rows_of(outcome, texts)) == [0, 1, 2, 3]  # alone it was well
    outcome = driver.run(texts, lambda batch: refusal(batch) if "beta" in batch else good(batch))
    assert {position: type(error) for position, error in outcome.failures.items()} == {1: errors.InvalidRequestError}
    assert sorted(rows_of(outcome, texts)) == [0, 2, 3]
    assert driver.context.state.fatal_error is None


# ── deadlines ────────────────────────────────────────────────────────────────────────────────────


def test_deadline_shortens_the_timeout_of_an_attempt():
    driver = FlowDriver(deadline=10.0)
    assert_whole(driver.run(["a"], [refuse(429, "x", "", **{"retry-after": "7"}), good]), ["a"])
    assert [request.timeout for request in driver.requests] == [10.0, 3.0]


def test_far_deadline_keeps_the_timeout_of_an_attempt():
    driver = FlowDriver(deadline=1000.0, timeout=5.0)
    driver.run(["a"], good)
    assert driver.requests[0].timeout == 5.0


def test_retry_after_beyond_the_deadline_raises_at_once():
    driver = FlowDriver(deadline=10.0)
    caught = the_error(driver.run(["a"], refuse(429, "x", "", **{"retry-after": "60"})), 1)
    assert type(caught) is errors.RateLimitError
    assert caught.retry_after == 60.0
    assert (len(driver.sent), driver.waits) == (1, [])


def test_passed_deadline_sends_nothing():
    driver = FlowDriver(deadline=10.0)
    driver.now += 10.0
    caught = the_error(driver.run(["a", "b"], good), 2)
    assert type(caught) is errors.DeadlineExceededError
    assert caught.indices == (0, 1)
    assert driver.sent == []


def test_timeout_at_the_deadline_is_a_deadline_error():
    driver = FlowDriver(deadline=10.0)

    def hang(_texts):
        driver.now += 10.0
        return TransportFailure("timeout", "no whole answer within 10 s")

    assert type(the_error(driver.run(["a"], hang), 1)) is errors.DeadlineExceededError
    assert len(driver.sent) == 1


# ── too many, too large ──────────────────────────────────────────────────────────────────────────


def capped(cap, words, status=400):
    """A server that takes so many texts and says so in these words."""
    refusal = reply(status, {"error": {"code": "400", "message": words.format(cap)}})
    return lambda texts: good(texts) if len(texts) <= cap else refusal


WORDS = {
    "named": ("the batch must not be larger than {}", 400),
    "not named": ("too large", 413),
}


@pytest.mark.parametrize("words", WORDS)
@given(count=st.integers(1, 59), cap=st.integers(1, 59))
def test_batch_over_max_items_is_split_and_each_text_paid_once(words, count, cap):
    driver, texts = FlowDriver(), [f"text {number}" for number in range(count)]
    message, status = WORDS[words]
    outcome = driver.run(texts, capped(cap, message, status))
    assert_whole(outcome, texts)
    assert outcome.total_tokens == count
    assert driver.waits == []
    answered = [batch for batch in driver.sent if len(batch) <= cap]
    assert [text for batch in answered for text in batch] == texts
    if words == "named" and count > cap:
        assert len(driver.sent) - len(answered) == 1
        assert driver.learned.max_items == cap


def test_learned_max_items_limit_the_next_batches():
    driver, server = FlowDriver(), capped(4, "the batch must not be larger than {}")
    first = [f"a{number}" for number in range(10)]
    assert_whole(driver.run(first, server), first)
    refused = len([batch for batch in driver.sent if len(batch) > 4])
    second = [f"b{number}" for number in range(10)]
    assert_whole(driver.run(second, server), second)
    assert refused == 1
    assert len([batch for batch in driver.sent if len(batch) > 4]) == refused


def test_smallest_learned_max_items_are_kept():
    driver = FlowDriver()
    driver.run(["a"] * 10, capped(4, "the batch must not be larger than {}"))
    driver.run(["a"] * 4, capped(2, "the batch must not be larger than {}"))
    driver.run(["a"] * 2, capped(1, "the batch must not be larger than 3 {}"))
    assert driver.learned.max_items == 2


def test_single_text_that_is_too_large_fails_alone():
    driver = FlowDriver()
    outcome = driver.run(["a", "b"], always(reply(413, b"")))
    assert all(type(error) is errors.InputTooLongError for error in outcome.failures.values())
    assert sorted(map(len, driver.sent)) == [1, 1, 2]
    assert [error.indices for error in outcome.failures.values()] == [(0,), (1,)]


# ── requests ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("later", ["another key", "failure"])
def test_error_redacts_the_key_that_was_sent(later):
    asked = []

    def key():
        asked.append(None)
        if len(asked) > 1 and later == "failure":
            raise OSError("the vault is down")
        return f"{KEY}-{len(asked)}"

    driver = FlowDriver(options={"api_key": key})
    outcome = driver.run(["a"], refuse(401, "invalid_api_key", f"no such key: {KEY}-1"))
    assert type(outcome.failures[0]) is errors.AuthenticationError
    assert KEY not in str(outcome.failures[0])
    assert len(asked) == 1


def test_huge_timeout_is_capped():
    driver = FlowDriver(timeout=1e18)
    driver.run(["a"], good)
    assert 1e5 < driver.requests[0].timeout < 2**31 / 1000


def test_response_cap_allows_a_weight_for_every_token():
    driver = FlowDriver("dashscope:text-embedding-v4", {"output": "dense&sparse", "dimensions": 64})
    driver.run(["ab " * 8192] * 10, BAD_KEY)
    weight = len('{"index":151935,"value":0.829345703125,"token":"\\u98ce\\u6025"},')
    assert driver.requests[0].max_reply_bytes > 10 * (8192 * weight + 64 * 25)


# ── one bad text ─────────────────────────────────────────────────────────────────────────────────


def rejecting(bad, status, body):
    return lambda texts: good(texts) if bad.isdisjoint(texts) else reply(status, body)


ONE_TEXT = {
    "moderation": (400, {"error": {"code": "content_filter", "message": "no"}}, errors.ContentRejectedError),
    "length": (400, {"error": {"code": "context_length_exceeded", "message": "no"}}, errors.InputTooLongError),
}


@pytest.mark.parametrize("why", ONE_TEXT)
@given(count=st.integers(1, 40), bad=st.sets(st.integers(0, 39), min_size=1, max_size=3))
def test_rejected_texts_fail_alone_and_others_are_paid_once(why, count, bad):
    assume(max(bad) < count)
    status, body, error = ONE_TEXT[why]
    driver, texts = FlowDriver(), [f"text {number}" for number in range(count)]
    outcome = driver.run(texts, rejecting({f"text {number}" for number in bad}, status, body))
    assert outcome.failures.keys() == bad
    assert sorted(rows_of(outcome, texts)) == sorted(set(range(count)) - bad)
    for position in bad:
        assert type(outcome.failures[position]) is error
        assert outcome.failures[position].indices == (position,)
    assert (outcome.total_tokens, driver.waits) == (count - len(bad), [])
    assert len(driver.sent) <= 1 + 2 * len(bad) * (count.bit_length() + 1)


@pytest.mark.parametrize("on_too_long", ["truncate", "split"])
def test_text_above_the_token_quota_is_not_shortened(on_too_long):
    driver = FlowDriver(options={"on_too_long": on_too_long}, account_limits=AccountLimits(tokens_per_minute=10))
    outcome = driver.run(["a text that is longer than any minute of this account may hold"], good)
    assert type(outcome.failures[0]) is errors.InputTooLongError
    assert "tokens_per_minute=10" in str(outcome.failures[0])
    assert driver.sent == []


def test_high_bill_of_a_short_text_allows_a_long_text():
    driver = FlowDriver(account_limits=AccountLimits(tokens_per_minute=100))
    driver.run(["a"], lambda texts: reply(200, {**orjson.loads(good(texts).body), "usage": {"total_tokens": 3}}))
    long = "word " * 50
    assert_whole(driver.run([long], good), [long])
    assert driver.run(["word " * 500], good).failures.keys() == {0}


@pytest.mark.parametrize(
    ("long", "error", "requests"), [(True, errors.InputTooLongError, 4), (False, errors.InvalidRequestError, 5)]
)
def test_ambiguous_rejection_means_length_for_long_texts_only(long, error, requests):
    driver = FlowDriver(model="zhipu:embedding-2", options={"dimensions": 1024})
    texts = ["a", "b", "7" * 600 if long else "7", "d"]
    refusal = reply(400, {"error": {"code": "1210", "message": "API 调用参数有误，请检查文档。"}})
    outcome = driver.run(texts, lambda batch: refusal if "7" in "".join(batch) else good(batch, 1024))
    assert {type(each) for each in outcome.failures.values()} == {error}
    assert len(driver.sent) == requests
    assert list(outcome.failures) == [2]
    assert sorted(rows_of(outcome, texts, 1024)) == [0, 1, 3]


# ── invalid responses ────────────────────────────────────────────────────────────────────────────


def test_invalid_response_gives_no_vector():
    outcome = FlowDriver(max_retries=1).run(["a", "b", "c"], short)
    caught = the_error(outcome, 3)
    assert "3 texts were sent and 2 vectors came back" in str(caught)
    assert '{"data":' in str(caught)


def test_configured_dimensions_are_required():
    caught = the_error(FlowDriver(max_retries=0).run(["a"], lambda texts: good(texts, SIZE + 1)), 1)
    assert "5 dimensions where 4 were expected" in str(caught)


def test_dimensions_of_the_first_response_are_required():
    driver = FlowDriver(options={"dimensions": None}, max_retries=0)
    assert sorted(rows_of(driver.run(["a"], lambda texts: good(texts, 6)), ["a"], 6)) == [0]
    caught = the_error(driver.run(["b"], lambda texts: good(texts, 7)), 1)
    assert type(caught) is errors.MalformedResponseError
    assert "7 dimensions where 6 were expected" in str(caught)


@pytest.mark.parametrize(
    ("model", "documented"),
    [
        ("zhipu:embedding-2", 1024),
        ("siliconflow:netease-youdao/bce-embedding-base_v1", 768),
        ("zhipu:embedding-3", 2048),
    ],
)
def test_documented_dimensions_are_required(model, documented):
    driver = FlowDriver(model=model, options={"dimensions": None}, max_retries=0)
    caught = the_error(driver.run(["a"], lambda texts: good(texts, documented // 2)), 1)
    assert type(caught) is errors.MalformedResponseError
    assert f"where {documented} were expected" in str(caught)


# ── any response ─────────────────────────────────────────────────────────────────────────────────

ANSWERS = {
    "good": good,
    "short": short,
    "busy": BUSY,
    "down": DOWN,
    "broken": BROKEN,
    "late": LATE,
    "key": BAD_KEY,
    "invalid": refuse(400, "bad", "no"),
    "too many": refuse(400, "bad", "the batch must not be larger than 2"),
    "too large": always(reply(413, b"")),
    "too long": refuse(400, "context_length_exceeded", "no"),
    "content": refuse(400, "content_filter", "no"),
    "html": always(reply(200, b"<html>")),
    "list": always(reply(200, b"[]")),
    "null": always(reply(200, b"null")),
    "number": always(reply(200, b"7")),
}


@given(
    st.integers(1, 12),
    st.lists(st.sampled_from(sorted(ANSWERS)), max_size=30),
    st.none() | st.floats(0.1, 30),
    st.integers(0, 3),
)
def test_each_text_has_either_its_vector_or_an_error(count, answers, deadline, max_retries):
    driver = FlowDriver(deadline=deadline, max_retries=max_retries)
    texts, row = [f"text {number}" for number in range(count)], iter(answers)
    outcome = driver.run(texts, lambda batch: ANSWERS[next(row, "good")](batch))
    found = rows_of(outcome, texts)
    assert found.keys().isdisjoint(outcome.failures)
    assert sorted([*found, *outcome.failures]) == list(range(count))
    assert all(isinstance(error, errors.MultiEmbedError) for error in outcome.failures.values())
    assert all(0 <= seconds <= 120 for seconds in driver.waits)
    assert outcome.requests == len(driver.sent)


@given(
    st.binary(max_size=300)
    | st.recursive(
        st.none() | st.booleans() | st.integers(0, 600) | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "data",
                        "error",
                        "code",
                        "message",
                        "output",
                        "embeddings",
                        "embedding",
                        "index",
                        "success",
                        "usage",
                        "total_tokens",
                        "request_id",
                        "id",
                        "status",
                    ]
                ),
                inner,
            )
        ),
        max_leaves=15,
    ).map(orjson.dumps),
    st.sampled_from([200, 204, 301, 400, 401, 404, 413, 429, 500, 599]),
    st.sampled_from(
        [
            "zhipu:embedding-3",
            "siliconflow:BAAI/bge-m3",
            "dashscope:text-embedding-v4",
            "dashscope-compatible:text-embedding-v4",
            "gateway:m",
        ]
    ),
)
def test_any_response_gives_vectors_or_errors(body, status, model):
    driver = FlowDriver(model=model, options={"dimensions": None}, max_retries=1)
    outcome = driver.run(["a", "b"], always(HttpResponse(status, {}, body)))
    for error in outcome.failures.values():
        assert isinstance(error, errors.MultiEmbedError)
        assert KEY not in str(error)
    assert sorted([*outcome.failures, *(p for positions, _ in outcome.accepted for p in positions)]) == [0, 1]


@pytest.mark.parametrize("count", [2, 3, 5, 6, 7, 10, 11, 17, 25, 32, 33, 64])
def test_one_bad_text_costs_at_most_2_log2_n_requests(count):
    refusal = refuse(400, "content_filter", "moderated")
    for position in range(count):
        driver = FlowDriver()
        texts = [f"t{n}" for n in range(count)]
        texts[position] = "bad"
        outcome = driver.run(texts, lambda batch: refusal(batch) if "bad" in batch else good(batch))
        assert list(outcome.failures) == [position]
        assert sorted(rows_of(outcome, texts)) == [n for n in range(count) if n != position]
        assert len(driver.sent) - 1 <= 2 * math.log2(count)
