"""Checks for notebook 00."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from statistics import fmean, median
from typing import Any

from helpers.study.checks import Mistake, checks, expect_number, short

WORDS = ("lower", "higher", "can't tell")
Interval = tuple[float, float, float]  # median, low, high


@checks("00-median-interval")
def compares(compare: Callable[..., Any], source: Random) -> None:
    """Pairs that are apart, overlap, touch, and lie inside one another, both ways round."""
    for hint, a, b, wanted in _pairs(source):
        _expect_word(compare, hint, a, b, wanted)
        _expect_word(compare, hint, b, a, {"lower": "higher"}.get(wanted, wanted))


def _pairs(source: Random) -> list[tuple[str, Interval, Interval, str]]:
    low = round(source.uniform(1, 50), 1)
    return [
        ("other", _interval(low, low + 2), _interval(low + 3, low + 5), "lower"),
        ("median-only", _interval(low, low + 4), _interval(low + 3, low + 5), "can't tell"),
        ("inside", _interval(low, low + 9), _interval(low + 5, low + 6), "can't tell"),
        ("touching", _interval(low, low + 2), _interval(low + 2, low + 5), "can't tell"),
    ]


def _interval(low: float, high: float) -> Interval:
    low, high = round(low, 1), round(high, 1)
    return round((low + high) / 2, 2), low, high


def _expect_word(compare: Callable[..., Any], hint: str, a: Interval, b: Interval, wanted: str) -> None:
    got = compare(a, b)
    if got is None or got is ...:
        raise Mistake("empty")
    if got == wanted:
        return
    seen = f'`compare({a}, {b})` gave `{short(got)}`; `"{wanted}"` would be right.'
    if got not in WORDS:
        raise Mistake("words", seen)
    raise Mistake("swapped" if {got, wanted} == {"lower", "higher"} else hint, seen)


@checks("00-subtract")
def subtracts(cost: Callable[..., Any], source: Random) -> None:
    """A cost that drift would hide, one disturbed round, and a result below zero."""
    _expect_cost(cost, [5000.0, 5200.0, 5100.0], [3000.0, 3100.0, 3000.0], 100)
    for true_cost in (source.uniform(20, 90), -source.uniform(1, 5)):
        count, rounds = source.randrange(50, 500), 7
        without = [source.uniform(2000, 9000) for _ in range(rounds)]
        with_it = [time + count * (true_cost + source.uniform(-0.5, 0.5)) for time in without]
        with_it[source.randrange(rounds)] += 50_000  # a disturbed round
        _expect_cost(cost, with_it, without, count)


def _expect_cost(cost: Callable[..., Any], with_it: list[float], without: list[float], count: int) -> None:
    differences = [full - empty for full, empty in zip(with_it, without, strict=True)]
    wanted = median(differences) / count
    mistakes = [
        ("whole-loop", median(differences)),
        ("not-subtracted", median(with_it) / count),
        ("unpaired", (median(with_it) - median(without)) / count),
        ("mean", fmean(differences) / count),
        *([("swapped", -wanted)] if wanted > 0 else [("clamped", 0.0), ("clamped", -wanted)]),
    ]
    call = f"cost({_list(with_it)}, {_list(without)}, {count})"
    expect_number(call, cost(list(with_it), list(without), count), wanted, mistakes)


def _list(times: list[float]) -> str:
    return "[" + ", ".join(f"{time:.0f}" for time in times[:2]) + ", …]"
