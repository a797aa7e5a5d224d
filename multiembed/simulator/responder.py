"""From a request to its answer: which wire form it is in, whether the key is right, what that form says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from multiembed.simulator.api_format import RefusedError
from multiembed.simulator.dashscope import COMPATIBLE, NATIVE
from multiembed.simulator.gateway import GATEWAY
from multiembed.simulator.messages import Answer
from multiembed.simulator.openai import OPENAI
from multiembed.simulator.siliconflow import SILICONFLOW
from multiembed.simulator.vectors import VectorStore
from multiembed.simulator.zhipu import ZHIPU

if TYPE_CHECKING:
    from multiembed.simulator.api_format import Form, Reason, Refusal
    from multiembed.simulator.messages import Request
    from multiembed.simulator.quotas import Excess

FORMS: dict[str, Form] = {form.provider: form for form in (ZHIPU, SILICONFLOW, NATIVE, COMPATIBLE, OPENAI, GATEWAY)}

_BY_PATH = {form.path: form for form in FORMS.values()}
# The longest prefix first: DashScope's native API lies below the gateway's.
_BY_PREFIX = sorted(FORMS.values(), key=lambda form: len(form.prefix), reverse=True)


def form_at(path: str) -> Form | None:
    """The wire form that is spoken at a path."""
    return _BY_PATH.get(path)


class Answerer:
    """Requests to answers; the same request has the same one, but for its id. It waits for nothing."""

    def __init__(self, api_key: str) -> None:
        self._api_key = api_key
        self._vectors = VectorStore()

    def __call__(self, request: Request) -> Answer:
        """The answer that the provider's page promises."""
        form = form_at(request.path)
        if form is None:
            return _nowhere(request)
        reason = self.turns_away(request)
        if reason is not None:
            return refused(form, form.refusals[reason], request)
        request_id = form.request_id(request.id)
        try:
            reply = form.reply(request.body, self._vectors, request_id)
        except RefusedError as error:
            return refused(form, error.refusal, request)
        return _json(200, reply, form, request_id)

    def turns_away(self, request: Request) -> Reason | None:
        """Why the request is refused before anyone looks into its body."""
        if request.method != "POST":
            return "method"
        form = form_at(request.path) or GATEWAY
        given = [request.headers[name] for name in form.key_headers if name in request.headers]
        if "authorization" in request.headers:
            given.append(_bearer(request.headers["authorization"]))
        if not given:
            return "no_key"
        if not any(form.is_key(credential, self._api_key) for credential in given):
            return "wrong_key"
        if request.too_large:
            return "too_large"
        return None if isinstance(request.body, dict) else "no_json"


def _bearer(authorization: str) -> str:
    """The credential of `Bearer CREDENTIAL`, whose scheme may be in any case (RFC 9110, 11.1); empty for others."""
    scheme, _, credential = authorization.partition(" ")
    return credential if scheme.lower() == "bearer" else ""


def _nowhere(request: Request) -> Answer:
    for form in _BY_PREFIX:
        if request.path.startswith(form.prefix):
            return refused(form, form.refusals["no_such_path"], request)
    return Answer(404, (("content-type", "text/plain"),), b"404 page not found")


def refused(form: Form, refusal: Refusal, request: Request) -> Answer:
    """A refusal in the words and the envelope of a form."""
    request_id = form.request_id(request.id)
    answer = _json(refusal.status, form.envelope(refusal, request, request_id), form, request_id)
    if refusal.status == 405:
        return Answer(answer.status, (*answer.headers, ("allow", "POST")), answer.body)
    return answer


def over_quota(form: Form, excess: Excess, request: Request) -> Answer:
    """The refusal of what is more than the account may."""
    answer = refused(form, form.over_quota[excess.limit], request)
    if excess.retry_after is None:
        return answer
    return Answer(answer.status, (*answer.headers, ("retry-after", f"{excess.retry_after:g}")), answer.body)


def _json(status: int, content: object, form: Form, request_id: str) -> Answer:
    headers = (("content-type", "application/json"), (form.id_header, request_id))
    return Answer(status, headers, orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))
