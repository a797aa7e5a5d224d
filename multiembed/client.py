"""The client: options in, results out, without a framework."""

from __future__ import annotations

import copy
import os
from collections.abc import AsyncIterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, overload

from multiembed.config.option_docs import with_option_docs
from multiembed.config.options import EmbeddingOptions, EmbeddingOptionsDict
from multiembed.config.request_config import resolve_config
from multiembed.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator
    from contextlib import AbstractContextManager
    from types import TracebackType

    from multiembed.config.request_config import RequestConfig
    from multiembed.execution.call import EmbedCall
    from multiembed.execution.runtime import Runtime
    from multiembed.execution.stream import OnError
    from multiembed.types import ClientStats, EmbeddingResult, Estimate, Role, Usage, Vectors


@with_option_docs(EmbeddingOptionsDict, EmbeddingOptions.model_fields)
class EmbeddingClient:
    """Texts to vectors through one provider and model.

    One client may be used from many threads and event loops at once, and be pickled, copied and forked.

    Args:
        model: as provider:model, for instance "dashscope:text-embedding-v4".
        **options: see below; the fields of EmbeddingOptions.

    Raises:
        ConfigurationError: the model or an option cannot work; nothing is sent to find out.
    """

    def __init__(self, model: str, **options: Unpack[EmbeddingOptionsDict]) -> None:
        self.__setstate__((model, EmbeddingOptions(**options)))
        self._preload()

    @classmethod
    def from_options(cls, model: str, options: EmbeddingOptions, *, drop_empty: str | None = None) -> EmbeddingClient:
        """A client for options that stand already; they are checked against the model now.

        Args:
            model: as provider:model.
            options: already validated.
            drop_empty: how the caller's framework leaves empty texts out, in one line of Python; for error messages.
        """
        client = cls.__new__(cls)
        client.__setstate__((model, options))
        client._drop_empty = drop_empty
        client._preload()
        return client

    # ── embedding ────────────────────────────────────────────────────────────────────────────────

    @overload
    def embed(
        self, texts: Iterable[str], role: Role = "document", *, lists: Literal[False] = False
    ) -> EmbeddingResult: ...

    @overload
    def embed(
        self, texts: Iterable[str], role: Role = "document", *, lists: bool
    ) -> EmbeddingResult[Vectors | None]: ...

    def embed(self, texts: Iterable[str], role: Role = "document", *, lists: bool = False) -> EmbeddingResult[Any]:
        """Embed texts. Order is kept, and a text that stands twice is sent once.

        Args:
            texts: any iterable of text.
            role: "document" for what is searched, "query" for what is searched with.
            lists: only the result's `to_list` will be asked for: its floats are made while answers are waited for, and
                there is no array.

        Returns:
            The vectors, float32, shape (len(texts), dimensions), and what they cost.

        Raises:
            ConfigurationError: a text is no text.
            InvalidRequestError: a text is empty; `indices` names it. Nothing was sent.
            PartialFailureError: some texts failed; the others are in its `.result`.
            MultiEmbedError: all failed; `multiembed.errors` draws the tree.
        """
        from multiembed.execution.chunk import result_or_raise
        from multiembed.execution.io_thread import io_thread

        io_thread().check_caller()
        with self._call(role) as call:
            block = call.prepare(texts, lists=lists)
            call.run(block)
            return result_or_raise(block)

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

        loop = caller_loop()
        async with self._call(role) as call:
            prepare = partial(call.prepare, texts, lists=lists)
            block = await in_thread(prepare) if call.uses_cache else prepare()
            await call.arun(block, loop)
            return result_or_raise(block)

    def stream(
        self, texts: Iterable[str], role: Role = "document", *, on_error: OnError = "raise"
    ) -> Iterator[EmbeddingResult]:
        """Embed any number of texts in constant memory.

        The iterable is read in the caller's thread, a few blocks ahead of what is handed out. Blocks end after 1,024
        texts or 2,000,000 characters. A text that stands twice in a block is sent once.

        Args:
            texts: any iterable of text, of any length.
            role: "document" for what is searched, "query" for what is searched with.
            on_error: "raise" ends the stream at the first block with a text that failed. With "keep" such texts are in
                the result's `failures` by their row in the block, their rows are NaN, and the stream goes on; what no
                text can escape, such as a wrong key, is raised all the same.

        Yields:
            Results of consecutive texts, in order: `vectors` is float32, shape (texts of the block, dimensions).

        Raises:
            ConfigurationError: a text is no text, after all before it were handed out.
            PartialFailureError: some texts of a block failed; the block is in its `.result`.
            MultiEmbedError: all of a block failed.
        """
        from multiembed.batching.inputs import iter_texts
        from multiembed.execution.stream import stream

        make = partial(self._call, _checked(role))
        return stream(make, iter_texts(texts), _checked_choice(on_error))

    def astream(
        self, texts: Iterable[str] | AsyncIterable[str], role: Role = "document", *, on_error: OnError = "raise"
    ) -> AsyncIterator[EmbeddingResult]:
        """As `stream`, without blocking the event loop; the texts may come from an asynchronous iterable."""
        from multiembed.batching.inputs import iter_texts
        from multiembed.execution.stream import astream

        make = partial(self._call, _checked(role))
        source = texts if isinstance(texts, AsyncIterable) else iter_texts(texts)
        return astream(make, source, _checked_choice(on_error))

    def progress(self, total: int) -> AbstractContextManager[None]:
        """One bar for all calls made inside, in this thread or task and those started there.

        Args:
            total: texts of all of them together.
        """
        from multiembed.observability.progress import together

        return together(self.target.name, total)

    def estimate(self, texts: Iterable[str], role: Role = "document") -> Estimate:
        """What embedding these texts would take. Nothing is sent."""
        from multiembed.batching.token_count import checked_counter, estimate_tokens, expected_tokens
        from multiembed.execution.call import estimate_call
        from multiembed.execution.io_thread import io_thread

        runtime = self._runtime()
        runtime.find_account()
        counter = self._options.token_counter
        return estimate_call(
            texts,
            _checked(role),
            target=self.target,
            count=checked_counter(counter) if counter else estimate_tokens,
            expect=checked_counter(counter) if counter else expected_tokens,
            runtime=runtime,
            ceilings=io_thread().run(runtime.effective_limits),
        )

    # ── what it knows of itself ──────────────────────────────────────────────────────────────────

    @property
    def target(self) -> RequestConfig:
        """The options checked against the facts; in another process, checked at the first use there."""
        return self._target or self._resolve()

    @property
    def usage(self) -> Usage:
        """What this client has spent in this process so far; grows with each finished request.

        A request that Ctrl-C or a cancelled task broke off is counted, but not its tokens: the provider may bill them,
        and nobody tells. A sync call of several requests loses none: after Ctrl-C they are counted as answers come.
        """
        return self._runtime().stats.usage

    @property
    def pending(self) -> int:
        """Batches of this client that are being sent, or whose vectors are being kept.

        After Ctrl-C, and after a stream that is closed early, they come to their end in the background.
        """
        return self._runtime().workers

    @property
    def report(self) -> ClientStats:
        """What this client has done in this process so far: texts, money, refusals and latencies."""
        return self._runtime().stats.report()

    def fingerprint(self, role: Role) -> str:
        """A name for the space that vectors of this role lie in.

        Vectors may be cached, compared and mixed when their fingerprints are the same, and only then: it changes with
        everything that changes a vector (provider, address, model, dimensions, role, instruct, prefixes, output,
        parameters) and with nothing else.
        """
        return self.target.fingerprint(_checked(role))

    def __repr__(self) -> str:
        return f"EmbeddingClient({self._model!r})"

    def adopt_stats(self, other: EmbeddingClient | None) -> None:
        """Go on with what another client has counted in this process."""
        if other is not None and os.getpid() in other._runtimes:
            self._runtime().stats.add_all(other._runtime().stats)

    # ── its life ─────────────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Close the connections, unless another client uses them, and the cache. A later call opens new ones."""
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __getstate__(self) -> tuple[str, EmbeddingOptions]:
        return self._model, self._options

    def __setstate__(self, state: tuple[str, EmbeddingOptions]) -> None:
        self._model, self._options = state
        self._target: RequestConfig | None = None
        self._drop_empty: str | None = None
        self._runtimes: dict[int, Runtime] = {}  # by process: a forked child leaves its parent's alone

    def __copy__(self) -> EmbeddingClient:
        return EmbeddingClient.from_options(self._model, copy.copy(self._options))

    def __deepcopy__(self, memo: dict[int, Any]) -> EmbeddingClient:
        return EmbeddingClient.from_options(self._model, copy.deepcopy(self._options, memo))

    # ── inside ───────────────────────────────────────────────────────────────────────────────────

    def _preload(self) -> None:
        """See at construction that everything can work."""
        self._resolve()
        # Imported here and not at the first call: a fork during an import leaves the child waiting for ever.
        from multiembed.execution import call, runtime, stream  # noqa: F401
        from multiembed.observability.tracing import meters, tracer
        from multiembed.transport.proxies import environment_proxies

        tracer()
        meters()
        environment_proxies()  # in the parent: after a fork, macOS cannot be asked
        if self._options.cache is not None:
            from multiembed.cache import checked_cache, sqlite  # noqa: F401
        if self._options.http_client is not None or self._options.http_async_client is not None:
            from multiembed.transport.httpx_client import check_clients

            check_clients(self._options.http_client, self._options.http_async_client)

    def _resolve(self) -> RequestConfig:
        self._target = target = resolve_config(self._model, self._options, os.environ)
        return target

    def _runtime(self) -> Runtime:
        """The runtime of this process."""
        from multiembed.execution.runtime import Runtime

        pid = os.getpid()
        runtime = self._runtimes.get(pid)
        if runtime is None:  # two threads may both come here at their first call: setdefault lets one of them win
            runtime = self._runtimes.setdefault(pid, Runtime(self._options, self.target))
        return runtime

    def _call(self, role: Role, wake: Callable[[], object] = bool) -> EmbedCall:
        from multiembed.execution.call import DROP_EMPTY, EmbedCall

        return EmbedCall(
            _checked(role),
            target=self.target,
            options=self._options,
            runtime=self._runtime(),
            wake=wake,
            drop_empty=self._drop_empty or DROP_EMPTY,
        )


def _checked(role: Role) -> Role:
    if role not in ("document", "query"):
        raise ConfigurationError(f"role is 'document' or 'query', not {role!r:.40}.")
    return role


def _checked_choice(on_error: OnError) -> OnError:
    if on_error not in ("raise", "keep"):
        raise ConfigurationError(f"on_error is 'raise' or 'keep', not {on_error!r:.40}.")
    return on_error
