"""Our figures for notebook 03 beside those of C programs, taken in the same minutes on the same core.

How each comparison is made fair is said in its test. Common to all: both sides run in the same rounds, in random
order within a round, so that drift of the machine cancels; the ratio is taken round by round, and its 95 % interval
by bootstrap over rounds. Rounds go on until the interval is a small part of the target's width, or the time is up.

A target is met when the interval reaches into it, and missed when all of the interval lies outside. An interval
wider than the target decides nothing and also fails. How noisy the machine was stands beside every ratio, and never
changes the verdict.
"""

from __future__ import annotations

import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import pytest

from helpers import machine, measure
from helpers.experiments import context_switching, start_here
from helpers.measure import Estimate, estimate, in_fresh_process, ratio
from helpers.record import Record
from helpers.registry import Experiment

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(600),
    pytest.mark.skipif(sys.platform != "linux", reason="pins processes and counts their switches as Linux does"),
]

SOURCES = Path(__file__).with_name("c")
KIB = 1024
MIB = 1024 * KIB


# The table


class Row(NamedTuple):
    """One line of the table. `low` and `high` bound the target; None: only shown."""

    name: str
    ours: str
    theirs: str
    ratio: Estimate
    low: float | None
    high: float | None
    noise: str

    @property
    def target(self) -> str:
        if self.high is None:
            return "(shown)"
        return f"at most {self.high:.2f}" if self.low is None else f"{self.low:.2f} to {self.high:.2f}"

    @property
    def verdict(self) -> str:
        """In a word, "" if only shown; "ok, just" when the interval reaches the target and the median does not."""
        if self.high is None:
            return ""
        low = 0.0 if self.low is None else self.low
        if self.ratio.high < low or self.ratio.low > self.high:
            return "MISSED"
        if self.ratio.high - self.ratio.low > width_of(self.low, self.high):
            return "undecided"
        return "ok" if low <= self.ratio.median <= self.high else "ok, just"


def width_of(low: float | None, high: float) -> float:
    """The width of a target; of a one-sided one, twice its distance from 1."""
    return 2 * abs(high - 1) if low is None else high - low


@dataclass
class Table:
    """All rows, printed when the last test is done."""

    rows: list[Row] = field(default_factory=list)

    def add(self, *rows: Row) -> None:
        self.rows += rows

    def __str__(self) -> str:
        lines = [f"{'':58} {'ours':>10} {'theirs':>10}   {'ratio (95 % interval)':24} {'target':14} {'':10} noise"]
        for row in self.rows:
            found = f"{row.ratio.median:.3f} ({row.ratio.low:.3f} to {row.ratio.high:.3f})"
            figures = f"{row.name:58} {row.ours:>10} {row.theirs:>10}   {found:24}"
            lines.append(f"{figures} {row.target:14} {row.verdict:10} {row.noise}")
        return "\n".join(lines)


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    table = Table()
    yield table
    print(f"\n\n{table}\n")


def require(rows: list[Row]) -> None:
    """Fail with every row that misses its target."""
    bad = [row for row in rows if row.verdict in ("MISSED", "undecided")]
    assert not bad, "\n" + str(Table(bad))


UNKNOWN = measure.Noise("unknown")


@dataclass
class Meanwhile:
    """How noisy the machine was; known when the block has ended."""

    noise: measure.Noise = UNKNOWN

    def __str__(self) -> str:
        shares = {"stolen": self.noise.stolen, "others": self.noise.others}
        known = ", ".join(f"{name} {share:.0%}" for name, share in shares.items() if share is not None)
        return f"{self.noise.grade} ({known})" if known else self.noise.grade


@contextmanager
def watched() -> Iterator[Meanwhile]:
    """Watch the machine during a block."""
    meanwhile = Meanwhile()
    before = machine.activity()
    yield meanwhile
    meanwhile.noise = measure.grade_noise(before, machine.activity())


# C, and the core that both sides share


