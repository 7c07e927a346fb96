"""Connection pooling on a real PostgreSQL: what a pool saves, how large it should be, what goes wrong (notebook 08)."""

from __future__ import annotations

import json
import logging
import math
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from ipaddress import ip_address
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from helpers import machine, measure, progress, queueing
from helpers.contexts import free, sleep_until, start_process, start_thread
from helpers.measure import Estimate, batch_size, difference, estimate, interleave, median, quantile, ratio
from helpers.record import Record
from helpers.registry import Between, experiment
from helpers.servers import tiny_pool
from helpers.testbed import postgres
from helpers.testbed.load import arrivals
from helpers.testbed.postgres import Database
from helpers.testbed.program import NotStarted
from helpers.testbed.slow_network import slow_network

MS = 1e-6  # nanoseconds to milliseconds
US = 1e-3  # nanoseconds to microseconds


# With and without

QUERY = "SELECT 1"
NAME = "connection pooling"  # what the server knows these connections by
ALONE = 3  # requests of a client alone, of each kind and in each round
SHARES = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)


@dataclass(frozen=True, kw_only=True)
class Side:
    """What requests cost one way, without a pool or with one. The estimates are over rounds.

    `latencies` are those of every request, as pairs (share of the requests, ms that this share does not exceed).
    """

    throughput: Estimate  # requests/s
    latency: Estimate  # ms: the middle request
    p99: Estimate  # ms
    latencies: tuple[tuple[float, float], ...]
    client_cpu: Estimate  # ms of CPU time per request, in the clients' processes
    server_cpu: Estimate | None  # the same in the server's; None where the system doesn't tell
    client_cores: float  # cores that the clients kept busy, and the server
    server_cores: float | None


@dataclass(frozen=True, kw_only=True)
class WithAndWithout(Record):
    """Requests by a new connection each, and by connections from a pool.

    `without` and `pooled` are `clients` at once. `new` and `reused` are one client alone, in ms per request: what a
    request pays when nobody is in its way. `connect`, `first_query` and `close` are the parts of `new`.
    """

    headline_name: ClassVar[str] = "speed-up"

    server: str
    authentication: str
    round_trip_ms: int
    clients: int
    pool_size: int
    processes: int  # that the clients are spread over, each with a pool of its own
    speedup: Estimate  # x, of the throughput
    without: Side
    pooled: Side
    new: Estimate  # ms
    reused: Estimate  # ms
    alone: Estimate  # x: new over reused
    connect: Estimate  # ms
    first_query: Estimate  # ms: on a connection that has just been opened
    close: Estimate  # ms
    checkout: Estimate  # µs: from the pool, which has one free
    local: bool = True  # the server is on this machine; one that the learner named may be anywhere

    def figures(self) -> dict[str, Estimate]:
        return {
            "speed-up": self.speedup,
            "throughput without": self.without.throughput,
            "throughput with": self.pooled.throughput,
            "latency without": self.new,
            "latency with": self.reused,
            "speed-up alone": self.alone,
            "checkout": self.checkout,
        }


@experiment(
    seconds=8,
    claims=[
        "pool-checkout",
        "pool-speedup",
        "no-pool-throughput",
        "pool-throughput",
        "no-pool-latency",
        "pool-latency",
    ],
    needs=[postgres.available, machine.fork],
    wants=[machine.two_cores],
)
def with_and_without(
    round_trip_ms: Literal[0, 1, 10] = 0,
    *,
    pool_size: Annotated[int, Between(1, 64)] = 4,
    clients: Annotated[int, Between(1, 64)] = 16,
    authentication: Literal["scram", "trust"] = "scram",
    seconds: Annotated[float, Between(0.05, 1)] = 0.3,
    repeats: Annotated[int, Between(5, 15)] = 5,
) -> WithAndWithout:
    """How many more requests per second a pool allows than a new connection for each, and what one request takes.

    A request is a one-row select in autocommit, by psycopg and psycopg_pool. The clients send the next when the last
    is answered (a closed loop), for `seconds`; they are threads, spread over a process per core, because those of one
    process would share its GIL. Each process has its part of the pool. Every round takes both ways in random order,
    and a client alone.

    Far away there is a slow network of ours in front of the server. It cannot delay the packet that opens a TCP
    connection, so that a new connection is a round trip cheaper here than it would be: the ratio is a careful one.
    """
    fit = machine.fit(clients, threads_each=1, descriptors_each=3)
    pool_fit = machine.fit(pool_size, descriptors_each=3)
    processes = max(1, min(len(machine.cores()), fit.count, pool_fit.count))
    with (
        _plainly(),
        postgres.server(authentication=authentication) as database,
        _network(database, round_trip_ms) as conninfo,
    ):
        load = partial(_load, database, conninfo, processes, fit.count, pool_fit.count, seconds)
        conditions: dict[str, Callable[[], Any]] = {
            "without": partial(load, False),
            "pooled": partial(load, True),
            "alone": partial(_in_processes, 1, partial(_alone, conninfo)),
        }
        rounds = measure.interleave(conditions, repeats)
    without, pooled = _side(rounds["without"]), _side(rounds["pooled"])
    alone = {name: [each[name] for (each,) in rounds["alone"]] for name in rounds["alone"][0][0]}
    speedup = ratio(pooled.throughput.samples, without.throughput.samples)
    return WithAndWithout(
        server=database.server,
        authentication=authentication,
        round_trip_ms=round_trip_ms,
        clients=fit.count,
        pool_size=pool_fit.count,
        processes=processes,
        speedup=speedup,
        without=without,
        pooled=pooled,
        new=estimate(alone["new"], "ms"),
        reused=estimate(alone["reused"], "ms"),
        alone=ratio(alone["new"], alone["reused"]),
        connect=estimate(alone["connect"], "ms"),
        first_query=estimate(alone["query"], "ms"),
        close=estimate(alone["close"], "ms"),
        checkout=estimate(alone["checkout"], "ms").scaled(1000, "µs"),
        local=_is_local(database.host),
        placement=free(),
        subtracted="nothing",
        warnings=tuple(
            word for word in (fit.reason, pool_fit.reason, None if speedup.low > 1 else NO_GAIN) if word is not None
        ),
    )


NO_GAIN = "not observed here: the pool did not allow more requests"


def _is_local(host: str) -> bool:
    """Is it this machine's own name or loopback address?"""
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


@contextmanager
def _network(database: Database, round_trip_ms: float) -> Iterator[str]:
    """How to connect, over a network of that round trip."""
    if not round_trip_ms:
        yield database.conninfo(application_name=NAME)
        return
    with slow_network(database.address, round_trip_ms) as address:
        yield database.conninfo(address=address, application_name=NAME)


@contextmanager
def _pool(conninfo: str, size: int) -> Iterator[Any]:
    """psycopg's pool with that many connections, all open already."""
    from psycopg_pool import ConnectionPool

    with ConnectionPool(
        conninfo,
        kwargs={"autocommit": True},
        min_size=size,
        max_size=size,
        num_workers=min(size, 8),
        timeout=PATIENCE_S,
        open=True,
    ) as pool:
        pool.wait(PATIENCE_S)
        yield pool


PATIENCE_S = 30.0  # for a connection: nobody should meet it


def _request(conninfo: str, pool: Any = None) -> Callable[[], None]:
    """What makes one request: on a connection from the pool, or without one on a new connection."""
    import psycopg

    def connecting() -> None:
        with psycopg.connect(conninfo, autocommit=True) as connection:
            connection.execute(QUERY).fetchone()

    def checking_out() -> None:
        with pool.connection() as connection:
            connection.execute(QUERY).fetchone()

    return checking_out if pool else connecting


class Loop(NamedTuple):
    """What some clients of one process came to."""

    latencies_ms: list[float]  # of every request
    begin_ns: int  # of `perf_counter_ns`
    cpu_s: float  # of this process
    seconds: float  # until the last answer


def _closed_loop(clients: int, request: Callable[[], None], seconds: float) -> Loop:
    """So many threads make requests for that long, the next when the last is answered; the last ones run over."""
    begin = time.perf_counter_ns() + 1_000_000 * (clients + 1)
    end = begin + int(seconds * 1e9)
    answered: list[tuple[int, int]] = []
    errors: list[Exception] = []

    def client() -> None:
        sleep_until(begin)
        try:
            while (asked := time.perf_counter_ns()) < end or not answered:  # a slow machine gets one done, too
                request()
                answered.append((asked, time.perf_counter_ns()))
        except Exception as error:
            errors.append(error)

    cpu = time.process_time()
    for join in [start_thread(client) for _ in range(clients)]:
        join()
    if errors:
        raise errors[0]
    return Loop(
        latencies_ms=[(back - asked) * MS for asked, back in answered],
        begin_ns=begin,
        cpu_s=time.process_time() - cpu,
        seconds=(max(back for _, back in answered) - begin) / 1e9,
    )


