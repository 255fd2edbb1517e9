"""Weights in files: every format that is read or written, and what became of each array."""
