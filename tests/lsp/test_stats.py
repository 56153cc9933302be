"""`talaria stats`, for people and for programs."""

from __future__ import annotations

import json
from collections import Counter
from datetime import date, timedelta
from pathlib import Path

import pytest

from talaria.coder.errors import DataError, UsageError
from talaria.lsp import stats
from talaria.lsp.stats import main, percentile, wilson, within
from talaria.lsp.usage import Usage, read

TODAY = date.today()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for counts, and a day that does not end during a test."""

    class Day(date):
        @classmethod
        def today(cls) -> Day:
            """The day on which the tests began."""
            return cls(TODAY.year, TODAY.month, TODAY.day)

    monkeypatch.setattr(stats, "date", Day)
    monkeypatch.setenv("TALARIA_STATE", str(tmp_path))
    return tmp_path


@pytest.fixture
def counted(folder: Path) -> Path:
    """Counts from today, 6, 20 and 100 days ago."""
    for age, shown, accepted in ((0, 10, 3), (6, 10, 4), (20, 10, 5), (100, 970, 0)):
        usage = Usage(folder, lambda age=age: TODAY - timedelta(age))  # type: ignore[misc]
        for number in range(shown):
            usage.record(
                "shown",
                language="python",
                trigger="automatic" if number % 2 else "invoked",
                characters=20,
                milliseconds=90 if number % 2 else 9000,
            )
        for _ in range(accepted):
            usage.record("accepted", language="python", trigger="automatic", characters=20)
        usage.record("partially_accepted", language="python", trigger="invoked", characters=5)
        usage.record("dismissed", language="python", trigger="invoked")
        assert usage.flush()
    return folder


def test_the_table(counted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Four periods, the path of the file, and the note on privacy."""
    assert main([]) == 0
    table, notes = capsys.readouterr().out.split("\n\n")
    assert [" ".join(row.split()) for row in table.splitlines()[1:]] == [
        "today 10 3 30% (11% – 60%) 1 1 65 100 > 5,000",
        "7 days 20 7 35% (18% – 57%) 2 2 150 100 > 5,000",
        "30 days 30 12 40% (25% – 58%) 3 3 255 100 > 5,000",
        "all 1,000 12 1% (1% – 2%) 4 4 260 100 > 5,000",
    ]
    head = table.splitlines()[0]
    assert head.split("  ")[-1].strip() == "p95 ms"
    assert len({len(line) for line in table.splitlines()}) == 1
    assert str(counted / "usage.json") in notes
    assert "never leave this machine" in notes


