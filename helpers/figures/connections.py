"""The figures of notebook 05."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate, groupby
from typing import Any

from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from helpers.claims import Claim, claim
from helpers.experiments.connections import (
    FIRST_CURVE,
    LISTEN,
    P256,
    Anatomy,
    Call,
    DatabaseConnection,
    Handshake,
    HundredRequests,
    Offer,
    Phase,
    Request,
    RoundTrips,
    SetUp,
    TlsCost,
    Waterfall,
    Way,
    WebSocket,
)
from helpers.figures import style
from helpers.figures.style import COLOURS, MARKERS, readable
from helpers.measure import KIB, Estimate
from helpers.testbed import postgres

# What a connection is

STATE_COLOURS = {  # of an end that waits for others, is in use, is closing, or only keeps its place
    "LISTEN": "#dcdce0",
    "ESTABLISHED": "#9dbdfd",
    "CLOSE_WAIT": "#fbc57f",
    "FIN_WAIT2": "#fbc57f",
    "TIME_WAIT": "#f3e2c0",
}
SEGMENTS = {  # what is sent because of a call, by client (1) or server (-1)
    ("connect", "client"): (("SYN", 1), ("SYN, ACK", -1), ("ACK", 1)),
    ("send", "client"): (("data", 1),),
    ("close", "client"): (("FIN", 1),),
    ("close", "server"): (("FIN", -1),),
}
HALF_LANE = 0.16  # of the two bars, which stand at 0 (client) and 1 (server)
LISTENER, HALF_LISTENER = 1.23, 0.05  # the listening socket's bar, beside the server's
FIRST_SENT, SENT_EACH, ON_THE_WAY = 0.15, 0.42, 0.3  # of a rung's height


def ladder(record: Anatomy, *, ax: Axes | None = None) -> Axes:
    """A connection's life from top to bottom: who calls what, for how long, what is sent, and both ends' states."""
    ax = ax or style.canvas(10, 7.4)
    tops = list(accumulate((_rung(each) for each in record.steps), initial=0.0))
    end = tops[-1] + 0.7
    for each, top in zip(record.steps, tops, strict=False):
        _called(ax, each, top)
        _sent(ax, each, top)
    _lane(ax, 0, [each.client for each in record.steps], record.steps, tops, end)
    _lane(ax, 1, [_connection(each.server) for each in record.steps], record.steps, tops, end)
    _listener(ax, record.steps, tops, end)
    host, port, other_host, other_port = record.four_tuple
    for lane, words in ((0, f"client\n{host}:{port}"), (1, f"server\n{other_host}:{other_port}")):
        ax.text(lane, -0.15, words, ha="center", va="bottom", fontweight="bold")
    if record.time_wait_s:
        ax.text(-0.2, end - 0.35, f"for {record.time_wait_s:.0f} s more", ha="right", va="center", fontsize=12)
    ax.set_xlim(-0.62, 1.74)
    ax.set_ylim(end + 0.1, -1.1)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_xlabel("time runs downwards, not to scale; each call with its own duration")
    ax.set_title("The life of a connection")
    states = "; ".join(
        f"after the {each.side}'s {each.call} the client's end is {each.client or 'not there'}, the server's "
        f"{each.server or 'not there'}"
        for each in record.steps
    )
    connect = next(each.took for each in record.steps if each.call == "connect")
    return style.tell(
        ax,
        [record],
        alt=f"Two ends of a connection, their states as the kernel lists them from top to bottom: {states}.",
        caption=f"On one machine, without any distance, the three messages of connecting took {style.stated(connect)}. "
        "LISTEN is another socket, which goes on listening; the kernel has the connection ready before accept() hands "
        "it out. Either side closes its own half; the end that closed first keeps the place for "
        f"{record.time_wait_s:.0f} s more, in case something is still under way. The states are those that the kernel "
        "lists; the messages are not seen but taken from RFC 9293. ACKs of data and of FINs are left out.",
    )


def _connection(state: str) -> str:
    """The state of the server's end of the connection: the socket that listens is another one."""
    return "" if state == LISTEN else state


def _listener(ax: Axes, steps: Sequence[Call], tops: Sequence[float], end: float) -> None:
    """The socket that listens, from the call on and beyond the connection's end."""
    begins = [top + FIRST_SENT for each, top in zip(steps, tops, strict=False) if each.server == LISTEN]
    for begin in begins[:1]:
        ax.bar(LISTENER, end - begin, 2 * HALF_LISTENER, begin, color=STATE_COLOURS[LISTEN], zorder=3)
        ax.text(LISTENER, (begin + end) / 2, LISTEN, rotation=90, ha="center", va="center", fontsize=12, zorder=4)


def _rung(each: Call) -> float:
    """Its height."""
    return max(1.0, 0.35 + SENT_EACH * len(SEGMENTS.get((each.call, each.side), ())))


def _called(ax: Axes, each: Call, top: float) -> None:
    x, ha = (-0.2, "right") if each.side == "client" else (LISTENER + HALF_LISTENER + 0.04, "left")
    ax.text(x, top + 0.2, f"{each.call}()", ha=ha, va="center", fontsize=14, fontweight="bold")
    ax.text(x, top + 0.56, style.readable(each.took.median, "µs"), ha=ha, va="center", fontsize=12, color=style.FAINT)


