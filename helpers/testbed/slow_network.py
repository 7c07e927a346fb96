"""A slow network in user space: a TCP proxy that holds everything back for half a round trip, in each direction.

It runs in a process of its own, so that its work isn't done at the expense of what is measured; it needs no root, and
is there for one `with`:

    with slow_network(("127.0.0.1", 8000), round_trip_ms=10) as address:
        socket.create_connection(address)

What leaves one side is put on a line with the time at which it is due at the other: bytes, the end of a stream, a
reset, the opening of a connection. So the order is kept, nothing is lost, and the server hears of a new connection
half a round trip after it was made.

What it can't do: a proxy sees streams, not packets. This machine's kernel answers the client's SYN by itself, so that
`connect` costs no round trip here (over a real network it costs one). No packet is lost and sent again,
acknowledgements aren't delayed, no congestion window has to grow. A connection that was closed in one direction and
then reset is found out only when something is sent to it.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from time import perf_counter
from typing import Any

from helpers import machine
from helpers.testbed.program import running
from helpers.testbed.waiter import Waiter

READ = 64 * 1024  # bytes taken at once
WINDOW = 1024 * 1024  # bytes on the way to one side of a connection; then the other has to wait, as with TCP's window
QUEUE_S = 0.02  # and no more than the line's own content and so many seconds of waiting to get onto it
NEVER = float("inf")
OPEN, END, RESET = "open", "end", "reset"  # what travels beside bytes
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, for 0 s
UNDER_WAY = (0, errno.EINPROGRESS, errno.EWOULDBLOCK)


@contextlib.contextmanager
def slow_network(
    target: tuple[str, int], round_trip_ms: float = 0, *, megabits_per_s: float | None = None
) -> Iterator[tuple[str, int]]:
    """A (host, port) on this machine that leads to `target`, `round_trip_ms` further away.

    `megabits_per_s` is what all its connections together may send in each direction (None: no limit). Raises
    `ValueError` for a negative distance and for a bandwidth that isn't positive.
    """
    if not round_trip_ms >= 0:
        raise ValueError(f"round_trip_ms={round_trip_ms}: a distance is not negative")
    if megabits_per_s is not None and not megabits_per_s > 0:
        raise ValueError(f"megabits_per_s={megabits_per_s}: a bandwidth is a positive number")
    with running(__name__, target=tuple(target), round_trip_ms=round_trip_ms, megabits_per_s=megabits_per_s) as address:
        yield address[0], address[1]


@contextlib.contextmanager
def program(target: list[Any], round_trip_ms: float, megabits_per_s: float | None) -> Iterator[tuple[str, int]]:
    """The proxy, in a thread of this process until it is left."""
    machine.raise_descriptor_limit()
    with socket.create_server(("127.0.0.1", 0), backlog=4096) as listener:
        network = Network(listener, (target[0], target[1]), round_trip_ms / 2000, megabits_per_s)
        loop = threading.Thread(target=network.run, name="slow network")
        loop.start()
        try:
            yield listener.getsockname()
        finally:
            network.stop()
            loop.join()


class Line:
    """One direction of the way between client and server, which all connections share."""

    def __init__(self, delay: float, megabits_per_s: float | None) -> None:
        self.delay = delay
        self.seconds_per_byte = 8 / (megabits_per_s * 1e6) if megabits_per_s else 0.0
        self.free_at = 0.0  # when the last byte so far has left
        self.travelling: deque[tuple[float, Side, bytes | str]] = deque()  # when it is due, where, what; in that order
        self.chunk, self.window = READ, WINDOW
        if megabits_per_s:  # what is passed on in one piece must be small against the times that matter
            bytes_per_s = megabits_per_s * 1e6 / 8
            self.chunk = max(1460, min(READ, int(0.001 * bytes_per_s)))
            self.window = max(2 * self.chunk, min(WINDOW, int((delay + QUEUE_S) * bytes_per_s)))

    def send(self, to: Side, what: bytes | str, time: float) -> None:
        """Put on the line what was there at `time`. A byte takes its time to leave, after those before it."""
        size = len(what) if isinstance(what, bytes) else 0
        to.held += size
        self.free_at = max(self.free_at, time) + size * self.seconds_per_byte
        self.travelling.append((self.free_at + self.delay, to, what))

    def due(self) -> float:
        """When the next thing arrives."""
        return self.travelling[0][0] if self.travelling else NEVER


class Side:
    """One of a connection's two sockets here: the client's or the server's."""

    other: Side

    def __init__(self, sock: socket.socket, line: Line, *, is_open: bool) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = sock
        self.line = line  # that leads to the other side
        self.is_open = is_open
        self.closed = False
        self.waiting: deque[memoryview] = deque()  # bytes that have arrived and that it hasn't taken yet
        self.held = 0  # bytes in there, or on the way to there
        self.said_end = False  # it will send nothing more
        self.hears_end = False  # nor will the other side; to be passed on behind the last bytes
        self.heard_end = False
        self.watched = 0

    def events(self) -> int:
        """What is to be waited for."""
        if self.closed:
            return 0
        reads = self.is_open and not self.said_end and self.other.held < self.line.window
        writes = self.waiting or not self.is_open
        return (selectors.EVENT_READ if reads else 0) | (selectors.EVENT_WRITE if writes else 0)


