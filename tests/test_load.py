"""The load generator: what it sends, what it counts, and that waiting is not left out."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.testbed.load import Report, arrivals, closed_loop, open_loop
from helpers.testbed.program import running
from tests.leftovers import free_port

Address = tuple[str, int]

quiet = pytest.mark.quiet  # compares times

ROOT = Path(__file__).resolve().parent.parent
SHORT: dict[str, Any] = {"seconds": 0.3, "warm_up_s": 0.05, "timeout_s": 2.0}


@pytest.fixture(scope="module")
def server() -> Iterator[Address]:
    with running("tests.probe_web") as (host, port):
        yield host, port


def scheduled(rate: float, seconds: float, warm_up_s: float) -> int:
    """How many requests are due in the seconds that count."""
    return sum(moment >= warm_up_s for moment in arrivals(rate, warm_up_s + seconds))


# The schedule


@given(rate=st.floats(1, 2000), seconds=st.floats(0, 3), seed=st.integers() | st.none())
def test_arrivals_are_a_schedule(rate: float, seconds: float, seed: int | None) -> None:
    times = arrivals(rate, seconds, seed)
    assert all(one <= other for one, other in pairwise(times))
    assert all(0 <= one < seconds for one in times)
    assert times == arrivals(rate, seconds, seed)
    expected = rate * seconds
    assert abs(len(times) - expected) <= 1 + (6 * math.sqrt(expected) + 6 if seed is not None else 0)


def test_people_arrive_at_random_and_regular_ones_do_not() -> None:
    """Exponential gaps vary as much as they are long; regular ones not at all."""
    for seed, variation in ((1, 1.0), (None, 0.0)):
        times = arrivals(1000, 20, seed)
        gaps = [later - earlier for earlier, later in pairwise(times)]
        mean = sum(gaps) / len(gaps)
        assert mean == pytest.approx(0.001, rel=0.05)
        deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
        assert deviation / mean == pytest.approx(variation, abs=0.05)


def test_another_seed_is_another_schedule() -> None:
    assert arrivals(100, 1, 1) != arrivals(100, 1, 2)


def test_no_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="rate=0"):
        arrivals(0, 1)


# The two loops


def test_in_a_closed_loop_every_connection_always_has_a_request(server: Address) -> None:
    """Little's law: requests under way = throughput x latency; here as many as connections."""
    report = closed_loop(server, connections=10, path="/0.02", **{**SHORT, "seconds": 1.0})
    mean_s = sum(report.latencies_us) / len(report.latencies_us) / 1e6
    assert min(report.latencies_us) >= 19_000  # asyncio's clock is 1 ms coarse
    assert report.throughput * mean_s == pytest.approx(10, rel=0.15)
    assert report.connections == 10
    assert not report.errors and not report.timeouts and not report.warnings


@quiet
def test_in_an_open_loop_the_schedule_is_kept(server: Address) -> None:
    report = open_loop(server, rate=300, seconds=0.5, warm_up_s=0.1)
    assert report.requests == len(report.latencies_us) == scheduled(300, 0.5, 0.1)
    assert report.quantile(0) <= report.quantile(0.5) <= report.quantile(1) == max(report.latencies_us)


@quiet
def test_waiting_counts_in_an_open_loop_alone(server: Address) -> None:
    """One connection and 10 ms a request: at most 100/s. At 200/s half a second's arrivals take a second to serve."""
    closed = closed_loop(server, connections=1, path="/0.01", seconds=0.5)
    opened = open_loop(server, rate=200, connections=1, path="/0.01", seconds=0.5, warm_up_s=0, seed=None)
    assert opened.requests == 100
    assert not opened.timeouts
    assert max(opened.latencies_us) > 400_000
    assert opened.quantile(0.5) > 5 * closed.quantile(0.5)
    firsts, lasts = opened.latencies_us[:20], opened.latencies_us[-20:]
    assert min(lasts) > max(firsts)


@quiet
def test_with_free_connections_nobody_waits(server: Address) -> None:
    few, many = (
        open_loop(server, rate=200, connections=connections, path="/0.01", seconds=0.5, warm_up_s=0, seed=None)
        for connections in (1, 50)
    )
    assert many.requests == few.requests == 100
    assert many.quantile(0.5) < few.quantile(0.5) / 3


