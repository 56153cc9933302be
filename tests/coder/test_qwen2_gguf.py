"""Models of the Qwen2 family are read from GGUF files as transformers computes them."""

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
from talaria.coder.backbone import Array
from talaria.coder.errors import CheckpointError
from talaria.coder.families import qwen2
from talaria.coder.families.qwen2 import Qwen2Config
from talaria.coder.families.qwen2_onnx import OnnxQwen2, fused
from talaria.coder.families.qwen2_tokenizer import (
    EOM,
    MASK,
    MIDDLE,
    PREFIX,
    SUFFIX,
    marks_of,
    read_tokenizer,
)
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
    """A tiny random model, its matrices quantised as in published files."""
    bpe = json.loads(tokenizer._bpe.to_str())["model"]
    tokens = [*sorted(bpe["vocab"], key=bpe["vocab"].get), *SPECIAL]
    config = Qwen2Config(len(tokens), **SHAPE)
    writer = GGUFWriter(path, changes.get("architecture", "qwen2"))
    writer.add_block_count(config.layers)
    writer.add_context_length(config.context_length)
    writer.add_embedding_length(config.width)
    writer.add_feed_forward_length(config.hidden)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.kv_heads)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_layer_norm_rms_eps(config.epsilon)
    writer.add_tokenizer_model("gpt2")
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
        if name == qwen2.OUTPUT and changes.get("tied", True):
            value = tied
        kind = GGMLQuantizationType.F32
        if len(shape) == 2:
            fine = "v" in name or name == qwen2.OUTPUT
            kind = GGMLQuantizationType.Q8_0 if fine else GGMLQuantizationType.Q5_0
        kind = changes.get("quantisation", kind) if len(shape) == 2 else kind
        if name != changes.get("without"):
            writer.add_tensor(name, quantize(value, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return config


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, tokenizer: TalariaTokenizer) -> Path:
    """A tiny random GGUF file."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write_gguf(path, tokenizer)
    return path


def theirs(config: Qwen2Config, weights: dict[str, Array]) -> Any:
    """The model as transformers has it, with the same weights."""
    import torch
    from transformers import Qwen2Config as TheirConfig
    from transformers import Qwen2ForCausalLM

    model = Qwen2ForCausalLM(
        TheirConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            rms_norm_eps=config.epsilon,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_base},
            tie_word_embeddings=True,
        )
    )
    names = {
        "token_embd": "model.embed_tokens",
        "output_norm": "model.norm",
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    state = {}
    for name, value in weights.items():
        *block, part, kind = name.split(".")
        where = f"model.layers.{block[1]}." if block else ""
        state[f"{where}{names[part]}.{kind}"] = torch.from_numpy(value.copy())
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected
    assert set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model.eval()


def test_logits_are_those_of_transformers(file: Path) -> None:
    """To float32 accuracy, over a whole row and token by token behind a cache."""
    import torch

    reader = qwen2.open_file(file)
    config = qwen2.shape_of(reader, file)
    weights = dict(qwen2.BaseWeights(reader, config, file))
    backbone = OnnxQwen2(
        config, dict(fused(config, weights)), marks_of(read_tokenizer(reader, file)[0])
    )
    ids = np.random.default_rng(1).integers(0, config.vocab_size, 40).tolist()
    with torch.inference_mode():
        expected = theirs(config, weights)(torch.tensor([ids])).logits[0].numpy()
    whole, _ = backbone.encode([ids])
    np.testing.assert_allclose(backbone.logits(whole[0]), expected, atol=2e-3, rtol=1e-3)
    _, cache = backbone.encode([ids[:30]])
    for place in range(30, 40):
        states, cache = backbone.encode([[ids[place]]], cache)
        np.testing.assert_allclose(
            backbone.logits(states[0])[0], expected[place], atol=2e-3, rtol=1e-3
        )


def test_torch_computes_the_same(file: Path) -> None:
    """The module that is adapted, over a whole row, against ONNX Runtime."""
    import torch
    import torch.nn.functional as F

    from talaria.coder.families.qwen2_torch import module

    reader = qwen2.open_file(file)
    config = qwen2.shape_of(reader, file)
    weights = dict(qwen2.BaseWeights(reader, config, file))
    backbone = OnnxQwen2(
        config, dict(fused(config, weights)), marks_of(read_tokenizer(reader, file)[0])
    )
    ids = np.random.default_rng(2).integers(0, config.vocab_size, 40)
    states, _ = backbone.encode([ids.tolist()])
    with torch.inference_mode():
        decoder = module(config, weights)
        found = decoder.run_embedded(
            decoder.token_embd(torch.from_numpy(ids)[None]),
            torch.arange(40)[None],
            lambda layer, q, k, v: F.scaled_dot_product_attention(
                q, k, v, is_causal=True, enable_gqa=True
            ),
        )
    np.testing.assert_allclose(found.numpy(), states, atol=1e-4, rtol=1e-3)


def test_the_finer_copy_of_the_embedding_is_used(file: Path) -> None:
    """The output matrix, where a file has it beside the embedding."""
    reader = qwen2.open_file(file)
    config = qwen2.shape_of(reader, file)
    given = {tensor.name: tensor for tensor in reader.tensors}
    weights = dict(qwen2.BaseWeights(reader, config, file))
    from gguf import dequantize

    output = given["output.weight"]
    np.testing.assert_array_equal(
        weights["token_embd.weight"], dequantize(output.data, output.tensor_type)
    )


@given(text=texts)
def test_any_text_survives(file: Path, text: str) -> None:
    """Also text that Unicode would normalise; names of special tokens encode to plain text."""
    tokenizer, _ = read_tokenizer(qwen2.open_file(file), file)
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
        ({"architecture": "llama"}, "architecture is 'llama'; only"),
        ({"quantisation": GGMLQuantizationType.Q5_1}, "quantised as Q5_1"),
        ({"without": "blk.1.ffn_up.weight"}, "tensor blk.1.ffn_up.weight has shape None"),
        ({"tied": False}, "output matrix is not tied to the embedding"),
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


@pytest.mark.parametrize("data", [b"", b"GGUF", b"<html>no</html>", b"GGUF\3\0\0\0" + b"\xff" * 64])
def test_files_other_than_gguf_are_refused(tmp_path: Path, data: bytes) -> None:
    """An empty file, a stump, a page of a proxy, lengths beyond the end."""
    path = tmp_path / "x.gguf"
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"x\.gguf"):
        qwen2.open_file(path)
