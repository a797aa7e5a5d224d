"""A file that is written whole or not at all: beside its place first, and into it by one rename."""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from multiembed import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType


class WholeFile:
    """A file in the making. Until `finish`, nothing is seen at its place; without it, nothing is left.

    Two programs never write one file at once: the second is refused. What a killed program left is written over. What
    replaces a file takes over its permissions, and stands where a link to it leads.

    Raises:
        ConfigurationError: the file is there and may not be replaced, or another program is writing it.
        OSError: the folder is missing or not writeable.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        check_place(path, overwrite=overwrite)
        self.path = Path(os.path.realpath(path))
        self._overwrite = overwrite
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        self.stream = self._begun()

    def finish(self) -> None:
        """Put the file into its place, safe against a power cut.

        Raises:
            ConfigurationError: meanwhile another program has put a file there.
        """
        self.prepare()
        self.place()

    def prepare(self) -> None:
        """Bring to the disk what was written; the long part of finishing."""
        with naming(self.path):
            self.stream.flush()
            os.fsync(self.stream.fileno())

    def place(self) -> None:
        """Put the prepared file into its place.

        Raises:
            ConfigurationError: meanwhile another program has put a file there.
        """
        if self._overwrite:
            with suppress(FileNotFoundError):
                shutil.copymode(self.path, self._partial)
            self._partial.replace(self.path)
        else:
            self._place_if_free()
        self.stream.close()
        _settle(self.path.parent)

    def discard(self) -> None:
        """Leave nothing behind, unless it is finished."""
        if not self.stream.closed:
            self._partial.unlink(missing_ok=True)
            with suppress(OSError):  # a full disk refuses the rest, which nobody wants any more
                self.stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def _begun(self) -> IO[bytes]:
        """The file beside the place, empty and ours alone."""
        while True:
            stream = os.fdopen(os.open(self._partial, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
            if not _locked(stream.fileno()):
                stream.close()
                raise ConfigurationError(f"Another program is writing {self.path} at this moment.")
            # Between opening and locking another program may have finished: then this is its output by now.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(stream.fileno()), self._partial.stat()):
                    stream.truncate(0)
                    return stream
            stream.close()

    def _place_if_free(self) -> None:
        try:
            self.path.hardlink_to(self._partial)
        except FileExistsError:
            check_place(self.path, overwrite=False)
        except OSError:  # a file system without links
            check_place(self.path, overwrite=False)
            self._partial.replace(self.path)
        else:
            self._partial.unlink()


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
    """See that a file may be written.

    Raises:
        ConfigurationError: it is there and may not be replaced, is a folder, or its folder is missing or read-only.
    """
    try:
        fault = _place_fault(path, overwrite=overwrite)
    except OSError as error:  # a name that is too long, a circle of links
        fault = f"{path} cannot be written: {error.strerror}."
    if fault:
        raise ConfigurationError(fault)


def _place_fault(path: Path, *, overwrite: bool) -> str | None:
    with suppress(FileNotFoundError):
        path.stat()  # fails for a circle of links, which the questions below take for a file that is missing
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


def _locked(descriptor: int) -> bool:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows, where a file that is open elsewhere cannot be replaced anyway
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _settle(folder: Path) -> None:
    """Make a rename last, where the system can: it has happened, so that a refusal is no error of the caller's."""
    if os.name == "posix":
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
