"""Run an experiment in an interpreter of its own: clean, bounded, killable.

Never in the Jupyter kernel's process, whose threads, sockets and heap would be part of the result. What happens on
the other side, and what makes sure that nothing is left, is in `worker`.
"""

from __future__ import annotations

import builtins
import contextlib
import json
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
from typing import Any

from helpers import worker

ROOT = Path(__file__).resolve().parent.parent
START = "import sys; sys.path.insert(0, sys.argv[1]); from helpers.worker import main; main()"
POLL_S = 0.1  # how soon a Stop or a time-out is noticed
GRACE_S = 4.0  # how long the guard may take to clean up
Message = dict[str, Any]


class SandboxError(RuntimeError):
    """The experiment did not come to its end."""


class Stopped(SandboxError):
    """The learner pressed Stop."""


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
    parameters: dict[str, Any],
    *,
    python: str | None = None,
    timeout: float = 60.0,
    stop: threading.Event | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Message:
    """Run `module.function(**parameters)` in a fresh interpreter and return its record as plain values.

    `timeout` is in seconds. Raises the experiment's own error with its traceback as the cause, `TimedOut`,
    `Stopped` when `stop` is set, or `WorkerDied`. When it returns or raises, nothing of the run is left.
    """
    python = python or sys.executable
    scratch = os.path.join(tempfile.gettempdir(), f"concurrency-{os.getpid()}-{os.urandom(4).hex()}")
    request = {
        "module": module,
        "function": function,
        "parameters": parameters,
        "scratch": scratch,
        "parent": os.getpid(),
    }
    with _process(python, scratch) as (process, inbox):
        _ask(process, request)
        return _converse(process, inbox, time.monotonic() + timeout, timeout, stop, on_progress)


@contextlib.contextmanager
def _process(python: str, scratch: str) -> Iterator[tuple[subprocess.Popen[bytes], Inbox]]:
    """The interpreter with its inbox of answers; ended, with all it started, on the way out."""
    try:
        process = subprocess.Popen(
            [python, "-c", START, str(ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": scratch},
            start_new_session=True,
        )
    except OSError as error:
        raise SandboxError(f"{python}: this interpreter does not start: {error.strerror}") from None
    inbox = Inbox(process)
    try:
        yield process, inbox
    finally:
        _end(process, inbox, scratch)


class Inbox:
    """The worker's answers, collected by a thread so that waiting for them works on every platform."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.worker: int | None = None
        self._messages: SimpleQueue[Message | None] = SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(process,), name="sandbox inbox", daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        with contextlib.suppress(ValueError, OSError):  # closed under our feet at the end of an interrupted run
            for line in process.stdout:
                message = json.loads(line)
                self.worker = message.get("worker", self.worker)
                self._messages.put(message)
        self._messages.put(None)

    def next(self) -> Message | None:
        """The next message, or None when there will be none. Raises `Empty` after `POLL_S` seconds."""
        return self._messages.get(timeout=POLL_S)

    def close(self) -> None:
        """Wait until everything was read."""
        self._reader.join(1.0)


def _ask(process: subprocess.Popen[bytes], request: Message) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # the conversation then finds out why
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.flush()


def _converse(
    process: subprocess.Popen[bytes],
    inbox: Inbox,
    deadline: float,
    timeout: float,
    stop: threading.Event | None,
    on_progress: Callable[[int, int], None] | None,
) -> Message:
    """Follow the run until its last word, and turn that into a result or an error."""
    outcome: Message = {}
    while True:
        if stop is not None and stop.is_set():
            raise Stopped("stopped before the end; nothing was recorded")
        if time.monotonic() > deadline:
            raise TimedOut(f"not finished after {timeout:g} s, so it was ended; a longer time-out may be given")
        try:
            message = inbox.next()
        except Empty:
            if process.poll() is None:
                continue
            message = None  # the guard is gone, and if it said a last word we have read it
        if message is None or "ended" in message:
            break
        if "progress" in message and on_progress is not None:
            on_progress(*message["progress"])
        outcome.update(message)
    if "record" in outcome:
        return outcome["record"]
    if "error" in outcome:
        raise _rebuilt(outcome["error"])
    raise WorkerDied(_epitaph(message or {}, process))


def _rebuilt(error: Message) -> BaseException:
    """The error as it was raised over there, where its type can be had here; else its name and words."""
    kind = None
    if error["module"] == "builtins":
        kind = getattr(builtins, error["type"], None)
    elif error["module"].startswith("helpers."):
        from importlib import import_module

        kind = getattr(import_module(error["module"]), error["type"], None)
    try:
        rebuilt = kind(*error["arguments"]) if kind else None
    except TypeError:
        rebuilt = None
    if not isinstance(rebuilt, Exception):  # a SystemExit of the experiment must not end the learner's kernel
        rebuilt = SandboxError(f"{error['type']}: {', '.join(map(str, error['arguments']))}")
    rebuilt.__cause__ = ChildTraceback(error["traceback"])
    return rebuilt


def _epitaph(message: Message, process: subprocess.Popen[bytes]) -> str:
    assert process.stderr is not None
    status = message.get("ended")
    words = message.get("log") or process.stderr.read().decode(errors="replace").strip()
    log = f"; its last words: {words}" if words else ""
    if status is None:
        return f"the experiment's process could not start or was killed together with its guard{log}"
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (SIGKILL: perhaps it ran out of memory)" if name == "SIGKILL" else ""
        return f"the experiment's process was killed by {name}{hint}{log}"
    return f"the experiment's process ended with status {status} and no record{log}"


def _end(process: subprocess.Popen[bytes], inbox: Inbox, scratch: str) -> None:
    """Close the lifeline and wait for the guard to clean up; where the guard was killed, do it here."""
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()
    try:
        guard_cleaned_up = process.wait(GRACE_S) == 0
    except subprocess.TimeoutExpired:
        guard_cleaned_up = False
    if not guard_cleaned_up:
        process.kill()
        process.wait()
        if inbox.worker and hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(inbox.worker, signal.SIGKILL)
        worker.remove(scratch)
    inbox.close()
    process.stdout.close()
    process.stderr.close()
