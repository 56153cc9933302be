import lzma
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from talaria.coder.errors import DataError, UsageError
from talaria.coder.files import restore_folder
from talaria.finetune import corpus
from talaria.finetune.corpus import (
    CorpusDocument,
    check_corpus,
    corpus_hash,
    read_corpus,
    write_corpus,
)


def module(seed: int, functions: int = 12) -> str:
    """A random module that shares nothing with those of other seeds."""
    rng = random.Random(seed)

    def word() -> str:
        return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(7))

    return "\n\n".join(
        f"def {word()}({word()}, {word()}):\n    {word()} = {word()}({word()} + {word()})\n"
        f"    return {word()}.{word()}({word()})"
        for _ in range(functions)
    )


def documents(*seeds: int) -> list[CorpusDocument]:
    """One document per seed."""
    return [CorpusDocument("alpha", f"alpha/m{seed}.py", module(seed)) for seed in seeds]


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder by name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A corpus of seven training documents and two held-out ones."""
    out = tmp_path / "corpus"
    write_corpus(out, {"train": documents(*range(7)), "valid": documents(8, 9)}, {"seed": 5})
    return out


def test_a_written_corpus_is_read_back(folder: Path) -> None:
    """Documents come back unchanged but shuffled, and the manifest holds what was passed."""
    train = read_corpus(folder, "train")
    assert sorted(train, key=lambda d: d.path) == documents(*range(7))
    assert train != documents(*range(7))
    manifest = check_corpus(folder)
    assert manifest["seed"] == 5
    assert [(p["file"], p["documents"]) for p in manifest["parts"]] == [
        ("train-000.jsonl.xz", 7),
        ("valid-000.jsonl.xz", 2),
    ]
    assert [p["bytes"] for p in manifest["parts"]] == [
        (folder / p["file"]).stat().st_size for p in manifest["parts"]
    ]


@pytest.mark.parametrize("text", ["", "\r\n\x0b\x0c\x1c\x85\u2028", "é🐍\ufeff\ud7ff", '"\\n\\'])
def test_any_text_comes_back(tmp_path: Path, text: str) -> None:
    """All kinds of line endings, quotes and characters outside ASCII are preserved."""
    document = CorpusDocument("alpha", "a b/é.py", text)
    write_corpus(tmp_path / "corpus", {"valid": [document]}, {})
    assert read_corpus(tmp_path / "corpus", "valid") == [document]
    assert read_corpus(tmp_path / "corpus", "train") == []


def test_the_order_of_documents_does_not_matter(folder: Path, tmp_path: Path) -> None:
    """Bytes and hash depend on the documents, not on their order."""
    again = tmp_path / "again"
    write_corpus(
        again, {"valid": documents(9, 8), "train": documents(*range(6, -1, -1))}, {"seed": 5}
    )
    assert contents(again) == contents(folder)
    write_corpus(again, {"valid": documents(9, 8), "train": documents(*range(6))}, {"seed": 5})
    assert corpus_hash(again) != corpus_hash(folder)


def test_parts_are_cut_at_their_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No part exceeds the limit unless it holds one document; reading joins all parts."""
    monkeypatch.setattr(corpus, "PART_BYTES", 3000)
    big = CorpusDocument("alpha", "alpha/big.py", module(9, 60))
    write_corpus(tmp_path / "corpus", {"train": [big, *documents(*range(7))]}, {})
    parts = check_corpus(tmp_path / "corpus")["parts"]
    assert [p["file"] for p in parts] == [f"train-{n:03d}.jsonl.xz" for n in range(len(parts))]
    for part in parts:
        size = len(lzma.decompress((tmp_path / "corpus" / part["file"]).read_bytes()))
        assert size <= 3000 or part["documents"] == 1
    assert len(read_corpus(tmp_path / "corpus", "train")) == 8


def test_text_that_cannot_be_compressed_stays_within_a_hundredth() -> None:
    """The size limit before compression also bounds the compressed file."""
    noise = random.Random(0).randbytes(1_000_000)
    assert len(lzma.compress(noise, preset=corpus.PRESET)) < 1_010_000


def test_a_writer_that_fails_leaves_the_former_corpus(folder: Path, tmp_path: Path) -> None:
    """A failed write leaves the existing corpus intact and no temporary files."""
    before = contents(folder)

    def broken() -> Any:
        yield documents(1)[0]
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_corpus(folder, {"train": broken()}, {})
    assert contents(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["corpus"]


def test_a_writer_killed_between_its_two_renames(folder: Path) -> None:
    """The backup is restored and the partial corpus removed."""
    before = contents(folder)
    folder.rename(folder.with_name(".corpus.former"))
    folder.with_name(".corpus.partial").mkdir()
    restore_folder(folder)
    assert contents(folder) == before
    write_corpus(folder, {}, {})
    assert [p.name for p in folder.parent.iterdir()] == ["corpus"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"thesis.txt": "years of work"}, "other than a corpus"),
        (
            {"manifest.json": '{"name": "my web app"}', "app.py": "import web"},
            "other than a corpus",
        ),
        ({"manifest.json": "{", "train-000.jsonl.xz": ""}, "other than a corpus"),
        ({"manifest.json": '{"format": 2, "parts": [7]}'}, "other than a corpus"),
        (
            {"manifest.json": '{"format": 2, "parts": []}', "notes.txt": "mine"},
            "more than a corpus",
        ),
        ({"manifest.json": '{"format": 2, "parts": [], "repository": ""}'}, "by talaria finetune"),
        (
            {"manifest.json": '{"format": 2, "parts": []}'},
            "by another program, not by talaria corpus",
        ),
    ],
)
def test_anything_but_a_corpus_of_the_same_kind_is_refused(
    tmp_path: Path, files: dict[str, str], reason: str
) -> None:
    """A folder is replaced only if its manifest lists every file in it."""
    out = tmp_path / "corpus"
    out.mkdir()
    for name, text in files.items():
        (out / name).write_text(text)
    before = contents(out)
    with pytest.raises(UsageError, match=f"{reason}.*another --out"):
        write_corpus(out, {}, {"packages": []})
    assert contents(out) == before


