"""What `multiembed embed` does: reads, embeds, writes, and leaves what is paid where the next run finds it."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from multiembed import ConfigurationError, EmbeddingClient
from multiembed.cli.console import error_console
from multiembed.cli.estimate_run import foretell
from multiembed.cli.interrupts import INTERRUPTED, Interrupts
from multiembed.cli.progress import Meter, Spinner
from multiembed.cli.row_stream import joined
from multiembed.cli.side_files import SideFile, remove_cache
from multiembed.cli.summary import tell_forecast, tell_result, tell_resume
from multiembed.files import InputError, Inputs, Output, check_place, open_output, output_format

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console

    from multiembed.cli.job_options import Order
    from multiembed.files import Survey

WITHOUT_SOME = 3
"""The status when rows were left out."""
_FAREWELL = 10.0
"""Seconds that an interrupted run waits for answers that are paid for and on their way."""
_LOOK_EVERY = 0.05
"""Seconds after which it looks for a second Ctrl-C."""


def run(console: Console, order: Order, *, dry: bool) -> int:
    """Embed, or tell what it would take; the status to end with.

    Raises:
        MultiEmbedError: it could not be done; nothing stands at the output's place.
    """
    errors = error_console()
    form = output_format(order.out, order.form)
    if order.cache is not None and not order.keeps:
        raise ConfigurationError("--cache and --no-cache do not go together.")
    if order.cache is not None and os.path.realpath(order.cache) in map(os.path.realpath, (order.out, order.failed)):
        raise ConfigurationError(f"{order.cache} is the output, too: name another --cache.")
    if not dry:
        check_place(order.out, overwrite=order.overwrite)
        check_place(order.failed, overwrite=order.overwrite)
    job = _Job(console, errors, order, dry=dry)
    with Interrupts() as job.interrupts:
        try:
            client = job.client = _client(order, dry=dry)
            with _inputs(order) as inputs:
                survey = _survey(errors, inputs, order, columns=form == "parquet" and not dry)
                job.interrupts.check()
                if dry:
                    return _foretell(job, client, inputs, survey)
                return _embed(job, client, inputs, survey, form)
        except KeyboardInterrupt:
            if job.client is not None:
                _wait_for_answers(errors, job.interrupts, job.client)
            job.tell_resume("Interrupted.")
            return INTERRUPTED
        except BaseException:
            if job.client is not None and job.client.report.texts:
                job.tell_resume("Stopped.")
            raise
        finally:
            if job.client is not None:
                job.client.close()


@dataclass(slots=True)
class _Job:
    """One run of the command."""

    console: Console
    errors: Console
    order: Order
    dry: bool
    interrupts: Interrupts = field(default_factory=Interrupts)
    client: EmbeddingClient | None = None
    locked: bool = False
    """Whether the output, and with it the cache beside it, is this run's alone."""

    def tell_resume(self, what: str) -> None:
        """Say that nothing was written, and how to go on."""
        tell_resume(self.errors, self.client, self.order, what, dry=self.dry, locked=self.locked)


def _client(order: Order, *, dry: bool) -> EmbeddingClient:
    options = dict(order.options)
    vectors = order.vectors
    if vectors is not None and not (dry and not vectors.exists()):
        options["cache"] = str(vectors)
    if dry:
        options["api_key"] = "not-needed"  # an estimate is to be had before there is a key
    return EmbeddingClient(order.model, **options)


def _inputs(order: Order) -> Inputs:
    spool = order.out.parent if order.out.parent.is_dir() else None
    stdin = None if sys.stdin is None else sys.stdin.buffer
    return Inputs(order.inputs, stdin=stdin, spool=spool, **order.reading)


