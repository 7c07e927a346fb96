"""The ledger: the learner's records, predictions and study answers, kept between sessions in one SQLite file.

What is measured must be shown whatever happens to the file, so nothing here raises: what cannot be stored stays in
memory for the session, and `trouble` says why in one line. What was stored is never changed: there is one table,
rows are only added, and a file that cannot be read is moved aside, never deleted.

The rollback journal, not WAL: WAL needs shared memory, which network home folders (classrooms) lack, and one small
write per experiment gains nothing from it. A connection lives for one operation, so that any thread or process may
come along, none holds a lock while it thinks, and none inherits an open file by `fork`.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.record import Record

VERSION = 1  # of the file; in PRAGMA user_version
FOLDER = "concurrency-notebooks"
MEMORY = ":memory:"
PATIENCE_S = 5.0  # how long to wait for another notebook's write
PAGE = 16  # rows read at a time

SCHEMA = """
CREATE TABLE entries (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,  -- of the writer's making: storing a row twice stores it once
    kind TEXT NOT NULL,        -- record, prediction, answer/...
    name TEXT NOT NULL,        -- the experiment, the question, the answer's id
    at TEXT NOT NULL,          -- ISO 8601, UTC
    value TEXT NOT NULL        -- JSON
)
"""
INSERT = "INSERT OR IGNORE INTO entries (key, kind, name, at, value) VALUES (?, ?, ?, ?, ?)"

# What SQLite says of a file that is damaged. SQLITE_ERROR: its version is ours, its table is not.
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_FORMAT}
REASONS = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space, and they are stored with the next one",
    sqlite3.SQLITE_IOERR: "the disk refused to write; is it full, or over a quota? The next one tries again",
    sqlite3.SQLITE_READONLY: "the file is read-only; to keep results, set HELPERS_LEDGER to a file you may write",
    sqlite3.SQLITE_PERM: "access is denied; to keep results, set HELPERS_LEDGER to a file you may write",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened; to keep results, set HELPERS_LEDGER to a file you may write",
    sqlite3.SQLITE_BUSY: "another program keeps it locked; the next one tries again",
    sqlite3.SQLITE_LOCKED: "another program keeps it locked; the next one tries again",
    sqlite3.SQLITE_PROTOCOL: "this file system cannot lock files; set HELPERS_LEDGER to a file on a local disk",
}


def default_path() -> Path:
    """The ledger's place in the platform's user-data folder."""
    if sys.platform == "win32":
        folder = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        folder = Path.home() / "Library" / "Application Support"
    else:
        folder = Path(os.environ.get("XDG_DATA_HOME", ""))
        folder = folder if folder.is_absolute() else Path.home() / ".local" / "share"
    return folder / FOLDER / "ledger.sqlite"


def chosen_path() -> str:
    """Where this session's ledger is: HELPERS_LEDGER, else the default place."""
    given = os.environ.get("HELPERS_LEDGER")
    return given if given else str(default_path())


@dataclass(frozen=True)
class _Row:
    """One line of the table. The id is the file's, and 0 while the row is in memory only."""

    kind: str
    name: str
    value: str
    at: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    key: str = field(default_factory=lambda: os.urandom(12).hex())
    id: int = 0


class _NotOurs(Exception):
    """The file is sound, and must be left alone: a newer version's, or another program's."""


class _Damaged(Exception):
    """The file is not sound."""


FAULTS = (_NotOurs, _Damaged, sqlite3.Error, OSError)


