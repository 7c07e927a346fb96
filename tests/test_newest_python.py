"""The unit tests of the core under the newest Python on this machine as well, in an environment of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import machine

ROOT = Path(__file__).parent.parent
CORE = ("measure", "registry", "sandbox", "ledger", "claims", "machine")
TOOLS = ("pytest", "pytest-timeout", "hypothesis", "psutil", "numpy", "nbclient", "ipykernel")


def newest() -> machine.Interpreter | None:
    """The newest released Python with a GIL that is newer than the one that runs the suite."""
    here = sys.version_info[:2]
    found = [each for each in machine.interpreters() if version(each) > here and each.gil and each.version.isascii()]
    return max(found, key=version, default=None)


def version(found: machine.Interpreter) -> tuple[int, int]:
    major, minor = found.version.split(".")[:2]
    return int(major), int(minor)


@pytest.mark.timeout(300)
def test_the_core_under_the_newest_python(tmp_path: Path) -> None:
    python = newest()
    if python is None:
        pytest.skip("no newer Python on this machine")
    uv = [sys.executable, "-m", "uv"]
    own = tmp_path / "newest" / "bin" / "python"
    make = [*uv, "venv", "--quiet", "--python", python.path, str(tmp_path / "newest")]
    lock = ["--constraint", "tests/requirements.lock"]
    fill = [*uv, "pip", "install", "--quiet", "--python", str(own), *lock, *TOOLS]
    for command in (make, fill):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"install: pytest for Python {python.version}: {done.stderr.strip().splitlines()[-1]}")
    files = [f"tests/test_{name}.py" for name in CORE]
    options = ["-q", "-p", "no:cacheprovider", "--no-header", "-k", "not covers_the_truth"]  # sums, and long ones
    few = os.environ | {"HELPERS_EXAMPLES": "10"}  # what depends on the Python shows in each of them
    command = [str(own), "-m", "pytest", *options, *files]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=few)
    print(f"\nPython {python.version}: {run.stdout.strip().splitlines()[-1]}")
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
