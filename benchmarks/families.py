"""Our loop beside the open families' own, on the same random weights: steps, time, and the texts.

`python -m benchmarks.families --sources DIR` runs their code as `benchmarks/parity.py` does, in the
same environment, on the shapes of the published models at about a tenth of the width. Each loop is
warmed up, then theirs and ours take turns; ratios are of times in one turn. Without `--sources`, it
times our loop alone: at the shape of 0.5B parameters, what share of the time is not the network's;
with `--caches`, what a step takes with the approximate caches.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from benchmarks import parity
from benchmarks.tiny_models import (
    DREAM,
    DREAMON,
    FAST_DLLM_V2,
    LLADA,
    OPEN_DCODER,
    SDAR,
    Tiny,
    configuration,
    published,
    tokenizer,
)
from talaria.coder.arguments import Parser
from talaria.coder.canvas import Canvas
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.coder.families.masked_files import Shape, shapes
from talaria.coder.families.masked_torch import MaskedBackbone, load
from talaria.coder.sampler import Row, Step
from talaria.coder.scheduled import follow
from talaria.evals.intervals import bootstrap

Ids = list[int]
Run = Callable[[], list[Ids]]

CONTEXT, SIZE = 128, 8  # tokens before the canvas, and of it
MOST = 12  # tokens that DreamOn's canvas may grow to
SURE = 8.0  # standard deviation of logits, so that some of 270 tokens are surer than 0.9
# Layers, width, hidden units, heads, heads of keys, rows of the embedding: LLaDA-8B, Dream-7B and
# Fast-dLLM v2 7B, SDAR-8B at about a tenth of the width, Open-dCoder-0.5B at half, Qwen2.5-0.5B.
LLADA_SHAPE = (32, 512, 1536, 8, 8, 126464)
QWEN_SHAPE = (28, 448, 2368, 7, 1, 152064)
SDAR_SHAPE = (36, 384, 1152, 3, 1, 151936)
HALF_SHAPE = (24, 448, 2432, 7, 1, 151936)
HALF_BILLION = (24, 896, 4864, 14, 2, 151936)


@dataclass(frozen=True)
class Rival:
    """A published loop, and how ours does the same.

    source   the family whose code it is, in `parity.SOURCES`
    loop     makes it, of their network, the tiny model and prompts
    size     masks of a canvas
    changes  to our schedule
    batched  whether it takes several prompts at once
    """

    source: str
    tiny: Tiny
    shape: tuple[int, ...]
    loop: Callable[[Any, Tiny, list[Ids]], Run]
    size: int = SIZE
    changes: dict[str, Any] = field(default_factory=dict)
    batched: bool = False


def llada(name: str, **settings: Any) -> Callable[[Any, Tiny, list[Ids]], Run]:
    """LLaDA's `generate`, or one of Fast-dLLM's that have its form."""

    def loop(network: Any, tiny: Tiny, prompts: list[Ids]) -> Run:
        module, _, function = name.partition(".")
        generate = getattr(import_module(module), function)
        ids, count = torch.tensor(prompts), len(prompts[0])

        def run() -> list[Ids]:
            out = generate(
                network, ids, gen_length=SIZE, mask_id=tiny.id(tiny.mask),
                **{"steps": SIZE, "block_length": SIZE, **settings},
            )  # fmt: skip
            out = out[0] if isinstance(out, tuple) else out
            return [row[count:] for row in out.tolist()]

        return run

    return loop


def dream(network: Any, tiny: Tiny, prompts: list[Ids]) -> Run:
    """Dream's `_sample`, by entropy."""
    settings = import_module("dream.generation_utils").DreamGenerationConfig
    mask, count = tiny.id(tiny.mask), len(prompts[0])
    ids = torch.tensor([[*prompt, *[mask] * SIZE] for prompt in prompts])
    config = settings(steps=SIZE, alg="entropy", max_length=ids.shape[1], mask_token_id=mask)
    hooks = {
        "generation_tokens_hook_func": lambda step, x, logits: x,
        "generation_logits_hook_func": lambda step, x, logits: logits,
    }

    def run() -> list[Ids]:
        with torch.no_grad():
            out = network._sample(ids.clone(), None, generation_config=config, **hooks)
        return [row[count:] for row in out.tolist()]

    return run


