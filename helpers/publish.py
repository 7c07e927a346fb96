"""Execute the notebooks in place, so that whoever only reads them on the web sees the pictures.

`make notebooks`, or `python -m helpers.publish 03` for one. Each runs top to bottom in a fresh kernel with an empty
ledger, and is saved without what changes from run to run or tells about the machine: paths, widget ids, times.
"""

from __future__ import annotations

import base64
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode

from helpers.registry import REHEARSAL

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
README_PICTURE = FOLDER / "images" / "handoff.png"
WIDGET = "application/vnd.jupyter.widget-view+json"
CELL_TIMEOUT_S = 120


def execute(path: Path, *, rehearsal: bool = False) -> NotebookNode:
    """The notebook after one clean run; in a rehearsal its experiments are as small as they can be.

    Raises `CellExecutionError` for a cell that fails.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=CELL_TIMEOUT_S, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute(env={**os.environ, "HELPERS_LEDGER": ":memory:", REHEARSAL: "1" if rehearsal else ""})
    return notebook


def clean(notebook: NotebookNode) -> NotebookNode:
    """Without what is volatile or private; widgets leave the static page that they bring along."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        kept = {key: cell.metadata[key] for key in ("tags", "jupyter", "slideshow") if key in cell.metadata}
        cell.metadata = nbformat.from_dict(kept)
        if cell.cell_type == "code":
            cell.outputs = [output for output in map(_static, cell.outputs) if output is not None]
    return notebook


def _static(output: NotebookNode) -> NotebookNode | None:
    """The output without its live widget; None where nothing is left that a reader could see."""
    data = output.get("data")
    if data is None or (data and WIDGET not in data):
        return output
    data.pop(WIDGET, None)
    return output if "text/html" in data else None


def _picture_for_readme(notebook: NotebookNode) -> None:
    """The picture of the cell tagged `readme`, as a file that the README shows."""
    for cell in notebook.cells:
        if "readme" in cell.metadata.get("tags", []):
            page = "".join(output.data["text/html"] for output in cell.outputs)
            png = page.partition("data:image/png;base64,")[2].partition('"')[0]
            README_PICTURE.parent.mkdir(exist_ok=True)
            README_PICTURE.write_bytes(base64.b64decode(png))


def main(names: list[str]) -> int:
    """Execute the notebooks whose names begin with one of `names`, or all of them."""
    paths = [path for path in sorted(FOLDER.glob("*.ipynb")) if not names or path.name.startswith(tuple(names))]
    if not paths:
        print(f"no notebook begins with {' or '.join(names)}", file=sys.stderr)
        return 2
    for path in paths:
        start = time.monotonic()
        print(f"{path.name} …", end=" ", flush=True)
        try:
            notebook = clean(execute(path))
        except CellExecutionError as error:
            print(f"failed\n{error}", file=sys.stderr)
            return 1
        nbformat.write(notebook, path)
        _picture_for_readme(notebook)
        print(f"{time.monotonic() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
