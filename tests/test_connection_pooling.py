"""What the experiments of notebook 08 promise."""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes

from helpers import queueing
from helpers.experiments import connection_pooling as pooling
from helpers.experiments.connection_pooling import (
    Attempt,
    BuildOne,
    Fault,
    PoolFigures,
    Rule,
    Scene,
    Side,
    SizeSweep,
    WithAndWithout,
    needs_two,
    pool_at_work,
    size_sweep,
    wait_by_utilisation,
    with_and_without,
)
from helpers.figures import connection_pooling as figures
from helpers.figures import style
from helpers.measure import Estimate, estimate
from helpers.record import _plain
from helpers.testbed import postgres
from helpers.testbed.program import NotStarted
from tests import test_figures

quiet = pytest.mark.quiet  # compares times
needs_postgres = pytest.mark.skipif(postgres.available() is not None, reason="install: PostgreSQL")


def readable(ax: Axes) -> None:
    """It holds together as a picture, as all figures do."""
    test_figures.test_no_word_is_clipped(ax)
    test_figures.test_it_reads_from_the_back_of_a_classroom(ax)
    test_figures.test_axes_and_titles_are_named(ax)
    test_figures.test_alt_and_caption_come_from_the_data(ax)


# With and without


@pytest.fixture(scope="module")
def at_once() -> WithAndWithout:
    """One small run, on this machine."""
    return with_and_without.here(pool_size=2, clients=4, seconds=0.05)


@quiet
@needs_postgres
def test_a_pool_allows_many_times_more(at_once: WithAndWithout) -> None:
    assert at_once.speedup.low > 3 and at_once.alone.low > 3
    assert at_once.new.median > at_once.connect.median > at_once.first_query.median > at_once.reused.median / 20
    assert at_once.checkout.median / 1000 < at_once.reused.median
    assert at_once.without.client_cpu.median > at_once.pooled.client_cpu.median
    assert pooling.NO_GAIN not in at_once.warnings


@quiet
@needs_postgres
def test_every_request_counts(at_once: WithAndWithout) -> None:
    for side in (at_once.without, at_once.pooled):
        values = [value for _, value in side.latencies]
        assert values == sorted(values) and values[0] > 0
        assert side.latency.median <= side.p99.median <= values[-1]


@needs_postgres
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_servers_cpu_time_is_that_of_all_its_processes() -> None:
    with postgres.server(own=True) as database, psycopg.connect(database.conninfo(), autocommit=True) as connection:
        clock = pooling._server_clock(database)
        before, began = clock(), time.perf_counter()
        connection.execute("SELECT sum(i) FROM generate_series(1, 1000000) AS i").fetchone()
        living, took = clock(), time.perf_counter() - began
        assert before is not None and living is not None and 0.1 * took < living - before < 1.5 * took
        connection.close()
        assert pooling._stat(os.getpid()) == []


def test_processes_of_clients_begin_together_and_tell() -> None:
    begun: list[str] = []

    def client(place: int, ready: Callable[[], None]) -> list[float]:
        time.sleep(0.05 * place)
        before = time.perf_counter()
        ready()
        return [place, before, time.perf_counter()]

    told = pooling._in_processes(3, client, lambda: begun.append("now"))
    assert begun == ["now"] and [place for place, _, _ in told] == [0, 1, 2]
    assert min(after for _, _, after in told) >= max(before for _, before, _ in told)


def test_a_clients_latency_counts_from_when_it_asked() -> None:
    found = pooling._closed_loop(2, lambda: time.sleep(0.005), 0.2)
    assert 5 <= statistics.median(found.latencies_ms) < 50 and found.seconds >= 0.2


def test_a_machine_that_is_too_slow_gets_one_request_done() -> None:
    assert len(pooling._closed_loop(1, lambda: time.sleep(0.02), 0.0).latencies_ms) == 1


