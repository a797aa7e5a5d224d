"""Dense and sparse vectors from one paid request, for stores that ask for the two kinds in two calls.

A request with output="dense&sparse" brings both kinds. The kind that its call does not return is kept for the call that
asks for it: as bytes, float32, up to 64 MiB of each kind, and each vector until it is taken once.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
import warnings
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from multiembed.batching.inputs import check_texts
from multiembed.errors import MultiEmbedError
from multiembed.execution.io_thread import in_thread
from multiembed.types import EmbeddingResult, PartialFailureError, SparseVector

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Sequence

    from multiembed.client import EmbeddingClient
    from multiembed.types import Role

Kind: TypeAlias = Literal["dense", "sparse"]

MAX_BYTES = 64 * 1024 * 1024
"""Of each kind. A sparse vector of 120 tokens takes 1.2 KB, a dense one of 1,024 dimensions 4.3 KB."""
_ENTRY_BYTES = 220
"""Of one entry beyond its data: key, tuple, bytes object and node of the dictionary (by tracemalloc, 2026-11-28)."""
_OTHER: dict[Kind, Kind] = {"dense": "sparse", "sparse": "dense"}
_FEW = 256
"""Texts whose vectors are converted on the caller's event loop; those of more take a thread. 30 µs each."""
_INTERVAL = 0.1
"""Seconds between two looks at a request of another thread: Windows cannot interrupt a wait without an end."""

_log = logging.getLogger("multiembed")


class UnclaimedVectors:
    """Vectors that requests for the other kind brought, until they are asked for.

    Thread-safe. A forked child has its own, which begins empty.
    """

    def __init__(self) -> None:
        self._states: dict[int, _State] = {}  # by process: a lock or a request of the parent's never ends in a child

    def embed(
        self, client: EmbeddingClient, kind: Kind, texts: Iterable[str], role: Role, report: Callable[[Any], Any]
    ) -> list[Any]:
        """Vectors of one kind, one per text: those that are kept, and a request for the others.

        Args:
            client: whose output is "dense&sparse".
            kind: lists of floats, or SparseVectors.
            texts: any iterable of text.
            role: of the texts; vectors of queries and of documents are kept apart.
            report: called with the result of a request.

        Raises:
            MultiEmbedError: as `EmbeddingClient.embed`, with the positions in `texts`. What was kept is kept again.
        """
        steps = self._steps(client, kind, texts, role, None)
        answer: Any = None
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, list):
                        answer = report(client.embed(step, role, lists=kind == "dense"))
                    elif isinstance(step, concurrent.futures.Future):
                        while not step.done():
                            concurrent.futures.wait((step,), _INTERVAL)
                    else:
                        answer = step()
                except BaseException as error:  # noqa: BLE001 - the steps raise it again
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            vectors: list[Any] = end.value
            return vectors

    async def aembed(
        self,
        client: EmbeddingClient,
        kind: Kind,
        texts: Iterable[str],
        role: Role,
        report: Callable[[Any], Awaitable[Any]],
    ) -> list[Any]:
        """As `embed`, without blocking the event loop."""
        steps = self._steps(client, kind, texts, role, asyncio.get_running_loop())
        answer: Any = None
        try:
            step = next(steps)
            while True:
                try:
                    if isinstance(step, list):
                        answer = await report(await client.aembed(step, role, lists=kind == "dense"))
                    elif isinstance(step, concurrent.futures.Future):
                        await asyncio.wrap_future(step)
                    else:
                        answer = await in_thread(step)
                except BaseException as error:  # noqa: BLE001 - the steps raise it again
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            vectors: list[Any] = end.value
            return vectors

    def _steps(
        self,
        client: EmbeddingClient,
        kind: Kind,
        texts: Iterable[str],
        role: Role,
        loop: asyncio.AbstractEventLoop | None,
    ) -> Generator[list[str] | concurrent.futures.Future[None] | Callable[[], Any], Any, list[Any]]:
        """The course of one call without I/O, for sync and async. Returns: the vectors.

        Yields:
            Texts to embed, whose result it is sent; a future to wait for; or a function to call, which may take long.
        """
        config = client.target
        checked, rejected = check_texts(texts, refuses=config.provider.refuses)
        if rejected:
            yield checked  # the client raises, with positions in the whole list
        namespace = bytes.fromhex(client.fingerprint(role))
        keys = [blake2b(namespace + text.encode(), digest_size=16).digest() for text in checked]
        state, own, counts = self._state(), _Flight(loop), Counter(keys)
        found: dict[bytes, bytes] = {}
        sent: list[int] = []
        try:
            while flights := state.start(kind, counts, found, own):
                for flight in flights:
                    yield flight.ended
            sent = [position for position, key in enumerate(keys) if key not in found]
            result = (yield [checked[position] for position in sent]) if sent else None
            settle = partial(state.settle, kind, result, sent, keys, found)
            if len(keys) <= _FEW:
                return settle()
            return (yield settle)  # type: ignore[no-any-return]
        except BaseException as error:
            state.keep(kind, ((key, data, counts[key]) for key, data in found.items()))
            if isinstance(error, PartialFailureError):
                state.keep(_OTHER[kind], _unclaimed(error.result, _OTHER[kind], sent, keys))
            if found and isinstance(error, MultiEmbedError):
                _relocate(error, kind, sent, [found.get(key) for key in keys])
            raise
        finally:
            state.end(_OTHER[kind], keys, own)

    def _state(self) -> _State:
        pid = os.getpid()
        state = self._states.get(pid) or self._states.setdefault(pid, _State())
        for other in tuple(self._states):  # in a forked child: the parent's
            if other != pid:
                self._states.pop(other, None)
        return state


