"""The listening socket and its connections, each a task of one event loop; answers come from elsewhere."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import h11

from multiembed.simulator.connection import Connection

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable

    from multiembed.simulator.messages import Request

    Behaviour: TypeAlias = Callable[[Request, Connection], Awaitable[None]]
    """Takes a request and does what it likes with its connection: `send` an answer, write bytes, abort."""

_BACKLOG = 1024
_BUFFER = 256 * 1024
_TURNS = 5


class Server:
    """Serves a listening socket until it is told to stop."""

    def __init__(self, behave: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self._behave = behave
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, listener: socket.socket, on_ready: Callable[[Callable[[], None]], None]) -> None:
        """Serve. `on_ready` is given the function that ends it, which any thread may call."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            loop.call_soon_threadsafe(stop.set)

        server = await asyncio.start_server(self._accept, sock=listener, backlog=_BACKLOG, limit=_BUFFER)
        try:
            on_ready(end)
            await stop.wait()
        finally:
            # asyncio loses a connection that it has accepted but not yet introduced when the server is closed. So
            # first no more are accepted; then those that were get their turns of the loop to become tasks.
            with suppress(NotImplementedError):  # Windows has no such call
                loop.remove_reader(server.sockets[0].fileno())
            for _ in range(_TURNS):
                await self._break_off()
                await asyncio.sleep(0)
            server.close()
            await server.wait_closed()

    async def _break_off(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._converse(Connection(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        # Here and not at the end of the task: a task that is cancelled before its first step has no end.
        task.add_done_callback(lambda _: writer.transport.abort())

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            task.get_loop().call_exception_handler(
                {"message": "the simulator failed to answer", "exception": error, "task": task}
            )

    async def _converse(self, connection: Connection) -> None:
        with suppress(ConnectionError, ssl.SSLError):  # the client left: nobody to tell
            if self._tls is not None:
                # Here and not when listening, so that a client which never shakes hands is one of the tasks, too.
                await connection.writer.start_tls(self._tls)
            try:
                while (request := await connection.receive()) is not None:
                    await self._behave(request, connection)
                    if not connection.next_cycle():
                        break
            except h11.RemoteProtocolError as error:
                await connection.refuse(error)
            # After all is sent, unlike the abort that follows.
            connection.writer.close()
            await connection.writer.wait_closed()
