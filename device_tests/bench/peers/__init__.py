"""One script a peer, run by its path in an environment of its own; `report.py` is what they share."""
