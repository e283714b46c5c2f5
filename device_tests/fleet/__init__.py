"""The fleet under attack: power cuts at every step, bad servers, replays, and what it costs."""
