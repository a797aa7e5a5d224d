"""Link among processes on any machines, through Redis: a key with a lease names the host, channels carry the messages.

Redis' clock alone ends the lease. Names hold a digest of the account in one hash tag, and no key of a provider. The
host decides with the same limiter as everywhere, so that no limit needs to be counted a second time, in Lua.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from multiembed.transport.link import ALL, HOST, MAX_PROTOCOL, PROTOCOL, Link
from multiembed.transport.redis_connection import TIMEOUT, aconnect, explain

if TYPE_CHECKING:
    from multiembed.transport.link import LinkHandler, Messages

LEASE = 1.0
"""Seconds for which a host stays host without renewing."""
_RENEWAL = 0.25
_SILENCE = 0.3
"""Seconds without a message of the host, which sends ten in each second, until the lease is looked at."""
_POLL = 0.1
_LOST = 3.0
"""Seconds without a message of a host that renews its lease, until the connections are made anew."""
_RETRY = 1.0

_SCRIPT = """
local function listens(member) return redis.call('PUBSUB', 'NUMSUB', ARGV[3] .. member)[2] > 0 end
local holder = redis.call('GET', KEYS[1])
if holder == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
elseif not holder or not listens(holder) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  holder = ARGV[1]
end
local others, gone = 0, {}
for number = 2, #KEYS do others = others + redis.call('EXISTS', KEYS[number]) end
for number = 4, #ARGV do if not listens(ARGV[number]) then gone[#gone + 1] = ARGV[number] end end
return {holder, others, gone}
"""
"""Renew the lease, or take it if it has ended or its holder's connection has. Returns: its holder, the number of leases
of other versions, and the members in ARGV whose connections have ended.

