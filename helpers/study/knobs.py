"""Turn an experiment's parameters by hand: `knob(handoff, figures.handoff, vary=["between"])`."""

from __future__ import annotations

import asyncio
import html
import math
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import ipywidgets as widgets

from helpers import reference
from helpers.ledger import ledger
from helpers.record import Record
from helpers.registry import Parameter
from helpers.sandbox import Stopped
from helpers.study.shown import STYLE, Shown, note, number, rich, text_box

Parameters = dict[str, Any]
MANY_CHOICES = 5  # more than these don't fit on a row of buttons
UNITS = {"ns": "ns", "us": "µs", "ms": "ms", "kib": "KiB", "mib": "MiB"}
LABEL_WIDTH = "8em"
WIDE = 50  # a range whose ends differ by more than this factor gets steps that double


class Measuring(Protocol):
    """What a knob needs of an experiment."""

    name: str
    seconds: float
    parameters: dict[str, Parameter]
    run: Callable[..., Record]


def knob(
    experiment: Measuring,
    draw: Callable[[Any], Any],
    *,
    vary: Sequence[str] | None = None,
    start: Record | None = None,
    recall: Callable[[Parameters], Record | None] | None = None,
) -> Knob:
    """Controls for `experiment`, with Run, Stop, and the picture that `draw(record)` makes (with `_repr_html_`).

    `vary` names the parameters to turn (all of them by default); the others stay as in `start`, a record to
    begin with. `recall(parameters)` finds an earlier record: by default one of the ledger, else of the reference run.
    """
    return Knob(experiment, draw, vary, start, recall)


