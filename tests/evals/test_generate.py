"""Samples are stored as they arrive, and an interrupted run repeats none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.tiny_models import CAUSAL, TINY, write
from talaria.coder import checkpoint
from talaria.coder.checkpoint import Checkpoint
from talaria.coder.engine import Engine
from talaria.coder.errors import DataError, UsageError
from talaria.coder.infill import fill, infill
from talaria.coder.request import Mode, Options, Request
from talaria.evals import command
from talaria.evals.generate import Sampling, generate, header
from talaria.evals.jsonl import read
from talaria.evals.suites import Problem, Suite, read_suite
from talaria.evals.typing_replay import type_again
from tests.evals import problems


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    """Three holes in two tasks."""
    path = problems.write(tmp_path / "holes.jsonl", problems.HOLES)
    return read_suite("infill-single-line", path, any_data=True)


def test_every_hole_is_filled_and_kept(suite: Suite, model: Checkpoint, tmp_path: Path) -> None:
    """Rows have their cost, and the header names model, data and settings."""
    path = tmp_path / "samples.jsonl"
    generate(suite, model, Sampling(Options(max_tokens=8)), path)
    header, rows, _ = read(path)
    assert [row["id"] for row in rows] == [problem.id for problem in suite.problems]
    for row, problem in zip(rows, suite.problems, strict=True):
        alone = infill(model, problem.prefix, problem.suffix, Options(max_tokens=8))
        assert (row["text"], row["nfe"]) == (alone.best.text, alone.nfe)
    assert header["model"]["weights"] == model.weights_hash
    assert header["rounding"] is None  # its weights are rounded alike everywhere
    assert header["options"]["max_tokens"] == 8
    assert header["data"] == suite.digest()


def test_the_header_names_the_models_own_settings(suite: Suite, model: Checkpoint) -> None:
    """The model's settings stand where no option was given, because they decide the samples."""
    own: dict[str, Any] = {
        "confidence_threshold": 0.3,
        "lookahead": 4,
        "max_nfe": 9,
        "max_tokens": 20,
    }
    other = replace(model, settings=replace(model.settings, **own))
    for given, expected in ((Options(), own), (Options(lookahead=5), {**own, "lookahead": 5})):
        options = header(suite, other, Sampling(given), "cpu")["options"]
        assert {name: options[name] for name in own} == expected


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    """Tiny models of open families, one of them causal."""
    folder = tmp_path_factory.mktemp("families")
    keys = ("llada", "open-dcoder", "sdar", "qwen3")
    tiny = {key: (TINY | CAUSAL)[key] for key in keys}
    return {key: checkpoint.load(write(each, folder / key)) for key, each in tiny.items()}


def test_the_header_has_the_schedule_of_an_open_family(
    suite: Suite, families: dict[str, Checkpoint], tmp_path: Path
) -> None:
    """With what was asked for, so that a file is not continued by other rules; none of ours."""

    def described(key: str, *given: Any) -> tuple[Any, ...]:
        head = header(suite, families[key], Sampling(*given), "cpu")
        options, schedule = head["options"], head["schedule"]
        assert options["lookahead"] is None
        assert options["confidence_threshold"] == schedule["threshold"]
        return schedule["threshold"], options["sizes"], schedule["pace"]

    assert described("llada", Options()) == (None, (4, 8, 16, 32), "even")
    assert described("llada", Options(confidence_threshold=0.7))[0] == 0.7
    assert described("llada", Options(sizes=(4,)))[1] == (4,)
    assert described("llada", Options(), 1, 1, True)[1] is None
    assert described("sdar", Options()) == (0.85, None, "single")
    assert described("open-dcoder", Options(confidence_threshold=0.7))[0] is None  # p2 has none
    causal = header(suite, families["qwen3"], Sampling(Options()), "cpu")
    assert causal["schedule"] is None
    assert causal["options"]["mode"] == "verify"

    path, model = tmp_path / "samples.jsonl", families["llada"]
    some = replace(suite, problems=suite.problems[:1])
    options = Options(max_tokens=8, sizes=(4, 8), approximate_cache="dual")
    generate(some, model, Sampling(options), path)
    before = path.read_text("utf-8")
    generate(some, model, Sampling(options), path)  # continues: nothing is missing
    assert path.read_text("utf-8") == before
    with pytest.raises(DataError, match=r"other options\.confidence_threshold, schedule"):
        generate(some, model, Sampling(replace(options, confidence_threshold=0.7)), path)


