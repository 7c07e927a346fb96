"""Programs for tests/test_program.py: each does one thing that a program of the testbed may do."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def program(
    *, folder: str | None = None, noise: bool = False, broken: str | None = None, slow_s: float = 0, exits: bool = False
) -> Iterator[dict[str, Any]]:
    """Listens at a port, with a folder of its own that it removes when it is left."""
    if broken is not None:
        raise OSError(broken)
    if exits:
        os._exit(3)
    time.sleep(slow_s)
    if noise:
        print("not an answer")
        subprocess.run([sys.executable, "-c", "print('nor this')"], check=True)
    if folder:
        Path(folder).mkdir()
    with socket.create_server(("127.0.0.1", 0)) as server:
        try:
            yield {"process": os.getpid(), "port": server.getsockname()[1]}
        finally:
            if folder:
                Path(folder).rmdir()


def doubled(number: int) -> dict[str, int]:
    print("on the way")
    return {"process": os.getpid(), "result": 2 * number}


def endless(note: str) -> None:
    Path(note).write_text(str(os.getpid()))
    time.sleep(600)


def failing() -> None:
    raise ValueError("not today")


class Counter:
    """A part that remembers."""

    def __init__(self, start: int) -> None:
        self.count = start

    def add(self, number: int) -> dict[str, int]:
        self.count += number
        return {"process": os.getpid(), "result": self.count}

    def sleep(self) -> None:
        time.sleep(600)

    def fail(self) -> None:
        raise ValueError("not today")
