"""One style for every figure, and the marks that they share.

Each kind of context has one colour in the whole series. The colours are petroff6 (Petroff, "Accessible color
sequences for data visualization", 2021), which stay apart under colour blindness; since some are pale on white,
direct labels and marker shapes say the same again.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from math import nan
from typing import Any
from weakref import WeakKeyDictionary

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from PIL import Image

from helpers.claims import Claim
from helpers.measure import Estimate
from helpers.record import Record

BLUE, ORANGE, RED, PURPLE, GREY, VIOLET = "#5790fc", "#f89c20", "#e42536", "#964a8b", "#9c9ca1", "#7a21dd"
COLOURS = {"processes": BLUE, "threads": ORANGE, "tasks": PURPLE, "generators": GREY, "interpreters": RED}
MARKERS = {"processes": "o", "threads": "s", "tasks": "^", "generators": "v", "interpreters": "P"}
MODELS = {  # of servers: colour and marker
    "thread per connection": (ORANGE, "s"), "thread pool": ("#a0651a", "D"), "event loop": (PURPLE, "^"),
    "hybrid": (BLUE, "o"), "pre-fork": (GREY, "v"),
}  # fmt: skip
INK, FAINT, CLAIM, GHOST = "#222222", "#6b6b70", "#d9d9de", "#a5a5ab"
GUESS = VIOLET
FOUR = (GREY, PURPLE, ORANGE, BLUE)  # for four things that are not contexts
PHASES = {  # of a connection's life, in this order
    "tcp": GREY, "tls": PURPLE, "authentication": ORANGE, "session": "#e8c07d", "query": BLUE, "waiting": RED,
}  # fmt: skip

mpl.rcParams.update(
    {
        "figure.figsize": (9, 4.6),
        "figure.dpi": 110,
        "figure.facecolor": "white",
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.w_pad": 0.12,
        "figure.constrained_layout.h_pad": 0.12,
        "savefig.facecolor": "white",
        "font.family": "DejaVu Sans",
        "font.size": 13,
        "axes.titlesize": 15,
        "axes.titlelocation": "left",
        "axes.titlepad": 12,
        "axes.titleweight": "bold",
        "axes.labelcolor": INK,
        "axes.edgecolor": FAINT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#ececf0",
        "xtick.color": FAINT,
        "ytick.color": FAINT,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "lines.linewidth": 2.2,
        "lines.markersize": 8,
        "text.color": INK,
    }
)

_words: WeakKeyDictionary[Figure, tuple[str, str]] = WeakKeyDictionary()


def canvas(width: float = 9, height: float = 4.6, columns: int = 1) -> Any:
    """Axes of a figure of their own, or an array of them for several columns; outside of pyplot, so none piles up."""
    return Figure(figsize=(width, height)).subplots(1, columns)


def tell(ax: Axes, records: Sequence[Record], *, alt: str, caption: str) -> Axes:
    """Say what the picture shows: `alt` for those who cannot see it, `caption` under it. Both from the data.

    What a careful reader should know of the records (noise, what was scaled down, that one is the reference run)
    goes along in the caption.
    """
    _words[_figure(ax)] = (alt, " ".join([caption, *_remarks(records)]))
    return ax


def _remarks(records: Sequence[Record]) -> list[str]:
    """Whose records these are, if not the learner's, the worst of the noise, and every other warning once."""
    machines = sorted({record.reference for record in records if record.reference})
    remarks = [f"Not measured here: the reference run, recorded on {machine}." for machine in machines]
    noisy = [record.noise for record in records if record.noise and record.noise.warning()]
    noise = {word for each in noisy if (word := each.warning())}
    others = dict.fromkeys(word for record in records for word in record.warnings if word not in noise)
    if noisy:
        worst = max(noisy, key=lambda each: (each.stolen or 0) + (each.others or 0))
        remarks.append(f"Bear in mind: {worst.warning()}.")
    return remarks + [f"{word[:1].upper()}{word[1:]}." for word in others]


def alt(ax: Axes) -> str:
    """The text for those who cannot see the picture."""
    return _words[_figure(ax)][0]


def caption(ax: Axes) -> str:
    """The sentence under the picture."""
    return _words[_figure(ax)][1]


def _figure(ax: Axes) -> Figure:
    figure = ax.get_figure(root=True)
    assert isinstance(figure, Figure)
    return figure


