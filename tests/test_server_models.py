"""Notebook 07's experiments and figures."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes

from helpers import claims, machine
from helpers.experiments import server_models
from helpers.experiments.server_models import (
    Client,
    HeldOpen,
    HundredThousand,
    Latency,
    MixedWork,
    Ordinary,
    Point,
    Queueing,
    Rival,
    SlowClients,
    Stage,
    Sweep,
    TenThousand,
    ten_thousand,
)
from helpers.figures import server_models as figures
from helpers.figures import style
from helpers.measure import Estimate, estimate
from helpers.testbed import crowd, visitors
from helpers.testbed.load import Report, arrivals
from helpers.testbed.servers import MODELS, serving
from helpers.testbed.visitors import Visit
from tests import test_figures


def readable(ax: Axes) -> None:
    """It holds together as a picture, as all figures do."""
    test_figures.test_no_word_is_clipped(ax)
    test_figures.test_it_reads_from_the_back_of_a_classroom(ax)
    test_figures.test_axes_and_titles_are_named(ax)
    test_figures.test_alt_and_caption_come_from_the_data(ax)


# One sweep, and ten thousand


@pytest.mark.parametrize("model", MODELS)
def test_what_a_server_takes_is_that_of_all_its_processes(model: str) -> None:
    if model == "pre-fork" and machine.fork():
        pytest.skip("install: a system with fork")
    with serving(model, wait_ms=1, threads=20, processes=3) as server:
        before = server.usage()
        generator = server_models._generator(server, seconds=0.05, warm_up_s=0.0)
        with contextlib.closing(generator):
            generator.connect(10)
            found = generator.run()
            after = server.usage()
    assert found["requests"] == len(generator.latencies_us) > 10
    assert after.processes >= (4 if model in ("hybrid", "pre-fork") else 1)
    assert after.threads >= (11 if "thread" in model else 1)
    assert after.virtual > after.resident > (after.uss or 0)
    assert after.cpu_s >= before.cpu_s
    assert after.switches is None or before.switches is None or after.switches > before.switches


def test_only_the_five_are_served() -> None:
    with pytest.raises(ValueError, match="model='apache'"), serving("apache"):
        pass


def test_a_server_that_is_gone_takes_nothing() -> None:
    with serving("event loop") as server:
        server.kill()
        with pytest.raises(ProcessLookupError):
            while True:  # it takes a moment
                server.usage()


def test_who_is_greeted_is_known_to_the_server() -> None:
    """Two threads, four clients: two are answered, again and again, and the others are not waited for in the end."""
    with serving("thread pool", wait_ms=1, threads=2) as server:
        generator = server_models._generator(server, seconds=0.1, warm_up_s=0.0, patience_s=0.1)
        with contextlib.closing(generator):
            assert server_models._greet(generator, 2)
            assert not server_models._greet(generator, 2)
            rounds = [generator.run() for _ in range(2)]
    for found in rounds:
        assert found["requests"] > 2 and found["timeouts"] == 2 and not found["errors"]
    assert len(generator.moments) == len(generator.latencies_us)
    assert sum(each.is_served for each in generator.all) == 2


def test_slices_hold_what_came_within_the_seconds() -> None:
    generator: Any = SimpleNamespace(
        begin=10.0, seconds=1.0, moments=[9.9, 10.0, 10.4, 10.6, 11.0], latencies_us=[1, 2, 3, 4, 5]
    )
    assert server_models._slices(generator, 2) == [[2, 3], [4]]


def test_a_point_is_what_its_slices_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand answers in each of five slices, whose latencies are 1, 2, … 1000 µs."""
    monkeypatch.setattr(server_models, "_slices", lambda _, count: [list(range(1000, 0, -1))] * count)
    found = server_models._point("event loop", 2, seconds=0.1, slices=5, processes=2)
    assert found.throughput.median == pytest.approx(5 * 1000 / 0.1)
    assert found.p50 and found.p50.median == pytest.approx(0.5, rel=0.01)
    assert found.p99 and found.p99.median == pytest.approx(0.99, rel=0.001)
    assert found.p999 == pytest.approx(0.999, rel=0.0005)


