"""HTTP/1.1 without sockets: bytes in, requests out, and the bytes of their answers.

Reading HTTP is full of traps, so a library does it: httptools, which is the parser of Node.js. What is left is to
judge. The idea: a request that is wrong is a request too, one that is answered 4xx or 5xx. So a server treats all
alike, and answers them in the order in which they came.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

import httptools

READ = 64 * 1024  # bytes that a server reads at once
METHODS = {b"GET", b"HEAD", b"POST"}
MOST_CPU_MS = 200
MOST_WAIT_MS = 10_000


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a server puts up with from its clients, and what it takes for itself."""

    connections: int = 100_000  # open at once; who comes then waits in the listener's queue, outside
    header_bytes: int = 16 * 1024  # of a request's first line, and of its headers
    body_bytes: int = 1024 * 1024
    request_s: float = 10.0  # for a request to come in, from its first byte on
    idle_s: float = 60.0  # for a connection on which no request is coming in
    grace_s: float = 3.0  # for what is under way when the server is stopped
    threads: int = 200  # of a pool, at most
    spare: int = 10  # threads of a pool that it keeps when there is nothing to do
    queue: int = 10_000  # connections that wait for a thread of a pool; who comes then is turned away
    processes: int = 4  # that compute (hybrid), or that serve (pre-fork)


class Request(NamedTuple):
    """A complete request: what is to be done for it, and what it is answered then."""

    status: int = 200
    wait_s: float = 0.0
    cpu_s: float = 0.0
    keep: bool = False  # may more requests come on this connection?
    head: bool = False  # are the headers enough?


CONTINUE = Request(100, keep=True)  # "now send the body", to a client that asks before it does


@dataclass(frozen=True)
class Work:
    """What the paths ask for: `/` a wait of `wait_ms`, as for a database; `/wait?ms=…`; `/compute?ms=…` CPU time."""

    wait_ms: float = 10.0

    def of(self, url: bytes) -> Request:
        """What a request for `url` comes to. 404: no such path, 400: no such `ms`."""
        try:
            parts = httptools.parse_url(url)
            match parts.path:
                case b"/":
                    return Request(wait_s=self.wait_ms / 1000)
                case b"/wait":
                    return Request(wait_s=_ms(parts.query, MOST_WAIT_MS) / 1000)
                case b"/compute":
                    return Request(cpu_s=_ms(parts.query, MOST_CPU_MS) / 1000)
        except (ValueError, httptools.HttpParserInvalidURLError):
            return Request(400)
        return Request(404)


def _ms(query: bytes | None, most: int) -> float:
    """The number in `ms=…`. Raises `ValueError`."""
    name, _, value = (query or b"").partition(b"=")
    ms = float(value)
    if name != b"ms" or not 0 <= ms <= most:
        raise ValueError(f"{query!r}: ms is a number from 0 to {most}")
    return ms


def compute(cpu_s: float) -> None:
    """Take so many seconds of this thread's CPU time, as Python does: with the interpreter's lock in hand."""
    end = time.thread_time() + cpu_s
    while time.thread_time() < end:
        for _ in range(100):
            pass


@lru_cache
def response(status: int, keep: bool, head: bool = False) -> bytes:
    """The bytes of an answer, which also says whether the connection is kept."""
    phrase = HTTPStatus(status).phrase
    if status == HTTPStatus.CONTINUE:
        return f"HTTP/1.1 {status} {phrase}\r\n\r\n".encode()
    body = f"{phrase}\n"
    extra = {405: "Allow: GET, HEAD, POST\r\n", 503: "Retry-After: 1\r\n"}.get(status, "")
    return (
        f"HTTP/1.1 {status} {phrase}\r\n"
        f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n{extra}"
        f"Connection: {'keep-alive' if keep else 'close'}\r\n\r\n"
        f"{'' if head else body}"
    ).encode()


class Refused(Exception):
    """The request is answered this status, whatever else it may bring."""

    def __init__(self, status: int) -> None:
        self.status = status


