"""Compare engines that run a decoder of a base's shape on a CPU, with random weights.

`python -m benchmarks.base_engines` measures passes of several widths behind a context, and a
context read anew, each engine in processes of its own, in rounds, and prints a Markdown table. It
covers ONNX Runtime and whatever else is installed: torch, OpenVINO (`pip install openvino`), and
llama.cpp's own benchmark where `--llama-bench` names that program and `--gguf` a base's files.
`docs/decisions/0011-base-engine.md` has the figures.

Only the blocks and the last norm are computed, llama.cpp's runs apart, which end with one row of
logits. Two conditions are measured too. A position's result must not depend on what else is in its
pass, else a reused context is not a fresh one; and attention must take any mask, since a canvas
sees its context and, in both directions, itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import base_graphs
from talaria.coder import files
from talaria.coder.arguments import Parser
from talaria.coder.backbone import Array
from talaria.coder.cli import guarded
from talaria.coder.errors import UsageError
from talaria.coder.families.qwen2 import rotary_turns
from talaria.evals.jsonl import environment
from talaria.evals.timing import load_average, peak_memory

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int

CONTEXT = 384
WIDTHS = (1, 4, 8, 16, 32)
ANEW = "384 anew"
READY = "ready"  # marks a folder of weights as complete

# The package that each engine needs, by its name; the reference comes first.
ENGINES = {
    "ONNX Runtime float32": "onnxruntime",
    "ONNX Runtime int8, U8S8, 7-bit weights": "onnxruntime",
    "ONNX Runtime int8, U8U8": "onnxruntime",
    "ONNX Runtime int8, one scale a pass": "onnxruntime",
    "ONNX Runtime MatMulNBits 8": "onnxruntime",
    "ONNX Runtime MatMulNBits 4": "onnxruntime",
    "OpenVINO float32": "openvino",
    "OpenVINO int8 weights": "openvino",
    "OpenVINO int8 weights, bfloat16": "openvino",
    "torch float32": "torch",
    "torch bfloat16": "torch",
    "torch int8, one scale a pass": "torch",
}


@dataclass(frozen=True)
class Pass:
    """The inputs of a pass: `ids` at `positions`, behind keys and values of a context.

    visible  which of the context's tokens and these each one sees
    past     keys of all layers, then values, each [1, kv heads, past, size]
    """

    ids: Int[Array, "1 length"]
    positions: Int[Array, "1 length"]
    visible: Bool[Array, "1 1 length total"]
    past: tuple[Array, ...]


# An engine that is ready: computes the states of a pass, [length, width].
Compute = Callable[[Pass], "Float[Array, 'length width']"]


def a_pass(length: int, past: int, *, causal: bool = True, seed: int = 0) -> Pass:
    """Return a pass over random tokens; the first tokens and the context depend on no length."""
    rng = np.random.default_rng(seed)
    size = (2 * base_graphs.BASE.layers, 1, base_graphs.BASE.kv_heads, past, base_graphs.BASE.size)
    cached = tuple(rng.standard_normal(size, dtype=np.float32))
    ids = rng.integers(0, base_graphs.BASE.vocab_size, CONTEXT)[None, :length]
    visible = np.ones((1, 1, length, past + length), bool)
    if causal:
        visible = np.tri(length, past + length, past, dtype=bool)[None, None]
    return Pass(ids, past + np.arange(length)[None], visible, cached)


def prepare(name: str, folder: Path) -> None:
    """Write what an engine maps when it starts."""
    engine, precision = split(name)
    if engine != "torch":
        base_graphs.write_graph(folder, base_graphs.PRODUCTS[precision])
        return
    import torch

    kind = torch.bfloat16 if precision == "bfloat16" else torch.float32
    keys = base_graphs.BASE.kv_heads * base_graphs.BASE.size
    parts = {"qkv": ("attn_q", "attn_k", "attn_v"), "out": ("attn_output",)}
    parts |= {"up": ("ffn_gate", "ffn_up"), "down": ("ffn_down",)}
    rows = {"qkv": [base_graphs.BASE.width, keys, keys], "up": [base_graphs.BASE.hidden] * 2}
    weights = {"token_embd.weight": torch.from_numpy(base_graphs.embedding())}
    weights["output_norm.weight"] = torch.ones(base_graphs.BASE.width)
    for layer, group, matrix in base_graphs.matrices():
        whole = torch.from_numpy(np.ascontiguousarray(matrix.T))
        divided = torch.split_with_sizes(whole, rows.get(group, [base_graphs.BASE.width]))
        for part, value in zip(parts[group], divided, strict=True):
            weights[f"blk.{layer}.{part}.weight"] = value
            if group == "qkv":
                weights[f"blk.{layer}.{part}.bias"] = torch.zeros(len(value))
        for norm in ("attn_norm", "ffn_norm"):
            weights[f"blk.{layer}.{norm}.weight"] = torch.ones(base_graphs.BASE.width)
    torch.save({name: one.to(kind) for name, one in weights.items()}, folder / "weights.pt")


def split(name: str) -> tuple[str, str]:
    """Split an engine's name into program and precision."""
    program = next(one for one in ("ONNX Runtime", "OpenVINO", "torch") if name.startswith(one))
    return program, name[len(program) + 1 :]


