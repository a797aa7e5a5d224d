"""Each fault of the simulator does what its name says, when it is scheduled, and is gone when it is healed."""

from __future__ import annotations

import base64
import gc
import gzip
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import cached_property
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
import support.faults  # noqa: F401 - registers the faults that only tests inject
from support.providers import MODEL_NAMES, REMOTE

from multiembed.errors import ConfigurationError
from multiembed.providers import PROVIDERS
from multiembed.providers.local import embed
from multiembed.simulator import FAULTS, Answer, Simulator
from multiembed.simulator.fault_injection import schedule
from multiembed.simulator.fault_injection.faults import USER_FAULTS
from multiembed.simulator.formats import API_FORMATS

KEY = "sk-simulator"
DIMENSIONS = 8
TEXTS = ["one", "two 二", "three", "four"]
MODELS = {**MODEL_NAMES, **dict.fromkeys(("dashscope", "dashscope-compatible"), "text-embedding-v2")}
SIZES = {
    name: (PROVIDERS[name].model(MODELS[name]).dimensions or (DIMENSIONS,))[0] for name in REMOTE if name != "zhipu"
}
FAST = {"trickle-body": {"interval": 0.001}, "trickle-headers": {"interval": 0.001}, "gzip-bomb": {"megabytes": 3}}
PATIENCE = 10.0
SILENCE = 0.2
"""Seconds without a byte after which a server counts as silent."""
ALGO = "<400> InternalError.Algo.InvalidParameter: "


@pytest.fixture(scope="module")
def simulator():
    with Simulator() as running:
        yield running


@pytest.fixture(autouse=True)
def healed(simulator):
    simulator.heal()
    simulator.clear()


@pytest.fixture(scope="module")
def client():
    with httpx.Client(trust_env=False, headers={"authorization": f"Bearer {KEY}"}) as one:
        yield one


def path_of(provider):
    return API_FORMATS[provider].path


def body_of(provider, texts=TEXTS, **fields):
    if provider == "dashscope":
        return {"model": MODELS[provider], "input": {"texts": texts}, "parameters": fields}
    if provider != "dashscope-compatible":
        fields = {"dimensions": SIZES.get(provider, DIMENSIONS), **fields}
    return {"model": MODELS[provider], "input": texts, **fields}


def post(simulator, client, provider="zhipu", texts=TEXTS, **fields):
    return client.post(simulator.url + path_of(provider), json=body_of(provider, texts, **fields))


@dataclass
class Seen:
    """What a plain socket gets to see of one answer."""

    provider: str
    raw: bytes
    end: str
    """How it ended: "whole", "closed", "reset", or "waiting" when patience did."""
    texts: list[str] = field(default_factory=lambda: TEXTS)

    @cached_property
    def head(self):
        return self.raw.partition(b"\r\n\r\n")[0]

    @cached_property
    def status(self):
        return int(self.head.split(b" ")[1])

    @cached_property
    def headers(self):
        lines = self.head.decode().split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}

    @cached_property
    def body(self):
        body = self.raw.partition(b"\r\n\r\n")[2]
        return dechunked(body) if "transfer-encoding" in self.headers else body

    @cached_property
    def reply(self):
        return json.loads(gzip.decompress(self.body) if "content-encoding" in self.headers else self.body)

    @cached_property
    def items(self):
        reply = self.reply
        if self.provider == "dashscope":
            return reply["output"]["embeddings"]
        data = reply if isinstance(reply, list) else reply["data"]
        return data["data"] if isinstance(data, dict) else data

    @cached_property
    def indices(self):
        return [item.get("text_index" if self.provider == "dashscope" else "index") for item in self.items]

    @cached_property
    def vectors(self):
        return [item["embedding"] for item in self.items]

    @cached_property
    def right(self):
        rows = embed(self.texts, SIZES.get(self.provider, DIMENSIONS)).astype(float).tolist()
        return [[np.float32(number) for number in row] for row in rows]

    @cached_property
    def are_right(self):
        """Which of the vectors are those of their texts, by place."""
        return [same(vector, right) for vector, right in zip(self.vectors, self.right, strict=False)]

    @cached_property
    def code(self):
        if not isinstance(self.reply, dict):
            return None
        envelope = self.reply["error"] if isinstance(self.reply.get("error"), dict) else self.reply
        return envelope.get("code")

    @cached_property
    def message(self):
        envelope = self.reply["error"] if isinstance(self.reply.get("error"), dict) else self.reply
        return envelope["message"]


def same(vector, right):
    """Whether it is this vector, number for number, as JSON or in base64."""
    if isinstance(vector, str):
        try:
            vector = np.frombuffer(base64.b64decode(vector, validate=True), "<f4").tolist()
        except ValueError:
            return False
    with np.errstate(over="ignore"):
        return (
            isinstance(vector, list)
            and all(type(number) is float for number in vector)
            and [np.float32(number) for number in vector] == right
        )


def dechunked(data):
    """The bytes of the chunks that came whole."""
    body = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        if len(data) < int(size, 16) + 2:
            break
        body, data = body + data[: int(size, 16)], data[int(size, 16) + 2 :]
    return body


