"""A small web server: HTTP/1.0, HTTP/1.1, HTTP/2 and WebSocket at one address, by the libraries h11, h2 and wsproto.

    with serving(wait_ms=5) as address:
        socket.create_connection(address)

It runs in a process of its own, on asyncio. A client of HTTP/2 begins at once with that protocol's preface ("prior
knowledge"), or is told of it by TLS (ALPN); everyone else is served HTTP/1, and WebSocket when asking for the upgrade.

- `/`: a small answer, after `wait_ms`;
- `/publish?count=20&every_ms=100`: publishes so many messages, the first after one interval; answers at once;
- `/messages?after=7`: a JSON list of the messages that follow number 7; with `&wait=30` the answer waits until there
  is one, 30 s at most (a long poll);
- `/ws`: a WebSocket, on which every message from now on is pushed, and text is answered with the same text.

A message is {"number", "published_ns", "text"}, numbered from 1; `published_ns` is `perf_counter_ns`, which all
processes of a machine share. Answers are small enough for HTTP/2's first window, so there is no flow control.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from time import perf_counter_ns
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from helpers.testbed import tls
from helpers.testbed.program import running

READ = 64 * 1024  # bytes taken at a time
PREFACE = b"PRI "  # the first bytes of HTTP/2's, and of nothing else (RFC 9113, section 3.4)
STREAMS = 256  # that one HTTP/2 connection may have open at once
GOLDEN = 0.6180339887498949
TEXT = "Lunch at noon? The usual place, the table by the window."  # of every message


@contextlib.contextmanager
def serving(*, wait_ms: float = 0, identity: tls.Identity | None = None) -> Iterator[tuple[str, int]]:
    """The address (host, port) of a server of its own; with an `identity` it speaks TLS."""
    with running(__name__, wait_ms=wait_ms, identity=vars(identity) if identity else None) as (host, port):
        yield host, port


@contextlib.contextmanager
def program(wait_ms: float, identity: Mapping[str, str] | None) -> Iterator[tuple[str, int]]:
    """What the process of its own does: the server's loop in a thread, until it is told to stop."""
    up: Future[tuple[tuple[str, int], Callable[[], object]]] = Future()

    async def main() -> None:
        told = asyncio.Event()
        site = Site(wait_ms / 1e3)
        context = None
        if identity:
            context = tls.server_context(tls.Identity(**identity))
            context.set_alpn_protocols(["h2", "http/1.1"])
        server = await asyncio.start_server(site.serve, "127.0.0.1", 0, ssl=context, backlog=1024)
        stop = partial(asyncio.get_running_loop().call_soon_threadsafe, told.set)
        up.set_result((server.sockets[0].getsockname()[:2], stop))
        await told.wait()
        server.close()  # whoever is still being served, `asyncio.run` cancels

    def run() -> None:
        try:
            asyncio.run(main())
        except Exception as error:
            if up.done():
                raise
            up.set_exception(error)

    loop = threading.Thread(target=run)
    loop.start()
    address, stop = up.result()
    try:
        yield address
    finally:
        stop()
        loop.join()


class Board:
    """The messages so far, and word of the next one."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []
        self._next = asyncio.Event()

    async def publish(self, count: int, every_s: float) -> None:
        """So many messages, one in each interval, at places that fill the interval evenly.

        Were they a fixed time apart, they would always meet a poller at the same moments of its round; multiples of
        the golden ratio come closest to an even spread.
        """
        loop = asyncio.get_running_loop()
        start = loop.time() + every_s
        for number in range(count):
            due = start + (number + number * GOLDEN % 1) * every_s
            await asyncio.sleep(due - loop.time())
            self.messages.append({"number": len(self.messages) + 1, "published_ns": perf_counter_ns(), "text": TEXT})
            self._next.set()
            self._next = asyncio.Event()

    async def after(self, number: int, wait_s: float | None) -> list[dict[str, Any]]:
        """The messages that follow; when there are none yet, the next one, waiting so long at the most (None: ever)."""
        if number >= len(self.messages):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._next.wait()
        return self.messages[number:]


class Site:
    """What the paths lead to, and the connections of those who ask."""

    def __init__(self, wait_s: float) -> None:
        self.wait_s = wait_s
        self.board = Board()
        self._publishing: set[asyncio.Task[None]] = set()

    async def answer(self, target: str) -> bytes:
        """The body for a path with its query."""
        asked = urlsplit(target)
        query = dict(parse_qsl(asked.query))
        if asked.path == "/publish":
            publishing = asyncio.create_task(self.board.publish(int(query["count"]), float(query["every_ms"]) / 1e3))
            self._publishing.add(publishing)  # the loop itself holds tasks only weakly
            publishing.add_done_callback(self._publishing.discard)
            return b"publishing"
        if asked.path == "/messages":
            return json.dumps(await self.board.after(int(query["after"]), float(query.get("wait", 0)))).encode()
        await asyncio.sleep(self.wait_s)
        return b"hello"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from its first bytes to its end: its client's doing, or the server's when that is stopped."""
        import h2.exceptions
        import wsproto.utilities

        nonsense = (h2.exceptions.ProtocolError, wsproto.utilities.ProtocolError, KeyError, ValueError)
        try:
            first = await reader.readexactly(len(PREFACE))
            await (_http2 if first == PREFACE else _http1)(first, reader, writer, self)
        except* (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, *nonsense):
            pass
        writer.close()


