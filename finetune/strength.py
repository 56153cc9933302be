"""How much of an adapter is right: `python -m talaria.finetune.strength ADAPTER --corpus FOLDER`.

An adapter that was trained for minutes has learnt the habits of its rows along with canvases and
ends: to write little, for instance. With its updates at a strength between 0 (the base alone) and
1, the weights lie between the two models, and may be better than both (WiSE-FT, arXiv 2109.01903).
The end of a middle then loses much of its probability, which a bias of its logit gives back.

Each strength is measured on rows of held-out files, half with short middles and half with long
ones: the loss of their text, that of their ends without a bias and with the best one, and the
tokens of a pass. A strength is relative to the adapter as it is, whose own bias takes no part.
`--write` makes an adapter of the strength and bias that were chosen.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save as dump_weights
from tqdm import tqdm

from talaria.coder import checkpoint
from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.coder.errors import DataError, UsageError
from talaria.coder.families.qwen2_tokenizer import layout_of
from talaria.finetune import adapt
from talaria.finetune.adaptation import (
    EPSILON,
    CanvasBatch,
    CanvasRow,
    HoleRows,
    draw_canvases,
    endings,
)
from talaria.finetune.adapter import read, tensors_of
from talaria.finetune.corpus import read_nonempty
from talaria.finetune.low_rank import LowRank, merge
from talaria.finetune.repository import shape_of
from talaria.finetune.state import writing

STRENGTHS = (0.3, 0.5, 0.7, 1.0)
BIASES = tuple(np.arange(0, 4.01, 0.25).tolist())  # nats that are tried
SHORT, LONG = 20, 50  # tokens of a middle with its end: at most, and at least
LONGEST, LENGTH = 200, 400  # tokens of a long middle, and of its row
SEED = 7  # of the rows
ATTEMPTS = 100  # middles that are drawn for each row, at most


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each strength and print a table, or write an adapter; exit code 0."""
    parser = Parser(prog="strength", description=__doc__.split(":")[0])
    parser.add_argument("adapter", help="an adapter's folder, or a name from `talaria models`")
    parser.add_argument("--corpus", type=Path, required=True, help="made by talaria corpus")
    parser.add_argument("--rows", type=int, default=16, metavar="N", help="of each length (16)")
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS, metavar="S")
    parser.add_argument(
        "--write", type=float, metavar="S", help="write an adapter of this strength"
    )
    parser.add_argument(
        "--end-bias", type=float, metavar="NATS", help="its bias (default: as it is)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to")
    args = parser.parse_args(argv)
    for each in (*args.strengths, *([] if args.write is None else [args.write])):
        if not 0 <= each <= 1:
            raise UsageError(f"a strength is {each}; it must lie between 0 and 1")
    if args.rows < 1:
        raise UsageError(f"--rows is {args.rows}; it must be 1 or more")
    no_bias = args.end_bias is None
    if (args.write is None) != (args.out is None) or (args.write is None and not no_bias):
        raise UsageError("--write, a strength, and --out, a new folder, belong together")
    if not no_bias and not -20 <= args.end_bias <= 20:
        raise UsageError(f"--end-bias is {args.end_bias}; it must lie between -20 and 20")
    if args.out is not None and args.out.exists():
        raise UsageError(f"{args.out} is there already; name a new folder")
    run, config = opened(args.adapter, args.corpus)
    every = run.adaptation.modules()
    full = {each: each.lora_B.detach().clone() for each in every if isinstance(each, LowRank)}
    if args.write is None:
        measure(run, full, args.corpus, args.rows, args.strengths)
        return 0
    set_strength(run, full, args.write)
    if not no_bias:
        run.adaptation.end_bias.fill_(args.end_bias)
    run.validate()
    strength = args.write * config["training"].get("strength", 1)
    decoding = {name: each for name, each in config["decoding"].items() if name != "lookahead"}
    described = {
        **config,
        "decoding": decoding,  # looks ahead as far as pays, by `accepted`
        "accepted": run.accepted,
        "training": {**config["training"], "strength": strength},
    }
    with writing(args.out):
        weights = dump_weights(tensors_of(run))
        checkpoint.write(args.out, weights, described, name=checkpoint.ADAPTER)
    print(f"{args.out}: the adapter at strength {strength:g} of what was trained")
    return 0


