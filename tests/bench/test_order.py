"""Does what ran before an experiment change its figure?"""

from __future__ import annotations

import random

import pytest

from helpers.measure import Estimate
from helpers.record import Record
from helpers.registry import experiments

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]

ORDERS = 3


def headline(record: Record) -> Estimate:
    return record.figures()[record.headline_name]


def test_no_experiment_perturbs_another() -> None:
    """Every experiment runs in several random orders; its quiet runs agree with the middle one of them 9 times of 10.

    Each runs in a process of its own, so that nothing of it should be left when the next one starts. Two runs agree
    when their intervals overlap; the middle run is the one with the median figure.
    """
    names = list(experiments())
    runs: list[dict[str, Record]] = []
    for _ in range(ORDERS):
        order = random.sample(names, len(names))
        runs.append({name: experiments()[name].run(on_progress=lambda *_: None) for name in order})
    agreed = {"quiet": [0, 0], "noisy": [0, 0]}
    print()
    for name in names:
        first, middle, last = sorted((run[name] for run in runs), key=lambda record: headline(record).median)
        for other in (first, last):
            one, two = headline(middle), headline(other)
            overlap = one.low <= two.high and two.low <= one.high
            noisy = any(record.noise and record.noise.warning() for record in (middle, other))
            grade = "noisy" if noisy else "quiet"
            agreed[grade][0] += overlap
            agreed[grade][1] += 1
            print(f"{name:52} {one!s:36} {two!s:36} {'' if overlap else 'DIFFER':6} {grade}")
    for grade, (same, total) in agreed.items():
        print(f"{grade}: {same} of {total} agree")
    same, total = agreed["quiet"]
    assert total and same >= 0.9 * total
