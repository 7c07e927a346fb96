"""The figures of notebook 07."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from helpers.claims import claim
from helpers.experiments.server_models import (
    PROCESSES,
    Client,
    Crowded,
    HeldOpen,
    HundredThousand,
    MixedWork,
    Ordinary,
    Point,
    Queueing,
    SlowClients,
    Sweep,
    TenThousand,
    pings_per_s,
)
from helpers.figures import style
from helpers.figures.style import readable
from helpers.measure import Estimate
from helpers.tables import html_table, text_table
from helpers.testbed.web_socket_servers import OURS

# One sweep, and ten thousand

PANELS = (  # what of a point, as an axis and as a title
    ("throughput", "requests/s", "Answers"),
    ("p99", "p99 in ms", "What 1 % wait longer than"),
    ("uss", "MB of its own", "Memory of the server"),
    ("switches", "switches/s", "Context switches"),
)
SHORT = {
    "thread per connection": "threads", "thread pool": "pool", "event loop": "loop", "hybrid": "hybrid",
    "pre-fork": "pre-fork",
}  # fmt: skip
APART = 0.075  # of a panel's height: names that are closer are moved apart
SOME = 1.0  # % of the clients
PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}


def sweep(records: Sweep | Sequence[Sweep], *, ghost: Sweep | Sequence[Sweep] | None = None) -> list[Axes]:
    """Four panels over connections, a line per model; of several records the later ones stand for what both have.

    Of a ghost only the models that are drawn.
    """
    records = [records] if isinstance(records, Sweep) else list(records)
    ghosts = [ghost] if isinstance(ghost, Sweep) else list(ghost or ())
    lines = _lines(records)
    pale = {model: points for model, points in _lines(ghosts).items() if model in lines}
    axes = list(Figure(figsize=(13, 9)).subplots(2, 2).flat)
    sizes = sorted({point.connections for points in lines.values() for point in points})
    for ax, (name, unit, title) in zip(axes, PANELS, strict=True):
        ax.set_xscale("log")
        ax.set_yscale("log")
        for points in pale.values():
            shown = [(each.connections, value) for each in points if (value := _value(each, name))]
            ax.plot(*zip(*shown, strict=True) if shown else ((), ()), color=style.GHOST, lw=4, alpha=0.45, zorder=1)
        for model, points in lines.items():
            _line(ax, model, points, name)
        ax.set_xlim(sizes[0] / 1.4, sizes[-1] * max(4.0, (sizes[-1] / sizes[0]) ** 0.45))
        ticks = [size for size in sizes if str(size).strip("0") == "1"]
        style.count_axis(ax.xaxis, ticks or sizes[:1])
        _decades(ax)
        _names(ax, lines, name)
        ax.set_title(title)
        ax.set_ylabel(f"{unit} (log scale)")
        ax.set_xlabel("connections (log scale)")
    style.ghost_note(axes[-1], next((each.reference for each in ghosts if pale), None), mark="lines")
    words = " ".join(_model_in_words(model, points) for model, points in lines.items())
    unserved = any(point.unserved > SOME for points in lines.values() for point in points)
    style.tell(
        axes[0],
        records,
        alt=f"Four panels over the number of connections, with a line per server model. {words}",
        caption=f"Each client asks again as soon as it is answered; a request waits {records[0].wait_ms:g} ms in the "
        f"server. The pool has {records[0].pool_threads} threads, pre-fork {records[0].processes} processes. "
        + ("Hollow: more than 1 % of the clients were never answered. " if unserved else "")
        + _limit_in_words(records),
    )
    return axes


def _lines(records: Sequence[Sweep]) -> dict[str, list[Point]]:
    """The points of each model that has any, by connections."""
    points = {(point.model, point.connections): point for record in records for point in record.points}
    models = [model for model in style.MODELS if any(model == each for each, _ in points)]
    return {model: [points[key] for key in sorted(points) if key[0] == model] for model in models}


def _value(point: Point, name: str) -> float | None:
    """What a panel shows of a point; None where there is nothing, or no place on a log axis."""
    found = getattr(point, name)
    value = found.median if isinstance(found, Estimate) else found
    return None if not value else value / 1e6 if name == "uss" else value


def _line(ax: Axes, model: str, points: Sequence[Point], name: str) -> None:
    colour, marker = style.MODELS[model]
    shown = [(each, value) for each in points if (value := _value(each, name))]
    ax.plot([each.connections for each, _ in shown], [value for _, value in shown], color=colour, zorder=3)
    for each, value in shown:
        figure = getattr(each, name)
        if isinstance(figure, Estimate) and figure.low > 0:
            ax.plot([each.connections] * 2, [figure.low, figure.high], color=colour, lw=5, alpha=0.3, zorder=2)
        face = "white" if each.unserved > SOME else colour
        ax.plot(each.connections, value, marker, color=colour, markerfacecolor=face, markeredgewidth=1.8, zorder=4)


def _decades(ax: Axes) -> None:
    """A vertical axis of at least a decade, with plain numbers."""
    low, high = ax.get_ylim()
    if high < 10 * low:
        middle = (low * high) ** 0.5
        low, high = middle / 4, middle * 4
    ax.set_ylim(low / 1.3, high * 1.3)
    steps = (1, 3) if high < 100 * low else (1,)
    ticks = [step * 10.0**power for power in range(-3, 10) for step in steps]
    style.count_axis(ax.yaxis, [tick for tick in ticks if low / 1.3 <= tick <= high * 1.3])


def _names(ax: Axes, lines: Mapping[str, Sequence[Point]], name: str) -> None:
    """The models at the ends of their lines, moved apart where these meet."""
    low, high = (math.log10(end) for end in ax.get_ylim())
    ends = {}
    for model, points in lines.items():
        shown = [(each.connections, value) for each in points if (value := _value(each, name))]
        if shown:
            x, y = shown[-1]
            ends[model] = (x, (math.log10(y) - low) / (high - low))
    room = list(_apart([(height, model) for model, (_, height) in ends.items()]))
    rightmost = max((x for x, _ in ends.values()), default=1)
    for height, model in room:
        x = ends[model][0]
        if x < rightmost:  # it ends earlier: its name stands there, above the lines that go on
            height = ends[model][1] + APART
        y = 10 ** (low + height * (high - low))
        style.name_line(ax, x, y, SHORT[model], style.MODELS[model][0], dx=10, bbox=PAPER)


def _apart(heights: Sequence[tuple[float, str]]) -> list[tuple[float, str]]:
    """Heights as shares of a panel, ascending, moved as little as makes them `APART`."""
    groups: list[list[tuple[float, str]]] = []
    for each in sorted(heights):
        groups.append([each])
        while len(groups) > 1 and _spread(groups[-2])[-1] + APART > _spread(groups[-1])[0]:
            last = groups.pop()
            groups[-1] += last
    return [(height, model) for group in groups for height, (_, model) in zip(_spread(group), group, strict=True)]


def _spread(group: Sequence[tuple[float, str]]) -> list[float]:
    """Evenly around the middle of a group."""
    middle = sum(height for height, _ in group) / len(group)
    return [middle + (place - (len(group) - 1) / 2) * APART for place in range(len(group))]


def _model_in_words(model: str, points: Sequence[Point]) -> str:
    last = points[-1]
    latency = f", p99 {readable(last.p99.median, 'ms')}" if last.p99 else ""
    return f"{model}, {last.connections:,} connections: {last.throughput.median:,.0f} requests/s{latency}."


def _limit_in_words(records: Sequence[Sweep]) -> str:
    """How a thread per connection fared."""
    found = [record.limit for record in records if record.limit]
    if not found:
        return "No model fell to half of its best throughput by more connections."
    return (
        f"A thread per connection falls to half of its best at about {found[-1].median:,.0f} connections that all ask "
        f"at once."
    )


class Grid:
    """A table of what a sweep found, for the last line of a cell or a terminal; of several records as in the figure.

    A column per model: with so many `connections`, or with the most that it was measured with.
    """

    ROWS = (
        "connections", "answers/s", "p50", "p99", "p99.9", "memory of its own", "address space", "threads",
        "processes", "switches/s", "clients served",
    )  # fmt: skip
    CAPTION = "Latencies are those of the requests that were answered; clients served: those ever answered"

    def __init__(self, records: Sweep | Sequence[Sweep], *, connections: int | None = None) -> None:
        lines = _lines([records] if isinstance(records, Sweep) else list(records))
        self.headings = ("", *lines)
        columns = [_column(points, connections) for points in lines.values()]
        self.rows = list(zip(self.ROWS, *columns, strict=True))

    def _repr_html_(self) -> str:
        return html_table(self.CAPTION, self.headings, self.rows)

    def __repr__(self) -> str:
        return text_table(self.headings, self.rows)


UNKNOWN = "–"


def _column(points: Sequence[Point], connections: int | None) -> tuple[str, ...]:
    """A model's cells; all unknown where it was not measured with so many connections."""
    point = next((each for each in points[::-1] if connections in (None, each.connections)), None)
    if point is None:
        return (f"{connections:,}", *[UNKNOWN] * (len(Grid.ROWS) - 1))
    return (
        f"{point.connections:,}",
        f"{point.throughput.median:,.0f}",
        *map(_latency, (point.p50, point.p99, point.p999)),
        UNKNOWN if point.uss is None else _size(point.uss / 1e6),
        _size(point.virtual / 1e6),
        f"{point.threads:,}",
        f"{point.processes:,}",
        UNKNOWN if point.switches is None else f"{point.switches:,.0f}",
        f"{100 - point.unserved:.3g} %",
    )


