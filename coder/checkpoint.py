"""A model's folder: `config.json`, `model.safetensors` and `tokenizer.json`, checked when read.

Weights of more than PART_BYTES are cut into `model.safetensors.00`, `.01` and
so on, because large files travel badly; put together they are one file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_weights
from safetensors.torch import save as dump_weights

from talaria.coder.denoiser import Denoiser, DenoiserConfig
from talaria.coder.errors import CheckpointError
from talaria.coder.tokenizer import Tokenizer
from talaria.coder.transformer import Transformer

FORMAT_VERSION = 1
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
DEFAULT_MODEL = "talaria-7m"
PART_BYTES = 16_000_000


# Kind, least and largest of each decoding setting.
LIMITS: dict[str, tuple[type, float, float]] = {
    "confidence_threshold": (float, 0, 1),
    "lookahead": (int, 1, 100_000),
    "max_nfe": (int, 1, 100_000),
}


@dataclass(frozen=True)
class Decoding:
    """How a model's middles are denoised where nothing else is asked for.

    Chosen for it by measurement (`benchmarks/decoding.py`) and stored in its `config.json`.

    confidence_threshold  confidence from which a token is committed
    lookahead             positions that a step looks at behind what is committed: fewer make
                          a step cheaper, but a middle that does not see its room is longer
    max_nfe               evaluations for a request
    """

    confidence_threshold: float = 0.7
    lookahead: int = 8
    max_nfe: int = 128

    def __post_init__(self) -> None:
        for name, (kind, low, high) in LIMITS.items():
            value = getattr(self, name)
            number = isinstance(value, (int, kind)) and not isinstance(value, bool)
            if not number or not low <= value <= high:
                raise ValueError(f"{name} is {value!r}, outside of {low} to {high}")


@dataclass(frozen=True)
class Checkpoint:
    """A model ready to run, and what its folder says about it."""

    denoiser: Denoiser
    tokenizer: Tokenizer
    name: str
    config: Mapping[str, Any]

    @property
    def weights_hash(self) -> str:
        """SHA-256 that names the weights: the file's, or that of its parts' hashes."""
        hashes = self.config["sha256"]
        if WEIGHTS in hashes:
            return str(hashes[WEIGHTS])
        parts = sorted(name for name in hashes if name.startswith(WEIGHTS))
        return hashlib.sha256("".join(hashes[name] for name in parts).encode()).hexdigest()

    @cached_property
    def decoding(self) -> Decoding:
        """Its settings; those that its folder says nothing of are the usual ones."""
        return Decoding(**self.config.get("decoding", {}))


@dataclass(frozen=True)
class Trainable(Checkpoint):
    """A checkpoint whose denoiser is a torch module with its weights."""

    denoiser: Transformer


@dataclass(frozen=True)
class Listing:
    """One model that can be loaded: its name, folder, size and licence."""

    name: str
    path: Path
    parameters: int
    bytes: int
    licence: str


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(
    folder: Path,
    denoiser: Transformer,
    tokenizer: Tokenizer,
    *,
    licence: str = "Apache-2.0",
    training: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint; the folder appears whole or, after an interruption, not at all.

    Weights are stored in half precision. A folder that stands there is replaced.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        weights = {
            name: tensor.detach().to("cpu", torch.float16).contiguous()
            for name, tensor in denoiser.state_dict().items()
        }
        data = dump_weights(weights)
        parts = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)]
        names = [WEIGHTS] if len(parts) == 1 else [f"{WEIGHTS}.{i:02d}" for i in range(len(parts))]
        for name, part in zip(names, parts, strict=True):
            (partial / name).write_bytes(part)
        tokenizer.save(partial / TOKENIZER)
        config = {
            "format_version": FORMAT_VERSION,
            "licence": licence,
            "parameters": sum(tensor.numel() for tensor in weights.values()),
            "denoiser": asdict(denoiser.config),
            "training": dict(training or {}),
            "sha256": {name: digest(partial / name) for name in (*names, TOKENIZER)},
        }
        (partial / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        partial.chmod(0o755)
        if folder.exists():
            old = _replaced(folder)
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
            os.replace(partial, folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def store_decoding(folder: Path, decoding: Decoding) -> None:
    """Put settings into a checkpoint's `config.json` in the place of those that it has."""
    config = {**read_config(folder), "decoding": asdict(decoding)}
    partial = folder / f".{CONFIG}.partial"
    partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    os.replace(partial, folder / CONFIG)


def _replaced(folder: Path) -> Path:
    """Where a folder waits while another takes its place."""
    return folder.with_name(f".{folder.name}-replaced")


def model_folders() -> list[Path]:
    """Where models are looked for by name: the user's own, then those shipped."""
    shipped = Path(__file__).parent / "models"
    try:
        home = os.environ.get("TALARIA_HOME") or Path.home() / ".local" / "share" / "talaria"
    except RuntimeError:  # a user without a home, as in some containers
        return [shipped]
    return [Path(home) / "models", shipped]


def available() -> list[Listing]:
    """All models found by name, but damaged ones and those that may not be read."""
    found: dict[str, Listing] = {}
    for parent in filter(os.path.isdir, model_folders()):
        for path in sorted(parent.glob(f"*/{CONFIG}")):
            folder = path.parent
            try:
                config = read_config(folder)
                size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
            except (CheckpointError, OSError):
                continue
            found.setdefault(
                folder.name,
                Listing(
                    folder.name,
                    folder,
                    config.get("parameters", 0),
                    size,
                    config.get("licence", ""),
                ),
            )
    return list(found.values())