def dreamon(network: Any, tiny: Tiny, prompts: list[Ids]) -> Run:
    """DreamOn's generator, from four masks on."""
    generator = parity.dreamon_generator(network, tiny, 4, MOST, "entropy")
    begin, end, mask = tiny.config["bos_token_id"], tiny.id(tiny.end), tiny.id(tiny.mask)
    ids, count = torch.tensor([[begin, *prompts[0], *[mask] * 4, end]]), 1 + len(prompts[0])

    def run() -> list[Ids]:
        with torch.no_grad():
            out, length = generator.batch_generate_with_expand_as_token(ids.clone())
        return [out[0, count : count + length].tolist()]

    return run


def open_dcoder(network: Any, tiny: Tiny, prompts: list[Ids]) -> Run:
    """Open-dLLM's sampler with "p2"."""
    mask, count = tiny.id(tiny.mask), len(prompts[0])
    ids = torch.tensor([[*prompt, *[mask] * SIZE] for prompt in prompts])

    def run() -> list[Ids]:
        out = parity.open_dcoder_text(network, ids, mask, SIZE)
        return [row[count : count + SIZE] for row in out.tolist()]

    return run


def sdar(network: Any, tiny: Tiny, prompts: list[Ids]) -> Run:
    """SDAR's `block_diffusion_generate`."""
    generate = import_module("sdar_generate").block_diffusion_generate
    prompt = {"input_ids": torch.tensor(prompts)}

    def run() -> list[Ids]:
        out = generate(
            network, prompt, tiny.id(tiny.mask), gen_length=SIZE, block_length=4,
            denoising_steps=4, confidence_threshold=0.85,
        )  # fmt: skip
        return [row[len(prompts[0]) :] for row in out.tolist()]

    return run


def fast_dllm_v2(network: Any, tiny: Tiny, prompts: list[Ids]) -> Run:
    """Fast-dLLM v2's own `generate`."""
    ids = torch.tensor(prompts)

    def run() -> list[Ids]:
        out, *_ = network.generate(
            ids, max_new_tokens=32, mask_id=tiny.id(tiny.mask), threshold=0.9,
            stop_token=tiny.id(tiny.end), small_block_size=8,
        )  # fmt: skip
        return [out[0, len(prompts[0]) :].tolist()]

    return run


PLAIN = {"threshold": None, "steps": None}
RIVALS = {
    "LLaDA": Rival(
        "llada", LLADA, LLADA_SHAPE, llada("llada_generate.generate"), changes=PLAIN, batched=True
    ),
    "LLaDA, Fast-dLLM's threshold": Rival(
        "llada",
        LLADA,
        LLADA_SHAPE,
        llada("nv_generate.generate", threshold=0.9),
        changes={"threshold": 0.9},
    ),
    "LLaDA, prefix cache": Rival(
        "llada",
        LLADA,
        LLADA_SHAPE,
        llada("nv_generate.generate_with_prefix_cache"),
        changes={"cache": "prefix"},
    ),
    "LLaDA, dual cache": Rival(
        "llada",
        LLADA,
        LLADA_SHAPE,
        llada("nv_generate.generate_with_dual_cache"),
        changes={"cache": "dual"},
    ),
    "Dream": Rival("dream", DREAM, QWEN_SHAPE, dream, changes=PLAIN, batched=True),
    "DreamOn": Rival("dreamon", DREAMON, QWEN_SHAPE, dreamon, 4, {"most": MOST}),
    "Open-dCoder": Rival(
        "open-dcoder", OPEN_DCODER, HALF_SHAPE, open_dcoder, changes={"steps": SIZE}, batched=True
    ),
    "SDAR": Rival("sdar", SDAR, SDAR_SHAPE, sdar),
    "Fast-dLLM v2": Rival("fast-dllm-v2", FAST_DLLM_V2, QWEN_SHAPE, fast_dllm_v2, 32),
}


