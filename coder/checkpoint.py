"""A model on disk: found, verified and loaded.

A checkpoint is a folder. It is whole (`model.safetensors` and `tokenizer.json`), or it is an
adapter (`adapter.safetensors`, or none to use the base unchanged) for a base, which is a file in
the folder of bases, named by its SHA-256. In both cases `config.json` names the family, the hash of
every file, and the settings to decode with. A model as others publish it (`published`) is read in
place, as a base without an adapter.

Weights of more than PART_BYTES are split into `model.safetensors.00`, `.01` and so on, because
large files are awkward to host; concatenated, they are one file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from talaria.coder import files, published
from talaria.coder.backbone import Backbone, Marks
from talaria.coder.errors import BaseMissingError, CheckpointError
from talaria.coder.files import digest, home
from talaria.coder.layout import Layout
from talaria.coder.request import Settings
from talaria.coder.schedule import Schedule
from talaria.coder.tokenizer import Tokenizer

FORMAT_VERSION = 1
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
WEIGHTS, ADAPTER = "model.safetensors", "adapter.safetensors"
EMBEDDED = "talaria-7m"  # comes with the package
LARGE = "qwen2.5-coder-0.5b"  # the default once its base has been fetched
PART_BYTES = 16_000_000
READINGS = 5  # of a folder that other processes replace meanwhile
MOST_PARAMETERS = 10**15  # what no model has

# The module of each family. It offers
#   load(folder, config, weights, device) -> (Backbone, Tokenizer, Layout)
#       from the verified bytes of the weights, or
#   load_adapted(folder, config, adapter, find_base, device, on_progress) -> the same
#       from the verified bytes of the adapter and what finds and verifies the base; `on_progress`
#       gets the fraction that is done of what takes long, and
#   settings_of(config, path) -> the settings that follow from its configuration.
FAMILIES = {
    "talaria": "talaria.coder.families.talaria",
    "qwen2": "talaria.coder.families.qwen2",
    "masked": "talaria.coder.families.masked",
}


@dataclass(frozen=True)
class Checkpoint:
    """A model ready to decode with, and what its folder says about it.

    schedule  how its authors decode, if it is of an open family; None: as `Settings` say
    """

    backbone: Backbone
    tokenizer: Tokenizer
    layout: Layout
    settings: Settings
    name: str
    config: Mapping[str, Any]
    schedule: Schedule | None = None

    @property
    def marks(self) -> Marks:
        """The special tokens by their role in decoding."""
        return self.backbone.marks

    @property
    def weights_hash(self) -> str:
        """SHA-256 that names the weights: the file's, or that of its parts' hashes."""
        return weights_hash(self.config)

    @property
    def foresees(self) -> bool:
        """Whether its masks say what follows a text that it reads causally, as in adapted bases."""
        return self.backbone.shift and self.backbone.denoises and self.schedule is None


@dataclass(frozen=True)
class Listing:
    """One model that can be loaded: its name, folder, size and licence."""

    name: str
    path: Path
    parameters: int
    bytes: int
    licence: str


def weights_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 that names a checkpoint's weights: the file's, or that of its parts' hashes."""
    hashes = config["sha256"]
    parts = _in_order(name for name in hashes if name.startswith((WEIGHTS, ADAPTER)))
    named = [str(hashes[name]) for name in parts]
    if "base" in config:
        named.insert(0, str(config["base"]["sha256"]))
    return named[0] if len(named) == 1 else hashlib.sha256("".join(named).encode()).hexdigest()


def _in_order(parts: Iterable[str]) -> list[str]:
    """Names of parts in the order of their numbers: `.10` before `.100`."""
    return sorted(parts, key=lambda name: (len(name), name))


