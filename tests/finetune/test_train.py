"""Training resumes wherever it ended, and writes a model that can be loaded."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention

from talaria.coder import checkpoint, cli
from talaria.coder.errors import DataError, UsageError
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.families.talaria_torch import Transformer
from talaria.coder.infill import infill
from talaria.coder.request import Options
from talaria.finetune import corpus, train, validate, vocabularies
from talaria.finetune import tokenizer as tokenizer_command
from talaria.finetune.batch import TrainingBatch
from talaria.finetune.objective import Objective
from talaria.finetune.recipe import Recipe
from talaria.finetune.run import Budget, Run, Validation
from talaria.finetune.samples import Samples
from talaria.finetune.state import check_identity, read_state, write_state
from talaria.finetune.throughput import has_fast_bfloat16
from talaria.finetune.trainable import load_trainable, save
from talaria.finetune.trainer import BOUND_SPIKE, SPIKE, Trainer, is_spike
from talaria.finetune.validate import Cursor, exact_match
from tests.conftest import TEXTS

SHAPE = [
    *("--layers", "1", "--width", "32", "--heads", "2", "--context-length", "64"),
    *("--block-length", "4", "--canvas-tokens", "16", "--max-middle", "24"),
    *("--rows", "4", "--micro-batch", "2"),
    *("--save-every", "0.001", "--validate-every", "1000"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: TalariaTokenizer) -> Path:
    """A folder with a small corpus and a tokenizer."""
    folder = tmp_path_factory.mktemp("data")
    splits = {
        split: [
            corpus.CorpusDocument("p", f"{split}{i}.py", text.replace("mean", f"mean{i}"))
            for i, text in enumerate(TEXTS)
        ]
        for split in ("train", "valid")
    }
    corpus.write_corpus(folder / "corpus", splits, {})
    tokenizer.save(folder / "tokenizer.json")
    return folder


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    """The command line of a tiny run."""
    where = ["--corpus", str(folder / "corpus"), "--tokenizer", str(folder / "tokenizer.json")]
    return [*where, "--out", str(out), *SHAPE, *more]


def lines(out: Path) -> list[dict[str, Any]]:
    """The complete lines of a run's metrics."""
    metrics = out / "metrics.jsonl"
    text = metrics.read_text() if metrics.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line.endswith("}")]


def events(out: Path) -> list[str]:
    """The events of a run."""
    return [line["event"] for line in lines(out) if "event" in line]


def curve(out: Path) -> list[Any]:
    """Step, schedule and losses of every step."""
    return [
        (e["step"], e["rate"], e["canvas_length"], e["next_token_loss"], e["bound"])
        for e in lines(out)
        if "rate" in e
    ]


def start(folder: Path, out: Path, *more: str) -> list[str]:
    """The command line of a tiny run as a separate process."""
    return [sys.executable, "-m", "talaria.finetune.train", *arguments(folder, out, *more)]


# One thread, as in this process, and no downloads.
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "https_proxy": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
}


def by_steps(real: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `Trainer.train_step` so that every step takes one second on its clock."""

    def step(trainer: Trainer, batches: Iterator[TrainingBatch], progress: float) -> Any:
        entry = real(trainer, batches, progress)
        trainer.elapsed = float(trainer.step)
        return entry

    return step


FIGURES = {"validation_next_token_loss": 1.0, "validation_bound": 1.0}


def tiny_run(argv: list[str]) -> None:
    """A run in its own process, with time counted in steps and without validation."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    multiprocessing.set_start_method("fork", force=True)  # for workers, as in a separate program
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "train_step", by_steps(Trainer.train_step))
        patch.setattr(Validation, "__call__", lambda *_: FIGURES)
        patch.setattr("talaria.finetune.trainer.matrix_peak", lambda device, dtype: 1e12)
        assert train.main(argv) == 0


def test_a_killed_run_resumes_with_the_same_curve(folder: Path, tmp_path: Path) -> None:
    """Killed with signal 9 at ten random moments, it ends like an uninterrupted run.

    It saves every six steps, has workers, trains canvases from step 12 and averages weights from
    step 30.
    """
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    plan = ["--steps", "60", "--next-token-share", "0.2", "--average-from", "0.5"]
    plan += ["--workers", "2", "--cursors", "0", "--save-every", "5"]
    # A fork server: importing torch in each process would take most of the time.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__, "accelerate", "tqdm"])

    def begin(out: Path, *more: str) -> multiprocessing.process.BaseProcess:
        process = processes.Process(target=tiny_run, args=(arguments(folder, out, *plan, *more),))
        process.start()
        return process

    uninterrupted = begin(whole)
    rng = random.Random(0)
    for moment in sorted(rng.randrange(50) for _ in range(10)):
        process = begin(killed, *(["--resume"] if (killed / "state.pt").exists() else []))
        while process.is_alive() and len(curve(killed)) < moment:
            time.sleep(0.01)
        time.sleep(rng.random() * 0.05)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')  # a line torn by the kill
    last = begin(killed, "--resume")
    for process in (last, uninterrupted):
        process.join()
        assert process.exitcode == 0
    assert curve(killed) == curve(whole)
    assert [step for step, *_ in curve(whole)] == list(range(1, 61))
    for name in ("denoiser", "average"):
        one, other = (read_state(out / "state.pt")[name] for out in (killed, whole))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)

    first, last_step = curve(whole)[0], curve(whole)[-1]
    assert last_step[3] < first[3]
    result = infill(checkpoint.load(whole / "model"), "def mean(", "\n", Options(max_tokens=16))
    assert result.nfe >= 1