async def _http1(first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, site: Site) -> None:
    """One request after the other, until one was to be the last: every one of HTTP/1.0 is."""
    import h11

    connection = h11.Connection(h11.SERVER)
    connection.receive_data(first)
    request = None
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
            return
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(READ))
        elif isinstance(event, h11.Request):
            request = event
        elif isinstance(event, h11.ConnectionClosed):
            return
        elif isinstance(event, h11.EndOfMessage) and request is not None:
            if (b"upgrade", b"websocket") in [(name, value.lower()) for name, value in request.headers]:
                return await _websocket(request, connection.trailing_data[0], reader, writer, site.board)
            body = await site.answer(request.target.decode())
            length = [("Content-Length", str(len(body)))]
            answer = (h11.Response(status_code=200, headers=length), h11.Data(data=body), h11.EndOfMessage())
            writer.write(b"".join(connection.send(part) or b"" for part in answer))
            await writer.drain()
            if connection.our_state is h11.MUST_CLOSE:
                return
            connection.start_next_cycle()


async def _http2(first: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, site: Site) -> None:
    """Many requests at once on one connection, each a stream of its own, answered as soon as its answer is there."""
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.events import ConnectionTerminated, RequestReceived
    from h2.exceptions import StreamClosedError
    from h2.settings import SettingCodes, Settings

    connection = H2Connection(H2Configuration(client_side=False))
    connection.local_settings = Settings(client=False, initial_values={SettingCodes.MAX_CONCURRENT_STREAMS: STREAMS})
    connection.initiate_connection()

    async def respond(stream: int, target: str) -> None:
        body = await site.answer(target)
        with contextlib.suppress(StreamClosedError):  # the client has taken its question back
            connection.send_headers(stream, [(":status", "200"), ("content-length", str(len(body)))])
            connection.send_data(stream, body, end_stream=True)
        writer.write(connection.data_to_send())

    async with asyncio.TaskGroup() as streams:
        data = first
        while data:
            for event in connection.receive_data(data):
                if isinstance(event, RequestReceived):
                    target = dict(event.headers or [])[b":path"].decode()
                    streams.create_task(respond(event.stream_id or 0, target))
                elif isinstance(event, ConnectionTerminated):
                    return
            writer.write(connection.data_to_send())
            await writer.drain()
            data = await reader.read(READ)


async def _websocket(
    request: Any, rest: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, board: Board
) -> None:
    """Both directions at once: a task pushes what is published, meanwhile text is answered."""
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import AcceptConnection, CloseConnection, Ping, Request, TextMessage

    connection = WSConnection(ConnectionType.SERVER)
    connection.initiate_upgrade_connection(list(request.headers), request.target.decode())

    async def push() -> None:
        seen = len(board.messages)
        while True:
            for message in await board.after(seen, None):
                writer.write(connection.send(TextMessage(data=json.dumps(message))))
                seen = message["number"]

    pushing = asyncio.create_task(push())
    try:
        if rest:
            connection.receive_data(rest)
        while True:
            for event in connection.events():
                if isinstance(event, Request):
                    writer.write(connection.send(AcceptConnection()))
                elif isinstance(event, TextMessage):
                    writer.write(connection.send(TextMessage(data=event.data, message_finished=event.message_finished)))
                elif isinstance(event, Ping):
                    writer.write(connection.send(event.response()))
                elif isinstance(event, CloseConnection):
                    writer.write(connection.send(event.response()))
                    return
            data = await reader.read(READ)
            if not data:
                return
            connection.receive_data(data)
    finally:
        pushing.cancel()
