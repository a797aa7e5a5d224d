"""What a run of `multiembed embed` was asked for, and the names of the files that go with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from multiembed import Role


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What was asked for."""

    inputs: Sequence[str]
    out: Path
    model: str
    role: Role
    options: Mapping[str, Any]
    """The embedder's, as far as they were given."""
    reading: Mapping[str, Any]
    """How the inputs are read."""
    form: str | None
    name: str
    """The column of the vectors."""
    overwrite: bool
    skip: bool
    cache: Path | None
    keeps: bool

    @property
    def failed(self) -> Path:
        """The file of rows that were left out."""
        return self.out.with_name(f"{self.out.name}.failed.jsonl")

    @property
    def vectors(self) -> Path | None:
        """The cache; None for none. What is computed here costs nothing, and is kept only where that was asked for."""
        free = self.model.partition(":")[0] == "local"
        own = None if free else self.out.with_name(f"{self.out.name}.vectors.sqlite")
        return (self.cache or own) if self.keeps else None
