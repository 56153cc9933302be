"""The wire formats, one a module; another is another module and another line here."""

from __future__ import annotations

from talaria.coder.serve.exchange import Format
from talaria.coder.serve.formats import llama_cpp, mercury, openai

FORMATS: dict[str, Format] = {
    "/infill": llama_cpp,
    "/v1/completions": openai,
    "/v1/fim/completions": mercury,
}
