"""Starting the other side of an experiment, a process or a thread, on a chosen core, with something to compute."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence

from helpers import machine

Core = int | None  # None: anywhere
Join = Callable[[], None]


def start_process(run: Callable[[], object], theirs: Sequence[int] = (), ours: Sequence[int] = ()) -> Join:
    """Call `run` in a fork of this process, which ends with it; what waits for that.

    Of the descriptors that both have after the fork, `ours` are closed there and `theirs` here.
    """
    child = os.fork()
    if child == 0:
        status = 1
        try:
            for descriptor in ours:
                os.close(descriptor)
            run()
            status = 0
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(status)
    for descriptor in theirs:
        os.close(descriptor)
    return lambda: (os.waitpid(child, 0), None)[1]


def start_thread(run: Callable[[], object], theirs: Sequence[int] = (), ours: Sequence[int] = ()) -> Join:
    """The same in a thread of this process: it closes `theirs` when it ends, as a process would."""

    def main() -> None:
        try:
            run()
        finally:
            for descriptor in theirs:
                os.close(descriptor)

    thread = threading.Thread(target=main, daemon=True)
    thread.start()
    return thread.join


def places(same_core: bool) -> tuple[tuple[Core, Core], str, tuple[str, ...]]:
    """The cores of two sides, their placement in words, and what could not be had."""
    cores = machine.cores()
    if (missing := machine.pinning()) is not None:
        return (None, None), "free", (f"not pinned, so the kernel chose the cores: {missing}",)
    if same_core:
        return (cores[0], cores[0]), "same core", ()
    if len(cores) < 2:
        return (cores[0], cores[0]), "same core", ("only one core may be used: both sides ran on it",)
    return (cores[0], cores[1]), "two cores", ()


def free() -> str:
    """The placement of contexts that nobody pins, in words."""
    cores = len(machine.cores())
    return f"free on {cores} core{'s' if cores > 1 else ''}"


def pin(core: Core) -> None:
    """Keep this context on one core."""
    if core is not None:
        machine.pin(core)


def sleep_until(moment_ns: int) -> None:
    """Sleep until that moment of `perf_counter_ns`, which all processes of a machine share."""
    time.sleep(max(0, moment_ns - time.perf_counter_ns()) / 1e9)


def compute(loops: int) -> int:
    """Pure Python that needs a core and nothing else."""
    total = 0
    for number in range(loops):
        total += number
    return total