class Loaded(NamedTuple):
    """What all clients together came to."""

    latencies_ms: list[float]
    throughput: float  # requests/s
    client_cpu_s: float
    server_cpu_s: float | None
    seconds: float


def _load(
    database: Database, conninfo: str, processes: int, clients: int, size: int, seconds: float, with_pool: bool
) -> Loaded:
    """All clients at once, spread over processes, and what they and the server spent."""

    def client(place: int, ready: Callable[[], None]) -> Loop:
        with _pool(conninfo, _part(size, processes, place)) if with_pool else nullcontext() as pool:
            request = _request(conninfo, pool)
            request()
            ready()
            return _closed_loop(_part(clients, processes, place), request, seconds)

    clock = _server_clock(database)
    began: list[float | None] = []
    loops = [Loop(*each) for each in _in_processes(processes, client, lambda: began.append(clock()))]
    ended = clock()
    return Loaded(
        latencies_ms=[latency for each in loops for latency in each.latencies_ms],
        throughput=sum(len(each.latencies_ms) / each.seconds for each in loops),  # cut off earlier, slow ones are lost
        client_cpu_s=sum(each.cpu_s for each in loops),
        server_cpu_s=None if ended is None or began[0] is None else ended - began[0],
        seconds=max(each.seconds for each in loops),
    )


def _part(whole: int, parts: int, place: int) -> int:
    """The place's part of a whole number, as even as can be."""
    return whole // parts + (place < whole % parts)


def _side(rounds: Sequence[Loaded]) -> Side:
    ordered = [sorted(each.latencies_ms) for each in rounds]
    every = sorted(latency for each in ordered for latency in each)
    took = sum(each.seconds for each in rounds)
    server = [each.server_cpu_s for each in rounds if each.server_cpu_s is not None]
    is_known = len(server) == len(rounds)
    return Side(
        throughput=estimate([each.throughput for each in rounds], "requests/s"),
        latency=estimate([median(each) for each in ordered], "ms"),
        p99=estimate([quantile(each, 0.99) for each in ordered], "ms"),
        latencies=tuple((share, quantile(every, share)) for share in SHARES),
        client_cpu=estimate([1000 * each.client_cpu_s / len(each.latencies_ms) for each in rounds], "ms"),
        server_cpu=estimate(
            [1000 * cpu / len(each.latencies_ms) for cpu, each in zip(server, rounds, strict=True)], "ms"
        )
        if is_known
        else None,
        client_cores=sum(each.client_cpu_s for each in rounds) / took,
        server_cores=sum(server) / took if is_known else None,
    )


def _alone(conninfo: str, place: int, ready: Callable[[], None]) -> dict[str, float]:
    """Medians in ms of one client's requests, by a new connection and from a pool in turn; the parts of the first."""
    import psycopg

    times: dict[str, list[int]] = {name: [] for name in ("new", "reused", "connect", "query", "close", "checkout")}

    def timed(name: str, run: Callable[[], Any]) -> Any:
        begin = time.perf_counter_ns()
        result = run()
        times[name].append(time.perf_counter_ns() - begin)
        return result

    def anew() -> None:
        connection = timed("connect", partial(psycopg.connect, conninfo, autocommit=True))
        timed("query", lambda: connection.execute(QUERY).fetchone())
        timed("close", connection.close)

    with _pool(conninfo, 1) as pool, measure.no_garbage_collection():
        request = _request(conninfo, pool)
        request()
        for _ in range(ALONE):
            timed("new", anew)
        for _ in range(4 * ALONE):
            timed("reused", request)
            pool.putconn(timed("checkout", pool.getconn))
    return {name: median(each) * MS for name, each in times.items()}


# Processes of clients, and the server's CPU time


def _in_processes(
    count: int, client: Callable[[int, Callable[[], None]], Any], begin: Callable[[], object] = lambda: None
) -> list[Any]:
    """What `client(place, ready)` came to in each of `count` forks of this process, as plain values.

    `ready()` lasts until all of them have called it; then, and once, `begin` is called here. Raises `NotStarted` with
    a client's error.
    """
    go, gate = os.pipe()
    answers: list[int] = []
    joins = []
    for place in range(count):
        answer, theirs = os.pipe()
        run = partial(_answer, partial(client, place), go, theirs)
        joins.append(start_process(run, theirs=[theirs], ours=[gate, answer]))
        answers.append(answer)
    os.close(go)
    first = [os.read(answer, 1) for answer in answers]
    begin()
    os.close(gate)
    texts = []
    for start, answer in zip(first, answers, strict=True):
        with os.fdopen(answer, "rb") as rest:
            texts.append((start + rest.read()).lstrip(READY))
    for join in joins:
        join()
    said = [json.loads(text or b'{"error": "a process of clients ended early"}') for text in texts]
    for each in said:
        if "error" in each:
            raise NotStarted(each["error"])
    return [each["result"] for each in said]


READY = b"."


def _answer(client: Callable[[Callable[[], None]], Any], go: int, answer: int) -> None:
    """A client's side: say when it is ready, wait until the gate is closed (by whoever), write the result."""

    def ready() -> None:
        os.write(answer, READY)
        os.read(go, 1)

    try:
        said = {"result": client(ready)}
    except Exception as error:
        said = {"error": _one_line(error)}
    with os.fdopen(answer, "w") as out:
        json.dump(said, out)


def _one_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def _plainly() -> Iterator[None]:
    """The driver's and the pool's errors in one line each."""
    import psycopg

    try:
        yield
    except psycopg.Error as error:  # of which the pool's are, too
        raise NotStarted(_one_line(error)) from None


def _server_clock(database: Database) -> Callable[[], float | None]:
    """What reads the CPU seconds of the server so far, all its processes added; None where /proc doesn't tell."""
    import psycopg

    with psycopg.connect(database.conninfo(application_name=NAME), autocommit=True) as connection:
        backend = connection.info.backend_pid
        stat = _stat(backend)
        postmaster = int(stat[1]) if stat else 0

    def seconds() -> float | None:
        main = _stat(postmaster)
        try:
            children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        except OSError:
            return None
        living = [found for child in children if (found := _stat(int(child)))]
        if not main or not stat:
            return None
        ticks = sum(map(int, main[11:15])) + sum(int(tick) for each in living for tick in each[11:13])
        return float(ticks / os.sysconf("SC_CLK_TCK"))

    return seconds


def _stat(process: int) -> list[str]:
    """The fields of a PostgreSQL process's /proc/…/stat after its name; none of a process that isn't one."""
    try:
        name, _, fields = Path(f"/proc/{process}/stat").read_text().partition("(")[2].rpartition(")")
    except OSError:
        return []
    return fields.split() if name.startswith("postgres") else []


# A pool at work


class Served(NamedTuple):
    """A request's moments in ms, the place of its connection in the pool, and whether it found all of them taken."""

    due: float
    sleep: float  # ms that the server was asked to take
    asked: float
    got: float
    back: float
    connection: int
    waited: bool


@dataclass(frozen=True, kw_only=True)
class Level:
    """What a pool's requests met at one utilisation. The estimates are over runs; the p99 is that of all runs."""

    planned: float  # %
    utilisation: Estimate  # %: arrivals x mean hold over connections
    rate: Estimate  # requests/s
    hold: Estimate  # ms, the mean
    wait: Estimate  # ms, the mean of all requests
    waited: Estimate  # % of the requests found every connection taken
    p99: float  # ms of waiting
    modelled: float  # ms: the mean wait of M/M/c at this rate and hold
    modelled_p99: float


@dataclass(frozen=True, kw_only=True)
class PoolAtWork(Record):
    """A pool at one utilisation. `requests` are those of the first run, as (asked, got, back, connection) in ms."""

    headline_name: ClassVar[str] = "wait"

    server: str
    size: int
    requests: tuple[tuple[float, float, float, int], ...]
    level: Level

    def figures(self) -> dict[str, Estimate]:
        return {"wait": self.level.wait, "utilisation": self.level.utilisation, "waited": self.level.waited}


@experiment(seconds=4, needs=[postgres.available])
def pool_at_work(
    utilisation: Annotated[float, Between(10, 95)] = 80.0,
    *,
    size: Annotated[int, Between(1, 16)] = 4,
    hold_ms: Annotated[float, Between(5, 50)] = 20.0,
    seconds: Annotated[float, Between(0.1, 3)] = 1.5,
    repeats: Annotated[int, Between(5, 10)] = 5,
) -> PoolAtWork:
    """Who holds which connection when, and who waits, at a given utilisation of the pool in per cent.

    Requests come at random and do not care how the pool is doing (an open loop); each holds a connection while the
    server sleeps for it, on average for `hold_ms`, with exponential times. Some runs go on at once, each on a pool of
    its own. Chance would need minutes to show its mean: so of many random plans those are taken for which the simplest
    queue comes nearest to the textbook's mean. What the pool makes of them is measured.
    """
    size, runs, reason = _fitting(size, repeats)
    with postgres.server() as database, _plainly():
        (served,) = _served(database, size, hold_ms, seconds, runs, [utilisation])
    level = _level(utilisation, size, seconds, served)
    return PoolAtWork(
        server=database.server,
        size=size,
        requests=tuple((each.asked, each.got, each.back, each.connection) for each in served[0]),
        level=level,
        placement=free(),
        subtracted="nothing",
        warnings=tuple(word for word in (reason, *_unlike_the_plan([level])) if word),
    )


