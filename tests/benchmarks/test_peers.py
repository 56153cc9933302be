"""Other models' rules follow their papers, and all decoders fill the same prompts."""

from __future__ import annotations

import hashlib
import json
import lzma
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import peers
from benchmarks.peers import (
    KINDS,
    OURS,
    UNCHECKED,
    Peer,
    PeerRun,
    least_entropy,
    parallel,
    scheduled,
)
from talaria.coder.backbone import Array, Candidates, CpuBackbone, KVCache, likeliest
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.errors import DataError, UsageError
from talaria.coder.request import Options, Settings
from talaria.evals.suites import Problem

LENGTH = 8  # of the tiny model's canvas
HOLE = Problem("p", "p.py", "total = ", "\n", "sum(values)")


class ScriptedBackbone(CpuBackbone):
    """Predicts one token for each position of a canvas, with a given probability.

    `seen` are the canvases it was shown, `read` how often it read a context. On its clock `now`,
    reading takes a second and a canvas a tenth.
    """

    device, threads = "cpu", 1

    def __init__(self, model: Checkpoint, tokens: Sequence[int], sure: Sequence[float]) -> None:
        self.marks = model.marks
        self.table = np.zeros((LENGTH, model.tokenizer.vocab_size), np.float32)
        for place, (token, chance) in enumerate(zip(tokens, sure, strict=True)):
            self.table[place, self.marks.eom - 11 : self.marks.eom - 1] = (1 - chance) / 9
            self.table[place, token] = chance
        self.seen: list[list[int]] = []
        self.read, self.now = 0, 0.0

    def evaluate(self, *_: Any, **__: Any) -> Any:
        """Nothing is computed."""
        raise NotImplementedError

    def encode(
        self, contexts: Sequence[Sequence[int]], cache: KVCache | None = None, forks: Any = None
    ) -> Any:
        """Take a second of the clock."""
        assert cache is None
        self.read += 1
        self.now += 1
        return None, None

    def denoise(
        self, canvas: Array, cache: KVCache, last: Sequence[int], present: Array | None = None
    ) -> Array:
        """The predictions themselves."""
        self.seen.append(canvas[0].tolist())
        self.now += 0.1
        return self.table[None]

    def logits(self, states: Array) -> Array:
        """Logits with these probabilities."""
        with np.errstate(divide="ignore"):
            found: Array = np.log(states)
        return found


@pytest.fixture
def script(model: Checkpoint) -> Callable[..., tuple[Checkpoint, ScriptedBackbone]]:
    """Makes a checkpoint whose backbone predicts these tokens with these probabilities."""

    def make(sure: Sequence[float], end: int | None = None) -> tuple[Checkpoint, ScriptedBackbone]:
        tokens = [5 + place for place in range(LENGTH)]
        if end is not None:
            tokens[end] = model.marks.eom
        backbone = ScriptedBackbone(model, tokens, sure)
        return replace(model, backbone=backbone), backbone

    return make


def candidates_of(rows: Sequence[Sequence[float]] | Array) -> Candidates:
    """Candidates with these probabilities, all tokens among them."""
    logs = np.log(np.maximum(np.array(rows, np.float64), 1e-300))
    return likeliest(logs, logs.shape[1], ())


RISING = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.95]


def opened(backbone: ScriptedBackbone, mask: int) -> list[list[int]]:
    """The positions still masked in each canvas that was read."""
    return [[p for p, token in enumerate(seen) if token == mask] for seen in backbone.seen]


@pytest.mark.parametrize(("steps", "each"), [(8, 1), (4, 2), (2, 4), (1, 8)])
def test_llada_takes_its_steps(
    script: Callable[..., tuple[Checkpoint, ScriptedBackbone]], steps: int, each: int
) -> None:
    """Exactly this many, likeliest first, each reading the context again, whatever the end."""
    for end in (None, 7):
        model, backbone = script(RISING, end)
        tokens, passes, lean, _ = peers.write(model, HOLE, Peer(scheduled(LENGTH, steps), LENGTH))
        assert (passes, backbone.read) == (steps, steps)
        assert opened(backbone, model.marks.mask) == [
            list(range(LENGTH - each * step)) for step in range(steps)
        ]
        assert tokens == [5, 6, 7, 8, 9, 10, 11, 12][: LENGTH if end is None else end]
        assert lean == steps


@given(st.integers(1, 40), st.data())
def test_llada_commits_what_its_schedule_says(length: int, data: st.DataObject) -> None:
    """After step k of n a share k / n is committed, rounded down; all after the last."""
    steps = data.draw(st.integers(1, length))
    rule, rng = scheduled(length, steps), np.random.default_rng(0)
    left = length
    for step in range(steps):
        chosen = rule(candidates_of(rng.dirichlet(np.ones(3), left)), step)
        left -= int(chosen.sum())
        assert left == length - length * (step + 1) // steps
    assert left == 0