def test_in_a_closed_loop_connections_are_throughput_times_latency() -> None:
    """Little's law, for a server at which they wait most of the time."""
    found = server_models._point("event loop", 20, seconds=0.5, slices=5, processes=2)
    assert found.p50 and found.p50.median >= server_models.SWEPT_WAIT_MS
    assert found.throughput.median * found.p50.median / 1000 == pytest.approx(20, rel=0.5)


def test_a_rate_counts_from_before() -> None:
    assert server_models._rate(100, 300, 2.0) == 100
    assert server_models._rate(None, 300, 2.0) is server_models._rate(100, None, 2.0) is None


def point(model: str, connections: int, throughput: float, **values: Any) -> Point:
    usual: dict[str, Any] = {
        "model": model,
        "connections": connections,
        "throughput": estimate([throughput * factor for factor in (0.9, 0.95, 1.0, 1.05, 1.1)], "requests/s"),
        "p50": estimate([10.0 * factor for factor in (0.9, 0.95, 1.0, 1.05, 1.1)], "ms"),
        "p99": estimate([20.0 * factor for factor in (0.9, 0.95, 1.0, 1.05, 1.1)], "ms"),
        "p999": 30.0,
        "unserved": 0.0,
        "errors": 0,
        "timeouts": 0,
        "uss": 10_000_000 + 5_000 * connections,
        "resident": 20_000_000,
        "virtual": 10**9,
        "threads": 2,
        "processes": 1,
        "switches": 3.0 * connections,
        "cores": 0.5,
        "client_cores": 0.2,
    }
    return Point(**{**usual, **values})


def test_the_limit_is_where_throughput_has_halved() -> None:
    each = "thread per connection"
    growing = [point(each, 10, 1000), point(each, 100, 4000)]
    assert server_models._limit(growing) is None and server_models._cut_short(growing) is None
    fallen = [*growing, point(each, 1000, 1000)]
    limit = server_models._limit(fallen)
    assert limit is not None and limit.median == pytest.approx(100 * 10**0.5)  # half-way from 4000 to 1000, by factors
    assert "1,000 requests/s instead of 4,000" in (server_models._cut_short(fallen) or "")
    [*_, last] = fallen
    nothing = [*growing, replace(last, throughput=estimate([0.0] * 5, "requests/s"))]
    none = server_models._limit(nothing)
    assert none is not None and 100 < none.low <= none.high < 1000


def sweep_record(points: tuple[Point, ...], limit: Estimate | None = None) -> Sweep:
    return Sweep(wait_ms=10, pool_threads=200, processes=4, points=points, limit=limit)


def test_a_sweep_says_the_best_of_each_model() -> None:
    record = sweep_record((point("hybrid", 10, 1000), point("event loop", 10, 900), point("event loop", 100, 5000)))
    assert record.figures()["event loop, throughput"].median == 5000 == record.figures()["throughput"].median
    assert "limit" not in record.figures()


ALL_SIZES = tuple(point(model, size, 90.0 * size**0.5) for model in MODELS for size in (10, 30, 100, 1000, 10_000))


@pytest.mark.parametrize(
    "records",
    [
        [sweep_record(ALL_SIZES, estimate([300.0] * 5, "connections"))],
        [sweep_record((point("event loop", 10, 900, switches=None, p99=None),))],
        [sweep_record(ALL_SIZES), sweep_record((point("thread pool", 300, 3.0, unserved=99.0, uss=None),))],
    ],
    ids=["whole", "one point", "two records"],
)
def test_a_sweep_in_pictures(records: list[Sweep]) -> None:
    ghost = replace(sweep_record(ALL_SIZES[:10]), reference="a Linux PC")
    for ax in figures.sweep(records, ghost=ghost):
        readable(ax)


