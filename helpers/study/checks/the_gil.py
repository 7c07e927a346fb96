"""Checks for notebook 04."""

from __future__ import annotations

import math
import sys
import threading
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

from helpers.study.checks import Mistake, checks, expect_number, short

Slice = tuple[float, float]
Turn = tuple[str, float, float]

# --- 04-turns -------------------------------------------------------------------------------------------------------


@checks("04-turns")
def merges(turns: Callable[..., Any], source: Random) -> None:
    """Slices with pauses in a turn, two threads and more; one thread alone, and one that never ran."""
    _expect_turns(turns, {"A": [(0, 2), (2.5, 5), (10.1, 15)], "B": [(5.1, 7), (7.2, 10)]})
    for names in ("AB", "ABC", "ABCDE"):
        _expect_turns(turns, _recording(source, names))
    _expect_turns(turns, {"A": [(0, 5), (6, 9)], "B": []})


def _recording(source: Random, names: str) -> dict[str, list[Slice]]:
    """Slices by thread, of threads that take turns at random, with a pause now and then."""
    by_thread: dict[str, list[Slice]] = {name: [] for name in source.sample(names, len(names))}
    now, holder = source.randrange(5), ""
    for _ in range(3 * len(names)):
        holder = source.choice([name for name in names if name != holder])
        for _ in range(source.randrange(1, 4)):
            begin = now + source.randrange(1, 4)
            now = begin + source.randrange(1, 20)
            by_thread[holder].append((begin / 10, now / 10))
    return by_thread


def _expect_turns(turns: Callable[..., Any], by_thread: dict[str, list[Slice]]) -> None:
    got = turns({name: list(slices) for name, slices in by_thread.items()})
    if got is None or got is ...:
        raise Mistake("empty")
    try:
        found = [(name, begin, end) for name, begin, end in got]
    except (TypeError, ValueError):
        raise Mistake("other", f"It returned `{short(got)}`, not a list of (thread, begin, end).") from None
    wanted = _turns(by_thread)
    if found == wanted:
        return
    first = next((pair for pair in zip(found, wanted, strict=False) if pair[0] != pair[1]), None)
    seen = f"For `{short(by_thread)}` "
    seen += f"there is `{first[0]}`; `{first[1]}` would be right." if first else f"it gave {len(found)} turns."
    raise Mistake(_turn_mistake(found, wanted, by_thread), seen)


def _turns(by_thread: dict[str, list[Slice]]) -> list[Turn]:
    turns: list[Turn] = []
    for begin, end, name in sorted((*when, name) for name, slices in by_thread.items() for when in slices):
        if turns and turns[-1][0] == name:
            begin = turns.pop()[1]
        turns.append((name, begin, end))
    return turns


def _turn_mistake(found: list[Turn], wanted: list[Turn], by_thread: dict[str, list[Slice]]) -> str:
    if found == wanted[:-1]:
        return "last"
    whole = [(name, slices[0][0], slices[-1][1]) for name, slices in by_thread.items() if slices]
    if sorted(found) == sorted(whole) and len(whole) < len(wanted):
        return "by-thread"
    if sorted(found) == sorted(wanted) or found != sorted(found, key=lambda turn: turn[1]):
        return "order"
    if any(one[0] == other[0] for one, other in pairwise(found)):
        return "unmerged"
    ends = {end for slices in by_thread.values() for _, end in slices}
    if [turn[:2] for turn in found] == [turn[:2] for turn in wanted] and all(end in ends for _, _, end in found):
        return "end"
    return "other"


# --- 04-ceilings ----------------------------------------------------------------------------------------------------


@checks("04-ceilings")
def ceilings(tasks_per_second: Callable[..., Any], source: Random) -> None:
    """Work of which each ceiling in turn is the lowest, and work without any Python or any computing."""
    some = source.uniform(0.8, 1.2)
    for waiting, python, native, threads, cores in (
        (8.0, 4.0, 0.0, 4, 8),  # the GIL
        (50 * some, 0.5, 0.2, 4, 8),  # too few threads
        (some, 0.1, 10.0, 16, 4),  # the cores
        (20.0, 2 * some, 3.0, 32, 16),  # the GIL, with C code beside it
        (2.0, 3.0, 0.0, 8, 1),  # one core: GIL or not is the same
        (0.0, 0.0, 5 * some, 3, 2),  # no Python at all
        (10 * some, 0.0, 0.0, 7, 2),  # nothing but waiting
    ):
        _expect_ceiling(tasks_per_second, waiting, python, native, threads, cores)