def test_some_days_by_language_and_trigger(
    counted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One period and its parts."""
    assert main(["--days", "1"]) == 0
    rows = capsys.readouterr().out.split("\n\n")[0].splitlines()[1:]
    assert [" ".join(row.split()) for row in rows] == [
        "1 day 10 3 30% (11% – 60%) 1 1 65 100 > 5,000",
        "python, automatic 5 3 60% (23% – 88%) 0 0 60 100 100",
        "python, invoked 5 0 0% (0% – 43%) 1 1 5 > 5,000 > 5,000",
    ]


def test_json(counted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All figures, in total and by language and trigger."""
    assert main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["file"] == str(counted / "usage.json")
    assert [(p["period"], p["days"], p["shown"]) for p in found["periods"]] == [
        ("today", 1, 10),
        ("7 days", 7, 20),
        ("30 days", 30, 30),
        ("all", None, 1000),
    ]
    today = found["periods"][0]
    by = today.pop("by")
    low, high = today.pop("accepted_interval")
    assert (low, high) == pytest.approx((0.1078, 0.6032), abs=1e-4)
    assert today == {
        "period": "today",
        "days": 1,
        "shown": 10,
        "accepted": 3,
        "accepted_share": 0.3,
        "partially_accepted": 1,
        "dismissed": 1,
        "characters_suggested": 200,
        "characters_accepted": 65,
        "latency_ms": {"count": 10, "p50": 100, "p95": None},
    }
    assert [(part["language"], part["trigger"], part["accepted"]) for part in by] == [
        ("python", "automatic", 3),
        ("python", "invoked", 0),
    ]


def test_json_of_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same fields, None where a figure cannot be derived."""
    assert main(["--json", "--days", "5"]) == 0
    (period,) = json.loads(capsys.readouterr().out)["periods"]
    assert (period["period"], period["shown"], period["by"]) == ("5 days", 0, [])
    assert period["accepted_share"] is period["accepted_interval"] is None
    assert period["latency_ms"] == {"count": 0, "p50": None, "p95": None}


def test_nothing_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, not an error."""
    assert main([]) == 0
    assert capsys.readouterr().out == (
        f"No suggestions counted yet; the language server counts them in {folder / 'usage.json'}.\n"
    )
    assert main(["--days", "7"]) == 0
    assert capsys.readouterr().out.startswith("No suggestions counted in the last 7 days;")
    assert list(folder.iterdir()) == []


def test_forget(counted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The counts are gone; without any, it is not an error."""
    for _ in range(2):
        assert main(["--forget"]) == 0
        assert capsys.readouterr().out.startswith(f"Deleted the counts in {counted}")
        assert read(counted) == {}


@pytest.mark.parametrize("days", ["0", "-1", "401"])
def test_days_out_of_range(days: str) -> None:
    """The message has the value and the limits."""
    with pytest.raises(UsageError, match=f"--days is {days}; it must be from 1 to 400"):
        main(["--days", days])


def test_options_that_exclude_each_other() -> None:
    """`--forget` with `--days` or `--json`."""
    with pytest.raises(UsageError, match="use it without --days"):
        main(["--forget", "--days", "1"])
    with pytest.raises(UsageError, match="not allowed with"):
        main(["--forget", "--json"])


def test_damaged_counts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The error names a remedy that works."""
    (folder / "usage.json").write_text("{")
    with pytest.raises(DataError, match="talaria stats --forget"):
        main([])
    assert main(["--forget"]) == 0
    assert main([]) == 0
    assert "yet" in capsys.readouterr().out


def test_wilson_has_its_published_values() -> None:
    """The examples of Newcombe (1998), and the extremes."""
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)
    assert wilson(20, 20)[1] == 1.0


def test_more_accepted_than_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Shown before midnight and accepted after it: the share is at most 1."""
    usage = Usage(folder, lambda: TODAY)
    usage.record("shown", language="python", trigger="automatic")
    usage.record("accepted", language="python", trigger="automatic")
    usage.record("accepted", language="python", trigger="automatic")
    assert usage.flush()
    assert main(["--json", "--days", "1"]) == 0
    (period,) = json.loads(capsys.readouterr().out)["periods"]
    assert (period["accepted"], period["accepted_share"]) == (2, 1.0)


@pytest.mark.parametrize(
    ("counts", "p50", "p95"),
    [
        ({}, None, None),
        ({"ms_5": 1}, 5, 5),
        ({"ms_5": 10, "ms_300": 10}, 5, 300),
        ({"ms_5": 9, "ms_300": 11}, 300, 300),
        ({"ms_5": 19, "ms_more": 1}, 5, 5),
        ({"ms_5": 18, "ms_more": 2}, 5, None),
    ],
)
def test_percentiles(counts: dict[str, int], p50: int | None, p95: int | None) -> None:
    """The edge of the bucket, if there is one."""
    assert percentile(Counter(counts), 0.5) == p50
    assert percentile(Counter(counts), 0.95) == p95


def test_future_days_are_in_no_period() -> None:
    """Dates from a wrong clock count only in "all"."""
    days = {TODAY + timedelta(1): {("python", "automatic"): Counter(shown=1)}}
    assert within(days, TODAY, 30) == {}
    assert within(days, TODAY, None) != {}
