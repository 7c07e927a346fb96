"""Thread pool: so many threads and no more, each of which serves one connection until that ends, and then the next.

So memory is bounded. Connections wait in a queue until a thread is free.

The knobs, by their names in Tomcat: how many threads there may be (`threads`, maxThreads), how many are kept when there
is nothing to do (`spare`, minSpareThreads), and how many connections are let in (`connections`, maxConnections). Who
comes then waits outside, in the listener's backlog, whose length is chosen where the listener is opened (acceptCount).

One more knob is how many connections may wait for a thread (`queue`). Who comes then is let in, but only to be answered
503 at once.

What it costs: a client that keeps its connection keeps its thread, also while it says nothing.
"""

from __future__ import annotations

import socket
from collections import deque
from threading import Condition, Thread

from helpers.servers.blocking import TICK_S, BlockingServer
from helpers.servers.http import Limits, Work

BORED_S = 10.0  # after so many seconds without work a thread ends, if there are enough without it


class Server(BlockingServer):
    """At most `limits.threads` threads, and a queue."""

    def __init__(self, listener: socket.socket, work: Work, limits: Limits) -> None:
        super().__init__(listener, work, limits)
        self.queue: deque[socket.socket] = deque()  # connections without a thread, the longest first
        self.threads = self.free = 0
        self.waiting = Condition()  # whose lock guards these three
        self.closed = False

    def serve(self) -> None:
        with self.waiting:
            for _ in range(min(self.limits.spare, self.limits.threads)):
                self._hire()
        for connection in self.arrivals():
            if not self._enqueue(connection):
                self.refuse(connection)
        self.finish()
        with self.waiting:
            self.closed = True
            self.waiting.notify_all()
            self.waiting.wait_for(lambda: not self.threads, TICK_S)  # without a client they end at once

    def _enqueue(self, connection: socket.socket) -> bool:
        """Give it to a thread, sooner or later; False if too many wait for that already."""
        with self.waiting:
            ahead = len(self.queue) - self.free  # free threads take theirs at any moment
            if ahead >= 0 and not self._hire() and ahead >= self.limits.queue:
                return False
            self.queue.append(connection)
            self.waiting.notify()
            return True

    def _hire(self) -> bool:
        """One more thread, if there may be and can be one."""
        if self.threads >= self.limits.threads:
            return False
        try:
            Thread(target=self._work, daemon=True).start()
        except RuntimeError:  # the system gives no more
            return False
        self.threads += 1
        self.free += 1
        return True

    def _work(self) -> None:
        """What a thread does: converse with one client after the other."""
        while (connection := self._next()) is not None:
            self.converse(connection)
            with self.waiting:
                self.free += 1

    def _next(self) -> socket.socket | None:
        """The connection that has waited longest; None when the thread isn't needed any more."""
        with self.waiting:
            while not self.queue:
                is_bored = not self.waiting.wait_for(lambda: self.queue or self.closed, BORED_S)
                if self.closed or (is_bored and self.free > self.limits.spare):
                    self.threads -= 1
                    self.free -= 1
                    self.waiting.notify_all()
                    return None
            self.free -= 1
            return self.queue.popleft()
