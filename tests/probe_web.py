"""A small HTTP server for tests of the load generator. What it does is in the path of the request."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from http import HTTPStatus

GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Requests(asyncio.Protocol):
    """GET /0.02 is answered after 20 ms; the others are named below."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        loop, write = asyncio.get_running_loop(), self.transport.write
        what = data.split()[1].decode().strip("/")
        if what == "":
            write(GOOD)
        elif what == "close":
            write(GOOD.replace(b"200 OK", b"200 OK\r\nConnection: close"))
            self.transport.close()
        elif what == "old":
            write(GOOD.replace(b"HTTP/1.1", b"HTTP/1.0"))
            self.transport.close()
        elif what == "parts":
            for number, byte in enumerate(GOOD):
                loop.call_later(number * 0.0005, write, bytes([byte]))
        elif what == "break":
            write(GOOD[:20])
            self.transport.close()
        elif what == "endless":
            write(b"HTTP/1.1 200 OK\r\n\r\nok")
        elif what.isdigit():
            write(GOOD.replace(b"200 OK", f"{what} {HTTPStatus(int(what)).phrase}".encode()))
        elif what != "never":
            loop.call_later(float(what), write, GOOD)


@contextlib.contextmanager
def program() -> Iterator[tuple[str, int]]:
    """Its address."""
    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(Requests, "127.0.0.1", 0, backlog=1000))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield server.sockets[0].getsockname()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
