"""Folders of safetensors compute what transformers does from them, and nothing in them is run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, pre_tokenizers

from talaria.coder import checkpoint
from talaria.coder.errors import CheckpointError
from talaria.coder.families.qwen2_files import open_base
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.infill import fill
from talaria.coder.request import Mode, Options, Request
from tests.coder.test_qwen2_gguf import SPECIAL, check_logits, home, write_gguf

__all__ = ["home"]  # a fixture
STARCODER = ("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>")
ROWS = 400  # more than tokens, as in published models


def write_folder(
    path: Path,
    tokenizer: TalariaTokenizer,
    model: str = "Qwen2",
    special: tuple[str, ...] = SPECIAL,
    shards: str = "1GB",
    kind: str = "float32",
    **changes: Any,
) -> Path:
    """A tiny random model as transformers saves it."""
    import torch
    import transformers

    config = getattr(transformers, f"{model}Config")(
        vocab_size=ROWS,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        rope_parameters={"rope_type": "default", "rope_theta": 5e4},
        initializer_range=0.3,
        tie_word_embeddings=model == "Qwen2",
        **changes,
    )
    torch.manual_seed(0)
    network = getattr(transformers, f"{model}ForCausalLM")(config)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if "norm" in name or "bias" in name:
                weight += 0.3 * torch.randn_like(weight)
    network.to(getattr(torch, kind)).save_pretrained(path, max_shard_size=shards)
    bpe = tokenizers.Tokenizer.from_str(tokenizer._bpe.to_str())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([*special])
    bpe.save(str(path / "tokenizer.json"))
    return path


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory, tokenizer: TalariaTokenizer) -> Path:
    """A folder of Qwen2 blocks."""
    return write_folder(tmp_path_factory.mktemp("folder") / "tiny", tokenizer)


@pytest.fixture
def copy(qwen: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    return Path(shutil.copytree(qwen, tmp_path / "tiny"))


@pytest.mark.parametrize(
    ("model", "how"),
    [
        ("Qwen2", {}),
        ("Qwen2", {"kind": "bfloat16"}),
        ("Llama", {"shards": "50KB"}),
        ("Llama", {"special": STARCODER, "kind": "float16"}),
    ],
)
def test_logits_are_those_of_transformers(
    tmp_path: Path, tokenizer: TalariaTokenizer, model: str, how: dict[str, Any]
) -> None:
    """In one file or in shards, tied or not, in any kind of float."""
    folder = write_folder(tmp_path / "tiny", tokenizer, model, **how)
    assert ("shards" in how) == (folder / "model.safetensors.index.json").is_file()
    check_logits(open_base(folder))


def test_a_folder_fills_a_hole(qwen: Path, home: Path) -> None:
    """Prepared once; `ar` and `verify` write the same; its text is cut as its file says."""
    model = checkpoint.load(qwen)
    assert model.name == "tiny"
    text = "def f(a):\n    return 12345 + a  # <|fim_pad|>\n"
    theirs = tokenizers.Tokenizer.from_file(str(qwen / "tokenizer.json"))
    assert model.tokenizer.encode(text[:20]) == theirs.encode(text[:20]).ids
    assert model.tokenizer.decode(model.tokenizer.encode(text)) == text

    def middle(mode: Mode) -> list[int]:
        options = Options(mode, check_syntax=False, max_tokens=12)
        return [*fill(model, Request("def f(a):\n    return ", "\n", options)).best.tokens]

    assert middle("ar") == middle("verify")
    checkpoint.load(qwen, on_progress=lambda part: pytest.fail("prepared again"))


def test_a_gguf_file_fills_a_hole(tmp_path: Path, home: Path, tokenizer: TalariaTokenizer) -> None:
    """Named by its path, of architecture llama."""
    write_gguf(tmp_path / "tiny.gguf", tokenizer, architecture="llama")
    assert checkpoint.find(str(tmp_path / "tiny.gguf")) == tmp_path / "tiny.gguf"
    model = checkpoint.load(tmp_path / "tiny.gguf")
    options = Options("ar", check_syntax=False, max_tokens=12)
    assert fill(model, Request("def f(a):\n    return ", "\n", options)).best.tokens


def test_folders_of_one_name_are_told_apart(qwen: Path, copy: Path, home: Path) -> None:
    """Neither's prepared form replaces the other's; a changed folder's own replaces its former."""
    checkpoint.load(qwen)
    checkpoint.load(copy)
    forms = {*(home / "bases" / "prepared").glob("tiny-*")}
    assert len(forms) == 2
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rope_parameters": None}))
    checkpoint.load(copy)
    after = {*(home / "bases" / "prepared").glob("tiny-*")}
    assert len(after) == 2
    assert len(after & forms) == 1


