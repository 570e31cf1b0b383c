"""Broken inputs of every kind, and what becomes of each: python -m benchmarks.fuzz."""
