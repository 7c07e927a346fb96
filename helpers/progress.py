"""How far a long run has come: experiments report, whoever shows them listens."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as in `worker`: `typing` takes 4 ms
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from typing import Any

    Listener = Callable[[int, int], None]

PATIENCE_S = 2.0  # a run that is over sooner shows no bar

_listener: Listener | None = None


def report(done: int, total: int) -> None:
    """Say that `done` of `total` equal steps are finished. Costs next to nothing when nobody listens."""
    if _listener is not None:
        _listener(done, total)


def listen(listener: Listener | None) -> None:
    """Have `listener(done, total)` called at every report of this process; None to stop."""
    global _listener
    _listener = listener


def shown(name: str, listener: Listener | None = None) -> AbstractContextManager[Listener]:
    """A listener that draws a bar (in a notebook with a Stop button, in a terminal tqdm's), or the one given."""
    from contextlib import closing, nullcontext

    return closing(_bar(name)) if listener is None else nullcontext(listener)


def _bar(name: str) -> Any:
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel"):
        try:
            from helpers.bar import Bar
        except ImportError:
            return _Bar(name)
        return Bar(name, PATIENCE_S)
    return _Bar(name)


class _Bar:
    """A tqdm bar that knows its length once the first report comes, and vanishes at the end."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._bar: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self._bar is None:
            self._bar = self._made(total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)

    def _made(self, total: int) -> Any:
        if "ipykernel" not in sys.modules and not sys.stderr.isatty():
            return None
        try:
            from tqdm.auto import tqdm
        except ImportError:
            return None
        return tqdm(total=total, desc=self._name, leave=False, delay=PATIENCE_S)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def tell(line: str) -> None:
    """One line for the learner that belongs to no result, e.g. that a record could not be kept."""
    print(line, file=sys.stderr if "ipykernel" not in sys.modules else sys.stdout)
