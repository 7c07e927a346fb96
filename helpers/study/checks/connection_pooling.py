"""Checks for notebook 08."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

from helpers.study.checks import Mistake, checks, expect_number, short

# --- 08-size-by-law -------------------------------------------------------------------------------------------------


@checks("08-size-by-law")
def sizes(pool_size: Callable[..., Any], source: Random) -> None:
    """Loads that come out uneven, and two that come out even: nothing to round there, in floats neither."""
    for rate, hold_ms, utilisation in (
        (1010.0, 41.5, 0.7),
        (100.0, 50.3, 0.7),
        (3.0, 30.0, 0.8),
        (1000 * source.randrange(1, 5) + 7.0, 10 * source.randrange(1, 5) + 0.3, 0.75),
        (160.0, 25.0, 0.5),
        (2000.0, 4.0, 0.25),
    ):
        _expect_size(pool_size, rate, hold_ms, utilisation)


def _expect_size(pool_size: Callable[..., Any], rate: float, hold_ms: float, utilisation: float) -> None:
    in_use = rate * hold_ms / 1000
    exact = in_use / utilisation
    wanted = math.ceil(round(exact, 9))
    mistakes = [
        ("unrounded", exact),
        ("down", math.floor(exact)),
        ("down", round(exact)),
        ("one-more", math.floor(exact) + 1),
    ]
    for name, value in (
        ("in-use", in_use),
        ("multiplied", in_use * utilisation),
        ("headroom", in_use * (2 - utilisation)),
        ("milliseconds", 1000 * exact),
        ("milliseconds", exact / 1000),
        ("inverted", rate / hold_ms / utilisation),
        ("inverted", 1000 * rate / hold_ms / utilisation),
        ("inverted", rate / (hold_ms / 1000) / utilisation),
    ):
        mistakes += [(name, value), (name, math.ceil(value)), (name, math.floor(value)), (name, round(value))]
    call = f"pool_size({rate:.6g}, {hold_ms:.6g}, {utilisation})"
    expect_number(call, pool_size(rate, hold_ms, utilisation), wanted, mistakes)


# --- 08-fleet -------------------------------------------------------------------------------------------------------

Fleet = dict[str, tuple[int, int]]


@checks("08-fleet")
def shares(pool_sizes: Callable[..., Any], source: Random) -> None:
    """Fleets that don't fit, that fit, that fit exactly, and that leave a service with nothing."""
    _expect_sizes(pool_sizes, {"shop": (4, 20), "search": (6, 10), "mail": (1, 5)}, 100, 16)
    _expect_sizes(pool_sizes, {"shop": (2, 12), "mail": (3, 4)}, 100, 10)
    _expect_sizes(pool_sizes, {"shop": (2, 12), "mail": (3, 4)}, 46, 10)
    for _ in range(3):
        _expect_sizes(pool_sizes, *_too_large(source))
    _expect_refusal(pool_sizes, {"shop": (10, 30), "mail": (5, 2)}, 100, 10)
    _expect_refusal(pool_sizes, {"shop": (2, 3)}, 10, 10)


def _too_large(source: Random) -> tuple[Fleet, int, int]:
    """A fleet whose shares don't come out even, so that floats and integers round alike, with one for everybody."""
    while True:
        fleet = {name: (source.randrange(2, 8), source.randrange(8, 30)) for name in ("shop", "search", "mail")}
        limit, reserve = source.randrange(100, 300), source.randrange(5, 20)
        wanted = sum(instances * each for instances, each in fleet.values())
        shared = [divmod(each * (limit - reserve), wanted) for _, each in fleet.values()]
        if limit < wanted and all(whole >= 1 and rest for whole, rest in shared):
            return fleet, limit, reserve


