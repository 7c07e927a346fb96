"""The command line: `python -m helpers doctor | list | run NAME | claims | reference`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from helpers.machine import TooSmall
from helpers.record import Record
from helpers.registry import Experiment, Unavailable, experiments, find
from helpers.sandbox import ChildTraceback, SandboxError
from helpers.testbed.program import NotStarted

OK, FAILED, WRONG_USE, INTERRUPTED = 0, 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; the exit status. A wrong name or value is one line on stderr, and status 2."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.command(options) or OK)
    except KeyboardInterrupt:
        return _complain("interrupted; nothing was recorded", INTERRUPTED)
    except BrokenPipeError:  # `| head`; what is still to be written at the exit must not complain either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        return _failed(error)


def _failed(error: Exception) -> int:
    """Say what went wrong, in one line; the exit status. An error of our own is raised again."""
    if isinstance(error.__cause__, ChildTraceback) and not type(error).__module__.startswith("helpers."):
        words = next(iter(str(error).splitlines()), "")
        return _complain(f"{type(error).__name__}: {words} (`--here` shows where)", FAILED)
    if isinstance(error, ValueError):
        return _complain(str(error), WRONG_USE)
    if isinstance(error, (SandboxError, Unavailable, TooSmall, NotStarted)):
        return _complain(str(error), FAILED)
    raise error


def _complain(line: str, status: int) -> int:
    print(line, file=sys.stderr)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m helpers", description="Measure this machine, outside of a notebook."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser("doctor", help="what this machine is, and which experiments run on it")
    command.set_defaults(command=_doctor)

    command = commands.add_parser("list", help="all experiments and their parameters")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(command=_list)

    command = commands.add_parser("run", help="run one experiment, e.g. run context_switching.handoff between=threads")
    command.add_argument("name", metavar="NAME", help="as `list` shows it")
    command.add_argument("values", nargs="*", metavar="param=value")
    command.add_argument("--json", action="store_true", help="the whole record as JSON")
    command.add_argument("--here", action="store_true", help="in this process, not in one of its own")
    command.add_argument("--under", metavar="PYTHON", help="under another interpreter")
    command.add_argument("--timeout", type=float, metavar="S", help="seconds until it is ended")
    command.set_defaults(command=_run)

    command = commands.add_parser("claims", help="the article's claims, your measurements, the verdicts")
    command.add_argument("--json", action="store_true", help="as JSON")
    command.set_defaults(command=_claims)

    command = commands.add_parser("reference", help="record the reference run anew (takes minutes)")
    command.add_argument("names", nargs="*", metavar="NAME", help="only these experiments or modules")
    command.set_defaults(command=_reference)
    return parser


def _print_json(data: Any) -> None:
    print(json.dumps(data, ensure_ascii=False, indent=2))


def _doctor(options: argparse.Namespace) -> None:
    from helpers import doctor

    print(doctor.text())


def _list(options: argparse.Namespace) -> None:
    found = experiments().values()
    if options.json:
        return _print_json([_described(each) for each in found])
    for each in found:
        print(f"{each.name}  ({each.seconds:g} s)  {(each.__doc__ or '').splitlines()[0]}")
        for parameter in each.parameters.values():
            print(f"    {parameter.name}={parameter.default}  {parameter.allowed}")


def _described(experiment: Experiment[..., Record]) -> dict[str, Any]:
    return {
        "name": experiment.name,
        "seconds": experiment.seconds,
        "claims": list(experiment.claims),
        "needs": [need.__name__ for need in experiment.needs],
        "parameters": {
            name: {"type": each.kind.__name__, "default": each.default, "allowed": each.allowed}
            for name, each in experiment.parameters.items()
        },
    }


def _run(options: argparse.Namespace) -> None:
    experiment = find(options.name)
    parameters = dict(_parsed(experiment, text) for text in options.values)
    if options.here:
        record = experiment.here(**parameters)
    else:
        record = experiment.run(python=options.under, timeout=options.timeout, **parameters)
    if options.json:
        _print_json(record.to_json())
    else:
        print(_readable(record))


def _parsed(experiment: Experiment[..., Record], text: str) -> tuple[str, Any]:
    """One `param=value`. Raises `ValueError` that says what would be right."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text}: write param=value, e.g. {_example(experiment)}")
    if name not in experiment.parameters:
        experiment.check(**{name: value})  # raises, naming those that there are
    return name, experiment.parameters[name].parse(value)


def _example(experiment: Experiment[..., Record]) -> str:
    return next((f"{name}={each.default}" for name, each in experiment.parameters.items()), "nothing: it has none")


def _readable(record: Record) -> str:
    figures = record.figures()
    lines = [f"{record.experiment}  {' '.join(f'{name}={value}' for name, value in record.parameters.items())}"]
    lines += [f"  {name}: {figures[name]}" for name in sorted(figures, key=lambda name: name != record.headline_name)]
    lines += [f"  placement: {record.placement}", f"  subtracted: {record.subtracted}"]
    if record.reference:
        lines.append(f"  not measured here: reference run on {record.reference}")
    return "\n".join([*lines, *(f"  note: {warning}" for warning in record.warnings)])


def _claims(options: argparse.Namespace) -> None:
    from helpers import claims

    rows = claims.settle()
    if options.json:
        _print_json(claims.to_json(rows))
    else:
        print(claims.table(rows))


def _reference(options: argparse.Namespace) -> None:
    from helpers import reference

    for word in reference.make(only=options.names):
        print(word, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
