"""How connections are opened: that the messages are those of the protocols, and that what arrives in pieces is read."""

import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import AF_INET, MSG_WAITALL, create_server, socket

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramMechanism

from helpers import handshakes
from helpers.handshakes import Login, Records, Refused, Step
from helpers.testbed import echo, tls, web

NAME = "localhost"
LOGIN = Login("learner", "swordfish", "postgres")
HELLO = "ClientHello → ServerHello, encrypted"
RETRY = "ClientHello → HelloRetryRequest"


@pytest.fixture(scope="module")
def identity() -> Iterator[tls.Identity]:
    with tls.certificate() as found:
        yield found


@contextmanager
def answering(serve: Callable[[socket], object]) -> Iterator[tuple[str, int]]:
    """A server for one connection, in a thread; what it raises is raised here."""
    errors: list[BaseException] = []

    def main() -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                serve(connection)
        except BaseException as error:
            errors.append(error)

    with create_server(("127.0.0.1", 0), family=AF_INET) as listener:
        thread = threading.Thread(target=main)
        thread.start()
        yield listener.getsockname()
        thread.join(10)
    assert not thread.is_alive() and not errors, errors


def names(steps: list[Step]) -> list[str]:
    return [step.name for step in steps]


# TLS


@pytest.mark.parametrize(
    ("version", "curve", "full", "resumed"),
    [
        ("TLSv1_3", None, (HELLO,), (HELLO,)),
        ("TLSv1_3", "prime256v1", (RETRY, HELLO), (RETRY, HELLO)),
        (
            "TLSv1_2",
            None,
            (
                "ClientHello → ServerHello, Certificate, ServerKeyExchange, ServerHelloDone",
                "ClientKeyExchange, Finished → NewSessionTicket, Finished",
            ),
            ("ClientHello → ServerHello, Finished",),
        ),
    ],
)
def test_tls_takes_the_round_trips_of_its_version(
    identity: tls.Identity, version: str, curve: str | None, full: tuple[str, ...], resumed: tuple[str, ...]
) -> None:
    context = tls.client_context(identity.ca, version=ssl.TLSVersion[version])
    session = None
    with echo.serving(identity, curve=curve) as address:
        for expected in (full, resumed):
            with handshakes.tcp(address) as connection:
                side = handshakes.tls(connection, context, NAME, session)
                connection.send(b"x" * 100_000)
                assert b"".join(iter_of(connection, 100_000)) == b"x" * 100_000
                assert connection.steps[-1].messages == expected
                assert side.session_reused == (session is not None)
                session = side.session
    in_memory = handshakes.in_memory(context, tls.server_context(identity, curve=curve), NAME)
    assert in_memory.round_trips == full and not in_memory.resumed
    assert in_memory.client_ns > 0 and in_memory.server_ns > 0


def iter_of(connection: handshakes.Connection, size: int) -> Iterator[bytes]:
    while size > 0:
        data = connection.receive()
        size -= len(data)
        yield data


