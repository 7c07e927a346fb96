"""The five servers: HTTP as it must be, and that they survive their clients, their children, and their own end."""

from __future__ import annotations

import ast
import asyncio
import io
import os
import signal
import socket
import sys
import threading
import time
import tokenize
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import servers
from helpers.servers import event_loop, http, pre_fork, thread_per_connection, thread_pool
from helpers.servers.http import CONTINUE, Limits, Parser, Request, Work, response
from helpers.testbed.servers import MODELS, Server, serving
from tests import leftovers

InAThread = event_loop.Server | thread_pool.Server
PATIENCE_S = 20.0  # the machine may be busy
SMALL = Limits(header_bytes=200, body_bytes=50)
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
POST = b"POST /compute?ms=0 HTTP/1.1\r\nHost: a\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

GOOD = {
    GET: Request(wait_s=0.01, keep=True),
    b"\r\n" + GET: Request(wait_s=0.01, keep=True),  # RFC 9112, 2.2
    LAST: Request(wait_s=0.01),
    b"HEAD /wait?ms=5 HTTP/1.1\r\nhost: a\r\n\r\n": Request(wait_s=0.005, keep=True, head=True),
    b"GET http://a/compute?ms=2.5 HTTP/1.1\r\nHost: a\r\n\r\n": Request(cpu_s=0.0025, keep=True),
    b"GET / HTTP/1.0\r\n\r\n": Request(wait_s=0.01),
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n": Request(wait_s=0.01, keep=True),
    POST + b"Content-Length: 5\r\n\r\nGET /": Request(keep=True),
    CHUNKED + b"5\r\nGET /\r\n0\r\n\r\n": Request(keep=True),
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n": Request(wait_s=0.01),
    b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n": Request(404, keep=True),
    b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n.": Request(405, keep=True),
    b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n": Request(405),
    b"GET /wait?ms=10001 HTTP/1.1\r\nHost: a\r\n\r\n": Request(400, keep=True),
    b"GET /compute?ms=nan HTTP/1.1\r\nHost: a\r\n\r\n": Request(400, keep=True),
    b"GET /compute?s=1 HTTP/1.1\r\nHost: a\r\n\r\n": Request(400, keep=True),
}
WRONG = {
    b"GET / HTTP/1.1\r\n\r\n": 400,  # without Host: RFC 9112, 3.2
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n": 400,
    b"GET / HTTP/1.1\r\nHost : a\r\n\r\n": 400,
    b"GET  / HTTP/1.1\r\n\r\n": 400,
    POST + b"Content-Length: -1\r\n\r\n": 400,
    POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n": 400,  # smuggling: RFC 9112, 11.2
    CHUNKED + b"zz\r\n": 400,
    POST + b"Content-Length: 51\r\n\r\n": 413,
    CHUNKED + b"33\r\n" + b"x" * 51: 413,
    b"GET /" + b"x" * 200: 414,
    b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 50: 431,
    b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 400 + b"\r\n\r\n": 431,
    b"BREW / HTTP/1.1\r\n": 501,
    b"\x16\x03\x01\x02\x00": 501,  # TLS, which begins like no method
    POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n": 501,
    b"GET / HTTP/3.0\r\nHost: a\r\n\r\n": 505,
    b"GET / HTTP/2.0\r\nHost: a\r\n\r\n": 505,
    b"GET /\r\n\r\n": 505,  # HTTP/0.9
}
STATUSES = {100, 200, 400, 404, 405, 413, 414, 431, 501, 505}


def parsed(*pieces: bytes, limits: Limits = SMALL) -> list[Request]:
    parser = Parser(Work(wait_ms=10), limits)
    return [request for piece in pieces for request in parser.feed(piece)]


def bytewise(content: bytes) -> list[bytes]:
    return [content[place : place + 1] for place in range(len(content))]


# HTTP without sockets


