"""Comparisons with what other projects do."""
