"""Every exercise: the solution passes, the stub fails kindly, and each mistake gets the hint meant for it."""

from __future__ import annotations

import contextlib
import os
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.ledger import ledger
from helpers.study import check, content, exercises

EXERCISES = [exercise for chapter in content.chapters() for exercise in chapter.exercises]

# Wrong code by exercise and by the hint it should get.
WRONG: dict[str, list[tuple[str, str]]] = {
    "00-median-interval": [
        ("median-only", "def compare(a, b): return 'lower' if a[0] < b[0] else 'higher'"),
        (
            "inside",
            """
            def compare(a, b):
                if b[1] <= a[2] <= b[2] or b[1] <= a[1] <= b[2]: return "can't tell"
                return 'lower' if a[0] < b[0] else 'higher'
        """,
        ),
        (
            "touching",
            """
            def compare(a, b):
                return 'lower' if a[2] <= b[1] else 'higher' if b[2] <= a[1] else "can't tell"
        """,
        ),
        (
            "swapped",
            """
            def compare(a, b):
                return 'higher' if a[2] < b[1] else 'lower' if b[2] < a[1] else "can't tell"
        """,
        ),
        ("words", "def compare(a, b): return a[2] < b[1]"),
        ("other", 'def compare(a, b): return "can\'t tell"'),
    ],
    "00-subtract": [
        ("whole-loop", "def cost(a, b, n): return median(x - y for x, y in zip(a, b))"),
        ("not-subtracted", "def cost(a, b, n): return median(a) / n"),
        ("unpaired", "def cost(a, b, n): return (median(a) - median(b)) / n"),
        ("mean", "def cost(a, b, n): return sum(x - y for x, y in zip(a, b)) / len(a) / n"),
        ("clamped", "def cost(a, b, n): return max(0, median(x - y for x, y in zip(a, b)) / n)"),
        ("clamped", "def cost(a, b, n): return abs(median(x - y for x, y in zip(a, b)) / n)"),
        ("swapped", "def cost(a, b, n): return median(y - x for x, y in zip(a, b)) / n"),
        ("other", "def cost(a, b, n): return 21.0"),
        ("other", "def cost(a, b, n): return 'fast'"),
    ],
    "03-cost-per-switch": [
        ("round-trip", "def cost_per_switch(r): return median(a - b for a, b in r) / 1000"),
        ("round-trip", "def cost_per_switch(r): return median(a - 2 * b for a, b in r) / 1000"),
        ("overhead", "def cost_per_switch(r): return median(a / 2 for a, b in r) / 1000"),
        ("halved-twice", "def cost_per_switch(r): return median((a - b) / 2 for a, b in r) / 1000"),
        ("nanoseconds", "def cost_per_switch(r): return median(a / 2 - b for a, b in r)"),
        ("mean", "def cost_per_switch(r): return sum(a / 2 - b for a, b in r) / len(r) / 1000"),
        ("unpaired", "def cost_per_switch(r): return (median(a for a, b in r) / 2 - median(b for a, b in r)) / 1000"),
        ("clamped", "def cost_per_switch(r): return max(0, median(a / 2 - b for a, b in r) / 1000)"),
        ("other", "def cost_per_switch(r): return 3.1"),
        ("other", "def cost_per_switch(r): return float('nan')"),
    ],
    "03-switch-share": [
        ("totals", "def voluntary_share(a, b): return 100 * b.ru_nvcsw / (b.ru_nvcsw + b.ru_nivcsw)"),
        (
            "fraction",
            """
            def voluntary_share(a, b):
                v, i = b.ru_nvcsw - a.ru_nvcsw, b.ru_nivcsw - a.ru_nivcsw
                return v / (v + i)
        """,
        ),
        (
            "other-kind",
            """
            def voluntary_share(a, b):
                v, i = b.ru_nvcsw - a.ru_nvcsw, b.ru_nivcsw - a.ru_nivcsw
                return 100 * i / (v + i)
        """,
        ),
        (
            "ratio",
            """
            def voluntary_share(a, b):
                return 100 * (b.ru_nvcsw - a.ru_nvcsw) / (b.ru_nivcsw - a.ru_nivcsw)
        """,
        ),
        (
            "no-switches",
            """
            def voluntary_share(a, b):
                v, i = b.ru_nvcsw - a.ru_nvcsw, b.ru_nivcsw - a.ru_nivcsw
                return 100 * v / (v + i)
        """,
        ),
        (
            "no-switches",
            """
            def voluntary_share(a, b):
                v, i = b.ru_nvcsw - a.ru_nvcsw, b.ru_nivcsw - a.ru_nivcsw
                return 100 * v / (v + i) if v + i else 0
        """,
        ),
        ("other", "def voluntary_share(a, b): return 57.0"),
    ],
    "03-cycle": [
        ("length", "def random_cycle(n): return list(range(n - 1))"),
        ("length", "def random_cycle(n): return n"),
        ("permutation", "def random_cycle(n): return [1] * n"),
        (
            "several-cycles",
            """
            def random_cycle(n):
                order = list(range(n))
                random.shuffle(order)
                return order
        """,
        ),
        ("not-random", "def random_cycle(n): return [(i + 1) % n for i in range(n)]"),
        (
            "uneven",
            """
            def random_cycle(n):
                order = list(range(n))
                if random.randrange(2) or n > 4: random.shuffle(order)
                following = [0] * n
                for i in range(n): following[order[i - 1]] = order[i]
                return following
        """,
        ),
    ],
    "03-ping-pong": [
        ("no-pipes", "def ping_pong(rounds): return rounds, rounds"),
        (
            "one-pipe",
            """
            def ping_pong(rounds):
                r, w = os.pipe()
                for _ in range(rounds):
                    os.write(w, b"x")
                    os.read(r, 1)
                os.close(r)
                os.close(w)
                return rounds, rounds
        """,
        ),
        (
            "one-thread",
            """
            def ping_pong(rounds):
                there, back = os.pipe(), os.pipe()
                for _ in range(rounds):
                    os.write(there[1], b"x")
                    os.read(there[0], 1)
                    os.write(back[1], b"x")
                    os.read(back[0], 1)
                for end in (*there, *back):
                    os.close(end)
                return rounds, rounds
        """,
        ),
        (
            "in-flight",
            """
            def ping_pong(rounds):
                there, back = os.pipe(), os.pipe()
                got = []
                def other():
                    for _ in range(rounds): got.append(os.read(there[0], 1))
                    os.write(back[1], b"x" * rounds)
                thread = Thread(target=other)
                os.write(there[1], b"x" * rounds)
                thread.start()
                thread.join()
                mine = len(os.read(back[0], rounds))
                for end in (*there, *back): os.close(end)
                return mine, len(got)
        """,
        ),
        ("count", "SOLUTION.replace('got, sum', 'got + 1, sum')"),
        ("leak", "SOLUTION.replace('*there, *back', '*there,')"),
        (
            "running",
            'SOLUTION.replace(\'os.write(back[1], b"x")\', \'os.write(back[1], b"x")\\n'
            "        sleep(0.2)').replace('other.join()', '')",
        ),
        ("thread-failed", "SOLUTION.replace('os.read(there[0], 1)', 'os.read(there[0])')"),
    ],
}


