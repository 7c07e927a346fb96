"""The WebSocket server: its protocol against two libraries, bad clients, no descriptors left; and a crowd."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import statistics
import struct
import sys
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.sync.client import ClientConnection, connect
from wsproto import ConnectionType
from wsproto import events as ws
from wsproto.connection import Connection

from helpers.servers import web_socket_protocol as protocol
from helpers.servers import web_sockets
from helpers.servers.web_socket_protocol import (
    CLOSE,
    LONGEST_MESSAGE,
    PING,
    PONG,
    TEXT,
    Failed,
    Refused,
    first_frame,
    frame,
    masked,
    upgrade,
)
from helpers.testbed import crowd, web_socket_servers
from helpers.testbed.crowd import said
from tests.leftovers import wait_until

SECONDS = 10.0  # within which a busy machine answers
KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # of RFC 6455, section 1.3, with the answer
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
REQUEST = {
    "Host": "localhost",
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
}
ON_LINUX = sys.platform.startswith("linux")
RESET = struct.pack("ii", 1, 0)


def head(line: str = "GET / HTTP/1.1", **changed: str | None) -> bytes:
    """A request without its empty line; `None` leaves a field out."""
    fields = REQUEST | {name.replace("_", "-"): value for name, value in changed.items()}
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in fields.items() if value is not None)]).encode()


# The handshake


def test_the_example_of_the_rfc() -> None:
    answer = upgrade(head())
    assert answer.startswith(b"HTTP/1.1 101 ") and answer.endswith(b"\r\n\r\n")
    assert b"Sec-WebSocket-Accept: " + ACCEPT in answer


def test_field_names_and_tokens_in_any_case() -> None:
    request = head(Upgrade="WebSocket", Connection="UPGRADE").replace(b"Sec-WebSocket-Key", b"sec-websocket-KEY")
    assert ACCEPT in upgrade(request)


@pytest.mark.parametrize(
    "request_head",
    [
        b"",
        b"hello",
        head("POST / HTTP/1.1"),
        head("GET / HTTP/1.0"),
        head("GET /"),
        head(Host=None),
        head(Upgrade=None),
        head(Upgrade="h2c"),
        head(Connection=None),
        head(Connection="keep-alive"),
        head(Sec_WebSocket_Key=None),
        head(Sec_WebSocket_Key="not base64!"),
        head(Sec_WebSocket_Key=b64encode(bytes(15)).decode()),
        head() + f"\r\nSec-WebSocket-Key: {KEY}".encode(),
        head(Sec_WebSocket_Key="\xff\xfe"),
    ],
)
def test_a_request_that_is_no_handshake(request_head: bytes) -> None:
    with pytest.raises(Refused, match=r"^400 Bad Request$"):
        upgrade(request_head)


@pytest.mark.parametrize("version", ["8", "14", "", None])
def test_a_version_that_it_does_not_speak(version: str | None) -> None:
    with pytest.raises(Refused, match=r"^426 .*\r\nSec-WebSocket-Version: 13$"):
        upgrade(head(Sec_WebSocket_Version=version))


@given(st.binary(max_size=300))
def test_any_request_is_answered_or_refused(request_head: bytes) -> None:
    with contextlib.suppress(Refused):
        upgrade(request_head)


# Frames


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_masked_twice_is_not_masked(payload: bytes, key: bytes) -> None:
    assert masked(masked(payload, key), key) == payload
    assert masked(payload, key) == bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65_535, 65_536])
def test_every_length_is_read_back_by_a_library(size: int) -> None:
    client = Connection(ConnectionType.CLIENT)
    client.receive_data(frame(TEXT, b"x" * size))
    assert "".join(event.data for event in client.events() if isinstance(event, ws.TextMessage)) == "x" * size


@given(st.text(max_size=200), st.integers(0, 3))
def test_what_a_library_sends_is_read(message: str, cut: int) -> None:
    client = Connection(ConnectionType.CLIENT)
    data = client.send(ws.TextMessage(data=message))
    got = first_frame(data + b"rest"[:cut])
    assert got and (got.final, got.opcode, got.payload.decode(), got.size) == (True, TEXT, message, len(data))
    assert all(first_frame(data[:size]) is None for size in range(len(data)))


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"not masked"), 1002),
        (b"\xc1" + said(TEXT)[1:], 1002),  # a reserved bit
        (b"\x83" + said(TEXT)[1:], 1002),  # a reserved opcode
        (b"\x8b" + said(TEXT)[1:], 1002),
        (b"\x09" + said(PING)[1:], 1002),  # a control frame in pieces
        (said(PING, bytes(126)), 1002),
        (b"\x81\xff" + (LONGEST_MESSAGE + 1).to_bytes(8), 1009),  # said before it is sent
        (b"\x81\xff" + b"\xff" * 8, 1009),
    ],
    ids=[str(number) for number in range(8)],
)
def test_a_frame_that_may_not_be(data: bytes, code: int) -> None:
    with pytest.raises(Failed) as failed:
        first_frame(data)
    assert failed.value.code == code


@given(st.binary(max_size=50))
def test_any_bytes_are_a_frame_or_fail_or_go_on(data: bytes) -> None:
    with contextlib.suppress(Failed):
        got = first_frame(data)
        assert got is None or 6 <= got.size <= len(data)


# The server, in a thread of this process


class Up(NamedTuple):
    server: web_sockets.Server
    address: tuple[str, int]


@contextlib.contextmanager
def serving(patience_s: float = SECONDS) -> Iterator[Up]:
    """A server that stops at the end, and leaves nothing open."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        server = web_sockets.Server(listener, patience_s=patience_s)
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield Up(server, listener.getsockname())
        finally:
            server.stop()
            thread.join(SECONDS)
        assert not thread.is_alive() and not server.open and not server.passing


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with serving() as up:
        yield up


