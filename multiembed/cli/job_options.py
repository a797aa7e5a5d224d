"""Options of a run of `multiembed embed`, and the paths of its side files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiembed import Role


@dataclass(frozen=True, kw_only=True, slots=True)
class JobOptions:
    """Options of one run, named as in the command."""

    inputs: list[str]
    column: str | None
    form: str | None
    encoding: str
    delimiter: str | None
    no_quotes: bool
    out: Path
    output_format: str | None
    embedding_column: str
    overwrite: bool
    model: str
    role: Role
    on_error: str
    cache: str | None
    no_cache: bool
    dry_run: bool
    limit: int | None
    """Only this many rows, for a trial."""
    quiet: bool
    client: Mapping[str, Any]
    """The client's options that were given."""

    @property
    def skip(self) -> bool:
        """Whether rows that fail are left out."""
        return self.on_error == "skip"

    @property
    def has_cache_url(self) -> bool:
        """Whether the cache is a server and no file."""
        return self.cache is not None and "://" in self.cache

    @property
    def failed(self) -> Path:
        """The file of the rows left out."""
        return self.out.with_name(f"{self.out.name}.failed.jsonl")

    @property
    def vectors(self) -> Path | None:
        """The cache file, if any. Vectors of the local model cost nothing and are cached on request only."""
        if self.cache is not None and not self.no_cache:
            return None if self.has_cache_url else Path(self.cache)
        if self.no_cache or self.model.partition(":")[0] == "local":
            return None
        return self.out.with_name(f"{self.out.name}.vectors.sqlite")
