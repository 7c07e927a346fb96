"""The reference run: records of one named machine, shipped with the series.

Figures draw them as a ghost beside the learner's own, and where the learner's machine cannot measure something they
stand in for it. `record.reference` names the machine, so whoever shows one can say whose it is.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from helpers import machine
from helpers.record import Record
from helpers.registry import Experiment, decode, experiments

FILE = Path(__file__).with_name("reference.json")
TRIES = 3  # on a busy machine
DIGITS = 6  # of every number in the file: more is noise, and makes the file twice as large

# What the notebooks draw beside each experiment's defaults: experiment, and every combination of these values
SETTINGS: list[tuple[str, dict[str, list[Any]]]] = [
    ("processes_and_threads.cost_of_one_more", {"of": ["forked", "spawned", "tasks"]}),
    ("processes_and_threads.cost_of_one_more", {"of": ["threads", "tasks"], "most": [10_000]}),
    ("processes_and_threads.start_cost", {"touched_mib": [256]}),
    (
        "processes_and_threads.message_cost",
        {"over": ["socket-pair", "queue", "shared-memory", "thread-queue", "variable"]},
    ),
    ("concurrency_and_parallelism.speedup", {"work": ["waiting"], "growing": [False, True]}),
    (
        "concurrency_and_parallelism.threads_or_processes",
        {"wait_ms": [0, 1, 4, 16], "work_ms": [1, 4, 16], "cores": [1, 2]},
    ),
    ("context_switching.handoff", {"between": ["threads", "tasks", "generators"]}),
    ("context_switching.handoff", {"between": ["processes", "threads"], "same_core": [False]}),
    ("context_switching.switch_counts", {"same_core": [False]}),
    ("context_switching.working_set_cost", {"touch": ["at-random"]}),
    ("context_switching.oversubscription", {"work": ["waiting"]}),
    ("the_gil.handoffs", {"interval_ms": [20.0]}),
    ("the_gil.speedup_by_work", {"work": ["waiting", "sha256", "sha256-small", "zlib", "numpy"]}),
    ("the_gil.convoy", {"interval_ms": [0.5, 20.0]}),
    ("connections.hundred_requests", {"round_trip_ms": [0, 10]}),
    ("connections.database_connection", {"round_trip_ms": [0, 1, 5, 20, 50]}),
    ("connections.database_connection", {"tls": [True, False], "scram": [True, False]}),
    ("event_loops.steps", {"program": ["timers", "sockets", "coroutines", "conversation", "blocking"]}),
    ("server_models.sweep", {"most": [10_000]}),
    ("server_models.queueing", {"when_full": ["turned away"]}),
    ("server_models.mixed_work", {"model": ["thread per connection", "thread pool", "hybrid", "pre-fork"]}),
    ("server_models.slow_clients", {"model": ["thread per connection", "event loop", "hybrid", "pre-fork"]}),
    ("connection_pooling.with_and_without", {"round_trip_ms": [1], "clients": [32], "pool_size": [16]}),
    ("connection_pooling.with_and_without", {"round_trip_ms": [10], "clients": [32], "pool_size": [4, 32]}),
    ("connection_pooling.pool_at_work", {"utilisation": [50.0, 95.0]}),
    ("connection_pooling.size_sweep", {"work": ["computing"]}),
    ("connection_pooling.fault", {"which": ["too-large", "shared-server", "killed", "no-time-out"]}),
    ("connection_pooling.fault", {"which": ["killed"], "time_out_ms": [1500.0]}),
]


def record(experiment: str, **parameters: Any) -> Record | None:
    """The reference machine's record of `experiment` whose parameters include these, or None."""
    return next(iter(records(experiment, **parameters)), None)


def records(experiment: str, **parameters: Any) -> list[Record]:
    """All of the reference machine's records of `experiment` whose parameters include these."""
    of_it = [found for found in _shipped(FILE) if found.experiment == experiment]
    return [found for found in of_it if parameters.items() <= found.parameters.items()]


def beside(here: Record) -> Any:
    """The reference machine's record of the same experiment with the same parameters, or None."""
    return record(here.experiment, **here.parameters)


@functools.cache
def _shipped(path: Path) -> tuple[Record, ...]:
    return tuple(load(path))


def load(path: Path) -> Iterator[Record]:
    """The records of a file that this version of the experiments can read; each bears its machine's name."""
    for data in json.loads(path.read_text(encoding="utf-8")):
        try:
            found = decode(data)
        except ValueError:  # the experiment was renamed, or changed its shape: until `make reference` it has no ghost
            continue
        yield found if found.reference else replace(found, reference="the reference machine")


