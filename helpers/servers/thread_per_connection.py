"""Thread per connection: who comes gets a thread of its own, which waits for it, works for it, and ends with it.

The simplest server there is. Its code reads as one conversation, since to wait is to wait. What it costs: each client
that does nothing holds a thread that does nothing.
"""

from __future__ import annotations

from threading import Thread

from helpers.servers.blocking import BlockingServer


class Server(BlockingServer):
    """A thread for each connection."""

    def serve(self) -> None:
        for connection in self.arrivals():
            try:
                Thread(target=self.converse, args=(connection,), daemon=True).start()
            except RuntimeError:  # the system gives no more threads
                self.refuse(connection)
        self.finish()
