"""The experiments of notebook 03: that each measures what it says, judged by ratios within one run."""

import os
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import compiled, machine
from helpers.contexts import places
from helpers.experiments import context_switching as module
from helpers.experiments.context_switching import (
    KIB,
    MIB,
    handoff,
    memory_ladder,
    oversubscription,
    switch_counts,
    working_set_cost,
)

two_cores = pytest.mark.skipif(len(machine.cores()) < 2, reason="needs two cores")


@pytest.mark.parametrize("between", ["processes", "threads", "tasks", "generators"])
def test_a_switch_costs_something(between: str) -> None:
    record = handoff.here(between, repeats=5, rounds=1)
    assert record.cost.median > 0
    assert record.hop is not None and record.overhead is not None
    assert record.hop.median > record.overhead.median > 0


def test_what_is_left_is_hop_less_overhead() -> None:
    record = handoff.here("processes", repeats=5, rounds=1)
    pairs = zip(record.hop.samples, record.overhead.samples, strict=True)
    assert record.cost.samples == pytest.approx([hop - alone for hop, alone in pairs])


def test_both_ends_are_closed_and_the_other_side_is_gone() -> None:
    before = set(os.listdir("/proc/self/fd"))
    for between in ("processes", "threads"):
        with module._pair(between, (None, None)) as pair:
            pair.hops("python", 3)
            pair.alone("python", 3)
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_side_without_partner_says_so() -> None:
    read_end, write_end = os.pipe()
    os.close(write_end)
    with pytest.raises(RuntimeError, match="gone"):
        module.Side(read_end, read_end).answer("compiled", 1)
    os.close(read_end)


def test_every_switch_is_counted() -> None:
    """On one core each hop is a switch; the kernel's counters must find them all, and hardly any more."""
    record = switch_counts.here(switches=5_000, repeats=5)
    if record.placement != "same core":
        pytest.skip("this system cannot pin")
    assert record.total.median == pytest.approx(100, abs=3)
    assert record.total.median == pytest.approx(record.voluntary.median + record.involuntary.median, abs=1)


def test_one_hop_is_one_switch() -> None:
    """Divided by hops, not by round trips: the kernel's own count says which."""
    cores, placement, _ = places(same_core=True)
    if placement != "same core":
        pytest.skip("this system cannot pin")
    with module._pair("processes", cores) as pair:
        hop, alone = pair.per_hop("python", 2_000), pair.per_call("python", 2_000)
    assert hop.voluntary + hop.involuntary == pytest.approx(1, abs=0.05)
    assert alone.voluntary + alone.involuntary < 0.05


@two_cores
def test_apart_nobody_is_pushed_off() -> None:
    together, apart = (switch_counts.here(same_core=same, switches=5_000, repeats=5) for same in (True, False))
    assert apart.involuntary.median < together.involuntary.median


def test_one_core_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: (0,))
    _, placement, warnings = places(same_core=False)
    assert placement == "same core" and "only one core" in warnings[0]


def test_without_pinning_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "pinning", lambda: "this system pins nothing")
    cores, placement, warnings = places(same_core=True)
    assert cores == (None, None) and placement == "free" and "this system pins nothing" in warnings[0]


def test_without_numba_python_alone_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "numba", lambda: "pip install numba")
    record = handoff.here("processes", repeats=5, rounds=1)
    assert record.method.startswith("python loop") and record.cost.median > 0


# The ladder


@given(lines=st.integers(1, 400))
@settings(deadline=None, max_examples=30)
def test_the_cycle_visits_every_line_once(lines: int) -> None:
    words = compiled.cycle(np.zeros(lines * compiled.WORDS_PER_LINE, dtype=np.uint64), np.random.default_rng())
    seen, place = set(), 0
    for _ in range(lines):
        seen.add(place)
        place = int(words[place])
    assert place == 0 and seen == {line * compiled.WORDS_PER_LINE for line in range(lines)}


def test_memory_climbs() -> None:
    record = memory_ladder.here(largest_mib=32, repeats=5)
    assert record.huge[-1].median > 5 * record.huge[0].median
    assert "L1" in record.levels
    assert record.figures()["largest size"] is record.huge[-1]


