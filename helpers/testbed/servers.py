"""The servers of `helpers.servers`, each in a process of its own, and what they take of the machine meanwhile.

with serving("event loop", wait_ms=10) as server:
    before = server.usage()
    report = closed_loop(server.address, connections=100, seconds=1)
    after = server.usage()
"""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from helpers import machine, memory
from helpers.testbed.program import NotStarted, running

MODELS = ("thread per connection", "thread pool", "event loop", "hybrid", "pre-fork")
BACKLOG = 65_535  # connections that may wait to be accepted: as many as the system allows, which cuts this down
ANSWERS_WITHIN_S = 10.0


@dataclass(frozen=True)
class Usage:
    """What a server's process and all its descendants have at a moment. None: the system doesn't tell.

    `uss` is memory that nobody else has, in bytes, so that pages shared by its processes are missing from it;
    `resident` counts those once for each process. `switches` (voluntary and involuntary) and `cpu_s` count up:
    subtract two. The switches are those of threads that are there now.
    """

    uss: int | None
    resident: int
    virtual: int  # address space, promised but perhaps never touched
    threads: int
    processes: int
    switches: int | None
    cpu_s: float


@dataclass(frozen=True)
class Server:
    """A server that runs, in a process of its own."""

    model: str
    address: tuple[str, int]
    pid: int

    def kill(self) -> None:
        """End it at once: 10,000 threads that all wake up to end in order take long. For those without children."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM if sys.platform == "win32" else signal.SIGKILL)

    def usage(self, *, switches: bool = True) -> Usage:
        """What it takes now. Raises `ProcessLookupError` when it is gone.

        To look up the switches of 10,000 threads takes half a second; without them `switches` is None.
        """
        pids = [self.pid, *_descendants(self.pid)]
        found = [each for pid in pids if (each := _usage(pid, switches, is_first=pid == self.pid)) is not None]
        return Usage(
            uss=_total(each.uss for each in found),
            resident=sum(each.resident for each in found),
            virtual=sum(each.virtual for each in found),
            threads=sum(each.threads for each in found),
            processes=len(found),
            switches=_total(each.switches for each in found),
            cpu_s=sum(each.cpu_s for each in found),
        )


@contextlib.contextmanager
def serving(model: str, *, wait_ms: float = 10, backlog: int = BACKLOG, **limits: Any) -> Iterator[Server]:
    """A server of that model, answering; stopped gracefully at the end. `limits` are fields of `http.Limits`.

    `backlog` is how many connections may wait in the kernel to be accepted. Raises `NotStarted`.
    """
    if model not in MODELS:
        raise ValueError(f"model={model!r}: it is one of {', '.join(MODELS)}")
    with running(__name__, model=model, wait_ms=wait_ms, backlog=backlog, limits=limits) as found:
        server = Server(model, (found["host"], found["port"]), found["pid"])
        _await_answer(server.address)
        yield server


@contextlib.contextmanager
def program(model: str, wait_ms: float, backlog: int, limits: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the process of its own does: the server in a thread, until it is told to stop."""
    from helpers.servers import http

    machine.raise_descriptor_limit()
    module = importlib.import_module(f"helpers.servers.{model.replace(' ', '_').replace('-', '_')}")
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as listener:
        host, port = listener.getsockname()
        server = module.Server(listener, http.Work(wait_ms), http.Limits(**limits))
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        try:
            yield {"host": host, "port": port, "pid": os.getpid()}
        finally:
            server.stop()
            thread.join()


def _await_answer(address: tuple[str, int]) -> None:
    """Wait for the first answer: whatever is started with a server is there then."""
    host, port = address
    request = f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
    try:
        with socket.create_connection(address, timeout=ANSWERS_WITHIN_S) as client:
            client.sendall(request)
            answer = client.recv(64)
    except OSError as error:
        raise NotStarted(f"the server did not answer: {error}") from None
    if not answer.startswith(b"HTTP/1.1 200"):
        raise NotStarted(f"the server answered {answer[:32]!r}")


# What processes take


def _usage(pid: int, switches: bool, *, is_first: bool) -> Usage | None:
    """What one process takes; None if it has ended meanwhile, which the first may not."""
    try:
        pages = memory.footprint(pid)
        threads, switched, cpu_s = (_counters if sys.platform.startswith("linux") else _counters_by_psutil)(
            pid, switches
        )
    except (ProcessLookupError, FileNotFoundError):
        if is_first:
            raise ProcessLookupError(f"no process {pid}") from None
        return None
    return Usage(pages.unique, pages.resident, pages.virtual, threads, 1, switched, cpu_s)


def _counters(pid: int, switches: bool) -> tuple[int, int | None, float]:
    """Threads, context switches and CPU seconds so far (those of children that it has waited for included), by /proc.

    Only threads know their switches (proc(5): `task/*/status`); `status` alone is that of the main thread.
    """
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
        fields = file.read().rpartition(")")[2].split()  # from the third on: the name may have any characters
    ticks = sum(map(int, fields[11:15]))
    threads = os.listdir(f"/proc/{pid}/task")
    switched = sum(_switches(f"/proc/{pid}/task/{thread}/status") for thread in threads) if switches else None
    return len(threads), switched, ticks / os.sysconf("SC_CLK_TCK")


def _switches(path: str) -> int:
    try:
        with open(path, "rb") as file:
            lines = file.read().splitlines()
    except (FileNotFoundError, ProcessLookupError):  # the thread has ended
        return 0
    return sum(int(line.split()[1]) for line in lines if b"ctxt_switches" in line)


def _counters_by_psutil(pid: int, switches: bool) -> tuple[int, int | None, float]:
    """The same elsewhere; the system may not tell of switches."""
    import psutil

    try:
        process = psutil.Process(pid)
        times = process.cpu_times()
        switched = sum(process.num_ctx_switches()) or None if switches else None
        return process.num_threads(), switched, times.user + times.system
    except psutil.NoSuchProcess:
        raise ProcessLookupError(f"no process {pid}") from None


def _descendants(pid: int) -> list[int]:
    """The process's children, their children, and so on."""
    import psutil

    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _total(numbers: Any) -> int | None:
    """Their sum; None if one of them isn't known."""
    found = list(numbers)
    return None if None in found else sum(found)
