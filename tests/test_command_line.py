"""`python -m helpers …`, as a learner types it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import __main__ as command_line
from helpers.registry import experiments
from tests import leftovers, probes

ROOT = Path(__file__).parent.parent
QUICK = ["start_here.first_costs", "repeats=5"]


def helpers(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = command_line.main(arguments)
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_list_is_as_the_design_fixes_it(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = helpers("list", "--json", capsys=capsys)
    rows = json.loads(out)
    assert status == 0 and [row["name"] for row in rows] == list(experiments())
    assert all(set(row) == {"name", "seconds", "claims", "needs", "parameters"} for row in rows)
    handoff = next(row for row in rows if row["name"] == "context_switching.handoff")
    assert handoff["parameters"]["between"]["allowed"] == "one of processes, threads, tasks, generators"


def test_list_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = helpers("list", capsys=capsys)
    assert "context_switching.handoff" in out and "a whole number from 5 to 50" in out


def test_claims_are_as_the_design_fixes_them(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = helpers("claims", "--json", capsys=capsys)
    wanted = {"id", "claim", "low", "high", "unit", "source", "here", "verdict", "notebook"}
    assert all(set(row) == wanted for row in json.loads(out))
    _, out, _ = helpers("claims", capsys=capsys)
    assert "run notebook 08" in out


def test_a_run_as_json_has_its_headline(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = helpers("run", *QUICK, "--json", capsys=capsys)
    record = json.loads(out)
    assert status == 0 and set(record["headline"]) == {"name", "median", "low", "high", "unit"}
    assert record["parameters"] == {"repeats": 5}


@pytest.mark.parametrize("way", [[], ["--here"], ["--under", sys.executable]])
def test_a_run_for_people(way: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = helpers("run", *QUICK, *way, capsys=capsys)
    assert status == 0 and "thread start: " in out.splitlines()[1] and "placement: free" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "context_switching.hadoff"], "did you mean context_switching.handoff?"),
        (["run", "context_switching.handoff", "betwen=threads"], "it has between, same_core, repeats, rounds"),
        (["run", "context_switching.handoff", "between=thread"], "one of processes, threads, tasks, generators"),
        (["run", "context_switching.handoff", "repeats=many"], "a whole number from 5 to 50"),
        (["run", "context_switching.handoff", "threads"], "write param=value, e.g. between=processes"),
    ],
)
def test_what_is_wrong_is_one_line_and_status_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = helpers(*arguments, capsys=capsys)
    assert (status, out) == (2, "")
    assert words in err and len(err.strip().splitlines()) == 1


def test_a_time_out_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = helpers("run", "context_switching.memory_ladder", "--timeout", "0.5", capsys=capsys)
    assert (status, out) == (1, "")
    assert "0.5 s" in err and len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("ValueError", "ValueError: ('three is not a prime', 3) (`--here` shows where)"),
        ("own", "not enough room"),
        ("memory", "MemoryError: the experiment needs more memory than its process may have (`--here` shows where)"),
        ("exit", "SystemExit: 3"),
        ("segfault", "the experiment's process was killed by SIGSEGV"),
    ],
)
def test_what_fails_over_there_is_one_line_and_status_1(
    how: str, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command_line, "find", lambda _: probes.fails)
    assert helpers("run", "probes.fails", f"how={how}", capsys=capsys) == (1, "", words + "\n")


def test_an_interpreter_that_is_none_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = helpers("run", *QUICK, "--under", "/no/such/python", capsys=capsys)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("/no/such/python: this interpreter does not start")


def test_a_reader_that_leaves_early() -> None:
    command = '"$0" -m helpers list | head -1'
    run = subprocess.run(["sh", "-c", command, sys.executable], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (len(run.stdout.splitlines()), run.stderr) == (1, "")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_ctrl_c_is_one_line_and_leaves_nothing() -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "helpers", "run", "context_switching.memory_ladder"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    leftovers.wait_until(lambda: bool(leftovers.processes(run.pid)), 20)
    time.sleep(0.5)
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=20)
    assert run.returncode == 130 and "interrupted" in err and "Traceback" not in err and not out
    assert leftovers.left_by(run.pid) == []


def test_importing_helpers_costs_next_to_nothing() -> None:
    """Nothing outside of the standard library, and under twice a bare start: medians of pairs taken in turn."""
    code = "import sys; before = set(sys.modules); import helpers; print(len(set(sys.modules) - before))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(shown.stdout) == 1
