"""What an experiment returns: a frozen dataclass of plain values and estimates that survives JSON both ways."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass

from helpers.measure import Estimate

TYPE_CHECKING = False  # as in `worker`: `typing` takes 4 ms
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self

    from helpers.noise import Noise


@dataclass(frozen=True, kw_only=True)
class Record:
    """One run of one experiment. Subclasses add what was measured; the fields here are filled in by the run.

    `placement` says where the contexts ran, `subtracted` what was taken off, `warnings` everything that a
    careful reader should know. `reference` names the machine when the record comes from the reference run.
    """

    experiment: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    started: str = ""  # ISO 8601, UTC
    seconds: float = 0.0
    machine: dict[str, Any] = field(default_factory=dict)
    noise: Noise | None = None
    placement: str = ""
    subtracted: str = ""
    warnings: tuple[str, ...] = ()
    reference: str | None = None

    if TYPE_CHECKING:
        headline_name: ClassVar[str]
    else:  # without `typing` at hand, `dataclass` would take the annotated name for a field
        headline_name = ""

    def figures(self) -> dict[str, Estimate]:
        """Every estimate that a claim can be held against, by name; the headline is `headline_name`."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its figures are")

    @property
    def headline(self) -> dict[str, Any]:
        """The one figure that a claim is held against: name, median, low, high, unit."""
        figure = self.figures()[self.headline_name]
        return {
            "name": self.headline_name,
            "median": figure.median,
            "low": figure.low,
            "high": figure.high,
            "unit": figure.unit,
        }

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dumps`, with the headline first."""
        return {"headline": self.headline, **_plain(self)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The record that `to_json` wrote. Raises `ValueError` where the data is not of this shape."""
        try:
            return _build(cls, data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a {cls.__name__} record: {error}") from error


def _plain(value: Any) -> Any:
    """Dictionaries, lists, strings and numbers: tuples become lists, as JSON has it, and numpy's floats floats."""
    if is_dataclass(value):
        return {item.name: _plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return float(value) if isinstance(value, float) else value


def _build(kind: Any, value: Any) -> Any:
    """Turn plain `value` into what the type hint `kind` says: dataclasses, tuples and dicts, nested."""
    from types import UnionType
    from typing import Union, cast, get_args, get_origin

    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None:
            return None
        return _build(next(argument for argument in arguments if argument is not type(None)), value)
    if is_dataclass(kind):
        hints = hints_of(kind)
        known = {item.name for item in fields(kind)}
        values = {name: _build(hints[name], item) for name, item in value.items() if name in known}
        return cast("type[Any]", kind)(**values)
    if origin is tuple:
        each = arguments[:-1] if arguments[-1] is Ellipsis else arguments
        if arguments[-1] is Ellipsis:
            return tuple(_build(each[0], item) for item in value)
        return tuple(_build(argument, item) for argument, item in zip(arguments, value, strict=True))
    if origin is dict:
        return {key: _build(arguments[1], item) for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value


def hints_of(annotated: Any) -> dict[str, Any]:
    """The annotations of a class or function as types, with the names that modules import for type checkers alone."""
    import typing

    from helpers.noise import Noise

    names = {name: getattr(typing, name) for name in ("Annotated", "Any", "ClassVar", "Literal")} | {"Noise": Noise}
    return typing.get_type_hints(annotated, localns=names, include_extras=True)
