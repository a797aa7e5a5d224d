"""DNS resolver for all connections of a transport."""

from __future__ import annotations

import encodings.idna  # noqa: F401 - a look-up imports it, and a fork during that would leave the child waiting
import socket
import threading
import time
from asyncio import wrap_future
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from aiohttp.abc import AbstractResolver

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult

_TTL = 60.0
"""Seconds for which the addresses of a name are kept."""


class Resolver(AbstractResolver):
    """DNS cache that looks a name up once at a time, and remembers which of its addresses accepted a connection last.

    aiohttp's own cache changes the order of the addresses with each connection, so that every other new connection
    waits again for an address that does not answer (aiohttp 3.14.5). And its look-ups run in the loop's executor, whose
    threads the interpreter waits for when it ends; a look-up cannot be stopped.
    """

    def __init__(self) -> None:
        self._lookups: dict[tuple[str, int], tuple[float, Future[list[ResolveResult]]]] = {}
        """When each began, and its result."""
        self.preferred: dict[str, str] = {}
        """By host, the address that accepted a connection last."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name, the preferred one first."""
        started, lookup = self._lookups.get((host, port), (0.0, None))
        if lookup is None or (lookup.done() and (lookup.exception() or time.monotonic() > started + _TTL)):
            lookup = Future()
            lookup.set_running_or_notify_cancel()  # a request that is cancelled does not cancel it for the others
            self._lookups[host, port] = time.monotonic(), lookup
            run = partial(_look_up, lookup, host, port, family)
            try:
                threading.Thread(target=run, name="multiembed-dns", daemon=True).start()
            except RuntimeError:  # the system has no threads left
                run()
        addresses = await wrap_future(lookup)
        return sorted(addresses, key=lambda each: each["host"] != self.preferred.get(host))

    async def close(self) -> None:
        """Do nothing: nothing is open."""


def _look_up(lookup: Future[list[ResolveResult]], host: str, port: int, family: int) -> None:
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
        lookup.set_result([
            {
                "hostname": host,
                # Of an address in IPv6: (address, port, flow, scope).
                "host": f"{address[0]}%{address[3]}" if len(address) == 4 and address[3] else str(address[0]),
                "port": port,
                "family": kind,
                "proto": protocol,
                "flags": socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            }
            for kind, _, protocol, _, address in found
        ])  # fmt: skip
    except UnicodeError:  # IDNA refuses the name
        lookup.set_exception(socket.gaierror(socket.EAI_NONAME, "not a host name"))
    except OSError as error:
        try:  # without a free descriptor, glibc opens neither /etc/hosts nor a socket, and reports an unknown name
            socket.socket().close()
        except OSError as shortage:
            lookup.set_exception(shortage)
        else:
            lookup.set_exception(error)