class Network:
    """The loop: takes what the sockets send, and hands over what is due."""

    def __init__(
        self, listener: socket.socket, target: tuple[str, int], delay: float, megabits_per_s: float | None
    ) -> None:
        self.listener = listener
        found: Any = socket.getaddrinfo(*target, type=socket.SOCK_STREAM)[0]
        self.family, self.target = found[0], found[4]
        self.there, self.back = Line(delay, megabits_per_s), Line(delay, megabits_per_s)
        self.waiter = Waiter()
        self.sockets = self.waiter.sockets
        self.stopping, self._stop = socket.socketpair()
        self.listens = False

    def stop(self) -> None:
        """End the loop; called by another thread."""
        self._stop.close()

    def run(self) -> None:
        """Until `stop` is called. All connections are closed then, whatever is on the way."""
        self.sockets.register(self.stopping, selectors.EVENT_READ)
        self.listener.setblocking(False)
        self.listen(True)
        try:
            while self.turn():
                pass
        finally:
            for key in list(self.sockets.get_map().values()):
                if isinstance(key.data, Side):
                    self.close(key.data)
                    self.close(key.data.other)
            self.waiter.close()
            self.stopping.close()

    def turn(self) -> bool:
        """Once round the loop. Is there to be another?"""
        due = min(self.there.due(), self.back.due())
        for key, events in self.waiter.wait(None if due == NEVER else due - perf_counter()):
            if key.fileobj is self.stopping:
                return False
            if key.fileobj is self.listener:
                self.accept()
            else:
                self.serve(key.data, events)
        for line in (self.there, self.back):
            while line.due() <= perf_counter():
                _, side, what = line.travelling.popleft()
                self.arrive(side, what)
        return True

    def watch(self, side: Side) -> None:
        """Wait for what this side is to do next."""
        events = side.events()
        if events == side.watched:
            return
        if not side.watched:
            self.sockets.register(side.socket, events, side)
        elif not events:
            self.sockets.unregister(side.socket)
        else:
            self.sockets.modify(side.socket, events, side)
        side.watched = events

    def listen(self, yes: bool) -> None:
        """Take new connections, or leave them in the kernel's queue: there are descriptors for them, or not."""
        if yes and not self.listens:
            self.sockets.register(self.listener, selectors.EVENT_READ)
        elif self.listens and not yes:
            self.sockets.unregister(self.listener)
        self.listens = yes

    def accept(self) -> None:
        """Every client in the queue gets a socket towards the server, opened when the news arrives there."""
        while self.listens:
            try:
                outward = socket.socket(self.family, socket.SOCK_STREAM)
            except OSError:
                return self.listen(False)
            try:
                inward, _ = self.listener.accept()
            except OSError as error:
                outward.close()
                return self.listen(isinstance(error, (BlockingIOError, ConnectionError)))
            client, server = Side(inward, self.there, is_open=True), Side(outward, self.back, is_open=False)
            client.other, server.other = server, client
            self.there.send(server, OPEN, self.waiter.time)
            self.watch(client)

    def serve(self, side: Side, events: int) -> None:
        """A socket has something for us, or takes something from us."""
        if events & selectors.EVENT_WRITE and not side.closed:
            error = 0 if side.is_open else side.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                return self.lose(side)
            side.is_open = True
            self.deliver(side)
        if events & selectors.EVENT_READ and not side.closed:
            self.receive(side)

    def receive(self, side: Side) -> None:
        """Put on the line what a socket has sent."""
        try:
            content = side.socket.recv(side.line.chunk)
        except BlockingIOError:
            return
        except OSError:
            return self.lose(side)
        side.said_end = not content
        side.line.send(side.other, content or END, self.waiter.time)
        self.watch(side)

    def arrive(self, side: Side, what: bytes | str) -> None:
        """Something has come to the end of its line."""
        if side.closed:
            return
        if what == OPEN:
            if side.socket.connect_ex(self.target) not in UNDER_WAY:
                return self.lose(side)
            self.watch(side)
        elif what == RESET:
            side.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.close(side)
        else:
            if isinstance(what, bytes):
                side.waiting.append(memoryview(what))
            side.hears_end = what == END
            if side.is_open:
                self.deliver(side)

    def deliver(self, side: Side) -> None:
        """Hand over as much as the socket takes, and the end of the stream behind it."""
        try:
            while side.waiting:
                taken = side.socket.send(side.waiting[0])
                side.held -= taken
                side.waiting[0] = side.waiting[0][taken:]
                if not side.waiting[0]:
                    side.waiting.popleft()
            if side.hears_end and not side.heard_end:
                side.socket.shutdown(socket.SHUT_WR)
                side.heard_end = True
        except BlockingIOError:
            pass
        except OSError:
            return self.lose(side)
        if side.heard_end and side.other.heard_end:
            self.close(side)
            self.close(side.other)
        self.watch(side)
        self.watch(side.other)  # which may have waited for room

    def lose(self, side: Side) -> None:
        """It has reset its connection, or can't be reached: close it, and let the other side know."""
        self.close(side)
        if not side.other.closed:
            side.line.send(side.other, RESET, self.waiter.time)

    def close(self, side: Side) -> None:
        side.closed = True
        side.waiting.clear()
        self.watch(side)
        side.socket.close()
        self.listen(True)