@pytest.fixture(autouse=True)
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELPERS_LEDGER", str(tmp_path / "ledger.sqlite"))


def defined(exercise: content.Exercise, code: str) -> Callable[..., Any]:
    """The learner's function as their cell would define it."""
    names: dict[str, Any] = {"check": lambda id, function: None}
    exec(exercise.stub, names)  # its imports
    names["sleep"] = time.sleep
    exec(code, names)
    return names[exercise.function_name]


def wrong_code(exercise: content.Exercise, code: str) -> str:
    if code.startswith("SOLUTION"):
        changed: str = eval(code, {"SOLUTION": exercise.solution})
        assert changed != exercise.solution
        return changed
    return textwrap.dedent(code)


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_the_solution_passes_every_time_and_is_kept(exercise: content.Exercise) -> None:
    for _ in range(5):
        outcome = check(exercise.id, defined(exercise, exercise.solution))
        assert outcome.passed, outcome
    assert "✓ Passed." in outcome._repr_html_() and outcome.trouble is None
    assert ledger().answers("exercise") == {exercise.id: True}


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
def test_the_stub_runs_and_fails_kindly(exercise: content.Exercise) -> None:
    outcomes = []
    exec(exercise.stub, {"check": lambda id, function: outcomes.append(check(id, function))})
    (outcome,) = outcomes
    assert (outcome.passed, outcome.mistake) == (False, "empty")
    assert repr(outcome).startswith("Not yet.") and "Error" not in repr(outcome)
    assert ledger().answers("exercise") == {}