def test_an_interrupt_keeps_the_state(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C ends a run cleanly; resuming it with other settings is refused."""
    real = Trainer.train_step

    def interrupted(trainer: Trainer, batches: Iterator[TrainingBatch], progress: float) -> Any:
        if trainer.step == 3:
            signal.raise_signal(signal.SIGINT)
        return real(trainer, batches, progress)

    monkeypatch.setattr(Trainer, "train_step", interrupted)
    out = tmp_path / "run"
    assert train.main(arguments(folder, out, "--steps", "6")) == 130
    monkeypatch.undo()
    assert len(curve(out)) == 4
    with pytest.raises(UsageError, match="--resume"):
        train.main(arguments(folder, out, "--steps", "6"))
    with pytest.raises(DataError, match="recipe seed 0, not 5;"):
        train.main(arguments(folder, out, "--steps", "6", "--resume", "--seed", "5"))
    assert train.main(arguments(folder, out, "--steps", "6", "--resume")) == 0
    assert len(curve(out)) == 6
    assert events(out) == ["resumed"]

    (out / "state.pt").write_bytes((out / "state.pt").read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged"):
        train.main(arguments(folder, out, "--steps", "6", "--resume"))


def test_a_run_of_another_version_is_not_resumed(tmp_path: Path) -> None:
    """Its recipe has settings that no option gives."""
    former = {"recipe": {"rows": 16, "exercise_share": 0.25}, "exercises": "d7c57cfd"}
    message = r"recipe exercise_share 0\.25, not None; resume with the version that started the run"
    with pytest.raises(DataError, match=message):
        check_identity(tmp_path / "state.pt", former, {"recipe": {"rows": 16}})


def test_a_slice_ends_in_time_and_the_next_continues(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slices follow wall-clock time and write a checkpoint; the rate schedule continues.

    A step counts as a second of the budget, so the load of the machine decides nothing.
    """
    monkeypatch.setattr(Trainer, "train_step", by_steps(Trainer.train_step))
    out = tmp_path / "run"
    plan = arguments(folder, out, "--minutes", "0.5", "--cursors", "0")
    assert train.main([*plan, "--slice", "0.0001"]) == 0
    assert len(curve(out)) == 1  # even the shortest slice takes a step
    assert checkpoint.load(out / "model").config["training"]["optimiser_steps"] == 1
    with pytest.raises(DataError, match=r"planned_minutes 0\.5, not 0\.6;"):
        train.main([*arguments(folder, out, "--minutes", "0.6"), "--resume"])
    assert train.main([*plan, "--slice", "1000", "--resume"]) == 0
    assert checkpoint.load(out / "model").config["training"]["validation_bound"] > 0
    assert len(curve(out)) == 23  # a quarter of the half minute is left for the result
    assert curve(out)[-1][1] < 0.2 < curve(out)[15][1]


def test_a_finished_run_is_left_unchanged(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Resuming it says so and measures nothing; one killed before its last checkpoint resumes."""
    out = tmp_path / "run"
    plan = arguments(folder, out, "--steps", "3", "--cursors", "0")
    with monkeypatch.context() as patch:
        patch.setattr(Run, "finish", lambda run: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            train.main(plan)
    assert "validation_bound" not in checkpoint.load(out / "model").config["training"]
    assert train.main([*plan, "--resume"]) == 0
    assert "validation_bound" in checkpoint.load(out / "model").config["training"]

    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}

    before = files()
    capsys.readouterr()
    monkeypatch.setattr(Validation, "__call__", lambda *_: pytest.fail("it was measured"))
    assert train.main([*plan, "--resume"]) == 0
    assert "finished at step 3" in capsys.readouterr().err
    assert files() == before


def test_slices_shorter_than_the_time_between_validations(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are validated too: the state keeps the time of the last validation."""
    monkeypatch.setattr(Validation, "__call__", lambda *_: FIGURES)
    monkeypatch.setattr(Trainer, "train_step", by_steps(Trainer.train_step))
    # Slices of two steps of one second each.
    monkeypatch.setattr(Run, "seconds_left", lambda run: 60.0 * (run.trainer.step % 2))
    plan = arguments(folder, tmp_path / "run", "--steps", "9", "--cursors", "1", "--slice", "1")
    plan[plan.index("--validate-every") + 1] = "2.5"
    for more in ([], *(["--resume"] for _ in range(4))):
        assert train.main([*plan, *more]) == 0
    validated = [e["step"] for e in lines(tmp_path / "run") if "validation_bound" in e]
    assert validated == [3, 7, 9]
    assert len(curve(tmp_path / "run")) == 9


def test_validation_is_part_of_the_minutes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its time counts; a quarter is left for the result, up to two minutes; then steps come."""
    slow = 0.5

    def measured(*_: object) -> dict[str, float]:
        time.sleep(slow)
        return FIGURES

    monkeypatch.setattr(Validation, "__call__", measured)
    plan = arguments(folder, tmp_path / "run", "--cursors", "1", "--minutes", "0.1")
    plan[plan.index("--validate-every") + 1] = "0.2"
    assert train.main(plan) == 0
    found = lines(tmp_path / "run")
    at = [number for number, line in enumerate(found) if "validation_bound" in line]
    for number in at[:-2]:  # the last two are of the result, and may follow one that took the rest
        before, after = found[number - 1], found[number + 1]
        assert "rate" in before
        if "rate" in after:
            assert after["elapsed"] - before["elapsed"] >= slow - 0.1  # rounded to tenths
    assert len(at) > 2
    assert Budget.measured(1, None) == Budget(1, None, 15)
    assert Budget.measured(180, None).reserve == 120
    assert Budget.measured(1, None).progress(0, 45) == 1
    assert Budget.measured(None, 9).progress(9, 1e9) == 1
    assert (Budget.measured(1, None).validation, Budget(None, 9).validation) == (2, math.inf)


def test_holes_are_decoded_while_there_is_time(
    model: checkpoint.Checkpoint,
) -> None:
    """At least one; a second model decodes as many, however long that takes."""
    holes = [Cursor("line", "x = ", "1", "\n", "x.py")] * 5
    assert exact_match(model, holes, "ar", 0.0)["holes_ar"] == 1
    assert exact_match(model, holes, "ar")["holes_ar"] == 5


@pytest.mark.parametrize(
    ("share", "exact", "bound", "next_token", "averaged"),
    [
        ("0", (0.1, 0.2), (3.0, 3.1), (1.0, 1.1), True),
        ("0", (0.2, 0.1), (3.1, 3.0), (1.1, 1.0), False),
        ("0", (0.2, 0.2), (3.0, 3.1), (1.1, 1.0), False),
        ("0", None, (3.1, 3.0), (1.0, 1.1), True),
        ("1", (0.2, 0.1), (3.0, 3.1), (1.1, 1.0), True),
    ],
)
def test_the_better_of_last_weights_and_average_is_kept(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    share: str,
    exact: tuple[float, float] | None,
    bound: tuple[float, float],
    next_token: tuple[float, float],
    averaged: bool,
) -> None:
    """By exact matches, then the bound; by the next-token loss if no canvas was trained."""
    figures: list[dict[str, float]] = [
        {"validation_bound": bound[i], "validation_next_token_loss": next_token[i]}
        | ({"validation_exact_diffuse_all": exact[i]} if exact else {})
        for i in range(2)
    ]
    given = iter(figures)
    monkeypatch.setattr(Validation, "__call__", lambda *_: next(given))
    out = tmp_path / "run"
    more = ("--steps", "4", "--next-token-share", share, "--average-from", "0")
    assert train.main(arguments(folder, out, *more)) == 0
    state, model = read_state(out / "state.pt"), load_trainable(out / "model")
    kept = state["average" if averaged else "denoiser"]["embed.weight"]
    assert torch.equal(model.transformer.embed.weight, kept.half().float())
    assert model.config["training"]["validation_bound"] == bound[averaged]


def test_signals_to_all_processes_keep_the_state(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGTERM to the whole group, twice as from `timeout`, and killed workers."""
    real = Trainer.train_step

    def terminated(trainer: Trainer, batches: Iterator[TrainingBatch], progress: float) -> Any:
        if trainer.step == 3:
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGTERM)
            for _ in range(2):
                signal.raise_signal(signal.SIGTERM)
        return real(trainer, batches, progress)

    def killed(trainer: Trainer, batches: Iterator[TrainingBatch], progress: float) -> Any:
        if trainer.step == 5:
            for worker in multiprocessing.active_children():
                worker.kill()
        return real(trainer, batches, progress)

    out = tmp_path / "run"
    plan = arguments(folder, out, "--steps", "9", "--cursors", "0", "--workers", "2")
    plan[plan.index("--save-every") + 1] = "1000"
    monkeypatch.setattr(Trainer, "train_step", terminated)
    assert train.main(plan) == 130
    assert read_state(out / "state.pt")["counters"]["step"] == 4
    monkeypatch.setattr(Trainer, "train_step", killed)
    with pytest.raises(DataError, match="fewer --workers"):
        train.main([*plan, "--resume"])
    # Batches prepared before the kill are still used.
    step = read_state(out / "state.pt")["counters"]["step"]
    assert step >= 5
    monkeypatch.setattr(Trainer, "train_step", real)
    assert train.main([*plan, "--resume"]) == 0
    assert [step for step, *_ in curve(out)] == list(range(1, 10))


def test_a_full_disk_keeps_the_existing_state(tmp_path: Path) -> None:
    """No temporary file is left; the message names the file and the remedy."""
    path = tmp_path / "state.pt"
    write_state(path, {"weights": torch.zeros(10)})
    former = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, former[1]))
    try:
        with pytest.raises(DataError, match=r"state\.pt: cannot be written .*free space.*--resume"):
            write_state(path, {"weights": torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, former)
    assert [file.name for file in tmp_path.iterdir()] == ["state.pt"]
    assert len(read_state(path)["weights"]) == 10
    torch.save({"identity": {}}, path)
    with pytest.raises(DataError, match="state format 1"):
        read_state(path)


def test_a_page_that_cannot_be_drawn_does_not_end_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The failure is recorded once."""

    def broken(folder: Path, progress: float) -> None:
        raise ValueError("no ink")

    monkeypatch.setattr("talaria.finetune.run_page.write_run_page", broken)
    out = tmp_path / "run"
    assert train.main(arguments(folder, out, "--steps", "4", "--cursors", "0")) == 0
    assert events(out).count("no page") == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory."),
            "out of memory on .* at step 2 .*--micro-batch 1",
        ),
        (RuntimeError("CUDA error: unspecified launch failure"), "failed at step 2 .*--resume"),
        (torch.distributed.DistBackendError("NCCL error"), "failed at step 2 .*--resume"),
    ],
)
def test_memory_and_devices_that_fail_are_told_apart(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    """Even outside the gradient; any other error is a bug and propagates."""
    real = Trainer.clear_gradients

    def fail(trainer: Trainer) -> None:
        if trainer.step == 2:
            raise error
        real(trainer)

    monkeypatch.setattr(Trainer, "clear_gradients", fail)
    with pytest.raises(DataError, match=message):
        train.main(arguments(folder, tmp_path / "run", "--steps", "4"))
    error = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes"):
        train.main(arguments(folder, tmp_path / "other", "--steps", "4"))


def test_updates_with_infinite_losses_are_skipped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Single ones are skipped, several in a row restore the last good state, all fail the run."""
    real = Objective.forward
    calls = iter(range(10_000))
    bad = {6, 7, *range(20, 30)}  # two micro-batches a step

    def forward(objective: Objective, batch: TrainingBatch, mask: None = None) -> torch.Tensor:
        return real(objective, batch, mask) * (float("nan") if next(calls) in bad else 1)

    monkeypatch.setattr(Objective, "forward", forward)
    out = tmp_path / "run"
    assert train.main(arguments(folder, out, "--steps", "30", "--cursors", "0")) == 0
    assert events(out) == ["skipped"] * 6 + ["restored", "averaged"]
    assert len(curve(out)) == 30
    assert all(w.isfinite().all() for w in load_trainable(out / "model").transformer.parameters())

    nan = torch.full((3,), float("nan"), requires_grad=True)
    monkeypatch.setattr(Objective, "forward", lambda *args: nan * 1)
    with pytest.raises(DataError, match="learning-rate"):
        train.main(arguments(folder, tmp_path / "bad", "--steps", "60"))
    assert len(curve(tmp_path / "bad")) == 20


def test_a_jump_of_the_loss_is_a_spike() -> None:
    """Noise is not, and nothing is before the history is full."""
    losses = [3.0, 3.1, 2.9, 3.05] * 16
    assert not is_spike(losses, 3.4, SPIKE)
    assert is_spike(losses, 4.2, SPIKE)
    assert not is_spike(losses, 4.2, BOUND_SPIKE)
    assert is_spike(losses, 7.2, BOUND_SPIKE)
    assert is_spike([], float("inf"), SPIKE)
    assert not is_spike(losses[:8], 30.0, SPIKE)


@pytest.mark.parametrize("jumping", [0, 1, 2])
def test_updates_with_a_spike_in_any_loss_are_skipped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jumping: int
) -> None:
    """Each loss is judged separately; steps without canvases add no bounds."""
    monkeypatch.setattr("talaria.finetune.trainer.HISTORY", 8)
    real, factors = Objective.forward, torch.ones(3)
    monkeypatch.setattr(Objective, "forward", lambda *args: real(*args) * factors)
    run = trainer(folder)
    batches = run.batches(iter([0] * 3 + [4] * 12))
    for _ in range(12):
        run.train_step(batches, 0.9)
    assert run.events == []
    assert (len(run.losses), len(run.bounds)) == (8, 8)
    assert min(run.bounds) > 0
    before = run.denoiser.embed.weight.clone()
    factors[jumping] = 1000
    run.train_step(batches, 0.9)
    assert [event for event, why in run.events] == ["skipped"]
    assert torch.equal(run.denoiser.embed.weight, before)
    factors[jumping] = 1
    run.train_step(batches, 0.9)
    assert not torch.equal(run.denoiser.embed.weight, before)
    run.save(tmp_path / "state.pt", {})
    resumed = trainer(folder)
    resumed.restore(tmp_path / "state.pt", {})
    assert resumed.bounds == run.bounds


