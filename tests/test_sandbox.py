"""The sandbox under faults that really happen: every one leaves nothing, and says in words what it was."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest

from helpers import machine, sandbox, worker
from tests import leftovers

ROOT = Path(__file__).parent.parent
PROBES = "tests.probes"
US = os.getpid()

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Whatever a test here does."""
    yield
    assert leftovers.left_by(US) == []


def seen(function: str = "surroundings", parameters: dict[str, Any] | None = None, **how: Any) -> dict[str, Any]:
    found: dict[str, Any] = sandbox.run(PROBES, function, parameters or {}, **how)["seen"]
    return found


# A run that ends well


def test_the_record_comes_back() -> None:
    record = sandbox.run(PROBES, "nothing", {})
    assert record["experiment"] == "probes.nothing"
    assert record["headline"] == {"name": "value", "median": 2.0, "low": 1.0, "high": 3.0, "unit": "s"}
    assert record["noise"] is None  # too short to tell
    assert json.loads(json.dumps(record)) == record


def test_it_runs_in_a_process_of_its_own() -> None:
    there = seen()
    assert there["pid"] != US
    assert there["leads_its_session"]
    assert there["threads"] == 1
    assert there["python"] == sys.executable
    assert not {"pytest", "IPython", "numpy"} & set(there["modules"].split(","))


def test_it_finds_what_is_installed() -> None:
    """It starts without `site`, and gets the parent's path instead."""
    assert seen("imports", {"name": "psutil"})["file"] == pytest.importorskip("psutil").__file__
    assert seen("imports")["prefix"] == sys.prefix


def test_modules_that_load_late_are_whole_in_the_end() -> None:
    assert seen("late_modules") == {"inspect": True, "copy": True, "annotations": True, "same": True}


def test_printing_does_not_get_among_the_answers(capfd: pytest.CaptureFixture[str]) -> None:
    assert seen()["leads_its_session"]
    assert capfd.readouterr() == ("", "")


def test_large_records_come_through() -> None:
    assert len(seen("large", {"size": 3_000_000})["text"]) == 3_000_000


