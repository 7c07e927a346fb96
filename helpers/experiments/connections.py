"""Connections: what one is, and what it costs to open one, by protocol and distance (notebook 05)."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import combinations, pairwise
from random import Random
from time import perf_counter_ns
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from helpers import handshakes, machine, measure, memory, progress
from helpers.contexts import free, sleep_until
from helpers.handshakes import Connection, Login, Step
from helpers.measure import KIB, MIB, Estimate, estimate, median, ratio
from helpers.record import Record
from helpers.registry import Between, experiment
from helpers.specimens import Specimen
from helpers.testbed import distances, echo, postgres, tls, web
from helpers.testbed.program import NotStarted
from helpers.testbed.slow_network import slow_network

Address = tuple[str, int]

MS = 1e-6  # nanoseconds to milliseconds
US = 1e-3  # nanoseconds to microseconds


# What a connection is

LISTEN, ESTABLISHED, CLOSE_WAIT = "LISTEN", "ESTABLISHED", "CLOSE_WAIT"
FIN_WAIT2, TIME_WAIT, GONE = "FIN_WAIT2", "TIME_WAIT", ""
TCP_STATES = {  # include/net/tcp_states.h
    "01": ESTABLISHED,
    "02": "SYN_SENT",
    "03": "SYN_RECV",
    "04": "FIN_WAIT1",
    "05": FIN_WAIT2,
    "06": TIME_WAIT,
    "07": "CLOSE",
    "08": CLOSE_WAIT,
    "09": "LAST_ACK",
    "0A": LISTEN,
    "0B": "CLOSING",
}
LADDER = (  # what is called, by whom, and the states of the client's end and of the server's that follow (RFC 9293)
    ("listen", "server", GONE, LISTEN),
    ("connect", "client", ESTABLISHED, ESTABLISHED),
    ("accept", "server", ESTABLISHED, ESTABLISHED),
    ("send", "client", ESTABLISHED, ESTABLISHED),
    ("recv", "server", ESTABLISHED, ESTABLISHED),
    ("close", "client", FIN_WAIT2, CLOSE_WAIT),
    ("close", "server", TIME_WAIT, GONE),
)
SETTLING_S = 1.0  # for a state to show: only a busy machine needs more than a moment
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER for 0 s: nothing is left in TIME_WAIT


class Entry(NamedTuple):
    """One line of the kernel's list of TCP connections."""

    state: str
    timer_s: float  # until the kernel does something about it


def tcp_entries(text: str) -> dict[tuple[int, int], Entry]:
    """The lines of /proc/net/tcp (proc_net_tcp in the kernel's documentation) by local and remote port."""
    found = {}
    for line in text.splitlines()[1:]:
        words = line.split()
        local, remote = (int(address.rpartition(":")[2], 16) for address in words[1:3])
        ticks = int(words[5].partition(":")[2], 16)
        found[local, remote] = Entry(TCP_STATES.get(words[3], words[3]), ticks / TICKS_PER_S)
    return found


TICKS_PER_S = 100  # USER_HZ, in which the kernel tells times on every usual architecture


@dataclass(frozen=True)
class Call:
    """One call in the life of a connection, and the states that the kernel reports of its ends afterwards."""

    call: str
    side: str  # that calls: "client" or "server"
    client: str  # "" where there is no such end
    server: str
    took: Estimate  # µs


@dataclass(frozen=True, kw_only=True)
class Anatomy(Record):
    """A connection's life step by step, and the memory that an idle one takes: KiB each, by least squares."""

    headline_name: ClassVar[str] = "kernel"

    four_tuple: tuple[str, int, str, int]  # client's address and port, server's address and port
    steps: tuple[Call, ...]
    time_wait_s: float  # that the client's end stays when both have closed
    counts: tuple[int, ...]  # of connections, between which the slopes were taken
    kernel: Estimate  # for both ends together
    as_socket: Estimate  # in the server's process: a socket object
    as_stream: Estimate  # an asyncio stream with its task
    with_thread: Estimate  # a socket object and a thread
    unread: Estimate | None  # KiB of kernel memory for a KiB that was sent and not read
    unread_at_receiver: float | None  # share of it that lies with the receiver; the rest waits with the sender

    def figures(self) -> dict[str, Estimate]:
        found = {
            "kernel": self.kernel,
            "socket object": self.as_socket,
            "asyncio stream": self.as_stream,
            "thread": self.with_thread,
        }
        return found | ({"unread": self.unread} if self.unread else {})


@experiment(seconds=3, needs=[machine.memory_maps, machine.tcp_states])
def anatomy(
    *,
    most: Annotated[int, Between(10, 5000)] = 500,
    repeats: Annotated[int, Between(5, 15)] = 5,
) -> Anatomy:
    """What a connection is: its states as the kernel lists them, and the memory that one more idle one takes, in KiB.

    The states are those of /proc/net/tcp after each call, for one connection; the calls are timed on others. Memory
    is the least-squares slope over an eighth, a quarter, half and all of the connections, in a server's process started
    afresh for each sample: pages that only it has (USS), and for the kernel the slab of the whole machine, in which lie
    the sockets of both ends with their inodes and open files (what others do meanwhile is in it, too). Buffers come on
    top when there is data in them: `unread` is what the kernel says of both sockets (SO_MEMINFO) after a MiB was sent
    and not read.
    """
    machine.raise_descriptor_limit()
    held = repeats + 1  # connections that the kernel's part holds, for each that is asked for
    fit = machine.fit(most, at_least=8, descriptors_each=held, ports_each=held, bytes_each=32 * KIB * held)
    thread_fit = machine.fit(min(fit.count, MOST_THREADS), at_least=8, threads_each=1)
    seen = _life(look=True)
    lives = [_life(look=False) for _ in range(repeats)]
    kinds = {"sockets": fit.count, "streams": fit.count, "threads": thread_fit.count}
    slopes: dict[str, list[float]] = {kind: [] for kind in kinds}
    for done in range(repeats):
        for kind, count in kinds.items():
            slopes[kind].append(_unique_slope(kind, _halvings(count)))
        progress.report(done + 1, repeats + 1)
    unique = {kind: estimate(those, "KiB") for kind, those in slopes.items()}
    kernel = estimate(_kernel_slopes(_halvings(fit.count), repeats), "KiB")
    unread = [found for _ in range(repeats) if (found := _unread()) is not None]
    words = (fit.reason, thread_fit.reason, HIDDEN if kernel.low <= 0 else None, *_unlike_the_ladder(seen.states))
    return Anatomy(
        four_tuple=seen.four_tuple,
        steps=tuple(
            Call(call, side, *seen.states[place], estimate([life.took_ns[place] * US for life in lives], "µs"))
            for place, (call, side, *_) in enumerate(LADDER)
        ),
        time_wait_s=seen.time_wait_s,
        counts=tuple(_halvings(fit.count)),
        kernel=kernel,
        as_socket=unique["sockets"],
        as_stream=unique["streams"],
        with_thread=unique["threads"],
        unread=estimate([held for held, _ in unread], "x") if unread else None,
        unread_at_receiver=median([share for _, share in unread]) if unread else None,
        placement=free(),
        subtracted="the process without connections",
        warnings=tuple(word for word in words if word),
    )


