"""The claims as data, the verdict's rules, and the ledger's table in text, HTML and JSON."""

import ast
import importlib
import inspect
import math
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import claims as claims_
from helpers import registry
from helpers.claims import Claim, Row, Verdict, claim, claims, settle, table, to_json, verdict
from helpers.ledger import Ledger
from helpers.measure import BELOW_NOISE, Estimate, Noise
from helpers.record import Record

# The table "Claims to settle" of the curriculum, row by row
CURRICULUM = {
    "memory of a process": ["process-memory"],
    "memory of a thread": ["thread-memory-virtual", "thread-memory-resident"],
    "one process's crash": ["process-crash"],
    "one thread's crash": ["thread-crash"],
    "direct switch": ["direct-switch"],
    "L1, L2, L3, RAM": ["l1-latency", "l2-latency", "l3-latency", "ram-latency"],
    'after a switch the cache is "invalid"': ["cache-invalid"],
    "TCP, TLS, auth, session, total": ["tcp-connect", "tls", "db-auth", "db-session", "db-connect-total"],
    "from the pool": ["pool-checkout", "pool-speedup"],
    "without / with a pool": ["no-pool-throughput", "pool-throughput", "no-pool-latency", "pool-latency"],
    "thread per connection": [
        "thread-per-connection-limit",
        "thread-per-connection-memory",
        "thread-per-connection-crash",
    ],
    "pool of 200 threads": ["thread-pool-memory", "thread-pool-queue"],
    "event loop at 10,000 connections": ["event-loop-memory", "event-loop-latency"],
    "event loop": ["event-loop-connections"],
    "CPU work on the loop": ["event-loop-blocking"],
    "threads in Python": ["python-threads-cpu", "python-threads-io", "python-multiprocessing-only"],
    "goroutine": ["goroutine-memory", "goroutine-count"],
    "virtual threads": ["virtual-thread-count"],
    "Node.js": ["node-connections", "libuv-pool"],
    "pool size": ["pool-size-formula", "pool-size-cores"],
    "100,000 by thread per connection": ["thread-per-connection-100k"],
}
EXPERIMENTS = registry.experiments()
DECLARED = {id for experiment in EXPERIMENTS.values() for id in experiment.claims}


# The data


def test_every_row_of_the_curriculum_is_a_claim_once() -> None:
    expected = [id for ids in CURRICULUM.values() for id in ids]
    assert sorted(expected) == sorted(claim.id for claim in claims())
    assert len(set(expected)) == len(expected)


@pytest.mark.parametrize("each", claims(), ids=lambda each: each.id)
def test_a_claim_is_complete(each: Claim) -> None:
    assert each.rule in claims_.RULES
    assert each.notebook in {f"{number:02}" for number in range(13)}
    assert each.source.startswith("article, ")
    assert 10 < len(each.claim) <= 80 and not each.claim.endswith(".")
    assert each.low is None or each.high is None or 0 < each.low <= each.high
    assert each.said
    if each.point is not None:
        assert (each.low, each.high) == (each.point / 2, each.point * 1.5)


def test_ids_in_the_file_are_unique() -> None:
    ids = [line.split('"')[1] for line in claims_.FILE.read_text().splitlines() if line.startswith("id = ")]
    assert len(ids) == len(set(ids)) == len(claims())


def test_the_article_figures_of_notebook_03() -> None:
    bounds = {each.id: (each.low, each.high, each.unit) for each in claims() if each.notebook == "03"}
    assert bounds == {
        "direct-switch": (1, 10, "µs"),
        "l1-latency": (0.5, 1.5, "ns"),
        "l2-latency": (2, 6, "ns"),
        "l3-latency": (5, 15, "ns"),
        "ram-latency": (60, 100, "ns"),
        "cache-invalid": (0.5, 1.5, "x"),
    }


def test_experiments_declare_claims_that_exist() -> None:
    for id in DECLARED:
        claim(id)


def settled_by(id: str) -> list[registry.Experiment[..., Record]]:
    return [experiment for experiment in EXPERIMENTS.values() if id in experiment.claims]


BOUND = [each for each in claims() if each.figure or each.where]


