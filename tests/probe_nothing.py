"""The experiment that does nothing: what a start costs. It imports what every experiment must, and no more."""

from __future__ import annotations

from dataclasses import dataclass

from helpers.measure import Estimate
from helpers.record import Record
from helpers.registry import experiment


@dataclass(frozen=True, kw_only=True)
class Nothing(Record):
    """No figure but one."""

    headline_name = "value"

    value: Estimate

    def figures(self) -> dict[str, Estimate]:
        return {"value": self.value}


@experiment(seconds=0.1)
def nothing() -> Nothing:
    """Does nothing."""
    return Nothing(value=Estimate(1.0, 1.0, 1.0, "s"))