def _latency(figure: Estimate | float | None) -> str:
    """Of milliseconds."""
    if figure is None:
        return UNKNOWN
    return readable(figure.median if isinstance(figure, Estimate) else figure, "ms")


# The article's three figures: the claim of each model's memory
ARTICLE = {
    "thread per connection": "thread-per-connection-memory",
    "thread pool": "thread-pool-memory",
    "event loop": "event-loop-memory",
}
BYTES = {"MB": 1e6, "GB": 1e9}
NEAR = 6.0  # x: two dots less than that apart would have their words overlap


def ten_thousand(
    record: TenThousand,
    *,
    guess: float | None = None,
    guess_answered: float | None = None,
    ghost: TenThousand | None = None,
) -> list[Axes]:
    """Memory of three models, its own beside virtual and beside the article's; and the share of clients answered.

    `guess` is MB resident for a thread per connection, `guess_answered` the % that the pool answers.
    """
    left, right = Figure(figsize=(13, 5.4)).subplots(1, 2, width_ratios=(1.7, 1))
    rows = dict(zip((each.model for each in record.models), range(len(record.models))[::-1], strict=True))
    for each in record.models:
        y, (colour, marker) = rows[each.model], style.MODELS[each.model]
        said = claim(ARTICLE[each.model])
        point = (said.point or 0) * BYTES[said.unit]
        left.plot(point, y, "|", color=style.FAINT, markersize=46, markeredgewidth=3, zorder=2)
        left.annotate(f"article: {said.point:g} {said.unit}", (point, y), xytext=(0, -28), textcoords="offset points",
                      ha="center", va="top", fontsize=11, color=style.FAINT)  # fmt: skip
        style.open_dot(left, each.virtual.median * 1e6, y, colour, marker)
        style.dot(left, each.memory.scaled(1e6, "B"), y, colour, marker, " ")
        near = each.virtual.median < NEAR * each.memory.median
        for figure, name, side in ((each.memory, "its own", "right"), (each.virtual, "virtual", "left")):
            left.annotate(f"{_size(figure.median)}\n{name}", (figure.median * 1e6, y), xytext=(0, 10),
                          textcoords="offset points", ha=side if near else "center", va="bottom",
                          fontsize=12)  # fmt: skip
        right.barh(y, each.answered, 0.42, color=colour, zorder=2)
        right.annotate(_answers(each), (0, y), xytext=(2, 22), textcoords="offset points", va="bottom", fontsize=12)
        if ghost:
            style.ghost_dot(left, ghost.of(each.model).memory.scaled(1e6, "B"), y)
    style.guess_mark(left, guess and guess * 1e6, rows["thread per connection"] - 0.24)
    style.guess_mark(right, guess_answered, rows["thread pool"], side="right" if (guess_answered or 0) > 50 else "left")
    ends = [end * 1e6 for each in record.models for end in (each.memory.low, each.virtual.high)]
    if guess:
        ends.append(guess * 1e6)
    left.set_xscale("log")
    left.set_xlim(min(ends) / 3, max(*ends, 2e10) * 4)
    style.count_axis(left.xaxis, [])
    first, last = (math.log10(end) for end in left.get_xlim())
    powers = range(math.ceil(first), math.floor(last) + 1)
    left.set_xticks([10.0**power for power in powers], [_size(10.0**power / 1e6) for power in powers])
    left.set_yticks(list(rows.values()), [model.replace(" per ", "\nper ") for model in rows])
    right.set_yticks(list(rows.values()), [""] * len(rows))
    for ax in (left, right):
        ax.set_ylim(-0.7, len(rows) - 0.25)
        ax.grid(axis="y", visible=False)
    right.set_xlim(0, 103)
    left.set_xlabel("memory of the server (log scale)")
    right.set_xlabel("% of the clients that ever got an answer")
    left.set_title(f"{record.connections:,} connections: memory")
    right.set_title("Clients answered")
    style.ghost_note(left, ghost.reference if ghost else None)
    words = " ".join(_crowded_in_words(each) for each in record.models)
    style.tell(
        left,
        [record],
        alt=f"Two panels with a row per server model: memory, its own and virtual, and the share answered. {words}",
        caption=f"{_what_it_takes(record)} {_who_waits(record)}",
    )
    return [left, right]


