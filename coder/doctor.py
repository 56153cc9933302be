"""`talaria doctor`: what a bug report needs."""

from __future__ import annotations

import os
import platform
import sys
import time
from importlib import metadata

from talaria import __version__
from talaria.coder.arguments import Parser
from talaria.coder.errors import TalariaError

NEEDED = (
    "gguf",
    "httpx2",
    "huggingface_hub",
    "numpy",
    "onnx",
    "onnxruntime",
    "tokenizers",
    "safetensors",
    "tree-sitter",
    "tree-sitter-python",
    "pathspec",
    "pygls",
)


def command(argv: list[str]) -> int:
    """`talaria doctor`: versions, machine, model and a timed infill; exit code 1 if it fails."""
    parser = Parser(prog="talaria doctor", description="For a bug report.")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)

    print(f"talaria        {__version__}")
    print(f"python         {platform.python_version()} ({sys.executable})")
    print(f"system         {platform.platform()}, {os.cpu_count()} cores")
    for name in (*NEEDED, "torch"):
        try:
            print(f"{name:14} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            absent = "missing" if name in NEEDED else "none (needed for training and GPUs only)"
            print(f"{name:14} {absent}")
    try:
        examine(args.model, args.device)
    except ImportError as error:
        raise TalariaError(
            f"{error.name or error} cannot be imported ({error}); install it again: "
            "pipx reinstall talaria-code, or in a clone: pip install --force-reinstall "
            "-c constraints.txt -e ."
        ) from error
    return 0


def examine(name: str | None, device: str) -> None:
    """Print what the grammar and the model do on this machine."""
    from talaria.coder.syntax.tree import count_errors

    right, wrong = (count_errors(text) for text in ("f(1)\n", "f(1\n"))
    print(f"grammar        {right} errors in a right text, {wrong} in a wrong one")
    began = time.perf_counter()
    from talaria.coder.answers import summary
    from talaria.coder.infill import fill
    from talaria.coder.loading import load
    from talaria.coder.request import Request

    imported = time.perf_counter()
    print(f"import         {imported - began:.2f} s")
    print(f"devices        {', '.join(devices())}")
    began = time.perf_counter()
    model = load(name, device)
    loaded = time.perf_counter() - began
    parameters = model.config["parameters"]
    size = f"{parameters / 1e6:.1f}M parameters" if parameters else "as it was published"
    print(
        f"model          {model.name}, {size}, "
        f"loaded in {loaded:.2f} s; {model.backbone.threads} threads"
    )
    request = Request("def mean(values):\n    return ", "\n")
    result = fill(model, request)
    print(f"infill         {summary(result, request, model.settings)}: {result.best.text!r}")


def devices() -> list[str]:
    """Where models can run: "cpu", and what torch finds if it is installed."""
    try:
        import torch
    except ModuleNotFoundError:
        return ["cpu"]
    found = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    return ["cpu", *(name for name, there in found.items() if there)]