def write(
    folder: Path,
    weights: bytes,
    config: Mapping[str, Any],
    *,
    name: str = WEIGHTS,
    save_tokenizer: Callable[[Path], None] | None = None,
) -> None:
    """Write a checkpoint; the folder appears complete or, after an interruption, not at all.

    An existing folder is replaced. `name` is WEIGHTS, or ADAPTER for an adapter, whose
    tokenizer is its base's.
    """
    parts = [weights[at : at + PART_BYTES] for at in range(0, len(weights), PART_BYTES)]
    names = [name] if len(parts) == 1 else [f"{name}.{i:02d}" for i in range(len(parts))]
    with files.replacing_folder(folder) as partial:
        for each, part in zip(names, parts, strict=True):
            (partial / each).write_bytes(part)
        if save_tokenizer is not None:
            save_tokenizer(partial / TOKENIZER)
            names.append(TOKENIZER)
        hashes = {each: digest(partial / each) for each in names}
        described = {"format_version": FORMAT_VERSION, **config, "sha256": hashes}
        (partial / CONFIG).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")


def store_settings(folder: Path, settings: Settings) -> None:
    """Store settings in a checkpoint's `config.json`, replacing those it has."""
    config = {**read_config(folder), "decoding": asdict(settings)}
    files.write(folder / CONFIG, json.dumps(config, indent=2) + "\n")


def model_folders() -> list[Path]:
    """Where models are looked for by name: the user's own, then those shipped."""
    shipped, own = Path(__file__).parent / "models", home()
    return [own / "models", shipped] if own else [shipped]


def listed(folder: Path) -> dict[str, Any]:
    """What a folder says of itself, without reading its weights; as `read_config` otherwise."""
    count = published.parameters(folder)
    return read_config(folder) if count is None else {"parameters": count}


def available() -> list[Listing]:
    """All models found by name, except damaged and unreadable ones."""
    found: dict[str, Listing] = {}
    for parent in filter(os.path.isdir, model_folders()):
        for path in sorted(parent.glob(f"*/{CONFIG}")):
            folder = path.parent
            try:
                config = listed(folder)
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


def default() -> str:
    """The name of the model to use if none is named: LARGE if its base is here, else EMBEDDED."""
    own = home()
    if own is None:
        return EMBEDDED
    for parent in model_folders():
        try:
            base = read_config(parent / LARGE)["base"]["sha256"]
            prepared = any(form_of(LARGE, path.name) for path in own.glob("bases/prepared/*"))
            return LARGE if prepared or any(own.glob(f"bases/{base}*")) else EMBEDDED
        except (CheckpointError, KeyError, TypeError, OSError):
            continue
    return EMBEDDED


def find(model: str | None = None) -> Path:
    """The folder of a model given by path or by name; None means the default."""
    if model == "":
        raise CheckpointError("--model is empty; leave it out for the default")
    is_gguf = bool(model) and Path(str(model)).suffix.lower() == published.GGUF
    if model and Path(model).is_file():
        if is_gguf:
            return Path(model)
        raise CheckpointError(
            f"{model} is a file; give a *{published.GGUF} file, or the folder that holds {CONFIG}"
        )
    if is_gguf and not Path(str(model)).exists():
        raise CheckpointError(f"{model}: no such file")
    if model and "://" in model:
        raise CheckpointError(
            f"{model}: remote models cannot be reached yet; give a folder or one of "
            f"{', '.join(m.name for m in available()) or 'no installed models'}"
        )
    if model and (os.sep in model or Path(model).is_dir()):
        return Path(model)
    model = model or default()
    for parent in model_folders():
        folder = parent / model
        if os.path.isdir(folder):  # unlike the path's own method: False where none may look
            return folder
    known = ", ".join(listing.name for listing in available()) or "none"
    raise CheckpointError(
        f"no model named {model!r} (known: {known}); give a folder, or a name from `talaria models`"
    )


def adapter(folder: str, model: str | None) -> Path:
    """The folder of an adapter; CheckpointError if it is none, or of another base than a model's.

    Without a model, of whichever base it names.
    """
    found = find(folder)
    described = configuration(found)
    if not isinstance(described.get("base"), Mapping) or not described["sha256"]:
        raise CheckpointError(
            f"{found} is no adapter; give the folder `model` of a run of `talaria adapt`"
        )
    if model is not None:
        theirs = configuration(find(model)).get("base", {})
        if theirs.get("sha256") != described["base"].get("sha256"):
            raise CheckpointError(
                f"{found} adapts the base {described['base'].get('name')}, but the model {model} "
                f"{'has ' + str(theirs.get('name')) if theirs else 'has none'}; leave the model "
                "out, or name one of the same base"
            )
    return found