@pytest.mark.parametrize(
    ("id", "hint", "code"), [(id, hint, code) for id, cases in WRONG.items() for hint, code in cases]
)
def test_wrong_code_gets_the_hint_for_its_mistake(id: str, hint: str, code: str) -> None:
    exercise = content.exercise(id)
    outcome = check(id, defined(exercise, wrong_code(exercise, code)), seconds=2)
    assert (outcome.passed, outcome.mistake) == (False, hint), outcome
    assert exercise.hints[hint] in outcome.message
    assert ledger().answers("exercise") == {}


def test_every_hint_is_given_for_some_mistake() -> None:
    for exercise in EXERCISES:
        given = {hint for hint, _ in WRONG[exercise.id]}
        assert set(exercise.hints) - given <= {"other", "deadlock"}, exercise.id


def test_what_the_learners_code_raises_is_told_with_their_line(tmp_path: Path) -> None:
    cell = tmp_path / "cell.py"
    cell.write_text("def random_cycle(n):\n    return 1 / 0\n")
    names: dict[str, Any] = {}
    exec(compile(cell.read_text(), str(cell), "exec"), names)
    outcome = check("03-cycle", names["random_cycle"])
    assert not outcome.passed
    assert outcome.message == "Your line 2, `return 1 / 0`, raised `ZeroDivisionError: division by zero`."


def _exits(n: int) -> None:
    raise SystemExit(3)


def _unfinished(n: int) -> None:
    raise NotImplementedError


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (None, "Hand over the function itself"),
        ([1, 0], "Hand over the function itself"),
        (lambda: [], "Does it take the arguments that the task names?"),
        (_exits, "SystemExit: 3"),
        (_unfinished, "returns nothing so far"),
    ],
)
def test_whatever_is_handed_over_gets_an_answer(function: Any, words: str) -> None:
    outcome = check("03-cycle", function)
    assert not outcome.passed and words in outcome.message


def test_an_endless_loop_is_stopped() -> None:
    def random_cycle(n: int) -> None:
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.01)

    start = time.monotonic()
    outcome = check("03-cycle", random_cycle, seconds=0.3)
    assert time.monotonic() - start < 3
    assert outcome.mistake == "too-long" and "still running after 0.3 s" in outcome.message


def test_off_the_main_thread_a_check_still_answers() -> None:
    outcomes: list[exercises.Outcome] = []
    solution = defined(content.exercise("03-cycle"), content.exercise("03-cycle").solution)
    thread = threading.Thread(target=lambda: outcomes.append(check("03-cycle", solution)))
    thread.start()
    thread.join(10)
    assert outcomes[0].passed


def test_a_deadlocked_ping_pong_is_ended_and_leaves_nothing_behind() -> None:
    exercise = content.exercise("03-ping-pong")
    both_read_first = exercise.solution.replace(
        'os.write(there[1], b"x")\n        got += len(os.read(back[0], 1))',
        'got += len(os.read(back[0], 1))\n        os.write(there[1], b"x")',
    )
    assert both_read_first != exercise.solution
    threads, pipes, functions = threading.active_count(), _open(), (os.pipe, os.read, os.write, threading.excepthook)
    outcome = check(exercise.id, defined(exercise, both_read_first), seconds=0.3)
    assert outcome.mistake == "too-long" and exercise.hints["deadlock"] in outcome.message
    assert threading.active_count() == threads
    assert _open() == pipes
    assert functions == (os.pipe, os.read, os.write, threading.excepthook)


def test_pipes_of_other_threads_are_none_of_the_checks_business() -> None:
    done, others = threading.Event(), []

    def busy() -> None:
        while not done.is_set():
            others.append(os.pipe())
            os.write(others[-1][1], b"1234")
            time.sleep(0.005)

    thread = threading.Thread(target=busy)
    thread.start()
    exercise = content.exercise("03-ping-pong")
    outcome = check(exercise.id, defined(exercise, exercise.solution))
    done.set()
    thread.join()
    assert outcome.passed, outcome
    assert all(os.read(read_end, 9) == b"1234" for read_end, _ in others)
    for ends in others:
        for end in ends:
            os.close(end)


def _open() -> set[int]:
    found = set()
    for end in range(256):
        try:
            os.fstat(end)
        except OSError:
            continue
        found.add(end)
    return found


def test_a_pass_that_cannot_be_stored_is_still_a_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HELPERS_LEDGER", str(tmp_path / "file" / "ledger.sqlite"))
    exercise = content.exercise("03-cycle")
    outcome = check(exercise.id, defined(exercise, exercise.solution))
    assert outcome.passed and outcome.trouble and outcome.trouble[:20] in outcome._repr_html_()
