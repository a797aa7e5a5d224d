"""The story of one batch, played by hand: no network, no threads, and a clock that moves when it is told to."""

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
    Play,
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


# ── it goes well ─────────────────────────────────────────────────────────────────────────────────


def test_a_batch_that_is_answered_takes_one_request_and_no_wait():
    play = Play()
    outcome = play.run(["a", "b", "c"], good)
    assert_whole(outcome, ["a", "b", "c"])
    assert (play.sent, play.waits) == ([["a", "b", "c"]], [])
    assert (outcome.requests, outcome.retries, outcome.total_tokens) == (1, 0, 3)


def test_a_request_holds_the_key_in_its_header_and_shows_it_to_nobody():
    play = Play()
    play.run(["a text that is private"], good)
    [request] = play.requests
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    step = SendRequest(request, play.limiter.permit(play.account_limits))
    for shown in (repr(request), str(request), repr(step), repr(play.job), repr(play.job.config)):
        assert KEY not in shown
    assert "private" not in repr(request)


def test_a_local_provider_computes_and_sends_nothing():
    play = Play(model="local:char-ngrams", options={"base_url": None, "dimensions": 16})
    outcome = play.run(["a", "b"], [])
    assert sorted(rows_of(outcome, ["a", "b"], 16)) == [0, 1]
    assert (play.sent, outcome.requests, outcome.total_tokens) == ([], 0, 0)


@pytest.mark.parametrize(
    ("model", "dimensions", "texts"), [("siliconflow:Qwen/Qwen3-Embedding-8B", 4096, 32), ("gateway:m", None, 10)]
)
def test_the_largest_honest_reply_is_far_below_the_cap_on_its_size(model, dimensions, texts):
    play = Play(model=model, options={"dimensions": dimensions})
    play.run(["x"] * texts, BAD_KEY)
    longest_number = len("-0.00012345678901234567")
    size = dimensions or 4096
    assert play.requests[0].max_reply_bytes > 2 * texts * size * longest_number
    assert play.requests[0].max_reply_bytes < 200e6


# ── what may pass is tried again ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("fault", [BUSY, DOWN, BROKEN, LATE, short, always(reply(200, b""))])
def test_what_may_pass_is_tried_again_and_then_the_vectors_are_right(fault):
    play, texts = Play(), ["a", "b"]
    outcome = play.run(texts, [fault, fault, good])
    assert_whole(outcome, texts)
    assert play.waits == [0.25, 0.5]  # half of 0.5 and of 1: chance is 0.5
    assert (outcome.requests, outcome.retries, outcome.total_tokens) == (3, 2, 2)


