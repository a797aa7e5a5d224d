"""What `multiembed cache info` and `prune` do: show what is in a cache file, and take vectors out of it."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

from rich.table import Table

from multiembed import CacheFile, ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from multiembed import NamespaceInfo

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_DAY = 86400


def show(console: Console, file: Path, *, as_json: bool) -> None:
    """Print what is in a cache file."""
    kept = CacheFile(file)
    spaces = kept.namespaces()
    if as_json:
        rows = [{**_fields(info), "vectors": info.vectors, "bytes": info.bytes} for info in spaces]
        console.print_json(json.dumps({"file": str(kept.path), "bytes": kept.bytes, "spaces": rows}))
        return
    table = Table(box=None, pad_edge=False)
    for name in ("space", "model", "role", "dimensions"):
        table.add_column(name, overflow="fold")
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
    kept = CacheFile(file)
    chosen = chosen_of(kept.namespaces(), models, spaces)
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


def chosen_of(found: list[NamespaceInfo], models: list[str] | None, spaces: list[str] | None) -> list[NamespaceInfo]:
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


def _fields(info: NamespaceInfo) -> dict[str, Any]:
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
