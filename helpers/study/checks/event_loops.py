"""Checks for notebook 06."""

from __future__ import annotations

import asyncio
import inspect
import threading
import types
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random
from typing import Any

from helpers.study.checks import Mistake, checks, expect_number, short
from helpers.study.checks.fast_loop import in_a_loop_of_its_own

# --- 06-next-wait ---------------------------------------------------------------------------------------------------


@checks("06-next-wait")
def waits(next_wait: Callable[..., Any], source: Random) -> None:
    """A timer to come; several; something ready; a timer that is late; nothing at all."""
    now = source.randrange(100, 200) + 0.5
    if next_wait([], [now + 2], now) in (None, ...) and next_wait([print], [], now) in (None, ...):
        raise Mistake("empty")
    timers = [now + 1.5, now + 4.0, now + 2.5]
    _expect_wait(next_wait, [], timers[:1], now)
    _expect_wait(next_wait, [], timers, now)
    for some in (timers, [], [now - 1.0]):
        _expect_wait(next_wait, [print], some, now)
    _expect_wait(next_wait, [], [now - 0.25, now + 3.0], now)
    got = next_wait([], [], now)
    if got is not None:
        raise Mistake("spin", f"`next_wait([], [], {now})` gave `{short(got)}`.")


def _expect_wait(next_wait: Callable[..., Any], ready: list[Any], timers: list[float], now: float) -> None:
    call = f"next_wait({short(ready)}, {short(timers)}, {now})"
    got = next_wait(list(ready), list(timers), now)
    if ready:
        if got != 0:
            raise Mistake("ready", f"`{call}` gave `{short(got)}`.")
        return
    if got is None:
        raise Mistake("for-ever", f"`{call}` gave `None`.")
    mistakes = [
        ("late", timers[0] - now),
        *(("moment", time) for time in timers),
        *(("last", time - now) for time in timers[1:]),
    ]
    expect_number(call, got, max(0.0, timers[0] - now), mistakes)


# --- 06-by-hand -----------------------------------------------------------------------------------------------------


@types.coroutine
def ask(question: Any) -> Generator[Any, Any, Any]:
    """What a coroutine awaits to get something from outside."""
    return (yield question)


class Refused(Exception):
    """Raised in place of an answer."""


class Own(Exception):
    """Raised by the coroutine itself."""


@dataclass
class Talk:
    """Coroutines that ask, and what they saw."""

    refuses: tuple[Any, ...] = ()
    saw: list[Any] = field(default_factory=list)

    def answer(self, question: Any) -> Any:
        """An answer that tells which question it belongs to; raises `Refused` for some."""
        if question in self.refuses:
            raise Refused(question)
        return f"answer to {question}"

    async def _ask(self, question: Any) -> None:
        self.saw.append(None)
        self.saw[-1] = await ask(question)

    async def plain(self) -> str:
        """Three questions, the second of which is `None`, as in `asyncio.sleep(0)`."""
        for question in ("name", None, "age"):
            await self._ask(question)
        self.saw.append("end")
        return "done"

    async def silent(self) -> str:
        """No question at all."""
        self.saw.append("end")
        return "done"

    async def careful(self) -> str:
        """Asks something else when it's refused, and a last question after that."""
        try:
            await self._ask("first")
        except Refused:
            self.saw[-1] = "refused"
            await self._ask("second")
        await self._ask("third")
        self.saw.append("end")
        return "done"

    async def content(self) -> str:
        """Returns when it's refused."""
        with suppress(Refused):
            await self._ask("first")
        self.saw.append("end")
        return "done"

    async def tidy(self) -> None:
        """Lets the refusal through, and tidies up."""
        try:
            await self._ask("first")
        finally:
            self.saw.append("tidied")

    async def fails(self) -> None:
        """Raises an error of its own after one answer."""
        await self._ask("name")
        raise Own("the coroutine's own")


@checks("06-by-hand")
def drives(drive: Callable[..., Any], source: Random) -> None:
    """Coroutines that ask, that don't, that are refused and go on or don't, and that fail."""
    _expect_end(drive, Talk(), "plain", ["answer to name", "answer to None", "answer to age", "end"])
    _expect_end(drive, Talk(), "silent", ["end"])
    wanted = ["refused", "answer to second", "answer to third", "end"]
    _expect_end(drive, Talk(refuses=("first",)), "careful", wanted)
    _expect_end(drive, Talk(refuses=("first",)), "content", [None, "end"])
    _expect_error(drive, Talk(refuses=("first",)), "tidy", Refused, "not-thrown", [None, "tidied"])
    _expect_error(drive, Talk(), "fails", Own, "swallowed", ["answer to name"])