class Ledger:
    """What was measured, guessed and answered here. No method raises; `trouble` says what went wrong, if anything."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """`path`: the file, or ":memory:" for this session only. None: HELPERS_LEDGER, else the user-data folder."""
        self._unstored: dict[str, _Row] = {}  # by key; the whole ledger where there is no file
        self._problem: str | None = None
        self._notice: str | None = None
        self._heard: set[str] = set()
        self.path: Path | None = None
        self._wants_file = True
        try:
            given = os.fspath(path) if path is not None else chosen_path()
            self._wants_file = given != MEMORY
            self.path = Path(given).expanduser().absolute() if self._wants_file else None
        except (RuntimeError, OSError) as error:  # no home folder, no current folder
            self._problem = f"Results are kept for this session only: {error}"
        self._open()

    def __repr__(self) -> str:
        return f"<ledger {self.path or MEMORY}>"

    # What went wrong

    @property
    def trouble(self) -> str | None:
        """One line for the learner: what could not be kept, why, and what to do. None while all is well."""
        return self._problem or self._notice

    def told(self) -> str | None:
        """The next line of trouble that was not handed out yet, or None: so that each is told once."""
        for line in (self._notice, self._problem):
            if line and line not in self._heard:
                self._heard.add(line)
                return line
        return None

    # Records

    def keep(self, record: Record) -> bool:
        """Store a record. False when it is in memory only, or (with `trouble`) cannot be written as JSON at all."""
        try:
            value = json.dumps(record.to_json(), separators=(",", ":"))
        except Exception as error:  # the learner's result is on the screen already: say it, and go on
            self._problem = f"This result cannot be kept ({type(error).__name__}: {error}); please report it"
            return False
        return self._add(_Row("record", record.experiment, value))

    def records(self, experiment: str | None = None, limit: int | None = None) -> list[Record]:
        """The records, newest first; those that no experiment of today can read are left out."""
        found: list[Record] = []
        for record in self._records(experiment):
            if limit is not None and len(found) >= limit:
                break
            found.append(record)
        return found

    def latest(self, experiment: str, **parameters: Any) -> Record | None:
        """The newest record of `experiment` whose parameters include these, or None."""
        for record in self._records(experiment):
            if parameters.items() <= record.parameters.items():
                return record
        return None

    def _records(self, experiment: str | None) -> Iterator[Record]:
        for row in self._newest("record", experiment):
            record = _decoded(row.value)
            if record is not None:
                yield record

    # Predictions and answers

    def predict(self, question: str, value: float, unit: str) -> bool:
        """Keep the learner's guess."""
        return self._add_value("prediction", question, {"value": value, "unit": unit})

    def prediction(self, question: str) -> float | None:
        """The newest guess for `question`, or None."""
        for row in self._newest("prediction", question):
            guess = _guess(row.value)
            if guess is not None:
                return guess["value"]
        return None

    def predictions(self) -> dict[str, dict[str, Any]]:
        """The newest guess for each question: `{question: {"value": …, "unit": …}}`."""
        found: dict[str, dict[str, Any]] = {}
        for row in self._newest("prediction"):
            guess = _guess(row.value)
            if guess is not None:
                found.setdefault(row.name, guess)
        return found

    def answer(self, kind: str, id: str, value: Any) -> bool:
        """Keep an answer, e.g. of kind "quiz" or "exercise"; `value` is anything that JSON knows."""
        return self._add_value(f"answer/{kind}", id, value)

    def answers(self, kind: str) -> dict[str, Any]:
        """The newest answer of that kind for each id."""
        found: dict[str, Any] = {}
        for row in self._newest(f"answer/{kind}"):
            if row.name not in found:
                with contextlib.suppress(ValueError):
                    found[row.name] = json.loads(row.value)
        return found

    def _add_value(self, kind: str, name: str, value: Any) -> bool:
        try:
            return self._add(_Row(kind, name, json.dumps(value)))
        except (TypeError, ValueError) as error:
            self._problem = f"The answer to {name} cannot be kept: {error}"
            return False

    # The file

    def _open(self) -> None:
        """Make the folder and the file, and see whether an old file is sound."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._connection() as connection:
                _check(connection)
        except FAULTS as error:
            self._handle(error)

    def _add(self, row: _Row) -> bool:
        """Store the row, and with it whatever could not be stored before."""
        self._unstored[row.key] = row
        for _ in range(2):  # once more after a damaged file was moved aside
            if self.path is None:
                return not self._wants_file
            try:
                self._write(list(self._unstored.values()))
            except FAULTS as error:
                if not self._handle(error):
                    return False
            else:
                self._forget_problem()
                return True
        self._problem = f"Results are in memory only: {self.path} was damaged again while it was mended"
        return False

    def _write(self, rows: list[_Row]) -> None:
        assert self.path is not None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connection() as connection, _transaction(connection):
            connection.executemany(INSERT, [(row.key, row.kind, row.name, row.at, row.value) for row in rows])
        for row in rows:
            self._unstored.pop(row.key, None)

    def _newest(self, kind: str, name: str | None = None) -> Iterator[_Row]:
        """Rows of that kind, newest first: those in memory, then those in the file, a few at a time."""
        unstored = [row for row in self._unstored.values() if row.kind == kind and name in (None, row.name)]
        yield from reversed(unstored)
        seen = {row.key for row in unstored}
        before = sys.maxsize
        while page := self._page(kind, name, before):
            yield from (row for row in page if row.key not in seen)
            before = page[-1].id

    def _page(self, kind: str, name: str | None, before: int) -> list[_Row]:
        if self.path is None:
            return []
        query = "SELECT key, kind, name, at, value, id FROM entries WHERE kind = ? AND id < ?"
        query += " AND name = ?" * (name is not None) + " ORDER BY id DESC LIMIT ?"
        values = (kind, before) + ((name,) if name is not None else ()) + (PAGE,)
        try:
            if not self.path.exists():
                return []
            with self._connection() as connection:
                return [_row(*columns) for columns in connection.execute(query, values)]
        except FAULTS as error:
            self._handle(error)
            return []

    @contextlib.contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """A connection to a file of our version, made if there is none, for one operation."""
        assert self.path is not None
        patience = PATIENCE_S if self._problem is None else PATIENCE_S / 20  # once is enough to wait for a stuck lock
        connection = sqlite3.connect(self.path, timeout=patience, isolation_level=None)
        try:
            connection.text_factory = _text
            _prepare(connection, self.path)
            yield connection
        except UnicodeDecodeError as error:  # Python's, of a damaged schema in SQLite's message
            raise _Damaged(str(error)) from error
        finally:
            connection.close()

    def _handle(self, error: Exception) -> bool:
        """Note what went wrong. True when it was mended and is worth another try."""
        if isinstance(error, _Damaged) or _code(error) in DAMAGED:
            return self._move_aside()
        reason = str(error) if isinstance(error, _NotOurs) else _reason(error)
        self._problem = f"Results are in memory only, not in {self.path}: {reason}"
        return False

    def _forget_problem(self) -> None:
        if self._problem is not None:
            self._heard.discard(self._problem)
            self._problem = None

    def _move_aside(self) -> bool:
        """Rename a damaged file, start a new one, and take over what can still be read. True when that worked."""
        assert self.path is not None
        try:
            with _alone(self.path.parent):
                if not self._sound():  # still: another process may have mended it meanwhile
                    self._notice = self._mended()
        except FAULTS as error:
            self._problem = f"Results are in memory only: {self.path} is damaged, and mending it failed: {error}"
            return False
        return True

    def _mended(self) -> str:
        """What was done about the damaged file, for the learner."""
        assert self.path is not None
        if not stat.S_ISREG(self.path.stat().st_mode):
            raise _NotOurs("it is not a regular file; set HELPERS_LEDGER to a new file")
        aside = _free_name(self.path)
        _rename(self.path, aside)
        saved = _salvaged(aside)
        self._write(saved)
        rest = f"{len(saved)} of its entries could be read and are in a new one" if saved else "a new one was started"
        return f"The ledger was damaged: it was moved to {aside}, and {rest}"

    def _sound(self) -> bool:
        try:
            with self._connection() as connection:
                _check(connection)
        except _Damaged:
            return False
        except sqlite3.Error as error:
            if _code(error) in DAMAGED:
                return False
            raise
        return True


def _text(raw: bytes) -> str:
    return raw.decode(errors="replace")


def _row(key: Any, kind: Any, name: Any, at: Any, value: Any, id: Any) -> _Row:
    """A damaged cell may be of any type."""
    return _Row(str(kind), str(name), str(value), str(at), str(key), int(id))


def _decoded(value: str) -> Record | None:
    from helpers.registry import decode

    try:
        record = decode(json.loads(value))
        record.figures()
        return record
    except Exception:  # an experiment that is gone, an older shape, a damaged cell: whatever it is, it is no record
        return None


def _guess(value: str) -> dict[str, Any] | None:
    try:
        guess = json.loads(value)
        return {"value": float(guess["value"]), "unit": str(guess["unit"])}
    except (ValueError, TypeError, KeyError):
        return None


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Take the write lock first, so that two writers wait for each other and never deadlock."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the table where the file is new. Raises `_NotOurs` for what must not be touched, or `_Damaged`."""
    version = _version(connection)
    if version > VERSION:
        raise _NotOurs("a newer version of these notebooks wrote it; update them, or set HELPERS_LEDGER to a new file")
    if version < 0:
        raise _Damaged(f"its version is {version}")
    if version == 0:
        with _transaction(connection):
            if _version(connection) == 0:  # nobody was faster
                _make_table(connection, path)


