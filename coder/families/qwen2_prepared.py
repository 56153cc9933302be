"""The prepared form of a base: what ONNX Runtime computes with, made once and then mapped.

Reading a base and dequantising it takes half a minute and 1.3 GB. The prepared form
has the trimmed vocabulary, the adapter merged, and every matrix in 8 bits, as `Int8Matrix` has it.
It lies beside the bases, in a folder that is named by all that it depends on, and loads without the
base's file.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import mmap
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.numpy import save_file

from talaria.coder import files
from talaria.coder.backbone import Array
from talaria.coder.errors import CheckpointError
from talaria.coder.families import qwen2
from talaria.coder.families.onnx_graph import Int8Matrix, int8_limit
from talaria.coder.families.qwen2 import Qwen2Config
from talaria.coder.families.qwen2_files import open_base
from talaria.coder.families.qwen2_onnx import Network, OnnxQwen2, fused
from talaria.coder.families.qwen2_tokenizer import KEPT, marks_of
from talaria.coder.machine import available_memory
from talaria.coder.tokenizer import Tokenizer

if TYPE_CHECKING:
    from numpy.typing import DTypeLike

FORMAT_VERSION = 1
CONFIG, TOKENIZER, WEIGHTS = "config.json", "tokenizer.json", "weights.safetensors"
SCALES = ".scales"  # ends the name of an Int8Matrix's scales
BYTES_EACH = 3  # of memory for a weight while a form is made
SPARE_BYTES = 100_000_000  # of disk, to be left free
REMEDY = "free some space, or set TALARIA_HOME to a folder that can be written to"
DTYPES: dict[str, DTypeLike] = {"I8": np.int8, "F32": np.float32}


@dataclass(frozen=True)
class Prepared:
    """A prepared form, mapped into memory and ready to run."""

    shape: Qwen2Config
    tokenizer: Tokenizer
    backbone: OnnxQwen2


def prepared(
    folder: Path,
    config: Mapping[str, Any],
    adapter: bytes,
    find_base: Callable[[], Path],
    on_progress: Callable[[float], None],
) -> Prepared:
    """The prepared form for a checkpoint's folder; it is made if it is missing or damaged.

    `on_progress` gets the fraction that is done while it is made. `find_base` gives the verified
    base, which is needed only then. Raises CheckpointError where it cannot be read or made.
    """
    home = files.home()
    if home is None:
        raise CheckpointError("this user has no home; set TALARIA_HOME to a folder for models")
    name = config["form"]
    place = home / "bases" / "prepared" / f"{name}-{key(config, adapter)}"
    if found := opened(place, bool(adapter)):
        return found
    base = find_base()
    with alone(place):
        if found := opened(place, bool(adapter)):  # another process has made it meanwhile
            return found
        prepare(place, name, folder, config, adapter, base, on_progress)
        found = opened(place, bool(adapter))
        if found is None:
            raise CheckpointError(
                f"{place}: the model does not read as it was written; check the disk, or set "
                "TALARIA_HOME to a folder on another one"
            )
        return found


def key(config: Mapping[str, Any], adapter: bytes) -> str:
    """A name for everything that a prepared form depends on."""
    parts = (
        config["base"]["sha256"],
        hashlib.sha256(adapter).hexdigest(),
        hashlib.sha256(KEPT.read_bytes()).hexdigest(),
        str(int8_limit()),
        str(FORMAT_VERSION),
    )
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]


def hash_of(described: Mapping[str, Any]) -> str:
    """SHA-256 of what a form's CONFIG says besides hashes.

    Without it, nothing would tell a damaged base of RoPE, for one, from the right one.
    """
    said = {name: value for name, value in described.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


@contextmanager
def alone(place: Path) -> Iterator[None]:
    """Keep other processes from preparing the same form; wait for one that does already."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{place.name}.lock")):
            yield
    except SafetensorError as error:  # as on a full disk
        raise CheckpointError(
            f"{place}: the model cannot be prepared ({error}); {REMEDY}"
        ) from error
    except OSError as error:
        raise CheckpointError(
            f"{error.filename or place}: the model cannot be prepared ({error.strerror or error}); "
            f"{REMEDY}"
        ) from error


