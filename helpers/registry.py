"""The `experiment` decorator, and the registry that the command line, the doctor, widgets and tests read."""

from __future__ import annotations

import functools
import os
from dataclasses import replace

from helpers import progress
from helpers.record import Record, hints_of

TYPE_CHECKING = False  # as in `worker`: `typing` takes 4 ms
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from threading import Event
    from typing import Any, Generic, ParamSpec, TypeVar

    from helpers.parameters import Parameter
    from helpers.progress import Listener

    P = ParamSpec("P")
    R = TypeVar("R", bound=Record)
    Need = Callable[[], str | None]  # None when there, else one line: what is missing and what would bring it
else:
    P = R = None

    class Generic:
        """What type checkers take for `typing.Generic`."""

        def __class_getitem__(cls, _):
            return cls


def __getattr__(name: str) -> Any:
    """`Parameter` is loaded when it is asked for: the worker does without."""
    if name != "Parameter":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from helpers.parameters import Parameter

    return Parameter


REHEARSAL = (
    "HELPERS_REHEARSAL"  # when set, what is not asked for is as small as it can be: everything is tried, quickly
)
TIMEOUT_FACTOR, TIMEOUT_START_S = 10, 30  # a slow or busy machine gets ten times the declared seconds


class Unavailable(RuntimeError):
    """The experiment cannot run on this machine, and the reference run has no record of it."""


class Between:
    """Bounds of a number, both included: `rounds: Annotated[int, Between(3, 200)] = 21`."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high


class Experiment(Generic[P, R]):
    """A function that measures one thing, and the ways to run it.

    Calling it runs it in a process of its own, shows progress, and keeps the record in the ledger.
    """

    def __init__(
        self,
        function: Callable[P, R],
        *,
        seconds: float,
        claims: Sequence[str],
        needs: Sequence[Need],
        wants: Sequence[Need],
    ) -> None:
        functools.update_wrapper(self, function)
        self.function = function
        self.seconds = seconds  # how long a run with the defaults takes on a quiet machine
        self.claims = tuple(claims)
        self.needs = tuple(needs)  # without these the reference run is shown
        self.wants = tuple(wants)  # without these it runs, scaled down or less steadily, and says so
        self.module = function.__module__.rpartition(".")[2]
        self.name = f"{self.module}.{function.__name__}"

    def __repr__(self) -> str:
        return f"<experiment {self.name}>"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it properly: checked, in a process of its own, bounded, shown, kept."""
        return self._run(self.check(*args, **kwargs))

    def here(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it in this process: for tests and debugging. What this process does is part of the result."""
        from helpers import machine, worker

        record: R = worker.measured(self, self.check(*args, **kwargs))
        return replace(record, machine=machine.card())

    def under(self, python: str, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it under another interpreter, given by its path; nothing needs to be installed in that one."""
        return self._run(self.check(*args, **kwargs), python=python)

    def run(
        self,
        *,
        python: str | None = None,
        timeout: float | None = None,
        stop: Event | None = None,
        on_progress: Listener | None = None,
        **parameters: Any,
    ) -> R:
        """As a call, for widgets and the command line: with a Stop event, a progress listener, a time-out in s."""
        return self._run(self.check(**parameters), python, timeout, stop, on_progress)

    def _run(
        self,
        parameters: dict[str, Any],
        python: str | None = None,
        timeout: float | None = None,
        stop: Event | None = None,
        on_progress: Listener | None = None,
    ) -> R:
        from helpers import machine, reference, sandbox
        from helpers.ledger import ledger

        if missing := self.missing():
            return self._from(reference.record(self.name, **parameters), missing)
        with progress.shown(self.name, on_progress) as listener:
            data = sandbox.run(
                self.function.__module__,
                self.function.__name__,
                parameters,
                python=python,
                timeout=timeout or TIMEOUT_FACTOR * self.seconds + TIMEOUT_START_S,
                stop=stop,
                on_progress=listener,
                on_wait=getattr(listener, "tick", None),
            )
        record: R = self.record_type.from_json(data)
        record = replace(record, machine={**machine.card(), **record.machine})
        kept = ledger()
        kept.keep(record)
        if word := kept.told():
            progress.tell(word)
        return record

    def _from(self, record: Record | None, missing: list[str]) -> R:
        """The reference run's record in place of one from here, saying why."""
        if not isinstance(record, self.record_type):
            raise Unavailable(f"{self.name} cannot run here: {'; '.join(missing)}")
        return replace(record, warnings=(*record.warnings, *(f"not measured here: {word}" for word in missing)))

    @functools.cached_property
    def parameters(self) -> dict[str, Parameter]:
        """What the function takes, from its signature."""
        from helpers.parameters import parameters_of

        return parameters_of(self.function)

    @functools.cached_property
    def record_type(self) -> type[R]:
        """The dataclass that it returns."""
        kind: type[R] = hints_of(self.function)["return"]
        return kind

    def check(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """All parameters with their values. Raises `ValueError` for a wrong name or value; starts nothing."""
        names = list(self.parameters)
        if len(args) > len(names):
            raise ValueError(f"{self.name} takes at most {len(names)} values")
        given = dict(zip(names, args, strict=False))
        for name, value in kwargs.items():
            if name not in self.parameters:
                raise ValueError(f"{name}: {self.name} has no such parameter; it has {', '.join(names) or 'none'}")
            if name in given:
                raise ValueError(f"{name}: given twice")
            given[name] = value
        is_rehearsal = bool(os.environ.get(REHEARSAL))
        usual = {name: item.least if is_rehearsal else item.default for name, item in self.parameters.items()}
        return {name: item.check(given.get(name, usual[name])) for name, item in self.parameters.items()}

    def require(self) -> None:
        """Raises `Unavailable` where it cannot run."""
        if missing := self.missing():
            raise Unavailable(f"{self.name} cannot run here: {'; '.join(missing)}")

    def missing(self) -> list[str]:
        """What this machine lacks to run it at all, a line each."""
        return [word for need in self.needs if (word := need())]

    def scaled(self) -> list[str]:
        """What this machine lacks to run it in full, a line each."""
        return [word for want in self.wants if (word := want())]


def experiment(
    *, seconds: float, claims: Sequence[str] = (), needs: Sequence[Need] = (), wants: Sequence[Need] = ()
) -> Callable[[Callable[P, R]], Experiment[P, R]]:
    """Make a function an experiment: `@experiment(seconds=3, claims=["context-switch"], needs=[machine.fork])`."""

    def register(function: Callable[P, R]) -> Experiment[P, R]:
        made = Experiment(function, seconds=seconds, claims=claims, needs=needs, wants=wants)
        _registry[made.name] = made
        return made

    return register


_registry: dict[str, Experiment[Any, Any]] = {}


def experiments() -> dict[str, Experiment[Any, Any]]:
    """Every experiment of the series by name, `module.function`."""
    import importlib
    import pkgutil

    package = importlib.import_module("helpers.experiments")
    for found in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"helpers.experiments.{found.name}")
    return {name: _registry[name] for name in sorted(_registry) if _registry[name].__module__.startswith("helpers.")}


def find(name: str) -> Experiment[Any, Any]:
    """The experiment of that name. Raises `ValueError` that suggests the nearest one."""
    known = experiments()
    if name in known:
        return known[name]
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"did you mean {near[0]}?" if near else "`python -m helpers list` names them all"
    raise ValueError(f"{name}: no such experiment; {hint}")


def decode(data: dict[str, Any]) -> Record:
    """The record that an experiment wrote as JSON. Raises `ValueError` for an unknown experiment or shape."""
    return find(data["experiment"]).record_type.from_json(data)