def test_an_error_of_a_client_is_told_in_one_line() -> None:
    def client(place: int, ready: Callable[[], None]) -> None:
        if place:
            raise OSError("too many\nopen files")
        ready()

    with pytest.raises(NotStarted, match=r"^too many$"):
        pooling._in_processes(2, client)


@given(st.integers(1, 100), st.integers(1, 10))
def test_parts_make_the_whole(whole: int, parts: int) -> None:
    found = [pooling._part(whole, parts, place) for place in range(parts)]
    assert sum(found) == whole and max(found) - min(found) <= 1


def with_and_without_record(**values: Any) -> WithAndWithout:
    def over(median: float, unit: str) -> Estimate:
        return estimate([median * factor for factor in (0.9, 0.95, 1.0, 1.05, 1.1)], unit)

    def side(throughput: float, latency: float) -> Side:
        return Side(
            throughput=over(throughput, "requests/s"),
            latency=over(latency, "ms"),
            p99=over(2 * latency, "ms"),
            latencies=((0.5, latency), (1.0, 2 * latency)),
            client_cpu=over(latency / 3, "ms"),
            server_cpu=None,
            client_cores=1.0,
            server_cores=None,
        )

    usual: dict[str, Any] = {
        "server": "PostgreSQL",
        "authentication": "scram",
        "round_trip_ms": 0,
        "clients": 16,
        "pool_size": 4,
        "processes": 2,
        "speedup": over(80, "x"),
        "without": side(150, 60),
        "pooled": side(12_000, 1),
        "new": over(7, "ms"),
        "reused": over(0.15, "ms"),
        "alone": over(46, "x"),
        "connect": over(6, "ms"),
        "first_query": over(0.5, "ms"),
        "close": over(0.05, "ms"),
        "checkout": over(3, "µs"),
    }
    return WithAndWithout(**(usual | values))


@pytest.mark.parametrize("guess", [None, 10_000])
def test_with_and_without_in_a_picture(guess: float | None) -> None:
    records = [with_and_without_record(round_trip_ms=distance) for distance in (0, 1, 10)]
    ghosts = [replace(record, reference="a machine") for record in records]
    for axes in (figures.with_and_without(records, guess=guess, ghosts=ghosts), figures.with_and_without(records[:1])):
        readable(axes[0])
        assert "80x" in style.caption(axes[0]) and "requests/s" not in style.caption(axes[0])


@pytest.mark.parametrize(("host", "local"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("db", False)])
def test_a_server_that_is_named_may_be_far_away(host: str, local: bool) -> None:
    assert pooling._is_local(host) == local
    axes = figures.with_and_without([with_and_without_record(local=local)])
    assert ("same machine" in axes[0].get_yticklabels()[0].get_text()) == local
    assert ("No distance added" in style.caption(axes[0])) != local


def test_the_articles_bands_are_named_where_they_can_be_seen() -> None:
    slow, quick = estimate([50.0] * 5, "ms"), estimate([10.5] * 5, "ms")
    far = with_and_without_record(round_trip_ms=10, new=slow, reused=quick, speedup=estimate([1.5] * 5, "x"))
    axes = figures.with_and_without([far])
    readable(axes[0])
    for ax in axes:
        style._figure(ax).draw_without_rendering()
        inside = ax.get_window_extent()
        for text in ax.texts:
            if text.get_color() == style.FAINT:
                assert inside.x0 <= text.get_window_extent().x0 and text.get_window_extent().x1 <= inside.x1
    later = replace(far, reused=estimate([20.0] * 5, "ms"))  # the axis begins beyond the article's 5 ms
    assert not any("1–5 ms" in text.get_text() for text in figures.with_and_without([later])[1].texts)


# A pool at work


# Tables of Erlang C, and the M/M/1 queue, whose wait is load / (1 - load) of a hold time
@pytest.mark.parametrize(
    ("size", "load", "share"), [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (4, 2.0, 0.1739), (10, 8.0, 0.4092), (3, 3.0, 1.0)]
)
def test_the_share_that_waits_is_erlangs(size: int, load: float, share: float) -> None:
    assert queueing.waiting_share(size, load) == pytest.approx(share, abs=1e-4)


