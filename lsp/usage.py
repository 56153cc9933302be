"""Usage counts, in one small file that never leaves this machine.

For each day, language and trigger: how many suggestions were shown, accepted, partially accepted
and dismissed, how many characters they had, and how long they took. Numbers only: no text and no
file names.
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

from talaria.coder import files
from talaria.coder.errors import DataError

if sys.platform == "win32":
    import msvcrt

    def lock(handle: int) -> None:
        """Lock an open file exclusively; OSError if another handle holds the lock."""
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def lock(handle: int) -> None:
        """Lock an open file exclusively; OSError if another handle holds the lock."""
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)


LOG = logging.getLogger(__name__)

Event = Literal["shown", "accepted", "partially_accepted", "dismissed"]
EVENTS: tuple[Event, ...] = get_args(Event)
# Upper edges of the latency buckets in milliseconds; they include the targets.
EDGES = (5, 10, 20, 30, 50, 75, 100, 120, 150, 200, 250, 300, 400, 500, 750, 1000, 2000, 5000)
LATENCIES = (*(f"ms_{edge}" for edge in EDGES), "ms_more")
COUNTED = frozenset({*EVENTS, "characters_suggested", "characters_accepted", *LATENCIES})

UsageKey = tuple[str, str]  # language and trigger
Days = dict[date, dict[UsageKey, Counter[str]]]

FILE, DAMAGED, LOCK = "usage.json", "usage.json.damaged", "usage.lock"
FORMAT = 1
# These three bound the file: about 250 kB after a year with two keys a day, never MAX_BYTES.
KEPT_DAYS = 400
KEYS = 16  # per day; further ones count as OTHER
NAME = re.compile(r"[a-z][a-z0-9+#_-]{0,23}")  # of languages and triggers, or OTHER
OTHER = "other"
LARGEST = 2**53  # plausible count
MAX_BYTES = 8_000_000
# Another server's merge takes milliseconds; waiting must not delay the end of this server.
WAIT_SECONDS = 1.0
BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)


class Usage:
    """Counts events in memory; `flush` adds them to the file. Thread-safe.

    folder  of the file; None: this user's (`state_folder`)
    clock   today's date, in the user's time zone
    """

    def __init__(self, folder: Path | None = None, clock: Callable[[], date] = date.today) -> None:
        self.folder = folder
        self.clock = clock
        self._pending: Days = {}
        self._lock = threading.Lock()
        self._warned = False

    def record(
        self,
        event: Event,
        *,
        language: str,
        trigger: str,
        characters: int = 0,
        milliseconds: float | None = None,
    ) -> None:
        """Count one event in memory, on the day it happens.

        A suggestion is shown once and then accepted, partially accepted, dismissed or none of
        these. `characters` were shown or accepted.
        """
        counts = Counter[str]({event: 1})
        if event == "shown":
            counts["characters_suggested"] = max(characters, 0)
        elif event in ("accepted", "partially_accepted"):
            counts["characters_accepted"] = max(characters, 0)
        if milliseconds is not None:
            counts[LATENCIES[bisect_left(EDGES, milliseconds)]] += 1
        with self._lock:
            add(self._pending, self.clock(), (sanitized(language), sanitized(trigger)), counts)

    def flush(self) -> bool:
        """Add the counts in memory to the file; whether that worked.

        If the file cannot be written, the counts stay in memory for the next flush, with one
        warning in the log.
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
            if not self._warned:
                why = str(error)
                if isinstance(error, OSError):
                    why = (
                        f"{error.filename or FILE}: {error.strerror}; check the path, its "
                        "permissions and free space, or set TALARIA_STATE to another folder"
                    )
                LOG.warning("usage counts stay in memory for now: %s", why)
        finally:
            self._warned = not written
            if not written:
                with self._lock:
                    merge(pending, self._pending)
                    self._pending = recent(pending, self.clock())
        return written


def sanitized(name: str) -> str:
    """The name of a language or trigger, or OTHER if it does not look like one."""
    name = name.lower()
    return name if NAME.fullmatch(name) else OTHER


def add(days: Days, day: date, pair: UsageKey, counts: Mapping[str, int]) -> None:
    """Add counts to a day, as OTHER if it already has enough keys."""
    pairs = days.setdefault(day, {})
    if pair not in pairs and len(pairs) >= KEYS - 1:
        pair = (OTHER, OTHER)
    pairs.setdefault(pair, Counter()).update(counts)


