"""Virtual time: an event loop whose clock jumps to its next timer, and an account with quotas by that clock."""

from __future__ import annotations

import asyncio
import json
import random
import selectors

from multiembed import EmbeddingOptions
from multiembed.batching.token_count import estimate_tokens
from multiembed.config.request_config import resolve_config
from multiembed.execution.workers import WorkerPool
from multiembed.flow.context import MAX_RETRIES, PATIENCE, Batch, CallContext, Environment, LearnedLimits
from multiembed.providers import PROVIDERS
from multiembed.ratelimit.limiter import AccountLimiter
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.simulator.api_format import texts_of
from multiembed.simulator.formats import API_FORMATS
from multiembed.simulator.messages import Request
from multiembed.simulator.quotas import Excess, Quota, Quotas
from multiembed.simulator.request_log import Arrival, RequestLog
from multiembed.simulator.responder import Responder, over_quota
from multiembed.simulator.tokenizer import count_tokens
from multiembed.transport.types import HttpResponse
from support.providers import HOST, MODEL_NAMES, MODELS
from support.workers import Batches

KEY = "sk-simulator"
SIZE = 64
ANSWER = Responder(KEY)
"""Of all accounts: it keeps the vectors of texts, and most accounts get the same."""


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
    """Return the short text of one request."""
    return [f"text {number}"]


class Account:
    """Account with quotas at a provider that responds as the simulator does, and its calls on one limiter.

    Args:
        provider: whose API format is used.
        latency: seconds from arrival to response, a third more or less; a rejection takes a tenth of it.
        transit: seconds from client to server, and back.
        jitter: maximum of additional seconds of a request or a response.
        seed: of all random numbers.
    """

    def __init__(self, provider, *, latency=0.2, transit=0.005, jitter=0.0, seed=0):
        self.loop = VirtualLoop()
        self.limiter = AccountLimiter(self.loop.time)
        self.arrivals = RequestLog()
        self.failures = []
        self.texts = 0
        self.ended = 0.0
        """When the last request ended."""
        self._form = API_FORMATS[provider]
        self._quotas = Quotas()
        self._rejected = {}
        self._latency, self._transit, self._jitter = latency, transit, jitter
        self._random = random.Random(seed)
        sizes = PROVIDERS[provider].model(MODEL_NAMES[provider]).dimensions
        options = EmbeddingOptions(api_key=KEY, base_url=HOST, dimensions=sizes[0] if sizes else SIZE)
        self._config = resolve_config(MODELS[provider], options, {})

    def limit(self, **quota):
        """Set a quota from now on."""
        self._quotas.limit(Quota(**quota), self.loop.now)

    def reject(self, numbers, limit="requests"):
        """Reject the requests with these numbers, counted from 1 in the order of arrival, as over this limit."""
        self._rejected = dict.fromkeys(numbers, Excess(limit, None))

    def run(self, seconds, *, calls=1, texts=10**9, limits=None, changes=(), write=one_text):
        """Run calls until so many seconds have passed or all texts are embedded.

        Args:
            seconds: when the last request may start.
            calls: how many at once.
            texts: requests of all of them, a rejected one counted once.
            limits: the configured limits.
            changes: (second, function) to call then.
            write: function from the number of a request to its texts.
        """
        for when, change in changes:
            self.loop.call_at(when, change)

        take = self._take_until(seconds, texts, write)

        async def run_calls():
            pools = [WorkerPool(self._source(take, limits), self._send) for _ in range(calls)]
            await asyncio.gather(*(pool.run(bool) for pool in pools))

        try:
            self.loop.run_until_complete(run_calls())
        finally:
            self.ended = self.loop.now
            self.loop.close()

    def _take_until(self, seconds, texts=10**9, write=one_text):
        def take():
            if self.loop.now >= seconds or self.texts >= texts:
                return None
            self.texts += 1
            written = write(self.texts)
            return Batch(range(len(written)), written, sum(map(estimate_tokens, written)))

        return take

    def _source(self, take, limits):
        per_second = self._config.provider.per_second
        context = CallContext(
            config=self._config,
            role="document",
            learned=LearnedLimits(),
            limiter=self.limiter,
            account_limits=self.limiter.effective_limits(limits or AccountLimits(per_second=per_second)),
            count_tokens=estimate_tokens,
            max_retries=MAX_RETRIES,
            outage_patience=PATIENCE,
            timeout=60.0,
            deadline_at=None,
            environment=Environment(clock=self.loop.time, wall_time=self.loop.time, random=self._random.random),
        )
        return Batches(context, take, done=lambda _, outcome: self.failures.extend(outcome.failures.values()))

    async def _send(self, sent):
        request = Request(
            id=f"{self._random.getrandbits(128):032x}",
            method="POST",
            path=self._form.path,
            headers={name.lower(): value for name, value in sent.headers.items()},
            raw=sent.body,
            body=json.loads(sent.body),
        )
        await asyncio.sleep(self._transit_time())
        tokens = sum(map(count_tokens, texts_of(request.body)))
        number = self.arrivals.accepted + self.arrivals.rejected + 1
        excess = self._rejected.get(number) or self._quotas.enter(self._form, tokens, self.loop.now)
        self.arrivals.add(Arrival(self.loop.now, excess is None, tokens, self._form.provider))
        latency = self._latency * self._random.uniform(0.67, 1.33)
        if excess is not None:
            response = over_quota(self._form, excess, request)
            latency /= 10
        else:
            response = ANSWER(request)
        await asyncio.sleep(latency)
        if excess is None:
            self._quotas.leave(self._form)
        await asyncio.sleep(self._transit_time())
        return HttpResponse(response.status, dict(response.headers), response.body, latency + 2 * self._transit)

    def _transit_time(self):
        return self._transit + (self._random.uniform(0.0, self._jitter) if self._jitter else 0.0)

    # ── what the server saw ──────────────────────────────────────────────────────────────────────

    def served(self, start, end):
        """Count the accepted requests that arrived between two times."""
        return sum(each.accepted for each in self.arrivals.arrivals() if start <= each.time < end)

    def rejected_share(self, start, end):
        """Share of rejected requests among those that arrived between two times."""
        accepted = [each.accepted for each in self.arrivals.arrivals() if start <= each.time < end]
        return accepted.count(False) / len(accepted)