def _driven(drive: Callable[..., Any], talk: Talk, name: str) -> Any:
    """What `drive` returned for that coroutine; or raises."""
    coroutine = getattr(talk, name)()
    try:
        got = drive(coroutine, talk.answer)
        if inspect.isawaitable(got):
            if inspect.iscoroutine(got):
                got.close()
            raise Mistake("async", f"`drive(…)` returned `{short(got)}`.")
        return got
    except TypeError as error:
        if "just-started" in str(error):
            raise Mistake("start", f"Python says: {error}.") from None
        if "iter" in str(error):
            raise Mistake("iterate", f"Python says: {error}.") from None
        raise
    finally:
        coroutine.close()


def _expect_end(drive: Callable[..., Any], talk: Talk, name: str, wanted: list[Any]) -> None:
    try:
        got = _driven(drive, talk, name)
    except StopIteration:
        raise Mistake("lost-result", "`StopIteration` went on to the caller.") from None
    except Refused:
        raise Mistake("not-thrown", "`answer` raised an error, and it went to the caller.") from None
    if not talk.saw and got in (None, ...):
        raise Mistake("empty")
    seen = f"A coroutine that should have seen {short(wanted)} saw {short(talk.saw)}."
    if talk.saw != wanted:
        hint = next((name for name, true in _drive_mistakes(talk, wanted) if true), "other")
        raise Mistake(hint, seen)
    if got != "done":
        raise Mistake("lost-result", f"The coroutine returned `'done'`, and `drive` returned `{short(got)}`.")


def _drive_mistakes(talk: Talk, wanted: list[Any]) -> list[tuple[str, bool]]:
    ended = talk.saw[-1:] == ["end"]
    return [
        ("lost-request", talk.saw[:1] == ["refused"]),
        ("not-thrown", bool(talk.refuses)),
        ("no-answer", None in talk.saw[:-1]),
        ("unfinished", not ended),
    ]


def _expect_error(
    drive: Callable[..., Any], talk: Talk, name: str, error: type[Exception], hint: str, wanted: list[Any]
) -> None:
    try:
        got = _driven(drive, talk, name)
    except error:
        outcome = ""
    except (Own, Refused, StopIteration, RuntimeError) as other:
        outcome = f"the caller got `{type(other).__name__}`"
    else:
        outcome = f"`drive` returned `{short(got)}`"
    if outcome:
        raise Mistake("swallowed", f"The coroutine ended in `{error.__name__}`; {outcome}.")
    if talk.saw != wanted:
        raise Mistake(hint, f"A coroutine that should have seen {short(wanted)} saw {short(talk.saw)}.")


# --- 06-slices ------------------------------------------------------------------------------------------------------

SLICE = 0.010  # s
THEIRS = 0.006  # s that the others take in a turn


@dataclass
class Work:
    """Steps that take so many seconds on a clock of their own, beside others who count their turns."""

    lengths: list[float]
    now: float = 50.0
    turns: int = 0
    turns_before: list[int] = field(default_factory=list)  # of the others, before each step
    threads: set[int] = field(default_factory=set)

    def step(self, place: int) -> Callable[[], str]:
        """The step at that place."""

        def work() -> str:
            self.threads.add(threading.get_ident())
            self.turns_before.append(self.turns)
            self.now += self.lengths[place]
            return f"result {place}"

        return work

    async def others(self) -> None:
        """A turn whenever there is one."""
        while True:
            self.turns += 1
            self.now += THEIRS
            await asyncio.sleep(0)

    def given(self) -> list[int]:
        """The steps before which the others had a turn, beginning with the second."""
        counts = self.turns_before
        return [place for place in range(1, len(counts)) if counts[place] > counts[place - 1]]


@checks("06-slices")
def slices(in_slices: Callable[..., Any], source: Random) -> str:
    """Short steps with long ones among them, long ones only, one alone and none."""
    lengths = [0.0021, 0.0032, 0.0018, 0.0301, *[0.0007] * 20, 0.0093, 0.0042, 0.0113, *[0.0013] * 20]
    _expect_slices(in_slices, lengths)
    _expect_slices(in_slices, [source.choice([0.0003, 0.0031, 0.0172]) * source.uniform(1, 1.2) for _ in range(80)])
    for count in (6, 1, 0):
        work = _expect_slices(in_slices, [2.3 * SLICE] * count)
    work = _expect_slices(in_slices, [0.00013] * 1000)
    return f"1,000 steps of 0.13 ms, and {work.turns} turns for the others."


