"""What holds for every experiment, present and future."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from helpers import claims, machine, measure, sandbox
from helpers.registry import Experiment, experiments
from helpers.sandbox import Stopped, TimedOut, WorkerDied
from tests import leftovers

ROOT = Path(__file__).parent.parent
EVERY = experiments()
US = os.getpid()
AT_ONCE = len(machine.cores()) + 1

each_experiment = pytest.mark.parametrize("experiment", EVERY.values(), ids=list(EVERY))
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets Linux limits")


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


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> dict[str, Future[Any]]:
    """One real run of each, as small as it goes, in the sandbox; a few at once, for their figures are not looked at."""

    def run(experiment: Experiment[..., Any]) -> Any:
        return experiment.run(on_progress=lambda *_: None, **smallest(experiment))

    with ThreadPoolExecutor(
        AT_ONCE
    ) as pool:  # left when all are done: tests that look for processes find none of these
        return {name: pool.submit(run, EVERY[name]) for name in chosen(request)}


@each_experiment
def test_its_record_is_complete_and_survives_json(
    experiment: Experiment[..., Any], runs: dict[str, Future[Any]]
) -> None:
    record = runs[experiment.name].result()
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
@each_experiment
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


# On a poor machine: it runs, or says in one line why not

POOR = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
os.sched_setaffinity(0, {{{machine.cores()[0]}}})
from helpers.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def poor_runs(request: pytest.FixtureRequest) -> dict[str, Future[Any]]:
    """The smallest run of each with one core, few descriptors and little memory; a few at once: nothing is measured."""

    def run(experiment: Experiment[..., Any]) -> subprocess.CompletedProcess[str]:
        values = [f"{name}={value}" for name, value in smallest(experiment).items()]
        command = [sys.executable, "-c", POOR, "run", experiment.name, *values]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return {name: pool.submit(run, EVERY[name]) for name in chosen(request)}


@on_linux
@each_experiment
def test_it_runs_on_a_poor_machine_or_says_why_not(experiment: Experiment[..., Any], poor_runs: dict[str, Any]) -> None:
    done = poor_runs[experiment.name].result()
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == 0 or len(done.stderr.strip().splitlines()) == 1, done.stderr
