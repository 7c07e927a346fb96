"""The figures of notebook 06."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill, wrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import StrMethodFormatter

from helpers.experiments.event_loops import (
    FEW,
    MANY,
    BackPressure,
    Culprit,
    Cure,
    Echo,
    Handler,
    HandOffs,
    Heartbeat,
    Steps,
    TimeOuts,
    Wait,
    Waiting,
)
from helpers.figures import style
from helpers.figures.style import readable
from helpers.measure import MIB
from helpers.testbed.stepping import BOXES, NOTHING, Step, changes

LOOPS = {"tiny loop": style.PURPLE, "asyncio": style.BLUE, "uvloop": style.ORANGE}  # the same in every figure
TEAL = "#12616b"
PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1}


# What a loop waits for

CALLS = {"select": style.GREY, "poll": style.RED, "epoll": TEAL, "kqueue": TEAL}
CALL_MARKERS = {"select": "o", "poll": "s", "epoll": "^", "kqueue": "^"}
NONE_IDLE = 0.3  # where that stands on a logarithmic axis


def waiting(
    record: Waiting, *, guess: float | None = None, ghost: Waiting | None = None, ax: Axes | None = None
) -> Axes:
    """µs of one call against the idle sockets that it watches, both logarithmic. `guess` in x: poll, 1,000 over 10."""
    ax = ax or style.canvas(10, 5.4)
    called = dict.fromkeys(wait.call for wait in record.waits)
    is_above = bool(guess and record.poll_growth and guess >= record.poll_growth.median)
    for call in called:
        waits = [wait for wait in record.waits if wait.call == call]
        places = [wait.idle or NONE_IDLE for wait in waits]
        if ghost:
            theirs = [wait for wait in ghost.waits if wait.call == call and wait.idle <= record.many]
            ax.plot([wait.idle or NONE_IDLE for wait in theirs], [wait.time.median for wait in theirs], lw=7, zorder=1,
                    color=style.GHOST, alpha=0.45, solid_capstyle="round")  # fmt: skip
        style.ribbon(ax, places, [wait.time for wait in waits], CALLS[call], CALL_MARKERS[call], zorder=3)
        _name_call(ax, record, call, waits, is_below=is_above)
    few = _poll_time(record, FEW)
    if guess and few:
        label, side = f"your guess: {readable(guess, 'x')}", "right" if is_above else "left"
        style.guess_mark(ax, MANY, few * guess, label=label, side=side)
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlim(NONE_IDLE / 1.6, max(record.many, MANY) * 6)
    decades = [10**power for power in range(1, 6) if 10**power < record.many * 6]
    style.count_axis(ax.xaxis, decades)
    ax.set_xticks([NONE_IDLE, *decades], ["none", *(f"{decade:,}" for decade in decades)])
    style.time_axis(ax.yaxis, "µs")
    ax.set_xlabel("idle sockets watched beside the one that is ready (log scale)")
    ax.set_ylabel("time of one call (log scale)")
    ax.set_title("Finding the one socket that is ready")
    if ghost:
        style.ghost_note(ax, ghost.reference, "line")
    said = "; ".join(_call_in_words(record, call) for call in called)
    return style.tell(
        ax,
        [record],
        alt=f"Time of one call against the number of idle sockets, both logarithmic, a line per call. {said}.",
        caption=_growth_in_words(record),
    )


def _poll_time(record: Waiting, idle: int) -> float | None:
    return next((wait.time.median for wait in record.waits if (wait.call, wait.idle) == ("poll", idle)), None)


def _name_call(ax: Axes, record: Waiting, call: str, waits: Sequence[Wait], *, is_below: bool) -> None:
    """The line's name at its end; and why the line of select ends early, below it where the guess is above."""
    last = waits[-1]
    time = readable(last.time.median, "µs")
    if call == "select":
        end = f"select ends here: no\ndescriptor above {FD_SETSIZE - 1:,}" if record.refused else f"select {time}"
        dx, dy, side = (12, -26, "left") if is_below else (-10, 16, "right")
        style.name_line(ax, last.idle, last.time.median, end, style.FAINT, dx=dx, dy=dy, ha=side)
        return
    style.name_line(ax, last.idle, last.time.median, f"{call}\n{time}", CALLS[call])


