"""One provider examined: what is looked at, in which order, and what is left out after a failure."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from multiembed import ConfigurationError, EmbeddingClient, catalog
from multiembed.cli.checkup import call, host, key
from multiembed.cli.checkup.findings import Finding, Patient, without
from multiembed.cli.models import UNUSED, WITHOUT_MODELS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiembed import EmbeddingOptionsDict


def providers() -> list[str]:
    """The ids of all providers: those of the catalog, and those without models before the one without network."""
    ids = list(dict.fromkeys(owner.id for owner, _ in catalog()))
    return [*ids[:-1], *WITHOUT_MODELS, ids[-1]]


def patient(
    provider: str,
    model: str | None = None,
    *,
    base_url: str | None = None,
    region: str | None = None,
    auth_header: str | None = None,
) -> Patient:
    """A provider with what the user said of it.

    Raises:
        ConfigurationError: there is no such provider.
    """
    remote: EmbeddingOptionsDict = {} if provider == "local" else UNUSED
    facts = EmbeddingClient(f"{provider}:any", **remote).target.provider
    models = tuple(known.name for owner, known in catalog() if owner.id == facts.id)
    return Patient(
        id=facts.id,
        title=facts.title,
        key_variables=facts.key_env,
        key_required=facts.key_required,
        address_variables=facts.base_url_env,
        address_variable=_address_in_environment(facts.base_url_env),
        key_page=facts.key_page,
        regions=facts.regions,
        models=models,
        model=model or next(iter(models), None),
        base_url=base_url,
        region=region,
        auth_header=auth_header,
        own_address=bool(base_url)
        or not facts.regions
        or (not region and bool(_address_in_environment(facts.base_url_env))),
    )


def _address_in_environment(variables: tuple[str, ...]) -> str | None:
    """The first variable that names an address."""
    return next((name for name in variables if os.environ.get(name, "").strip()), None)


def address(who: Patient) -> str:
    """The whole URL that requests go to.

    Raises:
        ConfigurationError: the address or the region is none.
    """
    name = f"{who.id}:{who.model or 'any'}"
    client = EmbeddingClient(name, api_key="unused", **who.where) if who.key_variables else EmbeddingClient(name)
    return client.target.url


def has_key(who: Patient) -> bool:
    """Whether there is what a call needs: a key, or the address of a server that may need none."""
    without = not who.key_variables or (not who.key_required and who.address_variable is not None)
    return without or key.find(who, os.environ) is not None


def no_key(who: Patient) -> Finding:
    """What to say when there is none."""
    if not who.key_required:
        names = " or ".join(who.address_variables)
        return Finding(name="address", state="fail", says=f"none and no address: {names} is not set")
    others = {name for each in providers() for name in patient(each).key_variables}
    return key.missing(who, os.environ, others)


def examine(who: Patient, timeout: float, *, try_regions: bool) -> Iterator[Finding]:
    """Look at the key, the address, the way there, and make calls; what cannot go well any more is left out."""
    if not who.key_variables:
        yield from call.look(who, "", timeout, try_regions=False)
        return
    found = key.find(who, os.environ)
    if found is None and not who.key_required:
        look = Finding(name="key", state="ok", says="none, so requests are sent without one")
        yield look
    elif found is None:
        look = no_key(who)
        yield look
    else:
        variable, _ = found
        look = key.judge(who, variable, os.environ[variable], os.environ)
        yield look
    secret = found[1] if found else ""
    fine = look.state != "fail"
    try:
        url = address(who)
    except ConfigurationError as error:
        yield Finding(name="address", state="fail", says=without(secret, error.message))
        return
    region = f" (region {who.at})" if who.at else ""
    yield Finding(name="address", state="ok", says=without(secret, url) + region, facts={"region": who.at or None})
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
