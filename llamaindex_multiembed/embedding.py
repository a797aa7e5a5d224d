"""MultiEmbedding, the class for LlamaIndex: six hooks over the shared client."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks import CallbackManager
from llama_index.core.storage.kvstore.types import BaseKVStore
from pydantic import Field

from llamaindex_multiembed import windows
from llamaindex_multiembed.events import send_usage_event
from llamaindex_multiembed.kvstore import NamespacedKVStore, UnavailableKVStore
from multiembed import EmbeddingOptionsDict, FrameworkEmbedder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from llamaindex_multiembed.sparse import MultiSparseEmbedding
    from multiembed import EmbeddingResult, Role

_role: ContextVar[Role] = ContextVar("role", default="document")
"""Role of the texts that the base class looks up in its cache, whose keys do not tell queries from documents."""


@contextmanager
def _as_query() -> Iterator[None]:
    token = _role.set("query")
    try:
        yield
    finally:
        _role.reset(token)


class MultiEmbeddingOptionsDict(EmbeddingOptionsDict, total=False):
    """Options of MultiEmbedding as keyword arguments, for a type checker: multiembed's and LlamaIndex's."""

    embed_batch_size: int
    num_workers: int | None
    callback_manager: CallbackManager
    embeddings_cache: BaseKVStore | None
    rate_limiter: Any


class MultiEmbedding(FrameworkEmbedder, BaseEmbedding):
    """Embeddings for LlamaIndex through Zhipu, SiliconFlow, DashScope or any OpenAI-compatible server.

    Queries and documents are embedded by their role: DashScope's native API gets it as `text_type`. The API
    "dashscope-compatible" has no such parameter, so a query is embedded there as a document is; take "dashscope"
    where you can.

    A batch is embedded by one call, whose requests, retries and concurrency multiembed decides. `embed_batch_size` is
    only the number of texts in an event or callback, and `num_workers` is not needed. With an `embeddings_cache` or a
    `rate_limiter`, each window is a call of its own, so leave it large. When some texts fail, the indices and the rows
    of the PartialFailureError are those of the call.

    For hybrid search, give `output="dense&sparse"`: `sparse()` is the sparse half for Pinecone, `sparse_doc_fn` and
    `sparse_query_fn` for Qdrant, and `llamaindex_multiembed.milvus.MilvusSparse(embedding)` for Milvus.

    Examples:
        `pip install ".[llamaindex]"` in a clone of the repository, and a key in the environment (ZHIPUAI_API_KEY,
        SILICONFLOW_API_KEY, DASHSCOPE_API_KEY, OPENAI_COMPATIBLE_API_KEY, MULTIEMBED_GATEWAY_API_KEY)

        ```python
        from llama_index.core import Settings
        from llamaindex_multiembed import MultiEmbedding

        Settings.embed_model = MultiEmbedding(model_name="siliconflow:BAAI/bge-m3")
        ```

    """

    model_field: ClassVar[str] = "model_name"
    options_dict: ClassVar[type] = MultiEmbeddingOptionsDict

    shared_by_copies: ClassVar[tuple[str, ...]] = (*FrameworkEmbedder.shared_by_copies, "embeddings_cache")

    drop_empty: ClassVar[str] = 'nodes = [node for node in nodes if node.get_content("embed").strip()]'

    model_name: str = Field(description='Provider and model, as "provider:model".')
    # Excluded from dumps: LlamaIndex hashes the dump to know whether vectors are still valid, and these change none.
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

        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            # The field holds the user's store, so that copies and pickles do; the base class gets the namespaced one.
            if name == "embeddings_cache" and isinstance(value, BaseKVStore):
                store = value.store if isinstance(value, NamespacedKVStore) else value
                return NamespacedKVStore(store, lambda: self.client.fingerprint(_role.get()))
            return value

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises it."""
        return "MultiEmbedding"

    def get_query_embedding(self, query: str) -> list[float]:
        """Embed a query."""
        with _as_query():
            vector: list[float] = super().get_query_embedding(query)
            return vector

    async def aget_query_embedding(self, query: str) -> list[float]:
        """Embed a query, without blocking the event loop."""
        with _as_query():
            vector: list[float] = await super().aget_query_embedding(query)
            return vector

    def get_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[list[float]]:
        """Embed documents; with `show_progress`, a bar moves with each request."""
        texts = self._listed(texts)
        with self._bar(texts, show=show_progress):
            if self._in_one_call:
                return windows.embed(self, texts, self._get_text_embeddings)
            vectors: list[list[float]] = super().get_text_embedding_batch(texts, show_progress=False, **kwargs)
            return vectors

    async def aget_text_embedding_batch(
        self, texts: list[str], show_progress: bool = False, **kwargs: Any
    ) -> list[list[float]]:
        """As `get_text_embedding_batch`, without blocking the event loop."""
        texts = self._listed(texts)
        with self._bar(texts, show=show_progress):
            if self._in_one_call:
                return await windows.aembed(self, texts, self._aget_text_embeddings)
            vectors: list[list[float]] = await super().aget_text_embedding_batch(texts, show_progress=False, **kwargs)
            return vectors

    @property
    def _in_one_call(self) -> bool:
        """Whether neither a cache nor a rate limiter must see each window before it is embedded."""
        return self.embeddings_cache is None and self.rate_limiter is None

    def _bar(self, texts: list[str], *, show: bool) -> AbstractContextManager[None]:
        return self.client.progress(len(texts)) if show or self.show_progress else nullcontext()

    def sparse(self) -> MultiSparseEmbedding:
        """Sparse embeddings over the same client, for hybrid search: each text costs one request for both kinds.

        Make it before the texts are embedded: what their requests bring is kept only while one exists.

        Raises:
            ConfigurationError: `output` is not "dense&sparse".
        """
        from llamaindex_multiembed.sparse import MultiSparseEmbedding

        return MultiSparseEmbedding(self)

    @property
    def sparse_doc_fn(self) -> Callable[[list[str]], tuple[list[list[int]], list[list[float]]]]:
        """`sparse_doc_fn` of a QdrantVectorStore: indices and weights of documents. It raises as `sparse` does."""
        return self.sparse().encode_documents

    @property
    def sparse_query_fn(self) -> Callable[[list[str]], tuple[list[list[int]], list[list[float]]]]:
        """`sparse_query_fn` of a QdrantVectorStore: indices and weights of queries. It raises as `sparse` does."""
        return self.sparse().encode_queries

    def _send_usage(self, result: EmbeddingResult[Any]) -> EmbeddingResult[Any]:
        return send_usage_event(result)

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._embed_kind("dense", [query], "query")[0]  # type: ignore[no-any-return]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await self._aembed_kind("dense", [query], "query"))[0]  # type: ignore[no-any-return]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._embed_kind("dense", [text], "document")[0]  # type: ignore[no-any-return]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aembed_kind("dense", [text], "document"))[0]  # type: ignore[no-any-return]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._embed_kind("dense", texts, "document")

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await self._aembed_kind("dense", texts, "document")

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        fields = state["__dict__"]
        store = None if self.embeddings_cache is None else self.embeddings_cache.store
        for name, value, substitute in (
            ("callback_manager", self.callback_manager, CallbackManager([])),
            ("rate_limiter", self.rate_limiter, None),
            ("embeddings_cache", store, UnavailableKVStore(self._warn_of_missing(store, "embeddings_cache"))),
        ):
            fields[name] = value if self._can_be_pickled(value) else substitute
        return state
