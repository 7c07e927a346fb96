"""Concurrency and parallelism, told apart by measurement (notebook 02).

Concurrency is how many tasks are in progress at once, parallelism how many cores work on them at once. The first is
read off time stamps, the second is CPU time over wall time, with the overlap of time stamps as a second witness.
"""

from __future__ import annotations

import json
import os
import re
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import IO, Annotated, Any, ClassVar, Literal, NamedTuple

from helpers import machine, measure, timeline
from helpers.contexts import Core, compute, pin, sleep_until, start_process, start_thread
from helpers.measure import Estimate, estimate
from helpers.record import Record
from helpers.registry import Between, experiment
from helpers.timeline import Slice

MS = 1e-6  # nanoseconds to milliseconds


# Workers that are there before the clock starts


ORDER = struct.Struct("qq")  # how much to do, and not before which moment of `perf_counter_ns`


class Crew:
    """Our ends of the pipes to some workers: orders out, answers in."""

    def __init__(self, orders: Sequence[int], answers: Sequence[IO[str]]) -> None:
        self._orders, self._answers = orders, answers

    def run(self, amounts: Sequence[int], begin_ns: int = 0) -> list[Any]:
        """Give the first workers an amount each; what each answered. Raises `RuntimeError` when one is gone."""
        for end, amount in zip(self._orders, amounts, strict=False):
            os.write(end, ORDER.pack(amount, begin_ns))
        lines = [answer.readline() for answer in self._answers[: len(amounts)]]
        if not all(lines):
            raise RuntimeError("a worker ended before its work was done")
        return [json.loads(line) for line in lines]


@contextmanager
def _crew(context: str, count: int, work: Callable[[int], Any], cores: Sequence[int] = ()) -> Iterator[Crew]:
    """So many processes or threads that do `work(amount)` whenever they are told to, and end with this block.

    With `cores` each is kept on one of them in turn.
    """
    start = start_process if context == "processes" else start_thread
    orders: list[int] = []
    answers: list[IO[str]] = []
    joins: list[Callable[[], None]] = []
    try:
        for index in range(count):
            order, answer = os.pipe(), os.pipe()
            orders.append(order[1])
            answers.append(os.fdopen(answer[0]))
            ours, theirs = [*orders, *(end.fileno() for end in answers)], (order[0], answer[1])
            core = cores[index % len(cores)] if cores else None
            joins.append(start(partial(_serve, *theirs, work, core), theirs, ours))
        for stream in answers:
            stream.readline()  # it is there
        yield Crew(orders, answers)
    finally:
        for end in orders:
            os.close(end)
        for stream in answers:
            stream.close()
        for join in joins:
            join()


def _serve(orders: int, answers: int, work: Callable[[int], Any], core: Core) -> None:
    """One worker: order after order, until nobody gives any."""
    pin(core)
    with suppress(BrokenPipeError), os.fdopen(answers, "w", closefd=False) as write:
        print("ready", file=write, flush=True)
        while order := os.read(orders, ORDER.size):
            amount, begin = ORDER.unpack(order)
            sleep_until(begin)
            print(json.dumps(work(amount)), file=write, flush=True)


START_NS = 3_000_000  # by then every worker has read its order, and all of them begin at once


def _soon() -> int:
    return time.perf_counter_ns() + START_NS


# Computing by the amount


def _amount(run: Callable[[int], object], ms: float) -> int:
    """How large a `count` makes `run(count)` take so many ms of CPU time on this machine."""

    def spent(count: int) -> int:
        start = time.thread_time_ns()
        run(count)
        return time.thread_time_ns() - start

    count = measure.batch_size(spent)
    return max(1, round(count * ms / (min(spent(count) for _ in range(3)) * MS)))


# Three dishes


class Recipe(NamedTuple):
    """A dish: `rounds` times chop (a fixed amount of computing), then let it simmer (wait)."""

    looks: int  # at the clock: that is the chopping
    simmer_s: float
    rounds: int


class Dish(NamedTuple):
    """What became of one: the slices in which it was really chopped, when it simmered, and CPU ns of each chop."""

    chop: list[Slice]
    simmer: list[Slice]
    cpu_ns: list[int]

    @property
    def in_progress(self) -> Slice:
        """From the first chop to the end of the last simmer."""
        return self.chop[0][0], max(self.chop[-1][1], *(end for _, end in self.simmer))