def _expect_slices(in_slices: Callable[..., Any], lengths: list[float]) -> Work:
    work = Work(lengths)
    here: list[int] = []

    async def main() -> Any:
        here.append(threading.get_ident())
        others = asyncio.create_task(work.others())
        got = in_slices([work.step(place) for place in range(len(lengths))], SLICE, lambda: work.now)
        try:
            if inspect.isawaitable(got):
                return await got
        finally:
            others.cancel()
        raise Mistake("empty" if got in (None, ...) else "not-async", f"`in_slices(…)` returned `{short(got)}`.")

    got = in_a_loop_of_its_own(main)
    if lengths and not work.turns_before and got in (None, ...):
        raise Mistake("empty")
    if work.threads - set(here):
        raise Mistake("thread", "A step ran in another thread.")
    _judge_results(got, len(lengths))
    _judge_turns(work)
    return work


def _judge_results(got: Any, count: int) -> None:
    wanted = [f"result {place}" for place in range(count)]
    if got != wanted:
        raise Mistake("results", f"For {count} steps it returned `{short(got)}`.")


def _judge_turns(work: Work) -> None:
    given, wanted = work.given(), _turns(work.lengths)
    if given != wanted:
        hints = {
            "each-step": list(range(1, len(work.lengths))),
            "not-anew": list(range(wanted[0], len(work.lengths))) if wanted else None,
            "others": _turns(work.lengths, begins_with=THEIRS),
        }
        hint = next((name for name, places in hints.items() if given == places), "")
        if not hint:
            gaps = {after - before for before, after in pairwise(given)}
            hint = "by-count" if len(given) > 2 and len(gaps) == 1 else _longest_hint(work, given)
        seen = f"In {len(work.lengths)} steps the others had a turn {len(given)} times, {len(wanted)} would be right."
        if len(given) == len(wanted):
            seen = f"Before steps {short(given)} the others had a turn; before {short(wanted)} would be right."
        raise Mistake(hint, seen)
    between = [after - before for before, after in pairwise(work.turns_before)]
    if max(between, default=0) > 1:
        raise Mistake("sleeps", f"Between two steps the others had {max(between)} turns.")


def _longest_hint(work: Work, given: list[int]) -> str:
    """Whether the others had to wait for much longer than a slice and a step."""
    edges = [0, *given, len(work.lengths)]
    longest = max(sum(work.lengths[a:b]) for a, b in pairwise(edges))
    return "blocks" if longest > 2 * (SLICE + max(work.lengths)) or not given else "other"


def _turns(lengths: list[float], begins_with: float = 0.0) -> list[int]:
    """Before which steps the others have their turn; each later slice begins with so much counted already."""
    places, worked = [], 0.0
    for place, length in enumerate(lengths):
        if worked >= SLICE:
            places.append(place)
            worked = begins_with
        worked += length
    return places


# --- 06-first-answer ------------------------------------------------------------------------------------------------

CLEANUP = 0.5  # s, of the loop's clock, that each takes to end when cancelled
LONG_AGO = 60.0  # s; longer than any of them takes


class Failed(Exception):
    """What a server answers instead."""


class Untidy(Exception):
    """Raised while cleaning up."""


@dataclass
class Asked:
    """One of those who are asked: answers after so many seconds of the loop's clock."""

    name: str
    seconds: float
    fails: bool = False
    untidy: bool = False
    began: float | None = None
    cancelled: bool = False
    ended: bool = False

    async def answer(self) -> str:
        """The name, in time; the failure; or a slow end when cancelled."""
        self.began = asyncio.get_running_loop().time()
        try:
            await asyncio.sleep(self.seconds)
            if self.fails:
                raise Failed(self.name)
            return self.name
        except asyncio.CancelledError:
            self.cancelled = True
            await asyncio.sleep(CLEANUP)
            if self.untidy:
                raise Untidy(self.name) from None
            raise
        finally:
            self.ended = True


@dataclass
class Race:
    """How it went: what came out, when, and how the others were at that moment."""

    asked: list[Asked]
    result: Any = None
    error: BaseException | None = None
    took: float = 0.0
    running: list[str] = field(default_factory=list)  # when it returned
    cancelled: bool = False  # some of these had been

    @property
    def outcome(self) -> str:
        """In words, for a learner."""
        return f"raised `{type(self.error).__name__}`" if self.error else f"returned `{short(self.result)}`"

    def leak(self, hint: str) -> None:
        """Raise a `Mistake` if somebody was still running when it had returned."""
        if self.running:
            if self.cancelled and hint == "left-running":
                hint = "not-awaited"
            raise Mistake(hint, f"It {self.outcome}, and then {', '.join(self.running)} had not ended yet.")


@checks("06-first-answer")
def first(first_answer: Callable[..., Any], source: Random) -> str:
    """An answer, a failure, an untidy loser, nobody in time, and a cancellation."""
    _expect_answer(first_answer, source)
    _expect_failure(first_answer)
    _expect_untidy(first_answer)
    _expect_time_out(first_answer)
    _expect_cancelled(first_answer)
    return "The first decided, and nobody was left running: after an answer, an error, a time-out and a cancellation."


