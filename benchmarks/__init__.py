"""Benchmarks: how long the fused operations take, and how much memory, against what a user would write instead."""