def changed(**fields: Any) -> Callable[[Path], None]:
    """Changes the configuration of a folder."""

    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **fields}))

    return change


def removed(name: str) -> Callable[[Path], None]:
    """Removes a file of a folder."""
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    """As older folders are."""
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    """As by an interrupted download."""
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def sharded(names: Any) -> Callable[[Path], None]:
    """Has an index that names these shards."""

    def change(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "one.safetensors")
        index = {"weight_map": {str(n): name for n, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return change


def without_sentinels(folder: Path) -> None:
    """As models are that only chat."""
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|fim_prefix|>", "<|other|>"))


def of_words(folder: Path) -> None:
    """A tokenizer that is no BPE of bytes."""
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({"x": 0}, "x"))
    words.save(str(folder / "tokenizer.json"))


def with_spaces(folder: Path) -> None:
    """A tokenizer that puts a space before a text."""
    bpe = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.save(str(folder / "tokenizer.json"))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (changed(architectures=["MambaForCausalLM"]), r"architectures is \['MambaForCausalLM'\]"),
        (changed(architectures="Qwen2ForCausalLM"), "architectures is 'Qwen2ForCausalLM'"),
        (changed(num_hidden_layers=3), r"no tensor model\.layers\.2\.\S+ in its"),
        (changed(num_hidden_layers=1), r"tensor model\.layers\.1\.\S+ is of no block"),
        (changed(num_hidden_layers="two"), "num_hidden_layers is 'two', not a number"),
        (changed(num_attention_heads=0), "num_attention_heads is 0, not a number above 0"),
        (changed(num_hidden_layers=2.0), "num_hidden_layers is 2.0, not a number"),
        (changed(num_hidden_layers=10**9), "1000000000 layers of width 64 .* do not fit"),
        (changed(num_attention_heads=3), "with 3 heads, 2 of keys, do not fit"),
        (changed(rms_norm_eps=None), "rms_norm_eps is None, not a number"),
        (changed(hidden_act="gelu"), "hidden_act is 'gelu'; only 'silu'"),
        (changed(head_dim=32), "head_dim is 32; only 16"),
        (changed(rope_parameters={"rope_type": "yarn"}), "rope_type is 'yarn'; only 'default'"),
        (changed(quantization_config={"bits": 4}), "quantization_config is"),
        (
            changed(tie_word_embeddings=False),
            r"tie_word_embeddings is not true.*no lm_head\.weight",
        ),
        (removed("tokenizer.json"), r"tokenizer\.json: missing"),
        (removed("model.safetensors"), r"model\.safetensors: missing"),
        (pickled, r"pytorch_model\.bin: pickled weights can run code"),
        (cut, r"model\.safetensors: not a readable safetensors file"),
        (sharded(["one.safetensors", "two.safetensors"]), r"two\.safetensors: missing"),
        (sharded(["../tiny/one.safetensors"]), "names shards in another folder"),
        (sharded([1]), "not readable as an index of shards"),
        (without_sentinels, "its vocabulary has neither .* so the model cannot infill"),
        (of_words, "its tokenizer is 'WordLevel'; only 'a BPE of bytes'"),
        (with_spaces, "its tokenizer is 'one that alters text'"),
    ],
)
def test_what_does_not_fit_is_refused(
    copy: Path, home: Path, change: Callable[[Path], None], sentence: str
) -> None:
    """In one line that says what is wrong; nothing is left of the attempt."""
    change(copy)
    with pytest.raises(CheckpointError, match=sentence) as error:
        checkpoint.load(copy)
    assert "\n" not in str(error.value)
    assert not [*(home / "bases" / "prepared").glob("[!.]*")]


def test_what_may_not_be_read(copy: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file, and what to do."""

    def refuse(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("talaria.coder.published.digest", refuse)
    with pytest.raises(CheckpointError, match=r"json: cannot be read .Permission denied.; check"):
        checkpoint.load(copy)


def test_code_in_a_folder_is_never_run(copy: Path, home: Path) -> None:
    """Not even where its configuration asks for it."""
    (copy / "modeling.py").write_text("raise SystemExit('this was run')")
    changed(auto_map={"AutoModelForCausalLM": "modeling.Model"}, trust_remote_code=True)(copy)
    assert checkpoint.load(copy).name == "tiny"


def test_a_checkpoint_cannot_pass_for_a_published_model(copy: Path, home: Path) -> None:
    """Its base stays what its hash says, wherever it claims to come from."""
    changed(format_version=1, parameters=1, family="qwen2", published="../x", sha256={})(copy)
    changed(base={"name": "other", "sha256": "0" * 64})(copy)
    with pytest.raises(CheckpointError, match="which is not here"):
        checkpoint.load(copy)