@pytest.fixture(scope="module")
def core() -> Iterator[int]:
    """The core that is measured on. What a test starts inherits it."""
    if missing := machine.pinning():
        pytest.skip(missing)
    if missing := machine.numba():
        pytest.skip(f"install: {missing}")
    yield machine.cores()[0]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Compile one of the C programs; its path."""
    if not (compiler := shutil.which("cc")):
        pytest.skip("install: apt install gcc libc6-dev")
    folder = tmp_path_factory.mktemp("c")

    def build(name: str) -> str:
        program = folder / name
        if not program.exists():
            arguments = ["-O2", "-std=gnu11", "-Wall", "-Wextra", str(SOURCES / f"{name}.c"), "-o", str(program)]
            subprocess.run([compiler, *arguments], check=True)
        return str(program)

    return build


@pytest.fixture(scope="module")
def perf() -> str:
    """`perf`, installed if that is allowed here."""
    if not shutil.which("perf") and shutil.which("apt-get") and os.geteuid() == 0:
        print("\ninstalling Debian's linux-perf, for `perf bench sched pipe`", flush=True)
        subprocess.run(["apt-get", "install", "--yes", "--quiet=2", "linux-perf"], check=False)
    found = shutil.which("perf")
    if not found or subprocess.run([found, "--version"], capture_output=True).returncode:
        pytest.skip("install: apt install linux-perf")
    return found


def output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def medians(rows: list[list[float]]) -> list[float]:
    """The median of each column."""
    return [median(column) for column in zip(*rows, strict=True)]


Sample = dict[str, float]


def rounds_until(
    clear: Callable[[list[Sample]], bool],
    sources: list[Callable[[], Sample]],
    *,
    at_least: int,
    seconds: float,
) -> list[Sample]:
    """Ask all sources once per round, in random order, until the rounds are clear enough or the time is up."""
    rounds: list[Sample] = []
    end = time.monotonic() + seconds
    while len(rounds) < at_least or (time.monotonic() < end and not clear(rounds)):
        sample: Sample = {}
        for source in random.sample(sources, len(sources)):
            sample |= source()
        rounds.append(sample)
    return rounds


def column(rounds: list[Sample], name: str, less: str | None = None) -> list[float]:
    """One figure of every round, with another one taken off if asked."""
    return [sample[name] - (sample[less] if less else 0.0) for sample in rounds]


def row(
    name: str,
    ours: list[float],
    theirs: list[float],
    *,
    unit: str,
    low: float | None = None,
    high: float | None = None,
    noise: object = "",
) -> Row:
    return Row(
        name,
        f"{measure.short(median(ours))} {unit}",
        f"{measure.short(median(theirs))} {unit}",
        ratio(ours, theirs),
        low,
        high,
        str(noise),
    )


def interval(found: Estimate) -> float:
    return found.high - found.low


# 1. Handing over by pipe

BATCHES = 3  # per process and condition
CLEAR = 0.05  # a quarter of the targets' width
PERF_LOOPS = 40_000  # a quarter of a second: its start, 10 to 20 ms of CPU time, is to be small beside it


def our_source(core: int) -> tuple[Callable[[], Sample], int]:
    """What gives one sample of `handoff` as a record takes it, by both loops; and its round trips per batch."""
    cores = (core, core)
    kinds = ["compiled", "python"]
    counts = {kind: context_switching._round_trips(kind, "processes", cores) for kind in kinds}

    def source() -> Sample:
        run = partial(context_switching._handoff_samples, kinds, counts, "processes", cores, BATCHES)
        return in_fresh_process(run)

    return source, counts["compiled"]


def c_source(program: str, trips: int) -> Callable[[], Sample]:
    """What gives the same figures from C: fresh processes, as many batches of as many round trips, same core."""

    def source() -> Sample:
        before = switches_so_far()
        lines = output(program, "0", "in-order", str(trips), str(BATCHES)).splitlines()
        played = 2 * trips * (BATCHES + 1)
        assert switches_so_far() - before >= 0.99 * played, "the C program did not switch on every hop"
        names = ("C hop wall", "C hop cpu", "C alone wall", "C alone cpu")
        figures = medians([[float(word) / 1000 for word in line.split()] for line in lines])
        return dict(zip(names, figures, strict=True))

    return source


def switches_so_far() -> int:
    """Switches of all children that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_nvcsw + usage.ru_nivcsw


