"""What the open families' own code computes: `python -m benchmarks.parity --sources DIR`.

Tiny random models (`benchmarks/tiny_models.py`) are given to the families' own modelling code and
samplers, at the commits named here. What they compute is written to `tests/golden/families`, for
tests: logits, and the tokens of greedy infills. That code is read from clones in DIR, each called
OWNER+NAME, put into a temporary folder, run there, and kept nowhere.

It runs with transformers 4.53 (dLLM's with 5): `pip install transformers==4.53.1 einops` in an
environment of its own. What needs CUDA is replaced: flash-attn's norm by the same in torch, the
sharding of Open-dLLM by none. Draws are replaced by the likeliest token where a sampler always
draws (SDAR).
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.tiny_models import CAUSAL, TINY, Tiny, tokenizer, weights, write
from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError

GOLDEN = Path(__file__).parent.parent / "tests" / "golden" / "families"

# Where each family's code lies: repository, commit, and its files by the modules they become.
SOURCES: dict[str, list[tuple[str, str, dict[str, str]]]] = {
    "llada": [
        (
            "NVlabs+Fast-dLLM",
            "24cc59e75f20a6384bae8c905965bb090b96388e",
            {
                "nv_llada.configuration_llada": "llada/model/configuration_llada.py",
                "nv_llada.modeling_llada": "llada/model/modeling_llada.py",
                "nv_generate": "llada/generate.py",
            },
        ),
        (
            "ML-GSAI+LLaDA",
            "b7e6c3565f194352da44b38dd12b6970597309f3",
            {"llada_generate": "generate.py"},
        ),
    ],
    "dream": [
        (
            "ZHZisZZ+dllm",
            "ca176752fbceec49c6b4777a2c18ae88e4eb10ed",
            {
                "dream.configuration_dream": "dllm/pipelines/dream/models/configuration_dream.py",
                "dream.generation_utils": "dllm/pipelines/dream/models/generation_utils.py",
                "dream.modeling_dream": "dllm/pipelines/dream/models/modeling_dream.py",
            },
        )
    ],
    "dreamon": [
        (
            "DreamLM+DreamOn",
            "8a0a54918412eda9402a327646f7f067f7160ec8",
            {"dreamon_generator": "eval/generator.py"},
        )
    ],
    "open-dcoder": [
        (
            "pengzhangzhi+Open-dLLM",
            "8b38787794e7e13e74ab6f5d2ec9240595a1a777",
            {
                f"veomni.models.transformers.qwen2.{name}": (
                    f"veomni/models/transformers/qwen2/{name}.py"
                )
                for name in ("generation_utils", "modeling_qwen2")
            },
        )
    ],
    "sdar": [
        (
            "Gen-Verse+dLLM-RL",
            "10b4fd1cba83e4496c20585dc2fd01dc02f20255",
            {
                "sdar.configuration_sdar": "models/sdar/configuration_sdar.py",
                "sdar.modeling_sdar": "models/sdar/modeling_sdar.py",
            },
        ),
        (
            "JetAstra+SDAR",
            "c2041a8333333d685f6e15122c84f60f51f85ebd",
            {"sdar_generate": "generate.py"},
        ),
    ],
    "fast-dllm-v2": [
        (
            "Satgoy152+DualDiffusion",
            "9587d1e437cbb6301f2eb5d018e18f86cbe823e2",
            {
                f"fast_v2.{name}": f"FastDLLM_inferencing/Fast_dLLM_v2_7B/{name}.py"
                for name in ("configuration", "modeling")
            },
        )
    ],
    "a2d": [
        (
            "ZHZisZZ+dllm",
            "ca176752fbceec49c6b4777a2c18ae88e4eb10ed",
            {
                "a2d_qwen3": "dllm/pipelines/a2d/models/qwen3/modeling_qwen3.py",
                "dllm.core.samplers.base": "dllm/core/samplers/base.py",
                "dllm.core.samplers.utils": "dllm/core/samplers/utils.py",
                "dllm.core.samplers.mdlm": "dllm/core/samplers/mdlm.py",
                "dllm.core.schedulers.alpha": "dllm/core/schedulers/alpha.py",
            },
        )
    ],
}
SOURCES["dreamon"] = SOURCES["dream"] + SOURCES["dreamon"]
SOURCES["qwen3"] = []  # transformers has it

PAIRS = (
    ("def f(self):\n    return ", "\n\ndef g():\n    pass\n"),
    ("x = [1, 2, 3]\nfor i in x:\n", "    print(i)\n"),
    ("class A:\n    def __init__(self, size):\n        self.size = size\n        self.", "\n"),
)
Ids = list[int]
Case = dict[str, Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Run each family's code and write its golden files."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--sources", type=Path, required=True, help="a folder of clones")
    parser.add_argument("--families", nargs="*", default=list(SOURCES), choices=list(SOURCES))
    args = parser.parse_args(argv)
    for key in args.families:
        for repository, _, _ in SOURCES[key]:
            clone(args.sources, repository)
    GOLDEN.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    for key in args.families:
        with extracted(args.sources, key), tempfile.TemporaryDirectory() as folder:
            record(key, write((TINY | CAUSAL)[key], Path(folder) / "tiny"))
    return 0


def record(key: str, folder: Path) -> None:
    """Write what a family's code computes."""
    tiny = (TINY | CAUSAL)[key]
    model, cases = RUNS[key](tiny, folder)
    found = {
        "sources": [{"repository": name, "commit": commit} for name, commit, _ in SOURCES[key]],
        "transformers": __import__("transformers").__version__,
        "weights": digest(weights(tiny)),
        "cases": cases,
    }
    (GOLDEN / f"{key}.json").write_text(json.dumps(found) + "\n", "utf-8")
    ids = sequence(tiny)
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0]
    np.savez_compressed(GOLDEN / f"{key}.npz", ids=ids, logits=logits.float().numpy())
    print(key, len(cases), "cases", flush=True)


