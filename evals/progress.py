"""Progress bars on standard error."""

from __future__ import annotations

import sys
from typing import Any


def progress(total: int, unit: str) -> Any:
    """Return a bar that shows the rate and the time left; callers may append a running score."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, file=sys.stderr)