def test_the_mean_wait_and_its_quantiles() -> None:
    assert queueing.mean_wait(1, 0.8, 1.0) == pytest.approx(4.0)
    assert queueing.mean_wait(4, 0.0, 1.0) == 0 and queueing.mean_wait(2, 3.0, 1.0) == math.inf
    assert queueing.wait_within(0.99, 1, 0.5, 1.0) == pytest.approx(2 * math.log(50))
    assert queueing.wait_within(0.1, 1, 0.5, 1.0) == 0
    with pytest.raises(ValueError, match="size=0"):
        queueing.waiting_share(0, 1)


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.1, 100), st.floats(0.1, 100))
def test_a_closed_loop_is_bounded_by_its_clients_and_its_connections(
    clients: int, size: int, hold: float, outside: float
) -> None:
    found = queueing.closed_throughput(clients, size, hold, outside)
    assert 0 < found <= min(size / hold, clients / (hold + outside)) * (1 + 1e-9)
    if size >= clients:
        assert found == pytest.approx(clients / (hold + outside))


def test_an_ideal_queue_serves_whoever_came_first() -> None:
    assert pooling._ideal_waits(1, [0, 1, 5], [3, 3, 1]) == [0, 2, 1]
    assert pooling._ideal_waits(2, [0, 0, 0, 9], [4, 2, 5, 1]) == [0, 0, 2, 0]


@pytest.mark.parametrize("load", [0.3, 0.8, 0.95])
def test_plans_are_like_the_mean(load: float) -> None:
    expected = queueing.mean_wait(4, 4 * load / 20, 20)
    for plan in pooling._plans(4, load, 20.0, 0.5, 1.5, 3):
        due, holds = [moment for moment, _ in plan], [sleep + 0.5 for _, sleep in plan]
        waits = [wait for wait, moment in zip(pooling._ideal_waits(4, due, holds), due, strict=True) if moment]
        assert due == sorted(due) and due[-1] < 1500
        assert statistics.mean(waits) == pytest.approx(expected, rel=0.35)
        busy = sum(hold for hold, moment in zip(holds, due, strict=True) if moment)
        assert busy / (4 * 1500) == pytest.approx(load, abs=0.05)


@quiet
@needs_postgres
def test_a_busy_pool_makes_wait() -> None:
    record = pool_at_work.here(90.0, size=2, hold_ms=10.0, seconds=0.4)
    assert record.level.waited.median > 20 and record.level.wait.median > 1
    by_connection: dict[int, list[tuple[float, float]]] = {}
    for asked, got, back, connection in record.requests:
        assert asked <= got <= back
        by_connection.setdefault(connection, []).append((got, back))
    assert set(by_connection) <= {0, 1}
    for spans in by_connection.values():
        spans.sort()
        assert all(end <= begin + 0.5 for (_, end), (begin, _) in pairwise(spans))  # nobody shares a connection
    readable(figures.pool_at_work(record)[0])
    assert "Shown" not in style.caption(figures.pool_at_work(record)[0])
    long = replace(record, requests=((0.0, 0.0, figures.SHOWN_MS + 1, 0), *record.requests))
    assert "Shown" in style.caption(figures.pool_at_work(long)[0])


@quiet
@needs_postgres
def test_the_wait_grows_faster_than_the_utilisation() -> None:
    record = wait_by_utilisation.here(2, hold_ms=10.0, seconds=0.25)
    assert record.times.median > 3
    assert record.levels[-1].wait.median > record.levels[0].wait.median
    for guess in (None, 1.0, 500.0):
        readable(figures.wait_by_utilisation(record, guess=guess, ghost=replace(record, reference="a machine")))