def _sent(ax: Axes, each: Call, top: float) -> None:
    for place, (words, towards) in enumerate(SEGMENTS.get((each.call, each.side), ())):
        y = top + FIRST_SENT + SENT_EACH * place
        start, stop = (HALF_LANE + 0.01, 1 - HALF_LANE - 0.01)[::towards]
        arrow = {"arrowstyle": "-|>", "color": style.INK, "lw": 1.6, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (stop, y + ON_THE_WAY), xytext=(start, y), arrowprops=arrow)
        ax.text(0.5, y + ON_THE_WAY / 2, words, ha="center", va="center", fontsize=12, bbox=PAPER)


def _lane(ax: Axes, lane: int, states: Sequence[str], steps: Sequence[Call], tops: Sequence[float], end: float) -> None:
    """An end's states as a bar: each begins when the last message of a call arrives, or else when the first leaves."""
    begins = [top + _changed(each, lane) for each, top in zip(steps, tops, strict=False)]
    for state, run in groupby(range(len(states)), key=lambda place: states[place]):
        places = list(run)
        begin = begins[places[0]]
        stop = begins[places[-1] + 1] if places[-1] + 1 < len(begins) else end
        if state:
            colour = STATE_COLOURS.get(state, style.RED)
            ax.bar(lane, stop - begin, 2 * HALF_LANE, begin, color=colour, edgecolor="white", lw=1.5, zorder=3)
            ax.text(lane, (begin + stop) / 2, state, ha="center", va="center", fontsize=12, zorder=4)


def _changed(each: Call, lane: int) -> float:
    """How far down the rung this end is in its new state."""
    sent = SEGMENTS.get((each.call, each.side), ())
    arriving = [place for place, (_, towards) in enumerate(sent) if (towards > 0) == (lane == 1)]
    return FIRST_SENT + (SENT_EACH * arriving[-1] + ON_THE_WAY if arriving else 0)


def connection_memory(
    record: Anatomy, *, guess: float | None = None, ghost: Anatomy | None = None, ax: Axes | None = None
) -> Axes:
    """What one more idle connection takes, in the kernel and in the server's process. `guess`: the kernel's KiB."""
    ax = ax or style.canvas(9.5, 4.6)
    rows = _takers(record)
    for row, (_, figure, colour, marker) in enumerate(rows):
        style.dot(ax, figure.scaled(KIB, "B"), row, colour, marker, _kib(figure))
        style.ghost_dot(ax, _takers(ghost)[row][1].scaled(KIB, "B") if ghost else None, row)
    seen = [each.high for _, each, *_ in rows if each.high > 0] + [guess or 1]
    right = max(1 << 18, 4 * max(seen) * KIB)
    if guess is not None:
        side = "left" if guess * KIB < right / 32 else "right"
        style.guess_mark(ax, guess * KIB, len(rows) - 1.34, side=side)
    ax.set_yticks(range(len(rows)), [name for name, *_ in rows])
    style.size_axis(ax, [1 << power for power in range(6, 40, 3)])
    ax.set_xlim(32, right)
    ax.set_ylim(-0.5, 3.7)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("memory of one more idle connection (log scale)")
    ax.set_title("What an idle connection takes")
    style.ghost_note(ax, ghost.reference if ghost else None)
    return style.tell(
        ax,
        [record],
        alt="Memory of one more idle connection on a log axis: "
        + "; ".join(f"{name} {_kib(figure)}".replace("\n", " ") for name, figure, *_ in _takers(record))
        + ".",
        caption=f"{_kernels_part(record)} The other rows are in the server's process; a thread's stack in the kernel "
        f"comes on top.{_unread(record)}",
    )


def _takers(record: Anatomy) -> list[tuple[str, Estimate, str, str]]:
    """What takes memory for a connection, from the foot of the picture up: name, KiB, colour and mark."""
    return [
        ("a thread\nthat waits for it", record.with_thread, COLOURS["threads"], MARKERS["threads"]),
        ("an asyncio stream\nwith its task", record.as_stream, COLOURS["tasks"], MARKERS["tasks"]),
        ("a socket object", record.as_socket, style.GREY, "o"),
        ("the kernel,\nfor both ends", record.kernel, style.BLUE, "o"),
    ]


def _kib(figure: Estimate) -> str:
    return style.bytes_text(figure.median * KIB) if figure.median > 0 else "nothing that shows"


def _kernels_part(record: Anatomy) -> str:
    if record.kernel.low <= 0:
        return f"What the kernel keeps for {record.counts[-1]} connections is too little to be seen."
    return (
        f"The kernel keeps {style.stated(record.kernel)} for an idle connection, both ends counted; ten thousand of "
        f"them are {style.bytes_text(10_000 * record.kernel.median * KIB)}. A server keeps one end only, about half."
    )


def _unread(record: Anatomy) -> str:
    """What data adds to an idle connection."""
    if record.unread is None or record.unread_at_receiver is None:
        return ""
    return (
        f" Buffers are not in it: the kernel takes memory when data comes, {record.unread.median:.2f} bytes for each "
        f"byte that nobody has read, {record.unread_at_receiver:.0%} of it with the receiver and the rest still with "
        "the sender."
    )


# Distance

FITTED = {  # what stands for the others in a picture of lines
    "HTTP/1.1, second request": (style.BLUE, "o"),
    "PostgreSQL, trust": (style.ORANGE, "s"),
    "PostgreSQL, TLS and SCRAM": (style.PURPLE, "^"),
}


