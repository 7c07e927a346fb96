"""The progress bar of a notebook's cell: how far it has come, how long it still takes, and a Stop button.

Both are plain HTML outputs. The cell's thread is waiting for the experiment, so a widget's button would not be
answered before the end (subshells or not: ipykernel 7.4 sends it where the widget was made). This button tells
JupyterLab itself to interrupt the kernel, as its own ■ does.
"""

from __future__ import annotations

import html
from time import monotonic
from types import TracebackType
from typing import Any

from IPython.display import HTML, display

from helpers.sandbox import Stopped

BAR = """<div role="status"><progress value="{done}" max="{total}" style="width: 16em; margin-right: .8em;
accent-color: var(--jp-brand-color1, royalblue)" aria-label="{name}"></progress>{name}: {state}</div>"""
# Seen only where there is a JupyterLab to take the order.
BUTTON = """<style>.study-stop {display: none} [data-jp-theme-name] .study-stop {display: inline-block; cursor: pointer;
border: 1px solid var(--jp-border-color1); padding: .3em 1.2em; font: inherit; color: var(--jp-ui-font-color1);
background: var(--jp-layout-color2)}</style><button type="button" class="study-stop"
data-commandlinker-command="notebook:interrupt-kernel" title="End this run; nothing of it is kept">■ Stop</button>"""
PACE_S = 0.5


class Bar:
    """A listener to an experiment's reports. Shown once a run has taken `patience` seconds, gone at its end."""

    def __init__(self, name: str, patience: float) -> None:
        self._name = html.escape(name.rpartition(".")[2])
        self._began = monotonic()
        self._next = self._began + patience
        self._done, self._total = 0, 1
        self._shown: list[Any] = []

    def __call__(self, done: int, total: int) -> None:
        """A report: `done` of `total` steps."""
        self._done, self._total = done, max(total, 1)

    def tick(self) -> None:
        """Show what there is to show by now."""
        now = monotonic()
        if now < self._next:
            return
        self._next = now + PACE_S
        state = self._state(now - self._began)
        bar = HTML(BAR.format(name=self._name, done=self._done, total=self._total, state=state))
        if self._shown:
            self._shown[0].update(bar)
        else:
            self._shown = [display(bar, display_id=True), display(HTML(BUTTON), display_id=True)]

    def _state(self, seconds: float) -> str:
        if not 0 < self._done < self._total:
            return f"{seconds:.0f} s"
        left = seconds * (self._total - self._done) / self._done
        return f"{self._done} of {self._total} in {seconds:.0f} s, about {left:.0f} s left"

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Leave nothing on the page or in the file. An interrupt is no failure, and ends in one line."""
        for output in self._shown:
            output.update({}, raw=True)
        if kind is KeyboardInterrupt:
            raise Stopped("stopped before the end; nothing was recorded") from None
