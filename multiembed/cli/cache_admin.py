"""Implementation of `multiembed cache info` and `prune`."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

from multiembed import CacheFile, ConfigurationError
from multiembed.cli.console import print_plain

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from multiembed import NamespaceInfo

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_DAY = 86400


def show_namespaces(console: Console, file: Path, *, as_json: bool) -> None:
    """Print the namespaces of a cache file."""
    cache = CacheFile(file)
    namespaces = cache.namespaces()
    if as_json:
        rows = [
            {"namespace": info.fingerprint, **info.description}
            | {name: _day(getattr(info, name)) for name in ("first", "last", "used")}
            | {"vectors": info.vectors, "bytes": info.bytes}
            for info in namespaces
        ]
        console.print_json(json.dumps({"file": str(cache.path), "bytes": cache.bytes, "namespaces": rows}))
        return
    row = "{:<12}  {} {} {}\n{:>25} {:>12} {:>12} {:>12} {:>12}"  # two lines: model names stay whole at 80 columns
    head = ("namespace", "model", "role", "dimensions", "vectors", "size", "first", "last", "used")
    print_plain(console, row.format(*head))
    for info in namespaces:
        fields = [info.description.get(name, "?") for name in ("model", "role", "dimensions")]
        days = [_day(seconds) for seconds in (info.first, info.last, info.used)]
        cells = (info.fingerprint[:12], *fields, f"{info.vectors:,}", _size(info.bytes), *days)
        print_plain(console, row.format(*cells))
    count = sum(info.vectors for info in namespaces)
    print_plain(console, f"{count:,} vectors, {_size(cache.bytes)}: {cache.path}")


def prune_namespaces(
    console: Console,
    file: Path,
    *,
    models: list[str] | None,
    namespaces: list[str] | None,
    older_than: float | None,
    unused_for: float | None,
    max_size: str | None,
    dry_run: bool,
) -> None:
    """Prune a cache file, and print what was removed. Ages are in days."""
    if not models and not namespaces and older_than is None and unused_for is None and max_size is None:
        raise ConfigurationError("Name what to remove: --model, --namespace, --older-than, --unused-for or --max-size.")
    max_bytes = None if max_size is None else _bytes(max_size)
    cache = CacheFile(file)
    chosen = choose_namespaces(cache.namespaces(), models, namespaces)
    if unused_for is not None:
        chosen = [info for info in chosen if info.used < time.time() - unused_for * _DAY]
    pruned = cache.prune(
        {info.fingerprint for info in chosen},
        written_before=None if older_than is None else time.time() - older_than * _DAY,
        max_bytes=max_bytes,
        dry_run=dry_run,
    )
    if dry_run:
        print_plain(console, f"{pruned.vectors:,} vectors would go, {_size(pruned.bytes)}.")
        return
    sizes = f"The file had {_size(pruned.bytes_before)} and has {_size(pruned.bytes_after)}."
    print_plain(console, f"{pruned.vectors:,} vectors are gone. {sizes}")


def choose_namespaces(
    found: list[NamespaceInfo], models: list[str] | None, namespaces: list[str] | None
) -> list[NamespaceInfo]:
    """The namespaces that the options name, or all.

    Raises:
        ConfigurationError: a name matches none.
    """
    for model in models or ():
        if model not in {info.description.get("model") for info in found}:
            known = ", ".join(sorted({str(info.description["model"]) for info in found if "model" in info.description}))
            raise ConfigurationError(f"The cache holds no vectors of {model!r}, but of: {known or 'nothing'}.")
    chosen = [info for info in found if not models or info.description.get("model") in models]
    if not namespaces:
        return chosen
    named = set()
    for namespace in namespaces:
        matching = [info.fingerprint for info in found if info.fingerprint.startswith(namespace.lower())]
        if len(matching) != 1:
            raise ConfigurationError(
                f"{len(matching)} namespaces begin with {namespace!r}: `multiembed cache info` shows them."
            )
        named.update(matching)
    return [info for info in chosen if info.fingerprint in named]


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def _size(count: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def _bytes(size: str) -> int:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)B?\s*", size, flags=re.IGNORECASE)
    if match is None:
        raise ConfigurationError(f"{size!r} is not a size: write 500MB or 2GB.")
    return int(float(match[1]) * _UNITS[match[2].upper()])
