"""Models as others publish them: a folder of safetensors, or a GGUF file, named by its path.

Nothing in such a folder is run, and pickled weights, which could run code, are not read.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from talaria.coder.errors import CheckpointError
from talaria.coder.files import digest
from talaria.coder.open_families import FAMILIES, family_of

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
TOKENIZER_PARTS = "vocab.json", "merges.txt"  # instead, in some folders of masked diffusion models
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LONGEST_HEADER = 100_000_000  # bytes of a file of safetensors, as the format has it
GGUF = ".gguf"
PICKLED = "*.bin", "*.pt", "*.pth", "*.ckpt"

# The family of each architecture that a folder's configuration may name. Of masked diffusion models
# there are several (`open_families`); those of Qwen2's architecture are told by their tokens.
MASKED = "masked"
ARCHITECTURES = {
    **{name: MASKED for family in FAMILIES for name in family.architectures},
    "Qwen2ForCausalLM": "qwen2",
    "LlamaForCausalLM": "qwen2",
}
GGUF_FAMILY = "qwen2"  # which reads what its file says of itself


def described(path: Path) -> dict[str, Any] | None:
    """What a checkpoint's configuration would say of a published model; None for other paths.

    Its base is the model itself, named by the hash of all that is read of it; where nothing is
    prepared from the weights, which may be many, their sizes and times stand for them. Raises
    CheckpointError for a folder of another architecture, or in which something is missing.
    """
    if path.is_file():
        return _described(path, GGUF_FAMILY, _digest(path)) if path.suffix.lower() == GGUF else None
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None  # said by who reads a checkpoint
    if not isinstance(config, dict) or "format_version" in config or "architectures" not in config:
        return None
    architecture = architecture_of(config, path / CONFIG)
    masked = family_of(architecture, added_tokens(path)) is not None
    family = MASKED if masked else ARCHITECTURES[architecture]
    parts = (CONFIG, *token_files(path, masked))
    of_weights = _stamp if masked else _digest
    each = [_digest(path / part) for part in parts]
    each += [of_weights(path / part) for part in weight_files(path)]
    hashes = hashlib.sha256("".join(each).encode())
    return _described(path, family, hashes.hexdigest())


def parameters(folder: Path) -> int | None:
    """How many parameters a published folder's weights have; None for folders of other kinds.

    Only the heads of its files are read. CheckpointError where something is missing.
    """
    config = read_json(folder / CONFIG)
    if "format_version" in config or "architectures" not in config:
        return None
    architecture_of(config, folder / CONFIG)
    headers = [header(folder / name) for name in weight_files(folder)]
    return sum(math.prod(each.shape) for tensors in headers for each in tensors.values())


@dataclass(frozen=True)
class Stored:
    """A tensor in a file of safetensors: its type, shape, and where its bytes are."""

    path: Path
    kind: str
    shape: tuple[int, ...]
    begin: int
    bytes: int


def header(path: Path) -> dict[str, Stored]:
    """The tensors of a file of safetensors, by the names that they have there.

    CheckpointError for a file that is damaged.
    """
    try:
        return dict(_tensors(path))
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise CheckpointError(
            f"{path}: not a readable safetensors file ({error}); fetch it again"
        ) from error


def _tensors(path: Path) -> Iterator[tuple[str, Stored]]:
    size = path.stat().st_size
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        if not 8 < start <= min(size, 8 + LONGEST_HEADER):
            raise ValueError("its header is not all there")
        stated = json.loads(file.read(start - 8))
    for name, each in stated.items():
        if name == "__metadata__":
            continue
        shape = tuple(map(operator.index, each["shape"]))
        begin, end = map(operator.index, each["data_offsets"])
        if min(begin, end - begin, *shape) < 0 or start + end > size:
            raise ValueError(f"the bytes of {name} are not all there")
        yield name, Stored(path, str(each["dtype"]), shape, start + begin, end - begin)


def _digest(path: Path) -> str:
    """SHA-256 of a file; CheckpointError if it cannot be read."""
    try:
        return digest(path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from error


def _stamp(path: Path) -> str:
    """A file's name, size and time of change; CheckpointError if they cannot be read."""
    try:
        found = path.stat()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from error
    return f"{path.name} {found.st_size} {found.st_mtime_ns}\n"


