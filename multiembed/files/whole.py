"""A file that is written whole or not at all: beside its place first, and into it by one rename."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

from multiembed import ConfigurationError

if TYPE_CHECKING:
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
        self.stream.flush()
        os.fsync(self.stream.fileno())
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


def check_place(path: Path, *, overwrite: bool) -> None:
    """See that a file may be written.

    Raises:
        ConfigurationError: it is there and may not be replaced, is a folder, or its folder is missing.
    """
    if path.is_dir():
        raise ConfigurationError(f"{path} is a folder: name a file.")
    if not path.parent.is_dir():
        raise ConfigurationError(f"The folder {path.parent} does not exist.")
    if path.exists() and not path.is_file():
        raise ConfigurationError(f"{path} is no regular file: name another output.")
    if not overwrite and (path.exists() or path.is_symlink()):
        raise ConfigurationError(f"{path} exists already: --overwrite replaces it once the new one is whole.")


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
    """Make a rename last."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
