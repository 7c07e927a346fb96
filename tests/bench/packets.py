"""A link between two network namespaces that delays real packets, TCP's SYN included: what a proxy cannot do.

    with packets.link(round_trip_ms=20) as link:
        with link.server(serve) as yielded:            # `serve`: a context manager function, entered on the far side
            k = link.call(lambda: measure(link.host))  # a function, called on the near side; plain values come back
            link.set_round_trip(5)                     # for the packets from now on
            ...

Both sides are forks of this process with network devices of their own: 127.0.0.1 is another one on each. What `serve`
starts must listen on `link.host` (or 0.0.0.0) to be reached. What listens on 127.0.0.1 only is made reachable by
`with link.publish(port):`, a relay on the far side from (link.host, port) to (127.0.0.1, port).

Needs Linux, root (CAP_NET_ADMIN and CAP_SYS_ADMIN), /dev/net/tun and the program `ip`: `missing()` says in one line
what isn't there. Nothing is left behind: a network namespace goes with the last process in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import mmap
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import cache, partial
from typing import Any, TypeVar

from helpers.measure import in_fresh_process
from helpers.testbed.slow_network import Network

T = TypeVar("T")

NEAR, FAR = "10.77.0.1", "10.77.0.2"
CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
TUN, NO_HEADER = 0x0001, 0x1000  # IFF_TUN, IFF_NO_PI: IP packets and nothing before them
LARGEST_PACKET = 65536
SECONDS = 30.0  # for a server to be up


@cache
def missing() -> str | None:
    """What this machine lacks for a link, in one line; None for nothing."""
    if not hasattr(os, "geteuid") or not os.path.exists("/proc/self/ns/net"):
        return "network namespaces: Linux has them"
    if shutil.which("ip") is None:
        return "install: apt install iproute2"
    if not in_fresh_process(_is_allowed):
        return "network namespaces with a TUN device: root may make them, where the kernel has /dev/net/tun"
    return None


def _is_allowed() -> bool:
    try:
        _device(NEAR, FAR)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def _close(descriptors: tuple[int, int]) -> None:
    for one in descriptors:
        os.close(one)


class Link:
    """Two sides and the way between them; made by `link`."""

    host = FAR  # the far side's address

    def __init__(self, near: int, far: int, round_trip: mmap.mmap, ours: list[int]) -> None:
        self._near, self._far, self._round_trip, self._ours = near, far, round_trip, ours

    def set_round_trip(self, milliseconds: float) -> None:
        """Packets from now on take so long there and back, together."""
        self._round_trip[:8] = struct.pack("d", milliseconds)

    def call(self, function: Callable[[], T]) -> T:
        """What `function` returns (plain values), called in a fork on the near side."""

        def there() -> T:
            _enter(self._near)
            return function()

        return in_fresh_process(there)

    @contextlib.contextmanager
    def server(self, program: Callable[[], AbstractContextManager[Any]]) -> Iterator[Any]:
        """Enter `program()` in a fork on the far side, and leave it afterwards; what it yields (plain values)."""
        lifeline, ours = os.pipe()
        answer, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            _run(partial(_serve, self._far, program, lifeline, theirs), [*self._ours, ours, answer])
        os.close(lifeline)
        os.close(theirs)
        self._ours.append(ours)
        try:
            ready, _, _ = select.select([answer], [], [], SECONDS)
            text = os.read(answer, 1 << 16) if ready else b""
            if not text:
                raise RuntimeError("the far side's server didn't start")
            yield json.loads(text)
        finally:
            self._ours.remove(ours)
            os.close(ours)
            os.close(answer)
            _reap(child)

    def publish(self, port: int) -> AbstractContextManager[Any]:
        """Make a port that the far side has on 127.0.0.1 reachable at (`host`, port)."""
        return self.server(partial(_relay, port))


@contextlib.contextmanager
def link(round_trip_ms: float = 0) -> Iterator[Link]:
    """Two new network namespaces, and a process between them that delays each packet by half the round trip."""
    round_trip = mmap.mmap(-1, 8)
    ours, theirs = socket.socketpair()
    child = os.fork()
    if child == 0:
        _run(partial(_between, theirs, round_trip), [ours.detach()])
    theirs.close()
    try:
        _, (near, far), _, _ = socket.recv_fds(ours, 1, 2)
        both = Link(near, far, round_trip, [ours.fileno()])
        both.set_round_trip(round_trip_ms)
        try:
            yield both
        finally:
            _close((near, far))
    finally:
        ours.close()
        _reap(child)
        round_trip.close()


def _run(body: Callable[[], None], not_ours: list[int]) -> None:
    """The life of a fork: without the ends of pipes by which the others know that this process's parent lives."""
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for one in not_ours:
            os.close(one)
        body()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _reap(child: int, seconds: float = 5.0) -> None:
    """Wait for a fork that was told to end; not for ever."""
    deadline = time.monotonic() + seconds
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.005)


def _libc(name: str, *arguments: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def _enter(namespace: int) -> None:
    _libc("setns", namespace, CLONE_NEWNET)


def _device(own: str, other: str) -> tuple[int, int]:
    """A new network namespace for this process, with a device on the way from `own` to `other`: both descriptors."""
    _libc("unshare", CLONE_NEWNET)
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    import fcntl

    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"way", TUN | NO_HEADER))
    for command in (f"address add {own} peer {other} dev way", "link set way up", "link set lo up"):
        subprocess.run(["ip", *command.split()], check=True, capture_output=True)
    return os.open("/proc/self/ns/net", os.O_RDONLY), device


def _between(parent: socket.socket, round_trip: mmap.mmap) -> None:
    """Make both sides, hand them to the parent, then carry packets until it is gone."""
    near, near_device = _device(NEAR, FAR)
    far, far_device = _device(FAR, NEAR)
    socket.send_fds(parent, [b"!"], [near, far])
    _close((near, far))
    ways: dict[int, tuple[int, deque[tuple[float, bytes]]]] = {
        near_device: (far_device, deque()),
        far_device: (near_device, deque()),
    }
    while True:
        due = min((packets[0][0] for _, packets in ways.values() if packets), default=None)
        timeout = None if due is None else max(0.0, due - time.perf_counter())
        ready, _, _ = select.select([parent, *ways], [], [], timeout)
        if parent in ready:
            return
        delay = struct.unpack("d", round_trip[:8])[0] / 2000
        for device in ready:
            with contextlib.suppress(BlockingIOError):
                while True:
                    ways[device][1].append((time.perf_counter() + delay, os.read(device, LARGEST_PACKET)))
        for sink, packets in ways.values():
            while packets and packets[0][0] <= time.perf_counter():
                os.write(sink, packets.popleft()[1])


def _serve(namespace: int, program: Callable[[], AbstractContextManager[Any]], lifeline: int, answer: int) -> None:
    _enter(namespace)
    with program() as yielded:
        os.write(answer, json.dumps(yielded).encode())
        os.read(lifeline, 1)


@contextlib.contextmanager
def _relay(port: int) -> Iterator[None]:
    with socket.create_server((FAR, port)) as listener:
        network = Network(listener, ("127.0.0.1", port), 0, None)
        loop = threading.Thread(target=network.run)
        loop.start()
        try:
            yield
        finally:
            network.stop()
            loop.join()
