"""The figures of notebook 03."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes

from helpers.claims import claim
from helpers.experiments.context_switching import (
    Handoff,
    MemoryLadder,
    Oversubscription,
    SwitchCounts,
    WorkingSetCost,
)
from helpers.figures import style
from helpers.figures.style import COLOURS, MARKERS, bytes_text, readable
from helpers.measure import Estimate

KIB, MIB = 1024, 1024 * 1024


def handoff(
    records: Sequence[Handoff],
    *,
    guess: float | None = None,
    ghosts: Sequence[Handoff | None] = (),
    ax: Axes | None = None,
) -> Axes:
    """One row per kind of context: the cost of a switch, its interval, and the same from a Python loop (hollow)."""
    ax = ax or style.canvas(9, 1.7 + 0.66 * len(records))
    style.claim_band(ax, claim("direct-switch"))
    rows = range(len(records))[::-1]
    for row, record, ghost in zip(rows, records, [*ghosts, *[None] * len(records)], strict=False):
        colour, marker = COLOURS[record.between], MARKERS[record.between]
        if record.python != record.cost and record.python.median > 0:
            style.open_dot(ax, record.python.median, row, colour, marker, "in Python" if row == rows[0] else "")
        style.dot(ax, record.cost, row, colour, marker)
        style.ghost_dot(ax, ghost.cost if ghost else None, row)
    style.guess_mark(ax, guess, rows[0] - 0.36)
    ax.set_xscale("log")
    ax.set_xlim(0.005, 1000)
    ax.set_ylim(-0.6, len(records) - 0.05)
    ax.set_yticks(list(rows), [_who(record) for record in records])
    ax.grid(axis="y", visible=False)
    style.time_axis(ax.xaxis, "µs")
    ax.set_xlabel("one switch (log scale)")
    ax.set_title("The price of handing over control")
    style.ghost_note(ax, next((ghost.reference for ghost in ghosts if ghost), None))
    figures = {_who(record).replace("\n", " "): record.cost for record in records}
    first = records[0]
    said = claim("direct-switch").said
    return style.tell(
        ax,
        records,
        alt=f"Dots on a logarithmic time axis, one per kind of context: {style.sentence(figures)}. A grey band "
        f"marks {said}.",
        caption=f"One switch between two {first.between} ({first.placement}) takes {first.cost} here; "
        f"{first.method}, less "
        f"{first.subtracted}. The bar is the 95 % interval; hollow marks are the same loop in Python. "
        f"The article says {said}.",
    )


def _who(record: Handoff) -> str:
    """What hands over, where, and by which clock: CPU time and wall clock are not the same thing."""
    where = {"same core": "one core, ", "two cores": "two cores, ", "free": "any core, "}.get(record.placement, "")
    return f"{record.between}\n({where}{'CPU time' if 'CPU' in record.method else 'wall clock'})"


def switch_counts(records: Sequence[SwitchCounts], *, guess: float | None = None, ax: Axes | None = None) -> Axes:
    """For each placement: of 100 switches that we caused, how many the kernel booked as voluntary and involuntary."""
    ax = ax or style.canvas(9, 1.8 + 0.85 * len(records))
    for row, record in zip(range(len(records))[::-1], records, strict=True):
        start = 0.0
        for part, colour, words in (
            (record.voluntary, style.BLUE, "voluntary"),
            (record.involuntary, style.ORANGE, "involuntary"),
        ):
            ax.barh(row, part.median, left=start, color=colour, height=0.55, edgecolor="white")
            if part.median > 12:
                ax.text(
                    start + part.median / 2, row, f"{part.median:.0f} % {words}", ha="center", va="center", fontsize=12
                )
            start += part.median
    ax.axvline(100, color=style.INK, lw=1.5)
    ax.annotate("caused", (100, 1), xycoords=("data", "axes fraction"), xytext=(5, -2), textcoords="offset points",
                va="top", fontsize=11, color=style.INK)  # fmt: skip
    style.guess_mark(ax, guess, len(records) - 0.58, side="right")
    ax.set_yticks(list(range(len(records))[::-1]), [record.placement for record in records])
    ax.set_xlim(0, max(112, *(record.total.high * 1.08 for record in records)))
    ax.set_ylim(-0.5, len(records) - 0.3)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("switches that the kernel counted, in % of those we caused")
    ax.set_title("Who gave up the core?")
    first = records[0]
    return style.tell(
        ax,
        records,
        alt="Stacked bars: "
        + "; ".join(
            f"{record.placement}: {record.voluntary.median:.0f} % voluntary, {record.involuntary.median:.0f} % "
            f"involuntary"
            for record in records
        )
        + ".",
        caption=f"We caused {first.caused:,} switches in each pair of processes. On the {first.placement} the "
        f"kernel counted "
        f"{_percent(first.total)} of them, and booked {_percent(first.voluntary)} as voluntary, although both "
        f"sides did nothing "
        "but wait for each other.",
    )


def _percent(figure: Estimate) -> str:
    low, high = f"{figure.low:.1f}", f"{figure.high:.1f}"
    return f"{figure.median:.1f} %" + (f" ({low} to {high})" if low != high else "")


def memory_ladder(
    record: MemoryLadder, *, guess: float | None = None, ghost: MemoryLadder | None = None, ax: Axes | None = None
) -> Axes:
    """Latency of a dependent load against the size of the array, with the article's figure for each level."""
    ax = ax or style.canvas(9, 5.4)
    if ghost is not None:
        ax.plot(ghost.sizes, [each.median for each in ghost.huge], color=style.GHOST, lw=5, alpha=0.45, zorder=1)
        style.ghost_note(ax, ghost.reference, "line")
    style.ribbon(
        ax,
        record.sizes,
        record.ordinary,
        style.ORANGE,
        "s",
        label=f"{bytes_text(float(record.machine['page_bytes']))} pages",
        lw=1.6,
    )
    style.ribbon(ax, record.sizes, record.huge, style.BLUE, "o", label="huge pages", lw=2.4)
    ax.set_yscale("log")
    ax.set_ylim(0.5, max(1000, 4 * record.ordinary[-1].high, 4 * record.huge[-1].high))
    _mark_caches(ax, record.caches, record.sizes)
    _mark_levels(ax, record)
    style.guess_mark(ax, record.sizes[-1], guess, side="right")
    style.size_axis(ax, [size for size in record.sizes if size in {4 * KIB << (2 * step) for step in range(12)}])
    ax.set_yticks([1, 10, 100, 1000])
    style.time_axis(ax.yaxis, "ns")
    ax.set_xlim(record.sizes[0] / 1.2, record.sizes[-1] * 1.6)
    ax.set_xlabel("size of the array (log scale)")
    ax.set_ylabel("one dependent load (log scale)")
    ax.set_title("The memory ladder, read off this machine")
    ax.legend(loc="upper left", facecolor="white", edgecolor="white", framealpha=1, fontsize=12)
    levels = {level: figure for level, figure in record.figures().items() if level in record.levels}
    missing = "; ".join(f"{level} ({why})" for level, why in record.unseen.items())
    return style.tell(
        ax,
        [record],
        alt=f"Latency against array size on logarithmic axes, rising in steps: {style.sentence(levels)}. "
        + (f"Not read: {missing}." if missing else ""),
        caption=f"Read at the marked points: {style.sentence(levels)}. Dashed lines are the caches that the "
        f"system reports, grey "
        f"bars the article's figures. {_tlb(record)}" + (f" Not read: {missing}." if missing else ""),
    )


