"""Our load generator beside wrk (https://github.com/wg/wrk), on the same server in the same minutes.

Both have as many connections, one thread, and as many seconds; wrk, too, is a closed loop. Rounds and verdicts are
those of test_context_switching.py. Below the generator's own saturation (it had core time left) a ratio is a target.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable

import pytest

from helpers.measure import ratio
from helpers.testbed.load import closed_loop
from helpers.testbed.program import running
from tests.bench.test_context_switching import (  # one of these is a fixture
    Sample,
    Table,
    column,
    interval,
    output,
    require,
    rounds_until,
    row,
    table,  # noqa: F401
    watched,
)

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("wrk") is None, reason="install: apt install wrk"),
]

SECONDS = 2  # of each run
WARM_UP_S = 0.2
PAIRS = 7
AT_MOST_S = 60
US = {"us": 1.0, "ms": 1e3, "s": 1e6}
SATURATED = 0.9  # cores' worth of time that the generator took


@pytest.mark.parametrize(("wait_ms", "connections"), [(10, 10), (10, 50), (10, 200), (0, 10)])
def test_it_agrees_with_wrk(wait_ms: int, connections: int, table: Table) -> None:  # noqa: F811
    with running("tests.bench.quick_web", wait_s=wait_ms / 1000) as (host, port), watched() as meanwhile:
        rounds = rounds_until(
            lambda rounds: all(spread(rounds, name) < width for name, width in (("throughput", 0.1), ("p99", 0.15))),
            [ours((host, port), connections), wrks((host, port), connections)],
            at_least=PAIRS,
            seconds=AT_MOST_S,
        )
    words = f"wait of {wait_ms} ms, {connections} connections: "
    throughput, p99 = (column(rounds, name) for name in ("throughput", "p99"))
    wrk_throughput, wrk_p99 = (column(rounds, f"wrk's {name}") for name in ("throughput", "p99"))
    saturated = max(column(rounds, "cpu")) > SATURATED
    bounds = [(None, None)] * 2 if saturated else [(0.85, 1.15), (0.8, 1.2)]
    rows = [
        row(words + name, mine, theirs, unit=unit, low=low, high=high, noise=meanwhile)
        for (name, mine, theirs, unit), (low, high) in zip(
            [("throughput", throughput, wrk_throughput, "/s"), ("p99", p99, wrk_p99, "us")], bounds, strict=True
        )
    ]
    rows.append(row(words + "p50", column(rounds, "p50"), column(rounds, "wrk's p50"), unit="us"))
    table.add(*rows)
    require(rows)


def spread(rounds: list[Sample], name: str) -> float:
    return interval(ratio(column(rounds, name), column(rounds, f"wrk's {name}")))


def ours(address: tuple[str, int], connections: int) -> Callable[[], Sample]:
    def sample() -> Sample:
        report = closed_loop(address, connections=connections, seconds=SECONDS, warm_up_s=WARM_UP_S)
        assert not report.errors and not report.timeouts
        quantiles = {"p50": report.quantile(0.5), "p99": report.quantile(0.99)}
        return {"throughput": report.throughput, "cpu": report.cpu, **quantiles}

    return sample


def wrks(address: tuple[str, int], connections: int) -> Callable[[], Sample]:
    url = f"http://{address[0]}:{address[1]}/"

    def sample() -> Sample:
        text = output("wrk", "-t1", f"-c{connections}", f"-d{SECONDS}s", "--latency", url)
        assert "errors" not in text, text
        found: Sample = {"wrk's throughput": float(number(r"Requests/sec:\s+([\d.]+)", text)[1])}
        for share in (50, 99):
            latency = number(rf"{share}%\s+([\d.]+)(us|ms|s)", text)
            found[f"wrk's p{share}"] = float(latency[1]) * US[latency[2]]
        return found

    return sample


def number(pattern: str, text: str) -> re.Match[str]:
    match = re.search(pattern, text)
    assert match, text
    return match
