"""Find out that a library is missing before a command starts to work, not hours into it."""

from __future__ import annotations

from importlib.util import find_spec

from talaria.coder.errors import TalariaError


def require(*names: str) -> None:
    """Raise TalariaError if any of these modules is not installed; loads none of them."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise TalariaError(
            f"this command needs {', '.join(missing)}; install the extra `eval`: "
            "make test, or pip install -e '.[eval]'"
        )
