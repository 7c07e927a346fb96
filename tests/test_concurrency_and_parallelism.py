"""The experiments of notebook 02: known answers, and ratios within one run."""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import machine, measure, timeline
from helpers.experiments import concurrency_and_parallelism as module
from helpers.experiments.concurrency_and_parallelism import (
    Dish,
    Recipe,
    Simd,
    Speedup,
    ThreadsOrProcesses,
    ThreeDishes,
    amdahl,
    concurrency,
    fit_amdahl,
    fit_gustafson,
    gustafson,
    limit,
    parallelism,
    simd,
    speedup,
    threads_or_processes,
    three_dishes,
    vector_addition,
)
from helpers.figures import concurrency_and_parallelism as figures
from helpers.figures import style
from helpers.measure import estimate
from helpers.record import Record
from tests.test_figures import shipped, words

two_cores = pytest.mark.skipif(len(machine.cores()) < 2, reason="needs two cores")
pinning = pytest.mark.skipif(machine.pinning() is not None, reason="this system cannot pin")

MS = 1_000_000
TRIES = 20  # other programs may have the cores for a while


# How many at once, by hand


def dish(begin: int, end: int, cpu: int = 0) -> Dish:
    return Dish([(begin, (begin + end) // 2)], [((begin + end) // 2, end)], [cpu])


def test_one_after_another_is_one_at_once() -> None:
    assert concurrency([dish(0, 10), dish(10, 30), dish(30, 40)]) == 1


def test_all_at_once_are_as_many_as_there_are() -> None:
    assert concurrency([dish(5, 15)] * 3) == 3
    assert concurrency([dish(0, 20), dish(10, 20)]) == pytest.approx(1.5)


def test_a_pause_between_them_counts() -> None:
    assert concurrency([dish(0, 10), dish(30, 40)]) == pytest.approx(0.5)


def test_cores_at_work_are_cpu_time_over_wall_time() -> None:
    assert parallelism([dish(0, 10, cpu=10)]) == 1
    assert parallelism([dish(0, 10, cpu=10), dish(0, 10, cpu=10)]) == 2
    assert parallelism([dish(0, 10, cpu=5), dish(10, 20, cpu=5)]) == pytest.approx(0.5)


# How many at once, with a known answer


def chopped_on(cores: list[int], looks: int) -> list[Dish]:
    """One chop by each of some processes, pinned to these cores."""

    def cook(core: int) -> Dish:
        machine.pin(core)
        return module._cook(Recipe(looks, 0, 1))

    with module._crew("processes", len(cores), cook) as crew:
        return [Dish(*answer) for answer in crew.run(cores, module._soon())]


def best(measured: Callable[[], float], enough: float) -> float:
    """The highest of some tries, the first that is enough."""
    found = 0.0
    for _ in range(TRIES):
        found = max(found, measured())
        if found >= enough:
            break
    return found


@pytest.fixture(scope="module")
def looks() -> int:
    return module._amount(timeline.slices_of, 20)


class Meanwhile:
    """What other programs did from now on: they may leave us less than the whole machine, whatever we try."""

    def __init__(self) -> None:
        self._before = measure.activity()

    def busy(self) -> bool:
        return measure.grade_noise(self._before, measure.activity()).grade == "busy"


@two_cores
@pinning
def test_two_pinned_workers_are_two_cores_at_work(looks: int) -> None:
    meanwhile = Meanwhile()
    found = best(lambda: parallelism(chopped_on(list(machine.cores()[:2]), looks)), 1.9)
    assert found < 2.05
    assert found == pytest.approx(2.0, rel=0.1) or meanwhile.busy()


@pinning
def test_two_workers_on_one_core_are_one_core_at_work(looks: int) -> None:
    core = machine.cores()[0]
    meanwhile = Meanwhile()
    runs: list[list[Dish]] = []
    found = best(lambda: (runs.append(chopped_on([core, core], looks)), parallelism(runs[-1]))[1], 0.95)
    assert found < 1.02 and all(timeline.overlap([each.chop for each in run]) == 0 for run in runs)
    assert found == pytest.approx(1.0, rel=0.1) or meanwhile.busy()


@pinning
@pytest.mark.parametrize("apart", [False, True])
def test_time_stamps_and_cpu_time_agree(looks: int, apart: bool) -> None:
    """Two independent witnesses of the same thing, however busy the machine is."""
    cores = machine.cores()
    run = chopped_on([cores[0], cores[-1] if apart else cores[0]], looks)
    seen = timeline.at_once([each.chop for each in run], module.wall_ns(run))
    assert seen == pytest.approx(parallelism(run), rel=0.1)


# Three dishes


@pytest.fixture(scope="module")
def meal() -> ThreeDishes:
    """Cooked again while other programs keep the processes from running at once."""
    for _ in range(3):
        record = three_dishes.here(chop_ms=20, simmer_ms=5, repeats=5)
        if not any("not observed" in word for word in record.warnings):
            break
    return record


def by_name(record: ThreeDishes) -> dict[str, module.Execution]:
    return {each.name: each for each in record.executions}


def test_in_progress_and_at_work_are_not_the_same(meal: ThreeDishes) -> None:
    found = by_name(meal)
    alone, shared, tasks = found["one after another"], found["threads on one core"], found["asyncio"]
    assert alone.in_progress.median == pytest.approx(1, abs=0.05) and alone.most_in_progress == 1
    assert shared.in_progress.median > 1.8 and shared.most_in_progress == 3
    assert tasks.in_progress.median > 1.5 and tasks.most_in_progress == 3
    assert alone.cores_at_work.median <= 1.02 and tasks.cores_at_work.median <= 1.02


@pinning
def test_one_core_is_never_two(meal: ThreeDishes) -> None:
    found = by_name(meal)["threads on one core"]
    assert found.overlap.median < 1 and found.most_at_work == 1 and found.cores_at_work.median <= 1.02


@two_cores
def test_processes_run_at_once(meal: ThreeDishes) -> None:
    found = by_name(meal)["processes on all cores"]
    assert (found.overlap.median > 50 and found.most_at_work >= 2) or _is_busy(meal)


def _is_busy(record: Record) -> bool:
    return record.noise is not None and record.noise.grade == "busy"


def test_what_is_drawn_is_what_happened(meal: ThreeDishes) -> None:
    for each in meal.executions:
        assert len(each.chop) == len(each.simmer) == module.DISHES
        for chop, simmer in zip(each.chop, each.simmer, strict=True):
            assert all(0 <= begin <= end for begin, end in (*chop, *simmer))
            assert all(later >= earlier for (_, earlier), (later, _) in pairwise(chop))
            assert len(simmer) == 2 and all(end - begin >= meal.simmer_ms * 0.99 for begin, end in simmer)
            assert not any(begin < last and first < end for begin, end in chop for first, last in simmer)


def test_a_task_is_not_pushed_off_by_another(meal: ThreeDishes) -> None:
    """In asyncio each chop runs to its end before the next task has its turn."""
    chops = sorted((begin, which) for which, chop in enumerate(by_name(meal)["asyncio"].chop) for begin, _ in chop)
    turns = [which for place, (_, which) in enumerate(chops) if place == 0 or chops[place - 1][1] != which]
    assert len(turns) <= 2 * module.DISHES


def test_one_core_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: (0,))
    assert any("only one core" in word for word in module._place_warnings(1))
    record = speedup.here(work_ms=10, repeats=5)
    assert record.workers == (1, 2) and any("looks serial" in word for word in record.warnings)


def test_what_does_not_show_is_said(meal: ThreeDishes) -> None:
    seen = list(meal.executions)
    assert not list(module._effect_warnings([replace(each, overlap=_percent(_usual(each))) for each in seen], 2))
    odd = [replace(each, overlap=_percent(20)) for each in seen]
    assert len([word for word in module._effect_warnings(odd, 2) if "not observed here" in word]) == 2


def _usual(execution: module.Execution) -> float:
    return 90 if "processes" in execution.name else 0


def _percent(value: float) -> measure.Estimate:
    return estimate([value] * 5, "%")


# The crew


def test_a_crew_leaves_nothing_behind() -> None:
    before = set(os.listdir("/proc/self/fd"))
    for context in ("processes", "threads"):
        with module._crew(context, 3, lambda amount: amount * 2) as crew:
            assert crew.run([1, 2, 3]) == [2, 4, 6]
            assert crew.run([5]) == [10]
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_crew_begins_together() -> None:
    with module._crew("processes", 3, lambda _: time.perf_counter_ns()) as crew:
        begin = time.perf_counter_ns() + 20 * MS
        assert min(crew.run([0] * 3, begin)) >= begin


def test_a_worker_that_fails_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(RuntimeError, match="ended before"),
        module._crew("processes", 2, lambda amount: 1 / amount) as c,
    ):
        c.run([1, 0])


# The two laws


shares = st.floats(0, 1)
counts = st.lists(st.integers(2, 64), min_size=1, max_size=6, unique=True)


@given(shares, counts)
def test_a_law_gives_back_its_serial_share(serial: float, workers: list[int]) -> None:
    assert fit_amdahl(workers, [amdahl(serial, n) for n in workers]) == pytest.approx(serial, abs=1e-9)
    assert fit_gustafson(workers, [gustafson(serial, n) for n in workers]) == pytest.approx(serial, abs=1e-9)


@given(shares, st.integers(1, 1000))
def test_nobody_beats_the_ideal(serial: float, workers: int) -> None:
    assert 1 - 1e-9 <= amdahl(serial, workers) <= gustafson(serial, workers) * (1 + 1e-9) <= workers * (1 + 2e-9)


def test_a_worker_alone_says_nothing_of_the_share() -> None:
    assert fit_amdahl([1, 2], [1, amdahl(0.3, 2)]) == pytest.approx(0.3)
    assert fit_amdahl([1, 2], [1.0, 1.0]) == 1 and fit_amdahl([1, 2], [1.0, 2.0]) == 0


@given(shares, counts, st.floats(1, 1.5))
def test_cores_that_slow_each_other_down_are_told_from_serial_work(serial: float, n: list[int], slower: float) -> None:
    times = [serial + (1 - serial) * slower / each for each in n]
    found = fit_amdahl(n, [1 / time for time in times], [slower] * len(n))
    assert found == pytest.approx(serial, abs=1e-9)


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("percent", [10, 40])
def test_waiting_gives_its_serial_share_back(percent: int, growing: bool) -> None:
    for _ in range(5):
        record = speedup.here(
            "waiting", serial_percent=percent, growing=growing, work_ms=30 if growing else 60, repeats=5
        )
        if abs(record.fitted.median - percent) <= 5:
            break
    assert record.fitted.median == pytest.approx(percent, abs=5)
    assert record.serial == pytest.approx(percent / 100) and record.workers[-1] == record.fitted_to == 16


@two_cores
@pytest.mark.parametrize("percent", [10, 40])
def test_computing_gives_its_serial_share_back(percent: int) -> None:
    """By the wall clock; by CPU time while other programs do not let it show."""
    meanwhile = Meanwhile()
    right = pytest.approx(percent, abs=5)
    by_cpu = []
    for _ in range(8):
        record = speedup.here("computing", serial_percent=percent, work_ms=40, repeats=9)
        if record.corrected is not None and right in (record.corrected.median, record.fitted.median):
            break
        by_cpu.append(by_cpu_time(record))
    else:
        assert meanwhile.busy() and measure.median(by_cpu) == right
    assert record.fitted_to == record.cores


def by_cpu_time(record: Speedup) -> float:
    seen = record.workers.index(record.fitted_to) + 1
    one, *_ = cpu = [each.median for each in record.cpu[:seen]]
    slower = [each.median for each in record.slowdown[:seen]]
    return 100 * fit_amdahl(record.workers[:seen], [one / each for each in cpu], slower)


def test_a_law_that_does_not_show_is_said() -> None:
    (word,) = module._law_warnings(10, _percent(60))
    assert "not observed here: 10 %" in word and "60 %" in word
    assert not list(module._law_warnings(10, _percent(13)))


@two_cores
def test_beyond_the_cores_it_stops() -> None:
    """The quickest of its times, as others can only make it slower."""
    record = speedup.here("computing", serial_percent=0, work_ms=20, repeats=10)
    quickest = dict(zip(record.workers, (min(each.samples) for each in record.wall), strict=True))
    assert quickest[record.workers[-1]] > 0.6 * quickest[record.cores]


def test_numbers_of_workers() -> None:
    assert module._worker_counts("computing", 2) == [1, 2, 4]
    assert module._worker_counts("computing", 6) == [1, 2, 4, 6, 8, 12]
    assert module._worker_counts("computing", 1) == [1, 2]
    assert module._worker_counts("computing", 128)[-1] == module.MOST_COMPUTING
    assert module._worker_counts("waiting", 2) == [1, 2, 4, 8, 16]


# Threads or processes


def test_limits() -> None:
    assert limit(0, 4, workers=8, cores=1) == 1
    assert limit(4, 4, workers=8, cores=1) == 2
    assert limit(4, 4, workers=8, cores=2) == 4
    assert limit(16, 1, workers=8, cores=1) == 8


def run(wait: int, work: int, cores: int) -> ThreadsOrProcesses:
    return threads_or_processes.here(wait, work, cores, batch_ms=8, repeats=5)


def of(record: ThreadsOrProcesses, name: str) -> float:
    return record.speedup[record.executions.index(name)].median


def test_waiting_is_for_threads_too() -> None:
    record = run(4, 1, 1)
    assert all(of(record, name) > 2 for name in ("threads", "asyncio", "processes"))
    assert record.tasks % record.workers == 0 and record.cores == 1


@pinning
def test_one_core_computes_no_faster_in_pieces() -> None:
    record = run(0, 4, 1)
    assert all(of(record, name) < 1.3 for name in ("threads", "asyncio", "processes"))


@two_cores
def test_computing_is_for_processes() -> None:
    meanwhile = Meanwhile()
    found = best(lambda: run(0, 4, 2).processes_over_threads.median, 1.4)
    assert found > 1.4 or meanwhile.busy() or not module._has_gil()


@pytest.fixture(scope="module")
def record() -> ThreadsOrProcesses:
    return run(1, 1, 64)


def test_fewer_cores_than_asked_for_is_said(record: ThreadsOrProcesses) -> None:
    assert record.cores == min(64, len(machine.cores()))
    assert record.cores == 64 or "instead of 64" in record.warnings[0]


# Vectors


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("\tvpaddd\t(%rsi,%rax,4), %zmm0, %zmm1\n", ("vpaddd", 512)),
        ("\tvpaddb\t(%rsi), %ymm0, %ymm1\n\tvpaddb %xmm0, %xmm1, %xmm2", ("vpaddb", 256)),
        ("\tpaddq\t%xmm0, %xmm1\n", ("paddq", 128)),
        ("\tadd\tv0.16b, v1.16b, v2.16b\n", ("add", 128)),
        ("\tadd.4s\tv0, v1, v2\n", ("add.4s", 128)),
        ("\taddb\t(%rsi,%r11), %bl\n\taddq\t$8, %r11\n\tadd\tx0, x1, x2\n", ("", 0)),
        ("\tmovq\t%xmm0, %rax\n\tvmovdqu\t%ymm0, (%rdi)\n", ("", 0)),
    ],
)
def test_vector_instructions_are_found(code: str, found: tuple[str, int]) -> None:
    assert vector_addition(code) == found


