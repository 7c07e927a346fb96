"""The figures of notebook 02."""

from __future__ import annotations

from collections.abc import Sequence
from math import log2, nan
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from helpers.experiments.concurrency_and_parallelism import (
    Execution,
    Simd,
    Speedup,
    ThreadsOrProcesses,
    ThreeDishes,
    amdahl,
    gustafson,
)
from helpers.figures import style
from helpers.figures.style import COLOURS, MARKERS

DISHES = {"A": "#12616b", "B": "#d1495b", "C": "#edae49"}  # told apart by lightness, too; no context has them
CONTEXTS = {
    "one after another": (style.GREY, "D"),
    "threads": (COLOURS["threads"], MARKERS["threads"]),
    "asyncio": (COLOURS["tasks"], MARKERS["tasks"]),
    "processes": (COLOURS["processes"], MARKERS["processes"]),
}
LANE, BLOCK = 0.27, 0.21  # of the height of one execution


# Three dishes


def three_dishes(
    record: ThreeDishes, *, guess: float | None = None, ghost: ThreeDishes | None = None, ax: Axes | None = None
) -> Axes:
    """Five timelines of the same three tasks, with the two numbers of each: in progress at once, cores at work.

    `guess` is the learner's for the cores at work of threads on all cores.
    """
    ax = ax or style.canvas(11, 7.2)
    end = max(each.wall.median for each in record.executions)
    end = max(end, *(last for each in record.executions for *_, (_, last) in each.simmer))
    columns = (1.12 * end, 1.29 * end)
    rows = range(len(record.executions))[::-1]
    for row, execution in zip(rows, record.executions, strict=True):
        _kitchen(ax, row, execution, record.simmer_ms)
        _numbers(ax, row, execution, columns, _same(ghost, execution.name))
        if guess and execution.name == "threads on all cores":
            style.guess_mark(ax, columns[1] + 0.04 * end, row - 0.4, label=f"your guess: {guess:g}", side="right")
    for column, words in zip(columns, ("in progress\nat once", "cores\nat work"), strict=True):
        ax.text(column, rows[0] + 0.52, words, ha="center", va="bottom", fontsize=12, color=style.FAINT)
    _name_dishes(ax, rows[0], record.executions[0])
    _kitchen_axes(ax, end, columns[1] + 0.11 * end, record.executions)
    if ghost is not None:
        style.ghost_note(ax, ghost.reference, "numbers")
    first, last = record.executions[0], record.executions[-1]
    said = "; ".join(
        f"{each.name}: {each.wall.median:.0f} ms, {each.in_progress.median:.1f} tasks in progress, "
        f"{each.cores_at_work.median:.2f} cores at work"
        for each in record.executions
    )
    return style.tell(
        ax,
        [record],
        alt=f"Five timelines of three tasks that chop (compute) and simmer (wait). {said}.",
        caption=f"The same three dishes, five times: {first.wall.median:.0f} ms {first.name}, "
        f"{last.wall.median:.0f} ms by {last.name}. {_contrast(record)} "
        f"Each number is the mean over the time that the dishes took.",
    )


def _same(record: ThreeDishes | None, name: str) -> Execution | None:
    return next((each for each in record.executions if each.name == name), None) if record else None


def _contrast(record: ThreeDishes) -> str:
    """What concurrency without parallelism looks like here, and parallelism."""
    by_name = {each.name: each for each in record.executions}
    one, several = by_name["threads on one core"], by_name["processes on all cores"]
    threads = by_name["threads on all cores"]
    without = ": concurrency without parallelism" if one.most_at_work == 1 else ""
    words = (
        f"Threads on one core have {one.in_progress.median:.1f} of them in progress at once, and in the run drawn "
        f"never more than {one.most_at_work} being chopped{without}. "
        f"Processes chop two or more at once for {several.overlap.median:.0f} % of the chopping"
    )
    return f"{words}, threads on all cores for {threads.overlap.median:.0f} %."