def find_base(config: Mapping[str, Any], where: Path) -> Path:
    """The base that an adapter's configuration names by its SHA-256, verified.

    Raises BaseMissingError where it is not among the bases, and CheckpointError where it is not the
    file of that hash.
    """
    named = config["base"]
    wanted = named.get("sha256") if isinstance(named, Mapping) else None
    if not isinstance(wanted, str) or not re.fullmatch(r"[0-9a-f]{64}", wanted):
        raise CheckpointError(f"{where}: base has no sha256 of 64 hexadecimal digits")
    called, own = named.get("name", wanted[:12]), home()
    places = sorted((own / "bases").glob(f"{wanted}*")) if own else []
    if not places:
        needs = f"{where.parent.name} adapts" if config["sha256"] else f"{where.parent.name} is"
        raise BaseMissingError(
            f"{needs} the base {called} (SHA-256 {wanted[:12]}…), which is not here; fetch it with "
            f"`talaria models get {called}`, or put its file at "
            f"{own / 'bases' / wanted if own else 'TALARIA_HOME/bases'}"
        )
    for place in places:  # what lies beside it may be a part that another program left
        if (found := digest(place)) == wanted:
            return place
    raise CheckpointError(
        f"{places[0]}: not the base {called}, its SHA-256 is {found[:12]}…; fetch it again with "
        f"`talaria models get {called}`"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Read the folder's `config.json`; CheckpointError if this program cannot use it."""
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        version = config.get("format_version")
    except FileNotFoundError as error:
        if not folder.exists():
            raise CheckpointError(
                f"{folder}: there is no such folder; `talaria models` lists the models by name"
            ) from error
        raise CheckpointError(f"{folder}: not a model's folder, it has no {CONFIG}") from error
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: not readable as a model's configuration ({type(error).__name__}: {error}); "
            "fetch the model's folder again"
        ) from error
    if version is None:
        raise CheckpointError(
            f"{path}: names no `architectures`, as published models do, nor a `format_version`, as "
            "Talaria's own; fetch the model's folder again"
        )
    if version != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format version {version!r}; this program reads version {FORMAT_VERSION}: "
            "use a matching release of talaria or of the model"
        )
    assert isinstance(config, dict)
    texts = isinstance(config.get("licence", ""), str) and isinstance(config.get("sha256"), dict)
    parameters = config.get("parameters")
    if not texts or not isinstance(parameters, int) or not 0 <= parameters <= MOST_PARAMETERS:
        raise CheckpointError(
            f"{path}: parameters, licence or sha256 are missing or of another kind; "
            "fetch the model's folder again"
        )
    return config


def configuration(folder: Path) -> dict[str, Any]:
    """What a published model's would say, else that of a checkpoint's folder, as `read_config`."""
    config = published.described(folder)
    if config is None:
        config = read_config(folder)
        config.pop("published", None)  # nobody else may say so
    return config


def form_of(name: str, form: str) -> bool:
    """Whether a prepared form is that of the model of this name, not of another folder."""
    return re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{16}}", form) is not None


def form_name(folder: Path) -> str:
    """What is prepared from a folder is called so: adapters of all runs lie in a folder `model`."""
    if folder.resolve().parent in {parent.resolve() for parent in model_folders()}:
        return folder.name
    return f"{folder.name}-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]}"


def family(config: Mapping[str, Any]) -> str:
    """The name of a checkpoint's family."""
    return str(config.get("family", "talaria"))


def settings(config: Mapping[str, Any], where: Path) -> Settings:
    """A checkpoint's settings: its own, else those of its shape, else the defaults."""
    derived = import_module(FAMILIES[family(config)]).settings_of(config, where)
    try:
        return Settings(**{**derived, **config.get("decoding", {})})
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: its decoding settings cannot be used ({error}); "
            "correct them, or remove them to use the defaults"
        ) from error


