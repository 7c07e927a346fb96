"""Server models under load: one service five times, its limits, and 100,000 WebSockets (notebook 07)."""

from __future__ import annotations

import math
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from random import Random
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from helpers import machine, measure, memory, progress
from helpers.contexts import free
from helpers.measure import KIB, Estimate, difference, estimate, interleave, median, quantile
from helpers.record import Record
from helpers.registry import Between, experiment
from helpers.testbed import crowd, visitors, web_socket_servers
from helpers.testbed.load import READ, Generator, Report, arrivals, open_loop
from helpers.testbed.servers import MODELS, Server, Usage, serving
from helpers.testbed.visitors import ANSWERED, Visit, visit
from helpers.testbed.web_socket_servers import KINDS, OURS

# One sweep, and ten thousand

SIZES = (10, 30, 100, 300, 1_000, 3_000, 10_000)  # connections
SWEPT_WAIT_MS = 10.0  # of each request
POOL_THREADS = 200  # the article's
GREETED = 100  # connections that are opened at a time, so that nobody is in the other's way
GREETING_S = 0.5  # without an answer for so long, a server has no room for more
IDLE_S = 120.0  # that a connection may say nothing: longer than any of these runs
FEWEST_S, MOST_S = 1 / 1_000, 4.0  # of a sweep: so long for each connection at the least, and in all at the most
CLIENT_BYTES = 64 * KIB  # that a connection may take in all, a thread for it included
LATE_S = 2.0  # after the end of the seconds: who has no answer then has waited in vain
MB, GB = 1e6, 1e9
COLLAPSED = 0.5  # of the best throughput: less than that is a collapse
STORMY = "thread per connection"  # what collapses so that the whole machine suffers

Model = Literal["thread per connection", "thread pool", "event loop", "hybrid", "pre-fork"]


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model with so many connections, each of which asks again as soon as it is answered.

    Estimates are over slices of the seconds, latencies those of the answers that came. Sizes in bytes, switches per
    second, both of the server with all its processes.
    """

    model: str
    connections: int
    throughput: Estimate  # requests/s
    p50: Estimate | None  # ms; None: nobody was answered
    p99: Estimate | None
    p999: float | None  # ms, of all answers
    unserved: float  # % of the clients: never answered, or not even connected
    errors: int
    timeouts: int  # requests without an answer 2 s after the end
    uss: int | None
    resident: int
    virtual: int
    threads: int
    processes: int
    switches: float | None
    cores: float  # that the server kept busy
    client_cores: float  # that the generator kept busy: near 1 it is the bottleneck


@dataclass(frozen=True, kw_only=True)
class Sweep(Record):
    """Models by connections. A thread per connection is not taken any further when it has collapsed."""

    headline_name: ClassVar[str] = "throughput"

    wait_ms: float
    pool_threads: int
    processes: int  # of the hybrid and of pre-fork
    points: tuple[Point, ...]
    limit: Estimate | None  # connections at which a thread per connection has fallen to half of its best throughput

    def of(self, model: str) -> tuple[Point, ...]:
        """A model's points, by connections."""
        return tuple(_of(model, self.points))

    def figures(self) -> dict[str, Estimate]:
        best = {model: _best(self.of(model)) for model in dict.fromkeys(each.model for each in self.points)}
        found = {f"{model}, throughput": each for model, each in best.items()}
        found[self.headline_name] = max(best.values(), key=lambda each: each.median)
        return found | ({"limit": self.limit} if self.limit else {})


@experiment(seconds=45, claims=["thread-per-connection-limit"], wants=[machine.two_cores])
def sweep(
    model: Literal["all", "thread per connection", "thread pool", "event loop", "hybrid", "pre-fork"] = "all",
    *,
    most: Annotated[int, Between(10, 10_000)] = 1_000,
    seconds: Annotated[float, Between(0.1, 2)] = 0.6,
    repeats: Annotated[int, Between(5, 15)] = 5,
) -> Sweep:
    """Throughput, latency, memory and switches of server models from 10 connections up, all of which keep asking.

    Each request waits 10 ms in the server, as for a database. Clients are one loop in this process, the server is
    another process; each size has a fresh one. A client asks again when it is answered (a closed loop), so this is the
    most that a server can do, not what people wait. The `seconds` are cut into `repeats` slices; many connections get
    more of them, up to 4 s. Sizes grow, and models take turns in random order.

    A thread per connection may collapse under that load: threads that wait for the GIL wake every switch interval
    (5 ms unless set otherwise) to ask for it, and with many of them little else gets done. It is not taken any further
    then, for the whole machine would suffer.
    """
    machine.raise_descriptor_limit()
    fit = machine.fit(most, bytes_each=CLIENT_BYTES, descriptors_each=1, threads_each=1)
    models = MODELS if model == "all" else (model,)
    sizes = [size for size in SIZES if size <= fit.count] or [fit.count]
    processes = 2 * len(machine.cores())
    points: list[Point] = []
    source = Random(0)
    for done, size in enumerate(sizes):
        for turn, name in enumerate(source.sample(models, len(models))):
            if name != STORMY or not _has_collapsed(_of(name, points)):
                long = min(MOST_S, max(seconds, size * FEWEST_S))
                points.append(_point(name, size, long, repeats, processes))
            progress.report(done * len(models) + turn + 1, len(sizes) * len(models))
    threaded = _of(STORMY, points)
    return Sweep(
        wait_ms=SWEPT_WAIT_MS,
        pool_threads=POOL_THREADS,
        processes=processes,
        points=tuple(points),
        limit=_limit(threaded),
        placement=free(),
        subtracted="nothing",
        warnings=tuple(word for word in (fit.reason, _cut_short(threaded)) if word),
    )


