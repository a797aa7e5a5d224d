"""DNS look-ups for all connections of a transport."""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - a look-up imports it, and a fork during that would leave the child waiting
import errno
import math
import socket
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp.abc import AbstractResolver

if TYPE_CHECKING:
    from aiohttp.abc import ResolveResult

_TTL = 60.0
"""Seconds for which the addresses of a name are kept."""


class Resolver(AbstractResolver):
    """Looks names up, each once at a time, and remembers which address of a name answered last.

    aiohttp's own cache changes the order of the addresses with each connection, so that every other new connection
    waits again for an address that does not answer (aiohttp 3.14.5). And its look-ups run in the loop's executor, whose
    threads the interpreter waits for when it ends; a look-up cannot be stopped.
    """

    def __init__(self) -> None:
        self._look_ups: dict[tuple[str, int], tuple[float, asyncio.Future[list[ResolveResult]]]] = {}
        """Until when each holds, and its addresses."""
        self._preferred: dict[str, str] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """The addresses of a name, the one that answered last first."""
        key = host, port
        until, found = self._look_ups.get(key, (0.0, None))
        if found is None or time.monotonic() >= until:
            found = self._start(key, family)
        addresses = await asyncio.shield(found)
        preferred = self._preferred.get(host)
        return sorted(addresses, key=lambda each: each["host"] != preferred)

    async def close(self) -> None:
        """Nothing is open."""

    def answered(self, host: str, address: str) -> None:
        """Remember the address that a new connection to a host reached."""
        self._preferred[host] = address

    def _start(self, key: tuple[str, int], family: int) -> asyncio.Future[list[ResolveResult]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[ResolveResult]] = loop.create_future()
        self._look_ups[key] = math.inf, future

        def done(result: list[ResolveResult] | OSError) -> None:
            if isinstance(result, OSError):
                del self._look_ups[key]
                future.set_exception(result)
                future.exception()  # all who waited may have been cancelled
            else:
                self._look_ups[key] = time.monotonic() + _TTL, future
                future.set_result(result)

        def look_up() -> None:
            result: list[ResolveResult] | OSError
            try:
                result = _look_up(*key, family)
            except OSError as error:
                result = error
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(done, result)

        try:
            threading.Thread(target=look_up, name="multiembed-dns", daemon=True).start()
        except RuntimeError:
            done(OSError(errno.ENOMEM, "no thread could be started for the DNS look-up"))
        return future


def _look_up(host: str, port: int, family: int) -> list[ResolveResult]:
    try:
        found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)
    except ValueError:  # IDNA refuses the name
        raise socket.gaierror(socket.EAI_NONAME, "not a host name") from None
    except OSError:
        # Without a free file, glibc opens neither /etc/hosts nor a socket, and says that there is no such name.
        socket.socket().close()  # raises what is really wrong
        raise
    addresses: list[ResolveResult] = [
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
        if kind in (socket.AF_INET, socket.AF_INET6)
    ]
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    return addresses
