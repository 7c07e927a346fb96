"""Makes .venv from the pinned set: `make_venv.py run` for JupyterLab, `make_venv.py test` for the test tools too.

Standard library only: this runs before anything is installed. The stamp is written last and removed first: a .venv
that has one is whole, a .venv that has none was interrupted and is made anew.
"""

import fcntl
import hashlib
import json
import os
import subprocess
import sys
import venv
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

LOCKS = {"run": "requirements.lock", "test": "tests/requirements.lock"}  # the second contains the first
UV = Path(__file__).with_name("requirements.lock")


class SetupError(Exception):
    """Told to the learner in one line."""


def prepare(root: Path, wanted: str, install: Callable[[Path, Path], None] | None = None) -> bool:
    """Bring root/.venv to the wanted set of packages; whether there was anything to do."""
    home = root / ".venv"
    python = home / "bin" / "python"
    stamp = home / "stamp.json"
    pins = hashlib.sha256(b"".join((root / lock).read_bytes() for lock in LOCKS.values())).hexdigest()

    made = read(stamp)
    usable = "python" in made and made["python"] == identity(python)
    if os.environ.get("PYTHON"):  # chosen by the learner: an older choice gives way
        usable = usable and made["python"] == identity(sys.executable)
    if usable and made.get("set") == "test":
        wanted = "test"  # whoever runs the tests once keeps the tools
    if usable and (made.get("set"), made.get("pins")) == (wanted, pins):
        return False

    if not usable:
        print(f"Making .venv with Python {sys.version.split()[0]}: once, a minute or so.", flush=True)
        venv.EnvBuilder(symlinks=True, clear=True).create(home)  # pip comes later: it is the part that Debian may lack
    stamp.unlink(missing_ok=True)
    (install or install_pinned)(python, root / LOCKS[wanted])
    link_project(root, python)
    stamp.write_text(json.dumps({"python": identity(python), "set": wanted, "pins": pins}) + "\n")
    return True


def read(stamp: Path) -> dict[str, str]:
    """What the stamp says; nothing if there is none or it is damaged."""
    try:
        made = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return {}
    return made if isinstance(made, dict) else {}


def identity(python: Path | str) -> str:
    """Which interpreter this is at bottom: its version and its home. Empty if it doesn't run (its base was removed)."""
    return ask(python, "import sys; print(*sys.version_info[:2], sys.base_prefix)")


def ask(python: Path | str, program: str) -> str:
    try:
        return subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def install_pinned(python: Path, lock: Path) -> None:
    """Install exactly what the lock says: by uv, which takes seconds, else by pip, which takes minutes."""
    pip = bootstrap_pip(python)
    have_uv = run(*pip, "install", "--quiet", "--only-binary=:all:", "--require-hashes", "-r", UV)
    if have_uv and run(python, "-m", "uv", "pip", "install", "--python", python, "--require-hashes", "-r", lock):
        return
    print("uv could not do it here: trying pip, which takes a few minutes.", flush=True)
    if not run(*pip, "install", "--require-hashes", "-r", lock):
        raise SetupError("The packages could not be installed: the lines above say why. Then `make` again.")


def bootstrap_pip(python: Path) -> list[Path | str]:
    """A pip that installs into .venv. Debian parts ensurepip from Python; its python3-pip serves as well."""
    if has(python, "pip") or (has(python, "ensurepip") and run(python, "-m", "ensurepip", quiet=True)):
        return [python, "-m", "pip"]
    if has(sys.executable, "pip"):
        return [sys.executable, "-m", "pip", "--python", python]
    raise SetupError("This Python can't start pip. On Debian and Ubuntu, `sudo apt install python3-venv` mends that.")


def has(python: Path | str, module: str) -> bool:
    return bool(ask(python, f"import {module}; print('yes')"))


def link_project(root: Path, python: Path) -> None:
    """Make `import helpers` work in .venv. A relative .pth needs no build step and survives moving the folder."""
    site = Path(ask(python, "import sysconfig; print(sysconfig.get_path('purelib'))"))
    (site / "concurrency_notebooks.pth").write_text(os.path.relpath(root.resolve(), site.resolve()) + "\n")


def run(*command: Path | str, quiet: bool = False) -> bool:
    return subprocess.run(command, stdout=subprocess.DEVNULL if quiet else None).returncode == 0


if __name__ == "__main__":
    here = Path(__file__).resolve()
    try:
        with here.open() as turn:  # two `make`s at once take turns; the lock goes with the process
            with suppress(OSError):  # some network file systems have no locks
                fcntl.flock(turn, fcntl.LOCK_EX)
            prepare(here.parents[1], sys.argv[1])
    except SetupError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("\nInterrupted. `make` again starts over.")