def test_a_record_that_is_slow_to_arrive_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine the reader may come late, when worker and guard have ended."""
    receive = worker.receive

    def slowly(descriptor: int) -> Any:
        message = receive(descriptor)
        time.sleep(0.4 if message and "record" in message else 0)
        return message

    monkeypatch.setattr(worker, "receive", slowly)
    assert sandbox.run(PROBES, "nothing", {})["experiment"]


def test_a_value_that_is_not_plain_is_named() -> None:
    with pytest.raises(ValueError, match="unmarshallable"):
        seen("odd_value")


def test_progress_is_reported() -> None:
    steps: list[tuple[int, int]] = []
    seen("reports", {"steps": 4, "pause": 0.11}, on_progress=lambda *step: steps.append(step))
    assert steps == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_what_it_leaves_running_is_ended() -> None:
    assert seen("holds_everything", {"note": "orphans", "seconds": 0.0})["children"] == 2


def test_beside_a_running_event_loop() -> None:
    async def cell() -> dict[str, Any]:
        return seen("uses_multiprocessing")

    assert asyncio.run(cell()) == {"total": 6}


def test_many_at_once() -> None:
    with ThreadPoolExecutor(4) as pool:
        pids = list(pool.map(lambda _: seen()["pid"], range(8)))
    assert len(set(pids)) == 8


def test_a_run_leaves_no_descriptor_open() -> None:
    seen()
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        seen()
    assert len(os.listdir("/proc/self/fd")) == len(before)


# A run that ends badly


@pytest.mark.parametrize(
    ("how", "kind", "words"),
    [
        ("ValueError", ValueError, "three is not a prime"),
        ("own", machine.TooSmall, "^not enough room$"),
        ("file", FileNotFoundError, "'/no/such/file'"),
        ("memory", MemoryError, "needs more memory than its process may have"),
        ("unpicklable", sandbox.SandboxError, "^Odd: odd$"),
        ("exit", sandbox.SandboxError, "^SystemExit: 3$"),
    ],
)
def test_its_error_comes_back_as_itself(how: str, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words) as caught:
        seen("fails", {"how": how})
    assert type(caught.value) is kind
    there = str(caught.value.__cause__)
    assert "in the experiment's process" in there
    assert "probes.py" in there and "in fails" in there


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("segfault", "was killed by SIGSEGV"),
        ("kill", "was killed by SIGKILL .*perhaps it ran out of memory"),
        ("print", "ended with status 7 and no record; its last words: about to go"),
    ],
)
def test_the_end_of_its_process_is_told(how: str, words: str) -> None:
    with pytest.raises(sandbox.WorkerDied, match=words) as caught:
        seen("fails", {"how": how})
    assert "\n" not in str(caught.value)


def test_time_out() -> None:
    start = time.monotonic()
    with pytest.raises(sandbox.TimedOut, match=r"not finished after 0\.3 s"):
        seen("holds_everything", timeout=0.3)
    assert time.monotonic() - start < 2


def test_stop_and_the_next_run_works() -> None:
    stop = threading.Event()
    threading.Timer(0.3, stop.set).start()
    start = time.monotonic()
    with pytest.raises(sandbox.Stopped):
        seen("holds_everything", stop=stop)
    assert time.monotonic() - start < 2
    assert seen()["leads_its_session"]


def test_stop_before_the_start() -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(sandbox.Stopped):
        seen(stop=stop)


def test_a_listener_that_fails_ends_the_run() -> None:
    def fail(done: int, total: int) -> None:
        raise RuntimeError("no bar today")

    with pytest.raises(RuntimeError, match="no bar today"):
        seen("holds_everything", on_progress=fail)


# Killed


@contextmanager
def run_that_holds_everything(port: int) -> Iterator[Future[Any]]:
    """A run in another thread that has got hold of everything."""
    holding = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(
            seen, "holds_everything", {"note": "orphans", "port": port}, on_progress=lambda *_: holding.set()
        )
        assert holding.wait(10) or run.result()
        assert leftovers.is_listening(port)
        assert len(leftovers.processes(US)) >= 5
        yield run


def test_kill_9_of_the_worker() -> None:
    port = leftovers.free_port()
    with run_that_holds_everything(port) as run:
        leftovers.kill(leftovers.guard_and_worker(US)[1])
        with pytest.raises(sandbox.WorkerDied, match="SIGKILL"):
            run.result(leftovers.SECONDS)
    assert leftovers.left_by(US, port) == []


def test_kill_9_of_the_guard() -> None:
    port = leftovers.free_port()
    with run_that_holds_everything(port) as run:
        leftovers.kill(leftovers.guard_and_worker(US)[0])
        with pytest.raises(sandbox.WorkerDied, match="its guard was killed"):
            run.result(leftovers.SECONDS)
    assert leftovers.left_by(US, port) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_guard_stays_when_it_is_asked_to_leave(number: int) -> None:
    port = leftovers.free_port()
    with run_that_holds_everything(port) as run:
        guard, running = leftovers.guard_and_worker(US)
        os.kill(guard, number)
        time.sleep(0.1)
        assert leftovers.parent(running) == guard
        leftovers.kill(running)
        with pytest.raises(sandbox.WorkerDied):
            run.result(leftovers.SECONDS)
    assert leftovers.left_by(US, port) == []


HOLD = """
import os, sys, threading
sys.path.insert(0, {root!r})
from helpers import sandbox
def ready(*_):
    print("ready", flush=True)
try:
    sandbox.run("tests.probes", "holds_everything", {{"note": "orphans", "port": {port}}}, on_progress=ready)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""

HOLD_WITH_A_FORK = """
import os, sys, threading, time
sys.path.insert(0, {root!r})
from helpers import sandbox
def ready(*_):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print("ready", child, flush=True)
sandbox.run("tests.probes", "holds_everything", {{"note": "orphans", "port": {port}}}, on_progress=ready)
"""


@contextmanager
def caller(script: str, port: int) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """Another process that calls `run`, and the words that it said when everything was held."""
    code = script.format(root=str(ROOT), port=port)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            assert words[:1] == ["ready"]
            assert leftovers.is_listening(port)
            yield process, words
        finally:
            process.kill()