@contextmanager
def connected(simulator):
    host, port = simulator.url.rpartition("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        yield sock


def say(sock, provider="zhipu", texts=TEXTS, **fields):
    body = json.dumps(body_of(provider, texts, **fields)).encode()
    sock.sendall(
        f"POST {path_of(provider)} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n"
        f"content-length: {len(body)}\r\n\r\n".encode()
        + body
    )


def hear(sock, provider="zhipu", patience=PATIENCE, enough=lambda _: False):
    """Read until the answer is whole, the connection ends, or patience does; or enough was seen of it."""
    raw, until = b"", time.monotonic() + patience
    while True:
        head, found, body = raw.partition(b"\r\n\r\n")
        length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length: ")]
        if found and length and len(body) >= int(length[0][16:]):
            return Seen(provider, raw, "whole")
        sock.settimeout(max(until - time.monotonic(), 0.001))
        try:
            data = sock.recv(65536)
        except TimeoutError:
            return Seen(provider, raw, "waiting")
        except ConnectionResetError:
            return Seen(provider, raw, "reset")
        if not data:
            return Seen(provider, raw, "closed")
        raw += data
        seen = Seen(provider, raw, "waiting")
        if time.monotonic() > until or enough(seen):
            return seen


# every fault, on the wire


def good(seen):
    return seen.status == 200 and seen.indices == [0, 1, 2, 3] and all(seen.are_right)


def only_second(bad):
    """Only the second of four vectors, the middle one, is wrong, and wrong in this way."""

    def check(seen):
        vector = seen.vectors[1]
        vector = vector if not isinstance(vector, list) else [*vector]
        return seen.are_right == [True, False, True, True] and seen.indices == [0, 1, 2, 3] and bad(seen, vector)

    return check


DOCUMENTED = {"zhipu", "siliconflow", "dashscope", "dashscope-compatible", "openai-compatible", "gateway"}
"""Providers whose refusals these tables hold. Another provider's come from its format, as its fixtures check."""


def refused(**said):
    """Status and code of each provider that refuses so."""
    told = {provider.replace("_", "-"): expected for provider, expected in said.items()}

    def check(seen):
        return seen.end == "whole" and (seen.status, seen.code) == told.get(seen.provider, (seen.status, seen.code))

    check.providers = set(told)
    return check


def openai_forms(status, code):
    """What a plain OpenAI server and a gateway answer alike."""
    return dict.fromkeys(("openai-compatible", "gateway"), (status, code))


def both(status, native, compatible=None):
    return {"dashscope": (status, native), "dashscope_compatible": (status, compatible or native)}


def limited(header, matches):
    def check(seen):
        return RATE_LIMIT(seen) and matches(seen.headers[header])

    return check


def page(status, *words):
    def check(seen):
        text = seen.raw.decode()
        return seen.status == status and "text/html" in text and all(word in text for word in words)

    return check


def twice(key):
    def check(seen):
        pairs = []
        json.loads(seen.body, object_pairs_hook=lambda found: pairs.append(found) or dict(found))
        doubled = [found for found in pairs if [name for name, _ in found].count(key) == 2]
        return len(doubled) == 1 and len({json.dumps(value) for name, value in doubled[0] if name == key}) == 2

    return lambda seen: check(seen) and (not all(seen.are_right))


def unpacks_to(size, body):
    unpacker, length = zlib.decompressobj(31), 0
    for start in range(0, len(body), 4096):
        length += len(unpacker.decompress(body[start : start + 4096]))
    return unpacker.eof and length == size


def is_broken_gzip(body):
    try:
        gzip.decompress(body)
    except (EOFError, OSError, zlib.error):
        return True
    return False


RATE_LIMIT = refused(
    zhipu=(429, "1302"),
    siliconflow=(429, None),
    **both(429, "Throttling.RateQuota", "limit_requests"),
    **{"openai-compatible": (429, "rate_limit_exceeded")},
    gateway=(429, "429"),
)
MONEY = {
    "zhipu": (429, "1113"),
    "siliconflow": (403, 30001),
    **both(400, "Arrearage"),
    "openai-compatible": (429, "insufficient_quota"),
    "gateway": (429, "insufficient_quota"),
}
SERVER = {
    "zhipu": (500, "1234"),
    "siliconflow": (500, 50507),
    **both(500, "InternalError", "internal_error"),
    "openai-compatible": (500, "500"),
    "gateway": (500, "500"),
}
NO_KEY = {
    "zhipu": (401, "1000"),
    **both(401, "InvalidApiKey", "invalid_api_key"),
    "openai-compatible": (401, "invalid_api_key"),
    "gateway": (401, "401"),
}
LIMIT = {
    "zhipu": (429, "1302"),
    **both(429, "Throttling.RateQuota", "limit_requests"),
    "openai-compatible": (429, "rate_limit_exceeded"),
    "gateway": (429, "429"),
}


def inside_200(said):
    return refused(**{provider: (200, code) for provider, (_, code) in said.items()})


CHECKS = {
    "items-reordered": lambda seen: (
        seen.indices == [3, 2, 1, 0] and list(map(same, seen.vectors, seen.right[::-1])) == [True] * 4
    ),
    "item-missing-last": lambda seen: seen.indices == [0, 1, 2] and all(seen.are_right),
    "item-missing-middle": lambda seen: seen.indices == [0, 2, 3],
    "items-missing-all": lambda seen: seen.items == [],
    "item-null": lambda seen: [item is None for item in seen.items] == [False, True, False, False],
    "item-extra": lambda seen: seen.indices == [0, 1, 2, 3, 4] and all(seen.are_right),
    "index-twice": lambda seen: seen.indices == [0, 1, 2, 2] and all(seen.are_right),
    "index-off-by-one": lambda seen: seen.indices == [1, 2, 3, 4] and all(seen.are_right),
    "index-missing": lambda seen: seen.indices == [None] * 4 and all(seen.are_right),
    "vector-short": only_second(lambda seen, vector: len(vector) == len(seen.right[1]) - 1),
    "vector-long": only_second(lambda seen, vector: len(vector) == len(seen.right[1]) + 1),
    "vector-nan": only_second(lambda seen, vector: np.isnan(vector).sum() == 1 and b"NaN" in seen.body),
    "vector-infinity": only_second(lambda seen, vector: np.isinf(vector).sum() == 1 and b"Infinity" in seen.body),
    "vector-overflow": only_second(lambda _, vector: vector[1] == 1e300),
    "vector-null": only_second(lambda _, vector: vector is None),
    "vector-element-null": lambda seen: (
        seen.vectors[1][1] is None and np.float32(seen.vectors[1][2]) == seen.right[1][2]
    ),
    "vector-element-string": lambda seen: isinstance(seen.vectors[1][1], str),
    "vector-element-bool": lambda seen: seen.vectors[1][1] is True,
    "vector-nested": lambda seen: len(seen.vectors[1]) == 1 and same(seen.vectors[1][0], seen.right[1]),
    "vector-zeros": only_second(lambda seen, vector: vector == [0.0] * len(seen.right[1])),
    "vector-empty": only_second(lambda _, vector: vector == []),
    "base64-broken": lambda seen: "*" in seen.vectors[1] and same(seen.vectors[0], seen.right[0]),
    "base64-cut": lambda seen: len(base64.b64decode(seen.vectors[1])) % 4 == 2,
    "html-200": lambda seen: page(200, "<html>")(seen),
    "empty-200": lambda seen: (seen.status, seen.body, seen.headers["content-length"]) == (200, b"", "0"),
    "truncated-json": lambda seen: (
        seen.end == "whole" and seen.body[:1] == b"{" and seen.body[-1:] != b"}" and b"embedding" in seen.body
    ),
    "bom": lambda seen: seen.body.startswith(b"\xef\xbb\xbf{") and json.loads(seen.body[3:]),
    "duplicate-keys": lambda seen: twice("embeddings" if seen.provider == "dashscope" else "data")(seen),
    "duplicate-keys-in-item": lambda seen: twice("embedding")(seen) and seen.are_right == [True, False, True, True],
    "error-in-200": inside_200(SERVER),
    "auth-in-200": inside_200(NO_KEY),
    "money-in-200": inside_200(MONEY),
    "rate-limit-in-200": inside_200(LIMIT),
    # Answers in numbers do not trigger these; their effect is tested below.
    "base64-ignored": good,
    "base64-honored": good,
    "gateway-record": lambda seen: set(seen.reply["data"]) == {"id", "name", "status", "createTime"},
    "gateway-base64": lambda seen: good(seen) and isinstance(seen.vectors[0], str) and seen.reply["success"],
    "gateway-bare-list": lambda seen: good(seen) and seen.reply["object"] == "list",
    "gateway-bare-base64": lambda seen: good(seen) and isinstance(seen.vectors[0], str) and "object" in seen.reply,
    "gateway-bare-array": lambda seen: good(seen) and isinstance(seen.reply, list),
    "gzip-good": lambda seen: seen.headers["content-encoding"] == "gzip" and good(seen),
    "gzip-broken": lambda seen: seen.headers["content-encoding"] == "gzip" and is_broken_gzip(seen.body),
    "gzip-missing": lambda seen: seen.headers["content-encoding"] == "gzip" and seen.body[:1] == b"{",
    "rate-limit": RATE_LIMIT,
    "rate-limit-tokens": refused(
        siliconflow=(429, None), **both(429, "Throttling.AllocationQuota", "insufficient_quota")
    ),
    "rate-limit-burst": refused(zhipu=(429, "1303"), **both(429, "Throttling.BurstRate", "limit_burst_rate")),
    "overloaded": refused(
        zhipu=(429, "1305"),
        siliconflow=(503, 50505),
        **both(503, "ServiceUnavailable"),
        **openai_forms(503, "503"),
    ),
    "server-error": refused(**SERVER),
    "request-timeout": refused(**both(408, "RequestTimeOut")),
    "gateway-timeout-string": lambda seen: seen.status == 504 and isinstance(seen.reply, str),
    "money": refused(**MONEY),
    "money-402": refused(siliconflow=(402, 30001)),
    "money-free-quota": lambda seen: (
        refused(**both(429, "Throttling.AllocationQuota", "insufficient_quota"))(seen)
        and "Free allocated quota exceeded" in seen.message
    ),
    "money-overdue": refused(**both(429, "PostpaidBillOverdue")),
    "plan-expired": refused(zhipu=(429, "1309"), **both(429, "CommodityNotPurchased")),
    "plan-used-up": refused(zhipu=(429, "1308"), **both(403, "AllocationQuota.FreeTierOnly")),
    "plan-daily": refused(zhipu=(429, "1304")),
    "account-locked": refused(zhipu=(429, "1112")),
    "bad-key": refused(**NO_KEY, siliconflow=(401, None)),
    "forbidden": refused(
        zhipu=(403, "1220"),
        siliconflow=(403, None),
        **both(403, "AccessDenied", "access_denied"),
        **openai_forms(403, "403"),
    ),
    "not-found": refused(
        zhipu=(404, None),
        siliconflow=(404, None),
        **both(404, "InvalidURL"),
        **{"openai-compatible": (404, None)},
        gateway=(404, "404"),
    ),
    "unknown-model": refused(
        zhipu=(400, "1211"),
        siliconflow=(400, 20012),
        **both(404, "ModelNotFound", "model_not_found"),
        **openai_forms(404, "model_not_found"),
    ),
    "invalid-parameter": refused(
        zhipu=(400, "1214"),
        siliconflow=(400, 20015),
        **both(400, "InvalidParameter"),
        **openai_forms(400, "400"),
    ),
    "http-400-internal-error-text": lambda seen: (
        seen.status == 400 and seen.code == "InternalError.Algo.InvalidParameter" and seen.message.startswith(ALGO)
    ),
    # Four short texts give no occasion for these; when they do is tested below.
    "batch-too-large-with-cap": good,
    "batch-too-large-without-cap": good,
    "request-too-large": good,
    "request-too-large-html": good,
    "text-too-long": good,
    "moderated": good,
    "base64-refused": good,
    "bad-gateway-html": page(502, "<title>502 Bad Gateway</title>", "nginx"),
    "gateway-timeout-html": page(504, "<title>504 Gateway Timeout</title>", "nginx"),
    "server-error-empty": lambda seen: (seen.status, seen.body) == (500, b""),
    "proxy-407": page(407, "squid", "proxy-authenticate: Basic"),
    "proxy-502": page(502, "squid", "via: "),
    "redirect-same-host": lambda seen: (
        seen.status == 307 and seen.headers["location"] == f"/moved{path_of(seen.provider)}"
    ),
    "redirect-other-host": lambda seen: (
        seen.status == 307 and seen.headers["location"] == f"https://elsewhere.invalid{path_of(seen.provider)}"
    ),
    "retry-after-seconds": limited("retry-after", lambda value: value == "1"),
    "retry-after-date": limited("retry-after", lambda value: 0 <= seconds_until(value) <= 2),
    "retry-after-past": limited("retry-after", lambda value: seconds_until(value) < -1e6),
    "retry-after-zero": limited("retry-after", lambda value: value == "0"),
    "retry-after-negative": limited("retry-after", lambda value: float(value) < 0),
    "retry-after-huge": limited("retry-after", lambda value: float(value) == 1e9),
    "retry-after-infinite": limited("retry-after", lambda value: value == "inf"),
    "retry-after-garbage": limited("retry-after", str.isalpha),
    "retry-after-ms": limited("retry-after-ms", lambda value: value == "50"),
    "connection-reset": lambda seen: (seen.raw, seen.end) == (b"", "reset"),
    "connection-closed": lambda seen: (seen.raw, seen.end) == (b"", "closed"),
    "reset-in-headers": lambda seen: (
        seen.end == "reset" and seen.raw.startswith(b"HTTP/1.1 200 OK\r\n") and b"\r\n\r\n" not in seen.raw
    ),
    "reset-after-headers": lambda seen: seen.end == "reset" and seen.raw.endswith(b"\r\n\r\n"),
    "reset-in-body": lambda seen: (
        seen.end == "reset" and len(seen.body) == int(seen.headers["content-length"]) // 2 > 0
    ),
    "body-truncated": lambda seen: (
        seen.end == "closed" and len(seen.body) == int(seen.headers["content-length"]) // 2 > 0
    ),
    "chunk-truncated": lambda seen: (
        seen.end == "closed" and seen.headers["transfer-encoding"] == "chunked" and seen.body[:1] == b"{"
    ),
    "keepalive-closed": lambda seen: good(seen) and "connection" not in seen.headers,
    "keepalive-reset": good,
    "silence": lambda seen: (seen.raw, seen.end) == (b"", "waiting"),
    "trickle-headers": lambda seen: (
        seen.end == "waiting" and b"\r\nx-slow: ..." in seen.raw and b"\r\n\r\n" not in seen.raw
    ),
    "trickle-body": lambda seen: seen.end == "waiting" and seen.body[:1] == b"{" and seen.raw.count(b"1\r\n") > 10,
    "headers-endless": lambda seen: seen.end == "waiting" and len(seen.raw) > 200_000 and b"\r\n\r\n" not in seen.raw,
    "not-http": lambda seen: seen.end == "closed" and seen.raw.startswith(b"SSH-"),
    "gzip-bomb": lambda seen: (
        seen.end == "closed"
        and seen.headers["content-encoding"] == "gzip"
        and len(seen.body) < 10_000
        and unpacks_to(3 * 1024 * 1024, seen.body)
    ),
}


def seconds_until(date):
    return parsedate_to_datetime(date).timestamp() - time.time()


ENDLESS = ("trickle-headers", "trickle-body", "headers-endless")


def test_every_fault_has_its_check():
    assert CHECKS.keys() == FAULTS.keys()


@pytest.mark.parametrize(
    ("name", "provider"), [(fault.name, provider) for fault in FAULTS.values() for provider in fault.applies_to]
)
def test_a_fault_does_what_it_says_and_is_noted(simulator, name, provider):
    simulator.fail(name, **FAST.get(name, {}))
    with connected(simulator) as sock:
        say(sock, provider)
        enough = CHECKS[name] if name in ENDLESS else lambda _: False
        seen = hear(sock, provider, patience=SILENCE if name == "silence" else PATIENCE, enough=enough)
    assert CHECKS[name](seen), (seen.end, seen.raw[:2000])
    (noted,) = simulator.requests
    occasion = name not in WITHOUT_OCCASION
    assert noted.provider == provider
    assert noted.fault == (name if occasion else None)
    assert noted.status == (seen.status if FAULTS[name].sends_status or not occasion else None)


WITHOUT_OCCASION = {name for name, check in CHECKS.items() if check is good}


@pytest.mark.parametrize("name", [name for name, check in CHECKS.items() if hasattr(check, "providers")])
def test_a_refusal_is_made_for_those_that_say_it(name):
    assert DOCUMENTED.intersection(FAULTS[name].applies_to) == CHECKS[name].providers


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS.values() if fault.where in ("items", "vectors")])
def test_one_text_alone_can_meet_the_fault_too(simulator, client, name):
    simulator.fail(name)
    answer = post(simulator, client, texts=["alone"])
    assert simulator.requests[0].fault == (None if name == "index-twice" else name)
    assert answer.status_code == 200


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS.values() if fault.where == "vectors"])
def test_a_vector_goes_wrong_in_base64_too(simulator, client, name):
    simulator.fail(name, which=0)
    seen = Seen("siliconflow", b"", "whole")
    seen.reply = post(simulator, client, "siliconflow", encoding_format="base64").json()
    assert seen.are_right == [False, True, True, True]
    if not name.startswith("vector-element") and name not in ("vector-overflow", "vector-null", "vector-nested"):
        assert isinstance(seen.vectors[0], str)