def start(name: str, folder: Path) -> Compute:
    """Return the engine, ready to compute."""
    engine, precision = split(name)
    starts = {"ONNX Runtime": start_runtime, "OpenVINO": start_openvino, "torch": start_torch}
    return starts[engine](folder, precision)


def named(given: Pass) -> dict[str, Array]:
    """Return the inputs of a graph by name."""
    from talaria.coder.families.onnx_graph import names

    cos, sin = rotary_turns(base_graphs.BASE, given.positions)
    past = zip(names("past_key", "past_value", base_graphs.BASE.layers), given.past, strict=True)
    return {"ids": given.ids, "cos": cos, "sin": sin, "visible": given.visible, **dict(past)}


def start_runtime(folder: Path, _: str) -> Compute:
    """ONNX Runtime, set up as Talaria does."""
    import onnxruntime

    from talaria.coder.families.onnx_graph import SPIN, threads

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads()
    options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN))
    session = onnxruntime.InferenceSession(
        folder / "model.onnx", options, providers=["CPUExecutionProvider"]
    )
    outputs = [one.name for one in session.get_outputs()]

    def compute(given: Pass) -> Array:
        found: Array = session.run(outputs, named(given))[0][0]
        return found

    return compute


def start_openvino(folder: Path, precision: str) -> Compute:
    """OpenVINO, with activations rounded to int8 row by row where the processor suits it."""
    import openvino

    from talaria.coder.families.onnx_graph import threads

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads(),
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision.endswith("bfloat16") else "f32",
        # The largest number stands for whole rows.
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0" if precision == "float32" else str(2**64 - 1),
    }
    model = core.read_model(folder / "model.onnx")
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def compute(given: Pass) -> Array:
        request.infer(named(given), share_inputs=True)
        found: Array = request.get_tensor("hidden").data[0].copy()
        return found

    return compute


def start_torch(folder: Path, precision: str) -> Compute:
    """torch, eager; int8 quantises at the start."""
    import torch
    import torch.nn.functional as F

    from talaria.coder.families.onnx_graph import threads
    from talaria.coder.families.qwen2_torch import Qwen2

    torch.set_num_threads(threads())
    with torch.device("meta"):
        model = Qwen2(base_graphs.BASE)
    model.load_state_dict(torch.load(folder / "weights.pt", mmap=True), assign=True)
    model.requires_grad_(False).eval()
    if precision.startswith("int8"):
        quantise: Any = torch.ao.quantization.quantize_dynamic
        model = quantise(model, {torch.nn.Linear}, torch.qint8)

    def compute(given: Pass) -> Array:
        past = [torch.from_numpy(one) for one in given.past]
        visible = torch.from_numpy(given.visible)
        x = model.token_embd(torch.from_numpy(given.ids))

        def attend(layer: int, q: Any, k: Any, v: Any) -> Any:
            k = torch.cat((past[layer].to(k), k), 2)
            v = torch.cat((past[base_graphs.BASE.layers + layer].to(v), v), 2)
            return F.scaled_dot_product_attention(q, k, v, visible, enable_gqa=True)

        states = model.run_embedded(x, torch.from_numpy(given.positions), attend)
        found: Array = states[0].float().numpy()
        return found

    return compute


