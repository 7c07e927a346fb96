"""The process that an experiment runs in, and the guard that stays beside it.

`sandbox.run` starts an interpreter with `main`. It forks at once: the child becomes the worker, in a session of
its own, and runs the experiment; the first process stays as the guard. Standard input is the lifeline: it carries
the request and then stays open. When it closes (the notebook is done, stopped, restarted or killed) or the worker
ends, the guard kills whatever the worker started, removes its scratch folder and leaves.

The guard exists because nothing else outlives both a `kill -9` of the notebook's kernel and one of the worker.
It sleeps while the experiment runs. Standard library alone, and little of it: every import is a cost of every run,
so most of them are made where they are needed.
"""

from __future__ import annotations

import gc
import marshal
import os
import sys
import time

TYPE_CHECKING = False  # what type checkers take for `typing.TYPE_CHECKING`, whose import takes 4 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    from helpers.progress import Listener
    from helpers.registry import Experiment

Message = dict[str, "Any"]
SIGKILL = 9  # `signal` would say so too, after 4 ms
PATIENCE_S = 3.0  # how long the guard tries to kill what does not die
HEAD_START_S = 0.03  # while the worker loads its modules the guard keeps still
WATCH_S = 1.0  # how often the guard looks whether its parent is still there
SHARED_MEMORY = "/dev/shm"


def main() -> NoReturn:
    """Read one request from the lifeline, fork, run it; the answers go to the original standard output."""
    gc.disable()  # until the experiment starts: there is no garbage in loading modules, only time spent looking for it
    request = receive(0)
    parent = os.getppid()
    if request is None:
        os._exit(0)  # whoever started us is gone already
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
        guard(worker, answers, scratch, parent)
    os.setsid()
    work(request, answers)


# Messages: dictionaries of plain values. `marshal` is there in every interpreter without an import from disk, and
# its format 2 is the same in all of them.

MARK = b"record:1"  # whatever else a program may print, it is not this
LARGEST = 1 << 30  # bytes


def send(descriptor: int, message: Message) -> None:
    """Write one message. Raises `ValueError` for values that are not plain."""
    data = marshal.dumps(message, 2)
    data = MARK + len(data).to_bytes(8, "big") + data
    while data:
        data = data[os.write(descriptor, data) :]


def receive(descriptor: int) -> Message | None:
    """Wait for one message; None at the end. Raises `ValueError` for anything that `send` did not write."""
    head = _read(descriptor, len(MARK) + 8)
    if not head:
        return None
    size = int.from_bytes(head[len(MARK) :], "big")
    data = _read(descriptor, size) if head.startswith(MARK) and 0 < size <= LARGEST else b""
    if not data or len(data) < size:
        raise ValueError(f"not a message: {head!r}")
    message: Message = marshal.loads(data)
    return message


def _read(descriptor: int, size: int) -> bytes:
    """So many bytes, or fewer at the end."""
    data = b""
    while len(data) < size and (part := os.read(descriptor, size - len(data))):
        data += part
    return data


def _answer(descriptor: int, message: Message) -> None:
    try:
        send(descriptor, message)
    except BrokenPipeError:
        os._exit(1)  # nobody waits for it any more


def _log(scratch: str) -> str:
    return os.path.join(scratch, "output.log")


# The worker


def work(request: Message, answers: int) -> NoReturn:
    """Run the experiment and answer with its record or its error."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # and lets go of the lifeline
    os.close(nothing)
    status = 0
    try:
        _see_what_the_parent_sees(request)
        _answer(answers, {"record": _record(request, answers)})
    except BaseException as error:
        _answer(answers, {"error": _described(error)})
        status = 1
    _run_exit_functions()
    os._exit(status)


def _see_what_the_parent_sees(request: Message) -> None:
    """The parent's modules, where it is the same interpreter (which then started without `site`, 3 ms)."""
    if request["path"] is not None:
        sys.path += [place for place in request["path"] if place not in sys.path]
        sys.prefix, sys.exec_prefix = request["prefixes"]
    _load_late("copy")
    if sys.version_info < (3, 14):
        _load_late("inspect", get_annotations=_get_annotations)


