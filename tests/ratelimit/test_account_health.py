"""One model's failures do not stop another, a pause is honest, and nothing is kept for ever (FINDINGS A4, A9)."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools

import pytest
from support.flow_driver import Play, always, good, reply
from support.scripted_server import Reply, openai_reply, scripted, vector_of

from multiembed import (
    ConnectionFailedError,
    EmbeddingClient,
    MalformedResponseError,
    MultiEmbedError,
    RateLimitError,
    ServerError,
)
from multiembed.execution.runtime import account_id
from multiembed.ratelimit import limiter as limiters
from multiembed.ratelimit.limiter import limiter_for
from multiembed.transport.failures import failure_of
from multiembed.transport.types import TransportFailure

NUMBERS = itertools.count()
BUSY = Reply({"error": {"message": "slow down"}}, 429, {"Retry-After": "60"})
DOWN = Reply(b"<html>maintenance</html>", 503)
SICK = {
    "503": DOWN,
    "503 with Retry-After": Reply(b"", 503, {"Retry-After": "3600"}),
    "malformed with Retry-After": Reply(b"{}", 200, {"Retry-After": "3600"}),
    "429": BUSY,
}


def _embed(client, texts):
    return client.embed(texts)


def _aembed(client, texts):
    return asyncio.run(client.aembed(texts))


@pytest.fixture(params=[_embed, _aembed], ids=["sync", "async"])
def door(request):
    return request.param


@pytest.mark.parametrize("sick", SICK)
def test_a_model_that_fails_does_not_stop_another(door, sick):
    def answer(request):
        return SICK[sick] if request.body["model"] == "sick" else openai_reply(request)

    key = f"sk-account-{next(NUMBERS)}"
    with scripted(answer) as server:
        options = {"api_key": key, "base_url": server.url}
        with pytest.raises(MultiEmbedError):
            door(EmbeddingClient("gateway:sick", max_retries=0, deadline=5, **options), ["text"])
        healthy = EmbeddingClient("gateway:healthy", deadline=5, **options)
        assert door(healthy, ["text"]).vectors.tolist() == [vector_of("text")]
    assert healthy.usage.requests == 1


def test_a_pause_is_named_with_its_cause_and_its_end(door):
    with scripted(lambda _: BUSY) as server:
        client = EmbeddingClient("gateway:m", api_key=f"sk-account-{next(NUMBERS)}", base_url=server.url, deadline=5)
        with pytest.raises(RateLimitError) as first:
            door(client, ["text"])
        with pytest.raises(RateLimitError, match="Nothing was sent") as second:
            door(client, ["text"])
        assert len(server.requests) == 1
    assert first.value.retry_after == 60.0
    assert 0.0 < second.value.retry_after <= 20.0
    assert "deadline" in str(second.value)
    assert "has passed" not in str(second.value)


def test_a_pause_after_failures_is_named_by_their_kind(door):
    with scripted(lambda _: DOWN) as server:
        client = EmbeddingClient("gateway:m", api_key=f"sk-account-{next(NUMBERS)}", base_url=server.url)
        target = client.target
        limiter = limiter_for(account_id(target))
        for _ in range(3):
            limiter.report_failure(19.0, "server")
        impatient = EmbeddingClient(
            "gateway:m", api_key=target.key.get(), base_url=server.url, deadline=2, max_retries=0
        )
        with pytest.raises(ServerError, match="Nothing was sent") as caught:
            door(impatient, ["text"])
        assert server.requests == []
    assert 10.0 < caught.value.retry_after <= 19.0


@pytest.mark.parametrize("seconds", [30.0, 1000.0])
def test_one_refusal_stops_an_account_for_twenty_seconds_at_most(seconds):
    play = Play(max_retries=0)
    play.run(["a"], [good])
    play.run(["b"], [always(reply(429, b"", **{"retry-after": str(seconds)}))])
    weather = play.limiter.breaker
    assert weather.open_until - play.now == 20.0
    assert weather.max_in_flight(play.now + 20.0, 8) == 1  # one request is sent to see
    play.now += 20.0
    play.run(["b"], [always(reply(429, b"", **{"retry-after": str(seconds)}))])
    assert weather.open_until - play.now == min(seconds, 120.0)


@pytest.mark.parametrize("status", [200, 500, 503])
def test_one_failure_of_a_cold_account_stops_it_for_twenty_seconds_at_most(status):
    play = Play(max_retries=0)
    play.run(["a"], [always(reply(status, b"{}", **{"retry-after": "3600"}))])
    assert play.limiter.breaker.open_until - play.now <= 20.0


def test_a_short_timeout_is_not_the_providers_failure():
    play = Play(timeout=0.05, max_retries=5)
    late = always(TransportFailure("timeout", "no whole answer within 0.05 s"))
    play.run(["a"], [late, late, late, late, good])
    assert play.limiter.failures == 0
    assert play.limiter.breaker.open_until == float("-inf")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL])
def test_a_machine_out_of_files_is_not_the_providers_failure(code):
    failure = failure_of(OSError(code, "too many"))
    assert failure.local
    assert not failure_of(ConnectionResetError(errno.ECONNRESET, "reset")).local
    play = Play(max_retries=5)
    play.run(["a"], [always(failure)] * 4 + [good])
    assert play.limiter.failures == 0
    assert play.limiter.breaker.open_until == float("-inf")
    error = Play(max_retries=0).run(["a"], [always(failure)]).failures[0]
    assert "ulimit -n" in error.message


def test_a_spent_retry_budget_leaves_a_call_with_a_deadline_a_second_try():
    play = Play(max_retries=5, deadline=10.0)
    play.limiter.report_success(None, None)
    while play.limiter.may_retry():
        pass
    outcome = play.run(["a"], [always(reply(503, b"")), good])
    assert outcome.failures == {}
    assert play.waits == [5.0]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (reply(503, b""), ServerError),
        (TransportFailure("connection", "reset by peer"), ConnectionFailedError),
        (reply(429, b""), RateLimitError),
        (reply(200, b"{}"), MalformedResponseError),
    ],
    ids=["503", "reset", "429", "malformed"],
)
def test_an_error_after_one_attempt_does_not_speak_of_others(answer, error):
    caught = Play(max_retries=0).run(["a"], [always(answer)]).failures[0]
    assert type(caught) is error
    assert "again" not in caught.message
    assert "also" not in caught.message


# ── A9: limiters that nobody uses ────────────────────────────────────────────────────────────────


def test_limiters_of_rotated_keys_are_dropped_after_an_hour():
    now = 0.0

    def clock():
        return now

    def kept(where):
        return sorted(name for name in where if name.startswith("rotated "))

    held = limiter_for("rotated held", clock)
    for number in range(100):
        limiter_for(f"rotated {number}", clock)
    assert len(kept(limiters._limiters)) == 101
    now = 1800.0
    used = limiter_for("rotated 7", clock)
    now = 3601.0
    limiter_for("rotated new", clock)
    assert kept(limiters._limiters) == ["rotated 7", "rotated new"]
    assert limiter_for("rotated 7", clock) is used
    assert limiter_for("rotated held", clock) is held  # an embedder still has it: one account has one limiter
    del held, used
    now = 9000.0
    limiter_for("rotated last", clock)
    gc.collect()
    assert kept(limiters._limiters) == ["rotated last"]
    assert kept(limiters._living) == ["rotated last"]