def trainer(folder: Path, **more: Any) -> Trainer:
    """A new trainer of the tiny shape with random weights."""
    recipe = Recipe(
        layers=1,
        width=32,
        heads=2,
        context_length=64,
        block_length=4,
        canvas_tokens=16,
        max_middle=24,
        rows=4,
    )
    tokenizer = TalariaTokenizer.load(folder / "tokenizer.json")
    samples = Samples(corpus.read_corpus(folder / "corpus", "train"), tokenizer, 64, 24, seed=0)
    torch.manual_seed(0)
    transformer = Transformer(recipe.shape(tokenizer.vocab_size))
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Trainer(recipe, transformer, tokenizer, samples, **{"micro_batch": 4, **more})


def gradient(trainer: Trainer) -> torch.Tensor:
    """The gradient of the trainer's next step, flattened."""
    batch = next(trainer.batches(iter([4])))
    trainer.gradient(batch)
    return torch.cat(
        [p.grad.flatten() for p in trainer.denoiser.parameters() if p.grad is not None]
    )


# torch rejects the backward pass of FlexAttention on a CPU, but its reference supports it.
SPARSE = """
from talaria.finetune import trainer
from torch.nn.attention import flex_attention
trainer.has_sparse_masks = lambda device: True
flex_attention._validate_device = lambda *tensors: None
"""

