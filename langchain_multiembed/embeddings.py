"""MultiEmbeddings, the class for LangChain: four methods over the shared client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from langchain_core.embeddings import Embeddings
from pydantic import Field

from langchain_multiembed.events import asend_usage_event, send_usage_event
from multiembed import EmbeddingOptionsDict, FrameworkEmbedder

if TYPE_CHECKING:
    from typing import Unpack

    from langchain_multiembed.sparse import MultiSparseEmbeddings
    from multiembed import EmbeddingResult


class MultiEmbeddings(FrameworkEmbedder, Embeddings):
    """Embeddings for LangChain through Zhipu, SiliconFlow, DashScope or any OpenAI-compatible server.

    Setup:
        Install the package and set the key of the provider you use.

        .. code-block:: bash

            pip install ".[langchain]"   # in a clone of the repository
            export DASHSCOPE_API_KEY="your-key"

        ===================== ==================================================
        provider              key from the environment
        ===================== ==================================================
        zhipu                 ZHIPUAI_API_KEY, else ZAI_API_KEY
        siliconflow           SILICONFLOW_API_KEY
        dashscope             DASHSCOPE_API_KEY
        dashscope-compatible  DASHSCOPE_API_KEY
        openai-compatible     OPENAI_COMPATIBLE_API_KEY, or none (and ..._BASE_URL)
        gateway               MULTIEMBED_GATEWAY_API_KEY (and ..._BASE_URL)
        local                 none (lexical, not semantic)
        ===================== ==================================================

    Queries and documents:
        `embed_query` embeds a query, `embed_documents` documents, and DashScope's native API gets the role as
        `text_type`. "dashscope-compatible" has no such parameter: a query is embedded there as a document is.
        Take "dashscope" where you can.

    Usage:
        `embeddings.client.usage` is the usage so far, and `on_usage` gets the usage of each call. Inside a chain,
        each call also sends its usage as the custom event "multiembed_usage" to the run's callbacks.

    Hybrid search:
        With `output="dense&sparse"`, `sparse()` is the sparse half for langchain-qdrant, and
        `langchain_multiembed.milvus.MilvusSparse(embeddings)` for langchain-milvus.

    Instantiate:
        .. code-block:: python

            from langchain_multiembed import MultiEmbeddings

            embeddings = MultiEmbeddings(model="dashscope:text-embedding-v4", dimensions=1024)

    Embed single text:
        .. code-block:: python

            vector = embeddings.embed_query("What does the with statement do?")

    Embed multiple texts:
        .. code-block:: python

            vectors = embeddings.embed_documents(["first text", "second text"])

    Async:
        .. code-block:: python

            vector = await embeddings.aembed_query("What does the with statement do?")
            vectors = await embeddings.aembed_documents(["first text", "second text"])
    """

    model_field: ClassVar[str] = "model"

    drop_empty: ClassVar[str] = "documents = [document for document in documents if document.page_content.strip()]"

    model: str = Field(description='Provider and model, as "provider:model".')

    if TYPE_CHECKING:

        def __init__(self, *, model: str, **options: Unpack[EmbeddingOptionsDict]) -> None: ...

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents; each gets the vector at its own position, or the call raises.

        Raises:
            MultiEmbedError: see multiembed.errors; PartialFailureError when only some texts failed.
        """
        return self._embed_kind("dense", texts, "document")

    def embed_query(self, text: str) -> list[float]:
        """Embed a query."""
        return self._embed_kind("dense", [text], "query")[0]  # type: ignore[no-any-return]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `embed_documents`, without blocking the event loop."""
        return await self._aembed_kind("dense", texts, "document")

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`, without blocking the event loop."""
        return (await self._aembed_kind("dense", [text], "query"))[0]  # type: ignore[no-any-return]

    def sparse(self) -> MultiSparseEmbeddings:
        """Sparse embeddings over the same client, for hybrid search: each text costs one request for both kinds.

        Make it before the texts are embedded: what their requests bring is kept only while one exists.

        Raises:
            ConfigurationError: `output` is not "dense&sparse".
        """
        from langchain_multiembed.sparse import MultiSparseEmbeddings  # imports langchain-qdrant where it is installed

        return MultiSparseEmbeddings(self)

    def _send_usage(self, result: EmbeddingResult[Any]) -> EmbeddingResult[Any]:
        return send_usage_event(result)

    async def _asend_usage(self, result: EmbeddingResult[Any]) -> EmbeddingResult[Any]:
        return await asend_usage_event(result)
