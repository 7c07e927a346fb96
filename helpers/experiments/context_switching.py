"""What it costs to switch from one context to another, directly and through the caches (notebook 03).

The hand-off is lmbench's `lat_ctx` (McVoy and Staelin, "lmbench: Portable Tools for Performance Analysis",
USENIX 1996): two contexts pass a token through a pair of pipes, so that each pass forces a switch; the cost of the
two system calls, measured by one context with a pipe to itself, is taken off.
"""

from __future__ import annotations

import copy
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from helpers import machine, measure, progress
from helpers.contexts import compute, free, pin, places, start_process, start_thread
from helpers.measure import KIB, MIB, Estimate, difference, estimate, in_fresh_process, median
from helpers.record import Record
from helpers.registry import Between, experiment

US = 1e-3  # nanoseconds to microseconds

Kind = Literal["processes", "threads", "tasks", "generators"]


# Handing over control


@dataclass(frozen=True, kw_only=True)
class Handoff(Record):
    """Microseconds to hand control to another context and have it run."""

    headline_name: ClassVar[str] = "one switch"

    between: str
    cost: Estimate  # the headline: see `method`
    method: str
    python: Estimate  # the same by a loop in Python, wall clock
    hop: Estimate | None = None  # the headline's loop before the system calls were taken off
    overhead: Estimate | None = None  # those system calls
    wall: Estimate | None = None  # the headline by the wall clock
    python_cpu: Estimate | None = None  # Python's loop by the CPU's clock

    def figures(self) -> dict[str, Estimate]:
        return {"one switch": self.cost, "one switch in Python": self.python}


@experiment(seconds=5, claims=["direct-switch"], needs=[machine.fork], wants=[machine.pinning, machine.numba])
def handoff(
    between: Kind = "processes",
    *,
    same_core: bool = True,
    repeats: Annotated[int, Between(5, 50)] = 7,
    rounds: Annotated[int, Between(1, 50)] = 5,
) -> Handoff:
    """Time to hand control to another context and have it run, in µs.

    Processes and threads pass a byte to and fro through two pipes: half a round trip, less a write and a read on a
    pipe to oneself, is one switch. On one core the headline is the CPU time of both sides, which other programs
    do not disturb; on two cores it is the wall clock, because most of the cost is waiting to be woken. Tasks
    and generators never ask the kernel: there the interpreter's own loop is taken off. Every one of `repeats`
    fresh processes gives one sample, the median of `rounds` batches interleaved with their baselines.
    """
    if between in ("tasks", "generators"):
        return _handoff_without_kernel(between, repeats, rounds)
    cores, placement, warnings = places(same_core)
    kinds = _loops()
    counts = {kind: _round_trips(kind, between, cores) for kind in kinds}
    samples = [
        _reported(index, repeats, lambda: _handoff_samples(kinds, counts, between, cores, rounds))
        for index in range(repeats)
    ]

    def figure(kind: str, clock: str) -> tuple[list[float], list[float]]:
        return ([each[f"{kind} hop {clock}"] for each in samples], [each[f"{kind} alone {clock}"] for each in samples])

    clock = "cpu" if same_core else "wall"
    hop, alone = figure(kinds[0], clock)
    return Handoff(
        between=between,
        cost=difference(hop, alone, "µs"),
        method=f"{kinds[0]} loop, {'CPU time of both sides' if same_core else 'wall clock'}",
        python=difference(*figure("python", "wall"), "µs"),
        hop=estimate(hop, "µs"),
        overhead=estimate(alone, "µs"),
        wall=difference(*figure(kinds[0], "wall"), "µs"),
        python_cpu=difference(*figure("python", "cpu"), "µs"),
        placement=placement,
        subtracted="one write and one read of a byte on a pipe to oneself",
        warnings=warnings,
    )


def _reported(index: int, total: int, run: Callable[[], Any]) -> Any:
    """The result of one fresh process, and a step of progress."""
    result = in_fresh_process(run)
    progress.report(index + 1, total)
    return result


def _loops() -> list[str]:
    """Which loops can run here, the better one first. Compiled before any fork, so that no process does it again."""
    if machine.numba():
        return ["python"]
    import helpers.compiled  # noqa: F401

    return ["compiled", "python"]