def test_a_ghost_has_no_other_models_than_the_picture() -> None:
    ghost = replace(sweep_record(ALL_SIZES), reference="a Linux PC")
    counts = [
        len(figures.sweep(sweep_record(ALL_SIZES[:5]), ghost=each)[0].lines)
        for each in (None, sweep_record(ALL_SIZES[5:]), ghost)
    ]
    assert counts[0] == counts[1] == counts[2] - 1


def test_the_grid_has_a_column_per_model() -> None:
    few = point("event loop", 10, 900, p50=None, p99=None, p999=None, switches=None, uss=None)
    record = sweep_record((few, point("thread pool", 10, 800), point("thread pool", 1000, 19_000, unserved=80.0)))
    table = figures.Grid(record)
    assert table.headings == ("", "thread pool", "event loop")
    _, pool, loop = zip(*table.rows, strict=True)
    assert " | ".join(pool) == "1,000 | 19,000 | 10 ms | 20 ms | 30 ms | 15 MB | 1 GB | 2 | 1 | 3,000 | 20 %"
    assert loop == ("10", "900", "–", "–", "–", "–", "1 GB", "2", "1", "–", "100 %")
    assert "switches/s" in table._repr_html_() and "19,000" in table._repr_html_() and "19,000" in repr(table)
    _, pool, loop = zip(*figures.Grid([record], connections=1000).rows, strict=True)
    assert pool[1] == "19,000" and loop == ("1,000", *["–"] * 10)


def test_later_records_stand_for_the_points_that_both_have() -> None:
    first, second = (sweep_record((point("hybrid", 10, value),)) for value in (100, 200))
    [[kept]] = figures._lines([first, second]).values()
    assert kept.throughput.median == 200


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_names_are_moved_apart_and_keep_their_order(heights: list[float]) -> None:
    named = list(zip(sorted(heights), "abcde", strict=False))
    moved = figures._apart(named)
    assert [name for _, name in moved] == [name for _, name in named]
    assert all(later - earlier > 0.99 * figures.APART for (earlier, _), (later, _) in pairwise(moved))


@pytest.fixture(scope="module")
def three_hundred() -> TenThousand:
    """One small run: a hundred clients more than the pool has threads."""
    return ten_thousand.run(on_progress=lambda *_: None, connections=300, seconds=0.05)


def test_a_pool_answers_as_many_clients_as_it_has_threads(three_hundred: TenThousand) -> None:
    pool = three_hundred.of("thread pool")
    assert three_hundred.connections == 300 and pool.waiting.median == 100 and pool.answered == pytest.approx(200 / 3)
    assert three_hundred.queue.median == 1
    assert all(three_hundred.of(model).answered == 100 for model in ("thread per connection", "event loop"))


def test_a_thread_each_takes_address_space_and_little_memory(three_hundred: TenThousand) -> None:
    threaded, loop = three_hundred.of("thread per connection"), three_hundred.of("event loop")
    assert threaded.threads > 300 > loop.threads
    assert threaded.virtual.median > 3 * threaded.memory.median
    assert threaded.steps[0] == (0, threaded.empty) and threaded.steps[-1][0] == 300
    assert 0 < threaded.per_connection.median < 1000
    (_, empty), *_, (count, full) = threaded.steps
    steps = threaded.per_connection.samples
    assert min(steps) <= 1000 * (full - empty) / count <= max(steps), "the mean of all steps"
    assert loop.p50 and loop.p99 and loop.p50.median < loop.p99.median
    assert three_hundred.far.median == pytest.approx(
        (threaded.empty + 100 * threaded.per_connection.median) / 1000, rel=0.01
    )
    assert any("extrapolated from 300" in word for word in three_hundred.far.warnings)
    assert not any(each.crashes.high for each in three_hundred.models)


