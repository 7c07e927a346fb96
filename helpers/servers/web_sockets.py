"""A WebSocket server (RFC 6455) in one thread, on the event loop of forty lines, made to hold 100,000 connections.

What a connection takes while nobody speaks on it is a socket, a `WebSocket` of a few slots, and the loop's note of who
waits for it. It has no task and no buffers of its own: bytes are kept only while a frame is half received or half sent.

The server sends text back to who sent it, and what begins with `/all ` to everyone. Compression, subprotocols and
binary messages are not offered. Who doesn't read what he is sent is dropped when too much of it waits.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from selectors import EVENT_READ, EVENT_WRITE

from helpers.servers.thrifty_selector import ThriftySelector
from helpers.servers.tiny_loop import Loop
from helpers.servers.web_socket_protocol import (
    BINARY,
    CLOSE,
    GOING_AWAY,
    LONGEST_MESSAGE,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    UNSUPPORTED,
    Failed,
    Frame,
    Refused,
    answer_to_close,
    first_frame,
    frame,
    text,
    upgrade,
)

READ = 4096  # bytes taken at a time
LONGEST_HEAD = 8 * 1024  # bytes of a request to upgrade
MOST_UNSENT = 256 * 1024  # bytes that wait for one who reads slowly
AT_ONCE = 100  # connections accepted, and messages of a broadcast sent, before the others' turn
PATIENCE_S = 10.0  # for a client to ask for the upgrade, and to hang up after a goodbye
PAUSE_S = 0.1  # before the next try when no descriptor was left
SWEEP_S = 0.5  # how often those are looked for who have used up their time

CONNECTING, OPEN, CLOSING, CLOSED = "connecting", "open", "closing", "closed"


class WebSocket:
    """One client's connection. Its methods are called by the loop, when the socket is ready."""

    __slots__ = ("message", "server", "socket", "state", "unread", "unsent")

    def __init__(self, server: Server, socket: socket.socket) -> None:
        self.server, self.socket, self.state = server, socket, CONNECTING
        self.unread = self.unsent = b""
        self.message: bytes | None = None  # the fragments so far

    def wait(self) -> None:
        """Have the loop call when there is something to do: with bytes still to be sent, nothing is read."""
        self.server.loop.forget(self.socket)
        if self.unsent:
            self.server.loop.on_ready(self.socket, EVENT_WRITE, self.writable)
        else:
            self.server.loop.on_ready(self.socket, EVENT_READ, self.readable)

    def readable(self) -> None:
        """Take what has come, and do what it asks for."""
        try:
            data = self.socket.recv(READ)
        except BlockingIOError:
            return self.wait()
        except OSError:  # reset
            data = b""
        if not data:
            return self.end()
        if self.state is not CLOSING:  # what comes after a goodbye is dropped
            self.unread += data
            self._go_on()
        if self.state is not CLOSED:
            self.wait()

    def _go_on(self) -> None:
        try:
            if self.state is CONNECTING:
                self._connect()
            while self.state is OPEN and (frame := first_frame(self.unread)):
                self.unread = self.unread[frame.size :]
                self._take(frame)
        except Refused as refused:
            self._leave(b"HTTP/1.1 %b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % str(refused).encode())
        except Failed as failed:
            self.close(failed.code.to_bytes(2))

    def _connect(self) -> None:
        head, end, rest = self.unread.partition(b"\r\n\r\n")
        if len(head) > LONGEST_HEAD:
            raise Refused("431 Request Header Fields Too Large")
        if end:
            answer, self.unread = upgrade(head), rest
            self.server.move(self, OPEN)
            self.send(answer)

    def _take(self, got: Frame) -> None:
        if got.opcode == PING:
            self.send(frame(PONG, got.payload))
        elif got.opcode == CLOSE:
            self.close(answer_to_close(got.payload))
        elif got.opcode == BINARY:
            raise Failed(UNSUPPORTED)
        elif got.opcode != PONG:
            if (got.opcode == TEXT) is (self.message is not None):  # a message within a message, or the rest of none
                raise Failed(PROTOCOL_ERROR)
            self.message = (self.message or b"") + got.payload
            if len(self.message) > LONGEST_MESSAGE:
                raise Failed(TOO_BIG)
            if got.final:
                message, self.message = text(self.message), None
                self.server.heard(self, message)

    def send(self, data: bytes) -> None:
        """Send what the socket takes now, and the rest when it can take more; drop who has too much waiting."""
        if not self.unsent:
            try:
                data = data[self.socket.send(data) :]
            except BlockingIOError:
                pass
            except OSError:  # nobody is there any more
                return self.end()
        if data:
            self.unsent += data
            if len(self.unsent) > MOST_UNSENT:
                return self.end()
            self.wait()

    def writable(self) -> None:
        """Send what was left."""
        data, self.unsent = self.unsent, b""
        self.send(data)
        if self.state is CLOSING:
            self._hang_up()
        if self.state is not CLOSED:
            self.wait()

    def close(self, reason: bytes) -> None:
        """Say goodbye (a code of two bytes, or nothing), and wait for the client to hang up."""
        self._leave(frame(CLOSE, reason))

    def _leave(self, words: bytes) -> None:
        self.send(words)
        self.unread, self.message = b"", None
        if self.state is not CLOSED:
            self.server.move(self, CLOSING)
            self._hang_up()

    def _hang_up(self) -> None:
        """Nothing more is sent; but a socket closed with bytes unread would take back what was sent last."""
        if not self.unsent:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)

    def end(self) -> None:
        """Close the socket, whatever was still to be said."""
        if self.state is not CLOSED:
            self.server.loop.forget(self.socket)
            self.socket.close()
            self.unsent = b""
            self.server.move(self, CLOSED)


