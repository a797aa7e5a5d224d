"""EmbeddingClient: embeds texts through one provider and model, without a framework."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import AsyncIterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

from multiembed.config.options import EmbeddingOptions, EmbeddingOptionsDict, add_option_docs
from multiembed.config.request_config import resolve_config
from multiembed.errors import ConfigurationError, ModelNameWarning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from contextlib import AbstractContextManager

    from multiembed.config.request_config import RequestConfig
    from multiembed.execution.call import EmbedCall
    from multiembed.execution.runtime import Runtime
    from multiembed.execution.stream import OnError
    from multiembed.types import ClientStats, EmbeddingResult, Estimate, Role, Usage, Vectors

_warned: set[str] = set()
"""Models that ModelNameWarning was given for in this process."""


class EmbeddingClient:
    """Client that embeds texts through one provider and model.

    One client may be used from many threads and event loops at once, and be pickled, copied and forked.

    Args:
        model: as provider:model, for instance "dashscope:text-embedding-v4".
        **options: see below; the fields of EmbeddingOptions.

    Raises:
        ConfigurationError: the model or an option cannot work. Nothing is sent to find out.
    """

    def __init__(self, model: str, **options: Unpack[EmbeddingOptionsDict]) -> None:
        self.__setstate__((model, EmbeddingOptions(**options)))
        self._preload()

    @classmethod
    def from_options(cls, model: str, options: EmbeddingOptions, *, drop_empty: str | None = None) -> EmbeddingClient:
        """Make a client from validated options.

        Args:
            model: as provider:model.
            options: for this model.
            drop_empty: how the caller's framework leaves empty texts out, in one line of Python; for error messages.
        """
        client = cls.__new__(cls)
        client.__setstate__((model, options))
        client._drop_empty = drop_empty
        client._preload()
        return client

    @overload
    def embed(
        self, texts: Iterable[str], role: Role = "document", *, lists: Literal[False] = False
    ) -> EmbeddingResult: ...

    @overload
    def embed(
        self, texts: Iterable[str], role: Role = "document", *, lists: bool
    ) -> EmbeddingResult[Vectors | None]: ...

    def embed(self, texts: Iterable[str], role: Role = "document", *, lists: bool = False) -> EmbeddingResult[Any]:
        """Embed texts. Order is kept, and a text that occurs twice is sent once.

        Args:
            texts: any iterable of text.
            role: "document" for what is searched, "query" for what is searched with.
            lists: the result has `to_list` and no array; the lists are built while other requests are in flight.

        Returns:
            The vectors, float32, shape (len(texts), dimensions), and what they cost.

        Raises:
            ConfigurationError: an item is not text.
            InvalidRequestError: a text is empty; `indices` names it. Nothing was sent.
            PartialFailureError: some texts failed; the others are in its `.result`.
            MultiEmbedError: all texts failed; `multiembed.errors` shows the tree.
        """
        from multiembed.execution.chunk import result_or_raise
        from multiembed.execution.io_thread import io_thread
        from multiembed.execution.workers import run_chunk

        io_thread().check_caller()
        with self._call(role) as call:
            chunk = call.prepare(texts, lists=lists)
            run_chunk(call, chunk)
            return result_or_raise(chunk)

    @overload
    async def aembed(
        self, texts: Iterable[str], role: Role = "document", *, lists: Literal[False] = False
    ) -> EmbeddingResult: ...

    @overload
    async def aembed(
        self, texts: Iterable[str], role: Role = "document", *, lists: bool
    ) -> EmbeddingResult[Vectors | None]: ...

    async def aembed(
        self, texts: Iterable[str], role: Role = "document", *, lists: bool = False
    ) -> EmbeddingResult[Any]:
        """As `embed`, without blocking the event loop."""
        from multiembed.execution.chunk import result_or_raise
        from multiembed.execution.io_thread import caller_loop, in_thread
        from multiembed.execution.workers import arun_chunk

        loop = caller_loop()
        async with self._call(role) as call:
            prepare = partial(call.prepare, texts, lists=lists)
            chunk = await in_thread(prepare) if call.runtime.has_cache else prepare()
            await arun_chunk(call, chunk, loop)
            return result_or_raise(chunk)

    def stream(
        self, texts: Iterable[str], role: Role = "document", *, on_error: OnError = "raise"
    ) -> Iterator[EmbeddingResult]:
        """Embed any number of texts in constant memory.

        The iterable is read in the caller's thread, a few chunks ahead of the results. A chunk ends after 1,024 texts
        or 2,000,000 characters. A text that occurs twice in a chunk is sent once.

        Args:
            texts: any iterable of text, of any length.
            role: "document" for what is searched, "query" for what is searched with.
            on_error: "raise" ends the stream at the first chunk with a failed text. With "keep" such texts are in the
                result's `failures` by their row, their rows are NaN, and the stream goes on; an error of the whole
                call, such as a wrong key, is raised all the same.

        Yields:
            Results of consecutive texts, in order: `vectors` is float32, shape (texts of the chunk, dimensions).

        Raises:
            ConfigurationError: an item is not text; the results of all texts before it were yielded.
            PartialFailureError: some texts of a chunk failed; the chunk is in its `.result`.
            MultiEmbedError: all texts of a chunk failed.
        """
        from multiembed.batching.inputs import iter_texts
        from multiembed.execution.stream import stream

        make = partial(self._call, _check_role(role))
        return stream(make, iter_texts(texts), _check_on_error(on_error))

    def astream(
        self, texts: Iterable[str] | AsyncIterable[str], role: Role = "document", *, on_error: OnError = "raise"
    ) -> AsyncIterator[EmbeddingResult]:
        """As `stream`, without blocking the event loop; the texts may come from an asynchronous iterable."""
        from multiembed.batching.inputs import iter_texts
        from multiembed.execution.stream import astream

        make = partial(self._call, _check_role(role))
        source = texts if isinstance(texts, AsyncIterable) else iter_texts(texts)
        return astream(make, source, _check_on_error(on_error))

    def progress(self, total: int) -> AbstractContextManager[None]:
        """Show one progress bar for all calls made inside, in this thread or task and those that it starts.

        No bar is shown if one request is enough.

        Args:
            total: number of texts of all calls together.
        """
        from multiembed.observability.progress import together

        return together(self.target.name, total, several=total > self.target.limits.max_items)

    def estimate(self, texts: Iterable[str], role: Role = "document") -> Estimate:
        """Estimate requests, tokens, cost and seconds for texts. Nothing is sent."""
        from multiembed.execution.call import estimate_call

        return estimate_call(texts, _check_role(role), self._runtime())

    @property
    def target(self) -> RequestConfig:
        """Request configuration: the options validated for the model; in another process, at the first use there."""
        return self._target or self._resolve()

    @property
    def usage(self) -> Usage:
        """Usage of this client in this process so far; it grows with each finished request.

        A request that Ctrl-C or a cancelled task interrupted is counted without its tokens, which the provider may
        bill. After Ctrl-C in a sync call of several requests, the others are counted when their responses arrive.
        """
        return self._runtime().stats.usage

    @property
    def pending(self) -> int:
        """Batches of this client that are being sent, or whose vectors are being written to the cache.

        After Ctrl-C, and after a stream that is closed early, they are completed in the background.
        """
        return self._runtime().workers

    @property
    def stats(self) -> ClientStats:
        """Statistics of this client in this process so far: texts, money, rejections and latencies."""
        return self._runtime().stats.snapshot()

    report = stats

    def fingerprint(self, role: Role) -> str:
        """Hash of everything that changes a vector of this role, except the text.

        Vectors may be cached, compared and mixed only when their fingerprints are equal. Provider, address, model,
        dimensions, role, instruct, prefixes, output, parameters and query change it, and on_too_long with
        its limit of tokens; nothing else does.
        """
        return self.target.fingerprint(_check_role(role))

    def __repr__(self) -> str:
        dimensions = self._options.dimensions
        return f"EmbeddingClient({self._model!r}{'' if dimensions is None else f', dimensions={dimensions}'})"

    def adopt_stats(self, other: EmbeddingClient | None) -> None:
        """Add the statistics of another client in this process."""
        if other is not None and os.getpid() in other._runtimes:
            self._runtime().stats.add_all(other._runtime().stats)

    def close(self) -> None:
        """Close the cache, and the connections unless another client uses them. A later call opens new ones."""
        runtime = self._runtimes.get(os.getpid())
        if runtime is not None:
            runtime.close()

    async def aclose(self) -> None:
        """As `close`, without blocking the event loop."""
        runtime = self._runtimes.get(os.getpid())
        if runtime is not None:
            await runtime.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def __getstate__(self) -> tuple[str, EmbeddingOptions]:
        return self._model, self._options

    def __setstate__(self, state: tuple[str, EmbeddingOptions]) -> None:
        self._model, self._options = state
        self._target: RequestConfig | None = None
        self._drop_empty: str | None = None
        self._runtimes: dict[int, Runtime] = {}  # by process: a forked child does not touch its parent's

    def __copy__(self) -> EmbeddingClient:
        return EmbeddingClient.from_options(self._model, copy.copy(self._options))

    def __deepcopy__(self, memo: dict[int, Any]) -> EmbeddingClient:
        return EmbeddingClient.from_options(self._model, copy.deepcopy(self._options, memo))

    def _preload(self) -> None:
        """Validate the options for the model, and import what calls need."""
        self._resolve()
        # Imported here and not at the first call: a fork during an import blocks the child for good.
        from multiembed.execution import call, runtime, stream  # noqa: F401
        from multiembed.observability.tracing import meters, tracer
        from multiembed.transport.proxies import environment_proxies

        tracer()
        meters()
        environment_proxies()  # in the parent: after a fork, macOS cannot be asked
        if self._options.cache is not None:
            from multiembed.cache import check_cache

            check_cache(self._options.cache)
        if self._options.http_client is not None or self._options.http_async_client is not None:
            from multiembed.transport.httpx_client import check_clients

            check_clients(self._options.http_client, self._options.http_async_client)

    def _resolve(self) -> RequestConfig:
        self._target = config = resolve_config(self._model, self._options, os.environ)
        similar = None if config.model.known else config.provider.similar_model(config.model.name)
        if similar is not None and config.name not in _warned:
            _warned.add(config.name)
            warnings.warn(
                f"{config.name!r} is not in the catalog: did you mean '{config.provider.id}:{similar}'? If the name is "
                "right, silence this: warnings.filterwarnings('ignore', category=multiembed.ModelNameWarning).",
                ModelNameWarning,
                stacklevel=4,  # the caller of EmbeddingClient
            )
        return config

    def _runtime(self) -> Runtime:
        """Runtime of this process."""
        pid = os.getpid()
        runtime = self._runtimes.get(pid)
        if runtime is None:  # setdefault: two threads that make their first call at once get the same one
            from multiembed.execution.runtime import Runtime

            runtime = self._runtimes.setdefault(pid, Runtime(self._options, self.target))
        return runtime

    def _call(self, role: Role) -> EmbedCall:
        from multiembed.execution.call import EmbedCall

        return EmbedCall(_check_role(role), self._runtime(), self._drop_empty)


add_option_docs(EmbeddingClient, EmbeddingOptionsDict, EmbeddingOptions.model_fields)


def _check_role(role: Role) -> Role:
    if role not in ("document", "query"):
        raise ConfigurationError(f"role is 'document' or 'query', not {role!r:.40}.")
    return role


def _check_on_error(on_error: OnError) -> OnError:
    if on_error not in ("raise", "keep"):
        raise ConfigurationError(f"on_error is 'raise' or 'keep', not {on_error!r:.40}.")
    return on_error
