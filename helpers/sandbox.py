"""Run an experiment in an interpreter of its own: clean, bounded, killable.

Never in the Jupyter kernel's process, whose threads, sockets and heap would be part of the result. What happens on
the other side, and what makes sure that nothing is left, is in `worker`.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue

from helpers import worker
from helpers.worker import Message

ROOT = Path(__file__).resolve().parent.parent
START = (  # readable for a Python 2, too
    "import sys; sys.version_info < (3, 11) and sys.exit('this is Python %s.%s' % sys.version_info[:2]); "
    "sys.path.insert(0, sys.argv[1]); from helpers.worker import main; main()"
)
POLL_S = 0.1  # how soon a Stop or a time-out is noticed
GRACE_S = 4.0  # how long the guard may take to clean up
LAST_WORDS_S = 1.0  # how long what was said before the guard's end may be on its way


class SandboxError(RuntimeError):
    """The experiment did not come to its end."""


class Stopped(SandboxError):
    """The learner pressed Stop."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: one line, since nothing went wrong."""
        return [f"{str(self)[:1].upper()}{str(self)[1:]}. Run the cell again to measure anew."]


class TimedOut(SandboxError):
    """It took longer than allowed."""


class WorkerDied(SandboxError):
    """Its process ended without a record: killed, crashed or out of memory."""


class ChildTraceback(Exception):
    """Carries the traceback of the other process, shown as the cause of the error that it raised."""

    def __str__(self) -> str:
        return f"in the experiment's process\n\n{self.args[0]}"


def run(
    module: str,
    function: str,
    parameters: Message,
    *,
    python: str | None = None,
    timeout: float = 60.0,
    stop: threading.Event | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    on_wait: Callable[[], None] | None = None,
) -> Message:
    """Run `module.function(**parameters)` in a fresh interpreter and return its record as plain values.

    `timeout` is in seconds. `on_wait` is called every tenth of a second; what it raises ends the run. Raises the
    experiment's own error with its traceback as the cause, `TimedOut`, `Stopped` when `stop` is set, or `WorkerDied`;
    a `SandboxError` when `python` cannot be used. When it returns or raises, nothing of the run is left.
    """
    python = python or sys.executable
    is_ours = python == sys.executable
    scratch = os.path.join(tempfile.gettempdir(), f"concurrency-{os.getpid()}-{os.urandom(4).hex()}")
    request = {
        "module": module,
        "function": function,
        "parameters": parameters,
        "scratch": scratch,
        "path": list(map(os.path.abspath, sys.path)) if is_ours else None,
        "prefixes": (sys.prefix, sys.exec_prefix),
    }
    flags = ["-I", "-S"] if is_ours else ["-I"]
    with _process([python, *flags, "-c", START, str(ROOT)], scratch) as (process, inbox):
        _ask(process, request)
        outcome = _converse(process, inbox, timeout, stop, on_progress, on_wait)
        if not outcome:
            raise SandboxError(f"{python}: not a Python 3.11 or newer that works{_last_words(process)}")
        return _result(outcome)


