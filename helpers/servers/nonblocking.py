"""One client of a server that must not wait for it: what `BlockingServer.converse` does, told by events.

A thread that serves one client has its place in the code to remember how far the two have come. Here the loop calls a
method whenever something has happened, so that the state is in attributes: most of them are what the thread had in
local variables, or in the fact that it was waiting.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import traceback
from collections import deque
from math import inf
from typing import TYPE_CHECKING, cast

from helpers.servers.http import Parser, Request, response

if TYPE_CHECKING:
    from helpers.servers.event_loop import Server

PIPELINE = 100  # requests of one client that may wait; then it is read from no more


class Connection(asyncio.Protocol):
    """The loop calls `connection_made`, `data_received` and so on (see asyncio.Protocol), the server the others."""

    transport: asyncio.Transport

    def __init__(self, server: Server, sock: socket.socket) -> None:
        self.server, self.sock = server, sock
        self.parser = Parser(server.work, server.limits)
        self.requests: deque[Request] = deque()  # that have come, without the one under way
        self.task: asyncio.Task[None] | None = None  # that answers them; None: it is the client's turn
        self.deadline = inf  # for the client
        self.is_last = False  # there will be no more requests
        self.is_full = False  # answers wait, since the client does not take them
        self.opening = server.loop.create_task(self._open())

    async def _open(self) -> None:
        try:
            await self.server.loop.connect_accepted_socket(lambda: self, self.sock)
        except OSError as error:
            self.sock.close()
            self.connection_lost(error)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.deadline = self.parser.deadline()

    def data_received(self, data: bytes) -> None:
        self.requests += self.parser.feed(data)
        if self.task is not None:
            if len(self.requests) > PIPELINE:
                self.transport.pause_reading()
        elif self.requests:
            self.deadline = inf
            self.task = self.server.loop.create_task(self._answer())
        else:
            self.deadline = self.parser.deadline()

    async def _answer(self) -> None:
        """One answer after the other. Then it is the client's turn again."""
        while self.requests:
            request = await self._handled(self.requests.popleft())
            keep = request.keep and not self.server.stopping
            self.transport.write(response(request.status, keep, request.head))
            if not keep:
                self.is_last = True
                self.requests.clear()
        self.task = None
        self.deadline = self.parser.deadline()
        if self.is_last:
            self.transport.close()
        elif not self.is_full:
            self.transport.resume_reading()

    async def _handled(self, request: Request) -> Request:
        """What is to be answered, whatever happens."""
        try:
            return await self.server.handle(request)
        except Exception:  # a bug, so let it be seen; but the client has to hear something
            traceback.print_exc()
            return request._replace(status=500)

    def pause_writing(self) -> None:
        """The client does not take its answers. So it may ask no more."""
        self.is_full = True
        self.transport.pause_reading()

    def resume_writing(self) -> None:
        self.is_full = False
        if self.task is None and not self.transport.is_closing():
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        """The client sends no more. The connection stays open as long as answers are missing."""
        self.is_last = True
        return self.task is not None

    def connection_lost(self, error: Exception | None) -> None:
        self.server.connections.discard(self)
        if self.task is not None:
            self.task.cancel()

    def end_reading(self) -> None:
        """What has come is still read, and nothing after it; then the loop calls `eof_received`."""
        with contextlib.suppress(OSError):  # the client has gone
            self.sock.shutdown(socket.SHUT_RD)

    def give_up(self) -> None:
        """The client was too slow."""
        if self.is_full or self.transport.is_closing():  # it leaves even its answers
            return self.abort()
        if self.parser.begun is not None:
            self.transport.write(response(408, keep=False))
        self.transport.close()

    def abort(self) -> None:
        """Close it, whatever is under way."""
        if self.opening.done():
            self.transport.abort()
