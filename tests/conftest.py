"""A tokenizer and a small random model, as real as the shipped one but quick to make."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

# Tensors are tiny here: threads, also those of programs that tests start, would only wait for each
# other. torch and ONNX Runtime read these when they are imported.
os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}

import pytest
import torch
from hypothesis import HealthCheck, settings

from talaria.coder import checkpoint
from talaria.coder.families.talaria import TalariaTokenizer, TransformerConfig, training_texts
from talaria.coder.families.talaria_onnx import OnnxTalaria
from talaria.coder.families.talaria_torch import Transformer
from talaria.finetune.trainable import save
from talaria.lsp.arrival import ANSWERS, NEVER

# What the user has fetched must not decide tests: the default is the embedded model.
HOME = Path(tempfile.mkdtemp(prefix="talaria-home-"))
os.environ["TALARIA_HOME"] = str(HOME)
# Nor must servers offer to fetch it: in real editors, that is a question that waits for an answer.
(HOME / ANSWERS).write_text(json.dumps({checkpoint.LARGE: NEVER}), "utf-8")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
# Nor what the user prefers, or a process that keeps a model loaded.
os.environ["TALARIA_CONFIG"] = os.devnull
os.environ["TALARIA_DAEMON"] = "0"

# Neither the timings of a busy machine nor chance must decide tests: examples are the same each
# time. `--hypothesis-profile search` draws others, and more.
settings.register_profile(
    "talaria",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "search", settings.get_profile("talaria"), derandomize=False, max_examples=500
)
settings.load_profile("talaria")

TEXTS = [
    "def mean(values):\n    total = sum(values)\n    return total / len(values)\n" * 20,
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n"
    "    def push(self, item):\n        self.items.append(item)\n" * 20,
    "for index in range(10):\n    if index % 2 == 0:\n        print(index, 'été')\n" * 20,
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests go first: as the last ones, they would keep one of several processes."""
    items.sort(key=lambda item: item.get_closest_marker("golden") is None)


@pytest.fixture(autouse=True)
def same_beginning() -> Iterator[None]:
    """What torch draws, and how it rounds sums by its threads, is no matter of earlier tests."""
    torch.manual_seed(0)
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tokenizer() -> TalariaTokenizer:
    """A byte-level BPE of 400 tokens."""
    return TalariaTokenizer.train(training_texts(TEXTS), 400)


@pytest.fixture(scope="session")
def transformer(tokenizer: TalariaTokenizer) -> Transformer:
    """A transformer of 2 layers whose every weight is random, so that nothing cancels."""
    torch.manual_seed(0)
    config = TransformerConfig(
        tokenizer.vocab_size, layers=2, width=32, heads=2, context_length=128, block_length=8
    )
    transformer = Transformer(replace(config, chain_layers=1))
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return transformer.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def chainless(transformer: Transformer) -> Transformer:
    """The same weights without the chain."""
    other = Transformer(replace(transformer.config, chain_layers=0))
    other.load_state_dict(transformer.state_dict(), strict=False)
    return other.requires_grad_(False).eval()


def onnx_backbone(transformer: Transformer, tokenizer: TalariaTokenizer) -> OnnxTalaria:
    """The weights of a torch module, computed by ONNX Runtime."""
    weights = {name: tensor.numpy() for name, tensor in transformer.state_dict().items()}
    return OnnxTalaria(transformer.config, weights, tokenizer.marks)


@pytest.fixture(scope="session")
def backbone(transformer: Transformer, tokenizer: TalariaTokenizer) -> OnnxTalaria:
    """That transformer as decoders see it."""
    return onnx_backbone(transformer, tokenizer)


@pytest.fixture(scope="session")
def chainless_backbone(chainless: Transformer, tokenizer: TalariaTokenizer) -> OnnxTalaria:
    """The same weights without the chain, as decoders see them."""
    return onnx_backbone(chainless, tokenizer)


@pytest.fixture(scope="session")
def model_folder(
    tmp_path_factory: pytest.TempPathFactory, transformer: Transformer, tokenizer: TalariaTokenizer
) -> Path:
    """A checkpoint of that transformer on disk; tests copy it before they damage it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save(folder, transformer, tokenizer)
    return folder


@pytest.fixture(scope="session")
def model(model_folder: Path) -> checkpoint.Checkpoint:
    """That checkpoint, loaded."""
    return checkpoint.load(model_folder)
