"""What memory a process takes, and for what: read from /proc on Linux, asked of psutil elsewhere.

Bytes everywhere. "Virtual" is address space, promised but perhaps never touched. "Resident" (RSS) are the pages that
are in memory; "proportional" (PSS) divides each of them among the processes that share it; "unique" (USS) are those
that nobody else has, which is what would be free again if the process ended. Sources: proc(5), and the kernel's
Documentation/filesystems/proc.rst. Standard library alone.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

KIB = 1024
GROUPS = ("code", "data", "heap", "shared libraries", "other", "stacks")  # from the foot of a house to its roof


@dataclass(frozen=True)
class Footprint:
    """What a process takes, in bytes. None: the system doesn't tell."""

    virtual: int
    resident: int
    proportional: int | None
    unique: int | None
    page_tables: int | None = None  # the kernel's own, not counted in any of the others


@dataclass(frozen=True)
class Total:
    """What several regions take together, in bytes. `private` and `shared` are pages that are resident."""

    virtual: int
    resident: int
    private: int
    shared: int


@dataclass(frozen=True)
class Region:
    """A piece of an address space: its pages have one origin and one set of permissions. Sizes in bytes."""

    start: int
    end: int
    permissions: str  # as "r-xp": read, write, execute, private or shared
    name: str  # file, or what the kernel calls it; empty for anonymous memory
    group: str
    resident: int
    proportional: int
    private: int  # resident pages that no other process has
    shared: int  # resident pages that others have, too

    @property
    def virtual(self) -> int:
        """Address space that it takes up."""
        return self.end - self.start


# A process as a whole


def footprint(pid: int) -> Footprint:
    """What a process takes now. Raises `ProcessLookupError` when it is gone, `PermissionError` when it isn't ours.

    On Linux from `smaps_rollup`, which counts pages; `VmRSS` is off by some dozens of them, because each core
    keeps a tally of its own. Elsewhere from psutil, which knows the unique part on macOS and Windows.
    """
    if not sys.platform.startswith("linux"):
        return _footprint_by_psutil(pid)
    pages, status = _fields(_read(pid, "smaps_rollup")), _fields(_read(pid, "status"))
    if "Rss" not in pages or "VmSize" not in status:
        raise ProcessLookupError(f"process {pid} has no memory any more")
    return Footprint(
        virtual=status["VmSize"],
        resident=pages["Rss"],
        proportional=pages["Pss"],
        unique=_private(pages),
        page_tables=status.get("VmPTE"),
    )


def _footprint_by_psutil(pid: int) -> Footprint:
    import psutil

    try:
        found = psutil.Process(pid).memory_full_info()
    except psutil.NoSuchProcess:
        raise ProcessLookupError(f"no process {pid}") from None
    except psutil.AccessDenied:
        raise PermissionError(f"process {pid} isn't ours to look at") from None
    return Footprint(found.vms, found.rss, getattr(found, "pss", None), getattr(found, "uss", None))


def kernel_stacks() -> int | None:
    """Bytes of kernel stacks of every thread on the machine; subtract two readings. None: the system doesn't tell."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return _fields(file.read()).get("KernelStack")
    except OSError:
        return None


def slab() -> int | None:
    """Bytes of the kernel's own small objects, the whole machine's: sockets, inodes, open files. None: as above."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            return _fields(file.read()).get("Slab")
    except OSError:
        return None


# Piece by piece


def regions(pid: int) -> list[Region]:
    """The regions of a process's address space in the order of their addresses, each with its group. Linux.

    Groups are read off what the kernel says, never off sizes:

    - "code": text and constants of the program's file, and of libpython where the interpreter is a library: what of
      these files was never written;
    - "data": the rest of these files (variables, addresses filled in at the start), and the anonymous memory
      directly behind them, the variables that begin as zero;
    - "stacks": the regions that the threads' stack pointers point into, each with its guard page;
    - "heap": all other private anonymous memory, wherever it was asked for: `[heap]`, Python's arenas, large blocks
      that malloc maps one by one, its heaps for further threads with what they reserve, and a few pages of
      variables of shared libraries;
    - "shared libraries": every other file of which a part is executable;
    - "other": mapped files of data, shared memory, the kernel's own pages.

    A stack that can't be found (see `stack_pointers`) is counted as heap. Raises as `footprint` does.
    """
    try:
        program = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        program = ""
    return grouped(_read(pid, "smaps"), program, stack_pointers(pid))