HIDDEN = "so few connections don't show in the kernel's memory, which it takes by the page"
MOST_THREADS = 500


def _halvings(count: int) -> list[int]:
    return sorted({max(1, count >> halvings) for halvings in range(4)})


class Life(NamedTuple):
    """One connection, from `listen` to the last `close`: time of each call, and both ends' states after it if seen."""

    four_tuple: tuple[str, int, str, int]
    took_ns: list[int]
    states: list[tuple[str, str]]
    time_wait_s: float


def _life(*, look: bool) -> Life:
    """Looking takes the kernel long, for its table is large; so a life that is timed isn't looked at."""
    took: list[int] = []
    states: list[tuple[str, str]] = []

    def step(call: Callable[[], Any]) -> Any:
        start = perf_counter_ns()
        result = call()
        took.append(perf_counter_ns() - start)
        if look:
            states.append(_settled((mine, port), LADDER[len(states)][2:]))
        return result

    with socket.socket() as listener, socket.socket() as client:
        listener.bind(("127.0.0.1", 0))
        client.bind(("127.0.0.1", 0))  # else it would have no port before it connects
        mine, port = client.getsockname()[1], listener.getsockname()[1]
        step(listener.listen)
        step(lambda: client.connect(("127.0.0.1", port)))
        server = step(lambda: listener.accept()[0])
        with server:
            step(lambda: client.send(b"hello"))
            step(lambda: server.recv(5))
            four_tuple = (*client.getsockname(), *client.getpeername())
            step(client.close)
            step(server.close)
        left = tcp_entries(_proc_net_tcp(port)).get((mine, port)) if look else None
    return Life(four_tuple, took, states, left.timer_s if left else 0.0)


def _settled(ports: tuple[int, int], expected: tuple[str, ...]) -> tuple[str, str]:
    """The states of the client's and the server's end, as soon as they are as expected: a packet may take a moment."""
    mine, port = ports
    deadline = time.monotonic() + SETTLING_S
    while True:
        entries = tcp_entries(_proc_net_tcp(port))
        nobody = Entry(GONE, 0)
        server = entries.get((port, mine), entries.get((port, 0), nobody) if expected[1] == LISTEN else nobody)
        states = (entries.get((mine, port), nobody).state, server.state)
        if states == expected or time.monotonic() > deadline:
            return states


def _proc_net_tcp(port: int) -> str:
    """The kernel's list, its head line and what concerns this port: the whole of it may have thousands of lines."""
    ours = f":{port:04X} "
    with open("/proc/net/tcp", encoding="ascii") as file:
        return next(file) + "".join(line for line in file if ours in line)


def _unlike_the_ladder(states: Sequence[tuple[str, str]]) -> Iterator[str]:
    """What should have shown, and did not."""
    for found, (call, side, *expected) in zip(states, LADDER, strict=True):
        if found != tuple(expected):
            words = " and ".join(state or "nothing" for state in expected)
            yield f"not observed here: {words} after the {side}'s {call}"


def _unique_slope(kind: str, counts: Sequence[int]) -> float:
    """KiB per connection of a fresh server's process of this kind."""
    with ExitStack() as stack:
        server = stack.enter_context(Specimen(f"connections_as_{kind}"))
        return _slope(server, counts, lambda: memory.footprint(server.pid).unique or 0, stack)


def _kernel_slopes(counts: Sequence[int], repeats: int) -> list[float]:
    """KiB per connection in the kernel, a fresh server for each sample.

    All connections stay until the last sample is taken, and the first one is thrown away: a place that a closed
    connection has left in a slab is filled by the next one, which then seems to take nothing.
    """
    with ExitStack() as stack:
        servers = [stack.enter_context(Specimen("connections_as_sockets")) for _ in range(repeats + 1)]
        return [_slope(server, counts, lambda: memory.slab() or 0, stack) for server in servers][1:]


def _slope(server: Specimen, counts: Sequence[int], look: Callable[[], int], stack: ExitStack) -> float:
    """KiB per connection of what `look` sees, in bytes; the clients' ends are left to `stack`."""
    from statistics import linear_regression

    (port,) = server.ask(0)
    there, seen = 0, []
    for count in counts:
        while there < count:
            some = min(count - there, AT_ONCE)
            for _ in range(some):
                stack.enter_context(_client_of(port))
            if server.ask(there + some)[0] < there + some:
                raise machine.TooSmall(f"the system accepts no more than {there} connections")
            there += some
        seen.append(look() / KIB)
    return linear_regression(counts, seen).slope


AT_ONCE = 100  # connections that wait to be accepted: fewer than any system's queue holds


def _client_of(port: int) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    return client


def _unread() -> tuple[float, float] | None:
    """Kernel memory over data sent and not read, and the receiver's share of it. None: the kernel doesn't tell."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sender = socket.create_connection(listener.getsockname())
        with sender, listener.accept()[0] as receiver:
            sender.setblocking(False)
            sent = 0
            with suppress(BlockingIOError):
                while sent < MIB:
                    sent += sender.send(bytes(min(64 * KIB, MIB - sent)))
            try:
                held = [_held(end) for end in (sender, receiver)]
            except OSError:
                return None
            return sum(held) / sent, held[1] / sum(held)


def _held(end: socket.socket) -> int:
    """Bytes that a socket's two queues hold, with the kernel's own beside the data (SK_MEMINFO of sock_diag(7))."""
    received, _, _, _, _, to_send = struct.unpack("6I", end.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 24))
    return received + to_send


SO_MEMINFO = 55


# Distance

Open = Callable[[int], list[Step]]  # opens a connection at one of the distances, and says what that took

FAR = (0.1, 0.3, 0.5, 0.8, 1.0)  # the distances, as shares of the farthest
SAFE = "localhost"  # the name that the certificates are made out to
QUESTION = "SELECT 1"


class Protocol(NamedTuple):
    """A way to the first answer, or for TLS alone until the client may send: the messages of each round trip."""

    name: str
    round_trips: tuple[str, ...]
    new: bool = True  # a new connection: TCP's own round trip comes before these


HELLO = "ClientHello → ServerHello … Finished"
SCRAM = (
    "StartupMessage → AuthenticationSASL",
    "SASLInitialResponse → SASLContinue",
    "SASLResponse → SASLFinal … ReadyForQuery",
    "Query → DataRow",
)
PROTOCOLS = (
    Protocol("TCP", ()),
    Protocol("TLS 1.3", (HELLO,)),
    Protocol("TLS 1.3, another curve", ("ClientHello → HelloRetryRequest", HELLO)),
    Protocol("TLS 1.3, resumed", (HELLO,)),
    Protocol("TLS 1.2", ("ClientHello → ServerHello … HelloDone", "ClientKeyExchange, Finished → Finished")),
    Protocol("TLS 1.2, resumed", ("ClientHello → ServerHello, Finished",)),
    Protocol("HTTP/1.0", ("GET → 200 OK",)),
    Protocol("HTTP/1.1, second request", ("GET → 200 OK",), new=False),
    Protocol("HTTP/2", ("SETTINGS, HEADERS → HEADERS, DATA",)),
    Protocol("WebSocket", ("GET, Upgrade → 101 Switching",)),
    Protocol("PostgreSQL, trust", ("StartupMessage → AuthOk … ReadyForQuery", "Query → DataRow")),
    Protocol("PostgreSQL, SCRAM", SCRAM),
    Protocol("PostgreSQL, TLS and SCRAM", ("SSLRequest → S", HELLO, *SCRAM)),
)


@dataclass(frozen=True)
class SetUp:
    """What one protocol took: so many round trips, and a rest that does not grow with the distance.

    `predicted` are the round trips that the protocol needs after TCP's own, with their messages. `points` are what
    was fitted, at each distance the quickest: the measured round trip, and the time that opening took, in ms.
    """

    name: str
    new: bool
    predicted: tuple[str, ...]
    k: Estimate  # round trips
    rest: Estimate  # ms
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True, kw_only=True)
class RoundTrips(Record):
    """Round trips by protocol, fitted over distances. TCP's own is in none of them: see `round_trips`."""

    headline_name: ClassVar[str] = "PostgreSQL, TLS and SCRAM"

    server: str
    far_ms: tuple[float, ...]
    set_ups: tuple[SetUp, ...]

    def figures(self) -> dict[str, Estimate]:
        return {each.name: each.k for each in self.set_ups}