@dataclass(frozen=True, kw_only=True)
class WaitByUtilisation(Record):
    """What requests wait for a connection, from a pool with little to do to one that has hardly a moment free."""

    headline_name: ClassVar[str] = "95 % to 50 %"

    server: str
    size: int
    levels: tuple[Level, ...]
    times: Estimate  # x: the mean wait at 95 % over that at 50 %
    times_80: Estimate  # x: the same at 80 %

    def figures(self) -> dict[str, Estimate]:
        return {"95 % to 50 %": self.times, "80 % to 50 %": self.times_80} | {
            f"wait at {level.planned:g} %": level.wait for level in self.levels
        }


LEVELS = (50.0, 70.0, 80.0, 90.0, 95.0)  # %


@experiment(seconds=10, needs=[postgres.available])
def wait_by_utilisation(
    size: Annotated[int, Between(1, 8)] = 4,
    *,
    hold_ms: Annotated[float, Between(5, 50)] = 20.0,
    seconds: Annotated[float, Between(0.1, 3)] = 1.5,
    repeats: Annotated[int, Between(5, 10)] = 5,
) -> WaitByUtilisation:
    """How long a request waits for a connection, by how much of the time the connections are in use.

    As in `pool_at_work`, at one utilisation after another. Utilisation is arrival rate x mean hold time over
    connections, both measured; the model beside it is M/M/c.
    """
    size, runs, reason = _fitting(size, repeats)
    with postgres.server() as database, _plainly():
        served = _served(database, size, hold_ms, seconds, runs, LEVELS)
    levels = [_level(planned, size, seconds, each) for planned, each in zip(LEVELS, served, strict=True)]
    by_plan = {level.planned: level.wait.samples for level in levels}
    return WaitByUtilisation(
        server=database.server,
        size=size,
        levels=tuple(levels),
        times=ratio(by_plan[95.0], by_plan[50.0]),
        times_80=ratio(by_plan[80.0], by_plan[50.0]),
        placement=free(),
        subtracted="nothing",
        warnings=tuple(word for word in (reason, *_unlike_the_plan(levels)) if word),
    )