@contextlib.contextmanager
def _process(command: list[str], scratch: str) -> Iterator[tuple[subprocess.Popen[bytes], Inbox]]:
    """The interpreter with its inbox of answers; ended, with all it started, on the way out."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "TMPDIR": scratch},
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxError(f"{command[0]}: this interpreter does not start: {error.strerror}") from None
    inbox = Inbox(process)
    try:
        yield process, inbox
    finally:
        _end(process, inbox, scratch)


class Inbox:
    """The worker's answers, collected by a thread so that waiting for them works on every platform."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.worker: int | None = None
        self._process = process
        self._messages: SimpleQueue[Message | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="sandbox inbox", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(ValueError):  # that was not written by our worker
            while message := worker.receive(self._process.stdout.fileno()):
                self.worker = message.get("worker", self.worker)
                self._messages.put(message)
        self._process.stdout.close()
        self._process.wait()
        self._messages.put(None)

    def next(self) -> Message | None:
        """The next message; None when there will be none, and the guard is gone. `Empty` after `POLL_S` seconds."""
        return self._messages.get(timeout=POLL_S)

    def wait(self, seconds: float) -> bool:
        """Wait until everything was read and the guard is gone, or for so long. Did that happen?"""
        self._reader.join(seconds)
        return not self._reader.is_alive()


def _ask(process: subprocess.Popen[bytes], request: Message) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # the conversation then finds out why
        worker.send(process.stdin.fileno(), request)


def _converse(
    process: subprocess.Popen[bytes],
    inbox: Inbox,
    timeout: float,
    stop: threading.Event | None,
    on_progress: Callable[[int, int], None] | None,
    on_wait: Callable[[], None] | None,
) -> Message:
    """Follow the run until its last word. All that was said, put together."""
    deadline = time.monotonic() + timeout
    patience = LAST_WORDS_S / POLL_S
    outcome: Message = {}
    while True:
        if stop is not None and stop.is_set():
            raise Stopped("stopped before the end; nothing was recorded")
        if on_wait is not None:
            on_wait()
        if time.monotonic() > deadline:
            raise TimedOut(f"not finished after {timeout:g} s, so it was ended; a longer time-out may be given")
        try:
            message = inbox.next()
        except Empty:
            if process.poll() is None:
                continue
            patience -= 1
            if patience > 0:  # the record may be on its way still, on a busy machine
                continue
            message = None  # the guard was killed
        if message is None:
            return outcome
        if "progress" in message and on_progress is not None:
            on_progress(*message["progress"])
        outcome.update(message)


def _result(outcome: Message) -> Message:
    """The record, or the error that says why there is none."""
    if "record" in outcome:
        record: Message = outcome["record"]
        return record
    if "error" in outcome:
        raise _rebuilt(outcome["error"])
    raise WorkerDied(_epitaph(outcome))


def _rebuilt(error: Message) -> BaseException:
    """The error as it was raised over there, where its type can be had here; else its name and words."""
    rebuilt = None
    with contextlib.suppress(Exception):
        rebuilt = _type(error["module"], error["type"])(*error["arguments"])
    if not isinstance(rebuilt, Exception) or str(rebuilt) != error["words"]:
        # a SystemExit of the experiment must not end the learner's kernel
        rebuilt = SandboxError(f"{error['type']}: {error['words']}".removesuffix(": "))
    if isinstance(rebuilt, MemoryError) and not str(rebuilt):
        rebuilt = MemoryError("the experiment needs more memory than its process may have")
    rebuilt.__cause__ = ChildTraceback(error["traceback"])
    return rebuilt


def _type(module: str, name: str) -> type[BaseException]:
    from importlib import import_module

    if module != "builtins" and not module.startswith("helpers."):
        raise LookupError
    kind: type[BaseException] = getattr(import_module(module) if module != "builtins" else builtins, name)
    return kind


def _epitaph(outcome: Message) -> str:
    status, log = outcome.get("ended"), outcome.get("log")
    words = f"; its last words: {log}" if log else ""
    if status is None:
        return "the experiment's process was ended because its guard was killed"
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (SIGKILL: perhaps it ran out of memory)" if name == "SIGKILL" else ""
        return f"the experiment's process was killed by {name}{hint}{words}"
    return f"the experiment's process ended with status {status} and no record{words}"


def _last_words(process: subprocess.Popen[bytes]) -> str:
    """Why the interpreter did not get as far as our code, in one line."""
    assert process.stderr is not None
    lines = process.stderr.read().decode(errors="replace").strip().splitlines()
    return f": {lines[-1] if lines[0].startswith('Traceback') else lines[0]}" if lines else ""


def _end(process: subprocess.Popen[bytes], inbox: Inbox, scratch: str) -> None:
    """Close the lifeline and wait for the guard to clean up; where the guard was killed, do it here."""
    assert process.stdin is not None and process.stderr is not None
    process.stdin.close()
    if hasattr(signal, "SIGCHLD"):
        process.send_signal(signal.SIGCHLD)  # wakes the guard
    deadline = time.monotonic() + GRACE_S
    while not inbox.wait(POLL_S) and process.poll() is None and time.monotonic() < deadline:
        pass
    if process.poll() != 0:
        process.kill()
        worker.end(inbox.worker, scratch)
        inbox.wait(1.0)
    process.stderr.close()