# Forbids connections to other machines; local sockets have paths, not tuples, as addresses.
OFFLINE = """
import sys
def forbid(event, given):
    if event == "socket.getaddrinfo" or event == "socket.connect" and type(given[1]) is tuple:
        raise SystemExit(f"{event} {given}")
sys.addaudithook(forbid)
"""


def test_the_gradient_does_not_depend_on_how_it_is_computed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole or in micro-batches, with workers, with block-sparse masks."""
    expected = gradient(trainer(folder))
    assert expected.norm() > 0
    for settings in ({"micro_batch": 1}, {"micro_batch": 3}, {"workers": 2}):
        found = gradient(trainer(folder, **settings))
        # bfloat16 products summed in another order differ in the third digit.
        assert (found - expected).norm() < 0.02 * expected.norm(), settings
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr("talaria.finetune.trainer.has_sparse_masks", lambda device: True)
    with warnings.catch_warnings(action="ignore"):  # a warning that it is slow uncompiled
        found = gradient(trainer(folder))
    assert 0 < (found - expected).norm() < 0.02 * expected.norm()
    assert torch.equal(gradient(trainer(folder, dense_masks=True)), expected)


def test_bfloat16_is_for_processors_that_have_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On others, a step of the shipped shape would take minutes."""
    cpu, made = torch.device("cpu"), trainer(folder)
    with made.accelerator.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    wanted = torch.bfloat16 if has_fast_bfloat16(cpu) else torch.float32
    assert product.dtype == made.dtype == wanted
    for native in (True, False):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", partial(bool, native))
        monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
        assert has_fast_bfloat16(cpu) == native