@pytest.mark.parametrize(("guess", "guess_answered"), [(None, None), (0.5, 0), (20_000, 100)])
def test_ten_thousand_in_a_picture(
    three_hundred: TenThousand, guess: float | None, guess_answered: float | None
) -> None:
    ghost = replace(three_hundred, reference="a Linux PC")
    for ax in figures.ten_thousand(three_hundred, guess=guess, guess_answered=guess_answered, ghost=ghost):
        readable(ax)


# The queue


@contextlib.contextmanager
def answering(answer: bytes) -> Iterator[tuple[str, int]]:
    """Reads what one client says, answers this, and closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError), listener.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "answered"),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", "turned away"),
        (b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n", "cut off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh", "cut off"),
        (b"", "cut off"),
    ],
)
def test_what_becomes_of_a_client(answer: bytes, outcome: str) -> None:
    with answering(answer) as address:
        (found,) = visitors.visit(address, [0.0])
    assert found.outcome == outcome and found.connected is not None and found.connected <= found.ended


def test_clients_that_nobody_serves_give_up_or_are_refused() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=20) as listener:
        address = listener.getsockname()
        found = visitors.visit(address, [0.0, 0.02, 0.04], patience_s=0.1)
    assert [each.outcome for each in found] == ["gave up"] * 3
    assert all(each.connected is not None and each.ended >= 0.1 for each in found)
    (refused,) = visitors.visit(address, [0.0])
    assert refused.outcome == "refused" and refused.connected is None


@pytest.fixture(scope="module")
def left_outside() -> Queueing:
    """One small run, on this machine."""
    return server_models.queueing.here(hold_ms=200, patience_ms=2500)


@pytest.mark.quiet
def test_who_finds_a_thread_is_served_and_the_others_wait(left_outside: Queueing) -> None:
    rooms = [client.room for client in left_outside.clients]
    assert rooms == ["threads"] * 2 + ["queue"] * 2 + ["backlog"] * 2 + ["nothing"] * 2
    assert all(client.is_served for client in left_outside.clients)
    assert left_outside.queued.low > left_outside.at_once.low
    first = left_outside.of("queue")[0]
    assert left_outside.queued.median == pytest.approx(first.ended.median - left_outside.hold_ms)


@pytest.mark.quiet
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what Linux does with a full backlog")
def test_who_finds_everything_full_is_left_without_an_answer(left_outside: Queueing) -> None:
    for client in left_outside.of("nothing"):
        assert client.connected is not None and client.connected.low > 900
    assert left_outside.overflow.low > 900 and server_models.NO_OVERFLOW not in left_outside.warnings


def test_a_spare_thread_answers_the_first_request_and_a_cold_one_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the number of threads that the server has after the first answer."""
    seen: dict[str, list[int]] = {}

    def taken(conditions: dict[str, Any], *_: object, **__: object) -> dict[str, list[int]]:
        servers = {name: condition.args[0] for name, condition in conditions.items()}
        seen.update({name: [server.usage().threads] for name, server in servers.items()})
        return seen

    monkeypatch.setattr(server_models, "interleave", taken)
    spare, cold = server_models._first_answers(10)
    assert spare == seen["spare"] > cold == seen["cold"]


def test_a_server_that_lets_clients_in_turns_those_away_that_are_too_many() -> None:
    with serving("thread pool", threads=1, queue=1) as server:
        found = visitors.visit(server.address, [0.0, 0.05, 0.1], path="/wait?ms=300")
    assert [each.outcome for each in found] == ["answered", "answered", "turned away"]


def test_a_clients_outcome_is_that_of_most_repeats() -> None:
    visits = [Visit("answered", 0.001, 0.3), Visit("gave up", None, 0.5), Visit("answered", 0.002, 0.4)]
    client = server_models._client(20.0, "queue", visits)
    assert client.is_served and client.ended.median == pytest.approx(350)
    assert client.connected is not None and client.connected.median == pytest.approx(1.5)
    assert server_models._client(20.0, "nothing", visits[1:2]).connected is None


def over(median: float, unit: str) -> Estimate:
    return estimate([median * factor for factor in (0.9, 0.95, 1.0, 1.05, 1.1)], unit)


