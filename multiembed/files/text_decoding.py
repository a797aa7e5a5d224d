"""Text decoding of input files: decompression, encoding, and numbered lines in constant memory."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, cast

from multiembed.files.arrow import arrow
from multiembed.files.rows import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MAX_LINE_BYTES = 64 << 20
"""Bytes of a line beyond which a file is not a file of lines."""
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_READ_BYTES = 1 << 18
_OPENERS: tuple[tuple[bytes, Callable[[Path], Any]], ...] = (
    (b"\x28\xb5\x2f\xfd", lambda path: arrow().input_stream(str(path), compression="zstd")),
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ\x00", lzma.open),
    (b"", lambda path: path.open("rb", _READ_BYTES)),
)
"""By the first bytes of a file."""


class Lines:
    """Lines of one file, to be read once or several times.

    Args:
        path: of the file.
        name: what messages call it.
        encoding: a Python name of an encoding; a byte order mark of UTF-16 or UTF-32 outweighs "utf-8".
    """

    def __init__(self, path: Path, name: str, encoding: str = "utf-8") -> None:
        self.encoding = self._configured = known_encoding(encoding)
        self.path = path
        self.name = name

    def numbered(self) -> Iterator[tuple[int, bytes]]:
        """Read each line, its end included, with its number, counted from 1.

        Raises:
            InputError: the file cannot be decompressed, or a line is far too long.
        """
        number = 0
        try:
            with self._opened() as stream:
                while line := stream.readline(MAX_LINE_BYTES + 1):
                    number += 1
                    if len(line) > MAX_LINE_BYTES:
                        raise InputError(
                            f"the line is longer than {MAX_LINE_BYTES >> 20} MiB: is this the right --format?",
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

    def decode(self, line: bytes) -> tuple[str, str | None]:
        """Decode a line; see `decode`."""
        return decode(line, self.encoding)

    @contextmanager
    def _opened(self) -> Iterator[IO[bytes]]:
        with decompressed(self.path) as stream:
            begin = stream.read(4)
            rest = cast("IO[bytes]", io.BufferedReader(_Chained(begin, stream), _READ_BYTES))
            encoding = encoding_of_mark(begin) or self._configured
            if begin.startswith(codecs.BOM_UTF8):
                rest.read(len(codecs.BOM_UTF8))
                self.encoding = "utf-8"  # whatever was configured: no other encoding begins so
            elif "\n".encode(encoding) != b"\n":
                # The readers see UTF-8, because other bytes than a newline end the lines.
                self.encoding = "utf-8"
                rest = cast("IO[bytes]", io.BufferedReader(_Recoded(rest, encoding), _READ_BYTES))
            elif encoding == "utf-8" and (fault := refuse_wide_encoding(begin)):
                raise InputError(fault, file=self.name, line=1)
            yield rest


def known_encoding(encoding: str) -> str:
    """Return the name by which Python knows an encoding.

    Raises:
        InputError: Python does not know it.
    """
    try:
        name = codecs.lookup(encoding).name
        "\n".encode(name)  # not every codec is an encoding of text
    except (LookupError, ValueError):
        raise InputError(f"There is no encoding {encoding!r}: try utf-8, gb18030, utf-16 or latin-1.") from None
    return "utf-8" if name == "utf-8-sig" else name


def decode(data: bytes, encoding: str) -> tuple[str, str | None]:
    """Decode bytes.

    Returns:
        The text, and what is wrong with the bytes if they are not of the encoding.
    """
    try:
        return data.decode(encoding), None
    except UnicodeDecodeError as error:
        start = error.start
    except UnicodeError:  # of the rarer codecs
        start = 0
    fault = f"byte 0x{data[start]:02x} at {start} is no {encoding}: say --encoding, for instance gb18030 or latin-1"
    return data.decode("utf-8", "replace"), fault


def encoding_of_mark(begin: bytes) -> str | None:
    """Return the encoding that a byte order mark names; None without one."""
    return next((encoding for mark, encoding in _MARKS if begin.startswith(mark)), None)


def refuse_wide_encoding(begin: bytes) -> str | None:
    """Return the fault of a file whose first bytes, without a mark, look like two or four bytes a character."""
    even, odd = begin[::2], begin[1::2]
    if begin[:1] != b"\0" and begin[1:] == b"\0\0\0":
        encoding = "utf-32-le"
    elif begin[:3] == b"\0\0\0" and begin[3:] != b"\0":
        encoding = "utf-32-be"
    elif even and odd and all(even) and not any(odd):
        encoding = "utf-16-le"
    elif even and odd and not any(even) and all(odd):
        encoding = "utf-16-be"
    else:
        return None
    return (
        f"this looks like text of two or more bytes a character, without a byte order mark: say --encoding {encoding}"
    )


@contextmanager
def decompressed(path: Path) -> Iterator[IO[bytes]]:
    """Open a file; gzip, bzip2, xz and Zstandard are known by their first bytes, whatever the file is called."""
    with path.open("rb") as raw:
        begin = raw.read(6)
    with next(opener for magic, opener in _OPENERS if begin.startswith(magic))(path) as stream:
        yield stream


class _Chained(io.RawIOBase):
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
            data = self._stream.read(_READ_BYTES)
            self._left = self._decoder.decode(data, final=not data).encode("utf-8", "surrogatepass")
            if not data and not self._left:
                return 0
        taken, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)
