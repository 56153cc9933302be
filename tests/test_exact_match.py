"""`talaria eval`: what counts as a hit, where cursors stand, and what survives a restart."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coder import checkpoint
from coder.denoiser import Denoiser, DenoiserConfig
from coder.errors import DataError, TalariaError, UsageError
from coder.infill import Candidate, Infill
from coder.syntax import judge
from coder.tokenizer import Tokenizer
from evals import exact_match
from evals.exact_match import (
    CORPUS_FORMAT,
    Result,
    Row,
    Suite,
    best_constant,
    bootstrap,
    boundaries,
    evaluate,
    line_end,
    main,
    report,
    single_line,
    wilson,
)

MODULE = '''\
"""Weights of parcels; inside = not_code(1)."""

import math  # inside a comment


def heavier(parcels, limit):
    """Those above a limit.

    inside = not_code(2)
    """
    # inside = not_code(3)
    chosen = [p for p in parcels if p > limit]
    note = f"""{len(chosen)} of
    inside = not_code(4) {limit}
    """.strip()
    return chosen, math.fsum(chosen), note
'''
PROBLEMS = [
    ("Parcels/0/L0", "def add(a, b):\n", "    return c\n", "    c = a + b\n"),
    ("Parcels/0/L1", "def add(a, b):\n    c = a + b\n", "", "    return c\n"),
    ("Parcels/1/L0", "def one():\n    x = 1\n", "    return x\n", "\n"),
    ("Parcels/2/L0", "def two():\n    x = 2\n", "    return x\n", "\n"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model that knows nothing."""
    tokenizer = Tokenizer.train([MODULE], 300)
    config = DenoiserConfig(
        tokenizer.vocab_size, layers=1, width=32, heads=2, context_length=128, block_length=8
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint.save(folder, Denoiser(config), tokenizer)
    return folder


def write_lines(path: Path, rows: list[dict[str, str]]) -> Path:
    """Gzip JSONL of the rows."""
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    return path


def write_problems(folder: Path) -> Path:
    """A single-line suite of our own."""
    names = ("task_id", "prompt", "suffix", "canonical_solution")
    return write_lines(
        folder / "problems.jsonl.gz", [dict(zip(names, p, strict=True)) for p in PROBLEMS]
    )


def write_corpus(folder: Path, *texts: str) -> Path:
    """A corpus whose held-out package has these files, and a training part that is not there."""
    part = folder / "valid-000.jsonl.xz"
    rows = [{"package": "post", "path": f"m{n}.py", "text": text} for n, text in enumerate(texts)]
    part.write_bytes(lzma.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    digest = hashlib.sha256(part.read_bytes()).hexdigest()
    parts = [
        {"file": "train-000.jsonl.xz", "split": "train", "sha256": "absent"},
        {"file": part.name, "split": "valid", "sha256": digest},
    ]
    (folder / "manifest.json").write_text(json.dumps({"format": CORPUS_FORMAT, "parts": parts}))
    return folder


def answer(text: str) -> Infill:
    """What the engine returns for a middle of this text."""
    candidate = Candidate(text, [1, 2, 3], "eom", None, 0)
    return Infill([candidate], 2, 5.0, 40, judge("", text, ""), [])


def score(suite: Suite, fill: Callable[[str, str], str]) -> dict[str, Any]:
    """The figures of a suite filled by a function from prefix and suffix to middle."""
    results = evaluate(suite, suite.rows, lambda p, s: answer(fill(p, s)), {}, lambda result: None)
    return report(suite, suite.rows, results)


def rates(figures: dict[str, Any]) -> list[float]:
    """Raw, stripped and first-line rate."""
    return [match["rate"] for match in figures["matches"].values()]


# Statistics


@pytest.mark.parametrize(
    ("hits", "total", "low", "high"),
    [
        (0, 10, 0.0, 0.2775),
        (1, 10, 0.0179, 0.4042),
        (81, 263, 0.2553, 0.3662),
        (10, 10, 0.7225, 1.0),
    ],
)
def test_wilson_gives_published_values(hits: int, total: int, low: float, high: float) -> None:
    """Among them 81 of 263, the example of Newcombe (1998)."""
    assert wilson(hits, total) == pytest.approx((low, high), abs=1e-4)


def test_bootstrap_draws_whole_clusters() -> None:
    """Rows that stand or fall together give a wider interval than independent ones."""
    hits = [n % 2 == 0 for n in range(10) for _ in range(10)]
    together = bootstrap(hits, [str(n // 10) for n in range(100)])
    alone = bootstrap(hits, [str(n) for n in range(100)])
    assert together
    assert alone
    assert together[0] < alone[0] < 0.5 < alone[1] < together[1]
    assert together == bootstrap(hits, [str(n // 10) for n in range(100)])


def test_bootstrap_of_equal_rows_is_no_certainty() -> None:
    """Nothing right in every row gives no interval rather than one of no width."""
    assert bootstrap([False] * 5, list("aabbc")) is None


def test_best_constant_is_the_commonest_answer() -> None:
    """The empty text is an answer like any other."""
    assert best_constant([")", " )", ":"], str.strip) == (")", 2 / 3)
    assert best_constant(["x", "\n", " "], str.strip) == ("", 2 / 3)


# Cursors


def test_boundaries_leave_out_strings_and_comments() -> None:
    """Every kind of line has the boundaries that a reader would mark."""
    found = {
        MODULE.splitlines()[line]: [MODULE.splitlines()[line][c:] for c in columns]
        for line, columns in boundaries(MODULE).items()
    }
    assert list(found) == [
        "import math  # inside a comment",
        "def heavier(parcels, limit):",
        "    chosen = [p for p in parcels if p > limit]",
        "    return chosen, math.fsum(chosen), note",
    ]
    assert found["import math  # inside a comment"] == ["math  # inside a comment"]
    assert found["def heavier(parcels, limit):"][:2] == [
        "heavier(parcels, limit):",
        "(parcels, limit):",
    ]


def test_boundaries_of_an_f_string_are_those_of_a_string() -> None:
    """One before it and none within, whatever the version of Python makes of it."""
    assert boundaries("x = f'{a + 1} {b!r:>{w}}' + y\n") == {0: [2, 4, 26, 28]}


def test_a_file_that_cannot_be_read_has_no_boundaries() -> None:
    """A broken file is left out."""
    assert boundaries("x = (1,\n") == {}


LINES = st.sampled_from(
    [
        "x = 1",
        "y = f(x, 'TEXT code = 2')  # NOTE here = 3",
        "# NOTE only = 4",
        "",
        "'''TEXT one line'''",
        "z = '''TEXT\nTEXT code = 5\n'''  + w",
        "def g(a, *, b=2): return a @ b",
        "if x:\n\tx += 1",
        "v = (1,\n     # NOTE\n\n     2)",
        "é = 'TEXT' if x else 'ü'",
        "t = 1 + \\\n    2",
    ]
)


@given(
    lines=st.lists(LINES, min_size=1), newline=st.sampled_from(["\n", "\r\n"]), seed=st.integers(0)
)
def test_every_cursor_has_something_before_and_after(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], newline: str, seed: int
) -> None:
    """It stands in code, at the start of a token, and prefix, middle and suffix make the file."""
    text = newline.join([*lines, "last = 1", ""]).replace("\r\n", "\n").replace("\n", newline)
    count = len(boundaries(text))
    folder = write_corpus(tmp_path_factory.mktemp("corpus"), text)
    suite = line_end(folder, count, seed)
    for row in suite.rows:
        assert row.prefix + row.expected + row.suffix == text
        typed = row.prefix.rpartition("\n")[2]
        assert typed.strip()
        assert "NOTE" not in typed
        assert row.expected.strip()
        assert not row.expected.startswith((" ", "TEXT", "NOTE", "#"))
        assert "\n" not in row.expected
        assert "\r" not in row.expected
        assert row.suffix.startswith(newline)
    assert len({row.prefix.count("\n") for row in suite.rows}) == count
    assert line_end(folder, count, seed).rows == suite.rows
    assert list(line_end(folder, 1, seed).rows) == list(suite.rows[:1])


def test_cursors_come_from_held_out_files_only(tmp_path: Path) -> None:
    """A row names its package, file, line and column, and another seed chooses others."""
    folder = write_corpus(tmp_path, MODULE, MODULE.replace("heavier", "lighter"))
    suite = line_end(folder, 6, 0)
    assert {row.cluster for row in suite.rows} == {"post:m0.py", "post:m1.py"}
    for row in suite.rows:
        _, path, line, column = row.id.split(":")
        assert path in ("m0.py", "m1.py")
        assert len(row.prefix.splitlines()) == int(line)
        assert len(row.prefix.splitlines()[-1]) == int(column)
    assert line_end(folder, 6, 1).rows != suite.rows


# Scores


def test_a_perfect_model_scores_everything(tmp_path: Path) -> None:
    """100 % by all three definitions, in both suites."""
    for suite in (
        line_end(write_corpus(tmp_path, MODULE), 4, 0),
        single_line(write_problems(tmp_path)),
    ):
        right = {(row.prefix, row.suffix): row.expected for row in suite.rows}
        figures = score(suite, lambda p, s, right=right: right[p, s])  # type: ignore[misc]
        assert rates(figures) == [1.0, 1.0, 1.0]
        assert figures["matches"]["exact"]["bootstrap"] is None
        assert figures["tokens_per_forward"] == 1.5


def test_an_empty_model_reaches_the_floor_and_no_more(tmp_path: Path) -> None:
    """Half of our problems have a blank line as their answer: the best constant says so."""
    figures = score(single_line(write_problems(tmp_path)), lambda p, s: "")
    assert rates(figures) == [0.0, 0.5, 0.5]
    assert [m["best_constant"] for m in figures["matches"].values()] == [
        {"text": "\n", "rate": 0.5},
        {"text": "", "rate": 0.5},
        {"text": "", "rate": 0.5},
    ]
    assert figures["clusters"] == 3


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("    return c\n", [True, True, True]),
        ("    return c", [False, True, True]),
        ("\n    return c\n\n\ndef f():\n", [False, False, True]),
        ("    return c  # sum", [False, False, False]),
    ],
)
def test_matches_of_a_missing_line(tmp_path: Path, text: str, hits: list[bool]) -> None:
    """Raw, stripped, and the first line that is not blank."""
    suite = single_line(write_problems(tmp_path))
    result = exact_match.compare(suite, suite.rows[1], answer(text))
    assert [result.exact, result.exact_stripped, result.exact_first_line] == hits


@pytest.mark.parametrize(
    ("text", "hits"),
    [
        ("chosen, note", [True, True, True]),
        ("chosen, note\n", [False, True, True]),
        ("chosen, note\r\n\n\ndef f():", [False, False, True]),
        (" chosen, note", [False, True, False]),
        ("\nchosen, note", [False, True, False]),
    ],
)
def test_matches_of_the_rest_of_a_line(text: str, hits: list[bool], tmp_path: Path) -> None:
    """Raw, stripped, and all up to the first line break as it is."""
    suite = line_end(write_corpus(tmp_path, "return chosen, note\n"), 1, 0)
    row = Row("a", "return ", "\n", "chosen, note", "a")
    result = exact_match.compare(suite, row, answer(text))
    assert [result.exact, result.exact_stripped, result.exact_first_line] == hits


# The command


def test_table_says_what_was_measured(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Suite, model, three rates with intervals, the constant, the cost, and the command."""
    corpus = write_corpus(tmp_path, MODULE)
    assert main(["line-end", "--corpus", str(corpus), "--cursors", "3", "--model", str(model)]) == 0
    out = capsys.readouterr().out
    for part in ("line-end, 3 rows in 1 files", "tiny", "raw ", "stripped ", "first line ",
                 "Wilson", "hindsight", "mean nfe", "tokens per forward", "p95"):  # fmt: skip
        assert part in out
    assert out.splitlines()[-1].split(None, 1)[1] == (
        f"talaria eval line-end --model {model} --device cpu --mode diffuse "
        f"--confidence-threshold 0.9 --max-nfe 128 --corpus {corpus} --cursors 3 --seed 0"
    )


def test_a_run_goes_on_where_it_stopped(
    tmp_path: Path,
    model: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Interrupted, with a torn last line, and with a higher limit: no row is done twice."""
    out = tmp_path / "results.jsonl"
    argv = ["single-line", "--data", str(write_problems(tmp_path)), "--model", str(model)]
    argv += ["--mode", "ar", "--max-nfe", "4", "--json", "--out", str(out)]
    calls = []

    def counted(*args: Any) -> Infill:
        calls.append(args[1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answer("    return c\n")

    monkeypatch.setattr("coder.infill.infill", counted)
    with pytest.raises(KeyboardInterrupt):
        main(argv)
    assert len(out.read_text().splitlines()) == 1 + 2
    with out.open("a") as file:
        file.write('{"id": "Parc')
    assert main([*argv, "--limit", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 3
    assert main(argv) == 0
    figures = json.loads(capsys.readouterr().out)
    prompts = [problem[1] for problem in PROBLEMS]
    assert calls == [*prompts[:3], prompts[2], prompts[3]]
    header, *lines = map(json.loads, out.read_text().splitlines())
    assert [Result(**line).id for line in lines] == [problem[0] for problem in PROBLEMS]
    assert header["options"]["mode"] == "ar"
    assert figures["matches"]["exact"]["hits"] == 1
    assert figures["rows"] == 4
    assert figures["files"] == header["files"]

    monkeypatch.undo()
    before = out.read_bytes()
    with pytest.raises(DataError, match="made with other options"):
        main([*argv, "--mode", "diffuse"])
    assert out.read_bytes() == before


def test_a_real_model_gives_the_same_results_again(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs differ in nothing but time, and the model's hash is in the file."""
    data = str(write_problems(tmp_path))
    texts = []
    for name in ("a.jsonl", "b.jsonl"):
        out = str(tmp_path / name)
        argv = [
            "single-line",
            "--data",
            data,
            "--model",
            str(model),
            "--max-nfe",
            "6",
            "--out",
            out,
        ]
        assert main(argv) == 0
        header, *lines = map(json.loads, Path(out).read_text().splitlines())
        texts.append([(line["text"], line["nfe"], line["stopped"]) for line in lines])
    assert texts[0] == texts[1]
    assert header["model"]["weights"] == checkpoint.digest(model / checkpoint.WEIGHTS)
    assert all(0 < line["nfe"] <= 6 and line["prefix_tail"] for line in lines)


# Errors


@pytest.mark.parametrize(
    "content",
    [b"import os\n", b"\x1f\x8b\x08", b'{"format": 1}\nno JSON\n', b"[1]\n", b'{"a": 1}'],
)
def test_another_file_is_never_overwritten(tmp_path: Path, content: bytes) -> None:
    """--out with something else in it is refused and left alone."""
    out = tmp_path / "notes"
    out.write_bytes(content)
    with pytest.raises(DataError, match="another --out"):
        exact_match.reopen(out, {"format": 1})
    assert out.read_bytes() == content


@pytest.mark.parametrize("key", ["suite", "model", "data", "options", "more"])
def test_results_of_another_run_are_refused(tmp_path: Path, key: str) -> None:
    """Whatever differs in the header is named, and the remedy."""
    header = {"suite": "line-end", "model": {"weights": "a"}, "data": "b", "options": {"seed": 0}}
    out = tmp_path / "results.jsonl"
    assert exact_match.reopen(out, header) == {}
    assert exact_match.reopen(out, dict(header)) == {}
    with pytest.raises(DataError, match=f"made with other {key}; choose another --out"):
        exact_match.reopen(out, header | {key: "other"})


def test_out_into_nowhere_is_an_error(tmp_path: Path) -> None:
    """A folder that is not there is named with the remedy."""
    with pytest.raises(DataError, match="cannot be used"):
        exact_match.reopen(tmp_path / "none" / "out.jsonl", {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(b'{"task_id": "a", "prompt": "", "suffix": ""}\n'), "line 1 .*canonical"),
        (gzip.compress(b'{"task_id": 3}\n'), "line 1 .*'task_id'"),
        (gzip.compress(b"[]\n"), "line 1 is no JSON object"),
        (gzip.compress(b"{}{\n"), "line 1 is no JSON object"),
        (gzip.compress(b"\xff\n"), "line 1 is no JSON object"),
        (b"plain text", "damaged gzip after line 0"),
        (gzip.compress(b""), "no rows"),
    ],
)
def test_damaged_data_names_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    """Whatever is wrong with a benchmark file is one DataError."""
    path = tmp_path / "damaged.jsonl.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        single_line(path)


def test_a_cut_off_file_names_the_line(tmp_path: Path) -> None:
    """Half a download is no suite."""
    noise = random.Random(0)
    names = ("task_id", "prompt", "suffix", "canonical_solution")
    rows = [{name: noise.randbytes(50).hex() for name in names} for _ in range(500)]
    path = write_lines(tmp_path / "cut.jsonl.gz", rows)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"damaged gzip after line 4\d\d"):
        single_line(path)


def test_rows_of_one_name_are_an_error(tmp_path: Path) -> None:
    """Results are found by the name of their row."""
    row = dict.fromkeys(("task_id", "prompt", "suffix", "canonical_solution"), "x")
    with pytest.raises(DataError, match=r"2 rows .* named 'x'"):
        single_line(write_lines(tmp_path / "twice.jsonl.gz", [row, row]))


def test_a_damaged_corpus_is_an_error(tmp_path: Path) -> None:
    """A missing folder, a changed part, another format and an unreadable manifest."""
    with pytest.raises(DataError, match="talaria corpus"):
        line_end(tmp_path / "none", 1, 0)
    write_corpus(tmp_path, MODULE)
    (tmp_path / "valid-000.jsonl.xz").write_bytes(b"")
    with pytest.raises(DataError, match="SHA-256"):
        line_end(tmp_path, 1, 0)
    for manifest, message in (('{"format": 9, "parts": []}', "format 9"), ("[]", "no readable")):
        (tmp_path / "manifest.json").write_text(manifest)
        with pytest.raises(DataError, match=message):
            line_end(tmp_path, 1, 0)


def test_a_corpus_without_code_is_an_empty_suite(tmp_path: Path) -> None:
    """Comments alone hold no cursor."""
    with pytest.raises(DataError, match="no rows for line-end"):
        line_end(write_corpus(tmp_path, "# nothing\n"), 1, 0)


def test_too_many_cursors_are_refused(tmp_path: Path) -> None:
    """A line holds one cursor at most."""
    with pytest.raises(UsageError, match=r"--cursors is 9; .* has 4 lines"):
        line_end(write_corpus(tmp_path, MODULE), 9, 0)


@pytest.mark.parametrize(
    "flags", [["--limit", "0"], ["--cursors", "-1"], ["--seed", "-1"], ["--max-nfe", "0"]]
)
def test_numbers_out_of_range_are_usage_errors(tmp_path: Path, flags: list[str]) -> None:
    """The message names the option."""
    corpus = write_corpus(tmp_path, MODULE)
    with pytest.raises(UsageError, match=flags[0]):
        main(["line-end", "--corpus", str(corpus), "--cursors", "2", *flags])


def test_a_missing_model_or_file_is_an_error(tmp_path: Path, model: Path) -> None:
    """Both are named."""
    with pytest.raises(DataError, match=r"none\.jsonl\.gz"):
        main(["single-line", "--data", str(tmp_path / "none.jsonl.gz"), "--model", str(model)])
    with pytest.raises(TalariaError, match="not a model's folder"):
        main(["single-line", "--data", str(write_problems(tmp_path)), "--model", str(tmp_path)])