def _fitting(size: int, runs: int) -> tuple[int, int, str | None]:
    """How large the pools can be, and how many at once: runs are given up first, then connections; and why."""
    fit = machine.fit(runs * size, at_least=measure.FEWEST, descriptors_each=2)
    runs = max(measure.FEWEST, fit.count // size)
    return min(size, fit.count // runs), runs, fit.reason


CLOSE = 3.0  # % of utilisation


def _unlike_the_plan(levels: Sequence[Level]) -> Iterator[str]:
    off = [level for level in levels if abs(level.utilisation.median - level.planned) > CLOSE]
    if off:
        words = ", ".join(f"{level.utilisation.median:.0f} % for {level.planned:g} %" for level in off)
        yield f"queries took another time than planned, and so did the utilisation: {words}"


def _level(planned: float, size: int, seconds: float, runs: Sequence[Sequence[Served]]) -> Level:
    """What some runs at one utilisation came to, the requests that were there from the start left out."""
    runs = [[each for each in run if each.due] for run in runs]
    holds = [_mean([each.back - each.got for each in run]) for run in runs]
    rates = [len(run) / seconds for run in runs]
    rate, hold = estimate(rates, "requests/s"), estimate(holds, "ms")
    waits = sorted(each.got - each.asked for run in runs for each in run)
    loads = [rate * hold / 1000 / size for rate, hold in zip(rates, holds, strict=True)]
    arrivals = size * median(loads) / hold.median  # per ms
    return Level(
        planned=planned,
        utilisation=estimate([100 * load for load in loads], "%"),
        rate=rate,
        hold=hold,
        wait=estimate([_mean([each.got - each.asked for each in run]) for run in runs], "ms"),
        waited=estimate([100 * _mean([float(each.waited) for each in run]) for run in runs], "%"),
        p99=quantile(waits, 0.99),
        modelled=_bounded(queueing.mean_wait(size, arrivals, hold.median), seconds),
        modelled_p99=_bounded(queueing.wait_within(0.99, size, arrivals, hold.median), seconds),
    )


def _bounded(wait_ms: float, seconds: float) -> float:
    """Above a utilisation of 1 the queue grows for as long as the run lasts."""
    return min(wait_ms, 1000 * seconds)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


# Plans, and how they are carried out

Plan = list[tuple[float, int]]  # when a request is due, in ms, and for how many whole ms the server is to sleep

CANDIDATES = 200


def _plans(size: int, load: float, hold_ms: float, overhead_ms: float, seconds: float, runs: int) -> list[Plan]:
    """Those of many random plans that come nearest to the mean, in their load and in an ideal queue's wait.

    They begin with as many requests as the model has in the pool on average, so that no time goes by until the queue is
    as long as usual; these are due at 0.
    """
    rate = size * load / hold_ms  # per ms
    expected = queueing.mean_wait(size, rate, hold_ms)
    found = []
    for seed in range(CANDIDATES):
        source = Random(CANDIDATES + seed)  # not the arrivals' own, or long holds would come after long gaps
        due = [0.0] * round(rate * (expected + hold_ms))
        first = len(due)
        due += [1000 * moment for moment in arrivals(1000 * rate, seconds, seed)]
        plan = [(moment, max(0, round(source.expovariate(1 / hold_ms) - overhead_ms))) for moment in due]
        holds = [sleep + overhead_ms for _, sleep in plan]
        waits = _ideal_waits(size, due, holds)[first:]
        if waits:
            off_load = abs(sum(holds[first:]) / (size * load * 1000 * seconds) - 1)
            found.append((10 * off_load + abs(_mean(waits) / expected - 1), seed, plan))
    return [plan for _, _, plan in sorted(found)[:runs]]


def _ideal_waits(size: int, due: Sequence[float], holds: Sequence[float]) -> list[float]:
    """What each request waits when the first in the line gets whichever of `size` connections is free first."""
    free_at = [0.0] * size
    waits = []
    for asked, hold in zip(due, holds, strict=True):
        got = max(asked, heappop(free_at))
        heappush(free_at, got + hold)
        waits.append(got - asked)
    return waits


def _served(
    database: Database, size: int, hold_ms: float, seconds: float, runs: int, utilisations: Sequence[float]
) -> list[list[list[Served]]]:
    """The requests of each run at each utilisation in per cent."""
    import asyncio
    import selectors

    def loop() -> asyncio.AbstractEventLoop:  # epoll wakes up to 1 ms late
        return asyncio.SelectorEventLoop(selectors.SelectSelector())

    with asyncio.Runner(loop_factory=loop) as runner, measure.no_garbage_collection():
        return runner.run(_serve_all(database, size, hold_ms, seconds, runs, utilisations))


async def _serve_all(
    database: Database, size: int, hold_ms: float, seconds: float, runs: int, utilisations: Sequence[float]
) -> list[list[list[Served]]]:
    import asyncio
    from contextlib import AsyncExitStack

    from psycopg_pool import AsyncConnectionPool

    conninfo = database.conninfo(application_name=NAME)
    settings: Any = {"kwargs": {"autocommit": True}, "min_size": size, "max_size": size, "timeout": PATIENCE_S}
    async with AsyncExitStack() as stack:
        pools = [AsyncConnectionPool(conninfo, open=False, **settings) for _ in range(runs)]
        for pool in pools:
            await stack.enter_async_context(pool)
            await pool.wait(PATIENCE_S)
        probe = [(2 * hold_ms * place, round(hold_ms)) for place in range(5)]
        overhead = _overhead_ms(await asyncio.gather(*(_serve(pool, probe) for pool in pools)))
        found = []
        for done, utilisation in enumerate(utilisations):
            plans = _plans(size, utilisation / 100, hold_ms, overhead, seconds, runs)
            found.append(await asyncio.gather(*map(_serve, pools, plans)))
            overhead = _overhead_ms(found[-1])
            progress.report(done + 1, len(utilisations))
        return found


def _overhead_ms(runs: Sequence[Sequence[Served]]) -> float:
    """How much longer a connection is held than the server sleeps."""
    return median([each.back - each.got - each.sleep for run in runs for each in run])


async def _serve(pool: Any, plan: Plan) -> list[Served]:
    """Carry out a plan, every request on time, whatever became of those before it."""
    import asyncio

    served: list[Served] = []
    places: dict[int, int] = {}  # of connections, in the order in which they were first used
    taken = 0
    begin = time.perf_counter_ns()

    def now() -> float:
        return (time.perf_counter_ns() - begin) * MS

    async def request(due: float, sleep_ms: int) -> None:
        nonlocal taken
        asked, waited = now(), taken >= pool.max_size
        taken += 1
        async with pool.connection() as connection:
            got = now()
            await connection.execute("SELECT pg_sleep(%s)", [sleep_ms / 1000])
            place = places.setdefault(connection.info.backend_pid, len(places))
        taken -= 1
        served.append(Served(due, sleep_ms, asked, got, now(), place, waited))

    async with asyncio.TaskGroup() as tasks:
        for due, sleep_ms in plan:
            await asyncio.sleep(max(0.0, due - now()) / 1000)
            tasks.create_task(request(due, sleep_ms))
    return sorted(served, key=lambda each: each.asked)


# How large?

SIZES = (1, 2, 4, 8, 16, 32)
OUTSIDE_MS = 10.0  # that a request spends without a connection, on average
HOLD_MS = {"waiting": 10.0, "computing": 5.0}  # and with one, when nobody is in its way
GOOD_ENOUGH = 0.9  # of the best throughput: the last tenth costs half as many connections again
DISKS = 1
QUERIES = {"waiting": "SELECT pg_sleep(%s / 1000.0)", "computing": "SELECT sum(i) FROM generate_series(1, %s) AS i"}
STRATA = 32
WARM_UP_S = 0.05  # until as many wait as usual
COOL_DOWN_S = {"waiting": 0.0, "computing": 0.1}  # those under way at the end must not suddenly get the cores for them
NICE = 10  # a tenth of the usual weight, where cores are short


@dataclass(frozen=True, kw_only=True)
class SizePoint:
    """What came of one pool size. The estimates are over rounds."""

    size: int
    throughput: Estimate  # requests/s
    p50: Estimate  # ms, of the whole request
    p99: Estimate  # ms
    hold: Estimate  # ms: the mean time with a connection
    in_use: Estimate  # connections, on average
    modelled: float  # requests/s: the closed queue's, with the hold time of a client alone
    client_cores: float  # cores that the clients kept busy, and the server
    server_cores: float | None


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule's pool size, and ours over it: the estimate is over rounds, each of which has a best size of its own."""

    name: str
    formula: str
    size: float
    ours: Estimate  # x


@dataclass(frozen=True, kw_only=True)
class SizeSweep(Record):
    """Pool sizes from one connection to one per client. The best is the smallest with 90 % of the best throughput.

    `hold` and `request` are those of a client alone, the formula's Cm and Tt. `nearest` is the rule that came closest.
    """

    headline_name: ClassVar[str] = "best size"

    server: str
    work: str
    clients: int
    cores: int
    hold: Estimate  # ms
    request: Estimate  # ms
    points: tuple[SizePoint, ...]
    best: int
    best_of_rounds: Estimate  # connections
    rules: tuple[Rule, ...]
    nearest: str
    p99_grows: Estimate  # x: the p99 of the largest pool over that of the best

    def figures(self) -> dict[str, Estimate]:
        ours = {rule.name: rule.ours for rule in self.rules}
        return {"best size": self.best_of_rounds, "p99 of the largest": self.p99_grows, **ours}


@experiment(seconds=14, claims=["pool-size-formula", "pool-size-cores"], needs=[postgres.available])
def size_sweep(
    work: Literal["waiting", "computing"] = "waiting",
    *,
    clients: Annotated[int, Between(2, 48)] = 32,
    seconds: Annotated[float, Between(0.05, 1)] = 0.15,
    repeats: Annotated[int, Between(5, 15)] = 5,
) -> SizeSweep:
    """How many connections a pool needs: requests per second and how long they take, by its size.

    Each client, a thread, spends 10 ms without a connection and then holds one while the server works: it waits for
    10 ms (as for a lock, or another service), or computes what takes a core 5 ms. These are means of exponential
    times. The next request begins when the last has ended. Beside the measurement stand the rules' sizes, and the
    machine repairman's queue. On shared cores the clients go first: see `_let_clients_first`.
    """
    fit = machine.fit(clients, at_least=2, threads_each=3, descriptors_each=4)
    sizes = [size for size in SIZES if size < fit.count] + [fit.count]
    with postgres.server(max_connections=sum(sizes) + 10) as database, _plainly(), ExitStack() as stack:
        conninfo = database.conninfo(application_name=NAME)
        pools = {size: stack.enter_context(_pool(conninfo, size)) for size in sizes}
        job = Job(work, _rows_per_ms(pools[1]) if work == "computing" else 1.0)
        _let_clients_first(conninfo)
        clock = _server_clock(database)
        conditions: dict[str, Callable[[], Any]] = {
            str(size): partial(_round, pool, job, fit.count, seconds, clock) for size, pool in pools.items()
        }
        rounds = measure.interleave(conditions | {"alone": partial(_hold_alone, pools[1], job)}, repeats)
    hold = estimate(rounds.pop("alone"), "ms")
    cores = len(machine.cores())
    points = tuple(_point(int(size), each, job, fit.count, cores, hold.median) for size, each in rounds.items())
    best = _best([(point.size, point.throughput.median) for point in points])
    bests = [_best([(point.size, point.throughput.samples[n]) for point in points]) for n in range(repeats)]
    rules = tuple(
        Rule(name=name, formula=formula, size=size, ours=estimate([each / size for each in bests], "x"))
        for name, formula, size in _rules(points, fit.count, cores, hold.median)
    )
    at_best = next(point for point in points if point.size == best)
    return SizeSweep(
        server=database.server,
        work=work,
        clients=fit.count,
        cores=cores,
        hold=hold,
        request=estimate([each + OUTSIDE_MS for each in hold.samples], "ms"),
        points=points,
        best=best,
        best_of_rounds=estimate(bests, "connections"),
        rules=rules,
        nearest=min(rules, key=lambda rule: abs(math.log(best / rule.size))).name,
        p99_grows=ratio(points[-1].p99.samples, at_best.p99.samples),
        placement=free(),
        subtracted="nothing",
        warnings=tuple(word for word in (fit.reason, *_unlike_the_work(job, points)) if word),
    )


class Job(NamedTuple):
    """What the server is asked for: `per_ms` is the query's argument for each ms."""

    work: str
    per_ms: float

    def run(self, connection: Any, ms: float) -> None:
        connection.execute(QUERIES[self.work], [round(ms * self.per_ms)]).fetchone()


class Round(NamedTuple):
    """What clients at one pool size came to in one round."""

    throughput: float  # requests/s
    p50_ms: float
    p99_ms: float
    hold_ms: float
    in_use: float
    client_cpu_s: float
    server_cpu_s: float | None
    seconds: float


def _let_clients_first(conninfo: str) -> None:
    """Have the server's processes, where they run on this machine, take what the clients leave of its cores.

    A database seldom shares its cores with its clients. Here it does, and the system shares them out by process: each
    further connection would win some for the server, and look as if it had got more done by itself.
    """
    import psycopg

    with psycopg.connect(conninfo, autocommit=True) as connection:
        found = connection.execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", [NAME])
        for (process,) in found.fetchall():
            if hasattr(os, "setpriority") and _stat(process):
                with suppress(PermissionError, ProcessLookupError):
                    os.setpriority(os.PRIO_PROCESS, process, NICE)


def _rows_per_ms(pool: Any) -> float:
    """How many rows the server adds up in a ms, when it has nothing else to do."""
    rows = 20_000
    with pool.connection() as connection:
        times = [measure.timed(partial(Job("computing", 1).run, connection, rows)) for _ in range(7)]
    return rows / (median(times) * MS)


def _hold_alone(pool: Any, job: Job) -> float:
    """The mean time in ms that a client alone holds a connection for a job of the mean length."""
    with pool.connection() as connection:
        return _mean([measure.timed(partial(job.run, connection, HOLD_MS[job.work])) * MS for _ in range(5)])


def _round(pool: Any, job: Job, clients: int, seconds: float, clock: Callable[[], float | None]) -> Round:
    times = _times(seed=clients)
    holds: list[tuple[int, int, float]] = []

    def request() -> None:
        outside, held = next(times)
        time.sleep(outside * OUTSIDE_MS / 1000)
        with pool.connection() as connection:
            got = time.perf_counter_ns()
            job.run(connection, held * HOLD_MS[job.work])
            holds.append((got, time.perf_counter_ns(), held))

    before = clock()
    loop = _closed_loop(clients, request, WARM_UP_S + seconds + COOL_DOWN_S[job.work])
    after = clock()
    latencies = sorted(loop.latencies_ms)
    first, last = loop.begin_ns + int(WARM_UP_S * 1e9), loop.begin_ns + int((WARM_UP_S + seconds) * 1e9)
    within = [max(0, min(back, last) - max(got, first)) for got, back, _ in holds]
    # In requests of the mean length: a long one counts for more, one that is cut off for its part, so chance for less
    done = sum(held * part / (back - got) for (got, back, held), part in zip(holds, within, strict=True))
    return Round(
        throughput=done / seconds,
        p50_ms=median(latencies),
        p99_ms=quantile(latencies, 0.99),
        hold_ms=_mean([(back - got) * MS for got, back, _ in holds]),
        in_use=sum(within) / (last - first),
        client_cpu_s=loop.cpu_s,
        server_cpu_s=None if before is None or after is None else after - before,
        seconds=loop.seconds,
    )


def _times(seed: int) -> Iterator[tuple[float, float]]:
    """Exponential times outside and with a connection, of mean 1, without end; any 32 in a row have that mean.

    Drawn from equal parts of the distribution in random order ("stratified"), so that chance in the work does not hide
    the effect of the size. Safe to share between threads.
    """
    source = Random(seed)
    each = [-math.log(1 - (place + 0.5) / STRATA) for place in range(STRATA)]
    level = [value * STRATA / sum(each) for value in each]
    found: list[tuple[float, float]] = []
    for _ in range(STRATA):
        found += zip(source.sample(level, STRATA), source.sample(level, STRATA), strict=True)
    return cycle(found)


def _point(size: int, rounds: Sequence[Round], job: Job, clients: int, cores: int, hold_ms: float) -> SizePoint:
    took = sum(each.seconds for each in rounds)
    server = [each.server_cpu_s for each in rounds if each.server_cpu_s is not None]
    at_work = size if job.work == "waiting" else min(size, cores)  # only so many compute at once
    return SizePoint(
        size=size,
        throughput=estimate([each.throughput for each in rounds], "requests/s"),
        p50=estimate([each.p50_ms for each in rounds], "ms"),
        p99=estimate([each.p99_ms for each in rounds], "ms"),
        hold=estimate([each.hold_ms for each in rounds], "ms"),
        in_use=estimate([each.in_use for each in rounds], "connections"),
        modelled=1000 * queueing.closed_throughput(clients, at_work, hold_ms, OUTSIDE_MS),
        client_cores=sum(each.client_cpu_s for each in rounds) / took,
        server_cores=sum(server) / took if len(server) == len(rounds) else None,
    )


def _best(throughputs: Sequence[tuple[int, float]]) -> int:
    """The smallest of the sizes that reach 90 % of the best throughput.

    Where more connections change nothing, one of many is always ahead by chance: the best is the middle of the three
    highest.
    """
    highest = sorted(throughput for _, throughput in throughputs)[-3:]
    return min(size for size, throughput in throughputs if throughput >= GOOD_ENOUGH * median(highest))


def _rules(points: Sequence[SizePoint], clients: int, cores: int, hold_ms: float) -> list[tuple[str, str, float]]:
    """Name, formula and size of every rule. Little's law alone is told how many requests there are in the end."""
    most = max(point.throughput.median for point in points)
    return [
        ("the article's formula", "Tn × (Cm / Tt)", clients * hold_ms / (hold_ms + OUTSIDE_MS)),
        ("the rule of cores", "cores × 2 + disks", float(cores * 2 + DISKS)),
        ("no deadlock", "Tn × (Cm − 1) + 1", 1.0),  # Cm: the connections that a request needs at once, one
        ("Little's law", "rate × hold time", most * hold_ms / 1000),
        ("the queueing model", "queueing model", float(_best([(point.size, point.modelled) for point in points]))),
    ]


def _unlike_the_work(job: Job, points: Sequence[SizePoint]) -> Iterator[str]:
    """What the work should have shown, and did not here."""
    gain = points[-1].throughput.median / points[0].throughput.median
    if gain < 1.2:
        yield "not observed here: more connections did not get more done"


# Two connections at once


@dataclass(frozen=True, kw_only=True)
class NeedsTwo(Record):
    """Requests that need two connections at once, from a pool with one per client, and from one with one more.

    `clients_then` are those of the first round of each: (got the first, got the second or gave up, ended, whether it
    got the second), in ms.
    """

    headline_name: ClassVar[str] = "failed"

    server: str
    clients: int
    time_out_ms: float
    too_few: int  # connections
    enough: int  # connections: Tn x (Cm - 1) + 1
    failed: Estimate  # % of the requests, with too few
    failed_with_enough: Estimate  # %
    took: Estimate  # ms until all were done, with too few
    took_with_enough: Estimate  # ms
    with_too_few: tuple[tuple[float, float, float, bool], ...]
    with_enough: tuple[tuple[float, float, float, bool], ...]
    error: str  # the pool's own words

    def figures(self) -> dict[str, Estimate]:
        return {
            "failed": self.failed,
            "failed with enough": self.failed_with_enough,
            "took": self.took,
            "took with enough": self.took_with_enough,
        }


@experiment(seconds=4, needs=[postgres.available])
def needs_two(
    clients: Annotated[int, Between(2, 16)] = 6,
    *,
    time_out_ms: Annotated[float, Between(50, 1000)] = 300.0,
    repeats: Annotated[int, Between(5, 15)] = 5,
) -> NeedsTwo:
    """What becomes of requests that need two connections at once, when every client already holds one.

    All clients, threads, have taken their first connection before any asks for the second. With as many connections as
    clients nobody ever gets one: a deadlock, until the pool's time-out. One more connection is enough, by HikariCP's
    formula Tn x (Cm - 1) + 1 with Cm = 2 connections: someone gets it, ends, and gives two back.
    """
    fit = machine.fit(clients, at_least=2, threads_each=2, descriptors_each=4)
    few, enough = fit.count, fit.count * (2 - 1) + 1
    with postgres.server() as database, _plainly(), ExitStack() as stack:
        conninfo = database.conninfo(application_name=NAME)
        pools = {size: stack.enter_context(_pool(conninfo, size)) for size in (few, enough)}
        rounds = measure.interleave(
            {str(size): partial(_take_two, pool, fit.count, time_out_ms) for size, pool in pools.items()}, repeats
        )
    small, large = rounds[str(few)], rounds[str(enough)]
    failed = estimate([_failed(each) for each in small], "%")
    return NeedsTwo(
        server=database.server,
        clients=fit.count,
        time_out_ms=time_out_ms,
        too_few=few,
        enough=enough,
        failed=failed,
        failed_with_enough=estimate([_failed(each) for each in large], "%"),
        took=estimate([max(one.ended for one in each) for each in small], "ms"),
        took_with_enough=estimate([max(one.ended for one in each) for each in large], "ms"),
        with_too_few=tuple((one.first, one.second, one.ended, not one.error) for one in small[0]),
        with_enough=tuple((one.first, one.second, one.ended, not one.error) for one in large[0]),
        error=next((one.error for each in small for one in each if one.error), ""),
        placement=free(),
        subtracted="nothing",
        warnings=tuple(word for word in (fit.reason, None if failed.low > 0 else NO_DEADLOCK) if word),
    )


NO_DEADLOCK = "not observed here: requests got their second connection in spite of the deadlock"
TWICE_HELD_MS = 5.0


class TookTwo(NamedTuple):
    """A client's moments in ms; the error is the pool's when it did not get the second connection."""

    first: float
    second: float
    ended: float
    error: str


def _take_two(pool: Any, clients: int, time_out_ms: float) -> list[TookTwo]:
    from psycopg_pool import PoolTimeout

    everyone = threading.Barrier(clients)
    found: list[TookTwo] = []
    begin = time.perf_counter_ns()

    def now() -> float:
        return (time.perf_counter_ns() - begin) * MS

    def client() -> None:
        error = ""
        with pool.connection() as connection:
            first = now()
            everyone.wait(PATIENCE_S)
            try:
                with pool.connection(time_out_ms / 1000):
                    second = now()
                    Job("waiting", 1.0).run(connection, TWICE_HELD_MS)
            except PoolTimeout as timed_out:
                second, error = now(), f"{type(timed_out).__name__}: {_one_line(timed_out)}"
        found.append(TookTwo(first, second, now(), error))

    for join in [start_thread(client) for _ in range(clients)]:
        join()
    return sorted(found)


def _failed(clients: Sequence[TookTwo]) -> float:
    """Per cent of the clients."""
    return 100 * _mean([float(bool(each.error)) for each in clients])


# What goes wrong

SHOP = "shop"  # the role that the services log in as: an ordinary one, which may not use the reserved connections
SERVICES = ("orders", "billing", "search")
FOR_SERVICES = 8  # connections that the server leaves to them; one more is our observer's
LOOK_S = 0.004  # how often the observer looks
GONE_S = 2.0  # within which closed connections must be gone
CLIENTS = 40  # threads at the most: requests, and those of three pools
FOREVER_S = 3600.0
PROMISED = {  # the word by which each fault is known
    "leak": "PoolTimeout",
    "too-large": "FATAL",
    "shared-server": "PoolTimeout",
    "killed": "AdminShutdown",
    "no-time-out": "",
}


@dataclass(frozen=True)
class Attempt:
    """A request, in ms since its scene began: when it asked for a connection, got it (None: never), and was over.

    `outcome` is "ok", "failed", or "waiting": it still waited when we stopped watching.
    """

    service: str
    begin: float
    got: float | None
    end: float
    outcome: str
    error: str = ""


@dataclass(frozen=True)
class Scene:
    """A fault or its cure as it happened once: the requests, and the server's connections by service at each change."""

    title: str
    time_out_ms: float | None  # that requests wait for a connection; None: for ever
    limit: int  # connections that the server leaves to the services
    services: tuple[str, ...]  # in the order in which they started
    attempts: tuple[Attempt, ...]
    connections: tuple[tuple[float, dict[str, int]], ...]  # ms, and how many each service had from then on
    events: tuple[tuple[float, str], ...]  # ms, and what happened
    logged: tuple[str, ...]  # what the server told the pool, which keeps it in its log
    left: int  # connections that were still there when everything was closed

    def count(self, outcome: str) -> int:
        """How many requests ended so."""
        return sum(each.outcome == outcome for each in self.attempts)

    @property
    def said(self) -> tuple[str, ...]:
        """What the requests that failed were told, each thing once."""
        return tuple(dict.fromkeys(each.error for each in self.attempts if each.outcome == "failed"))

    @property
    def failed(self) -> float:
        """Requests that got nothing, in %."""
        return 100 * (len(self.attempts) - self.count("ok")) / len(self.attempts)

    @property
    def slowest(self) -> float:
        """The longest that a request took, in ms."""
        return max(each.end - each.begin for each in self.attempts)


@dataclass(frozen=True, kw_only=True)
class Fault(Record):
    """What a fault does, and what is left of it after the cure. `scenes`: the fault first, the cure last."""

    headline_name: ClassVar[str] = "failed"
    which: str
    server: str
    scenes: tuple[Scene, ...]
    failed: Estimate  # % of the requests, with the fault
    failed_cured: Estimate
    slowest: Estimate  # ms that the slowest request took, with the fault
    slowest_cured: Estimate
    until_error: Estimate | None  # ms until the first request that failed was told so; None: it never is
    recovery: Estimate | None  # ms that `pool.check()` took, after the connections were killed

    def figures(self) -> dict[str, Estimate]:
        all_figures = {
            "failed": self.failed,
            "failed_cured": self.failed_cured,
            "slowest": self.slowest,
            "slowest_cured": self.slowest_cured,
            "until_error": self.until_error,
            "recovery": self.recovery,
        }
        return {name: figure for name, figure in all_figures.items() if figure is not None}


@experiment(seconds=5, needs=[postgres.own_available])
def fault(
    which: Literal["leak", "too-large", "shared-server", "killed", "no-time-out"] = "leak",
    *,
    time_out_ms: Annotated[float, Between(40, 1500)] = 150.0,
    repeats: Annotated[int, Between(5, 20)] = 5,
) -> Fault:
    """A pool's five usual faults: each caused on a server of its own, seen, and cured.

    "leak": some requests never give their connection back. "too-large": the pool is larger than the server's limit.
    "shared-server": three pools are, together. "killed": the server closed the pool's connections, as a failover or a
    firewall does. "no-time-out": more requests come than are served, and they wait for ever.

    `time_out_ms` is how long a request waits for a connection. Each request is a thread of its own and arrives on
    schedule, whether those before it are done or not. The connections are those in pg_stat_activity. The drawn scenes
    are the first of `repeats`; what lies between fault and cure is played once.
    """
    machine.fit(CLIENTS, at_least=CLIENTS, threads_each=1)
    with postgres.server(own=True, max_connections=FOR_SERVICES + 1) as database, _stage(database) as stage:
        plays = SCENES[which]
        kept = [_play(stage, *each, time_out_ms) for each in plays]
        rounds = [(kept[0], kept[-1])]
        for done in range(1, repeats):
            progress.report(done, repeats)
            rounds.append((_play(stage, *plays[0], time_out_ms), _play(stage, *plays[-1], time_out_ms)))
        progress.report(repeats, repeats)
    faults, cures = zip(*rounds, strict=True)
    return Fault(
        which=which,
        server=database.server,
        scenes=tuple(kept),
        failed=estimate([each.failed for each in faults], "%"),
        failed_cured=estimate([each.failed for each in cures], "%"),
        slowest=estimate([each.slowest for each in faults], "ms"),
        slowest_cured=estimate([each.slowest for each in cures], "ms"),
        until_error=_until_error(faults),
        recovery=_recovery(cures) if which == "killed" else None,
        placement=free(),
        subtracted="nothing",
        warnings=tuple(_not_as_promised(which, faults, cures, kept[1:-1])),
    )


def _until_error(scenes: Sequence[Scene]) -> Estimate | None:
    """How long it took until the first that failed knew, a sample per scene."""
    times = [[each.end - each.begin for each in scene.attempts if each.outcome == "failed"] for scene in scenes]
    return estimate([each[0] for each in times], "ms") if all(times) else None


def _recovery(scenes: Sequence[Scene]) -> Estimate:
    """How long `pool.check()` took, between the two events that note its begin and end."""
    return estimate([scene.events[-1][0] - scene.events[-2][0] for scene in scenes], "ms")


def _not_as_promised(
    which: str, faults: Sequence[Scene], cures: Sequence[Scene], between: Sequence[Scene] = ()
) -> Iterator[str]:
    """What did not show, what the cure did not cure, and what was left behind."""
    if not all(scene.failed and PROMISED[which] in " ".join((*scene.said, *scene.logged)) for scene in faults):
        yield "the fault was not observed here in every repeat"
    if which != "no-time-out" and any(scene.failed for scene in cures):
        yield "some requests failed with the cure too: the machine was too busy to serve them in time"
    if left := sum(scene.left for scene in (*faults, *between, *cures)):
        yield f"{left} connections were still there after a pool was closed"


# The stage: a server, an observer, and one scene after another


class _Stage(NamedTuple):
    """A server with a role for the services, and an administrator's connection that looks at it."""

    database: postgres.Database
    password: str
    admin: Any
    limit: int

    def conninfo(self, service: str) -> str:
        return self.database.conninfo(user=SHOP, password=self.password, application_name=service)

    def connections(self) -> dict[str, int]:
        """How many each service has."""
        asked = "SELECT application_name, count(*) FROM pg_stat_activity WHERE usename = %s GROUP BY 1 ORDER BY 1"
        return dict(self.admin.execute(asked, [SHOP]).fetchall())

    def kill(self) -> None:
        """Close all of the services' connections from the server's side."""
        self.admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [SHOP])

    def is_empty(self) -> bool:
        """Whether all of them are gone, after a moment."""
        deadline = time.monotonic() + GONE_S
        while self.connections() and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        return not self.connections()


LEFT = "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"


@contextmanager
def _stage(database: postgres.Database) -> Iterator[_Stage]:
    import psycopg
    from psycopg import sql

    password = secrets.token_hex(16)
    with psycopg.connect(database.conninfo(application_name="observer"), autocommit=True) as admin:
        role, secret = sql.Identifier(SHOP), sql.Literal(password)
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, secret))
        [(left,)] = admin.execute(LEFT).fetchall()
        yield _Stage(database, password, admin, left - 1)


