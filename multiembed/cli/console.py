"""Consoles of the command line, and how a command reports its errors."""

from __future__ import annotations

import os
import re
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

import typer
from rich.console import Console

from multiembed import ConfigurationError, MultiEmbedError
from multiembed.cli.interrupts import INTERRUPTED

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")

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


def printable(text: str) -> str:
    """Text with escaped control characters, which a file's name or a header could contain."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def reports_errors(command: Callable[P, int | None]) -> Callable[P, None]:
    """Decorate a command: it ends with its exit status, and prints a user's error without a traceback."""

    @wraps(command)
    def run(*args: P.args, **options: P.kwargs) -> None:
        try:
            status = command(*args, **options)
        except (MultiEmbedError, OSError) as error:
            errors.print(f"[bold red]{type(error).__name__}:[/] ", end="")
            print_plain(errors, printable(str(error)))
            status = 2 if isinstance(error, ConfigurationError) else 1
        except KeyboardInterrupt:
            errors.print("Interrupted.")
            status = INTERRUPTED
        if status:
            raise typer.Exit(status)

    return run
