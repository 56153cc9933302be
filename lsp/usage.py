"""How suggestions fare: counts in one small file on this machine, and nowhere else.

For each day, language and trigger: how many suggestions were shown, accepted, partially
accepted and dismissed, of how many characters, and how long they took. Only numbers: no
text, no file names, nothing that says what was written.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
import sys
import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from talaria.coder.errors import DataError

if sys.platform == "win32":
    import msvcrt

    def take(handle: int) -> None:
        """Lock an open file for this handle alone; OSError if another one has it."""
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def take(handle: int) -> None:
        """Lock an open file for this handle alone; OSError if another one has it."""
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


LOG = logging.getLogger(__name__)

Event = Literal["shown", "accepted", "partially_accepted", "dismissed"]
EVENTS: tuple[Event, ...] = get_args(Event)
# Upper edges of the latencies that are told apart; those that are aimed at are among them.
EDGES = (5, 10, 20, 30, 50, 75, 100, 120, 150, 200, 250, 300, 400, 500, 750, 1000, 2000, 5000)
LATENCIES = (*(f"ms_{edge}" for edge in EDGES), "ms_more")
COUNTED = frozenset({*EVENTS, "characters_suggested", "characters_accepted", *LATENCIES})

Pair = tuple[str, str]  # language and trigger
Days = dict[date, dict[Pair, Counter[str]]]

FILE, DAMAGED, LOCK = "usage.json", "usage.json.damaged", "usage.lock"
PARTIAL = ".usage.json.partial"
FORMAT = 1
# These three bound the file: some 250 kB after a year of two pairs a day, never MAX_BYTES.
KEPT_DAYS = 400
PAIRS = 16  # told apart on one day; all others count as OTHER
NAME = re.compile(r"[a-z][a-z0-9+#_-]{0,23}")  # of a language or trigger; others are OTHER too
OTHER = "other"
LARGEST = 2**53  # count that is believed
MAX_BYTES = 8_000_000
# For another server's merge, which takes milliseconds; it must not hold up the end of this one.
WAIT_SECONDS = 1.0
BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class Usage:
    """Counts events in memory; `flush` adds them to the file. For several threads.

    folder  of the file; None is this user's, see `state_folder`
    clock   today, where the user is
    """

    def __init__(self, folder: Path | None = None, clock: Callable[[], date] = date.today) -> None:
        self.folder = folder
        self.clock = clock
        self._pending: Days = {}
        self._lock = threading.Lock()
        self._told = False

    def record(
        self,
        event: Event,
        *,
        language: str,
        trigger: str,
        characters: int = 0,
        milliseconds: float | None = None,
    ) -> None:
        """Count one event, in memory alone, on the day that it happens.

        A suggestion is shown once and is then accepted, partially accepted, dismissed or
        none of these. Characters are those that were shown or accepted.
        """
        counts = Counter[str]({event: 1})
        if event == "shown":
            counts["characters_suggested"] = max(characters, 0)
        elif event in ("accepted", "partially_accepted"):
            counts["characters_accepted"] = max(characters, 0)
        if milliseconds is not None:
            counts[LATENCIES[bisect_left(EDGES, milliseconds)]] += 1
        with self._lock:
            add(self._pending, self.clock(), (known(language), known(trigger)), counts)

    def flush(self) -> bool:
        """Add to the file what was counted since; whether all of it is there now.

        Where the file cannot be written, the counts stay in memory for the next time,
        and the log says so once.
        """
        with self._lock:
            pending, self._pending = self._pending, {}
        if not pending:
            return True
        written = False
        try:
            store(self.folder or state_folder(), pending, self.clock())
            written = True
        except (OSError, DataError) as error:
            if not self._told:
                why = str(error)
                if isinstance(error, OSError):
                    why = (
                        f"{error.filename or FILE}: {error.strerror}; check the path, its "
                        "permissions and free space, or set TALARIA_STATE to another folder"
                    )
                LOG.warning("usage counts stay in memory for now: %s", why)
        finally:
            self._told = not written
            if not written:
                with self._lock:
                    merge(pending, self._pending)
                    self._pending = recent(pending, self.clock())
        return written


def known(name: str) -> str:
    """The name of a language or trigger, or OTHER for what does not look like one."""
    name = name.lower()
    return name if NAME.fullmatch(name) else OTHER


def add(days: Days, day: date, pair: Pair, counts: Mapping[str, int]) -> None:
    """Add counts to those of a day, as OTHER if it has enough pairs already."""
    pairs = days.setdefault(day, {})
    if pair not in pairs and len(pairs) >= PAIRS - 1:
        pair = (OTHER, OTHER)
    pairs.setdefault(pair, Counter()).update(counts)


def merge(days: Days, more: Days) -> None:
    """Add all of `more` to `days`."""
    for day, pairs in more.items():
        for pair, counts in pairs.items():
            add(days, day, pair, counts)


def recent(days: Days, today: date) -> Days:
    """The days that are kept, in order; a clock that once was wrong cannot add to their number."""
    oldest = today - timedelta(days=KEPT_DAYS)
    return {day: days[day] for day in sorted(days)[-KEPT_DAYS - 1 :] if day >= oldest}


def state_folder(environ: Mapping[str, str] = os.environ, system: str = sys.platform) -> Path:
    """Where this user's programs keep such files; TALARIA_STATE names another folder.

    As the XDG Base Directory Specification says, a relative XDG_STATE_HOME is ignored.
    """
    if named := environ.get("TALARIA_STATE"):
        return Path(named)
    try:
        if system == "win32":
            local = environ.get("LOCALAPPDATA")
            return (Path(local) if local else Path.home() / "AppData/Local") / "talaria/state"
        if system == "darwin":
            return Path.home() / "Library/Application Support/talaria"
        state = Path(environ.get("XDG_STATE_HOME", ""))
        return (state if state.is_absolute() else Path.home() / ".local/state") / "talaria"
    except RuntimeError as error:
        raise DataError(
            "this user has no home folder to keep usage counts in; set TALARIA_STATE to a folder"
        ) from error


def read(folder: Path) -> Days:
    """All that is counted in a folder; empty if nothing is. DataError if it cannot be read."""
    path = folder / FILE
    try:
        return load(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{path}: damaged ({error}); the language server will put it aside and begin anew, "
            "`talaria stats --forget` deletes it"
        ) from error


def forget(folder: Path) -> None:
    """Delete all that is counted in a folder, damaged files too. DataError if it cannot be done."""
    if not folder.exists():
        return
    try:
        with locked(folder):
            for name in (FILE, DAMAGED, PARTIAL):
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: cannot be deleted ({error.strerror}); "
            "check its permissions, or delete it by hand"
        ) from error


def store(folder: Path, more: Days, today: date) -> None:
    """Add counts to the file of a folder; what cannot be read is put aside first.

    OSError if it cannot be written, DataError if a newer Talaria wrote it: it is as it
    was then.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path, partial = folder / FILE, folder / PARTIAL
    with locked(folder):
        try:
            days = load(path)
        except ValueError as error:
            os.replace(path, folder / DAMAGED)
            LOG.warning("%s: damaged (%s); renamed to %s and begun anew", path, error, DAMAGED)
            days = {}
        merge(days, more)
        with partial.open("wb") as file:
            file.write(dump(recent(days, today)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes and threads from changing the file; TimeoutError if one does so long.

    The lock is a file of its own, for the file of counts is replaced at each change. It
    is never deleted: one could then hold the old one and another the new one.
    """
    path = folder / LOCK
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                take(handle)
                break
            except OSError as error:
                if error.errno not in BUSY:
                    raise
            if time.monotonic() > end:
                why = f"locked by another process for {WAIT_SECONDS:g} s"
                raise TimeoutError(errno.ETIMEDOUT, why, str(path))
            time.sleep(0.005)
        yield
    finally:
        os.close(handle)


def dump(days: Days) -> bytes:
    """The text of the file: one line a day, language and trigger, for a person to look at."""
    rows = [
        json.dumps([day.isoformat(), *pair, {name: n for name, n in sorted(counts.items()) if n}])
        for day, pairs in days.items()
        for pair, counts in pairs.items()
    ]
    return (f'{{"format": {FORMAT}, "days": [\n' + ",\n".join(rows) + "\n]}\n").encode()


def load(path: Path) -> Days:
    """What a file counts; nothing if it is not there.

    ValueError if it is damaged, DataError if a newer Talaria wrote it, OSError if it
    cannot be read.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return {}
    if len(raw) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError):
        raise ValueError("no JSON") from None
    made = found.get("format") if isinstance(found, dict) else None
    if isinstance(made, int) and made > FORMAT:
        raise DataError(
            f"{path}: of format {made}, which a newer Talaria wrote; this one knows {FORMAT}: "
            "update it, or set TALARIA_STATE to another folder"
        )
    if made != FORMAT or not isinstance(found.get("days"), list):
        raise ValueError("no usage counts")
    days: Days = {}
    for number, row in enumerate(found["days"], 1):
        try:
            add(days, *parsed(row))
        except (ValueError, TypeError, AttributeError):
            raise ValueError(f"row {number} is no day of counts") from None
    return days


def parsed(row: Any) -> tuple[date, Pair, dict[str, int]]:
    """What a row of the file says; ValueError, TypeError or AttributeError if it is none."""
    day, language, trigger, counts = row
    if not all(fits(name, n) for name, n in counts.items()):
        raise ValueError("not all are counts")
    return date.fromisoformat(day), (known(language), known(trigger)), counts


def fits(name: str, count: object) -> bool:
    """Whether this is something that is counted, and a count."""
    return name in COUNTED and type(count) is int and 0 <= count < LARGEST