class Knob(Shown):
    """The state of the controls: idle, running or stopping. The experiment runs in a thread of its own."""

    def __init__(
        self,
        experiment: Measuring,
        draw: Callable[[Any], Any],
        vary: Sequence[str] | None = None,
        start: Record | None = None,
        recall: Callable[[Parameters], Record | None] | None = None,
    ) -> None:
        self.experiment = experiment
        self.draw = draw
        self.recall = recall or self._earlier
        self.cache: dict[tuple[Any, ...], Record] = {}
        self.values = {name: item.default for name, item in experiment.parameters.items()}
        if start is not None:
            self.values.update({name: value for name, value in start.parameters.items() if name in self.values})
            self.cache[_key(self.values)] = start
        self.controls = {name: self._control(name) for name in (list(self.values) if vary is None else vary)}
        self.run_button = widgets.Button(description="Run", icon="play", tooltip="Measure with these values")
        self.stop_button = widgets.Button(description="Stop", icon="stop", tooltip="Stop measuring", disabled=True)
        self.bar = widgets.IntProgress(
            min=0, max=1, description="Progress", layout=widgets.Layout(visibility="hidden"), tooltip="Progress"
        )
        self.status = text_box()
        self.picture = widgets.HTML()
        self.widget = self._layout()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._home = _running_loop()
        self.run_button.on_click(lambda _button: self.run_now())
        self.stop_button.on_click(lambda _button: self.stop())
        for name, control in self.controls.items():
            control.observe(lambda change, name=name: self._turned(name, change["new"]), "value")
        self._recall_picture()
        self._first_picture = self.picture.value if start is not None else ""

    # What the buttons and controls do

    @property
    def running(self) -> bool:
        """Whether a run is under way (one that is stopping included)."""
        return self._thread is not None

    def run_now(self) -> None:
        """Measure with the values as they are; returns at once."""
        if self.running:
            return
        self._stop = threading.Event()
        self._lock_controls(True)
        self.bar.value, self.bar.max, self.bar.layout.visibility = 0, 1, "visible"
        self._say("Running …")
        self._thread = threading.Thread(target=self._measure, args=(dict(self.values), self._stop), daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask the run to stop; the controls come back when it has."""
        if not self.running:
            return
        self.stop_button.disabled = True
        self._say("Stopping …")
        self._stop.set()

    def wait(self, seconds: float | None = None) -> None:
        """Wait for the measuring thread (for tests: in a notebook the picture comes once the cell is done)."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def static_html(self) -> str:
        """The picture to start with, if there is one, and what can be turned."""
        named = "; ".join(f"<code>{html.escape(name)}</code>: {self._allowed(name)}" for name in self.controls)
        return f"{self._first_picture}<p>(Run this notebook to turn these yourself: {named}.)</p>"

    def _turned(self, name: str, value: Any) -> None:
        self.values[name] = value
        self._later(self._recall_picture)

    def _recall_picture(self) -> None:
        record = self.cache.get(_key(self.values)) or self.recall(dict(self.values))
        if record is not None:
            self.cache[_key(self.values)] = record
            self._show(record, _origin(record))
            return
        if self.picture.value and "study-old" not in self.picture.value:
            self.picture.value = f'<div class="study-old">{self.picture.value}</div>'
        old = " The picture is still the previous one." if self.picture.value else ""
        self._say(f"Press Run to measure this, about {number(self.experiment.seconds)} s.{old}")

    # The run

    def _measure(self, values: Parameters, stop: threading.Event) -> None:
        try:
            record = self.experiment.run(stop=stop, on_progress=self._progress, **values)
        except Stopped:
            self._later(lambda: self._end(lambda: self._say("Stopped; nothing was kept. Run starts anew.")))
        except Exception as error:
            failure = error
            self._later(lambda: self._end(lambda: self._fail(failure)))
        else:
            self._later(lambda: self._end(lambda: self._keep(values, record)))

    def _progress(self, done: int, total: int) -> None:
        self.bar.max = max(total, 1)
        self.bar.value = done
        if done and not self._stop.is_set():
            self._say(f"Running: {done} of {total}")

    def _later(self, action: Callable[[], None]) -> None:
        """Do it in the kernel's main thread, between cells: drawing isn't safe beside a cell that draws too.

        JupyterLab has the buttons answered by a thread of their own (a subshell), so that they work during a cell.
        """
        if self._home is None or self._home.is_closed():
            action()
        else:
            self._home.call_soon_threadsafe(action)

    def _end(self, conclude: Callable[[], None]) -> None:
        self.bar.layout.visibility = "hidden"
        try:
            conclude()
        finally:
            self._lock_controls(False)
            self._thread = None

    def _keep(self, values: Parameters, record: Record) -> None:
        self.cache[_key(values)] = record
        done = f"Measured in {number(record.seconds)} s." if record.reference is None else _origin(record)
        self._show(record, done)

    def _show(self, record: Record, words: str) -> None:
        try:
            self.picture.value = _page(self.draw(record))
        except Exception as error:
            self._fail(error)
        else:
            self._say(words)

    # How it looks

    def _lock_controls(self, locked: bool) -> None:
        self.run_button.disabled = locked
        self.stop_button.disabled = not locked
        for control in self.controls.values():
            control.disabled = locked

    def _say(self, words: str) -> None:
        self.status.value = note(rich(words))

    def _fail(self, error: Exception) -> None:
        trace = html.escape("".join(traceback.format_exception(error)))
        line = rich(f"`{type(error).__name__}`: {error}")
        self.status.value = note(f"{line}<details><summary>Details</summary><pre>{trace}</pre></details>", "trouble")

    def _allowed(self, name: str) -> str:
        return html.escape(self.experiment.parameters[name].allowed)

    def _control(self, name: str) -> widgets.ValueWidget:
        if name not in self.values:
            raise ValueError(f"{name}: {self.experiment.name} has no such parameter; it has {', '.join(self.values)}")
        return control(self.experiment.parameters[name], self.values[name])

    def _layout(self) -> widgets.VBox:
        rows = [_row(name, control) for name, control in self.controls.items()]
        wrapping = widgets.Layout(flex_flow="row wrap")
        buttons = widgets.HBox([self.run_button, self.stop_button, self.bar], layout=wrapping)
        box = widgets.VBox([text_box(STYLE), *rows, buttons, self.status, self.picture])
        box.add_class("study-knob")
        return box

    def _earlier(self, values: Parameters) -> Record | None:
        return ledger().latest(self.experiment.name, **values) or reference.record(self.experiment.name, **values)


def control(parameter: Parameter, value: Any) -> widgets.ValueWidget:
    """The widget for one parameter: buttons or a list for choices, a box to tick, a slider for numbers."""
    look: dict[str, Any] = {
        "value": value,
        "description": title(parameter.name),
        "tooltip": f"{parameter.name}: {parameter.allowed}",
        "style": {"description_width": LABEL_WIDTH},
    }
    if parameter.choices:
        options = [(str(choice), choice) for choice in parameter.choices]
        if len(options) <= MANY_CHOICES:
            # Its own label would stand above it, with a tooltip that reads "null"; `_row` puts one beside it.
            return widgets.ToggleButtons(options=options, value=value, style={"button_width": "auto"})
        return widgets.Dropdown(options=options, **look)
    if parameter.kind is bool:
        return widgets.Checkbox(**look)
    low, high = parameter.low or 0, parameter.high or 0
    look.update(continuous_update=False, layout=widgets.Layout(width="32em"))
    if _is_wide(parameter):
        options = [(number(step), step) for step in steps(parameter, value)]
        return widgets.SelectionSlider(options=options, **look)
    if parameter.kind is int:
        return widgets.IntSlider(min=int(low), max=int(high), **look)
    return widgets.FloatSlider(min=low, max=high, step=(high - low) / 100, **look)


def _row(name: str, control: widgets.Widget) -> widgets.Widget:
    """The control with its label before it."""
    if not isinstance(control, widgets.ToggleButtons):
        return control
    look = widgets.Layout(width=LABEL_WIDTH, min_width=LABEL_WIDTH, display="flex", justify_content="flex-end")
    control.layout = widgets.Layout(width="auto", flex="1 1 auto")
    return widgets.HBox([widgets.Label(title(name), layout=look), control])


def _is_wide(parameter: Parameter) -> bool:
    low, high = parameter.low or 0, parameter.high or 0
    if low <= 0:
        return parameter.kind is int and low == 0 and high > WIDE
    return high > WIDE * low


def steps(parameter: Parameter, value: Any) -> list[Any]:
    """A logarithmic scale with both bounds, the default and `value`: powers of two, or 1-2-5 for fractions."""
    low, high = parameter.low or 0, parameter.high or 0
    smallest = low if low > 0 else 1
    if parameter.kind is int:
        scale = [2**power for power in range(int(high).bit_length())]
    else:
        decades = range(math.floor(math.log10(smallest)), math.ceil(math.log10(high)) + 1)
        scale = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    inside = [step for step in scale if low <= step <= high]
    return sorted({parameter.kind(step) for step in (low, *inside, high, parameter.default, value)})


def title(name: str) -> str:
    """A parameter's name as a label: `largest_mib` is "largest (MiB)"."""
    words = name.split("_")
    unit = UNITS.get(words[-1]) if len(words) > 1 else None
    return f"{' '.join(words[:-1])} ({unit})" if unit else " ".join(words)


def _key(values: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(sorted(values.items()))


def _page(drawn: Any) -> str:
    """What `draw` returned, as HTML."""
    return drawn._repr_html_() if hasattr(drawn, "_repr_html_") else f"<pre>{html.escape(str(drawn))}</pre>"


def _origin(record: Record) -> str:
    if record.reference is not None:
        return f"From the reference run, {record.reference}. Press Run to measure it here."
    when = f" on {record.started[:10]}" if record.started else ""
    return f"Measured here{when}. Run measures it anew."


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of the notebook's kernel; None in a script or a test."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
