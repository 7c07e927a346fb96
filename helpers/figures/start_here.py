"""The figures of notebook 00."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.axes import Axes

from helpers.claims import claim
from helpers.experiments.context_switching import Handoff
from helpers.experiments.start_here import FirstCosts
from helpers.figures import style


def anatomy(record: Handoff, *, ghost: Handoff | None = None, ax: Axes | None = None) -> Axes:
    """The hand-over between two generators, with every mark of the series named: how to read the figures."""
    ax = ax or style.canvas(9, 4.2)
    said, figure, guess = claim("direct-switch"), record.cost, 100.0
    style.claim_band(ax, said, label=" ")
    style.ghost_dot(ax, ghost.cost if ghost else None, 0)
    style.dot(ax, figure, 0, style.COLOURS["generators"], style.MARKERS["generators"])
    style.guess_mark(ax, guess, 0, label="")
    _note(ax, (figure.high, 0.06), (0.30, 0.86), "a thick bar: the 95 % interval,\nhidden when it is narrow")
    _note(ax, (figure.median, -0.09), (0.02, 0.12), "a filled mark: the median of\nwhat was measured here")
    _note(ax, ((said.high or 10) * 0.95, 0.55), (0.72, 0.90), f"a grey band: what the\narticle says, {said.said}")
    _note(ax, (guess, -0.08), (0.72, 0.30), "a diamond: your guess\n(this one is made up)")
    if ghost:
        _note(
            ax, (ghost.cost.median, -0.11), (0.36, 0.14), "a pale ring: the reference run,\nrecorded on another machine"
        )
    ax.set_xscale("log")
    ax.set_xlim(0.003, 3000)
    ax.set_ylim(-0.85, 0.85)
    ax.set_yticks([0], ["one\nhand-over"])
    ax.grid(axis="y", visible=False)
    style.time_axis(ax.xaxis, "µs")
    ax.set_xlabel("log scale: each step to the right is ten times as much")
    ax.set_title("How to read a figure")
    ring = f" The ring is {ghost.reference}." if ghost else ""
    return style.tell(
        ax,
        [record],
        alt="One measured dot on a logarithmic time axis, with its parts named: median, 95 % interval, the article's "
        "claim as a grey band, a guess as a diamond, the reference run as a pale ring.",
        caption="Control handed to and fro between two generators, measured a moment ago: "
        f"{figure.scaled(1e3, 'ns')}. No kernel takes part; the band is what the article says of a "
        f"switch that the kernel makes.{ring}",
    )


def _note(ax: Axes, at: tuple[float, float], place: tuple[float, float], words: str) -> None:
    """Words at a place (in shares of the axes) with a line to the mark that they explain."""
    ax.annotate(words, at, xytext=place, textcoords="axes fraction", ha="left", va="center", fontsize=11.5, zorder=8,
                arrowprops={"arrowstyle": "-", "color": style.FAINT, "lw": 1, "shrinkB": 3})  # fmt: skip


def first_costs(
    record: FirstCosts,
    *,
    guesses: Mapping[str, float | None] | None = None,
    ghost: FirstCosts | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Four everyday operations on one logarithmic axis; `guesses` in ns by the figure's name."""
    ax = ax or style.canvas(9, 4.2)
    figures = record.figures()
    rows = dict(zip(figures, range(len(figures))[::-1], strict=True))
    for (name, figure), colour in zip(figures.items(), style.FOUR, strict=True):
        style.ghost_dot(ax, ghost.figures()[name] if ghost else None, rows[name])
        style.dot(ax, figure, rows[name], colour)
        style.guess_mark(ax, (guesses or {}).get(name), rows[name] - 0.3)
    ax.set_xscale("log")
    ax.set_xlim(5, 5e9)
    ax.set_xticks([10.0**power for power in range(1, 10)])
    ax.set_ylim(-0.6, len(figures) - 0.2)
    ax.set_yticks(list(rows.values()), list(rows))
    ax.grid(axis="y", visible=False)
    style.time_axis(ax.xaxis, "ns")
    ax.set_xlabel("time (log scale)")
    ax.set_title("Four things a backend does all day")
    style.ghost_note(ax, ghost.reference if ghost else None)
    span = record.process_start.median / record.function_call.median
    return style.tell(
        ax,
        [record],
        alt=f"Four dots on a logarithmic time axis: {style.sentence(figures)}.",
        caption=f"Here: {style.sentence(figures)}. From first to last it is a factor of {float(f'{span:.2g}'):,.0f}.",
    )


def spread(record: FirstCosts, *, ax: Axes | None = None) -> Axes:
    """Every sample as a dot, over the median of its kind; the bar is the interval of that median."""
    ax = ax or style.canvas(9, 4.2)
    figures = record.figures()
    rows = dict(zip(figures, range(len(figures))[::-1], strict=True))
    for (name, figure), colour in zip(figures.items(), style.FOUR, strict=True):
        heights = [rows[name] + 0.12 + 0.3 * (index % 5) / 4 for index in range(len(figure.samples))]
        ax.plot([sample / figure.median for sample in figure.samples], heights, "o", color=colour, alpha=0.6, ms=6)
        low, high = figure.low / figure.median, figure.high / figure.median
        ax.plot([low, high], [rows[name] - 0.08] * 2, color=style.INK, lw=7, solid_capstyle="butt")
        ax.annotate(f"{low - 1:+.0%} to {high - 1:+.0%}", (1, rows[name] - 0.3), ha="center", va="center", fontsize=11)
    ax.axvline(1, color=style.FAINT, lw=1.2, ls="--", zorder=1)
    ax.set_xscale("log")
    ax.set_xlim(0.45, 4.5)
    ax.set_xticks([0.5, 0.7, 1, 1.5, 2, 3, 4], ["half", "0.7 x", "median", "1.5 x", "2 x", "3 x", "4 x"])
    ax.minorticks_off()
    ax.set_ylim(-0.55, len(figures) - 0.4)
    ax.set_yticks(list(rows.values()), list(rows))
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("each sample over the median of its kind (log scale)")
    ax.set_title(f"{len(record.thread_start.samples)} samples each, and how well they fix the median")
    outside = sum(not 0.45 <= sample / each.median <= 4.5 for each in figures.values() for sample in each.samples)
    said = ", ".join(f"{name} {(each.high - each.low) / each.median:.0%}" for name, each in figures.items())
    return style.tell(
        ax,
        [record],
        alt=f"Samples scattered around the median of their kind, above the interval of the median, as wide as: {said}.",
        caption=f"The dots are samples, the black bars the 95 % intervals of the medians. Their widths: {said}. "
        f"{outside or 'No'} sample{' lies' if outside == 1 else 's lie'} outside of the picture.",
    )
