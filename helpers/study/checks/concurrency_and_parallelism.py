"""Checks for notebook 02."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from random import Random
from typing import Any

from helpers.study.checks import Mistake, checks, expect_number, short
from helpers.study.checks.fast_loop import in_a_loop_of_its_own

Interval = tuple[float, float]
Task = tuple[float, float, float]  # begin, end and CPU time, in s

# --- 02-two-numbers -------------------------------------------------------------------------------------------------


@checks("02-two-numbers")
def numbers(two_numbers: Callable[..., Any], source: Random) -> None:
    """Recordings that start late, overlap in part, and are not in order."""
    _expect_numbers(two_numbers, [(2.0, 6.0, 0.5), (1.0, 4.0, 1.0), (1.5, 4.0, 1.5)])
    for count in (1, 3, source.randrange(4, 8)):
        tasks = []
        for _ in range(count):
            begin, length = source.uniform(20, 24), source.uniform(2, 9)
            tasks.append((begin, begin + length, length * source.uniform(0.2, 0.9)))
        source.shuffle(tasks)
        _expect_numbers(two_numbers, tasks)


def _expect_numbers(two_numbers: Callable[..., Any], tasks: list[Task]) -> None:
    begins, ends, cpu_times = zip(*tasks, strict=True)
    lasted, computed = sum(ends) - sum(begins), sum(cpu_times)
    wall = max(ends) - min(begins)
    wrong_walls = [
        ("origin", max(ends)),
        ("wall", lasted),
        ("wall", max(end - begin for begin, end, _ in tasks)),
        ("order", tasks[-1][1] - tasks[0][0]),
    ]
    shown = ", ".join(f"({begin:.3g}, {end:.3g}, {cpu:.2g})" for begin, end, cpu in tasks)
    call = f"two_numbers([{shown}])"
    got = two_numbers(list(tasks))
    if got is None or got is ...:
        raise Mistake("empty")
    try:
        concurrency, parallelism = got
    except (TypeError, ValueError):
        raise Mistake("other", f"`{call}` returned `{short(got)}`, not a pair.") from None
    mistakes = [("seconds", lasted), ("count", float(len(tasks))), *_over(lasted, wrong_walls)]
    if len(tasks) > 1:
        mistakes.append(("swapped", computed / wall))
    expect_number(f"{call}[0]", concurrency, lasted / wall, mistakes)
    mistakes = [("seconds", computed), ("share", computed / lasted), *_over(computed, wrong_walls)]
    expect_number(f"{call}[1]", parallelism, computed / wall, mistakes)


def _over(total: float, walls: list[tuple[str, float]]) -> list[tuple[str, float]]:
    return [(name, total / wall) for name, wall in walls if wall]


# --- 02-most-at-once ------------------------------------------------------------------------------------------------


@checks("02-most-at-once")
def counts(most_at_once: Callable[..., Any], source: Random) -> None:
    """Intervals apart, touching, around one another; out of order; and none at all."""
    _expect_most(most_at_once, [(0, 3), (1, 4), (10, 12)])
    _expect_most(most_at_once, [(0, 1), (1, 2), (2, 3)])
    _expect_most(most_at_once, [(0, 10), (1, 2), (3, 4), (5, 6)])
    _expect_most(most_at_once, [(5, 9), (0, 2), (1, 3)])
    for count in (source.randrange(5, 9), source.randrange(30, 60)):
        begins = [source.randrange(2 * count) for _ in range(count)]
        _expect_most(most_at_once, [(begin, begin + source.randrange(1, 15)) for begin in begins])
    try:
        _expect_most(most_at_once, [])
    except (ValueError, IndexError) as error:
        raise Mistake("none", f"`most_at_once([])` ended in `{type(error).__name__}: {error}`.") from None


def _expect_most(most_at_once: Callable[..., Any], intervals: list[Interval]) -> None:
    wanted = _most(intervals)
    got = most_at_once(list(intervals))
    if intervals and got != wanted and most_at_once(sorted(intervals)) == wanted:
        raise Mistake("unsorted", f"For {short(intervals)} it gave `{short(got)}`; {wanted} would be right.")
    mistakes = [("none", got)] if not intervals and got is not None else []
    if intervals:
        wall = max(end for _, end in intervals) - min(begin for begin, _ in intervals)
        mistakes = [
            ("touching", _most(intervals, closed=True)),
            ("neighbours", max(sum(b < end and begin < e for b, e in intervals) for begin, end in intervals)),
            ("all", len(intervals)),
            ("mean", sum(end - begin for begin, end in intervals) / wall),
        ]
    expect_number(f"most_at_once({short(intervals)})", got, wanted, mistakes)


def _most(intervals: list[Interval], *, closed: bool = False) -> int:
    """The most intervals that share a moment; of closed ones, the end is part of them."""
    begin_first = -1 if closed else 1
    edges = [(begin, begin_first, 1) for begin, _ in intervals] + [(end, 0, -1) for _, end in intervals]
    now = most = 0
    for _, _, step in sorted(edges):
        now += step
        most = max(most, now)
    return most


# --- 02-serial-fraction ---------------------------------------------------------------------------------------------


@checks("02-serial-fraction")
def fractions(serial_fraction: Callable[..., Any], source: Random) -> None:
    """A plain case, random ones, one better than ideal, one slower than a single worker; and a single worker."""
    _expect_fraction(serial_fraction, 5.0, 8)
    for _ in range(3):
        workers, serial = source.randrange(3, 64), source.uniform(0.02, 0.6)
        _expect_fraction(serial_fraction, 1 / (serial + (1 - serial) / workers), workers)
    _expect_fraction(serial_fraction, 4.4, 4)
    _expect_fraction(serial_fraction, source.uniform(0.6, 0.9), 2)
    try:
        got = serial_fraction(1.0, 1)
    except ZeroDivisionError:
        raise Mistake("one-worker", "`serial_fraction(1.0, 1)` ended in a division by zero.") from None
    if got is not None:
        raise Mistake("one-worker", f"`serial_fraction(1.0, 1)` gave `{short(got)}`.")


def _expect_fraction(serial_fraction: Callable[..., Any], speedup: float, workers: int) -> None:
    wanted = (1 / speedup - 1 / workers) / (1 - 1 / workers)
    mistakes = [
        *([("clamped", 0.0), ("clamped", -wanted)] if wanted < 0 else []),
        *([("clamped", 1.0)] if wanted > 1 else []),
        ("parallel", 1 - wanted),
        ("percent", 100 * wanted),
        ("efficiency", speedup / workers),
        ("efficiency", 1 - speedup / workers),
        ("ceiling", 1 / speedup),
        ("gustafson", (workers - speedup) / (workers - 1)),
        ("remainder", 1 / speedup - 1 / workers),
    ]
    call = f"serial_fraction({speedup:.4g}, {workers})"
    expect_number(call, serial_fraction(speedup, workers), wanted, mistakes)


# --- 02-few-at-once -------------------------------------------------------------------------------------------------


@checks("02-few-at-once")
def cooks(cook_all: Callable[..., Any], source: Random) -> str:
    """Never more than so many at once, no place left empty, the results in order; on a clock that doesn't wait."""
    _cook(cook_all, [9, 2, 1, 1, 2, 1], 2)
    _cook(cook_all, [3, 2, 1], 1)
    _cook(cook_all, [2, 1], 5)
    _cook(cook_all, [], 3)
    minutes = [source.randrange(1, 10) for _ in range(source.randrange(12, 25))]
    places = source.randrange(3, 6)
    took = _cook(cook_all, minutes, places)
    return f"{len(minutes)} dishes on {places} places took {took:.0f} min instead of {sum(minutes)}, one after another."


