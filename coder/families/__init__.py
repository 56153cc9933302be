"""Families of models: one module each for what only that family does."""
