"""The experiment of notebook 00."""

import socket
import threading

import pytest

from helpers.experiments import start_here as module
from helpers.experiments.start_here import first_costs


def test_the_four_come_out_in_their_order() -> None:
    record = first_costs.here(repeats=5)
    call, _, thread, process = record.figures().values()
    assert call.median < thread.median / 20 < process.median / 20
    assert record.tcp_connect.median > call.median


def test_the_listener_leaves_nothing() -> None:
    before = threading.enumerate()
    with module._listener() as address:
        socket.create_connection(address).close()
    with pytest.raises(OSError):
        socket.create_connection(address, timeout=0.5)
    assert set(threading.enumerate()) <= set(before)


def test_only_loopback_listens() -> None:
    with module._listener() as address:
        assert address[0] == "127.0.0.1"