def _cook(cook_all: Callable[..., Any], minutes: list[int], places: int) -> float:
    """Have it cook dishes that take so many minutes each, and judge; the minutes until all were done."""
    kitchen = Kitchen()
    dishes = [kitchen.dish(place, time) for place, time in enumerate(minutes)]

    async def main() -> Any:
        got = cook_all(list(dishes), places)
        if inspect.isawaitable(got):
            return await got
        if got is None or got is ...:
            raise Mistake("empty")
        raise Mistake("not-async", f"`cook_all(…)` returned `{short(got)}`.")

    got = in_a_loop_of_its_own(main)
    if got is None or got is ...:
        raise Mistake("empty")
    kitchen.judge(got, len(dishes), places)
    return kitchen.last_end()


@dataclass
class Kitchen:
    """Dishes, as coroutine functions, and what was seen of their cooking."""

    cooking: int = 0
    most: int = 0
    cooked: list[Interval] = field(default_factory=list)

    def dish(self, number: int, minutes: float) -> Callable[[], Coroutine[Any, Any, str]]:
        """A dish that simmers for so many minutes (seconds of the loop's clock) and returns its name."""

        async def simmer() -> str:
            clock = asyncio.get_running_loop().time
            begin = clock()
            self.cooking += 1
            self.most = max(self.most, self.cooking)
            try:
                await asyncio.sleep(minutes)
            finally:
                self.cooking -= 1
            self.cooked.append((begin, clock()))
            return f"dish {number}"

        return simmer

    def judge(self, got: Any, count: int, places: int) -> None:
        """Raise a `Mistake` for the first thing that isn't as it should be."""
        seen = f"With {count} dishes and room for {places}"
        try:
            results = list(got)
        except TypeError:
            raise Mistake("other", f"{seen} it returned `{short(got)}`, not a list.") from None
        if any(inspect.isawaitable(result) for result in results):
            for result in filter(inspect.iscoroutine, results):
                result.close()
            raise Mistake("not-awaited", f"{seen} it returned `{short(results[:1])}`.")
        if self.most > places:
            raise Mistake("unlimited", f"{seen}, {self.most} were cooking at once.")
        wanted = [f"dish {number}" for number in range(count)]
        if results != wanted:
            hint = "order" if sorted(map(repr, results)) == sorted(map(repr, wanted)) else "other"
            raise Mistake(hint, f"{seen} it returned `{short(results)}`.")
        empty = self._left_empty(places)
        if empty > 0.1 * count:  # a tenth each, for whoever looks only now and then
            hint = "one-by-one" if self.most == 1 else "batches"
            raise Mistake(hint, f"{seen}, places stood empty for {empty:.0f} min while dishes waited.")

    def _left_empty(self, places: int) -> float:
        """Minutes of empty places while some dish had not begun."""
        last_begin = max((begin for begin, _ in self.cooked), default=0.0)
        return places * last_begin - sum(min(end, last_begin) - begin for begin, end in self.cooked)

    def last_end(self) -> float:
        """When all were done."""
        return max((end for _, end in self.cooked), default=0.0)
