"""Models of the Qwen2 family, Llama's included, compute what transformers does from a GGUF file."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter, TokenType, quantize
from hypothesis import given
from hypothesis import strategies as st

from talaria.coder import checkpoint
from talaria.coder.errors import CheckpointError
from talaria.coder.families import qwen2
from talaria.coder.families.qwen2 import Qwen2Config
from talaria.coder.families.qwen2_files import Base, open_base
from talaria.coder.families.qwen2_onnx import OnnxQwen2, fused
from talaria.coder.families.qwen2_tokenizer import EOM, MASK, MIDDLE, PREFIX, SUFFIX, marks_of
from talaria.coder.families.talaria import TalariaTokenizer
from talaria.coder.infill import fill
from talaria.coder.request import Options, Request

SPECIAL = (EOM, "<|im_end|>", PREFIX, MIDDLE, SUFFIX, MASK)
SHAPE: dict[str, Any] = {
    "layers": 2,
    "width": 64,
    "heads": 4,
    "kv_heads": 2,
    "hidden": 96,
    "context_length": 1024,
    "rope_base": 1e6,
    "epsilon": 1e-6,
}
texts = st.text(st.characters(codec="utf-8")) | st.sampled_from(
    ["def f(a, b):\n\treturn a\r\n", "e\u0301", *SPECIAL, "  \n\n    x = '\U0001f600'", "1234 'll"]
)


def write_gguf(path: Path, tokenizer: TalariaTokenizer, **changes: Any) -> Qwen2Config:
    """A tiny random model, its matrices quantised as in published files.

    Of llama, queries and keys are random in any order; what they mean is up to the reader.
    """
    bpe = json.loads(tokenizer._bpe.to_str())["model"]
    tokens = [*sorted(bpe["vocab"], key=bpe["vocab"].get), *SPECIAL]
    architecture = changes.get("architecture", "qwen2")
    plain = architecture == "qwen2"
    config = Qwen2Config(len(tokens), **SHAPE, biases=plain, tied=changes.get("tied", plain))
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.epsilon)
    for name, value in changes.get("fields", {}).items():
        writer.add_string(name, value)
    writer.add_tokenizer_model(changes.get("model", "gpt2"))
    writer.add_tokenizer_pre(changes.get("pre", "qwen2"))
    writer.add_token_list(tokens)
    kinds = [TokenType.NORMAL] * len(bpe["vocab"]) + [TokenType.CONTROL] * len(SPECIAL)
    writer.add_token_types(kinds)
    merges = [m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]]
    writer.add_token_merges(merges)
    rng = np.random.default_rng(0)
    embedding = qwen2.shapes(config)[qwen2.EMBEDDING]
    tied = np.array(0)
    for name, shape in (qwen2.shapes(config) | {qwen2.OUTPUT: embedding}).items():
        value = rng.normal(0, 0.3, shape).astype(np.float32)
        value += "norm" in name
        if name == qwen2.EMBEDDING:
            tied = value
        if name == qwen2.OUTPUT and config.tied:
            value = tied
        kind = GGMLQuantizationType.F32
        if len(shape) == 2:
            fine = "v" in name or name == qwen2.OUTPUT
            kind = GGMLQuantizationType.Q8_0 if fine else GGMLQuantizationType.Q5_0
        kind = changes.get("quantisation", kind) if len(shape) == 2 else kind
        if name != changes.get("without"):
            writer.add_tensor(name, quantize(value, kind), raw_dtype=kind)
    if "also" in changes:
        writer.add_tensor(changes["also"], np.ones(config.size // 2, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return config


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def each(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tokenizer: TalariaTokenizer,
) -> Base:
    """A tiny random model of each architecture: one matrix for both ends, and two.

    Where a tied model's file has both, transformers takes the coarser one for the embedding.
    """
    path = tmp_path_factory.mktemp("gguf") / f"{request.param}.gguf"
    without = qwen2.OUTPUT if request.param == "qwen2" else None
    write_gguf(path, tokenizer, architecture=request.param, without=without)
    return open_base(path)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, tokenizer: TalariaTokenizer) -> Path:
    """A tiny random GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, tokenizer)
    return path


