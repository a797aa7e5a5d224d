"""Side files of an output: the rows left out of it, and the cache of a run that did not end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import orjson

from multiembed.files import InputError, WholeFile, naming, shortened

if TYPE_CHECKING:
    from pathlib import Path

    from multiembed import MultiEmbedError
    from multiembed.cli.row_stream import EmbeddedChunk

_DETAILS = ("status", "code", "provider_message", "request_id")
"""Attributes of an error that are written where they are known."""


class SideFile:
    """The rows left out, each as a JSON object with its file, line and reason; no file when there is none.

    Args:
        path: of the file.
        overwrite: whether one of an earlier run may be replaced, or removed when this run leaves no row out.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self._path = path
        self._overwrite = overwrite
        self._file = WholeFile(path, overwrite=overwrite)
        self.rows = 0
        """Rows left out."""
        self.failures = 0
        """Rows left out that were sent."""
        self._placed = False
        self.first: MultiEmbedError | None = None
        """The first error of a row that was sent."""

    def write(self, embedded: EmbeddedChunk, before: int) -> None:
        """Write the rows of a chunk that were left out; `before` is the number of input rows before it."""
        chunk = embedded.chunk
        for row in sorted([*chunk.faults, *embedded.failures]):
            error = embedded.failures.get(row)
            record = {
                "row": before + row,
                "file": chunk.files[row],
                "line": chunk.lines[row],
                "error": InputError.__name__ if error is None else type(error).__name__,
                "reason": chunk.faults[row] if error is None else error.message,
                "text": shortened(chunk.texts[row]),
            }
            if error is not None:
                details = {name: getattr(error, name) for name in _DETAILS}
                record |= {name: value for name, value in details.items() if value is not None}
                self.first = self.first or error
                self.failures += 1
            self.rows += 1
            with naming(self._path):
                self._file.stream.write(orjson.dumps(record) + b"\n")

    def prepare(self) -> None:
        """Flush it to the disk, if it has a row."""
        if self.rows:
            self._file.prepare()

    def place(self) -> None:
        """Move it to its path, if it has a row."""
        if self.rows:
            self._file.place()
            self._placed = True
        elif self._overwrite:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self._file.discard()
        if self._placed and error is not None:  # the output was not written
            self._path.unlink(missing_ok=True)


def remove_cache(path: Path) -> None:
    """Remove a closed cache file, unless another process has it open: then its log exists."""
    if not path.with_name(f"{path.name}-wal").exists():
        path.unlink(missing_ok=True)