def test_kill_9_of_the_caller() -> None:
    port = leftovers.free_port()
    with caller(HOLD, port) as (process, _):
        process.kill()
        process.wait()
        assert leftovers.left_by(process.pid, port) == []


def test_kill_9_of_the_caller_and_then_of_the_worker() -> None:
    """Their order must not matter."""
    port = leftovers.free_port()
    with caller(HOLD, port) as (process, _):
        running = leftovers.guard_and_worker(process.pid)[1]
        process.kill()
        leftovers.kill(running)
        process.wait()
        assert leftovers.left_by(process.pid, port) == []


def test_kill_9_of_a_caller_whose_fork_holds_the_lifeline_open() -> None:
    port = leftovers.free_port()
    with caller(HOLD_WITH_A_FORK, port) as (process, words):
        try:
            process.kill()
            process.wait()
            assert leftovers.left_by(process.pid, port) == []
        finally:
            leftovers.kill(int(words[1]))


def test_interrupt_of_the_caller() -> None:
    port = leftovers.free_port()
    with caller(HOLD, port) as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=leftovers.SECONDS)[0] == "interrupted\n"
        assert leftovers.left_by(process.pid, port) == []


def test_kill_9_of_the_caller_at_any_moment() -> None:
    """Also while the interpreter, the guard and the worker are only starting."""
    code = HOLD.format(root=str(ROOT), port=0)
    callers = []
    for delay in (0.06, 0.07, 0.08, 0.09, 0.1, 0.12, 0.15):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL) as process:
            time.sleep(delay)
            process.kill()
        callers.append(process.pid)
    time.sleep(0.2)  # what was forked, and not yet an interpreter, bears no mark to find it by
    assert [leftovers.left_by(caller) for caller in callers] == [[]] * len(callers)


# Where it is called from

SCRIPT = """
import sys
sys.path.insert(0, {root!r})
from helpers import sandbox
print(sandbox.run("tests.probes", "uses_multiprocessing", {{}})["seen"])
"""


def test_from_a_script_without_a_main_guard(tmp_path: Path) -> None:
    path = tmp_path / "a script.py"
    path.write_text(SCRIPT.format(root=str(ROOT)))
    run = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=30)
    assert (run.stdout, run.stderr) == ("{'total': 6}\n", "")


def test_from_standard_input() -> None:
    run = subprocess.run(
        [sys.executable, "-"], input=SCRIPT.format(root=str(ROOT)), capture_output=True, text=True, timeout=30
    )
    assert (run.stdout, run.stderr) == ("{'total': 6}\n", "")


def test_without_standard_streams(tmp_path: Path) -> None:
    """As under some service managers."""
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(root=str(ROOT)))
    command = 'exec "$0" "$1" <&- 2>&-'
    run = subprocess.run(
        ["sh", "-c", command, sys.executable, str(path)], stdout=subprocess.PIPE, text=True, timeout=30
    )
    assert run.stdout == "{'total': 6}\n"


def test_from_a_notebook() -> None:
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [
        nbformat.v4.new_code_cell(SCRIPT.format(root=str(ROOT))),
        nbformat.v4.new_code_cell(
            "def mine(): pass\n" + SCRIPT.format(root=str(ROOT)) + "import os; print(os.getpid())"
        ),
    ]
    nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
    # What a cell prints may come in several pieces.
    first, second = ("".join(output.text for output in cell.outputs) for cell in notebook.cells)
    assert first == "{'total': 6}\n"
    total, kernel = second.splitlines()
    assert total == "{'total': 6}"
    assert leftovers.left_by(int(kernel)) == []


# Another interpreter


