"""What servers have in common whose threads block: how connections are let in, served one by one, and ended.

Such a server says in `serve` who serves a connection; the rest is here. What is refused, and how it ends:

- Without room (`Limits.connections`, or no descriptor left) nobody is let in until there is. Who comes waits in the
  listener's queue, and the server waits too: it does not spin.
- Who is refused (413, 431, 503 …) is read from no more, and its connection is closed. If it is still sending, the
  system resets the connection, maybe before the client has read why. (nginx and Apache read on for a while against
  that: a lingering close.)
- A stop lets in who is in that queue, and then nobody. No connection is read from after what has come by then.
  Requests that have come are answered, and each answer says that it is the last one on its connection. So a request
  is lost only where an answer before it said so, or when `Limits.grace_s` is over.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from math import inf

from helpers.servers.http import READ, Limits, Parser, Work, compute, response

TICK_S = 0.1  # how often a server that has nothing to do looks whether it is to stop


class BlockingServer(ABC):
    """Serves HTTP at `listener`, which it closes in the end."""

    keeps_connections = True  # for more requests, if the client wants that

    def __init__(self, listener: socket.socket, work: Work, limits: Limits) -> None:
        self.listener, self.work, self.limits = listener, work, limits
        self.end = inf  # when everything must have ended, by time.monotonic
        self.connections: set[socket.socket] = set()
        self.changed = threading.Condition()  # whose lock guards the connections

    @abstractmethod
    def serve(self) -> None:
        """Serve until somebody calls `stop`, and everything is at its end."""

    def stop(self) -> None:
        """From any thread: end soon, and in order. Returns at once."""
        self.end = time.monotonic() + self.limits.grace_s
        self._shut(socket.SHUT_RD)

    @property
    def stopping(self) -> bool:
        return self.end < inf

    def arrivals(self) -> Iterator[socket.socket]:
        """Connections, one by one, as they come. Each must be handed to `converse` or to `refuse`."""
        while not self.stopping:
            if (connection := self._accept(TICK_S)) is not None:
                yield connection
        yield from list(iter(lambda: self._accept(0), None))  # all who wait, at once; then nobody

    def converse(self, connection: socket.socket) -> None:
        """Answer one client's requests, one after the other, until one of the two has had enough."""
        parser = Parser(self.work, self.limits)
        try:
            while data := self._read(connection, parser):
                for request in parser.feed(data):
                    time.sleep(request.wait_s)
                    if request.cpu_s:
                        compute(request.cpu_s)
                    keep = request.keep and self.keeps_connections and not self.stopping
                    connection.sendall(response(request.status, keep, request.head))
                    if not keep:
                        return
        except OSError:  # the client has gone, or does not take its answer
            pass
        finally:
            self._let_out(connection)

    def refuse(self, connection: socket.socket) -> None:
        """Tell a client that there is no room for it."""
        connection.settimeout(0)
        with contextlib.suppress(OSError):
            connection.send(response(503, keep=False))
        self._let_out(connection)

    def finish(self) -> None:
        """Let nobody in any more, and wait for the last to go. After the time of grace they have to."""
        self.listener.close()
        with self.changed:
            self.changed.wait_for(lambda: not self.connections, self.end - time.monotonic())
        self._shut(socket.SHUT_RDWR)

    def _read(self, connection: socket.socket, parser: Parser) -> bytes:
        """What the client sends next; nothing when it is done, or was too slow."""
        try:
            connection.settimeout(max(parser.deadline() - time.monotonic(), 0.001))
            data = connection.recv(READ)
            connection.settimeout(self.limits.idle_s)  # for it to take the answers
            return data
        except TimeoutError:
            if parser.begun is not None:
                connection.sendall(response(408, keep=False))
            return b""

    def _accept(self, seconds: float) -> socket.socket | None:
        """Let the next one in; None if nobody comes meanwhile, or there is no room."""
        with self.changed:
            if not self.changed.wait_for(lambda: len(self.connections) < self.limits.connections, seconds):
                return None
        try:
            self.listener.settimeout(seconds)
            connection, _ = self.listener.accept()
        except (TimeoutError, BlockingIOError):
            return None
        except ConnectionAbortedError:  # this client has gone already
            return self._accept(seconds)
        except OSError:  # no descriptor is left, say
            time.sleep(seconds)
            return None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.changed:
            self.connections.add(connection)
            if self.stopping:  # what it has sent is read, and no more
                _shut(connection, socket.SHUT_RD)
        return connection

    def _let_out(self, connection: socket.socket) -> None:
        with self.changed:
            self.connections.discard(connection)
            connection.close()
            self.changed.notify_all()

    def _shut(self, how: int) -> None:
        """End what is read, or also what is written: it wakes the threads that wait for it, too."""
        with self.changed:
            for connection in self.connections:
                _shut(connection, how)


def _shut(connection: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # the client has gone already
        connection.shutdown(how)
