"""The figures of notebook 08."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, StrMethodFormatter

from helpers import queueing
from helpers.claims import Claim, claim
from helpers.experiments.connection_pooling import (
    GOOD_ENOUGH,
    HOLD_S,
    Attempt,
    BuildOne,
    Fault,
    NeedsTwo,
    PoolAtWork,
    Scene,
    SizeSweep,
    WaitByUtilisation,
    WithAndWithout,
)
from helpers.figures import style
from helpers.figures.style import readable
from helpers.measure import Estimate, median
from helpers.tables import html_table, text_table

PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}


# With and without

NEW, POOLED = style.PURPLE, style.BLUE  # a connection for each request; one from the pool


def with_and_without(
    records: Sequence[WithAndWithout],
    *,
    guess: float | None = None,
    ghosts: Sequence[WithAndWithout | None] = (),
) -> list[Axes]:
    """A row per distance: requests/s of all clients, and ms of one alone; `guess` in x is for the first row."""
    left, right = style.canvas(12, 2.4 + 1.15 * len(records), columns=2)
    rows = range(len(records))[::-1]
    for y, record, ghost in zip(rows, records, [*ghosts, *[None] * len(records)], strict=False):
        without, pooled = record.without.throughput, record.pooled.throughput
        _both(left, y, without, pooled, record.speedup.median, names=y == rows[0])
        _both(right, y, record.new, record.reused, record.alone.median, names=y == rows[0])
        if ghost:
            for ax, each in ((left, ghost.without.throughput), (left, ghost.pooled.throughput), (right, ghost.new),
                             (right, ghost.reused)):  # fmt: skip
                style.ghost_dot(ax, each, y)
    for ax in (left, right):
        ax.set_xscale("log")
        ax.set_ylim(-0.75, len(records) - 0.3)
        ax.set_yticks(list(rows), [""] * len(records))
        ax.grid(axis="y", visible=False)
    left.set_yticks(list(rows), [_distance(record) for record in records])
    lowest = min(record.without.throughput.low for record in records)
    left.set_xlim(min(lowest, 50) / 2.5, max(20_000.0, *(record.pooled.throughput.high for record in records)) * 4)
    style.count_axis(left.xaxis, [10**power for power in range(1, 6)])
    if guess:
        guessed, most = records[0].without.throughput.median * guess, left.get_xlim()[1] / 2
        label = "your guess" if guessed <= most else f"your guess: {guess:,.0f}x"
        style.guess_mark(left, min(guessed, most), rows[0] - 0.45, label=label, side="right" if guess > 5 else "left")
    shortest, longest = min(each.reused.low for each in records), max(each.new.high for each in records)
    right.set_xlim(shortest / 3, max(longest, 100) * 3)
    style.time_axis(right.xaxis, "ms")
    for ax, ids, unit in ((left, ("no-pool-throughput", "pool-throughput"), "/s"),
                          (right, ("no-pool-latency", "pool-latency"), " ms")):  # fmt: skip
        for id, name in zip(ids, ("without", "with"), strict=True):
            _article(ax, claim(id), name, unit)
    left.set_xlabel("requests/s (log scale)")
    right.set_xlabel("time of a request (log scale)")
    left.set_title("All clients at once")
    right.set_title("One client alone")
    style.ghost_note(left, next((ghost.reference for ghost in ghosts if ghost), None))
    words = " ".join(map(_gain_in_words, records))
    style.tell(
        left,
        records,
        alt=f"Two panels with two dots per distance, with and without a pool, both logarithmic. {words}",
        caption=f"{_where_it_goes(records[0])} {_farthest(records)} The article's figures are grey.",
    )
    return [left, right]


NEAR = 6.0  # x: two dots less than that apart would have their words overlap


def _both(ax: Axes, y: float, without: Estimate, pooled: Estimate, times: float, *, names: bool) -> None:
    """The two dots of a row, and how far apart they are."""
    ends = (without.median, pooled.median)
    ax.plot(ends, (y, y), color=style.FAINT, lw=1.2, zorder=1)
    middle = (ends[0] * ends[1]) ** 0.5
    ratio = f"{readable(times, 'x')}"
    ax.annotate(ratio, (middle, y), xytext=(0, -6), textcoords="offset points", ha="center", va="top", fontsize=13,
                fontweight="bold")  # fmt: skip
    for figure, colour, marker, name in ((without, NEW, "o", "new connection"), (pooled, POOLED, "s", "pool")):
        value = readable(figure.median, figure.unit).removesuffix(" requests/s")
        words = f"{name}\n{value}" if names else value
        if max(ends) > NEAR * min(ends):
            style.dot(ax, figure, y, colour, marker, words)
            continue
        style.dot(ax, figure, y, colour, marker, " ")
        dx, side = (4, "right") if figure.median == min(ends) else (-4, "left")
        ax.annotate(words, (figure.median, y), xytext=(dx, 9), textcoords="offset points", ha=side, va="bottom",
                    fontsize=12, zorder=7)  # fmt: skip


def _article(ax: Axes, said: Claim, name: str, unit: str) -> None:
    """What the article says of one side, as a band with its words at the foot; nothing where it is out of sight."""
    first, last = ax.get_xlim()
    low, high = max(said.low or 0.0, first), last if said.high is None else min(said.high, last)
    if low >= high:
        return
    words = f"{said.point:g}{unit}" if said.point else f"{said.low:g}–{said.high:g}{unit}" if said.high else ""
    words = words or f"≥ {said.low:,.0f}{unit}"
    ax.axvspan(low, high, color=style.CLAIM, zorder=0, lw=0)
    x, dx, side = (low * high) ** 0.5, 0, "center"
    if (said.low or 0.0) < first:  # what is left of it may be narrower than its words
        x, dx, side = low, 3, "left"
    elif said.high is not None and said.high > last:
        x, dx, side = high, -3, "right"
    place: Any = {"xycoords": ("data", "axes fraction"), "xytext": (dx, 4), "textcoords": "offset points"}
    ax.annotate(f"{name}:\n{words}", (x, 0), ha=side, va="bottom", fontsize=10, color=style.FAINT, **place)


def _distance(record: WithAndWithout) -> str:
    return f"{_where(record)}\n{record.clients} clients\npool of {record.pool_size}"


def _where(record: WithAndWithout) -> str:
    """The server, as far as it is known: one that the learner named may be anywhere."""
    if record.local:
        return f"{record.round_trip_ms} ms away" if record.round_trip_ms else "same machine"
    return f"{record.round_trip_ms} ms added" if record.round_trip_ms else "no distance added"


def _gain_in_words(record: WithAndWithout) -> str:
    return (
        f"{_capital(_where(record))}: {record.clients} clients get {record.without.throughput.median:,.0f} requests/s "
        f"without a pool and {record.pooled.throughput.median:,.0f} with {record.pool_size} "
        f"connections, {style.stated(record.speedup)}; one client alone waits {readable(record.new.median, 'ms')} and "
        f"{readable(record.reused.median, 'ms')}."
    )


def _where_it_goes(record: WithAndWithout) -> str:
    client, server = record.without.client_cpu, record.without.server_cpu
    spent = f"{readable(client.median, 'ms')} of CPU time in the client"
    if server:
        spent += f" and {readable(server.median, 'ms')} in the server"
    return f"A request with a connection of its own costs {spent}."


def _farthest(records: Sequence[WithAndWithout]) -> str:
    """What the pool gains where the server is farthest."""
    far = max(records, key=lambda record: record.round_trip_ms)
    return (
        f"{_capital(_where(far))}: one client alone is served {readable(far.alone.median, 'x')} as fast from the pool; "
        f"all {far.clients} together get {style.stated(far.speedup)} as many requests answered."
    )


# A pool at work

SHOWN_MS = 900.0  # of a timeline


def pool_at_work(record: PoolAtWork) -> list[Axes]:
    """Above, who waits; below, who holds which connection. Of a long run, the time with the most waiting."""
    begin = _busiest(record)
    shown = [each for each in record.requests if each[2] > begin and each[0] < begin + SHOWN_MS]
    lanes = _lanes([(asked, got) for asked, got, _, _ in shown if got - asked >= WORTH_A_BAR_MS])
    high = max(2.4, 0.9 + 0.16 * len(lanes))
    figure = Figure(figsize=(10, high + 1.3 + 0.42 * record.size))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(high, 0.7 + 0.42 * record.size))
    for lane, spans in enumerate(lanes):
        above.broken_barh([(asked - begin, got - asked) for asked, got in spans], (lane + 0.1, 0.8), color=style.RED)
    for _, got, back, connection in shown:
        y = record.size - connection
        below.broken_barh([(got - begin, back - got)], (y - 0.4, 0.8), facecolor=style.BLUE, edgecolor="white", lw=1)
    above.set_ylim(0, max(4, len(lanes)) + 0.5)
    above.set_yticks([])  # a row holds several requests, one after the other
    above.set_ylabel("one bar\nper request")
    below.set_yticks(range(1, record.size + 1), [f"connection {record.size - row}" for row in range(record.size)])
    below.set_ylim(0.4, record.size + 0.6)
    below.grid(axis="y", visible=False)
    below.set_xlim(0, SHOWN_MS)
    level = record.level
    above.set_title(f"Waiting for a connection: {level.waited.median:.0f} % of the requests", color=style.RED)
    below.set_title(f"Holding one: {level.utilisation.median:.0f} % of the time", color=style.BLUE)
    for ax in (above, below):
        ax.set_xlabel("time in ms" if ax is below else " ")
    words = (
        f"{record.size} connections are in use {level.utilisation.median:.0f} % of the time, and still "
        f"{level.waited.median:.0f} % of the requests find none free; the mean wait is "
        f"{readable(level.wait.median, 'ms')} for a query of {readable(level.hold.median, 'ms')}."
    )
    style.tell(
        above,
        [record],
        alt=f"Time lines: above, requests that wait, red; below, {record.size} connections, blue while held. {words}",
        caption=f"{words} A textbook queue (M/M/c) has {readable(level.modelled, 'ms')}. Free connections and waiting "
        f"requests take turns: arrivals come in bunches.{_shown(record)}",
    )
    return [above, below]


WORTH_A_BAR_MS = 1.0


def _shown(record: PoolAtWork) -> str:
    """That the picture is a part, where it is."""
    if max((back for _, _, back, _ in record.requests), default=0.0) <= SHOWN_MS:
        return ""
    return (
        f" Shown: the {SHOWN_MS:.0f} ms of the first run with most waiting; the percentages are of all "
        f"{len(record.level.waited.samples)} runs."
    )


def _busiest(record: PoolAtWork) -> float:
    """Where the part that is shown begins: the one in which requests wait the most."""
    ends = max((back for _, _, back, _ in record.requests), default=0.0)
    starts = [step * SHOWN_MS / 6 for step in range(max(1, int(6 * (ends / SHOWN_MS - 1)) + 1))]

    def waited(begin: float) -> float:
        return sum(max(0.0, min(got, begin + SHOWN_MS) - max(asked, begin)) for asked, got, _, _ in record.requests)

    return max(starts, key=waited)


def _lanes(spans: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """Spans in as few rows as hold them without overlap, each in the lowest row that is free."""
    lanes: list[list[tuple[float, float]]] = []
    for begin, end in sorted(spans):
        free = next((lane for lane in lanes if lane[-1][1] <= begin), None)
        if free is None:
            lanes.append([(begin, end)])
        else:
            free.append((begin, end))
    return lanes


ALERT = 80.0  # % of utilisation


def wait_by_utilisation(
    record: WaitByUtilisation,
    *,
    guess: float | None = None,
    ghost: WaitByUtilisation | None = None,
    ax: Axes | None = None,
) -> Axes:
    """The mean wait against utilisation, and the queueing model's curve; `guess` in x: 95 % over 50 %."""
    ax = ax or style.canvas(9.5, 5.2)
    hold = median([level.hold.median for level in record.levels])
    highest = max(level.wait.high for level in record.levels)
    top = 1.2 * max(highest, _model(record.size, 95.0, hold))
    shares = [share / 4 for share in range(4 * 20, 4 * 99)]
    curve = [_model(record.size, share, hold) for share in shares]
    ax.plot(shares, curve, color=style.FAINT, lw=2, zorder=2)
    at = next((place for place, wait in enumerate(curve) if wait > 0.55 * top), -1)
    style.name_line(ax, shares[at], curve[at], "M/M/c", style.FAINT, dx=-10, ha="right")
    if ghost:
        for level in ghost.levels:
            ax.plot(level.utilisation.median, level.wait.median, "o", markerfacecolor="none", zorder=1,
                    markeredgecolor=style.GHOST, markersize=17, markeredgewidth=2.2)  # fmt: skip
        style.ghost_note(ax, ghost.reference)
    for level in record.levels:
        x, y = level.utilisation, level.wait
        ends: Any = {f"{axis}err": [[each.median - each.low], [each.high - each.median]] for axis, each in
                     (("x", x), ("y", y))}  # fmt: skip
        look: Any = {"elinewidth": 4, "markersize": 10, "markeredgecolor": style.INK, "markeredgewidth": 0.8}
        ax.errorbar(x.median, y.median, fmt="s", color=style.RED, zorder=4, **ends, **look)
        place: Any = {"xytext": (-6, 8), "textcoords": "offset points", "ha": "right", "fontsize": 12}
        ax.annotate(readable(y.median, "ms"), (x.median, y.high), bbox=PAPER, zorder=7, **place)
    _alert(ax)
    half = next(level.wait.median for level in record.levels if level.planned == 50)
    if guess:
        guessed = min(half * guess, 0.97 * top)
        label = "your guess" if half * guess <= top else f"your guess: {guess:g}x"
        style.guess_mark(ax, 95, guessed, label=label, side="right")
    ax.set_xlim(20, 101)
    ax.set_ylim(-0.03 * top, top)
    ax.set_xlabel("utilisation in %: how much of the time the connections are in use")
    ax.set_ylabel("mean wait for a connection in ms")
    ax.set_title(f"Waiting for one of {record.size} connections")
    words = "; ".join(
        f"{readable(level.wait.median, 'ms')} at {level.utilisation.median:.0f} %" for level in record.levels
    )
    return style.tell(
        ax,
        [record],
        alt=f"The mean wait against utilisation, flat at first and then steep, with the model's curve: {words}.",
        caption=f"A query holds its connection for {readable(hold, 'ms')} on average. Planned for 95 %, requests wait "
        f"{style.stated(record.times)} as long as at 50 %; at 80 %, {readable(record.times_80.median, 'x')}. The line "
        f"is the queueing model M/M/c for {record.size} connections, with no constant fitted.",
    )


