"""Event loops: what one waits for, what it costs, what blocks it and what frees it (notebook 06)."""

from __future__ import annotations

import asyncio
import logging
import re
import select
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from math import inf
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from helpers import machine, progress
from helpers.contexts import free
from helpers.measure import MIB, Estimate, batch_size, difference, estimate, interleave, median, ratio
from helpers.record import Record
from helpers.registry import Between, experiment
from helpers.servers import loop_programs, tiny_loop
from helpers.testbed import echo_servers, program, stepping
from helpers.testbed.heartbeat import (
    BEAT_MS,
    CURES,
    Run,
    Trace,
    asked_at,
    compute_for,
    iterations_for,
    run_beside,
    sleep_until,
)
from helpers.testbed.slow_readers import CLIENTS, WAYS, Flow, send_all
from helpers.testbed.stepping import Step

MS = 1e-6  # nanoseconds to milliseconds
US = 1e-3  # nanoseconds to microseconds

# What a loop waits for

CALLS = ("select", "poll", "epoll", "kqueue")  # the later, the better
FEW, MANY = 10, 1_000  # idle sockets
IDLE = (FEW, 100, 500, MANY, 5_000, 15_000, 50_000)
PATIENCE_S = 1  # a loop waits; to look without waiting would be cheaper
BATCH_NS = 3_000_000


@dataclass(frozen=True, kw_only=True)
class Wait:
    """One call that finds the one ready socket among so many idle ones; with none idle it is the baseline."""

    call: str
    idle: int
    time: Estimate  # µs of CPU time per call


@dataclass(frozen=True, kw_only=True)
class Waiting(Record):
    """How long it takes to find the one ready socket, by each call that this system has."""

    headline_name: ClassVar[str] = "growth"

    best: str  # the call that Python's selectors prefer here
    few: int  # idle sockets, for the ratio
    many: int
    growth: Estimate  # x: the best call's time among `many` idle sockets over that among `few`
    poll_growth: Estimate | None  # x: poll's among 1,000 over that among 10; None where it was not measured
    waits: tuple[Wait, ...]
    refused: int | None  # the number of the descriptor that select would not take

    def figures(self) -> dict[str, Estimate]:
        poll = {"growth of poll": self.poll_growth} if self.poll_growth else {}
        return {"growth": self.growth, **poll}


@experiment(seconds=2.5)
def waiting(
    most: Annotated[int, Between(100, 50_000)] = 15_000, *, repeats: Annotated[int, Between(5, 25)] = 11
) -> Waiting:
    """How long one call of select, poll or epoll takes to find the one ready socket among up to `most` idle ones.

    Python's own functions, µs of CPU time per call (which is all that it takes, for it never sleeps), medians over
    rounds in random order. The idle sockets are UDP sockets that nobody writes to; the ready one has a byte to read,
    and comes last in every list. Each call may wait for a second, as a loop's does, but never has to.
    """
    machine.raise_descriptor_limit()
    fit = machine.fit(most, at_least=FEW + 1, descriptors_each=1)
    counts = [0, *(idle for idle in IDLE if idle < fit.count), fit.count]
    with ExitStack() as opened:
        finders, refused = _finders(counts, opened)
        sizes = {name: batch_size(partial(_batch, find), BATCH_NS) for name, find in finders.items()}
        batches = {name: partial(_batch, find, sizes[name]) for name, find in finders.items()}
        rounds = interleave(batches, repeats)
    times = {name: [each / sizes[name] / 1000 for each in rounds[name]] for name in rounds}
    best = [call for call in CALLS if f"{call} {fit.count}" in times][-1]
    poll_many, poll_few = times.get(f"poll {MANY}"), times.get(f"poll {FEW}")
    return Waiting(
        best=best,
        few=FEW,
        many=fit.count,
        growth=ratio(times[f"{best} {fit.count}"], times[f"{best} {FEW}"]),
        poll_growth=ratio(poll_many, poll_few) if poll_many and poll_few else None,
        waits=tuple(
            Wait(call=call, idle=idle, time=estimate(times[f"{call} {idle}"], "µs"))
            for call in CALLS
            for idle in counts
            if f"{call} {idle}" in times
        ),
        refused=refused,
        placement=free(),
        subtracted="nothing; the same call on the ready socket alone is beside it",
        warnings=(fit.reason,) if fit.reason else (),
    )