def sequence(tiny: Tiny) -> Ids:
    """Tokens of a text with some masks in it, whose logits are compared."""
    bpe, mask = tokenizer(tiny), tiny.id(tiny.mask)
    prefix, suffix = (bpe.encode(text).ids for text in PAIRS[0])
    return [*prefix[-9:], *[mask] * 5, *suffix[:6]]


def digest(tensors: Mapping[str, Any]) -> str:
    """SHA-256 of weights, to see that they are the same elsewhere."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode() + tensors[name].tobytes())
    return found.hexdigest()


@contextmanager
def extracted(sources: Path, key: str) -> Iterator[None]:
    """Make a family's files importable for as long as this lasts."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for repository, commit, files in SOURCES[key]:
            git = clone(sources, repository)
            for module, path in files.items():
                where = root.joinpath(*module.split(".")).with_suffix(".py")
                for parent in [*where.relative_to(root).parents][:-1]:
                    (root / parent).mkdir(parents=True, exist_ok=True)
                    (root / parent / "__init__.py").touch()
                shown = subprocess.run(
                    ["git", "-C", str(git), "show", f"{commit}:{path}"],
                    check=False,
                    capture_output=True,
                )
                if shown.returncode:
                    raise UsageError(
                        f"{git}: has no {path} at {commit}; fetch that commit of "
                        f"{repository.replace('+', '/')}"
                    )
                where.write_bytes(shown.stdout)
        sys.path.insert(0, name)
        try:
            yield
        finally:
            sys.path.remove(name)


def clone(sources: Path, repository: str) -> Path:
    """The git folder of a repository's clone; UsageError where there is none."""
    for place in (sources / repository / "repo", sources / repository):
        if place.is_dir():
            return place
    raise UsageError(
        f"--sources is {sources}, and {repository} is not in it; clone "
        f"{repository.replace('+', '/')} of GitHub to {sources / repository}"
    )


def named(module: str, *names: str) -> Iterator[Any]:
    """What a module of theirs has by these names."""
    found = import_module(module)
    return (getattr(found, name) for name in names)


def stub(name: str, **values: Any) -> None:
    """Put a module in the place of one that is not here."""
    module = types.ModuleType(name)
    module.__path__, module.__spec__ = [], ModuleSpec(name, None)
    vars(module).update(values)
    sys.modules[name] = module


def loaded(model: Any, tiny: Tiny) -> Any:
    """A model with the tiny weights."""
    tensors = {name: torch.from_numpy(each) for name, each in weights(tiny).items()}
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected, unexpected
    tied = {"lm_head.weight"} if tiny.tied else set()
    assert {*missing} <= tied, missing
    if tiny.tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.float().eval()


