"""A selector that makes a loop thrifty with system calls: `Loop(ThriftySelector())`."""

from __future__ import annotations

from dataclasses import dataclass
from selectors import BaseSelector, DefaultSelector
from socket import socket
from typing import Any


@dataclass(slots=True)
class Key:
    """As `selectors.SelectorKey`, but to be used again."""

    fileobj: socket
    fd: int
    events: int
    data: Any


class ThriftySelector(BaseSelector):
    """Goes on watching a socket that is taken out until the next `select`.

    Most who wait for a socket wait for the same again, so that two system calls a request are saved.
    """

    def __init__(self) -> None:
        self._system = DefaultSelector()
        self._keys: dict[Any, Key] = {}
        self._taken_out: dict[int, Key] = {}  # by descriptor

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        """As in any selector."""
        if fileobj in self._keys:
            raise KeyError(f"{fileobj!r} is already registered")
        key = self._taken_out.pop(fileobj.fileno(), None)
        if key is None or key.fileobj is not fileobj or key.events != events:
            if key is not None:
                self._system.unregister(key.fd)
            key = Key(fileobj, fileobj.fileno(), events, data)
            self._system.register(fileobj, events, key)
        key.data = data
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> Any:
        """As in any selector."""
        key = self._keys.pop(fileobj)
        self._taken_out[key.fd] = key
        return key

    def select(self, timeout: float | None = None) -> list[tuple[Any, int]]:
        """As in any selector."""
        for descriptor in self._taken_out:
            self._system.unregister(descriptor)
        self._taken_out.clear()
        return [(key.data, events) for key, events in self._system.select(timeout)]

    def get_map(self) -> Any:
        """As in any selector."""
        return self._keys

    def close(self) -> None:
        """As in any selector."""
        self._system.close()
