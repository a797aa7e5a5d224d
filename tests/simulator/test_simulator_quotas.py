"""The simulated account's quotas: counted by hand-fed times, and kept over real sockets in every form."""

from __future__ import annotations

import asyncio
import io
import time
from contextlib import contextmanager

import httpx
import pytest
import support.faults  # noqa: F401 - registers the faults that only tests inject
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from multiembed.cli import simulate
from multiembed.errors import ConfigurationError
from multiembed.providers import PROVIDERS
from multiembed.simulator import Simulator, request_log
from multiembed.simulator.formats import API_FORMATS
from multiembed.simulator.quota_counters import Bucket, FixedWindow, SlidingWindow
from multiembed.simulator.quotas import Excess, Quota, Quotas
from multiembed.simulator.request_log import Arrival, RequestLog
from multiembed.simulator.tokenizer import count_tokens

KEY = "sk-simulator"
KINDS = ("bucket", "sliding", "fixed")
PER_SECOND = ("dashscope", "dashscope-compatible")
MODELS = {
    "zhipu": "embedding-3",
    "siliconflow": "Qwen/Qwen3-Embedding-0.6B",
    "dashscope": "text-embedding-v4",
    "dashscope-compatible": "text-embedding-v4",
    "gateway": "any-model",
}
ZHIPU, GATEWAY, DASHSCOPE = API_FORMATS["zhipu"], API_FORMATS["gateway"], API_FORMATS["dashscope"]

# Whole 64ths are exact, so that no sum of them is a hair off.
gaps = st.integers(0, 640).map(lambda number: number / 64)
asked = st.lists(st.tuples(gaps, st.integers(1, 40)), min_size=1, max_size=200)


def limited(**quota):
    quotas = Quotas()
    quotas.limit(Quota(**quota), 0.0)
    return quotas


def accepted(quotas, times, form=ZHIPU, tokens=1):
    """The times at which one request each gets in; each is answered at once."""
    inside = []
    for now in times:
        if quotas.enter(form, tokens, now) is None:
            quotas.leave(form)
            inside.append(now)
    return inside


def passed(meter, asked):
    """What a meter lets pass of what is asked, as (time, amount)."""
    now, found = 0.0, []
    for gap, amount in asked:
        now += gap
        if meter.allows(now, amount):
            meter.take(now, amount)
            found.append((now, amount))
    return found


# meters