def _call_in_words(record: Waiting, call: str) -> str:
    waits = [wait for wait in record.waits if wait.call == call]
    first, last = waits[0], waits[-1]
    return (
        f"{call} {readable(first.time.median, 'µs')} with none idle and {readable(last.time.median, 'µs')} with "
        f"{last.idle:,}"
    )


def _growth_in_words(record: Waiting) -> str:
    words = [
        f"With {record.many:,} idle sockets {record.best} takes {style.stated(record.growth)} as long as with "
        f"{record.few}."
    ]
    if record.best not in TOLD_ONCE:
        words.append("This system has no call that is told only once what to watch.")
    elif record.growth.high < 2:
        words.append("It was told once which sockets to watch, and hands over those that became ready.")
    if record.poll_growth:
        words.append(
            f"Poll reads the whole list at every call: {MANY:,} idle sockets take {style.stated(record.poll_growth)} "
            f"as long as {FEW}."
        )
    each = [time / idle if (time := _poll_time(record, idle)) else 0.0 for idle in (MANY, record.many)]
    if each[1] > 1.5 * each[0] > 0:
        words.append(
            f"And each costs more when they are more, {readable(each[1], 'µs')} among {record.many:,} instead of "
            f"{readable(each[0], 'µs')}: probably because they no longer fit the caches."
        )
    if record.refused:
        words.append(f"Select takes no descriptor above {FD_SETSIZE - 1:,} on this system.")
    return " ".join(words)


TOLD_ONCE = ("epoll", "kqueue")
FD_SETSIZE = 1024  # of glibc and most other C libraries


# The loop, step by step

PLACES = {"Stack": (5.8, 4.3), "Ready queue": (10.0, 4.3), "Timers": (5.8, 1.6), "Waiting sockets": (10.0, 1.6)}
BOX_SIZE = (4.0, 2.5)  # width, height
LINE = 0.36  # from one line of text to the next
CODE: Any = {"family": "DejaVu Sans Mono", "fontsize": 12, "va": "top"}


