"""Programs that are killed while they embed."""

from __future__ import annotations

import os
import signal
from queue import SimpleQueue

import numpy as np

from multiembed.providers.local import embed
from support.adapters import DASHSCOPE

TEXTS = 3000
IN_FLIGHT = 8
PER_REQUEST = 10
SIZE = 64


RUN = f"""
import asyncio, sys
import numpy as np
from multiembed import EmbeddingClient

entry_point, base_url, cache, out = sys.argv[1:]
texts = [f"the text {{number}}" for number in range({TEXTS})]
client = EmbeddingClient(
    "{DASHSCOPE}",
    api_key="sk-simulator",
    base_url=base_url,
    dimensions={SIZE},
    max_concurrency={IN_FLIGHT},
    cache=cache,
)
if entry_point == "sync":
    result = client.embed(texts)
elif entry_point == "async":
    result = asyncio.run(client.aembed(texts))
if entry_point == "stream":
    vectors = np.concatenate([block.vectors for block in client.stream(texts)])
else:
    vectors = result.vectors
np.save(out, vectors)
"""


def killed(start, simulator, *, at):
    """Start a program and kill it at the moment when its so-manieth request arrives.

    Args:
        start: starts it.
        simulator: gets the requests.
        at: the number of requests before.
    """
    pids = SimpleQueue()

    def kill(_, answer):
        os.kill(pids.get(), signal.SIGKILL)
        return answer

    simulator.fail(kill, after=at, times=1)
    with start() as run:
        pids.put(run.pid)
        assert run.wait(60) == -signal.SIGKILL, "the run was over before it could be killed"
    simulator.heal()


def assert_paid_once(simulator, out, *, kills):
    """Check that a run after kills paid again only for requests in flight, and has the right vectors in order."""
    texts = [f"the text {number}" for number in range(TEXTS)]
    paid = [text for request in simulator.requests if request.status == 200 for text in request.body["input"]["texts"]]
    assert set(paid) == set(texts)
    assert len(paid) <= TEXTS + kills * IN_FLIGHT * PER_REQUEST
    np.testing.assert_array_equal(np.load(out), embed(texts, SIZE))
