"""The doctor: what this machine is, which experiments run on it, and what would let more of them run."""

from __future__ import annotations

from dataclasses import dataclass

from helpers import machine
from helpers.registry import Experiment, experiments
from helpers.tables import html_table, text_table
from helpers.testbed import postgres

HEADINGS = ("Experiment", "Seconds", "Here", "What would change that")


@dataclass(frozen=True)
class Row:
    """How one experiment stands to this machine: runs in full, scaled down, or is shown from the reference run."""

    name: str
    seconds: float
    here: str
    cures: tuple[str, ...]  # one line each: what is missing, and the step that would bring it

    def cells(self) -> tuple[str, str, str, str]:
        """The row of the table."""
        return (self.name, f"{self.seconds:g}", self.here, "; ".join(self.cures) or "–")


def rows() -> list[Row]:
    """One row per experiment."""
    return [_row(each) for each in experiments().values()]


def _row(experiment: Experiment) -> Row:
    if missing := experiment.missing():
        return Row(experiment.name, experiment.seconds, "reference run", tuple(missing))
    if scaled := experiment.scaled():
        return Row(experiment.name, experiment.seconds, "scaled down", tuple(scaled))
    return Row(experiment.name, experiment.seconds, "in full", ())


def html() -> str:
    """The experiments as a table for a notebook."""
    found = rows()
    full = sum(row.here == "in full" for row in found)
    caption = f"Experiments: {full} of {len(found)} run in full on this machine"
    return html_table(caption, HEADINGS, [row.cells() for row in found])


def card() -> str:
    """The machine's card as a table for a notebook."""
    return html_table("This machine", ("What", "Here"), _here())


def _here() -> list[tuple[str, str]]:
    """The machine's card, and the database that experiments use."""
    return [*machine.describe(), ("PostgreSQL", postgres.which())]


def text() -> str:
    """Everything, for a terminal: the card, the interpreters and toolchains found, the experiments."""
    pythons = [
        (f"Python {each.version}", "with the GIL" if each.gil else "without the GIL", each.found_by, each.path)
        for each in machine.interpreters()
    ]
    tools = [(each.name, each.version or "not found") for each in machine.toolchains()]
    parts = [
        ("This machine", text_table(("What", "Here"), _here())),
        ("Interpreters", text_table(("Version", "GIL", "Found by", "Path"), pythons)),
        ("Toolchains", text_table(("Tool", "Version"), tools)),
        ("Experiments", text_table(HEADINGS, [row.cells() for row in rows()])),
    ]
    return "\n\n".join(f"{title}\n\n{table}" for title, table in parts)
