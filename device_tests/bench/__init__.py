"""Benchmarks: ratios of this project against a bare script or a peer, both measured in one run."""
