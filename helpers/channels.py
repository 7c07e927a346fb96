"""What two contexts can talk through: six channels with one interface. Standard library alone."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import cycle
from typing import Any, NamedTuple, Protocol

SMALL = 4096  # bytes: no more is sure to go through a pipe in one piece (PIPE_BUF on Linux)
SLOTS = 4  # messages that shared memory has room for
BETWEEN_THREADS = ("thread-queue", "variable")  # the others are between processes


class End(Protocol):
    """One side's end of a channel, for messages of one size. What was received is good until the next message."""

    def send(self, message: Any) -> object: ...

    def receive(self) -> Any: ...


class Channel(NamedTuple):
    """Both ends, by size of the message; the files that each closes; and what else is to be done before the end."""

    ours: Callable[[int], End]
    theirs: Callable[[int], End]
    our_files: tuple[int, ...] = ()
    their_files: tuple[int, ...] = ()
    close: Callable[[], object] = int


class Stream:
    """A pipe or a socket: bytes in order, without an end to any message."""

    def __init__(self, read_from: int, write_to: int, size: int) -> None:
        self._read_from, self._write_to, self._size = read_from, write_to, size
        self._message = memoryview(bytearray(size))
        self._whole = [self._message]

    def send(self, message: Any) -> None:
        sent = os.write(self._write_to, message)
        while sent < self._size:
            sent += os.write(self._write_to, memoryview(message)[sent:])

    def receive(self) -> Any:
        if self._size <= SMALL:  # quicker than readv, and as a rule the whole message
            message = os.read(self._read_from, self._size)
            if len(message) == self._size:
                return message
            got = len(message)
            self._message[:got] = message
        else:
            got = os.readv(self._read_from, self._whole)
        while 0 < got < self._size:
            more = os.readv(self._read_from, [self._message[got:]])
            got = got + more if more else 0
        if not got:
            raise RuntimeError("the other side is gone")
        return self._message


class Queued:
    """Two queues, of processes or of threads."""

    def __init__(self, read_from: Any, write_to: Any, size: int) -> None:
        self.send, self.receive = write_to.put, read_from.get


class Slots:
    """One direction of shared memory: room for some messages, and pipes that count the full and the empty slots."""

    def __init__(self, largest: int) -> None:
        import mmap

        self.memory = memoryview(mmap.mmap(-1, SLOTS * largest))
        self.full, self.empty = os.pipe(), os.pipe()
        os.write(self.empty[1], bytes(SLOTS))

    @property
    def files(self) -> tuple[int, ...]:
        return (*self.full, *self.empty)


class Shared:
    """Shared memory, with pipes for doorbells."""

    def __init__(self, inbox: Slots, outbox: Slots, size: int) -> None:
        self._message = bytearray(size)
        self._inbox, self._full, self._taken = _slots(inbox, size), inbox.full[0], inbox.empty[1]
        self._outbox, self._empty, self._filled = _slots(outbox, size), outbox.empty[0], outbox.full[1]

    def send(self, message: Any) -> None:
        os.read(self._empty, 1)
        next(self._outbox)[:] = message
        os.write(self._filled, b"x")

    def receive(self) -> Any:
        os.read(self._full, 1)
        self._message[:] = next(self._inbox)
        os.write(self._taken, b"x")
        return self._message


def _slots(slots: Slots, size: int) -> Iterator[memoryview]:
    return cycle([slots.memory[place * size : (place + 1) * size] for place in range(SLOTS)])


class Box:
    """A plain variable, and the event that says that it was set."""

    def __init__(self) -> None:
        self.value: Any = None
        self.filled = threading.Event()


class Variable:
    """Two variables, one for each direction."""

    def __init__(self, inbox: Box, outbox: Box, size: int) -> None:
        self._inbox, self._outbox = inbox, outbox

    def send(self, message: Any) -> None:
        self._outbox.value = message
        self._outbox.filled.set()

    def receive(self) -> Any:
        self._inbox.filled.wait()
        self._inbox.filled.clear()
        return self._inbox.value


def _pipe(largest: int) -> Channel:
    there, back = os.pipe(), os.pipe()
    ours, theirs = (back[0], there[1]), (there[0], back[1])
    return Channel(partial(Stream, *ours), partial(Stream, *theirs), ours, theirs)


def _socket_pair(largest: int) -> Channel:
    import socket

    ours, theirs = (end.detach() for end in socket.socketpair())
    return Channel(partial(Stream, ours, ours), partial(Stream, theirs, theirs), (ours,), (theirs,))


def _queue(largest: int) -> Channel:
    from multiprocessing import get_context

    context: Any = get_context("fork")
    there, back = context.Queue(), context.Queue()

    def send_off() -> None:
        for queue in (there, back):
            queue.close()
            queue.join_thread()

    return Channel(partial(Queued, back, there), partial(Queued, there, back), close=send_off)


def _shared_memory(largest: int) -> Channel:
    there, back = Slots(largest), Slots(largest)
    files = (*there.files, *back.files)
    return Channel(partial(Shared, back, there), partial(Shared, there, back), close=partial(close_all, files))


def close_all(files: Iterable[int]) -> None:
    """Close these descriptors."""
    for file in files:
        os.close(file)


def _thread_queue(largest: int) -> Channel:
    from queue import SimpleQueue

    there: Any = SimpleQueue()
    back: Any = SimpleQueue()
    return Channel(partial(Queued, back, there), partial(Queued, there, back))


def _variable(largest: int) -> Channel:
    there, back = Box(), Box()
    return Channel(partial(Variable, back, there), partial(Variable, there, back))


CHANNELS: dict[str, Callable[[int], Channel]] = {  # each takes the size of the largest message
    "pipe": _pipe,
    "socket-pair": _socket_pair,
    "queue": _queue,
    "shared-memory": _shared_memory,
    "thread-queue": _thread_queue,
    "variable": _variable,
}
