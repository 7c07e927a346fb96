"""A notebook as a learner has it: JupyterLab in a real browser, its buttons pressed and its pictures looked at.

HELPERS_SCREENSHOTS=folder keeps the pictures. The tests share one page of notebook 03, after one Run All.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, expect

from helpers.ledger import Ledger
from tests.lab import (
    INTERACTIONS,
    WIDE,
    Lab,
    Notebook,
    assert_readable,
    assert_runs_through,
    assert_settled,
    await_,
    photograph,
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

READ_S = 5_000  # ms: until something has happened that a learner waits for
MEASURE_S = 60_000  # ms: until a run with small values is over


@pytest.fixture(scope="module")
def notebook(lab: Lab, chromium: Browser) -> Iterator[Notebook]:
    """Notebook 03, opened and run."""
    opened = Notebook(lab, chromium.new_page(viewport=WIDE), INTERACTIONS)
    opened.run_all(300)
    yield opened
    opened.page.close()


def test_run_all(notebook: Notebook) -> None:
    assert_runs_through(notebook)
    assert notebook.page.locator(".jp-OutputArea-output figure img").count() >= 8


def test_its_claims_are_settled(notebook: Notebook) -> None:
    assert_settled(notebook.lab, INTERACTIONS)


def status(knob: Locator) -> Locator:
    return knob.get_by_role("status").first


def picture(knob: Locator) -> str | None:
    return knob.locator("figure img").get_attribute("alt")


def assert_at_rest(knob: Locator) -> None:
    expect(knob.get_by_role("button", name="Run")).to_be_enabled()
    expect(knob.get_by_role("button", name="Stop")).to_be_disabled()


def test_turning_the_knob_recalls_an_earlier_record(notebook: Notebook) -> None:
    knob = notebook.cell("knob(handoff")
    before = picture(knob)
    knob.get_by_role("button", name="generators").click()
    await_(lambda: picture(knob) != before, 5, "another picture")
    expect(status(knob)).to_contain_text("Measured here on")


def test_run_measures_and_draws(notebook: Notebook) -> None:
    knob = notebook.cell("knob(handoff")
    knob.get_by_role("button", name="threads").click()
    expect(status(knob)).to_contain_text("Measured here on")
    before = knob.locator("figure img").get_attribute("src")
    knob.get_by_role("button", name="Run").click()
    expect(knob.get_by_role("button", name="Stop")).to_be_enabled()
    expect(knob.locator(".widget-hprogress")).to_be_visible()
    expect(status(knob)).to_contain_text("Measured in", timeout=MEASURE_S)
    assert_at_rest(knob)
    assert knob.locator("figure img").get_attribute("src") != before


def test_stop_ends_a_long_run_and_the_next_run_works(notebook: Notebook) -> None:
    knob = notebook.cell("knob(working_set_cost")
    knob.get_by_role("slider").press("End")
    expect(status(knob)).to_contain_text("Press Run to measure this")
    knob.get_by_role("button", name="Run").click()
    await_(notebook.lab.experiments, 10, "a process that measures")
    knob.get_by_role("button", name="Stop").click()
    expect(status(knob)).to_contain_text("Stopped", timeout=READ_S)
    assert_at_rest(knob)
    assert not notebook.lab.experiments()
    knob.get_by_role("slider").press("Home")
    knob.get_by_role("button", name="Run").click()
    expect(status(knob)).to_contain_text("Measured in", timeout=MEASURE_S)


def test_a_question_is_answered_by_keyboard(notebook: Notebook) -> None:
    quiz = notebook.cell('quiz("03")')
    quiz.get_by_role("radio").first.focus()
    notebook.page.keyboard.press("Space")
    expect(quiz.get_by_role("status").filter(has_text=re.compile("✓ Right|✗ Not quite"))).to_be_visible()
    expect(quiz.get_by_role("status").last).to_contain_text("6 still to answer")


@pytest.fixture
def usual_size(notebook: Notebook) -> Iterator[None]:
    """Experiments that take as long as a learner's."""
    notebook.rehearse(False)
    yield
    notebook.rehearse(True)


@pytest.mark.usefixtures("usual_size")
def test_a_cell_is_stopped_by_the_button_beside_its_bar(notebook: Notebook) -> None:
    notebook.start("memory_ladder()")
    cell = notebook.cell("memory_ladder()")
    expect(cell.locator("progress")).to_be_visible(timeout=READ_S)
    photograph(notebook, "03-bar")
    cell.get_by_role("button", name="■ Stop").press("Enter")
    assert_stopped(notebook, "memory_ladder()")


def test_a_cell_is_stopped_by_the_kernels_button_and_runs_again(notebook: Notebook) -> None:
    text = 'handoff("processes")\n'
    notebook.rehearse(False)
    notebook.start(text)
    await_(notebook.lab.experiments, 10, "a process that measures")
    notebook.interrupt()
    assert_stopped(notebook, text)
    notebook.rehearse(True)
    notebook.run(text)
    assert [output["output_type"] for output in notebook.outputs(text)] == ["execute_result"]
    expect(notebook.cell(text).locator("figure img")).to_be_visible()


def assert_stopped(notebook: Notebook, text: str) -> None:
    """Within seconds, in one line, with nothing left."""
    notebook.wait_done(5)
    assert not notebook.lab.experiments()
    (output,) = notebook.outputs(text)
    assert output["traceback"] == ["Stopped before the end; nothing was recorded. Run the cell again to measure anew."]
    expect(notebook.cell(text).locator("progress")).to_have_count(0)


def test_it_is_readable(notebook: Notebook) -> None:
    assert_readable(notebook)


def test_a_guess_is_kept_over_a_new_kernel_and_a_new_page(notebook: Notebook) -> None:
    prediction = notebook.cell('predict("03-switch")')
    prediction.get_by_role("spinbutton").fill("7.5")
    notebook.page.keyboard.press("Tab")
    prediction.get_by_role("button", name="Save my guess").focus()
    notebook.page.keyboard.press("Enter")
    expect(prediction.get_by_role("status")).to_contain_text("Saved: 7.5 µs")
    notebook.restart()
    notebook.open()
    notebook.run("import handoff", 'predict("03-switch")', 'handoff("processes")\n')
    expect(notebook.cell('predict("03-switch")').get_by_role("status")).to_contain_text("Your guess: 7.5 µs")
    assert Ledger(notebook.lab.ledger).prediction("03-switch") == 7.5
