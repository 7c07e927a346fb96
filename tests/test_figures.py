"""The figures, drawn from the reference run: that they hold together as pictures and say in words what they show."""

from dataclasses import replace

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from helpers import reference
from helpers.figures import (
    concurrency_and_parallelism,
    connection_pooling,
    connections,
    context_switching,
    event_loops,
    processes_and_threads,
    server_models,
    start_here,
    style,
    the_gil,
)
from helpers.measure import Estimate, Noise, estimate
from helpers.record import Record
from helpers.testbed import servers


def shipped(name: str, **parameters: object) -> Record:
    record = reference.record(name, **parameters)
    assert record is not None, f"the reference run lacks {name} {parameters}: make reference"
    return record


def handoffs() -> list[Record]:
    kinds = ("processes", "threads", "tasks", "generators")
    together = [shipped("context_switching.handoff", between=kind, same_core=True) for kind in kinds]
    apart = [shipped("context_switching.handoff", between=kind, same_core=False) for kind in kinds[:2]]
    return together + apart


def counts() -> list[Record]:
    return [shipped("context_switching.switch_counts", same_core=same) for same in (True, False)]


def costs() -> list[Record]:
    return [shipped("context_switching.working_set_cost", touch=touch) for touch in ("in-order", "at-random")]


def crowds() -> list[Record]:
    return [shipped("context_switching.oversubscription", work=work) for work in ("computing", "waiting")]


def ladder() -> Record:
    return shipped("context_switching.memory_ladder")


def first() -> Record:
    return shipped("start_here.first_costs")


def every(name: str, parameter: str, *values: object, **others: object) -> list[Record]:
    return [shipped(name, **{parameter: value}, **others) for value in values]


def one_more() -> list[Record]:
    kinds = ("tasks", "threads", "forked", "spawned")
    return every("processes_and_threads.cost_of_one_more", "of", *kinds, most=1000)


def starts() -> list[Record]:
    return every("processes_and_threads.start_cost", "touched_mib", 0, 256)


def messages() -> list[Record]:
    channels = ("pipe", "socket-pair", "queue", "shared-memory", "thread-queue", "variable")
    return every("processes_and_threads.message_cost", "over", *channels)


def of_01(name: str) -> Record:
    return shipped(f"processes_and_threads.{name}")


def speedups() -> list[Record]:
    return every("concurrency_and_parallelism.speedup", "work", "waiting", "computing", growing=False)


def of_02(name: str, **parameters: object) -> Record:
    return shipped(f"concurrency_and_parallelism.{name}", **parameters)


def by_work() -> list[Record]:
    kinds = ("pure-python", "waiting", "sha256", "sha256-small", "zlib", "numpy")
    return every("the_gil.speedup_by_work", "work", *kinds)


def convoys() -> list[Record]:
    return every("the_gil.convoy", "interval_ms", 0.5, 5.0, 20.0)


def everywhere() -> Record:
    return shipped("the_gil.across_interpreters")


def of_05(name: str, **parameters: object) -> Record:
    return shipped(f"connections.{name}", **parameters)


def of_06(name: str, **parameters: object) -> Record:
    return shipped(f"event_loops.{name}", **parameters)


def of_07(name: str, **parameters: object) -> Record:
    return shipped(f"server_models.{name}", **parameters)


def of_08(name: str, **parameters: object) -> Record:
    return shipped(f"connection_pooling.{name}", **parameters)


def with_and_without() -> list[Record]:
    return [of_08("with_and_without", round_trip_ms=away, pool_size=size) for away, size in ((0, 4), (1, 16), (10, 32))]


def sweeps() -> list[Record]:
    return every("connection_pooling.size_sweep", "work", "waiting", "computing")


def models_of(name: str) -> list[Record]:
    return every(f"server_models.{name}", "model", *servers.MODELS)


