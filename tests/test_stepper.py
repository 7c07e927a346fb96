"""The stepper: that its notes are what the loop really did, and that its buttons lead to the right step."""

from __future__ import annotations

import json
import re
import time
from itertools import pairwise

import pytest

from helpers.experiments.event_loops import Steps
from helpers.measure import estimate
from helpers.servers import loop_programs
from helpers.servers.tiny_loop import Loop
from helpers.study import stepper
from helpers.study.shown import as_text
from helpers.study.stepper import page
from helpers.testbed import stepping
from helpers.testbed.stepping import BOXES, NOTHING, Step, Timer, changes, stepped

PROGRAMS = ("blocking", "callbacks", "conversation", "coroutines", "sockets", "timers")
TAKEN = re.compile(r"The loop takes `(.+)` from the queue")


def record(program: str) -> Steps:
    run = stepped(getattr(loop_programs, program))
    text = stepping.source(getattr(loop_programs, program))[0]
    asleep = estimate([100 * run.asleep_s / run.took_s], "%")
    return Steps(program=program, source=text, steps=tuple(run.steps), asleep=asleep)


@pytest.fixture(scope="module")
def records() -> dict[str, Steps]:
    return {program: record(program) for program in PROGRAMS}


# The notes

OUTPUT = {
    "blocking": ("computed", "tick", "tick"),
    "callbacks": ("first", "second", "third"),
    "conversation": ("b'what time is it?'", "b'noon'"),
    "coroutines": ("soup is on the stove", "tea is on the stove", "soup is ready", "tea is ready"),
    "sockets": ("read: b'hello'", "read: b''"),
    "timers": ("eggs are ready", "tea is ready"),
}


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_does_under_the_stepper_what_it_does_on_the_plain_loop(
    program: str, records: dict[str, Steps], capsys: pytest.CaptureFixture[str]
) -> None:
    loop = Loop()
    getattr(loop_programs, program)(loop)
    loop.run()
    loop.selector.close()
    assert tuple(capsys.readouterr().out.splitlines()) == records[program].steps[-1].output == OUTPUT[program]


@pytest.mark.parametrize("program", PROGRAMS)
def test_whatever_is_called_stood_at_the_head_of_the_queue(program: str, records: dict[str, Steps]) -> None:
    steps = records[program].steps
    taken = [(before, found[1], after) for before, after in pairwise(steps) if (found := TAKEN.match(after.words))]
    assert taken
    for before, name, after in taken:
        assert before.ready[0] == name
        assert after.ready == before.ready[1:]
        assert len(after.stack) > len(before.stack)


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_clock_and_the_output_only_grow(program: str, records: dict[str, Steps]) -> None:
    for before, after in pairwise(records[program].steps):
        assert after.at_ms >= before.at_ms
        assert after.output[: len(before.output)] == before.output
        assert len(after.output) <= len(before.output) + 1


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_begins_and_ends_with_nothing_to_do(program: str, records: dict[str, Steps]) -> None:
    last = records[program].steps[-1]
    assert not last.stack and not last.ready and not last.timers and not last.waiting


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_line_that_is_marked_belongs_to_what_runs(program: str, records: dict[str, Steps]) -> None:
    lines = records[program].source.splitlines()
    for step in records[program].steps:
        assert step.line is None or lines[step.line - 1].strip()
        if step.words == "A line is printed.":
            assert step.line and "print(" in lines[step.line - 1]


def test_timers_join_the_queue_when_they_are_due_and_not_before(records: dict[str, Steps]) -> None:
    for program in ("blocking", "timers"):
        for before, after in pairwise(records[program].steps):
            kept = {timer.due_ms for timer in after.timers}
            gone = [timer for timer in before.timers if timer.due_ms not in kept]
            assert all(timer.due_ms <= after.at_ms or timer.cancelled for timer in gone)
    late = next(step for step in records["blocking"].steps if " ago" in step.words)
    assert late.at_ms >= 30 and late.ready == ("tick", "tick")


def test_a_cancelled_timer_stays_in_its_place_and_is_never_called() -> None:
    for _ in range(5):  # on a machine that stalls for 10 ms, two timers are due at once, and it is in the queue by then
        steps = record("timers").steps
        assert "pizza" not in {found[1] for step in steps if (found := TAKEN.match(step.words))}
        if any(timer.name == "pizza" and timer.cancelled for step in steps for timer in step.timers):
            return
    pytest.fail("it never stood cancelled among the timers")


def test_coroutines_that_await_one_another_are_on_one_stack(records: dict[str, Steps]) -> None:
    assert any(step.stack[-3:] == ("Task.step", "dinner", "cook") for step in records["coroutines"].steps)
    assert any(step.ready == ("cook('tea', 20)",) for step in records["coroutines"].steps)


