"""Requests to responses: selects the API format, checks the key and lets the format make the response."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from multiembed.simulator.api_format import RefusedError
from multiembed.simulator.formats import API_FORMATS
from multiembed.simulator.messages import Answer
from multiembed.simulator.vectors import VectorStore

if TYPE_CHECKING:
    from multiembed.simulator.api_format import ApiFormat, Limit, Reason, Refusal
    from multiembed.simulator.messages import Request
    from multiembed.simulator.quotas import Excess

_OVER_QUOTA: dict[Limit, Reason]
_OVER_QUOTA = {"requests": "over_requests", "tokens": "over_tokens", "in_flight": "over_in_flight"}
_BY_PATH = {api_format.path: api_format for api_format in API_FORMATS.values()}
# The longest prefix first: DashScope's native API lies below the gateway's.
_BY_PREFIX = sorted(API_FORMATS.values(), key=lambda api_format: len(api_format.prefix), reverse=True)


def format_at(path: str) -> ApiFormat | None:
    """The API format of a path."""
    return _BY_PATH.get(path)


class Responder:
    """Makes the response to a request, without waiting. Equal requests get equal responses, except for the id."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key
        self._vectors = VectorStore()

    def __call__(self, request: Request) -> Answer:
        """The response that the provider documents."""
        api_format = format_at(request.path)
        if api_format is None:
            return _not_found(request)
        reason = self.precheck(request)
        if reason is not None:
            return refused(api_format, api_format.refusals[reason], request)
        request_id = api_format.request_id(request.id)
        try:
            reply = api_format.reply(request.body, self._vectors, request_id)
        except RefusedError as error:
            return refused(api_format, error.refusal, request)
        return _json(200, reply, api_format, request_id)

    def precheck(self, request: Request) -> Reason | None:
        """The reason for refusing the request without a look at the body's fields."""
        if request.method != "POST":
            return "method"
        api_format = format_at(request.path) or API_FORMATS["gateway"]
        given = [request.headers[name] for name in api_format.key_headers if name in request.headers]
        if "authorization" in request.headers:
            given.append(_bearer(request.headers["authorization"]))
        if not given:
            return "no_key"
        if not any(api_format.is_key(credential, self._api_key) for credential in given):
            return "wrong_key"
        if request.too_large:
            return "too_large"
        return None if isinstance(request.body, dict) else "no_json"


def _bearer(authorization: str) -> str:
    """The credential of `Bearer CREDENTIAL`, whose scheme may be in any case (RFC 9110, 11.1); empty for others."""
    scheme, _, credential = authorization.partition(" ")
    return credential if scheme.lower() == "bearer" else ""


def _not_found(request: Request) -> Answer:
    for api_format in _BY_PREFIX:
        if request.path.startswith(api_format.prefix):
            return refused(api_format, api_format.refusals["no_such_path"], request)
    return Answer(404, (("content-type", "text/plain"),), b"404 page not found")


def refused(api_format: ApiFormat, refusal: Refusal, request: Request) -> Answer:
    """The error response for a refusal, in a format's envelope."""
    request_id = api_format.request_id(request.id)
    answer = _json(refusal.status, api_format.envelope(refusal, request, request_id), api_format, request_id)
    return answer.with_headers(("allow", "POST")) if refusal.status == 405 else answer


def over_quota(api_format: ApiFormat, excess: Excess, request: Request) -> Answer:
    """The error response for a request over a quota."""
    answer = refused(api_format, api_format.refusals[_OVER_QUOTA[excess.limit]], request)
    return answer if excess.retry_after is None else answer.with_headers(("retry-after", f"{excess.retry_after:g}"))


def _json(status: int, content: object, api_format: ApiFormat, request_id: str) -> Answer:
    headers = (("content-type", "application/json"), (api_format.id_header, request_id))
    return Answer(status, headers, orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))