def _expect_ceiling(
    tasks_per_second: Callable[..., Any], waiting: float, python: float, native: float, threads: int, cores: int
) -> None:
    whole, computing = waiting + python + native, python + native
    by_threads = threads / whole
    by_gil = 1 / python if python else math.inf
    by_cores = cores / computing if computing else math.inf
    wanted = 1000 * min(by_threads, by_gil, by_cores)
    mistakes = [
        ("gil", min(by_threads, by_cores)),
        ("threads", min(by_gil, by_cores)),
        ("cores", min(by_threads, by_gil)),
        ("native", min(by_threads, by_cores, 1 / computing if computing else math.inf)),
        ("waiting", min(by_threads, by_cores, 1 / whole)),
        ("highest", max(by_threads, by_gil, by_cores)),
    ]
    mistakes = [("milliseconds", wanted / 1000), *((name, 1000 * value) for name, value in mistakes)]
    call = f"tasks_per_second({waiting:.3g}, {python:.3g}, {native:.3g}, threads={threads}, cores={cores})"
    try:
        got = tasks_per_second(waiting, python, native, threads, cores)
    except ZeroDivisionError:
        raise Mistake("zero", f"`{call}` ended in a division by zero.") from None
    expect_number(call, got, wanted, mistakes)


# --- 04-switch-interval ---------------------------------------------------------------------------------------------

BEFORE = 0.007  # s; neither the default nor a value that is asked for
CLOSE = 1e-5  # s; the interpreter keeps whole microseconds


@checks("04-switch-interval")
def restores(switch_interval: Callable[..., Any], source: Random) -> None:
    """Set inside, as before afterwards: alone, one inside another, and when the block raises."""
    original = sys.getswitchinterval()
    try:
        sys.setswitchinterval(BEFORE)
        _expect_interval(switch_interval, round(source.uniform(0.011, 0.02), 3))
        _expect_after_an_error(switch_interval)
        _expect_nested(switch_interval)
    finally:
        sys.setswitchinterval(original)


def _expect_interval(switch_interval: Callable[..., Any], seconds: float) -> None:
    manager = switch_interval(seconds)
    if manager is None or manager is ... or getattr(manager, "gen", manager) is None:
        raise Mistake("empty")
    if not hasattr(manager, "__enter__"):
        raise Mistake("other", f"`switch_interval({seconds})` returned `{short(manager)}`, which `with` can't use.")
    with manager:
        inside = sys.getswitchinterval()
        if abs(inside - seconds) > CLOSE:
            hint = "too-late" if abs(inside - BEFORE) < CLOSE else "other"
            raise Mistake(hint, f"Inside `with switch_interval({seconds})` the interval was {inside:.6g} s.")
    after = sys.getswitchinterval()
    if abs(after - BEFORE) > CLOSE:
        hint = "default" if abs(after - 0.005) < CLOSE else "not-restored"
        raise Mistake(hint, f"It was {BEFORE} s before and {after:.6g} s after.")


class Burnt(Exception):
    """What goes wrong inside the block."""


def _expect_after_an_error(switch_interval: Callable[..., Any]) -> None:
    try:
        with switch_interval(0.012):
            raise Burnt
    except Burnt:
        pass
    else:
        raise Mistake("swallowed")
    after = sys.getswitchinterval()
    if abs(after - BEFORE) > CLOSE:
        raise Mistake("no-finally", f"After an exception inside the block the interval was still {after:.6g} s.")


def _expect_nested(switch_interval: Callable[..., Any]) -> None:
    with switch_interval(0.012):
        with switch_interval(0.015):
            pass
        between = sys.getswitchinterval()
    after = sys.getswitchinterval()
    if abs(between - 0.012) > CLOSE or abs(after - BEFORE) > CLOSE:
        raise Mistake("nested", f"The inner block left {between:.6g} s behind and the outer one {after:.6g} s.")


# --- 04-once --------------------------------------------------------------------------------------------------------

LOOK = 0.3  # s that a right answer is watched for a second call that must not come
TRIES = 3  # a machine that stalls must not make a right answer look wrong


@checks("04-once")
def creates(once_per_key: Callable[..., Any], source: Random) -> str:
    """By one thread; with a failure; two threads and one key, two threads and two keys; and a crowd."""
    _expect_kept(once_per_key)
    _expect_retry(once_per_key)
    _expect_once(once_per_key)
    _expect_no_queue(once_per_key)
    return _expect_crowd(once_per_key, threads=8, keys=source.randrange(20, 40))