@experiment(seconds=12, needs=[postgres.own_available])
def round_trips(
    *, farthest_ms: Annotated[float, Between(5, 50)] = 20.0, repeats: Annotated[int, Between(5, 15)] = 6
) -> RoundTrips:
    """How many round trips it takes until the first answer, by protocol: the slope of its time over the distance.

    Connections are opened at five distances, all in random order, and the slope is fitted over the *measured* round
    trip of an echo at each of them (the median slope of all pairs of distances: Theil, 1950; Sen, 1968), to the
    quickest of all rounds, for what disturbs can only delay. What is left at distance 0 is computing. The distance is
    made by a proxy, and its kernel answers the SYN: so TCP itself reads 0 here, where a real network takes one round
    trip more for every new connection (RFC 9293, section 3.5).
    """
    far = tuple(farthest_ms * share for share in FAR)
    with (
        _servers() as servers,
        distances.distances(servers.addresses, far) as addresses,
        _ways(servers, addresses) as ways,
    ):
        for way in ways.values():
            way(0)  # what is loaded at first use
        taken = _at_all_distances(ways, len(far), repeats)
    set_ups = [_set_up(protocol, taken, range(len(far)), repeats) for protocol in PROTOCOLS]
    return RoundTrips(
        server=servers.secure.server,
        far_ms=far,
        set_ups=tuple(set_ups),
        placement=free(),
        subtracted="what does not grow with the distance, by the fit",
        warnings=tuple(_unforeseen(taken)),
    )


ECHO = "echo"
Taken = dict[tuple[str, int], list[list[Step]]]  # by protocol and distance, in rounds


def _ns(steps: Sequence[Step]) -> int:
    return sum(step.ns for step in steps)


def _at_all_distances(ways: dict[str, Open], count: int, repeats: int) -> Taken:
    keys = {f"{name} {place}": (name, place) for name in ways for place in range(count)}
    taken = measure.interleave({key: partial(ways[name], place) for key, (name, place) in keys.items()}, repeats)
    return {keys[key]: found for key, found in taken.items()}


def _set_up(protocol: Protocol, taken: Taken, places: range, repeats: int) -> SetUp:
    echoes, times = (
        [[_ns(taken[name, place][done]) * MS for place in places] for done in range(repeats)]
        for name in (ECHO, protocol.name)
    )
    k, rest = _fit(_quickest(echoes), times)
    return SetUp(
        name=protocol.name,
        new=protocol.new,
        predicted=protocol.round_trips,
        k=k,
        rest=rest,
        points=tuple(zip(_quickest(echoes), _quickest(times), strict=True)),
    )


def _quickest(rounds: Sequence[Sequence[float]]) -> list[float]:
    """The least time at each distance: what disturbs can only delay."""
    return [min(at) for at in zip(*rounds, strict=True)]


def _fit(echoes: Sequence[float], rounds: Sequence[Sequence[float]]) -> tuple[Estimate, Estimate]:
    """Round trips and the rest in ms, from the quickest of all rounds; 95 % intervals by bootstrap over the rounds.

    The samples are the fits of each round by itself.
    """
    source = Random(len(rounds))
    resamples = [source.choices(rounds, k=len(rounds)) for _ in range(RESAMPLES)]
    fits = [_line(echoes, _quickest(sample)) for sample in resamples]
    single = [_line(echoes, of_round) for of_round in rounds]
    slope, rest = _line(echoes, _quickest(rounds))
    return (
        _within(slope, [one for one, _ in fits], [one for one, _ in single], "round trips"),
        _within(rest, [other for _, other in fits], [other for _, other in single], "ms"),
    )


RESAMPLES = 200


def _within(value: float, resampled: Sequence[float], samples: Sequence[float], unit: str) -> Estimate:
    ordered = sorted([*resampled, value])
    low, high = measure.quantile(ordered, 0.025), measure.quantile(ordered, 0.975)
    return Estimate(value, min(low, value), max(high, value), unit, tuple(samples))


def _line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """Slope and intercept of a line through points, some of which may be far off: medians of pairs (Theil and Sen)."""
    pairs = combinations(zip(xs, ys, strict=True), 2)
    slope = median([(above - below) / (right - left) for (left, below), (right, above) in pairs])
    return slope, median([y - slope * x for x, y in zip(xs, ys, strict=True)])


def _unforeseen(taken: Taken) -> Iterator[str]:
    """Where the messages were not those that the protocol foresees."""
    for protocol in PROTOCOLS:
        seen = {sum(len(step.messages) for step in steps if step.phase != "tcp") for steps in taken[protocol.name, 0]}
        if seen != {len(protocol.round_trips)}:
            yield f"not observed here: {protocol.name} waited {max(seen)} times, not {len(protocol.round_trips)}"


class Servers(NamedTuple):
    """What the protocols of this section talk to: an address each, the CA of the TLS servers, and two databases."""

    addresses: list[Address]  # echo, TLS, TLS over another curve, web, trusting database, secure database
    ca: str
    trusting: postgres.Database
    secure: postgres.Database


@contextmanager
def _servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        enter = stack.enter_context
        identity = enter(tls.certificate())
        small = [echo.serving(), echo.serving(identity), echo.serving(identity, curve=P256), web.serving()]
        with ThreadPoolExecutor() as pool:  # each takes a second to start
            databases = (postgres.server(authentication="trust"), postgres.server(tls=True))
            trusting, secure = pool.map(enter, databases)
        addresses = [*map(enter, small), trusting.address, secure.address]
        yield Servers(addresses, identity.ca, trusting, secure)