@contextlib.contextmanager
def client(up: Up, **options: Any) -> Iterator[ClientConnection]:
    """A client by the library `websockets`."""
    options = {"compression": None, "proxy": None, "open_timeout": SECONDS, **options}
    with connect(f"ws://127.0.0.1:{up.address[1]}", **options) as found:
        yield found


@contextlib.contextmanager
def raw(up: Up, *data: bytes) -> Iterator[socket.socket]:
    """A bare socket that has sent this."""
    with socket.create_connection(up.address, SECONDS) as found:
        for each in data:
            found.sendall(each)
        yield found


@contextlib.contextmanager
def shaken(up: Up, *data: bytes) -> Iterator[socket.socket]:
    """The same, once its handshake is complete."""
    with raw(up, head() + b"\r\n\r\n") as found:
        assert read(found, len(upgrade(head()))).startswith(b"HTTP/1.1 101 ")
        for each in data:
            found.sendall(each)
        yield found


def read(peer: socket.socket, size: int | None = None) -> bytes:
    """So many bytes; `None`: all that comes until the other side has said that it is done."""
    data = b""
    while size is None or len(data) < size:
        if not (more := peer.recv(65_536 if size is None else size - len(data))):
            break
        data += more
    return data


def test_a_library_is_served(up: Up) -> None:
    with client(up) as one:
        for text in ("hello", "", "ä" * 1000, "x" * LONGEST_MESSAGE):
            one.send(text)
            assert one.recv(SECONDS) == text
        assert one.ping(b"are you there?").wait(SECONDS)
    assert (one.close_code, one.close_reason) == (1000, "")


def test_fragments_are_put_together_and_may_be_interrupted_by_a_ping(up: Up) -> None:
    fragments = [b"\x01" + said(TEXT, b"one ")[1:], said(PING, b"!"), b"\x00" + said(TEXT, b"two ")[1:],
                 b"\x80" + said(TEXT, b"three")[1:]]  # fmt: skip
    expected = frame(PONG, b"!") + frame(TEXT, b"one two three")
    with shaken(up, *fragments) as one:
        assert read(one, len(expected)) == expected


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_bytes_in_any_pieces_mean_the_same(up: Up, pieces: list[int]) -> None:
    data = head() + b"\r\n\r\n" + said(TEXT, b"hello") + said(PING, b"x" * 125) + said(TEXT, b"y" * 130)
    expected = upgrade(head()) + frame(TEXT, b"hello") + frame(PONG, b"x" * 125) + frame(TEXT, b"y" * 130)
    with raw(up) as one:
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for size in pieces:
            one.sendall(data[:size])
            data = data[size:]
        one.sendall(data)
        assert read(one, len(expected)) == expected


