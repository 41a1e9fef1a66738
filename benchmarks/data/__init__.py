"""Benchmarks of the room `data`: `python -m benchmarks.data.dropping` and `python -m benchmarks.data.sampling`."""
