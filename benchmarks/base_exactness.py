"""Whether a base computes what transformers computes from the same file.

`python -m benchmarks.base_exactness BASE.gguf` reads a base by both, in float32, and continues
prompts made from this project's files, suffix first, greedily. It prints the largest difference of
logits behind the prompts and how many texts are equal. What is shipped is rounded to 8 bits, which
`docs/decisions/0011-base-engine.md` measures.

Where a tied model's file holds its embedding twice, transformers takes the coarser copy. It gets
the finer one here, as Talaria does, so that the computation is compared.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.examples import files
from talaria.coder.arguments import Parser
from talaria.coder.backbone import Array, CpuBackbone
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.coder.families import qwen2
from talaria.coder.families.qwen2_files import Base, open_base
from talaria.coder.families.qwen2_onnx import OnnxQwen2, fused
from talaria.coder.families.qwen2_tokenizer import layout_of, marks_of

Continued = tuple[Array, list[int]]  # logits behind a prompt, and the tokens that follow it


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; exit code 0, also where something differs."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("base", type=Path, help="a GGUF file")
    parser.add_argument("--prompts", type=int, default=20, metavar="N")
    parser.add_argument("--context", type=int, default=256, metavar="N", help="tokens of each")
    parser.add_argument("--tokens", type=int, default=24, metavar="N", help="to write")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="picks the places")
    args = parser.parse_args(argv)
    for name in ("prompts", "context", "tokens"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} is {getattr(args, name)}; it must be at least 1")
    base, length = open_base(args.base), args.tokens
    tokenizer = base.vocabulary.tokenizer(np.arange(base.shape.vocab_size))
    layout = layout_of(tokenizer)
    places = drawn(args.prompts, args.seed)
    prompts = [layout.fit(prefix, suffix, args.context) for prefix, suffix in places]
    model = theirs(base)
    expected = [by_transformers(model, prompt, length) for prompt in tqdm(prompts, "transformers")]
    del model
    weights = dict(fused(base.shape, qwen2.BaseWeights(base)))
    ours = OnnxQwen2(base.shape, weights, marks_of(tokenizer))
    found = [by_backbone(ours, prompt, length) for prompt in tqdm(prompts, "ours")]
    pairs = list(zip(expected, found, strict=True))
    result = {
        "prompts": len(prompts),
        "largest_logit": max(float(np.abs(one).max()) for one, _ in expected),
        "largest_difference": max(float(np.abs(one[0] - two[0]).max()) for one, two in pairs),
        "equal_texts": sum(one[1] == two[1] for one, two in pairs),
    }
    print(json.dumps(result, indent=1))
    return 0


def drawn(count: int, seed: int) -> list[tuple[str, str]]:
    """What stands before and after places in this project's files."""
    rng, texts = np.random.default_rng(seed), list(files().values())
    chosen = [texts[int(rng.integers(len(texts)))] for _ in range(count)]
    cuts = [int(rng.integers(len(text) // 4, len(text))) for text in chosen]
    return [(text[:cut], text[cut:]) for text, cut in zip(chosen, cuts, strict=True)]


def theirs(base: Base) -> Any:
    """The model of transformers, with the finer copy of a tied embedding."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        base.path.parent, gguf_file=base.path.name, dtype=torch.float32
    ).eval()
    if base.shape.tied:
        with torch.no_grad():
            finer = torch.from_numpy(base.read(qwen2.EMBEDDING, None))
            model.get_input_embeddings().weight.copy_(finer)
    return model


@torch.inference_mode()
def by_transformers(model: Any, prompt: list[int], length: int) -> Continued:
    """A prompt continued by transformers, greedily."""
    seen = model(torch.tensor([prompt]), use_cache=True)
    first = seen.logits[0, -1].numpy()
    ids = [int(first.argmax())]
    while len(ids) < length:
        seen = model(torch.tensor([ids[-1:]]), past_key_values=seen.past_key_values, use_cache=True)
        ids.append(int(seen.logits[0, -1].argmax()))
    return first, ids


def by_backbone(backbone: CpuBackbone, prompt: list[int], length: int) -> Continued:
    """A prompt continued by a backbone, greedily, with no token forbidden."""
    states, cache = backbone.encode([prompt])
    first = backbone.logits(states[0, -1:])[0].copy()
    ids = [int(first.argmax())]
    while len(ids) < length:
        states, cache = backbone.encode([ids[-1:]], cache)
        ids.append(int(backbone.logits(states[0]).argmax()))
    return first, ids


if __name__ == "__main__":
    sys.exit(guarded("benchmarks.base_exactness", lambda: main(sys.argv[1:])))
