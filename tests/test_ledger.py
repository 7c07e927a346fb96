"""The ledger under real faults: rival writers, `kill -9`, a full disk, no folder, damaged and foreign files."""

import contextlib
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import ledger as ledgers
from helpers import registry
from helpers.ledger import Ledger
from helpers.measure import Estimate
from helpers.record import Record

ROOT = Path(__file__).parent.parent
FAKE = "fake.thing"


COST = Estimate(1.0, 0.9, 1.1, "µs", (0.9, 1.0, 1.1))


@dataclass(frozen=True, kw_only=True)
class Thing(Record):
    cost: Estimate = COST
    padding: str = ""

    headline_name: ClassVar[str] = "cost"

    def figures(self) -> dict[str, Estimate]:
        return {"cost": self.cost}


def thing(*, number: Annotated[int, registry.Between(0, 10**9)] = 0) -> Thing:
    return Thing()


def made(number: int, **fields: Any) -> Thing:
    return Thing(experiment=FAKE, parameters={"number": number}, **fields)


def numbers(book: Ledger) -> list[int]:
    return [record.parameters["number"] for record in book.records()]


@pytest.fixture(autouse=True)
def fake_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thing, "__module__", "helpers.experiments.fake")
    monkeypatch.setitem(registry._registry, FAKE, registry.Experiment(thing, seconds=1, claims=(), needs=(), wants=()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.sqlite"


def integrity(path: Path) -> str:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return str(connection.execute("PRAGMA integrity_check").fetchone()[0])


# A program that keeps records as `made` does, for the tests that need processes
WRITER = """
import sys
from dataclasses import dataclass
from helpers.ledger import Ledger
from helpers.record import Record

@dataclass(frozen=True, kw_only=True)
class Thing(Record):
    padding: str
    headline = None

first, count, size = map(int, sys.argv[2:5])
book = Ledger(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(first, first + count):
    if book.keep(Thing(experiment="fake.thing", parameters={"number": number}, padding="x" * size)):
        print(number, flush=True)
print(book.trouble, file=sys.stderr)
"""


def writer(path: Path, first: int, count: int, size: int = 0, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(first), str(count), str(size)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


# Sound files


def test_a_record_survives_whole(path: Path) -> None:
    record = made(1, warnings=("noisy",), machine={"cores": 2})
    assert Ledger(path).keep(record)
    assert Ledger(path).records() == [record]


def test_newest_first_and_limited_and_filtered(path: Path) -> None:
    book = Ledger(path)
    for number in range(40):  # more than one page
        book.keep(made(number))
    assert numbers(book) == list(reversed(range(40)))
    assert [record.parameters["number"] for record in book.records(FAKE, limit=2)] == [39, 38]
    assert book.records("another.one") == []
    assert book.records(limit=0) == []


def test_latest_is_the_newest_with_those_parameters(path: Path) -> None:
    book = Ledger(path)
    for number, word in ((1, "old"), (2, "two"), (1, "new")):
        book.keep(made(number, placement=word))
    assert (found := book.latest(FAKE, number=1)) and found.placement == "new"
    assert (found := book.latest(FAKE)) and found.placement == "new"
    assert book.latest(FAKE, number=3) is None
    assert book.latest(FAKE, colour="red") is None


def test_what_no_experiment_can_read_is_left_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    book = Ledger(path)
    book.keep(made(1))
    book.keep(Thing(experiment="gone.away"))
    odd_shape = f'{{"experiment": "{FAKE}", "cost": 3, "parameters": 7}}'
    for value in ("[]", "nonsense", '{"experiment": 5}', odd_shape, "1"):
        book._add(ledgers._Row("record", FAKE, value))
    assert numbers(book) == [1]
    assert (found := book.latest(FAKE)) and found.parameters == {"number": 1}


def test_predictions_newest_wins_and_history_is_kept(path: Path) -> None:
    book = Ledger(path)
    assert book.prediction("switch") is None
    assert book.predict("switch", 5, "µs") and book.predict("switch", 7.5, "µs") and book.predict("thread", 80, "µs")
    assert Ledger(path).prediction("switch") == 7.5
    assert Ledger(path).predictions() == {
        "switch": {"value": 7.5, "unit": "µs"},
        "thread": {"value": 80.0, "unit": "µs"},
    }
    assert len(list(book._newest("prediction", "switch"))) == 2


def test_answers_newest_wins_by_kind(path: Path) -> None:
    book = Ledger(path)
    assert book.answer("quiz", "q1", [1, 2]) and book.answer("quiz", "q1", {"right": True})
    assert book.answer("exercise", "q1", True)
    assert Ledger(path).answers("quiz") == {"q1": {"right": True}}
    assert Ledger(path).answers("exercise") == {"q1": True}
    assert Ledger(path).answers("poll") == {}


def test_what_json_does_not_know_is_refused_in_words(path: Path) -> None:
    book = Ledger(path)
    assert not book.answer("quiz", "q1", object())
    assert book.trouble and "q1" in book.trouble
    assert book.answer("quiz", "q1", 1)
    assert book.trouble is None


def test_a_record_that_cannot_be_written_is_no_error(path: Path) -> None:
    book = Ledger(path)
    assert not book.keep(Record())
    assert book.trouble and "cannot be kept" in book.trouble


def test_in_memory() -> None:
    book = Ledger(":memory:")
    assert book.keep(made(1)) and book.predict("q", 1, "s") and book.answer("quiz", "a", "b")
    assert (numbers(book), book.prediction("q"), book.answers("quiz")) == ([1], 1.0, {"a": "b"})
    assert book.trouble is None
    assert numbers(Ledger(":memory:")) == []


def test_the_process_wide_ledger_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELPERS_LEDGER", str(tmp_path / "one file.sqlite"))
    one = ledgers.ledger()
    assert one is ledgers.ledger() and one.keep(made(1))
    monkeypatch.setenv("HELPERS_LEDGER", str(tmp_path / "two.sqlite"))
    assert numbers(ledgers.ledger()) == []
    monkeypatch.setenv("HELPERS_LEDGER", str(tmp_path / "one file.sqlite"))
    assert ledgers.ledger() is one
    monkeypatch.setenv("HELPERS_LEDGER", ":memory:")
    assert ledgers.ledger().path is None


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux", "{home}/.local/share"),
        ("darwin", "{home}/Library/Application Support"),
        ("win32", "{home}/Local"),
    ],
)
def test_the_user_data_folder(platform: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    monkeypatch.setenv("XDG_DATA_HOME", "not/absolute")  # such a value is to be ignored, says its specification
    folder = Path(expected.format(home=tmp_path)) / "concurrency-notebooks"
    assert ledgers.default_path() == folder / "ledger.sqlite"


def test_agrees_with_platformdirs() -> None:
    platformdirs = pytest.importorskip("platformdirs")
    expected = platformdirs.user_data_dir("concurrency-notebooks", appauthor=False)
    assert ledgers.default_path().parent == Path(expected)


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HELPERS_LEDGER", raising=False)
    monkeypatch.setattr(ledgers, "chosen_path", lambda: (_ for _ in ()).throw(RuntimeError("no home folder")))
    monkeypatch.setattr(ledgers, "_ledgers", {})
    book = ledgers.ledger()
    assert not book.keep(made(1))
    assert numbers(book) == [1]
    assert book.trouble and "no home folder" in book.trouble


def test_threads_share_a_ledger(path: Path) -> None:
    book = Ledger(path)
    threads = [threading.Thread(target=book.keep, args=(made(number),)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers(Ledger(path))) == list(range(20))
    assert book.trouble is None


def test_no_file_stays_open(path: Path) -> None:
    book = Ledger(path)
    book.keep(made(1))
    next(book._newest("record"))  # not even in the midst of reading
    if Path("/proc/self/fd").exists():
        assert path.resolve() not in [link.resolve() for link in Path("/proc/self/fd").iterdir()]
    assert sorted(file.name for file in path.parent.iterdir()) == ["ledger.sqlite"]


# Rivals and sudden death


def test_two_processes_write_at_once(path: Path) -> None:
    writers = [writer(path, 1000, 200), writer(path, 2000, 200)]
    answers = []
    for process in writers:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in writers:
        answers.append(process.communicate(timeout=60))
    assert [error for _, error in answers] == ["None\n", "None\n"]
    assert sorted(numbers(Ledger(path))) == [*range(1000, 1200), *range(2000, 2200)]
    assert integrity(path) == "ok"


def test_a_writer_killed_in_mid_write_loses_nothing_acknowledged(path: Path) -> None:
    chance = random.Random(3)
    acknowledged: list[int] = []
    for round in range(8):
        process = writer(path, round * 1000, 1000, size=300_000)
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("\n")
        process.stdin.flush()
        acknowledged.append(int(process.stdout.readline()))
        time.sleep(chance.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        acknowledged += [int(line) for line in process.communicate()[0].splitlines()]
        assert process.returncode == -signal.SIGKILL
    book = Ledger(path)
    stored = numbers(book)
    assert set(acknowledged) <= set(stored)
    assert len(set(stored)) == len(stored) <= len(acknowledged) + 8
    assert (integrity(path), book.trouble) == ("ok", None)
    assert not list(path.parent.glob("*.corrupt-*"))


def test_locked_too_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "PATIENCE_S", 0.1)
    book = Ledger(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as rival:
        rival.execute("BEGIN EXCLUSIVE")
        assert not book.keep(made(1))
        assert book.trouble and "locked" in book.trouble
        assert numbers(book) == [1]
        assert not list(path.parent.glob("*.corrupt-*"))
        assert Ledger(path).trouble  # opening it is no error either
    assert book.keep(made(2))
    assert book.trouble is None
    assert numbers(Ledger(path)) == [2, 1]  # the first went along with the second


# No room, no folder


def test_a_disk_that_refuses_to_write(path: Path) -> None:
    Ledger(path).keep(made(1))
    limit = 60_000

    def refuse() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = writer(path, 2, 30, size=5000, preexec_fn=refuse)
    out, trouble = process.communicate("\n", timeout=30)
    kept = [int(line) for line in out.splitlines()]
    assert 0 < len(kept) < 30
    assert "disk refused" in trouble and len(trouble.splitlines()) == 1
    assert set(numbers(Ledger(path))) == {1, *kept}
    assert integrity(path) == "ok"
    assert not list(path.parent.glob("*.corrupt-*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 128 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only a privileged user of Linux may make a small disk; the test above has a like fault for all")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(small_disk: Path) -> None:
    path = small_disk / "ledger.sqlite"
    book = Ledger(path)
    kept = [book.keep(made(number, padding="x" * 5000)) for number in range(30)]
    assert kept[0] and not kept[-1]
    assert numbers(book) == list(reversed(range(30)))
    assert book.trouble and "disk is full" in book.trouble
    assert book.told() == book.trouble and book.told() is None
    assert numbers(Ledger(path)) == list(reversed(range(kept.count(True))))
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert book.keep(made(30))
    assert book.trouble is None
    assert numbers(Ledger(path)) == list(reversed(range(31)))


@pytest.mark.parametrize("place", ["file/below/ledger.sqlite", "/proc/ledger.sqlite", "/proc/below/ledger.sqlite"])
def test_nowhere_to_write(place: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    book = Ledger(tmp_path / place)
    assert book.trouble and "HELPERS_LEDGER" in book.trouble and "\n" not in book.trouble
    assert book.told() == book.trouble
    assert not book.keep(made(1)) and not book.predict("q", 2, "s") and not book.answer("quiz", "a", 1)
    assert (numbers(book), book.prediction("q"), book.answers("quiz")) == ([1], 2.0, {"a": 1})
    assert book.told() is None  # once is enough
    assert (tmp_path / "file").read_text() == "not a folder"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_read_only_file_can_be_read(path: Path) -> None:
    Ledger(path).keep(made(1))
    path.chmod(0o400)
    path.parent.chmod(0o500)
    book = Ledger(path)
    assert not book.keep(made(2))
    assert numbers(book) == [2, 1]
    path.parent.chmod(0o700)


@pytest.mark.parametrize("place", ["/dev/null", "."])
def test_what_is_no_regular_file_stays_where_it_is(place: str, tmp_path: Path) -> None:
    book = Ledger(tmp_path / place)
    assert not book.keep(made(1))
    assert book.trouble and numbers(book) == [1]
    assert Path("/dev/null").is_char_device() and tmp_path.is_dir()


# Foreign and damaged files


def with_version(path: Path, version: int) -> bytes:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    return path.read_bytes()


def test_a_newer_version_is_not_touched(path: Path) -> None:
    Ledger(path).keep(made(1))
    before = with_version(path, ledgers.VERSION + 1)
    book = Ledger(path)
    assert book.trouble and "newer version" in book.trouble and "\n" not in book.trouble
    assert not book.keep(made(2))
    assert numbers(book) == [2]
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["ledger.sqlite"]


def test_a_file_that_becomes_newer_meanwhile(path: Path) -> None:
    book = Ledger(path)
    assert book.keep(made(1))
    before = with_version(path, ledgers.VERSION + 1)
    assert not book.keep(made(2))
    assert numbers(book) == [2]
    assert path.read_bytes() == before


def test_another_programs_database_is_not_touched(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE bookmarks (url TEXT)")
    before = path.read_bytes()
    book = Ledger(path)
    assert book.trouble and "another program" in book.trouble
    assert not book.keep(made(1))
    assert path.read_bytes() == before


def asides(path: Path) -> list[Path]:
    return sorted(path.parent.glob("ledger.corrupt-*.sqlite"))


def test_rubbish_is_moved_aside(path: Path) -> None:
    path.write_bytes(b"rubbish " * 1000)
    book = Ledger(path)
    (aside,) = asides(path)
    assert aside.read_bytes() == b"rubbish " * 1000
    assert book.trouble and str(aside) in book.trouble and "\n" not in book.trouble
    assert book.told() == book.trouble and book.told() is None
    assert book.keep(made(1))
    assert numbers(Ledger(path)) == [1]
    assert Ledger(path).trouble is None
    path.write_bytes(b"again" * 1000)
    assert book.keep(made(2))  # damaged while in use
    assert len(asides(path)) == 2
    assert numbers(Ledger(path)) == [2]


def test_what_can_be_read_of_a_damaged_file_is_taken_over(path: Path) -> None:
    book = Ledger(path)
    for number in range(50):
        book.keep(made(number, padding="x" * 2000))
    book.predict("switch", 5, "µs")
    damaged = bytearray(path.read_bytes())
    middle = len(damaged) // 2 // 4096 * 4096
    damaged[middle : middle + 4096] = os.urandom(4096)
    path.write_bytes(damaged)
    book = Ledger(path)
    (aside,) = asides(path)
    assert aside.read_bytes() == damaged
    found = numbers(book)
    assert len(found) >= 40 and found == sorted(found, reverse=True)
    assert book.prediction("switch") == 5
    assert book.trouble and f"{len(found) + 1} of its entries" in book.trouble


def test_a_ledger_without_its_table(path: Path) -> None:
    Ledger(path).keep(made(1))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE entries RENAME TO others")
    book = Ledger(path)
    assert len(asides(path)) == 1
    assert book.keep(made(2))


def test_a_deleted_file_is_made_again(path: Path) -> None:
    book = Ledger(path)
    book.keep(made(1))
    path.unlink()
    assert numbers(book) == []
    assert book.keep(made(2))
    assert numbers(Ledger(path)) == [2]


def sound_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        book = Ledger(path)
        for number in range(12):
            book.keep(made(number, padding="x" * 1500))
        book.predict("switch", 5, "µs")
        book.answer("quiz", "q1", True)
        return path.read_bytes()


SOUND = sound_file()
bytes_anywhere = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 200), st.integers(0, len(SOUND) - 1)),  # the header is the most delicate part
        st.binary(min_size=1, max_size=64),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=150, deadline=None)
@given(damage=bytes_anywhere, cut=st.one_of(st.none(), st.integers(0, len(SOUND))))
def test_no_damage_is_an_error_and_the_old_file_is_kept(damage: list[tuple[int, bytes]], cut: int | None) -> None:
    content = bytearray(SOUND)
    for offset, noise in damage:
        content[offset : offset + len(noise)] = noise
    content = content[:cut]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.sqlite"
        path.write_bytes(content)
        book = Ledger(path)
        opened = path.read_bytes()
        kept = book.keep(made(99))
        assert kept or book.trouble
        assert book.records()[0] == made(99)
        book.records(), book.predictions(), book.answers("quiz")
        moved = [aside.read_bytes() for aside in asides(path)]
        if len(content) > 1:  # a file of one byte is an empty one to SQLite
            assert bytes(content) in (*moved, opened)


def test_every_line_is_told_once(path: Path, tmp_path: Path) -> None:
    path.write_bytes(b"rubbish")
    book = Ledger(path)
    path.unlink()
    path.mkdir()
    assert not book.keep(made(1))
    lines = [book.told(), book.told(), book.told()]
    assert len({line for line in lines if line}) == 2 and lines[2] is None
