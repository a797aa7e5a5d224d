"""The option `quota`: its values, the environment, all entry points, and that it shows no password."""

from __future__ import annotations

import asyncio
import os
import pickle
import stat
import tempfile
from pathlib import Path

import pytest
from support.adapters import client_of

from langchain_multiembed import MultiEmbeddings
from llamaindex_multiembed import MultiEmbedding
from multiembed import ConfigurationError, EmbeddingClient, EmbeddingOptions
from multiembed.config.request_config import resolve_config
from multiembed.transport import machine_link
from multiembed.transport.machine_link import HostLock, runtime_folder

PASSWORD = "pass-word"
URL = f"redis://user:{PASSWORD}@redis.example:6380/1?password={PASSWORD}"
MODEL = "dashscope:text-embedding-v4"
ENTRY_POINTS = {
    "client": lambda **options: EmbeddingClient(MODEL, api_key="sk-a", **options),
    "langchain": lambda **options: MultiEmbeddings(model=MODEL, api_key="sk-a", **options),
    "llamaindex": lambda **options: MultiEmbedding(model_name=MODEL, api_key="sk-a", **options),
}


@pytest.fixture(params=ENTRY_POINTS)
def make(request, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    return ENTRY_POINTS[request.param]


def quota_of(embedder):
    return (embedder if isinstance(embedder, EmbeddingClient) else client_of(embedder)).target.quota


@pytest.mark.parametrize("quota", [None, "", "machine", URL, "rediss://host", "unix:///run/redis.sock"])
def test_quota_is_taken_by_every_entry_point(make, quota, monkeypatch, tmp_path):
    monkeypatch.setattr(machine_link, "_MAX_SOCKET_PATH", 1000)
    assert quota_of(make(quota=quota)) == (quota or None)


def test_quota_of_the_environment_is_used_unless_given(make, monkeypatch):
    monkeypatch.setenv("MULTIEMBED_QUOTA", " redis://host ")
    assert quota_of(make()) == "redis://host"
    assert quota_of(make(quota="redis://other")) == "redis://other"
    monkeypatch.setenv("MULTIEMBED_QUOTA", f"http://:{PASSWORD}@host")
    with pytest.raises(ConfigurationError, match="MULTIEMBED_QUOTA says which processes share") as caught:
        make()
    assert PASSWORD not in str(caught.value)


@pytest.mark.parametrize("quota", ["Machine", "process", f"http://:{PASSWORD}@h", f"memcached://:{PASSWORD}@h", "/a"])
def test_quota_of_another_kind_is_a_configuration_error(make, quota):
    with pytest.raises(ConfigurationError, match=r"'machine'.*redis://host:6379/0, rediss://… or unix://") as caught:
        make(quota=quota)
    assert PASSWORD not in str(caught.value)


def test_quota_url_shows_no_password(make):
    embedder = make(quota=URL)
    assert PASSWORD not in repr(embedder) + str(embedder)
    options = EmbeddingOptions(quota=URL)
    assert "redis://redis.example:6380/1" in repr(options)
    assert PASSWORD not in repr(options) + repr(resolve_config(MODEL, options, {"DASHSCOPE_API_KEY": "sk"}))
    assert "quota" not in options.model_dump()


def test_quota_is_pickled_as_its_text(make, monkeypatch):
    monkeypatch.setenv("DASHSCOPE_API_KEY", "sk-a")
    assert quota_of(pickle.loads(pickle.dumps(make(quota=URL)))) == URL


def test_local_model_has_no_quota(monkeypatch):
    monkeypatch.setenv("MULTIEMBED_QUOTA", "machine")
    assert EmbeddingClient("local").target.quota is None


# ── the machine's folder ─────────────────────────────────────────────────────────────────────────


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A runtime folder of the user."""
    monkeypatch.setattr(machine_link, "_MAX_SOCKET_PATH", 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(machine_link.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    tmp_path.chmod(0o700)
    return tmp_path


def test_runtime_folder_is_private(base):
    assert runtime_folder() == base / "multiembed"
    assert stat.S_IMODE(runtime_folder().stat().st_mode) == 0o700


def test_folder_that_is_open_to_others_is_not_used(base, monkeypatch):
    base.chmod(0o755)
    monkeypatch.setattr(
        machine_link, "_is_private", lambda folder, uid: "/run/user" not in str(folder) and check(folder, uid)
    )
    assert runtime_folder() == base / "tmp" / f"multiembed-{os.getuid()}"
    runtime_folder().chmod(0o777)
    with pytest.raises(ConfigurationError, match="belongs to another user or is open to others"):
        runtime_folder()


check = machine_link._is_private


def test_folder_that_is_a_link_is_refused(base):
    (base / "elsewhere").mkdir(mode=0o700)
    (base / "multiembed").symlink_to(base / "elsewhere")
    with pytest.raises(ConfigurationError, match="only you may enter"):
        runtime_folder()


def test_folder_that_cannot_be_made_is_a_configuration_error(base):
    (base / "multiembed").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be made"):
        runtime_folder()


def test_folder_with_a_long_path_is_a_configuration_error(base, monkeypatch):
    monkeypatch.setattr(machine_link, "_MAX_SOCKET_PATH", 30)
    with pytest.raises(ConfigurationError, match="shorter path"):
        EmbeddingClient(MODEL, api_key="sk-a", quota="machine")


@pytest.mark.parametrize("missing", ["fcntl", "socket.AF_UNIX"])
def test_system_without_unix_sockets_is_a_configuration_error(missing, monkeypatch):
    if missing == "fcntl":
        monkeypatch.setattr(machine_link, "fcntl", None)
    else:
        monkeypatch.delattr("socket.AF_UNIX")
    with pytest.raises(ConfigurationError, match="needs Unix sockets"):
        EmbeddingClient(MODEL, api_key="sk-a", quota="machine")


def test_redis_without_its_package_is_a_configuration_error(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r'pip install "multiembed\[redis\]"'):
        EmbeddingClient(MODEL, api_key="sk-a", quota="redis://host")


# ── the lock ─────────────────────────────────────────────────────────────────────────────────────


def test_lock_of_a_generation_is_taken_once(tmp_path):
    """Locks belong to processes, so a child tries."""
    path = tmp_path / "a.lock"
    lock = HostLock(path)
    assert lock.acquire(lock.generation)

    def in_child(generation):
        pid = os.fork()
        if pid == 0:
            os._exit(HostLock(path).acquire(generation))
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert in_child(0) == 0
    assert in_child(1) == 1  # it replaces a host that does not respond
    assert lock.generation == 1
    lock.close()
    assert in_child(0) == 0  # which has become old
    assert in_child(1) == 1


def test_quota_of_the_machine_works_for_one_process(connect, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="me") as base, connect(MODEL, quota="machine", dimensions=64) as client:
        monkeypatch.setenv("XDG_RUNTIME_DIR", base)
        assert client.embed(["a"]).vectors.shape == (1, 64)
        assert asyncio.run(client.aembed(["b"])).vectors.shape == (1, 64)
        files = sorted(Path(base, "multiembed").iterdir())
        assert {path.suffix for path in files} == {".sock", ".lock"}
        assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


def test_removed_lock_file_is_made_anew(connect, monkeypatch):
    with tempfile.TemporaryDirectory(prefix="me") as base, connect(MODEL, quota="machine", dimensions=64) as client:
        monkeypatch.setenv("XDG_RUNTIME_DIR", base)
        client.embed(["a"])
        (lock,) = Path(base, "multiembed").glob("*.lock")
        lock.unlink()
        for number in range(1000):
            client.embed([f"b{number}"])
            if lock.exists():
                break
        assert lock.exists()
        client.embed(["c"])
