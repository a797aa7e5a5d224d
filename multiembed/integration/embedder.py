"""FrameworkEmbedder, base class of the framework integrations, and SparseCompanion, its sparse vectors."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import ConfigDict, PrivateAttr

from multiembed.batching.inputs import iter_texts
from multiembed.client import EmbeddingClient
from multiembed.config.option_names import run_validation
from multiembed.config.options import EmbeddingOptions, EmbeddingOptionsDict, add_option_docs, can_be_pickled
from multiembed.errors import ConfigurationError, InvalidRequestError
from multiembed.providers import sparse_models

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from multiembed.integration.hybrid import Kind, UnclaimedVectors
    from multiembed.types import EmbeddingResult, Role, SparseVector

_companion_lock = threading.Lock()


class FrameworkEmbedder(EmbeddingOptions):
    """Embedder of a framework; a subclass adds the framework's base class and the field of the model.

    A field may be assigned; the next call uses it. A copy has the key; a pickle has it only with `key_in_pickle`.
    """

    model_config = ConfigDict(use_attribute_docstrings=False)  # reading the source costs each subclass 2 to 3 ms

    model_field: ClassVar[str]
    """Name of the field that holds the model."""
    options_dict: ClassVar[type] = EmbeddingOptionsDict
    """TypedDict of the options, which are listed in the docstring of the class."""
    drop_empty: ClassVar[str | None] = None
    """How to leave empty texts out in this framework, in one line of Python; for error messages."""

    _clients: dict[str, EmbeddingClient] = PrivateAttr(default_factory=dict)
    _unclaimed: weakref.ref[UnclaimedVectors] | None = PrivateAttr(default=None)
    """Held by the sparse companions: without one, nothing is kept."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        add_option_docs(cls, cls.options_dict, cls.model_fields)

    def __init__(self, **data: Any) -> None:
        super().__init__(**data)
        client = self._clients["own"] = self._make_client()
        if self.base_url is None and client.target.url_variable:
            self.__dict__["base_url"] = client.target.base_url  # from the environment; it changes vectors, so it shows

    @property
    def client(self) -> EmbeddingClient:
        """Client of this embedder: for usage, statistics, estimates, sparse vectors and closing."""
        client = self._clients.get("own")
        if client is None:  # in a copy; setdefault: threads that make their first call at once get the same one
            client = self._clients.setdefault("own", self._make_client())
        return client

    def _send_usage(self, result: EmbeddingResult[Any]) -> EmbeddingResult[Any]:
        """Send the usage of a call as the framework's event, and return the result."""
        return result

    async def _asend_usage(self, result: EmbeddingResult[Any]) -> EmbeddingResult[Any]:
        """As `_send_usage`, in a task."""
        return self._send_usage(result)

    def _embed_kind(
        self, kind: Kind, texts: Iterable[str], role: Role, report: Callable[[Any], Any] | None = None
    ) -> list[Any]:
        """Vectors of one kind; where there is a sparse companion, those that its requests brought are not sent.

        Args:
            kind: lists of floats, or SparseVectors.
            texts: any iterable of text.
            role: of the texts.
            report: called with the result of a request, if there was one. None: `_send_usage`.
        """
        from multiembed.integration.hybrid import vectors_of

        unclaimed, report = self._find_unclaimed(), report or self._send_usage
        if unclaimed is not None:
            return unclaimed.embed(self.client, kind, texts, role, report)
        return vectors_of(report(self.client.embed(texts, role, lists=kind == "dense")), kind)

    async def _aembed_kind(
        self, kind: Kind, texts: Iterable[str], role: Role, report: Callable[[Any], Awaitable[Any]] | None = None
    ) -> list[Any]:
        """As `_embed_kind`, without blocking the event loop."""
        from multiembed.integration.hybrid import avectors_of

        unclaimed, report = self._find_unclaimed(), report or self._asend_usage
        if unclaimed is not None:
            return await unclaimed.aembed(self.client, kind, texts, role, report)
        return await avectors_of(await report(await self.client.aembed(texts, role, lists=kind == "dense")), kind)

    def _find_unclaimed(self) -> UnclaimedVectors | None:
        """Vectors that wait for the other kind; None where nothing is kept, or the cache keeps all."""
        if self._unclaimed is None or self.cache is not None or self.output != "dense&sparse":
            return None
        return self._unclaimed()

    def _share_unclaimed(self) -> UnclaimedVectors:
        """Unclaimed vectors of this embedder, for a companion to hold."""
        from multiembed.integration.hybrid import UnclaimedVectors

        with _companion_lock:
            unclaimed = None if self._unclaimed is None else self._unclaimed()
            if unclaimed is None:
                unclaimed = UnclaimedVectors()
                self._unclaimed = weakref.ref(unclaimed)
        return unclaimed

    _can_be_pickled = staticmethod(can_be_pickled)

    @staticmethod
    def _warn_of_missing(cache: object, option: str) -> Callable[[], object]:
        """Make a function that warns, once in each process, that a cache object could not be pickled."""
        from multiembed.cache.unavailable_cache import UnavailableCache

        return UnavailableCache(type(cache).__name__, option).warn

    @staticmethod
    def _listed(texts: Iterable[str]) -> list[str]:
        """Validate that `texts` is not one text, which a framework would split into its letters, and list them."""
        return list(iter_texts(texts))

    def _make_client(self) -> EmbeddingClient:
        from multiembed.integration import hybrid  # noqa: F401 - not at the first call, as the client's own imports

        if self.output == "sparse":
            raise ConfigurationError(
                "output='sparse' gives no dense vectors, and this framework's class must return some: take "
                "'dense&sparse', or EmbeddingClient for sparse vectors alone."
            )
        fields: dict[str, Any] = {name: getattr(self, name) for name in EmbeddingOptions.model_fields}
        options = EmbeddingOptions(**fields)  # validated again: model_copy(update=…) does not validate
        return EmbeddingClient.from_options(getattr(self, self.model_field), options, drop_empty=self.drop_empty)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in EmbeddingOptions.model_fields and name != self.model_field:
            super().__setattr__(name, value)
            return
        before, was_set = self.__dict__.get(name), name in self.model_fields_set
        assign = super().__setattr__
        run_validation(type(self), lambda: assign(name, value))
        try:
            client = self._make_client()
        except ConfigurationError:  # the embedder keeps its old options
            self.__dict__[name] = before
            if not was_set:
                self.model_fields_set.discard(name)
            raise
        client.adopt_stats(self._clients.get("own"))
        self._clients["own"] = client

    def __getstate__(self) -> dict[Any, Any]:
        return {**super().__getstate__(), "__pydantic_private__": {"_clients": {}, "_unclaimed": None}}

    def __copy__(self) -> Any:
        copied = super().__copy__()
        copied._clients = {}
        copied._unclaimed = None
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        memo = {} if memo is None else memo
        memo[id(self._clients)] = {}  # the copy makes its own client
        copied = super().__deepcopy__(memo)
        copied._unclaimed = None
        return copied


