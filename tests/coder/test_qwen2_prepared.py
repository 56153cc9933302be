"""The prepared form computes what the base does, in 8 bits, and survives what happens to files."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError

from talaria.coder import bases, checkpoint, cli, loading, models_command
from talaria.coder.backbone import KVCache
from talaria.coder.errors import CheckpointError
from talaria.coder.families.onnx_graph import Int8Matrix
from talaria.coder.families.qwen2_files import open_base
from talaria.coder.families.qwen2_prepared import opened
from tests.coder.test_qwen2_gguf import computed, file, home, installed

__all__ = ["file", "home"]  # fixtures


def forms(home: Path) -> list[Path]:
    """The prepared forms there are, and anything half done."""
    places = (home / "bases" / "prepared").glob("*")
    return [path for path in places if path.suffix != ".lock"]


def test_8_bits_are_near_the_base(file: Path, home: Path) -> None:
    """States hardly differ from float32's, and the likeliest token seldom."""
    exact = computed(open_base(file))
    config = exact.config
    rounded = checkpoint.load(installed(file, home)).backbone
    ids = np.random.default_rng(1).integers(0, config.vocab_size, 60).tolist()
    one, other = exact.encode([ids])[0], rounded.encode([ids])[0]
    assert 0 < np.linalg.norm(one - other) < 0.2 * np.linalg.norm(one)  # random weights amplify it
    top = [
        backbone.candidates(states[0], 1).ids
        for backbone, states in ((exact, one), (rounded, other))
    ]
    assert (top[0] == top[1]).mean() > 0.7


