"""Usage counts: none is lost, the file is bounded, and no text gets into it."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder.errors import DataError
from talaria.lsp import usage
from talaria.lsp.usage import Days, Usage, forget, read, state_folder
from tests.pace import within

ROOT = Path(__file__).parents[2]
TODAY = date(2026, 3, 1)
PYTHON = ("python", "automatic")

names = st.sampled_from(["python", "c++", "automatic"])  # fewer pairs than are told apart
counts = st.dictionaries(
    st.sampled_from([*usage.EVENTS, "ms_5"]), st.integers(1, 10**9), min_size=1
).map(Counter[str])
days = st.dictionaries(
    st.dates(), st.dictionaries(st.tuples(names, names), counts, min_size=1), max_size=3
)


def shown(folder: Path, times: int = 1, day: date = TODAY) -> Usage:
    """Usage with so many shown suggestions of ten characters, not yet flushed."""
    usage = Usage(folder, lambda: day)
    for _ in range(times):
        usage.record(
            "shown", language="python", trigger="automatic", characters=10, milliseconds=80
        )
    return usage


def test_what_is_counted(tmp_path: Path) -> None:
    """Events, characters and latencies by language and trigger."""
    usage = shown(tmp_path, 2)
    usage.record("accepted", language="python", trigger="automatic", characters=10)
    usage.record("partially_accepted", language="python", trigger="automatic", characters=4)
    usage.record("dismissed", language="Go", trigger="invoked", characters=7)
    assert usage.flush()
    assert read(tmp_path) == {
        TODAY: {
            PYTHON: Counter(
                shown=2,
                accepted=1,
                partially_accepted=1,
                characters_suggested=20,
                characters_accepted=14,
                ms_100=2,
            ),
            ("go", "invoked"): Counter(dismissed=1),
        }
    }


@pytest.mark.parametrize(
    ("milliseconds", "name"),
    [(-1, "ms_5"), (0, "ms_5"), (5, "ms_5"), (5.1, "ms_10"), (5000, "ms_5000"), (1e9, "ms_more")],
)
def test_latency_buckets(tmp_path: Path, milliseconds: float, name: str) -> None:
    """Each latency counts once, at the first edge that it does not exceed."""
    usage = Usage(tmp_path, lambda: TODAY)
    usage.record("shown", language="python", trigger="automatic", milliseconds=milliseconds)
    assert usage.flush()
    assert read(tmp_path)[TODAY][PYTHON] == Counter({"shown": 1, name: 1})


def test_counting_is_cheap(tmp_path: Path) -> None:
    """Microseconds, and no file access."""
    with within(0.5):
        shown(tmp_path / "state", 1000)
    assert not (tmp_path / "state").exists()


def test_a_flush_adds_to_the_file(tmp_path: Path) -> None:
    """Each count once; without new counts the file is not touched."""
    usage = shown(tmp_path, 2)
    assert usage.flush()
    assert usage.flush()
    assert shown(tmp_path, 3).flush()
    assert read(tmp_path)[TODAY][PYTHON]["shown"] == 5
    before = (tmp_path / "usage.json").stat()
    assert usage.flush()
    assert (tmp_path / "usage.json").stat() == before


def test_several_servers_lose_no_count(tmp_path: Path) -> None:
    """Processes that flush concurrently."""
    program = (
        "import sys\nfrom pathlib import Path\nfrom talaria.lsp.usage import Usage\n"
        "usage, missed = Usage(Path(sys.argv[1])), 0\n"
        "for _ in range(30):\n"
        "    usage.record('shown', language='python', trigger='automatic')\n"
        "    usage.flush()\n"
        "for _ in range(30):\n"
        "    if usage.flush(): break\n"
        "else: sys.exit('not written')\n"
    )
    servers = [
        subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT) for _ in range(4)
    ]
    assert [server.wait(60) for server in servers] == [0] * 4
    assert sum(pairs[PYTHON]["shown"] for pairs in read(tmp_path).values()) == 120


def test_several_threads_lose_no_count(tmp_path: Path) -> None:
    """Counting continues while another thread flushes."""
    usage = Usage(tmp_path, lambda: TODAY)

    def work() -> None:
        for number in range(200):
            usage.record("shown", language="python", trigger="automatic")
            if number % 50 == 0:
                usage.flush()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert usage.flush()
    assert read(tmp_path)[TODAY][PYTHON]["shown"] == 800


def test_a_held_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A flush gives up in time and keeps its counts for the next one."""
    monkeypatch.setattr(usage, "WAIT_SECONDS", 0.05)
    mine = shown(tmp_path)
    with usage.locked(tmp_path):
        assert not mine.flush()
        with pytest.raises(DataError, match="locked by another process"):
            forget(tmp_path)
    assert "locked by another process for 0.05 s" in caplog.text
    assert mine.flush()
    assert read(tmp_path)[TODAY][PYTHON]["shown"] == 1


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"null",
        b'{"format": 0, "days": []}',
        b'{"format": "1", "days": []}',
        b'{"format": 1, "days": {}}',
        b'{"format": 1, "days": [7]}',
        b'{"format": 1, "days": [["2026-03-01", "python", "automatic"]]}',
        b'{"format": 1, "days": [["yesterday", "python", "automatic", {}]]}',
        b'{"format": 1, "days": [[1, "python", "automatic", {}]]}',
        b'{"format": 1, "days": [["2026-03-01", null, "automatic", {}]]}',
        b'{"format": 1, "days": [["2026-03-01", "python", "automatic", []]]}',
        *(
            b'{"format": 1, "days": [["2026-03-01", "python", "automatic", {"shown": %b}]]}' % value
            for value in (b"-1", b"1.5", b"true", b'"x"', b"NaN", b"9" * 30, b"9" * 5000)
        ),
        b'{"format": 1, "days": [["2026-03-01", "python", "automatic", {"secret": 1}]]}',
        b" " * (usage.MAX_BYTES + 1),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_a_damaged_file_is_set_aside(
    tmp_path: Path, text: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Unchanged, under another name; counting starts over, with a warning in the log."""
    path = tmp_path / "usage.json"
    path.write_bytes(text)
    with pytest.raises(DataError, match=r"usage\.json: damaged .* --forget"):
        read(tmp_path)
    assert shown(tmp_path).flush()
    assert read(tmp_path)[TODAY][PYTHON]["shown"] == 1
    assert (tmp_path / "usage.json.damaged").read_bytes() == text
    assert "damaged" in caplog.text


def test_a_newer_file_is_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Another editor may have a newer Talaria, whose counts are not damaged."""
    path = tmp_path / "usage.json"
    path.write_text('{"format": 2, "new": true}')
    assert not shown(tmp_path).flush()
    assert "in format 2" in caplog.text
    with pytest.raises(DataError, match="a newer Talaria wrote it in format 2"):
        read(tmp_path)
    assert path.read_text() == '{"format": 2, "new": true}'


def test_a_folder_that_cannot_be_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The counts stay in memory with one warning, and are written later."""
    folder = tmp_path / "state"
    folder.write_text("in the way")
    usage = shown(folder)
    assert not usage.flush()
    usage.record("shown", language="python", trigger="automatic")
    assert not usage.flush()
    assert len(caplog.records) == 1
    assert f"{folder}: File exists; check the path" in caplog.text
    folder.unlink()
    assert usage.flush()
    assert read(folder)[TODAY][PYTHON]["shown"] == 2
    assert len(caplog.records) == 1


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write to any folder"
)
def test_a_read_only_folder(tmp_path: Path) -> None:
    """No error and no loss."""
    usage = shown(tmp_path)
    tmp_path.chmod(0o500)
    try:
        assert not usage.flush()
    finally:
        tmp_path.chmod(0o700)
    assert usage.flush()


def test_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The old file stays whole, and the next flush adds the new counts."""

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert shown(tmp_path).flush()
    usage = shown(tmp_path, 2)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert not usage.flush()
    assert "usage.json: No space left on device; check" in caplog.text
    assert read(tmp_path)[TODAY][PYTHON]["shown"] == 1
    assert usage.flush()
    assert read(tmp_path)[TODAY][PYTHON]["shown"] == 3


def test_an_interrupted_flush_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counts go back to memory."""

    def interrupt(handle: int) -> None:
        raise KeyboardInterrupt

    usage = shown(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            usage.flush()
    assert usage.flush()
    assert read(tmp_path)[TODAY][PYTHON]["shown"] == 1


def test_midnight_passes(tmp_path: Path) -> None:
    """An event counts on the day it happens, whenever it is written."""
    clock = iter([TODAY, TODAY + timedelta(1), TODAY + timedelta(1)])
    usage = Usage(tmp_path, lambda: next(clock))
    usage.record("shown", language="python", trigger="automatic")
    usage.record("accepted", language="python", trigger="automatic")
    assert usage.flush()
    assert read(tmp_path) == {
        TODAY: {PYTHON: Counter(shown=1)},
        TODAY + timedelta(1): {PYTHON: Counter(accepted=1, characters_accepted=0)},
    }


def test_old_days_are_dropped(tmp_path: Path) -> None:
    """After 400 days, at the next flush."""
    last = TODAY - timedelta(400)
    assert shown(tmp_path, day=last - timedelta(1)).flush()
    assert shown(tmp_path, day=last).flush()
    assert len(read(tmp_path)) == 2
    assert shown(tmp_path).flush()
    assert set(read(tmp_path)) == {last, TODAY}


@given(days)
def test_what_is_written_is_read(found: Days) -> None:
    """The file round-trips."""
    folder = Path(os.environ["TALARIA_STATE"])
    (folder / "usage.json").write_bytes(usage.dump(found))
    assert read(folder) == found


@given(days, days)
def test_merging_has_no_order(one: Days, other: Days) -> None:
    """The sums do not depend on the order, and inputs are not modified."""
    before = usage.dump(other)
    both: list[Days] = []
    for order in ((one, other), (other, one)):
        both.append({})
        for part in order:
            usage.merge(both[-1], part)
    assert both[0] == both[1]
    assert usage.dump(other) == before


def test_the_file_is_bounded(tmp_path: Path) -> None:
    """Even with every latency on every day in more languages than exist."""
    everything = Counter(dict.fromkeys(usage.COUNTED, 10**6))
    full: Days = {}
    for age in range(600):
        for number in range(40):
            name = f"language-{number}".ljust(24, "x")
            usage.add(full, TODAY - timedelta(age), (name, name), everything)
    kept = usage.recent(full, TODAY)
    assert len(kept) == 401
    assert {len(pairs) for pairs in kept.values()} == {usage.KEYS}
    assert len(usage.dump(kept)) < usage.MAX_BYTES
    assert kept[TODAY]["other", "other"]["shown"] == 25 * 10**6  # nothing is lost by it
    ahead = usage.recent(full, TODAY - timedelta(600))  # a clock that is wrong
    assert len(ahead) == 401


def test_no_text_gets_into_the_file(tmp_path: Path) -> None:
    """Only plausible names of languages and triggers are written."""
    usage = Usage(tmp_path, lambda: TODAY)
    for text in ("/home/me/secret.py", "pass word", "x" * 25, "", "é", "a\nb", "42", "a.b"):
        usage.record("shown", language=text, trigger=text, characters=3, milliseconds=1)
    assert usage.flush()
    written = (tmp_path / "usage.json").read_text()
    assert set(re.findall(r'"([^"]*)"', written)) == {
        *("format", "days", "2026-03-01", "other"),
        *("shown", "characters_suggested", "ms_5"),
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["usage.json", "usage.lock"]
    assert json.loads(written)["days"][0][3]["shown"] == 8


def test_forgetting(tmp_path: Path) -> None:
    """Nothing is left, damaged files included; counting may continue."""
    path = tmp_path / "usage.json"
    forget(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    path.write_text("damaged")
    assert shown(tmp_path).flush()
    forget(tmp_path)
    assert read(tmp_path) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["usage.lock"]
    assert shown(tmp_path).flush()


def test_unreadable_and_undeletable_files(tmp_path: Path) -> None:
    """The error has the path and the remedy."""
    (tmp_path / "usage.json").mkdir()
    with pytest.raises(DataError, match=r"usage\.json: cannot be read .* check"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"usage\.json: cannot be deleted .* by hand"):
        forget(tmp_path)
    assert not shown(tmp_path).flush()


@pytest.mark.parametrize(
    ("environ", "system", "folder"),
    [
        ({"TALARIA_STATE": "/t", "XDG_STATE_HOME": "/x"}, "linux", "/t"),
        ({"XDG_STATE_HOME": "/x"}, "linux", "/x/talaria"),
        ({"XDG_STATE_HOME": "relative"}, "linux", "/home/me/.local/state/talaria"),
        ({"TALARIA_STATE": "", "XDG_STATE_HOME": ""}, "linux", "/home/me/.local/state/talaria"),
        ({}, "darwin", "/home/me/Library/Application Support/talaria"),
        ({"LOCALAPPDATA": "/local"}, "win32", "/local/talaria/state"),
        ({}, "win32", "/home/me/AppData/Local/talaria/state"),
    ],
)
def test_where_the_counts_are(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], system: str, folder: str
) -> None:
    """In each system's usual folder, unless TALARIA_STATE is set."""
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert state_folder(environ, system) == Path(folder)


def test_a_user_without_a_home(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Counts stay in memory, and the log says how to keep them."""

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    for name in ("TALARIA_STATE", "XDG_STATE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    mine = Usage(clock=lambda: TODAY)
    mine.record("shown", language="python", trigger="automatic")
    with caplog.at_level(logging.WARNING):
        assert not mine.flush()
    assert "set TALARIA_STATE" in caplog.text


@pytest.fixture(autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests never touch the user's own counts."""
    monkeypatch.setenv("TALARIA_STATE", str(tmp_path_factory.mktemp("state")))


def test_counting_needs_no_torch() -> None:
    """Neither counting nor `talaria stats` imports it."""
    program = "import sys, talaria.lsp.stats; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"