@pytest.mark.parametrize("path", ["/close", "/old", "/parts"])
def test_answers_may_come_in_pieces_and_end_their_connection(server: Address, path: str) -> None:
    report = open_loop(server, rate=100, path=path, **SHORT)
    assert report.requests == len(report.latencies_us) == scheduled(100, 0.3, 0.05)


@pytest.mark.parametrize("path", ["/404", "/break", "/endless"])
def test_what_is_no_good_answer_is_an_error(server: Address, path: str) -> None:
    report = open_loop(server, rate=100, path=path, **SHORT)
    assert report.errors == report.requests == scheduled(100, 0.3, 0.05)
    assert report.latencies_us == ()
    with pytest.raises(ValueError, match="no request was answered"):
        report.quantile(0.5)


@pytest.mark.parametrize("connections", [2, 500])
def test_who_waits_too_long_gives_up(server: Address, connections: int) -> None:
    """For an answer, and also for a free connection: one after the other, two connections would take ten seconds."""
    start = time.monotonic()
    report = open_loop(server, rate=1000, path="/never", seconds=0.4, timeout_s=0.2, connections=connections)
    assert report.timeouts == report.requests == scheduled(1000, 0.4, 0.2)
    assert time.monotonic() - start < 5


def test_in_a_closed_loop_too(server: Address) -> None:
    report = closed_loop(server, connections=3, path="/never", seconds=0.5, warm_up_s=0, timeout_s=0.2)
    assert 6 <= report.timeouts == report.requests <= 12
    assert report.throughput == 0


def test_a_server_that_is_stuck_from_the_first_moment_counts(server: Address) -> None:
    report = closed_loop(server, connections=3, path="/never", seconds=0.2, warm_up_s=0.1, timeout_s=0.5)
    assert report.timeouts == report.requests == 3


@pytest.mark.parametrize("kind", ["closed", "open"])
def test_a_server_that_dies_meanwhile_is_errors(kind: str) -> None:
    with running("tests.probe_web") as (host, port):
        victim = next(one for one in psutil.Process().children() if listens(one, port))
        threading.Timer(1.5, victim.kill).start()
        start = time.monotonic()
        settings: dict[str, Any] = {"seconds": 20, "path": "/0.05", "timeout_s": 1.0}
        if kind == "closed":
            report = closed_loop((host, port), connections=5, **settings)
        else:
            report = open_loop((host, port), rate=100, **settings)
    assert time.monotonic() - start < 10
    assert report.errors > 0 and report.latencies_us
    if kind == "open":
        assert report.requests == scheduled(100, 20, 0.2)


def listens(process: psutil.Process, port: int) -> bool:
    return any(one.laddr.port == port and one.status == psutil.CONN_LISTEN for one in process.net_connections())


def test_nobody_at_home_is_one_line() -> None:
    port = free_port()
    with pytest.raises(RuntimeError, match=f"nobody answers at 127.0.0.1:{port}"):
        closed_loop(("127.0.0.1", port), connections=2, **SHORT)


def test_with_few_descriptors_there_are_fewer_connections(server: Address) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))\n"
        "from helpers.testbed.load import closed_loop\n"
        f"report = closed_loop({server!r}, connections=200, seconds=0.2)\n"
        "print(report.connections, len(report.latencies_us), *report.warnings)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    connections, answered, words = done.stdout.split(maxsplit=2)
    assert 10 < int(connections) < 64 and int(answered) > 0
    assert words.startswith("scaled down from 200")


def test_nothing_is_left_of_it(server: Address) -> None:
    before = psutil.Process().children()
    closed_loop(server, connections=2, **SHORT)
    assert psutil.Process().children() == before


def test_a_quantile_is_the_latency_that_so_many_stay_below() -> None:
    report = Report(
        requests=5,
        seconds=1,
        throughput=5,
        latencies_us=(50, 10, 30, 20, 40),
        errors=0,
        timeouts=0,
        connections=1,
        cpu=0,
    )
    assert [report.quantile(share) for share in (0, 0.25, 0.5, 1)] == [10, 20, 30, 50]
