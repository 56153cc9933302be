"""Write a base in another quantisation, for what llama.cpp's kernels like best.

`python -m benchmarks.requantised BASE.gguf Q4_0 OUT.gguf` reads every matrix in float32 and
quantises it anew, the output matrix and the embedding as Q8_0. What was lost in the first
quantisation stays lost, so such a file says nothing about quality. Metadata and tokenizer are
copied.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType, quants

from talaria.coder.arguments import Parser
from talaria.coder.cli import guarded

KINDS = {
    "Q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "Q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
WIDE = ("token_embd.weight", "output.weight")


def main(argv: Sequence[str] | None = None) -> int:
    """Write the file; exit code 0."""
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("base", type=Path)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("out", type=Path)
    args = parser.parse_args(argv)
    requantise(args.base, args.kind, args.out)
    return 0


def requantise(base: Path, kind: str, out: Path) -> None:
    """Write `base` to `out`, its matrices quantised as `kind`; vectors stay as they are."""
    reader = GGUFReader(base)
    quantisation, file_type = KINDS[kind]
    own = {"general.architecture", "general.file_type", "general.quantization_version"}
    writer = GGUFWriter(out, reader.fields["general.architecture"].contents())
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in own:
            continue
        within = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=within)
    writer.add_file_type(file_type)
    for tensor in reader.tensors:
        values = quants.dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 1:
            writer.add_tensor(tensor.name, values)
            continue
        to = GGMLQuantizationType.Q8_0 if tensor.name in WIDE else quantisation
        writer.add_tensor(tensor.name, quants.quantize(values, to), raw_dtype=to)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    sys.exit(guarded("requantised", main))