@pytest.mark.parametrize(("which", "wrong"), [("middle", [1]), ("all", [0, 1, 2, 3]), (0, [0]), (-1, [3])])
def test_a_setting_chooses_the_vector_that_goes_wrong(simulator, client, which, wrong):
    simulator.fail("vector-zeros", which=which)
    items = post(simulator, client).json()["data"]
    assert [place for place, item in enumerate(items) if not any(item["embedding"])] == wrong


def test_a_vector_that_is_not_there_cannot_go_wrong(simulator, client):
    simulator.fail("vector-zeros", which=4)
    assert post(simulator, client).status_code == 200
    assert simulator.requests[0].fault is None


@pytest.mark.parametrize("where", ["items", "vectors"])
def test_an_answer_without_vectors_has_nothing_to_go_wrong(simulator, client, where):
    for name in [fault.name for fault in FAULTS.values() if fault.where == where]:
        simulator.fail(name)
    assert post(simulator, client, texts=[""]).status_code == 400
    assert client.post(simulator.url + path_of("gateway"), json={"model": "resource-record", "input": "a"}).is_success
    assert {noted.fault for noted in simulator.requests} == {None}


# refusals that depend on what is sent

TOO_MANY = {
    "zhipu": (400, "input数组最大不得超过3条"),
    "siliconflow": (413, "input batch size 4 > maximum allowed batch size 3"),
    "dashscope": (400, "batch size is invalid, it should not be larger than 3.: parameters.texts"),
    "dashscope-compatible": (
        400,
        f"{ALGO}Value error, batch size is invalid, it should not be larger than 3.: input.contents",
    ),
    "openai-compatible": (422, "batch size 4 > maximum allowed batch size 3"),
    "gateway": (400, "the input array must not be larger than 3"),
}


