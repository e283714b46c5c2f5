"""Adapters, one engine a file. Each has `open_graph(graph, options) -> Session` and knows nothing else."""
