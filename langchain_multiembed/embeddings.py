"""The LangChain class: four methods over the shared client."""

from __future__ import annotations

from typing import ClassVar

from langchain_core.embeddings import Embeddings

from langchain_multiembed.events import atell, tell
from multiembed import Embedder


class MultiEmbeddings(Embedder, Embeddings):
    """Embeddings for LangChain through Zhipu, SiliconFlow, DashScope or any OpenAI-compatible server.

    Setup:
        Install the package and set the key of the provider you use.

        .. code-block:: bash

            pip install "multiembed[langchain]"
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

    Key init args — model and wire:
        model: str
            As provider:model, for instance "dashscope:text-embedding-v4".
        dimensions: Optional[int]
            Numbers in a vector, checked against the model's list; None leaves its default.
        instruct: Optional[str]
            What queries are for; "dashscope:text-embedding-v4" and Qwen3-Embedding models take it.
        query_prefix, document_prefix: Optional[str]
            Text put before each query or document; query_prefix="recommended" takes the authors'.
        parameters: Optional[dict]
            Extra model-specific parameters.

    Key init args — client:
        api_key: Optional[SecretStr]
            The key; else the environment's.
        base_url, region: Optional[str]
            Where to send.
        auth_header: Optional[str]; query: Optional[dict]
            The header of the key, and parameters of the URL, for openai-compatible and gateway.
        timeout, deadline: float
            Seconds for one attempt, and for one call as a whole.
        max_retries, max_concurrency: int
            How often a failed request is sent again, and how many are in flight at once.
        http_client, http_async_client:
            Your own httpx clients.

    See multiembed.EmbeddingOptions for all of them.

    Queries and documents:
        `embed_query` embeds a query, `embed_documents` documents, and DashScope's native API is told which is which
        (`text_type`). "dashscope-compatible" has no such parameter: a query is embedded there as a document is.
        Take "dashscope" where you can.

    Usage:
        `embeddings.client.usage` is what was spent so far. Inside a chain, each call also sends its usage as the custom
        event "multiembed_usage" to the run's callbacks.

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

    model: str
    """As provider:model."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents; each gets the vector at its own position, or the call raises.

        Raises:
            MultiEmbedError: see multiembed.errors; PartialFailureError when only some texts failed.
        """
        return tell(self.client.embed(texts, "document", lists=True)).to_list()

    def embed_query(self, text: str) -> list[float]:
        """Embed a query."""
        return tell(self.client.embed([text], "query", lists=True)).to_list()[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """As `embed_documents`, without blocking the event loop."""
        return (await atell(await self.client.aembed(texts, "document", lists=True))).to_list()

    async def aembed_query(self, text: str) -> list[float]:
        """As `embed_query`, without blocking the event loop."""
        return (await atell(await self.client.aembed([text], "query", lists=True))).to_list()[0]