def measure(
    run: adapt.AdaptationRun,
    full: dict[LowRank, torch.Tensor],
    corpus: Path,
    count: int,
    strengths: Sequence[float],
) -> None:
    """Print a line for each strength: losses in nats, of a token of text and of a row's ends."""
    groups = rows_of(run, corpus, count)
    run.adaptation.end_bias.zero_()  # the best one takes its place
    of_lengths = f"{'text, short':>13}{'text, long':>12}"
    print(f"strength{of_lengths}{'ends':>7}{'bias':>7}{'ends':>7}{'tokens a pass':>15}")
    for strength in tqdm(strengths, unit="strength", disable=None):
        set_strength(run, full, strength)
        found = [[losses(run, row) for row in rows] for rows in groups]
        texts = [np.mean([text for text, _ in group]) for group in found]
        ends = [np.mean([end for _, end in group], 0) for group in found]
        of_biases = np.mean(ends, 0)
        best = int(of_biases.argmin())
        passes = run.validate()["validation_tokens_per_pass_chained_as_read"]
        tqdm.write(
            f"{strength:<8g}{texts[0]:13.3f}{texts[1]:12.3f}{of_biases[0]:7.2f}{BIASES[best]:7.2f}"
            f"{of_biases[best]:7.2f}{passes:15.2f}"
        )


def opened(adapter: str, corpus: Path) -> tuple[adapt.AdaptationRun, dict[str, Any]]:
    """The adapter and its base as `talaria adapt` has them, and the adapter's description.

    UsageError if it is none.
    """
    folder, _ = read(adapter)
    config = checkpoint.read_config(folder)  # as it is stored
    base = checkpoint.find_base(config, folder / checkpoint.CONFIG)
    given = [str(base), "--corpus", str(corpus), "--out", "-", "--steps", "1"]
    given += ["--init", str(folder), *shape_of(config, ())]
    return adapt.AdaptationRun(adapt.parse(given)), config


@torch.no_grad()
def set_strength(
    run: adapt.AdaptationRun, full: dict[LowRank, torch.Tensor], strength: float
) -> None:
    """Scale the updates that the adapter has at full strength."""
    for each, update in full.items():
        each.lora_B.copy_(strength * update)
    merge(run.adaptation)


def rows_of(run: adapt.AdaptationRun, corpus: Path, count: int) -> list[list[CanvasRow]]:
    """So many rows of held-out files with short middles, and with long ones.

    DataError if the files have too few.
    """
    texts = [document.text for document in read_nonempty(corpus, "valid")]
    drawn = HoleRows(texts, layout_of(run.tokenizer), run.marks.eom, LENGTH, LONGEST, SEED)
    short, long = list[CanvasRow](), list[CanvasRow]()
    for number in range(ATTEMPTS * count):
        row = drawn[number]
        size = len(row.ids) - row.middle
        group = short if size <= SHORT else long if size >= LONG else None
        if group is not None and len(group) < count:
            group.append(draw_canvases(row, 0, run.recipe.masks, np.random.default_rng(0)))
        if len(short) == len(long) == count:
            return [short, long]
    raise DataError(
        f"{corpus}: of {ATTEMPTS * count} middles of held-out files, {len(short)} have at most "
        f"{SHORT} tokens and {len(long)} at least {LONG}; lower --rows from {count}"
    )


@torch.no_grad()
def losses(run: adapt.AdaptationRun, row: CanvasRow) -> tuple[float, list[float]]:
    """The loss of a token of a row's middle, and for each bias that of ending where it ends.

    The latter is the sum of `endings`.
    """
    batch = CanvasBatch.of([row], run.device)
    with run.autocast():
        states, _ = run.adaptation.states(batch)
        logs = run.adaptation.logits(states[0, row.middle - 1 :]).log_softmax(-1)
    ids = batch.ids[0, row.middle :]
    text = float(-logs.gather(-1, ids[:, None])[:-1].mean())
    ends = logs[:, run.marks.eom].exp().clamp(EPSILON, 1 - EPSILON).logit()
    here = ids == run.marks.eom
    return text, [float(endings(F.logsigmoid(ends + bias), here).sum()) for bias in BIASES]


if __name__ == "__main__":
    sys.exit(guarded("strength", main))
