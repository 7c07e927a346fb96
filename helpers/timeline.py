"""When contexts really ran, from time stamps that they note themselves, and what follows from it.

A context that computes looks at the clock all the time. Two looks in a row that are far apart mean that it did not run
in between: it was switched off its core, or waited for the GIL. What lies between two such gaps is a slice. No
tracing, no privileges, the same on every system. Standard library alone: other interpreters run it, too.
"""

from __future__ import annotations

import time
from itertools import pairwise

TYPE_CHECKING = False  # as in `worker`: `typing` takes 4 ms
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Slice = tuple[int, int]  # begin and end in ns, by `perf_counter_ns`, which all processes of a machine share

GAP_NS = 15_000  # a longer gap and somebody else may have run; with 200 µs slices of one core seemed to overlap


def slices(until_ns: int, gap_ns: int = GAP_NS) -> list[Slice]:
    """Compute until that moment of `perf_counter_ns`; when this context really ran meanwhile."""
    clock = time.perf_counter_ns
    found = []
    begin = last = clock()
    while last < until_ns:
        now = clock()
        if now - last > gap_ns:
            found.append((begin, last))
            begin = now
        last = now
    found.append((begin, last))
    return found


def slices_of(looks: int, gap_ns: int = GAP_NS) -> list[Slice]:
    """As `slices`, but a fixed amount of computing, however long it takes: so many looks at the clock."""
    clock = time.perf_counter_ns
    found = []
    begin = last = clock()
    for _ in range(looks):
        now = clock()
        if now - last > gap_ns:
            found.append((begin, last))
            begin = now
        last = now
    found.append((begin, last))
    return found


def turns(by_context: Sequence[Sequence[Slice]]) -> list[tuple[int, int, int]]:
    """Who ran when, in order: (context, begin, end); neighbours of one context with nobody in between are one turn."""
    everything = sorted(
        (begin, end, context) for context, found in enumerate(by_context) for begin, end in found if end > begin
    )
    joined: list[tuple[int, int, int]] = []
    for begin, end, context in everything:
        if joined and joined[-1][0] == context:
            joined[-1] = (context, joined[-1][1], max(end, joined[-1][2]))
        else:
            joined.append((context, begin, end))
    return joined


def running(by_context: Iterable[Sequence[Slice]]) -> dict[int, int]:
    """Nanoseconds by the number of contexts at once: `{1: 800, 2: 200}`. Time in which none did is not counted."""
    spent: dict[int, int] = {}
    for count, begin, end in _levels(by_context):
        if count:
            spent[count] = spent.get(count, 0) + end - begin
    return spent


def overlap(by_context: Iterable[Sequence[Slice]]) -> float:
    """Of the time in which any context ran, the share in which two or more did: 0 to 1."""
    spent = running(by_context)
    total = sum(spent.values())
    return sum(length for count, length in spent.items() if count > 1) / total if total else 0.0


def at_once(by_context: Iterable[Sequence[Slice]], wall_ns: float) -> float:
    """How many were there at once, on average over `wall_ns`: of tasks in progress that is their concurrency."""
    return sum(count * length for count, length in running(by_context).items()) / wall_ns


def _levels(by_context: Iterable[Sequence[Slice]]) -> Iterator[tuple[int, int, int]]:
    """Stretches with the same number of contexts: (how many, begin, end)."""
    edges = sorted(edge for found in by_context for begin, end in found for edge in ((begin, 1), (end, -1)))
    count = 0
    for (moment, step), (following, _) in pairwise(edges):
        count += step
        if following > moment:  # what begins and ends at one moment is no stretch
            yield count, moment, following
