"""Does every notebook end in time, at its usual size?"""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

import nbformat
import pytest

from helpers import publish

pytestmark = [pytest.mark.bench, pytest.mark.timeout(300)]

LONGEST_S = {"05": 120, "07": 120, "08": 120}  # those that start a database, or a server, for each experiment
USUALLY_S = 90  # the others
NOTEBOOKS = sorted(publish.FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_run_all_ends_in_time(path: Path) -> None:
    start = time.monotonic()
    notebook = publish.execute(path)
    took, first = time.monotonic() - start, first_picture_s(notebook)
    print(f"\n{path.name}: {took:.0f} s, first picture after {first:.0f} s")
    assert took < LONGEST_S.get(path.name[:2], USUALLY_S)


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
