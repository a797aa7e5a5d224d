"""Embeddings in Daft: a provider for Daft's own `embed_text`.

    import daft
    from daft.functions import embed_text
    from multiembed.daft import MultiembedProvider

    frame = daft.read_parquet("texts.parquet")
    frame = frame.with_column(
        "embedding", embed_text(frame["text"], provider=MultiembedProvider(), model="dashscope:text-embedding-v4")
    )

The key is read from the environment of the process that embeds; it is in no plan.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from daft import DataType
from daft.ai.protocols import TextEmbedder, TextEmbedderDescriptor
from daft.ai.provider import Provider
from daft.ai.typing import EmbeddingDimensions, UDFOptions

from multiembed import ConfigurationError, EmbeddingClient, EmbeddingOptions, EmbeddingOptionsDict
from multiembed.columns import embed_column, trial_client

if TYPE_CHECKING:
    from multiembed import Role

logger = logging.getLogger("multiembed")
BATCH_SIZE = 512
"""Rows of one call."""


class MultiembedProvider(Provider):
    """Provider of text embeddings, for `embed_text(column, provider=…, model="provider:model", …)`.

    A missing text gives a missing vector. `embed_text` takes the options of EmbeddingClient, and Daft's own:
    `batch_size`, and `on_error` for texts that fail: "raise" ends the query, "log" and "ignore" give a missing vector.

    Args:
        name: for `provider="…"` after `daft.attach_provider`.
        role: "document" for what is searched, "query" for what is searched with.
        **options: of EmbeddingClient, for all models; `embed_text` may replace them.
    """

    def __init__(
        self, name: str = "multiembed", *, role: Role = "document", **options: Unpack[EmbeddingOptionsDict]
    ) -> None:
        self._name = name
        self._role: Role = role
        self._options: dict[str, Any] = dict(options)

    @property
    def name(self) -> str:
        """Name of the provider."""
        return self._name

    def get_text_embedder(
        self, model: str | None = None, dimensions: int | None = None, **options: Any
    ) -> TextEmbedderDescriptor:
        """Describe an embedder. Nothing is sent.

        Raises:
            ConfigurationError: the model or an option cannot work, or the length of its vectors is not known.
        """
        if model is None:
            raise ConfigurationError('Name the model: embed_text(…, model="dashscope:text-embedding-v4").')
        batch_size = options.pop("batch_size", BATCH_SIZE)
        on_error = options.pop("on_error", "raise")
        if on_error not in ("raise", "log", "ignore"):
            raise ConfigurationError(f"on_error is 'raise', 'log' or 'ignore', not {on_error!r:.40}.")
        role = options.pop("role", self._role)
        sizes = {} if dimensions is None else {"dimensions": dimensions}
        given = {**self._options, **options, **sizes}
        size = trial_client(model, **given).target.expected_dimensions
        if size is None:
            raise ConfigurationError(
                f"Daft needs the length of the vectors of {model} beforehand: give dimensions to embed_text."
            )
        return _Descriptor(self._name, model, EmbeddingOptions(**given), role, size, batch_size, on_error)


@dataclass(frozen=True)
class _Descriptor(TextEmbedderDescriptor):
    provider: str
    model: str
    options: EmbeddingOptions
    role: Role
    size: int
    batch_size: int
    on_error: str

    def get_provider(self) -> str:
        return self.provider

    def get_model(self) -> str:
        return self.model

    def get_options(self) -> dict[str, Any]:
        return {"batch_size": self.batch_size, "on_error": self.on_error}

    def get_dimensions(self) -> EmbeddingDimensions:
        return EmbeddingDimensions(size=self.size, dtype=DataType.float32())

    def get_udf_options(self) -> UDFOptions:
        options = super().get_udf_options()
        options.max_retries = 0  # the client retries requests; Daft would pay for all rows again
        return options

    def is_async(self) -> bool:
        return True

    def instantiate(self) -> TextEmbedder:
        return _Embedder(self)


class _Embedder(TextEmbedder):
    def __init__(self, descriptor: _Descriptor) -> None:
        self._client = EmbeddingClient.from_options(descriptor.model, descriptor.options)
        self._role, self._on_error = descriptor.role, descriptor.on_error

    async def embed_text(self, text: list[Any]) -> list[Any]:
        vectors, errors = await embed_column(self._client, text, self._role)
        if errors and self._on_error == "raise":
            raise errors[min(errors)]
        if errors and self._on_error == "log":
            first = errors[min(errors)]
            logger.warning("%d of %d texts have no vector. The first: %s", len(errors), len(text), first)
        return [
            None if vectors is None or value is None or row in errors else vectors[row]
            for row, value in enumerate(text)
        ]
