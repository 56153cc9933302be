"""A checkpoint is read as it was written, or refused with a reason."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from talaria.coder import checkpoint, files
from talaria.coder.checkpoint import ADAPTER, CONFIG, TOKENIZER, WEIGHTS
from talaria.coder.errors import CheckpointError
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.families.talaria_torch import TorchBackbone, Transformer
from talaria.coder.infill import fill
from talaria.coder.layout import Layout
from talaria.coder.request import Options, Request, Settings
from talaria.finetune.trainable import load_trainable, save
from tests.scripted import ScriptedBackbone


def edit_config(folder: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change the configuration in place."""
    path = folder / CONFIG
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def edit_shape(folder: Path, **values: object) -> None:
    """Change the denoiser's configuration in place."""
    edit_config(folder, lambda config: config["denoiser"].update(values))  # type: ignore[attr-defined]


def rehash(folder: Path) -> None:
    """Make the hashes right again, so that a later check has to find the fault."""
    hashes = {name: files.digest(folder / name) for name in (WEIGHTS, TOKENIZER)}
    edit_config(folder, lambda config: config.update(sha256=hashes))


def truncate(folder: Path) -> None:
    """Cut the weights short."""
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def truncate_and_rehash(folder: Path) -> None:
    """Cut the weights short without the hashes noticing."""
    truncate(folder)
    rehash(folder)


def flip_a_bit(folder: Path) -> None:
    """Change one bit in the middle of the weights."""
    data = bytearray((folder / WEIGHTS).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / WEIGHTS).write_bytes(bytes(data))


def transpose_a_tensor(folder: Path) -> None:
    """Give a tensor another shape."""
    weights = load_file(folder / WEIGHTS)
    weights["embed.weight"] = weights["embed.weight"].T.contiguous()
    save_file(weights, folder / WEIGHTS)
    rehash(folder)


def lose_a_tensor(folder: Path) -> None:
    """Leave a tensor out."""
    weights = load_file(folder / WEIGHTS)
    del weights["blocks.0.qkv.weight"]
    save_file(weights, folder / WEIGHTS)
    rehash(folder)


def test_a_saved_model_is_loaded_as_it_was(model_folder: Path, transformer: Transformer) -> None:
    """Up to the half precision in which weights are stored."""
    model = load_trainable(model_folder)
    for name, tensor in model.transformer.state_dict().items():
        torch.testing.assert_close(
            tensor, transformer.state_dict()[name].half().float(), rtol=0, atol=0
        )
    assert model.transformer.config == transformer.config


