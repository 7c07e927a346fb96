"""What processes and threads are made of, what one more costs, and how they share, crash and talk (notebook 01)."""

from __future__ import annotations

import mmap
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from helpers import machine, measure, memory, progress
from helpers.channels import BETWEEN_THREADS, CHANNELS, SLOTS, End, close_all
from helpers.contexts import free, pin, places, start_process, start_thread
from helpers.measure import KIB, MIB, Estimate, difference, estimate, in_fresh_process, median
from helpers.record import Record
from helpers.registry import Between, experiment
from helpers.specimens import EIGHTHS, Specimen

# The house and its rooms


@dataclass(frozen=True)
class Household:
    """A process with so many threads: what each group of its memory takes, and the system's word on the whole of it."""

    threads: int
    groups: dict[str, memory.Total]  # by `memory.GROUPS`, in bytes
    virtual: int
    resident: int


@dataclass(frozen=True)
class Storey:
    """Neighbouring regions of one group, with what they take together, in bytes."""

    group: str
    regions: int
    takes: memory.Total


@dataclass(frozen=True, kw_only=True)
class MemoryMap(Record):
    """The memory of one bare interpreter, by what it is for, with more and more threads."""

    headline_name: ClassVar[str] = "resident, one thread"

    households: tuple[Household, ...]  # each from the run whose resident memory is the median
    storeys: tuple[Storey, ...]  # of the first of them, from the lowest address to the highest
    virtual: tuple[Estimate, ...]  # MiB, one for each household
    resident: tuple[Estimate, ...]

    def figures(self) -> dict[str, Estimate]:
        return {
            "resident, one thread": self.resident[0],
            "virtual, one thread": self.virtual[0],
            "resident, most threads": self.resident[-1],
            "virtual, most threads": self.virtual[-1],
        }