def _kitchen(ax: Axes, row: float, execution: Execution, simmer_ms: float) -> None:
    """The lanes of one execution: solid where a dish was chopped, hatched where it simmered, a line while it waited."""
    for lane, (colour, chop, simmer) in enumerate(zip(DISHES.values(), execution.chop, execution.simmer, strict=False)):
        y = row + LANE * (1 - lane)
        ax.plot([chop[0][0], simmer[-1][1]], [y, y], color=colour, lw=1.6, solid_capstyle="butt", zorder=2)
        low = y - BLOCK / 2
        waits = [(begin, min(last - begin, simmer_ms)) for begin, last in simmer]
        ax.broken_barh(waits, (low, BLOCK), facecolor="white", edgecolor=colour, hatch="/////", lw=0.8, zorder=3)
        ax.broken_barh([(begin, last - begin) for begin, last in chop], (low, BLOCK), facecolor=colour, lw=0, zorder=4)


def _numbers(ax: Axes, row: float, execution: Execution, columns: tuple[float, float], ghost: Execution | None) -> None:
    """Tasks in progress and cores at work, large; their maximum below, small; the reference run's pale beside it."""
    figures = (execution.in_progress, execution.cores_at_work)
    most = (execution.most_in_progress, execution.most_at_work)
    ghosts = (ghost.in_progress, ghost.cores_at_work) if ghost else (None, None)
    for column, figure, top, other in zip(columns, figures, most, ghosts, strict=True):
        ax.text(column, row + 0.13, f"{figure.median:.1f}", ha="center", va="center", fontsize=22, fontweight="bold")
        ax.text(column, row - 0.16, f"at most {top}", ha="center", va="center", fontsize=11, color=style.FAINT)
        if other is not None:
            ax.annotate(f"{other.median:.1f}", (column, row + 0.13), xytext=(24, 0), textcoords="offset points",
                        ha="left", va="center", fontsize=12, color=style.GHOST)  # fmt: skip


def _name_dishes(ax: Axes, row: float, execution: Execution) -> None:
    for lane, (name, chop) in enumerate(zip(DISHES, execution.chop, strict=False)):
        ax.text(chop[0][0], row + LANE * (1 - lane) + BLOCK / 2 + 0.03, f"dish {name}", ha="left", va="bottom",
                fontsize=11, color=DISHES[name], fontweight="bold")  # fmt: skip


def _kitchen_axes(ax: Axes, end: float, right: float, executions: Sequence[Execution]) -> None:
    rows = range(len(executions))[::-1]
    for row in rows[:-1]:
        ax.axhline(row - 0.5, color="#ececf0", lw=1.2, zorder=0)
    ax.set_yticks(
        list(rows), [each.name.replace(" on ", "\non ").replace("one after ", "one after\n") for each in executions]
    )
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set_xlim(-0.01 * end, right)
    ax.set_ylim(-0.62, rows[0] + 0.55)
    ax.set_xticks([tick for tick in ax.get_xticks() if 0 <= tick <= end])
    ax.spines["bottom"].set_bounds(0, end)
    ax.spines["left"].set_visible(False)
    ax.set_xlabel("time from the start (ms)", loc="left")
    ax.set_title("Three dishes: how many in progress, how many cores at work?", pad=50)
    keys: list[Any] = [
        Patch(facecolor=style.FAINT, label="chopping (computes)"),
        Patch(facecolor="white", edgecolor=style.FAINT, hatch="/////", label="simmering (waits)"),
        Line2D([], [], color=style.FAINT, lw=1.6, label="ready, but nobody chops"),
    ]
    ax.legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1.03), ncols=3, frameon=False, fontsize=12,
              borderaxespad=0, borderpad=0, columnspacing=1.4)  # fmt: skip


# Speed-up


LINES = ((style.BLUE, "o"), (style.ORANGE, "s"), (style.PURPLE, "^"), (style.RED, "D"))