def config_of(tiny: Tiny, folder: Path, kind: Any) -> Any:
    """The family's configuration class, filled from the folder."""
    stated = json.loads((folder / "config.json").read_text("utf-8"))
    stated.pop("model_type")
    return kind(**stated)


def parts(tiny: Tiny) -> list[tuple[Ids, Ids]]:
    """Prefixes and suffixes in tokens."""
    bpe = tokenizer(tiny)
    return [(bpe.encode(before).ids, bpe.encode(behind).ids) for before, behind in PAIRS]


def case(prefix: Ids, suffix: Ids, middle: Ids, **settings: Any) -> Case:
    """A greedy infill."""
    return {"prefix": prefix, "suffix": suffix, "middle": middle, **settings}


def llada(tiny: Tiny, folder: Path) -> Any:
    """LLaDA's network, as Fast-dLLM has it."""
    LLaDAConfig = import_module("nv_llada.configuration_llada").LLaDAConfig
    LLaDAModelLM = import_module("nv_llada.modeling_llada").LLaDAModelLM

    stub("model", modeling_llada=None)
    stub("model.modeling_llada", LLaDAModelLM=LLaDAModelLM)
    return LLaDAModelLM(config_of(tiny, folder, LLaDAConfig))


def run_llada(tiny: Tiny, folder: Path) -> tuple[Callable[..., Any], list[Case]]:
    """LLaDA's `generate`, which knows no suffix; Fast-dLLM's, with a threshold and its caches."""
    model = loaded(llada(tiny, folder), tiny)
    llada_generate, nv_generate = import_module("llada_generate"), import_module("nv_generate")
    mask, cases = tiny.id(tiny.mask), []
    for prefix, _ in parts(tiny):
        prompt = torch.tensor([prefix])
        for steps, length, block in ((16, 16, 16), (8, 16, 8), (6, 12, 12), (8, 32, 16)):
            out = llada_generate.generate(
                model, prompt, steps=steps, gen_length=length, block_length=block, mask_id=mask
            )
            middle = out[0, len(prefix) :].tolist()
            cases.append(case(prefix, [], middle, steps=steps, size=length, block=block))
        for threshold in (0.9, 0.3):
            out, nfe = nv_generate.generate(
                model, prompt, 16, 16, 8, mask_id=mask, threshold=threshold
            )
            middle = out[0, len(prefix) :].tolist()
            cases.append(
                case(prefix, [], middle, steps=16, size=16, block=8, threshold=threshold, nfe=nfe)
            )
        caches = {
            "prefix": nv_generate.generate_with_prefix_cache,
            "dual": nv_generate.generate_with_dual_cache,
        }
        for cache, generate in caches.items():
            for steps, size, block in ((16, 16, 16), (16, 16, 8), (8, 16, 8), (32, 32, 16)):
                # With a threshold, a step commits at least one, whatever `steps` is; ours more.
                for least in (None, 0.9, 0.3) if steps == size else (None,):
                    out, nfe = generate(
                        model, prompt, steps, size, block, mask_id=mask, threshold=least
                    )
                    middle = out[0, len(prefix) :].tolist()
                    settings: Case = {"steps": steps, "size": size, "block": block, "cache": cache}
                    if least is not None:
                        settings["threshold"] = least
                    cases.append(case(prefix, [], middle, nfe=nfe, **settings))
    return lambda ids: model(ids).logits, cases


def run_dream(tiny: Tiny, folder: Path) -> tuple[Callable[..., Any], list[Case]]:
    """Dream's `_sample`, on a text with masks in it."""
    DreamGenerationConfig = import_module("dream.generation_utils").DreamGenerationConfig

    model, mask, cases = loaded(dream(tiny, folder), tiny), tiny.id(tiny.mask), []
    for prefix, suffix in parts(tiny):
        for steps, size in ((8, 8), (5, 12), (24, 24)):
            for order in ("entropy", "maskgit_plus"):
                ids = torch.tensor([[*prefix, *[mask] * size, *suffix]])
                config = DreamGenerationConfig(
                    steps=steps, alg=order, max_length=ids.shape[1], mask_token_id=mask
                )
                hooks = {
                    "generation_tokens_hook_func": lambda step, x, logits: x,
                    "generation_logits_hook_func": lambda step, x, logits: logits,
                }
                out = model._sample(ids, attention_mask=None, generation_config=config, **hooks)
                middle = out[0, len(prefix) : len(prefix) + size].tolist()
                cases.append(case(prefix, suffix, middle, steps=steps, size=size, order=order))
    return lambda ids: model(ids).logits, cases