def step(record: Steps, number: int, *, ax: Axes | None = None) -> Axes:
    """Step `number` of a program, from 1: its source, the loop's four boxes, the output, and what has just happened.

    What is new has a plus, and its box a thick edge.
    """
    ax = ax or style.canvas(13, 6.6)
    now = record.steps[number - 1]
    before = record.steps[number - 2] if number > 1 else NOTHING
    ax.set(xlim=(0, 14.1), ylim=(0.2, 6.9), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.text(0.1, 6.75, f"program: {record.program}", fontsize=13, fontweight="bold", va="top")
    for place, line in enumerate(record.source.splitlines()):
        y, is_running = 6.2 - LINE * place, place + 1 == now.line
        if is_running:
            ax.add_patch(Rectangle((0, y - LINE + 0.05), 5.6, LINE, color=style.CLAIM, zorder=0))
        ax.text(0.1, y, ("▶ " if is_running else "  ") + line, fontweight="bold" if is_running else None, **CODE)
    for title in BOXES:
        _box(ax, title, before, now)
    ax.text(5.8, 1.3, "Output", fontsize=13, fontweight="bold", va="top")
    ax.text(7.2, 1.28, "\n".join(now.output[-4:]) or "–", linespacing=1.3, **CODE)
    ax.set_title(fill(now.words.replace("`", ""), 92))
    ax.set_xlabel(f"step {number} of {len(record.steps)}, {now.at_ms:.1f} ms after the start")
    held = "; ".join(f"{title}: {', '.join(items) or 'empty'}" for title, items in now.boxes().items())
    words = now.words.replace("`", "")
    return style.tell(
        ax,
        [record],
        alt=f"The state of the loop at step {number} of {len(record.steps)} of the program {record.program}. {words} "
        f"{held}. Output: {', '.join(now.output) or 'none'}.",
        caption=f"Step {number} of {len(record.steps)}: {words} The loop slept {style.stated(record.asleep)} of the "
        "time that this program took.",
    )


def _box(ax: Axes, title: str, before: Step, now: Step) -> None:
    (x, y), (width, height) = PLACES[title], BOX_SIZE
    items, (come, gone) = now.boxes()[title], changes(before, now, title)
    moved = bool(come or gone)
    ax.add_patch(Rectangle((x, y), width, height - 0.1, facecolor="white", edgecolor=style.INK if moved else
                           style.GHOST, lw=3 if moved else 1.2, zorder=1))  # fmt: skip
    ax.text(x + 0.15, y + height - 0.22, title, fontsize=13, fontweight="bold", va="top")
    signs = [f"{sign}{count}" for sign, count in (("+", len(come)), ("−", gone)) if count]
    ax.text(x + width - 0.15, y + height - 0.22, " ".join(signs), fontsize=13, ha="right", va="top")
    for place, item in enumerate(items or ("–",)):
        is_new = place in come
        ax.text(x + 0.15, y + height - 0.68 - LINE * place, ("+ " if is_new else "  ") + item,
                fontweight="bold" if is_new else None, **CODE)  # fmt: skip


# Build one, and against the others


def hand_offs(record: HandOffs, *, ghost: HandOffs | None = None, ax: Axes | None = None) -> Axes:
    """A row per loop: what it takes to hand over to the next callback (a dot), and to the next coroutine (a square)."""
    ax = ax or style.canvas(9, 5.4)
    loops = list(dict.fromkeys(each.loop for each in record.hand_offs))
    theirs = ghost.figures() if ghost else {}
    for row, name in enumerate(reversed(loops)):
        for each, marker, y in zip(
            (each for each in record.hand_offs if each.loop == name), ("o", "s"), (row + 0.2, row - 0.2), strict=True
        ):
            words = f"{each.way}: {readable(each.cpu.median, each.cpu.unit)}"
            style.dot(ax, each.cpu, y, LOOPS[name], marker, words)
            style.ghost_dot(ax, theirs.get(f"{name}, {each.way}"), y)
    ax.set_yticks(range(len(loops)), loops[::-1])
    ax.set_ylim(-0.55, len(loops) - 0.35)
    ax.set_xlim(0, 1.45 * max(0.1, *(each.cpu.high for each in record.hand_offs)))
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("CPU time per hand-off in µs")
    ax.set_title("Handing over to the next one")
    style.ghost_note(ax, ghost.reference if ghost else None)
    of = record.figures()
    words = "; ".join(
        f"{name}: {readable(of[f'{name}, callback'].median, 'µs')} to the next callback, "
        f"{readable(of[f'{name}, coroutine'].median, 'µs')} to the next coroutine"
        for name in loops
    )
    tiny, other = of["tiny loop, coroutine"], of["asyncio, coroutine"]
    between = style.stands(tiny, other)
    why = ": asyncio has futures, contexts and cancellation to see to besides" if between == "less than" else ""
    return style.tell(
        ax,
        [record],
        alt=f"A dot and a square for each loop. {words}.",
        caption=f"A hand-off between coroutines costs {style.stated(tiny)} on the tiny loop, {between} on "
        f"asyncio's{why}.",
    )


def echo(record: Echo, *, guess: float | None = None, ghost: Echo | None = None, ax: Axes | None = None) -> Axes:
    """A row per server: its CPU time per request. `guess`, in x of the thrifty tiny loop, is for asyncio's streams."""
    ax = ax or style.canvas(9, 1.6 + 0.75 * len(record.servers))
    rows = {each.server: y for y, each in enumerate(reversed(record.servers))}
    theirs = {each.server: each.cpu for each in ghost.servers} if ghost else {}
    for each in record.servers:
        colour = LOOPS[each.server.partition(",")[0] if each.server.startswith("tiny") else each.server.split()[0]]
        y = rows[each.server]
        style.dot(ax, each.cpu, y, colour, label=readable(each.cpu.median, "µs"))
        style.ghost_dot(ax, theirs.get(each.server), y)
        words = f"{each.throughput.median:,.0f} requests/s"
        ax.annotate(words, (1, y), xycoords=("axes fraction", "data"), ha="right", va="center", fontsize=11,
                    color=style.FAINT)  # fmt: skip
    most = 1.4 * max(each.cpu.high for each in record.servers)
    thrifty = next(each.cpu.median for each in record.servers if each.server == "tiny loop, thrifty")
    if guess:
        most = max(most, min(1.6 * guess * thrifty, 3 * most))
        at, label = min(guess * thrifty, 0.75 * most), f"your guess: {readable(guess, 'x')}"
        style.guess_mark(ax, at, rows["asyncio streams"] - 0.42, label=label)
    ax.set_xlim(0, most)
    ax.set_ylim(-0.6, len(rows) - 0.35)
    ax.set_yticks(list(rows.values()), list(rows))
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("CPU time of the server per request in µs")
    ax.set_title("The same echo")
    style.ghost_note(ax, ghost.reference if ghost else None)
    each_one = style.sentence({each.server: each.cpu for each in record.servers})
    return style.tell(
        ax,
        [record],
        alt=f"A dot per server: CPU time per request. {each_one}.",
        caption=f"Asyncio's streams take {style.stated(record.compared)} the time (median over rounds) of the tiny "
        "loop when that is thrifty, which leaves a socket with the selector as long as it waits for the same again; "
        f"telling the system each time costs {style.stated(record.thrift)} as much (median over rounds). Throughput "
        "is in grey: the client, on the same cores, has its part in it.",
    )


# Block it, free it

SHOWN_MS = 500.0
BEAT, QUICK = style.INK, TEAL  # a heartbeat; a quick request
COMPUTING = {"color": style.RED, "alpha": 0.16, "lw": 0}
CURES = {  # in words, with the colour and mark of the context that computes
    "none": ("no cure", style.RED, "X"),
    "chunks": ("slices, with sleep(0)", style.COLOURS["tasks"], style.MARKERS["tasks"]),
    "thread": ("a thread", style.COLOURS["threads"], style.MARKERS["threads"]),
    "process": ("a process", style.COLOURS["processes"], style.MARKERS["processes"]),
    "native": ("native code in a thread", style.COLOURS["threads"], "P"),
}
PRICES = ("job takes", "CPU time", "hand-over", "start", "memory")


def heartbeat(
    record: Heartbeat, *, cure: str = "none", guess: float | None = None, ghost: Heartbeat | None = None
) -> list[Axes]:
    """Above, the loop's heartbeats; below, the latency of each quick request. `guess` is their p99 in ms."""
    figure = Figure(figsize=(10, 5.4))
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2.8))
    shown, found = record.trace if cure == "none" else record.cure(cure).trace, record.cure(cure)
    for ax in (above, below):
        for asked, done in shown.jobs:
            ax.axvspan(asked, done, **COMPUTING)
    above.eventplot([due + late for due, late in shown.beats], lineoffsets=0.5, linelengths=0.8, lw=0.9, colors=BEAT)
    above.set_ylim(0, 1)
    above.set_yticks([])
    above.grid(visible=False)
    below.plot(*zip(*shown.answers, strict=True), "o", color=QUICK, markersize=5, markeredgewidth=0)
    longest = max([latency for due, latency in shown.answers if due < SHOWN_MS] + [found.p99.median, 1.0])
    high = max(1.25 * longest, min(guess or 0.0, 2 * longest) * 1.15)
    below.set_ylim(-0.03 * high, high)
    below.set_xlim(0, min(SHOWN_MS, max(due for due, _ in shown.answers)))
    below.axhline(found.p99.median, color=QUICK, lw=1.4, ls="--", zorder=1)
    words = f"99 % below\n{readable(found.p99.median, 'ms')}"
    style.name_line(below, below.get_xlim()[1], found.p99.median, words, QUICK)
    if ghost:
        below.axhline(ghost.cure(cure).p99.median, color=style.GHOST, lw=7, alpha=0.35, zorder=0)
        style.ghost_note(below, ghost.reference, "line")
    if guess is not None:
        label = "your guess" if guess <= high else f"your guess: {readable(guess, 'ms')}"
        style.guess_mark(below, 0.02 * below.get_xlim()[1], min(guess, 0.93 * high), label=label)
    above.set_title(f"The loop's heartbeat: {CURES[cure][0]}" if cure != "none" else "The loop's heartbeat")
    below.set_title("Everyone else's requests", color=QUICK)
    above.set_xlabel(" ", fontsize=1)  # below is the one of both
    below.set_xlabel("time in ms (red: the handler computes)")
    below.set_ylabel("latency in ms")
    lag = readable(found.lag.median, "ms")
    words = (
        f"The handler computes for {readable(record.block_ms, 'ms')} at a time; meanwhile the loop wakes a task up to "
        f"{lag} too late, and 99 % of the others' requests take at most {style.stated(found.p99)}."
    )
    style.tell(
        above,
        [record],
        alt=f"Two time lines. Above, a tick per heartbeat, one every millisecond or two, with gaps. Below, a dot per "
        f"quick request, its latency in ms. {words}",
        caption=f"{words} {_of_the_block(record) if cure == 'none' else ''}Without any job the longest lag is "
        f"{readable(record.idle_lag.median, 'ms')} and their p99 {readable(record.idle_p99.median, 'ms')}.",
    )
    return [above, below]