@pytest.mark.parametrize("provider", TOO_MANY)
def test_a_batch_above_the_cap_is_refused_with_the_cap(simulator, client, provider):
    simulator.fail("batch-too-large-with-cap", cap=3)
    answer = post(simulator, client, provider)
    seen = Seen(provider, b"", "whole")
    seen.reply = answer.json()
    assert (answer.status_code, seen.message) == TOO_MANY[provider]
    assert PROVIDERS[provider].classify(answer.status_code, answer.json()).max_items == 3
    assert post(simulator, client, provider, TEXTS[:3]).status_code == 200


@pytest.mark.parametrize("provider", TOO_MANY)
def test_a_batch_above_the_cap_is_refused_without_the_cap(simulator, client, provider):
    simulator.fail("batch-too-large-without-cap", cap=3)
    answer = post(simulator, client, provider)
    assert answer.status_code in (400, 413)
    assert "3" not in answer.json().get("error", answer.json())["message"]
    assert PROVIDERS[provider].classify(answer.status_code, answer.json()).max_items is None
    assert post(simulator, client, provider, TEXTS[:3]).status_code == 200


@pytest.mark.parametrize("provider", FAULTS["base64-refused"].applies_to)
def test_base64_is_refused_where_it_is_asked_for(simulator, client, provider):
    simulator.fail("base64-refused")
    answer = post(simulator, client, provider, encoding_format="base64")
    assert PROVIDERS[provider].classify(answer.status_code, answer.json()).kind == "invalid"
    assert post(simulator, client, provider, encoding_format="float").status_code == 200


