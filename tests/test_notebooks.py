"""Every notebook runs from top to bottom on this machine, as `make notebooks` runs it, and what is kept reads well."""

import time
from datetime import datetime
from pathlib import Path

import nbformat
import pytest

from helpers import publish
from tests.lab import CHROMIUM

# What the browser tests run from top to bottom takes too long to do twice; without a browser it is done here.
IN_BROWSER = {"03_context_switching"} if CHROMIUM else set()
NOTEBOOKS = [path for path in sorted(publish.FOLDER.glob("*.ipynb")) if path.stem not in IN_BROWSER]


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def executed(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    start = time.monotonic()
    notebook = publish.execute(request.param)
    seconds = time.monotonic() - start
    print(f"\n{request.param.name}: {seconds:.0f} s, first picture after {first_picture_s(notebook):.0f} s")
    return notebook


def first_picture_s(notebook: nbformat.NotebookNode) -> float:
    """Seconds from the start of the first cell to the end of the first one that shows a picture."""
    times = [cell.metadata.execution for cell in notebook.cells if "execution" in cell.metadata]
    shown = next(cell.metadata.execution for cell in notebook.cells if "<img" in html(cell))
    begin, end = times[0]["iopub.execute_input"], shown["iopub.status.idle"]
    return (moment(end) - moment(begin)).total_seconds()


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


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