def speedup(
    records: Sequence[Speedup],
    *,
    guess: float | None = None,
    ghosts: Sequence[Speedup | None] = (),
    ax: Axes | None = None,
) -> Axes:
    """Speed-up against workers: dots are measured, curves are the law fitted to them, dashed lines its ceiling.

    `guess` is the learner's speed-up of the first record with the most workers.
    """
    ax = ax or style.canvas(9.5, 5.6)
    most = max(record.workers[-1] for record in records)
    ax.plot([1, most], [1, most], color=style.FAINT, lw=1.4, ls=":")
    style.name_line(ax, most, most, "ideal", style.FAINT, dx=-16, dy=6, ha="right")
    for ghost in ghosts:
        if ghost is not None:
            medians = [each.median for each in ghost.speedup]
            ax.plot(ghost.workers, medians, color=style.GHOST, lw=6, alpha=0.4, zorder=1)
    for record, (colour, marker) in zip(records, LINES, strict=False):
        _law(ax, record, colour, marker)
    _ceilings(ax, records)
    for cores in {record.cores for record in records if record.work == "computing"}:
        style.mark_x(ax, cores, f"{cores} cores" if cores > 1 else "one core")
    first = records[0]
    style.guess_mark(ax, first.workers[-1], guess, side="right")
    highest = max(most, *(each.high for record in records for each in record.speedup), guess or 1)
    lowest = min(1, *(each.low for record in records for each in record.speedup), guess or 1)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log", base=2)
    style.count_axis(ax.xaxis, sorted({count for record in records for count in record.workers}))
    style.count_axis(ax.yaxis, [2.0**power for power in range(-3, 12) if lowest / 1.2 <= 2.0**power <= highest * 1.2])
    ax.set_xlim(0.93, most * 2.9)
    ax.set_ylim(lowest / 1.15, highest * 1.25)
    ax.set_xlabel("workers (log scale)", loc="left")
    ax.set_ylabel("times as fast as one (log scale)")
    ax.set_title("What more workers bring")
    style.ghost_note(ax, next((ghost.reference for ghost in ghosts if ghost), None), "lines")
    ends = {f"{_workload(record)} with {record.workers[-1]} workers": record.speedup[-1] for record in records}
    return style.tell(
        ax,
        records,
        alt=f"Speed-up against workers, both logarithmic, below the ideal diagonal: {style.sentence(ends)}.",
        caption=" ".join(_law_words(record) for record in records),
    )


def _law(ax: Axes, record: Speedup, colour: str, marker: str) -> None:
    """One record: its dots with intervals, and the fitted curve (dotted where the fit has not looked)."""
    law = amdahl if record.law == "Amdahl" else gustafson
    serial = record.fitted.median / 100
    most = record.workers[-1]
    steps = [most ** (step / 80) for step in range(81)]
    for ls, part in (
        ("-", [n for n in steps if n <= record.fitted_to * 1.001]),
        (":", [n for n in steps if n >= record.fitted_to / 1.001]),
    ):
        curve = [law(serial, n) for n in part]
        ax.plot(
            part, [value if 0 < value < 2 * most else nan for value in curve], color=colour, lw=2.2, ls=ls, zorder=2
        )
    below = [each.median - each.low for each in record.speedup]
    above = [each.high - each.median for each in record.speedup]
    ax.errorbar(record.workers, [each.median for each in record.speedup], yerr=[below, above], fmt=marker, color=colour,
                elinewidth=4, markersize=10, markeredgecolor=style.INK, markeredgewidth=0.8, zorder=4)  # fmt: skip
    low, high = record.fitted.low, record.fitted.high
    share = f"{100 * serial:.0f} %" if high - low < 10 else f"{low:.0f} to {high:.0f} %"
    words = f"{_workload(record)}\n{record.law}: {share} serial"
    style.name_line(ax, most, record.speedup[-1].median, words, colour, dx=12)


