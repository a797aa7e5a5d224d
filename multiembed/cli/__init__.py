"""The command line: `multiembed demo`, `embed`, `embed-text`, `simulate`, `models`, `doctor` and `cache`."""

from __future__ import annotations

import io
import os
import sys
import warnings
from functools import partial


def main() -> None:
    """Run the command line."""
    from multiembed.cli.interrupts import INTERRUPTED, ignore_signals

    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):  # the C locale
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a terminal may not know each character
    warnings.formatwarning = _format_warning
    try:
        from multiembed.cli.app import app

        if "_MULTIEMBED_COMPLETE" in os.environ:
            from multiembed.cli.completion import run_completion

            run_completion(partial(app, prog_name="multiembed"))
        app(prog_name="multiembed")
    except KeyboardInterrupt:  # while the command line was loaded; a command reports it itself
        ignore_signals()
        sys.stderr.write("Interrupted.\n")
        sys.exit(INTERRUPTED)
    finally:
        ignore_signals()


def _format_warning(message: Warning | str, category: type[Warning], *_: object, **__: object) -> str:
    from multiembed.cli.messages import in_command_words

    return f"{category.__name__}: {in_command_words(str(message))}\n"
