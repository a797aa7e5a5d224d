"""What an embedder holds that cannot travel: connections, and what it has learned, for one process."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import threading
import weakref
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from multiembed.config.options import settings_of
from multiembed.execution.cache_writer import CacheWriter
from multiembed.execution.io_thread import IoThread, caller_loop, in_thread, io_thread, run_in, started_io_thread
from multiembed.execution.usage_hook import UsageHook
from multiembed.flow.context import LearnedLimits
from multiembed.observability.stats import StatsCollector
from multiembed.ratelimit.limiter import limiter_for
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.responses.duplicate_responses import DuplicateGuard, guard_for
from multiembed.transport.client import Transport
from multiembed.transport.failures import timed_out
from multiembed.transport.types import HttpResponse
from multiembed.types import Usage

if TYPE_CHECKING:
    from multiembed.cache.checked_cache import CheckedCache
    from multiembed.config.options import EmbeddingOptions
    from multiembed.config.request_config import RequestConfig
    from multiembed.flow.context import TransportResult
    from multiembed.ratelimit.limiter import AccountLimiter
    from multiembed.transport.settings import TransportSettings
    from multiembed.transport.types import HttpRequest

logger = logging.getLogger("multiembed")
_BROKEN_OFF = Usage(requests=1)
"""A request that Ctrl-C or a cancelled task broke off: it was sent all the same, and nobody tells what it costs."""


class Runtime:
    """Made at the first call in a process, left alone in a forked child, never pickled or copied."""

    def __init__(self, options: EmbeddingOptions, target: RequestConfig) -> None:
        self.account_limits = AccountLimits(
            in_flight=options.max_concurrency,
            requests_per_minute=options.requests_per_minute,
            tokens_per_minute=options.tokens_per_minute,
            per_second=target.provider.per_second,
        )
        own = options.http_client is not None or options.http_async_client is not None
        self._duplicates = DuplicateGuard() if own else guard_for(urlsplit(target.url).netloc)
        self._name = target.name
        self.learned = LearnedLimits()
        self.stats = StatsCollector()
        self.usage_hook = UsageHook(options.on_usage)
        self.has_cache = options.cache is not None
        """Whether vectors are looked up and kept."""
        self.workers = 0
        """Batches that are being worked on."""
        self._account = ""
        self._options = options
        self._target = target
        self._cache: CheckedCache | None = None
        self._cache_writer: CacheWriter | None = None
        self._limiter: AccountLimiter | None = None
        self._transport: Transport | None = None
        self._opening = threading.Lock()
        self._settings = settings_of(options)
        weakref.finalize(self, _close_soon, self._settings).atexit = False

    def find_account(self) -> None:
        """Find the account, once. It may call the user's key function, so not on the I/O thread."""
        self._account = self._account or account_id(self._target)

    # ── on the I/O thread ────────────────────────────────────────────────────────────────────────

    @property
    def limiter(self) -> AccountLimiter:
        """The limiter of the account and model. To be used after `find_account`."""
        if self._limiter is None:
            self._limiter = limiter_for(self._account, name=self._name)
            self._limiter.register_limits(self, self.account_limits)
        return self._limiter

    async def effective_limits(self) -> AccountLimits:
        """The limits that hold now, those of other embedders on the account included."""
        return self.limiter.effective_limits(self.account_limits)

    @property
    def cache_writer(self) -> CacheWriter | None:
        """Where finished vectors are kept. To be used after `cache` was opened."""
        if self._cache_writer is None and self._cache is not None:
            self._cache_writer = CacheWriter(self._cache)
        return self._cache_writer

    async def send(self, request: HttpRequest, loop: asyncio.AbstractEventLoop | None) -> TransportResult:
        """Send one request; once more, on a fresh connection, where its answer is another one's late duplicate.

        Args:
            request: what is sent.
            loop: of the async caller; None for a sync one.
        """
        try:
            answer = await self._attempt(request, loop)
            if isinstance(answer, HttpResponse) and self._is_late_duplicate(request, answer):
                logger.warning("%s: a late duplicate of another answer came; the request is sent again", self._name)
                left = max(0.0, request.timeout - answer.seconds)  # both are one attempt
                again = replace(request, fresh=True, timeout=left)
                answer = replace(await self._attempt(again, loop), requests=2)
                if isinstance(answer, HttpResponse) and self._duplicates.is_duplicate(request.body, answer):
                    self._duplicates.confirm(answer)
        except BaseException:
            self.stats.add(_BROKEN_OFF)
            self.usage_hook.report_soon(_BROKEN_OFF)
            raise
        return answer

    def _is_late_duplicate(self, request: HttpRequest, answer: HttpResponse) -> bool:
        """Whether an answer came before, for another request. On a fresh connection, none can come twice."""
        return self._duplicates.is_duplicate(request.body, answer) and answer.reused

    async def _attempt(self, request: HttpRequest, loop: asyncio.AbstractEventLoop | None) -> TransportResult:
        options = self._options
        if loop is None and options.http_client is not None:
            from multiembed.transport.httpx_client import send

            return await in_thread(send, options.http_client, request)
        if loop is not None and options.http_async_client is not None:
            from multiembed.transport.httpx_client import asend

            try:
                async with asyncio.timeout(request.timeout):  # its loop may be blocked, and ends nothing in time
                    return await run_in(loop, partial(asend, options.http_async_client, request))
            except TimeoutError:
                return timed_out(request.timeout)
        if self._transport is None:
            self._transport = _join(self, self._settings)
        return await self._transport.send(request)

    async def _disconnect(self) -> None:
        if self._transport is not None:
            self._transport = None
            await _leave(self, self._settings)

    # ── anywhere ─────────────────────────────────────────────────────────────────────────────────

    @property
    def cache(self) -> CheckedCache | None:
        """Where vectors are looked up and kept, opened when it is first asked for.

        Raises:
            ConfigurationError: it is nothing that can keep vectors, or a file that cannot be used.
        """
        if self.has_cache and self._cache is None:
            from multiembed.cache import open_cache
            from multiembed.cache.checked_cache import CheckedCache

            target = self._target
            with self._opening:
                self._cache = self._cache or CheckedCache(
                    open_cache(self._options.cache), output=target.output, dimensions=target.expected_dimensions
                )
        return self._cache

    def close(self) -> None:
        """Close the connections, unless other embedders use them, and the cache."""
        if self._cache is not None:
            self._cache.close()
        io = started_io_thread()
        if io is not None:
            if io.is_current:  # which may collect garbage, and with it an object that closes its client
                io.spawn(self._disconnect)
            else:
                io.run(self._disconnect)

    async def aclose(self) -> None:
        """As `close`, without blocking the event loop."""
        if self._cache is not None:
            await in_thread(self._cache.close)
        io = started_io_thread()
        if io is not None:
            caller_loop()
            await run_in(io.loop, self._disconnect)


