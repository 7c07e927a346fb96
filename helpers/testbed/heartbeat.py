"""An asyncio loop with a heartbeat, a client that asks quick questions, and a handler that computes in some way."""

from __future__ import annotations

import asyncio
import hashlib
import os
import select
import socket
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from math import inf
from multiprocessing import get_context
from typing import Any, NamedTuple

from helpers.contexts import compute, start_process
from helpers.measure import quantile
from helpers.memory import footprint

CURES = ("none", "chunks", "thread", "process", "native")
BEAT_MS = 1.0  # a heartbeat is due so long after the last
ASK_MS = 5.0  # between two quick requests
CHUNK_MS = 1.0  # of computing, before the loop has a turn
HAND_OVERS = 5  # of nothing, to see what handing over takes
BREATH_NS = 10_000_000  # between two jobs, however long they take: whoever waits is answered
HASHED = "sha256", b"a password", b"its salt"
MS = 1e-6  # nanoseconds to milliseconds

# What the handler does


def compute_for(cpu_ms: float) -> float:
    """Pure Python that takes so many ms of CPU time of its thread; how many it took."""
    begin, taken = time.thread_time_ns(), 0.0
    while taken < cpu_ms:
        compute(500)
        taken = (time.thread_time_ns() - begin) * MS
    return taken


async def in_chunks(cpu_ms: float) -> float:
    """The same in pieces: the loop has a turn after each."""
    taken = 0.0
    while taken < cpu_ms:
        taken += compute_for(min(CHUNK_MS, cpu_ms - taken))
        await asyncio.sleep(0)
    return taken


def hash_password(iterations: int) -> float:
    """C code that lets go of the GIL; the ms of CPU time that it took."""
    begin = time.thread_time_ns()
    hashlib.pbkdf2_hmac(*HASHED, iterations)
    return (time.thread_time_ns() - begin) * MS


def iterations_for(cpu_ms: float) -> int:
    """How many iterations take so long."""
    count = 1000
    while (taken := hash_password(count)) < min(cpu_ms, 5):
        count *= 2
    return max(1, round(count * cpu_ms / taken))


# A run


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One run, in ms since its start."""

    beats: tuple[tuple[float, float], ...]  # when a heartbeat was due, and how late it was
    jobs: tuple[tuple[float, float], ...]  # when a job was asked for, and done
    answers: tuple[tuple[float, float], ...]  # when a quick request was due, and its latency


class Run(NamedTuple):
    """What happened in one run. Times in ms, moments since its begin."""

    beats: list[tuple[float, float]]  # due, late by
    jobs: list[tuple[float, float, float]]  # asked, done, CPU time of its own
    latencies: list[float]
    cpu: float  # of the loop's process and the pool's
    hand_over: float  # of a job that does nothing, and back
    start: float  # until the first of these was back
    memory: int | None  # bytes that the pool's process has for itself

    def blocks(self) -> list[tuple[float, float, float]]:
        """Of each job the longest lag meanwhile, its duration, and its CPU time."""
        return [(self.longest_lag(asked, done), done - asked, cpu) for asked, done, cpu in self.jobs]

    def longest_lag(self, begin: float = 0.0, end: float = inf) -> float:
        """The longest lag between two moments."""
        return max((late for due, late in self.beats if due <= end and due + late >= begin), default=0.0)

    def lag_p99(self) -> float:
        """Of every beat that was due: after a late one there are those that it kept from being asked for."""
        every = [late - skipped * BEAT_MS for _, late in self.beats for skipped in range(max(1, int(late / BEAT_MS)))]
        return quantile(sorted(every), 0.99)

    def p99(self) -> float:
        return quantile(sorted(self.latencies), 0.99)

    def trace(self) -> Trace:
        return Trace(
            beats=tuple((round(due, 2), round(late, 2)) for due, late in self.beats),
            jobs=tuple((round(asked, 2), round(done, 2)) for asked, done, _ in self.jobs),
            answers=tuple((number * ASK_MS, round(latency, 2)) for number, latency in enumerate(self.latencies)),
        )


def run_beside(name: str, *, block_ms: float, every_ms: float, jobs: int, iterations: int) -> Run:
    """One run with jobs done in that way (one of `CURES`, or "idle": no job), and a client that asks meanwhile."""
    ours, theirs = socket.socketpair()
    report, told = os.pipe()
    client = theirs.detach()
    join = start_process(
        partial(_ask, client, int(jobs * every_ms / ASK_MS), told), [client, told], [ours.fileno(), report]
    )
    try:
        with _by(name, block_ms, iterations) as (job, pool):
            run = asyncio.run(_scene(ours, job, pool, 0 if name == "idle" else jobs, jobs * every_ms, every_ms))
        with open(report, "rb", closefd=False) as answers:
            return run._replace(latencies=array("d", answers.read()).tolist())
    finally:
        ours.close()
        os.close(report)
        join()


Job = Callable[..., Awaitable[Any]]


@contextmanager
def _by(name: str, block_ms: float, iterations: int) -> Iterator[tuple[Job, Any]]:
    """What does a job that way, and what else takes jobs over: a pool of one process, of threads (None), or nobody."""

    async def on_the_loop() -> float:
        return compute_for(block_ms)

    if name == "process":
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
            yield lambda: asyncio.get_running_loop().run_in_executor(pool, compute_for, block_ms), pool
    elif name == "thread":
        yield lambda: asyncio.to_thread(compute_for, block_ms), None
    elif name == "native":
        yield lambda: asyncio.to_thread(hash_password, iterations), None
    else:
        yield lambda: in_chunks(block_ms) if name == "chunks" else on_the_loop(), ()


async def _scene(sock: socket.socket, job: Job, pool: Any, jobs: int, length_ms: float, every_ms: float) -> Run:
    """Jobs, heartbeats and quick requests on one loop."""
    start = time.perf_counter_ns()

    async def hand_over(what: Callable[..., Any], *values: Any) -> Any:
        return None if pool == () else await asyncio.get_running_loop().run_in_executor(pool, what, *values)

    async def cpu_ms() -> float:
        return 1000 * (time.process_time() + (await hand_over(time.process_time) if pool else 0))

    pid = await hand_over(os.getpid)
    started = time.perf_counter_ns()
    for _ in range(HAND_OVERS):
        await hand_over(int)
    handed_over = time.perf_counter_ns()
    cpu = await cpu_ms()
    begin = time.perf_counter_ns() + 5_000_000
    beats: list[tuple[float, float]] = []
    done: list[tuple[float, float, float]] = []
    answering, beating = asyncio.create_task(_answer(sock, begin)), asyncio.create_task(_beat(beats, begin))
    for moment in asked_at(jobs, every_ms):
        await sleep_until(max(begin + int(moment / MS), time.perf_counter_ns() + BREATH_NS))
        asked = time.perf_counter_ns()
        own = await job()
        done.append(((asked - begin) * MS, (time.perf_counter_ns() - begin) * MS, own))
    await sleep_until(begin + int(length_ms / MS))
    await answering
    beating.cancel()
    return Run(
        beats=beats,
        jobs=done,
        latencies=[],
        cpu=await cpu_ms() - cpu,
        hand_over=(handed_over - started) * MS / HAND_OVERS,
        start=(started - start) * MS,
        memory=footprint(pid).unique if pool else None,
    )


def asked_at(jobs: int, every_ms: float) -> list[float]:
    """When each job is asked for, in ms: the loop's heart is seen beating first."""
    return [(number + 0.3) * every_ms for number in range(jobs)]