def _ceilings(ax: Axes, records: Sequence[Speedup]) -> None:
    """What no number of workers gets beyond, by Amdahl; two points are too few to tell. The highest is named above."""
    shares = {
        record.fitted.median / 100: (record, colour)
        for record, (colour, _) in zip(records, LINES, strict=False)
        if record.law == "Amdahl" and record.fitted_to > 2 and 0 < record.fitted.median < 100
    }
    for place, (serial, (record, colour)) in enumerate(sorted(shares.items())):
        ax.plot([1, record.workers[-1]], [1 / serial] * 2, color=colour, lw=1.3, ls="--", zorder=1)
        ax.annotate(f"ceiling 1/s = {1 / serial:.2g}", (1, 1 / serial), xytext=(4, -4 if place else 4),
                    textcoords="offset points", va="top" if place else "bottom", fontsize=11, color=colour)  # fmt: skip


def _workload(record: Speedup) -> str:
    return f"{record.work}, {'growing' if record.law == 'Gustafson' else 'fixed size'}"


def _law_words(record: Speedup) -> str:
    share, most = record.fitted, record.speedup[-1]
    return (
        f"{_workload(record).capitalize()}: {100 * record.serial:.0f} % made serial, {share.median:.1f} % "
        f"({share.low:.1f} to {share.high:.1f}) found by {record.law}'s law up to {record.fitted_to} workers; "
        f"{record.workers[-1]} workers get {most.median:.2f} times as much done per second as one."
        f"{_slowdown_words(record)}"
    )


def _slowdown_words(record: Speedup) -> str:
    """What busy cores do to each other, and the serial share without it."""
    share = record.corrected
    if share is None:
        return ""
    slower = record.slowdown[record.workers.index(record.fitted_to)]
    return (
        f" Busy cores slow each other down, here {slower.median:.2f} times; without that it would be "
        f"{share.median:.1f} % ({share.low:.1f} to {share.high:.1f})."
    )


# Threads or processes


def threads_or_processes(
    record: ThreadsOrProcesses,
    *,
    grid: Sequence[ThreadsOrProcesses] = (),
    guess: float | None = None,
    ghost: ThreadsOrProcesses | None = None,
    ax: Axes | None = None,
) -> Axes:
    """How much faster than one after another, by execution, with what could be had at best as a tick.

    With the records of a `grid` a map of who wins stands beside it, with `record` in its place and marked. `guess` is
    the learner's for threads.
    """
    cells = [each for each in grid if each.cores == record.cores and _point(each) != _point(record)]
    if cells and ax is None:
        ax, side = style.canvas(12.5, 4.9, columns=2)
        _map(side, [*cells, record], record)
    ax = ax or style.canvas(9, 4.2)
    rows = range(len(record.executions))[::-1]
    for row, name, figure, best in zip(rows, record.executions, record.speedup, record.limits, strict=True):
        colour, marker = CONTEXTS[name]
        _limit_mark(ax, best, row)
        style.dot(ax, figure, row, colour, marker)
        other = ghost.speedup[ghost.executions.index(name)] if ghost and name in ghost.executions else None
        style.ghost_dot(ax, other, row)
    by_name = dict(zip(record.executions, record.speedup, strict=True))
    style.guess_mark(ax, guess, rows[record.executions.index("threads")] - 0.4)
    ends = [*record.limits, *(end for each in record.speedup for end in (each.low, each.high))]
    _factor_axis(ax, [*ends, guess] if guess else ends)
    ax.set_ylim(-0.6, len(rows) - 0.35)
    ax.set_yticks(list(rows), list(record.executions))
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("times as fast as one after another ( | : limit)")
    ax.set_title(f"Wait {record.wait_ms} ms, compute {record.work_ms} ms, on {_cores(record.cores)}")
    style.ghost_note(ax, ghost.reference if ghost else None)
    return style.tell(
        ax,
        [record],
        alt=f"A mark for each execution, times as fast as one after another: {style.sentence(by_name)}.",
        caption=f"Tasks that wait {record.wait_ms} ms and compute {record.work_ms} ms, {record.workers} at once on "
        f"{_cores(record.cores)}: threads do {by_name['threads'].median:.2f} times the work of one after another, "
        f"processes {by_name['processes'].median:.2f} times. {_verdict(record)} {_why(record)}{_whose(cells)}",
    )