def test_another_utilisation_than_planned_is_said() -> None:
    served = [pooling.Served(1 + 10 * n, 5, 1 + 10 * n, 2 + 10 * n, 7 + 10 * n, 0, False) for n in range(100)]
    level = pooling._level(50.0, 1, 1.0, [served] * 5)
    assert level.utilisation.median == pytest.approx(50) and level.wait.median == pytest.approx(1)
    assert not list(pooling._unlike_the_plan([level]))
    (word,) = pooling._unlike_the_plan([replace(level, planned=80.0)])
    assert "50 % for 80 %" in word


def test_requests_side_by_side_need_rows_of_their_own() -> None:
    assert figures._lanes([(0, 2), (1, 3), (2, 4)]) == [[(0, 2), (2, 4)], [(1, 3)]]


# How large?


def test_the_best_size_is_the_smallest_that_is_good_enough() -> None:
    assert pooling._best([(1, 100), (2, 194), (4, 200), (8, 204)]) == 2
    assert pooling._best([(1, 100), (2, 150)]) == 2


def test_times_have_their_mean() -> None:
    times = pooling._times(seed=3)
    for _ in range(3):
        outside, held = zip(*[next(times) for _ in range(pooling.STRATA)], strict=True)
        assert statistics.mean(outside) == pytest.approx(1) == statistics.mean(held)
        assert 0.8 < statistics.pstdev(held) < 1.05  # of an exponential distribution it is 1


def size_record(work: str, best: int) -> SizeSweep:
    """What a server that serves up to `best` at once would give."""
    sizes = (1, 2, 4, 8, 16, 32)
    rounds = {
        size: [
            pooling.Round(50.0 * min(size, best) * factor, 30.0, 90.0 * max(1, size / best), 10.0, 1.0, 0.1, None, 0.25)
            for factor in (0.98, 0.99, 1.0, 1.01, 1.02)
        ]
        for size in sizes
    }
    points = tuple(pooling._point(size, each, pooling.Job(work, 1), 32, 2, 10.0) for size, each in rounds.items())
    rules = tuple(
        Rule(name=name, formula=formula, size=size, ours=estimate([best / size] * 5, "x"))
        for name, formula, size in pooling._rules(points, 32, 2, 10.0)
    )
    return SizeSweep(
        server="PostgreSQL",
        work=work,
        clients=32,
        cores=2,
        hold=estimate([10.0] * 5, "ms"),
        request=estimate([20.0] * 5, "ms"),
        points=points,
        best=best,
        best_of_rounds=estimate([best] * 5, "connections"),
        rules=rules,
        nearest=rules[0].name,
        p99_grows=estimate([2.0] * 5, "x"),
    )


def test_the_rules_say_what_they_say() -> None:
    sizes = {rule.name: rule.size for rule in size_record("waiting", 16).rules}
    assert sizes["the article's formula"] == pytest.approx(16)  # 32 clients, half of the time with a connection
    assert sizes["the rule of cores"] == 5 and sizes["no deadlock"] == 1
    assert sizes["Little's law"] == pytest.approx(8)  # 50 x 16 requests/s for 10 ms each
    assert {rule.name: rule.size for rule in size_record("computing", 2).rules}["the queueing model"] == 2


@pytest.mark.parametrize("guess", [None, 500])
def test_sizes_in_a_picture(guess: float | None) -> None:
    records = [size_record("waiting", 16), size_record("computing", 2)]
    axes = figures.size_sweep(records, guess=guess, ghosts=[replace(each, reference="a machine") for each in records])
    readable(axes[0])
    readable(figures.size_sweep(records[1:])[0])
    assert "need 16 connections for 90 %" in style.caption(axes[0])
    rules = [line for line in axes[4].lines if line.get_marker() == "D" and line.get_color() == style.INK]
    filled = [round(line.get_xdata()[0]) for line in rules if line.get_markerfacecolor() == style.INK]
    assert filled == [16, 16]  # the article's formula, and the model that says the same


