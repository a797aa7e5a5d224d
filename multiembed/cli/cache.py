"""`multiembed cache`: what is in a cache file, taking old vectors out of it, and carrying vectors elsewhere."""

from __future__ import annotations

import json as json_
import re
import time
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from multiembed import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import Console

    from multiembed import CacheFile, KeptVector, SpaceInfo

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_DAY = 86400
_ROWS = 4096
"""Vectors in one row group of Parquet."""

File = Annotated[Path, typer.Argument(help="The file that was given as cache=….", show_default=False)]
Models = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer on Python 3.11 reads this form everywhere
    typer.Option("--model", help="Only this provider:model; may be given several times."),
]
Spaces = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--space", help="Only this space, by the beginning of its fingerprint; may be given several times."),
]


def commands(console: Console, saying_why: Callable[[Callable[[], None]], None]) -> typer.Typer:
    """The commands, which tell what they did on a console and end with a sentence when they cannot."""
    app = typer.Typer(no_args_is_help=True, help="See, prune and export a cache file.")

    @app.command()
    def info(file: File, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
        """Show what is in a cache file: for each model and role, how many vectors, how large, how old."""
        saying_why(lambda: show(console, file, as_json=json))

    @app.command()
    def prune(
        file: File,
        model: Models = None,
        space: Spaces = None,
        older_than: Annotated[
            Optional[float],  # noqa: UP045
            typer.Option(min=0, help="Only vectors written more than so many days ago."),
        ] = None,
        unused_for: Annotated[
            Optional[float],  # noqa: UP045
            typer.Option(min=0, help="Only models and roles that nobody has used for so many days."),
        ] = None,
        max_size: Annotated[
            Optional[str],  # noqa: UP045
            typer.Option(help="The oldest, until the file is as small as this: 500MB, 2GB."),
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be taken out.")] = False,
    ) -> None:
        """Take vectors out of a cache file, and make it smaller. What is said must hold all together."""
        saying_why(
            lambda: take_out(
                console,
                file,
                models=model,
                spaces=space,
                older_than=older_than,
                unused_for=unused_for,
                max_size=max_size,
                dry_run=dry_run,
            )
        )

    @app.command()
    def export(
        file: File,
        out: Annotated[
            Path, typer.Option("--out", "-o", help="Where to write: a name that ends in .jsonl or .parquet.")
        ],
        model: Models = None,
        space: Spaces = None,
    ) -> None:
        """Write the vectors of a cache file, each with its model, role and the digest of its text.

        Texts are not kept. A digest is SHA-256 over the space, a zero byte and the text.
        """
        saying_why(lambda: carry(console, file, out, models=model, spaces=space))

    return app


def show(console: Console, file: Path, *, as_json: bool) -> None:
    """Print what is in a cache file."""
    from rich.table import Table

    kept, spaces = _open(file)
    if as_json:
        rows = [{**_fields(info), "vectors": info.vectors, "bytes": info.bytes} for info in spaces]
        console.print_json(json_.dumps({"file": str(kept.path), "bytes": kept.bytes, "spaces": rows}))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("space", "model", "role", "dimensions"):
        table.add_column(name)
    for name in ("vectors", "size", "first", "last", "used"):
        table.add_column(name, justify="right", no_wrap=True)
    for info in spaces:
        words = [str(info.words.get(name, "?")) for name in ("model", "role", "dimensions")]
        days = [_day(seconds) for seconds in (info.first, info.last, info.used)]
        table.add_row(info.fingerprint[:12], *words, f"{info.vectors:,}", _size(info.bytes), *days)
    console.print(table)
    console.print(
        f"{sum(info.vectors for info in spaces):,} vectors, {_size(kept.bytes)}: {kept.path}",
        highlight=False,
        soft_wrap=True,
    )


def take_out(
    console: Console,
    file: Path,
    *,
    models: list[str] | None,
    spaces: list[str] | None,
    older_than: float | None,
    unused_for: float | None,
    max_size: str | None,
    dry_run: bool,
) -> None:
    """Prune a cache file and print what that did."""
    if not models and not spaces and older_than is None and unused_for is None and max_size is None:
        raise ConfigurationError("Say what is to go: --model, --space, --older-than, --unused-for or --max-size.")
    most = None if max_size is None else _bytes(max_size)
    kept, found = _open(file)
    chosen = _chosen(found, models, spaces)
    if unused_for is not None:
        chosen = [info for info in chosen if info.used < time.time() - unused_for * _DAY]
    pruned = kept.prune(
        {info.fingerprint for info in chosen},
        written_before=None if older_than is None else time.time() - older_than * _DAY,
        max_bytes=most,
        dry_run=dry_run,
    )
    if dry_run:
        console.print(f"{pruned.vectors:,} vectors would go, {_size(pruned.bytes)}.", highlight=False)
        return
    console.print(
        f"{pruned.vectors:,} vectors are gone. The file had {_size(pruned.bytes_before)} and has "
        f"{_size(pruned.bytes_after)}.",
        highlight=False,
    )


def carry(console: Console, file: Path, out: Path, *, models: list[str] | None, spaces: list[str] | None) -> None:
    """Write the vectors of a cache file, whole or not at all, and print how many."""
    writers = {".jsonl": _write_jsonl, ".parquet": _write_parquet}
    if out.suffix not in writers:
        raise ConfigurationError(f"{out.name} says no format: let it end in {' or '.join(writers)}.")
    if not out.absolute().parent.is_dir():
        raise ConfigurationError(f"There is no directory {out.absolute().parent}: make it first.")
    kept, found = _open(file)
    chosen = {info.fingerprint for info in _chosen(found, models, spaces)}
    with _whole(out) as beside:
        written = writers[out.suffix](beside, kept.vectors(chosen))
    console.print(f"{written:,} vectors: {out}", highlight=False, soft_wrap=True)


def _open(file: Path) -> tuple[CacheFile, list[SpaceInfo]]:
    from multiembed import CacheFile

    kept = CacheFile(file)
    return kept, kept.spaces()


def _chosen(found: list[SpaceInfo], models: list[str] | None, spaces: list[str] | None) -> list[SpaceInfo]:
    """The spaces that are named, or all.

    Raises:
        ConfigurationError: a name fits none.
    """
    for model in models or ():
        if model not in {info.words.get("model") for info in found}:
            known = ", ".join(sorted({str(info.words["model"]) for info in found if "model" in info.words}))
            raise ConfigurationError(f"The cache holds no vectors of {model!r}, but of: {known or 'nothing'}.")
    for space in spaces or ():
        fitting = [info for info in found if info.fingerprint.startswith(space.lower())]
        if len(fitting) != 1:
            raise ConfigurationError(f"{len(fitting)} spaces begin with {space!r}: `multiembed cache info` shows them.")
    return [
        info
        for info in found
        if (not models or info.words.get("model") in models)
        and (not spaces or any(info.fingerprint.startswith(space.lower()) for space in spaces))
    ]


# ── formats ──────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A file beside `out` that takes its place when it is whole, and is gone when it is not."""
    beside = out.with_name(f".{out.name}.part")
    try:
        yield beside
        beside.replace(out)
    finally:
        beside.unlink(missing_ok=True)


def _rows(vectors: Iterable[KeptVector]) -> Iterator[dict[str, Any]]:
    for kept in vectors:
        words = kept.space.words
        sparse = kept.sparse
        yield {
            "digest": kept.digest,
            "space": kept.space.fingerprint,
            "model": words.get("model"),
            "role": words.get("role"),
            "vector": None if kept.dense is None else kept.dense,
            "sparse_indices": None if sparse is None else list(sparse.indices),
            "sparse_values": None if sparse is None else list(sparse.values),
        }


def _write_jsonl(path: Path, vectors: Iterable[KeptVector]) -> int:
    import orjson

    count = 0
    with path.open("wb") as file:
        for count, row in enumerate(_rows(vectors), start=1):  # noqa: B007 - the last one is the number of rows
            file.write(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
    return count


def _write_parquet(path: Path, vectors: Iterable[KeptVector]) -> int:
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
    with pq.ParquetWriter(path, schema) as writer:
        held: list[dict[str, Any]] = []
        for row in _rows(vectors):
            held.append(row)
            if len(held) == _ROWS:
                writer.write_table(pa.Table.from_pylist(held, schema=schema))
                count, held = count + len(held), []
        if held:
            writer.write_table(pa.Table.from_pylist(held, schema=schema))
    return count + len(held)


# ── words ────────────────────────────────────────────────────────────────────────────────────────


def _fields(info: SpaceInfo) -> dict[str, Any]:
    return {
        "space": info.fingerprint,
        **info.words,
        "first": _day(info.first),
        "last": _day(info.last),
        "used": _day(info.used),
    }


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def _bytes(size: str) -> int:
    told = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", size, flags=re.IGNORECASE)
    if told is None:
        raise ConfigurationError(f"{size!r} is no size: write 500MB or 2GB.")
    return int(float(told[1]) * _UNITS[told[2].upper()])
