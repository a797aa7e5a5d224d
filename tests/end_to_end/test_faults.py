"""Every fault on the wire, through every provider and entry point: the right vectors, or an error with its reason.

For every text i: the vector of text i, or a MultiEmbedError. Never another text's vector, a None or a shorter list.
"""

from __future__ import annotations

import asyncio
import logging
import math
import pickle
import socket
import warnings

import pytest
import support.faults  # noqa: F401 - registers the faults that only tests inject
from support.adapters import ASYNC_ENTRY_POINTS, ENTRY_POINTS, are_right, call, client_of, provider_of
from support.providers import REMOTE_MODELS

import multiembed
from multiembed import MultiEmbedError, PartialFailureError, errors
from multiembed.execution.runtime import account_id
from multiembed.providers import PROVIDERS
from multiembed.ratelimit.registry import limiter_for
from multiembed.simulator import Simulator
from multiembed.simulator.fault_injection import FAULTS

KEY = "sk-never-to-be-seen-5f1c2a"
MODELS = tuple(REMOTE_MODELS.values())
TEXTS = [f"text {number} 文本" for number in range(12)]
BAD_TEXT = 7

RIGHT = "the right vectors"
EXPECTED = {
    **dict.fromkeys((name for name, fault in FAULTS.items() if fault.harmless), RIGHT),
    **dict.fromkeys(
        (name for name, fault in FAULTS.items() if fault.where in ("items", "vectors") and not fault.harmless),
        errors.MalformedResponseError,
    ),
    **dict.fromkeys(
        ("html-200", "empty-200", "truncated-json", "duplicate-keys", "duplicate-keys-in-item",
         "gateway-record", "gzip-broken", "gzip-missing", "gzip-bomb"),
        errors.MalformedResponseError,
    ),
    **dict.fromkeys(
        ("error-in-200", "overloaded", "server-error", "gateway-timeout-string", "bad-gateway-html",
         "gateway-timeout-html", "server-error-empty", "proxy-502"),
        errors.ServerError,
    ),
    **dict.fromkeys(("auth-in-200", "bad-key"), errors.AuthenticationError),
    **dict.fromkeys(
        ("money", "money-402", "money-free-quota", "money-overdue", "money-in-200", "plan-expired", "plan-used-up",
         "plan-daily", "account-locked"),
        errors.QuotaExhaustedError,
    ),
    "forbidden": errors.PermissionDeniedError,
    **dict.fromkeys(("not-found", "unknown-model"), errors.ModelNotFoundError),
    **dict.fromkeys(("invalid-parameter", "http-400-internal-error-text"), errors.InvalidRequestError),
    **dict.fromkeys(
        (name for name in FAULTS if name.startswith(("rate-limit", "retry-after"))), errors.RateLimitError
    ),
    **dict.fromkeys(
        ("batch-too-large-with-cap", "batch-too-large-without-cap", "request-too-large", "request-too-large-html"),
        RIGHT,
    ),
    "base64-refused": RIGHT,
    "text-too-long": errors.InputTooLongError,
    "moderated": errors.ContentRejectedError,
    "proxy-407": errors.ConnectionFailedError,
    **dict.fromkeys(("redirect-same-host", "redirect-other-host"), errors.APIError),
    "request-timeout": errors.RequestTimeoutError,
    **dict.fromkeys(
        ("connection-reset", "connection-closed", "reset-in-headers", "reset-after-headers", "reset-in-body",
         "body-truncated", "chunk-truncated", "not-http"),
        errors.ConnectionFailedError,
    ),
    "keepalive-reset": RIGHT,
    **dict.fromkeys(("silence", "trickle-headers", "trickle-body"), errors.RequestTimeoutError),
    # cut off by the limit of the library that reads them, or by the attempt's time
    "headers-endless": (errors.ConnectionFailedError, errors.RequestTimeoutError, errors.MalformedResponseError),
}  # fmt: skip
EXCEPTIONS = {
    # Zhipu says that a model is overloaded with a code of its own, as a 429.
    ("zhipu", "overloaded"): errors.RateLimitError,
    # The only provider that is asked for base64 by default.
    ("siliconflow", "base64-refused"): errors.InvalidRequestError,
}
SLOW = {"silence", "trickle-headers", "trickle-body", "headers-endless"}
ONE_TEXT = {"text-too-long", "moderated"}
SETTINGS = {
    "batch-too-large-with-cap": {"cap": 3},
    "batch-too-large-without-cap": {"cap": 3},
    "request-too-large": {"bytes": 200},
    "request-too-large-html": {"bytes": 200},
    "text-too-long": {"characters": 100},
    "gzip-bomb": {"megabytes": 64},
}


