"""Check a learner's function by what it does: `check("03-cycle", random_cycle)`. Never raises for wrong code."""

from __future__ import annotations

import linecache
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from types import FrameType
from typing import Any

from helpers.ledger import ledger
from helpers.study import content
from helpers.study.checks import Mistake, TookTooLong, find
from helpers.study.shown import as_text, note, rich

LIMIT_SECONDS = 5.0


@dataclass(frozen=True)
class Outcome:
    """How a check went. `mistake` is the name of the hint that was given, or "" when it passed."""

    passed: bool
    message: str
    mistake: str = ""
    trouble: str | None = None

    def _repr_html_(self) -> str:
        mark, kind = ("✓ Passed.", "good") if self.passed else ("Not yet.", "bad")
        kept = note(rich(self.trouble), "trouble") if self.trouble else ""
        return f"{note(f'<strong>{mark}</strong> {rich(self.message)}', kind)}{kept}"

    def __repr__(self) -> str:
        return as_text(self._repr_html_())


def check(id: str, function: Any, *, seconds: float = LIMIT_SECONDS) -> Outcome:
    """Try the learner's function on several inputs; what came out, with a hint where it isn't right yet."""
    about = content.exercise(id)
    behaves = find(id)
    if not callable(function):
        words = f'Hand over the function itself, without calling it: `check("{id}", {about.function_name})`.'
        return Outcome(False, words, "not-a-function")
    try:
        with time_limit(seconds):
            praise = behaves(function, Random())
    except Mistake as mistake:
        return Outcome(False, _hinted(about, mistake), mistake.hint)
    except TookTooLong:
        words = f"It was still running after {seconds:g} s, so it was stopped. {about.hints.get('deadlock', '')}"
        return Outcome(False, words.strip(), "too-long")
    except NotImplementedError:
        return Outcome(False, _hinted(about, Mistake("empty", "")), "empty")
    except (Exception, SystemExit) as error:
        return Outcome(False, explain(error, function), "raised")
    kept = ledger().answer("exercise", id, True)
    return Outcome(True, praise or "", trouble=None if kept else ledger().trouble)


def _hinted(about: content.Exercise, mistake: Mistake) -> str:
    if mistake.hint == "empty":
        return f"`{about.function_name}` returns nothing so far. It's your turn: fill it in and run the cell again."
    hint = about.hints.get(mistake.hint, about.hints["other"])
    return f"{mistake.seen} {hint}".strip()


def explain(error: BaseException, function: Any) -> str:
    """One kind line about what the learner's code raised, with their own line where it happened."""
    what = type(error).__name__ + (f": {error}" if str(error) else "")
    file = getattr(getattr(function, "__code__", None), "co_filename", "")
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == file]
    if not lines:
        return f"Calling your function ended in `{what}`. Does it take the arguments that the task names?"
    source = linecache.getline(file, lines[-1]).strip()
    return f"Your line {lines[-1]}, `{source}`, raised `{what}`." if source else f"Your code raised `{what}`."


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `TookTooLong` in the block after `seconds`. Without effect off the main thread and on Windows."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise TookTooLong

    before: Callable[..., Any] | int | None = signal.signal(signal.SIGALRM, ring)
    # It rings again and again, in case a bare `except:` of the learner's swallows it once.
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
