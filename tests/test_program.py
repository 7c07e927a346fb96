"""Programs of the testbed: what they yield arrives, and they are gone when their user is, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.testbed import program
from tests.leftovers import is_listening

MODULE = "tests.probe_program"
ROOT = Path(__file__).resolve().parent.parent
SECONDS = 10.0


def comes_true(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def is_gone(process: int) -> bool:
    """Ended: perhaps not yet waited for by whoever inherited it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_it_is_there_for_the_with_and_cleans_up(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    with program.running(MODULE, folder=str(folder)) as found:
        assert found["process"] != os.getpid()
        assert is_listening(found["port"])
        assert folder.exists()
    assert is_gone(found["process"])
    assert not is_listening(found["port"])
    assert not folder.exists()


def test_it_is_left_when_its_user_fails(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    with pytest.raises(KeyError), program.running(MODULE, folder=str(folder)) as found:
        raise KeyError
    assert is_gone(found["process"])
    assert not folder.exists()


def test_what_it_prints_is_not_its_answer() -> None:
    with program.running(MODULE, noise=True) as found:
        assert set(found) == {"process", "port"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"broken": "no room at the inn"}, "no room at the inn"),
        ({"broken": ""}, "OSError"),
        ({"exits": True}, "its process ended before it was ready"),
        ({"unknown": 1}, "unexpected keyword argument 'unknown'"),
    ],
)
def test_a_program_that_does_not_start_says_why(settings: dict[str, object], words: str) -> None:
    with pytest.raises(program.NotStarted, match=words), program.running(MODULE, **settings):
        pytest.fail("it started")


def test_a_program_that_is_never_ready_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "READY_S", 0.3)
    with pytest.raises(program.NotStarted), program.running(MODULE, slow_s=600):
        pytest.fail("it started")


def test_a_program_that_hangs_on_the_way_out_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "GRACE_S", 0.3)
    with program.running(MODULE) as found:
        os.kill(found["process"], signal.SIGSTOP)
    assert is_gone(found["process"])


def test_a_program_that_died_meanwhile_is_no_trouble() -> None:
    with program.running(MODULE) as found:
        os.kill(found["process"], signal.SIGKILL)
    assert is_gone(found["process"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_fork_of_its_user_does_not_keep_it(tmp_path: Path) -> None:
    """It holds the lifeline, too."""
    folder = tmp_path / "own"
    with program.running(MODULE, folder=str(folder)) as found:
        child = os.fork()
        if child == 0:
            time.sleep(600)
            os._exit(0)
    try:
        assert is_gone(found["process"])
        assert not folder.exists()  # it was not killed
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows ends a process without a word")
def test_it_cleans_up_when_it_is_told_to_end(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    with program.running(MODULE, folder=str(folder)) as found:
        os.kill(found["process"], signal.SIGTERM)
        assert comes_true(lambda: not folder.exists())
        assert comes_true(lambda: is_gone(found["process"]))


@pytest.mark.skipif(sys.platform == "win32", reason="limits descriptors")
def test_without_descriptors_it_says_so() -> None:
    code = (
        "import os, resource; from helpers.testbed import program\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (10, 10))\n"
        "try:\n"
        "    while True: os.dup(0)\n"
        "except OSError: pass\n"
        "try:\n"
        f"    with program.running({MODULE!r}): pass\n"
        "except program.NotStarted as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "no process could be started: Too many open files\n"


def test_interrupting_the_terminal_leaves_it_to_its_user() -> None:
    with program.running(MODULE) as found:
        os.kill(found["process"], signal.SIGINT)
        time.sleep(0.1)
        assert is_listening(found["port"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes as Linux shows them")
def test_it_goes_when_its_user_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    code = (
        "import time; from helpers.testbed import program\n"
        f"with program.running({MODULE!r}, folder={str(folder)!r}) as found:\n"
        "    print(found['process'], found['port'], flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as user:
        assert user.stdout is not None
        process, port = map(int, user.stdout.readline().split())
        user.kill()
    assert comes_true(lambda: is_gone(process) and not folder.exists() and not is_listening(port))


def test_a_call_returns_what_the_function_returned() -> None:
    found = program.call(MODULE, "doubled", number=21)
    assert found["result"] == 42
    assert found["process"] != os.getpid()
    assert is_gone(found["process"])


def test_a_call_that_fails_says_why() -> None:
    with pytest.raises(RuntimeError, match="not today"):
        program.call(MODULE, "failing")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes as Linux shows them")
def test_a_call_ends_with_its_caller(tmp_path: Path) -> None:
    note = tmp_path / "process"
    code = f"from helpers.testbed import program; program.call({MODULE!r}, 'endless', note={str(note)!r})"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as caller:
        assert comes_true(lambda: note.exists() and note.read_text() != "")
        caller.kill()
    assert comes_true(lambda: is_gone(int(note.read_text())))


def test_a_part_is_one_object_in_one_process() -> None:
    with program.working(MODULE, "Counter", start=40) as part:
        found = []
        for number in (1, 2):
            part.begin("add", number=number)
            found.append(part.result())
    assert [each["result"] for each in found] == [41, 43]
    assert found[0]["process"] == found[1]["process"] != os.getpid()
    assert is_gone(found[0]["process"])


def test_a_part_that_fails_says_why() -> None:
    with program.working(MODULE, "Counter", start=0) as part:
        part.begin("fail")
        with pytest.raises(RuntimeError, match="not today"):
            part.result()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks at processes as Linux shows them")
def test_a_part_goes_with_its_user_whatever_it_is_doing() -> None:
    code = (
        "from helpers.testbed import program\n"
        f"with program.working({MODULE!r}, 'Counter', start=0) as part:\n"
        "    part.begin('add', number=1); print(part.result()['process'], flush=True)\n"
        "    part.begin('sleep'); part.result()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as user:
        assert user.stdout is not None
        process = int(user.stdout.readline())
        time.sleep(0.1)
        user.kill()
    assert comes_true(lambda: is_gone(process))