PICTURES = {
    "memory map": lambda: processes_and_threads.memory_map(of_01("memory_map"), guess=30, ghost=of_01("memory_map")),
    "one more": lambda: processes_and_threads.cost_of_one_more(one_more(), guess=1500, ghosts=one_more()),
    "one more thread": lambda: processes_and_threads.cost_of_one_more(one_more()[1:2]),
    "starts": lambda: processes_and_threads.start_cost(starts(), guess=100, guess_of="fork", ghost=starts()[0]),
    "copy-on-write": lambda: processes_and_threads.copy_on_write(
        of_01("copy_on_write"), guess=10, ghost=of_01("copy_on_write")
    ),
    "crash": lambda: processes_and_threads.crash(of_01("crash"), guess=2),
    "round trips": lambda: processes_and_threads.round_trip(messages(), guess=10, ghosts=messages()),
    "throughput": lambda: processes_and_threads.throughput(messages(), ghosts=messages()),
    "lost updates": lambda: processes_and_threads.lost_updates(
        of_01("lost_updates"), guess=1, ghost=of_01("lost_updates")
    ),
    "three dishes": lambda: concurrency_and_parallelism.three_dishes(
        of_02("three_dishes"), guess=2, ghost=of_02("three_dishes")
    ),
    "speed-up": lambda: concurrency_and_parallelism.speedup(speedups(), guess=10, ghosts=speedups()),
    "growing": lambda: concurrency_and_parallelism.speedup([speedups()[0], of_02("speedup", growing=True)]),
    "threads or processes": lambda: concurrency_and_parallelism.threads_or_processes(
        of_02("threads_or_processes", wait_ms=16, work_ms=1, cores=2),
        grid=reference.records("concurrency_and_parallelism.threads_or_processes"),
        guess=5,
    ),
    "simd": lambda: concurrency_and_parallelism.simd(of_02("simd"), guess=8, ghost=of_02("simd"))[0],
    "turns": lambda: the_gil.handoffs(every("the_gil.handoffs", "interval_ms", 5.0, 20.0), guess=50),
    "speed-up by work": lambda: the_gil.speedup_by_work(by_work(), guess=0.5, ghosts=by_work()),
    "convoy": lambda: the_gil.convoy(convoys(), guess=1, ghosts=convoys()),
    "interpreters": lambda: the_gil.across_interpreters(everywhere(), guess=1.1, ghost=everywhere())[0],
    "ladder": lambda: connections.ladder(of_05("anatomy")),
    "memory of a connection": lambda: connections.connection_memory(
        of_05("anatomy"), guess=500, ghost=of_05("anatomy")
    ),
    "round trips to open": lambda: connections.round_trips(of_05("round_trips"), guess=40, ghost=of_05("round_trips")),
    "fits of round trips": lambda: connections.fits(of_05("round_trips")),
    "tls": lambda: connections.tls_cost(of_05("tls_cost"), ghost=of_05("tls_cost"))[0],
    "hundred requests": lambda: connections.hundred_requests(
        of_05("hundred_requests", round_trip_ms=50), guess=3, ghost=of_05("hundred_requests", round_trip_ms=50)
    ),
    "hundred requests next door": lambda: connections.hundred_requests(of_05("hundred_requests", round_trip_ms=0)),
    "database connection": lambda: connections.database_connection(
        of_05("database_connection", round_trip_ms=10, tls=True, scram=True), guess=500
    ),
    "plain database connection": lambda: connections.database_connection(
        of_05("database_connection", tls=False, scram=False)
    ),
    "websocket": lambda: connections.websocket(of_05("websocket"), guess=5, ghost=of_05("websocket")),
    "with and without": lambda: connection_pooling.with_and_without(
        with_and_without(), guess=500, ghosts=with_and_without()
    )[0],
    "pool at work": lambda: connection_pooling.pool_at_work(of_08("pool_at_work", utilisation=95.0))[0],
    "utilisation": lambda: connection_pooling.wait_by_utilisation(
        of_08("wait_by_utilisation"), guess=2, ghost=of_08("wait_by_utilisation")
    ),
    "pool sizes": lambda: connection_pooling.size_sweep(sweeps(), guess=20, ghosts=sweeps())[0],
    "needs two": lambda: connection_pooling.needs_two(of_08("needs_two"))[0],
    **{
        f"fault: {which}": lambda which=which: connection_pooling.fault(
            of_08("fault", which=which, time_out_ms=150.0), guess=90
        )[0]
        for which in ("leak", "too-large", "shared-server", "killed", "no-time-out")
    },
    "build one": lambda: connection_pooling.build_one(of_08("build_one"), ghost=of_08("build_one"))[0],
    "handoff": lambda: context_switching.handoff(handoffs(), guess=5, ghosts=handoffs()),
    "one handoff": lambda: context_switching.handoff(handoffs()[:1], guess=200),
    "switch counts": lambda: context_switching.switch_counts(counts(), guess=90),
    "memory ladder": lambda: context_switching.memory_ladder(ladder(), guess=80, ghost=ladder()),
    "working set": lambda: context_switching.working_set_cost(costs(), guess=20, ghosts=costs()),
    "one working set": lambda: context_switching.working_set_cost(costs()[1:]),
    "oversubscription": lambda: context_switching.oversubscription(crowds(), guess=0.5)[0],
    "anatomy": lambda: start_here.anatomy(handoffs()[0], ghost=handoffs()[1]),
    "first costs": lambda: start_here.first_costs(
        first(), guesses={"thread start": 1e6, "TCP connect": 10}, ghost=first()
    ),
    "spread": lambda: start_here.spread(first()),
    "waiting": lambda: event_loops.waiting(of_06("waiting"), guess=20, ghost=of_06("waiting")),
    "step": lambda: event_loops.step(of_06("steps", program="conversation"), 5),
    "hand-offs": lambda: event_loops.hand_offs(of_06("hand_offs"), ghost=of_06("hand_offs")),
    "echo": lambda: event_loops.echo(of_06("echo"), guess=5, ghost=of_06("echo")),
    "heartbeat": lambda: event_loops.heartbeat(of_06("heartbeat"), guess=10, ghost=of_06("heartbeat"))[0],
    "cures": lambda: event_loops.cures(of_06("heartbeat"), guess=1, ghost=of_06("heartbeat"))[0],
    "culprit": lambda: event_loops.culprit(of_06("culprit")),
    "time-outs": lambda: event_loops.timeouts_and_cancellation(of_06("timeouts_and_cancellation")),
    "back-pressure": lambda: event_loops.back_pressure(of_06("back_pressure"), guess=2, ghost=of_06("back_pressure")),
    "sweep": lambda: server_models.sweep(of_07("sweep", most=10_000))[0],
    "ten thousand": lambda: server_models.ten_thousand(
        of_07("ten_thousand"), guess=20_000, guess_answered=50, ghost=of_07("ten_thousand")
    )[0],
    "queue": lambda: server_models.queueing(of_07("queueing")),
    "queue, turned away": lambda: server_models.queueing(of_07("queueing", when_full="turned away")),
    "mixed work": lambda: server_models.mixed_work(models_of("mixed_work"), guess=20, ghosts=models_of("mixed_work")),
    "slow clients": lambda: server_models.slow_clients(models_of("slow_clients"), guess=1),
    "hundred thousand": lambda: server_models.hundred_thousand(of_07("hundred_thousand"), guess=50)[0],
    "crowd": lambda: server_models.crowd(of_07("hundred_thousand")),
}


