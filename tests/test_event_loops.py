"""Notebook 06's experiments and figures."""

from __future__ import annotations

import asyncio
import inspect
import select
import selectors
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest
from matplotlib.axes import Axes

from helpers import machine
from helpers.experiments import event_loops
from helpers.experiments.event_loops import (
    BackPressure,
    Culprit,
    Echo,
    HandOffs,
    Heartbeat,
    TimeOuts,
    Waiting,
    back_pressure,
    culprit,
    echo,
    hand_offs,
    heartbeat,
    steps,
    timeouts_and_cancellation,
    waiting,
)
from helpers.figures import event_loops as figures
from helpers.figures import style
from helpers.measure import MIB, estimate, quantile
from helpers.record import Record
from helpers.testbed import echo_servers, program
from helpers.testbed.heartbeat import ASK_MS, BEAT_MS, CURES, Run, _beat
from helpers.testbed.slow_readers import MESSAGE, PLACES, Flow
from tests import leftovers, test_figures


def readable(ax: Axes) -> None:
    """It holds together as a picture, as all figures do."""
    test_figures.test_no_word_is_clipped(ax)
    test_figures.test_it_reads_from_the_back_of_a_classroom(ax)
    test_figures.test_axes_and_titles_are_named(ax)
    test_figures.test_alt_and_caption_come_from_the_data(ax)


needs_fork = pytest.mark.skipif(machine.fork() is not None, reason="forks")


# What a loop waits for


@pytest.fixture(scope="module")
def waited() -> Waiting:
    return waiting.here(100, repeats=5)


def test_each_call_finds_the_ready_socket_among_few_and_many(waited: Waiting) -> None:
    assert waited.best == selectors.DefaultSelector.__name__.removesuffix("Selector").lower()
    for call in {each.call for each in waited.waits}:
        assert [each.idle for each in waited.waits if each.call == call] == [0, 10, 100]


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="compares poll with epoll")
def test_poll_reads_the_whole_list_and_epoll_does_not(waited: Waiting) -> None:
    times = {(each.call, each.idle): min(each.time.samples) for each in waited.waits}
    assert times["poll", 100] > 2 * times["poll", 10]
    assert times["poll", 100] > 2 * times["epoll", 100]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="1,024 is the size of glibc's bitmap")
def test_select_refuses_descriptors_beyond_its_bitmap() -> None:
    if machine.raise_descriptor_limit() < 1200:
        pytest.skip("so many descriptors are not allowed here")
    with ExitStack() as opened:
        finders, refused = event_loops._finders([0, 1030], opened)
    assert refused is not None and refused >= 1024
    assert "select 0" in finders and "select 1030" not in finders and "poll 1030" in finders


def test_all_calls_are_named_in_the_figure(waited: Waiting) -> None:
    many = Waiting(**{**vars(waited), "poll_growth": estimate([50.0] * 5, "x"), "refused": 1100})  # by glibc's bitmap
    for record, guess in ((waited, None), (many, 60.0), (many, 5.0)):
        ax = figures.waiting(record, guess=guess, ghost=record)
        assert all(call in style.alt(ax) for call in ("select", "poll", waited.best))
        readable(ax)
    assert "no descriptor above 1,023" in style.caption(ax)


# The loop, step by step


@pytest.mark.parametrize("program", steps.parameters["program"].choices)
def test_a_step_of_every_program_can_be_drawn(program: str) -> None:
    record = steps.here(program, repeats=5)
    assert 10 < len(record.steps) < 40
    number = len(record.steps) // 2
    ax = figures.step(record, number)
    shown = record.steps[number - 1]
    assert all(name in style.alt(ax) for name in (*shown.stack, *shown.ready, *shown.output))
    readable(ax)


def test_a_loop_sleeps_unless_somebody_blocks_it() -> None:
    assert steps.here("timers").asleep.median > 10 * steps.here("blocking").asleep.median


# Build one, and against the others


@pytest.fixture(scope="module")
def handed() -> HandOffs:
    return hand_offs.here(count=200, repeats=5)


@pytest.fixture(scope="module")
def echoed() -> Echo:
    return echo.here(connections=3, seconds=0.01, repeats=5)


def test_every_loop_hands_over_to_callbacks_and_coroutines(handed: HandOffs) -> None:
    loops = ["tiny loop", *event_loops._asyncio_loops()]
    assert [(each.loop, each.way) for each in handed.hand_offs] == [
        (name, way) for name in loops for way in ("callback", "coroutine")
    ]
    assert handed.figures()["asyncio, callback"].median > 0


