"""Our figures for notebook 01 beside those of C programs, taken in the same minutes on the same cores.

Both sides run in the same rounds, one right after the other in random order, with a fresh pair of processes each and
as many batches of as many messages; the ratio is taken round by round. The wall clock, as the experiment has it:
most of a message's time is waiting. What the table and its targets mean is said in test_context_switching.py.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from statistics import median

import pytest

from helpers import machine
from helpers.experiments import processes_and_threads
from helpers.experiments.processes_and_threads import KIB
from helpers.measure import in_fresh_process, ratio
from tests.bench.test_context_switching import (  # two of these are fixtures
    Table,
    column,
    compiled,  # noqa: F401
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
    pytest.mark.skipif(sys.platform != "linux", reason="pins processes as Linux does"),
]

BATCHES = 5
ROUNDS = 11
SECONDS = 40
CLEAR = 0.1
LARGE = 64 * KIB
COUNTS = {"trip": {"same core": 2000, "two cores": 500}, "pour": {"same core": 1000, "two cores": 500}}


def places() -> list[tuple[str, tuple[int, int]]]:
    cores = machine.cores()
    found = [("same core", (cores[0], cores[0]))]
    return found + ([("two cores", (cores[0], cores[1]))] if len(cores) > 1 else [])


@pytest.mark.parametrize(("placement", "cores"), places(), ids=[name for name, _ in places()])
@pytest.mark.parametrize(
    ("kind", "size", "high", "words"),
    [
        ("trip", 1, 1.35, "a byte there and back by pipe, Python / C (lat_pipe's method)"),
        ("pour", LARGE, 1 / 0.75, "64 KiB by pipe, time, Python / C (bw_pipe's method)"),  # throughput: at least 0.75
    ],
)
def test_a_pipe_costs_nearly_what_it_costs_in_c(
    kind: str,
    size: int,
    high: float,
    words: str,
    placement: str,
    cores: tuple[int, int],
    compiled: Callable[[str], str],  # noqa: F811
    table: Table,  # noqa: F811
) -> None:
    """A message of one byte there and back, and 64 KiB messages one way.

    Ours reads every message to its end, which bw_pipe does not; that is part of what is compared.
    """
    program, count = compiled("pipe"), COUNTS[kind][placement]

    def ours() -> float:
        def batches() -> list[float]:
            with processes_and_threads._conversation("pipe", cores, (size,)) as talk:
                run = getattr(talk, kind)
                run(size, count)
                return [float(run(size, count)) for _ in range(BATCHES)]

        return median(in_fresh_process(batches))

    def theirs() -> float:
        arguments = [str(core) for core in cores] + [kind, str(count), str(BATCHES), str(size)]
        return median(float(line) for line in output(program, *arguments).splitlines())

    def both() -> dict[str, float]:
        sides = {"ours": ours, "theirs": theirs}
        return {name: sides[name]() / count / 1000 for name in random.sample(list(sides), 2)}

    with watched() as meanwhile:
        rounds = rounds_until(
            lambda rounds: interval(ratio(column(rounds, "ours"), column(rounds, "theirs"))) < CLEAR,
            [both],
            at_least=ROUNDS,
            seconds=SECONDS,
        )
    found = row(
        f"{words}, {placement}", column(rounds, "ours"), column(rounds, "theirs"), unit="µs", high=high, noise=meanwhile
    )
    table.add(found)
    require([found])
