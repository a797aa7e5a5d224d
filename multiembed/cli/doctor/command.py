"""The command `multiembed doctor` and its options."""

from __future__ import annotations

import json as json_module
from contextlib import nullcontext
from typing import Annotated

import typer

from multiembed import ConfigurationError
from multiembed.cli.console import console, reports_errors
from multiembed.cli.models import choose_model

Provider = Annotated[str | None, typer.Argument(help="Only this one, as provider or provider:model.")]
Model = Annotated[str | None, typer.Option(help="The model to call, instead of the provider's first.")]
BaseUrl = Annotated[str | None, typer.Option(help="Where to send, instead of the provider's own address.")]
Region = Annotated[str | None, typer.Option(help="The provider's own name for one of its addresses: cn, intl, hk.")]
AuthHeader = Annotated[
    str | None, typer.Option(help="The header of the key, such as api-key, for openai-compatible and gateway.")
]
TryRegions = Annotated[
    bool, typer.Option("--try-regions", help="Send a key that is refused to the provider's other regions, too.")
]


@reports_errors
def doctor(
    provider: Provider = None,
    model: Model = None,
    base_url: BaseUrl = None,
    region: Region = None,
    auth_header: AuthHeader = None,
    timeout: Annotated[float, typer.Option(help="Seconds for each call.")] = 20.0,
    try_regions: TryRegions = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON, for bug reports; it holds no secrets.")] = False,
) -> int:
    """Check key, address and proxy settings, and make a real call of one short text.

    Where the API keeps queries and documents apart, a query is sent, too.

    The calls cost a few tokens. Keys are never shown. Status 1: a check failed.
    """
    from multiembed.cli.doctor import checks, report, setup

    if not 0 < timeout < float("inf"):
        raise ConfigurationError("--timeout is a number of seconds above 0.")
    if try_regions and base_url:
        raise ConfigurationError("--try-regions and --base-url do not go together: an own address has no regions.")
    options = {"base_url": base_url, "region": region, "auth_header": auth_header}
    if provider is not None:
        name, chosen_model = choose_model(provider, model)
        chosen, missing = [setup.setup_of(name, chosen_model, options)], {}
        if any(options.values()):  # checks them
            chosen[0].client(api_key="unused")
    elif any(value is not None for value in (model, *options.values())):
        raise ConfigurationError("--model, --base-url, --region and --auth-header need a provider: doctor PROVIDER.")
    else:
        every = setup.all_setups()
        chosen = [each for each in every if each.is_configured]
        missing = {each.provider.id: setup.missing_key(each) for each in every if each not in chosen}
    if not json:
        console.print(", ".join(map(" ".join, report.versions().items())), style="dim", highlight=False)
        console.print("Each provider that has a key gets a call of one short text, which costs next to nothing.\n")
    results = {}
    for each in chosen:
        with console.status(f"{each.provider.id} …") if console.is_terminal and not json else nullcontext():
            results[each] = list(checks.check(each, timeout, try_regions=try_regions))
        if not json:
            report.show(console, each, results[each])
    if json:
        console.print_json(json_module.dumps(report.as_json(results, missing), ensure_ascii=False))
    else:
        report.show_summary(console, results, missing)
    return int(any(map(report.failed_check, results.values())))
