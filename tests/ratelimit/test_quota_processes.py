"""Processes that share a quota, on one machine and through Redis, as the server counts their requests."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from pathlib import Path

import pytest
from support.quota_worker import Worker
from support.redis_server import RedisServer, require_redis_server

from multiembed.simulator import Simulator
from multiembed.transport.machine_link import HostLock

PER_MINUTE = 1500
MOST = PER_MINUTE // 60 + 15
"""Requests in one second: some arrive late on a busy machine. Two processes that do not share send 50.

Tests with killed and stopped processes count two seconds, since these cost what they had in flight.
"""


@pytest.fixture
def folder():
    """A folder with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="me") as path:
        yield Path(path)


@pytest.fixture
def redis_server(folder):
    require_redis_server()
    server = RedisServer(folder).start()
    yield server
    server.stop()


@pytest.fixture(params=["machine", pytest.param("redis", marks=pytest.mark.redis)])
def quota(request, folder, monkeypatch):
    """The option, for processes that share nothing with other tests."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    return "machine" if request.param == "machine" else request.getfixturevalue("redis_server").url


@pytest.fixture
def workers(quota):
    """`workers(simulator, count, texts, **options)`: start processes, killed when the test ends."""
    started = []

    def start(simulator, count, texts, *, settings=None, **options):
        client = {
            "model": "dashscope:text-embedding-v4",
            "api_key": simulator.api_key,
            "base_url": simulator.base_url("dashscope"),
            "dimensions": 64,
            "limits": {"max_items": 1},
            "quota": quota,
            "requests_per_minute": PER_MINUTE,
            **options,
        }
        new = [Worker(client, texts, **(settings or {})) for _ in range(count)]
        started.extend(new)
        return new

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture
def busy():
    """A simulator that takes 0.1 s for a response."""
    with Simulator(latency=0.1) as simulator:
        yield simulator


def wait_for_arrivals(simulator, count):
    end = time.monotonic() + 60.0
    while len(simulator.arrivals) < count:
        assert time.monotonic() < end, "the processes have ended, or wait for each other"
        time.sleep(0.005)


def check(results, texts):
    """All texts have a vector, and there was no warning."""
    assert [(result["embedded"], result["errors"]) for result in results] == [(texts, [])] * len(results)
    assert [result["warnings"] for result in results] == [[]] * len(results)


def test_four_processes_share_a_configured_quota(workers, busy):
    check([worker.result() for worker in workers(busy, 4, 12)], 12)
    assert busy.most_requests(1) <= MOST


@pytest.mark.slow
def test_lowest_configured_quota_of_two_processes_holds(workers, busy):
    low, high = workers(busy, 1, 12, requests_per_minute=240), workers(busy, 1, 12)
    wait_for_arrivals(busy, 2)
    check([worker.result() for worker in (*low, *high)], 12)
    late = [arrival.time for arrival in busy.arrivals][10:]
    assert len(late) == 14
    assert late[-1] - late[0] >= 2.0  # at 1,500 a minute it would be 0.5 s


def test_killed_host_is_replaced_and_no_text_fails(workers, busy):
    (host,) = workers(busy, 1, 1000)
    wait_for_arrivals(busy, 3)
    others = workers(busy, 2, 20)
    for _ in range(2):
        wait_for_arrivals(busy, len(busy.arrivals) + 10)
        host.kill()
        (host,) = workers(busy, 1, 20)
    check([worker.result() for worker in (host, *others)], 20)
    assert busy.most_requests(2) <= 2 * MOST


@pytest.mark.slow
def test_stopped_host_is_replaced_and_joins_again(workers, busy):
    (host,) = workers(busy, 1, 40)
    wait_for_arrivals(busy, 5)
    (other,) = workers(busy, 1, 20)
    wait_for_arrivals(busy, 12)
    os.kill(host.pid, signal.SIGSTOP)
    check([other.result()], 20)
    os.kill(host.pid, signal.SIGCONT)
    check([host.result()], 40)
    assert busy.most_requests(2) <= 2 * MOST


@pytest.mark.slow
def test_stopped_member_joins_again(workers, busy):
    (host,) = workers(busy, 1, 60)
    wait_for_arrivals(busy, 5)
    (member,) = workers(busy, 1, 25)
    wait_for_arrivals(busy, 20)
    os.kill(member.pid, signal.SIGSTOP)
    wait_for_arrivals(busy, 60)
    os.kill(member.pid, signal.SIGCONT)
    check([member.result()], 25)
    check([host.result()], 60)
    assert busy.most_requests(2) <= 2 * MOST


def test_forked_child_joins_by_itself(workers, busy):
    (worker,) = workers(busy, 1, 25, settings={"fork": True})
    result = worker.result()
    assert result["embedded"] == 25, result["stderr"]
    assert len(busy.arrivals) == 51
    assert busy.most_requests(1) <= MOST


@pytest.mark.slow
def test_child_takes_over_from_a_killed_parent(workers, busy):
    (worker,) = workers(busy, 1, 40, settings={"fork": True})
    wait_for_arrivals(busy, 20)
    worker.process.kill()
    assert worker.result()["embedded"] == 40
    assert busy.most_requests(2) <= 2 * MOST


@pytest.mark.slow
def test_two_models_of_one_key_have_quotas_of_their_own(workers, busy):
    first = workers(busy, 2, 12)
    second = workers(busy, 2, 12, model="dashscope:text-embedding-v3")
    check([worker.result() for worker in (*first, *second)], 12)
    assert busy.most_requests(1) <= 2 * MOST
    assert len(busy.arrivals) == 48


@pytest.mark.slow
def test_hosts_of_another_version_are_found(workers, busy, quota, folder):
    (worker,) = workers(busy, 1, 60)
    wait_for_arrivals(busy, 5)
    if quota == "machine":
        (path,) = Path(folder, "multiembed").glob("*.1.lock")
        assert HostLock(path.with_name(path.name.replace(".1.lock", ".2.lock"))).acquire(0)
    else:
        import redis

        with redis.Redis.from_url(quota) as client:
            (key,) = client.keys("*:host")
            client.set(key.replace(b":1:", b":2:"), "another")
    result = worker.result()
    assert result["embedded"] == 60
    assert len(result["warnings"]) == 1
    assert "another version" in result["warnings"][0]


# ── Redis ────────────────────────────────────────────────────────────────────────────────────────

only_redis = pytest.mark.parametrize("quota", [pytest.param("redis", marks=pytest.mark.redis)], indirect=True)


@only_redis
@pytest.mark.parametrize("fault", ["ends", pytest.param("hangs", marks=pytest.mark.slow)])
def test_redis_away_costs_one_warning_and_no_text(fault, workers, busy, redis_server):
    running = workers(busy, 2, 45)
    wait_for_arrivals(busy, 20)
    redis_server.stop() if fault == "ends" else redis_server.signal(signal.SIGSTOP)
    wait_for_arrivals(busy, 50)
    redis_server.start() if fault == "ends" else redis_server.signal(signal.SIGCONT)
    results = [worker.result() for worker in running]
    assert [(result["embedded"], result["errors"]) for result in results] == [(45, [])] * 2
    told = [result for result in results if result["warnings"]]
    assert told
    assert [len(result["warnings"]) for result in told] == [1] * len(told)
    assert all("one of 2 parts" in result["warnings"][0] for result in told)
    assert busy.most_requests(1) <= MOST


@only_redis
def test_redis_by_tcp_shares_a_quota(workers, busy, redis_server):
    redis_server.stop()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    redis_server._arguments = ["--port", str(port), "--bind", "127.0.0.1", "--requirepass", "pass-word"]
    redis_server.start()
    running = workers(busy, 2, 25, quota=f"redis://:pass-word@127.0.0.1:{port}/3")
    check([worker.result() for worker in running], 25)
    assert busy.most_requests(1) <= MOST


@only_redis
def test_redis_flushed_and_garbage_in_its_channels_change_nothing(workers, busy, redis_server):
    import redis

    running = workers(busy, 2, 25)
    wait_for_arrivals(busy, 10)
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushall()
        for channel in client.pubsub_channels("*multiembed*"):
            for garbage in (b"", b"[", b"17", b'["x",1,[["ask"]]]', b'["x",0,[["state"]]]', b"\xff"):
                client.publish(channel, garbage)
        wait_for_arrivals(busy, 25)
        client.flushall()
    check([worker.result() for worker in running], 25)
    assert busy.most_requests(1) <= MOST


@only_redis
def test_redis_sees_neither_key_nor_text(workers, busy, redis_server):
    import redis

    seen = []
    with redis.Redis.from_url(redis_server.url) as client, client.monitor() as monitor:
        (host,) = workers(busy, 1, 1000)
        wait_for_arrivals(busy, 1)
        (member,) = workers(busy, 1, 10)
        check([member.result()], 10)
        names = [*client.keys("*"), *client.pubsub_channels("*")]
        host.kill()
        client.echo("the end")
        for command in monitor.listen():  # what processes tell each other, too
            seen.append(command["command"])
            if "the end" in command["command"]:
                break
    assert any("ask" in each for each in seen)
    assert names
    assert all(name.startswith(b"{multiembed:") for name in names)
    found = " ".join(map(str, [*names, *seen]))
    assert busy.api_key not in found
    assert f"{member.pid}-" not in found  # the texts begin with it
    assert "text-embedding" not in found


@only_redis
@pytest.mark.parametrize(
    ("arguments", "url", "expected"),
    [
        (["--requirepass", "right-password"], "unix://:wrong-password@{}", "refuses the user or the password"),
        (["--requirepass", "right-password"], "unix://{}", "refuses the user or the password"),
        (["--rename-command", "EVAL", ""], "unix://{}", "EVAL"),
        (["--maxmemory", "1"], "unix://{}", "is full"),
        (["--port", "0"], "unix://{}.missing", "cannot be reached"),
        (["--port", "0"], "redis://127.0.0.1:1/0", "cannot be reached"),
    ],
    ids=["wrong password", "no password", "no scripts", "full", "no socket", "refused"],
)
def test_unusable_redis_at_start_is_a_configuration_error(arguments, url, expected, workers, busy, redis_server):
    redis_server.stop()
    redis_server._arguments = arguments
    redis_server.start()
    (worker,) = workers(busy, 1, 2, quota=url.format(redis_server.socket))
    result = worker.result()
    assert result["errors"][0] == "ConfigurationError"
    assert expected in result["errors"][1]
    assert "password@" not in result["errors"][1] + result["stderr"]
    assert "wrong-password" not in result["errors"][1] + result["stderr"]
    assert len(busy.arrivals) == 0


@only_redis
def test_hanging_redis_at_start_is_a_configuration_error(workers, busy, redis_server):
    redis_server.signal(signal.SIGSTOP)
    (worker,) = workers(busy, 1, 2)
    result = worker.result()
    assert result["errors"][0] == "ConfigurationError"
    assert "does not answer within 1 s" in result["errors"][1]
    assert len(busy.arrivals) == 0


@only_redis
def test_redis_that_becomes_full_costs_no_text(workers, busy, redis_server):
    import redis

    running = workers(busy, 2, 25)
    wait_for_arrivals(busy, 10)
    with redis.Redis.from_url(redis_server.url) as client:
        client.config_set("maxmemory", 1)
    results = [worker.result() for worker in running]
    assert [(result["embedded"], result["errors"]) for result in results] == [(25, [])] * 2
    assert busy.most_requests(1) <= MOST
