"""Faster twins of what the taught modules write out, a file for each operation, and who is chosen where."""