@contextmanager
def _ways(servers: Servers, addresses: Sequence[Sequence[Address]]) -> Iterator[dict[str, Open]]:
    """By protocol what opens a connection at one of the distances: `addresses` are by server and distance."""
    plain, ciphered, other, site, trust, scram = addresses
    tls13 = tls.client_context(servers.ca, version=ssl.TLSVersion.TLSv1_3)
    tls12 = tls.client_context(servers.ca, version=ssl.TLSVersion.TLSv1_2)
    again13, again12 = _session(ciphered[0], tls13), _session(ciphered[0], tls12)
    context = tls.client_context(servers.secure.certificate)
    context.set_ecdh_curve(P256)  # which every PostgreSQL takes at once
    with ExitStack() as stack:
        echoes, kept = ([stack.enter_context(handshakes.tcp(each)) for each in ways] for ways in (plain, site))
        for connection in kept:
            handshakes.http1(connection)
        yield {
            ECHO: lambda place: _echo(echoes[place]),
            "TCP": partial(_new, plain, lambda connection: None),
            "TLS 1.3": partial(_new, ciphered, partial(_tls, tls13)),
            "TLS 1.3, another curve": partial(_new, other, partial(_tls, tls13)),
            "TLS 1.3, resumed": partial(_new, ciphered, partial(_tls, tls13, session=again13)),
            "TLS 1.2": partial(_new, ciphered, partial(_tls, tls12)),
            "TLS 1.2, resumed": partial(_new, ciphered, partial(_tls, tls12, session=again12)),
            "HTTP/1.0": partial(_new, site, partial(handshakes.http1, version="1.0")),
            "HTTP/1.1, second request": lambda place: _once_more(kept[place]),
            "HTTP/2": partial(_new, site, handshakes.http2),
            "WebSocket": partial(_new, site, partial(handshakes.websocket, path="/ws")),
            "PostgreSQL, trust": partial(_database, trust, servers.trusting, None),
            "PostgreSQL, SCRAM": partial(_database, scram, servers.secure, None),
            "PostgreSQL, TLS and SCRAM": partial(_database, scram, servers.secure, context),
        }


P256 = "prime256v1"


def _new(addresses: Sequence[Address], talk: Callable[[Connection], object], place: int) -> list[Step]:
    with handshakes.tcp(addresses[place]) as connection:
        talk(connection)
        return connection.steps


def _tls(context: ssl.SSLContext, connection: Connection, *, session: ssl.SSLSession | None = None) -> None:
    handshakes.tls(connection, context, SAFE, session)


def _session(address: Address, context: ssl.SSLContext) -> ssl.SSLSession | None:
    """What a server hands out for the next time; it comes behind the handshake, with the first answer."""
    with handshakes.tcp(address) as connection:
        side = handshakes.tls(connection, context, SAFE)
        connection.send(b"!")
        connection.receive()
        return side.session


def _echo(connection: Connection) -> list[Step]:
    """One round trip on a connection that is there already."""
    connection.start_clock()
    connection.send(b"!")
    connection.receive()
    connection.note("echo", "query", "! → !")
    return connection.steps[-1:]


def _once_more(connection: Connection) -> list[Step]:
    connection.start_clock()
    handshakes.http1(connection)
    return connection.steps[-1:]


def _database(
    addresses: Sequence[Address], database: postgres.Database, context: ssl.SSLContext | None, place: int
) -> list[Step]:
    with handshakes.postgres(addresses[place], _login(database), context=context, name=database.host) as connection:
        connection.query(QUESTION)
        return connection.steps


def _login(database: postgres.Database) -> Login:
    return Login(database.user, database.password, database.name)


# TLS


class Kind(NamedTuple):
    """A way to shake hands: the version, whether the server wants another curve, a session, what certificate."""

    name: str
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    curve: str | None = None
    resumed: bool = False
    key: Literal["ECDSA", "RSA"] = "ECDSA"


KINDS = (
    Kind("TLS 1.3"),
    Kind("TLS 1.3, another curve", curve=P256),
    Kind("TLS 1.3, resumed", resumed=True),
    Kind("TLS 1.3, RSA certificate", key="RSA"),
    Kind("TLS 1.2", version=ssl.TLSVersion.TLSv1_2),
    Kind("TLS 1.2, resumed", version=ssl.TLSVersion.TLSv1_2, resumed=True),
)


@dataclass(frozen=True)
class Handshake:
    """One kind of handshake: its round trips, as they were seen, and what it takes of each side."""

    name: str
    round_trips: tuple[str, ...]
    client: Estimate  # µs of CPU time
    server: Estimate
    both: Estimate
    client_bytes: int
    server_bytes: int


@dataclass(frozen=True)
class Offer:
    """What a PostgreSQL with TLS of its own answered to a client's first key share."""

    curve: str  # that the client has sent a key share for
    round_trips: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class TlsCost(Record):
    """Handshakes without a network; and the round trips that a PostgreSQL takes, where one has TLS of its own."""

    headline_name: ClassVar[str] = "TLS 1.3"

    library: str
    handshakes: tuple[Handshake, ...]
    server: str | None
    offers: tuple[Offer, ...]  # of that server

    def figures(self) -> dict[str, Estimate]:
        return {each.name: each.both for each in self.handshakes}


@experiment(seconds=3)
def tls_cost(*, repeats: Annotated[int, Between(5, 200)] = 51) -> TlsCost:
    """Round trips and CPU time of a TLS handshake in µs, by version, resumed or not, and where the key share misses.

    Client and server are two objects in one thread that hand each other their messages, so that the CPU time of each
    can be told, and no network is in it. A TLS 1.3 client sends a key share with its first message; a server that
    wants another curve asks for it (HelloRetryRequest, RFC 8446, section 4.1.4), which takes a second round trip.
    """
    ways = {kind.name: _shake(kind) for kind in KINDS}
    for way in ways.values():
        way()
    taken = measure.interleave(ways, repeats)
    server, offers, missing = _offers()
    return TlsCost(
        library=ssl.OPENSSL_VERSION,
        handshakes=tuple(_handshake(name, found) for name, found in taken.items()),
        server=server,
        offers=offers,
        placement="client and server in one thread",
        subtracted="nothing: what is counted is the CPU time of the handshake's calls",
        warnings=tuple([*_unlike_their_kind(taken), *missing]),
    )


def _shake(kind: Kind) -> Callable[[], handshakes.Exchange]:
    """What shakes hands that way once."""
    import trustme

    authority = trustme.CA()
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(ours)
    authority.issue_cert(SAFE, key_type=trustme.KeyType[kind.key]).configure_cert(theirs)
    ours.minimum_version = ours.maximum_version = kind.version
    if kind.curve:
        theirs.set_ecdh_curve(kind.curve)
    session = handshakes.in_memory(ours, theirs, SAFE).session if kind.resumed else None
    return partial(handshakes.in_memory, ours, theirs, SAFE, session)


def _handshake(name: str, found: Sequence[handshakes.Exchange]) -> Handshake:
    return Handshake(
        name=name,
        round_trips=found[-1].round_trips,
        client=estimate([each.client_ns for each in found], "ns").scaled(US, "µs"),
        server=estimate([each.server_ns for each in found], "ns").scaled(US, "µs"),
        both=estimate([each.client_ns + each.server_ns for each in found], "ns").scaled(US, "µs"),
        client_bytes=found[-1].client_bytes,
        server_bytes=found[-1].server_bytes,
    )


