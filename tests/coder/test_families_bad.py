"""What is wrong with a masked diffusion model's folder is said in one line, with the remedy."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from benchmarks.tiny_models import TINY, write
from talaria.coder import checkpoint
from talaria.coder.cli import main
from talaria.coder.errors import CheckpointError
from talaria.coder.families.masked_files import open_folder
from talaria.coder.families.masked_network_torch import dtype_for, read_network, tensor
from talaria.coder.families.masked_torch import MaskedBackbone
from talaria.coder.infill import infill
from talaria.coder.request import Options

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Dream, to be damaged."""
    return write(TINY["dream"], tmp_path / "dream")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """The same in three files."""
    return write(TINY["dream"], tmp_path / "shards", shards=3)


def changed(folder: Path, **values: Any) -> None:
    """Change a folder's configuration; None removes a field."""
    path = folder / "config.json"
    config = {**json.loads(path.read_text("utf-8")), **values}
    kept = {name: value for name, value in config.items() if value is not None}
    path.write_text(json.dumps(kept), "utf-8")


def refused(folder: Path, *parts: str) -> None:
    """Loading says, in one line, all of this."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(folder)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert re.search(part, message), message


def test_shards_are_one_model(folder: Path, shards: Path) -> None:
    """Weights in several files give the texts of those in one."""
    texts = [
        infill(checkpoint.load(each), "x = ", "\n", Options(check_syntax=False)).best.text
        for each in (folder, shards)
    ]
    assert texts[0] == texts[1]


def test_a_missing_shard(shards: Path) -> None:
    """It is named."""
    (shards / "model-00002-of-00003.safetensors").unlink()
    refused(shards, "model-00002-of-00003.safetensors: missing; fetch the model's folder again")


def test_an_index_that_names_what_is_not_there(shards: Path) -> None:
    """A tensor in no shard, or in another one."""
    index = json.loads((shards / INDEX).read_text("utf-8"))
    index["weight_map"]["model.layers.9.mlp.up_proj.weight"] = "model-00001-of-00003.safetensors"
    (shards / INDEX).write_text(json.dumps(index), "utf-8")
    refused(shards, INDEX, "model.layers.9.mlp.up_proj.weight in model-00001", "fetch")


def test_pickled_weights_are_not_opened(folder: Path) -> None:
    """Opening them could run code."""
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    refused(folder, "pytorch_model.bin", "pickled weights can run code", WEIGHTS)


def test_nothing_in_a_folder_is_run(folder: Path, tmp_path: Path) -> None:
    """Its modules lie there, and the configuration names them."""
    mark = tmp_path / "ran"
    for name in ("modeling_dream.py", "configuration_dream.py", "tokenization_dream.py"):
        (folder / name).write_text(f"open({str(mark)!r}, 'w')\n", "utf-8")
    changed(folder, auto_map={"AutoModel": "modeling_dream.DreamModel"}, trust_remote_code=True)
    checkpoint.load(folder)
    assert not mark.exists()
    changed(folder, architectures=["OtherModel"])
    refused(folder, r"architectures is \['OtherModel'\]; supported are", "auto_map.*never run")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu' is supported"),
        ({"use_sliding_window": True}, "use_sliding_window is True; only False"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is .*only None"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type is 'yarn'; only 'default'"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers is 'two', not a number above 0"),
        ({"num_hidden_layers": 3}, r"no tensor model\.layers\.2\.input_layernorm\.weight in its"),
        ({"hidden_size": 32}, r"model\.safetensors: tensor model\.embed_tokens\.weight has shape"),
        ({"mask_token_id": 320}, "mask_token_id is 320, but the embedding has rows 0 to 319"),
        ({"mask_token_id": -1}, "mask_token_id is -1, but the embedding"),
        ({"eos_token_id": 272}, "mask_token_id and eos_token_id are both 272"),
    ],
)
def test_what_is_not_supported(folder: Path, values: dict[str, Any], said: str) -> None:
    """The field, what it is, and what it may be."""
    changed(folder, **values)
    refused(folder, said)


@pytest.mark.parametrize("key", ["llada", "dream", "sdar"])
def test_tensors_are_named_as_in_the_folder(key: str, tmp_path: Path) -> None:
    """What is missing or too much, in which file, and by which field of the configuration."""
    folder = write(TINY[key], tmp_path / key)
    tensors = load_file(folder / WEIGHTS)
    output = "model.transformer.ff_out.weight" if key == "llada" else "lm_head.weight"
    tied = "weight_tying" if key == "llada" else "tie_word_embeddings"
    for name in sorted(tensors):
        save_file(
            {other: each for other, each in tensors.items() if other != name}, folder / WEIGHTS
        )
        if name == output:
            refused(folder, rf"config\.json: {tied} is not true.*no {output}; .* or set {tied} to")
        elif "q_proj.bias" not in name and "q_norm" not in name:  # which say that there are some
            refused(folder, re.escape(name), "fetch the model's folder again")
    more = next(name for name in sorted(tensors) if "q_proj" in name).replace("q_proj.", "q_proj.x")
    save_file({**tensors, more: tensors[output]}, folder / WEIGHTS)
    refused(folder, rf"{WEIGHTS}: tensor {more} is of no block", "give a model of plain")
    save_file({name: each for name, each in tensors.items() if name != output}, folder / WEIGHTS)
    changed(folder, **{tied: True})
    checkpoint.load(folder)


@pytest.mark.parametrize(("key", "size"), [("sdar", 128), ("a2d", 128), ("dream", 16)])
def test_a_head_of_a_size_that_is_not_stated(key: str, size: int, tmp_path: Path) -> None:
    """As transformers has it: Qwen3's, or the width divided by the heads."""
    tiny = replace(TINY[key], size=size)
    whole = infill(checkpoint.load(write(tiny, tmp_path / key)), "x = ", "\n").best.text
    stated = json.loads((tmp_path / key / "config.json").read_text("utf-8"))
    assert stated.pop("head_dim") == size
    (tmp_path / key / "config.json").write_text(json.dumps(stated), "utf-8")
    assert infill(checkpoint.load(tmp_path / key), "x = ", "\n").best.text == whole