def _size(megabytes: float) -> str:
    """ "85 GB", "239 MB"."""
    return f"{megabytes / 1000:.3g} GB" if megabytes >= 1000 else f"{megabytes:.3g} MB"


def _answers(each: Crowded) -> str:
    waits = f", p99 {readable(each.p99.median, 'ms')}" if each.p99 else ""
    rest = f"; {each.waiting.median:,.0f} never had an answer" if each.waiting.median else ""
    return f"{each.answered:.3g} %{waits}{rest}"


def _crowded_in_words(each: Crowded) -> str:
    return (
        f"{each.model}: {_size(each.memory.median)} of its own, {_size(each.virtual.median)} virtual, {each.threads:,} "
        f"threads, {_answers(each)}."
    )


def _what_it_takes(record: TenThousand) -> str:
    """The surprise of the first row: it runs."""
    threaded = record.of("thread per connection")
    outcome = "Nothing crashes: " if threaded.crashes.high == 0 else ""
    return (
        f"{outcome}{record.connections:,} threads reserve {_size(threaded.virtual.median)} of address space, and use "
        f"{_size(threaded.memory.median)} of memory of their own, {threaded.per_connection.median:.3g} KB each. The "
        f"kernel's part, a stack and page tables for each thread, is not in it."
    )


def _who_waits(record: TenThousand) -> str:
    pool = record.of("thread pool")
    if not pool.waiting.median:
        return "The pool has a thread for every client."
    return (
        f"Of the pool's clients {pool.answered:.2g} % have a thread and keep it; the others are connected, and wait "
        f"for as long as these stay: low latency says nothing about those who get no answer."
    )


