"""A local server that speaks the providers' wire forms, to test RAG code without a key, a bill or a network.

    from multiembed.simulator import Simulator

    with Simulator() as simulator:
        client = EmbeddingClient(
            "zhipu:embedding-3", api_key=simulator.api_key, base_url=simulator.base_url("zhipu")
        )

Limits, refusals and replies are those of the vendors' pages. The vectors are those of the provider `local`:
lexical, not semantic, and the same on every machine.

What goes wrong on a network goes wrong here on demand: `simulator.fail("rate-limit", times=3)`, for each name
in `FAULTS`; `simulator.heal()` ends it. An account has no quota until `simulator.limit(requests_per_minute=600)` gives
it one; `simulator.rejected` and `simulator.most_requests(60)` tell how a client got on with it.
"""

from __future__ import annotations

from multiembed.simulator.fault_injection import FAULTS, InjectedFault
from multiembed.simulator.messages import Answer, Request
from multiembed.simulator.recorder import RecordedRequest
from multiembed.simulator.request_log import Arrival
from multiembed.simulator.simulator import Simulator, serve

__all__ = ["FAULTS", "Answer", "Arrival", "InjectedFault", "RecordedRequest", "Request", "Simulator", "serve"]
