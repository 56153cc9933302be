"""Engines compute the same passes, and the benchmark tells exact ones from others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import base_engines, base_graphs
from benchmarks.base_engines import ANEW, ENGINES, WIDTHS, a_pass, conditions, measure, prepare
from talaria.coder.backbone import Array
from talaria.coder.errors import UsageError

QUANTISED = [name for name in ENGINES if name.startswith("ONNX Runtime")][1:]


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base of two small layers, behind a context of 40 tokens."""
    small = replace(base_graphs.BASE, layers=2, width=64, heads=2, kv_heads=1, hidden=128)
    monkeypatch.setattr(base_graphs, "BASE", small)
    monkeypatch.setattr(base_engines, "CONTEXT", 40)


def states(name: str, folder: Path) -> Array:
    """What an engine computes for eight positions behind the context."""
    prepare(name, folder)
    return base_engines.start(name, folder)(a_pass(8, 40))


@pytest.mark.parametrize("name", ["torch float32", *QUANTISED])
def test_engines_compute_the_same(name: str, tmp_path: Path) -> None:
    """torch equals ONNX Runtime in float32; quantised weights come near."""
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    exact = states("ONNX Runtime float32", tmp_path / "one")
    found = states(name, tmp_path / "other")
    error = np.linalg.norm(found - exact) / np.linalg.norm(exact)
    largest = 1e-5 if name == "torch float32" else 0.3 if name.endswith("4") else 0.1
    assert error < largest
    assert (error > 0) == (name != "ONNX Runtime float32")


@pytest.mark.parametrize(
    ("name", "alone"),
    [
        ("ONNX Runtime int8, U8S8, 7-bit weights", True),
        ("ONNX Runtime int8, U8U8", True),
        ("ONNX Runtime int8, one scale a pass", False),
    ],
)
def test_a_scale_for_each_row_keeps_positions_apart(name: str, alone: bool, tmp_path: Path) -> None:
    """To the bit; one scale for the whole pass does not. Both see a whole canvas."""
    prepare(name, tmp_path)
    found = conditions(base_engines.start(name, tmp_path))
    assert (found["neighbours"] == 0) == alone
    assert found["canvas"] > 0


def test_figures_of_an_engine(tmp_path: Path) -> None:
    """A measured engine has every width; its row tells quartiles, conditions and error."""
    name = "ONNX Runtime float32"
    prepare(name, tmp_path)
    found = measure(name, tmp_path, 4)
    assert list(found["times"]) == [*map(str, WIDTHS), ANEW]
    assert len(found["times"]["8"]) == 4
    found["times"]["8"] = [1.0, 2.0, 3.0, 4.0, 5.0]
    one = base_engines.summary(name, [found, found], np.array(found["states"]) * 2)
    assert one["times"]["8"] == [2.0, 3.0, 4.0]
    head, _, row = base_engines.table([one])
    cells = dict(zip(head.split(" | "), row.split(" | "), strict=True))
    assert cells["8"] == "3.0 (2.0 – 4.0)"
    assert (cells["neighbours"], cells["canvas"]) == ("0", "yes")
    assert row.endswith("| 50.0% |")


def test_llama_cpp_is_measured_by_its_own_program(tmp_path: Path) -> None:
    """Its JSON becomes milliseconds by width; what fails is said in one line."""
    program = tmp_path / "llama-bench"
    runs = [
        {"n_prompt": 8, "n_depth": 40, "samples_ns": [2e6, 3e6]},
        {"n_prompt": 40, "n_depth": 0, "samples_ns": [9e6]},
    ]
    program.write_text(f"#!/bin/sh\necho '{json.dumps(runs)}'\n")
    program.chmod(0o755)
    found = base_engines.llama_bench(program, tmp_path / "base.gguf", 2)
    assert found["times"] == {"8": [2.0, 3.0], ANEW: [9.0]}
    program.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(UsageError, match="llama-bench ended with 3; run it by hand"):
        base_engines.llama_bench(program, tmp_path / "base.gguf", 2)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("--engines", "fast"), "--engines has 'fast'; it must be of ONNX Runtime float32"),
        (("--repeats", "0"), "--repeats is 0; it must be at least 1"),
        (("--gguf", "a"), "--llama-bench and --gguf go together"),
    ],
)
def test_wrong_options_of_base_engines(given: tuple[str, ...], reason: str) -> None:
    """They are refused before anything is prepared."""
    with pytest.raises(UsageError, match=reason):
        base_engines.main(given)