def _alert(ax: Axes) -> None:
    """Where the article's alert is."""
    ax.axvline(ALERT, color=style.FAINT, lw=1.2, ls="--", zorder=1)
    place: Any = {"xycoords": ("data", "axes fraction"), "xytext": (-6, -4), "textcoords": "offset points"}
    ax.annotate("the article's\nalert, 80 %", (ALERT, 1), ha="right", va="top", fontsize=11, color=style.FAINT, **place)


def _model(size: int, utilisation: float, hold: float) -> float:
    return queueing.mean_wait(size, size * utilisation / 100 / hold, hold)


# How large?

WORK = {"waiting": "The server waits", "computing": "The server computes"}


def size_sweep(
    records: Sequence[SizeSweep], *, guess: float | None = None, ghosts: Sequence[SizeSweep | None] = ()
) -> list[Axes]:
    """A column per kind of work: throughput and latency by pool size, and the rules' sizes; `guess` in connections."""
    figure = Figure(figsize=(1.2 + 5.6 * len(records), 9.2))
    panels = figure.subplots(3, len(records), sharex="col", squeeze=False, height_ratios=(1.1, 1, 1))
    columns = panels.T
    for (top, middle, foot), record, ghost in zip(columns, records, [*ghosts, *[None] * len(records)], strict=False):
        sizes = [point.size for point in record.points]
        _throughputs(top, record, ghost)
        for figures, colour, marker, name in (
            ([point.p99 for point in record.points], style.RED, "v", "p99"),
            ([point.p50 for point in record.points], style.BLUE, "o", "middle"),
        ):
            style.ribbon(middle, sizes, figures, colour, marker)
            style.name_line(middle, sizes[-1], figures[-1].median, name, colour)
        middle.set_yscale("log")
        middle.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        style.time_axis(middle.yaxis, "ms")
        middle.set_title("How long a request takes")
        _rules(foot, record, guess)
        for ax in (top, middle, foot):
            ax.axvline(record.best, color=style.ORANGE, lw=7, alpha=0.3, zorder=0)
            ax.set_xscale("log", base=2)
            style.count_axis(ax.xaxis, [size for size in sizes if size != 24])
            ax.set_xlim(0.8, 1.75 * sizes[-1])
            ax.tick_params(labelbottom=True)
            ax.set_xlabel(" ")
        foot.set_xlabel("connections in the pool (log scale)")
    style.ghost_note(panels[-1][0], next((ghost.reference for ghost in ghosts if ghost), None))
    words = " ".join(map(_best_in_words, records))
    first: Axes = panels[0][0]
    style.tell(
        first,
        records,
        alt=f"For each kind of work three panels by pool size: throughput, latency, and the rules' sizes. {words}",
        caption=f"{words} The orange line marks that size; the dashed curve is a queueing model.",
    )
    return list(panels.flat)


