"""`multiembed embed`: its options. `run_embed` implements it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from multiembed.cli.console import reports_errors
from multiembed.cli.job_options import CLIENT_OPTIONS, JobOptions


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
    _option(_PANEL, "Format of the inputs, where their names do not say.", "--format"),
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

_PANEL = "Embedding"
Model = Annotated[str, _option(_PANEL, "As provider:model, for instance zhipu:embedding-3.")]
Role = Annotated[
    Literal["document", "query"], _option(_PANEL, "document: what is searched. query: what is searched with.")
]
Dimensions = Annotated[int | None, _option(_PANEL, "Numbers in a vector; without it the model's default.")]
Instruct = Annotated[str | None, _option(_PANEL, "What queries are for, in a sentence.")]
QueryPrefix = Annotated[
    str | None, _option(_PANEL, 'Text put before each query; "recommended" takes the one its authors recommend.')
]
DocumentPrefix = Annotated[str | None, _option(_PANEL, "Text put before each document.")]
OnTooLong = Annotated[
    Literal["error", "truncate", "split"],
    _option(_PANEL, "What happens to a text that is longer than the model takes."),
]
BaseUrl = Annotated[str | None, _option(_PANEL, "Where to send, instead of the provider's own address.")]
Region = Annotated[str | None, _option(_PANEL, "The provider's own name for one of its addresses: cn, intl, hk.")]
AuthHeader = Annotated[
    str | None, _option(_PANEL, "The header of the key, such as api-key, for openai-compatible and gateway.")
]
AllowInsecure = Annotated[
    bool,
    _option(
        _PANEL, "Allow an http:// address beyond this machine: key and texts travel unencrypted.", "--allow-insecure"
    ),
]

_PANEL = "Run"
MaxConcurrency = Annotated[int | None, _option(_PANEL, "The maximum of requests in flight; without it learned.")]
Requests = Annotated[int | None, _option(_PANEL, "The account's quota of requests; without it learned.")]
Tokens = Annotated[int | None, _option(_PANEL, "The account's quota of tokens; without it learned.")]
MaxRetries = Annotated[int | None, _option(_PANEL, "How often a request is retried after a transient failure.")]
Timeout = Annotated[float | None, _option(_PANEL, "Seconds for one attempt.")]
OnError = Annotated[
    Literal["stop", "skip"],
    _option(_PANEL, "skip: rows that fail go to OUT.failed.jsonl with the reason, and the status is 3."),
]
Cache = Annotated[
    Path | None,
    _option(
        _PANEL, "A file of vectors to use and to keep. Without it OUT.vectors.sqlite, kept until the output is whole."
    ),
]
NoCache = Annotated[bool, _option(_PANEL, "Cache no vectors: an interrupted run loses what it paid for.", "--no-cache")]
DryRun = Annotated[bool, _option(_PANEL, "Print texts, requests, tokens, cost and time; send nothing.", "--dry-run")]


@reports_errors
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
    dimensions: Dimensions = None,
    instruct: Instruct = None,
    query_prefix: QueryPrefix = None,
    document_prefix: DocumentPrefix = None,
    on_too_long: OnTooLong = "error",
    base_url: BaseUrl = None,
    region: Region = None,
    auth_header: AuthHeader = None,
    allow_insecure: AllowInsecure = False,
    max_concurrency: MaxConcurrency = None,
    requests_per_minute: Requests = None,
    tokens_per_minute: Tokens = None,
    max_retries: MaxRetries = None,
    timeout: Timeout = None,
    on_error: OnError = "stop",
    cache: Cache = None,
    no_cache: NoCache = False,
    dry_run: DryRun = False,
) -> int:
    """Embed files of texts into Parquet, JSONL or .npy: whole or not at all, and resumed when run again.

    Keys come from the environment. The status says how it ended:

    0: all is written. 1: the provider or the disk failed.

    2: the options or the inputs are wrong.

    3: written without the rows that failed. 130: interrupted.
    """
    given = locals()  # the options alone: no other name is bound yet
    from multiembed.cli.run_embed import run

    client = {name: value for name in CLIENT_OPTIONS if (value := given.pop(name)) is not None and value is not False}
    return run(JobOptions(**given, client=client))