def _race(
    first_answer: Callable[..., Any], asked: list[Asked], seconds: float, cancel_after: float | None = None
) -> Race:
    race = Race(asked)
    coroutines: list[Coroutine[Any, Any, str]] = [one.answer() for one in asked]

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda *_: None)  # what a learner leaves behind isn't for the notebook's log
        begin = loop.time()
        got = first_answer(list(coroutines), seconds)
        if not inspect.isawaitable(got):
            raise Mistake("empty" if got in (None, ...) else "not-async", f"It returned `{short(got)}`.")
        task = asyncio.ensure_future(got)
        if cancel_after is not None:
            loop.call_later(cancel_after, task.cancel)
        try:
            race.result = await task
        except (Exception, asyncio.CancelledError) as error:
            race.error = error
        race.took = loop.time() - begin
        running = [one for one in asked if one.began is not None and not one.ended]
        await asyncio.sleep(CLEANUP / 5)  # until those who were cancelled have heard of it
        race.running = [one.name for one in running]
        race.cancelled = any(one.cancelled for one in running)

    try:
        in_a_loop_of_its_own(main)
    finally:
        for coroutine in coroutines:
            if inspect.getcoroutinestate(coroutine) == inspect.CORO_CREATED:
                coroutine.close()
    if race.result in (None, ...) and not race.error and not any(one.began is not None for one in asked):
        raise Mistake("empty")
    return race


def _expect_answer(first_answer: Callable[..., Any], source: Random) -> None:
    seconds = [5.0, 2.0, 9.0, 7.0]
    for _ in range(2):
        asked = [Asked(f"server {place}", time) for place, time in enumerate(seconds, 1)]
        race = _race(first_answer, asked, LONG_AGO)
        begins = [one.began for one in asked if one.began is not None]
        if len(begins) < len(asked) or max(begins) - min(begins) > 1:
            raise Mistake("one-by-one", f"Of {len(asked)} asked, {len(begins)} began, not all at the same time.")
        if isinstance(race.result, (asyncio.Future, set, list, tuple)) and race.took < 2 + CLEANUP + 1:
            raise Mistake("not-result", f"It {race.outcome}.")
        if race.took > min(seconds) + CLEANUP + 1:
            raise Mistake("late", f"The first answered after {min(seconds):g} s; it returned after {race.took:.0f} s.")
        if isinstance(race.error, asyncio.CancelledError):  # of a loser, as `gather` hands it on
            raise Mistake("hidden", f"One had answered; `first_answer` {race.outcome}.")
        race.leak("left-running")
        if race.result != f"server {seconds.index(min(seconds)) + 1}":
            raise Mistake("other", f"It {race.outcome}.")
        source.shuffle(seconds)


def _expect_failure(first_answer: Callable[..., Any]) -> None:
    race = _race(first_answer, [Asked("slow", 9.0), Asked("failing", 1.0, fails=True), Asked("good", 4.0)], LONG_AGO)
    if not isinstance(race.error, Failed):
        raise Mistake("swallowed", f"The first to end raised `Failed`; `first_answer` {race.outcome}.")
    race.leak("left-running")


def _expect_untidy(first_answer: Callable[..., Any]) -> None:
    race = _race(first_answer, [Asked("untidy", 9.0, untidy=True), Asked("good", 1.0), Asked("slow", 5.0)], LONG_AGO)
    if race.result != "good":
        raise Mistake("hidden", f"The answer was `'good'`; `first_answer` {race.outcome}.")
    race.leak("left-running")


def _expect_time_out(first_answer: Callable[..., Any]) -> None:
    limit = 3.0
    race = _race(first_answer, [Asked("slow", 20.0), Asked("slower", 30.0)], limit)
    if race.took > limit + CLEANUP + 1:
        raise Mistake("no-timeout", f"With a limit of {limit:g} s it {race.outcome} after {race.took:.0f} s.")
    if race.took < 0.9 * limit:
        raise Mistake("too-early", f"With a limit of {limit:g} s it {race.outcome} after {race.took:.1f} s.")
    if not isinstance(race.error, TimeoutError):
        raise Mistake("wrong-error", f"After the limit of {limit:g} s it {race.outcome}.")
    race.leak("timeout-leak")


def _expect_cancelled(first_answer: Callable[..., Any]) -> None:
    race = _race(first_answer, [Asked("slow", 20.0), Asked("slower", 30.0)], LONG_AGO, cancel_after=2.0)
    race.leak("cancel-leak")
    if not isinstance(race.error, asyncio.CancelledError):
        raise Mistake("other", f"It was cancelled, and {race.outcome} all the same.")