class Picture:
    """A figure as one HTML element with its alternative text and caption: in Lab, untrusted, exported, all the same."""

    def __init__(self, figure: Figure, alt: str, caption: str) -> None:
        self.alt, self.caption = alt, caption
        self.png = _png(figure)
        self.width = round(figure.get_figwidth() * 88)

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.png).decode()
        return (
            f'<figure style="margin:0; max-width:{self.width}px">'
            f'<img alt="{html.escape(self.alt)}" style="width:100%; border-radius:6px" '
            f'src="data:image/png;base64,{data}">'
            f'<figcaption style="padding:.4em .2em; line-height:1.45">{html.escape(self.caption)}</figcaption></figure>'
        )

    def __repr__(self) -> str:
        return f"{self.alt} {self.caption}"


def _png(figure: Figure) -> bytes:
    """The figure at twice the size that it is shown in. 256 colours are enough, and take a third of the bytes."""
    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=2 * mpl.rcParams["figure.dpi"] * 0.75, pil_kwargs={"compress_level": 1})
    image = Image.open(full).convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    image.save(small, "png")
    return small.getvalue()


def show(ax: Axes | Sequence[Axes]) -> Picture:
    """The picture that axes belong to, for the last line of a cell."""
    figure = _figure(ax if isinstance(ax, Axes) else ax[0])
    return Picture(figure, *_words[figure])


# Shared marks