# The queue

STAGES = {"connecting": style.GREY, "waiting": style.RED, "being served": style.BLUE}


def queueing(record: Queueing, *, ax: Axes | None = None) -> Axes:
    """A row per client in the order of arrival: connecting, waiting, being served; and what had room for it."""
    ax = ax or style.canvas(11, 1.9 + 0.36 * len(record.clients))
    end = max(client.came + client.ended.median for client in record.clients)
    for row, client in enumerate(record.clients):
        for (begin, until), colour in zip(_spans(record, client), STAGES.values(), strict=False):
            ax.broken_barh([(begin, max(until - begin, 0.003 * end))], (row - 0.36, 0.72), color=colour)
        if not client.is_served:
            x = client.came + client.ended.median
            ax.plot(x, row, "X", color=style.INK, markersize=10, zorder=5)
            ax.annotate(client.outcome, (x, row), xytext=(10, 0), textcoords="offset points", va="center", fontsize=12)
    first = 0
    for room in dict.fromkeys(client.room for client in record.clients):
        last = first + len(record.of(room))
        shade = {"queue": "#f3f3f6", "nothing": "#fbe9eb"}.get(room, "white")
        ax.axhspan(first - 0.5, last - 0.5, color=shade, zorder=0, lw=0)
        ax.annotate(_room_in_words(record, room), (0.99, (first + last - 1) / 2), xycoords=("axes fraction", "data"),
                    ha="right", va="center", fontsize=12, fontweight="bold", color=style.INK)  # fmt: skip
        first = last
    ax.set_xlim(0, 1.32 * end)
    ax.set_ylim(len(record.clients) - 0.5, -0.5)
    ax.set_yticks(range(len(record.clients)), [f"client {row + 1}" for row in range(len(record.clients))])
    ax.grid(axis="y", visible=False)
    for place, (name, colour) in zip((0.6, 0.73, 0.83), STAGES.items(), strict=True):
        ax.annotate(name, (place, 1), xycoords="axes fraction", xytext=(0, 10), ha="left",
                    textcoords="offset points", fontsize=12, fontweight="bold", color=colour)  # fmt: skip
    ax.set_xlabel("time in ms since the first client came")
    ax.set_title(f"A thread pool is full: {record.when_full}")
    words = "; ".join(f"{_room_in_words(record, room)}: {_fate(record, room)}" for room in ROOMS if record.of(room))
    return style.tell(
        ax,
        [record],
        alt=f"Time lines of {len(record.clients)} clients in the order of arrival. {words}.",
        caption=f"{_lesson_of_the_queue(record)}{_one_more(record)}",
    )


ROOMS = ("threads", "queue", "backlog", "nothing")


def _spans(record: Queueing, client: Client) -> list[tuple[float, float]]:
    """When it was connecting, waiting and being served, as far as it came: ms since the first client came."""
    ended = client.came + client.ended.median
    if client.connected is None:
        return [(client.came, ended)]
    connected = client.came + client.connected.median
    if not client.is_served:
        return [(client.came, connected), (connected, ended)]
    served = max(connected, ended - record.hold_ms)
    return [(client.came, connected), (connected, served), (served, ended)]


def _room_in_words(record: Queueing, room: str) -> str:
    return {
        "threads": f"{record.threads} threads",
        "queue": f"a queue of {record.queue}",
        "backlog": f"a backlog of {record.backlog}, plus one",
        "nothing": "all full",
    }[room]