def _survey(errors: Console, inputs: Inputs, order: Order, *, columns: bool) -> Survey:
    """Read everything once, and see that it can be embedded."""
    for path in inputs.paths:
        for written in (order.out, order.failed):
            if written.exists() and path.samefile(written):
                raise ConfigurationError(f"{written} is an input, too, and would be replaced: name another output.")
        if order.vectors is not None and order.vectors.exists() and path.samefile(order.vectors):
            raise ConfigurationError(f"{order.vectors} is the cache, too, which SQLite alone may open: name another.")
    with Spinner(errors, "Reading") as spinner:
        survey = inputs.survey(columns=columns, seen=spinner.update)
    if not survey.rows:
        raise InputError("There is nothing to embed: the inputs hold no row.")
    if survey.faults == survey.rows or (survey.faults and not order.skip):
        more = survey.faults - len(survey.named)
        raise InputError(
            f"{survey.faults:,} of {survey.rows:,} rows cannot be embedded; nothing was sent.\n  "
            + "\n  ".join(survey.named)
            + (f"\n  … and {more:,} more" if more else "")
            + ("" if order.skip else "\nMend them, or leave them out with --on-error skip.")
        )
    for column in survey.columns:
        if column.type is None:
            errors.print(
                f"The values of the column {column.name!r} have no type in common that Parquet can hold: they are "
                "written as text, lists and objects as JSON.",
                markup=False,
                highlight=False,
            )
    return survey


def _embed(job: _Job, client: EmbeddingClient, inputs: Inputs, survey: Survey, form: str) -> int:
    begun = time.monotonic()
    order, errors = job.order, job.errors
    if order.vectors is not None and order.vectors.is_file():
        errors.print(
            f"Going on with what {order.vectors} knows already.", markup=False, highlight=False, soft_wrap=True
        )
    with ExitStack() as files:
        with job.interrupts.deferred():  # between being opened and being entered, a file would be left behind
            output = files.enter_context(_output(client, survey, order, form))
            side = files.enter_context(SideFile(order.failed, overwrite=order.overwrite))
            job.locked = True
        with Meter(errors, survey.rows, lambda: client.report) as meter:
            done = 0
            for part in joined(client, inputs.chunks(whole=form != "npy"), order.role):
                job.interrupts.check()
                if part.failures and not order.skip:
                    raise part.first_failure()
                output.write(part.chunk, part.vectors, part.kept)
                side.write(part, done)
                done += len(part.chunk)
                meter.pass_over(part.unsent)
        if done != survey.rows:
            raise InputError(f"The inputs had {survey.rows:,} rows at first, and then {done:,}: run again.")
        if not output.rows:
            raise side.first or InputError("No row could be embedded.")
        side.prepare()
        output.prepare()
        job.interrupts.check()
        job.interrupts.defer()  # from here on the run is done: a message that nothing was written would be wrong
        side.place()
        output.place()
    with suppress(OSError):  # the output is whole, even where that cannot be printed
        client.close()
        if not side.failures and order.cache is None and order.vectors is not None:
            remove_cache(order.vectors)
        tell_result(job.console, client, order, output.rows, side, time.monotonic() - begun)
    return WITHOUT_SOME if side.rows else 0


def _output(client: EmbeddingClient, survey: Survey, order: Order, form: str) -> Output:
    return open_output(
        order.out,
        form,
        columns=survey.columns,
        names=survey.names,
        name=order.name,
        facts={"model": client.target.name, "role": order.role, "fingerprint": client.fingerprint(order.role)},
        overwrite=order.overwrite,
    )


def _wait_for_answers(errors: Console, interrupts: Interrupts, client: EmbeddingClient) -> None:
    """Let requests that are under way come to their end, so that what they cost is not paid again."""
    until = time.monotonic() + _FAREWELL
    if client.pending:
        errors.print("Hearing the last answers; Ctrl-C again leaves at once.", highlight=False)
    while client.pending and interrupts.count <= 1 and time.monotonic() < until:
        time.sleep(_LOOK_EVERY)
    client.close()  # else files of SQLite could stay beside the cache


def _foretell(job: _Job, client: EmbeddingClient, inputs: Inputs, survey: Survey) -> int:
    order = job.order
    with Spinner(job.errors, "Counting") as spinner:
        forecast = foretell(
            client,
            _watched(inputs, spinner),
            order.role,
            shares=order.vectors is not None,
            in_flight=order.options.get("max_concurrency"),
            requests_per_minute=order.options.get("requests_per_minute"),
            tokens_per_minute=order.options.get("tokens_per_minute"),
        )
    tell_forecast(job.console, forecast, order.model, left_out=survey.faults)
    return 0


def _watched(inputs: Inputs, spinner: Spinner) -> Iterable[str]:
    done = 0
    for chunk in inputs.chunks(whole=False):
        yield from (text for row, text in enumerate(chunk.texts) if row not in chunk.faults)
        done += len(chunk)
        spinner.update(done)
