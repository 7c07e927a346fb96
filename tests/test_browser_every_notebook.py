"""Every notebook run through in JupyterLab, in a real browser, and looked at in both themes and on a small screen.

HELPERS_SCREENSHOTS=folder keeps the pictures. Notebook 03 is test_browser.py's.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from helpers import publish
from tests.lab import (
    INTERACTIONS,
    WIDE,
    Lab,
    Notebook,
    assert_readable,
    assert_runs_through,
    assert_settled,
)

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

NOTEBOOKS = [path.name for path in sorted(publish.FOLDER.glob("*.ipynb")) if path.name != INTERACTIONS]


@pytest.fixture(scope="module")
def page(lab: Lab, chromium: Browser) -> Notebook:
    """The page in which one notebook is opened after the other: to load JupyterLab takes longer than that."""
    return Notebook(lab, chromium.new_page(viewport=WIDE), NOTEBOOKS[0])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_and_is_readable(lab: Lab, page: Notebook, name: str) -> None:
    if page.name != name:
        page.turn_to(name)
    page.run_all(200)
    assert_runs_through(page)
    assert_readable(page)
    assert_settled(lab, name)
