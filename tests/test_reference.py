"""The reference run: made anew, rounded, labelled, and read by a version that may no longer know an experiment."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest

from helpers import machine, reference, registry
from helpers.measure import Estimate, Noise
from helpers.record import Record

NAME = "fake.walk"


@dataclass(frozen=True, kw_only=True)
class Walk(Record):
    cost: Estimate
    sizes: tuple[int, ...] = (123_456_789,)

    headline_name: ClassVar[str] = "cost"

    def figures(self) -> dict[str, Estimate]:
        return {"cost": self.cost}


def walk(how: Literal["fast", "slow"] = "fast", *, steps: Annotated[int, registry.Between(1, 9)] = 3) -> Walk:
    raise NotImplementedError


class Laboratory:
    """Stands in for the sandbox: returns made-up records, and remembers what was asked."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.grades: list[str] = []
        self.error: Exception | None = None

    def run(self, **parameters: Any) -> Walk:
        self.runs.append(parameters)
        if self.error and parameters["how"] == "slow":
            raise self.error
        grade = self.grades.pop(0) if self.grades else "quiet"
        cost = Estimate(1.23456789, 1.0000001, 1.3, "µs", (1.23456789, 1e-9 / 3, 1234567.89))
        return Walk(experiment=NAME, parameters=parameters, cost=cost, noise=Noise(grade, stolen=0.4))


@pytest.fixture
def laboratory(monkeypatch: pytest.MonkeyPatch) -> Laboratory:
    laboratory = Laboratory()
    registry.experiments()  # all are imported now, so that none registers in the place of the made-up one
    monkeypatch.setattr(walk, "__module__", "helpers.experiments.fake")
    experiment = registry.Experiment(walk, seconds=1, claims=(), needs=(), wants=())
    monkeypatch.setattr(experiment, "run", laboratory.run)
    monkeypatch.setattr(registry, "_registry", {NAME: experiment})
    return laboratory


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "reference.json"
    monkeypatch.setattr(reference, "FILE", path)
    reference._shipped.cache_clear()
    return path


SETTINGS: list[tuple[str, dict[str, list[Any]]]] = [
    (NAME, {"how": ["slow"]}),
    (NAME, {"steps": [3]}),
    ("gone.away", {"x": [1]}),
]


def test_made_and_read(laboratory: Laboratory, path: Path) -> None:
    assert reference.make(path, name="2 cores of a toaster", settings=SETTINGS) == []
    assert laboratory.runs == [{"how": "fast", "steps": 3}, {"how": "slow", "steps": 3}]  # each once
    fast, slow = reference.record(NAME), reference.record(NAME, how="slow", steps=3)
    assert fast and slow and (fast.parameters["how"], slow.parameters["how"]) == ("fast", "slow")
    assert fast.reference == slow.reference == "2 cores of a toaster"
    assert reference.record(NAME, how="sideways") is None
    assert reference.record("gone.away") is None


