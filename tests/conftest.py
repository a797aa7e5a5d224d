"""Fixtures of all tests: an environment without keys, one simulator, clients of it, and the two ways to call them."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import threading
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import numpy.testing  # noqa: F401 - numpy 1.26 starts a program when it is first imported
import pytest
from hypothesis import settings
from support.in_turn import WAYS
from support.providers import ENVIRONMENT_NAMES
from support.workers import is_sending

from multiembed import EmbeddingClient
from multiembed.ratelimit.registry import forget_limiters
from multiembed.responses.duplicate_responses import guard_for
from multiembed.simulator import Simulator
from multiembed.transport import tls
from multiembed.transport.proxies import environment_proxies

# A console that is made while this is set keeps its width for good, and pytest-xdist sets it in its workers.
os.environ.pop("COLUMNS", None)

# Programs inherit what is ignored: a shell ignores Ctrl-C in background jobs, nohup ignores the hang-up.
for _number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, signal.default_int_handler if _number == signal.SIGINT else signal.SIG_DFL)

# A busy machine is no mistake of the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

_VENDORS = ("MULTIEMBED_", "OPENAI_", *(f"{name.partition('_')[0]}_" for name in ENVIRONMENT_NAMES))


@pytest.hookimpl(optionalhook=True)  # a run without the plugin
def pytest_xdist_auto_num_workers(config):
    """Two workers for each core, since half of a run is waiting: 249 s on two cores, 366 with two (2026-11-29).

    Unit tests wait for nothing.
    """
    cores = min(os.cpu_count() or 1, 8)
    return cores if config.option.markexpr == "unit" else 2 * cores


def pytest_ignore_collect(collection_path, config):
    """Collect no test that the marks of `-m` leave out anyway.

    `unit`: other files import the frameworks, half of the run's time. `stores`: other folders import packages that an
    environment of stores lacks.
    """
    if config.option.markexpr == "unit" and collection_path.match("test_*.py"):
        return "mark.unit" not in collection_path.read_text("utf-8") or None
    if (
        config.option.markexpr == "stores"
        and collection_path.is_dir()
        and collection_path.parent == Path(__file__).parent
    ):
        return collection_path.name != "stores" or None
    return None


def pytest_collection_modifyitems(items):
    """Mark what is not a unit test: it may open sockets on this machine, start threads and programs."""
    for item in items:
        if not item.get_closest_marker("unit"):
            item.add_marker(pytest.mark.socket)


def pytest_collection_finish():
    """Leave the 600,000 objects of the collected tests out of garbage collections, which took 0.4 s each (2026-11)."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def neither_socket_nor_thread(request, monkeypatch):
    """Make a unit test fail that opens a connection, or starts a thread or a program."""
    if not request.node.get_closest_marker("unit"):
        return

    def refuse(*_, **__):
        raise AssertionError("a test with the marker unit opened a connection, or started a thread or a program")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "bind", refuse)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No key, no address and no proxy of the machine reaches a test."""
    for name in list(os.environ):
        if name.upper().startswith(_VENDORS) or name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    environment_proxies.cache_clear()


@pytest.fixture(autouse=True)
def fresh_limiters():
    """No test waits for the requests of another: limiters live as long as the process, and the key is the same."""
    forget_limiters()
    guard_for.cache_clear()  # guards are kept by host and port, and a port may be used again


@pytest.fixture(scope="session")
def running_simulator():
    """The one server of the whole run; tests take `simulator`."""
    with Simulator() as running:
        yield running


@pytest.fixture
def simulator(running_simulator, come_to_rest):
    """The server, with nothing recorded yet, and nothing on its way that an earlier test has left behind."""
    running_simulator.heal()
    running_simulator.unlimit()
    come_to_rest(running_simulator)
    running_simulator.clear()
    return running_simulator


@pytest.fixture
def come_to_rest():
    """`come_to_rest(simulator)`: waits until nothing is on its way to a simulator that an earlier test has left."""
    return _come_to_rest


def _come_to_rest(simulator, patience=20.0):
    """Wait for calls that still send, for what lies unread in sockets, and for answers that are being made."""
    end = time.monotonic() + patience
    while is_sending() and time.monotonic() < end:
        time.sleep(0.002)
    with closing(HTTPConnection(urlsplit(simulator.url).netloc, timeout=patience)) as connection:
        connection.request("GET", "/come-to-rest")  # answered after all that was sent before it has been read
        connection.getresponse().read()
    simulator.clear()
    while simulator.peak_in_flight and time.monotonic() < end:
        time.sleep(0.005)
        simulator.clear()  # the peak begins anew with what is in flight


@pytest.fixture
def connect(simulator):
    """`connect(model, **options)`: an EmbeddingClient aimed at the simulator, closed when the test ends."""
    clients = []

    def make(model, **options):
        provider = model.partition(":")[0]
        options = {"api_key": simulator.api_key, "base_url": simulator.base_url(provider), **options}
        clients.append(EmbeddingClient(model, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture(scope="session")
def programs():
    """Programs forked from one that has imported the client, the command line and the files."""
    from support.fork_server import fork_server  # which imports the frameworks

    with fork_server("multiembed.cli.app", "multiembed.cli.run_embed", "pyarrow.parquet") as running:
        yield running


@pytest.fixture(scope="session")
def framework_programs():
    """Programs forked from one that has imported both frameworks, too."""
    from support.fork_server import fork_server

    with fork_server("support.adapters", "llama_index.core.ingestion", "langchain_core.indexing") as running:
        yield running


@pytest.fixture
def trust(monkeypatch, tmp_path):
    """`trust(pem, …)`: trust these authorities."""

    def certify(*authorities):
        file = tmp_path / "authorities.pem"
        file.write_text("".join(authorities))
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        tls.ssl_context.cache_clear()

    yield certify
    tls.ssl_context.cache_clear()


@pytest.fixture(params=WAYS.values(), ids=WAYS)
def entry_point(request):
    """`entry_point(client, texts, role="document")`: the call by `embed`, and by `aembed` in an event loop."""
    return request.param
