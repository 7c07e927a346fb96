"""Runs a part of the testbed in a process of its own, which ends when its user does, however that happens.

A program is a context manager `program(**settings)` in a module: up when entered, cleaned up when left, and what it
yields (plain values, its address say) is what its user gets. A part is a class in a module, whose methods its user
calls, one at a time. The process's standard input is the lifeline: it carries the settings and then stays open. When
something else comes, or it closes, the program is left.
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
from queue import SimpleQueue
from typing import IO, Any, NoReturn

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


class Part:
    """A part of the testbed that works on demand: its methods are called in a process of its own, one at a time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def begin(self, method: str, **arguments: Any) -> None:
        """Have a method called; `result` returns what it returned."""
        _send(self._process, {"method": method, "arguments": arguments})

    def result(self) -> Any:
        """What the method returned: plain values. Raises `RuntimeError` with the words of what it raised."""
        answer = _receive(self._process)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["result"]


@contextlib.contextmanager
def working(module: str, part: str, **settings: Any) -> Iterator[Part]:
    """A module's class, made from the settings in a process of its own, which ends when this is left."""
    with _process() as process:
        _send(process, {"module": module, "part": part, "settings": settings})
        yield Part(process)


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
    _send(process, what)
    return _receive(process)


def _send(process: subprocess.Popen[bytes], what: dict[str, Any]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(what).encode() + b"\n")
        process.stdin.flush()


def _receive(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
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
        if "part" in asked:
            part = getattr(module, asked["part"])(**asked["settings"])
            for call in _calls(lifeline):
                said = False
                say({"result": getattr(part, call["method"])(**call["arguments"])})
        elif "function" in asked:
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


def _calls(lifeline: IO[bytes]) -> Iterator[dict[str, Any]]:
    """What is asked of a part, for ever: the process ends with its lifeline, whatever the part is doing."""
    asked: SimpleQueue[dict[str, Any]] = SimpleQueue()

    def listen() -> NoReturn:
        while line := lifeline.readline().strip():
            asked.put(json.loads(line))
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        yield asked.get()


def _leave(*_: object) -> NoReturn:
    """Clean up and end; once."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(1)
