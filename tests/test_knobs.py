"""The knob's logic with an injected experiment: Run, Stop, progress, failure, and the record to a set of values."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ipywidgets as widgets
import pytest

from helpers.measure import Estimate
from helpers.record import Record
from helpers.registry import Parameter
from helpers.sandbox import Stopped
from helpers.study import knob
from helpers.study.knobs import Knob, control


@pytest.fixture(autouse=True)
def own_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELPERS_LEDGER", str(tmp_path / "ledger.sqlite"))


@dataclass(frozen=True, kw_only=True)
class Cost(Record):
    cost: float = 0.0
    headline_name: ClassVar[str] = "cost"

    def figures(self) -> dict[str, Estimate]:
        return {"cost": Estimate(self.cost, self.cost, self.cost, "µs")}


class Picture:
    def __init__(self, record: Cost) -> None:
        self.record = record

    def _repr_html_(self) -> str:
        return f"<figure>cost {self.record.cost:g}</figure>"


class Fake:
    """An experiment: cost is `size`, ten times that between threads. `run` waits for `go`, or for Stop."""

    name = "fake.cost"
    seconds = 3.0
    parameters: ClassVar[dict[str, Parameter]] = {
        "between": Parameter("between", str, "processes", choices=("processes", "threads")),
        "size": Parameter("size", int, 2, low=1, high=10),
        "same_core": Parameter("same_core", bool, True),
    }

    def __init__(self) -> None:
        self.go = threading.Event()
        self.reported = threading.Event()
        self.failure: Exception | None = None
        self.runs: list[dict[str, Any]] = []

    def run(self, *, stop: threading.Event, on_progress: Callable[[int, int], None], **parameters: Any) -> Cost:
        self.runs.append(parameters)
        on_progress(3, 21)
        self.reported.set()
        while not self.go.is_set():
            if stop.wait(0.002):
                raise Stopped("stopped")
        if self.failure is not None:
            raise self.failure
        return cost(**parameters)


def cost(**parameters: Any) -> Cost:
    amount = parameters["size"] * (10 if parameters["between"] == "threads" else 1)
    return Cost(experiment="fake.cost", parameters=parameters, cost=amount, seconds=2.5, started="2030-01-02T03:04:05")


def ended(turned: Knob) -> Knob:
    turned.wait(5)
    assert not turned.running
    return turned


def buttons(turned: Knob) -> tuple[bool, bool]:
    """Whether Run and Stop can be pressed."""
    return not turned.run_button.disabled, not turned.stop_button.disabled


def test_at_first_it_asks_to_run() -> None:
    turned = knob(Fake(), Picture)
    assert buttons(turned) == (True, False)
    assert "Press Run to measure this, about 3 s." in turned.status.value
    assert turned.picture.value == ""


def test_run_measures_with_the_values_and_draws() -> None:
    fake = Fake()
    turned = knob(fake, Picture)
    turned.controls["between"].value = "threads"
    turned.controls["size"].value = 4
    turned.run_button.click()
    assert fake.reported.wait(5)
    assert buttons(turned) == (False, True)
    assert all(control.disabled for control in turned.controls.values())
    assert (turned.bar.value, turned.bar.max, turned.bar.layout.visibility) == (3, 21, "visible")
    assert "Running: 3 of 21" in turned.status.value
    fake.go.set()
    ended(turned)
    assert fake.runs == [{"between": "threads", "size": 4, "same_core": True}]
    assert turned.picture.value == "<figure>cost 40</figure>"
    assert "Measured in 2.5 s." in turned.status.value
    assert buttons(turned) == (True, False)
    assert not any(control.disabled for control in turned.controls.values())
    assert turned.bar.layout.visibility == "hidden"


def test_a_second_press_on_run_does_not_start_a_second_run() -> None:
    fake = Fake()
    turned = knob(fake, Picture)
    turned.run_now()
    turned.run_now()
    fake.go.set()
    ended(turned)
    assert len(fake.runs) == 1


def test_stop_ends_the_run_and_the_next_run_works() -> None:
    fake = Fake()
    turned = knob(fake, Picture)
    turned.run_button.click()
    assert fake.reported.wait(5)
    turned.stop_button.click()
    ended(turned)
    assert "Stopped" in turned.status.value and turned.picture.value == ""
    assert buttons(turned) == (True, False)
    fake.go.set()
    turned.run_button.click()
    ended(turned)
    assert turned.picture.value == "<figure>cost 2</figure>"


def test_stop_without_a_run_does_nothing() -> None:
    turned = knob(Fake(), Picture)
    turned.stop()
    assert buttons(turned) == (True, False)


def test_turning_back_shows_the_earlier_record_at_once() -> None:
    fake = Fake()
    fake.go.set()
    turned = knob(fake, Picture)
    turned.run_now()
    ended(turned)
    turned.controls["size"].value = 5
    assert 'class="study-old"' in turned.picture.value and "previous one" in turned.status.value
    turned.controls["size"].value = 6
    assert turned.picture.value.count("study-old") == 1
    turned.controls["size"].value = 2
    assert turned.picture.value == "<figure>cost 2</figure>"
    assert "Measured here on 2030-01-02" in turned.status.value
    assert len(fake.runs) == 1


def test_earlier_records_come_from_wherever_they_are_kept() -> None:
    asked = []

    def recall(values: dict[str, Any]) -> Cost | None:
        asked.append(values)
        return cost(**values) if values["size"] == 7 else None

    turned = knob(Fake(), Picture, recall=recall)
    turned.controls["size"].value = 7
    assert turned.picture.value == "<figure>cost 7</figure>"
    turned.controls["size"].value = 2
    turned.controls["size"].value = 7
    assert [values["size"] for values in asked] == [2, 7, 2]


def test_it_begins_with_the_record_given_and_turns_only_what_is_named() -> None:
    start = cost(between="threads", size=3, same_core=False)
    fake = Fake()
    turned = knob(fake, Picture, vary=["size"], start=start)
    assert list(turned.controls) == ["size"] and turned.controls["size"].value == 3
    assert turned.picture.value == "<figure>cost 30</figure>"
    fake.go.set()
    turned.controls["size"].value = 4
    turned.run_now()
    ended(turned)
    assert fake.runs == [{"between": "threads", "size": 4, "same_core": False}]


def test_a_record_of_the_reference_run_says_so() -> None:
    start = Cost(experiment="fake.cost", parameters={"size": 3}, cost=3, reference="a small laptop")
    turned = knob(Fake(), Picture, start=start)
    assert "From the reference run, a small laptop." in turned.status.value


def test_a_failing_experiment_is_one_line_with_the_details_folded() -> None:
    fake = Fake()
    fake.failure = ValueError("size=9: too <large>")
    fake.go.set()
    turned = knob(fake, Picture)
    turned.run_now()
    ended(turned)
    assert "<code>ValueError</code>: size=9: too &lt;large&gt;<details>" in turned.status.value
    assert "Traceback" in turned.status.value
    assert buttons(turned) == (True, False)
    fake.failure = None
    turned.run_now()
    ended(turned)
    assert turned.picture.value == "<figure>cost 2</figure>"


def test_a_failing_picture_is_told_too() -> None:
    def draw(record: Record) -> None:
        raise KeyError("no such column")

    fake = Fake()
    fake.go.set()
    turned = knob(fake, draw)
    turned.run_now()
    ended(turned)
    assert "KeyError" in turned.status.value and buttons(turned) == (True, False)


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(ValueError, match=r"sise: fake\.cost has no such parameter; it has between, size, same_core"):
        knob(Fake(), Picture, vary=["sise"])


def test_in_a_notebook_the_picture_is_drawn_in_the_main_thread() -> None:
    drawn_by = []

    def draw(record: Cost) -> Picture:
        drawn_by.append(threading.current_thread())
        return Picture(record)

    async def cell() -> Knob:
        fake = Fake()
        fake.go.set()
        turned = knob(fake, draw)
        turned.run_now()
        deadline = time.monotonic() + 5
        while turned.running and time.monotonic() < deadline:
            await asyncio.sleep(0.005)
        return turned

    turned = asyncio.run(cell())
    assert turned.picture.value == "<figure>cost 2</figure>"
    assert drawn_by == [threading.main_thread()]


def test_a_saved_notebook_shows_the_first_picture_and_what_can_be_turned() -> None:
    turned = knob(Fake(), Picture, vary=["size"], start=cost(between="processes", size=3, same_core=True))
    bundle = turned._repr_mimebundle_()
    assert bundle["text/html"].startswith("<figure>cost 3</figure>")
    assert "a whole number from 1 to 10" in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle


@pytest.mark.parametrize(
    ("parameter", "kind"),
    [
        (Parameter("between", str, "b", choices=("a", "b")), widgets.ToggleButtons),
        (Parameter("count", int, 8, choices=(1, 2, 4, 8, 16, 32)), widgets.Dropdown),
        (Parameter("same_core", bool, True), widgets.Checkbox),
        (Parameter("rounds", int, 21, low=3, high=50), widgets.IntSlider),
        (Parameter("workers", int, 3, low=1, high=64), widgets.SelectionSlider),
        (Parameter("share", float, 0.5, low=0, high=1), widgets.FloatSlider),
        (Parameter("seconds", float, 0.5, low=0.01, high=60), widgets.SelectionSlider),
    ],
)
def test_each_kind_of_parameter_gets_its_control(parameter: Parameter, kind: type) -> None:
    made = control(parameter, parameter.default)
    assert isinstance(made, kind) and made.value == parameter.default


@pytest.mark.parametrize(
    ("parameter", "expected"),
    [
        (Parameter("workers", int, 3, low=1, high=64), [1, 2, 3, 4, 8, 16, 32, 64]),
        (Parameter("working_set", int, 0, low=0, high=100), [0, 1, 2, 4, 8, 16, 32, 64, 100]),
        (Parameter("seconds", float, 0.5, low=0.02, high=3), [0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 3]),
    ],
)
def test_wide_ranges_have_steps_that_double(parameter: Parameter, expected: list[float]) -> None:
    made = control(parameter, parameter.default)
    assert [value for _, value in made.options] == expected
    assert all(isinstance(value, parameter.kind) for _, value in made.options)


@pytest.mark.parametrize(
    ("name", "label"), [("same_core", "same core"), ("largest_mib", "largest (MiB)"), ("ms", "ms"), ("work", "work")]
)
def test_labels_are_words_and_units(name: str, label: str) -> None:
    assert control(Parameter(name, bool, True), True).description == label


def test_progress_after_stop_does_not_hide_that_it_is_stopping() -> None:
    fake = Fake()
    turned = knob(fake, Picture)
    turned.run_now()
    assert fake.reported.wait(5)
    turned._stop.set()
    turned._say("Stopping …")
    turned._progress(4, 21)
    assert "Stopping" in turned.status.value
    ended(turned)