# What has an effect, beside --threads: with --sources, with --caches, and with neither.
DEFAULTS: dict[str, Any] = {"loops": list(RIVALS), "turns": 5, "batch": 1, "context": CONTEXT}
USED = {"--sources": ("loops", "turns", "batch", "context"), "--caches": ("turns", "context")}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options; UsageError for those without an effect, and for numbers below 1."""
    parser = Parser(prog="python -m benchmarks.families", description=__doc__.split("\n")[0])
    parser.add_argument("--sources", type=Path, metavar="DIR", help="a folder of clones")
    parser.add_argument("--caches", action="store_true", help="time our steps with the caches")
    parser.add_argument("--loops", nargs="+", choices=list(RIVALS), help="only these (all)")
    parser.add_argument("--turns", type=int, metavar="N", help="of each (5)")
    parser.add_argument("--batch", type=int, metavar="N", help="texts at a time (1)")
    parser.add_argument("--context", type=int, metavar="N", help=f"tokens ({CONTEXT})")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of the processor")
    args = parser.parse_args(argv)
    if args.caches and args.sources is not None:
        raise UsageError("--caches times our steps and --sources their loops: leave one out")
    kind = "--caches" if args.caches else "--sources" if args.sources is not None else ""
    for name, default in DEFAULTS.items():
        value = getattr(args, name)
        if value is not None and name not in USED.get(kind, ()):
            uses = " or ".join(each for each, used in USED.items() if name in used)
            raise UsageError(f"--{name} changes nothing without {uses}; leave it out, or add that")
        setattr(args, name, default if value is None else value)
    for name in ("turns", "batch", "context", "threads"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} is {getattr(args, name)}; it must be at least 1")
    for name in args.loops if args.sources is not None else ():
        if args.batch > 1 and not RIVALS[name].batched:
            if args.loops is not DEFAULTS["loops"]:
                raise UsageError(f"--batch is {args.batch}, and {name} takes one text at a time")
            continue
        for repository, _, _ in parity.SOURCES[RIVALS[name].source]:
            parity.clone(args.sources, repository)
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    args = arguments(argv)
    torch.set_num_threads(args.threads)
    if args.caches:
        for line in cached(args.context, args.turns):
            print(line, flush=True)
        return 0
    if args.sources is None:
        for tiny in (LLADA, DREAM, SDAR):
            print(own_share(tiny), flush=True)
        return 0
    print(f"reading memory: {bandwidth():.1f} GB a second; {args.batch} texts at a time")
    print("loop | steps, theirs and ours | s | s, ours | times ours | same | tokens/s | memory, %")
    for name in args.loops:
        rival = RIVALS[name]
        if args.batch > 1 and not rival.batched:
            print(f"{name} | takes one text at a time", flush=True)
            continue
        with parity.extracted(args.sources, rival.source):
            print(f"{name} | {beside(rival, args.batch, args.context, args.turns)}", flush=True)
        for module in [*sys.modules]:  # another family has modules of the same names
            if module.partition(".")[0] in ("dream", "model", "nv_llada", "veomni"):
                del sys.modules[module]
    return 0


def bandwidth() -> float:
    """Gigabytes a second that this process reads from memory, at best of several times."""
    data = torch.ones(2**28)  # 1 GiB, far more than caches hold
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        data.sum()
        seconds.append(time.perf_counter() - began)
    return data.nbytes / min(seconds) / 1e9


def sized(tiny: Tiny, shape: Sequence[int]) -> dict[str, Any]:
    """A configuration of this shape."""
    layers, width, hidden, heads, keys, rows = shape
    found = configuration(tiny) | {"vocab_size": rows}
    if tiny.llada:
        names: tuple[str, ...] = ("n_layers", "d_model", "mlp_hidden_size", "n_heads", "n_kv_heads")
        found |= {"embedding_size": rows, "max_sequence_length": 1024}
    else:
        names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
        names += ("num_key_value_heads",)
        found |= {"head_dim": width // heads, "max_position_embeddings": 1024}
    return found | dict(zip(names, (layers, width, hidden, heads, keys), strict=True))


def folder_of(tiny: Tiny, shape: Sequence[int], where: Path) -> None:
    """Write what a folder has beside weights."""
    (where / "config.json").write_text(json.dumps(sized(tiny, shape)), "utf-8")
    tokenizer(tiny).save(str(where / "tokenizer.json"))


def beside(rival: Rival, batch: int, context: int, turns: int) -> str:
    """Fill canvases with their loop and with ours, by turns: a line of the table."""
    tiny, rng = rival.tiny, np.random.default_rng(0)
    prompts = [rng.integers(0, 256, context).tolist() for _ in range(batch)]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)
        folder_of(tiny, rival.shape, where)
        theirs = parity.NETWORKS[rival.source](tiny, where).float().eval()
        randomise(theirs, tiny, rival.shape[-1])
        tensors = {
            name: each for name, each in theirs.state_dict().items() if not is_tied(tiny, name)
        }
        save_file(tensors, where / "model.safetensors")
        ours, _, layout = load(where, "cpu")
    assert isinstance(ours, MaskedBackbone)
    calls: list[int] = []
    theirs.get_input_embeddings().register_forward_pre_hook(lambda *_: calls.append(1))
    run = rival.loop(theirs, tiny, prompts)
    full = ours.family.attention == "full"
    contexts = [layout.arrange(prompt, []) if full else prompt for prompt in prompts]
    texts = run()  # the warm-up
    their_steps, size = len(calls), rival.size if full else len(texts[0])

    def own() -> list[Step]:
        return fill(ours, contexts, size, **rival.changes)

    steps = own()
    same = [steps[-1].canvas.middle(row) for row in range(batch)] == texts
    seconds: list[tuple[float, float]] = []
    for turn in range(turns):
        timed_runs = [timed_run(each) for each in ((run, own) if turn % 2 else (own, run))]
        seconds.append(
            (timed_runs[0], timed_runs[1]) if turn % 2 else (timed_runs[1], timed_runs[0])
        )
    their_seconds, own_seconds = (float(np.median(each)) for each in zip(*seconds, strict=True))
    times = interval([one / other for one, other in seconds])
    written = sum(map(len, texts))
    weights = sum(each.nbytes for each in ours.network.parameters())
    if not ours.network.shape.tied:  # of the embedding, a step reads only some rows
        weights -= ours.network.token_embd.weight.nbytes
    limit = weights * len(steps) / bandwidth() / 1e9
    cells = (
        f"{their_steps}, {len(steps)}",
        f"{their_seconds:.2f}",
        f"{own_seconds:.2f}",
        times,
        str(same),
        f"{written / their_seconds:.1f}, {written / own_seconds:.1f}",
        f"{limit / own_seconds:.0%}",
    )
    return " | ".join(cells)


def is_tied(tiny: Tiny, name: str) -> bool:
    """Whether a weight of their network is another one's."""
    return tiny.tied and name == "lm_head.weight"