def _of_the_block(record: Heartbeat) -> str:
    """How the lag stands to the block, by the wall clock and by its CPU time."""
    stretch = record.cure("none").stretch.median
    words = f"The longest lag is {readable(record.lag_over_block.median, 'x')} the time that the block lasts"
    if stretch > 1.1:
        words += f", which is {readable(stretch, 'x')} its CPU time: the machine had others to serve"
    if record.lag_over_block.median < 0.95:
        words += ", for the heartbeat that would be due at its very beginning comes up to a millisecond later"
    return f"{words}. Whoever comes first in a block waits longest: the dots fall in a slope as long as the block. "


def cures(record: Heartbeat, *, guess: float | None = None, ghost: Heartbeat | None = None) -> list[Axes]:
    """A row per cure: the lag that is left, and its price in words. `guess` is the longest lag with a thread, in ms."""
    figure = Figure(figsize=(13.5, 5.4))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.05))
    rows = range(len(record.cures))[::-1]
    for y, cure in zip(rows, record.cures, strict=True):
        _, colour, marker = CURES[cure.name]
        style.dot(left, cure.lag, y, colour, marker)
        left.plot(cure.p99.median, y - 0.22, "D", color=QUICK, markersize=7, markeredgewidth=0, zorder=4)
        if ghost:
            style.ghost_dot(left, ghost.cure(cure.name).lag, y)
        if guess and cure.name == "thread":
            style.guess_mark(left, guess, y - 0.48, side="left" if guess < cure.lag.median else "right")
        for place, words in enumerate(_prices(cure)):
            right.annotate(words, (place, y), va="center", fontsize=12)
    for place, name in enumerate(PRICES):
        right.annotate(name, (place, len(record.cures) - 0.5), va="bottom", fontsize=11, fontweight="bold")
    left.set_xscale("log")
    figures = [each for cure in record.cures for each in (cure.lag, cure.p99)]
    low, high = min(each.low for each in figures), max(each.high for each in figures)
    left.set_xlim(max(min(low, guess or low) / 2.2, 0.02), max(high, guess or high) * 1.8)
    style.time_axis(left.xaxis, "ms")
    left.axvline(record.idle_lag.median, color=style.FAINT, lw=1.2, ls="--", zorder=1)
    left.annotate("no job", (record.idle_lag.median, -0.72), xytext=(4, 0), textcoords="offset points", va="center",
                  fontsize=10, color=style.FAINT, bbox=PAPER)  # fmt: skip
    left.set_yticks(list(rows), [CURES[cure.name][0] for cure in record.cures])
    left.set_ylim(-0.9, len(record.cures) - 0.05)
    left.grid(axis="y", visible=False)
    right.set_xlim(-0.1, len(PRICES) - 0.1)
    right.spines[:].set_visible(False)
    right.tick_params(axis="both", length=0, labelbottom=False, labelleft=False)
    right.grid(visible=False)
    left.set_xlabel("longest lag (small diamond: p99 of everyone else; log scale)")
    right.set_xlabel("CPU time: all that a job brings about, over its own", labelpad=16)
    left.set_title("What is left of the lag")
    right.set_title("What it costs")
    if ghost:
        style.ghost_note(left, ghost.reference)
    style.tell(
        left,
        [record],
        alt="Two dots per way to compute, the longest lag and the p99 of everyone else, on a logarithmic axis; beside "
        f"them the price. {_cures_in_words(record)}",
        caption=_cures_told(record),
    )
    return [left, right]