def cpu_so_far() -> float:
    """CPU seconds of all children that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_a_switch_costs_the_same_by_lmbenchs_method(core: int, compiled: Callable[[str], str], table: Table) -> None:
    """The subtracted figure, against c/handoff.c: same method, same number of round trips and batches.

    Per round one fresh pair of processes on either side. CPU time against CPU time (of both processes), wall clock
    against wall clock. The loop in Python makes the same system calls, and is held against C as well.
    """
    with watched() as meanwhile, machine.pinned(core):
        ours, trips = our_source(core)
        theirs = c_source(compiled("handoff"), trips)

        def ratios(rounds: list[Sample], loop: str, clock: str) -> tuple[list[float], list[float]]:
            return (
                column(rounds, f"{loop} hop {clock}", f"{loop} alone {clock}"),
                column(rounds, f"C hop {clock}", f"C alone {clock}"),
            )

        def clear(rounds: list[Sample]) -> bool:
            return all(interval(ratio(*ratios(rounds, loop, "cpu"))) < CLEAR for loop in ("compiled", "python"))

        rounds = rounds_until(clear, [ours, theirs], at_least=15, seconds=60)

    def line(name: str, loop: str, clock: str, low: float | None = None, high: float | None = None) -> Row:
        return row(name, *ratios(rounds, loop, clock), unit="µs", low=low, high=high, noise=meanwhile)

    rows = [
        line("switch, compiled loop / C (lmbench's method), CPU time", "compiled", "cpu", 0.90, 1.10),
        line("switch, compiled loop / C (lmbench's method), wall", "compiled", "wall"),
        line("switch, Python loop / C (lmbench's method), CPU time", "python", "cpu", None, 1.20),
        line("switch, Python loop / C (lmbench's method), wall", "python", "wall"),
    ]
    table.add(*rows)
    require(rows)


def test_a_hop_costs_the_same_by_perf(core: int, perf: str, table: Table) -> None:
    """The figure before subtraction, against `perf bench sched pipe` in its default mode, two processes.

    Its operation is a round trip, two hops. It prints wall clock alone: its CPU time is what the kernel charges it and
    its child, less the median of runs of one loop (its start). That it switched on every hop shows that it was pinned.
    """
    with watched() as meanwhile, machine.pinned(core):
        ours, _ = our_source(core)

        def run_perf(loops: int) -> tuple[float, float]:
            """µs per round trip by the wall clock, and CPU seconds in all."""
            cpu, switches = cpu_so_far(), switches_so_far()
            printed = output("taskset", "-c", str(core), perf, "bench", "sched", "pipe", "-l", str(loops))
            cpu, switches = cpu_so_far() - cpu, switches_so_far() - switches
            assert "between two processes" in printed, printed
            assert 0.99 * 2 * loops <= switches <= 2.2 * loops + 1000, f"{switches} switches in {loops} round trips"
            found = re.search(r"([\d.]+) usecs/op", printed)
            assert found, printed
            return float(found[1]), cpu

        def theirs() -> Sample:
            start = run_perf(1)[1]
            wall, cpu = run_perf(PERF_LOOPS)
            hops = 2 * PERF_LOOPS
            return {"perf wall": wall / 2, "perf cpu": cpu / hops * 1e6, "start": start / hops * 1e6}

        def figures(rounds: list[Sample], clock: str) -> tuple[list[float], list[float]]:
            start = median(column(rounds, "start")) if clock == "cpu" else 0.0
            return column(rounds, f"compiled hop {clock}"), [each - start for each in column(rounds, f"perf {clock}")]

        def clear(rounds: list[Sample]) -> bool:
            return interval(ratio(*figures(rounds, "cpu"))) < CLEAR

        rounds = rounds_until(clear, [ours, theirs], at_least=15, seconds=60)

    rows = [
        row(
            "hop, compiled loop / perf bench sched pipe, CPU time",
            *figures(rounds, "cpu"),
            unit="µs",
            low=0.90,
            high=1.10,
            noise=meanwhile,
        ),
        row("hop, compiled loop / perf bench sched pipe, wall", *figures(rounds, "wall"), unit="µs", noise=meanwhile),
    ]
    table.add(*rows)
    require(rows)


# 2. The memory ladder

LADDER_ROUNDS = 5  # of all sizes; then only of those whose ratio is not clear yet
LADDER_SECONDS = 120
LADDER_CLOCK = "cpu"  # the one that the experiment reads
STEEP = 1.25  # C's own curve rises by more than that to a neighbour: on a knee
NEAR_CACHE = 1.5
CLEAR_RUNG = 0.10
UNSTEADY = 0.20

Place = tuple[int, bool]  # bytes, and whether on huge pages
Loads = dict[Place, list[tuple[float, float]]]  # ns per load, ours and C's


class Chaser:
    """c/chase.c, kept running."""

    def __init__(self, program: str) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def load_ns(self, size: int, huge: bool) -> float:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{size} {int(huge)}\n")
        self._process.stdin.flush()
        wall, cpu = self._process.stdout.readline().split()
        return float(wall if LADDER_CLOCK == "wall" else cpu)

    def end(self) -> None:
        self._process.communicate()


def test_the_ladder_is_that_of_c(core: int, compiled: Callable[[str], str], table: Table) -> None:
    """`memory_ladder`'s loop against c/chase.c, off the knees of C's own curve.

    For each size and kind of page both map fresh memory of the same kind, link one random cycle, warm up and time
    alike; one right after the other, in random order, so that one gets the physical pages that the other gave back.
    Both are processes that go on through all sizes, as the experiment is: ours is this one, on the same core as
    C's, which waits meanwhile. On a knee the share of misses hangs on which pages one happens to get: two runs of
    the same program differ there, so those sizes are shown and not judged.
    """
    from helpers import compiled as loops

    sizes = context_switching._ladder_sizes(128 * MIB)
    places = [(size, huge) for huge in (False, True) for size in sizes]
    taken: Loads = {place: [] for place in places}
    caches = context_switching._reported_caches()
    source = loops.np.random.default_rng()

    def ours(size: int, huge: bool) -> float:
        return context_switching._load_ns(loops.cycle(loops.memory(size, huge_pages=huge), source))

    with watched() as meanwhile, machine.pinned(core), measure.no_garbage_collection():
        chaser = Chaser(compiled("chase"))
        end = time.monotonic() + LADDER_SECONDS
        left, rounds = places, 0
        while left and (rounds < LADDER_ROUNDS or time.monotonic() < end):
            for place in random.sample(left, len(left)):
                order = random.sample(("ours", "theirs"), 2)
                both = {who: ours(*place) if who == "ours" else chaser.load_ns(*place) for who in order}
                taken[place].append((both["ours"], both["theirs"]))
            rounds += 1
            if rounds >= LADDER_ROUNDS:
                left = [place for place in places if not on_a_knee(place, taken, caches)]
                left = [place for place in left if interval(rung(place, taken).ratio) > CLEAR_RUNG]
        chaser.end()

    print("\nns per load; caches:", ", ".join(f"{name} {machine.size(each)}" for name, each in caches.items()))
    judged = []
    for place in places:
        found = rung(place, taken, str(meanwhile))
        why = on_a_knee(place, taken, caches) or ("unsteady" if interval(found.ratio) > UNSTEADY else "")
        if not why:
            judged.append(found)
        shown = f"{found.ratio.median:.3f} ({found.ratio.low:.3f} to {found.ratio.high:.3f})"
        figures = f"{found.name:34} {found.ours:>9} {found.theirs:>9}  {shown:24}"
        print(f"{figures} {len(taken[place]):3} pairs  {why or found.verdict}")

    assert len(judged) >= 8, f"only {len(judged)} of {len(places)} sizes can be judged"
    middle = estimate([one.ratio.median for one in judged], "x")
    worst = max(judged, key=lambda one: abs(one.ratio.median - 1))
    missed = [one for one in judged if one.verdict == "MISSED" and one is not worst]
    table.add(
        Row(f"ladder, the {len(judged)} sizes off the knees", "", "", middle, 0.90, 1.10, str(meanwhile)),
        worst._replace(name=f"{worst.name} (the worst)"),
        *missed,
    )
    require(judged)


def rung(place: Place, taken: Loads, noise: str = "") -> Row:
    size, huge = place
    return row(
        f"ladder, {machine.size(size)}, {'huge' if huge else '4 KiB'} pages",
        [mine for mine, _ in taken[place]],
        [theirs for _, theirs in taken[place]],
        unit="ns",
        low=0.90,
        high=1.10,
        noise=noise,
    )


def on_a_knee(place: Place, taken: Loads, caches: dict[str, int]) -> str:
    """Why a size is not judged: C's curve is steep there, or a cache ends nearby. "" if it is to be judged."""
    size, huge = place
    curve = {other: median(theirs for _, theirs in taken[other, kind]) for other, kind in taken if kind == huge}
    sizes = sorted(curve)
    index = sizes.index(size)
    for neighbour in sizes[max(0, index - 1) : index + 2]:
        low, high = sorted((curve[size], curve[neighbour]))
        if high > STEEP * low:
            return "on a knee"
    near = [name for name, cache in caches.items() if cache / NEAR_CACHE < size < cache * NEAR_CACHE]
    return f"near {near[0]}" if near else ""