def test_a_wrong_kernel_is_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results and gradients are compared with those of dense masks before the first step."""
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr("talaria.finetune.trainer.has_sparse_masks", lambda device: True)
    with warnings.catch_warnings(action="ignore"):
        right = trainer(folder)
        right.train_step(right.batches(iter([4])), 0.9)
        assert (right.sparse_masks, right.events) == (True, [])
        kernel = flex_attention.flex_attention
        for other in (
            lambda q, k, v, block_mask: v.flip(2),
            lambda q, k, v, block_mask: kernel(q, k.detach(), v, block_mask=block_mask),
        ):
            monkeypatch.setattr(flex_attention, "flex_attention", other)
            wrong = trainer(folder)
            wrong.train_step(wrong.batches(iter([4])), 0.9)
            assert (wrong.sparse_masks, wrong.events[0][0]) == (False, "dense masks")


def test_a_micro_batch_that_does_not_fit_is_halved(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it fits, with the same gradient, and in resumed runs; one row must fit."""
    expected = gradient(trainer(folder))
    real = Objective.forward
    limit = 1

    def forward(objective: Objective, batch: TrainingBatch, mask: None = None) -> torch.Tensor:
        if len(batch.context) > limit:
            raise torch.OutOfMemoryError("out of memory")
        return real(objective, batch, mask)

    monkeypatch.setattr(Objective, "forward", forward)
    small = trainer(folder)
    found = gradient(small)
    assert (found - expected).norm() < 0.02 * expected.norm()
    assert small.micro_batch == 1
    assert [event for event, why in small.events] == ["out of memory"] * 2
    small.save(tmp_path / "state.pt", {})
    for asked, taken in ((4, 1), (2, 2)):
        resumed = trainer(folder, micro_batch=asked)
        resumed.restore(tmp_path / "state.pt", {})
        assert resumed.micro_batch == taken
    limit = 0
    with pytest.raises(DataError, match="not even one row"):
        gradient(trainer(folder))


def test_the_average_is_the_mean_of_the_weights(folder: Path) -> None:
    """The mean of all weights since averaging began."""
    run = trainer(folder)
    seen = []
    for _ in range(3):
        run.denoiser.embed.weight.data += torch.randn(run.denoiser.embed.weight.shape)
        seen.append(run.denoiser.embed.weight.detach().clone())
        run.update_average()
    torch.testing.assert_close(run.average["embed.weight"], torch.stack(seen).mean(0))


# Runs several trainings in the same processes, with different clocks, and saves their results.
SPY = """
import json, os, sys, torch
from talaria.finetune import objective, run, train, trainer
real, leave = run.Run.loop, trainer.Trainer.shut_down
def loop(run):
    trainer = run.trainer
    rank = trainer.accelerator.process_index
    trainer.elapsed += 0.1 * rank
    finished = real(run)
    weights = torch.cat([w.flatten() for w in trainer.model().state_dict().values()])
    torch.save((trainer.world, trainer.elapsed, weights), run.args.out / f"{rank}.pt")
    return finished
run.Run.loop = loop
forward = objective.Objective.forward
def one_row(self, batch, mask=None):
    if len(batch.context) > 1 and trainers[-1].accelerator.process_index:
        raise torch.OutOfMemoryError("out of memory")
    return forward(self, batch, mask)
begin = trainer.Trainer.__init__
def begun(self, *args, **more):
    trainers.append(self)
    begin(self, *args, **more)
trainer.Trainer.__init__ = begun
figures = {"validation_next_token_loss": 1.0, "validation_bound": 1.0}
run.Validation.__call__ = lambda *_: figures
trainers = []
trainer.Trainer.shut_down = lambda trainer: None
for way, argv in json.loads(sys.argv[1]):
    os.environ["ACCELERATE_USE_FSDP"] = str(way == "shards").lower()
    objective.Objective.forward = one_row if way == "memory" else forward
    assert train.main(argv) == 0
    trainers[-1].accelerator.wait_for_everyone()
leave(trainers[-1])
"""