def test_a_position_does_not_depend_on_those_beside_it(file: Path, home: Path) -> None:
    """Equal to the bit in passes of any width: each row of states has its own scale."""
    backbone = checkpoint.load(installed(file, home)).backbone
    ids = np.random.default_rng(2).integers(0, 300, 40).tolist()
    whole, _ = backbone.encode([ids])
    for width in (1, 2, 3, 8, 17):
        states, _ = backbone.encode([ids[:width]])
        np.testing.assert_array_equal(states[0], whole[0, :width])
    _, cache = backbone.encode([ids[:20]])
    states, _ = backbone.encode([ids[20:]], cache)
    np.testing.assert_array_equal(states[0], whole[0, 20:])
    alone: KVCache | None = None
    for place in range(40):
        states, alone = backbone.encode([[ids[place]]], alone)
        np.testing.assert_array_equal(states[0, 0], whole[0, place])
    _, together = backbone.encode([ids])
    assert alone is not None
    for one, other in zip(
        (*alone.keys, *alone.values), (*together.keys, *together.values), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_a_position_does_not_depend_on_what_was_read_in_vain(file: Path, home: Path) -> None:
    """Drafts that were wrong, and masks, read and dropped, leave no trace: equal to the bit."""
    backbone = checkpoint.load(installed(file, home)).backbone
    ids = np.random.default_rng(3).integers(0, 300, 120).tolist()
    whole, _ = backbone.encode([ids])
    _, cache = backbone.encode([ids[:60]])
    for place in range(60, 120):
        vain = place % 4
        states, cache = backbone.encode([[ids[place], *ids[:vain]]], cache, [[(1 + vain // 2, 1)]])
        np.testing.assert_array_equal(states[0, 0], whole[0, place])
        cache = cache.without(np.array([vain]))


def test_it_is_made_once_and_needs_no_base(file: Path, home: Path) -> None:
    """The base's file may go; the text stays."""
    folder = installed(file, home)
    done: list[float] = []
    first = checkpoint.load(folder, on_progress=done.append)
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 1)
    for base in (home / "bases").glob("*.gguf"):
        base.unlink()
    again = checkpoint.load(folder, on_progress=lambda part: pytest.fail("prepared again"))
    ids = [1, 2, 3, 4]
    np.testing.assert_array_equal(first.backbone.encode([ids])[0], again.backbone.encode([ids])[0])
    assert again.tokenizer.encode("x = mean(values)") == first.tokenizer.encode("x = mean(values)")


@pytest.mark.parametrize("name", ["weights.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("how", ["cut", "changed", "missing"])
def test_a_damaged_form_is_made_anew(file: Path, home: Path, name: str, how: str) -> None:
    """At once; the next load does not make it again."""
    folder = installed(file, home)
    checkpoint.load(folder)
    (form,) = forms(home)
    data = bytearray((form / name).read_bytes())
    data[len(data) // 2] ^= 1
    if how == "missing":
        (form / name).unlink()
    else:
        (form / name).write_bytes(data if how == "changed" else data[: len(data) // 2])
    if name == "config.json" and how == "changed":
        (form / name).write_text("[]")
    made: list[float] = []
    checkpoint.load(folder, on_progress=made.append)
    assert made[-1] == 1
    checkpoint.load(folder, on_progress=lambda part: pytest.fail("prepared again"))


def weights(header: object) -> bytes:
    """A safetensors file with this header and no tensors."""
    data = json.dumps(header).encode()
    return len(data).to_bytes(8, "little") + data


def tensor(**changes: Any) -> bytes:
    """A safetensors file that says this of its tensor."""
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}
    return weights({"output_norm.weight": entry})


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("config.json", b"[" * 100_000),
        ("config.json", b"null"),
        ("weights.safetensors", b"[" * 100_000),
        ("weights.safetensors", weights("[" * 100_000)),
        ("weights.safetensors", weights([])),
        ("weights.safetensors", weights({"output_norm.weight": []})),
        ("weights.safetensors", tensor(shape=[10**30])),
        ("weights.safetensors", tensor(shape=[1e308, 1e308])),
        ("weights.safetensors", tensor(data_offsets=[])),
        ("weights.safetensors", tensor(data_offsets=[10**30, 0])),
        ("weights.safetensors", tensor(dtype=[])),
    ],
)
def test_nonsense_is_no_form(file: Path, home: Path, name: str, data: bytes) -> None:
    """Whatever its reader makes of it: it counts as damaged, and nothing is raised."""
    checkpoint.load(installed(file, home))
    (form,) = forms(home)
    assert opened(form, denoises=False)
    (form / name).write_bytes(data)
    assert opened(form, denoises=False) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rope_base", 2e6),
        ("epsilon", 1e-5),
        ("context_length", 2048),
        ("context_length", None),
        ("vocab_size", 10**9),
        ("heads", 0),
        ("layers", 1),
    ],
)
def test_a_damaged_shape_is_no_form(file: Path, home: Path, name: str, value: object) -> None:
    """It would compute something else, or nothing."""
    checkpoint.load(installed(file, home))
    (form,) = forms(home)
    config = json.loads((form / "config.json").read_text())
    config["shape"][name] = value
    (form / "config.json").write_text(json.dumps(config))
    assert opened(form, denoises=False) is None


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_whoever_may_read_the_folder_may_read_the_form(file: Path, home: Path) -> None:
    """All its files: one copy serves a machine with several users."""
    before = os.umask(0o022)
    try:
        checkpoint.load(installed(file, home))
    finally:
        os.umask(before)
    (form,) = forms(home)
    assert {stat.S_IMODE(each.stat().st_mode) for each in form.iterdir()} == {0o644}


def test_a_damaged_form_without_its_base(file: Path, home: Path) -> None:
    """One line says how to get the base."""
    folder = installed(file, home)
    checkpoint.load(folder)
    (form,) = forms(home)
    (form / "weights.safetensors").write_bytes(b"")
    for base in (home / "bases").glob("*.gguf"):
        base.unlink()
    with pytest.raises(CheckpointError, match="is not here; fetch it with"):
        checkpoint.load(folder)


def test_an_older_form_of_the_same_checkpoint_is_removed(file: Path, home: Path) -> None:
    """Other settings need no other form; other checkpoints keep theirs."""
    folder = installed(file, home)
    checkpoint.load(folder)
    (form,) = forms(home)
    old, other = form.with_name("tiny-0123"), form.with_name("tiny-two-0123")
    for each in (old, other):
        each.mkdir()
    (form / "config.json").unlink()
    checkpoint.load(folder)
    assert set(forms(home)) == {form, other}


def test_models_of_several_runs_keep_their_forms(file: Path, home: Path) -> None:
    """Though all of them lie in a folder of the same name."""
    first = installed(file, home)
    folders = [home / run / "model" for run in ("one", "two")]
    for folder in folders:
        shutil.copytree(first, folder)
        checkpoint.load(folder)
    before = set(forms(home))
    assert len(before) == 2
    for folder in folders:
        checkpoint.load(folder)
    assert set(forms(home)) == before


def test_nothing_is_prepared_without_memory_for_it(
    file: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rather than that the system ends some program."""
    monkeypatch.setattr("talaria.coder.families.qwen2_prepared.available_memory", lambda: 5000)
    with pytest.raises(CheckpointError, match=r"needs .* of memory, 0 MB are free; close other"):
        checkpoint.load(installed(file, home))
    assert not forms(home)


def test_two_processes_prepare_it_once(file: Path, home: Path) -> None:
    """The second waits for the first."""
    folder = installed(file, home)
    made: list[float] = []
    threads = [
        threading.Thread(
            target=checkpoint.load,
            args=(folder,),
            kwargs={"on_progress": lambda part: made.append(part) if part == 1 else None},
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_a_folder_that_cannot_be_written_to(file: Path, home: Path) -> None:
    """One line with the remedy, and nothing half done."""
    folder = installed(file, home)
    (home / "bases" / "prepared").write_text("a file is in the way")
    with pytest.raises(CheckpointError, match=r"cannot be prepared .* TALARIA_HOME"):
        checkpoint.load(folder)


def test_a_full_disk(file: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looked at first; and if it fills up while writing, nothing is left."""
    from talaria.coder.families import qwen2_prepared

    folder = installed(file, home)

    text = "No space left on device"
    for error in (OSError(28, text, "config"), SafetensorError(f"I/O error: {text}")):
        with monkeypatch.context() as patch:
            patch.setattr(qwen2_prepared, "save_file", raising(error))
            with pytest.raises(CheckpointError, match=r"No space left.*free some"):
                checkpoint.load(folder)
        assert not forms(home)
    with monkeypatch.context() as patch:
        patch.setattr(qwen2_prepared, "SPARE_BYTES", 1 << 60)
        with pytest.raises(CheckpointError, match="MB free; preparing the model needs"):
            checkpoint.load(folder)
    checkpoint.load(folder)


def no_room_for_numpy(patch: pytest.MonkeyPatch) -> None:
    """While it is prepared."""
    patch.setattr(Int8Matrix, "of", raising(MemoryError()))


def no_room_for_mmap(patch: pytest.MonkeyPatch) -> None:
    """While the prepared form is mapped."""
    patch.setattr("mmap.mmap", raising(OSError(12, "Cannot allocate memory")))


def no_room_for_onnxruntime(patch: pytest.MonkeyPatch) -> None:
    """As it was seen to say so."""
    text = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Exception: std::bad_alloc"
    patch.setattr("onnxruntime.InferenceSession", raising(Exception(text)))


def raising(error: Exception) -> Callable[..., None]:
    """A function that always raises it."""

    def fail(*args: object, **options: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("short", [no_room_for_numpy, no_room_for_mmap, no_room_for_onnxruntime])
def test_too_little_memory(
    file: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    short: Callable[[pytest.MonkeyPatch], None],
) -> None:
    """One line with the remedy; with more, it is loaded."""
    folder = installed(file, home)
    if short is not no_room_for_numpy:
        checkpoint.load(folder)
    before = forms(home)
    with monkeypatch.context() as patch:
        short(patch)
        with pytest.raises(CheckpointError, match="tiny: too little memory to load it; close"):
            checkpoint.load(folder)
    assert forms(home) == before
    checkpoint.load(folder)


def test_rounding_to_8_bits() -> None:
    """Each output has its own scale; a column of zeros stays zero."""
    matrix = np.array([[1, 100, 0], [-2, 50, 0]], np.float32)
    found = Int8Matrix.of(matrix, 64)
    assert found.values.tolist() == [[32, 64, 0], [-64, 32, 0]]
    np.testing.assert_allclose(found.values * found.scales, matrix)


@pytest.fixture
def large(file: Path, home: Path) -> Path:
    """The user's own model of the large one's name, which is tiny; its base is there."""
    folder = installed(file, home)
    return folder.rename(folder.with_name(checkpoint.LARGE))


def test_the_default_is_the_large_model_once_its_base_is_here(large: Path, home: Path) -> None:
    """Its file or its prepared form; otherwise the embedded one."""
    assert checkpoint.default() == checkpoint.LARGE
    assert checkpoint.load().name == checkpoint.LARGE
    for base in (home / "bases").glob("*.gguf"):
        base.unlink()
    assert checkpoint.load().name == checkpoint.LARGE
    shutil.rmtree(home / "bases" / "prepared")
    assert checkpoint.default() == checkpoint.EMBEDDED
    assert checkpoint.find().name == checkpoint.EMBEDDED


def test_the_embedded_model_stands_in(large: Path, home: Path) -> None:
    """Where the default cannot be loaded, in a line that says why; a named one is an error."""
    for base in (home / "bases").glob("*.gguf"):
        base.write_bytes(b"GGUF and something else")
    notes: list[str] = []
    assert checkpoint.load(on_note=notes.append).name == checkpoint.EMBEDDED
    (note,) = notes
    assert "SHA-256" in note
    assert note.endswith(f"going on with {checkpoint.EMBEDDED}")
    with pytest.raises(CheckpointError, match="SHA-256"):
        checkpoint.load(checkpoint.LARGE)


def test_get_fetches_nothing_that_is_prepared(
    large: Path,
    home: Path,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Where the prepared form lies is printed; if it is damaged, its base is fetched."""
    (path,) = (home / "bases").glob("*.gguf")
    base = replace(bases.named(checkpoint.LARGE), sha256=path.stem)
    monkeypatch.setattr(bases, "known", lambda: {checkpoint.LARGE: base})
    fetched = []

    def fetch(name: str, source: str | None) -> Path:
        fetched.append((name, source))
        return Path(shutil.copy(file, path))

    monkeypatch.setattr(models_command, "fetch", fetch)
    get = ["models", "get", checkpoint.LARGE]
    assert cli.main(get) == 0
    path.unlink()
    capsys.readouterr()
    assert cli.main(get) == 0
    (form,) = forms(home)
    assert capsys.readouterr().out == f"{form}\n"
    assert fetched == [(checkpoint.LARGE, None)]
    assert cli.main([*get, "--from", str(file)]) == 0
    path.unlink()
    (form / "weights.safetensors").write_bytes(b"")
    assert cli.main(get) == 0
    assert fetched[1:] == [(checkpoint.LARGE, str(file)), (checkpoint.LARGE, None)]
    assert "is damaged, or of another release or processor; fetching" in capsys.readouterr().err
    path.unlink()

    def starved(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("talaria.coder.families.qwen2_prepared.opened", starved)
    assert cli.main(get) == 1
    assert "too little memory to load it" in capsys.readouterr().err
    assert len(fetched) == 3


def test_a_bar_says_that_the_vocabulary_is_read(
    large: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal, as long as nothing can be counted."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    loading.load(None)
    first, *others = capsys.readouterr().err.strip().split("\r")
    assert first == f"preparing {checkpoint.LARGE}, once: reading its vocabulary"
    assert all(re.search(r"once: \d+ %", other) for other in others)
    assert others[-1].endswith("100 %")


def test_a_command_says_what_takes_long(
    large: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once, when the model is prepared; nothing afterwards."""
    loading.load(None)
    assert capsys.readouterr().err == (f"preparing {checkpoint.LARGE}, once: about half a minute\n")
    loading.load(None)
    assert not capsys.readouterr().err


@pytest.mark.parametrize("terminal", [True, False])
def test_a_command_says_what_it_waits_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    """On a terminal, after some time; it is taken back before anything else is said."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    loading.LoadTerminal("a model").close()
    assert not capsys.readouterr().err
    monkeypatch.setattr(loading, "PATIENCE", 0.0)
    said = "waiting for a model ...\r\033[K" if terminal else ""
    for act, more in (
        (lambda here: None, ""),
        (lambda here: here.line("another model is used"), "talaria: another model is used\n"),
        (lambda here: here.preparing("a model", 1.0), None),
    ):
        here = loading.LoadTerminal("a model")
        time.sleep(0.2)
        act(here)
        here.close()
        found = capsys.readouterr().err
        assert found.startswith(said)
        assert more is None or found == said + more
    quick = loading.LoadTerminal("a model")
    quick.line("at once")
    time.sleep(0.2)
    assert capsys.readouterr().err.endswith("talaria: at once\n")
    quick.close()