def _prices(cure: Cure) -> tuple[str, ...]:
    """What a cure costs, in the order of `PRICES`."""
    others = (cure.hand_over, cure.start, cure.memory)
    return (
        readable(cure.job.median, "ms"),
        f"{cure.cpu.median:.2f}x",
        *(readable(each.median, each.unit) if each else "–" for each in others),
    )


def _cures_in_words(record: Heartbeat) -> str:
    rows = [
        f"{CURES[cure.name][0]}: lag {readable(cure.lag.median, 'ms')}, p99 {readable(cure.p99.median, 'ms')}, the job "
        f"takes {readable(cure.job.median, 'ms')}"
        for cure in record.cures
    ]
    return "; ".join(rows) + "."


def _cures_told(record: Heartbeat) -> str:
    thread, process, native = (record.cure(name) for name in ("thread", "process", "native"))
    least = min(record.cures, key=lambda cure: cure.lag.median)
    left = f"the longest lag is {style.stated(thread.lag)}, and everyone else's p99 {readable(thread.p99.median, 'ms')}"
    words = [
        f"A job is {readable(record.block_ms, 'ms')} of computing in Python; the native one is a hash meant to take "
        "about as long."
    ]
    if record.machine.get("gil", True):
        words.append(
            "A thread that runs Python keeps the GIL for a switch interval, "
            f"{readable(record.switch_interval_ms, 'ms')}, whenever the loop wants it: {left}. With code that lets go "
            f"of the GIL a thread leaves {readable(native.lag.median, 'ms')}."
        )
    else:
        words.append(f"With a thread {left}; with native code in one {readable(native.lag.median, 'ms')} is left.")
    words.append(f"Least is left by {CURES[least.name][0]}.")
    if process.start and process.hand_over:
        words.append(
            f"A process, by fork, takes {readable(process.start.median, 'ms')} to start and "
            f"{readable(process.hand_over.median, 'µs')} to hand a job to."
        )
    words.append("Hand-over: a job that does nothing, there and back; start: the first such job.")
    return " ".join(words)


