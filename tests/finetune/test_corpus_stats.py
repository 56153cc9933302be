from pathlib import Path

import pytest

from talaria.coder.checkpoint import find
from talaria.coder.errors import DataError
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.finetune import corpus_stats, gather
from talaria.finetune.corpus import CorpusDocument, write_corpus
from talaria.finetune.corpus_stats import as_text, measure, summary

DOCUMENTED = '''def area(width, height):
    """The area of a rectangle."""
    return width * height


class Shape:
    async def draw(self):
        "Draw it."
'''
BARE = "def test_area():\n    assert area(2, 3) == 6\n"
TRAIN = [
    CorpusDocument("shapes", "shapes/area.py", DOCUMENTED),
    CorpusDocument("shapes", "tests/a.py", BARE),
]
ABOUT = {
    "packages": [
        {
            "name": name,
            "version": "1.0",
            "licence": "MIT",
            "split": split,
            "files": files,
            "bytes": size,
            "tokens": 40,
            "dropped": {"too short": 3},
        }
        for name, split, files, size in (("shapes", "train", 2, 200), ("post", "valid", 1, 46))
    ]
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus of two training files and a held-out one."""
    out = tmp_path / "corpus"
    write_corpus(out, {"train": TRAIN, "valid": [CorpusDocument("post", "post.py", BARE)]}, ABOUT)
    return out


def test_what_is_measured() -> None:
    """Bytes in all files and in tests, lines, functions and docstrings are counted."""
    contents = measure(TRAIN)
    assert contents.packages == {"shapes": len(DOCUMENTED) + len(BARE)}
    assert contents.tests == {"shapes": len(BARE)}
    assert contents.lines == [9, 3]
    assert (contents.parsed, contents.functions, contents.documented) == (2, 3, 2)


def test_functions_are_counted_in_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files beyond the sample are not parsed; the number of parsed files is reported."""
    monkeypatch.setattr(corpus_stats, "SAMPLE", 1)
    contents = measure(TRAIN)
    assert (contents.parsed, contents.functions, len(contents.lines)) == (1, 2, 2)


def test_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`talaria corpus stats` prints the splits side by side and writes no page without --out."""
    assert gather.main(["stats", "--corpus", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["train", "valid"]
    assert lines[1].split() == ["packages", "1", "1"]
    assert lines[6].split() == ["largest", "package", "shapes", "100.0%", "post", "100.0%"]
    assert lines[-2].split()[-2:] == ["66.7%", "0.0%"]
    assert [p.name for p in folder.parent.iterdir()] == ["corpus"]


def test_tokens_are_estimated(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Bytes per token and the number of tokens use the shipped tokenizer or a given one."""
    texts = [d.text for d in TRAIN]
    shipped = find() / "tokenizer.json"
    tokens = sum(map(len, TalariaTokenizer.load(shipped).encode_batch(texts)))
    gather.main(["stats", "--corpus", str(folder)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[4].split()[:-1] == ["bytes", "per", "BPE", "token", f"{size(texts) / tokens:.2f}"]
    assert lines[5].split()[:-1] == ["BPE", "tokens,", "about", str(tokens)]
    other = folder.parent / "other.json"
    TalariaTokenizer.train(texts, 300).save(other)
    gather.main(["stats", "--corpus", str(folder), "--tokenizer", str(other)])
    lines = capsys.readouterr().out.splitlines()
    assert int(lines[5].split()[3]) > tokens
    assert lines[-1].startswith("BPE tokens: estimated with the tokenizer of other.json")


def size(texts: list[str]) -> int:
    """The size of these texts in bytes."""
    return sum(len(text.encode()) for text in texts)


def test_the_page(folder: Path, tmp_path: Path) -> None:
    """The page shows packages, licences, lengths and reasons, and is reproducible."""
    pages = []
    for name in ("one.html", "two.html"):
        gather.main(["stats", "--corpus", str(folder), "--out", str(tmp_path / name)])
        pages.append((tmp_path / name).read_text(encoding="utf-8"))
    assert pages[0] == pages[1]
    for text in ("shapes", "MIT", "too short", "kept", "lines per file", "66.7%"):
        assert text in pages[0]


def test_a_corpus_of_another_maker(tmp_path: Path) -> None:
    """Without packages in the manifest, the page has no sections on licences and reasons."""
    out = tmp_path / "corpus"
    write_corpus(out, {"train": TRAIN}, {})
    gather.main(["stats", "--corpus", str(out), "--out", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "File lengths" in page
    assert "Licences" not in page


def test_an_empty_split_has_a_column() -> None:
    """An empty split is shown as zeros and dashes."""
    rows = summary({"train": measure(TRAIN), "valid": measure([])}, {"train": 4.0})
    assert [row[2] for row in rows[1:]] == ["0", "0", "0", "-", "-", "-", "-", "0", "-"]
    assert len({len(line) for line in as_text(rows).splitlines()}) == 1


def test_licences_of_many_parts_are_shortened() -> None:
    """Long licence expressions are shortened to fit beside their bars."""
    assert corpus_stats.short("MIT OR Apache-2.0") == "MIT OR Apache-2.0"
    assert corpus_stats.short("Apache-2.0 AND MIT") == "Apache-2.0 AND MIT"
    assert corpus_stats.short("BSD-3-Clause AND 0BSD AND MIT") == "BSD-3-Clause AND 2 others"


def test_no_corpus(tmp_path: Path) -> None:
    """A folder without a corpus is a DataError that names the command to make one."""
    with pytest.raises(DataError, match="talaria corpus"):
        gather.main(["stats", "--corpus", str(tmp_path)])
