"""What the tiny loop and its echo server promise: the same order as asyncio's."""

from __future__ import annotations

import ast
import asyncio
import io
import os
import socket
import struct
import tokenize
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from random import Random
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import machine
from helpers.servers import tiny_loop
from helpers.servers.thrifty_selector import ThriftySelector
from helpers.servers.tiny_echo import serve
from helpers.servers.tiny_loop import Loop, Task, readable, sleep, writable

SELECTORS = (DefaultSelector, ThriftySelector)
each_selector = pytest.mark.parametrize("selector", SELECTORS, ids=lambda each: each.__name__)


def lines_of_code(path: str) -> dict[str, int]:
    """Of each definition at the top of the module, without blank lines, comments and docstrings."""
    source = Path(path).read_text()
    layout = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [each for each in tokenize.generate_tokens(io.StringIO(source).readline) if each.type not in layout]
    code = {line for each in tokens for line in range(each.start[0], each.end[0] + 1)}
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node):
            code -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    found: dict[str, int] = {}
    for node in tree.body:
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
        name = getattr(node, "name", ast.unparse(node))
        found[name] = len([line for line in code if first <= line <= (node.end_lineno or 0)])
    return found


def test_it_is_short() -> None:
    lines = lines_of_code(tiny_loop.__file__)
    loop = lines.pop("Handle") + lines.pop("Loop")
    coroutines = sum(number for name, number in lines.items() if not name.startswith(("from ", "import ", "'")))
    assert loop <= 45 and coroutines <= 25


# The same order as asyncio


class Deadlock(Exception):
    """Nothing can go on any more."""


class Clock:
    """Time goes on only while nothing can be done: then to the next timer, at once."""

    def __init__(self) -> None:
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def until(self, seconds: int, number: int) -> float:
        """To about so many seconds from now, at a moment of its own: of equal ones, asyncio's order is by chance."""
        return int(self.now) + seconds + number * 2.0**-20 - self.now


class Sleepless(DefaultSelector):
    """Instead of sleeping it moves the clock; what is ready comes in the order of the sockets' numbers."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def select(self, timeout: float | None = None) -> list[Any]:
        found = sorted(super().select(0), key=lambda pair: pair[0].fd)
        if not found and timeout is None:
            raise Deadlock
        if not found:
            self.clock.now += timeout or 0
        return found


class Ours:
    """The tiny loop, as a program sees it."""

    def __init__(self, clock: Clock) -> None:
        self.loop = Loop(Sleepless(clock), clock.time)

    def soon(self, callback: Callable[[], None]) -> Any:
        return self.loop.call_soon(callback)

    def later(self, seconds: float, callback: Callable[[], None]) -> Any:
        return self.loop.call_later(seconds, callback)

    def watch(self, sock: socket.socket, event: int, callback: Callable[[], None]) -> None:
        self.loop.on_ready(sock, event, callback)

    def forget(self, sock: socket.socket) -> None:
        self.loop.forget(sock)

    def run(self) -> bool:
        """Whether there may be more to do."""
        self.loop.run()
        return bool(self.loop.ready or self.loop.timers or self.loop.selector.get_map())

    def spawn(self, coroutine: Any) -> Any:
        return Task(self.loop, coroutine)

    async def sleep(self, seconds: float) -> None:
        await sleep(seconds)
        if seconds:
            await sleep(0)  # asyncio wakes a task by way of a future, which takes a turn more

    async def ready(self, sock: socket.socket, event: int) -> None:
        await (readable if event == EVENT_READ else writable)(sock)
        await sleep(0)

    def close(self) -> None:
        self.loop.selector.close()


class Thrifty(Ours):
    """The tiny loop with the thrifty selector."""

    def __init__(self, clock: Clock) -> None:
        selector = ThriftySelector()
        selector._system.close()
        selector._system = Sleepless(clock)
        self.loop = Loop(selector, clock.time)


class Theirs:
    """The same in asyncio."""

    def __init__(self, clock: Clock) -> None:
        self.loop = asyncio.SelectorEventLoop(Sleepless(clock))
        self.loop.time = clock.time  # type: ignore[method-assign]
        self.loop.set_exception_handler(lambda *_: None)
        self.waiting: dict[socket.socket, int] = {}

    def soon(self, callback: Callable[[], None]) -> Any:
        return self.loop.call_soon(callback)

    def later(self, seconds: float, callback: Callable[[], None]) -> Any:
        return self.loop.call_later(seconds, callback)

    def watch(self, sock: socket.socket, event: int, callback: Callable[[], None]) -> None:
        def once() -> None:
            self.forget(sock)
            callback()

        self.waiting[sock] = event
        (self.loop.add_reader if event == EVENT_READ else self.loop.add_writer)(sock, once)

    def forget(self, sock: socket.socket) -> None:
        if event := self.waiting.pop(sock, 0):
            (self.loop.remove_reader if event == EVENT_READ else self.loop.remove_writer)(sock)

    def run(self) -> bool:
        self.loop.run_forever()
        return True

    def spawn(self, coroutine: Any) -> Any:
        return self.loop.create_task(coroutine)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def ready(self, sock: socket.socket, event: int) -> None:
        woken = self.loop.create_future()
        self.watch(sock, event, lambda: woken.set_result(None))
        await woken

    def close(self) -> None:
        self.loop._ready.clear()  # type: ignore[attr-defined]
        with suppress(Deadlock):
            for task in asyncio.all_tasks(self.loop):
                task._log_destroy_pending = False  # type: ignore[attr-defined]
        self.loop.close()


class Boom(Exception):
    """What a program's callback raises."""


