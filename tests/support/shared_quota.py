"""Processes that share a quota, in virtual time: links without sockets, and a limiter for each call of an account."""

from __future__ import annotations

import asyncio

import orjson

from multiembed.execution.workers import WorkerPool
from multiembed.ratelimit.limiter import AccountLimiter
from multiembed.ratelimit.shared.member import QuotaMember
from multiembed.transport.link import ALL, HOST, Link
from support.virtual_clock import Account


class Hub:
    """Network of memory links: elects the host, and carries messages with a delay.

    Args:
        loop: virtual.
        delay: seconds of a message.
        election: seconds until a host that has ended is replaced.
    """

    def __init__(self, loop, *, delay=0.0005, election=0.02):
        self.loop, self.delay, self.election = loop, delay, election
        self.links = []
        self.host = None
        self.is_away = False

    def elect(self):
        if self.host is None and self.links and not self.is_away:
            self.host = self.links[0]
            self.host.is_host = True
            self.host._handler.on_elected()
            for link in list(self.links):
                link._handler.on_connected()

    def lose_host(self):
        if self.host is not None:
            self.host.is_host = False
            self.host = None
        for link in list(self.links):
            link._handler.on_disconnected()

    def kill(self, link):
        """End a process: it sends and hears nothing any more."""
        link.is_dead = True
        self.links.remove(link)
        if link is self.host:
            self.host = None
            for other in list(self.links):
                other._handler.on_disconnected()
            self.loop.call_later(self.election, self.elect)
        elif self.host is not None:
            self.host._handler.on_member_gone(link.member)

    def go_away(self):
        """End all links, as a Redis server that ends."""
        self.is_away = True
        self.lose_host()
        for link in list(self.links):
            link._handler.on_failed("the network is away.")

    def come_back(self):
        self.is_away = False
        self.elect()


class MemoryLink(Link):
    """Link through a hub."""

    def __init__(self, hub, handler):
        super().__init__(handler)
        self.hub = hub
        self.is_dead = False
        self.sent = []
        """All messages, as they would travel."""

    async def _run(self):
        self.hub.links.append(self)
        if self.hub.host is None:
            self.hub.elect()
        else:
            self._handler.on_connected()

    def _transmit(self, recipient, messages):
        raw = orjson.dumps(messages)
        self.sent.append(raw)
        hub = self.hub
        if self not in hub.links:
            return
        if recipient == HOST:
            targets = [hub.host]
        else:
            targets = [link for link in hub.links if recipient in (ALL, link.member) and link is not self]
        for target in targets:
            if target is not None:
                sender = self.member if recipient == HOST else HOST
                hub.loop.call_later(hub.delay, self._arrive, target, sender, raw)

    def _arrive(self, target, sender, raw):
        alive = target in self.hub.links and (target.is_host if sender != HOST else self is self.hub.host)
        if alive:
            assert target.receive(sender, orjson.loads(raw))

    def drop(self, member):
        pass

    def _close(self):
        if self in self.hub.links:
            self.hub.kill(self)


class SharedAccount(Account):
    """Account whose calls run in processes of their own: `workers` limiters that share its quota."""

    def __init__(self, provider, *, workers=4, hub=None, **options):
        super().__init__(provider, **options)
        self.hub = Hub(self.loop, **(hub or {}))
        self.limiters = []
        self.pools = []
        for _ in range(workers):
            self.add_worker()

    def add_worker(self):
        limiter = AccountLimiter(self.loop.time)
        limiter.upstream = QuotaMember(limiter, lambda handler: MemoryLink(self.hub, handler))
        self.limiters.append(limiter)
        return limiter

    def link(self, index):
        """The link of a worker."""
        return self.limiters[index].upstream._link

    def run_workers(self, seconds, *, limits=None, changes=()):
        """Run one call in each worker until so many seconds have passed."""
        for when, change in changes:
            self.loop.call_at(when, change)

        async def run():
            tasks = [asyncio.ensure_future(self._work(limiter, seconds, limits)) for limiter in self.limiters]
            self.tasks = tasks
            await asyncio.gather(*tasks, return_exceptions=True)
            for limiter in self.limiters:
                limiter.upstream.close()

        try:
            self.loop.run_until_complete(run())
        finally:
            self.ended = self.loop.now
            self.loop.close()

    async def _work(self, limiter, seconds, limits):
        self.limiter = limiter
        pool = WorkerPool(self._source(self._take_until(seconds), limits), self._send)
        await pool.run(bool)

    async def _send(self, sent):
        """Send a request. The server works on it although the worker is killed."""
        task = self.loop.create_task(super()._send(sent))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return await asyncio.shield(task)

    def kill(self, index):
        """End a worker in the middle."""
        self.hub.kill(self.link(index))
        self.limiters[index].upstream.close()
        self.tasks[index].cancel()
