"""Checks for notebook 01."""

from __future__ import annotations

import mmap
import os
import signal
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from random import Random
from statistics import fmean, linear_regression, median
from typing import Any

from helpers.study.checks import Mistake, TookTooLong, checks, expect_number, short

# --- 01-footprint ---------------------------------------------------------------------------------------------------

PAGE_KIB = 4
Groups = list[tuple[int, int]]  # pages, processes that have them mapped


@checks("01-footprint")
def footprints(footprint: Callable[..., Any], source: Random) -> str:
    """A child fresh from its fork, processes with pages of every kind, and one without any page."""
    _expect_footprint(footprint, [(300, 2), (50, 1)])
    for _ in range(3):  # odd numbers of pages, since it shows when a half is dropped
        groups = [(2 * source.randrange(50, 500) + 1, sharers) for sharers in (1, 1, 2, 3, source.randrange(5, 90))]
        source.shuffle(groups)
        _expect_footprint(footprint, groups)
    _expect_footprint(footprint, [])
    return "Only PSS may be added up over processes: RSS counts a shared page in each of them, USS in none."


def _expect_footprint(footprint: Callable[..., Any], groups: Groups) -> None:
    got = footprint(list(groups))
    if got is None or got is ...:
        raise Mistake("empty")
    call = f"footprint({short(groups)})"
    figures = _numbers(got)
    if len(figures) != 3:
        raise Mistake("three", f"`{call}` returned `{short(got)}`.")
    wanted = _footprint(groups)
    if not _same(figures, wanted):
        words = ", ".join(f"{figure:g}" for figure in wanted)
        raise Mistake(_footprint_mistake(figures, groups, wanted), f"`{call}` gave `{short(got)}`; ({words}) is right.")


def _footprint(groups: Groups) -> tuple[float, float, float]:
    resident = sum(pages for pages, _ in groups) * PAGE_KIB
    proportional = sum(pages / sharers for pages, sharers in groups) * PAGE_KIB
    unique = sum(pages for pages, sharers in groups if sharers == 1) * PAGE_KIB
    return resident, proportional, unique


