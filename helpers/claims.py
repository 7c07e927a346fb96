"""The article's claims, what was measured here, and how the two stand to each other.

The claims are data (claims.toml). An experiment says in its decorator which of them it settles; this module finds
the learner's newest record of it and holds its figure, with its interval, against the claim.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from helpers.measure import Estimate, short
from helpers.record import Record
from helpers.tables import html_table, text_table

if TYPE_CHECKING:
    from helpers.ledger import Ledger

FILE = Path(__file__).with_name("claims.toml")
TOLERANCE = 0.5  # what a claim that gives one figure is granted either way, as a share of it
RULES = ("between", "at least", "at most", "yes")

Word = Literal["holds", "lower", "higher", "depends", "not observed"]


@dataclass(frozen=True)
class Claim:
    """One row of claims.toml, which says what the fields mean."""

    id: str
    claim: str
    unit: str
    source: str
    notebook: str
    rule: str
    low: float | None = None
    high: float | None = None
    point: float | None = None
    primary: str | None = None
    figure: str | None = None
    where: Mapping[str, Any] = field(default_factory=dict)
    absent: str | None = None

    def __post_init__(self) -> None:
        """Raises `ValueError` where the fields do not fit together."""
        bounds = (self.low is not None, self.high is not None)
        expected = {"between": (True, True), "at least": (True, False), "at most": (False, True), "yes": (False, False)}
        if self.rule not in RULES:
            raise ValueError(f"{self.id}: rule={self.rule!r}: a rule is one of {', '.join(RULES)}")
        if bounds != expected[self.rule]:
            raise ValueError(f"{self.id}: the rule {self.rule!r} and the bounds do not go together")

    @property
    def said(self) -> str:
        """The claim's figure as people write it: "1 to 10 µs", "about 1 ns", "at least 10,000 requests/s"."""
        if self.rule == "yes":
            return "yes"
        if self.point is not None:
            return f"about {short(self.point)} {self.unit}"
        if self.low == self.high and self.low is not None:
            return f"{short(self.low)} {self.unit}"
        ends = " to ".join(short(bound) for bound in (self.low, self.high) if bound is not None)
        return f"{ends if self.rule == 'between' else f'{self.rule} {ends}'} {self.unit}"


@dataclass(frozen=True)
class Verdict:
    """How an estimate stands to a claim, and why; `note` is what to bear in mind, e.g. a noisy machine."""

    word: Word
    why: str
    note: str = ""

    def __str__(self) -> str:
        """In a table: that it holds needs no reason."""
        parts = [self.word if self.word == "holds" else f"{self.word}: {self.why}", self.note]
        return "; ".join(part for part in parts if part)


@dataclass(frozen=True)
class Row:
    """A claim, what was measured here (in the claim's unit), the verdict, and the record that it rests on."""

    claim: Claim
    here: Estimate | None = None
    verdict: Verdict | None = None
    record: Record | None = None


# The claims


@functools.cache
def _all() -> dict[str, Claim]:
    with FILE.open("rb") as file:
        return {row["id"]: _read(row) for row in tomllib.load(file)["claims"]}


def _read(row: dict[str, Any]) -> Claim:
    """A row of the file. Raises `ValueError` for a field that no claim has."""
    known = {item.name for item in fields(Claim)}
    if unknown := set(row) - known:
        raise ValueError(f"{row['id']}: no claim has {', '.join(sorted(unknown))}; it has {', '.join(sorted(known))}")
    if "point" in row:
        row = {**row, "low": row["point"] * (1 - TOLERANCE), "high": row["point"] * (1 + TOLERANCE)}
    return Claim(**row)


def claims() -> list[Claim]:
    """Every claim, in the order of the series."""
    return list(_all().values())


