"""Server: a listening socket and its connections, each a task of one event loop."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

import h11

from multiembed.simulator.connection import Connection

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Awaitable, Callable

    from multiembed.simulator.messages import Request

    Handler: TypeAlias = Callable[[Request, Connection], Awaitable[None]]
    """Handles a request on its connection: sends a response, writes bytes, or aborts."""

_BACKLOG = 1024
_BUFFER = 256 * 1024
_LOOP_ITERATIONS = 5


class Server:
    """Serves a listening socket until it is ended."""

    def __init__(self, handle: Handler, tls: ssl.SSLContext | None = None) -> None:
        self._handle = handle
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, listener: socket.socket, on_ready: Callable[[Callable[[], None]], None]) -> None:
        """Serve. `on_ready` receives the function that ends it, which any thread may call."""
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def end() -> None:
            loop.call_soon_threadsafe(stop.set)

        server = await asyncio.start_server(self._accept, sock=listener, backlog=_BACKLOG, limit=_BUFFER)
        try:
            on_ready(end)
            await stop.wait()
        finally:
            # asyncio loses a connection that is accepted, but not yet a task, when the server is closed. So first no
            # more are accepted; then the loop runs a few times, so that those that were become tasks.
            with suppress(NotImplementedError):  # Windows has no such call
                loop.remove_reader(server.sockets[0].fileno())
            for _ in range(_LOOP_ITERATIONS):
                await self._cancel_tasks()
                await asyncio.sleep(0)
            server.close()
            await server.wait_closed()

    async def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(Connection(reader, writer)))
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

    async def _serve(self, connection: Connection) -> None:
        with suppress(OSError):  # the client has gone; on its closed socket, any call may fail
            if self._tls is not None:
                # Not when listening, so that a client which never sends a ClientHello is one of the tasks, too.
                await connection.writer.start_tls(self._tls)
            try:
                while (request := await connection.receive()) is not None:
                    await self._handle(request, connection)
                    if not connection.next_cycle():
                        break
            except h11.RemoteProtocolError as error:
                await connection.refuse(error)
            # Sends what is buffered, unlike the abort that follows.
            connection.writer.close()
            await connection.writer.wait_closed()