def _throughputs(ax: Axes, record: SizeSweep, ghost: SizeSweep | None) -> None:
    sizes = [point.size for point in record.points]
    ax.plot(sizes, [point.modelled for point in record.points], color=style.FAINT, ls="--", lw=1.8, zorder=2)
    style.ribbon(ax, sizes, [point.throughput for point in record.points], style.BLUE, "s")
    if ghost:
        theirs = [(point.size, point.throughput.median) for point in ghost.points]
        ax.plot(*zip(*theirs, strict=True), "o", markerfacecolor="none", markeredgecolor=style.GHOST, markersize=15,
                markeredgewidth=2, zorder=1)  # fmt: skip
    ax.set_ylim(0, 1.15 * max(max(point.throughput.high, point.modelled) for point in record.points))
    ax.set_ylabel("requests/s")
    ax.set_title(f"{WORK[record.work]}: throughput")


LEFT = 9  # connections: in the left half of the picture


def _rules(ax: Axes, record: SizeSweep, guess: float | None) -> None:
    """A row per rule with its size; the nearest is filled, and so is every other that says the same."""
    rows = range(len(record.rules))[::-1]
    nearest = next(rule.size for rule in record.rules if rule.name == record.nearest)
    for y, rule in zip(rows, record.rules, strict=True):
        is_nearest = round(rule.size) == round(nearest)
        ax.plot(rule.size, y, "D", color=style.INK, markerfacecolor=style.INK if is_nearest else "white", markersize=9,
                zorder=4)  # fmt: skip
        side = (12, "left") if rule.size < record.points[-1].size / 2 else (-12, "right")
        words = f"{rule.size:.0f}" + (", nearest" if is_nearest else "")
        ax.annotate(words, (rule.size, y), xytext=(side[0], 0), textcoords="offset points", ha=side[1], va="center",
                    fontsize=11, bbox=PAPER, zorder=3)  # fmt: skip
    ax.set_yticks(list(rows), [rule.formula for rule in record.rules], fontsize=11)
    ax.set_ylim(-0.8 if guess is None else -1.4, len(record.rules) - 0.4)
    if guess:
        shown = min(guess, 1.3 * record.points[-1].size)
        style.guess_mark(ax, shown, -1, side="left" if guess < LEFT else "right")
    ax.grid(axis="y", visible=False)
    ax.set_title(f"The rules; best here: {record.best}")


