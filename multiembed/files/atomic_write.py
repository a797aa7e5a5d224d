"""Atomic write of a file: it is written under a temporary name and renamed when it is whole."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from multiembed import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator


class WholeFile:
    """File that is written whole or not at all. Until `finish` nothing is seen under its name.

    Two programs never write one file at once: the second is refused. A temporary file of a killed program is reused. A
    file that replaces another takes over its permissions, and goes where a link leads.

    Raises:
        ConfigurationError: the file exists and may not be replaced, or another program is writing it.
        OSError: the folder is missing or not writeable.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        check_place(path, overwrite=overwrite)
        self.path = Path(os.path.realpath(path))
        self._overwrite = overwrite
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self.stream = self._open_partial()

    def finish(self) -> None:
        """Give the file its name, safe against a power failure.

        Raises:
            ConfigurationError: meanwhile another program has made a file of this name.
        """
        self.prepare()
        self.place()

    def prepare(self) -> None:
        """Write everything to the disk; the long part of finishing."""
        with naming(self.path):
            self.stream.flush()
            os.fsync(self.stream.fileno())

    def place(self) -> None:
        """Give the prepared file its name.

        Raises:
            ConfigurationError: meanwhile another program has made a file of this name.
        """
        if self._overwrite:
            with suppress(FileNotFoundError):
                shutil.copymode(self.path, self._partial)
            self._partial.replace(self.path)
        else:
            try:
                self.path.hardlink_to(self._partial)
            except FileExistsError:
                check_place(self.path, overwrite=False)
            except OSError:  # a file system without links
                check_place(self.path, overwrite=False)
                self._partial.replace(self.path)
            else:
                self._partial.unlink()
        self.stream.close()
        if os.name == "posix":  # make the rename durable; it has happened, so a failure of this is not an error
            with suppress(OSError):
                descriptor = os.open(self.path.parent, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def discard(self) -> None:
        """Remove the temporary file, unless the file is finished."""
        if not self.stream.closed:
            self._partial.unlink(missing_ok=True)
            with suppress(OSError):  # a full disk refuses what is still buffered
                self.stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def _open_partial(self) -> IO[bytes]:
        """Open the temporary file, empty and locked."""
        while True:
            stream = os.fdopen(os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            if not _lock(stream.fileno()):
                stream.close()
                raise ConfigurationError(f"Another program is writing {self.path} at this moment.")
            # Between opening and locking another program may have finished: then this is its output by now.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(stream.fileno()), self._partial.stat()):
                    stream.truncate(0)
                    return stream
            stream.close()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file to an error of the system that names none, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def check_place(path: Path, *, overwrite: bool) -> None:
    """Check that a file may be written.

    Raises:
        ConfigurationError: it exists and may not be replaced, is a folder, or its folder is missing or read-only.
    """
    try:
        problem = _place_problem(path, overwrite=overwrite)
    except OSError as error:  # a name that is too long, a circle of links
        problem = f"{path} cannot be written: {error.strerror}."
    if problem:
        raise ConfigurationError(problem)


def _place_problem(path: Path, *, overwrite: bool) -> str | None:
    with suppress(FileNotFoundError):
        path.stat()  # fails for a circle of links, which the checks below take for a missing file
    if path.is_dir():
        return f"{path} is a folder: name a file."
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        return f"The folder {folder} does not exist: make it first."
    if not os.access(folder, os.W_OK):
        return f"The folder {folder} may not be written to: name an output in another one."
    if path.exists() and not path.is_file():
        return f"{path} is no regular file: name another output."
    if not overwrite and (path.exists() or path.is_symlink()):
        return f"{path} exists already: --overwrite replaces it once the new one is whole."
    return None


def _lock(descriptor: int) -> bool:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows, where a file that is open elsewhere cannot be replaced anyway
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
