"""What `multiembed embed` does: reads, embeds, writes, and leaves what is paid where the next run finds it."""

from __future__ import annotations

import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Console

from multiembed import ConfigurationError, EmbeddingClient
from multiembed.cli.forecast import foretell
from multiembed.cli.join import joined
from multiembed.cli.leftovers import SideFile, remove_cache
from multiembed.cli.meter import Meter, Spinner
from multiembed.cli.telling import tell_forecast, tell_result, tell_resume
from multiembed.files import InputError, Inputs, Output, check_place, open_output, output_format

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from multiembed.cli.order import Order
    from multiembed.files import Survey

WITHOUT_SOME = 3
"""The status when rows were left out."""
INTERRUPTED = 130
_FAREWELL = 10.0
"""Seconds that an interrupted run waits for answers that are paid for and on their way."""


def run(console: Console, order: Order, *, dry: bool) -> int:
    """Embed, or tell what it would take; the status to end with.

    Raises:
        MultiEmbedError: it could not be done; nothing stands at the output's place.
    """
    errors = Console(stderr=True)
    form = output_format(order.out, order.form)
    if order.cache is not None and not order.keeps:
        raise ConfigurationError("--cache and --no-cache do not go together.")
    if not dry:
        check_place(order.out, overwrite=order.overwrite)
        check_place(order.failed, overwrite=order.overwrite)
    with _interruptible(), _client(order, dry=dry) as client:
        try:
            with _inputs(order) as inputs:
                survey = _survey(errors, inputs, order, columns=form == "parquet" and not dry)
                if dry:
                    return _foretell(console, errors, client, inputs, survey, order)
                return _embed(console, errors, client, inputs, survey, order, form)
        except KeyboardInterrupt:
            _wait_for_answers(errors)
            tell_resume(errors, client, order, "Interrupted.", dry=dry)
            return INTERRUPTED
        except BaseException:
            if client.report.texts:
                tell_resume(errors, client, order, "Stopped.", dry=dry)
            raise


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
        if order.out.exists() and path.samefile(order.out):
            raise ConfigurationError(f"{order.out} is an input, too: name another output.")
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
                f"The values of the column {column.name!r} have no type in common: they are written as text, lists "
                "and objects as JSON.",
                markup=False,
                highlight=False,
            )
    return survey


def _embed(
    console: Console,
    errors: Console,
    client: EmbeddingClient,
    inputs: Inputs,
    survey: Survey,
    order: Order,
    form: str,
) -> int:
    begun = time.monotonic()
    if order.vectors is not None and order.vectors.exists():
        errors.print(
            f"Going on with what {order.vectors} knows already.", markup=False, highlight=False, soft_wrap=True
        )
    with _output(client, survey, order, form) as output, SideFile(order.failed, overwrite=order.overwrite) as side:
        with Meter(errors, survey.rows, lambda: client.report) as meter:
            done = 0
            for part in joined(client, inputs.chunks(whole=form != "npy"), order.role):
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
        side.finish()
        output.finish()
    client.close()
    if not side.failures and order.cache is None and order.vectors is not None:
        remove_cache(order.vectors)
    tell_result(console, client, order, output.rows, side, time.monotonic() - begun)
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


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait_for_answers(errors: Console) -> None:
    """Let requests that are under way come to their end, so that what they cost is not paid again."""
    until = time.monotonic() + _FAREWELL
    waiting = [thread for thread in threading.enumerate() if thread.name == "multiembed"]
    if not waiting:
        return
    errors.print("Hearing the last answers; Ctrl-C again leaves at once.", highlight=False)
    with suppress(KeyboardInterrupt):
        for thread in waiting:
            thread.join(max(0.0, until - time.monotonic()))


def _foretell(
    console: Console, errors: Console, client: EmbeddingClient, inputs: Inputs, survey: Survey, order: Order
) -> int:
    with Spinner(errors, "Counting") as spinner:
        forecast = foretell(
            client,
            _watched(inputs, spinner),
            order.role,
            shares=order.vectors is not None,
            in_flight=order.options.get("max_concurrency"),
            requests_per_minute=order.options.get("requests_per_minute"),
            tokens_per_minute=order.options.get("tokens_per_minute"),
        )
    tell_forecast(console, forecast, order.model, left_out=survey.faults)
    return 0


def _watched(inputs: Inputs, spinner: Spinner) -> Iterable[str]:
    done = 0
    for chunk in inputs.chunks(whole=False):
        yield from (text for row, text in enumerate(chunk.texts) if row not in chunk.faults)
        done += len(chunk)
        spinner.update(done)