def test_only_some_are_recorded_anew(laboratory: Laboratory, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = registry.Experiment(walk, seconds=1, claims=(), needs=(), wants=())
    other.name = "other.walk"
    monkeypatch.setattr(other, "run", lambda **how: replace(laboratory.run(**how), experiment=other.name))
    monkeypatch.setitem(registry._registry, other.name, other)
    reference.make(path, name="a toaster", settings=SETTINGS)
    for wrong in ("gone", NAME + "s"):
        with pytest.raises(ValueError, match=wrong):
            reference.make(path, settings=SETTINGS, only=[wrong])
    for only in (["fake"], [NAME]):
        laboratory.runs.clear()
        reference.make(path, name=f"newer than {only}", settings=SETTINGS, only=only)
        assert len(laboratory.runs) == 2
        assert {found.reference for found in reference.records(NAME)} == {f"newer than {only}"}
        assert [found.reference for found in reference.records(other.name)] == ["a toaster"]


def test_rounded_one_record_per_line_and_stable(laboratory: Laboratory, path: Path) -> None:
    reference.make(path, settings=SETTINGS)
    lines = path.read_text().splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("[", 4, "]")
    (found,) = list(reference.load(path))[:1]
    assert isinstance(found, Walk)
    assert found.cost.samples == (1.23457, 3.33333e-10, 1234570.0)
    assert found.cost.low <= found.cost.median <= found.cost.high
    assert found.sizes == (123_456_789,)  # counts are exact
    again = path.with_name("again.json")
    reference._write(again, list(reference.load(path)))
    assert again.read_text() == path.read_text()


def test_a_busy_machine_is_measured_again(
    laboratory: Laboratory, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    laboratory.grades = ["busy", "noisy"]
    assert reference.make(path, settings=[]) == []
    assert len(laboratory.runs) == 2
    assert "busy machine" in capsys.readouterr().err
    assert (found := reference.record(NAME)) and found.noise and found.noise.grade == "noisy"


def test_a_machine_that_stays_busy_is_told(laboratory: Laboratory, path: Path) -> None:
    laboratory.grades = ["busy"] * 3
    (word,) = reference.make(path, settings=[])
    assert len(laboratory.runs) == 3
    assert NAME in word and "busy machine" in word
    assert reference.record(NAME)


def test_what_cannot_run_is_left_out_and_told(
    laboratory: Laboratory, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laboratory.error = OSError("no such device")
    (word,) = reference.make(path, settings=SETTINGS)
    assert "how=slow" in word and "no such device" in word
    assert reference.record(NAME) and not reference.record(NAME, how="slow")
    monkeypatch.setattr(registry._registry[NAME], "needs", (lambda: "a second core: buy one",))
    (first, second) = reference.make(path, settings=SETTINGS)
    assert "a second core" in first and "a second core" in second
    assert path.read_text() == "[]\n"


def test_a_wrong_parameter_in_the_settings_is_an_error(laboratory: Laboratory, path: Path) -> None:
    with pytest.raises(ValueError, match="how"):
        reference.make(path, settings=[(NAME, {"how": ["sideways"]})])
    assert laboratory.runs == [] and not path.exists()


def test_the_old_file_stays_until_the_new_one_is_whole(
    laboratory: Laboratory, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference.make(path, settings=[])
    before = path.read_text()
    monkeypatch.setattr(laboratory, "run", lambda **_: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(registry._registry[NAME], "run", laboratory.run)
    with pytest.raises(KeyboardInterrupt):
        reference.make(path, settings=[])
    assert path.read_text() == before


def test_records_that_this_version_cannot_read_are_skipped(laboratory: Laboratory, path: Path) -> None:
    reference.make(path, settings=[])
    (good,) = json.loads(path.read_text())
    path.write_text(json.dumps([{**good, "experiment": "gone.away"}, {"experiment": NAME, "cost": 3}, good]))
    reference._shipped.cache_clear()
    assert len(list(reference.load(path))) == 1
    assert reference.record(NAME)


def test_there_is_always_a_label(laboratory: Laboratory, path: Path) -> None:
    reference.make(path, settings=[])
    found = reference.record(NAME)
    assert found and found.reference == reference.machine_name()
    reference._write(path, [replace(found, reference=None)])
    reference._shipped.cache_clear()
    found = reference.record(NAME)
    assert found and found.reference == "the reference machine"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (
            {
                "cores_online": 2,
                "virtualisation": "kvm",
                "cpu_model": "AMD EPYC 7R13 48-Core Processor",
                "system": "Linux",
                "python_version": "3.11.7",
            },
            "2 virtual cores of an AMD EPYC 7R13, Linux, Python 3.11",
        ),
        (
            {
                "cores_online": 8,
                "virtualisation": "none",
                "cpu_model": "Intel(R) Core(TM) i7-9750H CPU @ 2.60GHz",
                "system": "Windows",
                "python_version": "3.13.0",
            },
            "8 cores of an Intel Core i7-9750H, Windows, Python 3.13",
        ),
        ({"cores_online": 1, "cpu_model": "Neoverse-N1", "system": "Linux"}, "1 core of a Neoverse-N1, Linux"),
        ({"cores_online": None, "virtualisation": "kvm"}, "virtual machine"),
        ({}, "machine"),
    ],
)
def test_the_machines_name(card: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "card", lambda: card)
    assert reference.machine_name() == expected


def test_the_settings_fit_the_experiments() -> None:
    known = registry.experiments()
    for name, values in reference.SETTINGS:
        for parameters in reference._combined(values):
            known[name].check(**parameters)


def test_the_shipped_file_is_readable_and_labelled() -> None:
    shipped = json.loads(Path(reference.__file__).with_name("reference.json").read_text())
    assert isinstance(shipped, list)
    assert len(list(reference.load(Path(reference.__file__).with_name("reference.json")))) == len(shipped)
    assert all(record["reference"] for record in shipped)