def each_with_one_of(names):
    """Each entry point with one of the names, and each name with at least one entry point."""
    rows = range(max(len(ENTRY_POINTS), len(names)))
    pairs = [(list(ENTRY_POINTS)[row % len(ENTRY_POINTS)], names[row % len(names)]) for row in rows]
    return [pytest.param(ENTRY_POINTS[entry_point], name, id=f"{name}-{entry_point}") for entry_point, name in pairs]


def product(names, entry_points, rows=6):
    """Faults x their providers x entry points. All but some rows of each fault have the marker `slow`."""
    cases = []
    for number, name in enumerate(names):
        models = [model for model in MODELS if provider_of(model) in FAULTS[name].applies_to]
        sample = {
            (models[(number * rows + row) % len(models)], entry_points[(row + number) % len(entry_points)])
            for row in range(rows)
        }
        cases += [
            pytest.param(
                ENTRY_POINTS[entry_point],
                model,
                name,
                id=f"{name}-{provider_of(model)}-{entry_point}",
                marks=() if (model, entry_point) in sample else pytest.mark.slow,
            )
            for model in models
            for entry_point in entry_points
        ]
    return cases


SYNC_AND_ASYNC = ["client-sync", "client-async"]


@pytest.fixture(scope="module")
def server():
    with Simulator(api_key=KEY) as running:
        yield running


@pytest.fixture(scope="module")
def elsewhere():
    with Simulator(api_key=KEY) as running:
        yield running


@pytest.fixture
def faulty(server, elsewhere):
    """The simulator, without faults; waits between attempts are none."""
    server.heal()
    server.clear()
    elsewhere.clear()
    with multiembed.no_waits():
        yield server
    server.heal()


def embedder_of(entry_point, model, server, **options):
    size = size_of(model)
    address = {"base_url": server.base_url(provider_of(model)), "api_key": KEY}
    return entry_point.make(model, dimensions=size, **{"max_retries": 1, "timeout": 10.0, **address, **options})


def size_of(model):
    provider, _, name = model.partition(":")
    return (PROVIDERS[provider].model(name).dimensions or (64,))[0]


def texts_for(name):
    texts = list(TEXTS)
    if name == "text-too-long":
        texts[BAD_TEXT] = "long " * 2000  # so long that it may well be too long for the model
    if name == "moderated":
        texts[BAD_TEXT] = "MODERATED"
    return texts


def settle(name, elsewhere):
    return {"target": elsewhere.url} if name == "redirect-other-host" else SETTINGS.get(name, {})


def outcome_of(entry_point, embedder, texts):
    """The vectors, or the error."""
    try:
        return call(entry_point.embed, embedder, texts)
    except MultiEmbedError as error:
        return error


def everything_said(error, seen=None):
    """All that an error, its chain and its attributes hold, as text."""
    seen = set() if seen is None else seen
    if error is None or id(error) in seen:
        return ""
    seen.add(id(error))
    parts = [str(error), repr(error), repr(error.args), repr(vars(error)), repr(pickle.dumps(error))]
    parts += [everything_said(each, seen) for each in (error.__cause__, error.__context__)]
    parts += [everything_said(each, seen) for each in getattr(error, "failures", {}).values()]
    return " ".join(parts)


def assert_speaks(error, model, texts):
    """It says where it happened, keeps the key to itself, and travels."""
    assert KEY not in everything_said(error)
    assert (error.provider, error.model) == tuple(model.split(":", 1))
    assert not any(text in str(error) for text in texts if len(text) > 100)
    assert not isinstance(error, RuntimeError)
    copied = pickle.loads(pickle.dumps(error))
    assert (type(copied), str(copied), copied.indices) == (type(error), str(error), error.indices)


def test_every_fault_has_an_expected_result():
    assert FAULTS.keys() == EXPECTED.keys()


@pytest.mark.parametrize(("entry_point", "model", "name"), product(FAULTS, list(ENTRY_POINTS)))
def test_fault_returns_vectors_or_its_error(faulty, elsewhere, entry_point, model, name):
    faulty.fail(name, **settle(name, elsewhere))
    texts = texts_for(name)
    options = {"timeout": 0.3, "max_retries": 0} if name in SLOW else {}
    result = outcome_of(entry_point, embedder_of(entry_point, model, faulty, **options), texts)
    expected = EXCEPTIONS.get((provider_of(model), name), EXPECTED[name])
    assert elsewhere.requests == []  # no key, no text left
    if expected == RIGHT:
        assert are_right(result, texts, size_of(model))
        return
    assert isinstance(result, expected if name not in ONE_TEXT else PartialFailureError), result
    assert_speaks(result, model, texts)
    if name in ONE_TEXT:
        assert {index: type(error) for index, error in result.failures.items()} == {BAD_TEXT: expected}
        rows = result.result.vectors
        others = [index for index in range(len(texts)) if index != BAD_TEXT]
        assert are_right(rows[others], [texts[index] for index in others], size_of(model))
    else:
        assert result.indices == tuple(range(len(texts)))