def dream(tiny: Tiny, folder: Path) -> Any:
    """Dream's network."""
    DreamConfig = import_module("dream.configuration_dream").DreamConfig
    DreamModel = import_module("dream.modeling_dream").DreamModel

    return DreamModel(config_of(tiny, folder, DreamConfig))


def dreamon_generator(model: Any, tiny: Tiny, least: int, most: int, order: str) -> Any:
    """DreamOn's `MDMGenerator` for canvases of at least and at most so many tokens."""
    stub("omegaconf", OmegaConf=None)
    MDMGenerator = import_module("dreamon_generator").MDMGenerator

    generator = object.__new__(MDMGenerator)
    settings = {
        "model": model,
        "tokenizer": types.SimpleNamespace(eos_id=tiny.id(tiny.end)),
        "mask_id": tiny.id(tiny.mask),
        "expand_id": tiny.id("<|expand|>"),
        "max_tokens": 2048,
        "max_gen_len": most,
        "min_gen_len": least,
        "expand_budget": most,
        "temperature": 0.0,
        "alg_temp": 0.0,
        "top_p": None,
        "top_k": None,
        "steps": 256,
        "alg": order,
        "delete_eos_token": True,
        "pad_eos_to_right": True,
        "show_progress": False,
        "device": "cpu",
    }
    vars(generator).update(settings)
    return generator


def run_dreamon(tiny: Tiny, folder: Path) -> tuple[Callable[..., Any], list[Case]]:
    """DreamOn's generator, which expands and deletes."""
    model, cases = loaded(dream(tiny, folder), tiny), []
    begin, end, mask = tiny.config["bos_token_id"], tiny.id(tiny.end), tiny.id(tiny.mask)
    for prefix, suffix in parts(tiny):
        for order in ("entropy", "maskgit_plus"):
            for least, most in ((4, 64), (4, 8), (8, 16)):
                generator = dreamon_generator(model, tiny, least, most, order)
                ids = torch.tensor([[begin, *prefix, *[mask] * least, *suffix, end]])
                with torch.no_grad():
                    out, count = generator.batch_generate_with_expand_as_token(ids)
                middle = out[0, 1 + len(prefix) : 1 + len(prefix) + count].tolist()
                cases.append(case(prefix, suffix, middle, size=least, most=most, order=order))
    return lambda ids: model(ids).logits, cases


def open_dcoder(tiny: Tiny, folder: Path) -> Any:
    """Open-dLLM's Qwen2."""

    def plain(*args: Any, **named: Any) -> Any:
        raise AssertionError("only where a sequence is sharded")

    state = types.SimpleNamespace(ulysses_enabled=False, sp_enabled=False)
    stub("veomni.data")
    stub("veomni.data.constants", IGNORE_INDEX=-100)
    stub("veomni.distributed")
    stub("veomni.distributed.parallel_state", get_parallel_state=lambda: state)
    names = (
        "gather_heads_scatter_seq", "gather_seq_scatter_heads", "reduce_sequence_parallel_loss",
    )  # fmt: skip
    stub("veomni.distributed.sequence_parallel", **dict.fromkeys(names, plain))
    from transformers.utils import logging

    stub("veomni.utils", logging=logging)
    stub("veomni.utils.import_utils", is_liger_kernel_available=lambda: False)
    Qwen2ForCausalLM = import_module(
        "veomni.models.transformers.qwen2.modeling_qwen2"
    ).Qwen2ForCausalLM

    config = config_of(tiny, folder, Qwen2ForCausalLM.config_class)
    config._attn_implementation = "sdpa"
    return Qwen2ForCausalLM(config)


def open_dcoder_text(model: Any, ids: Any, mask: int, steps: int) -> Any:
    """Fill the masks of a text with Open-dLLM's sampler and "p2"."""
    MDMGenerationConfig = import_module(
        "veomni.models.transformers.qwen2.generation_utils"
    ).MDMGenerationConfig
    settings = MDMGenerationConfig(
        steps=steps, alg="p2", mask_token_id=mask, max_length=ids.shape[1]
    )
    settings.alg, settings.steps, settings.mask_token_id = "p2", steps, mask
    settings.temperature, settings.top_p, settings.top_k = 0.0, None, None
    with torch.no_grad():
        out = model._mdm_sample(ids.clone(), None, settings)
    return getattr(out, "sequences", out)


