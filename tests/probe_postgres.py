"""Experiments that hold a PostgreSQL, or what it is made of, until they are killed: for the tests of the testbed."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Annotated

from helpers import progress
from helpers.measure import Estimate
from helpers.registry import Between, experiment
from helpers.testbed import postgres
from tests.probe_nothing import Nothing


@experiment(seconds=1.5, needs=[postgres.available])
def holds() -> Nothing:
    """Starts one, says where it is, and stays."""
    with postgres.server(own=True) as database:
        progress.report(database.port, database.port)
        time.sleep(60)
    return Nothing(value=Estimate(1.0, 1.0, 1.0, "s"))


SHARED = """
import ctypes, mmap, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
segment = libc.shmget({key}, 4096, 0o1600)
libc.shmat(segment, None, 0)
with open("/dev/shm/PostgreSQL.{key}", "w+b") as file:
    file.truncate(4096)
    held = mmap.mmap(file.fileno(), 4096)
print(segment, flush=True)
time.sleep(60)
"""


@experiment(seconds=0.5)
def shares(key: Annotated[int, Between(1, 2**31 - 1)] = 1) -> Nothing:
    """Its child makes shared memory as PostgreSQL does; says which, and stays."""
    command = [sys.executable, "-c", SHARED.format(key=key)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as child:
        assert child.stdout is not None
        segment = int(child.stdout.readline())
        progress.report(segment, segment)
        time.sleep(60)
    return Nothing(value=Estimate(1.0, 1.0, 1.0, "s"))
