"""Slices and what follows from them, against a count of every single nanosecond."""

import threading
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import machine, timeline
from helpers.timeline import Slice

LONGEST = 40  # ns: short enough to look at each of them

moments = st.lists(st.integers(0, LONGEST), min_size=0, max_size=10)


@st.composite
def slices_of_one(draw: st.DrawFn) -> list[Slice]:
    """Slices of one context: in order, apart, some of no length."""
    ends = sorted(draw(moments))
    return list(zip(ends[::2], ends[1::2], strict=False))


contexts = st.lists(slices_of_one(), max_size=4)


def counted(by_context: list[list[Slice]]) -> list[int]:
    """How many ran in each nanosecond."""
    return [sum(begin <= moment < end for found in by_context for begin, end in found) for moment in range(LONGEST + 1)]


@given(contexts)
def test_running_counts_every_nanosecond(by_context: list[list[Slice]]) -> None:
    counts = counted(by_context)
    assert timeline.running(by_context) == {count: counts.count(count) for count in set(counts) - {0}}


@given(contexts)
def test_overlap_is_the_share_of_two_or_more(by_context: list[list[Slice]]) -> None:
    counts = [count for count in counted(by_context) if count]
    share = sum(count > 1 for count in counts) / len(counts) if counts else 0
    assert timeline.overlap(by_context) == pytest.approx(share)


@given(contexts, st.integers(1, 1000))
def test_at_once_is_the_mean(by_context: list[list[Slice]], wall: int) -> None:
    assert timeline.at_once(by_context, wall) == pytest.approx(sum(counted(by_context)) / wall)


def test_neighbours_that_touch_do_not_overlap() -> None:
    assert timeline.overlap([[(0, 10)], [(10, 20)]]) == 0
    assert timeline.overlap([[(0, 10)], [(0, 10)]]) == 1
    assert timeline.overlap([[(0, 10)], [(5, 15)]]) == pytest.approx(1 / 3)
    assert timeline.overlap([]) == 0


@given(contexts)
def test_turns_hold_every_slice_in_order(by_context: list[list[Slice]]) -> None:
    found = timeline.turns(by_context)
    assert [begin for _, begin, _ in found] == sorted(begin for _, begin, _ in found)
    assert all(one != other for (one, *_), (other, *_) in pairwise(found))
    for context, ours in enumerate(by_context):
        for begin, end in ours:
            inside = [who for who, first, last in found if who == context and first <= begin and end <= last]
            assert inside or begin == end


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30))
def test_one_after_another_they_are_the_runs_of_one_context(order: list[int]) -> None:
    by_context = [[(place, place + 1) for place, who in enumerate(order) if who == context] for context in range(3)]
    found = timeline.turns(by_context)
    assert [who for who, begin, end in found for _ in range(end - begin)] == order
    assert sum(end - begin for _, begin, end in found) == len(order)


def test_who_sleeps_is_seen_to_pause() -> None:
    found = timeline.slices_of(1000)
    time.sleep(0.002)
    found += timeline.slices_of(1000)
    pauses = [later - earlier for (_, earlier), (later, _) in pairwise(found)]
    assert max(pauses) >= 2_000_000
    assert all(begin <= end for begin, end in found)


def test_both_ways_end_when_they_should() -> None:
    until = time.perf_counter_ns() + 5_000_000
    assert timeline.slices(until)[-1][1] >= until
    assert timeline.slices(0)[-1][1] > 0, "a moment that is over needs one look"
    (only,) = timeline.slices_of(0)
    assert only[0] == only[1]
    assert _longest(timeline.slices_of(20_000)) > 4 * _longest(timeline.slices_of(1_000))


def _longest(found: list[Slice]) -> int:
    return sum(end - begin for begin, end in found)


def test_a_long_gap_that_is_allowed_parts_nothing() -> None:
    assert len(timeline.slices(time.perf_counter_ns() + 3_000_000, gap_ns=10**12)) == 1
    assert len(timeline.slices_of(10_000, gap_ns=10**12)) == 1


def test_two_threads_on_one_core_never_run_at_once() -> None:
    if machine.pinning() is not None:
        pytest.skip("this system cannot pin")
    found: list[list[Slice]] = [[], []]

    def run(which: int) -> None:
        found[which] = timeline.slices_of(200_000)

    with machine.pinned(machine.cores()[0]):
        threads = [threading.Thread(target=run, args=(which,)) for which in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(found) and timeline.overlap(found) == 0