@quiet
@needs_postgres
def test_more_connections_get_more_done() -> None:
    record = size_sweep.here("waiting", clients=4, seconds=0.1)
    assert [point.size for point in record.points] == [1, 2, 4]
    first, _, last = record.points
    assert last.throughput.median > 1.3 * first.throughput.median and record.best >= 2
    assert last.p50.median < first.p50.median
    assert 0.5 < first.in_use.median < last.in_use.median  # half of the time is one client alone
    for point in record.points:
        assert point.in_use.high <= point.size
        assert 0.5 < point.throughput.median * point.hold.median / 1000 / point.in_use.median < 2  # Little's law


@needs_postgres
def test_two_connections_at_once_lock_a_pool_that_is_one_too_small() -> None:
    record = needs_two.here(4, time_out_ms=150.0)
    assert record.failed.low > 0 and "PoolTimeout" in record.error
    assert record.took.low > 149 and record.failed_with_enough.high == 0
    readable(figures.needs_two(record)[0])
    calm = replace(record, failed=estimate([0.0] * 5, "%"), error="")
    assert "words" not in style.caption(figures.needs_two(calm)[0])


# What goes wrong

TIME_OUT_MS = 200.0


@pytest.fixture(scope="module")
def stage() -> Iterator[pooling._Stage]:
    """One server for all scenes."""
    with (
        postgres.server(own=True, max_connections=pooling.FOR_SERVICES + 1) as database,
        pooling._stage(database) as stage,
    ):
        yield stage


def scenes(stage: pooling._Stage, which: str, as_expected: Callable[[list[Scene]], bool]) -> list[Scene]:
    """The fault's scenes, again if the machine was too busy for them; nothing of any stays."""
    for _ in range(4):
        played = [pooling._play(stage, *each, TIME_OUT_MS) for each in pooling.SCENES[which]]
        assert [each.left for each in played] == [0] * len(played)
        assert stage.connections() == {} and {each.limit for each in played} == {pooling.FOR_SERVICES}
        if as_expected(played):
            break
    assert as_expected(played), [(each.title, each.said, each.attempts) for each in played]
    return played


def took(scene: Scene, outcome: str) -> list[float]:
    return [each.end - each.begin for each in scene.attempts if each.outcome == outcome]


@needs_postgres
def test_a_leak_runs_the_pool_dry_and_a_with_block_does_not(stage: pooling._Stage) -> None:
    fault, cure = scenes(stage, "leak", lambda found: found[0].count("failed") == 6 and not found[-1].failed)
    assert fault.said == (f"PoolTimeout: couldn't get a connection after {TIME_OUT_MS / 1000:.2f} sec",)
    assert all(TIME_OUT_MS - 1 <= each < 2 * TIME_OUT_MS for each in took(fault, "failed"))
    assert fault.failed == pytest.approx(40) and cure.count("ok") == len(cure.attempts)
    assert max(seen.get(pooling.SHOP, 0) for _, seen in fault.connections) == 3


@needs_postgres
def test_a_pool_that_is_too_large_hides_what_the_server_says(stage: pooling._Stage) -> None:
    def as_expected(found: list[Scene]) -> bool:
        return found[0].failed == 100 and found[1].count("failed") >= 4 and not found[-1].failed

    fault, honest, cure = scenes(stage, "too-large", as_expected)
    assert fault.logged and all(words.startswith("FATAL: ") for words in fault.logged)
    assert not any("FATAL" in words for words in fault.said) and fault.said[0].startswith("PoolTimeout")
    assert honest.said and all("FATAL: " in words for words in honest.said)
    assert max(sum(seen.values()) for _, seen in fault.connections) == pooling.FOR_SERVICES
    assert not cure.logged


@needs_postgres
def test_the_last_of_three_services_starves(stage: pooling._Stage) -> None:
    fault, cure = scenes(stage, "shared-server", lambda found: 0 < found[0].failed < 100 and not found[-1].failed)
    assert {each.service for each in fault.attempts if each.outcome == "failed"} == {pooling.SERVICES[-1]}
    assert fault.services == cure.services == pooling.SERVICES
    assert {name for _, seen in fault.connections for name in seen} == set(pooling.SERVICES[:2])
    assert {name for _, seen in cure.connections for name in seen} == set(pooling.SERVICES)


