"""Event loop: one thread for all clients, which never waits for one of them.

Whenever something has come for a connection, the loop calls it (nonblocking.py). It starts a task for the requests, and
the task says `await` where a thread would wait: then the loop goes on with others. So a client that says nothing is
some objects, and no thread.

What it costs: a task that computes has the only thread there is, and everybody else waits.

Without room, and at a stop, it does as the servers do whose threads block (blocking.py).
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

from helpers.servers.http import Limits, Request, Work, compute
from helpers.servers.nonblocking import Connection

TICK_S = 0.1  # how often the server looks for clients that are too slow, and whether it is to stop
BATCH = 100  # clients let in before others have their turn


class Server:
    """One thread, and a loop: asyncio's, or what `new_loop` makes, such as uvloop's."""

    def __init__(
        self,
        listener: socket.socket,
        work: Work,
        limits: Limits,
        new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        self.listener, self.work, self.limits, self.new_loop = listener, work, limits, new_loop
        self.connections: set[Connection] = set()
        self.stopping = False

    def serve(self) -> None:
        """Serve until somebody calls `stop`, and everything is at its end."""
        with asyncio.Runner(loop_factory=self.new_loop) as runner:
            runner.run(self._serve())

    def stop(self) -> None:
        """From any thread: end soon, and in order. Returns at once."""
        self.stopping = True

    async def handle(self, request: Request) -> Request:
        """Do what is asked for; what is to be answered."""
        await asyncio.sleep(request.wait_s)
        if request.cpu_s:
            compute(request.cpu_s)
        return request

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.listener.setblocking(False)
        while not self.stopping:
            self.loop.add_reader(self.listener, self._accept)  # again and again, for it may have had no room
            await asyncio.sleep(TICK_S)
            now = time.monotonic()
            for connection in [each for each in self.connections if each.deadline < now]:
                connection.give_up()
        await self._finish(time.monotonic() + self.limits.grace_s)

    def _accept(self) -> bool:
        """Let some in; whether there may be more."""
        for _ in range(BATCH):
            if len(self.connections) >= self.limits.connections:
                return self._pause()
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                return False
            except ConnectionAbortedError:  # this client has gone already
                continue
            except OSError:  # no descriptor is left, say
                return self._pause()
            self.connections.add(Connection(self, sock))
        return True

    def _pause(self) -> bool:
        """Without room, leave the listener alone until the next tick: it stays readable, and the loop would spin."""
        self.loop.remove_reader(self.listener)
        return False

    async def _finish(self, end: float) -> None:
        """Let in who is waiting, and then nobody; read what has come; wait for the last to go, but not for ever."""
        while self._accept():
            await asyncio.sleep(0)
        self.loop.remove_reader(self.listener)
        self.listener.close()
        for connection in self.connections:
            connection.end_reading()
        while self.connections and time.monotonic() < end:
            await asyncio.sleep(TICK_S / 10)
        for connection in list(self.connections):
            connection.abort()
