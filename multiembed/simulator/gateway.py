"""A gateway's answers: {"success": …, "code": …, "message": …, "data": …} around OpenAI's list, any model.

Two model names stand for other replies that gateways give: `resource-record` answers the record without
vectors which the gateway's page shows, `bare-list` answers OpenAI's list without the envelope. The page documents no
limit: they are those of the model in its example.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.simulator.api_format import Form, Refusal, dashed
from multiembed.simulator.openai import OPENAI, OVER_QUOTA, embed, invalid

if TYPE_CHECKING:
    from multiembed.simulator.messages import Request
    from multiembed.simulator.vectors import VectorStore

RESOURCE_RECORD = "resource-record"
BARE_LIST = "bare-list"


def _reply(body: dict[str, Any], vectors: VectorStore, request_id: str) -> object:
    if not isinstance(body.get("parameters"), dict | None):
        raise invalid("parameters must be an object")
    reply = embed(body, vectors)
    if reply["model"] == RESOURCE_RECORD:
        return _enveloped(
            {
                "id": f"emb_{request_id[:8]}",
                "name": "embedding-result",
                "status": "COMPLETED",
                "createTime": "2026-04-10T10:00:00Z",
            }
        )
    return reply if reply["model"] == BARE_LIST else _enveloped(reply)


def _enveloped(data: object) -> object:
    return {"success": True, "code": "200", "message": "successful", "data": data}


def _envelope(refusal: Refusal, _request: Request, _request_id: str) -> object:
    return {"success": False, "code": refusal.code, "message": refusal.message, "data": None}


GATEWAY = Form(
    provider="gateway",
    path="/api/v1/embeddings",
    prefix="/api/v1/",
    reply=_reply,
    envelope=_envelope,
    refusals=MappingProxyType(
        {
            "no_key": Refusal(401, "401", "the Authorization header is missing"),
            "wrong_key": Refusal(401, "401", "the API key is invalid"),
            "no_such_path": Refusal(404, "404", "not found"),
            "method": Refusal(405, "405", "method not allowed"),
            "too_large": Refusal(413, "413", "the request body is too large"),
            "no_json": Refusal(400, "400", "the request body is no JSON object"),
        }
    ),
    over_quota=OVER_QUOTA,
    key_headers=OPENAI.key_headers,
    request_id=dashed,
    id_header="x-request-id",
)
