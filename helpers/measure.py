"""Measuring: clocks, batches, repeats, baselines, intervals, and how noisy the machine was meanwhile.

Times are nanoseconds while they are taken and become an `Estimate`, which knows its unit, at the end.
Standard library alone, so that any interpreter on the machine can run an experiment; and imports are
late where they are slow, because this module is loaded in a fresh process before every experiment.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from dataclasses import dataclass, replace

from helpers import progress

TYPE_CHECKING = False  # as in `worker`: `typing` takes 4 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import TypeVar

    from helpers.noise import Noise as Noise
    from helpers.noise import grade_noise as grade_noise

    T = TypeVar("T")


def __getattr__(name: str) -> object:
    """`noise` is part of this module, loaded when it is needed: not by a run that is over at once."""
    if name not in ("Noise", "grade_noise"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from helpers import noise

    return getattr(noise, name)


KIB = 1024  # bytes
MIB = 1024 * KIB
INTERACTIVE_NS = 20_000_000  # a batch that is long against the clock and short against a learner's patience
RESAMPLES = 1000
CONFIDENCE = 0.95
FEWEST = 5  # the range of fewer samples covers their median less than 90 % of the time, so no interval can
SHORTEST_S = 0.1  # the kernel counts in ticks of 10 ms: over less than ten of them it can't tell how noisy it was
BELOW_NOISE = "below noise: its interval includes zero"


@dataclass(frozen=True)
class Estimate:
    """A median with its 95 % interval, in `unit`, and the samples it came from."""

    median: float
    low: float
    high: float
    unit: str
    samples: tuple[float, ...] = ()
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{short(self.median)} {self.unit} ({short(self.low)} to {short(self.high)})"

    def scaled(self, factor: float, unit: str | None = None) -> Estimate:
        """The same estimate in another unit: every figure times `factor` (a positive number)."""
        if not factor > 0:
            raise ValueError(f"factor={factor}: a change of unit is a positive number")
        return replace(
            self,
            median=self.median * factor,
            low=self.low * factor,
            high=self.high * factor,
            unit=unit or self.unit,
            samples=tuple(sample * factor for sample in self.samples),
        )


def short(value: float) -> str:
    """Three significant digits, without an exponent where people would not write one."""
    if value == 0:
        return "0"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def median(values: Sequence[float]) -> float:
    """The middle value, or the mean of the two middle ones. (`statistics` takes 12 ms to import.)"""
    if not values:
        raise ValueError("a median needs at least one value")
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the already sorted values lie, interpolated linearly."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def estimate(samples: Sequence[float], unit: str, *, warnings: Sequence[str] = ()) -> Estimate:
    """The median of independent samples with a 95 % interval from a smoothed bootstrap.

    The plain bootstrap of a median can only return values that were sampled, and with 5 to 15 of them its
    interval is too narrow (it covers the truth 87-94 % of the time); adding normal noise of Silverman's
    bandwidth to each resample mends that (Silverman and Young, "The bootstrap: to smooth or not to
    smooth?", Biometrika 74, 1987). It never reaches beyond the samples, so that a time stays positive. Samples must
    be independent: one per fresh process for a headline. Their order does not matter, and the result is the same
    on every call.
    """
    if not samples:
        raise ValueError("an estimate needs at least one sample")
    ordered = sorted(float(sample) for sample in samples)
    middle = median(ordered)
    kept = tuple(float(sample) for sample in samples)
    if len(ordered) < FEWEST:
        note = f"only {len(ordered)} sample{'s' if len(ordered) > 1 else ''}: no 95 % interval, the range is shown"
        return Estimate(middle, ordered[0], ordered[-1], unit, kept, (*warnings, note))
    medians = sorted(_resampled_medians(ordered))
    tail = (1 - CONFIDENCE) / 2
    low, high = max(quantile(medians, tail), ordered[0]), min(quantile(medians, 1 - tail), ordered[-1])
    return Estimate(middle, min(low, middle), max(high, middle), unit, kept, tuple(warnings))


def _resampled_medians(ordered: Sequence[float]) -> Iterator[float]:
    from random import Random  # 5 ms, needed only once something was measured

    source = Random(len(ordered))
    spread = _bandwidth(ordered)
    for _ in range(RESAMPLES):
        resample = source.choices(ordered, k=len(ordered))
        yield median([value + spread * source.gauss(0, 1) for value in resample] if spread else resample)


def _bandwidth(ordered: Sequence[float]) -> float:
    """Silverman's rule of thumb: 0.9 min(s, IQR / 1.349) n^(-1/5)."""
    count = len(ordered)
    mean = sum(ordered) / count
    deviation = (sum((value - mean) ** 2 for value in ordered) / (count - 1)) ** 0.5
    quartiles = quantile(ordered, 0.75) - quantile(ordered, 0.25)
    return 0.9 * min(deviation, quartiles / 1.349) * count**-0.2


def difference(samples: Sequence[float], baseline: Sequence[float], unit: str) -> Estimate:
    """What is left of `samples` when `baseline` is taken away, pair by pair.

    Both were taken in the same rounds (see `interleave`), so that slow drift of the machine cancels. The
    uncertainty of both is in the interval. A result that may be zero says so, and one that came out
    negative stays negative: it is never clamped.
    """
    if len(samples) != len(baseline):
        raise ValueError(f"{len(samples)} samples and {len(baseline)} baselines: they come in pairs")
    result = estimate([sample - base for sample, base in zip(samples, baseline, strict=True)], unit)
    return replace(result, warnings=(*result.warnings, BELOW_NOISE)) if result.low <= 0 <= result.high else result


def ratio(samples: Sequence[float], reference: Sequence[float]) -> Estimate:
    """`samples` over `reference`, pair by pair, as an estimate without a unit ("x")."""
    if len(samples) != len(reference):
        raise ValueError(f"{len(samples)} samples and {len(reference)} references: they come in pairs")
    return estimate([sample / other for sample, other in zip(samples, reference, strict=True)], "x")


def batch_size(run: Callable[[int], int], at_least_ns: int = INTERACTIVE_NS, *, limit: int = 1 << 30) -> int:
    """How many iterations make `run(count)` (which returns the nanoseconds it took) last `at_least_ns`.

    Doubled until long enough, so that neither the clock's resolution nor its overhead counts. These
    calibration runs also warm caches up; their times are thrown away.
    """
    count = 1
    while run(count) < at_least_ns and count < limit:
        count *= 2
    return count


def interleave(
    conditions: Mapping[str, Callable[[], T]], rounds: int, *, seed: int | None = None, report: bool = True
) -> dict[str, list[T]]:
    """Call every condition once per round, in a new random order each round; what each returned, in rounds.

    Conditions and their baselines so meet the same drift of the machine. Garbage collection is off.
    """
    from random import Random

    source = Random(seed)
    results: dict[str, list[T]] = {name: [] for name in conditions}
    order = list(conditions)
    with no_garbage_collection():
        for done in range(rounds):
            source.shuffle(order)
            for name in order:
                results[name].append(conditions[name]())
            if report:
                progress.report(done + 1, rounds)
    return results


class no_garbage_collection:
    """Switch the cyclic collector off, so that its pauses do not land in a sample; restore it after."""

    def __enter__(self) -> None:
        self._was_on = gc.isenabled()
        gc.collect()
        gc.disable()

    def __exit__(self, *error: object) -> None:
        if self._was_on:
            gc.enable()


def timed(run: Callable[[], object]) -> int:
    """Wall-clock nanoseconds of one call."""
    start = time.perf_counter_ns()
    run()
    return time.perf_counter_ns() - start


class Activity:
    """Counters of one moment; subtract two. None: the system doesn't tell. `machine.Activity` says what they are."""

    def __init__(
        self,
        wall_ns: int,
        busy_s: float | None,
        stolen_s: float | None,
        own_cpu_s: float,
        involuntary: int | None,
    ) -> None:
        self.wall_ns = wall_ns
        self.busy_s = busy_s
        self.stolen_s = stolen_s
        self.own_cpu_s = own_cpu_s
        self.involuntary = involuntary


def activity() -> Activity:
    """The counters of now. Takes some 50 µs on Linux."""
    if sys.platform != "linux":
        from helpers import machine

        now = machine.activity()
        return Activity(now.wall_ns, now.busy_s, now.stolen_s, now.own_cpu_s, now.involuntary)
    import resource

    wall = time.perf_counter_ns()
    busy, stolen = _cpu_times()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Activity(
        wall, busy, stolen, sum(one.ru_utime + one.ru_stime for one in used), sum(one.ru_nivcsw for one in used)
    )


def _cpu_times() -> tuple[float | None, float | None]:
    """CPU seconds of all cores since the start, busy and stolen, from the first line of /proc/stat."""
    try:
        with open("/proc/stat", "rb") as file:
            ticks = [int(word) for word in file.readline().split()[1:9]]
        user, nice, system, _, _, interrupts, soft, stolen = ticks
    except (OSError, ValueError):
        return None, None
    per_second = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + interrupts + soft) / per_second, stolen / per_second


def in_fresh_process(run: Callable[[], T]) -> T:
    """Call `run` in a fork of this process and return its result, which must be plain values (it travels as JSON).

    What one process happens to get (its pages, its place in the caches) shifts all of its samples together,
    so a headline figure takes one sample per process. Raises `RuntimeError` with the child's traceback.
    """
    import json

    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read_end)
            with os.fdopen(write_end, "w") as answer:
                json.dump({"result": run()}, answer)
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"a measuring process ended with status {os.waitstatus_to_exitcode(status)}")
    result: T = json.loads(text)["result"]
    return result