class _Play:
    """A scene while it is played: its pools, its clock, what becomes of its requests, what the server sees."""

    def __init__(self, stage: _Stage, time_out_ms: float) -> None:
        self.stage = stage
        self.time_out_ms: float | None = time_out_ms
        self.step_ms = min(time_out_ms, 150) / 15  # between two requests
        self.attempts: list[Attempt] = []
        self.connections: list[tuple[float, dict[str, int]]] = []
        self.events: list[tuple[float, str]] = []
        self.services: list[str] = []
        self.is_over = False
        self.begin_ns = 0
        self.ends = ExitStack()
        self._threads: list[threading.Thread] = []

    def pool(self, service: str, size: int, **options: Any) -> Any:
        """psycopg's pool of that many connections, which it begins to open at once."""
        from psycopg_pool import ConnectionPool

        pool: Any = ConnectionPool(
            self.stage.conninfo(service),
            min_size=size,
            max_size=size,
            timeout=FOREVER_S if self.time_out_ms is None else self.time_out_ms / 1000,
            name=service,
            kwargs={"autocommit": True},
            open=True,
            **options,
        )
        self.ends.callback(pool.close)
        return pool

    def begin(self) -> None:
        """Let the clock run, and the observer look."""
        self.connections.append((0.0, self.stage.connections()))
        self.begin_ns = time.perf_counter_ns()
        watching = threading.Event()
        observer = threading.Thread(target=self._observe, args=(watching,), daemon=True)
        observer.start()
        self.ends.callback(observer.join)
        self.ends.callback(watching.set)

    def now(self) -> float:
        """Milliseconds since the scene began."""
        return (time.perf_counter_ns() - self.begin_ns) * MS

    def note(self, event: str) -> None:
        """Something happened."""
        self.events.append((self.now(), event))

    def ask(self, service: str, lend: Callable[[], AbstractContextManager[Any]], at_ms: float, use_ms: float) -> None:
        """Have a request come at that moment and use a connection for a while."""
        self.services.append(service)
        thread = threading.Thread(target=self._request, args=(service, lend, at_ms, use_ms), daemon=True)
        thread.start()
        self._threads.append(thread)

    def ask_often(
        self, service: str, lend: Callable[[], AbstractContextManager[Any]], count: int, use_ms: float
    ) -> None:
        """So many requests, a step apart."""
        start = self.now() + self.step_ms
        for number in range(count):
            self.ask(service, lend, start + number * self.step_ms, use_ms)

    def finish(self) -> None:
        """Wait until each request has come to its end."""
        for thread in self._threads:
            thread.join()

    def _request(
        self, service: str, lend: Callable[[], AbstractContextManager[Any]], at_ms: float, use_ms: float
    ) -> None:
        sleep_until(self.begin_ns + round(at_ms / MS))
        begin, got, outcome, error = self.now(), None, "ok", ""
        try:
            with lend() as connection:
                got = self.now()
                connection.execute("SELECT pg_sleep(%s)", [use_ms / 1000])
        except Exception as caught:
            outcome, error = "failed", _words(caught)
        if self.is_over and got is None:
            outcome, error = "waiting", ""
        self.attempts.append(Attempt(service, begin, got, self.now(), outcome, error))

    def _observe(self, stop: threading.Event) -> None:
        while not stop.wait(LOOK_S):
            seen = self.stage.connections()
            if seen != self.connections[-1][1]:
                self.connections.append((self.now(), seen))