def _finders(counts: Sequence[int], opened: ExitStack) -> tuple[dict[str, Callable[[], Sized]], int | None]:
    """What finds the ready socket, by call and number of idle sockets; and the descriptor that select refused."""
    ready, writer = (opened.enter_context(end) for end in socket.socketpair())
    writer.send(b"!")
    watched: list[socket.socket] = []
    finders: dict[str, Callable[[], Sized]] = {}
    refused = None
    for count in counts:
        while len(watched) < count:
            watched.append(opened.enter_context(socket.socket(type=socket.SOCK_DGRAM)))
        sockets = [*watched, opened.enter_context(ready.dup())]  # with a number larger than theirs
        for call, find in _ways(sockets, opened).items():
            try:
                found = find()
            except ValueError:  # out of the range of select
                refused = refused or sockets[-1].fileno()
                continue
            if len(found) != 1:
                raise RuntimeError(f"{call} found {len(found)} sockets ready, instead of one")
            finders[f"{call} {count}"] = find
    return finders, refused


def _ways(sockets: Sequence[socket.socket], opened: ExitStack) -> dict[str, Callable[[], Sized]]:
    """Each call that this system has, ready to watch these sockets."""
    ways: dict[str, Callable[[], Sized]] = {}
    numbers = [each.fileno() for each in sockets]
    ways["select"] = lambda: select.select(numbers, [], [], PATIENCE_S)[0]
    if hasattr(select, "poll"):
        poll = select.poll()
        for number in numbers:
            poll.register(number, select.POLLIN)
        ways["poll"] = lambda: poll.poll(PATIENCE_S * 1000)
    if hasattr(select, "epoll"):
        epoll = opened.enter_context(select.epoll())
        for number in numbers:
            epoll.register(number, select.EPOLLIN)
        ways["epoll"] = lambda: epoll.poll(PATIENCE_S)
    if sys.platform != "linux" and hasattr(select, "kqueue"):
        kqueue = opened.enter_context(closing(select.kqueue()))
        kqueue.control([select.kevent(number) for number in numbers], 0)
        ways["kqueue"] = lambda: kqueue.control(None, 1, PATIENCE_S)
    return ways


def _batch(find: Callable[[], object], count: int) -> int:
    """Nanoseconds of CPU time that so many calls take."""
    begin = time.thread_time_ns()
    for _ in range(count):
        find()
    return time.thread_time_ns() - begin


# The loop, step by step


@dataclass(frozen=True, kw_only=True)
class Steps(Record):
    """A small program on the tiny loop: its text, every step of one run, and how much of the time the loop slept."""

    headline_name: ClassVar[str] = "asleep"

    program: str
    source: str
    steps: tuple[Step, ...]
    asleep: Estimate  # % of the time of a run

    def figures(self) -> dict[str, Estimate]:
        return {"asleep": self.asleep}


@experiment(seconds=1)
def steps(
    program: Literal["callbacks", "timers", "sockets", "coroutines", "conversation", "blocking"] = "timers",
    *,
    repeats: Annotated[int, Between(5, 41)] = 25,
) -> Steps:
    """What the tiny loop holds and what is on its stack, whenever that changes, while it runs a small program.

    The loop is the one to read, with real sockets and timers; a subclass takes notes, which is most of the time that
    a run takes when nothing sleeps. The steps are those of the first run.
    """
    chosen = getattr(loop_programs, program)
    runs = [stepping.stepped(chosen) for _ in range(repeats)]
    return Steps(
        program=program,
        source=stepping.source(chosen)[0],
        steps=tuple(runs[0].steps),
        asleep=estimate([100 * run.asleep_s / run.took_s for run in runs], "%"),
        placement=free(),
        subtracted="nothing",
    )


# Build one, and against the others

HAND_OFF_WAYS = ("callback", "coroutine")
NO_UVLOOP = "uvloop is not installed here: left out"


@dataclass(frozen=True, kw_only=True)
class HandOff:
    """What a loop takes to call the next one, a callback or a coroutine, beyond the call itself; µs."""

    loop: str
    way: str
    wall: Estimate
    cpu: Estimate


@dataclass(frozen=True, kw_only=True)
class HandOffs(Record):
    """Two callbacks, or two coroutines, that take turns on each loop."""

    headline_name: ClassVar[str] = "tiny loop, callback"

    hand_offs: tuple[HandOff, ...]
    count: int  # of a sample

    def figures(self) -> dict[str, Estimate]:
        return {f"{each.loop}, {each.way}": each.cpu for each in self.hand_offs}