def _described(path: Path, family: str, sha256: str) -> dict[str, Any]:
    # Folders of one name may lie in several places.
    place = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    return {
        "format_version": 1,
        "family": family,
        "parameters": 0,
        "licence": "",
        "base": {"name": path.name, "sha256": sha256},
        "published": f"{path.name}-{place}",
        "sha256": {},
    }


def architecture_of(config: dict[str, Any], where: Path) -> str:
    """The architecture that a folder's configuration names; CheckpointError for unknown ones."""
    named = config["architectures"]
    if isinstance(named, list) and len(named) == 1 and str(named[0]) in ARCHITECTURES:
        return str(named[0])
    code = "; its code (auto_map) is never run" if "auto_map" in config else ""
    raise CheckpointError(
        f"{where}: architectures is {named!r}; supported are {', '.join(ARCHITECTURES)}{code}"
    )


def added_tokens(folder: Path) -> dict[str, int]:
    """The ids of a folder's tokens beside those of its BPE, by name; CheckpointError if damaged."""
    try:
        stated = read_json(folder / TOKENIZER, {}).get("added_tokens")
        if stated:
            return {str(each["content"]): int(each["id"]) for each in stated}
        plain = read_json(folder / "added_tokens.json", {})
        decoder = read_json(folder / "tokenizer_config.json", {}).get("added_tokens_decoder", {})
        named = {str(each["content"]): int(row) for row, each in decoder.items()}
        return {**{str(name): int(row) for name, row in plain.items()}, **named}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{folder}: its special tokens are not readable ({type(error).__name__}: {error}); "
            "fetch the model's folder again"
        ) from error


def read_json(path: Path, otherwise: dict[str, Any] | None = None) -> dict[str, Any]:
    """An object in a file; `otherwise` where there is no file. CheckpointError if damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        if otherwise is not None:
            return otherwise
        raise CheckpointError(f"{path}: missing; fetch the model's folder again") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not readable ({type(error).__name__}: {error}); fetch the model's folder "
            "again"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: holds no object; fetch the model's folder again")
    return found


def token_files(folder: Path, parts: bool) -> tuple[str, ...]:
    """The names of the files of a folder's tokenizer, which may be in `parts`.

    CheckpointError where they are missing.
    """
    if parts and all((folder / name).is_file() for name in TOKENIZER_PARTS):
        return (TOKENIZER,) if (folder / TOKENIZER).is_file() else TOKENIZER_PARTS
    if not (folder / TOKENIZER).is_file():
        raise CheckpointError(f"{folder / TOKENIZER}: missing; fetch the model's folder again")
    return (TOKENIZER,)


def weight_files(folder: Path) -> list[str]:
    """The names of a folder's safetensors files, all of which are there.

    Raises CheckpointError where one is missing, or all weights are pickled.
    """
    names = [WEIGHTS]
    if not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        names = _indexed(folder / INDEX)
    for name in names:
        if (folder / name).is_file():
            continue
        pickled = sorted(file.name for kind in PICKLED for file in folder.glob(kind))
        if name == WEIGHTS and pickled:
            raise CheckpointError(
                f"{folder / pickled[0]}: pickled weights can run code when they are read, so they "
                f"are not; give a folder with {WEIGHTS}"
            )
        raise CheckpointError(f"{folder / name}: missing; fetch the model's folder again")
    return names


def _indexed(index: Path) -> list[str]:
    """The files that an index of shards names."""
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        names = sorted({Path(name).name for name in named})
        beside = {*names} == {*named}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{index}: not readable as an index of shards ({type(error).__name__}: {error}); "
            "fetch the model's folder again"
        ) from error
    if not beside:
        raise CheckpointError(f"{index}: names shards in another folder; fetch the folder again")
    return names
