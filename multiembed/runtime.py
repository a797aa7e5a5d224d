"""What an embedder holds that cannot travel: connections, locks, and what it has learned, for one process."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from multiembed.duplicate_responses import DuplicateGuard, guard_for
from multiembed.gate import Gate, gate_of
from multiembed.job import Lessons
from multiembed.log import logger
from multiembed.pace import Ceilings
from multiembed.records import Usage, WireReply
from multiembed.tally import Tally
from multiembed.usage_hook import UsageHook

if TYPE_CHECKING:
    from multiembed.cache.checked import CheckedCache
    from multiembed.job import Answer
    from multiembed.options import EmbeddingOptions
    from multiembed.reactor.contract import Reactor
    from multiembed.records import WireRequest
    from multiembed.target import Target
    from multiembed.wire import Wire

_BROKEN_OFF = Usage(requests=1)
"""A request that Ctrl-C or a cancelled task broke off: it was sent all the same, and nobody tells what it costs."""


class Runtime:
    """Made at the first call in a process, left alone in a forked child, never pickled or copied."""

    def __init__(self, options: EmbeddingOptions, target: Target) -> None:
        self.gate: Gate = gate_of(account_of(target), name=target.name)
        self.ceilings = Ceilings(
            in_flight=options.max_concurrency,
            requests_per_minute=options.requests_per_minute,
            tokens_per_minute=options.tokens_per_minute,
            per_second=target.provider.per_second,
        )
        self.gate.tell(self, self.ceilings)
        own = options.http_client is not None or options.http_async_client is not None
        self._duplicates = DuplicateGuard() if own else guard_for(urlsplit(target.url).netloc)
        self._name = target.name
        self.lessons = Lessons()
        self.tally = Tally()
        self.usage_hook = UsageHook(options.on_usage)
        self.caches = options.cache is not None
        """Whether vectors are looked up and kept."""
        self._options = options
        self._target = target
        self._cache: CheckedCache | None = None
        self._wire: Wire | None = None
        self._lock = threading.Lock()

    async def send(self, request: WireRequest, reactor: Reactor) -> Answer:
        """Send one request; once more, on a fresh connection, where its answer is another one's late duplicate."""
        try:
            wire = self._connected()
            answer = await wire.send(request, reactor)
            if isinstance(answer, WireReply) and self._is_late_duplicate(request, answer):
                logger.warning("%s: a late duplicate of another answer came; the request is sent again", self._name)
                left = max(0.0, request.timeout - answer.seconds)  # both are one attempt
                answer = replace(await wire.send(replace(request, fresh=True, timeout=left), reactor), requests=2)
                if isinstance(answer, WireReply) and self._duplicates.is_duplicate(request.body, answer):
                    self._duplicates.confirm(answer)
        except BaseException:
            self.tally.add(_BROKEN_OFF)
            self.usage_hook.report_soon(_BROKEN_OFF)
            raise
        return answer

    def _is_late_duplicate(self, request: WireRequest, answer: WireReply) -> bool:
        """Whether an answer came before, for another request. On a fresh connection, none can come twice."""
        return self._duplicates.is_duplicate(request.body, answer) and answer.reused

    @property
    def cache(self) -> CheckedCache | None:
        """Where vectors are looked up and kept, opened when it is first asked for.

        Raises:
            ConfigurationError: it is nothing that can keep vectors, or a file that cannot be used.
        """
        if self.caches and self._cache is None:
            from multiembed.cache import open_cache
            from multiembed.cache.checked import CheckedCache

            target = self._target
            with self._lock:
                self._cache = self._cache or CheckedCache(
                    open_cache(self._options.cache), output=target.output, dimensions=target.expected_dimensions
                )
        return self._cache

    def close(self) -> None:
        """Close the threads' connections, and the cache."""
        if self._cache is not None:
            self._cache.close()
        if self._wire is not None:
            self._wire.close()

    async def aclose(self) -> None:
        """Close the connections of this loop and of threads, and the cache."""
        if self._cache is not None:
            self._cache.close()
        if self._wire is not None:
            await self._wire.aclose()

    def _connected(self) -> Wire:
        """The connections. httpx is imported only when there is something to send."""
        if self._wire is None:
            from multiembed.wire import Wire

            with self._lock:
                self._wire = self._wire or Wire(self._options.http_client, self._options.http_async_client)
        return self._wire


def account_of(target: Target) -> str:
    """The name of the quota that a request uses: provider, host, a hash of the key, and model.

    All vendors limit each model for itself (their pages on rate limits, read 2026-11), and one that fails must not stop
    another.
    """
    key = target.key.reveal() if target.key else ""
    hashed = hashlib.sha256(key.encode()).hexdigest()
    return f"{target.provider.id}:{urlsplit(target.url).netloc}:{hashed}:{target.facts.name}"