def _unlike_their_kind(taken: dict[str, list[handshakes.Exchange]]) -> Iterator[str]:
    """Kinds that did not show what they are there to show."""
    for kind in KINDS:
        for each in taken[kind.name][:1]:
            asked_again = "HelloRetryRequest" in "".join(each.round_trips)
            if each.resumed != kind.resumed or asked_again != bool(kind.curve):
                yield f"not observed here: {kind.name} took {', '.join(each.round_trips)}"


def _offers() -> tuple[str | None, tuple[Offer, ...], list[str]]:
    """How a PostgreSQL with TLS of its own answers OpenSSL's first key share, and one for its curve."""
    able = [each for each in postgres.installations() if each.has_tls]
    if not able:
        return None, (), ["no PostgreSQL with TLS of its own was found: `apt install postgresql`"]
    try:
        with postgres.server(tls=True, own=True, program=able[0].folder) as database:
            offers = tuple(Offer(curve, _asked(database, curve)) for curve in (FIRST_CURVE, P256))
            return database.server, offers, []
    except NotStarted as error:
        return None, (), [f"PostgreSQL's own TLS was not tried: {error}"]


FIRST_CURVE = "X25519"  # what OpenSSL sends a key share for, unless told otherwise (3.5 sends a hybrid with it, too)


def _asked(database: postgres.Database, curve: str) -> tuple[str, ...]:
    """The round trips of a TLS handshake with a PostgreSQL, its own SSLRequest aside."""
    context = tls.client_context(database.certificate)
    if curve != FIRST_CURVE:
        context.set_ecdh_curve(curve)
    with handshakes.postgres(database.address, _login(database), context=context, name=database.host) as connection:
        return next(step.messages for step in connection.steps if step.name.startswith("TLS"))


# One hundred requests


@dataclass(frozen=True)
class Request:
    """One of the requests; times in ms since the first could begin."""

    connection: int
    begin: float
    connected: float  # as `begin` where the connection was there
    answered: float


@dataclass(frozen=True)
class Waterfall:
    """All requests by one protocol. `total` is the time until the last answer, in ms."""

    protocol: str
    requests: tuple[Request, ...]  # of one run
    total: Estimate
    round_trips: Estimate | None  # the same in measured round trips; None without a distance
    ideal: int  # the round trips that the protocol needs, those of TCP's SYNs left out
    unmeasured: int  # the SYNs' round trips, one after the other: a real distance would add them, the proxy can't


@dataclass(frozen=True, kw_only=True)
class HundredRequests(Record):
    """The same small requests by four ways to use connections: how long until the last answer."""

    headline_name: ClassVar[str] = "HTTP/1.0 over HTTP/2"

    round_trip_ms: int
    measured_round_trip: Estimate  # ms, of an echo
    waterfalls: tuple[Waterfall, ...]  # HTTP/1.0, keep-alive, six connections, HTTP/2
    gain: Estimate  # x, HTTP/1.0 over HTTP/2, as measured
    gain_with_syn: float  # x, with TCP's round trips added to both

    def figures(self) -> dict[str, Estimate]:
        found = {"HTTP/1.0 over HTTP/2": self.gain, "round trip": self.measured_round_trip}
        return found | {each.protocol: each.total for each in self.waterfalls}


HTTP10, KEEP_ALIVE, SIX, HTTP2 = "HTTP/1.0", "HTTP/1.1 keep-alive", "HTTP/1.1, six connections", "HTTP/2"
HTTP_WAYS = (HTTP10, KEEP_ALIVE, SIX, HTTP2)
BROWSERS = 6  # connections that a browser opens to one server at the most
ECHOES = 9


@experiment(seconds=11)
def hundred_requests(
    round_trip_ms: Literal[0, 10, 50] = 50,
    *,
    requests: Annotated[int, Between(10, 200)] = 100,
    repeats: Annotated[int, Between(5, 10)] = 5,
) -> HundredRequests:
    """Until a hundred small requests are answered, in ms: by HTTP/1.0, keep-alive, six connections, HTTP/2.

    Clients and server speak by h11 and h2; server and slow network are processes of their own. A new connection's SYN
    costs no time in this network: what it would add is in `unmeasured`, and never in a total. The two protocols that
    ask one thing at a time take long at a distance, so they run once, side by side (they wait nearly all the time):
    each total is estimated from `repeats` parts of the run, as many times a part's mean time per request as there are
    requests. The others run `repeats` times. At distance 0 the server is asked directly, and the SYN is in the time.
    """
    steps = requests + repeats * BROWSERS

    def report(done: int) -> None:
        progress.report(done, steps)

    with web.serving() as server:
        for ask in (_by_http10, _by_keep_alive, _by_http2):
            ask(server, 2)  # what is used for the first time has to be loaded
        with _away(server, round_trip_ms) as address, measure.no_garbage_collection():
            round_trip = estimate([echo * MS for echo in _echoes(address)], "ms")
            runs = _one_at_a_time(address, requests, report, side_by_side=round_trip_ms > 0)
            several: dict[str, list[list[Request]]] = {SIX: [], HTTP2: []}
            for done in range(repeats):
                several[SIX].append(_by_six(address, requests))
                several[HTTP2].append(_by_http2(address, requests))
                report(requests + BROWSERS * (done + 1))
    totals = {name: _totals(run, repeats) for name, run in runs.items()}
    totals |= {name: [_end(run) for run in those] for name, those in several.items()}
    runs |= {name: those[0] for name, those in several.items()}
    waterfalls = tuple(
        _waterfall(name, runs[name], totals[name], round_trip if round_trip_ms else None) for name in HTTP_WAYS
    )
    first, last = waterfalls[0], waterfalls[-1]
    with_syn = [each.total.median + each.unmeasured * round_trip.median for each in (first, last)]
    slow = "not observed here: HTTP/2 was not faster than HTTP/1.0"
    return HundredRequests(
        round_trip_ms=round_trip_ms,
        measured_round_trip=round_trip,
        waterfalls=waterfalls,
        gain=ratio(totals[HTTP10], totals[HTTP2]),
        gain_with_syn=with_syn[0] / with_syn[1],
        placement=free(),
        subtracted="nothing",
        warnings=() if first.total.low > last.total.high else (slow,),
    )


def _echoes(address: Address) -> list[int]:
    """Round trips in ns, on one connection that is there."""
    with _WebSocket(address) as client:
        client.echo()
        return [client.echo() for _ in range(ECHOES)]


@contextmanager
def _away(server: Address, round_trip_ms: float) -> Iterator[Address]:
    """The server so far away; at no distance the server itself."""
    if not round_trip_ms:
        yield server
        return
    with slow_network(server, round_trip_ms) as address:
        yield address


