"""The statistics by replay and by distributions whose answer is known; the batches, rounds and noise by fakes."""

from __future__ import annotations

import gc
import math
import os
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import measure, noise
from helpers.measure import Activity, difference, estimate, grade_noise, ratio

TRIALS = 200
# Of 200 trials at the stated 95 %, nine in ten runs of such a test would count between 92.5 and 97.5 %.
COVERED_AT_LEAST = 0.91

# Replay: hand-offs in µs, as one noisy machine gave them
HOPS = (4.12, 4.08, 4.31, 4.05, 9.77, 4.11, 4.09, 4.20, 4.07, 4.10, 4.15)
ALONE = (2.51, 2.49, 2.60, 2.48, 5.02, 2.50, 2.50, 2.55, 2.49, 2.50, 2.52)

light = settings(deadline=None, max_examples=20)
times = st.floats(0.001, 1e9)
samples = st.lists(times, min_size=3, max_size=25)


# Replay


def test_estimate_of_recorded_samples() -> None:
    found = estimate(HOPS, "µs")
    assert (found.median, found.unit, found.samples) == (4.11, "µs", HOPS)
    assert found.low == pytest.approx(4.06, abs=0.03)
    assert found.high == pytest.approx(4.19, abs=0.08)  # one sample of 9.77 does not reach it
    assert str(found).startswith("4.11 µs (4.0")


def test_difference_of_recorded_samples() -> None:
    found = difference(HOPS, ALONE, "µs")
    assert found.median == pytest.approx(1.61)  # the round that was disturbed was so in both
    assert 1.55 < found.low < found.median < found.high < 1.75
    assert found.warnings == ()


def test_ratio_of_recorded_samples() -> None:
    found = ratio(HOPS, ALONE)
    assert (found.median, found.unit) == (pytest.approx(1.64, abs=0.01), "x")
    assert found.high - found.low < 0.05


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_a_few_samples_have_a_range_and_say_so(count: int) -> None:
    values = [3.0, 5.0, 4.0, 9.0][:count]
    found = estimate(values, "s", warnings=["mine"])
    assert (found.low, found.high) == (min(values), max(values))
    words = f"only {count} sample{'s' if count > 1 else ''}: no 95 % interval, the range is shown"
    assert found.warnings == ("mine", words)


def test_equal_samples_have_no_spread() -> None:
    found = estimate([2.0] * 7, "s")
    assert (found.low, found.median, found.high) == (2.0, 2.0, 2.0)


def test_nothing_has_no_estimate() -> None:
    for function in (lambda: estimate([], "s"), lambda: measure.median([]), lambda: difference([], [], "s")):
        with pytest.raises(ValueError, match="at least one"):
            function()


def test_pairs_must_be_pairs() -> None:
    with pytest.raises(ValueError, match="come in pairs"):
        difference([1, 2, 3], [1, 2], "s")
    with pytest.raises(ValueError, match="come in pairs"):
        ratio([1, 2, 3], [1, 2])


# The stated rate


def normal(source: random.Random) -> float:
    return source.gauss(10, 1)


def lognormal(source: random.Random) -> float:
    """Skewed to the right, as times are; its median is 1."""
    return source.lognormvariate(0, 0.5)


@pytest.mark.parametrize("count", [5, 7, 11, 21])
@pytest.mark.parametrize(("draw", "truth"), [(normal, 10), (lognormal, 1)], ids=["normal", "lognormal"])
def test_the_interval_covers_the_truth(draw: Callable[[random.Random], float], truth: float, count: int) -> None:
    source = random.Random(count)
    trials = TRIALS if count < 11 else TRIALS // 2  # for time's sake
    found = [estimate([draw(source) for _ in range(count)], "s") for _ in range(trials)]
    covered = sum(each.low <= truth <= each.high for each in found) / trials
    print(f"{draw.__name__} {count}: {covered:.1%}")
    assert covered >= COVERED_AT_LEAST


def test_the_interval_of_a_difference_covers_the_truth() -> None:
    """Both conditions drift together; the truth is 1."""
    source = random.Random(7)
    covered = 0
    for _ in range(TRIALS):
        drift = [source.gauss(0, 5) for _ in range(7)]
        found = difference(
            [6 + d + source.gauss(0, 1) for d in drift], [5 + d + source.gauss(0, 1) for d in drift], "s"
        )
        covered += found.low <= 1 <= found.high
    assert covered / TRIALS >= COVERED_AT_LEAST


def test_nothing_minus_nothing_is_below_noise_at_the_stated_rate() -> None:
    source = random.Random(3)
    found = [
        difference([normal(source) for _ in range(7)], [normal(source) for _ in range(7)], "s") for _ in range(TRIALS)
    ]
    flagged = sum(measure.BELOW_NOISE in each.warnings for each in found) / TRIALS
    assert flagged >= COVERED_AT_LEAST
    assert 0.3 < sum(each.median < 0 for each in found) / TRIALS < 0.7  # negatives are not hidden


# Properties