def randomise(network: Any, tiny: Tiny, rows: int) -> None:
    """Draw weights with which predictions differ in how sure they are.

    What the tokenizer has no text for is never written here, and they bar nothing: so it is never
    predicted.
    """
    with torch.no_grad():
        for weight in network.parameters():
            if weight.ndim > 1:
                weight.normal_(std=2 / weight.shape[-1] ** 0.5)
        output = network.get_output_embeddings().weight
        output.normal_(std=SURE / output.shape[-1] ** 0.5)
        spoken = {tiny.id(name) for name in tiny.speaks}
        silent = [row for row in map(tiny.id, tiny.special) if row not in spoken]
        output[[*silent, *range(len(tiny.tokens), rows)]] = 0


def timed_run(run: Callable[[], object]) -> float:
    """The seconds that a run takes."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def interval(ratios: Sequence[float]) -> str:
    """The geometric mean of ratios with its 95 % bootstrap interval over turns."""
    logs = [math.log(each) for each in ratios]
    found = bootstrap(logs, [str(place) for place in range(len(logs))])
    edges = "" if found is None else f" ({math.exp(found[0]):.2f} – {math.exp(found[1]):.2f})"
    return f"{math.exp(sum(logs) / len(logs)):.2f}{edges}"


def fill(
    backbone: MaskedBackbone, contexts: Sequence[Ids], size: int, nfe: int = 10_000, **changes: Any
) -> list[Step]:
    """Our loop over a canvas behind each context."""
    schedule = replace(backbone.schedule, **changes)
    full, learned = backbone.family.attention == "full", schedule.expand is not None
    width = max(size, schedule.most) if learned else size
    canvas = Canvas.blank(len(contexts), width + full, backbone.marks).ending(
        [size] * len(contexts)
    )
    row = Row(np.random.default_rng(0), nfe, ends=learned)
    _, kept = backbone.encode(contexts)
    last = [context[-1] for context in contexts]
    return list(follow(schedule, backbone, kept, last, canvas, [row] * len(contexts)))


def cached(context: int, turns: int) -> Iterator[str]:
    """What a step of ours takes at LLaDA's shape, exact and with each cache, by turns."""
    backbone = random_model(LLADA, LLADA_SHAPE)
    prefix = np.random.default_rng(0).integers(0, 256, context).tolist()
    size, steps = 32, 4
    kinds: list[str | None] = [None, "prefix", "dual"]
    for suffix in (0, context // 2):
        text = [*prefix[:suffix], backbone.marks.mask, *prefix[suffix:]]  # the suffix stands first
        seconds: dict[str | None, list[float]] = {kind: [] for kind in kinds}
        for turn in range(turns + 1):
            for kind in kinds if turn % 2 else kinds[::-1]:
                with timed(backbone) as (every, _):
                    fill(backbone, [text], size, steps, cache=kind)
                if turn:
                    seconds[kind].append(float(np.mean(every[1:])))
        yield f"prefix {context - suffix}, canvas {size}, suffix {suffix}:"
        for kind in kinds:
            ratios = [one / other for one, other in zip(seconds[kind], seconds[None], strict=True)]
            each = 1000 * np.median(seconds[kind])
            yield f"  {kind or 'exact'}: {each:.0f} ms a step, {interval(ratios)}"


def random_model(tiny: Tiny, shape: tuple[int, ...]) -> MaskedBackbone:
    """A model of ours of this shape."""
    with tempfile.TemporaryDirectory() as name:
        where = Path(name)
        folder_of(tiny, shape, where)
        write_shapes(tiny, shape, where)
        backbone, _, _ = load(where, "cpu")
    assert isinstance(backbone, MaskedBackbone)
    torch.manual_seed(0)
    for weight in backbone.network.parameters():
        if weight.ndim > 1:
            weight.normal_(std=1 / weight.shape[-1] ** 0.5)
    return backbone


def own_share(tiny: Tiny) -> str:
    """The share of a step that is not the network's, at the shape of 0.5B parameters."""
    layers, width, hidden, heads, keys, rows = HALF_BILLION
    keys = heads if tiny.llada else keys
    backbone = random_model(tiny, (layers, width, hidden, heads, keys, rows))
    prefix = np.random.default_rng(0).integers(0, 256, CONTEXT).tolist()
    full = backbone.family.attention == "full"
    contexts = [[backbone.marks.mask, *prefix] if full else prefix]
    fill(backbone, contexts, SIZE, 1, threshold=None)
    with timed(backbone) as (states, candidates):
        began = time.perf_counter()
        found = fill(backbone, contexts, SIZE, 4, threshold=None, steps=None)
        whole = time.perf_counter() - began
    own = whole - sum(states) - sum(candidates)
    each = 1000 * whole / len(found)
    return (
        f"{backbone.family.name}: {len(found)} steps of {each:.0f} ms; not the network's: "
        f"{1000 * own / len(found):.2f} ms, {own / whole:.2%}"
    )


def write_shapes(tiny: Tiny, size: tuple[int, ...], where: Path) -> None:
    """Write weights that only have the right shapes."""
    ours = {
        "attn_norm": "attn_norm", "ffn_norm": "ffn_norm", "attn_q": "q", "attn_k": "k",
        "attn_v": "v", "attn_output": "o", "attn_q_norm": "q_norm", "attn_k_norm": "k_norm",
        "ffn_gate": "gate", "ffn_up": "up", "ffn_down": "down",
    }  # fmt: skip
    layers, width, hidden, heads, keys, rows = size
    shape = Shape(
        rows, layers, width, heads, keys, width // heads, hidden, 512, 1e6, 1e-6,
        tiny.biases, tiny.normed, False,
    )  # fmt: skip
    tensors = {}
    for name, each in shapes(shape).items():
        module, _, kind = name.rpartition(".")
        if module.startswith("blk."):
            _, layer, part = module.split(".")
            called = published(f"{layer}.{ours[part]}{'.bias' * (kind == 'bias')}", tiny.llada)
        else:
            whole = {"token_embd": "embed", "output_norm": "norm", "output": "output"}
            called = published(whole[module], tiny.llada)
        tensors[called] = torch.ones(each)
    save_file(tensors, where / "model.safetensors")


@contextmanager
def timed(backbone: MaskedBackbone) -> Iterator[tuple[list[float], list[float]]]:
    """The seconds of each call for states and for candidates, while this lasts."""
    spent: tuple[list[float], list[float]] = ([], [])

    def counted(call: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            began = time.perf_counter()
            found = call(*args, **options)
            seconds.append(time.perf_counter() - began)
            return found

        return wrapped

    evaluate, candidates = backbone.evaluate, backbone.candidates
    own = {"evaluate": counted(evaluate, spent[0]), "candidates": counted(candidates, spent[1])}
    vars(backbone).update(own)
    try:
        yield spent
    finally:
        del vars(backbone)["evaluate"], vars(backbone)["candidates"]


if __name__ == "__main__":
    sys.exit(guarded("families", main))
