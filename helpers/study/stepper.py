"""An event loop step by step, forward and back: `stepper([steps("timers"), steps("sockets")])`."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import ipywidgets as widgets

from helpers.study.shown import STYLE, Shown, note, rich, text_box
from helpers.testbed.stepping import BOXES, NOTHING, Step, changes

if TYPE_CHECKING:  # an experiment's module takes long to import
    from helpers.experiments.event_loops import Steps

BOX = "border: 1px solid var(--jp-border-color1, gray); border-radius: 6px; padding: .3em .7em .5em; min-width: 0"
EDGE = "var(--jp-ui-font-color1, black)"
CHANGED = f"{BOX}; border-color: {EDGE}; box-shadow: inset 0 0 0 2px {EDGE}"
HEAD = "font-weight: 600; margin-bottom: .2em"
ITEM = "font-family: var(--jp-code-font-family, monospace); overflow-wrap: anywhere; line-height: 1.5"
CODE = "margin: 0; white-space: pre; overflow-x: auto; line-height: 1.5; background: none; color: inherit"
ROW = "display: flex; flex-wrap: wrap; gap: .6em; align-items: flex-start"
GRID = "display: grid; grid-template-columns: repeat(auto-fit, minmax(16em, 1fr)); gap: .6em; margin-bottom: .6em"
HERE = "font-weight: 700; background: var(--jp-layout-color2, #eee)"


def stepper(records: Sequence[Steps], *, start: int = 1) -> Stepper:
    """Buttons and a slider for the steps of these programs, `start` the first that is shown."""
    return Stepper(records, start)


class Stepper(Shown):
    """Which program and which of its steps is shown. Nothing is run: the records are leafed through."""

    def __init__(self, records: Sequence[Steps], start: int = 1) -> None:
        if not records:
            raise ValueError("a stepper needs at least one record to step through")
        self.records = {record.program: record for record in records}
        self.program = widgets.Dropdown(options=list(self.records), description="Program", tooltip="Which program")
        self.sliders = {program: _slider(record) for program, record in self.records.items()}
        self.slider.value = start
        self.first, self.back, self.forward, self.last = (
            widgets.Button(description=words, icon=icon, tooltip=tooltip, layout=widgets.Layout(width="7em"))
            for words, icon, tooltip in (
                ("First", "fast-backward", "To the first step"),
                ("Back", "step-backward", "One step back"),
                ("Forward", "step-forward", "One step forward"),
                ("Last", "fast-forward", "To the last step"),
            )
        )
        self.controls = widgets.HBox(layout=widgets.Layout(flex_flow="row wrap"))
        self.page = widgets.HTML(layout=widgets.Layout(width="auto", max_width="76em"))
        self.widget = widgets.VBox([text_box(STYLE), self.program, self.controls, self.page])
        self.widget.add_class("study-stepper")
        self._listen()
        self._choose()

    @property
    def record(self) -> Steps:
        """Of the program that is shown."""
        return self.records[self.program.value]

    @property
    def slider(self) -> widgets.IntSlider:
        """Of the program that is shown."""
        return self.sliders[self.program.value]

    def static_html(self) -> str:
        """The step to start with, and how to get at the others."""
        names = ", ".join(f"<code>{html.escape(name)}</code>" for name in self.records)
        return f"{self.page.value}<p>(Run this notebook to step through these programs yourself: {names}.)</p>"

    def _listen(self) -> None:
        self.program.observe(lambda _: self._choose(), "value")
        for slider in self.sliders.values():
            slider.observe(lambda _: self._draw(), "value")
        self.first.on_click(lambda _: self._go(1))
        self.back.on_click(lambda _: self._go(self.slider.value - 1))
        self.forward.on_click(lambda _: self._go(self.slider.value + 1))
        self.last.on_click(lambda _: self._go(self.slider.max))

    def _choose(self) -> None:
        self.controls.children = (self.first, self.back, self.forward, self.last, self.slider)
        self._draw()

    def _go(self, number: int) -> None:
        self.slider.value = min(max(number, 1), self.slider.max)

    def _draw(self) -> None:
        number = self.slider.value
        self.page.value = page(self.record, number)
        self.first.disabled = self.back.disabled = number == 1
        self.forward.disabled = self.last.disabled = number == self.slider.max


def _slider(record: Steps) -> widgets.IntSlider:
    """One for each program: a slider's End key keeps to the end that the slider was made with."""
    layout = widgets.Layout(width="24em")
    return widgets.IntSlider(value=1, min=1, max=len(record.steps), description="Step", layout=layout)


def page(record: Steps, number: int) -> str:
    """Step `number`, counted from 1, as HTML; what is new since the step before has a plus and a thick edge."""
    step = record.steps[number - 1]
    before = record.steps[number - 2] if number > 1 else NOTHING
    boxes = "".join(_box(title, record, before, step) for title in BOXES)
    told = note(f"<b>Step {number} of {len(record.steps)}</b>, {step.at_ms:.1f} ms: {rich(step.words)}")
    output = "\n".join(html.escape(line) for line in step.output) or "&nbsp;"
    return (
        f'<div class="study-text" style="max-width: none; font-size: 1.08em">{told}<div style="{ROW}">'
        f'<div style="{BOX}; flex: 2 1 25em; box-sizing: border-box"><div style="{HEAD}">Program</div>'
        f"{_source(record, step)}</div>"
        f'<div style="flex: 3 1 34em; min-width: 0"><div style="{GRID}">{boxes}</div>'
        f'<div style="{BOX}"><div style="{HEAD}">Output</div>'
        f'<pre style="{CODE}; min-height: {1.5 * len(record.steps[-1].output):.1f}em">{output}</pre></div>'
        f"</div></div></div>"
    )


def _box(title: str, record: Steps, before: Step, step: Step) -> str:
    """One of the four, as high as its fullest state: so that nothing jumps about."""
    items, (come, gone) = step.boxes()[title], changes(before, step, title)
    lines = []
    for place, item in enumerate(items):
        text = html.escape(item)
        lines.append(f"<div><b>+ {text}</b></div>" if place in come else f"<div>&nbsp; {text}</div>")
    moved = " ".join(f"{sign}{count}" for sign, count in (("+", len(come)), ("−", gone)) if count)
    most = max(len(each.boxes()[title]) for each in record.steps)
    return (
        f'<div style="{CHANGED if moved else BOX}"><div style="{HEAD}">{title}'
        f'<span style="float: right">{moved}</span></div>'
        f'<div style="{ITEM}; min-height: {1.5 * most:.1f}em">{"".join(lines) or "&nbsp; –"}</div></div>'
    )


def _source(record: Steps, step: Step) -> str:
    """The program, the line that is running marked."""
    lines = []
    for number, line in enumerate(record.source.splitlines(), 1):
        text = html.escape(line)
        lines.append(f'<b style="{HERE}">▶ {text}</b>' if number == step.line else f"  {text}")
    return f'<pre style="{CODE}">{chr(10).join(lines)}</pre>'