def _footprint_mistake(got: list[float], groups: Groups, wanted: tuple[float, float, float]) -> str:
    resident, proportional, unique = wanted
    rounded = (
        int(proportional),
        round(proportional),
        sum(pages // sharers for pages, sharers in groups) * PAGE_KIB,
        sum(pages * PAGE_KIB // sharers for pages, sharers in groups),
    )
    if _same([figure * PAGE_KIB for figure in got], wanted):
        return "pages"
    if not _same(got, got[:1] * 3) and _same(sorted(got), sorted(wanted)):
        return "order"
    if not _same(got[:1], (resident,)):
        return "other"
    if not _same(got[1:2], (proportional,)):
        return "rounded" if got[1] in rounded else "shared-whole"
    return "not-unique" if got[2] > unique else "other"


def _numbers(values: Any) -> list[float]:
    try:
        return [float(value) for value in values]
    except (TypeError, ValueError):
        return []


def _same(got: Sequence[float], wanted: Sequence[float]) -> bool:
    return all(abs(a - b) < 1e-6 * max(abs(b), 1) for a, b in zip(got, wanted, strict=True))


# --- 01-slope -------------------------------------------------------------------------------------------------------

Points = list[tuple[int, float]]  # threads, KiB


@checks("01-slope")
def slopes(per_thread: Callable[..., Any], source: Random) -> None:
    """A straight line, disturbed ones in the order they were measured in, and one with counts measured twice."""
    _expect_slope(per_thread, [(1, 9016.0), (2, 9032.0), (4, 9064.0)])
    for _ in range(3):
        _expect_slope(per_thread, _measured(source, (1, 2, 4, 8, 16, 32, 64, 128)))
    _expect_slope(per_thread, _measured(source, (1, 1, 2, 4, 8, 16, 16, 32, 64)))


def _measured(source: Random, counts: tuple[int, ...]) -> Points:
    """A base, a slope, some noise, and a middling point in which the heap happened to have grown."""
    base, slope = source.uniform(8000, 16_000), source.uniform(10, 60)
    points = [(count, base + slope * count + source.uniform(-60, 60)) for count in counts]
    place = source.randrange(len(points) // 2, len(points) - 1)
    points[place] = (points[place][0], points[place][1] + source.uniform(900, 1100))
    source.shuffle(points)
    return points


def _expect_slope(per_thread: Callable[..., Any], points: Points) -> None:
    # Where there is noise the number of pairs is even (28 or 34), so that the median lies between two of the slopes
    # and no single one of them is the right figure by chance.
    wanted = median(_slopes(combinations(points, 2)))
    in_order = sorted(points)
    bases = [kib / count for count, kib in points]
    mistakes = [
        *[("base", base) for base in (*bases, median(bases), fmean(bases))],
        ("base", sum(kib for _, kib in points) / sum(count for count, _ in points)),
        ("neighbours", median(_slopes(pairwise(in_order)))),
        *[("ends", slope) for slope in _slopes([(in_order[0], in_order[-1]), (points[0], points[-1])])],
        ("neighbours", median(_slopes(pairwise(points)))),
        *[("mean", fmean(_slopes(pairs))) for pairs in (combinations(points, 2), pairwise(in_order))],
        ("least-squares", linear_regression(*zip(*points, strict=True)).slope),
        ("inverted", 1 / wanted),
    ]
    call = "per_thread([" + ", ".join(f"({count}, {kib:.1f})" for count, kib in points[:3]) + ", …])"
    try:
        got = per_thread(list(points))
    except ZeroDivisionError:
        if len(dict(points)) == len(points):
            raise
        raise Mistake("same-count", "Two points with the same number of threads ended in a division by zero.") from None
    expect_number(call, got, wanted, mistakes)


def _slopes(pairs: Iterable[tuple[tuple[int, float], tuple[int, float]]]) -> list[float]:
    return [(kib - kib0) / (count - count0) for (count0, kib0), (count, kib) in pairs if count != count0]


# --- 01-add-fetched -------------------------------------------------------------------------------------------------


@checks("01-add-fetched")
def adds(add_fetched: Callable[..., Any], source: Random) -> str:
    """Calls between which a rival adds whenever the lock is free; calls that fail; then a real race."""
    for _ in range(3):
        scene = Scene(amount=source.randrange(10, 100), rival=source.randrange(1000, 9000))
        add_fetched(scene.counter, scene.lock, scene.fetch)
        scene.judge()
    for refuses in ("fetch", "write"):
        scene = Scene(amount=1, rival=1000, refuses=refuses)
        with suppress(Refused):
            add_fetched(scene.counter, scene.lock, scene.fetch)
        scene.judge_lock()
    return _race(add_fetched)


class Refused(Exception):
    """What the learner's function is confronted with in a call that must fail."""


@dataclass
class Scene:
    """One call, with no thread but the learner's: what was done, in order, and a rival that adds at every gap.

    A move is its name and in which holding of the lock it happened, 0 for none.
    """

    amount: int
    rival: int
    refuses: str = ""
    value: int = 0
    added: int = 0  # by the rival
    holding: int = 0
    holdings: int = 0
    unpaired: bool = False  # a release without having the lock
    moves: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.counter = WatchedCounter(self)
        self.lock = WatchedLock(self)

    def move(self, name: str) -> None:
        """Note a move, refuse it if this is the one, and let the rival have its turn where it could have one."""
        self.moves.append((name, self.holding))
        if name == self.refuses:
            raise Refused
        if not self.holding and name != "write":
            self.value += self.rival
            self.added += self.rival

    def fetch(self) -> int:
        """The amount to add; takes long, in real life."""
        self.move("fetch")
        return self.amount

    def judge(self) -> None:
        """Raise a `Mistake` for the first thing that isn't as it should be."""
        if not self.moves:
            raise Mistake("empty")
        names = [name for name, _ in self.moves]
        if names.count("fetch") != 1:
            raise Mistake("fetch-once", f"`fetch` was called {names.count('fetch')} times.")
        if not self.holdings:
            raise Mistake("no-lock", f"The lock was never taken. {self._result()}")
        if ("fetch", 0) not in self.moves:
            raise Mistake("slow-inside", "`fetch` was called with the lock held.")
        self.judge_lock()
        for place, (name, holding) in enumerate(self.moves):
            if name == "write" and not (holding and ("read", holding) in self.moves[:place]):
                raise Mistake("too-small", self._result())
        if self.value != self.added + self.amount:
            raise Mistake("other", self._result())

    def judge_lock(self) -> None:
        """Raise a `Mistake` unless every holding of the lock has come to its end."""
        if self.holding:
            raise Mistake("release", f"{self._occasion()} the lock was still held when your function was done.")
        if self.unpaired:
            raise Mistake("release", f"{self._occasion()} your function released a lock that it did not hold.")

    def _occasion(self) -> str:
        failed = {"fetch": "`fetch` failed, and", "write": "The update failed, and"}
        return failed.get(self.refuses, "All went well, but")

    def _result(self) -> str:
        told = f"You added {self.amount}, other threads {self.added} meanwhile; the counter says {self.value}."
        return told if self.value != self.added + self.amount else ""


class WatchedCounter:
    """Something with a `value`, of which every reading and writing is noted."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    @property
    def value(self) -> int:
        seen = self._scene.value
        self._scene.move("read")
        return seen

    @value.setter
    def value(self, new: int) -> None:
        self._scene.move("write")
        self._scene.value = new


class WatchedLock:
    """A `threading.Lock` as far as one thread can tell; a thread that would wait for itself is told."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if self._scene.holding:
            if blocking and timeout < 0:
                raise Mistake("deadlock", "The lock was taken twice without a release in between.")
            return False
        self._scene.move("acquire")
        self._scene.holdings += 1
        self._scene.holding = self._scene.holdings
        return True

    def release(self) -> None:
        if not self._scene.holding:
            self._scene.unpaired = True
            self._scene.judge_lock()
        self._scene.holding = 0
        self._scene.move("release")

    def locked(self) -> bool:
        return self._scene.holding > 0

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class Yielding:
    """A counter that lets other threads have their turn between a reading and the writing that follows it."""

    def __init__(self) -> None:
        self._value = 0

    @property
    def value(self) -> int:
        seen = self._value
        time.sleep(0)
        return seen

    @value.setter
    def value(self, new: int) -> None:
        self._value = new


def _race(add_fetched: Callable[..., Any], threads: int = 4, times: int = 50) -> str:
    counter, lock = Yielding(), threading.Lock()

    def add() -> None:
        for _ in range(times):
            add_fetched(counter, lock, lambda: 1)

    racers = [threading.Thread(target=add, daemon=True) for _ in range(threads)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    words = f"In a real race of {threads} threads, {counter.value} of {threads * times} updates arrived."
    if counter.value != threads * times:
        raise Mistake("other", words)
    return words


# --- 01-run-in-child ------------------------------------------------------------------------------------------------


@checks("01-run-in-child")
def runs(run_in_child: Callable[..., Any], source: Random) -> str:
    """Results small, empty and large; exceptions, an exit and a kill; no child and no descriptor stays behind."""
    if not hasattr(os, "fork"):
        raise Mistake("other", "This system has no `os.fork`; under Windows, try this one in WSL.")
    _expect_child(run_in_child)
    values: list[object] = [{"seats": [source.randrange(100) for _ in range(3)]}, None, 0, []]
    for value in values:
        _expect_result(run_in_child, value)
    _expect_large(run_in_child, source.randbytes(300_000))
    word = f"no seat {source.randrange(10_000, 100_000)}"
    _expect_error(run_in_child, "error", _raising(ValueError(word)), f"raised `ValueError('{word}')`", word)
    _expect_error(run_in_child, "error", sys.exit, "called `sys.exit()`")
    _expect_error(run_in_child, "signal", _kill_oneself, "was killed by SIGKILL", "SIGKILL")
    _expect_error(run_in_child, "silent", lambda: os._exit(3), "ended the child by `os._exit(3)`")
    return "None of your children is left behind, neither as a zombie nor as a guest in your notebook's kernel."


def _expect_child(run_in_child: Callable[..., Any]) -> None:
    got = _run(run_in_child, os.getpid)
    if got is None or got is ...:
        raise Mistake("empty")
    if got == os.getpid():
        raise Mistake("no-child", "`run_in_child(os.getpid)` gave the id of this very process.")


def _expect_result(run_in_child: Callable[..., Any], value: object) -> None:
    call = f"`run_in_child(lambda: {value!r})`"
    try:
        got = _run(run_in_child, lambda: value)
    except RuntimeError as error:
        raise Mistake("result", f"{call} raised `{short(error)}`.") from None
    if type(got) is not type(value) or got != value:
        raise Mistake("result", f"{call} gave `{short(got)}`.")


def _expect_large(run_in_child: Callable[..., Any], value: bytes) -> None:
    call = f"A result of {len(value):,} bytes"
    try:
        got = _run(run_in_child, lambda: value)
    except Mistake:
        raise
    except Exception as error:
        raise Mistake("truncated", f"{call} ended in `{short(error)}`.") from None
    if got != value:
        raise Mistake("truncated", f"{call} came back as `{short(got)}`.")


def _expect_error(run_in_child: Callable[..., Any], hint: str, function: Any, did: str, word: str = "") -> None:
    """The function must end in a `RuntimeError` with `word` in its text."""
    try:
        got = _run(run_in_child, function)
    except Mistake:
        raise
    except Exception as error:
        if isinstance(error, RuntimeError) and word in str(error):
            return
        raise Mistake(hint, f"The function {did}, and `run_in_child` raised `{short(error)}`.") from None
    raise Mistake(hint, f"The function {did}, and `run_in_child` returned `{short(got)}`.")


def _raising(error: Exception) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


def _kill_oneself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _run(run_in_child: Callable[..., Any], function: Callable[[], Any]) -> Any:
    """One call, watched. In the child this never returns, whatever the learner's code does."""
    with _watched() as family:
        try:
            got = run_in_child(function)
        except BaseException as error:
            family.end_child()
            if isinstance(error, TookTooLong):
                signal.setitimer(signal.ITIMER_REAL, 0)  # the alarm repeats; not while clearing up
            traceback.clear_frames(error.__traceback__)  # files of theirs close now, before we look for open pipes
            family.judge_end(too_long=isinstance(error, TookTooLong))
            if isinstance(error, RuntimeError):
                family.judge_leftovers()
            raise
        family.end_child()
        family.judge_end()
        family.judge_leftovers()
        return got


@dataclass
class Family:
    """The children and pipes of one call."""

    exit: Callable[[int], Any]  # the real `os._exit`
    parent: int = field(default_factory=os.getpid)
    caller: threading.Thread = field(default_factory=threading.current_thread)
    children: list[int] = field(default_factory=list)
    pipes: dict[int, int] = field(default_factory=dict)  # both ends of each: the inode
    write_ends: set[int] = field(default_factory=set)
    waiting: bool = False  # in `os.waitpid`
    parent_exited: bool = False
    escaped: mmap.mmap = field(default_factory=lambda: mmap.mmap(-1, 1))  # shared with the children

    def takes_part(self) -> bool:
        """Whether this thread is the learner's: a notebook's kernel has others."""
        return threading.current_thread() is self.caller

    def end_child(self) -> None:
        """End this process if it is a child that came out of the learner's function: a second kernel otherwise."""
        if os.getpid() != self.parent:
            self.escaped[0] = 1
            self.exit(0)

    def judge_end(self, too_long: bool = False) -> None:
        """Raise a `Mistake` for the wrong process at the wrong place, or for a reason to wait for ever."""
        if self.parent_exited:
            raise Mistake("parent-exit")
        if self.escaped[0]:
            raise Mistake("escaped")
        if too_long and self.waiting:
            raise Mistake("wait-first", "The parent was waiting for a child that did not end.")
        if too_long and self.write_ends & set(self._open()):
            raise Mistake("own-end", "The parent was waiting for the end of the data.")

    def judge_leftovers(self) -> None:
        """Raise a `Mistake` for a child that was not waited for, or a pipe that is still open."""
        if any([self._end(child) for child in self.children]):
            raise Mistake("zombie")
        if ends := self._open():
            raise Mistake("leak", f"{len(ends)} of {len(self.pipes)} ends of pipes were still open.")

    def _end(self, child: int) -> bool:
        """End and reap a child; was there still something to do?"""
        with suppress(ChildProcessError):
            if os.waitpid(child, os.WNOHANG)[0] == 0:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            return True
        return False

    def _open(self) -> list[int]:
        return [end for end, inode in self.pipes.items() if _pipe_identity(end) == inode]

    def clear_up(self) -> None:
        """End and reap what is left of the children, and close what is left of the pipes."""
        for child in self.children:
            self._end(child)
        for end in self._open():
            os.close(end)
        self.escaped.close()


def _pipe_identity(end: int) -> int | None:
    try:
        found = os.fstat(end)
    except OSError:
        return None
    return found.st_ino if stat.S_ISFIFO(found.st_mode) else None


@contextmanager
def _watched() -> Iterator[Family]:
    """Watch `os.pipe`, `os.fork`, `os.waitpid` and `os._exit` during one call; leave nothing behind."""
    pipe, fork, waitpid, real_exit = os.pipe, os.fork, os.waitpid, os._exit
    family = Family(real_exit)

    def watched_pipe() -> tuple[int, int]:
        ends = pipe()
        if family.takes_part():
            family.pipes.update({end: os.fstat(end).st_ino for end in ends})
            family.write_ends.add(ends[1])
        return ends

    def watched_fork() -> int:
        child = fork()
        if child and family.takes_part():
            family.children.append(child)
        return child

    def watched_waitpid(child: int, options: int) -> tuple[int, int]:
        if not family.takes_part():
            return waitpid(child, options)
        family.waiting = True
        found = waitpid(child, options)
        family.waiting = False
        return found

    def watched_exit(code: int) -> None:
        if os.getpid() != family.parent or not family.takes_part():
            real_exit(code)
        family.parent_exited = True
        raise Mistake("parent-exit")  # and not the end of the notebook's kernel

    os.pipe, os.fork, os.waitpid = watched_pipe, watched_fork, watched_waitpid
    os._exit = watched_exit  # type: ignore[assignment]
    try:
        yield family
    finally:
        os.pipe, os.fork, os.waitpid, os._exit = pipe, fork, waitpid, real_exit
        family.clear_up()