def test_the_command_takes_sizes(
    suite: Suite, families: dict[str, Checkpoint], tmp_path: Path
) -> None:
    """As `infill` does; they are in the header, and are no true lengths."""
    holes, out = problems.write(tmp_path / "holes.jsonl", problems.HOLES), tmp_path / "s.jsonl"
    call = ["generate", "infill-single-line", "--data", str(holes), "--any-data", "--limit", "1"]
    call += ["--model", str(write(TINY["llada"], tmp_path / "llada")), "--out", str(out)]
    assert command.main([*call, "--sizes", "3,5"]) == 0
    found, rows, _ = read(out)
    assert found["options"]["sizes"] == found["schedule"]["sizes"] == [3, 5]
    first = suite.problems[0]
    alone = infill(families["llada"], first.prefix, first.suffix, Options(sizes=(3, 5)))
    assert (rows[0]["text"], rows[0]["nfe"]) == (alone.best.text, alone.nfe)
    with pytest.raises(DataError, match=r"other options\.sizes, schedule\.sizes"):
        command.main([*call, "--sizes", "5"])
    with pytest.raises(UsageError, match="--sizes is 3,5, and --oracle-length"):
        command.main([*call, "--sizes", "3,5", "--oracle-length"])
    with pytest.raises(UsageError, match="--sizes: '8,x' is no list of sizes, as 8,16,32"):
        command.main([*call, "--sizes", "8,x"])


@pytest.mark.parametrize(
    ("key", "options", "reason"),
    [
        ("llada", Options("ar"), "--mode is ar, and llada reads in both directions"),
        ("qwen3", Options("diffuse"), "--mode is diffuse, and qwen3 is a causal model"),
        ("sdar", Options(sizes=(8,)), "--sizes is 8, and sdar ends its middles"),
        ("sdar", Options(approximate_cache="dual"), "--approximate-cache is dual, and sdar keeps"),
        ("llada", Options(max_tokens=5000), "--max-tokens is 5000; this model's limit is"),
    ],
)
def test_what_a_model_cannot_do_leaves_no_file(
    suite: Suite,
    families: dict[str, Checkpoint],
    tmp_path: Path,
    key: str,
    options: Options,
    reason: str,
) -> None:
    """Samples as well as replays of typing: the next call may use the same name."""
    path, model = tmp_path / "out" / "samples.jsonl", families[key]
    with pytest.raises(UsageError, match=reason):
        generate(suite, model, Sampling(options), path)
    with Engine(lambda: model) as engine, pytest.raises(UsageError, match=reason):
        type_again(suite, engine, options, 8, path)
    assert not path.parent.exists()