def make(
    path: str | os.PathLike[str] = FILE,
    *,
    name: str | None = None,
    settings: Sequence[tuple[str, Mapping[str, Sequence[Any]]]] = SETTINGS,
    only: Sequence[str] = (),
) -> list[str]:
    """Run every experiment, with its defaults and with `settings`, and write the records to `path`.

    `name` is the machine's; by default it is made of what the machine says of itself. `only` names experiments or
    whole modules: the others keep the records that they have. Returns what a careful maintainer should know: what was
    left out, and what stayed noisy. Takes minutes; nothing else should run. Raises `ValueError` for an unknown name.
    """
    label = name or machine_name()
    words: list[str] = []
    runs = [run for run in _runs(settings) if not only or _is_among(run[0].name, only)]
    if unknown := [name for name in only if not any(_is_among(experiment.name, [name]) for experiment, _ in runs)]:
        raise ValueError(f"{', '.join(unknown)}: no such experiment or module; `python -m helpers list` names them all")
    records = [found for found in load(Path(path)) if not _is_among(found.experiment, only)] if only else []
    for experiment, parameters in _progress(runs):
        if missing := experiment.missing():
            words.append(f"{_title(experiment, parameters)}: left out: {'; '.join(missing)}")
            continue
        try:
            records.append(replace(_measured(experiment, parameters, words), reference=label))
        except Exception as error:  # the others took minutes: keep them
            words.append(f"{_title(experiment, parameters)}: left out: {type(error).__name__}: {error}")
    _write(Path(path), records)
    _shipped.cache_clear()
    return words


def _is_among(experiment: str, names: Sequence[str]) -> bool:
    """Is it named there, or its module?"""
    return experiment in names or experiment.partition(".")[0] in names


def _runs(
    settings: Sequence[tuple[str, Mapping[str, Sequence[Any]]]],
) -> list[tuple[Experiment[..., Record], dict[str, Any]]]:
    """Every experiment with every set of parameters, each once. Raises `ValueError` for a wrong parameter."""
    known = experiments()
    defaults: list[tuple[str, Mapping[str, Any]]] = [(name, {}) for name in known]
    asked = defaults + [(name, given) for name, values in settings if name in known for given in _combined(values)]
    runs: list[tuple[Experiment[..., Record], dict[str, Any]]] = []
    for name, given in asked:
        run = (known[name], known[name].check(**given))
        if run not in runs:
            runs.append(run)
    return runs


def _combined(values: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every combination of the values: {"a": [1, 2], "b": [3]} gives {"a": 1, "b": 3}, then {"a": 2, "b": 3}."""
    for combination in product(*values.values()):
        yield dict(zip(values, combination, strict=True))


def _measured(experiment: Experiment[..., Record], parameters: dict[str, Any], words: list[str]) -> Record:
    """One record; on a busy machine the experiment is run again, and what comes of it is told."""
    title = _title(experiment, parameters)
    for _ in range(TRIES):
        found = experiment.run(**parameters)
        noise = found.noise
        if noise is None or noise.grade != "busy":
            return found
        _say(f"{title}: {noise.warning()}")
    words.append(f"{title}: kept, though it was a {noise and noise.warning()} in all of {TRIES} runs")
    return found


def _title(experiment: Experiment[..., Record], parameters: dict[str, Any]) -> str:
    return " ".join([experiment.name, *(f"{name}={value}" for name, value in parameters.items())])


def _progress(runs: list[Any]) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return runs
    return tqdm(runs, desc="reference run", unit="run")


def _say(line: str) -> None:
    print(line, file=sys.stderr)


def _write(path: Path, records: Sequence[Record]) -> None:
    """One record per line, so that a diff shows which changed; the old file stays until the new one is whole."""
    lines = [json.dumps(_rounded(record.to_json()), separators=(",", ":"), ensure_ascii=False) for record in records]
    text = "[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n"
    draft = path.with_name(path.name + ".new")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return value


def machine_name() -> str:
    """This machine in a few words: "2 virtual cores of an AMD EPYC, Linux, Python 3.11"."""
    card = machine.card()
    cores = card.get("cores_online")
    virtual = "" if card.get("virtualisation") in (None, "none") else "virtual "
    plural = "" if cores == 1 else "s"
    counted = f"{cores} {virtual}core{plural}" if cores else f"{virtual}machine"
    python = ".".join(str(card.get("python_version") or "").split(".")[:2])
    parts = [counted + _of(card.get("cpu_model")), str(card.get("system") or ""), python and f"Python {python}"]
    return ", ".join(part for part in parts if part)


def _of(model: Any) -> str:
    """The processor's name without trade marks, clock and filler."""
    filler = r"\((R|TM)\)|@.*|\bCPU\b|\bProcessor\b|\b\d+-Core\b"
    plain = re.sub(filler, " ", str(model or ""), flags=re.IGNORECASE).split()
    return f" of {'an' if plain[0][0] in 'AEIOU' else 'a'} {' '.join(plain)}" if plain else ""
