"""What stands beside an output: the rows that were left out of it, and the vectors of a run that did not end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import orjson

from multiembed.files import InputError, WholeFile, naming, shortened

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from multiembed import MultiEmbedError
    from multiembed.cli.row_stream import Joined


class SideFile:
    """The rows that were left out, each as a JSON object with its place and the reason; no file when there is none.

    Args:
        path: where it is to stand.
        overwrite: whether one of an earlier run may be replaced, or removed when this run leaves no row out.
    """

    def __init__(self, path: Path, *, overwrite: bool) -> None:
        self._path = path
        self._overwrite = overwrite
        self._file = WholeFile(path, overwrite=overwrite)
        self.rows = 0
        """Rows left out."""
        self.failures = 0
        """Of these, the ones that were sent."""
        self._placed = False
        self.first: MultiEmbedError | None = None
        """The first reason of a row that was sent."""

    def write(self, part: Joined, before: int) -> None:
        """Take the rows of a chunk that were left out.

        Args:
            part: the chunk.
            before: rows of the inputs before it.
        """
        chunk = part.chunk
        for row in sorted([*chunk.faults, *part.failures]):
            error = part.failures.get(row)
            record = {
                "row": before + row,
                "file": chunk.files[row],
                "line": chunk.lines[row],
                "error": InputError.__name__ if error is None else type(error).__name__,
                "reason": chunk.faults[row] if error is None else error.message,
                "text": shortened(chunk.texts[row]),
            }
            if error is not None:
                said = {
                    "status": error.status,
                    "code": error.code,
                    "provider_message": error.provider_message,
                    "request_id": error.request_id,
                }
                record |= {name: value for name, value in said.items() if value is not None}
                self.first = self.first or error
                self.failures += 1
            self.rows += 1
            with naming(self._path):
                self._file.stream.write(orjson.dumps(record) + b"\n")

    def prepare(self) -> None:
        """Bring it to the disk, if there is anything in it."""
        if self.rows:
            self._file.prepare()

    def place(self) -> None:
        """Put it into its place, if there is anything in it."""
        if self.rows:
            self._file.place()
            self._placed = True
        elif self._overwrite:
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.discard()
        if self._placed and error is not None:  # the output did not come to its place
            self._path.unlink(missing_ok=True)


def remove_cache(path: Path) -> None:
    """Remove a cache file that is closed here, unless another process has it open: its log is there as long as that."""
    if not path.with_name(f"{path.name}-wal").exists():
        path.unlink(missing_ok=True)