def test_the_end_of_a_task_puts_whoever_awaits_it_into_the_queue(records: dict[str, Steps]) -> None:
    ended = next(step for step in records["coroutines"].steps if "`cook('tea', 20)` has ended" in step.words)
    assert "`dinner()` awaited that" in ended.words and ended.ready == ("dinner()",)


def test_sockets_have_the_names_that_the_program_gave_them(records: dict[str, Steps]) -> None:
    waiting = {each for step in records["conversation"].steps for each in step.boxes()["Waiting sockets"]}
    assert waiting == {"ours readable: ask()", "theirs readable: answer()"}


def test_a_program_without_end_is_refused() -> None:
    def endless(loop: Loop) -> None:
        loop.call_soon(endless, loop)

    with pytest.raises(RuntimeError, match="more than 200 steps"):
        stepped(endless)


def test_the_record_survives_json(records: dict[str, Steps]) -> None:
    for each in records.values():
        assert Steps.from_json(json.loads(json.dumps(each.to_json()))) == each


def state(**boxes: tuple[str, ...]) -> Step:
    return Step(**{**vars(NOTHING), **boxes})


def test_what_has_changed_in_a_box_counts_equal_names_apart() -> None:
    one, two = state(ready=("tick",)), state(ready=("tick", "tick", "tea"))
    assert changes(one, two, "Ready queue") == ({1, 2}, 0)
    assert changes(two, one, "Ready queue") == (set(), 2)
    assert changes(two, two, "Ready queue") == (set(), 0)
    assert tuple(NOTHING.boxes()) == BOXES


def test_a_cancelled_timer_is_told_in_words() -> None:
    timer = Timer(name="pizza", due_ms=20.04, cancelled=True)
    assert Step(**{**vars(NOTHING), "timers": (timer,)}).boxes()["Timers"] == ("pizza (cancelled) at 20.0 ms",)


# The widget


def test_the_buttons_and_the_slider_lead_to_the_same_steps(records: dict[str, Steps]) -> None:
    shown = stepper(list(records.values()))
    count = len(shown.record.steps)
    first = shown.page.value
    assert shown.first.disabled and shown.back.disabled
    pages = [first]
    while not shown.forward.disabled:
        shown.forward.click()
        pages.append(shown.page.value)
    assert len(pages) == count == shown.slider.value and shown.last.disabled
    while not shown.back.disabled:
        assert shown.page.value == pages[shown.slider.value - 1]
        shown.back.click()
    assert shown.page.value == first
    shown.last.click()
    assert shown.page.value == pages[-1]
    shown.slider.value = 3
    assert shown.page.value == pages[2]
    shown.first.click()
    assert shown.page.value == first


def test_each_program_has_its_own_place(records: dict[str, Steps]) -> None:
    shown = stepper(list(records.values()))
    for program in PROGRAMS:
        shown.program.value = program
        assert shown.page.value == page(records[program], 1) and shown.slider in shown.controls.children
        shown.last.click()
        assert f"Step {len(records[program].steps)} of {len(records[program].steps)}" in shown.page.value
    shown.program.value = PROGRAMS[0]
    assert shown.page.value == page(records[PROGRAMS[0]], len(records[PROGRAMS[0]].steps)) and shown.last.disabled


def test_stepping_runs_nothing(records: dict[str, Steps], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it ran"))
    monkeypatch.setattr(stepping, "stepped", lambda _: pytest.fail("it ran"))
    shown = stepper([records["blocking"]])
    shown.last.click()
    assert "tick" in shown.page.value


def test_a_step_shows_everything_and_marks_what_is_new_in_words_too(records: dict[str, Steps]) -> None:
    words = [step.words for step in records["sockets"].steps]
    number = 1 + next(place for place, each in enumerate(words) if each.startswith("`ours` is readable"))
    text = as_text(page(records["sockets"], number))
    assert all(title in text for title in (*BOXES, "Program", "Output"))
    assert "+ read" in text and "+1" in text and "Loop.run_once" in text


def test_names_from_a_program_are_no_markup(records: dict[str, Steps]) -> None:
    odd = Step(**{**vars(NOTHING), "ready": ("<lambda>",), "output": ("<b>",), "words": "`<lambda>` joins"})
    shown = page(Steps(program="odd", source="a < b", steps=(odd,), asleep=estimate([0.0], "%")), 1)
    assert "<lambda>" not in shown and "&lt;lambda&gt;" in shown and "a &lt; b" in shown and "&lt;b&gt;" in shown


def test_a_saved_notebook_shows_the_step_to_start_with(records: dict[str, Steps]) -> None:
    bundle = stepper(list(records.values()), start=4)._repr_mimebundle_()
    assert "Step 4 of" in bundle["text/html"] and "Run this notebook" in bundle["text/html"]
    assert "<style" not in bundle["text/html"] and "Step 4 of" in bundle["text/plain"]


def test_it_needs_a_record() -> None:
    with pytest.raises(ValueError, match="at least one"):
        stepper([])