@needs_postgres
def test_each_killed_connection_costs_a_request_unless_somebody_looks(stage: pooling._Stage) -> None:
    fault, _, cure = scenes(stage, "killed", lambda found: found[0].failed == 20 and not found[-1].failed)
    assert fault.said[0].startswith("AdminShutdown: ") and fault.count("failed") == 4
    assert {} in [seen for _, seen in fault.connections]
    assert [event for _, event in cure.events] == ["killed", "pool.check()", "full again"]


@quiet
@needs_postgres
def test_looking_at_each_connection_backs_off(stage: pooling._Stage) -> None:
    with_patience = pooling._play(stage, "", pooling._validated, 1500)
    assert with_patience.failed == 0 and with_patience.slowest > 850  # a pause of a second, less a tenth at random
    assert statistics.median(took(with_patience, "ok")) < with_patience.slowest / 3


@needs_postgres
def test_a_time_out_bounds_the_wait(stage: pooling._Stage) -> None:
    fault, cure = scenes(
        stage, "no-time-out", lambda found: min(found[0].count("waiting"), found[1].count("failed")) > 3
    )
    assert fault.time_out_ms is None and cure.time_out_ms == TIME_OUT_MS
    assert fault.count("failed") == cure.count("waiting") == 0
    assert cure.slowest < fault.slowest
    waits = [each.end - each.begin for each in cure.attempts if each.got is None]
    assert max(waits) < 1.5 * TIME_OUT_MS < max(each.end - each.begin for each in fault.attempts)


