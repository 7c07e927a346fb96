"""Shared memory that outlives its processes: PostgreSQL's, after a `kill -9`.

Linux alone lets one do something about it while it is still in use; elsewhere, and without ctypes, nothing happens.
"""

import os
from collections.abc import Collection
from contextlib import suppress

POSTGRESQL = "/dev/shm/PostgreSQL."  # how it names its POSIX shared memory, in /proc/<pid>/maps
IPC_RMID = 0  # <linux/ipc.h>


def disown(processes: Collection[int], *, in_use: bool = False) -> None:
    """See to it that the shared memory of these processes goes when the last of them ends.

    What they made of the System V kind is marked for removal at its last user's end; PostgreSQL's POSIX kind loses
    its name. `in_use`: the processes are to live, so what has no user yet is left alone: marked, it would go at once,
    between its making and its first use.
    """
    for line in _lines("/proc/sysvipc/shm")[1:]:
        key, identifier, _, _, creator, _, users = map(int, line.split()[:7])
        if key and creator in processes and (users or not in_use):
            _mark_for_removal(identifier)
    for process in processes:
        for line in _lines(f"/proc/{process}/maps"):
            _, _, name = line.partition(POSTGRESQL)
            if name.isdigit():
                with suppress(OSError):
                    os.unlink(POSTGRESQL + name)


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def _mark_for_removal(segment: int) -> None:
    with suppress(ImportError):
        import ctypes

        ctypes.CDLL(None).shmctl(segment, IPC_RMID, None)
