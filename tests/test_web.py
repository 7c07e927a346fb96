"""The testbed's web server: each protocol as its own library speaks it, and whatever its clients do."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from helpers.experiments.connections import _by_http2, _connected, _Http1, _WebSocket
from helpers.testbed import tls, web
from tests.leftovers import is_listening

Address = tuple[str, int]


@pytest.fixture(scope="module")
def address() -> Iterator[Address]:
    with web.serving() as address:
        yield address


def messages(client: _Http1, query: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(client.get(f"/messages?{query}"))
    return found


# HTTP


def test_http_1_0_ends_with_its_answer_and_1_1_goes_on(address: Address) -> None:
    with _Http1(address, "1.0") as old, _Http1(address) as new:
        assert old.get("/") == b"hello" and old.socket.recv(1) == b""
        sent = [(new.get("/"), new.sent)[1] for _ in range(3)]
        assert sent[1] - sent[0] == sent[2] - sent[1] == sent[0] and new.received > 0


def test_http_1_1_ends_when_the_client_says_so(address: Address) -> None:
    with _connected(address) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(1000), b""))
    assert answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"hello")


@pytest.mark.parametrize("size", [1, 3, 7])
def test_requests_may_come_in_pieces(address: Address, size: int) -> None:
    request = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
    with _connected(address) as connection:
        for place in range(0, len(request), size):
            connection.sendall(request[place : place + size])
        assert b"".join(iter(lambda: connection.recv(1000), b"")).endswith(b"hello")


@pytest.mark.parametrize("requests", [1, 100, 200])
def test_http_2_answers_all_streams_of_one_connection(address: Address, requests: int) -> None:
    found = _by_http2(address, requests)
    assert len(found) == requests and {each.connection for each in found} == {0}


def test_http_2_does_not_wait_for_one_answer_before_the_next() -> None:
    with web.serving(wait_ms=40) as slow:
        with _Http1(slow) as client:
            start = time.perf_counter()
            for _ in range(5):
                client.get("/")
            one_by_one = (time.perf_counter() - start) * 1e3
        at_once = max(each.answered for each in _by_http2(slow, 50))
    assert one_by_one >= 5 * 40 and 40 <= at_once < 50 * 40 / 4


def test_over_tls_the_protocol_is_agreed_on() -> None:
    with tls.certificate() as identity, web.serving(identity=identity) as address:
        for protocol in ("h2", "http/1.1"):
            context = tls.client_context(identity.ca)
            context.set_alpn_protocols([protocol])
            with context.wrap_socket(_connected(address), server_hostname="localhost") as secure:
                assert secure.selected_alpn_protocol() == protocol
                if protocol == "http/1.1":
                    secure.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
                    assert b"".join(iter(lambda: secure.recv(1000), b"")).endswith(b"hello")


def test_whatever_a_client_does_the_next_one_is_served(capfd: pytest.CaptureFixture[str]) -> None:
    rudeness = (
        b"GET /messages?after=never HTTP/1.1\r\nHost: here\r\n\r\n",
        b"GET /publish HTTP/1.1\r\nHost: here\r\n\r\n",
        b"",
        b"G",
        b"\0\1\2\3 nonsense\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nbut no frame",
        b"GET /ws HTTP/1.1\r\nHost: here\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",  # without a key
    )
    with web.serving() as address:
        for rude in rudeness:
            for linger in (struct.pack("ii", 0, 0), struct.pack("ii", 1, 0)):
                with _connected(address) as connection:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    connection.sendall(rude)
        with _connected(address) as connection:
            connection.sendall(b"nonsense\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 400")
        with _Http1(address) as client:
            assert client.get("/") == b"hello"
    assert capfd.readouterr().err == ""  # the server has nothing to complain of


# Messages


def test_a_poll_answers_at_once_and_a_long_poll_when_there_is_something() -> None:
    with web.serving() as address, _Http1(address) as client, _Http1(address) as publisher:
        assert messages(client, "after=0") == []
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(messages, client, "after=0&wait=20")
            publisher.get("/publish?count=3&every_ms=20")
            (first,) = waiting.result()
        seen = time.perf_counter_ns()
        assert first["number"] == 1 and first["published_ns"] < seen
        assert messages(client, "after=1&wait=20")[0]["number"] == 2
        assert [each["number"] for each in messages(client, "after=2&wait=20")] == [3]
        assert messages(client, "after=3&wait=0.01") == []
        assert [each["number"] for each in messages(client, "after=0")] == [1, 2, 3]


def test_a_websocket_is_pushed_to_and_answers_text_and_pings() -> None:
    from wsproto.events import CloseConnection, Ping, Pong

    with web.serving() as address, _WebSocket(address) as one, _WebSocket(address) as other:
        with _Http1(address) as publisher:
            publisher.get("/publish?count=4&every_ms=5")
        for client in (one, other):
            assert [json.loads(client.receive())["number"] for _ in range(4)] == [1, 2, 3, 4]
        assert one.echo() > 0
        one._send(Ping(payload=b"there?"))
        assert one._next(Pong).payload == b"there?"
        one._send(CloseConnection(code=1000))
        assert one._next(CloseConnection).code == 1000
        assert other.echo() > 0


def test_messages_fill_their_intervals_evenly() -> None:
    """Over any period that is not a multiple of theirs, they come at all of its moments."""
    places = sorted(number * web.GOLDEN % 1 for number in range(30))
    gaps = [after - before for before, after in zip(places, [*places[1:], 1 + places[0]], strict=True)]
    assert max(gaps) < 2 / 30


def test_it_ends_with_its_user() -> None:
    with web.serving() as address, _WebSocket(address), _Http1(address) as client:
        client.get("/")
        assert is_listening(address[1])
    assert not is_listening(address[1])