@pytest.mark.parametrize(
    ("provider", "fault", "without", "with_it"),
    [
        *((provider, "base64-ignored", str, list) for provider in FAULTS["base64-ignored"].applies_to),
        ("zhipu", "base64-honored", list, str),
    ],
)
def test_the_answer_to_base64_is_a_choice(simulator, client, provider, fault, without, with_it):
    for expected in (without, with_it):
        seen = Seen(provider, b"", "whole")
        seen.reply = post(simulator, client, provider, encoding_format="base64").json()
        assert {type(vector) for vector in seen.vectors} == {expected}
        assert all(seen.are_right)
        simulator.fail(fault)


@pytest.mark.parametrize("name", ["request-too-large", "request-too-large-html"])
@pytest.mark.parametrize("provider", REMOTE)
def test_a_request_above_so_many_bytes_is_refused(simulator, client, provider, name):
    size = len(json.dumps(body_of(provider)))
    simulator.fail(name, bytes=size + 100)
    assert post(simulator, client, provider).status_code == 200
    answer = post(simulator, client, provider, ["a" * (size + 200)])
    assert answer.status_code == 413
    assert answer.headers["content-type"] == ("text/html" if name.endswith("html") else "application/json")


@pytest.mark.parametrize("provider", REMOTE)
def test_a_request_with_a_text_that_is_too_long_is_refused_whole(simulator, client, provider):
    simulator.fail("text-too-long", characters=10)
    assert post(simulator, client, provider, ["short", "0123456789"]).status_code == 200
    answer = post(simulator, client, provider, ["short", "0123456789x"])
    kind = PROVIDERS[provider].classify(answer.status_code, answer.json()).kind
    assert kind in ("too_long", "invalid_or_too_long")


