"""Checks for notebook 03."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from statistics import fmean, median
from types import SimpleNamespace
from typing import Any

from helpers.study.checks import Mistake, TookTooLong, checks, expect_number, short

# --- 03-cost-per-switch ---------------------------------------------------------------------------------------------


@checks("03-cost-per-switch")
def costs(cost_per_switch: Callable[..., Any], source: Random) -> None:
    """A plain case, drift with one disturbed round, and a result below zero."""
    _expect_cost(cost_per_switch, [(9000.0, 1500.0), (9400.0, 1600.0), (9100.0, 1400.0)])
    for switch in (source.uniform(1500, 4000), -source.uniform(50, 200)):
        rounds = []
        for _ in range(9):
            overhead = source.uniform(800, 3000)
            rounds.append((2 * (switch + overhead + source.uniform(-20, 20)), overhead))
        place = source.randrange(9)
        rounds[place] = (rounds[place][0] + 80_000, rounds[place][1])
        _expect_cost(cost_per_switch, rounds)


def _expect_cost(cost_per_switch: Callable[..., Any], rounds: list[tuple[float, float]]) -> None:
    trips, overheads = zip(*rounds, strict=True)
    each = [trip / 2 - overhead for trip, overhead in rounds]
    wanted = median(each) / 1000
    mistakes = [
        ("round-trip", median(trip - overhead for trip, overhead in rounds) / 1000),
        ("round-trip", median(trip - 2 * overhead for trip, overhead in rounds) / 1000),
        ("round-trip", median(trips) / 1000),
        ("overhead", median(trips) / 2000),
        ("halved-twice", median(trip - overhead for trip, overhead in rounds) / 2000),
        ("nanoseconds", median(each)),
        ("mean", fmean(each) / 1000),
        ("unpaired", (median(trips) / 2 - median(overheads)) / 1000),
        *([("clamped", 0.0), ("clamped", -wanted)] if wanted < 0 else []),
    ]
    first = ", ".join(f"({trip:.0f}, {overhead:.0f})" for trip, overhead in rounds[:2])
    expect_number(f"cost_per_switch([{first}, …])", cost_per_switch(list(rounds)), wanted, mistakes)


# --- 03-switch-share ------------------------------------------------------------------------------------------------


@checks("03-switch-share")
def shares(voluntary_share: Callable[..., Any], source: Random) -> None:
    """Snapshots of a process that has been running for a while, and two without a switch between them."""
    for _ in range(4):
        _expect_share(voluntary_share, source, source.randrange(200, 5000), source.randrange(20, 190))
    _expect_share(voluntary_share, source, 0, source.randrange(1, 100))
    before = _usage(source.randrange(100), source.randrange(100))
    try:
        got = voluntary_share(before, _usage(before.ru_nvcsw, before.ru_nivcsw))
    except ZeroDivisionError:
        raise Mistake("no-switches", "Two equal snapshots ended in a division by zero.") from None
    if got is not None:
        raise Mistake("no-switches", f"Two equal snapshots gave `{short(got)}`.")


def _usage(voluntary: int, involuntary: int) -> SimpleNamespace:
    return SimpleNamespace(ru_utime=1.5, ru_stime=0.5, ru_maxrss=40_000, ru_nvcsw=voluntary, ru_nivcsw=involuntary)


def _expect_share(voluntary_share: Callable[..., Any], source: Random, voluntary: int, involuntary: int) -> None:
    before = _usage(source.randrange(1000, 9000), source.randrange(1000, 9000))
    after = _usage(before.ru_nvcsw + voluntary, before.ru_nivcsw + involuntary)
    share = voluntary / (voluntary + involuntary)
    mistakes = [
        ("totals", 100 * after.ru_nvcsw / (after.ru_nvcsw + after.ru_nivcsw)),
        ("fraction", share),
        ("other-kind", 100 * (1 - share)),
        ("ratio", 100 * voluntary / involuntary),
        ("ratio", voluntary / involuntary),
    ]
    call = f"voluntary_share(…) with {voluntary} voluntary and {involuntary} involuntary switches between"
    expect_number(call, voluntary_share(before, after), 100 * share, mistakes)


# --- 03-cycle -------------------------------------------------------------------------------------------------------


@checks("03-cycle")
def cycles(random_cycle: Callable[..., Any], source: Random) -> None:
    """One full cycle at several sizes, different each time, every cycle as likely as any other."""
    for n in (2, 3, source.randrange(20, 60), source.randrange(200, 400), 1):
        _expect_cycle(random_cycle(n), n)
    n = source.randrange(40, 80)
    if len({tuple(random_cycle(n)) for _ in range(4)}) < 4:
        raise Mistake("not-random", f"Four calls of `random_cycle({n})` did not give four different cycles.")
    _expect_even(random_cycle)


def _expect_cycle(got: Any, n: int) -> None:
    if got is None or got is ...:
        raise Mistake("empty")
    call = f"random_cycle({n})"
    try:
        following = [int(slot) for slot in got]
    except (TypeError, ValueError):
        raise Mistake("length", f"`{call}` gave `{short(got)}`, not a list of slots.") from None
    if len(following) != n:
        raise Mistake("length", f"`{call}` has {len(following)} entries.")
    if sorted(following) != list(range(n)):
        raise Mistake("permutation", f"`{call}` gave `{short(following)}`.")
    steps = _steps_to_return(following)
    if steps < n:
        raise Mistake("several-cycles", f"In `{call}` the chase was back at slot 0 after {steps} of {n} steps.")


def _steps_to_return(following: list[int]) -> int:
    steps, slot = 1, following[0]
    while slot != 0:
        steps, slot = steps + 1, following[slot]
    return steps


def _expect_even(random_cycle: Callable[..., Any]) -> None:
    """The six cycles of four slots, 100 times each on average; a fair one strays past 60 about once in 10^8 checks."""
    seen = Counter(tuple(random_cycle(4)) for _ in range(600))
    rarest, commonest = min(seen.values()), max(seen.values())
    if len(seen) < 6 or rarest < 40 or commonest > 160:
        words = f"Of the 6 possible cycles of 4 slots, 600 calls gave {len(seen)}"
        raise Mistake("uneven", f"{words}, the commonest {commonest} times and the rarest {rarest} times.")


# --- 03-ping-pong ---------------------------------------------------------------------------------------------------


@checks("03-ping-pong")
def plays(ping_pong: Callable[..., Any], source: Random) -> str:
    """Really two threads, really two pipes, one byte under way at a time, nothing left behind."""
    for rounds in (1, source.randrange(5, 20)):
        _play(ping_pong, rounds)
    rounds, before = source.randrange(150, 250), _switches()
    _play(ping_pong, rounds)
    switches = _switches() - before
    return f"In your last {rounds} rounds the OS counted {switches} switches." if switches else ""


def _play(ping_pong: Callable[..., Any], rounds: int) -> None:
    with _referee() as game:
        got = ping_pong(rounds)
        if got is None or got is ...:
            raise Mistake("empty")
        game.judge(got, rounds)


@dataclass
class Game:
    """What was seen of one call: every write (noted before it) and every read (noted after it) on its pipes."""

    pipes: list[tuple[int, int]] = field(default_factory=list)
    identities: dict[int, int] = field(default_factory=dict)  # of both ends: the inode
    moves: list[tuple[str, int, int]] = field(default_factory=list)  # kind, thread, bytes
    failures: list[str] = field(default_factory=list)
    threads_before: set[threading.Thread] = field(default_factory=lambda: set(threading.enumerate()))
    caller: threading.Thread = field(default_factory=threading.current_thread)

    def takes_part(self) -> bool:
        """Whether this thread belongs to the call: a notebook has other threads, with pipes of their own."""
        me = threading.current_thread()
        return me is self.caller or me not in self.threads_before

    def judge(self, got: Any, rounds: int) -> None:
        """Raise a `Mistake` for the first thing that isn't as it should be."""
        call = f"ping_pong({rounds})"
        if self.failures:
            raise Mistake("thread-failed", f"{self.failures[0]}.")
        if not self.moves:
            raise Mistake("no-pipes", f"`{call}` returned `{short(got)}`.")
        if len(self.pipes) < 2:
            raise Mistake("one-pipe")
        if len({thread for _, thread, _ in self.moves}) < 2:
            raise Mistake("one-thread")
        if self._most_under_way() > 1:
            raise Mistake("in-flight", f"`{call}` had {self._most_under_way()} bytes under way at once.")
        received = sum(size for kind, _, size in self.moves if kind == "read")
        if _as_pair(got) != (rounds, rounds) or received != 2 * rounds:
            raise Mistake("count", f"`{call}` returned `{short(got)}`; {received} bytes were received in all.")
        if self._running():
            raise Mistake("running")
        if self._still_open():
            raise Mistake("leak", f"`{call}` left {len(self._still_open())} ends open.")

    def _most_under_way(self) -> int:
        under_way = most = 0
        for kind, _, size in self.moves:
            under_way += size if kind == "write" else -size
            most = max(most, under_way)
        return most

    def _running(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread not in self.threads_before]

    def _still_open(self) -> list[int]:
        return [end for end, inode in self.identities.items() if _pipe_identity(end) == inode]

    def clear_up(self) -> None:
        """Close what was left open, so that threads which wait there for ever come to an end."""
        left, write_ends = self._still_open(), {ends[1] for ends in self.pipes}
        # Each end becomes one that can't be used that way, in one step: the partner wakes up, the next call on the
        # end fails, and its number can't meanwhile go to somebody else's file.
        for end in left:
            dead = os.open(os.devnull, os.O_RDONLY if end in write_ends else os.O_WRONLY)
            os.dup2(dead, end)
            os.close(dead)
        for thread in self._running():
            thread.join(1.0)
        for end in left:
            os.close(end)


