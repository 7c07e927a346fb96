"""What the GIL, CPython's one lock around the interpreter, does to threads, and life without it (notebook 04).

Who holds it is read off the time stamps of threads that look at the clock all the time (`helpers.timeline`). Standard
library alone, `speedup_by_work` with numpy excepted: the same file runs under every interpreter on the machine.
"""

from __future__ import annotations

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from helpers import machine, measure, progress, timeline
from helpers.contexts import compute, free, sleep_until, start_process, start_thread
from helpers.measure import KIB, MIB, Estimate, difference, estimate, median
from helpers.record import Record
from helpers.registry import Between, Unavailable, experiment

MS = 1e-6  # nanoseconds to milliseconds
US = 1e-3  # nanoseconds to microseconds

NO_GIL = "this interpreter has no GIL"


def _has_gil() -> bool:
    return machine.python_facts()["gil"] is not False


@contextmanager
def _switch_interval(seconds: float) -> Iterator[None]:
    """Have a waiting thread ask for the GIL after that long."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


# Workers that begin together

HEAD_START_NS = {"thread": 1_000_000, "process": 5_000_000}  # each: a fork takes 2 to 3 ms

Start = Callable[[Callable[[], int]], Callable[[], int]]


def _in_thread(run: Callable[[], int]) -> Callable[[], int]:
    """Call `run` in a thread; what waits for it and gives its result."""
    results: list[int] = []
    wait = start_thread(lambda: results.append(run()))

    def join() -> int:
        wait()
        if not results:
            raise RuntimeError("a worker thread did not come to its end")
        return results[0]

    return join


def _in_process(run: Callable[[], int]) -> Callable[[], int]:
    """The same in a process, a fork of this one."""
    read_end, write_end = os.pipe()
    wait = start_process(lambda: os.write(write_end, run().to_bytes(8, "little")), [write_end], [read_end])

    def join() -> int:
        answer = os.read(read_end, 8)
        os.close(read_end)
        wait()
        if not answer:
            raise RuntimeError("a worker process did not come to its end")
        return int.from_bytes(answer, "little")

    return join


def _wall_ns(kind: str, runs: Sequence[Callable[[], object]]) -> int:
    """Nanoseconds until the last of these is done, each run by a worker of its own, all begun at one moment."""
    begin = time.perf_counter_ns() + HEAD_START_NS[kind] * (len(runs) + 1)

    def work(run: Callable[[], object]) -> int:
        sleep_until(begin)
        run()
        return time.perf_counter_ns()

    start = _in_thread if kind == "thread" else _in_process
    joins = [start(partial(work, run)) for run in runs]
    return max(join() for join in joins) - begin


def _watch(threads: int, length_ns: int) -> tuple[list[list[timeline.Slice]], int]:
    """When each of some computing threads really ran in that time, and the CPU time in ns that they used."""
    begin = time.perf_counter_ns() + HEAD_START_NS["thread"] * (threads + 1)
    found: list[list[timeline.Slice]] = [[] for _ in range(threads)]

    def main(place: int) -> int:
        sleep_until(begin)
        before = time.thread_time_ns()
        found[place] = timeline.slices(begin + length_ns, GAP_NS)
        return time.thread_time_ns() - before

    joins = [_in_thread(partial(main, place)) for place in range(threads)]
    return found, sum(join() for join in joins)


GAP_NS = 50_000  # a thread that lost the GIL is without it for longer: for two hand-offs and the turn in between


# Watching it change hands


@dataclass(frozen=True, kw_only=True)
class Handoffs(Record):
    """Who held the GIL when, and for how long.

    `turns` are those of the first run: (thread, begin, end), in ms since the first began. The estimates are over
    runs, one median each. Without a GIL nothing is held: there the holding time means nothing, and says so.
    """

    headline_name: ClassVar[str] = "holding time"

    gil: bool
    threads: int
    interval_ms: float
    turns: tuple[tuple[int, float, float], ...]
    holding: Estimate  # ms
    against_interval: Estimate  # holding time over switch interval
    gap: Estimate | None  # µs, from the last sign of one holder to the first of the next
    overlap: Estimate  # share of the time in which two or more ran at once
    accounted: Estimate  # the turns put together over the threads' CPU time

    def figures(self) -> dict[str, Estimate]:
        found = {"holding time": self.holding, "overlap": self.overlap, "turns to CPU time": self.accounted}
        if self.gil:
            found["holding time to switch interval"] = self.against_interval
        return found | ({"hand-off": self.gap} if self.gap else {})


@experiment(seconds=1.5, wants=[machine.two_cores])
def handoffs(
    interval_ms: Annotated[float, Between(0.1, 50)] = 5.0,
    *,
    threads: Annotated[int, Between(2, 8)] = 2,
    turns: Annotated[int, Between(10, 60)] = 30,
    repeats: Annotated[int, Between(5, 15)] = 7,
) -> Handoffs:
    """How long a computing thread holds the GIL when others want it, in ms, by switch interval.

    Some threads compute and look at the clock all the time, for as long as `turns` switch intervals (but at least
    20 ms). A gap of more than 50 µs in what a thread saw means that it did not run; what one thread saw with nobody in
    between is a turn. The first and the last turn are cut off by the measurement and not counted.
    """
    has_gil = _has_gil()
    fit = machine.fit(threads, at_least=2, threads_each=1)
    runs = []
    with _switch_interval(interval_ms / 1e3), measure.no_garbage_collection():
        for done in range(repeats):
            runs.append(_handoffs_of(fit.count, max(SHORTEST_NS, int(turns * interval_ms / MS))))
            progress.report(done + 1, repeats)
    void = () if has_gil else (f"{NO_GIL}: nothing is held",)
    holding = estimate([run.holding_ns * MS for run in runs], "ms", warnings=void)
    gaps = [run.gap_ns * US for run in runs if run.gap_ns is not None]
    begin = min((begin for _, begin, _ in runs[0].turns), default=0)
    return Handoffs(
        gil=has_gil,
        threads=fit.count,
        interval_ms=interval_ms,
        turns=tuple((thread, (first - begin) * MS, (last - begin) * MS) for thread, first, last in runs[0].turns),
        holding=holding,
        against_interval=holding.scaled(1 / interval_ms, "x"),
        gap=estimate(gaps, "µs") if gaps and has_gil else None,
        overlap=estimate([run.overlap for run in runs], "share"),
        accounted=estimate([run.accounted for run in runs], "x"),
        placement=free(),
        subtracted="nothing",
        warnings=tuple(word for word in (fit.reason, *void, *_unlike_a_gil(has_gil, runs, interval_ms / MS)) if word),
    )


SHORTEST_NS = 20_000_000  # of a run: on a busy machine a thread may have to wait that long for its first core


class Watched(NamedTuple):
    """What one run came to."""

    turns: list[tuple[int, int, int]]
    holding_ns: float
    gap_ns: float | None
    overlap: float
    accounted: float


def _handoffs_of(threads: int, length_ns: int) -> Watched:
    by_thread, cpu_ns = _watch(threads, length_ns)
    turns = timeline.turns(by_thread)
    whole = turns[1:-1] or turns
    gaps = [begin - end for (_, _, end), (_, begin, _) in pairwise(turns)]
    return Watched(
        turns=turns,
        holding_ns=median([end - begin for _, begin, end in whole] or [0]),
        gap_ns=median(gaps) if gaps else None,
        overlap=timeline.overlap(by_thread),
        accounted=sum(end - begin for _, begin, end in turns) / max(cpu_ns, 1),
    )


def _unlike_a_gil(has_gil: bool, runs: Sequence[Watched], interval_ns: float) -> Iterator[str]:
    """What a GIL should have shown, and this run did not."""
    if not has_gil:
        return
    if min(len(run.turns) for run in runs) < 3:
        yield "not observed here: the GIL did not change hands in every run"
    if max(run.overlap for run in runs) > 0.01:
        yield "not observed here: threads ran at once in spite of the GIL"
    if median([run.holding_ns for run in runs]) > LONG * interval_ns:
        yield "turns outlast the switch interval: who waits for the GIL needs a core, too, before it can ask for it"


LONG = 1.5  # at intervals of 1 ms and less the hand-off itself makes turns up to a third longer


# Computing and waiting

Work = Literal["pure-python", "waiting", "sha256", "sha256-small", "zlib", "numpy"]

WAIT_S = 0.005
SMALL = 1000  # bytes; hashlib lets go of the GIL from 2,048 on
ONE_BLAS_THREAD = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@dataclass(frozen=True, kw_only=True)
class SpeedupByWork(Record):
    """How many times the work of one gets done by some workers in the same time, by threads and by processes."""

    headline_name: ClassVar[str] = "threads"

    gil: bool
    work: str
    workers: int
    threads: Estimate  # the speed-ups
    processes: Estimate
    thread_alone: Estimate  # ms, for one worker's share
    threads_together: Estimate  # ms, until the last of them had done a share each
    process_alone: Estimate
    processes_together: Estimate

    def figures(self) -> dict[str, Estimate]:
        return {"threads": self.threads, "processes": self.processes}


@experiment(
    seconds=3,
    claims=["python-threads-cpu", "python-threads-io", "python-multiprocessing-only"],
    needs=[machine.fork],
    wants=[machine.two_cores],
)
def speedup_by_work(
    work: Work = "pure-python",
    *,
    workers: Annotated[int, Between(2, 16)] = 2,
    batch_ms: Annotated[int, Between(5, 500)] = 40,
    repeats: Annotated[int, Between(5, 30)] = 11,
) -> SpeedupByWork:
    """Work done by some workers in the time of one, as a multiple: by threads, and by processes.

    Every worker does the same share, about `batch_ms` of it. Speed-up = workers x (time of one alone, in a worker
    thread or process as well) / (time until the last of all together is done). A sha256 of 1 MiB and zlib of 256 KiB
    let go of the GIL, a sha256 of 1,000 bytes does not; numpy multiplies matrices with BLAS held to one thread.
    """
    run = _prepared(work)
    count = measure.batch_size(lambda count: measure.timed(partial(run, count)), batch_ms * 1_000_000)
    each = 64 * MIB if work == "numpy" else 16 * MIB  # BLAS has buffers for each thread
    by_kind = ({"threads_each": 1}, {"processes_each": 1, "descriptors_each": 1})
    fits = [machine.fit(workers, at_least=2, bytes_each=each, **kind) for kind in by_kind]
    fit = min(fits, key=lambda fit: fit.count)
    share = partial(run, count)
    conditions: dict[str, Callable[[], int]] = {
        "thread": partial(_wall_ns, "thread", [share]),
        "threads": partial(_wall_ns, "thread", [share] * fit.count),
        "process": partial(_wall_ns, "process", [share]),
        "processes": partial(_wall_ns, "process", [share] * fit.count),
    }
    cores_of_one = _cores_used(share)
    taken = measure.interleave(conditions, repeats)
    thread, threads, process, processes = taken.values()
    by_threads, by_processes = _speedup(fit.count, thread, threads), _speedup(fit.count, process, processes)
    return SpeedupByWork(
        gil=_has_gil(),
        work=work,
        workers=fit.count,
        threads=by_threads,
        processes=by_processes,
        thread_alone=_milliseconds(thread),
        threads_together=_milliseconds(threads),
        process_alone=_milliseconds(process),
        processes_together=_milliseconds(processes),
        placement=free(),
        subtracted="nothing: a worker alone begins as they do together",
        warnings=tuple(_speedup_warnings(fit.reason, cores_of_one, by_processes)),
    )


def _speedup(workers: int, alone: Sequence[float], together: Sequence[float]) -> Estimate:
    return measure.ratio([workers * time for time in alone], together)


def _milliseconds(nanoseconds: Sequence[float]) -> Estimate:
    return estimate(nanoseconds, "ns").scaled(MS, "ms")


def _speedup_warnings(scaled: str | None, cores_of_one: float, processes: Estimate) -> Iterator[str]:
    if scaled:
        yield f"workers: {scaled}"
    if not _has_gil():
        yield NO_GIL
    if cores_of_one > 1.2:
        yield f"one worker alone used {cores_of_one:.1f} cores, so what it calls has threads of its own"
    if processes.high < 1.2:
        yield "not observed here: processes gained nothing either, so the cores were not free"


def _cores_used(run: Callable[[], object]) -> float:
    """CPU time of the whole process over the wall clock."""
    before = time.process_time_ns()
    wall = measure.timed(run)
    return (time.process_time_ns() - before) / wall


def _prepared(work: str) -> Callable[[int], object]:
    """What does so many pieces of that work. Raises `Unavailable` where this interpreter cannot."""
    if work == "pure-python":
        return compute
    piece = _piece(work)

    def run(count: int) -> None:
        for _ in range(count):
            piece()

    return run


def _piece(work: str) -> Callable[[], object]:
    if work == "waiting":
        return partial(time.sleep, WAIT_S)
    if work == "numpy":
        return _product()
    if work == "zlib":
        import zlib
        from random import Random

        return partial(zlib.compress, Random(1).randbytes(64 * KIB) * 4)
    import hashlib

    return partial(hashlib.sha256, bytes(MIB if work == "sha256" else SMALL))


def _product() -> Callable[[], object]:
    """A product of two matrices of 256 x 256. BLAS reads how many threads it may have when it is loaded."""
    os.environ.update(dict.fromkeys(ONE_BLAS_THREAD, "1"))
    try:
        numpy: Any = importlib.import_module("numpy")
    except ImportError:
        raise Unavailable("work=numpy needs numpy: `python -m pip install numpy`, or choose other work") from None
    matrix = numpy.ones((256, 256))
    return partial(numpy.matmul, matrix, matrix)


# The convoy


@dataclass(frozen=True, kw_only=True)
class Convoy(Record):
    """How late a thread learns that a message is there: alone, and beside threads that compute.

    Milliseconds from just before the sender's `write` to just after the receiver's `read`. `idle` and `beside` are
    typical (the median of a run), the others the slowest of a run; the estimates are over runs.
    """

    headline_name: ClassVar[str] = "beside computing threads"

    gil: bool
    interval_ms: float
    threads: int
    idle: Estimate
    beside: Estimate
    added: Estimate  # beside less idle
    slowest_idle: Estimate
    slowest_beside: Estimate

    def figures(self) -> dict[str, Estimate]:
        return {
            "beside computing threads": self.beside,
            "idle": self.idle,
            "added": self.added,
            "slowest beside": self.slowest_beside,
            "slowest idle": self.slowest_idle,
        }


@experiment(seconds=2, needs=[machine.fork], wants=[machine.two_cores])
def convoy(
    interval_ms: Annotated[float, Between(0.1, 50)] = 5.0,
    *,
    threads: Annotated[int, Between(1, 4)] = 1,
    messages: Annotated[int, Between(4, 50)] = 12,
    repeats: Annotated[int, Between(5, 15)] = 5,
) -> Convoy:
    """How late a thread that waits for a message is told, beside threads that compute, in ms, by switch interval.

    Another process sends `messages` time stamps through a pipe, some two switch intervals apart and at random
    (right after a message the receiver still has the GIL, and a tight echo would see no convoy). Runs with and without
    computing threads take turns. After Beazley, "Understanding the Python GIL", PyCon 2010.
    """
    fit = machine.fit(threads, threads_each=1)
    with _sender(interval_ms / 1e3 * (1 + fit.count)) as receive, _switch_interval(interval_ms / 1e3):

        def beside() -> list[float]:
            with _computing(fit.count):
                return receive(messages)

        conditions: dict[str, Callable[[], list[float]]] = {"idle": partial(receive, messages), "beside": beside}
        taken = measure.interleave(conditions, repeats)
    typical = {name: [median(run) * MS for run in runs] for name, runs in taken.items()}
    slowest = {name: estimate([max(run) * MS for run in runs], "ms") for name, runs in taken.items()}
    idle, late = estimate(typical["idle"], "ms"), estimate(typical["beside"], "ms")
    return Convoy(
        gil=_has_gil(),
        interval_ms=interval_ms,
        threads=fit.count,
        idle=idle,
        beside=late,
        added=difference(typical["beside"], typical["idle"], "ms"),
        slowest_idle=slowest["idle"],
        slowest_beside=slowest["beside"],
        placement=free(),
        subtracted="nothing; the same without computing threads stands beside it",
        warnings=tuple(_convoy_warnings(fit.reason, idle, late)),
    )


def _convoy_warnings(scaled: str | None, idle: Estimate, beside: Estimate) -> Iterator[str]:
    if scaled:
        yield f"threads: {scaled}"
    if not _has_gil():
        yield NO_GIL
    elif beside.low <= idle.high:
        yield "not observed here: beside computing threads messages were hardly later than without"


@contextmanager
def _computing(threads: int) -> Iterator[None]:
    """So many threads that compute meanwhile."""
    done = threading.Event()

    def main() -> int:
        while not done.is_set():
            compute(1000)
        return 0

    joins = [_in_thread(main) for _ in range(threads)]
    try:
        yield
    finally:
        done.set()
        for join in joins:
            join()


@contextmanager
def _sender(mean_pause_s: float) -> Iterator[Callable[[int], list[float]]]:
    """A process that sends time stamps on demand; what asks for so many and gives the latency of each in ns."""
    orders, stamps = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(orders[1])
            _send_stamps(orders[0], stamps[1], mean_pause_s)
        finally:
            os._exit(0)
    os.close(orders[0])
    os.close(stamps[1])

    def receive(count: int) -> list[float]:
        os.write(orders[1], (count + 1).to_bytes(8, "little"))
        return [_late_by(stamps[0]) for _ in range(count + 1)][1:]  # the first wakes everybody up

    try:
        yield receive
    finally:
        os.close(orders[1])
        os.close(stamps[0])
        os.waitpid(child, 0)


def _late_by(stamps: int) -> float:
    sent = os.read(stamps, 8)
    now = time.perf_counter_ns()
    if not sent:
        raise RuntimeError("the sender is gone")
    return now - int.from_bytes(sent, "little")


def _send_stamps(orders: int, stamps: int, mean_pause_s: float) -> None:
    from random import Random

    pauses = Random(1)
    while order := os.read(orders, 8):
        for _ in range(int.from_bytes(order, "little")):
            time.sleep(0.001 + mean_pause_s * pauses.uniform(0.75, 1.25))
            os.write(stamps, time.perf_counter_ns().to_bytes(8, "little"))


# Life without it


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """What one interpreter's threads can do, and what its single thread takes.

    The speed-ups are those of two workers that compute in pure Python.
    """

    version: str
    gil: bool
    free_threaded: bool  # how it was built; the GIL can be on nevertheless
    optimised: bool | None  # built with --enable-optimizations; None where the build doesn't say
    threads: Estimate  # speed-up
    subinterpreters: Estimate | None  # speed-up; None before 3.12, where they share one GIL
    overlap: Estimate  # share of the time in which both of two computing threads ran
    step: Estimate  # ns of CPU time per step of everyday Python, see `_everyday`
    thread_start: Estimate  # µs to start a thread and join it
    lost_in_one_line: Estimate  # % of the updates that two threads made of one number
    lost_in_steps: Estimate

    @property
    def minor(self) -> tuple[int, ...]:
        """(3, 13) of 3.13.1."""
        return _minor(self.version)

    @property
    def name(self) -> str:
        """3.13, and 3.13t for a free-threaded build, as their programs are called."""
        return ".".join(map(str, self.minor)) + ("t" if self.free_threaded else "")


@dataclass(frozen=True, kw_only=True)
class ThisInterpreter(Record):
    """What the interpreter that ran it can do."""

    headline_name: ClassVar[str] = "speed-up of threads"

    interpreter: Interpreter

    def figures(self) -> dict[str, Estimate]:
        found = {
            "speed-up of threads": self.interpreter.threads,
            "overlap": self.interpreter.overlap,
            "step": self.interpreter.step,
            "thread start": self.interpreter.thread_start,
            "lost in one line": self.interpreter.lost_in_one_line,
            "lost in steps": self.interpreter.lost_in_steps,
        }
        apart = self.interpreter.subinterpreters
        return found | ({"speed-up of subinterpreters": apart} if apart else {})


@experiment(seconds=4, wants=[machine.two_cores])
def this_interpreter(
    *,
    batch_ms: Annotated[int, Between(5, 500)] = 40,
    repeats: Annotated[int, Between(5, 30)] = 7,
) -> ThisInterpreter:
    """What this interpreter's threads can do: speed-up, overlap, lost updates, and the time of a single thread.

    Two workers compute in pure Python, as threads and as subinterpreters, against one of them alone. A step is a mix of
    everyday Python by one thread, in CPU time. Updates are lost as in `processes_and_threads.race`. All of it takes
    turns, in batches of some `batch_ms`.
    """
    batch_ns = batch_ms * 1_000_000
    computing = measure.batch_size(lambda steps: measure.timed(partial(compute, steps)), batch_ns)
    stepping = measure.batch_size(_everyday_ns, batch_ns)
    with _subinterpreters(2) as interpreters:
        apart = [partial(run, f"compute({computing})") for run in interpreters]
        conditions: dict[str, Callable[[], float]] = {
            "thread": lambda: _wall_ns("thread", [partial(compute, computing)]),
            "threads": lambda: _wall_ns("thread", [partial(compute, computing)] * 2),
            "overlap": lambda: timeline.overlap(_watch(2, batch_ns)[0]),
            "step": lambda: _everyday_ns(stepping) / stepping,
            "thread start": _thread_start_us,
            "one line": lambda: _lost("one line", 2 * batch_ms / 1e3),
            "in steps": lambda: _lost("in steps", 2 * batch_ms / 1e3),
        }
        if apart:
            conditions["subinterpreter"] = lambda: _wall_ns("thread", apart[:1])
            conditions["subinterpreters"] = lambda: _wall_ns("thread", apart)
        taken = measure.interleave(conditions, repeats)
    facts = machine.python_facts()
    has_gil, overlap = _has_gil(), estimate(taken["overlap"], "share")
    shared = None if apart else "before Python 3.12 subinterpreters share one GIL: not measured"
    return ThisInterpreter(
        interpreter=Interpreter(
            version=str(facts["python_version"]),
            gil=has_gil,
            free_threaded=bool(facts["free_threaded_build"]),
            optimised=_optimised(),
            threads=_speedup(2, taken["thread"], taken["threads"]),
            subinterpreters=_speedup(2, taken["subinterpreter"], taken["subinterpreters"]) if apart else None,
            overlap=overlap,
            step=estimate(taken["step"], "ns"),
            thread_start=estimate(taken["thread start"], "µs"),
            lost_in_one_line=estimate(taken["one line"], "%"),
            lost_in_steps=estimate(taken["in steps"], "%"),
        ),
        placement=free(),
        subtracted="nothing",
        warnings=tuple(word for word in (shared, _unlike_free_threads(has_gil, overlap)) if word),
    )


def _unlike_free_threads(has_gil: bool, overlap: Estimate) -> str | None:
    if has_gil or overlap.median > 0.5:
        return None
    return "not observed here: there is no GIL, but the two threads hardly ran at once, so the cores were not free"


class Point:
    """Something with an attribute and a method."""

    def __init__(self) -> None:
        self.x = 0

    def moved(self, by: int) -> int:
        self.x += by
        return self.x


def _everyday(steps: int) -> int:
    """Per step: whole numbers, a method call, an attribute read and written, items of a list and of a dictionary."""
    point, row, by_key, total = Point(), [0] * 64, {}, 0
    for number in range(steps):
        place = number & 63
        row[place] = point.moved(number & 7)
        by_key[place] = row[place - 1]
        total += by_key[place]
    return total


def _everyday_ns(steps: int) -> int:
    """Nanoseconds of CPU time: other programs do not disturb it."""
    start = time.thread_time_ns()
    _everyday(steps)
    return time.thread_time_ns() - start


def _thread_start_us(threads: int = 20) -> float:
    return measure.timed(lambda: [_in_thread(int)() for _ in range(threads)]) / threads * US


def _lost(way: str, seconds: float) -> float:
    """Percent of the updates that two threads lose."""
    from helpers.experiments.processes_and_threads import race

    ended = race(way, 2, seconds)
    return 100 * (1 - ended.counted / ended.expected)


COMPUTE = """
def compute(steps):
    total = 0
    for number in range(steps):
        total += number
