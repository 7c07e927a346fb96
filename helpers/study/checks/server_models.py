"""Checks for notebook 07."""

from __future__ import annotations

import errno
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any

from helpers.study.checks import Mistake, checks, expect_number, short

# --- 07-burst -------------------------------------------------------------------------------------------------------


@checks("07-burst")
def bursts(burst: Callable[..., Any], source: Random) -> None:
    """Room for all; too many; rounds that come out even and those that don't; no queue; a single client."""
    for clients, threads, queue in [(50, 8, 20), (30, 8, 100), (20, 10, 10), (21, 10, 40), (9, 3, 0), (1, 4, 2)]:
        _expect_burst(burst, clients, threads, queue, 50)
    for _ in range(5):
        threads = source.randrange(2, 20)
        _expect_burst(burst, source.randrange(1, 200), threads, source.randrange(100), source.randrange(5, 99))


def _expect_burst(burst: Callable[..., Any], clients: int, threads: int, queue: int, service_ms: int) -> None:
    call = f"burst({clients}, {threads}, {queue}, {service_ms})"
    got = burst(clients, threads, queue, service_ms)
    if got is None or got is ...:
        raise Mistake("empty")
    try:
        turned_away, wait = got
    except (TypeError, ValueError):
        raise Mistake("pair", f"`{call}` returned `{short(got)}`.") from None
    served = min(clients, threads + queue)
    negative = [("negative", clients - threads - queue)] if served == clients else []
    in_service = [("in-service", max(0, clients - queue)), ("in-service", max(0, clients - max(threads, queue)))]
    expect_number(f"{call}[0]", turned_away, clients - served, [*negative, *in_service])
    wanted = (served - 1) // threads
    waiting = max(0, served - threads)
    rounds = [
        ("turned-away-wait", (clients - 1) // threads),
        ("one-more", served // threads if served % threads == 0 else math.nan),
        ("own-service", wanted + 1),
        ("one-thread", waiting),
        ("one-thread", served - 1),
        ("fluid", waiting / threads),
        ("fluid", served / threads),
        ("fluid", (served - 1) / threads),
    ]
    expect_number(f"{call}[1]", wait, wanted * service_ms, [(name, each * service_ms) for name, each in rounds])


# --- 07-accept ------------------------------------------------------------------------------------------------------


@dataclass
class Accepted:
    """A connection as `accept` returns it: blocking."""

    number: int
    blocking: bool = True

    def setblocking(self, flag: bool) -> None:
        """As a socket's."""
        self.blocking = bool(flag)

    def settimeout(self, seconds: float | None) -> None:
        """As a socket's."""
        self.blocking = seconds != 0

    def close(self) -> None:
        """As a socket's."""


@dataclass
class Listener:
    """A listening socket at which some wait: a connection, or what `accept` raises in its place; then nobody."""

    events: list[OSError | None]
    last: OSError = field(default_factory=lambda: BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"))
    accepted: list[Accepted] = field(default_factory=list)
    calls: int = 0

    def accept(self) -> tuple[Accepted, tuple[str, int]]:
        """The next one."""
        self.calls += 1
        if self.calls > len(self.events) + 50:
            raise Mistake("spins", f"`accept` raised `{short(self.last)}`, and was called again and again.")
        event = self.events[self.calls - 1] if self.calls <= len(self.events) else self.last
        if event:
            raise event
        self.accepted.append(Accepted(len(self.accepted) + 1))
        return self.accepted[-1], ("127.0.0.1", 50_000 + self.calls)


def _too_many(number: int) -> OSError:
    return OSError(number, "Too many open files")


@checks("07-accept")
def accepts(accept_all: Callable[..., Any], source: Random) -> None:
    """Several, nobody, one who hung up; descriptors run out, of the process and of the system; another error."""
    _expect_accepted(accept_all, Listener([None] * source.randrange(3, 9)), "once")
    _expect_accepted(accept_all, Listener([]), "nobody")
    hung_up = ConnectionAbortedError(errno.ECONNABORTED, "Software caused connection abort")
    _expect_accepted(accept_all, Listener([None, hung_up, None]), "aborted")
    for number, hint in ((errno.EMFILE, "full"), (errno.ENFILE, "system")):
        _expect_accepted(accept_all, Listener([], _too_many(number)), hint)
        _expect_accepted(accept_all, Listener([None, None], _too_many(number)), hint)
    _expect_raised(accept_all, OSError(errno.EBADF, "Bad file descriptor"))


def _expect_accepted(accept_all: Callable[..., Any], listener: Listener, hint: str) -> None:
    waited = sum(event is None for event in listener.events)
    is_full = not isinstance(listener.last, BlockingIOError)
    where = f"{waited} waited, then `accept` raised `{short(listener.last)}`"
    try:
        got = accept_all(listener)
    except OSError as error:
        name = "nobody" if isinstance(error, BlockingIOError) else hint
        raise Mistake(name, f"{where}: the caller got `{short(error)}`.") from None
    if got is None or got is ...:
        raise Mistake("empty")
    seen = f"{where}: it returned `{short(got)}`."
    try:
        connections, full = got
        connections = list(connections)
    except (TypeError, ValueError):
        raise Mistake("pair", seen) from None
    if any(isinstance(each, tuple) for each in connections):
        raise Mistake("address", seen)
    if connections != listener.accepted:
        raise Mistake("lost" if is_full else hint, seen)
    if len(connections) < waited:
        raise Mistake(hint, f"{where}: it returned {len(connections)} of them.")
    if any(each.blocking for each in connections):
        raise Mistake("blocking", f"{where}: some of the connections are blocking.")
    if bool(full) != is_full:
        raise Mistake("not-told" if is_full else "false-alarm", f"{where}: `full` is `{short(full)}`.")


def _expect_raised(accept_all: Callable[..., Any], error: OSError) -> None:
    try:
        got = accept_all(Listener([], error))
    except OSError:
        return
    except Mistake:
        got = "nothing, and called `accept` again and again"
    raise Mistake("swallowed", f"`accept` raised `{short(error)}`, and `accept_all` returned `{short(got)}`.")


# --- 07-deadline ----------------------------------------------------------------------------------------------------

STARTED = 1000.0  # s, on the client's clock, when the reading begins
LIMIT = 8000  # bytes
NEVER = math.inf
WORK = 0.001  # s that each `recv` takes besides the waiting


@dataclass
class Client:
    """A socket, and who sends: pieces, each after so many seconds; then silence, or the end of the stream."""

    pieces: list[tuple[float, bytes]]
    closes: bool = False
    now: float = STARTED
    timeout: float | None = None
    taken: int = 0  # bytes
    ends: int = 0

    def clock(self) -> float:
        """The time, in seconds."""
        return self.now

    def settimeout(self, seconds: float | None) -> None:
        """As a socket's: refuses what is below zero."""
        if seconds is not None and seconds < 0:
            raise ValueError("Timeout value out of range")
        self.timeout = seconds

    def recv(self, size: int) -> bytes:
        """As a socket's, on a clock of its own."""
        delay, piece = self.pieces[0] if self.pieces else (0.0 if self.closes else NEVER, b"")
        if self.timeout == 0 and delay > 0:
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        if delay > (NEVER if self.timeout is None else self.timeout):
            self.now += self.timeout or 0.0
            self.pieces[:1] = [(delay - (self.timeout or 0.0), piece)]
            raise TimeoutError("timed out")
        if delay == NEVER:
            raise Mistake("no-timeout", "A client said nothing (more), and `recv` was waiting without a time-out.")
        self.now += delay + WORK
        self.pieces[:1] = [(0.0, piece[size:])] if len(piece) > size else []
        self.taken += len(piece[:size])
        self.ends += not piece
        if self.ends > 100:
            raise Mistake("forever", "The stream had ended, and `recv` was called again and again.")
        return piece[:size]


HEAD = b"POST /orders HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5"
BLANK = b"\r\n\r\n"


@checks("07-deadline")
def reads(read_head: Callable[..., Any], source: Random) -> str:
    """In one piece, in several; a slow client, a silent one, one that leaves, one that never stops."""
    _expect_head(read_head, [(0.1, HEAD + BLANK)], b"")
    _expect_head(read_head, [(0.1, HEAD + BLANK + b"12345")], b"12345")
    cut = source.randrange(10, 40)
    _expect_head(read_head, [(0.1, HEAD[:cut]), (0.1, HEAD[cut:] + BLANK + b"12345")], b"12345")
    _expect_head(read_head, [(0.1, HEAD + BLANK[:2]), (0.1, BLANK[2:] + b"1")], b"1")
    _expect_head(read_head, [(1.0, HEAD), (1.0, b"\r\nAccept: */*"), (1.0, BLANK)], b"", seconds=5.0, hint="early")
    _expect_late(read_head, [])
    _expect_late(read_head, [(4.0, HEAD[:9])])
    whole = HEAD + BLANK
    _expect_late(read_head, [(1.0, whole[at : at + 1]) for at in range(len(whole))])
    _expect_late(read_head, [(2.5, HEAD[:9]), (2.5 - 1.5 * WORK, HEAD[9:20]), (1.0, HEAD[20:])])  # late by a hair
    _expect_end(read_head)
    _expect_limit(read_head)
    return f"{len(whole)} bytes, one a second, and it was over after 5 s."


def _called(read_head: Callable[..., Any], client: Client, seconds: float) -> Any:
    try:
        got = read_head(client, seconds, LIMIT, client.clock)
    except BlockingIOError:
        raise Mistake("over", "`settimeout(0)`, and then `recv` raised `BlockingIOError`.") from None
    except ValueError as error:
        if "out of range" in str(error):
            raise Mistake("over", f"`settimeout` raised `{error}`.") from None
        raise
    if got is ... or (got is None and not client.taken and client.now == STARTED):
        raise Mistake("empty")
    return got


def _expect_head(
    read_head: Callable[..., Any],
    pieces: list[tuple[float, bytes]],
    rest: bytes,
    seconds: float = 5.0,
    hint: str = "other",
) -> None:
    whole = b"".join(piece for _, piece in pieces)
    wanted = whole.partition(BLANK)[0]
    client = Client(list(pieces))
    where = f"In {len(pieces)} piece{'s' * (len(pieces) > 1)}, {len(whole)} bytes in all,"
    try:
        got = _called(read_head, client, seconds)
    except (TimeoutError, ValueError) as error:
        late = client.now - STARTED >= seconds and not client.pieces[1:]
        raise Mistake("no-end" if late else hint, f"{where} it ended in `{short(error)}`.") from None
    except Mistake as mistake:
        if mistake.hint == "no-timeout":
            raise Mistake("no-end", f"{where} a whole head came, and it waited for more.") from None
        raise
    try:
        head, after = got
    except (TypeError, ValueError):
        raise Mistake("pair", f"{where} it returned `{short(got)}`.") from None
    seen = f"{where} it returned the head `{short(head)}` and the rest `{short(after)}`."
    if client.pieces:
        raise Mistake("pieces", seen)
    if head == wanted and after != rest:
        raise Mistake("rest", seen)
    if head != wanted:
        raise Mistake("other", seen)


def _expect_late(read_head: Callable[..., Any], pieces: list[tuple[float, bytes]]) -> None:
    client, seconds = Client(list(pieces)), 5.0
    try:
        got = _called(read_head, client, seconds)
    except TimeoutError:
        outcome = ""
    except (OSError, EOFError, ValueError) as error:
        outcome = f"raised `{short(error)}`"
    else:
        outcome = f"returned `{short(got)}`"
    took = client.now - STARTED
    if took > seconds + 0.1:
        raise Mistake("per-recv", f"A client had {seconds:g} s in all, and was read for {took:.0f} s.")
    if outcome:
        raise Mistake("wrong-error", f"After {seconds:g} s `read_head` {outcome}.")
    if took < seconds - 0.1:
        raise Mistake("early", f"A client had {seconds:g} s, and `TimeoutError` came after {took:.1f} s.")


def _expect_end(read_head: Callable[..., Any]) -> None:
    for pieces in ([(0.1, HEAD)], []):
        client = Client(list(pieces), closes=True)
        try:
            got = _called(read_head, client, 5.0)
        except EOFError:
            continue
        except (OSError, ValueError) as error:
            got = error
        seen = f"After {sum(len(piece) for _, piece in pieces)} bytes the stream ended"
        raise Mistake("end", f"{seen}; `read_head` ended in `{short(got)}`.")


def _expect_limit(read_head: Callable[..., Any]) -> None:
    client = Client([(0.001, b"x" * 500)] * 1000)
    try:
        got = short(_called(read_head, client, 60.0))
    except ValueError:
        got = ""
    except (OSError, EOFError) as error:
        got = short(error)
    if got or client.taken > LIMIT + 5000:
        raise Mistake(
            "limit", f"The limit was {LIMIT} bytes. A header without an end was read for {client.taken} bytes."
        )


# --- 07-frames ------------------------------------------------------------------------------------------------------

LARGEST = 70_000  # bytes, the limit in most of the checks
Frame = tuple[int, bytes]


@checks("07-frames")
def frames(frame_reader: Callable[..., Any], source: Random) -> str:
    """One frame, all lengths, several in one piece, pieces of all sizes, two connections; and what is to be refused."""
    _expect_first(frame_reader, source)
    _expect_frames(frame_reader, [(9, b"")], source, None, "no-payload")
    for size in (125, 126, 300, 65_535, 66_000):
        _expect_frames(frame_reader, [(2, source.randbytes(size))], source, None, "long")
    several = [(1, b"Hello"), (9, b""), (2, source.randbytes(200)), (8, struct.pack("!H", 1000))]
    _expect_frames(frame_reader, several, source, None, "several")
    for size in (1, 3, source.randrange(5, 50)):
        _expect_frames(frame_reader, several, source, size, "pieces")
    _expect_own_state(frame_reader, source)
    _expect_refused(frame_reader, source)
    return f"{len(several)} frames, whole and in pieces down to single bytes; and three that have to be refused."


def _frame(opcode: int, payload: bytes, key: bytes) -> bytes:
    size = len(payload)
    if size <= 125:
        length = struct.pack("!B", 0x80 | size)
    elif size <= 65_535:
        length = struct.pack("!BH", 0x80 | 126, size)
    else:
        length = struct.pack("!BQ", 0x80 | 127, size)
    return bytes([0x80 | opcode]) + length + key + _masked(payload, key)


def _masked(payload: bytes, key: bytes) -> bytes:
    """By whole numbers, which is quick."""
    times = math.ceil(len(payload) / 4)
    mask = (key * times)[: len(payload)]
    return (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(len(payload))


def _made(frame_reader: Callable[..., Any], limit: int = LARGEST) -> Callable[[bytes], Any]:
    feed = frame_reader(limit)
    if feed is None or feed is ...:
        raise Mistake("empty")
    if not callable(feed):
        raise Mistake("feed", f"`frame_reader({limit})` returned `{short(feed)}`.")
    return feed


def _fed(feed: Callable[[bytes], Any], data: bytes) -> list[Any]:
    got = feed(data)
    if not isinstance(got, (list, tuple)):
        raise Mistake("feed", f"`feed` returned `{short(got)}` for {len(data)} bytes.")
    return list(got)


def _expect_first(frame_reader: Callable[..., Any], source: Random) -> None:
    payload, key = b"Hello, world", bytes.fromhex("37fa213d")
    data = _frame(1, payload, key)
    try:
        got = _fed(_made(frame_reader), data)
    except ValueError as error:
        raise Mistake("mask-bit", f"A right frame was refused: `{short(error)}`.") from None
    seen = f"For `{data.hex()}` it returned `{short(got)}`; `[(1, {payload!r})]` would be right."
    if not got:
        raise Mistake("mask-bit", seen)
    if got == [(0x81, payload)]:
        raise Mistake("opcode", seen)
    if got[0][1:] == (_masked(payload, key),):
        raise Mistake("not-unmasked", seen)
    if got != [(1, payload)]:
        raise Mistake("other", seen)


def _pieces(data: bytes, size: int | None) -> Iterator[bytes]:
    size = size or len(data)
    return (data[at : at + size] for at in range(0, len(data), size))


def _expect_frames(
    frame_reader: Callable[..., Any], wanted: list[Frame], source: Random, size: int | None, hint: str
) -> None:
    data = b"".join(_frame(opcode, payload, source.randbytes(4)) for opcode, payload in wanted)
    feed = _made(frame_reader)
    how = f"in pieces of {size}" if size else "in one piece"
    what = f"{len(wanted)} frames" if len(wanted) > 1 else f"A frame with {len(wanted[0][1])} bytes of payload"
    got: list[Any] = []
    try:
        for piece in _pieces(data, size):
            got += _fed(feed, piece)
    except (ValueError, IndexError, struct.error) as error:
        raise Mistake(hint, f"{what}, {how}, ended in `{short(error)}`.") from None
    if got != wanted:
        if len(got) > len(wanted) and [each for each in got if got.count(each) > 1]:
            hint = "again"
        raise Mistake(hint, f"{what}, {how}, came out as `{short(got)}`.")
    if again := _fed(feed, b""):
        raise Mistake("again", f"{what}, {how}, came out, and without new bytes there was `{short(again)}`.")


def _expect_own_state(frame_reader: Callable[..., Any], source: Random) -> None:
    one, other = _made(frame_reader), _made(frame_reader)
    first, second = _frame(1, b"for one", source.randbytes(4)), _frame(1, b"for the other", source.randbytes(4))
    try:
        got = [*_fed(one, first[:5]), *_fed(other, second[:9]), *_fed(one, first[5:]), *_fed(other, second[9:])]
    except (ValueError, IndexError) as error:
        raise Mistake("shared", f"Two connections in turns ended in `{short(error)}`.") from None
    if got != [(1, b"for one"), (1, b"for the other")]:
        raise Mistake("shared", f"Two connections in turns came out as `{short(got)}`.")


def _expect_refused(frame_reader: Callable[..., Any], source: Random) -> None:
    key = source.randbytes(4)
    _expect_value_error(frame_reader, b"\x81\x05Hello", LARGEST, "unmasked", "A frame that isn't masked")
    allowed = _frame(2, bytes(100), key)
    try:
        got = _fed(_made(frame_reader, 100), allowed)
    except ValueError:
        got = []
    if got != [(2, bytes(100))]:
        raise Mistake("too-strict", "A frame with 100 bytes of payload, at a limit of 100, wasn't returned.")
    _expect_value_error(frame_reader, _frame(2, bytes(101), key)[:6], 100, "limit", "A header that announces 101 bytes")
    endless = b"\x82" + struct.pack("!BQ", 0x80 | 127, 1 << 40)
    _expect_value_error(frame_reader, endless + key, LARGEST, "limit", "A header that announces a tebibyte")


def _expect_value_error(frame_reader: Callable[..., Any], data: bytes, limit: int, hint: str, what: str) -> None:
    feed = _made(frame_reader, limit)
    try:
        got = feed(data)
    except ValueError:
        return
    raise Mistake(hint, f"{what}, at a limit of {limit}: no `ValueError`; `feed` returned `{short(got)}`.")
