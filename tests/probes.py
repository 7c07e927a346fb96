"""Experiments that misbehave on purpose, for the tests of the sandbox. Not part of the series."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from helpers import progress
from helpers.measure import Estimate, estimate
from helpers.record import Record
from helpers.registry import Between, experiment


@dataclass(frozen=True, kw_only=True)
class Probe(Record):
    """What a probe saw of its surroundings."""

    headline_name: ClassVar[str] = "value"

    value: Estimate
    seen: dict[str, str | int | bool]

    def figures(self) -> dict[str, Estimate]:
        return {"value": self.value}


def _probe(**seen: str | int | bool) -> Probe:
    return Probe(value=estimate([1.0, 2.0, 3.0], "s"), seen=seen)


@experiment(seconds=0.1)
def nothing() -> Probe:
    """Does nothing: what a start costs."""
    return _probe()


@experiment(seconds=0.1)
def surroundings() -> Probe:
    """What its process looks like from inside."""
    print("printed by the experiment")
    subprocess.run(["echo", "printed by its child"], check=True)
    return _probe(
        pid=os.getpid(),
        leads_its_session=os.getsid(0) == os.getpid(),
        threads=len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1,
        python=sys.executable,
        modules=",".join(sorted({name.partition(".")[0] for name in sys.modules})),
    )


@experiment(seconds=0.1)
def fails(
    how: Literal[
        "ValueError", "own", "file", "memory", "unpicklable", "exit", "segfault", "kill", "print"
    ] = "ValueError",
) -> Probe:
    """Ends badly."""
    if how == "ValueError":
        raise ValueError("three is not a prime", 3)
    if how == "own":
        from helpers.machine import TooSmall

        raise TooSmall("not enough room")
    if how == "file":
        open("/no/such/file").close()
    if how == "memory":
        raise MemoryError
    if how == "unpicklable":
        raise type("Odd", (Exception,), {"__init__": lambda self: super(type(self), self).__init__("odd")})()
    if how == "exit":
        sys.exit(3)
    if how == "print":
        print("about to go", flush=True)
        os._exit(7)
    os.kill(os.getpid(), signal.SIGSEGV if how == "segfault" else signal.SIGKILL)
    time.sleep(5)
    return _probe()


@experiment(seconds=600)
def holds_everything(
    note: Literal["", "orphans"] = "",
    *,
    seconds: Annotated[float, Between(0, 600)] = 600,
    port: Annotated[int, Between(0, 65535)] = 0,
) -> Probe:
    """Holds processes (one in a session of its own), a port, files and shared memory, and waits."""
    sleeper = "import time; time.sleep(600)"
    children = [
        subprocess.Popen([sys.executable, "-c", sleeper]),
        subprocess.Popen([sys.executable, "-c", sleeper], start_new_session=True),
    ]
    if note == "orphans":  # a grandchild whose parent is gone already, in a session of its own
        code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {sleeper!r}], start_new_session=True)"
        subprocess.run([sys.executable, "-c", code], check=True)
    server = socket.create_server(("127.0.0.1", port))
    file = tempfile.NamedTemporaryFile(delete=False)  # noqa: SIM115
    scratch = os.path.basename(tempfile.gettempdir())
    with contextlib.suppress(ImportError):
        from multiprocessing import resource_tracker, shared_memory

        memory = shared_memory.SharedMemory(name=scratch + "-memory", create=True, size=4096)
        resource_tracker.unregister(memory._name, "shared_memory")  # or its tracker might clean up before we can see
    progress.report(1, 2)
    time.sleep(seconds)
    server.close()
    return _probe(children=len(children), file=file.name)


@experiment(seconds=0.1)
def imports(name: Literal["psutil", "numpy"] = "psutil") -> Probe:
    """Imports something that is not in the standard library."""
    return _probe(file=str(__import__(name).__file__), prefix=sys.prefix)


@experiment(seconds=0.1)
def late_modules() -> Probe:
    """Uses the modules that the worker has loaded late."""
    import copy
    import inspect
    from inspect import get_annotations, signature

    class Odd:
        number: int

    return _probe(
        inspect=str(inspect.signature(late_modules.function)) == "() -> 'Probe'",
        copy=copy.deepcopy([[1]]) == [[1]],
        annotations=get_annotations(Odd) == {"number": "int"}
        and get_annotations(Odd, eval_str=True) == {"number": int},
        same=signature is inspect.signature and isinstance(inspect.Parameter.empty, type),
    )


@experiment(seconds=0.1)
def nothing_random() -> Probe:
    """Uses a module of the standard library."""
    import random

    return _probe(is_fine=0 <= random.random() < 1)


@experiment(seconds=0.1)
def large(size: Annotated[int, Between(0, 10_000_000)] = 1000) -> Probe:
    """A record of that many bytes."""
    return _probe(text="x" * size)


@experiment(seconds=0.1)
def odd_value() -> Probe:
    """A record that JSON does not know."""
    return _probe(value=object())  # type: ignore[arg-type]


@experiment(seconds=1)
def reports(steps: Annotated[int, Between(1, 100)] = 5, *, pause: Annotated[float, Between(0, 1)] = 0.12) -> Probe:
    """Reports progress."""
    for step in range(steps):
        time.sleep(pause)
        progress.report(step + 1, steps)
    return _probe(steps=steps)


@experiment(seconds=1)
def uses_multiprocessing() -> Probe:
    """A process pool under the spawn method, which re-imports the main module: the complaint of learners."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        return _probe(total=sum(pool.map(abs, [-1, -2, -3])))


@experiment(seconds=0.1, needs=[lambda: None if "pytest" in sys.modules else "the worker is not pytest"])
def needs_what_the_parent_has() -> Probe:
    """Needs what only the process that asks for it has."""
    return _probe()
