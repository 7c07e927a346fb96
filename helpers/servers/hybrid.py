"""Hybrid: an event loop that waits for everybody, and processes that compute for it.

A request that computes is handed to a process, and the loop goes on; that it is done is one more event. (Threads would
free the loop only half: in Python it would have to compete with them for the interpreter's lock.)

The processes start with the server. When one is killed, requests that had been handed over are answered 500, and the
next one starts new processes.

What it costs: twice the machinery, and each request that computes pays for the way to the process and back.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from helpers.servers import event_loop
from helpers.servers.http import Limits, Request, Work, compute

START = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"


class Server(event_loop.Server):
    """A loop, and `limits.processes` processes."""

    def __init__(self, listener: socket.socket, work: Work, limits: Limits) -> None:
        super().__init__(listener, work, limits)
        self._pool = self._new_pool()

    def serve(self) -> None:
        try:
            super().serve()
        finally:
            self._pool.shutdown(cancel_futures=True)

    async def handle(self, request: Request) -> Request:
        if not request.cpu_s:
            return await super().handle(request)
        try:
            await asyncio.wrap_future(self._submit(request.cpu_s))
            return request
        except (BrokenProcessPool, OSError):
            return request._replace(status=500)

    def _submit(self, cpu_s: float) -> Future[None]:
        """Hand over to the process that is free first."""
        try:
            return self._pool.submit(compute, cpu_s)
        except BrokenProcessPool:  # one was killed, and the library ends the others then
            self._pool = self._new_pool()
            return self._pool.submit(compute, cpu_s)

    def _new_pool(self) -> ProcessPoolExecutor:
        inherited = [self.listener, *(connection.sock for connection in self.connections)] if START == "fork" else []
        context = multiprocessing.get_context(START)
        pool = ProcessPoolExecutor(self.limits.processes, context, initializer=_begin, initargs=(inherited,))
        pool.submit(compute, 0)  # it starts them
        return pool


def _begin(inherited: list[socket.socket]) -> None:
    """What a process does first. It inherits what is open, and a connection ends only when nobody holds it any more."""
    for sock in inherited:
        sock.close()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