@pytest.mark.parametrize("each", BOUND, ids=lambda each: each.id)
def test_a_claim_bound_to_an_experiment_fits_it(each: Claim) -> None:
    modules = [f"helpers.experiments.{experiment.module}" for experiment in settled_by(each.id)]
    if not modules and not any(path.stem == "context_switching" for path in experiment_files()):
        pytest.skip("its experiment is not there yet")
    assert modules, "no experiment declares it"
    for experiment in settled_by(each.id):
        for name, value in each.where.items():
            experiment.parameters[name].check(value)
    if each.figure:
        source = "".join(inspect.getsource(importlib.import_module(module)) for module in modules)
        strings = {node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)}
        assert each.figure in strings, "no figure of that name in the experiment's module"


def experiment_files() -> list[Path]:
    import helpers.experiments

    return list(Path(helpers.experiments.__path__[0]).glob("*.py"))


def test_a_wrong_id_names_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean direct-switch"):
        claim("direct-swich")
    with pytest.raises(ValueError, match="helpers claims"):
        claim("?")


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"rule": "sometimes"}, "a rule is one of"),
        ({"rule": "between", "low": 1}, "do not go together"),
        ({"rule": "yes", "low": 1}, "do not go together"),
        ({"rule": "at least", "low": 1, "colour": "red"}, "no claim has colour"),
    ],
)
def test_a_wrong_row_is_refused(fields: dict[str, Any], word: str) -> None:
    row = {"id": "new", "claim": "…", "unit": "s", "source": "article", "notebook": "01"}
    with pytest.raises(ValueError, match=word):
        claims_._read(row | fields)


# The verdict


def ruled(rule: str, low: float | None = None, high: float | None = None, unit: str = "µs") -> Claim:
    return Claim("new", "Something takes time", unit, "article", "03", rule, low, high)


def between_ends(low: float, high: float, unit: str = "µs") -> Estimate:
    return Estimate((low + high) / 2, low, high, unit)


@pytest.mark.parametrize(
    ("rule", "bounds", "interval", "word"),
    [
        ("between", (1, 10), (2, 3), "holds"),
        ("between", (1, 10), (1, 10), "holds"),
        ("between", (1, 10), (0.2, 0.9), "lower"),
        ("between", (1, 10), (11, 12), "higher"),
        ("between", (1, 10), (0.9, 1.1), "depends"),
        ("between", (1, 10), (0.9, 1), "depends"),
        ("between", (1, 10), (9, 11), "depends"),
        ("between", (1, 10), (10, 11), "depends"),
        ("between", (1, 10), (0, 20), "depends"),
        ("between", (1, 10), (-2, -1), "lower"),
        ("between", (1, 10), (math.nan, math.nan), "depends"),
        ("at least", (5, None), (5, 9), "holds"),
        ("at least", (5, None), (1, 2), "lower"),
        ("at least", (5, None), (4, 6), "depends"),
        ("at most", (None, 5), (1, 5), "holds"),
        ("at most", (None, 5), (6, 7), "higher"),
        ("at most", (None, 5), (4, 6), "depends"),
        ("yes", (None, None), (1, 1), "holds"),
        ("yes", (None, None), (0, 0), "not observed"),
        ("yes", (None, None), (0, 1), "depends"),
        ("yes", (None, None), (0.4, 0.6), "depends"),
    ],
)
def test_the_rules(
    rule: str, bounds: tuple[float | None, float | None], interval: tuple[float, float], word: str
) -> None:
    assert verdict(ruled(rule, *bounds), between_ends(*interval)).word == word


def test_why() -> None:
    held = ruled("between", 1, 10)
    assert verdict(held, between_ends(9, 11)).why == "the interval, 9 to 11 µs, spans 10"
    assert verdict(held, between_ends(0, 20)).why == "the interval, 0 to 20 µs, spans 1 and 10"
    assert verdict(held, between_ends(20, 30)).why == "all of 20 to 30 µs is above 10"
    assert verdict(ruled("yes"), Estimate(0.4, 0.2, 0.6, "µs")).why == "seen in 40% of the trials"


