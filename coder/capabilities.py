"""What a model can be asked for: options that it cannot serve are refused before it computes."""

from __future__ import annotations

from collections.abc import Sequence

from talaria.coder.checkpoint import Checkpoint
from talaria.coder.errors import UsageError
from talaria.coder.request import MODES, Mode, Options


def modes(model: Checkpoint) -> tuple[Mode, ...]:
    """The modes that a model can decode in."""
    if model.schedule is not None:
        return ("diffuse",)
    return tuple(mode for mode in MODES if mode != "diffuse" or model.backbone.denoises)


def check(model: Checkpoint, options: Options) -> None:
    """UsageError for options, settled or not, that the model cannot fill a hole by."""
    options = options.settled(model.settings)
    longest = model.settings.longest
    if options.max_tokens is not None and options.max_tokens > longest:
        raise UsageError(
            f"--max-tokens is {options.max_tokens}; this model's limit is {longest}, half its "
            "context"
        )
    check_decoding(model, options)
    if options.sizes:
        check_sizes(model, options.sizes)
        _check_room(model, options.sizes, options.max_tokens or longest)


def check_decoding(model: Checkpoint, options: Options) -> None:
    """UsageError for a mode or an approximate cache that the model does not have."""
    if options.mode not in modes(model):
        why = (
            "reads in both directions, so it cannot write from left to right; use --mode diffuse"
            if model.schedule is not None
            else "is a causal model that cannot read a canvas; use --mode verify or ar"
        )
        raise UsageError(f"--mode is {options.mode}, and {model.name} {why}")
    if options.approximate_cache and (model.schedule is None or model.schedule.absolute):
        raise UsageError(
            f"--approximate-cache is {options.approximate_cache}, and {model.name} keeps what it "
            "read exactly; leave it out"
        )


def check_sizes(model: Checkpoint, sizes: Sequence[int]) -> None:
    """UsageError for sizes of canvases where the model ends its middles itself."""
    known = () if model.schedule is None else model.schedule.sizes
    listed = ",".join(map(str, sizes))
    if not known:
        raise UsageError(f"--sizes is {listed}, and {model.name} ends its middles; leave it out")
    if len(known) == 1 < len(sizes):
        raise UsageError(
            f"--sizes is {listed}, and {model.name} learns the length; give one, to begin with"
        )


def _check_room(model: Checkpoint, sizes: Sequence[int], most: int) -> None:
    """UsageError for a canvas of more than `most` tokens, or than it may grow to."""
    largest, limit = max(sizes), most
    remedy = f"give --max-tokens {largest}, too" if largest <= model.settings.longest else ""
    if model.schedule is not None and model.schedule.expand is not None:
        limit = min(most, model.schedule.most)
        remedy = remedy if largest <= model.schedule.most else ""
    if largest > limit:
        raise UsageError(
            f"--sizes has {largest}, and a middle of {model.name} has at most {limit} tokens; "
            f"{remedy or 'give less'}"
        )