def _fate(record: Queueing, room: str) -> str:
    """What became of the clients that had this room."""
    clients = record.of(room)
    last = clients[-1]
    if not last.is_served:
        return f"{last.outcome} after {readable(last.ended.median, 'ms')}"
    longest = max(each.ended.median for each in clients)
    if last.connected is not None and last.connected.median > record.hold_ms / 2:
        return f"connected after {readable(last.connected.median, 'ms')}, answered after {readable(longest, 'ms')}"
    return f"connected at once, answered after {'up to ' if len(clients) > 1 else ''}{readable(longest, 'ms')}"


def _one_more(record: Queueing) -> str:
    """Why the picture has a client more in the backlog than the label's first number."""
    return " In the backlog, Linux has room for one more than asked for." if record.of("backlog") else ""


def _lesson_of_the_queue(record: Queueing) -> str:
    """What the clients without any room met, as far as this run showed it."""
    last = record.of("nothing")[-1]
    spare = (
        f" A spare thread gave its first answer after {readable(record.spare.median, 'µs')}, one that had to be "
        f"started after {readable(record.cold.median, 'µs')}."
    )
    idle = last.came + last.ended.median - record.hold_ms - max(
        each.came + each.ended.median for each in record.clients if each.room != "nothing"
    )  # fmt: skip
    if last.is_served and idle > record.hold_ms / 4:
        return (
            f"The system does not refuse the last ones: it does not answer, and TCP asks again after a second. When it "
            f"did, the threads had been idle for {readable(idle, 'ms')}.{spare}"
        )
    return f"Who waits in a queue is connected, and can't tell how long it is.{spare}"


# Mixed work


def mixed_work(
    records: Sequence[MixedWork],
    *,
    guess: float | None = None,
    ghosts: Sequence[MixedWork | None] = (),
    ax: Axes | None = None,
) -> Axes:
    """A row per model: the p99 of the quick requests alone and beside heavy ones; `guess` in ms is for the loop."""
    ax = ax or style.canvas(10, 2.2 + 0.85 * len(records))
    rows = range(len(records))[::-1]
    for y, record, ghost in zip(rows, records, [*ghosts, *[None] * len(records)], strict=False):
        colour, marker = style.MODELS[record.model]
        ends = record.alone.p99.median, record.beside.p99.median
        ax.plot(ends, (y, y), color=style.FAINT, lw=1.2, zorder=1)
        ax.plot(ends[0], y, marker, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=2, markersize=10,
                zorder=3)  # fmt: skip
        style.dot(ax, record.beside.p99, y, colour, marker)
        style.ghost_dot(ax, ghost.beside.p99 if ghost else None, y)
        if guess and record.model == "event loop":
            style.guess_mark(ax, guess, y - 0.38)
    every = [end for record in records for end in (record.alone.p99.low, record.beside.p99.high)]
    ax.set_xscale("log")
    ax.set_xlim(min(*every, guess or every[0]) / 1.6, max(*every, guess or every[0]) * 2)
    _time_ticks(ax, "ms")
    ax.set_ylim(-0.7, len(records) - 0.3)
    ax.set_yticks(list(rows), [record.model for record in records])
    ax.grid(axis="y", visible=False)
    record = records[0]
    ax.annotate("hollow: without heavy requests", (1, 1), xycoords="axes fraction", xytext=(0, 4), fontsize=11,
                textcoords="offset points", ha="right", va="bottom", color=style.FAINT)  # fmt: skip
    ax.set_xlabel("p99 latency of the quick requests (log scale)")
    ax.set_title(f"{record.share:g} % of the requests compute {record.cpu_ms:g} ms")
    style.ghost_note(ax, next((ghost.reference for ghost in ghosts if ghost), None))
    words = ", ".join(
        f"{each.model} {readable(each.alone.p99.median, 'ms')} to {readable(each.beside.p99.median, 'ms')}"
        for each in records
    )
    return style.tell(
        ax,
        records,
        alt=f"Two dots per server model on a log axis, the p99 of the quick requests without and with heavy ones "
        f"beside them: {words}.",
        caption=f"Of {record.rate:g} requests/s {record.rate * record.share / 100:.2g} compute. What that does to the "
        f"p99 of the others: {_change(records)}.{_price_of_the_heavy(records)} The pool has a thread for each client, "
        f"pre-fork {PROCESSES} processes.{_failures(records)}",
    )


def _time_ticks(ax: Axes, unit: str) -> None:
    """Ticks of a logarithmic axis of times: 1, 2, 5, or powers of ten where it is long."""
    low, high = ax.get_xlim()
    steps = (1, 2, 5) if high < 100 * low else (1,)
    ticks = [step * 10.0**power for power in range(-6, 7) for step in steps]
    ax.set_xticks([tick for tick in ticks if low <= tick <= high])
    style.time_axis(ax.xaxis, unit)


def _change(records: Sequence[MixedWork]) -> str:
    """Who suffers the most, and who the least."""
    ordered = sorted(records, key=lambda each: each.beside.p99.median)
    ends = [ordered[-1]] if len(ordered) == 1 else [ordered[-1], ordered[0]]
    return "; ".join(
        f"{each.model} from {readable(each.alone.p99.median, 'ms')} to {style.stated(each.beside.p99)}" for each in ends
    )


