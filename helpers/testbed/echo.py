"""A server that sends back what it gets, in plain and over TLS, in a process of its own.

What has travelled to it and back has taken one round trip: the yardstick of every distance here.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping

from helpers.testbed import tls
from helpers.testbed.program import running

Address = tuple[str, int]
CHUNK = 64 * 1024


@contextlib.contextmanager
def serving(identity: tls.Identity | None = None, *, curve: str | None = None) -> Iterator[Address]:
    """The address of an echo server; with an `identity` it speaks TLS, over `curve` alone if one is given."""
    settings = {"identity": vars(identity) if identity else None, "curve": curve}
    with running(__name__, **settings) as (host, port):
        yield host, port


@contextlib.contextmanager
def program(identity: Mapping[str, str] | None, curve: str | None) -> Iterator[Address]:
    """What the process does: a thread for each connection, for they are few."""
    context = tls.server_context(tls.Identity(**identity), curve=curve) if identity else None
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, context), daemon=True).start()
        yield listener.getsockname()


def _accept(listener: socket.socket, context: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError):  # the listener is closed in the end
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_echo, args=(connection, context), daemon=True).start()


def _echo(connection: socket.socket, context: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError), connection:
        ours = context.wrap_socket(connection, server_side=True) if context else connection
        with ours:
            while data := ours.recv(CHUNK):
                ours.sendall(data)
