"""A program on the tiny loop, step by step: what the loop holds and what is on the stack, whenever that changes.

It is the loop that learners read, with real sockets and real timers. This one takes notes: each method below does
what the loop's own does, and writes down how things stand.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector
from socket import socket
from types import FrameType
from typing import Any

from helpers.servers import loop_programs, tiny_loop
from helpers.servers.tiny_loop import Handle, Loop, Task

Program = Callable[[Loop], None]
BOXES = ("Stack", "Ready queue", "Timers", "Waiting sockets")
MOST = 200  # steps: a program with more is not for stepping through
UNTIL = {EVENT_READ: "readable", EVENT_WRITE: "writable"}
PROGRAMS, LOOP = loop_programs.__file__, tiny_loop.__file__
HIDDEN = (Loop._run.__name__, Loop._once.__name__)  # how the loop calls: of no interest on the stack


@dataclass(frozen=True, kw_only=True)
class Timer:
    """What will be run, and when, in ms since the start."""

    name: str
    due_ms: float
    cancelled: bool


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A socket that somebody waits for."""

    socket: str
    until: str  # "readable" or "writable"
    name: str  # of what is run then


@dataclass(frozen=True, kw_only=True)
class Step:
    """How things stand, and in one sentence what has just happened. The first of `ready` is run next."""

    words: str
    at_ms: float  # since the start
    line: int | None  # of the program, counted from 1: the one that is running
    stack: tuple[str, ...]  # innermost last
    ready: tuple[str, ...]
    timers: tuple[Timer, ...]  # the one that is due first, first
    waiting: tuple[Watched, ...]
    output: tuple[str, ...]  # lines

    def boxes(self) -> dict[str, tuple[str, ...]]:
        """The same in words, by the names in `BOXES`."""
        return {
            "Stack": self.stack,
            "Ready queue": self.ready,
            "Timers": tuple(
                f"{each.name}{' (cancelled)' if each.cancelled else ''} at {each.due_ms:.1f} ms" for each in self.timers
            ),
            "Waiting sockets": tuple(f"{each.socket} {each.until}: {each.name}" for each in self.waiting),
        }


NOTHING = Step(words="", at_ms=0.0, line=None, stack=(), ready=(), timers=(), waiting=(), output=())


def changes(before: Step, after: Step, box: str) -> tuple[set[int], int]:
    """The places of what is new in a box, and how many are gone."""
    old, new = Counter(before.boxes()[box]), set()
    for place, item in enumerate(after.boxes()[box]):
        if old[item]:
            old[item] -= 1
        else:
            new.add(place)
    return new, old.total()


