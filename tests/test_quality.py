"""The code is clean, the types hold, and the notebooks read well where nobody runs them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MEGABYTE = 1_000_000


def tool(*arguments: str) -> None:
    run = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_lint() -> None:
    tool("ruff", "check", ".")


def test_format() -> None:
    tool("ruff", "format", "--check", ".")


def test_types() -> None:
    tool("mypy")


def test_there_are_notebooks() -> None:
    """An empty list would let every test below pass unasked."""
    assert NOTEBOOKS


def test_together_they_are_small() -> None:
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 12 * MEGABYTE


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def notebook(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def outputs(notebook: nbformat.NotebookNode) -> list[tuple[nbformat.NotebookNode, nbformat.NotebookNode]]:
    return [(cell, output) for cell in code_cells(notebook) for output in cell.outputs]


def test_it_is_a_valid_notebook(notebook: nbformat.NotebookNode) -> None:
    nbformat.validate(notebook)


def test_it_was_run_once_from_top_to_bottom(notebook: nbformat.NotebookNode) -> None:
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))


def test_nothing_went_wrong(notebook: nbformat.NotebookNode) -> None:
    for cell, output in outputs(notebook):
        if output.output_type == "error":
            assert "raises-exception" in tags(cell), cell.source
        assert output.get("name") != "stderr", cell.source


def test_it_names_no_path_of_the_machine_it_ran_on(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # The root user's home is short enough to turn up in innocent text: it must look like a path.
    for local in (str(ROOT), f"{Path.home()}/"):
        assert json.dumps(local)[1:-1] not in text
    assert not re.search(r"/(home|Users)/\w+/|/tmp/ipykernel|[A-Z]:\\\\Users\\\\", text)


def test_cells_are_short(notebook: nbformat.NotebookNode) -> None:
    for cell in code_cells(notebook):
        if "solution" not in tags(cell):
            assert len(cell.source.splitlines()) <= 15, cell.source


def test_every_picture_can_be_heard(notebook: nbformat.NotebookNode) -> None:
    """An <img> has alt text; a bare image output has nowhere to put one."""
    html = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    for cell, output in outputs(notebook):
        data = output.get("data", {})
        html.append(data.get("text/html", ""))
        assert "text/html" in data or not any(kind.startswith("image/") for kind in data), cell.source
    for image in re.findall(r"<img\b[^>]*>", "\n".join(html)):
        alt = re.search(r"""\balt\s*=\s*(["'])(.*?)\1""", image, re.DOTALL)
        assert alt and alt[2].strip(), image[:200]
    for alt in re.findall(r"!\[([^\]]*)\]\(", "\n".join(html)):
        assert alt.strip(), "a Markdown image without alt text"
