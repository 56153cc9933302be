"""Training goes on where it was, whatever ended it, and gives a model that can be loaded."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from coder import checkpoint, cli
from coder.errors import DataError, UsageError
from coder.infill import Options, infill
from coder.tokenizer import Tokenizer
from finetune import corpus, train, validate
from finetune import tokenizer as tokenizer_command
from finetune.objective import Objective
from tests.conftest import TEXTS

SHAPE = [
    *("--layers", "1", "--width", "32", "--heads", "2", "--context-length", "64"),
    *("--block-length", "4", "--canvas-tokens", "16", "--max-middle", "24"),
    *("--rows", "4", "--micro-batch", "2"),
    *("--save-every", "0.001", "--validate-every", "1000"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A folder with a small corpus and a tokenizer."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "corpus").mkdir()
    parts = []
    for split in ("train", "valid"):
        lines = [
            json.dumps({"package": "p", "path": f"{split}{i}.py", "text": text}) + "\n"
            for i, text in enumerate(TEXTS)
        ]
        name = f"{split}-000.jsonl.gz"
        data = gzip.compress("".join(lines).encode(), mtime=0)
        (folder / "corpus" / name).write_bytes(data)
        parts.append({"file": name, "split": split, "sha256": hashlib.sha256(data).hexdigest()})
    manifest = {"format": corpus.FORMAT, "parts": parts}
    (folder / "corpus" / "manifest.json").write_text(json.dumps(manifest))
    tokenizer.save(folder / "tokenizer.json")
    return folder


def arguments(folder: Path, out: Path, *more: str) -> list[str]:
    """The command line of a tiny run."""
    where = ["--corpus", str(folder / "corpus"), "--tokenizer", str(folder / "tokenizer.json")]
    return [*where, "--out", str(out), *SHAPE, *more]


def curve(out: Path) -> list[Any]:
    """What training saw at every step."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [
        (e["step"], e["rate"], e["canvas_length"], e["next_token_loss"], e["bound"])
        for e in lines
        if "rate" in e
    ]


def test_a_killed_run_goes_on_with_the_same_curve(folder: Path, tmp_path: Path) -> None:
    """Killed with signal 9 in both parts of the recipe, it ends as if it had not been."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train.main(arguments(folder, whole, "--steps", "60")) == 0
    program = "import sys; from finetune.train import main; sys.exit(main(sys.argv[1:]))"
    for reached in (10, 45):
        more = ["--resume"] if (killed / "state.pt").exists() else []
        process = subprocess.Popen(
            [sys.executable, "-c", program, *arguments(folder, killed, "--steps", "60", *more)],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},  # as in this process
        )
        limit = time.monotonic() + 120
        metrics = killed / "metrics.jsonl"
        while time.monotonic() < limit and process.poll() is None:
            if metrics.exists() and metrics.read_text().count("\n") >= reached:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    with (killed / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5')  # a line torn by the kill
    assert train.main(arguments(folder, killed, "--steps", "60", "--resume")) == 0
    assert curve(killed) == curve(whole)
    assert [step for step, *_ in curve(whole)] == list(range(1, 61))
    one, other = (checkpoint.load(out / "model").denoiser.state_dict() for out in (killed, whole))
    assert all((one[name] == other[name]).all() for name in one)

    first, last = curve(whole)[0], curve(whole)[-1]
    assert last[3] < first[3]
    result = infill(checkpoint.load(whole / "model"), "def mean(", "\n", Options(max_tokens=16))
    assert result.nfe >= 1


def test_an_interrupt_keeps_the_state(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control-C ends a run cleanly; another corpus, tokenizer or shape is then refused."""
    real = train.Trainer.train_step

    def interrupted(trainer: train.Trainer, progress: float) -> dict[str, float]:
        if trainer.step == 3:
            signal.raise_signal(signal.SIGINT)
        return real(trainer, progress)

    monkeypatch.setattr(train.Trainer, "train_step", interrupted)
    out = tmp_path / "run"
    assert train.main(arguments(folder, out, "--steps", "6")) == 1
    monkeypatch.undo()
    assert len(curve(out)) == 4
    with pytest.raises(UsageError, match="--resume"):
        train.main(arguments(folder, out, "--steps", "6"))
    with pytest.raises(DataError, match="recipe"):
        train.main(arguments(folder, out, "--steps", "6", "--resume", "--seed", "5"))
    assert train.main(arguments(folder, out, "--steps", "6", "--resume")) == 0
    assert len(curve(out)) == 6

    (out / "state.pt").write_bytes((out / "state.pt").read_bytes()[:1000])
    with pytest.raises(DataError, match="damaged"):
        train.main(arguments(folder, out, "--steps", "6", "--resume"))