def test_two_processes_train_together(folder: Path, tmp_path: Path) -> None:
    """They share the rows and a clock, and end with the same weights.

    So do sharded weights, even in slices, and a run in which one process has memory for only one
    row.
    """
    spy = tmp_path / "spy.py"
    spy.write_text(SPY)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc_per_node", "2", str(spy)]
    names = ("steps", "minutes", "shards", "memory")
    steps, minutes, shards, memory = outs = [tmp_path / name for name in names]
    by_steps = ("--steps", "20", "--cursors", "0", "--average-from", "0.5")
    runs = [
        ("steps", arguments(folder, steps, *by_steps)),
        ("minutes", arguments(folder, minutes, "--minutes", "0.02", "--cursors", "0")),
        ("shards", arguments(folder, shards, *by_steps, "--slice", "0.0001")),
        ("shards", arguments(folder, shards, *by_steps, "--resume")),
        ("memory", arguments(folder, memory, *by_steps)),
    ]
    environment = {**ENVIRONMENT, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": os.getcwd()}
    with subprocess.Popen(
        [*command, json.dumps(runs)], env=environment, stderr=subprocess.PIPE, text=True
    ) as launcher:
        try:
            stderr = launcher.communicate(timeout=900)[1]
        finally:
            launcher.terminate()  # not kill: it must end its children
    assert launcher.returncode == 0, stderr
    weights = {}
    for out in outs:
        one, other = (torch.load(out / f"{rank}.pt") for rank in range(2))
        assert one[0] == 2
        assert one[:2] == other[:2]
        assert torch.equal(one[2], other[2])
        weights[out] = one[2]
        made = [step for step, *_ in curve(out)]
        assert made == list(range(1, len(made) + 1))
        assert curve(out)[-1][3] < curve(out)[0][3]
        assert checkpoint.load(out / "model").config["training"]["optimiser_steps"] == len(made)
    assert len(made) == 20
    assert events(shards) == ["resumed", "averaged"]
    # bfloat16 sums in another order differ in the third digit, and steps accumulate this.
    for out in (shards, memory):
        assert (weights[out] - weights[steps]).norm() < 0.05 * weights[steps].norm()
    assert events(memory) == ["out of memory", "averaged"]


def test_unconnected_processes_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For example without GPUs under a launcher for GPUs: all would write the same folder."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="ACCELERATE_USE_CPU"):
        train.main(arguments(folder, tmp_path / "run", "--steps", "2"))
    assert not (tmp_path / "run").exists()


def test_the_gpu_path_on_a_cpu(folder: Path, tmp_path: Path) -> None:
    """The program with block-sparse masks and workers, offline.

    It is not compiled: torch compiles the backward pass of FlexAttention only for GPUs, and
    compiling that of dense masks takes 50 seconds. `masks_agree` is tested compiled.
    """
    out = tmp_path / "run"
    command = start(folder, out, "--steps", "30", "--cursors", "2", "--workers", "2")
    module = "talaria.finetune.train"
    run = f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
    command[1:3] = ["-c", OFFLINE + SPARSE + run]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert {length for _, _, length, *_ in curve(out)} >= {0, 1, 4}
    assert all(0 < line["peak_share"] < 1 for line in lines(out) if "peak_share" in line)
    assert (out / "run.html").exists()
    last = lines(out)[-1]
    assert {"validation_exact_diffuse_all", "validation_exact_ar_line_end"} <= last.keys()


def test_a_folder_that_cannot_be_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is one line that names it."""
    (tmp_path / "file").write_text("")
    argv = arguments(folder, tmp_path / "file" / "run", "--steps", "2")
    assert cli.main(["train", *argv]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "file" in lines[0]


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--steps", "0"], "--steps is 0"),
        (["--minutes", "-1"], "--minutes is -1"),
        (["--steps", "1", "--decay-from", "2"], "--decay-from is 2"),
        (["--steps", "1", "--learning-rate", "nan"], "--learning-rate is nan"),
        (["--steps", "1", "--spans", "lines=2"], "at most 1"),
        (["--steps", "1", "--spans", "words=0.2"], "kinds line_end"),
        (["--steps", "1", "--spans", "lines"], "give kind=share"),
        (["--steps", "1", "--workers", "-1"], "--workers is -1"),
        (["--steps", "1", "--canvas-tokens", "9"], "multiple of"),
        (["--steps", "1", "--heads", "3"], "divisible"),
        (["--steps", "1", "--heads", "0"], "--heads is 0"),
        (["--steps", "1", "--block-length", "0"], "--block-length is 0"),
        (["--steps", "1", "--context-length", "0"], "--context-length is 0"),
        (["--steps", "1", "--context-length", "7"], "room for at most 3"),
        (["--steps", "1", "--weight-decay", "nan"], "--weight-decay is nan"),
        (["--steps", "1", "--weight-decay", "-1"], "--weight-decay is -1"),
        (["--steps", "1", "--seed", "-1"], "--seed is -1"),
        (["--steps", "1", "--seed", str(2**63)], "--seed is 92233"),
    ],
)
def test_wrong_settings_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], reason: str
) -> None:
    """They are refused before anything is read."""
    monkeypatch.setattr(train, "read_nonempty", lambda *_: pytest.fail("the corpus was read"))
    with pytest.raises(UsageError, match=reason):
        train.main(arguments(folder, tmp_path / "run", *more))


@pytest.mark.parametrize(
    ("split", "reason"), [("train", "held-out text"), ("valid", "training text")]
)
def test_a_corpus_of_one_split_is_refused(
    folder: Path, tmp_path: Path, split: str, reason: str, model_folder: Path
) -> None:
    """Commands that need both splits refuse it before any work, with the remedy."""
    only = tmp_path / "only"
    corpus.write_corpus(only, {split: corpus.read_corpus(folder / "corpus", split)}, {})
    where = ["--corpus", str(only)]
    commands: list[Callable[[], int]] = [
        lambda: train.main(
            [*arguments(folder, tmp_path / "run", "--steps", "2", "--cursors", "0"), *where]
        ),
        lambda: tokenizer_command.main([*where, "--out", str(tmp_path / "tokenizer.json")]),
    ]
    if split == "train":
        commands.append(lambda: validate.main([str(model_folder), *where, "--rows", "2"]))
    for command in commands:
        with pytest.raises(DataError, match=f"has no {reason}; build one from more packages"):
            command()
    assert [path.name for path in tmp_path.iterdir()] == ["only"]


def test_nothing_to_resume(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes before anything is read."""
    monkeypatch.setattr(train, "read_nonempty", lambda *_: pytest.fail("the corpus was read"))
    with pytest.raises(DataError, match="nothing to resume"):
        train.main(arguments(folder, tmp_path / "run", "--steps", "2", "--resume"))


def test_a_run_can_start_from_the_weights_of_a_model(folder: Path, tmp_path: Path) -> None:
    """Its shape and tokenizer must be the same."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert train.main(arguments(folder, first, "--steps", "30")) == 0
    model = str(first / "model")
    assert train.main(arguments(folder, second, "--steps", "2", "--init", model)) == 0
    assert curve(second)[0][3] < curve(first)[0][3] - 0.5
    with pytest.raises(UsageError, match="shape"):
        train.main(
            arguments(folder, tmp_path / "x", "--steps", "2", "--init", model, "--width", "64")
        )
    other = TalariaTokenizer.train(TEXTS[:1], 300)
    other.save(tmp_path / "tokenizer.json")
    argv = arguments(folder, tmp_path / "x", "--steps", "2", "--init", model)
    argv[argv.index("--tokenizer") + 1] = str(tmp_path / "tokenizer.json")
    with pytest.raises(UsageError, match="different tokenizers"):
        train.main(argv)


def test_a_chain_can_be_trained_alone(folder: Path, tmp_path: Path) -> None:
    """Its loss falls, and all other weights stay bitwise the same."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert train.main(arguments(folder, first, "--steps", "20", "--chain-layers", "0")) == 0
    more = "--chain-alone", "1", "--init", str(first / "model")
    assert train.main(arguments(folder, second, "--steps", "80", *more)) == 0
    before = load_trainable(first / "model").transformer.state_dict()
    after = load_trainable(second / "model").transformer.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert after.keys() - before.keys()
    losses = [entry["chain"] for entry in lines(second) if "rate" in entry]
    assert sum(losses[-20:]) < sum(losses[:20]) - 2


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("--chain-alone", "1"), "--init"),
        (("--chain-alone", "1", "--chain-layers", "0"), "for a model with a chain"),
    ],
)
def test_training_a_chain_alone_needs_a_model_with_a_chain(
    folder: Path, tmp_path: Path, given: tuple[str, ...], reason: str
) -> None:
    """It needs --init and at least one chain layer."""
    with pytest.raises(UsageError, match=reason):
        train.main(arguments(folder, tmp_path / "run", "--steps", "2", *given))