@pytest.mark.parametrize("name", ["tiny loop", *event_loops._asyncio_loops()])
def test_two_take_turns_as_often_as_promised(name: str) -> None:
    side = event_loops._TinySide() if name == "tiny loop" else event_loops._TheirSide(name)
    turns: list[str] = []

    async def one(who: str) -> None:
        for _ in range(3):
            turns.append(who)
            await side.sleep(0)
        if who == "b":
            side.stop()

    side.spawn(one("a"))
    side.spawn(one("b"))
    side.run()
    assert turns == list("ababab")
    calls: list[object] = []

    def call_soon(callback: Any) -> None:
        calls.append(callback)
        side.call_soon(callback)

    call_soon(event_loops._callbacks(call_soon, side.stop, 5))
    side.run()
    assert len(calls) == 5 and calls[0] is calls[2] is calls[4] and calls[1] is calls[3]
    side.close()


def test_a_sample_is_per_hand_off_in_both_clocks() -> None:
    wall, cpu = event_loops._sampled(lambda: time.sleep(0.05), 10)
    assert 5_000 <= wall < 40_000 and cpu < 2_000  # µs


def test_a_hand_off_is_what_the_loop_adds(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its clocks 5 and 3 µs, of which 2 and 1 are those of the same calls without a loop."""

    def taken(conditions: dict[str, object], repeats: int) -> dict[str, list[tuple[float, float]]]:
        return {name: [(5.0, 3.0) if ", " in name else (2.0, 1.0)] * repeats for name in conditions}

    monkeypatch.setattr(event_loops, "interleave", taken)
    record = hand_offs.here(count=200, repeats=5)
    assert {(each.wall.median, each.cpu.median) for each in record.hand_offs} == {(3.0, 2.0)}


@needs_fork
def test_every_server_answers_every_request(echoed: Echo) -> None:
    assert [each.server for each in echoed.servers][:4] == list(echo_servers.SERVERS[:4])
    assert all(each.throughput.low > 0 and each.cpu.low > 0 for each in echoed.servers)
    assert echoed.connections == 3


@needs_fork
def test_cpu_time_and_throughput_are_per_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand requests in half a second, for which the servers took 30, 24, 20 ms and the client 100."""
    cpu = {"asyncio streams": 0.030, "tiny loop": 0.024, "tiny loop, thrifty": 0.020}

    def told(*_: object, servers: dict[str, Any], repeats: int, **__: object) -> dict[str, list[list[float]]]:
        return {name: [[1000, 0.5, cpu.get(name, 0.01), 0.1]] * repeats for name in servers}

    monkeypatch.setattr(event_loops.program, "call", told)
    record = echo.here(repeats=5)
    found = {each.server: each for each in record.servers}
    assert [found[name].cpu.median for name in cpu] == pytest.approx([30, 24, 20])
    assert all(each.throughput.median == 2000 and each.client_cores == 0.2 for each in record.servers)
    assert (record.compared.median, record.thrift.median) == pytest.approx((1.5, 1.2))


def test_the_cpu_time_is_that_of_the_process_that_is_named() -> None:
    with (
        program.running(echo_servers.__name__, server="tiny loop") as server,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as idle,
    ):
        leftovers.wait_until(lambda: psutil.Process(idle.pid).status() == psutil.STATUS_SLEEPING)
        requests, took, cpu, mine = echo_servers.ask(server["address"], idle.pid, 2, 0.1)
    assert requests > 2 and took >= 0.1 and mine > 0
    assert cpu < 0.05  # it only waited


def test_uvloop_is_left_out_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_loops, "find_spec", lambda _: None)
    for record in (hand_offs.here(count=200, repeats=5), echo.here(connections=1, seconds=0.01, repeats=5)):
        assert event_loops.NO_UVLOOP in record.warnings
        assert not any("uvloop" in name for name in record.figures())


@needs_fork
def test_the_figures_of_these_hold_together(handed: HandOffs, echoed: Echo) -> None:
    below = replace(
        handed,
        hand_offs=tuple(replace(each, cpu=estimate([-0.1, 0, 0.1, 0.2, -0.2], "µs")) for each in handed.hand_offs),
    )
    for ax in (
        figures.hand_offs(handed, ghost=handed),
        figures.hand_offs(below),
        figures.echo(echoed, guess=0.3, ghost=echoed),
        figures.echo(echoed, guess=1000),
    ):
        readable(ax)


# Block it, free it


def is_observed(record: Record) -> bool:
    """The record doesn't say that its effect was missing; the machine may be busy."""
    return not any("not observed" in word for word in record.warnings)


@pytest.fixture(scope="module")
def beating() -> Heartbeat:
    """One small run, on this machine."""
    return heartbeat.here(block_ms=25, every_ms=50, jobs=1)