@pytest.mark.parametrize(
    ("fault", "error"),
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
def test_what_does_not_pass_becomes_its_error_after_the_retries(fault, error, max_retries):
    play = Play(max_retries=max_retries)
    outcome = play.run(["a", "b"], fault)
    caught = the_error(outcome, 2)
    assert type(caught) is error
    assert (caught.provider, caught.model, caught.indices) == ("gateway", "m", (0, 1))
    assert len(play.sent) == outcome.requests == 1 + max_retries
    assert outcome.retries == len(play.waits) == max_retries
    assert play.job.fatal_error is caught  # an account that never answered will not answer the other batches


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
def test_a_servers_wish_is_heeded_up_to_a_cap_and_never_shortens_the_back_off(asked, waited):
    play = Play()
    assert_whole(play.run(["a"], [refuse(429, "x", "slow down", **asked), good]), ["a"])
    assert play.waits == [waited]


def test_a_wish_in_form_of_a_date_is_measured_by_the_wall_clock():
    play = Play(now=0.0)
    assert_whole(
        play.run(["a"], [always(reply(503, b"", **{"retry-after": "Fri, 15 Jan 2027 08:00:30 GMT"})), good]), ["a"]
    )
    assert play.waits == [30.0]


# ── what cannot pass is not ──────────────────────────────────────────────────────────────────────

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
def test_what_no_text_can_survive_takes_one_request_and_stops_the_whole_call(name):
    fault, error = FATAL[name]
    play = Play()
    caught = the_error(play.run(["a", "b"], fault), 2)
    assert type(caught) is error
    later = the_error(play.run(["c"], good), 1)
    assert later is caught
    assert (len(play.sent), play.waits) == (1, [])


def test_a_redirect_names_where_it_leads_but_not_what_it_carries():
    fault, _ = FATAL["redirect"]
    words = str(the_error(Play().run(["a"], fault), 1))
    assert "https://elsewhere.example" in words
    assert "key=1" not in words


def test_a_batch_that_waits_for_its_next_attempt_goes_no_further_once_another_one_found_that_none_can_succeed():
    play = Play()
    flow = batch_flow(Batch(range(1), ["a"]), play.job)
    next(flow)
    assert isinstance(flow.send(BUSY(["a"])), Sleep)
    the_error(play.run(["b"], BAD_KEY), 1)
    with pytest.raises(StopIteration) as end:
        next(flow)
    assert isinstance(end.value.value.failures[0], errors.AuthenticationError)


def test_a_request_that_is_wrong_for_every_text_costs_three_requests_and_stops_the_call():
    play = Play()
    failures = play.run(["long", "b", "long"], refuse(400, "bad", "a parameter is wrong")).failures
    assert {type(error) for error in failures.values()} == {errors.InvalidRequestError}
    assert sorted(failures) == [0, 1, 2]
    assert "a parameter is wrong" in str(failures[0])
    assert play.sent == [["long", "b", "long"], ["b"], ["long"]]
    assert play.job.fatal_error is failures[2]


def test_the_shortest_text_may_be_the_one_that_is_refused():
    play = Play()
    texts = ["alpha", "!", "gamma", "delta"]
    outcome = play.run(texts, lambda batch: refuse(400, "bad", "")(batch) if "!" in batch else good(batch))
    assert list(outcome.failures) == [1]
    assert sorted(rows_of(outcome, texts)) == [0, 2, 3]
    assert play.job.fatal_error is None


def test_one_batch_that_the_server_cannot_bear_is_no_outage_of_the_account():
    play = Play(max_retries=4)
    assert_whole(play.run(["a"], good), ["a"])
    assert type(the_error(play.run(["poison"], DOWN), 1)) is errors.ServerError
    assert not play.limiter.breaker.is_closed
    assert play.job.fatal_error is None
    assert_whole(play.run(["b"], good), ["b"])
    for _ in range(2):
        play.run(["poison"], DOWN)
    assert type(play.job.fatal_error) is errors.ServerError  # two in a row


def test_a_text_that_was_cut_makes_no_neighbour_suspect():
    play = Play(options={"on_too_long": "truncate"}, max_retries=0)
    texts = ["long " * 20, *(f"t{n}" for n in range(31))]
    refusal = reply(413, {"error": {"code": "context_length_exceeded", "message": "too long"}})
    outcome = play.run(texts, lambda batch: refusal if any(len(text) > 90 for text in batch) else good(batch))
    assert not outcome.failures
    assert len(play.sent) <= 1 + 2 * 5 + 1


def test_a_refusal_for_unknown_reasons_is_narrowed_down_to_its_text():
    play = Play()
    texts = ["alpha", "beta", "ill", "gamma"]
    refusal = refuse(400, "bad", "something is wrong")
    outcome = play.run(texts, lambda batch: refusal(batch) if "ill" in batch and len(batch) > 1 else good(batch))
    assert sorted(rows_of(outcome, texts)) == [0, 1, 2, 3]  # alone it was well
    outcome = play.run(texts, lambda batch: refusal(batch) if "beta" in batch else good(batch))
    assert {place: type(error) for place, error in outcome.failures.items()} == {1: errors.InvalidRequestError}
    assert sorted(rows_of(outcome, texts)) == [0, 2, 3]
    assert play.job.fatal_error is None


# ── deadlines ────────────────────────────────────────────────────────────────────────────────────


def test_an_attempt_has_no_more_time_than_the_deadline_leaves():
    play = Play(deadline=10.0)
    assert_whole(play.run(["a"], [refuse(429, "x", "", **{"retry-after": "7"}), good]), ["a"])
    assert [request.timeout for request in play.requests] == [10.0, 3.0]


def test_an_attempt_has_its_timeout_where_the_deadline_is_far():
    play = Play(deadline=1000.0, timeout=5.0)
    play.run(["a"], good)
    assert play.requests[0].timeout == 5.0


def test_a_server_that_asks_to_wait_beyond_the_deadline_is_not_waited_for():
    play = Play(deadline=10.0)
    caught = the_error(play.run(["a"], refuse(429, "x", "", **{"retry-after": "60"})), 1)
    assert type(caught) is errors.RateLimitError
    assert caught.retry_after == 60.0
    assert (len(play.sent), play.waits) == (1, [])


def test_after_the_deadline_nothing_is_sent():
    play = Play(deadline=10.0)
    play.now += 10.0
    caught = the_error(play.run(["a", "b"], good), 2)
    assert type(caught) is errors.DeadlineExceededError
    assert caught.indices == (0, 1)
    assert play.sent == []


def test_an_attempt_that_the_deadline_cut_off_is_a_deadline_error():
    play = Play(deadline=10.0)

    def hang(_texts):
        play.now += 10.0
        return TransportFailure("timeout", "no whole answer within 10 s")

    assert type(the_error(play.run(["a"], hang), 1)) is errors.DeadlineExceededError
    assert len(play.sent) == 1


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
def test_a_batch_over_a_cap_is_split_until_it_fits_and_each_text_is_paid_once(words, count, cap):
    play, texts = Play(), [f"text {number}" for number in range(count)]
    message, status = WORDS[words]
    outcome = play.run(texts, capped(cap, message, status))
    assert_whole(outcome, texts)
    assert outcome.total_tokens == count
    assert play.waits == []
    answered = [batch for batch in play.sent if len(batch) <= cap]
    assert [text for batch in answered for text in batch] == texts
    if words == "named" and count > cap:
        assert len(play.sent) - len(answered) == 1
        assert play.learned.max_items == cap


def test_a_cap_that_the_server_names_is_heeded_by_the_batches_that_follow():
    play, server = Play(), capped(4, "the batch must not be larger than {}")
    first = [f"a{number}" for number in range(10)]
    assert_whole(play.run(first, server), first)
    refused = len([batch for batch in play.sent if len(batch) > 4])
    second = [f"b{number}" for number in range(10)]
    assert_whole(play.run(second, server), second)
    assert refused == 1
    assert len([batch for batch in play.sent if len(batch) > 4]) == refused


def test_the_smallest_cap_that_was_named_is_the_one_that_is_kept():
    play = Play()
    play.run(["a"] * 10, capped(4, "the batch must not be larger than {}"))
    play.run(["a"] * 4, capped(2, "the batch must not be larger than {}"))
    play.run(["a"] * 2, capped(1, "the batch must not be larger than 3 {}"))
    assert play.learned.max_items == 2


def test_a_server_that_refuses_even_one_text_is_believed_after_it():
    play = Play()
    outcome = play.run(["a", "b"], always(reply(413, b"")))
    assert all(type(error) is errors.InputTooLongError for error in outcome.failures.values())
    assert sorted(map(len, play.sent)) == [1, 1, 2]
    assert [error.indices for error in outcome.failures.values()] == [(0,), (1,)]


# ── what was sent is what counts ─────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("later", ["another key", "failure"])
def test_the_key_that_was_sent_is_cleaned_out_of_an_error_whatever_its_function_gives_next(later):
    asked = []

    def key():
        asked.append(None)
        if len(asked) > 1 and later == "failure":
            raise OSError("the vault is down")
        return f"{KEY}-{len(asked)}"

    play = Play(options={"api_key": key})
    outcome = play.run(["a"], refuse(401, "invalid_api_key", f"no such key: {KEY}-1"))
    assert type(outcome.failures[0]) is errors.AuthenticationError
    assert KEY not in str(outcome.failures[0])
    assert len(asked) == 1


def test_an_attempt_without_a_limit_has_as_long_as_a_system_can_wait():
    play = Play(timeout=1e18)
    play.run(["a"], good)
    assert 1e5 < play.requests[0].timeout < 2**31 / 1000


def test_a_reply_with_a_weight_for_every_token_is_not_too_large():
    play = Play("dashscope:text-embedding-v4", {"output": "dense&sparse", "dimensions": 64})
    play.run(["ab " * 8192] * 10, BAD_KEY)
    weight = len('{"index":151935,"value":0.829345703125,"token":"\\u98ce\\u6025"},')
    assert play.requests[0].max_reply_bytes > 10 * (8192 * weight + 64 * 25)


# ── one text's fault ─────────────────────────────────────────────────────────────────────────────


def squeamish(bad, status, body):
    return lambda texts: good(texts) if bad.isdisjoint(texts) else reply(status, body)


ONE_TEXT = {
    "moderation": (400, {"error": {"code": "content_filter", "message": "no"}}, errors.ContentRejectedError),
    "length": (400, {"error": {"code": "context_length_exceeded", "message": "no"}}, errors.InputTooLongError),
}


@pytest.mark.parametrize("why", ONE_TEXT)
@given(count=st.integers(1, 40), bad=st.sets(st.integers(0, 39), min_size=1, max_size=3))
def test_texts_that_are_refused_fail_alone_and_their_neighbours_are_paid_once(why, count, bad):
    assume(max(bad) < count)
    status, body, error = ONE_TEXT[why]
    play, texts = Play(), [f"text {number}" for number in range(count)]
    outcome = play.run(texts, squeamish({f"text {number}" for number in bad}, status, body))
    assert outcome.failures.keys() == bad
    assert sorted(rows_of(outcome, texts)) == sorted(set(range(count)) - bad)
    for place in bad:
        assert type(outcome.failures[place]) is error
        assert outcome.failures[place].indices == (place,)
    assert (outcome.total_tokens, play.waits) == (count - len(bad), [])
    assert len(play.sent) <= 1 + 2 * len(bad) * (count.bit_length() + 1)


@pytest.mark.parametrize("on_too_long", ["truncate", "split"])
def test_no_text_is_cut_because_a_quota_has_no_room_for_it(on_too_long):
    play = Play(options={"on_too_long": on_too_long}, account_limits=AccountLimits(tokens_per_minute=10))
    outcome = play.run(["a text that is longer than any minute of this account may hold"], good)
    assert type(outcome.failures[0]) is errors.InputTooLongError
    assert "tokens_per_minute=10" in str(outcome.failures[0])
    assert play.sent == []


def test_the_dear_bill_of_a_short_text_keeps_no_long_one_from_being_sent():
    play = Play(account_limits=AccountLimits(tokens_per_minute=100))
    play.run(["a"], lambda texts: reply(200, {**orjson.loads(good(texts).body), "usage": {"total_tokens": 3}}))
    long = "word " * 50
    assert_whole(play.run([long], good), [long])
    assert play.run(["word " * 500], good).failures.keys() == {0}


@pytest.mark.parametrize(
    ("long", "error", "requests"), [(True, errors.InputTooLongError, 4), (False, errors.InvalidRequestError, 5)]
)
def test_words_that_may_mean_length_or_anything_are_taken_for_length_only_where_a_text_can_be_too_long(
    long, error, requests
):
    play = Play(model="zhipu:embedding-2", options={"dimensions": 1024})
    texts = ["a", "b", "7" * 600 if long else "7", "d"]
    refusal = reply(400, {"error": {"code": "1210", "message": "API 调用参数有误，请检查文档。"}})
    outcome = play.run(texts, lambda batch: refusal if "7" in "".join(batch) else good(batch, 1024))
    assert {type(each) for each in outcome.failures.values()} == {error}
    assert len(play.sent) == requests
    assert list(outcome.failures) == [2]
    assert sorted(rows_of(outcome, texts, 1024)) == [0, 1, 3]


# ── vectors that are not believed ────────────────────────────────────────────────────────────────


def test_no_vector_of_a_reply_that_is_not_believed_is_used():
    outcome = Play(max_retries=1).run(["a", "b", "c"], short)
    caught = the_error(outcome, 3)
    assert "3 texts were sent and 2 vectors came back" in str(caught)
    assert '{"data":' in str(caught)


def test_a_size_that_was_asked_for_is_insisted_on():
    caught = the_error(Play(max_retries=0).run(["a"], lambda texts: good(texts, SIZE + 1)), 1)
    assert "5 dimensions where 4 were expected" in str(caught)


def test_a_size_that_was_not_asked_for_is_learned_from_the_first_reply_and_then_insisted_on():
    play = Play(options={"dimensions": None}, max_retries=0)
    assert sorted(rows_of(play.run(["a"], lambda texts: good(texts, 6)), ["a"], 6)) == [0]
    caught = the_error(play.run(["b"], lambda texts: good(texts, 7)), 1)
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
def test_the_first_reply_of_a_model_whose_size_is_known_must_have_it_too(model, documented):
    play = Play(model=model, options={"dimensions": None}, max_retries=0)
    caught = the_error(play.run(["a"], lambda texts: good(texts, documented // 2)), 1)
    assert type(caught) is errors.MalformedResponseError
    assert f"where {documented} were expected" in str(caught)


# ── whatever happens ─────────────────────────────────────────────────────────────────────────────

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
def test_every_text_has_its_own_vector_or_an_error_and_never_both(count, answers, deadline, max_retries):
    play = Play(deadline=deadline, max_retries=max_retries)
    texts, row = [f"text {number}" for number in range(count)], iter(answers)
    outcome = play.run(texts, lambda batch: ANSWERS[next(row, "good")](batch))
    found = rows_of(outcome, texts)
    assert found.keys().isdisjoint(outcome.failures)
    assert sorted([*found, *outcome.failures]) == list(range(count))
    assert all(isinstance(error, errors.MultiEmbedError) for error in outcome.failures.values())
    assert all(0 <= seconds <= 120 for seconds in play.waits)
    assert outcome.requests == len(play.sent)


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
def test_no_answer_however_strange_breaks_the_story(body, status, model):
    play = Play(model=model, options={"dimensions": None}, max_retries=1)
    outcome = play.run(["a", "b"], always(HttpResponse(status, {}, body)))
    for error in outcome.failures.values():
        assert isinstance(error, errors.MultiEmbedError)
        assert KEY not in str(error)
    assert sorted([*outcome.failures, *(p for places, _ in outcome.accepted for p in places)]) == [0, 1]


@pytest.mark.parametrize("count", [2, 3, 5, 6, 7, 10, 11, 17, 25, 32, 33, 64])
def test_one_culprit_costs_at_most_twice_the_logarithm_of_the_batch_wherever_it_stands(count):
    refusal = refuse(400, "content_filter", "moderated")
    for place in range(count):
        play = Play()
        texts = [f"t{n}" for n in range(count)]
        texts[place] = "ill"
        outcome = play.run(texts, lambda batch: refusal(batch) if "ill" in batch else good(batch))
        assert list(outcome.failures) == [place]
        assert sorted(rows_of(outcome, texts)) == [n for n in range(count) if n != place]
        assert len(play.sent) - 1 <= 2 * math.log2(count)
