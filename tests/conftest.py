"""What the tests share: an environment without keys, one simulator, clients aimed at it, and a client's two doors."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pytest
from hypothesis import settings

from multiembed import EmbeddingClient
from multiembed.execution.io_thread import started_io_thread
from multiembed.ratelimit.limiter import forget_limiters
from multiembed.simulator import Simulator
from multiembed.transport import tls
from multiembed.transport.proxies import environment_proxies

# A console that is made while this is set keeps its width for good, and pytest-xdist sets it in its workers.
os.environ.pop("COLUMNS", None)

# A busy machine is no mistake of the code.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

_VENDORS = ("ZHIPU", "ZAI_", "SILICONFLOW_", "DASHSCOPE_", "OPENAI_", "MULTIEMBED_")


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


def is_sending():
    """Whether the I/O thread works on a call."""
    io = started_io_thread()
    return io is not None and any(task.get_name() != "idle" for task in asyncio.all_tasks(io.loop))


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


def _embed(client, texts, role="document"):
    return client.embed(texts, role)


def _aembed(client, texts, role="document"):
    return asyncio.run(client.aembed(texts, role))


@pytest.fixture(params=[_embed, _aembed], ids=["sync", "async"])
def door(request):
    """`door(client, texts, role="document")`: the call by `embed`, and by `aembed` in an event loop of its own."""
    return request.param
