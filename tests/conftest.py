"""A tokenizer and a small random model, as real as the shipped one but quick to make."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from talaria.coder import checkpoint
from talaria.coder.denoiser import DenoiserConfig
from talaria.coder.tokenizer import Tokenizer, training_texts
from talaria.coder.transformer import Transformer

# Tensors are tiny here: on a busy machine, threads would only wait for each other.
torch.set_num_threads(1)

# Timings of a busy machine must not decide tests.
settings.register_profile("talaria", deadline=None, max_examples=50)
settings.load_profile("talaria")

TEXTS = [
    "def mean(values):\n    total = sum(values)\n    return total / len(values)\n" * 20,
    "class Stack:\n    def __init__(self):\n        self.items = []\n\n"
    "    def push(self, item):\n        self.items.append(item)\n" * 20,
    "for index in range(10):\n    if index % 2 == 0:\n        print(index, 'été')\n" * 20,
]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A byte-level BPE of 400 tokens."""
    return Tokenizer.train(training_texts(TEXTS), 400)


@pytest.fixture(scope="session")
def denoiser(tokenizer: Tokenizer) -> Transformer:
    """A denoiser of 2 layers whose every weight is random, so that nothing cancels."""
    torch.manual_seed(0)
    config = DenoiserConfig(
        tokenizer.vocab_size, layers=2, width=32, heads=2, context_length=128, block_length=8
    )
    denoiser = Transformer(replace(config, chain_layers=1))
    for parameter in denoiser.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return denoiser.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def chainless(denoiser: Transformer) -> Transformer:
    """The same weights without the chain."""
    other = Transformer(replace(denoiser.config, chain_layers=0))
    other.load_state_dict(denoiser.state_dict(), strict=False)
    return other.requires_grad_(False).eval()


@pytest.fixture(scope="session")
def model_folder(
    tmp_path_factory: pytest.TempPathFactory, denoiser: Transformer, tokenizer: Tokenizer
) -> Path:
    """A checkpoint of that denoiser on disk; tests copy it before they damage it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    checkpoint.save(folder, denoiser, tokenizer)
    return folder


@pytest.fixture(scope="session")
def model(model_folder: Path) -> checkpoint.Checkpoint:
    """That checkpoint, loaded."""
    return checkpoint.load(model_folder)
