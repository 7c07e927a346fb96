"""The figures of notebook 04."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from helpers.claims import claim
from helpers.experiments.the_gil import AcrossInterpreters, Convoy, Handoffs, Interpreter, SpeedupByWork
from helpers.figures import style
from helpers.figures.style import COLOURS, MARKERS, readable
from helpers.measure import Estimate

# Watching it change hands

SHADES = ("#f89c20", "#8a4a00", "#ffd08a", "#c26a00")  # of the threads' orange, apart in lightness
TURNS_SHOWN = 6  # of the longest switch interval


def handoffs(records: Sequence[Handoffs], *, guess: float | None = None, ax: Axes | None = None) -> Axes:
    """Which thread ran when, a row per thread, one group of rows per record; `guess` in ms is for the first record."""
    rows = sum(record.threads + 1 for record in records)
    ax = ax or style.canvas(9.5, 1.5 + 0.55 * rows)
    shown = TURNS_SHOWN * max(record.interval_ms for record in records)
    row, ticks = rows, {}
    for record in records:
        row -= 1
        _interval_above(ax, record, row, shown)
        if record is records[0]:
            _guess_along(ax, guess, row + 0.55, shown)
        for thread in range(record.threads):
            row -= 1
            ticks[row] = f"thread {thread + 1}"
            blocks = [(begin, min(end, shown) - begin) for begin, end in _blocks(record, thread) if begin < shown]
            ax.broken_barh(
                blocks, (row - 0.42, 0.84), facecolor=SHADES[thread % len(SHADES)], edgecolor="white", lw=0.8
            )
    ax.set_xlim(0, shown)
    ax.set_ylim(-0.6, rows - (0 if guess else 0.45))
    ax.set_yticks(list(ticks), list(ticks.values()))
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("time in ms, since the first of these turns began")
    ax.set_title("Who runs when" if not all(record.gil for record in records) else "The GIL changes hands")
    words = " ".join(map(_turns_in_words, records))
    return style.tell(
        ax,
        records,
        alt=f"Time lines of {records[0].threads} threads, coloured where they ran. {words}",
        caption=words,
    )


def _blocks(record: Handoffs, thread: int) -> list[tuple[float, float]]:
    """When a thread ran; the turn that the beginning cut off is left out, and the next begins at 0."""
    whole = record.turns[1:] if record.gil and len(record.turns) > 2 else record.turns
    start = whole[0][1] if whole else 0.0
    return [(begin - start, end - start) for who, begin, end in whole if who == thread]


def _interval_above(ax: Axes, record: Handoffs, row: float, shown: float) -> None:
    """The switch interval as a measure above its group, and what came of it."""
    if record.gil:
        end, y = min(record.interval_ms, shown), row - 0.18
        ax.plot([0, end], [y, y], color=style.INK, lw=2, marker="|", markersize=9, clip_on=False, zorder=5)
        words = f"switch interval {record.interval_ms:g} ms; a turn lasts {readable(record.holding.median, 'ms')}"
    else:
        end = 0.0
        words = f"no GIL: two or more run at once {record.overlap.median:.0%} of the time"
    place: Any = {"xytext": (8, 3), "textcoords": "offset points", "va": "bottom", "fontsize": 12}
    ax.annotate(words, (0 if end > shown / 3 else end, row - 0.18), **place)


def _guess_along(ax: Axes, guess: float | None, y: float, shown: float) -> None:
    """The guess as a measure of its own; one that is too long for the picture says how long it is."""
    if guess is None:
        return
    end = min(guess, 0.99 * shown)
    ax.plot([0, end], [y, y], color=style.GUESS, lw=2, zorder=5)
    label = "your guess" if guess <= shown else f"your guess: {readable(guess, 'ms')}"
    is_long = end > shown / 2
    style.guess_mark(ax, end, y, label="" if is_long else label)
    if is_long:
        ax.annotate(label, (end, y + 0.22), ha="right", va="bottom", fontsize=11, color=style.GUESS)


def _turns_in_words(record: Handoffs) -> str:
    if not record.gil:
        return (
            f"Without a GIL nothing is handed over: {record.threads} threads overlap "
            f"{record.overlap.median:.0%} of the time."
        )
    gap = f" Handing it over takes {readable(record.gap.median, 'µs')}." if record.gap else ""
    return (
        f"At a switch interval of {record.interval_ms:g} ms a thread holds the GIL for {record.holding}, "
        f"{record.against_interval.median:.2f} times the interval; two at once: {record.overlap.median:.0%}.{gap}"
    )


# Computing and waiting

WORDS = {
    "pure-python": "pure Python",
    "waiting": "waiting",
    "sha256": "sha256 of 1 MiB",
    "sha256-small": "sha256 of\n1,000 bytes",
    "zlib": "zlib of 256 KiB",
    "numpy": "numpy matrices",
}
PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
CLAIMS = {"pure-python": "python-threads-cpu", "waiting": "python-threads-io"}


def speedup_by_work(
    records: Sequence[SpeedupByWork],
    *,
    guess: float | None = None,
    ghosts: Sequence[SpeedupByWork | None] = (),
    ax: Axes | None = None,
) -> Axes:
    """One row per kind of work: the speed-up by threads and by processes; `guess` is for the first row's threads."""
    ax = ax or style.canvas(9.5, 1.6 + 0.85 * len(records))
    workers = max(record.workers for record in records)
    highest = max(figure.high for record in records for figure in (record.threads, record.processes))
    right = max(1.3 * workers, 1.25 * highest, 1.1 * min(guess or 0, 2 * workers))
    rows = range(len(records))[::-1]
    for row, record, ghost in zip(rows, records, [*ghosts, *[None] * len(records)], strict=False):
        _article(ax, record, row, right)
        for kind, figure, shift in (("threads", record.threads, 0.2), ("processes", record.processes, -0.2)):
            name = f"{kind} " if row == rows[0] else ""
            words = f"{name}{readable(figure.median, 'x')}"
            style.dot(ax, figure, row + shift, COLOURS[kind], MARKERS[kind], " ")
            _name_right(ax, words, figure.high, row + shift)
        style.ghost_dot(ax, ghost.threads if ghost else None, row + 0.2)
        style.ghost_dot(ax, ghost.processes if ghost else None, row - 0.2)
    _guess_below(ax, guess, rows[0] - 0.46, 2 * workers)
    for x, words in ((1, "no gain"), (workers, "ideal")):
        ax.axvline(x, color=style.FAINT, lw=1.2, ls="--", zorder=1)
        place: Any = {"xycoords": ("data", "axes fraction"), "xytext": (5, -2), "textcoords": "offset points"}
        ax.annotate(words, (x, 1), va="top", fontsize=11, color=style.FAINT, **place)
    ax.set_xlim(0, right)
    ax.set_ylim(-0.6, len(records) - 0.25)
    ax.set_yticks(list(rows), [WORDS[record.work] for record in records])
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(f"speed-up: work done by {workers} in the time of one")
    ax.set_title(f"What {workers} workers gain" if workers > 2 else "What a second worker gains")
    style.ghost_note(ax, next((ghost.reference for ghost in ghosts if ghost), None))
    words = "; ".join(map(_gains_in_words, records))
    return style.tell(
        ax,
        records,
        alt=f"Two dots per kind of work, threads and processes, on an axis of speed-ups: {words}.",
        caption=f"What {workers} threads (squares) and {workers} processes (dots) do in the time of one, with 95 % "
        f"intervals. Grey is what we take the article's words on threads to allow; it gives no figures."
        + _let_go(records),
    )