def fits(record: RoundTrips, *, ax: Axes | None = None) -> Axes:
    """Three of the protocols: time over distance, and the line whose slope is the number of round trips."""
    ax = ax or style.canvas(9, 4.2)
    shown = [each for each in record.set_ups if each.name in FITTED]
    right = 1.04 * max(echo for each in shown for echo, _ in each.points)
    for each in shown:
        colour, marker = FITTED[each.name]
        ax.plot([0, right], [each.rest.median, each.rest.median + each.k.median * right], color=colour, zorder=3)
        ax.plot(*zip(*each.points, strict=True), marker, color=colour, zorder=4)
        ax.plot(0, each.rest.median, marker, color=colour, markerfacecolor="white", clip_on=False, zorder=5)
        words = f"{each.name}\n{each.k.median:.2f} round trips"
        style.name_line(ax, right, each.rest.median + each.k.median * right, words, colour)
    most = shown[-1]
    arrow = {"arrowstyle": "-", "color": style.FAINT, "lw": 1, "shrinkB": 6, "relpos": (0.05, 0)}
    top = max(time for _, time in most.points)
    words = f"{readable(most.rest.median, 'ms')} are left at distance 0"
    ax.annotate(words, (0, most.rest.median), xytext=(0.04 * right, 0.8 * top), fontsize=12, arrowprops=arrow)
    ax.set_xlim(0, right)
    ax.set_ylim(min(0, *(each.rest.median for each in shown)), None)
    ax.set_xlabel("measured round trip in ms")
    ax.set_ylabel("ms until the answer")
    ax.set_title("The slope is the number of round trips")
    rests = ", ".join(f"{each.name} {readable(each.rest.median, 'ms')}" for each in shown)
    lines = "; ".join(
        f"{each.name} {each.k.median:.2f} round trips and {readable(each.rest.median, 'ms')}" for each in shown
    )
    return style.tell(
        ax,
        [record],
        alt=f"Time until the first answer against the measured round trip, with a straight line each: {lines}.",
        caption=f"The slope is the number of round trips; what is left at distance 0 is computing: {rests}. Each point "
        "is the quickest of its distance. TCP's own round trip is not in it.",
    )


PAPER: Any = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85}
SYN = "SYN → SYN, ACK"
BEGINNINGS = {  # of what we say in a round trip, and the phase that it belongs to
    "SYN": "tcp", "SSLRequest": "tls", "Client": "tls", "StartupMessage": "authentication", "SASL": "authentication",
    "GET, Upgrade": "session", "GET": "query", "SETTINGS": "query", "Query": "query",
}  # fmt: skip
LINE = 16  # characters that fit into a block


def round_trips(
    record: RoundTrips, *, guess: float | None = None, ghost: RoundTrips | None = None, ax: Axes | None = None
) -> Axes:
    """A row per protocol, a block per round trip that it needs, and the measured ones as a mark under the row.

    `guess` is for the last row, in round trips until its first answer, TCP's own included.
    """
    rows = [([SYN] if each.new else []) + list(each.predicted) for each in record.set_ups]
    heights = [0.44 + 0.17 * max(_block(each).count("\n") + 1 for each in row) for row in rows]
    ax = ax or style.canvas(14, 1.4 + sum(heights))
    y = sum(heights)
    ghosts = {each.name: each for each in ghost.set_ups} if ghost else {}
    middles = []
    for each, row, height in zip(record.set_ups, rows, heights, strict=True):
        y -= height
        for place, message in enumerate(row):
            _draw_block(ax, place, y + 0.3, height - 0.36, message)
        _draw_measured(ax, each, y + 0.17, len(row), y + height / 2 + 0.12)
        if each.name in ghosts:
            ghostly = ghosts[each.name]
            _ring(ax, int(ghostly.new) + ghostly.k.median, y + 0.17)
        middles.append(y + height / 2 + 0.12)
    last = len(rows[-1])
    _guess(ax, guess, last + 1.2)
    ax.set_xlim(0, last + 1.2)
    ax.set_ylim(-0.1 if guess is None else -0.35, sum(heights))
    ax.set_yticks(middles, [each.name.replace(", ", ",\n", 1) for each in record.set_ups])
    ax.set_xticks(range(int(ax.get_xlim()[1]) + 1))
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("round trips since the first packet left")
    ax.set_title("Who waits for whom, until the first answer")
    look: Any = {"loc": "upper right", "fontsize": 12, "frameon": False, "handlelength": 1.6}
    ax.legend(handles=[*_phase_patches(), _measured_mark()], **look)
    style.ghost_note(ax, ghost.reference if ghost else None)
    most = record.set_ups[-1]
    late = " A little more than a whole number: the proxy wakes a little late each time."
    counted = [f"{each.name} {len(row)}, measured {_sum(each)}" for each, row in zip(record.set_ups, rows, strict=True)]
    return style.tell(
        ax,
        [record],
        alt=f"A row of blocks per protocol, one per round trip until the first answer: {'; '.join(counted)}.",
        caption=f"{most.name}: {last} round trips until the first answer, TCP's own (hatched) and {most.k} measured. "
        f"The rows of TLS end where the client may send.{late if most.k.low > len(most.predicted) else ''} What no "
        f"distance changes is computing: {most.rest.median:.1f} ms in the last row.",
    )


