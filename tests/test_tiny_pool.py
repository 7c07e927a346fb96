"""The tiny pool: what it promises, and that each of these tests finds a pool that breaks the promise."""

from __future__ import annotations

import inspect
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.servers import tiny_pool
from helpers.servers.tiny_pool import Pool

PATIENCE_S = 10.0  # the machine may be busy


class Refused(Exception):
    """The server would not have another connection."""


class Server:
    """What a pool connects to: counts its connections, and refuses some on demand."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open = self.most = self.opened = 0
        self.refusals = 0

    def connect(self) -> Fake:
        with self.lock:
            if self.refusals:
                self.refusals -= 1
                raise Refused
            self.open += 1
            self.opened += 1
            self.most = max(self.most, self.open)
        return Fake(self)


class Fake:
    """A connection that notices when two use it at once."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.closed = False
        self.users = 0

    def close(self) -> None:
        with self.server.lock:
            self.server.open -= not self.closed
            self.closed = True


AnyPool = Callable[[Callable[[], Fake], int], Pool[Fake]]


# Pools that break a promise


class Forgetful(Pool[Fake]):
    """Hands a slot to the first in the queue, who may just have given up: the classic mistake."""

    def _take(self, timeout: float) -> Fake | None:
        with self._lock:
            if self._slots:
                return self._slots.pop()
            mine = tiny_pool.Condition(self._lock)
            self._queue.append(mine)
            if not mine.wait(timeout):
                with suppress(ValueError):
                    self._queue.remove(mine)
                raise TimeoutError
            return cast("Any", mine).slot

    def _give(self, slot: Fake | None) -> None:
        with self._lock:
            if self._queue:
                first: Any = self._queue.popleft()
                first.slot = slot
                first.notify()
            else:
                self._slots.append(slot)


class Careless(Pool[Fake]):
    """Leaves one who gave up in the queue, and so for ever at its head."""

    def _take(self, timeout: float) -> Fake | None:
        try:
            return super()._take(timeout)
        except TimeoutError:
            with self._lock:
                self._queue.appendleft(threading.Condition(self._lock))
            raise


class Sleepy(Pool[Fake]):
    """Wakes the first when a slot comes back and nobody else: the lost wake-up."""

    def _take(self, timeout: float) -> Fake | None:
        with self._lock:
            mine = threading.Condition(self._lock)
            self._queue.append(mine)
            try:
                if not mine.wait_for(lambda: self._slots and self._queue[0] is mine, timeout):
                    raise TimeoutError
                return self._slots.pop()
            finally:
                self._queue.remove(mine)


class Stack(deque[threading.Condition]):
    """A queue that puts who comes last first."""

    append = deque.appendleft


class LastFirst(Pool[Fake]):
    """Serves who came last."""

    def __init__(self, connect: Callable[[], Fake], size: int) -> None:
        super().__init__(connect, size)
        self._queue = Stack()


class Pushy(Pool[Fake]):
    """Puts a slot back for anybody, and lets those who wait look again: a newcomer may be there first."""

    def _take(self, timeout: float) -> Fake | None:
        deadline = time.monotonic() + timeout
        while True:
            with self._lock:
                if self._slots:
                    return self._slots.pop()
            if time.monotonic() >= deadline:
                raise TimeoutError
            time.sleep(0.002)


class Generous(Pool[Fake]):
    """Opens one more rather than let anybody wait."""

    def _take(self, timeout: float) -> Fake | None:
        with self._lock:
            return self._slots.pop() if self._slots else None


class Shrinking(Pool[Fake]):
    """Loses the slot of a broken connection."""

    def _give(self, slot: Fake | None) -> None:
        if slot is not None:
            super()._give(slot)


# The promises


def after_all_that(pool: Pool[Fake], server: Server, size: int) -> None:
    """All slots can be had again at once, and no more than those."""
    with ExitStack() as held:
        lent = [held.enter_context(pool.connection(0)) for _ in range(size)]
        assert len(set(map(id, lent))) == size == server.open
        with pytest.raises(TimeoutError):
            held.enter_context(pool.connection(0))
    pool.close(0)
    assert server.open == 0


def waiting_for(pool: Pool[Fake], work: Callable[[Fake], object]) -> threading.Thread:
    """A thread that waits for a connection to work with, once it really waits."""

    def run() -> None:
        with suppress(TimeoutError), pool.connection(PATIENCE_S) as connection:
            work(connection)

    before = len(pool._queue)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE_S
    while len(pool._queue) == before and time.monotonic() < deadline and thread.is_alive():
        time.sleep(0.001)
        if not pool._slots and isinstance(pool, Pushy):  # it has no queue to look at
            time.sleep(0.02)
            break
    return thread