# 3. Working sets

SET_ROUNDS = 9
SET_TRIES = 3


@pytest.mark.parametrize("touch", ["in-order", "at-random"])
def test_a_hop_with_a_working_set_costs_the_same_by_lmbenchs_method(
    touch: str, core: int, compiled: Callable[[str], str], table: Table
) -> None:
    """`working_set_cost`'s total per hop (`record.hop`) against c/handoff.c with the same working set.

    Per round one fresh pair of processes of ours holds all sizes, as in the experiment; each size is taken by them
    and by a fresh pair of C's, one right after the other in random order, with the same number of round trips
    per batch. CPU time of both processes. C's sum is unrolled by 128 and adds word by word, as lmbench's, which gcc
    does not turn into vector instructions at -O2. The chase has no model in lmbench, so it is only shown.
    """
    program = compiled("handoff")
    sizes = (0, *context_switching._powers(4 * KIB, 2 * MIB))

    def one_round() -> list[tuple[float, float]]:
        taken = {}
        with context_switching._pair("processes", (core, core), sizes, touch == "at-random") as pair:
            for which in random.sample(range(len(sizes)), len(sizes)):
                trips = pair.batch("compiled", context_switching.SET_BATCH_NS, which)

                def ours(trips: int = trips, which: int = which) -> float:
                    return median(pair.per_hop("compiled", trips, which).cpu_ns for _ in range(SET_TRIES))

                def theirs(trips: int = trips, which: int = which) -> float:
                    lines = output(program, str(sizes[which]), touch, str(trips), str(SET_TRIES)).splitlines()
                    return median(float(line.split()[1]) for line in lines)

                both = {who: who() for who in random.sample((ours, theirs), 2)}
                taken[which] = (both[ours] / 1000, both[theirs] / 1000)
        return [taken[which] for which in range(len(sizes))]

    with watched() as meanwhile, machine.pinned(core):
        rounds = [in_fresh_process(one_round) for _ in range(SET_ROUNDS)]
    judged = touch == "in-order"
    rows = [
        row(
            f"hop + {touch} of {machine.size(size)} / C (lmbench's method), CPU time",
            [each[which][0] for each in rounds],
            [each[which][1] for each in rounds],
            unit="µs",
            low=0.80 if judged else None,
            high=1.25 if judged else None,
            noise=meanwhile,
        )
        for which, size in enumerate(sizes)
    ]
    table.add(*rows)
    require(rows)