def test_a_loss_that_is_not_finite_ends_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the step and the remedy; the last good state stays."""
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(Objective, "forward", lambda *args: (nan * 1, nan * 1))
    with pytest.raises(DataError, match="learning-rate"):
        train.main(arguments(folder, tmp_path / "run", "--steps", "2"))


def test_a_folder_that_cannot_be_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is named in one line, as any other path that cannot be used."""
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
        (["--steps", "1", "--rows", "3"], "multiple of --micro-batch"),
        (["--steps", "1", "--canvas-tokens", "9"], "multiple of"),
        (["--steps", "1", "--heads", "3"], "divisible"),
    ],
)
def test_wrong_settings_are_refused(
    folder: Path, tmp_path: Path, more: list[str], reason: str
) -> None:
    """Before anything is read."""
    with pytest.raises(UsageError, match=reason):
        train.main(arguments(folder, tmp_path / "run", *more))


def test_nothing_to_resume(folder: Path, tmp_path: Path) -> None:
    """Is said plainly."""
    with pytest.raises(DataError, match="nothing to resume"):
        train.main(arguments(folder, tmp_path / "run", "--steps", "2", "--resume"))


def test_a_run_can_start_from_the_weights_of_a_model(folder: Path, tmp_path: Path) -> None:
    """Of the same shape and tokenizer; another one is refused."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert train.main(arguments(folder, first, "--steps", "30")) == 0
    model = str(first / "model")
    assert train.main(arguments(folder, second, "--steps", "2", "--init", model)) == 0
    assert curve(second)[0][3] < curve(first)[0][3] - 0.5
    with pytest.raises(UsageError, match="shape"):
        train.main(
            arguments(folder, tmp_path / "x", "--steps", "2", "--init", model, "--width", "64")
        )
    other = Tokenizer.train(TEXTS[:1], 300)
    other.save(tmp_path / "tokenizer.json")
    argv = arguments(folder, tmp_path / "x", "--steps", "2", "--init", model)
    argv[argv.index("--tokenizer") + 1] = str(tmp_path / "tokenizer.json")
    with pytest.raises(UsageError, match="another tokenizer"):
        train.main(argv)


def test_the_recipe_brings_the_rate_down_and_the_canvas_up() -> None:
    """The next token first, then canvases of growing length; the rate ends at zero."""
    recipe = train.Recipe()
    lengths = [recipe.canvas_length(i / 100) for i in range(101)]
    assert set(lengths[:60]) == {0}
    assert lengths[60:] == sorted(lengths[60:])
    assert {1, 2, 4, 8, 16, 32} <= set(lengths)
    assert recipe.rate(0) < 0.1
    assert recipe.rate(0.2) == 1
    assert recipe.rate(1) == 0


def test_the_tokenizer_command(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It learns on the corpus and says how far a token reaches."""
    out = tmp_path / "tokenizer.json"
    where = ["--corpus", str(folder / "corpus"), "--out", str(out)]
    assert tokenizer_command.main([*where, "--vocab-size", "512"]) == 0
    assert "bytes per token" in capsys.readouterr().out
    assert Tokenizer.load(out).vocab_size <= 512
    with pytest.raises(UsageError, match="100"):
        tokenizer_command.main([*where, "--vocab-size", "100"])


def test_the_validate_command(
    folder: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It prints both losses of the model and of an untrained one."""
    assert (
        validate.main([str(model_folder), "--corpus", str(folder / "corpus"), "--rows", "3"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["tiny", "untrained"]
    assert all("bound" in line for line in lines)
