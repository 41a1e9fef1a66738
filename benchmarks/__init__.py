"""Benchmarks of merak: one folder a claim, the formula beside the number."""