class Parser:
    """What one client sends, as requests. After one that is wrong, or the last, it reads no more.

    `begun` is when the first byte came of the request that is coming in, by `time.monotonic`; None: none is coming.
    Empty lines before a request (RFC 9112, 2.2) are part of it: so nobody can stay for ever by sending them.
    """

    def __init__(self, work: Work, limits: Limits) -> None:
        self.work, self.limits = work, limits
        self.begun: float | None = None
        self._parser = httptools.HttpRequestParser(self)  # it calls the methods `on_…`
        self._requests: list[Request] = []
        self._in_head = False  # are its headers still coming?
        self._over = False

    def feed(self, data: bytes) -> list[Request]:
        """The requests that these bytes complete, in their order; often one, or none yet."""
        self._requests, before = [], self.begun
        if self._over:
            return []
        if before is None:
            self.begun = time.monotonic()
        try:
            self._parser.feed_data(data)
            if before is not None and before is self.begun and self._in_head:  # a header that takes its time
                self._unfinished += len(data)
                self._at_most(self._unfinished, self.limits.header_bytes, 431)
        except httptools.HttpParserUpgrade:  # to another protocol, which nobody has to grant: it was the last request
            self._over = True
        except (httptools.HttpParserError, Refused) as error:
            self._refuse(error)
        return self._requests

    def deadline(self) -> float:
        """The moment when the client must have sent what it has to, if it is its turn now (`time.monotonic`)."""
        if self.begun is None:
            return time.monotonic() + self.limits.idle_s
        return self.begun + self.limits.request_s

    def on_message_begin(self) -> None:
        if self.begun is None:  # it came together with the one before
            self.begun = time.monotonic()
        self._url = b""
        self._in_head = True
        self._unfinished = self._header_bytes = self._body_bytes = self._hosts = 0
        self._expects = False

    def on_url(self, piece: bytes) -> None:
        self._unfinished = 0
        self._url += piece
        self._at_most(len(self._url), self.limits.header_bytes, 414)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._unfinished = 0
        self._header_bytes += len(name) + len(value) + len(": \r\n")
        self._at_most(self._header_bytes, self.limits.header_bytes, 431)
        match name.lower():
            case b"host":
                self._hosts += 1
            case b"content-length":
                self._at_most(int(value), self.limits.body_bytes, 413)
            case b"transfer-encoding" if value.lower() != b"chunked":
                raise Refused(501)
            case b"expect":
                self._expects = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        self._in_head = False
        version = self._parser.get_http_version()
        if version not in ("1.0", "1.1"):
            raise Refused(505)
        if version == "1.1" and self._hosts != 1:
            raise Refused(400)
        if version == "1.1" and self._expects:
            self._requests.append(CONTINUE)

    def on_body(self, piece: bytes) -> None:
        self._body_bytes += len(piece)
        self._at_most(self._body_bytes, self.limits.body_bytes, 413)

    def on_message_complete(self) -> None:
        self.begun = None
        method = self._parser.get_method()
        request = self.work.of(self._url) if method in METHODS else Request(405)
        if self._requests and self._requests[-1] is CONTINUE:  # its body has come already
            self._requests.pop()
        keep = self._parser.should_keep_alive() and not self._parser.should_upgrade()
        self._requests.append(request._replace(keep=keep, head=method == b"HEAD"))
        self._over = not keep

    def _at_most(self, size: int, limit: int, status: int) -> None:
        if size > limit:
            raise Refused(status)

    def _refuse(self, error: Exception) -> None:
        """Answer what is wrong; but what comes after the last request may be as it likes."""
        if self._over:
            return
        self._over, self.begun = True, None
        cause = error if isinstance(error, Refused) else error.__context__  # the library hands on what it was raised
        if isinstance(cause, Refused):
            status = cause.status
        elif isinstance(error, httptools.HttpParserInvalidMethodError):
            status = 501
        elif str(error) == "Invalid HTTP version":
            status = 505
        else:
            status = 400
        self._requests.append(Request(status))