PEXPIRE works on a server that is full, where SET does not."""


class RedisLink(Link):
    """Link among all processes that name a Redis server.

    Args:
        url: of the server.
        name: of the quota.
        handler: of the events.
    """

    def __init__(self, url: str, name: str, handler: LinkHandler) -> None:
        super().__init__(handler)
        self._url = url
        tag = f"{{multiembed:{name}}}:"
        self._leases = [f"{tag}{version}:host" for version in dict.fromkeys((PROTOCOL, *range(1, MAX_PROTOCOL + 1)))]
        """Keys of the leases of all versions, this one's first."""
        self._pool: Any = aconnect(url).connection_pool
        """Makes connections; it keeps none."""
        database = int(self._pool.connection_kwargs.get("db") or 0)
        self._channels = f"{tag}{PROTOCOL}:{database}:"  # channels are common to all databases of a server
        self._members: set[str] = set()
        """As the host: the members that have sent messages."""
        self._host: str | None = None
        """Name of the host, which may be this process."""
        self._last_heard = 0.0
        self._leased_until = 0.0
        self._next_look = 0.0
        """When to renew the lease, or to look who holds it."""
        self._outgoing: dict[tuple[str, bool], Messages] = {}
        """By recipient, and whether the message is for the host there."""
        self._wake = asyncio.Event()
        self._works = False
        """Whether the present connections have carried messages."""

    async def _run(self) -> None:
        while True:
            self._works = False
            try:
                await self._session()
            except Exception as error:  # noqa: BLE001 - whatever fails, no request may wait without end
                self._lose_host()
                if not self._works:  # a connection that breaks is made anew at once
                    self._handler.on_failed(explain(error, self._url))
                    await asyncio.sleep(_RETRY)

    def _lose_host(self) -> None:
        self.is_host, self._host = False, None
        self._members.clear()
        self._outgoing.clear()
        self._handler.on_disconnected()

    async def _session(self) -> None:
        """Exchange messages until an error ends it."""
        subscriber, commander = self._pool.make_connection(), self._pool.make_connection()
        reader: asyncio.Task[None] | None = None
        try:
            await self._subscribe(subscriber)
            await commander.connect()
            commander.socket_timeout = None  # `_exchange` has one for all its replies, which takes less time
            reader = self.loop.create_task(self._read(subscriber), name="idle")
            reader.add_done_callback(lambda _: self._wake.set())
            self._next_look = 0.0
            while True:
                if reader.done():
                    reader.result()
                async with asyncio.timeout(TIMEOUT):
                    await self._exchange(commander)
                self._works = True
                timer = self.loop.call_at(self._next_look, self._wake.set)
                await self._wake.wait()
                timer.cancel()
        finally:
            if reader is not None:
                reader.cancel()
            for connection in (subscriber, commander):
                with suppress(Exception):
                    await connection.disconnect(nowait=True)

    async def _subscribe(self, connection: Any) -> None:
        await connection.connect()
        await connection.send_command("SUBSCRIBE", self._channels + self.member, self._channels + ALL)
        for _ in range(2):
            await connection.read_response()
        connection.socket_timeout = None

    async def _read(self, connection: Any) -> None:
        while True:
            kind, _, data = await connection.read_response()
            if kind == b"message":
                self._on_data(data)

    def _on_data(self, data: bytes) -> None:
        try:
            sender, to_host, messages = orjson.loads(data)
        except (TypeError, ValueError):  # another program's
            return
        if to_host:
            if self.may_decide():
                self._members.add(sender)
                self.receive(sender, messages)
        elif sender == self._host:
            self._last_heard = self.loop.time()
            if not self.is_host:
                self._next_look = self._last_heard + _SILENCE
                self.receive(HOST, messages)
        else:  # another process has become the host
            self._look_now()

    async def _exchange(self, connection: Any) -> None:
        """Send what is to be sent, and look after the lease."""
        self._wake.clear()
        now = self.loop.time()
        looks = now >= self._next_look
        outgoing, self._outgoing = self._outgoing, {}
        commands: list[tuple[Any, ...]] = []
        if looks:
            arguments = (self.member, int(LEASE * 1000), self._channels, *self._members)
            commands = [("EVAL", _SCRIPT, len(self._leases), *self._leases, *arguments)]
        commands += [
            ("PUBLISH", self._channels + recipient, orjson.dumps((self.member, to_host, messages)))
            for (recipient, to_host), messages in outgoing.items()
        ]
        if not commands:
            return
        asked = time.monotonic()
        await connection.send_packed_command(connection.pack_commands(commands))
        replies = [await connection.read_response() for _ in commands]
        if looks:
            holder, self.other_versions, gone = replies.pop(0)
            self._on_lease(holder.decode(), asked)
            for member in gone:
                self._members.discard(member.decode())
                self._handler.on_member_gone(member.decode())
        for (recipient, to_host), receivers in zip(outgoing, replies, strict=True):
            if to_host and receivers == 0 and recipient == self._host:
                self._look_now()

    def _look_now(self) -> None:
        self._next_look = 0.0
        self._wake.set()

    def _on_lease(self, holder: str, asked: float) -> None:
        now, before = self.loop.time(), self._host
        if holder == self.member:
            self._leased_until = asked + LEASE
            self._next_look = now + _RENEWAL
        elif now - self._last_heard > _LOST and holder == before:
            raise ConnectionError("no message arrives, though the host is alive")
        else:
            self._next_look = now + _POLL
        if holder == before:
            return
        if before is not None:
            self._lose_host()
        self._host, self._last_heard = holder, now
        if holder == self.member:
            self.is_host = True
            self._handler.on_elected()
            self.send(ALL, "host")
        self._handler.on_connected()

    def may_decide(self) -> bool:
        """Whether this process holds the lease."""
        return self.is_host and time.monotonic() < self._leased_until

    def _transmit(self, recipient: str, messages: Messages) -> None:
        to_host = recipient == HOST
        name = (self._host or "") if to_host else recipient
        self._outgoing.setdefault((name, to_host), []).extend(messages)
        self._wake.set()

    def drop(self, member: str) -> None:
        """Do nothing: there is no connection to it."""

    def _close(self) -> None:
        self.is_host, self._host = False, None
