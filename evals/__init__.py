"""Measure a model: exact matches on held-out code, infilling benchmarks, typing, latency."""