def culprit(record: Culprit, *, ax: Axes | None = None) -> Axes:
    """What asyncio wrote, and below it what a hand-off costs without and with debug mode."""
    ax = ax or style.canvas(10, 4.4)
    for y, (figure, colour) in enumerate(((record.debug, style.RED), (record.plain, LOOPS["asyncio"]))):
        style.dot(ax, figure, y, colour)
    ax.set_xscale("log")
    ax.set_xlim(min(record.plain.low, 1) / 2, max(record.debug.high, 100) * 2)
    style.time_axis(ax.xaxis, "µs")
    ax.set_yticks([0, 1], ["debug mode", "without"])
    ax.set_ylim(-0.6, 1.6)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("CPU time of a hand-off between two tasks (log scale)")
    lines = wrap(record.lines[0], 84) if record.lines else ["(asyncio wrote nothing about it)"]
    ax.annotate("\n".join(lines), (0, 1), xycoords="axes fraction", xytext=(0, 10), textcoords="offset points",
                va="bottom", fontsize=11, family="DejaVu Sans Mono", annotation_clip=False)  # fmt: skip
    ax.set_title("Debug mode names who blocks the loop, and has its price", pad=24 + 15 * len(lines))
    return style.tell(
        ax,
        [record],
        alt=f"asyncio's line: {' '.join(lines)} Below it two dots on a logarithmic axis: a hand-off takes "
        f"{style.stated(record.plain)}, in debug mode {style.stated(record.debug)}.",
        caption=f"The handler is named in {record.found.median:.0%} of {len(record.found.samples)} blocks, with file "
        f"and line. A hand-off takes {style.stated(record.price)} as much CPU time then (median over rounds). By "
        f"itself asyncio reports steps of more than {readable(record.usual_threshold_ms, 'ms')}; for blocks of "
        f"{readable(record.block_ms, 'ms')} of CPU time the threshold was {readable(record.threshold_ms, 'ms')}.",
    )


