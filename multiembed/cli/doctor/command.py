"""The command `multiembed doctor` and its options."""

from __future__ import annotations

import json as json_module
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from multiembed import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console

    from multiembed.cli.doctor.setup import Setup

_Text = Optional[str]  # noqa: UP045 - typer on Python 3.11 reads this form everywhere


def command(console: Console, saying_why: Callable[[Callable[[], None]], None]) -> Callable[..., None]:
    """Build the command.

    Args:
        console: where findings are printed.
        saying_why: runs a function and ends the program with a sentence where the command is used wrongly.
    """

    def doctor(
        provider: Annotated[
            _Text, typer.Argument(help="Only this one, as provider or provider:model; without it, all that have a key.")
        ] = None,
        model: Annotated[_Text, typer.Option(help="The model to call, instead of the provider's first.")] = None,
        base_url: Annotated[_Text, typer.Option(help="Where to send, instead of the provider's own address.")] = None,
        region: Annotated[
            _Text, typer.Option(help="The provider's own word for one of its addresses: cn, intl, hk.")
        ] = None,
        auth_header: Annotated[
            _Text, typer.Option(help="The header of the key, such as api-key, for openai-compatible and gateway.")
        ] = None,
        timeout: Annotated[float, typer.Option(help="Seconds for each call.")] = 20.0,
        try_regions: Annotated[
            bool,
            typer.Option("--try-regions", help="Send a key that is refused to the provider's other regions, too."),
        ] = False,
        json: Annotated[bool, typer.Option("--json", help="As JSON, for bug reports; it holds no secrets.")] = False,
    ) -> None:
        """Check key, address and proxy settings, and make a real call of one short text.

        Where the API keeps queries and documents apart, a query is sent, too. The calls cost a few tokens. Keys are
        never shown. Ends with status 1 when something does not work.
        """
        well: list[bool] = []
        options = {"base_url": base_url, "region": region, "auth_header": auth_header}
        check = partial(run, console, provider, model, options, timeout, try_regions=try_regions, as_json=json)
        saying_why(lambda: well.append(check()))
        if not all(well):
            raise typer.Exit(1)

    return doctor


def run(
    console: Console,
    provider: str | None,
    model: str | None,
    options: Mapping[str, str | None],
    timeout: float,
    *,
    try_regions: bool,
    as_json: bool,
) -> bool:
    """Check one provider or all, and print the findings.

    Returns:
        True if nothing failed.

    Raises:
        ConfigurationError: the command's options cannot work.
    """
    from multiembed.cli.doctor import checks, report, setup

    if not 0 < timeout < float("inf"):
        raise ConfigurationError("--timeout is a number of seconds above 0.")
    if try_regions and options["base_url"]:
        raise ConfigurationError("--try-regions and --base-url do not go together: an own address has no regions.")
    if provider is None:
        if model is not None or any(value is not None for value in options.values()):
            raise ConfigurationError(
                "--model, --base-url, --region and --auth-header need a provider: multiembed doctor PROVIDER."
            )
        every = setup.all_setups()
        chosen = [each for each in every if each.is_configured]
        missing = {each.provider.id: setup.missing_key(each) for each in every if each not in chosen}
    else:
        chosen, missing = [_chosen(provider, model, options)], {}
    if not as_json:
        report.show_versions(console)
    results = {}
    for each in chosen:
        with console.status(f"{each.provider.id} …") if console.is_terminal and not as_json else nullcontext():
            results[each] = list(checks.check(each, timeout, try_regions=try_regions))
        if not as_json:
            report.show(console, each, results[each])
    if as_json:
        console.print_json(json_module.dumps(report.as_json(results, missing), ensure_ascii=False))
    else:
        report.show_missing(console, missing, none_configured=not any(each.provider.key_env for each in chosen))
        report.show_verdict(console, results)
    return all(map(report.is_well, results.values()))


def _chosen(provider: str, model: str | None, options: Mapping[str, str | None]) -> Setup:
    """The named provider; the options of the command are checked now."""
    from multiembed.cli.doctor import setup

    name, _, inline = provider.partition(":")
    if inline and model not in (None, inline):
        raise ConfigurationError(f"Give the model once: {provider!r} and --model name two.")
    chosen = setup.setup_of(name, model or inline or None, options)
    if chosen.model is None:
        raise ConfigurationError(f"{chosen.provider.title} has no first model: name one with --model.")
    if any(options.values()):
        chosen.client(api_key="unused")
    return chosen