def queueing_record(**values: Any) -> Queueing:
    def client(place: int, room: str, outcome: str, connected: float | None, ended: float) -> Client:
        there = None if connected is None else over(connected, "ms")
        return Client(came=20.0 * place, room=room, outcomes=(outcome,) * 5, connected=there, ended=over(ended, "ms"))

    usual: dict[str, Any] = {
        "threads": 1,
        "queue": 1,
        "backlog": 1,
        "when_full": "left outside",
        "hold_ms": 300.0,
        "patience_ms": 3000.0,
        "clients": (
            client(0, "threads", "answered", 0.1, 301),
            client(1, "queue", "answered", 0.1, 580),
            client(2, "backlog", "gave up", 0.1, 700),
            client(3, "nothing", "gave up", None, 700),
            client(4, "nothing", "answered", 1000, 1300),
        ),
        "at_once": over(1, "ms"),
        "queued": over(280, "ms"),
        "overflow": over(700, "ms"),
        "spare": over(200, "µs"),
        "cold": over(300, "µs"),
        "saved": over(100, "µs"),
    }
    return Queueing(**(usual | values))


def test_the_queue_in_a_picture() -> None:
    record = queueing_record()
    ax = figures.queueing(record)
    readable(ax)
    assert "gave up" in {text.get_text() for text in ax.texts}
    assert "asks again after a second" in style.caption(ax)
    turned_away = replace(record, when_full="turned away", clients=(*record.clients[:2], *record.clients[3:4]))
    assert "asks again" not in style.caption(figures.queueing(turned_away))


# Mixed work


def test_the_same_quick_requests_come_with_and_without_heavy_ones() -> None:
    record = server_models.mixed_work.here(rate=200, share=2.0, cpu_ms=100, wait_ms=0, seconds=0.8)
    due = [moment - server_models.WARM_UP_S for moment in arrivals(196, 0.8 + server_models.WARM_UP_S)]
    assert record.beside.answered + record.beside.failed == sum(moment >= 0 for moment in due)
    assert 0 < record.alone.answered + record.alone.failed < record.beside.answered
    assert record.heavy is not None and record.heavy.median >= 100
    assert record.beside.worst > 50  # one came just after a heavy one


def test_latencies_are_cut_into_stretches_in_the_order_of_the_answers() -> None:
    latencies = tuple(range(1000, 11_000, 1000))
    report = Report(
        requests=12, seconds=1, throughput=10, latencies_us=latencies, errors=1, timeouts=1, connections=1, cpu=0
    )
    found = server_models._latency(report, 5)
    assert found.p50.samples == (1.5, 3.5, 5.5, 7.5, 9.5) and found.worst == 10
    assert found.p99.samples == pytest.approx((1.99, 3.99, 5.99, 7.99, 9.99))
    assert (found.answered, found.failed) == (10, 2)
    with pytest.raises(machine.TooSmall, match="10 of 12"):
        server_models._latency(report, 11)


def mixed_record(model: str, alone: float, beside: float) -> MixedWork:
    def side(p99: float) -> Latency:
        return Latency(p50=over(p99 / 2, "ms"), p99=over(p99, "ms"), worst=2 * p99, answered=1000, failed=0)

    return MixedWork(
        model=model,
        rate=600,
        share=1,
        cpu_ms=50,
        alone=side(alone),
        beside=side(beside),
        added=over(beside - alone, "ms"),
        heavy=over(60, "ms"),
    )


@pytest.mark.parametrize("guess", [None, 2.0, 2000.0])
def test_mixed_work_in_a_picture(guess: float | None) -> None:
    records = [mixed_record(model, 11, 15 + 20 * place) for place, model in enumerate(MODELS)]
    ghosts = [replace(record, reference="a machine") for record in records]
    for ax in (figures.mixed_work(records, guess=guess, ghosts=ghosts), figures.mixed_work(records[2:3], guess=guess)):
        readable(ax)
        assert "event loop" in style.alt(ax)


