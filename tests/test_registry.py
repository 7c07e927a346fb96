"""Experiments, their parameters and their records."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import machine, reference, registry, sandbox
from helpers.measure import Estimate, Noise, estimate
from helpers.parameters import Parameter
from helpers.record import Record
from helpers.registry import Between, Experiment, Unavailable, experiment
from tests import probes


class Step(NamedTuple):
    name: str
    cost: float


@dataclass(frozen=True)
class Part:
    size: int
    cost: Estimate | None


@dataclass(frozen=True, kw_only=True)
class Rich(Record):
    """Everything that a record may hold."""

    headline_name: ClassVar[str] = "cost"

    cost: Estimate
    other: Estimate | None = None
    parts: tuple[Part, ...] = ()
    pair: tuple[int, str] = (0, "")
    by_name: dict[str, tuple[float, ...]]
    by_part: dict[str, Part | None]
    ladder: tuple[tuple[int, ...], ...] = ()
    share: float | None = None
    flag: bool = False

    def figures(self) -> dict[str, Estimate]:
        return {"cost": self.cost} | ({"other": self.other} if self.other else {})


def rich() -> Rich:
    return Rich(
        experiment="a.b",
        parameters={"kind": "x", "count": 3, "share": 0.5, "on": True},
        machine={"cores": 2, "caches": [{"level": 1}], "unknown": {}},
        noise=Noise("noisy", stolen=0.1),
        warnings=("one", "two"),
        cost=estimate([1.5, 2.5, 3.5], "µs", warnings=["odd"]),
        parts=(Part(1, estimate([1.0, 2.0, 4.0], "ns")), Part(2, None)),
        pair=(7, "seven"),
        by_name={"a": (1.0, 2.0), "b": ()},
        by_part={"first": Part(3, None), "none": None},
        ladder=((1, 2), (), (3,)),
        share=2.0,
    )


def calibrate(
    kind: Literal["fast", "slow"] = "fast",
    *,
    count: Annotated[int, Between(1, 100)] = 10,
    share: Annotated[float, Between(0.0, 1.0)] = 0.5,
    on: bool = True,
    level: Literal[1, 2] = 1,
) -> Rich:
    """Calibrates."""
    return rich()


calibrate_experiment: Experiment[..., Rich] = Experiment(calibrate, seconds=1, claims=("one",), needs=(), wants=())


# Parameters


def test_parameters_are_read_off_the_signature() -> None:
    assert calibrate_experiment.parameters == {
        "kind": Parameter("kind", str, "fast", choices=("fast", "slow")),
        "count": Parameter("count", int, 10, low=1, high=100),
        "share": Parameter("share", float, 0.5, low=0.0, high=1.0),
        "on": Parameter("on", bool, True),
        "level": Parameter("level", int, 1, choices=(1, 2)),
    }
    assert calibrate_experiment.record_type is Rich


def test_a_rehearsal_is_as_small_as_can_be_in_what_was_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = probes.reports.check()
    monkeypatch.setenv(registry.REHEARSAL, "1")
    small = probes.reports.check()
    assert all(small[name] == each.least for name, each in probes.reports.parameters.items())
    assert small != usual and probes.reports.check(**usual) == usual


def test_defaults_and_positions() -> None:
    assert calibrate_experiment.check() == {"kind": "fast", "count": 10, "share": 0.5, "on": True, "level": 1}
    assert calibrate_experiment.check("slow", count=1, share=1)["share"] == 1.0
    assert type(calibrate_experiment.check(share=1)["share"]) is float


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"kind": "medium"}, "kind='medium': kind is one of fast, slow"),
        ({"kind": 1}, "kind=1: kind is one of fast, slow"),
        ({"kind": ""}, "kind='': kind is one of fast, slow"),
        ({"kind": None}, "kind=None: kind is one of fast, slow"),
        ({"kind": ["fast"]}, "kind=['fast']: kind is one of fast, slow"),
        ({"count": 0}, "count=0: count is a whole number from 1 to 100"),
        ({"count": 101}, "count=101: count is a whole number from 1 to 100"),
        ({"count": 10**400}, "0…: count is a whole number from 1 to 100"),
        ({"count": 10**5000}, "count=(int): count is a whole number from 1 to 100"),
        ({"count": 2.0}, "count=2.0: count is a whole number from 1 to 100"),
        ({"count": True}, "count=True: count is a whole number from 1 to 100"),
        ({"count": "3"}, "count='3': count is a whole number from 1 to 100"),
        ({"share": math.nan}, "share=nan: share is a number from 0 to 1"),
        ({"share": math.inf}, "share=inf: share is a number from 0 to 1"),
        ({"share": -1e-9}, "share=-1e-09: share is a number from 0 to 1"),
        ({"share": False}, "share=False: share is a number from 0 to 1"),
        ({"share": 1j}, "share=1j: share is a number from 0 to 1"),
        ({"on": 1}, "on=1: on is True or False"),
        ({"on": "yes"}, "on='yes': on is True or False"),
        ({"level": 3}, "level=3: level is one of 1, 2"),
        ({"level": True}, "level=True: level is one of 1, 2"),
        ({"level": 1.0}, "level=1.0: level is one of 1, 2"),
        ({"speed": 3}, "speed: registry_calibrate has no such parameter; it has kind, count, share, on, level"),
    ],
)
def test_wrong_values_are_named_with_their_bounds(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError) as caught:
        calibrate_experiment.check(**values)
    assert words.replace("registry_calibrate", calibrate_experiment.name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_values_given_twice_or_too_many() -> None:
    with pytest.raises(ValueError, match="kind: given twice"):
        calibrate_experiment.check("fast", kind="slow")
    with pytest.raises(ValueError, match="takes at most 5 values"):
        calibrate_experiment.check("fast", 1, 0.5, True, 1, 7)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("kind", "slow", "slow"),
        ("count", "7", 7),
        ("count", " 7", 7),
        ("share", "1", 1.0),
        ("share", "1e-3", 0.001),
        ("on", "no", False),
        ("on", "TRUE", True),
        ("level", "2", 2),
    ],
)
def test_values_from_the_command_line(name: str, text: str, value: Any) -> None:
    found = calibrate_experiment.parameters[name].parse(text)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kind", "Fast"),
        ("kind", ""),
        ("count", ""),
        ("count", "1.5"),
        ("count", "1e1"),
        ("count", "101"),
        ("count", "9" * 5000),
        ("share", "nan"),
        ("share", "inf"),
        ("share", "half"),
        ("on", "2"),
        ("on", ""),
        ("level", "x"),
    ],
)
def test_wrong_texts_are_named_with_their_bounds(name: str, text: str) -> None:
    parameter = calibrate_experiment.parameters[name]
    with pytest.raises(ValueError) as caught:
        parameter.parse(text)
    assert f"{name} is {parameter.allowed}" in str(caught.value)


@settings(deadline=None, max_examples=50)
@given(st.one_of(st.none(), st.integers(), st.floats(), st.text(), st.booleans(), st.binary(), st.lists(st.integers())))
def test_a_value_is_right_or_a_value_error(value: Any) -> None:
    for name, parameter in calibrate_experiment.parameters.items():
        try:
            found = parameter.check(value)
        except ValueError as error:
            assert parameter.allowed in str(error) and name in str(error)
        else:
            assert type(found) is parameter.kind and found == value


def test_a_number_needs_bounds() -> None:
    def boundless(*, count: int = 3) -> Rich:
        return rich()

    with pytest.raises(TypeError, match=r"count: .*needs bounds"):
        _ = Experiment(boundless, seconds=1, claims=(), needs=(), wants=()).parameters


def test_the_registry_still_names_its_parts() -> None:
    assert registry.Parameter is Parameter
    with pytest.raises(AttributeError, match="nonsense"):
        _ = registry.nonsense


# Finding


def test_every_module_of_the_series_is_registered() -> None:
    found = registry.experiments()
    assert {"start_here.first_costs", "context_switching.handoff"} <= set(found)
    assert all(name == each.name for name, each in found.items())
    assert not any(each.__module__.startswith("tests") for each in found.values())  # the probes are not of the series


def test_a_wrong_name_suggests_the_nearest() -> None:
    assert registry.find("context_switching.handoff").name == "context_switching.handoff"
    with pytest.raises(ValueError, match=r"^context_switching\.handof: .*did you mean context_switching\.handoff\?$"):
        registry.find("context_switching.handof")
    with pytest.raises(ValueError, match="`python -m helpers list` names them all"):
        registry.find("zzz")


def test_an_experiment_looks_like_its_function() -> None:
    assert calibrate_experiment.__doc__ == "Calibrates."
    assert repr(calibrate_experiment) == f"<experiment {calibrate_experiment.name}>"
    assert probes.nothing.name == "probes.nothing"


# Running


def test_here_runs_in_this_process() -> None:
    import os

    found = probes.surroundings.here()
    assert found.seen["pid"] == os.getpid()
    assert found.experiment == "probes.surroundings"
    assert found.machine["python_version"] == machine.card()["python_version"]


def test_a_call_runs_elsewhere_and_keeps_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    from helpers import ledger

    kept: list[Record] = []
    monkeypatch.setattr(ledger.Ledger, "keep", lambda self, found: kept.append(found) or True)
    found = probes.reports(2, pause=0.0)
    assert kept == [found]
    assert found.parameters == {"steps": 2, "pause": 0.0}
    assert found.machine["cores_usable"] == machine.card()["cores_usable"]
    assert found.started.endswith("Z") and found.seconds < 5


def test_what_is_missing_is_told_without_a_reference_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes.nothing, "needs", (lambda: "no wings: grow some", lambda: None))
    monkeypatch.setattr(reference, "record", lambda *_, **__: None)
    monkeypatch.setattr(sandbox, "run", lambda *_, **__: pytest.fail("nothing may start"))
    with pytest.raises(Unavailable, match=r"^probes\.nothing cannot run here: no wings: grow some$"):
        probes.nothing()


def test_what_is_missing_here_may_be_missing_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker asks again: another interpreter may lack what this one has."""
    with pytest.raises(Unavailable, match="needs_what_the_parent_has cannot run here: the worker is not pytest"):
        probes.needs_what_the_parent_has()


