"""`multiembed cache`: shows, prunes and exports a cache file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from multiembed.cli.completion import complete_model
from multiembed.cli.console import console
from multiembed.cli.help import Command, Group

app = typer.Typer(cls=Group, no_args_is_help=True, help="Show, prune and export a cache file.")


def _file(value: str) -> Path:
    if "://" in value:
        raise typer.BadParameter("this works on a cache file. Vectors in Redis expire by ?ttl=… in the URL of cache.")
    return Path(value)


File = Annotated[
    Path, typer.Argument(parser=_file, metavar="FILE", help="The file that was given as cache=….", show_default=False)
]
Cache = Annotated[
    str, typer.Argument(help="The file or the redis:// URL that was given as cache=….", show_default=False)
]
Models = Annotated[
    list[str] | None,
    typer.Option(
        "--model", help="Only this provider:model; may be given several times.", autocompletion=complete_model
    ),
]
Namespaces = Annotated[
    list[str] | None,
    typer.Option("--namespace", help="Only this namespace, by the beginning of its fingerprint; may be repeated."),
]


OlderThan = Annotated[float | None, typer.Option(min=0, help="Only vectors written more than this many days ago.")]
UnusedFor = Annotated[float | None, typer.Option(min=0, help="Only models and roles not used for this many days.")]
MaxSize = Annotated[str | None, typer.Option(help="The oldest, until the file is that small: 500MB, 2GB.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where to write: a name that ends in .jsonl or .parquet.")]


@app.command(cls=Command)
def info(cache: Cache, json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Show what is in a cache: for each model and role, how many vectors, how large, how old."""
    from multiembed.cli.cache_admin import show_namespaces

    show_namespaces(console, cache, as_json=json)


@app.command(cls=Command)
def prune(
    file: File,
    model: Models = None,
    namespace: Namespaces = None,
    older_than: OlderThan = None,
    unused_for: UnusedFor = None,
    max_size: MaxSize = None,
    dry_run: DryRun = False,
) -> None:
    """Remove vectors from a cache file, and make it smaller. A vector must meet all the conditions given."""
    from multiembed.cli.cache_admin import prune_namespaces

    age = {"older_than": older_than, "unused_for": unused_for}
    prune_namespaces(console, file, models=model, namespaces=namespace, **age, max_size=max_size, dry_run=dry_run)


@app.command(cls=Command)
def export(file: File, out: Out, model: Models = None, namespace: Namespaces = None) -> None:
    """Write the vectors of a cache file, each with its model, role and the digest of its text.

    Texts are not kept. A digest is SHA-256 over the namespace, a zero byte and the text.
    """
    from multiembed.cli.export import export_vectors

    export_vectors(console, file, out, models=model, namespaces=namespace)
