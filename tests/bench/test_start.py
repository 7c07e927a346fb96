"""What it costs to start an experiment, against the start of a bare interpreter."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from helpers import sandbox

PAIRS = 41
AT_MOST = 2.0  # times `python -c pass` of the same interpreter

pytestmark = pytest.mark.bench


def milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6


def test_start_of_an_experiment() -> None:
    """The median of interleaved pairs: both meet the same machine, whatever else it does."""
    bare, ours = [], []
    for _ in range(PAIRS):
        bare.append(milliseconds(lambda: subprocess.run([sys.executable, "-c", "pass"], check=True)))
        ours.append(milliseconds(lambda: sandbox.run("tests.probe_nothing", "nothing", {})))
    ratio = statistics.median(own / other for own, other in zip(ours, bare, strict=True))
    print(
        f"\nstart of an experiment {statistics.median(ours):.1f} ms, python -c pass {statistics.median(bare):.1f} ms, "
        f"ratio {ratio:.2f} (at most {AT_MOST})"
    )
    assert ratio <= AT_MOST