@pytest.fixture(params=PICTURES, scope="module")
def axes(request: pytest.FixtureRequest) -> Axes:
    return PICTURES[request.param]()


def words(figure: Figure) -> list[Text]:
    """Every text that is really drawn; ticks beyond the ends of an axis are not."""
    beyond = set()
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        out = [tick for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high]
        beyond |= {label for tick in out for label in (tick.label1, tick.label2)}
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    return [text for text in texts if text not in beyond]


def test_no_word_is_clipped(axes: Axes) -> None:
    figure = style._figure(axes)
    figure.draw_without_rendering()
    width, height = figure.bbox.width, figure.bbox.height
    for text in words(figure):
        box = text.get_window_extent()
        inside = box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1
        assert inside or not text.get_in_layout(), text.get_text()


def test_it_reads_from_the_back_of_a_classroom(axes: Axes) -> None:
    for text in words(style._figure(axes)):
        assert text.get_fontsize() >= 10, text.get_text()


def test_axes_and_titles_are_named(axes: Axes) -> None:
    for each in style._figure(axes).axes:
        assert each.get_title(loc="left") and each.get_xlabel()


def test_alt_and_caption_come_from_the_data(axes: Axes) -> None:
    assert any(letter.isdigit() for letter in style.caption(axes)) and len(style.alt(axes)) > 40
    assert "nan" not in style.caption(axes) and "None" not in style.caption(axes)