# 4. Switches counted and caused


def run(experiment: Experiment[..., Any], parameters: dict[str, Any]) -> Any:
    """Run an experiment as the learner does, in a process of its own, without the progress bar."""
    return experiment.run(on_progress=lambda done, total: None, **parameters)


def test_the_kernel_counts_the_switches_that_we_cause(core: int, table: Table) -> None:
    """Voluntary and involuntary together, pinned. Others on this core add switches, but less than one in a hundred."""
    record = run(context_switching.switch_counts, {})
    share = record.total.scaled(0.01, "x")
    counted, caused = f"{record.caused * share.median:,.0f}", f"{record.caused:,}"
    rows = [Row("switches, counted / caused", counted, caused, share, 0.99, 1.01, str(Meanwhile(record.noise)))]
    table.add(*rows)
    require(rows)


# 5. The same again a minute later

REPEATED: list[tuple[str, Experiment[..., Any], dict[str, Any]]] = [
    *(
        (f"handoff between {between}", context_switching.handoff, {"between": between})
        for between in ("processes", "threads", "tasks", "generators")
    ),
    ("switch_counts", context_switching.switch_counts, {}),
    ("memory_ladder", context_switching.memory_ladder, {}),
    ("working_set_cost", context_switching.working_set_cost, {}),
    ("oversubscription", context_switching.oversubscription, {}),
    ("first_costs", start_here.first_costs, {}),
]
PASSES = 3
APART_S = 60


