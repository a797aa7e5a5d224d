"""Pauses of an account: which model they stop, how long they last, what their error says; unused limiters."""

from __future__ import annotations

import asyncio
import errno
import gc
import itertools

import pytest
from support.flow_driver import FlowDriver as Play
from support.flow_driver import always, good, reply
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
from multiembed.ratelimit import registry as limiters
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.ratelimit.registry import limiter_for
from multiembed.transport.failures import failure_of
from multiembed.transport.types import TransportFailure

ACCOUNTS = itertools.count()
RATE_LIMITED = Reply({"error": {"message": "slow down"}}, 429, {"Retry-After": "60"})
DOWN = Reply(b"<html>maintenance</html>", 503)
FAILING = {
    "503": DOWN,
    "503 with Retry-After": Reply(b"", 503, {"Retry-After": "3600"}),
    "malformed with Retry-After": Reply(b"{}", 200, {"Retry-After": "3600"}),
    "429": RATE_LIMITED,
}


def _embed(client, texts):
    return client.embed(texts)


def _aembed(client, texts):
    return asyncio.run(client.aembed(texts))


@pytest.fixture(params=[_embed, _aembed], ids=["sync", "async"])
def entry_point(request):
    return request.param


@pytest.mark.parametrize("failing", FAILING)
def test_failing_model_does_not_stop_another(entry_point, failing):
    def answer(request):
        return FAILING[failing] if request.body["model"] == "failing" else openai_reply(request)

    key = f"sk-account-{next(ACCOUNTS)}"
    with scripted(answer) as server:
        options = {"api_key": key, "base_url": server.url}
        with pytest.raises(MultiEmbedError):
            entry_point(EmbeddingClient("gateway:failing", max_retries=0, deadline=5, **options), ["text"])
        healthy = EmbeddingClient("gateway:healthy", deadline=5, **options)
        assert entry_point(healthy, ["text"]).vectors.tolist() == [vector_of("text")]
    assert healthy.usage.requests == 1


def test_pause_error_names_its_cause_and_its_end(entry_point):
    with scripted(lambda _: RATE_LIMITED) as server:
        client = EmbeddingClient("gateway:m", api_key=f"sk-account-{next(ACCOUNTS)}", base_url=server.url, deadline=5)
        with pytest.raises(RateLimitError) as first:
            entry_point(client, ["text"])
        with pytest.raises(RateLimitError, match="Nothing was sent") as second:
            entry_point(client, ["text"])
        assert len(server.requests) == 1
    assert first.value.retry_after == 60.0
    assert 0.0 < second.value.retry_after <= 20.0
    assert "deadline" in str(second.value)
    assert "has passed" not in str(second.value)


def test_pause_error_after_failures_has_their_kind(entry_point):
    with scripted(lambda _: DOWN) as server:
        client = EmbeddingClient("gateway:m", api_key=f"sk-account-{next(ACCOUNTS)}", base_url=server.url)
        config = client.target
        limiter = limiter_for(account_id(config))
        for _ in range(3):
            limiter.permit().report_failure(19.0, "server")
        hurried = EmbeddingClient("gateway:m", api_key=config.key.get(), base_url=server.url, deadline=2, max_retries=0)
        with pytest.raises(ServerError, match="Nothing was sent") as caught:
            entry_point(hurried, ["text"])
        assert server.requests == []
    assert 10.0 < caught.value.retry_after <= 19.0


@pytest.mark.parametrize("seconds", [30.0, 1000.0])
def test_one_rate_limit_pauses_an_account_at_most_20_seconds(seconds):
    play = Play(max_retries=0)
    play.run(["a"], [good])
    play.run(["b"], [always(reply(429, b"", **{"retry-after": str(seconds)}))])
    breaker = play.limiter.breaker
    assert breaker.open_until - play.now == 20.0
    assert breaker.max_in_flight(play.now + 20.0, 8) == 1  # a probe
    play.now += 20.0
    play.run(["b"], [always(reply(429, b"", **{"retry-after": str(seconds)}))])
    assert breaker.open_until - play.now == min(seconds, 120.0)


@pytest.mark.parametrize("status", [200, 500, 503])
def test_one_failure_pauses_a_new_account_at_most_20_seconds(status):
    play = Play(max_retries=0)
    play.run(["a"], [always(reply(status, b"{}", **{"retry-after": "3600"}))])
    assert play.limiter.breaker.open_until - play.now <= 20.0


def test_short_timeout_is_not_counted_as_a_failure():
    play = Play(timeout=0.05, max_retries=5)
    late = always(TransportFailure("timeout", "no whole answer within 0.05 s"))
    play.run(["a"], [late, late, late, late, good])
    assert play.limiter.failures == 0
    assert play.limiter.breaker.open_until == float("-inf")


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL])
def test_local_socket_error_is_not_counted_as_a_failure(code):
    failure = failure_of(OSError(code, "too many"))
    assert failure.local
    assert not failure_of(ConnectionResetError(errno.ECONNRESET, "reset")).local
    play = Play(max_retries=5)
    play.run(["a"], [always(failure)] * 4 + [good])
    assert play.limiter.failures == 0
    assert play.limiter.breaker.open_until == float("-inf")
    error = Play(max_retries=0).run(["a"], [always(failure)]).failures[0]
    assert "ulimit -n" in error.message


def test_spent_retry_budget_leaves_one_retry_before_the_deadline():
    play = Play(max_retries=5, deadline=10.0)
    play.limiter.permit().report_success()
    while play.limiter.retry_budget.try_spend():
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
def test_error_after_one_attempt_mentions_no_other_attempt(answer, error):
    caught = Play(max_retries=0).run(["a"], [always(answer)]).failures[0]
    assert type(caught) is error
    assert "again" not in caught.message
    assert "also" not in caught.message


# ── unused limiters ────────────────────────────────────────────────────────────────


def test_unused_limiters_are_dropped_after_an_hour(monkeypatch):
    monkeypatch.setattr(limiters, "_limiters", {})
    now = 0.0

    def limiter(account):
        return limiter_for(account, lambda: now)

    def kept():
        return sorted(account for _, account, _ in limiters._limiters)

    class Client:
        pass

    client, owned = Client(), limiter("owned")
    owned.owners[client] = AccountLimits()
    for number in range(100):
        limiter(f"rotated {number}")
    assert len(kept()) == 101
    now = 1800.0
    used = limiter("rotated 7")
    now = 3601.0
    limiter("new")
    assert kept() == ["new", "owned", "rotated 7"]
    assert (limiter("rotated 7"), limiter("owned")) == (used, owned)
    del client
    gc.collect()
    now = 9000.0
    limiter("last")
    assert kept() == ["last"]
