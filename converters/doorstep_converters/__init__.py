"""The workshop: from a checkpoint to a bundle that was proven against it. Server side; torch lives only here."""