def test_a_certificate_of_someone_else_is_refused(identity: tls.Identity, tmp_path: object) -> None:
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trustme.CA().configure_trust(stranger)
    with (
        echo.serving(identity) as address,
        handshakes.tcp(address) as connection,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        handshakes.tls(connection, stranger, NAME)


def test_a_key_share_that_fits_saves_the_second_round_trip(identity: tls.Identity) -> None:
    context = tls.client_context(identity.ca)
    context.set_ecdh_curve("prime256v1")
    theirs = tls.server_context(identity, curve="prime256v1")
    assert handshakes.in_memory(context, theirs, NAME).round_trips == (HELLO,)


@given(st.lists(st.integers(1, 40), max_size=60))
def test_records_are_read_from_any_pieces(sizes: list[int]) -> None:
    hello = bytes([2]) + (34).to_bytes(3) + b"\3\3" + bytes(32)
    retry = bytes([2]) + (34).to_bytes(3) + b"\3\3" + handshakes.RETRY
    two = bytes([11]) + (3).to_bytes(3) + b"abc" + bytes([14]) + bytes(3)
    wire = b"".join(
        struct.pack(">BHH", kind, 0x0303, len(body)) + body
        for kind, body in ((22, hello), (22, two), (20, b"\1"), (22, retry), (22, b"?" * 40), (23, b"!" * 9))
    )
    records, found = Records(), []
    for size in [*sizes, len(wire)]:
        found += records.messages(wire[:size])
        wire = wire[size:]
    named = ["ServerHello", "Certificate", "ServerHelloDone", "HelloRetryRequest", "Finished", "encrypted"]
    assert found == named


def test_a_server_that_hangs_up_is_an_error_in_words(identity: tls.Identity) -> None:
    context = tls.client_context(identity.ca)
    with (
        answering(lambda connection: connection.recv(10_000)) as address,
        handshakes.tcp(address) as connection,
        pytest.raises(ConnectionError, match="closed"),
    ):
        handshakes.tls(connection, context, NAME)


# HTTP and WebSocket


def test_every_protocol_of_the_web_gets_its_answer_in_one_round_trip(identity: tls.Identity) -> None:
    with web.serving() as address:
        for talk in (lambda it: handshakes.http1(it, version="1.0"), handshakes.http1, handshakes.http2):
            with handshakes.tcp(address) as connection:
                assert talk(connection) == b"hello"
                assert [len(step.messages) for step in connection.steps] == [1, 1]
        with handshakes.tcp(address) as connection:
            handshakes.http1(connection)
            handshakes.http1(connection)
            assert names(connection.steps) == ["TCP", "HTTP/1.1 request", "HTTP/1.1 request"]
        with handshakes.tcp(address) as connection:
            handshakes.websocket(connection, "/ws")
            assert connection.steps[-1].phase == "session"
        with handshakes.tcp(address) as connection, pytest.raises((ConnectionError, Refused)):
            handshakes.http1(connection, version="1.0")
            handshakes.http1(connection)


def test_http_1_0_says_so_on_the_wire() -> None:
    seen = []

    def serve(connection: socket) -> None:
        seen.append(connection.recv(1000))
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\nbye")

    with answering(serve) as address, handshakes.tcp(address) as connection:
        assert handshakes.http1(connection, "/x", version="1.0") == b"bye"
    assert seen[0].startswith(b"GET /x HTTP/1.0\r\n")


def test_a_refused_upgrade_is_an_error() -> None:
    def serve(connection: socket) -> None:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    with (
        answering(serve) as address,
        handshakes.tcp(address) as connection,
        pytest.raises(Refused, match="403"),
    ):
        handshakes.websocket(connection)


# PostgreSQL, against a server of a few lines: the real one is in test_connections


def message(letter: bytes, body: bytes) -> bytes:
    return letter + struct.pack(">I", len(body) + 4) + body


def told(connection: socket) -> bytes:
    """The body of the client's next message, which has a letter."""
    head = connection.recv(5, MSG_WAITALL)
    return connection.recv(int.from_bytes(head[1:], "big") - 4, MSG_WAITALL)


def begin(connection: socket) -> bytes:
    """The body of its StartupMessage, which has none."""
    return connection.recv(int.from_bytes(connection.recv(4, MSG_WAITALL), "big") - 4, MSG_WAITALL)


READY = message(b"Z", b"I")
ROW = message(b"D", struct.pack(">H", 3) + struct.pack(">I", 2) + b"42" + b"\xff" * 4 + bytes(4))


def scram(connection: socket, password: str) -> None:
    mechanism = ScramMechanism("SCRAM-SHA-256")
    server = mechanism.make_server(lambda _: mechanism.make_auth_info(password))
    connection.sendall(message(b"R", struct.pack(">I", 10) + b"SCRAM-SHA-256\0\0"))
    first = told(connection)
    assert first.startswith(b"SCRAM-SHA-256\0")
    server.set_client_first(first[len(b"SCRAM-SHA-256\0") + 4 :].decode())
    connection.sendall(message(b"R", struct.pack(">I", 11) + server.get_server_first().encode()))
    server.set_client_final(told(connection).decode())
    connection.sendall(message(b"R", struct.pack(">I", 12) + server.get_server_final().encode()))


def test_scram_then_a_query_in_four_round_trips() -> None:
    def serve(connection: socket) -> None:
        assert b"user\0learner\0" in begin(connection)
        scram(connection, LOGIN.password)
        connection.sendall(message(b"R", bytes(4)) + message(b"S", b"TimeZone\0UTC\0") + READY)
        assert told(connection) == b"SELECT 42\0"
        for piece in (ROW[:1], ROW[1:7], ROW[7:] + message(b"C", b"SELECT 1\0") + READY):
            connection.sendall(piece)
        assert connection.recv(5) == message(b"X", b"")

    with answering(serve) as address, handshakes.postgres(address, LOGIN) as connection:
        assert connection.query("SELECT 42") == [["42", None, ""]]
        assert sum(len(step.messages) for step in connection.steps) == 5
        assert [step.phase for step in connection.steps] == ["tcp", *["authentication"] * 4, "session", "query"]


def test_what_a_server_refuses_is_said_in_its_words() -> None:
    error = message(b"E", b"SFATAL\0C28000\0Mno entry for you\0\0")
    for answer, words in ((error, "no entry for you"), (message(b"R", struct.pack(">I", 3)), "authentication")):

        def serve(connection: socket, answer: bytes = answer) -> None:
            begin(connection)
            connection.sendall(answer)

        with answering(serve) as address, pytest.raises(Refused, match=words):
            handshakes.postgres(address, LOGIN)


def test_a_server_without_tls_is_refused(identity: tls.Identity) -> None:
    def serve(connection: socket) -> None:
        assert connection.recv(8) == handshakes.SSL_REQUEST
        connection.sendall(b"N")

    with answering(serve) as address, pytest.raises(Refused, match="TLS"):
        handshakes.postgres(address, LOGIN, context=tls.client_context(identity.ca))


def test_a_server_that_does_not_know_the_password_is_found_out() -> None:
    """SCRAM proves both sides: one who answers anything is not believed."""

    def serve(connection: socket) -> None:
        begin(connection)
        connection.sendall(message(b"R", struct.pack(">I", 10) + b"SCRAM-SHA-256\0\0"))
        nonce = told(connection).decode().rpartition("r=")[2]
        first = f"r={nonce}more,s=QSXCR+Q6sek8bf92QSXCR+Q6,i=4096"
        connection.sendall(message(b"R", struct.pack(">I", 11) + first.encode()))
        told(connection)
        connection.sendall(message(b"R", struct.pack(">I", 12) + b"v=" + b"A" * 43 + b"="))

    with answering(serve) as address, pytest.raises(Refused, match="signature"):
        handshakes.postgres(address, LOGIN)
