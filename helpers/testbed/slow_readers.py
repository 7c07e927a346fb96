"""Clients that read slower than they are sent to, and what the sender holds for them, by the way it sends."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from helpers import contexts
from helpers.contexts import start_process
from helpers.measure import KIB, MIB
from helpers.memory import footprint
from helpers.testbed.heartbeat import MS, sleep_until

MESSAGE = 32 * KIB
CLIENTS = 5  # of each way
SMALL = 32 * KIB  # bytes that the kernel may keep, at each end
PLACES = 4  # of the queue that has an end
WAYS = ("write", "write and drain", "queue", "queue with an end")


def send_all(sent_mib_s: float, read_mib_s: float, seconds: float) -> tuple[dict[str, list[Flow]], float | None]:
    """All ways at once on one loop, `CLIENTS` of each; and the MiB by which this process grew meanwhile.

    None: the system doesn't tell.
    """
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # in the end drop the rest
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        reading = partial(_read_slowly, listener.getsockname(), 2 * CLIENTS, read_mib_s)
        join = start_process(reading, [], [listener.fileno()])
        try:
            return asyncio.run(_send_all(listener, sent_mib_s, read_mib_s, seconds))
        finally:
            listener.close()
            join()


@dataclass
class Flow:
    """Messages to one client, and how much of them was held when: ms, bytes."""

    send: Callable[[bytes], Awaitable[None]]
    held: Callable[[], int]
    sent: int = 0
    curve: list[tuple[float, int]] = field(default_factory=list)


async def write(writer: asyncio.StreamWriter, message: bytes) -> None:
    """Puts the message into the transport's buffer, and goes on."""
    writer.write(message)


async def write_and_drain(writer: asyncio.StreamWriter, message: bytes) -> None:
    """The same, and waits while more is in the buffer than its high-water mark."""
    writer.write(message)
    await writer.drain()


async def _send_all(
    listener: socket.socket, sent_mib_s: float, read_mib_s: float, seconds: float
) -> tuple[dict[str, list[Flow]], float | None]:
    connected: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: connected.put_nowait(writer), sock=listener)
    writers = [await connected.get() for _ in range(2 * CLIENTS)]
    queues: list[asyncio.Queue[bytes]] = [asyncio.Queue(places) for places in (0, PLACES) for _ in range(CLIENTS)]
    takers = [asyncio.create_task(_take(queue, MESSAGE / (read_mib_s * MIB))) for queue in queues]
    flows = [_to_socket(write, writer) for writer in writers[:CLIENTS]]
    flows += [_to_socket(write_and_drain, writer) for writer in writers[CLIENTS:]]
    flows += [Flow(queue.put, lambda queue=queue: queue.qsize() * MESSAGE) for queue in queues]  # type: ignore[misc]
    before, begin = _unique(), time.perf_counter_ns()
    end = begin + int(seconds * 1e9)
    await asyncio.gather(_watch(flows, begin, end), *(_produce(flow, end, sent_mib_s) for flow in flows))
    after = _unique()
    for taker in takers:
        taker.cancel()
    for writer in writers:
        writer.transport.abort()
    server.close()
    grown = None if before is None or after is None else (after - before) / MIB
    return {name: flows[place * CLIENTS : (place + 1) * CLIENTS] for place, name in enumerate(WAYS)}, grown


def _to_socket(send: Callable[..., Awaitable[None]], writer: asyncio.StreamWriter) -> Flow:
    return Flow(partial(send, writer), writer.transport.get_write_buffer_size)


async def _produce(flow: Flow, end: int, mib_s: float) -> None:
    """Messages at that rate, unless sending one is held up."""
    pause_ns = int(1e9 * MESSAGE / (mib_s * MIB))
    due = time.perf_counter_ns()
    while (now := max(due, time.perf_counter_ns())) < end:
        with suppress(TimeoutError):
            async with asyncio.timeout((end - now) / 1e9):
                await flow.send(bytes(MESSAGE))
                flow.sent += MESSAGE
        due += pause_ns
        await sleep_until(due)


async def _take(queue: asyncio.Queue[bytes], pause_s: float) -> None:
    """A consumer that takes one so often."""
    due = time.perf_counter_ns()
    while True:
        await queue.get()
        due += int(pause_s * 1e9)
        await sleep_until(due)


async def _watch(flows: Sequence[Flow], begin: int, end: int) -> None:
    """How much each holds, a hundred times a second, and at the end."""
    now = begin
    while now < end:
        await sleep_until(min(now + 10_000_000, end))
        now = time.perf_counter_ns()
        for flow in flows:
            flow.curve.append(((now - begin) * MS, flow.held()))


def _read_slowly(address: tuple[str, int], clients: int, mib_s: float) -> None:
    """So many clients that read at that rate until nobody sends any more."""
    read: dict[socket.socket, int] = {}
    for _ in range(clients):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
        sock.connect(address)
        sock.setblocking(False)
        read[sock] = 0
    due = begin = time.perf_counter_ns()
    while read:
        due += 10_000_000
        contexts.sleep_until(due)
        allowed = int((time.perf_counter_ns() - begin) / 1e9 * mib_s * MIB)
        for sock in [sock for sock in read if read[sock] < allowed]:
            with suppress(BlockingIOError):
                size = _receive(sock, allowed - read[sock])
                read[sock] += size
                if not size:
                    del read[sock]


def _receive(sock: socket.socket, most: int) -> int:
    """How many bytes came, at most so many; 0 at the end. Raises `BlockingIOError` where there are none now."""
    try:
        return len(sock.recv(most))
    except ConnectionError:
        return 0


def _unique() -> int | None:
    """Bytes that this process has for itself; None where the system doesn't tell."""
    try:
        return footprint(os.getpid()).unique
    except OSError:
        return None
