"""Link through Redis: who is the host, and which process has ended, by its connection and not only by its silence."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import pytest
from support.redis_server import RedisServer, require_redis_server

from multiembed.transport import redis_link
from multiembed.transport.link import HOST
from multiembed.transport.redis_link import RedisLink

pytestmark = pytest.mark.redis
NEVER = 3600.0
"""Seconds of a lease that does not end in the time of a test."""


@pytest.fixture
def url():
    """URL of a Redis server on a socket with a short path."""
    require_redis_server()
    with tempfile.TemporaryDirectory(prefix="me") as folder:
        server = RedisServer(Path(folder)).start()
        yield server.url
        server.stop()


class Handler:
    """Remembers the events of a link."""

    def __init__(self):
        self.events = asyncio.Queue()

    async def wait_for(self, *expected):
        """Take events until the expected one."""
        async with asyncio.timeout(20.0):
            while await self.events.get() != expected:
                pass

    def on_elected(self):
        self.events.put_nowait(("elected",))

    def on_connected(self):
        self.events.put_nowait(("connected",))

    def on_disconnected(self):
        self.events.put_nowait(("disconnected",))

    def on_failed(self, reason):
        self.events.put_nowait(("failed", reason))

    def on_messages(self, sender, messages):
        self.events.put_nowait(("messages", sender, messages))

    def on_member_gone(self, member):
        self.events.put_nowait(("gone", member))


async def host_and_member(url):
    """Links of a host and of a member that the host knows, each with its handler."""
    links, handlers = [], []
    for event in ("elected", "connected"):
        handlers.append(Handler())
        links.append(RedisLink(url, "quota", handlers[-1]))
        links[-1].start()
        await handlers[-1].wait_for(event)
    host, member = links
    member.send(HOST, "hello")
    await handlers[0].wait_for("messages", member.member, [["hello"]])
    return host, handlers[0], member, handlers[1]


async def test_member_whose_connection_ends_is_reported(url):
    host, handler, member, _ = await host_and_member(url)
    member.close()
    await handler.wait_for("gone", member.member)
    assert handler.events.empty()
    host.close()


async def test_host_whose_connection_ends_is_replaced_at_once(url, monkeypatch):
    monkeypatch.setattr(redis_link, "LEASE", NEVER)
    host, _, member, handler = await host_and_member(url)
    host.close()
    await handler.wait_for("elected")
    assert member.may_decide()
    member.close()


async def test_silent_host_with_a_connection_stays_host(url, monkeypatch):
    monkeypatch.setattr(redis_link, "LEASE", NEVER)
    host, _, member, handler = await host_and_member(url)
    looked = asyncio.Event()
    on_lease = member._on_lease
    monkeypatch.setattr(member, "_on_lease", lambda *values: (on_lease(*values), looked.set()))
    async with asyncio.timeout(20.0):
        await looked.wait()
    assert handler.events.empty()
    assert not member.is_host
    host.close()
    member.close()