def _block(message: str, most: int = LINE) -> str:
    """There and back, an arrow each, broken into lines that fit."""
    return "\n".join(
        f"{arrow} {line}" if first else f"     {line}"
        for arrow, words in zip("→←", message.split(" → "), strict=True)
        for first, line in _lines(words, most)
    )


def _lines(words: str, most: int) -> list[tuple[bool, str]]:
    """Lines of at most so many characters, broken between words and, where one is longer, inside its capitals."""
    lines = [""]
    for word in words.split(" "):
        parts = [word] if len(word) <= most else re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+\W*", word)
        for place, part in enumerate(parts):
            gap = " " if lines[-1] and place == 0 else ""
            if not lines[-1] or len(lines[-1]) + len(gap) + len(part) <= most:
                lines[-1] += gap + part
            else:
                lines.append(part)
    return [(place == 0, line) for place, line in enumerate(lines)]


def _draw_block(ax: Axes, x: float, y: float, height: float, message: str, most: int = LINE) -> None:
    phase = next(phase for beginning, phase in BEGINNINGS.items() if message.startswith(beginning))
    ax.add_patch(Rectangle((x + 0.015, y), 0.97, height, linewidth=1.4, zorder=2, **_look(phase)))
    text: Any = {"va": "center", "fontsize": 10, "linespacing": 1.05, "bbox": PAPER if phase == "tcp" else None}
    ax.annotate(_block(message, most), (x + 0.05, y + height / 2), zorder=3, **text)


def _look(phase: str) -> dict[str, Any]:
    """TCP's own round trip is hatched: it is not measured."""
    colour = style.PHASES[phase]
    if phase == "tcp":
        return {"edgecolor": colour, "facecolor": "white", "hatch": "///"}
    return {"edgecolor": colour, "facecolor": (*to_rgb(colour), 0.32)}


def _phase_patches() -> list[Patch]:
    words = {"tcp": "TCP: from RFC 9293, not measured", "tls": "TLS", "query": "the first answer"}
    phases = ("tcp", "tls", "authentication", "session", "query")
    return [Patch(label=words.get(phase, phase), **_look(phase)) for phase in phases]


def _measured_mark() -> Line2D:
    return Line2D([], [], color=style.INK, marker="o", markersize=7, lw=3, label="measured, behind TCP's own")


def _draw_measured(ax: Axes, each: SetUp, y: float, end: int, middle: float) -> None:
    """The mark under the blocks, and what it adds up to behind them."""
    before = int(each.new)
    k = each.k
    ax.errorbar(
        before + k.median, y, xerr=[[k.median - k.low], [k.high - k.median]], fmt="o", color=style.INK, markersize=7,
        elinewidth=3, zorder=5,
    )  # fmt: skip
    ax.plot([before, before + k.median], [y, y], color=style.INK, lw=1.2, zorder=4)
    ax.annotate(_sum(each), (end + 0.08, middle), va="center", fontsize=12, fontweight="bold")


def _guess(ax: Axes, guess: float | None, edge: float) -> None:
    """The learner's guess; one beyond the picture stands at its edge and says what it is."""
    if guess is not None and guess > edge - 0.1:
        style.guess_mark(ax, edge - 0.1, -0.12, label=f"your guess: {guess:g} →", side="right")
    else:
        style.guess_mark(ax, guess, -0.12)


def _ring(ax: Axes, x: float, y: float) -> None:
    """The reference run's figure, where a bar would hide the usual mark."""
    ax.plot(x, y, "o", markerfacecolor="none", markeredgecolor=style.GHOST, markersize=14, markeredgewidth=2.2,
            zorder=6)  # fmt: skip


def _sum(each: SetUp) -> str:
    """Measured round trips behind TCP's own."""
    return f"{'1 + ' if each.new else ''}{abs(each.k.median) if abs(each.k.median) < 0.005 else each.k.median:.2f}"


# TLS

WIDE = 29  # characters that fit into a block here


def tls_cost(record: TlsCost, *, ghost: TlsCost | None = None) -> list[Axes]:
    """A row per kind of handshake: the round trips that it took, and the CPU time of both sides."""
    offers = [(f"{_short(record.server)},\n{_begun(each)}", each.round_trips) for each in record.offers]
    rows = [(each.name.replace(", ", ",\n"), each.round_trips) for each in record.handshakes] + offers
    heights = [0.34 + 0.17 * max(_block(each, WIDE).count("\n") + 1 for each in trips) for _, trips in rows]
    axes: list[Axes] = list(style.canvas(14, 1.6 + sum(heights), columns=2))
    trips, cpu = axes
    middles = [sum(heights[place + 1 :]) + heights[place] / 2 for place in range(len(rows))]
    for (_, messages), y, height in zip(rows, middles, heights, strict=True):
        for place, message in enumerate(messages):
            _draw_block(trips, place, y - height / 2 + 0.1, height - 0.2, message, WIDE)
    for each, y in zip(record.handshakes, middles, strict=False):
        _draw_cpu(cpu, each, y, is_first=y == middles[0])
    for each in ghost.handshakes if ghost else ():
        named = [y for one, y in zip(record.handshakes, middles, strict=False) if one.name == each.name]
        for y in named:
            _ring(cpu, each.both.median, y)
    for y in middles[len(record.handshakes) :]:
        cpu.annotate("round trips only", (0, y), xytext=(8, 0), textcoords="offset points", va="center", fontsize=11,
                     color=style.FAINT)  # fmt: skip
    for ax in axes:
        ax.set_ylim(0, sum(heights))
        ax.set_yticks(middles, [name for name, _ in rows] if ax is trips else [""] * len(rows))
        ax.tick_params(axis="y", length=0)
        ax.grid(axis="y", visible=False)
    trips.set_xlim(0, 2.05)
    trips.set_xticks([0, 1, 2])
    trips.set_xlabel("round trips until the client may send")
    trips.set_title("On the wire")
    cpu.set_xlim(0, 1.3 * max(each.both.high for each in record.handshakes))
    cpu.set_xlabel("CPU time of both sides in µs")
    cpu.set_title("In the processors")
    style.ghost_note(cpu, ghost.reference if ghost else None)
    full, again, older = (_named(record, name) for name in ("TLS 1.3", "TLS 1.3, resumed", "TLS 1.2, resumed"))
    style.tell(
        trips,
        [record],
        alt="A row per TLS handshake, its messages and its CPU time: "
        + "; ".join(_shaken(each) for each in record.handshakes)
        + f". {_answered(record)}",
        caption=f"A full TLS 1.3 handshake takes {_count(full.round_trips)} and {readable(full.both.median, 'µs')} of "
        f"CPU time, {readable(full.client.median, 'µs')} of it the client's. Resumed it takes "
        f"{again.both.median / full.both.median:.0%} of that time and {_count(again.round_trips)}; TLS 1.2 resumes in "
        f"{readable(older.both.median, 'µs')}, for it then uses the old secret again, where 1.3 agrees on a new one. "
        f"{_answered(record)} By {record.library}.",
    )
    return axes


