"""`talaria models`: what can be loaded; `get` fetches a base, `remove` deletes it."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talaria.coder.arguments import Parser
from talaria.coder.errors import BaseMissingError, Interrupted, TalariaError

if TYPE_CHECKING:
    from talaria.coder.bases import KnownBase

QUIET_SECONDS = 15.0  # between lines about progress, where there is no terminal for a bar


def command(argv: list[str]) -> int:
    """`talaria models`: list what can be loaded, fetch a base or delete one; exit code."""
    parser = Parser(prog="talaria models", description="What can be loaded.")
    actions = parser.add_subparsers(dest="action", metavar="get | remove")
    getting = actions.add_parser(
        "get",
        help="fetch a base and verify it",
        description="Fetch a base, verify its SHA-256, and prepare the model that runs it as it "
        "is; print where the base lies.",
    )
    getting.add_argument("name", metavar="NAME", help="a base that `talaria models` lists")
    getting.add_argument(
        "--from", dest="source", metavar="FILE", help="a copy of its file, tried first"
    )
    removing = actions.add_parser(
        "remove",
        help="delete a base",
        description="Delete a base, or what has arrived of it; it can be fetched again.",
    )
    removing.add_argument("name", metavar="NAME", help="a base that `talaria models` lists")
    args = parser.parse_args(argv)
    if args.action == "get":
        if args.source is None and (where := prepared_alone(args.name)):
            print(f"{args.name}: ready, prepared; its file is not needed", file=sys.stderr)
            print(where)
            return 0
        if args.source is None:
            announce(args.name)
        print(fetch(args.name, args.source), flush=True)
        prepare(args.name)
    elif args.action == "remove":
        remove(args.name)
    else:
        print_models()
    return 0


def print_models() -> None:
    """Print a line for each model found by name and each base: state, size, licence, where."""
    rows = list(_rows())
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(map(str.ljust, row, widths)).rstrip())


def _rows() -> Iterator[tuple[str, ...]]:
    """The cells of each line: models first, then the bases that none of them adapts."""
    from talaria.coder import bases, checkpoint

    listings = checkpoint.available()
    if not listings:
        folders = ", ".join(map(str, checkpoint.model_folders()))
        raise TalariaError(f"no model found in {folders}; train one with `talaria train`")
    shipped = checkpoint.model_folders()[-1]
    by_hash = {base.sha256: base for base in bases.known().values()}
    adapted = set()
    for listing in listings:
        state = "embedded" if listing.path.parent == shipped else "ready"
        size, where = listing.bytes, str(listing.path)
        config = checkpoint.listed(listing.path)
        named = config.get("base")
        if base := by_hash.get(str(named.get("sha256")) if isinstance(named, dict) else ""):
            adapted.add(base)
            state, base_bytes, base_where = _of_base(base)
            size += base_bytes
            if state not in bases.HERE or not config["sha256"]:  # not here, or run as it is
                where = base_where
        default = "  (default)" if listing.name == checkpoint.default() else ""
        yield _row(listing.name, state, listing.parameters, size, listing.licence, where + default)
    for base in by_hash.values():
        if base not in adapted:
            state, size, where = _of_base(base)
            yield _row(base.name, state, base.parameters, size, base.licence, where)


def _row(
    name: str, state: str, parameters: int, size: int, licence: str, where: str
) -> tuple[str, ...]:
    counts = f"{parameters / 1e6:.1f}M parameters", f"{size / 1e6:.1f} MB"
    return name, state, *counts, licence, where


def _of_base(base: KnownBase) -> tuple[str, int, str]:
    """A base's state, its bytes on disk and where it lies; those to fetch, and how, if it is not.

    Without its file, it lies where it was prepared.
    """
    from talaria.coder import bases

    state = bases.state(base)
    if state not in bases.HERE:
        return state, base.bytes, f"talaria models get {base.name}"
    places = [place for place in (bases.place(base), *bases.prepared(base)) if place.exists()]
    return state, bases.disk_bytes(base), str(places[0])


def prepared_alone(name: str) -> Path | None:
    """Where a base lies that was prepared and whose file is gone; None if its file is needed.

    Another release, or another processor, may need another form. Raises what loading does for other
    reasons.
    """
    from talaria.coder import bases, checkpoint

    base = bases.named(name)
    forms = [form for form in bases.prepared(base) if checkpoint.form_of(name, form.name)]
    if not forms or bases.place(base).exists():
        return None
    try:
        checkpoint.load(name)
    except BaseMissingError:
        print(
            f"what was prepared from {name} is damaged, or of another release or processor; "
            f"fetching {base.bytes / 1e6:,.0f} MB again",
            file=sys.stderr,
            flush=True,
        )
        return None
    return forms[0]


def announce(name: str) -> None:
    """Say first how much is to be fetched, if anything is."""
    from talaria.coder import bases

    base = bases.named(name)
    if bases.state(base) not in bases.HERE:
        print(f"fetching {name}, {base.bytes / 1e6:,.0f} MB, once", file=sys.stderr, flush=True)


def fetch(name: str, source: str | None = None) -> Path:
    """Fetch a base, tell on standard error how it goes, and return where it lies.

    Raises what `bases.get` does, and Interrupted on Ctrl-C.
    """
    from talaria.coder import bases

    terminal = FetchTerminal()
    try:
        return bases.get(name, Path(source) if source is not None else None, terminal)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; what has arrived is kept, and the same command goes on from there"
        ) from None
    finally:
        terminal.close()


def prepare(name: str) -> None:
    """Load the model of a base's name, if there is one: the first time, that prepares it.

    Raises what `checkpoint.load` does, and Interrupted on Ctrl-C.
    """
    from talaria.coder import checkpoint
    from talaria.coder.loading import load

    if name not in {listing.name for listing in checkpoint.available()}:
        return
    try:
        load(name)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; {name} is here, and it is prepared when it is first used"
        ) from None
    print(f"{name}: prepared, ready to fill", file=sys.stderr)


def remove(name: str) -> None:
    """Delete a base, and tell on standard error how much space that gave back."""
    from talaria.coder import bases

    terminal = FetchTerminal()
    freed = bases.remove(name, terminal)
    terminal.line(f"{name}: deleted, {freed / 1e6:,.1f} MB" if freed else f"{name}: is not here")


class FetchTerminal:
    """Reports to standard error: a bar on a terminal, else a line now and then."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.label = ""
        self.spoke = time.monotonic()

    def line(self, text: str) -> None:
        """Print a line of its own."""
        self.close()
        print(text, file=sys.stderr, flush=True)

    def moved(self, label: str, done: int, total: int) -> None:
        """Move the bar; it shows share, rate and the time left."""
        if not sys.stderr.isatty():
            if time.monotonic() > self.spoke + QUIET_SECONDS:
                self.line(f"{label}: {done / 1e6:,.0f} of {total / 1e6:,.0f} MB")
            return
        if self.bar is None or label != self.label:
            from tqdm import tqdm

            self.close()
            self.label, screen = label, shutil.get_terminal_size()
            self.bar = tqdm(
                desc=label,
                initial=done,
                total=total,
                unit="B",
                unit_scale=True,
                # By itself, tqdm draws nothing on a terminal without a size, as in some containers.
                ncols=screen.columns - 1,
                nrows=screen.lines,
                leave=False,
            )
        # What pip has downloaded is counted before the part is read; it is not counted twice.
        self.bar.update(max(0, done - self.bar.n))

    def close(self) -> None:
        """Remove the bar."""
        self.spoke = time.monotonic()
        if self.bar is not None:
            self.bar.close()
            self.bar = None
