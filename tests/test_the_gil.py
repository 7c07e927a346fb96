"""The experiments of notebook 04: that each measures what it says, judged by ratios within one run."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from matplotlib.axes import Axes

from helpers import machine
from helpers.experiments import the_gil as module
from helpers.experiments.the_gil import (
    AcrossInterpreters,
    Convoy,
    Handoffs,
    Interpreter,
    SpeedupByWork,
    across_interpreters,
    convoy,
    handoffs,
    speedup_by_work,
    this_interpreter,
)
from helpers.figures import style
from helpers.figures import the_gil as figures
from helpers.machine import Interpreter as Found
from helpers.measure import estimate
from helpers.registry import Unavailable
from helpers.sandbox import WorkerDied
from tests import leftovers, test_figures

two_cores = pytest.mark.skipif(len(machine.cores()) < 2, reason="needs two cores")
with_gil = pytest.mark.skipif(not module._has_gil(), reason="this interpreter has no GIL")
PATIENCE_S = 40  # the machine may be busy


def seen(measured: Callable[[], Any], as_expected: Callable[[Any], bool]) -> Any:
    """The first record that is as expected, or the last one when patience ends."""
    deadline = time.monotonic() + PATIENCE_S
    while not as_expected(record := measured()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return record


def free_threaded() -> str:
    """The path of a Python without a GIL."""
    found = [one.path for one in machine.interpreters() if not one.gil]
    return found[-1] if found else pytest.skip("no free-threaded Python on this machine")


# Watching it change hands


@with_gil
@two_cores
@pytest.mark.parametrize("interval", [5, 20])
def test_a_thread_holds_the_gil_for_the_switch_interval(interval: int) -> None:
    def is_close(record: Handoffs) -> bool:
        return record.against_interval.median == pytest.approx(1, abs=0.15)

    record = seen(lambda: handoffs.here(interval, turns=12, repeats=5), is_close)
    assert is_close(record) and record.holding.median == pytest.approx(interval, rel=0.15)
    assert record.overlap.median < 0.01 and max(record.overlap.samples) < 0.01
    assert record.gap is not None and 0 < record.gap.median < interval * 1000
    assert not [word for word in record.warnings if "not observed" in word]


@with_gil
def test_the_turns_are_the_threads_cpu_time() -> None:
    record = seen(lambda: handoffs.here(5, turns=12, repeats=5), lambda record: 0.85 < record.accounted.median < 1.1)
    assert 0.85 < record.accounted.median < 1.1
    assert {thread for thread, _, _ in record.turns} == {0, 1}
    assert all(begin < end for _, begin, end in record.turns)


def test_the_switch_interval_is_put_back() -> None:
    before = sys.getswitchinterval()
    handoffs.here(1, turns=10, repeats=5)
    convoy.here(1, messages=4, repeats=5)
    assert sys.getswitchinterval() == before


def test_without_a_gil_threads_overlap() -> None:
    python = free_threaded()
    record = seen(lambda: handoffs.under(python, turns=10, repeats=5), lambda record: record.overlap.median > 0.6)
    assert record.overlap.median > 0.6
    assert not record.gil and record.gap is None and record.holding.warnings == (f"{module.NO_GIL}: nothing is held",)


def test_what_did_not_show_is_said() -> None:
    turn = [(0, 0, 10), (1, 10, 20), (0, 20, 30)]
    still = module.Watched(turn[:1], 10, None, 0.0, 1.0)
    at_once = module.Watched(turn, 10, 0, 0.5, 1.0)
    long = module.Watched(turn, 16, 0, 0.0, 1.0)
    for run, said in ((still, "did not change hands"), (at_once, "at once"), (long, "outlast")):
        (word,) = module._unlike_a_gil(True, [run], 10)
        assert said in word
        assert not list(module._unlike_a_gil(False, [run], 10))
    assert not list(module._unlike_a_gil(True, [module.Watched(turn, 11, 0, 0.0, 1.0)], 10))


# Computing and waiting


def test_two_threads_wait_as_one() -> None:
    record = seen(
        lambda: speedup_by_work.here("waiting", repeats=5),
        lambda record: min(record.threads.median, record.processes.median) > 1.7,
    )
    assert record.threads.median > 1.7 and record.processes.median > 1.7


@with_gil
@two_cores
def test_the_same_function_lets_go_of_the_gil_for_large_blocks_alone() -> None:
    def both() -> tuple[SpeedupByWork, SpeedupByWork]:
        large, small = (speedup_by_work.here(work, repeats=5, batch_ms=30) for work in ("sha256", "sha256-small"))
        return large, small

    large, small = seen(both, lambda pair: pair[0].threads.median > 1.2 * pair[1].threads.median)
    assert large.threads.median > 1.2 * small.threads.median


def test_speedup_is_work_over_time() -> None:
    record = speedup_by_work.here("waiting", workers=3, batch_ms=10, repeats=5)
    pairs = zip(record.thread_alone.samples, record.threads_together.samples, strict=True)
    assert record.threads.samples == pytest.approx([3 * alone / together for alone, together in pairs])
    assert record.thread_alone.median > 5, "each worker does a share of its own, of at least that many ms"


def test_numpy_is_asked_for_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(Unavailable, match="numpy"):
        module._prepared("numpy")


@pytest.mark.parametrize("work", ["sha256", "sha256-small", "zlib", "numpy"])
def test_every_work_does_something(work: str) -> None:
    assert module._piece(work)() is not None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_worker_that_fails_is_noticed() -> None:
    for kind in ("thread", "process"):
        with pytest.raises(RuntimeError, match="did not come to its end"):
            module._wall_ns(kind, [lambda: sys.exit(1)])


def test_all_workers_are_gone() -> None:
    before, threads = set(os.listdir("/proc/self/fd")), threading.active_count()
    module._wall_ns("process", [int, int])
    module._wall_ns("thread", [int, int])
    with module._sender(0.001) as receive, module._computing(2):
        receive(3)
    assert set(os.listdir("/proc/self/fd")) == before and threading.active_count() == threads
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


# The convoy


@with_gil
@two_cores
def test_messages_wait_for_the_switch_interval() -> None:
    def both() -> tuple[Convoy, Convoy]:
        short, long = (convoy.here(interval, messages=6) for interval in (2, 10))
        return short, long

    short, long = seen(both, lambda pair: 3 < pair[1].beside.median / pair[0].beside.median < 8)
    assert 3 < long.beside.median / short.beside.median < 8, "five times the interval"
    assert long.beside.low > 4 * long.idle.high
    assert long.added.median == pytest.approx(long.beside.median - long.idle.median, rel=0.2)


def test_without_a_gil_there_is_no_convoy() -> None:
    python = free_threaded()
    record = seen(lambda: convoy.under(python, 10, messages=6), lambda record: record.beside.median < 5)
    assert record.beside.median < 5, "less than half of the switch interval"
    assert module.NO_GIL in record.warnings


def test_a_sender_that_is_gone_is_noticed() -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    with pytest.raises(RuntimeError, match="gone"):
        module._late_by(read_end)
    os.close(read_end)


# Life without it


def test_subinterpreters_compute_side_by_side() -> None:
    newer = [one for one in machine.interpreters() if module._minor(one.version) >= (3, 12)]
    if not newer:
        pytest.skip("no Python 3.12 or newer on this machine")
    one = this_interpreter.under(newer[-1].path, batch_ms=10, repeats=5).interpreter
    assert one.subinterpreters is not None and one.version == newer[-1].version


def test_this_interpreter_says_what_it_is() -> None:
    record = this_interpreter.here(batch_ms=10, repeats=5)
    one = record.interpreter
    assert one.gil == module._has_gil() and one.minor == sys.version_info[:2]
    assert (one.subinterpreters is None) == (sys.version_info < (3, 12))
    assert one.step.median > 0 and one.lost_in_one_line.low >= 0


def test_without_a_gil_updates_in_one_line_are_lost() -> None:
    python = free_threaded()

    def loses(record: Any) -> bool:
        return record.interpreter.lost_in_one_line.median > 1

    assert loses(seen(lambda: this_interpreter.under(python, batch_ms=20, repeats=5), loses))


def test_this_interpreter_is_the_first() -> None:
    record = across_interpreters.here(most=2, batch_ms=5, repeats=5)
    assert record.interpreters[0].minor == sys.version_info[:2]
    assert record.figures()[record.headline_name] is record.interpreters[0].threads
    assert all(len(one.step.samples) == 5 * module.TURNS for one in record.interpreters)
    assert len(record.interpreters) == min(2, len(module._chosen(module._this(), machine.interpreters(), 8)))


def found(version: str, free: bool = False, by: str = "PATH") -> Found:
    return Found(f"/bin/{version}{free}", version, "CPython", not free, free, by)


def test_the_newest_of_each_minor_version_and_build_is_chosen() -> None:
    here = found("3.12.1", by="this one")
    others = [
        found("3.10.1"),
        found("3.11.2"),
        found("3.12.9"),
        found("3.13.0", True),
        found("3.13.1"),
        found("3.13.1", True),
    ]
    names = [(one.version, one.free_threaded) for one in module._chosen(here, [*others, here], 8)]
    assert names == [("3.12.1", False), ("3.13.1", True), ("3.13.1", False), ("3.11.2", False)]
    assert module._chosen(here, others, 1) == module._chosen(here, [], 8) == [here]


def test_a_broken_interpreter_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "interpreters", lambda: [found("3.99.1")])
    record = across_interpreters.here(batch_ms=5, repeats=5)
    assert len(record.interpreters) == 1
    assert any(word.startswith("Python 3.99.1 left out: ") and "\n" not in word for word in record.warnings)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
def test_killed_amid_another_interpreter_it_leaves_nothing() -> None:
    """Its worker runs a sandbox of its own, whose processes must go with it."""
    ends: list[BaseException] = []

    def run() -> None:
        try:
            across_interpreters.run(on_progress=lambda *_: None)
        except BaseException as error:
            ends.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    us = os.getpid()
    inside = "helpers.worker import main"
    assert leftovers.wait_until(lambda: sum(inside in words(one) for one in leftovers.processes(us)) >= 4)
    os.kill(leftovers.guard_and_worker(us)[1], signal.SIGKILL)
    thread.join()
    assert [type(end) for end in ends] == [WorkerDied]
    assert leftovers.left_by(us) == []


def words(process: int) -> str:
    try:
        with open(f"/proc/{process}/cmdline") as file:
            return file.read()
    except OSError:
        return ""


# What single threads pay


def row(version: str, *, gil: bool = True, optimised: bool | None = True, step: float = 100) -> Interpreter:
    def about(value: float, unit: str) -> Any:
        return estimate([value * (0.98 + 0.01 * each) for each in range(5)], unit)

    return Interpreter(
        version=version,
        gil=gil,
        free_threaded=not gil,
        optimised=optimised,
        threads=about(0.9 if gil else 1.8, "x"),
        subinterpreters=None if version.startswith("3.11") else about(1.9, "x"),
        overlap=about(0 if gil else 0.9, "share"),
        step=about(step, "ns"),
        thread_start=about(100, "µs"),
        lost_in_one_line=about(0 if gil else 40, "%"),
        lost_in_steps=about(30, "%"),
    )


def across(*rows: Interpreter) -> AcrossInterpreters:
    return AcrossInterpreters(interpreters=rows)


def test_the_price_compares_two_builds_of_one_version() -> None:
    free = row("3.13.9", gil=False, step=150)
    record = across(row("3.11.1", step=10), row("3.13.1", step=100), free)
    price = record.price(free)
    assert price is not None and price.median == pytest.approx(1.5)
    assert record.price(record.interpreters[1]) is None, "with the GIL there is nothing to pay"
    assert record.figures()["time of one thread, 3.13t"] == price


@pytest.mark.parametrize("other", [row("3.12.1"), row("3.13.1", optimised=False), row("3.13.1", optimised=None)])
def test_unlike_builds_are_not_compared(other: Interpreter) -> None:
    record = across(other, row("3.13.9", gil=False))
    assert record.price(record.interpreters[1]) is None
    assert any("3.13t: no build of the same version" in word for word in module._remarks(record))


def test_how_to_get_one_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "interpreters", lambda: [found("3.11.1", by="this one")])
    assert any("uv python install" in word for word in module._remarks(across(row("3.11.1"))))
    monkeypatch.setattr(machine, "interpreters", lambda: [found("3.13.1", True)])
    assert machine.free_threaded() is None


# The figures


def held(interval: float, gil: bool = True) -> Handoffs:
    turns = tuple((place % 2, place * interval * (1 if gil else 0.1), (place + 1) * interval) for place in range(20))
    about = [interval * (1 + each / 100) for each in range(5)]
    return Handoffs(
        gil=gil,
        threads=2,
        interval_ms=interval,
        turns=turns,
        holding=estimate(about, "ms"),
        against_interval=estimate([each / interval for each in about], "x"),
        gap=estimate([30, 31, 32, 33, 34], "µs") if gil else None,
        overlap=estimate([0.0 if gil else 0.9] * 5, "share"),
        accounted=estimate([0.98] * 5, "x"),
        warnings=() if gil else (module.NO_GIL,),
        reference="a machine",
    )


def gained(work: str, threads: float, workers: int = 2) -> SpeedupByWork:
    time = estimate([40, 41, 42, 43, 44], "ms")
    return SpeedupByWork(
        gil=True,
        work=work,
        workers=workers,
        threads=estimate([threads * (1 + each / 50) for each in range(5)], "x"),
        processes=estimate([workers * (1 - each / 50) for each in range(5)], "x"),
        thread_alone=time,
        threads_together=time,
        process_alone=time,
        processes_together=time,
        reference="a machine",
    )


def late(interval: float, beside: float) -> Convoy:
    idle = estimate([0.05, 0.06, 0.07, 0.05, 0.06], "ms")
    slow = estimate([beside * (1 + each / 50) for each in range(5)], "ms")
    return Convoy(
        gil=True,
        interval_ms=interval,
        threads=1,
        idle=idle,
        beside=slow,
        added=slow,
        slowest_idle=idle,
        slowest_beside=slow.scaled(2),
        reference="a machine",
    )


WORKS = ("pure-python", "waiting", "sha256", "sha256-small", "zlib", "numpy")
FULL = across(row("3.11.1"), row("3.12.1"), row("3.13.1"), row("3.13.2", gil=False, step=230))
PICTURES: dict[str, Callable[[], Axes]] = {
    "turns": lambda: figures.handoffs([held(5), held(20)], guess=1),
    "turns of one": lambda: figures.handoffs([held(5)], guess=500),
    "turns without a GIL": lambda: figures.handoffs([held(5), held(5, gil=False)], guess=20),
    "speed-up": lambda: figures.speedup_by_work(
        [gained(work, 1.9) for work in WORKS], guess=2, ghosts=[gained(work, 1.8) for work in WORKS]
    ),
    "speed-up of many": lambda: figures.speedup_by_work([gained("pure-python", 0.5, 16)], guess=400),
    "convoy": lambda: figures.convoy([late(each, each) for each in (0.5, 5, 20)], guess=0.1, ghosts=[late(5, 6)]),
    "no convoy": lambda: figures.convoy([late(5, 0.05)], guess=1000),
    "pythons": lambda: figures.across_interpreters(replace(FULL, reference="a machine"), guess=1.2)[0],
    "one python": lambda: figures.across_interpreters(replace(across(row("3.11.1")), reference="a machine"))[0],
    "pythons, a small guess": lambda: figures.across_interpreters(replace(FULL, reference="a machine"), guess=0.1)[0],
    "pythons, some from elsewhere": lambda: figures.across_interpreters(
        across(row("3.11.1")), guess=9, ghost=replace(FULL, reference="a machine")
    )[0],
}


@pytest.fixture(params=PICTURES, scope="module")
def axes(request: pytest.FixtureRequest) -> Axes:
    return PICTURES[request.param]()


@pytest.mark.beside_others
def test_the_pictures_hold_together(axes: Axes) -> None:
    test_figures.test_no_word_is_clipped(axes)
    test_figures.test_it_reads_from_the_back_of_a_classroom(axes)
    test_figures.test_axes_and_titles_are_named(axes)
    test_figures.test_alt_and_caption_come_from_the_data(axes)
    test_figures.test_the_reference_run_is_labelled(axes)


def test_what_the_gil_hid_is_told() -> None:
    caption = style.caption(figures.across_interpreters(FULL)[0])
    assert "0 % were lost with the GIL" in caption and "40 % without" in caption
    assert "2.3 times" in caption.replace("2.30", "2.3")


def test_large_and_small_blocks_are_told_apart() -> None:
    apart = [gained("sha256", 1.9), gained("sha256-small", 1.0)]
    assert "The same function" in style.caption(figures.speedup_by_work(apart))
    alike = [gained("sha256", 1.0), gained("sha256-small", 1.0)]
    assert "The same function" not in style.caption(figures.speedup_by_work(alike))