def _draw_cpu(ax: Axes, each: Handshake, y: float, *, is_first: bool) -> None:
    client, server = each.client.median, each.server.median
    ax.barh(y, client, 0.34, color=style.BLUE, zorder=3)
    ax.barh(y, server, 0.34, left=client, color=style.ORANGE, zorder=3)
    ends = [[each.both.median - each.both.low], [each.both.high - each.both.median]]
    ax.errorbar(each.both.median, y, xerr=ends, fmt="none", ecolor=style.INK, elinewidth=2.5, zorder=4)
    text: Any = {"textcoords": "offset points", "va": "center", "fontsize": 12}
    ax.annotate(readable(each.both.median, "µs"), (each.both.high, y), xytext=(10, 0), **text)
    if is_first:
        for x, words, colour in ((client / 2, "client", style.BLUE), (client + server / 2, "server", style.ORANGE)):
            at: Any = {"xytext": (0, 20), "ha": "center", "color": colour, "fontweight": "bold"}
            ax.annotate(words, (x, y), **text | at)


def _named(record: TlsCost, name: str) -> Handshake:
    return next(each for each in record.handshakes if each.name == name)


def _short(server: str | None) -> str:
    """ "PostgreSQL 15": its version without where it is from."""
    return re.sub(r"(\d+).*", r"\1", server or "")


def _begun(offer: Offer) -> str:
    """What its client sent a key share for: OpenSSL's own choice differs by version (from 3.5 on it sends two)."""
    return {FIRST_CURVE: "OpenSSL's first guess", P256: "P-256 first"}.get(offer.curve, f"{offer.curve} first")


def _count(round_trips: Sequence[str]) -> str:
    return f"{len(round_trips)} round trip{'s' if len(round_trips) > 1 else ''}"


def _shaken(each: Handshake) -> str:
    return f"{each.name} {_count(each.round_trips)}, {readable(each.both.median, 'µs')}"


def _answered(record: TlsCost) -> str:
    """What the key share costs that the server does not want."""
    missed = _named(record, "TLS 1.3, another curve")
    words = f"Against a server that wants another curve it takes {_count(missed.round_trips)}"
    if not record.offers:
        return f"{words}."
    seen = " and ".join(f"{_count(each.round_trips)} ({_begun(each)})" for each in record.offers)
    return f"{words}; with {_short(record.server)} it takes {seen}."


# One hundred requests

BANDS = {  # protocol, and what it does with connections
    "HTTP/1.0": "HTTP/1.0\na connection each",
    "HTTP/1.1 keep-alive": "HTTP/1.1\none connection,\none at a time",
    "HTTP/1.1, six connections": "HTTP/1.1\nsix connections",
    "HTTP/2": "HTTP/2\none connection,\nall at once",
}
STEP = 1.3  # from one waterfall, which is 1 high, to the next
SMALL = 0.06  # a waterfall that takes less of the axis is enlarged beside it
SEEN = 0.01  # of the axis: what is narrower can't be seen
WAITING = "#fbe3e5"  # the red of waiting, pale


