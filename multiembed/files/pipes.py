"""Inputs that are not regular files: pipes, which are copied because inputs are read twice, and what is refused."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import stat
import tempfile
import time
from pathlib import Path
from typing import IO

from multiembed.files.atomic_write import naming
from multiembed.files.rows import InputError

WRITER_PATIENCE = 10.0
"""Seconds to wait for a program that opens a named pipe for writing."""
_POLL = 0.05
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def special_kind(status: os.stat_result) -> str | None:
    """Return what something is that is not a regular file, with its article; None for a regular file."""
    return None if stat.S_ISREG(status.st_mode) else _KINDS.get(stat.S_IFMT(status.st_mode), "no regular file")


class Spool:
    """Copies of inputs that can be read only once.

    Args:
        folder: where they are made. None: the system's folder for temporary files.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or Path(tempfile.gettempdir())
        self._copies: list[Path] = []

    def copy_stdin(self, stdin: IO[bytes] | None) -> Path:
        """Copy standard input to its end.

        Raises:
            InputError: there is none, or it is a folder or a device other than a terminal.
        """
        if stdin is None:
            raise InputError("There is no standard input to read.")
        try:
            kind = special_kind(os.fstat(stdin.fileno()))
        except io.UnsupportedOperation:  # a stream in memory
            kind = None
        if kind in ("a folder", "a device") and not stdin.isatty():
            raise InputError(f"Standard input is {kind}: give it a file or a pipe.")
        return self._copy(stdin, b"")

    def copy_pipe(self, path: Path, name: str) -> Path:
        """Copy a pipe to its end, once a program writes to it.

        Raises:
            InputError: for WRITER_PATIENCE seconds no program opened it for writing.
        """
        named = os.path.exists(os.path.realpath(path))  # noqa: PTH110 - <(…) in a shell has no name, but a writer
        with os.fdopen(os.open(path, os.O_RDONLY | (os.O_NONBLOCK if named else 0)), "rb", buffering=0) as pipe:
            begin = _first_bytes(pipe.fileno(), name) if named else b""
            os.set_blocking(pipe.fileno(), True)
            return self._copy(pipe, begin)

    def clear(self) -> None:
        """Remove the copies."""
        for path in self._copies:
            path.unlink(missing_ok=True)

    def _copy(self, stream: IO[bytes], begin: bytes) -> Path:
        path = self._folder / f".multiembed-input-{secrets.token_hex(8)}"
        self._copies.append(path)  # before it exists, so that an interrupt never leaves it behind
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy, naming(path):
            copy.write(begin)
            shutil.copyfileobj(stream, copy)
        return path


def _first_bytes(descriptor: int, name: str) -> bytes:
    """Wait until a non-blocking named pipe has a writer; what it has written so far."""
    deadline = time.monotonic() + WRITER_PATIENCE
    while True:
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return b""  # a writer has it open
        if data:
            return data
        if time.monotonic() >= deadline:
            raise InputError("this is a pipe that no program writes to: start the writer first", file=name)
        time.sleep(_POLL)
