"""The process that an experiment runs in, and the guard that stays beside it.

`sandbox.run` starts an interpreter with `main`. It forks at once: the child becomes the worker, in a session of
its own, and runs the experiment; the first process stays as the guard. Standard input is the lifeline: it carries
the request and then stays open. When it closes (the notebook is done, stopped, restarted or killed) or the worker
ends, the guard kills whatever the worker started, removes its scratch folder and leaves.

The guard exists because nothing else outlives both a `kill -9` of the notebook's kernel and one of the worker.
It sleeps while the experiment runs. Standard library alone, imports kept few: this is the cost of every run.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

from helpers import machine, measure, progress

if TYPE_CHECKING:
    from helpers.record import Record
    from helpers.registry import Experiment

PATIENCE_S = 3.0  # how long the guard tries to kill what does not die
SHARED_MEMORY = "/dev/shm"


def main() -> NoReturn:
    """Read one request from the lifeline, fork, run it, answer in JSON lines on the original standard output."""
    request = json.loads(_read_line(0))
    answers = os.dup(1)
    scratch = request["scratch"]
    os.mkdir(scratch, 0o700)
    log = os.open(_log(scratch), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)  # what an experiment or its children print must not end up among the answers
    os.dup2(log, 2)
    os.close(log)
    if not hasattr(os, "fork"):
        _leave_with_parent()
        work(request, answers)
    worker = os.fork()
    if worker:
        guard(worker, answers, request)
    os.setsid()
    work(request, answers)


def _read_line(descriptor: int) -> bytes:
    """Byte by byte would do as well: the request is the only thing that is ever sent."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(descriptor, 65536)
        if not part:
            os._exit(0)  # whoever started us is gone already
        line += part
    return line


def _log(scratch: str) -> str:
    return os.path.join(scratch, "output.log")


def _send(descriptor: int, message: dict[str, Any]) -> None:
    data = json.dumps(message).encode() + b"\n"
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except BrokenPipeError:
        os._exit(1)


# The worker


def work(request: dict[str, Any], answers: int) -> NoReturn:
    """Run the experiment and answer with its record or its error."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # and lets go of the lifeline
    os.set_inheritable(answers, False)
    _be_the_one_that_memory_pressure_kills()
    _send(answers, {"worker": os.getpid()})
    progress.listen(_reporter(answers))
    status = 0
    try:
        _send(answers, {"record": _record(request)})
    except BaseException as error:
        _send(answers, {"error": _described(error)})
        status = 1
    _run_exit_functions()
    os._exit(status)


def _record(request: dict[str, Any]) -> dict[str, Any]:
    from importlib import import_module

    experiment = getattr(import_module(request["module"]), request["function"])
    experiment.require()  # again: this may be another interpreter than the one that asked
    return measured(experiment, request["parameters"]).to_json()


def measured(experiment: Experiment[..., Record], parameters: dict[str, Any]) -> Any:
    """Call the experiment's function and complete its record: what ran, when, how noisy the machine was."""
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    before = machine.activity()
    record = experiment.function(**parameters)
    after = machine.activity()
    noise = measure.grade_noise(before, after)
    return replace(
        record,
        experiment=experiment.name,
        parameters=parameters,
        started=started,
        seconds=(after.wall_ns - before.wall_ns) / 1e9,
        machine={**record.machine, **machine.python_facts()},
        noise=noise,
        warnings=tuple(word for word in (*record.warnings, noise.warning()) if word),
    )


def _reporter(answers: int) -> progress.Listener:
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 0.1 or done == total:  # a bar needs no more, and the experiment is not disturbed
            last = now
            _send(answers, {"progress": [done, total]})

    return report


def _described(error: BaseException) -> dict[str, Any]:
    from traceback import format_exception

    arguments = [
        value if isinstance(value, (str, int, float, bool, type(None))) else repr(value) for value in error.args
    ]
    return {
        "module": type(error).__module__,
        "type": type(error).__qualname__,
        "arguments": arguments,
        "traceback": "".join(format_exception(error)),
    }


def _be_the_one_that_memory_pressure_kills() -> None:
    """Rather this process than the learner's browser; and no core files on their disk."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (OSError, ImportError, ValueError):
        pass  # not Linux, or not allowed: nothing depends on it


def _run_exit_functions() -> None:
    import atexit

    atexit._run_exitfuncs()


def _leave_with_parent() -> None:
    """Without `fork` (Windows) a thread watches the lifeline; what the worker started is not followed."""
    import _thread

    lifeline = os.dup(0)

    def watch() -> None:
        os.read(lifeline, 1)
        os._exit(1)

    _thread.start_new_thread(watch, ())


# The guard


def guard(worker: int, answers: int, request: dict[str, Any]) -> NoReturn:
    """Wait for the end of the worker or of whoever asked; then leave nothing of the worker's behind."""
    try:
        _adopt_orphans()
        status = _wait(worker, request["parent"])
        log = "" if status == 0 else _tail(_log(request["scratch"]))
        _end(worker)
        remove(request["scratch"])
        _send(answers, {"ended": status, "log": log})
    finally:
        os._exit(0)


def _adopt_orphans() -> None:
    """Make this process the parent of orphaned descendants (Linux), even of those in sessions of their own."""
    if sys.platform == "linux":
        import ctypes

        PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _wait(worker: int, parent: int) -> int | None:
    """The worker's exit status (negative: the signal that killed it), or None when nobody waits for it any more."""
    import select
    import signal

    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)  # the lifeline alone decides
    while True:
        done, status = os.waitpid(worker, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if os.getppid() != parent:  # the lifeline may be held open by a process forked off the parent
            return None
        ready, _, _ = select.select([0, wake_read], [], [], 1.0)
        if wake_read in ready:
            os.read(wake_read, 1024)
        if 0 in ready:
            return None


def _end(worker: int) -> None:
    """Kill the worker's group, then every child that is left or turns up as an orphan."""
    import signal

    _kill(os.killpg, worker, signal.SIGKILL)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            done, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return  # none left
        if done == 0:
            for child in _children(os.getpid()):
                _kill(os.kill, child, signal.SIGKILL)
            time.sleep(0.002)


def _kill(how: Any, target: int, signal_number: int) -> None:
    try:
        how(target, signal_number)
    except (ProcessLookupError, PermissionError):
        pass  # gone already


def _children(parent: int) -> list[int]:
    """The processes whose parent is `parent`, from /proc; none where there is no /proc."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat") as file:
                    if int(file.read().rpartition(")")[2].split()[1]) == parent:
                        found.append(int(name))
            except (OSError, IndexError, ValueError):
                continue  # it ended while we looked
    return found


def _tail(path: str, size: int = 4000) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


def remove(scratch: str) -> None:
    """Delete a scratch folder, and the shared memory that bears its name."""
    try:
        os.unlink(_log(scratch))
        os.rmdir(scratch)
    except OSError:
        import shutil

        shutil.rmtree(scratch, ignore_errors=True)
    name = os.path.basename(scratch)
    for found in os.listdir(SHARED_MEMORY) if os.path.isdir(SHARED_MEMORY) else ():
        if found.startswith(name):
            try:
                os.unlink(os.path.join(SHARED_MEMORY, found))
            except OSError:
                continue
