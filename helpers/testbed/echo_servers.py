"""The same echo by several loops, each in a process of its own, and a client that asks them in turn.

`clock_gettime` reads another process's CPU clock to the nanosecond on Linux; elsewhere psutil tells to some ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import select
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from random import Random
from typing import Any

SERVERS = (  # who serves, and how it is asked for
    "tiny loop",
    "tiny loop, thrifty",
    "asyncio streams",
    "asyncio protocol",
    "uvloop streams",
    "uvloop protocol",
)
READ = 16 * 1024
MESSAGE = b"x" * 64
READABLE = 1  # what both epoll and poll call "there is something to read"
RESET = struct.pack("ii", 1, 0)  # the end is a reset, so that the port is free for others at once
STUCK_S = 10.0  # without an answer


@contextlib.contextmanager
def program(server: str) -> Iterator[dict[str, Any]]:
    """The server: its address, and the process that it runs in."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        listener.setblocking(False)
        run = tiny(server) if server.startswith("tiny") else partial(of_asyncio, server)
        threading.Thread(target=run, args=(listener,), daemon=True).start()
        yield {"address": listener.getsockname(), "pid": os.getpid()}


def tiny(server: str) -> Callable[[socket.socket], None]:
    """The tiny loop; a thrifty one need not tell the system that it waits for the same again."""
    from helpers.servers.thrifty_selector import ThriftySelector
    from helpers.servers.tiny_echo import serve
    from helpers.servers.tiny_loop import Loop, Task

    def run(listener: socket.socket) -> None:
        loop = Loop(ThriftySelector() if "thrifty" in server else None)
        Task(loop, serve(loop, listener))
        loop.run()

    return run


async def by_streams(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An echo as asyncio's documentation has it."""
    with contextlib.suppress(ConnectionError):
        while content := await reader.read(READ):
            writer.write(content)
            await writer.drain()
    writer.close()


class ByProtocol(asyncio.Protocol):
    """An echo by callbacks, without a coroutine."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


def of_asyncio(server: str, listener: socket.socket) -> None:
    """asyncio's loop, or uvloop in its place."""

    async def serve() -> None:
        if server.endswith("streams"):
            found = await asyncio.start_server(by_streams, sock=listener)
        else:
            found = await asyncio.get_running_loop().create_server(ByProtocol, sock=listener)
        await found.serve_forever()

    new_loop(server.split()[0]).run_until_complete(serve())


def new_loop(name: str) -> asyncio.AbstractEventLoop:
    """asyncio's own, or uvloop's."""
    if name != "uvloop":
        return asyncio.new_event_loop()
    import uvloop

    return uvloop.new_event_loop()


def cpu_s(pid: int) -> float:
    """CPU seconds that a process has used."""
    if sys.platform == "linux":
        return time.clock_gettime((~pid << 3) | 2)  # as `clock_getcpuclockid` of the C library has it
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def rounds(
    servers: Mapping[str, Mapping[str, Any]], connections: int, seconds: float, repeats: int
) -> dict[str, list[list[float]]]:
    """Each server once per round, in random order: requests, seconds, its CPU seconds, and the client's."""
    found: dict[str, list[list[float]]] = {name: [] for name in servers}
    source, names = Random(), list(servers)
    gc.disable()
    for _ in range(repeats):
        source.shuffle(names)
        for name in names:
            found[name].append(ask(servers[name]["address"], servers[name]["pid"], connections, seconds))
    return found


def ask(address: tuple[str, int], pid: int, connections: int, seconds: float) -> list[float]:
    """A closed loop: each connection sends its message again when it has come back."""
    poll = select.epoll() if hasattr(select, "epoll") else select.poll()
    with contextlib.ExitStack() as stack:
        socks = {}
        for _ in range(connections):
            sock = stack.enter_context(socket.create_connection((address[0], address[1]), timeout=STUCK_S))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            sock.sendall(MESSAGE)
            sock.recv(READ)
            sock.setblocking(False)
            poll.register(sock.fileno(), READABLE)
            socks[sock.fileno()] = sock
        requests, pending, theirs, mine = 0, connections, cpu_s(pid), time.process_time()
        begin = now = time.perf_counter()
        for sock in socks.values():
            sock.send(MESSAGE)
        while pending:
            ready = poll.poll(STUCK_S * (1 if hasattr(select, "epoll") else 1000))
            now = time.perf_counter()
            if not ready:
                raise RuntimeError(f"the server has not answered for {STUCK_S:g} s")
            for descriptor, _ in ready:
                sock = socks[descriptor]
                sock.recv(READ)
                requests += 1
                if now - begin < seconds:
                    sock.send(MESSAGE)
                else:
                    pending -= 1
        return [requests, now - begin, cpu_s(pid) - theirs, time.process_time() - mine]