def _tlb(record: MemoryLadder) -> str:
    """What the page size costs at the far end, as far as the intervals can tell."""
    ordinary, huge = record.ordinary[-1], record.huge[-1]
    size = bytes_text(record.sizes[-1])
    if ordinary.low <= huge.high:
        return f"At {size} this run cannot tell ordinary from huge pages."
    return (
        f"At {size} ordinary pages cost {ordinary.median / huge.median:.2f} times what huge ones do: the TLB's share."
    )


def _mark_caches(ax: Axes, caches: dict[str, int], sizes: Sequence[int]) -> None:
    for level, size in caches.items():
        if size <= sizes[-1]:
            style.mark_x(ax, size, f"{level} ends\n{bytes_text(size)}")


def _mark_levels(ax: Axes, record: MemoryLadder) -> None:
    """The article's figure for every level where the level should be, and ours where it was seen."""
    for level, size in _places(record).items():
        said = claim(f"{level.lower()}-latency")
        wide = (size / 2.2, min(size * 2.2, record.sizes[-1] * 1.6))
        ax.fill_between(wide, [said.low or 0] * 2, [said.high or 0] * 2, color=style.CLAIM, zorder=0, lw=0)
        if level == "L1":
            ax.annotate("article", (record.sizes[0], (said.low or 0) * 1.15), fontsize=10, color=style.FAINT)
    for level, index in record.levels.items():
        size, figure = record.sizes[index], record.huge[index]
        ax.plot(size, figure.median, "o", color=style.BLUE, markersize=12, markeredgecolor=style.INK, zorder=5)
        side = "right" if level == "RAM" else "center"
        place: Any = {"xytext": (0, 16), "textcoords": "offset points", "ha": side, "zorder": 6}
        paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}
        words = f"{level}  {readable(figure.median, 'ns')}"
        ax.annotate(words, (size, figure.median), fontweight="bold", bbox=paper, **place)