def account_id(target: RequestConfig) -> str:
    """The name of the quota that a request uses: provider, host, a hash of the key, and model.

    All vendors limit each model for itself (their pages on rate limits, read 2026-11), and one that fails must not stop
    another.
    """
    key = target.key.get() if target.key else ""
    hashed = hashlib.sha256(key.encode()).hexdigest()
    return f"{target.provider.id}:{urlsplit(target.url).netloc}:{hashed}:{target.model.name}"


# ── connections, shared by all embedders with the same settings ──────────────────────────────────


def _join(runtime: Runtime, settings: TransportSettings) -> Transport:
    io = io_thread()
    transport: Transport
    transport, users = io.shared.setdefault(settings, (Transport(settings), weakref.WeakSet()))
    users.add(runtime)
    return transport


def _close_soon(settings: TransportSettings) -> None:
    io = started_io_thread()
    if io is not None:
        io.spawn(partial(_close_unused, io, settings))


async def _leave(runtime: Runtime, settings: TransportSettings) -> None:
    io = io_thread()
    if settings in io.shared:
        io.shared[settings][1].discard(runtime)
        await _close_unused(io, settings)


async def _close_unused(io: IoThread, settings: TransportSettings) -> None:
    transport, users = io.shared.get(settings, (None, ()))
    if transport is not None and not users:
        del io.shared[settings]
        await transport.aclose()