def test_the_estimates_own_warnings_are_noted() -> None:
    estimate = replace(between_ends(2, 3), warnings=(BELOW_NOISE,))
    assert verdict(ruled("between", 1, 10), estimate).note == BELOW_NOISE


def test_units_of_one_family_are_converted_and_others_are_not() -> None:
    assert verdict(ruled("between", 1, 10), between_ends(2000, 3000, "ns")).word == "holds"
    assert verdict(ruled("at most", None, 3, "MB"), between_ends(2, 2.5, "MiB")).word == "holds"
    assert verdict(ruled("between", 1, 10), between_ends(2, 3, "MB")) == Verdict(
        "depends", "measured in MB, claimed in µs"
    )


positive = st.floats(1e-3, 1e6)


def ordered(one: float, other: float) -> Claim:
    return ruled("between", min(one, other), max(one, other))


@given(bounds=st.tuples(positive, positive), interval=st.tuples(positive, positive), power=st.integers(-12, 12))
def test_the_verdict_does_not_depend_on_scale(
    bounds: tuple[float, float], interval: tuple[float, float], power: int
) -> None:
    factor = 2.0**power  # exact, so that no rounding crosses an edge
    small = verdict(ordered(*bounds), between_ends(min(interval), max(interval)))
    scaled = between_ends(min(interval) * factor, max(interval) * factor)
    assert verdict(ordered(bounds[0] * factor, bounds[1] * factor), scaled).word == small.word


@given(bounds=st.tuples(positive, positive), interval=st.tuples(positive, positive), more=st.floats(0, 1e6))
def test_a_larger_figure_never_gets_a_lower_verdict(
    bounds: tuple[float, float], interval: tuple[float, float], more: float
) -> None:
    held = ordered(*bounds)
    low, high = sorted(interval)
    before, after = (verdict(held, between_ends(low + add, high + add)).word for add in (0.0, more))
    if before == "higher":
        assert after == "higher"
    if after == "lower":
        assert before == "lower"


@given(bounds=st.tuples(positive, positive), interval=st.tuples(positive, positive), wider=st.floats(0, 1e3))
def test_less_certainty_never_gives_a_firmer_verdict(
    bounds: tuple[float, float], interval: tuple[float, float], wider: float
) -> None:
    held = ordered(*bounds)
    low, high = sorted(interval)
    before, after = (verdict(held, between_ends(low - add, high + add)).word for add in (0.0, wider))
    assert after in (before, "depends")


# The table


@dataclass(frozen=True, kw_only=True)
class Switch(Record):
    cost: Estimate
    steps: dict[str, Estimate]

    headline_name: ClassVar[str] = "one switch"

    def figures(self) -> dict[str, Estimate]:
        return {"one switch": self.cost} | self.steps


def switch(between: Literal["processes", "threads"] = "processes", *, same_core: bool = True) -> Switch:
    raise NotImplementedError


def made(cost: Estimate | None = None, *, between: str = "processes", same_core: bool = True, **fields: Any) -> Switch:
    fields = {"steps": {}, "started": "2025-01-01T00:00:00Z", **fields}
    parameters = {"between": between, "same_core": same_core}
    return Switch(experiment="fake.switch", parameters=parameters, cost=cost or between_ends(2, 3), **fields)