def hundred_requests(
    record: HundredRequests,
    *,
    guess: float | None = None,
    ghost: HundredRequests | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Four waterfalls over one time axis: a line per request, from being asked to being answered.

    `guess` is how many times as long HTTP/1.0 takes as HTTP/2. As the question is about reality, its mark stands where
    HTTP/2 would end if that were so with TCP's SYNs in both: right is who guessed `gain_with_syn`.
    """
    ax = ax or style.canvas(10.5, 8.4)
    feet = [STEP * place for place in reversed(range(len(record.waterfalls)))]
    ends = [max(each.total.median, each.requests[-1].answered) for each in record.waterfalls]
    syns = [each.unmeasured * record.measured_round_trip.median for each in record.waterfalls]
    right = max(1.55 * max(ends), 1.02 * max(map(sum, zip(ends, syns, strict=True))))
    for waterfall, foot, end, syn in zip(record.waterfalls, feet, ends, syns, strict=True):
        _fall(ax, waterfall.requests, foot)
        if syn > SEEN * right:
            _syns(ax, waterfall.unmeasured, foot, end, syn)
        place: Any = {"textcoords": "offset points", "va": "center", "bbox": PAPER, "zorder": 5}
        words = _took(waterfall, syn if waterfall.unmeasured > 1 else 0)
        ax.annotate(words, (end, foot + 0.62), xytext=(8, 0), fontweight="bold", **place)
    ax.text(0.012 * right, feet[0] + 0.1, "waiting for their turn", fontsize=11, va="center", color=style.RED)
    for waterfall, foot in zip(ghost.waterfalls if ghost else (), feet, strict=False):
        ends_at = min(waterfall.total.median, right)
        ax.plot([ends_at, ends_at], [foot, foot + 1], color=style.GHOST, lw=5, alpha=0.7, zorder=2)
    style.ghost_note(ax, ghost.reference if ghost else None, "line")
    if guess:
        x = min((record.waterfalls[0].total.median + syns[0]) / guess, 0.97 * right)
        style.guess_mark(ax, x, feet[-1] + 1.13, side="left" if x < 0.5 * right else "right")
    if ends[-1] < SMALL * right:
        _enlarged(ax, record.waterfalls[-1], feet[-1], right)
    ax.set_xlim(-0.01 * right, right)
    ax.set_ylim(-0.1, feet[0] + 1.1)
    ax.set_yticks([foot + 0.5 for foot in feet], [BANDS[each.protocol] for each in record.waterfalls])
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.xaxis.set_major_formatter(FuncFormatter(_tick))
    ax.set_xlabel("time since the first could be asked; a line per request")
    count = len(record.waterfalls[0].requests)
    where = f"{record.round_trip_ms} ms away" if record.round_trip_ms else "without any distance"
    ax.set_title(f"{'One hundred' if count == 100 else count} small requests, {where}")
    words = ", ".join(f"{each.protocol} {_took(each)}" for each in record.waterfalls)
    return style.tell(
        ax,
        [record],
        alt=f"Four waterfalls of {count} requests over one time axis. {words}.",
        caption=f"HTTP/1.0 took {style.stated(record.gain)} as long as HTTP/2.{_computing(record)}"
        + _syns_in_words(record),
    )


def _took(waterfall: Waterfall, syn: float = 0) -> str:
    """Its time, with what its SYNs would add, in ms; or else its round trips."""
    words = style.readable(waterfall.total.median, "ms")
    if syn:
        return f"{words} ({style.readable(waterfall.total.median + syn, 'ms')} with the SYNs)"
    return f"{words} · {waterfall.round_trips.median:.3g} round trips" if waterfall.round_trips else words


def _fall(ax: Axes, requests: Sequence[Request], foot: float) -> None:
    """A line per request: waiting, connecting, asked until answered."""
    height = 1 / len(requests)
    rows = [foot + 1 - (place + 0.5) * height for place in range(len(requests))]
    begins, connected, answered = zip(*((each.begin, each.connected, each.answered) for each in requests), strict=True)
    edges = [foot + place * height for place in range(len(requests) + 1)]
    ax.stairs(begins[::-1], edges, orientation="horizontal", fill=True, color=WAITING, zorder=2.5)
    for start, end, phase in ((begins, connected, "tcp"), (connected, answered, "query")):
        widths = [stop - since for since, stop in zip(start, end, strict=True)]
        ax.barh(rows, widths, 1.02 * height, left=start, color=style.PHASES[phase], lw=0, zorder=3)


def _syns(ax: Axes, count: int, foot: float, end: float, adds: float) -> None:
    """What so many SYNs would add, in ms: hatched, and named where there is room."""
    ax.barh(
        foot + 0.16, adds, 0.32, left=end, facecolor="white", edgecolor=style.PHASES["tcp"], hatch="///", lw=0, zorder=2
    )
    if count > 1:
        words = f"+ {count} round trips of TCP's SYN: not measured"
        ax.text(end + adds / 2, foot + 0.16, words, ha="center", va="center", fontsize=11, bbox=PAPER, zorder=4)


def _computing(record: HundredRequests) -> str:
    """What of the last one is not distance."""
    last = record.waterfalls[-1]
    rest = last.total.median - last.ideal * record.measured_round_trip.median
    if rest <= 0:
        return ""
    words = f" {last.protocol} waits for {last.ideal} round trip; the other {style.readable(rest, 'ms')}"
    return f"{words} are computing, on both sides in Python."


def _syns_in_words(record: HundredRequests) -> str:
    if not record.round_trip_ms:
        return ""
    return (
        " Hatched is what this network cannot show: it answers a SYN at once, where a real one takes a round trip for "
        f"every new connection. With them it would be {style.readable(record.gain_with_syn, 'x')}."
    )


def _enlarged(ax: Axes, waterfall: Waterfall, foot: float, right: float) -> None:
    """A small waterfall once more, as wide as there is room, and what its blue is."""
    inset = ax.inset_axes((0.5 * right, foot + 0.27, 0.48 * right, 0.73), transform=ax.transData, zorder=6)
    _fall(inset, waterfall.requests, 0)
    end = 1.26 * max(each.answered for each in waterfall.requests)
    inset.set_xlim(0, end)
    inset.set_xticks([tick for tick in MaxNLocator(4).tick_values(0, end) if tick <= end])
    inset.set_ylim(0, 1)
    inset.set_yticks([])
    inset.grid(visible=False)
    inset.xaxis.set_major_formatter(FuncFormatter(_tick))
    inset.tick_params(labelsize=11)
    inset.text(0.99, 0.97, "enlarged", transform=inset.transAxes, ha="right", va="top", fontsize=11, color=style.FAINT)
    middle = waterfall.requests[len(waterfall.requests) // 2]
    x = (middle.connected + middle.answered) / 2
    inset.text(x, 0.5, "waiting for the answer", ha="center", va="center", fontsize=11, zorder=4)


def _tick(value: float, _: int) -> str:
    return style.readable(value, "ms") if value else "0"


# A database connection

PHASE_CLAIMS = {"tcp": "tcp-connect", "tls": "tls", "authentication": "db-auth", "session": "db-session"}
PHASE_NAMES = {"tcp": "TCP", "tls": "TLS", "query": "first query"}


def database_connection(
    record: DatabaseConnection,
    *,
    guess: float | None = None,
    ghost: DatabaseConnection | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The phases as a waterfall, what the article says of each as a grey band from where it began; `guess` in ms."""
    rows = len(record.phases) + 1
    ax = ax or style.canvas(11, 1.6 + 0.72 * rows)
    begin, shown = 0.0, []
    for y, phase in zip(range(rows)[::-1], record.phases, strict=False):
        if phase.name in PHASE_CLAIMS:
            shown.append(_said(ax, claim(PHASE_CLAIMS[phase.name]), begin, y))
        if phase.name == "tcp":
            ax.barh(y + 0.1, record.echo.median, 0.44, left=begin, linewidth=1.4, zorder=3, **_look("tcp"))
            begin += record.echo.median
        ax.barh(y + 0.1, phase.time.median, 0.44, left=begin, color=style.PHASES[phase.name], zorder=3)
        begin += phase.time.median
        _tell_phase(ax, record, phase, begin, y)
    said = claim("db-connect-total")
    shown.append(_said(ax, said, 0, 0))
    style.dot(ax, record.in_all, -0.02, style.INK)
    style.ghost_dot(ax, ghost.in_all if ghost else None, -0.02)
    style.ghost_note(ax, ghost.reference if ghost else None)
    style.guess_mark(ax, guess, -0.7)
    far = f"{record.round_trip_ms:g} ms away" if record.round_trip_ms else "with no distance added"
    names = [PHASE_NAMES.get(phase.name, phase.name) for phase in record.phases]
    ax.set_yticks(range(rows)[::-1], [*names, "until it can be used"])
    ax.set_ylim(-0.55 if guess is None else -0.95, rows - 0.4)
    ax.set_xlim(0, max(1.3 * begin, 1.16 * max(guess or 0, *shown)))
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("ms since the first packet left")
    ax.set_title(f"A new database connection, {far}")
    taken = [f"{name} {readable(phase.time.median, 'ms')}" for name, phase in zip(names, record.phases, strict=True)]
    return style.tell(
        ax,
        [record],
        alt=f"A waterfall of the phases of a new connection to PostgreSQL, {far}: {', '.join(taken)}; "
        f"{style.stated(record.in_all)} until it can be used. The article says {said.said}. Without the SYN's round "
        f"trip this client took {record.against_psycopg.median:.2f} times as long as psycopg.",
        caption=f"{record.server}{_in_front(record)}: {style.stated(record.in_all)} until the connection can be used. "
        f"Of these the hatched {readable(record.echo.median, 'ms')} are the SYN's round trip, added because a proxy "
        f"can't delay it; {record.k} were measured, and with no distance added "
        f"{readable(record.computing.median, 'ms')} of computing.{_asked_again(record)} The article's {said.said} are "
        f"right {_true(record, said)}. Starting the session takes no round trip: in its "
        f"{readable(_time(record, 'session'), 'ms')} the server fills its caches from the catalogue.",
    )


def _in_front(record: DatabaseConnection) -> str:
    """The wheel's PostgreSQL is built without TLS."""
    wheel = record.server.endswith(postgres.WHEEL)
    return " (its TLS is a terminator's, which stands in front of it)" if record.tls and wheel else ""


def _asked_again(record: DatabaseConnection) -> str:
    if any("HelloRetryRequest" in message for phase in record.phases for message in phase.round_trips):
        return " TLS took a second round trip here: this server wants another curve (section 3)."
    return ""


def _said(ax: Axes, said: Claim, begin: float, y: float) -> float:
    """The article's range for a phase, from where the phase began; its end on the axis."""
    low, high = begin + (said.low or 0), begin + (said.high or 0)
    ax.barh(y, high - low, 0.9, left=low, color=style.CLAIM, zorder=0)
    ax.annotate(f"article: {said.said}", (low, y - 0.31), xytext=(4, 0), textcoords="offset points", va="center",
                fontsize=10, color=style.FAINT)  # fmt: skip
    return high


def _tell_phase(ax: Axes, record: DatabaseConnection, phase: Phase, end: float, y: float) -> None:
    """Its time and round trips, behind its bar."""
    trips = _count(phase.round_trips) if phase.round_trips else "no round trip"
    words = f"{readable(phase.time.median, 'ms')}, {trips}"
    if phase.name == "tcp":
        words = f"{readable(record.echo.median, 'ms')} by RFC 9293 + {readable(phase.time.median, 'ms')} measured"
    ax.annotate(words, (end, y + 0.1), xytext=(6, 0), textcoords="offset points", va="center", fontsize=11.5, zorder=7)


def _time(record: DatabaseConnection, phase: str) -> float:
    return next(each.time.median for each in record.phases if each.name == phase)


def _true(record: DatabaseConnection, said: Claim) -> str:
    """At which distances the article's range is right."""
    near, far = (record.distance_for(total) for total in (said.low or 0, said.high or 0))
    return f"from {max(near, 0):.1f} to {far:.1f} ms away" if far > 0 else "at no distance, for computing takes longer"


# WebSocket

WAYS = {"polling": (style.GREY, "o"), "long polling": (style.ORANGE, "s"), "WebSocket": (style.BLUE, "^")}


def websocket(
    record: WebSocket, *, guess: float | None = None, ghost: WebSocket | None = None, ax: Axes | None = None
) -> Axes:
    """A row per way: how late each message was, and the typical one; requests and bytes beside. `guess` in ms.

    The guess is for polling once a second; the picture shows it when that is what was measured.
    """
    ax = ax or style.canvas(10.5, 5.2)
    rows = range(len(record.ways))[::-1]
    seen = [delay for way in record.ways for delay in way.delay.samples]
    left, right = min(seen) / 2, max(seen) * 2
    if guess and record.poll_ms == ONCE_A_SECOND:
        left, right = min(left, guess / 2), max(right, guess * 2)
        style.guess_mark(ax, guess, rows[0] - 0.3, side="left" if guess < (left * right) ** 0.5 else "right")
    for row, way in zip(rows, record.ways, strict=True):
        colour, marker = WAYS[way.name]
        spread = [row + 0.2 * (place * GOLDEN % 1 - 0.5) for place in range(len(way.delay.samples))]
        ax.plot(way.delay.samples, spread, "o", color=colour, alpha=0.45, markersize=6, mew=0, zorder=3)
        style.dot(ax, way.delay, row, colour, marker, " ")
        ax.annotate(
            style.readable(way.delay.median, "ms"), (way.delay.median, row + 0.15), xytext=(0, 4),
            textcoords="offset points", ha="center", va="bottom", fontsize=13, fontweight="bold", bbox=PAPER, zorder=7,
        )  # fmt: skip
        place: Any = {"xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False, "fontsize": 12}
        ax.annotate(_paid(record, way), (1.02, row), **place)
    for row, way in zip(rows, ghost.ways if ghost else (), strict=False):
        style.ghost_dot(ax, way.delay, row)
    style.ghost_note(ax, ghost.reference if ghost else None)
    ax.set_xscale("log")
    style.time_axis(ax.xaxis, "ms")
    ax.set_xlim(left, right)
    ax.set_ylim(-0.5, len(rows) - 0.4)
    names = {"polling": f"polling every\n{style.readable(record.poll_ms, 'ms')}"}
    ax.set_yticks(list(rows), [names.get(way.name, way.name) for way in record.ways])
    ax.grid(axis="y", visible=False)
    count = len(record.ways[0].delay.samples)
    ax.set_xlabel(f"from being published to being there (log scale); {count} messages, a dot each")
    where = f"{record.round_trip_ms} ms away" if record.round_trip_ms else "without any distance"
    ax.set_title(f"The same messages, three ways, {where}")
    words = "; ".join(
        f"{way.name} {style.stated(way.delay)}, {_paid(record, way)}".replace("\n", " ") for way in record.ways
    )
    if record.round_trip_ms:
        style.mark_x(ax, record.measured_round_trip.median / 2, "one way")
    return style.tell(
        ax,
        [record],
        alt=f"Delays of the same messages by polling, long polling and WebSocket on a log axis: {words}.",
        caption=f"{_silence(record)} Of the WebSocket's {_beyond(record, record.ways[-1]):.0f} bytes {FRAME_HEAD} are "
        f"a frame's header, the others the message's share of the upgrade, which took {record.upgrade_bytes} bytes and "
        f"{record.upgrade_round_trips.median:.2f} round trips. A text from client to server and back took "
        f"{style.readable(record.measured_round_trip.median, 'ms')}. By long polling a message is late when it comes "
        "while the client is asking anew.",
    )


ONCE_A_SECOND = 1000.0  # ms
GOLDEN = 0.6180339887498949


FRAME_HEAD = 2  # bytes before a message of up to 125, from a server (RFC 6455, section 5.2)


def _paid(record: WebSocket, way: Way) -> str:
    """What a message cost."""
    asked = f"{way.requests} request{'s' if way.requests > 1 else ''}"
    return f"{asked},\n{_beyond(record, way):.0f} bytes more\nthan the message"


def _beyond(record: WebSocket, way: Way) -> float:
    """Bytes for each message beside its own. These are what came by WebSocket, less upgrade and frames' headers."""
    pushed = record.ways[-1]
    own = pushed.sent + pushed.received - record.upgrade_bytes / len(pushed.delay.samples) - FRAME_HEAD
    return way.sent + way.received - own


def _silence(record: WebSocket) -> str:
    """What polling costs when nobody says anything."""
    polls = 60_000 / record.poll_ms
    return (
        f"When there is nothing to say, this polling still makes {polls:.0f} requests a minute, "
        f"{style.bytes_text(polls * record.empty_poll)}."
    )