def test_large_weights_travel_in_parts(
    transformer: Transformer,
    tokenizer: TalariaTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Put together they are the model; a part that is damaged or lost is named."""
    whole = tmp_path / "whole"
    save(whole, transformer, tokenizer)
    monkeypatch.setattr(checkpoint, "PART_BYTES", 10_000)
    folder = tmp_path / "parts"
    save(folder, transformer, tokenizer)
    parts = sorted(folder.glob(f"{WEIGHTS}*"))
    assert len(parts) > 3
    assert max(part.stat().st_size for part in parts) == 10_000
    assert b"".join(part.read_bytes() for part in parts) == (whole / WEIGHTS).read_bytes()
    one, other = load_trainable(folder), load_trainable(whole)
    for name, tensor in one.transformer.state_dict().items():
        assert torch.equal(tensor, other.transformer.state_dict()[name])
    names = [checkpoint.load(path).weights_hash for path in (folder, whole)]
    assert len(names[0]) == 64
    assert names[0] != names[1] == files.digest(whole / WEIGHTS)
    parts[1].unlink()
    with pytest.raises(CheckpointError, match=rf"{WEIGHTS}\.01: missing"):
        checkpoint.load(folder)


def test_more_than_a_hundred_parts(
    transformer: Transformer,
    tokenizer: TalariaTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Are put together, and hashed, in the order of their numbers."""
    monkeypatch.setattr(checkpoint, "PART_BYTES", 800)
    save(tmp_path / "m", transformer, tokenizer)
    names = [f"{WEIGHTS}.{number:02d}" for number in range(len([*tmp_path.glob(f"m/{WEIGHTS}*")]))]
    assert f"{WEIGHTS}.100" in names
    hashes = "".join(files.digest(tmp_path / "m" / name) for name in names)
    assert (
        checkpoint.load(tmp_path / "m").weights_hash == hashlib.sha256(hashes.encode()).hexdigest()
    )


def test_a_save_killed_between_its_renames(
    transformer: Transformer,
    tokenizer: TalariaTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next load restores the former model."""
    folder = tmp_path / "model"
    save(folder, transformer, tokenizer, training={"number": 1})
    real = os.replace

    def replace(one: Path, other: Path) -> None:
        real(one, other)
        if other != folder:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save(folder, transformer, tokenizer, training={"number": 2})
    monkeypatch.undo()
    assert not folder.exists()
    assert checkpoint.load(folder).config["training"] == {"number": 1}


@pytest.mark.parametrize("moment", range(4))
def test_a_folder_that_is_replaced_while_it_is_loaded(
    transformer: Transformer,
    tokenizer: TalariaTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: int,
) -> None:
    """Before or after its weights or its tokenizer are verified: all parts are of the new one."""
    folder = tmp_path / "model"
    save(folder, transformer, tokenizer, training={"number": 1})
    real, calls = files.digest, 0

    def digest(path: Path) -> str:
        nonlocal calls
        calls += 1
        if calls == 1 + moment // 2 and moment % 2 == 0:
            exchange()
        found = real(path)
        if calls == 1 + moment // 2 and moment % 2:
            exchange()
        return found

    def exchange() -> None:
        monkeypatch.setattr(checkpoint, "digest", real)
        with torch.no_grad():
            other = copy.deepcopy(transformer)
            next(other.parameters()).add_(1)
        save(folder, other, tokenizer, training={"number": 2})

    monkeypatch.setattr(checkpoint, "digest", digest)
    model = checkpoint.load(folder)
    assert calls
    assert model.config["training"] == {"number": 2}
    again = checkpoint.load(folder)
    ids = [[1, 2, 3]]
    np.testing.assert_array_equal(model.backbone.encode(ids)[0], again.backbone.encode(ids)[0])


def test_a_folder_that_is_replaced_all_the_time(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The attempts end, with a line; a damaged folder that stays is read once."""
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    versions = iter(range(100))
    with monkeypatch.context() as patch:
        patch.setattr(files, "version", lambda path: next(versions))
        with pytest.raises(CheckpointError, match="another process keeps replacing it"):
            checkpoint.load(folder)
    (folder / TOKENIZER).unlink()
    with pytest.raises(CheckpointError, match="missing"):
        checkpoint.load(folder)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_model_that_computes_no_numbers(
    transformer: Transformer,
    tokenizer: TalariaTokenizer,
    tmp_path: Path,
    kind: str,
    value: float,
) -> None:
    """An error that names it, instead of text that nothing stands behind."""
    broken = copy.deepcopy(transformer)
    with torch.no_grad():
        broken.get_parameter(f"blocks.{len(broken.blocks) - 1}.down.weight")[0, 0] = value
    save(tmp_path / "broken", broken, tokenizer)
    model = checkpoint.load(tmp_path / "broken")
    if kind == "torch":
        backbone = TorchBackbone(broken.requires_grad_(False).eval(), model.marks)
        backbone.name = "broken"
        model = replace(model, backbone=backbone)
    for mode in ("ar", "verify", "diffuse"):
        options = Options(mode, check_syntax=False)
        with pytest.raises(CheckpointError, match="broken: computes what is no number"):
            fill(model, Request("x = ", "", options))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "damaged"),
        (truncate_and_rehash, "damaged"),
        (flip_a_bit, "SHA-256"),
        (transpose_a_tensor, r"embed\.weight has shape"),
        (lose_a_tensor, r"qkv\.weight has shape None"),
        (lambda f: (f / WEIGHTS).unlink(), "missing"),
        (lambda f: (f / TOKENIZER).unlink(), "missing"),
        (lambda f: (f / CONFIG).unlink(), "not a model's folder"),
        (shutil.rmtree, "there is no such folder"),
        (lambda f: (f / CONFIG).write_text("{"), "not readable"),
        (lambda f: (f / CONFIG).write_text("[]"), "not readable"),
        (lambda f: (f / CONFIG).write_text("[" * 100_000 + "]" * 100_000), "not readable"),
        (lambda f: (f / CONFIG).write_text('{"hidden_size": 8}'), "names no `architectures`"),
        (lambda f: edit_config(f, lambda c: c.update(parameters=10**400)), "of another kind"),
        (lambda f: edit_config(f, lambda c: c.update(format_version=99)), "format version 99"),
        (lambda f: edit_config(f, lambda c: c.pop("denoiser")), "no valid denoiser"),
        (lambda f: edit_config(f, lambda c: c.update(sha256=None)), "of another kind"),
        (lambda f: edit_config(f, lambda c: c.update(parameters="many")), "of another kind"),
        (lambda f: edit_shape(f, layers=6.0), "layers is 6.0"),
        (lambda f: edit_shape(f, rope_base="x"), "rope_base"),
        (lambda f: edit_shape(f, rope_base=0), "rope_base"),
        (lambda f: edit_shape(f, context_length=4), "leaves room"),
        (lambda f: edit_shape(f, block_length=600), "leaves room"),
        (lambda f: edit_shape(f, context_length=10**9), "out of range"),
        (lambda f: edit_config(f, lambda c: c.update(decoding={"canvas": 1})), "'canvas'"),
        (lambda f: edit_config(f, lambda c: c.update(decoding={"lookahead": 0})), "lookahead is 0"),
        (lambda f: edit_config(f, lambda c: c.update(decoding=[0.7])), "decoding settings"),
        (lambda f: edit_config(f, lambda c: c.update(family="owl")), "'owl' is unknown"),
        (lambda f: edit_config(f, lambda c: c["denoiser"].update(heads=3)), "divisible"),  # type: ignore[attr-defined]
        (lambda f: edit_config(f, lambda c: c["denoiser"].update(vocab_size=9)), "9 tokens"),  # type: ignore[attr-defined]
    ],
)
def test_a_damaged_folder_is_refused(
    model_folder: Path, tmp_path: Path, damage: Callable[[Path], object], reason: str
) -> None:
    """The message is one line that says what is wrong."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    damage(folder)
    with pytest.raises(CheckpointError, match=reason) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("family", [None, "owl"])
def test_only_this_family_is_trained_this_way(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str | None
) -> None:
    """A folder that names no family is of the first one."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    monkeypatch.setitem(checkpoint.FAMILIES, "owl", "talaria.coder.families.talaria")
    if family is None:
        assert load_trainable(folder).name == "model"
        return
    edit_config(folder, lambda config: config.update(family=family))
    with pytest.raises(CheckpointError, match="family is 'owl'; only 'talaria' models"):
        load_trainable(folder)