def merge(days: Days, more: Days) -> None:
    """Add all of `more` to `days`."""
    for day, pairs in more.items():
        for pair, counts in pairs.items():
            add(days, day, pair, counts)


def recent(days: Days, today: date) -> Days:
    """The days to keep, in order; their number is bounded even if the clock was wrong."""
    oldest = today - timedelta(days=KEPT_DAYS)
    return {day: days[day] for day in sorted(days)[-KEPT_DAYS - 1 :] if day >= oldest}


def state_folder(environ: Mapping[str, str] = os.environ, system: str = sys.platform) -> Path:
    """The folder for this user's state, or the one in TALARIA_STATE.

    A relative XDG_STATE_HOME is ignored, as the XDG Base Directory Specification requires.
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
            "there is no home folder to keep usage counts in; set TALARIA_STATE to a folder"
        ) from error


def read(folder: Path) -> Days:
    """All counts in a folder, empty if there are none; DataError if they cannot be read."""
    path = folder / FILE
    try:
        return load(path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{path}: damaged ({error}); the language server will set it aside and start over, "
            "`talaria stats --forget` deletes it"
        ) from error


def forget(folder: Path) -> None:
    """Delete all counts in a folder, damaged files too; DataError if that fails."""
    if not folder.exists():
        return
    try:
        with locked(folder):
            # A killed process may have left a partial file.
            for path in (folder / FILE, folder / DAMAGED, *folder.glob(f".{FILE}-*.partial")):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{error.filename or folder}: cannot be deleted ({error.strerror}); "
            "check its permissions, or delete it by hand"
        ) from error


def store(folder: Path, more: Days, today: date) -> None:
    """Add counts to the file in a folder; a damaged file is set aside first.

    OSError if it cannot be written, DataError if a newer Talaria wrote it; either leaves the file
    as it was.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / FILE
    with locked(folder):
        try:
            days = load(path)
        except ValueError as error:
            os.replace(path, folder / DAMAGED)
            LOG.warning("%s: damaged (%s); renamed to %s and started over", path, error, DAMAGED)
            days = {}
        merge(days, more)
        files.write(path, dump(recent(days, today)))


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Exclude other processes and threads; TimeoutError if one holds the lock too long.

    The lock is a separate file, because the counts are replaced at each change. It is never
    deleted, or one process could hold the old file and another the new one.
    """
    path = folder / LOCK
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        end = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                lock(handle)
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
    """The content of the file: one line per day, language and trigger, for people to read."""
    rows = [
        json.dumps([day.isoformat(), *pair, {name: n for name, n in sorted(counts.items()) if n}])
        for day, pairs in days.items()
        for pair, counts in pairs.items()
    ]
    return (f'{{"format": {FORMAT}, "days": [\n' + ",\n".join(rows) + "\n]}\n").encode()


def load(path: Path) -> Days:
    """The counts in a file; none if it does not exist.

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
        raise ValueError("not JSON") from None
    made = found.get("format") if isinstance(found, dict) else None
    if isinstance(made, int) and made > FORMAT:
        raise DataError(
            f"{path}: a newer Talaria wrote it in format {made}, this one reads {FORMAT}: update, "
            "or set TALARIA_STATE to another folder"
        )
    if made != FORMAT or not isinstance(found.get("days"), list):
        raise ValueError("not usage counts")
    days: Days = {}
    for number, row in enumerate(found["days"], 1):
        try:
            add(days, *parsed(row))
        except (ValueError, TypeError, AttributeError):
            raise ValueError(f"row {number} is not a day of counts") from None
    return days


def parsed(row: Any) -> tuple[date, UsageKey, dict[str, int]]:
    """One row of the file; ValueError, TypeError or AttributeError if it is malformed."""
    day, language, trigger, counts = row
    if not all(fits(name, n) for name, n in counts.items()):
        raise ValueError("not counts")
    return date.fromisoformat(day), (sanitized(language), sanitized(trigger)), counts


def fits(name: str, count: object) -> bool:
    """Whether a name is counted at all and its count is plausible."""
    return name in COUNTED and type(count) is int and 0 <= count < LARGEST