def computed(base: Base, **changes: Any) -> OnnxQwen2:
    """A base in float32."""
    weights = dict(fused(base.shape, qwen2.BaseWeights(base)))
    tokenizer, _ = base.vocabulary.trimmed()
    return OnnxQwen2(base.shape, weights, marks_of(tokenizer), **changes)


def theirs(path: Path) -> Any:
    """The model as transformers reads it."""
    import torch
    from transformers import AutoModelForCausalLM

    where = {"gguf_file": path.name} if path.is_file() else {}
    folder = path.parent if path.is_file() else path
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **where).eval()


def check_logits(base: Base) -> None:
    """Over a whole row and token by token behind a cache, to float32 accuracy."""
    import torch

    backbone = computed(base)
    ids = np.random.default_rng(1).integers(0, base.shape.vocab_size, 40).tolist()
    with torch.inference_mode():
        expected = theirs(base.path)(torch.tensor([ids])).logits[0].numpy()
    whole, _ = backbone.encode([ids])
    np.testing.assert_allclose(backbone.logits(whole[0]), expected, atol=2e-3, rtol=1e-3)
    _, cache = backbone.encode([ids[:30]])
    for place in range(30, 40):
        states, cache = backbone.encode([[ids[place]]], cache)
        np.testing.assert_allclose(
            backbone.logits(states[0])[0], expected[place], atol=2e-3, rtol=1e-3
        )


def test_logits_are_those_of_transformers(each: Base) -> None:
    """From the same file."""
    check_logits(each)


def test_torch_computes_the_same(each: Base) -> None:
    """The module that is adapted, over a whole row, against ONNX Runtime."""
    import torch
    import torch.nn.functional as F

    from talaria.coder.families.qwen2_torch import module

    backbone = computed(each)
    ids = np.random.default_rng(2).integers(0, each.shape.vocab_size, 40)
    states, _ = backbone.encode([ids.tolist()])
    with torch.inference_mode():
        decoder = module(each.shape, qwen2.BaseWeights(each))
        found = decoder.run_embedded(
            decoder.token_embd(torch.from_numpy(ids)[None]),
            torch.arange(40)[None],
            lambda layer, q, k, v: F.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=True
            ),
        )
        logits = decoder.logits(found)[0].numpy()
    np.testing.assert_allclose(found.numpy(), states, atol=1e-4, rtol=1e-3)
    np.testing.assert_allclose(logits, backbone.logits(states[0]), atol=2e-3, rtol=1e-3)


def test_the_finer_copy_of_the_embedding_is_used(file: Path) -> None:
    """The output matrix, where a file has it beside the embedding."""
    from gguf import GGUFReader, dequantize

    given = {tensor.name: tensor for tensor in GGUFReader(file).tensors}
    weights = qwen2.BaseWeights(open_base(file))
    output = given["output.weight"]
    np.testing.assert_array_equal(
        weights["token_embd.weight"], dequantize(output.data, output.tensor_type)
    )


@given(text=texts)
def test_any_text_survives(file: Path, text: str) -> None:
    """Also text that Unicode would normalise; names of special tokens encode to plain text."""
    tokenizer, _ = open_base(file).vocabulary.trimmed()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.special.values())


