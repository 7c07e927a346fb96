"""What each exercise's function has to do. A check calls it on several inputs, random ones among them."""

from __future__ import annotations

import importlib
import math
import pkgutil
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

Check = Callable[[Callable[..., Any], Random], str | None]  # what to add to the praise; raises Mistake
_checks: dict[str, Check] = {}


class Mistake(Exception):
    """The function isn't right yet: the name of the hint to give, and what was seen, as a sentence."""

    def __init__(self, hint: str, seen: str = "") -> None:
        super().__init__(hint, seen)
        self.hint = hint
        self.seen = seen


class TookTooLong(BaseException):
    """The time limit of a check. Not an `Exception`, so that the learner's own `except Exception` lets it pass."""


def checks(id: str) -> Callable[[Check], Check]:
    """Register the check of one exercise."""

    def register(check: Check) -> Check:
        _checks[id] = check
        return check

    return register


def find(id: str) -> Check:
    """The check of that exercise. Raises `LookupError` when nobody wrote one."""
    for found in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{found.name}")
    if id not in _checks:
        raise LookupError(f"{id}: no check is registered for this exercise")
    return _checks[id]


def expect_number(call: str, got: Any, wanted: float, mistakes: Iterable[tuple[str, float]]) -> None:
    """Raise a `Mistake` unless `got` is `wanted`: the one in `mistakes` that would give this figure, else "other"."""
    if got is None or got is ...:
        raise Mistake("empty")
    if isinstance(got, bool) or not _is_number(got):
        raise Mistake("other", f"`{call}` returned `{short(got)}`, which isn't a number.")
    if math.isclose(got, wanted, rel_tol=1e-6, abs_tol=1e-9):
        return
    hint = next((name for name, value in mistakes if math.isclose(got, value, rel_tol=1e-6)), "other")
    raise Mistake(hint, f"`{call}` gave {float(got):.6g}; {wanted:.6g} would be right.")


def short(value: Any) -> str:
    """A value as one short piece of code."""
    text = " ".join(repr(value).replace("`", "'").split())
    return text if len(text) <= 70 else text[:67] + "..."


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except (TypeError, OverflowError):
        return False
