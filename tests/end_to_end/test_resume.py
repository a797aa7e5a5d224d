"""Resume: a run that is killed pays again only for requests in flight, and ends with the right vectors in order."""

from __future__ import annotations

import random
import sys

import pytest
from support.killed_runs import RUN, assert_paid_once, killed


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL there")
@pytest.mark.parametrize(
    ("entry_point", "kills"),
    [("sync", 3), ("async", 3), ("stream", 3), pytest.param("sync", 10, marks=pytest.mark.slow)],
)
def test_killed_run_pays_again_only_for_requests_in_flight(programs, entry_point, kills, simulator, tmp_path):
    chance = random.Random(entry_point)
    out = tmp_path / "vectors.npy"
    arguments = (RUN, entry_point, simulator.base_url("dashscope"), tmp_path / "cache.sqlite", out)
    for _ in range(kills):
        killed(lambda: programs.start(*arguments), simulator, at=chance.randrange(40))
    assert programs.run(*arguments).returncode == 0
    assert_paid_once(simulator, out, kills=kills)