def _guess_below(ax: Axes, guess: float | None, y: float, most: float, scale: float = 1.0) -> None:
    """The guess, `scale` of the axis for each 1 of it; one that is too high for the picture says how high it is."""
    if guess is not None:
        label = "your guess" if guess <= most else f"your guess: {guess:g}x"
        side = "left" if guess < most / 2 else "right"
        style.guess_mark(ax, min(guess, most) * scale, y, label=label, side=side)


def _name_right(ax: Axes, words: str, x: float, y: float) -> None:
    """Words beside a mark, over whatever line is there."""
    place: Any = {"xytext": (10, 0), "textcoords": "offset points", "va": "center", "fontsize": 12}
    ax.annotate(words, (x, y), bbox=PAPER, zorder=3, **place)


def _article(ax: Axes, record: SpeedupByWork, row: float, right: float) -> None:
    """What the article says of threads at this work, behind the row."""
    if record.work in CLAIMS:
        said = claim(CLAIMS[record.work])
        ends = (said.low or 0, said.high if said.high is not None else right)
        ax.fill_between(ends, row, row + 0.42, color=style.CLAIM, zorder=0, lw=0)
        ax.annotate("article", (ends[0], row + 0.42), xytext=(5, -3), textcoords="offset points", va="top", fontsize=11,
                    color=style.FAINT)  # fmt: skip