def dot(ax: Axes, figure: Estimate, y: float, colour: str, marker: str = "o", label: str | None = None) -> None:
    """An estimate as a mark with its interval, its value above it; in words where a log axis has no place for it."""
    if figure.median <= 0:
        words = f"{readable(figure.median, figure.unit)}: below noise"
        ax.annotate(words, (0.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=12, color=colour)
        return
    below, above = figure.median - figure.low, figure.high - figure.median
    ax.errorbar(
        figure.median, y, xerr=[[below], [above]], fmt=marker, color=colour, ecolor=colour, elinewidth=5, markersize=11,
        markeredgecolor=INK, markeredgewidth=0.8, zorder=4,
    )  # fmt: skip
    ax.annotate(
        label or readable(figure.median, figure.unit), (figure.median, y), xytext=(0, 9),
        textcoords="offset points", ha="center", va="bottom", fontsize=12, zorder=7,
    )  # fmt: skip


def open_dot(ax: Axes, x: float, y: float, colour: str, marker: str = "o", label: str = "") -> None:
    """A second figure of the same row: hollow, and named beside."""
    ax.annotate(
        label, (x, y), xytext=(9, 0), textcoords="offset points", ha="left", va="center", fontsize=10, color=FAINT
    )
    ax.plot(x, y, marker, markerfacecolor="white", markeredgecolor=colour, markeredgewidth=2, markersize=9, zorder=3)


def stands(one: Estimate, other: Estimate) -> str:
    """How one estimate stands to another, as far as their intervals can tell: for sentences."""
    if one.high < other.low:
        return "less than"
    return "more than" if one.low > other.high else "about as much as"


def claim_band(ax: Axes, claim: Claim, *, along: str = "x", scale: float = 1.0, label: str | None = None) -> None:
    """What the article says, as a grey band; `scale` turns the claim's unit into the axis's."""
    low, high = (claim.low or 0) * scale, (claim.high if claim.high is not None else float("inf")) * scale
    band = ax.axvspan if along == "x" else ax.axhspan
    band(low, high, color=CLAIM, zorder=0, lw=0)
    words = label or f"article: {claim.said}"
    if along == "x":
        ax.annotate(words, ((low * high) ** 0.5, 1), xycoords=("data", "axes fraction"), xytext=(0, -4),
                    textcoords="offset points", ha="center", va="top", fontsize=11, color=FAINT)  # fmt: skip
    else:
        ax.annotate(words, (0.01, high), xycoords=("axes fraction", "data"), xytext=(0, -4),
                    textcoords="offset points", va="top", fontsize=11, color=FAINT)  # fmt: skip


def guess_mark(ax: Axes, x: float | None, y: float | None, *, label: str = "your guess", side: str = "left") -> None:
    """The learner's guess as a diamond, where there is one."""
    if x is None or y is None:
        return
    dx = 10 if side == "left" else -10
    ax.plot(x, y, "D", color=GUESS, markersize=11, markeredgecolor="white", markeredgewidth=1.2, zorder=6)
    ax.annotate(
        label,
        (x, y),
        xytext=(dx, 0),
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=11,
        color=GUESS,
        zorder=6,
    )


def ghost_dot(ax: Axes, figure: Estimate | None, y: float) -> None:
    """The reference run's figure: a pale ring."""
    if figure is not None:
        ax.plot(
            figure.median,
            y,
            "o",
            markerfacecolor="none",
            markeredgecolor=GHOST,
            markersize=17,
            markeredgewidth=2.2,
            zorder=2,
        )


def ghost_note(ax: Axes, machine: str | None, mark: str = "ring") -> None:
    """Whose the ghost is."""
    if machine:
        ax.annotate(
            f"pale {mark}: reference run on {machine}", (1, 0), xycoords="axes fraction", xytext=(0, -44),
            textcoords="offset points", ha="right", va="top", fontsize=10, color=FAINT, annotation_clip=False,
        )  # fmt: skip


def ribbon(
    ax: Axes, xs: Sequence[float], figures: Sequence[Estimate], colour: str, marker: str = "o", **line: Any
) -> None:
    """Estimates along a logarithmic axis: the medians as a line, their intervals as a band; below zero has no place."""
    ax.fill_between(xs, [each.low for each in figures], [each.high for each in figures], color=colour, alpha=0.25, lw=0)
    ax.plot(
        xs,
        [each.median if each.median > 0 else nan for each in figures],
        marker=marker,
        color=colour,
        markersize=6,
        **line,
    )


def mark_x(ax: Axes, x: float, words: str) -> None:
    """A dashed line across the picture, named at its foot: the end of a cache, the number of cores."""
    ax.axvline(x, color=FAINT, lw=1.2, ls="--", zorder=1)
    place: Any = {
        "xycoords": ("data", "axes fraction"),
        "xytext": (-5, 0),
        "textcoords": "offset points",
        "ha": "right",
    }
    ax.annotate(words, (x, 0.02), fontsize=10, color=FAINT, **place)


def name_line(
    ax: Axes, x: float, y: float, words: str, colour: str, *, dx: float = 8, dy: float = 0, **text: Any
) -> None:
    """A line's name at its end, instead of a legend."""
    ax.annotate(words, (x, y), xytext=(dx, dy), textcoords="offset points", va="center", color=colour, fontsize=12,
                fontweight="bold", annotation_clip=False, **text)  # fmt: skip


# Numbers and axes as people read them

TIMES = (("s", 1e9), ("ms", 1e6), ("µs", 1e3), ("ns", 1.0))
SIZES = (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("B", 1.0))


def duration(nanoseconds: float) -> str:
    """ "1.9 µs" rather than 1900 ns: three digits at the most."""
    for unit, size in TIMES:
        if abs(nanoseconds) >= size:
            return f"{_digits(nanoseconds / size)} {unit}"
    return f"{_digits(nanoseconds)} ns"


def readable(value: float, unit: str) -> str:
    """A value with its unit as people write it; times in the unit that fits."""
    sizes = dict(TIMES)
    return (
        duration(value * sizes[unit])
        if unit in sizes
        else f"{_digits(value)} {unit}".removesuffix(" x") + ("x" if unit == "x" else "")
    )


def stated(figure: Estimate) -> str:
    """An estimate for a sentence, in the unit that fits: "11.4 ms (9.8 to 13)"."""
    for family in (dict(TIMES), dict(SIZES)):
        if figure.unit in family:
            size = figure.median * family[figure.unit]
            unit = next((unit for unit, step in family.items() if abs(size) >= step), figure.unit)
            return str(figure.scaled(family[figure.unit] / family[unit], unit))
    return str(figure).replace(" x (", "x (")


def _digits(value: float) -> str:
    return (
        f"{value:,.0f}"
        if abs(value) >= 100
        else f"{value:.3g}"
        if abs(value) < 10
        else f"{value:.1f}".removesuffix(".0")
    )


def bytes_text(size: float) -> str:
    """ "48 KiB", "1 MiB"."""
    for unit, step in SIZES:
        if size >= step:
            return f"{size / step:.3g} {unit}"
    return f"{size:.0f} B"


def time_axis(axis: Any, unit: str) -> None:
    """A logarithmic axis whose ticks are written as times."""
    size = dict(TIMES)[unit]
    axis.set_major_formatter(FuncFormatter(lambda value, _: duration(value * size)))
    axis.set_minor_locator(NullLocator())


def size_axis(ax: Axes, ticks: Sequence[int]) -> None:
    """A base-2 axis of memory sizes."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(list(ticks), [bytes_text(tick) for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())


def count_axis(axis: Any, ticks: Sequence[float]) -> None:
    """Plain numbers on a logarithmic axis."""
    axis.set_ticks(list(ticks), [f"{tick:,.0f}" if tick >= 1 else f"{tick:g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def sentence(figures: Mapping[str, Estimate]) -> str:
    """Figures in a row, for an alternative text: "threads 2.1 µs, tasks 3 µs"."""
    return ", ".join(f"{name} {readable(each.median, each.unit)}" for name, each in figures.items())
