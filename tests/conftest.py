"""The suite leaves the learner's ledger, Jupyter settings and screen alone."""

import os
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from tests.lab import Lab

_examples = int(os.environ.get("HELPERS_EXAMPLES", "50"))
settings.register_profile("suite", deadline=None, max_examples=_examples)  # no absolute times: the machine may be busy
settings.load_profile("suite")

# Set before anything imports helpers or Jupyter, and inherited by every process that a test starts.
_home = tempfile.TemporaryDirectory(prefix="concurrency-tests-")
os.environ["HELPERS_LEDGER"] = ":memory:"
os.environ["MPLBACKEND"] = "Agg"
for _name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
    os.environ[_name] = str(Path(_home.name) / _name.lower())


CORES = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
QUIET = {  # files whose comparisons a busy machine spoils; elsewhere single tests bear the mark
    "test_concurrency_and_parallelism.py",
    "test_context_switching.py",
    "test_processes_and_threads.py",
    "test_slow_network.py",
    "test_the_gil.py",
    "test_timeline.py",
}


@pytest.hookimpl(tryfirst=True)  # before pytest selects by mark
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the files that need quiet."""
    for item in items:
        if item.path.name in QUIET and item.get_closest_marker("beside_others") is None:
            item.add_marker(pytest.mark.quiet)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a skip whose reason begins with "install:" is a failure: there, everything that can be installed is."""
    report = yield
    if os.environ.get("HELPERS_NO_SKIPS") and report.skipped and call.excinfo is not None:
        reason = str(getattr(call.excinfo.value, "msg", ""))
        if reason.startswith("install:"):
            report.outcome = "failed"
            report.longrepr = f"{item.nodeid} may not skip here: {reason}"
    return report


@pytest.fixture(autouse=True)
def unpinned() -> Iterator[None]:
    """An experiment that runs in this process may pin it: the next test has all cores again."""
    yield
    if CORES:
        os.sched_setaffinity(0, CORES)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[Lab]":
    """JupyterLab for the tests of one file."""
    from tests.lab import CHROMIUM, Lab

    if CHROMIUM is None:
        pytest.skip("install: apt install chromium")
    running = Lab(tmp_path_factory.mktemp("lab"))
    yield running
    running.end()


@pytest.fixture(scope="module")
def chromium(lab: "Lab") -> "Iterator[Browser]":
    """A real browser beside it."""
    from playwright.sync_api import sync_playwright

    from tests.lab import browser

    with sync_playwright() as playwright, browser(playwright) as started:
        yield started
