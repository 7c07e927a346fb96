"""A notebook's questions, one below another, each answered at once with the reason: `quiz("03")`."""

from __future__ import annotations

from typing import Any

import ipywidgets as widgets

from helpers.ledger import ledger
from helpers.study import content
from helpers.study.shown import STYLE, Shown, note, plain, rich, text_box


def quiz(number: str) -> Quiz:
    """All questions of a notebook ("03"). Earlier answers are shown again."""
    return Quiz(content.chapter(number).questions)


class Quiz(Shown):
    """Questions, and a line that counts."""

    def __init__(self, questions: tuple[content.Question, ...]) -> None:
        self.questions = questions
        self.score = text_box()
        kept = ledger().answers("quiz")
        self.asked = [Asked(place, item, kept.get(item.id), self._count) for place, item in enumerate(questions, 1)]
        self.widget = widgets.VBox([text_box(STYLE), *(asked.widget for asked in self.asked), self.score])
        self._count()

    def static_html(self) -> str:
        return "".join(_static(place, item) for place, item in enumerate(self.questions, 1))

    def _count(self) -> None:
        right = sum(bool(asked.chosen and asked.chosen.right) for asked in self.asked)
        left = sum(asked.chosen is None for asked in self.asked)
        words = f"<strong>{right} of {len(self.asked)} right</strong>"
        if left:
            words += f", {left} still to answer"
        elif right < len(self.asked):
            words += "; go back to those marked ✗, you can choose again"
        self.score.value = note(f"{words}.")


class Asked:
    """One question: radio buttons, and the reason for what is chosen."""

    def __init__(self, place: int, about: content.Question, kept: Any, on_answer: Any) -> None:
        self.about = about
        self.chosen = about.option(kept)
        self.options = widgets.RadioButtons(
            options=[(plain(option.text), option.text) for option in about.options],
            value=self.chosen.text if self.chosen else None,
            tooltip=plain(about.question),
            layout=widgets.Layout(width="auto"),
        )
        self.options.add_class("study-options")
        self.feedback = text_box(_feedback(self.chosen))
        self.on_answer = on_answer
        self.options.observe(self._choose, "value")
        question = text_box(f'<div class="study-text"><strong>{place}.</strong> {rich(about.question)}</div>')
        self.widget = widgets.VBox([question, self.options, self.feedback])

    def _choose(self, change: dict[str, Any]) -> None:
        self.chosen = self.about.option(change["new"])
        if self.chosen is None:
            return
        kept = ledger().answer("quiz", self.about.id, self.chosen.text)
        trouble = None if kept else ledger().trouble
        self.feedback.value = _feedback(self.chosen) + (note(rich(trouble), "trouble") if trouble else "")
        self.on_answer()


def _verdict(option: content.Option) -> str:
    return "✓ Right." if option.right else "✗ Not quite."


def _feedback(option: content.Option | None) -> str:
    if option is None:
        return ""
    return note(f"<strong>{_verdict(option)}</strong> {rich(option.reason)}", "good" if option.right else "bad")


def _static(place: int, about: content.Question) -> str:
    options = "".join(f"<li>{rich(option.text)}</li>" for option in about.options)
    answers = "".join(
        f"<li><strong>{_verdict(option)}</strong> {rich(option.text)}: {rich(option.reason)}</li>"
        for option in about.options
    )
    return (
        f"<p><strong>{place}.</strong> {rich(about.question)}</p><ul>{options}</ul>"
        f"<details><summary>Answers to question {place}</summary><ul>{answers}</ul></details>"
    )