Trace = list[tuple[str, float]]
PAIRS = 3


@contextmanager
def pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    with ExitStack() as stack:
        found = [socket.socketpair() for _ in range(PAIRS)]
        for sock in (each for pair in found for each in pair):
            stack.enter_context(sock).setblocking(False)
        yield found


Step = tuple[Any, ...]
seeds = st.integers(0, 2**32)  # hypothesis' own lists are too short: what goes wrong takes many at once


def a_program(source: Random, kinds: Mapping[str, float], depth: int = 4) -> list[Step]:
    """Steps, some of which hold programs. How often each kind comes is in `kinds`."""
    steps: list[Step] = []
    for kind in source.choices(list(kinds), list(kinds.values()), k=source.randint(0, 3) + depth):
        if kind in HOLDING and depth:
            steps.append((kind, source.randrange(PAIRS), source.choice(EVENTS), a_program(source, kinds, depth - 1)))
        elif kind not in HOLDING:
            steps.append((kind, source.randrange(2 * PAIRS)))
    return steps


EVENTS = (EVENT_READ, EVENT_WRITE)
HOLDING = ("soon", "later", "watch", "spawn", "read")
CALLBACKS = {"soon": 4, "later": 4, "watch": 4, "send": 3, "cancel": 2, "forget": 1, "stop": 1}
COROUTINES = {"spawn": 4, "read": 2, "sleep": 4, "send": 2, "await": 4, "return": 0.3, "raise": 0.3}


def callbacks_of(side: type[Ours] | type[Theirs], program: list[Step]) -> Trace:
    """Run a program of callbacks: who was called, and when."""
    clock, trace, handles, names = Clock(), list[tuple[str, float]](), list[Any](), count()
    with pairs() as socks:
        loop = side(clock)
        watched: set[int] = set()

        def called(steps: list[Step], name: str, number: int | None = None, event: int = 0) -> Callable[[], None]:
            def callback() -> None:
                trace.append((name, clock.now))
                if number is not None:
                    watched.discard(number)
                if event == EVENT_READ and number is not None:
                    socks[number][0].recv(1)
                for step in steps:
                    do(*step)

            return callback

        def do(what: str, number: int, event: int = 0, steps: list[Step] | None = None) -> None:
            name = f"{what} {next(names)}"
            sock, peer = socks[number % PAIRS]
            if what == "soon":
                handles.append(loop.soon(called(steps or [], name)))
            elif what == "later":
                handles.append(loop.later(clock.until(number, len(handles)), called(steps or [], name)))
            elif what == "watch" and number not in watched:
                watched.add(number)
                loop.watch(sock, event, called(steps or [], name, number, event))
            elif what == "forget":
                watched.discard(number % PAIRS)
                loop.forget(sock)
            elif what == "send":
                peer.send(b"x")
            elif what == "cancel" and handles:
                handles[-1 - number % len(handles)].cancel()
            elif what == "stop":
                loop.loop.stop()

        loop.soon(called(program, "program"))
        finish(loop)
    return trace


def finish(loop: Ours | Theirs) -> None:
    """Run until nothing can go on."""
    try:
        with suppress(Deadlock):
            while loop.run():
                pass
    finally:
        loop.close()


@settings(max_examples=250)
@given(seeds)
def test_callbacks_timers_and_sockets_come_in_the_order_of_asyncio(seed: int) -> None:
    program = a_program(Random(seed), CALLBACKS)
    assert callbacks_of(Ours, program) == callbacks_of(Thrifty, program) == callbacks_of(Theirs, program)


