"""Benchmarks of hullforge against bounds and named peers: `python -m benchmarks --list`."""
