"""A corpus on disk: a folder of compressed parts and a manifest that vouches for them.

Everything that makes or reads training text goes through here: `talaria corpus`
(`finetune/gather.py`) and the generator of exercises write, training reads.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from talaria.coder.errors import DataError, UsageError

FORMAT = 2  # raise it when the files' layout or a rule of the filters changes
SPLITS = ("train", "valid")
TEXT_OF = {"train": "text to train on", "valid": "held-out text"}
PART_BYTES = 54_000_000
"""A part before compression: no file reaches 55 MB, for xz adds less than 1 % to any text."""
PRESET = 2
"""Of xz. 55 MB of code give 12.6 MB by gzip in 1.0 s, 11.2 by preset 2 in 4.4 s, 9.2 by 6 in 28."""
SHUFFLE_SEED = "talaria"
COMMANDS = {"packages": "talaria corpus", "functions": "talaria exercises"}
"""What makes a corpus, by the key that only the manifests of its kind have."""


@dataclass(frozen=True)
class Document:
    """One source file; `path` is relative to the package's root, with `/` between parts."""

    package: str
    path: str
    text: str


def read_corpus(folder: Path, split: str) -> list[Document]:
    """All documents of a split ("train" or "valid"), in the corpus' own shuffled order.

    DataError if the corpus is missing, of another format, or a part is not what
    the manifest says.
    """
    if split not in SPLITS:
        raise UsageError(f"there is no split {split!r}; a corpus has {' and '.join(SPLITS)}")
    documents: list[Document] = []
    manifest = read_manifest(folder)
    for part in manifest["parts"]:
        if part["split"] == split:
            raw = _read_part(folder, manifest, part)
            lines = lzma.decompress(raw).splitlines()
            documents.extend(Document(**json.loads(line)) for line in lines)
    return documents


def read_some(folder: Path, split: str) -> list[Document]:
    """The documents of a split, as `read_corpus` gives them; DataError if they have no text."""
    documents = read_corpus(folder, split)
    if not any(document.text for document in documents):
        raise DataError(
            f"{folder}: a corpus without {TEXT_OF[split]}; make one of more packages or exercises"
        )
    return documents