def _pipe_identity(end: int) -> int | None:
    try:
        found = os.fstat(end)
    except OSError:
        return None
    return found.st_ino if stat.S_ISFIFO(found.st_mode) else None


def _as_pair(got: Any) -> Any:
    try:
        return tuple(got)
    except TypeError:
        return got


@contextmanager
def _referee() -> Iterator[Game]:
    """Watch `os.pipe`, `os.read` and `os.write` during one call; whatever happens, leave nothing behind."""
    game = Game()
    pipe, read, write, hook = os.pipe, os.read, os.write, threading.excepthook

    def watched_pipe() -> tuple[int, int]:
        ends = pipe()
        if game.takes_part():
            game.pipes.append(ends)
            game.identities.update({end: os.fstat(end).st_ino for end in ends})
        return ends

    def watched_read(end: int, size: int) -> bytes:
        data = read(end, size)
        if end in game.identities and game.takes_part():
            game.moves.append(("read", threading.get_ident(), len(data)))
        return data

    def watched_write(end: int, data: Any) -> int:
        if end in game.identities and game.takes_part():
            game.moves.append(("write", threading.get_ident(), len(data)))
        return write(end, data)

    def failed(details: Any) -> None:
        if details.exc_type is not SystemExit:
            game.failures.append(f"It raised `{details.exc_type.__name__}: {details.exc_value}`")

    os.pipe, os.read, os.write = watched_pipe, watched_read, watched_write
    threading.excepthook = failed
    try:
        yield game
    except BaseException as error:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)  # the alarm repeats; not while clearing up
        if game.failures and isinstance(error, (TookTooLong, OSError)):
            raise Mistake("thread-failed", f"{game.failures[0]}.") from None
        raise
    finally:
        os.pipe, os.read, os.write = pipe, read, write
        game.clear_up()
        threading.excepthook = hook


def _switches() -> int:
    """Switches of this process so far, of both kinds; 0 where the OS doesn't say (Windows)."""
    try:
        import resource
    except ImportError:
        return 0
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nvcsw + usage.ru_nivcsw