@pytest.mark.parametrize("provider", FAULTS["moderated"].applies_to)
def test_request_with_marked_text_is_refused_whole(simulator, client, provider):
    simulator.fail("moderated", marker="禁")
    assert post(simulator, client, provider, ["MODERATED", "allowed"]).status_code == 200
    answer = post(simulator, client, provider, ["allowed", "a 禁 b"])
    assert answer.status_code == 400
    assert PROVIDERS[provider].classify(400, answer.json()).kind == "content"


def test_a_refusal_of_what_is_sent_leaves_other_refusals_alone(simulator, client):
    simulator.fail("moderated")
    answer = client.post(
        simulator.url + path_of("zhipu"), json=body_of("zhipu", ["MODERATED"]), headers={"authorization": "Bearer no"}
    )
    assert answer.status_code == 401
    assert simulator.requests[0].fault is None


# connections


def test_connection_is_closed_silently_after_a_good_response(simulator):
    simulator.fail("keepalive-closed", times=1)
    with connected(simulator) as sock:
        say(sock)
        assert good(hear(sock))
        sock.settimeout(10)
        assert sock.recv(1) == b""


def test_a_connection_is_reset_when_it_is_used_again(simulator):
    simulator.fail("keepalive-reset")
    with connected(simulator) as sock:
        say(sock)
        assert good(hear(sock))
        say(sock)
        assert hear(sock).end == "reset"
    assert [noted.status for noted in simulator.requests] == [200, None]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_leads_to_a_simulator_that_records_requests(simulator, client, status):
    with Simulator() as other:
        simulator.fail("redirect-other-host", target=other.url, status=status)
        answer = post(simulator, client)
        assert answer.status_code == status
        assert answer.headers["location"] == other.url + path_of("zhipu")
        assert not other.requests
        followed = client.post(simulator.url + path_of("zhipu"), json=body_of("zhipu"), follow_redirects=True)
        assert followed.url.port == int(other.url.rpartition(":")[2])
        assert len(other.requests) == 1


@pytest.mark.parametrize(("name", "status"), [("proxy-407", 407), ("proxy-502", 502)])
def test_the_simulator_can_stand_for_a_proxy_that_refuses(simulator, name, status):
    simulator.fail(name)
    with httpx.Client(proxy=simulator.url, trust_env=False) as client:
        answer = client.post(f"http://api.invalid{path_of('zhipu')}", json=body_of("zhipu"))
        assert answer.status_code == status
        with pytest.raises(httpx.ProxyError, match=str(status)):
            client.post(f"https://api.invalid{path_of('zhipu')}", json=body_of("zhipu"))
    assert [(noted.method, noted.fault) for noted in simulator.requests] == [("POST", name), ("CONNECT", name)]


def test_a_request_that_is_sent_as_to_a_proxy_is_answered(simulator):
    with httpx.Client(proxy=simulator.url, trust_env=False, headers={"authorization": f"Bearer {KEY}"}) as client:
        answer = client.post(f"http://api.invalid{path_of('zhipu')}?query=://", json=body_of("zhipu"))
    assert answer.status_code == 200
    assert simulator.requests[0].path == path_of("zhipu")


def test_what_only_a_server_says_is_not_made_for_a_tunnel(simulator):
    simulator.fail("rate-limit")
    with httpx.Client(proxy=simulator.url, trust_env=False) as client, pytest.raises(httpx.ProxyError, match="404"):
        client.get("https://api.invalid/")


# the schedule


def faults_made(simulator, client, requests, **request):
    for _ in range(requests):
        post(simulator, client, **request)
    made = [noted.fault for noted in simulator.requests]
    simulator.clear()
    return made


def test_without_a_number_a_fault_lasts_until_it_is_healed(simulator, client):
    simulator.fail("server-error")
    assert faults_made(simulator, client, 3) == ["server-error"] * 3
    simulator.heal()
    assert faults_made(simulator, client, 2) == [None, None]


def test_faults_follow_one_another_when_each_has_its_times(simulator, client):
    simulator.fail("server-error", times=2)
    simulator.fail("rate-limit", times=1)
    assert faults_made(simulator, client, 4) == ["server-error", "server-error", "rate-limit", None]


def test_fault_with_after_and_every_hits_the_right_requests(simulator, client):
    simulator.fail("overloaded", after=2, every=3, times=2)
    made = faults_made(simulator, client, 12)
    assert [place for place, name in enumerate(made, 1) if name] == [5, 8]


def test_fault_that_is_not_due_leaves_request_to_the_next(simulator, client):
    simulator.fail("overloaded", every=2)
    simulator.fail("rate-limit")
    assert faults_made(simulator, client, 4) == ["rate-limit", "overloaded", "rate-limit", "overloaded"]


def test_a_fault_happens_at_random_and_yet_the_same_each_time(simulator, client):
    def round_of(seed):
        simulator.heal()
        simulator.fail("server-error", probability=0.3, seed=seed)
        return faults_made(simulator, client, 60)

    first = round_of(1)
    assert 5 < sum(name is not None for name in first) < 40
    assert round_of(1) == first
    assert round_of(2) != first


@pytest.mark.parametrize(("probability", "made"), [(0.0, None), (1.0, "server-error")])
def test_the_ends_of_probability_are_never_and_always(simulator, client, probability, made):
    simulator.fail("server-error", probability=probability)
    assert faults_made(simulator, client, 10) == [made] * 10


def test_a_fault_is_over_when_its_time_is(simulator, client, monkeypatch):
    now = [time.monotonic()]
    monkeypatch.setattr(schedule, "time", SimpleNamespace(monotonic=lambda: now[0]))
    simulator.fail("server-error", seconds=60)
    assert faults_made(simulator, client, 2) == ["server-error"] * 2
    now[0] += 61
    assert faults_made(simulator, client, 2) == [None, None]


