"""Commands: help with examples and exit codes, and errors without a traceback, with an exit status."""

from __future__ import annotations

import shutil
import textwrap
from contextlib import suppress
from functools import partial
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from multiembed import ConfigurationError, MultiEmbedError
from multiembed.cli.console import errors, print_plain, printable
from multiembed.cli.interrupts import INTERRUPTED

EXAMPLES = {
    "": (
        "multiembed demo",
        'multiembed embed-text "How do I brew tea?" --model local:char-ngrams',
        "multiembed embed docs.jsonl -o docs.parquet --model zhipu:embedding-3",
    ),
    "demo": (
        "multiembed demo",
        'multiembed demo "How do I brew green tea?"',
        "multiembed demo --live zhipu:embedding-3",
    ),
    "simulate": (
        "multiembed simulate",
        "multiembed simulate --port 0 --fault rate-limit --fault-times 3",
        "multiembed simulate --faults",
    ),
    "models": ("multiembed models", "multiembed models dashscope", "multiembed models zhipu --json"),
    "doctor": (
        "multiembed doctor",
        "multiembed doctor zhipu:embedding-3",
        "multiembed doctor openai-compatible:bge-m3 --base-url http://localhost:8000/v1",
    ),
    "embed": (
        "multiembed embed docs.jsonl -o docs.parquet --model zhipu:embedding-3 --dry-run",
        "multiembed embed docs.jsonl -o trial.jsonl --model zhipu:embedding-3 --limit 5",
        "multiembed embed table.csv -o out.npy --model local:char-ngrams --column text",
    ),
    "embed-text": (
        'multiembed embed-text "How do I brew tea?" --model local:char-ngrams',
        'multiembed embed-text "green tea" --model zhipu:embedding-3 --role query',
        'echo "green tea" | multiembed embed-text - --model local:char-ngrams --json',
    ),
    "cache": ("multiembed cache info vectors.sqlite", "multiembed cache prune vectors.sqlite --older-than 90"),
    "cache info": ("multiembed cache info vectors.sqlite", "multiembed cache info vectors.sqlite --json"),
    "cache prune": (
        "multiembed cache prune vectors.sqlite --unused-for 30 --dry-run",
        "multiembed cache prune vectors.sqlite --max-size 2GB",
    ),
    "cache export": (
        "multiembed cache export vectors.sqlite -o vectors.jsonl",
        "multiembed cache export vectors.sqlite -o v.jsonl --model zhipu:embedding-3",
    ),
}
"""Command lines that run as they stand, by the command. A test runs each."""
_EXIT_CODES = (
    ("0", "done"),
    ("1", "the provider, the network or the disk failed; doctor: a check failed"),
    ("2", "an option or an input is wrong; nothing was sent"),
    ("3", "embed: written without the rows that failed"),
    ("130", "interrupted"),
)
_NARROW = 80
"""Columns below which the tables of options cut off names."""


class _Examples:
    """Ends a help page with examples and exit codes."""

    rich_markup_mode: Any

    def format_help(self, ctx: Any, formatter: Any) -> None:
        columns = shutil.get_terminal_size().columns
        if columns < _NARROW:
            self.rich_markup_mode, formatter.width = None, columns
            formatter.write_dl = partial(formatter.write_dl, col_max=10)  # the help stands below the option
        with suppress(SystemExit):  # of rich, when the output is a closed pipe; the rest goes nowhere then
            super().format_help(ctx, formatter)  # type: ignore[misc]
        path = ctx.command_path.removeprefix(ctx.find_root().command_path).strip()
        lines = ["Examples:", *(f"  {example}" for example in EXAMPLES[path]), "", "Exit codes:"]
        for code, meaning in _EXIT_CODES:
            lines.append(textwrap.fill(f"{code:>5}  {meaning}", min(columns, 80) - 2, subsequent_indent=" " * 7))
        formatter.write("\n" if self.rich_markup_mode is None else "")
        formatter.write(textwrap.indent("\n".join(lines), " ") + "\n")


class Command(_Examples, TyperCommand):
    """A command whose help ends with examples. It returns its exit status, and prints an error without a traceback."""

    def invoke(self, ctx: Any) -> None:
        """Run the command, and end with its status."""
        try:
            status = super().invoke(ctx)
        except (MultiEmbedError, OSError) as error:
            if isinstance(error, MultiEmbedError):
                from multiembed.cli.messages import in_command_words

                error.message = in_command_words(error.message, {each.name: each.opts[0] for each in self.params})
            errors.print(f"[bold red]{type(error).__name__}:[/] ", end="")
            print_plain(errors, printable(str(error)))
            status = 2 if isinstance(error, ConfigurationError) else 1
        except KeyboardInterrupt:
            errors.print("Interrupted.")
            status = INTERRUPTED
        if status:
            raise typer.Exit(status)


class Group(_Examples, TyperGroup):
    """A group of commands whose help ends with examples."""
