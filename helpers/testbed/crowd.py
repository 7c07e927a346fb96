"""A crowd of WebSocket clients: they connect, stay, ping, and hear what is said to all.

Clients are spread over processes of their own, one for each server, since a process may have only so many sockets. A
client is a bare socket: a library's would take more time and memory than the server under test.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import selectors
import socket
import struct
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from hashlib import sha1
from time import perf_counter, process_time, sleep
from typing import Any, NamedTuple

from helpers import machine
from helpers.servers.web_socket_protocol import GUID, PING, PONG, TEXT, frame, masked
from helpers.testbed import program

Address = tuple[str, int]
PER_SOURCE = 4000  # clients that share an address: the more do, the longer the system looks for a free port
UNDER_WAY = 200  # handshakes at once: fewer than any system's queue of connections holds
PATIENCE_S = 30.0  # for answers
READ = 4096
PORTS = 65_535  # that an address can have
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER for 0 s: no port stays taken (TIME_WAIT) when a client is gone
WORDS = b"Lunch at noon?"


def available() -> str | None:
    """Can one thread wait for many sockets?"""
    if hasattr(select, "epoll") or hasattr(select, "kqueue"):
        return None
    return "this system waits for 512 sockets at most: run it in WSL (`wsl --install`)"


def most() -> int:
    """Clients that one server may have: as many as there are ports to come from, at each of the addresses there are."""
    return 200 * PER_SOURCE if _has_many_addresses() else machine.fit(PORTS, ports_each=1).count


def _has_many_addresses() -> bool:
    return sys.platform.startswith("linux")  # macOS has 127.0.0.1 alone, unless told otherwise


class Arrival(NamedTuple):
    """How clients came in. Moments are of `perf_counter`, which all processes of a machine share."""

    connections: int
    begin_s: float
    end_s: float  # the last handshake was complete
    cpu: float  # cores' worth of time that the clients took


class Pings(NamedTuple):
    """Round trips in µs, one of each client, and the share of a core that the busiest process of clients took."""

    round_trips_us: tuple[float, ...]
    cpu: float


class Crowd:
    """Clients of one server or of several, in a process for each server."""

    def __init__(self, members: Sequence[program.Part]) -> None:
        self._members = members

    def connect(self, servers: Sequence[Address], counts: Sequence[int]) -> Arrival:
        """So many more clients of each server, all handshakes complete. Raises `RuntimeError`."""
        found = self._all(
            "connect", [{"address": server, "count": count} for server, count in zip(servers, counts, strict=True)]
        )
        begin, end = min(each[0] for each in found), max(each[1] for each in found)
        return Arrival(sum(counts), begin, end, max(each[2] for each in found))

    def leave(self) -> None:
        """All at once, without a goodbye."""
        self._all("leave", [{}] * len(self._members))

    def ping(self, rate: float) -> Pings:
        """One ping by each client, `rate` a second in all: on a schedule that doesn't wait for the answers."""
        found = self._all("ping", [{"rate": rate / len(self._members)}] * len(self._members))
        return Pings(tuple(took for times, _ in found for took in times), max(cpu for _, cpu in found))

    def broadcast(self) -> float:
        """Seconds from the moment at which one client of each server says something to all, until all have heard it."""
        begin = perf_counter() + 0.05
        found = self._all("hear", [{"begin_s": begin}] * len(self._members))
        return max(found) - begin

    def _all(self, method: str, arguments: Sequence[dict[str, Any]]) -> list[Any]:
        for member, those in zip(self._members, arguments, strict=True):
            member.begin(method, **those)
        return [member.result() for member in self._members]


@contextlib.contextmanager
def gathering(servers: int = 1) -> Iterator[Crowd]:
    """A crowd for so many servers, nobody connected yet."""
    with ExitStack() as stack:
        members = (program.working(__name__, "Member", number=number) for number in range(servers))
        yield Crowd([stack.enter_context(member) for member in members])


