"""Notebooks 00, 02, 04, … run through in JupyterLab, in a real browser, and looked at in both themes and sizes.

HELPERS_SCREENSHOTS=folder keeps the pictures. The odd ones have a file of their own, so that two processes share the
work; notebook 03 is test_browser.py's.
"""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.lab import NOTEBOOKS, WIDE, Lab, Notebook, assert_runs_and_is_readable

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

EVEN = [name for name in NOTEBOOKS if int(name[:2]) % 2 == 0]


@pytest.fixture(scope="module")
def page(lab: Lab, chromium: Browser) -> Notebook:
    """The page in which one notebook is opened after the other: to load JupyterLab takes longer than that."""
    return Notebook(lab, chromium.new_page(viewport=WIDE), EVEN[0])


@pytest.mark.parametrize("name", EVEN)
def test_it_runs_and_is_readable(page: Notebook, name: str) -> None:
    assert_runs_and_is_readable(page, name)
