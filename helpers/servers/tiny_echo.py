"""An echo server on the tiny loop."""

from __future__ import annotations

from socket import socket

from helpers.servers.tiny_loop import Loop, Task, readable, sleep, writable

READ = 16 * 1024
PAUSE_S = 0.01


async def serve(loop: Loop, listener: socket) -> None:
    """Take whoever connects; the listener, and all sockets, don't block."""
    while True:
        await readable(listener)
        try:
            sock, _ = listener.accept()
        except OSError:  # who called has gone again, or no descriptor is left: until one is, don't ask without end
            await sleep(PAUSE_S)
            continue
        sock.setblocking(False)
        Task(loop, echo(sock))


async def echo(sock: socket) -> None:
    """Send back what comes, and read no more until the other side has taken it."""
    with sock:
        while True:
            await readable(sock)
            unsent = sock.recv(READ)
            if not unsent:
                return
            while unsent:
                try:
                    unsent = unsent[sock.send(unsent) :]
                except BlockingIOError:
                    await writable(sock)
