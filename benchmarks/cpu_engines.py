"""Compare engines that run the same weights on a CPU.

`python -m benchmarks.cpu_engines` measures each engine in a process of its own, in rounds, and
prints a table. It includes OpenVINO where that is installed, and needs torch (the extra `train`).
`docs/decisions/0006-cpu-engine.md` has the figures and the decision.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded
from talaria.evals.suites import Problem
from talaria.evals.tables import columns

if TYPE_CHECKING:
    from talaria.coder.backbone import Array, Backbone
    from talaria.coder.families.talaria import TransformerConfig
    from talaria.finetune.trainable import Trainable

CONTEXT = 384  # tokens
REPEATS = {"canvas 32": 60, "canvas 8": 60, "ar step": 60, "fresh": 15}
# The package that each engine needs.
ENGINES = {
    "torch fp32": "torch",
    "torch bf16": "torch",
    "torch int8": "torch",
    "ONNX Runtime fp32": "onnxruntime",
    "ONNX Runtime int8": "onnxruntime",
    "OpenVINO fp32": "openvino",
    "OpenVINO bf16": "openvino",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table, or JSON; exit code 0."""
    parser = Parser(description="Measure the latency and the agreement of engines on this CPU.")
    parser.add_argument("--model", help="a folder, or a name from `talaria models`")
    parser.add_argument("--rounds", type=int, default=3, metavar="N")
    parser.add_argument(
        "--prompts", type=int, default=30, metavar="N", help="number to compare texts on"
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    present = [name for name, needs in ENGINES.items() if importlib.util.find_spec(needs)]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in present}
    for number in range(args.rounds):
        for name in present:
            print(f"round {number + 1} of {args.rounds}: {name}", file=sys.stderr)
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=context) as process:
                prompts = args.prompts if number == 0 else 0
                found[name].append(process.submit(measure, name, args.model, prompts).result())
    texts = found["torch fp32"][0]["texts"]
    table = []
    for name, rounds in found.items():
        row: dict[str, Any] = {
            key: statistics.median(one[key] for one in rounds)
            for key in (*REPEATS, "start s", "memory MB")
        }
        row["package MB"] = package_megabytes(ENGINES[name]) if name[:5] != "torch" else 0
        own = rounds[0]["texts"]
        row["same text"] = sum(a == b for a, b in zip(own, texts, strict=True)) / len(texts)
        table.append({"engine": name, **row})
    if args.json:
        print(json.dumps(table))
        return 0
    heads = list(table[0])
    rows = [[str(row["engine"]), *(f"{row[head]:.2f}" for head in heads[1:])] for row in table]
    print(columns([heads, *rows]))
    return 0


