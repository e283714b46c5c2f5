"""Finding products on the device: words, pieces of words and vectors over one catalogue, all memory-mapped."""