def _make_table(connection: sqlite3.Connection, path: Path) -> None:
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise _NotOurs("it is a database of another program; set HELPERS_LEDGER to a new file")
    if path.stat().st_size > 1:  # an empty file that SQLite has opened may have one byte
        raise _Damaged("it is not empty, and has no table")
    connection.execute(SCHEMA)
    connection.execute(f"PRAGMA user_version = {VERSION}")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _check(connection: sqlite3.Connection) -> None:
    """Raise `_Damaged` unless the file is in order."""
    connection.execute("SELECT id, key, kind, name, at, value FROM entries LIMIT 1").fetchone()
    word = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if word != "ok":
        raise _Damaged(word)


def _code(error: Exception) -> int | None:
    """SQLite's primary result code."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.strerror or error}; to keep results, set HELPERS_LEDGER to a file you may write"
    return REASONS.get(_code(error) or 0, str(error))


# A damaged file


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time mend. Where folders cannot be locked, the renaming itself is the only guard."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)


def _free_name(path: Path) -> Path:
    """`ledger.corrupt-<date>.sqlite` beside the file, with a number where that is taken."""
    date = time.strftime("%Y%m%d-%H%M%S", time.gmtime())
    number = 1
    while True:
        ending = f"-{number}" if number > 1 else ""
        aside = path.with_name(f"{path.stem}.corrupt-{date}{ending}{path.suffix}")
        if not aside.exists():
            return aside
        number += 1


def _rename(path: Path, aside: Path) -> None:
    """Rename the file; first its journal, which would otherwise be played back into the new file."""
    for ending in ("-journal", "-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{path}{ending}").rename(f"{aside}{ending}")
    path.rename(aside)


def _salvaged(aside: Path) -> list[_Row]:
    """The rows that can be read, from the front until the damage and from the back until the damage."""
    found: dict[int, _Row] = {}
    for order in ("ASC", "DESC"):
        try:
            # `immutable`: read what is there, and neither lock nor write anything
            connection = sqlite3.connect(f"{aside.as_uri()}?mode=ro&immutable=1", uri=True)
        except sqlite3.Error:
            continue
        connection.text_factory = _text
        try:
            query = f"SELECT key, kind, name, at, value, id FROM entries ORDER BY id {order}"
            for columns in connection.execute(query):
                if isinstance(columns[5], int) and None not in columns:
                    found[columns[5]] = _row(*columns)
        except (sqlite3.Error, UnicodeDecodeError, MemoryError):
            pass  # as far as it goes
        finally:
            connection.close()
    return [found[id] for id in sorted(found)]


_ledgers: dict[str, Ledger] = {}


def ledger() -> Ledger:
    """This process's ledger; another one when HELPERS_LEDGER has changed."""
    try:
        path = chosen_path()
    except RuntimeError:  # no home folder: the ledger says so
        path = ""
    if path not in _ledgers:
        _ledgers[path] = Ledger(path or None)
    return _ledgers[path]
