"""The figures of notebook 01."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate, pairwise
from math import log2, log10

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Polygon, Rectangle
from matplotlib.ticker import NullLocator

from helpers.claims import Claim, claim
from helpers.experiments.processes_and_threads import (
    Case,
    CopyOnWrite,
    CostOfOneMore,
    Crash,
    Household,
    LostUpdates,
    MemoryMap,
    MessageCost,
    StartCost,
)
from helpers.figures import style
from helpers.figures.style import COLOURS, MARKERS, bytes_text, readable
from helpers.measure import Estimate, short

KIB = 1024

# The house and its rooms

OWN, COMMON = style.BLUE, "#d3e1fd"  # pages of this process alone; pages that others have, too
WIDE = 0.82  # a house; the next one stands 1 further


def memory_map(
    record: MemoryMap, *, guess: float | None = None, ghost: MemoryMap | None = None, ax: Axes | None = None
) -> Axes:
    """A house per number of threads: a storey per group of memory, and on top a room, its stack, for every thread.

    `guess` is what the process has in memory with one thread, in MiB.
    """
    ax = ax or style.canvas(10, 6.4)
    tops = [_house(ax, place, household) for place, household in enumerate(record.households)]
    roof = max(tops) + 3.4
    for place, (household, ours) in enumerate(zip(record.households, record.resident, strict=True)):
        ax.text(place, roof + 5.2, f"{readable(ours.median, 'MiB')} in memory", ha="center", fontweight="bold")
        ax.text(place, roof + 2.6, f"{bytes_text(household.virtual)} address space", ha="center", fontsize=12)
        if ghost and place < len(ghost.resident):
            words = f"(reference run {readable(ghost.resident[place].median, 'MiB')})"
            ax.text(place, roof + 0.2, words, ha="center", fontsize=11, color=style.FAINT)
    if guess is not None:
        style.guess_mark(ax, -0.45, roof + 8.6, label=f"your guess: {readable(guess, 'MiB')} in memory")
    first, last = record.households[0], record.households[-1]
    feet = list(_feet(first).items())
    ax.set_yticks([foot + _height(first, group) / 2 for group, foot in feet], [group for group, _ in feet])
    ax.set_xticks(range(len(tops)), [_people(household.threads) for household in record.households])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.set_xlim(-0.6, len(tops) - 0.4)
    ax.set_ylim(0, roof + (10.5 if guess is not None else 8))
    ax.set_xlabel("one process, with more and more threads")
    ax.set_ylabel("resident memory (log scale)")
    ax.set_title("The house and its rooms")
    keys = {
        "this process alone": OWN,
        "shared with other processes": COMMON,
        "a thread's stack": COLOURS["threads"],
    }
    patches = [Patch(facecolor=colour, edgecolor=style.INK, lw=0.8, label=words) for words, colour in keys.items()]
    ax.legend(handles=patches, loc="upper center", bbox_to_anchor=(0.45, -0.13), ncols=3, frameon=False, fontsize=12)
    sizes = "; ".join(
        f"{_people(household.threads)} {readable(ours.median, 'MiB')} in memory and {bytes_text(household.virtual)} of "
        "address space"
        for household, ours in zip(record.households, record.resident, strict=True)
    )
    parts = ", ".join(f"{group} {bytes_text(takes.resident)}" for group, takes in first.groups.items())
    return style.tell(
        ax,
        [record],
        alt=f"Houses drawn from a process's memory: {sizes}. The storeys with one thread: {parts}. Only the top "
        "storey, the stacks, gets more rooms.",
        caption=f"With {_people(first.threads)}: {readable(record.resident[0].median, 'MiB')} in memory, of which "
        f"{bytes_text(sum(takes.shared for takes in first.groups.values()))} are shared. {_further(first, last)}",
    )


def _further(first: Household, last: Household) -> str:
    """What the further threads added, and what most of their address space is for."""
    more = last.threads - first.threads
    reserved = {group: last.groups[group].virtual - first.groups[group].virtual for group in ("stacks", "heap")}
    rooms = last.groups["stacks"].resident - first.groups["stacks"].resident
    words = (
        f"{more} more thread{'s' if more > 1 else ''} added {bytes_text(rooms)} of stacks in memory, with "
        f"{bytes_text(reserved['stacks'])} of address space reserved for them."
    )
    if reserved["heap"] > reserved["stacks"]:
        heap = last.groups["heap"].resident - first.groups["heap"].resident
        words += f" The heap grew by {bytes_text(heap)}, for which {bytes_text(reserved['heap'])} were reserved."
    return words


def _people(threads: int) -> str:
    return f"{threads} thread{'s' if threads > 1 else ''}"


def _height(household: Household, group: str) -> float:
    """Of a storey: one for the first page, and one more whenever the memory doubles."""
    return log2(1 + household.groups[group].resident / (4 * KIB))


def _feet(household: Household) -> dict[str, float]:
    """Where each storey begins."""
    heights = [_height(household, group) for group in household.groups]
    return dict(zip(household.groups, accumulate(heights, initial=0.0), strict=False))


def _house(ax: Axes, place: float, household: Household) -> float:
    """Draw a house; the height of its walls."""
    left = place - WIDE / 2
    feet = _feet(household)
    for group, takes in household.groups.items():
        foot, height = feet[group], _height(household, group)
        if group == "stacks":
            room = WIDE / household.threads
            rooms = [left + room * number for number in range(household.threads)]
            ax.bar(rooms, height, room, foot, align="edge", color=COLOURS["threads"], edgecolor=style.INK, lw=0.8)
            continue
        own = WIDE * takes.private / max(1, takes.resident)
        ax.bar([left, left + own], height, [own, WIDE - own], foot, align="edge", color=[OWN, COMMON], lw=0)
        ax.bar(left, height, WIDE, foot, align="edge", fill=False, edgecolor=style.INK, lw=0.8)
        ax.text(place, foot + height / 2, bytes_text(takes.resident), ha="center", va="center", fontsize=12)
    top = foot + height
    eaves = 0.05
    ax.fill([left - eaves, place, left + WIDE + eaves], [top, top + 3, top], color=style.FAINT, lw=0)
    words = bytes_text(household.groups["stacks"].resident)
    paper = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
    ax.text(place, foot + height / 2, words, ha="center", va="center", fontsize=12, bbox=paper)
    return top


# What one more costs

ONE_MORE = {  # what one more is, its colour's kind, and what the article says of it
    "threads": ("thread", "threads", "thread-memory-resident"),
    "forked": ("forked process", "processes", "process-memory"),
    "spawned": ("spawned process", "processes", "process-memory"),
    "tasks": ("asyncio task", "tasks", None),
}
SHORT = {"unique": "USS", "proportional": "PSS", "resident": "RSS", "virtual": "virtual"}


def cost_of_one_more(
    records: Sequence[CostOfOneMore],
    *,
    guess: float | None = None,
    ghosts: Sequence[CostOfOneMore | None] = (),
    ax: Axes | None = None,
) -> Axes:
    """A row per kind of context: what one more takes, counted in four ways. `guess` is a thread's resident KiB."""
    ax = ax or style.canvas(9, 1.7 + 1.2 * len(records))
    rows = range(len(records))[::-1]
    for row, record, ghost in zip(rows, records, [*ghosts, *[None] * len(records)], strict=False):
        _, kind, said = ONE_MORE[record.of]
        if said:
            _claim_in_row(ax, claim(said), row)
        _counted(ax, record, row, COLOURS[kind], MARKERS[kind])
        style.ghost_dot(ax, ghost.unique.scaled(KIB, "B") if ghost else None, row)
        if record.of == "threads" and guess is not None:
            style.guess_mark(ax, guess * KIB, row - 0.17, side="left" if guess < 256 else "right")
    ax.set_xscale("log", base=2)
    ax.set_xticks(*_sizes(range(7, 28, 3)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlim(2**4, 2**29)
    ax.set_ylim(-0.55, len(records) - 0.4)
    ax.set_yticks(list(rows), [_one_more(record).replace(" ", "\n") for record in records])
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("memory of one more that waits (log scale)")
    ax.set_title("What one more costs")
    style.ghost_note(ax, next((ghost.reference for ghost in ghosts if ghost), None))
    rows_said = "; ".join(
        f"{_one_more(record)} " + ", ".join(f"{SHORT[name]} {_kib(record.figures()[name])}" for name in SHORT)
        for record in records
    )
    return style.tell(
        ax, records, alt=f"Marks on a logarithmic axis of bytes, a row per kind: {rows_said}.", caption=_costs(records)
    )


def _kib(figure: Estimate) -> str:
    """An estimate of KiB in the unit that fits."""
    return bytes_text(figure.median * KIB)


def _sizes(powers: Sequence[int]) -> tuple[list[int], list[str]]:
    """Ticks at powers of two, in bytes, and their names."""
    return [1 << power for power in powers], [bytes_text(1 << power) for power in powers]


def _claim_in_row(ax: Axes, said: Claim, row: float) -> None:
    """The article's band, in MB, behind one row."""
    low, high = (said.low or 0) * 1e6, (said.high or 0) * 1e6
    ax.fill_between([low, high], row - 0.42, row + 0.42, color=style.CLAIM, lw=0, zorder=0)
    ax.annotate(f"article: {said.said}", (low, row + 0.42), xytext=(-4, -1), textcoords="offset points", ha="right",
                va="top", fontsize=10, color=style.FAINT)  # fmt: skip


def _counted(ax: Axes, record: CostOfOneMore, row: float, colour: str, marker: str) -> None:
    """The marks of one row, filled for what is its own (USS), hollow for the others; equal ones share a name."""
    seen = {name: figure.scaled(KIB, "B") for name in SHORT if (figure := record.figures()[name]).low > 0}
    figures = {name: figure.median for name, figure in seen.items()}  # a logarithmic axis has no place for the others
    for name, figure in seen.items():
        face, edge, order = (colour, style.INK, 5) if name == "unique" else ("white", colour, 4)
        ax.plot([figure.low, figure.high], [row, row], color=colour, lw=5, zorder=3)
        ax.plot(figure.median, row, marker, ms=11, mew=2, markerfacecolor=face, markeredgecolor=edge, zorder=order)
    together = _together(figures)
    for index, names in enumerate(together):
        words = f"{', '.join(SHORT[name] for name in names)} {bytes_text(figures[names[0]])}"
        last = len(together) - 1
        side = "center" if 0 < index < last or last == 0 else "left" if index else "right"
        lift = -9 if 0 < index < last else 8
        ax.annotate(words, (figures[names[-1]], row), xytext=(0, lift), textcoords="offset points", ha=side,
                    va="top" if lift < 0 else "bottom", fontsize=11, zorder=7)  # fmt: skip


def _together(figures: dict[str, float]) -> list[list[str]]:
    """Their names in rising order, those within a quarter of the one before in one list."""
    groups: list[list[str]] = []
    for name in sorted(figures, key=lambda each: figures[each]):
        if groups and figures[name] <= 1.25 * figures[groups[-1][-1]]:
            groups[-1].append(name)
        else:
            groups.append([name])
    return groups


def _costs(records: Sequence[CostOfOneMore]) -> str:
    """What each kind has of its own, how far the other counts are from it, and what the kernel adds."""
    own = ", ".join(f"{_one_more(record)} {_kib(record.unique)}" for record in records)
    farthest = max(records, key=_stretch)
    said = (
        f"Of its own (USS) one more takes: {own}. The {_one_more(farthest)} reserves {_kib(farthest.virtual)} of "
        f"address space, {readable(_stretch(farthest), 'x')} as much."
    )
    if any(record.of in ("forked", "spawned") for record in records):
        said += " The processes are bare interpreters: what a program imports comes on top."
    kernel = [f"{_kib(record.kernel)} per {_one_more(record)}" for record in records if record.kernel]
    return said + (f" The kernel adds stacks and page tables: {', '.join(kernel)}." if kernel else "")


def _one_more(record: CostOfOneMore) -> str:
    return ONE_MORE[record.of][0]


def _stretch(record: CostOfOneMore) -> float:
    """Address space for each byte of its own; 0 where it has none."""
    return record.virtual.median / record.unique.median if record.unique.median > 0 else 0.0


# Starting one

STARTS = {  # the context that each way starts, and what people call it
    "task": ("tasks", "asyncio task"),
    "thread": ("threads", "thread"),
    "posix_spawn": ("processes", "posix_spawn: a tiny program"),
    "fork": ("processes", "fork"),
    "multiprocessing fork": ("processes", "multiprocessing: fork"),
    "multiprocessing forkserver": ("processes", "multiprocessing: forkserver"),
    "subinterpreter": ("interpreters", "subinterpreter"),
    "new Python": ("processes", "posix_spawn: a bare Python"),
    "multiprocessing spawn": ("processes", "multiprocessing: spawn"),
}


def start_cost(
    records: Sequence[StartCost],
    *,
    guess: float | None = None,
    guess_of: str = "fork",
    ghost: StartCost | None = None,
    ax: Axes | None = None,
) -> Axes:
    """One row per way to start something, on one time axis.

    Other records (more memory touched) are drawn hollow where they differ. `guess` is in µs, for the row of `guess_of`.
    """
    first, *others = records
    ax = ax or style.canvas(9, 1.9 + 0.62 * len(first.cost))
    names = list(first.cost)[::-1]
    for row, name in enumerate(names):
        context, _ = STARTS[name]
        for other in others:
            if name in other.cost and _differ(other.cost[name], first.cost[name]):
                words = f"{other.touched_mib} MiB touched" if name == "fork" else ""
                style.open_dot(ax, other.cost[name].median, row, COLOURS[context], MARKERS[context], words)
        style.ghost_dot(ax, ghost.cost.get(name) if ghost else None, row)
        style.dot(ax, first.cost[name], row, COLOURS[context], MARKERS[context])
    if guess_of in names:
        style.guess_mark(ax, guess, names.index(guess_of) - 0.36)
    ax.set_xscale("log")
    shown = [each.median for record in (*records, *([ghost] if ghost else ())) for each in record.cost.values()]
    ends = [each for figure in first.cost.values() for each in (figure.low, figure.high)]
    ax.set_xlim(min([1, *shown, *ends, guess or 1]) / 2, max([500_000, *shown, *ends, guess or 1]) * 2)
    ax.set_ylim(-0.6, len(names) - 0.3)
    ax.set_yticks(range(len(names)), [STARTS[name][1] for name in names])
    ax.grid(axis="y", visible=False)
    style.time_axis(ax.xaxis, "µs")
    ax.set_xlabel("to start one and see it end (log scale)")
    ax.set_title("The more there is to make, the longer it takes")
    style.ghost_note(ax, ghost.reference if ghost else None)
    figures = {STARTS[name][1]: figure for name, figure in first.cost.items()}
    return style.tell(
        ax,
        records,
        alt=f"Dots on a logarithmic time axis, one per way to start something: {style.sentence(figures)}.",
        caption=" ".join(filter(None, (_start_ratios(first), _spawned_or_forked(first), _fork_slope(first, others)))),
    )


def _differ(one: Estimate, other: Estimate) -> bool:
    return one.low > other.high or one.high < other.low


def _start_ratios(record: StartCost) -> str:
    cost = record.cost
    words = [f"A thread takes {style.stated(cost['thread'])} to start and end"]
    if "task" in cost:
        words.append(f"{_times(cost['thread'], cost['task'])} an asyncio task")
    if "fork" in cost:
        words.append(f"a fork {_times(cost['fork'], cost['thread'])} a thread")
    return f"{', '.join(words)}."


def _times(one: Estimate, other: Estimate) -> str:
    return f"{short(one.median / other.median)} times"


def _spawned_or_forked(record: StartCost) -> str:
    """Starting a small program against copying oneself: which is dearer surprises many."""
    if not {"fork", "posix_spawn"} <= set(record.cost):
        return ""
    fork, spawn = record.cost["fork"], record.cost["posix_spawn"]
    return f"To run a small program afresh takes {style.stands(spawn, fork)} to fork this Python."


def _fork_slope(first: StartCost, others: Sequence[StartCost]) -> str:
    """How much a fork's price grows with the memory touched before it."""
    sizes = {record.touched_mib: record.cost["fork"] for record in (first, *others) if "fork" in record.cost}
    if len(sizes) < 2:
        return ""
    small, large = min(sizes), max(sizes)
    each = (sizes[large].median - sizes[small].median) / (large - small)
    return f"Between {small} and {large} MiB touched before, every MiB adds {readable(each, 'µs')} to a fork."


# What they share


def copy_on_write(
    record: CopyOnWrite, *, guess: float | None = None, ghost: CopyOnWrite | None = None, ax: Axes | None = None
) -> Axes:
    """Share of the data that became the child's own against the share gone through; `guess`: of the objects, in %."""
    ax = ax or style.canvas(9, 5)
    looks = {
        "writing bytes": (style.BLUE, "o", 7.0, 12),
        "reading objects": (style.RED, "s", 2.2, -12),
        "reading bytes": (style.GREY, "v", 2.2, 12),
    }
    if ghost is not None:
        objects = [each.median for each in ghost.copied["reading objects"]]
        ax.plot(ghost.touched, objects, color=style.GHOST, lw=12, alpha=0.45, zorder=1)
        style.ghost_note(ax, ghost.reference, "line")
    for way, (colour, marker, width, lift) in looks.items():
        steps = record.copied[way]
        medians = [each.median for each in steps]
        ax.plot(record.touched, medians, marker, ls="-", color=colour, lw=width, alpha=0.5 if width > 3 else 1)
        end = steps[-1].median
        words = f"{way}: {readable(end, '%')}"
        style.name_line(ax, record.touched[-1], end, words, style.FAINT if way == "reading bytes" else colour, dy=lift)
    style.guess_mark(ax, 100, guess, side="right")
    ax.set_xticks([0, 25, 50, 75, 100])
    ax.set_yticks([0, 25, 50, 75, 100])
    ax.set_xlim(-3, 150)
    ax.set_ylim(-6, max(112, *(1.06 * step.high for steps in record.copied.values() for step in steps)))
    ax.set_xlabel("data that the child has gone through, in %")
    ax.set_ylabel("data that are its own, in %")
    ax.set_title("Copy-on-write: what a forked child copies")
    ends = ", ".join(f"{way} {readable(steps[-1].median, '%')}" for way, steps in record.copied.items())
    objects_end = record.copied["reading objects"][-1]
    surprise = (
        " To read an object is to write to it: its reference count."
        if objects_end.low > 50
        else " Reading objects copied less than half of them here."
    )
    before, after = record.together
    return style.tell(
        ax,
        [record],
        alt=f"Share copied against share gone through, three lines: at the end {ends}.",
        caption=f"A child inherits {record.mib} MiB and goes through them. At the end it has copied: {ends}.{surprise} "
        f"Parent and child together had {readable(before.median, 'MiB')} before it read the objects, and "
        f"{readable(after.median, 'MiB')} after. Copying a page took {readable(record.page.median, 'µs')}.",
    )


# When one crashes

HOUSES = {"processes": "four processes", "threads": "four threads of one process"}


def crash(record: Crash, *, guess: float | None = None, ax: Axes | None = None) -> Axes:
    """Houses and rooms: who answers after one was brought down in each way, and how its process ended.

    `guess` is how many of the other threads answer after a segmentation fault.
    """
    whats = list(dict.fromkeys(case.what for case in record.cases))[::-1]
    ax = ax or style.canvas(9.5, 1.6 + 1.7 * len(whats))
    for case in record.cases:
        column, row = list(HOUSES).index(case.where), whats.index(case.what)
        _draw_case(ax, case, column * CASE_WIDTH, row * CASE_HEIGHT)
        if guess is not None and (case.what, case.where) == ("segmentation fault", "threads"):
            words = f"your guess: {guess:g} of {case.contexts - 1}"
            style.guess_mark(ax, column * CASE_WIDTH + 2.62, row * CASE_HEIGHT + 1.5, label=words)
    for column, words in enumerate(HOUSES.values()):
        place = (column * CASE_WIDTH + 2, len(whats) * CASE_HEIGHT - 0.4)
        ax.annotate(words, place, ha="center", va="bottom", fontsize=13, fontweight="bold")
    ax.set_xlim(-0.3, 2 * CASE_WIDTH - 0.2)
    ax.set_ylim(-0.75, len(whats) * CASE_HEIGHT + 0.1)
    ax.set_yticks([row * CASE_HEIGHT + 0.5 for row in range(len(whats))], [what.replace(" ", "\n") for what in whats])
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("lit: answered afterwards · crossed out: did not")
    ax.set_title("One goes down. Who is still there?")
    trials = len(record.cases[0].answered)
    processes, threads = record.case("segmentation fault", "processes"), record.case("segmentation fault", "threads")
    return style.tell(
        ax,
        [record],
        alt=f"Six drawings of houses. {' '.join(_case_words(case) for case in record.cases)}",
        caption=f"Each was tried {trials} times. After a segmentation fault in one of {processes.contexts} processes "
        f"{_of_others(processes)} answered; after one in one of {threads.contexts} threads, {_of_others(threads)}"
        f"{'' if any(threads.answered) else ': the signal ends the process, with all its threads'}. After an exception "
        f"that nobody handles in a thread, {_of_others(record.case('unhandled exception', 'threads'))} answered.",
    )


CASE_WIDTH, CASE_HEIGHT = 4.7, 2.1
ROOF = 0.42


def _draw_case(ax: Axes, case: Case, left: float, foot: float) -> None:
    colour, answered = COLOURS[case.where], min(case.answered)
    if case.where == "threads":
        _draw_roof(ax, left, left + case.contexts, foot + 1, colour)
    for room in range(case.contexts):
        here = (left + room, foot)
        wide = 0.84 if case.where == "processes" else 1.0
        alive = 0 < room <= answered
        face = colour if alive else "white"
        ax.add_patch(Rectangle(here, wide, 1, facecolor=face, edgecolor=style.INK, lw=1.6))
        if case.where == "processes":
            _draw_roof(ax, here[0], here[0] + wide, foot + 1, colour)
        if not alive:
            cross = [(here[0] + 0.2 * wide, here[0] + 0.8 * wide), (foot + 0.22, foot + 0.78)]
            ax.plot(*cross, color=style.RED, lw=4 if room == 0 else 2.4, solid_capstyle="round")
            ax.plot(cross[0], cross[1][::-1], color=style.RED, lw=4 if room == 0 else 2.4, solid_capstyle="round")
    ax.annotate(_end_words(case), (left, foot - 0.1), ha="left", va="top", fontsize=12)


def _draw_roof(ax: Axes, left: float, right: float, foot: float, colour: str) -> None:
    corners = [(left - 0.06, foot), (right + 0.06, foot), ((left + right) / 2, foot + ROOF)]
    ax.add_patch(Polygon(corners, facecolor=colour, edgecolor=style.INK, lw=1.6, alpha=0.55))


def _end_words(case: Case) -> str:
    """How the process of the fallen one ended, and what became of the others."""
    ends = " or ".join(dict.fromkeys(case.ended))
    if ends == "exit code 0":
        return "the first thread ends, its process goes on"
    return f"the process: {ends}" if case.where == "threads" else f"the first: {ends}"


def _case_words(case: Case) -> str:
    return f"After {case.what} in one of {HOUSES[case.where]}, {_of_others(case)} answer ({_end_words(case)})."


def _of_others(case: Case) -> str:
    """How many, in words: none, all; a range where trials differ."""
    low, high, others = min(case.answered), max(case.answered), case.contexts - 1
    if low != high:
        return f"{low} to {high} of the {others} others"
    return f"all {others} others" if low == others else f"{low or 'none'} of the {others} others"


# How they talk

BLUES = ("#8db4fd", "#5790fc", "#2a62cf", "#123a86")  # channels between processes; orange ones are between threads
CHANNELS = {  # colour, mark, and what people call it
    "pipe": (BLUES[1], "o", "pipe"),
    "socket-pair": (BLUES[2], "s", "socket pair"),
    "queue": (BLUES[0], "^", "multiprocessing.Queue"),
    "shared-memory": (BLUES[3], "D", "shared memory"),
    "thread-queue": (style.ORANGE, "o", "queue.SimpleQueue"),
    "variable": ("#b36a00", "s", "variable + Event"),
}


def round_trip(
    records: Sequence[MessageCost],
    *,
    guess: float | None = None,
    ghosts: Sequence[MessageCost | None] = (),
    ax: Axes | None = None,
) -> Axes:
    """Time for a message and its answer against its size; a line per channel. `guess` is in µs, for the first one."""
    ax = ax or style.canvas(9.5, 5.4)
    pale = [ghost for ghost in ghosts if ghost]
    for ghost in pale:
        ax.plot(ghost.sizes, _medians(ghost.round_trip), color=style.GHOST, lw=4, alpha=0.35, zorder=1)
    _draw_channels(ax, [(record, record.round_trip) for record in records], guess)
    style.guess_mark(ax, records[0].sizes[0], guess)
    _time_ticks(ax)
    ax.set_ylabel("there and back (log scale)")
    ax.set_title("A message and its answer")
    style.ghost_note(ax, next((ghost.reference for ghost in pale), None), "lines")
    smallest = {_named(record): record.round_trip[0] for record in records}
    largest = {_named(record): record.round_trip[-1] for record in records}
    first = records[0]
    return style.tell(
        ax,
        records,
        alt=f"Round-trip time against size, logarithmic, a line per channel. {bytes_text(first.sizes[0])}: "
        f"{style.sentence(smallest)}. {bytes_text(first.sizes[-1])}: {style.sentence(largest)}.",
        caption=f"There and back, {_where(records)}. {bytes_text(first.sizes[0])}: {_ends(smallest)}. "
        f"{bytes_text(first.sizes[-1])}: {_ends(largest)}.{_flat(records)}",
    )


def throughput(
    records: Sequence[MessageCost],
    *,
    guess: float | None = None,
    ghosts: Sequence[MessageCost | None] = (),
    ax: Axes | None = None,
) -> Axes:
    """MB/s one way against size, for the channels that move bytes. `guess` is in MB/s, for the largest message."""
    ax = ax or style.canvas(9.5, 5.4)
    pale = [ghost for ghost in ghosts if ghost]
    for ghost in pale:
        if ghost.throughput:
            ax.plot(ghost.sizes, _medians(ghost.throughput), color=style.GHOST, lw=4, alpha=0.35, zorder=1)
    moving = [(record, record.throughput) for record in records if record.throughput]
    _draw_channels(ax, moving, guess)
    style.guess_mark(ax, records[0].sizes[-1], guess, side="right")
    low, high = ax.get_ylim()
    style.count_axis(ax.yaxis, [10.0**power for power in range(-2, 7) if low <= 10.0**power <= high])
    ax.set_ylabel("MB/s, one way (log scale)")
    ax.set_title("How much gets through")
    style.ghost_note(ax, next((ghost.reference for ghost in pale), None), "lines")
    ends = {_named(record): figures[-1] for record, figures in moving}
    best = {_named(record): max(figures, key=lambda each: each.median) for record, figures in moving}
    size = bytes_text(records[0].sizes[-1])
    still = [_named(record) for record in records if not record.throughput]
    none = f" No line for {' and '.join(still)}: there a reference is handed over, and no bytes move." if still else ""
    return style.tell(
        ax,
        records,
        alt=f"Throughput against size, logarithmic, a line per channel. {size}: {style.sentence(ends)}.{none}",
        caption=f"One way, {_where(records)}. {size} messages: {_ends(ends)}. The best at any size: {_ends(best)}."
        f"{_overtakes(records)}{none}",
    )


def _ends(figures: dict[str, Estimate]) -> str:
    """The least and the most of some figures; the picture and its alternative text have the others."""
    names = sorted(figures, key=lambda name: figures[name].median)
    chosen = [names[0], names[-1]] if len(names) > 1 else names
    return " to ".join(f"{readable(figures[name].median, figures[name].unit)} ({name})" for name in chosen)


def _overtakes(records: Sequence[MessageCost]) -> str:
    """From which size on shared memory is worth its trouble."""
    found = {record.over: record for record in records}
    pipe, shared = (found[over].throughput if over in found else None for over in ("pipe", "shared-memory"))
    if not pipe or not shared:
        return ""
    faster = [one.low > other.high for one, other in zip(shared, pipe, strict=True)]
    if not faster[-1]:
        return ""
    since = len(faster) - faster[::-1].index(False) if False in faster else 0
    return f" Shared memory is surely faster than the pipe from {bytes_text(found['pipe'].sizes[since])} on."


def _draw_channels(
    ax: Axes, lines: Sequence[tuple[MessageCost, Sequence[Estimate]]], guess: float | None = None
) -> None:
    """A line with its interval per channel, named at its end; the axis has room for the guess."""
    for record, figures in lines:
        colour, marker, _ = CHANNELS[record.over]
        style.ribbon(ax, record.sizes, figures, colour, marker)
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    low, high = min(low, guess or low), max(high, guess or high)
    ax.set_ylim(low / 1.5, high * 1.5)
    heights = _apart([log10(figures[-1].median) for _, figures in lines], 0.055 * log10(high / low * 2.25))
    for (record, figures), height in zip(lines, heights, strict=True):
        colour, _, words = CHANNELS[record.over]
        ax.annotate(words, (record.sizes[-1], figures[-1].median), xytext=(record.sizes[-1] * 1.35, 10**height),
                    textcoords="data", va="center", color=_dark(colour), fontsize=12, fontweight="bold",
                    annotation_clip=False)  # fmt: skip
    sizes = lines[0][0].sizes
    style.size_axis(ax, sizes[::2] if len(sizes) > 4 else sizes)
    ax.set_xlim(sizes[0] / 1.4, sizes[-1] * (sizes[-1] / sizes[0]) ** 0.42)
    ax.set_xlabel("size of the message (log scale)")


def _dark(colour: str) -> str:
    """The palest blue is a good line and a bad letter."""
    return {BLUES[0]: "#5f8fe6", style.ORANGE: "#d97f00"}.get(colour, colour)


def _apart(heights: Sequence[float], gap: float) -> list[float]:
    """The same heights, moved so that none is nearer than `gap` to the next: in their order, about their middle."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    moved = list(heights)
    for below, above in pairwise(order):
        moved[above] = max(moved[above], moved[below] + gap)
    lift = sum(moved) / len(moved) - sum(heights) / len(heights)
    return [height - lift for height in moved]


def _medians(figures: Sequence[Estimate]) -> list[float]:
    return [each.median for each in figures]


def _named(record: MessageCost) -> str:
    return CHANNELS[record.over][2]


def _where(records: Sequence[MessageCost]) -> str:
    words = {"same core": "both sides on one core", "two cores": "each side on a core of its own", "free": "any core"}
    return " or ".join(dict.fromkeys(words[record.placement] for record in records))


def _flat(records: Sequence[MessageCost]) -> str:
    """What size does to a channel that hands over references."""
    still = next((record for record in records if not record.throughput), None)
    if still is None:
        return ""
    growth = still.round_trip[-1].median / still.round_trip[0].median
    return (
        f" Threads hand over a reference: {_named(still)} takes {growth:.1f} times as long for a message "
        f"{still.sizes[-1] // still.sizes[0]:,} times the size."
    )


def _time_ticks(ax: Axes) -> None:
    low, high = ax.get_ylim()
    ax.set_yticks([10.0**power for power in range(-3, 8) if low <= 10.0**power <= high])
    style.time_axis(ax.yaxis, "µs")


# Lost updates

CODE = {
    "one line": "counter.value += 1",
    "in steps": "value = counter.value\nvalue = plus_one(value)\ncounter.value = value",
    "locked": "with lock:\n    the same steps",
}


def lost_updates(
    record: LostUpdates, *, guess: float | None = None, ghost: LostUpdates | None = None, ax: Axes | None = None
) -> Axes:
    """Of 100 updates made, how many are in the counter, by way of updating. `guess` is the % lost in steps."""
    ax = ax or style.canvas(9.5, 4.6)
    ways = list(record.lost)[::-1]
    for row, way in enumerate(ways):
        lost = record.lost[way]
        kept = 100 - lost.median
        ax.barh(row, 100, height=0.56, facecolor="white", edgecolor=style.RED, hatch="///", lw=1.2, zorder=1)
        ax.barh(row, kept, height=0.56, color=COLOURS["threads"], edgecolor=style.INK, lw=1.2, zorder=1.5)
        if any(lost.samples):
            ax.plot([100 - lost.high, 100 - lost.low], [row, row], color=style.INK, lw=4, zorder=5)
        ax.annotate(f"{kept:.0f} of 100 counted" if any(lost.samples) else "all 100 counted", (2, row), va="center",
                    fontsize=13, fontweight="bold", zorder=6)  # fmt: skip
        ax.annotate(_lost_words(lost), (104, row), va="center", fontsize=13, annotation_clip=False,
                    color=style.RED if any(lost.samples) else style.INK)  # fmt: skip
        if ghost and way in ghost.lost:
            style.ghost_dot(ax, _kept(ghost.lost[way]), row)
    side = "left" if guess is not None and guess > 50 else "right"
    style.guess_mark(ax, None if guess is None else 100 - guess, ways.index("in steps") - 0.4, side=side)
    ax.set_xlim(0, 126)
    ax.set_xticks(range(0, 101, 20))
    ax.set_ylim(-0.6, len(ways) - 0.35)
    code = [CODE[way] for way in ways]
    ax.set_yticks(range(len(ways)), code, family="monospace", fontsize=11, multialignment="left")
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("updates that are in the counter, in % of those made")
    ax.set_title(f"{record.threads} threads count together")
    style.ghost_note(ax, ghost.reference if ghost else None)
    python = f"Python {record.machine['python_version']}"
    return style.tell(
        ax,
        [record],
        alt=f"Bars of counted and lost updates. Lost: {style.sentence(record.lost)}.",
        caption=f"{python}: lost in one line {_share(record.lost['one line'])}, in steps "
        f"{_share(record.lost['in steps'])}, under the lock none. The lock adds {record.lock} to an update while "
        f"nobody else wants it.{_contended(record)}",
    )


def _contended(record: LostUpdates) -> str:
    """What waiting for the lock costs beside taking it."""
    alone, shared = record.update["own lock"], record.update["shared lock"]
    return (
        f" While {record.threads} threads share it, an update takes {readable(shared.median, shared.unit)} instead of "
        f"{readable(alone.median, alone.unit)}."
    )


def _lost_words(lost: Estimate) -> str:
    if not any(lost.samples):
        return "none lost"
    if not lost.median:
        return f"up to {short(max(lost.samples))} % lost"
    return f"{lost.median:.{0 if lost.median >= 10 else 1}f} % lost"


def _share(lost: Estimate) -> str:
    return f"{lost.median:.1f} % ({lost.low:.1f} to {lost.high:.1f})" if any(lost.samples) else "none"


def _kept(lost: Estimate) -> Estimate:
    """What was not lost."""
    samples = tuple(100 - sample for sample in lost.samples)
    return replace(lost, median=100 - lost.median, low=100 - lost.high, high=100 - lost.low, samples=samples)