def _best_in_words(record: SizeSweep) -> str:
    last = record.points[-1]
    article = record.rules[0]
    more = ""
    if record.p99_grows.low > 1 and last.size > record.best:
        more = f" With {last.size} the p99 is {readable(record.p99_grows.median, 'x')} as long."
    return (
        f"{WORK[record.work]}: {record.clients} clients need {record.best} connections for "
        f"{100 * GOOD_ENOUGH:.0f} % of the best throughput; the article's formula says {article.size:.0f}."
        f"{_why(record)}{more}"
    )


def _why(record: SizeSweep) -> str:
    """What the article's formula takes for given, and was not."""
    last = record.points[-1]
    if last.hold.median > STRETCHED * record.hold.median:
        return (
            f" The formula takes the hold time for fixed, but all who compute share {record.cores} cores: alone it is "
            f"{readable(record.hold.median, 'ms')}, with {last.size} connections {readable(last.hold.median, 'ms')}."
        )
    if record.best > record.rules[0].size:
        return " The formula gives how many are in use on average; now and then chance needs more."
    return ""


STRETCHED = 2.0


def needs_two(record: NeedsTwo) -> list[Axes]:
    """A row per client, with as many connections as clients and with one more: waiting for the second (red), both."""
    axes: list[Axes] = list(style.canvas(11.5, 2.3 + 0.4 * record.clients, columns=2))
    for ax, clients, size in (
        (axes[0], record.with_too_few, record.too_few),
        (axes[1], record.with_enough, record.enough),
    ):
        for row, (first, second, ended, got) in enumerate(clients):
            y = record.clients - row
            ax.broken_barh([(first, second - first)], (y - 0.38, 0.76), color=style.RED)
            if got:
                ax.broken_barh([(second, ended - second)], (y - 0.38, 0.76), color=style.BLUE)
            else:
                ax.plot(second, y, "X", color=style.INK, markersize=10, clip_on=False, zorder=5)
        ax.set_ylim(0.3, record.clients + 1.7)
        ax.set_yticks(range(1, record.clients + 1), [""] * record.clients)
        ax.set_xlim(0, 1.06 * max(ended for _, _, ended, _ in (*record.with_too_few, *record.with_enough)))
        ax.grid(axis="y", visible=False)
        ax.set_xlabel("time in ms")
        failures = sum(not got for *_, got in clients)
        ax.set_title(f"{size} connections: {failures} of {record.clients} fail")
    names = [f"client {number}" for number in range(record.clients, 0, -1)]
    axes[0].set_yticks(range(1, record.clients + 1), names)
    for words, colour, x, side in (
        ("holds one, waits for a second", style.RED, 0.01, "left"),
        ("has both", style.BLUE, 0.99, "right"),
    ):
        place: Any = {"xycoords": ("axes fraction", "data"), "ha": side, "va": "center"}
        axes[0].annotate(words, (x, record.clients + 1.1), color=colour, fontsize=12, fontweight="bold", **place)
    words = (
        f"Each of {record.clients} clients holds one connection (red) and needs a second (blue). With {record.too_few} "
        f"connections all wait for each other until the time-out of {record.time_out_ms:g} ms, and "
        f"{record.failed.median:.0f} % fail (in the middle of all rounds); with {record.enough} all are done after "
        f"{readable(record.took_with_enough.median, 'ms')}."
    )
    saved = " Who gets a second one in the end owes it to others that gave up." if record.failed.low < 100 else ""
    quoted = f" The pool's words: {record.error}." if record.error else ""
    style.tell(
        axes[0],
        [record],
        alt=f"Two panels of time lines, a row per client. {words}",
        caption=f"{words}{saved}{quoted}",
    )
    return axes