def _point(model: str, size: int, seconds: float, slices: int, processes: int) -> Point:
    limits: dict[str, Any] = {"threads": POOL_THREADS, "processes": processes, "queue": size, "idle_s": IDLE_S}
    with serving(model, wait_ms=SWEPT_WAIT_MS, **limits) as server, measure.no_garbage_collection():
        generator = _generator(server, seconds=seconds, warm_up_s=max(0.1, seconds / 2), patience_s=LATE_S)
        with closing(generator):
            if model == "pre-fork":  # which closes a connection that it has answered on
                generator.connect(size)
            else:
                _greet(generator, size)
            before, began = server.usage(), time.perf_counter()
            ends: list[tuple[float, Usage]] = []
            found = generator.run(at_end=lambda: ends.append((time.perf_counter() - began, server.usage())))
            [(took, after)] = ends
            if after.processes == 1:
                server.kill()
        served = sum(each.is_served for each in generator.all)
        parts = _slices(generator, slices)
    answered = [sorted(latencies) for latencies in parts if latencies]
    ordered = sorted(latency for latencies in answered for latency in latencies)
    return Point(
        model=model,
        connections=size,
        throughput=estimate([len(latencies) * slices / seconds for latencies in parts], "requests/s"),
        p50=estimate([median(each) / 1000 for each in answered], "ms") if answered else None,
        p99=estimate([quantile(each, 0.99) / 1000 for each in answered], "ms") if answered else None,
        p999=quantile(ordered, 0.999) / 1000 if ordered else None,
        unserved=100 * (1 - served / size),
        errors=found["errors"],
        timeouts=found["timeouts"],
        uss=after.uss,
        resident=after.resident,
        virtual=after.virtual,
        threads=after.threads,
        processes=after.processes,
        switches=_rate(before.switches, after.switches, took),
        cores=(after.cpu_s - before.cpu_s) / took,
        client_cores=found["cpu"],
    )


def _rate(before: int | None, after: int | None, seconds: float) -> float | None:
    return None if before is None or after is None else (after - before) / seconds


def _generator(server: Server, **settings: Any) -> Generator:
    """Clients of the server: by default in a closed loop, and nobody gives up before the end."""
    usual: dict[str, Any] = {"schedule": None, "timeout_s": IDLE_S, "path": "/"}
    return Generator(address=server.address, **{**usual, **settings})


def _greet(generator: Generator, connections: int, all_answer: bool = True) -> bool:
    """So many more connections, each with one request, a few at a time; whether all were answered.

    Once somebody waits in vain nobody is waited for: who comes later will not fare better.
    """
    goal = len(generator.all) + connections
    while (before := len(generator.all)) < goal:
        count = min(GREETED, goal - before)
        all_answer = generator.greet(count, GREETING_S if all_answer else 0.0) and all_answer
        if len(generator.all) < before + count:  # the server takes no more
            return False
    return all_answer


def _slices(generator: Generator, count: int) -> list[list[int]]:
    """Latencies in µs of the answers that came within the seconds, in equal slices of these."""
    parts: list[list[int]] = [[] for _ in range(count)]
    for moment, latency in zip(generator.moments, generator.latencies_us, strict=True):
        place = math.floor((moment - generator.begin) / generator.seconds * count)
        if 0 <= place < count:
            parts[place].append(latency)
    return parts


def _of(model: str, points: Sequence[Point]) -> list[Point]:
    return [each for each in points if each.model == model]


def _best(points: Sequence[Point]) -> Estimate:
    return max((each.throughput for each in points), key=lambda each: each.median)


def _has_collapsed(points: Sequence[Point]) -> bool:
    """Has throughput fallen, by more connections, to less than half of its best?"""
    return bool(points) and points[-1].throughput.median < COLLAPSED * _best(points).median


def _limit(points: Sequence[Point]) -> Estimate | None:
    """Connections at which throughput has fallen to half of its best, slice by slice; None if it never does.

    Between two sizes it is taken to change by a power of the connections: a straight line on logarithmic axes.
    """
    if not _has_collapsed(points):
        return None
    last, before = points[-1], points[-2]
    goal = COLLAPSED * _best(points).median
    samples = []
    for high, low in zip(before.throughput.samples, last.throughput.samples, strict=True):
        low, high = max(low, 1.0), max(high, goal)
        share = min(1.0, math.log(high / goal) / math.log(high / low)) if low < high else 1.0
        samples.append(before.connections * (last.connections / before.connections) ** share)
    return estimate(samples, "connections")


def _cut_short(points: Sequence[Point]) -> str | None:
    """That a model was not taken any further, and why."""
    if not _has_collapsed(points):
        return None
    last = points[-1]
    return (
        f"{last.model}: not taken beyond {last.connections:,} connections, with which it answered "
        f"{last.throughput.median:,.0f} requests/s instead of {_best(points).median:,.0f}"
    )


# Ten thousand

STEPS = 5  # in which the connections are opened; what a step adds is a sample of the memory of one
THREE: tuple[Model, ...] = ("thread per connection", "thread pool", "event loop")  # of the article's table
PACED_WAIT_MS = 1.0  # of each request: to be answered in less than 10 ms must be possible
ASIDE_S = 0.3  # how long answers are waited for after each round
FAR = 100_000  # connections, of which the article also speaks


@dataclass(frozen=True, kw_only=True)
class Crowded:
    """A model with all connections open, of which few ask at a time. Memory is that of the whole server, in MB.

    `memory` are pages that nobody else has (USS), or what is resident where the system doesn't tell.
    """

    model: str
    answered: float  # % of the clients: those that ever got an answer
    waiting: Estimate  # clients that have asked and never got an answer
    threads: int
    memory: Estimate  # MB
    virtual: Estimate  # MB of address space
    empty: float  # MB: before the first connection
    per_connection: Estimate  # KB: what the steps added
    steps: tuple[tuple[int, float], ...]  # connections, and MB then
    p50: Estimate | None  # ms; None: nobody was answered
    p99: Estimate | None
    requests: int
    failed: int  # of these
    crashes: Estimate  # share of the rounds after which it was gone, or had answered nobody
    connect_s: float  # until all were connected, and had asked once


