"""Benchmarks of the room `planner`."""
