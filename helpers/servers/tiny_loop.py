"""An event loop, whole, and coroutines on top of it, in seventy lines: what asyncio is at heart.

The idea: one thread calls functions, one after the other. What can be called now stands in a queue. What has to wait,
for a moment or for a socket, waits in a list, and the operating system says when its time has come. Nobody is
interrupted: a function that takes long makes everybody wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from heapq import heappop, heappush
from itertools import count
from selectors import EVENT_READ, EVENT_WRITE, BaseSelector, DefaultSelector
from socket import socket
from time import monotonic
from types import coroutine
from typing import Any


class Handle(partial[object]):
    """A call that is to come."""

    cancelled = False

    def cancel(self) -> None:
        """It will not come."""
        self.cancelled = True


class Loop:
    """Calls what is ready, and waits for what is not.

    A turn calls what is ready when it begins; what a callback adds waits for the next turn. What a callback raises
    comes out of `run`. Nothing is lost by that: `run` again, and the others have their calls.
    """

    def __init__(self, selector: BaseSelector | None = None, time: Callable[[], float] = monotonic) -> None:
        self.ready: deque[Handle] = deque()  # to be called now, first come first served
        self.timers: list[tuple[float, int, Handle]] = []  # a heap: when, in which order they were set, what
        self.selector, self.time = selector or DefaultSelector(), time  # who waits for which socket; a clock in seconds
        self._order, self._running = count(), False

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> Handle:
        """Call in the next turn."""
        self.ready.append(handle := Handle(callback, *arguments))
        return handle

    def call_later(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> Handle:
        """Call when so many seconds have passed; not before, and as much later as others take up the loop."""
        heappush(self.timers, (self.time() + seconds, next(self._order), handle := Handle(callback, *arguments)))
        return handle

    def on_ready(self, sock: socket, event: int, callback: Callable[..., object], *arguments: Any) -> None:
        """Call once, when there is something to read (`EVENT_READ`) or room to write (`EVENT_WRITE`).

        One waits for a socket at a time. Raises `KeyError` for the next.
        """
        self.selector.register(sock, event, Handle(self._once, sock, callback, *arguments))

    def forget(self, sock: socket) -> None:
        """Nobody waits for the socket any more, even if it is ready by now."""
        if sock in self.selector.get_map():
            self.selector.unregister(sock).data.cancel()

    def run(self) -> None:
        """Turn until nothing is left to wait for, or until `stop`."""
        self._running = True
        while self._running and (self.ready or self.timers or self.selector.get_map()):
            self.run_once()

    def stop(self) -> None:
        """Make this turn the last."""
        self._running = False

    def run_once(self) -> None:
        """One turn: wait until something can go on, line it up, and call all that stands in line."""
        while self.timers and self.timers[0][-1].cancelled:
            heappop(self.timers)
        if not (self.ready or self.timers or self.selector.get_map()):
            return
        soonest = max(0, self.timers[0][0] - self.time()) if self.timers else None
        for key, _ in self.selector.select(0 if self.ready else soonest):
            self.ready.append(key.data)
        while self.timers and self.timers[0][0] <= self.time():
            self.ready.append(heappop(self.timers)[-1])
        for _ in range(len(self.ready)):
            self._run(self.ready.popleft())

    def _run(self, handle: Handle) -> None:  # every call is made here: a subclass can look on
        if not handle.cancelled:
            handle()

    def _once(self, sock: socket, callback: Callable[..., object], *arguments: Any) -> None:
        self.forget(sock)
        callback(*arguments)


# Coroutines: each `await` that has to wait hands the task a function, which sees to it that the task goes on later.


class Task:
    """A coroutine under way. Its result, or the error that it ended with, is for who awaits it."""

    def __init__(self, loop: Loop, coroutine: Coroutine[Any, Any, Any]) -> None:
        self.loop, self.coroutine = loop, coroutine
        self.end: Any = None  # what it ended with: a `StopIteration`, which carries the result, or an error
        self.waiting: list[Handle] = []  # who awaits it
        loop.call_soon(self.step)

    def step(self) -> None:
        """Go on to the next wait, or to the end."""
        try:
            return self.coroutine.send(None)(self)
        except Exception as end:
            self.end = end
        self.loop.ready += self.waiting

    def __await__(self) -> Generator[Callable[[Task], object], None, Any]:
        if self.end is None:
            yield lambda task: self.waiting.append(Handle(task.step))
        if isinstance(self.end, StopIteration):
            return self.end.value
        raise self.end


@coroutine
def sleep(seconds: float) -> Generator[Callable[[Task], object], None, None]:
    """Go on when so many seconds have passed; 0: when everybody else has had a turn."""
    yield lambda task: task.loop.call_later(seconds, task.step) if seconds > 0 else task.loop.call_soon(task.step)


@coroutine
def ready(event: int, sock: socket) -> Generator[Callable[[Task], object], None, None]:
    """Go on when the socket is ready."""
    yield lambda task: task.loop.on_ready(sock, event, task.step)


readable, writable = partial(ready, EVENT_READ), partial(ready, EVENT_WRITE)
