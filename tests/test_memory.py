"""What is read of a process's memory: exactly from made-up text, and as the system says of live processes."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers import machine, memory
from helpers.specimens import Specimen

KIB, MIB = 1024, 1024 * 1024

pytestmark = pytest.mark.skipif(machine.memory_maps() is not None, reason="needs /proc/PID/smaps")

FIELDS = ("Rss", "Pss", "Shared_Clean", "Shared_Dirty", "Private_Clean", "Private_Dirty", "Anonymous")


def block(place: str, permissions: str, name: str = "", **kib: int) -> str:
    """A region as the kernel writes it, with the fields that it wouldn't write without a value of 0."""
    sizes = "".join(f"{field + ':':<16}{kib.get(field, 0):>8} kB\n" for field in FIELDS)
    head = f"{place} {permissions} 00000000 fe:00 123                      {name}".rstrip()
    return f"{head}\nSize:                 99 kB\n{sizes}THPeligible:           0\nVmFlags: rd ex mr mw me sd \n"


HOUSE = "".join(
    (
        block("1000-3000", "r-xp", "/usr/bin/my program", Rss=8, Pss=4, Shared_Clean=8),
        block("3000-4000", "r--p", "/usr/bin/my program", Rss=4, Pss=4, Private_Dirty=4, Anonymous=4),
        block("4000-5000", "rw-p", "/usr/bin/my program", Rss=4, Pss=4, Private_Dirty=4, Anonymous=4),
        block("5000-6000", "rw-p", Rss=4, Pss=4, Private_Dirty=4, Anonymous=4),
        block("8000-9000", "rw-p", "[heap]", Rss=4, Pss=4, Private_Dirty=4, Anonymous=4),
        block("20000-30000", "rw-p", Rss=12, Pss=12, Private_Dirty=12, Anonymous=12),
        block("30000-80000", "---p"),
        block("80000-81000", "---p"),
        block("81000-90000", "rw-p", Rss=8, Pss=8, Private_Dirty=8, Anonymous=8),
        block("a0000-a2000", "r-xp", "/lib/libc.so.6", Rss=8, Pss=1, Shared_Clean=8),
        block("a2000-a3000", "rw-p", "/lib/libc.so.6", Rss=4, Pss=4, Private_Dirty=4, Anonymous=4),
        block("b0000-b1000", "rw-s", "/dev/zero (deleted)", Rss=4, Pss=2, Shared_Dirty=4),
        block("b1000-b2000", "r--p", "/usr/lib/locale/C", Rss=4, Pss=1, Private_Clean=4),
        block("b2000-b3000", "rw-p", "[anon: cpython:pymalloc]", Rss=4, Pss=4, Private_Dirty=4, Anonymous=4),
        block("c0000-d0000", "rw-p", "[stack]", Rss=4, Pss=4, Private_Dirty=4, Anonymous=4),
        block("d0000-d1000", "r-xp", "[vdso]", Rss=4, Pss=0, Shared_Clean=4),
        block("ffffffffff600000-ffffffffff601000", "--xp", "[vsyscall]"),
    )
)


def test_every_region_has_its_group() -> None:
    regions = memory.grouped(HOUSE, "/usr/bin/my program", [0x82345, 0xC0008])
    assert [(region.start, region.group) for region in regions] == [
        (0x1000, "code"),
        (0x3000, "data"),  # written when the addresses in it were filled in
        (0x4000, "data"),
        (0x5000, "data"),  # directly behind: the variables that begin as zero
        (0x8000, "heap"),
        (0x20000, "heap"),
        (0x30000, "heap"),  # what a heap reserves
        (0x80000, "stacks"),  # the guard page
        (0x81000, "stacks"),
        (0xA0000, "shared libraries"),
        (0xA2000, "shared libraries"),
        (0xB0000, "other"),
        (0xB1000, "other"),
        (0xB2000, "heap"),
        (0xC0000, "stacks"),
        (0xD0000, "other"),
    ]


