"""One provider examined: what is looked at, in which order, and what is left out after a failure."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from multiembed import ConfigurationError, EmbeddingClient, catalog
from multiembed.cli.checkup import call, host, key
from multiembed.cli.checkup.findings import Finding, Patient, without

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiembed import EmbeddingOptionsDict

# A gateway stands in no catalog, for it has no models of its own. The address is never used: it only lets a client be
# made, which knows its provider.
_GATEWAY = "gateway"
_NOWHERE: EmbeddingOptionsDict = {"api_key": "unused", "base_url": "https://unused.invalid"}


def providers() -> list[str]:
    """The ids of all providers: those of the catalog, the gateway before the one that needs no network."""
    ids = list(dict.fromkeys(owner.id for owner, _ in catalog()))
    return [*ids[:-1], _GATEWAY, ids[-1]]


def patient(
    provider: str, model: str | None = None, *, base_url: str | None = None, region: str | None = None
) -> Patient:
    """A provider with what the user said of it.

    Raises:
        ConfigurationError: there is no such provider.
    """
    remote: EmbeddingOptionsDict = {} if provider == "local" else _NOWHERE
    facts = EmbeddingClient(f"{provider}:any", **remote).target.provider
    models = tuple(known.name for owner, known in catalog() if owner.id == facts.id)
    return Patient(
        id=facts.id,
        title=facts.title,
        key_variables=facts.key_env,
        key_page=facts.key_page,
        regions=facts.regions,
        models=models,
        model=model or next(iter(models), None),
        base_url=base_url,
        region=region,
        own_address=bool(base_url) or not facts.regions,
    )


def address(who: Patient) -> tuple[str, str]:
    """Where requests go: as base_url takes it, and the whole URL.

    Raises:
        ConfigurationError: the address or the region is none.
    """
    remote: EmbeddingOptionsDict = (
        {"api_key": "unused", "base_url": who.base_url, "region": who.region} if who.key_variables else {}
    )
    target = EmbeddingClient(f"{who.id}:{who.model or 'any'}", **remote).target
    return target.base_url, target.url


def has_key(who: Patient) -> bool:
    """Whether there is a key, or none is needed."""
    return not who.key_variables or key.find(who, os.environ) is not None


def no_key(who: Patient) -> Finding:
    """What to say when there is none."""
    others = {name for each in providers() for name in patient(each).key_variables}
    return key.missing(who, os.environ, others)


def examine(who: Patient, timeout: float, *, try_regions: bool) -> Iterator[Finding]:
    """Look at the key, the address, the way there, and make calls; what cannot go well any more is left out."""
    if not who.key_variables:
        yield from call.look(who, "", timeout, try_regions=False)
        return
    found = key.find(who, os.environ)
    if found is None:
        look = no_key(who)
        yield look
    else:
        variable, _ = found
        look = key.judge(who, variable, os.environ[variable], os.environ)
        yield look
    secret = found[1] if found else ""
    fine = look.state != "fail"
    try:
        base, url = address(who)
    except ConfigurationError as error:
        yield Finding(name="address", state="fail", says=without(secret, error.message))
        return
    region = f" (region {who.at})" if who.at else ""
    yield Finding(name="address", state="ok", says=without(secret, base) + region, facts={"region": who.at or None})
    for step in host.look(url, timeout, own=who.own_address):
        fine = fine and step.state != "fail"
        yield step
    if not fine:
        yield Finding(name="call", state="skip", says="not made, because of the above")
    elif who.model is None:
        says = f"not made: name a model, as in `multiembed doctor {who.id} --model NAME`"
        yield Finding(name="call", state="skip", says=says)
    else:
        yield from call.look(who, secret, timeout, try_regions=try_regions)
