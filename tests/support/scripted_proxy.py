"""A proxy on loopback that gives each connection one response: `with scripted_proxy(response) as port`."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager, suppress


@contextmanager
def scripted_proxy(response, onto=None):
    """A server that reads the head of a request, sends `response`, and then tunnels or closes.

    Args:
        response: bytes.
        onto: port on loopback that the rest of the connection is tunnelled to; None closes the connection.

    Yields:
        Its port.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, response, onto), daemon=True).start()
        yield listener.getsockname()[1]


def _accept(listener, response, onto):
    with suppress(OSError):  # the listener was closed
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, response, onto), daemon=True).start()


def _serve(client, response, onto):
    with client, suppress(OSError):
        head = b""
        while b"\r\n\r\n" not in head:
            data = client.recv(1 << 16)
            if not data:
                return
            head += data
        client.sendall(response)
        if onto is None:
            client.shutdown(socket.SHUT_WR)
            while client.recv(1 << 16):  # a socket that is closed with bytes unread resets the connection
                pass
            return
        with socket.create_connection(("127.0.0.1", onto)) as server:
            back = threading.Thread(target=_copy, args=(server, client), daemon=True)
            back.start()
            _copy(client, server)
            back.join(5)


def _copy(source, target):
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
