"""The network of the open families in torch, and how a folder's weights are read into it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from talaria.coder.errors import CheckpointError
from talaria.coder.families.blocks_torch import Attend, Block, through
from talaria.coder.families.masked_files import Folder, Shape
from talaria.coder.machine import available_memory
from talaria.coder.published import Stored

if TYPE_CHECKING:
    from jaxtyping import Float, Int

KINDS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


class Network(nn.Module):
    """A decoder of Llama's kind; who sees whom is decided outside."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.rows, shape.width)
        self.blk = nn.ModuleList(Block(shape, shape.normed) for _ in range(shape.layers))
        self.output_norm = nn.RMSNorm(shape.width, shape.epsilon)
        if not shape.tied:
            self.output = nn.Linear(shape.width, shape.rows, bias=False)
        self.turns = torch.empty(0)  # radians per position; it follows from the shape

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        device: torch.device = self.token_embd.weight.device
        return device

    def run(
        self, ids: Int[Tensor, "batch length"], positions: Tensor, attend: Attend
    ) -> Float[Tensor, "batch length width"]:
        """Normalised states of tokens at their positions."""
        x = self.token_embd(ids)
        angles = positions[..., None].float() * self.turns
        cos, sin = (turn[:, None].to(x.dtype) for turn in (angles.cos(), angles.sin()))
        states: Tensor = self.output_norm(through(self.blk, x, (cos, sin), attend))
        return states

    def logits(self, states: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape rows"]:
        """Logits of states, in float32."""
        output = self.token_embd if self.shape.tied else self.output
        return F.linear(states, output.weight).float()


def read_network(folder: Folder, device: str) -> Network:
    """The network of a folder on a device, in its `dtype_for`."""
    dtype = dtype_for(folder, device)
    with torch.device("meta"):
        network = Network(folder.shape)
    half = folder.shape.size // 2
    weights = {}
    try:
        turns = folder.shape.rope_base ** -(torch.arange(half, dtype=torch.float32) / half)
        network.turns = turns.to(device)
        for name, place in sorted(folder.weights.items(), key=lambda each: each[1].begin):
            weights[name] = tensor(place).to(device, dtype)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        if "memory" in reason:
            raise MemoryError from error
        raise CheckpointError(
            f"device {device!r} cannot be used ({reason}); try --device cpu"
        ) from error
    network.load_state_dict(weights, assign=True)
    return network.requires_grad_(False).eval()


def tensor(place: Stored) -> Tensor:
    """A tensor as it is stored, read into memory of its own."""
    found = torch.empty(place.shape, dtype=KINDS[place.kind])
    try:
        with place.path.open("rb", buffering=0) as file:
            file.seek(place.begin)
            data = found.view(-1).view(torch.uint8).numpy() if place.bytes else np.zeros(0, "u1")
            read, count = 0, 1
            while read < place.bytes and count:
                count = file.readinto(data[read:].data) or 0
                read += count
    except OSError as error:
        raise CheckpointError(f"{place.path}: cannot be read ({error}); fetch it again") from error
    if read < place.bytes:
        raise CheckpointError(f"{place.path}: ends too early; fetch it again")
    return found


def dtype_for(folder: Folder, device: str) -> torch.dtype:
    """What to compute in: float32, unless bfloat16 is as fast, or all that there is memory for."""
    kinds = {each.kind for each in folder.weights.values()}
    if kinds == {"F32"}:
        return torch.float32
    if device != "cpu":
        return torch.bfloat16
    count = folder.bytes // 2
    if fast_bfloat16() or 4 * count > available_memory():
        return torch.bfloat16
    return torch.float32


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware."""
    flags = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, bool)() for name in flags)