def _round_trips(kind: str, between: str, cores: tuple[int | None, int | None]) -> int:
    """How many round trips make a batch, found once and then the same for every process and condition."""

    def calibrate() -> int:
        with _pair(between, cores) as pair:
            return pair.batch(kind, measure.INTERACTIVE_NS)

    return in_fresh_process(calibrate)


def _handoff_samples(
    kinds: list[str], counts: dict[str, int], between: str, cores: tuple[int | None, int | None], rounds: int
) -> dict[str, float]:
    """One process's medians in µs: hop and its baseline, by both loops and both clocks."""
    with _pair(between, cores) as pair:
        conditions: dict[str, Callable[[], Spent]] = {}
        for kind in kinds:
            conditions[f"{kind} hop"] = partial(pair.per_hop, kind, counts[kind])
            conditions[f"{kind} alone"] = partial(pair.per_call, kind, counts[kind])
        taken = measure.interleave(conditions, rounds, report=False)
    return {
        f"{name} {clock}": median([getattr(spent, f"{clock}_ns") for spent in spents]) * US
        for name, spents in taken.items()
        for clock in ("wall", "cpu")
    }


# Two contexts and the pipes between them


class Spent(NamedTuple):
    """What a batch cost: wall clock, CPU time of both sides, and their switches as the kernel counted them."""

    wall_ns: float
    cpu_ns: float
    voluntary: float = 0
    involuntary: float = 0

    def __truediv__(self, parts: float) -> Spent:
        return Spent(*(value / parts for value in self))


def _spent_so_far() -> Spent:
    """The calling thread's account up to now (on systems without one per thread: its process's)."""
    import resource

    usage = resource.getrusage(getattr(resource, "RUSAGE_THREAD", resource.RUSAGE_SELF))
    return Spent(time.perf_counter_ns(), time.thread_time_ns(), usage.ru_nvcsw, usage.ru_nivcsw)


def _python_ask(read_from: int, write_to: int, count: int) -> None:
    read, write = os.read, os.write
    for _ in range(count):
        write(write_to, b"x")
        read(read_from, 1)


def _python_answer(read_from: int, write_to: int, count: int) -> None:
    read, write = os.read, os.write
    for _ in range(count):
        read(read_from, 1)
        write(write_to, b"x")


class Side:
    """One of the two contexts: its ends of the pipes, and the working sets that it touches between hops."""

    def __init__(self, read_from: int, write_to: int, sizes: tuple[int, ...] = (0,), chase: bool = False) -> None:
        self.read_from, self.write_to = read_from, write_to
        self.chase = chase
        if machine.numba() is None:
            from helpers import compiled

            self.byte = compiled.one_byte()
            self.sets = [compiled.working_set(size, chase) for size in sizes]

    def with_ends(self, read_from: int, write_to: int) -> Side:
        """The same side, with the same working sets, at other pipes."""
        other = copy.copy(self)
        other.read_from, other.write_to = read_from, write_to
        return other

    def ask(self, kind: str, count: int, which: int = 0) -> None:
        """Hand the token on first. Raises `RuntimeError` when the other side is gone."""
        if kind == "python":
            return _python_ask(self.read_from, self.write_to, count)
        from helpers import compiled

        self._check(compiled.ask(self.read_from, self.write_to, count, self.sets[which], self.chase, self.byte))

    def answer(self, kind: str, count: int, which: int = 0) -> None:
        """Wait for the token first. Raises `RuntimeError` when the other side is gone."""
        if kind == "python":
            return _python_answer(self.read_from, self.write_to, count)
        from helpers import compiled

        self._check(compiled.answer(self.read_from, self.write_to, count, self.sets[which], self.chase, self.byte))

    def _check(self, result: int) -> None:
        if result < 0:
            raise RuntimeError("the other side of the pipe is gone")


ORDER = struct.Struct("qqq")  # compiled or not, how many round trips, which working set
REPORT = struct.Struct("dddd")