@light
@given(samples)
def test_the_median_is_within_its_interval_and_that_within_the_samples(values: list[float]) -> None:
    found = estimate(values, "s")
    assert min(values) <= found.low <= found.median <= found.high <= max(values)


@light
@given(samples, st.randoms())
def test_order_does_not_matter(values: list[float], source: random.Random) -> None:
    shuffled = values.copy()
    source.shuffle(shuffled)
    one, other = estimate(values, "s"), estimate(shuffled, "s")
    assert (one.low, one.median, one.high) == (other.low, other.median, other.high)


@light
@given(samples, st.integers(-20, 20))
def test_scale_does_not_matter(values: list[float], power: int) -> None:
    """Powers of two are exact."""
    factor = 2.0**power
    one, other = estimate(values, "s"), estimate([value * factor for value in values], "s")
    assert (other.low, other.median, other.high) == pytest.approx(
        (one.low * factor, one.median * factor, one.high * factor), rel=1e-9
    )


@light
@given(samples)
def test_the_same_samples_have_the_same_estimate(values: list[float]) -> None:
    assert estimate(values, "s") == estimate(values, "s")


@light
@given(st.lists(st.tuples(times, times), min_size=3, max_size=25))
def test_a_difference_hides_no_negative(pairs: list[tuple[float, float]]) -> None:
    found = difference([one for one, _ in pairs], [other for _, other in pairs], "s")
    assert found.median == measure.median([one - other for one, other in pairs])
    assert (measure.BELOW_NOISE in found.warnings) == (found.low <= 0 <= found.high)
    opposite = difference([other for _, other in pairs], [one for one, _ in pairs], "s")
    assert opposite.median == -found.median


@light
@given(st.lists(st.tuples(times, times), min_size=3, max_size=25))
def test_a_ratio_is_positive_and_hides_nothing(pairs: list[tuple[float, float]]) -> None:
    found = ratio([one for one, _ in pairs], [other for _, other in pairs])
    assert 0 < found.low <= found.median <= found.high
    assert found.median == measure.median([one / other for one, other in pairs])


@light
@given(samples, st.floats(1e-6, 1e6))
def test_another_unit_is_the_same_estimate(values: list[float], factor: float) -> None:
    found = estimate(values, "s")
    other = found.scaled(factor, "µs")
    assert other.unit == "µs"
    assert other.median == found.median * factor
    assert other.samples == tuple(value * factor for value in found.samples)


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan])
def test_a_unit_is_a_positive_factor(factor: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        estimate([1.0], "s").scaled(factor)


@light
@given(st.lists(st.floats(-1e9, 1e9), min_size=1), st.floats(0, 1), st.floats(0, 1))
def test_quantiles_are_ordered_and_within(values: list[float], one: float, other: float) -> None:
    ordered = sorted(values)
    low, high = (measure.quantile(ordered, share) for share in sorted((one, other)))
    assert ordered[0] <= low <= high + 1e-6 and high <= ordered[-1] + 1e-6


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (1.2345, "1.23"), (123.4, "123"), (12345.6, "12,346"), (-0.00123, "-0.00123")]
)
def test_short_numbers(value: float, text: str) -> None:
    assert measure.short(value) == text


# Batches and rounds


def test_batches_double_until_they_are_long_enough() -> None:
    asked: list[int] = []

    def run(count: int) -> int:
        asked.append(count)
        return 1000 * count

    assert measure.batch_size(run, 100_000) == 128
    assert asked == [1, 2, 4, 8, 16, 32, 64, 128]


def test_batches_have_a_limit() -> None:
    assert measure.batch_size(lambda count: 0, limit=1024) == 1024


@pytest.mark.parametrize("on", [True, False])
def test_every_condition_once_per_round_in_varying_order(on: bool) -> None:
    called: list[str] = []
    collecting: list[bool] = []

    def condition(name: str) -> Callable[[], float]:
        def run() -> float:
            called.append(name)
            collecting.append(gc.isenabled())
            return float(len(called))

        return run

    (gc.enable if on else gc.disable)()
    try:
        taken = measure.interleave({name: condition(name) for name in "abcd"}, 30)
        assert gc.isenabled() == on
    finally:
        gc.enable()
    rounds = [tuple(called[start : start + 4]) for start in range(0, 120, 4)]
    assert all(sorted(each) == list("abcd") for each in rounds)
    assert len(set(rounds)) > 5
    assert not any(collecting)
    for name, values in taken.items():  # in the order of the rounds
        assert values == [index + 1 for index, each in enumerate(called) if each == name]
        assert all(early < late for early, late in pairwise(values))


def test_rounds_can_be_repeated_by_seed() -> None:
    def order(seed: int) -> list[str]:
        called: list[str] = []
        measure.interleave({name: lambda name=name: called.append(name) for name in "abcd"}, 5, seed=seed)  # type: ignore[misc]
        return called

    assert order(1) == order(1) != order(2)


def test_the_collector_is_restored_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), measure.no_garbage_collection():
        assert not gc.isenabled()
        _ = 1 / 0
    assert gc.isenabled()


def test_timed() -> None:
    assert 0 < measure.timed(lambda: None) < 1e9


# A process for every sample


