"""The loops that Python is too slow for, compiled by numba with the GIL released.

What they measure is the system's cost alone; the same loops in Python measure what a Python program pays.
This is the one module of the core that needs more than the standard library, so it is imported late.
"""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba import types

WORDS_PER_LINE = 8  # a cache line of 64 bytes holds eight 8-byte words; 128-byte lines are walked twice

ZERO = np.uint64(0)  # addresses are unsigned: a signed index costs every load two more instructions
numba.config.LOOP_VECTORIZE = False  # a sum word by word, as lmbench's and most programs' is

_read = types.ExternalFunction("read", types.intp(types.intc, types.uintp, types.uintp))
_write = types.ExternalFunction("write", types.intp(types.intc, types.uintp, types.uintp))


def _jit(signature: str) -> Callable[[Callable[..., Any]], Any]:
    """Compile at once, so that no fork and no first batch does it again; keep the code on disk where possible."""

    def compile_now(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(signature, nogil=True, cache=True)(function)
        except RuntimeError:  # no folder to keep it in
            return numba.njit(signature, nogil=True)(function)

    return compile_now


@_jit("uint64(uint64[::1], boolean)")
def touch(words: Any, chase: bool) -> np.uint64:
    """Read a working set once: all of its words in order, or one word per cache line in a random cycle."""
    if chase:
        place = ZERO
        for _ in range(words.size // WORDS_PER_LINE):
            place = words[place]
        return place
    even = odd = ZERO  # two sums, so that an addition need not wait for the one before
    for index in range(words.size // 2):
        even += words[2 * index]
        odd += words[2 * index + 1]
    return even + odd


@_jit("int64(intc, intc, int64, uint64[::1], boolean, uint8[::1])")
def ask(read_from: int, write_to: int, count: int, words: Any, chase: bool, byte: Any) -> int | np.int64:
    """`count` times: hand the token on, wait until it is back, touch the working set. Returns -1 on a broken pipe."""
    total = ZERO
    for _ in range(count):
        if _write(write_to, byte.ctypes.data, 1) != 1 or _read(read_from, byte.ctypes.data, 1) != 1:
            return -1
        total += touch(words, chase)
    return np.int64(total & np.uint64(0xFFFF))


@_jit("int64(intc, intc, int64, uint64[::1], boolean, uint8[::1])")
def answer(read_from: int, write_to: int, count: int, words: Any, chase: bool, byte: Any) -> int | np.int64:
    """`count` times: wait for the token, touch the working set, hand it back. Returns -1 on a broken pipe."""
    total = ZERO
    for _ in range(count):
        if _read(read_from, byte.ctypes.data, 1) != 1:
            return -1
        total += touch(words, chase)
        if _write(write_to, byte.ctypes.data, 1) != 1:
            return -1
    return np.int64(total & np.uint64(0xFFFF))


@_jit("uint64(uint64[::1], uint64, int64)")
def follow(words: Any, start: int, steps: int) -> int:
    """Make `steps` loads, each of which needs the one before to know its address; where that led."""
    place = start
    for _ in range(steps):
        place = words[place]
    return place


@_jit("void(uint64[::1], int64[::1])")
def _link(words: Any, order: Any) -> None:
    for index in range(order.size - 1):
        words[order[index] * WORDS_PER_LINE] = order[index + 1] * WORDS_PER_LINE
    words[order[order.size - 1] * WORDS_PER_LINE] = order[0] * WORDS_PER_LINE


def cycle(words: Any, source: np.random.Generator) -> Any:
    """Fill `words` with one random cycle through the first word of each of its cache lines.

    Any order of the lines, closed to a ring, is one cycle through all of them: the same distribution as
    Sattolo's shuffle, and built by passing through memory in fewer random steps.
    """
    lines = words.size // WORDS_PER_LINE
    if lines:
        _link(words, source.permutation(lines))
    return words


def memory(size: int, *, huge_pages: bool = False) -> Any:
    """`size` bytes of private memory as 8-byte words, on huge or on ordinary pages where the system lets us choose.

    Private, because a shared anonymous mapping ignores the advice.
    """
    if sys.platform == "win32":
        area = mmap.mmap(-1, size)
    else:
        area = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without huge pages
            area.madvise(mmap.MADV_HUGEPAGE if huge_pages else mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(area, dtype=np.uint64)


def no_words() -> Any:
    """An empty working set."""
    return np.zeros(0, dtype=np.uint64)


def one_byte() -> Any:
    """The token, where the C library can write it."""
    return np.ones(1, dtype=np.uint8)


def working_set(size: int, chase: bool) -> Any:
    """`size` bytes of its own for one side to touch, filled so that every page is really there."""
    if size == 0:
        return no_words()
    words = memory(size)
    words[:] = 1
    return cycle(words, np.random.default_rng()) if chase else words


touch(no_words(), False)  # the first call sets numba's dispatch up, a quarter of a second that no fork shall pay again
