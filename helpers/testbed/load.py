"""Load for an HTTP server, from a process of its own: so many connections, or so many requests a second.

**Closed loop**: each connection sends its next request when the last one was answered. A slow server gets fewer
requests: right for "how much can it do", wrong for "how long do people wait".

**Open loop**: requests arrive on a schedule that doesn't care how the server is doing, as people do. A request that
finds no free connection waits for one, and its latency counts from the moment it was due. To count from the moment it
was sent is "coordinated omission": just the worst waits are not seen (Gil Tene, "How NOT to Measure Latency", 2013).
"""

from __future__ import annotations

import contextlib
import gc
import math
import re
import selectors
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random
from time import perf_counter, process_time
from typing import Any

from helpers import machine, measure
from helpers.testbed.program import call
from helpers.testbed.waiter import Waiter

READ = 64 * 1024
CONNECT_S = 4.0  # to connect: TCP asks again after 1 s, and 2 s later
SWEEP_S = 0.05  # how often requests are looked for that have waited too long
HEAD_END = b"\r\n\r\n"
CONTENT_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
NO_LINGERING = struct.pack("ii", 1, 0)  # SO_LINGER: closed by a reset, so that no port is held for a minute (TIME_WAIT)
LAST_ANSWER = re.compile(rb"HTTP/1\.0|\r\nconnection: *close", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a server did under load in the `seconds` after the warm-up.

    Counted are the requests that were due then (open loop), or under way (closed loop); answers that come later are
    waited for. Latencies are whole µs, in the order of the answers.
    """

    requests: int
    seconds: float
    throughput: float  # answers that came within these seconds, a second
    latencies_us: tuple[int, ...]
    errors: int  # a status of 400 or more, or a connection that broke before the answer
    timeouts: int  # given up; waiting for a free connection counts
    connections: int
    cpu: float  # cores' worth of time that the generator itself took: near 1 it is the bottleneck
    warnings: tuple[str, ...] = ()

    @cached_property
    def _ascending(self) -> list[int]:
        return sorted(self.latencies_us)

    def quantile(self, share: float) -> float:
        """The latency in µs that `share` of the answered requests stayed below."""
        if not self.latencies_us:
            raise ValueError("no request was answered: there is no latency")
        return measure.quantile(self._ascending, share)


def arrivals(rate: float, seconds: float, seed: int | None = 0) -> list[float]:
    """When requests arrive: seconds from the start, ascending, all below `seconds`; on average `rate` of them a second.

    A Poisson process: people who know nothing of each other, so exponential gaps. `seed=None`: one every 1 / rate s.
    """
    if not rate > 0:
        raise ValueError(f"rate={rate}: requests a second are a positive number")
    if seed is None:
        return [number / rate for number in range(int(seconds * rate))]
    gaps = Random(seed)
    due, found = gaps.expovariate(rate), []
    while due < seconds:
        found.append(due)
        due += gaps.expovariate(rate)
    return found


def closed_loop(
    address: tuple[str, int],
    *,
    connections: int,
    seconds: float,
    warm_up_s: float = 0.2,
    timeout_s: float = 5.0,
    path: str = "/",
) -> Report:
    """`connections` that send GET `path`, each as soon as its last request was answered. Raises `RuntimeError`."""
    return _report(
        schedule=None,
        address=address,
        connections=connections,
        seconds=seconds,
        warm_up_s=warm_up_s,
        timeout_s=timeout_s,
        path=path,
    )


def open_loop(
    address: tuple[str, int],
    *,
    rate: float,
    seconds: float,
    connections: int = 100,
    seed: int | None = 0,
    warm_up_s: float = 0.2,
    timeout_s: float = 5.0,
    path: str = "/",
) -> Report:
    """`rate` requests a second (see `arrivals`) over at most `connections` at once. Raises `RuntimeError`."""
    return _report(
        schedule=arrivals(rate, warm_up_s + seconds, seed),
        address=address,
        connections=connections,
        seconds=seconds,
        warm_up_s=warm_up_s,
        timeout_s=timeout_s,
        path=path,
    )


def _report(**settings: Any) -> Report:
    found: dict[str, Any] = call(__name__, "generate", **settings)
    lists = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    return Report(**{**found, **lists})


def generate(connections: int, **settings: Any) -> dict[str, Any]:
    """What the process of its own does: the load, then a `Report` as plain values."""
    machine.raise_descriptor_limit()
    fit = machine.fit(connections, descriptors_each=1)  # ports count by their destination: to this one all are free
    generator = Generator(**settings)
    gc.disable()
    try:
        generator.connect(fit.count)
        found = generator.run()
    finally:
        generator.close()
    return {**found, "connections": fit.count, "warnings": [fit.reason] if fit.reason else []}


class Connection:
    """One connection, and the request that is under way on it."""

    def __init__(self, sock: socket.socket, is_served: bool) -> None:
        self.socket = sock
        self.since: float | None = None  # when the request was due; None: it is free
        self.is_served = is_served  # its client has had an answer
        self.received = b""


class Generator:
    """One loop over all connections, in this process. Times are seconds of `perf_counter`.

    It may `run` several times on the same connections; `latencies_us` and `moments` are those of the last run.
    """

    def __init__(
        self,
        *,
        address: Sequence[Any],
        schedule: Sequence[float] | None,
        seconds: float,
        warm_up_s: float,
        timeout_s: float,
        path: str,
        patience_s: float = math.inf,  # how long answers are waited for in the end, at most
    ) -> None:
        self.address, self.schedule = (address[0], address[1]), schedule
        self.seconds, self.warm_up_s, self.timeout_s, self.patience_s = seconds, warm_up_s, timeout_s, patience_s
        self.request = f"GET {path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\n\r\n".encode()
        self.waiter = Waiter()
        self.all: set[Connection] = set()
        self.free: deque[Connection] = deque()
        self.begin = self.end = self.swept = 0.0  # the seconds that count; when some were given up for the last time
        self.due: list[float] | None = None  # the schedule as moments; None: a closed loop
        self.reset()

    def reset(self) -> None:
        """Begin to count."""
        self.sent = 0  # of the schedule
        self.latencies_us: list[int] = []
        self.moments: list[float] = []  # when each of these answers came
        self.answers_in_time = self.errors = self.timeouts = 0

    def connect(self, connections: int) -> None:
        """Open the connections, up to the first that the server refuses. Raises `ConnectionError` if it takes none."""
        for _ in range(connections):
            if not self.connect_one():
                break
        if not self.all:
            raise ConnectionError("nobody answers at {}:{}".format(*self.address))

    def connect_one(self, is_served: bool = False) -> bool:
        """One more connection, free; whether the server took it. `is_served`: its client has had an answer before."""
        with contextlib.suppress(OSError):
            sock = socket.create_connection(self.address, timeout=min(self.timeout_s, CONNECT_S))
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(sock, is_served)
            self.waiter.sockets.register(sock, selectors.EVENT_READ, connection)
            self.all.add(connection)
            self.free.append(connection)
            return True
        return False

    def greet(self, connections: int, patience_s: float) -> bool:
        """Open more connections and ask once on each, so that the server has met it; whether all were answered.

        Over when none was answered for `patience_s`.
        """
        free = len(self.free)
        self.connect(connections)
        asked = [self.free.pop() for _ in range(len(self.free) - free)]
        for connection in asked:
            self.ask(connection, perf_counter())
        latest = perf_counter()
        while (waiting := any(one.since is not None for one in asked)) and perf_counter() < latest + patience_s:
            for key, _ in self.waiter.wait(SWEEP_S):
                self.receive(key.data)
                latest = perf_counter()
        return not waiting

    def close(self) -> None:
        for connection in self.all:
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGERING)
            connection.socket.close()
        self.waiter.close()

    def run(self, at_end: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Warm-up, the seconds that count, and the answers that are still missing then; `at_end` is called between."""
        self.reset()
        start, cpu = perf_counter(), process_time()
        self.begin = start + self.warm_up_s
        self.end = self.begin + self.seconds
        self.due = None if self.schedule is None else [start + moment for moment in self.schedule]
        self.swept = start
        while self.all and perf_counter() < self.end:
            self.turn()
        at_end()
        while self.all and perf_counter() < self.end + self.patience_s and self.unfinished():
            self.turn()
        self.timeouts += len(self.missing())
        unsent = sum(map(self.counts, self.due[self.sent :])) if self.due else 0
        if self.all:
            self.timeouts += unsent
        else:
            self.errors += unsent  # no connection was left for them
        return {
            "requests": len(self.latencies_us) + self.errors + self.timeouts,
            "seconds": self.seconds,
            "throughput": self.answers_in_time / self.seconds,
            "latencies_us": self.latencies_us,
            "errors": self.errors,
            "timeouts": self.timeouts,
            "cpu": (process_time() - cpu) / (perf_counter() - start),
        }

    def turn(self) -> None:
        """Send what is due, take what has come, and now and then give up on what has waited too long."""
        pause = self.send(perf_counter())
        for key, _ in self.waiter.wait(min(pause, SWEEP_S)):
            self.receive(key.data)
        if self.waiter.time > self.swept + SWEEP_S:
            self.give_up(self.waiter.time)
            self.swept = self.waiter.time

    def unfinished(self) -> bool:
        """Is an answer missing, or a request not even sent?"""
        return (self.due is not None and self.sent < len(self.due)) or bool(self.missing())

    def missing(self) -> list[Connection]:
        """The connections with a request that counts and has no answer yet."""
        return [one for one in self.all if one.since is not None and self.counts(one.since)]

    def counts(self, since: float) -> bool:
        """Does a request count that was due (open loop) or sent then, and is over now?"""
        if self.due is None:
            return since < self.end and self.waiter.time >= self.begin
        return self.begin <= since < self.end

    def send(self, now: float) -> float:
        """Send what is due, as far as connections are free; the seconds until more is, as far as known."""
        if self.due is None:
            for _ in range(len(self.free) if now < self.end else 0):
                self.ask(self.free.popleft(), perf_counter())
            return SWEEP_S
        while self.free and self.sent < len(self.due) and self.due[self.sent] <= now:
            self.ask(self.free.popleft(), self.due[self.sent])
            self.sent += 1
        return self.due[self.sent] - now if self.free and self.sent < len(self.due) else SWEEP_S

    def ask(self, connection: Connection, since: float) -> None:
        connection.since = since
        try:
            connection.socket.send(self.request)
        except OSError:
            self.fail(connection)

    def receive(self, connection: Connection) -> None:
        """Read; at the end of an answer note its latency, and the connection is free."""
        try:
            content = connection.socket.recv(READ)
        except BlockingIOError:
            return
        except OSError:
            content = b""
        if not content:
            return self.fail(connection)
        received = connection.received + content
        head = received.find(HEAD_END)
        length = CONTENT_LENGTH.search(received, 0, head + 2) if head > 0 else None
        if head < 0 or (length and len(received) < head + len(HEAD_END) + int(length[1])):
            connection.received = received
            return
        since, now = connection.since, self.waiter.time
        if since is None or length is None:  # nobody asked, or its end can't be known
            return self.fail(connection)
        self.answers_in_time += self.begin <= now < self.end
        if self.counts(since):
            if received[9:10] >= b"4":
                self.errors += 1
            else:
                self.latencies_us.append(round((now - since) * 1e6))
                self.moments.append(now)
        connection.is_served = True
        connection.since, connection.received = None, b""
        if LAST_ANSWER.search(received, 0, head + 2):
            self.replace(connection)
        elif self.due is None and now < self.end:
            self.ask(connection, perf_counter())
        else:
            self.free.append(connection)

    def fail(self, connection: Connection) -> None:
        """The connection broke. An error, if somebody waited for an answer."""
        if connection.since is None:
            self.free.remove(connection)
        else:
            self.errors += self.counts(connection.since)
        self.replace(connection)

    def replace(self, connection: Connection) -> None:
        self.all.discard(connection)
        self.waiter.sockets.unregister(connection.socket)
        connection.socket.close()
        self.connect_one(connection.is_served)

    def give_up(self, now: float) -> None:
        """Requests that have waited too long, for an answer or for a free connection, are given up."""
        latest = now - self.timeout_s
        for connection in [one for one in self.all if one.since is not None and one.since < latest]:
            assert connection.since is not None
            self.timeouts += self.counts(connection.since)
            self.replace(connection)
        while self.due is not None and self.sent < len(self.due) and self.due[self.sent] < latest:
            self.timeouts += self.counts(self.due[self.sent])
            self.sent += 1