def _load_late(name: str, **known: Callable[..., Any]) -> None:
    """Have a module loaded when something in it is used that is not `known`.

    `dataclasses` imports two that it hardly uses, and they take 9 ms.
    """
    from types import ModuleType

    class Late(ModuleType):
        def __getattr__(self, attribute: str) -> Any:
            if attribute == "__path__":
                raise AttributeError(attribute)  # asked for by the import system: it is no package
            if sys.modules.get(name) is self:
                del sys.modules[name]
            self.__dict__.update(__import__(name).__dict__)
            return self.__dict__[attribute]

    module = Late(name)
    module.__dict__.update(known)
    sys.modules.setdefault(name, module)


def _get_annotations(kind: type, **how: Any) -> Any:
    """What `dataclasses` uses of `inspect` from Python 3.12 on, for the plain case that it is."""
    if how or not isinstance(kind, type):
        from inspect import unwrap  # loads the module

        return sys.modules[unwrap.__module__].get_annotations(kind, **how)
    return dict(vars(kind).get("__annotations__", ()))


def _record(request: Message, answers: int) -> Message:
    from helpers import progress

    progress.listen(_reporter(answers))
    __import__(request["module"])
    experiment = getattr(sys.modules[request["module"]], request["function"])
    experiment.require()  # again: this may be another interpreter than the one that asked
    gc.freeze()  # the modules stay
    gc.enable()
    record = measured(experiment, request["parameters"])
    if request["path"] is None:
        from helpers import machine

        record.machine.update(machine.python_facts())
    data: Message = record.to_json()
    return data


def measured(experiment: Experiment[..., Any], parameters: Message) -> Any:
    """Call the experiment's function and complete its record: what ran, when, how noisy the machine was."""
    from dataclasses import replace

    from helpers import measure

    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    before = measure.activity()
    record = experiment.function(**parameters)
    seconds = (time.perf_counter_ns() - before.wall_ns) / 1e9
    noise = measure.grade_noise(before, measure.activity()) if seconds >= measure.SHORTEST_S else None
    return replace(
        record,
        experiment=experiment.name,
        parameters=parameters,
        started=started,
        seconds=seconds,
        noise=noise,
        warnings=tuple(word for word in (*record.warnings, noise and noise.warning()) if word),
    )


def _reporter(answers: int) -> Listener:
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 0.1 or done == total:  # a bar needs no more, and the experiment is not disturbed
            last = now
            _answer(answers, {"progress": (done, total)})

    return report


def _described(error: BaseException) -> Message:
    """What the parent needs to raise the same error."""
    from traceback import format_exception

    return {
        "module": type(error).__module__,
        "type": type(error).__qualname__,
        "arguments": _arguments(error),
        "words": _words(error),
        "traceback": "".join(format_exception(error)),
    }


def _arguments(error: BaseException) -> tuple[Any, ...]:
    """What its type was called with, as far as that is plain. (`args` lacks the file name of an `OSError`.)"""
    try:
        arguments = error.__reduce__()[1]
        marshal.dumps(arguments, 2)
    except Exception:
        return tuple(map(repr, error.args))
    return tuple(arguments)


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        return ""


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


def guard(worker: int, answers: int, scratch: str, parent: int) -> NoReturn:
    """Wait for the end of the worker or of whoever asked; then leave nothing of the worker's behind."""
    is_clean = False
    try:
        adopts = _adopt_orphans()
        status = _wait(worker, parent, answers)
        log = "" if status == 0 else _tail(_log(scratch))
        _end_children(worker)
        if not adopts:
            _end_strays(scratch)
        _remove(scratch)
        is_clean = True
        if status != 0:
            _tell(answers, {"ended": status, "log": log})
    finally:
        os._exit(0 if is_clean else 1)