def test_one_providers_fault_is_not_anothers(simulator, client):
    simulator.fail("server-error", provider="gateway", times=1)
    simulator.fail("plan-daily", times=1)
    assert faults_made(simulator, client, 1, provider="siliconflow") == [None]
    assert faults_made(simulator, client, 2, provider="zhipu") == ["plan-daily", None]
    assert faults_made(simulator, client, 2, provider="gateway") == ["server-error", None]


def test_a_request_that_gives_no_occasion_is_not_counted(simulator, client):
    simulator.fail("moderated", times=1)
    assert faults_made(simulator, client, 2) == [None, None]
    assert faults_made(simulator, client, 2, texts=["MODERATED"]) == ["moderated", None]


def test_a_fault_may_be_a_function_of_ones_own(simulator, client):
    def shouted(request, answer):
        assert request.body["input"] == TEXTS
        return Answer(418, answer.headers, answer.body.upper())

    simulator.fail(shouted, times=1)
    answer = post(simulator, client)
    assert answer.status_code == 418
    assert b'"EMBEDDING"' in answer.content
    assert simulator.requests[0].fault == "shouted"
    assert post(simulator, client).status_code == 200


def test_a_fault_may_be_scheduled_before_the_start(client):
    simulator = Simulator()
    simulator.fail("server-error", times=1)
    with simulator:
        assert [post(simulator, client).status_code for _ in range(2)] == [500, 200]


def test_only_embedding_requests_fail(simulator, client):
    simulator.fail("server-error")
    assert client.get(simulator.url + path_of("zhipu")).status_code == 405
    assert client.post(simulator.url + "/elsewhere").status_code == 404