def test_a_chain_starts_randomly_if_the_initial_model_has_none(
    tmp_path: Path, chainless: Transformer, transformer: Transformer, tokenizer: TalariaTokenizer
) -> None:
    """All other weights are loaded; a model with a chain cannot start one without."""
    saved = {name: tmp_path / name for name in ("with", "without")}
    save(saved["with"], transformer, tokenizer)
    save(saved["without"], chainless, tokenizer)
    fresh = Transformer(transformer.config)
    before = {name: weight.clone() for name, weight in fresh.state_dict().items()}
    train.load_weights(fresh, str(saved["without"]), saved["without"] / "tokenizer.json")
    given = {name: w.half().float() for name, w in chainless.state_dict().items()}
    for name, weight in fresh.state_dict().items():
        assert torch.equal(weight, before[name] if name.startswith("chain.") else given[name])
    with pytest.raises(UsageError, match="shape"):
        train.load_weights(
            Transformer(chainless.config), str(saved["with"]), saved["with"] / "tokenizer.json"
        )


def test_the_schedule_of_the_recipe() -> None:
    """Next tokens first, then canvases of growing length; the rate ends at zero."""
    recipe = Recipe()
    lengths = [recipe.canvas_length(i / 100) for i in range(101)]
    alone = round(100 * recipe.next_token_share)
    assert set(lengths[:alone]) == {0}
    assert lengths[alone:] == sorted(lengths[alone:])
    assert {1, 2, 4, 8, 16, 32} <= set(lengths)
    assert recipe.rate(0) < 0.1
    assert recipe.rate(0.2) == 1
    assert recipe.rate(1) == 0
    assert Recipe(chain_alone=1).canvas_length(0) == 32  # without canvases it would train nothing


def test_the_tokenizer_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It learns from the corpus and prints the bytes per token."""
    out = tmp_path / "tokenizer.json"
    where = ["--corpus", str(folder / "corpus"), "--out", str(out)]
    assert tokenizer_command.main([*where, "--vocab-size", "512"]) == 0
    assert "bytes per token" in capsys.readouterr().out
    assert TalariaTokenizer.load(out).vocab_size <= 512
    with pytest.raises(UsageError, match="100"):
        tokenizer_command.main([*where, "--vocab-size", "100"])
    with pytest.raises(UsageError, match="'a'"):
        tokenizer_command.main([*where, "--compare", "a"])


def test_a_tokenizer_that_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error comes before learning; if the disk fills later, the existing file is kept."""
    out = tmp_path / "tokenizer.json"
    out.write_text("former")
    argv = ["--corpus", str(folder / "corpus"), "--vocab-size", "512", "--out"]

    def full(*_: object) -> None:
        raise RuntimeError("No space left on device")

    monkeypatch.setattr(TalariaTokenizer, "save", full)
    with pytest.raises(DataError, match=r"tokenizer\.json: cannot be written \(No space left"):
        tokenizer_command.main([*argv, str(out)])
    assert (out.read_text(), [p.name for p in tmp_path.iterdir()]) == ("former", [out.name])
    monkeypatch.setattr(tokenizer_command, "learn", lambda *_: pytest.fail("it was learned"))
    for place in (out / "t.json", tmp_path):
        with pytest.raises(DataError, match=r"cannot be written.*another --out"):
            tokenizer_command.main([*argv, str(place)])