class Pair:
    """Our side, and the orders and reports by which the other side is told what to do."""

    def __init__(self, ours: Side, to_myself: Side, orders: int, reports: int) -> None:
        self._ours, self._to_myself = ours, to_myself
        self._orders, self._reports = orders, reports

    def hops(self, kind: str, count: int, which: int = 0) -> Spent:
        """`count` round trips, that is twice as many hops; what both sides spent on them."""
        before = _spent_so_far()
        os.write(self._orders, ORDER.pack(kind == "compiled", count, which))
        self._ours.ask(kind, count, which)
        after = _spent_so_far()
        theirs = Spent(*REPORT.unpack(os.read(self._reports, REPORT.size)))
        ours = _less(after, before)
        return Spent(ours.wall_ns, *(mine + other for mine, other in zip(ours[1:], theirs[1:], strict=True)))

    def alone(self, kind: str, count: int, which: int = 0) -> Spent:
        """The same calls and the same working set with nobody to switch to: `count` writes and reads to oneself."""
        before = _spent_so_far()
        self._to_myself.ask(kind, count, which)
        return _less(_spent_so_far(), before)

    def per_hop(self, kind: str, count: int, which: int = 0) -> Spent:
        """What one hop costs, out of `count` round trips."""
        return self.hops(kind, count, which) / (2 * count)

    def per_call(self, kind: str, count: int, which: int = 0) -> Spent:
        """What its baseline costs: one write, one read and one reading of the working set, out of `count`."""
        return self.alone(kind, count, which) / count

    def batch(self, kind: str, at_least_ns: int, which: int = 0) -> int:
        """How many round trips last that long."""
        return measure.batch_size(lambda count: int(self.hops(kind, count, which).wall_ns), at_least_ns, limit=1 << 18)


def _less(after: Spent, before: Spent) -> Spent:
    return Spent(*(late - early for late, early in zip(after, before, strict=True)))


@contextmanager
def _pair(
    between: str, cores: tuple[int | None, int | None], sizes: tuple[int, ...] = (0,), chase: bool = False
) -> Iterator[Pair]:
    """Two contexts of that kind on those cores, ready to play; the other one ends when its orders do."""
    there, back, orders, reports, own = (os.pipe() for _ in range(5))
    theirs_open = (there[0], back[1], orders[0], reports[1])
    ours_open = (there[1], back[0], orders[1], reports[0], *own)

    def other_side() -> None:
        pin(cores[1])
        side = Side(there[0], back[1], sizes, chase)
        os.write(reports[1], REPORT.pack(0, 0, 0, 0))  # ready
        while order := os.read(orders[0], ORDER.size):
            is_compiled, count, which = ORDER.unpack(order)
            before = _spent_so_far()
            side.answer("compiled" if is_compiled else "python", count, which)
            os.write(reports[1], REPORT.pack(*_less(_spent_so_far(), before)))

    start = start_process if between == "processes" else start_thread
    join = start(other_side, theirs_open, ours_open)
    try:
        pin(cores[0])
        ours = Side(back[0], there[1], sizes, chase)
        os.read(reports[0], REPORT.size)
        yield Pair(ours, ours.with_ends(*own), orders[1], reports[0])
    finally:
        for end in ours_open:
            os.close(end)
        join()


# Handing over without the kernel


def _handoff_without_kernel(between: str, repeats: int, rounds: int) -> Handoff:
    hop, alone = (_task_hops, _task_overhead) if between == "tasks" else (_generator_hops, _generator_overhead)
    count = measure.batch_size(hop)

    def samples() -> dict[str, float]:
        conditions = {"hop": lambda: hop(count) / (2 * count), "alone": lambda: alone(count) / (2 * count)}
        taken = measure.interleave(conditions, rounds, report=False)
        return {name: median(values) * US for name, values in taken.items()}

    taken = [_reported(index, repeats, samples) for index in range(repeats)]
    hops, alones = [each["hop"] for each in taken], [each["alone"] for each in taken]
    cost = difference(hops, alones, "µs")
    return Handoff(
        between=between,
        cost=cost,
        python=cost,
        method="Python loop, wall clock",
        hop=estimate(hops, "µs"),
        overhead=estimate(alones, "µs"),
        placement="one thread",
        subtracted="the same loops without handing over",
    )


def _task_hops(count: int) -> int:
    """Nanoseconds for two asyncio tasks to give way to each other `count` times each."""
    import asyncio

    async def side() -> None:
        for _ in range(count):
            await asyncio.sleep(0)

    async def both() -> int:
        tasks = [asyncio.ensure_future(side()) for _ in range(2)]
        start = time.perf_counter_ns()
        for task in tasks:
            await task
        return time.perf_counter_ns() - start

    return asyncio.run(both())