def test_a_llada_of_other_blocks(tmp_path: Path) -> None:
    """LLaDA's configuration has fields of its own."""
    folder = write(TINY["llada"], tmp_path / "llada")
    changed(folder, block_type="sequential")
    refused(folder, "block_type is 'sequential'; only 'llama'")


def test_a_tokenizer_without_a_mask(folder: Path) -> None:
    """Neither in the configuration nor by its name."""
    changed(folder, mask_token_id=None)
    checkpoint.load(folder)  # by its name
    text = (folder / "tokenizer.json").read_text("utf-8")
    (folder / "tokenizer.json").write_text(text.replace("<|mask|>", "<|other|>"), "utf-8")
    refused(folder, r"tokenizer\.json: has no mask token", r"<\|mask\|>", "fetch")


def test_ids_beyond_the_table(folder: Path) -> None:
    """A tokenizer with more tokens than the embedding has rows."""
    tensors = load_file(folder / WEIGHTS)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = tensors[name][:200].copy()
    save_file(tensors, folder / WEIGHTS)
    refused(folder, "tokenizer.json", "does not fit an embedding of 200 rows")


def test_a_context_longer_than_the_positions(folder: Path) -> None:
    """A request is cut to what fits; a canvas behind too long a context is refused."""
    model = checkpoint.load(folder)
    assert model.settings.working_context == 510
    assert infill(model, "x = 1\n" * 400, "y = 2\n" * 400).context_tokens <= 512
    backbone = model.backbone
    assert isinstance(backbone, MaskedBackbone)
    _, kept = backbone.encode([model.layout.arrange([5] * 600, [])])
    with pytest.raises(CheckpointError, match=r"601 positions, .*trained on 512; give it a"):
        backbone.denoise(np.array([[model.marks.mask, model.marks.eom]]), kept, [5])


