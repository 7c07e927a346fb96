"""Processes to be looked at from outside: each is started afresh, does one thing when told, and waits meanwhile.

A worker can't show what a process takes: it is a fork, so it shares its memory with its parent. A specimen is a bare
interpreter (`-I -S`) that runs one function of this module. It reads a number per line, answers each with a line of
numbers, and ends with its input, after everything that it started. What a specimen doesn't need is not imported:
it would be part of what is measured.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # as in `worker`: `typing` takes 4 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

START = "import sys; sys.path.insert(0, sys.argv.pop(1)); from helpers.specimens import main; main()"
EIGHTHS = 8


class Specimen:
    """A specimen, and the pipes by which it is told what to do: `with Specimen("threads") as one: one.ask(100)`."""

    def __init__(self, kind: str) -> None:
        import subprocess

        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        command = [sys.executable, "-I", "-S", "-c", START, root, kind]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.kind, self.pid = kind, self._process.pid
        self._answer()  # it is ready

    def ask(self, number: int) -> list[int]:
        """Tell it a number, and wait for its answer. Raises `RuntimeError` when it has none."""
        assert self._process.stdin is not None
        try:  # noqa: SIM105  `contextlib` would add 0.6 MiB to every specimen
            print(number, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            pass  # then there is no answer, either
        return self._answer()

    def _answer(self) -> list[int]:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that was to show {self.kind.replace('_', ' ')} ended early")
        return [int(word) for word in answer.split()]

    def __enter__(self) -> Specimen:
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:  # noqa: SIM105  as above
            self._process.stdin.close()
        except BrokenPipeError:
            pass  # it has ended, and not read what was said last
        self._process.wait()
        self._process.stdout.close()


# What follows runs in the specimen


def main() -> None:
    """Be the kind that the first argument names, until the input ends."""
    kind: Callable[[], None] = globals()[sys.argv[1]]
    _answer()
    kind()
    os._exit(0)  # not waiting for threads that never end


def _orders() -> Iterator[int]:
    """The numbers that we are told, as they come."""
    return map(int, sys.stdin)


def _answer(*numbers: int) -> None:
    print(*numbers, flush=True)


# Idle contexts. Told a number, have so many; answer how many there are, and the processes whose memory counts.


def threads() -> None:
    """Threads that wait for a lock.

    Bare ones: those of `threading` bring some objects of their own, and up to Python 3.12 each takes the longer
    to start the more there are.
    """
    import _thread
    import time

    gate = _thread.allocate_lock()
    gate.acquire()
    running: list[bool] = []

    def idle() -> None:
        running.append(True)
        gate.acquire()

    started = 0
    for count in _orders():
        try:
            while started < count:
                _thread.start_new_thread(idle, ())
                started += 1
        except RuntimeError:  # the system allows no more
            pass
        while len(running) < started:
            time.sleep(0.001)
        time.sleep(0.005)  # the last one still has to get from there to the lock
        _answer(started, os.getpid())


def tasks() -> None:
    """asyncio tasks that wait for a future each."""
    import asyncio

    async def idle() -> None:
        await asyncio.get_running_loop().create_future()

    async def crowd() -> None:
        held: list[asyncio.Task[None]] = []
        for count in _orders():
            held += [asyncio.create_task(idle()) for _ in range(count - len(held))]
            await asyncio.sleep(0)  # each of them runs as far as its future
            _answer(len(held), os.getpid())
        os._exit(0)

    asyncio.run(crowd())


def forked() -> None:
    """Forked children that wait for the end of a pipe."""

    def start(lifeline: tuple[int, int], ready: int) -> int:
        child = os.fork()
        if child == 0:
            os.close(lifeline[1])
            os.write(ready, b"x")
            os.read(lifeline[0], 1)
            os._exit(0)
        return child

    _processes(start)


def spawned() -> None:
    """Interpreters started afresh, as bare as this one, that wait for the end of a pipe."""
    program = "import os; os.write(1, b'x'); os.read(0, 1); os._exit(0)"
    command = [sys.executable, "-I", "-S", "-c", program]

    def start(lifeline: tuple[int, int], ready: int) -> int:
        ends = [(os.POSIX_SPAWN_DUP2, lifeline[0], 0), (os.POSIX_SPAWN_DUP2, ready, 1)]
        return os.posix_spawn(sys.executable, command, os.environ, file_actions=ends)

    _processes(start)


def _processes(start: Callable[[tuple[int, int], int], int]) -> None:
    lifeline, (is_ready, ready) = os.pipe(), os.pipe()
    children: list[int] = []
    for count in _orders():
        before = len(children)
        try:
            while len(children) < count:
                children.append(start(lifeline, ready))
        except OSError:  # the system allows no more
            pass
        missing = len(children) - before
        while missing:
            missing -= len(os.read(is_ready, missing))
        _answer(len(children), os.getpid(), *children)
    os.close(lifeline[1])
    for child in children:
        os.waitpid(child, 0)


# Copy-on-write. Told a size in bytes, build data; told any number, fork: the child answers with its process. From then
# on, told how many eighths, the child goes on through the data up to there, and again over the same stretch; it answers
# how many nanoseconds either took.


def reading_bytes() -> None:
    """A large buffer, of which the child reads a byte of each page."""
    page = _page()

    def read(data: bytearray, first: int, last: int) -> None:
        for place in range(first, last):
            data[place * page]

    _inherited(_buffer, lambda data: len(data) // page, read)


def writing_bytes() -> None:
    """A large buffer, of which the child writes a byte of each page."""
    page = _page()

    def write(data: bytearray, first: int, last: int) -> None:
        for place in range(first, last):
            data[place * page] = 1

    _inherited(_buffer, lambda data: len(data) // page, write)


def reading_objects() -> None:
    """A list of strings of 400 bytes, at each of which the child looks; it changes none."""

    def build(size: int) -> list[str]:
        return [f"{number:0351d}" for number in range(size // 400)]  # a string's head has 49 bytes

    def read(data: list[str], first: int, last: int) -> None:
        for place in range(first, last):
            data[place]

    _inherited(build, len, read)


def _page() -> int:
    return os.sysconf("SC_PAGE_SIZE")


def _buffer(size: int) -> bytearray:
    return bytearray(b"x") * size


def _inherited(
    build: Callable[[int], Any], length: Callable[[Any], int], touch: Callable[[Any, int, int], None]
) -> None:
    from time import perf_counter_ns as now

    orders = _orders()
    data = build(next(orders))
    _answer()
    next(orders)
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    _answer(os.getpid())
    done = 0
    for eighths in orders:
        upto = length(data) * eighths // EIGHTHS
        start = now()
        touch(data, done, upto)
        between = now()
        touch(data, done, upto)
        _answer(between - start, now() - between)
        done = upto


# Connections. Told any number, listen: answer with the port. From then on, told a number, accept until there are so
# many; answer how many there are.


def connections_as_sockets() -> None:
    """A socket object for each, and nothing else."""
    held: list[Any] = []
    _accepting(held.append)


def connections_as_threads() -> None:
    """A thread for each, which waits for its first byte. A bare one, as in `threads`."""
    import _thread

    _accepting(lambda connection: _thread.start_new_thread(connection.recv, (1,)))


def connections_as_streams() -> None:
    """An asyncio task for each, which waits for the first bytes of its stream."""
    import asyncio

    held: list[asyncio.StreamWriter] = []

    async def idle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.read()

    async def crowd() -> None:
        orders = _orders()
        next(orders)
        server = await asyncio.start_server(idle, "127.0.0.1", 0, backlog=BACKLOG)
        _answer(server.sockets[0].getsockname()[1])
        loop = asyncio.get_running_loop()
        while (count := await loop.run_in_executor(None, next, orders, 0)) > 0:
            deadline = loop.time() + ACCEPTING_S
            while len(held) < count and loop.time() < deadline:
                await asyncio.sleep(0.001)
            _answer(len(held))
        os._exit(0)

    asyncio.run(crowd())


BACKLOG = 1024
ACCEPTING_S = 5.0  # for those that have connected already


def _accepting(hold: Callable[[Any], object]) -> None:
    import socket

    orders = _orders()
    next(orders)
    server = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    server.settimeout(ACCEPTING_S)
    _answer(server.getsockname()[1])
    there = 0
    for count in orders:
        try:
            while there < count:
                connection = server.accept()[0]
                connection.settimeout(None)
                hold(connection)
                there += 1
        except (OSError, RuntimeError):  # the system allows no more
            pass
        _answer(there)