@pytest.mark.parametrize("content", GOOD)
def test_a_request_is_what_it_says_however_it_comes(content: bytes) -> None:
    assert parsed(content) == parsed(*bytewise(content)) == [GOOD[content]]
    assert parsed(*bytewise(GET + content)) == parsed(GET + content) == [GOOD[GET], GOOD[content]]
    after = [GOOD[GET]] if GOOD[content].keep else []  # nothing is read after the last
    assert parsed(content + GET) == parsed(*bytewise(content + GET)) == [GOOD[content], *after]


@pytest.mark.parametrize("content", WRONG)
def test_what_is_wrong_has_its_status_and_ends_the_connection(content: bytes) -> None:
    for pieces in ([content], bytewise(content), [GET, content], [content, GET]):
        found = parsed(*pieces)
        assert found[-1] == Request(WRONG[content]), pieces
        assert len(found) == 1 + (pieces[0] == GET)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.binary(max_size=50) | st.sampled_from([*GOOD, *WRONG]), max_size=5), st.data())
def test_no_bytes_bring_it_down(contents: list[bytes], data: st.DataObject) -> None:
    content = bytearray(b"".join(contents))
    for place in data.draw(st.lists(st.integers(0, max(0, len(content) - 1)), max_size=3)):
        content[place : place + 1] = data.draw(st.binary(max_size=2))
    found = parsed(bytes(content))
    assert {request.status for request in found} <= STATUSES
    assert all(request.keep for request in found[:-1])
    assert [each.status for each in found][:-1] == [each.status for each in parsed(*bytewise(bytes(content)))][:-1]


def test_a_request_that_has_begun_has_a_deadline_of_its_own() -> None:
    parser = Parser(Work(), Limits(request_s=1, idle_s=100))
    assert parser.begun is None
    assert parser.deadline() - time.monotonic() == pytest.approx(100, abs=0.5)
    parser.feed(GET[:5])
    first = parser.deadline()
    assert first - time.monotonic() == pytest.approx(1, abs=0.5)
    parser.feed(GET[5:10])
    assert parser.deadline() == first  # a byte now and then gains no time
    parser.feed(GET[10:])
    assert parser.begun is None


def test_empty_lines_gain_no_time() -> None:
    parser = Parser(Work(), SMALL)
    parser.feed(b"\r\n")
    deadline = parser.deadline()
    for piece in (b"\r\n", b"\r\n", GET[:10], GET[10:20]):
        assert not parser.feed(piece)
        assert parser.deadline() == deadline
    assert parser.feed(GET[20:])
    assert parser.begun is None


def test_who_asks_before_it_sends_a_body_is_told_to() -> None:
    head, body = POST + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\n", b"abc"
    assert parsed(head, body) == [CONTINUE, Request(keep=True)]
    assert parsed(head + body) == [Request(keep=True)]  # it did not wait
    assert parsed(head.replace(b"3", b"51")) == [Request(413)]


def test_an_answer_is_as_long_as_it_says() -> None:
    for status in (200, 404, 503):
        head, _, body = response(status, keep=False).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert b"Content-Length: %d\r\n" % len(body) in head
        assert b"\r\nConnection: close" in head
    assert response(200, keep=True, head=True).endswith(b"\r\nConnection: keep-alive\r\n\r\n")


def test_computing_takes_cpu_time() -> None:
    before = time.thread_time()
    http.compute(0.02)
    assert 0.02 <= time.thread_time() - before < 0.1


@pytest.mark.parametrize("model", MODELS)
def test_a_server_fits_on_a_screen(model: str) -> None:
    path = Path(servers.__path__[0]) / f"{model.replace(' ', '_').replace('-', '_')}.py"
    assert lines_of_code(path.read_text(encoding="utf-8")) <= 80


def lines_of_code(text: str) -> int:
    """Lines with code: neither blank, nor comments, nor docstrings."""
    ignored = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [each for each in tokenize.generate_tokens(io.StringIO(text).readline) if each.type not in ignored]
    lines = {line for each in tokens for line in range(each.start[0], each.end[0] + 1)}
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node):
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