def _play(stage: _Stage, title: str, play: Callable[[_Play], None], time_out_ms: float) -> Scene:
    """Play a scene to its end, and see that nothing of it stays."""
    scene = _Play(stage, time_out_ms)
    with _log() as logged:
        with scene.ends:
            play(scene)
        is_empty = stage.is_empty()
    return Scene(
        title=title,
        time_out_ms=scene.time_out_ms,
        limit=stage.limit,
        services=tuple(dict.fromkeys(scene.services)),
        attempts=tuple(sorted(scene.attempts, key=lambda each: each.begin)),
        connections=tuple(scene.connections),
        events=tuple(scene.events),
        logged=tuple(dict.fromkeys(logged)),
        left=0 if is_empty else sum(stage.connections().values()),
    )


@contextmanager
def _log() -> Iterator[list[str]]:
    """What the server refuses while a pool connects in the background: the pool tells nobody but its log."""
    lines: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if refused := FATAL.search(record.getMessage()):
                lines.append(f"FATAL: {refused[1]}")

    logger, keep = logging.getLogger("psycopg.pool"), Keep(logging.WARNING)
    was, logger.propagate = logger.propagate, False
    logger.addHandler(keep)
    try:
        yield lines
    finally:
        logger.removeHandler(keep)
        logger.propagate = was


