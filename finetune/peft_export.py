"""An adapter as peft reads it: `python -m talaria.finetune.peft_export MODEL FOLDER`.

peft gets the low-rank updates, under the names that transformers gives to the base's modules. The
embeddings of masks, the chain and the bias of the end are no part of its format, so a model that
peft has loaded writes causally, and ends less often.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from peft import LoraConfig
from safetensors.numpy import load as load_weights
from safetensors.numpy import save_file

from talaria.coder import files
from talaria.coder.arguments import Parser
from talaria.coder.backbone import Array
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.coder.families.qwen2 import LORA_A, LORA_B, MATRICES
from talaria.coder.families.qwen2_files import NAMES
from talaria.finetune.adapter import read

WEIGHTS = "adapter_model.safetensors"  # as peft calls it
PREFIX = "base_model.model.model.layers"


def export(model: str | Path, out: Path) -> None:
    """Write the updates of an adapter to a folder that peft loads.

    Raises CheckpointError where the model cannot be read, and UsageError where it is no adapter.
    """
    _, weights = read(model)
    modules = {short: long for long, short in NAMES.items()}
    tensors: dict[str, Array] = {}
    for name, value in load_weights(weights).items():
        if name.endswith((LORA_A, LORA_B)):
            _, layer, module, rest = name.split(".", 3)
            tensors[f"{PREFIX}.{layer}.{modules[module]}.{rest}"] = value
    rank = next(len(value) for name, value in tensors.items() if name.endswith(LORA_A))
    described = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=[modules[name].rpartition(".")[2] for name in MATRICES],
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    with files.replacing_folder(out) as partial:
        save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, partial / WEIGHTS)
        described.save_pretrained(str(partial))


def main(argv: Sequence[str] | None = None) -> int:
    """Export an adapter; exit code 0."""
    parser = Parser(description=__doc__.split(":")[0])
    parser.add_argument("model", help="an adapter's folder, or a name from `talaria models`")
    parser.add_argument("out", type=Path, metavar="FOLDER")
    args = parser.parse_args(argv)
    if args.out.exists():
        raise UsageError(f"{args.out} is there already; name a new folder")
    export(args.model, args.out)
    print(f"{args.out}: for PeftModel.from_pretrained")
    return 0


if __name__ == "__main__":
    sys.exit(guarded("peft_export", lambda: main(sys.argv[1:])))