def test_the_bar_has_a_running_score(
    suite: Suite, model: Checkpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The bar shows the share of exact matches, including those of an earlier call."""
    answer = infill(
        model, suite.problems[0].prefix, suite.problems[0].suffix, Options(max_tokens=8)
    )
    known = replace(suite.problems[0], solution=f"\n{answer.best.text}\n")
    asked = replace(suite, problems=[known, suite.problems[1]])
    path, request = tmp_path / "samples.jsonl", Sampling(Options(max_tokens=8))
    generate(asked, model, request, path)
    assert "exact 50.0%" in capsys.readouterr().err
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    generate(asked, model, request, path)
    assert "exact 50.0%" in capsys.readouterr().err


def test_an_interrupted_run_goes_on(suite: Suite, model: Checkpoint, tmp_path: Path) -> None:
    """The next call makes only the missing samples and keeps the others."""
    path, request = tmp_path / "samples.jsonl", Sampling(Options(max_tokens=8))

    def interrupt(row: dict[str, Any]) -> None:
        if row["id"] == suite.problems[1].id:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(suite, model, request, path, watch=interrupt)
    _, before, _ = read(path)
    assert len(before) == 2
    seen: list[str] = []
    generate(suite, model, request, path, watch=lambda row: seen.append(row["id"]))
    assert seen == [suite.problems[2].id]
    _, after, _ = read(path)
    assert after[:2] == before
    with pytest.raises(DataError, match="other options"):
        generate(suite, model, Sampling(Options(max_tokens=4)), path)


def test_a_file_of_another_order_goes_on(suite: Suite, model: Checkpoint, tmp_path: Path) -> None:
    """Rows come in the order in which problems are asked, which is no part of the header."""
    path, request = tmp_path / "samples.jsonl", Sampling(Options(max_tokens=8))
    generate(suite, model, request, path)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    generate(replace(suite, order=(2, 0, 1)), model, request, path)
    a, b, c = (problem.id for problem in suite.problems)
    assert [row["id"] for row in read(path)[1]] == [a, c, b]


def test_several_samples_have_seeds_of_their_own(
    suite: Suite, model: Checkpoint, tmp_path: Path
) -> None:
    """Sample n has the seed plus n; several samples at temperature 0 are refused."""
    path = tmp_path / "samples.jsonl"
    generate(suite, model, Sampling(Options(max_tokens=8, temperature=1.0, seed=5), 3), path)
    _, rows, _ = read(path)
    assert len(rows) == 9
    problem, row = suite.problems[0], rows[2]
    alone = infill(
        model, problem.prefix, problem.suffix, Options(max_tokens=8, temperature=1.0, seed=7)
    )
    assert row["text"] == alone.best.text
    beside = tmp_path / "beside.jsonl"
    options = Options(max_tokens=8, temperature=1.0, seed=5)
    generate(suite, model, Sampling(options, 3, batch=4), beside)
    assert [row["text"] for row in read(beside)[1]] == [row["text"] for row in rows]
    for samples in (0, 2):
        with pytest.raises(UsageError, match=f"--samples is {samples}"):
            Sampling(Options(), samples)


def test_a_batch_changes_times_alone(suite: Suite, model: Checkpoint, tmp_path: Path) -> None:
    """Rows and their order stay the same, even if a run continues in the middle of a batch."""
    options = Options(max_tokens=8)
    alone = generate(suite, model, Sampling(options), tmp_path / "1.jsonl").rows
    path, request = tmp_path / "2.jsonl", Sampling(options, batch=2)

    def interrupt(row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(suite, model, request, path, watch=interrupt)
    assert len(read(path)[1]) == 1
    beside = generate(suite, model, request, path).rows
    assert [{**row, "elapsed_ms": 0} for row in beside] == [
        {**row, "elapsed_ms": 0} for row in alone
    ]
    assert read(path)[0]["batch"] == 2
    with pytest.raises(DataError, match="other batch"):
        generate(suite, model, Sampling(options), path)
    with pytest.raises(UsageError, match="--batch is 0"):
        Sampling(options, batch=0)


def test_the_true_length_is_given(suite: Suite, model: Checkpoint, tmp_path: Path) -> None:
    """Middles get the true length in tokens, and such samples never mix with others."""
    path = tmp_path / "oracle.jsonl"
    request = Sampling(Options(), batch=3, oracle_length=True)
    rows = generate(suite, model, request, path).rows
    for row, problem in zip(rows, suite.problems, strict=True):
        length = len(model.tokenizer.encode(problem.solution))
        assert (row["tokens"], row["stopped"]) == (length, "length")
        alone = fill(model, Request(problem.prefix, problem.suffix, length=length))
        assert row["text"] == alone.best.text
    assert read(path)[0]["oracle_length"] is True
    with pytest.raises(DataError, match="other oracle_length"):
        generate(suite, model, Sampling(Options(), batch=3), path)


def test_a_middle_too_long_for_the_model_is_a_failure(model: Checkpoint, tmp_path: Path) -> None:
    """It is stored, cut at half of the context, so that it counts as a failure."""
    text = "    return [" + ", ".join(f"'{n}'" for n in range(60)) + "]\n"
    row = {**problems.HOLES[0], "canonical_solution": text}
    path = problems.write(tmp_path / "long.jsonl", [row])
    suite = read_suite("infill-single-line", path, any_data=True)
    request = Sampling(Options(max_nfe=500), oracle_length=True)
    (found,) = generate(suite, model, request, tmp_path / "samples.jsonl").rows
    assert (found["tokens"], found["stopped"]) == (64, "max_tokens")


@pytest.mark.parametrize("mode", ["diffuse", "ar"])
def test_a_bound_leaves_the_line_break_to_the_suffix(
    suite: Suite, model: Checkpoint, tmp_path: Path, mode: Mode
) -> None:
    """As in an editor; the break still counts as part of a hole of whole lines."""
    options = Options(mode, max_tokens=8, until="line")
    whole = suite.problems[1]
    inside = Problem("inside", "inside", "def f(n):\n    return ", "\n", "n")
    asked = replace(suite, problems=[whole, inside])
    first, second = generate(asked, model, Sampling(options), tmp_path / "s.jsonl").rows
    alone = infill(model, whole.prefix, "\n" + whole.suffix, options)
    assert first["text"] == alone.best.text + "\n"
    assert second["text"] == infill(model, inside.prefix, inside.suffix, options).best.text