def _one_at_a_time(
    address: Address, requests: int, report: Callable[[int], None], *, side_by_side: bool
) -> dict[str, list[Request]]:
    """HTTP/1.0 and keep-alive, at once or one after the other."""
    with ThreadPoolExecutor(2 if side_by_side else 1) as pool:
        kept = pool.submit(_by_keep_alive, address, requests)
        alone = pool.submit(_by_http10, address, requests, report)
        return {HTTP10: alone.result(), KEEP_ALIVE: kept.result()}


def _totals(run: Sequence[Request], parts: int) -> list[float]:
    """What the whole run would take, in ms, by each of some parts of it; for requests one after the other."""
    bounds = [part * len(run) // parts for part in range(parts + 1)]
    return [(run[end - 1].answered - run[begin].begin) / (end - begin) * len(run) for begin, end in pairwise(bounds)]


def _end(run: Sequence[Request]) -> float:
    return max(each.answered for each in run)


def _waterfall(
    protocol: str, run: Sequence[Request], totals: Sequence[float], round_trip: Estimate | None
) -> Waterfall:
    return Waterfall(
        protocol=protocol,
        requests=tuple(run),
        total=estimate(totals, "ms"),
        round_trips=estimate([total / round_trip.median for total in totals], "round trips") if round_trip else None,
        ideal={SIX: -(-len(run) // BROWSERS), HTTP2: 1}.get(protocol, len(run)),
        unmeasured=0 if round_trip is None else len(run) if protocol == HTTP10 else 1,
    )


# The clients, over blocking sockets


class _Http1:
    """A client on one connection, which counts the bytes of both directions."""

    def __init__(self, address: Address, version: str = "1.1") -> None:
        import h11

        self._version = version.encode()
        self._protocol = h11.Connection(h11.CLIENT)
        self.socket = _connected(address)
        self.sent = self.received = 0

    def get(self, target: str) -> bytes:
        """Ask once, and wait for the answer's body."""
        import h11

        if self._protocol.their_state is h11.DONE:
            self._protocol.start_next_cycle()
        request = h11.Request(method="GET", target=target, headers=[("Host", "localhost")])
        data = (self._protocol.send(request) or b"") + (self._protocol.send(h11.EndOfMessage()) or b"")
        data = data.replace(b"HTTP/1.1", b"HTTP/" + self._version, 1)  # h11 itself asks by 1.1 alone
        self.socket.sendall(data)
        self.sent += len(data)
        body = b""
        while not isinstance(event := self._protocol.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                data = self.socket.recv(READ)
                self.received += len(data)
                self._protocol.receive_data(data)
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionError("the server closed the connection")
        return body

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()


READ = 64 * KIB  # bytes taken at a time
ANSWER_S = 30.0  # for an answer, before something is wrong


def _connected(address: Address) -> socket.socket:
    connection = socket.create_connection(address, ANSWER_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _by_http10(address: Address, requests: int, report: Callable[[int], None] = lambda done: None) -> list[Request]:
    """A connection for each."""
    found = []
    start = perf_counter_ns()
    for place in range(requests):
        begin = perf_counter_ns()
        with _Http1(address, "1.0") as client:
            connected = perf_counter_ns()
            client.get("/")
            found.append(_request(place, start, begin, connected, perf_counter_ns()))
        report(place + 1)
    return found


def _by_keep_alive(address: Address, requests: int) -> list[Request]:
    """One after the other on one connection."""
    return _kept(address, 0, deque(range(requests)), perf_counter_ns())


def _by_six(address: Address, requests: int) -> list[Request]:
    """On six connections, each of which takes the next one when it has its answer; in the order of their beginnings."""
    waiting = deque(range(requests))
    starts: list[int] = []
    together = threading.Barrier(BROWSERS, lambda: starts.append(perf_counter_ns()))

    def run(place: int) -> list[Request]:
        together.wait(ANSWER_S)
        return _kept(address, place, waiting, starts[0])

    with ThreadPoolExecutor(BROWSERS) as pool:
        runs = pool.map(run, range(BROWSERS))
        return sorted((each for run in runs for each in run), key=lambda each: (each.begin, each.answered))


def _kept(address: Address, connection: int, waiting: deque[int], start: int) -> list[Request]:
    """What one kept connection gets done of the waiting requests."""
    found = []
    begin = perf_counter_ns()
    with _Http1(address) as client:
        connected = perf_counter_ns()
        with suppress(IndexError):
            while True:
                waiting.popleft()
                client.get("/")
                found.append(_request(connection, start, begin, connected, perf_counter_ns()))
                begin = connected = perf_counter_ns()
    return found


def _by_http2(address: Address, requests: int) -> list[Request]:
    """All at once on one connection."""
    from h2.connection import H2Connection
    from h2.events import StreamEnded

    protocol = H2Connection()
    protocol.initiate_connection()
    found: dict[int, Request] = {}
    start = perf_counter_ns()
    with _connected(address) as connection:
        asked: dict[int, tuple[int, int]] = {}
        connected = perf_counter_ns()
        for place in range(requests):
            begin = perf_counter_ns() if place else start
            stream = protocol.get_next_available_stream_id()
            protocol.send_headers(stream, HTTP2_REQUEST, end_stream=True)
            connection.sendall(protocol.data_to_send())
            asked[stream] = (begin, connected if place == 0 else begin)
        while len(found) < requests:
            data = connection.recv(READ)
            if not data:
                raise ConnectionError("the server closed the connection")
            for event in protocol.receive_data(data):
                if isinstance(event, StreamEnded):
                    found[event.stream_id] = _request(0, start, *asked[event.stream_id], perf_counter_ns())
            connection.sendall(protocol.data_to_send())
    return [found[stream] for stream in asked]


HTTP2_REQUEST = ((":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "localhost"))


def _request(connection: int, start: int, begin: int, connected: int, answered: int) -> Request:
    """Its moments in ms since the start."""
    return Request(connection, *((moment - start) * MS for moment in (begin, connected, answered)))


# A database connection


@dataclass(frozen=True)
class Phase:
    """A part of the way to the first answer: its messages, a round trip each, and its time."""

    name: str  # as in `Step.phase`
    round_trips: tuple[str, ...]
    time: Estimate  # ms


@dataclass(frozen=True, kw_only=True)
class DatabaseConnection(Record):
    """A new connection to PostgreSQL, phase by phase, at one distance.

    What was measured lacks the SYN's round trip, which a proxy can't delay. `tcp` and `in_all` have it added, one
    measured round trip of an echo, and their warnings say so; the phases and `connected` do not.
    """

    headline_name: ClassVar[str] = "in all"

    server: str
    round_trip_ms: float
    tls: bool
    scram: bool
    echo: Estimate  # ms, the round trip as measured
    phases: tuple[Phase, ...]
    connected: Estimate  # ms, until the first query can be sent
    tcp: Estimate  # ms, with the SYN's round trip
    in_all: Estimate  # ms, until the first query can be sent, with the SYN's round trip
    k: Estimate  # round trips until then, without the SYN's, fitted between distance 0 and this one
    computing: Estimate  # ms until then at distance 0
    psycopg: Estimate  # ms that psycopg's connect takes
    against_psycopg: Estimate  # ours over psycopg's

    def figures(self) -> dict[str, Estimate]:
        phases = {each.name: each.time for each in self.phases if each.name != "tcp"}
        return phases | {
            "in all": self.in_all,
            "tcp": self.tcp,
            "round trips": self.k,
            "computing": self.computing,
            "ours to psycopg's": self.against_psycopg,
        }

    def distance_for(self, total_ms: float) -> float:
        """The round-trip time in ms at which opening takes so long in all; negative where computing alone does."""
        return (total_ms - self.computing.median) / (self.k.median + 1)


@experiment(
    seconds=4,
    claims=["tcp-connect", "tls", "db-auth", "db-session", "db-connect-total"],
    needs=[postgres.available],
)
def database_connection(
    round_trip_ms: Literal[0, 1, 5, 10, 20, 50] = 10,
    *,
    tls: bool = True,
    scram: bool = True,
    repeats: Annotated[int, Between(5, 30)] = 7,
) -> DatabaseConnection:
    """A new connection to PostgreSQL phase by phase, in ms: TCP, TLS, authentication, session, first query.

    Opened by a client that speaks PostgreSQL's own protocol and notes each message; psycopg's connect runs in the same
    rounds as a check. The server's process for the connection is forked as soon as it is accepted, so that is in the
    first flight. Starting the session is what comes when the password is right: the last checks, and caches that are
    filled from the catalogue. It costs no round trip: AuthenticationOk and ReadyForQuery arrive together, behind the
    client's last proof. That flight is parted: one measured round trip of it is authentication, the rest the session.
    All is measured with no distance added as well, in the same rounds.
    """
    far = (0, round_trip_ms, max(round_trip_ms, FURTHER_MS))  # the ends of a line, and what is asked for
    kind: Literal["scram", "trust"] = "scram" if scram else "trust"
    with postgres.server(tls=tls, authentication=kind) as database, _ways_to(database, sorted({*far}), tls) as ways:
        for way in ways.values():
            way()  # what is loaded at first use
        taken = measure.interleave(ways, repeats)
    opened: list[list[Step]] = taken[f"ours {round_trip_ms}"]
    near, connected, away = ([_connected_ns(steps) for steps in taken[f"ours {ms}"]] for ms in far)
    echo_ns = median(taken[f"echo {round_trip_ms}"])
    further_ns = median(taken[f"echo {far[-1]}"]) - median(taken["echo 0"])
    parted = [_phases(steps, echo_ns) for steps in opened]
    first = parted[0]
    return DatabaseConnection(
        server=database.server,
        round_trip_ms=float(round_trip_ms),
        tls=tls,
        scram=scram,
        echo=_ms(taken[f"echo {round_trip_ms}"]),
        phases=tuple(Phase(name, first[name][1], _ms([each[name][0] for each in parted])) for name in first),
        connected=_ms(connected),
        tcp=_ms([each["tcp"][0] + echo_ns for each in parted], SYN_ADDED),
        in_all=_ms([one + echo_ns for one in connected], SYN_ADDED),
        k=estimate([(far - close) / further_ns for close, far in zip(near, away, strict=True)], "round trips"),
        computing=_ms(near),
        psycopg=_ms(taken[f"psycopg {round_trip_ms}"]),
        against_psycopg=measure.ratio(connected, taken[f"psycopg {round_trip_ms}"]),
        placement=free(),
        subtracted="nothing; of the last flight one measured round trip is authentication, the rest the session",
    )


@contextmanager
def _ways_to(database: postgres.Database, far: Sequence[float], secure: bool) -> Iterator[dict[str, Callable[[], Any]]]:
    """At each distance: our way to connect and ask, psycopg's way to connect (ns), and an echo (ns)."""
    context = tls.client_context(database.certificate) if secure else None
    with ExitStack() as stack:
        near = stack.enter_context(echo.serving())
        yardsticks, ways = stack.enter_context(distances.distances([near, database.address], far))
        echoes = [stack.enter_context(handshakes.tcp(address)) for address in yardsticks]
        every: dict[str, Callable[[], Any]] = {}
        for place, ms in enumerate(far):
            every[f"ours {ms}"] = partial(_database, ways, database, context, place)
            every[f"psycopg {ms}"] = partial(_psycopg_ns, database, ways[place], secure)
            every[f"echo {ms}"] = partial(_echo_ns, echoes[place])
        yield every


def _psycopg_ns(database: postgres.Database, address: Address, secure: bool) -> int:
    import psycopg

    where = database.conninfo(address=address, tls=secure, application_name="handshakes")
    begin = perf_counter_ns()
    with psycopg.connect(where, autocommit=True):
        return perf_counter_ns() - begin


def _echo_ns(connection: Connection) -> int:
    return _ns(_echo(connection))


def _connected_ns(steps: Sequence[Step]) -> int:
    return _ns([step for step in steps if step.phase != "query"])


def _phases(steps: Sequence[Step], echo_ns: float) -> dict[str, tuple[float, tuple[str, ...]]]:
    """Time in ns and messages of each phase. The flight that ends authentication is parted as the experiment says."""
    found: dict[str, tuple[float, tuple[str, ...]]] = {}
    for step in steps:
        spent, messages = found.get(step.phase, (0, ()))
        found[step.phase] = (spent + step.ns, messages + step.messages)
    last = next(step for step in steps if step.name == "authentication")
    for phase, more in (("authentication", echo_ns - last.ns), ("session", last.ns - echo_ns)):
        spent, messages = found[phase]
        found[phase] = (spent + more, messages)
    return found


def _ms(nanoseconds: Sequence[float], note: str = "") -> Estimate:
    return estimate([each * MS for each in nanoseconds], "ms", warnings=[note] if note else [])


FURTHER_MS = 10  # a line from distance 0 needs another end as far away as this
SYN_ADDED = "with the round trip of the SYN added, which a proxy can't delay"
# WebSocket


@dataclass(frozen=True)
class Way:
    """How messages came by one way. Bytes are those of the whole run over its messages."""

    name: str
    delay: Estimate  # ms, a sample per message, in their order: from being published to being there
    requests: int  # for all of them
    sent: float  # bytes a message, HTTP's head lines and WebSocket's frames included, TCP's and IP's heads not
    received: float


@dataclass(frozen=True, kw_only=True)
class WebSocket(Record):
    """The same messages, waited for in three ways at once; and what a WebSocket costs to open."""

    headline_name: ClassVar[str] = "polling"

    round_trip_ms: int
    measured_round_trip: Estimate  # ms: client to server and back, by a WebSocket
    every_ms: float
    poll_ms: float
    ways: tuple[Way, ...]  # polling, long polling, WebSocket
    empty_poll: int  # bytes, both directions, of a poll that finds nothing
    upgrade: Estimate  # ms, from asking for the WebSocket, on an open connection, to having it
    upgrade_round_trips: Estimate  # x, the same over a measured round trip
    upgrade_bytes: int  # both directions

    def figures(self) -> dict[str, Estimate]:
        found = {way.name: way.delay for way in self.ways}
        return found | {
            "upgrade": self.upgrade,
            "upgrade in round trips": self.upgrade_round_trips,
            "echo": self.measured_round_trip,
        }


@experiment(seconds=9)
def websocket(
    round_trip_ms: Literal[0, 10, 50] = 10,
    *,
    poll_ms: Annotated[float, Between(20, 2000)] = 1000.0,
    every_ms: Annotated[float, Between(10, 500)] = 250.0,
    messages: Annotated[int, Between(8, 60)] = 30,
    repeats: Annotated[int, Between(5, 20)] = 9,
) -> WebSocket:
    """How late the same messages are by polling, long polling and WebSocket, in ms, and what they cost in bytes.

    One server publishes the messages, one per interval of `every_ms` at places that fill it evenly; three clients,
    each with a connection of its own, wait for them at the same time. Sender and receivers read one clock, so a delay
    is one way. A poller waits for half its period on average: delays for other periods are in proportion, but for the
    half round trip of the way back. `repeats` WebSockets are opened before, each for the upgrade and an echo.
    """
    with web.serving() as server, _away(server, round_trip_ms) as address, measure.no_garbage_collection():
        with _WebSocket(server) as first:
            first.echo()  # what is used for the first time has to be loaded
        opened = [_opened(address) for _ in range(repeats)]
        empty = _empty_poll(server)
        ways = _waited_for(server, address, messages, every_ms, poll_ms)
    round_trips = [echo for _, echo, _ in opened]
    upgrades = [upgrade for upgrade, _, _ in opened]
    return WebSocket(
        round_trip_ms=round_trip_ms,
        measured_round_trip=estimate([each * MS for each in round_trips], "ms"),
        every_ms=every_ms,
        poll_ms=poll_ms,
        ways=ways,
        empty_poll=empty,
        upgrade=estimate([each * MS for each in upgrades], "ms"),
        upgrade_round_trips=ratio(upgrades, round_trips),
        upgrade_bytes=opened[0][2],
        placement=free(),
        subtracted="nothing",
        warnings=tuple(_unlike_pushing(ways)),
    )


def _unlike_pushing(ways: Sequence[Way]) -> Iterator[str]:
    """What should have shown, and did not."""
    polling, _, pushed = ways
    if pushed.delay.high >= polling.delay.low:
        yield "not observed here: the WebSocket's messages were not earlier than the polled ones"


def _opened(address: Address) -> tuple[int, int, int]:
    """Open a WebSocket: ns for the upgrade, ns for an echo, and the upgrade's bytes in both directions."""
    with _WebSocket(address) as client:
        size = client.sent + client.received
        return client.upgrade_ns, client.echo(), size


def _empty_poll(address: Address) -> int:
    with _Http1(address) as client:
        client.get("/messages?after=0")
        return client.sent + client.received


POLLING, LONG_POLLING, PUSHED = "polling", "long polling", "WebSocket"
LONGEST_POLL_S = 20.0  # before the server answers that there is nothing


def _waited_for(server: Address, address: Address, messages: int, every_ms: float, poll_ms: float) -> tuple[Way, ...]:
    """All messages by each way, at the same time."""
    ready = threading.Barrier(4)  # the three that wait, and the one that begins
    with ThreadPoolExecutor(3) as pool:
        waiting = (
            pool.submit(_asked_for, POLLING, address, messages, ready, poll_ms),
            pool.submit(_asked_for, LONG_POLLING, address, messages, ready, None),
            pool.submit(_pushed, address, messages, ready),
        )
        try:
            with _Http1(server) as publisher:
                ready.wait(ANSWER_S)
                publisher.get(f"/publish?count={messages}&every_ms={every_ms}")
                _report_until(waiting, messages * every_ms / 1e3)
        except BaseException:
            ready.abort()  # else they would wait for ever
            raise
        polling, long_polling, pushed = (each.result() for each in waiting)
    return polling, long_polling, pushed


def _report_until(waiting: Sequence[Future[Way]], expected_s: float) -> None:
    """Show how far the time has come until all are done."""
    start = time.monotonic()
    while any(not each.done() for each in waiting):
        share = min(1, (time.monotonic() - start) / expected_s)
        progress.report(int(100 * share), 100)
        wait(waiting, SHOWN_EACH_S)
    progress.report(100, 100)


SHOWN_EACH_S = 0.25


def _asked_for(name: str, address: Address, messages: int, ready: threading.Barrier, poll_ms: float | None) -> Way:
    """By asking again and again: every so many ms, or (None) at once, of a server that holds its answer back."""
    hold = "" if poll_ms else f"&wait={LONGEST_POLL_S}"
    delays: list[float] = []
    asked = 0
    with _Http1(address) as client:
        ready.wait(ANSWER_S)
        start = perf_counter_ns()
        while len(delays) < messages:
            sleep_until(start + int(asked * (poll_ms or 0) / MS))
            asked += 1
            delays += _delays(json.loads(client.get(f"/messages?after={len(delays)}{hold}")))
        return _way(name, delays, asked, client)


def _pushed(address: Address, messages: int, ready: threading.Barrier) -> Way:
    """By a WebSocket: its one request is the upgrade."""
    delays: list[float] = []
    with _WebSocket(address) as client:
        ready.wait(ANSWER_S)
        while len(delays) < messages:
            delays += _delays([json.loads(client.receive())])
        return _way(PUSHED, delays, 1, client)


def _delays(messages: Sequence[dict[str, Any]]) -> list[float]:
    """How long ago these were published, in ms."""
    moment = perf_counter_ns()
    return [(moment - message["published_ns"]) * MS for message in messages]


def _way(name: str, delays: Sequence[float], asked: int, client: _Http1 | _WebSocket) -> Way:
    count = len(delays)
    return Way(name, estimate(delays, "ms"), asked, client.sent / count, client.received / count)


class _WebSocket:
    """A client on one connection, which counts the bytes of both directions."""

    def __init__(self, address: Address) -> None:
        from wsproto import ConnectionType, WSConnection
        from wsproto.events import AcceptConnection, Request

        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._events: deque[Any] = deque()
        self.socket = _connected(address)
        self.sent = self.received = 0
        start = perf_counter_ns()
        self._send(Request(host="localhost", target="/ws"))
        self._next(AcceptConnection)
        self.upgrade_ns = perf_counter_ns() - start

    def receive(self) -> str:
        """The next text that the server sends."""
        from wsproto.events import TextMessage

        text: str = self._next(TextMessage).data
        return text

    def echo(self) -> int:
        """Nanoseconds for a text to the server and back."""
        from wsproto.events import TextMessage

        start = perf_counter_ns()
        self._send(TextMessage(data="hello"))
        self.receive()
        return perf_counter_ns() - start

    def _send(self, event: Any) -> None:
        data = self._protocol.send(event)
        self.socket.sendall(data)
        self.sent += len(data)

    def _next(self, kind: type) -> Any:
        while True:
            while self._events:
                event = self._events.popleft()
                if isinstance(event, kind):
                    return event
            data = self.socket.recv(READ)
            if not data:
                raise ConnectionError("the server closed the connection")
            self.received += len(data)
            self._protocol.receive_data(data)
            self._events.extend(self._protocol.events())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()
