"""Implementation of `multiembed cache info` and `prune`."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING

from multiembed import CacheFile, ConfigurationError, RedisCache
from multiembed.cli.console import print_plain, print_wrapped

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from multiembed import NamespaceInfo

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_DAY = 86400


def show_namespaces(console: Console, given: str, *, as_json: bool) -> None:
    """Print the namespaces of a cache file, or of the vectors in Redis."""
    cache = RedisCache(given) if "://" in given else CacheFile(given)
    namespaces = cache.namespaces()
    name, size = (
        (cache.url, sum(info.bytes for info in namespaces))
        if isinstance(cache, RedisCache)
        else (str(cache.path), cache.bytes)
    )
    if as_json:
        rows = [
            {"namespace": info.fingerprint, **info.description}
            | {name: _day(getattr(info, name)) for name in ("first", "last", "used")}
            | {"vectors": info.vectors, "bytes": info.bytes}
            for info in namespaces
        ]
        console.print_json(json.dumps({"file": name, "bytes": size, "namespaces": rows}))
        return
    for info in namespaces:
        model, role, dimensions = (info.description.get(name, "?") for name in ("model", "role", "dimensions"))
        print_plain(console, str(model))
        first, last, used = map(_day, (info.first, info.last, info.used))
        print_wrapped(
            console,
            f"{role}, {dimensions} dimensions, {info.vectors:,} vectors, {_size(info.bytes)}, "
            f"written {first} to {last}, used {used}, namespace {info.fingerprint[:12]}",
            "    ",
        )
    count = sum(info.vectors for info in namespaces)
    print_plain(console, f"{count:,} vectors, {_size(size)}: {name}")


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