# Time-outs, cancellation, back-pressure

HANDLERS = {
    "sleeps": "sleeps",
    "computes": "computes",
    "waits for a thread": "waits for a thread",
    "swallows": "swallows the cancellation",
    "shields": "shields its work",
}
WAYS = {  # their colour, and how they are drawn
    "write": (style.RED, "-"),
    "write and drain": (style.BLUE, "-"),
    "queue": (style.ORANGE, "--"),
    "queue with an end": (style.PURPLE, "--"),
}
SHOWN_WAYS = {"queue with an end": "queue with maxsize"}  # what differs from its name


def timeouts_and_cancellation(
    record: TimeOuts, *, guess: float | None = None, ghost: TimeOuts | None = None, ax: Axes | None = None
) -> Axes:
    """A row per handler: a bar until its caller goes on, hatched while its work does. `guess` in ms: who computes."""
    ax = ax or style.canvas(10.5, 5.4)
    rows = range(len(record.handlers))[::-1]
    ends = [moment.median for each in record.handlers for moment in (each.returned, each.worked) if moment]
    for y, handler in zip(rows, record.handlers, strict=True):
        returned, worked = handler.returned.median, handler.worked
        is_in_time = returned < 1.5 * record.timeout_ms
        ax.barh(y, returned, 0.44, color=style.BLUE if is_in_time else style.RED, zorder=2)
        if worked and worked.median > 1.1 * returned:
            ax.barh(y, worked.median - returned, 0.44, left=returned, facecolor="white", edgecolor=style.ORANGE,
                    hatch="////", lw=1.4, zorder=2)  # fmt: skip
        end = max(returned, worked.median if worked else 0.0)
        ax.annotate(_became(handler, "\n"), (end, y), xytext=(12, 0), textcoords="offset points", va="center",
                    fontsize=12, zorder=5, bbox=PAPER)  # fmt: skip
        if ghost:
            style.ghost_dot(ax, ghost.handler(handler.name).returned, y)
        if guess is not None and handler.name == "computes":
            label = "your guess" if guess <= 1.2 * max(ends) else f"your guess: {readable(guess, 'ms')}"
            style.guess_mark(ax, min(guess, 1.2 * max(ends)), y - 0.38, label=label)
    ax.axvline(record.timeout_ms, color=style.INK, lw=1.6, ls="--", zorder=4)
    ax.annotate(f"time-out: {readable(record.timeout_ms, 'ms')}", (record.timeout_ms, len(rows) - 0.32), xytext=(5, 0),
                textcoords="offset points", va="center", fontsize=12)  # fmt: skip
    ax.set_yticks(list(rows), [HANDLERS[each.name] for each in record.handlers])
    ax.set_ylim(-0.45, len(rows) - 0.1)
    ax.set_xlim(0, 1.75 * max([*ends, record.work_ms]))
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("ms since the call · full: until its caller goes on · hatched: the work goes on without it")
    ax.set_title("What a time-out stops, and what not")
    if ghost:
        style.ghost_note(ax, ghost.reference)
    words = "; ".join(f"{HANDLERS[each.name]}: {_became(each)}" for each in record.handlers)
    computes = record.handler("computes").returned
    return style.tell(
        ax,
        [record],
        alt=f"A bar per handler from 0 until its caller goes on, hatched while its work goes on behind its back; a "
        f"dashed line at the time-out of {readable(record.timeout_ms, 'ms')}. {words}.",
        caption=f"A time-out of {readable(record.timeout_ms, 'ms')} cancels who waits. The handler that computes can't "
        f"be cancelled before it waits: its caller goes on after {style.stated(computes)}. A thread can't be cancelled "
        "at all, and who swallows the cancellation hides the time-out from its caller.",
    )


