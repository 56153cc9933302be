"""Figures follow from the rows, and runs are compared only on the same problems."""

from __future__ import annotations

import json
import lzma
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from talaria.coder.errors import DataError, UsageError
from talaria.coder.open_families import LLADA
from talaria.coder.request import Options
from talaria.evals.holes_report import figures
from talaria.evals.jsonl import FORMAT, Results, environment, read
from talaria.evals.report import as_text, compare_runs, report
from talaria.evals.tables import rule_of

HEADER: dict[str, Any] = {
    "format": FORMAT,
    "stage": "results",
    "suite": "infill-single-line",
    "data": "d" * 64,
    "files": {"holes.jsonl": "f" * 64},
    "model": {"name": "tiny", "weights": "w" * 64, "tokenizer": "t" * 64},
    "options": {"mode": "diffuse", "confidence_threshold": 0.7},
    "environment": environment(),
    "expected": 10,
    "made_by": [{"command": "talaria eval run infill-single-line", "commit": "c" * 40}],
    "isolation": "full",
    "guards": ["limits", "Landlock"],
    "luck": {"passed": 0.026, "exact": 0.017, "exact_stripped": 0.039, "first_line": 0.04},
}


def row(number: int, passed: bool | None, sample: int = 0) -> dict[str, Any]:
    """A result; two problems are one cluster."""
    return {
        "id": f"p{number}",
        "sample": sample,
        "cluster": f"c{number // 2}",
        "passed": passed,
        "verdict": None if passed is None else "passed" if passed else "failed",
        "solution": None if passed is None else "passed",
        "exact": bool(passed),
        "exact_stripped": bool(passed),
        "first_line": True,
        "parses": True,
        "adds_error": False,
        "repeats_suffix": number == 0,
        "edit_similarity": 0.5,
        "prefix_characters": 3,
        "length_error": -1,
        "true_characters": 10 * number,
        "nfe": 4,
        "tokens": 6,
        "elapsed_ms": 10.0 * (number + 1),
        "stopped": "eom",
    }


def test_shares_and_intervals() -> None:
    """Shares are over all rows; one that was not measured is left out."""
    found = figures(HEADER, [row(n, n < 3) for n in range(10)])
    passed = found["shares"]["passed"]
    assert passed["share"] == 0.3
    assert passed["wilson"][0] < 0.3 < passed["wilson"][1]
    assert passed["by_cluster"][0] < 0.3 < passed["by_cluster"][1]
    assert found["pass_at_k"]["pass@1"]["share"] == pytest.approx(0.3)
    assert found["clusters"] == 5
    assert found["tokens_per_forward"] == 1.75  # six tokens and an end in four steps
    lengths = [(part["over"], part["to"], part["rows"]) for part in found["by_length"]]
    assert lengths == [(-1, 10, 2), (10, 20, 1), (20, 40, 2), (40, 80, 4), (80, 160, 1)]
    assert [part["share"] for part in found["by_length"]] == [1, 1, 0, 0, 0]
    assert found["elapsed_ms"] == {"p50": 50.0, "p95": 100.0, "p99": 100.0}
    assert found["verdicts"] == {"passed": 3, "failed": 7}
    untested = figures(HEADER, [row(n, None) for n in range(3)])
    assert "passed" not in untested["shares"]
    assert untested["pass_at_k"] == {}
    with pytest.raises(DataError, match="no results"):
        figures(HEADER, [])


def test_several_samples_give_pass_at_k() -> None:
    """pass@k is unbiased; Wilson's interval is left out, as samples of a problem are dependent."""
    rows = [row(n, sample == 0, sample) for n in range(4) for sample in range(10)]
    found = figures(HEADER, rows)
    assert {name: part["share"] for name, part in found["pass_at_k"].items()} == {
        "pass@1": pytest.approx(0.1),
        "pass@2": pytest.approx(0.2),
        "pass@5": pytest.approx(0.5),
        "pass@10": 1.0,
    }
    assert found["shares"]["passed"]["wilson"] is None
    few = [row(n, sample < n, sample) for n in range(8) for sample in range(3)]
    passes = figures(HEADER, few)["pass_at_k"]
    assert passes.keys() == {"pass@1", "pass@2", "pass@3"}
    low, high = passes["pass@3"]["by_cluster"]
    assert 0 < low < passes["pass@3"]["share"] == 7 / 8 < high <= 1


