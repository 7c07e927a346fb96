"""Small programs for the tiny loop: notebook 06 goes through them step by step."""

from __future__ import annotations

import time
from selectors import EVENT_READ
from socket import socketpair

from helpers.servers.tiny_loop import Loop, Task, readable, sleep


def callbacks(loop: Loop) -> None:
    """Callbacks run in the order in which they came."""

    def first() -> None:
        print("first")
        loop.call_soon(third)

    def second() -> None:
        print("second")

    def third() -> None:
        print("third")

    loop.call_soon(first)
    loop.call_soon(second)


def timers(loop: Loop) -> None:
    """Timers run in the order in which they are due; one is cancelled."""

    def tea() -> None:
        print("tea is ready")

    def eggs() -> None:
        print("eggs are ready")
        oven.cancel()

    def pizza() -> None:
        print("pizza is burnt")

    loop.call_later(0.030, tea)
    loop.call_later(0.010, eggs)
    oven = loop.call_later(0.020, pizza)


def sockets(loop: Loop) -> None:
    """A socket wakes the loop when there is something to read; the end of the stream does, too."""
    ours, theirs = socketpair()

    def write() -> None:
        theirs.send(b"hello")
        theirs.close()

    def read() -> None:
        message = ours.recv(100)
        print("read:", message)
        if message:
            loop.on_ready(ours, EVENT_READ, read)

    loop.on_ready(ours, EVENT_READ, read)
    loop.call_later(0.010, write)


def coroutines(loop: Loop) -> None:
    """An `await` that has to wait hands the thread back to the loop, with everything on the coroutine's stack kept."""

    async def cook(dish: str, ms: int) -> str:
        print(dish, "is on the stove")
        await sleep(ms / 1000)
        return f"{dish} is ready"

    async def dinner() -> None:
        tea = Task(loop, cook("tea", 20))
        print(await cook("soup", 10))
        print(await tea)

    Task(loop, dinner())


def conversation(loop: Loop) -> None:
    """Two coroutines talk over a socket: each reads as if it were alone, and neither blocks the other."""
    ours, theirs = socketpair()

    async def ask() -> None:
        ours.send(b"what time is it?")
        await readable(ours)
        print(ours.recv(100))

    async def answer() -> None:
        await readable(theirs)
        print(theirs.recv(100))
        await sleep(0.010)
        theirs.send(b"noon")

    Task(loop, ask())
    Task(loop, answer())


def blocking(loop: Loop) -> None:
    """While a callback keeps the thread, nothing else happens: timers are late."""

    def compute() -> None:
        time.sleep(0.030)
        print("computed")

    def tick() -> None:
        print("tick")

    loop.call_later(0.010, tick)
    loop.call_later(0.020, tick)
    loop.call_soon(compute)
