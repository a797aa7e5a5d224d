"""The command line: `multiembed demo`, `embed`, `simulate`, `models`, `doctor` and `cache`."""

from __future__ import annotations

import io
import sys
import warnings


def main() -> None:
    """Run the command line, or say what to install for it."""
    from multiembed.cli.interrupts import INTERRUPTED, ignore_signals

    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a terminal may not know each character
    warnings.formatwarning = lambda message, category, *_: f"{category.__name__}: {message}\n"
    try:
        from multiembed.cli.app import app

        app()
    except ModuleNotFoundError as missing:
        if missing.name not in {"rich", "typer"}:
            raise
        sys.exit(f"The command line needs {missing.name}: pip install 'multiembed[cli]'")
    except KeyboardInterrupt:  # while the command line was loaded; a command reports it itself
        ignore_signals()
        sys.stderr.write("Interrupted.\n")
        sys.exit(INTERRUPTED)
    finally:
        ignore_signals()
