"""The `experiment` decorator, and the registry that the command line, the doctor, widgets and tests read."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Generic, Literal, ParamSpec, TypeVar, get_args, get_origin

from helpers import progress
from helpers.record import Record

if TYPE_CHECKING:
    from threading import Event

    from helpers.progress import Listener

P = ParamSpec("P")
R = TypeVar("R", bound=Record)
TIMEOUT_FACTOR, TIMEOUT_START_S = 10, 30  # a slow or busy machine gets ten times the declared seconds

Need = Callable[[], str | None]  # None when there, else one line: what is missing and what would bring it


class Unavailable(RuntimeError):
    """The experiment cannot run on this machine, and the reference run has no record of it."""


@dataclass(frozen=True)
class Between:
    """Bounds of a number, both included: `rounds: Annotated[int, Between(3, 200)] = 21`."""

    low: float
    high: float


@dataclass(frozen=True)
class Parameter:
    """A keyword of an experiment: its type (int, float, bool or str), its default, and what it may be."""

    name: str
    kind: type
    default: Any
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None

    @property
    def allowed(self) -> str:
        """The bounds in words."""
        if self.choices:
            return "one of " + ", ".join(map(str, self.choices))
        if self.kind is bool:
            return "True or False"
        kind = "a whole number" if self.kind is int else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}"

    def check(self, value: Any) -> Any:
        """The value as the experiment gets it. Raises `ValueError` naming parameter, value and bounds."""
        if not self._fits(value):
            raise ValueError(f"{self.name}={value!r}: {self.name} is {self.allowed}")
        return self.kind(value)

    def _fits(self, value: Any) -> bool:
        if self.choices:
            return isinstance(value, self.kind) and value in self.choices
        if self.kind is bool or isinstance(value, bool):
            return self.kind is bool and isinstance(value, bool)
        if self.low is None or self.high is None:
            return False
        number = isinstance(value, int) or (self.kind is float and isinstance(value, float) and math.isfinite(value))
        return number and self.low <= value <= self.high

    def parse(self, text: str) -> Any:
        """The value written as `text` on a command line. Raises `ValueError` as `check` does."""
        if self.kind is bool:
            return self.check(
                {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}.get(text.lower(), text)
            )
        try:
            return self.check(self.kind(text))
        except ValueError:
            raise ValueError(f"{self.name}={text}: {self.name} is {self.allowed}") from None


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
        import inspect
        from typing import get_type_hints

        hints = get_type_hints(self.function, include_extras=True)
        signature = inspect.signature(self.function)
        return {name: _parameter(name, hints[name], item.default) for name, item in signature.parameters.items()}

    @functools.cached_property
    def record_type(self) -> type[R]:
        """The dataclass that it returns."""
        from typing import get_type_hints

        return get_type_hints(self.function)["return"]

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
        return {name: item.check(given.get(name, item.default)) for name, item in self.parameters.items()}

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


def _parameter(name: str, hint: Any, default: Any) -> Parameter:
    bounds = None
    if get_origin(hint) is Annotated:
        hint, bounds = get_args(hint)[:2]
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        return Parameter(name, type(choices[0]), default, choices=choices)
    if bounds is None and hint is not bool:
        raise TypeError(f"{name}: a number of an experiment needs bounds, Annotated[…, Between(low, high)]")
    return Parameter(name, hint, default, low=getattr(bounds, "low", None), high=getattr(bounds, "high", None))


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
