"""Resume: a run that is killed pays again only for requests in flight, and ends with the right vectors in order."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest
from support.killed_runs import IN_FLIGHT, PER_REQUEST, RUN, SIZE, TEXTS, killed

from multiembed.providers.local import embed


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL there")
@pytest.mark.parametrize(
    ("entry_point", "kills"),
    [("sync", 3), ("async", 3), ("stream", 3), pytest.param("sync", 10, marks=pytest.mark.slow)],
)
def test_killed_run_pays_again_only_for_requests_in_flight(entry_point, kills, simulator, tmp_path):
    chance = random.Random(entry_point)
    out = tmp_path / "vectors.npy"
    command = [
        sys.executable, "-c", RUN, entry_point, simulator.base_url("dashscope"),
        str(tmp_path / "cache.sqlite"), str(out),
    ]  # fmt: skip
    for _ in range(kills):
        killed(command, simulator, at=chance.randrange(40))
    subprocess.run(command, check=True, timeout=60)
    paid = [text for request in simulator.requests if request.status == 200 for text in request.body["input"]["texts"]]
    assert set(paid) == {f"the text {number}" for number in range(TEXTS)}
    assert len(paid) <= TEXTS + kills * IN_FLIGHT * PER_REQUEST
    np.testing.assert_array_equal(np.load(out), embed([f"the text {number}" for number in range(TEXTS)], SIZE))