# Over sockets


@pytest.fixture(scope="module", params=MODELS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server for all tests that leave it as it was."""
    with serving(request.param, wait_ms=1, request_s=0.2, idle_s=0.3, header_bytes=200, body_bytes=50) as found:
        yield found


@contextmanager
def connected(server: Server) -> Iterator[socket.socket]:
    with socket.create_connection(server.address, timeout=PATIENCE_S) as client:
        yield client


def received(client: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    found = b""
    with suppress(ConnectionError):
        while piece := client.recv(65536):
            found += piece
    return found


def answers(content: bytes) -> list[int]:
    return [int(part[:3]) for part in content.split(b"HTTP/1.1 ")[1:]]


def ask(server: Server, content: bytes) -> list[int]:
    """The statuses of what comes until the server closes the connection."""
    with connected(server) as client:
        client.sendall(content)
        return answers(received(client))


def keeps(server: Server) -> bool:
    return server.model != "pre-fork"


def test_what_is_wrong_is_answered_and_the_server_goes_on(server: Server) -> None:
    for content, status in list(WRONG.items())[::3]:
        assert ask(server, content) == [status], content
    assert ask(server, LAST) == [200]


def test_requests_in_a_row_are_answered_in_a_row(server: Server) -> None:
    missing = b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n"
    assert ask(server, GET + missing + GET + LAST) == ([200, 404, 200, 200] if keeps(server) else [200])


def test_a_client_that_has_said_all_is_still_answered(server: Server) -> None:
    with connected(server) as client:
        client.sendall(GET + GET)
        client.shutdown(socket.SHUT_WR)
        assert answers(received(client)) == ([200, 200] if keeps(server) else [200])


def test_a_client_that_resets_harms_nobody_and_leaks_nothing(server: Server) -> None:
    before = sum(map(descriptors, family(server)))
    linger = b"\1\0\0\0\0\0\0\0"  # struct linger: on, 0 s: a close is a reset
    for content in (b"", GET[:10], GET, GET * 50):
        with connected(server) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.sendall(content)
    assert ask(server, LAST) == [200]
    assert leftovers.wait_until(lambda: sum(map(descriptors, family(server))) <= before)


def test_who_says_nothing_is_let_go_and_who_dawdles_is_told_why(server: Server) -> None:
    with connected(server) as silent, connected(server) as slow:
        gone: list[bytes] = []
        waiting = threading.Thread(target=lambda: gone.append(received(silent)))
        waiting.start()
        said = b""
        slow.settimeout(0.1)
        for byte in bytewise(GET * 10):
            with suppress(TimeoutError, ConnectionError):
                slow.sendall(byte)
                said += slow.recv(1000)
            if said:
                break
        assert answers(said) == [408]
        waiting.join(PATIENCE_S)
        assert gone == [b""]
    assert ask(server, LAST) == [200]


@contextmanager
def in_a_thread(server: InAThread) -> Iterator[tuple[str, int]]:
    """Such a server, in this process; its address. In the end it is stopped, and must be gone."""
    address = server.listener.getsockname()
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield address
    finally:
        server.stop()
        thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert not server.connections


def new_listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def test_the_loop_may_be_another_one() -> None:
    """Also: a client that asks without end, and takes no answers, is read from no more."""
    uvloop = pytest.importorskip("uvloop")
    for new_loop in (uvloop.new_event_loop, None):
        server = event_loop.Server(new_listener(), Work(wait_ms=0), Limits(grace_s=0.01), new_loop)
        with in_a_thread(server) as address:
            with socket.create_connection(address, timeout=PATIENCE_S) as client:
                client.sendall(GET * 300 + LAST)
                assert answers(received(client)) == [200] * 301
            with socket.create_connection(address, timeout=0.05) as client, pytest.raises(TimeoutError):
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                for _ in range(100):  # 28 MB, more than buffers hold
                    client.sendall(GET * 10_000)


def test_a_bug_is_answered_500_and_nobody_hangs(capfd: pytest.CaptureFixture[str]) -> None:
    class Buggy(event_loop.Server):
        async def handle(self, request: Request) -> Request:
            if request.wait_s:
                raise RuntimeError("a bug")
            return request

    server = Buggy(new_listener(), Work(), Limits())
    with in_a_thread(server) as address, socket.create_connection(address, timeout=PATIENCE_S) as client:
        client.sendall(GET + GET.replace(b"/", b"/compute?ms=0", 1) + LAST)
        assert answers(received(client)) == [500, 200, 500]
    assert "RuntimeError: a bug" in capfd.readouterr().err


def test_a_connection_that_cannot_be_opened_is_closed() -> None:
    class Loop(asyncio.SelectorEventLoop):
        failed: socket.socket | None = None

        async def connect_accepted_socket(self, protocol_factory: Any, sock: socket.socket, **named: Any) -> Any:
            if self.failed is None:
                self.failed = sock  # kept, so that it is closed by nobody else
                raise OSError("no")
            return await super().connect_accepted_socket(protocol_factory, sock, **named)

    with in_a_thread(event_loop.Server(new_listener(), Work(), Limits(), Loop)) as address:
        for expected in ([], [200]):
            with socket.create_connection(address, timeout=PATIENCE_S) as client:
                client.sendall(LAST)
                assert answers(received(client)) == expected


@pytest.mark.parametrize("module", [thread_per_connection, event_loop])
def test_a_client_that_has_gone_before_it_is_let_in_takes_nobody_along(module: ModuleType) -> None:
    class Listener(socket.socket):
        gone = False

        def accept(self) -> tuple[socket.socket, Any]:
            if self.gone:
                return super().accept()
            self.gone = True
            raise ConnectionAbortedError

    listener = Listener()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    server = module.Server(listener, Work(), Limits())
    server.stop()  # so that only those are served who wait already
    with socket.create_connection(listener.getsockname(), timeout=PATIENCE_S) as client:
        client.sendall(LAST)
        server.serve()
        assert answers(received(client)) == [200]


def test_the_time_to_ask_is_not_the_time_to_take_the_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Parser, "deadline", lambda _: time.monotonic())  # all comes at the last moment
    client, connection = socket.socketpair()
    with new_listener() as listener, client:
        server = thread_per_connection.Server(listener, Work(wait_ms=0), Limits())
        client.sendall(GET * 1000)
        thread = threading.Thread(target=server.converse, args=(connection,))
        thread.start()
        time.sleep(0.05)
        assert answers(received(client)) == [200] * 1000
        thread.join()


# Limits


@pytest.fixture(scope="module", params=MODELS)
def small(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One server that has little room."""
    with serving(request.param, wait_ms=1, connections=35, processes=2) as found:
        yield found


def test_without_room_clients_wait_outside(small: Server) -> None:
    with ExitStack() as stack, connected(small) as client:
        for _ in range(35):
            stack.enter_context(connected(small))
        with connected(small) as late:
            late.sendall(LAST)
            late.settimeout(0.1)
            with pytest.raises(TimeoutError):
                late.recv(1)
            stack.close()
            client.close()
            late.settimeout(PATIENCE_S)
            assert answers(received(late)) == [200]


def test_who_finds_the_queue_of_a_pool_full_is_turned_away() -> None:
    pool = thread_pool.Server(new_listener(), Work(), Limits(threads=1, queue=1))
    with in_a_thread(pool) as address, ExitStack() as stack:
        first, second, third = (
            stack.enter_context(socket.create_connection(address, timeout=PATIENCE_S)) for _ in range(3)
        )
        assert answers(received(third)) == [503]
        for client in (first, second):
            client.sendall(LAST)
            assert answers(received(client)) == [200]


def test_a_pool_grows_with_demand_and_keeps_its_spare_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_pool, "BORED_S", 0.01)
    pool = thread_pool.Server(new_listener(), Work(wait_ms=0), Limits(threads=4, spare=2))
    with in_a_thread(pool) as address:
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(socket.create_connection(address))
            assert leftovers.wait_until(lambda: (pool.threads, pool.free, len(pool.queue)) == (4, 0, 1))
        assert leftovers.wait_until(lambda: (pool.threads, pool.free, len(pool.queue)) == (2, 2, 0))
    assert (pool.threads, pool.free) == (0, 0)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of another process, and /proc")
