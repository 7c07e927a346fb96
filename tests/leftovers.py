"""What runs of experiments left behind: processes, folders and shared memory, by the process that started them."""

from __future__ import annotations

import contextlib
import glob
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

SECONDS = 5.0  # within which everything must be gone


def processes(owner: int) -> list[int]:
    """The processes of the runs that `owner` started: they all have the run's scratch folder for temporary files."""
    mark = f"TMPDIR={_prefix(owner)}".encode()
    found = []
    for place in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if place.name.isdigit() and any(
                line.startswith(mark) for line in (place / "environ").read_bytes().split(b"\0")
            ):
                found.append(int(place.name))
    return found


def _prefix(owner: int) -> str:
    return f"{tempfile.gettempdir()}/concurrency-{owner}-"


def files(owner: int) -> list[str]:
    """Scratch folders and shared memory of those runs."""
    return glob.glob(f"{_prefix(owner)}*") + glob.glob(f"/dev/shm/concurrency-{owner}-*")


def guard_and_worker(owner: int) -> tuple[int, int]:
    """The two processes of the one run that is under way."""
    everyone = processes(owner)
    (guard,) = (one for one in everyone if parent(one) == owner)
    (worker,) = (one for one in everyone if parent(one) == guard and os.getsid(one) == one and not _slept(one))
    return guard, worker


def parent(process: int) -> int:
    """The process's parent, 0 if it is gone."""
    try:
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def _slept(process: int) -> bool:
    return b"time.sleep(600)" in Path(f"/proc/{process}/cmdline").read_bytes()


def is_listening(port: int) -> bool:
    """Does anybody accept connections there?"""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def left_by(owner: int, port: int = 0) -> list[str]:
    """Everything that is left of those runs after `SECONDS`; returns as soon as there is nothing."""

    def found() -> list[str]:
        held = [f"port {port}"] if port and is_listening(port) else []
        return [_described(one) for one in processes(owner)] + files(owner) + held

    deadline = time.monotonic() + SECONDS
    while (left := found()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return left


def _described(process: int) -> str:
    place = Path(f"/proc/{process}")
    with contextlib.suppress(OSError):
        doing = f"{(place / 'stat').read_text().rpartition(')')[2].split()[0]} in {(place / 'wchan').read_text()}"
        return f"process {process}, {doing}, child of {parent(process)}: {(place / 'cmdline').read_bytes()[-60:]!r}"
    return f"process {process}, gone meanwhile"


def wait_until(happened: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Wait, but not for ever; did it happen?"""
    deadline = time.monotonic() + seconds
    while not (is_so := happened()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return is_so


def kill(process: int) -> None:
    """`kill -9`."""
    os.kill(process, signal.SIGKILL)
