"""`multiembed embed`: its options. `run_embed` implements it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from multiembed.cli.client_options import CONNECTION, EMBEDDING, RUN, takes_client_options
from multiembed.cli.completion import complete_model
from multiembed.cli.console import LogLevel  # noqa: TC001 - typer reads it
from multiembed.cli.job_options import JobOptions


def _option(panel: str, text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=panel)


Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT",
        help="Files of text (a text a line), CSV, TSV, JSONL or Parquet, also compressed; folders of text and "
        "Markdown files (each one text); or - for standard input.",
    ),
]

_PANEL = "Inputs"
Column = Annotated[
    str | None,
    _option(
        _PANEL,
        "The column of the texts, in JSONL also as outer.inner. Without it: the only one that holds text, or the one "
        "named text or content.",
    ),
]
InputFormat = Annotated[
    Literal["text", "document", "csv", "tsv", "jsonl", "parquet"] | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help="Format of the inputs, where their names do not say: text, document, csv, tsv, jsonl or parquet.",
        rich_help_panel=_PANEL,
    ),
]
Encoding = Annotated[str, _option(_PANEL, "Of text, CSV, TSV and JSONL.")]
Delimiter = Annotated[
    str | None,
    _option(
        _PANEL,
        "What separates the fields of CSV and TSV: one character, or tab. Without it what the first line names "
        "(sep=;), else a comma, in TSV a tab.",
    ),
]
NoQuotes = Annotated[
    bool, _option(_PANEL, "In CSV and TSV a quotation mark is a character like any other.", "--no-quotes")
]

_PANEL = "Output"
Out = Annotated[Path, _option(_PANEL, "What to write: .parquet, .jsonl or .npy.", "--out", "-o")]
OutputFormat = Annotated[
    Literal["parquet", "jsonl", "npy"] | None, _option(_PANEL, "Format of the output, where its name does not say.")
]
EmbeddingColumn = Annotated[str, _option(_PANEL, "The name of the vectors' column.")]
Overwrite = Annotated[bool, _option(_PANEL, "Replace an existing output, once the new one is complete.", "--overwrite")]

_PANEL = EMBEDDING
Model = Annotated[
    str,
    typer.Option(
        help="As provider:model, for instance zhipu:embedding-3.",
        rich_help_panel=EMBEDDING,
        autocompletion=complete_model,
    ),
]
Role = Annotated[
    Literal["document", "query"], _option(_PANEL, "document: what is searched. query: what is searched with.")
]

_PANEL = "Run"
OnError = Annotated[
    Literal["stop", "skip"],
    _option(_PANEL, "skip: rows that fail go to OUT.failed.jsonl with the reason, and the status is 3."),
]
Cache = Annotated[
    str | None,
    _option(
        _PANEL,
        "A file of vectors to use and to keep, or a Redis server as redis://host:6379/0. Without it "
        "OUT.vectors.sqlite, kept until the output is whole.",
    ),
]
NoCache = Annotated[bool, _option(_PANEL, "Cache no vectors: an interrupted run loses what it paid for.", "--no-cache")]
DryRun = Annotated[bool, _option(_PANEL, "Print texts, requests, tokens, cost and time; send nothing.", "--dry-run")]
Limit = Annotated[int | None, typer.Option(min=1, help="For a trial: only the first N rows.", rich_help_panel=_PANEL)]
Quiet = Annotated[bool, _option(_PANEL, "Print errors and warnings only.", "--quiet", "-q")]


@takes_client_options(EMBEDDING, CONNECTION, RUN)
def embed(
    inputs: Inputs,
    out: Out,
    model: Model,
    column: Column = None,
    form: InputFormat = None,
    encoding: Encoding = "utf-8",
    delimiter: Delimiter = None,
    no_quotes: NoQuotes = False,
    output_format: OutputFormat = None,
    embedding_column: EmbeddingColumn = "embedding",
    overwrite: Overwrite = False,
    role: Role = "document",
    on_error: OnError = "stop",
    cache: Cache = None,
    no_cache: NoCache = False,
    dry_run: DryRun = False,
    limit: Limit = None,
    quiet: Quiet = False,
    log_level: LogLevel = None,
    **client: Any,
) -> int:
    """Embed files of texts into Parquet, JSONL or .npy: whole or not at all, and resumed when run again.

    Keys come from the environment. Run the same command again after an interruption: what was paid for is kept.
    """
    given = {name: value for name, value in locals().items() if name != "log_level"}  # no other name is bound yet
    from multiembed.cli.run_embed import run

    return run(JobOptions(**given))