FATAL = re.compile(r"FATAL:\s+(.*)")


def _words(error: Exception) -> str:
    """An error's class and its first line; the server's own words where it has some."""
    refused = FATAL.search(str(error))
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {f'FATAL: {refused[1]}' if refused else lines[0]}"


# The scenes


def _leak(play: _Play) -> None:
    pool = play.pool(SHOP, 3)
    pool.wait()
    lost: list[Any] = []  # the program still refers to them, somewhere
    play.ends.callback(lambda: [connection.close() for connection in lost])

    @contextmanager
    def forgetful() -> Iterator[Any]:
        connection = pool.getconn()
        lost.append(connection)
        yield connection

    play.begin()
    for number in range(REQUESTS):
        lend = forgetful if number in LEAKS else pool.connection
        play.ask(SHOP, lend, number * play.step_ms, play.step_ms)
    play.finish()


def _no_leak(play: _Play) -> None:
    pool = play.pool(SHOP, 3)
    pool.wait()
    play.begin()
    play.ask_often(SHOP, pool.connection, REQUESTS, play.step_ms)
    play.finish()


def _start(size: int, play: _Play) -> None:
    """A service that is up when its pool is full, and then gets requests."""
    from psycopg_pool import PoolTimeout

    play.begin()
    pool = play.pool(SHOP, size)
    outcome, error = "ok", ""
    try:
        pool.wait(2 * (play.time_out_ms or 0) / 1000)
    except PoolTimeout as caught:
        outcome, error = "failed", _words(caught)
    now = play.now()
    play.services.append("start")
    play.attempts.append(Attempt("start", 0.0, now if outcome == "ok" else None, now, outcome, error))
    play.ask_often(SHOP, pool.connection, 10, 3 * play.step_ms)
    play.finish()


def _connect_in_the_request(size: int, play: _Play) -> None:
    """With a pool that connects in the request that needs it, the request hears what the server says."""
    import psycopg

    pool = tiny_pool.Pool(lambda: psycopg.connect(play.stage.conninfo(SHOP), autocommit=True), size)
    play.ends.callback(pool.close)
    play.begin()
    for _ in range(size):
        play.ask(SHOP, partial(pool.connection, (play.time_out_ms or 0) / 1000), play.step_ms, 10 * play.step_ms)
    play.finish()


def _share(size: int, play: _Play) -> None:
    """Three services start, one after the other, each with a pool that would do alone."""
    play.begin()
    pools = []
    for service in SERVICES:
        pools.append(play.pool(service, size))
        if service != SERVICES[-1]:
            pools[-1].wait()
    for service, pool in zip(SERVICES, pools, strict=True):
        play.ask_often(service, pool.connection, 5, 2 * play.step_ms)
    play.finish()


def _kill(play: _Play, **options: Any) -> Any:
    """A pool whose connections the server has just closed."""
    pool = play.pool(SHOP, 4, **options)
    pool.wait()
    play.begin()
    sleep_until(play.begin_ns + round(3 * play.step_ms / MS))
    play.note("killed")
    play.stage.kill()
    play.stage.is_empty()
    return pool


def _killed(play: _Play) -> None:
    pool = _kill(play)
    play.ask_often(SHOP, pool.connection, 20, play.step_ms / 2)
    play.finish()


def _validated(play: _Play) -> None:
    from psycopg_pool import ConnectionPool

    pool = _kill(play, check=ConnectionPool.check_connection)
    play.ask_often(SHOP, pool.connection, 20, play.step_ms / 2)
    play.finish()


def _checked(play: _Play) -> None:
    pool = _kill(play)
    play.note("pool.check()")
    pool.check()
    deadline = time.monotonic() + 2
    while pool.get_stats()["pool_available"] < 4 and time.monotonic() < deadline:
        time.sleep(0.001)
    play.note("full again")
    play.ask_often(SHOP, pool.connection, 20, play.step_ms / 2)
    play.finish()


def _slow(play: _Play) -> None:
    """Who comes waits as long as it takes, until we stop watching."""
    time_out_ms, play.time_out_ms = play.time_out_ms or 0, None
    pool = play.pool(SHOP, 2)
    _crowd(play, pool, time_out_ms)
    sleep_until(play.begin_ns + round(3 * time_out_ms / MS))
    play.note("end of watch")
    play.is_over = True
    pool.close()
    play.finish()


def _slow_in_time(play: _Play) -> None:
    _crowd(play, play.pool(SHOP, 2), play.time_out_ms or 0)
    play.finish()


def _crowd(play: _Play, pool: Any, time_out_ms: float) -> None:
    """Nearly four times as many requests as two connections can serve."""
    pool.wait()
    play.begin()
    for number in range(20):
        play.ask(SHOP, pool.connection, number * time_out_ms / 15, time_out_ms / 2)


REQUESTS = 15
LEAKS = (2, 5, 8)  # of the requests, as many as the pool has connections
TOO_MANY, FEWER = FOR_SERVICES + 4, FOR_SERVICES - 2
HALF, THIRD = FOR_SERVICES // 2, FOR_SERVICES // 3

