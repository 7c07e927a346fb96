"""On a poor machine the doctor has words, and the experiments run smaller or are shown from the reference run."""

import io
from contextlib import redirect_stderr

import pytest

from helpers import doctor, machine, reference, registry, sandbox
from helpers.experiments.context_switching import handoff, memory_ladder
from helpers.registry import Unavailable
from helpers.tables import html_table, text_table
from helpers.testbed import postgres


def row(name: str) -> doctor.Row:
    return next(each for each in doctor.rows() if each.name == name)


def lacking(monkeypatch: pytest.MonkeyPatch, experiment: registry.Experiment, kind: str, word: str) -> None:
    monkeypatch.setattr(experiment, kind, (lambda: word,))


def test_every_experiment_has_a_row() -> None:
    assert {each.name for each in doctor.rows()} == set(registry.experiments())


def test_what_lacks_a_need_is_shown_from_the_reference_run(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, memory_ladder, "needs", "no numba: pip install numba")
    found = row("context_switching.memory_ladder")
    assert found.here == "reference run" and found.cures == ("no numba: pip install numba",)


def test_what_lacks_a_want_is_scaled_down(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, handoff, "wants", "no pinning here")
    assert row("context_switching.handoff").here == "scaled down"


def test_the_reference_run_stands_in_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, memory_ladder, "needs", "no numba: pip install numba")
    monkeypatch.setattr(sandbox, "run", lambda *_, **__: pytest.fail("it must not start"))
    record = memory_ladder()
    assert record.reference
    assert "not measured here: no numba: pip install numba" in record.warnings


def test_without_a_reference_record_it_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch, memory_ladder, "needs", "no numba: pip install numba")
    monkeypatch.setattr(reference, "record", lambda *_, **__: None)
    with pytest.raises(Unavailable) as error:
        memory_ladder()
    assert "pip install numba" in str(error.value) and "\n" not in str(error.value)


def test_unpinned_on_one_core_it_runs_with_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "pinning", lambda: "this system pins nothing")
    record = handoff.here("processes", repeats=5, rounds=1)
    assert record.placement == "free" and "this system pins nothing" in record.warnings[0]


def test_the_text_names_everything() -> None:
    with redirect_stderr(io.StringIO()) as complaints:
        text = doctor.text()
    assert not complaints.getvalue()
    for words in ("This machine", "Interpreters", "Toolchains", "Experiments", "context_switching.handoff", "Cores"):
        assert words in text


def test_it_says_which_database_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(postgres.VARIABLE, "postgresql://me:secret@db/db")
    assert "the server that HELPERS_POSTGRES names" in doctor.card().replace("<wbr>", "")
    assert "secret" not in doctor.text() and "HELPERS_POSTGRES" in doctor.text()
    monkeypatch.delenv(postgres.VARIABLE)
    if postgres.installations():
        assert str(postgres.installations()[0]) in doctor.card()
    monkeypatch.setattr(postgres, "_folders", lambda: iter(()))
    assert "no PostgreSQL was found" in doctor.card()


def test_tables_escape_what_they_are_given() -> None:
    page = html_table("<caption>", ("<a>", "b"), [("<i>", "&")], notes=['"quoted"'])
    assert "<i>" not in page and "&lt;i&gt;" in page and "&quot;quoted&quot;" in page


@pytest.mark.parametrize("columns", [80, 100, 200])
def test_text_tables_fit_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = text_table(("a", "b", "c"), [("x" * 7, "word " * 30, "other " * 40)]).splitlines()
    assert max(map(len, lines)) <= columns
    assert "x" * 7 in lines[2]
