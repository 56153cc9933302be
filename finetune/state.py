"""The state of a run on disk: one file, replaced whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from talaria.coder.errors import DataError

FORMAT = 2


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes a full or lost disk a DataError that names `path` and the remedy."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch hides the error of its file behind one of its own.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise DataError(
            f"{path}: cannot be written ({cause.strerror}); check free space and permissions, "
            "then go on with --resume"
        ) from error


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the file by this state: a reader finds the old one or the new one.

    DataError if it cannot be written; the old one is then still there.
    """
    partial = path.with_suffix(".partial")
    with writing(path):
        try:
            with partial.open("wb") as file:
                torch.save({"format": FORMAT, **state}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote; DataError if it is missing, damaged or of another version."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{path}: nothing to resume; start without --resume") from error
    except Exception as error:  # torch raises many kinds for a damaged file
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: damaged ({reason}); start anew in another --out") from error
    assert isinstance(state, dict)
    if state.get("format") != FORMAT:
        raise DataError(
            f"{path}: of format {state.get('format', 1)}, this version reads {FORMAT}; "
            "go on with the version that began the run, or start anew in another --out"
        )
    return state


def check_identity(path: Path, former: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """DataError if the state was made with other settings; it names those that differ."""
    for key, value in present.items():
        if former.get(key) != value:
            raise DataError(
                f"{path}: made with {difference(former.get(key), value, key)}; "
                "resume with the former settings or start anew in another --out"
            )


def difference(former: Any, present: Any, name: str) -> str:
    """Two settings side by side; of two mappings only what differs."""
    if isinstance(former, dict) and isinstance(present, dict):
        keys = [k for k in former.keys() | present.keys() if former.get(k) != present.get(k)]
        return ", ".join(
            f"{name} {key} {former.get(key)!r}, not {present.get(key)!r}" for key in sorted(keys)
        )
    return f"{name} {former!r}, not {present!r}"