class SparseCompanion:
    """Sparse vectors of an embedder whose output is "dense&sparse", for hybrid search.

    It shares the embedder's client: a text whose dense vector the embedder got needs no second request here, and the
    other way round. What waits for the other call is kept in memory, up to 64 MiB of each kind, while a companion
    exists; with the option `cache`, the cache has it.

    A companion that is pickled or deep-copied together with its embedder shares the client of that copy.

    Args:
        embedder: MultiEmbeddings or MultiEmbedding.

    Raises:
        ConfigurationError: the embedder gives no sparse vectors.
    """

    def __init__(self, embedder: FrameworkEmbedder) -> None:
        if not isinstance(embedder, FrameworkEmbedder):
            raise ConfigurationError(
                "A sparse companion needs a MultiEmbeddings or MultiEmbedding with output='dense&sparse', not "
                f"{type(embedder).__name__}."
            )
        self.embedder = embedder
        self.requests = 0
        """Requests that its calls sent: vectors that a dense call brought need none."""
        self._check()
        self._unclaimed = embedder._share_unclaimed()

    def embed(self, texts: Iterable[str], role: Role = "document") -> list[SparseVector]:
        """Sparse vectors, one per text: weights as float32, without tokens.

        Raises:
            ConfigurationError: the embedder's output was changed to "dense".
            MultiEmbedError: as `EmbeddingClient.embed`.
        """
        self._check()
        return self.embedder._embed_kind("sparse", texts, role, self._report)

    async def aembed(self, texts: Iterable[str], role: Role = "document") -> list[SparseVector]:
        """As `embed`, without blocking the event loop."""
        self._check()
        return await self.embedder._aembed_kind("sparse", texts, role, self._areport)

    def _report(self, result: EmbeddingResult[Any]) -> EmbeddingResult[Any]:
        self.requests += result.usage.requests
        return self.embedder._send_usage(result)

    async def _areport(self, result: EmbeddingResult[Any]) -> EmbeddingResult[Any]:
        self.requests += result.usage.requests
        return await self.embedder._asend_usage(result)

    def _check(self) -> None:
        if self.embedder.output == "dense":
            raise ConfigurationError(
                "output is 'dense', so there are no sparse vectors: give output='dense&sparse'. Models that have them: "
                f"{sparse_models()}."
            )

    @staticmethod
    def to_milvus(vectors: Sequence[SparseVector]) -> list[dict[int, float]]:
        """Weights by index, as Milvus takes them: it refuses an empty vector and a weight below 0, and 0 adds nothing.

        Raises:
            InvalidRequestError: Milvus cannot take the vector of a text, whose position is in `indices`.
        """
        weights = [{index: value for index, value in vector.to_dict().items() if value} for vector in vectors]
        for position, vector in enumerate(weights):
            if not vector or min(vector.values()) < 0:
                problem = "has a weight below 0" if vector else "has no weight above 0"
                raise InvalidRequestError(
                    f"The sparse vector of the text at position {position} of {len(vectors)} {problem}, and Milvus "
                    "refuses such a vector: leave the text out, or add it to a collection of dense vectors alone.",
                    indices=(position,),
                )
        return weights

    def __reduce__(self) -> tuple[Any, ...]:
        return _companion_of, (self.embedder,)


def _companion_of(embedder: FrameworkEmbedder) -> SparseCompanion:
    """Companion in another process. Its first use validates: an error while unpickling would hang a process pool."""
    companion = object.__new__(SparseCompanion)
    companion.embedder, companion.requests = embedder, 0
    companion._unclaimed = embedder._share_unclaimed()
    return companion
