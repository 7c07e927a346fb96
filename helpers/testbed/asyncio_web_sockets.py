"""WebSocket servers on asyncio, to hold the project's own against: a bare Protocol, on uvloop too; `websockets`."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any

from helpers.servers.web_socket_protocol import PING, PONG, TEXT, first_frame, frame, upgrade

BACKLOG = 65_535  # they listen once more, and would let as few as a hundred wait


def prepare(kind: str, listener: socket.socket) -> tuple[Callable[[], None], str]:
    """What serves at the listener ("asyncio", "uvloop" or "websockets") for ever, and the version of the library."""
    start, version = _protocols, ""
    loop = asyncio.new_event_loop() if kind != "uvloop" else None
    if loop is None:
        import uvloop

        loop, version = uvloop.new_event_loop(), uvloop.__version__
    elif kind == "websockets":
        from websockets.version import version

        start = _library
    listener.setblocking(False)
    loop.run_until_complete(start(listener))
    return loop.run_forever, version


class _Protocol(asyncio.Protocol):
    """As little as a WebSocket can do: the project's protocol code on a transport of asyncio's."""

    __slots__ = ("everyone", "is_open", "transport", "unread")

    def __init__(self, everyone: dict[_Protocol, None]) -> None:
        self.everyone, self.is_open, self.unread = everyone, False, b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.everyone.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self.unread += data
        if not self.is_open:
            head, end, rest = self.unread.partition(b"\r\n\r\n")
            if not end:
                return
            self.transport.write(upgrade(head))
            self.is_open, self.unread = True, rest
            self.everyone[self] = None
        while got := first_frame(self.unread):
            self.unread = self.unread[got.size :]
            if got.opcode == PING:
                self.transport.write(frame(PONG, got.payload))
            elif got.opcode == TEXT and got.payload.startswith(b"/all "):
                told = frame(TEXT, got.payload.removeprefix(b"/all "))
                for each in self.everyone:
                    each.transport.write(told)
            elif got.opcode == TEXT:
                self.transport.write(frame(TEXT, got.payload))
            else:
                self.transport.close()


async def _protocols(listener: socket.socket) -> None:
    everyone: dict[_Protocol, None] = {}
    await asyncio.get_running_loop().create_server(lambda: _Protocol(everyone), sock=listener, backlog=BACKLOG)


async def _library(listener: socket.socket) -> None:
    from websockets.asyncio.server import ServerConnection, broadcast, serve
    from websockets.exceptions import ConnectionClosed

    async def handle(connection: ServerConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            async for message in connection:
                assert isinstance(message, str)
                if message.startswith("/all "):
                    broadcast(server.connections, message.removeprefix("/all "))
                else:
                    await connection.send(message)

    server = await serve(handle, sock=listener, compression=None, ping_interval=None, backlog=BACKLOG)
