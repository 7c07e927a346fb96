"""Are the seconds that an experiment declares honest?"""

from __future__ import annotations

import time
from typing import Any

import pytest

from helpers.registry import Experiment, experiments

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("experiment", experiments().values(), ids=lambda each: each.name)
def test_the_declared_seconds_are_reported(experiment: Experiment[..., Any]) -> None:
    """Within a factor of three on a quiet machine; reported, since this one may be busy."""
    start = time.monotonic()
    record = experiment.run(on_progress=lambda *_: None)
    took = time.monotonic() - start
    grade = record.noise.grade if record.noise else "unknown"
    print(
        f"\n{experiment.name}: declared {experiment.seconds:g} s, took {took:.1f} s "
        f"({took / experiment.seconds:.2f} times; the machine was {grade})"
    )