def test_a_model_has_decoding_settings(model_folder: Path, tmp_path: Path) -> None:
    """Those of its shape at first; what is stored is read again, and nothing else changes."""
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    before = checkpoint.load(folder)
    assert before.settings == Settings(max_tokens=32, working_context=128, block_length=8)
    chosen = Settings(0.25, 4, 16, 20, 64, 16)
    checkpoint.store_settings(folder, chosen)
    after = checkpoint.load(folder)
    assert after.settings == chosen
    assert after.config == {**before.config, "decoding": asdict(chosen)}
    assert sorted(file.name for file in folder.iterdir()) == [CONFIG, WEIGHTS, TOKENIZER]


def test_models_are_found_by_name(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the user's folder, and listed; an unknown name lists what there is."""
    shutil.copytree(model_folder, tmp_path / "models" / "mine")
    monkeypatch.setenv("TALARIA_HOME", str(tmp_path))
    assert checkpoint.find("mine") == tmp_path / "models" / "mine"
    assert "mine" in [listing.name for listing in checkpoint.available()]
    with pytest.raises(CheckpointError, match="mine"):
        checkpoint.find("yours")
    with pytest.raises(CheckpointError, match="remote"):
        checkpoint.find("http://127.0.0.1/model")


def test_saving_replaces_a_folder_whole(
    transformer: Transformer,
    tokenizer: TalariaTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A failure on the way leaves the former checkpoint and no other trace."""
    folder = tmp_path / "model"
    save(folder, transformer, tokenizer)
    monkeypatch.setattr(checkpoint, "digest", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(folder, transformer, tokenizer)
    monkeypatch.undo()
    assert load_trainable(folder).transformer.config == transformer.config
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_absent_device_is_refused(model_folder: Path) -> None:
    """With the way out."""
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(CheckpointError, match="--device cpu"):
        checkpoint.load(model_folder, "cuda")


@pytest.mark.parametrize("device", ["meta", "hpu", "gpu", "cuda:x", ""])
def test_unknown_devices_are_refused(model_folder: Path, device: str) -> None:
    """With those that there are."""
    with pytest.raises(CheckpointError, match="give cpu, mps, cuda"):
        checkpoint.load(model_folder, device)


def test_a_file_or_nothing_is_no_model(model_folder: Path) -> None:
    """The message says what to give instead."""
    with pytest.raises(CheckpointError, match=r"missing.gguf: no such file"):
        checkpoint.find(str(model_folder / "missing.gguf"))
    with pytest.raises(CheckpointError, match="is a file; give a"):
        checkpoint.find(str(model_folder / CONFIG))
    with pytest.raises(CheckpointError, match="--model is empty"):
        checkpoint.find("")


@pytest.mark.parametrize("closed", ["", "models", "models/mine", "models/mine/tokenizer.json"])
def test_what_may_not_be_read_is_skipped(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed: str
) -> None:
    """The model that is shipped is still found and listed, as with another user's home."""
    shutil.copytree(model_folder, tmp_path / "models" / "mine")
    monkeypatch.setenv("TALARIA_HOME", str(tmp_path))
    real = os.stat

    def refuse(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if Path(os.fsdecode(path)).is_relative_to(tmp_path / closed):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", refuse)
    assert checkpoint.find().name == checkpoint.EMBEDDED
    listed = [listing.name for listing in checkpoint.available()]
    assert checkpoint.EMBEDDED in listed
    assert "mine" not in listed
    with pytest.raises(CheckpointError, match="'yours'"):
        checkpoint.find("yours")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the models that are shipped."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("TALARIA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert checkpoint.find().is_dir()


class Owl:
    """A family for tests: whole models and adapters, which say what they were given."""

    def __init__(self, tokenizer: TalariaTokenizer) -> None:
        self.tokenizer = tokenizer
        self.given: list[object] = []

    def parts(self) -> tuple[ScriptedBackbone, TalariaTokenizer, Layout]:
        """What a checkpoint is made of."""
        tokenizer = self.tokenizer
        return ScriptedBackbone(tokenizer, {(): []}), tokenizer, tokenizer.layout

    def settings_of(self, config: Mapping[str, Any], where: Path) -> dict[str, Any]:
        """As the configuration has it."""
        return {"working_context": config.get("positions", 512)}

    def load_adapted(
        self,
        folder: Path,
        config: Mapping[str, Any],
        adapter: bytes,
        find_base: Callable[[], Path],
        device: str,
        on_progress: Callable[[float], None],
    ) -> tuple[ScriptedBackbone, TalariaTokenizer, Layout]:
        """A base and what adapts it."""
        on_progress(1.0)
        self.given = [folder.name, adapter, find_base().read_bytes(), device]
        return self.parts()


@pytest.fixture
def owl(tokenizer: TalariaTokenizer, monkeypatch: pytest.MonkeyPatch) -> Owl:
    """The family, as if it were a module."""
    family = Owl(tokenizer)
    monkeypatch.setitem(checkpoint.FAMILIES, "owl", "owl")
    monkeypatch.setitem(sys.modules, "owl", family)
    return family


BASE = b"weights that somebody else has trained"
NAMED = hashlib.sha256(BASE).hexdigest()


@pytest.fixture
def adapted(owl: Owl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an adapter, whose base lies among the user's."""
    home, folder = tmp_path / "home", tmp_path / "wise"
    (home / "bases").mkdir(parents=True)
    (home / "bases" / NAMED).write_bytes(BASE)
    monkeypatch.setenv("TALARIA_HOME", str(home))
    folder.mkdir()
    (folder / ADAPTER).write_bytes(b"a little more")
    config = {
        "format_version": checkpoint.FORMAT_VERSION,
        "family": "owl",
        "base": {"name": "owl-0.5b", "sha256": NAMED},
        "licence": "MIT",
        "parameters": 12,
        "positions": 32_768,
        "decoding": {"working_context": 1024},
        "sha256": {ADAPTER: files.digest(folder / ADAPTER)},
    }
    (folder / CONFIG).write_text(json.dumps(config))
    return folder


def test_an_adapter_is_loaded_with_its_base(adapted: Path, owl: Owl) -> None:
    """Found by its hash, whatever follows it in the name; both name the weights."""
    model = checkpoint.load(adapted)
    assert owl.given == ["wise", b"a little more", BASE, "cpu"]
    assert model.settings == Settings(working_context=1024)  # its own, not all that it could read
    assert isinstance(model.backbone, ScriptedBackbone)
    assert model.marks is model.backbone.marks
    both = NAMED + files.digest(adapted / ADAPTER)
    assert model.weights_hash == hashlib.sha256(both.encode()).hexdigest()
    bases = adapted.parent / "home" / "bases"
    (bases / NAMED).rename(bases / f"{NAMED}.safetensors")
    assert checkpoint.load(adapted).weights_hash == model.weights_hash


def test_a_base_may_be_used_as_it_is(adapted: Path, owl: Owl) -> None:
    """Without an adapter, its hash alone names the weights."""
    edit_config(adapted, lambda config: config.update(sha256={}))
    (adapted / ADAPTER).unlink()
    assert checkpoint.load(adapted).weights_hash == NAMED
    assert owl.given == ["wise", b"", BASE, "cpu"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (
            lambda f: base_of(f).unlink(),
            f"owl-0.5b .SHA-256 {NAMED[:12]}…., which is not here",
        ),
        (lambda f: base_of(f).write_bytes(BASE + b"!"), "not the base owl-0.5b, its SHA-256 is"),
        (lambda f: edit_config(f, lambda c: c.update(base={"sha256": "12"})), "64 hexadecimal"),
        (lambda f: edit_config(f, lambda c: c.update(base={"sha256": 64 * "G"})), "64 hexadecimal"),
        (lambda f: edit_config(f, lambda c: c.update(base={"sha256": 5})), "64 hexadecimal"),
        (lambda f: edit_config(f, lambda c: c.update(base={})), "64 hexadecimal"),
        (lambda f: edit_config(f, lambda c: c.update(base=NAMED)), "64 hexadecimal"),
        (lambda f: (f / ADAPTER).unlink(), rf"{ADAPTER}: missing"),
        (lambda f: (f / ADAPTER).write_bytes(b"another"), rf"{ADAPTER}: damaged"),
        (
            lambda f: edit_config(f, lambda c: c.update(positions="many")),
            "working_context is 'many",
        ),
    ],
)
def test_an_adapter_without_its_base_is_refused(
    adapted: Path, owl: Owl, damage: Callable[[Path], object], reason: str
) -> None:
    """Or a damaged one: one line with the base's name and hash, and what to do."""
    damage(adapted)
    if "many" in reason:
        edit_config(adapted, lambda config: config.pop("decoding"))
    with pytest.raises(CheckpointError, match=reason) as caught:
        checkpoint.load(adapted)
    assert "\n" not in str(caught.value)
    assert owl.given == []


def base_of(folder: Path) -> Path:
    """Where an adapter's base lies."""
    return folder.parent / "home" / "bases" / NAMED


def test_an_adapter_for_a_user_without_a_home(
    adapted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says which variable names the folder of the bases."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("TALARIA_HOME")
    monkeypatch.setattr(Path, "home", home)
    with pytest.raises(CheckpointError, match="TALARIA_HOME/bases"):
        checkpoint.load(adapted)


def test_a_family_of_another_kind_is_refused(model_folder: Path, tmp_path: Path) -> None:
    """A whole folder that names a family of adapters, and the other way round: one line."""
    folder = tmp_path / "m"
    shutil.copytree(model_folder, folder)
    edit_config(folder, lambda config: config.update(family="qwen2"))
    with pytest.raises(CheckpointError, match="'qwen2' cannot be loaded from a whole folder"):
        checkpoint.load(folder)
    edit_config(folder, lambda config: config.update(family="talaria", base={"sha256": NAMED}))
    with pytest.raises(CheckpointError, match="'talaria' cannot be loaded from an adapter"):
        checkpoint.load(folder)


def test_a_base_beside_what_another_program_left(adapted: Path) -> None:
    """A part with a longer name that comes first in the alphabet is not taken for it."""
    base_of(adapted).with_name(f"{NAMED}.aria2").write_bytes(b"part")
    assert checkpoint.load(adapted).backbone
