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

    if listener is not None:
        return nullcontext(listener)
    if _in_notebook():
        from helpers.bar import Bar

        return Bar(name, PATIENCE_S)
    return closing(_Bar(name))


def _in_notebook() -> bool:
    return "IPython" in sys.modules and hasattr(sys.modules["IPython"].get_ipython(), "kernel")


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
        if not sys.stderr.isatty():
            return None
        try:
            from tqdm import tqdm
        except ImportError:
            return None
        return tqdm(total=total, desc=self._name, leave=False, delay=PATIENCE_S)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def tell(line: str) -> None:
    """One line for the learner that belongs to no result, e.g. that a record could not be kept."""
    print(line, file=sys.stdout if _in_notebook() else sys.stderr)
