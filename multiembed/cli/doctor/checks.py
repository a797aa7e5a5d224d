"""The checks of one provider: its configuration first, then a real call of one short text."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from multiembed import AuthenticationError, ConfigurationError, MultiEmbedError
from multiembed.cli.doctor.advice import advise
from multiembed.cli.doctor.setup import Finding, check_address, check_setup, missing_key, without_key
from multiembed.cli.messages import in_command_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiembed import EmbeddingClient, Usage
    from multiembed.cli.doctor.setup import Setup

_DETAIL = re.compile(r"(?<=[.]) \((.+)\)$", re.DOTALL)
"""The cause, after the advice in the message of an error that is not the provider's."""
_TAG = re.compile(r"<[^>]*>")
_REFUSED = AuthenticationError.__name__


def check(setup: Setup, timeout: float, *, try_regions: bool) -> Iterator[Finding]:
    """Check a provider, with `timeout` seconds for each call. No call is made after a failed check.

    A key that is refused is sent to the provider's other regions only with `try_regions`.
    """
    try:
        client = setup.client(timeout=timeout, max_retries=0)
    except ConfigurationError as error:
        yield from _misconfigured(setup, error)
        return
    with client:
        findings = check_setup(setup, client) if setup.provider.key_env else []
        yield from findings
        if any(finding.state == "fail" for finding in findings):
            yield _no_call("because of the above")
        elif setup.model is None:
            yield _no_call(f"name a model, as in `multiembed doctor {setup.provider.id} --model NAME`")
        else:
            yield from _check_calls(setup, client, timeout, try_regions=try_regions)


def _misconfigured(setup: Setup, error: ConfigurationError) -> Iterator[Finding]:
    """The findings where no client can be made: because of the key, or of something else."""
    try:
        address = check_address(setup, setup.client(api_key="unused"))
    except ConfigurationError as other:
        yield Finding("setup", "fail", in_command_words(other.message))
    else:
        missing = setup.provider.key_required and not setup.is_configured
        yield missing_key(setup) if missing else Finding("key", "fail", in_command_words(error.message))
        yield address
    yield _no_call("because of the above")


def _no_call(why: str) -> Finding:
    return Finding("call", "skip", f"not made: {why}")


def _check_calls(setup: Setup, client: EmbeddingClient, timeout: float, *, try_regions: bool) -> Iterator[Finding]:
    """Call once; where the API keeps queries and documents apart, call for a query, too."""
    call = _call("call", setup, client, "document")
    if try_regions and call.facts.get("error") == _REFUSED and setup.region(client):
        yield replace(call, advice="")
        yield _check_regions(setup, client, timeout)
        return
    yield call
    if call.state == "ok" and client.target.model.role_parameter:
        yield _call("query", setup, client, "query")
    if call.state == "ok" and setup.provider.key_env:
        yield _cost(client.usage)


def _call(name: str, setup: Setup, client: EmbeddingClient, role: Literal["document", "query"]) -> Finding:
    started = time.perf_counter()
    try:
        dimensions = client.embed(["hello"], role).vectors.shape[1]
    except MultiEmbedError as error:
        return _failure(name, setup, client, error)
    seconds = time.perf_counter() - started
    says = f"{dimensions:,} dimensions, {1000 * seconds:,.{0 if seconds >= 0.01 else 1}f} ms"
    says += ", with a new connection" if role == "document" and setup.provider.key_env else ""
    return Finding(name, "ok", says, facts={"dimensions": dimensions, "seconds": seconds})


def _failure(name: str, setup: Setup, client: EmbeddingClient, error: MultiEmbedError) -> Finding:
    """The finding for an error of a call."""
    key = client.target.key.get() if client.target.key else ""
    facts = {
        "error": type(error).__name__,
        "status": error.status,
        "code": without_key(key, error.code or ""),
        "request_id": without_key(key, error.request_id or ""),
        "retry_after": error.retry_after,
        "reason": error.reason,
    }
    known = {what: value for what, value in facts.items() if value not in (None, "")}
    shown = ", ".join(f"{what} {known[what]}" for what in ("status", "code", "request_id") if what in known)
    says = f"{type(error).__name__}{f' ({shown})' if shown else ''}"
    message = in_command_words(error.message)
    if error.provider_message:
        says += f". The provider said: {_plain(key, error.provider_message)!r}"
    elif detail := _DETAIL.search(message):
        says, message = f"{says}: {_plain(key, detail[1])}", message[: detail.start()]
    return Finding(name, "fail", says, advise(error, without_key(key, message), setup, client), known)


def _plain(key: str, text: str) -> str:
    """A server's text without the key, and of an HTML page only its text."""
    text = _TAG.sub(" ", text.replace("\\n", " ")) if "<html" in text.lower() else text
    return without_key(key, " ".join(text.split()))


def _check_regions(setup: Setup, client: EmbeddingClient, timeout: float) -> Finding:
    """Send the key to the other regions."""
    results: dict[str, str] = {}
    for region in setup.provider.regions:
        if region != setup.region(client):
            with setup.client(timeout=timeout, max_retries=0, region=region) as client:
                error = _call("call", setup, client, "document").facts.get("error", "good")
            results[region] = "refused" if error == _REFUSED else str(error)
    says = ", ".join(f"{region}: {result}" for region, result in results.items())
    good = next((region for region, result in results.items() if result == "good"), None)
    if good is None:
        advice = f"The key is good in no region that could be called. Get another one at {setup.provider.key_page}."
        return Finding("regions", "fail", says, advice, results)
    advice = f"The key belongs to {good}: use --region {good} here, and the option region in code."
    return Finding("regions", "warn", says, advice, results)


def _cost(usage: Usage) -> Finding:
    tokens = "unknown" if usage.total_tokens is None else f"{usage.total_tokens:,}"
    cost = "price unknown" if usage.cost is None else f"{usage.cost:.8f}".rstrip("0") + " CNY" if usage.cost else "free"
    facts = {"requests": usage.requests, "tokens": usage.total_tokens, "cost_cny": usage.cost}
    return Finding("cost", "ok", f"requests {usage.requests}, tokens {tokens}, {cost}", facts=facts)