def wall_ns(dishes: Sequence[Dish]) -> int:
    """From the begin of the first to the end of the last."""
    begins, ends = zip(*(dish.in_progress for dish in dishes), strict=True)
    return max(ends) - min(begins)


def concurrency(dishes: Sequence[Dish]) -> float:
    """How many were in progress at once, on average: their durations together over the wall time."""
    return timeline.at_once([[dish.in_progress] for dish in dishes], wall_ns(dishes))


def parallelism(dishes: Sequence[Dish]) -> float:
    """How many cores worked at once, on average: CPU time of all over the wall time."""
    return sum(sum(dish.cpu_ns) for dish in dishes) / wall_ns(dishes)


def _steps(recipe: Recipe, dish: Dish) -> Iterator[float]:
    """Cook: chop, and yield how many seconds to wait. How to wait is what the executions differ in."""
    for _ in range(recipe.rounds):
        before = time.thread_time_ns()
        dish.chop.extend(timeline.slices_of(recipe.looks))
        dish.cpu_ns.append(time.thread_time_ns() - before)
        begin = time.perf_counter_ns()
        yield recipe.simmer_s
        dish.simmer.append((begin, time.perf_counter_ns()))


def _cook(recipe: Recipe, _: int = 1) -> Dish:
    dish = Dish([], [], [])
    for seconds in _steps(recipe, dish):
        time.sleep(seconds)
    return dish


def _one_after_another(recipe: Recipe, count: int) -> list[Dish]:
    return [_cook(recipe) for _ in range(count)]


def _as_tasks(recipe: Recipe, count: int) -> list[Dish]:
    import asyncio

    async def cook() -> Dish:
        dish = Dish([], [], [])
        for seconds in _steps(recipe, dish):
            await asyncio.sleep(seconds)
        return dish

    async def all_of_them() -> list[Dish]:
        return await asyncio.gather(*(cook() for _ in range(count)))

    return asyncio.run(all_of_them())


def _by_workers(context: str, recipe: Recipe, count: int) -> list[Dish]:
    with _crew(context, count, partial(_cook, recipe)) as crew:
        return [Dish(*answer) for answer in crew.run([1] * count, _soon())]


def _on_one_core(cook: Callable[[Recipe, int], list[Dish]], recipe: Recipe, count: int) -> list[Dish]:
    with machine.pinned(machine.cores()[0]):
        return cook(recipe, count)


EXECUTIONS: dict[str, Callable[[Recipe, int], list[Dish]]] = {
    "one after another": _one_after_another,
    "threads on one core": partial(_on_one_core, partial(_by_workers, "threads")),
    "asyncio": _as_tasks,
    "threads on all cores": partial(_by_workers, "threads"),
    "processes on all cores": partial(_by_workers, "processes"),
}


@dataclass(frozen=True)
class Execution:
    """One way to cook the same dishes: the run with the median wall time, for drawing, and estimates over all runs."""

    name: str
    chop: tuple[tuple[tuple[float, float], ...], ...]  # by dish: begin and end in ms from the start
    simmer: tuple[tuple[tuple[float, float], ...], ...]
    wall: Estimate  # ms
    cpu: Estimate  # ms, of all contexts together
    in_progress: Estimate  # tasks at once, on average
    most_in_progress: int
    cores_at_work: Estimate  # on average: CPU time / wall time
    most_at_work: int  # contexts that ran at once for at least 1 % of the time, by the time stamps
    overlap: Estimate  # %, of the time in which anybody chopped: two or more did


@dataclass(frozen=True, kw_only=True)
class ThreeDishes(Record):
    """The same tasks under five executions: how many in progress, and how many cores at work."""

    headline_name: ClassVar[str] = "cores at work, processes on all cores"

    cores: int
    chop_ms: float
    simmer_ms: float
    executions: tuple[Execution, ...]

    def figures(self) -> dict[str, Estimate]:
        return {f"cores at work, {each.name}": each.cores_at_work for each in self.executions} | {
            f"in progress, {each.name}": each.in_progress for each in self.executions
        }


