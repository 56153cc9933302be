"""Models as others publish them: a folder of safetensors, or a GGUF file, named by its path.

Nothing in such a folder is run, and pickled weights, which could run code, are not read.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from talaria.coder.errors import CheckpointError
from talaria.coder.files import digest

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
GGUF = ".gguf"
PICKLED = "*.bin", "*.pt", "*.pth", "*.ckpt"

# The family of each architecture that a folder's configuration may name.
ARCHITECTURES = {"Qwen2ForCausalLM": "qwen2", "LlamaForCausalLM": "qwen2"}
GGUF_FAMILY = "qwen2"  # which reads what its file says of itself


def described(path: Path) -> dict[str, Any] | None:
    """What a checkpoint's configuration would say of a published model; None for other paths.

    Its base is the model itself, named by the hash of all that is read of it. Raises
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
    parts = (CONFIG, TOKENIZER, *weight_files(path))
    hashes = hashlib.sha256("".join(_digest(path / part) for part in parts).encode())
    return _described(path, ARCHITECTURES[architecture], hashes.hexdigest())


def _digest(path: Path) -> str:
    """SHA-256 of a file; CheckpointError if it cannot be read."""
    try:
        return digest(path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror or error}); check its permissions"
        ) from error


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
    if isinstance(named, list) and len(named) == 1 and named[0] in ARCHITECTURES:
        return str(named[0])
    raise CheckpointError(
        f"{where}: architectures is {named!r}; supported are {', '.join(ARCHITECTURES)}"
    )


def weight_files(folder: Path) -> list[str]:
    """The names of a folder's safetensors files, all of which are there, and its tokenizer too.

    Raises CheckpointError where one is missing, or all weights are pickled.
    """
    names = [WEIGHTS]
    if not (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        names = _indexed(folder / INDEX)
    for name in (TOKENIZER, *names):
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
