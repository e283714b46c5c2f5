"""Recipes applied by each engine's own quantizer, one file an engine."""