@experiment(seconds=2, claims=[], needs=[], wants=[])
def hand_offs(
    *,
    count: Annotated[int, Between(200, 50_000)] = 10_000,
    repeats: Annotated[int, Between(5, 25)] = 11,
) -> HandOffs:
    """What it costs to hand over to the next one on the tiny loop, on asyncio, and on uvloop.

    Two callbacks ask for each other's call by `call_soon`, which takes a turn of the loop each; two coroutines sleep
    for no time, so that each turn has a step of both. Subtracted is the same Python without a loop, sampled in the same
    rounds: the two called, or sent on, by a `for`. Shown is CPU time; wall time stands in the record.
    """
    loops: dict[str, Callable[[], Any]] = {"tiny loop": _TinySide}
    loops |= {name: partial(_TheirSide, name) for name in _asyncio_loops()}
    conditions: dict[str, Callable[[], tuple[float, float]]] = {}
    for way in HAND_OFF_WAYS:
        conditions[way] = partial(_sampled, partial(_without_loop, way, count), count)
        for name, side in loops.items():
            conditions[f"{name}, {way}"] = partial(_hand_over, side, way, count)
    for sample in conditions.values():
        sample()  # warm
    rounds = interleave(conditions, repeats)

    def net(name: str, way: str, clock: int) -> Estimate:
        with_loop, without = rounds[f"{name}, {way}"], rounds[way]
        return difference([each[clock] for each in with_loop], [each[clock] for each in without], "µs")

    return HandOffs(
        hand_offs=tuple(
            HandOff(loop=name, way=way, wall=net(name, way, 0), cpu=net(name, way, 1))
            for name in loops
            for way in HAND_OFF_WAYS
        ),
        count=count,
        placement=free(),
        subtracted="the same calls without a loop, from the same rounds",
        warnings=() if "uvloop" in loops else (NO_UVLOOP,),
    )


def _asyncio_loops() -> tuple[str, ...]:
    """asyncio's own loop, and uvloop's where it is installed."""
    return ("asyncio", "uvloop") if find_spec("uvloop") else ("asyncio",)


class _TinySide:
    """The tiny loop, as far as a hand-off needs one."""

    def __init__(self) -> None:
        self.loop = tiny_loop.Loop()
        self.call_soon, self.stop, self.run = self.loop.call_soon, self.loop.stop, self.loop.run
        self.sleep = tiny_loop.sleep

    def spawn(self, coroutine: Any) -> None:
        tiny_loop.Task(self.loop, coroutine)

    def close(self) -> None:
        self.loop.selector.close()


class _TheirSide:
    """The same of asyncio, or of uvloop."""

    def __init__(self, name: str) -> None:
        self.loop = echo_servers.new_loop(name)
        self.call_soon, self.stop, self.run = self.loop.call_soon, self.loop.stop, self.loop.run_forever
        self.sleep = asyncio.sleep
        self.tasks: list[Any] = []

    def spawn(self, coroutine: Any) -> None:
        self.tasks.append(self.loop.create_task(coroutine))

    def close(self) -> None:
        self.loop.close()


