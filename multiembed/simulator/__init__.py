"""Simulator: a local server with the providers' APIs, to test RAG code without a key, a bill or a network.

    from multiembed.simulator import Simulator

    with Simulator() as simulator:
        client = EmbeddingClient("zhipu:embedding-3", api_key=simulator.api_key, base_url=simulator.base_url("zhipu"))

Limits and responses are those that the vendors document. Vectors are those of the provider `local`, on every machine.

`simulator.fail("rate-limit", times=3)` injects a fault, for each name in `FAULTS`; `simulator.heal()` removes it. An
account has no quota until `simulator.limit(requests_per_minute=600)` sets one. `simulator.rejected` and
`simulator.most_requests(60)` show how a client behaved under it.
"""

from __future__ import annotations

from multiembed.simulator.fault_injection import FAULTS, InjectedFault
from multiembed.simulator.messages import Answer, Request
from multiembed.simulator.recorder import RecordedRequest
from multiembed.simulator.request_log import Arrival
from multiembed.simulator.simulator import Simulator, serve

__all__ = ["FAULTS", "Answer", "Arrival", "InjectedFault", "RecordedRequest", "Request", "Simulator", "serve"]