async def sleep_until(moment_ns: int) -> None:
    """Until that moment of `perf_counter_ns`; a turn of the loop at least."""
    await asyncio.sleep(max(0, moment_ns - time.perf_counter_ns()) / 1e9)


async def _beat(beats: list[tuple[float, float]], begin: int) -> None:
    """Ask to be woken in a moment, and note when that was due and how late it came, in ms."""
    while True:
        due = time.perf_counter_ns() + int(BEAT_MS / MS)
        await asyncio.sleep(BEAT_MS / 1000)
        beats.append(((due - begin) * MS, (time.perf_counter_ns() - due) * MS))


REQUEST = 8  # bytes


async def _answer(sock: socket.socket, begin: int) -> None:
    """Tell the client when to begin, and answer its requests: each is sent back."""
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(begin.to_bytes(REQUEST, "little"))
    with suppress(asyncio.IncompleteReadError):
        while True:
            writer.write(await reader.readexactly(REQUEST))
    writer.close()


def _ask(descriptor: int, requests: int, report: int) -> None:
    """So many requests, each when it is due, whatever became of the last; report the latencies in ms."""
    with socket.socket(fileno=descriptor) as sock, suppress(ConnectionError):
        os.write(report, _latencies(sock, requests).tobytes())


def _latencies(sock: socket.socket, requests: int) -> array[float]:
    """In ms since each was due. Raises `ConnectionError` when nobody answers any more."""
    begin = int.from_bytes(_received(sock), "little")
    due = [begin + int(number * ASK_MS / MS) for number in range(requests)]
    latencies, sent, received = array("d"), 0, 0
    while len(latencies) < requests:
        now = time.perf_counter_ns()
        while sent < requests and due[sent] <= now:
            sock.send(bytes(REQUEST))
            sent += 1
        pause = (due[sent] - now) / 1e9 if sent < requests else None
        if select.select([sock], [], [], pause)[0]:
            received += len(_received(sock))
            now = time.perf_counter_ns()
            latencies.extend((now - moment) * MS for moment in due[len(latencies) : received // REQUEST])
    return latencies


def _received(sock: socket.socket) -> bytes:
    content = sock.recv(4096)
    if not content:
        raise ConnectionError
    return content