def _places(record: MemoryLadder) -> dict[str, float]:
    """A size for each level: where it was seen, else in the middle of what the system says of the cache."""
    ends = [record.sizes[0], *(size for _, size in sorted(record.caches.items()))]
    middles = {
        level: (above * size) ** 0.5 for above, (level, size) in zip(ends, sorted(record.caches.items()), strict=False)
    }
    seen = {level: float(record.sizes[index]) for level, index in record.levels.items()}
    return {level: size for level, size in (middles | seen).items() if size <= record.sizes[-1]}


def working_set_cost(
    records: Sequence[WorkingSetCost],
    *,
    guess: float | None = None,
    ghosts: Sequence[WorkingSetCost | None] = (),
    ax: Axes | None = None,
) -> Axes:
    """What a switch costs by the data that each side touches, beside what it would cost if every line came from RAM."""
    ax = ax or style.canvas(9, 5.2)
    first = records[0]
    sizes = [size or first.sizes[1] / 2 for size in first.sizes]  # a logarithmic axis has no place for 0
    colours = {"in-order": (style.BLUE, "o", "read in order"), "at-random": (style.RED, "s", "read at random")}
    for ghost in ghosts:
        if ghost is not None:
            ax.plot([size or ghost.sizes[1] / 2 for size in ghost.sizes], [each.median for each in ghost.extra],
                    color=style.GHOST, lw=5, alpha=0.45, zorder=1)  # fmt: skip
    style.ghost_note(ax, next((ghost.reference for ghost in ghosts if ghost), None), "lines")
    bare = first.extra[0].median
    worst = [bare + size / 64 * first.ram.median / 1e3 for size in first.sizes]
    ax.plot(sizes[1:], worst[1:], color=style.FAINT, ls=":", lw=2)
    style.name_line(ax, sizes[-3], worst[-3], "every line from RAM", style.FAINT, dx=-10, dy=4, ha="right")
    for record in records:
        colour, marker, words = colours[record.touch]
        style.ribbon(ax, sizes, record.extra, colour, marker)
        last = max(index for index, each in enumerate(record.extra) if each.median > 0)
        style.name_line(ax, sizes[last], record.extra[last].median, words, colour)
    ax.set_yscale("log")
    style.claim_band(ax, claim("direct-switch"), along="y")
    for level, size in first.caches.items():
        if first.sizes[1] <= size // 2 <= first.sizes[-1]:
            style.mark_x(ax, size / 2, f"both sets\nfill {level}")
    place = min(range(len(sizes)), key=lambda index: abs(sizes[index] - MIB))
    style.guess_mark(ax, sizes[place], bare + guess if guess else None)  # the question is what it adds
    style.size_axis(ax, [int(size) for size in sizes[1::2]])
    ax.set_xticks([sizes[0], *sizes[1::2]], ["none", *(bytes_text(size) for size in sizes[1::2])])
    ax.set_xlim(sizes[0] / 1.3, sizes[-1] * 5)
    low = min(each.low for record in records for each in record.extra if each.low > 0)
    ax.set_ylim(min(0.5, low), max(worst[-1] * 1.6, 100))
    style.time_axis(ax.yaxis, "µs")
    ax.set_xlabel("data that each side touches between switches")
    ax.set_ylabel("cost of one switch (log scale)")
    ax.set_title("What the caches add to a switch")
    ends = {words: record.extra[-1] for record in records for _, _, words in [colours[record.touch]]}
    return style.tell(
        ax,
        records,
        alt=f"Cost of one switch against the working set, logarithmic. With none it is {readable(bare, 'µs')}; with "
        f"{bytes_text(first.sizes[-1])} per side: {style.sentence(ends)}.",
        caption=f"With no data to lose a switch costs {readable(bare, 'µs')}; with {bytes_text(first.sizes[-1])} "
        f"per side "
        f"{style.sentence(ends)}. The dotted line is what it would be if every cache line had to come back from RAM "
        f"({readable(first.ram.median, 'ns')} each here).",
    )