def test_the_reference_run_stands_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes.nothing, "needs", (lambda: "no wings",))
    shipped = replace(probes.nothing.here(), reference="a bird")
    monkeypatch.setattr(reference, "record", lambda *_, **__: shipped)
    found = probes.nothing()
    assert (found.reference, found.warnings) == ("a bird", ("not measured here: no wings",))


# Records


def test_a_record_survives_json() -> None:
    original = rich()
    text = json.dumps(original.to_json(), allow_nan=False)
    again = Rich.from_json(json.loads(text))
    assert again == original
    assert isinstance(again.parts[0], Part) and isinstance(again.parts[0].cost, Estimate)
    assert isinstance(again.noise, Noise)
    assert (again.pair, again.ladder) == ((7, "seven"), ((1, 2), (), (3,)))


def test_the_headline_comes_first() -> None:
    data = rich().to_json()
    assert next(iter(data)) == "headline"
    assert list(data["headline"]) == ["name", "median", "low", "high", "unit"]
    assert data["headline"]["median"] == 2.5


def test_whole_numbers_in_json_are_numbers_again() -> None:
    data = json.loads(json.dumps(rich().to_json()).replace("2.0", "2"))
    assert type(Rich.from_json(data).share) is float


def test_what_a_later_version_added_is_ignored() -> None:
    assert Rich.from_json({**rich().to_json(), "novelty": 1}) == rich()