@dataclass(frozen=True, kw_only=True)
class TenThousand(Record):
    """The article's table, measured: three models with many connections."""

    headline_name: ClassVar[str] = "event loop, p99"

    connections: int
    rate: float  # requests/s, of all clients together
    wait_ms: float
    pool_threads: int
    models: tuple[Crowded, ...]
    queue: Estimate  # share of the rounds after which connections waited for a thread of the pool
    far: Estimate  # GB that 100,000 connections by a thread each would take: extrapolated

    def of(self, model: str) -> Crowded:
        """One of the models."""
        return next(each for each in self.models if each.model == model)

    def figures(self) -> dict[str, Estimate]:
        threaded, pool, loop = self.models
        found = {
            "thread per connection, memory": threaded.memory,
            "thread per connection, virtual": threaded.virtual,
            "thread per connection, crash": threaded.crashes,
            "thread per connection, 100,000": self.far,
            "thread pool, memory": pool.memory,
            "thread pool, queue": self.queue,
            "event loop, memory": loop.memory,
        }
        latencies = {f"{each.model}, p99": each.p99 for each in self.models}
        return found | {name: each for name, each in latencies.items() if each is not None}


@experiment(
    seconds=20,
    claims=[
        "thread-per-connection-memory",
        "thread-per-connection-crash",
        "thread-per-connection-100k",
        "thread-pool-memory",
        "thread-pool-queue",
        "event-loop-memory",
        "event-loop-latency",
    ],
)
def ten_thousand(
    connections: Annotated[int, Between(20, 10_000)] = 10_000,
    *,
    rate: Annotated[float, Between(200, 2_000)] = 1_000,
    seconds: Annotated[float, Between(0.05, 1)] = 0.5,
    repeats: Annotated[int, Between(5, 15)] = 5,
) -> TenThousand:
    """What a thread per connection, a pool of 200 threads, and an event loop take with 10,000 clients connected.

    Clients connect, ask once, and stay. Then they ask now and then, all together `rate` times a second at random (an
    open loop), in `repeats` rounds of so many `seconds`; a request waits 1 ms in the server. Memory is read after each
    round: that of the server's process alone, pages that are really there (USS) beside address space. What a
    connection takes is what it grew by, in each of five steps, while they came.

    The claims of memory are held against USS, which would be free again if the server ended. What 100,000 would
    take is not measured but extrapolated: the empty server and 100,000 times what one added.
    """
    machine.raise_descriptor_limit()
    fit = machine.fit(connections, at_least=STEPS, bytes_each=CLIENT_BYTES, descriptors_each=1, threads_each=1)
    count = fit.count // STEPS * STEPS
    held: dict[str, Crowded] = {}
    for done, model in enumerate(Random().sample(THREE, len(THREE))):
        held[model] = _hold(model, count, rate, seconds, repeats, done)
    threaded, pool = held["thread per connection"], held["thread pool"]
    if held["event loop"].p99 is None:
        raise RuntimeError("the event loop answered nobody")
    note = f"extrapolated from {count:,} connections"
    samples = [(threaded.empty * MB + FAR * each * 1e3) / GB for each in threaded.per_connection.samples]
    return TenThousand(
        connections=count,
        rate=rate,
        wait_ms=PACED_WAIT_MS,
        pool_threads=POOL_THREADS,
        models=tuple(held[model] for model in THREE),
        queue=estimate([float(waiting > 0) for waiting in pool.waiting.samples], "share"),
        far=estimate(samples, "GB", warnings=[note]),
        placement=free(),
        subtracted="per connection: the server without connections",
        warnings=(() if fit.reason is None else (fit.reason,)) + (() if pool.waiting.low > 0 else (NO_QUEUE,)),
    )


NO_QUEUE = "not observed here: nobody waited for a thread of the pool"


class Round(NamedTuple):
    """What came of the requests of one round, and what the server had then."""

    latencies_us: list[int]  # ascending
    requests: int
    failed: int
    waiting: int  # clients without any answer so far
    usage: Usage