def measure(name: str, model: str | None, prompts: int) -> dict[str, Any]:
    """In a fresh process, measure the start (s), calls (ms) and peak memory (MB); fill prompts."""
    began = time.perf_counter()
    from talaria.coder.infill import infill
    from talaria.coder.request import Options
    from talaria.evals import prompts as timing_prompts
    from talaria.evals import timing
    from talaria.finetune.trainable import load_trainable

    trainable = load_trainable(model)
    backbone = build(name, trainable)
    started = time.perf_counter() - began
    mask = trainable.tokenizer.mask
    ids = np.random.default_rng(0).integers(0, mask, CONTEXT).tolist()
    _, cache = backbone.encode([ids])

    def canvas(length: int) -> Callable[[], object]:
        masks = np.full((1, length), mask)
        return lambda: backbone.candidates(backbone.denoise(masks, cache, ids[-1:])[0], 1)

    calls: dict[str, Callable[[], object]] = {
        "canvas 32": canvas(32),
        "canvas 8": canvas(8),
        "ar step": lambda: backbone.candidates(backbone.encode([[5]], cache)[0][0], 1),
        "fresh": lambda: backbone.encode([ids]),
    }
    times = {key: milliseconds(call, REPEATS[key]) for key, call in calls.items()}
    peak = timing.peak_memory() / 1e6
    loaded = replace(trainable.decoder(), backbone=backbone)
    problems: list[Problem] = []
    if prompts:
        files, _ = timing_prompts.documents(None)
        problems = timing_prompts.draw_prompts(files, loaded.layout, (CONTEXT,), prompts)
    options = Options(max_tokens=48)
    texts = [infill(loaded, one.prefix, one.suffix, options).best.text for one in problems]
    return {**times, "start s": started, "memory MB": peak, "texts": texts}


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median time of a call after five warm-up calls."""
    times = []
    for turn in range(repeats + 5):
        began = time.perf_counter()
        call()
        if turn >= 5:
            times.append(1000 * (time.perf_counter() - began))
    return statistics.median(times)


def build(name: str, loaded: Trainable) -> Backbone:
    """Return the model on the named engine."""
    import torch

    from talaria.coder.families.talaria_torch import TorchBackbone

    transformer, marks = loaded.transformer, loaded.tokenizer.marks
    engine, _, precision = name.rpartition(" ")
    if engine == "torch":
        if precision == "bf16":
            transformer.to(torch.bfloat16)
            head = transformer.logits  # numpy has no bfloat16
            transformer.logits = lambda hidden: head(hidden).float()  # type: ignore[method-assign]
        if precision == "int8":
            quantise(transformer)
        return TorchBackbone(transformer, marks)
    from talaria.coder.families.talaria_onnx import OnnxTalaria

    weights = {key: tensor.numpy() for key, tensor in transformer.state_dict().items()}
    backbone = OnnxTalaria(transformer.config, weights, marks)
    if precision == "int8":
        graph = whole_graph(transformer.config, weights)
        backbone._passes = RuntimeInt8(graph)  # type: ignore[assignment]
    if engine == "OpenVINO":
        graph = whole_graph(transformer.config, weights)
        backbone._passes = OpenVino(graph, precision)  # type: ignore[assignment]
    return backbone


def quantise(transformer: Any) -> None:
    """Quantise a transformer's matrices by torch's dynamic int8."""
    import torch
    from torch.ao.nn.quantized import dynamic
    from torch.ao.quantization import default_dynamic_qconfig

    for block in transformer.blocks:
        for name in ("qkv", "out", "up", "down"):
            linear = getattr(block, name)
            plain = torch.nn.Linear(linear.in_features, linear.out_features, bias=False)
            plain.weight = linear.weight
            plain.qconfig = default_dynamic_qconfig  # type: ignore[assignment]
            setattr(block, name, dynamic.Linear.from_float(plain))  # type: ignore[no-untyped-call]


def whole_graph(config: TransformerConfig, weights: Mapping[str, Array]) -> bytes:
    """Return the graph of a pass with its weights inside, for engines that need one file."""
    from talaria.coder.families.onnx_graph import interface
    from talaria.coder.families.onnx_messages import tensor
    from talaria.coder.families.talaria_onnx import pass_shape, passes

    graph = passes(config, weights)
    graph.constants |= {name: tensor(name, weight) for name, weight in graph.weights.items()}
    return graph.model(*interface(pass_shape(config, config.layers)))


class RuntimeInt8:
    """ONNX Runtime with dynamic int8 quantisation of matrices, per channel."""

    def __init__(self, graph: bytes) -> None:
        import onnxruntime
        from onnxruntime.quantization import QuantType, quantize_dynamic

        from talaria.coder.families.onnx_graph import SPIN, threads

        with tempfile.TemporaryDirectory() as folder:
            whole, small = Path(folder, "whole.onnx"), Path(folder, "small.onnx")
            whole.write_bytes(graph)
            quantize_dynamic(
                whole,
                small,
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=["MatMul"],
            )
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads()
            options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN))
            self.session = onnxruntime.InferenceSession(
                small, options, providers=["CPUExecutionProvider"]
            )

    def run(self, outputs: list[str], inputs: dict[str, Array]) -> list[Array]:
        """Run the graph, as `onnx_graph.Session` does."""
        given = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        found: list[Array] = self.session.run(outputs, given)
        return found


class OpenVino:
    """The graph compiled by OpenVINO, which always computes all outputs."""

    def __init__(self, graph: bytes, precision: str) -> None:
        import openvino

        from talaria.coder.families.onnx_graph import threads

        core = openvino.Core()
        model = core.read_model(graph)
        settings = {
            "INFERENCE_NUM_THREADS": threads(),
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        self.request = core.compile_model(model, "CPU", settings).create_infer_request()

    def run(self, outputs: list[str], inputs: dict[str, Array]) -> list[Array]:
        """Run the graph, as `onnx_graph.Session` does."""
        given = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        self.request.infer(given, share_inputs=True)
        return [self.request.get_tensor(name).data.copy() for name in outputs]


def package_megabytes(name: str) -> float:
    """Return the disk space of an installed package."""
    files = metadata.files(name) or []
    return sum(Path(file.locate()).stat().st_size for file in files) / 1e6


if __name__ == "__main__":
    sys.exit(guarded("cpu_engines", main))
