"""What holds for every experiment, present and future."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from helpers import claims, machine, measure, sandbox
from helpers.registry import Experiment, decode, experiments
from helpers.sandbox import Stopped, TimedOut, WorkerDied
from tests import leftovers

ROOT = Path(__file__).parent.parent
EVERY = experiments()
US = os.getpid()
AT_ONCE = len(machine.cores()) + 1

each_experiment = pytest.mark.parametrize("experiment", EVERY.values(), ids=list(EVERY))
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets Linux limits")


def one_of_each_notebook() -> list[Experiment[..., Any]]:
    """The one that takes longest."""
    by_length = sorted(EVERY.values(), key=lambda each: each.seconds)
    return list({each.name.partition(".")[0]: each for each in by_length}.values())


def smallest(experiment: Experiment[..., Any]) -> dict[str, Any]:
    """The quickest run that it allows: the lower bound of every number."""
    return {name: each.least for name, each in experiment.parameters.items()}


def chosen(request: pytest.FixtureRequest) -> list[str]:
    """The experiments that this session tests."""
    tested = [item.callspec.params.get("experiment") for item in request.session.items if hasattr(item, "callspec")]
    return list(dict.fromkeys(each.name for each in tested if each is not None))


def wrong_values(parameter: Any) -> list[Any]:
    wrong: list[Any] = [None, "", math.nan, math.inf, 10**30, -(10**30), [], {}, object()]
    if parameter.low is not None:
        wrong += [parameter.low - 1, parameter.high + 1, str(parameter.default), True]
    if parameter.kind is bool:
        wrong += [0, 1, "true"]
    return wrong


@each_experiment
def test_wrong_values_are_refused_before_anything_starts(
    experiment: Experiment[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    parameters = experiment.parameters
    monkeypatch.setattr(sandbox, "run", lambda *_, **__: pytest.fail("it started"))
    monkeypatch.setattr(experiment, "function", lambda **_: pytest.fail("it started"))
    for name, parameter in parameters.items():
        for value in wrong_values(parameter):
            for call in (experiment, experiment.here):
                with pytest.raises(ValueError) as error:
                    call(**{name: value})
                assert name in str(error.value) and parameter.allowed in str(error.value)


@each_experiment
def test_it_says_what_it_is(experiment: Experiment[..., Any]) -> None:
    assert experiment.__doc__ and len(experiment.__doc__.splitlines()[0]) < 120
    assert 0 < experiment.seconds <= 60
    assert set(experiment.claims) <= {each.id for each in claims.claims()}
    assert experiment.check() == {name: each.default for name, each in experiment.parameters.items()}
    assert all(need.__doc__ for need in (*experiment.needs, *experiment.wants))


# On a poor machine it runs, or says in one line why not; and its record is complete

POOR = f"""
import contextlib, json, os, resource, sys, traceback
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
os.sched_setaffinity(0, {{{machine.cores()[0]}}})
from helpers.__main__ import main
for arguments in map(json.loads, sys.argv[1:]):
    with open(arguments[1] + ".json", "w") as answer, open(arguments[1] + ".txt", "w") as words:
        os.dup2(words.fileno(), 2)
        with contextlib.redirect_stdout(answer):
            try:
                main(arguments)
            except BaseException:
                traceback.print_exc()
"""


class PoorRun(NamedTuple):
    """The smallest run of an experiment with one core, few descriptors and little memory."""

    answer: str  # the record as JSON
    words: str  # what was said on stderr


@pytest.fixture(scope="module")
def poor_runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, PoorRun]:
    """Of each experiment one; a few at once, for their figures are not looked at."""
    folder, names = tmp_path_factory.mktemp("poor"), chosen(request)
    if not sys.platform.startswith("linux"):
        return dict.fromkeys(names, PoorRun("", ""))

    def arguments(name: str) -> str:
        values = [f"{parameter}={value}" for parameter, value in smallest(EVERY[name]).items()]
        return json.dumps(["run", name, *values, "--json"])

    def run(some: list[str]) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", POOR, *map(arguments, some)], cwd=folder, env=environment, timeout=300)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(run, [names[first::AT_ONCE] for first in range(AT_ONCE)]))
    return {name: PoorRun(*((folder / f"{name}.{kind}").read_text() for kind in ("json", "txt"))) for name in names}


@on_linux
@pytest.mark.timeout(400)
@each_experiment
def test_it_runs_on_a_poor_machine_or_says_why_not(
    experiment: Experiment[..., Any], poor_runs: dict[str, PoorRun]
) -> None:
    run = poor_runs[experiment.name]
    assert "Traceback" not in run.words, run.words
    assert run.answer or len(run.words.strip().splitlines()) == 1, run.words


@pytest.mark.timeout(400)
@each_experiment
def test_its_record_is_complete_and_survives_json(
    experiment: Experiment[..., Any], poor_runs: dict[str, PoorRun]
) -> None:
    if answer := poor_runs[experiment.name].answer:
        record = decode(json.loads(answer))
    else:
        record = experiment.run(on_progress=lambda *_: None, **smallest(experiment))
    assert type(record).from_json(json.loads(json.dumps(record.to_json()))) == record
    assert record.headline_name in record.figures()
    assert record.experiment == experiment.name and record.parameters == smallest(experiment)
    assert record.placement and record.subtracted and record.started
    assert record.noise is not None or record.seconds < measure.SHORTEST_S
    assert record.machine["cores_online"] and record.machine["python_version"]
    for name, figure in record.figures().items():
        assert figure.low <= figure.median <= figure.high, name
        assert figure.samples and figure.unit and math.isfinite(figure.median)


# However it ends, nothing is left


def begun(experiment: Experiment[..., Any], **how: Any) -> tuple[threading.Thread, list[BaseException]]:
    """A full run in a thread, once its worker is there."""
    ends: list[BaseException] = []

    def run() -> None:
        try:
            experiment.run(on_progress=lambda *_: None, **how)
        except BaseException as error:
            ends.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert leftovers.wait_until(lambda: len(leftovers.processes(US)) >= 2)
    time.sleep(0.3)
    return thread, ends


@on_linux
@each_experiment
def test_stop_time_out_and_kill_leave_nothing(experiment: Experiment[..., Any]) -> None:
    stop = threading.Event()
    thread, ends = begun(experiment, stop=stop)
    stop.set()
    thread.join()
    with pytest.raises(TimedOut):
        experiment.run(on_progress=lambda *_: None, timeout=0.3)
    killed, deaths = begun(experiment)
    os.kill(leftovers.guard_and_worker(US)[1], signal.SIGKILL)
    killed.join()
    assert [type(end) for end in ends + deaths] == [Stopped, WorkerDied]
    assert leftovers.left_by(US) == []


@on_linux
@pytest.mark.parametrize("experiment", one_of_each_notebook(), ids=lambda each: each.name)
def test_an_interrupt_leaves_nothing(experiment: Experiment[..., Any]) -> None:
    run = subprocess.Popen(
        [sys.executable, "-m", "helpers", "run", experiment.name], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    assert leftovers.wait_until(lambda: len(leftovers.processes(run.pid)) >= 2, 20)
    time.sleep(0.3)
    run.send_signal(signal.SIGINT)
    _, words = run.communicate(timeout=20)
    assert run.returncode == 130 and "Traceback" not in words
    assert leftovers.left_by(run.pid) == []