def _gains_in_words(record: SpeedupByWork) -> str:
    by_threads, by_processes = readable(record.threads.median, "x"), readable(record.processes.median, "x")
    return f"{WORDS[record.work]} {by_threads} by threads and {by_processes} by processes".replace("\n", " ")


def _let_go(records: Sequence[SpeedupByWork]) -> str:
    """One function, two sizes: whether it lets go of the GIL is a matter of size."""
    by_work = {record.work: record.threads for record in records}
    if not {"sha256", "sha256-small"} <= by_work.keys() or by_work["sha256"].low <= by_work["sha256-small"].high:
        return ""
    return (
        " The same function gains from threads with large blocks and not with small ones, for which it keeps the GIL."
    )


# The convoy


def convoy(
    records: Sequence[Convoy],
    *,
    guess: float | None = None,
    ghosts: Sequence[Convoy | None] = (),
    ax: Axes | None = None,
) -> Axes:
    """How late a waiting thread is told, by switch interval: alone, and beside others that compute; `guess` in ms."""
    ax = ax or style.canvas(9.5, 5.2)
    records = sorted(records, key=lambda record: record.interval_ms)
    intervals = [record.interval_ms for record in records]
    ends = (intervals[0] / 2, intervals[-1])
    ax.plot(ends, ends, color=style.FAINT, ls=":", lw=1.6, zorder=1)
    below: Any = {"xytext": (6, -6), "textcoords": "offset points", "va": "top", "fontsize": 11}
    ax.annotate("one switch interval", (ends[0], ends[0]), color=style.FAINT, **below)
    lines = (
        ([record.beside for record in records], style.ORANGE, "s", _beside(records[0])),
        ([record.idle for record in records], style.FAINT, "o", "alone"),
    )
    times = records[-1].beside.median / records[-1].idle.median
    is_close = 0.4 < times < 2.5
    sides = (1, -1) if times > 1 else (-1, 1)  # on which the words of each have room
    for (figures, colour, marker, words), side in zip(lines, sides, strict=True):
        _columns(ax, intervals, figures, colour, marker, side)
        dx, dy = (44, 18 * side) if is_close else (14, 0)
        style.name_line(ax, intervals[-1], figures[-1].median, words, colour, dx=dx, dy=dy)
    worst = [record.slowest_beside.median for record in records]
    ax.plot(intervals, worst, "_", color=style.ORANGE, markersize=18, markeredgewidth=2.4, zorder=3)
    far = max(records, key=lambda record: record.slowest_beside.median / record.beside.median)
    if far.slowest_beside.median > 1.4 * far.beside.median and not is_close:
        style.name_line(
            ax, far.interval_ms, far.slowest_beside.median, "slowest", style.ORANGE, dx=0, dy=11, ha="center"
        )
    for ghost in ghosts:
        if ghost is not None:
            for figure in (ghost.beside, ghost.idle):
                ax.plot(ghost.interval_ms, figure.median, "o", markerfacecolor="none", markeredgecolor=style.GHOST,
                        markersize=17, markeredgewidth=2.2, zorder=2)  # fmt: skip
    style.ghost_note(ax, next((ghost.reference for ghost in ghosts if ghost), None))
    asked = min(intervals, key=lambda interval: abs(interval - 5))
    style.guess_mark(ax, asked, guess, side="right")
    ax.set_xscale("log")
    ax.set_yscale("log")
    style.count_axis(ax.xaxis, intervals)
    style.time_axis(ax.yaxis, "ms")
    ax.set_xlim(ends[0], intervals[-1] * 6)
    seen = [
        value
        for each in records
        for value in (each.idle.low, each.slowest_beside.median, each.beside.high)
        if value > 0
    ]
    ax.set_ylim(min(*seen, guess or 1) / 4, max(*seen, guess or 1, ends[1]) * 2)
    ax.set_xlabel("switch interval in ms (log scale)")
    ax.set_ylabel("until the message is seen (log scale)")
    ax.set_title("One thread computes, another waits for messages" if records[0].threads == 1 else "The convoy")
    words = " ".join(_late_in_words(record) for record in records)
    usual = min(records, key=lambda record: abs(record.interval_ms - 5))
    return style.tell(
        ax,
        records,
        alt=f"Latency against switch interval, both logarithmic, alone and beside computing threads. {words}",
        caption=f"{_late_in_words(usual)} Marks are the typical message with its 95 % interval, dashes the slowest of "
        f"a run.",
    )