@pytest.mark.parametrize(("key", "positions"), [("dreamon", 512), ("fast-dllm-v2", 500)])
def test_a_canvas_and_its_marks_fit_the_positions(key: str, positions: int, tmp_path: Path) -> None:
    """With the longest canvas behind the longest context, and whole blocks that are read."""
    folder = write(TINY[key], tmp_path / key)
    changed(folder, max_position_embeddings=positions)
    model = checkpoint.load(folder)
    options = Options(max_tokens=64, check_syntax=False)
    if key == "dreamon":
        options = replace(options, sizes=(64,))
    for more in ("", " + 2 "):  # contexts that end elsewhere in a block
        found = infill(model, "x = 1\n" * 400 + f"x = 1{more}", "y = 2\n" * 400, options)
        assert 300 < found.context_tokens < positions


def test_blocks_of_the_size_that_the_configuration_says(tmp_path: Path) -> None:
    """SDAR's models come with several; decoding goes by the same blocks as the network."""
    folder = write(TINY["sdar"], tmp_path / "sdar")
    options = Options(max_tokens=24, check_syntax=False)
    texts = {}
    for size in (None, 4, 16):
        changed(folder, block_size=size)
        model = checkpoint.load(folder)
        assert model.schedule is not None
        assert model.schedule.block == model.settings.block_length == (size or 4)
        texts[size] = infill(model, "def f(self):\n    return ", "\n", options).best.text
    assert texts[None] == texts[4] != texts[16]
    for wrong in (0, "x", True, 4.0):
        changed(folder, block_size=wrong)
        refused(folder, f"config.json: block_size is {wrong!r}; it must be a number of positions")


def test_the_token_that_begins_a_block_alone_goes_by_the_configuration(tmp_path: Path) -> None:
    """Fast-dLLM v2's; its parts of 8 stay."""
    folder = write(TINY["fast-dllm-v2"], tmp_path / "fast")
    changed(folder, bd_size=16)
    schedule = checkpoint.load(folder).schedule
    assert schedule is not None
    assert (schedule.lead, schedule.block) == (16, 8)


def test_too_few_positions(folder: Path) -> None:
    """The field of the configuration is named."""
    changed(folder, max_position_embeddings=3)
    refused(folder, "max_position_embeddings is 3; give a model of at least 34")


def test_architectures_in_a_list(folder: Path) -> None:
    """A list within the list names none."""
    changed(folder, architectures=[["DreamModel"]])
    refused(folder, r"architectures is \[\['DreamModel'\]\]; supported are")


def test_a_mark_that_is_text(folder: Path) -> None:
    """Every such token of a text would be taken for a mask, or an end."""
    row = TINY["dream"].id("(")
    for name in ("mask_token_id", "eos_token_id"):
        changed(folder, **{name: row})
        refused(folder, rf"{name} is {row}, which is no special token but '\('")
        changed(folder, **{name: TINY["dream"].id("<|mask|>")})


def with_header(path: Path, header: str, length: int | None = None) -> None:
    """Write a file of safetensors of a header alone, and 64 bytes behind it."""
    data = header.encode()
    path.write_bytes((length or len(data)).to_bytes(8, "little") + data + bytes(64))


