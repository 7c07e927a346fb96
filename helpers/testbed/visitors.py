"""Clients that come one by one with one request each, and what a queue looks like from the outside; and slow clients.

All are served by one thread: they wait most of the time, and what they see is a matter of milliseconds.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter

from helpers.testbed.load import CONTENT_LENGTH, HEAD_END, READ

ANSWERED, TURNED_AWAY, CUT_OFF, REFUSED, GAVE_UP = "answered", "turned away", "cut off", "refused", "gave up"
SLOW_HEAD = b"GET / HTTP/1.1\r\nHost: slow\r\nX-Slow: "  # and then the letter a, for ever


@dataclass(frozen=True)
class Visit:
    """What became of one client. Times are seconds since it came.

    `answered`; `turned away` with status 503; `cut off` without an answer, or with any other error;
    `refused` a connection; or it `gave up`.
    """

    outcome: str
    connected: float | None  # None: it never was
    ended: float


def visit(
    address: tuple[str, int], arrivals: Sequence[float], *, path: str = "/", patience_s: float = 5.0
) -> list[Visit]:
    """A client at each of these moments (seconds from now, ascending): GET `path` on a connection of its own."""
    request = f"GET {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nConnection: close\r\n\r\n".encode()
    start = perf_counter()
    clients = [_Client(start + arrival, request) for arrival in arrivals]
    coming, here = deque(clients), set[_Client]()
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        while coming or here:
            moments = [each.due + patience_s for each in here] + [each.due for each in list(coming)[:1]]
            ready = selector.select(max(0.0, min(moments) - perf_counter()))
            for key, _ in ready:
                key.data.go_on(selector)
            for client in [each for each in here if perf_counter() >= each.due + patience_s]:
                client.end(GAVE_UP)
            for client in [each for each in here if each.outcome is not None]:
                selector.unregister(client.socket)
                client.socket.close()
                here.remove(client)
            while coming and coming[0].due <= perf_counter():
                client = coming.popleft()
                stack.enter_context(client.connect(address))
                selector.register(client.socket, selectors.EVENT_WRITE, client)
                here.add(client)
    return [Visit(each.outcome or GAVE_UP, each.connected, each.ended) for each in clients]


class _Client:
    """One client on its way: connecting, waiting for its answer, and then its outcome."""

    def __init__(self, due: float, request: bytes) -> None:
        self.due, self.request = due, request
        self.connected: float | None = None
        self.outcome: str | None = None
        self.ended = 0.0
        self.received = b""

    def connect(self, address: tuple[str, int]) -> socket.socket:
        """Begin to; the selector tells when it is done."""
        self.due = perf_counter()
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(address)
        return self.socket

    def go_on(self, selector: selectors.BaseSelector) -> None:
        try:
            if self.connected is None:
                if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    return self.end(REFUSED)
                self.connected = perf_counter() - self.due
                selector.modify(self.socket, selectors.EVENT_READ, self)
                with contextlib.suppress(OSError):  # who was turned away can still read why
                    self.socket.send(self.request)
                return
            content = self.socket.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        self.received += content
        if _is_complete(self.received):
            status = self.received[9:12]
            self.end(ANSWERED if status < b"400" else TURNED_AWAY if status == b"503" else CUT_OFF)
        elif not content:
            self.end(CUT_OFF)

    def end(self, outcome: str) -> None:
        self.outcome, self.ended = outcome, perf_counter() - self.due


def _is_complete(answer: bytes) -> bool:
    head = answer.find(HEAD_END)
    length = CONTENT_LENGTH.search(answer, 0, head + 2) if head > 0 else None
    return length is not None and len(answer) >= head + len(HEAD_END) + int(length[1])


@contextlib.contextmanager
def slow_clients(address: tuple[str, int], count: int, *, byte_s: float) -> Iterator[list[socket.socket]]:
    """So many clients, each in the middle of a request of which it sends one byte every so often.

    Yields the sockets of those that the server has not cut off.
    """
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(address, timeout=5)) for _ in range(count)]
        for sock in sockets:
            sock.setblocking(False)
        stop = threading.Event()
        thread = threading.Thread(target=_drip, args=(sockets, byte_s, stop), daemon=True)
        thread.start()
        try:
            yield sockets
        finally:
            stop.set()
            thread.join()


def _drip(sockets: list[socket.socket], byte_s: float, stop: threading.Event) -> None:
    sent = 0
    while sockets and not stop.is_set():
        sockets[:] = [each for each in sockets if _send(each, SLOW_HEAD[sent : sent + 1] or b"a")]
        sent += 1
        stop.wait(byte_s)


def _send(sock: socket.socket, byte: bytes) -> bool:
    """Send the byte; whether the server still listens. All that it may have to say is that it doesn't."""
    with contextlib.suppress(OSError):
        sock.send(byte)
        try:
            sock.recv(READ)
        except BlockingIOError:
            return True
    sock.close()
    return False