def test_pass_at_k_is_shown_with_its_interval(tmp_path: Path) -> None:
    """In text and page; left out with one sample per problem, when it is the share that passes."""
    several = [row(n, sample < n, sample) for n in range(8) for sample in range(3)]
    path = write(tmp_path / "several.jsonl", HEADER, several)
    (found,) = report([path], tmp_path / "out")
    (line,) = (line for line in as_text(found).splitlines() if line.startswith("pass@3"))
    assert line.split()[1] == "87.5%"
    assert " – 100.0 %" in line
    assert "pass@3" in (tmp_path / "out" / "report.html").read_text()
    single = write(tmp_path / "single.jsonl", HEADER, [row(n, n < 3) for n in range(10)])
    assert "pass@" not in as_text(report([single], None)[0])


def write(path: Path, header: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    """Write a result file."""
    path.unlink(missing_ok=True)
    results = Results(path, header)
    for each in rows:
        results.append(each)
    results.close()
    return path


def test_the_report_is_a_table_json_and_a_page(tmp_path: Path) -> None:
    """Text, JSON and page have the same figures."""
    one = write(tmp_path / "one.jsonl", HEADER, [row(n, n < 3) for n in range(10)])
    other = {**HEADER, "options": {"mode": "ar"}}
    two = write(tmp_path / "two.jsonl", other, [row(n, n < 5) for n in range(10)])
    found = report([one, two], tmp_path / "out")
    assert json.loads((tmp_path / "out" / "report.json").read_text()) == json.loads(
        json.dumps(found)
    )
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<svg") == 3
    assert "<th>run</th><th>passed</th><th>failed</th>" in page
    for words in ("edit similarity", "correct characters from the start", "length error"):
        assert words in page
        assert words in as_text(found[0])
    assert "infill-single-line, tiny, ar" in page
    assert "infill-single-line, tiny, diffuse, threshold 0.7" in page
    assert "41 – 80" in page
    assert "30.0%" in page
    text = as_text(found[0])
    assert "passes the tests" in text
    assert "30.0%" in text
    assert "isolation full: limits, Landlock" in text
    for words in (
        "data holes.jsonl (dddddddddddd)",
        "options mode diffuse",
        f"made by: talaria eval run infill-single-line (commit {'c' * 40})",
    ):
        assert words in text
        assert words in page
    assert found[0]["made_by"] == HEADER["made_by"]
    assert "2.6%" in text
    assert page.count("3.9%") >= 2
    without_luck = {name: value for name, value in HEADER.items() if name != "luck"}
    assert figures(without_luck, [row(0, True)])["shares"]["passed"]["luck"] is None
    given = {**HEADER, "oracle_length": True}
    oracle = report([write(tmp_path / "oracle.jsonl", given, [row(0, True)])], None)
    assert "true length given" in as_text(oracle[0])
    assert "true length given" not in text
    torn = {name: value for name, value in row(0, True).items() if name != "edit_similarity"}
    with pytest.raises(DataError, match=r"torn\.jsonl: there are rows without 'edit_similarity'"):
        report([write(tmp_path / "torn.jsonl", HEADER, [torn])], None)
    samples = write(tmp_path / "samples.jsonl", {**HEADER, "stage": "samples"}, [])
    with pytest.raises(UsageError, match="score it first"):
        report([samples], None)


def test_runs_of_a_suite_are_a_curve(tmp_path: Path) -> None:
    """Each suite has a plot; where a mode has several points, each shows its threshold."""
    runs = []
    for number, options in enumerate(
        [
            {"mode": "diffuse", "confidence_threshold": 0.7},
            {"mode": "diffuse", "confidence_threshold": 0.3},
            {"mode": "ar", "confidence_threshold": 0.7},
        ]
    ):
        rows = [{**row(n, n < 3 + number), "nfe": 4 - number} for n in range(10)]
        runs.append(write(tmp_path / f"{number}.jsonl", {**HEADER, "options": options}, rows))
    free = {"mode": "diffuse", "confidence_threshold": 0.5, "check_syntax": False}
    runs.append(write(tmp_path / "free.jsonl", {**HEADER, "options": free}, [row(0, True)]))
    other = {**HEADER, "suite": "line-end", "luck": {}}
    runs.append(write(tmp_path / "ends.jsonl", other, [row(n, None) for n in range(4)]))
    found = report(runs, tmp_path / "out")
    assert as_text(found[3]).startswith(
        "infill-single-line, tiny, diffuse, threshold 0.5, syntax unchecked"
    )
    single = (tmp_path / "out" / "infill-single-line.svg").read_text()
    assert single.startswith("<svg")
    for words in (
        "tiny, diffuse<",
        "tiny, diffuse, syntax unchecked",
        "tiny, ar",
        ">0.7<",
        ">0.3<",
        "% passes",
    ):
        assert words in single
    ends = (tmp_path / "out" / "line-end.svg").read_text()
    assert "% equal ignoring outer white space" in ends
    assert ">0.7<" not in ends


def test_fresh_code_stands_beside_held_out_packages(tmp_path: Path) -> None:
    """As suites of their own, each with its plot, on one page that names the base."""
    base = {"name": "tiny-base", "sha256": "b" * 64}
    model = {"name": "tiny", "weights": "b" * 64, "tokenizer": "", "base": base}
    options = {"mode": "verify", "until": "line"}
    paths = []
    for source in ("held-out", "fresh"):
        head = {**HEADER, "suite": "line-end", "source": source, "model": model, "luck": {}}
        rows = [row(n, None) for n in range(4)]
        paths.append(write(tmp_path / f"{source}.jsonl", {**head, "options": options}, rows))
    found = report(paths, tmp_path / "out")
    assert as_text(found[1]).startswith("line-end (fresh), tiny, verify, until line")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "line-end (held-out), tiny, verify, until line" in page
    assert "tiny: the base tiny-base bbbbbbbbbbbb alone. " in page
    assert {path.name for path in (tmp_path / "out").glob("*.svg")} == {
        "line-end-fresh.svg",
        "line-end-held-out.svg",
    }
    adapted = {**found[1], "model": {**model, "weights": "a" * 64}}
    assert "weights aaaaaaaaaaaa, an adapter of the base tiny-base bbbb" in as_text(adapted)


def test_missing_rows_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text, page, JSON and comparison count missing rows; damaged lines are named."""
    whole = write(tmp_path / "whole.jsonl", HEADER, [row(n, n < 3) for n in range(10)])
    assert "INCOMPLETE" not in as_text(report([whole], tmp_path / "out")[0])
    assert "INCOMPLETE" not in compare_runs(whole, whole)
    part = write(tmp_path / "part.jsonl", HEADER, [row(n, n < 3) for n in range(8)])
    part.write_text(part.read_text().replace('{"id": "p2"', '{"id" "p2"'))
    (found,) = report([part], tmp_path / "out")
    assert (found["missing"], found["damaged_lines"]) == (3, [4])
    assert "line 4 is damaged" in capsys.readouterr().err
    expected = "INCOMPLETE: 7 of 10 rows, 3 missing"
    assert expected in as_text(found)
    assert expected in (tmp_path / "out" / "report.html").read_text()
    compared = compare_runs(whole, part)
    assert "7 in common (INCOMPLETE: the first has 10 of 10, the second 7 of 10)" in compared


RESULTS = Path(__file__).parents[2] / "docs" / "reports" / "talaria-7m" / "results"


@pytest.mark.parametrize("name", ["span-free-0", "typing-ar"])
def test_published_results_can_still_be_read(name: str, tmp_path: Path) -> None:
    """Even if their headers name options that the decoder no longer has."""
    path = tmp_path / f"{name}.jsonl"
    path.write_bytes(lzma.decompress((RESULTS / f"{name}.jsonl.xz").read_bytes()))
    assert "entropy_bound" in read(path)[0]["options"]
    (found,) = report([path], None)
    assert found["missing"] == 0
    assert "talaria-7m" in as_text(found)


def test_two_runs_are_compared_on_the_same_problems(tmp_path: Path) -> None:
    """Pairs decide; different data, or true lengths in only one run, are refused."""
    one = write(tmp_path / "one.jsonl", HEADER, [row(n, n < 3) for n in range(10)])
    two = write(tmp_path / "two.jsonl", HEADER, [row(n, n < 8) for n in range(10)])
    text = compare_runs(one, two)
    assert "+50.0%" in text
    assert "only first 0, only second 5, p = 0.0625" in text
    assert "differs" not in text
    options = {"mode": "diffuse", "confidence_threshold": 0.5}
    other = {**HEADER, "options": options, "isolation": "limits", "made_by": []}
    three = write(tmp_path / "three.jsonl", other, [row(n, n < 8) for n in range(10)])
    lines = compare_runs(one, three).splitlines()
    assert lines[1] == "differs: isolation: full  against  limits"
    assert lines[2].startswith('differs: made_by: [{"command": "talaria eval run')
    assert lines[3] == "differs: options.confidence_threshold: 0.7  against  0.5"
    several = [row(n, n < 8, sample) for n in range(5) for sample in range(2)]
    repeated = write(tmp_path / "repeated.jsonl", HEADER, several)
    assert "p = " not in compare_runs(repeated, repeated)
    alien = write(tmp_path / "alien.jsonl", {**HEADER, "data": "x" * 64}, [row(0, True)])
    with pytest.raises(UsageError, match="different problems"):
        compare_runs(one, alien)
    oracle = write(tmp_path / "oracle.jsonl", {**HEADER, "oracle_length": True}, [row(0, True)])
    with pytest.raises(UsageError, match="true lengths"):
        compare_runs(one, oracle)
    timed = write(tmp_path / "timed.jsonl", {**HEADER, "suite": "latency"}, [row(0, True)])
    with pytest.raises(UsageError, match="within one run"):
        compare_runs(timed, timed)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"confidence_threshold": 0.6, "lookahead": 8}, "threshold 0.6"),
        ({"confidence_threshold": 0.6}, "threshold 0.6"),
        ({"confidence_threshold": 0.0, "lookahead": 32}, "threshold 0.0, 32 ahead"),
        ({"confidence_threshold": 0.6, "top_k": 2, "lookahead": 4}, "top k 2, 4 ahead"),
    ],
)
def test_rules_are_named_with_their_lookahead(options: dict[str, Any], expected: str) -> None:
    """The lookahead is named where it is not the default."""
    assert rule_of({"options": options}) == expected


def test_a_schedule_is_named_as_it_ran(tmp_path: Path) -> None:
    """That of an open family, with its sizes and its cache; ours has no part in it."""
    asked = Options(confidence_threshold=0.9, sizes=(8, 16), approximate_cache="dual:4")
    schedule = asdict(LLADA.schedule.asked(asked))
    options = {"mode": "diffuse", "confidence_threshold": 0.9, "sizes": [8, 16]}
    options |= {"approximate_cache": "dual:4"}
    head = HEADER | {"options": options, "schedule": schedule}
    (found,) = report([write(tmp_path / "r.jsonl", head, [row(n, True) for n in range(10)])], None)
    text = as_text(found)
    rule = "diffuse, even by probability, blocks of 32, threshold 0.9"
    assert f"{rule}, sizes 8 16, dual:4 cache" in text.splitlines()[0]
    assert "\nschedule pace even, order probability, block 32" in text
