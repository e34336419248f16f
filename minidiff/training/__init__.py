"""State, step, fit loop and checkpoints."""