def adapted(folder: Path, digest: str, **changes: Any) -> Path:
    """A checkpoint that names a base and has no adapter."""
    folder.mkdir(parents=True)
    config = {
        "format_version": 1,
        "family": "qwen2",
        "licence": "Apache-2.0",
        "parameters": 1,
        "base": {"name": "tiny", "sha256": digest},
        "sha256": {},
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def installed(file: Path, home: Path, **changes: Any) -> Path:
    """A checkpoint of a base that lies among the user's, in `home`; its base is there."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (home / "bases").mkdir()
    (home / "bases" / f"{digest}.gguf").write_bytes(file.read_bytes())
    return adapted(home / "models" / "tiny", digest, **changes)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder for models."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("TALARIA_HOME", str(folder))
    return folder


def test_a_base_is_found_by_its_hash(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fills a hole in the modes of a causal model; `ar` and `verify` write the same."""
    monkeypatch.setenv("TALARIA_HOME", str(tmp_path))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    folder = adapted(tmp_path / "models" / "tiny", digest)
    with pytest.raises(CheckpointError, match="which is not here"):
        checkpoint.load(folder)
    (tmp_path / "bases").mkdir()
    (tmp_path / "bases" / f"{digest}.gguf").write_bytes(file.read_bytes())
    model = checkpoint.load("tiny")
    options = Options("ar", check_syntax=False, max_tokens=12)
    written = fill(model, Request("def mean(values):\n    return ", "\n", options))
    verified = fill(
        model,
        Request(
            "def mean(values):\n    return ",
            "\n",
            Options("verify", check_syntax=False, max_tokens=12),
        ),
    )
    assert written.best.tokens == verified.best.tokens
    assert written.best.tokens


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "gemma3"}, "architecture is 'gemma3'; supported are"),
        ({"model": "llama"}, "tokenizer.ggml.model is 'llama'; only 'gpt2'"),
        ({"pre": "deepseek-coder"}, "cuts text as 'deepseek-coder'; supported are"),
        ({"fields": {"qwen2.rope.scaling.type": "yarn"}}, "rope.scaling.type is 'yarn'; only"),
        ({"fields": {"qwen2.attention.key_length": "8"}}, "key_length is '8', not a number"),
        ({"quantisation": GGMLQuantizationType.Q5_1}, "quantised as Q5_1"),
        ({"without": "blk.1.ffn_up.weight"}, "tensor blk.1.ffn_up.weight has shape None"),
        ({"also": "rope_freqs.weight"}, "tensor rope_freqs.weight is of no block"),
    ],
)
def test_other_files_are_refused(
    home: Path, tokenizer: TalariaTokenizer, changes: dict[str, Any], sentence: str
) -> None:
    """The message says what is wrong with the file; nothing is left of the attempt."""
    path = home / "other.gguf"
    write_gguf(path, tokenizer, **changes)
    folder = installed(path, home)
    with pytest.raises(CheckpointError, match=sentence):
        checkpoint.load(folder)
    assert not [*(home / "bases" / "prepared").glob("[!.]*")]


def test_a_working_context_is_no_longer_than_the_base_can_read(file: Path, home: Path) -> None:
    """The settings are the adapter's, the limit is the base's."""
    folder = installed(file, home, decoding={"working_context": 1025})
    with pytest.raises(CheckpointError, match=r"working_context is 1025; .* at most 1024"):
        checkpoint.load(folder)
    config = json.loads((folder / "config.json").read_text())
    config["decoding"]["working_context"] = 1024
    (folder / "config.json").write_text(json.dumps(config))
    checkpoint.load(folder)


@pytest.mark.parametrize(
    ("there", "instead", "sentence"),
    [
        (b"qwen2\x15", b"qw\xffn2\x15", r"field tokenizer\.ggml\.pre is damaged"),
        (b"\x03\0\0\0\0\0\0\0d e", b"\x03\0\0\0\0\0\0\0d_e", "do not fit together"),
        (b"\x01\0\0\0\0\0\0\0e", b"\x01\0\0\0\0\0\0\0!", "do not fit together"),
    ],
)
def test_a_damaged_vocabulary_is_refused(
    file: Path, tmp_path: Path, there: bytes, instead: bytes, sentence: str
) -> None:
    """Text that is no UTF-8, a merge that is none, a merge of what is no token."""
    content = file.read_bytes()
    assert there in content
    path = tmp_path / "x.gguf"
    path.write_bytes(content.replace(there, instead, 1))
    with pytest.raises(CheckpointError, match=rf"x\.gguf: .*{sentence}.*fetch it again"):
        open_base(path)


@pytest.mark.parametrize("data", [b"", b"GGUF", b"<html>no</html>", b"GGUF\3\0\0\0" + b"\xff" * 64])
def test_files_other_than_gguf_are_refused(tmp_path: Path, data: bytes) -> None:
    """An empty file, a stump, a page of a proxy, lengths beyond the end."""
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"x\.gguf"):
        open_base(path)