def run_open_dcoder(tiny: Tiny, folder: Path) -> tuple[Callable[..., Any], list[Case]]:
    """Open-dLLM's sampler with "p2"."""
    model = loaded(open_dcoder(tiny, folder), tiny)
    mask, cases = tiny.id(tiny.mask), []
    for prefix, suffix in parts(tiny):
        for steps, size in ((64, 8), (10, 12), (16, 24)):
            ids = torch.tensor([[*prefix, *[mask] * size, *suffix]])
            out = open_dcoder_text(model, ids, mask, steps)
            middle = out[0, len(prefix) : len(prefix) + size].tolist()
            cases.append(case(prefix, suffix, middle, steps=steps, size=size))
    return lambda ids: model(input_ids=ids, is_causal=False).logits, cases


def sdar(tiny: Tiny, folder: Path) -> Any:
    """SDAR's network, and the likeliest token in the place of the draws of its sampler."""
    import torch.nn.functional as F

    def rms_norm(x: Any, weight: Any, bias: Any = None, eps: float = 1e-6, **named: Any) -> Any:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)

    stub("flash_attn", flash_attn_func=None, flash_attn_varlen_func=None)
    stub("flash_attn.ops")
    stub("flash_attn.ops.triton")
    stub("flash_attn.ops.triton.layer_norm", rms_norm_fn=rms_norm)
    stub("flash_attn.bert_padding", index_first_axis=None, pad_input=None, unpad_input=None)
    sdar_generate = import_module("sdar_generate")
    SDARConfig = import_module("sdar.configuration_sdar").SDARConfig
    SDARForCausalLM = import_module("sdar.modeling_sdar").SDARForCausalLM

    config = config_of(tiny, folder, SDARConfig)
    config._attn_implementation, config.fuse_cross_entropy = "sdpa", False
    model = SDARForCausalLM(config)

    def likeliest(chances: Any, num_samples: int) -> Any:
        return chances.argmax(-1, keepdim=True)

    sdar_generate.torch.multinomial = likeliest
    inner = model.forward

    def forward(ids: Any, attention_mask: Any, **named: Any) -> Any:
        # The one repository's sampler gives masks without the dimension of heads, which the other's
        # network has.
        wide = attention_mask if attention_mask.dim() == 4 else attention_mask[:, None]
        return inner(ids, attention_mask=wide, **named)

    model.forward = forward
    return model


def run_sdar(tiny: Tiny, folder: Path) -> tuple[Callable[..., Any], list[Case]]:
    """SDAR's `block_diffusion_generate`."""
    model = loaded(sdar(tiny, folder), tiny)
    sdar_generate = import_module("sdar_generate")
    mask, cases = tiny.id(tiny.mask), []
    for prefix, _ in parts(tiny):
        for threshold in (0.85, 0.4):
            for length in (8, 22):
                out = sdar_generate.block_diffusion_generate(
                    model,
                    {"input_ids": torch.tensor([prefix])},
                    mask,
                    gen_length=length,
                    block_length=4,
                    denoising_steps=4,
                    confidence_threshold=threshold,
                )
                middle = out[0, len(prefix) :].tolist()
                cases.append(case(prefix, [], middle, threshold=threshold, block=4))

    def logits(ids: Any) -> Any:
        place = torch.arange(ids.shape[1]) // 4
        seen = (place[None, :] <= place[:, None])[None, None]
        return model(ids, attention_mask=seen, use_cache=False).logits

    return logits, cases


def fast_dllm_v2(tiny: Tiny, folder: Path) -> Any:
    """Fast-dLLM v2's network."""
    Fast_dLLM_QwenConfig = import_module("fast_v2.configuration").Fast_dLLM_QwenConfig
    Fast_dLLM_QwenForCausalLM = import_module("fast_v2.modeling").Fast_dLLM_QwenForCausalLM

    return Fast_dLLM_QwenForCausalLM(config_of(tiny, folder, Fast_dLLM_QwenConfig))