@given(st.lists(st.floats(0.26, 1), min_size=1, max_size=12), st.floats(0.2, 1))
def test_fast_dllm_commits_the_sure_and_at_least_one(sure: list[float], threshold: float) -> None:
    """All that reach the threshold and nothing else; if none does, the likeliest."""
    candidates = candidates_of([[p, *[(1 - p) / 4] * 4] for p in sure])
    chosen = parallel(threshold)(candidates, 0).tolist()
    confidence = np.exp(candidates.log_probabilities[:, 0])
    above = (confidence >= threshold).tolist()
    assert chosen == (above if any(above) else [p == confidence.argmax() for p in range(len(sure))])


def test_blocks_are_finished_in_order(
    script: Callable[..., tuple[Checkpoint, ScriptedBackbone]],
) -> None:
    """Likely tokens after the block wait, although the rule would commit them at once."""
    sure = [0.5, 0.99, 0.6, 0.5, 0.99, 0.99, 0.99, 0.99]
    model, backbone = script(sure)
    _, passes, _, _ = peers.write(model, HOLE, Peer(parallel(0.9), 4))
    assert opened(backbone, model.marks.mask) == [
        [0, 1, 2, 3, 4, 5, 6, 7],
        [0, 2, 3, 4, 5, 6, 7],
        [0, 3, 4, 5, 6, 7],
        [3, 4, 5, 6, 7],
        [4, 5, 6, 7],
    ]
    assert passes == 5
    model, backbone = script(sure)
    _, passes, _, _ = peers.write(model, HOLE, Peer(parallel(0.9), LENGTH))
    assert opened(backbone, model.marks.mask)[1] == [0, 2, 3]
    assert passes == 4