@needs_postgres
def test_a_connection_that_is_left_is_noticed(stage: pooling._Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[Any] = []

    def careless(play: pooling._Play) -> None:
        import psycopg

        play.begin()
        kept.append(psycopg.connect(stage.conninfo(pooling.SHOP)))
        play.attempts.append(Attempt(pooling.SHOP, 0, 0, 1, "ok"))

    monkeypatch.setattr(pooling, "GONE_S", 0.1)
    scene = pooling._play(stage, "", careless, TIME_OUT_MS)
    kept.pop().close()
    assert scene.left == 1
    assert any("still there" in words for words in pooling._not_as_promised("leak", [scene], [scene]))


@needs_postgres
def test_no_record_gives_the_password_away(stage: pooling._Stage) -> None:
    played = [pooling._play(stage, *each, 40) for each in pooling.SCENES["too-large"]]
    words = json.dumps(_plain(played))
    assert stage.password not in words and stage.database.password not in words
    assert str(stage.database.port) not in words.replace(".", " ").split()


def test_an_error_is_quoted_without_where_it_happened() -> None:
    long = 'connection to server at "127.0.0.1", port 4711 failed: FATAL:  sorry, too many clients already\nmore'
    assert pooling._words(ValueError(long)) == "ValueError: FATAL: sorry, too many clients already"
    assert pooling._words(ValueError("one\ntwo")) == "ValueError: one"
    assert pooling._words(ValueError()) == "ValueError: "


def scene(*outcomes: str, error: str = "PoolTimeout: late", **changes: Any) -> Scene:
    attempts = tuple(
        Attempt("shop", 10.0 * place, None if outcome != "ok" else 10.0 * place + 1, 10.0 * place + 9, outcome,
                error if outcome == "failed" else "")
        for place, outcome in enumerate(outcomes)
    )  # fmt: skip
    made = Scene("a scene", 150.0, 8, ("shop",), attempts, ((0.0, {}), (5.0, {"shop": 3})), (), (), 0)
    return replace(made, **changes)


def test_a_fault_that_did_not_show_is_said() -> None:
    well, ill = scene("ok", "ok"), scene("ok", "failed")
    assert not list(pooling._not_as_promised("leak", [ill] * 5, [well] * 5))
    assert not list(pooling._not_as_promised("no-time-out", [scene("waiting")] * 5, [ill] * 5))
    for which, shown in (("leak", well), ("too-large", ill), ("killed", ill), ("no-time-out", well)):
        (words,) = pooling._not_as_promised(which, [ill if which == "leak" else shown, shown], [well])
        assert "not observed here" in words
    (words,) = pooling._not_as_promised("leak", [ill], [well, ill])
    assert "with the cure too" in words


def fault_of(which: str, *played: Scene) -> Fault:
    some = estimate([1.0, 2.0, 3.0, 4.0, 5.0], "ms")
    return Fault(
        which=which,
        server="PostgreSQL 18",
        scenes=played,
        failed=some,
        failed_cured=some,
        slowest=some,
        slowest_cured=some,
        until_error=some,
        recovery=some,
        reference="a machine",
    )


LONG = "FATAL: remaining connection slots are reserved for roles with the SUPERUSER attribute"
STORIES = {
    "leak": fault_of("leak", scene(*["ok"] * 9, *["failed"] * 6), scene(*["ok"] * 15)),
    "too-large": fault_of(
        "too-large",
        scene("failed", logged=(LONG,)),
        scene(*["ok", "failed"] * 6, error=f"OperationalError: {LONG}"),
        scene("ok"),
    ),
    "shared-server": fault_of("shared-server", scene(*["failed"] * 30, logged=(LONG,)), scene("ok", "ok")),
    "killed": fault_of(
        "killed",
        scene(*["failed"] * 4, *["ok"] * 16, events=((5.0, "killed"),)),
        scene(*["failed"] * 2, *["ok"] * 18, events=((5.0, "killed"),)),
        scene(*["ok"] * 20, events=((5.0, "killed"), (6.0, "pool.check()"), (30.0, "full again"))),
    ),
    "no-time-out": fault_of(
        "no-time-out", scene(*["ok"] * 10, *["waiting"] * 10, events=((190.0, "end of watch"),)), scene("ok", "failed")
    ),
}


@pytest.mark.parametrize("which", STORIES)
def test_a_fault_is_drawn(which: str) -> None:
    first, *others = figures.fault(STORIES[which], guess=100 if which == "killed" else None)
    assert len(others) + 1 == len(STORIES[which].scenes)
    readable(first)


def test_the_picture_says_what_happened() -> None:
    first, *_ = figures.fault(STORIES["killed"])
    assert "4 of 20 fail" in first.get_title(loc="left") and "2 ran out of time" in style.caption(first)
    assert "8 of 20" not in style.caption(first)
    patient = replace(STORIES["killed"], scenes=(STORIES["killed"].scenes[0], scene("ok"), scene("ok")))
    assert "for a second or more, and the slowest took" in style.caption(figures.fault(patient)[0])


def test_why_the_pool_was_closed_is_said_where_it_was() -> None:
    story = STORIES["too-large"]
    assert "PoolClosed" not in style.caption(figures.fault(story)[0])
    closed = replace(story, scenes=(scene("failed", error="PoolClosed: it is", logged=(LONG,)), *story.scenes[1:]))
    assert "hence PoolClosed" in style.caption(figures.fault(closed)[0])


# Build one


def overtaking_by_hand(turns: list[tuple[int, int]]) -> float:
    apart = pooling.SAME_MOMENT_NS
    jumped = [any(other[0] <= one[0] - apart and one[1] <= other[1] - apart for other in turns) for one in turns]
    return 100 * sum(jumped) / len(turns)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_overtaking_is_counted(pairs: list[tuple[int, int]]) -> None:
    unit = pooling.SAME_MOMENT_NS // 2
    turns = [pooling._Turn(asked * unit, (asked + wait) * unit) for asked, wait in pairs]
    assert pooling._overtaking(turns) == pytest.approx(overtaking_by_hand(turns))


def test_first_come_first_served_overtakes_nobody() -> None:
    moment = pooling.SAME_MOMENT_NS
    in_order = [pooling._Turn(place * moment, (place + 5) * moment) for place in range(10)]
    assert pooling._overtaking(in_order) == 0
    at_once = [pooling._Turn(place * moment, place * moment) for place in range(1, 10)]
    starved = [pooling._Turn(0, 100 * moment), *at_once]
    assert pooling._overtaking(starved) == 90
    assert pooling._rate(in_order) == pytest.approx(10 / (14 * moment / 1e9))


@quiet
@needs_postgres
def test_a_plain_queue_lets_newcomers_overtake_and_ours_does_not(stage: pooling._Stage) -> None:
    with pooling._three_pools(stage.database, 2) as pools:
        assert list(pools) == list(pooling.POOLS) == list(figures.POOLS)
        for _ in range(5):
            turns = {name: pooling._crowded(pool, 8, 60, pooling._hold) for name, pool in pools.items()}
            overtaking = {name: pooling._overtaking(each) for name, each in turns.items()}
            longest = {name: max(turn.got - turn.asked for turn in each) for name, each in turns.items()}
            if overtaking["queue"] > 30 > max(overtaking["ours"], overtaking["library"]):
                break
        assert overtaking["queue"] > 30 > max(overtaking["ours"], overtaking["library"])
        assert longest["queue"] > longest["ours"]
        rates = [pooling._rate(pooling._crowded(pool, 8, 30, pooling._select)) for pool in pools.values()]
        assert min(rates) > 0
        checkouts, empty = pooling._checkouts(pools, 5)
        assert all(statistics.median(empty) < statistics.median(each) for each in checkouts.values())


BUILT = BuildOne(
    server="PostgreSQL",
    threads=16,
    connections=8,
    pools=tuple(
        PoolFigures(
            name,
            checkout=estimate([cost, cost * 1.1, cost * 1.2, cost, cost], "µs"),
            throughput=estimate([5000 / cost, 6000, 7000, 6100, 6200], "requests/s"),
            overtaking=estimate([share] * 5, "%"),
            longest=estimate([wait, wait * 2, wait, wait, wait], "ms"),
        )
        for name, cost, share, wait in (("ours", 3, 0.0, 4.0), ("library", 9, 0.0, 5.0), ("queue", 4, 98.0, 151.0))
    ),
    throughput_ratio=estimate([1.0, 1.1, 0.9, 1.0, 1.2], "x"),
    checkout_ratio=estimate([0.3, 0.31, 0.32, 0.33, 0.3], "x"),
    reference="a machine",
)


def test_three_pools_are_drawn() -> None:
    first, _ = figures.build_one(BUILT, ghost=BUILT)
    readable(first)
    assert "98 %" in style.caption(first) and "got nothing" not in style.caption(first)
    window = replace(BUILT, parameters={"window_ms": 150})
    assert "150 ms got nothing" in style.caption(figures.build_one(window)[0])
    fair = [replace(pool, overtaking=estimate([0.0] * 5, "%")) for pool in BUILT.pools]
    assert "overtake" not in style.caption(figures.build_one(replace(BUILT, pools=tuple(fair)))[0])
    assert BUILT.headline_name in BUILT.figures() and "queue_overtaking" in BUILT.figures()


def test_without_contention_it_says_so() -> None:
    few = estimate([1.0] * 5, "%")
    pools = [PoolFigures(name, few, few, few, few) for name in pooling.POOLS]
    assert "none could be overtaken" in next(pooling._order_not_seen(pools, 4, 4))
    assert "not observed here" in next(pooling._order_not_seen(pools, 8, 4))


def test_what_the_library_does_is_there() -> None:
    import inspect

    import psycopg_pool

    known = set(inspect.signature(psycopg_pool.ConnectionPool).parameters) | set(dir(psycopg_pool.ConnectionPool))
    for _, by, _ in figures.DIFFERENCES:
        for word in by.split(", "):
            assert word.rstrip("=()") in known or hasattr(psycopg_pool, word), word
    table = figures.Differences()
    assert "max_<wbr>lifetime" in table._repr_html_() and "max_lifetime" in repr(table)
