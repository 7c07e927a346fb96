"""The leanest HTTP server in Python: one loop over sockets, every answer the same, after a fixed wait."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Iterator
from time import perf_counter

from helpers.testbed.waiter import Waiter

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.contextmanager
def program(wait_s: float) -> Iterator[tuple[str, int]]:
    """Its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        threading.Thread(target=serve, args=(listener, wait_s), daemon=True).start()
        yield listener.getsockname()


def serve(listener: socket.socket, wait_s: float) -> None:
    waiter = Waiter()
    waiter.sockets.register(listener, selectors.EVENT_READ)
    answers: deque[tuple[float, socket.socket]] = deque()  # when each is due
    while True:
        for key, _ in waiter.wait(answers[0][0] - perf_counter() if answers else None):
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if sock is listener:
                client, _ = listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                waiter.sockets.register(client, selectors.EVENT_READ)
            elif not received(sock):
                waiter.sockets.unregister(sock)
                sock.close()
            elif wait_s:
                answers.append((waiter.time + wait_s, sock))
            else:
                send(sock)
        while answers and answers[0][0] <= perf_counter():
            send(answers.popleft()[1])


def received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except ConnectionError:
        return b""


def send(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it may have gone meanwhile
        sock.send(ANSWER)