def _task_overhead(count: int) -> int:
    """The same loops, awaiting a coroutine that comes back at once."""
    import asyncio

    async def at_once(_: int) -> None:
        return None

    async def both() -> int:
        start = time.perf_counter_ns()
        for _ in range(2 * count):
            await at_once(0)
        return time.perf_counter_ns() - start

    return asyncio.run(both())


def _generator_hops(count: int) -> int:
    """Nanoseconds to resume two generators `count` times each, in turn."""

    def side() -> Iterator[None]:
        while True:
            yield

    one, other = side(), side()
    start = time.perf_counter_ns()
    for _ in range(count):
        next(one)
        next(other)
    return time.perf_counter_ns() - start


def _generator_overhead(count: int) -> int:
    start = time.perf_counter_ns()
    for _ in range(count):
        pass
    return time.perf_counter_ns() - start


# Who gave up the core


@dataclass(frozen=True, kw_only=True)
class SwitchCounts(Record):
    """Switches that the kernel counted, as shares (%) of those that we caused."""

    headline_name: ClassVar[str] = "counted of caused"

    caused: int
    total: Estimate
    voluntary: Estimate
    involuntary: Estimate

    def figures(self) -> dict[str, Estimate]:
        return {"counted of caused": self.total, "voluntary": self.voluntary, "involuntary": self.involuntary}


