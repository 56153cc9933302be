"""Our loop beside the open families' own, on the same random weights: steps, time, and the texts.

`python -m benchmarks.families --sources DIR` runs their code as `benchmarks/parity.py` does, in the
same environment, on LLaDA-8B's and Dream-7B's shape at about a tenth of the width. Without
`--sources`, it times our loop alone at the shape of 0.5B parameters, and prints what share of the
time is not the network's.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks import parity
from benchmarks.tiny_models import DREAM, LLADA, SDAR, Tiny, configuration, published, tokenizer
from talaria.coder.canvas import Canvas
from talaria.coder.families.masked_files import Shape, shapes
from talaria.coder.families.masked_torch import MaskedBackbone, load
from talaria.coder.sampler import Row
from talaria.coder.scheduled import follow

CONTEXT, SIZE = 128, 16  # tokens before the canvas, and of it
# LLaDA-8B and Dream-7B at a tenth of the width, and Qwen2.5-0.5B: layers, width, hidden units,
# heads, heads of keys, rows of the embedding.
TENTH = {"llada": (32, 512, 1536, 8, 8, 126464), "dream": (28, 448, 2368, 7, 1, 152064)}
HALF_BILLION = (24, 896, 4864, 14, 2, 151936)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sources", type=Path, help="a folder of clones")
    parser.add_argument("--steps", type=int, default=8)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.sources is None:
        for tiny in (LLADA, DREAM, SDAR):
            print(own_share(tiny, args.steps), flush=True)
        return 0
    print("family  loop  steps  seconds  times ours  same text")
    for key, shape in TENTH.items():
        with parity.extracted(args.sources, key):
            beside(key, shape, args.steps)
    return 0


def sized(tiny: Tiny, shape: Sequence[int]) -> dict[str, Any]:
    """A configuration of this shape."""
    layers, width, hidden, heads, keys, rows = shape
    found = configuration(tiny)
    if tiny.llada:
        names: tuple[str, ...] = ("n_layers", "d_model", "mlp_hidden_size", "n_heads", "n_kv_heads")
        found |= {"embedding_size": rows, "vocab_size": rows}
    else:
        names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
        names += ("num_key_value_heads",)
        found |= {"vocab_size": rows, "head_dim": width // heads}
    return found | dict(zip(names, (layers, width, hidden, heads, keys), strict=True))


def folder_of(tiny: Tiny, config: dict[str, Any], where: Path) -> None:
    """Write what a folder has beside weights."""
    (where / "config.json").write_text(json.dumps(config), "utf-8")
    tokenizer(tiny).save(str(where / "tokenizer.json"))


def beside(key: str, shape: Sequence[int], steps: int) -> None:
    """Fill one canvas with their loop and with ours."""
    tiny = {"llada": LLADA, "dream": DREAM}[key]
    mask, rng = tiny.id(tiny.mask), np.random.default_rng(0)
    prefix = rng.integers(0, 256, CONTEXT).tolist()
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)
        folder_of(tiny, sized(tiny, shape), where)
        theirs = network_of(key, tiny, where)
        with torch.no_grad():
            for weight in theirs.parameters():
                if weight.ndim > 1:
                    weight.normal_(std=2 / weight.shape[-1] ** 0.5)
            # What the tokenizer has no text for is never written here, and they bar nothing.
            silent = [*map(tiny.id, tiny.special), *range(len(tiny.tokens), shape[-1])]
            theirs.get_output_embeddings().weight[silent] = 0
        save_file(theirs.state_dict(), where / "model.safetensors")
        ours, _, layout = load(where, "cpu")
        run = loop_of(key, theirs, mask, prefix, steps)
        their_steps = steps
        for turn in range(2):
            began = time.perf_counter()
            text = run()
            their_seconds = time.perf_counter() - began
            began = time.perf_counter()
            found = fill(ours, layout.arrange(prefix, []), steps, SIZE)
            seconds = time.perf_counter() - began
            if turn:
                same = found[-1].canvas.middle(0) == text
                times = their_seconds / seconds
                print(f"{key}  theirs  {their_steps}  {their_seconds:.2f}  {times:.2f}  {same}")
                print(f"{key}  ours  {len(found)}  {seconds:.2f}  1", flush=True)


def network_of(key: str, tiny: Tiny, where: Path) -> Any:
    """Their network, with weights of its own."""
    if key == "dream":
        (config,) = parity.named("dream.configuration_dream", "DreamConfig")
        (network,) = parity.named("dream.modeling_dream", "DreamModel")
    else:
        (config,) = parity.named("nv_llada.configuration_llada", "LLaDAConfig")
        (network,) = parity.named("nv_llada.modeling_llada", "LLaDAModelLM")
    return network(parity.config_of(tiny, where, config)).float().eval()


def loop_of(
    key: str, network: Any, mask: int, prefix: list[int], steps: int
) -> Callable[[], list[int]]:
    """Their loop over a canvas behind a prefix."""
    if key == "dream":
        (settings,) = parity.named("dream.generation_utils", "DreamGenerationConfig")
        ids = torch.tensor([[*prefix, *[mask] * SIZE]])
        config = settings(steps=steps, alg="entropy", max_length=ids.shape[1], mask_token_id=mask)

        def dream() -> list[int]:
            with torch.no_grad():
                out = network._sample(
                    ids.clone(),
                    attention_mask=None,
                    generation_config=config,
                    generation_tokens_hook_func=lambda step, x, logits: x,
                    generation_logits_hook_func=lambda step, x, logits: logits,
                )
            found: list[int] = out[0, len(prefix) :].tolist()
            return found

        return dream
    (generate,) = parity.named("llada_generate", "generate")

    def llada() -> list[int]:
        out = generate(
            network,
            torch.tensor([prefix]),
            steps=steps,
            gen_length=SIZE,
            block_length=SIZE,
            mask_id=mask,
        )
        found: list[int] = out[0, len(prefix) :].tolist()
        return found

    return llada


def fill(backbone: MaskedBackbone, context: list[int], steps: int, size: int) -> list[Any]:
    """Our loop over a canvas."""
    full = backbone.family.attention == "full"
    canvas = Canvas.blank(1, size + full, backbone.marks).ending([size])
    schedule = replace(backbone.schedule, threshold=None, steps=None)
    row = Row(np.random.default_rng(0), steps, ends=False)
    _, kept = backbone.encode([context])
    return list(follow(schedule, backbone, kept, [context[-1]], canvas, [row]))


def own_share(tiny: Tiny, steps: int) -> str:
    """The share of a step that is not the network's, at the shape of 0.5B parameters."""
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)
        layers, width, hidden, heads, keys, rows = HALF_BILLION
        config = sized(tiny, (layers, width, hidden, heads, heads if tiny.llada else keys, rows))
        folder_of(tiny, config, where)
        write_shapes(tiny, where)
        backbone, _, layout = load(where, "cpu")
    for weight in backbone.network.parameters():
        if weight.ndim > 1:
            weight.normal_(std=1 / weight.shape[-1] ** 0.5)
    prefix = np.random.default_rng(0).integers(0, 256, CONTEXT).tolist()
    full = backbone.family.attention == "full"
    context = layout.arrange(prefix, []) if full else prefix
    fill(backbone, context, 1, SIZE)
    with timed(backbone) as spent:
        began = time.perf_counter()
        found = fill(backbone, context, steps, SIZE)
        whole = time.perf_counter() - began
    own = whole - sum(spent)
    each = 1000 * whole / len(found)
    return (
        f"{backbone.family.name}: {len(found)} steps of {each:.0f} ms; not the network's: "
        f"{1000 * own / len(found):.2f} ms, {own / whole:.2%}"
    )


