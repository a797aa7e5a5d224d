"""Real calls with one short text: dimension, latency and cost, or what the provider answered instead."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from multiembed import (
    AuthenticationError,
    ConnectionFailedError,
    EmbeddingClient,
    MultiEmbedError,
)
from multiembed.cli.checkup.advice import advise
from multiembed.cli.checkup.findings import Finding, milliseconds, without

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from multiembed import Usage
    from multiembed.cli.checkup.findings import Patient

_TEXT = "hello"
_TAG = re.compile(r"<[^>]*>")
_DETAIL = re.compile(r"[.] \((.+)\)$", re.DOTALL)
"""What happened, behind an error's own advice."""


def look(patient: Patient, key: str, timeout: float, *, try_regions: bool) -> Iterator[Finding]:
    """Call twice, so that the second latency is that of a kept connection.

    Args:
        patient: whom to call.
        key: to keep it out of the provider's words; the client finds it for itself.
        timeout: seconds for each call.
        try_regions: whether a refused key may be sent to the provider's other regions.
    """
    with _client(patient, timeout, **patient.where) as client:
        try:
            first, dimensions = _embed(client)
        except MultiEmbedError as error:
            failure = _failure("call", error, patient, key)
            if isinstance(error, AuthenticationError) and try_regions and patient.other_regions:
                yield replace(failure, advice="")
                yield _elsewhere(patient, timeout)
            else:
                yield failure
            return
        says = f"{dimensions:,} dimensions, {milliseconds(first)}"
        yield Finding(name="call", state="ok", says=says, facts={"dimensions": dimensions, "seconds": first})
        yield _again(client, patient, key)
        if patient.key_variables:
            yield _bill(client.usage)


def _client(patient: Patient, timeout: float, **where: Any) -> EmbeddingClient:
    return EmbeddingClient(f"{patient.id}:{patient.model}", timeout=timeout, max_retries=0, **where)


def _embed(client: EmbeddingClient) -> tuple[float, int]:
    """Seconds, and how long the vector is."""
    begun = time.perf_counter()
    vectors = client.embed([_TEXT]).vectors
    seconds = time.perf_counter() - begun
    return seconds, vectors.shape[1]


def _again(client: EmbeddingClient, patient: Patient, key: str) -> Finding:
    try:
        seconds, _ = _embed(client)
    except ConnectionFailedError:
        says = "the connection was not kept, and broke when it was used a second time"
        advice = "The client opens another one then, so this costs time and no vectors. A proxy may be the cause."
        return Finding(name="again", state="warn", says=says, advice=advice)
    except MultiEmbedError as error:
        return _failure("again", error, patient, key)
    return Finding(
        name="again", state="ok", says=f"{milliseconds(seconds)} the second time", facts={"seconds": seconds}
    )


def _failure(name: str, error: MultiEmbedError, patient: Patient, key: str) -> Finding:
    code, request_id = (without(key, words) if words else None for words in (error.code, error.request_id))
    facts: Mapping[str, object] = {
        "error": type(error).__name__,
        "status": error.status,
        "code": code,
        "request_id": request_id,
        "retry_after": error.retry_after,
    }
    known = {what: value for what, value in facts.items() if value not in (None, "")}
    told = ", ".join(f"{what} {value}" for what, value in known.items() if what not in ("error", "retry_after"))
    says = f"{type(error).__name__}{f' ({told})' if told else ''}"
    advice = advise(error, patient, key)
    detail = _DETAIL.search(error.message)
    if error.provider_message:
        says += f". The provider said: {_plain(key, error.provider_message)!r}"
    elif detail and advice:
        says += f": {_plain(key, detail[1])}"
    elif not advice:
        says += f": {without(key, error.message)}"
    return Finding(name=name, state="fail", says=says, advice=advice, facts=known)


def _plain(key: str, words: str) -> str:
    """Words of others without the key, and of a page in HTML only what it shows."""
    if "<html" in words.lower():
        words = " ".join(_TAG.sub(" ", words.replace("\\n", " ")).split())
    return without(key, words)


def _elsewhere(patient: Patient, timeout: float) -> Finding:
    """Whether the key is good in another region. It is sent there, so the user must have asked for it."""
    outcomes: dict[str, str] = {}
    for region in patient.other_regions:
        with _client(patient, timeout, region=region) as client:
            try:
                _embed(client)
            except MultiEmbedError as error:
                outcomes[region] = "refused" if isinstance(error, AuthenticationError) else type(error).__name__
            else:
                outcomes[region] = "good"
    good = [region for region, outcome in outcomes.items() if outcome == "good"]
    advice = (
        f'The key belongs to {good[0]}: use region="{good[0]}" in code, and --region {good[0]} here.'
        if good
        else f"The key is good in no region that could be asked. Get another one at {patient.key_page}."
    )
    return Finding(
        name="regions",
        state="warn" if good else "fail",
        says=", ".join(f"{region}: {outcome}" for region, outcome in outcomes.items()),
        advice=advice,
        facts=outcomes,
    )


def _bill(usage: Usage) -> Finding:
    tokens = "tokens unknown" if usage.total_tokens is None else _count(usage.total_tokens, "token")
    cost = "price unknown" if usage.cost is None else f"{usage.cost:.8f}".rstrip("0") + " CNY" if usage.cost else "free"
    return Finding(
        name="cost",
        state="ok",
        says=f"{_count(usage.requests, 'request')}, {tokens}, {cost}",
        facts={"requests": usage.requests, "tokens": usage.total_tokens, "cost_cny": usage.cost},
    )


def _count(number: int, of: str) -> str:
    return f"{number:,} {of}{'' if number == 1 else 's'}"
