"""The LlamaIndex class: six hooks over the shared client."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Self, Unpack

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager
from llama_index.core.storage.kvstore.types import BaseKVStore  # noqa: TC002 - for get_type_hints
from pydantic import Field

from llamaindex_multiembed import windows
from llamaindex_multiembed.events import tell
from llamaindex_multiembed.kvstore import MissingKVStore, SpacedKVStore
from multiembed import EmbeddingOptionsDict, FrameworkEmbedder

if TYPE_CHECKING:
    from multiembed import Role

# The base class asks its cache for a text without saying whether it is a query; the two query methods say it here.
_role: ContextVar[Role] = ContextVar("role", default="document")


class MultiEmbeddingOptionsDict(EmbeddingOptionsDict, total=False):
    """The options of MultiEmbedding as keyword arguments, for a type checker: ours and LlamaIndex's own."""

    embed_batch_size: int
    num_workers: int | None
    callback_manager: CallbackManager
    embeddings_cache: BaseKVStore | None
    rate_limiter: Any


class MultiEmbedding(FrameworkEmbedder, BaseEmbedding):
    """Embeddings for LlamaIndex through Zhipu, SiliconFlow, DashScope or any OpenAI-compatible server.

    Queries and documents are kept apart: DashScope's native API is told which is which (`text_type`). The
    "dashscope-compatible" API has no such parameter, so a query is embedded there as a document is; take "dashscope"
    where you can.

    The wire's batches, retries and concurrency are multiembed's own, and a batch is embedded by one call.
    `embed_batch_size` is only the window that events and callbacks are told of at a time, `num_workers` is not needed.
    With an `embeddings_cache` or a `rate_limiter`, each window is a call of its own, and better left large. When some
    texts fail, the indices and the kept rows of the PartialFailureError are those of the call.

    Examples:
        `pip install "multiembed[llamaindex]"`, and a key in the environment (ZHIPUAI_API_KEY, SILICONFLOW_API_KEY,
        DASHSCOPE_API_KEY, OPENAI_COMPATIBLE_API_KEY, MULTIEMBED_GATEWAY_API_KEY)

        ```python
        from llama_index.core import Settings
        from llamaindex_multiembed import MultiEmbedding

        Settings.embed_model = MultiEmbedding(model_name="siliconflow:BAAI/bge-m3")
        ```

    """

    model_field: ClassVar[str] = "model_name"
    options_dict: ClassVar[type] = MultiEmbeddingOptionsDict

    drop_empty: ClassVar[str] = 'nodes = [node for node in nodes if node.get_content("embed").strip()]'

    model_name: str = Field(description='Provider and model, as "provider:model".')
    # LlamaIndex hashes the dump of an embedder to know whether kept vectors are still good. How the texts are handed
    # over changes no vector, so it is left out of the dump.
    embed_batch_size: int = Field(
        default=2048, gt=0, le=2048, exclude=True, description="Texts per window of events and callbacks."
    )
    num_workers: int | None = Field(
        default=None, exclude=True, description="Not needed: one call embeds all windows at once."
    )
    embeddings_cache: Any | None = Field(
        default=None, exclude=True, repr=False, description="LlamaIndex's cache of vectors; None: no cache."
    )

    if TYPE_CHECKING:

        def __init__(self, *, model_name: str, **options: Unpack[MultiEmbeddingOptionsDict]) -> None: ...

    else:

        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self._space_cache()

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises it."""
        return "MultiEmbedding"

    def get_query_embedding(self, query: str) -> list[float]:
        """Embed a query."""
        token = _role.set("query")
        try:
            vector: list[float] = super().get_query_embedding(query)
            return vector
        finally:
            _role.reset(token)

    async def aget_query_embedding(self, query: str) -> list[float]:
        """Embed a query, without blocking the event loop."""
        token = _role.set("query")
        try:
            vector: list[float] = await super().aget_query_embedding(query)
            return vector
        finally:
            _role.reset(token)

    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[list[float]]:
        """Embed documents; with `show_progress`, in a bar that moves with each request and not with each window."""
        texts = self._listed(texts)
        with self._bar(texts, show=show_progress):
            if self._free:
                return windows.embed(self, texts, self._get_text_embeddings)
            vectors: list[list[float]] = super().get_text_embedding_batch(texts, show_progress=False, **kwargs)
            return vectors

    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[list[float]]:
        """As `get_text_embedding_batch`, without blocking the event loop."""
        texts = self._listed(texts)
        with self._bar(texts, show=show_progress):
            if self._free:
                return await windows.aembed(self, texts, self._aget_text_embeddings)
            vectors: list[list[float]] = await super().aget_text_embedding_batch(texts, show_progress=False, **kwargs)
            return vectors

    @property
    def _free(self) -> bool:
        """Whether nothing stands between that must see each window before it is embedded."""
        return self.embeddings_cache is None and self.rate_limiter is None

    def _bar(self, texts: list[str], *, show: bool) -> AbstractContextManager[None]:
        return self.client.progress(len(texts)) if show or self.show_progress else nullcontext()

    def _get_query_embedding(self, query: str) -> list[float]:
        return tell(self.client.embed([query], "query", lists=True)).to_list()[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return tell(await self.client.aembed([query], "query", lists=True)).to_list()[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return tell(self.client.embed([text], "document", lists=True)).to_list()[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return tell(await self.client.aembed([text], "document", lists=True)).to_list()[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return tell(self.client.embed(texts, "document", lists=True)).to_list()

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return tell(await self.client.aembed(texts, "document", lists=True)).to_list()

    # ── a cache that knows the vector space; it is bound to one embedder, so every copy binds it anew ──

    def _space_cache(self) -> None:
        store = self.embeddings_cache
        if store is not None:
            inner = store.store if isinstance(store, SpacedKVStore) else store
            self.__dict__["embeddings_cache"] = SpacedKVStore(inner, self._current_space)

    def _current_space(self) -> str:
        return self.client.fingerprint(_role.get())

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "embeddings_cache":
            self._space_cache()

    def model_copy(self, **changes: Any) -> Self:
        """A copy, with fields changed by `update={…}`."""
        copied = super().model_copy(**changes)
        copied._space_cache()
        return copied

    def __copy__(self) -> Any:
        copied = super().__copy__()
        copied._space_cache()
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Any:
        copied = super().__deepcopy__(memo)
        copied._space_cache()
        return copied

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        fields = state["__dict__"]
        cache = fields.get("embeddings_cache")
        cache = getattr(cache, "store", cache)
        for name, instead in (
            ("callback_manager", CallbackManager([])),
            ("rate_limiter", None),
            ("embeddings_cache", MissingKVStore(self._warn_of_missing(cache, "embeddings_cache"))),
        ):
            if name in fields and not self._can_be_pickled(fields[name]):
                fields[name] = instead
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._space_cache()