RETRYABLE = (errors.MalformedResponseError, errors.ServerError, errors.RateLimitError, errors.ConnectionFailedError,
             errors.RequestTimeoutError)  # fmt: skip
PASSING = [name for name, expected in EXPECTED.items() if expected in RETRYABLE and name not in (*SLOW, "proxy-407")]


@pytest.mark.parametrize(("entry_point", "model", "name"), product(PASSING, SYNC_AND_ASYNC, rows=2))
def test_transient_fault_is_retried_once(faulty, elsewhere, entry_point, model, name):
    embedder = embedder_of(entry_point, model, faulty)
    assert are_right(outcome_of(entry_point, embedder, TEXTS[:1]), TEXTS[:1], size_of(model))  # opens a connection
    faulty.fail(name, times=1, **settle(name, elsewhere))
    assert are_right(outcome_of(entry_point, embedder, TEXTS), TEXTS, size_of(model))
    # A request that dies unanswered on a kept connection counts once, though it is sent twice.
    assert client_of(embedder).usage.retries == (name not in ("connection-closed", "connection-reset"))


FATAL = (errors.AuthenticationError, errors.PermissionDeniedError, errors.QuotaExhaustedError,
         errors.ModelNotFoundError, errors.APIError)  # fmt: skip
FINAL = [name for name, expected in EXPECTED.items() if expected in FATAL or name == "proxy-407"]


@pytest.mark.parametrize(("entry_point", "model", "name"), product(FINAL, SYNC_AND_ASYNC, rows=2))
def test_fatal_error_sends_no_further_request(faulty, elsewhere, entry_point, model, name):
    faulty.fail(name, **settle(name, elsewhere))
    embedder = embedder_of(entry_point, model, faulty, max_retries=5, headers={"X-Account": "new"})
    limiter = limiter_for(account_id(client_of(embedder).target))
    limiter.breaker.is_closed = False  # as at the first contact
    texts = [f"text {number}" for number in range(300)]
    assert isinstance(outcome_of(entry_point, embedder, texts), EXPECTED[name])
    assert len(faulty.requests) == 1


def test_fatal_error_midway_keeps_paid_vectors(faulty):
    embedder = embedder_of(ENTRY_POINTS["client-sync"], "dashscope:text-embedding-v4", faulty, max_concurrency=2)
    faulty.fail("money", after=5)
    texts = [f"text {number}" for number in range(200)]
    error = outcome_of(ENTRY_POINTS["client-sync"], embedder, texts)
    assert isinstance(error, PartialFailureError)
    assert {type(each) for each in error.failures.values()} == {errors.QuotaExhaustedError}
    kept = [index for index in range(200) if index not in error.failures]
    assert len(kept) == 50
    assert are_right(error.result.vectors[kept], [texts[index] for index in kept], 64)
    assert len(faulty.requests) <= 5 + 2