def _adopt_orphans() -> bool:
    """Make this process the parent of orphaned descendants (Linux), even of those in sessions of their own."""
    try:
        import _ctypes  # what `ctypes` is made of, without its 4 ms

        PR_SET_CHILD_SUBREAPER = 36  # <linux/prctl.h>
        this_program: Any = None
        prctl = _ctypes.dlsym(_ctypes.dlopen(this_program, 0), "prctl")
        return bool(_ctypes.call_function(prctl, (PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) == 0)
    except (ImportError, OSError, AttributeError):
        return False


def _wait(worker: int, parent: int, answers: int) -> int | None:
    """The worker's exit status (negative: the signal that killed it), or None when nobody waits for it any more."""
    import _signal  # what `signal` is made of, without its 4 ms

    # Blocked, so that they wake us up and do nothing else: the lifeline alone decides.
    signals = (_signal.SIGCHLD, _signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, signals)
    os.set_blocking(0, False)
    is_new = True
    _doze(signals, HEAD_START_S)
    while True:
        done, status = os.waitpid(worker, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if not _is_open(0) or os.getppid() != parent:  # something that the parent forked may hold the lifeline open
            return None
        if is_new:
            is_new = False
            _tell(answers, {"worker": worker})
            _prefer_for_killing(worker)
        _doze(signals, WATCH_S)


def _doze(signals: tuple[int, ...], seconds: float) -> None:
    """Sleep until one of these blocked signals comes, but no longer."""
    import _signal

    if hasattr(_signal, "sigtimedwait"):
        _signal.sigtimedwait(signals, seconds)
    else:  # macOS
        time.sleep(min(seconds, 0.02))


def _tell(answers: int, message: Message) -> None:
    """Say something that may come too late."""
    try:  # noqa: SIM105
        send(answers, message)
    except BrokenPipeError:
        pass


def _is_open(pipe: int) -> bool:
    try:
        return os.read(pipe, 1) != b""
    except BlockingIOError:
        return True


def _prefer_for_killing(worker: int) -> None:
    """Under memory pressure: rather the worker than the learner's browser. And no core files on their disk."""
    try:
        with open(f"/proc/{worker}/oom_score_adj", "wb") as file:
            file.write(b"500")
        import resource

        resource.prlimit(worker, resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (OSError, ImportError, AttributeError, ValueError):
        pass  # not Linux, or not allowed: nothing depends on it


def _end_children(worker: int) -> None:
    """Kill the worker's group, then every child that is left or turns up as an orphan."""
    _kill(os.killpg, worker)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            done, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return  # none left
        if done == 0:
            for child in _processes(_is_child):
                _disown_shared_memory(child)
                _kill(os.kill, child)
            time.sleep(0.002)


def _disown_shared_memory(process: int) -> None:
    """It bears no name of ours to find it by later."""
    from helpers import shared_memory  # a few milliseconds, where a child is left at all

    shared_memory.disown((process,))


def _end_strays(scratch: str) -> None:
    """Kill what has this scratch folder for its temporary files, where no guard could adopt it."""
    mark = f"TMPDIR={scratch}".encode()

    def is_stray(process: str) -> bool:
        with open(f"/proc/{process}/environ", "rb") as file:
            return mark in file.read().split(b"\0")

    deadline = time.monotonic() + PATIENCE_S
    while (strays := _processes(is_stray)) and time.monotonic() < deadline:
        for stray in strays:
            _disown_shared_memory(stray)
            _kill(os.kill, stray)
        time.sleep(0.002)


def _kill(how: Callable[[int, int], None], target: int) -> None:
    try:  # noqa: SIM105
        how(target, SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass  # gone already


def _is_child(process: str) -> bool:
    with open(f"/proc/{process}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1]) == os.getpid()


def _processes(wanted: Callable[[str], bool]) -> list[int]:
    """The other processes that are so, from /proc; none where there is no /proc."""
    found = []
    for name in os.listdir("/proc") if os.path.isdir("/proc") else ():
        try:
            if name.isdigit() and int(name) != os.getpid() and wanted(name):
                found.append(int(name))
        except (OSError, IndexError, ValueError):
            continue  # it ended while we looked, or is not ours to see
    return found


def _tail(path: str, size: int = 4000) -> str:
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return file.read().decode(errors="replace").strip()
    except OSError:
        return ""


def _remove(scratch: str) -> None:
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


def end(worker: int | None, scratch: str) -> None:
    """What the guard would have done, for a parent whose guard was killed."""
    if worker is not None and hasattr(os, "killpg"):
        _kill(os.killpg, worker)
    _end_strays(scratch)
    _remove(scratch)
