"""The consoles of the command line: what is printed to a pipe that nothing reads any more is dropped."""

from __future__ import annotations

import os
import re

from rich.console import Console

_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


class OutputConsole(Console):
    """A console that outlives a closed pipe, as after `| head -1`: the command still ends with its own status."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr)

    def on_broken_pipe(self) -> None:
        """Send what follows nowhere, what the stream still holds included."""
        self.quiet = True
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, self.file.fileno())
        os.close(devnull)


def error_console() -> Console:
    """A console on standard error."""
    return OutputConsole(stderr=True)


def printable(text: str) -> str:
    """Text without control characters, which a file's name or a header could bring to a terminal."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