def write_shapes(tiny: Tiny, where: Path) -> None:
    """Write weights that only have the right shapes."""
    ours = {
        "attn_norm": "attn_norm", "ffn_norm": "ffn_norm", "attn_q": "q", "attn_k": "k",
        "attn_v": "v", "attn_output": "o", "attn_q_norm": "q_norm", "attn_k_norm": "k_norm",
        "ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down",
    }  # fmt: skip
    layers, width, hidden, heads, keys, rows = HALF_BILLION
    keys = heads if tiny.llada else keys
    shape = Shape(
        rows, layers, width, heads, keys, width // heads, hidden, 512, 1e6, 1e-6,
        tiny.biases, tiny.normed, False,
    )  # fmt: skip
    tensors = {}
    for name, size in shapes(shape).items():
        module, _, kind = name.rpartition(".")
        if module.startswith("blk."):
            _, layer, part = module.split(".")
            called = published(f"{layer}.{ours[part]}{'.bias' * (kind == 'bias')}", tiny.llada)
        else:
            whole = {"token_embd": "embed", "output_norm": "norm", "output": "output"}
            called = published(whole[module], tiny.llada)
        tensors[called] = torch.ones(size)
    save_file(tensors, where / "model.safetensors")


@contextmanager
def timed(backbone: MaskedBackbone) -> Iterator[list[float]]:
    """The seconds of each call of the network, while this lasts."""
    spent: list[float] = []

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            found = call(*args, **options)
            spent.append(time.perf_counter() - began)
            return found

        return wrapped

    evaluate, candidates = backbone.evaluate, backbone.candidates
    vars(backbone).update(evaluate=counted(evaluate), candidates=counted(candidates))
    try:
        yield spent
    finally:
        del vars(backbone)["evaluate"], vars(backbone)["candidates"]


if __name__ == "__main__":
    sys.exit(main())