DISHES = 3


@experiment(seconds=8, needs=[machine.fork], wants=[machine.pinning, machine.two_cores])
def three_dishes(
    *,
    chop_ms: Annotated[int, Between(5, 100)] = 40,
    simmer_ms: Annotated[int, Between(5, 100)] = 25,
    rounds: Annotated[int, Between(1, 3)] = 2,
    repeats: Annotated[int, Between(5, 10)] = 5,
) -> ThreeDishes:
    """How many tasks are in progress, and how many cores at work, when three dishes are cooked in five ways.

    A dish is `rounds` times chopping (a fixed amount of computing, `chop_ms` for one core by itself) and simmering (a
    wait). Who chops looks at the clock all the time, which tells when it really ran. Tasks in progress are their
    durations together over the wall time; cores at work are the CPU time of the chopping over the wall time.
    """
    recipe = Recipe(_amount(timeline.slices_of, chop_ms), simmer_ms / 1e3, rounds)
    conditions = {name: partial(cook, recipe, DISHES) for name, cook in EXECUTIONS.items()}
    runs = measure.interleave(conditions, repeats)
    executions = tuple(_execution(name, meals) for name, meals in runs.items())
    cores = len(machine.cores())
    return ThreeDishes(
        cores=cores,
        chop_ms=chop_ms,
        simmer_ms=simmer_ms,
        executions=executions,
        placement=f"one core of {cores}, or free on {'all' if cores > 1 else 'one'} of them, as the execution says",
        subtracted="nothing: workers were started before the clock",
        warnings=(*_place_warnings(cores), *_effect_warnings(executions, cores)),
    )