def coroutines_of(side: type[Ours] | type[Theirs], program: list[Step]) -> Trace:
    """Run a program of coroutines: who went on, with what, and when."""
    clock, trace, names, tasks = Clock(), list[tuple[str, float]](), count(), list[Any]()
    with pairs() as socks:
        loop = side(clock)
        watched: set[int] = set()

        async def run(steps: list[Step], name: str, mine: int) -> Any:
            trace.append((name, clock.now))
            for what, number, *more in steps:
                step = f"{name} {what}"
                sock, peer = socks[number % PAIRS]
                if what == "sleep":
                    await loop.sleep(number and clock.until(number, next(names)))
                elif what == "send":
                    peer.send(b"x")
                elif what == "await" and mine + number + 1 < len(tasks):  # those started later: no circles
                    with suppress(Boom):
                        step += f" {await tasks[mine + number + 1]}"
                elif what == "return":
                    return number
                elif what == "raise":
                    raise Boom
                elif what == "spawn":
                    spawn(more[1], step)
                elif what == "read" and number not in watched:
                    watched.add(number)
                    await loop.ready(sock, EVENT_READ)
                    watched.discard(number)
                    step += str(sock.recv(1))
                    await run(more[1], step, mine)
                trace.append((step, clock.now))
            return None

        def spawn(steps: list[Step], name: str) -> None:
            mine = len(tasks)
            tasks.append(None)
            tasks[mine] = loop.spawn(run(steps, f"{name} {mine}", mine))

        spawn(program, "task")
        finish(loop)
        for task in tasks:
            if isinstance(task, asyncio.Task) and task.done():
                task.exception()
            elif isinstance(task, asyncio.Task):
                task.get_coro().close()
    return trace


@settings(max_examples=250)
@given(seeds)
def test_coroutines_go_on_in_the_order_of_asyncio(seed: int) -> None:
    program = a_program(Random(seed), COROUTINES)
    assert coroutines_of(Ours, program) == coroutines_of(Thrifty, program) == coroutines_of(Theirs, program)


# What else a loop must get right


def test_timers_of_one_moment_come_in_the_order_in_which_they_were_set() -> None:
    loop, came = Loop(time=lambda: 0.0), list[int]()
    for number in range(50):
        loop.call_later(0, came.append, number)
    loop.run()
    assert came == list(range(50))


def test_nothing_keeps_it_when_all_that_was_left_is_cancelled() -> None:
    loop = Loop()
    for handle in (loop.call_later(1000, pytest.fail), loop.call_later(2000, pytest.fail), loop.call_soon(pytest.fail)):
        handle.cancel()
    loop.run()
    loop.run_once()
    assert not loop.timers and not loop.ready


def test_an_error_comes_out_and_loses_nobody() -> None:
    loop, came = Loop(), list[str]()
    loop.call_soon(came.append, "before")
    loop.call_soon(lambda: 1 / 0)
    loop.call_soon(came.append, "after")
    with pytest.raises(ZeroDivisionError):
        loop.run()
    assert came == ["before"]
    loop.run()
    assert came == ["before", "after"]


@each_selector
def test_an_error_does_not_have_a_socket_called_twice(selector: type[DefaultSelector]) -> None:
    loop, came = Loop(selector()), list[int]()

    def fail(number: int) -> None:
        came.append(number)
        raise Boom

    with pairs() as socks:
        for sock, _ in socks:
            loop.on_ready(sock, EVENT_WRITE, fail, sock.fileno())
        for _ in socks:
            with pytest.raises(Boom):
                loop.run()
        loop.run()
        assert sorted(came) == sorted(sock.fileno() for sock, _ in socks)


@each_selector
def test_one_waits_for_a_socket_at_a_time(selector: type[DefaultSelector]) -> None:
    loop = Loop(selector())
    with pairs() as ((sock, _), *_rest):
        loop.on_ready(sock, EVENT_READ, pytest.fail)
        with pytest.raises(KeyError):
            loop.on_ready(sock, EVENT_WRITE, pytest.fail)
        loop.forget(sock)
        loop.forget(sock)
        loop.run()


def test_stop_ends_the_turn_and_run_goes_on_from_there() -> None:
    loop, came = Loop(), list[int]()
    for number in range(3):
        loop.call_soon(came.append, number)
        loop.call_soon(loop.stop)
    loop.call_soon(loop.call_soon, came.append, 3)
    loop.run()
    assert came == [0, 1, 2]
    loop.run()
    assert came == [0, 1, 2, 3]


