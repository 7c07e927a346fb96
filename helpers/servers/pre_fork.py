"""Pre-fork: processes forked beforehand, which all accept connections at one listener, and serve one at a time.

It is older than threads: Apache began so. Processes share nothing, so they compute on all cores at once, and one that
crashes takes one client with it. The parent serves nobody; it forks another one.

A process closes each connection after one request, as gunicorn's sync workers do. If it kept the connection, the client
would keep the process, and all clients beyond `limits.processes` would wait for those to go.

What it costs: as many processes as requests that wait at once, and a new connection for each request.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
import traceback

from helpers.servers.blocking import TICK_S, BlockingServer
from helpers.servers.http import Limits, Work


class Server:
    """The parent of `limits.processes` processes. Raises `OSError` where there is no fork."""

    def __init__(self, listener: socket.socket, work: Work, limits: Limits) -> None:
        if not hasattr(os, "fork"):
            raise OSError("pre-fork needs fork(), which this system does not have")
        self.listener, self.work, self.limits = listener, work, limits
        self._stopping = threading.Event()

    def serve(self) -> None:
        """Serve until somebody calls `stop`, and everything is at its end."""
        self._child_end, self._own_end = os.pipe()  # a byte for each child: "stop"; its end: the parent is no more
        children: set[int] = set()
        while not self._stopping.is_set():
            children = _alive(children)
            with contextlib.suppress(OSError):  # the system gives no more processes: perhaps later
                while len(children) < self.limits.processes:
                    children.add(self._fork())
            self._stopping.wait(TICK_S)
        self.listener.close()
        os.write(self._own_end, bytes(len(children)))
        end = time.monotonic() + self.limits.grace_s
        while (children := _alive(children)) and time.monotonic() < end:
            time.sleep(TICK_S / 10)
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        os.close(self._child_end)
        os.close(self._own_end)

    def stop(self) -> None:
        """From any thread: end soon, and in order. Returns at once."""
        self._stopping.set()

    def _fork(self) -> int:
        """One more child; its process number. The child never returns."""
        if child := os.fork():
            return child
        try:
            os.close(self._own_end)
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            Child(self.listener, self.work, self.limits).serve_until_told(self._child_end)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)


class Child(BlockingServer):
    """One process, one thread: one connection after the other."""

    keeps_connections = False

    def serve(self) -> None:
        for connection in self.arrivals():
            self.converse(connection)
        self.finish()

    def serve_until_told(self, line: int) -> None:
        """Serve until the parent says stop, or is no more."""
        threading.Thread(target=self._listen, args=(line,), daemon=True).start()
        self.serve()

    def _listen(self, line: int) -> None:
        if os.read(line, 1):
            self.stop()
        else:
            os._exit(1)


def _alive(children: set[int]) -> set[int]:
    return {child for child in children if os.waitpid(child, os.WNOHANG) == (0, 0)}
