"""What an experiment takes: read off its signature, checked before anything starts."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args, get_origin

from helpers.record import hints_of

LONGEST = 60  # characters of a wrong value in its error


@dataclass(frozen=True)
class Parameter:
    """A keyword of an experiment: its type (int, float, bool or str), its default, and what it may be."""

    name: str
    kind: type
    default: Any
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None

    @property
    def allowed(self) -> str:
        """The bounds in words."""
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        if self.kind is bool:
            return "True or False"
        kind = "a whole number" if self.kind is int else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}"

    @property
    def least(self) -> Any:
        """The value that makes the quickest run: a number's lower bound, else the default."""
        return self.default if self.low is None else self.kind(self.low)

    def check(self, value: Any) -> Any:
        """The value as the experiment gets it. Raises `ValueError` naming parameter, value and bounds."""
        if not self._fits(value):
            raise ValueError(f"{self.name}={_shown(value)}: {self.name} is {self.allowed}")
        return self.kind(value)

    def _fits(self, value: Any) -> bool:
        if self.choices:
            return type(value) is self.kind and value in self.choices
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if self.low is None or self.high is None:
            return False
        number = isinstance(value, int) or (self.kind is float and isinstance(value, float) and math.isfinite(value))
        return number and self.low <= value <= self.high

    def parse(self, text: str) -> Any:
        """The value written as `text` on a command line. Raises `ValueError` as `check` does."""
        if self.kind is bool:
            return self.check(
                {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower(), text)
            )
        try:
            return self.check(self.kind(text))
        except ValueError:
            raise ValueError(f"{self.name}={_cut(text)}: {self.name} is {self.allowed}") from None


def _shown(value: Any) -> str:
    try:
        return _cut(repr(value))
    except Exception:  # an integer with more than 4300 digits has none
        return f"({type(value).__name__})"


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def parameters_of(function: Callable[..., Any]) -> dict[str, Parameter]:
    """The parameters of an experiment's function, by name and in order."""
    hints = hints_of(function)
    return {
        name: _parameter(name, hints[name], item.default)
        for name, item in inspect.signature(function).parameters.items()
    }


def _parameter(name: str, hint: Any, default: Any) -> Parameter:
    bounds = None
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)[:2]
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return Parameter(name, type(choices[0]), default, choices=choices)
    if bounds is None and hint is not bool:
        raise TypeError(f"{name}: a number of an experiment needs bounds, Annotated[…, Between(low, high)]")
    return Parameter(name, hint, default, low=getattr(bounds, "low", None), high=getattr(bounds, "high", None))