@dataclass(slots=True)
class _Kept:
    """Vectors of one kind by key, the oldest first, each with the number of calls that may still take it."""

    entries: OrderedDict[bytes, tuple[bytes, int]] = field(default_factory=OrderedDict)
    size: int = 0
    dropped: int = 0

    def put(self, key: bytes, data: bytes, count: int) -> None:
        entry = self.entries.get(key)
        if entry is not None:
            self.entries[key] = (entry[0], entry[1] + count)
            return
        self.entries[key] = (data, count)
        self.size += len(data) + _ENTRY_BYTES
        while self.size > MAX_BYTES:
            _, (oldest, _) = self.entries.popitem(last=False)
            self.size -= len(oldest) + _ENTRY_BYTES
            self.dropped += 1

    def take(self, key: bytes, count: int) -> bytes | None:
        entry = self.entries.get(key)
        if entry is None:
            return None
        if entry[1] > count:
            self.entries[key] = (entry[0], entry[1] - count)
        else:
            del self.entries[key]
            self.size -= len(entry[0]) + _ENTRY_BYTES
        return entry[0]


class _Flight:
    """A call that sends texts, and brings the other kind for the calls that wait for it."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop
        self.thread = threading.get_ident()
        self.ended: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.ended.set_running_or_notify_cancel()  # a cancelled task that waits does not cancel it

    def can_wait_for(self, other: _Flight) -> bool:
        """Whether waiting cannot block what is waited for.

        A sync call goes on in its own thread. A task needs its event loop, which a sync caller may be blocking.
        """
        return other.loop is self.loop if other.loop else other.thread != self.thread


class _State:
    """What one process keeps."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # garbage collection may end a call while this thread holds it
        self._kept: dict[Kind, _Kept] = {"dense": _Kept(), "sparse": _Kept()}
        self._flights: dict[Kind, dict[bytes, _Flight]] = {"dense": {}, "sparse": {}}
        self._wanted: set[Kind] = {"sparse"}
        """Kinds that are known to be asked for: a store of sparse vectors alone never asks for dense ones."""
        self._warned = False

    def start(self, kind: Kind, counts: Counter[bytes], found: dict[bytes, bytes], own: _Flight) -> set[_Flight]:
        """Take what is kept into `found`; announce a request for the rest.

        Returns:
            Calls that bring some of the rest. Wait for them, and start again.
        """
        with self._lock:
            self._wanted.add(kind)
            missing = []
            for key, count in counts.items():
                if key not in found:
                    data = self._kept[kind].take(key, count)
                    if data is None:
                        missing.append(key)
                    else:
                        found[key] = data
            coming = {flight for key in missing if (flight := self._flights[kind].get(key)) is not None}
            flights = {flight for flight in coming if own.can_wait_for(flight)}
            if not flights:
                self._flights[_OTHER[kind]].update(dict.fromkeys(missing, own))
            return flights

    def keep(self, kind: Kind, vectors: Iterable[tuple[bytes, bytes, int]]) -> None:
        """Keep vectors, each as key, data and the number of calls that may take it."""
        with self._lock:
            for key, data, count in vectors:
                self._kept[kind].put(key, data, count)

    def settle(
        self,
        kind: Kind,
        result: EmbeddingResult[Any] | None,
        sent: Sequence[int],
        keys: Sequence[bytes],
        found: dict[bytes, bytes],
    ) -> list[Any]:
        """Keep the other kind of a result. Returns: the vectors of this kind, found and sent, by position."""
        vectors: Iterator[Any] = iter(())
        if result is not None:
            vectors = iter(vectors_of(result, kind))
            self.keep(_OTHER[kind], list(_unclaimed(result, _OTHER[kind], sent, keys)))
            self._warn_if_dropped()
        return [_decode(kind, found[key]) if key in found else next(vectors) for key in keys]

    def end(self, kind: Kind, keys: Iterable[bytes], own: _Flight) -> None:
        """End a call that may have announced vectors of this kind."""
        with self._lock:
            flights = self._flights[kind]
            for key in keys:
                if flights.get(key) is own:
                    del flights[key]
        own.ended.set_result(None)

    def _warn_if_dropped(self) -> None:
        """Warn, once, when vectors were dropped that are going to be asked for."""
        with self._lock:
            if self._warned or not any(self._kept[kind].dropped for kind in self._wanted):
                return
            self._warned = True
        message = (
            f"Vectors that wait for the other half of a hybrid store reached {MAX_BYTES >> 20} MiB, and the oldest "
            "were dropped: each dropped text costs a second request when its other vector is asked for. Add fewer "
            "texts at a time (10,000, for instance), or give the option cache, which keeps all of them."
        )
        try:
            warnings.warn(message, UserWarning, stacklevel=2)
        except Warning:  # warnings are errors here, and the vectors are paid for
            _log.warning(message)


