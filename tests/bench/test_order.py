"""Does what ran before an experiment change its figure?"""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from helpers.record import Record
from helpers.registry import experiments

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1200)]

ORDERS = 3


def test_no_experiment_perturbs_another() -> None:
    """Every experiment runs in several random orders; its intervals overlap 9 times of 10 between quiet runs.

    Each runs in a process of its own, so that nothing of it should be left when the next one starts.
    """
    names = list(experiments())
    runs: list[dict[str, Record]] = []
    for _ in range(ORDERS):
        order = random.sample(names, len(names))
        runs.append({name: experiments()[name].run(on_progress=lambda *_: None) for name in order})
    agreed = {True: [0, 0], False: [0, 0]}  # quiet, and not
    print()
    for earlier, later in pairwise(runs):
        for name in names:
            pair = (earlier[name], later[name])
            one, other = (record.figures()[record.headline_name] for record in pair)
            overlap = one.low <= other.high and other.low <= one.high
            quiet = not any(record.noise and record.noise.warning() for record in pair)
            agreed[quiet][0] += overlap
            agreed[quiet][1] += 1
            print(f"{name:52} {one!s:38} {other!s:38} {'' if overlap else 'DIFFER'} {'' if quiet else '(noisy)'}")
    for quiet, (same, total) in agreed.items():
        print(f"{'quiet' if quiet else 'noisy'}: {same} of {total} agree")
    same, total = agreed[True]
    assert total and same >= 0.9 * total