def measure(name: str, folder: Path, repeats: int) -> dict[str, Any]:
    """In a fresh process, measure the start (s), passes (ms), memory (MB) and both conditions."""
    began = time.perf_counter()
    compute = start(name, folder)
    first = a_pass(1, CONTEXT)
    compute(first)
    started = time.perf_counter() - began
    passes = {str(width): a_pass(width, CONTEXT) for width in WIDTHS}
    times = {key: milliseconds(compute, one, repeats) for key, one in passes.items()}
    times[ANEW] = milliseconds(compute, a_pass(CONTEXT, 0), max(3, repeats // 4))
    found = {"times": times, "start": started, "peak": peak_memory() / 1e6, "own": own_memory()}
    return {**found, **conditions(compute), "states": compute(passes["8"]).tolist()}


def milliseconds(compute: Compute, given: Pass, repeats: int) -> list[float]:
    """Return the times of repeated passes, after two that warm up."""
    times = []
    for turn in range(repeats + 2):
        began = time.perf_counter()
        compute(given)
        if turn >= 2:
            times.append(1000 * (time.perf_counter() - began))
    return times


def own_memory() -> float | None:
    """Return the memory of this process that is no mapped file, in MB, where the system tells."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return None
    return next(
        int(line.split()[1]) * 1024 / 1e6
        for line in status.splitlines()
        if line.startswith("RssAnon:")
    )


def conditions(compute: Compute) -> dict[str, float]:
    """Return largest differences of states, relative to the largest state; 0: equal to the bit.

    neighbours  of the first three of eight positions, when the five behind them change
    width       of the first positions of passes of several widths, against the widest
    alone       of the first position of the widest pass, against a pass of its own
    canvas      of the first of eight that all see each other, when the last one changes
    """
    eight = a_pass(8, CONTEXT)
    states = compute(eight)
    scale = float(np.abs(states).max())

    def difference(one: Array, other: Array) -> float:
        return float(np.abs(one - other).max()) / scale

    def changed(given: Pass, kept: int) -> Pass:
        ids = given.ids.copy()
        ids[:, kept:] = (ids[:, kept:] + 1) % base_graphs.BASE.vocab_size
        return Pass(ids, given.positions, given.visible, given.past)

    widest = compute(a_pass(max(WIDTHS), CONTEXT))

    def against_widest(width: int) -> float:
        return difference(compute(a_pass(width, CONTEXT)), widest[:width])

    canvas = a_pass(8, CONTEXT, causal=False)
    return {
        "neighbours": difference(states[:3], compute(changed(eight, 3))[:3]),
        "width": max(against_widest(width) for width in (2, 3, 8, 16)),
        "alone": against_widest(1),
        "canvas": difference(compute(canvas)[:1], compute(changed(canvas, 7))[:1]),
    }


def llama_bench(program: Path, model: Path, repeats: int) -> dict[str, Any]:
    """Measure llama.cpp by its own benchmark, whose times it gives in nanoseconds."""
    from talaria.coder.families.onnx_graph import threads

    given = [program, "-m", model, "-t", threads(), "-n", 0, "-o", "json"]
    widths = ["-p", ",".join(map(str, WIDTHS)), "-d", CONTEXT, "-r", repeats]
    times: dict[str, list[float]] = {}
    began = time.perf_counter()
    bench([*given, "-p", 1, "-r", 1, "--no-warmup"])
    started = time.perf_counter() - began
    for settings in (widths, ["-p", CONTEXT, "-r", max(3, repeats // 4)]):
        runs, peak = bench([*given, *settings])
        for run in runs:
            key = ANEW if run["n_depth"] == 0 else str(run["n_prompt"])
            times[key] = [one / 1e6 for one in run["samples_ns"]]
    return {"times": times, "start": started, "peak": peak, "own": None}


def bench(command: Sequence[object]) -> tuple[list[dict[str, Any]], float]:
    """Run llama-bench; returns its runs and its peak of memory in MB."""
    words = [str(word) for word in command]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise UsageError(f"{words[0]} ended with {process.returncode}; run it by hand to see why")
    return json.loads(printed), usage.ru_maxrss * 1024 / 1e6


def summary(name: str, rounds: Sequence[dict[str, Any]], reference: Array | None) -> dict[str, Any]:
    """Return an engine's figures over all rounds; times as 25, 50 and 75 %."""
    times = {
        key: [
            float(q)
            for q in np.percentile([t for one in rounds for t in one["times"][key]], (25, 50, 75))
        ]
        for key in rounds[0]["times"]
    }
    found: dict[str, Any] = {"engine": name, "times": times}
    for key in ("start", "peak", "own"):
        values = [one[key] for one in rounds if one[key] is not None]
        found[key] = statistics.median(values) if values else None
    for key in ("neighbours", "width", "alone", "canvas"):
        found[key] = max(one[key] for one in rounds) if key in rounds[0] else None
    found["error"] = None
    if reference is not None and "states" in rounds[0]:
        error = np.linalg.norm(np.array(rounds[0]["states"]) - reference)
        found["error"] = float(error / np.linalg.norm(reference))
    return found


def table(found: Sequence[dict[str, Any]]) -> list[str]:
    """Format the figures as lines of Markdown: medians, quartiles in brackets."""
    columns = [*map(str, WIDTHS), ANEW]
    heads = ["engine", *columns, "start, s", "peak, MB", "own, MB"]
    heads += ["neighbours", "width", "alone", "canvas", "error"]

    def time_cell(quartiles: Sequence[float]) -> str:
        digits = 0 if quartiles[1] >= 100 else 1
        low, median, high = (f"{one:,.{digits}f}" for one in quartiles)
        return f"{median} ({low} – {high})"

    def cell(value: float | None, form: str) -> str:
        return "" if value is None else "0" if value == 0 else format(value, form)

    rows = []
    for one in found:
        row = [one["engine"], *(time_cell(one["times"][key]) for key in columns)]
        row += [cell(one["start"], ".2f"), cell(one["peak"], ",.0f"), cell(one["own"], ",.0f")]
        row += [cell(one[key], ".0e") for key in ("neighbours", "width", "alone")]
        row += ["" if one["canvas"] is None else "yes" if one["canvas"] else "no"]
        rows.append([*row, cell(one["error"], ".1%")])
    lines = [heads, ["---"] * len(heads), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line."""
    parser = Parser(description="Measure engines at the shape of a base.")
    parser.add_argument("--engines", nargs="+", metavar="NAME", help=f"of {'; '.join(ENGINES)}")
    parser.add_argument("--rounds", type=int, default=2, metavar="N")
    parser.add_argument("--repeats", type=int, default=12, metavar="N", help="passes of each width")
    parser.add_argument(
        "--weights", type=Path, metavar="FOLDER", help="keep prepared weights there: 5 GB"
    )
    parser.add_argument("--llama-bench", type=Path, metavar="PROGRAM")
    parser.add_argument("--gguf", type=Path, nargs="+", default=[], metavar="FILE")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    args = parser.parse_args(argv)
    for name in ("rounds", "repeats"):
        if getattr(args, name) < 1:
            raise UsageError(f"--{name} is {getattr(args, name)}; it must be at least 1")
    chosen = list(ENGINES) if args.engines is None else args.engines
    if unknown := [name for name in chosen if name not in ENGINES]:
        raise UsageError(f"--engines has {unknown[0]!r}; it must be of {'; '.join(ENGINES)}")
    absent = [name for name in chosen if not importlib.util.find_spec(ENGINES[name])]
    for name in absent:
        print(f"{name}: skipped, as {ENGINES[name]} is not installed", file=sys.stderr)
    args.engines = [name for name in chosen if name not in absent]
    if bool(args.gguf) != bool(args.llama_bench):
        raise UsageError("--llama-bench and --gguf go together: llama.cpp's program and its files")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print a table; exit code 0."""
    args = arguments(argv)
    rounds: dict[str, list[dict[str, Any]]] = {}

    def keep(name: str, run: dict[str, Any]) -> None:
        rounds.setdefault(name, []).append(run)
        times = [f"{statistics.median(times):.0f}" for times in run["times"].values()]
        print(f"{name}: {', '.join(times)} ms", file=sys.stderr)

    load = [load_average()]
    spawn = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        kept = args.weights or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in args.engines:
            if not (kept / name / READY).exists():
                (kept / name).mkdir(parents=True, exist_ok=True)
                with ProcessPoolExecutor(1, mp_context=spawn) as process:
                    process.submit(prepare, name, kept / name).result()
                (kept / name / READY).touch()
        for _ in range(args.rounds):
            for name in args.engines:
                with ProcessPoolExecutor(1, mp_context=spawn) as process:
                    run = process.submit(measure, name, kept / name, args.repeats).result()
                keep(name, run)
            for model in args.gguf:
                run = llama_bench(args.llama_bench, model, args.repeats)
                keep(f"llama.cpp {model.stem}", run)
    load.append(load_average())
    first = rounds.get(next(iter(ENGINES)))
    reference = np.array(first[0]["states"]) if first else None
    found = [summary(name, runs, reference) for name, runs in rounds.items()]
    print("\n".join(table(found)))
    if args.json is not None:
        known = {"environment": environment(), "load": load, "engines": found}
        files.write(args.json, json.dumps(known))
    return 0


if __name__ == "__main__":
    sys.exit(guarded("base_engines", main))
