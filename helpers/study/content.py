"""The study material of each notebook: data in `content/*.toml`, checked on loading.

A file is named like its notebook and holds four kinds of entry, each with an `id` that starts with the
notebook's number and with the `section` (a `## ` heading of the notebook) that it belongs to:

- `[[prediction]]`: question, unit, low, high (the ends of a logarithmic scale);
- `[[exercise]]`: title, task, stub, solution (runs after the stub, whose imports it uses), hints (by mistake; `other`
  is always there);
- `[[quiz]]`: question, options, each with text, right, reason. Exactly one option is right, every one has a reason;
- `[[card]]`: front, back.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

CONTENT = Path(__file__).parent / "content"


class ContentError(ValueError):
    """Study material that is not as the schema says; names the file, the entry and the field."""


@dataclass(frozen=True)
class Prediction:
    """A figure that the learner guesses before it is measured, on a logarithmic scale from `low` to `high`."""

    id: str
    section: str
    question: str
    unit: str
    low: float
    high: float


@dataclass(frozen=True)
class Exercise:
    """A function that the learner writes. `hints` are by the mistake that a check recognises."""

    id: str
    section: str
    title: str
    task: str
    stub: str
    solution: str
    hints: dict[str, str]

    @property
    def function_name(self) -> str:
        """The function that the learner writes: the first one that the stub defines."""
        found = re.search(r"^(?:async )?def (\w+)", self.stub, re.MULTILINE)
        return found.group(1) if found else ""


@dataclass(frozen=True)
class Option:
    """A possible answer and why it is right, or why it tempts and is wrong."""

    text: str
    right: bool
    reason: str


@dataclass(frozen=True)
class Question:
    """A quiz question; exactly one of its options is right."""

    id: str
    section: str
    question: str
    options: tuple[Option, ...]

    def option(self, text: object) -> Option | None:
        """The option with that text, or None: an answer that was kept may be of an older version."""
        return next((option for option in self.options if option.text == text), None)


@dataclass(frozen=True)
class Card:
    """A flashcard for the deck of notebook 12."""

    id: str
    section: str
    front: str
    back: str


@dataclass(frozen=True)
class Chapter:
    """All study material of one notebook."""

    notebook: str
    predictions: tuple[Prediction, ...]
    exercises: tuple[Exercise, ...]
    questions: tuple[Question, ...]
    cards: tuple[Card, ...]

    @property
    def entries(self) -> tuple[Prediction | Exercise | Question | Card, ...]:
        """Every entry of every kind."""
        return (*self.predictions, *self.exercises, *self.questions, *self.cards)


def chapters() -> tuple[Chapter, ...]:
    """The material of every notebook that has any, in order."""
    return tuple(_load(path) for path in sorted(CONTENT.glob("*.toml")))


def chapter(number: str) -> Chapter:
    """The material of notebook `number` ("03"). Raises `ContentError` when there is none."""
    paths = sorted(CONTENT.glob(f"{number[:2]}_*.toml"))
    if len(paths) != 1:
        raise ContentError(f"{number}: no study material for this notebook in {CONTENT.name}/")
    return _load(paths[0])


def prediction(id: str) -> Prediction:
    """The prediction of that id."""
    return _find(id, chapter(id).predictions)


def exercise(id: str) -> Exercise:
    """The exercise of that id."""
    return _find(id, chapter(id).exercises)


Entry = TypeVar("Entry", Prediction, Exercise, Question, Card)


def _find(id: str, entries: tuple[Entry, ...]) -> Entry:
    for entry in entries:
        if entry.id == id:
            return entry
    raise ContentError(f"{id}: no such entry; there are {', '.join(entry.id for entry in entries) or 'none'}")


@functools.cache
def _load(path: Path) -> Chapter:
    return parse(path.read_text(encoding="utf-8"), path.name)


def parse(text: str, file: str) -> Chapter:
    """The chapter written in `text`. Raises `ContentError` naming file, entry and field."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ContentError(f"{file}: {error}") from error
    top = Fields(data, file)
    made = Chapter(
        Path(file).stem,
        tuple(_prediction(item) for item in top.tables("prediction")),
        tuple(_exercise(item) for item in top.tables("exercise")),
        tuple(_question(item) for item in top.tables("quiz")),
        tuple(_card(item) for item in top.tables("card")),
    )
    top.finish()
    _unique(made, file)
    return made


