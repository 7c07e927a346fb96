"""The five servers of notebook 07 under our load generator and under wrk (https://github.com/wg/wrk), side by side.

Both are closed loops with as many connections, one thread, and as many seconds, on the same server in the same rounds;
as in test_load.py, whose server answers more quickly than any of these. Connections are fewer than the threads of the
pool, so that every client is served. Pre-fork closes its connections, so there both connect for each request.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from helpers.measure import ratio
from helpers.testbed.servers import MODELS, serving
from tests.bench.test_context_switching import (  # one of these is a fixture
    Sample,
    Table,
    column,
    interval,
    require,
    rounds_until,
    row,
    table,  # noqa: F401
    watched,
)
from tests.bench.test_load import ours, wrks

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("wrk") is None, reason="install: apt install wrk"),
]

CONNECTIONS = 50
PAIRS = 7
AT_MOST_S = 60
WITHIN = (0.85, 1.15)


@pytest.mark.parametrize("model", MODELS)
def test_wrk_sees_the_same_throughput(model: str, table: Table) -> None:  # noqa: F811
    with serving(model, wait_ms=10) as server, watched() as meanwhile:
        sources: list[Callable[[], Sample]] = [ours(server.address, CONNECTIONS), wrks(server.address, CONNECTIONS)]
        rounds = rounds_until(is_clear, sources, at_least=PAIRS, seconds=AT_MOST_S)
    throughput, theirs = column(rounds, "throughput"), column(rounds, "wrk's throughput")
    low, high = WITHIN
    rows = [row(f"{model}, throughput", throughput, theirs, unit="/s", low=low, high=high, noise=meanwhile)]
    rows += [row(f"{model}, {name}", column(rounds, name), column(rounds, f"wrk's {name}"), unit="us") for name in
             ("p50", "p99")]  # fmt: skip
    table.add(*rows)
    require(rows)


def is_clear(rounds: list[Sample]) -> bool:
    return interval(ratio(column(rounds, "throughput"), column(rounds, "wrk's throughput"))) < 0.1
