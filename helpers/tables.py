"""Tables that read well in a notebook, on a code-hosting page and to a screen reader: plain HTML, inherited colours."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import zip_longest

# No colours of its own: it takes the page's, so it reads in light and dark alike.
CELL = "text-align: left; vertical-align: top; padding: 0.3em 0.8em; border-bottom: 1px solid currentColor"


def html_table(
    caption: str, headings: Sequence[str], rows: Sequence[Sequence[str]], *, notes: Sequence[str] | None = None
) -> str:
    """An HTML table whose rows begin with their header; `notes` show when the mouse rests on it. Texts are escaped."""
    head = "".join(f'<th scope="col" style="{CELL}">{escape(heading)}</th>' for heading in headings)
    body = "\n".join(_row(cells, note) for cells, note in zip_longest(rows, notes or (), fillvalue=""))
    return (
        '<table style="border-collapse: collapse; color: inherit; background: transparent">\n'
        f'<caption style="text-align: left; color: inherit">{escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"
    )


def _row(cells: Sequence[str], note: str) -> str:
    first, *others = map(escape, cells)
    title = f' title="{escape(note)}"' if note else ""
    header = f'<th scope="row" style="{CELL}; font-weight: normal"{title}>{first}</th>'
    return f"<tr>{header}" + "".join(f'<td style="{CELL}">{cell}</td>' for cell in others) + "</tr>"
