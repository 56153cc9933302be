"""Masked diffusion models as others publish them, of the families in `coder/open_families.py`.

`masked_files` reads a folder, `masked_network_torch` its weights, and `masked_torch` computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from talaria.coder.backbone import Backbone
from talaria.coder.errors import CheckpointError
from talaria.coder.layout import Layout
from talaria.coder.open_families import family_of
from talaria.coder.published import added_tokens, read_json
from talaria.coder.tokenizer import Tokenizer

WORKING_CONTEXT = 1024  # tokens that a request uses by default
LEAST = 32  # tokens that a request needs for context and canvases
CAUSAL_LONGEST = 128
LONGEST = 64  # tokens of a middle by default: as many as DreamOn's canvas may have


def settings_of(config: Mapping[str, Any], where: Path) -> dict[str, Any]:
    """Defaults by the family of the folder that `where` is the configuration of.

    A family that reads whole texts fills one canvas, or one of each size.
    """
    published = read_json(where)
    family = family_of(str(published["architectures"][0]), added_tokens(where.parent))
    assert family is not None
    names = ("max_position_embeddings", "max_sequence_length")
    name = next((name for name in names if name in published), names[0])
    positions, block = published.get(name), published.get(family.block_field or "", family.block)
    known = WORKING_CONTEXT
    if isinstance(positions, int) and isinstance(block, int):
        # Marks stand around a text, and of its last block all is read.
        known = min(known, positions - block - 2)
        if known < LEAST:
            raise CheckpointError(
                f"{where}: {name} is {positions}; give a model of at least {block + 2 + LEAST}"
            )
    if family.attention == "causal":  # as Qwen2: it runs on where its middle should end
        most = min(CAUSAL_LONGEST, known // 4)
        return {
            "mode": "verify",
            "bounded": True,
            "working_context": known,
            "max_tokens": most,
            "block_length": min(8, most),
        }
    most = min(LONGEST, known // 4)
    length = block if type(block) is int and block > 0 else most  # who loads it refuses others
    return {
        "working_context": known,
        "max_tokens": most,
        "max_nfe": 256,
        "block_length": min(length, most),
    }


def load_adapted(
    folder: Path,
    config: Mapping[str, Any],
    adapter: bytes,
    find_base: Callable[[], Path],
    device: str,
    on_progress: Callable[[float], None],
) -> tuple[Backbone, Tokenizer, Layout]:
    """Load a folder as it is published; the tensors are read one by one, and nothing is prepared.

    Raises CheckpointError where something in it is missing or not supported, torch is missing, or
    the device cannot be used.
    """
    try:
        from talaria.coder.families.masked_torch import load
    except ImportError as error:
        if error.name != "torch":
            raise
        raise CheckpointError(
            f"{folder}: masked diffusion models need torch, which is not installed; "
            "install the package with its extra `gpu`, as the README has it"
        ) from error
    return load(folder, device)
