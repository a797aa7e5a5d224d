"""`multiembed embed`: its options. What it does stands in `ingest`."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - typer reads it
from typing import TYPE_CHECKING, Annotated, Any, Literal, Optional

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

_INPUT, _OUTPUT, _MODEL, _RUN = "Inputs", "Output", "Embedding", "Run"


def _option(panel: str, words: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=words, rich_help_panel=panel, **more)


def command(console: Console, saying_why: Callable[[Callable[[], None]], None]) -> Callable[..., None]:
    """The command, which tells what it did on a console and ends with a sentence when it cannot."""

    def embed(
        inputs: Annotated[
            list[str],
            typer.Argument(
                metavar="INPUT",
                help="Files of text (a text a line), CSV, TSV, JSONL or Parquet, also compressed; folders of text and "
                "Markdown files (each one text); or - for standard input.",
            ),
        ],
        out: Annotated[Path, _option(_OUTPUT, "What to write: .parquet, .jsonl or .npy.", "--out", "-o")],
        model: Annotated[str, _option(_MODEL, "As provider:model, for instance dashscope:text-embedding-v4.")],
        column: Annotated[
            Optional[str],  # noqa: UP045 - typer on Python 3.11 reads this form everywhere
            _option(
                _INPUT,
                "The column of the texts, in JSONL also as outer.inner. Without it: the only one that holds text, or "
                "the one named text or content.",
            ),
        ] = None,
        form: Annotated[
            Optional[Literal["text", "document", "csv", "tsv", "jsonl", "parquet"]],  # noqa: UP045
            _option(_INPUT, "What the inputs are, where their names do not tell.", "--format"),
        ] = None,
        encoding: Annotated[str, _option(_INPUT, "Of text, CSV, TSV and JSONL.")] = "utf-8",
        delimiter: Annotated[
            Optional[str],  # noqa: UP045
            _option(
                _INPUT,
                "What separates the fields of CSV and TSV: one character, or tab. Without it what the first line names "
                "(sep=;), else a comma, in TSV a tab.",
            ),
        ] = None,
        no_quotes: Annotated[
            bool, _option(_INPUT, "In CSV and TSV a quotation mark is a character like any other.", "--no-quotes")
        ] = False,
        output_format: Annotated[
            Optional[Literal["parquet", "jsonl", "npy"]],  # noqa: UP045
            _option(_OUTPUT, "What to write, where the name does not tell."),
        ] = None,
        embedding_column: Annotated[str, _option(_OUTPUT, "The name of the vectors' column.")] = "embedding",
        overwrite: Annotated[
            bool, _option(_OUTPUT, "Replace the output if it is there, once the new one is whole.", "--overwrite")
        ] = False,
        role: Annotated[
            Literal["document", "query"],
            _option(_MODEL, "document: what is searched. query: what is searched with."),
        ] = "document",
        dimensions: Annotated[
            Optional[int],  # noqa: UP045
            _option(_MODEL, "Numbers in a vector; without it the model's default."),
        ] = None,
        instruct: Annotated[Optional[str], _option(_MODEL, "What queries are for, in a sentence.")] = None,  # noqa: UP045
        query_prefix: Annotated[
            Optional[str],  # noqa: UP045
            _option(_MODEL, 'Text put before each query; "recommended" takes the one its authors recommend.'),
        ] = None,
        document_prefix: Annotated[Optional[str], _option(_MODEL, "Text put before each document.")] = None,  # noqa: UP045
        on_too_long: Annotated[
            Literal["error", "truncate", "split"],
            _option(_MODEL, "What becomes of a text that is longer than the model takes."),
        ] = "error",
        base_url: Annotated[
            Optional[str],  # noqa: UP045
            _option(_MODEL, "Where to send, instead of the provider's own address."),
        ] = None,
        region: Annotated[
            Optional[str],  # noqa: UP045
            _option(_MODEL, "The provider's own word for one of its addresses: cn, intl, hk."),
        ] = None,
        auth_header: Annotated[
            Optional[str],  # noqa: UP045
            _option(_MODEL, "The header of the key, such as api-key, for openai-compatible and gateway."),
        ] = None,
        allow_insecure: Annotated[
            bool,
            _option(
                _MODEL,
                "Allow an http:// address beyond this machine: key and texts travel unencrypted.",
                "--allow-insecure",
            ),
        ] = False,
        max_concurrency: Annotated[
            Optional[int],  # noqa: UP045
            _option(_RUN, "The most requests in flight; without it learned."),
        ] = None,
        requests_per_minute: Annotated[
            Optional[int],  # noqa: UP045
            _option(_RUN, "The account's quota of requests; without it learned."),
        ] = None,
        tokens_per_minute: Annotated[
            Optional[int],  # noqa: UP045
            _option(_RUN, "The account's quota of tokens; without it learned."),
        ] = None,
        max_retries: Annotated[
            Optional[int],  # noqa: UP045
            _option(_RUN, "How often a request is sent again after a failure that may pass."),
        ] = None,
        timeout: Annotated[Optional[float], _option(_RUN, "Seconds for one attempt.")] = None,  # noqa: UP045
        on_error: Annotated[
            Literal["stop", "skip"],
            _option(_RUN, "skip: rows that fail go to OUT.failed.jsonl with the reason, and the status is 3."),
        ] = "stop",
        cache: Annotated[
            Optional[Path],  # noqa: UP045
            _option(
                _RUN,
                "A file of vectors to use and to keep. Without it OUT.vectors.sqlite, kept until the output is whole.",
            ),
        ] = None,
        no_cache: Annotated[
            bool, _option(_RUN, "Keep no vectors: what an interrupted run has paid for is lost.", "--no-cache")
        ] = False,
        dry_run: Annotated[
            bool, _option(_RUN, "Tell texts, requests, tokens, money and time; send nothing.", "--dry-run")
        ] = False,
    ) -> None:
        """Embed files of texts into Parquet, JSONL or .npy: whole or not at all, and resumed when run again.

        Keys come from the environment. The status says how it ended:

        0: all is written. 1: the provider or the disk failed. 2: the options or the inputs are wrong.

        3: written without the rows that failed. 130: interrupted.
        """
        options = {
            "dimensions": dimensions,
            "instruct": instruct,
            "query_prefix": query_prefix,
            "document_prefix": document_prefix,
            "on_too_long": on_too_long,
            "base_url": base_url,
            "region": region,
            "auth_header": auth_header,
            "allow_insecure": allow_insecure or None,
            "max_concurrency": max_concurrency,
            "requests_per_minute": requests_per_minute,
            "tokens_per_minute": tokens_per_minute,
            "max_retries": max_retries,
            "timeout": timeout,
        }

        def ingest() -> None:
            from multiembed.cli.job_options import Order
            from multiembed.cli.run_embed import run

            order = Order(
                inputs=inputs,
                out=out,
                model=model,
                role=role,
                options={name: value for name, value in options.items() if value is not None},
                reading={
                    "column": column,
                    "form": form,
                    "encoding": encoding,
                    "delimiter": delimiter,
                    "quoted": not no_quotes,
                },
                form=output_format,
                name=embedding_column,
                overwrite=overwrite,
                skip=on_error == "skip",
                cache=cache,
                keeps=not no_cache,
            )
            status.append(run(console, order, dry=dry_run))

        status: list[int] = []
        saying_why(ingest)
        if any(status):
            raise typer.Exit(status[0])

    return embed