def test_everyone_hears_what_is_said_to_all(up: Up) -> None:
    with contextlib.ExitStack() as stack:
        everyone = [stack.enter_context(shaken(up)) for _ in range(3 * web_sockets.AT_ONCE // 2)]
        everyone[7].sendall(said(TEXT, b"/all lunch"))
        assert {read(each, 7) for each in everyone} == {frame(TEXT, b"lunch")}


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(TEXT, b"not masked"), 1002),
        (b"\x80" + said(TEXT, b"the rest of nothing")[1:], 1002),
        ((b"\x01" + said(TEXT, b"a")[1:]) * 2, 1002),  # a message within a message
        (said(protocol.BINARY, b"bytes"), 1003),
        (said(TEXT, b"\xff"), 1007),
        (b"\x81\xff" + (1 << 40).to_bytes(8), 1009),
        (b"\x01" + said(TEXT, bytes(40_000))[1:] + b"\x00" + said(TEXT, bytes(40_000))[1:], 1009),
        (said(CLOSE, b"\x03"), 1002),
        (said(CLOSE, (1005).to_bytes(2)), 1002),
        (said(CLOSE, (1000).to_bytes(2) + b"\xff"), 1007),
        (said(CLOSE, (1000).to_bytes(2) + b"bye"), 1000),
        (said(CLOSE, (4321).to_bytes(2)), 4321),
    ],
    ids=[str(number) for number in range(12)],  # masks are random: names made of them would differ by process
)
def test_the_code_that_it_closes_with(up: Up, data: bytes, code: int) -> None:
    with shaken(up, data) as one:
        assert read(one) == frame(CLOSE, code.to_bytes(2))


def test_a_close_without_a_code(up: Up) -> None:
    with shaken(up, said(CLOSE)) as one:
        assert read(one) == frame(CLOSE)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"\x00\xff\r\n\r\n", b"400"),
        (head(Sec_WebSocket_Version="8") + b"\r\n\r\n", b"426"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 9000, b"431"),
    ],
)
def test_a_bad_handshake_is_answered(up: Up, data: bytes, status: bytes) -> None:
    with raw(up, data) as one:
        assert read(one).split(b" ")[1] == status


@given(st.binary(min_size=1, max_size=60), st.booleans())
def test_any_bytes_do_it_no_harm(up: Up, data: bytes, is_open: bool) -> None:
    """After the handshake, and instead of one."""
    with shaken(up, data) if is_open else raw(up, data) as one:
        one.shutdown(socket.SHUT_WR)
        read(one)
    with shaken(up, said(TEXT, b"well?")) as one:
        assert read(one, 7) == frame(TEXT, b"well?")


def test_it_goes_on_whatever_clients_do(up: Up) -> None:
    with shaken(up) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)  # closed with a reset
    with shaken(up, said(TEXT, b"half")[:5]):
        pass
    with raw(up, head()[:20]):
        pass
    with shaken(up, said(TEXT, b"last words")) as one:
        one.shutdown(socket.SHUT_WR)  # half closed: what was asked before is answered
        assert read(one) == frame(TEXT, b"last words")
    assert wait_until(lambda: not up.server.open and not up.server.passing, SECONDS)
    with client(up) as another:
        another.send("still there?")
        assert another.recv(SECONDS) == "still there?"


def test_who_says_nothing_is_sent_away() -> None:
    with serving(patience_s=0.1) as up, raw(up, b"GET") as silent, shaken(up, said(CLOSE)) as stays:
        assert read(silent) == b""
        assert read(stays) == frame(CLOSE)
        assert wait_until(lambda: not up.server.passing, SECONDS)  # and who does not hang up is left alone


def test_who_does_not_read_is_dropped_and_others_are_not() -> None:
    told = "x" * 60_000
    with serving() as up, shaken(up) as deaf, client(up, max_queue=None) as one:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(200):  # 12 MB: more than the system's buffers hold
            one.send("/all " + told)
            assert one.recv(SECONDS) == told
            if len(up.server.open) == 1:
                break
        assert len(up.server.open) == 1