def read(model: str | Path | None, device: str) -> tuple[Path, dict[str, Any], bytes]:
    """A model's folder and configuration, its files verified, and the bytes of its own weights.

    Raises CheckpointError, with the remedy, when the folder is missing, damaged or of another
    format, or the device has no valid name.
    """
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", device):
        raise CheckpointError(f"device {device!r} cannot be used; give cpu, mps, cuda or cuda:N")
    folder = model if isinstance(model, Path) else find(model)
    files.restore_folder(folder)
    config = configuration(folder)
    config["form"] = config.get("published") or form_name(folder)
    if family(config) not in FAMILIES:
        raise CheckpointError(
            f"{folder / CONFIG}: family {family(config)!r} is unknown; "
            f"this program knows {', '.join(FAMILIES)}"
        )
    hashes = config.get("sha256", {})
    own = ADAPTER if "base" in config else WEIGHTS
    parts = _in_order(name for name in hashes if name.startswith(own))
    if not parts and "base" not in config:  # a base may be used as it is, without an adapter
        parts = [own]
    for name in (*parts, *[TOKENIZER] * ("base" not in config)):
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"{path}: missing; fetch the model's folder again")
        if digest(path) != hashes.get(name):
            raise CheckpointError(
                f"{path}: damaged, its SHA-256 is not the one in {CONFIG} "
                f"({path.stat().st_size} bytes found); fetch the model's folder again"
            )
    return folder, config, b"".join((folder / name).read_bytes() for name in parts)


def load(
    model: str | Path | None = None,
    device: str = "cpu",
    on_progress: Callable[[float], None] = lambda done: None,
    on_note: Callable[[str], None] = lambda line: None,
) -> Checkpoint:
    """Load a model for decoding, after checking its format, hashes and shapes.

    A base is prepared when it is loaded for the first time, which takes a while: `on_progress`
    gets the fraction that is done. A folder that another process replaces meanwhile is read again.
    Where no model is named and the default cannot be loaded, the embedded one is, and `on_note`
    gets a line that says why.

    Raises CheckpointError, with the remedy, when the folder is missing, damaged or of another
    format, its base is missing, there is too little memory, or the device is not available.
    """
    if model is None and default() != EMBEDDED:
        try:
            return load(default(), device, on_progress, on_note)
        except CheckpointError as error:
            on_note(f"{error}; going on with {EMBEDDED}")
            model = EMBEDDED
    folder = model if isinstance(model, Path) else find(model)
    for _ in range(READINGS):
        before = files.version(folder)
        try:
            found = _load(folder, device, on_progress, on_note)
        except CheckpointError:
            if files.version(folder) == before:
                raise
        else:
            if files.version(folder) == before:
                return found
    raise CheckpointError(f"{folder}: another process keeps replacing it; try again later")


def _load(
    folder: Path,
    device: str,
    on_progress: Callable[[float], None],
    on_note: Callable[[str], None],
) -> Checkpoint:
    """Load a folder's model, as `load` does; parts of it may be of two versions of the folder."""
    folder, config, weights = read(folder, device)
    module = import_module(FAMILIES[family(config)])
    chosen = settings(config, folder / CONFIG)
    kind, loader = "a whole folder", getattr(module, "load", None)
    if "base" in config:
        kind, loader = "an adapter", getattr(module, "load_adapted", None)
    if loader is None:
        raise CheckpointError(
            f"{folder / CONFIG}: the family {family(config)!r} cannot be loaded from {kind}; "
            "check `family` and `base`"
        )
    try:
        if "base" in config:
            base = partial(find_base, config, folder / CONFIG)
            if "published" in config:
                base = partial(Path, folder)
            parts = loader(folder, config, weights, base, device, on_progress)
        else:
            parts = loader(folder, config, weights, device)
    except MemoryError as error:
        raise CheckpointError(
            f"{folder.name}: too little memory to load it; close other programs, or choose a "
            "smaller model"
        ) from error
    backbone, tokenizer, layout = parts
    if (accepted := config.get("accepted")) and "lookahead" not in config.get("decoding", {}):
        chosen = replace(chosen, lookahead=backbone.lookahead(accepted))
        if chosen.lookahead == 1:
            on_note(
                f"{folder.name}: on this machine, masks take more time than they save; it writes a "
                "token a step (--lookahead changes that)"
            )
    backbone.name = folder.name
    tokenizer.prepare()
    schedule = getattr(backbone, "schedule", None)
    return Checkpoint(backbone, tokenizer, layout, chosen, folder.name, config, schedule)
