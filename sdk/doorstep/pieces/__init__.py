"""What the parts of an item are that an explanation leaves out: one module a kind of item."""