def test_who_asks_and_does_not_read_is_not_read_either() -> None:
    with serving() as up, shaken(up) as one:
        one.settimeout(0.2)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 200 << 20:
                sent += one.send(said(TEXT, b"x" * 60_000))
        (there,) = up.server.open
        assert len(there.unsent) <= web_sockets.MOST_UNSENT


def test_at_the_end_everyone_is_told_why() -> None:
    with serving() as up, contextlib.ExitStack() as stack:
        ones = [stack.enter_context(client(up)) for _ in range(3)]
        up.server.stop()
        for one in ones:
            with pytest.raises(ConnectionClosed):
                one.recv(SECONDS)
            assert one.close_code == 1001
        with pytest.raises((OSError, ConnectionClosedError, EOFError)), client(up, open_timeout=0.2):
            pass


def test_a_connection_is_not_garbage_that_only_the_collector_finds(up: Up) -> None:
    """The server's process runs without a collector."""

    def open_and_close() -> None:
        for _ in range(20):
            with shaken(up, said(TEXT, b"x"), said(CLOSE)) as one:
                read(one)
        assert wait_until(lambda: not up.server.open and not up.server.passing, SECONDS)

    open_and_close()
    gc.collect()
    gc.disable()
    try:
        open_and_close()
        left = [each for each in gc.get_objects() if type(each) is web_sockets.WebSocket]  # a proxy says it is one, too
        assert len(left) <= 1  # the one that was handled last
    finally:
        gc.enable()


# Servers and crowds in processes of their own


@pytest.fixture(scope="module")
def clients() -> Iterator[crowd.Crowd]:
    with crowd.gathering() as clients:
        yield clients


@pytest.mark.parametrize("kind", web_socket_servers.KINDS)
def test_a_crowd_is_served(kind: str, clients: crowd.Crowd) -> None:
    if word := web_socket_servers.missing(kind):
        pytest.skip(word)
    with web_socket_servers.serving(kind) as server:
        arrival = clients.connect([server.address], [300])
        assert arrival.connections == 300 and arrival.begin_s < arrival.end_s
        pings = clients.ping(2000)
        assert len(pings.round_trips_us) == 300 and min(pings.round_trips_us) > 0
        assert 0 < clients.broadcast() < SECONDS
        assert clients.ping(2000)  # whoever had not heard it yet would take it for the answer
        clients.leave()


def test_a_ping_counts_from_its_own_sending(clients: crowd.Crowd) -> None:
    with web_socket_servers.serving() as server:
        clients.connect([server.address], [20])
        pings = clients.ping(50)
        clients.leave()
    assert statistics.median(pings.round_trips_us) < 100_000  # half of them were sent 200 ms after the first


def test_several_servers_have_their_own_clients() -> None:
    with crowd.gathering(2) as clients, web_socket_servers.serving() as one, web_socket_servers.serving() as other:
        clients.connect([one.address, other.address], [5, 3])
        if ON_LINUX:
            assert descriptors(one.pid) - descriptors(other.pid) == 2
        assert len(clients.ping(1000).round_trips_us) == 8
        clients.leave()


def test_a_crowd_says_what_went_wrong() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = listener.getsockname()
    with crowd.gathering() as some, pytest.raises(RuntimeError, match="no further connection"):
        some.connect([address], [1])


@pytest.mark.skipif(not ON_LINUX, reason="reads /proc")
def test_without_descriptors_it_waits_and_then_goes_on() -> None:
    import resource

    with web_socket_servers.serving() as server, contextlib.ExitStack() as stack:
        room = 10
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (descriptors(server.pid) + room, hard))
        up = Up(server, server.address)  # type: ignore[arg-type]  # where it is is all that is asked
        ones = [stack.enter_context(shaken(up)) for _ in range(room)]
        waiting = [stack.enter_context(raw(up, head() + b"\r\n\r\n")) for _ in range(5)]
        before = cpu_ticks(server.pid)
        time.sleep(0.5)
        assert cpu_ticks(server.pid) - before <= 15  # of 50: it doesn't spin
        ones[0].sendall(said(TEXT, b"and I?"))
        assert read(ones[0], 8) == frame(TEXT, b"and I?")
        for one in ones[:5]:
            one.close()
        assert all(read(one, 12) == b"HTTP/1.1 101" for one in waiting)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def cpu_ticks(pid: int) -> int:
    with open(f"/proc/{pid}/stat") as file:
        return sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
