"""Checks for notebook 05."""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Callable
from itertools import cycle
from random import Random
from statistics import linear_regression, mean, median
from typing import Any

from helpers.study.checks import Mistake, checks, expect_number, short

# --- 05-page --------------------------------------------------------------------------------------------------------


@checks("05-page")
def counts(round_trips: Callable[..., Any], source: Random) -> str:
    """Each protocol: over one connection; over six that can't share evenly, and that can; then with TLS."""
    for tls in (False, True):
        for protocol in ("HTTP/1.0", "HTTP/1.1", "HTTP/2"):
            _expect_round_trips(round_trips, protocol, source.randrange(30, 60), 1, tls)
            _expect_round_trips(round_trips, protocol, 6 * source.randrange(5, 10) + 1, 6, tls)
            _expect_round_trips(round_trips, protocol, 60, 6, tls)
    kept, six = (round_trips("HTTP/1.1", 100, connections, False) for connections in (1, 6))
    return f"One hundred requests with keep-alive: {kept} round trips, over six connections {six}, with HTTP/2 only 2."


def _expect_round_trips(
    round_trips: Callable[..., Any], protocol: str, requests: int, connections: int, tls: bool
) -> None:
    set_up, in_a_row = 1 + tls, math.ceil(requests / connections)
    mistakes = [
        ("set-up", _round_trips(protocol, 0, in_a_row)),
        ("no-tls", _round_trips(protocol, 1, in_a_row)),
        ("tls-once", _round_trips(protocol, 1, in_a_row) + tls),
        ("old-tls", _round_trips(protocol, 1 + 2 * tls, in_a_row)),
        ("one-by-one", _round_trips(protocol, set_up, requests)),
        *(
            ("round-up", _round_trips(protocol, set_up, count))
            for count in (requests // connections, requests / connections, requests // connections + 1)
        ),
    ]
    if protocol == "HTTP/1.0":
        mistakes.append(("closed", _round_trips("HTTP/1.1", set_up, in_a_row)))
    elif protocol == "HTTP/1.1":
        mistakes.append(("added-up", connections * set_up + in_a_row))
        mistakes.append(("kept", _round_trips("HTTP/1.0", set_up, in_a_row)))
    else:
        mistakes = [("multiplexed", set_up + requests), ("multiplexed", set_up + in_a_row), *mistakes]
    call = f'round_trips("{protocol}", {requests}, connections={connections}, tls={tls})'
    wanted = _round_trips(protocol, set_up, in_a_row)
    expect_number(call, round_trips(protocol, requests, connections, tls), wanted, mistakes)


def _round_trips(protocol: str, set_up: int, in_a_row: float) -> float:
    if protocol == "HTTP/1.0":
        return in_a_row * (set_up + 1)
    return set_up + (in_a_row if protocol == "HTTP/1.1" else 1)


# --- 05-farthest ----------------------------------------------------------------------------------------------------

Point = tuple[float, float]


@checks("05-farthest")
def solves(farthest: Callable[..., Any], source: Random) -> None:
    """Noisy points in any order; budgets within what was measured, beyond it, and too small for any distance."""
    for _ in range(5):
        k, remainder = source.uniform(3, 8), source.uniform(8, 20)
        distances = source.sample([1.0, 2.0, 5.0, 8.0, 10.0, 15.0, 20.0], 7)
        points = [(x, round(k * x + remainder + source.uniform(-1, 1), 2)) for x in distances]
        for budget in (round(k * 12 + remainder, 1), round(k * 60 + remainder, 1), round(remainder / 3, 1)):
            _expect_farthest(farthest, points, budget)


def _expect_farthest(farthest: Callable[..., Any], points: list[Point], budget: float) -> None:
    k, remainder = linear_regression(*zip(*points, strict=True))
    wanted = (budget - remainder) / k
    got = farthest(list(points), budget)
    call = f"farthest(points, {budget})"
    if got is ... or (got is None and wanted > 0):
        if budget > max(y for _, y in points):
            raise Mistake("measured", f"`{call}` gave nothing, as that is beyond the distances in `points`.")
        raise Mistake("empty")
    if wanted < 0:
        if got is not None:
            seen = f"`{call}` gave `{short(got)}`, though the line is at {remainder:.3g} ms at distance 0."
            raise Mistake("nowhere", seen)
        return
    expect_number(call, got, wanted, _of_the_fit(points, budget, k, remainder))


def _of_the_fit(points: list[Point], budget: float, k: float, remainder: float) -> list[tuple[str, float]]:
    ratios = [y / x for x, y in points]
    whole = sum(y for _, y in points) / sum(x for x, _ in points)
    least_squares = sum(x * y for x, y in points) / sum(x * x for x, _ in points)
    swapped = linear_regression([y for _, y in points], [x for x, _ in points])
    lines = [(points[0], points[-1]), (min(points), max(points))]
    inside = [x for x, y in points if y <= budget]
    return [
        ("remainder", budget / k),
        *(("origin", budget / ratio) for ratio in (mean(ratios), median(ratios), whole, least_squares, min(ratios))),
        *(("ends", x + (budget - y) * (x1 - x) / (y1 - y)) for (x, y), (x1, y1) in lines),
        ("swapped", swapped.slope * budget + swapped.intercept),
        ("forwards", k * budget + remainder),
        *(("measured", x) for x in inside),
    ]


# --- 05-message -----------------------------------------------------------------------------------------------------

WHOLE = 1 << 20  # bytes a piece may have when nothing is cut
ABSURD = 1 << 24  # bytes no message here comes near: a length read the wrong way round
PATIENCE = 100  # times that the end of the stream may be read


class Stream:
    """A socket's reading end, from which each call gets at most as many bytes as the next of `pieces` says."""

    def __init__(self, data: bytes, pieces: list[int]) -> None:
        self.data = data
        self.pieces = cycle(pieces)
        self.position = 0
        self.largest = 0  # that was asked for
        self.ends = 0

    def recv(self, size: int, flags: int = 0) -> bytes:
        """1 to `size` bytes; all of them with `MSG_WAITALL`; none at the end."""
        self.largest = max(self.largest, size)
        if self.position == len(self.data):
            self.ends += 1
            if self.ends > PATIENCE:
                raise Mistake("forever", "The stream had ended, and your function went on reading.")
        if not flags & getattr(socket, "MSG_WAITALL", 0):
            size = min(size, next(self.pieces))
        part = self.data[self.position : self.position + size]
        self.position += len(part)
        return part


@checks("05-message")
def reads(read_message: Callable[..., Any], source: Random) -> str:
    """Whole messages; the same in pieces; one without a body; the end of the stream, at a message's end and within."""
    messages = _messages(source)
    _expect_first(read_message, messages)
    _expect_all(read_message, messages, [WHOLE], hint="other")
    for pieces in ([1], [3, 1, 4], [source.randrange(1, 9) for _ in range(5)]):
        _expect_all(read_message, messages, pieces)
    _expect_all(read_message, [(b"1", b""), (b"2", b""), (b"Z", b"I")], [WHOLE], hint="nothing")
    _expect_end(read_message, messages)
    cuts = _expect_cut_off(read_message)
    return (
        f"{len(messages)} messages, whole and in pieces down to single bytes; and a stream that ended at {cuts} places."
    )


Message = tuple[bytes, bytes]


def _messages(source: Random) -> list[Message]:
    """As a server sends them before its first query, with one body longer than a length's last byte can say."""
    parameter = b"client_encoding\0UTF8\0"
    return [
        (b"R", bytes(4)),
        (b"S", parameter),
        (b"K", source.randbytes(8)),
        (b"D", source.randbytes(300)),
        (b"Z", b"I"),
    ]


def _bytes(messages: list[Message]) -> bytes:
    return b"".join(kind + struct.pack("!I", len(body) + 4) + body for kind, body in messages)


def _expect_first(read_message: Callable[..., Any], messages: list[Message]) -> None:
    """A message and those behind it, all there at once: the commonest mistakes are about what to take."""
    stream, end = Stream(_bytes(messages), [WHOLE]), len(_bytes(messages[:1]))
    try:
        got = read_message(stream)
    except EOFError:
        got = EOFError
    if got is None or got is ...:
        raise Mistake("empty")
    what = "raised `EOFError`" if got is EOFError else f"gave `{short(got)}`"
    seen = f"The first message was `{messages[0]}`, with others behind it; `read_message` {what} "
    seen += f"and took {stream.position} bytes for its {end}."
    if stream.largest >= ABSURD:
        raise Mistake("byte-order", seen)
    if stream.position - end in (4, -1, 3, 5):  # counted the four, or the one, where they don't belong
        raise Mistake("length", seen)
    if stream.position > end:
        raise Mistake("too-much", seen)
    if got != messages[0]:
        raise Mistake("other", seen)


def _expect_all(
    read_message: Callable[..., Any], messages: list[Message], pieces: list[int], hint: str = "pieces"
) -> None:
    stream = Stream(_bytes(messages), pieces)
    where = "all at once" if pieces == [WHOLE] else f"in pieces of {', '.join(map(str, pieces))}"
    for message in messages:
        try:
            got = read_message(stream)
        except (EOFError, struct.error, IndexError) as error:
            raise Mistake(hint, f"`{short(message)}`, {where}, ended in `{type(error).__name__}: {error}`.") from None
        if got != message:
            raise Mistake(hint, f"`{short(message)}`, {where}, was read as `{short(got)}`.")


def _expect_end(read_message: Callable[..., Any], messages: list[Message]) -> None:
    stream = Stream(_bytes(messages[:1]), [WHOLE])
    read_message(stream)
    try:
        got = read_message(stream)
    except (EOFError, struct.error, IndexError) as error:
        got = error
    if got is not None:
        raise Mistake("end", f"At the end of the stream, after a whole message, there was `{short(got)}`.")


def _expect_cut_off(read_message: Callable[..., Any]) -> int:
    """How many cuts were tried: after every byte of a message but the last."""
    whole = _bytes([(b"D", b"twelve bytes")])
    for size in range(1, len(whole)):
        stream = Stream(whole[:size], [WHOLE])
        try:
            got = short(read_message(stream))
        except EOFError:
            continue
        except (struct.error, IndexError, ValueError) as error:
            got = f"{type(error).__name__}: {error}"
        raise Mistake("cut-off", f"After {size} of a message's {len(whole)} bytes the stream ended: `{got}`.")
    return len(whole) - 1


# --- 05-frame -------------------------------------------------------------------------------------------------------

KEY = bytes.fromhex("37fa213d")  # the example of RFC 6455, section 5.7


@checks("05-frame")
def frames(frame: Callable[..., Any], source: Random) -> str:
    """The RFC's example; a text of no characters and of two-byte ones; long ones; and each side of both boundaries."""
    _expect_frame(frame, "Hello", KEY)
    for text in ("Grüße aus Köln", "", "x" * 200, "y" * source.randrange(300, 1_000), "z" * 70_000):
        _expect_frame(frame, text, source.randbytes(4))
    for size in (125, 126, 127, 65_535, 65_536):
        _expect_frame(frame, "a" * size, source.randbytes(4), hint="boundary")
    return "From 0 to 70,000 bytes, each as short as it can be, and RFC 6455's own example among them."


def _expect_frame(frame: Callable[..., Any], text: str, key: bytes, hint: str = "other") -> None:
    call = f'frame("{text}", {key!r})' if len(text) < 20 else f"frame(a text of {len(text)} letters, {key!r})"
    size, data = len(text.encode()), text.encode()
    try:
        got = frame(text, key)
    except (ValueError, OverflowError, struct.error) as error:
        if size <= 125:
            raise
        raise Mistake("long" if hint == "other" else hint, f"`{call}` raised `{error}`.") from None
    if got is None or got is ...:
        raise Mistake("empty")
    if not isinstance(got, (bytes, bytearray)):
        raise Mistake("other", f"`{call}` returned `{short(got)}`, which isn't bytes.")
    wanted = _frame(data, key)
    if got == wanted:
        return
    mistakes = [
        ("first-byte", got in (wanted[1:], got[:1] + wanted[1:])),
        ("mask-bit", got == _frame(data, key, bit=0)),
        ("no-key", got == _frame(data, key, show_key=False)),
        ("not-masked", got in (_frame(data, bytes(4), shown=key), _frame(data, bytes(4), show_key=False))),
        ("one-byte-key", got in [_frame(data, key[i : i + 1] * 4, shown=key) for i in (0, 3)]),
        ("characters", got in (_frame(data, key, size=len(text)), _frame(data[: len(text)], key))),
        ("byte-order", got == _frame(data, key, order="<")),
        ("long", hint == "other" and size > 125),
    ]
    hint = next((name for name, true in mistakes if true), hint)
    seen = f"`{call}` begins with `{bytes(got[:11]).hex()}`; `{wanted[:11].hex()}` would be right."
    if got[:11] == wanted[:11]:
        seen = f"`{call}` has {len(got)} bytes, which begin well, but don't go on as they should ({len(wanted)} bytes)."
    raise Mistake(hint, seen)


def _frame(
    data: bytes,
    key: bytes,
    *,
    size: int | None = None,
    bit: int = 0x80,
    order: str = ">",
    shown: bytes | None = None,
    show_key: bool = True,
) -> bytes:
    """A right frame, unless told otherwise: a wrong `size`, mask `bit` or byte `order`, or another key `shown`."""
    size = len(data) if size is None else size
    if size <= 125:
        length = bytes([bit | size])
    elif size <= 65_535:
        length = struct.pack(f"{order}BH", bit | 126, size)
    else:
        length = struct.pack(f"{order}BQ", bit | 127, size)
    masked = bytes(byte ^ key[place % 4] for place, byte in enumerate(data))
    return b"\x81" + length + ((shown or key) if show_key else b"") + masked
