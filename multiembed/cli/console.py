"""Consoles of the command line, and how a command reports its errors."""

from __future__ import annotations

import logging
import os
import re
import textwrap
from typing import Annotated, Literal

import typer
from rich.console import Console

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class OutputConsole(Console):
    """Console for which a closed pipe, as after `| head -1`, is not an error: the command keeps its own exit status."""

    def on_broken_pipe(self) -> None:
        """Discard further output, buffered output included."""
        self.quiet = True
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self.file.fileno())
        os.close(devnull)


console = OutputConsole()
errors = OutputConsole(stderr=True)


def print_plain(target: Console, text: str) -> None:
    """Print text without markup, highlighting or wrapping: paths and addresses stay whole."""
    target.print(text, markup=False, highlight=False, soft_wrap=True)


def print_wrapped(target: Console, text: str, indent: str = "", *, style: str | None = None) -> None:
    """Print text in lines of the console's width. A word that is longer, such as an address, stays whole."""
    width = max(target.width, 20)
    lines = textwrap.fill(
        text, width, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    target.print(lines, markup=False, highlight=False, soft_wrap=True, style=style)


def printable(text: str) -> str:
    """Text with escaped control characters, which a file's name or a header could contain."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class _LogHandler(logging.Handler):
    """Prints records on stderr, above a progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        print_plain(errors, printable(self.format(record)))


def _start_log(level: str | None) -> None:
    if level is not None:
        handler = _LogHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger = logging.getLogger("multiembed")
        for old in [each for each in logger.handlers if isinstance(each, _LogHandler)]:
            logger.removeHandler(old)
        logger.addHandler(handler)
        logger.setLevel(level.upper())


LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"] | None,
    typer.Option(
        callback=_start_log,
        metavar="LEVEL",
        help="Print the log on stderr, from this level: debug, info, warning or error.",
    ),
]