# What goes wrong

SERVED, WAITS = style.PHASES["query"], style.PHASES["waiting"]
SHADES = ("#8d8d93", "#b4b4ba", "#d6d6db")  # of the services' connections
STRIP, GAP = 5.0, 1.6  # heights of the strip of connections and of the room above it, in rows of requests
QUOTE: Any = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": 10, "va": "bottom"}


def fault(record: Fault, *, guess: float | None = None) -> list[Axes]:
    """A fault above, its cure below: a row per request, and the server's connections; `guess` in % that fail."""
    heights = [1.5 + 0.13 * (len(scene.attempts) + STRIP) + 0.2 * len(_quotes(scene)) for scene in record.scenes]
    figure = Figure(figsize=(9.5, sum(heights)))
    axes: list[Axes] = list(figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    end = 1.04 * max(each.end for scene in record.scenes for each in scene.attempts)
    for ax, scene in zip(axes, record.scenes, strict=True):
        _scene(ax, scene, end)
    _key(axes[0])
    _guess_row(axes[0], record.scenes[0], guess)
    words = " ".join(f"{_capital(scene.title)}: {_outcome(scene, in_full=True)}." for scene in record.scenes)
    style.tell(
        axes[0],
        [record],
        alt=f"Time lines of requests, red while they wait and blue while they are served, above the number of the "
        f"server's connections. {words}",
        caption=f"{_lesson(record)} On {record.server}; grey is what pg_stat_activity showed.".strip(),
    )
    return axes


def _scene(ax: Axes, scene: Scene, end: float) -> None:
    attempts = sorted(scene.attempts, key=lambda each: (scene.services.index(each.service), each.begin))
    for row, each in enumerate(reversed(attempts)):
        got = each.end if each.got is None else each.got
        ax.broken_barh([(each.begin, got - each.begin)], (row - 0.42, 0.84), facecolor=WAITS, lw=0)
        ax.broken_barh([(got, each.end - got)], (row - 0.42, 0.84), facecolor=SERVED, lw=0)
        if each.outcome == "failed":
            ax.plot(each.end, row, "x", color=style.INK, markersize=7, markeredgewidth=2.2, zorder=5)
        elif each.outcome == "waiting":
            ax.plot(each.end, row, ">", color=WAITS, markersize=7, zorder=5)
    _groups(ax, scene, attempts)
    _strip(ax, scene)
    _events(ax, scene, end)
    ax.set_xlim(0, end)
    ax.set_ylim(-GAP - STRIP - 0.6, len(attempts) - 0.4)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("time in ms")
    quotes = _quotes(scene)
    ax.set_title(f"{_capital(scene.title)}: {_outcome(scene)}", fontsize=13.5, pad=9 + 16 * len(quotes))
    for line, words in enumerate(reversed(quotes)):
        ax.annotate(words, (0, 1), xytext=(0, 5 + 16 * line), color=style.FAINT, **QUOTE)


def _groups(ax: Axes, scene: Scene, attempts: Sequence[Attempt]) -> None:
    """Whose the rows are, where there is more than one service; and the two ends of the strip."""
    rows: dict[str, list[int]] = {}
    for row, each in enumerate(reversed(attempts)):
        rows.setdefault(each.service, []).append(row)
    names = rows if len(rows) > 1 else {"requests": list(range(len(attempts)))}
    ticks = {sum(places) / len(places): name for name, places in names.items()}
    ticks |= {-GAP: f"{scene.limit} connections", -GAP - STRIP: "0"}
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.tick_params(axis="y", length=0)


def _strip(ax: Axes, scene: Scene) -> None:
    """The server's connections, the services' above each other, and the limit that it has for them."""
    end = max(each.end for each in scene.attempts)
    times = [time for time, _ in scene.connections]
    floor = [0.0] * len(times)
    for name, shade in zip(scene.services, cycle(SHADES), strict=False):
        top = [low + seen.get(name, 0) for low, (_, seen) in zip(floor, scene.connections, strict=True)]
        low_line, top_line = ([_height(count, scene.limit) for count in (*each, each[-1])] for each in (floor, top))
        ax.fill_between([*times, max(end, times[-1])], low_line, top_line, step="post", color=shade, lw=0)
        floor = top
    ax.axhline(-GAP, color=style.INK, lw=1.4, ls="--")


def _height(count: float, limit: int) -> float:
    return -GAP - STRIP + STRIP * count / limit


def _events(ax: Axes, scene: Scene, end: float) -> None:
    """What happened meanwhile: a line each, its name where no requests are."""
    for place, (time, words) in enumerate(reversed(scene.events)):
        ax.axvline(time, color=style.INK, lw=1.2, ls=":", zorder=3)
        is_late = time > end / 2
        ax.annotate(
            words,
            (time, len(scene.attempts) - 1 if is_late else 2.2 * place + 6),
            xytext=(-6 if is_late else 6, 0),
            textcoords="offset points",
            ha="right" if is_late else "left",
            va="center",
            fontsize=11,
            bbox=PAPER,
            zorder=6,
        )


def _key(ax: Axes) -> None:
    """The colours by name, in the corner below the early requests, which is free."""
    place: Any = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points", "va": "bottom", "zorder": 6}
    for line, (words, colour) in enumerate((("× fails", style.INK), ("is served", SERVED), ("waits", WAITS))):
        at = (6, 16 * line)
        ax.annotate(words, (0, 0.5), xytext=at, color=colour, fontsize=12, fontweight="bold", bbox=PAPER, **place)


def _guess_row(ax: Axes, scene: Scene, guess: float | None) -> None:
    """So many rows from the top, the learner thinks, fail."""
    if guess is None:
        return
    rows = len(scene.attempts)
    y = rows - 0.5 - rows * min(max(guess, 0), 100) / 100
    end = 0.6 * ax.get_xlim()[1]
    ax.set_ylim(top=rows + 0.4)  # room for a guess that none fails
    ax.plot([0, end], [y, y], color=style.GUESS, lw=1.6, ls="--", zorder=4)
    style.guess_mark(ax, end, y, label=f"your guess: {guess:g} % fail")


def _quotes(scene: Scene) -> list[str]:
    """The errors in their own words: what requests were told, and what only the log was."""
    return [f"“{words}”" for words in scene.said[:2]] + [f"in the pool's log: “{words}”" for words in scene.logged[:1]]


def _outcome(scene: Scene, *, in_full: bool = False) -> str:
    """What became of the requests, in words; `in_full` with the slowest."""
    total, failed, waiting = len(scene.attempts), scene.count("failed"), scene.count("waiting")
    parts = [f"{count} of {total} {word}" for count, word in ((failed, "fail"), (waiting, "still wait")) if count]
    words = " and ".join(parts) or f"all {total} are served"
    return f"{words}, the slowest takes {readable(scene.slowest, 'ms')}" if in_full else words


def _lesson(record: Fault) -> str:
    """What to take home, as far as this run showed it."""
    first, last = record.scenes[0], record.scenes[-1]
    if record.which == "leak" and record.until_error:
        told = readable(record.until_error.median, "ms")
        return f"Once the pool is dry every request waits in vain, and is told so after {told}, its time-out."
    if first.logged and not any("FATAL" in words for words in first.said):
        closed = any(words.startswith("PoolClosed") for words in first.said)
        gave_up = " (`wait` closes the pool when its time is up, hence PoolClosed.)" if closed else ""
        return (
            f"Above, the server says what is wrong, but to the pool, which tries again and again in the background."
            f"{gave_up}"
        )
    if record.which == "killed" and record.recovery:
        backed_off = record.scenes[1]
        lost = backed_off.count("failed")
        price = (
            f"so that {lost} ran out of time" if lost else f"and the slowest took {readable(backed_off.slowest, 'ms')}"
        )
        return (
            f"Without a look at them each dead connection costs one request. With a look at each, a request pauses "
            f"from the second dead one on, for a second or more, {price}. One pool.check() had all open again after "
            f"{readable(record.recovery.median, 'ms')}."
        )
    if record.which == "no-time-out":
        return (
            f"A time-out does not make the pool serve more. It bounds the wait: nobody took longer than "
            f"{readable(last.slowest, 'ms')}, and who can't be served knows it."
        )
    return ""


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


# Build one

POOLS = {  # name, colour and marker
    "ours": ("ours", style.PURPLE, "^"),
    "library": ("psycopg_pool", style.BLUE, "o"),
    "queue": ("a plain queue", style.GREY, "v"),
}


# What the library does and ours does not: what, by which of its words, and what becomes of it in ours
DIFFERENCES = (
    ("looks whether a connection still works before it lends it", "check=", "lends a dead one, and that request fails"),
    ("replaces connections of a certain age", "max_lifetime=", "keeps each as long as it works"),
    (
        "connects again in the background, with growing pauses",
        "reconnect_timeout=, reconnect_failed=",
        "the request that needs a connection opens it, and hears what the server says",
    ),
    ("keeps some open in advance, closes those that nobody needs", "min_size=, max_idle=", "opens late, closes none"),
    ("ends the transaction of one who gives back", "connection(), reset=", "leaves that to its users"),
    ("refuses when too many wait already", "max_waiting=", "any number may wait, until the time-out"),
    ("changes its size while it runs", "resize()", "its size is for ever"),
    ("counts: lent, queued, waited, lost", "get_stats()", "counts nothing"),
    ("comes for asyncio too", "AsyncConnectionPool", "for threads alone"),
)


class Differences:
    """The table of `DIFFERENCES`, for the last line of a cell or a terminal."""

    HEADINGS = ("What psycopg_pool does", "By", "Ours")

    def _repr_html_(self) -> str:
        return html_table("What the library does and ours does not", self.HEADINGS, DIFFERENCES)

    def __repr__(self) -> str:
        return text_table(self.HEADINGS, DIFFERENCES)


def build_one(record: BuildOne, *, ghost: BuildOne | None = None) -> list[Axes]:
    """Three pools: how many requests a second each serves, and how long it lets one wait."""
    axes = list(style.canvas(11, 3.9, columns=2))
    titles = ("Requests served", "The longest wait of one")
    for ax, name, title in zip(axes, ("throughput", "longest"), titles, strict=True):
        for row, pool in enumerate(reversed(record.pools)):
            _, colour, marker = POOLS[pool.name]
            style.dot(ax, getattr(pool, name), row, colour, marker)
        for row, pool in enumerate(reversed(ghost.pools if ghost else ())):
            style.ghost_dot(ax, getattr(pool, name), row)
        ax.set_ylim(-0.5, len(record.pools) - 0.35)
        ax.grid(axis="y", visible=False)
        ax.set_title(title)
    rows = range(len(record.pools))[::-1]
    axes[0].set_yticks(list(rows), [POOLS[pool.name][0] for pool in record.pools])
    shares = [f"{POOLS[pool.name][0]}\n{readable(pool.overtaking.median, '%')} overtake" for pool in record.pools]
    axes[1].set_yticks(list(rows), shares)
    axes[0].set_xlim(0, 1.25 * max(pool.throughput.high for pool in record.pools))
    axes[0].xaxis.set_major_locator(MaxNLocator(5))
    axes[0].xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes[0].set_xlabel("requests/s")
    axes[1].set_xscale("log")
    waits = [pool.longest for pool in record.pools]
    axes[1].set_xlim(min(each.low for each in waits) / 2, 2.5 * max(each.high for each in waits))
    style.time_axis(axes[1].xaxis, "ms")
    axes[1].set_xlabel("time until it got a connection (log scale)")
    style.ghost_note(axes[1], ghost.reference if ghost else None)
    style.tell(
        axes[0],
        [record],
        alt=f"Dots with intervals for three pools. Requests a second: "
        f"{style.sentence({POOLS[each.name][0]: each.throughput for each in record.pools})}. Longest wait: "
        f"{style.sentence({POOLS[each.name][0]: each.longest for each in record.pools})}.",
        caption=f"{record.threads} threads share {record.connections} connections. Ours serves "
        f"{style.stated(record.throughput_ratio)} as many requests as psycopg_pool. Right: each holds its connection "
        f"for {readable(1000 * HOLD_S, 'ms')}{_starved(record)}.{_overtaken(record)}",
    )
    return axes


def _starved(record: BuildOne) -> str:
    """What a wait means that is as long as the run."""
    window = record.parameters.get("window_ms")
    if window is None or max(pool.longest.median for pool in record.pools) < 0.95 * window:
        return ""
    return f"; who waited through the whole run of {window} ms got nothing"


def _overtaken(record: BuildOne) -> str:
    """Why a plain queue lets newcomers overtake, where it did."""
    ours, _, plain = (pool.overtaking for pool in record.pools)
    if plain.low <= ours.high:
        return ""
    return (
        f" At a plain queue {readable(plain.median, '%')} overtake one that waits: who gives a connection back takes "
        f"it again before anybody who waits has woken up."
    )