def test_scheduling_from_many_threads_loses_nothing(simulator, client):
    threads = [threading.Thread(target=simulator.fail, args=("server-error",), kwargs={"times": 1}) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults_made(simulator, client, 21) == ["server-error"] * 20 + [None]


def test_latency_is_waited_before_a_fault_too(client):
    with Simulator(latency=0.1) as slow:
        slow.fail("server-error")
        begun = time.monotonic()
        assert post(slow, client).status_code == 500
        assert time.monotonic() - begun >= 0.1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"fault": "rate-limits"}, "There is no fault 'rate-limits'. Did you mean 'rate-limit'?"),
        ({"fault": "???"}, "Did you mean"),
        ({"fault": "plan-daily", "provider": "gateway"}, "plan-daily is made for zhipu, not for 'gateway'"),
        ({"fault": "silence", "provider": "openai"}, "not for 'openai'"),
        ({"fault": "moderated", "cap": 3}, "moderated has no setting 'cap'; it has marker"),
        ({"fault": "silence", "interval": 3}, "it has none"),
        ({"fault": "trickle-body", "interval": "3"}, "interval must be a number, not '3'"),
        ({"fault": "silence", "times": 0}, "times must be 1 or more, not 0"),
        ({"fault": "silence", "every": 0}, "every must be 1 or more"),
        ({"fault": "silence", "after": -1}, "after must be 0 or more"),
        ({"fault": "silence", "seconds": float("nan")}, "seconds must be 0 or more"),
        ({"fault": "silence", "probability": 1.5}, "probability must be from 0 to 1, not 1.5"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_at_once(simulator, arguments, words):
    with pytest.raises(ConfigurationError) as caught:
        simulator.fail(**arguments)
    assert words in str(caught.value)


# ends


@pytest.mark.parametrize("name", ["silence", "trickle-headers", "trickle-body", "headers-endless", "gzip-bomb"])
def test_stopping_is_prompt_while_an_answer_does_not_end(name):
    with Simulator() as simulator:
        simulator.fail(name, **({"interval": 30} if name.startswith("trickle") else {}))
        with connected(simulator) as reading, connected(simulator) as idle:
            say(reading)
            say(idle)
            hear(reading, patience=0.05)
            begun = time.monotonic()
            simulator.stop()
            assert time.monotonic() - begun < 15


@pytest.mark.parametrize("name", ["silence", "trickle-headers", "trickle-body", "headers-endless", "gzip-bomb"])
def test_an_answer_that_does_not_end_ends_when_the_client_goes(simulator, name):
    simulator.clear()
    simulator.fail(name, **({"interval": 0.01} if name.startswith("trickle") else {}))
    with connected(simulator) as sock:
        say(sock)
        hear(sock, patience=0.05)
    simulator.heal()
    until = time.monotonic() + 20
    while simulator.peak_in_flight and time.monotonic() < until:
        simulator.clear()  # the peak begins again from what is still being answered
    assert simulator.peak_in_flight == 0


@pytest.mark.parametrize("name", ["silence", "trickle-body", "headers-endless", "gzip-bomb"])
def test_others_are_answered_meanwhile(simulator, client, name):
    simulator.fail(name, times=1)
    with connected(simulator) as sock:
        say(sock)
        hear(sock, patience=0.05)
        begun = time.monotonic()
        assert post(simulator, client).status_code == 200
        assert time.monotonic() - begun < 15


@pytest.mark.parametrize(("name", "read"), [("gzip-bomb", True), ("gzip-bomb", False), ("headers-endless", False)])
def test_an_answer_without_end_needs_no_memory(simulator, name, read):
    simulator.fail(name, **({"megabytes": 2000} if name == "gzip-bomb" and not read else {}))
    with connected(simulator) as sock:
        if not read:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        tracemalloc.start()
        try:
            say(sock)
            buffer, size, begun = bytearray(65536), 0, time.monotonic()
            while read and (got := sock.recv_into(buffer)):
                size += got
            time.sleep(0 if read else 0.3)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 8 * 1024 * 1024
    if read:
        assert size < 2 * 1024 * 1024
        assert time.monotonic() - begun < 60


def test_faults_leave_no_socket_and_no_task():
    code = f"""
import gc, json, logging, socket
from contextlib import suppress
import support.faults
from multiembed.simulator import FAULTS, Simulator
# asyncio's debug mode logs each callback of over 0.1 s, as on a slow machine; any other warning fails the test.
logging.getLogger("asyncio").addFilter(lambda record: record.msg != "Executing %s took %.3f seconds")
body = {json.dumps(body_of("zhipu"))!r}.encode()
head = "POST {path_of("zhipu")} HTTP/1.1\\r\\nhost: x\\r\\nauthorization: Bearer {KEY}\\r\\n"
head = head.encode() + b"content-length: %d\\r\\n\\r\\n" % len(body)
for _ in range(2):
    with Simulator() as simulator:
        port = int(simulator.url.rpartition(":")[2])
        for fault in FAULTS.values():
            if "zhipu" in fault.applies_to:
                simulator.heal()
                simulator.fail(fault.name)
                with socket.create_connection(("127.0.0.1", port), timeout=0.01) as sock, suppress(OSError):
                    sock.sendall(head + body)
                    for _ in range(3):
                        sock.recv(65536)
    gc.collect()
print("end")
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True, text=True, env=environment
    )
    assert (done.stdout, done.stderr) == ("end\n", "")


# https


def trusting(simulator):
    context = ssl.create_default_context()
    if simulator.authority:
        context.load_verify_locations(cadata=simulator.authority)
    return context


@contextmanager
def https(**options):
    pytest.importorskip("cryptography")
    with Simulator(**options) as simulator:
        assert simulator.url.startswith("https://")
        headers = {"authorization": f"Bearer {KEY}"}
        with httpx.Client(verify=trusting(simulator), trust_env=False, headers=headers) as client:
            yield simulator, client


def test_a_good_certificate_is_trusted_by_whom_it_shall_be():
    with https(tls="good") as (simulator, client):
        for host in ("127.0.0.1", "localhost"):
            url = simulator.base_url("zhipu").replace("127.0.0.1", host) + "/embeddings"
            assert client.post(url, json=body_of("zhipu")).json()["data"][3]["index"] == 3
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.post(simulator.url, trust_env=False)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("self-signed", "self.signed certificate"),
        ("expired", "certificate has expired"),
        ("wrong-host", "certificate is not valid for '127.0.0.1'"),
    ],
)
def test_a_bad_certificate_is_bad_in_the_way_that_was_asked_for(kind, words):
    with https(tls=kind) as (simulator, client):
        with pytest.raises(httpx.ConnectError, match=words):
            post(simulator, client)
        assert not simulator.requests


def test_a_certificate_of_ones_own_is_served(tmp_path):
    trustme = pytest.importorskip("trustme")
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "certificate.pem")
    context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    with Simulator(tls=(tmp_path / "certificate.pem", str(tmp_path / "key.pem"))) as simulator:
        assert simulator.authority is None
        assert httpx.post(simulator.url, verify=context, trust_env=False).status_code == 404


@pytest.mark.parametrize("name", ["server-error", "body-truncated", "connection-closed", "keepalive-closed"])
def test_faults_are_made_under_https_too(name):
    with https(tls="good") as (simulator, client):
        simulator.fail(name)
        try:
            assert post(simulator, client).status_code == simulator.requests[0].status
        except httpx.TransportError:
            assert name in ("body-truncated", "connection-closed")
        assert simulator.requests[0].fault == name


def test_clients_that_never_shake_hands_do_not_hold_up_the_end():
    with https(tls="good") as (simulator, client):
        with connected(simulator) as silent, connected(simulator) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert post(simulator, client).status_code == 200
            begun = time.monotonic()
            simulator.stop()
            assert time.monotonic() - begun < 15
            assert silent.recv(1) == b""
        gc.collect()


def test_an_unknown_kind_of_certificate_is_refused():
    with pytest.raises(ConfigurationError, match="tls must be one of good, self-signed, expired, wrong-host"):
        Simulator(tls="rotten")


def test_a_certificate_cannot_be_made_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    with pytest.raises(ConfigurationError, match="pip install cryptography"):
        Simulator(tls="good")


# the command line


def command(*arguments, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100", "NO_COLOR": "1"}
    code = "from multiembed.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, "simulate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=environment,
        **options,
    )


def test_simulate_faults_lists_every_fault():
    pytest.importorskip("typer")
    listed, errors = command("--faults").communicate(timeout=20)
    assert not errors
    assert [line.split()[0] for line in listed.splitlines() if line[:1] == " " and line[1:2].strip()] == [
        fault.name for fault in USER_FAULTS
    ]


def test_simulate_injects_the_named_faults(client):
    pytest.importorskip("typer")
    with command("--port", "0", "--fault", "server-error", "--fault", "rate-limit", "--fault-times", "1") as process:
        try:
            url = process.stdout.readline().split()[4].rstrip(".")
            statuses = [client.post(url + path_of("zhipu"), json=body_of("zhipu")).status_code for _ in range(3)]
        finally:
            process.terminate()
        assert statuses == [500, 429, 200]
        assert "An internal error: 500." in process.stdout.read()
        assert not process.stderr.read()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--fault", "sillence"], "Did you mean 'silence'?"), (["--fault-times", "3"], "Say with --fault")],
)
def test_simulate_reports_a_wrong_option(arguments, words):
    pytest.importorskip("typer")
    process = command(*arguments)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors.startswith("ConfigurationError: ")
    assert words in errors.replace("\n", " ")
