"""Runs a part of the testbed in a process of its own, which ends when its user does, however that happens.

A program is a context manager `program(**settings)` in a module: up when entered, cleaned up when left, and what it
yields (plain values, its address say) is what its user gets. The process's standard input is the lifeline: it
carries the settings and then stays open. When it closes, the program is left.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

START = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from helpers.testbed import program; program.main()"
GRACE_S = 5.0  # for a program to clean up before it is killed


class NotStarted(RuntimeError):
    """A program of the testbed could not start; in one line why, and what would help."""


@contextlib.contextmanager
def running(module: str, **settings: Any) -> Iterator[Any]:
    """`module`'s program in a process of its own, with what it yielded. Raises `NotStarted` in its own words."""
    with _process() as process:
        assert process.stdin is not None and process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps({"module": module, "settings": settings}).encode() + b"\n")
            process.stdin.flush()
        answer = json.loads(process.stdout.readline() or b'{"error": "its process ended before it was ready"}')
        if "error" in answer:
            raise NotStarted(answer["error"])
        yield answer["ready"]


@contextlib.contextmanager
def _process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", START, json.dumps(sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        yield process
    finally:
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main() -> None:
    """Read one line of settings from the lifeline, start the program, say what it yielded, stay until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Stop is its user's affair, who then closes the lifeline
    asked = json.loads(sys.stdin.buffer.readline() or b"null")
    if asked is None:
        return
    said = False

    def say(answer: dict[str, Any]) -> None:
        nonlocal said
        said = True
        with contextlib.suppress(BrokenPipeError):
            print(json.dumps(answer), flush=True)

    try:
        with importlib.import_module(asked["module"]).program(**asked["settings"]) as yielded:
            say({"ready": yielded})
            sys.stdin.buffer.read()
    except Exception as error:
        if said:
            raise
        say({"error": str(error) or type(error).__name__})