class Fields:
    """The fields of one TOML table, taken out one by one; `where` leads every complaint."""

    def __init__(self, data: dict[str, Any], where: str) -> None:
        self.data = dict(data)
        self.where = where

    def fail(self, field: str, complaint: str) -> ContentError:
        """A complaint about one field, to be raised."""
        return ContentError(f"{self.where}: {field}: {complaint}")

    def take(self, field: str, kinds: tuple[type, ...], words: str) -> Any:
        """The value of a field that must be there and be of one of `kinds`."""
        if field not in self.data:
            raise self.fail(field, "missing")
        value = self.data.pop(field)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise self.fail(field, f"{words} is needed, not {value!r}")
        return value

    def text(self, field: str) -> str:
        """A text with line breaks as spaces: how long the lines are in the file means nothing."""
        words = " ".join(self.take(field, (str,), "a text").split())
        if not words:
            raise self.fail(field, "empty")
        return words

    def code(self, field: str) -> str:
        """A text kept as it is, but for the line breaks around it."""
        lines = self.take(field, (str,), "a text").strip("\n")
        if not lines.strip():
            raise self.fail(field, "empty")
        return lines

    def number(self, field: str) -> float:
        """A number above zero, since scales are logarithmic."""
        value = float(self.take(field, (int, float), "a number"))
        if not 0 < value < float("inf"):
            raise self.fail(field, f"a number above zero is needed, not {value:g}")
        return value

    def tables(self, field: str) -> Iterator[Fields]:
        """The tables of an array, each with its id, or its place, in its complaints."""
        items = self.data.pop(field, [])
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise self.fail(field, f"write [[{field}]]")
        for place, item in enumerate(items, 1):
            yield Fields(item, f"{self.where}: {field} {item.get('id', place)}")

    def finish(self) -> None:
        """Complain about what nobody took: a misspelt field, mostly."""
        for field in self.data:
            raise self.fail(field, "no such field")


def _head(item: Fields) -> dict[str, str]:
    id, section = item.text("id"), item.text("section")
    if not re.fullmatch(r"\d\d(-[a-z0-9]+)+", id):
        raise item.fail("id", f"{id!r} is not like 03-ping-pong")
    return {"id": id, "section": section}


def _made(item: Fields, make: Callable[..., Any], **values: Any) -> Any:
    item.finish()
    return make(**values)


def _prediction(item: Fields) -> Prediction:
    head, question, unit = _head(item), item.text("question"), item.text("unit")
    low, high = item.number("low"), item.number("high")
    if not low < high:
        raise item.fail("high", f"{high:g} is not above low, {low:g}")
    return _made(item, Prediction, **head, question=question, unit=unit, low=low, high=high)


def _exercise(item: Fields) -> Exercise:
    head, title, task = _head(item), item.text("title"), item.text("task")
    stub, solution = item.code("stub"), item.code("solution")
    hints = item.take("hints", (dict,), "a table of texts")
    table = Fields(hints, f"{item.where}: hints")
    texts = {mistake: table.text(mistake) for mistake in hints}
    if "other" not in texts:
        raise item.fail("hints", "a hint named other is needed, for mistakes that no check knows")
    made: Exercise = _made(item, Exercise, **head, title=title, task=task, stub=stub, solution=solution, hints=texts)
    if not made.function_name:
        raise item.fail("stub", "defines no function")
    if not re.search(rf"^(?:async )?def {made.function_name}\(", solution, re.MULTILINE):
        raise item.fail("solution", f"does not define {made.function_name}")
    return made


def _question(item: Fields) -> Question:
    head, question = _head(item), item.text("question")
    options = tuple(_option(option) for option in item.tables("options"))
    if len(options) < 2:
        raise item.fail("options", "at least two are needed")
    if len({option.text for option in options}) < len(options):
        raise item.fail("options", "two of them have the same text")
    right = sum(option.right for option in options)
    if right != 1:
        raise item.fail("options", f"exactly one must be right, {right} are")
    return _made(item, Question, **head, question=question, options=options)


def _option(item: Fields) -> Option:
    text, reason = item.text("text"), item.text("reason")
    return _made(item, Option, text=text, right=item.take("right", (bool,), "true or false"), reason=reason)


def _card(item: Fields) -> Card:
    head = _head(item)
    return _made(item, Card, **head, front=item.text("front"), back=item.text("back"))


def _unique(made: Chapter, file: str) -> None:
    seen: set[str] = set()
    for entry in made.entries:
        if not entry.id.startswith(f"{file[:2]}-"):
            raise ContentError(f"{file}: {entry.id}: id: starts with another notebook's number")
        if entry.id in seen:
            raise ContentError(f"{file}: {entry.id}: id: used twice")
        seen.add(entry.id)