def _price_of_the_heavy(records: Sequence[MixedWork]) -> str:
    """What the heavy ones take themselves."""
    found = {each.model: each.heavy for each in records if each.heavy is not None}
    return f" A heavy request itself takes, in the middle: {style.sentence(found)}." if found else ""


def _failures(records: Sequence[MixedWork]) -> str:
    failed = [f"{each.model} {each.beside.failed}" for each in records if each.beside.failed]
    return f" Without an answer in time: {', '.join(failed)}." if failed else ""


# Slow clients


def slow_clients(
    records: Sequence[SlowClients],
    *,
    guess: float | None = None,
    ghosts: Sequence[SlowClients | None] = (),
    ax: Axes | None = None,
) -> Axes:
    """A row per model: the wait of ordinary clients without a time-out, and with one; `guess` in s is for the pool."""
    ax = ax or style.canvas(10, 2.2 + 0.85 * len(records))
    rows = range(len(records))[::-1]
    for y, record, ghost in zip(rows, records, [*ghosts, *[None] * len(records)], strict=False):
        colour, marker = style.MODELS[record.model]
        without, timed = record.without.wait, record.timed.wait
        if style.stands(without, timed) != "about as much as":
            ax.plot((without.median, timed.median), (y, y), color=style.FAINT, lw=1.2, zorder=1)
            style.open_dot(ax, without.median, y, colour, marker)
            words = "" if record.without.served == record.without.clients else _served(record.without)
            ax.annotate(words, (without.median, y), xytext=(10, 0), textcoords="offset points", va="center",
                        fontsize=12)  # fmt: skip
        style.dot(ax, timed, y, colour, marker, " ")
        ax.annotate(readable(timed.median, "s"), (timed.median, y), xytext=(2, 9), textcoords="offset points",
                    ha="right", va="bottom", fontsize=12, zorder=7)  # fmt: skip
        style.ghost_dot(ax, ghost.timed.wait if ghost else None, y)
        if guess and record.model == "thread pool":
            style.guess_mark(ax, guess, y - 0.38, side="right" if guess > record.timeout_ms / 1000 else "left")
    every = [end for record in records for each in (record.without, record.timed) for end in _ends(each.wait)]
    ax.set_xscale("log")
    ax.set_xlim(min(*every, guess or every[0]) / 4, max(*every, guess or every[0]) * 5)
    _time_ticks(ax, "s")
    ax.axvline(records[0].timeout_ms / 1000, color=style.FAINT, lw=1.2, ls="--", zorder=1)
    ax.annotate("the time-out", (records[0].timeout_ms / 1000, 0.02), xycoords=("data", "axes fraction"), fontsize=10,
                xytext=(-5, 0), textcoords="offset points", ha="right", color=style.FAINT)  # fmt: skip
    ax.annotate("hollow, where it differs: without a time-out", (1, 1), xycoords="axes fraction", xytext=(0, 4),
                textcoords="offset points", ha="right", va="bottom", fontsize=11, color=style.FAINT)  # fmt: skip
    ax.set_ylim(-0.8, len(records) - 0.3)
    ax.set_yticks(list(rows), [record.model for record in records])
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("until an ordinary client is answered, or gives up (log scale)")
    ax.set_title(f"{records[0].slow} clients send a byte every {records[0].byte_ms:g} ms")
    style.ghost_note(ax, next((ghost.reference for ghost in ghosts if ghost), None))
    words = "; ".join(f"{each.model}: {_fates(each)}" for each in records)
    return style.tell(
        ax,
        records,
        alt=f"Two dots per server model on a log axis, the wait of ordinary clients beside slow ones, without a "
        f"time-out and with one. {words}.",
        caption=f"The pool has {records[0].threads} threads, pre-fork has as many processes.{_starved_pool(records)}",
    )


def _ends(figure: Estimate) -> tuple[float, float]:
    return figure.low, figure.high


def _served(ordinary: Ordinary) -> str:
    return f"{ordinary.served} of {ordinary.clients} served"


def _fates(record: SlowClients) -> str:
    without, timed = (readable(each.wait.median, "s") for each in (record.without, record.timed))
    if record.without.served < record.without.clients:
        return (
            f"without a time-out {_served(record.without)} within {readable(record.patience_ms, 'ms')}, "
            f"with one {_served(record.timed)}{f', after {timed}' if record.timed.served else ''}"
        )
    return f"all served, after {without} and {timed}"


def _starved_pool(records: Sequence[SlowClients]) -> str:
    """Why a pool starves, where it did."""
    pool = next((each for each in records if each.model == "thread pool"), None)
    if pool is None or pool.without.served or not pool.timed.served:
        return ""
    return (
        f" Threads that read from {pool.slow} slow clients serve nobody else. A request that must come in within "
        f"{readable(pool.timeout_ms, 'ms')} gives them back."
    )