# ── one text's fault ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("entry_point", "model", "name", "position"),
    [
        pytest.param(*case.values, position, marks=case.marks, id=f"{case.id}-{position}")
        for case in product(["moderated"], list(ENTRY_POINTS))
        for position in (0, 9, 100, 199)
    ],
)
def test_rejected_text_fails_alone_in_few_requests(faulty, entry_point, model, name, position):
    faulty.fail(name)
    texts = [f"text {number}" for number in range(200)]
    texts[position] = "MODERATED"
    embedder = embedder_of(entry_point, model, faulty)
    error = outcome_of(entry_point, embedder, texts)
    assert {index: type(each) for index, each in error.failures.items()} == {position: errors.ContentRejectedError}
    batch = client_of(embedder).target.limits.max_items
    planned = -(-200 // batch)
    assert len(faulty.requests) <= planned + 2 * math.log2(batch)
    paid = [text for request in faulty.requests if request.status == 200 for text in texts_in(request)]
    assert sorted(paid) == sorted(set(texts) - {"MODERATED"})  # the other texts are paid for once


def texts_in(request):
    given = request.body["input"]
    return given["texts"] if isinstance(given, dict) else given


@pytest.mark.parametrize(
    "entry_point", [ENTRY_POINTS["client-sync"], ENTRY_POINTS["client-async"]], ids=["sync", "async"]
)
def test_batch_limit_in_an_error_is_learned(faulty, entry_point):
    faulty.fail("batch-too-large-with-cap", cap=4)
    embedder = embedder_of(entry_point, "zhipu:embedding-3", faulty)
    for turn in range(2):
        texts = [f"{turn} {number}" for number in range(64)]
        assert are_right(outcome_of(entry_point, embedder, texts), texts, 256)
        refused = [request for request in faulty.requests if request.status == 400]
        assert len(refused) == 1 - turn
        faulty.clear()


# ── time ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("entry_point", "name"), each_with_one_of(["silence", "trickle-headers", "trickle-body"]))
def test_deadline_holds_while_a_response_trickles(faulty, entry_point, name):
    faulty.fail(name)
    embedder = embedder_of(
        entry_point, "dashscope:text-embedding-v4", faulty, timeout=30.0, deadline=0.3, max_retries=50
    )
    assert type(outcome_of(entry_point, embedder, TEXTS)) is errors.DeadlineExceededError
    assert len(faulty.requests) <= 2


def test_retry_after_beyond_the_deadline_fails_at_once(server):
    server.heal()
    server.fail("retry-after-seconds", delay=100)
    for entry_point in (ENTRY_POINTS["client-sync"], ENTRY_POINTS["client-async"]):
        server.clear()
        embedder = embedder_of(entry_point, "dashscope:text-embedding-v4", server, deadline=30.0, api_key=KEY)
        limiter_for(account_id(client_of(embedder).target)).breaker.open_until = 0.0
        error = outcome_of(entry_point, embedder, [f"text {number}" for number in range(200)])
        assert (type(error), error.retry_after) == (errors.RateLimitError, 100.0)
        assert len(server.requests) <= 8  # those that were under way together, and none after the answer
        limiter_for(account_id(client_of(embedder).target)).breaker.open_until = 0.0
    server.heal()


async def test_cancelled_call_releases_tasks_and_permits(faulty):
    faulty.fail("silence")
    entry_point = ASYNC_ENTRY_POINTS["client"]
    embedder = embedder_of(entry_point, "dashscope:text-embedding-v4", faulty)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await entry_point.embed(embedder, [f"text {number}" for number in range(100)])
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert limiter_for(account_id(embedder.target)).pacer.in_flight == 0
    faulty.heal()
    assert are_right(await entry_point.embed(embedder, TEXTS), TEXTS, 64)


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("entry_point", "wrong"), each_with_one_of(["self-signed", "expired", "wrong-host"]))
def test_untrusted_certificate_ends_the_call(entry_point, wrong):
    with Simulator(api_key=KEY, tls=wrong) as server:
        error = outcome_of(entry_point, embedder_of(entry_point, "zhipu:embedding-3", server, max_retries=5), TEXTS)
        assert type(error) is errors.ConnectionFailedError
        assert "certificate" in str(error)
        assert_speaks(error, "zhipu:embedding-3", TEXTS)
        assert server.requests == []


@pytest.mark.parametrize("entry_point", ENTRY_POINTS.values(), ids=ENTRY_POINTS.keys())
def test_unknown_host_is_a_connection_failure(entry_point, monkeypatch):
    def no_such_host(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    with multiembed.no_waits():
        embedder = entry_point.make(
            "zhipu:embedding-3", api_key=KEY, base_url="https://no-such-host.invalid/v4", max_retries=1
        )
        error = outcome_of(entry_point, embedder, TEXTS)
    assert type(error) is errors.ConnectionFailedError
    assert_speaks(error, "zhipu:embedding-3", TEXTS)


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("entry_point", "name"),
    each_with_one_of(["server-error", "bad-key", "connection-reset", "redirect-other-host", "vector-short"]),
)
def test_log_of_any_level_has_no_key(faulty, elsewhere, entry_point, name, caplog):
    faulty.fail(name, **settle(name, elsewhere))
    with caplog.at_level(logging.DEBUG):
        outcome_of(entry_point, embedder_of(entry_point, "zhipu:embedding-3", faulty), TEXTS)
        faulty.heal()
        outcome_of(entry_point, embedder_of(entry_point, "zhipu:embedding-3", faulty), TEXTS)
    assert KEY not in caplog.text
    assert KEY not in "".join(str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize("entry_point", ENTRY_POINTS.values(), ids=ENTRY_POINTS.keys())
def test_embedder_does_not_show_its_key(faulty, entry_point):
    embedder = embedder_of(entry_point, "zhipu:embedding-3", faulty)
    outcome_of(entry_point, embedder, TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = [repr(embedder), str(embedder), repr(pickle.dumps(embedder)), repr(client_of(embedder))]
        ways = ("model_dump", "model_dump_json", "to_dict", "to_json")
        said += [str(getattr(embedder, way)()) for way in ways if hasattr(embedder, way)]
    assert KEY not in " ".join(said)