@experiment(seconds=1.5, needs=[machine.memory_maps])
def memory_map(
    *, most_threads: Annotated[int, Between(2, 64)] = 16, repeats: Annotated[int, Between(5, 20)] = 11
) -> MemoryMap:
    """What the memory of a process is for, with one thread and with more, in MiB.

    The process is a bare interpreter, started afresh for every sample, whose threads wait. What is in its address
    space is read from `/proc/PID/smaps`; `memory.regions` says how regions are told apart. Private pages
    are those that no other process has at that moment.
    """
    fit = machine.fit(most_threads, at_least=2, threads_each=1)
    counts = [count for count in (1, 4) if count < fit.count] + [fit.count]
    looks: dict[int, list[tuple[list[memory.Region], memory.Footprint]]] = {count: [] for count in counts}
    lost = 0
    for index in range(repeats):
        for count in counts:
            regions, whole, unseen = _look(count)
            looks[count].append((regions, whole))
            lost = max(lost, unseen)
        progress.report(index + 1, repeats)
    typical = {count: sorted(those, key=lambda look: look[1].resident)[repeats // 2] for count, those in looks.items()}
    hidden = f"the system doesn't show where {lost} of the threads have their stacks: these are counted as heap"
    return MemoryMap(
        households=tuple(
            Household(count, memory.totals(regions), whole.virtual, whole.resident)
            for count, (regions, whole) in typical.items()
        ),
        storeys=_storeys(typical[1][0]),
        virtual=tuple(estimate([whole.virtual / MIB for _, whole in looks[count]], "MiB") for count in counts),
        resident=tuple(estimate([whole.resident / MIB for _, whole in looks[count]], "MiB") for count in counts),
        placement="free",
        subtracted="nothing",
        warnings=tuple(word for word in (fit.reason, hidden if lost else None) if word),
    )


def _look(threads: int) -> tuple[list[memory.Region], memory.Footprint, int]:
    """The regions of a fresh process with so many threads, the process as a whole, and how many stacks are hidden."""
    with Specimen("threads") as one:
        started = one.ask(threads - 1)[0] + 1
        if started < threads:
            raise machine.TooSmall(f"needs {threads} threads, and the system starts no more than {started}")
        tries = 0
        while (hidden := threads - len(memory.stack_pointers(one.pid))) and tries < 100:
            tries += 1
            time.sleep(0.001)  # a thread shows its stack when it waits
        return memory.regions(one.pid), memory.footprint(one.pid), hidden


def _storeys(regions: list[memory.Region]) -> tuple[Storey, ...]:
    """Neighbours of one group put together."""
    runs = [(group, list(run)) for group, run in groupby(regions, key=lambda region: region.group)]
    return tuple(Storey(group, len(run), memory.totals(run)[group]) for group, run in runs)


# What one more costs

IDLE: dict[str, dict[str, int]] = {  # what one more idle context is expected to take, at most
    "threads": {"bytes_each": 64 * KIB, "threads_each": 1},
    "tasks": {"bytes_each": 4 * KIB},
    "forked": {"bytes_each": 1 * MIB, "processes_each": 1},
    "spawned": {"bytes_each": 8 * MIB, "processes_each": 1},
}
GROWING_S = {"threads": 20.0, "tasks": 20.0, "forked": 5.0, "spawned": 5.0}  # for all repeats together

Idle = Literal["threads", "forked", "spawned", "tasks"]


@dataclass(frozen=True, kw_only=True)
class CostOfOneMore(Record):
    """KiB that one more idle context takes, by four ways of counting, and what the kernel takes beside them."""

    headline_name: ClassVar[str] = "unique"

    of: str
    counts: tuple[int, ...]  # of contexts, between which the slopes were taken
    virtual: Estimate
    resident: Estimate
    proportional: Estimate
    unique: Estimate
    kernel: Estimate | None = None  # its stacks and page tables; none for tasks, of which it doesn't know

    def figures(self) -> dict[str, Estimate]:
        found = {
            "virtual": self.virtual,
            "resident": self.resident,
            "proportional": self.proportional,
            "unique": self.unique,
        }
        return found | ({"kernel": self.kernel} if self.kernel else {})


@experiment(
    seconds=5,
    claims=["process-memory", "thread-memory-virtual", "thread-memory-resident"],
    needs=[machine.memory_maps],
)
def cost_of_one_more(
    of: Idle = "threads",
    *,
    most: Annotated[int, Between(2, 10_000)] = 1000,
    repeats: Annotated[int, Between(5, 20)] = 5,
) -> CostOfOneMore:
    """Memory that one more idle context takes, in KiB: address space, resident, proportional and unique.

    Each sample is the least-squares slope over an eighth, a quarter, half and all of the contexts, in a process
    started afresh; what it takes alone, and for the first few, is thus not in it. Processes are added up with their
    parent. Forked ones are copies of a bare interpreter, spawned ones are bare interpreters themselves: what they
    import comes on top. The kernel's part, which no count of a process's pages shows, is its stacks (all of the
    machine's, so what else starts meanwhile is in it) and page tables.
    """
    fit = machine.fit(most, at_least=2, **IDLE[of])
    count, reason = _affordable(of, fit.count, GROWING_S[of] / (repeats + 1))
    counts = sorted({max(1, count >> halvings) for halvings in range(4)})
    slopes = []
    for index in range(repeats):
        slopes.append(_slopes(of, counts))
        progress.report(index + 1, repeats)

    def figure(name: str) -> Estimate:
        return estimate([each[name] for each in slopes], "KiB")

    knows = of != "tasks" and all("kernel" in each for each in slopes)
    return CostOfOneMore(
        of=of,
        counts=tuple(counts),
        virtual=figure("virtual"),
        resident=figure("resident"),
        proportional=figure("proportional"),
        unique=figure("unique"),
        kernel=figure("kernel") if knows else None,
        placement="free",
        subtracted="the process without them",
        warnings=tuple(word for word in (fit.reason, reason) if word),
    )


def _affordable(of: str, most: int, seconds: float) -> tuple[int, str | None]:
    """How many contexts one process can have in so much time, found by doubling; and what is in the way of more."""
    asked = 2
    start = time.monotonic()
    with Specimen(of) as one:
        while True:
            count = one.ask(asked)[0]
            spent = time.monotonic() - start
            if count < asked:
                if count < 2:
                    raise machine.TooSmall(f"the system starts no more than {count} of the {of}")
                return count, f"scaled down from {most:,} to {count:,}: the system starts no more"
            if count == most:
                return count, None
            if 2 * spent > seconds:
                return count, f"scaled down from {most:,} to {count:,}: more take longer than {seconds:.1f} s each time"
            asked = min(2 * count, most)


def _slopes(of: str, counts: list[int]) -> dict[str, float]:
    """KiB per context by each way of counting, in one fresh process."""
    from statistics import linear_regression

    reached, taken = [], []
    with Specimen(of) as one:
        for count in counts:
            there, *processes = one.ask(count)
            reached.append(there)
            taken.append(_taken(processes))
    if len(set(reached)) < 2:
        raise machine.TooSmall(f"the system starts no more than {reached[-1]} of the {of}")
    names = set.intersection(*map(set, taken))
    return {name: linear_regression(reached, [each[name] / KIB for each in taken]).slope for name in names}


def _taken(processes: list[int]) -> dict[str, float]:
    """Bytes that these processes take together, by way of counting."""
    found: dict[str, float] = dict.fromkeys(("virtual", "resident", "proportional", "unique"), 0)
    tables = 0
    for process in processes:
        takes = memory.footprint(process)
        for name in found:
            found[name] += getattr(takes, name)
        tables += takes.page_tables or 0
    stacks = memory.kernel_stacks()
    return found if stacks is None else found | {"kernel": stacks + tables}


# Starting one


@dataclass(frozen=True, kw_only=True)
class StartCost(Record):
    """Microseconds to start a context that does nothing, and to see it end."""

    headline_name: ClassVar[str] = "thread"

    touched_mib: int
    cost: dict[str, Estimate]  # by way, in the order of `STARTS`
    missing: dict[str, str]  # way: why it is not there

    def figures(self) -> dict[str, Estimate]:
        return self.cost


@experiment(seconds=3)
def start_cost(
    *,
    touched_mib: Annotated[int, Between(0, 512)] = 0,
    repeats: Annotated[int, Between(5, 50)] = 7,
    batch_ms: Annotated[int, Between(1, 100)] = 10,
) -> StartCost:
    """Time to start a thread, process, interpreter or task that does nothing and to wait for its end, in µs.

    Before, this process writes to `touched_mib` of memory, on ordinary pages: a fork copies the table of them.
    Batches are as long as `batch_ms`, or hold one start where that takes longer; all ways take turns.
    multiprocessing's forkserver is running before the clock does, and its children need no module of ours: a program
    whose main module imports much pays for that on top, under forkserver and spawn.
    """
    fit = machine.fit(touched_mib, bytes_each=MIB)
    touched = _touched(fit.count)
    ways = {name: find() for name, find in STARTS.items()}
    there = {name: way for name, way in ways.items() if callable(way)}
    missing = {name: way for name, way in ways.items() if isinstance(way, str)}
    try:
        counts = {name: measure.batch_size(way, batch_ms * 1_000_000) for name, way in there.items()}
        conditions = {name: partial(_start_us, way, counts[name]) for name, way in there.items()}
        taken = measure.interleave(conditions, repeats)
    finally:
        _end_multiprocessing()
    if touched is not None:
        touched.close()
    return StartCost(
        touched_mib=fit.count,
        cost={name: estimate(samples, "µs") for name, samples in taken.items()},
        missing=missing,
        placement=free(),
        subtracted="nothing: the loop around takes less than 1 % of the cheapest",
        warnings=(
            *((f"MiB touched: {fit.reason}",) if fit.reason else ()),
            *(f"no {name}: {why}" for name, why in missing.items()),
        ),
    )


Start = Callable[[int], int]  # nanoseconds for so many, one after another


def _start_us(way: Start, count: int) -> float:
    return way(count) / count / 1000


def _one_by_one(start: Callable[[], object]) -> Start:
    def batch(count: int) -> int:
        begin = time.perf_counter_ns()
        for _ in range(count):
            start()
        return time.perf_counter_ns() - begin

    return batch


def _touched(mib: int) -> mmap.mmap | None:
    """So much private memory, every page of it written to; None for none."""
    if not mib:
        return None
    private: Any = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_ANONYMOUS") else {}
    touched = mmap.mmap(-1, mib * MIB, **private)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            touched.madvise(mmap.MADV_NOHUGEPAGE)
    touched[:: mmap.PAGESIZE] = bytes(len(touched) // mmap.PAGESIZE)
    return touched


def _task() -> Start:
    import asyncio

    async def nothing() -> None:
        return None

    async def batch(count: int) -> int:
        begin = time.perf_counter_ns()
        for _ in range(count):
            await asyncio.create_task(nothing())
        return time.perf_counter_ns() - begin

    return lambda count: asyncio.run(batch(count))


def _thread() -> Start:
    def start() -> None:
        thread = threading.Thread(target=int)  # a function that does nothing
        thread.start()
        thread.join()

    return _one_by_one(start)


def _fork() -> Start | str:
    if missing := machine.fork():
        return missing

    def start() -> None:
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)

    return _one_by_one(start)


def _program(name: str | None, *arguments: str) -> Start | str:
    """Another program in a process of its own."""
    if not name:
        return "there is no such program on PATH"
    if not hasattr(os, "posix_spawn"):
        return "this system has no posix_spawn"
    return _one_by_one(lambda: os.waitpid(os.posix_spawn(name, [name, *arguments], os.environ), 0))


def _true() -> Start | str:
    from shutil import which

    return _program(which("true"))


def _interpreter() -> Start | str:
    return _program(sys.executable, "-I", "-S", "-c", "")


def _multiprocessing(method: str) -> Start | str:
    import multiprocessing

    if method not in multiprocessing.get_all_start_methods():
        return f"this system cannot start processes by {method}"
    context: Any = multiprocessing.get_context(method)

    def start() -> None:
        process = context.Process(target=int)  # from the standard library, so that the child imports nothing of ours
        process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a process started by {method} ended with exit code {process.exitcode}")
        process.close()

    return _one_by_one(start)


def _end_multiprocessing() -> None:
    """End the two processes that multiprocessing keeps for later."""
    if os.name == "posix" and "multiprocessing.resource_tracker" in sys.modules:
        from multiprocessing import forkserver, resource_tracker

        forkserver._forkserver._stop()  # type: ignore[attr-defined]
        resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


def _subinterpreter() -> Start | str:
    """By the public module of Python 3.14, or the private ones before."""
    from importlib import import_module

    for name in ("concurrent.interpreters", "_interpreters", "_xxsubinterpreters"):
        with suppress(ImportError):
            return _one_by_one(partial(_life_of_an_interpreter, import_module(name)))
    return f"Python {sys.version.split()[0]} has none"


def _life_of_an_interpreter(interpreters: Any) -> None:
    one = interpreters.create()
    if hasattr(one, "exec"):
        one.exec("pass")
        one.close()
    else:
        interpreters.run_string(one, "pass")
        interpreters.destroy(one)


STARTS: dict[str, Callable[[], Start | str]] = {  # from what is made least to what is made most
    "task": _task,
    "thread": _thread,
    "posix_spawn": _true,
    "fork": _fork,
    "multiprocessing fork": partial(_multiprocessing, "fork"),
    "multiprocessing forkserver": partial(_multiprocessing, "forkserver"),
    "subinterpreter": _subinterpreter,
    "new Python": _interpreter,
    "multiprocessing spawn": partial(_multiprocessing, "spawn"),
}


# What they share

THROUGH = ("reading bytes", "writing bytes", "reading objects")


@dataclass(frozen=True, kw_only=True)
class CopyOnWrite(Record):
    """Share of a parent's data that became its child's own, against the share that the child had gone through, in %."""

    headline_name: ClassVar[str] = "copied by reading objects"

    mib: int
    touched: tuple[float, ...]  # %, from 0 to 100
    copied: dict[str, tuple[Estimate, ...]]  # % at each of these, by way
    together: tuple[Estimate, Estimate]  # MiB of parent and child, before and after the objects were read
    page: Estimate  # µs to copy one page

    def figures(self) -> dict[str, Estimate]:
        return {f"copied by {way}": steps[-1] for way, steps in self.copied.items()} | {"copy of a page": self.page}


@experiment(seconds=3, needs=[machine.fork, machine.memory_maps])
def copy_on_write(
    *, mib: Annotated[int, Between(4, 512)] = 32, repeats: Annotated[int, Between(5, 20)] = 5
) -> CopyOnWrite:
    """Share of inherited memory that a forked child copies by reading bytes, writing bytes and reading objects, in %.

    A process started afresh makes data and forks; the child goes through them in eighths. Copied is what the child
    has for itself (USS), less what it had before; all is by how much making the data grew the parent. The
    buffer of bytes is read or written once per page. The objects are strings in a list; reading one changes the
    reference count in its head. What a copy takes is the time of the first write to a page less that of the second.
    """
    fit = machine.fit(mib, at_least=4, bytes_each=2 * MIB)  # the copy, too
    runs: dict[str, list[_Inheritance]] = {way: [] for way in THROUGH}
    for index in range(repeats):
        for way in THROUGH:
            runs[way].append(_inheritance(way, fit.count * MIB))
        progress.report(index + 1, repeats)
    copied = {
        way: tuple(estimate(step, "%") for step in zip(*(run.copied for run in those), strict=True))
        for way, those in runs.items()
    }
    objects = runs["reading objects"]
    share = copied["reading objects"][-1]
    unseen = f"not observed here: reading all objects copied {share.median:.1f} % of their pages"
    return CopyOnWrite(
        mib=fit.count,
        touched=tuple(100 * step / EIGHTHS for step in range(EIGHTHS + 1)),
        copied=copied,
        together=(
            estimate([run.before / MIB for run in objects], "MiB"),
            estimate([run.after / MIB for run in objects], "MiB"),
        ),
        page=estimate([run.page_ns / 1e3 for run in runs["writing bytes"]], "µs"),
        placement="free",
        subtracted="what the child had for itself before it went through the data",
        warnings=tuple(word for word in (fit.reason, unseen if share.high < 50 else None) if word),
    )


class _Inheritance(NamedTuple):
    """One child: % copied after each eighth, bytes (PSS) of parent and child at first and at last, ns per new page."""

    copied: list[float]
    before: float
    after: float
    page_ns: float


def _inheritance(way: str, size: int) -> _Inheritance:
    with Specimen(way.replace(" ", "_")) as parent:
        empty = _taken([parent.pid])["unique"]
        parent.ask(size)
        whole = _taken([parent.pid])["unique"] - empty
        (child,) = parent.ask(0)
        both = [parent.pid, child]
        parent.ask(0)  # the way through nothing: what the child needs for itself
        own, before = _taken([child])["unique"], _taken(both)["proportional"]
        copied, extra_ns = [0.0], 0
        for step in range(1, EIGHTHS + 1):
            first_ns, again_ns = parent.ask(step)
            copied.append(100 * (_taken([child])["unique"] - own) / whole)
            extra_ns += first_ns - again_ns
        return _Inheritance(copied, before, _taken(both)["proportional"], extra_ns / (whole / mmap.PAGESIZE))


# When one crashes


@dataclass(frozen=True)
class Case:
    """One way to go down, in one of several contexts; the figures of all trials in turn."""

    what: str
    where: str  # processes, or threads of one process
    contexts: int
    answered: tuple[int, ...]  # how many of the others answered afterwards
    ended: tuple[str, ...]  # how the process ended in which it happened


@dataclass(frozen=True, kw_only=True)
class Crash(Record):
    """Who survives when one context goes down."""

    headline_name: ClassVar[str] = "the other processes live on"

    cases: tuple[Case, ...]
    others_live: Estimate  # share of trials: after a segmentation fault in one process all the others answered
    all_end: Estimate  # share of trials: after one in a thread no other thread answered, and the process was killed

    def figures(self) -> dict[str, Estimate]:
        return {"the other processes live on": self.others_live, "the whole process ends": self.all_end}

    def case(self, what: str, where: str) -> Case:
        return next(case for case in self.cases if (case.what, case.where) == (what, where))


@experiment(seconds=1.5, claims=["process-crash", "thread-crash"], needs=[machine.fork, machine.ctypes])
def crash(*, trials: Annotated[int, Between(5, 50)] = 20) -> Crash:
    """Bring one of four contexts down and ask the others, in shares of trials.

    The contexts are four processes, or four threads of one process. One of them reads from a bad address, calls
    `os._exit`, or meets an exception that nobody handles; when it is gone, each of the others is sent a message.
    How its process ended is what the kernel told the parent.
    """
    machine.fit(CONTEXTS, at_least=CONTEXTS, processes_each=1, threads_each=1, descriptors_each=4)
    runs: dict[tuple[str, str], list[tuple[int, str]]] = {(what, where): [] for what in FALLS for where in HOUSES}
    for done in range(trials):
        for what, where in runs:
            runs[what, where].append(_trial(what, where))
        progress.report(done + 1, trials)
    cases = tuple(
        Case(what, where, CONTEXTS, tuple(answered for answered, _ in run), tuple(ended for _, ended in run))
        for (what, where), run in runs.items()
    )
    others, killed = CONTEXTS - 1, "killed by SIGSEGV"
    apart, together = runs["segmentation fault", "processes"], runs["segmentation fault", "threads"]
    return Crash(
        cases=cases,
        others_live=estimate([float(run == (others, killed)) for run in apart], "share"),
        all_end=estimate([float(run == (0, killed)) for run in together], "share"),
        placement="free",
        subtracted="nothing",
    )


CONTEXTS = 4
PATIENCE_S = 10.0  # a context that lives answers within a millisecond
EXIT_CODE = 3


def _segmentation_fault() -> None:
    import ctypes

    ctypes.string_at(0)  # reads from address 0


def _exit() -> None:
    os._exit(EXIT_CODE)


def _exception() -> None:
    raise RuntimeError("nobody handles this")


FALLS: dict[str, Callable[[], None]] = {
    "segmentation fault": _segmentation_fault,
    "os._exit": _exit,
    "unhandled exception": _exception,
}
HOUSES = ("processes", "threads")


def _trial(what: str, where: str) -> tuple[int, str]:
    """Bring the first context down: how many of the others answer then, and how its process ended."""
    import socket
    from multiprocessing import get_context

    context: Any = get_context("fork")
    channels = [socket.socketpair() for _ in range(CONTEXTS)]
    rooms = [[theirs] for _, theirs in channels] if where == "processes" else [[theirs for _, theirs in channels]]
    ours = [end for end, _ in channels]
    both = [end for channel in channels for end in channel]
    houses = [
        context.Process(target=_house, args=(what, ends, [end for end in both if end not in ends])) for ends in rooms
    ]
    for house in houses:
        house.start()
    for _, theirs in channels:
        theirs.close()
    for end in ours:
        end.settimeout(PATIENCE_S)
    ours[0].send(b"fall")
    ours[0].recv(1)  # its end is closed: it fell
    answered = sum(_answers(end) for end in ours[1:])
    for end in ours:
        end.close()
    for house in houses:
        house.join()
    return answered, _ending(houses[0].exitcode)


def _answers(end: Any) -> bool:
    try:
        end.send(b"ping")
        return bool(end.recv(4) == b"ping")
    except OSError:  # the pipe is broken
        return False


def _ending(exit_code: int) -> str:
    import signal

    return f"killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"


def _house(what: str, rooms: list[Any], others: list[Any]) -> None:
    """A process with a context for each of these sockets: its main thread, or threads."""
    _go_quietly()
    for end in others:
        end.close()
    threads = [threading.Thread(target=_room, args=(what, end)) for end in rooms]
    if len(threads) == 1:
        return _room(what, rooms[0])
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _room(what: str, end: Any) -> None:
    """Answer every message, until one brings us down."""
    with end:
        while message := end.recv(4):
            if message == b"fall":
                FALLS[what]()
            end.send(message)


def _go_quietly() -> None:
    """No core file, no words, and no handler (faulthandler's, say) in the way."""
    import resource
    import signal

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGSEGV, signal.SIG_DFL)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115


# How they talk


@dataclass(frozen=True, kw_only=True)
class MessageCost(Record):
    """Round trip and throughput by size of the message."""

    headline_name: ClassVar[str] = "round trip of the smallest"

    over: str
    between: str  # processes or threads
    sizes: tuple[int, ...]  # bytes
    round_trip: tuple[Estimate, ...]  # µs: a message, and the same one back
    throughput: tuple[Estimate, ...] | None  # MB/s one way (a MB is 10^6 bytes); None: no bytes are moved

    def figures(self) -> dict[str, Estimate]:
        found = {self.headline_name: self.round_trip[0], "round trip of the largest": self.round_trip[-1]}
        return found | ({"throughput of the largest": self.throughput[-1]} if self.throughput else {})


@experiment(seconds=3, needs=[machine.fork], wants=[machine.pinning, machine.two_cores])
def message_cost(
    over: Literal["pipe", "socket-pair", "queue", "shared-memory", "thread-queue", "variable"] = "pipe",
    *,
    same_core: bool = False,
    largest_kib: Annotated[int, Between(1, 4096)] = 1024,
    repeats: Annotated[int, Between(5, 50)] = 5,
) -> MessageCost:
    """Round trip in µs, and throughput in MB/s, of messages from 64 bytes to `largest_kib`.

    Between two processes: a pipe and a socket pair (lmbench's `lat_pipe` and `bw_pipe`, but that a message is always
    read to its end), `multiprocessing.Queue`, and shared memory with a pipe for a doorbell, into and out of
    which each side copies. Between two threads: `queue.SimpleQueue`, and a plain variable with an
    `Event` for a doorbell; these hand over a reference whatever the size, so that MB/s would mean nothing. A fresh
    pair for every sample; that messages arrive complete and in order is checked outside of the clock.
    """
    cores, placement, warnings = places(same_core)
    fit = machine.fit(largest_kib, bytes_each=2 * 4 * SLOTS * KIB)
    sizes = _message_sizes(fit.count * KIB)
    kinds = ("trip",) if over in BETWEEN_THREADS else ("trip", "pour")
    counts: dict[str, list[int]] = in_fresh_process(lambda: _message_counts(over, cores, sizes, kinds))
    samples = []
    for done in range(repeats):
        samples.append(in_fresh_process(lambda: _message_samples(over, cores, sizes, counts)))
        progress.report(done + 1, repeats)

    def figures(kind: str, unit: str) -> tuple[Estimate, ...]:
        return tuple(estimate([each[kind][index] for each in samples], unit) for index in range(len(sizes)))

    return MessageCost(
        over=over,
        between="threads" if over in BETWEEN_THREADS else "processes",
        sizes=sizes,
        round_trip=figures("trip", "µs"),
        throughput=figures("pour", "MB/s") if "pour" in kinds else None,
        placement=placement,
        subtracted="nothing",
        warnings=(*warnings, *((f"KiB of the largest message: {fit.reason}",) if fit.reason else ())),
    )


MESSAGE_BATCH_NS = 5_000_000
MESSAGE_ROUNDS = 3

Cores = tuple[int | None, int | None]


def _message_sizes(largest: int) -> tuple[int, ...]:
    """From 64 bytes in steps of 4 up to `largest`."""
    sizes = [64]
    while sizes[-1] * 4 <= largest:
        sizes.append(sizes[-1] * 4)
    return (*sizes, largest) if sizes[-1] < largest else tuple(sizes)


def _message_counts(over: str, cores: Cores, sizes: tuple[int, ...], kinds: tuple[str, ...]) -> dict[str, list[int]]:
    """How many messages make a batch, by kind and size."""
    with _conversation(over, cores, sizes) as talk:

        def quickest_of_two(kind: str, size: int, count: int) -> int:  # or one interruption would end the search
            return min(getattr(talk, kind)(size, count) for _ in range(2))

        return {
            kind: [measure.batch_size(partial(quickest_of_two, kind, size), MESSAGE_BATCH_NS) for size in sizes]
            for kind in kinds
        }


def _message_samples(
    over: str, cores: Cores, sizes: tuple[int, ...], counts: dict[str, list[int]]
) -> dict[str, list[float]]:
    """One pair's figures by size: round trips in µs and throughputs in MB/s."""
    with _conversation(over, cores, sizes) as talk:
        for size in sizes:
            talk.verify(size)
        conditions = {
            f"{kind} {size}": partial(getattr(talk, kind), size, count)
            for kind in counts
            for size, count in zip(sizes, counts[kind], strict=True)
        }
        taken = measure.interleave(conditions, MESSAGE_ROUNDS, report=False)

    def figure(kind: str, size: int, count: int) -> float:
        ns = median(taken[f"{kind} {size}"])
        return ns / count / 1000 if kind == "trip" else size * count / ns * 1000

    return {
        kind: [figure(kind, size, count) for size, count in zip(sizes, counts[kind], strict=True)] for kind in counts
    }


# Two contexts in conversation


def _echo(end: End, count: int) -> int:
    send, receive = end.send, end.receive
    for _ in range(count):
        send(receive())
    return 0


def _drain(end: End, count: int) -> int:
    receive = end.receive
    for _ in range(count):
        receive()
    return 0


def _checksum(end: End, count: int) -> int:
    """Of so many messages, in the order in which they came."""
    from zlib import crc32

    found = 0
    for _ in range(count):
        found = crc32(end.receive(), found)
    return found


ANSWERS: dict[bytes, Callable[[End, int], int]] = {b"e": _echo, b"d": _drain, b"c": _checksum}
ORDER = struct.Struct("cqq")  # which answer, size of the message, how many
REPORT = struct.Struct("q")


class Conversation:
    """Our side, and the orders and reports by which the other side is told what to do."""

    def __init__(self, ends: dict[int, End], streams: bool, orders: int, reports: int) -> None:
        self._ends, self._streams = ends, streams
        self._orders, self._reports = orders, reports

    def trip(self, size: int, count: int) -> int:
        """Nanoseconds for so many round trips of a message of that size."""
        message = os.urandom(size)
        send, receive = self._ends[size].send, self._ends[size].receive
        self._order(b"e", size, count)
        begin = time.perf_counter_ns()
        for _ in range(count):
            send(message)
            answer = receive()
        spent = time.perf_counter_ns() - begin
        self._report()
        if bytes(answer) != message:
            raise RuntimeError("a message came back changed")
        return spent

    def pour(self, size: int, count: int) -> int:
        """Nanoseconds until so many messages, sent one after another, have all arrived."""
        message = os.urandom(size)
        send = self._ends[size].send
        self._order(b"d", size, count)
        begin = time.perf_counter_ns()
        for _ in range(count):
            send(message)
        self._report()
        return time.perf_counter_ns() - begin

    def verify(self, size: int) -> None:
        """Different messages arrive complete and in order. Raises `RuntimeError` if they don't."""
        from zlib import crc32

        messages = [os.urandom(size) for _ in range(SLOTS + 1)]
        for together in [messages] if self._streams else [[message] for message in messages]:
            self._order(b"c", size, len(together))
            for message in together:
                self._ends[size].send(message)
            if self._report() != crc32(b"".join(together)):
                raise RuntimeError("messages arrived changed or out of order")

    def _order(self, answer: bytes, size: int, count: int) -> None:
        os.write(self._orders, ORDER.pack(answer, size, count))

    def _report(self) -> int:
        report = os.read(self._reports, REPORT.size)
        if not report:
            raise RuntimeError("the other side is gone")
        return int(REPORT.unpack(report)[0])


@contextmanager
def _conversation(over: str, cores: Cores, sizes: tuple[int, ...]) -> Iterator[Conversation]:
    """Two contexts on those cores with a channel between them; the other one ends when its orders do."""
    channel = CHANNELS[over](max(sizes))
    orders, reports = os.pipe(), os.pipe()
    theirs = (orders[0], reports[1], *channel.their_files)
    ours = (orders[1], reports[0], *channel.our_files)

    def other_side() -> None:
        pin(cores[1])
        ends = {size: channel.theirs(size) for size in sizes}
        os.write(reports[1], REPORT.pack(0))  # ready
        while order := os.read(orders[0], ORDER.size):
            answer, size, count = ORDER.unpack(order)
            os.write(reports[1], REPORT.pack(ANSWERS[answer](ends[size], count)))
        if over not in BETWEEN_THREADS:
            channel.close()

    start = start_thread if over in BETWEEN_THREADS else start_process
    join = start(other_side, theirs, ours)
    try:
        pin(cores[0])
        talk = Conversation(
            {size: channel.ours(size) for size in sizes}, over not in BETWEEN_THREADS, orders[1], reports[0]
        )
        talk._report()
        yield talk
    finally:
        close_all(ours)
        join()
        channel.close()


# Lost updates


@dataclass(frozen=True, kw_only=True)
class LostUpdates(Record):
    """Updates lost in % of those made, and nanoseconds per update, by way of updating."""

    headline_name: ClassVar[str] = "lost in steps"

    threads: int
    lost: dict[str, Estimate]  # by way, in the order of `WAYS`
    update: dict[str, Estimate]  # ns per update, all threads together, in steps: "no lock", "own lock", "shared lock"
    lock: Estimate  # ns that a lock adds to an update while nobody else wants it

    def figures(self) -> dict[str, Estimate]:
        return {f"lost {way}": lost for way, lost in self.lost.items()} | {"one thread's lock": self.lock}


@experiment(seconds=3)
def lost_updates(
    *,
    threads: Annotated[int, Between(2, 16)] = 2,
    seconds_each: Annotated[float, Between(0.02, 2)] = 0.1,
    repeats: Annotated[int, Between(5, 50)] = 5,
) -> LostUpdates:
    """Updates that get lost when threads count on one counter, in %, and what a lock costs, in ns.

    All threads add 1 to the same attribute for `seconds_each`: in one line of Python (`counter.value += 1`), in steps
    with a call in between, and in the same steps under a lock. What the counter lacks at the end of the updates that
    were made is lost. One thread alone gives the price of the steps, and of a lock that nobody else wants.
    """
    fit = machine.fit(threads, at_least=2, threads_each=1)
    conditions = {way: partial(race, way, fit.count, seconds_each) for way in WAYS}
    alone = {f"{way}, alone": partial(race, way, 1, seconds_each) for way in ("in steps", "locked")}
    races = measure.interleave(conditions | alone, repeats)
    lost = {way: estimate([100 * (1 - each.counted / each.expected) for each in races[way]], "%") for way in WAYS}
    if any(lost["locked"].samples):
        raise RuntimeError("updates were lost under a lock: this interpreter's locks do not lock")
    spent = {name: [each.seconds / each.expected * 1e9 for each in run] for name, run in races.items()}
    return LostUpdates(
        threads=fit.count,
        lost=lost,
        update={
            "no lock": estimate(spent["in steps, alone"], "ns"),
            "own lock": estimate(spent["locked, alone"], "ns"),
            "shared lock": estimate(spent["locked"], "ns"),
        },
        lock=difference(spent["locked, alone"], spent["in steps, alone"], "ns"),
        placement=free(),
        subtracted="nothing from the shares; from the lock's price the same steps without it",
        warnings=(
            *((f"threads: {fit.reason}",) if fit.reason else ()),
            *(
                f"{way}: no update was lost, so the race is not observed on this interpreter"
                for way in ("one line", "in steps")
                if not any(lost[way].samples)
            ),
        ),
    )


class Counter:
    """What all threads count on."""

    def __init__(self) -> None:
        self.value = 0


class Race(NamedTuple):
    """What a race came to: updates that were made, updates that are in the counter, and how long it took."""

    expected: int
    counted: int
    seconds: float


def race(way: str, threads: int, seconds: float) -> Race:
    """Let so many threads count on one counter for that long, in one of `WAYS`.

    Nothing but the standard library, and nothing that needs a GIL or its absence.
    """
    counter, lock, together = Counter(), threading.Lock(), threading.Barrier(threads + 1)
    made: list[int] = []
    update = WAYS[way]

    def main() -> None:
        together.wait()
        end = time.perf_counter() + seconds
        updates = 0
        while time.perf_counter() < end:
            update(counter, lock, UPDATES_AT_ONCE)
            updates += UPDATES_AT_ONCE
        made.append(updates)

    racers = [threading.Thread(target=main) for _ in range(threads)]
    for racer in racers:
        racer.start()
    together.wait()
    start = time.perf_counter()
    for racer in racers:
        racer.join()
    return Race(sum(made), counter.value, time.perf_counter() - start)


UPDATES_AT_ONCE = 1000  # between two looks at the clock


def _one_line(counter: Counter, lock: threading.Lock, updates: int) -> None:
    for _ in range(updates):
        counter.value += 1


def _plus_one(value: int) -> int:
    return value + 1


def _in_steps(counter: Counter, lock: threading.Lock, updates: int) -> None:
    for _ in range(updates):
        value = counter.value
        value = _plus_one(value)  # whoever runs meanwhile reads the same old value
        counter.value = value


def _locked(counter: Counter, lock: threading.Lock, updates: int) -> None:
    for _ in range(updates):
        with lock:
            value = counter.value
            value = _plus_one(value)
            counter.value = value


WAYS: dict[str, Callable[[Counter, threading.Lock, int], None]] = {
    "one line": _one_line,
    "in steps": _in_steps,
    "locked": _locked,
}