@needs_fork
def test_no_heart_beats_while_the_loop_computes(beating: Heartbeat) -> None:
    none = beating.cure("none")
    assert beating.blocked.median == 1 and is_observed(beating)
    assert beating.lag_over_block.median > 0.9
    assert none.job.low >= beating.block_ms and none.stretch.low >= 1
    for asked, done in beating.trace.jobs:
        assert not [due for due, late in beating.trace.beats if asked + 1 < due + late < done]


@needs_fork
def test_who_asks_first_in_a_block_waits_longest(beating: Heartbeat) -> None:
    asked, done = beating.trace.jobs[0]
    late = [latency for due, latency in beating.trace.answers if asked + 1 < due < done]
    assert late[0] > late[-1] and late[0] > beating.block_ms / 2
    assert len(beating.trace.answers) == 3 * 50 / ASK_MS


@needs_fork
def test_every_cure_does_the_same_and_states_its_price(beating: Heartbeat) -> None:
    assert tuple(each.name for each in beating.cures) == CURES
    for cure in beating.cures:
        is_handed_over = cure.name not in ("none", "chunks")
        assert cure.job.low >= 0.5 * beating.block_ms  # the password's hash is only about as long
        assert (cure.hand_over is not None) == is_handed_over == (cure.start is not None)
    process = beating.cure("process")
    assert process.memory is None or 0.2 < process.memory.median < 200
    assert all(cure.memory is None for cure in beating.cures if cure.name != "process")


def test_an_idle_loop_has_no_lag() -> None:
    """Which is counted from when a beat was due; the beat before was longer ago."""
    beats: list[tuple[float, float]] = []

    async def scene() -> None:
        beating = asyncio.create_task(_beat(beats, time.perf_counter_ns()))
        await asyncio.sleep(0.2)
        beating.cancel()

    asyncio.run(scene())
    assert 0 <= min(late for _, late in beats) < BEAT_MS / 2


def test_the_price_of_a_cure_is_without_heartbeats_and_per_cpu_time_of_the_job() -> None:
    """50 ms of computing, done after 100; 70 ms in all, of which a hundred beats took 10: without a job 200 took 20."""
    run = Run([(0, 0.1)] * 100, [(0, 100, 50)], [1.0], cpu=70, hand_over=0.04, start=3, memory=None)
    idle = Run([(0, 0.1)] * 200, [], [1.0], cpu=20, hand_over=0, start=0, memory=None)
    cure = event_loops._cure("thread", [run] * 5, [idle] * 5)
    assert (cure.job.median, cure.stretch.median, cure.cpu.median) == pytest.approx((100, 2, 1.2))
    assert cure.hand_over and cure.hand_over.median == pytest.approx(40)


def test_skipped_beats_count_with_what_they_would_have_waited() -> None:
    run = Run([(0, 0.1)] * 96 + [(200, 4.0)], [], [], 0, 0, 0, None)
    late = [0.1] * 96 + [4.0, 3.0, 2.0, 1.0]
    assert run.lag_p99() == pytest.approx(quantile(sorted(late), 0.99))
    assert run.longest_lag() == run.longest_lag(201, 210) == 4 and run.longest_lag(205, 210) == 0


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (
            "Executing <Task finished name='T' coro=<f() done, defined at /a/my course/b c.py:7> took 0.1 seconds",
            ("f", "b c.py", 7),
        ),
        (
            "Executing <Task finished name='T' coro=<f() done, defined at /a/b.py:7> created at /x/tasks.py:3> "
            "took 0.1 seconds",
            ("f", "b.py", 7),
        ),
        ("Executing <Task pending coro=<A.f() running at C:\\a\\b.py:9> wait_for=…> took 1 s", ("A.f", "b.py", 9)),
        ("Executing <Handle g() at /a/b.py:1> took 0.1 seconds", None),
    ],
)
def test_a_line_of_asyncio_names_a_coroutine(line: str, named: tuple[str, str, int] | None) -> None:
    found = event_loops._named(line)
    assert (found and found[:3]) == named
    assert not found or "/a/" not in found[3]


@pytest.fixture(scope="module")
def found() -> Culprit:
    return culprit.here(block_ms=10, threshold_ms=5)


def test_debug_mode_finds_the_handler_that_computes(found: Culprit) -> None:
    source, first = inspect.getsourcelines(event_loops.build_report)
    assert found.found.low == 1 and is_observed(found)
    assert (found.name, found.file) == ("build_report", "event_loops.py")
    assert found.line is not None and first <= found.line < first + len(source)
    assert all("build_report" in line and "/" not in line for line in found.lines)
    assert found.usual_threshold_ms == 100 and found.price.median > 2