# Slow clients


def test_slow_clients_send_a_request_byte_by_byte_until_they_are_cut_off() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        visitors.slow_clients(listener.getsockname(), 2, byte_s=0.001) as left,
    ):
        first, second = (listener.accept()[0] for _ in range(2))
        with second:
            with first:
                pieces: list[bytes] = []
                while len(b"".join(pieces)) < len(visitors.SLOW_HEAD) + 2:
                    pieces.append(first.recv(1))
            assert b"".join(pieces).startswith(visitors.SLOW_HEAD + b"aa") and len(left) >= 1
            deadline = time.monotonic() + 10
            while len(left) > 1 and time.monotonic() < deadline:
                time.sleep(0.001)
            assert len(left) == 1


def test_a_pool_starves_without_a_time_out_and_a_loop_does_not() -> None:
    pool = server_models.slow_clients.here("thread pool", slow=3, threads=3, timeout_ms=100, patience_ms=300)
    assert pool.without.served == 0 and pool.without.wait.low >= 0.3
    assert pool.timed.served >= pool.timed.clients - 3  # a busy machine may take one round its patience
    loop = server_models.slow_clients.here("event loop", slow=3, timeout_ms=3000, patience_ms=2000)
    assert loop.without.served == loop.without.clients


def slow_record(model: str, served: int) -> SlowClients:
    return SlowClients(
        model=model,
        slow=8,
        threads=8,
        byte_ms=40,
        timeout_ms=400,
        patience_ms=800,
        without=Ordinary(wait=over(0.002 if served else 0.8, "s"), served=served, clients=15),
        timed=Ordinary(wait=over(0.002 if served else 0.35, "s"), served=15, clients=15),
    )


@pytest.mark.parametrize("guess", [None, 0.4, 100.0])
def test_slow_clients_in_a_picture(guess: float | None) -> None:
    records = [slow_record(model, 0 if model in ("thread pool", "pre-fork") else 15) for model in MODELS]
    ghosts = [replace(record, reference="a machine") for record in records]
    axes = (figures.slow_clients(records, guess=guess, ghosts=ghosts), figures.slow_clients(records[1:2], guess=guess))
    for ax in axes:
        readable(ax)
        assert "0 of 15 served" in {text.get_text() for text in ax.texts}


# WebSockets


def stage(connections: int, server: float, kernel: float | None = 8.0) -> Stage:
    return Stage(connections, connections - 1000, server, kernel)


def held_open(stages: Sequence[Stage], loops: int = 1) -> HeldOpen:
    count = stages[-1].connections
    return HeldOpen(count, loops, 5.0, 0.2, 4.0, 9.0, 1.0, count * stages[-1].server / 1024, 0.3, tuple(stages))


FLAT = [stage(2000, 0.75), stage(5000, 0.8), stage(10_000, 0.7)]
MEMORY = estimate([0.8, 0.8, 0.81, 0.79, 0.8], "KiB")
KERNEL = estimate([8.0] * 5, "KiB")


def test_one_thread_that_held_them_all_is_the_figure() -> None:
    figure = server_models._on_one_thread(held_open([*FLAT, stage(100_000, 2.0)]), MEMORY, KERNEL)
    assert figure and figure.low == figure.high == 100_000 and not figure.warnings


def test_what_one_thread_would_hold_is_extrapolated_and_says_so() -> None:
    figure = server_models._on_one_thread(held_open(FLAT), MEMORY, KERNEL)
    assert figure and "extrapolated from the 10,000" in figure.warnings[0]
    room = machine.fit(10**9, bytes_each=1024).count
    assert min(room / 2, 8 * 10**5) < figure.median * (MEMORY.median + KERNEL.median) < room * 2


def test_what_the_kernel_takes_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(machine, "fit", lambda _, bytes_each: sizes.append(bytes_each) or SimpleNamespace(count=10))
    server_models._on_one_thread(held_open(FLAT), MEMORY, KERNEL)
    assert sizes == [round(1024 * (each + KERNEL.median)) for each in MEMORY.samples]