def test_dreamon_takes_the_least_entropy() -> None:
    """One token a step, which need not be the likeliest."""
    rows = [[0.55, 0.15, 0.15, 0.15], [0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]
    candidates = candidates_of(rows)
    assert least_entropy(candidates, 0).tolist() == [False, True, False]
    assert parallel(0.9)(candidates, 0).tolist() == [True, False, False]


def test_lean_is_until_the_text_stands(
    script: Callable[..., tuple[Checkpoint, ScriptedBackbone]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The text is cut at the first `<eom>`; what follows costs time, but not in lean figures."""
    model, backbone = script([0.8, 0.7, 0.9, 0.6, 0.5, 0.4, 0.3, 0.35], end=2)
    monkeypatch.setattr(peers, "time", SimpleNamespace(perf_counter=lambda: backbone.now))
    turn = peers.ask(model, KINDS[0], HOLE, "one", Peer(scheduled(LENGTH, LENGTH), LENGTH))
    assert turn.text == model.tokenizer.decode([5, 6])
    assert (turn.tokens, turn.committed) == (2, LENGTH)
    assert (turn.passes, turn.lean_passes) == (8, 3)
    assert turn.ms == pytest.approx(8 * 1100)
    assert turn.lean_ms == pytest.approx(1000 + 3 * 100)
    assert turn.exact == 0
    for solution, exact in ((turn.text, 1), (turn.text + ")", 0)):
        hole = replace(HOLE, solution=solution)
        assert peers.ask(model, KINDS[0], hole, "one", Peer(least_entropy, LENGTH)).exact == exact


def test_marks_and_masks_are_never_written(
    script: Callable[..., tuple[Checkpoint, ScriptedBackbone]],
) -> None:
    """Even if they are the likeliest."""
    model, backbone = script(RISING)
    backbone.table[:, list(model.marks.never)] = 1.0
    tokens, *_ = peers.write(model, HOLE, Peer(parallel(0.9), LENGTH))
    assert tokens == [5, 6, 7, 8, 9, 10, 11, 12]


def test_every_decoder_fills_a_hole(model: Checkpoint) -> None:
    """Peers fill their one canvas; the lean cost is at most the full cost."""
    for name, decoder in peers.decoders(LENGTH).items():
        turn = peers.ask(model, KINDS[0], HOLE, name, decoder)
        assert turn.decoder == name
        assert turn.ms > 0
        if isinstance(decoder, Peer):
            assert turn.committed == LENGTH
            assert 1 <= turn.lean_passes <= turn.passes <= LENGTH
            assert 0 < turn.lean_ms <= turn.ms


def test_ours_is_what_infill_does(model: Checkpoint) -> None:
    """The first baseline has the default options; the second only lacks the syntax check."""
    found = peers.decoders(32)
    usual = Options(confidence_threshold=Settings().confidence_threshold)
    assert found[OURS] == usual
    assert found[UNCHECKED] == replace(usual, check_syntax=False)
    assert {"LLaDA, 32 steps", "LLaDA, 16 steps", "LLaDA, 8 steps"} < found.keys()


TEXT = "".join(f"def f{i}(a):\n    return a + {i}\n\n\n" for i in range(6))


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A corpus of two held-out files."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [{"package": "p", "path": f"{i}.py", "text": TEXT} for i in range(2)]
    raw = lzma.compress("".join(json.dumps(row) + "\n" for row in rows).encode())
    (folder / "valid-000.jsonl.xz").write_bytes(raw)
    part = {"file": "valid-000.jsonl.xz", "sha256": hashlib.sha256(raw).hexdigest()}
    manifest = {"format": 2, "parts": [{**part, "split": "valid"}]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_holes_are_ends_and_whole_lines(corpus: Path) -> None:
    """Equally many, no line twice, each part of its file, lines with and without indentation."""
    found = peers.prompts(corpus, 12, 0)
    assert [kind for kind, _ in found] == list(KINDS) * 12
    assert len({problem.id.rpartition(":")[0] for _, problem in found}) == 24
    starts = set()
    for kind, problem in found:
        assert problem.prefix + problem.solution + problem.suffix == TEXT
        assert problem.solution.count("\n") == 0
        assert problem.suffix.startswith("\n")
        start = problem.prefix.rpartition("\n")[2]
        assert (start.strip() == "") == (kind == "whole line")
        if kind == "whole line":
            assert problem.solution.lstrip().startswith(("def f", "return a"))
            starts.add((start, problem.solution[:4]))
    assert starts == {("", "def "), ("    ", "retu"), ("", "    ")}
    assert peers.prompts(corpus, 3, 1) != peers.prompts(corpus, 3, 0)


def turn(prompt: str, decoder: str, ms: float, exact: float = 0.0, kind: str = KINDS[0]) -> PeerRun:
    """A filled prompt; its file is the prompt's first letter."""
    return PeerRun(kind, prompt, prompt[0], decoder, "", exact, 4, ms, 8, 2, 2, ms / 2)


def test_figures_are_of_pairs() -> None:
    """Ratios are geometric means over prompts, whatever the order of the runs."""
    turns = []
    for kind in KINDS:
        turns += [turn("a1", OURS, 10, 1, kind), turn("b1", OURS, 20, 0, kind)]
        turns += [turn("b1", "other", 160, 1, kind), turn("a1", "other", 20, 1, kind)]
        turns += [turn("a1", UNCHECKED, 5, 1, kind), turn("b1", UNCHECKED, 5, 0, kind)]
    part = peers.figures(turns, [OURS, UNCHECKED, "other"])[KINDS[0]]
    assert (part["prompts"], part["files"]) == (2, 2)
    other = part["decoders"]["other"]
    assert other["exact"] == {"mean": 1.0, "interval": None}
    assert other["ms"]["mean"] == 90
    assert other[f"against {OURS}"]["exact"] == {"mean": 0.5, "interval": (0.0, 1.0)}
    assert other[f"against {OURS}"]["ms"]["mean"] == pytest.approx(math.sqrt(2 * 8))
    assert other[f"against {OURS}"]["ms"]["interval"] == pytest.approx((2, 8))
    assert other[f"against {UNCHECKED}"]["lean_ms"]["mean"] == pytest.approx(math.sqrt(2 * 16))
    assert part["decoders"][OURS][f"against {OURS}"]["ms"] == {"mean": 1.0, "interval": None}


def test_the_command(
    corpus: Path, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints a table and writes all figures, for every decoder on every prompt."""
    out = tmp_path / "peers.json"
    words = ["--corpus", str(corpus), "--model", str(model_folder), "--prompts", "2"]
    assert peers.main([*words, "--json", str(out)]) == 0
    printed = capsys.readouterr()
    names = list(peers.decoders(LENGTH))
    assert all(printed.out.count(f"\n{name}  ") == 4 for name in names)
    assert "whole line: 2 prompts in" in printed.out
    assert "48/48" in printed.err
    found = json.loads(out.read_text())
    assert found["kinds"].keys() == set(KINDS)
    rows = found["turns"]
    assert len({(row["kind"], row["prompt"], row["decoder"]) for row in rows}) == len(rows) == 48
    orders = [[row["decoder"] for row in rows[i : i + 12]] for i in range(0, 48, 12)]
    assert all(sorted(order) == sorted(names) for order in orders)
    assert len({order[0] for order in orders}) > 1
    steps = {row["passes"] for row in rows if row["decoder"] == f"LLaDA, {LENGTH // 2} steps"}
    assert steps == {LENGTH // 2}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--prompts", "0"], "--prompts is 0; it must be at least 1"),
        (["--prompts", "13"], "--prompts is 13, which takes 26 lines of code"),
        (["--json", "no/such/folder/x.json"], "--json is no/such/folder/x.json"),
    ],
)
def test_wrong_numbers(corpus: Path, words: list[str], message: str) -> None:
    """They are refused before anything is filled, with the remedy."""
    with pytest.raises(UsageError, match=message):
        peers.main(["--corpus", str(corpus), *words])
    with pytest.raises(DataError, match="talaria corpus"):
        peers.main(["--corpus", str(corpus / "none")])


def test_means_are_means() -> None:
    """Not medians; for ratios, geometric means."""
    files = ["a", "b", "c"]
    assert peers.mean([1, 2, 6], files)["mean"] == 3
    assert peers.ratio([1, 2, 32], files)["mean"] == pytest.approx(4)
    assert peers.cell(peers.mean([0.5, 0.5, 0.5], files), 1, 100) == "50.0"
    assert peers.cell({"mean": 0.25, "interval": (0.1, 0.5)}, 1, 100) == "25.0 (10.0 – 50.0)"