def test_huge_pages_are_told_from_ordinary_ones() -> None:
    ordinary = compiled.memory(8 * MIB)
    ordinary[:] = 1
    share = module._huge_share(ordinary)
    if share is None:
        pytest.skip("this system has no smaps")
    assert share == 0
    if machine.card()["transparent_huge_pages"] in ("madvise", "always"):
        huge = compiled.memory(8 * MIB, huge_pages=True)
        huge[:] = 1
        assert module._huge_share(huge) > 0.5


SIZES = module._ladder_sizes(128 * MIB)
CACHES = {"L1": 32 * KIB, "L2": 1 * MIB, "L3": 32 * MIB}


def curve(**until: float) -> list[float]:
    """A ladder with steps at the given ends: `curve(L1=1, L2=4, RAM=80)` in ns."""
    return [next(ns for level, ns in until.items() if size <= CACHES.get(level, 1 << 60)) for size in SIZES]


def test_all_four_levels_are_read() -> None:
    ladder = curve(L1=1, L2=4, L3=15, RAM=80)
    levels, unseen = module._levels(SIZES, ladder, CACHES)
    assert {level: ladder[index] for level, index in levels.items()} == {"L1": 1, "L2": 4, "L3": 15, "RAM": 80}
    assert not unseen


def test_a_cache_without_a_step_is_not_invented() -> None:
    levels, unseen = module._levels(SIZES, curve(L1=1, L2=4, RAM=80), CACHES)
    assert set(levels) == {"L1", "L2", "RAM"} and "no step" in unseen["L3"]


def test_ram_is_not_claimed_from_inside_the_cache() -> None:
    small = [size for size in SIZES if size <= 16 * MIB]
    levels, unseen = module._levels(
        tuple(small), curve(L1=1, L2=4, L3=15, RAM=80)[: len(small)], {**CACHES, "L3": 64 * MIB}
    )
    assert "RAM" not in levels and "not twice the last cache" in unseen["RAM"]


def test_noise_of_a_few_percent_makes_no_levels() -> None:
    wobbly = [ns * (1.05 if index % 2 else 0.97) for index, ns in enumerate(curve(L1=1, L2=4, RAM=80))]
    levels, _ = module._levels(SIZES, wobbly, CACHES)
    assert set(levels) == {"L1", "L2", "RAM"}


def test_sizes_grow_to_the_largest() -> None:
    assert SIZES[0] == 4 * KIB and SIZES[-1] == 128 * MIB
    assert all(1.3 < later / earlier <= 2 for earlier, later in pairwise(SIZES))


# The caches' share


def test_data_makes_a_switch_dearer() -> None:
    record = working_set_cost.here("at-random", largest_kib=2048, repeats=5, rounds=1)
    bare, *extras = record.extra
    assert max(extra.low for extra in extras) > 3 * bare.median, "where two sets outgrow a cache, if not sooner"
    assert record.figures()["refill"].median < 0.5, "while both sets fit the cache, lines do not come back from RAM"


def test_no_data_is_the_bare_switch() -> None:
    bare, record = handoff.here(repeats=5, rounds=2), working_set_cost.here(largest_kib=64, repeats=5, rounds=2)
    assert record.extra[0].median == pytest.approx(bare.cost.median, rel=0.6)


# Too many workers


def test_who_gets_nothing_done_in_time_gets_more_time() -> None:
    found = module._crowd(1, module._loops_for(0.05), 0.0, 0.01)
    assert found.throughput > 0 and found.p50 > 10


def test_computing_workers_wait_for_each_other() -> None:
    record = oversubscription.here("computing", per_core=8, seconds_each=0.1)
    at_cores = record.workers.index(record.cores)
    assert record.p99[-1].median > 2 * record.p99[at_cores].median
    assert record.throughput[-1].median < 2 * record.throughput[at_cores].median


def test_waiting_workers_do_not() -> None:
    record = oversubscription.here("waiting", per_core=8, seconds_each=0.1)
    assert record.throughput[-1].median > 4 * record.throughput[0].median


def test_what_ends_late_is_not_throughput() -> None:
    report = module._requests(loops=1, wait=0.05, begin=0, end=0)
    assert report["in_time"] == 0
    begin = module.time.monotonic()
    report = module._requests(loops=1, wait=0.05, begin=begin, end=begin + 0.12)
    assert report["in_time"] == 2 and len(report["latencies"]) == 3