@each_selector
def test_thousands_of_sockets_are_each_served_once(selector: type[DefaultSelector]) -> None:
    many = min(2000, (machine.raise_descriptor_limit() - 100) // 2)
    loop, came = Loop(selector()), list[int]()

    async def one(number: int, sock: socket.socket) -> None:
        await readable(sock)
        came.append(number)
        await writable(sock)

    with ExitStack() as stack:
        for number in range(many):
            sock, peer = (stack.enter_context(each) for each in socket.socketpair())
            Task(loop, one(number, sock))
            loop.call_soon(peer.send, b"x")
        loop.run()
    assert sorted(came) == list(range(many))


def test_an_error_is_for_who_awaits_the_task() -> None:
    loop, came = Loop(), list[object]()

    async def failing() -> None:
        raise ValueError("no")

    async def asking(task: Task) -> None:
        for _ in range(2):
            try:
                await task
            except ValueError as error:
                came.append(error)

    task = Task(loop, failing())
    both = [Task(loop, asking(task)) for _ in range(2)]
    loop.run()
    assert came == [task.end] * 4 and all(isinstance(each.end, StopIteration) for each in both)


# The echo server


@contextmanager
def echoing(selector: type[DefaultSelector]) -> Iterator[tuple[Callable[[], None], Callable[[], socket.socket]]]:
    """What has the server work until it can do no more for now, and what connects a client."""
    system = Sleepless(Clock())
    found: Any = system
    if selector is ThriftySelector:
        found = ThriftySelector()
        found._system.close()
        found._system = system
    loop = Loop(found, system.clock.time)
    with ExitStack() as stack, socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.setblocking(False)
        Task(loop, serve(loop, listener))

        def work() -> None:
            with suppress(Deadlock):
                loop.run()

        def connect() -> socket.socket:
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            client.setblocking(False)
            return client

        yield work, connect
        loop.forget(listener)
        for key in list(found.get_map().values()):
            loop.forget(key.fileobj)
            key.fileobj.close()
        found.close()


@each_selector
def test_everybody_gets_back_what_they_sent(selector: type[DefaultSelector]) -> None:
    with echoing(selector) as (work, connect):
        clients = [connect() for _ in range(20)]
        for turn in range(5):
            for number, client in enumerate(clients):
                client.send(b"%d %d" % (turn, number))
            work()
            assert [each.recv(100) for each in clients] == [b"%d %d" % (turn, number) for number in range(20)]


@each_selector
def test_it_reads_no_more_while_nobody_takes_what_it_sends(selector: type[DefaultSelector]) -> None:
    with echoing(selector) as (work, connect):
        client = connect()
        content, sent, back = bytes(range(256)) * 4000, 0, bytearray()
        for _ in range(400):
            work()
            with suppress(BlockingIOError):
                sent += client.send(content[sent % 256 :])
        assert 0 < sent < 64 * 2**20  # what the system's buffers hold
        with pytest.raises(BlockingIOError):
            client.send(b"more")
        while len(back) < sent:
            work()
            with suppress(BlockingIOError):
                back += client.recv(1 << 20)
        assert bytes(back) == (bytes(range(256)) * (sent // 256 + 1))[:sent]


@each_selector
def test_it_survives_clients_that_leave(selector: type[DefaultSelector]) -> None:
    with echoing(selector) as (work, connect):
        for _ in range(3):
            reset, closed, half = connect(), connect(), connect()
            reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            reset.send(b"x")
            work()
            reset.close()
            closed.close()
            half.send(b"y")
            half.shutdown(socket.SHUT_WR)
            work()
            assert half.recv(10) == b"y" and half.recv(10) == b""


def test_a_thrifty_selector_tells_the_system_of_each_socket_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []

    def register(selector: Sleepless, sock: Any, *how: Any) -> Any:
        told.append(sock)
        return DefaultSelector.register(selector, sock, *how)

    monkeypatch.setattr(Sleepless, "register", register)
    with echoing(ThriftySelector) as (work, connect):  # type: ignore[arg-type]
        client = connect()
        for _ in range(20):
            client.send(b"x")
            work()
            client.recv(1)
    assert len(told) == 2  # the listener and the client


def test_a_number_that_another_socket_has_now_is_told_anew() -> None:
    selector = ThriftySelector()
    one, peer = socket.socketpair()
    selector.register(one, EVENT_READ, "one")
    assert selector.select(0) == []
    selector.unregister(one)
    number = one.fileno()
    one.close()
    other = socket.socket(fileno=os.dup(peer.fileno()))
    assert other.fileno() == number
    selector.register(other, EVENT_WRITE, "other")
    with peer, other, selector:
        assert [(key.data, events) for key, events in selector.select(0)] == [("other", EVENT_WRITE)]
