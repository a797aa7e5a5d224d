"""`multiembed doctor`: why it does not work, and what to do; or that it works, and how fast."""

from __future__ import annotations

import json as json_module
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from multiembed import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from multiembed.cli.checkup.findings import Patient


def command(console: Console, saying_why: Callable[[Callable[[], None]], None]) -> Callable[..., None]:
    """The command, which tells what it found on a console and ends with a sentence when it is used wrongly."""

    def doctor(
        provider: Annotated[
            Optional[str],  # noqa: UP045 - typer on Python 3.11 reads this form everywhere
            typer.Argument(help="Only this one, as provider or provider:model; without it, all that have a key."),
        ] = None,
        model: Annotated[
            Optional[str],  # noqa: UP045
            typer.Option(help="The model to call, instead of the provider's first."),
        ] = None,
        base_url: Annotated[
            Optional[str],  # noqa: UP045
            typer.Option(help="Where to send, instead of the provider's own address."),
        ] = None,
        region: Annotated[
            Optional[str],  # noqa: UP045
            typer.Option(help="The provider's own word for one of its addresses: cn, intl, hk."),
        ] = None,
        auth_header: Annotated[
            Optional[str],  # noqa: UP045
            typer.Option(help="The header of the key, such as api-key, for openai-compatible and gateway."),
        ] = None,
        timeout: Annotated[float, typer.Option(help="Seconds for each step.")] = 20.0,
        try_regions: Annotated[
            bool,
            typer.Option("--try-regions", help="Send a key that is refused to the provider's other regions, too."),
        ] = False,
        json: Annotated[bool, typer.Option("--json", help="As JSON, for bug reports; it holds no secrets.")] = False,
    ) -> None:
        """Check keys, hosts and certificates, and make two real calls of one short text each.

        The calls cost next to nothing. Keys are never shown. Ends with status 1 when something does not work.
        """
        well: list[bool] = []
        options = {"model": model, "base_url": base_url, "region": region, "auth_header": auth_header}
        saying_why(
            lambda: well.append(run(console, provider, options, timeout=timeout, try_regions=try_regions, as_json=json))
        )
        if not all(well):
            raise typer.Exit(1)

    return doctor


def run(
    console: Console,
    provider: str | None,
    options: dict[str, str | None],
    *,
    timeout: float,
    try_regions: bool,
    as_json: bool,
) -> bool:
    """Examine, and print what was found. True when all that have a key are well.

    Raises:
        ConfigurationError: what was asked for makes no sense.
    """
    from multiembed.cli.checkup import examine, report

    if not 0 < timeout < float("inf"):
        raise ConfigurationError("--timeout is a number of seconds above 0.")
    if try_regions and options["base_url"]:
        raise ConfigurationError("--try-regions and --base-url do not go together: an own address has no regions.")
    if provider is None:
        if any(value is not None for value in options.values()):
            raise ConfigurationError(
                "--model, --base-url, --region and --auth-header need a provider: multiembed doctor PROVIDER."
            )
        everybody = [examine.patient(name) for name in examine.providers()]
        present = [who for who in everybody if examine.has_key(who)]
        missing = {who.id: examine.no_key(who) for who in everybody if who not in present}
    else:
        present, missing = [_chosen(provider, options)], {}
    if not as_json:
        report.show_versions(console)
    seen = {}
    for who in present:
        waiting = console.status(f"{who.id} …") if console.is_terminal and not as_json else nullcontext()
        with waiting:
            findings = list(examine.examine(who, timeout, try_regions=try_regions))
        seen[who.id] = who, findings
        if not as_json:
            report.show(console, who, findings)
    if as_json:
        console.print_json(json_module.dumps(report.as_json(seen, missing), ensure_ascii=False))
    else:
        report.show_without_key(console, missing, nobody=not any(who.key_variables for who in present))
        report.show_verdict(console, {name: findings for name, (_, findings) in seen.items()})
    return all(report.is_well(findings) for _, findings in seen.values())


def _chosen(provider: str, options: dict[str, str | None]) -> Patient:
    """The one provider, with its options checked as far as they are the user's."""
    from multiembed.cli.checkup import examine

    name, _, inline = provider.partition(":")
    model = options["model"] or inline or None
    where = {option: options[option] for option in ("base_url", "region", "auth_header")}
    who = examine.patient(name, model, **where)
    if inline and options["model"] not in (None, inline):
        raise ConfigurationError(f"Give the model once: {provider!r} and --model name two.")
    if who.model is None:
        raise ConfigurationError(f"{who.title} has no first model: name one with --model.")
    if any(where.values()):
        examine.address(who)
    return who