def _expect_kept(once_per_key: Callable[..., Any]) -> None:
    calls: list[Any] = []

    def create(key: Any) -> Any:
        calls.append(key)
        return None if key == "nothing" else [key]

    get = once_per_key(create)
    if get is None or get is ...:
        raise Mistake("empty")
    if not callable(get):
        raise Mistake("other", f"`once_per_key(create)` returned `{short(get)}`, which isn't a function.")
    first = get("soup")
    if first != ["soup"] or get("bread") != ["bread"]:
        raise Mistake("other", f'`get("soup")` gave `{short(first)}`; what `create("soup")` returned would be right.')
    if get("soup") is not first or calls.count("soup") > 1:
        raise Mistake("every-time", f'One thread asked for "soup" twice, and `create` ran {calls.count("soup")} times.')
    get("nothing")
    get("nothing")
    if calls.count("nothing") > 1:
        raise Mistake("falsy", "What `create` returned was `None`, and the next call created it again.")
    if once_per_key(lambda key: "from another kitchen")("soup") is first:
        raise Mistake("shared", "A second `once_per_key(…)` handed out what the first one had made.")


def _expect_retry(once_per_key: Callable[..., Any]) -> None:
    calls: list[Any] = []

    def create(key: Any) -> Any:
        calls.append(key)
        if len(calls) == 1:
            raise Burnt
        return [key]

    get = once_per_key(create)
    try:
        get("soup")
    except Burnt:
        pass
    else:
        raise Mistake("failure", "`create` raised, and the caller wasn't told.")
    try:
        got = get("soup")
    except Burnt:
        got = None
    if got != ["soup"]:
        raise Mistake("failure", f"After a first `create` that raised, the next call gave `{short(got)}`.")


def _expect_once(once_per_key: Callable[..., Any]) -> None:
    """A second thread comes while the first is creating: it must wait, and get the same."""
    began, came_too = threading.Event(), threading.Event()
    calls: list[bool] = []  # whether somebody else came in meanwhile

    def create(key: Any) -> Any:
        if began.is_set():
            came_too.set()
            calls.append(False)
        else:
            began.set()
            calls.append(came_too.wait(LOOK))
        return [key]

    get = once_per_key(create)
    first, second = _together(lambda: get("soup"), lambda: began.wait(10) and get("soup"))
    if len(calls) > 1:
        hint = "no-lock" if any(calls) else "checked-outside"
        raise Mistake(hint, 'Two threads asked for "soup", and it was made twice.')
    if first is not second:
        raise Mistake("other", f"The two threads got different objects, `{short(first)}` and `{short(second)}`.")


def _expect_no_queue(once_per_key: Callable[..., Any]) -> None:
    """While one thread creates one key, another thread can create another."""
    if not any(_passes(once_per_key) for _ in range(TRIES)):
        raise Mistake("one-lock", 'While one thread was making "soup", the one that asked for "bread" had to wait.')


def _passes(once_per_key: Callable[..., Any]) -> bool:
    soup_began, bread_made = threading.Event(), threading.Event()
    passed = []

    def create(key: Any) -> Any:
        if key == "soup":
            soup_began.set()
            passed.append(bread_made.wait(LOOK))
        else:
            bread_made.set()
        return [key]

    get = once_per_key(create)
    _together(lambda: get("soup"), lambda: soup_began.wait(10) and get("bread"))
    return any(passed)


def _expect_crowd(once_per_key: Callable[..., Any], threads: int, keys: int) -> str:
    made: Counter[int] = Counter()
    writing = threading.Lock()

    def create(key: int) -> Any:
        with writing:
            made[key] += 1
        return [key]

    get = once_per_key(create)
    ready = threading.Barrier(threads)

    def ask() -> list[Any]:
        ready.wait()
        return [get(key) for key in range(keys)]

    answers = _together(*[ask] * threads)
    worst = max(made, key=lambda key: made[key])
    if made[worst] > 1:
        raise Mistake("no-lock", f"{threads} threads asked for {keys} keys; one was made {made[worst]} times.")
    if any(got is not kept for answer in answers for got, kept in zip(answer, answers[0], strict=True)):
        raise Mistake("other", f"{threads} threads asked for the same {keys} keys and got different objects.")
    return f"{threads} threads asked for {keys} keys, all at once: each was made once."


def _together(*calls: Callable[[], Any]) -> list[Any]:
    """What the calls return, each in a thread of its own. Raises what the first of them raised."""
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException] = []

    def run(place: int, call: Callable[[], Any]) -> None:
        try:
            results[place] = call()
        except BaseException as error:
            errors.append(error)

    workers = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(calls)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return results