def test_a_link_to_a_corpus_stays_a_link(folder: Path, tmp_path: Path) -> None:
    """The target of the link is replaced and can be restored, without leftovers."""
    link = tmp_path / "disk" / "link"
    link.parent.mkdir()
    link.symlink_to(folder)
    for seed in (1, 2):
        write_corpus(link, {"train": documents(seed)}, {})
        assert read_corpus(folder, "train") == documents(seed)
    folder.rename(folder.with_name(".corpus.former"))
    restore_folder(link)
    assert read_corpus(folder, "train") == documents(2)
    assert link.is_symlink()
    assert [p.name for p in link.parent.iterdir()] == ["link"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["corpus", "disk"]


@pytest.mark.parametrize("damage", [None, "a part is missing", "an older format"])
def test_a_corpus_of_the_same_kind_is_replaced(tmp_path: Path, damage: str | None) -> None:
    """Even if it can no longer be read."""
    out = tmp_path / "corpus"
    write_corpus(out, {"train": documents(1)}, {"packages": []})
    if damage == "a part is missing":
        (out / "train-000.jsonl.xz").unlink()
    if damage == "an older format":
        text = (out / "manifest.json").read_text()
        (out / "manifest.json").write_text(text.replace('"format": 2', '"format": 1'))
    write_corpus(out, {"train": documents(2)}, {"packages": ["a"]})
    assert read_corpus(out, "train") == documents(2)
    assert [p.name for p in tmp_path.iterdir()] == ["corpus"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    """A path below a file is a DataError that names it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        write_corpus(tmp_path / "file" / "corpus", {}, {})


def test_a_full_disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is a DataError that says so; the existing corpus is intact."""
    before = contents(folder)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lzma, "open", full)
    with pytest.raises(DataError, match=r"No space left.*free some space"):
        write_corpus(folder, {"train": documents(1)}, {})
    assert contents(folder) == before


def test_a_damaged_part_is_a_data_error(folder: Path) -> None:
    """The error names the damaged or missing part and the remedy."""
    part = folder / "valid-000.jsonl.xz"
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"valid-000.*rebuild it"):
        read_corpus(folder, "valid")
    with pytest.raises(DataError, match=r"valid-000.*rebuild it"):
        check_corpus(folder)
    part.unlink()
    with pytest.raises(DataError, match=r"valid-000.*rebuild it"):
        read_corpus(folder, "valid")
    assert len(read_corpus(folder, "train")) == 7


@pytest.mark.parametrize(
    ("key", "command"), [("packages", "talaria corpus"), ("repository", "talaria finetune")]
)
def test_a_damaged_corpus_is_made_again_by_its_own_command(
    tmp_path: Path, key: str, command: str
) -> None:
    """The error names that command, for a damaged part and for another format."""
    out = tmp_path / "corpus"
    write_corpus(out, {"train": documents(1)}, {key: []})
    (out / "train-000.jsonl.xz").write_bytes(b"")
    with pytest.raises(DataError, match=f"{command} --out {out}$"):
        read_corpus(out, "train")
    text = (out / "manifest.json").read_text()
    (out / "manifest.json").write_text(text.replace('"format": 2', '"format": 1'))
    with pytest.raises(DataError, match=f"{command} --out {out}$"):
        corpus_hash(out)


@pytest.mark.parametrize("manifest", [None, "{", "[]", "{}", '{"format": 0}'])
def test_no_corpus_or_another_format(tmp_path: Path, manifest: str | None) -> None:
    """A folder without a manifest of the current format is a DataError with the remedy."""
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    for read in (corpus_hash, check_corpus, lambda folder: read_corpus(folder, "train")):
        with pytest.raises(DataError, match="talaria corpus"):
            read(tmp_path)


def test_an_unknown_split_is_a_usage_error(tmp_path: Path) -> None:
    """Reading or writing an unknown split is a UsageError."""
    with pytest.raises(UsageError, match="train and valid"):
        read_corpus(tmp_path, "test")
    with pytest.raises(UsageError, match="train and valid"):
        write_corpus(tmp_path, {"test": []}, {})


def test_reading_imports_nothing_heavy() -> None:
    """Reading a corpus does not import numpy, datasketch or tqdm."""
    heavy = "{'numpy', 'datasketch', 'tqdm'}"
    code = f"import sys, talaria.finetune.corpus; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
