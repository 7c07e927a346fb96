"""How connections are opened, protocol by protocol, with a time stamp after each message that the client waited for.

Everything is here that travels before the first answer: TCP (RFC 9293), TLS 1.2 and 1.3 (RFC 5246, 8446), HTTP/1.0,
1.1 and 2 (RFC 9112, 9113), WebSocket (RFC 6455), and PostgreSQL's own protocol (its manual, part Frontend/Backend
Protocol) with SCRAM (RFC 5802, 7677). What cryptography and parsing need is left to libraries; who says what, and who
waits for whom, is written out.

    with tcp(address) as connection:
        tls(connection, context, "localhost")
        http1(connection)
    connection.steps  # [Step("TCP", …), Step("TLS 1.3", …), Step("HTTP/1.1 request", …)]
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

PATIENCE_S = 10.0  # for any answer
CHUNK = 64 * 1024  # bytes taken from a socket at a time
Receive = Callable[[], bytes]


class Refused(RuntimeError):
    """The other side did not want this connection; the message is its own."""


class Step(NamedTuple):
    """One step on the way to the first answer: what travelled in each round trip of it, and how long it took."""

    name: str
    phase: str  # "tcp", "tls", "authentication", "session" or "query"
    ns: int  # since the end of the step before
    messages: tuple[str, ...]  # one per round trip: "ours → theirs"


class Connection:
    """A TCP connection that notes how it came about. TLS can be put over it while it is open (`tls`)."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.steps: list[Step] = []
        self._since = time.perf_counter_ns()
        self.socket = socket.create_connection(address, PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or a small message waits for an ACK
        self.tls: Layer | None = None

    def note(self, name: str, phase: str, *messages: str) -> None:
        """A step has ended."""
        now = time.perf_counter_ns()
        self.steps.append(Step(name, phase, now - self._since, messages))
        self._since = now

    def start_clock(self) -> None:
        """What went before belongs to no step."""
        self._since = time.perf_counter_ns()

    def send(self, data: bytes) -> None:
        self.socket.sendall(self.tls.wrapped(data) if self.tls else data)

    def receive(self, *, or_end: bool = False) -> bytes:
        """What has arrived, at least a byte. Raises `ConnectionError` where the other side has closed.

        With `or_end` that is b"" instead, for answers that end so.
        """
        data = self.tls.unwrapped(self._received) if self.tls else self._received()
        if not data and not or_end:
            raise ConnectionError("the other side closed the connection before it had answered")
        return data

    def _received(self) -> bytes:
        return self.socket.recv(CHUNK)

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def tcp(address: tuple[str, int]) -> Connection:
    """The three-way handshake: the kernel's affair, done when `connect` returns. The last ACK travels with the data."""
    connection = Connection(address)
    connection.note("TCP", "tcp", "SYN → SYN, ACK")
    return connection


# TLS


class Layer:
    """TLS is a layer that turns bytes into other bytes; what is on the wire can be seen between the two."""

    def __init__(self, context: ssl.SSLContext, name: str | None, session: ssl.SSLSession | None = None) -> None:
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.side = context.wrap_bio(
            self._arrived, self._leaving, server_side=name is None, server_hostname=name, session=session
        )

    def handshake(self, arrived: bytes = b"") -> tuple[bytes, bool]:
        """What to send in answer to what has arrived, and whether our side is done."""
        self._arrived.write(arrived)
        try:
            self.side.do_handshake()
        except ssl.SSLWantReadError:
            return self._leaving.read(), False
        return self._leaving.read(), True

    def wrapped(self, data: bytes) -> bytes:
        self.side.write(data)
        return self._leaving.read()

    def unwrapped(self, receive: Receive) -> bytes:
        """What the other side wrote; b"" once it has closed."""
        while True:
            try:
                return self.side.read(CHUNK)
            except ssl.SSLWantReadError:
                data = receive()
                if not data:
                    return b""
                self._arrived.write(data)
            except ssl.SSLZeroReturnError:
                return b""


def tls(
    connection: Connection, context: ssl.SSLContext, name: str, session: ssl.SSLSession | None = None
) -> ssl.SSLObject:
    """Put TLS over a connection, as a client, until it may send. The messages are those that were seen on the wire.

    TLS 1.3 takes one round trip, two where the server asks for another key share (HelloRetryRequest); TLS 1.2 takes
    two; either takes one when it resumes a `session`. Raises `ssl.SSLError` where the two don't agree.
    """
    layer = Layer(context, name, session)
    ours, theirs = Records(), Records()
    asked: list[list[str]] = []  # by round trip
    answered: list[list[str]] = []
    arrived = b""
    while True:
        leaving, is_done = layer.handshake(arrived)
        if leaving:
            connection.socket.sendall(leaving)
        if is_done:
            break  # what was sent last needs no answer: the first request travels behind it
        if leaving:
            asked.append(ours.messages(leaving))
            answered.append([])
        arrived = connection.socket.recv(CHUNK)
        if not arrived:
            raise ConnectionError("the other side closed the connection during the TLS handshake")
        answered[-1] += theirs.messages(arrived)
    connection.tls = layer
    resumed = ", resumed" if layer.side.session_reused else ""
    connection.note(f"{_version(layer.side)}{resumed}", "tls", *map(_round_trip, asked, answered))
    return layer.side


class Exchange(NamedTuple):
    """A TLS handshake without a network: what it takes of each side alone."""

    version: str  # "TLS 1.3"
    resumed: bool
    round_trips: tuple[str, ...]  # until the client may send, "ours → theirs"
    client_ns: int  # CPU time, all of the handshake
    server_ns: int
    client_bytes: int
    server_bytes: int
    session: ssl.SSLSession | None  # to resume


def in_memory(
    ours: ssl.SSLContext, theirs: ssl.SSLContext, name: str, session: ssl.SSLSession | None = None
) -> Exchange:
    """Hand the messages from the client to the server and back, in this thread, and count both sides' CPU time."""
    client, server = Layer(ours, name, session), Layer(theirs, None)
    asked, answered = Records(), Records()
    round_trips: list[str] = []
    sizes, spent = [0, 0], [0, 0]

    def handed(place: int, layer: Layer, arrived: bytes) -> tuple[bytes, bool]:
        begin = time.thread_time_ns()
        leaving, is_done = layer.handshake(arrived)
        spent[place] += time.thread_time_ns() - begin
        sizes[place] += len(leaving)
        return leaving, is_done

    back, is_done = b"", False
    while not is_done:
        there, is_done = handed(0, client, back)
        back, _ = handed(1, server, there)
        if not is_done:
            round_trips.append(_round_trip(asked.messages(there), answered.messages(back)))
    client.unwrapped(lambda: back + server.wrapped(b"!"))  # session tickets come before it
    side = client.side
    return Exchange(
        version=_version(side),
        resumed=bool(side.session_reused),
        round_trips=tuple(round_trips),
        client_ns=spent[0],
        server_ns=spent[1],
        client_bytes=sizes[0],
        server_bytes=sizes[1],
        session=side.session,
    )


def _round_trip(ours: list[str], theirs: list[str]) -> str:
    """What travelled there and back; of what nobody can read it is enough to say so once."""
    return " → ".join(", ".join(dict.fromkeys(names)) for names in (ours, theirs))


def _version(side: ssl.SSLObject) -> str:
    return (side.version() or "TLS").replace("TLSv", "TLS ")


HANDSHAKE, CHANGE_CIPHER, ENCRYPTED = 22, 20, 23  # types of TLS records
NAMES = {
    0: "HelloRequest", 1: "ClientHello", 2: "ServerHello", 4: "NewSessionTicket", 11: "Certificate",
    12: "ServerKeyExchange", 13: "CertificateRequest", 14: "ServerHelloDone", 15: "CertificateVerify",
    16: "ClientKeyExchange", 20: "Finished", 22: "CertificateStatus",
}  # fmt: skip
# A HelloRetryRequest is a ServerHello whose random is SHA-256("HelloRetryRequest") (RFC 8446, section 4.1.3).
RETRY = bytes.fromhex("CF21AD74E59A6111BE1D8C021E65B891C2A211167ABB8C5E079E09E2C8A8339C")


class Records:
    """The messages in one direction of a TLS handshake, as far as they can be read on the wire."""

    def __init__(self) -> None:
        self._rest = b""  # the start of a record whose end is still to come
        self._ciphered = False

    def messages(self, data: bytes) -> list[str]:
        """Names of the messages that `data` completes."""
        self._rest += data
        found: list[str] = []
        while len(self._rest) >= 5:
            kind, _, size = struct.unpack_from(">BHH", self._rest)
            if len(self._rest) < 5 + size:
                break
            record, self._rest = self._rest[5 : 5 + size], self._rest[5 + size :]
            found += self._named(kind, record)
        return found

    def _named(self, kind: int, record: bytes) -> Iterator[str]:
        if kind == ENCRYPTED:
            yield SECRET
        elif kind == CHANGE_CIPHER:
            self._ciphered = True  # in TLS 1.2; in 1.3 it means nothing, and is there for old middleboxes alone
        elif kind == HANDSHAKE and self._ciphered and not _is_hello(record):
            yield "Finished"  # encrypted, but in TLS 1.2 nothing else comes here
        elif kind == HANDSHAKE:
            while record:
                size = int.from_bytes(record[1:4], "big")
                body, name = record[4 : 4 + size], NAMES.get(record[0], f"message {record[0]}")
                yield "HelloRetryRequest" if name == "ServerHello" and body[2:34] == RETRY else name
                record = record[4 + size :]


def _is_hello(record: bytes) -> bool:
    return NAMES.get(record[0]) in ("ClientHello", "ServerHello") and len(record) == 4 + int.from_bytes(record[1:4])


SECRET = "encrypted"


# HTTP and WebSocket

HOST = "localhost"


def http1(connection: Connection, path: str = "/", *, version: str = "1.1") -> bytes:
    """One request and its answer, the body of which is returned. HTTP/1.0 needs a new connection for the next."""
    import h11

    talk = h11.Connection(h11.CLIENT)
    stays = "close" if version == "1.0" else "keep-alive"
    asked = talk.send(h11.Request(method="GET", target=path, headers=[("Host", HOST), ("Connection", stays)]))
    assert asked is not None
    talk.send(h11.EndOfMessage())
    connection.send(asked.replace(b"HTTP/1.1", f"HTTP/{version}".encode(), 1))  # h11 itself writes 1.1 alone
    body, has_begun = b"", False
    while not isinstance(event := talk.next_event(), h11.EndOfMessage):
        has_begun = has_begun or isinstance(event, h11.Response)
        if event is h11.NEED_DATA:
            talk.receive_data(connection.receive(or_end=has_begun))
        elif isinstance(event, h11.Data):
            body += event.data
    connection.note(f"HTTP/{version} request", "query", "GET → 200 OK")
    return body


def http2(connection: Connection, path: str = "/") -> bytes:
    """The first request over HTTP/2, which both sides know they will speak: it travels right behind the settings."""
    import h2.config
    import h2.connection
    import h2.events

    talk = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    talk.initiate_connection()
    stream = talk.get_next_available_stream_id()
    headers = [(":method", "GET"), (":scheme", "http"), (":authority", HOST), (":path", path)]
    talk.send_headers(stream, headers, end_stream=True)
    connection.send(talk.data_to_send())
    body, is_ended = b"", False
    while not is_ended:
        for event in talk.receive_data(connection.receive()):
            if isinstance(event, h2.events.DataReceived):
                body += event.data
            is_ended = is_ended or isinstance(event, h2.events.StreamEnded)
    connection.note("HTTP/2 request", "query", "SETTINGS, HEADERS → SETTINGS, HEADERS, DATA")
    return body


def websocket(connection: Connection, path: str = "/") -> None:
    """The upgrade: an HTTP/1.1 request that the server agrees to. From then on either side may speak."""
    import wsproto
    import wsproto.events

    talk = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
    connection.send(talk.send(wsproto.events.Request(host=HOST, target=path)))
    while True:
        talk.receive_data(connection.receive())
        for event in talk.events():
            if isinstance(event, wsproto.events.AcceptConnection):
                connection.note("WebSocket upgrade", "session", "GET, Upgrade → 101 Switching Protocols")
                return
            if isinstance(event, wsproto.events.RejectConnection):
                raise Refused(f"the server refused the upgrade with status {event.status_code}")


# PostgreSQL

PROTOCOL = 3 << 16  # version 3.0
SSL_REQUEST = struct.pack(">II", 8, 80877103)  # a length, and a version that no protocol has
AUTHENTICATION, READY, ERROR = b"R", b"Z", b"E"  # types of the server's messages
OK, SASL, SASL_CONTINUE, SASL_FINAL = 0, 10, 11, 12  # kinds of Authentication messages


class Login(NamedTuple):
    """Who wants to use which database."""

    user: str
    password: str
    database: str


def postgres(
    address: tuple[str, int], login: Login, *, context: ssl.SSLContext | None = None, name: str = "localhost"
) -> Postgres:
    """A connection to PostgreSQL that is ready for queries: TCP, TLS where there is a `context` for it, start-up."""
    connection = Postgres(address)
    try:
        connection.note("TCP", "tcp", "SYN → SYN, ACK")
        if context:
            connection.ask_for_tls()
            tls(connection, context, name)
        connection.start(login)
    except BaseException:
        connection.close()
        raise
    return connection


class Postgres(Connection):
    """The client's side of PostgreSQL's protocol. A message is a letter, a length of four bytes, and a body."""

    def __init__(self, address: tuple[str, int]) -> None:
        super().__init__(address)
        self._rest = b""
        self._ready = False

    def ask_for_tls(self) -> None:
        """The one byte that says whether TLS may begin, which costs a round trip of its own. Raises `Refused`."""
        self.send(SSL_REQUEST)
        if self.receive() != b"S":
            raise Refused("the server does not speak TLS")
        self.note("SSLRequest", "tls", "SSLRequest → S")

    def start(self, login: Login) -> None:
        """Say who we are, prove it, and wait until the session is ready. Raises `Refused` in the server's words."""
        values = ("user", login.user, "database", login.database, "application_name", "handshakes", "")
        body = struct.pack(">I", PROTOCOL) + b"".join(value.encode() + b"\0" for value in values)
        self.send(struct.pack(">I", len(body) + 4) + body)
        kind, body = self._authentication()
        if kind == SASL:
            from scramp import ScramException

            self.note("start-up", "authentication", "StartupMessage → AuthenticationSASL")
            try:
                self._prove(login, body)
            except ScramException as error:
                raise Refused(f"SCRAM failed: {error}") from error
            sent = "SASLResponse → SASLFinal, AuthenticationOk"
        elif kind == OK:
            sent = "StartupMessage → AuthenticationOk"
        else:
            raise Refused(f"the server wants a kind of authentication that is not spoken here: {kind}")
        self.note("authentication", "authentication", sent)
        self._until_ready()
        self.note("session", "session")  # no round trip: ReadyForQuery comes behind AuthenticationOk

    def _prove(self, login: Login, offered: bytes) -> None:
        """SCRAM: both sides show that they know the password, and neither says it."""
        from scramp import ScramClient

        mechanisms = [name.decode() for name in offered.split(b"\0") if name]
        scram = ScramClient(mechanisms, login.user, login.password)
        first = scram.get_client_first().encode()
        start = scram.mechanism_name.encode() + b"\0" + struct.pack(">I", len(first)) + first
        self._tell(b"p", start)
        scram.set_server_first(self._expected(SASL_CONTINUE).decode())
        self.note("challenge", "authentication", "SASLInitialResponse → SASLContinue")
        proof = scram.get_client_final().encode()
        self.note("proof", "authentication")  # no round trip: 4,096 rounds of HMAC on our side
        self._tell(b"p", proof)
        scram.set_server_final(self._expected(SASL_FINAL).decode())
        self._expected(OK)

    def query(self, sql: str) -> list[list[str | None]]:
        """The rows of a simple query, every value as text. Raises `Refused` in the server's words."""
        self._tell(b"Q", sql.encode() + b"\0")
        rows = [_values(body) for letter, body in self._until_ready() if letter == b"D"]
        self.note("query", "query", "Query → DataRow, ReadyForQuery")
        return rows

    def close(self) -> None:
        """Take leave, so that the server need not find out."""
        if self._ready:
            self._ready = False
            with contextlib.suppress(OSError):  # the server was faster
                self._tell(b"X", b"")
        super().close()

    def _tell(self, letter: bytes, body: bytes) -> None:
        self.send(letter + struct.pack(">I", len(body) + 4) + body)

    def _message(self) -> tuple[bytes, bytes]:
        """The next message of the server: its letter and body. It may arrive in pieces, or with others."""
        while len(self._rest) < 5 or len(self._rest) < 1 + int.from_bytes(self._rest[1:5], "big"):
            self._rest += self.receive()
        end = 1 + int.from_bytes(self._rest[1:5], "big")
        letter, body, self._rest = self._rest[:1], self._rest[5:end], self._rest[end:]
        if letter == ERROR:
            raise Refused(_in_words(body))
        return letter, body

    def _authentication(self) -> tuple[int, bytes]:
        """The kind of the Authentication message that has to come next, and what is in it."""
        letter, body = self._message()
        if letter != AUTHENTICATION:
            raise Refused(f"the server sent {letter!r} where it should have spoken of authentication")
        return int.from_bytes(body[:4], "big"), body[4:]

    def _expected(self, wanted: int) -> bytes:
        kind, body = self._authentication()
        if kind != wanted:
            raise Refused(f"the server sent an Authentication message of kind {kind}, not {wanted}")
        return body

    def _until_ready(self) -> list[tuple[bytes, bytes]]:
        """Everything up to ReadyForQuery."""
        messages = []
        while (message := self._message())[0] != READY:
            messages.append(message)
        self._ready = True
        return messages


def _values(row: bytes) -> list[str | None]:
    """A DataRow: how many values, and for each its length (-1: NULL) and its text."""
    count, place = int.from_bytes(row[:2], "big"), 2
    values: list[str | None] = []
    for _ in range(count):
        (size,) = struct.unpack_from(">i", row, place)
        place += 4
        values.append(None if size < 0 else row[place : place + size].decode())
        place += max(size, 0)
    return values


def _in_words(error: bytes) -> str:
    """The message field of an ErrorResponse."""
    fields = {field[:1]: field[1:].decode(errors="replace") for field in error.split(b"\0") if field}
    return fields.get(b"M", "the server gave no reason")