class Member:
    """Clients of one server, in one process. Its methods return plain values."""

    def __init__(self, number: int) -> None:
        machine.raise_descriptor_limit()
        gc.disable()
        self._sources = _Sources(number)
        self._sockets: list[socket.socket] = []
        self._selector = selectors.DefaultSelector()

    def connect(self, address: Address, count: int) -> tuple[float, float, float]:
        """So many more clients; from when to when that took, and the CPU time over the time."""
        begin, cpu = perf_counter(), process_time()
        expected: dict[int, bytes] = {}  # by descriptor: the answer to the handshakes under way
        left = count
        while left or expected:
            while left and len(expected) < UNDER_WAY:
                client, accept = self._knock((address[0], address[1]))
                expected[client.fileno()] = accept
                left -= 1
            for client in self._ready():
                answer = client.recv(READ)
                if not _is_welcome(answer, expected.pop(client.fileno())):
                    raise RuntimeError(f"the server answered a handshake with {answer[:60]!r}")
        end = perf_counter()
        return begin, end, (process_time() - cpu) / (end - begin)

    def leave(self) -> None:
        """All at once."""
        while self._sockets:
            client = self._sockets.pop()
            self._selector.unregister(client)
            client.close()

    def _knock(self, address: Address) -> tuple[socket.socket, bytes]:
        """A new client that has asked for the upgrade, and what must be in the answer."""
        client = self._sources.connect(address)
        self._sockets.append(client)
        self._selector.register(client, selectors.EVENT_READ)
        key = b64encode(os.urandom(16))
        client.send(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %b\r\n\r\n" % key
        )
        return client, b64encode(sha1(key + GUID).digest())

    def ping(self, rate: float) -> tuple[list[float], float]:
        """Round trips in µs of one ping by each client, `rate` a second, and the CPU time over the time."""
        pong, ping = frame(PONG), said(PING)
        sent: dict[socket.socket, float] = {}
        took: list[float] = []
        begin, cpu = perf_counter(), process_time()
        waiting = iter(self._sockets)
        due = begin
        client = next(waiting, None)
        while client or sent:
            while client and due <= (now := perf_counter()):
                client.send(ping)
                sent[client] = now
                due += 1 / rate
                client = next(waiting, None)
            for each in self._ready(max(0.0, due - perf_counter()) if client else PATIENCE_S):
                answer = each.recv(READ)
                took.append(1e6 * (perf_counter() - sent.pop(each)))
                if answer != pong:
                    raise RuntimeError(f"the server answered a ping with {answer[:60]!r}")
        return took, (process_time() - cpu) / (perf_counter() - begin)

    def hear(self, begin_s: float) -> float:
        """When the last client had heard what the first one said to all at `begin_s`."""
        sleep(max(0.0, begin_s - perf_counter()))
        self._sockets[0].send(said(TEXT, b"/all " + WORDS))
        heard, words = 0, frame(TEXT, WORDS)
        while heard < len(self._sockets):
            for client in self._ready():
                if client.recv(READ) != words:
                    raise RuntimeError("a client was told something else")
                heard += 1
        return perf_counter()

    def _ready(self, seconds: float = PATIENCE_S) -> list[socket.socket]:
        """The clients for whom something has come."""
        ready = self._selector.select(seconds)
        if not ready and seconds == PATIENCE_S:
            raise RuntimeError(f"the server did not answer within {seconds:g} s")
        return [key.fileobj for key, _ in ready]  # type: ignore[misc]


class _Sources:
    """Opens connections, from one loopback address after the other where there are several."""

    def __init__(self, number: int) -> None:
        self._network = f"127.0.{1 + number}"  # addresses of its own
        self._opened = 0

    def connect(self, address: Address) -> socket.socket:
        """A connection that doesn't block. Raises `RuntimeError`."""
        client = socket.socket()
        client.settimeout(PATIENCE_S)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if _has_many_addresses():
                client.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                client.bind((f"{self._network}.{1 + self._opened // PER_SOURCE}", 0))
            client.connect(address)
        except OSError as error:
            client.close()
            raise RuntimeError(f"no further connection could be opened: {error.strerror or error}") from None
        client.setblocking(False)
        self._opened += 1
        return client


IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: the port is chosen when it connects, for this server alone


def said(opcode: int, payload: bytes = b"") -> bytes:
    """A frame of a client: masked."""
    key = os.urandom(4)
    head = frame(opcode, payload)[: -len(payload) or None]
    return bytes((head[0], head[1] | 0x80)) + head[2:] + key + masked(payload, key)


def _is_welcome(answer: bytes, accept: bytes) -> bool:
    """Is the handshake complete, and done by one who has read our key?"""
    head = answer.lower()
    return (
        head.startswith(b"http/1.1 101 ")
        and head.endswith(b"\r\n\r\n")
        and b"sec-websocket-accept: " + accept.lower() in head
        and accept in answer
    )
