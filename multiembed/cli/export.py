"""What `multiembed cache export` does: write a cache file's vectors, whole or not at all."""

from __future__ import annotations

from importlib import import_module
from typing import IO, TYPE_CHECKING, Any

import orjson

from multiembed import CacheFile, ConfigurationError
from multiembed.cli.cache_admin import chosen_of
from multiembed.files import WholeFile, abandon, check_place, naming

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from rich.console import Console

    from multiembed import CachedVector

_ROWS = 4096
"""Vectors in one row group of Parquet."""


def carry(console: Console, file: Path, out: Path, *, models: list[str] | None, spaces: list[str] | None) -> None:
    """Write the vectors of a cache file, whole or not at all, and print how many."""
    writers = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
    if out.suffix not in writers:
        raise ConfigurationError(f"{out.name} says no format: let it end in {' or '.join(writers)}.")
    check_place(out, overwrite=True)
    kept = CacheFile(file)
    chosen = {info.fingerprint for info in chosen_of(kept.namespaces(), models, spaces)}
    with WholeFile(out, overwrite=True) as output, naming(out):
        written = writers[out.suffix](output.stream, kept.vectors(chosen))
        output.finish()
    console.print(f"{written:,} vectors: {out}", highlight=False, soft_wrap=True)


def _rows(vectors: Iterable[CachedVector]) -> Iterator[dict[str, Any]]:
    for kept in vectors:
        words = kept.namespace.words
        sparse = kept.sparse
        yield {
            "digest": kept.digest,
            "space": kept.namespace.fingerprint,
            "model": words.get("model"),
            "role": words.get("role"),
            "vector": None if kept.dense is None else kept.dense,
            "sparse_indices": None if sparse is None else list(sparse.indices),
            "sparse_values": None if sparse is None else list(sparse.values),
        }


def _write_jsonl(file: IO[bytes], vectors: Iterable[CachedVector]) -> int:
    count = 0
    for count, row in enumerate(_rows(vectors), start=1):  # noqa: B007 - the last one is the number of rows
        file.write(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
    return count


def _write_parquet(file: IO[bytes], vectors: Iterable[CachedVector]) -> int:
    try:
        pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ModuleNotFoundError:
        raise ConfigurationError(
            "Parquet needs pyarrow: pip install 'multiembed[files]', or write .jsonl instead."
        ) from None
    texts = [(name, pa.string()) for name in ("digest", "space", "model", "role")]
    numbers = [("vector", pa.list_(pa.float32()))]
    sparse = [("sparse_indices", pa.list_(pa.uint64())), ("sparse_values", pa.list_(pa.float64()))]
    schema = pa.schema([*texts, *numbers, *sparse])
    count = 0
    writer = pq.ParquetWriter(file, schema)
    try:
        held: list[dict[str, Any]] = []
        for row in _rows(vectors):
            held.append(row)
            if len(held) == _ROWS:
                writer.write_table(pa.Table.from_pylist(held, schema=schema))
                count, held = count + len(held), []
        if held:
            writer.write_table(pa.Table.from_pylist(held, schema=schema))
        writer.close()
    finally:
        abandon(writer)
    return count + len(held)
