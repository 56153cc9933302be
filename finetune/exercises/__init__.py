"""`talaria exercises`: small, described functions, composed at random and proven by running them."""

from __future__ import annotations

from talaria.finetune.exercises.build import main

__all__ = ["main"]
