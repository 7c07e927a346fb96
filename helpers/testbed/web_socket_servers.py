"""WebSocket servers, each in a process of its own: the one of this project, and others to hold it against.

All of them send text back, and what begins with `/all ` to everyone; compression, where one offers it, is off.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import NamedTuple

from helpers import machine
from helpers.servers import web_sockets
from helpers.testbed.program import NotStarted, running

OURS, NODE_WS = "tiny loop", "Node ws"
KINDS = (OURS, "asyncio", "uvloop", "websockets", NODE_WS)
PATIENCE_S = 3.0  # for clients to hang up at the end
BACKLOG = 65_535  # connections that wait to be accepted; the system takes less if that is too much

Started = tuple[str, int, int, str]  # host, port, process, version


class Server(NamedTuple):
    """Where a server is, which process holds its connections, and the version of what it is made of, if it has one."""

    address: tuple[str, int]
    pid: int
    version: str


@contextlib.contextmanager
def serving(kind: str = OURS) -> Iterator[Server]:
    """A server of this kind, of `KINDS`. Raises `NotStarted`."""
    settings = {"package": str(package_ws())} if kind == NODE_WS else {}
    with running(__name__, kind=kind, **settings) as (host, port, pid, version):
        yield Server((host, port), pid, version)


def missing(kind: str) -> str | None:
    """What such a server lacks, in one line; None where it can be started."""
    if kind in ("uvloop", "websockets") and find_spec(kind) is None:
        return f"without {kind}, which is not installed: pip install {kind}"
    if kind == NODE_WS and (which("node") is None or package_ws() is None):
        return "without Node.js and its package ws, which were not found: npm install -g ws"
    return None


@contextlib.contextmanager
def program(kind: str, **settings: str) -> Iterator[Started]:
    """What the process does: the server in a thread, until it is left."""
    machine.raise_descriptor_limit()
    with _ours() if kind == OURS else _node(**settings) if kind == NODE_WS else _on_asyncio(kind) as started:
        yield started


@contextlib.contextmanager
def _ours() -> Iterator[Started]:
    gc.disable()  # it would look at every connection again and again, and nothing here is garbage that it alone finds
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        server = web_sockets.Server(listener, patience_s=PATIENCE_S)
        thread = threading.Thread(target=server.serve, daemon=True)
        thread.start()
        yield (*listener.getsockname(), os.getpid(), "")
        server.stop()
        thread.join()


@contextlib.contextmanager
def _on_asyncio(kind: str) -> Iterator[Started]:
    from helpers.testbed import asyncio_web_sockets  # late: asyncio takes longer to load than all the rest

    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        serve, version = asyncio_web_sockets.prepare(kind, listener)
        threading.Thread(target=serve, daemon=True).start()
        yield (*listener.getsockname(), os.getpid(), version)
        os._exit(0)  # nobody waits for a goodbye, and tasks that are cut off would complain


# Node.js

NODE = """
const { WebSocketServer, WebSocket } = require(process.argv[1]);
const server = new WebSocketServer({ host: '127.0.0.1', port: 0, backlog: 65535, perMessageDeflate: false }, () => {
  process.stdout.write(`${server.address().port}\\n`); // console.log would colour it where FORCE_COLOR is set
});
server.on('connection', (socket) => {
  socket.on('error', () => {});
  socket.on('message', (data) => {
    const text = data.toString();
    if (!text.startsWith('/all ')) return socket.send(text);
    for (const each of server.clients) if (each.readyState === WebSocket.OPEN) each.send(text.slice(5));
  });
});
setInterval(gc, 25);
process.stdin.on('end', () => process.exit()).resume();
"""


@cache
def package_ws() -> Path | None:
    """Where Node's package `ws` lies: in a folder named by HELPERS_NODE_MODULES or NODE_PATH, or among npm's own."""
    named = [os.environ.get("HELPERS_NODE_MODULES", ""), *os.environ.get("NODE_PATH", "").split(os.pathsep)]
    for folder in filter(None, named):
        if (Path(folder) / "ws" / "package.json").is_file():
            return Path(folder) / "ws"
    return _global_ws()


def _global_ws() -> Path | None:
    if (npm := which("npm")) is None:
        return None
    try:
        found = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, timeout=5, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return None
    package = Path(found.stdout.strip()) / "ws"
    return package if (package / "package.json").is_file() else None


@contextlib.contextmanager
def _node(package: str) -> Iterator[Started]:
    """It ends with its lifeline, as every program here; its garbage is collected all the time, so that none counts."""
    command = [which("node") or "node", "--expose-gc", "-e", NODE, package]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            port = process.stdout.readline()
            if not port:
                raise NotStarted("Node.js did not start its WebSocket server")
            version = json.loads((Path(package) / "package.json").read_text())["version"]
            yield "127.0.0.1", int(port), process.pid, version
        finally:
            process.kill()
