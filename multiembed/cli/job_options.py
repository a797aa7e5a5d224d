"""Options of a run of `multiembed embed`, and the paths of its side files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from multiembed import Role

CLIENT_OPTIONS = (
    *("dimensions", "instruct", "query_prefix", "document_prefix", "on_too_long", "base_url", "region", "auth_header"),
    *("allow_insecure", "max_concurrency", "requests_per_minute", "tokens_per_minute", "max_retries", "timeout"),
)
"""Options that EmbeddingClient takes under the same name."""


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
    cache: Path | None
    no_cache: bool
    dry_run: bool
    client: Mapping[str, Any]
    """The client's options that were given."""

    @property
    def skip(self) -> bool:
        """Whether rows that fail are left out."""
        return self.on_error == "skip"

    @property
    def failed(self) -> Path:
        """The file of the rows left out."""
        return self.out.with_name(f"{self.out.name}.failed.jsonl")

    @property
    def vectors(self) -> Path | None:
        """The cache file, if any. Vectors of the local model cost nothing and are cached on request only."""
        if self.no_cache or self.cache or self.model.partition(":")[0] == "local":
            return None if self.no_cache else self.cache
        return self.out.with_name(f"{self.out.name}.vectors.sqlite")
