"""JupyterLab as a learner has it: a server of its own, and a page in Chromium that the tests drive."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Locator, Page, Playwright, expect

from helpers import claims, publish
from helpers.ledger import Ledger
from helpers.registry import REHEARSAL

NOTEBOOKS = [path.name for path in sorted(publish.FOLDER.glob("*.ipynb"))]
INTERACTIONS = "03_context_switching.ipynb"  # the notebook whose buttons are pressed
ROOT = Path(__file__).resolve().parent.parent
CHROMIUM = shutil.which("chromium")
CALM = ["--disable-gpu", "--disable-quic", "--no-first-run", "--no-sandbox"]
CALM += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
START_S, SLOW_S = 60.0, 120.0  # how long the server may take to start, and anything in the page
DARK, LIGHT = "JupyterLab Dark", "JupyterLab Light"
WIDE, NARROW = {"width": 1280, "height": 1000}, {"width": 800, "height": 1000}
SETTINGS = {  # all cells are in the page, also those out of view; nobody asks for news; a notebook is saved by nobody
    "notebook-extension/tracker": {"windowingMode": "none"},
    "apputils-extension/notification": {"fetchNews": "false"},
    "docmanager-extension/plugin": {"autosave": False},
}


class Lab:
    """A running JupyterLab with folders and a ledger of its own, and copies of the notebooks, which it rehearses."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notebooks = folder / "notebooks"
        self.ledger = folder / "ledger.sqlite"
        self.token = secrets.token_hex(16)
        self._process = self._started()
        try:
            self.url = self._address()
        except BaseException:
            self.end()
            raise

    def _started(self) -> subprocess.Popen[bytes]:
        shutil.copytree(ROOT / "notebooks", self.notebooks, ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        places = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
        places += ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR")
        own = {name: str(self.folder / name.lower()) for name in places}
        for name, values in SETTINGS.items():
            path = Path(own["JUPYTERLAB_SETTINGS_DIR"], "@jupyterlab", f"{name}.jupyterlab-settings")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        page = Path(own["JUPYTER_CONFIG_DIR"], "labconfig", "page_config.json")
        page.parent.mkdir(parents=True)
        page.write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}')
        flags = ["--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0", "--LabApp.expose_app_in_browser=True"]
        flags += [f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={self.notebooks}"]
        with open(self.folder / "server.log", "wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "jupyterlab", *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, **own, "HELPERS_LEDGER": str(self.ledger), "PYTHONPATH": str(ROOT), REHEARSAL: "1"},
                start_new_session=True,
            )

    def _address(self) -> str:
        runtime = self.folder / "jupyter_runtime_dir"
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(StopIteration, json.JSONDecodeError):  # not there yet, or half written
                return json.loads(next(runtime.glob("jpserver-*.json")).read_text())["url"]
            time.sleep(0.1)
        raise RuntimeError(f"JupyterLab did not start:\n{(self.folder / 'server.log').read_text()}")

    def experiments(self) -> list[psutil.Process]:
        """The processes of experiments that were started from here, orphans included."""
        return [process for process in self._ours() if "helpers.worker" in " ".join(process.cmdline())]

    def _ours(self) -> Iterator[psutil.Process]:
        """Whoever has our ledger in the environment is ours, whatever has become of its parent."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get("HELPERS_LEDGER") == str(self.ledger):
                    yield process

    def end(self) -> None:
        """End the server and its kernels; then kill what is left, if anything."""
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        for process in self._ours():
            with contextlib.suppress(psutil.Error):
                process.kill()
        self._process.wait()


@contextlib.contextmanager
def browser(playwright: Playwright) -> Iterator[Browser]:
    """Debian's Chromium, without a window."""
    started = playwright.chromium.launch(executable_path=CHROMIUM, args=CALM)
    try:
        yield started
    finally:
        started.close()


class Notebook:
    """One notebook in one page. A cell is named by any text that is in it alone."""

    def __init__(self, lab: Lab, page: Page, name: str) -> None:
        self.lab = lab
        self.page = page
        self.name = name
        page.set_default_timeout(SLOW_S * 1000)
        self.open()

    def open(self) -> None:
        """Load the page, and wait for the kernel: a command that is sent earlier never returns."""
        self.page.goto(f"{self.lab.url}lab/tree/{self.name}?token={self.lab.token}&reset")
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        self.page.evaluate("""async () => {
            const panel = jupyterapp.shell.currentWidget;
            await panel.context.ready;
            await panel.sessionContext.ready;
            await panel.sessionContext.session.kernel.info;
            jupyterapp.shell.collapseLeft();
        }""")

    def turn_to(self, name: str) -> None:
        """Open another notebook in the same page, which need not load JupyterLab again; this one and its kernel end."""
        self.page.evaluate(
            """async name => {
                const before = jupyterapp.shell.currentWidget;
                await before.sessionContext.shutdown();
                before.context.model.dirty = false;
                before.dispose();
                const panel = await jupyterapp.commands.execute('docmanager:open', {path: name});
                await panel.context.ready;
                await panel.sessionContext.ready;
                await panel.sessionContext.session.kernel.info;
            }""",
            name,
        )
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for()
        self.name = name

    def theme(self, name: str) -> None:
        """Change the theme."""
        self.page.evaluate("theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", name)
        self.page.locator(f"body[data-jp-theme-name='{name}']").wait_for(state="attached")

    def restart(self) -> None:
        """Restart the kernel, without the question whether that is meant."""
        self.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.restartKernel()")

    def rehearse(self, on: bool) -> None:
        """From now on experiments are as small as they can be, or of their usual size."""
        self.page.evaluate(
            """code => jupyterapp.shell.currentWidget.sessionContext.session.kernel.requestExecute({code}).done""",
            f"import os; os.environ[{REHEARSAL!r}] = {'1' if on else ''!r}",
        )

    def interrupt(self) -> None:
        """Press the kernel's ■."""
        self.page.locator(".jp-NotebookPanel-toolbar [data-jp-item-name='interrupt']").click()

    def run_all(self, seconds: float = SLOW_S) -> None:
        """Run all cells and wait until the last one is done."""
        self._begin("notebook:run-all-cells")
        self.wait_done(seconds)

    def run(self, *texts: str) -> None:
        """Run these code cells, one after the other, each to its end."""
        for text in texts:
            self.start(text)
            self.wait_done()

    def start(self, text: str) -> None:
        """Begin to run a code cell."""
        self.page.evaluate(
            """index => {
                const notebook = jupyterapp.shell.currentWidget.content;
                notebook.deselectAll();
                notebook.activeCellIndex = index;
            }""",
            self._index(text),
        )
        self._begin("notebook:run-cell")

    def _begin(self, command: str) -> None:
        self.page.evaluate(
            """command => {
                const end = () => { window.cellsRun = true; };
                window.cellsRun = false;
                jupyterapp.commands.execute(command).then(end, end);
            }""",
            command,
        )

    def wait_done(self, seconds: float = SLOW_S) -> None:
        """Wait until the cells that were started are done."""
        self.page.wait_for_function("() => window.cellsRun", timeout=seconds * 1000)

    def cells(self) -> list[dict[str, Any]]:
        """The cells as they are now, as nbformat has them."""
        return self.page.evaluate("() => jupyterapp.shell.currentWidget.content.model.toJSON().cells")

    def _index(self, text: str) -> int:
        cells = self.cells()
        found = [i for i, cell in enumerate(cells) if cell["cell_type"] == "code" and text in "".join(cell["source"])]
        assert len(found) == 1, f"{len(found)} cells of {self.name} have {text!r} in them"
        return found[0]

    def cell(self, text: str) -> Locator:
        """A code cell, on the page."""
        return self.page.locator(".jp-Notebook .jp-Cell").nth(self._index(text))

    def outputs(self, text: str) -> list[dict[str, Any]]:
        """What a code cell has put out; what was emptied again doesn't count."""
        return [output for output in self.cells()[self._index(text)]["outputs"] if output.get("data") != {}]

    def photograph(self, folder: Path, prefix: str) -> list[Path]:
        """Pictures of the notebook from top to bottom, one per screenful."""
        folder.mkdir(parents=True, exist_ok=True)
        scroller = self.page.locator(".jp-WindowedPanel-outer").first
        height, total = scroller.evaluate("box => [box.clientHeight, box.scrollHeight]")
        taken = []
        for number, top in enumerate(range(0, total, height - 60)):
            scroller.evaluate("(box, top) => { box.scrollTop = top; }", top)
            taken.append(folder / f"{prefix}-{number:02}.png")
            scroller.screenshot(path=taken[-1])
        return taken


def await_(condition: Callable[[], Any], seconds: float, what: str) -> None:
    """Wait until `condition` holds. Raises `AssertionError` after that many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)


# What holds for every notebook


def photograph(notebook: Notebook, name: str) -> None:
    """Pictures of the notebook from top to bottom, for whoever wants to look at them."""
    if folder := os.environ.get("HELPERS_SCREENSHOTS"):
        assert notebook.photograph(Path(folder), name)


def assert_runs_and_is_readable(notebook: Notebook, name: str) -> None:
    """All of it, in a page that may still show another one."""
    if notebook.name != name:
        notebook.turn_to(name)
    notebook.run_all(200)
    assert_runs_through(notebook)
    assert_readable(notebook)
    assert_settled(notebook.lab, name)


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


def assert_readable(notebook: Notebook) -> None:
    """In both themes, and on a small screen."""
    for theme in (DARK, LIGHT):
        notebook.theme(theme)
        photograph(notebook, f"{notebook.name[:2]}-{theme.split()[-1].lower()}")
        assert faint_texts(notebook) == []
    notebook.page.set_viewport_size(NARROW)
    photograph(notebook, f"{notebook.name[:2]}-narrow")
    assert cut_off(notebook) == []
    notebook.page.set_viewport_size(WIDE)


def assert_settled(lab: Lab, notebook: str) -> None:
    """Every claim of a notebook has a verdict, now that it has been run; without those about a crowd of connections,
    which a rehearsal makes small."""
    rows = [row for row in claims.settle(Ledger(lab.ledger)) if row.claim.notebook == notebook[:2]]
    assert [row.claim.id for row in rows if row.verdict is None and "connections" not in row.claim.where] == []