@experiment(seconds=2, needs=[machine.fork, machine.proc_counters], wants=[machine.pinning, machine.numba])
def switch_counts(
    *,
    same_core: bool = True,
    switches: Annotated[int, Between(1_000, 200_000)] = 20_000,
    repeats: Annotated[int, Between(5, 50)] = 7,
) -> SwitchCounts:
    """Voluntary and involuntary switches counted by the kernel, in % of the switches that we caused.

    Two processes play ping-pong as in `handoff`; `getrusage` counts both. A switch is voluntary when a process
    blocks, involuntary when it could have gone on: a reader that wakes up may push the writer off the core.
    """
    cores, placement, warnings = places(same_core)
    kind = _loops()[0]

    def counted() -> list[float]:
        with _pair("processes", cores) as pair:
            pair.hops(kind, 100)  # both sides are awake and in their loops
            spent = pair.hops(kind, switches // 2)
        return [spent.voluntary / switches * 100, spent.involuntary / switches * 100]

    shares = [_reported(index, repeats, counted) for index in range(repeats)]
    return SwitchCounts(
        caused=switches,
        total=estimate([sum(each) for each in shares], "%"),
        voluntary=estimate([each[0] for each in shares], "%"),
        involuntary=estimate([each[1] for each in shares], "%"),
        placement=placement,
        subtracted="nothing",
        warnings=warnings,
    )


# The memory ladder


class Rung(NamedTuple):
    """One size of the ladder."""

    size: int
    ordinary: Estimate
    huge: Estimate


@dataclass(frozen=True, kw_only=True)
class MemoryLadder(Record):
    """Nanoseconds per dependent load by working-set size, on ordinary and on huge pages.

    `levels` names the sizes that stand for L1, L2, L3 and RAM, read off the caches that the system reports; a level
    that does not show as a step of its own is in `unseen`.
    """

    headline_name: ClassVar[str] = "largest size"

    sizes: tuple[int, ...]  # bytes
    ordinary: tuple[Estimate, ...]
    huge: tuple[Estimate, ...]
    caches: dict[str, int]  # level: bytes, as the system reports them
    levels: dict[str, int]  # level: the index into `sizes` that stands for it
    unseen: dict[str, str]  # level: why it is missing
    huge_share: float | None  # share of the largest array that really was on huge pages

    def figures(self) -> dict[str, Estimate]:
        return {"largest size": self.huge[-1]} | {level: self.huge[index] for level, index in self.levels.items()}


@experiment(
    seconds=11,
    claims=["l1-latency", "l2-latency", "l3-latency", "ram-latency"],
    needs=[machine.numba],
    wants=[machine.pinning],
)
def memory_ladder(
    *,
    largest_mib: Annotated[int, Between(1, 2048)] = 128,
    repeats: Annotated[int, Between(5, 20)] = 5,
) -> MemoryLadder:
    """Latency of one load whose address comes from the load before, by size of the array, in ns.

    The array is one random cycle through its cache lines, so that no prefetcher can guess the next address and no
    two loads can overlap (lmbench's `lat_mem_rd`, with a random instead of a strided order). Each of `repeats`
    rounds allocates every size afresh, on 4 KiB and on huge pages: their difference is the TLB's.
    """
    from helpers import compiled

    placement, warnings = _pinned_here()
    fit = machine.fit(largest_mib, bytes_each=3 * MIB)
    sizes = _ladder_sizes(fit.count * MIB)
    source = compiled.np.random.default_rng()
    taken: dict[tuple[int, bool], list[float]] = {(size, huge): [] for size in sizes for huge in (False, True)}
    order = list(taken)
    share = None
    for done in range(repeats):
        source.shuffle(order)
        for place, (size, huge) in enumerate(order):
            words = compiled.cycle(compiled.memory(int(size), huge_pages=bool(huge)), source)
            taken[int(size), bool(huge)].append(_load_ns(words))
            if huge and size == sizes[-1]:
                share = _huge_share(words)
            progress.report(done * len(order) + place + 1, repeats * len(order))
    ordinary = tuple(estimate(taken[size, False], "ns") for size in sizes)
    huge_pages = tuple(estimate(taken[size, True], "ns") for size in sizes)
    caches = _reported_caches()
    levels, unseen = _levels(sizes, [each.median for each in huge_pages], caches)
    return MemoryLadder(
        sizes=sizes,
        ordinary=ordinary,
        huge=huge_pages,
        caches=caches,
        levels=levels,
        unseen=unseen,
        huge_share=share,
        placement=placement,
        subtracted="nothing: the loop adds no load of its own",
        warnings=(*warnings, *_scaled("MiB of the largest array", fit.reason), *_huge_warning(share)),
    )


def _scaled(what: str, reason: str | None) -> tuple[str, ...]:
    return (f"{what}: {reason}",) if reason else ()


def _pinned_here() -> tuple[str, tuple[str, ...]]:
    """Keep this process on one core, so that its caches are its own."""
    (core, _), placement, warnings = places(same_core=True)
    pin(core)
    return ("one core" if core is not None else placement), warnings


def _ladder_sizes(largest: int) -> tuple[int, ...]:
    """From 4 KiB in steps of 1.5 and 1.33 in turn up to `largest` bytes; in steps of 2 where filling takes long."""
    sizes = []
    size = 4 * KIB
    while size <= largest:
        sizes.append(size)
        if size < COARSE_FROM and size * 3 // 2 <= largest:
            sizes.append(size * 3 // 2)
        size *= 2
    return tuple(sizes)


LOADS_AT_LEAST = 20_000
WARM_LOADS = 1 << 17  # filling the array has touched every line of it just before
COARSE_FROM = 16 * MIB
LADDER_BATCH_NS = 5_000_000  # long against the clock; 28 sizes twice, five times, must not take a minute


def _load_ns(words: Any) -> float:
    """Nanoseconds per load, after the array was walked once (or long enough to have warmed what can be warm).

    By the CPU's clock, so that a moment in which another program had the core does not count.
    """
    from helpers import compiled

    place = compiled.follow(words, 0, min(words.size // compiled.WORDS_PER_LINE, WARM_LOADS))

    def walk(loads: int) -> int:
        nonlocal place
        start = time.thread_time_ns()
        place = compiled.follow(words, place, loads)
        return time.thread_time_ns() - start

    loads = LOADS_AT_LEAST
    while (spent := walk(loads)) < LADDER_BATCH_NS:
        loads *= 2
    return spent / loads


def _huge_share(words: Any) -> float | None:
    """The share of an array's memory that the kernel really put on huge pages, from /proc/self/smaps."""
    start = words.ctypes.data
    inside = False
    try:
        with open("/proc/self/smaps") as smaps:
            for line in smaps:
                first = line.split(maxsplit=1)[0]
                if "-" in first and not first.endswith(":"):
                    low, high = (int(end, 16) for end in first.split("-"))
                    inside = low <= start < high
                elif inside and first == "AnonHugePages:":
                    return min(1.0, int(line.split()[1]) * KIB / words.nbytes)
    except (OSError, ValueError):
        pass
    return None


def _huge_warning(share: float | None) -> tuple[str, ...]:
    if share is None:
        return ("whether huge pages were used is unknown here",)
    return (f"only {share:.0%} of the largest array was on huge pages",) if share < 0.9 else ()


def _reported_caches() -> dict[str, int]:
    """Bytes by level of the data and unified caches that one core sees, as the system reports them."""
    caches: Any = machine.card().get("caches") or []
    return {f"L{cache['level']}": cache["bytes"] for cache in caches if cache["kind"] != "instruction"}


FLAT = 1.15  # sizes belong to one plateau while their medians are within 15 %
STEP = 1.3  # and two plateaus are two levels when one is at least this much slower
LEVELS = ("L1", "L2", "L3", "RAM")


def _levels(
    sizes: tuple[int, ...], medians: list[float], caches: dict[str, int]
) -> tuple[dict[str, int], dict[str, str]]:
    """Which size stands for which level, and why the others are missing.

    RAM is the largest size, if that is at least twice the last cache. The caches are read off the measurement: runs of
    at least three sizes of one speed, clearly faster than RAM, each named after the cache that the system reports at
    its middle. What it reports need not show: a virtual machine is often told of a cache that it has no share of.
    """
    beyond_caches = sizes[-1] >= 2 * max(caches.values(), default=sizes[-1])
    levels = {"RAM": len(sizes) - 1} if beyond_caches else {}
    for first, last in _plateaus(medians):
        middle = (first + last) // 2
        name = next((level for level, size in sorted(caches.items()) if sizes[middle] <= size), None)
        if name and not (beyond_caches and medians[middle] * STEP > medians[-1]):
            levels.setdefault(name, middle)
    levels = {level: levels[level] for level in LEVELS if level in levels}
    unseen = {level: "no step of its own was seen" for level in LEVELS if level not in levels}
    if "RAM" in unseen:
        unseen["RAM"] = f"the largest array ({sizes[-1] // MIB} MiB) is not twice the last cache"
    return levels, unseen


def _plateaus(medians: list[float]) -> list[tuple[int, int]]:
    """First and last index of every run of three sizes or more with one speed; runs less than `STEP` apart are one."""
    runs: list[tuple[int, int]] = []
    first = 0
    while first < len(medians):
        last = first
        while last + 1 < len(medians) and max(medians[first : last + 2]) <= FLAT * min(medians[first : last + 2]):
            last += 1
        if last - first >= 2:
            if runs and medians[first] < STEP * medians[runs[-1][1]]:
                runs[-1] = (runs[-1][0], last)
            else:
                runs.append((first, last))
        first = last + 1
    return runs


# The hidden cost


@dataclass(frozen=True, kw_only=True)
class WorkingSetCost(Record):
    """Microseconds per switch by the size of the working set that each side touches between switches.

    `extra` is what is left of `hop` when the same work without a switch (`alone`) is taken off: the switch and what
    it does to the caches. `refill` is what a switch adds per cache line of the working set, as a share of the time
    that a load from RAM took in the same run: 1 if every line came back from RAM, 0 if none had to.
    """

    headline_name: ClassVar[str] = "extra at the largest set"

    touch: str
    sizes: tuple[int, ...]  # bytes, of each side
    hop: tuple[Estimate, ...]
    alone: tuple[Estimate, ...]
    extra: tuple[Estimate, ...]
    refill: tuple[Estimate | None, ...]
    ram: Estimate  # ns per load
    caches: dict[str, int]

    def figures(self) -> dict[str, Estimate]:
        found = {"extra at the largest set": self.extra[-1], "switch alone": self.extra[0]}
        inside = [index for index, size in enumerate(self.sizes) if size and 2 * size <= self.caches.get("L2", 0)]
        refill = self.refill[inside[-1]] if inside else None
        return found | ({"refill": refill} if refill else {})


@experiment(seconds=9, claims=["cache-invalid"], needs=[machine.fork, machine.numba], wants=[machine.pinning])
def working_set_cost(
    touch: Literal["in-order", "at-random"] = "in-order",
    *,
    largest_kib: Annotated[int, Between(64, 16_384)] = 2048,
    repeats: Annotated[int, Between(5, 50)] = 7,
    rounds: Annotated[int, Between(1, 20)] = 3,
) -> WorkingSetCost:
    """What a switch costs when both sides have data in the caches, in µs per switch, both on one core.

    Between two hops each side reads its own working set: in order, as lmbench's `lat_ctx` does and as
    most code does, so that prefetching hides much of the refill; or line by line in a random cycle of dependent
    loads, so that nothing is hidden. The same reading without a switch is taken off.
    """
    from helpers import compiled

    cores, placement, warnings = places(same_core=True)
    sizes = (0, *(size for size in _powers(8 * KIB, largest_kib * KIB)))

    def samples() -> dict[str, list[float]]:
        with _pair("processes", cores, sizes, touch == "at-random") as pair:
            conditions: dict[str, Callable[[], Spent]] = {}
            for which in range(len(sizes)):
                count = pair.batch("compiled", SET_BATCH_NS, which)
                conditions[f"hop {which}"] = partial(pair.per_hop, "compiled", count, which)
                conditions[f"alone {which}"] = partial(pair.per_call, "compiled", count, which)
            taken = measure.interleave(conditions, rounds, report=False)
        words = compiled.cycle(compiled.memory(RAM_SET), compiled.np.random.default_rng())
        return {name: [each.cpu_ns for each in spents] for name, spents in taken.items()} | {"ram": [_load_ns(words)]}

    taken = [_reported(index, repeats, samples) for index in range(repeats)]

    def medians(name: str) -> list[float]:
        return [median(each[name]) * US for each in taken]

    indices = range(len(sizes))
    extra = [difference(medians(f"hop {which}"), medians(f"alone {which}"), "µs") for which in indices]
    ram = estimate([median(each["ram"]) for each in taken], "ns")
    return WorkingSetCost(
        touch=touch,
        sizes=sizes,
        hop=tuple(estimate(medians(f"hop {which}"), "µs") for which in indices),
        alone=tuple(estimate(medians(f"alone {which}"), "µs") for which in indices),
        extra=tuple(extra),
        refill=tuple(_refill(extra[which], extra[0], size, ram) for which, size in enumerate(sizes)),
        ram=ram,
        caches=_reported_caches(),
        placement=placement,
        subtracted="the same reading, a write and a read on a pipe to oneself, without a switch",
        warnings=warnings,
    )


SET_BATCH_NS = 10_000_000
RAM_SET = 64 * MIB


def _powers(first: int, last: int) -> Iterator[int]:
    while first <= last:
        yield first
        first *= 2


def _refill(extra: Estimate, bare: Estimate, size: int, ram: Estimate) -> Estimate | None:
    """What a switch adds per cache line of the working set, over a load from RAM."""
    if size == 0:
        return None
    lines = size // 64
    pairs = zip(extra.samples, bare.samples, ram.samples, strict=True)
    return estimate([(cost - switch) / US / lines / load for cost, switch, load in pairs], "x")


# Too many of them


@dataclass(frozen=True, kw_only=True)
class Oversubscription(Record):
    """What happens to throughput and waiting when there are more workers than cores."""

    headline_name: ClassVar[str] = "throughput, most workers to one per core"

    work: str
    cores: int
    workers: tuple[int, ...]
    throughput: tuple[Estimate, ...]  # requests/s
    p50: tuple[Estimate, ...]  # ms
    p99: tuple[Estimate, ...]  # ms
    switches: tuple[Estimate, ...]  # per second, of all workers together
    against_cores: Estimate

    def figures(self) -> dict[str, Estimate]:
        return {self.headline_name: self.against_cores, "p99, most workers": self.p99[-1]}


@experiment(seconds=9, needs=[machine.fork, machine.proc_counters])
def oversubscription(
    work: Literal["computing", "waiting"] = "computing",
    *,
    per_core: Annotated[int, Between(2, 128)] = 32,
    repeats: Annotated[int, Between(5, 20)] = 5,
    seconds_each: Annotated[float, Between(0.1, 5)] = 0.25,
) -> Oversubscription:
    """Throughput, p50 and p99 of a request, and switches per second, by number of workers.

    Workers are processes, so that no GIL is in play, and hardly touch any data; there are up to `per_core` for each
    allowed core. A request computes for about 1 ms, or waits 10 ms and computes for 0.1 ms. Each worker does one
    after another for `seconds_each`.
    """
    cores = len(machine.cores())
    fit = machine.fit(per_core * cores, at_least=2, bytes_each=16 * MIB, processes_each=1, descriptors_each=2)
    counts = tuple(sorted({*_quadrupled(fit.count), cores, fit.count}))
    compute = COMPUTE_S if work == "computing" else COMPUTE_S / 10
    wait = 0.0 if work == "computing" else WAIT_S
    loops = _loops_for(compute)
    runs: dict[int, list[Crowd]] = {count: [] for count in counts}
    for done in range(repeats):
        for place, count in enumerate(_shuffled(counts)):
            runs[count].append(_crowd(count, loops, wait, seconds_each))
            progress.report(done * len(counts) + place + 1, repeats * len(counts))
    most_of, one_each = runs[counts[-1]], runs[cores]
    return Oversubscription(
        work=work,
        cores=cores,
        workers=counts,
        throughput=tuple(estimate([run.throughput for run in runs[count]], "requests/s") for count in counts),
        p50=tuple(estimate([run.p50 for run in runs[count]], "ms") for count in counts),
        p99=tuple(estimate([run.p99 for run in runs[count]], "ms") for count in counts),
        switches=tuple(estimate([run.switches for run in runs[count]], "switches/s") for count in counts),
        against_cores=measure.ratio([run.throughput for run in most_of], [run.throughput for run in one_each]),
        placement=free(),
        subtracted="nothing",
        warnings=_scaled("workers", fit.reason),
    )


COMPUTE_S = 0.001
WAIT_S = 0.010


class Crowd(NamedTuple):
    """What some workers did together: requests/s, p50 and p99 in ms, switches/s."""

    throughput: float
    p50: float
    p99: float
    switches: float


def _quadrupled(most: int) -> list[int]:
    return [1 << power for power in range(0, most.bit_length(), 2)]


def _shuffled(values: tuple[int, ...]) -> list[int]:
    from random import sample

    return sample(values, len(values))


def _loops_for(seconds: float) -> int:
    """How many rounds of `compute` take that much CPU time on this machine."""

    def run(loops: int) -> int:
        start = time.thread_time_ns()
        compute(loops)
        return time.thread_time_ns() - start

    loops = measure.batch_size(run)
    return max(1, int(loops * seconds * 1e9 / run(loops)))


START_S_EACH = 0.004  # a fork takes 2 to 3 ms; all workers must be there before the first one starts


def _crowd(count: int, loops: int, wait: float, seconds: float) -> Crowd:
    """Run `count` workers side by side and put together what they report."""
    begin = time.monotonic() + 0.02 + START_S_EACH * count
    workers = [_start_worker(loops, wait, begin, begin + seconds) for _ in range(count)]
    reports = [worker() for worker in workers]
    if not any(report["in_time"] for report in reports):  # a machine that stalls let nobody get one done
        return _crowd(count, loops, wait, 2 * seconds)
    latencies = sorted(latency for report in reports for latency in report["latencies"])
    return Crowd(
        throughput=sum(report["in_time"] for report in reports) / seconds,
        p50=measure.quantile(latencies, 0.50) * 1e3,
        p99=measure.quantile(latencies, 0.99) * 1e3,
        switches=sum(report["switches"] for report in reports) / seconds,
    )


def _start_worker(loops: int, wait: float, begin: float, end: float) -> Callable[[], dict[str, Any]]:
    import json

    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read_end)
            with os.fdopen(write_end, "w") as answer:
                json.dump(_requests(loops, wait, begin, end), answer)
        finally:
            os._exit(0)
    os.close(write_end)

    def join() -> dict[str, Any]:
        with os.fdopen(read_end) as answer:
            report: dict[str, Any] = json.loads(answer.read())
        os.waitpid(child, 0)
        return report

    return join


def _requests(loops: int, wait: float, begin: float, end: float) -> dict[str, Any]:
    """One worker: request after request until `end`; each latency in s, and the switches meanwhile."""
    time.sleep(max(0.0, begin - time.monotonic()))
    before = _spent_so_far()
    latencies = []
    in_time = 0
    last = time.monotonic()
    while last < end:
        if wait:
            time.sleep(wait)
        compute(loops)
        now = time.monotonic()
        latencies.append(now - last)
        in_time += now <= end  # what ends later counts as a latency, not as throughput
        last = now
    spent = _less(_spent_so_far(), before)
    return {"latencies": latencies, "in_time": in_time, "switches": spent.voluntary + spent.involuntary}