def prepare(
    place: Path,
    name: str,
    folder: Path,
    config: Mapping[str, Any],
    adapter: bytes,
    base: Path,
    on_progress: Callable[[float], None],
) -> None:
    """Make the prepared form; older ones of the same checkpoint are removed."""
    on_progress(0.0)
    whole = open_base(base)
    tokenizer, rows = whole.vocabulary.trimmed()
    shape = replace(whole.shape, vocab_size=len(rows))
    updates = None
    if adapter:
        marks = marks_of(tokenizer)
        updates = qwen2.read_adapter(adapter, shape, marks, folder / qwen2.ADAPTER)
    weights = qwen2.BaseWeights(whole, rows, updates)
    wanted = sum(int(np.prod(size)) for size in qwen2.shapes(shape).values())
    free = shutil.disk_usage(place.parent).free
    if free < wanted + SPARE_BYTES:
        raise CheckpointError(
            f"{place.parent} has {free / 1e6:,.0f} MB free; preparing the model needs "
            f"{(wanted + SPARE_BYTES) / 1e6:,.0f} MB: free some, or set TALARIA_HOME"
        )
    needed, memory = BYTES_EACH * wanted, available_memory()
    if memory < needed:
        raise CheckpointError(
            f"preparing the model needs {needed / 1e6:,.0f} MB of memory, {memory / 1e6:,.0f} MB "
            "are free; close other programs"
        )
    tensors: dict[str, Array] = {}
    limit, matrices = int8_limit(), 0
    for part, value in fused(shape, weights):
        if value.ndim == 2 and part not in qwen2.CHAIN:
            # Rows of the embedding are looked up, not multiplied.
            table = part == qwen2.EMBEDDING
            matrix = Int8Matrix.of(value, 127, 1) if table else Int8Matrix.of(value, limit)
            tensors |= {part: matrix.values, part + SCALES: matrix.scales}
            matrices += value.size
        else:
            tensors[part] = value
        on_progress(min(0.99, matrices / wanted))
    with files.replacing_folder(place) as partial:
        save_file(tensors, partial / WEIGHTS)
        (partial / TOKENIZER).write_text(tokenizer.to_json(), encoding="utf-8")
        # safetensors lets nobody but its user read what it writes; a folder may be shared.
        (partial / WEIGHTS).chmod((partial / TOKENIZER).stat().st_mode & 0o7777)
        described: dict[str, Any] = {
            "checkpoint": name,
            "base": config["base"]["sha256"],
            "shape": asdict(shape),
        }
        hashes = {part: files.digest(partial / part) for part in (WEIGHTS, TOKENIZER)}
        described["sha256"] = {**hashes, CONFIG: hash_of(described)}
        (partial / CONFIG).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    for other in place.parent.glob(f"{glob.escape(name)}-*"):
        if other != place and other.name.removeprefix(f"{name}-").isalnum():
            shutil.rmtree(other, ignore_errors=True)
    on_progress(1.0)


def opened(place: Path, denoises: bool) -> Prepared | None:
    """Map and run a prepared form; None where it is missing or not as it was written."""
    try:
        return mapped_form(place, denoises)
    except OSError as error:
        if error.errno == errno.ENOMEM:
            raise MemoryError from error
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def mapped_form(place: Path, denoises: bool) -> Prepared:
    """Map and run a form; an OSError, or one of those that `opened` takes, where it is damaged."""
    config = json.loads((place / CONFIG).read_text(encoding="utf-8"))
    if config["sha256"][CONFIG] != hash_of(config):
        raise ValueError(f"{CONFIG} has another SHA-256 than it says itself")
    text = (place / TOKENIZER).read_bytes()
    with (place / WEIGHTS).open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    with ThreadPoolExecutor(1) as pool:
        # Meanwhile ONNX Runtime orders the weights anew, which takes about as long.
        digest = pool.submit(hashlib.sha256, mapped)

        def verify() -> None:
            hashes = {WEIGHTS: digest.result(), TOKENIZER: hashlib.sha256(text)}
            for name, found in hashes.items():
                if found.hexdigest() != config["sha256"][name]:
                    raise ValueError(f"{name} has another SHA-256 than in {CONFIG}")

        try:
            tokenizer = Tokenizer.from_json(text.decode())
            shape = Qwen2Config(**config["shape"])
            network = paired(mapped_tensors(mapped))
            backbone = OnnxQwen2(shape, network, marks_of(tokenizer), denoises)
        except MemoryError:
            raise
        except Exception:  # of whatever class, as damaged weights are as good as any others
            verify()
            raise
        verify()
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)  # pages that are needed again are read again
    return Prepared(shape, tokenizer, backbone)


def paired(arrays: Mapping[str, Array]) -> Network:
    """The arrays of a form, each matrix in 8 bits with its scales."""
    network: dict[str, Array | Int8Matrix] = {}
    for name, array in arrays.items():
        if name + SCALES in arrays:
            network[name] = Int8Matrix(array, arrays[name + SCALES])
        elif not name.endswith(SCALES):
            network[name] = array
    return network


def mapped_tensors(mapped: mmap.mmap) -> dict[str, Array]:
    """The tensors of a safetensors file without copying them, as its own reader would."""
    length = int.from_bytes(mapped[:8], "little")
    header = json.loads(mapped[8 : 8 + length])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            kind, shape = np.dtype(DTYPES[entry["dtype"]]), entry["shape"]
            start = 8 + length + entry["data_offsets"][0]
            flat = np.frombuffer(mapped, kind, int(np.prod(shape)), start)
            found[name] = flat.reshape(shape)
    return found