def lends_at_most_its_size(kind: AnyPool) -> None:
    server = Server()
    pool = kind(server.connect, 2)
    with pool.connection(0) as one, pool.connection(0) as other:
        assert one is not other
        begin = time.monotonic()
        try:
            with pool.connection(0.05):
                lent = True
        except TimeoutError:
            lent = False
        assert not lent and time.monotonic() - begin >= 0.04
    assert server.most == 2


def serves_in_order(kind: AnyPool) -> None:
    pool = kind(Server().connect, 1)
    served: list[int] = []
    with pool.connection(0):
        threads = [waiting_for(pool, lambda _, place=place: served.append(place)) for place in range(5)]
    for thread in threads:
        thread.join(PATIENCE_S)
    assert served == [0, 1, 2, 3, 4]


def lets_no_newcomer_overtake(kind: AnyPool) -> None:
    pool = kind(Server().connect, 1)
    end = threading.Event()
    with pool.connection(0):
        first = waiting_for(pool, lambda _: end.wait(PATIENCE_S))
    try:
        with pool.connection(0):
            overtaken = True
    except TimeoutError:
        overtaken = False
    end.set()
    first.join(PATIENCE_S)
    assert not overtaken


def keeps_a_slot_that_comes_with_the_time_out(kind: AnyPool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time-out and the slot at the same moment: it comes just before the one who gives up takes notice."""
    pool = kind(Server().connect, 1)
    holder = ExitStack()

    class Late(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            pool._lock.release()
            holder.close()
            pool._lock.acquire()
            return False

    holder.enter_context(pool.connection(0))
    with monkeypatch.context() as patched, suppress(TimeoutError):
        patched.setattr(tiny_pool, "Condition", Late)
        with pool.connection(0.001):
            pass
    with pool.connection(0) as again:
        assert not again.closed


def wakes_everybody_there_is_a_slot_for(kind: AnyPool) -> None:
    """Two connections come back before the first in the queue has run: the second in the queue gets the other."""
    pool = kind(Server().connect, 2)
    both = threading.Barrier(2)
    served: list[bool] = []

    def meet(_: Fake) -> None:
        with suppress(threading.BrokenBarrierError):
            both.wait(1.5)
            served.append(True)

    before = sys.getswitchinterval()
    with pool.connection(0), ExitStack() as other:
        other.enter_context(pool.connection(0))
        threads = [waiting_for(pool, meet) for _ in range(2)]
        sys.setswitchinterval(1)  # neither runs between the two returns
        other.close()
    sys.setswitchinterval(before)
    for thread in threads:
        thread.join(2)
    assert len(served) == 2


def forgets_who_gave_up(kind: AnyPool) -> None:
    server = Server()
    pool = kind(server.connect, 1)
    with pool.connection(0), suppress(TimeoutError), pool.connection(0.01):
        pass
    with pool.connection(0):
        assert server.open == 1


def keeps_the_slot_when_it_can_not_connect(kind: AnyPool) -> None:
    server = Server()
    pool = kind(server.connect, 1)
    server.refusals = 2
    for _ in range(2):
        with pytest.raises(Refused), pool.connection(0):
            pass
    with pool.connection(0):
        assert server.open == 1


def replaces_a_broken_connection_for_one_who_waits(kind: AnyPool) -> None:
    server = Server()
    pool = kind(server.connect, 1)
    seen: list[Fake] = []
    with pool.connection(0) as broken:
        waiter = waiting_for(pool, seen.append)
        broken.close()
    waiter.join(PATIENCE_S / 10)
    assert seen and seen[0] is not broken and not seen[0].closed


PROMISES: list[tuple[Callable[..., None], type[Pool[Fake]]]] = [
    (lends_at_most_its_size, Generous),
    (serves_in_order, LastFirst),
    (lets_no_newcomer_overtake, Pushy),
    (keeps_a_slot_that_comes_with_the_time_out, Forgetful),
    (forgets_who_gave_up, Careless),
    (wakes_everybody_there_is_a_slot_for, Sleepy),
    (keeps_the_slot_when_it_can_not_connect, Shrinking),
    (replaces_a_broken_connection_for_one_who_waits, Shrinking),
]
each_promise = pytest.mark.parametrize(("promise", "breaker"), PROMISES, ids=[each.__name__ for each, _ in PROMISES])


@each_promise
def test_it_keeps_its_promise_and_a_worse_pool_does_not(
    promise: Callable[..., None], breaker: type[Pool[Fake]], monkeypatch: pytest.MonkeyPatch
) -> None:
    more = (monkeypatch,) if promise is keeps_a_slot_that_comes_with_the_time_out else ()
    promise(Pool, *more)
    with pytest.raises((AssertionError, TimeoutError)):
        promise(breaker, *more)


def test_it_opens_no_more_than_it_needs() -> None:
    server = Server()
    pool = Pool(server.connect, 5)
    for _ in range(10):
        with pool.connection(0), pool.connection(0):
            pass
    assert server.opened == 2


def test_it_uses_the_open_ones_while_the_server_is_down() -> None:
    server = Server()
    pool = Pool(server.connect, 3)
    with pool.connection(0), pool.connection(0) as other:
        other.close()
    server.refusals = 1_000
    for _ in range(10):
        with pool.connection(0) as connection:
            assert not connection.closed


def test_an_error_in_the_block_gives_the_connection_back() -> None:
    server = Server()
    pool = Pool(server.connect, 1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), pool.connection(0):
            1 / 0  # noqa: B018
    after_all_that(pool, server, 1)
    assert server.opened == 1


def test_an_interrupt_while_waiting_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(threading.Condition):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    server = Server()
    pool = Pool(server.connect, 1)
    with pool.connection(0), monkeypatch.context() as patched:
        patched.setattr(tiny_pool, "Condition", Interrupted)
        with pytest.raises(KeyboardInterrupt), pool.connection(1):
            pass
    after_all_that(pool, server, 1)


def test_a_time_out_says_how_long_it_was() -> None:
    pool = Pool(Server().connect, 1)
    with pool.connection(0), pytest.raises(TimeoutError, match=r"within 0\.01 s"), pool.connection(0.01):
        pass


def test_it_is_as_short_as_it_is_said_to_be() -> None:
    source = inspect.getsource(Pool)
    documented = [Pool, *(each for each in vars(Pool).values() if callable(each))]
    words = {line for each in documented for line in (inspect.getdoc(each) or "").splitlines()}
    code = [line for line in map(str.strip, source.splitlines()) if line and not line.startswith('"""')]
    assert len([line for line in code if line not in words]) <= 38


def test_closing_waits_for_what_is_lent_and_says_what_is_leaked() -> None:
    server = Server()
    pool = Pool(server.connect, 3)
    end = threading.Event()
    with pool.connection(0), pool.connection(0):
        thread = threading.Thread(target=lambda: (end.wait(PATIENCE_S), pool.close(PATIENCE_S)))
        thread.start()
        end.set()
    thread.join(PATIENCE_S)
    assert server.open == 0 and not thread.is_alive()
    with pytest.raises(TimeoutError), pool.connection(0):
        pass
    leaky = Pool(server.connect, 2)
    leak = leaky.connection(0)
    leak.__enter__()
    with pytest.raises(TimeoutError):
        leaky.close(0)
    leak.__exit__(None, None, None)


# A storm


class Request(NamedTuple):
    """One request: how long it waits at most, how long it holds, in ms, and what becomes of it."""

    patience: int
    hold: int
    end: str


requests = st.builds(
    Request,
    patience=st.sampled_from([0, 1, 2, 5, 1000]),
    hold=st.integers(0, 2),
    end=st.sampled_from(["well", "well", "error", "broken", "refused"]),
)


def storm(pool: Pool[Fake], server: Server, crowd: list[list[Request]]) -> list[str]:
    """Threads that borrow at random; whatever went wrong."""
    wrong: list[str] = []

    def run(script: list[Request]) -> None:
        for request in script:
            if request.end == "refused":
                with server.lock:
                    server.refusals += 1
            begin = time.monotonic()
            try:
                with pool.connection(request.patience / 1000) as connection:
                    connection.users += 1
                    if connection.users > 1:
                        wrong.append("one connection was lent twice")
                    time.sleep(request.hold / 1000)
                    if request.end == "broken":
                        connection.close()
                    connection.users -= 1
                    if request.end == "error":
                        raise ZeroDivisionError
            except TimeoutError:
                if time.monotonic() - begin < request.patience / 1000 - 0.001:
                    wrong.append("it lost patience too early")
            except (Refused, ZeroDivisionError):
                pass

    threads = [threading.Thread(target=run, args=(script,), daemon=True) for script in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
        if thread.is_alive():
            wrong.append("somebody waits for ever")
    return wrong


@settings(max_examples=40, deadline=None)
@given(size=st.integers(1, 4), crowd=st.lists(st.lists(requests, min_size=1, max_size=6), min_size=2, max_size=8))
def test_after_any_storm_all_slots_are_there(size: int, crowd: list[list[Request]]) -> None:
    server = Server()
    pool = Pool(server.connect, size)
    assert storm(pool, server, crowd) == []
    assert server.most <= size
    assert not pool._queue and len(pool._slots) == size
    server.refusals = 0
    after_all_that(pool, server, size)


def test_a_storm_finds_a_pool_that_loses_slots() -> None:
    crowd = [[Request(2, 1, "well"), Request(1, 1, "broken")] * 6] * 6
    server = Server()
    pool = Shrinking(server.connect, 2)
    storm(pool, server, crowd)
    assert len(pool._slots) < 2


def test_many_threads_for_few_connections() -> None:
    server = Server()
    pool = Pool(server.connect, 3)
    crowd = [[Request(1000, 0, "well")] * 40] * 16
    assert storm(pool, server, crowd) == []
    assert server.opened == server.most <= 3
    after_all_that(pool, server, 3)