def _beside(record: Convoy) -> str:
    return "beside one\nthat computes" if record.threads == 1 else f"beside {record.threads}\nthat compute"


def _columns(ax: Axes, xs: Sequence[float], figures: Sequence[Estimate], colour: str, marker: str, side: int) -> None:
    """Estimates with their intervals upright, joined by a line; their values above (`side` 1) or below (-1) them."""
    medians = [each.median for each in figures]
    ends = [[each.median - each.low for each in figures], [each.high - each.median for each in figures]]
    look: Any = {"elinewidth": 5, "markersize": 10, "markeredgecolor": style.INK, "markeredgewidth": 0.8}
    ax.errorbar(xs, medians, yerr=ends, fmt=f"{marker}-", color=colour, ecolor=colour, zorder=4, **look)
    above = {"xytext": (-9, 7), "ha": "right", "va": "bottom"}
    below = {"xytext": (0, -10), "ha": "center", "va": "top"}
    place: Any = {"textcoords": "offset points", **(above if side > 0 else below)}
    for x, each in zip(xs, figures, strict=True):
        at = (x, each.median if side > 0 else each.low)
        ax.annotate(readable(each.median, each.unit), at, fontsize=11.5, zorder=7, **place)


def _late_in_words(record: Convoy) -> str:
    times = record.beside.median / record.idle.median
    end = f": {float(f'{times:.2g}'):,.0f} times as late" if record.beside.low > record.idle.high else ""
    return (
        f"At {record.interval_ms:g} ms a message is seen after {readable(record.idle.median, 'ms')} alone and "
        f"{readable(record.beside.median, 'ms')} beside a computing thread{end}."
    )


# Life without it


def across_interpreters(
    record: AcrossInterpreters, *, guess: float | None = None, ghost: AcrossInterpreters | None = None
) -> list[Axes]:
    """A row per interpreter, four columns; rows that are missing here are the reference run's, pale.

    `guess` is the time of a single thread without the GIL, over that with it.
    """
    rows = _rows(record, ghost)
    axes: list[Axes] = list(style.canvas(13, 1.9 + 0.8 * len(rows), columns=4))
    threads, apart, alone, lost = axes
    places = range(len(rows))[::-1]
    slowest = max(one.step.high for one, _ in rows)
    for y, (one, source) in zip(places, rows, strict=True):
        pale, first = source is not record, y == places[0]
        _mark(threads, one.threads, y, style.ORANGE, "s", pale)
        _mark(apart, one.subinterpreters, y, style.RED, "P", pale)
        price, twin = source.price(one), source.twin(one)
        _mark(alone, one.step, y, style.BLUE, "o", pale, f" ({price.median:.1f}x)" if price else "")
        _mark(lost, one.lost_in_steps, y - 0.12, style.PURPLE, "v", pale, " in steps" if first else "", below=True)
        _mark(lost, one.lost_in_one_line, y + 0.12, style.PURPLE, "^", pale, " in one line" if first else "")
        if price and twin:
            _guess_below(alone, guess, y - 0.3, 1.4 * slowest / twin.step.median, scale=twin.step.median)
    titles = ("Two threads", "Subinterpreters", "One thread", "Lost updates")
    units = ("speed-up", "speed-up of two", "ns per step", "% of two threads' updates")
    for ax, title, words in zip(axes, titles, units, strict=True):
        ax.set_title(title, fontsize=14)
        ax.set_xlabel(words)
        ax.set_ylim(-0.6, len(rows) - 0.3)
        ax.set_yticks(list(places), [""] * len(rows))
    threads.set_yticks(list(places), [_called(one, source, record) for one, source in rows])
    for ax in (threads, apart):
        gained = [each.high for one, _ in rows for each in (one.threads, one.subinterpreters) if each]
        ax.set_xlim(0, max(2.4, 1.15 * max(gained)))
        for x in (1, 2):
            ax.axvline(x, color=style.FAINT, lw=1.2, ls="--", zorder=1)
    alone.set_xlim(0, 1.5 * slowest)
    lost.set_xlim(-3, max(30, 1.3 * max(max(one.lost_in_steps.high, one.lost_in_one_line.high) for one, _ in rows)))
    words = "; ".join(_can(one, source) for one, source in rows)
    ours = readable(record.interpreters[0].threads.median, "x")
    style.tell(
        threads,
        [record],
        alt=f"A table of dots, a row per Python: {words}.",
        caption=f"Under this Python two threads do {ours} the pure Python of one.{_worth(rows)}{_lost(rows)}"
        f"{_built([one for one, _ in rows])}{_borrowed(rows, record, ghost)}",
    )
    return axes


