"""The workshop's verbs."""