def _hand_over(side: Callable[[], Any], way: str, count: int) -> tuple[float, float]:
    """µs of wall and CPU time per hand-off, on a loop of its own."""
    loop = side()
    with closing(loop):
        if way == "callback":
            loop.call_soon(_callbacks(loop.call_soon, loop.stop, count))
        else:
            for number in range(2):
                loop.spawn(_turns(loop.sleep, count // 2, loop.stop if number else lambda: None))
        return _sampled(loop.run, count)


def _sampled(run: Callable[[], object], count: int) -> tuple[float, float]:
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    run()
    used = time.process_time_ns() - cpu
    return (time.perf_counter_ns() - wall) * US / count, used * US / count


def _callbacks(call_soon: Callable[[Callable[[], None]], object], stop: Callable[[], None], count: int) -> Any:
    """The first of two callbacks that have each other called, until so many calls were made."""
    left = count

    def one() -> None:
        nonlocal left
        left -= 1
        if left:
            call_soon(other)
        else:
            stop()

    def other() -> None:
        nonlocal left
        left -= 1
        if left:
            call_soon(one)
        else:
            stop()

    return one


async def _turns(sleep: Callable[[int], Any], rounds: int, end: Callable[[], None]) -> None:
    """Let the others go first, so many times."""
    for _ in range(rounds):
        await sleep(0)
    end()


class _Nothing:
    """Something to await that hands over at once to whoever sent the coroutine on."""

    def __await__(self) -> Iterator[None]:
        yield


def _without_loop(way: str, count: int) -> None:
    """The same calls, made one after the other."""
    if way == "callback":
        one = _callbacks(lambda _: None, lambda: None, count)
        for _ in range(count):
            one()
        return
    pair = [_turns(lambda _: _Nothing(), count // 2, lambda: None) for _ in range(2)]
    for _ in range(count // 2):
        for coroutine in pair:
            coroutine.send(None)
    for coroutine in pair:
        coroutine.close()


@dataclass(frozen=True, kw_only=True)
class Echoed:
    """What a server did under a closed loop. The estimates are over rounds."""

    server: str
    cpu: Estimate  # µs of the server's CPU time per request
    throughput: Estimate  # requests/s, on cores that client and server share
    client_cores: float  # that the client kept busy


@dataclass(frozen=True, kw_only=True)
class Echo(Record):
    """The same echo by each server; `compared` is asyncio's streams over the thrifty tiny loop, in CPU time."""

    headline_name: ClassVar[str] = "asyncio streams over tiny loop"

    servers: tuple[Echoed, ...]
    compared: Estimate  # x
    thrift: Estimate  # x: the plain tiny loop over the thrifty one
    connections: int

    def figures(self) -> dict[str, Estimate]:
        return {
            self.headline_name: self.compared,
            "tiny loop over thrifty": self.thrift,
            **{each.server: each.cpu for each in self.servers},
        }


@experiment(seconds=8, claims=[], needs=[machine.fork], wants=[machine.two_cores])
def echo(
    *,
    connections: Annotated[int, Between(1, 500)] = 50,
    seconds: Annotated[float, Between(0.01, 1)] = 0.15,
    repeats: Annotated[int, Between(5, 15)] = 7,
) -> Echo:
    """Requests per second, and the server's CPU time per request, of an echo of 64 bytes on several loops.

    Every server has a process of its own, which is asked in turn with the others, in random order, by one client: a
    closed loop on bare epoll, whose own time is in the record. Client and server share the cores, so that throughput
    says as much of the client; the server's CPU time is its own.
    """
    fit = machine.fit(connections, descriptors_each=1)
    names = [name for name in echo_servers.SERVERS if not name.startswith("uvloop") or find_spec("uvloop")]
    with ExitStack() as stack:
        starting = [program.running(echo_servers.__name__, server=name) for name in names]
        with ThreadPoolExecutor(len(names)) as pool:
            servers = dict(zip(names, pool.map(stack.enter_context, starting), strict=True))
        found: dict[str, list[list[float]]] = program.call(
            echo_servers.__name__, "rounds", servers=servers, connections=fit.count, seconds=seconds, repeats=repeats
        )
    cpu = {name: [1e6 * cpu / requests for requests, _, cpu, _ in rounds] for name, rounds in found.items()}
    return Echo(
        servers=tuple(
            Echoed(
                server=name,
                cpu=estimate(cpu[name], "µs"),
                throughput=estimate([requests / took for requests, took, *_ in found[name]], "requests/s"),
                client_cores=median([mine / took for _, took, _, mine in found[name]]),
            )
            for name in names
        ),
        compared=ratio(cpu["asyncio streams"], cpu["tiny loop, thrifty"]),
        thrift=ratio(cpu["tiny loop"], cpu["tiny loop, thrifty"]),
        connections=fit.count,
        placement=free(),
        subtracted="nothing",
        warnings=tuple(
            word for word in (fit.reason, None if len(names) == len(echo_servers.SERVERS) else NO_UVLOOP) if word
        ),
    )


# Block it, free it

BLOCKED = 0.9  # of a block's duration: no heartbeat for so long, and the loop was blocked


@dataclass(frozen=True, kw_only=True)
class Cure:
    """What is left of the lag when the computing is done another way, and its price. The estimates are over runs."""

    name: str
    lag: Estimate  # ms: the longest while a job is under way
    lag_p99: Estimate  # ms, of all heartbeats that were due, those that were skipped among them
    p99: Estimate  # ms: latency of the quick requests
    job: Estimate  # ms from asked to done
    stretch: Estimate  # x: that over the job's own CPU time
    cpu: Estimate  # x: CPU time spent on it in all over the job's own
    hand_over: Estimate | None  # µs, of a job that does nothing; None where nobody takes it over
    start: Estimate | None  # ms until the first such job is done, by a thread or process that must be started
    memory: Estimate | None  # MiB that the other process has for itself; None without one, or the system doesn't tell
    trace: Trace


@dataclass(frozen=True, kw_only=True)
class Heartbeat(Record):
    """A loop's heartbeat and everyone else's latency while one handler computes, uncured and cured."""

    headline_name: ClassVar[str] = "p99 of everyone else"

    block_ms: float
    every_ms: float
    blocked: Estimate  # share of the blocks with no heartbeat for 0.9 of their duration
    lag_over_block: Estimate  # x, per block: the longest lag over the block's duration
    lag_over_cpu: Estimate  # x: over its CPU time, which is `block_ms`
    switch_interval_ms: float  # after which a thread that computes must let go of the GIL if another wants it
    idle_lag: Estimate  # ms: the longest without a job, in as long a time
    idle_p99: Estimate  # ms: latency of the quick requests without a job
    cures: tuple[Cure, ...]
    trace: Trace  # a longer run of the first

    def cure(self, name: str) -> Cure:
        """The one of that name."""
        return next(each for each in self.cures if each.name == name)

    def figures(self) -> dict[str, Estimate]:
        return {
            self.headline_name: self.cure("none").p99,
            "blocked": self.blocked,
            "lag over block": self.lag_over_block,
            **{f"longest lag, {each.name}": each.lag for each in self.cures},
            **{f"p99, {each.name}": each.p99 for each in self.cures},
        }


@experiment(seconds=12, claims=["event-loop-blocking"], needs=[machine.fork], wants=[machine.two_cores])
def heartbeat(
    block_ms: Annotated[float, Between(5, 200)] = 50,
    *,
    every_ms: Annotated[float, Between(20, 500)] = 160,
    jobs: Annotated[int, Between(1, 6)] = 2,
    repeats: Annotated[int, Between(5, 15)] = 5,
) -> Heartbeat:
    """What a handler that computes for `block_ms` does to everyone else on an asyncio loop, and what cures it.

    A job (`block_ms` of CPU time of its thread, in pure Python) is asked for every `every_ms`, `jobs` times in a run.
    Meanwhile a task asks to be woken every millisecond and notes by how much it was late, the loop's **lag**; and a
    client in a process of its own sends a quick request 200 times a second, each when it is due, whatever became of the
    last (an open loop), and counts from then. The cures, in random order and beside runs without a job: `await
    sleep(0)` after every millisecond of computing; a thread; a process; and C code that lets go of the GIL
    (a password's hash) in a thread.

    The CPU time of a job in all is the loop's process's and the pool's, less what the heartbeats took, by those of the
    runs without a job. Asyncio sleeps in whole ms on Linux, so that a lag of up to 1 ms is none.
    """
    machine.fit(2, at_least=2, processes_each=1, threads_each=1, descriptors_each=16)
    run = partial(run_beside, block_ms=block_ms, every_ms=every_ms, iterations=iterations_for(block_ms))
    conditions = {name: partial(run, name, jobs=jobs) for name in ("idle", *CURES)}
    runs = interleave(conditions, repeats)
    blocks = [block for each in runs["none"] for block in each.blocks()]
    spans = [(asked, asked + block_ms) for asked in asked_at(jobs, every_ms)]
    over_block = estimate([lag / took for lag, took, _ in blocks], "x")
    return Heartbeat(
        block_ms=block_ms,
        every_ms=every_ms,
        blocked=estimate([float(lag + BEAT_MS >= BLOCKED * took) for lag, took, _ in blocks], "share"),
        lag_over_block=over_block,
        lag_over_cpu=estimate([lag / cpu for lag, _, cpu in blocks], "x"),
        switch_interval_ms=sys.getswitchinterval() * 1000,
        idle_lag=estimate([median([each.longest_lag(*span) for span in spans]) for each in runs["idle"]], "ms"),
        idle_p99=estimate([each.p99() for each in runs["idle"]], "ms"),
        cures=tuple(_cure(name, runs[name], runs["idle"]) for name in CURES),
        trace=run("none", jobs=3 * jobs).trace(),
        placement=f"{free()}; the client in a process of its own",
        subtracted="what the heartbeats took, from the CPU times; nothing else",
        warnings=() if over_block.median > 0.5 else ("not observed here: the loop's heart went on while it computed",),
    )


def _cure(name: str, runs: Sequence[Run], idle: Sequence[Run]) -> Cure:
    blocks = [run.blocks() for run in runs]
    is_handed_over, memory = name not in ("none", "chunks"), [run.memory / MIB for run in runs if run.memory]
    beats = [base.cpu * len(run.beats) / len(base.beats) for run, base in zip(runs, idle, strict=True)]
    own = [sum(cpu for _, _, cpu in run.jobs) for run in runs]
    return Cure(
        name=name,
        lag=estimate([median([lag for lag, _, _ in each]) for each in blocks], "ms"),
        lag_p99=estimate([run.lag_p99() for run in runs], "ms"),
        p99=estimate([run.p99() for run in runs], "ms"),
        job=estimate([median([took for _, took, _ in each]) for each in blocks], "ms"),
        stretch=estimate([median([took / cpu for _, took, cpu in each]) for each in blocks], "x"),
        cpu=estimate([(run.cpu - less) / cpu for run, less, cpu in zip(runs, beats, own, strict=True)], "x"),
        hand_over=estimate([run.hand_over * 1000 for run in runs], "µs") if is_handed_over else None,
        start=estimate([run.start for run in runs], "ms") if is_handed_over else None,
        memory=estimate(memory, "MiB") if len(memory) == len(runs) else None,
        trace=runs[0].trace(),
    )


# Who was it


@dataclass(frozen=True, kw_only=True)
class Culprit(Record):
    """What asyncio's debug mode says about a handler that computes, and what that mode costs."""

    headline_name: ClassVar[str] = "found"

    block_ms: float
    threshold_ms: float  # `slow_callback_duration`, as it was set
    usual_threshold_ms: float  # and as asyncio sets it
    found: Estimate  # share of the blocks whose handler was named
    name: str | None  # of the coroutine that was named; None: none was
    file: str | None
    line: int | None
    lines: tuple[str, ...]  # what asyncio wrote about it
    others: int  # lines about other handlers
    plain: Estimate  # µs of CPU time: a hand-off between two tasks
    debug: Estimate  # the same in debug mode
    price: Estimate  # x

    def figures(self) -> dict[str, Estimate]:
        return {"found": self.found, "price": self.price, "hand-off": self.plain, "hand-off in debug mode": self.debug}


@experiment(seconds=1)
def culprit(
    block_ms: Annotated[float, Between(5, 200)] = 50,
    *,
    threshold_ms: Annotated[float, Between(1, 200)] = 20,
    repeats: Annotated[int, Between(5, 15)] = 5,
) -> Culprit:
    """Whether asyncio's debug mode names the handler that blocks the loop, and what a hand-off costs then.

    In debug mode asyncio writes a line about each callback that took longer than the loop's `slow_callback_duration`.
    Three handlers run side by side, one of which computes for `block_ms`. The cost of a hand-off is that of `await
    sleep(0)` by two tasks in turns, in CPU time, with and without debug mode in random order.
    """
    conditions: dict[str, Callable[[], Any]] = {
        "blocks": partial(_watched, block_ms, threshold_ms),
        "plain": lambda: asyncio.run(_yields_us(), debug=False),
        "debug": lambda: asyncio.run(_yields_us(), debug=True),
    }
    taken = interleave(conditions, repeats)
    named = [[_named(line) for line in lines] for _, lines in taken["blocks"]]
    about = [each for lines in named for each in lines if each and each[0] == build_report.__name__]
    name, file, line = about[0][:3] if about else (None, None, None)
    found = estimate([float(any(each in about for each in lines)) for lines in named], "share")
    return Culprit(
        block_ms=block_ms,
        threshold_ms=threshold_ms,
        usual_threshold_ms=taken["blocks"][0][0],
        found=found,
        name=name,
        file=file,
        line=line,
        lines=tuple(each[3] for each in about),
        others=sum(map(len, named)) - len(about),
        plain=estimate(taken["plain"], "µs"),
        debug=estimate(taken["debug"], "µs"),
        price=ratio(taken["debug"], taken["plain"]),
        placement=free(),
        subtracted="nothing",
        warnings=() if found.high else ("not observed here: no line named the handler that computed",),
    )


async def greet() -> None:
    """A handler that waits, as handlers should."""
    await asyncio.sleep(0.001)


async def look_up() -> None:
    """Another."""
    await asyncio.sleep(0.002)


async def build_report(block_ms: float) -> None:
    """And one that computes."""
    compute_for(block_ms)


def _watched(block_ms: float, threshold_ms: float) -> tuple[float, list[str]]:
    """The usual threshold in ms, and what asyncio writes when three handlers run in debug mode."""
    lines: list[str] = []
    logger, ear = logging.getLogger("asyncio"), logging.Handler(logging.WARNING)
    ear.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    was_passed_on = logger.propagate

    async def handlers() -> float:
        loop = asyncio.get_running_loop()
        usual, loop.slow_callback_duration = loop.slow_callback_duration, threshold_ms / 1000
        await asyncio.gather(greet(), look_up(), build_report(block_ms))
        return usual * 1000

    logger.addHandler(ear)
    logger.propagate = False
    try:
        return asyncio.run(handlers(), debug=True), lines
    finally:
        logger.removeHandler(ear)
        logger.propagate = was_passed_on


PLACE = re.compile(r"coro=<([\w.<>]+)\(\).*? at ([^<>]+?):(\d+)>")
FOLDER = re.compile(r"(?<= at )[^<>\[\]]*[/\\]")


def _named(line: str) -> tuple[str, str, int, str] | None:
    """The coroutine that a line names, its file and line, and the line without the folders; None: it names none."""
    short = FOLDER.sub("", line)
    found = PLACE.search(short)
    return (found[1], found[2], int(found[3]), short) if found else None


YIELDS = 500


async def _yields_us() -> float:
    """µs of CPU time of a hand-off from one task to another."""

    async def gives_way() -> None:
        for _ in range(YIELDS):
            await asyncio.sleep(0)

    asyncio.get_running_loop().slow_callback_duration = inf  # on a busy machine any step may be slow: nothing to report
    clock = time.perf_counter_ns if sys.platform == "win32" else time.process_time_ns  # it counts in steps of 16 ms
    begin = clock()
    await asyncio.gather(gives_way(), gives_way())
    return (clock() - begin) / (2 * YIELDS) * US


# Time-outs, cancellation, back-pressure

WORK = 3  # time-outs: so long is what the handlers have to do


@dataclass(frozen=True, kw_only=True)
class Handler:
    """What a time-out did to a handler. Times in ms since it was called."""

    name: str
    returned: Estimate  # when its caller could go on
    timed_out: Estimate  # share of the calls that ended by TimeoutError
    cleaned: Estimate | None  # when its `finally` ran; None: it never did
    worked: Estimate | None  # when its work was done, here or behind its caller's back; None: it was stopped


@dataclass(frozen=True, kw_only=True)
class TimeOuts(Record):
    """What a time-out does to handlers that have three times as much to do."""

    headline_name: ClassVar[str] = "returned, computes"

    timeout_ms: float
    work_ms: float
    handlers: tuple[Handler, ...]

    def handler(self, name: str) -> Handler:
        """The one of that name."""
        return next(each for each in self.handlers if each.name == name)

    def figures(self) -> dict[str, Estimate]:
        return {f"returned, {each.name}": each.returned for each in self.handlers}


async def sleeps(seconds: float, done: Callable[[], None]) -> None:
    """Waits, as handlers should: a cancellation wakes it."""
    await asyncio.sleep(seconds)
    done()


async def computes(seconds: float, done: Callable[[], None]) -> None:
    """Gives the loop no turn to notice the time."""
    compute_for(1000 * seconds)
    done()
    await asyncio.sleep(0.001)  # it sends the answer


async def waits_for_a_thread(seconds: float, done: Callable[[], None]) -> None:
    """The waiting can be cancelled, the thread can't."""

    def work() -> None:
        time.sleep(seconds)
        done()

    await asyncio.to_thread(work)


async def swallows(seconds: float, done: Callable[[], None]) -> None:
    """Tries again whatever happens, a cancellation included: a mistake."""
    end = time.perf_counter() + seconds
    while (left := end - time.perf_counter()) > 0:
        with suppress(BaseException):
            await asyncio.sleep(left)
    done()


async def shields(seconds: float, done: Callable[[], None]) -> None:
    """Has work that must not be cancelled halfway, a payment say."""
    await asyncio.shield(sleeps(seconds, done))


HANDLERS = (sleeps, computes, waits_for_a_thread, swallows, shields)


@experiment(seconds=1.6)
def timeouts_and_cancellation(
    timeout_ms: Annotated[float, Between(10, 200)] = 40, *, repeats: Annotated[int, Between(5, 15)] = 5
) -> TimeOuts:
    """When `asyncio.timeout` gives control back, by what the handler does, and whether its work goes on.

    A time-out is a cancellation: CancelledError is raised where the handler waits, and becomes TimeoutError where the
    time-out was set. The handlers have work for three times as long. The one that computes is called alone, the others
    beside each other; each is watched until its work would be done.
    """
    rounds = []
    for done in range(repeats):
        rounds.append(asyncio.run(_time_out_all(timeout_ms)))
        progress.report(done + 1, repeats)
    handlers = tuple(
        _handler(handler.__name__.replace("_", " "), [each[place] for each in rounds])
        for place, handler in enumerate(HANDLERS)
    )
    record = TimeOuts(
        timeout_ms=timeout_ms,
        work_ms=WORK * timeout_ms,
        handlers=handlers,
        placement=free(),
        subtracted="nothing",
    )
    is_seen = record.handler("sleeps").returned.median < record.handler("computes").returned.median
    word = "not observed here: the handler that computed was stopped as soon as the one that slept"
    return record if is_seen else replace(record, warnings=(word,))


class _Call(NamedTuple):
    """What became of a call; ms since it began."""

    returned: float
    timed_out: bool
    cleaned: list[float]
    worked: list[float]


async def _time_out_all(timeout_ms: float) -> list[_Call]:
    """A call of each handler, watched until all work is done that was not stopped."""
    alone = await _time_out(computes, timeout_ms)
    begin = time.perf_counter_ns()
    calls = await asyncio.gather(*(_time_out(each, timeout_ms) for each in HANDLERS if each is not computes))
    await sleep_until(begin + int((WORK * timeout_ms + 10) / MS))
    calls.insert(HANDLERS.index(computes), alone)
    return calls


async def _time_out(handler: Callable[..., Awaitable[None]], timeout_ms: float) -> _Call:
    cleaned: list[float] = []
    worked: list[float] = []
    begin, timed_out = time.perf_counter_ns(), False

    def note(moments: list[float]) -> None:
        moments.append((time.perf_counter_ns() - begin) * MS)

    try:
        async with asyncio.timeout(timeout_ms / 1000):
            try:
                await handler(WORK * timeout_ms / 1000, partial(note, worked))
            finally:
                note(cleaned)
    except TimeoutError:
        timed_out = True
    return _Call((time.perf_counter_ns() - begin) * MS, timed_out, cleaned, worked)


def _handler(name: str, calls: Sequence[_Call]) -> Handler:
    cleaned = [moment for call in calls for moment in call.cleaned]
    worked = [moment for call in calls for moment in call.worked]
    return Handler(
        name=name,
        returned=estimate([call.returned for call in calls], "ms"),
        timed_out=estimate([float(call.timed_out) for call in calls], "share"),
        cleaned=estimate(cleaned, "ms") if cleaned else None,
        worked=estimate(worked, "ms") if worked else None,
    )


@dataclass(frozen=True, kw_only=True)
class Way:
    """What a server holds for a client that is slower than it. The estimates are over clients."""

    name: str
    held: Estimate  # MiB at the end
    most: Estimate  # MiB at any time
    sent: Estimate  # MiB that were produced
    curve: tuple[tuple[float, float], ...]  # of the first client: ms, MiB


@dataclass(frozen=True, kw_only=True)
class BackPressure(Record):
    """Memory held for slow clients, with and without waiting for them."""

    headline_name: ClassVar[str] = "held without back-pressure"

    sent_mib_s: float
    read_mib_s: float
    seconds_sent: float
    clients: int  # of each way, all at once
    ways: tuple[Way, ...]
    grown: float | None  # MiB: by which the server's process grew meanwhile, all clients; None: the system doesn't tell

    def way(self, name: str) -> Way:
        """The one of that name."""
        return next(each for each in self.ways if each.name == name)

    def figures(self) -> dict[str, Estimate]:
        names = ("held without back-pressure", "held with back-pressure", "in the queue", "in the queue with an end")
        return {figure: self.way(name).held for figure, name in zip(names, WAYS, strict=True)}


@experiment(seconds=3, needs=[machine.fork])
def back_pressure(
    sent_mib_s: Annotated[float, Between(1, 3)] = 3,
    *,
    read_mib_s: Annotated[float, Between(0.1, 3)] = 0.5,
    seconds: Annotated[float, Between(0.2, 2)] = 2,
) -> BackPressure:
    """What a server holds for a client that reads slower than it sends, with and without back-pressure, in MiB.

    Every way has five clients, all at once on one loop: over TCP with `write` alone, and with `await drain()` after it,
    what asyncio's transport holds; and through an `asyncio.Queue` without and with an end, what the queue holds. The
    clients read at a fixed rate, in a process of their own; both ends' kernel buffers are made small, for they would
    swallow the first MiB. It cannot hold more than 60 MiB: 2 s of sending at 3 MiB/s, ten times.
    """
    machine.fit(CLIENTS, at_least=CLIENTS, descriptors_each=4, bytes_each=int(4 * seconds * sent_mib_s * MIB))
    flows, grown = send_all(sent_mib_s, read_mib_s, seconds)
    ways = tuple(_way(name, flows[name]) for name in WAYS)
    is_seen = ways[0].held.median > 2 * ways[1].held.median
    return BackPressure(
        sent_mib_s=sent_mib_s,
        read_mib_s=read_mib_s,
        seconds_sent=seconds,
        clients=CLIENTS,
        ways=ways,
        grown=grown,
        placement=f"{free()}; the clients in a process of their own",
        subtracted="nothing; what the kernel holds is not counted",
        warnings=() if is_seen else ("not observed here: without back-pressure the server held no more than with it",),
    )


def _way(name: str, flows: Sequence[Flow]) -> Way:
    return Way(
        name=name,
        held=estimate([flow.curve[-1][1] / MIB for flow in flows], "MiB"),
        most=estimate([max(held for _, held in flow.curve) / MIB for flow in flows], "MiB"),
        sent=estimate([flow.sent / MIB for flow in flows], "MiB"),
        curve=tuple((round(moment, 1), round(held / MIB, 3)) for moment, held in flows[0].curve),
    )