class Server:
    """Accepts connections at a listening socket, and holds them, all in the thread that calls `serve`."""

    def __init__(self, listener: socket.socket, *, patience_s: float = PATIENCE_S) -> None:
        self.loop = Loop(ThriftySelector())
        self.open: dict[WebSocket, None] = {}  # a dict, for it has an order, and grows by less than a set
        self.passing: dict[WebSocket, float] = {}  # those that connect or close: until when they may
        self._listener = listener
        self._patience_s = patience_s
        self._told, self._tell = socket.socketpair()
        self._is_stopping = False

    def serve(self) -> None:
        """Until `stop`."""
        self._listener.setblocking(False)
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # its connections inherit it
        self.loop.on_ready(self._listener, EVENT_READ, self._accept)
        self.loop.on_ready(self._told, EVENT_READ, self._stop)
        self.loop.call_later(SWEEP_S, self._sweep)
        try:
            self.loop.run()
        finally:
            for one in [*self.open, *self.passing]:
                one.end()
            self.loop.selector.close()
            self._told.close()
            self._tell.close()

    def stop(self) -> None:
        """From another thread: say goodbye to everyone, and let `serve` return, at the latest after `patience_s`."""
        with suppress(OSError):  # it has stopped
            self._tell.send(b".")

    def heard(self, by: WebSocket, message: str) -> None:
        """What becomes of a message."""
        if message.startswith("/all "):
            self.broadcast(message.removeprefix("/all "))
        else:
            by.send(frame(TEXT, message.encode()))

    def broadcast(self, message: str) -> None:
        """Send it to everyone; it is put into bytes once."""
        data = frame(TEXT, message.encode())
        self._for_each(list(self.open), lambda one: one.send(data))

    def _for_each(self, those: Sequence[WebSocket], act: Callable[[WebSocket], None], begin: int = 0) -> None:
        """Do it with some of them, and with the rest in the loop's next turns: others are served in between."""
        end = begin + AT_ONCE
        for one in those[begin:end]:
            if one.state is OPEN:
                act(one)
        if end < len(those):
            self.loop.call_soon(self._for_each, those, act, end)

    def move(self, one: WebSocket, state: str) -> None:
        """A connection is now in this state."""
        one.state = state
        self.open.pop(one, None)
        self.passing.pop(one, None)
        if state is OPEN:
            self.open[one] = None
        elif state is not CLOSED:
            self.passing[one] = self.loop.time() + self._patience_s
        elif self._is_stopping:
            self._stop_if_alone()

    def _accept(self) -> None:
        if self._is_stopping:
            return
        try:
            for _ in range(AT_ONCE):
                client, _ = self._listener.accept()
                client.setblocking(False)
                one = WebSocket(self, client)
                self.move(one, CONNECTING)
                one.wait()
        except (BlockingIOError, ConnectionAbortedError):
            pass
        except OSError:  # no descriptor is left: who wants to connect waits in the system's queue
            self.loop.call_later(PAUSE_S, self._accept)  # to wait for the listener would not be to wait
            return
        self.loop.on_ready(self._listener, EVENT_READ, self._accept)

    def _sweep(self) -> None:
        """End those that take too long; the oldest come first."""
        now = self.loop.time()
        while self.passing and (oldest := next(iter(self.passing.items())))[1] < now:
            oldest[0].end()
        self.loop.call_later(SWEEP_S, self._sweep)

    def _stop(self) -> None:
        self._is_stopping = True
        self.loop.forget(self._listener)
        for one in [each for each in self.passing if each.state is CONNECTING]:
            one.end()
        self._for_each(list(self.open), lambda one: one.close(GOING_AWAY.to_bytes(2)))
        self._stop_if_alone()

    def _stop_if_alone(self) -> None:
        if not self.open and not self.passing:
            self.loop.stop()
