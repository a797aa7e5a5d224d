"""Run of `multiembed embed`: reads, embeds, writes, and caches paid vectors so that the next run can resume."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from multiembed import ConfigurationError, EmbeddingClient
from multiembed.cli.console import errors, print_plain
from multiembed.cli.estimate_run import estimate_run
from multiembed.cli.interrupts import INTERRUPTED, Interrupts
from multiembed.cli.progress import ProgressMeter, Spinner
from multiembed.cli.row_stream import embed_chunks
from multiembed.cli.side_files import SideFile, remove_cache
from multiembed.cli.summary import print_estimate, print_result, print_resume
from multiembed.files import InputError, Inputs, Output, check_place, open_output, output_format

if TYPE_CHECKING:
    from collections.abc import Iterable

    from multiembed.cli.job_options import JobOptions
    from multiembed.files import Survey

ROWS_LEFT_OUT = 3
"""Exit status when rows were left out."""
_MAX_DRAIN = 10.0
"""Seconds that an interrupted run waits for responses to requests in flight, which are paid for."""
_POLL_INTERVAL = 0.05
"""Seconds between two checks for a second Ctrl-C."""


@dataclass(slots=True)
class _Run:
    options: JobOptions
    interrupts: Interrupts
    client: EmbeddingClient | None = None
    locked: bool = False
    """Whether no other run can use the output and its own cache."""

    def print_resume(self, ending: str) -> None:
        print_resume(self.options, self.client, ending, locked=self.locked)


def run(options: JobOptions) -> int:
    """Embed, or print an estimate. Returns the exit status.

    Raises:
        MultiEmbedError: the run failed; no output was written.
    """
    form = output_format(options.out, options.output_format)
    _check_paths(options)
    with Interrupts() as interrupts:
        current = _Run(options, interrupts)
        try:
            client = current.client = _client(options)
            with _inputs(options) as inputs:
                survey = _survey(inputs, options, columns=form == "parquet" and not options.dry_run)
                interrupts.check()
                if options.dry_run:
                    return _print_estimate(options, client, inputs, survey)
                return _embed(current, client, inputs, survey, form)
        except KeyboardInterrupt:
            if current.client is not None:
                _wait_for_responses(current.client, interrupts)
            current.print_resume("Interrupted.")
            return INTERRUPTED
        except BaseException:
            if current.client is not None and current.client.stats.texts:
                current.print_resume("Stopped.")
            raise
        finally:
            if current.client is not None:
                current.client.close()


def _check_paths(options: JobOptions) -> None:
    if options.cache is not None:
        if options.no_cache:
            raise ConfigurationError("--cache and --no-cache do not go together.")
        if not options.has_cache_url and os.path.realpath(options.cache) in map(
            os.path.realpath, (options.out, options.failed)
        ):
            raise ConfigurationError(f"{options.cache} is the output, too: name another --cache.")
    if not options.dry_run:
        check_place(options.out, overwrite=options.overwrite)
        check_place(options.failed, overwrite=options.overwrite)


def _client(options: JobOptions) -> EmbeddingClient:
    given, vectors = dict(options.client), options.vectors
    if vectors is not None and not (options.dry_run and not vectors.exists()):
        given["cache"] = str(vectors)
    elif options.has_cache_url:
        given["cache"] = options.cache
    if options.dry_run:
        given["api_key"] = "not-needed"  # an estimate needs no key
    return EmbeddingClient(options.model, **given)


def _inputs(options: JobOptions) -> Inputs:
    return Inputs(
        options.inputs,
        stdin=None if sys.stdin is None else sys.stdin.buffer,
        spool=options.out.parent if options.out.parent.is_dir() else None,
        column=options.column,
        form=options.form,
        encoding=options.encoding,
        delimiter=options.delimiter,
        quoted=not options.no_quotes,
        limit=options.limit,
    )


def _survey(inputs: Inputs, options: JobOptions, *, columns: bool) -> Survey:
    """Read the inputs once, and check that they can be embedded."""
    for path in inputs.paths:
        for written in (options.out, options.failed):
            if written.exists() and path.samefile(written):
                raise ConfigurationError(f"{written} is an input, too, and would be replaced: name another output.")
        if options.vectors is not None and options.vectors.exists() and path.samefile(options.vectors):
            raise ConfigurationError(f"{options.vectors} is the cache, too, which SQLite alone may open: name another.")
    with Spinner(errors, "Reading", quiet=options.quiet) as spinner:
        survey = inputs.survey(columns=columns, seen=spinner.update)
    if not survey.rows:
        raise InputError("There is nothing to embed: the inputs hold no row.")
    if survey.faults == survey.rows or (survey.faults and not options.skip):
        rows = [f"{survey.faults:,} of {survey.rows:,} rows cannot be embedded; nothing was sent.", *survey.named]
        if survey.faults > len(survey.named):
            rows.append(f"… and {survey.faults - len(survey.named):,} more")
        hint = "" if options.skip else "\nCorrect them, or leave them out with --on-error skip."
        raise InputError("\n  ".join(rows) + hint)
    for column in survey.columns:
        if column.type is None:
            print_plain(
                errors,
                f"The values of the column {column.name!r} have no type in common that Parquet can hold: they are "
                "written as text, lists and objects as JSON.",
            )
    return survey


def _embed(run: _Run, client: EmbeddingClient, inputs: Inputs, survey: Survey, form: str) -> int:
    started = time.monotonic()
    options, interrupts = run.options, run.interrupts
    if options.vectors is not None and options.vectors.is_file() and not options.quiet:
        print_plain(errors, f"Resuming with the vectors in {options.vectors}.")
    with ExitStack() as files:
        with interrupts.deferred():  # a signal between opening and entering would leave a file behind
            output = files.enter_context(_output(options, client, survey, form))
            side = files.enter_context(SideFile(options.failed, overwrite=options.overwrite))
            run.locked = True
        done = 0
        with ProgressMeter(errors, survey.rows, lambda: client.stats, quiet=options.quiet) as meter:
            for embedded in embed_chunks(client, inputs.chunks(whole=form != "npy"), options.role):
                interrupts.check()
                if embedded.failures and not options.skip:
                    raise embedded.first_failure()
                output.write(embedded.chunk, embedded.vectors, embedded.kept)
                side.write(embedded, done)
                done += len(embedded.chunk)
                meter.add_unsent(embedded.unsent)
        if done != survey.rows:
            raise InputError(f"The inputs had {survey.rows:,} rows at first, and then {done:,}: run again.")
        if not output.rows:
            raise side.first or InputError("No row could be embedded.")
        side.prepare()
        output.prepare()
        interrupts.check()
        interrupts.defer()  # the run is done: a message that nothing was written would be wrong
        side.place()
        output.place()
    with suppress(OSError):  # the output is complete, even if that cannot be printed
        client.close()
        if not side.failures and options.cache is None and options.vectors is not None:
            remove_cache(options.vectors)
        if not options.quiet:
            print_result(options, client.stats, output.rows, side, time.monotonic() - started)
    return ROWS_LEFT_OUT if side.rows else 0


def _output(options: JobOptions, client: EmbeddingClient, survey: Survey, form: str) -> Output:
    return open_output(
        options.out,
        form,
        columns=survey.columns,
        names=survey.names,
        name=options.embedding_column,
        facts={"model": client.target.name, "role": options.role, "fingerprint": client.fingerprint(options.role)},
        overwrite=options.overwrite,
    )


def _wait_for_responses(client: EmbeddingClient, interrupts: Interrupts) -> None:
    """Wait for requests in flight, so that they are not paid for again."""
    deadline = time.monotonic() + _MAX_DRAIN
    if client.pending:
        errors.print("Waiting for the last responses; a second Ctrl-C ends at once.", highlight=False)
    while client.pending and interrupts.count <= 1 and time.monotonic() < deadline:
        time.sleep(_POLL_INTERVAL)
    client.close()  # otherwise the log of the cache file could stay


def _print_estimate(options: JobOptions, client: EmbeddingClient, inputs: Inputs, survey: Survey) -> int:
    with Spinner(errors, "Counting", quiet=options.quiet) as spinner:
        texts = _counted_texts(inputs, spinner)
        estimate = estimate_run(client, texts, options)
    print_estimate(estimate, options, left_out=survey.faults)
    return 0


def _counted_texts(inputs: Inputs, spinner: Spinner) -> Iterable[str]:
    done = 0
    for chunk in inputs.chunks(whole=False):
        yield from (text for row, text in enumerate(chunk.texts) if row not in chunk.faults)
        done += len(chunk)
        spinner.update(done)
