"""One hundred thousand WebSockets: the bars that they are held to, on a machine of two quiet cores."""

from __future__ import annotations

import pytest

from helpers import machine
from helpers.experiments.server_models import FLAT, HeldOpen, HundredThousand, hundred_thousand

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]

RUNS = 3  # at most: a time is the machine's, too, and the best of them is nearest to the server's own
MEMORY_KIB = 1.5
CONNECT_S, BROADCAST_S, PING_P99_MS = 10.0, 2.0, 20.0


@pytest.fixture(scope="module")
def runs() -> list[HundredThousand]:
    """Runs until one is within the times, so many at most."""
    if machine.fit(100_000, bytes_each=16 * 1024).count < 100_000:
        pytest.skip("too little memory for 100,000 connections")
    found: list[HundredThousand] = []
    while len(found) < RUNS and not any(is_in_time(run) for run in found):
        found.append(hundred_thousand.run(on_progress=lambda *_: None))
        for held in filter(None, (found[-1].one, found[-1].several)):
            print(
                f"\n{held.connections:,} on {held.loops}: {held.connect_s:.1f} s, broadcast {held.broadcast_s:.2f} s, "
                f"ping p99 {held.ping_p99_ms:.1f} ms, {held.server_mib:.0f} MiB"
            )
        print({name: str(figure) for name, figure in found[-1].figures().items()}, found[-1].noise)
    return found


def is_in_time(run: HundredThousand) -> bool:
    return all(within(held) for held in (run.one, run.all))


def within(held: HeldOpen) -> bool:
    return held.connect_s <= CONNECT_S and held.broadcast_s <= BROADCAST_S and held.ping_p99_ms <= PING_P99_MS


def test_all_of_them_are_held(runs: list[HundredThousand]) -> None:
    for run in runs:
        assert run.all.connections == 100_000
        assert run.one.connections == (100_000 if run.several is None else run.allowed - 50 if run.allowed else 0)


def test_each_takes_little_and_the_same(runs: list[HundredThousand]) -> None:
    for run in runs:
        costs = [stage.server for held in (run.one, run.all) for stage in held.stages]
        assert run.memory.high <= MEMORY_KIB and max(costs) <= MEMORY_KIB
        assert max(costs) <= (1 + FLAT) * min(costs)
        assert all(run.memory.high < rival.memory.low for rival in run.rivals)


def test_they_connect_answer_and_hear_in_time(runs: list[HundredThousand]) -> None:
    assert any(is_in_time(run) for run in runs)