def run_fast_dllm_v2(tiny: Tiny, folder: Path) -> tuple[Callable[..., Any], list[Case]]:
    """Fast-dLLM v2's own `generate`."""
    model = loaded(fast_dllm_v2(tiny, folder), tiny)
    mask, cases = tiny.id(tiny.mask), []
    for prefix, _ in parts(tiny):
        for times in (1, 3, 4):
            prompt = (prefix * 4)[: 16 * times]  # with and without whole blocks before it
            for threshold in (0.9, 0.4):
                out, *_ = model.generate(
                    torch.tensor([prompt]),
                    max_new_tokens=64,
                    mask_id=mask,
                    threshold=threshold,
                    stop_token=tiny.id(tiny.end),
                    small_block_size=8,
                )
                middle = out[0, len(prompt) :].tolist()
                cases.append(case(prompt, [], middle, threshold=threshold))
    return lambda ids: model(ids, use_cache=False).logits, cases


def run_a2d(tiny: Tiny, folder: Path) -> tuple[Callable[..., Any], list[Case]]:
    """dLLM's `MDLMSampler.infill`."""
    schedulers = import_module("dllm.core.schedulers")
    A2DQwen3Config, A2DQwen3LMHeadModel = named(
        "a2d_qwen3", "A2DQwen3Config", "A2DQwen3LMHeadModel"
    )
    alpha = import_module("dllm.core.schedulers.alpha")

    vars(schedulers).update({name: getattr(alpha, name) for name in dir(alpha)})
    MDLMSampler, MDLMSamplerConfig = named(
        "dllm.core.samplers.mdlm", "MDLMSampler", "MDLMSamplerConfig"
    )

    config = config_of(tiny, folder, A2DQwen3Config)
    config._attn_implementation = "sdpa"
    model = loaded(A2DQwen3LMHeadModel(config), tiny)
    for layer in model.model.layers:
        layer.attention_type = "full_attention"  # newer releases keep it elsewhere
    mask, cases = tiny.id(tiny.mask), []
    names = types.SimpleNamespace(
        mask_token_id=mask, bos_token_id=tiny.id(tiny.end), eos_token_id=tiny.id(tiny.end)
    )
    sampler = MDLMSampler(model=model, tokenizer=names)
    for prefix, suffix in parts(tiny):
        for size in (4, 12, 20):
            ids = [*prefix, *[mask] * size, *suffix]
            out = sampler.infill(
                [ids], MDLMSamplerConfig(), steps=size, block_size=None, temperature=0.0,
                return_dict=False,
            )  # fmt: skip
            middle = out[0, len(prefix) : len(prefix) + size].tolist()
            cases.append(case(prefix, suffix, middle, steps=size, size=size))
    return lambda ids: model(ids).logits, cases


def run_qwen3(tiny: Tiny, folder: Path) -> tuple[Callable[..., Any], list[Case]]:
    """transformers' own Qwen3, from left to right."""
    Qwen3Config, Qwen3ForCausalLM = named("transformers", "Qwen3Config", "Qwen3ForCausalLM")

    model = loaded(Qwen3ForCausalLM(config_of(tiny, folder, Qwen3Config)), tiny)
    cases = []
    before, middle, behind = (tiny.id(name) for name in tiny.special[2:5])
    for prefix, suffix in parts(tiny):
        context = [before, behind, *suffix, middle, *prefix]
        out = model.generate(torch.tensor([context]), do_sample=False, max_new_tokens=40)
        cases.append(case(prefix, suffix, out[0, len(context) :].tolist()))
    return lambda ids: model(ids).logits, cases


NETWORKS: dict[str, Callable[[Tiny, Path], Any]] = {
    "llada": llada,
    "dream": dream,
    "dreamon": dream,
    "open-dcoder": open_dcoder,
    "sdar": sdar,
    "fast-dllm-v2": fast_dllm_v2,
}
RUNS: dict[str, Callable[[Tiny, Path], tuple[Callable[..., Any], list[Case]]]] = {
    "llada": run_llada,
    "dream": run_dream,
    "dreamon": run_dreamon,
    "open-dcoder": run_open_dcoder,
    "sdar": run_sdar,
    "fast-dllm-v2": run_fast_dllm_v2,
    "a2d": run_a2d,
    "qwen3": run_qwen3,
}

if __name__ == "__main__":
    sys.exit(guarded("parity", main))
