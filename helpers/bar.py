"""The progress bar of a notebook's cell: how far it has come, how long it still takes, and a Stop button.

The cell's thread does nothing but wait, so it draws the bar, a tick every tenth of a second. The button is answered
by a thread of its own (JupyterLab 4.4 and ipykernel 7 send what widgets say to a subshell). Elsewhere the kernel's
own ■ does the same.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from helpers.sandbox import Stopped


class Bar:
    """A listener to an experiment's reports. Shown once a run has taken `patience` seconds, gone at its end."""

    def __init__(self, name: str, patience: float) -> None:
        self._title = name.rpartition(".")[2]
        self._patience = patience
        self._began = time.monotonic()
        self._done, self._total = 0, 1
        self._stop = threading.Event()
        self._box: widgets.HBox | None = None
        self._output: Any = None

    def __call__(self, done: int, total: int) -> None:
        """A report: `done` of `total` steps."""
        self._done, self._total = done, max(total, 1)

    def tick(self) -> None:
        """Show what there is to show by now. Raises `Stopped` when the button was pressed."""
        if self._stop.is_set():
            raise Stopped("stopped before the end; nothing was recorded")
        seconds = time.monotonic() - self._began
        if seconds < self._patience:
            return
        if self._box is None:
            self._box = self._made()
            self._output = display(self._box, display_id=True)
        level, _, words = self._box.children
        level.max, level.value = self._total, self._done
        words.value = self._state(seconds)

    def close(self) -> None:
        """Leave nothing behind, in the notebook's file neither."""
        if self._box is not None:
            self._output.update({}, raw=True)
            for widget in (*self._box.children, self._box):
                widget.close()

    def _made(self) -> widgets.HBox:
        level = widgets.IntProgress(description=self._title, style={"description_width": "initial"})
        button = widgets.Button(description="Stop", icon="stop", tooltip="End this run; nothing of it is kept")
        button.layout.width = "6em"

        def pressed(_button: widgets.Button) -> None:
            button.disabled = True
            self._stop.set()

        button.on_click(pressed)
        return widgets.HBox([level, button, widgets.Label()], layout=widgets.Layout(flex_flow="row wrap"))

    def _state(self, seconds: float) -> str:
        if not 0 < self._done < self._total:
            return f"{seconds:.0f} s"
        left = seconds * (self._total - self._done) / self._done
        return f"{self._done} of {self._total} in {seconds:.0f} s, about {left:.0f} s left"