@pytest.mark.parametrize("damage", [{"cost": None}, {"cost": 3}, {"parts": 3}, {"pair": [1]}, {"by_name": []}])
def test_another_shape_is_a_value_error(damage: dict[str, Any]) -> None:
    data = {**rich().to_json(), **damage}
    if damage == {"cost": None}:
        del data["cost"]
    with pytest.raises(ValueError):
        Rich.from_json(data)


def test_numpys_floats_become_plain() -> None:
    numpy = pytest.importorskip("numpy")
    found = replace(rich(), share=numpy.float64(0.5)).to_json()
    assert type(found["share"]) is float


def test_a_record_without_figures_says_so() -> None:
    with pytest.raises(NotImplementedError, match="Record does not say what its figures are"):
        _ = Record().headline


def test_records_are_decoded_by_their_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "experiments", lambda: {"a.b": calibrate_experiment})
    assert registry.decode(rich().to_json()) == rich()
    with pytest.raises(ValueError, match="no such experiment"):
        registry.decode({"experiment": "no.such"})


def test_an_interval_that_is_not_finite_survives_as_well() -> None:
    odd = replace(rich(), cost=Estimate(math.inf, 1.0, math.inf, "s"))
    assert Rich.from_json(json.loads(json.dumps(odd.to_json()))) == odd


def test_registering_makes_it_known() -> None:
    @experiment(seconds=1)
    def passing() -> Rich:
        """Passes."""
        return rich()

    try:
        assert registry._registry[passing.name] is passing
    finally:
        del registry._registry[passing.name]