Row = tuple[Interpreter, AcrossInterpreters]  # and the record that it is from


def _rows(record: AcrossInterpreters, ghost: AcrossInterpreters | None) -> list[Row]:
    """Oldest version first."""
    here = {one.name for one in record.interpreters}
    rows = [(one, record) for one in record.interpreters]
    if ghost:
        rows += [(one, ghost) for one in ghost.interpreters if one.name not in here]
    return sorted(rows, key=lambda row: (row[0].minor, row[0].free_threaded))


def _called(one: Interpreter, source: AcrossInterpreters, record: AcrossInterpreters) -> str:
    which = "this one" if one is record.interpreters[0] else "" if source is record else "reference run"
    return f"{one.name}, {'GIL' if one.gil else 'no GIL'}" + (f"\n{which}" if which else "")


def _mark(
    ax: Axes,
    figure: Estimate | None,
    y: float,
    colour: str,
    marker: str,
    pale: bool,
    words: str = "",
    below: bool = False,
) -> None:
    """An estimate on a linear axis, which has a place for 0; `below`: the second of a row, hollow, its words below."""
    if figure is None:
        ax.annotate("share one GIL", (1.1, y), va="center", fontsize=11, color=style.FAINT, bbox=PAPER)
        return
    colour, edge = (style.GHOST, style.FAINT) if pale else (colour, style.INK)
    ends = [[figure.median - figure.low], [figure.high - figure.median]]
    look: Any = {"ecolor": colour, "elinewidth": 5, "markersize": 10, "markeredgecolor": edge, "markeredgewidth": 0.8}
    ax.errorbar(figure.median, y, xerr=ends, fmt=marker, color="white" if below else colour, zorder=4, **look)
    place: Any = {"textcoords": "offset points", "xytext": (0, -9 if below else 9), "va": "top" if below else "bottom"}
    side = "left" if figure.median == 0 else "center"  # 0 is at the edge
    ax.annotate(
        f"{readable(figure.median, figure.unit)}{words}", (figure.median, y), ha=side, fontsize=11, zorder=7, **place
    )


def _can(one: Interpreter, source: AcrossInterpreters) -> str:
    price = source.price(one)
    alone = f", one thread takes {price} as long as with the GIL".replace(" x ", " times ") if price else ""
    apart = f", {readable(one.subinterpreters.median, 'x')} by subinterpreters" if one.subinterpreters else ""
    gained = f"{readable(one.threads.median, 'x')} by threads{apart}"
    return f"{one.name} {'with' if one.gil else 'without'} the GIL {gained}{alone}"


def _worth(rows: Sequence[Row]) -> str:
    """What two threads gain without the GIL against one thread with it."""
    words = ""
    for one, source in rows:
        if price := source.price(one):
            words += (
                f" {one.name}: one thread takes {price.median:.2f} times ({price.low:.2f} to {price.high:.2f}) as long "
                f"as with the GIL, so two threads, {one.threads.median:.2f} times as fast, do "
                f"{one.threads.median / price.median:.2f} times the work of one with the GIL."
            )
    return words


def _lost(rows: Sequence[Row]) -> str:
    """What the GIL hid."""
    held = max((one.lost_in_one_line.median for one, _ in rows if one.gil), default=None)
    free = max((one.lost_in_one_line.median for one, _ in rows if not one.gil), default=None)
    if held is None or free is None or free <= held:
        return ""
    return f" Of updates in one line {held:.0f} % were lost with the GIL, and {free:.0f} % without."


def _borrowed(rows: Sequence[Row], record: AcrossInterpreters, ghost: AcrossInterpreters | None) -> str:
    """Which rows were not measured here."""
    names = [one.name for one, source in rows if source is not record]
    return f" Pale, from the reference run on {ghost.reference}: {', '.join(names)}." if ghost and names else ""


def _built(rows: Sequence[Interpreter]) -> str:
    """Times of one thread compare versions only where all were built alike."""
    plain = [one.name for one in rows if one.optimised is False]
    if len(plain) == len(rows):
        return " All of these builds are unoptimised, slower than most people's."
    return f" Built without optimisation, so slower than most: {', '.join(plain)}." if plain else ""