def compared(name: str, record: Record) -> dict[str, Estimate]:
    """The figures that two runs are compared by."""
    figures = record.figures()
    if name in ("working_set_cost", "oversubscription", "switch_counts"):
        return {record.headline_name: figures[record.headline_name]}
    distinct = {each.samples: name for name, each in reversed(figures.items())}  # some go by two names: count them once
    return {name: figures[name] for name in figures if name in distinct.values()}


def test_two_runs_a_minute_apart_agree(table: Table) -> None:
    """Their intervals overlap 9 times of 10, except where a record carries the noise warning.

    Every experiment runs once per pass, so that the others fill the minute; each pass is compared with the next. Of
    fewer than ten pairs without a warning one may differ; where all carry one, the target asks for no more.
    """
    passes: list[dict[str, Record]] = []
    with watched() as meanwhile:
        for _ in range(PASSES):
            start = time.monotonic()
            passes.append({name: run(experiment, parameters) for name, experiment, parameters in REPEATED})
            if len(passes) < PASSES:
                time.sleep(max(0.0, APART_S - (time.monotonic() - start)))

    agreed = {"quiet": [0, 0], "warned": [0, 0]}
    print()
    for earlier, later in pairwise(passes):
        for name in earlier:
            grades = [each[name].noise.grade for each in (earlier, later)]  # type: ignore[union-attr]
            warned = any(each[name].noise.warning() for each in (earlier, later))  # type: ignore[union-attr]
            first, second = (compared(name, each[name]) for each in (earlier, later))
            for figure in [figure for figure in first if figure in second]:
                one, other = first[figure], second[figure]
                overlap = one.low <= other.high and other.low <= one.high
                count = agreed["warned" if warned else "quiet"]
                count[0] += overlap
                count[1] += 1
                verdict = "agree" if overlap else "DIFFER"
                print(f"{name:28} {figure:42} {one!s:34} {other!s:34} {verdict:7} {' then '.join(grades)}")
    for grade, (number, total) in agreed.items():
        if total:
            low, high = (0.9, 1.0) if grade == "quiet" else (None, None)
            share = Estimate(number / total, number / total, number / total, "x")
            name = f"runs a minute apart agree, {'with' if grade == 'warned' else 'without'} a noise warning"
            table.add(Row(name, str(number), str(total), share, low, high, str(meanwhile)))
    number, total = agreed["quiet"]
    assert total - number <= max(1, total // 10), f"only {number} of {total} pairs without a noise warning agree"