def corpus_hash(folder: Path) -> str:
    """SHA-256 of the manifest's bytes: it names the corpus, parts included."""
    read_manifest(folder)
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the corpus says of itself; DataError if there is none, or one of another format."""
    path = folder / "manifest.json"
    commands = " or ".join(COMMANDS.values())
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        found = manifest["format"]
    except FileNotFoundError as error:
        raise DataError(
            f"{folder}: no corpus here; name another folder, or make one by {commands}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: no readable manifest ({error}); remove the folder, if it is a corpus, "
            f"and make it again by {commands}"
        ) from error
    if found != FORMAT:
        raise DataError(
            f"{path}: corpus format {found}, this version reads {FORMAT}; "
            + _again(folder, manifest)
        )
    return manifest


def _command(manifest: Mapping[str, Any]) -> str | None:
    """The command that makes corpora of this kind; None for what no command made."""
    return next((command for key, command in COMMANDS.items() if key in manifest), None)


def _again(folder: Path, manifest: Mapping[str, Any]) -> str:
    """How to make this corpus anew, for an error."""
    command = _command(manifest) or " or ".join(COMMANDS.values())
    return f"make it again, with its former options: {command} --out {folder}"


def check_corpus(folder: Path) -> dict[str, Any]:
    """The manifest, after every part was compared with it; DataError if one is damaged."""
    manifest = read_manifest(folder)
    for part in manifest["parts"]:
        _read_part(folder, manifest, part)
    return manifest


def _read_part(folder: Path, manifest: Mapping[str, Any], part: Mapping[str, Any]) -> bytes:
    path = folder / str(part["file"])
    remedy = _again(folder, manifest)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != part["sha256"]:
        raise DataError(
            f"{path}: damaged, its SHA-256 is {found[:12]}…, the manifest says "
            f"{part['sha256'][:12]}…; {remedy}"
        )
    return raw


# Writing


def write_corpus(
    out: Path, splits: Mapping[str, Iterable[Document]], about: Mapping[str, Any]
) -> None:
    """Write documents, shuffled, and a manifest that holds `about`, as the corpus `out`.

    The same documents, in any order, and the same `about` give the same bytes. A
    former corpus of the same kind stays until the new one is whole and is then
    replaced. `about` is what JSON can hold, without `format` and `parts`. UsageError
    if `out` holds something else (`check_place`) or a split has another name;
    DataError if it cannot be written.
    """
    if unknown := set(splits) - set(SPLITS):
        raise UsageError(f"there is no split {min(unknown)!r}; a corpus has {' and '.join(SPLITS)}")
    restore(out)
    check_place(out, _command(about))
    out = out.resolve()  # a link stays one
    fresh = _fresh(out)
    try:
        fresh.mkdir(parents=True)
        parts = [p for split in SPLITS for p in _write_parts(fresh, split, splits.get(split, ()))]
        manifest = {"format": FORMAT, **about, "parts": parts}
        text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
        (fresh / "manifest.json").write_text(text, encoding="utf-8", newline="\n")
        former = _former(out)
        if out.exists():
            os.rename(out, former)
        os.rename(fresh, out)
        shutil.rmtree(former, ignore_errors=True)
    except OSError as error:
        raise DataError(
            f"{fresh}: cannot be written ({error}); make room or choose another --out"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def restore(out: Path) -> None:
    """Bring back the corpus that a writer had put aside when it was killed."""
    former = _former(out)
    if former.exists() and not out.exists():
        os.rename(former, out.resolve())
    shutil.rmtree(former, ignore_errors=True)


def check_place(out: Path, command: str | None) -> None:
    """Make sure that a corpus by this command can be put at `out`, before work goes into it.

    UsageError unless nothing lies there, an empty folder, or a corpus that the same
    command made and that shares the folder with nothing: the new one replaces it.
    DataError if nothing can be written there.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        manifest = _own_manifest(out)
        if manifest is None:
            raise UsageError(
                f"{out} holds something that is no corpus, or more than a corpus; "
                "name another --out, or remove it yourself"
            )
        if (former := _command(manifest)) != command:
            raise UsageError(
                f"{out} holds a corpus by {former or 'another program'}, not by "
                f"{command or 'this one'}; name another --out, or remove it yourself"
            )
    fresh = _fresh(out)
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        fresh.rmdir()
    except OSError as error:
        raise DataError(f"{fresh}: cannot be written ({error}); choose another --out") from error


def _own_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a corpus of any format; None where a file belongs to something else.

    A part may be missing: a damaged corpus may be replaced as well.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
        own = {"manifest.json", *(part["file"] for part in manifest["parts"])}
        known = isinstance(manifest["format"], int)
        return manifest if known and own >= {path.name for path in folder.iterdir()} else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def shuffle_key(package: str, path: str) -> bytes:
    """Where a document stands in the shuffled order: a hash of its name, and of nothing else."""
    return hashlib.sha256(f"{SHUFFLE_SEED}\0{package}\0{path}".encode()).digest()


def _fresh(out: Path) -> Path:
    place = out.resolve()
    return place.with_name(f".{place.name}.partial")


def _former(out: Path) -> Path:
    place = out.resolve()
    return place.with_name(f".{place.name}.former")


def _write_parts(
    folder: Path, split: str, documents: Iterable[Document]
) -> Iterator[dict[str, str | int]]:
    """Write the documents of a split and yield what the manifest says of each part."""
    shuffled = sorted(documents, key=lambda d: (shuffle_key(d.package, d.path), d.text))
    for number, lines in enumerate(_cut(shuffled)):
        path = folder / f"{split}-{number:03d}.jsonl.xz"
        with lzma.open(path, "wb", preset=PRESET) as stream:
            stream.writelines(lines)
        raw = path.read_bytes()
        yield {
            "file": path.name,
            "split": split,
            "documents": len(lines),
            "bytes": len(raw),
            "sha256": hashlib.sha256(raw).hexdigest(),
        }


def _cut(documents: Iterable[Document]) -> Iterator[list[bytes]]:
    """The documents as lines of JSON, as many at a time as a part holds."""
    part: list[bytes] = []
    size = 0
    for document in documents:
        text = json.dumps(asdict(document), ensure_ascii=False, separators=(",", ":"))
        line = text.encode() + b"\n"
        if part and size + len(line) > PART_BYTES:
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield part
