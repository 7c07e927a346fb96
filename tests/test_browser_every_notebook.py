"""Every notebook run through in JupyterLab, in a real browser, and looked at in both themes and on a small screen.

HELPERS_SCREENSHOTS=folder keeps the pictures. The last test needs those before it.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from helpers import claims, publish
from helpers.ledger import Ledger
from tests.lab import (
    DARK,
    LIGHT,
    NARROW,
    WIDE,
    Lab,
    Notebook,
    assert_runs_through,
    cut_off,
    faint_texts,
    photograph,
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

NOTEBOOKS = [path.name for path in sorted(publish.FOLDER.glob("*.ipynb"))]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_and_is_readable(lab: Lab, chromium: Browser, name: str) -> None:
    opened = Notebook(lab, chromium.new_page(viewport=WIDE), name)
    opened.run_all(200)
    assert_runs_through(opened)
    for theme in (DARK, LIGHT):
        opened.theme(theme)
        photograph(opened, f"{name[:2]}-{theme.split()[-1].lower()}")
        assert faint_texts(opened) == []
    opened.page.set_viewport_size(NARROW)
    assert cut_off(opened) == []
    opened.page.close()


def test_the_notebooks_that_ran_have_settled_their_claims(lab: Lab) -> None:
    ran = {name[:2] for name in NOTEBOOKS}
    rows = claims.settle(Ledger(lab.ledger))
    assert [row.claim.id for row in rows if row.claim.notebook in ran and row.verdict is None] == []