def _execution(name: str, meals: Sequence[list[Dish]]) -> Execution:
    typical = sorted(meals, key=wall_ns)[len(meals) // 2]
    start = min(dish.in_progress[0] for dish in typical)
    return Execution(
        name=name,
        chop=tuple(_from_start(_joined(dish.chop), start) for dish in typical),
        simmer=tuple(_from_start(dish.simmer, start) for dish in typical),
        wall=estimate([wall_ns(dishes) * MS for dishes in meals], "ms"),
        cpu=estimate([sum(sum(dish.cpu_ns) for dish in dishes) * MS for dishes in meals], "ms"),
        in_progress=estimate([concurrency(dishes) for dishes in meals], "tasks"),
        most_in_progress=max(timeline.running([dish.in_progress] for dish in typical)),
        cores_at_work=estimate([parallelism(dishes) for dishes in meals], "cores"),
        most_at_work=_most_at_work(typical),
        overlap=estimate([100 * timeline.overlap(dish.chop for dish in dishes) for dishes in meals], "%"),
    )


def _most_at_work(dishes: Sequence[Dish]) -> int:
    spent = timeline.running(dish.chop for dish in dishes)
    return max(count for count, ns in spent.items() if ns >= 0.01 * sum(spent.values()))


SEEN_NS = 300_000  # a shorter pause than this is finer than the picture


def _joined(slices: Sequence[Slice]) -> list[Slice]:
    """Slices with pauses between them that can be seen."""
    joined = [slices[0]]
    for begin, end in slices[1:]:
        if begin - joined[-1][1] < SEEN_NS:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return joined


def _from_start(slices: Sequence[Slice], start: int) -> tuple[tuple[float, float], ...]:
    return tuple((round((begin - start) * MS, 3), round((end - start) * MS, 3)) for begin, end in slices)


def _place_warnings(cores: int) -> Iterator[str]:
    if (missing := machine.pinning()) is not None:
        yield f"not pinned, so the kernel chose the cores: {missing}"
    if cores < 2:
        yield "only one core may be used: nothing can run in parallel"


def _effect_warnings(executions: Sequence[Execution], cores: int) -> Iterator[str]:
    """What should have shown in this run and did not."""
    overlap = {each.name: each.overlap.median for each in executions}
    if overlap["threads on one core"] > 1:
        yield f"not observed here: on one core {overlap['threads on one core']:.0f} % of the chopping seems to overlap"
    if cores > 1 and overlap["processes on all cores"] < 50:
        share = overlap["processes on all cores"]
        yield f"not observed here: processes on {cores} cores chopped at once for only {share:.0f} % of the time"


# Speed-up


@dataclass(frozen=True, kw_only=True)
class Speedup(Record):
    """Speed-up against workers, and the serial share that the law's curve gives back.

    `law` is Amdahl's for work of a fixed size, Gustafson's for work that grows with the workers. Both take it that a
    core computes as fast while the others are busy as it does alone. `slowdown` tells whether that holds here, and
    `corrected` is Amdahl's share without it.
    """

    headline_name: ClassVar[str] = "serial share, fitted"

    work: str
    law: str
    serial: float  # the share that was built in, 0 to 1
    cores: int
    workers: tuple[int, ...]
    wall: tuple[Estimate, ...]  # ms
    cpu: tuple[Estimate, ...]  # ms of CPU time, of the serial part and the slowest worker
    slowdown: tuple[Estimate, ...]  # CPU time of the slowest worker over what its part takes alone; none for waiting
    speedup: tuple[Estimate, ...]
    fitted: Estimate  # %
    corrected: Estimate | None  # %, None for waiting and for growing work
    fitted_to: int  # the most workers that the fit has seen: beyond the cores no law of parallelism holds
    machinery: Estimate  # ms, to give the most workers an order each and hear from all, with nothing to do

    def figures(self) -> dict[str, Estimate]:
        return {self.headline_name: self.fitted, "speed-up, most workers": self.speedup[-1]}


def amdahl(serial: float, workers: float) -> float:
    """Speed-up of work of a fixed size (Amdahl, AFIPS 1967)."""
    return 1 / (serial + (1 - serial) / workers)


def gustafson(serial: float, workers: float) -> float:
    """Speed-up of work that grows with the workers (Gustafson, "Reevaluating Amdahl's law", CACM 31, 1988)."""
    return workers - serial * (workers - 1)


def fit_amdahl(workers: Sequence[int], speedups: Sequence[float], slowdowns: Sequence[float] | None = None) -> float:
    """The serial share by least squares on the times relative to one worker, which are linear in it.

    `slowdowns` are by how much longer a worker's part takes because of the others; none by default.
    """
    parts = [slower / n for n, slower in zip(workers, slowdowns or [1] * len(workers), strict=True)]
    return _slope([1 - part for part in parts], [1 / s - part for s, part in zip(speedups, parts, strict=True)])


def fit_gustafson(workers: Sequence[int], speedups: Sequence[float]) -> float:
    """The serial share by least squares on the speed-ups, which are linear in it."""
    return _slope([n - 1 for n in workers], [n - s for n, s in zip(workers, speedups, strict=True)])


def _slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Of the line through the origin with the least squares."""
    return sum(x * y for x, y in zip(xs, ys, strict=True)) / sum(x * x for x in xs)


MOST_WAITING = 16
MOST_COMPUTING = 32


@experiment(seconds=3, needs=[machine.fork], wants=[machine.pinning, machine.two_cores])
def speedup(
    work: Literal["computing", "waiting"] = "computing",
    *,
    serial_percent: Annotated[int, Between(0, 90)] = 10,
    growing: bool = False,
    work_ms: Annotated[int, Between(10, 300)] = 60,
    repeats: Annotated[int, Between(5, 30)] = 15,
) -> Speedup:
    """Speed-up against the number of workers, for work whose serial share is known.

    One worker alone takes `work_ms`. The serial part is done here while all workers idle, then the rest is divided
    over worker processes that were started before the clock; with `growing` each of them gets as much as one alone
    would. Computing workers go up to the cores and to twice as many, waiting ones, which need no core, to 16.
    """
    allowed = machine.cores()
    cores = len(allowed)
    wanted = _worker_counts(work, cores)
    fit = machine.fit(wanted[-1], at_least=2, bytes_each=16 << 20, processes_each=1, descriptors_each=2)
    counts = [count for count in wanted if count <= fit.count]
    do = compute if work == "computing" else _wait
    whole = _amount(compute, work_ms) if work == "computing" else work_ms * 1_000_000
    serial = round(whole * serial_percent / 100)
    with _crew("processes", counts[-1], partial(_cpu_ns, do), allowed) as crew:

        def run(workers: int) -> Path:
            each = (whole - serial) // (1 if growing else workers)
            start = time.perf_counter_ns()
            ours, theirs = _cpu_ns(do, serial), max(crew.run([each] * workers))
            return Path(time.perf_counter_ns() - start, ours + theirs, theirs * (1 if growing else workers))

        taken = measure.interleave({str(count): partial(run, count) for count in counts}, repeats)
        nothing = [measure.timed(lambda: crew.run([0] * counts[-1])) for _ in range(repeats)]
    share = serial / whole
    paths = {count: taken[str(count)] for count in counts}
    faster = _speedups({count: [path.wall_ns for path in paths[count]] for count in counts}, share, growing)
    slower = {count: _slowdown(paths[count], paths[1]) for count in counts if work == "computing"}
    seen = counts if work == "waiting" else [count for count in counts if count <= max(cores, 2)]
    fitted = _fitted(fit_gustafson if growing else fit_amdahl, seen, faster)
    corrected = None if growing or work == "waiting" else _fitted(fit_amdahl, seen, faster, slower)
    return Speedup(
        work=work,
        law="Gustafson" if growing else "Amdahl",
        serial=share,
        cores=cores,
        workers=tuple(counts),
        wall=tuple(estimate([path.wall_ns * MS for path in paths[count]], "ms") for count in counts),
        cpu=tuple(estimate([path.cpu_ns * MS for path in paths[count]], "ms") for count in counts),
        slowdown=tuple(slower.values()),
        speedup=tuple(faster[count] for count in counts),
        fitted=fitted,
        corrected=corrected,
        fitted_to=seen[-1],
        machinery=estimate([ns * MS for ns in nothing], "ms"),
        placement=_spread(cores),
        subtracted="nothing: one worker alone goes through the same machinery",
        warnings=(
            *_crew_warnings(work, cores, counts[-1], wanted[-1], fit.reason),
            *_law_warnings(100 * share, corrected or fitted),
        ),
    )


class Path(NamedTuple):
    """What a run took."""

    wall_ns: int
    cpu_ns: int  # of the serial part and the slowest worker
    parallel_ns: int  # CPU time of the slowest worker, as if it had done one worker's work alone


def _cpu_ns(do: Callable[[int], object], amount: int) -> int:
    start = time.thread_time_ns()
    do(amount)
    return time.thread_time_ns() - start


def _wait(ns: int) -> None:
    time.sleep(ns / 1e9)


def _speedups(times: dict[int, list[int]], serial: float, growing: bool) -> dict[int, Estimate]:
    """By number of workers: how much faster the work is done than by one of them, round by round."""
    done = {count: serial + (1 - serial) * (count if growing else 1) for count in times}
    return {
        count: measure.ratio([done[count] * alone for alone in times[1]], together) for count, together in times.items()
    }


def _slowdown(paths: Sequence[Path], alone: Sequence[Path]) -> Estimate:
    return measure.ratio([path.parallel_ns for path in paths], [path.parallel_ns for path in alone])


def _fitted(fit: Callable[..., float], counts: Sequence[int], *by_count: dict[int, Estimate]) -> Estimate:
    """The serial share (%) that a law's fit makes of these figures for these numbers of workers, round by round."""
    columns = [zip(*(figures[count].samples for count in counts), strict=True) for figures in by_count]
    return estimate([100 * fit(counts, *each) for each in zip(*columns, strict=True)], "%")


def _worker_counts(work: str, cores: int) -> list[int]:
    """Powers of two and the number of cores, up to twice the cores: beyond them it should stop."""
    most = MOST_WAITING if work == "waiting" else min(2 * cores, MOST_COMPUTING)
    counts = {1 << power for power in range(most.bit_length())} | {most}
    return sorted(counts | ({cores} if work == "computing" and cores <= most else set()))


def _spread(cores: int) -> str:
    """Where the workers are. Left alone, two may share a core for a while before the kernel parts them."""
    if machine.pinning() is not None:
        return "free"
    return f"workers in turn on {cores} cores" if cores > 1 else "one core"


def _crew_warnings(work: str, cores: int, most: int, wanted: int, reason: str | None) -> Iterator[str]:
    if most < wanted and reason:
        yield f"workers: {reason}"
    if work == "computing" and cores < 2:
        yield "only one core may be used: a second worker cannot compute at once, so all of the work looks serial"


FAR_OFF = 10  # percent of the work


def _law_warnings(built_in: float, fitted: Estimate) -> Iterator[str]:
    """What should have shown in this run and did not."""
    if abs(fitted.median - built_in) > FAR_OFF:
        yield f"not observed here: {built_in:.0f} % of the work were serial, and the law makes it {fitted.median:.0f} %"


# Threads or processes


@dataclass(frozen=True, kw_only=True)
class ThreadsOrProcesses(Record):
    """Small tasks that wait and compute, under four executions: tasks/s, and how much faster than one after another.

    `limits` are what could be had at best: the number of workers, or what the cores can compute; one core for
    threads and asyncio tasks where there is a GIL.
    """

    headline_name: ClassVar[str] = "processes over threads"

    wait_ms: int
    work_ms: int
    cores: int
    workers: int
    tasks: int  # in a batch
    gil: bool
    executions: tuple[str, ...]
    throughput: tuple[Estimate, ...]  # tasks/s
    speedup: tuple[Estimate, ...]
    limits: tuple[float, ...]
    processes_over_threads: Estimate

    def figures(self) -> dict[str, Estimate]:
        return {self.headline_name: self.processes_over_threads} | dict(zip(self.executions, self.speedup, strict=True))


def limit(wait: float, work: float, workers: int, cores: int) -> float:
    """The most that `workers` tasks at once can gain: one each, or all that the cores can compute."""
    return min(workers, cores * (wait + work) / work)


class Task(NamedTuple):
    """One small task: wait, then compute."""

    wait_s: float
    loops: int


WORKERS = 8
TASKS_EACH = 2  # or more: with one, all would wait at once and then compute at once


@experiment(seconds=2, needs=[machine.fork], wants=[machine.pinning, machine.two_cores])
def threads_or_processes(
    wait_ms: Literal[0, 1, 4, 16] = 4,
    work_ms: Literal[1, 4, 16] = 4,
    cores: Annotated[int, Between(1, 64)] = 2,
    *,
    batch_ms: Annotated[int, Between(8, 500)] = 128,
    repeats: Annotated[int, Between(5, 20)] = 5,
) -> ThreadsOrProcesses:
    """Tasks per second that wait and compute (pure Python): one after another, by threads, processes, asyncio tasks.

    Eight of each at once, started before the clock, all on the first `cores` cores. A batch is as many tasks as one
    after another do in `batch_ms`, at least two for each worker.
    """
    allowed = machine.cores()
    used = allowed[:cores]
    task = Task(wait_ms / 1e3, _amount(compute, work_ms))
    each = max(TASKS_EACH, round(batch_ms / (wait_ms + work_ms) / WORKERS))
    with (
        machine.pinned(*used) as is_pinned,
        _crew("processes", WORKERS, partial(_tasks, task)) as processes,  # before there are threads: a fork has one
        _crew("threads", WORKERS, partial(_tasks, task)) as threads,
    ):
        conditions = {
            "one after another": lambda: measure.timed(lambda: _tasks(task, WORKERS * each)),
            "threads": lambda: _together(threads, each),
            "asyncio": lambda: _tasks_of_a_loop(task, each),
            "processes": lambda: _together(processes, each),
        }
        taken = measure.interleave(conditions, repeats)
    alone = taken["one after another"]
    gil = _has_gil()
    at_once = {"one after another": (1, 1), "asyncio": (WORKERS, 1), "processes": (WORKERS, len(used))}
    at_once["threads"] = (WORKERS, 1 if gil else len(used))
    task_ms = measure.median(alone) * MS / (WORKERS * each)
    waited_ms = max(wait_ms, task_ms - work_ms)  # sleeps last longer than they were asked to
    return ThreadsOrProcesses(
        wait_ms=wait_ms,
        work_ms=work_ms,
        cores=len(used),
        workers=WORKERS,
        tasks=WORKERS * each,
        gil=gil,
        executions=tuple(conditions),
        throughput=tuple(estimate([WORKERS * each / (ns / 1e9) for ns in taken[name]], "tasks/s") for name in taken),
        speedup=tuple(measure.ratio(alone, taken[name]) for name in taken),
        limits=tuple(limit(waited_ms, work_ms, *at_once[name]) for name in taken),
        processes_over_threads=measure.ratio(taken["threads"], taken["processes"]),
        placement=f"on {len(used)} core{'s' if len(used) > 1 else ''}" if is_pinned else "free",
        subtracted="nothing: workers were started before the clock",
        warnings=tuple(_core_warnings(cores, len(allowed), is_pinned)),
    )


def _tasks(task: Task, count: int) -> int:
    """So many tasks, one after another; the moment of the last one's end."""
    for _ in range(count):
        if task.wait_s:
            time.sleep(task.wait_s)
        compute(task.loops)
    return time.perf_counter_ns()


def _together(crew: Crew, each: int) -> int:
    """Nanoseconds from the common begin to the last worker's end."""
    begin = _soon()
    return max(crew.run([each] * WORKERS, begin)) - begin


def _tasks_of_a_loop(task: Task, each: int) -> int:
    import asyncio

    async def some() -> None:
        for _ in range(each):
            if task.wait_s:
                await asyncio.sleep(task.wait_s)
            compute(task.loops)

    async def all_of_them() -> int:
        start = time.perf_counter_ns()
        await asyncio.gather(*(some() for _ in range(WORKERS)))
        return time.perf_counter_ns() - start

    return asyncio.run(all_of_them())


def _has_gil() -> bool:
    return machine.python_facts()["gil"] is not False


def _core_warnings(cores: int, allowed: int, is_pinned: bool) -> Iterator[str]:
    if cores > allowed:
        yield f"on {allowed} core{'s' if allowed > 1 else ''} instead of {cores}: this process may use no more"
    if not is_pinned and cores < allowed:
        yield f"on all {allowed} cores instead of {cores}: {machine.pinning()}"


# Parallel without being concurrent


@dataclass(frozen=True, kw_only=True)
class Simd(Record):
    """Nanoseconds per addition by the width of the numbers, for the same loop compiled with and without vectors."""

    headline_name: ClassVar[str] = "faster with vectors, 32 bits"

    bits: tuple[int, ...]  # of one number
    one_by_one: tuple[Estimate, ...]  # ns per addition
    side_by_side: tuple[Estimate, ...]
    faster: tuple[Estimate, ...]
    register_bits: int  # of the widest vectors found in the compiled code; 0: none
    instructions: tuple[str, ...]  # the vector addition of each width as found in the code, "" where there is none
    offered: tuple[str, ...]  # vector extensions that the processor says it has, as far as the system tells

    def figures(self) -> dict[str, Estimate]:
        return {f"faster with vectors, {bits} bits": each for bits, each in zip(self.bits, self.faster, strict=True)}


BITS = (8, 16, 32, 64)
ARRAY_BYTES = 8192  # three of these fit the smallest first-level caches
APART_BYTES = ARRAY_BYTES + 17 * 64  # the same place in two pages would make a load wait for a store (4K aliasing)
VECTOR_BATCH_NS = 5_000_000


@experiment(seconds=4, needs=[machine.numba], wants=[machine.pinning])
def simd(*, repeats: Annotated[int, Between(5, 50)] = 11) -> Simd:
    """How much faster one thread adds two arrays when the compiler may use vector instructions, by width of numbers.

    The very same loop, compiled twice by numba: with LLVM's loop vectoriser and without. The arrays stay in the
    first-level cache. Times are CPU time; the compiled code is searched for the instructions that it should have.
    """
    loops: dict[str, Callable[[], float]] = {}
    code: dict[str, tuple[str, int]] = {}
    with machine.pinned(machine.cores()[0]) as is_pinned:
        for bits in BITS:
            for vectors in (False, True):
                name = f"{bits} {vectors}"
                add, assembly = _compiled_addition(bits, vectors)
                code[name] = vector_addition(assembly)
                loops[name] = partial(_ns_per_addition, *_batch(add, bits))
        taken = measure.interleave(loops, repeats)
    scalar, vector = ([taken[f"{bits} {vectors}"] for bits in BITS] for vectors in (False, True))
    faster = tuple(measure.ratio(*pair) for pair in zip(scalar, vector, strict=True))
    return Simd(
        bits=BITS,
        one_by_one=tuple(estimate(each, "ns") for each in scalar),
        side_by_side=tuple(estimate(each, "ns") for each in vector),
        faster=faster,
        register_bits=max(width for _, width in code.values()),
        instructions=tuple(code[f"{bits} True"][0] for bits in BITS),
        offered=_vector_extensions(),
        placement="one thread on one core" if is_pinned else "one thread",
        subtracted="nothing: a call makes thousands of additions",
        warnings=tuple(_vector_warnings(code, faster)),
    )


def _add(one: Any, other: Any, total: Any, rounds: int) -> None:
    for _ in range(rounds):
        for index in range(total.size):
            total[index] = one[index] + other[index]


def _compiled_addition(bits: int, vectors: bool) -> tuple[Any, str]:
    """`_add` for whole numbers of so many bits, with or without vector instructions, and its assembly code."""
    import numba

    kind = f"int{bits}[::1]"
    before = numba.config.LOOP_VECTORIZE
    numba.config.LOOP_VECTORIZE = vectors
    try:
        compiled = numba.njit(f"void({kind}, {kind}, {kind}, int64)", nogil=True)(_add)
    finally:
        numba.config.LOOP_VECTORIZE = before
    return compiled, "\n".join(compiled.inspect_asm().values())


X86_VECTORS = re.compile(r"\b(v?padd[bwdq])\s[^\n]*?%([xyz])mm")
ARM_VECTORS = re.compile(r"\b(add(?:\.\d+[bhsd])?)\s+v\d+(?:\.\d+[bhsd])?,")
X86_BITS = {"x": 128, "y": 256, "z": 512}


def vector_addition(assembly: str) -> tuple[str, int]:
    """The widest addition of whole vectors in the code of x86 or ARM, and its bits; ("", 0) if there is none."""
    found = [(X86_BITS[register], name) for name, register in X86_VECTORS.findall(assembly)]
    found += [(128, name) for name in ARM_VECTORS.findall(assembly)]
    bits, name = max(found, default=(0, ""))
    return name, bits


def _batch(add: Any, bits: int) -> tuple[Callable[[int], int], int, int]:
    """What runs a batch and returns its CPU ns, how many rounds it has, and how many additions are in a round."""
    import numpy as np

    count = 8 * ARRAY_BYTES // bits
    area = np.ones(3 * APART_BYTES, dtype=np.int8)
    one, other, total = (
        area[start : start + ARRAY_BYTES].view(f"int{bits}") for start in range(0, area.size, APART_BYTES)
    )

    def spent(rounds: int) -> int:
        start = time.thread_time_ns()
        add(one, other, total, rounds)
        return time.thread_time_ns() - start

    spent(1)  # the first call sets numba's dispatch up
    return spent, measure.batch_size(spent, VECTOR_BATCH_NS), count


def _ns_per_addition(spent: Callable[[int], int], rounds: int, count: int) -> float:
    return spent(rounds) / rounds / count


EXTENSIONS = ("sse2", "avx", "avx2", "avx512f", "asimd", "sve", "sve2")


def _vector_extensions() -> tuple[str, ...]:
    try:
        with open("/proc/cpuinfo") as file:
            words = next((set(line.split()) for line in file if line.startswith(("flags", "Features"))), set())
    except OSError:
        return ()
    return tuple(name for name in EXTENSIONS if name in words)


def _vector_warnings(code: dict[str, tuple[str, int]], faster: Sequence[Estimate]) -> Iterator[str]:
    """What should have shown in this run and did not."""
    if any(code[f"{bits} False"][1] for bits in BITS):
        yield "not observed here: the loop that should go one by one was compiled with vector instructions, too"
    if not all(code[f"{bits} True"][1] for bits in BITS):
        yield "not observed here: the compiler used no vector instructions for every width"
    elif faster[0].low <= faster[-1].high:
        yield "not observed here: narrow numbers gained no more than wide ones"
