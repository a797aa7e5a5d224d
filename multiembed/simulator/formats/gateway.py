"""A gateway's API format: {"success": …, "code": …, "message": …, "data": …} around OpenAI's list, any model.

Two model names select other responses that gateways give. `resource-record` selects the record without vectors that
the gateway's page shows, `bare-list` OpenAI's list without the envelope. The page documents no limit: they are those
of the model in its example.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from multiembed.simulator.api_format import ApiFormat, Refusal, dashed
from multiembed.simulator.formats.openai_compatible import FORMAT as OPENAI
from multiembed.simulator.formats.openai_compatible import REFUSALS, embed

if TYPE_CHECKING:
    from multiembed.simulator.messages import Request
    from multiembed.simulator.vectors import VectorStore


def _reply(body: dict[str, Any], vectors: VectorStore, request_id: str) -> object:
    if not isinstance(body.get("parameters"), dict | None):
        raise FORMAT.invalid_parameter("parameters must be an object")
    data = embed(FORMAT, body, vectors)
    if data["model"] == "bare-list":
        return data
    if data["model"] == "resource-record":
        data = {
            "id": f"emb_{request_id[:8]}",
            "name": "embedding-result",
            "status": "COMPLETED",
            "createTime": "2026-04-10T10:00:00Z",
        }
    return {"success": True, "code": "200", "message": "successful", "data": data}


def _envelope(refusal: Refusal, _request: Request, _request_id: str) -> object:
    return {"success": False, "code": refusal.code, "message": refusal.message, "data": None}


FORMAT = ApiFormat(
    provider="gateway",
    path="/api/v1/embeddings",
    prefix="/api/v1/",
    reply=_reply,
    envelope=_envelope,
    refusals=MappingProxyType(
        {
            **REFUSALS,
            "no_key": Refusal(401, "401", "the Authorization header is missing"),
            "wrong_key": Refusal(401, "401", "the API key is invalid"),
            "no_such_path": Refusal(404, "404", "not found"),
            "method": Refusal(405, "405", "method not allowed"),
        }
    ),
    key_headers=OPENAI.key_headers,
    request_id=dashed,
    id_header="x-request-id",
)