@pytest.mark.parametrize(
    ("header", "length"),
    [
        ("{}", 2**45),
        ("[" * 100_000, None),
        ('{"a": {"dtype": "F32", "shape": [1e400], "data_offsets": [0, 4]}}', None),
        (f'{{"a": {{"dtype": "F32", "shape": [{2**70}], "data_offsets": [0, 4]}}}}', None),
        (f'{{"a": {{"dtype": "F32", "shape": [{2**62}, 4], "data_offsets": [0, 0]}}}}', None),
        ('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, Infinity]}}', None),
        ('{"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}}', None),
        ('{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', None),
        ('{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 400]}}', None),
    ],
)
def test_a_damaged_header(
    header: str,
    length: int | None,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is refused, and `talaria models` lists the others."""
    with_header(folder / WEIGHTS, header, length)
    refused(folder, WEIGHTS, "fetch it again")
    monkeypatch.setenv("TALARIA_HOME", str(folder.parent))
    own = folder.parent / "models"
    write(TINY["llada"], own / "tiny-llada")
    folder.rename(own / "damaged")
    assert main(["models"]) == 0
    assert "tiny-llada" in capsys.readouterr().out


def test_an_index_that_is_not_used(folder: Path) -> None:
    """Beside the weights in one file, it says nothing."""
    for index in ({"weight_map": ["a"]}, {"weight_map": {"gone": "model-1.safetensors"}}):
        (folder / INDEX).write_text(json.dumps(index), "utf-8")
        checkpoint.load(folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-100],
        lambda data: data[:50],
        lambda data: b"",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b'"F32"', b'"F99"', 1),
        lambda data: data.replace(b"data_offsets", b"data_0ffsets", 1),
    ],
)
def test_damaged_weights(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    """Cut off, empty, or with a header that is none."""
    path = folder / WEIGHTS
    path.write_bytes(damage(path.read_bytes()))
    refused(folder, WEIGHTS)


def test_a_family_that_cannot_be_told_what_follows(tmp_path: Path) -> None:
    """Block-causal models need the sentinels of their base."""
    folder = write(TINY["sdar"], tmp_path / "sdar")
    path = folder / "tokenizer.json"
    path.write_text(path.read_text("utf-8").replace("fim_", "fam_"), "utf-8")
    refused(folder, "SDAR reads from left to right", "cannot be told what follows a hole")


def test_a_device_that_is_not_here(folder: Path) -> None:
    """As for other models."""
    if not torch.cuda.is_available():
        with pytest.raises(CheckpointError, match=r"device 'cuda' cannot be used.*--device cpu"):
            checkpoint.load(folder, "cuda")


def test_qwen2_without_a_mask_is_causal(tmp_path: Path) -> None:
    """Open-dCoder is told from Qwen2, whose architecture it names, by its mask."""
    folder = write(TINY["open-dcoder"], tmp_path / "qwen")
    assert checkpoint.configuration(folder)["family"] == "masked"
    path = folder / "tokenizer.json"
    path.write_text(path.read_text("utf-8").replace("<M>", "<other>"), "utf-8")
    assert checkpoint.configuration(folder)["family"] == "qwen2"


def test_diffucoder_s_padding_is_not_dreamon_s_expansion(folder: Path) -> None:
    """Names tell the families apart, not ids."""
    path = folder / "tokenizer.json"
    stated = json.loads(path.read_text("utf-8"))
    stated["added_tokens"].append({**stated["added_tokens"][-1], "id": 273, "content": "<|pad|>"})
    path.write_text(json.dumps(stated), "utf-8")
    assert checkpoint.load(folder).schedule.expand is None  # type: ignore[union-attr]
    path.write_text(json.dumps(stated).replace("<|pad|>", "<|expand|>"), "utf-8")
    assert checkpoint.load(folder).schedule.expand == 273  # type: ignore[union-attr]


def test_a_vocabulary_in_parts(folder: Path) -> None:
    """Dream is published with vocab.json and merges.txt, and without tokenizer.json."""
    whole = checkpoint.load(folder).tokenizer
    stated = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    merges = [" ".join(merge) for merge in stated["model"]["merges"]]
    (folder / "vocab.json").write_text(json.dumps(stated["model"]["vocab"]), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    added = {each["content"]: each["id"] for each in stated["added_tokens"]}
    (folder / "added_tokens.json").write_text(json.dumps(added), "utf-8")
    (folder / "tokenizer.json").unlink()
    parts = checkpoint.load(folder).tokenizer
    text = "def f(self):\n    return self.x  # é"
    assert parts.decode(parts.encode(text)) == text
    assert parts.special == whole.special
    (folder / "merges.txt").unlink()
    refused(folder, r"tokenizer\.json: missing; fetch")


@pytest.mark.parametrize(
    ("vocabulary", "merges", "said"),
    [
        ({"(": "7"}, None, r"vocab\.json: has the id '7'"),
        ({"(": 7.0}, None, r"vocab\.json: has the id 7\.0"),
        ({"(": -1}, None, r"vocab\.json: has the id -1"),
        ({"(": 320}, None, r"vocab\.json: has the id 320, but the embedding has rows 0 to 319"),
        ({"(": None}, None, r"vocab\.json: lacks 1 of the 256 bytes"),
        ({}, "a", r"merges\.txt: 'a' is no merge"),
        ({}, "d e f", r"merges\.txt: 'd e f' is no merge"),
    ],
)
def test_a_damaged_vocabulary_in_parts(
    vocabulary: dict[str, Any], merges: str | None, said: str, folder: Path
) -> None:
    """Ids that are no rows, missing bytes, and merges of other than two tokens."""
    stated = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    known = {**stated["model"]["vocab"], **vocabulary}
    known = {name: row for name, row in known.items() if row is not None}
    lines = [merges] if merges else [" ".join(merge) for merge in stated["model"]["merges"]]
    added = {each["content"]: each["id"] for each in stated["added_tokens"]}
    (folder / "vocab.json").write_text(json.dumps(known), "utf-8")
    (folder / "merges.txt").write_text("\n".join(lines), "utf-8")
    (folder / "added_tokens.json").write_text(json.dumps(added), "utf-8")
    (folder / "tokenizer.json").unlink()
    refused(folder, said, "fetch")


def test_weights_are_not_read_for_their_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sizes and times tell whether they changed."""
    first = checkpoint.configuration(folder)["base"]["sha256"]
    os.utime(folder / WEIGHTS, ns=(0, 1))
    second = checkpoint.configuration(folder)["base"]["sha256"]
    assert first != second
    read: list[Path] = []

    def digest(path: Path) -> str:
        read.append(path)
        return ""

    monkeypatch.setattr("talaria.coder.published.digest", digest)
    checkpoint.configuration(folder)
    assert {path.name for path in read} == {"config.json", "tokenizer.json"}


def test_weights_stay_as_they_are_stored(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 is kept where it is fast, or where there is no memory for float32."""
    tensors = {name: torch.from_numpy(each) for name, each in load_file(folder / WEIGHTS).items()}
    from safetensors.torch import save_file as save

    save({name: each.bfloat16() for name, each in tensors.items()}, folder / WEIGHTS)
    module = "talaria.coder.families.masked_network_torch"
    opened = open_folder(folder)
    place = opened.weights["output.weight"]
    assert torch.equal(tensor(place), tensors["lm_head.weight"].bfloat16())
    monkeypatch.setattr(f"{module}.fast_bfloat16", lambda: False)
    assert dtype_for(opened, "cpu") is torch.float32
    monkeypatch.setattr(f"{module}.available_memory", lambda: 1000)
    assert dtype_for(opened, "cpu") is torch.bfloat16
    assert dtype_for(opened, "cuda") is torch.bfloat16
    assert read_network(opened, "cpu").token_embd.weight.dtype is torch.bfloat16


def test_the_command_says_it_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 1, and no traceback."""
    file = tmp_path / "hole.py"
    file.write_text("x = \n", "utf-8")
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    changed(broken, hidden_act="gelu")
    assert main(["infill", f"{file}:1:4", "--model", str(broken)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    for wrong in ("4;8", "", "x"):
        assert main(["infill", f"{file}:1:4", "--model", str(folder), "--sizes", wrong]) == 2
        assert "--sizes" in capsys.readouterr().err