@pytest.mark.parametrize(("room", "word"), [(10**9, "holds"), (60_000, "lower")])
def test_no_more_is_extrapolated_than_is_claimed(room: int, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "fit", lambda *_, **__: SimpleNamespace(count=room))
    figure = server_models._on_one_thread(held_open(FLAT), MEMORY, KERNEL)
    assert figure and figure.median == figure.high == min(room, 100_000)
    verdict = claims.verdict(claims.claim("event-loop-connections"), figure)
    assert verdict.word == word and "extrapolated from the 10,000" in str(verdict)


@pytest.mark.parametrize("stages", [FLAT[:2], [*FLAT, stage(20_000, 0.9)]], ids=["too few", "not flat"])
def test_nothing_is_extrapolated_from(stages: list[Stage]) -> None:
    assert server_models._on_one_thread(held_open(stages), MEMORY, KERNEL) is None
    assert server_models._on_one_thread(held_open(FLAT), MEMORY, None) is None


@pytest.mark.skipif(crowd.available() is not None, reason="no crowd of clients here")
def test_what_a_server_takes_without_connections_is_not_theirs() -> None:
    with crowd.gathering() as clients:
        each, _ = server_models._weighed(clients, server_models.OURS, (200, 400))
    assert 0 < each < 10  # KiB; the interpreter's own, shared out among 400, would be more


def test_the_kernels_part_is_taken_from_stage_to_stage() -> None:
    stages = [stage(2000, 1, 6.0), stage(3000, 1, 7.0), stage(5000, 1, 7.5)]  # 6, then 8 and 8 more for each
    found = server_models._kernel(stages)
    assert found and found.samples == (6.0, 8.0, 8.0)
    assert server_models._kernel([stage(2000, 1, None)]) is None


@given(st.integers(1, 100_000), st.integers(1, 30))
def test_connections_are_shared_out_evenly(count: int, loops: int) -> None:
    shares = [server_models._share(count, loops, place) for place in range(loops)]
    assert sum(shares) == count and max(shares) - min(shares) <= 1


def websockets_record(**changed: Any) -> HundredThousand:
    costs = {"uvloop": 1.3, "websockets": 13.0}
    rivals = tuple(Rival(kind, "1", estimate([cost] * 5, "KiB")) for kind, cost in costs.items())
    several = held_open([stage(100_000, 0.75)], loops=6)
    fields: dict[str, Any] = {
        "asked": 100_000, "allowed": 20_000, "memory": MEMORY, "kernel": KERNEL, "one": held_open(FLAT),
        "several": several, "one_thread": None, "rivals": rivals,
    }  # fmt: skip
    return HundredThousand(**(fields | changed))


def test_all_are_those_of_several_loops_where_one_may_not() -> None:
    assert websockets_record().all.connections == 100_000
    assert websockets_record(several=None).all.connections == 10_000
    assert "on one thread" not in websockets_record().figures()


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"several": None, "rivals": (), "kernel": None, "one": held_open([stage(100, 0.01, None)])},
        {"memory": estimate([40.0] * 5, "KiB"), "one": held_open([stage(100_000, 40.0)]), "several": None},
    ],
    ids=["sharded", "smallest", "large"],
)
@pytest.mark.parametrize("guess", [None, 0.001, 100_000.0])
def test_the_figures_of_websockets(changed: dict[str, Any], guess: float | None) -> None:
    record = websockets_record(**changed)
    ghost = replace(websockets_record(), reference="a Linux PC")
    axes, told = figures.hundred_thousand(record, guess=guess, ghost=ghost), figures.crowd(record)
    assert all(f"{record.all.connections:,}" in words for words in (style.caption(axes[0]), style.alt(told)))
    assert all(("6 loops" in style.caption(ax)) is (record.several is not None) for ax in (axes[0], told))