def test_vocabularies_are_compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By bytes per token and by the cost of a byte of text for each model shape."""
    monkeypatch.setattr(vocabularies, "SHAPES", {"tiny": (1, 32, 2)})
    monkeypatch.setattr(vocabularies, "LENGTH", 32)
    assert tokenizer_command.main(["--corpus", str(folder / "corpus"), "--compare", "512,600"]) == 0
    small, large = json.loads(capsys.readouterr().out)
    assert (small["vocabulary"], large["vocabulary"]) == (512, 600)
    assert large["bytes_per_token"] >= small["bytes_per_token"] > 1
    assert large["tiny: operations per token"] >= small["tiny: operations per token"] > 0
    assert small["tiny: µs per byte"] == pytest.approx(
        small["tiny: µs per token"] / small["bytes_per_token"], abs=0.01
    )


def test_a_tokenizer_is_learned_from_the_first_bytes() -> None:
    """The first documents are used, up to a number of bytes."""
    documents = [corpus.CorpusDocument("p", str(i), "é" * 5) for i in range(5)]
    assert tokenizer_command.first_bytes(documents, 25) == documents[:3]
    assert tokenizer_command.first_bytes(documents, 1000) == documents


def test_the_validate_command(
    folder: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints losses and exact matches of models, and differences from the first."""
    models = [str(model_folder)] * 2
    where = ["--corpus", str(folder / "corpus"), "--rows", "3", "--cursors", "1"]
    assert validate.main([*models, *where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines if "bound" in line] == [
        *(str(model_folder), "  nats per byte"),
        *(str(model_folder), "  nats per byte", "  minus the first"),
        "the first, untrained",
    ]
    assert (
        "next token 0.000 ± 0.000, diffusion bound 0.000 ± 0.000, chain 0.000 ± 0.000"
        in "".join(lines)
    )
    assert sum("exact_ar_line_end" in line for line in lines) == 2


def test_models_that_see_other_rows_are_not_compared_row_by_row(
    folder: Path,
    tmp_path: Path,
    model_folder: Path,
    transformer: Transformer,
    tokenizer: TalariaTokenizer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The reason is printed; nats per byte, which do not depend on the tokenizer, are for all."""
    other = TalariaTokenizer.train(TEXTS, 300)
    config = transformer.config
    for name, changes, its in (
        ("tokenizer", {"vocab_size": other.vocab_size}, other),
        ("context", {"context_length": 64}, tokenizer),
        ("block", {"block_length": 4}, tokenizer),
    ):
        save(tmp_path / name, Transformer(replace(config, **changes)), its)
    models = [str(model_folder), *(str(tmp_path / name) for name in ("tokenizer", "context"))]
    models.append(str(tmp_path / "block"))
    assert validate.main([*models, "--corpus", str(folder / "corpus"), "--rows", "2"]) == 0
    output = capsys.readouterr().out
    assert re.findall("which has another (.*)", output) == [
        "tokenizer: compare nats per byte",
        "context length (128, not 64)",
        "block length (8, not 4)",
    ]
    assert "minus the first" not in output
    assert output.count("nats per byte: next token") == 4


def test_nats_per_byte_are_nats_per_token_by_the_bytes_of_the_tokens(
    folder: Path, transformer: Transformer, tokenizer: TalariaTokenizer
) -> None:
    """Checked with a uniform model, whose loss is the logarithm of the vocabulary size."""
    documents = [corpus.CorpusDocument("p", f"{i}.py", text) for i, text in enumerate(TEXTS)]
    samples = validate.held_out_samples(documents, tokenizer, transformer.config.context_length)
    uniform = Transformer(transformer.config)
    torch.nn.init.zeros_(uniform.embed.weight)
    found = validate.row_losses(uniform, tokenizer, samples, 40)
    assert found.nats[:, 0] == pytest.approx(math.log(tokenizer.vocab_size), rel=1e-4)
    next_token, bound, chain = found.per_byte()[0]
    assert chain == pytest.approx(bound)  # both count the same tokens
    for row in range(3):
        ids = [i for i in samples[row].ids[1:] if i <= tokenizer.eom and i != tokenizer.mask]
        size = len(tokenizer.decode(ids).encode())
        assert found.bytes[row, 0] * len(ids) == pytest.approx(size, abs=3)  # split characters
    assert next_token == pytest.approx(found.nats[0, 0] / found.bytes[:, 0].mean(), rel=1e-4)
    # Masks are random, but nats and bytes count the same tokens.
    assert bound == pytest.approx(next_token, rel=0.3)
    assert (found.per_byte()[1] < 0.2 * found.per_byte()[0]).all()
    assert validate.token_bytes(tokenizer)[tokenizer.encode("été")].sum() == 5