def bare(folder: Path) -> str:
    """An interpreter with nothing installed."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return str(folder / "bin" / "python")


def others() -> list[str]:
    found = [each for each in machine.interpreters() if each.found_by != "this one"]
    return [each.path for each in found if tuple(map(int, each.version.split(".")[:2])) >= (3, 11)]


def test_under_an_interpreter_with_nothing_installed(tmp_path: Path) -> None:
    python = bare(tmp_path / "bare")
    record = sandbox.run(PROBES, "surroundings", {}, python=python)
    assert record["seen"]["python"] == python
    assert record["machine"]["python_version"] == sys.version.split()[0]
    with pytest.raises(ModuleNotFoundError, match="numpy"):
        seen("imports", {"name": "numpy"}, python=python)


def test_under_every_other_interpreter_that_is_found() -> None:
    pythons = others()
    if not pythons:
        pytest.skip("there is no other interpreter")
    for python in pythons:
        record = sandbox.run(PROBES, "surroundings", {}, python=python)
        assert record["seen"]["python"] == python
        assert all(seen("late_modules", python=python).values())
        assert record["machine"]["python_version"] in {each.version for each in machine.interpreters()}
        with pytest.raises(machine.TooSmall, match="not enough room"):
            seen("fails", {"how": "own"}, python=python)
        with pytest.raises(sandbox.TimedOut):
            seen("holds_everything", python=python, timeout=0.5)


def test_the_learners_environment_does_not_reach_another_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "random.py").write_text("raise RuntimeError('the wrong module')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert seen("nothing_random", python=bare(tmp_path / "bare")) == {"is_fine": True}


def old() -> str | None:
    found = [each for each in machine.interpreters() if tuple(map(int, each.version.split(".")[:2])) < (3, 11)]
    return found[-1].path if found else None


def test_an_interpreter_that_is_too_old(tmp_path: Path) -> None:
    python = old()
    if python is None:
        python = program(tmp_path, "echo 'this is Python 3.8' >&2; exit 1")
    with pytest.raises(sandbox.SandboxError, match=r"not a Python 3\.11 or newer that works: this is Python 3\.\d+$"):
        seen(python=python)


def program(folder: Path, body: str) -> str:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("exit 0", "not a Python 3.11 or newer that works"),
        ("echo hello; echo no such thing >&2; exit 3", "that works: no such thing"),
        ("echo Traceback >&2; echo '  File' >&2; echo 'ModuleNotFoundError: no encodings' >&2", "no encodings"),
        ("while echo hello; do :; done", "not a Python 3.11 or newer that works"),
    ],
)
def test_a_program_that_is_not_python(tmp_path: Path, body: str, words: str) -> None:
    with pytest.raises(sandbox.SandboxError, match=words) as caught:
        seen(python=program(tmp_path, body))
    assert "\n" not in str(caught.value)


def test_a_program_that_never_answers(tmp_path: Path) -> None:
    with pytest.raises(sandbox.TimedOut):
        seen(python=program(tmp_path, "sleep 600"), timeout=0.3)


@pytest.mark.parametrize("python", ["/no/such/python", "/etc/passwd", "/tmp"])
def test_a_python_that_does_not_start(python: str) -> None:
    with pytest.raises(sandbox.SandboxError, match=f"^{python}: this interpreter does not start: ") as caught:
        seen(python=python)
    assert "\n" not in str(caught.value)


# Messages


def pipe_with(data: bytes) -> int:
    read, write = os.pipe()
    os.write(write, data)
    os.close(write)
    return read


@pytest.mark.parametrize(
    "data", [b"hello", b"{}" * 100, worker.MARK, worker.MARK + b"\0" * 8, worker.MARK + b"\xff" * 8]
)
def test_what_is_not_a_message_is_refused(data: bytes) -> None:
    pipe = pipe_with(data)
    with pytest.raises(ValueError):
        worker.receive(pipe)
    os.close(pipe)


def test_messages_are_plain_values() -> None:
    read, write = os.pipe()
    message = {"text": "µs", "numbers": (1, -2.5, None, True, float("inf")), "nested": {"a": [b"bytes"]}}
    worker.send(write, message)
    os.close(write)
    assert worker.receive(read) == message
    assert worker.receive(read) is None
    os.close(read)


def test_an_answer_is_written_whole_through_a_full_pipe() -> None:
    read, write = os.pipe()
    received: list[Any] = []
    reader: Callable[[], None] = lambda: received.append(worker.receive(read))  # noqa: E731
    thread = threading.Thread(target=reader)
    thread.start()
    worker.send(write, {"text": "x" * 1_000_000})
    thread.join()
    assert received == [{"text": "x" * 1_000_000}]
    os.close(write)
    os.close(read)