def test_sizes_are_bytes() -> None:
    text, *_, last = memory.grouped(HOUSE, "/usr/bin/my program", [])
    assert (text.virtual, text.resident, text.proportional) == (0x2000, 8 * KIB, 4 * KIB)
    assert (text.shared, text.private) == (8 * KIB, 0)
    assert last.name == "[vdso]" and last.permissions == "r-xp"


def test_a_stack_that_cannot_be_found_is_heap() -> None:
    groups = {region.start: region.group for region in memory.grouped(HOUSE, "/usr/bin/my program", [])}
    assert groups[0x80000] == groups[0x81000] == "heap" and groups[0xC0000] == "stacks"


def test_an_interpreter_that_is_a_library_is_the_program_all_the_same() -> None:
    smaps = block("1000-2000", "r-xp", "/usr/bin/python3") + block("5000-9000", "r-xp", "/lib/libpython3.11.so.1.0")
    assert {region.group for region in memory.grouped(smaps, "/usr/bin/python3", [])} == {"code"}


def test_an_unknown_program_is_not_anonymous_memory() -> None:
    (region,) = memory.grouped(block("1000-2000", "rw-p"), "", [])
    assert region.group == "heap"


sizes = st.integers(0, 4096)


@given(st.lists(st.tuples(sizes, sizes, st.sampled_from(["", "[heap]", "[stack]", "/lib/a b.so", "/x"])), max_size=20))
def test_nothing_is_lost_in_the_sum(rows: list[tuple[int, int, str]]) -> None:
    text = "".join(
        block(f"{place:x}000-{place + 1:x}000", "rw-p", name, Rss=own + common, Private_Dirty=own, Shared_Clean=common)
        for place, (own, common, name) in enumerate(rows, 16)
    )
    totals = memory.totals(memory.grouped(text, "/x", []))
    assert list(totals) == list(memory.GROUPS)
    assert sum(each.virtual for each in totals.values()) == len(rows) * 4 * KIB
    assert sum(each.private for each in totals.values()) == KIB * sum(own for own, _, _ in rows)
    assert sum(each.shared for each in totals.values()) == KIB * sum(common for _, common, _ in rows)
    assert sum(each.resident for each in totals.values()) == KIB * sum(own + common for own, common, _ in rows)


# Live processes


def settle(pid: int) -> None:
    """Wait until each of its threads waits: it said its word a moment before."""
    deadline = time.monotonic() + 10
    while len(memory.stack_pointers(pid)) < len(os.listdir(f"/proc/{pid}/task")) and time.monotonic() < deadline:
        time.sleep(0.001)


