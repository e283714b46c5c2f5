"""Which item comes next: item vectors, counted transitions, and vectors for items that nobody has bought yet."""
