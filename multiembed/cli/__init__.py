"""The command line: `multiembed demo`, `embed`, `simulate`, `models`, `doctor` and `cache`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say what to install for it."""
    try:
        from multiembed.cli.app import app
    except ModuleNotFoundError as missing:
        if missing.name not in {"rich", "typer"}:
            raise
        sys.exit(f"The command line needs {missing.name}: pip install 'multiembed[all]'")
    app()