def test_without_a_descriptor_it_waits_and_does_not_spin(small: Server) -> None:
    import resource

    with ExitStack() as stack:
        old = stack.enter_context(connected(small))
        if keeps(small):
            old.sendall(GET)
            assert answers(old.recv(1000)) == [200]
        before = {}
        for pid in family(small):
            used = [int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()]
            before[pid] = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            stack.callback(resource.prlimit, pid, resource.RLIMIT_NOFILE, before[pid])
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (max(used) + 1, before[pid][1]))
        clients = [stack.enter_context(connected(small)) for _ in range(30)]  # more than numbers are free in between
        for client in clients:
            client.sendall(GET)
        time.sleep(0.05)
        start, cpu_s = time.monotonic(), small.usage().cpu_s
        time.sleep(0.12)
        assert small.usage().cpu_s - cpu_s < 0.5 * (time.monotonic() - start)
        if keeps(small):
            old.sendall(GET)
            assert answers(old.recv(1000)) == [200]  # who is in is served
        old.close()
        clients[-1].settimeout(0.01)
        with pytest.raises(TimeoutError):
            clients[-1].recv(1)  # who isn't, waits
        clients[-1].settimeout(PATIENCE_S)
        for pid, limits in before.items():
            resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
        assert [answers(client.recv(1000)) for client in clients] == [[200]] * 30