def oversubscription(records: Sequence[Oversubscription], *, guess: float | None = None) -> list[Axes]:
    """Throughput and the 99th percentile of a request's time against the number of workers, side by side."""
    left, right = style.canvas(10.5, 4.8, columns=2)
    colours = {"computing": (style.BLUE, "o"), "waiting": (style.ORANGE, "s")}
    for record in records:
        colour, marker = colours[record.work]
        style.ribbon(left, record.workers, record.throughput, colour, marker, label=record.work)
        style.ribbon(right, record.workers, record.p99, colour, marker)
    first = records[0]
    if guess and first.work == "computing":
        per_core = first.throughput[first.workers.index(first.cores)].median
        style.guess_mark(left, first.workers[-1], guess * per_core, label=f"your guess: {guess:g}x", side="right")
    for ax in (left, right):
        ax.set_xscale("log", base=2)
        style.count_axis(ax.xaxis, first.workers)
        style.mark_x(ax, first.cores, "cores")
        ax.set_xlabel("workers (log scale)")
        ax.set_yscale("log")
    low, high = left.get_ylim()
    left.set_ylim(low / 1.5, high * 1.6)
    style.count_axis(left.yaxis, [tick for tick in _ticks() if low / 1.5 <= tick <= high * 1.6])
    low, high = right.get_ylim()
    right.set_yticks([tick for tick in _ticks() if low <= tick <= high])
    style.time_axis(right.yaxis, "ms")
    left.set_title("Work done, requests/s")
    right.set_title("Time of a request, p99")
    left.set_ylabel("requests/s (log scale)")
    right.set_ylabel("99 % are faster (log scale)")
    left.legend(frameon=False, fontsize=12, loc="best")
    parts = [_crowd_words(record) for record in records]
    style.tell(
        left, records, alt=f"Two panels against the number of workers. {' '.join(parts)}", caption=" ".join(parts)
    )
    return [left, right]


def _ticks() -> list[float]:
    return [step * 10.0**power for power in range(-2, 7) for step in (1, 2, 5)]


def _crowd_words(record: Oversubscription) -> str:
    one_each = record.workers.index(record.cores)
    most = record.workers[-1]
    return (
        f"{record.work.capitalize()}: {most} workers do {_factor(record.against_cores)} the work of "
        f"{record.cores}, and the p99 goes from "
        f"{_time(record.p99[one_each])} to {_time(record.p99[-1])}; {record.switches[-1].median:,.0f} switches/s."
    )


def _factor(figure: Estimate) -> str:
    return f"{figure.median:.2f} times ({figure.low:.2f} to {figure.high:.2f})"


def _time(figure: Estimate) -> str:
    return readable(figure.median, figure.unit)