def who_wins(records: Sequence[ThreadsOrProcesses], *, current: ThreadsOrProcesses | None = None) -> list[Axes]:
    """A map for each number of cores: waiting against computing, who wins, by how much."""
    counts = sorted({record.cores for record in records})
    made = style.canvas(6.2 * len(counts), 4.6, columns=len(counts))
    axes = list(made) if len(counts) > 1 else [made]
    for ax, cores in zip(axes, counts, strict=True):
        _map(ax, [record for record in records if record.cores == cores], current)
    winners = [_winner(record)[0] for record in records]
    close = sum(winner not in COLOURS for winner in winners)
    words = (
        f"Of {len(records)} mixtures of waiting and computing, processes win in {winners.count('processes')}, threads "
        f"in {winners.count('threads')}, and {close} are too close to call. "
        f"{_extreme(max(records, key=lambda each: each.processes_over_threads.median))}"
    )
    style.tell(axes[0], records, alt=f"Maps of who wins. {words}", caption=words)
    return axes


def _point(record: ThreadsOrProcesses) -> tuple[int, int, int]:
    return record.cores, record.wait_ms, record.work_ms


def _whose(cells: Sequence[ThreadsOrProcesses]) -> str:
    """Where the map comes from, but for its marked cell."""
    machines = sorted({each.reference for each in cells if each.reference})
    return f" In the map all but the marked cell are the reference run, recorded on {machines[0]}." if machines else ""


def _extreme(record: ThreadsOrProcesses) -> str:
    return (
        f"Processes gain most where a task waits {record.wait_ms} ms and computes {record.work_ms} ms on "
        f"{_cores(record.cores)}: {record.processes_over_threads.median:.2f} times the work of threads."
    )


def _map(ax: Axes, records: Sequence[ThreadsOrProcesses], current: ThreadsOrProcesses | None) -> None:
    """A cell for each record (all of one number of cores), in the winner's colour, deeper where it wins by more."""
    waits = sorted({record.wait_ms for record in records})
    works = sorted({record.work_ms for record in records})
    for record in records:
        x, y = waits.index(record.wait_ms), works.index(record.work_ms)
        winner, factor = _winner(record)
        colour = COLOURS.get(winner, style.CLAIM)
        ax.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=colour, lw=0,
                               alpha=min(1.0, 0.25 + 0.4 * log2(factor)) if winner in COLOURS else 0.6))  # fmt: skip
        words = f"{winner}\n{factor:.2g}x" if winner in COLOURS else winner
        ax.text(x, y, words, ha="center", va="center", fontsize=12)
        if current is not None and _point(record) == _point(current):
            ax.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, fill=False, edgecolor=style.INK, lw=3, zorder=5))
    ax.set_xlim(-0.55, len(waits) - 0.45)
    ax.set_ylim(-0.55, len(works) - 0.45)
    ax.set_xticks(range(len(waits)), [str(each) for each in waits])
    ax.set_yticks(range(len(works)), [str(each) for each in works])
    ax.grid(visible=False)
    ax.set_xlabel("waiting in a task (ms)")
    ax.set_ylabel("computing in a task (ms)")
    ax.set_title(f"Who wins on {_cores(records[0].cores)}")


def _winner(record: ThreadsOrProcesses) -> tuple[str, float]:
    """Who does more, and by which factor; "even" where they are within a tenth, "unclear" where this run can't tell."""
    figure = record.processes_over_threads
    if figure.low > 1 and figure.median >= 1.05:
        return "processes", figure.median
    if figure.high < 1 and figure.median <= 1 / 1.05:
        return "threads", 1 / figure.median
    return ("even" if figure.low >= 1 / 1.1 and figure.high <= 1.1 else "unclear"), 1.0


def _verdict(record: ThreadsOrProcesses) -> str:
    winner, factor = _winner(record)
    if winner == "even":
        return "Between the two there is no difference worth the name."
    if winner == "unclear":
        return "Which of the two does more this run cannot tell."
    return f"{winner.capitalize()} win by a factor of {factor:.2f}."


