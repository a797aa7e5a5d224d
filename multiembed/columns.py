"""Columns of texts as data engines have them: with missing texts, embedded in worker processes, failed rows kept apart.

Used by `multiembed.ray` and `multiembed.daft`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import numpy as np

from multiembed import EmbeddingClient, EmbeddingOptionsDict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from multiembed import MultiEmbedError, Role


def trial_client(model: str, **options: Unpack[EmbeddingOptionsDict]) -> EmbeddingClient:
    """Make a client that checks the options where no key may be known. Its pickled copies read theirs in the workers.

    Raises:
        ConfigurationError: the model or an option cannot work.
    """
    if not options.get("api_key") and not options.get("key_in_pickle"):
        options = {**options, "api_key": "not-pickled"}  # this process may have no key
    return EmbeddingClient(model, **options)


async def embed_column(
    client: EmbeddingClient, texts: Sequence[str | None], role: Role
) -> tuple[NDArray[np.float32] | None, Mapping[int, MultiEmbedError]]:
    """Embed the texts of a column.

    Returns:
        Vectors, float32, shape (len(texts), dimensions), whose rows are NaN where a text is missing or failed; None if
        no text has a vector. And the errors of the texts that failed, by their rows.

    Raises:
        MultiEmbedError: no text can be embedded, for instance because the key is wrong.
    """
    rows = [row for row, text in enumerate(texts) if text is not None]
    vectors: NDArray[np.float32] | None = None
    errors: dict[int, Any] = {}
    done = 0
    async for result in client.astream([text for text in texts if text is not None], role, on_error="keep"):
        part = rows[done : done + result.texts]
        done += result.texts
        errors |= {part[row]: error for row, error in result.failures.items()}
        if len(result.failures) < result.texts:
            if vectors is None:
                vectors = np.full((len(texts), result.vectors.shape[1]), np.nan, dtype=np.float32)
            vectors[part] = result.vectors
    return vectors, errors
