"""A run on disk: its state, in one file that is written atomically, and its metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from talaria.coder.errors import DataError
from talaria.coder.files import replacing, write

FORMAT = 2


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write into a DataError that names `path` and the remedy."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch raises an error of its own, with the file's error as context.
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            raise
        raise DataError(
            f"{path}: cannot be written ({cause.strerror}); check free space and permissions, "
            "then go on with --resume"
        ) from error


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Replace the file by this state; it survives a kill or a power cut at any moment.

    DataError if it cannot be written; the old state is then kept.
    """
    with writing(path):
        for leftover in path.parent.glob(f".{path.name}-*.partial"):
            leftover.unlink()  # of a run that was killed while it wrote
        # torch hides an OSError of a path, but not that of an open file.
        with replacing(path) as partial, partial.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)


def read_state(path: Path) -> dict[str, Any]:
    """Read a state; DataError if it is missing, damaged or has another format."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DataError(f"{path}: nothing to resume; start without --resume") from error
    except Exception as error:  # torch raises many types for damaged files
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: damaged ({reason}); start over in another --out") from error
    assert isinstance(state, dict)
    if state.get("format") != FORMAT:
        raise DataError(
            f"{path}: state format {state.get('format', 1)}, but this version reads {FORMAT}; "
            "resume with the version that started the run, or start over in another --out"
        )
    return state


def truncate_metrics(metrics: Path, step: int) -> None:
    """Drop the lines after `step`, which the resumed run repeats, and a torn last line."""
    if not metrics.exists():
        return
    kept = []
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if entry["step"] <= step:
            kept.append(line + "\n")
    with writing(metrics):
        write(metrics, "".join(kept))


def check_identity(path: Path, former: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Raise DataError, naming the differences, if a state was made with other settings.

    The recipe of another version may have other settings, so no options would give it.
    """
    for key, value in present.items():
        if former.get(key) != value:
            alike = key != "recipe" or former.get(key, {}).keys() == value.keys()
            raise DataError(
                f"{path}: made with {difference(former.get(key), value, key)}; resume with the "
                f"{'original settings' if alike else 'version that started the run'}, "
                "or start over in another --out"
            )


def difference(former: Any, present: Any, name: str) -> str:
    """Describe how two settings differ; of mappings, only the differing entries."""
    if isinstance(former, dict) and isinstance(present, dict):
        keys = [k for k in former.keys() | present.keys() if former.get(k) != present.get(k)]
        return ", ".join(
            f"{name} {key} {former.get(key)!r}, not {present.get(key)!r}" for key in sorted(keys)
        )
    return f"{name} {former!r}, not {present!r}"