# WebSockets

SERVERS = {  # that hold WebSockets: what each is called here
    "tiny loop": "the tiny loop", "uvloop": "uvloop, bare Protocol", "asyncio": "asyncio, bare Protocol",
    "Node ws": "Node.js, ws", "websockets": "asyncio, websockets",
}  # fmt: skip


def hundred_thousand(
    record: HundredThousand, *, guess: float | None = None, ghost: HundredThousand | None = None
) -> list[Axes]:
    """Left, the memory of one loop against the connections that it holds; right, what one takes with each server."""
    left, right = style.canvas(12, 4.8, columns=2)
    _growth(left, record)
    names = [name for name in SERVERS if name == OURS or name in record.figures()]
    names.sort(key=lambda name: _cost(record, name).median, reverse=True)
    pale = {name: _cost(ghost, name) for name in names if ghost and (name == OURS or name in ghost.figures())}
    for y, name in enumerate(names):
        style.dot(right, _cost(record, name), y, *style.MODELS["event loop"] if name == OURS else (style.GREY, "o"))
        style.ghost_dot(right, pale.get(name), y)
    everything = [*(_cost(record, name) for name in names), *pale.values()]
    right.set_xscale("log")
    lowest, highest = min(each.low for each in everything), max(each.high for each in everything)
    right.set_xlim(min(0.3, lowest) / 1.5, max(30.0, highest) * 2)
    if guess:
        low, high = right.get_xlim()
        label = "your guess" if low < guess < high else f"your guess: {guess:g} KiB"
        place = min(max(guess, 1.3 * low), high / 1.3)
        style.guess_mark(right, place, names.index(OURS) - 0.32, label=label, side="left" if guess < 3 else "right")
    style.count_axis(right.xaxis, [tick for tick in (0.1, 0.3, 1, 3, 10, 30, 100) if tick < right.get_xlim()[1]])
    right.set_yticks(range(len(names)), [SERVERS[name] for name in names])
    right.set_ylim(-0.6, len(names) - 0.2)
    right.grid(axis="y", visible=False)
    right.set_xlabel("KiB of the server's memory (log scale)")
    right.set_title("What one WebSocket takes")
    style.ghost_note(right, ghost.reference if ghost else None)
    words = f"A WebSocket that is held open takes {record.memory} of the server's memory"
    kernel = f", and {record.kernel} of the kernel's for both ends" if record.kernel else ""
    style.tell(
        left,
        [record],
        alt=f"Left, memory against connections, both logarithmic: a straight line. Right, a dot per server. {words}. "
        + "; ".join(f"{SERVERS[name]} {readable(_cost(record, name).median, 'KiB')}" for name in names) + ".",
        caption=f"{words}{kernel}. {_how_many(record)}{_lowest_layer(names)}",
    )  # fmt: skip
    return [left, right]


def _lowest_layer(names: Sequence[str]) -> str:
    """What a bare Protocol is, where there is one."""
    if not any("Protocol" in SERVERS[name] for name in names):
        return ""
    return " (Protocol: asyncio's lowest layer, callbacks without streams and tasks.)"


def _cost(record: HundredThousand, name: str) -> Estimate:
    return record.memory if name == OURS else record.figures()[name]


def _growth(ax: Axes, record: HundredThousand) -> None:
    """Memory of one loop, and of the kernel for both ends, at each number of connections; all of them at the end."""
    counts = [stage.connections for stage in record.one.stages]
    colour, marker = style.MODELS["event loop"]
    lines = [("server", [stage.server for stage in record.one.stages], colour, marker)]
    kernel = [stage.kernel for stage in record.one.stages if stage.kernel is not None]
    if len(kernel) == len(counts):
        lines.append(("kernel,\nboth ends", kernel, style.FAINT, "o"))
    for name, costs, shade, mark in lines:
        memory = [max(cost, 0.01) * count / 1024 for cost, count in zip(costs, counts, strict=True)]
        ax.plot(counts, memory, color=shade, marker=mark)
        style.name_line(ax, counts[-1], memory[-1], name, shade, dx=10)
    if record.several:
        last = record.several.stages[-1]
        for cost, shade, mark in ((last.server, colour, marker), (last.kernel, style.FAINT, "o")):
            if cost:
                ax.plot(last.connections, cost * last.connections / 1024, mark, markerfacecolor="white",
                        markeredgecolor=shade, markeredgewidth=2)  # fmt: skip
        place = (last.connections, last.server * last.connections / 1024)
        ax.annotate(f"{record.several.loops} loops", place, xytext=(0, -10), textcoords="offset points", ha="center",
                    va="top", fontsize=11, color=colour)  # fmt: skip
    ax.set_xscale("log")
    ax.set_yscale("log")
    most = record.all.connections
    ax.set_xlim(min(counts[0], most / 10) / 1.4, most * (2 if record.several else 4))
    style.count_axis(ax.xaxis, [10**power for power in range(2, 6) if counts[0] / 2 < 10**power <= 1.5 * most])
    low, high = ax.get_ylim()
    low, high = min(low, high / 50), max(high, 5 * low)
    ax.set_ylim(low, high)
    style.count_axis(ax.yaxis, [tick for tick in (0.01, 0.1, 1, 10, 100, 1000) if low < tick < high])
    ax.set_xlabel("WebSockets held open (log scale)")
    ax.set_ylabel("MiB (log scale)")
    ax.set_title("What all of them take")