"""


@contextmanager
def _subinterpreters(count: int) -> Iterator[list[Callable[[str], None]]]:
    """Interpreters with a GIL each in this process: what runs a text in each. None before Python 3.12."""
    if sys.version_info < (3, 12):
        yield []
        return
    made = [_subinterpreter() for _ in range(count)]
    try:
        for run, _ in made:
            run(COMPUTE)
        yield [run for run, _ in made]
    finally:
        for _, close in made:
            close()


def _subinterpreter() -> tuple[Callable[[str], None], Callable[[], object]]:
    """What runs a text in a new interpreter, and what ends it. Public since Python 3.14 (PEP 734)."""
    if sys.version_info >= (3, 14):
        public: Any = importlib.import_module("concurrent.interpreters").create()
        return public.exec, public.close
    private: Any = importlib.import_module("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    name = private.create()

    def run(text: str) -> None:
        if failure := private.run_string(name, text):  # 3.12 raises instead
            raise RuntimeError(f"in a subinterpreter: {failure.formatted}")

    return run, partial(private.destroy, name)


def _optimised() -> bool | None:
    import sysconfig

    configured = sysconfig.get_config_var("CONFIG_ARGS")
    return None if configured is None else "--enable-optimizations" in configured


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


# The same under every interpreter


@dataclass(frozen=True, kw_only=True)
class AcrossInterpreters(Record):
    """`this_interpreter` under the Pythons of this machine, the one that runs the series first."""

    headline_name: ClassVar[str] = "speed-up of threads, this Python"

    interpreters: tuple[Interpreter, ...]

    def figures(self) -> dict[str, Estimate]:
        found = {self.headline_name: self.interpreters[0].threads}
        for one in self.without_gil():
            found[f"speed-up of threads, {one.name}"] = one.threads
            if price := self.price(one):
                found[f"time of one thread, {one.name}"] = price
        return found

    def without_gil(self) -> list[Interpreter]:
        """Those that ran without a GIL."""
        return [one for one in self.interpreters if not one.gil]

    def price(self, one: Interpreter) -> Estimate | None:
        """A single thread's time without the GIL over that with it; None without a build to compare it with."""
        twin = self.twin(one)
        return measure.ratio(one.step.samples, twin.step.samples) if twin and not one.gil else None

    def twin(self, one: Interpreter) -> Interpreter | None:
        """The build with a GIL of the same minor version, if both are optimised alike."""
        alike = (other for other in self.interpreters if other.gil and not other.free_threaded)
        return next((other for other in alike if (other.minor, other.optimised) == (one.minor, one.optimised)), None)


