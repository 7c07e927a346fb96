"""Runs a part of the testbed in a process of its own, which ends when its user does, however that happens.

A program is a context manager `program(**settings)` in a module: up when entered, cleaned up when left, and what it
yields (plain values, its address say) is what its user gets. The process's standard input is the lifeline: it
carries the settings and then stays open. When something else comes, or it closes, the program is left.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from helpers.testbed import program; program.main()"
READY_S = 30.0  # for a program to be up before it is killed
GRACE_S = 5.0  # for a program to clean up before it is killed


class NotStarted(RuntimeError):
    """A program of the testbed could not start; in one line why, and what would help."""


@contextlib.contextmanager
def running(module: str, **settings: Any) -> Iterator[Any]:
    """`module`'s program in a process of its own, with what it yielded. Raises `NotStarted` in its own words."""
    with _process() as process:
        too_late = threading.Timer(READY_S, process.kill)
        too_late.start()
        try:
            answer = _ask(process, {"module": module, "settings": settings})
        finally:
            too_late.cancel()
            too_late.join()
        if "error" in answer:
            raise NotStarted(answer["error"])
        yield answer["result"]


def call(module: str, function: str, **settings: Any) -> Any:
    """What a module's function returns, called in a process of its own: plain values.

    What it raises is a `RuntimeError` here, in the same words.
    """
    with _process() as process:
        answer = _ask(process, {"module": module, "function": function, "settings": settings})
    if "error" in answer:
        raise RuntimeError(answer["error"])
    return answer["result"]


@contextlib.contextmanager
def _process() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-I", "-S", "-c", START, json.dumps(sys.path)]
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except OSError as error:
        raise NotStarted(f"no process could be started: {error.strerror}") from None
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process
    finally:
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(b"\n")  # for a fork of ours may hold the lifeline open
            process.stdin.close()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _ask(process: subprocess.Popen[bytes], what: dict[str, Any]) -> dict[str, Any]:
    """Send one line, read one line."""
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(what).encode() + b"\n")
        process.stdin.flush()
    answer = process.stdout.readline()
    return dict(json.loads(answer)) if answer else {"error": "its process ended before it was ready"}


def main() -> None:
    """What the process does: read one line of settings from the lifeline, do as asked, say so in one line."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Stop is its user's affair, who then closes the lifeline
    signal.signal(signal.SIGTERM, _leave)
    lifeline = open(os.dup(0), "rb", buffering=0)  # noqa: SIM115  # as long as this process
    answers = open(os.dup(1), "w")  # noqa: SIM115
    os.dup2(2, 1)  # what a program prints, or a program of its own, isn't its answer
    asked = json.loads(lifeline.readline() or b"null")
    if asked is None:
        return
    said = False

    def say(answer: dict[str, Any]) -> None:
        nonlocal said
        said = True
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(answer), file=answers, flush=True)

    def abandon() -> NoReturn:
        lifeline.read(1)
        os._exit(1)

    try:
        module = importlib.import_module(asked["module"])
        if "function" in asked:
            threading.Thread(target=abandon, daemon=True).start()
            say({"result": getattr(module, asked["function"])(**asked["settings"])})
        else:
            with module.program(**asked["settings"]) as yielded:
                say({"result": yielded})
                lifeline.read(1)
    except Exception as error:
        if said:
            raise
        say({"error": str(error) or type(error).__name__})


def _leave(*_: object) -> NoReturn:
    """Clean up and end; once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)