def find(model: str | None = None) -> Path:
    """The folder of a model given by path or by name; None means the one shipped."""
    if model == "":
        raise CheckpointError("--model is empty; leave it out for the model that is shipped")
    if model and Path(model).is_file():
        raise CheckpointError(f"{model} is a file; give the folder that holds {CONFIG}")
    if model and "://" in model:
        raise CheckpointError(
            f"{model}: remote models cannot be reached yet; give a folder or one of "
            f"{', '.join(m.name for m in available()) or 'no installed models'}"
        )
    if model and (os.sep in model or Path(model).is_dir()):
        return Path(model)
    for parent in model_folders():
        folder = parent / (model or DEFAULT_MODEL)
        if os.path.isdir(folder):  # unlike the path's own method: False where none may look
            return folder
    known = ", ".join(listing.name for listing in available()) or "none"
    raise CheckpointError(
        f"no model named {model or DEFAULT_MODEL!r} (installed: {known}); "
        "give a folder, or a name from `talaria models`"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """The folder's `config.json`, of a format version that this program reads."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config["format_version"]
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: not a model's folder, it has no {CONFIG}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not readable as a model's configuration ({type(error).__name__}: {error}); "
            "fetch the model's folder again"
        ) from error
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version!r}; this program reads version {FORMAT_VERSION}: "
            "use a matching release of talaria or of the model"
        )
    assert isinstance(config, dict)
    texts = isinstance(config.get("licence", ""), str) and isinstance(config.get("sha256"), dict)
    if not texts or not isinstance(config.get("parameters"), int):
        raise CheckpointError(
            f"{path}: parameters, licence or sha256 are missing or of another kind; "
            "fetch the model's folder again"
        )
    return config


def load(model: str | Path | None = None, device: str = "cpu") -> Checkpoint:
    """Load a model for decoding, in float32, after checking its format, hashes and shapes.

    On a CPU it is computed by ONNX Runtime, elsewhere by torch.

    Raises CheckpointError, with the remedy, when the folder is missing, damaged
    or of another format, or the device is not there.
    """
    found = load_trainable(model, device)
    if device != "cpu":
        return found
    from talaria.coder.onnx_denoiser import OnnxDenoiser

    return Checkpoint(OnnxDenoiser(found.denoiser), found.tokenizer, found.name, found.config)


def load_trainable(model: str | Path | None = None, device: str = "cpu") -> Trainable:
    """Load a model as a torch module in float32, with the same checks.

    Raises CheckpointError, with the remedy, when the folder is missing, damaged
    or of another format, or the device is not there.
    """
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise CheckpointError(f"device {device!r} cannot be used; give cpu, mps, cuda or cuda:N")
    folder = model if isinstance(model, Path) else find(model)
    if not folder.exists() and _replaced(folder).exists():
        os.replace(_replaced(folder), folder)  # a save was killed between its two renames
    config = read_config(folder)
    hashes = config.get("sha256", {})
    parts = sorted(name for name in hashes if name.startswith(WEIGHTS)) or [WEIGHTS]
    for name in (*parts, TOKENIZER):
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; fetch the model's folder again")
        if digest(path) != hashes.get(name):
            raise CheckpointError(
                f"{path}: damaged, its SHA-256 is not the one in {CONFIG} "
                f"({path.stat().st_size} bytes found); fetch the model's folder again"
            )
    tokenizer = Tokenizer.load(folder / TOKENIZER)
    try:
        shape = DenoiserConfig(**config["denoiser"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / CONFIG}: no valid denoiser in it ({error})") from error
    if shape.vocab_size != tokenizer.vocab_size:
        raise CheckpointError(
            f"{folder}: the model has {shape.vocab_size} tokens and the tokenizer "
            f"{tokenizer.vocab_size}; they must come from the same training run"
        )
    with torch.device("meta"):
        denoiser = Transformer(shape)
    try:
        weights = load_weights(b"".join((folder / name).read_bytes() for name in parts))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{folder / WEIGHTS}: damaged ({error}); fetch the model's folder again"
        ) from error
    wanted = {name: tuple(tensor.shape) for name, tensor in denoiser.state_dict().items()}
    given = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(wanted.keys() | given.keys()):
        if wanted.get(name) != given.get(name):
            raise CheckpointError(
                f"{folder / WEIGHTS}: tensor {name} has shape {given.get(name)}, "
                f"{CONFIG} asks for {wanted.get(name)}; fetch the model's folder again"
            )
    denoiser.load_state_dict({k: v.float() for k, v in weights.items()}, assign=True)
    try:
        denoiser.to(device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"device {device!r} cannot be used ({reason}); try --device cpu"
        ) from error
    denoiser.requires_grad_(False).eval()
    found = Trainable(denoiser, tokenizer, folder.name, config)
    try:
        found.decoding  # noqa: B018 - what cannot be used is said here, not at a request
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{folder / CONFIG}: its decoding settings cannot be used ({error}); "
            "mend them, or leave them out for the usual ones"
        ) from error
    return found
