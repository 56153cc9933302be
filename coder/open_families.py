"""The open families: one table of what tells them apart.

All are decoders of Llama's kind, and all but Qwen3 masked diffusion models. What the table does not
say is read from a model's folder (`families/masked_files`); `docs/families.md` says what was
checked, and how.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Literal

from talaria.coder.schedule import Schedule

Attention = Literal["full", "block", "causal"]
SIZES = 4, 8, 16, 32  # canvases that are tried where nothing tells the length of a middle


@dataclass(frozen=True)
class Family:
    """What is true of all models of a family.

    architectures  names that `architectures` in a configuration may have
    attention      "full": every position sees all; "block": all of its own block and those before;
                   "causal": itself and those before, so that a canvas cannot be read
    shift          whether the state of position i predicts token i + 1
    mask           names of the mask in a vocabulary, where the configuration gives no id; of a
                   causal model, a token that no middle has, for positions where none stands yet
    end            names of the token that ends a text
    begin, close   whether a beginning mark stands before the prefix, the end mark behind the suffix
    expand         the name of the token that becomes two masks; None: the length is not learned
    block          positions of a block, unless the configuration has a `block_field`
    schedule       how its authors decode
    source         where this was read, at which commit
    """

    name: str
    architectures: tuple[str, ...]
    attention: Attention
    shift: bool
    mask: tuple[str, ...]
    end: tuple[str, ...]
    schedule: Schedule
    source: str
    begin: bool = False
    close: bool = False
    expand: str | None = None
    block: int = 0
    block_field: str | None = None


LLADA = Family(
    "LLaDA",
    ("LLaDAModelLM",),
    "full",
    shift=False,
    mask=("<|mdm_mask|>",),
    end=("<|endoftext|>", "<|eot_id|>"),
    schedule=Schedule("even", block=32, sizes=SIZES),
    source="ML-GSAI/LLaDA b7e6c35, generate.py; NVlabs/Fast-dLLM 24cc59e, llada/model",
)
DREAM = Family(
    "Dream",
    ("DreamModel",),
    "full",
    shift=True,
    mask=("<|mask|>",),
    end=("<|endoftext|>",),
    schedule=Schedule("time", "entropy", top_p=0.95, sizes=SIZES),
    source="ZHZisZZ/dllm ca17675, dllm/pipelines/dream/models; apple/ml-diffucoder f735e01 (T 0.2)",
)
DREAMON = replace(
    DREAM,
    name="DreamOn",
    schedule=Schedule("single", "entropy", top_p=0.9, most=64, sizes=(4,)),
    begin=True,
    close=True,
    expand="<|expand|>",
    source="DreamLM/DreamOn 8a0a549, eval/generator.py, demo/quickstart.py",
)
OPEN_DCODER = Family(
    "Open-dCoder",
    ("Qwen2ForCausalLM",),
    "full",
    shift=True,
    mask=("<M>",),
    end=("<|endoftext|>",),
    schedule=Schedule("p2", top_p=0.95, steps=64, sizes=SIZES),
    source="pengzhangzhi/Open-dLLM 8b38787, veomni/models/transformers/qwen2, eval/eval_infill",
)
SDAR = Family(
    "SDAR",
    ("SDARForCausalLM",),
    "block",
    shift=False,
    mask=("<|MASK|>",),
    end=("<|endoftext|>", "<|im_end|>"),
    schedule=Schedule("single", block=4, absolute=True, threshold=0.85),
    block=4,
    block_field="block_size",  # a model named …-b32 has longer ones
    source="JetAstra/SDAR c2041a8, generate.py; Gen-Verse/dLLM-RL 10b4fd1, models/sdar; "
    "hxhcreate/DARE b6aa3ba, models/SDAR-1dot7B-Chat/config.json (block_size)",
)
FAST_DLLM_V2 = Family(
    "Fast-dLLM v2",
    ("Fast_dLLM_QwenForCausalLM",),
    "block",
    shift=True,
    mask=("|<MASK>|",),
    end=("<|im_end|>", "<|endoftext|>"),
    schedule=Schedule("single", block=8, absolute=True, threshold=0.9, lead=32, top_p=0.95),
    block=32,
    block_field="bd_size",
    source="the model's own modeling.py and config.json, as in Satgoy152/DualDiffusion 9587d1e",
)
A2D = Family(
    "dLLM",
    ("A2DQwen2LMHeadModel", "A2DQwen3LMHeadModel", "A2DLlamaLMHeadModel"),
    "full",
    shift=False,
    mask=("<|mask|>",),
    end=("<|endoftext|>", "<|im_end|>"),
    schedule=Schedule("even", block=32, sizes=SIZES),
    source="ZHZisZZ/dllm ca17675, dllm/pipelines/a2d, dllm/core/samplers/mdlm.py",
)
QWEN3 = Family(
    "Qwen3",
    ("Qwen3ForCausalLM",),
    "causal",
    shift=True,
    mask=("<|fim_middle|>",),
    end=("<|endoftext|>",),
    schedule=Schedule("single"),
    source="transformers 4.53.1, models/qwen3",
)
FAMILIES = (LLADA, DREAM, DREAMON, OPEN_DCODER, SDAR, FAST_DLLM_V2, A2D, QWEN3)


def family_of(architecture: str, special: Container[str]) -> Family | None:
    """The family of a folder; None where it is of none of them.

    Special tokens tell DreamOn from Dream, and Open-dCoder from Qwen2. They go by name: DiffuCoder,
    a Dream, has another token at the id of DreamOn's `<|expand|>`.
    """
    if architecture in DREAM.architectures:
        return DREAMON if DREAMON.expand in special else DREAM
    for family in FAMILIES:
        if architecture in family.architectures:
            fits = family is not OPEN_DCODER or any(name in special for name in family.mask)
            return family if fits else None
    return None