def _hold(model: str, connections: int, rate: float, seconds: float, repeats: int, models_before: int) -> Crowded:
    schedule = arrivals(rate, seconds)
    done, total = models_before * (STEPS + repeats), len(THREE) * (STEPS + repeats)
    limits: dict[str, Any] = {"threads": POOL_THREADS, "queue": connections, "idle_s": IDLE_S}
    with serving(model, wait_ms=PACED_WAIT_MS, **limits) as server, measure.no_garbage_collection():
        generator = _generator(server, schedule=schedule, seconds=seconds, warm_up_s=0.0, patience_s=ASIDE_S)
        usage = server.usage(switches=False)
        sizes, rounds, all_answer, began = [(0, _memory(usage))], [], True, time.perf_counter()
        with closing(generator):
            for step in range(1, STEPS + 1):
                with suppress(ConnectionError):  # the server is gone
                    all_answer = _greet(generator, connections // STEPS, all_answer)
                usage = _usage(server, usage)
                sizes.append((step * connections // STEPS, _memory(usage)))
                progress.report(done + step, total)
            connect_s = time.perf_counter() - began
            for each in range(repeats):
                found = generator.run()
                usage = _usage(server, usage)
                waiting = connections - sum(each.is_served for each in generator.all)
                failed = found["errors"] + found["timeouts"]
                rounds.append(Round(sorted(generator.latencies_us), found["requests"], failed, waiting, usage))
                progress.report(done + STEPS + each + 1, total)
            server.kill()
    added = [(later - earlier) * 1000 / (more - fewer) for (fewer, earlier), (more, later) in pairwise(sizes)]
    latencies = [each.latencies_us for each in rounds if each.latencies_us]
    return Crowded(
        model=model,
        answered=100 * (1 - rounds[-1].waiting / connections),
        waiting=estimate([float(each.waiting) for each in rounds], "clients"),
        threads=usage.threads,
        memory=estimate([_memory(each.usage) for each in rounds], "MB"),
        virtual=estimate([each.usage.virtual / MB for each in rounds], "MB"),
        empty=sizes[0][1],
        per_connection=estimate(added, "KB"),
        steps=tuple(sizes),
        p50=estimate([median(each) / 1000 for each in latencies], "ms") if latencies else None,
        p99=estimate([quantile(each, 0.99) / 1000 for each in latencies], "ms") if latencies else None,
        requests=sum(each.requests for each in rounds),
        failed=sum(each.failed for each in rounds),
        crashes=estimate([float(not each.latencies_us) for each in rounds], "share"),
        connect_s=connect_s,
    )


def _usage(server: Server, before: Usage) -> Usage:
    """What it takes now; what it took before, if it is gone."""
    with suppress(ProcessLookupError):
        return server.usage(switches=False)
    return before


def _memory(usage: Usage) -> float:
    """MB that nobody else has; those that are resident where the system doesn't tell."""
    return (usage.resident if usage.uss is None else usage.uss) / MB


# The queue

OVERFLOW = 2  # clients more than everything together has room for
MANY = 1000  # connections that a server lets in
PATIENCE_S = 10.0  # for an answer: nobody should meet it
US = 1e-3  # nanoseconds to microseconds
NO_OVERFLOW = "not observed here: who came when everything was full was connected at once"


@dataclass(frozen=True, kw_only=True)
class Client:
    """One client in the order of arrival, over all repeats. Times in ms since it came.

    `room` is what had room for it: "threads", "queue" (the server's own), "backlog" (the system's), or "nothing".
    """

    came: float  # ms since the first came
    room: str
    outcomes: tuple[str, ...]  # of each repeat, as `testbed.visitors` has them
    connected: Estimate | None  # of the repeats with the outcome of most; None: it wasn't
    ended: Estimate  # of the same

    @property
    def outcome(self) -> str:
        """The one of most repeats."""
        return _most(self.outcomes)

    @property
    def is_served(self) -> bool:
        """Was it answered?"""
        return self.outcome == ANSWERED


@dataclass(frozen=True, kw_only=True)
class Queueing(Record):
    """Clients that come while others are served, until the threads, the queue and the backlog are full."""

    headline_name: ClassVar[str] = "until let in or turned away"

    threads: int
    queue: int
    backlog: int
    when_full: str
    hold_ms: float  # that serving takes
    patience_ms: float  # after which a client gives up
    clients: tuple[Client, ...]
    at_once: Estimate  # ms: answered in, beyond `hold_ms`, with a thread free
    queued: Estimate  # ms: the same for the first that found none free
    overflow: Estimate  # ms: until the first that found all full was connected, was turned away, or gave up
    spare: Estimate  # µs: to connect and be answered, by a spare thread
    cold: Estimate  # µs: the same where a thread is started for it
    saved: Estimate  # µs: the difference

    def figures(self) -> dict[str, Estimate]:
        return {
            "wait with a thread free": self.at_once,
            "wait in the queue": self.queued,
            self.headline_name: self.overflow,
            "first answer of a spare thread": self.spare,
            "first answer of a cold thread": self.cold,
            "saved by a spare thread": self.saved,
        }

    def of(self, room: str) -> tuple[Client, ...]:
        """The clients that had this room."""
        return tuple(client for client in self.clients if client.room == room)


@experiment(seconds=4)
def queueing(
    when_full: Literal["left outside", "turned away"] = "left outside",
    *,
    threads: Annotated[int, Between(1, 8)] = 2,
    queue: Annotated[int, Between(1, 8)] = 2,
    backlog: Annotated[int, Between(1, 8)] = 1,
    hold_ms: Annotated[float, Between(100, 1000)] = 300,
    patience_ms: Annotated[float, Between(300, 5000)] = 3000,
    repeats: Annotated[int, Between(5, 15)] = 5,
) -> Queueing:
    """What clients see of a thread pool as its threads, its queue, and the system's backlog fill up.

    Clients come one after the other, each with one request that takes a thread `hold_ms`. When threads and queue are
    full the server either lets nobody in, so that clients wait in the listener's backlog ("left outside"), or lets
    them in to tell them so ("turned away", status 503). Linux has one place more than the `backlog` asked for, and
    leaves who comes then without an answer (listen(2)); the client's TCP asks again after 1 s (RFC 6298).

    Each repeat has a server of its own, and as many run at once as fit: all of them just wait. Spare threads are
    another matter: the time to connect and be answered, in pairs, by one that is there and by one that is started.
    """
    rooms = _rooms(threads, queue, backlog if when_full == "left outside" else None)
    arrivals = [place * hold_ms / 2 / len(rooms) for place in range(len(rooms))]
    most = threads + queue if when_full == "left outside" else MANY
    fit = machine.fit(repeats, descriptors_each=len(rooms) + 4, processes_each=1, threads_each=1)

    def stages(server: Server, times: int) -> list[list[Visit]]:
        seconds = [arrival / 1000 for arrival in arrivals]
        path = f"/wait?ms={hold_ms:g}"
        return [visit(server.address, seconds, path=path, patience_s=patience_ms / 1000) for _ in range(times)]

    spare, cold = _first_answers(2 * repeats)
    with ExitStack() as stack:
        servers = []
        for started in range(fit.count):
            server = serving("thread pool", threads=threads, queue=queue, backlog=backlog, connections=most)
            servers.append(stack.enter_context(server))
            progress.report(started + 1, fit.count + 1)
        times = [len(range(place, repeats, fit.count)) for place in range(fit.count)]
        with ThreadPoolExecutor(fit.count) as pool:
            runs = [run for server_runs in pool.map(stages, servers, times) for run in server_runs]
    clients = tuple(
        _client(came, room, visits) for came, room, visits in zip(arrivals, rooms, zip(*runs, strict=True), strict=True)
    )
    found: dict[str, Client] = {}
    for client in clients:
        found.setdefault(client.room, client)
    unlucky = [run[rooms.index("nothing")] for run in runs]
    overflow = [each.connected if each.connected and each.outcome == ANSWERED else each.ended for each in unlucky]
    return Queueing(
        threads=threads,
        queue=queue,
        backlog=backlog,
        when_full=when_full,
        hold_ms=hold_ms,
        patience_ms=patience_ms,
        clients=clients,
        at_once=_beyond(found["threads"].ended, hold_ms),
        queued=_beyond(found["queue"].ended, hold_ms),
        overflow=estimate([1000 * seconds for seconds in overflow], "ms"),
        spare=estimate(spare, "µs"),
        cold=estimate(cold, "µs"),
        saved=difference(cold, spare, "µs"),
        placement=free(),
        subtracted="the time that serving takes, from the waits",
        warnings=() if _is_felt(found["nothing"], hold_ms) else (NO_OVERFLOW,),
    )


def _rooms(threads: int, queue: int, backlog: int | None) -> list[str]:
    """What has room for each client, in the order of arrival; `backlog` is None if nobody is left there."""
    outside = 0 if backlog is None else backlog + 1
    rooms = {"threads": threads, "queue": queue, "backlog": outside, "nothing": OVERFLOW}
    return [room for room, size in rooms.items() for _ in range(size)]


def _first_answers(pairs: int) -> tuple[list[float], list[float]]:
    """Connections one by one, each kept, so that each needs another thread: µs until the first answer of it.

    By a server whose threads are all there, and by one that starts them when they are needed.
    """
    threads = pairs + 1  # one is there already: it answered when the server was started
    with (
        serving("thread pool", threads=threads, spare=threads) as ready,
        serving("thread pool", threads=threads, spare=0) as lazy,
        ExitStack() as kept,
    ):

        def first_answer(server: Server) -> float:
            start = time.perf_counter_ns()
            client = kept.enter_context(socket.create_connection(server.address, timeout=PATIENCE_S))
            client.sendall(b"GET /wait?ms=0 HTTP/1.1\r\nHost: us\r\n\r\n")
            client.recv(READ)
            return (time.perf_counter_ns() - start) * US

        conditions = {"spare": partial(first_answer, ready), "cold": partial(first_answer, lazy)}
        for first in conditions.values():
            first()
        found = interleave(conditions, pairs, report=False)
    return found["spare"], found["cold"]


def _client(came: float, room: str, visits: Sequence[Visit]) -> Client:
    outcomes = tuple(each.outcome for each in visits)
    usual = [each for each in visits if each.outcome == _most(outcomes)]
    connected = [1000 * each.connected for each in usual if each.connected is not None]
    return Client(
        came=came,
        room=room,
        outcomes=outcomes,
        connected=estimate(connected, "ms") if len(connected) > len(usual) / 2 else None,
        ended=estimate([1000 * each.ended for each in usual], "ms"),
    )


def _most(outcomes: Sequence[str]) -> str:
    """The one that there is most often."""
    return max(outcomes, key=outcomes.count)


def _beyond(ended: Estimate, hold_ms: float) -> Estimate:
    """What is left of the time until the answer without that of serving."""
    return difference(ended.samples, [hold_ms] * len(ended.samples), "ms")


def _is_felt(client: Client, hold_ms: float) -> bool:
    """Did it make a difference that everything was full?"""
    if set(client.outcomes) != {ANSWERED}:
        return True
    return client.connected is not None and client.connected.low > hold_ms / 2


# Mixed work

QUICK, HEAVY = 32, 8  # connections of the two kinds of clients, at the most
PROCESSES = 20  # of a pre-fork server, each of which serves one request at a time
NOBODY_SUFFERS = "not observed here: the quick requests did not take longer for the heavy ones"


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long requests took, in ms. The estimates are over successive stretches of the run, `worst` is of all."""

    p50: Estimate
    p99: Estimate
    worst: float
    answered: int
    failed: int  # an error, or no answer in time


@dataclass(frozen=True, kw_only=True)
class MixedWork(Record):
    """The quick requests of a server alone, and beside some that compute."""

    headline_name: ClassVar[str] = "p99 beside heavy requests"

    model: str
    rate: float  # requests/s, of both kinds
    share: float  # % of them that are heavy
    cpu_ms: float
    alone: Latency
    beside: Latency
    added: Estimate  # ms: how much longer the p99 is
    heavy: Estimate | None  # ms that the heavy ones take themselves; None: none was answered

    def figures(self) -> dict[str, Estimate]:
        return {
            "p99 beside heavy requests": self.beside.p99,
            "p99 alone": self.alone.p99,
            "added to the p99": self.added,
            "p50 beside heavy requests": self.beside.p50,
            "p50 alone": self.alone.p50,
        }


@experiment(seconds=3.5, wants=[machine.two_cores])
def mixed_work(
    model: Model = "event loop",
    *,
    share: Annotated[float, Between(0.5, 5)] = 1,
    cpu_ms: Annotated[int, Between(5, 100)] = 50,
    rate: Annotated[int, Between(200, 800)] = 600,
    wait_ms: Annotated[float, Between(0, 50)] = 10,
    seconds: Annotated[float, Between(0.2, 10)] = 1.6,
    repeats: Annotated[int, Between(5, 15)] = 5,
) -> MixedWork:
    """How long quick requests take when a few others need the CPU.

    Requests arrive on a schedule (an open loop, the same for every model), and their latency counts from when they
    were due. The quick ones wait `wait_ms`; a `share` in percent computes for `cpu_ms` in pure Python. The server is
    in a process of its own, and each kind of client too. The run is cut into `repeats` successive stretches, each a
    sample (the method of batch means; Law, "Simulation Modeling and Analysis", chapter 9); without heavy requests it
    is half as long. The heavy requests of a stretch are few, so that its p99 varies. A thread pool has a thread for
    every client, a pre-fork server 20 processes: nobody waits for a place.
    """
    with serving(model, wait_ms=wait_ms, **_room(model, PROCESSES if model == "pre-fork" else QUICK + HEAVY)) as server:
        load = partial(open_loop, server.address, warm_up_s=WARM_UP_S)
        quick = partial(load, rate=rate * (1 - share / 100), connections=QUICK)
        heavy = partial(load, rate=rate * share / 100, connections=HEAVY, path=f"/compute?ms={cpu_ms}", seed=1)
        alone = quick(seconds=seconds / 2)
        progress.report(1, 3)
        with ThreadPoolExecutor(1) as pool:
            computed = pool.submit(heavy, seconds=seconds)
            beside = quick(seconds=seconds)
            heavies = computed.result()
    progress.report(3, 3)
    sides = [_latency(each, repeats) for each in (alone, beside)]
    added = difference(sides[1].p99.samples, sides[0].p99.samples, "ms")
    spared = model == "event loop" and added.low <= 0  # others are meant not to suffer
    return MixedWork(
        model=model,
        rate=rate,
        share=share,
        cpu_ms=cpu_ms,
        alone=sides[0],
        beside=sides[1],
        added=added,
        heavy=estimate([each / 1000 for each in heavies.latencies_us], "ms") if heavies.latencies_us else None,
        placement=free(),
        subtracted="nothing",
        warnings=tuple(
            dict.fromkeys((*alone.warnings, *beside.warnings, *heavies.warnings, *([NOBODY_SUFFERS] if spared else [])))
        ),
    )


WARM_UP_S = 0.1


def _room(model: str, size: int) -> dict[str, Any]:
    """Limits of a server that serves so many clients at once, if there must be a limit."""
    return {"thread pool": {"threads": size, "spare": size}, "pre-fork": {"processes": size}}.get(model, {})


def _latency(report: Report, stretches: int) -> Latency:
    """Latencies come in the order of the answers: cut into stretches of equal number."""
    found = [each / 1000 for each in report.latencies_us]
    if len(found) < stretches:
        raise machine.TooSmall(f"{len(found)} of {report.requests} requests were answered: this machine is too busy")
    ends = [len(found) * place // stretches for place in range(stretches + 1)]
    parts = [sorted(found[begin:end]) for begin, end in pairwise(ends)]
    return Latency(
        p50=estimate([quantile(part, 0.5) for part in parts], "ms"),
        p99=estimate([quantile(part, 0.99) for part in parts], "ms"),
        worst=max(found),
        answered=len(found),
        failed=report.errors + report.timeouts,
    )


# Slow clients

NOBODY_WAITS = "not observed here: the pool served others while slow clients held all of its threads"


@dataclass(frozen=True, kw_only=True)
class Ordinary:
    """What became of ordinary clients beside slow ones."""

    wait: Estimate  # s until the answer; who gave up counts with the patience it had: at least so much
    served: int
    clients: int


@dataclass(frozen=True, kw_only=True)
class SlowClients(Record):
    """Ordinary clients of a server that slow ones came to first: without a time-out for a request, and with one."""

    headline_name: ClassVar[str] = "wait with a time-out"

    model: str
    slow: int
    threads: int  # of a pool, or processes of a pre-fork server
    byte_ms: float
    timeout_ms: float
    patience_ms: float
    without: Ordinary
    timed: Ordinary

    def figures(self) -> dict[str, Estimate]:
        return {"wait with a time-out": self.timed.wait, "wait without": self.without.wait}


@experiment(seconds=4.5)
def slow_clients(
    model: Model = "thread pool",
    *,
    slow: Annotated[int, Between(1, 32)] = 8,
    threads: Annotated[int, Between(1, 32)] = 8,
    byte_ms: Annotated[float, Between(20, 1000)] = 50,
    timeout_ms: Annotated[float, Between(100, 3000)] = 500,
    patience_ms: Annotated[float, Between(150, 6000)] = 750,
    repeats: Annotated[int, Between(5, 15)] = 5,
) -> SlowClients:
    """How long ordinary clients wait for a server that slow ones are connected to.

    The slow ones are first, and each is in the middle of a request of which it sends a byte every `byte_ms` (the
    attack is known as Slowloris; Hansen, 2009). Then some ordinary ones come at the same time, and wait as long as
    their patience lasts. It is the same without a time-out for requests and with one of `timeout_ms`, on two servers,
    at the same time. Real ones send a byte a second or so, and real time-outs are 10 to 60 s: all is scaled down, so
    that waits are to be read in time-outs.
    """
    fit = machine.fit(slow, descriptors_each=2)
    conditions = {"without": NEVER_S, "timed": timeout_ms / 1000}
    room = _room(model, threads) | {"idle_s": NEVER_S}
    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(serving(model, wait_ms=1, request_s=seconds, **room))
            for name, seconds in conditions.items()
        }

        def rounds(name: str) -> list[list[Visit]]:
            found = []
            for done in range(repeats):
                found.append(_beside_slow(servers[name], fit.count, byte_ms / 1000, patience_ms / 1000))
                if name == "without":
                    progress.report(done + 1, repeats)
            return found

        with ThreadPoolExecutor(len(conditions)) as pool:
            without, timed = map(_ordinary, pool.map(rounds, conditions))
    return SlowClients(
        model=model,
        slow=fit.count,
        threads=threads,
        byte_ms=byte_ms,
        timeout_ms=timeout_ms,
        patience_ms=patience_ms,
        without=without,
        timed=timed,
        placement=free(),
        subtracted="nothing",
        warnings=tuple(
            word
            for word in (
                fit.reason,
                NOBODY_WAITS if model == "thread pool" and threads <= fit.count and without.served else None,
            )
            if word is not None
        ),
    )


NEVER_S = 3600.0  # a time-out that no run lasts until
ORDINARY = 3  # clients that come together
SETTLED_S = 0.05  # after which the slow clients have what they will get


def _beside_slow(server: Server, slow: int, byte_s: float, patience_s: float) -> list[Visit]:
    """What becomes of ordinary clients that come after slow ones."""
    with visitors.slow_clients(server.address, slow, byte_s=byte_s):
        time.sleep(SETTLED_S)
        found = visit(server.address, [0.0] * ORDINARY, patience_s=patience_s)
    time.sleep(SETTLED_S)  # for the server to see that they have gone
    return found


def _ordinary(rounds: Sequence[Sequence[Visit]]) -> Ordinary:
    every = [each for visits in rounds for each in visits]
    return Ordinary(
        wait=estimate([median([each.ended for each in visits]) for visits in rounds], "s"),
        served=sum(each.outcome == ANSWERED for each in every),
        clients=len(every),
    )


# WebSockets

CLAIMED = 100_000  # connections that the article has one thread hold
KEPT_BACK = 50  # descriptors of a loop's process that are not its connections
MOST_LOOPS = 30
STAGES = (3000, 5000, 7500, 10_000, 15_000, 20_000, 30_000, 50_000, 75_000, 100_000)  # looked at on the way
WARM_UP = 1000  # connections of each loop before its memory is looked at
PAIR_BYTES = 14 * 1024  # of memory for both ends of a connection, most of it the kernel's
PINGS_PER_S = 4000  # on one loop: some 50 µs of its time each, so that it isn't the pings that make them late
MOST_PINGS_PER_S = 10_000  # on all loops, which share the cores with their clients
ENDLESS = 10**9
FEWEST_STAGES = 3  # to tell whether the cost is flat
FLAT = 0.15  # the cost of a connection may differ by this share and still be called flat
STEADY_S = 0.06  # for a server to have done all that a new connection asks for, before its memory is looked at
COMPARED = 600  # connections of another server, for its memory


@dataclass(frozen=True)
class Stage:
    """Memory in KiB for each connection beyond the first thousand of a loop, which pay for what all use.

    Of so few that there is no thousand, half.
    """

    connections: int
    beyond: int
    server: float  # pages of the server's process that only it has
    kernel: float | None  # both ends, and what others took meanwhile; None: the system doesn't tell


@dataclass(frozen=True)
class HeldOpen:
    """Connections that were held open at the same time, each answered a ping, and all told one thing."""

    connections: int
    loops: int  # each a process with one thread
    connect_s: float
    ping_p50_ms: float
    ping_p99_ms: float
    ping_longest_ms: float
    broadcast_s: float  # until the last one had it
    server_mib: float  # of all loops, for the connections alone
    clients_cpu: float  # cores' worth of time of the busiest process of clients, while it pinged
    stages: tuple[Stage, ...]  # of one loop


@dataclass(frozen=True)
class Rival:
    """Another server that holds WebSockets, and KiB of its memory for each."""

    name: str
    version: str
    memory: Estimate


@dataclass(frozen=True, kw_only=True)
class HundredThousand(Record):
    """WebSockets held open: by one thread as many as its process may, and all that were asked for by several."""

    headline_name: ClassVar[str] = "WebSocket"

    asked: int
    allowed: int | None  # descriptors of a process; None: no limit
    memory: Estimate  # KiB of the server's for each WebSocket
    kernel: Estimate | None  # KiB of the kernel's for both ends of one
    one: HeldOpen
    several: HeldOpen | None  # None: one loop could hold them all
    one_thread: Estimate | None  # connections: held by one thread, or extrapolated from those to 100,000 at the most
    rivals: tuple[Rival, ...]

    @property
    def all(self) -> HeldOpen:
        """The most that were held at once."""
        return self.several or self.one

    def figures(self) -> dict[str, Estimate]:
        found = {"WebSocket": self.memory, "kernel": self.kernel, "on one thread": self.one_thread}
        return {name: each for name, each in found.items() if each} | {each.name: each.memory for each in self.rivals}


@experiment(seconds=38, claims=["event-loop-connections"], needs=[crowd.available], wants=[machine.two_cores])
def hundred_thousand(
    *,
    connections: Annotated[int, Between(50, 100_000)] = 100_000,
    compare: bool = True,
    repeats: Annotated[int, Between(5, 15)] = 5,
) -> HundredThousand:
    """So many WebSockets held open: what one takes, how fast they come in, answer a ping, and hear what is said to all.

    A process may have so many descriptors and no more: one thread holds as many connections as that allows, less
    fifty. If that isn't enough, all of them are then held by as few loops as it takes, each in a process of its own.
    The limit itself is left as it is. Clients are in processes of their own; each shakes hands as RFC 6455 has it,
    pings once (4000 a second on one loop, 10,000 on several, on a schedule that doesn't wait for the answers), and
    hears one broadcast.

    The server's memory is what only its process has (USS): for the headline the slope between two numbers of
    connections in a process started afresh for each sample, other servers in the same rounds. The kernel's is the
    machine's slab, from stage to stage on the way to the most; what others take meanwhile is in it, too.
    """
    allowed = machine.raise_descriptor_limit()
    fit = machine.fit(connections, bytes_each=PAIR_BYTES)
    each = max(1, min(allowed - KEPT_BACK, crowd.most()))
    loops = machine.fit(min(-(-fit.count // each), MOST_LOOPS), processes_each=2, descriptors_each=4).count
    count = min(fit.count, loops * each)
    steps = repeats + (2 if loops > 1 else 1)
    one = _held(min(count, each), 1)
    progress.report(1, steps)
    several = _held(count, loops) if loops > 1 else None
    progress.report(steps - repeats, steps)
    absent = {kind: word for kind in KINDS if (word := web_socket_servers.missing(kind))}
    compared = {kind: min(count, each, COMPARED) for kind in KINDS if compare and kind not in absent}
    compared[OURS] = min(count, each, 4 * WARM_UP)
    rounds: dict[str, list[tuple[float, str]]] = {kind: [] for kind in compared}
    with crowd.gathering() as clients:
        weighed = {kind: partial(_weighed, clients, kind, (most // 4, most)) for kind, most in compared.items()}
        for done in range(repeats):
            for kind, found in interleave(weighed, 1, report=False).items():
                rounds[kind] += found
            progress.report(steps - repeats + done + 1, steps)
    costs = {kind: estimate([slope for slope, _ in found], "KiB") for kind, found in rounds.items()}
    kernel = _kernel(one.stages)
    words = [fit.reason, *(absent.values() if compare else ())]
    if count < fit.count:
        words.append(f"scaled down from {connections:,} to {count:,}: {loops} loops of {each:,} connections at most")
    return HundredThousand(
        asked=connections,
        allowed=None if allowed == sys.maxsize else allowed,
        memory=costs[OURS],
        kernel=kernel,
        one=one,
        several=several,
        one_thread=_on_one_thread(one, costs[OURS], kernel),
        rivals=tuple(Rival(kind, rounds[kind][0][1], costs[kind]) for kind in KINDS if kind in costs and kind != OURS),
        placement=free(),
        subtracted="what a server takes without connections, and for what the first of them have it allocate",
        warnings=tuple(filter(None, words)),
    )


def _held(count: int, loops: int) -> HeldOpen:
    """Hold so many connections by so many loops; look at the memory on the way if there is one loop."""
    with ExitStack() as stack:
        clients = stack.enter_context(crowd.gathering(loops))
        servers = [stack.enter_context(web_socket_servers.serving()) for _ in range(loops)]
        addresses = [server.address for server in servers]
        first = min(WARM_UP * loops, count // 2)
        stages: list[Stage] = []
        connect_s, there, server, kernel = 0.0, 0, 0.0, memory.slab()
        for stage in [first, *(stage for stage in STAGES if first < stage < count and loops == 1), count]:
            shares = [_share(stage, loops, place) - _share(there, loops, place) for place in range(loops)]
            came = clients.connect(addresses, shares)
            connect_s, there = connect_s + came.end_s - came.begin_s, stage
            if stage == first:
                server, kernel = _unique_kib(servers), memory.slab()
                continue
            slab = None if kernel is None else ((memory.slab() or 0) - kernel) / KIB / (stage - first)
            stages.append(Stage(stage, stage - first, (_unique_kib(servers) - server) / (stage - first), slab))
        pings, broadcast_s = clients.ping(pings_per_s(loops)), clients.broadcast()
        clients.leave()
        trips = sorted(pings.round_trips_us)
        return HeldOpen(
            connections=count,
            loops=loops,
            connect_s=connect_s,
            ping_p50_ms=quantile(trips, 0.5) / 1e3,
            ping_p99_ms=quantile(trips, 0.99) / 1e3,
            ping_longest_ms=trips[-1] / 1e3,
            broadcast_s=broadcast_s,
            server_mib=stages[-1].server * count / KIB,
            clients_cpu=pings.cpu,
            stages=tuple(stages),
        )


def pings_per_s(loops: int) -> int:
    """How many are sent to all loops together."""
    return min(PINGS_PER_S * loops, MOST_PINGS_PER_S)


def _share(count: int, loops: int, place: int) -> int:
    """A loop's part of the connections, as even as can be."""
    return count // loops + (place < count % loops)


def _unique_kib(servers: Sequence[web_socket_servers.Server]) -> float:
    return sum(memory.footprint(server.pid).unique or 0 for server in servers) / KIB


def _weighed(clients: crowd.Crowd, kind: str, counts: tuple[int, int]) -> tuple[float, str]:
    """KiB of a server's memory for one connection more, between these two numbers of them; and its version."""
    with web_socket_servers.serving(kind) as server:
        seen, there = [], 0
        for count in counts:
            clients.connect([server.address], [count - there])
            there = count
            if kind != OURS:  # for which the answer to the handshake is the last thing to do
                time.sleep(STEADY_S)
            seen.append(_unique_kib([server]))
        clients.leave()
    few, many = counts
    return (seen[1] - seen[0]) / (many - few), server.version


def _kernel(stages: Sequence[Stage]) -> Estimate | None:
    """KiB for both ends of a connection, from stage to stage. None: the system doesn't tell."""
    seen = [(0, 0.0), *((each.beyond, each.beyond * each.kernel) for each in stages if each.kernel is not None)]
    slopes = [(more - less) / (many - few) for (few, less), (many, more) in pairwise(seen)]
    return estimate(slopes, "KiB") if slopes else None


def _on_one_thread(one: HeldOpen, server: Estimate, kernel: Estimate | None) -> Estimate | None:
    """How many connections one thread holds, or would where fewer were asked for or allowed.

    Each takes memory, the same for each if the cost has been flat so far; half of what is available is for them. More
    than the claim needs is not extrapolated. None: the cost is not flat, or there were too few to tell.
    """
    if one.connections >= CLAIMED:
        held = float(one.connections)
        return Estimate(held, held, held, "connections", (held,))
    costs = [stage.server for stage in one.stages]
    if kernel is None or len(costs) < FEWEST_STAGES or max(costs) > (1 + FLAT) * min(costs) or kernel.median <= 0:
        return None
    room = [machine.fit(ENDLESS, bytes_each=round(KIB * (each + kernel.median))).count for each in server.samples]
    word = f"memory would do for them; extrapolated from the {one.connections:,} that one thread held"
    return estimate([min(float(each), CLAIMED) for each in room], "connections", warnings=[word])