def _shared(fleet: Fleet, there: int) -> dict[str, int]:
    wanted = sum(instances * each for instances, each in fleet.values())
    return {name: min(each, each * there // wanted) for name, (_, each) in fleet.items()}


def _expect_sizes(pool_sizes: Callable[..., Any], fleet: Fleet, limit: int, reserve: int) -> None:
    call = f"pool_sizes({fleet!r}, {limit}, {reserve})"
    wanted = _shared(fleet, limit - reserve)
    try:
        got = pool_sizes(dict(fleet), limit, reserve)
    except ValueError:
        raise Mistake("refused", f"`{call}` raised `ValueError`; `{wanted}` would be right.") from None
    if got is None or got is ...:
        raise Mistake("empty")
    if got == wanted:
        return
    if not isinstance(got, dict) or got.keys() != fleet.keys() or not all(map(_is_whole, got.values())):
        seen = f"`{call}` returned `{short(got)}`, not one whole number for each service."
        raise Mistake("other", seen)
    raise Mistake(_size_mistake(got, fleet, limit, reserve), f"`{call}` gave `{got}`; `{wanted}` would be right.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _size_mistake(got: dict[str, int], fleet: Fleet, limit: int, reserve: int) -> str:
    there = limit - reserve
    wishes = {name: each for name, (_, each) in fleet.items()}
    of_services = {name: instances * each for name, (instances, each) in fleet.items()}
    wished, wanted = sum(wishes.values()), sum(of_services.values())
    if got == {name: each * there // wished for name, each in wishes.items()}:
        return "instances"
    if got == {name: whole * there // wanted for name, whole in of_services.items()}:
        return "per-service"
    if got == _shared(fleet, limit):
        return "reserve"
    if wanted > there and got in _equal(fleet, there):
        return "equal"
    if any(size > wishes[name] for name, size in got.items()):
        return "more-than-wished"
    if sum(fleet[name][0] * size for name, size in got.items()) > there:
        return "over"
    return "wasteful" if wanted <= there else "other"


def _equal(fleet: Fleet, there: int) -> list[dict[str, int]]:
    """The same for each instance, or for each service; with and without looking at the wishes."""
    by_instance = {name: there // sum(instances for instances, _ in fleet.values()) for name in fleet}
    by_service = {name: there // len(fleet) // instances for name, (instances, _) in fleet.items()}
    both = [by_instance, by_service]
    return both + [{name: min(size, fleet[name][1]) for name, size in sizes.items()} for sizes in both]


def _expect_refusal(pool_sizes: Callable[..., Any], fleet: Fleet, limit: int, reserve: int) -> None:
    try:
        got = pool_sizes(dict(fleet), limit, reserve)
    except ValueError:
        return
    raise Mistake("none", f"`pool_sizes({fleet!r}, {limit}, {reserve})` gave `{short(got)}`.")


# --- 08-borrowed ----------------------------------------------------------------------------------------------------


class Burnt(Exception):
    """What goes wrong inside the block."""


class Lost(Exception):
    """What a broken connection raises."""


class Empty(Exception):
    """What the pool raises that has none left."""


class Connection:
    """Notes what is done to it in `log`."""

    def __init__(self, log: list[str]) -> None:
        self.broken = False
        self.is_cut_off = False  # nobody has noticed yet
        self.log = log

    def rollback(self) -> None:
        self.broken = self.broken or self.is_cut_off
        if self.broken:
            raise Lost("the connection is broken")
        self.log.append("rollback")


class Recorder:
    """A pool of one connection that notes what is done to it, in `log`."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.connection = Connection(self.log)
        self.empty = False

    def get(self) -> Connection:
        if self.empty:
            raise Empty
        self.log.append("get")
        return self.connection

    def put(self, connection: Connection) -> None:
        self.log.append("put")

    def drop(self, connection: Connection) -> None:
        self.log.append("drop")


@checks("08-borrowed")
def gives_back(borrowed: Callable[..., Any], source: Random) -> None:
    """Blocks that end well or raise; a connection that breaks meanwhile, or is found broken after it; an empty pool."""
    manager = borrowed(Recorder())
    if manager is None or manager is ... or getattr(manager, "gen", manager) is None:
        raise Mistake("empty")
    if not hasattr(manager, "__enter__"):
        raise Mistake("other", f"`borrowed(pool)` returned `{short(manager)}`, which `with` can't use.")
    for breaks in (False, True):
        for raises in (False, True):
            _expect_returned(borrowed, breaks, raises)
    for raises in (False, True):
        _expect_found_out(borrowed, raises)
    _expect_nothing_taken(borrowed)


def _expect_returned(borrowed: Callable[..., Any], breaks: bool, raises: bool) -> None:
    pool = Recorder()
    swallowed = False
    try:
        with borrowed(pool) as connection:
            if connection is not pool.connection:
                raise Mistake("other", f"`with borrowed(pool) as connection` gave `{short(connection)}`.")
            if pool.log != ["get"]:
                raise Mistake("other", f"When the block began, the pool had seen {_told(pool.log)}.")
            connection.broken = breaks
            if raises:
                raise Burnt
        swallowed = raises
    except Burnt:
        pass
    except Lost:
        raise Mistake("hidden", "The connection broke in the block; the caller got the error of `rollback`.") from None
    what = "The block raised" if raises else "The block ended well"
    if breaks:
        what += ", and the connection was broken"
    seen = f"{what}. After the connection was taken, the pool saw {_told(pool.log[1:])}."
    if swallowed:
        raise Mistake("swallowed", seen)
    hint = _return_mistake(pool.log[1:], breaks, raises)
    if hint:
        raise Mistake(hint, seen)


def _expect_found_out(borrowed: Callable[..., Any], raises: bool) -> None:
    """`rollback` is the one to notice that the connection has broken; whose error the caller gets then is open."""
    pool = Recorder()
    pool.connection.is_cut_off = True
    with suppress(Burnt, Lost), borrowed(pool):
        if raises:
            raise Burnt
    if pool.log[1:] != ["drop"]:
        what = "raised" if raises else "ended well"
        raise Mistake("found-out", f"The block {what}, then `rollback` raised. The pool saw {_told(pool.log[1:])}.")


def _told(log: list[str]) -> str:
    return ", then ".join(f"`{call}`" for call in log) or "nothing"


def _return_mistake(log: list[str], breaks: bool, raises: bool) -> str:
    """The hint for what was done after the block; "" when it was right."""
    ways_out = log.count("put") + log.count("drop")
    if ways_out > 1:
        return "twice"
    if breaks:
        return {("drop",): "", (): "not-dropped"}.get(tuple(log), "broken")
    if not ways_out:
        return "no-finally" if raises else "leak"
    if "drop" in log:
        return "dropped"
    if "rollback" not in log:
        return "dirty"
    return "too-late" if log[-1] != "put" else ""


def _expect_nothing_taken(borrowed: Callable[..., Any]) -> None:
    pool = Recorder()
    pool.empty = True
    outcome = ""
    try:
        with borrowed(pool):
            outcome = "the block ran all the same"
    except Empty:
        pass
    except Exception as error:
        outcome = f"the caller got `{type(error).__name__}` instead"
    if pool.log:
        outcome = f"the pool saw {_told(pool.log)} all the same"
    if outcome:
        raise Mistake("nothing-taken", f"`pool.get()` raised, and {outcome}.")


# --- 08-pool --------------------------------------------------------------------------------------------------------

SHORT = 0.06  # s; the time-out of a `get` that is to fail
SOON = 0.3  # s that a right pool is given for what it should do at once
LONG = 1.0  # s; the time-out of a `get` that is to succeed
TRIES = 3  # a machine that stalls must not make a right pool look wrong


class Call:
    """A call in a thread of its own: what it returned or raised, and how long that took."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, args=(function, *arguments), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[..., Any], *arguments: Any) -> None:
        start = time.monotonic()
        try:
            self.result = function(*arguments)
        except BaseException as error:
            self.error = error
        self.seconds = time.monotonic() - start

    def done(self, seconds: float) -> bool:
        """Whether it ended within so many seconds from now."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def got(self, seconds: float) -> Any:
        """What it returned; None when it is still under way. Raises what it raised."""
        if not self.done(seconds):
            return None
        if self.error:
            raise self.error
        return self.result


class Server:
    """Something to connect to: counts, and can be slow or refuse."""

    def __init__(self) -> None:
        self.opened = 0
        self.refuses = False
        self.called = threading.Event()
        self.answers = threading.Event()
        self.answers.set()
        self._counting = threading.Lock()

    def connect(self) -> str:
        with self._counting:
            self.opened += 1
            name = f"connection {self.opened}"
            refuses = self.refuses
        self.called.set()
        self.answers.wait(2)
        if refuses:
            raise Lost("the server refused")
        return name

    def slow(self) -> None:
        """From now on `connect` waits until `answers` is set."""
        self.called.clear()
        self.answers.clear()


@checks("08-pool")
def pools(make_pool: Callable[..., Any], source: Random) -> str:
    """One thread; an empty pool; a waiter; connects that are slow, or fail; a thief; and a crowd."""
    _expect_reuse(make_pool)
    _expect_time_out(make_pool)
    _expect_counted(make_pool)
    _patiently(_expect_woken, make_pool)
    _expect_place_back(make_pool)
    _patiently(_expect_waiter_connects, make_pool)
    _patiently(_expect_no_lock_held, make_pool)
    _patiently(_expect_patience, make_pool)
    return _expect_crowd(make_pool, threads=8, size=3, times=source.randrange(20, 30))


def _patiently(expect: Callable[..., None], make_pool: Callable[..., Any]) -> None:
    """Expect what depends on time; believe only a mistake that shows every time."""
    for _ in range(TRIES - 1):
        with suppress(Mistake):
            return expect(make_pool)
    expect(make_pool)


def _expect_reuse(make_pool: Callable[..., Any]) -> None:
    server = Server()
    made = make_pool(server.connect, 3)
    if made is None or made is ...:
        raise Mistake("empty")
    try:
        get, put = made
    except (TypeError, ValueError):
        raise Mistake("other", f"`make_pool(…)` returned `{short(made)}`, not the two functions.") from None
    if not callable(get) or not callable(put):
        raise Mistake("other", f"`make_pool(…)` returned `{short(made)}`, not the two functions.")
    first = get(LONG)
    if server.opened > 1:
        raise Mistake("eager", f"One connection was asked for, and {server.opened} were opened.")
    if first != "connection 1":
        raise Mistake("other", f"`get` returned `{short(first)}`, not what `connect` returned.")
    put(first)
    again = get(LONG)
    if server.opened > 1:
        raise Mistake("reuse", "One thread took a connection, gave it back and took one again.")
    second = get(LONG)
    if again != first or second != "connection 2":
        raise Mistake("other", f"Out were `{short(again)}` and `{short(second)}` when two had been asked for.")


def _expect_time_out(make_pool: Callable[..., Any]) -> None:
    server = Server()
    get, put = make_pool(server.connect, 2)
    out = [get(LONG), get(LONG)]
    call = Call(get, SHORT)
    ended = call.done(SHORT + LONG)
    if not ended:
        for connection in out:
            put(connection)  # so that the thread can end
        raise Mistake("no-timeout", f"`get({SHORT})` didn't return within {SHORT + LONG:.1f} s.")
    if server.opened > 2:
        raise Mistake("no-limit", f"`make_pool(connect, 2)` opened {server.opened} connections.")
    if not isinstance(call.error, TimeoutError):
        what = f"raised `{type(call.error).__name__}`" if call.error else f"returned `{short(call.result)}`"
        raise Mistake("wrong-error", f"Both connections were out, and `get({SHORT})` {what}.")
    if call.seconds < 0.9 * SHORT:
        raise Mistake("too-soon", f"`get({SHORT})` gave up after {call.seconds:.3f} s.")
    for connection in out:
        put(connection)
    again = {Call(get, SHORT).got(LONG), Call(get, SHORT).got(LONG)}
    if again != set(out):
        raise Mistake("other", "After a time-out both connections were given back, and not both could be taken again.")


def _expect_counted(make_pool: Callable[..., Any]) -> None:
    """While the one connection is still being opened, nobody opens another."""
    server = Server()
    server.slow()
    get, _put = make_pool(server.connect, 1)
    first = Call(get, LONG)
    server.called.wait(SOON)
    second = Call(get, SHORT)
    time.sleep(SHORT / 2)
    opened = server.opened
    server.answers.set()
    first.done(LONG)
    second.done(LONG)
    if opened > 1:
        raise Mistake("too-many", "Of a pool of one, two threads were opening a connection at the same time.")


def _expect_woken(make_pool: Callable[..., Any]) -> None:
    server = Server()
    get, put = make_pool(server.connect, 1)
    connection = get(LONG)
    waiter = Call(get, LONG)
    time.sleep(0.03)  # until it waits
    back = Call(put, connection)
    if waiter.got(SOON) is None:
        hint = "asleep" if back.done(0) else "deadlock"
        raise Mistake(hint, f"One waited, one gave back, and {SOON} s later the first still waited.")


def _expect_place_back(make_pool: Callable[..., Any]) -> None:
    server = Server()
    server.refuses = True
    get, _put = make_pool(server.connect, 1)
    call = Call(get, LONG)
    if not call.done(2 * LONG) or not isinstance(call.error, Lost):
        raise Mistake("failure", "`connect` raised, and the caller wasn't told.")
    server.refuses = False
    try:
        got = Call(get, SHORT).got(LONG)
    except TimeoutError:
        got = None
    if got is None:
        raise Mistake("failure", "After a `connect` that raised, the next `get` found the pool of one full.")


def _expect_waiter_connects(make_pool: Callable[..., Any]) -> None:
    """One connects, one waits for it; the connect fails: now the other has to try."""
    server = Server()
    server.slow()
    server.refuses = True
    get, _put = make_pool(server.connect, 1)
    first = Call(get, LONG)
    server.called.wait(SOON)
    waiter = Call(get, LONG)
    time.sleep(0.03)  # until it waits
    server.refuses = False
    server.answers.set()
    first.done(LONG)
    if waiter.got(SOON) is None:
        raise Mistake("failure", "One thread's `connect` raised; another one waited for that place and slept on.")


def _expect_no_lock_held(make_pool: Callable[..., Any]) -> None:
    server = Server()
    get, put = make_pool(server.connect, 2)
    connection = get(LONG)
    server.slow()
    connecting = Call(get, LONG)
    server.called.wait(SOON)
    back = Call(put, connection)
    passed = back.done(SOON) and Call(get, LONG).done(SOON)
    server.answers.set()
    connecting.done(LONG)
    if not passed:
        raise Mistake("under-lock", "One thread was connecting; another gave back a connection and took it again.")


def _expect_patience(make_pool: Callable[..., Any]) -> None:
    """Somebody gives back and takes again at once, over and over, while one waits."""
    server = Server()
    get, put = make_pool(server.connect, 1)
    connection = get(LONG)
    waiter = Call(get, SHORT)
    end = time.monotonic() + 4 * SHORT
    while not waiter.done(0.01) and time.monotonic() < end:
        put(connection)
        try:
            connection = get(0.001)
        except TimeoutError:  # the waiter has it: that is fine, too
            waiter.done(LONG)
            break
    else:
        put(connection)
    late = not waiter.done(0) or waiter.seconds > 3 * SHORT
    waiter.done(LONG)
    if waiter.error and not isinstance(waiter.error, TimeoutError):
        raise Mistake("woken-in-vain", f"A waiting `get` was woken and raised `{type(waiter.error).__name__}`.")
    if server.opened > 1:
        raise Mistake("woken-in-vain", "A waiting `get` was woken and opened a second connection, in a pool of one.")
    if waiter.error and waiter.seconds < 0.9 * SHORT:
        raise Mistake("woken-in-vain", f"`get({SHORT})` was woken and gave up after {waiter.seconds:.3f} s.")
    if late:
        seen = f"`get({SHORT})`, woken in vain a few times, was still waiting after {3 * SHORT:.2f} s."
        raise Mistake("restarted", seen)


def _expect_crowd(make_pool: Callable[..., Any], threads: int, size: int, times: int) -> str:
    server = Server()
    get, put = make_pool(server.connect, size)
    ready = threading.Barrier(threads)
    held: set[Any] = set()
    faults: list[str] = []

    def use() -> None:
        ready.wait()
        for _ in range(times):
            connection = _taken(get)
            if connection in held:
                faults.append("Two threads had the same connection at once.")
            held.add(connection)
            time.sleep(0)
            held.discard(connection)
            put(connection)

    calls = [Call(use) for _ in range(threads)]
    for call in calls:
        if not call.done(2 * LONG):
            raise Mistake("asleep", f"{threads} threads shared {size} connections, and one of them waited in vain.")
        if call.error:
            raise call.error
    if faults:
        raise Mistake("other", faults[0])
    if server.opened > size:
        raise Mistake("too-many", f"{threads} threads opened {server.opened} connections in a pool of {size}.")
    return f"{threads} threads took and gave back {threads * times} times; {server.opened} connections were enough."


def _taken(get: Callable[[float], Any]) -> Any:
    """A connection of a busy pool, which has to come within the time-out."""
    began = time.monotonic()
    try:
        return get(LONG)
    except TimeoutError:
        waited = time.monotonic() - began
        hint = "asleep" if waited > 0.9 * LONG else "woken-in-vain"
        raise Mistake(hint, f"In a crowd `get({LONG:g})` gave up after {waited:.3f} s.") from None
