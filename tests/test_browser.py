"""The notebooks as a learner has them: JupyterLab in a real browser, its buttons pressed and its pictures looked at.

HELPERS_SCREENSHOTS=folder keeps the pictures. Most tests share one page of notebook 03, after one Run All.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect, sync_playwright

from helpers import claims, publish
from helpers.ledger import Ledger
from tests.lab import CHROMIUM, DARK, LIGHT, Lab, Notebook, await_, browser

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

READ_S = 5_000  # ms: until something has happened that a learner waits for
MEASURE_S = 60_000  # ms: until a run with small values is over
WIDE, NARROW = {"width": 1280, "height": 1000}, {"width": 800, "height": 1000}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    if CHROMIUM is None:
        pytest.skip("install: apt install chromium")
    running = Lab(tmp_path_factory.mktemp("lab"))
    yield running
    running.end()


@pytest.fixture(scope="module")
def chromium(lab: Lab) -> Iterator[Browser]:
    with sync_playwright() as playwright, browser(playwright) as started:
        yield started


@pytest.fixture(scope="module")
def notebook(lab: Lab, chromium: Browser) -> Iterator[Notebook]:
    """Notebook 03, opened and run."""
    opened = Notebook(lab, chromium.new_page(viewport=WIDE), "03_context_switching.ipynb")
    opened.run_all(300)
    yield opened
    opened.page.close()


def photograph(notebook: Notebook, name: str) -> None:
    """Pictures of the notebook from top to bottom, for whoever wants to look at them."""
    if folder := os.environ.get("HELPERS_SCREENSHOTS"):
        assert notebook.photograph(Path(folder), name)


def assert_runs_through(notebook: Notebook) -> None:
    for cell in notebook.cells():
        kinds = {(output["output_type"], output.get("name")) for output in cell.get("outputs", [])}
        assert not kinds & {("error", None), ("stream", "stderr")}, f"{''.join(cell['source'])}\n{cell['outputs']}"
    stubs = [cell for cell in notebook.cells() if cell["cell_type"] == "code" and "\ncheck(" in "".join(cell["source"])]
    assert stubs and all("Not yet" in str(cell["outputs"]) for cell in stubs)
    pictures = notebook.page.locator(".jp-OutputArea-output figure img")
    drawn = pictures.evaluate_all("all => all.map(img => [img.alt.length > 40, img.naturalWidth > 400])")
    assert drawn and all(map(all, drawn)), drawn
    expect(notebook.page.get_by_text("Error displaying widget")).to_have_count(0)
    expect(notebook.page.locator(".jp-OutputArea-output progress")).to_have_count(0)


OTHERS = [path.name for path in sorted(publish.FOLDER.glob("*.ipynb")) if not path.name.startswith("03")]


@pytest.mark.parametrize("name", OTHERS)
def test_every_other_notebook_runs_and_is_readable(lab: Lab, chromium: Browser, name: str) -> None:
    opened = Notebook(lab, chromium.new_page(viewport=WIDE), name)
    opened.run_all(200)
    assert_runs_through(opened)
    for theme in (DARK, LIGHT):
        opened.theme(theme)
        photograph(opened, f"{name[:2]}-{theme.split()[-1].lower()}")
        assert faint_texts(opened) == []
    opened.page.set_viewport_size(NARROW)
    assert cut_off(opened) == []
    opened.page.close()


def test_run_all(notebook: Notebook) -> None:
    assert_runs_through(notebook)
    assert notebook.page.locator(".jp-OutputArea-output figure img").count() >= 8


def test_the_notebooks_that_ran_have_settled_their_claims(lab: Lab, notebook: Notebook) -> None:
    ran = {name[:2] for name in OTHERS} | {"03"}
    rows = claims.settle(Ledger(lab.ledger))
    assert [row.claim.id for row in rows if row.claim.notebook in ran and row.verdict is None] == []


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


FAINT_TEXTS = """outputs => {
    const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
    const rgba = colour => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
        return [r, g, b, a / 255];
    };
    const over = ([r, g, b, a], under) => [r, g, b].map((part, i) => part * a + under[i] * (1 - a)).concat(1);
    const light = colour => colour.slice(0, 3).map(part => part / 255)
        .map(part => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
    const background = node => {
        const own = rgba(getComputedStyle(node).backgroundColor);
        return own[3] === 1 || !node.parentElement ? own : over(own, background(node.parentElement));
    };
    const opacity = node => node ? getComputedStyle(node).opacity * opacity(node.parentElement) : 1;
    const found = [];
    for (const output of outputs) {
        const texts = document.createTreeWalker(output, NodeFilter.SHOW_TEXT);
        while (texts.nextNode()) {
            const node = texts.currentNode.parentElement;
            const words = texts.currentNode.textContent.trim();
            if (!words || node.tagName === 'STYLE' || !node.checkVisibility() || node.closest(':disabled')) continue;
            const behind = background(node);
            const [r, g, b, a] = rgba(getComputedStyle(node).color);
            const [one, two] = [light(over([r, g, b, a * opacity(node)], behind)), light(behind)];
            const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
            if (contrast < 4.5) found.push(`${contrast.toFixed(1)}: ${words.slice(0, 60)}`);
        }
    }
    return found;
}"""


def faint_texts(notebook: Notebook) -> list[str]:
    """Texts with less contrast than WCAG asks for (4.5)."""
    found: list[str] = notebook.page.locator(".jp-OutputArea-output").evaluate_all(FAINT_TEXTS)
    return found


def cut_off(notebook: Notebook) -> list[str]:
    """Outputs that are wider than their place."""
    wider = """all => all.filter(box => box.scrollWidth > box.clientWidth + 1)
        .map(box => `${box.scrollWidth} in ${box.clientWidth}: ${box.innerText.slice(0, 80)}`)"""
    found: list[str] = notebook.page.locator(".jp-OutputArea-output:not(:has(> pre))").evaluate_all(wider)
    return found


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_texts_are_readable_in_both_themes(notebook: Notebook, theme: str) -> None:
    notebook.theme(theme)
    shade = theme.split()[-1].lower()
    photograph(notebook, f"03-{shade}")
    assert faint_texts(notebook) == []


def test_nothing_is_cut_off_on_a_small_screen(notebook: Notebook) -> None:
    notebook.page.set_viewport_size(NARROW)
    photograph(notebook, "03-narrow")
    assert cut_off(notebook) == []
    notebook.page.set_viewport_size(WIDE)


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
