"""Minutes in a moment: a loop whose clock jumps to its next timer, and a provider that keeps quotas by that clock."""

from __future__ import annotations

import asyncio
import json
import random
import selectors

from multiembed import EmbeddingOptions
from multiembed.batching.token_count import estimate_tokens
from multiembed.config.request_config import resolve_config
from multiembed.execution.workers import WorkerPool
from multiembed.flow.context import MAX_RETRIES, PATIENCE, Batch, CallContext, LearnedLimits
from multiembed.ratelimit.limiter import AccountLimiter
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.simulator.api_format import texts_of
from multiembed.simulator.messages import Request
from multiembed.simulator.quotas import Excess, Quota, Quotas
from multiembed.simulator.request_log import Arrival, Arrivals
from multiembed.simulator.responder import FORMS, Answerer, over_quota
from multiembed.simulator.tokenizer import count_tokens
from multiembed.transport.types import HttpResponse
from support.workers import Batches

KEY = "sk-simulator"
SIZE = 64
MODELS = {
    "zhipu": "zhipu:embedding-3",
    "siliconflow": "siliconflow:Qwen/Qwen3-Embedding-0.6B",
    "dashscope": "dashscope:text-embedding-v4",
    "dashscope-compatible": "dashscope-compatible:text-embedding-v4",
    "gateway": "gateway:any-model",
}
_DIMENSIONS = {"zhipu": 256}


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self):
        self.now = 0.0
        real = selectors.DefaultSelector()
        super().__init__(real)
        select = real.select

        def jump(timeout=None):
            ready = select(0)
            if not ready and timeout:
                self.now += timeout
            return ready

        real.select = jump

    def time(self):
        return self.now


def one_text(number):
    """The texts of a request: a short one."""
    return [f"text {number}"]


class Account:
    """An account with quotas at a provider that answers as the simulator does, and those who use it, on one gate.

    Args:
        provider: whose wire form is spoken.
        latency: seconds from arrival to answer, a third more or less; a refusal takes a tenth of it.
        way: seconds from client to server, and back.
        jitter: the most seconds that a request or an answer takes longer.
        seed: of all chances.
    """

    def __init__(self, provider, *, latency=0.2, way=0.005, jitter=0.0, seed=0):
        self.loop = VirtualLoop()
        self.limiter = AccountLimiter(self.loop.time)
        self.arrivals = Arrivals()
        self.failures = []
        self.texts = 0
        self.ended = 0.0
        """When the last request was answered."""
        self._form = FORMS[provider]
        self._answer = Answerer(KEY)
        self._quotas = Quotas()
        self._refused = {}
        self._latency, self._way, self._jitter = latency, way, jitter
        self._chances = random.Random(seed)
        size = _DIMENSIONS.get(provider, SIZE)
        self._target = resolve_config(
            MODELS[provider], EmbeddingOptions(api_key=KEY, base_url="https://host.example", dimensions=size), {}
        )

    def limit(self, **quota):
        """From now on."""
        self._quotas.limit(Quota(**quota), self.loop.now)

    def refuse(self, numbers, limit="requests"):
        """Refuse the requests with these numbers, counted from 1 in the order of arrival, as if over this limit."""
        self._refused = dict.fromkeys(numbers, Excess(limit, None))

    def run(self, seconds, *, crews=1, texts=10**9, told=None, changes=(), write=one_text):
        """Let crews embed until so many seconds have passed or all texts are there.

        Args:
            seconds: when the last request may begin.
            crews: how many at once, each with a call of its own.
            texts: requests of all of them, a refused one counted once.
            told: what they know of the quota.
            changes: (second, function), done in passing.
            write: from the number of a request to its texts.
        """
        for when, change in changes:
            self.loop.call_at(when, change)

        def take():
            if self.loop.now >= seconds or self.texts >= texts:
                return None
            self.texts += 1
            written = write(self.texts)
            return Batch(range(len(written)), written, sum(map(estimate_tokens, written)))

        async def all_crews():
            pools = [WorkerPool(self._work(take, told), self._send) for _ in range(crews)]
            await asyncio.gather(*(pool.run(bool) for pool in pools))

        try:
            self.loop.run_until_complete(all_crews())
        finally:
            self.ended = self.loop.now
            self.loop.close()

    def _work(self, take, told):
        per_second = self._target.provider.per_second
        job = CallContext(
            config=self._target,
            role="document",
            learned=LearnedLimits(),
            limiter=self.limiter,
            account_limits=self.limiter.effective_limits(told or AccountLimits(per_second=per_second)),
            count_tokens=estimate_tokens,
            max_retries=MAX_RETRIES,
            outage_patience=PATIENCE,
            timeout=60.0,
            deadline_at=None,
            clock=self.loop.time,
            wall_time=self.loop.time,
            random=self._chances.random,
        )
        return Batches(job, take, done=lambda _, outcome: self.failures.extend(outcome.failures.values()))

    async def _send(self, wire):
        request = Request(
            id=f"{self._chances.getrandbits(128):032x}",
            method="POST",
            path=self._form.path,
            headers={name.lower(): value for name, value in wire.headers.items()},
            raw=wire.body,
            body=json.loads(wire.body),
        )
        await asyncio.sleep(self._one_way())
        tokens = sum(map(count_tokens, texts_of(request.body)))
        number = self.arrivals.accepted + self.arrivals.rejected + 1
        excess = self._refused.get(number) or self._quotas.enter(self._form, tokens, self.loop.now)
        self.arrivals.note(Arrival(self.loop.now, excess is None, tokens, self._form.provider))
        latency = self._latency * self._chances.uniform(0.67, 1.33)
        if excess is not None:
            answer = over_quota(self._form, excess, request)
            latency /= 10
        else:
            answer = self._answer(request)
        await asyncio.sleep(latency)
        if excess is None:
            self._quotas.leave(self._form)
        await asyncio.sleep(self._one_way())
        return HttpResponse(answer.status, dict(answer.headers), answer.body, latency + 2 * self._way)

    def _one_way(self):
        return self._way + (self._chances.uniform(0.0, self._jitter) if self._jitter else 0.0)

    # ── what the server saw ──────────────────────────────────────────────────────────────────────

    def served(self, start, end):
        """Requests within the quota that came between two times."""
        return sum(each.accepted for each in self.arrivals.log() if start <= each.time < end)

    def rejected_share(self, start, end):
        """Of the requests between two times, those that were refused."""
        came = [each.accepted for each in self.arrivals.log() if start <= each.time < end]
        return came.count(False) / len(came)
