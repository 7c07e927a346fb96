"""Notebooks 01, 05, 07, …: as test_browser_even_notebooks.py has it for the others."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.lab import INTERACTIONS, NOTEBOOKS, WIDE, Lab, Notebook, assert_runs_and_is_readable

pytestmark = [pytest.mark.browser, pytest.mark.timeout(400)]

ODD = [name for name in NOTEBOOKS if int(name[:2]) % 2 == 1 and name != INTERACTIONS]


@pytest.fixture(scope="module")
def page(lab: Lab, chromium: Browser) -> Notebook:
    """One after the other in one page."""
    return Notebook(lab, chromium.new_page(viewport=WIDE), ODD[0])


@pytest.mark.parametrize("name", ODD)
def test_it_runs_and_is_readable(page: Notebook, name: str) -> None:
    assert_runs_and_is_readable(page, name)