@pytest.mark.skipif(sys.platform == "win32", reason="another clock")
def test_two_tasks_hand_over_as_often_as_both_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = iter([0, 4_000_000])
    monkeypatch.setattr(event_loops, "YIELDS", 1000)
    monkeypatch.setattr(event_loops.time, "process_time_ns", lambda: next(readings))
    assert asyncio.run(event_loops._yields_us()) == 2.0


def test_below_the_threshold_nobody_is_named() -> None:
    _, lines = event_loops._watched(1, 10_000)
    assert lines == []


# Time-outs, cancellation, back-pressure


@pytest.fixture(scope="module")
def timed_out() -> TimeOuts:
    return timeouts_and_cancellation.here(timeout_ms=20)


def test_a_time_out_stops_who_waits_and_nobody_else(timed_out: TimeOuts) -> None:
    record = timed_out
    sleeping, computing, thread, swallowing, shielding = record.handlers
    assert [each.timed_out.median for each in record.handlers] == [1, 1, 1, 0, 1]
    assert sleeping.worked is None
    assert computing.worked and computing.returned.low >= record.work_ms > 2 * record.timeout_ms
    assert swallowing.worked and swallowing.returned.low >= record.work_ms - 1
    for behind in (thread, shielding):
        assert behind.worked and behind.returned.median < behind.worked.median
        assert len(behind.worked.samples) == len(behind.returned.samples)
    assert all(each.cleaned and each.cleaned.high <= each.returned.high for each in record.handlers)


@pytest.fixture(scope="module")
def pressed() -> BackPressure:
    return back_pressure.here(sent_mib_s=3, read_mib_s=0.2, seconds=0.6)


def test_held_is_what_was_left_in_the_end() -> None:
    flow = Flow(MagicMock(), MagicMock(), curve=[(0.0, 0), (10.0, 3 * MIB), (20.0, 2 * MIB)], sent=5 * MIB)
    way = event_loops._way("write alone", [flow] * 5)
    assert (way.held.median, way.most.median, way.sent.median) == (2, 3, 5)


@needs_fork
def test_only_who_waits_for_the_client_stays_small(pressed: BackPressure) -> None:
    record = pressed
    alone, drained, queue, bounded = record.ways
    message = MESSAGE / MIB
    assert alone.held.median > 5 * drained.most.high and queue.held.median > 5 * bounded.held.median
    assert drained.most.high <= 64 / 1024 + message  # the high-water mark of asyncio, and what passed it
    assert bounded.most.high <= PLACES * message
    assert drained.sent.high < alone.sent.low and bounded.sent.high < queue.sent.low
    assert alone.held.high <= alone.sent.high <= 3 * 0.6 + message
    assert is_observed(record)


# The figures of both


@needs_fork
@pytest.mark.parametrize("guess", [0.5, 5000])
def test_the_figures_hold_together(
    beating: Heartbeat, found: Culprit, timed_out: TimeOuts, pressed: BackPressure, guess: float
) -> None:
    for ax in (
        figures.heartbeat(beating, guess=guess, ghost=beating)[0],
        figures.heartbeat(beating, cure="thread")[0],
        figures.cures(beating, guess=guess, ghost=beating)[0],
        figures.culprit(found),
        figures.culprit(replace(found, lines=())),
        figures.timeouts_and_cancellation(timed_out, guess=guess, ghost=timed_out),
        figures.back_pressure(pressed, guess=guess, ghost=pressed),
    ):
        readable(ax)


@needs_fork
def test_captions_tell_what_was_seen(beating: Heartbeat, timed_out: TimeOuts, pressed: BackPressure) -> None:
    slow = replace(beating, cures=tuple(replace(each, stretch=estimate([2.0] * 5, "x")) for each in beating.cures))
    assert "2x its CPU time" in style.caption(figures.heartbeat(slow)[0])
    assert "5 ms, whenever" in style.caption(figures.cures(replace(beating, switch_interval_ms=5.0))[0])
    assert "no TimeoutError" in style.alt(figures.timeouts_and_cancellation(timed_out))
    held = estimate([3.0] * 5, "MiB")
    ways = tuple(replace(way, held=held) if way.name == "write" else way for way in pressed.ways)
    late = figures.back_pressure(replace(pressed, ways=ways, read_mib_s=0.5))
    assert "what is written last is read 6 s later" in style.caption(late)
    assert "queue with maxsize" in style.alt(late)
    free_threaded = figures.cures(replace(beating, machine={**beating.machine, "gil": False}))[0]
    assert "keeps the GIL" not in style.caption(free_threaded)