@given(asked, st.integers(1, 60), st.sampled_from([1.0, 60.0]))
def test_no_sliding_window_holds_more_than_its_share(asked, per_minute, seconds):
    found = passed(SlidingWindow(per_minute, seconds), asked)
    most = max(1, -(-per_minute * seconds // 60))
    for start, _ in found:
        amounts = [amount for now, amount in found if start <= now < start + seconds]
        assert sum(amounts) <= most or len(amounts) == 1


@given(asked, st.integers(1, 600))
def test_a_bucket_lets_pass_what_flows_in_and_one_second_more(asked, per_minute):
    found = passed(Bucket(per_minute), [(gap, 1) for gap, _ in asked])
    rate = per_minute / 60
    for place, (start, _) in enumerate(found):
        for count, (end, _) in enumerate(found[place:], start=1):
            assert count <= max(1.0, rate) + (end - start) * rate + 1e-6


@given(asked, st.integers(1, 60))
def test_no_fixed_minute_holds_more_than_its_share(asked, per_minute):
    found = passed(FixedWindow(per_minute), asked)
    start = asked[0][0]
    minutes = {}
    for now, amount in found:
        minutes.setdefault((now - start) // 60, []).append(amount)
    assert all(sum(amounts) <= per_minute or len(amounts) == 1 for amounts in minutes.values())


@pytest.mark.parametrize("meter", [Bucket, SlidingWindow, FixedWindow])
@given(asked=asked, per_minute=st.integers(1, 60), halves_at=st.integers(0, 200))
def test_quota_counter_allows_any_request_after_its_window(meter, asked, per_minute, halves_at):
    one = meter(per_minute)
    now = 0.0
    for place, (gap, amount) in enumerate(asked):
        if place == halves_at:
            one.change(now, max(1, per_minute // 2))
        now += gap
        if one.allows(now, amount):
            one.take(now, amount)
    an_hour_each = 3600 * (1 + len(asked))
    assert one.allows(now + an_hour_each, 1000)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("per_minute", [60, 90, 600, 1800])
def test_whoever_asks_all_the_time_gets_the_whole_quota(kind, per_minute):
    times = [tick / 100 for tick in range(180 * 100)]
    found = len(accepted(limited(requests_per_minute=per_minute, kind=kind), times))
    assert 3 * per_minute - 1 <= found <= 3 * per_minute + max(1, per_minute // 60)


def test_bucket_allows_one_second_of_burst_then_a_steady_rate():
    found = accepted(limited(requests_per_minute=120), [0.0] * 5 + [0.25, 0.5, 0.75, 1.0, 1.25])
    assert found == [0.0, 0.0, 0.5, 1.0]


def test_sliding_window_allows_full_burst_again_after_a_minute():
    found = accepted(limited(requests_per_minute=3, kind="sliding"), [0, 10, 20, 30, 59.9, 60, 69, 70])
    assert found == [0, 10, 20, 60, 70]


def test_a_fixed_minute_begins_with_the_first_request():
    found = accepted(limited(requests_per_minute=2, kind="fixed"), [50, 51, 52, 60, 109, 110, 111, 112])
    assert found == [50, 51, 110, 111]


# quotas


def test_without_a_quota_everything_gets_in():
    assert len(accepted(Quotas(), [0.0] * 1000, tokens=10**9)) == 1000


@pytest.mark.parametrize("provider", API_FORMATS)
def test_the_second_is_kept_too_where_the_provider_does_that(provider):
    quota = {"requests_per_minute": 600, "kind": "sliding"}
    found = accepted(limited(**quota), [0.0] * 20, API_FORMATS[provider])
    assert len(found) == (10 if provider in PER_SECOND else 20)
    for told, count in ((True, 10), (False, 20)):
        assert len(accepted(limited(**quota, per_second=told), [0.0] * 20, API_FORMATS[provider])) == count


def test_shared_second_limits_only_the_strict_provider():
    quotas = limited(requests_per_minute=120, kind="sliding")
    assert len(accepted(quotas, [0.0] * 5, GATEWAY)) == 5
    assert not accepted(quotas, [0.9], DASHSCOPE)
    assert accepted(quotas, [0.95], GATEWAY)
    assert accepted(quotas, [1.95], DASHSCOPE)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_counted_as_such(kind):
    quotas = limited(tokens_per_minute=6000, kind=kind, per_second=True)
    found = accepted(quotas, [tick / 10 for tick in range(600)], tokens=40)
    assert 0.75 * 6000 <= 40 * len(found) <= 6000 + 100


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_over_one_second_delay_the_next_request(kind):
    quotas = limited(tokens_per_minute=6000, kind=kind, per_second=True)
    assert accepted(quotas, [0.0], tokens=5000)
    assert not accepted(quotas, [0.5], tokens=1)
    assert accepted(quotas, [61.0], tokens=1)


@pytest.mark.parametrize("kind", KINDS)
def test_more_than_a_minutes_worth_of_tokens_never_gets_in(kind):
    assert not accepted(limited(tokens_per_minute=6000, kind=kind), [0.0, 600.0], tokens=6001)
    assert accepted(limited(tokens_per_minute=6000, kind=kind), [0.0], tokens=6000)


def test_as_many_are_in_flight_as_have_entered_and_not_left():
    quotas = limited(in_flight=2)
    assert quotas.enter(ZHIPU, 1, 0.0) is quotas.enter(GATEWAY, 1, 0.0) is None
    assert quotas.enter(ZHIPU, 1, 0.0) == Excess("in_flight", None)
    quotas.leave(GATEWAY)
    assert quotas.enter(ZHIPU, 1, 0.0) is None


def test_requests_in_flight_count_for_a_later_quota():
    quotas = Quotas()
    for _ in range(3):
        quotas.enter(ZHIPU, 1, 0.0)
    quotas.limit(Quota(in_flight=3), 1.0)
    assert quotas.enter(ZHIPU, 1, 1.0) == Excess("in_flight", None)
    quotas.leave(ZHIPU)
    assert quotas.enter(ZHIPU, 1, 1.0) is None


def test_what_is_refused_for_one_limit_uses_up_no_other():
    quotas = limited(requests_per_minute=2, tokens_per_minute=100, in_flight=5, kind="fixed")
    assert quotas.enter(ZHIPU, 60, 0.0) is None
    assert [quotas.enter(ZHIPU, 60, 0.0) for _ in range(9)] == [Excess("tokens", None)] * 9
    assert quotas.enter(ZHIPU, 40, 0.0) is None
    assert quotas.enter(ZHIPU, 0, 0.0) == Excess("requests", None)


def test_request_must_meet_quota_of_provider_and_of_all():
    quotas = limited(requests_per_minute=3, kind="fixed")
    quotas.limit(Quota(requests_per_minute=1, kind="fixed", retry_after=7), 0.0, "zhipu")
    assert quotas.enter(ZHIPU, 1, 0.0) is None
    assert [quotas.enter(ZHIPU, 1, 0.0) for _ in range(5)] == [Excess("requests", 7)] * 5
    assert len(accepted(quotas, [0.0] * 5, GATEWAY)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_quota_that_halves_midway_halves_what_gets_in(kind):
    quotas = limited(requests_per_minute=600, kind=kind)
    before = accepted(quotas, [tick / 100 for tick in range(60 * 100)])
    quotas.limit(Quota(requests_per_minute=300, kind=kind), 60.0)
    after = accepted(quotas, [60 + tick / 100 for tick in range(120 * 100)])
    assert 600 <= len(before) <= 610
    assert 290 <= len([now for now in after if now >= 120]) <= 310


def test_a_smaller_quota_counts_what_was_used_of_the_larger_one():
    quotas = limited(requests_per_minute=10, kind="sliding")
    assert len(accepted(quotas, range(10))) == 10
    quotas.limit(Quota(requests_per_minute=5, kind="sliding"), 10.0)
    assert accepted(quotas, [20, 59, 64, 65, 66]) == [65, 66]


@pytest.mark.parametrize(
    ("quota", "word"),
    [
        ({}, "unlimit"),
        ({"retry_after": 2}, "requests_per_minute"),
        ({"requests_per_minute": 0}, "requests_per_minute"),
        ({"tokens_per_minute": -5}, "tokens_per_minute"),
        ({"tokens_per_minute": float("nan")}, "tokens_per_minute"),
        ({"requests_per_minute": float("inf")}, "requests_per_minute"),
        ({"in_flight": 0}, "in_flight"),
        ({"in_flight": 1, "kind": "leaky"}, "sliding"),
        ({"in_flight": 1, "retry_after": -1}, "retry_after"),
        ({"in_flight": 1, "provider": "zhpu"}, "zhipu"),
        ({"in_flight": 1, "provider": "local"}, "gateway"),
    ],
)
def test_invalid_quota_error_names_the_argument(quota, word):
    with pytest.raises(ConfigurationError, match=word):
        Simulator().limit(**quota)


# arrivals


def logged(*entries):
    arrivals = RequestLog()
    for now, tokens in entries:
        arrivals.add(Arrival(now, True, tokens, "zhipu"))
    return arrivals


@given(st.lists(st.tuples(gaps, st.integers(0, 9)), max_size=60), st.integers(1, 640).map(lambda number: number / 64))
def test_the_busiest_stretch_is_found(steps, seconds):
    now, entries = 0.0, []
    for gap, tokens in steps:
        now += gap
        entries.append((now, tokens))
    stretches = [[entry for entry in entries if start <= entry[0] < start + seconds] for start, _ in entries]
    arrivals = logged(*entries)
    assert arrivals.most_requests(seconds) == max(map(len, stretches), default=0)
    assert arrivals.most_tokens(seconds) == max((sum(t for _, t in stretch) for stretch in stretches), default=0)


def test_the_log_is_bounded_and_the_counts_are_not(monkeypatch):
    monkeypatch.setattr(request_log, "_MAX_ARRIVALS", 10)
    arrivals = logged(*((now, 1) for now in range(25)))
    assert [arrival.time for arrival in arrivals.arrivals()] == list(range(15, 25))
    assert (arrivals.accepted, arrivals.rejected) == (25, 0)


# over real sockets


@pytest.fixture
def simulator():
    with Simulator() as running:
        yield running


@pytest.fixture(scope="module")
def client():
    with httpx.Client(trust_env=False, headers={"authorization": f"Bearer {KEY}"}) as one:
        yield one


def post(simulator, client, provider="zhipu", texts=("text",), **headers):
    texts = list(texts)
    given = {"texts": texts} if provider == "dashscope" else texts
    url = simulator.base_url(provider) + PROVIDERS[provider].path
    return client.post(url, json={"model": MODELS[provider], "input": given}, headers=headers)


def fault_in(answer, provider):
    return PROVIDERS[provider].classify(answer.status_code, answer.json())


@contextmanager
def held(simulator, client, provider):
    """One request that is being answered meanwhile, byte by byte."""
    simulator.fail("trickle-body", times=1, interval=60.0)
    url = simulator.base_url(provider) + PROVIDERS[provider].path
    given = {"texts": ["text"]} if provider == "dashscope" else "text"
    # Its head has come, so it has been let in.
    with client.stream("POST", url, json={"model": MODELS[provider], "input": given}) as first:
        yield first


LIMITS = [
    ("requests", {"requests_per_minute": 1}),
    ("tokens", {"tokens_per_minute": 1}),
    ("in_flight", {"in_flight": 1}),
]
WORDS = {
    ("zhipu", "requests"): "1302",
    ("zhipu", "tokens"): "1302",
    ("zhipu", "in_flight"): "1302",
    ("siliconflow", "requests"): "Details: RPM limit reached.",
    ("siliconflow", "tokens"): "Details: TPM limit reached.",
    ("siliconflow", "in_flight"): "concurrency",
    ("dashscope", "requests"): "Throttling.RateQuota",
    ("dashscope", "tokens"): "Throttling.AllocationQuota",
    ("dashscope", "in_flight"): "Throttling.Concurrency",
    ("dashscope-compatible", "requests"): "limit_requests",
    ("dashscope-compatible", "tokens"): "insufficient_quota",
    ("dashscope-compatible", "in_flight"): "Throttling.Concurrency",
    ("gateway", "requests"): "requests per min",
    ("gateway", "tokens"): "tokens per min",
    ("gateway", "in_flight"): "concurrent",
}


@pytest.mark.parametrize("retry_after", [None, 2, 0.5])
@pytest.mark.parametrize(("limit", "quota"), LIMITS)
@pytest.mark.parametrize("provider", MODELS)
def test_a_refusal_is_a_passing_rate_limit_in_the_vendors_words(simulator, client, provider, limit, quota, retry_after):
    simulator.limit(**quota, retry_after=retry_after, kind="sliding")
    if limit == "in_flight":
        with held(simulator, client, provider) as first:
            answer = post(simulator, client, provider)
        assert first.status_code == 200
    else:
        assert post(simulator, client, provider).status_code == 200
        answer = post(simulator, client, provider)
    assert answer.status_code == 429
    assert answer.headers.get("retry-after") == (None if retry_after is None else str(retry_after))
    assert fault_in(answer, provider).kind == "rate_limit"
    assert WORDS[provider, limit] in answer.text
    assert (simulator.accepted, simulator.rejected) == (1, 1)
    assert [arrival.accepted for arrival in simulator.arrivals] == [True, False]
    assert {arrival.provider for arrival in simulator.arrivals} == {provider}


@pytest.mark.parametrize("provider", MODELS)
def test_the_tokens_of_an_arrival_are_those_that_are_billed(simulator, client, provider):
    texts = ["敏捷的棕色狐狸 jumps", "over 12 dogs"]
    before = time.monotonic()
    answer = post(simulator, client, provider, texts)
    assert simulator.most_tokens(60.0) == sum(map(count_tokens, texts))
    assert PROVIDERS[provider].decode(answer.json()).total_tokens == simulator.arrivals[0].tokens
    assert before <= simulator.arrivals[0].time <= time.monotonic()


def test_texts_of_many_kilobytes_are_counted_too(simulator, client):
    simulator.limit(tokens_per_minute=1000)
    assert post(simulator, client, "gateway", ["word " * 20_000]).status_code == 429
    assert simulator.most_tokens(1.0) == 20_000


def test_a_quota_of_one_provider_is_no_others(simulator, client):
    simulator.limit(requests_per_minute=1, kind="fixed", provider="zhipu")
    assert [post(simulator, client, "zhipu").status_code for _ in range(3)] == [200, 429, 429]
    assert [post(simulator, client, "gateway").status_code for _ in range(3)] == [200, 200, 200]
    assert simulator.most_requests(60.0) == 6


def test_a_quota_can_be_changed_and_taken_away_midway(simulator, client):
    simulator.limit(requests_per_minute=1, kind="fixed")
    assert [post(simulator, client).status_code for _ in range(2)] == [200, 429]
    simulator.limit(requests_per_minute=2, kind="fixed")
    assert [post(simulator, client).status_code for _ in range(2)] == [200, 429]
    simulator.unlimit()
    assert [post(simulator, client).status_code for _ in range(3)] == [200, 200, 200]
    assert (simulator.accepted, simulator.rejected) == (5, 2)


def test_clear_drops_arrivals_and_keeps_used_quota(simulator, client):
    simulator.limit(requests_per_minute=1, kind="fixed")
    for _ in range(2):
        post(simulator, client)
    simulator.clear()
    assert (simulator.accepted, simulator.rejected, simulator.arrivals) == (0, 0, [])
    assert post(simulator, client).status_code == 429
    assert (simulator.accepted, simulator.rejected) == (0, 1)


def test_strangers_and_what_is_no_json_use_up_nothing(simulator, client):
    simulator.limit(requests_per_minute=1, kind="fixed")
    url = simulator.base_url("zhipu") + PROVIDERS["zhipu"].path
    assert post(simulator, client, authorization="Bearer sk-other").status_code == 401
    assert client.post(url, content=b"{").status_code == 400
    assert client.get(url).status_code == 405
    assert simulator.arrivals == []
    assert post(simulator, client).status_code == 200


def test_a_refusal_for_a_quota_uses_up_no_fault(simulator, client):
    simulator.limit(requests_per_minute=1, kind="fixed")
    simulator.fail("server-error", after=1, times=1)
    assert [post(simulator, client).status_code for _ in range(2)] == [200, 429]
    simulator.unlimit()
    assert [post(simulator, client).status_code for _ in range(2)] == [500, 200]
    assert [(request.status, request.fault) for request in simulator.requests] == [
        (200, None),
        (429, None),
        (500, "server-error"),
        (200, None),
    ]


def test_quota_refusal_comes_before_the_full_latency(client):
    naps = []
    real = asyncio.sleep

    async def sleep(seconds):
        naps.append(seconds)
        await real(0)

    with Simulator(latency=5.0) as simulator, pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "sleep", sleep)
        simulator.limit(requests_per_minute=1, kind="fixed")
        for _ in range(2):
            post(simulator, client)
    assert [seconds for seconds in naps if seconds] == [5.0, 0.5]


def test_whoever_has_the_answer_is_no_longer_in_flight(simulator, client):
    simulator.limit(in_flight=1)
    assert {post(simulator, client).status_code for _ in range(50)} == {200}


def test_client_that_disconnects_is_no_longer_in_flight(client):
    with Simulator(latency=0.2) as simulator:
        simulator.limit(in_flight=1)
        with pytest.raises(httpx.ReadTimeout):
            client.post(
                simulator.base_url("zhipu") + PROVIDERS["zhipu"].path,
                json={"model": "embedding-3", "input": "text"},
                timeout=httpx.Timeout(20, read=0.05),
            )
        for _ in range(100):
            if post(simulator, client).status_code == 200:
                break
        else:
            pytest.fail("its place was never given back")


def test_the_command_line_gives_the_key_its_quota(client, monkeypatch):
    statuses = []

    def serve_forever(simulator, on_ready):
        with simulator:
            on_ready(simulator)
            statuses.extend(post(simulator, client).status_code for _ in range(3))

    monkeypatch.setattr(Simulator, "serve_forever", serve_forever)
    console = Console(file=io.StringIO(), width=200)
    server = {"port": 0, "api_key": KEY, "latency": 0.0}
    simulate.run(console, server, quota={"requests_per_minute": 1, "tokens_per_minute": 1_200_000, "in_flight": 50})
    assert statuses == [200, 429, 429]
    assert (
        "quota: 1 requests per minute, 1,200,000 tokens per minute, 50 requests in flight." in console.file.getvalue()
    )
    with pytest.raises(ConfigurationError, match="--requests-per-minute"):
        simulate.run(console, server, quota={"retry_after": 3.0})