def _how_many(record: HundredThousand) -> str:
    """How many one thread held, and why not more; and all together."""
    one, several = record.one, record.several
    costs = [stage.server for stage in one.stages]
    spread = 100 * (max(costs) / min(costs) - 1) if len(costs) > 1 and min(costs) > 0 else None
    flat = "" if spread is None else f" From 1,000 connections up the cost of each was the same within {spread:.0f} %."
    if several is None:
        return f"One thread held all {one.connections:,}.{flat}"
    limit = f", for a process may have {record.allowed:,} file descriptors here" if record.allowed else ""
    return (
        f"One thread held {one.connections:,}{limit}; all {several.connections:,} were held by "
        f"{several.loops} loops, with {several.server_mib:,.0f} MiB in all.{flat}"
    )


ROUND = (  # what is timed, from the shortest to the longest
    ("ping_p50_ms", "a ping: half of them\nare back within"),
    ("ping_p99_ms", "a ping: 99 % of them\nare back within"),
    ("broadcast_ms", "a message to all:\nthe last one has it after"),
    ("connect_ms", "all have connected\nafter"),
)


def crowd(record: HundredThousand) -> Axes:
    """How long it takes to connect, to answer a ping, and to tell all: by one loop, and by several."""
    ax: Axes = style.canvas(10, 4.8)
    helds = [(record.one, *style.MODELS["event loop"])]
    if record.several:
        helds.append((record.several, style.BLUE, "o"))
    for place, (held, colour, marker) in enumerate(helds):
        times = [_times(held)[name] for name, _ in ROUND]
        rows = [row + (0.14 if place else -0.14) * (len(helds) > 1) for row in range(len(ROUND))]
        ax.plot(times, rows, marker, color=colour, markersize=11, markeredgecolor=style.INK, markeredgewidth=0.8)
        for time, y in zip(times, rows, strict=True):
            ax.annotate(readable(time, "ms"), (time, y), xytext=(12, 0), textcoords="offset points", va="center",
                        fontsize=12)  # fmt: skip
        name = f"{held.connections:,} on {'one thread' if held.loops == 1 else f'{held.loops} loops'}"
        ax.annotate(name, (0.99 - 0.29 * place, 1), xycoords="axes fraction", xytext=(0, 10), ha="right", fontsize=12,
                    textcoords="offset points", fontweight="bold", color=colour)  # fmt: skip
    every = [time for held, _, _ in helds for time in _times(held).values()]
    ax.set_xscale("log")
    ax.set_xlim(min(0.1, *every) / 1.5, max(20_000.0, *every) * 4)
    style.time_axis(ax.xaxis, "ms")
    ax.set_yticks(range(len(ROUND)), [words for _, words in ROUND])
    ax.set_ylim(-0.6, len(ROUND) - 0.4)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("time (log scale)")
    ax.set_title("The crowd")
    held = record.all
    words = (
        f"{held.connections:,} clients are connected after {readable(held.connect_s, 's')}; a ping is back after "
        f"{readable(held.ping_p50_ms, 'ms')}, of 100 pings 99 within {readable(held.ping_p99_ms, 'ms')}; what is said "
        f"to all has reached the last one after {readable(held.broadcast_s, 's')}."
    )
    return style.tell(
        ax,
        [record],
        alt=f"Four rows of dots on a logarithmic time axis. {words}",
        caption=f"{_pinged(record)} Clients run on the same cores: they take at least as long as the server does.",
    )


def _pinged(record: HundredThousand) -> str:
    """How often, which is not the same for one loop and for several."""
    several = record.several
    shared = f", {pings_per_s(several.loops):,} a second shared by {several.loops} loops" if several else ""
    return f"There are {pings_per_s(1):,} pings a second on one loop{shared}."


def _times(held: HeldOpen) -> dict[str, float]:
    """In ms."""
    return {
        "ping_p50_ms": held.ping_p50_ms,
        "ping_p99_ms": held.ping_p99_ms,
        "broadcast_ms": 1e3 * held.broadcast_s,
        "connect_ms": 1e3 * held.connect_s,
    }