def family(server: Server) -> list[int]:
    """The server's process and its descendants."""
    return [server.pid, *(child.pid for child in psutil.Process(server.pid).children(recursive=True))]


def descriptors(pid: int) -> int:
    return int(psutil.Process(pid).num_fds())


def served_by(pid: int) -> set[tuple[str, int]]:
    """The addresses of its clients."""
    return {tuple(each.raddr) for each in psutil.Process(pid).net_connections("tcp")}


def is_gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


# Ends


class Visitor(threading.Thread):
    """A client that asks again and again, and keeps book: when it had sent, when it was over, what came."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.book: list[tuple[float, float, bytes]] = []

    def run(self) -> None:
        answered = True
        with suppress(OSError):
            while answered:
                with connected(self.server) as client:
                    while (answered := self.visit(client)) and b"Connection: close" not in self.book[-1][2]:
                        pass

    def visit(self, client: socket.socket) -> bool:
        client.sendall(GET)
        sent = time.monotonic()
        answer = b""
        with suppress(ConnectionError):
            answer = client.recv(1000)
        self.book.append((sent, time.monotonic(), answer))
        return bool(answer)


@pytest.mark.parametrize("model", MODELS)
def test_a_stop_under_load_loses_no_answer_and_leaves_nothing(model: str) -> None:
    """What was sent before the stop is answered. What is sent after it may find the connection closed, but no half."""
    with serving(model, wait_ms=50, processes=3) as server:
        everyone = family(server)
        visitors = [Visitor(server) for _ in range(6)]
        for visitor in visitors:
            visitor.start()
        time.sleep(0.1)
        stopped = time.monotonic()
    for visitor in visitors:
        visitor.join(PATIENCE_S)
    book = [visit for visitor in visitors for visit in visitor.book]
    assert any(sent < stopped < over for sent, over, _ in book)  # some were under way
    for sent, _, answer in book:
        whole = answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"\r\n\r\nOK\n")
        assert whole or (sent > stopped - 0.02 and not answer)
    assert any(over > stopped and b"Connection: close" in answer for _, over, answer in book)
    assert all(is_gone(pid) for pid in everyone)
    with pytest.raises(ConnectionError):
        socket.create_connection(server.address, timeout=PATIENCE_S)


@pytest.mark.parametrize("model", ["thread per connection", "event loop", "pre-fork"])
def test_a_stop_waits_for_nobody_longer_than_the_time_of_grace(model: str) -> None:
    with serving(model, grace_s=0.05) as server, ExitStack() as stack:
        client = stack.enter_context(connected(server))
        client.sendall(b"GET /wait?ms=10000 HTTP/1.1\r\nHost: a\r\n\r\n")
        time.sleep(0.02)
        stack.callback(stack.pop_all().close)
        start = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        assert received(client) == b""
        assert time.monotonic() - start < 8.0


@pytest.mark.parametrize("model", ["hybrid", "pre-fork"])  # the others are one process
def test_nothing_is_left_of_a_server_that_was_killed(model: str) -> None:
    with serving(model, wait_ms=1) as server:
        everyone = family(server)
        with connected(server) as client:
            client.sendall(GET)
            client.recv(1000)
            os.kill(server.pid, signal.SIGKILL)
            assert leftovers.wait_until(lambda: all(is_gone(pid) for pid in everyone))
            assert received(client) == b""
        with pytest.raises(ConnectionError):
            socket.create_connection(server.address, timeout=PATIENCE_S)


def test_a_killed_child_is_replaced_and_takes_one_request_with_it() -> None:
    with serving("pre-fork", processes=2) as server:
        _, first, second = family(server)
        with connected(server) as one, connected(server) as other:
            for client in (one, other):
                client.sendall(b"GET /wait?ms=300 HTTP/1.1\r\nHost: a\r\n\r\n")
            addresses = {one.getsockname(), other.getsockname()}
            assert leftovers.wait_until(lambda: bool(addresses & served_by(first)))
            os.kill(first, signal.SIGKILL)
            assert sorted(answers(received(client)) for client in (one, other)) == [[], [200]]
        assert leftovers.wait_until(lambda: first not in (now := family(server)) and len(now) == 3)
        assert second in family(server)
        assert ask(server, LAST) == [200]


def test_a_killed_worker_is_replaced_and_takes_its_requests_with_it() -> None:
    compute = b"GET /compute?ms=200 HTTP/1.1\r\nHost: a\r\n"
    with serving("hybrid", processes=1) as server:
        _, worker = family(server)
        process = psutil.Process(worker)
        used_s = process.cpu_times().user
        with connected(server) as client, connected(server) as other:
            client.sendall(compute + b"Connection: close\r\n\r\n")
            other.sendall(compute + b"\r\n")
            assert leftovers.wait_until(lambda: process.cpu_times().user > used_s)  # it is at it
            os.kill(worker, signal.SIGKILL)
            assert answers(received(client)) == [500]
            assert answers(other.recv(1000)) == [500]  # it waited for that process
            other.sendall(compute.replace(b"200", b"20") + b"Connection: close\r\n\r\n")
            assert answers(received(other)) == [200]  # whose new process does not hold the connection open
        assert worker not in family(server)


def test_pre_fork_goes_on_where_there_is_no_process_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = threading.Semaphore(0)

    def fork() -> int:
        tried.release()
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    server = pre_fork.Server(new_listener(), Work(), Limits())
    thread = threading.Thread(target=server.serve)
    thread.start()
    assert tried.acquire(timeout=PATIENCE_S)
    assert tried.acquire(timeout=PATIENCE_S)  # again
    server.stop()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_pre_fork_says_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "fork")
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(OSError, match=r"^pre-fork needs fork\(\)"):
        pre_fork.Server(listener, Work(), Limits())
