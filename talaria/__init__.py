"""Fill in code by diffusion: the names that other programs may rely on."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from talaria.coder.checkpoint import load
    from talaria.coder.infill import infill
    from talaria.coder.request import Options

__version__ = "0.1.0"  # the build reads it too, so that a checkout and a wheel agree

# Installed, `coder` and its siblings lie in this folder; in a checkout, beside it, so that it works
# without an installation and always runs its own code.
_HERE = os.path.dirname(os.path.abspath(__file__))
if not os.path.isdir(os.path.join(_HERE, "coder")):
    __path__.append(os.path.dirname(_HERE))

_HOMES = {
    "Options": "talaria.coder.request",
    "infill": "talaria.coder.infill",
    "load": "talaria.coder.checkpoint",
}
__all__ = ["Options", "infill", "load"]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used: the command line must start at once."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
