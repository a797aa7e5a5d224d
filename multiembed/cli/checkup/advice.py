"""What to do about each error of a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

import multiembed
from multiembed.cli.checkup.key import is_short

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from multiembed import MultiEmbedError
    from multiembed.cli.checkup.findings import Patient

_SHOWN_MODELS = 4


def advise(error: MultiEmbedError, patient: Patient, key: str) -> str:
    """What the user can do; empty where the error's own words say it."""
    if isinstance(error, multiembed.AuthenticationError):
        return _key(patient, key)
    say = _BY_ERROR.get(type(error))
    return say(error, patient) if say else ""


def _key(patient: Patient, key: str) -> str:
    lost = " It is shorter than keys usually are: was a part of it lost?" if is_short(key) else ""
    if not patient.other_regions:
        where = " An own base_url may want a key of its own." if patient.own_address and patient.regions else ""
        return f"The key was refused.{lost}{where} Compare it with the one at {patient.key_page}, or make a new one."
    regions = " or ".join(f"--region {region}" for region in patient.other_regions)
    return (
        f"The key was refused by region {patient.at}.{lost} A key is good for one region only: if yours is of another, "
        f'give {regions} (in code, region="…"). --try-regions sends the key there to find out. Otherwise compare it '
        f"with the one at {patient.key_page}."
    )


def _permission(_: MultiEmbedError, patient: Patient) -> str:
    return (
        f"The account may not use {patient.model}: enable the model at {patient.key_page}, check what the key is "
        f"allowed to do, or try another one with --model.{_others(patient)}"
    )


def _money(_: MultiEmbedError, patient: Patient) -> str:
    return f"Money, package or plan is used up: top up at {patient.key_page}. Waiting does not help."


def _rate(error: MultiEmbedError, _: Patient) -> str:
    wait = f"in {error.retry_after:,.3g} s" if error.retry_after else "in a minute"
    return (
        f"The account is asked too much now. Try again {wait}. If other programs use the account, give them and this "
        "one a share: requests_per_minute, tokens_per_minute or max_concurrency."
    )


def _model(_: MultiEmbedError, patient: Patient) -> str:
    if patient.own_address:
        return (
            f"There is no model {patient.model} there, or base_url is wrong: requests go to the address above."
            f"{_others(patient)}"
        )
    region = f" in region {patient.at}" if patient.at else ""
    return f"{patient.title} has no model {patient.model}{region}. Name one with --model.{_others(patient)}"


def _server(error: MultiEmbedError, patient: Patient) -> str:
    support = " Its support asks for the request_id." if error.request_id else ""
    return f"The fault is {patient.title}'s, or a proxy's in between. Try again later.{support}"


def _timeout(_error: MultiEmbedError, _patient: Patient) -> str:
    return "Try again with a longer --timeout. If that never ends, a proxy or firewall may swallow the answer."


def _connection(error: MultiEmbedError, patient: Patient) -> str:
    if error.status == 407 or "answers 407" in error.message:
        return "A proxy wants a login: put it into HTTPS_PROXY (http://user:password@host:port)."
    return (
        "The host can be reached, and the connection broke: a proxy or firewall may look inside, or "
        f"{_address(patient)} is not the right one."
    )


def _malformed(_: MultiEmbedError, patient: Patient) -> str:
    return (
        "Something else may have answered, such as a sign-in page or another API: check "
        f"{_address(patient)}. If it is right, the fault is {patient.title}'s."
    )


def _redirect(_: MultiEmbedError, patient: Patient) -> str:
    return (
        f"It redirects, which is not followed, because the key would go along. Check {_address(patient)}; if you "
        "trust where it points to, give that as base_url."
    )


def _invalid(_: MultiEmbedError, patient: Patient) -> str:
    return f"Nothing unusual was asked: is {patient.model} an embedding model, and {_address(patient)} right?"


def _others(patient: Patient) -> str:
    known = [name for name in patient.models if name != patient.model][:_SHOWN_MODELS]
    return f" Known: {', '.join(known)}." if known else ""


def _address(patient: Patient) -> str:
    return "base_url" if patient.own_address else "the address"


_BY_ERROR: Mapping[type[MultiEmbedError], Callable[[MultiEmbedError, Patient], str]] = {
    multiembed.APIError: _redirect,
    multiembed.PermissionDeniedError: _permission,
    multiembed.QuotaExhaustedError: _money,
    multiembed.RateLimitError: _rate,
    multiembed.InvalidRequestError: _invalid,
    multiembed.ModelNotFoundError: _model,
    multiembed.ServerError: _server,
    multiembed.MalformedResponseError: _malformed,
    multiembed.ConnectionFailedError: _connection,
    multiembed.RequestTimeoutError: _timeout,
}