def test_the_reference_run_is_labelled(axes: Axes) -> None:
    assert "reference run" in style.caption(axes)


def test_a_picture_is_one_html_figure() -> None:
    page = style.show(next(iter(PICTURES.values()))())._repr_html_()
    assert page.startswith("<figure") and ' alt="' in page and "<figcaption" in page
    assert len(page) < 400_000


def test_two_records_give_two_alt_texts() -> None:
    one, other = handoffs()[0], handoffs()[1]
    assert style.alt(context_switching.handoff([one])) != style.alt(context_switching.handoff([other]))


def test_it_draws_into_given_axes() -> None:
    ax = style.canvas()
    assert context_switching.handoff(handoffs()[:1], ax=ax) is ax


def test_noise_and_warnings_are_said_once() -> None:
    noise = Noise("busy", stolen=0.5, others=0.0)
    warnings = (noise.warning() or "", "only one core may be used: both sides ran on it")
    loud = replace(handoffs()[0], noise=noise, warnings=warnings, reference=None)
    caption = style.caption(context_switching.handoff([loud, loud]))
    assert caption.count("50% of a core") == 1 and caption.count("only one core".capitalize()) == 1
    assert "reference run" not in caption


def test_a_negative_result_does_not_break_the_picture() -> None:
    below = estimate([-0.2, 0.1, -0.1, 0.05, -0.3], "µs")
    record = replace(handoffs()[0], cost=below, python=below)
    style.show(context_switching.handoff([record]))


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (1900, "ns", "1.9 µs"),
        (2.43, "µs", "2.43 µs"),
        (0.03, "µs", "30 ns"),
        (181.2, "ms", "181 ms"),
        (0, "ns", "0 ns"),
    ],
)
def test_times_read_as_people_write_them(value: float, unit: str, words: str) -> None:
    assert style.readable(value, unit) == words


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        (Estimate(11_400, 9_800, 13_000, "µs"), "11.4 ms (9.8 to 13)"),
        (Estimate(8_192, 8_192, 8_704, "KiB"), "8 MiB (8 to 8.5)"),
        (Estimate(0, 0, 0.5, "ms"), "0 ms (0 to 0.5)"),
        (Estimate(2, 1, 3, "x"), "2x (1 to 3)"),
    ],
)
def test_an_estimate_is_stated_in_the_unit_that_fits(figure: Estimate, words: str) -> None:
    assert style.stated(figure) == words


def test_contexts_keep_their_colour_and_shape() -> None:
    assert len(set(style.COLOURS.values())) == len(style.COLOURS) == len(set(style.MARKERS.values()))


def test_an_estimate_is_marked_with_its_interval() -> None:
    ax = style.canvas()
    style.dot(ax, Estimate(2, 1, 4, "µs"), 0, style.BLUE)
    (bar,) = ax.collections
    assert sorted(bar.get_segments()[0][:, 0]) == [1, 4]
