"""Measuring a model: exact matches on held-out code and on infilling benchmarks."""
