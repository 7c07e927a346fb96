"""Commit to a guess before the measurement: `predict("03-switch")`, then `guess("03-switch")` in the figure."""

from __future__ import annotations

from math import log10, sqrt
from typing import Any

import ipywidgets as widgets

from helpers.ledger import ledger
from helpers.study import content
from helpers.study.shown import STYLE, Shown, note, number, plain, rich, text_box

STEP = 0.01  # of the slider, in powers of ten
SECONDS = {"ns": 1e-9, "µs": 1e-6, "ms": 1e-3, "s": 1.0}


def predict(id: str) -> Predict:
    """Ask the learner for a guess: a slider, a field to type in, and a button that saves it."""
    return Predict(content.prediction(id))


def guess(id: str, unit: str | None = None) -> float | None:
    """The learner's guess in the prediction's unit (or in `unit`: ns, µs, ms or s); None if there is none."""
    value = ledger().prediction(id)
    if value is None or unit is None:
        return value
    try:
        return value * SECONDS[content.prediction(id).unit] / SECONDS[unit]
    except (KeyError, content.ContentError):
        return None


class Predict(Shown):
    """One question. Slider and field show the same value; nothing is kept until the button is pressed."""

    def __init__(self, about: content.Prediction) -> None:
        self.about = about
        saved = ledger().prediction(about.id)
        inside = saved is not None and about.low <= saved <= about.high
        value = saved if inside and saved is not None else float(f"{sqrt(about.low * about.high):.2g}")
        self.slider = widgets.FloatLogSlider(
            value=value,
            base=10,
            min=log10(about.low),
            max=log10(about.high),
            step=STEP,
            readout=False,
            description="Your guess",
            tooltip=plain(about.question),
            layout=widgets.Layout(width="24em"),
        )
        self.field = widgets.BoundedFloatText(
            value=value,
            min=about.low,
            max=about.high,
            step=None,
            tooltip=f"Your guess in {about.unit}",
            layout=widgets.Layout(width="8em"),
        )
        self.button = widgets.Button(description="Save my guess", tooltip="Keep this guess for the figures")
        self.status = text_box(note(f"Your guess: {self._words(value)}.") if inside else "")
        self.slider.observe(self._slid, "value")
        self.field.observe(self._typed, "value")
        self.button.on_click(self._save)
        self.widget = widgets.VBox(
            [
                text_box(f'{STYLE}<div class="study-text">{self._question()}</div>'),
                widgets.HBox(
                    [self.slider, self.field, widgets.Label(about.unit), self.button],
                    layout=widgets.Layout(flex_flow="row wrap", align_items="center"),
                ),
                self.status,
            ]
        )

    def static_html(self) -> str:
        scale = f"from {self._words(self.about.low)} to {self._words(self.about.high)}"
        return f"<p>{self._question()}</p><p>(Run this notebook to commit to a guess of your own, {scale}.)</p>"

    def _question(self) -> str:
        return f"<strong>Predict:</strong> {rich(self.about.question)}"

    def _words(self, value: float) -> str:
        return f"{number(value)} {self.about.unit}"

    def _slid(self, change: dict[str, Any]) -> None:
        # A difference within its step is the slider following the field. Two digits are what a guess is worth.
        if abs(log10(change["new"] / self.field.value)) > 0.501 * STEP:
            self.field.value = min(max(float(f"{change['new']:.2g}"), self.about.low), self.about.high)

    def _typed(self, change: dict[str, Any]) -> None:
        self.slider.value = change["new"]
        self.status.value = ""

    def _save(self, _button: widgets.Button) -> None:
        value = self.field.value
        if ledger().predict(self.about.id, value, self.about.unit):
            self.status.value = note(f"Saved: {self._words(value)}. Run on.", "good")
        else:
            words = f"Noted for this session: {self._words(value)}. Run on. {ledger().trouble or ''}"
            self.status.value = note(rich(words.strip()), "trouble")
