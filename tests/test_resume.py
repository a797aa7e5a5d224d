"""A run that is killed pays again only what was in flight, and ends with the right vectors in order."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

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
print("begun", flush=True)
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


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL there")
@pytest.mark.parametrize(("door", "kills"), [("sync", 10), ("async", 3), ("stream", 3)])
def test_a_run_that_is_killed_pays_at_most_what_was_in_flight_at_each_kill_again(door, kills, simulator, tmp_path):
    chance = random.Random(door)
    out = tmp_path / "vectors.npy"
    command = [
        sys.executable, "-c", RUN, door, simulator.base_url("dashscope"), str(tmp_path / "cache.sqlite"), str(out),
    ]  # fmt: skip
    for _ in range(kills):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as run:
            assert run.stdout is not None
            run.stdout.readline()
            time.sleep(chance.uniform(0.01, 0.12))
            assert run.poll() is None, "the run was over before it could be killed"
            os.kill(run.pid, signal.SIGKILL)
    subprocess.run(command, check=True, timeout=60)
    paid = [text for request in simulator.requests if request.status == 200 for text in request.body["input"]["texts"]]
    assert set(paid) == {f"the text {number}" for number in range(TEXTS)}
    assert len(paid) <= TEXTS + kills * IN_FLIGHT * PER_REQUEST
    np.testing.assert_array_equal(np.load(out), embed([f"the text {number}" for number in range(TEXTS)], SIZE))
