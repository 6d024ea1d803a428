"""How much is computed at once, in which order, and by which thread."""