def test_a_fresh_process_answers_with_plain_values() -> None:
    answer = measure.in_fresh_process(lambda: {"pid": os.getpid(), "values": [1, 2.5, "µ", None]})
    assert answer["pid"] != os.getpid()
    assert answer["values"] == [1, 2.5, "µ", None]


def test_large_answers_come_through() -> None:
    assert len(measure.in_fresh_process(lambda: "x" * 1_000_000)) == 1_000_000


def test_an_error_in_a_fresh_process_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError, match="a measuring process ended with status 1"):
        measure.in_fresh_process(lambda: 1 / 0)
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_the_end_of_a_fresh_process_is_told() -> None:
    with pytest.raises(RuntimeError, match="a measuring process ended with status -9"):
        measure.in_fresh_process(lambda: os.kill(os.getpid(), 9))


def test_no_descriptor_is_left_open() -> None:
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        measure.in_fresh_process(lambda: 1)
        with pytest.raises(RuntimeError):
            measure.in_fresh_process(lambda: os._exit(4))
    assert len(os.listdir("/dev/fd")) == before


# Noise

QUIET = Activity(wall_ns=0, busy_s=100.0, stolen_s=5.0, own_cpu_s=1.0, involuntary=10)


def later(
    busy: float | None = 0.0, stolen: float | None = 0.0, own: float = 0.0, seconds: float = 10.0, pushed: int = 0
) -> Activity:
    return Activity(
        wall_ns=int(seconds * 1e9),
        busy_s=None if busy is None else 100.0 + busy,
        stolen_s=None if stolen is None else 5.0 + stolen,
        own_cpu_s=1.0 + own,
        involuntary=10 + pushed,
    )


@pytest.mark.parametrize(
    ("after", "grade", "words"),
    [
        (later(), "quiet", None),
        (later(busy=10, own=10), "quiet", None),  # all of it was ours
        (later(busy=10.4, own=10), "quiet", None),
        (later(busy=11, own=10), "noisy", "noisy machine: other programs used 10% of a core"),
        (later(busy=15, own=10), "busy", "busy machine: other programs used 50% of a core"),
        (later(stolen=1), "noisy", "noisy machine: the hypervisor took 10% of a core"),
        (
            later(busy=4, stolen=5),
            "busy",
            "busy machine: the hypervisor took 50% of a core and other programs used 40% of a core",
        ),
        (later(busy=None), "quiet", None),  # stolen time alone is known
        (later(busy=None, stolen=4), "busy", "busy machine: the hypervisor took 40% of a core"),
        (later(busy=5, stolen=None), "busy", "busy machine: other programs used 50% of a core"),
        (later(busy=None, stolen=None), "unknown", None),
        (later(busy=1, seconds=0.05), "unknown", None),  # too short for the kernel's ticks
        (later(busy=9.9, own=10), "quiet", None),  # ticks of 10 ms against a finer clock
    ],
)
def test_noise_is_graded(after: Activity, grade: str, words: str | None) -> None:
    found = grade_noise(QUIET, after)
    assert (found.grade, found.warning()) == (grade, words)


def test_noise_says_how_much() -> None:
    found = grade_noise(QUIET, later(busy=3, stolen=2, own=1, pushed=50))
    assert found.grade == "noisy"
    assert (found.stolen, found.others, found.involuntary) == (pytest.approx(0.2), pytest.approx(0.2), 5.0)


@light
@given(*[st.one_of(st.none(), st.floats(0, 1000))] * 2, st.floats(0, 1000), st.floats(0.1, 100))
def test_no_activity_breaks_it(busy: float | None, stolen: float | None, own: float, seconds: float) -> None:
    found = grade_noise(QUIET, later(busy, stolen, own, seconds))
    assert found.grade in ("quiet", "noisy", "busy", "unknown")
    assert (found.grade == "unknown") == (busy is None and stolen is None)
    assert (found.warning() is None) == (found.grade in ("quiet", "unknown"))
    assert found.others is None or found.others >= 0


def test_activity_is_read_from_this_machine() -> None:
    before = measure.activity()
    sum(range(3_000_000))
    after = measure.activity()
    assert after.wall_ns > before.wall_ns
    assert after.own_cpu_s > before.own_cpu_s
    assert grade_noise(before, after).grade in ("quiet", "noisy", "busy", "unknown")


def test_activity_agrees_with_the_machines() -> None:
    from helpers import machine

    ours, theirs = measure.activity(), machine.activity()
    assert ours.busy_s == pytest.approx(theirs.busy_s, abs=1)
    assert ours.stolen_s == pytest.approx(theirs.stolen_s, abs=1)
    assert ours.own_cpu_s == pytest.approx(theirs.own_cpu_s, abs=0.5)


def test_where_there_is_no_proc_stat(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError

    monkeypatch.setattr(measure, "open", fail, raising=False)
    now = measure.activity()
    assert (now.busy_s, now.stolen_s) == (None, None)
    assert now.own_cpu_s > 0


def test_the_parts_that_load_late_are_there() -> None:
    assert measure.Noise is noise.Noise
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = measure.nonsense
