"""What the widgets of this package share: a fallback for readers of a saved notebook, and texts as HTML."""

from __future__ import annotations

import html
import re
from typing import Any

import ipywidgets as widgets

# The long answers of a quiz need more than the one line that ipywidgets gives to a radio button.
STYLE = """<style>
.study-options.widget-radio, .study-options .widget-radio-box {width: auto; max-width: 60em}
.study-options .widget-radio-box {margin-bottom: 0}
.study-options .widget-radio-box label {height: auto; line-height: 1.4; white-space: normal; padding: 1px 0;
  align-items: start; font-size: var(--jp-ui-font-size1, inherit)}
.study-options .widget-radio-box input {flex: none; height: 1.4em; margin: 0 .6em 0 1px}
.study-knob .widget-toggle-button.mod-active {box-shadow: inset 0 -3px var(--jp-brand-color1, blue)}
.study-text {line-height: 1.45; max-width: 60em; color: var(--jp-ui-font-color1, inherit)}
.study-text code {color: inherit; background: var(--jp-layout-color2, transparent); padding: 0 .2em}
.study-text pre {color: inherit; background: none; overflow-x: auto; line-height: 1.3}
.study-old {opacity: .35}
</style>"""

COLOURS = {
    "": "var(--jp-border-color1, gray)",
    "good": "var(--jp-success-color1, green)",
    "bad": "var(--jp-warn-color1, darkorange)",
    "trouble": "var(--jp-error-color1, firebrick)",
}


class Shown:
    """Something that learners use as a widget, and that readers of a saved notebook see as plain HTML.

    Both are in one output: a live JupyterLab shows the widget, a code-hosting page the HTML.
    """

    widget: widgets.Widget

    def static_html(self) -> str:
        """What is shown where widgets aren't alive; no style sheet, since hosting pages strip it."""
        raise NotImplementedError

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        bundle = dict(self.widget._repr_mimebundle_() or {})
        static = self.static_html()
        return {**bundle, "text/html": static, "text/plain": as_text(static)}

    def __repr__(self) -> str:
        return as_text(self.static_html())


def rich(text: str) -> str:
    """A text as HTML, with what stands in `backticks` as code and between *stars* emphasised."""
    escaped = html.escape(text, quote=False)
    coded = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"(?<![\w*])\*(\w[^*]*)\*(?![\w*])", r"<em>\1</em>", coded)


def plain(text: str) -> str:
    """A text without its backticks and stars, for labels that can't have any markup."""
    return re.sub(r"(?<![\w*])\*(\w[^*]*)\*(?![\w*])", r"\1", text.replace("`", ""))


def as_text(page: str) -> str:
    """HTML as text for terminals: one line per block, without tags."""
    lined = re.sub(r"<style>.*?</style>|<img[^>]*>", "", page, flags=re.DOTALL)
    lined = re.sub(r"</(p|li|summary|div|pre|figcaption)>|<br>", "\n", lined)
    lines = (line.strip() for line in html.unescape(re.sub(r"<[^>]+>", "", lined)).splitlines())
    return "\n".join(line for line in lines if line)


def note(content: str, kind: str = "") -> str:
    """A remark (HTML) that screen readers announce; `kind` is good, bad, trouble or nothing."""
    # The style is in the element, since a saved notebook may be shown where style sheets are stripped.
    look = f"border-left: 4px solid {COLOURS[kind]}; padding: .1em 0 .1em .7em; margin: .2em 0 .6em"
    return f'<div class="study-text" style="{look}" role="status">{content}</div>'


def text_box(content: str = "") -> widgets.HTML:
    """A place for HTML that wraps."""
    return widgets.HTML(value=content, layout=widgets.Layout(max_width="60em"))


def number(value: float) -> str:
    """Three significant digits, as people write them."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
