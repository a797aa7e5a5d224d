"""Every fault on the wire, through every provider and every door: the right vectors, or an error that says why.

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
from support.adapters import ASYNC_DOORS, DOORS, are_right, call, client_of, provider_of

import multiembed
from multiembed import MultiEmbedError, PartialFailureError, errors
from multiembed.execution.runtime import account_id
from multiembed.providers import PROVIDERS
from multiembed.ratelimit.limiter import limiter_for
from multiembed.simulator import Simulator
from multiembed.simulator.fault_injection import FAULTS

KEY = "sk-never-to-be-seen-5f1c2a"
MODELS = (
    "zhipu:embedding-3",
    "siliconflow:BAAI/bge-m3",
    "dashscope:text-embedding-v4",
    "dashscope-compatible:text-embedding-v4",
    "openai-compatible:any-model",
    "gateway:any-model",
)
SIZES = {"siliconflow:BAAI/bge-m3": 1024}
"""The lengths of vectors; 64 where the model leaves the choice, 256 for Zhipu."""
TEXTS = [f"text {number} 文本" for number in range(12)]
CULPRIT = 7

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
CASES = [
    pytest.param(model, name, id=f"{name}-{provider_of(model)}")
    for name, fault in FAULTS.items()
    for model in MODELS
    if provider_of(model) in fault.applies_to
]


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


def embedder_of(door, model, server, **options):
    size = {"zhipu": 256, "siliconflow": None}.get(provider_of(model), 64)
    address = {"base_url": server.base_url(provider_of(model)), "api_key": KEY}
    return door.make(model, dimensions=size, **{"max_retries": 1, "timeout": 10.0, **address, **options})


def size_of(model):
    return {"zhipu": 256, "siliconflow": 1024}.get(provider_of(model), 64)


def texts_for(name):
    texts = list(TEXTS)
    if name == "text-too-long":
        texts[CULPRIT] = "long " * 2000  # so long that it may well be too long for the model
    if name == "moderated":
        texts[CULPRIT] = "MODERATED"
    return texts


def settle(name, elsewhere):
    return {"target": elsewhere.url} if name == "redirect-other-host" else SETTINGS.get(name, {})


def outcome_of(door, embedder, texts):
    """The vectors, or the error."""
    try:
        return call(door.embed, embedder, texts)
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


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_that_the_simulator_makes_is_in_the_table(name):
    assert name in EXPECTED


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS.keys())
@pytest.mark.parametrize(("model", "name"), CASES)
def test_a_fault_gives_the_right_vectors_or_its_error(faulty, elsewhere, door, model, name):
    faulty.fail(name, **settle(name, elsewhere))
    texts = texts_for(name)
    options = {"timeout": 0.3, "max_retries": 0} if name in SLOW else {}
    result = outcome_of(door, embedder_of(door, model, faulty, **options), texts)
    expected = EXCEPTIONS.get((provider_of(model), name), EXPECTED[name])
    assert elsewhere.requests == []  # no key, no text left
    if expected == RIGHT:
        assert are_right(result, texts, size_of(model))
        return
    assert isinstance(result, expected if name not in ONE_TEXT else PartialFailureError), result
    assert_speaks(result, model, texts)
    if name in ONE_TEXT:
        assert {index: type(error) for index, error in result.failures.items()} == {CULPRIT: expected}
        rows = result.result.vectors
        others = [index for index in range(len(texts)) if index != CULPRIT]
        assert are_right(rows[others], [texts[index] for index in others], size_of(model))
    else:
        assert result.indices == tuple(range(len(texts)))


PASSING = [
    case
    for case in CASES
    if EXPECTED[case.values[1]]
    in (errors.MalformedResponseError, errors.ServerError, errors.RateLimitError, errors.ConnectionFailedError,
        errors.RequestTimeoutError)
    and case.values[1] not in (*SLOW, "proxy-407")
]  # fmt: skip


@pytest.mark.parametrize("door", [DOORS["client-sync"], DOORS["client-async"]], ids=["sync", "async"])
@pytest.mark.parametrize(("model", "name"), PASSING)
def test_a_fault_that_passes_is_survived_and_costs_one_request_more(faulty, elsewhere, door, model, name):
    embedder = embedder_of(door, model, faulty)
    assert are_right(outcome_of(door, embedder, TEXTS[:1]), TEXTS[:1], size_of(model))  # opens a connection
    faulty.fail(name, times=1, **settle(name, elsewhere))
    assert are_right(outcome_of(door, embedder, TEXTS), TEXTS, size_of(model))
    # A request that dies unanswered on a kept connection counts once, though it is sent twice.
    assert client_of(embedder).usage.retries == (name not in ("connection-closed", "connection-reset"))


FATAL = (errors.AuthenticationError, errors.PermissionDeniedError, errors.QuotaExhaustedError,
         errors.ModelNotFoundError, errors.APIError)  # fmt: skip
FINAL = [case for case in CASES if EXPECTED[case.values[1]] in FATAL or case.values[1] == "proxy-407"]


@pytest.mark.parametrize("door", [DOORS["client-sync"], DOORS["client-async"]], ids=["sync", "async"])
@pytest.mark.parametrize(("model", "name"), FINAL)
def test_what_no_text_can_survive_costs_one_request_and_no_further_batch(faulty, elsewhere, door, model, name):
    faulty.fail(name, **settle(name, elsewhere))
    embedder = embedder_of(door, model, faulty, max_retries=5, headers={"X-Account": "new"})
    limiter = limiter_for(account_id(client_of(embedder).target))
    limiter.breaker.is_closed = False  # as at the first contact
    texts = [f"text {number}" for number in range(300)]
    assert isinstance(outcome_of(door, embedder, texts), EXPECTED[name])
    assert len(faulty.requests) == 1


def test_a_fatal_error_in_the_middle_keeps_what_was_paid(faulty):
    embedder = embedder_of(DOORS["client-sync"], "dashscope:text-embedding-v4", faulty, max_concurrency=2)
    faulty.fail("money", after=5)
    texts = [f"text {number}" for number in range(200)]
    error = outcome_of(DOORS["client-sync"], embedder, texts)
    assert isinstance(error, PartialFailureError)
    assert {type(each) for each in error.failures.values()} == {errors.QuotaExhaustedError}
    kept = [index for index in range(200) if index not in error.failures]
    assert len(kept) == 50
    assert are_right(error.result.vectors[kept], [texts[index] for index in kept], 64)
    assert len(faulty.requests) <= 5 + 2


# ── one text's fault ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS.keys())
@pytest.mark.parametrize("model", [model for model in MODELS if provider_of(model) in FAULTS["moderated"].applies_to])
@pytest.mark.parametrize("place", [0, 9, 500, 999])
def test_one_poisoned_text_in_a_thousand_fails_alone_and_costs_few_requests(faulty, door, model, place):
    faulty.fail("moderated")
    texts = [f"text {number}" for number in range(1000)]
    texts[place] = "MODERATED"
    embedder = embedder_of(door, model, faulty)
    error = outcome_of(door, embedder, texts)
    assert {index: type(each) for index, each in error.failures.items()} == {place: errors.ContentRejectedError}
    batch = client_of(embedder).target.limits.max_items
    planned = -(-1000 // batch)
    assert len(faulty.requests) <= planned + 2 * math.log2(batch)
    paid = [text for request in faulty.requests if request.status == 200 for text in texts_in(request)]
    assert sorted(paid) == sorted(set(texts) - {"MODERATED"})  # the neighbours are paid once


def texts_in(request):
    given = request.body["input"]
    return given["texts"] if isinstance(given, dict) else given


@pytest.mark.parametrize("door", [DOORS["client-sync"], DOORS["client-async"]], ids=["sync", "async"])
def test_a_cap_that_is_named_is_learned_for_the_next_call(faulty, door):
    faulty.fail("batch-too-large-with-cap", cap=4)
    embedder = embedder_of(door, "zhipu:embedding-3", faulty)
    for turn in range(2):
        texts = [f"{turn} {number}" for number in range(64)]
        assert are_right(outcome_of(door, embedder, texts), texts, 256)
        refused = [request for request in faulty.requests if request.status == 400]
        assert len(refused) == 1 - turn
        faulty.clear()


# ── time ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS.keys())
@pytest.mark.parametrize("name", ["silence", "trickle-headers", "trickle-body"])
def test_the_deadline_of_a_call_is_kept_under_trickling(faulty, door, name):
    faulty.fail(name)
    embedder = embedder_of(door, "dashscope:text-embedding-v4", faulty, timeout=30.0, deadline=0.3, max_retries=50)
    assert type(outcome_of(door, embedder, TEXTS)) is errors.DeadlineExceededError
    assert len(faulty.requests) <= 2


def test_a_wait_beyond_the_deadline_is_an_error_at_once_that_tells_the_wait(server):
    server.heal()
    server.fail("retry-after-seconds", delay=100)
    for door in (DOORS["client-sync"], DOORS["client-async"]):
        server.clear()
        embedder = embedder_of(door, "dashscope:text-embedding-v4", server, deadline=30.0, api_key=KEY)
        limiter_for(account_id(client_of(embedder).target)).breaker.open_until = 0.0
        error = outcome_of(door, embedder, [f"text {number}" for number in range(200)])
        assert (type(error), error.retry_after) == (errors.RateLimitError, 100.0)
        assert len(server.requests) <= 8  # those that were under way together, and none after the answer
        limiter_for(account_id(client_of(embedder).target)).breaker.open_until = 0.0
    server.heal()


async def test_a_cancelled_call_leaves_no_task_and_no_place_taken(faulty):
    faulty.fail("silence")
    door = ASYNC_DOORS["client"]
    embedder = embedder_of(door, "dashscope:text-embedding-v4", faulty)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await door.embed(embedder, [f"text {number}" for number in range(100)])
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert limiter_for(account_id(embedder.target)).in_flight == 0
    faulty.heal()
    assert are_right(await door.embed(embedder, TEXTS), TEXTS, 64)


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS.keys())
@pytest.mark.parametrize("wrong", ["self-signed", "expired", "wrong-host"])
def test_a_certificate_that_is_not_trusted_ends_the_call_at_once(door, wrong):
    with Simulator(api_key=KEY, tls=wrong) as server:
        error = outcome_of(door, embedder_of(door, "zhipu:embedding-3", server, max_retries=5), TEXTS)
        assert type(error) is errors.ConnectionFailedError
        assert "certificate" in str(error)
        assert_speaks(error, "zhipu:embedding-3", TEXTS)
        assert server.requests == []


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS.keys())
def test_a_host_that_does_not_exist_is_a_connection_that_failed(door, monkeypatch):
    def no_such_host(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_host)
    with multiembed.no_waits():
        embedder = door.make(
            "zhipu:embedding-3", api_key=KEY, base_url="https://no-such-host.invalid/v4", max_retries=1
        )
        error = outcome_of(door, embedder, TEXTS)
    assert type(error) is errors.ConnectionFailedError
    assert_speaks(error, "zhipu:embedding-3", TEXTS)


def test_the_table_covers_every_remote_provider():
    assert {provider_of(model) for model in MODELS} == {name for name, one in PROVIDERS.items() if not one.compute}


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS.keys())
@pytest.mark.parametrize("name", ["server-error", "bad-key", "connection-reset", "redirect-other-host", "vector-short"])
def test_no_log_at_any_level_holds_the_key(faulty, elsewhere, door, name, caplog):
    faulty.fail(name, **settle(name, elsewhere))
    with caplog.at_level(logging.DEBUG):
        outcome_of(door, embedder_of(door, "zhipu:embedding-3", faulty), TEXTS)
        faulty.heal()
        outcome_of(door, embedder_of(door, "zhipu:embedding-3", faulty), TEXTS)
    assert KEY not in caplog.text
    assert KEY not in "".join(str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS.keys())
def test_no_embedder_shows_its_key(faulty, door):
    embedder = embedder_of(door, "zhipu:embedding-3", faulty)
    outcome_of(door, embedder, TEXTS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        said = [repr(embedder), str(embedder), repr(pickle.dumps(embedder)), repr(client_of(embedder))]
        ways = ("model_dump", "model_dump_json", "to_dict", "to_json")
        said += [str(getattr(embedder, way)()) for way in ways if hasattr(embedder, way)]
    assert KEY not in " ".join(said)
