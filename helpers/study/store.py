"""Where guesses and answers are kept: the ledger. If it can't keep one, this session remembers it."""

from __future__ import annotations

from typing import Any

from helpers.study import content

_unsaved_guesses: dict[str, float] = {}
_unsaved_answers: dict[tuple[str, str], Any] = {}


def ledger() -> Any:
    """The learner's ledger. (Imported late: study material can be read without it.)"""
    from helpers.ledger import ledger as the_ledger

    return the_ledger()


def keep_guess(about: content.Prediction, value: float) -> str | None:
    """Keep a guess; None when that worked, else one line that says why not."""
    trouble = _kept(lambda book: book.predict(about.id, value, about.unit))
    if trouble:
        _unsaved_guesses[about.id] = value
    else:
        _unsaved_guesses.pop(about.id, None)
    return trouble


def kept_guess(id: str) -> float | None:
    """The newest guess, or None. Never raises: a figure can always be drawn without it."""
    if id in _unsaved_guesses:
        return _unsaved_guesses[id]
    try:
        return ledger().prediction(id)
    except Exception:
        return None


def keep_answer(kind: str, id: str, value: Any) -> str | None:
    """Keep an answer; None when that worked, else one line that says why not."""
    trouble = _kept(lambda book: book.answer(kind, id, value))
    if trouble:
        _unsaved_answers[kind, id] = value
    else:
        _unsaved_answers.pop((kind, id), None)
    return trouble


def kept_answers(kind: str) -> dict[str, Any]:
    """The newest answer by id. Never raises."""
    unsaved = {id: value for (of, id), value in _unsaved_answers.items() if of == kind}
    try:
        return {**ledger().answers(kind), **unsaved}
    except Exception:
        return unsaved


def _kept(write: Any) -> str | None:
    try:
        book = ledger()
        return None if write(book) else book.trouble or "the ledger could not be written"
    except Exception as error:
        return f"the ledger could not be written ({type(error).__name__}: {error})"