@pytest.fixture
def book(monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """An empty ledger, and one experiment that settles two claims in place of those of the series."""
    monkeypatch.setattr(switch, "__module__", "helpers.experiments.fake")
    fake = registry.Experiment(switch, seconds=1, claims=["direct-switch", "l3-latency"], needs=(), wants=())
    monkeypatch.setattr(registry, "_registry", {"fake.switch": fake})
    return Ledger(":memory:")


def row(book: Ledger, id: str = "direct-switch") -> Row:
    return next(row for row in settle(book) if row.claim.id == id)


def test_an_empty_ledger_leaves_all_open(book: Ledger) -> None:
    rows = settle(book)
    assert [row.claim for row in rows] == claims()
    assert all((row.here, row.verdict, row.record) == (None, None, None) for row in rows)


def test_a_record_settles_its_claim(book: Ledger) -> None:
    record = made(between_ends(2000, 3000, "ns"))
    book.keep(record)
    found = row(book)
    assert found.verdict and found.verdict.word == "holds"
    assert found.here and (found.here.low, found.here.high, found.here.unit) == (2.0, 3.0, "µs")
    assert found.record == record


def test_the_newest_counts_and_only_with_the_right_parameters(book: Ledger) -> None:
    book.keep(made(between_ends(20, 30)))
    book.keep(made(between_ends(2, 3)))
    book.keep(made(between_ends(40, 50), between="threads"))
    book.keep(made(between_ends(40, 50), same_core=False))
    assert (found := row(book).here) and found.median == 2.5


def test_the_reference_run_is_not_here(book: Ledger) -> None:
    book.keep(made(reference="another machine"))
    assert row(book).verdict is None
    book.keep(made(between_ends(20, 30)))
    book.keep(made(reference="another machine"))
    assert (found := row(book).verdict) and found.word == "higher"


def test_a_figure_that_the_newest_record_lacks(book: Ledger) -> None:
    book.keep(made(steps={"L3": between_ends(9, 11, "ns")}))
    assert (found := row(book, "l3-latency").verdict) and found.word == "holds"
    book.keep(made())
    found = row(book, "l3-latency").verdict
    assert found == Verdict("depends", "no L3 step was seen on this machine")
    assert row(book, "l3-latency").here is None


def test_a_noisy_machine_is_noted(book: Ledger) -> None:
    book.keep(made(noise=Noise("busy", stolen=0.5)))
    found = row(book).verdict
    assert found and found.word == "holds"
    assert str(found) == "holds; busy machine: the hypervisor took 50% of a core"


def test_json(book: Ledger) -> None:
    book.keep(made(between_ends(2, 3)))
    rows = {each["id"]: each for each in to_json(settle(book))}
    assert list(rows) == [each.id for each in claims()]
    assert rows["direct-switch"] == {
        "id": "direct-switch",
        "claim": "A context switch takes 1 to 10 µs",
        "low": 1,
        "high": 10,
        "unit": "µs",
        "source": "article, Context Switching: The Real Cost",
        "here": {"median": 2.5, "low": 2.0, "high": 3.0, "unit": "µs"},
        "verdict": "holds",
        "notebook": "03",
    }
    assert (rows["pool-throughput"]["here"], rows["pool-throughput"]["verdict"]) == (None, None)
    assert (rows["pool-throughput"]["low"], rows["pool-throughput"]["high"]) == (10_000, None)
    assert rows["l3-latency"]["here"] is None and rows["l3-latency"]["verdict"] == "depends"


@pytest.mark.parametrize("columns", [40, 80, 100, 200])
def test_the_text_table(book: Ledger, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    book.keep(made(between_ends(20, 30)))
    lines = table(settle(book)).splitlines()
    assert max(map(len, lines)) <= max(columns, 80)
    text = " ".join(" ".join(lines).split())
    for words in ("Claim", "Article", "1 to 10", "25 µs", "higher", "notebook", "10,000"):
        assert words in text


class Reader(HTMLParser):
    """Every tag with its attributes, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_html_table(book: Ledger) -> None:
    book.keep(made(between_ends(20, 30)))
    rows = settle(book)
    rows.append(Row(replace(rows[0].claim, claim='<script>alert("x")</script> & more', source='a "quoted" <b>')))
    reader = Reader()
    reader.feed(claims_.html(rows))
    assert reader.open == []
    names = [tag for tag, _ in reader.tags]
    assert (names.count("caption"), names.count("thead"), names.count("tr")) == (1, 1, len(rows) + 1)
    assert not {"script", "img", "b"} & set(names)
    scopes = [attributes.get("scope") for tag, attributes in reader.tags if tag == "th"]
    assert scopes == ["col"] * 4 + ["row"] * len(rows)
    assert '<script>alert("x")</script> & more' in reader.text and "run notebook 01" in reader.text
    styles = " ".join(attributes.get("style") or "" for _, attributes in reader.tags)
    assert "#" not in styles and "rgb" not in styles  # the page's colours, light or dark
