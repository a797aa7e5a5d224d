"""Implementation of `multiembed cache export`: writes the vectors of a cache file."""

from __future__ import annotations

from importlib import import_module
from itertools import islice
from typing import IO, TYPE_CHECKING, Any

import orjson

from multiembed import CacheFile, ConfigurationError
from multiembed.cli.cache_admin import choose_namespaces
from multiembed.cli.console import print_plain
from multiembed.files import WholeFile, abandon, check_place, naming

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from rich.console import Console

    from multiembed import CachedVector

_ROWS = 4096
"""Vectors in one row group of Parquet."""


def export_vectors(
    console: Console, file: Path, out: Path, *, models: list[str] | None, namespaces: list[str] | None
) -> None:
    """Write the vectors of a cache file, completely or not at all, and print their number."""
    writers = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
    if out.suffix not in writers:
        raise ConfigurationError(f"{out.name} has no known format: let it end in {' or '.join(writers)}.")
    check_place(out, overwrite=True)
    cache = CacheFile(file)
    chosen = {info.fingerprint for info in choose_namespaces(cache.namespaces(), models, namespaces)}
    with WholeFile(out, overwrite=True) as output, naming(out):
        written = writers[out.suffix](output.stream, cache.vectors(chosen))
        output.finish()
    print_plain(console, f"{written:,} vectors: {out}")


def _rows(vectors: Iterable[CachedVector]) -> Iterator[dict[str, Any]]:
    for cached in vectors:
        fields, sparse = cached.namespace.description, cached.sparse
        yield {
            "digest": cached.digest,
            "namespace": cached.namespace.fingerprint,
            "model": fields.get("model"),
            "role": fields.get("role"),
            "vector": cached.dense,
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
    texts = [(name, pa.string()) for name in ("digest", "namespace", "model", "role")]
    numbers = [("vector", pa.list_(pa.float32()))]
    sparse = [("sparse_indices", pa.list_(pa.uint64())), ("sparse_values", pa.list_(pa.float64()))]
    schema = pa.schema([*texts, *numbers, *sparse])
    count, rows = 0, _rows(vectors)
    writer = pq.ParquetWriter(file, schema)
    try:
        while group := list(islice(rows, _ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            count += len(group)
        writer.close()
    finally:
        abandon(writer)
    return count
