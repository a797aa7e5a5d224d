"""The cache in Redis: vectors shared by processes, claims, expiry, and failures that fail no call."""

from __future__ import annotations

import asyncio
import json
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis
from support.adapters import DASHSCOPE, ENTRY_POINTS, are_right, call, client_of, options_for, texts_of
from support.killed_runs import RUN, assert_paid_once, killed
from support.redis_server import RedisServer, require_redis_server
from typer.testing import CliRunner

from multiembed import (
    CacheWarning,
    ConfigurationError,
    DeadlineExceededError,
    EmbeddingClient,
    MultiEmbedError,
    RedisCache,
    open_cache,
)
from multiembed.cache import redis_cache
from multiembed.cache.sqlite import SqliteCache
from multiembed.cli.app import app
from multiembed.providers.local import embed
from multiembed.transport import redis_connection

SIZE = 64
TEXTS = texts_of(30)
NAMESPACE = "a" * 64
PASSWORD = "hidden-password"


@pytest.fixture(scope="module")
def start_server():
    """`start_server(*arguments)`: a Redis server of its own, stopped when the module ends."""
    require_redis_server()
    with ExitStack() as stack:

        def start(*arguments):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="me")))
            server = RedisServer(folder, *arguments).start()
            stack.callback(lambda: server.process.returncode is None and server.stop())
            return server

        yield start


@pytest.fixture(scope="module")
def running_server(start_server):
    return start_server()


@pytest.fixture
def server(running_server):
    with redis_of(running_server) as client:
        client.flushall()
    return running_server


def redis_of(server):
    return redis.Redis(unix_socket_path=str(server.socket))