SCENES: dict[str, tuple[tuple[str, Callable[[_Play], None]], ...]] = {
    "leak": (
        (f"{len(LEAKS)} of {REQUESTS} requests keep their connection", _leak),
        ("cure: with pool.connection()", _no_leak),
    ),
    "too-large": (
        (f"a pool of {TOO_MANY}; the server has {FOR_SERVICES} left", partial(_start, TOO_MANY)),
        ("a pool that connects within the request", partial(_connect_in_the_request, TOO_MANY)),
        (f"cure: a pool of {FEWER}", partial(_start, FEWER)),
    ),
    "shared-server": (
        (f"three pools of {HALF}; the server has {FOR_SERVICES} left", partial(_share, HALF)),
        (f"cure: a budget of {THIRD} each", partial(_share, THIRD)),
    ),
    "killed": (
        ("all connections killed, nobody looks", _killed),
        ("a look at each one (check=check_connection)", _validated),
        ("cure: pool.check() once", _checked),
    ),
    "no-time-out": (
        ("more than it can serve, no time-out", _slow),
        ("cure: a time-out", _slow_in_time),
    ),
}


# Build one

POOLS = ("ours", "library", "queue")
SAME_MOMENT_NS = 1_000_000  # what happens within it may be noted in another order than it happened in
HOLD_S = 0.001


@dataclass(frozen=True)
class PoolFigures:
    """One kind of pool: ours, the library's (psycopg_pool), or a plain `queue.Queue` of connections."""

    name: str
    checkout: Estimate  # µs to borrow a connection and give it back when nobody else wants one
    throughput: Estimate  # requests/s, one-row selects by many threads
    overtaking: Estimate  # % of the requests that were served before one that waited already when they came
    longest: Estimate  # ms that the longest request waited for its connection


@dataclass(frozen=True, kw_only=True)
class BuildOne(Record):
    """Our own pool beside the library's and beside a plain queue."""

    headline_name: ClassVar[str] = "throughput_ratio"
    server: str
    threads: int
    connections: int
    pools: tuple[PoolFigures, ...]  # in the order of POOLS
    throughput_ratio: Estimate  # ours over the library's
    checkout_ratio: Estimate

    def figures(self) -> dict[str, Estimate]:
        each = {
            f"{pool.name}_{name}": getattr(pool, name)
            for pool in self.pools
            for name in ("checkout", "throughput", "overtaking", "longest")
        }
        return {"throughput_ratio": self.throughput_ratio, "checkout_ratio": self.checkout_ratio, **each}


class _Turn(NamedTuple):
    """When a request asked for a connection and when it got one, in ns."""

    asked: int
    got: int


class _QueuePool:
    """The pool that one writes first: all connections in a queue."""

    def __init__(self, connect: Callable[[], Any], size: int) -> None:
        self._idle: queue.Queue[Any] = queue.Queue()
        for _ in range(size):
            self._idle.put(connect())

    @contextmanager
    def connection(self, timeout: float = 30.0) -> Iterator[Any]:
        connection = self._idle.get(timeout=timeout)
        try:
            yield connection
        finally:
            self._idle.put(connection)

    def close(self) -> None:
        while not self._idle.empty():
            self._idle.get().close()


@experiment(seconds=8, needs=[postgres.available])
def build_one(
    *,
    threads: Annotated[int, Between(2, 32)] = 16,
    connections: Annotated[int, Between(1, 16)] = 8,
    window_ms: Annotated[int, Between(20, 500)] = 100,
    repeats: Annotated[int, Between(5, 30)] = 7,
) -> BuildOne:
    """`servers/tiny_pool` beside psycopg_pool and beside a plain queue of connections, on the same server.

    Checkout: `with pool.connection(): pass` by one thread, an empty `with` subtracted. Throughput: threads that select
    one row again and again for `window_ms`. Order: the same threads hold a connection for 1 ms each, asleep, so that
    neither the GIL nor the server decides who is next; a request overtakes when it comes at least 1 ms after another
    and is served at least 1 ms before it.
    """
    machine.fit(threads, at_least=threads, threads_each=1)
    with postgres.server() as database, _three_pools(database, connections) as pools:
        checkouts, empty = _checkouts(pools, repeats)
        runs = interleave(
            {
                f"{name} {kind}": partial(_crowded, pool, threads, window_ms, use)
                for name, pool in pools.items()
                for kind, use in (("select", _select), ("order", _hold))
            },
            repeats,
        )
    rates = {name: [_rate(turns) for turns in runs[f"{name} select"]] for name in POOLS}
    orders = {name: runs[f"{name} order"] for name in POOLS}
    figures = tuple(
        PoolFigures(
            name,
            checkout=difference(checkouts[name], empty, "µs"),
            throughput=estimate(rates[name], "requests/s"),
            overtaking=estimate([_overtaking(turns) for turns in orders[name]], "%"),
            longest=estimate([max(turn.got - turn.asked for turn in turns) * MS for turns in orders[name]], "ms"),
        )
        for name in POOLS
    )
    return BuildOne(
        server=database.server,
        threads=threads,
        connections=connections,
        pools=figures,
        throughput_ratio=ratio(rates["ours"], rates["library"]),
        checkout_ratio=ratio(checkouts["ours"], checkouts["library"]),
        placement=free(),
        subtracted="from a checkout: an empty `with` block in the same loop",
        warnings=tuple(_order_not_seen(figures, threads, connections)),
    )


def _order_not_seen(pools: Sequence[PoolFigures], threads: int, connections: int) -> Iterator[str]:
    if threads <= connections:
        yield "no request had to wait, so none could be overtaken: there are as many connections as threads"
    elif pools[-1].overtaking.median <= pools[0].overtaking.median:
        yield "not observed here: that a plain queue lets newcomers overtake"


@contextmanager
def _three_pools(database: postgres.Database, size: int) -> Iterator[dict[str, Any]]:
    """The pools by name, with all their connections open."""
    import psycopg
    from psycopg_pool import ConnectionPool

    def connect(name: str) -> Any:
        return psycopg.connect(database.conninfo(application_name=name), autocommit=True)

    with ExitStack() as ends:
        ours = tiny_pool.Pool(partial(connect, "ours"), size)
        ends.callback(ours.close)
        library: Any = ConnectionPool(
            database.conninfo(application_name="library"),
            min_size=size,
            max_size=size,
            kwargs={"autocommit": True},
            open=False,
        )
        ends.callback(library.close)
        library.open(wait=True)
        plain = _QueuePool(partial(connect, "queue"), size)
        ends.callback(plain.close)
        with ExitStack() as lent:
            for _ in range(size):  # ours opens them when they are needed first
                lent.enter_context(ours.connection())
        yield {"ours": ours, "library": library, "queue": plain}


def _checkouts(pools: Mapping[str, Any], repeats: int) -> tuple[dict[str, list[float]], list[float]]:
    """Microseconds to borrow and give back, per pool, and those of an empty `with`."""
    lends: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        **{name: pool.connection for name, pool in pools.items()},
        "empty": nullcontext,
    }

    def run(lend: Callable[[], AbstractContextManager[Any]], count: int) -> int:
        begin = time.perf_counter_ns()
        for _ in range(count):
            with lend():
                pass
        return time.perf_counter_ns() - begin

    counts = {name: batch_size(partial(run, lend), 5_000_000) for name, lend in lends.items()}
    times = interleave({name: partial(run, lend, counts[name]) for name, lend in lends.items()}, repeats, report=False)
    each = {name: [taken / counts[name] * US for taken in found] for name, found in times.items()}
    return each, each.pop("empty")


def _select(connection: Any) -> None:
    connection.execute("SELECT 1").fetchone()


def _hold(connection: Any) -> None:
    time.sleep(HOLD_S)


def _crowded(pool: Any, threads: int, window_ms: int, use: Callable[[Any], None]) -> list[_Turn]:
    """What happens to the requests of so many threads, each making one after the other for that long."""
    turns: list[_Turn] = []
    ready = threading.Barrier(threads)
    clock = time.perf_counter_ns

    def work() -> None:
        ready.wait()
        end = clock() + round(window_ms / MS)
        while (asked := clock()) < end:
            with pool.connection() as connection:
                turns.append(_Turn(asked, clock()))
                use(connection)

    waits = [start_thread(work) for _ in range(threads)]
    for wait in waits:
        wait()
    return turns


def _rate(turns: Sequence[_Turn]) -> float:
    """Requests per second, from the first that was asked for to the last that was served."""
    return len(turns) / ((max(turn.got for turn in turns) - min(turn.asked for turn in turns)) / 1e9)


def _overtaking(turns: Sequence[_Turn]) -> float:
    """The share in % of requests that were served before one that had asked earlier, both by a moment at least."""
    by_asking = sorted(turns)
    count, last_got, before = 0, 0, 0
    for turn in by_asking:
        while by_asking[before].asked <= turn.asked - SAME_MOMENT_NS:
            last_got = max(last_got, by_asking[before].got)
            before += 1
        count += turn.got <= last_got - SAME_MOMENT_NS
    return 100 * count / len(by_asking)