@experiment(seconds=18, wants=[machine.two_cores, machine.free_threaded])
def across_interpreters(
    *,
    most: Annotated[int, Between(1, 8)] = 8,
    batch_ms: Annotated[int, Between(5, 100)] = 40,
    repeats: Annotated[int, Between(5, 15)] = 7,
) -> AcrossInterpreters:
    """The same experiment under every Python from 3.11 on that this machine has: with the GIL, and without.

    Of each minor version the newest with the GIL and the newest free-threaded build, `most` in all, each in a process
    of its own, one after another. Only the steps of a single thread take turns in all of them, so that what it
    pays for going without the GIL does not depend on the minute; it is read off two builds of one version.
    """
    this, *others = _chosen(_this(), machine.interpreters(), most)
    sizes = {"batch_ms": batch_ms, "repeats": repeats}
    found = {this.path: _under(this, **sizes)}
    warnings = []
    deadline = time.monotonic() + LONGEST_S
    for done, one in enumerate(others):
        progress.report(done + 1, len(others) + 2)
        try:
            found[one.path] = _under(one, **sizes, seconds=deadline - time.monotonic())
        except Exception as error:  # a broken one does not take the others with it
            words = str(error).partition("\n")[0] or type(error).__name__
            warnings.append(f"Python {one.version} left out: {words}")
    steps = measure.batch_size(_everyday_ns, batch_ms * 1_000_000 // 4)
    taken = _taking_turns(list(found), steps, TURNS * repeats)
    progress.report(1, 1)
    rows = [replace(row, step=estimate(samples, "ns")) for row, samples in zip(found.values(), taken, strict=True)]
    record = AcrossInterpreters(interpreters=tuple(rows), placement=free(), subtracted="nothing")
    return replace(record, warnings=(*warnings, *_remarks(record)))


LONGEST_S = 30.0
TURNS = 5  # of each interpreter, per repeat


def _this() -> machine.Interpreter:
    """The one that runs now."""
    facts: dict[str, Any] = machine.python_facts()
    kind = facts["python_implementation"], _has_gil(), bool(facts["free_threaded_build"])
    return machine.Interpreter(sys.executable, facts["python_version"], *kind, "this one")


def _chosen(this: machine.Interpreter, found: Sequence[machine.Interpreter], most: int) -> list[machine.Interpreter]:
    """This one, then the newest of each other minor version and build; newest version first."""
    by_build = {(_minor(one.version), one.free_threaded): one for one in found if _minor(one.version) >= (3, 11)}
    by_build.pop((_minor(this.version), this.free_threaded), None)
    others = [one for _, one in sorted(by_build.items(), reverse=True)]
    return [this, *others][:most]


def _under(one: machine.Interpreter, *, seconds: float = LONGEST_S, **sizes: int) -> Interpreter:
    """Run `this_interpreter` under that interpreter, in a sandbox inside of this one, which ends with it."""
    from helpers import sandbox

    data = sandbox.run(__name__, "this_interpreter", sizes, python=one.path, timeout=max(0.1, seconds))
    return ThisInterpreter.from_json(data).interpreter


def _taking_turns(pythons: Sequence[str], steps: int, rounds: int) -> list[list[float]]:
    """Nanoseconds per step by a single thread of each of these interpreters, in rounds."""
    with ExitStack() as stack:
        conditions: dict[str, Callable[[], float]] = {}
        for python in pythons:
            conditions[python] = partial(stack.enter_context(_stepper(python)), steps)
            conditions[python]()  # to warm up
        return list(measure.interleave(conditions, rounds, report=False).values())


STEPPER = "import sys; sys.path.insert(0, sys.argv[1]); from helpers.experiments.the_gil import step; step()"


@contextmanager
def _stepper(python: str) -> Iterator[Callable[[int], float]]:
    """A process of that interpreter: what has it do so many steps and gives the nanoseconds that one took."""
    import subprocess

    from helpers.sandbox import ROOT

    command = [python, "-I", "-S", "-c", STEPPER, str(ROOT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as process:
        asked, answers = process.stdin, process.stdout
        assert asked is not None and answers is not None

        def step(steps: int) -> float:
            asked.write(f"{steps}\n")
            return float(answers.readline())

        yield step
        asked.close()


def step() -> None:
    """The other side of `_stepper`: answers each line until there are no more."""
    for line in sys.stdin:
        print(_everyday_ns(int(line)) / int(line), flush=True)


def _remarks(record: AcrossInterpreters) -> Iterator[str]:
    """What there was nothing to compare with, what did not show, and what is missing altogether."""
    for row in record.interpreters:
        if not row.gil and not record.twin(row):
            yield f"{row.name}: no build of the same version with the GIL, optimised alike, to compare its speed with"
        if word := _unlike_free_threads(row.gil, row.overlap):
            yield f"{row.name}: {word}"
    if not record.without_gil() and (missing := machine.free_threaded()):
        yield missing
