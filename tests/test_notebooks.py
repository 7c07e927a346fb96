"""Notebooks run from top to bottom as `make notebooks` runs them, with small experiments; what is kept reads well.

How long they take at their usual size is a question for `make bench`.
"""

from pathlib import Path

import nbformat
import pytest

from helpers import publish
from tests.lab import CHROMIUM

# The browser tests run all of them; one shows that it works without a browser, and all do where there is none.
NOTEBOOKS = sorted(publish.FOLDER.glob("00_*.ipynb" if CHROMIUM else "*.ipynb"))


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return publish.execute(request.param, rehearsal=True)


def html(cell: nbformat.NotebookNode) -> str:
    return "".join(output.get("data", {}).get("text/html", "") for output in cell.get("outputs", []))


@pytest.mark.timeout(300)
def test_it_runs_without_an_error(executed: nbformat.NotebookNode) -> None:
    for cell in executed.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error", cell.source
            assert output.get("name") != "stderr", output.text


def test_every_stub_fails_kindly_and_stops_nothing(executed: nbformat.NotebookNode) -> None:
    checks = [html(cell) for cell in executed.cells if "check(" in cell.source and cell.cell_type == "code"]
    verdicts = [page for page in checks if page]
    assert verdicts and all("Not yet" in page for page in verdicts)


def test_its_pictures_have_words(executed: nbformat.NotebookNode) -> None:
    pages = [html(cell) for cell in executed.cells]
    pictures = [page for page in pages if "<img" in page]
    assert pictures and all(' alt="' in page and "<figcaption" in page for page in pictures)


def test_what_is_kept_is_the_same_for_everybody(executed: nbformat.NotebookNode) -> None:
    kept = nbformat.writes(publish.clean(executed))
    for private in (publish.WIDGET, "execution", "iopub", str(Path.home()) + "/", str(publish.FOLDER)):
        assert private not in kept.replace("execution_count", "")


def test_cleaning_twice_changes_nothing(executed: nbformat.NotebookNode) -> None:
    once = nbformat.writes(publish.clean(executed))
    assert nbformat.writes(publish.clean(nbformat.reads(once, as_version=4))) == once
