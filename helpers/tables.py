"""Tables: for notebooks, code-hosting pages and screen readers as plain HTML, for terminals as text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from itertools import zip_longest

# No colours of its own: it takes the page's, so it reads in light and dark alike.
CELL = "text-align: left; vertical-align: top; padding: 0.3em 0.8em; border-bottom: 1px solid currentColor"
GAP = "  "


def html_table(
    caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, notes: Sequence[str] = ()
) -> str:
    """An HTML table whose rows begin with their header; `notes` show when the mouse rests on it. Texts are escaped."""
    head = "".join(f'<th scope="col" style="{CELL}">{escape(heading)}</th>' for heading in headings)
    body = "\n".join(_row(cells, note) for cells, note in zip_longest(rows, notes, fillvalue=""))
    return (
        '<table style="border-collapse: collapse; color: inherit; background: transparent">\n'
        f'<caption style="text-align: left; color: inherit">{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    )


def _row(cells: Sequence[str], note: str) -> str:
    first, *others = (escape(cell).replace("_", "_<wbr>") for cell in cells)  # a long name may break there
    title = f' title="{escape(note)}"' if note else ""
    header = f'<th scope="row" style="{CELL}; font-weight: normal"{title}>{first}</th>'
    return f"<tr>{header}" + "".join(f'<td style="{CELL}">{cell}</td>' for cell in others) + "</tr>"


def text_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal; where it is too wide, the wider columns wrap."""
    from textwrap import wrap

    widths = _widths([headings, *rows])
    lines = [_line(headings, widths), _line(["-" * width for width in widths], widths)]
    for row in rows:
        columns = [wrap(cell, width) for cell, width in zip(row, widths, strict=True)]
        lines += [_line(cells, widths) for cells in zip_longest(*columns, fillvalue="")]
    return "\n".join(lines)


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Each column as wide as it wants; where there is no room for that, the wide ones share what the narrow leave."""
    from shutil import get_terminal_size

    wanted = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = max(get_terminal_size((120, 24)).columns, 80) - len(GAP) * (len(wanted) - 1)
    widths = list(wanted)
    for place, column in enumerate(sorted(range(len(wanted)), key=wanted.__getitem__)):
        widths[column] = min(wanted[column], room // (len(wanted) - place))
        room -= widths[column]
    return widths


def _line(cells: Iterable[str], widths: Iterable[int]) -> str:
    return GAP.join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
