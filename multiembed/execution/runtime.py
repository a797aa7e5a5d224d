"""Runtime of one client in one process: connection pool, rate limiter, cache writer, statistics and learned limits."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import threading
import time
import weakref
from collections import deque
from contextvars import Context
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import urlsplit

from multiembed.batching.token_count import checked_counter, estimate_tokens
from multiembed.config.options import settings_of
from multiembed.execution.io_thread import (
    Wakeup,
    caller_loop,
    in_thread,
    io_thread,
    resolve,
    run_in,
    started_io_thread,
)
from multiembed.execution.usage_hook import UsageHook
from multiembed.flow.context import MAX_RETRIES, PATIENCE, CallContext, Environment, LearnedLimits
from multiembed.observability.stats import StatsCollector
from multiembed.ratelimit.pacer import AccountLimits
from multiembed.ratelimit.registry import limiter_for
from multiembed.responses.duplicate_responses import DuplicateGuard, guard_for
from multiembed.testing import apply_test_mode
from multiembed.transport.client import Transport
from multiembed.transport.failures import timed_out
from multiembed.transport.types import HttpResponse
from multiembed.types import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiembed.cache.base import CacheEntry
    from multiembed.cache.checked_cache import CheckedCache
    from multiembed.config.options import EmbeddingOptions
    from multiembed.config.request_config import RequestConfig
    from multiembed.flow.context import TransportResult
    from multiembed.ratelimit.limiter import AccountLimiter
    from multiembed.transport.settings import TransportSettings
    from multiembed.transport.types import HttpRequest
    from multiembed.types import Role

logger = logging.getLogger("multiembed")
_INTERRUPTED = Usage(requests=1)
"""A request that Ctrl-C or a cancelled task ended: it was sent, and its cost stays unknown."""
_MAX_ENTRIES = 16
"""Writes in one commit: more make it slower again (benchmarks/results/cache.md, 2026-11-28)."""
_IDLE_SECONDS = 0.1
"""Seconds that the thread of a CacheWriter waits for the next write. With a thread for each commit, `multiembed embed`
took 27 % longer (30,000 rows of 1,024 dimensions, a busy machine, 2026-11-28)."""


class CacheWriter:
    """Group commit of all cache entries that finished during the last commit, in a thread. For the I/O thread only.

    A commit for each request, on the thread that reads the sockets, took 22.6 % of an ingestion (300,000 rows of 1,024
    dimensions, 2026-11).
    """

    def __init__(self, cache: CheckedCache) -> None:
        self._cache = cache
        self._pending: deque[tuple[Sequence[CacheEntry], asyncio.Future[None]]] = deque()
        self._wakeup = Wakeup()
        self._task: asyncio.Task[None] | None = None

    async def write(self, entries: Sequence[CacheEntry]) -> None:
        """Write vectors; returns when they are committed. A cancelled caller does not stop the write."""
        loop = asyncio.get_running_loop()
        committed: asyncio.Future[None] = loop.create_future()
        self._pending.append((entries, committed))
        self._wakeup.set()
        if self._task is None:
            # Not in the caller's context: it writes for all.
            self._task = loop.create_task(self._run_thread(loop), context=Context())
        await committed

    async def _run_thread(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            while self._pending:  # a write may come when the thread is about to end
                await in_thread(self._write_pending, loop)
        finally:
            self._task = None

    def _write_pending(self, loop: asyncio.AbstractEventLoop) -> None:
        # Where no thread can be started, this is the I/O thread, and nothing would come while it waits.
        idle = 0.0 if io_thread().is_current else _IDLE_SECONDS
        while self._pending or self._wakeup.wait(idle):
            if self._pending:
                self._write_group(loop)

    def _write_group(self, loop: asyncio.AbstractEventLoop) -> None:
        group = [self._pending.popleft() for _ in range(min(len(self._pending), _MAX_ENTRIES))]
        error = None
        try:
            self._cache.put_many([entry for entries, _ in group for entry in entries])
        except BaseException as raised:  # noqa: BLE001 - the callers raise it
            error = raised
        loop.call_soon_threadsafe(_end_writes, group, error)
        del error  # its traceback holds this frame: no cycle of references


def _end_writes(group: Sequence[tuple[object, asyncio.Future[None]]], error: BaseException | None) -> None:
    for _, committed in group:
        resolve(committed, None, error)


class Runtime:
    """Made at the first call in a process, not used in a forked child, never pickled or copied."""

    def __init__(self, options: EmbeddingOptions, config: RequestConfig) -> None:
        self.options = options
        self.config = config
        self.account_limits = AccountLimits(
            in_flight=options.max_concurrency,
            requests_per_minute=options.requests_per_minute,
            tokens_per_minute=options.tokens_per_minute,
            per_second=config.provider.per_second,
        )
        own = options.http_client is not None or options.http_async_client is not None
        self._duplicates = DuplicateGuard() if own else guard_for(urlsplit(config.url).netloc)
        self.learned = LearnedLimits()
        self.stats = StatsCollector()
        self.usage_hook = UsageHook(options.on_usage)
        self.has_cache = options.cache is not None
        """Whether vectors are looked up and kept."""
        self.workers = 0
        """Workers of all calls that run now."""
        self._account = ""
        self._cache: CheckedCache | None = None
        self._cache_lock = threading.Lock()
        self._cache_writer: CacheWriter | None = None
        self._limiter: AccountLimiter | None = None
        self._transport: Transport | None = None
        self._settings = settings_of(options)
        weakref.finalize(self, _close_transport_soon, self._settings).atexit = False

    def find_account(self) -> None:
        """Find the account, once. It may call the user's key function, so not on the I/O thread."""
        self._account = self._account or account_id(self.config)

    # ── on the I/O thread ────────────────────────────────────────────────────────────────────────

    @property
    def limiter(self) -> AccountLimiter:
        """The rate limiter of the account and model. Call `find_account` first."""
        if self._limiter is None:
            self._limiter = limiter_for(self._account, name=self.config.name, quota=self.config.quota)
            self._limiter.owners[self] = self.account_limits
        return self._limiter

    def make_context(self, role: Role) -> CallContext:
        """Make the state that the batches of a call share."""
        options, counter = self.options, self.options.token_counter
        return CallContext(
            config=self.config,
            role=role,
            learned=self.learned,
            limiter=self.limiter,
            account_limits=self.limiter.effective_limits(self.account_limits),
            count_tokens=checked_counter(counter) if counter else estimate_tokens,
            counts_in_thread=counter is not None,
            max_retries=MAX_RETRIES if options.max_retries is None else options.max_retries,
            configured_retries=options.max_retries or 0,
            outage_patience=apply_test_mode(PATIENCE) if options.max_retries is None else 0.0,
            timeout=options.timeout,
            deadline_at=None,
            environment=Environment(
                clock=time.monotonic, wall_time=time.time, random=random.random, sleep_filter=apply_test_mode
            ),
        )

    @property
    def cache_writer(self) -> CacheWriter | None:
        """Writer of finished vectors. Read `cache` first, which opens it."""
        if self._cache_writer is None and self._cache is not None:
            self._cache_writer = CacheWriter(self._cache)
        return self._cache_writer

    async def send(self, request: HttpRequest, loop: asyncio.AbstractEventLoop | None) -> TransportResult:
        """Send one request. Send it again, on a fresh connection, if the response is a late duplicate of another one.

        Args:
            request: to send.
            loop: of the async caller; None for a sync one.
        """
        if loop is not None and loop.is_closed():
            raise asyncio.CancelledError("the caller's event loop was closed in the middle of the call")
        try:
            response = await self._send_once(request, loop)
            # On a fresh connection, no response can come twice.
            if self._is_duplicate(response, request) and response.reused:
                logger.warning(
                    "%s: the response is a late duplicate of another one; the request is sent again", self.config.name
                )
                timeout = max(0.0, request.timeout - response.seconds)  # both are one attempt
                second = await self._send_once(replace(request, fresh=True, timeout=timeout), loop)
                response = replace(second, requests=2)
                if self._is_duplicate(response, request):
                    self._duplicates.confirm(response)
        except BaseException:
            self.stats.add(_INTERRUPTED)
            self.usage_hook.report_soon(_INTERRUPTED)
            raise
        return response

    def _is_duplicate(self, response: TransportResult, request: HttpRequest) -> TypeGuard[HttpResponse]:
        return isinstance(response, HttpResponse) and self._duplicates.is_duplicate(request.body, response)

    async def _send_once(self, request: HttpRequest, loop: asyncio.AbstractEventLoop | None) -> TransportResult:
        options = self.options
        if loop is None and options.http_client is not None:
            from multiembed.transport.httpx_client import send

            return await in_thread(send, options.http_client, request)
        if loop is not None and options.http_async_client is not None:
            from multiembed.transport.httpx_client import asend

            try:
                async with asyncio.timeout(request.timeout):  # its loop may be blocked, and then ends nothing in time
                    return await run_in(loop, partial(asend, options.http_async_client, request))
            except TimeoutError:
                return timed_out(request.timeout)
        if self._transport is None:
            shared = io_thread().shared
            self._transport, users = shared.setdefault(self._settings, (Transport(self._settings), weakref.WeakSet()))
            users.add(self)
        return await self._transport.send(request)

    async def _disconnect(self) -> None:
        if self._transport is not None:
            self._transport = None
            shared = io_thread().shared
            if self._settings in shared:
                shared[self._settings][1].discard(self)
                await _close_unused_transport(shared, self._settings)

    # ── on any thread ────────────────────────────────────────────────────────────────────────────

    @property
    def cache(self) -> CheckedCache | None:
        """Cache of vectors, opened at the first access. A ConfigurationError says why it cannot be used."""
        if self.has_cache and self._cache is None:
            from multiembed.cache import open_cache
            from multiembed.cache.checked_cache import CheckedCache

            config = self.config
            with self._cache_lock:
                self._cache = self._cache or CheckedCache(
                    open_cache(self.options.cache), output=config.output, dimensions=config.expected_dimensions
                )
        return self._cache

    def close(self) -> None:
        """Close the connections, unless other clients use them, and the cache."""
        if self._cache is not None:
            self._cache.close()
        io = started_io_thread()
        if io is not None:  # the I/O thread may collect garbage, and with it an object that closes its client
            (io.spawn if io.is_current else io.run)(self._disconnect)

    async def aclose(self) -> None:
        """As `close`, without blocking the event loop."""
        if self._cache is not None:
            await in_thread(self._cache.close)
        io = started_io_thread()
        if io is not None:
            caller_loop()
            await run_in(io.loop, self._disconnect)


def account_id(config: RequestConfig) -> str:
    """The name of the quota that a request uses: provider, host, a hash of the key, and model.

    All vendors limit each model separately (their pages on rate limits, read 2026-11), and the circuit breaker of a
    failing model must not stop another.
    """
    key = config.key.get() if config.key else ""
    hashed = hashlib.sha256(key.encode()).hexdigest()
    return f"{config.provider.id}:{urlsplit(config.url).netloc}:{hashed}:{config.model.name}"


# ── connection pools, shared by all clients with the same settings ───────────────────────────────


def _close_transport_soon(settings: TransportSettings) -> None:
    io = started_io_thread()
    if io is not None:
        io.spawn(partial(_close_unused_transport, io.shared, settings))


async def _close_unused_transport(shared: dict[Any, Any], settings: TransportSettings) -> None:
    transport, users = shared.get(settings, (None, ()))
    if transport is not None and not users:
        del shared[settings]
        await transport.aclose()