def vectors_of(result: EmbeddingResult[Any], kind: Kind) -> list[Any]:
    """Vectors of a result in which no text failed: lists of floats, or SparseVectors with float32 weights."""
    if kind == "dense":
        return result.to_list()
    return [vector if (data := _encode(vector)) is None else _decode(kind, data) for vector in result.to_sparse()]


async def avectors_of(result: EmbeddingResult[Any], kind: Kind) -> list[Any]:
    """As `vectors_of`; those of many texts in a thread."""
    few = kind == "dense" or result.texts <= _FEW  # lists are ready
    return vectors_of(result, kind) if few else await in_thread(vectors_of, result, kind)


def _unclaimed(
    result: EmbeddingResult[Any], kind: Kind, sent: Sequence[int], keys: Sequence[bytes]
) -> Iterable[tuple[bytes, bytes, int]]:
    """Key, data and count of each vector of a kind that a result has."""
    rows: Any = result.sparse if kind == "sparse" else result.vectors
    for row, position in enumerate(sent):
        if row not in result.failures:
            data = _encode(rows[row]) if kind == "sparse" else rows[row].tobytes()
            if data is not None:
                yield keys[position], data, 1


def _encode(vector: SparseVector) -> bytes | None:
    """Indices as uint32 and weights as float32; None for numbers beyond them, which no store takes either."""
    with np.errstate(over="ignore"):
        weights = np.array(vector.values, dtype="<f4")
    if max(vector.indices, default=0) >= 2**32 or not np.isfinite(weights).all():
        return None
    return np.array(vector.indices, dtype="<u4").tobytes() + weights.tobytes()


def _decode(kind: Kind, data: bytes) -> Any:
    if kind == "dense":
        return np.frombuffer(data, dtype=np.float32).tolist()
    count = len(data) // 8
    indices, weights = np.frombuffer(data, dtype="<u4", count=count), np.frombuffer(data, dtype="<f4", offset=4 * count)
    return SparseVector(tuple(indices.tolist()), tuple(weights.tolist()))


def _relocate(error: MultiEmbedError, kind: Kind, sent: Sequence[int], found: Sequence[bytes | None]) -> None:
    """Change an error of the texts that were sent into one of the whole call, `found` among them."""
    failures: dict[int, MultiEmbedError] = {}
    if isinstance(error, PartialFailureError):
        failures = {sent[row]: failure for row, failure in error.failures.items()}
        rows: list[Any] = [None if data is None else _decode(kind, data) for data in found]
        partial_rows: Any = error.result.sparse if kind == "sparse" else error.result.vectors
        for row, position in enumerate(sent):
            rows[position] = partial_rows[row]
        error.failures = failures
        error.result = EmbeddingResult(
            vectors=np.array(rows, dtype=np.float32) if kind == "dense" else None,  # type: ignore[arg-type]
            sparse=rows if kind == "sparse" else None,
            usage=error.result.usage,
            model=error.result.model,
            failures=failures,
        )
    for each in {error, *failures.values()}:
        each.indices = tuple(sent[index] for index in each.indices)