class SteppedLoop(Loop):
    """The tiny loop, taking notes."""

    def __init__(self) -> None:
        super().__init__(Selector(self._wait))
        self.steps: list[Step] = []
        self.asleep_s = self.took_s = 0.0
        self.output: list[str] = []
        self._names: dict[object, str] = {}  # of sockets and tasks
        self._called: Handle | None = None
        self._queue: set[Handle] = set()  # what stood there at the last step
        self._due: dict[Handle, float] = {}  # when the timers of the last step are due
        self._begin = self.time()

    # What a program asks for

    def call_soon(self, callback: Callable[..., object], *arguments: Any) -> Handle:
        handle = super().call_soon(callback, *arguments)
        self.note(f"`{self._name(handle)}` joins the end of the ready queue.")
        return handle

    def call_later(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> Handle:
        handle = super().call_later(seconds, callback, *arguments)
        self.note(f"`{self._name(handle)}` gets a timer: in {seconds * 1000:g} ms.")
        return handle

    def on_ready(self, sock: socket, event: int, callback: Callable[..., object], *arguments: Any) -> None:
        self._names[sock] = variable(sock)
        super().on_ready(sock, event, callback, *arguments)
        name = self._name(self.selector.get_key(sock).data)
        self.note(f"`{name}` waits until `{self._names[sock]}` is {UNTIL[event]}.")

    def forget(self, sock: socket) -> None:
        super().forget(sock)
        words = f"Nobody waits for `{self._names[sock]}` any more"
        if where()[1]:
            self.note(f"{words}.")
        else:  # no line of the program asked for it
            self.note(f"{words}: `on_ready` counts once.", calling=self._called)

    def printed(self, line: str) -> None:
        """The program has printed a line."""
        self.output.append(line)
        self.note("A line is printed.")

    # What the loop does

    def _wait(self, select: Callable[[float | None], list[Any]], timeout: float | None) -> list[Any]:
        if timeout == 0:
            return select(0)
        until = "until a socket is ready" if timeout is None else f"for at most {timeout * 1000:.1f} ms"
        self.note(f"Nothing is ready. The loop sleeps {until}.", innermost=("select",))
        begin = self.time()
        found = select(timeout)
        self.asleep_s += self.time() - begin
        return found

    def _run(self, handle: Handle) -> None:
        if came := [each for each in (handle, *self.ready) if each not in self._queue]:
            self.note(" ".join(map(self._why, came)), first=handle)
        name = self._name(handle)
        if handle.cancelled:
            self.note(f"`{name}` was cancelled: the loop does not call it.")
        else:
            self.note(f"The loop takes `{name}` from the queue and calls it.", calling=handle)
        self._called = handle
        super()._run(handle)
        self.note(f"{self._end(handle)} The loop goes on.")

    def _why(self, handle: Handle) -> str:
        """Why it has come into the queue."""
        name = self._name(handle)
        if handle in self._due:
            late_ms = (self.time() - self._due[handle]) * 1000
            return f"`{name}` {'is due' if late_ms < 1 else f'was due {late_ms:.0f} ms ago'}: it is ready now."
        words = next((f"`{each.socket}` is {each.until}: " for each in self.steps[-1].waiting if each.name == name), "")
        return f"{words}`{name}` is ready now."

    def _end(self, handle: Handle) -> str:
        """How the call has ended, and who goes on because of that."""
        name, task = self._name(handle), task_of(handle)
        if task is None:
            return f"`{name}` returns."
        if task.end is None:
            return f"`{name}` has to wait: it is put aside as it is."
        return " ".join([f"`{name}` has ended.", *(f"`{self._name(each)}` awaited that." for each in task.waiting)])

    # How things stand

    def note(
        self, words: str, *, innermost: tuple[str, ...] = (), calling: Handle | None = None, first: Handle | None = None
    ) -> None:
        """Write down how things stand; `innermost`, or `calling`, will be on the stack at once, `first` was in line."""
        if len(self.steps) == MOST:
            raise RuntimeError(f"more than {MOST} steps: too long a program to step through")
        queue = [*([first] if first else []), *self.ready]
        self._queue = set(queue)
        self._due = {each: due for due, _, each in self.timers}
        stack, line = where()
        if calling:
            innermost, line = stack_of(calling), line_of(calling)
        self.steps.append(
            Step(
                words=words,
                at_ms=self._at_ms(),
                line=line,
                stack=(*stack, *innermost),
                ready=tuple(map(self._name, queue)),
                timers=tuple(
                    Timer(name=self._name(each), due_ms=(due - self._begin) * 1000, cancelled=each.cancelled)
                    for due, _, each in sorted(self.timers)
                ),
                waiting=tuple(
                    Watched(socket=self._names[key.fileobj], until=UNTIL[key.events], name=self._name(key.data))
                    for key in self.selector.get_map().values()
                ),
                output=tuple(self.output),
            )
        )

    def _at_ms(self) -> float:
        return (self.time() - self._begin) * 1000

    def _name(self, handle: Handle) -> str:
        """What is called: a function, or a coroutine that goes on."""
        if task := task_of(handle):
            if task not in self._names:  # once: a coroutine that has ended has lost its arguments
                self._names[task] = call_of(task.coroutine)
            return self._names[task]
        return str(function_of(handle).__name__)


class Selector(DefaultSelector):
    """The selector that the loop would use; `wait` is asked to do the waiting, and gets what does it."""

    def __init__(self, wait: Callable[[Callable[[float | None], list[Any]], float | None], list[Any]]) -> None:
        super().__init__()
        self._wait = wait

    def select(self, timeout: float | None = None) -> list[Any]:
        return self._wait(super().select, timeout)


class Printed(StringIO):
    """A file that hands over every line that is written to it."""

    def __init__(self, line: Callable[[str], None]) -> None:
        super().__init__()
        self._line = line

    def write(self, text: str) -> int:
        count = super().write(text)
        if text.endswith("\n"):
            self._line(self.getvalue().rstrip("\n"))
            self.seek(0)
            self.truncate()
        return count


# What Python itself knows about them


def function_of(handle: Handle) -> Any:
    """The function that is called in the end: the loop calls it by way of its own where a socket is waited for."""
    return handle.args[1] if handle.func.__name__ == Loop._once.__name__ else handle.func


def task_of(handle: Handle) -> Task | None:
    """The task that goes on by this call."""
    owner = getattr(function_of(handle), "__self__", None)
    return owner if isinstance(owner, Task) else None


def call_of(coroutine: Any) -> str:
    """A coroutine as it was called: `cook('tea', 0.01)`."""
    code = coroutine.cr_code
    arguments = (repr(coroutine.cr_frame.f_locals[name]) for name in code.co_varnames[: code.co_argcount])
    return f"{code.co_name}({', '.join(arguments)})"


def frames() -> Iterator[FrameType]:
    """The frames of the program and of the loop that are on the stack, innermost first."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename in (PROGRAMS, LOOP) and frame.f_code.co_name not in HIDDEN:
            yield frame
        frame = frame.f_back


def kept(task: Task) -> Iterator[FrameType]:
    """The frames of a coroutine that has been put aside, outermost first."""
    awaited: Any = task.coroutine
    while frame := getattr(awaited, "cr_frame", None):
        yield frame
        awaited = awaited.cr_await


def where() -> tuple[tuple[str, ...], int | None]:
    """The functions on the stack, innermost last, and the line that the program is at."""
    found = list(frames())
    names = [frame.f_code.co_qualname.removesuffix(".<locals>.<lambda>").rpartition("<locals>.")[2] for frame in found]
    lines = [frame.f_lineno for frame in found if frame.f_code.co_filename == PROGRAMS]
    return tuple(reversed(names)), next(iter(lines), None)


def stack_of(handle: Handle) -> tuple[str, ...]:
    """What a call will put on the stack: a function; or a task, and its coroutines as they were left."""
    if task := task_of(handle):
        return (Task.step.__qualname__, *(frame.f_code.co_name for frame in kept(task)))
    return (function_of(handle).__name__,)


def line_of(handle: Handle) -> int | None:
    """The line at which a call begins or goes on."""
    if task := task_of(handle):
        return next((frame.f_lineno for frame in reversed([*kept(task)]) if frame.f_code.co_filename == PROGRAMS), None)
    return int(function_of(handle).__code__.co_firstlineno)


def variable(value: object) -> str:
    """What the program calls it: a variable of a function that is running, or put aside by the task that is."""
    for frame in frames():
        task = frame.f_locals.get("self")
        for each in (frame, *(kept(task) if isinstance(task, Task) else ())):
            for name, held in each.f_locals.items():
                if held is value and each.f_code.co_filename == PROGRAMS:
                    return name
    return "a socket"


def source(program: Program) -> tuple[str, int]:
    """A program's text without the first line and the docstring; and the number of the line before that."""
    text = inspect.getsource(program)
    definition = ast.parse(text).body[0]
    assert isinstance(definition, ast.FunctionDef)
    begin = definition.body[1].lineno - 1
    return textwrap.dedent("\n".join(text.splitlines()[begin:])), program.__code__.co_firstlineno - 1 + begin


def stepped(program: Program) -> SteppedLoop:
    """The loop when it has run a program, with its notes; their lines are those of `source(program)`."""
    loop = SteppedLoop()
    with closing(loop.selector), redirect_stdout(Printed(loop.printed)):
        program(loop)
        loop.note("The program has said what it wants. Now the loop runs.")
        loop.run()
        loop.note("Nothing is left to wait for: `run` returns.")
    loop.took_s = loop.time() - loop._begin
    before = source(program)[1]
    loop.steps = [replace(each, line=each.line - before if each.line else None) for each in loop.steps]
    return loop