def _became(handler: Handler, between: str = ", ") -> str:
    """What became of it, in a few words."""
    returned, worked = handler.returned.median, handler.worked
    end = "TimeoutError" if handler.timed_out.median > 0.5 else "no TimeoutError: returns"
    behind = "its work is stopped" if not worked else "its work goes on"
    if worked and worked.median <= 1.1 * returned:
        behind = "all its work is done"
    return f"{end} after {readable(returned, 'ms')}{between}{behind}"


def back_pressure(
    record: BackPressure, *, guess: float | None = None, ghost: BackPressure | None = None, ax: Axes | None = None
) -> Axes:
    """What is held for one slow client over time, in MiB. `guess` is what it is at the end without back-pressure."""
    ax = ax or style.canvas(10, 5)
    end = record.seconds_sent
    most = max(way.most.high for way in record.ways)
    high = max(1.2 * most, 1.1 * min(guess or 0.0, 2 * most), 0.2)
    for name, (colour, dashes) in WAYS.items():
        ax.plot(*_curve(record, name), dashes, color=colour, lw=2.6)
        if ghost:
            ax.plot(*_curve(ghost, name), color=style.GHOST, lw=7, alpha=0.3, zorder=0)
    y = -0.05 * high
    for name in sorted(WAYS, key=lambda name: record.way(name).held.median):
        held = record.way(name).held.median
        y = max(held, y + 0.08 * high)  # names of lines that end close together stand above each other
        style.name_line(ax, end, y, f"{SHOWN_WAYS.get(name, name)}: {_mib(held)}", WAYS[name][0])
    ax.set_xlim(0, end * 1.02)
    ax.set_ylim(0, high)
    if guess is not None:
        label = "your guess" if guess <= high else f"your guess: {readable(guess, 'MiB')}"
        style.guess_mark(ax, end * 0.97, min(guess, 0.95 * high), label=label, side="right")
    ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.set_xlabel("seconds of sending")
    ax.set_ylabel("MiB held for one client")
    ax.set_title("A client that reads slower than it is sent to")
    if ghost:
        style.ghost_note(ax, ghost.reference, "line")
    words = "; ".join(f"{SHOWN_WAYS.get(name, name)}: {_mib(record.way(name).held.median)}" for name in WAYS)
    return style.tell(
        ax,
        [record],
        alt=f"What a server holds for one client over {end:g} s, a line per way. At the end {words}.",
        caption=_pressed(record),
    )


def _curve(record: BackPressure, name: str) -> tuple[list[float], list[float]]:
    """Seconds and MiB."""
    curve = record.way(name).curve
    return [moment / 1000 for moment, _ in curve], [held for _, held in curve]


def _mib(size: float) -> str:
    return style.bytes_text(size * MIB)


def _pressed(record: BackPressure) -> str:
    """What is held, how late that makes what is written last, and what back-pressure asks of the sender."""
    alone, drained = record.way("write"), record.way("write and drain")
    rates = f"Sending {record.sent_mib_s:g} MiB/s to a client that reads {record.read_mib_s:g}"
    if alone.held.median <= 2 * drained.held.median:
        return f"{rates}: nothing piles up, and waiting for the client makes no difference."
    return (
        f"{rates}: `write` alone returns at once, the server holds {style.stated(alone.held)} in the end: what is "
        f"written last is read {readable(alone.held.median / record.read_mib_s, 's')} later. With `await drain()` it "
        f"holds at most {_mib(drained.most.median)} and sends at the client's pace: "
        f"{readable(drained.sent.median, 'MiB')} instead of {readable(alone.sent.median, 'MiB')}."
    )