def stack_pointers(pid: int) -> list[int]:
    """Where each thread's stack pointer is: one for every thread that is blocked and that we may look at.

    The system lets a parent look at its children, and of a thread that runs it only says so.
    """
    found = []
    for thread in _threads(pid):
        try:
            with open(f"/proc/{pid}/task/{thread}/syscall", encoding="ascii") as file:
                words = file.read().split()
        except OSError:
            continue
        if len(words) > 2:  # the system call and its arguments, or -1; then stack pointer and program counter
            found.append(int(words[-2], 16))
    return found


def grouped(smaps: str, program: str, pointers: Sequence[int]) -> list[Region]:
    """The regions in the text of a `smaps` file, given the path of the program and the threads' stack pointers."""
    blocks = [block for block in _blocks(smaps) if block.name != "[vsyscall]"]  # the kernel's: it isn't counted either
    names = {block.name for block in blocks if block.name.startswith("/")}
    programs = {name for name in names if name == program or os.path.basename(name).startswith("libpython")}
    libraries = {block.name for block in blocks if "x" in block.permissions} & names - programs
    pointers = sorted(pointers)
    groups: list[str] = []
    for index, block in enumerate(blocks):
        before = blocks[index - 1] if groups and blocks[index - 1].end == block.start else None
        if block.name in programs:
            group = "data" if "w" in block.permissions or block.sizes["Anonymous"] else "code"
        elif block.name in libraries:
            group = "shared libraries"
        elif block.name == "[stack]" or _has_one(block, pointers):
            group = "stacks"
            if before and groups[-1] == "heap" and before.permissions.startswith("---"):
                groups[-1] = "stacks"  # the guard page, which lies below
        elif not _is_private_memory(block):
            group = "other"
        elif before and before.name in programs and groups[-1] == "data":
            group = "data"
        else:
            group = "heap"
        groups.append(group)
    return [_region(block, group) for block, group in zip(blocks, groups, strict=True)]


def totals(regions: Iterable[Region]) -> dict[str, Total]:
    """What the regions of each group take together, for every group of `GROUPS`."""
    found = {group: [0, 0, 0, 0] for group in GROUPS}
    for region in regions:
        sizes = (region.virtual, region.resident, region.private, region.shared)
        found[region.group] = [total + size for total, size in zip(found[region.group], sizes, strict=True)]
    return {group: Total(*sizes) for group, sizes in found.items()}


# Reading what the kernel writes


class _Block(NamedTuple):
    """One region of a `smaps` file: its head line, and its sizes by name, in bytes."""

    start: int
    end: int
    permissions: str
    name: str
    sizes: dict[str, int]


def _blocks(smaps: str) -> list[_Block]:
    """`start-end permissions offset device inode  name`, then lines of `Field:  number kB` until the next head."""
    blocks: list[_Block] = []
    for line in smaps.splitlines():
        words = line.split(maxsplit=5)
        if words[0].endswith(":"):
            blocks[-1].sizes.update(_fields(line))
        else:
            start, end = (int(address, 16) for address in words[0].split("-"))
            blocks.append(_Block(start, end, words[1], words[5] if len(words) > 5 else "", {}))
    return blocks


def _fields(text: str) -> dict[str, int]:
    """The lines `Name:  number kB`, in bytes; all others are passed over."""
    lines = (line.split() for line in text.splitlines())
    return {words[0][:-1]: int(words[1]) * KIB for words in lines if len(words) == 3 and words[2] == "kB"}


def _region(block: _Block, group: str) -> Region:
    sizes = block.sizes
    shared = sizes["Shared_Clean"] + sizes["Shared_Dirty"]
    return Region(
        start=block.start,
        end=block.end,
        permissions=block.permissions,
        name=block.name,
        group=group,
        resident=sizes["Rss"],
        proportional=sizes["Pss"],
        private=_private(sizes),
        shared=shared,
    )


def _private(sizes: dict[str, int]) -> int:
    return sum(sizes.get(f"Private_{kind}", 0) for kind in ("Clean", "Dirty", "Hugetlb"))


def _has_one(block: _Block, pointers: Sequence[int]) -> bool:
    """Does one of the sorted pointers point into it?"""
    return bisect_left(pointers, block.start) < bisect_left(pointers, block.end)


def _is_private_memory(block: _Block) -> bool:
    """Memory of nobody else and of no file; the kernel lets programs name it (`[anon:…]`)."""
    return block.permissions.endswith("p") and (not block.name or block.name.startswith(("[heap]", "[anon:")))


def _read(pid: int, name: str) -> str:
    """A file of a process's folder in /proc."""
    try:
        with open(f"/proc/{pid}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        raise ProcessLookupError(f"no process {pid}") from None


def _threads(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []
