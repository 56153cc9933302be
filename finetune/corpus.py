"""The corpus format on disk: a folder of compressed parts and a manifest with their hashes.

All training text passes through this module: `talaria corpus` (`gather.py`) and
`talaria finetune` (`repository.py`) write it, training reads it.
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from talaria.coder.errors import DataError, UsageError
from talaria.coder.files import replacing_folder, restore_folder

FORMAT = 2  # bump it when the file layout or a filter rule changes
SPLITS = ("train", "valid")
TEXT_OF = {"train": "training text", "valid": "held-out text"}
PART_BYTES = 54_000_000
"""Size limit of a part before compression; xz adds less than 1 %, so no file reaches 55 MB."""
PRESET = 2
"""The xz preset. 55 MB of code: gzip 12.6 MB in 1.0 s, preset 2 11.2 MB in 4.4 s, preset 6 9.2 MB
in 28 s."""
SHUFFLE_SEED = "talaria"
COMMANDS = {
    "packages": "talaria corpus",
    "repository": "talaria finetune",
}
"""The command that makes each kind of corpus, by the manifest key that only this kind has."""


@dataclass(frozen=True)
class CorpusDocument:
    """One source file; `path` is relative to the package root and uses `/`."""

    package: str
    path: str
    text: str


def read_corpus(folder: Path, split: str) -> list[CorpusDocument]:
    """Read all documents of a split ("train" or "valid") in the shuffled order of the corpus.

    DataError if the corpus is missing or has another format, or a part does not match its hash.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; a corpus has {' and '.join(SPLITS)}")
    documents: list[CorpusDocument] = []
    manifest = read_manifest(folder)
    for part in manifest["parts"]:
        if part["split"] == split:
            raw = _read_part(folder, manifest, part)
            lines = lzma.decompress(raw).splitlines()
            documents.extend(CorpusDocument(**json.loads(line)) for line in lines)
    return documents


def read_nonempty(folder: Path, split: str) -> list[CorpusDocument]:
    """Read a split as `read_corpus` does; DataError if it holds no text."""
    documents = read_corpus(folder, split)
    if not any(document.text for document in documents):
        raise DataError(
            f"{folder}: this corpus has no {TEXT_OF[split]}; build one from more packages"
        )
    return documents


def corpus_hash(folder: Path) -> str:
    """SHA-256 of the manifest, which identifies the corpus because it holds the parts' hashes."""
    read_manifest(folder)
    return hashlib.sha256((folder / "manifest.json").read_bytes()).hexdigest()


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest; DataError if it is missing, unreadable or of another format."""
    path = folder / "manifest.json"
    command = COMMANDS["packages"]
    try:
        manifest: dict[str, Any] = json.loads(path.read_bytes())
        found = manifest["format"]
    except FileNotFoundError as error:
        raise DataError(
            f"{folder}: no corpus here; name another folder, or build one with {command}"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: not a readable manifest ({error}); if the folder is a corpus, remove it "
            f"and rebuild it with {command}"
        ) from error
    if found != FORMAT:
        raise DataError(
            f"{path}: corpus format {found}, but this version reads {FORMAT}; "
            + _rebuild_hint(folder, manifest)
        )
    return manifest


def _command(manifest: Mapping[str, Any]) -> str | None:
    """The command that makes this kind of corpus; None if no command does."""
    return next((command for key, command in COMMANDS.items() if key in manifest), None)


def _rebuild_hint(folder: Path, manifest: Mapping[str, Any]) -> str:
    """The remedy in an error message: how to rebuild this corpus."""
    command = _command(manifest) or COMMANDS["packages"]
    return f"rebuild it with its original options: {command} --out {folder}"


def check_corpus(folder: Path) -> dict[str, Any]:
    """Check every part against the manifest and return it; DataError if a part is damaged."""
    manifest = read_manifest(folder)
    for part in manifest["parts"]:
        _read_part(folder, manifest, part)
    return manifest


def _read_part(folder: Path, manifest: Mapping[str, Any], part: Mapping[str, Any]) -> bytes:
    path = folder / str(part["file"])
    remedy = _rebuild_hint(folder, manifest)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {remedy}") from error
    found = hashlib.sha256(raw).hexdigest()
    if found != part["sha256"]:
        raise DataError(
            f"{path}: damaged; its SHA-256 is {found[:12]}…, the manifest says "
            f"{part['sha256'][:12]}…; {remedy}"
        )
    return raw


# Writing


def write_corpus(
    out: Path, splits: Mapping[str, Iterable[CorpusDocument]], about: Mapping[str, Any]
) -> None:
    """Write shuffled documents and a manifest that includes `about` as the corpus `out`.

    The same documents, in any order, and the same `about` give the same bytes. An existing
    corpus of the same kind is replaced once the new one is complete. `about` must be
    serialisable as JSON and hold neither `format` nor `parts`. UsageError if `out` holds
    anything else (see `check_place`) or a split is unknown; DataError if it cannot be written.
    """
    if unknown := set(splits) - set(SPLITS):
        raise UsageError(f"unknown split {min(unknown)!r}; a corpus has {' and '.join(SPLITS)}")
    restore_folder(out)
    check_place(out, _command(about))
    try:
        with replacing_folder(out) as partial:
            parts = [
                part
                for split in SPLITS
                for part in _write_parts(partial, split, splits.get(split, ()))
            ]
            manifest = {"format": FORMAT, **about, "parts": parts}
            text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
            (partial / "manifest.json").write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({error}); free some space or choose another --out"
        ) from error


def check_place(out: Path, command: str | None) -> None:
    """Check, before any work is done, that `command` may write its corpus to `out`.

    UsageError unless `out` does not exist, is an empty folder, or holds nothing but a corpus
    that the same command made, which will be replaced. DataError if it cannot be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        manifest = _own_manifest(out)
        if manifest is None:
            raise UsageError(
                f"{out} holds something other than a corpus, or more than a corpus; "
                "name another --out, or remove it yourself"
            )
        if (maker := _command(manifest)) != command:
            raise UsageError(
                f"{out} holds a corpus by {maker or 'another program'}, not by "
                f"{command or 'this one'}; name another --out, or remove it yourself"
            )
    place = out.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent):
            pass
    except OSError as error:
        raise DataError(f"{out}: cannot be written ({error}); choose another --out") from error


def _own_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a corpus of any format; None if the folder holds a file it does not list.

    Parts may be missing: a damaged corpus may be replaced too.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())
        own = {"manifest.json", *(part["file"] for part in manifest["parts"])}
        known = isinstance(manifest["format"], int)
        return manifest if known and own >= {path.name for path in folder.iterdir()} else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def shuffle_key(package: str, path: str) -> bytes:
    """Sort key of the shuffled order: a hash of the document's package and path alone."""
    return hashlib.sha256(f"{SHUFFLE_SEED}\0{package}\0{path}".encode()).digest()


def _write_parts(
    folder: Path, split: str, documents: Iterable[CorpusDocument]
) -> Iterator[dict[str, str | int]]:
    """Write the documents of a split and yield the manifest entry of each part."""
    shuffled = sorted(documents, key=lambda d: (shuffle_key(d.package, d.path), d.text))
    for number, lines in enumerate(_grouped(shuffled)):
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


def _grouped(documents: Iterable[CorpusDocument]) -> Iterator[list[bytes]]:
    """Serialise documents to JSON lines and group them into parts."""
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
