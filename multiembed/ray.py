"""Embeddings in Ray Data: `embed(dataset, model, column=…)`, and the class for `map_batches` that it uses.

    import ray.data
    from multiembed.ray import embed

    dataset = ray.data.read_parquet("texts.parquet")
    embed(dataset, "dashscope:text-embedding-v4", column="text").write_parquet("vectors")

The key is read from the environment of the workers. It is in no plan, no log and not in the object store.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Literal, Unpack

import numpy as np
import pyarrow as pa
from ray.data import ActorPoolStrategy

from multiembed import ConfigurationError, EmbeddingClient, EmbeddingOptionsDict
from multiembed.columns import embed_column, trial_client

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from ray.data import Dataset

    from multiembed import Role

BATCH_SIZE = 512
"""Rows of one call."""
CALLS = 8
"""Calls of one actor at once, so that requests of the next rows are in flight before the last ones are done."""
CPUS = 0.2
"""CPUs that an actor reserves: it waits for the network nearly all the time."""

FIXED_SIZE = int(pa.__version__.partition(".")[0]) >= 26
"""Whether the lists have a fixed size; see Embedder."""
UNSHARED = (
    "workers={} without quota: each of them keeps the account's limits for itself, so together they send too fast. "
    "Give quota, or workers=1."
)


class Embedder:
    """Embedder for `map_batches` with `batch_format="pyarrow"`: adds a column of vectors and one of errors.

    The vectors are lists of float32, of a fixed size from pyarrow 26 on: older ones cannot read such lists back from
    Parquet if one is missing (apache/arrow #35692). A missing text has neither vector nor error. A text that failed has
    no vector, and its error is text.

    Args:
        model: as provider:model, or a client. A client's key is not pickled.
        column: of the texts.
        output_column: of the vectors.
        error_column: of the errors, as text.
        role: "document" for what is searched, "query" for what is searched with.
        on_error: "keep", as above; "raise" ends the job at the first text that failed.
        **options: of EmbeddingClient. `api_key` is not taken as text, because Ray stores arguments in clear: set the
            provider's variable in the environment of the workers.

    Raises:
        ConfigurationError: the model or an option cannot work.
    """

    def __init__(
        self,
        model: str | EmbeddingClient,
        *,
        column: str = "text",
        output_column: str = "embedding",
        error_column: str = "error",
        role: Role = "document",
        on_error: Literal["keep", "raise"] = "keep",
        **options: Unpack[EmbeddingOptionsDict],
    ) -> None:
        key = options.get("api_key")
        if key is not None and not callable(key):
            raise ConfigurationError(
                "api_key is not taken here, because Ray stores arguments in clear: set the provider's variable in the "
                "environment of the workers, or give a function that returns the key."
            )
        if on_error not in ("keep", "raise"):
            raise ConfigurationError(f"on_error is 'keep' or 'raise', not {on_error!r:.40}.")
        self._client = model if isinstance(model, EmbeddingClient) else EmbeddingClient(model, **options)
        self._column, self._output, self._errors = column, output_column, error_column
        self._role: Role = role
        self._raises = on_error == "raise"
        self._size = self._client.target.expected_dimensions

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Embed the texts of a batch.

        Raises:
            MultiEmbedError: no text can be embedded; with `on_error="raise"`, a text failed.
        """
        vectors, errors = await embed_column(self._client, batch.column(self._column).to_pylist(), self._role)
        if errors and self._raises:
            raise errors[min(errors)]
        self._size = self._size if vectors is None else vectors.shape[1]
        size = len(batch)
        reasons = [f"{type(errors[row]).__name__}: {errors[row]}" if row in errors else None for row in range(size)]
        kept = batch.drop_columns([name for name in (self._output, self._errors) if name in batch.column_names])
        kept = kept.append_column(self._output, _lists(vectors, size, self._size))
        return kept.append_column(self._errors, pa.array(reasons, pa.string()))


def _lists(vectors: NDArray[np.float32] | None, rows: int, size: int | None) -> pa.Array:
    """Arrow lists of float32, missing where a row is NaN."""
    if size is None:  # nothing was embedded yet, and the model's length is not known
        return pa.nulls(rows)
    if vectors is None:
        lists = pa.nulls(rows, pa.list_(pa.float32(), size))
    else:
        missing = pa.array(np.isnan(vectors[:, 0]))
        lists = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), size, mask=missing)
    return lists if FIXED_SIZE else lists.cast(pa.list_(pa.float32()))


def embed(
    dataset: Dataset,
    model: str,
    *,
    column: str = "text",
    output_column: str = "embedding",
    error_column: str = "error",
    role: Role = "document",
    on_error: Literal["keep", "raise"] = "keep",
    workers: int = 1,
    batch_size: int = BATCH_SIZE,
    num_cpus: float = CPUS,
    **options: Unpack[EmbeddingOptionsDict],
) -> Dataset:
    """Add a column of vectors and one of errors to a dataset, as Embedder does.

    Args:
        dataset: with a column of texts.
        model: as provider:model.
        column: of the texts.
        output_column: of the vectors.
        error_column: of the errors, as text.
        role: "document" for what is searched, "query" for what is searched with.
        on_error: "keep" gives rows that fail no vector, "raise" ends the job.
        workers: actors. Each keeps the account's limits for itself, so more than one need `quota`.
        batch_size: rows of one call.
        num_cpus: that each actor reserves.
        **options: of EmbeddingClient. The key is read in the workers, unless `key_in_pickle=True`.

    Raises:
        ConfigurationError: the model or an option cannot work. Nothing is run to find out.
    """
    if workers > 1 and not options.get("quota") and not os.environ.get("MULTIEMBED_QUOTA"):
        warnings.warn(UNSHARED.format(workers), UserWarning, stacklevel=2)
    names = {"column": column, "output_column": output_column, "error_column": error_column}
    return dataset.map_batches(
        Embedder,
        fn_constructor_args=(trial_client(model, **options),),
        fn_constructor_kwargs={**names, "role": role, "on_error": on_error},
        batch_format="pyarrow",
        batch_size=batch_size,
        compute=ActorPoolStrategy(size=workers, max_concurrent_calls_per_actor=CALLS),
        num_cpus=num_cpus,
        udf_modifying_row_count=False,
    )