def claim(id: str) -> Claim:
    """The claim of that id. Raises `ValueError` that suggests the nearest one."""
    if id in _all():
        return _all()[id]
    from difflib import get_close_matches

    near = get_close_matches(id, _all(), n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else "`python -m helpers claims` shows them all"
    raise ValueError(f"{id}: no such claim; {hint}")


# The verdict

# What one of each unit is in the first of its family
FAMILIES = (
    {"ns": 1.0, "µs": 1e3, "us": 1e3, "ms": 1e6, "s": 1e9},
    {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
)


def in_unit(estimate: Estimate, unit: str) -> Estimate | None:
    """The same estimate in another unit; None where the two units measure different things."""
    if estimate.unit == unit:
        return estimate
    for family in FAMILIES:
        if estimate.unit in family and unit in family:
            return estimate.scaled(family[estimate.unit] / family[unit], unit)
    return None


def verdict(claim: Claim, estimate: Estimate) -> Verdict:
    """Hold an estimate against a claim, by the claim's rule."""
    here = in_unit(estimate, claim.unit)
    if here is None:
        return Verdict("depends", f"measured in {estimate.unit}, claimed in {claim.unit}")
    if isnan(here.low) or isnan(here.high):
        return Verdict("depends", "the figure is not a number")
    word, why = _observed(here) if claim.rule == "yes" else _placed(claim, here)
    return Verdict(word, why, "; ".join(estimate.warnings))


def _placed(claim: Claim, here: Estimate) -> tuple[Word, str]:
    interval = f"{short(here.low)} to {short(here.high)} {claim.unit}"
    edges = []
    if claim.low is not None and here.low < claim.low:
        if here.high < claim.low:
            return "lower", f"all of {interval} is below {short(claim.low)}"
        edges.append(short(claim.low))
    if claim.high is not None and here.high > claim.high:
        if here.low > claim.high:
            return "higher", f"all of {interval} is above {short(claim.high)}"
        edges.append(short(claim.high))
    if edges:
        return "depends", f"the interval, {interval}, spans {' and '.join(edges)}"
    return "holds", f"all of {interval} is within what is claimed"


def _observed(here: Estimate) -> tuple[Word, str]:
    """The figure is the share of trials that showed the effect."""
    if here.low >= 1:
        return "holds", "seen in every trial"
    if here.high <= 0:
        return "not observed", "not seen in any trial"
    return "depends", f"seen in {here.median:.0%} of the trials"


# The table


def settle(ledger: Ledger | None = None) -> list[Row]:
    """Every claim with the learner's newest measurement of it and the verdict; open rows have neither."""
    if ledger is None:
        from helpers.ledger import ledger as this_process

        ledger = this_process()
    records = functools.cache(ledger.records)  # several claims rest on one experiment
    return [_settled(claim, _newest(claim, records)) for claim in claims()]


def _settled(claim: Claim, record: Record | None) -> Row:
    if record is None:
        return Row(claim)
    figures = record.figures()
    name = claim.figure or record.headline_name
    if name not in figures:
        return Row(claim, None, Verdict("depends", claim.absent or f"the run has no figure for {name}"), record)
    judged = verdict(claim, figures[name])
    noise = record.noise.warning() if record.noise else None
    notes = dict.fromkeys(note for note in (judged.note, noise, *record.warnings) if note)
    judged = replace(judged, note="; ".join(notes))
    return Row(claim, in_unit(figures[name], claim.unit) or figures[name], judged, record)


def _newest(claim: Claim, records: Callable[[str], list[Record]]) -> Record | None:
    """The newest record of any experiment that settles the claim, made on this learner's machine."""
    from helpers.registry import experiments

    names = [name for name, experiment in experiments().items() if claim.id in experiment.claims]
    found = [record for name in names if (record := next(_matching(claim, records(name)), None))]
    return max(found, key=lambda record: record.started, default=None)


def _matching(claim: Claim, records: Iterable[Record]) -> Iterator[Record]:
    for record in records:
        if record.reference is None and claim.where.items() <= record.parameters.items():
            yield record


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as `claims --json` prints them."""
    return [
        {
            "id": row.claim.id,
            "claim": row.claim.claim,
            "low": row.claim.low,
            "high": row.claim.high,
            "unit": row.claim.unit,
            "source": row.claim.source,
            "here": row.here and {name: getattr(row.here, name) for name in ("median", "low", "high", "unit")},
            "verdict": row.verdict and row.verdict.word,
            "notebook": row.claim.notebook,
        }
        for row in rows
    ]


HEADINGS = ("Claim", "Article", "Here", "Verdict")


def _cells(row: Row) -> tuple[str, str, str, str]:
    """Claim, article, here, verdict, in words."""
    if row.verdict is None:
        return (row.claim.claim, row.claim.said, "–", f"run notebook {row.claim.notebook}")
    return (row.claim.claim, row.claim.said, _in_words(row) if row.here else "–", str(row.verdict))


def _in_words(row: Row) -> str:
    """What was measured, in a unit that fits; of an effect, in how many trials it was seen."""
    assert row.here is not None
    if row.claim.rule == "yes":
        return f"in {row.here.median:.0%} of {len(row.here.samples)} trials"
    for units in (("s", "ms", "µs", "ns"), ("GB", "MB", "KB", "B")):
        for unit in units:
            fitting = in_unit(row.here, unit) if row.here.unit in units else None
            if fitting and fitting.median >= 1:
                return str(fitting)
    return str(row.here)


def table(rows: Sequence[Row]) -> str:
    """The rows for a terminal."""
    return text_table(HEADINGS, [_cells(row) for row in rows])


def html(rows: Sequence[Row]) -> str:
    """The rows as a table for a notebook; each claim's source shows when the mouse rests on it."""
    settled = sum(row.verdict is not None for row in rows)
    caption = f"The article's claims and your machine: {settled} of {len(rows)} settled"
    sources = [row.claim.source + (f". {row.claim.primary}" if row.claim.primary else "") for row in rows]
    return html_table(caption, HEADINGS, [_cells(row) for row in rows], notes=sources)