@pytest.fixture
def client_for(simulator):
    """`client_for(url, **options)`: a client whose cache is in Redis."""
    clients = []

    def make(url, **options):
        clients.append(EmbeddingClient(DASHSCOPE, cache=url, dimensions=SIZE, **options_for(simulator), **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def rows(texts):
    return embed(texts, SIZE)


def values(server):
    """Keys of vectors and claims, with their values."""
    with redis_of(server) as client:
        return {key: client.get(key) for key in client.keys("multiembed:*") if client.type(key) == b"string"}


def texts_sent(simulator):
    return [text for request in simulator.requests for text in request.body["input"]["texts"]]


# ── vectors ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("entry_point", ENTRY_POINTS.values(), ids=ENTRY_POINTS.keys())
def test_vectors_in_redis_are_found_by_another_client(simulator, server, entry_point):
    for sent in (30, 0):
        simulator.clear()
        embedder = entry_point.make(DASHSCOPE, cache=server.url, dimensions=SIZE, **options_for(simulator))
        assert are_right(call(entry_point.embed, embedder, TEXTS), TEXTS, SIZE)
        assert len(texts_sent(simulator)) == sent
        client_of(embedder).close()


@pytest.mark.parametrize("output", ["sparse", "dense&sparse"])
def test_sparse_vectors_in_redis_are_found(client_for, server, entry_point, output):
    first, second = (entry_point(client_for(server.url, output=output), TEXTS) for _ in range(2))
    assert second.usage.cached_texts == len(TEXTS)
    assert second.sparse == first.sparse


def test_query_never_gets_the_vector_of_a_document(client_for, server, simulator):
    client = client_for(server.url)
    client.embed(TEXTS[:1])
    assert client.embed(TEXTS[:1], "query").usage.requests == 1
    assert {request.body["parameters"]["text_type"] for request in simulator.requests} == {"document", "query"}


def test_pickled_client_finds_the_vectors(client_for, server, simulator):
    client_for(server.url).embed(TEXTS)
    with pickle.loads(pickle.dumps(client_for(server.url, key_in_pickle=True))) as copy:
        assert copy.embed(TEXTS).usage.cached_texts == len(TEXTS)
    with closing(pickle.loads(pickle.dumps(RedisCache(server.url)))) as cache:
        assert cache.url == server.url


def test_vectors_expire_after_the_ttl_of_the_url(client_for, server):
    client_for(f"{server.url}?ttl=1000").embed(TEXTS[:5])
    client_for(server.url).embed(TEXTS[5:9])
    with redis_of(server) as client:
        seconds = sorted(client.ttl(key) for key in values(server))
    assert seconds[:4] == [-1] * 4
    assert all(900 < each <= 1000 for each in seconds[4:])
    assert len(seconds) == 9


@pytest.mark.parametrize("seconds", ["0", "-5", "1.5", "", "a day", "99999999999", "٣"])
def test_ttl_that_is_no_number_of_seconds_is_refused(seconds):
    with pytest.raises(ConfigurationError, match="ttl in the URL of cache must be a number of seconds"):
        EmbeddingClient(DASHSCOPE, cache=f"redis://:{PASSWORD}@localhost?ttl={seconds}", api_key="sk")


def test_damaged_vector_is_embedded_and_kept_again(client_for, server, simulator):
    client_for(server.url).embed(TEXTS[:3])
    with redis_of(server) as client:
        for key in list(values(server))[:2]:
            client.setrange(key, 60, b"damage")
    simulator.clear()
    with pytest.warns(CacheWarning, match="holds damaged vectors"):
        assert are_right(client_for(server.url).embed(TEXTS[:3]).to_list(), TEXTS[:3], SIZE)
    assert len(texts_sent(simulator)) == 2
    assert client_for(server.url).embed(TEXTS[:3]).usage.cached_texts == 3


# ── claims ───────────────────────────────────────────────────────────────────────────────────────


def test_claimed_text_is_left_to_the_process_that_claimed_it(server):
    with closing(open_cache(server.url)) as ours, closing(open_cache(server.url)) as others:
        assert list(ours.claim(NAMESPACE, ["a", "b"]).pending) == []
        assert list(others.claim(NAMESPACE, ["b", "c", "a", "b"]).pending) == [0, 2, 3]
        assert not ours.get(NAMESPACE, ["a"]).positions
        with redis_of(server) as client:
            assert all(0 < client.ttl(key) <= redis_cache.CLAIM_SECONDS for key in values(server))
        ours.put(NAMESPACE, ["a"], rows(["a"]))
        ours.release(NAMESPACE, ["a", "b"])
        claim = others.claim(NAMESPACE, ["a", "b", "c"])
        assert claim.found.positions == [0]
        assert np.array_equal(claim.found.dense, rows(["a"]))
        assert list(claim.pending) == [2]  # its own: of another call
        ours.release(NAMESPACE, ["c"])
        assert list(ours.claim(NAMESPACE, ["c"]).pending) == [0]


WORK = """
import sys
from multiembed import EmbeddingClient
url, cache, way = sys.argv[1:]
texts = [f"the text {number}" for number in range(300)]
if way == "shuffled":
    import random
    random.shuffle(texts)
options = dict(api_key="sk-simulator", base_url=url, dimensions=64, max_concurrency=4, cache=cache)
with EmbeddingClient("dashscope:text-embedding-v4", **options) as client:
    sys.stdin.readline()
    found = client.embed(texts)
    from multiembed.providers.local import embed
    assert (found.vectors == embed(texts, 64)).all()
"""


@pytest.mark.parametrize("way", ["alike", "shuffled"])
def test_processes_with_the_same_texts_pay_for_each_once(programs, server, simulator, way):
    arguments = (WORK, simulator.base_url("dashscope"), server.url, way)
    processes = [programs.start(*arguments, stdin=subprocess.PIPE) for _ in range(4)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        with process:
            assert process.wait() == 0
    assert sorted(texts_sent(simulator)) == sorted(f"the text {number}" for number in range(300))


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL there")
def test_killed_run_pays_again_only_for_requests_in_flight(programs, server, simulator, tmp_path):
    out = tmp_path / "vectors.npy"
    program = f"from multiembed.cache import redis_cache\nredis_cache.CLAIM_SECONDS = 1\n{RUN}"
    arguments = (program, "sync", simulator.base_url("dashscope"), server.url, out)
    for at in (7, 31):
        killed(lambda: programs.start(*arguments), simulator, at=at)
    assert programs.run(*arguments).returncode == 0
    assert_paid_once(simulator, out, kills=2)


async def test_calls_of_one_process_pay_for_the_same_texts_once(client_for, server, simulator):
    results = await asyncio.gather(*[client_for(server.url).aembed(TEXTS) for _ in range(4)])
    assert sorted(texts_sent(simulator)) == sorted(TEXTS)
    assert all(are_right(result.to_list(), TEXTS, SIZE) for result in results)


def claim_of_another(server, client, texts):
    """Claim texts as another process does. Returns: its cache."""
    other = open_cache(server.url)
    other.claim(client.fingerprint("document"), texts)
    return other


@pytest.mark.parametrize("end", ["vector", "killed", "given up"])
def test_call_waits_for_the_vector_that_another_embeds(client_for, server, simulator, entry_point, end):
    """The other process keeps its vector, or dies so that its claim expires, or fails and gives the claim up."""
    client = client_for(server.url)
    with closing(claim_of_another(server, client, TEXTS[:1])) as other:

        def finish(_, answer):
            if end == "vector":
                other.put(client.fingerprint("document"), TEXTS[:1], rows(TEXTS[:1]))
            elif end == "given up":
                other.release(client.fingerprint("document"), TEXTS[:1])
            else:
                with redis_of(server) as connection:
                    connection.delete(*[key for key, value in values(server).items() if value == other._claim])
            return answer

        simulator.fail(finish, times=1)
        result = entry_point(client, TEXTS[:5])
    assert are_right(result.to_list(), TEXTS[:5], SIZE)
    assert texts_sent(simulator) == TEXTS[1:5] + ([] if end == "vector" else TEXTS[:1])
    assert result.usage.cached_texts == (end == "vector")
    assert client.stats.texts == 5


def test_wait_for_another_process_ends_with_the_deadline(client_for, server, simulator, entry_point):
    client = client_for(server.url, deadline=0.3)
    with closing(claim_of_another(server, client, TEXTS[:2])), pytest.raises(DeadlineExceededError):
        entry_point(client, TEXTS[:2])
    assert not simulator.requests


REFUSED = {
    400: b'{"code": "InvalidParameter", "message": "refused"}',
    401: b'{"code": "InvalidApiKey", "message": "refused"}',
}


@pytest.mark.parametrize("status", REFUSED)
def test_failed_texts_are_not_claimed_any_more(client_for, server, simulator, entry_point, status):
    simulator.fail(lambda _, answer: replace(answer, status=status, body=REFUSED[status]))
    with pytest.raises(MultiEmbedError):
        entry_point(client_for(server.url, max_retries=0), TEXTS)
    assert values(server) == {}


async def test_cancelled_call_claims_no_text_any_more(client_for, server, simulator):
    arrived, going_on = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold(_, answer):
        loop.call_soon_threadsafe(arrived.set)
        going_on.wait(20)
        return answer

    simulator.fail(hold)
    task = asyncio.create_task(client_for(server.url, max_concurrency=1).aembed(TEXTS[:5]))
    await arrived.wait()
    assert len(values(server)) == 5
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    going_on.set()
    assert values(server) == {}


def test_file_is_looked_up_again_before_a_request(simulator, entry_point, tmp_path, monkeypatch):
    monkeypatch.setattr(SqliteCache, "claim_age", 0.0)
    path = tmp_path / "vectors.sqlite"
    options = {"cache": path, "dimensions": SIZE, "max_concurrency": 1, **options_for(simulator)}
    with EmbeddingClient(DASHSCOPE, **options) as client, closing(open_cache(path)) as other:

        def keep(_, answer):
            other.put(client.fingerprint("document"), TEXTS[12:], rows(TEXTS[12:]))
            return answer

        simulator.fail(keep, times=1)
        result = entry_point(client, TEXTS)
    assert are_right(result.to_list(), TEXTS, SIZE)
    assert texts_sent(simulator) == TEXTS[:12]
    assert result.usage.cached_texts == 18


# ── failures ─────────────────────────────────────────────────────────────────────────────────────


def embed_with_warnings(client, entry_point, texts=TEXTS):
    """Embed, and check the vectors. Returns: the messages of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert are_right(entry_point(client, texts).to_list(), texts, SIZE)
    assert {warning.category for warning in caught} <= {CacheWarning}
    return [str(warning.message) for warning in caught]


def test_redis_that_is_away_at_the_start_is_one_warning(client_for, entry_point):
    client = client_for(f"redis://user:{PASSWORD}@127.0.0.1:1/0")
    (message,) = embed_with_warnings(client, entry_point)
    assert embed_with_warnings(client, entry_point) == []
    assert "cannot be used at the moment" in message
    assert "127.0.0.1" in message
    assert PASSWORD not in message


@pytest.mark.parametrize("failure", ["stopped", "hanging"])
def test_redis_that_comes_back_is_used_again(start_server, client_for, entry_point, failure, monkeypatch):
    monkeypatch.setattr(redis_cache, "RETRY_SECONDS", 0.0)
    monkeypatch.setitem(redis_connection._TIMEOUTS, "socket_timeout", 0.2)
    server = start_server()
    client = client_for(server.url)
    assert embed_with_warnings(client, entry_point, TEXTS[:10]) == []
    server.stop() if failure == "stopped" else server.signal(signal.SIGSTOP)
    (message,) = embed_with_warnings(client, entry_point, TEXTS[10:11])
    assert "Redis at unix://" in message
    server.start() if failure == "stopped" else server.signal(signal.SIGCONT)
    assert embed_with_warnings(client, entry_point, TEXTS[20:]) == []
    assert entry_point(client, TEXTS[20:]).usage.cached_texts == 10


def test_redis_is_not_asked_again_for_some_seconds(start_server, client_for, entry_point, monkeypatch):
    monkeypatch.setattr(redis_cache, "RETRY_SECONDS", 1e9)
    server = start_server()
    client = client_for(server.url)
    server.stop()
    assert len(embed_with_warnings(client, entry_point)) == 1
    server.start()
    assert embed_with_warnings(client, entry_point) == []
    assert values(server) == {}


def test_full_redis_is_one_warning(start_server, client_for, entry_point):
    server = start_server("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    client = client_for(server.url)
    (message,) = embed_with_warnings(client, entry_point)
    assert "cannot be written: Redis at unix://" in message
    assert "is full" in message
    assert embed_with_warnings(client, entry_point) == []


@pytest.fixture(scope="module")
def locked_server(start_server):
    return start_server("--requirepass", PASSWORD)


@pytest.mark.parametrize("login", ["", "user:wrong@", f":{PASSWORD}-wrong@"])
def test_wrong_password_is_an_error_without_the_password(locked_server, client_for, entry_point, login):
    client = client_for(locked_server.url.replace("unix://", f"unix://{login}"))
    with pytest.raises(ConfigurationError, match="refuses the user or the password") as caught:
        entry_point(client, TEXTS)
    assert PASSWORD not in str(caught.value)
    assert "wrong" not in str(caught.value)


def test_right_password_opens_the_cache(locked_server, client_for, entry_point):
    client = client_for(locked_server.url.replace("unix://", f"unix://:{PASSWORD}@"))
    assert embed_with_warnings(client, entry_point) == []
    assert entry_point(client, TEXTS).usage.cached_texts == len(TEXTS)


def test_read_only_replica_is_one_warning(start_server, client_for, entry_point):
    messages = embed_with_warnings(client_for(start_server("--replicaof", "127.0.0.1", "1").url), entry_point)
    assert len(messages) == 1


def test_cache_shows_no_password():
    cache = RedisCache(f"redis://user:{PASSWORD}@localhost:6379/0?ttl=60")
    assert repr(cache) == "RedisCache('redis://localhost:6379/0')"
    with EmbeddingClient(DASHSCOPE, cache=f"redis://user:{PASSWORD}@localhost", api_key="sk") as client:
        assert PASSWORD not in repr(client) + repr(client._options) + repr(client._options.model_dump())


@pytest.mark.parametrize("scheme", ["REDIS", "redis+sentinel", "http", "postgresql"])
def test_other_url_is_refused_without_its_password(scheme):
    with pytest.raises(ConfigurationError, match="redis://host:6379/0") as caught:
        open_cache(f"{scheme}://user:{PASSWORD}@localhost?password={PASSWORD}")
    assert PASSWORD not in str(caught.value)


def test_url_without_the_package_redis_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"multiembed\[redis\]"):
        EmbeddingClient(DASHSCOPE, cache="redis://localhost", api_key="sk")


# ── the command line ─────────────────────────────────────────────────────────────────────────────


def info(*arguments):
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["cache", *arguments])


def test_info_shows_number_and_size_of_the_vectors(client_for, server):
    client = client_for(server.url)
    client.embed(TEXTS)
    client.embed(TEXTS[:3], "query")
    claim_of_another(server, client, ["claimed"]).close()
    done = info("info", server.url, "--json")
    found = json.loads(done.output)
    assert [(each["role"], each["vectors"], each["model"]) for each in found["namespaces"]] == [
        ("document", 30, DASHSCOPE),
        ("query", 3, DASHSCOPE),
    ]
    assert found["file"] == server.url
    assert found["bytes"] == sum(each["bytes"] for each in found["namespaces"]) > 33 * SIZE * 4
    plain = info("info", server.url).output
    assert "33 vectors" in plain
    assert "1970" not in plain


def test_info_of_redis_that_is_away_is_an_error(tmp_path):
    done = info("info", f"redis://:{PASSWORD}@127.0.0.1:1")
    assert done.exit_code == 2
    assert "cannot be reached" in done.output
    assert PASSWORD not in done.output


@pytest.mark.parametrize("command", [["prune", "--older-than", "1"], ["export", "-o", "out.jsonl"]])
def test_other_commands_refuse_the_url(server, command):
    done = info(command[0], server.url, *command[1:])
    assert done.exit_code == 2
    assert "ttl" in done.output


def test_embed_command_keeps_vectors_in_redis(simulator, server, tmp_path, monkeypatch):
    monkeypatch.setenv("DASHSCOPE_API_KEY", simulator.api_key)
    monkeypatch.setenv("DASHSCOPE_BASE_URL", simulator.base_url("dashscope"))
    source, out = tmp_path / "in.jsonl", tmp_path / "out.parquet"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    arguments = ["embed", str(source), "-o", str(out), "--model", DASHSCOPE, "--cache", server.url, "--overwrite"]
    for sent in (30, 0):
        simulator.clear()
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert len(texts_sent(simulator)) == sent
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.parquet"]