@contextmanager
def program(code: str) -> Iterator[int]:
    """A process that runs that code, says a word, and waits for its input to end."""
    command = [sys.executable, "-I", "-c", f"{code}\nprint('ready', flush=True)\ninput()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        settle(process.pid)
        yield process.pid
        process.stdin.write(b"\n")
        process.stdin.close()


@pytest.mark.parametrize("threads", [0, 8])
def test_the_map_adds_up_to_what_the_system_says(threads: int) -> None:
    with Specimen("threads") as one:
        one.ask(threads)
        settle(one.pid)
        totals = memory.totals(memory.regions(one.pid))
        whole, status = memory.footprint(one.pid), psutil.Process(one.pid).memory_info()
    assert sum(each.virtual for each in totals.values()) == pytest.approx(status.vms, rel=0.01)
    assert sum(each.virtual for each in totals.values()) == pytest.approx(whole.virtual, rel=0.01)
    assert sum(each.resident for each in totals.values()) == pytest.approx(whole.resident, rel=0.01)
    assert sum(each.private for each in totals.values()) == pytest.approx(whole.unique, rel=0.01)


def test_the_unique_part_is_psutils() -> None:
    with program("data = bytearray(b'x') * 5_000_000") as pid:
        ours, theirs = memory.footprint(pid), psutil.Process(pid).memory_full_info()
    assert (ours.unique, ours.proportional) == (theirs.uss, theirs.pss)
    assert ours.resident == pytest.approx(theirs.rss, rel=0.05)  # psutil's is the kernel's estimate
    assert ours.unique is not None and ours.proportional is not None
    assert 5_000_000 < ours.unique <= ours.proportional <= ours.resident <= ours.virtual


def test_every_thread_has_its_room() -> None:
    def rooms(count: int) -> int:
        with Specimen("threads") as one:
            one.ask(count)
            settle(one.pid)
            return sum(region.group == "stacks" and "w" in region.permissions for region in memory.regions(one.pid))

    assert [rooms(count) for count in (0, 1, 8)] == [1, 2, 9]


DEEP = """
import ctypes, threading

def dig():
    with open(f"/proc/self/task/{threading.get_native_id()}/syscall") as file:
        here = int(file.read().split()[-2], 16)
    ctypes.memset(here - 2**20 - 2**17, 1, 2**20)  # 1 MiB, well below what is in use
    done.set()
    threading.Event().wait()

done = threading.Event()
threading.Thread(target=dig, daemon=True).start()
done.wait()
"""


def test_a_stack_in_use_shows_in_the_stacks() -> None:
    with program(DEEP) as pid:
        takes = memory.totals(memory.regions(pid))["stacks"]
    assert MIB <= takes.private <= takes.resident < 1.5 * MIB < takes.virtual


def test_a_process_that_is_gone_is_said() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ProcessLookupError):
            memory.footprint(process.pid)  # it ended, and nobody asked for its status yet
    for look in (memory.footprint, memory.regions):
        with pytest.raises(ProcessLookupError):
            look(process.pid)


def test_elsewhere_psutil_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    found = memory.footprint(os.getpid())
    assert found.unique is not None and 0 < found.unique <= found.resident <= found.virtual
    with pytest.raises(ProcessLookupError):
        memory.footprint(2**22 + 1)
    monkeypatch.undo()


def test_the_kernels_stacks_grow_with_threads() -> None:
    before = memory.kernel_stacks()
    if before is None:
        pytest.skip("this kernel doesn't count them")
    with Specimen("threads") as one:
        one.ask(500)
        after = memory.kernel_stacks()
    assert after is not None and 500 * 4 * KIB < after - before < 500 * 64 * KIB


# Specimens


@pytest.mark.parametrize("kind", ["threads", "tasks", "forked", "spawned"])
def test_a_specimen_has_as_many_as_it_is_told_and_leaves_none(kind: str) -> None:
    with Specimen(kind) as one:
        assert one.ask(3)[:2] == [3, one.pid]
        count, _, *others = one.ask(5)
        process = psutil.Process(one.pid)
        assert count == 5 and sorted(others) == sorted(each.pid for each in process.children())
        assert len(others) == (5 if kind in ("forked", "spawned") else 0)
        assert process.num_threads() == (6 if kind == "threads" else 1)
    assert not any(psutil.pid_exists(pid) for pid in (one.pid, *others))


@pytest.mark.parametrize("kind", ["sockets", "streams", "threads"])
def test_a_specimen_accepts_as_many_connections_as_it_is_told(kind: str) -> None:
    with Specimen(f"connections_as_{kind}") as one, ExitStack() as stack:
        (port,) = one.ask(0)
        for more, count in ((3, 3), (2, 5)):
            for _ in range(more):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            assert one.ask(count) == [count]
        assert psutil.Process(one.pid).num_threads() == {"sockets": 1, "streams": 2, "threads": 6}[kind]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_a_specimen_that_ends_early_is_said() -> None:
    with pytest.raises(RuntimeError, match="ended early"), Specimen("threads") as one:
        psutil.Process(one.pid).kill()
        one.ask(1)


def test_what_the_system_refuses_is_said() -> None:
    with Specimen("threads") as one:
        limit = psutil.Process(one.pid).memory_info().vms + 200 * MIB
        psutil.Process(one.pid).rlimit(psutil.RLIMIT_AS, (limit, limit))
        assert 0 < one.ask(500)[0] < 500
