"""First figures: four things every backend does all day, ten thousandfold apart (notebook 00)."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar

from helpers import measure
from helpers.measure import Estimate, difference, estimate
from helpers.record import Record
from helpers.registry import Between, experiment

CALLS = 100_000
THREADS = 50
CONNECTIONS = 50


@dataclass(frozen=True, kw_only=True)
class FirstCosts(Record):
    """Nanoseconds of four everyday operations, in the order of their cost."""

    headline_name: ClassVar[str] = "thread start"

    function_call: Estimate
    tcp_connect: Estimate
    thread_start: Estimate
    process_start: Estimate

    def figures(self) -> dict[str, Estimate]:
        return {
            "function call": self.function_call,
            "TCP connect": self.tcp_connect,
            "thread start": self.thread_start,
            "process start": self.process_start,
        }


@experiment(seconds=3)
def first_costs(*, repeats: Annotated[int, Between(5, 200)] = 25) -> FirstCosts:
    """A function call, a TCP connection to this machine, a thread's and an interpreter's start and end, in ns.

    Each repeat takes all four in random order; the loop around the call is taken off. The connection is the
    client's `connect` over loopback, with nobody far away: no distance, no TLS, no database.
    """
    with _listener() as address:
        taken = measure.interleave(
            {
                "call": lambda: _time_calls() / CALLS,
                "loop": lambda: _time_loop() / CALLS,
                "connect": lambda: _time_connects(address) / CONNECTIONS,
                "thread": lambda: _time_threads() / THREADS,
                "process": _time_process,
            },
            repeats,
        )
    return FirstCosts(
        function_call=difference(taken["call"], taken["loop"], "ns"),
        tcp_connect=estimate(taken["connect"], "ns"),
        thread_start=estimate(taken["thread"], "ns"),
        process_start=estimate(taken["process"], "ns"),
        placement="free",
        subtracted="the empty loop, from the function call",
    )


def _nothing() -> None:
    """The function that is called."""


def _time_calls() -> int:
    nothing = _nothing
    start = time.perf_counter_ns()
    for _ in range(CALLS):
        nothing()
    return time.perf_counter_ns() - start


def _time_loop() -> int:
    start = time.perf_counter_ns()
    for _ in range(CALLS):
        pass
    return time.perf_counter_ns() - start


def _time_threads() -> int:
    def run() -> None:
        for _ in range(THREADS):
            thread = threading.Thread(target=_nothing)
            thread.start()
            thread.join()

    return measure.timed(run)


def _time_process() -> int:
    return measure.timed(lambda: subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True))


def _time_connects(address: tuple[str, int]) -> int:
    """`connect` alone; the sockets are closed outside of the clock."""
    spent = 0
    for _ in range(CONNECTIONS):
        with socket.socket() as client:
            start = time.perf_counter_ns()
            client.connect(address)
            spent += time.perf_counter_ns() - start
    return spent


@contextlib.contextmanager
def _listener() -> Iterator[tuple[str, int]]:
    """A server on loopback that accepts and closes; its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=CONNECTIONS) as server:

        def accept() -> None:
            while True:
                with contextlib.suppress(ConnectionError):
                    client, _ = server.accept()
                    first = client.recv(1)
                    client.close()
                    if first:  # the word to stop
                        return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        address = server.getsockname()
        try:
            yield address
        finally:
            with socket.create_connection(address) as client:
                client.sendall(b".")
            thread.join()