def _why(record: ThreadsOrProcesses) -> str:
    """Which limit threads run into."""
    best = dict(zip(record.executions, record.limits, strict=True))["threads"]
    if best == record.workers:
        return f"There are {record.workers} workers, so no more than that is to be had."
    if record.gil:
        return f"One core's worth of computing, all that the GIL allows, would be {best:.2g} times."
    return f"All that the cores can compute would be {best:.2g} times."


def _cores(count: int) -> str:
    return "one core" if count == 1 else f"{count} cores"


def _limit_mark(ax: Axes, x: float, row: float) -> None:
    """The most to be had: a tick below the row, where no label is."""
    ax.plot([x, x], [row - 0.34, row], color=style.INK, lw=2.4, solid_capstyle="butt", zorder=3)


def _factor_axis(ax: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis of factors, with room for these values."""
    low, high = min(0.8, *values) / 1.2, max(*values) * 1.5
    ax.set_xscale("log", base=2)
    ax.set_xlim(low, high)
    style.count_axis(ax.xaxis, [2.0**power for power in range(-6, 14) if low <= 2.0**power <= high])


# Many additions by one thread


def simd(record: Simd, *, guess: float | None = None, ghost: Simd | None = None) -> list[Axes]:
    """How many numbers fit into one register, and how much faster additions are that use it; `guess` is for 32 bits."""
    left, right = style.canvas(11, 4.4, columns=2)
    rows = range(len(record.bits))[::-1]
    register = record.register_bits or max(record.bits)
    for row, bits, figure in zip(rows, record.bits, record.faster, strict=True):
        lanes = max(1, register // bits)
        for lane in range(lanes):
            left.add_patch(Rectangle((lane * bits, row - 0.22), bits, 0.44, facecolor=style.BLUE, alpha=0.75,
                                     edgecolor="white", lw=min(1.6, bits / 16)))  # fmt: skip
        left.text(0, row + 0.26, f"{lanes} at once", ha="left", va="bottom", fontsize=12)
        _limit_mark(right, lanes, row)
        style.dot(right, figure, row, style.BLUE)
        if ghost is not None and bits in ghost.bits:
            style.ghost_dot(right, ghost.faster[ghost.bits.index(bits)], row)
    style.guess_mark(right, guess, rows[record.bits.index(32)] - 0.32)
    ends = [end for each in record.faster for end in (each.low, each.high) if end > 0]
    _factor_axis(right, [register / min(record.bits), *ends, *([guess] if guess else [])])
    left.set_xlim(0, register * 1.01)
    left.set_xticks([0, register // 4, register // 2, register * 3 // 4, register])
    for ax in (left, right):
        ax.set_ylim(-0.55, len(rows) - 0.25)
        ax.set_yticks(list(rows), [f"{bits} bits" for bits in record.bits])
        ax.grid(axis="y", visible=False)
    left.grid(visible=False)
    left.set_xlabel("one register (bits)")
    left.set_title("Numbers in one register" if record.register_bits else "No vectors found")
    right.set_xlabel("times as fast as one by one ( | : all lanes)")
    right.set_title("One thread, many additions")
    style.ghost_note(right, ghost.reference if ghost else None)
    by_width = {f"{bits} bits": each for bits, each in zip(record.bits, record.faster, strict=True)}
    style.tell(
        left,
        [record],
        alt=f"Two panels by width of the numbers: how many fit into a register, and how much faster vector additions "
        f"are: {style.sentence(by_width)}.",
        caption=_simd_words(record),
    )
    return [left, right]


def _simd_words(record: Simd) -> str:
    place = record.bits.index(32)
    one, many, faster = record.one_by_one[place], record.side_by_side[place], record.faster[place]
    words = (
        f"One thread, one task, and no other at any time: with vector instructions an addition of 32-bit numbers takes "
        f"{many.median:.3f} ns instead of {one.median:.3f} ns, {faster.median:.1f} times as fast "
        f"({faster.low:.1f} to {faster.high:.1f})."
    )
    if not record.register_bits:
        return words
    name, lanes = record.instructions[place], record.register_bits // 32
    return words + (f" One {name} adds {lanes} of them; loads and stores take their time, too." if name else "")
