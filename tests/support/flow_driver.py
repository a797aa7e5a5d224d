"""Drives the flow of one batch by hand: no network, no threads, and a clock that the test moves."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import orjson

from multiembed import errors
from multiembed.batching.token_count import estimate_tokens
from multiembed.config.options import EmbeddingOptions
from multiembed.config.request_config import resolve_config
from multiembed.flow.batch import batch_flow
from multiembed.flow.context import Batch, CallContext, Environment, LearnedLimits, RunInThread, SendRequest, Sleep
from multiembed.providers import local
from multiembed.ratelimit.limiter import AccountLimiter
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.transport.types import HttpResponse, TransportFailure

KEY = "sk-a-key-of-forty-characters-0123456789"


SIZE = 4


@dataclass
class FlowDriver:
    """Runs the flow of a batch with a fake clock, and records its effects."""

    model: str = "gateway:m"
    options: dict[str, Any] = field(default_factory=dict)
    max_retries: int = 3
    patience: float = 0.0
    timeout: float = 60.0
    deadline: float | None = None
    now: float = 1000.0
    account_limits: AccountLimits = field(default_factory=lambda: AccountLimits(in_flight=8))
    sent: list[list[str]] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)

    def __post_init__(self):
        options = {"api_key": KEY, "dimensions": SIZE, "base_url": "https://host.example", **self.options}
        self.learned = LearnedLimits()
        self.limiter = AccountLimiter(lambda: self.now)
        self.context = CallContext(
            config=resolve_config(self.model, EmbeddingOptions(**options), {}),
            role="document",
            learned=self.learned,
            limiter=self.limiter,
            account_limits=self.account_limits,
            count_tokens=estimate_tokens,
            max_retries=self.max_retries,
            outage_patience=self.patience,
            timeout=self.timeout,
            deadline_at=None if self.deadline is None else self.now + self.deadline,
            environment=Environment(
                clock=lambda: self.now, wall_time=lambda: 1_800_000_000.0 + self.now, random=lambda: 0.5
            ),
        )

    def run(self, texts, answer, first=0):
        """FlowDriver one batch; `answer(texts)` is the server, or a list of its answers in order."""
        if not callable(answer):
            answers = iter(answer)
            answer = lambda texts: next(answers)(texts)  # noqa: E731
        flow = batch_flow(Batch(range(first, first + len(texts)), texts), self.context)
        try:
            step = next(flow)
            while True:
                if isinstance(step, Sleep):
                    self.waits.append(step.seconds)
                    self.now += step.seconds
                    step = next(flow)
                elif isinstance(step, RunInThread):
                    step = self._call(step.function, flow)
                else:
                    assert isinstance(step, SendRequest)
                    self.requests.append(step.request)
                    self.sent.append(texts_in(step.request))
                    step = flow.send(answer(self.sent[-1]))
        except StopIteration as end:
            return end.value

    def _call(self, function, flow):
        try:
            result = function()
        except errors.ConfigurationError as error:
            return flow.throw(error)
        return flow.send(result)


def texts_in(request):
    body = json.loads(request.body)
    return body["input"] if isinstance(body["input"], list) else body["input"]["texts"]


def reply(status, body, **headers):
    body = body if isinstance(body, bytes) else orjson.dumps(body)
    return HttpResponse(status, headers, body, 0.1)


@cache
def vector_of(text, size):
    return local.embed([text], size)[0]


def good(texts, size=SIZE):
    rows = [vector_of(text, size).tolist() for text in texts]
    data = [{"index": index, "embedding": row} for index, row in enumerate(rows)]
    return reply(200, {"data": data[::-1], "usage": {"total_tokens": len(texts)}})


def always(answer):
    return lambda _texts: answer


def refuse(status, code, message, **headers):
    return always(reply(status, {"error": {"code": code, "message": message}}, **headers))


BUSY = refuse(429, "rate_limit_exceeded", "slow down")


DOWN = always(reply(503, b"<html>no</html>"))


BROKEN = always(TransportFailure("connection", "reset by peer"))


LATE = always(TransportFailure("timeout", "no whole answer within 60 s"))


def rows_of(outcome, texts, size=SIZE):
    """Return the vectors by position, and check that each is the right one."""
    found = {}
    for positions, validated in outcome.accepted:
        for position, row in zip(positions, validated.dense, strict=True):
            assert position not in found
            np.testing.assert_array_equal(row, vector_of(texts[position], size))
            found[position] = row
    return found


def assert_whole(outcome, texts):
    assert sorted(rows_of(outcome, texts)) == list(range(len(texts)))
    assert outcome.failures == {}