@pytest.fixture(scope="module")
def vectors() -> Simd:
    return simd.here(repeats=5)


def test_narrow_numbers_gain_more(vectors: Simd) -> None:
    assert vectors.register_bits >= 128 and all(vectors.instructions)
    assert vectors.faster[0].median > 2 * vectors.faster[-1].median
    assert vectors.faster[vectors.bits.index(32)].median > 1.5
    assert not any("not observed" in word for word in vectors.warnings)


def test_the_compiler_is_left_as_it_was() -> None:
    import numba

    before = numba.config.LOOP_VECTORIZE
    module._compiled_addition(32, vectors=not before)
    assert before == numba.config.LOOP_VECTORIZE


def test_missing_vectors_are_said(vectors: Simd) -> None:
    without = {f"{bits} {vectors}": ("", 0) for bits in module.BITS for vectors in (False, True)}
    (word,) = module._vector_warnings(without, vectors.faster)
    assert "used no vector instructions" in word
    everywhere = {name: ("vpaddd", 256) for name in without}
    assert "too" in next(module._vector_warnings(everywhere, vectors.faster))


# Pictures


def pictures() -> Iterator[Any]:
    meal, vectors, point = shipped(three_dishes.name), shipped(simd.name), shipped(threads_or_processes.name)
    fixed = shipped(speedup.name, work="waiting", growing=False)
    growing = replace(fixed, law="Gustafson")
    shift = {"processes": 2.0, "threads": 0.5, "even": 1.0}
    cells = zip([0, 1, 4, 16], [*shift, "even"], strict=True)
    grid = [
        replace(point, wait_ms=wait, cores=cores, processes_over_threads=estimate([shift[who]] * 5, "x"))
        for wait, who in cells
        for cores in (1, point.cores)
    ]
    yield figures.three_dishes(meal, guess=2, ghost=named(meal))
    yield figures.speedup([fixed, growing], guess=40, ghosts=[named(fixed), None])
    yield figures.speedup([replace(fixed, work="computing", fitted=estimate([-5.0, 2, 104, 120, 130], "%"))])
    yield figures.threads_or_processes(point, guess=9, ghost=named(point))
    yield figures.threads_or_processes(point, grid=grid)
    yield figures.who_wins(grid, current=point)[0]
    yield figures.simd(vectors, guess=0.5, ghost=named(vectors))[0]
    yield figures.simd(replace(vectors, register_bits=0, instructions=("",) * 4))[0]


def named(record: Any) -> Any:
    return replace(record, reference="2 virtual cores of a Some Processor, Linux, Python 3.11")


@pytest.mark.beside_others
def test_pictures_hold_together() -> None:
    for ax in pictures():
        figure = style._figure(ax)
        figure.draw_without_rendering()
        for text in words(figure):
            box = text.get_window_extent()
            inside = (
                box.x0 >= -1 and box.y0 >= -1 and box.x1 <= figure.bbox.width + 1 and box.y1 <= figure.bbox.height + 1
            )
            assert inside or not text.get_in_layout(), text.get_text()
            assert text.get_fontsize() >= 10, text.get_text()
        assert all(each.get_title(loc="left") and each.get_xlabel() for each in figure.axes)
        assert any(letter.isdigit() for letter in style.caption(ax)) and len(style.alt(ax)) > 40
        assert "nan" not in style.caption(ax) and "None" not in style.caption(ax)
