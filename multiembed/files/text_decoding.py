"""What the bytes of a file are: decompressed, in which encoding, and cut into numbered lines in constant memory."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, cast

from multiembed.files.arrow import arrow
from multiembed.files.rows import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONGEST_LINE = 64 << 20
"""Bytes of a line beyond which a file is no file of lines."""
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SEEMS_WIDE = "this looks like text of two or more bytes a character, without a byte order mark: say --encoding "
_BLOCK = 1 << 18


class Lines:
    """The lines of one file, to be read once or several times.

    Args:
        path: where it lies.
        name: what messages call it.
        encoding: a Python name of an encoding; a byte order mark of UTF-16 or UTF-32 outweighs "utf-8".
    """

    def __init__(self, path: Path, name: str, encoding: str = "utf-8") -> None:
        self.encoding = self._asked = known_encoding(encoding)
        self.path = path
        self.name = name

    def numbered(self) -> Iterator[tuple[int, bytes]]:
        """Each line, its end included, with its number, counted from 1.

        Raises:
            InputError: the file cannot be decompressed, or a line is far too long.
        """
        number = 0
        try:
            with self._opened() as stream:
                while line := stream.readline(LONGEST_LINE + 1):
                    number += 1
                    if len(line) > LONGEST_LINE:
                        raise InputError(
                            f"the line is longer than {LONGEST_LINE >> 20} MiB: is this the right --format?",
                            file=self.name,
                            line=number,
                        )
                    yield number, line
        except UnicodeError as error:
            raise InputError(
                f"this is not of the encoding that --encoding or its first bytes say: {error}",
                file=self.name,
                line=number + 1,
            ) from None
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            raise InputError(f"cannot be read: {error}", file=self.name, line=number + 1) from None

    def decode(self, line: bytes) -> str:
        """A line as text.

        Raises:
            UnicodeDecodeError: it is not of the file's encoding.
        """
        return decoded(line, self.encoding)

    def said(self, error: UnicodeDecodeError) -> str:
        """What to tell of a line that is not of the file's encoding."""
        return undecoded(error, self.encoding)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        with decompressed(self.path) as stream:
            begin = stream.read(4)
            rest = cast("IO[bytes]", io.BufferedReader(_Joined(begin, stream), _BLOCK))
            if begin.startswith(codecs.BOM_UTF8):
                rest.read(len(codecs.BOM_UTF8))
                self.encoding = "utf-8"  # whatever was asked for: no other encoding begins so
            elif (encoding := marked(begin) or self._asked) != "utf-8" and "\n".encode(encoding) != b"\n":
                # What follows sees UTF-8, because other bytes than a newline end the lines.
                self.encoding = "utf-8"
                rest = cast("IO[bytes]", io.BufferedReader(_Recoded(rest, encoding), _BLOCK))
            elif (wide := unmarked(begin)) and encoding == "utf-8":
                raise InputError(f"{SEEMS_WIDE}{wide}", file=self.name, line=1)
            yield rest


def known_encoding(encoding: str) -> str:
    """The name by which Python knows an encoding.

    Raises:
        InputError: it knows none of this name.
    """
    try:
        name = codecs.lookup(encoding).name
        "\n".encode(name)  # not every codec is an encoding of text
    except (LookupError, ValueError):
        raise InputError(f"There is no encoding {encoding!r}: try utf-8, gb18030, utf-16 or latin-1.") from None
    return "utf-8" if name == "utf-8-sig" else name


def decoded(data: bytes, encoding: str) -> str:
    """Bytes as text.

    Raises:
        UnicodeDecodeError: they are not of the encoding.
    """
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise
    except UnicodeError as error:  # of the rarer codecs
        raise UnicodeDecodeError(encoding, data, 0, 1, str(error)) from None


def marked(begin: bytes) -> str | None:
    """The encoding that a byte order mark tells; None without one."""
    return next((encoding for mark, encoding in _MARKS if begin.startswith(mark)), None)


def unmarked(begin: bytes) -> str | None:
    """The encoding of two or four bytes a character that the first bytes of a file without a mark suggest."""
    if begin[:1] != b"\0" and begin[1:] == b"\0\0\0":
        return "utf-32-le"
    if begin[:3] == b"\0\0\0" and begin[3:] != b"\0":
        return "utf-32-be"
    first, second = begin[::2], begin[1::2]
    if first and second and all(first) and not any(second):
        return "utf-16-le"
    return "utf-16-be" if first and second and not any(first) and all(second) else None


def undecoded(error: UnicodeDecodeError, encoding: str) -> str:
    """What to tell of bytes that are not of an encoding."""
    byte = error.object[error.start]
    return f"byte 0x{byte:02x} at {error.start} is no {encoding}: say --encoding, for instance gb18030 or latin-1"


@contextmanager
def decompressed(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes; gzip, bzip2, xz and Zstandard are known by their first bytes, whatever the file is called."""
    with path.open("rb") as raw:
        begin = raw.read(6)
    if begin.startswith(_ZSTANDARD):
        with arrow().input_stream(str(path), compression="zstd") as stream:
            yield stream
    elif begin.startswith(_GZIP):
        with gzip.open(path) as stream:
            yield cast("IO[bytes]", stream)
    elif begin.startswith(_BZIP2):
        with bz2.open(path) as stream:
            yield cast("IO[bytes]", stream)
    elif begin == _XZ:
        with lzma.open(path) as stream:
            yield cast("IO[bytes]", stream)
    else:
        with path.open("rb", _BLOCK) as stream:
            yield stream


class _Joined(io.RawIOBase):
    """Bytes that were read ahead, and the stream that they came from."""

    def __init__(self, begin: bytes, stream: IO[bytes]) -> None:
        self._begin = begin
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        data = self._begin or self._stream.read(len(buffer))
        self._begin = b""
        buffer[: len(data)] = data
        return len(data)


class _Recoded(io.RawIOBase):
    """A stream of another encoding as UTF-8."""

    def __init__(self, stream: IO[bytes], encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while not self._left:
            data = self._stream.read(_BLOCK)
            self._left = self._decoder.decode(data, final=not data).encode("utf-8", "surrogatepass")
            if not data and not self._left:
                return 0
        taken, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)
