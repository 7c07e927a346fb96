"""The progress bar of a notebook's cell: when it comes, what it says, and that nothing of it stays."""

from __future__ import annotations

from typing import Any

import nbformat
import pytest

from helpers import bar, progress, publish
from helpers.sandbox import Stopped


class Outputs:
    """What a notebook would show, in place of `display`."""

    def __init__(self) -> None:
        self.data: list[Any] = []

    def display(self, content: Any, display_id: bool) -> Handle:
        assert display_id
        self.data.append(content.data)
        return Handle(self.data, len(self.data) - 1)


class Handle:
    def __init__(self, data: list[Any], place: int) -> None:
        self.data, self.place = data, place

    def update(self, content: Any, raw: bool = False) -> None:
        self.data[self.place] = content if raw else content.data


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The outputs, of a clock that stands at 100 s."""
    shown = Outputs()
    monkeypatch.setattr(bar, "display", shown.display)
    at(monkeypatch, 100)
    return shown.data


def at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(bar, "monotonic", lambda: seconds)


def test_a_short_run_shows_nothing(outputs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with bar.Bar("context_switching.handoff", 2) as listener:
        listener(3, 21)
        at(monkeypatch, 101.9)
        listener.tick()
    assert outputs == []


def test_a_long_run_shows_how_far_it_is_and_a_way_to_stop(outputs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with bar.Bar("context_switching.handoff", 2) as listener:
        at(monkeypatch, 103)
        listener.tick()
        assert "handoff: 3 s" in outputs[0]
        assert 'data-commandlinker-command="notebook:interrupt-kernel"' in outputs[1]
        listener(7, 21)
        at(monkeypatch, 104)
        listener.tick()
        assert '<progress value="7" max="21"' in outputs[0]
        assert "7 of 21 in 4 s, about 8 s left" in outputs[0]
        listener(21, 21)
        at(monkeypatch, 105)
        listener.tick()
        assert "handoff: 5 s" in outputs[0]
    assert outputs == [{}, {}]


def test_an_interrupt_ends_in_one_line(outputs: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Stopped) as caught, bar.Bar("context_switching.handoff", 2) as listener:
        at(monkeypatch, 103)
        listener.tick()
        raise KeyboardInterrupt
    assert outputs == [{}, {}]
    (line,) = caught.value._render_traceback_()
    assert line == "Stopped before the end; nothing was recorded. Run the cell again to measure anew."


def test_another_error_passes(outputs: list[Any]) -> None:
    with pytest.raises(KeyError), bar.Bar("context_switching.handoff", 2):
        raise KeyError


def test_what_was_emptied_is_not_published() -> None:
    gone = nbformat.v4.new_output("display_data", data={})
    line = nbformat.v4.new_output("stream", text="a word\n")
    cell = nbformat.v4.new_code_cell("handoff()", outputs=[gone, line])
    published = publish.clean(nbformat.v4.new_notebook(cells=[cell]))
    assert published.cells[0].outputs == [line]


def test_outside_of_a_notebook_there_is_no_button() -> None:
    with progress.shown("context_switching.handoff") as listener:
        assert not isinstance(listener, bar.Bar)
