"""A run that is killed pays again only what was in flight, and ends with the right vectors in order."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from queue import SimpleQueue

import numpy as np
import pytest
from adapters_common import DASHSCOPE

from multiembed.providers.local import embed

TEXTS = 5000
IN_FLIGHT = 8
PER_REQUEST = 10
SIZE = 64

RUN = f"""
import asyncio, sys
import numpy as np
from multiembed import EmbeddingClient

door, base_url, cache, out = sys.argv[1:]
texts = [f"the text {{number}}" for number in range({TEXTS})]
client = EmbeddingClient(
    "{DASHSCOPE}",
    api_key="sk-simulator",
    base_url=base_url,
    dimensions={SIZE},
    max_concurrency={IN_FLIGHT},
    cache=cache,
)
if door == "sync":
    result = client.embed(texts)
elif door == "async":
    result = asyncio.run(client.aembed(texts))
if door == "stream":
    vectors = np.concatenate([block.vectors for block in client.stream(texts)])
else:
    vectors = result.vectors
np.save(out, vectors)
"""


def killed(command, simulator, *, at, env=None):
    """Run a program and kill it at the moment when its so-manieth request arrives."""
    pids = SimpleQueue()

    def kill(_, answer):
        os.kill(pids.get(), signal.SIGKILL)
        return answer

    simulator.fail(kill, after=at, times=1)
    with subprocess.Popen(command, env=env) as run:
        pids.put(run.pid)
        assert run.wait(60) == -signal.SIGKILL, "the run was over before it could be killed"
    simulator.heal()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL there")
@pytest.mark.parametrize(("door", "kills"), [("sync", 10), ("async", 3), ("stream", 3)])
def test_a_run_that_is_killed_pays_at_most_what_was_in_flight_at_each_kill_again(door, kills, simulator, tmp_path):
    chance = random.Random(door)
    out = tmp_path / "vectors.npy"
    command = [
        sys.executable, "-c", RUN, door, simulator.base_url("dashscope"), str(tmp_path / "cache.sqlite"), str(out),
    ]  # fmt: skip
    for _ in range(kills):
        killed(command, simulator, at=chance.randrange(40))
    subprocess.run(command, check=True, timeout=60)
    paid = [text for request in simulator.requests if request.status == 200 for text in request.body["input"]["texts"]]
    assert set(paid) == {f"the text {number}" for number in range(TEXTS)}
    assert len(paid) <= TEXTS + kills * IN_FLIGHT * PER_REQUEST
    np.testing.assert_array_equal(np.load(out), embed([f"the text {number}" for number in range(TEXTS)], SIZE))
