"""`multiembed cache`: what is in a cache file, taking old vectors out of it, and carrying vectors elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

File = Annotated[Path, typer.Argument(help="The file that was given as cache=….", show_default=False)]
Models = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer on Python 3.11 reads this form everywhere
    typer.Option("--model", help="Only this provider:model; may be given several times."),
]
Spaces = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--space", help="Only this space, by the beginning of its fingerprint; may be given several times."),
]


def commands(console: Console, saying_why: Callable[[Callable[[], None]], None]) -> typer.Typer:
    """The commands, which tell what they did on a console and end with a sentence when they cannot."""
    app = typer.Typer(no_args_is_help=True, help="See, prune and export a cache file.")

    @app.command()
    def info(file: File, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
        """Show what is in a cache file: for each model and role, how many vectors, how large, how old."""
        from multiembed.cli.cache_admin import show

        saying_why(lambda: show(console, file, as_json=json))

    @app.command()
    def prune(
        file: File,
        model: Models = None,
        space: Spaces = None,
        older_than: Annotated[
            Optional[float],  # noqa: UP045
            typer.Option(min=0, help="Only vectors written more than so many days ago."),
        ] = None,
        unused_for: Annotated[
            Optional[float],  # noqa: UP045
            typer.Option(min=0, help="Only models and roles that nobody has used for so many days."),
        ] = None,
        max_size: Annotated[
            Optional[str],  # noqa: UP045
            typer.Option(help="The oldest, until the file is as small as this: 500MB, 2GB."),
        ] = None,
        dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be taken out.")] = False,
    ) -> None:
        """Take vectors out of a cache file, and make it smaller. What is said must hold all together."""
        from multiembed.cli.cache_admin import take_out

        saying_why(
            lambda: take_out(
                console,
                file,
                models=model,
                spaces=space,
                older_than=older_than,
                unused_for=unused_for,
                max_size=max_size,
                dry_run=dry_run,
            )
        )

    @app.command()
    def export(
        file: File,
        out: Annotated[
            Path, typer.Option("--out", "-o", help="Where to write: a name that ends in .jsonl or .parquet.")
        ],
        model: Models = None,
        space: Spaces = None,
    ) -> None:
        """Write the vectors of a cache file, each with its model, role and the digest of its text.

        Texts are not kept. A digest is SHA-256 over the space, a zero byte and the text.
        """
        from multiembed.cli.export import carry

        saying_why(lambda: carry(console, file, out, models=model, spaces=space))

    return app
